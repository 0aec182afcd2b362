//! Keeps the tokens of a data set on the disk. A second start with the same files, tokenizer and options reads the tokens instead
//! of making them again.
//!
//! An entry is one file. It is written beside its final name and renamed once it is complete. Near its end, it names what it
//! was made from (`ingredients`) and has a checksum of everything before. Each row also has its own checksum. Entries are read
//! with positioned reads and not mapped: if a mapped file is cut while it is in use, the process ends. The system caches the pages
//! that are read often, whether a file is mapped or not.
//!
//! ```text
//! MAGIC | rows | where each row starts, and where the last ends: u64 | index | ingredients | survey | rejects
//!       | bytes of each of these parts: 6 u64 | BLAKE3 of all before: 32 bytes | MAGIC
//! ```
//!
//! Numbers are little-endian. A row is four bytes of its hash and then the row itself, in postcard's format. Survey and rejects
//! hold the numbers of files; the run that reads them supplies the names.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use align_engine::new_file::{NewFile, NewFileError};
use serde_json::Value;

use super::error::DataError;
use super::index::{self, Index};
use super::ingredients::{Asked, Ingredients};
use super::rejects::{self, Rejects};
use super::survey::Survey;
use crate::pieces::{PIECE_BYTES, fill};
use crate::progress::{DataObserver, DataProgress, Stage};
use crate::row::EncodedRow;
use crate::source::error::SourceError;
use crate::store::folder::{keep_within, mark_used};
use crate::store::stamp::Stamp;
use crate::store::user_cache;

const MAGIC: &[u8; 8] = b"ALIGNTOK";
/// Parts whose lengths are stored at the end: rows, offsets, index, ingredients, survey and rejects.
const PARTS: usize = 6;
const TAIL_BYTES: u64 = (8 * PARTS + blake3::OUT_LEN + MAGIC.len()) as u64;
/// Number of bytes of a row's hash that are stored in front of the row.
const ROW_CHECK: usize = 4;
/// Once all entries together have more bytes than this, those not used for the longest time are removed.
pub const CACHE_BYTES: u64 = 16 << 30;
/// The ending of an entry's name.
const ENDING: &str = "tokens";

/// A folder of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCache {
    folder: PathBuf,
    limit: u64,
}

impl TokenCache {
    /// Makes a cache in this folder. The folder is created when something is written.
    pub fn new(folder: PathBuf) -> TokenCache {
        TokenCache { folder, limit: CACHE_BYTES }
    }

    #[cfg(test)]
    pub(crate) fn with_limit(folder: PathBuf, limit: u64) -> TokenCache {
        TokenCache { folder, limit }
    }

    /// Makes a cache in `align/tokens` of `$XDG_CACHE_HOME`, or of `.cache` in the home directory. `None` if neither is known.
    pub fn of_user() -> Option<TokenCache> {
        user_cache::folder("tokens").map(TokenCache::new)
    }

    /// Finds the place of a data set in the cache.
    ///
    /// # Errors
    /// [`SourceError::Io`] if a data file cannot be read.
    pub(crate) fn slot(&self, asked: Asked<'_>, observer: &mut dyn DataObserver) -> Result<Slot, SourceError> {
        let name = Ingredients::entry_name(asked);
        let (ingredients, stamps) = Ingredients::of(asked, observer)?;
        let path = self.folder.join(format!("{name}.{ENDING}"));
        Ok(Slot { path, limit: self.limit, ingredients, data: asked.paths.to_vec(), stamps })
    }
}

/// Where the entry of a data set is, and what it must be made from.
#[derive(Debug)]
pub(crate) struct Slot {
    path: PathBuf,
    limit: u64,
    ingredients: Ingredients,
    /// The data files.
    data: Vec<PathBuf>,
    /// Stamps of the data files at the time when the ingredients were taken.
    stamps: Vec<Stamp>,
}

/// What [`Slot::look_up`] found.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// An entry that may be used.
    Found(Box<Entry>),
    /// There is no entry.
    Nothing,
    /// The entry was made from other ingredients.
    Stale { what: String },
    /// The entry cannot be read, or differs from what was written.
    Damaged { why: String },
}

/// What an entry holds.
#[derive(Debug)]
pub(crate) struct Entry {
    pub index: Index,
    pub survey: Survey,
    pub rows: CachedRows,
    rejects: Range<u64>,
}

impl Slot {
    /// Returns the path of the entry's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the stamps of the data files, in their order.
    pub(crate) fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }

    /// Reads and checks the entry.
    pub(crate) fn look_up(&self, observer: &mut dyn DataObserver) -> Lookup {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Lookup::Nothing,
            Err(error) => return Lookup::Damaged { why: error.to_string() },
        };
        self.read(file, observer).unwrap_or_else(|why| Lookup::Damaged { why })
    }

    fn read(&self, file: File, observer: &mut dyn DataObserver) -> Result<Lookup, String> {
        let fails = |error: std::io::Error| error.to_string();
        let bytes = file.metadata().map_err(fails)?.len();
        let tail_at = bytes.checked_sub(TAIL_BYTES).ok_or("it is too short")?;
        let tail = read_range(&file, tail_at..bytes)?;
        let (lengths, rest) = tail.split_at(8 * PARTS);
        let (checksum, magic) = rest.split_at(blake3::OUT_LEN);
        if magic != MAGIC {
            return Err("its end is missing".to_owned());
        }
        let mut parts = Vec::with_capacity(PARTS);
        let mut at = MAGIC.len() as u64;
        for length in lengths.chunks_exact(8) {
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
            let end = at.checked_add(length).filter(|end| *end <= tail_at).ok_or("its parts are longer than it is")?;
            parts.push(at..end);
            at = end;
        }
        if at != tail_at {
            return Err("its parts are shorter than it is".to_owned());
        }
        let part = |i: usize| read_range(&file, parts[i].clone());

        // the ingredients are checked first: this is cheap, and a stale entry need not be sound
        let made_from: Ingredients =
            serde_json::from_slice(&part(3)?).map_err(|error| format!("its ingredients: {error}"))?;
        if let Some(what) = self.ingredients.difference(&made_from) {
            return Ok(Lookup::Stale { what: what.to_owned() });
        }
        let mut hasher = blake3::Hasher::new();
        let end = bytes - (blake3::OUT_LEN + MAGIC.len()) as u64;
        let (mut rest, mut piece, mut done) = ((&file).take(end), Vec::with_capacity(PIECE_BYTES), 0);
        while fill(&mut rest, &mut piece).map_err(fails)? > 0 {
            hasher.update(&piece);
            done += piece.len() as u64;
            observer.progress(DataProgress { stage: Stage::Checking, done, total: end });
        }
        if hasher.finalize().as_bytes() != checksum {
            return Err("its checksum is wrong".to_owned());
        }
        let mut survey: Survey = serde_json::from_slice(&part(4)?).map_err(|error| format!("its survey: {error}"))?;
        for path in survey.paths_mut() {
            let number = path.to_str().and_then(|number| number.parse().ok());
            let named = number.and_then(|number: usize| self.data.get(number));
            *path = named.ok_or("its survey names a file that there is not")?.clone();
        }
        let offsets = offsets(&part(1)?, &parts[0])?;
        let rows = offsets.len() - 1;
        let is_there = |row: &index::Entry| (row.cached as usize) < rows && (row.record as usize) < survey.records;
        let index = Index::from_bytes(&part(2)?).filter(|index| index.iter().all(is_there));
        let index = index.ok_or("its index names rows that it has not")?;
        mark_used(&file);
        let rows = CachedRows { path: self.path.clone(), file, bytes, offsets };
        Ok(Lookup::Found(Box::new(Entry { index, survey, rows, rejects: parts[5].clone() })))
    }

    /// Begins a new entry.
    ///
    /// # Errors
    /// [`NewFileError`].
    pub(crate) fn write(&self) -> Result<Writer, NewFileError> {
        let folder = self.path.parent().expect("a slot is in a folder");
        std::fs::create_dir_all(folder).map_err(|source| NewFileError { action: "create its folder", source })?;
        let (file, offsets) = (NewFile::create(&self.path)?, vec![MAGIC.len() as u64]);
        let mut writer = Writer { file, hasher: blake3::Hasher::new(), pending: Vec::new(), at: 0, offsets };
        writer.put(MAGIC)?;
        Ok(writer)
    }

    /// Removes what a crash left behind. If all entries together are too large, removes those not used for the longest time and
    /// returns how many. Best effort: if the folder cannot be listed, it stays unchanged.
    pub(crate) fn make_room(&self) -> u64 {
        let folder = self.path.parent().expect("a slot is in a folder");
        keep_within(folder, ENDING, self.limit, &self.path).files
    }
}

impl Entry {
    /// Writes the lines of all rejects, with the files' names.
    ///
    /// # Errors
    /// [`DataError::Cache`] if the entry cannot be read. [`DataError::Rejects`] if `to` cannot be written.
    pub(crate) fn write_rejects(&self, data: &[PathBuf], to: &mut dyn Write) -> Result<(), DataError> {
        let (mut file, Range { start, end }) = (&self.rows.file, self.rejects.clone());
        let broken = |error: std::io::Error| self.rows.broken(error.to_string());
        file.seek(SeekFrom::Start(start)).map_err(broken)?;
        let name = |number: &Value| {
            let path = data.get(usize::try_from(number.as_u64()?).ok()?)?;
            Some(path.to_string_lossy().into())
        };
        for line in BufReader::with_capacity(PIECE_BYTES, file.take(end - start)).split(b'\n') {
            let line = rejects::with_file(&line.map_err(broken)?, name);
            let line = line.ok_or_else(|| self.rows.broken("a line of its rejects is none".to_owned()))?;
            to.write_all(line.as_bytes()).map_err(DataError::Rejects)?;
        }
        Ok(())
    }
}

/// Reads a part of a file. The caller has checked that the range is inside the file.
fn read_range(file: &File, range: Range<u64>) -> Result<Vec<u8>, String> {
    let length = usize::try_from(range.end - range.start).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn offsets(bytes: &[u8], rows: &Range<u64>) -> Result<Vec<u64>, String> {
    if !bytes.len().is_multiple_of(8) {
        return Err("its row offsets are no whole numbers".to_owned());
    }
    let read = |eight: &[u8]| u64::from_le_bytes(eight.try_into().expect("eight bytes"));
    let offsets: Vec<u64> = bytes.chunks_exact(8).map(read).collect();
    let (first, last) = (offsets.first(), offsets.last());
    match first == Some(&rows.start) && last == Some(&rows.end) && offsets.is_sorted() {
        true => Ok(offsets),
        false => Err("its row offsets are not in order".to_owned()),
    }
}

/// The rows of an entry, numbered in the order of writing.
#[derive(Debug)]
pub(crate) struct CachedRows {
    path: PathBuf,
    file: File,
    bytes: u64,
    offsets: Vec<u64>,
}

impl CachedRows {
    /// Checks that the file was not cut. (It is never written again; a new entry is a new file.)
    ///
    /// # Errors
    /// [`DataError::Cache`].
    pub(crate) fn check_unchanged(&self) -> Result<(), DataError> {
        match self.file.metadata() {
            Ok(meta) if meta.len() == self.bytes => Ok(()),
            Ok(_) => Err(self.broken("its length has changed".to_owned())),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    /// Reads a row. Panics if the entry's index does not have this number.
    ///
    /// # Errors
    /// [`DataError::Cache`].
    pub(crate) fn row(&self, number: u32) -> Result<EncodedRow, DataError> {
        let range = self.offsets[number as usize]..self.offsets[number as usize + 1];
        let bytes = read_range(&self.file, range).map_err(|why| self.broken(why))?;
        decode(&bytes).ok_or_else(|| self.broken(format!("row {number} of it is not as it was written")))
    }

    fn broken(&self, why: String) -> DataError {
        DataError::Cache { path: self.path.clone(), why }
    }
}

/// Returns the bytes of a row in an entry.
pub(crate) fn encode(row: &EncodedRow) -> Vec<u8> {
    let mut bytes = vec![0; ROW_CHECK];
    bytes = postcard::to_extend(row, bytes).expect("memory takes every row, and it has nothing that cannot be written");
    let hash = blake3::hash(&bytes[ROW_CHECK..]);
    bytes[..ROW_CHECK].copy_from_slice(&hash.as_bytes()[..ROW_CHECK]);
    bytes
}

/// Reads a row that [`encode`] wrote. `None` if the hash is wrong, or if the row is not sound: it lacks a prompt or answers, an
/// answer's `kept` is out of range, or its unscored ranges are not in order and inside the answer.
fn decode(bytes: &[u8]) -> Option<EncodedRow> {
    let (check, rest) = bytes.split_at_checked(ROW_CHECK)?;
    if check != &blake3::hash(rest).as_bytes()[..ROW_CHECK] {
        return None;
    }
    let row: EncodedRow = postcard::from_bytes(rest).ok()?;
    let sound = !row.prompt.is_empty()
        && !row.answers.is_empty()
        && row.answers.iter().all(|answer| {
            let in_order = answer.unscored.windows(2).all(|gaps| gaps[0].end < gaps[1].start);
            let inside = |gap: &Range<usize>| gap.start < gap.end && gap.end <= answer.ids.len();
            (1..=answer.ids.len()).contains(&answer.kept) && in_order && answer.unscored.iter().all(inside)
        });
    sound.then_some(row)
}

/// An entry that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: NewFile,
    hasher: blake3::Hasher,
    pending: Vec<u8>,
    /// Number of bytes so far, including the pending ones.
    at: u64,
    offsets: Vec<u64>,
}

impl Writer {
    /// Adds a row as [`encode`] makes it, and returns its number.
    ///
    /// # Errors
    /// [`NewFileError`], for example if the disk is full.
    pub(crate) fn row(&mut self, bytes: &[u8]) -> Result<u32, NewFileError> {
        self.put(bytes)?;
        self.offsets.push(self.at);
        Ok(u32::try_from(self.offsets.len() - 2).expect("rows are numbered in 32 bits: Dataset::open checks it"))
    }

    /// Writes the remaining parts and gives the entry its name.
    ///
    /// # Errors
    /// [`NewFileError`].
    pub(crate) fn finish(
        mut self,
        slot: &Slot,
        index: &Index,
        survey: &Survey,
        rejects: &mut Rejects,
    ) -> Result<CachedRows, NewFileError> {
        let mut survey = survey.clone();
        for path in survey.paths_mut() {
            let number = slot.data.iter().position(|data| data == path);
            *path = number.expect("a survey names files of its data").to_string().into();
        }
        let mut lengths = vec![self.at - MAGIC.len() as u64];
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let index = index.to_bytes();
        let json = |error: serde_json::Error| NewFileError { action: "write it", source: error.into() };
        let ingredients = serde_json::to_vec(&slot.ingredients).map_err(json)?;
        let survey = serde_json::to_vec(&survey).map_err(json)?;
        for part in [&offsets, &index, &ingredients, &survey] {
            self.put(part)?;
            lengths.push(part.len() as u64);
        }
        let before = self.at;
        let copied = rejects.copy_to(|piece| self.put(piece).map_err(|error| error.source));
        copied.map_err(|source| NewFileError { action: "write it", source })?;
        lengths.push(self.at - before);
        let lengths: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        self.put(&lengths)?;
        self.flush()?;
        let checksum = self.hasher.finalize();
        self.file.write(checksum.as_bytes())?;
        self.file.write(MAGIC)?;
        let file = self.file.finish_open()?;
        let bytes = self.at + (blake3::OUT_LEN + MAGIC.len()) as u64;
        Ok(CachedRows { path: slot.path.clone(), file, bytes, offsets: self.offsets })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), NewFileError> {
        self.pending.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
        if self.pending.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), NewFileError> {
        self.hasher.update(&self.pending);
        self.file.write(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}
