//! Tests of the order of the rows: unpaired rows, shuffles, and the rows that are held out.

use serde_json::{Value, json};

use super::{open, pair};
use crate::batch::mismatch::Mismatch;
use crate::row::{RowKind, Target};
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::set::options::UnpairedOrder;

/// TRL unpairs a thousand rows at a time: first all chosen answers, then all rejected ones.
#[test]
fn unpaired_rows_stand_in_trls_order() {
    let rows: Vec<String> = (0..1003).map(pair).collect();
    let dataset = open(&rows, RowKind::Labelled, OnBadRow::Error).unwrap().with_unpaired_order(UnpairedOrder::Trl);
    assert!(dataset.is_unpaired());
    assert_eq!(dataset.mismatch(), Mismatch::Previous);
    let encoded = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
    let found: Vec<(usize, bool)> = encoded.iter().map(|row| (row.row, row.target == Target::Label(true))).collect();
    let block = |rows: std::ops::Range<usize>| rows.clone().map(|r| (r, true)).chain(rows.map(|r| (r, false)));
    let expected: Vec<(usize, bool)> = block(0..1000).chain(block(1000..1003)).collect();
    assert_eq!(found, expected);
    assert_eq!(dataset.survey().kept, 2006);
}

/// By default, every batch of two or more rows has both classes, and its mismatched answers belong to other prompts.
#[test]
fn unpaired_rows_are_interleaved() {
    let prompt = |i: usize| if i % 7 < 3 { i } else { i - i % 7 };
    let rows: Vec<Value> = (0..40)
        .map(|i| json!({"prompt": format!("Question {}?", prompt(i)), "chosen": format!(" a{i}"), "rejected": format!(" b{i}")}))
        .collect();
    let dataset = open(&rows, RowKind::Labelled, OnBadRow::Error).unwrap();
    let order = dataset.order(Shuffle::Off, 0);
    for batch_size in 2..=80 {
        for batch in order.chunks(batch_size).filter(|batch| batch.len() > 1) {
            let encoded = dataset.rows(batch).unwrap();
            assert!(
                [true, false].map(|label| encoded.iter().any(|row| row.target == Target::Label(label))) == [true; 2]
            );
            let donors = dataset.rows(&dataset.donors(batch)).unwrap();
            for (row, donor) in encoded.iter().zip(&donors) {
                assert_ne!(row.prompt, donor.prompt, "batches of {batch_size}");
            }
        }
    }
    assert!(!dataset.has_one_prompt());
}

/// Several of the pairs share a prompt.
#[test]
fn shuffled_unpaired_rows_never_follow_one_of_the_same_prompt() {
    let mut rows: Vec<Value> = (0..20)
        .map(|i| json!({"prompt": format!("Question {}?", i / 3), "chosen": format!(" a{i}"), "rejected": format!(" b{i}")}))
        .collect();
    rows.push(json!({"prompt": "Another?", "chosen": " a", "rejected": " b"}));
    let dataset = open(&rows, RowKind::Labelled, OnBadRow::Error).unwrap();
    for epoch in 0..50 {
        let order = dataset.order(Shuffle::Seeded(3), epoch);
        assert_eq!(order, dataset.order(Shuffle::Seeded(3), epoch));
        let shuffled = dataset.rows(&order).unwrap();
        let follows = shuffled.windows(2).filter(|w| w[0].prompt == w[1].prompt).count();
        assert_eq!(follows, 0, "epoch {epoch}");
    }
}

#[test]
fn labelled_rows_are_not_unpaired() {
    let rows: Vec<Value> =
        (0..5).map(|i| json!({"prompt": "p", "completion": format!(" c{i}"), "label": i % 2 == 0})).collect();
    let dataset = open(&rows, RowKind::Labelled, OnBadRow::Error).unwrap();
    assert!(!dataset.is_unpaired());
    let rows = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
    assert_eq!(
        rows.iter().map(|r| r.target == Target::Label(true)).collect::<Vec<_>>(),
        [true, false, true, false, true]
    );
}

/// The rows of an epoch are the same whether they are read all at once or in windows.
#[test]
fn rows_do_not_depend_on_the_window() {
    let rows: Vec<String> = (0..40).map(pair).collect();
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Error).unwrap();
    let order = dataset.order(Shuffle::Seeded(1), 0);
    assert_ne!(order, dataset.order(Shuffle::Seeded(1), 1));
    let at_once = dataset.rows(&order).unwrap();
    let in_windows: Vec<_> = order.chunks(7).flat_map(|window| dataset.rows(window).unwrap()).collect();
    assert_eq!(at_once, in_windows);
}

/// Splits rows of every shape, with two rows for each prompt. Some rows are held out, and no prompt has rows on both sides of the
/// split.
#[test]
fn rows_of_every_shape_can_be_held_out() {
    let turn = |role: &str, text: String| json!({"role": role, "content": text});
    let ask = |i: usize| turn("user", format!("Question {i}?"));
    let say = |text: String| turn("assistant", text);
    type Row<'a> = &'a dyn Fn(usize, usize) -> Value;
    // each function makes row `n` of the rows with prompt `p`
    let shapes: [(&str, RowKind, Row<'_>); 11] = [
        (
            "pairs",
            RowKind::Pair,
            &|p, n| json!({"prompt": format!("{p}?"), "chosen": format!(" a{n}"), "rejected": " b"}),
        ),
        (
            "pairs of turns",
            RowKind::Pair,
            &|p, n| json!({"prompt": [ask(p)], "chosen": [say(format!("a{n}"))], "rejected": [say("b".to_owned())]}),
        ),
        ("implicit", RowKind::Pair, &|p, n| json!({"chosen": format!("{p}? a{n}"), "rejected": format!("{p}? b{n}")})),
        (
            "implicit turns",
            RowKind::Labelled,
            &|p, n| json!({"chosen": [ask(p), say(format!("a{n}"))], "rejected": [ask(p), say("b".to_owned())]}),
        ),
        (
            "labelled",
            RowKind::Labelled,
            &|p, n| json!({"prompt": format!("{p}?"), "completion": format!(" a{n}"), "label": n == 0}),
        ),
        (
            "scored",
            RowKind::Scored,
            &|p, n| json!({"prompt": format!("{p}?"), "completions": [format!(" a{n}"), " b"], "rewards": [1, 0]}),
        ),
        ("completions", RowKind::Sequence, &|p, n| json!({"prompt": format!("{p}?"), "completion": format!(" a{n}")})),
        ("messages", RowKind::Sequence, &|p, n| json!({"messages": [ask(p), say(format!("a{n}"))]})),
        (
            "two answers and a last word",
            RowKind::Sequence,
            &|p, n| json!({"messages": [ask(p), say(format!("a{n}")), say("more".to_owned()), turn("user", format!("thanks {n}"))]}),
        ),
        ("the assistant alone", RowKind::Sequence, &|p, _| json!({"messages": [say(format!("a{p}"))]})),
        ("texts", RowKind::Sequence, &|p, _| json!({"text": format!("text {p}")})),
    ];
    for (name, kind, row) in shapes {
        let rows: Vec<Value> = (0..24).map(|i| row(i / 2, i % 2)).collect();
        let split = open(&rows, kind, OnBadRow::Error).unwrap().split(0.25, 7).unwrap();
        let prompts = |data: &Dataset| -> std::collections::BTreeSet<usize> {
            data.rows(&data.order(Shuffle::Off, 0)).unwrap().iter().map(|encoded| encoded.row / 2).collect()
        };
        let (train, held_out) = (prompts(&split.train), prompts(&split.held_out));
        assert_eq!((train.len(), held_out.len()), (9, 3), "{name}");
        assert!(train.is_disjoint(&held_out), "{name}: {train:?} {held_out:?}");
        assert_eq!(split.held_out_prompts, 3, "{name}");
    }
    // conversations with the same question have one prompt and cannot be split
    let same = json!({"messages": [turn("user", "Question".to_owned()), say("a".to_owned())]});
    let rows = [same.clone(), json!({"messages": [turn("user", "Question".to_owned()), say("b".to_owned())]})];
    let one = open(&rows, RowKind::Sequence, OnBadRow::Error).unwrap().split(0.5, 1);
    assert!(matches!(one, Err(DataError::OnePrompt { rows: 2 })));
}
