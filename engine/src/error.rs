//! What can go wrong between a model directory and a model.

use crate::model::ConfigError;
use crate::weights::LoadError;
use align_kernels::KernelError;

/// A model that could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}
