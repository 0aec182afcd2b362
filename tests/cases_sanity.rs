//! What a user may not have meant about the data, and what cannot be meant: messages and exit codes.

use crate::align::{Run, align, committed_goldens, root, write_lines};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn model(name: &str) -> String {
    text(&committed_goldens().join(name).join("model"))
}

fn case(name: &str) -> PathBuf {
    root().join("tests/cases/data").join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A command over some data, with no token cache.
fn run(command: &str, model_name: &str, data: &Path, more: &[&str]) -> Run {
    let (model, data) = (model(model_name), text(data));
    let common = ["--model", &model, "--data", &data, "--data-cache", "off"];
    align(&[&[command], &common[..], more].concat())
}

/// One step of training in a folder that goes away.
fn train(model_name: &str, data: &Path, more: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let output = text(&folder.path().join("out"));
    let common = ["--max-steps", "1", "--reference-cache", "off", "--output", &output];
    run("train", model_name, data, &[&common[..], more].concat())
}

fn rows(folder: &Path, name: &str, rows: &[Value]) -> PathBuf {
    let path = folder.join(name);
    write_lines(&path, rows);
    path
}

/// The lines of stderr that are warnings.
fn warnings(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

#[track_caller]
fn refused(run: &Run, parts: &[&str]) {
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
}

#[track_caller]
fn warned(run: &Run, parts: &[&str]) {
    let found = warnings(run);
    assert!(found.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?}: {}", run.stderr);
}

#[test]
fn a_template_that_cuts_thoughts_is_warned_of_by_every_command() {
    let data = case("template-drops-answer/think.jsonl");
    let template = text(&case("template-drops-answer/think.jinja"));
    let flags = ["--chat-template", &template];
    let parts = ["think.jsonl:1: ", "leaves the beginning", "`chosen[0].content`", "two and two", "--chat-template"];
    for command in ["inspect", "score", "eval"] {
        warned(&run(command, "tiny-qwen2", &data, &flags).ok(), &parts);
    }
    warned(&train("tiny-qwen2", &data, &flags).ok(), &parts);
    warned(&train("tiny-qwen2", &data, &[&flags[..], &["--eval-data", &text(&data)]].concat()).ok(), &parts);
    let shown = run("inspect", "tiny-qwen2", &data, &[&flags[..], &["--json"]].concat()).ok();
    warned(&shown, &parts);
    let listed = &shown.json()["data"]["warnings"];
    assert_eq!(
        (&listed[0]["rows"], &listed[0]["line"], &listed[0]["at"]),
        (&json!(1), &json!(1), &json!("chosen[0].content"))
    );
}

/// The tokens of a second start are those of the cache, and so are the warnings.
#[test]
fn warnings_come_with_cached_tokens_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = case("template-drops-answer/think.jsonl");
    let (template, cache) = (text(&case("template-drops-answer/think.jinja")), text(&folder.path().join("cache")));
    let arguments = [
        "inspect",
        "--model",
        &model("tiny-qwen2"),
        "--data",
        &text(&data),
        "--chat-template",
        &template,
        "--data-cache",
        &cache,
    ];
    let (first, second) = (align(&arguments).ok(), align(&arguments).ok());
    assert!(second.stderr.contains("are those of"), "{}", second.stderr);
    assert_eq!(warnings(&first), warnings(&second));
    assert_eq!(warnings(&first).len(), 1);
}

#[test]
fn an_answer_that_the_template_empties_is_refused() {
    let data = case("template-drops-answer/calls.jsonl");
    let template = text(&case("template-drops-answer/any.jinja"));
    let parts = ["calls.jsonl:1: `chosen`: nothing of the answer reaches the text", "`tool_calls`", "--chat-template"];
    refused(&train("tiny-qwen2", &data, &["--chat-template", &template]), &parts);
    refused(&run("inspect", "tiny-qwen2", &data, &["--chat-template", &template]), &parts);
}

#[test]
fn pairs_of_texts_that_share_no_turn_marker_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<Value> = [("lake", "The lake is water.", "The moon is a fish."), ("sea", "Salt water.", "A big fish.")]
        .map(|(what, chosen, rejected)| json!({"asked_question": format!("What is a {what}?"), "chosen": chosen, "rejected": rejected}))
        .to_vec();
    let bare: Vec<Value> =
        pairs.iter().map(|row| json!({"chosen": row["chosen"], "rejected": row["rejected"]})).collect();
    let (pairs, bare) = (rows(folder.path(), "pairs.jsonl", &pairs), rows(folder.path(), "bare.jsonl", &bare));
    for name in ["tiny-llama31", "tiny-qwen2"] {
        refused(
            &train(name, &pairs, &[]),
            &["pairs.jsonl:1: ", "--columns prompt=asked_question", "--implicit-prompt"],
        );
        refused(&train(name, &bare, &[]), &["bare.jsonl:1: ", "--columns prompt=NAME", "--implicit-prompt"]);
        let (model, data) = (model(name), text(&bare));
        let generate = align(&["generate", "--model", &model, "--data", &data, "--max-new-tokens", "1"]);
        refused(&generate, &["bare.jsonl:1: ", "--implicit-prompt"]);
        train(name, &pairs, &["--columns", "prompt=asked_question"]).ok();
        // what they share by chance is no prompt
        refused(
            &train(name, &pairs, &["--implicit-prompt"]),
            &["pairs.jsonl:2: the prompt is empty", "--columns prompt=asked_question"],
        );
    }
}

#[test]
fn the_rule_of_trl_is_a_flag_that_the_run_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<Value> = (0..8)
        .map(|i| json!({"chosen": format!("A lake ({i}) is water."), "rejected": format!("A lake ({i}) is a fish.")}))
        .collect();
    let data = text(&rows(folder.path(), "pairs.jsonl", &pairs));
    let out = text(&folder.path().join("out"));
    let model = model("tiny-qwen2");
    let arguments =
        ["train", "--model", &model, "--data", &data, "--implicit-prompt", "--max-steps", "1", "--output", &out];
    align(&arguments).ok();
    let config = std::fs::read_to_string(folder.path().join("out/config.toml")).unwrap();
    assert!(config.contains("implicit-prompt = true"), "{config}");
    align(&["eval", "--model", &model, "--adapter", &out, "--data", &data]).ok();
    let shown = align(&["inspect", "--model", &model, "--data", &data, "--implicit-prompt", "--row", "0", "--json"])
        .ok()
        .json();
    let prompt = shown["row"][0]["prompt"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token[1].as_str().unwrap())
        .collect::<String>();
    assert!(prompt.ends_with("is"), "{prompt}");
}

/// The question is in the tokens once, whichever way it is written.
#[test]
fn a_prompt_that_the_answers_repeat_is_in_the_tokens_once() {
    let folder = tempfile::tempdir().unwrap();
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns = json!({"prompt": [turn("user", "What is a lake?")], "chosen": [turn("assistant", "Still water.")], "rejected": [turn("assistant", "A fish.")]});
    let strings =
        json!({"prompt": "Human: What is a lake?\n\nAssistant:", "chosen": " Still water.", "rejected": " A fish."});
    for (name, row) in [("turns.jsonl", turns), ("strings.jsonl", strings)] {
        let cut = rows(folder.path(), name, &[row]);
        let repeated = case("repeated-prompt").join(name);
        let tokens =
            |data: &Path| run("inspect", "tiny-qwen2", data, &["--row", "0", "--json"]).ok().json()["row"].clone();
        assert_eq!(tokens(&repeated), tokens(&cut), "{name}");
        warned(&train("tiny-qwen2", &repeated, &[]).ok(), &[name, "the answers begin with the prompt", "in 1 row"]);
        assert_eq!(warnings(&train("tiny-qwen2", &cut, &[]).ok()), [] as [&str; 0]);
    }
}

#[test]
fn null_arguments_that_no_tool_declares_are_warned_of() {
    let data = case("parquet-null-padding/through_arrow.jsonl");
    let template = text(&case("parquet-null-padding/tools.jinja"));
    let shown = run("inspect", "tiny-qwen2", &data, &["--chat-template", &template]).ok();
    warned(
        &shown,
        &["through_arrow.jsonl:1: ", "null argument", "in 2 of the first 2 rows", "`chosen[0].tool_calls[0]`"],
    );
}

#[test]
fn columns_that_are_called_like_a_prompt_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let pair = json!({"prompt": "What is a lake?", "Context_Message": "You are a pirate.", "chosen": " Water.", "rejected": " Fish."});
    let data = rows(folder.path(), "pairs.jsonl", &[pair]);
    let trained = train("tiny-llama31", &data, &[]).ok();
    warned(
        &trained,
        &["pairs.jsonl:1: ", "`Context_Message` is not read", "You are a pirate.", "--columns prompt=Context_Message"],
    );
}

#[test]
fn many_dropped_rows_end_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize, words: usize| json!({"prompt": format!("{i} {}", "word ".repeat(words)), "chosen": " yes", "rejected": " no"});
    let all: Vec<Value> = (0..9).map(|i| row(i, 1)).chain([row(9, 300), row(10, 300)]).collect();
    let (many, few) = (rows(folder.path(), "many.jsonl", &all), rows(folder.path(), "few.jsonl", &all[..10]));
    let length = ["--max-length", "64"];
    let parts = ["2 of 11 rows are dropped, more than a tenth", "many.jsonl:10", "raise --max-length", "--allow-drops"];
    refused(&train("tiny-qwen2", &many, &length), &parts);
    refused(&run("eval", "tiny-qwen2", &many, &length), &parts);
    refused(&train("tiny-qwen2", &few, &[&length[..], &["--eval-data", &text(&many)]].concat()), &parts);
    train("tiny-qwen2", &few, &length).ok();
    for command in ["score", "inspect"] {
        run(command, "tiny-qwen2", &many, &length).ok();
    }
    let allowed = [&length[..], &["--allow-drops"]].concat();
    run("eval", "tiny-qwen2", &many, &allowed).ok();
    train("tiny-qwen2", &many, &allowed).ok();
    // bad rows that the user has skipped do not count
    let bad: Vec<Value> =
        all[..4].iter().cloned().chain([json!({"prompt": "p", "chosen": null, "rejected": "r"})]).collect();
    let bad = rows(folder.path(), "bad.jsonl", &bad);
    train("tiny-qwen2", &bad, &["--on-bad-row", "skip"]).ok();
}

#[test]
fn rows_that_are_as_they_should_be_warn_of_nothing() {
    let data = |name: &str| root().join(name);
    for (name, loss) in [
        ("tests/goldens/pairs.jsonl", "dpo"),
        ("tests/goldens/kto.jsonl", "kto"),
        ("tests/data/pref_eval.jsonl", "dpo"),
    ] {
        let ran = run("eval", "tiny-qwen3", &data(name), &["--loss", loss, "--allow-drops"]).ok();
        assert_eq!(warnings(&ran), [] as [&str; 0], "{name}");
    }
    for command in ["inspect", "eval"] {
        assert_eq!(warnings(&align(&[command, "--demo"]).ok()), [] as [&str; 0], "{command}");
    }
}
