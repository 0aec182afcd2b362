//! Tests of opening a data set: what the survey counts, and what is refused.

use serde_json::{Value, json};

use super::{ROWS, encoder, file, open, pair, tiny};
use crate::record::bad_row::BadRow;
use crate::record::reading::{Pairs, Reading};
use crate::row::{RowKind, Target};
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::set::prompts::prompts;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::tokens::encode::{DropReason, Encoded, Encoder};

#[test]
fn the_first_bad_row_ends_the_run_with_file_and_line() {
    let mut rows: Vec<String> = (0..3000).map(pair).collect();
    rows[1500] = "{".to_owned();
    rows[2900] = "[]".to_owned();
    rows.insert(10, String::new()); // a blank line is not a row but counts as a line
    match open(&rows, RowKind::Pair, OnBadRow::Error) {
        Err(DataError::Row { line: 1502, reason: BadRow::Json { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn skipped_rows_are_counted_by_reason() {
    let mut rows: Vec<String> = (0..10).map(pair).collect();
    rows[0] = "{".to_owned();
    rows[3] = json!({"prompt": "p", "chosen": "same", "rejected": "same"}).to_string();
    rows[4] = "}".to_owned();
    rows[5] = json!({"prompt": "p", "completion": "c", "label": true}).to_string();
    rows[6] = json!({"prompt": "word ".repeat(100), "chosen": " a", "rejected": " b", "extra": 1}).to_string();
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Skip).unwrap();
    let survey = dataset.survey();
    assert_eq!((survey.records, survey.kept, survey.dropped_rows()), (10, 5, 5));
    let counts: Vec<_> = survey.dropped.iter().map(|d| (d.label.as_str(), d.rows, d.line)).collect();
    assert_eq!(
        counts,
        [
            ("not valid JSON", 2, 1),
            ("chosen equals rejected", 1, 4),
            ("other shape than the first row", 1, 6),
            ("prompt fills max-length", 1, 7)
        ]
    );
    assert_eq!(survey.ignored_columns.iter().collect::<Vec<_>>(), [(&"extra".to_owned(), &1)]);
    assert_eq!(survey.answers, 10);
    assert_eq!(survey.stopping_answers, 10);
    let other = &survey.dropped[2].first.to_string();
    assert!(other.contains(
        "{prompt, completion, label} of strings, the first row of the run is {prompt, chosen, rejected} of strings"
    ));

    let ids = |dataset: &Dataset| -> Vec<Value> {
        dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap().into_iter().map(|row| row.id.unwrap()).collect()
    };
    assert_eq!(ids(&dataset), [1, 2, 7, 8, 9].map(Value::from));

    // every record has an outcome, in order
    let outcomes = dataset.outcomes(0..10).unwrap();
    assert_eq!(outcomes.iter().map(Encoded::row).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    let dropped = outcomes.iter().filter(|o| matches!(o, Encoded::Dropped { .. })).count();
    assert_eq!(dropped, 5);
    assert!(matches!(&outcomes[6], Encoded::Dropped { reason: DropReason::NoRoom { max_length: 64, .. }, .. }));
}

#[test]
fn rows_of_one_run_are_of_one_kind() {
    let implicit = json!({"chosen": "it is good", "rejected": "it is bad"}).to_string();
    assert_eq!(open(&[pair(0), implicit.clone()], RowKind::Pair, OnBadRow::Error).unwrap().len(), 2);
    let turns = |text: &str| json!([{"role": "assistant", "content": text}]);
    let chat =
        json!({"prompt": [{"role": "user", "content": "p"}], "chosen": turns("c"), "rejected": turns("r")}).to_string();
    let labelled = json!({"prompt": "p", "completion": "c", "label": true}).to_string();
    for (first, second) in [(&implicit, &chat), (&chat, &implicit), (&implicit, &labelled), (&labelled, &implicit)] {
        let error = open(&[first.clone(), second.clone()], RowKind::Labelled, OnBadRow::Error).unwrap_err();
        assert!(matches!(error, DataError::Row { line: 2, reason: BadRow::OtherShape { .. }, .. }), "{error}");
    }
}

/// A row with a long prompt is not bad. It is dropped and counted even if bad rows end the run.
#[test]
fn long_prompts_are_dropped_under_either_policy() {
    let long = json!({"prompt": "word ".repeat(100), "chosen": " a", "rejected": " b"}).to_string();
    let dataset = open(&[pair(0), long.clone()], RowKind::Pair, OnBadRow::Error).unwrap();
    assert_eq!((dataset.len(), dataset.survey().dropped_rows()), (1, 1));
    match open(&[long], RowKind::Pair, OnBadRow::Error) {
        Err(DataError::NothingLeft { rows: 1, line: 1, reason: DropReason::NoRoom { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_that_the_loss_cannot_use_are_refused() {
    let labelled = json!({"prompt": "p", "completion": " c", "label": true}).to_string();
    let scored = json!({"prompt": "p", "completions": [" a", " b"], "rewards": [1, 2]}).to_string();
    let prompt = json!({"prompt": "p"}).to_string();
    for (row, kind) in [
        (&labelled, Some(RowKind::Pair)),
        (&scored, Some(RowKind::Pair)),
        (&scored, Some(RowKind::Labelled)),
        (&labelled, Some(RowKind::Scored)),
        (&pair(0), Some(RowKind::Scored)),
        (&prompt, None),
        (&prompt, Some(RowKind::Pair)),
    ] {
        let result = open(std::slice::from_ref(row), kind, OnBadRow::Skip);
        assert!(matches!(result, Err(DataError::WrongShape { line: 1, .. })), "{row} for {kind:?}");
    }
    for row in [&labelled, &scored, &pair(0)] {
        assert_eq!(open(std::slice::from_ref(row), None, OnBadRow::Error).unwrap().len(), 1);
    }
    let rewards = open(&[scored], RowKind::Scored, OnBadRow::Error).unwrap().rows(&[0]).unwrap();
    assert_eq!(rewards[0].target, Target::Rewards(vec![1.0, 2.0]));
    assert_eq!(rewards[0].answers.len(), 2);
}

#[test]
fn forms_that_the_model_has_no_means_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let chat = json!({"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "c"}],
                      "rejected": [{"role": "assistant", "content": "r"}]});
    for (row, is_expected) in [
        (chat.to_string(), (|e| matches!(e, DataError::NoTemplate { line: 1, .. })) as fn(&DataError) -> bool),
        (pair(0), |e| matches!(e, DataError::NoEos { line: 1, .. })),
    ] {
        let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
        let file = file(&[row]);
        let error = Dataset::open(&[file.path().to_owned()], encoder, RowKind::Pair, OnBadRow::Error).unwrap_err();
        assert!(is_expected(&error), "{error}");
    }
    let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
    let file = file(&[chat.to_string()]);
    let error = prompts(&[file.path().to_owned()], &encoder, None).unwrap_err();
    assert!(matches!(error, DataError::NoTemplate { .. }), "{error}");
}

#[test]
fn the_survey_counts_cuts_empties_and_moved_boundaries() {
    let rows = [
        json!({"prompt": "Say nothing.", "chosen": "", "rejected": " something"}),
        json!({"prompt": "Count:", "chosen": " 1, 2".repeat(50), "rejected": format!("{} no", " 1, 2".repeat(50))}),
        json!({"prompt": "Which one is it? It is ", "chosen": "the answer", "rejected": "the other"}),
    ];
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Error).unwrap();
    let survey = dataset.survey();
    assert_eq!((survey.kept, survey.answers, survey.empty_answers), (3, 6, 1));
    assert_eq!((survey.cut_answers, survey.same_after_cut, survey.longest_tree), (2, 1, dataset.lengths(1).tree()));
    assert_eq!(survey.moved_boundaries, 1);
    let example = &survey.boundary_examples[0];
    assert_eq!(example.row, 2);
    assert_ne!(example.alone, example.followed);
    assert_eq!(survey.stopping_answers, 6); // counted before the cut
    let total: usize = (0..3).map(|i| dataset.lengths(i).tree()).sum();
    assert_eq!(survey.prompt_tokens + survey.answer_tokens, total as u64);
    for (i, row) in dataset.rows(&[0, 1, 2]).unwrap().iter().enumerate() {
        assert_eq!(dataset.lengths(i).tree(), row.tree_tokens());
        assert_eq!(dataset.lengths(i).prompt, row.prompt.len());
        let lengths = dataset.lengths(i);
        let kept: Vec<usize> = lengths.answers.iter().map(|&tokens| lengths.kept_of(tokens)).collect();
        assert_eq!(kept, row.answers.iter().map(|answer| answer.kept).collect::<Vec<_>>());
        assert!(row.answers.iter().all(|a| row.prompt.len() + a.kept <= 64));
    }
}

#[test]
fn all_pairs_of_a_row_are_limited_and_read_one_at_a_time() {
    let scored = |answers: usize, prompt: &str| {
        let completions: Vec<String> = (0..answers).map(|i| format!(" a{i}")).collect();
        json!({"prompt": prompt, "completions": completions, "rewards": (0..answers).collect::<Vec<_>>()}).to_string()
    };
    let reading = Reading { pairs: Some(Pairs::All), ..Reading::default() };
    let opened = |rows: &[String], on_bad_row| {
        let file = file(rows);
        let encoder = encoder("tiny-llama", 64).with_reading(reading.clone());
        Dataset::open(&[file.path().to_owned()], encoder, RowKind::Pair, on_bad_row)
    };
    let dataset = opened(&[scored(3, "p"), scored(12, "q")], OnBadRow::Error).unwrap();
    assert_eq!((dataset.len(), dataset.survey().answers), (3 + 66, 2 * (3 + 66)));
    let order = dataset.order(Shuffle::Off, 0);
    let outcomes: Vec<_> = dataset.outcomes(0..2).unwrap();
    let rows: Vec<Encoded> = dataset.rows(&order).unwrap().into_iter().map(Encoded::Kept).collect();
    assert_eq!(rows, outcomes);
    // 142 answers make 10,011 pairs
    assert_eq!(opened(&[scored(2, "p"), scored(141, "p")], OnBadRow::Error).unwrap().len(), 1 + 9870);
    for (row, words) in [
        (
            scored(142, "p"),
            "--pairs all makes 10011 pairs of 94611 bytes of the row's 142 answers; the limit is 10000 pairs",
        ),
        (scored(100, &"p ".repeat(10_000)), "--pairs all makes 4950 pairs of 99038610 bytes of the row's 100 answers"),
    ] {
        let rows = [scored(2, "p"), row];
        let error = opened(&rows, OnBadRow::Error).unwrap_err();
        assert!(matches!(error, DataError::Row { line: 2, reason: BadRow::ManyPairs { .. }, .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(opened(&rows, OnBadRow::Skip).unwrap().len(), 1);
    }
}

#[test]
fn columns_of_rows_that_are_left_out_count_for_no_name() {
    let rows = [
        json!({"question": "p", "chosen": " a", "rejected": " b"}),
        json!({"query": "p", "completion": " a"}),
        json!({"instruction": "p", "input": "", "chosen": " a", "rejected": " b"}),
    ];
    let dataset = open(&rows, RowKind::Pair, OnBadRow::Skip).unwrap();
    let by_name: Vec<_> = dataset.survey().by_name.iter().map(|it| (it.column.as_str(), it.records)).collect();
    assert_eq!(by_name, [("question", 1), ("instruction", 1)]);
}

/// Bad rows have columns, too: a mapped column that only bad rows have counts as existing.
#[test]
fn the_columns_of_bad_rows_are_columns() {
    let mapped = |text: &str| encoder("tiny-llama", 64).with_reading(text.parse::<ColumnMap>().unwrap().into());
    let rows = [pair(0), json!({"prompt": "p", "chosen": "same", "rejected": "same", "w": 1}).to_string()];
    let file = file(&rows);
    let open = |map: &str| Dataset::open(&[file.path().to_owned()], mapped(map), RowKind::Pair, OnBadRow::Skip);
    assert_eq!(open("weight=w").unwrap().len(), 1);
    assert!(matches!(open("weight=v"), Err(DataError::NoSuchColumn { name: "weight", .. })));
    // if no row is an object, the error says so, and not that the column is missing
    let file = super::file(&["{".to_owned()]);
    let none = Dataset::open(&[file.path().to_owned()], mapped("weight=w"), RowKind::Pair, OnBadRow::Skip);
    assert!(
        matches!(none, Err(DataError::NothingLeft { reason: DropReason::Bad(BadRow::Json { .. }), .. })),
        "{none:?}"
    );
}

/// A row of a megabyte is encoded and cut like any other.
#[test]
fn a_row_of_a_megabyte_is_cut() {
    let row = json!({"prompt": "Count:", "chosen": " one two".repeat(1 << 17), "rejected": " no"}).to_string();
    assert!(row.len() > 1 << 20);
    let dataset = open(&[row], RowKind::Pair, OnBadRow::Error).unwrap();
    let rows = dataset.rows(&[0]).unwrap();
    assert_eq!(rows[0].prompt.len() + rows[0].answers[0].kept, 64);
    assert!(rows[0].answers[0].is_cut());
}

#[test]
fn a_data_file_that_changes_during_the_run_ends_it() {
    let file = file(&(0..5).map(pair).collect::<Vec<_>>());
    let dataset =
        Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), RowKind::Pair, OnBadRow::Error).unwrap();
    file.as_file().set_len(100).unwrap();
    assert!(matches!(dataset.rows(&[4]), Err(DataError::Source(SourceError::Changed { .. }))));
    assert!(matches!(dataset.outcomes(0..5), Err(DataError::Source(SourceError::Changed { .. }))));
}
