//! 32 x 32 sums in four of the matrix unit's tiles: the left operand in two, the right one in two.

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

/// `sums[32, 32] (+)= Σ_step left[step] · right[step]`, in the order of the steps, and asks for 128 bytes a step at `ahead` in
/// the second-level cache.
///
/// A tile is loaded again right after its last use, for the next step: so the loads hide behind the products. The left operand,
/// which streams through, is loaded with the hint that keeps the right one in the first-level cache.
///
/// # Safety
/// The unit is configured on this thread; `count > 0` and `steps` holds one more, so that the last step can load "the next" too;
/// every step's 2048 bytes lie inside the panels at `left` and `right`; `sums` points at 32 rows of 32 floats.
#[inline(always)]
pub(crate) unsafe fn run(
    steps: *const Step,
    count: usize,
    left: *const u8,
    right: *const u8,
    sums: Sums,
    ahead: *const u8,
) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            "test {zero:e}, {zero:e}",
            "jz 3f",
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "jmp 4f",
            "3:",
            "tileloadd tmm0, [{upper} + {stride}]",
            "tileloadd tmm1, [{upper} + {stride} + 64]",
            "tileloadd tmm2, [{lower} + {stride}]",
            "tileloadd tmm3, [{lower} + {stride} + 64]",
            "4:",
            "mov {l}, [{steps}]",
            "mov {r}, [{steps} + 8]",
            "add {l}, {left}",
            "add {r}, {right}",
            "tileloaddt1 tmm4, [{l} + {row}]",
            "tileloadd tmm6, [{r} + {row}]",
            "tileloadd tmm7, [{r} + {row} + 1024]",
            "tileloaddt1 tmm5, [{l} + {row} + 1024]",
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
            "jne 2b",
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            zero = in(reg) u32::from(sums.from_zero),
            upper = in(reg) sums.at,
            lower = in(reg) sums.at.byte_add(16 * sums.stride),
            stride = in(reg) sums.stride,
            steps = inout(reg) steps => _,
            end = in(reg) steps.add(count),
            left = in(reg) left,
            right = in(reg) right,
            row = in(reg) 64usize,
            ahead = inout(reg) ahead => _,
            l = out(reg) _,
            r = out(reg) _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
