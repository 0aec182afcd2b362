//! Tests texts that are values written as text, and texts to which the chat template is not applied.

use super::*;
use crate::row::RowKind;
use crate::set::sanity::Notation;

#[test]
fn texts_that_are_values_written_as_text_are_found() {
    let rows = |text: &str| -> Vec<Value> {
        (0..4).map(|i| json!({"prompt": text.replace('1', &i.to_string()), "chosen": "c", "rejected": "r"})).collect()
    };
    let found = |text: &str| {
        let all = warnings(None, &rows(text)).into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    let is = |notation| vec![Finding::Serialised { column: "prompt".to_owned(), notation, turns: false }];
    assert_eq!(found(r#"{"task": "sum", "numbers": [1, 2]}"#), is(Notation::Json));
    assert_eq!(found(r#"["one 1", "two"]"#), is(Notation::Json));
    assert_eq!(found("{'task': 'sum 1', 'more': None}"), is(Notation::Python));
    assert_eq!(found("['What is 1?', \"What isn't?\"]"), is(Notation::Python));
    for text in ["[1, 2]", "{1}", "[INST] 1 [/INST]", "{x: 1} is a set", "[1] see below", "plain 1"] {
        assert_eq!(found(text), [], "{text}");
    }
    // a value in one row of several is not reported
    let mut few = rows("What is 1?");
    few[2]["prompt"] = json!(r#"{"a": 1}"#);
    assert!(warnings(None, &few).iter().all(|warning| warning.finding == Finding::NoTemplateApplied));
}

#[test]
fn values_in_texts_are_told_from_answers_that_are_meant_to_be_json() {
    let rows = |prompt: &str, chosen: &str| -> Vec<Value> {
        (0..4)
            .map(|i| json!({"prompt": prompt.replace('7', &i.to_string()), "chosen": chosen, "rejected": "r"}))
            .collect()
    };
    let found = |rows: &[Value]| {
        let all = warnings(None, rows).into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    assert_eq!(found(&rows("Give me lake 7 as JSON.", r#"{"name": "lake", "area": 7}"#)), []);
    let twice = Value::from(r#"{"task": "sum", "of": 7}"#).to_string();
    let serialised = Finding::Serialised { column: "prompt".to_owned(), notation: Notation::Json, turns: false };
    assert_eq!(found(&rows(&twice, "c")), std::slice::from_ref(&serialised));
    for broken in [r#"[{"role": "user", "content": "What is 7"#, r#"{"from": "human", "value": "What is 7?"}, {"fr"#] {
        assert_eq!(found(&rows(broken, "c")), std::slice::from_ref(&serialised), "{broken}");
    }
    let parts = json!({"prompt": [user(r#"[{"type": "text", "text": "What is a lake?"}]"#)], "chosen": [says("c")], "rejected": [says("r")]});
    let serialised = Finding::Serialised { column: "prompt".to_owned(), notation: Notation::Json, turns: false };
    assert_eq!(findings(Some(ANY), parts), std::slice::from_ref(&serialised));
    // the answers are turns, so the text of the prompt becomes a turn, too
    let broken = json!({"prompt": r#"[{"role": "user", "content": "What is 7?"}"#, "chosen": [says("c")], "rejected": [says("r")]});
    assert_eq!(findings(Some(ANY), broken), [serialised]);
}

/// Values in the answers: turns end the run, and values that nobody is likely to want as an answer are reported. Other values,
/// such as a plain object or a list of numbers, are not reported.
#[test]
fn answers_that_are_values_written_as_text_are_told_apart() {
    let open_rows = |chosen: &str| {
        let row = |i: usize| json!({"prompt": format!("q{i}"), "chosen": chosen.replace('7', &i.to_string()), "rejected": "r"});
        open(encoder(None), &(0..4).map(row).collect::<Vec<_>>(), RowKind::Pair)
    };
    let found = |chosen: &str| {
        let all = open_rows(chosen).unwrap().survey().warnings.clone().into_iter().map(|warning| warning.finding);
        all.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    let is = |notation| vec![Finding::Serialised { column: "chosen".to_owned(), notation, turns: false }];
    for json in [
        r#"[{"speaker": "bot", "text": "a7"}]"#,
        r#"[{"foo": "bar"}]"#,
        r#"{"role": "engineer", "content": "x"}"#,
        r#"[{"role": "engineer", "content": "x"}]"#,
        r#""a7""#,
        r#"[["q", "a7"], ["q2", null]]"#,
        "```json\n[{\"role\": \"assistant\", \"content\": \"a7\"}]\n```",
        r#"{"filters": [{"from": "2020", "value": 1}]}"#,
        r#"{"model": "m", "messages": [{"role": "user", "content": "q"}]}"#,
    ] {
        assert_eq!(found(json), is(Notation::Json), "{json}");
    }
    for python in ["[Message(role='assistant', content='a7')]", "Message(content='a7', role='assistant')"] {
        assert_eq!(found(python), is(Notation::Python), "{python}");
    }
    let none = [
        r#"{"filters": [{"year": 2020}]}"#,
        "[[1, 2], [3]]",
        "```json\n{\"a\": 7}\n```",
        "[weather(city='Rome')]",
        "\"A\" is 7",
    ];
    for meant in none {
        assert_eq!(found(meant), [], "{meant}");
    }
    for turns in [r#"[{"role": "assistant", "content": "a7"}]"#, "{'from': 'gpt', 'value': 'a7'}"] {
        let error = open_rows(turns).unwrap_err();
        assert!(matches!(error, DataError::TurnsInText { rows: 4, .. }), "{turns}: {error}");
    }
}

#[test]
fn texts_are_noted_where_the_model_has_a_template() {
    let row = |prompt: &str| json!({"prompt": prompt, "chosen": " c", "rejected": " r"});
    assert_eq!(findings(None, row("What is a lake?")), [Finding::NoTemplateApplied]);
    for marked in
        ["\n\nHuman: q\n\nAssistant:", "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", "### Response:\n"]
    {
        assert_eq!(findings(None, row(marked)), [], "{marked}");
    }
    assert_eq!(findings(None, json!({"text": "a book"})), []);
}
