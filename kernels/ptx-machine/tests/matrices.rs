//! Matrix fragments: `ldmatrix` and `mma`, against products of whole matrices.

use crate::kernel::{Card, kernel};
use half::bf16;

/// Fills shared memory with 8 x 8 matrices whose elements count up from 0, row by row. Returns the words that each lane loads
/// from `count` of them.
fn loaded(count: usize, is_transposed: bool) -> Vec<u32> {
    let results = ["{%r10}", "{%r10, %r11}", "", "{%r10, %r11, %r12, %r13}"][count - 1];
    let trans = if is_transposed { ".trans" } else { "" };
    let stores: String = (0..count).map(|i| format!(" st.global.u32 [%rd4+{}], %r{};\n", 4 * i, 10 + i)).collect();
    let text = kernel(
        1,
        " .shared .align 16 .b8 tile[512];",
        &format!(
            // each lane writes eight elements, two to a word
            " mov.u64 %rd5, tile; mul.wide.u32 %rd6, %r0, 16; add.s64 %rd6, %rd6, %rd5; shl.b32 %r2, %r0, 3;
 shl.b32 %r3, %r2, 0; add.s32 %r4, %r3, 1; shl.b32 %r4, %r4, 16; or.b32 %r5, %r3, %r4;
 add.s32 %r6, %r5, 0x00020002; add.s32 %r7, %r6, 0x00020002; add.s32 %r8, %r7, 0x00020002;
 st.shared.v4.u32 [%rd6], {{%r5, %r6, %r7, %r8}}; bar.sync 0;
 cvt.u32.u64 %r9, %rd6;
 ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {results}, [%r9];
 mul.wide.u32 %rd4, %r0, {}; add.s64 %rd4, %rd4, %rd0;\n{stores}",
            4 * count
        ),
    );
    Card::new().results(&text, 1, 32, 32 * count)
}

#[test]
fn a_lane_gets_two_neighbours_of_each_matrix() {
    for count in [1, 2, 4] {
        for is_transposed in [false, true] {
            let mut want = Vec::new();
            for lane in 0..32 {
                for matrix in 0..count {
                    let element = |row: usize, column: usize| {
                        let (row, column) = if is_transposed { (column, row) } else { (row, column) };
                        (64 * matrix + 8 * row + column) as u32
                    };
                    let (row, column) = (lane / 4, 2 * (lane % 4));
                    want.push(element(row, column) | element(row, column + 1) << 16);
                }
            }
            assert_eq!(loaded(count, is_transposed), want, "{count} {is_transposed}");
        }
    }
}

#[test]
fn a_product_is_that_of_whole_matrices() {
    let text = kernel(
        2,
        "",
        " mul.wide.u32 %rd4, %r0, 40; add.s64 %rd4, %rd4, %rd0;
 ld.global.u32 %r2, [%rd4]; ld.global.u32 %r3, [%rd4+4]; ld.global.u32 %r4, [%rd4+8]; ld.global.u32 %r5, [%rd4+12];
 ld.global.u32 %r6, [%rd4+16]; ld.global.u32 %r7, [%rd4+20];
 ld.global.f32 %f0, [%rd4+24]; ld.global.f32 %f1, [%rd4+28]; ld.global.f32 %f2, [%rd4+32]; ld.global.f32 %f3, [%rd4+36];
 mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r2, %r3, %r4, %r5}, {%r6, %r7}, {%f0, %f1, %f2, %f3};
 mul.wide.u32 %rd5, %r0, 16; add.s64 %rd5, %rd5, %rd1; st.global.v4.f32 [%rd5], {%f0, %f1, %f2, %f3};",
    );
    let number = |i: usize| ((i * 37 + 11) % 61) as f32 - 30.0;
    let a = |row: usize, k: usize| number(16 * row + k);
    let b = |k: usize, column: usize| number(1000 + 8 * k + column);
    let c = |row: usize, column: usize| number(5000 + 8 * row + column) * 1000.0;
    let pair = |low: f32, high: f32| {
        u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
    };
    let mut operands = Vec::new();
    let mut want = Vec::new();
    for lane in 0..32 {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        for [row, k] in [[row, column], [row + 8, column], [row, column + 8], [row + 8, column + 8]] {
            operands.push(pair(a(row, k), a(row, k + 1)));
        }
        for k in [column, column + 8] {
            operands.push(pair(b(k, row), b(k + 1, row)));
        }
        for [row, column] in [[row, column], [row, column + 1], [row + 8, column], [row + 8, column + 1]] {
            operands.push(c(row, column).to_bits());
            // whole numbers: exact in any order
            want.push((c(row, column) + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>()).to_bits());
        }
    }
    let card = Card::new();
    let (from, to) = (card.upload(&operands), card.memory.allocate(32 * 16).unwrap());
    assert_eq!(card.launch(&text, 1, 32, &[from, to]).unwrap().reports, []);
    assert_eq!(card.words(to, 128), want);
}
