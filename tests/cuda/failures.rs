//! What a user is told if the GPU cannot be used, and that a run that fails leaves nothing behind.

use super::{Driver, LATE, is_real, short_pairs};
use crate::align::{Run, golden_model, lines_in, text};
use crate::watched_run;
use align_data::{Dataset, Encoder, OnBadRow, RowKind, Shuffle};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::Device;
use align_lora::adapter::{Adapter, LoraConfig};
use align_lora::objective::Objective;
use align_lora::train::Trainer;
use ptx_machine::driver as machine;
use std::error::Error;
use std::path::Path;

/// Whatever the driver refuses, and whenever the card is lost, the run ends with a message and leaves no output.
#[test]
fn a_failing_driver_ends_a_run_and_leaves_nothing() {
    if is_real() {
        return;
    }
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
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
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
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
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
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

/// Without a driver, the processor computes and nobody is told of a GPU; a GPU that is asked for ends the command.
#[test]
fn a_machine_without_a_driver_has_no_gpu() {
    if Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists() {
        eprintln!("skipped: this machine has an NVIDIA driver");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    let model = golden_model("tiny-llama");
    let score = |more: &[&str]| {
        let arguments =
            ["score", "--model", text(&model), "--data", text(&data), "--verbose", "--reference-cache", "off"];
        crate::align::align(&[&arguments[..], more].concat())
    };
    let run = score(&[]).ok();
    assert!(!run.stderr.contains("GPU"), "{}", run.stderr);
    score(&["--device", "cuda"]).refused(1, &["no GPU to use: no NVIDIA driver is installed"]);
}

/// The driver's compiler is the first to see some mistakes of a kernel; what it says is in the message.
#[test]
fn ptx_that_the_driver_refuses_ends_a_run_with_its_log() {
    if is_real() {
        return;
    }
    let (driver, folder) = (Driver::new(), tempfile::tempdir().unwrap());
    let data = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    let (model, output, modules) = (golden_model("tiny-llama"), folder.path().join("run"), folder.path().join("ptx"));
    std::fs::create_dir(&modules).unwrap();
    let kernel =
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry embed_bf16()\n{\n  multiply everything;\n}\n";
    std::fs::write(modules.join("embed.ptx"), kernel).unwrap();
    let arguments =
        ["train", "--model", text(&model), "--data", text(&data), "--output", text(&output), "--device", "cuda"];
    let run = driver.command(LATE, &arguments).env("PTX_MACHINE_MODULES", &modules).output().unwrap();
    let said = ["the GPU or its driver failed in cuModuleLoadDataEx: ", "6: ", "multiply everything", "embed_bf16"];
    Run::of(run).refused(1, &said);
    assert!(!output.exists());
}

/// Loads a model of one layer onto a card, on which every block is a request of its own, and makes one step of training.
fn one_step(ordinal: usize, rows: &Path) -> Result<(), Box<dyn Error>> {
    let device = Device::cuda_apart(ordinal, Some(1))?;
    let dir = golden_model("tiny-llama");
    let files = WeightFiles::open(&dir, ValueCheck::Finite)?;
    let mut config = ModelConfig::open(&dir)?;
    config.num_hidden_layers = 1;
    config.layers.truncate(1);
    let model = Model::load(&device, config, &files)?;
    let encoder = Encoder::from_model(&dir, None, 48, model.config().vocab_size)?;
    let data = Dataset::open(&[rows.to_owned()], encoder, RowKind::Pair, OnBadRow::Error)?;
    let batch = data.rows(&data.order(Shuffle::Off, 0)[..2])?;
    let adapter = Adapter::fresh(&model, &LoraConfig { rank: 4, ..LoraConfig::default() }, 5)?;
    let objective = Objective::new("dpo", &[])?;
    let mut trainer = Trainer::new(&model, adapter.set().clone(), None, objective, watched_run::options())?;
    trainer.step(&batch, 1)?;
    Ok(())
}

/// Refuses every request for memory of a step in turn: each ends the step with an error that says so, and all memory that was
/// allocated before is freed.
#[test]
fn every_request_for_memory_may_be_refused() {
    let Some(driver) = machine::install() else { return };
    let folder = tempfile::tempdir().unwrap();
    let rows = lines_in(folder.path(), "pairs.jsonl", &short_pairs());
    let mut refused = 0;
    loop {
        let ordinal = driver.card(&format!("memory=1000000000;launches=0;fails={refused}"));
        let result = one_step(ordinal, &rows);
        let tally = driver.tally(ordinal);
        assert_eq!(tally.live, 0, "after request {refused}: {result:?}");
        if tally.requests <= refused {
            break;
        }
        let message = result.expect_err("a request was refused").to_string();
        assert!(message.starts_with("out of memory: "), "request {refused}: {message}");
        refused += 1;
    }
    assert!(refused > 100, "{refused} requests");
}
