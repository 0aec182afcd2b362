//! Faults of the tensors in `adapter_model.safetensors`.

use super::*;
use align_engine::weights::{Dtype, LoadError};
use serde_json::json as value;

fn is_unsupported_tensor(error: &AdapterError) -> bool {
    matches!(error, AdapterError::Unsupported { .. })
}

pub(super) const TENSOR_FAULTS: &[Fault] = &[
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
            "`base_model.model.` does not belong in it",
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
        says: &["`_orig_mod.` does not belong in it"],
    },
    Fault {
        what: "names of checkpointed layers",
        spoil: |files| {
            for tensor in &mut files.tensors {
                tensor.name = tensor.name.replacen(".self_attn.", "._checkpoint_wrapped_module.self_attn.", 1);
            }
        },
        expected: |error| matches!(error, AdapterError::Misnamed { count: 32, .. }),
        says: &["32 tensors", "`_checkpoint_wrapped_module.` does not belong in it"],
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
