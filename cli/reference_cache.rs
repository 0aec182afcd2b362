//! Opens the cache of the reference's log-probs, at the place that the flag names.

use crate::args::CacheChoice;
use crate::error::CliError;
use crate::loaded::LoadedModel;
use crate::report::{detail, say};
use align_data::store::user_cache;
use align_engine::adapters::AdapterSet;
use align_engine::weights::WeightFiles;
use align_kernels::Precision;
use align_lora::train::{CacheError, CachePlace, ReferenceCache};
use std::path::PathBuf;

/// Returns where [`open`] would put the cache that `choice` names, for a plan of `loaded`. `None` if there would be no cache.
pub(crate) fn place(choice: Option<&CacheChoice>, loaded: &LoadedModel) -> Option<CachePlace> {
    Some(match folder(choice, loaded)? {
        Some(_) => CachePlace::File,
        None => CachePlace::Memory,
    })
}

/// Returns the folder of the cache, or `Some(None)` for a cache in memory. `None` if there is no cache.
fn folder(choice: Option<&CacheChoice>, loaded: &LoadedModel) -> Option<Option<PathBuf>> {
    match choice {
        Some(CacheChoice::Off) => None,
        Some(CacheChoice::Memory) => Some(None),
        Some(CacheChoice::Folder(folder)) => Some(Some(folder.clone())),
        None if loaded.demo.is_some() => Some(None),
        None => Some(user_cache::folder("reference")),
    }
}

/// Opens the cache that `choice` names. Without a choice, opens the user's own, or one in memory for the demo. The cache is for
/// the model `loaded` with the adapter `reference`. `None` if `choice` is `off`, or if `loaded` has no weights.
///
/// # Errors
/// [`CliError::Runtime`] if a directory that the user asked for cannot be used. If the default one cannot be used, warns and
/// keeps the cache in memory.
pub(crate) fn open(
    choice: Option<&CacheChoice>,
    loaded: &LoadedModel,
    reference: Option<&AdapterSet>,
    precision: Precision,
    logp_temperature: f32,
) -> Result<Option<ReferenceCache>, CliError> {
    let (Some(folder), Some(files)) = (folder(choice, loaded), &loaded.files) else { return Ok(None) };
    Ok(Some(match &folder {
        Some(folder) => {
            match ReferenceCache::open(folder, &loaded.model, files, reference, precision, logp_temperature) {
                Ok(cache) => cache,
                Err(CacheError::Kernel(error)) => return Err(error.into()),
                Err(error) if choice.is_some() => {
                    return Err(CliError::Runtime(format!("--reference-cache: {error}")));
                }
                Err(error) => {
                    say!("warning: {error}; log-probs of the reference are kept for this run alone");
                    in_memory(files)?
                }
            }
        }
        None => in_memory(files)?,
    }))
}

/// Reports where the cache is, only with `--verbose`. Then prints the notes of the cache.
pub(crate) fn summary(cache: &ReferenceCache) {
    match cache.path() {
        Some(path) => detail!("reference cache: {}, {} answers", path.display(), cache.found()),
        None => detail!("reference cache: in memory, for this run alone"),
    }
    say_notes(Some(cache));
}

/// Prints the notes that the cache has made since the last call.
pub(crate) fn say_notes(cache: Option<&ReferenceCache>) {
    for note in cache.map(ReferenceCache::take_notes).unwrap_or_default() {
        say!("{note}");
    }
}

fn in_memory(files: &WeightFiles) -> Result<ReferenceCache, CliError> {
    ReferenceCache::in_memory(files).map_err(|error| CliError::Runtime(error.to_string()))
}
