//! What can go wrong when a model is loaded or generates.

use crate::model::ConfigError;
use crate::weights::LoadError;
use align_kernels::KernelError;

/// Loading a model, or generating with it, failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum EngineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The next token's logits are not finite.
    #[error(
        "generation: the logits after token {position} of sequence {sequence} are not finite; the weights or the adapter overflow"
    )]
    NonFiniteLogits { sequence: u64, position: usize },
}
