//! The matrix unit of x86-64 (AMX): whether this process may use it, and the shape of its tiles.
//!
//! A tile is 16 rows of 64 bytes. `tdpbf16ps` multiplies a tile of 16 x 32 bf16 by one of 32 x 16, which holds its values in
//! pairs of the depth (`tile[p][2 c + i]` is element `[2 p + i, c]`). It adds the product to a tile of 16 x 16 f32, rounds to
//! nearest even, and treats denormals as zero. The instructions are written in assembly, because the compiler's intrinsics are
//! not stable.

pub(super) mod block_sum;
#[cfg(all(test, target_os = "linux"))]
mod tests;

pub(crate) use block_sum::TransposedTile;

use std::cell::Cell;
use std::sync::OnceLock;

/// Whether the processor has the unit, and the system supports it and lets this process use it. The first call asks the system for
/// permission, for all threads.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_it() && system_saves_it() && permitted())
}

/// Installs the emulator if this process cannot use the real unit. Returns whether the unit is now emulated.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn emulated() -> bool {
    !available() && tests::emulator::install()
}

/// Always `false`: only tests on Linux emulate the unit.
#[cfg(not(all(test, target_os = "linux")))]
pub(crate) fn emulated() -> bool {
    false
}

fn processor_has_it() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (TILE | BF16) == TILE | BF16
}

/// Whether the system saves the tiles when it switches threads. The processor has `xgetbv`: AVX-512 was found before.
fn system_saves_it() -> bool {
    const TILE_STATES: u32 = 1 << 17 | 1 << 18;
    let low: u32;
    // SAFETY: this reads a register that the system has made readable (`osxsave`): otherwise no AVX would have been found.
    unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    low & TILE_STATES == TILE_STATES
}

/// Asks Linux for the tiles. It grants them only on request, because they make the saved state of a thread 8 KiB larger.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: the call reads its two numbers and no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles at their full size, which never changes: operands of fewer rows are padded, because loading another
/// configuration would zero the tiles.
static FULL_TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Configures this thread's tiles, on the thread's first call.
///
/// # Safety
/// The unit is [`available`].
pub(crate) unsafe fn configure() {
    thread_local!(static CONFIGURED: Cell<bool> = const { Cell::new(false) });
    CONFIGURED.with(|configured| {
        if !configured.replace(true) {
            // SAFETY: the unit is available, as the caller promises, and the configuration is a valid one of palette 1.
            unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const FULL_TILES, options(readonly, nostack)) };
        }
    });
}

/// How many rounds [`burst`] runs. A round is four products of tiles.
const BURST_ROUNDS: usize = 50_000;

/// Runs the unit at its limit on this thread, for benches: multiplies tiles that stay loaded. The tiles hold ordinary numbers,
/// because with zeros the processor would run at a higher clock. Returns the number of floating-point operations.
///
/// # Safety
/// The unit is [`available`].
pub(crate) unsafe fn burst() -> f64 {
    let values: Vec<u32> = (0..512u32).map(|i| 0x3f80_3f80 ^ (i.wrapping_mul(2_654_435_761) & 0x807f_807f)).collect();
    // SAFETY: the unit is available, as the caller promises; both tiles are loaded from inside `values`.
    unsafe {
        configure();
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "tileloadd tmm4, [{at} + {stride}]",
            "tileloadd tmm5, [{at} + {stride} + 1024]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tdpbf16ps tmm1, tmm5, tmm4",
            "tdpbf16ps tmm2, tmm4, tmm5",
            "tdpbf16ps tmm3, tmm5, tmm4",
            "dec {rounds}",
            "jnz 2b",
            at = in(reg) values.as_ptr(),
            stride = in(reg) 64usize,
            rounds = inout(reg) BURST_ROUNDS => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
            options(readonly, nostack),
        );
    }
    (BURST_ROUNDS * 4 * 2 * 16 * 16 * 32) as f64
}
