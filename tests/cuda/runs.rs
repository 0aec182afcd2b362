//! Compares whole runs on a card with the same runs on the processor.

use super::{Driver, LATE, MODELS, short_pairs};
use crate::align::{committed_goldens, golden_model, lines_in, number, read_lines, text};
use serde_json::Value;
use std::path::Path;

/// Trains on `device` and returns the metrics of the steps and the bytes of the adapter.
fn train(driver: &Driver, model: &str, data: &Path, device: &str, more: &[&str]) -> (Vec<Value>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (model, output) = (golden_model(model), folder.path().join("run"));
    let common =
        ["train", "--model", text(&model), "--data", text(data), "--output", text(&output), "--device", device];
    let settings = ["--precision", "f32", "--batch-size", "2", "--max-length", "48"];
    let settings = [&settings[..], &["--seed", "7", "--lora-rank", "4"]].concat();
    driver.run(LATE, &[&common[..], &settings, more].concat()).ok();
    let steps = read_lines(&output.join("metrics.jsonl")).into_iter().filter(|line| line.get("loss").is_some());
    (steps.collect(), std::fs::read(output.join("adapter_model.safetensors")).unwrap())
}

/// Checks that the losses agree to 1e-5, and the gradient norms to 1e-4.
fn assert_agree(what: &str, steps: usize, on_card: &[Value], on_cpu: &[Value]) {
    assert_eq!([on_card.len(), on_cpu.len()], [steps; 2], "{what}");
    for (card, cpu) in on_card.iter().zip(on_cpu) {
        for (key, tolerance) in [("loss", 1e-5), ("grad_norm", 1e-4)] {
            let (card, cpu) = (number(&card[key]), number(&cpu[key]));
            assert!(
                (card - cpu).abs() <= tolerance * cpu.abs(),
                "{what}: {key} {card} on the card, {cpu} on the processor"
            );
        }
    }
}

#[test]
fn five_steps_of_every_family_are_those_of_the_processor() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    for model in MODELS {
        let run = |device| train(&driver, model, &data, device, &["--max-steps", "5", "--epochs", "3"]).0;
        assert_agree(model, 5, &run("cuda"), &run("cpu"));
    }
}

#[test]
fn steps_of_other_losses_are_those_of_the_processor() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    for loss in ["exo", "ipo", "kto", "sft", "rm_bt"] {
        let more = ["--max-steps", "5", "--epochs", "3", "--loss", loss];
        let run = |device| train(&driver, "tiny-llama", &data, device, &more).0;
        assert_agree(loss, 5, &run("cuda"), &run("cpu"));
    }
}

/// The log-probs of the reference that a first run writes are those that a pass would give, so a run that reads them has the same
/// bits.
#[test]
fn a_cached_reference_is_a_computed_one() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    let cache = folder.path().join("cache");
    let run = |cache: &str| {
        train(&driver, "tiny-qwen3", &data, "cuda", &["--max-steps", "4", "--epochs", "2", "--reference-cache", cache])
            .1
    };
    let computed = run("off");
    assert!(!cache.exists());
    assert!(run(text(&cache)) == computed, "the run that writes the cache");
    assert!(cache.exists());
    assert!(run(text(&cache)) == computed, "the run that reads it");
}

#[test]
fn a_run_on_a_card_repeats_bit_for_bit_and_recomputing_changes_nothing() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    let run = |more: &[&str]| train(&driver, "tiny-llama", &data, "cuda", &[&["--max-steps", "2"], more].concat());
    let (steps, adapter) = run(&[]);
    assert_eq!(number(&steps[0]["rewards/margins"]), 0.0, "a fresh adapter is the reference");
    assert!(run(&[]).1 == adapter, "the same seed");
    assert!(run(&["--memory", "1200KiB"]).1 == adapter, "recomputed layers");
}

#[test]
fn scores_evaluations_and_greedy_tokens_of_every_family_are_those_of_the_processor() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    for name in MODELS {
        let (model, adapter) = (golden_model(name), committed_goldens().join(name).join("adapter"));
        let on = |device: &'static str, command: &[&str]| {
            let place =
                ["--model", text(&model), "--adapter", text(&adapter), "--device", device, "--precision", "f32"];
            driver.run(LATE, &[command, &place].concat()).ok()
        };
        let rows = ["--data", text(&data), "--max-length", "48", "--reference-cache", "off", "--json"];
        let score = |device| -> Vec<f64> {
            let run = on(device, &[&["score"], &rows[..]].concat());
            let answers =
                run.json_lines().into_iter().flat_map(|row| ["chosen", "rejected"].map(|key| row[key].clone()));
            answers.flat_map(|answer| ["logps", "reference_logps"].map(|key| number(&answer[key]))).collect()
        };
        let eval = |device| -> Vec<f64> {
            let json = on(device, &[&["eval"], &rows[..]].concat()).json();
            ["eval_loss", "eval_logps/chosen", "eval_logps/rejected"].map(|key| number(&json[key])).to_vec()
        };
        let [card, cpu] = ["cuda", "cpu"].map(|device| [score(device), eval(device)].concat());
        assert_eq!([card.len(), cpu.len()], [19; 2], "{name}: two scorers, two answers, four pairs; three means");
        for (card, cpu) in card.into_iter().zip(cpu) {
            assert!((card - cpu).abs() <= 1e-5 * cpu.abs(), "{name}: {card} on the card, {cpu} on the processor");
        }
        let prompt = ["generate", "--prompt", "What is two and two?", "--max-new-tokens", "8"];
        assert_eq!(on("cuda", &prompt).stdout, on("cpu", &prompt).stdout, "{name}");
    }
}
