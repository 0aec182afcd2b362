//! The matrix unit in software, for tests on processors without it. There, each of its instructions raises an illegal-instruction
//! signal. The handler decodes the instruction and executes it on tiles that it keeps in memory. If more of the unit's instructions
//! follow directly, it executes them too, because a signal takes longer than any of them. The program then continues after the last
//! one that was executed. So the code that runs on the unit is tested, except for its speed.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2: the operations and VEX encodings of the
//! instructions.

use std::arch::x86_64::*;
use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// Rows of a tile, and f32 numbers in a row.
const ROWS: usize = 16;

/// A tile: 16 rows of 64 bytes.
type Tile = [[u32; ROWS]; ROWS];

thread_local! {
    /// A thread's eight tiles. They have no destructor, so the handler may use them at any time.
    static TILES: UnsafeCell<[Tile; 8]> = const { UnsafeCell::new([[[0; ROWS]; ROWS]; 8]) };
}

/// Installs the handler of illegal instructions. Returns whether the system accepted it. AVX-512 with bf16 must have been found
/// before.
pub(crate) fn install() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: the action is zero except for the handler and the flag, which says that the handler takes the context.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal_instruction as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()) == 0
        }
    })
}

extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system passes a context that the handler may change; the code at the instruction pointer is mapped.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let first = registers[libc::REG_RIP as usize];
        let mut at = first;
        while let Some(len) = TILES.with(|tiles| execute(at as *const u8, registers, &mut *tiles.get())) {
            at += len;
        }
        if at == first {
            // not an instruction of the unit: without this handler, it raises the signal again and ends the process
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        }
        registers[libc::REG_RIP as usize] = at;
    }
}

/// Where the system keeps the general registers, in the order of their numbers in instructions.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// An operand in memory.
struct Operand {
    /// Its address without the index.
    at: usize,
    /// The scaled index. For a tile, these are the bytes from row to row.
    index: usize,
    /// Bytes that encode it in the instruction.
    len: usize,
}

/// Decodes the operand whose encoding begins at the byte `modrm` of an instruction. `extends` are the highest bits of the numbers
/// of the index register (bit 1) and the base register (bit 0). `None` if there is no base: this crate's code has no such
/// operands.
///
/// # Safety
/// `modrm` points into an instruction.
unsafe fn operand(modrm: *const u8, extends: u8, registers: &[i64; 23]) -> Option<Operand> {
    // SAFETY: the first bytes of an instruction say how long it is, and only its bytes are read.
    let byte = |i: usize| unsafe { *modrm.add(i) };
    let register = |number: u8| registers[REGISTERS[usize::from(number)] as usize] as usize;
    let (mode, rm) = (byte(0) >> 6, byte(0) & 7);
    let (mut base, mut index, mut len) = (rm, 0, 1);
    if rm == 4 {
        let sib = byte(1);
        base = sib & 7;
        let number = sib >> 3 & 7 | (extends >> 1 & 1) << 3;
        index = if number == 4 { 0 } else { register(number) << (sib >> 6) };
        len += 1;
    }
    let displacement = match mode {
        0 if base == 5 => return None,
        0 => 0,
        1 => i64::from(byte(len) as i8),
        _ => i64::from(i32::from_le_bytes([byte(len), byte(len + 1), byte(len + 2), byte(len + 3)])),
    };
    len += [0, 1, 4][usize::from(mode)];
    let at = register(base | (extends & 1) << 3).wrapping_add_signed(displacement as isize);
    Some(Operand { at, index, len })
}

/// Returns the length of the prefetch at `at`, which is only a hint and needs no emulation. `None` if there is no prefetch.
///
/// # Safety
/// `at` points at an instruction.
unsafe fn prefetch(at: *const u8, registers: &[i64; 23]) -> Option<i64> {
    // SAFETY: this reads the bytes of the instruction, and at most one byte of the code that follows it.
    unsafe {
        let extends = if *at & 0xf0 == 0x40 { Some(*at & 3) } else { None };
        let prefixes = usize::from(extends.is_some());
        let (escape, opcode, modrm) = (*at.add(prefixes), *at.add(prefixes + 1), at.add(prefixes + 2));
        let is_prefetch = escape == 0x0f && (opcode == 0x18 || opcode == 0x0d) && *modrm >> 6 != 3;
        let operand = is_prefetch.then(|| operand(modrm, extends.unwrap_or(0), registers))??;
        Some((prefixes + 2 + operand.len) as i64)
    }
}

/// Executes the instruction at `at`, and returns its length. `None` if it is neither an instruction of the unit nor a prefetch.
///
/// # Safety
/// `at` points at an instruction, whose operands are valid.
unsafe fn execute(at: *const u8, registers: &[i64; 23], tiles: &mut [Tile; 8]) -> Option<i64> {
    // SAFETY: the first bytes of an instruction say how long it is, and only its bytes are read.
    let byte = |i: usize| unsafe { *at.add(i) };
    // the unit's instructions have a VEX prefix of three bytes and are in the second map of opcodes
    if byte(0) != 0xc4 || byte(1) & 0x1f != 2 {
        // SAFETY: `at` points at an instruction, as the caller promises.
        return unsafe { prefetch(at, registers) };
    }
    let (extends, prefix, opcode, modrm) = (!byte(1), byte(2), byte(3), byte(4));
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    let vvvv = usize::from(!prefix >> 3 & 7);
    const NONE: u8 = 0;
    const X66: u8 = 1;
    const XF3: u8 = 2;
    const XF2: u8 = 3;
    match (opcode, prefix & 3, mode) {
        // tilezero
        (0x49, XF2, 3) => {
            tiles[reg] = [[0; ROWS]; ROWS];
            Some(5)
        }
        // tdpbf16ps
        (0x5c, XF3, 3) => {
            let (a, b) = (tiles[rm], tiles[vvvv]);
            // SAFETY: AVX-512 was found before the handler was installed.
            unsafe { multiply(&mut tiles[reg], &a, &b) };
            Some(5)
        }
        // ldtilecfg, which changes nothing because the tiles are always whole; tileloadd, tileloaddt1, tilestored
        (0x49, NONE, 0..=2) | (0x4b, X66 | XF2 | XF3, 0..=2) => {
            // SAFETY: byte 4 of the instruction is its `modrm`.
            let Operand { at: first, index: stride, len } = unsafe { operand(at.add(4), extends >> 5, registers)? };
            if opcode == 0x4b {
                for (row, line) in tiles[reg].iter_mut().enumerate() {
                    let memory = first.wrapping_add(row.wrapping_mul(stride)) as *mut [u32; ROWS];
                    // SAFETY: the row is part of the operand, which the caller promises to be valid.
                    unsafe {
                        match prefix & 3 {
                            XF3 => memory.write_unaligned(*line),
                            _ => *line = memory.read_unaligned(),
                        }
                    }
                }
            }
            Some((4 + len) as i64)
        }
        _ => None,
    }
}

/// `c += a · b`. The products at even and at odd places of the depth are summed separately, and both sums together are added to
/// `c`.
///
/// # Safety
/// The processor has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn multiply(c: &mut Tile, a: &Tile, b: &Tile) {
    // denormal operands count as zero, and denormal results become zero
    let flushed = |x: __m512| {
        let small = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(x), _mm512_set1_ps(f32::MIN_POSITIVE));
        _mm512_mask_mov_ps(x, small, _mm512_setzero_ps())
    };
    let halves = |pairs: __m512i| {
        let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
        let odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
        [flushed(even), flushed(odd)]
    };
    for (c, a) in c.iter_mut().zip(a) {
        let mut sums = [_mm512_setzero_ps(); 2];
        for (a, b) in a.iter().zip(b) {
            // SAFETY: a row of `b` has 64 bytes.
            let b = halves(unsafe { _mm512_loadu_si512(b.as_ptr().cast()) });
            let a = halves(_mm512_set1_epi32(*a as i32));
            sums = [0, 1].map(|i| flushed(_mm512_fmadd_ps(a[i], b[i], sums[i])));
        }
        // SAFETY: a row of `c` has 64 bytes.
        unsafe {
            let before = _mm512_castsi512_ps(_mm512_loadu_si512(c.as_ptr().cast()));
            let after = flushed(_mm512_add_ps(before, flushed(_mm512_add_ps(sums[0], sums[1]))));
            _mm512_storeu_si512(c.as_mut_ptr().cast(), _mm512_castps_si512(after));
        }
    }
}
