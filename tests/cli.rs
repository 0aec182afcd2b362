//! The command line's contract: flags and their other names, files, exit codes, streams.

use crate::align::{Run, align, committed_goldens, golden_model, lines_in, number, read_lines, text, write_lines};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn pairs() -> String {
    committed_goldens().join("pairs.jsonl").to_str().unwrap().to_owned()
}

/// Makes a short run of `train`, with its output in `folder`.
fn train(folder: &Path, more: &[&str]) -> Run {
    let output = folder.join("out");
    let (model, data) = (golden_model("tiny-llama"), pairs());
    let length = if more.contains(&"--max-length") { &[][..] } else { &["--max-length", "96", "--allow-drops"] };
    let common =
        ["train", "--model", text(&model), "--data", &data, "--max-steps", "2", "--output", output.to_str().unwrap()];
    align(&[&common[..], length, more].concat())
}

fn table(path: PathBuf) -> toml::Table {
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn a_refusal_names_the_flag_that_helps() {
    align(&["train"]).refused(2, &["--model <", "`align-cli train --demo` needs neither model nor data"]);
    let folder = tempfile::tempdir().unwrap();
    let refused = |row: Value, parts: &[&str]| {
        let data = lines_in(folder.path(), "rows.jsonl", &[row]);
        let model = golden_model("tiny-llama");
        align(&["train", "--model", text(&model), "--data", text(&data), "--output", "never"]).refused(3, parts);
    };
    let labelled = json!({"prompt": "p", "completion": "c", "label": true});
    refused(labelled, &["this loss needs pairs", "; rows like this one are for --loss kto"]);
    refused(json!({"prompt": "p", "completion": "c"}), &["; rows like this one are for --loss sft"]);
    refused(
        json!({"prompt": "p", "chosen": "c"}),
        &["`rejected` is missing", "leave such rows out with --on-bad-row skip"],
    );
}

#[test]
fn train_writes_the_files_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let data = pairs();
    let run = train(folder.path(), &["--loss", "exo", "--eval-data", &data, "--verbose"]).ok();
    assert_eq!(run.stdout, "", "progress and summary go to stderr");
    let out = folder.path().join("out");
    for file in ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "config.toml"] {
        assert!(out.join(file).exists(), "{file}");
    }
    let lines = read_lines(&out.join("metrics.jsonl"));
    let steps: Vec<&Value> = lines.iter().filter(|line| line.get("loss").is_some()).collect();
    assert_eq!(steps.len(), 2);
    let keys: Vec<&str> = steps[0].as_object().unwrap().keys().map(String::as_str).collect();
    for key in [
        "step", "epoch", "loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected",
        "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected", "num_tokens", "tokens_per_second",
    ] {
        assert!(keys.contains(&key), "{key} is missing: {keys:?}");
    }
    assert_eq!(steps[0]["rewards/margins"], 0.0, "a fresh adapter is the reference");
    assert_eq!(steps[0]["rewards/accuracies"], 0.0, "strictly above");
    let evaluations: Vec<&Value> = lines.iter().filter(|line| line.get("eval_loss").is_some()).collect();
    assert!(evaluations.len() >= 2, "at the start and at the end");
    assert!(evaluations[0].get("eval_logps/accuracies").is_some());
    for what in [
        "model:",
        "device:",
        "adapter:",
        "loss: exo_pair",
        "reference:",
        "rows kept, from 80 records",
        "stop token",
        "cut",
    ] {
        assert!(run.stderr.contains(what), "the summary lacks {what:?}: {}", run.stderr);
    }
}

#[test]
fn the_names_of_trl_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let (model, data) = (golden_model("tiny-llama"), pairs());
    let arguments = [
        "train",
        "--model_name_or_path",
        text(&model),
        "--dataset_name",
        &data,
        "--per_device_train_batch_size",
        "2",
        "--gradient_accumulation_steps",
        "3",
        "--lora_r",
        "4",
        "--lora_alpha",
        "8",
        "--lora_dropout",
        "0.1",
        "--lora_target_modules",
        "q_proj,v_proj",
        "--loss_type",
        "sigmoid",
        "--num_train_epochs",
        "3.0",
        "--max_steps",
        "1",
        "--learning_rate",
        "1e-4",
        "--lr_scheduler_type",
        "cosine",
        "--warmup_steps",
        "1",
        "--weight_decay",
        "0.01",
        "--max_grad_norm",
        "0.5",
        "--max_length",
        "64",
        "--allow_drops",
        "--logging_steps",
        "5",
        "--beta",
        "0.2",
        "--label_smoothing",
        "0.1",
        "--output-dir",
        output.to_str().unwrap(),
    ];
    align(&arguments).ok();
    let config = table(output.join("config.toml"));
    assert_eq!(config["batch-size"].as_integer(), Some(6), "accumulation multiplies the batch");
    assert_eq!(config["epochs"].as_integer(), Some(3));
    assert_eq!(config["loss"].as_str(), Some("dpo"));
    assert_eq!(config["label-smoothing"].as_float(), Some(0.1));
    let adapter: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((adapter["r"].as_u64(), adapter["lora_alpha"].as_u64()), (Some(4), Some(8)));
}

#[test]
fn the_resolved_configuration_makes_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--loss", "ipo", "--beta", "0.3", "--seed", "3", "--lora-rank", "4"]).ok();
    let again = folder.path().join("again");
    let config = folder.path().join("out/config.toml");
    align(&["train", "--config", config.to_str().unwrap(), "--output", again.to_str().unwrap()]).ok();
    let read = |name: &Path| std::fs::read(name.join("adapter_model.safetensors")).unwrap();
    assert!(read(&folder.path().join("out")) == read(&again), "the same bits");
}

#[test]
fn flags_win_over_the_file_and_paths_are_relative_to_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(pairs(), folder.path().join("here.jsonl")).unwrap();
    let config = folder.path().join("run.toml");
    let text = format!(
        "model = {:?}\ndata = \"here.jsonl\"\nmax_length = 64\nallow_drops = true\nbatch-size = 3\nbeta = 0.5\nmax-steps = 1\n",
        golden_model("tiny-llama")
    );
    std::fs::write(&config, text).unwrap();
    let output = folder.path().join("out");
    let arguments =
        ["train", "--config", config.to_str().unwrap(), "--beta", "0.25", "--output", output.to_str().unwrap()];
    align(&arguments).ok();
    let resolved = table(output.join("config.toml"));
    assert_eq!(resolved["beta"].as_float(), Some(0.25));
    assert_eq!(resolved["batch-size"].as_integer(), Some(3));
}

#[test]
fn an_unknown_key_names_the_file_the_line_and_a_flag_that_exists() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("run.toml");
    std::fs::write(&config, "beta = 0.1\nlearning_rat = 1e-4\n").unwrap();
    let run = align(&["train", "--config", config.to_str().unwrap()]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    for part in ["run.toml:2", "learning_rat", "learning-rate"] {
        assert!(run.stderr.contains(part), "{}", run.stderr);
    }
}

#[test]
fn an_output_that_holds_something_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    std::fs::write(folder.path().join("out/precious"), "x").unwrap();
    let run = train(folder.path(), &[]);
    run.refused(2, &["--overwrite"]);
    train(folder.path(), &["--overwrite"]).ok();
}

#[test]
fn usage_errors_have_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["--loss", "nonsense"], "nonsense"),
        (&["--loss", "apo"], "apo_zero"),
        (&["--loss", "ipo", "--label-smoothing", "0.1"], "label-smoothing"),
        (&["--loss", "kto", "--batch-size", "1"], "at least 2"),
        (&["--beta", "-1"], "beta"),
        (&["--learning-rate", "much"], "learning-rate"),
        (&["--lora-rank", "0"], "lora-rank"),
        (&["--no-such-flag"], "no-such-flag"),
        (&["--max_stepz", "3"], "a similar argument exists: '--max-steps'"),
    ];
    for (flags, part) in cases {
        let run = train(folder.path(), flags);
        assert_eq!(run.code, Some(2), "{flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{flags:?}: {}", run.stderr);
    }
}

#[test]
fn losses_lists_the_registry() {
    let list = align(&["losses", "--json"]).ok().json();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|loss| loss["name"].as_str().unwrap()).collect();
    let losses = align_lora::objective::LOSSES.iter().map(|loss| loss.name);
    let registry: Vec<&str> = losses.chain(align_lora::objective::MIXES.iter().map(|mix| mix.name)).collect();
    assert_eq!(names, registry);
    for loss in list.as_array().unwrap() {
        for key in ["name", "aliases", "data", "reference", "source"] {
            assert!(loss.get(key).is_some(), "{key}: {loss}");
        }
    }
    let one = align(&["losses", "exo"]).ok().stdout;
    assert!(one.starts_with("### `exo_pair`") && one.contains("--exo-log-eps") && !one.contains("### `ipo`"), "{one}");
    assert!(align(&["losses", "mixed_po"]).ok().stdout.contains("dpo:0.8,bco_pair:0.2,sft:1"));
    let run = align(&["losses", "dpoo"]);
    assert_eq!((run.code, run.stderr.contains("did you mean `dpo`?")), (Some(2), true), "{}", run.stderr);
    let text = align(&["losses"]).ok().stdout;
    assert!(registry.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn eval_takes_loss_and_knobs_from_the_run() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--loss", "ipo", "--beta", "0.3", "--no-length-norm"]).ok();
    let (model, data, adapter) = (golden_model("tiny-llama"), pairs(), folder.path().join("out"));
    let adapter = adapter.to_str().unwrap();
    let eval = |more: &[&str]| {
        let common = [
            "eval",
            "--model",
            text(&model),
            "--adapter",
            adapter,
            "--data",
            &data,
            "--max-length",
            "96",
            "--allow-drops",
            "--json",
        ];
        align(&[&common[..], more].concat()).ok().json()
    };
    let (from_run, explicit) = (eval(&[]), eval(&["--loss", "ipo", "--beta", "0.3", "--no-length-norm"]));
    assert_eq!(from_run, explicit);
    assert_ne!(from_run["eval_loss"], eval(&["--loss", "dpo"])["eval_loss"]);
    // knobs that are off unless given, for a single loss and for a loss of a mix
    for loss in [&["--loss", "exo", "--exo-log-eps", "-8"][..], &["--loss", "rpo:0.5,exo:0.5", "--exo-log-eps", "-8"]] {
        train(folder.path(), &[loss, &["--overwrite"]].concat()).ok();
        assert_eq!(eval(&[]), eval(loss), "{loss:?}");
        assert_ne!(
            eval(&[])["eval_loss"],
            eval(&["--label-smoothing", "0.2"])["eval_loss"],
            "it takes the other's place"
        );
    }
    assert_eq!(from_run["rows"].as_u64().unwrap() + from_run["dropped"].as_u64().unwrap(), 80);
}

#[test]
fn an_experimental_loss_says_so_and_logs_its_share_of_clipped_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), &["--loss", "chipo"]).ok();
    assert!(run.stderr.contains("experimental: its formula could not be checked"), "{}", run.stderr);
    assert_eq!(read_lines(&folder.path().join("out/metrics.jsonl"))[0]["clipped"].as_f64(), Some(0.0));
    let run = train(folder.path(), &["--loss", "dpo", "--overwrite"]).ok();
    assert!(!run.stderr.contains("experimental"), "{}", run.stderr);
    assert!(read_lines(&folder.path().join("out/metrics.jsonl"))[0].get("clipped").is_none());
}

#[test]
fn log_probs_are_taken_at_the_temperature_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--logp-temperature", "0.8"]).ok();
    assert_eq!(table(folder.path().join("out/config.toml"))["logp-temperature"].as_float(), Some(0.8));
    let (model, data, adapter) = (golden_model("tiny-llama"), pairs(), folder.path().join("out"));
    let common = ["--model", text(&model), "--adapter", adapter.to_str().unwrap(), "--data", &data, "--json"];
    for command in ["score", "eval"] {
        let run = |more: &[&str]| align(&[&[command][..], &common, more].concat()).ok().stdout;
        assert!(run(&[]) == run(&["--logp-temperature", "0.8"]), "{command} takes that of the run");
        assert!(run(&[]) != run(&["--logp-temperature", "1"]), "{command} takes the flag's");
    }
    for wrong in ["0", "-1", "nan", "inf", "hot"] {
        let run = train(folder.path(), &["--logp-temperature", wrong, "--overwrite"]);
        assert_eq!(run.code, Some(2), "{wrong}: {}", run.stderr);
        assert!(run.stderr.contains("--logp-temperature"), "{}", run.stderr);
    }
    let run = train(folder.path(), &["--loss", "rm_bt", "--logp-temperature", "0.8", "--overwrite"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}

#[test]
fn paired_data_serves_an_unpaired_loss() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), &["--loss", "kto", "--max-length", "256"]).ok();
    assert!(run.stderr.contains("160 rows kept, from 80 records"), "{}", run.stderr);
}

#[test]
fn an_adapter_goes_on_from_its_starting_state() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = committed_goldens().join("tiny-llama/adapter");
    train(folder.path(), &["--adapter", adapter.to_str().unwrap()]).ok();
    let first = read_lines(&folder.path().join("out/metrics.jsonl"))[0].clone();
    assert_eq!(first["loss"].as_f64(), Some(std::f64::consts::LN_2), "the reference is the starting state");
    assert_eq!(first["rewards/margins"].as_f64(), Some(0.0));
    let run = train(folder.path(), &["--adapter", adapter.to_str().unwrap(), "--lora-rank", "4", "--overwrite"]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
}

#[test]
fn generate_samples_by_seed_and_stops_at_the_length() {
    let model = golden_model("tiny-llama");
    let run = |seed: &str| {
        let arguments = [
            "generate",
            "--model",
            text(&model),
            "--prompt",
            "Hello",
            "--max-new-tokens",
            "12",
            "--min-new-tokens",
            "12",
            "--sample",
            "--temperature",
            "0.9",
            "--top-p",
            "0.95",
            "--seed",
            seed,
            "--json",
        ];
        align(&arguments).ok().json()
    };
    let first = run("1");
    assert_eq!(first["tokens"].as_array().unwrap().len(), 12);
    assert_eq!(first["finish"], "length");
    assert_eq!(first, run("1"));
    assert_ne!(first["tokens"], run("2")["tokens"]);
}

#[test]
fn generate_says_how_fast_it_was() {
    let (model, data) = (golden_model("tiny-llama"), pairs());
    let length = ["--max-new-tokens", "5", "--min-new-tokens", "5"];
    let common = [&["generate", "--model", text(&model)][..], &length].concat();
    let run = align(&[&common[..], &["--data", &data, "--limit", "3", "--batch-size", "2", "--json"]].concat()).ok();
    assert_eq!(run.json_lines().len(), 3, "stdout has the results alone");
    let told = run.stderr.lines().last().unwrap();
    let rest = told.strip_prefix("3 prompts, 15 new tokens in ").unwrap_or_else(|| panic!("{told}"));
    let (seconds, rate) = rest.strip_suffix(" tokens/s").unwrap().split_once(" s: ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0 && rate.parse::<f64>().unwrap() > 0.0, "{told}");
    let one = align(&[&common[..], &["--prompt", "Hello"]].concat()).ok().stderr;
    assert!(one.lines().last().unwrap().starts_with("1 prompt, 5 new tokens in "), "{one}");
}

#[test]
fn inspect_says_what_a_model_and_its_data_are() {
    let (model, data) = (golden_model("tiny-llama"), pairs());
    let facts = align(&["inspect", "--model", text(&model), "--data", &data, "--json"]).ok().json();
    assert_eq!(facts["model"]["family"], "llama");
    assert_eq!(facts["data"]["kept"], 80);
    let text = align(&["inspect", "--model", text(&model)]).ok().stdout;
    assert!(text.contains("num_hidden_layers") && text.contains("trainable_parameters"), "{text}");
}

#[test]
fn completions_and_manual_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(align(&["completions", shell]).ok().stdout.contains("align-cli"), "{shell}");
    }
    assert!(align(&["man"]).ok().stdout.contains("align-cli"));
    assert!(align(&["--version"]).ok().stdout.starts_with("align-cli "));
    assert!(align(&["train", "--help"]).ok().stdout.contains("--kto-kl-grad"), "knobs of the losses are flags");
}

/// A reader that goes away causes neither an error nor a panic.
#[test]
fn a_closed_pipe_ends_quietly() {
    let model = golden_model("tiny-llama");
    let data = pairs();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_align-cli"))
        .args(["score", "--model", text(&model), "--data", &data, "--json", "--per-token", "--reference-cache", "off"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn flags_that_would_change_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (golden_model("tiny-llama"), pairs());
    let adapter = committed_goldens().join("tiny-llama/adapter");
    let adapter = adapter.to_str().unwrap();
    let cases: [(&[&str], &str); 8] = [
        (&["generate", "--model", text(&model), "--prompt", "x", "--micro-batch-tokens", "8"], "micro-batch-tokens"),
        (&["generate", "--model", text(&model), "--prompt", "x", "--seed", "8"], "--sample"),
        (&["generate", "--model", text(&model), "--prompt", "x", "--limit", "8"], "--limit"),
        (&["inspect", "--model", text(&model), "--row", "0"], "--data"),
        (&["inspect", "--model", text(&model), "--adapter", adapter, "--target-modules", "q_proj"], "--target-modules"),
        (&["train", "--model", text(&model), "--data", &data, "--demo"], "--demo"),
        (&["train", "--model", text(&model), "--data", &data, "--report_to", "wandb"], "metrics.jsonl"),
        (&["train", "--model", text(&model), "--data", &data, "--learning-rate", "-1"], "from 0 to"),
    ];
    for (arguments, part) in cases {
        let run = align(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(part), "{arguments:?}: {}", run.stderr);
    }
    let run = train(folder.path(), &["--eval-steps", "1"]);
    run.refused(2, &["--eval-data"]);
}

#[test]
fn a_value_of_the_configuration_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("run.toml");
    std::fs::write(&config, "beta = 0.1\nbatch-size = 0\n").unwrap();
    let run = align(&["train", "--demo", "--config", config.to_str().unwrap()]);
    run.refused(3, &["run.toml:2", "batch-size"]);
}

#[test]
fn target_modules_come_as_separate_words_too_and_a_name_without_a_layer_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), &["--lora_target_modules", "q_proj", "v_proj", "nope"]).ok();
    assert!(run.stderr.contains("warning: --target-modules nope"), "{}", run.stderr);
    let adapter: Value = crate::align::read_json(&folder.path().join("out/adapter_config.json"));
    let names: Vec<&str> = adapter["target_modules"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"q_proj") && names.contains(&"v_proj"), "{names:?}");
}

#[test]
fn a_run_that_overwrites_replaces_the_files_of_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--loss", "ipo"]).ok();
    let out = folder.path().join("out");
    let files = || std::fs::read_dir(&out).unwrap().count();
    let before = files();
    train(folder.path(), &["--overwrite", "--loss", "dpo"]).ok();
    assert_eq!(table(out.join("config.toml"))["loss"].as_str(), Some("dpo"));
    assert_eq!(files(), before);
}

#[test]
fn files_of_different_runs_are_not_evaluated_together() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--lora-rank", "4"]).ok();
    let out = folder.path().join("out");
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    std::fs::write(out.join("config.toml"), config.replace("lora-rank = 4", "lora-rank = 8")).unwrap();
    let model = golden_model("tiny-llama");
    let run = align(&["eval", "--model", text(&model), "--adapter", text(&out), "--data", &pairs()]);
    run.refused(3, &["config.toml", "lora-rank"]);
}

#[test]
fn a_mix_is_evaluated_with_the_knobs_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--loss", "dpo:0.8,ipo:0.2", "--beta", "0.3"]).ok();
    let adapter = folder.path().join("out");
    let model = golden_model("tiny-llama");
    let found = align(&["eval", "--model", text(&model), "--adapter", text(&adapter), "--data", &pairs(), "--json"]);
    let found = found.ok().json();
    assert_eq!((found["beta"].as_f64(), found["max_length"].as_u64()), (Some(0.3), Some(96)), "{found}");
}

#[test]
fn an_adapter_keeps_its_dropout_unless_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--lora-dropout", "0.25"]).ok();
    let first = folder.path().join("out");
    for (flags, want) in [(&[][..], 0.25), (&["--lora-dropout", "0.5"][..], 0.5)] {
        let again = tempfile::tempdir().unwrap();
        train(again.path(), &[&["--adapter", first.to_str().unwrap()][..], flags].concat()).ok();
        assert_eq!(table(again.path().join("out/config.toml"))["lora-dropout"].as_float(), Some(want));
        let adapter = crate::align::read_json(&again.path().join("out/adapter_config.json"));
        assert_eq!(adapter["lora_dropout"].as_f64(), Some(want));
    }
}

#[test]
fn a_prompt_can_be_piped_in() {
    use std::io::Write;
    let model = golden_model("tiny-llama");
    let arguments = ["generate", "--model", text(&model), "--max-new-tokens", "8"];
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_align-cli"))
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"Hello\n").unwrap();
    let piped = child.wait_with_output().unwrap();
    let typed = align(&[&arguments[..], &["--prompt", "Hello"]].concat()).ok();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), typed.stdout);
}

/// If stdout and stderr cannot be written, the run still writes the adapter.
#[cfg(target_os = "linux")]
#[test]
fn training_goes_on_without_readers() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_align-cli"))
        .args(["train", "--demo", "--max-steps", "1", "--output", output.to_str().unwrap()])
        .env("XDG_CACHE_HOME", folder.path())
        .stdout(writer)
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(output.join("adapter_model.safetensors").exists());
}

#[test]
fn commands_of_other_programs_are_answered_with_the_command_that_does_it() {
    for (verb, command) in [
        ("dpo", "align-cli train --loss dpo "),
        ("kto", "align-cli train --loss kto "),
        ("sft", "align-cli train --loss sft "),
        ("chat", "align-cli generate "),
        ("export", "align-cli merge "),
    ] {
        align(&[verb, "--model", "somewhere"]).refused(2, &[&format!("there is no command `{verb}`"), command]);
    }
}

/// A run prints lines about model, loss, data and plan. Other lines need `--verbose`. Lines about steps begin with `step `.
#[test]
fn a_run_says_little_unless_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let lines = |more: &[&str]| -> Vec<String> {
        let run = train(folder.path(), &[&["--overwrite", "--eval-data", &pairs()], more].concat()).ok();
        run.stderr.lines().map(str::to_owned).collect()
    };
    let short = lines(&[]);
    let start: Vec<&String> = short.iter().take_while(|line| !line.starts_with("step ")).collect();
    let heads: Vec<&str> = start.iter().filter_map(|line| line.split_once(": ")).map(|(head, _)| head).collect();
    for head in ["model", "loss", "data", "evaluation data", "plan"] {
        assert_eq!(heads.iter().filter(|found| **found == head).count(), 1, "{head}: {short:?}");
    }
    for head in ["device", "adapter", "memory", "time", "reference cache"] {
        assert!(!heads.contains(&head), "{head}: {short:?}");
    }
    assert_eq!(
        short.iter().filter(|line| line.starts_with("step ")).count(),
        4,
        "two steps, two evaluations: {short:?}"
    );
    let long = lines(&["-v"]);
    for head in ["device: ", "adapter: ", "memory: ", "time: "] {
        assert!(long.iter().any(|line| line.starts_with(head)), "{head}: {long:?}");
    }
    assert!(!long.concat().contains('\u{1b}'), "no colours without a terminal");
}

#[test]
fn commands_have_a_manual_page_each() {
    let page = align(&["man", "merge"]).ok().stdout;
    assert!(page.contains("merge") && page.contains("adapter"), "{page}");
    assert_eq!(align(&["man", "nonsense"]).code, Some(2));
}

#[test]
fn the_help_of_a_knob_gives_the_default_of_each_loss() {
    let help = align(&["train", "--help"]).ok().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("(dpo default 0, exo_pair default 0.001, "), "{help}");
    assert!(help.contains("closer to the reference (dpo default 0.1; "), "{help}");
    let short = align(&["train", "-h"]).ok().stdout;
    let after = short.lines().skip_while(|line| !line.contains("--beta <NUMBER>")).nth(1);
    assert!(after.is_some_and(|line| line.trim().is_empty() || line.contains("--")), "more than one line: {short}");
}

#[test]
fn an_adapter_of_the_demo_is_inspected_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let output = output.to_str().unwrap();
    align(&["train", "--demo", "--max-steps", "1", "--output", output]).ok();
    let facts = align(&["inspect", "--demo", "--adapter", output, "--json"]).ok().json();
    assert_eq!(facts["adapter"]["base_model_name_or_path"], "align-demo");
}

#[test]
fn a_term_that_has_no_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), &["--loss", "max_po", "--eta", "0.1"]);
    run.refused(2, &["--eta", "--reference-data"]);
    assert!(!folder.path().join("out").exists(), "nothing was begun");
    let run = train(folder.path(), &["--loss", "max_po", "--reference-data", "texts.jsonl"]);
    run.refused(2, &["--eta above 0"]);
}

/// A step reads as many texts as rows and continues where the previous step stopped. The run's `config.toml` repeats the run.
#[test]
fn texts_of_a_reference_corpus_hold_a_policy() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.jsonl");
    let text = |words: &str| serde_json::json!({ "text": words });
    write_lines(&texts, &[text("The sea is wide."), text("A house has a roof and four walls."), text("Rain")]);
    let run = |name: &str, more: &[&str]| -> Vec<Value> {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        train(&folder, &[&["--loss", "max_po"], more].concat()).ok();
        read_lines(&folder.join("out/metrics.jsonl"))
    };
    let texts = texts.to_str().unwrap();
    let without = run("without", &[]);
    let with = run("with", &["--eta", "0.5", "--reference-data", texts]);
    for (step, (with, without)) in with.iter().zip(&without).enumerate() {
        assert!(with["num_tokens"].as_u64() > without["num_tokens"].as_u64(), "step {step}");
        assert!(number(&with["loss"]) > number(&without["loss"]), "step {step}: the likelihood is a positive term");
    }
    let config = folder.path().join("with/out/config.toml");
    let again = folder.path().join("again");
    align(&["train", "--config", config.to_str().unwrap(), "--output", again.to_str().unwrap()]).ok();
    let adapter = |folder: PathBuf| std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert!(adapter(again) == adapter(folder.path().join("with/out")), "the run of its own configuration");
}

#[test]
fn a_row_without_a_number_that_the_loss_reads_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path(), &["--loss", "sppo", "--no-shuffle"]);
    run.refused(3, &["has no `prob_win_chosen`, which loss `sppo` reads"]);
}

/// Options of the file are ignored only if the command line makes a choice that does not use them.
#[test]
fn numbers_of_the_file_are_left_out_for_another_choice_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("run.toml");
    let options = |file: &str, more: &[&str]| {
        std::fs::write(&config, file).unwrap();
        let more = [&["--config", config.to_str().unwrap(), "--overwrite"][..], more].concat();
        train(folder.path(), &more).ok();
        table(folder.path().join("out/config.toml"))
    };
    let rmsprop = "optim = \"rmsprop\"\nrmsprop-alpha = 0.5\n";
    for (file, flags) in [
        (rmsprop, &["--optim", "rmsprop"][..]),
        (rmsprop, &["--optim=rmsprop"]),
        (rmsprop, &[]),
        ("rmsprop-alpha = 0.5\n", &["--optim", "rmsprop"]),
    ] {
        assert_eq!(options(file, flags)["rmsprop-alpha"].as_float(), Some(0.5), "{file} {flags:?}");
    }
    assert_eq!(options(rmsprop, &["--optim", "adamw_torch"]).get("rmsprop-alpha"), None);
    let adam = options("adam-beta1 = 0.8\n", &["--optim", "adamw_torch_fused"]);
    assert_eq!(adam["adam-beta1"].as_float(), Some(0.8));
    assert_eq!(options("warmup-steps = 3\n", &["--schedule", "constant"])["warmup-steps"].as_integer(), Some(0));
    assert_eq!(options("warmup-steps = 3\n", &["--schedule", "cosine"])["warmup-steps"].as_integer(), Some(3));
}
