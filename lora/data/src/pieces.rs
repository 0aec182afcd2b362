//! Files and streams that are read a piece at a time.

use std::io::{Read, Result};

/// Maximum number of bytes in a piece.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Fills `piece` with the next [`PIECE_BYTES`] bytes, or with the bytes that are left if these are fewer. Returns the new length of
/// `piece`: 0 at the end.
pub(crate) fn fill(from: &mut dyn Read, piece: &mut Vec<u8>) -> Result<usize> {
    piece.clear();
    from.take(PIECE_BYTES as u64).read_to_end(piece)
}
