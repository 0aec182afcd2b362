//! The loss of a run with its knobs, and other losses on the run's adapter.

use super::*;

/// If a command names the run's loss, this loss keeps the knobs of the run. Another loss uses none of them.
#[test]
fn a_loss_that_is_the_runs_has_the_runs_knobs() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let out = folder.path().join("run");
    let made = Made { loss: &["exo", "--beta", "0.4"], data: &pairs, start: None, more: &[] };
    let of_run = made.check(&out);
    let eval = |more: &[&str]| on("eval", &out, &pairs, more).ok().json();
    assert!(eval(&["--loss", "exo_pair"]) == of_run && eval(&["--loss", "exo"]) == of_run);
    assert_eq!(eval(&["--loss", "dpo"])["beta"], 0.1);
    assert_eq!(eval(&["--beta", "0.2"])["beta"], 0.2);
}

/// A preset has its own numbers and is not just another name for its loss.
#[test]
fn a_preset_is_another_loss_than_the_one_it_is_of() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let model = model();
    let eval = |run: &Path, more: &[&str]| on("eval", run, &pairs, more).ok().json();
    let of_knobs = |found: &Value| {
        ["beta", "use_weighting", "sft_weight", "f_divergence", "ld_alpha"].map(|key| found[key].clone())
    };
    let knobs = |run: &Path, loss: &str| {
        let found = eval(run, &["--loss", loss]);
        assert_eq!(found["loss"], "dpo");
        of_knobs(&found)
    };
    let plain = folder.path().join("plain");
    Made { loss: &["dpo"], data: &pairs, start: None, more: &[] }.check(&plain);
    let alone = |loss: &str| {
        let flags = ["eval", "--model", text(&model), "--data", text(&pairs), "--json", "--loss", loss];
        of_knobs(&align(&flags).ok().json())
    };
    for preset in ["wpo", "rpo", "f_js", "ld_dpo"] {
        assert_eq!(knobs(&plain, preset), alone(preset), "{preset}");
    }
    for (preset, more) in [("wpo", &[][..]), ("cdpo", &["--label-smoothing", "0.2"])] {
        let run = folder.path().join(preset);
        let made = Made { loss: &[preset], data: &pairs, start: None, more };
        let of_run = made.check(&run);
        assert!(fs::read_to_string(run.join("config.toml")).unwrap().contains(&format!("loss = \"{preset}\"")));
        assert_eq!(knobs(&run, "dpo"), alone("dpo"), "{preset}");
        assert_eq!(eval(&run, &["--loss", preset]), of_run, "{preset}");
        // the saved options repeat the run
        let again = folder.path().join(format!("{preset}-again"));
        align(&["train", "--config", text(&run.join("config.toml")), "--output", text(&again)]).ok();
        assert!(weights(&run) == weights(&again), "{preset}");
    }
}

/// An evaluation with the loss of a reward model does not use the run's temperature of log-probs, which has no meaning for it.
#[test]
fn a_temperature_of_the_run_is_not_taken_for_a_loss_of_rewards() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run, model) = (texts(folder.path()), folder.path().join("run"), model());
    Made { loss: &["dpo"], data: &data, start: None, more: &["--logp-temperature", "0.7"] }.train(&run);
    let eval = ["eval", "--model", text(&model), "--adapter", text(&run), "--data", text(&data), "--loss", "rm_bt"];
    let said = align(&eval).stderr;
    assert!(!said.contains("leave the flag out") && !said.contains("logp-temperature"), "{said}");
}
