//! Matrices in registers: `ldmatrix` and `mma`. The PTX manual says which lane holds which element, in its section "Matrix
//! Fragments for mma.m16n8k16".

use super::Core;
use super::op::Op;
use super::registers::{ALL, LANES, Lanes};
use crate::forms::{Step, has_avx2};
use crate::report::Check;

/// `ldmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16 {d, ..}, [a]`: N matrices of 8 x 8. Lanes 8i to 8i + 7 hold the addresses of
/// the rows of matrix i. [`Op::data`] holds N in its low 3 bits, and in bit 3 whether the matrices are transposed.
pub(crate) fn load_matrix(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let (count, is_transposed) = ((op.data & 7) as usize, op.data & 8 != 0);
    core.all_must_be_there(op, lanes);
    let addresses = core.addresses(op, count);
    for matrix in 0..count {
        let mut rows = [[0u8; 16]; 8];
        for row in 0..8 {
            rows[row] = core.shared_row(op, addresses[8 * matrix + row], 8 * matrix + row);
        }
        if let Some(counters) = &mut core.counters {
            counters.matrix(core.place.at, &addresses[8 * matrix..][..8]);
        }
        let element = |row: usize, column: usize| {
            let at = if is_transposed { (column, row) } else { (row, column) };
            u32::from(u16::from_le_bytes([rows[at.0][2 * at.1], rows[at.0][2 * at.1 + 1]]))
        };
        let mut d = [0; LANES];
        for (lane, d) in d.iter_mut().enumerate() {
            let (row, column) = (lane / 4, lane % 4 * 2);
            *d = element(row, column) | element(row, column + 1) << 16;
        }
        core.registers.write(op.slots[matrix], &d, lanes);
    }
}

/// Returns the step for `mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {d, ..}, {a, ..}, {b, ..}, {c, ..}`: `d = a · b +
/// c`, with sums in f32, in the order of k. (A card may add in another order.)
pub(crate) fn multiply() -> Step {
    #[target_feature(enable = "avx2,fma")]
    fn avx2(core: &mut Core<'_>, op: &Op, lanes: u32) {
        product(core, op, lanes);
    }
    if has_avx2() { avx2 } else { product }
}

/// Rows of the result.
const M: usize = 16;
/// Columns of the result.
const N: usize = 8;
/// Terms of a sum.
const K: usize = 16;

#[inline(always)]
fn product(core: &mut Core<'_>, op: &Op, lanes: u32) {
    core.all_must_be_there(op, lanes);
    let word = |i: usize| &core.registers.words[usize::from(op.slots[i])].0;
    // operands 4 to 7 hold a: rows 0 to 7 and 8 to 15 of columns 0 to 7, then of columns 8 to 15
    let mut a = [[0f32; K]; M];
    for register in 0..4 {
        let (row, column) = (register % 2 * 8, register / 2 * 8);
        let from = word(4 + register);
        for lane in 0..LANES {
            let to = &mut a[row + lane / 4][column + lane % 4 * 2..][..2];
            to[0] = low(from[lane]);
            to[1] = high(from[lane]);
        }
    }
    // operands 8 and 9 hold b: rows 0 to 7 and 8 to 15
    let mut b = [[0f32; N]; K];
    for register in 0..2 {
        let from = word(8 + register);
        for lane in 0..LANES {
            let (row, column) = (register * 8 + lane % 4 * 2, lane / 4);
            b[row][column] = low(from[lane]);
            b[row + 1][column] = high(from[lane]);
        }
    }
    // operands 10 to 13 hold c: even and odd columns of rows 0 to 7, then of rows 8 to 15
    let mut sums = [[0f32; N]; M];
    for register in 0..4 {
        let from = word(10 + register);
        for lane in 0..LANES {
            sums[register / 2 * 8 + lane / 4][lane % 4 * 2 + register % 2] = f32::from_bits(from[lane]);
        }
    }
    for (sums, a) in sums.iter_mut().zip(&a) {
        for k in 0..K {
            for n in 0..N {
                sums[n] = a[k].mul_add(b[k][n], sums[n]);
            }
        }
    }
    let mut d = [Lanes([0u32; LANES]); 4];
    for (register, d) in d.iter_mut().enumerate() {
        for lane in 0..LANES {
            d.0[lane] = sums[register / 2 * 8 + lane / 4][lane % 4 * 2 + register % 2].to_bits();
        }
    }
    for (register, d) in d.iter().enumerate() {
        core.registers.write(op.slots[register], &d.0, lanes);
    }
}

impl Core<'_> {
    /// Reports lanes that are missing: a fragment is spread over all lanes of a warp.
    fn all_must_be_there(&mut self, op: &Op, lanes: u32) {
        if lanes != ALL {
            let text =
                format!("{} lanes have returned or do not exist: a matrix is in all 32", 32 - lanes.count_ones());
            self.report(Check::Sync, op, lanes.trailing_zeros() as usize & 31, text);
        }
    }
}

#[inline(always)]
fn low(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

#[inline(always)]
fn high(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}
