//! What a run's folder keeps, and what later commands take from it.

mod evaluation;
mod losses;
mod other_adapter;
mod reference;
mod rows;
mod templates;

use crate::align::{Run, align, committed_goldens, copy_folder, read_lines, root, text, write_lines};
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

/// Returns the last evaluation of a run.
fn evaluation(out: &Path) -> Value {
    read_lines(&out.join("metrics.jsonl")).into_iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap()
}

/// Checks that `eval` gives the run's last evaluation, to the last bit.
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

/// The flags and data of a run of the table.
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

    /// Evaluates the saved adapter without any flags of the run.
    fn evaluate(&self, out: &Path) -> Run {
        let model = model("tiny-llama31");
        let flags = ["eval", "--model", text(&model), "--adapter", text(out), "--data", text(self.data), "--json"];
        align(&flags).ok()
    }

    /// Trains and evaluates. Returns the object of `eval`, and checks that it has every number of the run's last evaluation, to
    /// the last bit.
    fn check(&self, out: &Path) -> Value {
        self.train(out);
        let eval = self.evaluate(out);
        let what = format!("{:?} {:?}", self.loss, self.more);
        same_evaluation(&eval.json(), &evaluation(out), &what);
        assert_eq!(eval.stderr.matches("reference: ").count(), 1, "{what}: {}", eval.stderr);
        eval.json()
    }
}
