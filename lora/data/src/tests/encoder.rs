//! Tests of rows that only the encoder finds bad, and of properties that every kept row has.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ROWS, encoder, file, tiny};
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::options::OnBadRow;
use crate::source::column_map::ColumnMap;
use crate::tokens::encode::{DropReason, Encoded, Encoder};

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
    let file = file(&rows);
    let error =
        Dataset::open(&[file.path().to_owned()], with_template(refusing), RowKind::Pair, OnBadRow::Error).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(":1: chat template: too many turns"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the texts, a kept row has a prompt, keeps at least one token of each answer, and is no longer than `max_length`.
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
