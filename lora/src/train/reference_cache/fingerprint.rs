//! The fingerprint: what the bits of a reference's log-probs depend on besides the tokens.

use super::error::CacheError;
use crate::adapter::adapter_hash;
use align_data::store::differences::differences;
use align_engine::adapters::AdapterSet;
use align_engine::model::Model;
use align_kernels::Precision;
use blake3::{Hash, Hasher};
use serde::{Deserialize, Serialize};
use std::fs::File;

/// Everything that a reference's log-prob of given tokens depends on. Two computations with equal fingerprints give the same
/// bits, whatever the other rows of a pass, the number of threads, the length limit or the path of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// Version and hash of this program: another build may sum in another order.
    program: String,
    /// Hash of all bytes of the weights.
    weights: String,
    /// Hash of what was read from config.json.
    config: String,
    /// Hash of the reference's adapter, or `base`.
    reference: String,
    precision: String,
    /// What the logits are divided by.
    logp_temperature: f32,
    /// What [`align_kernels::Device::arithmetic`] returns.
    arithmetic: String,
}

impl Fingerprint {
    /// Makes the fingerprint of `model` with the adapter `reference`, if any. `weights` is the hash of the bytes of its
    /// weights.
    ///
    /// # Errors
    /// [`CacheError::Program`] if this program's file cannot be read, [`CacheError::Kernel`] if the device has failed.
    pub(super) fn new(
        model: &Model,
        weights: Hash,
        reference: Option<&AdapterSet>,
        precision: Precision,
        logp_temperature: f32,
    ) -> Result<Fingerprint, CacheError> {
        Ok(Fingerprint {
            program: format!("{} {}", env!("CARGO_PKG_VERSION"), program()?),
            weights: weights.to_string(),
            config: blake3::hash(format!("{:?}", model.config()).as_bytes()).to_string(),
            reference: match reference {
                Some(adapter) => adapter_hash(adapter)?.to_string(),
                None => "base".to_owned(),
            },
            precision: match precision {
                Precision::Bf16 => "bf16".to_owned(),
                Precision::F32 => "f32".to_owned(),
            },
            logp_temperature,
            arithmetic: model.device().arithmetic(),
        })
    }

    /// Names what differs from another fingerprint.
    pub(super) fn differences(&self, other: &Fingerprint) -> Vec<&'static str> {
        let entries = |of: &Fingerprint| {
            let of = of.clone();
            [
                ("the weights", of.weights),
                ("config.json", of.config),
                ("the reference's adapter", of.reference),
                ("the precision", of.precision),
                ("the temperature of log-probs", of.logp_temperature.to_string()),
                ("the processor's instruction set", of.arithmetic),
                ("the build of this program", of.program),
            ]
        };
        differences(&entries(self), &entries(other)).copied().collect()
    }
}

/// Hashes the file of this program.
fn program() -> Result<Hash, CacheError> {
    // this link leads to the running file, even if another file has taken its path
    let path = match cfg!(target_os = "linux") {
        true => "/proc/self/exe".into(),
        false => std::env::current_exe().map_err(|source| CacheError::Program { source })?,
    };
    let mut hasher = Hasher::new();
    let read = File::open(path).and_then(|file| Ok(hasher.update_reader(file)?.finalize()));
    read.map_err(|source| CacheError::Program { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn some() -> Fingerprint {
        let text = |text: &str| text.to_owned();
        Fingerprint {
            program: text("1 a"),
            weights: text("b"),
            config: text("c"),
            reference: text("base"),
            precision: text("f32"),
            logp_temperature: 1.0,
            arithmetic: text("cpu avx2"),
        }
    }

    #[test]
    fn what_differs_is_named() {
        let (weights, precision, program) = ("x".to_owned(), "bf16".to_owned(), "1 b".to_owned());
        let other = Fingerprint { weights, precision, program, logp_temperature: 0.8, ..some() };
        assert_eq!(some().differences(&some()), Vec::<&str>::new());
        assert_eq!(
            some().differences(&other),
            ["the weights", "the precision", "the temperature of log-probs", "the build of this program"]
        );
        let other = Fingerprint {
            config: "x".to_owned(),
            reference: "y".to_owned(),
            arithmetic: "cpu neon".to_owned(),
            ..some()
        };
        assert_eq!(
            other.differences(&some()),
            ["config.json", "the reference's adapter", "the processor's instruction set"]
        );
    }

    #[test]
    fn this_program_has_a_hash() {
        assert_eq!(program().unwrap(), program().unwrap());
    }
}
