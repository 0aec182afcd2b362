//! Notes for the user about a model that has been loaded.

use super::config::ModelConfig;
use super::layout::Layout;
use crate::weights::{IndexFault, WeightFiles};
use std::path::PathBuf;

/// A fact about a model's folder that the user may not know. A note only informs: it changes nothing that the program computes.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "a variant's text says what its fields are")]
pub enum ModelNote {
    /// The files hold tensors that config.json does not imply, so config.json may belong to another model.
    UnusedTensors { dir: PathBuf, names: Vec<String> },
    /// config.json says that the weights are quantised, but they are not.
    PlainWeights { dir: PathBuf, key: &'static str, method: String },
    /// The type of `rope_scaling` is under the older key `type`, so transformers ignores `rope_scaling` for this family.
    OldRopeKey { dir: PathBuf, rope_type: String },
    /// config.json ties the head to the embedding, but the files hold a head that differs from it. That head is used.
    OwnHead { dir: PathBuf, name: String },
    /// A weight file is a link to a file outside the folder.
    Link { path: PathBuf, target: PathBuf },
    /// The index of shards has faults, but every tensor that the model needs was found.
    Index { path: PathBuf, faults: Vec<IndexFault> },
}

impl ModelNote {
    /// Returns all notes on a model. Call it after the model has loaded: then `files` holds every tensor that `config` needs.
    pub fn of(config: &ModelConfig, files: &WeightFiles) -> Vec<ModelNote> {
        let dir = || files.dir().to_owned();
        let mut notes = Vec::new();
        if let Some(found) = &config.quantization {
            notes.push(ModelNote::PlainWeights { dir: dir(), key: found.key, method: found.method.clone() });
        }
        if let Some(rope_type) = &config.old_rope_key {
            notes.push(ModelNote::OldRopeKey { dir: dir(), rope_type: rope_type.clone() });
        }
        let layout = Layout::of(config, files);
        if config.tie_word_embeddings && !layout.head_is_tied(config, files) {
            notes.push(ModelNote::OwnHead { dir: dir(), name: layout.lm_head() });
        }
        if !files.index_faults().is_empty() {
            let faults = files.index_faults().to_vec();
            notes.push(ModelNote::Index { path: files.index_path(), faults });
        }
        let links = files.links().iter().cloned();
        notes.extend(links.map(|(path, target)| ModelNote::Link { path, target }));
        let names = layout.unused(config, files).names;
        if !names.is_empty() {
            notes.push(ModelNote::UnusedTensors { dir: dir(), names });
        }
        notes
    }
}
