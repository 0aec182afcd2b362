//! What a run's folder keeps, and what later commands take from it.

use crate::align::{Run, align, committed_goldens, copy_folder, number, read_lines, root, text, write_lines};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn model(name: &str) -> PathBuf {
    committed_goldens().join(name).join("model")
}

fn case(name: &str) -> PathBuf {
    root().join("tests/cases/models").join(name)
}

/// A copy of a golden model, without its chat template.
fn without_template(name: &str, folder: &Path) -> PathBuf {
    let copy = folder.join(format!("{name}-without-template"));
    copy_folder(&model(name), &copy);
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
        "--allow-drops",
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

    // its own options make the same run, although what they named is another template now
    let again = folder.path().join("again");
    align(&["train", "--config", text(&out.join("config.toml")), "--output", text(&again)]).ok();
    assert!(
        fs::read(again.join("adapter_model.safetensors")).unwrap()
            == fs::read(out.join("adapter_model.safetensors")).unwrap()
    );

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

/// A template that came, went or changed since the run is said, or asked for.
#[test]
fn templates_that_are_not_those_of_the_run_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let bare = without_template("tiny-llama31", folder.path());
    let with = model("tiny-llama31");
    let texts = folder.path().join("texts.jsonl");
    write_lines(&texts, &text_pairs());
    let train = |model: &Path, out: &Path, more: &[&str]| {
        let flags =
            ["train", "--model", text(model), "--data", text(&texts), "--max-steps", "1", "--output", text(out)];
        align(&[&flags[..], more].concat()).ok()
    };
    let on = |model: &Path, run: &Path, more: &[&str]| {
        let flags = ["generate", "--model", text(model), "--adapter", text(run), "--prompt", "Hi", "--json"];
        align(&[&flags[..], &["--max-new-tokens", "1"], more].concat())
    };
    let plain = folder.path().join("plain");
    train(&bare, &plain, &[]);
    let gained = on(&with, &plain, &[]).ok();
    assert!(gained.stderr.contains("was made without a chat template"), "{}", gained.stderr);
    assert!(!on(&bare, &plain, &[]).ok().stderr.contains("chat template"));

    let chat = folder.path().join("chat");
    train(&with, &chat, &["--chat", "--system", "Be brief."]);
    assert!(!on(&with, &chat, &[]).ok().stderr.contains("warning: "));
    let own = chat.join("chat_template.jinja");
    let source = fs::read_to_string(&own).unwrap();
    fs::write(&own, format!("{source} ")).unwrap();
    let edited = on(&with, &chat, &[]).ok();
    assert!(edited.stderr.contains("the chat template was changed since the run"), "{}", edited.stderr);
    fs::remove_file(&own).unwrap();
    assert!(!on(&with, &chat, &[]).ok().stderr.contains("warning: "), "the model's is the same");
    let by_flag = folder.path().join("by-flag");
    train(&with, &by_flag, &["--chat-template", text(&with)]);
    fs::remove_file(by_flag.join("chat_template.jinja")).unwrap();
    let gone = on(&bare, &by_flag, &[]);
    assert!(gone.code == Some(3) && gone.stderr.contains("is gone; give it with --chat-template"), "{}", gone.stderr);
    let gone = on(&bare, &chat, &[]);
    assert!(gone.code == Some(3) && gone.stderr.contains("is gone; give it with --chat-template"), "{}", gone.stderr);
    on(&bare, &chat, &["--chat-template", text(&with)]).ok();
    // what a merged model cannot hold
    let merged = folder.path().join("merged");
    let run = align(&["merge", "--model", text(&with), "--adapter", text(&chat), "--output", text(&merged)]).ok();
    assert!(run.stderr.contains("give it with --system (Be brief.)"), "{}", run.stderr);
    let merged = folder.path().join("merged-plain");
    let run = align(&["merge", "--model", text(&bare), "--adapter", text(&plain), "--output", text(&merged)]).ok();
    assert!(!run.stderr.contains("system text"), "{}", run.stderr);
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

/// The case's pairs, under columns of other names.
fn renamed_pairs(folder: &Path) -> PathBuf {
    let mut rows = read_lines(&case("run-chat-template").join("pairs.jsonl"));
    for row in &mut rows {
        let object = row.as_object_mut().unwrap();
        for (ours, theirs) in [("prompt", "question"), ("chosen", "better"), ("rejected", "worse")] {
            let value = object.remove(ours).unwrap();
            object.insert(theirs.to_owned(), value);
        }
    }
    let path = folder.join("renamed.jsonl");
    write_lines(&path, &rows);
    path
}

/// What a run of the table is made with.
struct Made<'a> {
    loss: &'a [&'a str],
    data: &'a Path,
    /// `--adapter`
    start: Option<&'a Path>,
    more: &'a [&'a str],
}

impl Made<'_> {
    fn train(&self, out: &Path) -> Run {
        self.try_to_train(out).ok()
    }

    fn try_to_train(&self, out: &Path) -> Run {
        let (model, data) = (model("tiny-llama31"), text(self.data));
        let flags = ["train", "--model", text(&model), "--data", data, "--eval-data", data, "--max-steps", "3"];
        let more = ["--batch-size", "3", "--learning-rate", "1e-3", "--output", text(out), "--threads", "2"];
        let start: Vec<&str> = self.start.into_iter().flat_map(|dir| ["--adapter", text(dir)]).collect();
        align(&[&flags[..], &more, &["--loss"], self.loss, &start, self.more].concat())
    }

    /// `eval` of the adapter that was kept, without a word about how the run was made.
    fn evaluate(&self, out: &Path) -> Run {
        let model = model("tiny-llama31");
        let flags = ["eval", "--model", text(&model), "--adapter", text(out), "--data", text(self.data), "--json"];
        align(&flags).ok()
    }

    /// Trains and evaluates: the object of `eval`, which has every number of the run's last evaluation to the last bit.
    fn check(&self, out: &Path) -> Value {
        self.train(out);
        let eval = self.evaluate(out);
        let what = format!("{:?} {:?}", self.loss, self.more);
        same_evaluation(&eval.json(), &evaluation(out), &what);
        assert_eq!(eval.stderr.matches("reference: ").count(), 1, "{what}: {}", eval.stderr);
        eval.json()
    }
}

const TABLE: [&[&str]; 10] = [
    &["dpo"],
    &["exo"],
    &["ipo", "--beta", "0.3"],
    &["kto"],
    &["bco"],
    &["sft"],
    &["rm_bt"],
    &["dpo:0.8,ipo:0.2"],
    &["dpo:0.8,sft:0.2"],
    &["alpha_dpo"],
];

#[test]
fn an_evaluation_of_a_run_is_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let template = case("run-chat-template").join("template.jinja");
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let renamed = renamed_pairs(folder.path());
    let columns = ["--columns", "prompt=question,chosen=better,rejected=worse"];
    // a reward model's rows whose answers --max-length would cut are dropped, more than a tenth of them
    let all = [
        &columns[..],
        &["--chat-template", text(&template), "--system", "Be brief."],
        &["--max-length", "300", "--allow-drops", "--lora-dropout", "0.1"],
    ]
    .concat();
    let f32 = [&all[..], &["--precision", "f32", "--logp-temperature", "0.9"]].concat();
    for (i, loss) in TABLE.iter().enumerate() {
        let reward = loss[0] == "rm_bt";
        let compares = !reward && loss[0] != "sft";
        let out = |name: &str| folder.path().join(format!("{i}-{name}"));
        let plain = Made { loss, data: &pairs, start: None, more: &[] }.check(&out("plain"));
        assert_eq!(plain["reference"], if compares { "base" } else { "none" }, "{loss:?}");
        let more: &[&str] = if reward { &all } else { &f32 };
        if reward {
            Made { loss, data: &renamed, start: None, more }.check(&out("all"));
            continue;
        }
        // the adapter that it starts from is gone by the time of the evaluation
        let (start, out) = (out("start"), out("all"));
        Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&start);
        let made = Made { loss, data: &renamed, start: Some(&start), more };
        made.train(&out);
        fs::remove_dir_all(&start).unwrap();
        let eval = made.evaluate(&out);
        same_evaluation(&eval.json(), &evaluation(&out), &format!("{loss:?} with everything"));
        let reference = eval.json()["reference"].as_str().unwrap().to_owned();
        assert_eq!(reference.len(), if compares { 64 } else { 4 }, "{loss:?}: {reference}");
    }
}

/// Pairs of texts.
fn text_pairs() -> Vec<Value> {
    let pair =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    vec![
        pair("What floats?", " Wood does, and so does ice.", " Stones."),
        pair("Is it raining?", " Yes, take a coat.", " It is Tuesday, and all is well."),
        pair("Name a bird.", " A heron.", " The bird is the word."),
        pair("Who wrote it?", " A keeper of the lighthouse wrote it.", " Nobody."),
        pair("Where is the tea?", " On the shelf.", " Where it was."),
        pair("How late is it?", " Nearly four.", " Late, later, latest."),
    ]
}

/// The same without a prompt column, with a turn marker, and with a first word that both answers share.
fn dialogues() -> Vec<Value> {
    let dialogue = |pair: &Value, answer: &str| {
        let of = |key: &str| pair[key].as_str().unwrap();
        json!(format!("\n\nHuman: {}\n\nAssistant: Well,{}", of("prompt"), of(answer)))
    };
    let row = |pair: &Value| json!({"chosen": dialogue(pair, "chosen"), "rejected": dialogue(pair, "rejected")});
    text_pairs().iter().map(row).collect()
}

/// Each of these options changes the numbers of a run; an evaluation has them without being told.
#[test]
fn options_that_say_how_rows_are_read_are_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, rows: &[Value]| {
        let path = folder.path().join(name);
        write_lines(&path, rows);
        path
    };
    let texts = file("texts.jsonl", &text_pairs());
    let dialogues = file("dialogues.jsonl", &dialogues());
    let bad = file("bad.jsonl", &[text_pairs(), vec![json!({"prompt": "no answers"})]].concat());
    let scored = text_pairs().into_iter().enumerate().map(|(i, pair)| {
        json!({"prompt": pair["prompt"], "completions": [pair["chosen"], pair["rejected"], " None."], "rewards": [2, i, 1]})
    });
    let scored = file("scored.jsonl", &scored.collect::<Vec<_>>());
    let table: [(&str, &Path, &[&str]); 11] = [
        ("dpo", &texts, &["--system", "Be brief."]),
        ("sft", &texts, &["--system", "Be brief."]),
        ("exo", &texts, &["--chat"]),
        ("rm_bt", &texts, &["--chat", "--system", "Be brief."]),
        ("ipo", &dialogues, &["--implicit-prompt"]),
        ("kto", &dialogues, &["--implicit-prompt"]),
        ("dpo", &scored, &["--pairs", "best-worst"]),
        ("ipo", &scored, &["--pairs", "all"]),
        ("dpo", &bad, &["--on-bad-row", "skip"]),
        ("kto", &texts, &["--unpaired-order", "trl"]),
        ("bco", &texts, &["--unpaired-order", "trl"]),
    ];
    for (i, (loss, data, options)) in table.into_iter().enumerate() {
        let out = |name: &str| folder.path().join(format!("{i}-{name}"));
        let loss = [loss];
        let made = Made { loss: &loss, data, start: None, more: options };
        made.check(&out("with"));
        let without = Made { more: &[], ..made }.try_to_train(&out("without"));
        let differs = without.code == Some(3)
            || evaluation(&out("with"))["eval_loss"] != evaluation(&out("without"))["eval_loss"];
        assert!(differs, "{loss:?} {options:?} changes nothing");
    }
}

/// `--sft-on`, the batch size and the length: the rows are whole conversations.
#[test]
fn an_evaluation_of_scored_turns_is_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (messages, out) = (case("eval-of-a-run").join("messages.jsonl"), folder.path().join("run"));
    let more = ["--sft-on", "assistant", "--max-length", "600", "--allow-drops", "--precision", "f32"];
    let made = Made { loss: &["sft"], data: &messages, start: None, more: &more };
    let object = made.check(&out);
    let by_flag = ["--sft-on", "all", "--batch-size", "8"];
    let model = model("tiny-llama31");
    let flags = ["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&messages), "--json"];
    let other = align(&[&flags[..], &by_flag].concat()).ok();
    assert!(other.json()["eval_loss"] != object["eval_loss"], "a flag wins");
    assert!(!other.stderr.contains("sft-on"), "{}", other.stderr);
}

/// The numbers of the case's README.
#[test]
fn the_case_of_an_evaluation_has_the_value_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (model("tiny-llama31"), folder.path().join("run"));
    let messages = case("eval-of-a-run").join("messages.jsonl");
    let flags = ["train", "--model", text(&model), "--data", text(&messages), "--eval-data", text(&messages)];
    let more =
        ["--loss", "sft", "--sft-on", "assistant", "--max-length", "600", "--max-steps", "2", "--batch-size", "2"];
    let rest = ["--learning-rate", "1e-3", "--precision", "f32", "--output", text(&out)];
    align(&[&flags[..], &more, &rest].concat()).ok();
    let eval =
        align(&["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&messages), "--json"]).ok();
    same_evaluation(&eval.json(), &evaluation(&out), "the case");
    let loss = number(&eval.json()["eval_loss"]);
    assert!((loss - 9.9515).abs() < 1e-3, "{loss}");
}

/// What answers are compared with is said by a line and a key, and checked against what the run was trained against.
#[test]
fn the_reference_of_a_run_is_kept_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let (start, out) = (folder.path().join("start"), folder.path().join("run"));
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&start);
    let made = Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &[] };
    made.train(&out);
    let model = model("tiny-llama31");
    let score = |more: &[&str]| {
        let flags = ["score", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--json"];
        align(&[&flags[..], more].concat())
    };
    let by_run = score(&[]).ok();
    assert!(by_run.stderr.contains("reference: the model with"), "{}", by_run.stderr);
    let by_flag = score(&["--reference", text(&start)]).ok();
    assert!(by_run.stdout == by_flag.stdout, "the start is still what it was");
    let hash = by_run.json_lines()[0]["reference"].as_str().unwrap().to_owned();
    assert!(hash.len() == 64 && by_run.json_lines().iter().all(|row| row["reference"] == hash.as_str()));
    let base = score(&["--reference", "base"]).ok();
    assert!(base.json_lines()[0]["reference"] == "base" && base.stdout != by_run.stdout);
    // the run's copy is gone: the start stands in for it, as long as it is the same
    let kept = out.join("reference");
    fs::remove_dir_all(&kept).unwrap();
    assert!(score(&[]).ok().stdout == by_run.stdout);
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4", "--overwrite", "--seed", "7"] }
        .train(&start);
    let changed = score(&[]);
    assert_eq!(changed.code, Some(3), "{}", changed.stderr);
    assert!(changed.stderr.contains("gone or was changed") && changed.stderr.contains(&hash), "{}", changed.stderr);
    fs::remove_dir_all(&start).unwrap();
    assert_eq!(score(&[]).code, Some(3));
    score(&["--reference", "base"]).ok();
    // a run before runs kept a record
    fs::remove_file(out.join("run_state.json")).unwrap();
    assert_eq!(score(&[]).code, Some(3), "its adapter is gone");
    // its own copy comes before what its options name
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&kept);
    let run = score(&[]).ok();
    assert!(run.stderr.contains("has no run_state.json") && run.stderr.contains("run/reference"), "{}", run.stderr);
    assert!(run.stdout == by_run.stdout, "made like the first");
}

/// The record of a run says nothing about an adapter that came into its folder later.
#[test]
fn the_reference_of_another_adapter_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let [start, out, other] = ["start", "run", "other"].map(|name| folder.path().join(name));
    Made { loss: &["sft"], data: &pairs, start: None, more: &[] }.train(&start);
    Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &[] }.train(&out);
    Made { loss: &["dpo"], data: &pairs, start: None, more: &["--seed", "9"] }.train(&other);
    fs::copy(other.join("adapter_model.safetensors"), out.join("adapter_model.safetensors")).unwrap();
    let model = model("tiny-llama31");
    for command in ["score", "eval"] {
        let flags = [command, "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--json"];
        let run = align(&flags).ok();
        assert!(run.stderr.contains("run_state.json is about another adapter"), "{}", run.stderr);
        assert_eq!(run.json_lines()[0]["reference"], "base", "{command}");
    }
}

/// What the run has switched on, a command may switch off again; long values are shortened where they are said.
#[test]
fn switches_of_a_run_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out, model) = (folder.path().join("texts.jsonl"), folder.path().join("run"), model("tiny-llama31"));
    write_lines(&data, &text_pairs());
    let system = "Be brief. ".repeat(30);
    Made { loss: &["dpo"], data: &data, start: None, more: &["--chat", "--system", &system] }.train(&out);
    let tokens = |more: &[&str]| {
        let flags = ["score", "--model", text(&model), "--data", text(&data), "--json"];
        let run = align(&[&flags[..], more].concat()).ok();
        (run.json_lines()[0]["prompt_tokens"].clone(), run.stderr)
    };
    let (of_run, said) = tokens(&["--adapter", text(&out)]);
    assert_eq!(of_run, tokens(&["--chat", "--system", &system]).0);
    assert!(said.contains("chat, system Be brief.") && !said.contains(&system), "{said}");
    let (off, _) = tokens(&["--adapter", text(&out), "--no-chat", "--system", ""]);
    assert!(off == tokens(&[]).0 && off != of_run, "{off} {of_run}");
    let (texts, _) = tokens(&["--adapter", text(&out), "--no-chat"]);
    assert_eq!(texts, tokens(&["--system", &system]).0);
    // and one of a loss
    let ipo = folder.path().join("ipo");
    Made { loss: &["ipo", "--no-length-norm"], data: &data, start: None, more: &[] }.train(&ipo);
    let loss = |more: &[&str]| {
        let flags = ["eval", "--model", text(&model), "--data", text(&data), "--adapter", text(&ipo), "--json"];
        align(&[&flags[..], more].concat()).ok().json()["eval_loss"].clone()
    };
    assert_eq!(loss(&[]), loss(&["--loss", "ipo", "--no-length-norm"]));
    assert_ne!(loss(&[]), loss(&["--length-norm"]));
    // a file's switch too
    let config = folder.path().join("options.toml");
    fs::write(&config, "chat = true\n").unwrap();
    let run = |more: &[&str]| {
        let out = folder.path().join(format!("of-file{}", more.len()));
        let flags = ["train", "--config", text(&config), "--model", text(&model), "--data", text(&data)];
        align(&[&flags[..], &["--max-steps", "1", "--output", text(&out)], more].concat()).ok();
        fs::read_to_string(out.join("config.toml")).unwrap().contains("chat = true")
    };
    assert!(run(&[]) && !run(&["--no-chat"]));
}

/// What an SFT run scored is about sequences; its adapter may be asked about pairs.
#[test]
fn the_part_of_an_sft_run_is_left_out_where_rows_are_no_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let (messages, out) = (case("eval-of-a-run").join("messages.jsonl"), folder.path().join("run"));
    let more = ["--sft-on", "assistant", "--max-length", "600", "--allow-drops"];
    Made { loss: &["sft"], data: &messages, start: None, more: &more }.train(&out);
    let (model, pairs) = (model("tiny-llama31"), case("run-chat-template").join("pairs.jsonl"));
    let texts = folder.path().join("texts.jsonl");
    write_lines(&texts, &[json!({"prompt": "What floats?", "completion": " Wood."})]);
    let on = |command: &str, data: &Path, more: &[&str]| {
        let flags = [command, "--model", text(&model), "--adapter", text(&out), "--data", text(data), "--json"];
        align(&[&flags[..], more].concat())
    };
    let run = on("score", &pairs, &[]).ok();
    assert!(run.stderr.contains("sft-on assistant of") && run.stderr.contains("is not taken"), "{}", run.stderr);
    let run = on("eval", &pairs, &["--loss", "dpo", "--allow-drops"]).ok();
    assert!(!run.stderr.contains("sft-on"), "{}", run.stderr);
    let run = on("score", &texts, &[]);
    assert!(run.code == Some(3) && run.stderr.contains("--sft-on gives another"), "{}", run.stderr);
    on("score", &texts, &["--sft-on", "all"]).ok();
}

/// A run that replaces one with a reference and a template of its own leaves neither behind.
#[test]
fn a_run_that_overwrites_leaves_no_reference_of_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let (start, out) = (folder.path().join("start"), folder.path().join("run"));
    Made { loss: &["sft"], data: &pairs, start: None, more: &[] }.train(&start);
    let made = Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &["--overwrite"] };
    made.train(&out);
    made.train(&out);
    assert!(out.join("reference/adapter_model.safetensors").exists());
    let base = Made { start: None, ..made };
    assert_eq!(base.check(&out)["reference"], "base");
    assert!(!out.join("reference").exists());
}

/// A template for conversations with tools is a part of the run's.
#[test]
fn templates_for_tools_are_kept_and_merged_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template("tiny-llama31", folder.path());
    let config = model.join("tokenizer_config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let plain = fs::read_to_string(case("run-chat-template").join("template.jinja")).unwrap();
    let tools = format!("{{{{ 'With ' ~ tools[0].function.name ~ '. ' }}}}{plain}");
    object["chat_template"] = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": tools}]);
    fs::write(&config, object.to_string()).unwrap();
    let tool = json!({"type": "function", "function": {"name": "look_up", "parameters": {}}});
    let mut rows = read_lines(&case("run-chat-template").join("pairs.jsonl"));
    rows[0]["tools"] = json!([tool]);
    let data = folder.path().join("tools.jsonl");
    write_lines(&data, &rows);
    let (out, merged) = (folder.path().join("run"), folder.path().join("merged"));
    let flags = ["train", "--model", text(&model), "--data", text(&data), "--max-steps", "1", "--max-length", "300"];
    align(&[&flags[..], &["--precision", "f32", "--output", text(&out)]].concat()).ok();
    let prompt_tokens = |model: &Path, more: &[&str]| {
        let flags = ["score", "--model", text(model), "--data", text(&data), "--max-length", "300", "--json"];
        let run = align(&[&flags[..], more].concat()).ok();
        run.json_lines().iter().map(|row| row["prompt_tokens"].clone()).collect::<Vec<_>>()
    };
    let of_model = prompt_tokens(&model, &[]);
    object["chat_template"] = "{% for m in messages %}{{ m.content }} {% endfor %}".into();
    fs::write(&config, object.to_string()).unwrap();
    assert!(prompt_tokens(&model, &[]) != of_model);
    assert_eq!(prompt_tokens(&model, &["--adapter", text(&out)]), of_model);
    align(&["merge", "--model", text(&model), "--adapter", text(&out), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), of_model);
}

/// A loss by its name, if it is the run's, has the run's knobs; another one has none of them.
#[test]
fn a_loss_that_is_the_runs_has_the_runs_knobs() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let out = folder.path().join("run");
    let made = Made { loss: &["exo", "--beta", "0.4"], data: &pairs, start: None, more: &[] };
    let of_run = made.check(&out);
    let model = model("tiny-llama31");
    let eval = |more: &[&str]| {
        let flags = ["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--json"];
        align(&[&flags[..], more].concat()).ok().json()
    };
    assert!(eval(&["--loss", "exo_pair"]) == of_run && eval(&["--loss", "exo"]) == of_run);
    assert_eq!(eval(&["--loss", "dpo"])["beta"], 0.1);
    assert_eq!(eval(&["--beta", "0.2"])["beta"], 0.2);
}

/// Running statistics belong to the adapter beside them, and to the run's own loss.
#[test]
fn running_statistics_are_those_of_the_adapter_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let (out, other) = (folder.path().join("run"), folder.path().join("other"));
    let made = Made { loss: &["bco"], data: &pairs, start: None, more: &["--weight-decay", "0.1"] };
    made.check(&out);
    Made { more: &["--seed", "9"], ..made }.train(&other);
    fs::copy(other.join("adapter_model.safetensors"), out.join("adapter_model.safetensors")).unwrap();
    let run = made.evaluate(&out);
    assert!(run.stderr.contains("is about another adapter"), "{}", run.stderr);
    fs::write(out.join("run_state.json"), "{").unwrap();
    let model = model("tiny-llama31");
    let run = align(&["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs)]);
    assert!(run.code == Some(3) && run.stderr.contains("run_state.json"), "{}", run.stderr);
    assert!(run.stderr.contains("remove it to go on without it"), "{}", run.stderr);
}

/// The map is the run's, the files are the user's.
#[test]
fn columns_of_the_run_that_the_data_lacks_are_said_to_be_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (renamed, out) = (renamed_pairs(folder.path()), folder.path().join("run"));
    let columns = ["--columns", "prompt=question,chosen=better,rejected=worse"];
    Made { loss: &["dpo"], data: &renamed, start: None, more: &columns }.train(&out);
    let (model, pairs) = (model("tiny-llama31"), case("run-chat-template").join("pairs.jsonl"));
    let flags = ["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs)];
    let run = align(&flags);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("prompt=question") && run.stderr.contains("config.toml"), "{}", run.stderr);
    align(&[&flags[..], &["--columns", "prompt=prompt"]].concat()).ok();
    // a run that goes on has other files as a rule
    let on = folder.path().join("on");
    let run = Made { loss: &["ipo"], data: &pairs, start: Some(&out), more: &[] }.train(&on);
    assert!(run.stderr.contains("by their own names"), "{}", run.stderr);
    assert!(fs::read_to_string(on.join("config.toml")).unwrap().contains("columns = \"\""));
    // one row of the run's columns is enough to mean them
    let mut rows = read_lines(&renamed);
    rows[2].as_object_mut().unwrap().remove("better");
    let bad = folder.path().join("bad.jsonl");
    write_lines(&bad, &rows);
    let mixed = folder.path().join("mixed.jsonl");
    write_lines(&mixed, &[read_lines(&pairs), vec![rows[0].clone()]].concat());
    for (data, part) in [(&bad, "bad.jsonl:3"), (&mixed, "mixed.jsonl:1")] {
        let run = Made { loss: &["ipo"], data, start: Some(&out), more: &[] }.try_to_train(&folder.path().join("none"));
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        assert!(run.stderr.contains(part) && run.stderr.contains("prompt=question"), "{}", run.stderr);
    }
    let same = folder.path().join("same");
    Made { loss: &["ipo"], data: &renamed, start: Some(&out), more: &[] }.train(&same);
    assert!(fs::read_to_string(same.join("config.toml")).unwrap().contains("prompt=question"));
}

/// A preset has numbers of its own, and is no other name for the loss that it is of.
#[test]
fn a_preset_is_another_loss_than_the_one_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case("run-chat-template").join("pairs.jsonl");
    let model = model("tiny-llama31");
    let eval = |run: &Path, more: &[&str]| {
        let flags = ["eval", "--model", text(&model), "--adapter", text(run), "--data", text(&pairs), "--json"];
        align(&[&flags[..], more].concat()).ok().json()
    };
    let knobs = |run: &Path, loss: &str| {
        let found = eval(run, &["--loss", loss]);
        assert_eq!(found["loss"], "dpo");
        ["beta", "use_weighting", "sft_weight", "f_divergence", "ld_alpha"].map(|key| found[key].clone())
    };
    let plain = folder.path().join("plain");
    Made { loss: &["dpo"], data: &pairs, start: None, more: &[] }.check(&plain);
    let alone = |loss: &str| {
        let flags = ["eval", "--model", text(&model), "--data", text(&pairs), "--json", "--loss", loss];
        let found = align(&flags).ok().json();
        ["beta", "use_weighting", "sft_weight", "f_divergence", "ld_alpha"].map(|key| found[key].clone())
    };
    for preset in ["wpo", "rpo", "f_js", "ld_dpo"] {
        assert_eq!(knobs(&plain, preset), alone(preset), "{preset}");
    }
    for (preset, more) in [("wpo", &[][..]), ("cdpo", &["--label-smoothing", "0.2"])] {
        let run = folder.path().join(preset);
        let made = Made { loss: &[preset], data: &pairs, start: None, more };
        let of_run = made.check(&run);
        assert!(fs::read_to_string(run.join("config.toml")).unwrap().contains(&format!("loss = \"{preset}\"")));
        assert_eq!(knobs(&run, "dpo"), alone("dpo"), "{preset}");
        assert_eq!(eval(&run, &["--loss", preset]), of_run, "{preset}");
        // its options make it again
        let again = folder.path().join(format!("{preset}-again"));
        align(&["train", "--config", text(&run.join("config.toml")), "--output", text(&again)]).ok();
        let weights = |run: &Path| fs::read(run.join("adapter_model.safetensors")).unwrap();
        assert!(weights(&run) == weights(&again), "{preset}");
    }
}

/// What was switched off, by a flag or a file, stays off where the run goes on from an adapter that had it on.
#[test]
fn what_is_off_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("texts.jsonl");
    write_lines(&data, &text_pairs());
    let [first, off, again, by_file] = ["first", "off", "again", "by-file"].map(|name| folder.path().join(name));
    let on = ["--chat", "--system", "Be brief.", "--allow-drops"];
    Made { loss: &["dpo"], data: &data, start: None, more: &on }.train(&first);
    Made { loss: &["dpo"], data: &data, start: Some(&first), more: &["--no-chat", "--system", ""] }.train(&off);
    let options = |run: &Path| fs::read_to_string(run.join("config.toml")).unwrap().parse::<toml::Table>().unwrap();
    let of = options(&off);
    let is_off = |key: &str| of[key] == toml::Value::Boolean(false);
    assert!(is_off("chat") && is_off("implicit-prompt") && is_off("allow-drops"), "{of}");
    assert_eq!((of["system"].as_str(), of["columns"].as_str()), (Some(""), Some("")));
    let run = align(&["train", "--config", text(&off.join("config.toml")), "--output", text(&again)]).ok();
    assert!(!run.stderr.contains("chat"), "{}", run.stderr);
    let weights = |run: &Path| fs::read(run.join("adapter_model.safetensors")).unwrap();
    assert!(weights(&off) == weights(&again));
    let file = folder.path().join("off.toml");
    fs::write(&file, "chat = false\n").unwrap();
    let more = ["--config", text(&file), "--system", ""];
    Made { loss: &["dpo"], data: &data, start: Some(&first), more: &more }.train(&by_file);
    assert!(weights(&off) == weights(&by_file));
}

/// `chat-template = "."` is about the folder that the options were written into.
#[test]
fn options_without_their_run_do_not_name_a_template() {
    let folder = tempfile::tempdir().unwrap();
    let (run, model) = (folder.path().join("run"), model("tiny-llama31"));
    train_with_template(&model, &run, &case("run-chat-template").join("template.jinja"), &[]);
    let copied = folder.path().join("copied.toml");
    fs::copy(run.join("config.toml"), &copied).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let again = |config: &Path, out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        align(&[&["train", "--config", text(config), "--output", text(&out)][..], more].concat())
    };
    let refused = again(&copied, "refused", &[]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    let what = "`chat-template = \".\"` is the copy that a run keeps";
    assert!(refused.stderr.contains("copied.toml:") && refused.stderr.contains(what), "{}", refused.stderr);
    let template = run.join("chat_template.jinja");
    again(&copied, "by-flag", &["--chat-template", text(&template)]).ok();
    assert!(!again(&run.join("config.toml"), "same", &[]).ok().stderr.contains("warning: "));
    fs::write(&template, format!("{} ", fs::read_to_string(&template).unwrap())).unwrap();
    let edited = again(&run.join("config.toml"), "edited", &[]).ok();
    assert!(edited.stderr.contains("the chat template beside it is not that of the run"), "{}", edited.stderr);
}

/// Rows of texts need no template: one that cannot be read is no matter, in the run and after it.
#[test]
fn a_model_whose_template_cannot_be_read_serves_texts() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template("tiny-llama31", folder.path());
    let config = model.join("tokenizer_config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    object["chat_template"] = json!([{"name": "rag", "template": "{{ messages }}"}]);
    fs::write(&config, object.to_string()).unwrap();
    let (data, run, merged) =
        (folder.path().join("texts.jsonl"), folder.path().join("run"), folder.path().join("merged"));
    write_lines(&data, &text_pairs());
    let [of_model, of_data] = [["--model", text(&model)], ["--data", text(&data)]];
    let train = ["train", "--max-steps", "1", "--output", text(&run)];
    align(&[&train[..], &of_model, &of_data].concat()).ok();
    let of_run = ["--adapter", text(&run)];
    for command in [&["eval"][..], &["score"], &["generate", "--max-new-tokens", "1"], &["inspect"]] {
        let said = align(&[command, &of_model, &of_data, &of_run].concat()).ok().stderr;
        assert!(!said.contains("chat template"), "{command:?}: {said}");
    }
    align(&[&["merge", "--output", text(&merged)][..], &of_model, &of_run].concat()).ok();
}

/// The demo's rows are read as the run read its own.
#[test]
fn rows_of_the_demo_are_read_as_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (run, template) = (folder.path().join("run"), folder.path().join("own.jinja"));
    fs::write(&template, "{% for turn in messages %}{{ turn.content }} {% endfor %}").unwrap();
    let train = ["train", "--demo", "--max-steps", "1", "--system", "Be brief.", "--chat-template", text(&template)];
    align(&[&train[..], &["--output", text(&run)]].concat()).ok();
    for command in [&["inspect"][..], &["generate", "--max-new-tokens", "1"]] {
        let said = align(&[command, &["--demo", "--adapter", text(&run)]].concat()).ok().stderr;
        assert!(
            said.contains("system Be brief.") && said.contains("its chat template") && !said.contains("is gone"),
            "{said}"
        );
    }
}

/// A file of that name may be any program's.
#[test]
fn a_config_of_another_program_beside_an_adapter_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    copy_folder(&committed_goldens().join("tiny-llama31/adapter"), &adapter);
    fs::write(adapter.join("config.toml"), "chat = true\nmax-length = 3\n").unwrap();
    fs::copy(case("run-chat-template").join("template.jinja"), adapter.join("chat_template.jinja")).unwrap();
    let (model, data) = (model("tiny-llama31"), folder.path().join("texts.jsonl"));
    write_lines(&data, &text_pairs());
    let score = ["score", "--model", text(&model), "--data", text(&data), "--adapter", text(&adapter)];
    let said = align(&score).ok().stderr;
    assert!(!said.contains("max-length 3") && said.contains("is another chat template than the model's"), "{said}");
}

/// Adapters are weakened by a smaller alpha: that is said, and refused only where numbers of the run are meant.
#[test]
fn an_alpha_that_was_edited_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run, model) = (folder.path().join("texts.jsonl"), folder.path().join("run"), model("tiny-llama31"));
    write_lines(&data, &text_pairs());
    Made { loss: &["dpo"], data: &data, start: None, more: &["--lora-alpha", "16"] }.train(&run);
    let config = run.join("adapter_config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    object["lora_alpha"] = json!(8);
    fs::write(&config, object.to_string()).unwrap();
    let (merged, next) = (folder.path().join("merged"), folder.path().join("next"));
    let of_data = ["--data", text(&data)];
    let rest = ["--model", text(&model), "--adapter", text(&run)];
    for command in [
        &["generate", "--prompt", "Hi", "--max-new-tokens", "1"][..],
        &["merge", "--output", text(&merged)],
        &[&["train", "--max-steps", "1", "--output", text(&next)][..], &of_data].concat(),
        &[&["score"][..], &of_data].concat(),
    ] {
        let said = align(&[command, &rest].concat()).ok().stderr;
        let what =
            "`lora-alpha` is 16, but adapter_config.json beside it says 8: the adapter is not as the run left it";
        assert!(said.contains("warning: ") && said.contains(what), "{command:?}: {said}");
    }
    let eval = align(&[&["eval"][..], &of_data, &rest].concat());
    assert!(eval.code == Some(3) && eval.stderr.contains("move config.toml away"), "{}", eval.stderr);
    fs::rename(run.join("config.toml"), folder.path().join("config.toml")).unwrap();
    align(&[&["eval"][..], &of_data, &rest].concat()).ok();
}

/// A text is a turn for a model with a template, unless it is said to be none.
#[test]
fn a_prompt_that_is_no_turn_is_continued_as_it_is() {
    let model = model("tiny-llama31");
    let bare = tempfile::tempdir().unwrap();
    let plain = prompt_tokens(&without_template("tiny-llama31", bare.path()), &[]);
    assert!(prompt_tokens(&model, &[]) > plain);
    assert_eq!(prompt_tokens(&model, &["--no-chat"]), plain);
    let data = bare.path().join("texts.jsonl");
    write_lines(&data, &text_pairs());
    let said = |more: &[&str]| {
        let score = ["score", "--model", text(&model), "--data", text(&data)];
        align(&[&score[..], more].concat()).ok().stderr.contains("--chat makes turns of them")
    };
    assert!(said(&[]) && !said(&["--no-chat"]));
}

/// The texts that hold a policy are read as the rows are.
#[test]
fn chat_and_system_reach_the_reference_data() {
    let folder = tempfile::tempdir().unwrap();
    let (data, texts) = (folder.path().join("texts.jsonl"), folder.path().join("corpus.jsonl"));
    write_lines(&data, &text_pairs());
    write_lines(&texts, &[json!({"prompt": "Who are you?", "completion": "A model."})]);
    let tokens = |more: &[&str], name: &str| {
        let more = [&["--eta", "0.5", "--reference-data", text(&texts)][..], more].concat();
        let run = Made { loss: &["max_po"], data: &data, start: None, more: &more }.train(&folder.path().join(name));
        let said = run.stderr.split("reference data: ").nth(1).unwrap().to_owned();
        said.lines().find(|line| line.contains("tokens")).unwrap().to_owned()
    };
    assert_ne!(tokens(&[], "plain"), tokens(&["--chat", "--system", "Be brief."], "chat"));
}

/// The temperature of a run's log-probs has no meaning for a reward.
#[test]
fn a_temperature_of_the_run_is_not_taken_for_a_loss_of_rewards() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run, model) = (folder.path().join("texts.jsonl"), folder.path().join("run"), model("tiny-llama31"));
    write_lines(&data, &text_pairs());
    Made { loss: &["dpo"], data: &data, start: None, more: &["--logp-temperature", "0.7"] }.train(&run);
    let eval = ["eval", "--model", text(&model), "--adapter", text(&run), "--data", text(&data), "--loss", "rm_bt"];
    let said = align(&eval).stderr;
    assert!(!said.contains("leave the flag out") && !said.contains("logp-temperature"), "{said}");
}

/// Pairs of texts without a prompt column whose prompts end with `mark`.
fn dialogue_texts(mark: &str) -> Vec<Value> {
    let line = |i: usize| {
        let prompt = format!("\n\nHuman: Tell me about place {i}.{mark}");
        json!({"chosen": format!("{prompt} It is a fine place."), "rejected": format!("{prompt} No idea at all.")})
    };
    (0..30).map(line).collect()
}

/// The mark with which the run's prompts end is no rule for rows that have another one.
#[test]
fn rows_with_another_turn_marker_than_the_runs_are_read_by_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let [hh, other, mixed, out] =
        ["hh.jsonl", "other.jsonl", "mixed.jsonl", "run"].map(|name| folder.path().join(name));
    let (of_run, own) = (dialogue_texts("\n\nAssistant:"), dialogue_texts("\n\n### Response:\n"));
    write_lines(&hh, &of_run);
    write_lines(&other, &own);
    write_lines(&mixed, &[own[..15].to_vec(), of_run[..15].to_vec()].concat());
    Made { loss: &["dpo"], data: &hh, start: None, more: &[] }.check(&out);
    let model = model("tiny-llama31");
    let on = |command: &[&str], data: &Path| {
        align(&[command, &["--model", text(&model), "--adapter", text(&out), "--data", text(data)]].concat())
    };
    let generate = ["generate", "--max-new-tokens", "1"];
    for command in [&["score", "--json"][..], &["eval"], &generate] {
        let said = on(command, &other).ok().stderr;
        let what = "no row looked at has \"Assistant:\", with which the prompts of the run end: these end with \"### Response:";
        assert!(said.contains(what), "{command:?}: {said}");
        assert!(!on(command, &hh).ok().stderr.contains("no row looked at"));
        // score goes on after bad rows
        let some = on(command, &mixed);
        assert_eq!(some.code, Some(if command[0] == "score" { 0 } else { 3 }), "{command:?}: {}", some.stderr);
        assert!(some.stderr.contains("mixed.jsonl:1"), "{command:?}: {}", some.stderr);
        assert!(some.stderr.contains("the run was made of (run_state.json)"), "{command:?}: {}", some.stderr);
    }
    let plain = align(&["score", "--json", "--model", text(&model), "--data", text(&other)]).ok().json_lines();
    let of_adapter = on(&["score", "--json"], &other).ok().json_lines();
    assert_eq!(of_adapter[3]["prompt_tokens"], plain[3]["prompt_tokens"]);
}
