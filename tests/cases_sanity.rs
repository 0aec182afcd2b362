//! Faults in data that a user may not have intended: messages and exit codes.

use crate::align::{Run, align, copy_folder, data_case, edit_json, golden_model, lines_in, root, text, turn};
use serde_json::{Value, json};
use std::path::Path;

/// Runs a command over some data, without a token cache.
fn run(command: &str, model_name: &str, data: &Path, more: &[&str]) -> Run {
    let model = golden_model(model_name);
    let common = ["--model", text(&model), "--data", text(data), "--data-cache", "off"];
    align(&[&[command], &common[..], more].concat())
}

/// Trains one step in a temporary folder.
fn train(model_name: &str, data: &Path, more: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let common = ["-v", "--max-steps", "1", "--reference-cache", "off", "--output", text(&output)];
    run("train", model_name, data, &[&common[..], more].concat())
}

/// Returns the lines of stderr that are warnings.
fn warnings(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

#[track_caller]
fn warned(run: &Run, parts: &[&str]) {
    let found = warnings(run);
    assert!(found.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?}: {}", run.stderr);
}

#[test]
fn a_template_that_cuts_thoughts_is_warned_of_by_every_command() {
    let data = data_case("template-drops-answer/think.jsonl");
    let template = data_case("template-drops-answer/think.jinja");
    let flags = ["--chat-template", text(&template)];
    let parts = ["think.jsonl:1: ", "leaves the beginning", "`chosen[0].content`", "two and two", "--chat-template"];
    for command in ["inspect", "score", "eval"] {
        warned(&run(command, "tiny-qwen2", &data, &flags).ok(), &parts);
    }
    warned(&train("tiny-qwen2", &data, &flags).ok(), &parts);
    warned(&train("tiny-qwen2", &data, &[&flags[..], &["--eval-data", text(&data)]].concat()).ok(), &parts);
    let shown = run("inspect", "tiny-qwen2", &data, &[&flags[..], &["--json"]].concat()).ok();
    warned(&shown, &parts);
    let listed = &shown.json()["data"]["warnings"];
    assert_eq!(
        (&listed[0]["rows"], &listed[0]["line"], &listed[0]["at"]),
        (&json!(1), &json!(1), &json!("chosen[0].content"))
    );
}

/// A second run reads its tokens from the cache and gives the same warnings.
#[test]
fn warnings_come_with_cached_tokens_too() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_case("template-drops-answer/think.jsonl");
    let (template, cache) = (data_case("template-drops-answer/think.jinja"), folder.path().join("cache"));
    let model = golden_model("tiny-qwen2");
    let arguments = [
        "inspect",
        "--model",
        text(&model),
        "--data",
        text(&data),
        "--chat-template",
        text(&template),
        "--data-cache",
        text(&cache),
    ];
    let (first, second) = (align(&arguments).ok(), align(&arguments).ok());
    assert!(second.stderr.contains("are those of"), "{}", second.stderr);
    assert_eq!(warnings(&first), warnings(&second));
    assert_eq!(warnings(&first).len(), 1);
}

#[test]
fn an_answer_that_the_template_empties_is_refused() {
    let data = data_case("template-drops-answer/calls.jsonl");
    let template = data_case("template-drops-answer/any.jinja");
    let parts =
        ["calls.jsonl:1: `chosen`: the chat template renders nothing of the answer", "`tool_calls`", "--chat-template"];
    train("tiny-qwen2", &data, &["--chat-template", text(&template)]).refused(3, &parts);
    run("inspect", "tiny-qwen2", &data, &["--chat-template", text(&template)]).refused(3, &parts);
}

#[test]
fn pairs_of_texts_that_share_no_turn_marker_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<Value> = [("lake", "The lake is water.", "The moon is a fish."), ("sea", "Salt water.", "A big fish.")]
        .map(|(what, chosen, rejected)| json!({"asked_question": format!("What is a {what}?"), "chosen": chosen, "rejected": rejected}))
        .to_vec();
    let bare: Vec<Value> =
        pairs.iter().map(|row| json!({"chosen": row["chosen"], "rejected": row["rejected"]})).collect();
    let (pairs, bare) = (lines_in(folder.path(), "pairs.jsonl", &pairs), lines_in(folder.path(), "bare.jsonl", &bare));
    for name in ["tiny-llama31", "tiny-qwen2"] {
        train(name, &pairs, &[])
            .refused(3, &["pairs.jsonl:1: ", "--columns prompt=asked_question", "--implicit-prompt"]);
        train(name, &bare, &[]).refused(3, &["bare.jsonl:1: ", "--columns prompt=NAME", "--implicit-prompt"]);
        let model = golden_model(name);
        let generate = align(&["generate", "--model", text(&model), "--data", text(&bare), "--max-new-tokens", "1"]);
        generate.refused(3, &["bare.jsonl:1: ", "--implicit-prompt"]);
        train(name, &pairs, &["--columns", "prompt=asked_question"]).ok();
        // letters that the answers happen to share are not a prompt
        train(name, &pairs, &["--implicit-prompt"])
            .refused(3, &["pairs.jsonl:2: the prompt is empty", "--columns prompt=asked_question"]);
    }
}

#[test]
fn the_rule_of_trl_is_a_flag_that_the_run_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let pairs: Vec<Value> = (0..8)
        .map(|i| json!({"chosen": format!("A lake ({i}) is water."), "rejected": format!("A lake ({i}) is a fish.")}))
        .collect();
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs);
    let out = folder.path().join("out");
    let model = golden_model("tiny-qwen2");
    let arguments = [
        "train",
        "--model",
        text(&model),
        "--data",
        text(&data),
        "--implicit-prompt",
        "--max-steps",
        "1",
        "--output",
        text(&out),
    ];
    align(&arguments).ok();
    let config = std::fs::read_to_string(folder.path().join("out/config.toml")).unwrap();
    assert!(config.contains("implicit-prompt = true"), "{config}");
    align(&["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&data)]).ok();
    let inspect =
        ["inspect", "--model", text(&model), "--data", text(&data), "--implicit-prompt", "--row", "0", "--json"];
    let shown = align(&inspect).ok().json();
    let prompt = shown["row"][0]["prompt"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token[1].as_str().unwrap())
        .collect::<String>();
    assert!(prompt.ends_with("is"), "{prompt}");
}

/// The question is in the tokens only once, however the rows are written.
#[test]
fn a_prompt_that_the_answers_repeat_is_in_the_tokens_once() {
    let folder = tempfile::tempdir().unwrap();
    let turns = json!({"prompt": [turn("user", "What is a lake?")], "chosen": [turn("assistant", "Still water.")], "rejected": [turn("assistant", "A fish.")]});
    let strings =
        json!({"prompt": "Human: What is a lake?\n\nAssistant:", "chosen": " Still water.", "rejected": " A fish."});
    for (name, row) in [("turns.jsonl", turns), ("strings.jsonl", strings)] {
        let cut = lines_in(folder.path(), name, &[row]);
        let repeated = data_case("repeated-prompt").join(name);
        let tokens =
            |data: &Path| run("inspect", "tiny-qwen2", data, &["--row", "0", "--json"]).ok().json()["row"].clone();
        assert_eq!(tokens(&repeated), tokens(&cut), "{name}");
        warned(&train("tiny-qwen2", &repeated, &[]).ok(), &[name, "the answers begin with the prompt", "in 1 row"]);
        assert_eq!(warnings(&train("tiny-qwen2", &cut, &[]).ok()), [] as [&str; 0]);
    }
}

#[test]
fn null_arguments_that_no_tool_declares_are_warned_of() {
    let data = data_case("parquet-null-padding/through_arrow.jsonl");
    let template = data_case("parquet-null-padding/tools.jinja");
    let shown = run("inspect", "tiny-qwen2", &data, &["--chat-template", text(&template)]).ok();
    warned(
        &shown,
        &["through_arrow.jsonl:1: ", "null argument", "in 2 of the 2 rows looked at", "`chosen[0].tool_calls[0]`"],
    );
}

#[test]
fn columns_that_are_called_like_a_prompt_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let pair = json!({"prompt": "What is a lake?", "Context_Message": "You are a pirate.", "chosen": " Water.", "rejected": " Fish."});
    let data = lines_in(folder.path(), "pairs.jsonl", &[pair]);
    let trained = train("tiny-llama31", &data, &[]).ok();
    warned(
        &trained,
        &["pairs.jsonl:1: ", "`Context_Message` is not read", "You are a pirate.", "--columns prompt=Context_Message"],
    );
}

/// The columns `question` and `system` beside the answers become the prompt, with or without a BOS token in the model. A line
/// names each column.
#[test]
fn a_prompt_in_columns_of_other_names_is_read_and_said() {
    let data = data_case("unread-prompt-column/pairs.jsonl");
    for name in ["tiny-llama31", "tiny-qwen2"] {
        for flags in [&[][..], &["--columns", "prompt=question"]] {
            let trained = train(name, &data, flags).ok();
            assert!(trained.stderr.contains("3 rows kept, from 3 records"), "{}", trained.stderr);
            let system = "data: the system's text is the column `system` of 3 records";
            assert!(trained.stderr.contains(system), "{}", trained.stderr);
            let question = "data: the prompt is the column `question` of 3 records";
            assert_eq!(trained.stderr.contains(question), flags.is_empty(), "{}", trained.stderr);
            assert!(!trained.stderr.contains("columns that are not read"), "{}", trained.stderr);
            assert_eq!(warnings(&trained), [] as [&str; 0], "{name}");
            for (row, asked) in ["What is a lake?", "What is a sea?", "What is a bay?"].into_iter().enumerate() {
                let row = row.to_string();
                let shown = run("inspect", name, &data, &[flags, &["--row", &row, "--json"]].concat()).ok().json();
                let tokens = shown["row"][0]["prompt"].as_array().unwrap().iter();
                let prompt: String = tokens.map(|token| token[1].as_str().unwrap()).collect();
                let bos = if name == "tiny-llama31" { "<|begin_of_text|>" } else { "" };
                let expected = format!("{bos}You are a pirate.\n\n{asked}");
                assert_eq!(spelled(&prompt), expected, "{name} {flags:?}");
            }
        }
    }
}

/// Returns the text of byte-level tokens, in which `Ġ` stands for a space and `Ċ` for a line end.
fn spelled(tokens: &str) -> String {
    tokens.replace('Ġ', " ").replace('Ċ', "\n")
}

/// A second file and later parts of the first file are checked like the beginning of the first file.
#[test]
fn faults_far_from_the_beginning_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize, more: bool| {
        let mut row =
            json!({"prompt": format!("What is lake {i}?"), "chosen": format!(" Water {i}."), "rejected": " A fish."});
        if more {
            row["user_context"] = "You are a pirate on a lake.".into();
        }
        row
    };
    let right: Vec<Value> = (0..600).map(|i| row(i, false)).collect();
    let wrong: Vec<Value> = (0..600).map(|i| row(i, i > 300)).collect();
    let few: Vec<Value> = (0..5).map(|i| row(i, true)).collect();
    let right = lines_in(folder.path(), "right.jsonl", &right);
    for (name, wrong, line) in [("wrong.jsonl", wrong, 302), ("few.jsonl", few, 1)] {
        let wrong = lines_in(folder.path(), name, &wrong);
        let place = format!("{name}:{line}: ");
        let parts = [&place[..], "`user_context` is not read", "--columns prompt=user_context"];
        warned(&run("inspect", "tiny-qwen2", &right, &["--data", text(&wrong)]).ok(), &parts);
        warned(&run("inspect", "tiny-qwen2", &wrong, &[]).ok(), &parts);
    }
}

/// A held-out file is read like the run's rows, even if it alone would be read differently.
#[test]
fn a_run_keeps_how_its_rows_were_read() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name);
    let hh = |i: usize, mark: &str| {
        let shared = format!("\n\nHuman: What is {i}?\n\n{mark}");
        json!({"chosen": format!("{shared} Bot: a lake."), "rejected": format!("{shared} Bot: a fish.")})
    };
    let trained: Vec<Value> = (0..40)
        .map(|i| {
            let shared = format!("\n\nHuman: What is {i}?\n\nAssistant:");
            json!({"chosen": format!("{shared} Water."), "rejected": format!("{shared} Fish.")})
        })
        .collect();
    let held_out: Vec<Value> = (0..3).map(|i| hh(i, "Assistant:")).collect();
    let (data, eval) =
        (lines_in(folder.path(), "data.jsonl", &trained), lines_in(folder.path(), "eval.jsonl", &held_out));
    let (model, out) = (golden_model("tiny-qwen2"), name("out"));
    let common = ["--max-steps", "1", "--reference-cache", "off", "--data-cache", "off"];
    let flags =
        ["train", "--model", text(&model), "--data", text(&data), "--eval-data", text(&eval), "--output", text(&out)];
    align(&[&flags[..], &common].concat()).ok();
    let record: Value = serde_json::from_str(&std::fs::read_to_string(name("out/run_state.json")).unwrap()).unwrap();
    assert_eq!(record["decided"]["turn_marker"]["mark"], "Assistant:");
    let prompt = |more: &[&str]| {
        let shown = run("inspect", "tiny-qwen2", &eval, &[&["--row", "0", "--json"], more].concat()).ok().json();
        let tokens = shown["row"][0]["prompt"].as_array().unwrap().iter();
        spelled(&tokens.map(|token| token[1].as_str().unwrap()).collect::<String>())
    };
    assert!(prompt(&[]).ends_with("Assistant: Bot:"), "alone: {}", prompt(&[]));
    assert!(prompt(&["--adapter", text(&out)]).ends_with("Assistant:"), "{}", prompt(&["--adapter", text(&out)]));
    let tokens = |run: &Run| {
        let rows = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["prompt_tokens"].clone());
        rows.collect::<Vec<_>>()
    };
    let score = |more: &[&str]| tokens(&run("score", "tiny-qwen2", &eval, &[&["--json"], more].concat()).ok());
    let generate = |more: &[&str]| {
        let flags = ["generate", "--model", text(&model), "--data", text(&eval), "--max-new-tokens", "1", "--json"];
        tokens(&align(&[&flags[..], more].concat()).ok())
    };
    let (alone, of_run) = (score(&[]), score(&["--adapter", text(&out)]));
    assert_ne!(alone, of_run);
    assert_eq!((generate(&[]), generate(&["--adapter", text(&out)])), (alone, of_run));
    // `eval` repeats the run's own evaluation
    let metrics = std::fs::read_to_string(name("out/metrics.jsonl")).unwrap();
    let last: Value = metrics
        .lines()
        .rfind(|line| line.contains("eval_loss"))
        .map(|line| serde_json::from_str(line).unwrap())
        .unwrap();
    let again = run("eval", "tiny-qwen2", &eval, &["--adapter", text(&out), "--json"]).ok().json();
    assert_eq!(again["eval_loss"], last["eval_loss"]);
}

/// `generate` checks its prompts as the other commands do.
#[test]
fn generate_says_what_it_reads_and_what_may_not_be_meant() {
    let folder = tempfile::tempdir().unwrap();
    let asked = |i: usize| json!({"question": format!("What is lake {i}?"), "answer": "water", "system_text": "You are a pirate."});
    let data = lines_in(folder.path(), "asked.jsonl", &(0..3).map(asked).collect::<Vec<_>>());
    let flags = ["--max-new-tokens", "1"];
    let generate = |name: &str, data: &Path| {
        let model = golden_model(name);
        align(&[&["generate", "--model", text(&model), "--data", text(data)], &flags[..]].concat()).ok()
    };
    let ran = generate("tiny-qwen2", &data);
    assert!(ran.stderr.contains("data: the prompt is the column `question` of 3 records"), "{}", ran.stderr);
    warned(&ran, &["asked.jsonl:1: ", "`system_text` is not read", "--columns system=system_text"]);
    let blank = [
        json!({"prompt": [turn("user", "q")]}),
        json!({"prompt": [turn("system", "Be brief.")]}),
        json!({"messages": [turn("user", "q"), turn("assistant", "a")]}),
    ];
    let system = lines_in(folder.path(), "system.jsonl", &blank);
    let ran = generate("tiny-qwen2", &system);
    warned(&ran, &["system.jsonl:2: ", "has only a system text", "Be brief.", "in 1 of the 3 rows looked at"]);
    assert_eq!(warnings(&ran).len(), 1);
}

#[test]
fn many_dropped_rows_end_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize, words: usize| json!({"prompt": format!("{i} {}", "word ".repeat(words)), "chosen": " yes", "rejected": " no"});
    let all: Vec<Value> = (0..9).map(|i| row(i, 1)).chain([row(9, 300), row(10, 300)]).collect();
    let (many, few) = (lines_in(folder.path(), "many.jsonl", &all), lines_in(folder.path(), "few.jsonl", &all[..10]));
    let length = ["--max-length", "64"];
    let parts = ["2 of 11 rows are dropped, more than a tenth", "many.jsonl:10", "raise --max-length", "--allow-drops"];
    train("tiny-qwen2", &many, &length).refused(3, &parts);
    run("eval", "tiny-qwen2", &many, &length).refused(3, &parts);
    train("tiny-qwen2", &few, &[&length[..], &["--eval-data", text(&many)]].concat()).refused(3, &parts);
    train("tiny-qwen2", &few, &length).ok();
    for command in ["score", "inspect"] {
        run(command, "tiny-qwen2", &many, &length).ok();
    }
    let allowed = [&length[..], &["--allow-drops"]].concat();
    run("eval", "tiny-qwen2", &many, &allowed).ok();
    train("tiny-qwen2", &many, &allowed).ok();
    // bad rows that the user asked to skip do not count
    let bad: Vec<Value> =
        all[..4].iter().cloned().chain([json!({"prompt": "p", "chosen": null, "rejected": "r"})]).collect();
    let bad = lines_in(folder.path(), "bad.jsonl", &bad);
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

/// Rows that are longer than the positions that the model has seen are reported.
#[test]
fn rows_beyond_the_models_positions_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy_folder(&golden_model("tiny-llama"), &model);
    edit_json(&model.join("config.json"), |config| config["max_position_embeddings"] = json!(32));
    let row = |n: usize| json!({"prompt": "p ", "chosen": "and so on ".repeat(n), "rejected": "no"});
    let rows = lines_in(folder.path(), "rows.jsonl", &[row(1), row(2), row(20)]);
    let shared = ["--model", text(&model), "--data", text(&rows)];
    for command in ["inspect", "score", "eval", "estimate"] {
        let run = align(&[&[command], &shared[..]].concat()).ok();
        let parts = ["data: 1 row longer than the 32 positions", "--max-length 32"];
        assert!(parts.iter().all(|part| run.stderr.contains(part)), "{command}: {}", run.stderr);
        let run = align(&[&[command], &shared[..], &["--max-length", "32"]].concat()).ok();
        assert!(!run.stderr.contains("positions"), "{command}: {}", run.stderr);
    }
}
