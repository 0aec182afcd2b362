//! `generation_config.json`: the ids at which generation stops. Nothing else in the file is used: how to sample is the user's
//! choice.

use super::config::ModelConfig;
use super::config_json::ConfigJson;
use super::error::ConfigError;
use crate::listing::exists;
use std::path::Path;

/// Returns the ids at which generation stops, sorted and without duplicates. They come from `dir/generation_config.json`, or from
/// `config.json` if the first file is absent or names none. The list is empty if neither file names any.
///
/// # Errors
/// [`ConfigError`] for a file that exists but is broken.
pub fn stop_token_ids(dir: &Path, config: &ModelConfig) -> Result<Vec<u32>, ConfigError> {
    let path = dir.join("generation_config.json");
    let mut ids = if exists(&path) { ConfigJson::read(&path)?.token_ids("eos_token_id")? } else { Vec::new() };
    if ids.is_empty() {
        ids = config.eos_token_ids.clone();
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
