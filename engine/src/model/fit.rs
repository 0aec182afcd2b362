//! Checks, by names and shapes, whether weight files hold the model that config.json describes. Also finds what else they hold.

use super::config::ModelConfig;
use super::layout::Layout;
use crate::weights::{LoadError, WeightFiles};
use std::collections::BTreeSet;

/// Parts that programs add to the names of modules when they wrap a model, each with its program.
pub const WRAPPERS: [(&str, &str); 8] = [
    ("_orig_mod.", "torch.compile"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
    ("_forward_module.", "a trainer"),
    ("base_model.model.", "PEFT"),
    ("base_layer.", "PEFT"),
    ("pretrained_model.", "TRL's value head"),
    ("module.", "DataParallel or DeepSpeed"),
];

/// Tensors in the weight files that the model does not use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnusedTensors {
    /// Tensors that config.json does not imply: parts that this program does not run, or a sign that config.json belongs to
    /// another model.
    pub names: Vec<String>,
    /// Number of tensors of a Gemma 3's vision tower, which text does not need.
    pub vision: usize,
}

impl Layout {
    /// Returns the names that `files` use, if they hold every tensor that `config` implies in the right shape.
    ///
    /// # Errors
    /// [`LoadError`], which says what the files hold instead: quantised weights, no head, or the names of a wrapped model.
    pub fn fitted(config: &ModelConfig, files: &WeightFiles) -> Result<Layout, LoadError> {
        if let Some(quantised) = files.quantised() {
            let method = config.quantization.as_ref().map(|found| found.method.clone());
            return Err(LoadError::Quantised { path: files.dir().to_owned(), quantised: Box::new(quantised), method });
        }
        let layout = Layout::of(config, files);
        for (name, shape) in layout.tensors(config) {
            match files.find(&name, &shape) {
                Ok(_) => {}
                Err(LoadError::Missing { want, .. }) => return Err(layout.missing(files, name, want)),
                Err(error) => return Err(error),
            }
        }
        Ok(layout)
    }

    /// Makes the error that says why a tensor is missing.
    fn missing(&self, files: &WeightFiles, name: String, want: Vec<usize>) -> LoadError {
        let path = files.dir().to_owned();
        let names = || files.tensors().map(|(tensor, _)| tensor.name.as_str());
        let wrapper = |found: &str| {
            let held = |part: &str| found.starts_with(part) || found.contains(&format!(".{part}"));
            WRAPPERS.into_iter().find(|(part, _)| held(part))
        };
        if let Some((found, (part, by))) = names().find_map(|found| Some((found, wrapper(found)?))) {
            return LoadError::Wrapped { path, name, found: found.to_owned(), part, by };
        }
        let inner = name.strip_prefix("model.").unwrap_or(&name);
        let with_prefix = |found: &'_ str| Some((found.to_owned(), found.strip_suffix(inner)?.to_owned()));
        if let Some((found, prefix)) = names().filter_map(with_prefix).find(|(_, prefix)| prefix.ends_with('.')) {
            return LoadError::OtherPrefix { path, name, found, prefix };
        }
        if !files.index_faults().is_empty() {
            let (path, faults) = (files.index_path(), files.index_faults().to_vec());
            return LoadError::MissingInShards { path, name, faults };
        }
        match name == self.lm_head() {
            true => LoadError::NoHead { path, name },
            false => LoadError::Missing { path, name, want },
        }
    }

    /// Returns the tensors of `files` that a model of this configuration does not use. Does not list rotary tables of old
    /// exports, which follow from config.json, or a stored head that is a copy of the embedding.
    pub fn unused(&self, config: &ModelConfig, files: &WeightFiles) -> UnusedTensors {
        let mut used: BTreeSet<String> = self.tensors(config).into_iter().map(|(name, _)| name).collect();
        // a stored head never counts as unused: the model uses it, or it is a copy of the embedding
        used.insert(self.lm_head());
        let follows = |name: &str| {
            ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        let vision = |name: &str| {
            config.family == "gemma3"
                && name.split('.').any(|part| part == "vision_tower" || part == "multi_modal_projector")
        };
        let mut unused = UnusedTensors::default();
        for (tensor, _) in files.tensors().filter(|(tensor, _)| !used.contains(&tensor.name)) {
            match &tensor.name {
                name if follows(name) => {}
                name if vision(name) => unused.vision += 1,
                name => unused.names.push(name.clone()),
            }
        }
        unused
    }
}
