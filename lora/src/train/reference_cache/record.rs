//! The format of a file of cached log-probs.
//!
//! | part | bytes |
//! |---|---|
//! | magic, with the version of this format | 8 |
//! | length of what follows | 4 |
//! | the [`Fingerprint`], JSON | that length |
//! | check: start of the BLAKE3 hash of all bytes before it | 16 |
//!
//! Then come the records, one for each answer, in the order in which they were computed:
//!
//! | part | bytes |
//! |---|---|
//! | key: start of the BLAKE3 hash of the tokens, and of which are scored | 16 |
//! | number of log-probs | 4 |
//! | the log-probs, nats, f32 | 4 each |
//! | check: start of the BLAKE3 hash of the head's check and of all bytes before it in the record | 8 |
//!
//! Numbers are little endian. Records are only ever added at the end, so an interrupted run can damage only the end.

use super::fingerprint::Fingerprint;
use blake3::{Hash, Hasher};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;

/// Magic bytes of the format. The last digit is the version.
const MAGIC: [u8; 8] = *b"ALIGNLP1";
/// Maximum length of a fingerprint in bytes. No real fingerprint reaches it.
const LONGEST_FINGERPRINT: u32 = 1 << 16;
const KEY: usize = 16;
const HEAD_CHECK: usize = 16;
const RECORD_CHECK: usize = 8;
/// Bytes of a record without its log-probs.
const RECORD_OVERHEAD: u64 = (KEY + 4 + RECORD_CHECK) as u64;

/// Identifies a cached answer: a hash of the tokens of the prompt and of the answer, of where the answer begins, and of which
/// of its tokens are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SequenceKey([u8; KEY]);

impl SequenceKey {
    /// Makes the key of `answer` after `prompt`. The answer's tokens in `gaps` are not scored.
    pub(crate) fn new(prompt: &[u32], answer: &[u32], gaps: impl IntoIterator<Item = Range<usize>>) -> SequenceKey {
        let mut bytes = Vec::with_capacity(16 + 4 * (prompt.len() + answer.len()));
        let mut put = |number: usize| bytes.extend_from_slice(&(number as u64).to_le_bytes());
        put(prompt.len());
        put(answer.len());
        for gap in gaps {
            put(gap.start);
            put(gap.end);
        }
        // the tokens come last, so the two lengths tell where the gaps end and the tokens begin
        bytes.extend(prompt.iter().chain(answer).flat_map(|id| id.to_le_bytes()));
        SequenceKey(first(&blake3::hash(&bytes)))
    }

    /// Returns the first 8 bytes of the key, which the index of a file holds.
    pub(crate) fn short(&self) -> u64 {
        u64::from_le_bytes(first(&Hash::from_slice(&[self.0, self.0].concat()).expect("32 bytes")))
    }
}

fn first<const N: usize>(hash: &Hash) -> [u8; N] {
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// The head of a cache file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    pub fingerprint: Fingerprint,
    check: [u8; HEAD_CHECK],
    /// Length of the head in bytes. The first record begins there.
    pub bytes: u64,
}

impl Head {
    /// Makes the head for `fingerprint`. Also returns its bytes in the file.
    pub(super) fn new(fingerprint: &Fingerprint) -> (Head, Vec<u8>) {
        let json = serde_json::to_vec(fingerprint).expect("texts become JSON");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&json);
        let check: [u8; HEAD_CHECK] = first(&blake3::hash(&bytes));
        bytes.extend_from_slice(&check);
        (Head { fingerprint: fingerprint.clone(), check, bytes: bytes.len() as u64 }, bytes)
    }

    /// Reads a head. `None` if the file has no sound head of this version.
    pub(super) fn read(file: &mut impl Read) -> io::Result<Option<Head>> {
        let mut start = [0; 12];
        if !filled(file, &mut start)? {
            return Ok(None);
        }
        let length = u32::from_le_bytes(*start.last_chunk().expect("12 bytes"));
        if start[..8] != MAGIC || length > LONGEST_FINGERPRINT {
            return Ok(None);
        }
        let mut rest = vec![0; length as usize + HEAD_CHECK];
        if !filled(file, &mut rest)? {
            return Ok(None);
        }
        let (json, check) = rest.split_at(length as usize);
        let sum: [u8; HEAD_CHECK] = first(&Hasher::new().update(&start).update(json).finalize());
        let fingerprint = serde_json::from_slice(json).ok().filter(|_| sum == check);
        let bytes = (start.len() + rest.len()) as u64;
        Ok(fingerprint.map(|fingerprint| Head { fingerprint, check: sum, bytes }))
    }

    fn record_check(&self, record: &[u8]) -> [u8; RECORD_CHECK] {
        first(&Hasher::new().update(&self.check).update(record).finalize())
    }

    /// Adds a record to `bytes`.
    pub(super) fn put(&self, bytes: &mut Vec<u8>, key: &SequenceKey, logps: &[f32]) {
        let start = bytes.len();
        bytes.extend_from_slice(&key.0);
        bytes.extend_from_slice(&(logps.len() as u32).to_le_bytes());
        bytes.extend(logps.iter().flat_map(|logp| logp.to_le_bytes()));
        let check = self.record_check(&bytes[start..]);
        bytes.extend_from_slice(&check);
    }

    /// Reads the next record of a file that has `available` more bytes. `None` if the file ends before the record does, or if the
    /// record is damaged.
    pub(super) fn next(&self, file: &mut impl Read, available: u64) -> io::Result<Option<Record>> {
        let mut record = vec![0; KEY + 4];
        if available < RECORD_OVERHEAD || !filled(file, &mut record)? {
            return Ok(None);
        }
        let n = u32::from_le_bytes(*record.last_chunk().expect("20 bytes"));
        let bytes = RECORD_OVERHEAD + 4 * u64::from(n);
        if bytes > available {
            return Ok(None);
        }
        record.resize(KEY + 4 + 4 * n as usize, 0);
        let mut check = [0; RECORD_CHECK];
        if !filled(file, &mut record[KEY + 4..])? || !filled(file, &mut check)? || check != self.record_check(&record) {
            return Ok(None);
        }
        let key = SequenceKey(*record.first_chunk().expect("20 bytes and more"));
        let logps = record[KEY + 4..].as_chunks::<4>().0.iter().map(|&logp| f32::from_le_bytes(logp)).collect();
        Ok(Some(Record { key, logps, bytes }))
    }
}

/// The record of one answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    pub key: SequenceKey,
    pub logps: Vec<f32>,
    /// Length of the record in the file, in bytes.
    pub bytes: u64,
}

/// Fills `buffer`. Returns whether the file was long enough.
fn filled(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Calls `found` with [`SequenceKey::short`] and the place of each record before the first damaged one. Returns where these
/// records end. `file` must be positioned right after the head; it has `len` bytes, including the head.
pub(super) fn index(
    head: &Head,
    file: &mut (impl BufRead + Seek),
    len: u64,
    mut found: impl FnMut(u64, u64),
) -> io::Result<u64> {
    let mut at = head.bytes;
    while let Some(record) = head.next(file, len.saturating_sub(at))? {
        found(record.key.short(), at);
        at += record.bytes;
    }
    Ok(at)
}

/// Whether one of `keys` is in a file. Reads only the keys and lengths of the records and checks nothing else. `file` must be
/// positioned right after the head.
pub(super) fn holds_any(file: &mut (impl BufRead + Seek), keys: &[SequenceKey]) -> io::Result<bool> {
    let mut start = [0; KEY + 4];
    while filled(file, &mut start)? {
        if keys.iter().any(|key| key.0 == start[..KEY]) {
            return Ok(true);
        }
        let n = u32::from_le_bytes(*start.last_chunk().expect("20 bytes"));
        file.seek_relative(4 * i64::from(n) + RECORD_CHECK as i64)?;
    }
    Ok(false)
}

/// Reads the record at `at` of a file of `len` bytes. `None` if it is damaged.
pub(super) fn read_at(head: &Head, file: &mut (impl Read + Seek), (at, len): (u64, u64)) -> io::Result<Option<Record>> {
    file.seek(SeekFrom::Start(at))?;
    head.next(file, len.saturating_sub(at))
}

/// Writes `bytes` at `at`, the end of the file.
pub(super) fn append(file: &mut (impl Write + Seek), at: u64, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}
