//! What can go wrong between a model directory, a model and its words.

use crate::model::ConfigError;
use crate::weights::LoadError;
use align_kernels::KernelError;

/// A model that could not be loaded, or that computes no numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A model that gives no number where the next token's logits should be.
    #[error(
        "generation: the logits after token {position} of sequence {sequence} are not finite; the weights or the adapter overflow"
    )]
    NonFiniteLogits { sequence: u64, position: usize },
}
