//! Computes blocks of sums on the matrix unit: the sums are in four tiles, the left operand in two, and the right one in two.

use crate::cpu::unit::block_sum::{BLOCK, BlockSum, ColumnSums, Finished, LINES, Lines};
use std::arch::asm;
use std::arch::x86_64::__m512i;

/// How many steps [`run_and_round`] takes to round a finished block. Each step rounds two of its 32 rows.
pub(in crate::cpu::unit) const ROUNDING_STEPS: usize = 16;

/// The assembly around the steps of a block. It loads the sums and the tiles of the first step, and stores the sums at the end.
macro_rules! block {
    ($($middle:expr),*) => {
        concat!(
            "test {l}, {l}\n",
            "jnz 3f\n",
            "tilezero tmm0\n tilezero tmm1\n tilezero tmm2\n tilezero tmm3\n",
            "jmp 4f\n",
            "3:\n",
            "mov {r}, {row}\n",
            "shl {r}, 4\n",
            "add {r}, {l}\n",
            "tileloadd tmm0, [{l} + {row}]\n",
            "tileloadd tmm1, [{l} + {row} + 64]\n",
            "tileloadd tmm2, [{r} + {row}]\n",
            "tileloadd tmm3, [{r} + {row} + 64]\n",
            "4:\n",
            "mov {row:e}, 64\n",
            "mov {l}, [{steps}]\n",
            "mov {r}, [{steps} + 8]\n",
            "add {l}, {left}\n",
            "add {r}, {right}\n",
            "tileloaddt1 tmm4, [{l} + {row}]\n",
            "tileloadd tmm6, [{r} + {row}]\n",
            "tileloadd tmm7, [{r} + {row} + 1024]\n",
            "tileloaddt1 tmm5, [{l} + {row} + 1024]\n",
            $($middle, "\n",)*
            "mov {l}, {stride}\n",
            "shl {l}, 4\n",
            "add {l}, {to}\n",
            "tilestored [{to} + {stride}], tmm0\n",
            "tilestored [{to} + {stride} + 64], tmm1\n",
            "tilestored [{l} + {stride}], tmm2\n",
            "tilestored [{l} + {stride} + 64], tmm3\n",
        )
    };
}

/// The loop over the steps. A tile is loaded for the next step right after its last use, so that the loads hide behind the
/// products.
macro_rules! steps {
    ($label:literal) => {
        concat!(
            $label,
            ":\n",
            "mov {l}, [{steps} + 16]\n",
            "mov {r}, [{steps} + 24]\n",
            "add {l}, {left}\n",
            "add {r}, {right}\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            "prefetcht1 [{ahead}]\n",
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            "tileloaddt1 tmm4, [{l} + {row}]\n",
            "tdpbf16ps tmm2, tmm5, tmm6\n",
            "tileloadd tmm6, [{r} + {row}]\n",
            "prefetcht1 [{ahead} + 64]\n",
            "tdpbf16ps tmm3, tmm5, tmm7\n",
            "tileloadd tmm7, [{r} + {row} + 1024]\n",
            "tileloaddt1 tmm5, [{l} + {row} + 1024]\n",
            "add {ahead}, 128\n",
            "add {steps}, 16\n",
            "cmp {steps}, {end}\n",
            "jne ",
            $label,
            "b"
        )
    };
}

/// Runs assembly with the operands of a block, and further operands.
macro_rules! sum {
    ($block:ident, $text:expr, $($further:tt)*) => {{
        let BlockSum { steps, count, left, right, from, to, ahead, .. } = $block;
        asm!(
            $text,
            to = in(reg) to.0,
            stride = in(reg) to.1,
            steps = inout(reg) steps => _,
            end = in(reg) steps.add(count),
            left = in(reg) left,
            right = in(reg) right,
            row = inout(reg) from.1 => _,
            ahead = inout(reg) ahead => _,
            l = inout(reg) from.0 => _,
            r = out(reg) _,
            $($further)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }};
}

/// Computes a block, as [`crate::cpu::unit::Unit::run`] does.
///
/// Loads the left operand, which is used once, with the hint that it need not stay in the first-level cache. So the right operand
/// stays there.
///
/// # Safety
/// As [`crate::cpu::unit::Unit::run`].
#[inline(always)]
pub(in crate::cpu::unit) unsafe fn run(block: BlockSum) {
    // SAFETY: the assembly accesses the steps, the panels and the sums, all of which the caller promises to be valid.
    unsafe { sum!(block, block!(steps!("2")),) }
}

/// As [`run`], for a block of at most 16 columns, with half the products.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub(in crate::cpu::unit) unsafe fn run_narrow(block: BlockSum) {
    // SAFETY: the assembly accesses the steps, the panels and the sums, all of which the caller promises to be valid.
    unsafe {
        sum!(
            block,
            concat!(
                "test {l}, {l}\n",
                "jnz 3f\n",
                "tilezero tmm0\n",
                "tilezero tmm2\n",
                "jmp 4f\n",
                "3:\n",
                "mov {r}, {row}\n",
                "shl {r}, 4\n",
                "add {r}, {l}\n",
                "tileloadd tmm0, [{l} + {row}]\n",
                "tileloadd tmm2, [{r} + {row}]\n",
                "4:\n",
                "mov {row:e}, 64\n",
                "2:\n",
                "mov {l}, [{steps}]\n",
                "mov {r}, [{steps} + 8]\n",
                "add {l}, {left}\n",
                "add {r}, {right}\n",
                "tileloaddt1 tmm4, [{l} + {row}]\n",
                "tileloadd tmm6, [{r} + {row}]\n",
                "tileloaddt1 tmm5, [{l} + {row} + 1024]\n",
                "tdpbf16ps tmm0, tmm4, tmm6\n",
                "prefetcht1 [{ahead}]\n",
                "tdpbf16ps tmm2, tmm5, tmm6\n",
                "prefetcht1 [{ahead} + 64]\n",
                "add {ahead}, 128\n",
                "add {steps}, 16\n",
                "cmp {steps}, {end}\n",
                "jne 2b\n",
                "mov {l}, {stride}\n",
                "shl {l}, 4\n",
                "add {l}, {to}\n",
                "tilestored [{to} + {stride}], tmm0\n",
                "tilestored [{l} + {stride}], tmm2",
            ),
        )
    }
}

/// As [`run`], but each of the first [`ROUNDING_STEPS`] steps also rounds two rows of a block that was finished before. If
/// rounding came after the products, it would take a fifth of the time. Here it runs beside them.
///
/// # Safety
/// As [`crate::cpu::unit::Unit::run_and_round`], with at least [`ROUNDING_STEPS`] steps.
#[inline(always)]
pub(in crate::cpu::unit) unsafe fn run_and_round(block: BlockSum, finished: Finished) {
    // SAFETY: the assembly accesses the steps, the panels and both blocks of sums, all of which the caller promises to be valid.
    unsafe {
        sum!(
            block,
            block!(
                "2:",
                "mov {l}, [{steps} + 16]",
                "mov {r}, [{steps} + 24]",
                "add {l}, {left}",
                "add {r}, {right}",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{ahead}]",
                "vmovaps zmm16, [{sums} + 64]",
                "vcvtne2ps2bf16 zmm16, zmm16, [{sums}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloaddt1 tmm4, [{l} + {row}]",
                "vmovups [{out}], zmm16",
                "prefetchw [{out} + {next}]",
                "add {out}, {out_stride}",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{r} + {row}]",
                "prefetcht1 [{ahead} + 64]",
                "vmovaps zmm17, [{sums} + 192]",
                "vcvtne2ps2bf16 zmm17, zmm17, [{sums} + 128]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{r} + {row} + 1024]",
                "tileloaddt1 tmm5, [{l} + {row} + 1024]",
                "vmovups [{out}], zmm17",
                "prefetchw [{out} + {next}]",
                "add {out}, {out_stride}",
                "add {ahead}, 128",
                "add {steps}, 16",
                "add {sums}, 256",
                // the sums begin at a multiple of their size, so they end at one too
                "test {sums:e}, 4095",
                "jne 2b",
                "cmp {steps}, {end}",
                "je 6f",
                steps!("5"),
                "6:"
            ),
            sums = inout(reg) finished.sums => _,
            out = inout(reg) finished.to => _,
            out_stride = in(reg) finished.stride,
            // the next call rounds the block that is computed now, to the rows that are prefetched here: a store to a line that is
            // not in the cache would stall
            next = in(reg) BLOCK * finished.stride,
            out("zmm16") _, out("zmm17") _,
        );
    }
}

/// [`ColumnSums`] that a tile computes. Between the calls of `add` the sums are in memory.
#[repr(align(64))]
pub(crate) struct TransposedTile([__m512i; LINES]);

/// The assembly that prefetches two lines.
macro_rules! ask_for_two {
    () => {
        "prefetcht1 [{line}]\n prefetcht1 [{line} + {stride_ahead}]\n lea {line}, [{line} + 2 * {stride_ahead}]\n"
    };
}

impl ColumnSums for TransposedTile {
    const VECTOR_BYTES: usize = 64;

    #[inline]
    unsafe fn of(lines: [__m512i; LINES]) -> TransposedTile {
        TransposedTile(lines)
    }

    #[inline]
    unsafe fn lines(&self) -> [__m512i; LINES] {
        self.0
    }

    #[inline]
    unsafe fn add(&mut self, right: Lines, left: *const u8, steps: usize, _pairs: usize, ahead: Lines) {
        if steps == 0 {
            return;
        }
        // SAFETY: by the contract of `ColumnSums::add` the unit is configured, and the lines and vectors of these steps can be
        // read; `self` is 16 lines of 64 bytes.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {row}]",
                "2:",
                "mov {line}, {ahead}",
                "tileloadd tmm1, [{right} + {stride}]",
                "tileloadd tmm2, [{left} + {row}]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                ask_for_two!(),
                "add {right}, 64",
                "add {left}, 1024",
                "add {ahead}, 64",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {row}], tmm0",
                sums = in(reg) self.0.as_mut_ptr(),
                row = in(reg) 64usize,
                right = inout(reg) right.0 => _,
                stride = in(reg) right.1,
                left = inout(reg) left => _,
                ahead = inout(reg) ahead.0 => _,
                stride_ahead = in(reg) ahead.1,
                line = out(reg) _,
                steps = inout(reg) steps => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _,
                options(nostack),
            );
        }
    }
}
