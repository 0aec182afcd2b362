//! Rows from memory: made by the program itself, as by a round of self-play, and never a file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Rows in memory: JSON objects with the columns of a file's rows.
#[derive(Clone, Debug)]
pub struct MemoryRows {
    /// Stands where messages name the file of a row.
    pub(super) name: PathBuf,
    /// One object a line.
    pub(super) lines: Vec<u8>,
}

impl MemoryRows {
    /// Makes an empty list. Messages name a row by `name` and its place in the list.
    pub fn new(name: impl Into<PathBuf>) -> MemoryRows {
        MemoryRows { name: name.into(), lines: Vec::new() }
    }

    /// What stands for a file in messages.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Map<String, Value>) {
        serde_json::to_writer(&mut self.lines, row).expect("JSON values print, and a vector takes them");
        self.lines.push(b'\n');
    }
}
