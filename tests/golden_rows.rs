//! Rows of the goldens' data, of the kind that a loss reads.

use align_data::{Answer, Dataset, EncodedRow, Encoder, OnBadRow, RowKind, RowNumbers, Shuffle, Target};
use std::path::Path;

/// Returns the first `n` rows of the file in `folder` for this kind, in its order. Rows of scored answers are made from pairs: a
/// row has the two answers of its pair and the chosen answer of the next pair. Every third row has only its chosen answer.
pub(crate) fn golden_rows(folder: &Path, encoder: Encoder, kind: RowKind, n: usize) -> Vec<EncodedRow> {
    let read = |file: &str, encoder, n| {
        let data = Dataset::open(&[folder.join(file)], encoder, kind, OnBadRow::Error).unwrap();
        data.rows(&data.order(Shuffle::Off, 0)[..n]).unwrap()
    };
    match kind {
        RowKind::Pair | RowKind::Sequence => read("pairs.jsonl", encoder, n),
        RowKind::Labelled => read("kto.jsonl", encoder, n),
        RowKind::Scored => {
            let pairs = golden_rows(folder, encoder, RowKind::Pair, n + 1);
            (pairs.windows(2).enumerate())
                .map(|(i, rows)| {
                    let other = Answer { kept: rows[1].answers[0].kept.min(24), ..rows[1].answers[0].clone() };
                    let mut row = rows[0].clone();
                    row.answers.push(other);
                    row.target = Target::Rewards(vec![1.0, -0.5, 0.25]);
                    if i % 3 == 2 {
                        row.answers.truncate(1);
                        row.target = Target::Rewards(vec![1.0]);
                    }
                    row
                })
                .collect()
        }
    }
}

/// Adds the numbers that some losses read to the rows of pairs: weight, margin and win probabilities.
pub(crate) fn with_numbers(mut rows: Vec<EncodedRow>) -> Vec<EncodedRow> {
    for (i, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.target == Target::Pair) {
        let certain = 0.75 + 0.05 * (i % 5) as f64;
        row.numbers = RowNumbers {
            weight: Some(0.5 + 0.25 * (i % 4) as f64),
            margin: Some(0.01 * (i % 3) as f64),
            win_probability: Some([certain, 1.0 - certain]),
            beats_probability: Some(certain),
        };
    }
    rows
}
