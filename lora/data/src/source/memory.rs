//! Rows from memory: the program makes them itself, for example in a round of self-play. They are never in a file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Rows in memory: JSON objects with the columns of a file's rows.
#[derive(Clone, Debug)]
pub struct MemoryRows {
    /// The name that messages give instead of a file.
    pub(super) name: PathBuf,
    /// One JSON object on each line.
    pub(super) lines: Vec<u8>,
}

impl MemoryRows {
    /// Makes an empty list. Messages name a row by `name` and its place in the list.
    pub fn new(name: impl Into<PathBuf>) -> MemoryRows {
        MemoryRows { name: name.into(), lines: Vec::new() }
    }

    /// Returns the name that messages give instead of a file.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Map<String, Value>) {
        serde_json::to_writer(&mut self.lines, row).expect("JSON values print, and a vector takes them");
        self.lines.push(b'\n');
    }
}
