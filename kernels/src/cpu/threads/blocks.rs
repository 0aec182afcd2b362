//! Splitting a kernel over the threads of the device.
//!
//! Work is cut into blocks of a fixed size, whatever the number of threads, and no block reads what another writes. So the bits
//! of a result do not depend on which thread computed it.

use crate::cpu::Cpu;
use std::sync::Mutex;

/// Number of elements of a block. They are 64 KiB for each f32 operand, so that a block of three operands stays in the second-level
/// cache and takes some microseconds. The calling thread computes a single block itself, because handing it over takes 5 to 50 µs.
pub(crate) const BLOCK: usize = 16 * 1024;

/// How many rows of `cols` elements a block has, at least one.
pub(crate) fn rows_per_block(cols: usize) -> usize {
    (BLOCK / cols.max(1)).max(1)
}

impl Cpu {
    /// Calls `work` for each block, on the device's threads if there is more than one.
    pub(crate) fn for_each_block<B: Send>(&self, blocks: impl Iterator<Item = B>, work: impl Fn(B) + Send + Sync) {
        let blocks: Vec<Mutex<Option<B>>> = blocks.map(|block| Mutex::new(Some(block))).collect();
        self.parallel(blocks.len(), |_, number| {
            let block = blocks[number].lock().expect("a block is locked once").take();
            work(block.expect("a task runs once"));
        });
    }
}
