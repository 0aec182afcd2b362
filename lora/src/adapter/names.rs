//! How PEFT names the tensors of an adapter, and what is wrong with a name that PEFT does not read.
//!
//! The usual name is `base_model.model.` + module + `.lora_A.weight`. Files that were written from the state of a running model
//! have the adapter's name before `weight`; PEFT also reads names with `default` there. Some programs leave traces of wrappers in
//! the names (`torch.compile`, FSDP, gradient checkpointing). PEFT ignores names that it does not know, so the base would answer
//! without the adapter. This program refuses such names.
//!
//! The modules of a model that also sees images were called `language_model.model.layers.N` until transformers 4.52, and
//! `model.language_model.layers.N` since (huggingface/transformers#38927).

use super::config::SCORE;
use super::targets::Modules;
use align_engine::model::WRAPPERS;
use std::collections::HashMap;
use std::fmt;

const PREFIX: &str = "base_model.model.";
/// The adapter's name that PEFT accepts in a file.
const DEFAULT: &str = "default";
/// Prefix of the layers' names in a model that also reads images.
const WRAPPED: &str = "model.language_model.";
/// The prefix in older files, where newer ones have [`WRAPPED`].
const WRAPPED_BEFORE: &str = "language_model.model.";
/// Beginnings of the names of parts that only images pass through. Older files have these names without `model.` before them.
const NOT_RUN: [&str; 2] = ["vision_tower.", "multi_modal_projector."];

/// One of the two matrices of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    A,
    B,
}

impl Half {
    pub(super) const BOTH: [Half; 2] = [Half::A, Half::B];

    fn name(self) -> &'static str {
        match self {
            Half::A => "lora_A",
            Half::B => "lora_B",
        }
    }

    pub(super) fn other(self) -> Half {
        match self {
            Half::A => Half::B,
            Half::B => Half::A,
        }
    }
}

/// Returns the tensor's name for one half of the update of `module`.
pub(super) fn key(module: &str, half: Half) -> String {
    format!("{PREFIX}{module}.{}.weight", half.name())
}

/// Returns the tensor's name for the score head.
pub(super) fn score_key() -> String {
    format!("{PREFIX}{SCORE}.weight")
}

/// The parts of a tensor's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    pub module: &'a str,
    pub half: Half,
    /// The adapter's name, if there is one that PEFT does not accept.
    pub foreign_adapter: Option<&'a str>,
}

/// Splits the name of one half of an update. `None` for any other name.
pub(super) fn parts(tensor: &str) -> Option<Parts<'_>> {
    let inner = tensor.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    Half::BOTH.into_iter().find_map(|half| {
        if let Some(module) = inner.strip_suffix(half.name()).and_then(|module| module.strip_suffix('.')) {
            return Some(Parts { module, half, foreign_adapter: None });
        }
        let (module, adapter) = inner.rsplit_once(&format!(".{}.", half.name()))?;
        Some(Parts { module, half, foreign_adapter: Some(adapter).filter(|adapter| *adapter != DEFAULT) })
    })
}

/// Where a module that a file names is in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// This linear layer, as an index into [`Modules::linears`].
    Linear(usize),
    /// A part that this program does not run.
    NotRun,
    /// The model lacks the module.
    Nowhere,
}

/// Finds in a model the modules that a file names.
pub(super) struct Places<'a> {
    by_name: HashMap<&'a str, usize>,
    prefix: &'a str,
}

impl<'a> Places<'a> {
    pub(super) fn new(modules: &Modules<'a>) -> Places<'a> {
        let by_name = modules.linears.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        Places { by_name, prefix: modules.prefix }
    }

    pub(super) fn find(&self, module: &str) -> Place {
        if let Some(&linear) = self.by_name.get(module) {
            return Place::Linear(linear);
        }
        if self.prefix != WRAPPED {
            return Place::Nowhere;
        }
        if let Some(inner) = module.strip_prefix(WRAPPED_BEFORE) {
            let linear = self.by_name.get(format!("{WRAPPED}{inner}").as_str());
            return linear.map_or(Place::Nowhere, |&linear| Place::Linear(linear));
        }
        let inner = module.strip_prefix("model.").unwrap_or(module);
        if NOT_RUN.iter().any(|part| inner.starts_with(part)) { Place::NotRun } else { Place::Nowhere }
    }

    /// Says what is wrong with the name of a tensor that [`Places::find`] did not place. `None` unless it is a layer's name with an
    /// extra, missing or wrong part.
    pub(super) fn misnamed(&self, tensor: &str) -> Option<Misnamed> {
        let is_wrapper = |part: &&str| WRAPPERS.iter().any(|(name, _)| name.strip_suffix('.') == Some(*part));
        let parts: Vec<&str> = tensor.split('.').collect();
        let wrapper = parts.iter().copied().find(is_wrapper);
        let parts: Vec<&str> = parts.into_iter().filter(|part| !is_wrapper(part)).collect();
        let at = parts.iter().position(|part| Half::BOTH.iter().any(|half| half.name() == *part))?;
        let half = Half::BOTH.into_iter().find(|half| half.name() == parts[at])?;
        // find the layer whose name ends as the module's name does
        let starts = (0..at).rev().filter(|&start| parts[start] == "layers");
        let (start, linear) = starts.into_iter().find_map(|start| {
            let name = format!("{}{}", self.prefix, parts[start..at].join("."));
            Some((start, self.by_name.get_key_value(name.as_str())?.0))
        })?;
        let joined = |parts: &[&str]| parts.iter().map(|part| format!("{part}.")).collect::<String>();
        let found = joined(&parts[..start]);
        let expected = format!("{PREFIX}{}", self.prefix);
        let fault = if let Some(wrapper) = wrapper {
            NameFault::TooMuch { part: format!("{wrapper}.") }
        } else if found == expected {
            NameFault::Missing { part: ".weight".to_owned() }
        } else if let Some(part) = removed(&found, &expected) {
            NameFault::TooMuch { part }
        } else if let Some(part) = removed(&expected, &found) {
            NameFault::Missing { part }
        } else {
            NameFault::Instead { found, expected }
        };
        Some(Misnamed { tensor: tensor.to_owned(), fault, expected: key(linear, half) })
    }
}

/// Says what is wrong with the name of a score head in a file from a running model, where the head's copies are called
/// `modules_to_save.default` and `original_module`. `None` for any other name.
pub(super) fn misnamed_score(tensor: &str) -> Option<Misnamed> {
    let expected = score_key();
    let part = tensor.strip_prefix(expected.strip_suffix("weight")?)?.strip_suffix("weight")?;
    let fault = NameFault::TooMuch { part: part.to_owned() };
    (!part.is_empty()).then(|| Misnamed { tensor: tensor.to_owned(), fault, expected })
}

/// Returns what must be removed from `long` to get `short`. `None` if that is not one contiguous part.
fn removed(long: &str, short: &str) -> Option<String> {
    let (long, short): (Vec<&str>, Vec<&str>) =
        (long.split_inclusive('.').collect(), short.split_inclusive('.').collect());
    let count = long.len().checked_sub(short.len()).filter(|count| *count > 0)?;
    let start =
        (0..=short.len()).find(|&start| short[..start] == long[..start] && short[start..] == long[start + count..])?;
    Some(long[start..start + count].concat())
}

/// A tensor whose name is nearly one that PEFT reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misnamed {
    tensor: String,
    fault: NameFault,
    /// The name that PEFT reads.
    expected: String,
}

/// The fault of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NameFault {
    TooMuch {
        part: String,
    },
    Missing {
        part: String,
    },
    /// The part before `layers.`, and what it should be.
    Instead {
        found: String,
        expected: String,
    },
}

impl fmt::Display for Misnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: ", self.tensor)?;
        match &self.fault {
            NameFault::TooMuch { part } => write!(f, "`{part}` does not belong in it")?,
            NameFault::Missing { part } => write!(f, "`{part}` is missing in it")?,
            NameFault::Instead { found, expected } => {
                write!(f, "it begins with `{found}`, the modules of this model with `{expected}`")?;
            }
        }
        write!(f, ", PEFT reads `{}` on this model", self.expected)
    }
}

/// Returns a name for a module or a tensor. It is the same for older and newer files of a model that also reads images.
pub(super) fn shared_name(module: &str) -> String {
    let inner = module.strip_prefix("model.").unwrap_or(module);
    inner.replacen("vision_tower.vision_model.", "vision_tower.", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let plain = Parts { module: "model.layers.0.mlp.up_proj", half: Half::A, foreign_adapter: None };
        assert_eq!(parts("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"), Some(plain));
        assert_eq!(parts("base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight"), Some(plain));
        for name in ["policy", "weight", "a.b", "0"] {
            let tensor = format!("base_model.model.model.layers.0.mlp.up_proj.lora_A.{name}.weight");
            assert_eq!(parts(&tensor), Some(Parts { foreign_adapter: Some(name), ..plain }), "{tensor}");
        }
        for other in [
            "base_model.model.model.layers.0.mlp.up_proj.lora_A",
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.default",
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.bias",
            "base_model.model.model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.lora_A.weight",
            "lora_A.weight",
            "",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }

    #[test]
    fn the_part_that_is_wrong_is_named() {
        let linears = vec!["model.layers.0.mlp.up_proj"];
        let places = Places::new(&Modules { linears, prefix: "model." });
        let fault = |tensor: &str| places.misnamed(tensor).map(|misnamed| misnamed.fault);
        let too_much = |part: &str| Some(NameFault::TooMuch { part: part.to_owned() });
        let missing = |part: &str| Some(NameFault::Missing { part: part.to_owned() });
        let end = "layers.0.mlp.up_proj.lora_A.weight";
        for (start, expected) in [
            ("base_model.model.base_model.model.model.", too_much("base_model.model.")),
            ("base_model.model.model.model.", too_much("model.")),
            ("base_model.model._orig_mod.model.", too_much("_orig_mod.")),
            ("_orig_mod.base_model.model.model.", too_much("_orig_mod.")),
            ("module.base_model.model.model.", too_much("module.")),
            ("base_model.model.model.language_model.", too_much("language_model.")),
            ("model.", missing("base_model.model.")),
            ("base_model.model.", missing("model.")),
            ("", missing("base_model.model.model.")),
            (
                "transformer.",
                Some(NameFault::Instead {
                    found: "transformer.".to_owned(),
                    expected: "base_model.model.model.".to_owned(),
                }),
            ),
        ] {
            assert_eq!(fault(&format!("{start}{end}")), expected, "{start}");
        }
        let inside = "base_model.model.model.layers.0._checkpoint_wrapped_module.mlp.up_proj.lora_A.default.weight";
        assert_eq!(fault(inside), too_much("_checkpoint_wrapped_module."));
        assert_eq!(fault("base_model.model.model.layers.0.mlp.up_proj.lora_B.default"), missing(".weight"));
        for other in ["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", "layers", "lora_A", ""] {
            assert_eq!(fault(other), None, "{other}");
        }
    }

    #[test]
    fn a_wrapped_decoder_is_found_under_both_names() {
        let linears = vec!["model.language_model.layers.0.mlp.up_proj"];
        let places = Places::new(&Modules { linears, prefix: "model.language_model." });
        for (module, place) in [
            ("model.language_model.layers.0.mlp.up_proj", Place::Linear(0)),
            ("language_model.model.layers.0.mlp.up_proj", Place::Linear(0)),
            ("language_model.model.layers.1.mlp.up_proj", Place::Nowhere),
            ("model.layers.0.mlp.up_proj", Place::Nowhere),
            ("model.vision_tower.encoder.layers.0.self_attn.q_proj", Place::NotRun),
            ("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", Place::NotRun),
            ("model.multi_modal_projector.linear", Place::NotRun),
        ] {
            assert_eq!(places.find(module), place, "{module}");
        }
        let text_only = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
        let fault = places.misnamed(text_only).unwrap().fault;
        assert_eq!(fault, NameFault::Missing { part: "language_model.".to_owned() });
    }
}
