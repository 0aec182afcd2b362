//! Fast version.
