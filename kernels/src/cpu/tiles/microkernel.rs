//! 32 x 32 sums in four of the matrix unit's tiles: the left operand in two, the right one in two.

use half::bf16;
use std::arch::asm;

/// Rows and columns of a block of sums.
pub(crate) const BLOCK: usize = 32;
/// Depth that one step multiplies.
pub(crate) const STEP_DEPTH: usize = 32;
/// Bytes of a packed operand's part of a step: two tiles.
pub(crate) const STEP_BYTES: usize = 2048;

/// Where the operands of a step lie, in bytes from the start of the panels.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Step {
    pub(crate) left: usize,
    pub(crate) right: usize,
}

/// A block of sums in memory.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    pub(crate) at: *mut f32,
    /// Bytes from row to row.
    pub(crate) stride: usize,
    /// Whether they start from zero rather than from what is there.
    pub(crate) from_zero: bool,
}

/// A finished block of sums that is rounded to bf16 on the way, and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Finished {
    /// 32 rows of 32 floats, one after the other, at a multiple of [`SUMS_BYTES`]
    pub(crate) sums: *const f32,
    pub(crate) to: *mut bf16,
    /// Bytes from row to row of `to`.
    pub(crate) stride: usize,
}

/// Bytes of a block of sums.
pub(crate) const SUMS_BYTES: usize = 4 * BLOCK * BLOCK;
/// Steps that it takes to round a block of sums on the way.
pub(crate) const ROUNDING_STEPS: usize = 16;

/// As [`run_from`], in place.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn run(
    steps: *const Step,
    count: usize,
    left: *const u8,
    right: *const u8,
    sums: Sums,
    ahead: *const u8,
) {
    let from = if sums.from_zero { std::ptr::null() } else { sums.at.cast_const() };
    // SAFETY: the caller's contract.
    unsafe { run_from(steps, count, left, right, (from, sums.stride), (sums.at, sums.stride), ahead) }
}

/// What begins and ends a block, and what a step is: the tiles are loaded again right after their last use, for the next step.
macro_rules! block {
    ($($middle:literal),*) => {
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

/// `to[32, 32] = from[32, 32] + Σ_step left[step] · right[step]`, in the order of the steps, and asks for 128 bytes a step at
/// `ahead` in the second-level cache. `from` and `to` come with the bytes from row to row; a null `from` is zero, and one whose
/// rows are 0 bytes apart is one row, repeated.
///
/// A tile is loaded again right after its last use, for the next step: so the loads hide behind the products. The left operand,
/// which streams through, is loaded with the hint that keeps the right one in the first-level cache.
///
/// # Safety
/// The unit is configured on this thread; `count > 0` and `steps` holds one more, so that the last step can load "the next" too;
/// every step's 2048 bytes lie inside the panels at `left` and `right`; `from` (unless null) and `to` point at 32 rows of 32
/// floats.
#[inline(always)]
pub(crate) unsafe fn run_from(
    steps: *const Step,
    count: usize,
    left: *const u8,
    right: *const u8,
    from: (*const f32, usize),
    to: (*mut f32, usize),
    ahead: *const u8,
) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            block!(
                "2:",
                "mov {l}, [{steps} + 16]",
                "mov {r}, [{steps} + 24]",
                "add {l}, {left}",
                "add {r}, {right}",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{ahead}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloaddt1 tmm4, [{l} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{r} + {row}]",
                "prefetcht1 [{ahead} + 64]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{r} + {row} + 1024]",
                "tileloaddt1 tmm5, [{l} + {row} + 1024]",
                "add {ahead}, 128",
                "add {steps}, 16",
                "cmp {steps}, {end}",
                "jne 2b"
            ),
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
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// As [`run_from`], and each of the first [`ROUNDING_STEPS`] steps rounds two rows of a block that was finished before: what would
/// cost a fifth of the time after the products hides behind them.
///
/// # Safety
/// As there, with at least as many steps; `finished.sums` is another block than `to`, and its output holds 32 rows of 32.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "as its sibling, and what it does on the way")]
pub(crate) unsafe fn run_and_round(
    steps: *const Step,
    count: usize,
    left: *const u8,
    right: *const u8,
    from: (*const f32, usize),
    to: (*mut f32, usize),
    ahead: *const u8,
    finished: Finished,
) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
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
                // the sums begin at a multiple of their size: so do they end
                "test {sums:e}, 4095",
                "jne 2b",
                "cmp {steps}, {end}",
                "je 6f",
                "5:",
                "mov {l}, [{steps} + 16]",
                "mov {r}, [{steps} + 24]",
                "add {l}, {left}",
                "add {r}, {right}",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{ahead}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloaddt1 tmm4, [{l} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm6, [{r} + {row}]",
                "prefetcht1 [{ahead} + 64]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "tileloadd tmm7, [{r} + {row} + 1024]",
                "tileloaddt1 tmm5, [{l} + {row} + 1024]",
                "add {ahead}, 128",
                "add {steps}, 16",
                "cmp {steps}, {end}",
                "jne 5b",
                "6:"
            ),
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
            sums = inout(reg) finished.sums => _,
            out = inout(reg) finished.to => _,
            out_stride = in(reg) finished.stride,
            // the rows that this block will be rounded to, during the next: a line that is not at hand would stop the stores
            next = in(reg) BLOCK * finished.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            out("zmm16") _, out("zmm17") _,
            options(nostack),
        );
    }
}
