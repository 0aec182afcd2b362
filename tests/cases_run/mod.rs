//! What a run's folder keeps, and what later commands take from it.

mod evaluation;
mod losses;
mod other_adapter;
mod reference;
mod rows;
mod templates;

use crate::align::{Run, align, copy_folder, edit_json, golden_model, lines_in, model_case, read_lines, text};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Returns the folder of the model that all runs use.
fn model() -> PathBuf {
    golden_model("tiny-llama31")
}

/// Returns a file with pairs of turns.
fn case_pairs() -> PathBuf {
    model_case("run-chat-template").join("pairs.jsonl")
}

/// Returns the file of a chat template that is not the model's.
fn case_template() -> PathBuf {
    model_case("run-chat-template").join("template.jinja")
}

/// Copies the model without its chat template.
fn without_template(folder: &Path) -> PathBuf {
    let copy = folder.join("without-template");
    copy_folder(&model(), &copy);
    let _ = fs::remove_file(copy.join("chat_template.jinja"));
    edit_json(&copy.join("tokenizer_config.json"), |config| {
        drop(config.as_object_mut().unwrap().remove("chat_template"))
    });
    copy
}

/// Returns the last evaluation of a run.
fn evaluation(out: &Path) -> Value {
    read_lines(&out.join("metrics.jsonl")).into_iter().rev().find(|line| line.get("eval_loss").is_some()).unwrap()
}

/// Returns the bytes of the adapter that a run has written.
fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("adapter_model.safetensors")).unwrap()
}

/// Checks that `eval` printed the numbers of the run's last evaluation, to the last bit.
fn same_evaluation(eval: &Value, of_run: &Value, what: &str) {
    let keys = of_run.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("eval_"));
    for (key, value) in keys {
        assert_eq!(eval[key], *value, "{what}: {key}");
    }
}

/// Runs a command with `--json` on the adapter of a run and some data.
fn on(command: &str, run: &Path, data: &Path, more: &[&str]) -> Run {
    let model = model();
    let flags = [command, "--model", text(&model), "--adapter", text(run), "--data", text(data), "--json"];
    align(&[&flags[..], more].concat())
}

fn prompt_tokens(model: &Path, more: &[&str]) -> u64 {
    let flags = ["generate", "--model", text(model), "--prompt", "Hi there", "--max-new-tokens", "1", "--json"];
    align(&[&flags[..], more].concat()).ok().json()["prompt_tokens"].as_u64().unwrap()
}

/// Returns pairs of texts.
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

/// Writes a file of [`text_pairs`].
fn texts(folder: &Path) -> PathBuf {
    lines_in(folder, "texts.jsonl", &text_pairs())
}

/// Writes a file of the case's pairs, under columns of other names.
fn renamed_pairs(folder: &Path) -> PathBuf {
    let mut rows = read_lines(&case_pairs());
    for row in &mut rows {
        let object = row.as_object_mut().unwrap();
        for (ours, theirs) in [("prompt", "question"), ("chosen", "better"), ("rejected", "worse")] {
            let value = object.remove(ours).unwrap();
            object.insert(theirs.to_owned(), value);
        }
    }
    lines_in(folder, "renamed.jsonl", &rows)
}

/// The flags and data of a training run that a test makes.
struct Made<'a> {
    loss: &'a [&'a str],
    data: &'a Path,
    /// The adapter that the run starts from.
    start: Option<&'a Path>,
    more: &'a [&'a str],
}

impl Made<'_> {
    fn train(&self, out: &Path) -> Run {
        self.try_to_train(out).ok()
    }

    fn try_to_train(&self, out: &Path) -> Run {
        let (model, data) = (model(), text(self.data));
        let flags = ["train", "--model", text(&model), "--data", data, "--eval-data", data, "--max-steps", "3"];
        let more = ["--batch-size", "3", "--learning-rate", "1e-3", "--output", text(out), "--threads", "2"];
        let start: Vec<&str> = self.start.into_iter().flat_map(|dir| ["--adapter", text(dir)]).collect();
        align(&[&flags[..], &more, &["--loss"], self.loss, &start, self.more].concat())
    }

    /// Evaluates the saved adapter without any flags of the run.
    fn evaluate(&self, out: &Path) -> Run {
        on("eval", out, self.data, &[]).ok()
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
