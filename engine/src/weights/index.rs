//! Which files of a model directory hold its tensors: one `model.safetensors`, or the shards of an index.

use super::error::{IndexFault, LoadError};
use super::safetensors::SafetensorsFile;
use crate::json::{self, JsonError};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Component, Path};

/// The file of a checkpoint in one piece.
pub(super) const SINGLE: &str = "model.safetensors";
/// The index of a checkpoint in several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Opens the files of the checkpoint in `dir`, in the order of their names. A single file wins over an index, as in
/// transformers. In the result every tensor name is in one file only.
///
/// # Errors
/// Every variant of [`LoadError`] that speaks of files, headers and the index.
pub(super) fn open_shards(dir: &Path) -> Result<Vec<SafetensorsFile>, LoadError> {
    if exists(&dir.join(SINGLE)) {
        return Ok(vec![open_inside(dir, SINGLE)?]);
    }
    let path = dir.join(INDEX);
    if !exists(&path) {
        return Err(LoadError::NoWeights { dir: dir.to_owned(), found: other_format(dir) });
    }
    let bytes = json::read_bytes(&path)?;
    let index: RawIndex =
        serde_json::from_slice(&bytes).map_err(|source| JsonError::Parse { path: path.clone(), source })?;
    let refuse = |faults| LoadError::Index { path: path.clone(), faults };

    let mut faults = index.faults;
    let mut listed: BTreeMap<String, String> = BTreeMap::new();
    for (tensor, shard) in index.weight_map {
        if !is_plain_file_name(&shard) {
            faults.push(IndexFault::ShardName { tensor, shard });
        } else if listed.insert(tensor.clone(), shard).is_some() {
            faults.push(IndexFault::Duplicate { tensor });
        }
    }
    let names: BTreeSet<&String> = listed.values().collect();
    for shard in &names {
        if !exists(&dir.join(shard)) {
            faults.push(IndexFault::MissingShard { shard: shard.to_string() });
        }
    }
    for shard in shards_in(dir) {
        if !names.contains(&shard) {
            faults.push(IndexFault::ExtraShard { shard });
        }
    }
    if names.is_empty() && faults.is_empty() {
        faults.push(IndexFault::NoWeightMap);
    }
    if !faults.is_empty() {
        return Err(refuse(faults));
    }

    let shards = names.iter().map(|name| open_inside(dir, name)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<&String> = names.into_iter().collect();
    let mut holder: BTreeMap<&str, &String> = BTreeMap::new();
    for (shard, name) in shards.iter().zip(&names) {
        for tensor in shard.tensors() {
            if let Some(other) = holder.insert(&tensor.name, name) {
                let (tensor, shard, other) = (tensor.name.clone(), name.to_string(), other.clone());
                faults.push(IndexFault::TwoShards { tensor, shard, other });
            }
        }
    }
    for (tensor, shard) in &listed {
        let (tensor, listed) = (tensor.clone(), shard.clone());
        match holder.get(tensor.as_str()) {
            None => faults.push(IndexFault::NotInShard { tensor, shard: listed }),
            Some(&holder) if *holder != listed => {
                faults.push(IndexFault::WrongShard { tensor, shard: holder.clone(), listed });
            }
            Some(_) => {}
        }
    }
    if !faults.is_empty() {
        return Err(refuse(faults));
    }
    Ok(shards)
}

/// Opens `dir/name` if it really is a file of that directory: not a link that leads out of it, except into the stores of the
/// Hugging Face cache that the directory is a snapshot of.
fn open_inside(dir: &Path, name: &str) -> Result<SafetensorsFile, LoadError> {
    let path = dir.join(name);
    let io = |source| LoadError::Io { path: path.clone(), action: "resolve it", source };
    let target = std::fs::canonicalize(&path).map_err(io)?;
    let home = std::fs::canonicalize(dir).map_err(io)?;
    if target.parent() == Some(home.as_path()) || is_blob_of(&home, &target) {
        return SafetensorsFile::open(&path);
    }
    Err(LoadError::Outside { path, target })
}

/// Whether `target` is where a file of the snapshot `home` may be: with `home` at `CACHE/models--ORG--NAME/snapshots/REVISION`,
/// that is `CACHE/models--ORG--NAME/blobs/HASH`, or since huggingface_hub 2 the store that all models share,
/// `CACHE/blobs/HA/HASH`. Both paths are free of links.
fn is_blob_of(home: &Path, target: &Path) -> bool {
    let Some(snapshots) = home.parent().filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))
    else {
        return false;
    };
    let Some(repository) = snapshots.parent() else { return false };
    let (Some(folder), Some(hash)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    if folder == repository.join("blobs") {
        return true;
    }
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && repository.parent().is_some_and(|cache| folder == cache.join("blobs").join(&hash[..2]))
}

/// Whether there is something under this path; a link that leads nowhere counts as nothing.
fn exists(path: &Path) -> bool {
    !matches!(std::fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// One component, no separators, no `..`, no NUL, no longer than file systems allow.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.chars().any(char::is_control)
        && !name.contains('\\')
        && name.len() <= 255
}

/// Files called `model-00001-of-00003.safetensors` and the like.
fn shards_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            let number = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
            number.and_then(|number| number.split_once("-of-")).is_some_and(|(index, count)| {
                [index, count].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
            })
        })
        .collect();
    names.sort();
    names
}

/// A weights file of another format, for the message.
fn other_format(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("pytorch_model") && name.ends_with(".bin") || name.ends_with(".gguf"))
        .collect();
    names.sort();
    names.into_iter().next()
}

/// The index as written, with what can be seen to be wrong with it on the way.
struct RawIndex {
    /// With duplicates, in the order of the file.
    weight_map: Vec<(String, String)>,
    faults: Vec<IndexFault>,
}

impl<'de> Deserialize<'de> for RawIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Index;
        impl<'de> Visitor<'de> for Index {
            type Value = RawIndex;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the key weight_map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawIndex, A::Error> {
                let mut found = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key == "weight_map" {
                        found = Some(map.next_value::<WeightMap>()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                let Some(WeightMap(entries)) = found else {
                    return Ok(RawIndex { weight_map: Vec::new(), faults: vec![IndexFault::NoWeightMap] });
                };
                let mut index = RawIndex { weight_map: Vec::with_capacity(entries.len()), faults: Vec::new() };
                for (tensor, shard) in entries {
                    match shard {
                        Value::String(shard) => index.weight_map.push((tensor, shard)),
                        other => index.faults.push(IndexFault::NotAString { tensor, found: json::kind(&other) }),
                    }
                }
                Ok(index)
            }
        }
        deserializer.deserialize_map(Index)
    }
}

struct WeightMap(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
