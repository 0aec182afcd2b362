//! Chooses the texts of a reference corpus that a step reads, for losses with a term for the likelihood of such texts.

use align_data::{DataError, Dataset, EncodedRow, Shuffle};

/// A corpus that a run reads in addition to its rows. The run reads the texts in rounds. Each round has every text once, whatever
/// the number of rows.
pub(super) struct ReferenceTexts {
    data: Dataset,
    shuffle: Shuffle,
    /// Number of the last round that was read, and the order of its texts. The order depends only on the number.
    order: Option<(u64, Vec<u32>)>,
}

impl ReferenceTexts {
    pub(super) fn new(data: Dataset, shuffle: Shuffle) -> ReferenceTexts {
        ReferenceTexts { data, shuffle, order: None }
    }

    /// Reads the texts at the places `first..first + n` of the sequence of all rounds.
    ///
    /// # Errors
    /// Those of [`Dataset::rows`].
    pub(super) fn take(&mut self, first: u64, n: usize) -> Result<Vec<EncodedRow>, DataError> {
        let len = self.data.len() as u64;
        let numbers: Vec<u32> =
            (first..first + n as u64).map(|place| self.round(place / len)[(place % len) as usize]).collect();
        self.data.rows(&numbers)
    }

    /// Reads the `n` longest texts, or all if there are fewer.
    ///
    /// # Errors
    /// Those of [`Dataset::rows`].
    pub(super) fn longest(&self, n: usize) -> Result<Vec<EncodedRow>, DataError> {
        let mut numbers = self.data.order(Shuffle::Off, 0);
        numbers.sort_by_key(|&i| std::cmp::Reverse(self.data.lengths(i as usize).tree()));
        numbers.truncate(n);
        self.data.rows(&numbers)
    }

    /// Returns the mean number of tokens of a text.
    pub(super) fn mean_tokens(&self) -> f64 {
        let tokens: usize = (0..self.data.len()).map(|i| self.data.lengths(i).tree()).sum();
        tokens as f64 / self.data.len() as f64
    }

    fn round(&mut self, round: u64) -> &[u32] {
        if self.order.as_ref().is_none_or(|(known, _)| *known != round) {
            self.order = Some((round, self.data.order(self.shuffle, round)));
        }
        self.order.as_ref().map_or(&[], |(_, order)| order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_data::{Encoder, OnBadRow, RowKind};
    use std::path::Path;

    #[test]
    fn rounds_follow_each_other_wherever_one_begins() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/tiny-llama/model");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let texts = ["a", "the sea is wide", "rain", "a house of four walls and a roof", "and"];
        let lines: String = texts.map(|text| serde_json::json!({ "text": text }).to_string() + "\n").concat();
        std::fs::write(&path, lines).unwrap();
        let encoder = Encoder::from_model(&model, None, 64, 512).unwrap();
        let data = Dataset::open(&[path], encoder, RowKind::Sequence, OnBadRow::Error).unwrap();
        let mut texts = ReferenceTexts::new(data, Shuffle::Seeded(3));

        let ids = |rows: &[EncodedRow]| rows.iter().map(|row| row.row).collect::<Vec<_>>();
        let all = ids(&texts.take(0, 15).unwrap());
        for round in all.chunks(5) {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 5, "each text once a round: {all:?}");
        }
        assert!(all[..5] != all[5..10] || all[5..10] != all[10..], "rounds are shuffled anew: {all:?}");
        assert_eq!(ids(&texts.take(3, 9).unwrap()), all[3..12], "a step in the middle, and back to an earlier round");
        let lengths: Vec<usize> = texts.longest(2).unwrap().iter().map(EncodedRow::tree_tokens).collect();
        assert!(lengths[0] >= lengths[1] && lengths[1] as f64 > texts.mean_tokens(), "{lengths:?}");
        assert_eq!(texts.longest(9).unwrap().len(), 5);
    }
}
