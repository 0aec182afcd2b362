//! Data sets: what the survey counts and refuses, unpairing, orders, and the encoder's own bad rows.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::columns::ColumnMap;
use super::records::Record;
use super::{
    BadRow, DataError, Dataset, DropReason, Encoded, Encoder, ImplicitPrompt, Mismatch, Needs, OnBadRow, Pairs,
    Prompts, Reading, Shuffle, Target, TokenizerError, UnpairedOrder, for_each_batch, prompts,
};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name).join("model")
}

/// The tiny models have fewer rows; their exact number is checked by the golden tests.
const ROWS: usize = 4096;

fn encoder(name: &str, max_length: usize) -> Encoder {
    let encoder = Encoder::from_model(&tiny(name), None, max_length, ROWS).unwrap();
    // TRL's rule for the prompts of pairs of texts
    encoder.with_reading(Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() })
}

fn file(lines: &[String]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
    file
}

fn open(lines: &[String], needs: Needs, on_bad_row: OnBadRow) -> Result<Dataset, DataError> {
    let file = file(lines);
    // the open handle keeps the rows readable after the name is gone
    Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), needs, on_bad_row)
}

fn pair(i: usize) -> String {
    json!({"prompt": format!("Question {i}?"), "chosen": format!(" good {i}"), "rejected": format!(" bad {i}"), "id": i}).to_string()
}

fn lines(rows: &[Value]) -> Vec<String> {
    rows.iter().map(Value::to_string).collect()
}

#[test]
fn the_first_bad_row_ends_the_run_with_file_and_line() {
    let mut rows: Vec<String> = (0..3000).map(pair).collect();
    rows[1500] = "{".to_owned();
    rows[2900] = "[]".to_owned();
    rows.insert(10, String::new()); // blank, but a line
    match open(&rows, Needs::Pairs, OnBadRow::Error) {
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
    let dataset = open(&rows, Needs::Pairs, OnBadRow::Skip).unwrap();
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
    assert_eq!(open(&[pair(0), implicit.clone()], Needs::Pairs, OnBadRow::Error).unwrap().len(), 2);
    let turns = |text: &str| json!([{"role": "assistant", "content": text}]);
    let chat =
        json!({"prompt": [{"role": "user", "content": "p"}], "chosen": turns("c"), "rejected": turns("r")}).to_string();
    let labelled = json!({"prompt": "p", "completion": "c", "label": true}).to_string();
    for (first, second) in [(&implicit, &chat), (&chat, &implicit), (&implicit, &labelled), (&labelled, &implicit)] {
        let error = open(&[first.clone(), second.clone()], Needs::Labels, OnBadRow::Error).unwrap_err();
        assert!(matches!(error, DataError::Row { line: 2, reason: BadRow::OtherShape { .. }, .. }), "{error}");
    }
}

/// A long prompt is no fault of the row: dropped and counted without `skip`.
#[test]
fn long_prompts_are_dropped_under_either_policy() {
    let long = json!({"prompt": "word ".repeat(100), "chosen": " a", "rejected": " b"}).to_string();
    let dataset = open(&[pair(0), long.clone()], Needs::Pairs, OnBadRow::Error).unwrap();
    assert_eq!((dataset.len(), dataset.survey().dropped_rows()), (1, 1));
    match open(&[long], Needs::Pairs, OnBadRow::Error) {
        Err(DataError::NothingLeft { rows: 1, line: 1, reason: DropReason::NoRoom { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_that_the_loss_cannot_use_are_refused() {
    let labelled = json!({"prompt": "p", "completion": " c", "label": true}).to_string();
    let scored = json!({"prompt": "p", "completions": [" a", " b"], "rewards": [1, 2]}).to_string();
    let prompt = json!({"prompt": "p"}).to_string();
    for (row, needs) in [
        (&labelled, Needs::Pairs),
        (&scored, Needs::Pairs),
        (&scored, Needs::Labels),
        (&labelled, Needs::Rewards),
        (&pair(0), Needs::Rewards),
        (&prompt, Needs::Answers),
        (&prompt, Needs::Pairs),
    ] {
        let result = open(std::slice::from_ref(row), needs, OnBadRow::Skip);
        assert!(matches!(result, Err(DataError::WrongShape { line: 1, .. })), "{row} for {needs:?}");
    }
    for row in [&labelled, &scored, &pair(0)] {
        assert_eq!(open(std::slice::from_ref(row), Needs::Answers, OnBadRow::Error).unwrap().len(), 1);
    }
    let rewards = open(&[scored], Needs::Rewards, OnBadRow::Error).unwrap().rows(&[0]).unwrap();
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
        let error = Dataset::open(&[file.path().to_owned()], encoder, Needs::Pairs, OnBadRow::Error).unwrap_err();
        assert!(is_expected(&error), "{error}");
    }
    let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
    let file = file(&[chat.to_string()]);
    let error = prompts(&[file.path().to_owned()], &encoder, None).unwrap_err();
    assert!(matches!(error, DataError::NoTemplate { .. }), "{error}");
}

#[test]
fn empty_answers_are_counted_in_both_forms() {
    let encoder = Encoder::from_model(&tiny("tiny-llama"), None, 64, ROWS).unwrap();
    let empty = |prompt: Value, chosen: Value, rejected: Value| {
        let row = json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        let record = Record::parse(0, row.to_string().as_bytes()).unwrap().record;
        encoder.encode(&record).unwrap().1.empty_answers
    };
    let asked = json!([{"role": "user", "content": "p"}]);
    let said = |content: &str| json!([{"role": "assistant", "content": content}]);
    for (content, expected) in [("", 1), ("a", 0)] {
        assert_eq!(empty(json!("p"), json!(content), json!("b")), expected, "text {content:?}");
        assert_eq!(empty(asked.clone(), said(content), said("b")), expected, "turns {content:?}");
    }
}

#[test]
fn the_encoder_refuses_what_it_cannot_score() {
    let dir = tempfile::tempdir().unwrap();
    let with_template = |source: &str| {
        std::fs::write(dir.path().join("t.jinja"), source).unwrap();
        Encoder::from_model(&tiny("tiny-llama"), Some(&dir.path().join("t.jinja")), 64, ROWS).unwrap()
    };
    let record = |chosen: &str, rejected: &str| {
        let row = json!({"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": chosen}],
                         "rejected": [{"role": "assistant", "content": rejected}]});
        Record::parse(0, row.to_string().as_bytes()).unwrap().record
    };
    let renamed = || {
        let columns: ColumnMap = "chosen=better,rejected=worse".parse().unwrap();
        let row = json!({"prompt": [{"role": "user", "content": "p"}], "better": [{"role": "assistant", "content": "a"}],
                         "worse": [{"role": "assistant", "content": " a "}]});
        Record::parse_with(0, row.to_string().as_bytes(), &columns.into()).unwrap().record
    };
    let contents = "{% for m in messages %}{{ m.content | trim }} {% endfor %}";
    let same = BadRow::SameTokens { chosen: "chosen".to_owned(), rejected: "rejected".to_owned() };
    assert_eq!(with_template(contents).encode(&record("a", " a ")), Err(same));
    let said = with_template(contents).encode(&renamed()).unwrap_err().to_string();
    assert!(said.contains("`better` and `worse` differ, but are the same tokens"), "{said}");
    let first = "{{ messages[0].content }}";
    assert!(
        matches!(with_template(first).encode(&record("a", "b")), Err(BadRow::NoAnswerTokens { field }) if field == "chosen")
    );
    let refusing = "{% if messages | length > 1 %}{{ raise_exception('too many turns') }}{% endif %}x";
    let refused = BadRow::Template { message: "too many turns".to_owned() };
    assert_eq!(with_template(refusing).encode(&record("a", "b")), Err(refused));
    let answers_alone = "{% if messages | length > 1 %}{{ messages[1].content }}{% endif %}";
    let (encoded, _) = with_template(answers_alone).encode(&record("a", "b")).unwrap();
    assert!(matches!(encoded, Encoded::Dropped { reason: DropReason::NoPrompt, .. }));

    // the row that a template refuses is named with its file and line
    let rows = [record("a", "b"), record("c", "d")].map(|_| {
        json!({"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "a"}],
               "rejected": [{"role": "assistant", "content": "b"}]})
    });
    let file = file(&lines(&rows));
    let error =
        Dataset::open(&[file.path().to_owned()], with_template(refusing), Needs::Pairs, OnBadRow::Error).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(":1: chat template: too many turns"), "{message}");
}

#[test]
fn the_survey_counts_cuts_empties_and_moved_boundaries() {
    let rows = lines(&[
        json!({"prompt": "Say nothing.", "chosen": "", "rejected": " something"}),
        json!({"prompt": "Count:", "chosen": " 1, 2".repeat(50), "rejected": format!("{} no", " 1, 2".repeat(50))}),
        json!({"prompt": "Which one is it? It is ", "chosen": "the answer", "rejected": "the other"}),
    ]);
    let dataset = open(&rows, Needs::Pairs, OnBadRow::Error).unwrap();
    let survey = dataset.survey();
    assert_eq!((survey.kept, survey.answers, survey.empty_answers), (3, 6, 1));
    assert_eq!((survey.cut_answers, survey.same_after_cut, survey.longest_tree), (2, 1, dataset.lengths(1).tree));
    assert_eq!(survey.moved_boundaries, 1);
    let example = &survey.boundary_examples[0];
    assert_eq!(example.row, 2);
    assert_ne!(example.alone, example.followed);
    assert_eq!(survey.stopping_answers, 6); // counted before the cut
    let total: usize = (0..3).map(|i| dataset.lengths(i).tree).sum();
    assert_eq!(survey.prompt_tokens + survey.answer_tokens, total as u64);
    for (i, row) in dataset.rows(&[0, 1, 2]).unwrap().iter().enumerate() {
        assert_eq!(dataset.lengths(i).tree, row.tree_tokens());
        assert_eq!(dataset.lengths(i).prompt, row.prompt.len());
        assert!(row.answers.iter().all(|a| row.prompt.len() + a.kept <= 64));
    }
}

/// TRL unpairs a thousand rows at a time.
#[test]
fn unpaired_rows_stand_in_trls_order() {
    let rows: Vec<String> = (0..1003).map(pair).collect();
    let dataset = open(&rows, Needs::Labels, OnBadRow::Error).unwrap().with_unpaired_order(UnpairedOrder::Trl);
    assert!(dataset.is_unpaired());
    assert_eq!(dataset.mismatch(), Mismatch::Previous);
    let encoded = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
    let found: Vec<(usize, bool)> = encoded.iter().map(|row| (row.row, row.target == Target::Label(true))).collect();
    let block = |rows: std::ops::Range<usize>| rows.clone().map(|r| (r, true)).chain(rows.map(|r| (r, false)));
    let expected: Vec<(usize, bool)> = block(0..1000).chain(block(1000..1003)).collect();
    assert_eq!(found, expected);
    assert_eq!(dataset.survey().kept, 2006);
}

/// By default: whatever the size of a batch, it has both classes, and its rows meet answers to other prompts.
#[test]
fn unpaired_rows_are_interleaved() {
    let prompt = |i: usize| if i % 7 < 3 { i } else { i - i % 7 };
    let rows: Vec<Value> = (0..40)
        .map(|i| json!({"prompt": format!("Question {}?", prompt(i)), "chosen": format!(" a{i}"), "rejected": format!(" b{i}")}))
        .collect();
    let dataset = open(&lines(&rows), Needs::Labels, OnBadRow::Error).unwrap();
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

/// Pairs of which several share a prompt.
#[test]
fn shuffled_unpaired_rows_never_follow_one_of_the_same_prompt() {
    let mut rows: Vec<Value> = (0..20)
        .map(|i| json!({"prompt": format!("Question {}?", i / 3), "chosen": format!(" a{i}"), "rejected": format!(" b{i}")}))
        .collect();
    rows.push(json!({"prompt": "Another?", "chosen": " a", "rejected": " b"}));
    let dataset = open(&lines(&rows), Needs::Labels, OnBadRow::Error).unwrap();
    for epoch in 0..50 {
        let order = dataset.order(Shuffle::Seeded(3), epoch);
        assert_eq!(order, dataset.order(Shuffle::Seeded(3), epoch));
        let shuffled = dataset.rows(&order).unwrap();
        let follows = shuffled.windows(2).filter(|w| w[0].prompt == w[1].prompt).count();
        assert_eq!(follows, 0, "epoch {epoch}");
    }
}

/// Rows of every shape, two of each prompt: some are held out, and no prompt stands on both sides.
#[test]
fn rows_of_every_shape_can_be_held_out() {
    let turn = |role: &str, text: String| json!({"role": role, "content": text});
    let ask = |i: usize| turn("user", format!("Question {i}?"));
    let say = |text: String| turn("assistant", text);
    type Row<'a> = &'a dyn Fn(usize, usize) -> Value;
    // of the prompt `p`, the `n`-th row
    let shapes: [(&str, Needs, Row<'_>); 11] = [
        (
            "pairs",
            Needs::Pairs,
            &|p, n| json!({"prompt": format!("{p}?"), "chosen": format!(" a{n}"), "rejected": " b"}),
        ),
        (
            "pairs of turns",
            Needs::Pairs,
            &|p, n| json!({"prompt": [ask(p)], "chosen": [say(format!("a{n}"))], "rejected": [say("b".to_owned())]}),
        ),
        ("implicit", Needs::Pairs, &|p, n| json!({"chosen": format!("{p}? a{n}"), "rejected": format!("{p}? b{n}")})),
        (
            "implicit turns",
            Needs::Labels,
            &|p, n| json!({"chosen": [ask(p), say(format!("a{n}"))], "rejected": [ask(p), say("b".to_owned())]}),
        ),
        (
            "labelled",
            Needs::Labels,
            &|p, n| json!({"prompt": format!("{p}?"), "completion": format!(" a{n}"), "label": n == 0}),
        ),
        (
            "scored",
            Needs::Rewards,
            &|p, n| json!({"prompt": format!("{p}?"), "completions": [format!(" a{n}"), " b"], "rewards": [1, 0]}),
        ),
        ("completions", Needs::Sequences, &|p, n| json!({"prompt": format!("{p}?"), "completion": format!(" a{n}")})),
        ("messages", Needs::Sequences, &|p, n| json!({"messages": [ask(p), say(format!("a{n}"))]})),
        (
            "two answers and a last word",
            Needs::Sequences,
            &|p, n| json!({"messages": [ask(p), say(format!("a{n}")), say("more".to_owned()), turn("user", format!("thanks {n}"))]}),
        ),
        ("the assistant alone", Needs::Sequences, &|p, _| json!({"messages": [say(format!("a{p}"))]})),
        ("texts", Needs::Sequences, &|p, _| json!({"text": format!("text {p}")})),
    ];
    for (name, needs, row) in shapes {
        let rows: Vec<Value> = (0..24).map(|i| row(i / 2, i % 2)).collect();
        let split = open(&lines(&rows), needs, OnBadRow::Error).unwrap().split(0.25, 7).unwrap();
        let prompts = |data: &Dataset| -> std::collections::BTreeSet<usize> {
            data.rows(&data.order(Shuffle::Off, 0)).unwrap().iter().map(|encoded| encoded.row / 2).collect()
        };
        let (train, held_out) = (prompts(&split.train), prompts(&split.held_out));
        assert_eq!((train.len(), held_out.len()), (9, 3), "{name}");
        assert!(train.is_disjoint(&held_out), "{name}: {train:?} {held_out:?}");
        assert_eq!(split.held_out_prompts, 3, "{name}");
    }
    // what the one is asked and the other says
    let same = json!({"messages": [turn("user", "Question".to_owned()), say("a".to_owned())]});
    let rows = [same.clone(), json!({"messages": [turn("user", "Question".to_owned()), say("b".to_owned())]})];
    let one = open(&lines(&rows), Needs::Sequences, OnBadRow::Error).unwrap().split(0.5, 1);
    assert!(matches!(one, Err(DataError::OnePrompt { rows: 2 })));
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
        Dataset::open(&[file.path().to_owned()], encoder, Needs::Pairs, on_bad_row)
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
    let dataset = open(&lines(&rows), Needs::Pairs, OnBadRow::Skip).unwrap();
    let by_name: Vec<_> = dataset.survey().by_name.iter().map(|it| (it.column.as_str(), it.records)).collect();
    assert_eq!(by_name, [("question", 1), ("instruction", 1)]);
}

#[test]
fn labelled_rows_are_not_unpaired() {
    let rows: Vec<Value> =
        (0..5).map(|i| json!({"prompt": "p", "completion": format!(" c{i}"), "label": i % 2 == 0})).collect();
    let dataset = open(&lines(&rows), Needs::Labels, OnBadRow::Error).unwrap();
    assert!(!dataset.is_unpaired());
    let rows = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
    assert_eq!(
        rows.iter().map(|r| r.target == Target::Label(true)).collect::<Vec<_>>(),
        [true, false, true, false, true]
    );
}

/// An epoch is one permutation, however it is read; rows are the same in any window.
#[test]
fn rows_do_not_depend_on_the_window() {
    let rows: Vec<String> = (0..40).map(pair).collect();
    let dataset = open(&rows, Needs::Pairs, OnBadRow::Error).unwrap();
    let order = dataset.order(Shuffle::Seeded(1), 0);
    assert_ne!(order, dataset.order(Shuffle::Seeded(1), 1));
    let at_once = dataset.rows(&order).unwrap();
    let in_windows: Vec<_> = order.chunks(7).flat_map(|window| dataset.rows(window).unwrap()).collect();
    assert_eq!(at_once, in_windows);
}

#[test]
fn a_data_file_that_changes_during_the_run_ends_it() {
    let file = file(&(0..5).map(pair).collect::<Vec<_>>());
    let dataset =
        Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), Needs::Pairs, OnBadRow::Error).unwrap();
    file.as_file().set_len(100).unwrap();
    assert!(matches!(dataset.rows(&[4]), Err(DataError::Changed { .. })));
    assert!(matches!(dataset.outcomes(0..5), Err(DataError::Changed { .. })));
}

/// Bad rows have columns too: that all rows with one of the map are bad is no reason to say that there is no such column.
#[test]
fn the_columns_of_bad_rows_are_columns() {
    let mapped = |text: &str| encoder("tiny-llama", 64).with_reading(text.parse::<ColumnMap>().unwrap().into());
    let rows = [pair(0), json!({"prompt": "p", "chosen": "same", "rejected": "same", "w": 1}).to_string()];
    let file = file(&rows);
    let open = |map: &str| Dataset::open(&[file.path().to_owned()], mapped(map), Needs::Pairs, OnBadRow::Skip);
    assert_eq!(open("weight=w").unwrap().len(), 1);
    assert!(matches!(open("weight=v"), Err(DataError::NoSuchColumn { name: "weight", .. })));
    // where no row is an object, that is what is said
    let file = super::dataset_tests::file(&["{".to_owned()]);
    let none = Dataset::open(&[file.path().to_owned()], mapped("weight=w"), Needs::Pairs, OnBadRow::Skip);
    assert!(
        matches!(none, Err(DataError::NothingLeft { reason: DropReason::Bad(BadRow::Json { .. }), .. })),
        "{none:?}"
    );
}

/// The first one that fails is named, whatever the threads do; files behind the limit are not opened; the rest is not encoded.
#[test]
fn prompts_are_taken_as_far_as_they_are_wanted() {
    let rows: Vec<String> = (0..600)
        .map(|i| match i {
            301..=600 => "{".to_owned(),
            i => json!({"prompt": format!("Question {i}?")}).to_string(),
        })
        .collect();
    let (first, second) = (file(&rows[..100]), file(&rows[100..]));
    let paths = [first.path().to_owned(), second.path().to_owned(), PathBuf::from("/no/such/file.jsonl")];
    let encoder = encoder("tiny-llama", 64);
    for _ in 0..20 {
        match prompts(&paths[..2], &encoder, None) {
            Err(DataError::Row { path, line: 202, .. }) => assert_eq!(path, paths[1]),
            other => panic!("{other:?}"),
        }
    }
    let some = Prompts::open(&paths, &encoder, Some(301)).unwrap();
    assert_eq!(some.len(), 301);
    let found = some.get(99..102).unwrap();
    assert_eq!(found.iter().map(|prompt| prompt.row).collect::<Vec<_>>(), [99, 100, 101]);
    let alone = prompts(&paths[1..2], &encoder, Some(1)).unwrap();
    assert_eq!(found[1].ids, alone[0].ids);
    assert!(matches!(Prompts::open(&paths, &encoder, Some(101)).unwrap().get(100..101), Ok(one) if one.len() == 1));
    let empty = file(&[json!({"prompt": ""}).to_string()]);
    let without_bos = super::dataset_tests::encoder("tiny-qwen2", 64);
    let error = prompts(&[empty.path().to_owned()], &without_bos, None).unwrap_err();
    assert!(matches!(error, DataError::Row { line: 1, reason: BadRow::EmptyPrompt, .. }), "{error}");
    assert!(matches!(prompts(&[file(&[]).path().to_owned()], &encoder, None), Err(DataError::Empty { .. })));
    // a column that stands in later rows is none that there is not
    let mixed = file(&[json!({"prompt": "p"}).to_string(), json!({"prompt": "p", "t": []}).to_string()]);
    let mapped = encoder.with_reading("tools=t".parse::<ColumnMap>().unwrap().into());
    assert_eq!(prompts(&[mixed.path().to_owned()], &mapped, Some(1)).unwrap().len(), 1);
    let missing = mapped.with_reading("tools=u".parse::<ColumnMap>().unwrap().into());
    assert!(matches!(prompts(&[mixed.path().to_owned()], &missing, None), Err(DataError::NoSuchColumn { .. })));
}

#[test]
fn prompts_come_from_any_shape() {
    let rows = lines(&[
        json!({"prompt": [{"role": "user", "content": "p"}], "id": "a"}),
        json!({"prompt": "plain", "chosen": " c", "rejected": " r"}),
        json!({"prompt": "plain", "completion": " c", "label": false}),
    ]);
    let file = file(&rows);
    let encoder = encoder("tiny-llama", 64);
    let all = prompts(&[file.path().to_owned()], &encoder, None).unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0].id, Some(json!("a")));
    assert_eq!(all[1].ids, all[2].ids);
    assert_eq!(prompts(&[file.path().to_owned()], &encoder, Some(2)).unwrap(), all[..2]);
}

/// A row of a megabyte is encoded and cut like any other.
#[test]
fn a_row_of_a_megabyte_is_cut() {
    let row = json!({"prompt": "Count:", "chosen": " one two".repeat(1 << 17), "rejected": " no"}).to_string();
    assert!(row.len() > 1 << 20);
    let dataset = open(&[row], Needs::Pairs, OnBadRow::Error).unwrap();
    let rows = dataset.rows(&[0]).unwrap();
    assert_eq!(rows[0].prompt.len() + rows[0].answers[0].kept, 64);
    assert!(rows[0].answers[0].is_cut());
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let load = |dir: &Path, rows: usize| Encoder::from_model(dir, None, 64, rows).map(|_| ());
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(DataError::Tokenizer(TokenizerError::Missing { .. }))));
    match load(&tiny("tiny-llama"), 100) {
        Err(DataError::Tokenizer(TokenizerError::Vocabulary { rows: 100, id, .. })) => assert!(id >= 100),
        other => panic!("{other:?}"),
    }
    let path = dir.path().join("tokenizer.json");
    for broken in ["", "{}", "[1, 2", "{\"model\": {\"type\": \"BPE\"}}", &"[".repeat(100_000)] {
        std::fs::write(&path, broken).unwrap();
        assert!(
            matches!(load(dir.path(), ROWS), Err(DataError::Tokenizer(TokenizerError::Broken { .. }))),
            "{broken:.20}"
        );
    }
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(DataError::Tokenizer(TokenizerError::TooLarge { .. }))));

    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), &path).unwrap();
    for broken in ["{", "[]"] {
        std::fs::write(dir.path().join("tokenizer_config.json"), broken).unwrap();
        assert!(matches!(load(dir.path(), ROWS), Err(DataError::Tokenizer(TokenizerError::Broken { .. }))), "{broken}");
    }
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [3, 1.5]}"#).unwrap();
    assert!(matches!(load(dir.path(), ROWS), Err(DataError::Tokenizer(TokenizerError::Broken { .. }))));
}

/// A special token beyond the embedding (Gemma 3 1B has one) is no obstacle until a text holds it.
#[test]
fn a_spare_special_token_without_an_embedding_refuses_only_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(tiny("tiny-llama").join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    let vocabulary = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .values()
        .chain(tokenizer["added_tokens"].as_array().unwrap().iter().map(|t| &t["id"]));
    let rows = vocabulary.map(|id| id.as_u64().unwrap()).max().unwrap() + 1;
    let spare = json!({"id": rows, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(spare);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer_config.json"), dir.path().join("tokenizer_config.json")).unwrap();

    let encoder = Encoder::from_model(dir.path(), None, 64, rows as usize).unwrap();
    assert_eq!(encoder.tokenizer().unusable_tokens(), [(rows as u32, "<image>".to_owned())]);
    let record = |prompt: &str| {
        Record::parse(0, json!({"prompt": prompt, "chosen": "c", "rejected": "r"}).to_string().as_bytes())
            .unwrap()
            .record
    };
    assert!(encoder.encode(&record("an image")).is_ok());
    assert!(
        matches!(encoder.encode(&record("an <image>")), Err(BadRow::Tokenizer { message }) if message.contains("<image>"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the texts, a kept row keeps the promises of its type.
    #[test]
    fn kept_rows_are_well_formed(prompt: String, chosen: String, rejected: String, max_length in 1usize..40) {
        thread_local! {
            static ENCODERS: std::cell::RefCell<std::collections::HashMap<usize, Encoder>> = Default::default();
        }
        let Ok(parsed) = Record::parse(0, json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}).to_string().as_bytes()) else {
            return Ok(()); // equal answers
        };
        ENCODERS.with_borrow_mut(|encoders| {
            let encoder = encoders.entry(max_length).or_insert_with(|| encoder("tiny-qwen2", max_length));
            match encoder.encode(&parsed.record) {
                Ok((Encoded::Kept(row), notes)) => {
                    prop_assert!(!row.prompt.is_empty() && row.prompt.len() < max_length);
                    for answer in &row.answers {
                        prop_assert!(answer.kept >= 1 && answer.kept <= answer.ids.len());
                        prop_assert!(row.prompt.len() + answer.kept <= max_length);
                        prop_assert_eq!(answer.is_cut(), row.prompt.len() + answer.ids.len() > max_length);
                    }
                    prop_assert_eq!(notes.stopping_answers, 2);
                }
                Ok((Encoded::Dropped { reason, .. }, _)) => {
                    let expected = matches!(reason, DropReason::NoRoom { .. } | DropReason::NoPrompt);
                    prop_assert!(expected, "{}", reason);
                }
                Err(bad) => prop_assert!(matches!(bad, BadRow::SameTokens { .. }), "{}", bad),
            }
            Ok(())
        })?;
    }
}

/// A named special token that the vocabulary lacks would be cut into pieces: a text that holds it is refused.
#[test]
fn a_special_token_without_an_id_refuses_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tiny("tiny-llama").join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let config = json!({"eos_token": "<|end_of_text|>", "sep_token": "<|turn|>", "pad_token": "", "cls_token": null});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let encoder = Encoder::from_model(dir.path(), None, 64, ROWS).unwrap();
    let tokenizer = encoder.tokenizer();
    assert!(tokenizer.encode_plain("Hello").is_ok());
    for encoded in [tokenizer.encode_plain("a<|turn|>"), tokenizer.encode_rendered("<|turn|>b")] {
        let message = encoded.unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: the text holds `<|turn|>`, the sep_token of"), "{message}");
    }
}

/// Tokenizers on which the library panics, while it reads them or while it encodes.
#[test]
fn a_panic_of_the_tokenizers_library_is_an_error_and_prints_nothing() {
    const THIS: &str = "data::dataset_tests::a_panic_of_the_tokenizers_library_is_an_error_and_prints_nothing";
    const CHILD: &str = "ALIGN_TEST_PANICKING_TOKENIZER";
    if std::env::var_os(CHILD).is_none() {
        // in a process of its own, whose stderr can be read
        let arguments = ["--exact", THIS, "--nocapture"];
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this).args(arguments).env(CHILD, "1").output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let bpe = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    let charsmap = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    std::fs::write(&path, json!({"normalizer": charsmap, "model": bpe}).to_string()).unwrap();
    match Encoder::from_model(dir.path(), None, 64, ROWS) {
        Err(DataError::Tokenizer(error @ TokenizerError::Broken { .. })) => {
            assert!(error.to_string().contains("tokenizer.json: the tokenizers library fails on it"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn batches_come_in_their_order_until_they_are_told_to_stop() {
    let rows: Vec<String> = (0..50).map(pair).collect();
    let dataset = open(&rows, Needs::Pairs, OnBadRow::Error).unwrap();
    let order = dataset.order(Shuffle::Seeded(3), 0);
    for stop_after in [1, 4, usize::MAX] {
        let mut batches = Vec::new();
        for_each_batch(&dataset, order.chunks(7), |rows| {
            batches.push(rows);
            let more = batches.len() < stop_after;
            Ok::<_, DataError>(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
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
        Dataset::open(&[file.path().to_owned()], encoder("tiny-llama", 64), Needs::Pairs, OnBadRow::Error).unwrap();
    let mut seen = 0;
    let order: Vec<u32> = (0..4).collect();
    let outcome = for_each_batch(&dataset, order.chunks(1), |_| {
        seen += 1;
        writeln!(file, "{}", pair(9)).unwrap();
        Ok(ControlFlow::Continue(()))
    });
    assert!(matches!(outcome, Err(DataError::Changed { .. })), "{outcome:?}");
    // one more may have been on its way when the file changed
    assert!((1..=2).contains(&seen), "{seen}");
}

#[test]
fn a_panic_on_either_side_reaches_the_caller() {
    let rows: Vec<String> = (0..6).map(pair).collect();
    let dataset = open(&rows, Needs::Pairs, OnBadRow::Error).unwrap();
    let run = |order: &[u32], limit: usize| {
        let mut seen = 0;
        for_each_batch(&dataset, order.chunks(1), |_| {
            seen += 1;
            assert!(seen <= limit, "as the test wants it");
            Ok::<_, DataError>(ControlFlow::Continue(()))
        })
    };
    let panics =
        |order: &[u32], limit| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(order, limit))).is_err();
    assert!(panics(&[0, 1, 2], 1), "in the consumer");
    assert!(panics(&[0, 99, 2], 9), "in the encoder: there is no such row");
    assert!(!panics(&[0, 1, 2], 3));
}
