//! Compares the binary with transformers and PEFT on rope variants, adapter options and conversations, each sequence alone. The
//! numbers are in `tests/goldens/extra/`; `tests/oracles/make_extra_goldens.py` makes them.

use crate::align::{
    Run, align, committed_goldens, copy_folder, golden_model, ids, lines_in, number, numbers, read_json, read_lines,
};
use align_engine::model::families::FAMILIES;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Tolerance of the log-prob of an answer, in nats.
const SUM: f64 = 1e-3;
/// Tolerance of the log-prob of one token, in nats.
const TOKEN: f64 = 1e-4;

/// One case of the extra goldens: its folder, and a copy of its model with the case's own config.json, if it has one.
struct Case {
    name: String,
    folder: PathBuf,
    meta: Value,
    model: tempfile::TempDir,
    adapter: PathBuf,
}

fn cases() -> Vec<Case> {
    let root = committed_goldens().join("extra");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("meta.json").exists())
        .collect();
    folders.sort();
    assert!(folders.len() >= 14, "{} cases", folders.len());
    folders
        .into_iter()
        .map(|folder| {
            let meta = read_json(&folder.join("meta.json"));
            let model = tempfile::tempdir().unwrap();
            copy_folder(&golden_model(meta["model"].as_str().unwrap()), model.path());
            if folder.join("config.json").exists() {
                std::fs::copy(folder.join("config.json"), model.path().join("config.json")).unwrap();
            }
            let adapter = folder.join(meta["adapter"].as_str().unwrap_or("adapter"));
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            Case { name, folder, meta, model, adapter }
        })
        .collect()
}

impl Case {
    fn score(&self, rows: &Path) -> Run {
        let max_length = self.meta["max_length"].to_string();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (model, adapter, rows) = (text(self.model.path()), text(&self.adapter), text(rows));
        let arguments = [
            "score", "--model", &model, "--adapter", &adapter, "--data", &rows, "--json", "--per-token",
            "--max-length", &max_length, "--precision", "f32",
        ];
        align(&arguments)
    }
}

#[test]
fn every_family_has_goldens() {
    let tiny = std::fs::read_dir(committed_goldens()).unwrap().map(|entry| entry.unwrap().path().join("model"));
    let cases = cases();
    let models = tiny.filter(|model| model.is_dir()).chain(cases.iter().map(|case| case.model.path().to_owned()));
    let types: Vec<Value> = models.map(|model| read_json(&model.join("config.json"))["model_type"].clone()).collect();
    for family in FAMILIES {
        let has_some = family.model_types.iter().any(|name| types.iter().any(|found| found == name));
        assert!(has_some, "no goldens of {:?}", family.model_types);
    }
}

#[test]
fn logps_of_every_case_are_those_of_transformers() {
    for case in cases() {
        let rows = case.folder.join("rows.jsonl");
        let scores = case.score(&rows).ok().json_lines();
        let golden = read_json(&case.folder.join("logps.json"));
        let items = golden["items"].as_array().unwrap();
        assert_eq!(2 * scores.len(), items.len(), "{}", case.name);
        for (i, want) in items.iter().enumerate() {
            let side = want["side"].as_str().unwrap();
            let place = format!("{} {} {side}", case.name, want["id"]);
            let got = &scores[i / 2][side];
            for (ours, theirs) in [("logps", "policy"), ("reference_logps", "reference")] {
                let (got, want) = (number(&got[ours]), number(&want[theirs]));
                assert!((got - want).abs() <= SUM, "{place}: {ours} {got}, golden {want}");
            }
            for (ours, theirs) in
                [("token_logps", "policy_per_token"), ("reference_token_logps", "reference_per_token")]
            {
                let (got, want) = (numbers(&got[ours]), numbers(&want[theirs]));
                assert_eq!(got.len(), want.len(), "{place}");
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= TOKEN, "{place}: {ours} {got}, golden {want}");
                }
            }
        }
    }
}

#[test]
fn tokens_of_every_case_are_those_of_trl() {
    for case in cases() {
        let scores = case.score(&case.folder.join("rows.jsonl")).ok().json_lines();
        let max_length = case.meta["max_length"].as_u64().unwrap() as usize;
        let golden = read_json(&case.folder.join("tokens.json"));
        for (score, want) in scores.iter().zip(golden["items"].as_array().unwrap()) {
            let prompt = ids(&want["prompt_ids"]);
            assert_eq!(score["prompt_tokens"].as_u64().unwrap() as usize, prompt.len(), "{} {}", case.name, want["id"]);
            for (side, key) in [("chosen", "chosen_ids"), ("rejected", "rejected_ids")] {
                let mut answer = ids(&want[key]);
                answer.truncate(max_length - prompt.len());
                assert_eq!(ids(&score[side]["token_ids"]), answer, "{} {} {side}", case.name, want["id"]);
            }
        }
    }
}

#[test]
fn rows_that_a_template_refuses_are_refused_with_its_words() {
    let mut refused = 0;
    for case in cases() {
        let path = case.folder.join("refused.json");
        if !path.exists() {
            continue;
        }
        for item in read_json(&path)["items"].as_array().unwrap() {
            let folder = tempfile::tempdir().unwrap();
            let rows = lines_in(folder.path(), "rows.jsonl", std::slice::from_ref(&item["row"]));
            let run = case.score(&rows);
            let words = item["error"].as_str().unwrap().split_once(": ").unwrap().1;
            assert_eq!(run.code, Some(3), "{} {}: {}", case.name, item["row"]["id"], run.stderr);
            assert!(run.stderr.contains("rows.jsonl:1") && run.stderr.contains(words), "{}: {}", case.name, run.stderr);
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_case_changes_something() {
    for case in cases() {
        let changed = case.meta["differs_from_plain"].as_f64();
        assert!(
            changed.is_none_or(|nats| nats > 100.0 * SUM),
            "{}: the golden would pass without its feature",
            case.name
        );
        assert!(!read_lines(&case.folder.join("rows.jsonl")).is_empty(), "{}", case.name);
    }
}
