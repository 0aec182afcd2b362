//! Splitting a kernel over the threads of the device.
//!
//! Work is cut into blocks of a fixed size, whatever the number of threads, and no block reads what another writes: the bits
//! of a result do not depend on who computed it.

use crate::cpu::Cpu;
use std::sync::Mutex;

/// Elements of a block: 64 KiB per f32 operand, so that a block of three operands stays in L2 and takes some microseconds.
/// One block or less is done by the calling thread, because handing it over takes 5 to 50 µs.
pub(crate) const BLOCK: usize = 16 * 1024;

/// Rows of a block, at least one.
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
