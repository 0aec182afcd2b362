//! Models: their configuration, their families, where to find them on disk, and the forward pass that they share.

mod block;
pub mod config;
mod config_json;
mod error;
pub mod families;
mod family;
mod fit;
mod folder;
mod gemma;
mod gemma2;
mod gemma3;
mod generation_config;
mod kv_cache;
pub mod layout;
mod llama;
mod load;
pub mod locate;
mod mistral;
mod notes;
mod phi3;
mod qwen2;
mod qwen3;
mod rope;
mod rope_scaling;
#[cfg(test)]
mod tests;
mod transformer;

pub use config::{AttentionBias, Fusion, LayerConfig, ModelConfig, NormPlacement, QkNorm, Quantization};
pub use config_json::ConfigJson;
pub use error::{ConfigError, LocateError};
pub use family::Family;
pub use fit::{UnusedTensors, WRAPPERS};
pub use folder::{FolderHolds, REFERENCE, folders_with};
pub use generation_config::stop_token_ids;
pub use kv_cache::KvCache;
pub use layout::{Layout, LinearInfo, Norm, Projection};
pub use locate::{ModelDir, Origin, hub_cache, is_hub_name, locate};
pub use notes::ModelNote;
pub use rope::{RopeConfig, RopeScaling};
pub use transformer::{Inputs, Model};
