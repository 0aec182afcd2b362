//! Compares whole runs on a card with the same runs on the processor, and checks what a user is told if there is no usable GPU.

use super::{Driver, LATE, is_real};
use crate::align::{golden_model, lines_in, number, read_lines, text};
use serde_json::{Value, json};
use std::path::Path;

/// The golden models, one of each family and of each way to scale positions.
const MODELS: [&str; 9] = [
    "tiny-gemma2", "tiny-gemma3", "tiny-llama", "tiny-llama31", "tiny-mistral", "tiny-phi3", "tiny-qwen2",
    "tiny-qwen3", "tiny-yarn",
];

fn pairs() -> Vec<Value> {
    let pair = |prompt, chosen, rejected| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    vec![
        pair("What is two and two?", " Four.", " It is five, I think."),
        pair("Name a colour.", " Blue, like the sky.", " Seven."),
        pair("Say something kind.", " You did well.", " No."),
        pair("Where do fish live?", " In water.", " In trees, all of them."),
    ]
}

/// Trains on `device` and returns the metrics of the steps and the bytes of the adapter.
fn train(driver: &Driver, model: &str, data: &Path, device: &str, more: &[&str]) -> (Vec<Value>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (model, output) = (golden_model(model), folder.path().join("run"));
    let common =
        ["train", "--model", text(&model), "--data", text(data), "--output", text(&output), "--device", device];
    let settings = ["--precision", "f32", "--batch-size", "2", "--max-length", "48"];
    let settings = [&settings[..], &["--seed", "7", "--lora-rank", "4", "--reference-cache", "off"]].concat();
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
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    for model in MODELS {
        let run = |device| train(&driver, model, &data, device, &["--max-steps", "5", "--epochs", "3"]).0;
        assert_agree(model, 5, &run("cuda"), &run("cpu"));
    }
}

#[test]
fn losses_of_other_kinds_of_rows_are_those_of_the_processor() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    for loss in ["exo", "ipo", "kto", "sft", "rm_bt"] {
        let run = |device| train(&driver, "tiny-llama", &data, device, &["--max-steps", "2", "--loss", loss]).0;
        assert_agree(loss, 2, &run("cuda"), &run("cpu"));
    }
}

#[test]
fn a_run_on_a_card_repeats_bit_for_bit_and_recomputing_changes_nothing() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    let run = |more: &[&str]| train(&driver, "tiny-llama", &data, "cuda", &[&["--max-steps", "2"], more].concat());
    let (steps, adapter) = run(&[]);
    assert_eq!(number(&steps[0]["rewards/margins"]), 0.0, "a fresh adapter is the reference");
    assert!(run(&[]).1 == adapter, "the same seed");
    assert!(run(&["--memory", "1200KiB"]).1 == adapter, "recomputed layers");
}

#[test]
fn scores_and_greedy_tokens_are_those_of_the_processor() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    let model = golden_model("tiny-llama");
    let on = |device: &'static str, arguments: &[&str]| {
        let place = ["--model", text(&model), "--device", device, "--precision", "f32"];
        driver.run(LATE, &[arguments, &place].concat()).ok().stdout
    };
    let score = |device| -> Vec<f64> {
        let lines =
            on(device, &["score", "--data", text(&data), "--max-length", "48", "--reference-cache", "off", "--json"]);
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.flat_map(|line| ["chosen", "rejected"].map(|key| number(&line[key]["logps"]))).collect()
    };
    let [card, cpu] = ["cuda", "cpu"].map(score);
    assert_eq!([card.len(), cpu.len()], [8; 2], "two answers of four pairs");
    for (card, cpu) in card.into_iter().zip(cpu) {
        assert!((card - cpu).abs() <= 1e-5 * cpu.abs(), "{card} on the card, {cpu} on the processor");
    }
    let generate = |device| on(device, &["generate", "--prompt", "What is two and two?", "--max-new-tokens", "8"]);
    assert_eq!(generate("cuda"), generate("cpu"));
}

/// Whatever the driver refuses, and whenever the card is lost, the run ends with a message and leaves no output.
#[test]
fn a_failing_driver_ends_a_run_and_leaves_nothing() {
    if is_real() {
        return;
    }
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    let (model, output) = (golden_model("tiny-llama"), folder.path().join("run"));
    let train = |card: &str| {
        let common = ["train", "--model", text(&model), "--data", text(&data), "--output", text(&output)];
        driver.run(card, &[&common[..], &["--device", "cuda", "--max-steps", "1", "--max-length", "48"]].concat())
    };
    let mut refused = 0;
    for request in 0.. {
        let run = train(&format!("memory=1000000000;launches=0;fails={request}"));
        assert!(!output.exists(), "request {request} was refused");
        if run.code == Some(5) {
            // no request was refused; without launches the numbers are those of memory that nobody wrote
            run.refused(5, &["is not finite"]);
            break;
        }
        run.refused(4, &["out of memory"]);
        refused += 1;
    }
    assert!(refused >= 3, "{refused}: page-locked memory, the weights, the run");
    for launches in [1, 7, 60, 150] {
        train(&format!("{LATE};lost={launches}")).refused(1, &["the GPU or its driver failed in"]);
        assert!(!output.exists(), "lost after {launches} launches");
    }
}

/// A plan that is made for a card fits on it: what does not is refused before the first step.
#[test]
fn a_plan_that_fits_is_run() {
    if is_real() {
        return;
    }
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    let (model, output) = (golden_model("tiny-llama"), folder.path().join("run"));
    for megabytes in [4, 6, 8, 16] {
        let common =
            ["train", "--model", text(&model), "--data", text(&data), "--output", text(&output), "--overwrite"];
        let flags = ["--device", "cuda", "--max-steps", "1", "--max-length", "48"];
        let run = driver.run(&format!("memory={};mode=late", megabytes << 20), &[&common[..], &flags].concat());
        match run.code {
            Some(4) => assert!(!run.stderr.contains("step 1/1"), "{megabytes} MiB: {}", run.stderr),
            _ => drop(run.ok()),
        }
    }
    assert!(output.join("adapter_model.safetensors").exists(), "16 MiB are enough");
}

/// `auto` means the processor, and its messages do not mention the PTX machine, which only tests use.
#[test]
fn the_machine_is_taken_only_if_it_is_asked_for() {
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &pairs());
    let model = golden_model("tiny-llama");
    let score = |card: &str, more: &[&str]| {
        driver.run(card, &[&["score", "--model", text(&model), "--data", text(&data), "--verbose"], more].concat())
    };
    if is_real() {
        return;
    }
    let run = score(LATE, &[]).ok();
    assert!(!run.stderr.contains("GPU") && !run.stderr.contains("PTX"), "{}", run.stderr);
    let run = score("name=Some Card", &[]).ok();
    assert!(run.stderr.contains("a GPU is there (Some Card), and --device cuda uses it"), "{}", run.stderr);

    score(LATE, &["--device", "cuda", "--precision", "bf16"]).refused(2, &["--precision bf16", "f32"]);
    score(LATE, &["--device", "cuda:3"]).refused(1, &["there is no GPU 3", "--device cpu"]);
    score(LATE, &["--device", "gpu"]).refused(2, &["auto, cpu, cuda, or cuda:N"]);
    score("none", &["--device", "cuda"]).refused(1, &["there is no NVIDIA GPU"]);
    score("driver=11080", &["--device", "cuda"]).refused(1, &["the driver is of CUDA 11.8", "525"]);
    score("capability=75", &["--device", "cuda"]).refused(1, &["compute capability 7.5", "8.0"]);
    score("memory=100000", &["--device", "cuda"]).refused(4, &["out of memory"]);
    score("lost=5", &["--device", "cuda"]).refused(1, &["the GPU or its driver failed in"]);
}
