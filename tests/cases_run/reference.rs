//! The reference of a run: it is kept in the run's folder, and checked before it is used again.

use super::*;

/// A line of stderr and a key of the JSON name the reference, which is checked against the run's.
#[test]
fn the_reference_of_a_run_is_kept_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let (start, out) = (folder.path().join("start"), folder.path().join("run"));
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&start);
    let made = Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &[] };
    made.train(&out);
    let score = |more: &[&str]| on("score", &out, &pairs, more);
    let by_run = score(&[]).ok();
    assert!(by_run.stderr.contains("reference: the model with"), "{}", by_run.stderr);
    let by_flag = score(&["--reference", text(&start)]).ok();
    assert!(by_run.stdout == by_flag.stdout, "the start is still what it was");
    let hash = by_run.json_lines()[0]["reference"].as_str().unwrap().to_owned();
    assert!(hash.len() == 64 && by_run.json_lines().iter().all(|row| row["reference"] == hash.as_str()));
    let base = score(&["--reference", "base"]).ok();
    assert!(base.json_lines()[0]["reference"] == "base" && base.stdout != by_run.stdout);
    // if the run's copy is gone, the starting adapter replaces it, unless the starting adapter has changed
    let kept = out.join("reference");
    fs::remove_dir_all(&kept).unwrap();
    assert!(score(&[]).ok().stdout == by_run.stdout);
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4", "--overwrite", "--seed", "7"] }
        .train(&start);
    let changed = score(&[]);
    changed.refused(3, &["gone or was changed", &hash]);
    fs::remove_dir_all(&start).unwrap();
    assert_eq!(score(&[]).code, Some(3));
    score(&["--reference", "base"]).ok();
    // a run of an earlier version, which wrote no run_state.json
    fs::remove_file(out.join("run_state.json")).unwrap();
    assert_eq!(score(&[]).code, Some(3), "its adapter is gone");
    // the run's own copy takes precedence over the adapter that its options name
    Made { loss: &["sft"], data: &pairs, start: None, more: &["--lora-rank", "4"] }.train(&kept);
    let run = score(&[]).ok();
    assert!(run.stderr.contains("has no run_state.json") && run.stderr.contains("run/reference"), "{}", run.stderr);
    assert!(run.stdout == by_run.stdout, "made like the first");
}

/// The record of a run is not used for an adapter that came into its folder later.
#[test]
fn the_reference_of_another_adapter_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let [start, out, other] = ["start", "run", "other"].map(|name| folder.path().join(name));
    Made { loss: &["sft"], data: &pairs, start: None, more: &[] }.train(&start);
    Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &[] }.train(&out);
    Made { loss: &["dpo"], data: &pairs, start: None, more: &["--seed", "9"] }.train(&other);
    fs::copy(other.join("adapter_model.safetensors"), out.join("adapter_model.safetensors")).unwrap();
    for command in ["score", "eval"] {
        let run = on(command, &out, &pairs, &[]).ok();
        assert!(run.stderr.contains("run_state.json is about another adapter"), "{}", run.stderr);
        assert_eq!(run.json_lines()[0]["reference"], "base", "{command}");
    }
}

/// A run that overwrites another one removes the reference and the template of that one.
#[test]
fn a_run_that_overwrites_leaves_no_reference_of_the_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let (start, out) = (folder.path().join("start"), folder.path().join("run"));
    Made { loss: &["sft"], data: &pairs, start: None, more: &[] }.train(&start);
    let made = Made { loss: &["dpo"], data: &pairs, start: Some(&start), more: &["--overwrite"] };
    made.train(&out);
    made.train(&out);
    assert!(out.join("reference/adapter_model.safetensors").exists());
    let base = Made { start: None, ..made };
    assert_eq!(base.check(&out)["reference"], "base");
    assert!(!out.join("reference").exists());
}
