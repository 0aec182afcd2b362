//! Tests prompts that are missing, empty, in a column that nothing reads, or without a mark at their end.

use super::*;
use crate::record::bad_row::BadRow;
use crate::record::reading::{ImplicitPrompt, Reading};
use crate::row::RowKind;
use crate::set::dropped::DropKind;
use crate::set::sanity::ReadAs;

/// Unread columns are found by their names, unless the row has the same text elsewhere.
#[test]
fn unread_columns_that_are_called_like_a_prompt_are_found() {
    let unread = |name: &str, value: Value| {
        let mut row = json!({"prompt": "What is a lake?", "chosen": " Water, still.", "rejected": " A fish."});
        row[name] = value;
        let found = findings(None, row).into_iter();
        found.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    for name in ["Instruction", "user_input", "prompt_text", "systemPrompt", "QUERY", "history", "messages"] {
        let value = json!("Speak as the pirate that you are.");
        let read_as = if name == "systemPrompt" { ReadAs::System } else { ReadAs::Prompt };
        assert_eq!(unread(name, value), [Finding::UnreadColumn { column: name.to_owned(), read_as }], "{name}");
    }
    let history = Finding::UnreadColumn { column: "history".to_owned(), read_as: ReadAs::Pairs };
    assert_eq!(unread("history", json!([["hi", "hello"]])), [history]);
    for (name, value) in [
        ("prompt_id", json!("ab12")),
        ("num_messages", json!(3)),
        ("source", json!("web")),
        ("labelling_prompt", json!("Which answer is the best one?")),
        ("query", json!("  What is a lake? ")),
        ("instruction", Value::Null),
        ("instruction", json!("")),
        ("user", json!("u17")),
        ("conversation_id", json!("Speak as the pirate that you are.")),
        ("messages", json!([user("What is a lake?"), says("Water, still.")])),
        ("num_history", json!([1, 2])),
        ("category", json!("questions about water in its many forms")),
        ("input_quality", json!("excellent")),
        ("system_fingerprint", json!("fp_123")),
        ("instruction_following", json!({"text": "It follows all of the instructions."})),
    ] {
        assert_eq!(unread(name, value.clone()), [], "{name} {value}");
    }
}

#[test]
fn an_empty_prompt_beside_a_column_of_prompts_is_refused() {
    let row = |i: usize, name: &str| json!({"prompt": "", "chosen": format!("c{i}"), "rejected": "r", name: "What is a lake?"});
    // the first tokenizer puts a BOS token before such rows, so they are kept; the second does not, so they are dropped
    for model in ["tiny-llama31", "tiny-qwen2"] {
        let encoder = || Encoder::from_model(&tiny(model), None, 512, ROWS).unwrap();
        let rows: Vec<Value> = (0..9).map(|i| row(i, "topic_question")).collect();
        let rows = [rows, vec![json!({"prompt": "p", "chosen": "c", "rejected": "r"})]].concat();
        assert!(open(encoder(), &rows, RowKind::Pair).is_ok(), "{model}: no column is called like a prompt");
        let rows: Vec<Value> = (0..9).map(|i| row(i, "the_question")).collect();
        match open(encoder(), &rows, RowKind::Pair) {
            Err(DataError::EmptyPrompts { line: 1, rows: 9, of: 9, column, .. }) => assert_eq!(column, "the_question"),
            other => panic!("{model}: {other:?}"),
        }
    }
}

/// A prompt that asks nothing is found: it is blank, only a system text, or a few letters that both answers share.
#[test]
fn prompts_that_ask_nothing_are_found() {
    let found = |row: Value, reading: Reading| {
        let data = open(encoder(Some(ANY)).with_reading(reading), &[pair(says("c")), row], RowKind::Pair);
        let warnings = data.unwrap().survey().warnings.clone();
        warnings.into_iter().map(|warning| (warning.finding, warning.line)).collect::<Vec<_>>()
    };
    let system = |content: &str| json!({"role": "system", "content": content});
    for prompt in [json!([system("Be brief.")]), json!([user(" ")]), json!([system("Be brief."), user("")])] {
        let row = json!({"prompt": prompt, "chosen": [says("c")], "rejected": [says("r")]});
        assert_eq!(found(row.clone(), Reading::default()), [(Finding::BlankPrompt, 2)], "{row}");
    }
    let row =
        json!({"prompt": [system("Be brief.")], "chosen": [says("c")], "rejected": [says("r")], "topic": "lakes"});
    assert_eq!(found(row, Reading::default()), [(Finding::EmptyPrompt { column: None }, 2)]);
    // rows with different unread columns still count for one finding
    let row = |more: &str| json!({"prompt": " ", "completion": "c", more: "a", "the_task_query": "What is a lake?"});
    let mut rows: Vec<Value> = (0..5).map(|_| json!({"prompt": "p", "completion": "c"})).collect();
    rows.extend([row("x"), row("y")]);
    let warnings = warnings(None, &rows);
    let query = Finding::EmptyPrompt { column: Some("the_task_query".to_owned()) };
    let of_query = warnings.iter().find(|warning| warning.finding == query);
    assert_eq!(of_query.map(|warning| (warning.rows, warning.line)), Some((2, 6)));
    let shares = |text: &str| json!({"chosen": format!("{text} lake"), "rejected": format!("{text} sea")});
    let longest = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    let data = |text: &str| {
        let data = open(encoder(None).with_reading(longest.clone()), &[shares(text)], RowKind::Pair).unwrap();
        let found = data.survey().warnings.iter().map(|warning| warning.finding.clone());
        found.filter(|finding| *finding != Finding::NoTemplateApplied).collect::<Vec<_>>()
    };
    assert_eq!(data("The"), [Finding::FewSharedLetters]);
    assert_eq!(data("What is water in the wild?"), []);
}

#[test]
fn texts_without_a_mark_are_refused_unless_the_user_insists() {
    let rows = [
        json!({"which_question": "What is a lake?", "chosen": "The lake is water.", "rejected": "The moon is a fish."}),
        json!({"which_question": "What is a sea?", "chosen": "Salt water.", "rejected": "A big fish."}),
    ];
    match open(encoder(None), &rows, RowKind::Pair) {
        Err(DataError::NoTurnMarker { line: 1, rows: 2, column, .. }) => assert_eq!(column, "which_question"),
        other => panic!("{other:?}"),
    }
    let insists = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    // by TRL's rule, the letters that both answers share are the prompt, but the answers of the second row share none
    let error = open(encoder(None).with_reading(insists.clone()), &rows, RowKind::Pair).unwrap_err();
    assert!(matches!(error, DataError::EmptyPrompts { rows: 1, line: 2, .. }), "{error}");
    let data = open(encoder(None).with_reading(insists), &rows[..1], RowKind::Pair).unwrap();
    let unread = Finding::UnreadColumn { column: "which_question".to_owned(), read_as: ReadAs::Prompt };
    let found = |finding: &Finding| data.survey().warnings.iter().any(|warning| warning.finding == *finding);
    assert!(found(&unread) && found(&Finding::FewSharedLetters));
}

/// If one row lacks the mark that all other rows have, it is dropped and counted, even if bad rows end the run. One row without a
/// prompt column, or one that restates its question, does not change how the other rows are read.
#[test]
fn odd_rows_decide_nothing_for_the_others() {
    let row =
        |i: usize, mark: &str| json!({"chosen": format!("lake {i}{mark} c"), "rejected": format!("lake {i}{mark} r")});
    let mut rows: Vec<Value> = (0..40).map(|i| row(i, "\nBot:")).collect();
    rows[7] = row(7, " is");
    let survey = open(encoder(None), &rows, RowKind::Pair).unwrap().survey().clone();
    let [dropped] = &survey.dropped[..] else { panic!("{:?}", survey.dropped) };
    assert_eq!((survey.kept, dropped.rows, dropped.line, dropped.kind), (39, 1, 8, DropKind::Marker));
    assert!(dropped.first.contains("has no \"Bot:\""), "{}", dropped.first);
    (0..8).for_each(|i| rows[i] = row(i, " is"));
    assert!(matches!(open(encoder(None), &rows, RowKind::Pair), Err(DataError::NoTurnMarker { .. })));

    let asked = |i: usize, start: &str| {
        let question = format!("What is lake {i}?");
        json!({"chosen": format!("{start}Water {i}."), "rejected": format!("{start}A fish."), "question": question})
    };
    let mut rows: Vec<Value> = (0..40).map(|i| asked(i, "")).collect();
    let restated = "Question: What is lake 7?\nAnswer: ";
    rows[7] = asked(7, restated);
    let survey = open(encoder(None), &rows, RowKind::Pair).unwrap().survey().clone();
    assert_eq!((survey.kept, survey.by_name[0].records), (40, 40));
    // if all rows restate the question, the answers contain it, and the column is not read as the prompt
    let rows: Vec<Value> = (0..40).map(|i| asked(i, &restated.replace('7', &i.to_string()))).collect();
    let survey = open(encoder(None), &rows, RowKind::Pair).unwrap().survey().clone();
    assert_eq!((survey.decided.prompts_in_answers, survey.by_name.len()), (Some(true), 0));

    let mut rows: Vec<Value> =
        (0..40).map(|i| json!({"prompt": format!("q{i}"), "chosen": "c", "rejected": "r"})).collect();
    rows[7] = json!({"chosen": "a word", "rejected": "another"});
    match open(encoder(None), &rows, RowKind::Pair) {
        Err(DataError::Row { line: 8, reason: BadRow::NoTurnMarker { marker: None, .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}
