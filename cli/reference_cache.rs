//! Where the log-probs of the reference are kept: from the flag to an open cache.

use crate::args::CacheChoice;
use crate::error::CliError;
use crate::loaded::LoadedModel;
use crate::report::{detail, say};
use align_data::store::user_cache;
use align_engine::adapters::AdapterSet;
use align_kernels::Precision;
use align_lora::train::ReferenceCache;

/// The cache that `choice` names, else that of the user (for the demo: one in memory), for `loaded` under the adapter
/// `reference`.
///
/// # Errors
/// [`CliError::Runtime`] if a directory that was asked for cannot be used. That of the user is left out then, with a warning.
pub fn open(
    choice: Option<&CacheChoice>,
    loaded: &LoadedModel,
    reference: Option<&AdapterSet>,
    precision: Precision,
    logp_temperature: f32,
) -> Result<Option<ReferenceCache>, CliError> {
    let (folder, asked_for) = match choice {
        Some(CacheChoice::Off) => return Ok(None),
        Some(CacheChoice::Memory) => (None, true),
        Some(CacheChoice::Folder(folder)) => (Some(folder.clone()), true),
        None if loaded.demo.is_some() => (None, false),
        None => (user_cache::folder("reference"), false),
    };
    Ok(Some(match &folder {
        Some(folder) => {
            let LoadedModel { model, files, .. } = loaded;
            match ReferenceCache::open(folder, model, files, reference, precision, logp_temperature) {
                Ok(cache) => cache,
                Err(error) if asked_for => return Err(CliError::Runtime(format!("--reference-cache: {error}"))),
                Err(error) => {
                    say!("warning: {error}; log-probs of the reference are kept for this run alone");
                    in_memory(loaded)?
                }
            }
        }
        None => in_memory(loaded)?,
    }))
}

/// Reports where the cache is, and its notes.
pub fn summary(cache: &ReferenceCache) {
    match cache.path() {
        Some(path) => detail!("reference cache: {}, {} answers", path.display(), cache.found()),
        None => detail!("reference cache: in memory, for this run alone"),
    }
    say_notes(Some(cache));
}

/// Prints what the cache has to say since the last time.
pub fn say_notes(cache: Option<&ReferenceCache>) {
    for note in cache.map(ReferenceCache::take_notes).unwrap_or_default() {
        say!("{note}");
    }
}

fn in_memory(loaded: &LoadedModel) -> Result<ReferenceCache, CliError> {
    ReferenceCache::in_memory(&loaded.files).map_err(|error| CliError::Runtime(error.to_string()))
}
