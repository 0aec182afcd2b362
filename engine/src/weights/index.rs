//! Which files of a model directory hold its tensors: one `model.safetensors`, or the shards of an index.

use super::error::{IndexFault, LoadError};
use super::safetensors::SafetensorsFile;
use crate::json::{self, JsonError};
use crate::listing::{exists, names_in};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// The name of a single weight file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The name of the index of several weight files.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The weight files in the order of their names, with faults and links to report.
#[derive(Debug)]
pub(super) struct Shards {
    pub files: Vec<SafetensorsFile>,
    /// Faults of the index that do not matter if every tensor of the model is in one of `files`.
    pub index_faults: Vec<IndexFault>,
    /// Files that are links out of the directory, with their targets.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Opens the weight files in `dir`. A single file wins over an index, as in transformers. If a tensor is in several files of the
/// result, its copies are equal.
///
/// If the index lists no tensor of a shard, that shard is not opened. The shards themselves decide where a tensor is, not the
/// index. So if the index lists a tensor that does not exist, or gives the wrong shard, that only leads to a note.
///
/// # Errors
/// Every variant of [`LoadError`] about files, headers and the index.
pub(super) fn open_shards(dir: &Path) -> Result<Shards, LoadError> {
    if exists(&dir.join(SINGLE)) {
        let (file, link) = open_followed(dir, SINGLE)?;
        return Ok(Shards { files: vec![file], index_faults: Vec::new(), links: Vec::from_iter(link) });
    }
    let path = dir.join(INDEX);
    if !exists(&path) {
        return Err(LoadError::NoWeights { dir: dir.to_owned(), found: other_format(dir) });
    }
    let bytes = json::read_bytes(&path)?;
    let index: RawIndex =
        serde_json::from_slice(&bytes).map_err(|source| JsonError::Parse { path: path.clone(), source })?;
    let refuse = |faults| LoadError::Index { path: path.clone(), faults };

    let (mut faults, mut tolerated) = (Vec::new(), Vec::new());
    let mut listed: BTreeMap<String, String> = BTreeMap::new();
    if index.weight_map.is_none() {
        faults.push(IndexFault::NoWeightMap);
    }
    for (tensor, shard) in index.weight_map.into_iter().flat_map(|WeightMap(entries)| entries) {
        match shard {
            Value::String(shard) if !is_plain_file_name(&shard) => faults.push(IndexFault::ShardName { tensor, shard }),
            Value::String(shard) => {
                if listed.insert(tensor.clone(), shard).is_some() {
                    tolerated.push(IndexFault::Duplicate { tensor });
                }
            }
            other => faults.push(IndexFault::NotAString { tensor, found: json::kind(&other) }),
        }
    }
    let names: BTreeSet<&String> = listed.values().collect();
    let (there, missing): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| exists(&dir.join(name)));
    tolerated.extend(missing.into_iter().map(|shard| IndexFault::MissingShard { shard: shard.clone() }));
    let extra = shards_in(dir).into_iter().filter(|shard| !names.contains(shard));
    tolerated.extend(extra.map(|shard| IndexFault::ExtraShard { shard }));
    if there.is_empty() && faults.is_empty() {
        if listed.is_empty() {
            faults.push(IndexFault::NoWeightMap);
        }
        faults.append(&mut tolerated);
    }
    if !faults.is_empty() {
        return Err(refuse(faults));
    }

    let (mut files, mut links) = (Vec::with_capacity(there.len()), Vec::new());
    for name in &there {
        let (file, link) = open_followed(dir, name)?;
        files.push(file);
        links.extend(link);
    }
    let mut holder: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, file) in files.iter().enumerate() {
        for tensor in file.tensors() {
            let Some(other) = holder.insert(&tensor.name, at) else { continue };
            let (tensor, shard, other_shard) = (tensor.name.clone(), there[at].clone(), there[other].clone());
            match same_tensor(&files[other], file, &tensor) {
                true => tolerated.push(IndexFault::Copies { tensor, shard, other: other_shard }),
                false => faults.push(IndexFault::TwoShards { tensor, shard, other: other_shard }),
            }
        }
    }
    if !faults.is_empty() {
        return Err(refuse(faults));
    }
    for (tensor, shard) in &listed {
        let holds = |name: &str| {
            there.iter().position(|shard| *shard == name).is_some_and(|at| files[at].tensor(tensor).is_some())
        };
        match holder.get(tensor.as_str()) {
            _ if holds(shard) || !there.contains(&shard) => {}
            None => tolerated.push(IndexFault::NotInShard { tensor: tensor.clone(), shard: shard.clone() }),
            Some(&at) => tolerated.push(IndexFault::WrongShard {
                tensor: tensor.clone(),
                shard: there[at].clone(),
                listed: shard.clone(),
            }),
        }
    }
    Ok(Shards { files, index_faults: tolerated, links })
}

/// Whether `dir` holds `model.safetensors` or a file that is named like a shard. An index alone does not count.
pub(super) fn has_weights(dir: &Path) -> bool {
    exists(&dir.join(SINGLE)) || !shards_in(dir).is_empty()
}

/// Whether two files hold the same tensor under a name.
fn same_tensor(one: &SafetensorsFile, other: &SafetensorsFile, name: &str) -> bool {
    let (Some(a), Some(b)) = (one.tensor(name), other.tensor(name)) else { return false };
    a.dtype == b.dtype && a.shape == b.shape && one.data(a) == other.data(b)
}

/// Opens `dir/name`, and returns the target if it is a link out of the directory. Links from a snapshot of the Hugging Face
/// cache into the cache's own stores are not reported.
///
/// A link may lead to any place. The file is only mapped for reading, and it must be a valid safetensors file with the model's
/// tensors. So a link that a stranger made cannot reveal any other file.
fn open_followed(dir: &Path, name: &str) -> Result<(SafetensorsFile, Option<(PathBuf, PathBuf)>), LoadError> {
    let path = dir.join(name);
    let io = |source| LoadError::Io { path: path.clone(), action: "resolve it", source };
    let target = std::fs::canonicalize(&path).map_err(io)?;
    let home = std::fs::canonicalize(dir).map_err(io)?;
    let file = SafetensorsFile::open(&path)?;
    let inside = target.parent() == Some(home.as_path()) || is_blob_of(&home, &target);
    Ok((file, (!inside).then_some((path, target))))
}

/// Whether `target` is a place where the Hugging Face cache keeps files of the snapshot folder `home`. For the snapshot
/// `CACHE/models--ORG--NAME/snapshots/REVISION` there are two: `CACHE/models--ORG--NAME/blobs/HASH`, and since huggingface_hub 2
/// also `CACHE/blobs/HA/HASH` in the store that all models share (HA are the first two digits of the hash). Neither argument may
/// contain links.
fn is_blob_of(home: &Path, target: &Path) -> bool {
    let snapshots = home.parent().filter(|parent| parent.ends_with("snapshots"));
    let (Some(repository), Some(folder)) = (snapshots.and_then(Path::parent), target.parent()) else { return false };
    let hash = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_shared = |cache: &Path| is_hash && folder == cache.join("blobs").join(&hash[..2]);
    !hash.is_empty() && folder == repository.join("blobs") || repository.parent().is_some_and(is_shared)
}

/// Whether a name is a single path component of at most 255 bytes, without separators, `..` and control characters.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.chars().any(char::is_control)
        && !name.contains('\\')
        && name.len() <= 255
}

/// Returns the files called `model-00001-of-00003.safetensors` and the like.
fn shards_in(dir: &Path) -> Vec<String> {
    let is_shard = |name: &String| {
        let number = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        number.and_then(|number| number.split_once("-of-")).is_some_and(|(index, count)| {
            [index, count].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    names_in(dir).into_iter().filter(is_shard).collect()
}

/// Describes a weight file that is in another format, lacks its index or has another name, for the error message. `None` if there
/// is no such file.
fn other_format(dir: &Path) -> Option<String> {
    let names = names_in(dir);
    let find = |is: &dyn Fn(&str) -> bool| names.iter().find(|name| is(name)).cloned();
    let torch = |name: &str| {
        name.starts_with("pytorch_model") && name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".gguf")
    };
    find(&torch)
        .map(|name| format!("{name} is another format: convert it to safetensors first"))
        .or_else(|| shards_in(dir).into_iter().next().map(|name| format!("{name} is a shard whose index is missing")))
        .or_else(|| {
            let name = find(&|name| name.ends_with(".safetensors"))?;
            Some(format!("{name} is not named as the model's weights are"))
        })
}

/// The index as written in the file, not checked yet.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: Option<WeightMap>,
}

/// Tensors and their shards, with duplicates, in the order of the file.
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
