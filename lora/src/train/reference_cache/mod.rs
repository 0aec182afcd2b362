//! Log-probs of a frozen reference: computed when an answer first appears, read afterwards.
//!
//! The reference of a run does not change, and the bits of an answer's log-probs do not depend on the other rows of its pass. So
//! log-probs that were computed once are valid in every later epoch and in every later run of the same model. A pass whose
//! answers are all in the cache has no reference rows. [`Scoring`](super::Scoring) is the only user: it looks answers up before a
//! pass and adds what the pass computes. The cache keeps one f32 for each scored token, as the pass gives it, so a sum over
//! tokens has the bits that it would have without the cache. KTO's mismatched answers are cached like the rows' own answers.
//!
//! | file | holds |
//! |---|---|
//! | `fingerprint.rs` | what a log-prob depends on besides the tokens |
//! | `weights.rs` | the hash of the weights, and whether their files change |
//! | `record.rs` | the format of a cache file |
//! | `file.rs` | the file of a fingerprint: its lock, its sound part, its index |
//! | `error.rs` | why a cache cannot be opened, and the notes about it |
//!
//! | what could go wrong | what happens |
//! |---|---|
//! | the weights are edited in place | their hash covers all bytes. For files of 256 MiB or more it is remembered, and trusted only while device, inode, length, mtime and ctime are the same and 256 blocks of the file have the same bytes. A file written less than ten seconds ago is hashed, and its hash is not remembered |
//! | the weights are edited while a run uses them | every pass checks the open file's times, and its hash if the times differ. If the hash differs too, or if there is none, the cache closes, with a warning that the run's own numbers are affected |
//! | something that the fingerprint does not cover changes | before the first log-prob of an earlier run is used, the answers of one row are computed and compared bit by bit. If they differ, the file's records are dropped, with a note |
//! | a write is interrupted, a file is damaged | every record has a checksum that also covers the checksum of the file's head. The file is cut at the first unsound record, with a note, and a record is checked again when it is read |
//! | two runs use a file at once | the file is locked: the second run reads what was there and keeps new records in memory |
//! | the disk is full | a note; new records stay in memory, in at most a sixteenth of `--memory` (in `score` and `eval`, of its default) |
//! | many models fill the disk | the files of the directory may fill 8 GiB. Those unused for the longest time are removed, with a note, at the start and while a file grows. A single file that reaches 8 GiB gets no new records, with a note |

mod error;
mod file;
mod fingerprint;
mod record;
#[cfg(test)]
mod tests;
mod weights;

pub use error::{CacheError, CacheNote};
pub(super) use record::SequenceKey;

use super::budget::default_cache_limit;
use super::size::Size;
use align_engine::adapters::AdapterSet;
use align_engine::model::Model;
use align_engine::weights::WeightFiles;
use align_kernels::Precision;
use file::{CacheFile, Lookup};
use fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use weights::WatchedWeights;

/// Bytes that the files of one directory may fill. If they have more, the least recently used ones are removed. A single file that
/// reaches the limit gets no new records.
const FOLDER_LIMIT: u64 = 8 << 30;
/// Bytes that one answer in memory needs beside its log-probs: key, pointer and length, the slot in the hash table, the
/// allocator's overhead.
const MEMORY_OVERHEAD: u64 = 64;

/// Where computed log-probs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePlace {
    /// In memory: they are lost when the run ends.
    Memory,
    /// In a file, where later runs find them.
    File,
}

/// How many of the answers that were looked up were read, and how many were computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheCounts {
    /// Read from the cache.
    pub read: u64,
    /// Computed.
    pub computed: u64,
}

/// The log-probs of one reference.
#[derive(Debug)]
pub struct ReferenceCache {
    state: Mutex<State>,
    /// Answers in the file when it was opened. 0 without a file.
    found: usize,
    path: Option<PathBuf>,
}

#[derive(Debug)]
struct State {
    weights: WatchedWeights,
    file: Option<CacheFile>,
    /// Answers that are not in the file.
    memory: InMemory,
    /// Whether log-probs of earlier runs have been compared with this run's. Also true if there are none of earlier runs.
    compared: bool,
    /// Whether files of other fingerprints have been searched for answers that this file lacks. Also true if this file had
    /// answers at the start.
    looked_elsewhere: bool,
    /// Whether the weights have changed, so that no cached number is valid.
    closed: bool,
    counts: CacheCounts,
    notes: Vec<CacheNote>,
}

#[derive(Debug)]
struct InMemory {
    answers: HashMap<SequenceKey, Box<[f32]>>,
    bytes: u64,
    limit: u64,
    full: bool,
}

impl InMemory {
    /// Adds an answer. Returns whether there was room.
    fn add(&mut self, key: SequenceKey, logps: &[f32]) -> bool {
        if !self.answers.contains_key(&key) {
            let bytes = in_memory(1, logps.len() as u64);
            if self.bytes + bytes > self.limit {
                return false;
            }
            self.bytes += bytes;
            self.answers.insert(key, logps.into());
        }
        true
    }
}

/// Returns the bytes that `answers` answers with `tokens` scored tokens in all need in memory.
pub(super) fn in_memory(answers: u64, tokens: u64) -> u64 {
    MEMORY_OVERHEAD * answers + 4 * tokens
}

impl ReferenceCache {
    /// Makes a cache that is only in memory, for the weights in `files`. By default it holds at most a sixteenth of what a run
    /// may hold by default.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the metadata of the weights' files cannot be read.
    pub fn in_memory(files: &WeightFiles) -> Result<ReferenceCache, CacheError> {
        Ok(Self::new(WatchedWeights::unhashed(files)?, None, Vec::new()))
    }

    /// Opens the cache of `model` with the adapter `reference`, if any. The model was loaded from `files`. The cache is a file in
    /// the directory `folder`, which is made if it is missing. One process at a time adds to the file; other processes read what
    /// was there when they opened it.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(
        folder: &Path,
        model: &Model,
        files: &WeightFiles,
        reference: Option<&AdapterSet>,
        precision: Precision,
        logp_temperature: f32,
    ) -> Result<ReferenceCache, CacheError> {
        let io = |action, source| CacheError::Io { path: folder.to_owned(), action, source };
        std::fs::create_dir_all(folder).map_err(|source| io("make this directory", source))?;
        let (weights, hash) = WatchedWeights::hashed(files, folder)?;
        let fingerprint = Fingerprint::new(model, hash, reference, precision, logp_temperature)?;
        Self::with(folder, &fingerprint, weights)
    }

    fn with(folder: &Path, fingerprint: &Fingerprint, weights: WatchedWeights) -> Result<ReferenceCache, CacheError> {
        let mut notes = Vec::new();
        let mut file = CacheFile::open(folder, fingerprint, FOLDER_LIMIT, &mut notes)?;
        notes.extend(file.prune());
        Ok(Self::new(weights, Some(file), notes))
    }

    fn new(weights: WatchedWeights, file: Option<CacheFile>, notes: Vec<CacheNote>) -> ReferenceCache {
        let found = file.as_ref().map_or(0, CacheFile::len);
        let path = file.as_ref().map(|file| file.path().to_owned());
        let memory = InMemory { answers: HashMap::new(), bytes: 0, limit: default_cache_limit(), full: false };
        let state = State {
            weights,
            file,
            memory,
            compared: found == 0,
            looked_elsewhere: found > 0,
            closed: false,
            counts: CacheCounts::default(),
            notes,
        };
        ReferenceCache { state: Mutex::new(state), found, path }
    }

    /// Returns the path of the cache's file. `None` if the cache is only in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns the number of answers in the file when it was opened, 0 without a file.
    pub fn found(&self) -> usize {
        self.found
    }

    /// Returns how many answers were read and computed so far.
    pub fn counts(&self) -> CacheCounts {
        self.state().counts
    }

    /// Returns the notes since the last call.
    pub fn take_notes(&self) -> Vec<CacheNote> {
        std::mem::take(&mut self.state().notes)
    }

    /// Returns where the cache keeps new log-probs. If the run cannot write the file, that is memory.
    pub(super) fn place(&self) -> CachePlace {
        let writes = self.state().file.as_ref().is_some_and(CacheFile::writes);
        if writes { CachePlace::File } else { CachePlace::Memory }
    }

    /// Sets how many bytes of memory the answers may take.
    pub(super) fn limit_memory(&self, bytes: u64) {
        self.state().memory.limit = bytes;
    }

    #[cfg(test)]
    fn memory_limit(&self) -> u64 {
        self.state().memory.limit
    }

    /// Says for each answer whether the cache seems to have it. Only [`ReferenceCache::get`] reads and checks the record.
    pub(super) fn holds(&self, keys: &[SequenceKey]) -> Vec<bool> {
        let state = self.state();
        keys.iter().map(|key| !state.closed && state.holds(key)).collect()
    }

    /// Looks up the answers of a pass, each given with its number of scored tokens. Returns their log-probs, `None` for an answer
    /// that the cache lacks.
    pub(super) fn get(&self, answers: &[(SequenceKey, usize)]) -> Vec<Option<Vec<f32>>> {
        let mut state = self.state();
        state.watch_weights();
        let found: Vec<Option<Vec<f32>>> = answers.iter().map(|(key, n)| state.read(key, *n)).collect();
        let read = found.iter().flatten().count() as u64;
        state.counts.read += read;
        state.counts.computed += found.len() as u64 - read;
        if read == 0 && !std::mem::replace(&mut state.looked_elsewhere, true) {
            let keys: Vec<SequenceKey> = answers.iter().map(|(key, _)| *key).collect();
            let note = state.file.as_ref().and_then(|file| file.other_with(&keys));
            state.notes.extend(note);
        }
        found
    }

    /// Keeps computed log-probs, in the file if this run writes it, otherwise in memory.
    pub(super) fn put(&self, answers: &[(SequenceKey, &[f32])]) {
        let mut state = self.state();
        // new log-probs are kept only if the weights are still those of the fingerprint
        state.watch_weights();
        if state.closed {
            return;
        }
        // a log-prob that is not finite ends the run and is not kept for the next
        let finite = |logps: &[f32]| logps.iter().all(|logp| logp.is_finite());
        let new: Vec<_> = answers.iter().copied().filter(|(key, logps)| !state.holds(key) && finite(logps)).collect();
        if new.is_empty() {
            return;
        }
        if let Some(file) = state.file.as_mut().filter(|file| file.writes()) {
            match file.add(&new) {
                Ok(pruned) => {
                    state.notes.extend(pruned);
                    return;
                }
                Err(note) => state.notes.push(note),
            }
        }
        for (key, logps) in new {
            if !state.memory.add(key, logps) && !std::mem::replace(&mut state.memory.full, true) {
                let limit = Size(state.memory.limit);
                state.notes.push(CacheNote::MemoryFull { limit });
            }
        }
    }

    /// Whether the cache may have log-probs of an earlier run that have not been compared with this run's.
    pub(super) fn wants_comparison(&self) -> bool {
        let state = self.state();
        !state.compared && !state.closed
    }

    /// Compares computed log-probs with cached ones. If one bit differs, all records of the file are dropped.
    pub(super) fn compare(&self, answers: &[(SequenceKey, &[f32])]) {
        let mut state = self.state();
        let mut differs = false;
        for (key, logps) in answers {
            if let Some(there) = state.read(key, logps.len()) {
                state.compared = true;
                differs |= there.iter().zip(*logps).any(|(there, logp)| there.to_bits() != logp.to_bits());
            }
        }
        if let Some(file) = state.file.as_mut().filter(|_| differs) {
            let path = file.path().to_owned();
            // if the records cannot be dropped, the next run compares them too
            let _ = file.clear();
            state.notes.push(CacheNote::Disagrees { path });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the cache panics")
    }
}

impl State {
    fn holds(&self, key: &SequenceKey) -> bool {
        self.memory.answers.contains_key(key) || self.file.as_ref().is_some_and(|file| file.holds(key))
    }

    fn read(&mut self, key: &SequenceKey, n: usize) -> Option<Vec<f32>> {
        if self.closed {
            return None;
        }
        if let Some(logps) = self.memory.answers.get(key) {
            return (logps.len() == n).then(|| logps.to_vec());
        }
        let file = self.file.as_mut()?;
        match file.read(key, n) {
            Lookup::Found(logps) => Some(logps),
            Lookup::Missing => None,
            Lookup::Damaged => {
                let path = file.path().to_owned();
                self.notes.push(CacheNote::DamagedMeanwhile { path });
                self.file = None;
                None
            }
        }
    }

    /// Closes the cache if the weights have changed.
    fn watch_weights(&mut self) {
        if let Some(path) = (!self.closed).then(|| self.weights.changed()).flatten() {
            self.closed = true;
            self.notes.push(CacheNote::WeightsChanged { path });
        }
    }
}
