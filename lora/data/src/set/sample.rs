//! Chooses which records of a data set to look at, since looking at all of them would take too long.
//!
//! A fault may be in the second file, in the middle of one, or in every third row. So a sample has the first records of the data,
//! the first ones of each file, and some from everywhere, drawn by a hash of their number. A fault in many rows is then
//! found whatever their order, and the sample is the same in every run.

use crate::batch::order::mix;

/// Maximum number of records at the start of each file that are in the sample. With many files, there are fewer.
const OF_EACH_FILE: usize = 16;

/// A choice of records by their numbers over all files.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Number of the first record of each file.
    starts: Vec<usize>,
    /// Number of records at the start of the data that are in the sample.
    first: usize,
    of_each_file: usize,
    /// About one in this many records is drawn.
    one_in: u64,
}

impl Sample {
    /// Makes a sample of files with these numbers of records: the first `first` records, and about `drawn` from everywhere.
    pub(crate) fn new(records: impl IntoIterator<Item = usize>, first: usize, drawn: usize) -> Sample {
        let mut all = 0;
        let mut starts = Vec::new();
        for records in records {
            starts.push(all);
            all += records;
        }
        let of_each_file = (drawn / starts.len().max(1)).clamp(1, OF_EACH_FILE);
        Sample { starts, first, of_each_file, one_in: all.div_ceil(drawn).max(1) as u64 }
    }

    /// Returns the number of the file that holds a record.
    pub(crate) fn file_of(&self, record: usize) -> usize {
        self.starts.partition_point(|start| *start <= record).saturating_sub(1)
    }

    /// Whether a record is in the sample.
    pub(crate) fn has(&self, record: usize) -> bool {
        let in_file = record - self.starts.get(self.file_of(record)).copied().unwrap_or(0);
        record < self.first || in_file < self.of_each_file || mix(record as u64).is_multiple_of(self.one_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_small_and_looks_everywhere() {
        let sample = Sample::new([100_000, 3, 899_997], 256, 4096);
        let chosen: Vec<usize> = (0..1_000_000).filter(|record| sample.has(*record)).collect();
        assert!((4096..4700).contains(&chosen.len()), "{}", chosen.len());
        assert!((0..256).all(|record| sample.has(record)), "the beginning");
        assert!((100_000..100_003).all(|record| sample.has(record)), "a small file between large ones");
        for part in 0..100 {
            let of_part = chosen.iter().filter(|record| **record / 10_000 == part).count();
            assert!(of_part >= 15, "{of_part} of the part {part}");
        }
        for each in 2..8 {
            for rest in 0..each {
                let hit = chosen.iter().filter(|record| **record % each == rest).count();
                assert!(hit > 4096 / each / 2, "every {each}th row from {rest}: {hit}");
            }
        }
        // all of a small set, some of each of many files
        let small = Sample::new([1000, 500], 10, 4096);
        assert!((0..1500).all(|record| small.has(record)));
        let many = Sample::new(vec![100; 10_000], 256, 1000);
        assert!((0..10_000).all(|file| many.has(100 * file) && many.file_of(100 * file + 99) == file));
    }
}
