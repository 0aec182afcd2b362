//! Plain version.
