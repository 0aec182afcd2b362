//! What is kept on the disk from one run to the next.

pub mod user_cache;
