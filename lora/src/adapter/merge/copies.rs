//! Decides which files of the base's directory are copied beside the merged weights.
//!
//! Files that would make the result load wrongly are left out: weights in other forms and their indexes, which lack the update;
//! the files of an adapter, which other programs would apply again, or look for in vain; and the state of a training run. Keys
//! that claim a quantisation which the weights do not have are left out, too.

use crate::adapter::folder::is_adapters;
use align_engine::model::Quantization;
use align_engine::weights::WeightFiles;
use serde_json::{Map, Value};
use std::ffi::OsStr;

/// What happens to an entry of the base's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Copied,
    LeftOut,
}

/// Decides what happens to a folder. Folders of version control, of download tools and of training checkpoints are left out.
pub(super) fn of_folder(name: &OsStr) -> Fate {
    let about_the_directory = name == ".git" || name == ".cache" || name == ".huggingface";
    let of_a_run = name.to_str().is_some_and(|name| {
        ["checkpoint-", "global_step"].iter().any(|start| {
            name.strip_prefix(start)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
        })
    });
    if about_the_directory || of_a_run { Fate::LeftOut } else { Fate::Copied }
}

/// Decides what happens to a file that is not one of the shards that are merged.
pub(super) fn of_file(name: &OsStr, files: &WeightFiles) -> Fate {
    if is_adapters(name) || is_other_weights(name, files) || is_training_state(name) {
        return Fate::LeftOut;
    }
    Fate::Copied
}

/// Whether a file holds the base's weights in another form, or is an index of such files. A copy would lack the update and
/// mislead programs that prefer it.
fn is_other_weights(name: &OsStr, files: &WeightFiles) -> bool {
    let Some(name) = name.to_str() else { return false };
    let in_one_piece = files.shards().iter().any(|shard| shard.path().ends_with("model.safetensors"));
    let is_index = name.ends_with(".index.json") && (in_one_piece || name != "model.safetensors.index.json");
    let named =
        ["pytorch_model", "openvino_model", "diffusion_pytorch_model"].iter().any(|start| name.starts_with(start))
            && (name.ends_with(".bin") || name.ends_with(".xml"));
    let others = [
        ".safetensors", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".ot",
        ".tflite", ".nemo", ".npz", ".mlmodel", ".mlpackage",
    ];
    is_index || named || others.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file is part of the saved state of a training run, which does not belong to the merged weights.
fn is_training_state(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let exact = [
        "optimizer.bin",
        "scheduler.bin",
        "trainer_state.json",
        "training_args.bin",
        "zero_to_fp32.py",
        "latest",
        "latest_checkpointed_iteration.txt",
    ];
    exact.contains(&name) || (name.starts_with("random_states_") && name.ends_with(".pkl"))
}

/// Removes the keys about a quantisation from `config.json`. An earlier merge may have left them there, and they would make other
/// programs misread the plain weights. Returns the removed keys that were not null.
pub(super) fn without_quantisation(config: &mut Map<String, Value>) -> Vec<String> {
    let mut removed = Vec::new();
    for key in Quantization::KEYS {
        // the order of the other keys stays as in the file
        if config.shift_remove(key).is_some_and(|value| !value.is_null()) {
            removed.push(key.to_owned());
        }
        if let Some(Value::Object(text)) = config.get_mut("text_config")
            && text.shift_remove(key).is_some_and(|value| !value.is_null())
        {
            removed.push(format!("text_config.{key}"));
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_mark_of_a_quantisation_goes_and_the_rest_stays_in_its_order() {
        let mut config = json!({
            "model_type": "gemma3", "quantization_config": {"load_in_4bit": true}, "vocab_size": 8,
            "text_config": {"hidden_size": 4, "quantization": {"bits": 4}, "head_dim": 2}, "quantization": null, "last": 1e-6,
        });
        let removed = without_quantisation(config.as_object_mut().unwrap());
        assert_eq!(removed, ["quantization_config", "text_config.quantization"]);
        let text = r#"{"model_type":"gemma3","vocab_size":8,"text_config":{"hidden_size":4,"head_dim":2},"last":1e-6}"#;
        assert_eq!(config.to_string(), text);
        assert!(without_quantisation(config.as_object_mut().unwrap()).is_empty());
    }

    #[test]
    fn folders_of_runs_are_told_from_others() {
        for (name, fate) in [
            ("checkpoint-50", Fate::LeftOut),
            ("global_step1200", Fate::LeftOut),
            (".git", Fate::LeftOut),
            ("checkpoint-", Fate::Copied),
            ("checkpoint-notes", Fate::Copied),
            ("1_Pooling", Fate::Copied),
        ] {
            assert_eq!(of_folder(OsStr::new(name)), fate, "{name}");
        }
    }
}
