//! Folders of runs whose adapter is not the one that the run wrote: it is of another run or of another program, or was edited.

use super::*;
use crate::align::committed_goldens;

/// The running statistics of a run apply only to the adapter that the run wrote. A damaged run_state.json is refused.
#[test]
fn running_statistics_are_those_of_the_adapter_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = case_pairs();
    let (out, other) = (folder.path().join("run"), folder.path().join("other"));
    let made = Made { loss: &["bco"], data: &pairs, start: None, more: &["--weight-decay", "0.1"] };
    made.check(&out);
    Made { more: &["--seed", "9"], ..made }.train(&other);
    fs::copy(other.join("adapter_model.safetensors"), out.join("adapter_model.safetensors")).unwrap();
    let run = made.evaluate(&out);
    assert!(run.stderr.contains("is about another adapter"), "{}", run.stderr);
    fs::write(out.join("run_state.json"), "{").unwrap();
    let model = model();
    let run = align(&["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs)]);
    run.refused(3, &["run_state.json"]);
    assert!(run.stderr.contains("remove it to go on without it"), "{}", run.stderr);
}

/// A file named config.toml may belong to any program.
#[test]
fn a_config_of_another_program_beside_an_adapter_is_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    copy_folder(&committed_goldens().join("tiny-llama31/adapter"), &adapter);
    fs::write(adapter.join("config.toml"), "chat = true\nmax-length = 3\n").unwrap();
    fs::copy(case_template(), adapter.join("chat_template.jinja")).unwrap();
    let (model, data) = (model(), texts(folder.path()));
    let score = ["score", "--model", text(&model), "--data", text(&data), "--adapter", text(&adapter)];
    let said = align(&score).ok().stderr;
    assert!(!said.contains("max-length 3") && said.contains("is another chat template than the model's"), "{said}");
}

/// A smaller alpha weakens an adapter. Commands report an edited alpha. Only `eval` refuses it, because its numbers must be those
/// of the run.
#[test]
fn an_alpha_that_was_edited_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (data, run, model) = (texts(folder.path()), folder.path().join("run"), model());
    Made { loss: &["dpo"], data: &data, start: None, more: &["--lora-alpha", "16"] }.train(&run);
    edit_json(&run.join("adapter_config.json"), |config| config["lora_alpha"] = json!(8));
    let (merged, next) = (folder.path().join("merged"), folder.path().join("next"));
    let of_data = ["--data", text(&data)];
    let rest = ["--model", text(&model), "--adapter", text(&run)];
    for command in [
        &["generate", "--prompt", "Hi", "--max-new-tokens", "1"][..],
        &["merge", "--output", text(&merged)],
        &[&["train", "--max-steps", "1", "--output", text(&next)][..], &of_data].concat(),
        &[&["score"][..], &of_data].concat(),
    ] {
        let said = align(&[command, &rest].concat()).ok().stderr;
        let what =
            "`lora-alpha` is 16, but adapter_config.json beside it says 8: the adapter is not as the run left it";
        assert!(said.contains("warning: ") && said.contains(what), "{command:?}: {said}");
    }
    let eval = align(&[&["eval"][..], &of_data, &rest].concat());
    eval.refused(3, &["move config.toml away"]);
    fs::rename(run.join("config.toml"), folder.path().join("config.toml")).unwrap();
    align(&[&["eval"][..], &of_data, &rest].concat()).ok();
}
