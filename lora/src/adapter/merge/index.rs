//! Corrects the index of shards in the merged folder. With the base's wrong index, other programs would not find the tensors.

use align_engine::weights::WeightFiles;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::io;

/// Returns the corrected index. `None` if `name` is not the base's index, or if the index is right.
pub(super) fn mended(name: &OsStr, files: &WeightFiles) -> Option<io::Result<String>> {
    let path = files.index_path();
    if path.file_name() != Some(name) || files.index_faults().is_empty() {
        return None;
    }
    let read = || -> io::Result<String> {
        let mut index: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
        let places = files.tensors().filter_map(|(tensor, file)| {
            let shard = file.path().file_name()?.to_str()?;
            Some((tensor.name.clone(), Value::from(shard)))
        });
        index.insert("weight_map".to_owned(), Value::Object(places.collect()));
        Ok(format!("{:#}\n", Value::Object(index)))
    };
    Some(read())
}
