//! Finds rows that occur in the data more than once: unchanged, or with other ids, spaces and columns around the same tokens.
//!
//! Rows are compared by 64 bits of their BLAKE3 hash. This needs 16 bytes for each record while the data is surveyed. In a data
//! set of a hundred million rows, the probability that any two different rows share a hash is 1 in 4000. Then only the report is
//! wrong.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::row::EncodedRow;

/// How often rows repeat an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Repeats {
    /// Records that repeat an earlier one.
    pub rows: usize,
    /// The first of these records, and the one that it repeats.
    pub first: Option<Repeat>,
}

/// A record and the earlier one that it repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repeat {
    /// File and 1-based line of the earlier record; in Parquet, its 1-based row.
    pub original: (PathBuf, u64),
    /// File and line of the record that repeats it.
    pub copy: (PathBuf, u64),
}

/// Returns a 64-bit hash of the bytes of a record.
pub(crate) fn hash_of_bytes(row: &[u8]) -> u64 {
    first_64(&blake3::hash(row))
}

/// Returns a 64-bit hash of the tokens of all usable rows made from a record. Ids do not count. `None` if no row is usable.
pub(crate) fn hash_of_tokens<'r>(rows: impl Iterator<Item = &'r EncodedRow>) -> Option<u64> {
    let mut rows = rows.peekable();
    rows.peek()?;
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        for ids in std::iter::once(&row.prompt).chain(row.answers.iter().map(|answer| &answer.ids)) {
            // the length comes first, so that the hash covers where one text ends and the next begins
            hasher.update(&(ids.len() as u64).to_le_bytes());
            hasher.update(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    Some(first_64(&hasher.finalize()))
}

fn first_64(hash: &blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The hashes of all records, in their order.
#[derive(Debug, Default)]
pub(crate) struct Hashes {
    bytes: Vec<u64>,
    tokens: Vec<u64>,
}

/// Stands for the hash of a record without tokens, which repeats nothing. A record whose hash has this value by chance counts as
/// such a record.
const NO_TOKENS: u64 = 0;

impl Hashes {
    /// Adds the hashes of the next record.
    pub(crate) fn push(&mut self, bytes: u64, tokens: Option<u64>) {
        self.bytes.push(bytes);
        self.tokens.push(tokens.unwrap_or(NO_TOKENS));
    }

    /// Counts the records that have the bytes of an earlier record, and the other records that have the tokens of an earlier one.
    /// Returns both counts, each with its first record.
    pub(crate) fn repeats(self, place: impl Fn(usize) -> (PathBuf, u64)) -> (Repeats, Repeats) {
        let mut is_copy = vec![false; self.bytes.len()];
        let mut copies = Found::default();
        each_repeat(&self.bytes, |original, copy| {
            is_copy[copy] = true;
            copies.add(original, copy);
        });
        let mut same_tokens = Found::default();
        each_repeat(&self.tokens, |original, copy| {
            if self.tokens[copy] != NO_TOKENS && !is_copy[copy] {
                same_tokens.add(original, copy);
            }
        });
        (copies.places(&place), same_tokens.places(&place))
    }
}

/// Calls `on` with the first record of each hash and every later record with the same hash.
fn each_repeat(hashes: &[u64], mut on: impl FnMut(usize, usize)) {
    let mut records: Vec<u32> = (0..hashes.len() as u32).collect(); // the caller numbers records in 32 bits
    records.sort_unstable_by_key(|&record| (hashes[record as usize], record));
    let same = |a: &u32, b: &u32| hashes[*a as usize] == hashes[*b as usize];
    for group in records.chunk_by(same) {
        for &copy in &group[1..] {
            on(group[0] as usize, copy as usize);
        }
    }
}

#[derive(Default)]
struct Found {
    rows: usize,
    first: Option<(usize, usize)>,
}

impl Found {
    fn add(&mut self, original: usize, copy: usize) {
        self.rows += 1;
        if self.first.is_none_or(|(_, first)| copy < first) {
            self.first = Some((original, copy));
        }
    }

    fn places(self, place: &impl Fn(usize) -> (PathBuf, u64)) -> Repeats {
        let first = self.first.map(|(original, copy)| Repeat { original: place(original), copy: place(copy) });
        Repeats { rows: self.rows, first }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Compares with a search among all earlier records.
        #[test]
        fn repeats_are_those_of_a_plain_search(records in prop::collection::vec((0u64..4, prop::option::of(1u64..4)), 0..20)) {
            // records with the same bytes have the same tokens
            let records: Vec<(u64, Option<u64>)> =
                records.iter().map(|(bytes, _)| *records.iter().find(|(other, _)| other == bytes).unwrap()).collect();
            let mut hashes = Hashes::default();
            records.iter().for_each(|(bytes, tokens)| hashes.push(*bytes, *tokens));
            let (copies, same_tokens) = hashes.repeats(|record| (PathBuf::new(), record as u64));
            let earlier = |i: usize, same: &dyn Fn(usize, usize) -> bool| (0..i).find(|&j| same(i, j));
            let is_copy = |i: usize| earlier(i, &|i, j| records[i].0 == records[j].0);
            let has_tokens = |i: usize| earlier(i, &|i, j| records[i].1.is_some() && records[i].1 == records[j].1);
            let found: Vec<(usize, usize)> = (0..records.len()).filter_map(|i| Some((is_copy(i)?, i))).collect();
            let place = |pair: Option<&(usize, usize)>| pair.map(|&(j, i)| Repeat {
                original: (PathBuf::new(), j as u64), copy: (PathBuf::new(), i as u64),
            });
            prop_assert_eq!(copies, Repeats { rows: found.len(), first: place(found.first()) });
            let found: Vec<(usize, usize)> =
                (0..records.len()).filter(|&i| is_copy(i).is_none()).filter_map(|i| Some((has_tokens(i)?, i))).collect();
            prop_assert_eq!(same_tokens, Repeats { rows: found.len(), first: place(found.first()) });
        }
    }
}
