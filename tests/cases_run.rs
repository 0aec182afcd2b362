//! What a run's folder keeps, and what later commands take from it.

use crate::align::{Run, align, committed_goldens, number, read_lines, root};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn model(name: &str) -> PathBuf {
    committed_goldens().join(name).join("model")
}

fn case(name: &str) -> PathBuf {
    root().join("tests/cases/models").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A copy of a golden model, without its chat template.
fn without_template(name: &str, folder: &Path) -> PathBuf {
    let copy = folder.join(format!("{name}-without-template"));
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let _ = fs::remove_file(copy.join("chat_template.jinja"));
    let config = copy.join("tokenizer_config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    object.as_object_mut().unwrap().remove("chat_template");
    fs::write(&config, object.to_string()).unwrap();
    copy
}

/// Two steps of the case's pairs with the case's template, in `out`.
fn train_with_template(model: &Path, out: &Path, template: &Path, more: &[&str]) -> Run {
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let flags = [
        "train",
        "--model",
        text(model),
        "--data",
        text(&pairs),
        "--eval-data",
        text(&pairs),
        "--chat-template",
        text(template),
        "--max-steps",
        "2",
        "--batch-size",
        "2",
        "--learning-rate",
        "1e-3",
        "--max-length",
        "300",
        "--precision",
        "f32",
        "--output",
        text(out),
    ];
    align(&[&flags[..], more].concat()).ok()
}

/// The last evaluation of a run.
fn evaluation(out: &Path) -> Value {
    read_lines(&out.join("metrics.jsonl")).into_iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap()
}

/// Checks that `eval` gives, to the last bit, what the run said at its end.
fn same_evaluation(eval: &Value, of_run: &Value, what: &str) {
    let keys = of_run.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("eval_"));
    for (key, value) in keys {
        assert_eq!(eval[key], *value, "{what}: {key}");
    }
}

fn prompt_tokens(model: &Path, more: &[&str]) -> u64 {
    let flags = ["generate", "--model", text(model), "--prompt", "Hi there", "--max-new-tokens", "1", "--json"];
    align(&[&flags[..], more].concat()).ok().json()["prompt_tokens"].as_u64().unwrap()
}

#[test]
fn a_run_renders_with_its_template_ever_after() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("template.jinja");
    fs::copy(case("run-chat-template").join("template.jinja"), &template).unwrap();
    let (model, out, pairs) =
        (model("tiny-llama31"), folder.path().join("run"), case("run-chat-template").join("pairs.jsonl"));
    train_with_template(&model, &out, &template, &[]);
    let kept = fs::read(out.join("chat_template.jinja")).unwrap();
    assert!(kept == fs::read(&template).unwrap());
    let loss = number(&evaluation(&out)["eval_loss"]);
    assert!((loss - 0.0053).abs() < 5e-5, "{loss}");
    // moved, and changed
    for change in ["moved", "changed"] {
        match change {
            "moved" => fs::remove_file(&template).unwrap(),
            _ => fs::write(&template, "{{ messages[0].content }}").unwrap(),
        }
        let common = ["--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--json"];
        let eval = align(&[&["eval"][..], &common].concat()).ok();
        same_evaluation(&eval.json(), &evaluation(&out), change);
        assert!(eval.stderr.contains("its chat template"), "{}", eval.stderr);
        assert_eq!(prompt_tokens(&model, &["--adapter", text(&out)]), 15);
        let score = align(&[&["score"][..], &common].concat()).ok();
        let by_flag = ["--chat-template", text(&case("run-chat-template").join("template.jinja"))].map(str::to_owned);
        let by_flag: Vec<&str> = by_flag.iter().map(String::as_str).collect();
        assert!(score.stdout == align(&[&["score"][..], &common, &by_flag].concat()).ok().stdout);
    }
    let own = fs::write(folder.path().join("own.jinja"), "{{ messages[0].content }}");
    own.unwrap();
    let own = folder.path().join("own.jinja");
    assert!(prompt_tokens(&model, &["--adapter", text(&out), "--chat-template", text(&own)]) < 15, "a flag wins");

    let merged = folder.path().join("merged");
    align(&["merge", "--model", text(&model), "--adapter", text(&out), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), 15);
    assert!(fs::read(merged.join("chat_template.jinja")).unwrap() == kept);
    let config: Value = serde_json::from_slice(&fs::read(merged.join("tokenizer_config.json")).unwrap()).unwrap();
    assert!(config.get("chat_template").is_none());

    // a run that goes on from it keeps it too
    let on = folder.path().join("on");
    let flags = ["train", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--max-steps", "1"];
    let run = align(&[&flags[..], &["--output", text(&on), "--precision", "f32"]].concat()).ok();
    assert!(run.stderr.contains("its chat template") && run.stderr.contains("max-length 300"), "{}", run.stderr);
    assert!(fs::read(on.join("chat_template.jinja")).unwrap() == kept);
}

/// The base has no template: what the run was trained with is the only one.
#[test]
fn a_base_without_a_template_has_that_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template("tiny-llama31", folder.path());
    let (out, case) = (folder.path().join("run"), case("run-chat-template"));
    train_with_template(&model, &out, &case.join("template.jinja"), &["--loss", "rm_bt"]);
    let (pairs, chat) = (case.join("pairs.jsonl"), folder.path().join("chat"));
    let score = ["score", "--model", text(&model), "--reward-model", text(&out), "--data", text(&pairs), "--json"];
    assert_eq!(align(&score).ok().json_lines().len(), read_lines(&pairs).len());
    train_with_template(&model, &chat, &case.join("template.jinja"), &[]);
    assert_eq!(prompt_tokens(&model, &["--adapter", text(&chat)]), 15);
    let merged = folder.path().join("merged");
    align(&["merge", "--model", text(&model), "--adapter", text(&chat), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), 15);
}

/// Other programs save tokenizer and template beside the adapter.
#[test]
fn a_template_beside_the_adapter_of_another_program_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (out, case) = (folder.path().join("run"), case("run-chat-template"));
    train_with_template(&model("tiny-llama31"), &out, &case.join("template.jinja"), &[]);
    for name in ["config.toml", "metrics.jsonl"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let bare = without_template("tiny-llama31", folder.path());
    let generate = |model: &Path, more: &[&str]| {
        let flags = ["generate", "--model", text(model), "--adapter", text(&out), "--prompt", "Hi there", "--json"];
        let run = align(&[&flags[..], &["--max-new-tokens", "1"], more].concat()).ok();
        (run.json()["prompt_tokens"].as_u64().unwrap(), run.stderr)
    };
    let (tokens, said) = generate(&model("tiny-llama31"), &[]);
    assert!(tokens == 19 && said.contains("warning: ") && said.contains("another chat template"), "{said}");
    let (tokens, said) = generate(&model("tiny-llama31"), &["--chat-template", text(&out)]);
    assert!(tokens == 15 && !said.contains("warning: "), "{said}");
    let (tokens, said) = generate(&bare, &[]);
    assert!(tokens == 15 && said.contains("the model has none"), "{said}");
    // in tokenizer_config.json, as older programs write it
    let source = fs::read_to_string(out.join("chat_template.jinja")).unwrap();
    fs::remove_file(out.join("chat_template.jinja")).unwrap();
    fs::write(out.join("tokenizer_config.json"), json!({"chat_template": source}).to_string()).unwrap();
    assert_eq!(generate(&bare, &[]).0, 15);
    assert_eq!(generate(&model("tiny-llama31"), &["--chat-template", text(&out)]).0, 15);
    // the same as the model's is not worth a word
    fs::copy(model("tiny-llama31").join("tokenizer_config.json"), out.join("tokenizer_config.json")).unwrap();
    let (tokens, said) = generate(&model("tiny-llama31"), &[]);
    assert!(tokens == 19 && !said.contains("template"), "{said}");
}
