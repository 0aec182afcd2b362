//! What a user should know once about a model that was read.

use super::config::ModelConfig;
use super::layout::Layout;
use crate::weights::{Checkpoint, IndexFault};
use std::path::PathBuf;

/// Something about a model's folder that changes no number here, and that its user may not know.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelNote {
    /// Tensors that config.json does not speak of: it may be that of another model.
    UnusedTensors { dir: PathBuf, names: Vec<String> },
    /// config.json calls the weights quantised, and they are not.
    PlainWeights { dir: PathBuf, key: &'static str, method: String },
    /// The scaling of positions stands under the key `type`, which transformers drops for this family.
    OldRopeKey { dir: PathBuf, rope_type: String },
    /// The weights have a head of their own, which config.json denies.
    OwnHead { dir: PathBuf, name: String },
    /// A file of weights is a link out of the folder.
    Link { path: PathBuf, target: PathBuf },
    /// The index of shards is wrong about tensors that are there all the same, or about some that the model does not need.
    Index { path: PathBuf, faults: Vec<IndexFault> },
}

impl ModelNote {
    /// All of them, for a checkpoint that fits.
    pub fn of(config: &ModelConfig, checkpoint: &Checkpoint) -> Vec<ModelNote> {
        let dir = || checkpoint.dir().to_owned();
        let mut notes = Vec::new();
        if let Some(found) = &config.quantization {
            notes.push(ModelNote::PlainWeights { dir: dir(), key: found.key, method: found.method.clone() });
        }
        if let Some(rope_type) = &config.old_rope_key {
            notes.push(ModelNote::OldRopeKey { dir: dir(), rope_type: rope_type.clone() });
        }
        let layout = Layout::of(config, checkpoint);
        if config.tie_word_embeddings && !layout.head_is_tied(config, checkpoint) {
            notes.push(ModelNote::OwnHead { dir: dir(), name: layout.lm_head() });
        }
        if !checkpoint.index_faults().is_empty() {
            let faults = checkpoint.index_faults().to_vec();
            notes.push(ModelNote::Index { path: checkpoint.index_path(), faults });
        }
        let links = checkpoint.links().iter().cloned();
        notes.extend(links.map(|(path, target)| ModelNote::Link { path, target }));
        let names = layout.unused(config, checkpoint).names;
        if !names.is_empty() {
            notes.push(ModelNote::UnusedTensors { dir: dir(), names });
        }
        notes
    }
}
