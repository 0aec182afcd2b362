//! For files that stay on the disk between runs: tells whether a file is unchanged, names differences, and keeps folders of files
//! within a limit.

pub mod content;
pub mod differences;
pub mod folder;
pub mod stamp;
pub mod user_cache;
