//! The file of one fingerprint: who may write it, which part of it is sound, and where each record is.

use super::error::{CacheError, CacheNote};
use super::fingerprint::Fingerprint;
use super::record::{self, Head, SequenceKey};
use crate::train::size::Size;
use align_data::store::folder::{self, Removed};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The extension of the names of cache files.
const EXTENSION: &str = "logps";
/// How many files of other fingerprints are searched for rows that the run's file lacks.
const OTHERS_LOOKED_AT: usize = 8;
/// How many times the size of the directory is checked while a file grows to the limit.
const LOOKS: u64 = 64;

/// An open cache file, with the places of its records. The places take 16 bytes per answer, plus the free slots of a hash table.
#[derive(Debug)]
pub(super) struct CacheFile {
    path: PathBuf,
    file: File,
    head: Head,
    /// Where each record begins in the file, by [`SequenceKey::short`].
    index: HashMap<u64, u64>,
    /// Where the sound records end and the next one is written.
    end: u64,
    /// Whether this run holds the lock and writes the file. Other runs only read what was there when they opened the file.
    writes: bool,
    /// Bytes that the files of its directory may fill.
    limit: u64,
    /// The value of `end` at the last check of the directory's size.
    looked_at: u64,
}

/// The result of looking up an answer in a file.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    Found(Vec<f32>),
    Missing,
    /// The file had the answer, but the record is damaged now.
    Damaged,
}

impl CacheFile {
    /// Opens or creates the file of `fingerprint` in the directory `folder`, whose files may fill `limit` bytes. Damaged parts
    /// are not read. If this run holds the lock, it also removes them from the file.
    ///
    /// # Errors
    /// [`CacheError::Io`], [`CacheError::NotAFile`].
    pub(super) fn open(
        folder: &Path,
        fingerprint: &Fingerprint,
        limit: u64,
        notes: &mut Vec<CacheNote>,
    ) -> Result<CacheFile, CacheError> {
        let (head, head_bytes) = Head::new(fingerprint);
        let name = blake3::hash(&head_bytes).to_hex();
        let path = folder.join(format!("{}.{EXTENSION}", &name[..32]));
        let io = |action, source| CacheError::Io { path: path.clone(), action, source };
        // checked before opening, because opening a pipe would wait
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(CacheError::NotAFile { path });
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| io("open it", source))?;
        let not_locked = match file.try_lock() {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => Some(CacheNote::InUse { path: path.clone() }),
            Err(TryLockError::Error(source)) => Some(CacheNote::NoLock { path: path.clone(), source }),
        };
        let writes = not_locked.is_none();
        notes.extend(not_locked);
        let index = HashMap::new();
        let mut cache = CacheFile { path: path.clone(), file, head, index, end: 0, writes, limit, looked_at: 0 };
        cache.examine(&head_bytes, notes).map_err(|source| io("read or write it", source))?;
        Ok(cache)
    }

    /// Finds the sound records. If this run writes the file, it removes what follows them, and replaces a missing or damaged head.
    fn examine(&mut self, head_bytes: &[u8], notes: &mut Vec<CacheNote>) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        reader.seek(SeekFrom::Start(0))?;
        let sound = Head::read(&mut reader)?.is_some_and(|found| found == self.head);
        self.end = self.head.bytes;
        if sound {
            let index = &mut self.index;
            self.end = record::index(&self.head, &mut reader, len, |key, at| {
                index.insert(key, at);
            })?;
        }
        if !self.writes {
            // another run may be writing the last record, so an incomplete record is not reported
            return Ok(());
        }
        if !sound {
            if len > 0 {
                notes.push(CacheNote::DamagedStart { path: self.path.clone(), bytes: Size(len) });
            }
            self.file.set_len(0)?;
            record::append(&mut self.file, 0, head_bytes)?;
        } else if self.end < len {
            let (kept, bytes) = (self.index.len() as u64, Size(len - self.end));
            notes.push(CacheNote::DamagedEnd { path: self.path.clone(), kept, bytes });
            self.file.set_len(self.end)?;
        }
        folder::mark_used(&self.file);
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of answers in the file.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether this run adds to the file.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Whether the index has the answer.
    pub(super) fn holds(&self, key: &SequenceKey) -> bool {
        self.index.contains_key(&key.short())
    }

    /// Reads the log-probs of an answer with `n` scored tokens.
    pub(super) fn read(&mut self, key: &SequenceKey, n: usize) -> Lookup {
        let Some(&at) = self.index.get(&key.short()) else { return Lookup::Missing };
        match record::read_at(&self.head, &mut self.file, (at, self.end)) {
            Ok(Some(record)) if record.key == *key && record.logps.len() == n => Lookup::Found(record.logps),
            // a sound record of another answer
            Ok(Some(_)) => Lookup::Missing,
            Ok(None) | Err(_) => Lookup::Damaged,
        }
    }

    /// Adds answers that the file lacks. If another answer has the same short key, an answer is left out and computed each time
    /// it comes. Two answers share a short key with a probability of 2^-64. Returns a note if old files were removed to make
    /// room.
    ///
    /// # Errors
    /// [`CacheNote::Full`] if the file cannot be written, e.g. on a full disk; [`CacheNote::FileFull`]. After an error, nothing
    /// more is written.
    pub(super) fn add(&mut self, answers: &[(SequenceKey, &[f32])]) -> Result<Option<CacheNote>, CacheNote> {
        let mut bytes = Vec::new();
        let mut places = Vec::with_capacity(answers.len());
        for (key, logps) in answers {
            if !self.holds(key) {
                places.push((key.short(), self.end + bytes.len() as u64));
                self.head.put(&mut bytes, key, logps);
            }
        }
        if self.end + bytes.len() as u64 > self.limit {
            self.stop_writing();
            return Err(CacheNote::FileFull { path: self.path.clone(), limit: Size(self.limit) });
        }
        if let Err(source) = record::append(&mut self.file, self.end, &bytes) {
            // if this fails too, part of a record may stay, but its checksum does not match
            let _ = self.file.set_len(self.end);
            self.stop_writing();
            return Err(CacheNote::Full { path: self.path.clone(), source });
        }
        self.end += bytes.len() as u64;
        self.index.extend(places);
        let grown = self.end - self.looked_at.min(self.end);
        Ok(if grown >= (self.limit / LOOKS).max(1) { self.prune() } else { None })
    }

    #[cfg(test)]
    pub(super) fn limit_to(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    fn stop_writing(&mut self) {
        self.writes = false;
        let _ = self.file.unlock();
    }

    /// Drops all records, also from the file if this run writes it.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.index.clear();
        self.end = self.head.bytes;
        if self.writes { self.file.set_len(self.end) } else { Ok(()) }
    }

    /// Finds a file of another fingerprint that has one of these answers, and returns a note of what differs. If there are several
    /// such files, the note is about the one that differs least. If several differ equally, it is about the one used last.
    pub(super) fn other_with(&self, keys: &[SequenceKey]) -> Option<CacheNote> {
        let folder = self.path.parent()?;
        let mut others = folder::files(folder, EXTENSION).ok()?;
        others.retain(|other| other.path != self.path);
        others.sort_by_key(|other| std::cmp::Reverse(other.used));
        let found = others.into_iter().take(OTHERS_LOOKED_AT).filter_map(|other| {
            let mut reader = BufReader::new(File::open(&other.path).ok()?);
            let head = Head::read(&mut reader).ok()??;
            let differs = self.head.fingerprint.differences(&head.fingerprint);
            record::holds_any(&mut reader, keys).ok()?.then_some((differs, other.path))
        });
        let (differs, path) = found.min_by_key(|(differs, _)| differs.len())?;
        Some(CacheNote::OtherFingerprint { path, differs })
    }

    /// Removes the least recently used files of its directory until the remaining ones are within the limit. Its own file and
    /// files in use stay.
    pub(super) fn prune(&mut self) -> Option<CacheNote> {
        self.looked_at = self.end;
        let folder = self.path.parent()?;
        let Removed { files, bytes } = folder::keep_within(folder, EXTENSION, self.limit, &self.path);
        (files > 0).then(|| CacheNote::Pruned { folder: folder.to_owned(), files, bytes: Size(bytes) })
    }
}
