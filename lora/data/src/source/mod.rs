//! Finds data files by names and ids, finds the rows in them, and returns the bytes of any row as JSON.

pub(crate) mod bad_line;
pub(crate) mod column_map;
pub(crate) mod column_names;
pub(crate) mod csv_rows;
pub(crate) mod endings;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod format;
pub(crate) mod hub;
pub(crate) mod json_array;
pub(crate) mod layout;
pub(crate) mod limits;
pub(crate) mod lines;
pub(crate) mod memory;
pub(crate) mod parquet;
pub(crate) mod reader;
pub(crate) mod spool;
pub(crate) mod strict_json;
pub(crate) mod unpack;
