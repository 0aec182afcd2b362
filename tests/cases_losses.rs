//! Edge cases of losses: what the rows of an evaluation share, the order of split pairs, schedules, optimisers.

use crate::align::{Run, align, committed_goldens, lines_in, number, read_json, read_lines, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn tiny() -> PathBuf {
    committed_goldens().join("tiny-llama")
}

/// Runs `align-cli COMMAND` on the tiny model, with rows of at most 256 tokens.
fn run(command: &str, data: &Path, more: &[&str]) -> Run {
    let model = tiny().join("model");
    let common = [command, "--model", text(&model), "--data", text(data), "--max-length", "256", "--precision", "f32"];
    align(&[&common[..], more].concat())
}

/// Runs `eval` with the golden's adapter.
fn eval(data: &Path, more: &[&str]) -> Value {
    let adapter = tiny().join("adapter");
    run("eval", data, &[&["--adapter", text(&adapter), "--json"], more].concat()).ok().json()
}

/// Makes `n` pairs of short texts. Pairs 0 and 1 share a prompt, as do pairs 2 and 3, and so on.
fn pairs(n: usize) -> Vec<Value> {
    let pair = |i: usize| {
        json!({
            "prompt": format!("Question {}?", i / 2),
            "chosen": " yes".repeat(i + 1),
            "rejected": format!(" no {i}"),
        })
    };
    (0..n).map(pair).collect()
}

/// Losses whose rows share numbers but are not compared with each other.
const SHARING: [&[&str]; 5] = [
    &["--loss", "kto"],
    &["--loss", "bco"],
    &["--loss", "kto_pair"],
    &["--loss", "bco_pair", "--bco-delta", "running"],
    &["--loss", "alpha_dpo"],
];

#[test]
fn an_evaluation_does_not_depend_on_the_size_of_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(7));
    for loss in SHARING {
        let of = |batch_size: &str, more: &[&str]| eval(&data, &[loss, &["--batch-size", batch_size], more].concat());
        let whole = of("64", &[]);
        for batch_size in ["1", "2", "3", "8"] {
            assert_eq!(of(batch_size, &[]), whole, "{loss:?}, batches of {batch_size}");
        }
        if loss[1] == "kto" || loss[1] == "bco" {
            assert_ne!(of("2", &["--unpaired-order", "trl"])["eval_loss"], whole["eval_loss"], "{loss:?}");
        }
    }
}

/// KTO's reference point is computed over the whole set. In TRL's order it is computed over a batch, so only a batch as large as
/// the set gives the golden's loss.
#[test]
fn the_reference_point_of_an_evaluation_is_that_of_all_rows() {
    let golden = read_json(&tiny().join("kto.json"));
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &read_lines(&committed_goldens().join("kto.jsonl"))[..8]);
    let differs = |flags: &[&str]| {
        let eval = eval(&data, &[&["--loss", "kto", "--beta", "0.1"], flags].concat());
        (number(&eval["eval_loss"]) - number(&golden["loss"])).abs() > 1e-3
    };
    assert!(!differs(&["--batch-size", "8", "--unpaired-order", "trl"]));
    assert!(!differs(&["--batch-size", "3"]));
    let pairs = lines_in(folder.path(), "rows.jsonl", &read_lines(&committed_goldens().join("pairs.jsonl"))[..12]);
    let of = |more: &[&str]| eval(&pairs, &[&["--loss", "kto", "--batch-size", "4"], more].concat());
    let (set, batches) = (of(&[]), of(&["--unpaired_order", "trl"]));
    assert_eq!(set["rows"], 24);
    assert_ne!(set["eval_kl"], batches["eval_kl"]);
}

/// Without a run, BCO's shift is the mean reward over the set. The test computes it from the log-probs that `score` prints.
#[test]
fn the_shift_of_an_evaluation_is_the_mean_of_all_rewards() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(6));
    let adapter = tiny().join("adapter");
    let scores = run("score", &data, &["--adapter", text(&adapter), "--json"]).ok().json_lines();
    let beta = 0.25;
    let rewards = |side: &str| -> Vec<f64> {
        let reward = |row: &Value| beta * (number(&row[side]["logps"]) - number(&row[side]["reference_logps"]));
        scores.iter().map(reward).collect()
    };
    let (chosen, rejected) = (rewards("chosen"), rewards("rejected"));
    let shift = chosen.iter().chain(&rejected).sum::<f64>() / 12.0;
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let sum: f64 = chosen.iter().map(|r| softplus(shift - r)).chain(rejected.iter().map(|r| softplus(r - shift))).sum();
    let got = number(&eval(&data, &["--loss", "bco", "--beta", "0.25", "--batch-size", "2"])["eval_loss"]);
    assert!((got - sum / 12.0).abs() < 1e-9, "{got}, from the scores {}", sum / 12.0);
}

/// Returns the lines of the steps in a run's metrics.
fn steps(output: &Path) -> Vec<Value> {
    read_lines(&output.join("metrics.jsonl")).into_iter().filter(|line| line.get("loss").is_some()).collect()
}

#[test]
fn an_unshuffled_batch_of_pairs_has_both_classes() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(10));
    let output = folder.path().join("out");
    for (loss, batch_size) in [("kto", "2"), ("bco", "2"), ("kto", "4"), ("apo_zero_unpaired", "3")] {
        for order in ["interleaved", "trl"] {
            let flags = ["--loss", loss, "--no-shuffle", "--batch-size", batch_size, "--output", text(&output)];
            let more = ["--overwrite", "--unpaired-order", order];
            // `interleaved` is the default, so its run leaves the flag out
            let more = if order == "trl" { &more[..] } else { &more[..1] };
            run("train", &data, &[&flags, more].concat()).ok();
            let has = |step: &Value, class: &str| step.get(class).is_some();
            let both = |step: &Value| has(step, "rewards/chosen") && has(step, "rewards/rejected");
            assert_eq!(steps(&output).iter().all(both), order == "interleaved", "{loss} {batch_size} {order}");
            // an evaluation of the run takes the order from the run's options
            let config = std::fs::read_to_string(output.join("config.toml")).unwrap();
            assert!(config.contains(&format!("unpaired-order = \"{order}\"")), "{config}");
            let eval = |more: &[&str]| {
                run("eval", &data, &[&["--adapter", text(&output), "--json", "--batch-size", "3"], more].concat())
                    .ok()
                    .json()
            };
            assert_eq!(eval(&[])["eval_loss"], eval(&["--unpaired-order", order])["eval_loss"]);
        }
    }
}

#[test]
fn pairs_of_one_prompt_are_said_to_have_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = (0..4)
        .map(|i| json!({"prompt": "Why?", "chosen": format!(" so {i}"), "rejected": format!(" no {i}")}))
        .collect();
    let data = lines_in(folder.path(), "rows.jsonl", &rows);
    let output = folder.path().join("out");
    for run in
        [run("eval", &data, &["--loss", "kto"]), run("train", &data, &["--loss", "kto", "--output", text(&output)])]
    {
        let run = run.ok();
        assert!(run.stderr.contains("have one prompt"), "{}", run.stderr);
    }
    // a loss without mismatched answers gives no note
    assert!(!run("eval", &data, &["--loss", "bco"]).ok().stderr.contains("one prompt"));
}

/// A fresh adapter starts with the loss that `losses NAME` states.
#[test]
fn sppo_starts_where_its_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |chosen: f64| -> Vec<Value> {
        let numbers = json!({
            "prob_win_chosen": chosen, "prob_win_rejected": 1.0 - chosen, "prob_chosen_beats_rejected": chosen,
        });
        pairs(2)
            .into_iter()
            .map(|mut row| {
                row.as_object_mut().unwrap().extend(numbers.as_object().unwrap().clone());
                row
            })
            .collect()
    };
    for (loss, chosen, start) in [
        ("sppo_hard", 1.0, 500_000.0),
        ("sppo", 1.0, 250_000.0),
        ("sppo", 0.8, 90_000.0),
        ("sppo_single", 0.8, 90_000.0),
    ] {
        let data = lines_in(folder.path(), "rows.jsonl", &rows(chosen));
        let eval = run("eval", &data, &["--loss", loss, "--json"]).ok().json();
        assert!((number(&eval["eval_loss"]) - start).abs() < 1e-6 * start, "{loss}: {}", eval["eval_loss"]);
        let help = align(&["losses", loss]).ok().stdout;
        assert!(help.contains(&start.to_string()), "{help}");
    }
}

#[test]
fn the_losses_say_what_surveys_call_them() {
    let help = |loss: &str| align(&["losses", loss]).ok().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help("slic").contains("surveys print as SLiC has a reference in its margin: that is hinge"));
    assert!(help("hinge").contains("what surveys print as SLiC"));
    let exo = help("exo_pair");
    assert!(exo.contains("0.5 for dialogue (HH), summaries (TL;DR)") && exo.contains("0.1 for IMDB"), "{exo}");
}

/// Returns the learning rates of a run of `steps` steps.
fn rates(data: &Path, output: &Path, more: &[&str]) -> Vec<f64> {
    let flags = ["--batch-size", "1", "--learning-rate", "8e-4", "--output", text(output), "--overwrite"];
    run("train", data, &[&flags, more].concat()).ok();
    steps(output).iter().map(|step| number(&step["learning_rate"])).collect()
}

fn close(got: &[f64], want: &[f64]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12)
}

#[test]
fn schedules_and_warm_ups_are_those_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(8));
    let output = folder.path().join("out");
    let of = |more: &[&str]| rates(&data, &output, more);
    assert!(close(&of(&["--schedule", "constant"]), &[8e-4; 8]));
    assert!(close(&of(&["--lr_scheduler_type", "constant", "--warmup_steps", "0"]), &[8e-4; 8]));
    let grows = [0.0, 4e-4, 8e-4, 8e-4, 8e-4, 8e-4, 8e-4, 8e-4];
    for schedule in ["constant_with_warmup", "constant-with-warmup"] {
        assert!(close(&of(&["--schedule", schedule, "--warmup-steps", "2"]), &grows), "{schedule}");
        // 2 = ceil(0.2 * 8)
        assert!(close(&of(&["--schedule", schedule, "--warmup_ratio", "0.2"]), &grows), "{schedule}");
    }
    let linear = of(&["--warmup-ratio", "0.25"]);
    assert!(close(&linear[..3], &[0.0, 4e-4, 8e-4]), "{linear:?}");
    // the config.toml of the run gives the same rates; `--warmup-steps` overrides its `warmup-ratio`
    let config = output.join("config.toml");
    assert!(std::fs::read_to_string(&config).unwrap().contains("warmup-ratio = 0.25"));
    let kept = folder.path().join("kept.toml");
    std::fs::copy(&config, &kept).unwrap();
    assert_eq!(of(&["--config", text(&kept)]), linear);
    assert!(close(&of(&["--config", text(&kept), "--warmup-steps", "1"])[..2], &[0.0, 8e-4]));
    // options as earlier versions wrote them
    std::fs::write(&kept, "schedule = \"constant\"\nwarmup-steps = 0\n").unwrap();
    assert!(close(&of(&["--config", text(&kept)]), &[8e-4; 8]));
    std::fs::write(&kept, "schedule = \"constant\"\nwarmup-steps = 3\n").unwrap();
    let refused = run("train", &data, &["--config", text(&kept), "--output", text(&output), "--overwrite"]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
}

#[test]
fn schedules_and_optimisers_refuse_what_they_do_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(2));
    let output = folder.path().join("out");
    let cases: [(&[&str], &str); 14] = [
        (&["--schedule", "constant", "--warmup-steps", "5"], "constant_with_warmup"),
        (&["--schedule", "constant", "--warmup-ratio", "0.1"], "constant_with_warmup"),
        (&["--warmup-steps", "5", "--warmup-ratio", "0.1"], "--warmup-ratio"),
        (&["--warmup-ratio", "1.5"], "from 0 to 1"),
        (&["--warmup-ratio", "-0.1"], "from 0 to 1"),
        (&["--warmup-ratio", "nan"], "from 0 to 1"),
        (&["--optim", "rmsprop", "--adam-beta1", "0.5"], "--adam-beta1: --optim rmsprop"),
        (&["--optim", "rmsprop", "--adam-beta2", "0.5"], "--adam-beta2: --optim rmsprop"),
        (&["--optim", "rmsprop", "--adam_epsilon", "1e-6"], "--adam-epsilon: --optim rmsprop"),
        (&["--rmsprop-alpha", "0.9"], "--rmsprop-alpha: --optim adamw"),
        (&["--adam-beta1", "1"], "--adam-beta1 1"),
        (&["--adam-beta2", "-0.1"], "--adam-beta2 -0.1"),
        (&["--adam-epsilon", "0"], "--adam-epsilon 0"),
        (&["--optim", "rmsprop", "--rmsprop-alpha", "1.0"], "--rmsprop-alpha 1"),
    ];
    for (flags, words) in cases {
        let run = run("train", &data, &[&["--output", text(&output)], flags].concat());
        assert_eq!(run.code, Some(2), "{flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{flags:?}: {}", run.stderr);
        assert!(!output.exists());
    }
}

#[test]
fn the_optimiser_and_its_numbers_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &pairs(6));
    let output = folder.path().join("out");
    let losses = |more: &[&str]| -> Vec<f64> {
        let flags = ["--batch-size", "2", "--learning-rate", "1e-2", "--output", text(&output), "--overwrite"];
        run("train", &data, &[&flags, more].concat()).ok();
        steps(&output).iter().map(|step| number(&step["loss"])).collect()
    };
    let adamw = losses(&[]);
    for flags in [
        &["--optim", "adamw"][..],
        &["--optim", "adamw_torch"],
        &["--optim", "adamw_torch_fused"],
        &["--adam_beta1", "0.9", "--adam_beta2", "0.999", "--adam_epsilon", "1e-8"],
    ] {
        assert_eq!(losses(flags), adamw, "{flags:?}");
    }
    for flags in [&["--adam-beta1", "0.5"][..], &["--adam-beta2", "0.9"], &["--adam-epsilon", "1e-2"]] {
        assert_ne!(losses(flags), adamw, "{flags:?}");
    }
    let rmsprop = losses(&["--optim", "rmsprop"]);
    assert_ne!(rmsprop, adamw);
    let config = folder.path().join("kept.toml");
    std::fs::copy(output.join("config.toml"), &config).unwrap();
    assert!(std::fs::read_to_string(&config).unwrap().contains("rmsprop-alpha = 0.99"));
    assert_eq!(losses(&["--optim", "rmsprop", "--rmsprop_alpha", "0.99"]), rmsprop);
    assert_ne!(losses(&["--optim", "rmsprop", "--rmsprop_alpha", "0.5"]), rmsprop);
    // alpha comes from the file; AdamW can still be chosen, although it does not read alpha
    assert_eq!(losses(&["--config", text(&config)]), rmsprop);
    assert_eq!(losses(&["--config", text(&config), "--optim", "adamw"]), adamw);
}
