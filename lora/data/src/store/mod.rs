//! What stays on the disk from one run to the next: whether a file is unchanged, what differs, and folders within a limit.

pub mod content;
pub mod differences;
pub mod folder;
pub mod stamp;
pub mod user_cache;
