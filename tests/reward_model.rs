//! Reward models on the command line: trained on pairs and on rankings, scored, evaluated, and refused in place of a language
//! model.

use crate::align::{Run, align, number, numbers, read_json, read_lines, root, write_lines};
use serde_json::{Value, json};
use std::path::Path;

fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().to_str().unwrap().to_owned()
}

fn demo_data(name: &str) -> String {
    text(root().join("cli/demo/data").join(name))
}

fn demo_model() -> String {
    text(root().join("cli/demo/model"))
}

/// Trains on the demo's model. `more` adds flags.
fn train(output: &Path, loss: &str, data: &str, more: &[&str]) -> Run {
    let (model, output) = (demo_model(), text(output));
    let common = ["train", "--model", &model, "--loss", loss, "--data", data, "--output", &output, "--threads", "2"];
    align(&[&common[..], &["--max-length", "128", "--allow-drops", "--lora-rank", "4"], more].concat())
}

fn score(reward_model: &Path, data: &str, more: &[&str]) -> Run {
    let (model, adapter) = (demo_model(), text(reward_model));
    let common = ["score", "--model", &model, "--reward-model", &adapter, "--data", data, "--threads", "2"];
    align(&[&common[..], more].concat())
}

/// A head on the last token can recognise the style that the demo's pairs prefer, so 60 steps are enough.
#[test]
fn a_reward_model_learns_to_order_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rm");
    let held_out = demo_data("pairs_eval.jsonl");
    let flags = ["-v", "--max-steps", "60", "--learning-rate", "1e-3", "--eval-data", &held_out];
    let run = train(&out, "rm_bt", &demo_data("pairs_train.jsonl"), &flags).ok();
    assert!(run.stderr.contains("and a score head") && run.stderr.contains("reference: none"), "{}", run.stderr);

    let lines = read_lines(&out.join("metrics.jsonl"));
    let steps: Vec<&Value> = lines.iter().filter(|line| line.get("loss").is_some()).collect();
    assert_eq!(number(&steps[0]["loss"]), std::f64::consts::LN_2, "a head of zeros prefers nothing");
    assert_eq!(steps[0]["rewards/margins"], 0.0);
    assert!(steps[0].get("logps/chosen").is_none(), "a reward is no log-prob: {}", steps[0]);
    let last = lines.iter().rfind(|line| line.get("eval_loss").is_some()).unwrap();
    assert!(number(&last["eval_rewards/accuracies"]) > 0.8, "{last}");
    assert!(last.get("eval_logps/accuracies").is_none());

    let adapter = read_json(&out.join("adapter_config.json"));
    assert_eq!((&adapter["task_type"], &adapter["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["score"])));
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(config.contains("loss = \"rm_bt\"") && config.contains("center-coef"), "{config}");

    // score and eval give the numbers of the run's last evaluation
    let scores = score(&out, &held_out, &["--json"]).ok().json_lines();
    let margin = |row: &Value| number(&row["chosen"]["reward"]) - number(&row["rejected"]["reward"]);
    let right = scores.iter().filter(|row| margin(row) > 0.0).count() as f64 / scores.len() as f64;
    assert_eq!(right, number(&last["eval_rewards/accuracies"]));
    let (model, dir) = (demo_model(), text(&out));
    let eval = ["eval", "--model", &model, "--adapter", &dir, "--data", &held_out, "--json", "--threads", "2"];
    let eval = align(&eval).ok().json();
    assert_eq!(eval["loss"], "rm_bt", "the loss of the run");
    for key in ["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"] {
        let difference = (number(&eval[key]) - number(&last[key])).abs();
        assert!(difference <= 1e-12 * number(&eval[key]).abs(), "{key}: {} and {}", eval[key], last[key]);
    }
    let table = score(&out, &held_out, &[]).ok().stdout;
    assert_eq!(table.lines().filter(|line| line.contains("reward ")).count(), 2 * scores.len(), "{table}");

    let inspected = align(&["inspect", "--model", &model, "--adapter", &dir, "--json"]).ok().json();
    assert_eq!(inspected["adapter"]["task"], "SEQ_CLS");

    // a run that continues from this adapter starts with its head, which is not zero
    let again = folder.path().join("again");
    let (model, data) = (demo_model(), demo_data("pairs_train.jsonl"));
    let more = ["train", "--model", &model, "--loss", "bt", "--data", &data, "--adapter", &dir, "--max-steps", "1"];
    align(
        &[&more[..], &["--output", &text(&again), "--max-length", "128", "--allow-drops", "--center-coef", "0.01"]]
            .concat(),
    )
    .ok();
    let first = &read_lines(&again.join("metrics.jsonl"))[0];
    assert!(number(&first["rewards/margins"]) > 0.0, "{first}");
}

#[test]
fn rankings_train_a_reward_model_and_score_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rm");
    let data = demo_data("scored.jsonl");
    // some rows do not fit into a pass of 100 tokens, so they are cut into pieces
    let flags = ["--max-steps", "40", "--learning-rate", "1e-3", "--micro-batch-tokens", "100", "--eval-data", &data];
    train(&out, "rm_rank", &data, &flags).ok();
    let lines = read_lines(&out.join("metrics.jsonl"));
    let last = lines.iter().rfind(|line| line.get("eval_loss").is_some()).unwrap();
    assert!(number(&last["eval_loss"]) < std::f64::consts::LN_2, "{last}");
    assert!(number(&last["eval_rewards/accuracies"]) > 0.8, "{last}");

    for row in score(&out, &data, &["--json"]).ok().json_lines() {
        let rewards: Vec<f64> =
            row["completions"].as_array().unwrap().iter().map(|answer| number(&answer["reward"])).collect();
        let ranking: Vec<usize> = numbers(&row["ranking"]).iter().map(|place| *place as usize).collect();
        let mut sorted = ranking.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..rewards.len()).collect::<Vec<_>>(), "{row}");
        assert!(ranking.windows(2).all(|two| rewards[two[0]] >= rewards[two[1]]), "{row}");
    }
    // the table for people lists the best answer first
    let table = score(&out, &data, &[]).ok().stdout;
    let reward = |line: &str| line.rsplit_once("reward").and_then(|(_, x)| x.trim().parse::<f64>().ok());
    let of_first_row: Vec<f64> =
        table.lines().take_while(|line| line.trim().starts_with("0 ")).filter_map(reward).collect();
    assert!(of_first_row.len() > 1 && of_first_row.is_sorted_by(|one, other| one >= other), "{table}");
}

#[test]
fn rows_that_would_be_cut_are_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let long = "a word ".repeat(100);
    let rows = [
        json!({"prompt": "Say hi.", "chosen": " hi", "rejected": " no"}),
        json!({"prompt": "Say hi.", "chosen": " hi", "rejected": long}),
    ];
    write_lines(&data, &rows);
    let out = folder.path().join("rm");
    let run = train(&out, "rm_bt", &text(&data), &["--max-steps", "1"]).ok();
    assert!(run.stderr.contains("answer longer than max-length"), "{}", run.stderr);
    let scores = score(&out, &text(&data), &["--json"]).ok().json_lines();
    assert!(scores[1]["dropped"].as_str().unwrap().contains("max-length 128 would cut"), "{}", scores[1]);
}

#[test]
fn a_reward_model_is_no_language_model_and_the_reverse() {
    let folder = tempfile::tempdir().unwrap();
    let (rm, lm) = (folder.path().join("rm"), folder.path().join("lm"));
    let data = demo_data("pairs_train.jsonl");
    train(&rm, "rm_bt", &data, &["--max-steps", "1"]).ok();
    train(&lm, "dpo", &data, &["--max-steps", "1"]).ok();
    let (model, rm, lm, out) = (demo_model(), text(rm), text(lm), text(folder.path().join("out")));
    let refused = |code: i32, parts: &[&str], arguments: &[&str]| {
        let run = align(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "{arguments:?}: {part:?} is not in {}", run.stderr);
        }
    };
    let is_reward_model = ["adapter_config.json", "SEQ_CLS", "--reward-model"];
    refused(3, &is_reward_model, &["score", "--model", &model, "--adapter", &rm, "--data", &data]);
    refused(3, &is_reward_model, &["score", "--model", &model, "--reference", &rm, "--data", &data]);
    refused(3, &is_reward_model, &["generate", "--model", &model, "--adapter", &rm, "--prompt", "Hello"]);
    refused(3, &is_reward_model, &["merge", "--model", &model, "--adapter", &rm, "--output", &out]);
    let of_dpo = ["--loss", "dpo", "--data", &data];
    refused(3, &is_reward_model, &[&["eval", "--model", &model, "--adapter", &rm], &of_dpo[..]].concat());
    let train = ["train", "--model", &model, "--output", &out, "--data", &data];
    refused(3, &is_reward_model, &[&train[..], &["--adapter", &rm, "--loss", "dpo"]].concat());

    let has_no_head = ["adapter_config.json", "CAUSAL_LM", "train --loss rm_bt"];
    refused(3, &has_no_head, &["score", "--model", &model, "--reward-model", &lm, "--data", &data]);
    refused(3, &has_no_head, &["eval", "--model", &model, "--adapter", &lm, "--loss", "rm_bt", "--data", &data]);
    refused(3, &has_no_head, &[&train[..], &["--adapter", &lm, "--loss", "rm_bt"]].concat());

    refused(2, &["give its --adapter"], &["eval", "--model", &model, "--loss", "rm_bt", "--data", &data]);
    refused(2, &["--reference", "rm_bt"], &[&train[..], &["--loss", "rm_bt", "--reference", "base"]].concat());
    let both = ["score", "--model", &model, "--reward-model", &rm, "--adapter", &lm, "--data", &data];
    refused(2, &["--reward-model", "--adapter"], &both);
    refused(2, &["rm_bt cannot be part of a mix"], &[&train[..], &["--loss", "dpo:0.5,rm_bt:0.5"]].concat());
    refused(2, &["--beta does not apply to rm_bt"], &[&train[..], &["--loss", "rm_bt", "--beta", "0.1"]].concat());
    assert!(!Path::new(&out).exists(), "nothing is left of what was refused");
}
