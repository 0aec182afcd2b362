//! Runs of `train`: what is refused before they start, where their files go, and which of a row's answers they train on.

use crate::align::{
    Run, align, command, committed_goldens, golden_model, lines_in, number, read_lines, text, write_lines,
};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;

fn pairs(n: usize) -> Vec<Value> {
    read_lines(&committed_goldens().join("pairs.jsonl")).into_iter().take(n).collect()
}

/// Runs a command on the tiny model and some data.
fn on(command: &str, data: &Path, more: &[&str]) -> Run {
    let model = golden_model("tiny-llama");
    align(&[&[command, "--model", text(&model), "--data", text(data)], more].concat())
}

/// Writes the rows into `folder` and trains the tiny model on them. `more` may replace `--output` and `--max-length`.
fn train(folder: &Path, rows: &[Value], more: &[&str]) -> Run {
    let (data, output, model) = (folder.join("data.jsonl"), folder.join("out"), golden_model("tiny-llama"));
    write_lines(&data, rows);
    let mut flags =
        vec!["train", "--model", text(&model), "--data", text(&data), "--precision", "f32", "--threads", "2"];
    for (flag, value) in [("--output", text(&output)), ("--max-length", "256")] {
        if !more.contains(&flag) {
            flags.extend([flag, value]);
        }
    }
    align(&[&flags[..], more].concat())
}

#[test]
fn runs_that_start_together_have_a_folder_each() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = command(&["train", "--demo", "--max-steps", "1", "--threads", "1"]);
        command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for child in [start(), start()] {
        Run::of(child.wait_with_output().unwrap()).ok();
    }
    for run in ["runs/dpo-1", "runs/dpo-2"] {
        assert!(folder.path().join(run).join("adapter_model.safetensors").exists(), "{run}");
    }
    assert_eq!(fs::read_dir(folder.path().join("runs")).unwrap().count(), 2);
}

#[test]
fn a_run_that_ends_at_its_first_step_can_be_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = pairs(8);
    rows.iter_mut().for_each(|row| row["weight"] = 1e308.into());
    for _ in 0..2 {
        let run = train(folder.path(), &rows, &[]);
        assert_eq!(run.code, Some(5), "{}", run.stderr);
        assert!(!folder.path().join("out").exists(), "nothing is left");
    }
    // files that were in the folder before stay
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let run = train(folder.path(), &rows, &["--overwrite"]);
    run.refused(5, &["until the run has ended its files are in"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn the_largest_seed_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::MAX.to_string();
    train(folder.path(), &pairs(4), &["--seed", &seed, "--schedule", "cosine"]).ok();
    let config = folder.path().join("out/config.toml");
    let written = fs::read_to_string(&config).unwrap();
    assert!(written.contains(&format!("seed = \"{seed}\"")) && written.contains("schedule = \"cosine\""), "{written}");
    let again = folder.path().join("again");
    align(&["train", "--config", text(&config), "--output", text(&again)]).ok();
    let adapter = |folder: &Path| fs::read(folder.join("adapter_model.safetensors")).unwrap();
    assert!(adapter(&again) == adapter(&folder.path().join("out")), "the same run");
}

/// An options file names its data by a relative path, and the name of its folder is not UTF-8.
#[cfg(target_os = "linux")]
#[test]
fn a_path_that_is_no_text_is_refused_and_not_changed() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"odd-\xFF"));
    fs::create_dir(&odd).unwrap();
    write_lines(&odd.join("data.jsonl"), &pairs(4));
    fs::write(odd.join("run.toml"), "data = \"data.jsonl\"\nmax-length = 128\nallow-drops = true\n").unwrap();
    let out = folder.path().join("out");
    let model = golden_model("tiny-llama");
    let arguments =
        ["train", "--model", text(&model), "--output", text(&out), "--config"].map(std::ffi::OsString::from);
    let run = align(&[&arguments[..], &[odd.join("run.toml").into_os_string()]].concat());
    run.refused(2, &["is not UTF-8"]);
    assert!(!out.exists());
}

#[test]
fn a_missing_column_is_found_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = pairs(12);
    for (i, row) in rows.iter_mut().enumerate().filter(|(i, _)| *i != 10) {
        row["prob_win_chosen"] = (0.6 + 0.01 * i as f64).into();
        row["prob_win_rejected"] = 0.3.into();
    }
    let run = train(folder.path(), &rows, &["--loss", "sppo", "--batch-size", "2", "--no-shuffle"]);
    run.refused(3, &["data.jsonl:11: row 10", "prob_win_chosen"]);
    assert!(!run.stderr.contains("step 1"), "{}", run.stderr);
    assert!(!folder.path().join("out").exists());
    let data = folder.path().join("data.jsonl");
    let eval = on("eval", &data, &["--loss", "sppo"]);
    eval.refused(3, &["data.jsonl:11: row 10"]);
}

#[test]
fn the_names_of_columns_are_those_of_the_rows_alone() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = (pairs(4).iter())
        .map(|row| json!({"q": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}))
        .collect();
    let texts = folder.path().join("texts.jsonl");
    write_lines(
        &texts,
        &[json!({"prompt": "the sea", "completion": " is wide"}), json!({"prompt": "a", "completion": " b"})],
    );
    let flags = ["--loss", "max_po", "--eta", "0.1", "--columns", "prompt=q", "--reference-data", text(&texts)];
    let run = train(folder.path(), &rows, &flags).ok();
    assert!(run.stderr.contains("reference data"), "{}", run.stderr);
    let eval = folder.path().join("data.jsonl");
    let evaluated =
        train(folder.path(), &rows, &[&flags[..], &["--overwrite", "--eval-data", text(&eval)]].concat()).ok();
    assert_eq!(evaluated.stderr.matches("leave its term for --reference-data out").count(), 1, "{}", evaluated.stderr);
}

#[test]
fn rejects_are_written_where_every_row_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let (rejects, rows) =
        (folder.path().join("rejects.jsonl"), [json!({"chosen": null, "rejected": " r"}), json!({"chosen": 1})]);
    let run = train(folder.path(), &rows, &["--on-bad-row", "skip", "--rejects", text(&rejects)]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert_eq!(read_lines(&rejects).len(), 2);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn flags_without_a_use_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let eval_steps: &[&str] = &["--demo", "--loss", "exo_rw", "--eval-steps", "2"];
    let cases: [(&[&str], &str); 4] = [
        (&["--demo", "--loss", "simpo", "--reference", "base"], "loss simpo reads no reference"),
        (&["--demo", "--loss", "rm_bt", "--reference", "base"], "loss rm_bt reads no reference"),
        (&["--demo", "--max-completions", "2"], "reads no scored answers"),
        (eval_steps, "--eval-steps needs held-out rows"),
    ];
    for (flags, words) in cases {
        let output = folder.path().join("out");
        let run = align(&[&["train", "--output", text(&output)][..], flags].concat());
        assert_eq!(run.code, Some(2), "{flags:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{flags:?}: {}", run.stderr);
        assert!(!output.exists());
    }
    let run = train(folder.path(), &pairs(4), &["--loss", "simpo", "--reference-cache", "memory"]).ok();
    assert!(run.stderr.contains("--reference-cache is not used: loss simpo"), "{}", run.stderr);
    assert!(run.stderr.contains("reference: none"), "{}", run.stderr);
}

#[test]
fn one_row_for_a_loss_that_compares_rows_is_a_fault_of_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"prompt": "p", "completion": " c", "label": true});
    let alone = lines_in(folder.path(), "alone.jsonl", std::slice::from_ref(&row));
    let eval = train(folder.path(), &[row.clone(), row.clone()], &["--loss", "kto", "--eval-data", text(&alone)]);
    assert_eq!(eval.code, Some(3), "{}", eval.stderr);
    assert!(eval.stderr.contains("one usable row") && !folder.path().join("out").exists(), "{}", eval.stderr);
    let run = train(folder.path(), &[row], &["--loss", "kto"]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("one usable row") && !run.stderr.contains("--batch-size"), "{}", run.stderr);
    let data = folder.path().join("data.jsonl");
    let eval = on("eval", &data, &["--loss", "kto"]);
    assert_eq!(eval.code, Some(3), "{}", eval.stderr);
}

#[test]
fn an_evaluation_that_is_not_finite_speaks_of_rows_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "data.jsonl", &pairs(4));
    let flags = ["--loss", "ipo", "--beta", "1e-200", "--max-length", "256"];
    let run = on("eval", &data, &flags);
    run.refused(5, &["is not finite; rows of the batch: row 0"]);
    assert!(!run.stderr.contains("step ") && !run.stderr.contains("--learning-rate"), "{}", run.stderr);
}

#[test]
fn a_score_that_is_not_finite_ends_the_command() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &pairs(4), &["--max-steps", "1"]).ok();
    // values that are finite but whose products are not
    let path = folder.path().join("out/adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    bytes[header..].chunks_exact_mut(4).for_each(|number| number.copy_from_slice(&1e30f32.to_le_bytes()));
    fs::write(&path, bytes).unwrap();
    let (data, adapter) = (folder.path().join("data.jsonl"), folder.path().join("out"));
    let run = on("score", &data, &["--adapter", text(&adapter), "--json"]);
    assert_eq!(run.code, Some(5), "{}{}", run.stderr, run.stdout);
    assert!(run.stderr.contains("error: row ") && run.stderr.contains("the model gives"), "{}", run.stderr);
    assert!(!run.stdout.contains("null"), "{}", run.stdout);
}

/// Scored answers have the same log-probs whether their row fits into one pass or is cut into pieces.
#[test]
fn score_cuts_rows_that_do_not_fit_a_pass() {
    let folder = tempfile::tempdir().unwrap();
    let completions: Vec<String> = (1..9).map(|n| "and so on ".repeat(n)).collect();
    let rewards: Vec<f64> = (1..9).map(f64::from).collect();
    let row = json!({"prompt": "p", "completions": completions, "rewards": rewards});
    let data = lines_in(folder.path(), "scored.jsonl", &[row]);
    let score = |tokens: &str| {
        let flags = ["--json", "--per-token", "--precision", "f32", "--reference-cache", "off"];
        on("score", &data, &[&["--micro-batch-tokens", tokens], &flags[..]].concat())
    };
    let whole = score("4096").ok().json();
    let cut = score("60").ok().json();
    let logps = |row: &Value| -> Vec<f64> {
        row["completions"].as_array().unwrap().iter().map(|a| number(&a["logps"])).collect()
    };
    assert_eq!(logps(&whole).len(), 8);
    for (one, other) in logps(&whole).into_iter().zip(logps(&cut)) {
        assert!((one - other).abs() <= 1e-5 * one.abs(), "{one} {other}");
    }
}

/// Each epoch uses other answers. Another run with the same seed uses the same answers. A row that has no more answers than asked
/// for uses all of them.
#[test]
fn an_epoch_takes_some_of_the_scored_answers() {
    let folder = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        let completions: Vec<String> = (0..5).map(|n| format!(" answer {n} of {i}")).collect();
        json!({"prompt": format!("question {i}"), "completions": completions, "rewards": [0.0, 1.0, 2.0, 3.0, 4.0]})
    };
    let rows: Vec<Value> = (0..8).map(row).collect();
    let run = |name: &str, flags: &[&str]| {
        let output = folder.path().join(name);
        let common = ["--loss", "exo_rw", "--epochs", "3", "--no-shuffle", "--output", text(&output)];
        train(folder.path(), &rows, &[&common[..], flags].concat()).ok();
        read_lines(&output.join("metrics.jsonl"))
    };
    let loss = |lines: &[Value]| -> Vec<f64> { lines.iter().filter_map(|line| line["loss"].as_f64()).collect() };
    let tokens = |lines: &[Value]| lines.iter().filter_map(|line| line["num_tokens"].as_u64()).max().unwrap();
    let rate = ["--learning-rate", "0"];
    let some = run("some", &[&["--max-completions", "2"][..], &rate].concat());
    let again = run("again", &[&["--max-completions", "2"][..], &rate].concat());
    assert_eq!(loss(&some), loss(&again));
    let all = run("all", &rate);
    let losses = loss(&all);
    assert!(
        losses.iter().all(|one| *one == losses[0]),
        "without a step and with all answers epochs are alike: {losses:?}"
    );
    assert!(tokens(&some) * 2 < tokens(&all), "two of five answers");
    assert_ne!(loss(&some)[0], losses[0]);
    // log-probs of chosen answers differ between epochs, so the answers differ. Rewards cannot show this: they are 0, since at
    // a learning rate of 0 the adapter stays equal to the reference
    let logps: Vec<f64> = some.iter().filter_map(|line| line["logps/chosen"].as_f64()).collect();
    assert!(logps[0] != logps[1] && logps[1] != logps[2], "{logps:?}");
    let many = run("many", &[&["--max-completions", "9"][..], &rate].concat());
    assert_eq!(loss(&many), losses, "no row has so many");
    let config = fs::read_to_string(folder.path().join("some/config.toml")).unwrap();
    assert!(config.contains("max-completions = 2"), "{config}");
}
