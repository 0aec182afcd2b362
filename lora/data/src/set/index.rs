//! The index of a data set: one entry for each usable row, both in memory and in the token cache.

use std::ops::Deref;
use std::sync::Arc;

/// The usable rows, and the lengths of their answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    /// Number of tokens of every answer before it is cut. The answers of a row are adjacent.
    answers: Arc<Vec<u32>>,
}

/// One usable row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub record: u32,
    /// The number of the row among those that the record makes. In an unpaired pair, 0 is the chosen answer and 1 the rejected
    /// one.
    pub part: u32,
    /// [`crate::record::records::Record::prompt_group`].
    pub group: u32,
    pub prompt_tokens: u32,
    /// Number of the row in the token cache, if a cache is used.
    pub cached: u32,
    /// Number of answers of the row.
    pub n_answers: u32,
    /// Index of the row's first answer in the lengths of all answers.
    pub first_answer: u64,
}

impl Index {
    /// Adds a row whose answers have these lengths. Sets `n_answers` and `first_answer` of the entry.
    pub(crate) fn push(&mut self, entry: Entry, answers: impl Iterator<Item = u32>) {
        let all = Arc::make_mut(&mut self.answers);
        let first = all.len();
        all.extend(answers);
        let n_answers = (all.len() - first) as u32;
        self.entries.push(Entry { n_answers, first_answer: first as u64, ..entry });
    }

    /// Returns the number of tokens of each answer of row `i`, before it is cut.
    pub(crate) fn answer_tokens(&self, i: usize) -> &[u32] {
        let Entry { first_answer, n_answers, .. } = self.entries[i];
        &self.answers[first_answer as usize..][..n_answers as usize]
    }

    /// Returns the rows at the places that `is_wanted` accepts.
    pub(crate) fn filtered(&self, is_wanted: impl Fn(usize) -> bool) -> Index {
        let entries = self.entries.iter().enumerate().filter(|(i, _)| is_wanted(*i)).map(|(_, entry)| *entry);
        Index { entries: entries.collect(), answers: self.answers.clone() }
    }

    /// Sorts the rows by a key. Rows with equal keys keep their order.
    pub(crate) fn sort_by_key<K: Ord>(&mut self, key: impl FnMut(&Entry) -> K) {
        self.entries.sort_by_key(key);
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.entries.shrink_to_fit();
        Arc::make_mut(&mut self.answers).shrink_to_fit();
    }

    /// Returns the number of rows, their entries and the lengths of all answers, as bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let words = |entry: &Entry| {
            let Entry { record, part, group, prompt_tokens, cached, n_answers, first_answer } = *entry;
            let first = [first_answer as u32, (first_answer >> 32) as u32];
            [record, part, group, prompt_tokens, cached, n_answers, first[0], first[1]]
        };
        let words = self.entries.iter().flat_map(words).chain(self.answers.iter().copied());
        let rows = (self.entries.len() as u64).to_le_bytes();
        rows.into_iter().chain(words.flat_map(u32::to_le_bytes)).collect()
    }

    /// Reads what [`Index::to_bytes`] wrote. `None` if the bytes are anything else, or if there is no row.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Index> {
        let (rows, bytes) = bytes.split_first_chunk::<8>()?;
        let (words, rest) = bytes.as_chunks::<4>();
        let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let of_entries = usize::try_from(u64::from_le_bytes(*rows)).ok()?.checked_mul(8)?;
        let (entries, answers) = words.split_at_checked(of_entries)?;
        let entry = |&[record, part, group, prompt_tokens, cached, n_answers, low, high]: &[u32; 8]| {
            let first_answer = u64::from(low) | (u64::from(high) << 32);
            Entry { record, part, group, prompt_tokens, cached, n_answers, first_answer }
        };
        let entries: Vec<Entry> = entries.as_chunks::<8>().0.iter().map(entry).collect();
        let ends_inside = |entry: &Entry| {
            let end = entry.first_answer.checked_add(u64::from(entry.n_answers));
            end.is_some_and(|end| end <= answers.len() as u64)
        };
        let are_there = entries.iter().all(ends_inside);
        let is_sound = rest.is_empty() && !entries.is_empty() && are_there;
        is_sound.then(|| Index { entries, answers: Arc::new(answers.to_vec()) })
    }
}

impl Deref for Index {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let mut index = Index::default();
        index.push(Entry { group: 7, prompt_tokens: 3, ..Entry::default() }, [4, 5].into_iter());
        let second = Entry { record: 2, part: 1, group: 8, prompt_tokens: 2, cached: 1, ..Entry::default() };
        index.push(second, [6].into_iter());
        let bytes = index.to_bytes();
        let read = Index::from_bytes(&bytes).unwrap();
        assert_eq!((read.len(), read[1].group, read.to_bytes()), (2, 8, bytes.clone()));
        assert_eq!((read.answer_tokens(0), read.answer_tokens(1)), (&[4, 5][..], &[6][..]));
        assert_eq!(read.filtered(|i| i == 1).answer_tokens(0), [6]);
        // cut before the last length, within it, within the number of rows, and after the first of two entries
        let cut = |n: usize| Index::from_bytes(&bytes[..n]).is_none();
        assert!(cut(bytes.len() - 4) && cut(bytes.len() - 2) && cut(7) && cut(8 + 32));
        assert!(Index::from_bytes(&0u64.to_le_bytes()).is_none());
        assert!(Index::from_bytes(&[&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat()).is_none());
    }
}
