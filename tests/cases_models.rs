//! Model folders from practice: other names of tensors and classes, edited configurations, faulty indexes, folders without a
//! model. Each is made from a golden model. Commands print the numbers of that model, or one line says what is wrong.

use crate::align::{Run, align, committed_goldens, copy_folder, edit_json, golden_model, read_json, write_lines};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A copy of a golden model that a test changes, with a file of rows beside it.
pub(crate) struct Folder {
    place: tempfile::TempDir,
}

pub(crate) const CONFIG: &str = "model/config.json";
const WEIGHTS: &str = "model/model.safetensors";
const INDEX: &str = "model/model.safetensors.index.json";

impl Folder {
    pub(crate) fn of(golden: &str) -> Folder {
        Folder::copied(&golden_model(golden))
    }

    fn copied(model: &Path) -> Folder {
        let place = tempfile::tempdir().unwrap();
        copy_folder(model, &place.path().join("model"));
        let rows = [
            json!({"prompt": "The lighthouse", "chosen": " keeper wrote", "rejected": " is wet"}),
            json!({"prompt": "First boil", "chosen": " the water.", "rejected": " tea"}),
        ];
        write_lines(&place.path().join("rows.jsonl"), &rows);
        Folder { place }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Changes a JSON file in place.
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> &Folder {
        edit_json(&self.path(name), |value| change(value.as_object_mut().unwrap()));
        self
    }

    /// Renames the tensors of a file with `rule`.
    fn rename(&self, name: &str, rule: impl Fn(&str) -> String) -> &Folder {
        self.change_header(name, |header| {
            *header = std::mem::take(header)
                .into_iter()
                .map(|(name, entry)| if name == "__metadata__" { (name, entry) } else { (rule(&name), entry) })
                .collect();
        })
    }

    fn change_header(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> &Folder {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let (mut header, data) = parts(&bytes);
        change(&mut header);
        std::fs::write(self.path(name), safetensors(header, data)).unwrap();
        self
    }

    /// Adds a tensor of zeros to a file.
    fn add_tensor(&self, file: &str, name: &str, dtype: &str, shape: &[usize], bytes: usize) -> &Folder {
        let content = std::fs::read(self.path(file)).unwrap();
        let (mut header, data) = parts(&content);
        let (begin, end) = (data.len(), data.len() + bytes);
        header.insert(name.into(), json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}));
        let data = [data, &vec![0; bytes]].concat();
        std::fs::write(self.path(file), safetensors(header, &data)).unwrap();
        self
    }

    pub(crate) fn run(&self, command: &str, model: &str, more: &[&str]) -> Run {
        let (model, rows) = (self.text(model), self.text("rows.jsonl"));
        let common = [command, "--model", &model, "--data", &rows, "--json", "--precision", "f32"];
        align(&[&common[..], more].concat())
    }

    fn score(&self) -> Run {
        self.run("score", "model", &[])
    }

    /// Checks that `score` prints the numbers of the untouched golden, and one note for each part in `said` that contains it.
    fn assert_scores_as(&self, golden: &Folder, said: &[&str]) {
        let (run, want) = (self.score().ok(), golden.score().ok());
        assert_eq!(run.stdout, want.stdout);
        assert!(run.stdout.lines().count() == 2, "{}", run.stdout);
        let lines: Vec<&str> = run.stderr.lines().filter(|line| is_note(line)).collect();
        assert_eq!(lines.len(), said.len(), "{lines:?}");
        for (line, part) in lines.iter().zip(said) {
            assert!(line.contains(part), "{line} lacks {part:?}");
        }
    }

    /// Checks that `score` ends with exit code 3 and an empty stdout, and that stderr contains every part.
    fn assert_refused(&self, model: &str, parts: &[&str]) {
        let run = self.run("score", model, &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{}", run.stderr);
        for part in parts {
            assert!(run.stderr.contains(part), "the message lacks {part:?}: {}", run.stderr);
        }
    }
}

/// Whether a line of stderr is a note on the model, not on the rows.
fn is_note(line: &str) -> bool {
    (line.starts_with("warning: ") || line.starts_with("note: ")) && !line.contains("rows.jsonl")
}

fn parts(bytes: &[u8]) -> (Map<String, Value>, &[u8]) {
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + size]).unwrap(), &bytes[8 + size..])
}

fn safetensors(header: Map<String, Value>, data: &[u8]) -> Vec<u8> {
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, data].concat()
}

/// The class name in `architectures` tells the task of a model, but `model_type` decides its family.
#[test]
fn model_type_says_the_family_and_architectures_the_task() {
    let golden = Folder::of("tiny-llama31");
    for name in [
        "FSDPLlamaForCausalLM",
        "LLaMAForCausalLM",
        "PeftModelForCausalLM",
        "LlamaModel",
        "MistralModel",
        "AutoModelForCausalLMWithValueHead",
    ] {
        let model = Folder::of("tiny-llama31");
        model.edit(CONFIG, |config| config["architectures"] = json!([name])).assert_scores_as(&golden, &[]);
    }
    for name in [
        "LlamaForSequenceClassification",
        "LlamaForTokenClassification",
        "LlamaForQuestionAnswering",
        "PeftModelForSequenceClassification",
        "LlamaForRewardModel",
    ] {
        let model = Folder::of("tiny-llama31");
        model.edit(CONFIG, |config| config["architectures"] = json!([name]));
        model.assert_refused("model", &["config.json", name, "another task", "LlamaForCausalLM"]);
    }
    let bare = Folder::of("tiny-qwen3");
    bare.edit(CONFIG, |config| config["architectures"] = json!(["Qwen3Model"]));
    bare.assert_scores_as(&Folder::of("tiny-qwen3"), &[]);
}

/// tiny-llama has an untied head and two shards. Without the head it cannot score text.
#[test]
fn a_model_without_its_head_is_refused_by_that_word() {
    let model = Folder::of("tiny-llama");
    for shard in ["model/model-00001-of-00002.safetensors", "model/model-00002-of-00002.safetensors"] {
        model.rename(shard, |name| if name == "lm_head.weight" { "other".into() } else { name.into() });
    }
    model.edit(CONFIG, |config| config["architectures"] = json!(["LlamaModel"]));
    model.edit(INDEX, |index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        let shard = map.remove("lm_head.weight").unwrap();
        map.insert("other".into(), shard);
    });
    model.assert_refused("model", &["lm_head.weight", "tie_word_embeddings", "without its language model's head"]);
}

/// A separate head is used whatever config.json says, as in transformers 5. If all end-of-text ids of a model are beyond its
/// vocabulary, the user gets a warning.
#[test]
fn a_head_that_is_denied_and_ends_beyond_the_vocabulary_are_said() {
    let model = Folder::of("tiny-llama");
    model.edit(CONFIG, |config| config["tie_word_embeddings"] = json!(true));
    model.assert_scores_as(&Folder::of("tiny-llama"), &["`lm_head.weight` is not the embedding: it is used"]);
    let ends = |ids: Value| {
        let model = Folder::of("tiny-llama31");
        std::fs::write(model.path("model/generation_config.json"), json!({"eos_token_id": ids}).to_string()).unwrap();
        model.run("generate", "model", &["--max-new-tokens", "2"]).ok().stderr
    };
    assert!(ends(json!([100_000, 100_001])).contains("beyond the vocabulary"));
    assert!(!ends(json!([1, 100_000])).contains("beyond the vocabulary"));
}

type Rule = fn(&str) -> String;

/// transformers 5.23 gives the same logits for each of these spellings, to the last bit.
#[test]
fn other_spellings_of_the_names_give_the_same_numbers() {
    let golden = Folder::of("tiny-llama31");
    let no_prefix: Rule = |name| name.strip_prefix("model.").unwrap_or(name).to_owned();
    let head_only: Rule = |name| name.replace("model.embed_tokens.weight", "lm_head.weight");
    let both: Rule = |name| {
        let name = name.replace("model.embed_tokens.weight", "lm_head.weight");
        name.strip_prefix("model.").unwrap_or(&name).to_owned()
    };
    let twice: Rule = |name| format!("model.{name}");
    for rule in [no_prefix, head_only, both, twice] {
        Folder::of("tiny-llama31").rename(WEIGHTS, rule).assert_scores_as(&golden, &[]);
    }
    // another family, untied heads, and shards
    Folder::of("tiny-gemma3").rename(WEIGHTS, no_prefix).assert_scores_as(&Folder::of("tiny-gemma3"), &[]);
    let shards = Folder::of("tiny-llama");
    for shard in ["model/model-00001-of-00002.safetensors", "model/model-00002-of-00002.safetensors"] {
        shards.rename(shard, no_prefix);
    }
    shards.edit(INDEX, |index| {
        let map = std::mem::take(index["weight_map"].as_object_mut().unwrap());
        let bare = |name: String| name.strip_prefix("model.").unwrap_or(&name).to_owned();
        index["weight_map"] = map.into_iter().map(|(name, shard)| (bare(name), shard)).collect();
    });
    shards.assert_scores_as(&Folder::of("tiny-llama"), &[]);
}

#[test]
fn names_of_a_wrapped_model_are_refused_by_what_is_too_much() {
    let cases: [(Rule, &[&str]); 6] = [
        (|name| format!("_orig_mod.{name}"), &["`_orig_mod.`", "torch.compile"]),
        (|name| format!("module.{name}"), &["`module.`", "DataParallel"]),
        (|name| format!("base_model.model.{name}"), &["`base_model.model.`", "PEFT"]),
        (
            |name| name.replace("self_attn", "_checkpoint_wrapped_module.self_attn"),
            &["`_checkpoint_wrapped_module.`", "activation checkpointing"],
        ),
        (|name| format!("pretrained_model.{name}"), &["`pretrained_model.`", "value head"]),
        (|name| format!("student.{name}"), &["begin with `student.model.`"]),
    ];
    for (rule, parts) in cases {
        let model = Folder::of("tiny-llama31");
        model.rename(WEIGHTS, rule).assert_refused("model", parts);
        let run = model.score();
        assert!(!run.stderr.contains("different models"), "{}", run.stderr);
    }
}

/// If every tensor of the model exists exactly once, a fault of the index is only reported.
#[test]
fn faults_of_the_index_are_said_where_every_tensor_is_there() {
    let golden = Folder::of("tiny-llama");
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let set = |map: &mut Map<String, Value>, name: &str, shard: &str| map["weight_map"][name] = json!(shard);
    let nowhere = Folder::of("tiny-llama");
    nowhere.edit(INDEX, |index| set(index, "model.layers.99.mlp.up_proj.weight", one));
    nowhere.assert_scores_as(&golden, &["`model.layers.99.mlp.up_proj.weight` is listed in"]);
    let wrong = Folder::of("tiny-llama");
    let listed = read_json(&wrong.path(INDEX))["weight_map"]["model.norm.weight"].clone();
    let other = if listed == one { two } else { one };
    wrong.edit(INDEX, |index| set(index, "model.norm.weight", other));
    wrong.assert_scores_as(&golden, &["`model.norm.weight` is in"]);
    let stray = Folder::of("tiny-llama");
    std::fs::copy(stray.path("model").join(one), stray.path("model/model-00001-of-00003.safetensors")).unwrap();
    stray.assert_scores_as(&golden, &["model-00001-of-00003.safetensors is in the directory but not in the index"]);
    let gone = Folder::of("tiny-llama");
    gone.edit(INDEX, |index| set(index, "lm_head.bias", "model-00003-of-00002.safetensors"));
    gone.assert_scores_as(&golden, &["shard model-00003-of-00002.safetensors is missing"]);

    let missing = Folder::of("tiny-llama");
    std::fs::remove_file(missing.path("model").join(two)).unwrap();
    missing.assert_refused("model", &["index.json", "holds `", two, "is missing", "fetch the checkpoint again"]);
}

/// If the file has tensors that the configuration does not mention, every command reports them once.
#[test]
fn tensors_that_config_json_does_not_speak_of_are_said_by_every_command() {
    let model = Folder::of("tiny-llama31");
    model.edit(CONFIG, |config| config["num_hidden_layers"] = json!(3));
    let adapter = model.text("adapter");
    copy_folder(&committed_goldens().join("tiny-llama31/adapter"), Path::new(&adapter));
    let said = |run: Run| {
        let run = run.ok();
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains("not used")).collect();
        assert_eq!(lines.len(), 1, "{}", run.stderr);
        assert!(lines[0].starts_with("warning: ") && lines[0].contains("9 tensors"), "{}", lines[0]);
        assert!(lines[0].contains("`model.layers.3.input_layernorm.weight`"), "{}", lines[0]);
        assert!(lines[0].contains("and 6 more") && lines[0].len() < 400, "{}", lines[0]);
    };
    said(model.score());
    said(model.run("generate", "model", &["--max-new-tokens", "2"]));
    let [path, rows, run] = ["model", "rows.jsonl", "run"].map(|name| model.text(name));
    said(align(&["inspect", "--model", &path]));
    let train = ["train", "--model", &path, "--data", &rows, "--output", &run, "--max-steps", "1"];
    said(align(&[&train[..], &["--precision", "f32"]].concat()));
    said(align(&["eval", "--model", &path, "--adapter", &run, "--data", &rows]));
    let merged = model.text("merged");
    said(align(&["merge", "--model", &path, "--adapter", &run, "--output", &merged]));
}

/// A bias and a norm that the configuration does not have are reported too. A rotary table is not, since it is known to be unused.
#[test]
fn a_bias_or_a_norm_that_is_not_used_is_said_and_a_rotary_table_is_not() {
    let biases = Folder::of("tiny-llama31");
    biases.add_tensor(WEIGHTS, "model.layers.0.self_attn.q_proj.bias", "BF16", &[64], 128);
    biases.assert_scores_as(&Folder::of("tiny-llama31"), &["1 tensor of the weights is not used"]);
    let norms = Folder::of("tiny-llama31");
    norms.add_tensor(WEIGHTS, "model.layers.0.self_attn.q_norm.weight", "BF16", &[16], 32);
    norms.assert_scores_as(&Folder::of("tiny-llama31"), &["`model.layers.0.self_attn.q_norm.weight`"]);
    let table = Folder::of("tiny-llama31");
    table.add_tensor(WEIGHTS, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[8], 32);
    table.assert_scores_as(&Folder::of("tiny-llama31"), &[]);
}

/// The family is checked before the quantisation, and the weights count more than what config.json says about them.
#[test]
fn quantised_weights_are_named_by_what_they_are() {
    for (model_type, method) in
        [("gpt_oss", "mxfp4"), ("qwen3_moe", "fp8"), ("deepseek_v3", "fp8"), ("mistral3", "fp8")]
    {
        let model = Folder::of("tiny-llama31");
        model.edit(CONFIG, |config| {
            config["model_type"] = json!(model_type);
            config.insert("quantization_config".into(), json!({"quant_method": method}));
        });
        model.assert_refused("model", &["unknown architecture", model_type]);
        assert!(!model.score().stderr.contains("quantised"));
    }
    let q_proj = "model.layers.0.self_attn.q_proj";
    let mlx = Folder::of("tiny-llama31");
    mlx.edit(CONFIG, |config| drop(config.insert("quantization".into(), json!({"group_size": 64, "bits": 4}))));
    mlx.change_header(WEIGHTS, |header| {
        let weight = &mut header[&format!("{q_proj}.weight")];
        let bytes = weight["data_offsets"][1].as_u64().unwrap() - weight["data_offsets"][0].as_u64().unwrap();
        weight["dtype"] = json!("U32");
        weight["shape"] = json!([64, bytes / 64 / 4]);
    });
    for part in ["scales", "biases"] {
        mlx.add_tensor(WEIGHTS, &format!("{q_proj}.{part}"), "BF16", &[64, 1], 128);
    }
    mlx.assert_refused("model", &["quantised (MLX, 4 bits)", q_proj]);
    let cases: [(&str, &str, &str, &[&str]); 5] = [
        ("qweight", "I32", "scales", &["quantised (GPTQ or AWQ)", "qweight"]),
        ("weight", "U8", "weight.quant_state.bitsandbytes__nf4", &["quantised (bitsandbytes, 4 bits)"]),
        ("weight", "I8", "SCB", &["quantised (bitsandbytes, 8 bits)"]),
        ("weight", "F8_E4M3", "weight_scale_inv", &["quantised (FP8 or INT8 with scales)"]),
        ("weight_packed", "I32", "weight_shape", &["quantised (compressed-tensors)"]),
    ];
    for (weight, dtype, beside, parts) in cases {
        let model = Folder::of("tiny-llama31");
        model.change_header(WEIGHTS, |header| {
            let mut entry = header.remove(&format!("{q_proj}.weight")).unwrap();
            let offsets = entry["data_offsets"].clone();
            let bytes = offsets[1].as_u64().unwrap() - offsets[0].as_u64().unwrap();
            let size = if dtype == "I32" { 4 } else { 1 };
            entry["dtype"] = json!(dtype);
            entry["shape"] = json!([bytes / size, 1]);
            header.insert(format!("{q_proj}.{weight}"), entry);
        });
        model.add_tensor(WEIGHTS, &format!("{q_proj}.{beside}"), "U8", &[8], 8);
        model.assert_refused("model", parts);
    }
}

#[test]
fn words_about_quantisation_beside_plain_weights_are_read_past_with_a_line() {
    let golden = Folder::of("tiny-llama31");
    for (key, value, said) in [
        (
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "(bitsandbytes, 4 bits)",
        ),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "(gptq, 4 bits)"),
        ("quantization_config", json!({}), "`quantization_config`"),
        ("quantization", json!({"group_size": 64, "bits": 4}), "`quantization` (MLX, 4 bits)"),
    ] {
        let model = Folder::of("tiny-llama31");
        model.edit(CONFIG, |config| drop(config.insert(key.into(), value)));
        model.assert_scores_as(&golden, &[said]);
    }
}

/// A negative id means no token.
#[test]
fn negative_ids_are_none() {
    let golden = Folder::of("tiny-llama31");
    for (key, value) in [("eos_token_id", json!(-1)), ("eos_token_id", json!([-1])), ("bos_token_id", json!(-1))] {
        let model = Folder::of("tiny-llama31");
        model.edit(CONFIG, |config| config[key] = value.clone());
        model.edit("model/generation_config.json", |config| drop(config.insert(key.into(), value)));
        model.assert_scores_as(&golden, &[]);
        model.run("generate", "model", &["--max-new-tokens", "2"]).ok();
    }
}

#[test]
fn a_folder_that_is_no_models_is_named_for_what_it_is() {
    let adapter = Folder::of("tiny-llama31");
    copy_folder(&committed_goldens().join("tiny-llama/adapter"), &adapter.path("adapter"));
    let base = read_json(&adapter.path("adapter/adapter_config.json"))["base_model_name_or_path"].clone();
    let base = base.as_str().unwrap_or("its base").to_owned();
    adapter.assert_refused("adapter", &["config.json", "holds an adapter", &base, "--model", "--adapter"]);

    let models = Folder::of("tiny-llama31");
    for name in ["models/a", "models/b"] {
        copy_folder(&models.path("model"), &models.path(name));
    }
    models.assert_refused("models", &["folders in it hold models", "models/a", "models/b"]);
    let runs = Folder::of("tiny-llama31");
    for name in ["run/checkpoint-50", "run/checkpoint-100"] {
        copy_folder(&committed_goldens().join("tiny-llama/adapter"), &runs.path(name));
    }
    runs.assert_refused("run", &["folders in it hold adapters", "checkpoint-50", "checkpoint-100", "--adapter"]);

    let gguf = Folder::of("tiny-llama31");
    std::fs::create_dir(gguf.path("gguf")).unwrap();
    std::fs::write(gguf.path("gguf/model-q4.gguf"), "GGUF").unwrap();
    gguf.assert_refused("gguf", &["model-q4.gguf", "safetensors"]);
    std::fs::remove_file(gguf.path(WEIGHTS)).unwrap();
    std::fs::write(gguf.path("model/pytorch_model.bin"), "").unwrap();
    gguf.assert_refused("model", &["pytorch_model.bin", "convert it to safetensors"]);

    let file = Folder::of("tiny-llama31").run("score", WEIGHTS, &[]);
    assert_eq!(file.code, Some(2));
    assert!(file.stderr.contains("is a file; give the directory of the model, "), "{}", file.stderr);
}

/// Users who try another tokenizer put it beside a link to the weights.
#[cfg(unix)]
#[test]
fn linked_weights_are_read_and_said() {
    let model = Folder::of("tiny-llama31");
    std::fs::rename(model.path(WEIGHTS), model.path("elsewhere.safetensors")).unwrap();
    std::os::unix::fs::symlink(model.path("elsewhere.safetensors"), model.path(WEIGHTS)).unwrap();
    model.assert_scores_as(&Folder::of("tiny-llama31"), &["elsewhere.safetensors, outside of the model's folder"]);
    // a shard that is a relative link
    let shards = Folder::of("tiny-llama");
    let shard = "model/model-00002-of-00002.safetensors";
    std::fs::rename(shards.path(shard), shards.path("two.safetensors")).unwrap();
    std::os::unix::fs::symlink("../two.safetensors", shards.path(shard)).unwrap();
    shards.assert_scores_as(&Folder::of("tiny-llama"), &["two.safetensors, outside of the model's folder"]);
}

/// This program applies the RoPE scaling under the old key as intended; transformers 5.23 ignores it.
#[test]
fn the_old_key_of_gemma_3s_rope_scaling_is_applied_and_said() {
    let with = |scaling: Value| {
        let model = Folder::of("tiny-gemma3");
        model.edit(CONFIG, |config| {
            config.remove("rope_parameters");
            config.insert("rope_scaling".into(), scaling);
        });
        model
    };
    let new = with(json!({"rope_type": "linear", "factor": 8.0}));
    with(json!({"type": "linear", "factor": 8.0})).assert_scores_as(&new, &["`rope_scaling` of `type` `linear`"]);
    with(json!({"rope_type": "linear", "type": "linear", "factor": 8.0})).assert_scores_as(&new, &[]);
}

/// However the tensors are named, the merged folder keeps the names of the file, loads, and has what other programs look for.
#[test]
fn merge_keeps_the_names_and_mends_what_other_programs_read() {
    let adapter = committed_goldens().join("tiny-llama31/adapter").to_str().unwrap().to_owned();
    let merged = |model: &Folder| {
        let [from, to] = ["model", "merged"].map(|name| model.text(name));
        align(&["merge", "--model", &from, "--adapter", &adapter, "--output", &to]).ok();
        model.run("score", "merged", &[]).ok()
    };
    let want = merged(&Folder::of("tiny-llama31")).stdout;
    let no_prefix: Rule = |name| name.strip_prefix("model.").unwrap_or(name).to_owned();
    let head_only: Rule = |name| name.replace("model.embed_tokens.weight", "lm_head.weight");
    for rule in [no_prefix, head_only] {
        let model = Folder::of("tiny-llama31");
        model.rename(WEIGHTS, rule).edit(CONFIG, |config| {
            config["architectures"] = json!(["FSDPLlamaForCausalLM"]);
            config.insert("quantization_config".into(), json!({"quant_method": "bitsandbytes"}));
        });
        let run = merged(&model);
        assert_eq!(run.stdout, want);
        assert!(!run.stderr.lines().any(is_note), "{}", run.stderr);
        assert!(run.stderr.contains("reference: the model itself, so every margin is 0"), "{}", run.stderr);
        let names = |file: &str| {
            let bytes = std::fs::read(model.path(file)).unwrap();
            parts(&bytes).0.keys().cloned().collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(WEIGHTS), names("merged/model.safetensors"));
        let config = read_json(&model.path("merged/config.json"));
        assert_eq!(config["architectures"], json!(["LlamaForCausalLM"]));
        assert_eq!(config.get("quantization_config"), None);
    }

    let adapter = committed_goldens().join("tiny-llama/adapter").to_str().unwrap().to_owned();
    let shards = Folder::of("tiny-llama");
    shards.edit(INDEX, |index| index["weight_map"]["lm_head.bias"] = json!("model-00003-of-00002.safetensors"));
    let [from, to] = ["model", "merged"].map(|name| shards.text(name));
    align(&["merge", "--model", &from, "--adapter", &adapter, "--output", &to]).ok();
    let sound = read_json(&committed_goldens().join("tiny-llama/model/model.safetensors.index.json"));
    assert_eq!(read_json(&shards.path("merged/model.safetensors.index.json"))["weight_map"], sound["weight_map"]);

    let lacking = Folder::of("tiny-llama31");
    lacking.rename(WEIGHTS, |name| if name == "model.norm.weight" { "other".into() } else { name.into() });
    let [from, to] = ["model", "merged"].map(|name| lacking.text(name));
    let run = align(&["merge", "--model", &from, "--adapter", &adapter, "--output", &to]);
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("model.norm.weight") && !lacking.path("merged").exists(), "{}", run.stderr);
}
