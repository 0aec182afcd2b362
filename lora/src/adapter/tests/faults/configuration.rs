//! Faults of `adapter_config.json`.

use super::*;
use serde_json::json as value;

fn is_value(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Value { .. }))
}

fn is_unsupported_key(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Unsupported { .. }))
}

fn is_pattern(error: &AdapterError) -> bool {
    matches!(config(error), Some(ConfigFault::Pattern { .. }))
}

pub(super) const CONFIG_FAULTS: &[Fault] = &[
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
