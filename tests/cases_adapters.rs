//! Adapters and model folders from practice: tensor names of other programs, Gemma 3 with a vision tower, an adapter in the
//! model's folder, an adapter that was trained on another base.

use crate::align::{
    Run, align, committed_goldens, copy_folder, edit_json, model_case, number, read_json, text, write_lines,
};
use align_engine::weights::{Dtype, SafetensorsFile, SafetensorsWriter, TensorSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

fn golden(name: &str) -> PathBuf {
    committed_goldens().join(name)
}

fn gemma() -> PathBuf {
    model_case("gemma3-wrapper-adapters")
}

/// Writes a file of two pairs for the tiny models.
fn rows(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let pair =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    write_lines(
        &path,
        &[
            pair("A good cup of tea?", " Boil the water, then warm the pot.", " No."),
            pair("The path to the harbour", " was wet after the rain.", " is a fish."),
        ],
    );
    path
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
struct Tensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Dtype::BF16 => {
                let widen = |bytes: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
                self.bytes.as_chunks::<2>().0.iter().map(|&bytes| widen(bytes)).collect()
            }
            other => panic!("{other}"),
        }
    }
}

fn tensors(path: &Path) -> Vec<Tensor> {
    let file = SafetensorsFile::open(path).unwrap();
    let tensor = |tensor: &align_engine::weights::TensorInfo| Tensor {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        shape: tensor.shape.clone(),
        bytes: file.data(tensor).to_vec(),
    };
    file.tensors().iter().map(tensor).collect()
}

fn write(path: &Path, tensors: &[Tensor]) {
    let spec =
        |tensor: &Tensor| TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(path, &metadata, &specs).unwrap();
    tensors.iter().for_each(|tensor| writer.write(&tensor.name, &tensor.bytes).unwrap());
    writer.finish().unwrap();
}

/// Copies an adapter to `to` and renames its tensors with `name`.
fn renamed(adapter: &Path, to: &Path, name: impl Fn(&str) -> String) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    fs::copy(adapter.join(CONFIG), to.join(CONFIG)).unwrap();
    let mut all = tensors(&adapter.join(WEIGHTS));
    all.iter_mut().for_each(|tensor| tensor.name = name(&tensor.name));
    write(&to.join(WEIGHTS), &all);
    to.to_owned()
}

/// Copies an adapter to `to` and sets keys of its configuration.
fn with_keys(adapter: &Path, to: &Path, keys: &Value) -> PathBuf {
    copy_folder(adapter, to);
    edit_json(&to.join(CONFIG), |config| {
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
    });
    to.to_owned()
}

fn score(model: &Path, more: &[&str], rows: &Path) -> Run {
    let fixed = ["score", "--model", text(model), "--data", text(rows), "--json", "--precision", "f32"];
    align(&[&fixed[..], more].concat())
}

fn with_default(name: &str) -> String {
    name.replace(".weight", ".default.weight")
}

#[test]
fn the_adapters_name_in_the_names_of_its_tensors() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    for family in ["tiny-llama", "tiny-gemma3", "tiny-phi3"] {
        let (model, plain) = (golden(family).join("model"), golden(family).join("adapter"));
        let expected = score(&model, &["--adapter", text(&plain)], &rows).ok().stdout;
        let all = renamed(&plain, &home.path().join(family), with_default);
        // only the A matrices have the adapter's name: PEFT reads such a file too
        let some = |name: &str| if name.contains("lora_A") { with_default(name) } else { name.to_owned() };
        let some = renamed(&plain, &home.path().join(format!("{family}-some")), some);
        for adapter in [&all, &some] {
            let run = score(&model, &["--adapter", text(adapter)], &rows).ok();
            assert_eq!(run.stdout, expected, "{family}");
        }
        // only the numbers are compared, since a line also names the reference
        let of_reference = |reference: &Path| {
            let lines = score(&model, &["--reference", text(reference)], &rows).ok().json_lines();
            lines.into_iter().map(|line| line["chosen"]["reference_logps"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(of_reference(&all), of_reference(&plain), "{family}");
    }
    let (model, plain) = (golden("tiny-llama/model"), golden("tiny-llama/adapter"));
    let named = home.path().join("tiny-llama");
    let merged = |adapter: &Path, to: &str| {
        let output = home.path().join(to);
        align(&["merge", "--model", text(&model), "--adapter", text(adapter), "--output", text(&output)]).ok();
        fs::read_dir(&output)
            .unwrap()
            .map(|e| e.unwrap().path())
            .map(|p| (p.file_name().unwrap().to_owned(), fs::read(p).unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    assert!(merged(&plain, "merged") == merged(&named, "merged-named"));
    let generated = |adapter: &Path| {
        let prompt = ["--prompt", "A good cup of", "--max-new-tokens", "8", "--json", "--precision", "f32"];
        align(&[&["generate", "--model", text(&model), "--adapter", text(adapter)][..], &prompt[..]].concat())
            .ok()
            .stdout
    };
    assert_eq!(generated(&plain), generated(&named));
    // an adapter that is trained further is written with the usual names
    let output = home.path().join("run");
    let run =
        ["train", "--model", text(&model), "--adapter", text(&named), "--data", text(&rows), "--output", text(&output)];
    align(&[&run[..], &["--max-steps", "1", "--precision", "f32"]].concat()).ok();
    let names = |path: &Path| tensors(path).into_iter().map(|tensor| tensor.name).collect::<Vec<_>>();
    assert_eq!(names(&output.join(WEIGHTS)), names(&plain.join(WEIGHTS)));
}

#[test]
fn names_that_peft_leaves_out_are_refused_with_the_part_that_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    type Rename = fn(&str) -> String;
    let table: [(&str, Rename, &[&str]); 9] = [
        (
            "peft twice",
            |name| name.replacen("base_model.model.", "base_model.model.base_model.model.", 1),
            &["`base_model.model.` does not belong in it"],
        ),
        ("compiled", |name| format!("_orig_mod.{name}"), &["`_orig_mod.` does not belong in it"]),
        (
            "compiled inside",
            |name| name.replacen("base_model.model.", "base_model.model._orig_mod.", 1),
            &["`_orig_mod.`"],
        ),
        (
            "checkpointed",
            |name| name.replacen(".mlp.", "._checkpoint_wrapped_module.mlp.", 1),
            &["`_checkpoint_wrapped_module.` does not belong in it"],
        ),
        ("distributed", |name| format!("module.{name}"), &["`module.` does not belong in it"]),
        ("no prefix", |name| name.replacen("base_model.model.", "", 1), &["`base_model.model.` is missing"]),
        ("no model", |name| name.replacen("model.model.", "model.", 1), &["`model.` is missing"]),
        ("another adapter", |name| name.replace(".weight", ".policy.weight"), &["`policy`", "`default`"]),
        (
            "of a vision model",
            |name| name.replacen(".layers.", ".language_model.layers.", 1),
            &["`language_model.` does not belong in it"],
        ),
    ];
    let model = golden("tiny-llama/model");
    for (what, rename, says) in table {
        let adapter = renamed(&golden("tiny-llama/adapter"), &home.path().join(what), rename);
        let run = score(&model, &["--adapter", text(&adapter)], &rows);
        assert_eq!(run.code, Some(3), "{what}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{what}");
        for words in says.iter().chain(&["PEFT", WEIGHTS]) {
            assert!(run.stderr.contains(words), "{what}: {words} is not in {}", run.stderr);
        }
        assert!(!run.stderr.contains("another model"), "{what}: {}", run.stderr);
    }
    // one matrix under both spellings of its name
    let twice = home.path().join("twice");
    copy_folder(&golden("tiny-llama/adapter"), &twice);
    let mut all = tensors(&twice.join(WEIGHTS));
    let again = Tensor { name: with_default(&all[0].name), ..all[0].clone() };
    all.push(again);
    write(&twice.join(WEIGHTS), &all);
    let run = score(&model, &["--adapter", text(&twice)], &rows);
    run.refused(3, &["are the same matrix"]);
}

/// Returns the name that a tensor of an adapter for Gemma 3 with a vision tower had before transformers 4.52.
fn before_4_52(name: &str) -> String {
    name.replace("base_model.model.model.language_model.", "base_model.model.language_model.model.")
        .replace("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model.")
}

/// Returns the name that a tensor of such an adapter had from transformers 4.52 to 4.57.
fn before_5(name: &str) -> String {
    name.replace(".vision_tower.", ".vision_tower.vision_model.")
}

fn logps(run: &Run) -> Vec<[f64; 2]> {
    run.json_lines().iter().map(|row| ["chosen", "rejected"].map(|answer| number(&row[answer]["logps"]))).collect()
}

#[test]
fn gemma_3_adapters_give_the_log_probs_of_peft() {
    let home = tempfile::tempdir().unwrap();
    let (model, rows) = (gemma().join("model"), gemma().join("rows.jsonl"));
    let expected = read_json(&gemma().join("expected.json"));
    let list = gemma().join("adapter-list-targets");
    let is_number = |part: &&str| part.parse::<usize>().is_ok();
    let variants: [(&str, PathBuf, usize); 8] = [
        ("adapter-old-keys", gemma().join("adapter-old-keys"), 0),
        ("adapter-list-targets", list.clone(), 6),
        ("adapter-text-only", gemma().join("adapter-text-only"), 0),
        ("adapter-list-targets", renamed(&list, &home.path().join("before-4.52"), before_4_52), 6),
        ("adapter-list-targets", renamed(&list, &home.path().join("before-5"), before_5), 6),
        (
            "adapter-list-targets",
            renamed(&list, &home.path().join("named"), |name| with_default(&before_4_52(name))),
            6,
        ),
        (
            "adapter-list-targets",
            with_keys(&list, &home.path().join("all-linear"), &json!({"target_modules": "all-linear"})),
            6,
        ),
        // unsloth's regular expression for the target modules of a vision model
        (
            "adapter-text-only",
            with_keys(
                &gemma().join("adapter-old-keys"),
                &home.path().join("expression"),
                &json!({"target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp\.(?:up_proj))"}),
            ),
            0,
        ),
    ];
    for (name, adapter, not_run) in variants {
        let run = score(&model, &["--adapter", text(&adapter)], &rows).ok();
        for (row, (found, expected)) in logps(&run).iter().zip(expected[name].as_array().unwrap()).enumerate() {
            for (answer, found) in found.iter().enumerate() {
                let expected = number(&expected[answer]);
                // each number is a sum over 40 or more tokens, whose log-probs are f32
                assert!((found - expected).abs() < 1e-3, "{}, row {row}: {found}, {expected}", adapter.display());
            }
        }
        let said: Vec<&str> = run.stderr.lines().filter(|line| line.contains("does not run")).collect();
        assert_eq!(said.len(), usize::from(not_run > 0), "{}", run.stderr);
        if let [line] = said[..] {
            assert!(line.contains("adapter: 6 of the 48 updates"), "{line}");
            assert_eq!(line.split(' ').filter(is_number).count(), 2, "{line}: counts, and no names");
        }
        let as_reference = score(&model, &["--reference", text(&adapter)], &rows).ok();
        let own = as_reference.json_lines();
        assert_eq!(own[0]["chosen"]["reference_logps"], run.json_lines()[0]["chosen"]["logps"]);
    }
}

#[test]
fn a_gemma_3_adapter_without_a_fitting_decoder_part_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (model, rows) = (gemma().join("model"), gemma().join("rows.jsonl"));
    let list = gemma().join("adapter-list-targets");
    let vision_alone = home.path().join("vision-alone");
    copy_folder(&list, &vision_alone);
    let vision = |tensor: &Tensor| tensor.name.contains("vision_tower");
    write(&vision_alone.join(WEIGHTS), &tensors(&list.join(WEIGHTS)).into_iter().filter(vision).collect::<Vec<_>>());
    let half = home.path().join("half");
    copy_folder(&list, &half);
    let other_half = |tensor: &Tensor| !(tensor.name.contains("vision_tower") && tensor.name.contains("lora_B"));
    write(&half.join(WEIGHTS), &tensors(&list.join(WEIGHTS)).into_iter().filter(other_half).collect::<Vec<_>>());
    // one update of the vision tower under its current and its older name
    let twice = home.path().join("twice");
    copy_folder(&list, &twice);
    let mut all = tensors(&list.join(WEIGHTS));
    let again: Vec<Tensor> = all.iter().filter(|tensor| vision(tensor)).cloned().collect();
    all.extend(again.into_iter().take(2).map(|tensor| Tensor { name: before_4_52(&tensor.name), ..tensor }));
    write(&twice.join(WEIGHTS), &all);
    let layers = |name: &str| name.replace("language_model.layers.5.", "language_model.layers.9.");
    for (adapter, says) in [
        (vision_alone, "42 modules that adapter_config.json targets have no tensors"),
        (
            half,
            "its partner `base_model.model.model.vision_tower.encoder.layers.0.self_attn.k_proj.lora_B.weight` is not",
        ),
        (twice, "are the same matrix"),
        (renamed(&list, &home.path().join("layers"), layers), "tensors are for modules that the model does not have"),
        (
            renamed(&list, &home.path().join("text"), |name| {
                name.replace("model.language_model.layers", "model.layers")
            }),
            "`language_model.` is missing",
        ),
        (
            with_keys(&list, &home.path().join("rank"), &json!({"rank_pattern": {".*vision.*q_proj": 8}})),
            "adapter_config.json says rank 8",
        ),
    ] {
        let run = score(&model, &["--adapter", text(&adapter)], &rows);
        assert_eq!(run.code, Some(3), "{says}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{says}: {}", run.stderr);
    }
}

#[test]
fn merging_adds_the_updates_of_a_vision_tower_to_its_weights() {
    let home = tempfile::tempdir().unwrap();
    let model = gemma().join("model");
    let list = gemma().join("adapter-list-targets");
    let base: BTreeMap<String, Tensor> =
        tensors(&model.join("model.safetensors")).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let updates: BTreeMap<String, Tensor> =
        tensors(&list.join(WEIGHTS)).into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    for (name, adapter) in [
        ("new", list.clone()),
        ("before-4.52", renamed(&list, &home.path().join("before-4.52"), before_4_52)),
        ("before-5", renamed(&list, &home.path().join("before-5"), before_5)),
    ] {
        let output = home.path().join(format!("merged-{name}"));
        let run =
            align(&["merge", "--model", text(&model), "--adapter", text(&adapter), "--output", text(&output)]).ok();
        assert!(run.stderr.contains("48 matrices"), "{}", run.stderr);
        assert!(run.stderr.contains("6 of them are for parts that this program does not run"), "{}", run.stderr);
        let mut changed = 0;
        for after in tensors(&output.join("model.safetensors")) {
            let before = &base[&after.name];
            changed += usize::from(after.bytes != before.bytes);
            let Some(module) = after.name.strip_suffix(".weight").filter(|name| name.contains("vision_tower")) else {
                continue;
            };
            let half = |half| updates.get(&format!("base_model.model.model.{module}.lora_{half}.weight"));
            let (Some(a), Some(b)) = (half("A"), half("B")) else {
                assert!(after.bytes == before.bytes, "{} has no update", after.name);
                continue;
            };
            let [out_features, in_features] = before.shape[..] else { panic!("{:?}", before.shape) };
            let (a, b, w, merged) = (a.values(), b.values(), before.values(), after.values());
            for (row, col) in (0..out_features).flat_map(|row| (0..in_features).map(move |col| (row, col))) {
                let delta: f64 = (0..4).map(|r| f64::from(b[row * 4 + r]) * f64::from(a[r * in_features + col])).sum();
                let exact = f64::from(w[row * in_features + col]) + 2.0 * delta; // alpha 8, rank 4
                let found = f64::from(merged[row * in_features + col]);
                // bf16 rounds once, to 8 bits; the error of four summed f32 products is far smaller
                assert!(
                    (found - exact).abs() <= exact.abs() * 2f64.powi(-8) + 1e-6,
                    "{}: {found}, {exact}",
                    after.name
                );
            }
        }
        assert_eq!(changed, 48, "{name}");
    }
    // an update of a tensor that the base lacks
    let elsewhere =
        renamed(&list, &home.path().join("elsewhere"), |name| name.replace("encoder.layers.1.", "encoder.layers.7."));
    let output = home.path().join("merged");
    let run = align(&["merge", "--model", text(&model), "--adapter", text(&elsewhere), "--output", text(&output)]);
    run.refused(3, &["encoder.layers.7.self_attn.k_proj.lora_B.weight"]);
    assert!(!output.exists());
}

#[test]
fn training_keeps_the_updates_of_a_vision_tower() {
    let home = tempfile::tempdir().unwrap();
    let (model, rows) = (gemma().join("model"), gemma().join("rows.jsonl"));
    let list = gemma().join("adapter-list-targets");
    for (name, adapter) in [("new", list.clone()), ("old", renamed(&list, &home.path().join("old"), before_4_52))] {
        let output = home.path().join(format!("run-{name}"));
        let run = ["train", "--model", text(&model), "--adapter", text(&adapter), "--data", text(&rows)];
        let more = ["--output", text(&output), "--max-steps", "1", "--precision", "f32", "--learning-rate", "1e-3"];
        let run = align(&[&run[..], &more[..]].concat()).ok();
        assert!(run.stderr.contains("adapter: 6 of the 48 updates"), "{}", run.stderr);
        let vision = |path: &Path| {
            tensors(path).into_iter().filter(|tensor| tensor.name.contains("vision_tower")).collect::<Vec<_>>()
        };
        assert_eq!(vision(&output.join(WEIGHTS)), vision(&adapter.join(WEIGHTS)), "the same names and bits");
        assert_eq!(vision(&output.join(WEIGHTS)).len(), 12);
        // this program reads the new adapter, and the decoder has learned
        let (after, before) =
            (score(&model, &["--adapter", text(&output)], &rows), score(&model, &["--adapter", text(&list)], &rows));
        assert_ne!(after.ok().stdout, before.ok().stdout);
    }
}

#[test]
fn an_adapter_in_the_models_folder_is_said_and_not_merged() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    let (golden_model, own) = (golden("tiny-llama31/model"), golden("tiny-llama31/adapter"));
    let both = home.path().join("both");
    copy_folder(&golden_model, &both);
    copy_folder(&own, &both);
    fs::write(both.join("adapter_model.bin"), "pickle").unwrap();
    let line = format!(
        "warning: --model {0}: the folder also holds an adapter (adapter_config.json), which is not applied; to \
                        apply it give --adapter {0}",
        both.display()
    );
    let output = home.path().join("run");
    let train = ["train", "--model", text(&both), "--data", text(&rows), "--max-steps", "1", "--output", text(&output)];
    for command in [
        &["score", "--model", text(&both), "--data", text(&rows)][..],
        &["eval", "--model", text(&both), "--data", text(&rows)][..],
        &["generate", "--model", text(&both), "--prompt", "Tea", "--max-new-tokens", "2"][..],
        &["inspect", "--model", text(&both)][..],
        &train[..],
    ] {
        let run = align(command).ok();
        assert_eq!(run.stderr.lines().filter(|said| *said == line).count(), 1, "{command:?}: {}", run.stderr);
    }
    // without --adapter the numbers are those of the base, with it those of the adapter
    let base = score(&golden_model, &[], &rows).ok();
    assert!(!base.stderr.contains("warning"), "{}", base.stderr);
    assert_eq!(score(&both, &[], &rows).ok().stdout, base.stdout);
    let applied = score(&both, &["--adapter", text(&both)], &rows).ok();
    assert!(!applied.stderr.contains("also holds an adapter"), "{}", applied.stderr);
    assert_eq!(applied.stdout, score(&golden_model, &["--adapter", text(&own)], &rows).ok().stdout);
    // a folder that holds no model is refused without that warning
    let refused = score(&own, &["--adapter", text(&own)], &rows);
    assert!(refused.code == Some(3) && !refused.stderr.contains("also holds an adapter"), "{}", refused.stderr);
    // a reward model in the folder of the model's weights
    let reward = home.path().join("reward");
    let train = ["train", "--model", text(&golden_model), "--data", text(&rows), "--loss", "rm_bt", "--max-steps", "1"];
    align(&[&train[..], &["--output", text(&reward)]].concat()).ok();
    let beside = home.path().join("beside");
    copy_folder(&golden_model, &beside);
    for name in [WEIGHTS, CONFIG] {
        fs::copy(reward.join(name), beside.join(name)).unwrap();
    }
    let rewards = score(&beside, &["--reward-model", text(&beside)], &rows).ok();
    assert!(!rewards.stderr.contains("also holds an adapter"), "{}", rewards.stderr);
    assert_eq!(rewards.stdout, score(&golden_model, &["--reward-model", text(&reward)], &rows).ok().stdout);
    // only the configuration of the adapter is left, without its weights
    fs::remove_file(both.join(WEIGHTS)).unwrap();
    fs::remove_file(both.join("adapter_model.bin")).unwrap();
    let run = score(&both, &[], &rows).ok();
    assert!(run.stderr.contains("an adapter_config.json without the adapter's weights"), "{}", run.stderr);
}

#[test]
fn a_merge_copies_nothing_that_makes_the_result_load_wrongly() {
    let home = tempfile::tempdir().unwrap();
    let (golden_model, other) = (golden("tiny-llama31/model"), golden("tiny-llama31/adapter"));
    let both = home.path().join("both");
    copy_folder(&golden_model, &both);
    copy_folder(&golden("tiny-llama31/adapter"), &both);
    let left_out = [
        "adapter_config.json",
        "adapter_model.bin",
        "adapter_model.safetensors",
        "adapters.safetensors",
        "checkpoint-50",
        "consolidated.00.pth",
        "global_step100",
        "model-Q4_K_M.gguf",
        "optimizer.bin",
        "optimizer.pt",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-00001-of-00002.bin",
        "rng_state.pth",
        "scheduler.pt",
        "tf_model.h5",
        "trainer_state.json",
        "training_args.bin",
    ];
    let copied = ["chat_template.jinja", "README.md", "vocab.bin", "checkpoint-notes.md"];
    for name in left_out.iter().chain(&copied) {
        let path = both.join(name);
        match *name == "checkpoint-50" || *name == "global_step100" {
            true => {
                fs::create_dir(&path).unwrap();
                fs::write(path.join("adapter_config.json"), "{}").unwrap();
            }
            false if path.exists() => {}
            false => fs::write(&path, "x").unwrap(),
        }
    }
    let output = home.path().join("merged");
    let run = align(&["merge", "--model", text(&both), "--adapter", text(&other), "--output", text(&output)]).ok();
    for name in left_out {
        assert!(!output.join(name).exists(), "{name} was copied");
        assert!(run.stderr.contains(&format!("  not copied: {name}\n")), "{name}: {}", run.stderr);
    }
    for name in copied {
        assert!(output.join(name).exists(), "{name} was not copied");
    }
    // the files are the same as those of a merge from a clean folder, and no adapter is reported
    let clean = home.path().join("clean");
    align(&["merge", "--model", text(&golden_model), "--adapter", text(&other), "--output", text(&clean)]).ok();
    for entry in fs::read_dir(&clean).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(fs::read(output.join(&name)).unwrap() == fs::read(clean.join(&name)).unwrap(), "{}", name.display());
    }
    let run = score(&output, &[], &rows(home.path())).ok();
    assert!(!run.stderr.contains("adapter_config.json"), "{}", run.stderr);
}

#[test]
fn adapters_of_other_programs_are_named_or_read() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    let (model, plain) = (golden("tiny-llama/model"), golden("tiny-llama/adapter"));
    let expected = score(&model, &["--adapter", text(&plain)], &rows).ok().stdout;
    // the keys that ms-swift and unsloth add change no number
    let swift = json!({
        "lorap_emb_lr": 1e-6, "lorap_lr_ratio": 16.0, "lora_dtype": "fp32", "swift_type": "LORA", "model_key_mapping": null,
        "use_qa_lora": false, "use_merged_linear": false, "enable_lora": null, "merge_weights": true,
    });
    let unsloth = json!({
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "x", "unsloth_fixed": true},
        "base_model_name_or_path": "unsloth/tiny-bnb-4bit", "task_type": null, "peft_version": "0.17.1",
        "lora_ga_config": {"direction": "ArB2r"}, "ensure_weight_tying": true,
    });
    for (name, keys) in [("swift", swift), ("unsloth", unsloth)] {
        let adapter = with_keys(&plain, &home.path().join(name), &keys);
        assert_eq!(score(&model, &["--adapter", text(&adapter)], &rows).ok().stdout, expected, "{name}");
    }
    for (name, keys, says) in [
        ("dora", json!({"use_dora": true}), "DoRA"),
        ("qa", json!({"use_qa_lora": true}), "QA-LoRA"),
        ("merged-linear", json!({"enable_lora": [true, false, true]}), "fused projection"),
        ("loha", json!({"peft_type": "LOHA"}), "LOHA"),
        ("pissa", json!({"init_lora_weights": "pissa"}), "changes the base's weights"),
    ] {
        let adapter = with_keys(&plain, &home.path().join(name), &keys);
        let run = score(&model, &["--adapter", text(&adapter)], &rows);
        assert_eq!(run.code, Some(3), "{name}: {}", run.stderr);
        assert!(run.stderr.contains(says), "{name}: {}", run.stderr);
    }
    // an adapter of mlx-lm: first its weights have the file name of mlx-lm, then that of PEFT
    let mlx = home.path().join("mlx");
    fs::create_dir(&mlx).unwrap();
    let config = json!({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0}});
    fs::write(mlx.join(CONFIG), config.to_string()).unwrap();
    for weights in [Some("adapters.safetensors"), None] {
        match weights {
            Some(name) => drop(fs::copy(plain.join(WEIGHTS), mlx.join(name)).unwrap()),
            None => fs::rename(mlx.join("adapters.safetensors"), mlx.join(WEIGHTS)).unwrap(),
        }
        let run = score(&model, &["--adapter", text(&mlx)], &rows);
        run.refused(3, &["mlx-lm", "mlx_lm.fuse"]);
    }
}

#[test]
fn a_folder_of_checkpoints_names_the_last() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    let (model, plain) = (golden("tiny-llama/model"), golden("tiny-llama/adapter"));
    let run_folder = home.path().join("run");
    for step in [5, 50, 9] {
        copy_folder(&plain, &run_folder.join(format!("checkpoint-{step}")));
    }
    let output = home.path().join("merged");
    for command in [
        &["score", "--model", text(&model), "--data", text(&rows), "--adapter", text(&run_folder)][..],
        &["merge", "--model", text(&model), "--adapter", text(&run_folder), "--output", text(&output)][..],
        &["inspect", "--adapter", text(&run_folder)][..],
    ] {
        let run = align(command);
        assert_eq!(run.code, Some(3), "{command:?}: {}", run.stderr);
        let last = format!("in 3 folders inside it, the last is {}", run_folder.join("checkpoint-50").display());
        assert!(run.stderr.contains(&last), "{command:?}: {}", run.stderr);
    }
    // an interrupted run has its options but no adapter yet
    fs::write(run_folder.join("config.toml"), "lora-rank = 8\n").unwrap();
    let run = score(&model, &["--adapter", text(&run_folder)], &rows);
    run.refused(3, &["checkpoint-50"]);
    for (folder, says) in
        [(model.clone(), "the folder of a model"), (home.path().join("nowhere"), "there is no such folder")]
    {
        let run = score(&model, &["--adapter", text(&folder)], &rows);
        run.refused(3, &[says]);
    }
}

#[test]
fn an_adapter_on_another_base_of_the_same_shape_warns() {
    let home = tempfile::tempdir().unwrap();
    let rows = rows(home.path());
    let model = golden("tiny-llama31/model");
    let run = home.path().join("run");
    let train = ["train", "--model", text(&model), "--data", text(&rows), "--max-steps", "1", "--output", text(&run)];
    align(&[&train[..], &["--precision", "f32"]].concat()).ok();
    let other = home.path().join("other");
    copy_folder(&model, &other);
    for entry in fs::read_dir(&other).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let mut all = tensors(&path);
            let changed = all.iter_mut().filter(|tensor| tensor.name.ends_with("k_proj.weight"));
            changed.for_each(|tensor| tensor.bytes[0] ^= 1);
            write(&path, &all);
        }
    }
    let copied = home.path().join("copy");
    copy_folder(&model, &copied);
    let (merged, again) = (home.path().join("merged"), home.path().join("again"));
    let commands = |model: &'static str| {
        let model = home.path().join(model);
        let on = |first: &str, rest: &[&str]| {
            let fixed = [first, "--model", text(&model), "--adapter", text(&run)];
            fixed.iter().chain(rest).map(|word| (*word).to_owned()).collect::<Vec<String>>()
        };
        [
            on("score", &["--data", text(&rows)]),
            on("eval", &["--data", text(&rows)]),
            on("generate", &["--prompt", "Tea", "--max-new-tokens", "2"]),
            on("inspect", &[]),
            on("merge", &["--output", text(&merged), "--overwrite"]),
            on("train", &["--data", text(&rows), "--max-steps", "1", "--output", text(&again), "--overwrite"]),
        ]
    };
    for command in commands("copy") {
        let run = align(&command).ok();
        assert!(!run.stderr.contains("other weights"), "{command:?}: {}", run.stderr);
    }
    let line = format!("warning: {}: the adapter was trained on other weights than those of the model", run.display());
    for command in commands("other") {
        let run = align(&command).ok();
        assert_eq!(run.stderr.lines().filter(|said| said.starts_with(&line)).count(), 1, "{command:?}: {}", run.stderr);
    }
    // the same numbers in a wider format are the same base
    let wide = home.path().join("wide");
    copy_folder(&model, &wide);
    let path = wide.join("model.safetensors");
    let widen = |tensor: Tensor| {
        let bytes = tensor.values().iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F32, bytes, ..tensor }
    };
    write(&path, &tensors(&path).into_iter().map(widen).collect::<Vec<_>>());
    let same = score(&wide, &["--adapter", text(&run)], &rows).ok();
    assert!(!same.stderr.contains("other weights"), "{}", same.stderr);
    // `again` was trained further on the other base, so the other base is its base now
    let own = align(&["score", "--model", text(&other), "--adapter", text(&again), "--data", text(&rows)]).ok();
    assert!(!own.stderr.contains("other weights"), "{}", own.stderr);
    // a PEFT adapter does not name its base by a hash
    let peft = golden("tiny-llama31/adapter");
    let silent = align(&["score", "--model", text(&other), "--adapter", text(&peft), "--data", text(&rows)]).ok();
    assert!(!silent.stderr.contains("other weights"), "{}", silent.stderr);
}

#[test]
fn the_adapter_of_a_demo_run_is_inspected_on_the_demos_model() {
    let home = tempfile::tempdir().unwrap();
    let output = home.path().join("run");
    let run = align(&["train", "--demo", "--max-steps", "1", "--output", text(&output)]).ok();
    assert!(!run.stderr.contains("other weights"), "{}", run.stderr);
    let facts = align(&["inspect", "--adapter", text(&output), "--json"]).ok().json();
    assert_eq!(facts["adapter"]["base_model_name_or_path"], "align-demo");
    assert_eq!(facts["adapter"]["updates_not_run"], 0);
}
