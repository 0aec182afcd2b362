//! Tests how configurations are read: compares them with transformers and with the tiny models, and tries broken ones.

use super::*;
use crate::weights::{Dtype, ValueCheck, WeightFiles};
use align_kernels::gate::Activation;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("a test wrote {other} for an object"),
    }
}

fn read(config: Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::read(&ConfigJson::new(Path::new("config.json"), object(config)))
}

impl RopeConfig {
    /// Whether [`Self::variant`] depends on the sequence's length.
    fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }
}

/// Returns the folders of the nine tiny models, sorted.
fn tiny_models() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(goldens())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("tiny-"))
        .map(|path| path.join("model"))
        .collect();
    found.sort();
    assert_eq!(found.len(), 9, "tests/goldens has nine tiny models");
    found
}

/// config.json implies exactly the tensors in the files, by name and shape. Some of the tiny models have the older form of
/// config.json, the others the newer one.
#[test]
fn tiny_models_hold_exactly_the_tensors_that_their_configuration_implies() {
    let device = align_kernels::Device::cpu(Some(1)).unwrap();
    for dir in tiny_models() {
        let config = ModelConfig::open(&dir).unwrap();
        let files = WeightFiles::open(&dir, ValueCheck::Finite).unwrap();
        let layout = Layout::of(&config, &files);
        let mut implied = layout.tensors(&config);
        implied.sort();
        let stored: Vec<(String, Vec<usize>)> =
            files.tensors().map(|(tensor, _)| (tensor.name.clone(), tensor.shape.clone())).collect();
        assert_eq!(implied, stored, "{}", dir.display());
        assert_eq!(config.parameters(), files.parameters(), "{}", dir.display());
        assert_eq!(files.bytes(), 2 * files.parameters());
        assert!(files.tensors().all(|(tensor, _)| tensor.dtype == Dtype::BF16));
        assert_eq!(config.dtype.as_deref(), Some("bfloat16"));
        assert_eq!(layout.head_is_tied(&config, &files), config.tie_word_embeddings);
        for (name, shape) in &implied {
            match shape[..] {
                [len] => drop(files.vector(&device, name, len).unwrap()),
                [rows, columns] => drop(files.frozen(&device, name, [rows, columns]).unwrap()),
                _ => panic!("{name} has {} dimensions", shape.len()),
            }
        }
        assert_eq!(Layout::fitted(&config, &files).unwrap(), layout);
        assert_eq!(ModelNote::of(&config, &files), []);
        assert_eq!(layout.unused(&config, &files), UnusedTensors::default());
        assert_eq!(files.all_zero(), Vec::<String>::new());
        assert_eq!(stop_token_ids(&dir, &config).unwrap(), config.eos_token_ids);
    }
}

/// Compares facts, names, shapes and frequencies with those of transformers, for configurations of every family.
#[test]
fn configurations_are_read_as_transformers_reads_them() {
    let path = goldens().join("configs/configs.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(cases.len() > 30, "{} has cases", path.display());
    let mut largest = 0;
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let config = read(case["config"].clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_facts(name, &config, &case["facts"]);

        assert_eq!(config.parameters(), case["parameters"].as_u64().unwrap(), "{name}");
        let tensors = Layout::new(config.module_prefix).tensors(&config);
        let mut shown: Vec<(String, Vec<usize>)> =
            tensors.into_iter().filter(|(name, _)| !name.contains(".layers.") || name.contains(".layers.0.")).collect();
        shown.sort();
        let mut want: Vec<(String, Vec<usize>)> = case["tensors"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| (name.clone(), serde_json::from_value(shape.clone()).unwrap()))
            .collect();
        want.sort();
        assert_eq!(shown, want, "{name}");

        for rope in case["ropes"].as_array().unwrap() {
            let which = match rope["layer_type"].as_str() {
                Some("sliding_attention") => config.layers.iter().find(|layer| layer.sliding_window.is_some()),
                Some("full_attention") => config.layers.iter().find(|layer| layer.sliding_window.is_none()),
                _ => config.layers.first(),
            };
            let variant = config.ropes[which.unwrap().rope].variant(rope["sequence_len"].as_u64().unwrap() as usize);
            assert_eq!(variant.scaling, rope["scaling"].as_f64().unwrap() as f32, "{name}");
            let want: Vec<f32> = serde_json::from_value(rope["inv_freq"].clone()).unwrap();
            assert_eq!(variant.inv_freq.len(), want.len(), "{name}");
            for (column, (got, want)) in variant.inv_freq.iter().zip(&want).enumerate() {
                let ulps = got.to_bits().abs_diff(want.to_bits());
                largest = largest.max(ulps);
                // Powers and divisions are rounded once on both sides, but torch's power function may be off by one unit in the
                // last place. A blend of two terms can make that two units.
                assert!(ulps <= 2, "{name}, {rope:?}: column {column} is {got}, transformers has {want}, {ulps} ulps");
            }
        }
    }
    println!("largest difference of a frequency: {largest} ulps");
}

fn check_facts(name: &str, config: &ModelConfig, facts: &Value) {
    let float = |value: Option<f32>| value.map_or(Value::Null, |value| json!(value));
    let f32_of = |key: &str| facts[key].as_f64().map_or(Value::Null, |value| json!(value as f32));
    for (key, got) in [
        ("num_attention_heads", config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads),
        ("head_dim", config.head_dim),
        ("vocab_size", config.vocab_size),
        ("max_position_embeddings", config.max_position_embeddings),
    ] {
        assert_eq!(json!(got), facts[key], "{name}: {key}");
    }
    for (key, got) in [
        ("rms_norm_eps", Some(config.rms_norm_eps)),
        ("attention_scale", Some(config.attention_scale)),
        ("embedding_scale", Some(config.embedding_scale)),
        ("attn_logit_softcapping", config.attn_logit_softcapping),
        ("final_logit_softcapping", config.final_logit_softcapping),
    ] {
        assert_eq!(float(got), f32_of(key), "{name}: {key}");
    }
    assert_eq!(json!(config.tie_word_embeddings), facts["tie_word_embeddings"], "{name}");
    let windows: Vec<Option<usize>> = config.layers.iter().map(|layer| layer.sliding_window).collect();
    assert_eq!(json!(windows), facts["sliding_windows"], "{name}");
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    assert_eq!(activation, facts["activation"], "{name}");
}

/// Returns a valid config.json of a small Llama.
fn sound() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "hidden_act": "silu",
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": [2, 3],
    })
}

#[test]
fn broken_configurations_are_refused_by_key() {
    assert!(read(sound()).is_ok());
    // Each entry has changes to the valid configuration, and the parts that the message must contain.
    let table: &[(Value, &[&str])] = &[
        (json!({"model_type": "mamba"}), &["unknown architecture `mamba`", "LlamaForCausalLM", "Phi3ForCausalLM"]),
        (json!({"model_type": null, "architectures": ["MixtralForCausalLM"]}), &["MixtralForCausalLM"]),
        (json!({"model_type": null, "architectures": null}), &["`model_type` is missing"]),
        (json!({"model_type": 7}), &["`model_type`: expected a string, found a number"]),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), &["LlamaForSequenceClassification"]),
        (json!({"architectures": "LlamaForCausalLM"}), &["`architectures`: expected a list of strings"]),
        (
            json!({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}),
            &["unknown architecture `gpt_oss`", "LlamaForCausalLM"],
        ),
        (json!({"hidden_size": null}), &["`hidden_size` is missing"]),
        (json!({"hidden_size": "64"}), &["`hidden_size`: expected a whole number, found a string"]),
        (json!({"hidden_size": 64.5}), &["`hidden_size`", "64.5"]),
        (json!({"hidden_size": -64}), &["`hidden_size`", "-64"]),
        (json!({"hidden_size": 0}), &["`hidden_size`", "found 0"]),
        (json!({"hidden_size": u64::MAX}), &["`hidden_size`", "18446744073709551615"]),
        (json!({"num_hidden_layers": 1_000_000_000}), &["`num_hidden_layers`", "1000000000"]),
        (json!({"num_hidden_layers": 1_000_000}), &["`num_hidden_layers`: expected at most 1024"]),
        (
            json!({"num_attention_heads": 6, "num_key_value_heads": 3}),
            &["`num_attention_heads`", "divisor of hidden_size (64)"],
        ),
        (json!({"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}), &["divisor of hidden_size (64)"]),
        (
            json!({"num_attention_heads": 1 << 20, "num_key_value_heads": 1, "hidden_size": 1 << 20, "head_dim": 64}),
            &["num_attention_heads * head_dim"],
        ),
        (json!({"num_key_value_heads": 8}), &["`num_key_value_heads`", "divisor of num_attention_heads (4)"]),
        (json!({"num_key_value_heads": 3}), &["`num_key_value_heads`", "divisor of num_attention_heads (4)"]),
        (json!({"head_dim": 15}), &["`head_dim`", "even"]),
        (json!({"head_dim": 1 << 20}), &["`head_dim`", "1048576"]),
        (json!({"vocab_size": null}), &["`vocab_size` is missing"]),
        (json!({"hidden_act": "relu"}), &["`hidden_act`", "silu or gelu_pytorch_tanh", "relu"]),
        (json!({"rms_norm_eps": 0}), &["`rms_norm_eps`", "above 0"]),
        (json!({"rms_norm_eps": "tiny"}), &["`rms_norm_eps`: expected a number, found a string"]),
        (json!({"tie_word_embeddings": 1}), &["`tie_word_embeddings`: expected true or false, found a number"]),
        (json!({"attention_bias": "yes"}), &["`attention_bias`"]),
        (json!({"eos_token_id": 1.5}), &["`eos_token_id`"]),
        (json!({"eos_token_id": [1, "2"]}), &["`eos_token_id`", "found a string"]),
        (json!({"rope_theta": 0}), &["`rope_theta`", "above 0"]),
        (json!({"rope_theta": 1e300}), &["`rope_theta`", "f32"]),
        (json!({"rope_scaling": []}), &["`rope_scaling`: expected an object, found a list"]),
        (json!({"rope_scaling": {"type": "cubic", "factor": 2}}), &["unknown rope type `cubic`", "llama3"]),
        (json!({"rope_scaling": {"type": "linear"}}), &["`rope_scaling.factor` is missing"]),
        (json!({"rope_scaling": {"type": "linear", "factor": 0}}), &["`rope_scaling.factor`"]),
        (json!({"rope_scaling": {"rope_type": "yarn"}}), &["`rope_scaling.factor` is missing"]),
        (
            json!({"rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 2}}),
            &["`rope_scaling.rope_theta`", "above 1"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": -1e30, "mscale_all_dim": 1}}),
            &["mscale"],
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}}),
            &["`rope_parameters.high_freq_factor`", "low_freq_factor (4)"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}),
            &["`rope_scaling.short_factor`", "8 numbers"],
        ),
        (
            json!({"rope_scaling": {"rope_type": "longrope", "short_factor": [0, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1.0]}}),
            &["`rope_scaling.short_factor`", "above 0"],
        ),
        (
            json!({"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}),
            &["`rope_parameters`", "one per layer type"],
        ),
        (json!({"partial_rotary_factor": 0.5}), &["`partial_rotary_factor`", "llama"]),
        (json!({"per_layer_config": [{}]}), &["`per_layer_config`"]),
        (
            json!({"model_type": "phi3", "architectures": null, "partial_rotary_factor": 0.05}),
            &["`partial_rotary_factor`"],
        ),
        (
            json!({"model_type": "phi3", "architectures": null, "partial_rotary_factor": 1.5}),
            &["`partial_rotary_factor`"],
        ),
        (
            json!({"model_type": "phi3", "architectures": null, "rope_scaling": {"type": "linear", "factor": 2}}),
            &["`linear`"],
        ),
        (json!({"model_type": "mistral", "architectures": null, "sliding_window": 0}), &["`sliding_window`"]),
        (
            json!({"model_type": "mistral", "architectures": null, "layer_types": ["full_attention", "sliding_attention"]}),
            &["`layer_types`"],
        ),
        (
            json!({"model_type": "qwen2", "architectures": null, "layer_types": ["full_attention"]}),
            &["`layer_types`", "2 layers"],
        ),
        (
            json!({"model_type": "qwen2", "architectures": null, "layer_types": ["full_attention", "linear_attention"]}),
            &["`layer_types`", "linear_attention"],
        ),
        (
            json!({"model_type": "qwen2", "architectures": null, "layer_types": ["full_attention", "sliding_attention"]}),
            &["`sliding_window`"],
        ),
        (json!({"model_type": "gemma2", "architectures": null, "sliding_window": null}), &["`sliding_window`"]),
        (
            json!({"model_type": "gemma2", "architectures": null, "query_pre_attn_scalar": 0}),
            &["`query_pre_attn_scalar`"],
        ),
        (
            json!({"model_type": "gemma2", "architectures": null, "use_bidirectional_attention": true}),
            &["`use_bidirectional_attention`"],
        ),
        (
            json!({"model_type": "gemma3", "architectures": null, "text_config": 3}),
            &["`text_config`: expected an object"],
        ),
        (
            json!({"model_type": "gemma3", "architectures": null, "text_config": {}}),
            &["`text_config.hidden_size` is missing"],
        ),
        (
            json!({"model_type": "gemma3_text", "architectures": null, "rope_parameters": {"rope_type": "default"}}),
            &["`rope_parameters`", "sliding_attention"],
        ),
    ];
    for (changes, said) in table {
        let mut config = object(sound());
        config.extend(object(changes.clone()));
        let message = match read(Value::Object(config)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{changes} was accepted"),
        };
        assert!(message.starts_with("config.json: "), "{changes}: {message}");
        for part in *said {
            assert!(message.contains(part), "{changes}: the message lacks {part:?}: {message}");
        }
    }
}

#[test]
fn a_message_shows_a_strangers_text_on_one_short_line() {
    let mut config = object(sound());
    config.insert("model_type".into(), json!(format!("\x1b[2J\n{}", "x".repeat(1 << 20))));
    let message = read(Value::Object(config)).unwrap_err().to_string();
    assert!(message.len() < 500 && !message.contains(['\x1b', '\n']), "{message}");
}

#[test]
fn broken_config_files_are_refused_by_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let message = || ModelConfig::open(dir.path()).unwrap_err().to_string();
    assert!(message().contains("config.json: there is no such file; give a model directory"), "{}", message());
    let depth = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (content, said) in [
        (&b""[..], "broken JSON: EOF"),
        (b"{\"hidden_size\": 64", "broken JSON: EOF"),
        (b"[]", "expected a JSON object, found a list"),
        (b"\xff\xfe{}", "broken JSON"),
        (format!("{{\"x\": {depth}}}").as_bytes(), "recursion limit"),
        (b"{\"hidden_size\": 1e999}", "broken JSON: number out of range"),
    ] {
        std::fs::write(&path, content).unwrap();
        assert!(message().contains("config.json: ") && message().contains(said), "{}", message());
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(message().contains("config.json: is not a regular file"));
}

#[test]
fn phi3_knows_longrope_by_its_older_names() {
    let phi3 = |name: &str| {
        let mut config = object(sound());
        config.extend(object(json!({
            "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "original_max_position_embeddings": 32,
            "rope_scaling": {"type": name, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1.5], "long_factor": [1, 2, 3, 4, 5, 6, 7, 8]},
        })));
        read(Value::Object(config)).unwrap()
    };
    assert_eq!(phi3("su"), phi3("longrope"));
    assert_eq!(phi3("yarn"), phi3("longrope"));
    let rope = &phi3("su").ropes[0];
    assert!(rope.depends_on_length());
    assert_eq!(rope.variant_key(32), rope.variant_key(1));
    assert_ne!(rope.variant_key(32), rope.variant_key(33));
    assert_ne!(rope.variant(32), rope.variant(33));
}

/// Lengths have the same key exactly if they have the same frequencies.
#[test]
fn keys_of_rope_variants_tell_them_apart() {
    for scaling in [
        json!({"type": "dynamic", "factor": 2.0}),
        json!({"type": "linear", "factor": 2.0}),
        json!({"type": "longrope", "factor": 2.0, "original_max_position_embeddings": 150,
            "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [1, 2, 3, 4, 5, 6, 7, 8]}),
    ] {
        let mut config = object(sound());
        config.insert("rope_scaling".into(), scaling.clone());
        let config = read(Value::Object(config)).unwrap();
        let rope = &config.ropes[0];
        for a in [1, 127, 128, 129, 150, 151, 4000] {
            for b in [1, 127, 128, 129, 150, 151, 4000] {
                let (same_key, same) = (rope.variant_key(a) == rope.variant_key(b), rope.variant(a) == rope.variant(b));
                assert_eq!(same_key, same, "{scaling}: lengths {a} and {b}");
                assert!(same || rope.depends_on_length());
            }
        }
    }
}

#[test]
fn stop_ids_come_from_generation_config_first() {
    let dir = tempfile::tempdir().unwrap();
    let config = read(sound()).unwrap();
    let path = dir.path().join("generation_config.json");
    assert_eq!(stop_token_ids(dir.path(), &config).unwrap(), [2, 3]);
    for (content, want) in [
        ("{}", &[2, 3][..]),
        ("{\"eos_token_id\": 9}", &[9]),
        ("{\"eos_token_id\": [9, 4, 9]}", &[4, 9]),
        ("{\"eos_token_id\": -1}", &[2, 3]),
        ("{\"eos_token_id\": [-1, 9]}", &[9]),
    ] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(stop_token_ids(dir.path(), &config).unwrap(), want, "{content}");
    }
    for content in ["{\"eos_token_id\": \"9\"}", "{\"eos_token_id\": 1e9}", "{", "7"] {
        std::fs::write(&path, content).unwrap();
        let message = stop_token_ids(dir.path(), &config).unwrap_err().to_string();
        assert!(message.contains("generation_config.json"), "{message}");
    }
}

#[test]
#[cfg(unix)]
fn an_unreadable_generation_config_is_not_an_absent_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("generation_config.json");
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let message = stop_token_ids(dir.path(), &read(sound()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("generation_config.json"), "{message}");
}

/// A tied model whose file also holds a head: that head is used if it differs from the embedding, and ignored if it is a copy.
#[test]
fn a_stored_head_that_differs_wins_over_tying() {
    use crate::weights::{SafetensorsWriter, TensorSpec};
    let config = ModelConfig { tie_word_embeddings: true, ..read(sound()).unwrap() };
    for (head, tied) in [(&[1u8; 8], true), (&[2u8; 8], false)] {
        let dir = tempfile::tempdir().unwrap();
        let names = ["model.embed_tokens.weight", "lm_head.weight"];
        let specs = names.map(|name| TensorSpec { name: name.to_owned(), dtype: Dtype::BF16, shape: vec![2, 2] });
        let path = dir.path().join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &Default::default(), &specs).unwrap();
        writer.write(names[0], &[1u8; 8]).unwrap();
        writer.write(names[1], head).unwrap();
        writer.finish().unwrap();
        let files = WeightFiles::open(dir.path(), ValueCheck::Finite).unwrap();
        assert_eq!(Layout::of(&config, &files).head_is_tied(&config, &files), tied);
    }
}

#[test]
fn the_prefix_of_the_weights_is_the_one_that_the_files_have() {
    use crate::weights::{SafetensorsWriter, TensorSpec};
    let mut config = object(sound());
    let text = config.clone();
    config.extend(object(json!({"model_type": "gemma3", "architectures": null, "text_config": text})));
    let config = read(Value::Object(config)).unwrap();
    for prefix in ["language_model.model.", "model.language_model.", "model."] {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("{prefix}embed_tokens.weight");
        let spec = TensorSpec { name: name.clone(), dtype: Dtype::BF16, shape: vec![1, 1] };
        let path = dir.path().join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &Default::default(), &[spec]).unwrap();
        writer.write(&name, &[0, 0]).unwrap();
        writer.finish().unwrap();
        let files = WeightFiles::open(dir.path(), ValueCheck::Skip).unwrap();
        assert_eq!(Layout::of(&config, &files).embed_tokens(), name);
    }
    assert_eq!(Layout::new("language_model.model.").lm_head(), "language_model.lm_head.weight");
    assert_eq!(Layout::new("model.language_model.").lm_head(), "lm_head.weight");
    assert_eq!(Layout::new("model.").lm_head(), "lm_head.weight");
}
