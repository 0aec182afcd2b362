//! The index of a data set: one entry a usable row, as it is in memory and in the token cache.

use super::token_cache;

/// One usable row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub record: u32,
    /// Which of the rows made from the record: 0, or 1 for the rejected answer of an unpaired pair.
    pub part: u32,
    /// [`crate::record::records::Record::prompt_group`].
    pub group: u32,
    pub prompt_tokens: u32,
    pub tree_tokens: u32,
    /// Number of the row in the token cache, where there is one.
    pub cached: u32,
}

impl Entry {
    const BYTES: usize = 24;

    pub fn to_bytes(self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        let fields = [self.record, self.part, self.group, self.prompt_tokens, self.tree_tokens, self.cached]
            .map(u32::to_le_bytes);
        bytes.chunks_exact_mut(4).zip(fields).for_each(|(to, field)| to.copy_from_slice(&field));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Entry {
        let field = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let [record, part, group, prompt_tokens, tree_tokens, cached] = [0, 1, 2, 3, 4, 5].map(field);
        Entry { record, part, group, prompt_tokens, tree_tokens, cached }
    }
}

/// The index of an entry of the token cache; `None` where it names rows that the entry has not.
pub(crate) fn index_of(entry: &token_cache::Entry) -> Option<Vec<Entry>> {
    if entry.index.is_empty() || !entry.index.len().is_multiple_of(Entry::BYTES) {
        return None;
    }
    let index: Vec<Entry> = entry.index.chunks_exact(Entry::BYTES).map(Entry::from_bytes).collect();
    let is_there =
        |row: &Entry| (row.cached as usize) < entry.rows.len() && (row.record as usize) < entry.survey.records;
    index.iter().all(is_there).then_some(index)
}
