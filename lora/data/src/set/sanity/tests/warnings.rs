//! Tests what a warning says, how many warnings are kept, and that sound data causes none.

use super::*;
use crate::row::RowKind;
use crate::tests::goldens;

#[test]
fn an_example_says_where_and_what() {
    let long = format!("<think>{}\n</think>4", "two ".repeat(40));
    let rows = [pair(says("5")), pair(says(&long)), pair(says(&long.replace('4', "6")))];
    let [warning] = &warnings(Some(NO_THOUGHTS), &rows)[..] else { panic!("one warning") };
    assert_eq!((warning.rows, warning.line, &warning.at[..]), (2, 2, "chosen[0].content"));
    assert!(warning.excerpt.starts_with("<think>two two") && warning.excerpt.ends_with("..."), "{}", warning.excerpt);
}

/// Findings of one kind are limited in number, so that findings of other kinds have room.
#[test]
fn many_findings_of_one_kind_hide_no_other() {
    let mut rows: Vec<Value> = (0..40)
        .map(|i| {
            let mut row = pair(says("c"));
            row["chat_template_kwargs"] = json!({format!("name{i}"): true});
            row
        })
        .collect();
    rows.push(json!({"prompt": [user("q")], "chosen": [says("a"), user("more"), says("b")], "rejected": [says("r")]}));
    let found = warnings(Some(ANY), &rows);
    assert_eq!(found.len(), 33);
    assert_eq!(found[32].finding, Finding::TurnOfOthers { role: "user".to_owned() });
}

/// A warning names a column as the file does, even if the column is read under another name.
#[test]
fn findings_name_the_files_columns() {
    let row =
        |i: usize| json!({"question": format!("['What is lake {i}?', 'And why?']"), "chosen": "c", "rejected": "r"});
    let found = warnings(None, &(0..4).map(row).collect::<Vec<_>>());
    assert!(found.iter().any(|warning| warning.at == "question"), "{found:?}");
}

#[test]
fn goldens_and_data_warn_of_nothing() {
    let data = |name: &str| goldens("../data").join(name);
    let mut files = vec![(data("pref_eval.jsonl"), RowKind::Pair), (data("pref_train_kto.jsonl"), RowKind::Labelled)];
    files.extend([(goldens("pairs.jsonl"), RowKind::Pair), (goldens("kto.jsonl"), RowKind::Labelled)]);
    for model in ["tiny-qwen2", "tiny-llama", "tiny-qwen3", "tiny-gemma2", "tiny-phi3"] {
        for (path, kind) in &files {
            let encoder = Encoder::from_model(&tiny(model), None, 512, ROWS).unwrap();
            let data = Dataset::open(std::slice::from_ref(path), encoder, *kind, OnBadRow::Skip).unwrap();
            let survey = data.survey();
            let warnings: Vec<_> =
                survey.warnings.iter().filter(|warning| warning.finding != Finding::NoTemplateApplied).collect();
            assert!(warnings.is_empty(), "{model} {}: {warnings:?}", path.display());
        }
    }
}

/// HH's rows have only the two conversations as texts. There is no warning, and the prompts end with the mark `Assistant:`.
#[test]
fn rows_as_hh_has_them_are_read_without_a_word() {
    let rows = std::fs::read_to_string(goldens("pairs.jsonl")).unwrap();
    let (mut hh, mut named) = (Vec::new(), Vec::new());
    for row in rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let turn = |turn: &Value| {
            let speaker = if turn["role"] == "assistant" { "Assistant" } else { "Human" };
            format!("\n\n{speaker}: {}", turn["content"].as_str().unwrap())
        };
        let prompt: String = row["prompt"].as_array().unwrap().iter().map(turn).collect();
        let prompt = prompt + "\n\nAssistant:";
        let [chosen, rejected] =
            ["chosen", "rejected"].map(|side| format!(" {}", row[side][0]["content"].as_str().unwrap()));
        hh.push(json!({"chosen": format!("{prompt}{chosen}"), "rejected": format!("{prompt}{rejected}")}));
        named.push(json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}));
    }
    let data = open(encoder(None), &hh, RowKind::Pair).unwrap();
    assert_eq!(data.survey().warnings, []);
    assert_eq!(data.survey().decided.turn_marker.as_ref().unwrap().to_string(), "Assistant:");
    let named = open(encoder(None), &named, RowKind::Pair).unwrap();
    let all: Vec<u32> = (0..data.len() as u32).collect();
    assert_eq!(data.rows(&all).unwrap(), named.rows(&all).unwrap());
}
