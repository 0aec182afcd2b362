//! Adapters that must be refused: a table of faults, each with the error that names it.

use super::fixtures::*;
use super::*;
use align_engine::weights::{Dtype, HeaderFault, LoadError};
use serde_json::json as value;
use std::path::PathBuf;

const MODULE: &str = "model.layers.1.self_attn.k_proj";

fn a() -> String {
    format!("base_model.model.{MODULE}.lora_A.weight")
}

fn b() -> String {
    format!("base_model.model.{MODULE}.lora_B.weight")
}

struct Fault {
    what: &'static str,
    spoil: fn(&mut Spoilt),
    expected: fn(&AdapterError) -> bool,
    /// What the message must name.
    says: &'static [&'static str],
}

/// The fault of a configuration.
fn config(error: &AdapterError) -> Option<&ConfigFault> {
    match error {
        AdapterError::Config { fault, .. } => Some(fault),
        _ => None,
    }
}

fn is_value(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Value { .. }))
}

fn is_unsupported_key(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Unsupported { .. }))
}

fn is_pattern(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Pattern { .. }))
}

fn is_unsupported_tensor(error: &AdapterError) -> bool {
    matches!(error, AdapterError::Unsupported { .. })
}

fn push(files: &mut Spoilt, name: &str, shape: &[usize]) {
    files.tensors.push(RawTensor::f32(name, shape, &vec![0.5; shape.iter().product()]));
}

const CONFIG_FAULTS: &[Fault] = &[
    Fault {
        what: "no peft_type",
        spoil: |files| drop(files.config.as_object_mut().unwrap().remove("peft_type")),
        expected: |error| matches!(config(error), Some(ConfigFault::Missing { key: "peft_type" })),
        says: &["adapter_config.json", "peft_type"],
    },
    Fault {
        what: "another method",
        spoil: |files| files.config["peft_type"] = value!("LOHA"),
        expected: is_unsupported_key,
        says: &["peft_type", "LOHA"],
    },
    Fault {
        what: "another task",
        spoil: |files| files.config["task_type"] = value!("TOKEN_CLS"),
        expected: is_unsupported_key,
        says: &["task_type", "TOKEN_CLS"],
    },
    Fault {
        what: "trained biases",
        spoil: |files| files.config["bias"] = value!("lora_only"),
        expected: is_unsupported_key,
        says: &["bias", "lora_only"],
    },
    Fault {
        what: "DoRA",
        spoil: |files| files.config["use_dora"] = value!(true),
        expected: is_unsupported_key,
        says: &["use_dora", "DoRA"],
    },
    Fault {
        what: "modules_to_save",
        spoil: |files| files.config["modules_to_save"] = value!(["lm_head"]),
        expected: is_unsupported_key,
        says: &["modules_to_save", "lm_head"],
    },
    Fault {
        what: "lora_bias",
        spoil: |files| files.config["lora_bias"] = value!(true),
        expected: is_unsupported_key,
        says: &["lora_bias"],
    },
    Fault {
        what: "transposed base",
        spoil: |files| files.config["fan_in_fan_out"] = value!(true),
        expected: is_unsupported_key,
        says: &["fan_in_fan_out"],
    },
    Fault {
        what: "tokens of the embedding",
        spoil: |files| files.config["trainable_token_indices"] = value!({"embed_tokens": [1, 2]}),
        expected: is_unsupported_key,
        says: &["trainable_token_indices"],
    },
    Fault {
        what: "parameters that are no modules",
        spoil: |files| files.config["target_parameters"] = value!(["experts.gate_up_proj"]),
        expected: is_unsupported_key,
        says: &["target_parameters", "experts"],
    },
    Fault {
        what: "aLoRA",
        spoil: |files| files.config["alora_invocation_tokens"] = value!([1, 2, 3]),
        expected: is_unsupported_key,
        says: &["alora_invocation_tokens", "aLoRA"],
    },
    Fault {
        what: "QALoRA",
        spoil: |files| files.config["use_qalora"] = value!(true),
        expected: is_unsupported_key,
        says: &["use_qalora", "QALoRA"],
    },
    Fault {
        what: "BD-LoRA",
        spoil: |files| files.config["use_bdlora"] = value!({"nblocks": 2}),
        expected: is_unsupported_key,
        says: &["use_bdlora"],
    },
    Fault {
        what: "replicated layers",
        spoil: |files| files.config["layer_replication"] = value!([[0, 2], [1, 4]]),
        expected: is_unsupported_key,
        says: &["layer_replication"],
    },
    Fault {
        what: "an initialisation that changes the base",
        spoil: |files| files.config["init_lora_weights"] = value!("pissa_niter_4"),
        expected: is_unsupported_key,
        says: &["init_lora_weights", "pissa_niter_4"],
    },
    Fault {
        what: "a key of the future with a value",
        spoil: |files| files.config["use_quantum"] = value!({"qubits": 2}),
        expected: |error| matches!(config(error), Some(ConfigFault::UnknownKey { .. })),
        says: &["use_quantum", "qubits"],
    },
    Fault { what: "rank 0", spoil: |files| files.config["r"] = value!(0), expected: is_value, says: &["`r` is 0"] },
    Fault {
        what: "rank below 0",
        spoil: |files| files.config["r"] = value!(-8),
        expected: is_value,
        says: &["`r` is -8"],
    },
    Fault {
        what: "rank as a string",
        spoil: |files| files.config["r"] = value!("8"),
        expected: is_value,
        says: &["`r` is \"8\""],
    },
    Fault {
        what: "a rank that no file holds",
        spoil: |files| files.config["r"] = value!(1u64 << 60),
        expected: is_value,
        says: &["`r`", "65536"],
    },
    Fault {
        what: "a rank of a pattern",
        spoil: |files| files.config["rank_pattern"] = value!({"q_proj": 0}),
        expected: is_value,
        says: &["rank_pattern.q_proj"],
    },
    Fault {
        what: "rank_pattern as a list",
        spoil: |files| files.config["rank_pattern"] = value!(["q_proj"]),
        expected: is_value,
        says: &["rank_pattern"],
    },
    Fault {
        what: "alpha 0",
        spoil: |files| files.config["lora_alpha"] = value!(0),
        expected: is_value,
        says: &["lora_alpha", "above 0"],
    },
    Fault {
        what: "alpha below 0",
        spoil: |files| files.config["lora_alpha"] = value!(-16.0),
        expected: is_value,
        says: &["lora_alpha", "-16"],
    },
    Fault {
        what: "an alpha that f32 cannot hold",
        spoil: |files| files.config["lora_alpha"] = value!(1e300),
        expected: is_value,
        says: &["lora_alpha"],
    },
    Fault {
        what: "an alpha of a pattern",
        spoil: |files| files.config["alpha_pattern"] = value!({"q_proj": true}),
        expected: is_value,
        says: &["alpha_pattern.q_proj", "true"],
    },
    Fault {
        what: "dropout 1",
        spoil: |files| files.config["lora_dropout"] = value!(1.0),
        expected: is_value,
        says: &["lora_dropout"],
    },
    Fault {
        what: "targets that are no names",
        spoil: |files| files.config["target_modules"] = value!(["q_proj", 3]),
        expected: is_value,
        says: &["target_modules"],
    },
    Fault {
        what: "a target expression that does not parse",
        spoil: |files| files.config["target_modules"] = value!("model\\.(layers"),
        expected: is_pattern,
        says: &["target_modules", "(layers"],
    },
    Fault {
        what: "a target expression that backtracks for ever",
        spoil: |files| files.config["target_modules"] = value!("(?:(?=[a-z.0-9_])(?:[a-z.0-9_]+)+)+!"),
        expected: is_pattern,
        says: &["target_modules", "backtrack"],
    },
    Fault {
        what: "an excluding expression that does not parse",
        spoil: |files| files.config["exclude_modules"] = value!("[z-a]"),
        expected: is_pattern,
        says: &["exclude_modules"],
    },
    Fault {
        what: "a pattern of ranks that does not parse",
        spoil: |files| files.config["rank_pattern"] = value!({"q_proj)": 4}),
        expected: is_pattern,
        says: &["rank_pattern", "q_proj)"],
    },
    Fault {
        what: "a pattern of layers that does not parse",
        spoil: |files| {
            files.config["layers_to_transform"] = value!([0]);
            files.config["layers_pattern"] = value!("layers(");
        },
        expected: is_pattern,
        says: &["layers_pattern"],
    },
    Fault {
        what: "layers beside an expression",
        spoil: |files| {
            files.config["target_modules"] = value!(".*_proj");
            files.config["layers_to_transform"] = value!(1);
        },
        expected: |error| matches!(config(error), Some(ConfigFault::NeedsList { .. })),
        says: &["layers_to_transform", ".*_proj"],
    },
    Fault {
        what: "layers that are no numbers",
        spoil: |files| files.config["layers_to_transform"] = value!([1.5]),
        expected: is_value,
        says: &["layers_to_transform"],
    },
    Fault {
        what: "a pattern of layers without layers",
        spoil: |files| files.config["layers_pattern"] = value!("layers"),
        expected: |error| matches!(config(error), Some(ConfigFault::PatternAlone)),
        says: &["layers_to_transform"],
    },
    Fault {
        what: "the output embedding as a target",
        spoil: |files| files.config["target_modules"] = value!(["q_proj", "lm_head"]),
        expected: |error| matches!(config(error), Some(ConfigFault::Embedding { .. })),
        says: &["lm_head"],
    },
    Fault {
        what: "the embedding as a target, by an expression",
        spoil: |files| files.config["target_modules"] = value!("model\\.(layers\\..*_proj|embed_tokens)"),
        expected: |error| matches!(config(error), Some(ConfigFault::Embedding { .. })),
        says: &["model.embed_tokens"],
    },
    Fault {
        what: "targets of another family",
        spoil: |files| files.config["target_modules"] = value!(["c_attn", "c_proj"]),
        expected: |error| matches!(config(error), Some(ConfigFault::NothingMatches { .. })),
        says: &["c_attn", "model.layers.N.self_attn.q_proj", "model.layers.N.mlp.down_proj"],
    },
    Fault {
        what: "everything excluded",
        spoil: |files| files.config["exclude_modules"] = value!(".*"),
        expected: |error| matches!(config(error), Some(ConfigFault::NothingMatches { .. })),
        says: &["exclude_modules"],
    },
];

const TENSOR_FAULTS: &[Fault] = &[
    Fault {
        what: "no A",
        spoil: |files| files.tensors.retain(|tensor| tensor.name != a()),
        expected: |error| matches!(error, AdapterError::Partner { tensor, missing, .. } if *tensor == b() && *missing == a()),
        says: &["adapter_model.safetensors", "layers.1.self_attn.k_proj.lora_A.weight"],
    },
    Fault {
        what: "no B",
        spoil: |files| files.tensors.retain(|tensor| tensor.name != b()),
        expected: |error| matches!(error, AdapterError::Partner { tensor, missing, .. } if *tensor == a() && *missing == b()),
        says: &["layers.1.self_attn.k_proj.lora_B.weight"],
    },
    Fault {
        what: "neither A nor B",
        spoil: |files| files.tensors.retain(|tensor| !tensor.name.contains(MODULE)),
        expected: |error| matches!(error, AdapterError::NotInFile { count: 1, modules, .. } if modules == &[MODULE]),
        says: &["1 module that", MODULE],
    },
    Fault {
        what: "no tensors",
        spoil: |files| files.tensors.clear(),
        expected: |error| matches!(error, AdapterError::NotInFile { count: 28, modules, .. } if modules.len() == 5),
        says: &["28 modules", "model.layers.0.self_attn.q_proj", ", ..."],
    },
    Fault {
        what: "more modules than the configuration",
        spoil: |files| files.config["target_modules"] = value!(["q_proj", "v_proj"]),
        expected: |error| matches!(error, AdapterError::NotTargeted { count: 20, .. }),
        says: &["20 modules", "model.layers.0.self_attn.k_proj"],
    },
    Fault {
        what: "a layer that the model does not have",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replace("layers.3.", "layers.7.");
            }
        },
        expected: |error| matches!(error, AdapterError::Unmatched { count: 14, tensors, .. } if tensors.len() == 5),
        says: &["14 tensors", "model.layers.7.mlp.down_proj.lora_A.weight", "another model", ", ..."],
    },
    Fault {
        what: "names without PEFT's prefix",
        spoil: |files| files.tensor(&a()).name = format!("{MODULE}.lora_A.weight"),
        expected: |error| matches!(error, AdapterError::Misnamed { count: 1, .. }),
        says: &[
            "1 tensor has a name",
            "`model.layers.1.self_attn.k_proj.lora_A.weight`",
            "`base_model.model.` is missing",
        ],
    },
    Fault {
        what: "names of a wrapped model",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replacen("base_model.model.", "base_model.model.base_model.model.", 1);
            }
        },
        expected: |error| matches!(error, AdapterError::Misnamed { count: 56, .. }),
        says: &[
            "56 tensors have names",
            "`base_model.model.` is too much",
            "PEFT reads `base_model.model.model.layers.0.",
        ],
    },
    Fault {
        what: "names of a compiled model",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replacen("base_model.model.", "base_model.model._orig_mod.", 1);
            }
        },
        expected: |error| matches!(error, AdapterError::Misnamed { count: 56, .. }),
        says: &["`_orig_mod.` is too much"],
    },
    Fault {
        what: "names of checkpointed layers",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replacen(".self_attn.", "._checkpoint_wrapped_module.self_attn.", 1);
            }
        },
        expected: |error| matches!(error, AdapterError::Misnamed { count: 32, .. }),
        says: &["32 tensors", "`_checkpoint_wrapped_module.` is too much"],
    },
    Fault {
        what: "names without `weight`",
        spoil: |files| files.tensor(&a()).name = format!("base_model.model.{MODULE}.lora_A.default"),
        expected: |error| matches!(error, AdapterError::Misnamed { count: 1, .. }),
        says: &["`.weight` is missing"],
    },
    Fault {
        what: "one matrix under both names",
        spoil: |files| {
            let mut twice = files.tensor(&a()).clone();
            twice.name = format!("base_model.model.{MODULE}.lora_A.default.weight");
            files.tensors.push(twice);
        },
        expected: |error| matches!(error, AdapterError::Twice { .. }),
        says: &["k_proj.lora_A.weight`", "k_proj.lora_A.default.weight`", "same matrix"],
    },
    Fault {
        what: "another adapter's name",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replace(".weight", ".policy.weight");
            }
        },
        expected: |error| matches!(error, AdapterError::AdapterName { others: false, .. }),
        says: &["adapter's name `policy`", "`default`"],
    },
    Fault {
        what: "two adapters",
        spoil: |files| {
            for tensor in files.tensors.clone() {
                files.tensor(&tensor.name).name = tensor.name.replace(".weight", ".default.weight");
                let name = tensor.name.replace(".weight", ".reference.weight");
                files.tensors.push(RawTensor { name, ..tensor });
            }
        },
        expected: |error| matches!(error, AdapterError::AdapterName { others: true, .. }),
        says: &["several adapters", "`reference`", "keep one"],
    },
    Fault {
        what: "the base's own weights",
        spoil: |files| push(files, &format!("base_model.model.{MODULE}.base_layer.weight"), &[32, 64]),
        expected: is_unsupported_tensor,
        says: &["base_layer", "the base's own weights"],
    },
    Fault {
        what: "a bias on B under the adapter's name",
        spoil: |files| push(files, &format!("base_model.model.{MODULE}.lora_B.default.bias"), &[32]),
        expected: is_unsupported_tensor,
        says: &["lora_B.default.bias", "lora_bias"],
    },
    Fault {
        what: "an adapter on the output embedding under the adapter's name",
        spoil: |files| push(files, "base_model.model.lm_head.lora_A.default.weight", &[8, 64]),
        expected: is_unsupported_tensor,
        says: &["lm_head.lora_A.default.weight", "an adapter on an embedding"],
    },
    Fault {
        what: "an adapter on the embedding under the adapter's name",
        spoil: |files| push(files, "base_model.model.model.embed_tokens.lora_embedding_A.default", &[8, 256]),
        expected: is_unsupported_tensor,
        says: &["lora_embedding_A.default", "an adapter on an embedding"],
    },
    Fault {
        what: "a whole module as a running model has it",
        spoil: |files| push(files, "base_model.model.lm_head.modules_to_save.default.weight", &[256, 64]),
        expected: is_unsupported_tensor,
        says: &["lm_head.modules_to_save.default.weight", "trained whole"],
    },
    Fault {
        what: "another rank than the configuration's",
        spoil: |files| files.config["r"] = value!(4),
        expected: |error| matches!(error, AdapterError::Rank { found_rank: 8, expected: 4, .. }),
        says: &["lora_A.weight", "rank 8", "rank 4"],
    },
    Fault {
        what: "a rank of a pattern that the tensors do not have",
        spoil: |files| files.config["rank_pattern"] = value!({"layers.1.self_attn.k_proj": 16}),
        expected: |error| matches!(error, AdapterError::Rank { tensor, found_rank: 8, expected: 16, .. } if *tensor == a()),
        says: &["rank 8", "rank 16"],
    },
    Fault {
        what: "another width",
        spoil: |files| *files.tensor(&a()) = RawTensor::f32(a(), &[8, 96], &[0.5; 768]),
        expected: |error| matches!(error, AdapterError::Shape { tensor, expected: [8, 64], .. } if *tensor == a()),
        says: &["[8, 96]", "[8, 64]", "another model"],
    },
    Fault {
        what: "a transposed matrix",
        spoil: |files| files.tensor(&b()).shape.reverse(),
        expected: |error| matches!(error, AdapterError::Shape { tensor, .. } if *tensor == b()),
        says: &["lora_B.weight"],
    },
    Fault {
        what: "a third dimension",
        spoil: |files| files.tensor(&a()).shape.push(1),
        expected: |error| matches!(error, AdapterError::Shape { tensor, .. } if *tensor == a()),
        says: &["[8, 64, 1]"],
    },
    Fault {
        what: "a vector",
        spoil: |files| files.tensor(&a()).shape = vec![512],
        expected: |error| matches!(error, AdapterError::Shape { tensor, .. } if *tensor == a()),
        says: &["[512]"],
    },
    Fault {
        what: "NaN",
        spoil: |files| files.tensor(&b()).bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes()),
        expected: |error| matches!(error, AdapterError::NonFinite { tensor, element: 10, .. } if *tensor == b()),
        says: &["lora_B.weight", "NaN", "element 10"],
    },
    Fault {
        what: "infinity",
        spoil: |files| files.tensor(&a()).bytes[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()),
        expected: |error| matches!(error, AdapterError::NonFinite { tensor, element: 0, .. } if *tensor == a()),
        says: &["lora_A.weight", "-inf"],
    },
    Fault {
        what: "integers",
        spoil: |files| files.tensor(&a()).dtype = Dtype::I32,
        expected: |error| matches!(error, AdapterError::Load(LoadError::Dtype { name, .. }) if *name == a()),
        says: &["lora_A.weight", "I32"],
    },
    Fault {
        what: "DoRA's magnitudes",
        spoil: |files| push(files, &format!("base_model.model.{MODULE}.lora_magnitude_vector"), &[32]),
        expected: is_unsupported_tensor,
        says: &["lora_magnitude_vector", "DoRA"],
    },
    Fault {
        what: "an adapter on the embedding",
        spoil: |files| push(files, "base_model.model.model.embed_tokens.lora_embedding_A", &[8, 256]),
        expected: is_unsupported_tensor,
        says: &["embed_tokens"],
    },
    Fault {
        what: "an adapter on the output embedding",
        spoil: |files| push(files, "base_model.model.lm_head.lora_A.weight", &[8, 64]),
        expected: is_unsupported_tensor,
        says: &["lm_head.lora_A.weight"],
    },
    Fault {
        what: "a whole output embedding",
        spoil: |files| push(files, "base_model.model.lm_head.weight", &[256, 64]),
        expected: is_unsupported_tensor,
        says: &["lm_head.weight", "modules_to_save"],
    },
    Fault {
        what: "a bias on B",
        spoil: |files| push(files, &format!("base_model.model.{MODULE}.lora_B.bias"), &[32]),
        expected: is_unsupported_tensor,
        says: &["lora_B.bias", "lora_bias"],
    },
];

fn check(error: &AdapterError, what: &str, expected: fn(&AdapterError) -> bool, says: &[&str]) {
    let message = error.to_string();
    assert!(expected(error), "{what}: {error:?}");
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
    }
}

#[test]
fn broken_adapters_are_refused_with_the_fault_named() {
    let model = load_model(&tiny_model("tiny-llama"));
    let sound = goldens().join("tiny-llama/adapter");
    // the table proves nothing unless a copy without a fault is taken
    Adapter::load(&model, Spoilt::copy_of(&sound).write().path()).unwrap();
    for fault in CONFIG_FAULTS.iter().chain(TENSOR_FAULTS) {
        let mut files = Spoilt::copy_of(&sound);
        (fault.spoil)(&mut files);
        let dir = files.write();
        let error = Adapter::load(&model, dir.path()).expect_err(fault.what);
        check(&error, fault.what, fault.expected, fault.says);
        let file = if config(&error).is_some() { "adapter_config.json" } else { "adapter_model.safetensors" };
        assert!(error.to_string().contains(dir.path().join(file).to_str().unwrap()), "{}: {error}", fault.what);
    }
}

#[test]
fn broken_files_are_refused_with_the_fault_named() {
    let model = load_model(&tiny_model("tiny-llama"));
    type Spoil = fn(&Path);
    fn cut(dir: &Path) {
        let path = dir.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    }
    type Row = (&'static str, Spoil, fn(&AdapterError) -> bool, &'static [&'static str]);
    let table: [Row; 9] = [
        (
            "no configuration",
            |dir| std::fs::remove_file(dir.join("adapter_config.json")).unwrap(),
            |error| {
                matches!(error, AdapterError::NoFile { file: "adapter_config.json", instead: Instead::Nothing, .. })
            },
            &["adapter_config.json"],
        ),
        (
            "no values",
            |dir| std::fs::remove_file(dir.join("adapter_model.safetensors")).unwrap(),
            |error| {
                matches!(
                    error,
                    AdapterError::NoFile { file: "adapter_model.safetensors", instead: Instead::Nothing, .. }
                )
            },
            &["adapter_model.safetensors"],
        ),
        (
            "values in a pickle",
            |dir| {
                std::fs::rename(dir.join("adapter_model.safetensors"), dir.join("adapter_model.bin")).unwrap();
            },
            |error| matches!(error, AdapterError::NoFile { instead: Instead::Pickle, .. }),
            &["adapter_model.bin", "PEFT"],
        ),
        (
            "broken JSON",
            |dir| std::fs::write(dir.join("adapter_config.json"), "{\"r\": 8,").unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::Parse { .. })),
            &["adapter_config.json", "broken JSON", "line 1"],
        ),
        (
            "deep JSON",
            |dir| std::fs::write(dir.join("adapter_config.json"), "[".repeat(100_000)).unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::Parse { .. })),
            &["adapter_config.json"],
        ),
        (
            "a list",
            |dir| std::fs::write(dir.join("adapter_config.json"), "[]").unwrap(),
            |error| matches!(error, AdapterError::Json(align_engine::JsonError::NotAnObject { .. })),
            &["adapter_config.json", "a list"],
        ),
        (
            "truncated values",
            cut,
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::Truncated { .. })
            },
            &["adapter_model.safetensors", "truncated"],
        ),
        (
            "no bytes",
            |dir| std::fs::write(dir.join("adapter_model.safetensors"), "").unwrap(),
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::TooShort { bytes: 0 })
            },
            &["adapter_model.safetensors"],
        ),
        (
            "a pointer of git-lfs in place of the values",
            |dir| {
                let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
                std::fs::write(dir.join("adapter_model.safetensors"), pointer).unwrap();
            },
            |error| {
                let AdapterError::Load(LoadError::Header { fault, .. }) = error else { return false };
                matches!(fault, HeaderFault::Length { .. })
            },
            &["adapter_model.safetensors"],
        ),
    ];
    for (what, spoil, expected, says) in table {
        let dir = Spoilt::copy_of(&goldens().join("tiny-llama/adapter")).write();
        spoil(dir.path());
        let error = Adapter::load(&model, dir.path()).expect_err(what);
        check(&error, what, expected, says);
    }
}

#[test]
fn the_adapter_of_another_model_is_refused() {
    let all: Vec<(Model, PathBuf)> =
        golden_adapters().into_iter().map(|(model, adapter)| (load_model(&model), adapter)).collect();
    let mut refused = 0;
    for (model, own) in &all {
        for (other, adapter) in &all {
            // models of the same shape cannot be told apart by their adapters
            if model.linears() == other.linears() {
                continue;
            }
            let error = Adapter::load(model, adapter).expect_err("an adapter for other shapes");
            let expected = matches!(
                error,
                AdapterError::Unmatched { .. }
                    | AdapterError::Misnamed { .. }
                    | AdapterError::Shape { .. }
                    | AdapterError::NotInFile { .. }
                    | AdapterError::Config { fault: ConfigFault::NothingMatches { .. }, .. }
            );
            assert!(expected, "{} on the model of {}: {error}", adapter.display(), own.display());
            refused += 1;
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn options_that_make_no_adapter_are_refused() {
    let model = load_model(&tiny_model("tiny-llama"));
    let refuse = |config: LoraConfig| match Adapter::fresh(&model, &config, 0) {
        Err(AdapterError::Options(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let plain = LoraConfig::default();
    assert!(matches!(refuse(LoraConfig { rank: 0, ..plain.clone() }), ConfigFault::Value { key, .. } if key == "r"));
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let fault = refuse(LoraConfig { alpha, ..plain.clone() });
        assert!(matches!(fault, ConfigFault::Value { key, .. } if key == "lora_alpha"));
    }
    for dropout in [1.0, -0.1, f64::NAN] {
        let fault = refuse(LoraConfig { dropout, ..plain.clone() });
        assert!(matches!(fault, ConfigFault::Value { key, .. } if key == "lora_dropout"));
    }
    let target_modules: Targets = "q_prj,v_prj".parse().unwrap();
    let message = refuse(LoraConfig { target_modules, ..plain }).to_string();
    assert!(message.contains("q_prj") && message.contains("model.layers.N.mlp.gate_proj"), "{message}");
}

#[test]
fn an_adapter_that_diverged_is_not_written_over_a_sound_one() {
    let model = load_model(&tiny_model("tiny-llama"));
    let dir = Spoilt::copy_of(&goldens().join("tiny-llama/adapter")).write();
    let before = files(dir.path());
    let adapter = Adapter::load(&model, dir.path()).unwrap();
    let (key, param) = adapter.params().nth(9).unwrap();
    param.write().view_mut().fill(f32::NAN);
    let error = adapter.save(dir.path()).unwrap_err();
    assert!(matches!(&error, AdapterError::NonFinite { tensor, .. } if *tensor == key), "{error}");
    assert!(files(dir.path()) == before);
}

#[test]
fn the_command_lines_targets_are_read_as_documented() {
    let list = |names: &[&str]| Targets::Named(ModuleNames::List(names.iter().map(|&name| name.to_owned()).collect()));
    let regex = |pattern: &str| Targets::Named(ModuleNames::Regex(pattern.to_owned()));
    for (text, expected) in [
        ("all-linear", Targets::AllLinear),
        ("All-Linear", Targets::AllLinear),
        ("q_proj", list(&["q_proj"])),
        ("q_proj,v_proj", list(&["q_proj", "v_proj"])),
        ("q_proj, v_proj", list(&["q_proj", "v_proj"])),
        ("layers.0.self_attn.q_proj,mlp.up_proj", list(&["layers.0.self_attn.q_proj", "mlp.up_proj"])),
        (r".*\.q_proj", regex(r".*\.q_proj")),
        ("q_proj|v_proj", regex("q_proj|v_proj")),
        (r".*\.(?!0\.)\d+\.mlp\.\w{1,9}", regex(r".*\.(?!0\.)\d+\.mlp\.\w{1,9}")),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    assert!(matches!("(q_proj".parse::<Targets>(), Err(ConfigFault::Pattern { .. })));
}
