//! Tests of batches that are encoded ahead, while the caller works on the previous batch.

use std::io::Write;
use std::ops::ControlFlow;

use super::{encoder, file, open, pair};
use crate::batch::ahead::for_each_ahead;
use crate::row::EncodedRow;
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::source::error::SourceError;

fn for_each_batch<'b>(
    data: &Dataset,
    mut batches: impl Iterator<Item = &'b [u32]> + Send,
    each: impl FnMut(Vec<EncodedRow>) -> Result<ControlFlow<()>, DataError>,
) -> Result<(), DataError> {
    for_each_ahead(|| Some(data.rows(batches.next()?)), each)
}

#[test]
fn batches_come_in_their_order_until_they_are_told_to_stop() {
    let rows: Vec<String> = (0..50).map(pair).collect();
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Error).unwrap();
    let order = dataset.order(Shuffle::Seeded(3), 0);
    for stop_after in [1, 4, usize::MAX] {
        let mut batches = Vec::new();
        for_each_batch(&dataset, order.chunks(7), |rows| {
            batches.push(rows);
            let more = batches.len() < stop_after;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
        .unwrap();
        let want: Vec<_> = order.chunks(7).take(stop_after).map(|batch| dataset.rows(batch).unwrap()).collect();
        assert_eq!(batches, want);
    }
}

#[test]
fn a_batch_that_cannot_be_read_fails_when_its_turn_has_come() {
    let mut file = file(&(0..4).map(pair).collect::<Vec<_>>());
    let dataset =
        Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), RowKind::Pair, OnBadRow::Error).unwrap();
    let mut seen = 0;
    let order: Vec<u32> = (0..4).collect();
    let outcome = for_each_batch(&dataset, order.chunks(1), |_| {
        seen += 1;
        writeln!(file, "{}", pair(9)).unwrap();
        Ok(ControlFlow::Continue(()))
    });
    assert!(matches!(outcome, Err(DataError::Source(SourceError::Changed { .. }))), "{outcome:?}");
    // one more batch may have been encoded before the file changed
    assert!((1..=2).contains(&seen), "{seen}");
}

#[test]
fn a_panic_on_either_side_reaches_the_caller() {
    let rows: Vec<String> = (0..6).map(pair).collect();
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Error).unwrap();
    let run = |order: &[u32], limit: usize| {
        let mut seen = 0;
        for_each_batch(&dataset, order.chunks(1), |_| {
            seen += 1;
            assert!(seen <= limit, "as the test wants it");
            Ok(ControlFlow::Continue(()))
        })
    };
    let panics =
        |order: &[u32], limit| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(order, limit))).is_err();
    assert!(panics(&[0, 1, 2], 1), "in the consumer");
    assert!(panics(&[0, 99, 2], 9), "in the encoder: there is no such row");
    assert!(!panics(&[0, 1, 2], 3));
}
