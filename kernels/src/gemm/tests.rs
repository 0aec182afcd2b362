//! Against the reference, and equalities on bits.

use super::*;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;
use crate::{Buffer, Device};

/// The largest ones would take minutes without vector instructions: the bench checks what it times.
#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = case::cases().into_iter().filter(|case| case.flops < 3e8).collect();
    check_all(&cases);
}

/// Every instruction set with one, two and three threads.
fn devices() -> Vec<Device> {
    let device = |isa| (1..=3).map(move |threads| Device::cpu_with(Some(threads), isa).unwrap());
    Isa::available().into_iter().flat_map(device).collect()
}

fn bits(buffer: &Buffer<f32>) -> Vec<u32> {
    buffer.download().into_iter().map(f32::to_bits).collect()
}

/// One product with everything but the operands fixed.
#[derive(Clone, Copy)]
enum Layout {
    Forward,
    Dx,
    Dw,
}
use Layout::{Dw as DW, Dx as DX, Forward as FORWARD};

/// The bits of a product, added to ones. `left` and `right` as in the contract; the right one is stored as bf16 where it is a weight.
fn product(device: &Device, layout: Layout, [m, n, k]: [usize; 3], left: &[f32], right: &[f32]) -> Vec<u32> {
    let (accumulate, alpha, precision) = (Accumulate::Add, 0.75, Precision::F32);
    let left = device.upload("left", left).unwrap();
    let weights: Vec<half::bf16> = right.iter().map(|x| half::bf16::from_f32(*x)).collect();
    let weights = device.upload("weights", &weights).unwrap();
    let w = WeightSlice::Bf16(weights.view());
    let x = device.upload("x", right).unwrap();
    let sides = match layout {
        FORWARD => m * n,
        DX => m * k,
        DW => n * k,
    };
    let mut output = device.upload("output", &vec![1.0; sides]).unwrap();
    let (left, y) = (left.view(), output.view_mut());
    match layout {
        FORWARD => Forward { m, n, k, alpha, x: left, w, y, accumulate, precision }.run(device),
        DX => Dx { m, n, k, alpha, dy: left, w, dx: y, accumulate, precision }.run(device),
        DW => Dw { m, n, k, alpha, dy: left, x: x.view(), dw: y, accumulate, precision }.run(device),
    }
    .unwrap();
    bits(&output)
}

#[test]
fn a_row_alone_has_the_bits_that_it_has_among_others() {
    // the last is an adapter's: another order of loops
    for [n, k] in [[70, 700], [576, 96], [300, 1100], [16, 576]] {
        for layout in [FORWARD, DX] {
            let (depth, cols) = if let FORWARD = layout { (k, n) } else { (n, k) };
            let m = 61;
            let mut inputs = Inputs::of(&[n, k]);
            let left = inputs.normal(m * depth, 1.0);
            let right = inputs.normal(n * k, 1.0);
            for device in devices() {
                let together = product(&device, layout, [m, n, k], &left, &right);
                for row in [0, 11, 12, 40, 59, 60] {
                    let alone = product(&device, layout, [1, n, k], &left[row * depth..(row + 1) * depth], &right);
                    assert_eq!(alone, together[row * cols..(row + 1) * cols], "row {row} on {}", device.describe());
                }
                let some = product(&device, layout, [7, n, k], &left[13 * depth..20 * depth], &right);
                assert_eq!(some, together[13 * cols..20 * cols], "rows 13 to 19 on {}", device.describe());
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for layout in [FORWARD, DX, DW] {
        for [m, n, k] in [[200, 330, 300], [1100, 16, 200], [1100, 200, 16], [3, 900, 700]] {
            let mut inputs = Inputs::of(&[m, n, k]);
            let (left, right) = match layout {
                FORWARD => (m * k, n * k),
                DX => (m * n, n * k),
                DW => (m * n, m * k),
            };
            let (left, right) = (inputs.normal(left, 1.0), inputs.normal(right, 1.0));
            for isa in Isa::available() {
                let with = |threads| {
                    let device = Device::cpu_with(Some(threads), isa).unwrap();
                    product(&device, layout, [m, n, k], &left, &right)
                };
                let one = with(1);
                assert_eq!(one, with(2), "[{m}, {n}, {k}] {}", isa.name());
                assert_eq!(one, with(3), "[{m}, {n}, {k}] {}", isa.name());
            }
        }
    }
}

/// `output` and `between` of a product with an update of its first `rows` rows; the output is added to.
fn updated(
    device: &Device,
    layout: Layout,
    [m, n, k]: [usize; 3],
    rows: usize,
    rank: usize,
    scaling: f32,
) -> [Buffer<f32>; 2] {
    let mut inputs = Inputs::of(&[n, k, rank]);
    let (depth, cols) = if let FORWARD = layout { (k, n) } else { (n, k) };
    let w = device.upload("w", &inputs.normal_bf16(n * k, 0.1)).unwrap();
    let [a, b] = [rank * k, n * rank].map(|len| device.upload("update", &inputs.normal(len, 0.2)).unwrap());
    let left = device.upload("left", &inputs.normal(m * depth, 1.0)).unwrap();
    let mut output = device.upload("output", &vec![1.0; m * cols]).unwrap();
    let mut between = device.alloc("between", rows * rank).unwrap();
    let update = LowRank { rows, rank, scaling, a: a.view(), b: b.view(), between: between.view_mut() };
    let (x, w, y) = (left.view(), WeightSlice::Bf16(w.view()), output.view_mut());
    let (accumulate, alpha, precision) = (Accumulate::Add, 1.0, Precision::F32);
    match layout {
        FORWARD => Forward { m, n, k, alpha, x, w, y, accumulate, precision }.run_with(Some(update), device),
        _ => Dx { m, n, k, alpha, dy: x, w, dx: y, accumulate, precision }.run_with(Some(update), device),
    }
    .unwrap();
    [output, between]
}

/// Every path against the portable one, which makes three products of it. The shapes take rows apart and columns, updates that
/// end inside a block of rows, and ranks of more than one panel.
#[test]
fn an_update_is_two_more_products() {
    let portable = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    for layout in [FORWARD, DX] {
        for ([m, n, k], rows, rank) in [
            ([70, 40, 90], 70, 4),
            ([300, 64, 96], 150, 16),
            ([300, 96, 700], 33, 40),
            ([9, 500, 120], 5, 8),
            ([40, 33, 31], 0, 3),
        ] {
            let [want, want_between] = updated(&portable, layout, [m, n, k], rows, rank, 1.5).map(|y| y.download());
            for device in devices() {
                let [got, between] = updated(&device, layout, [m, n, k], rows, rank, 1.5).map(|y| y.download());
                for (what, got, want) in [("output", got, &want), ("between", between, &want_between)] {
                    let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
                    let error = got.iter().zip(want).fold(0.0f32, |largest, (a, b)| largest.max((a - b).abs()));
                    let case = format!("[{m}, {n}, {k}], {rows} rows, rank {rank}: {what} on {}", device.describe());
                    assert!(error <= 4e-6 * largest, "{case}: {error} of {largest}");
                    assert!(got.iter().all(|x| x.is_finite()), "{case}");
                }
            }
        }
    }
}

#[test]
fn an_updated_row_has_the_same_bits_among_others() {
    for layout in [FORWARD, DX] {
        let [n, k] = [70, 700];
        let cols = if let FORWARD = layout { n } else { k };
        for device in devices() {
            let [all, _] = updated(&device, layout, [200, n, k], 100, 8, 2.0).map(|y| bits(&y));
            for m in [1, 5, 33] {
                let [few, _] = updated(&device, layout, [m, n, k], m, 8, 2.0).map(|y| bits(&y));
                assert_eq!(few, all[..m * cols], "{m} rows on {}", device.describe());
            }
        }
    }
}

/// A zero times infinity is NaN: no term is skipped because the other factor is zero.
#[test]
fn nan_and_infinity_reach_the_rows_that_they_belong_to() {
    let [m, n, k] = [14, 40, 50];
    for device in devices() {
        for poison in [f32::NAN, f32::INFINITY] {
            let mut left = vec![0.0; m * k];
            left[3 * k + 7] = poison;
            let y = product(&device, FORWARD, [m, n, k], &left, &vec![0.0; n * k]);
            for (at, y) in y.iter().enumerate() {
                let y = f32::from_bits(*y);
                assert_eq!(y.is_nan(), at / n == 3, "{poison} at {at} gives {y} on {}", device.describe());
            }
            let mut right = vec![0.0; n * k];
            right[5 * k + 9] = poison;
            let y = product(&device, FORWARD, [m, n, k], &vec![0.0; m * k], &right);
            for (at, y) in y.iter().enumerate() {
                let y = f32::from_bits(*y);
                assert_eq!(y.is_nan(), at % n == 5, "{poison} at {at} gives {y} on {}", device.describe());
            }
        }
    }
}

#[test]
fn a_product_of_no_terms_is_zero() {
    for device in devices() {
        let ones = |n| vec![1.0f32.to_bits(); n];
        assert_eq!(product(&device, FORWARD, [2, 3, 0], &[], &[]), ones(6));
        assert_eq!(product(&device, DX, [2, 0, 3], &[], &[]), ones(6));
        assert_eq!(product(&device, DW, [0, 2, 3], &[], &[]), ones(6));
        let mut y = device.upload("y", &[f32::NAN; 6]).unwrap();
        let x = device.upload::<f32>("x", &[]).unwrap();
        Forward {
            m: 2,
            n: 3,
            k: 0,
            alpha: 1.0,
            x: x.view(),
            w: x.view().into(),
            y: y.view_mut(),
            accumulate: Accumulate::Set,
            precision: Precision::F32,
        }
        .run(&device)
        .unwrap();
        assert_eq!(y.download(), [0.0; 6]);
    }
}

#[test]
fn a_slice_of_another_length_is_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let buffer = |n| device.upload("values", &vec![1.0f32; n]).unwrap();
    let (six, eight, mut twelve) = (buffer(6), buffer(8), buffer(12));
    let mut forward = |x: &Buffer<f32>, w: &Buffer<f32>, m| {
        Forward {
            m,
            n: 4,
            k: 2,
            alpha: 1.0,
            x: x.view(),
            w: w.view().into(),
            y: twelve.view_mut(),
            accumulate: Accumulate::Set,
            precision: Precision::F32,
        }
        .run(&device)
    };
    assert_eq!(forward(&six, &eight, 3), Ok(()));
    let shape = |argument, got, want| Err(KernelError::Shape { kernel: "gemm.forward", argument, got, want });
    assert_eq!(forward(&eight, &eight, 3), shape("x", 8, 6));
    assert_eq!(forward(&six, &six, 3), shape("w", 6, 8));
    assert_eq!(forward(&eight, &eight, 4), shape("y", 12, 16));
    assert_eq!(forward(&six, &eight, usize::MAX), shape("x", 6, usize::MAX));
}
