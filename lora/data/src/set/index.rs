//! The index of a data set: one entry a usable row, as it is in memory and in the token cache.

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
    pub const BYTES: usize = 24;

    pub fn to_bytes(self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        let fields = [self.record, self.part, self.group, self.prompt_tokens, self.tree_tokens, self.cached]
            .map(u32::to_le_bytes);
        bytes.chunks_exact_mut(4).zip(fields).for_each(|(to, field)| to.copy_from_slice(&field));
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Entry {
        let field = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let [record, part, group, prompt_tokens, tree_tokens, cached] = [0, 1, 2, 3, 4, 5].map(field);
        Entry { record, part, group, prompt_tokens, tree_tokens, cached }
    }
}
