//! Products against the reference, stacks against single products, equal bits, values that are not finite, refused calls.

use super::*;
use crate::case::{Inputs, check_all, float};
use crate::cpu::Isa;
use crate::{Buffer, Device, FloatBuffer, FloatDtype, KernelError};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// Returns stacks with one tile of rows and some of columns, and stacks smaller than a tile.
    fn small_stacks() -> Vec<Stack> {
        stacks().into_iter().filter(|stack| stack.k < 100).collect()
    }

    #[test]
    fn a_stack_is_its_layers_one_after_the_other() {
        let portable = Device::cpu_with(Some(1), Isa::Portable).unwrap();
        on_a_card(|device| {
            for stack in small_stacks() {
                for inputs in [FORWARD, DX].map(|layout| StackInputs::new(layout, stack)) {
                    check_stack(device, &inputs, 0..40, &stacked(&portable, &inputs, 0..40));
                }
            }
        });
    }

    #[test]
    fn updates_of_different_rows_are_calls_of_their_own() {
        on_a_card(check_updates_of_different_rows);
    }

    #[test]
    fn an_update_of_zeros_changes_no_bit() {
        on_a_card(|device| check_update_of_zeros(device, small_stacks()));
    }

    #[test]
    fn nan_and_infinity_reach_the_rows_that_they_belong_to() {
        on_a_card(check_nan_and_infinity);
    }

    #[test]
    fn a_product_of_no_terms_is_zero() {
        on_a_card(check_product_of_no_terms);
    }

    #[test]
    fn a_row_alone_has_the_bits_that_it_has_among_others() {
        on_a_card(|device| {
            let [m, n, k] = [70, 66, 40];
            let mut inputs = Inputs::of(&[n, k]);
            let right = inputs.normal(n * k, 1.0);
            for layout in [FORWARD, DX] {
                let (depth, cols) = if let FORWARD = layout { (k, n) } else { (n, k) };
                let left = inputs.normal(m * depth, 1.0);
                for precision in PRECISIONS {
                    let together = product(device, layout, precision, [m, n, k], &left, &right);
                    for rows in [0..1, 63..64, 64..65, 69..70, 3..68] {
                        let left = &left[rows.start * depth..rows.end * depth];
                        let some = product(device, layout, precision, [rows.len(), n, k], left, &right);
                        assert!(some == together[rows.start * cols..rows.end * cols], "{rows:?} in {precision:?}");
                    }
                }
            }
        });
    }

    /// Tests the last element of an output of more than 2^32.
    #[test]
    fn outputs_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let (m, n, k) = ((1 << 16) + 1, (1 << 16) + 1, 2);
        let [mut x, mut w] = [m, n].map(|rows| card.alloc::<f32>("operand", rows * k).unwrap());
        put(&mut x, (m - 1) * k, &[2.0, 3.0]);
        put(&mut w, (n - 1) * k, &[5.0, 7.0]);
        let mut y = card.alloc::<f32>("y", m * n).unwrap();
        put(&mut y, m * n - 1, &[100.0]);
        Forward {
            m,
            n,
            k,
            alpha: 1.0,
            x: x.view().into(),
            w: w.view().into(),
            y: y.view_mut().into(),
            accumulate: Accumulate::Add,
            precision: Precision::F32,
        }
        .run(&card)
        .unwrap();
        assert_eq!(get(&y, m * n - 1..m * n), [131.0]);
        card.assert_silent();
    }

    /// Tests rows of `dy` that are 2^31 elements apart, as rows of the left operand and as steps of the sum.
    #[test]
    fn rows_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let ([m, n, k], stride) = ([3, 2, 1], (1 << 31) + 5);
        let (alpha, accumulate, precision) = (1.0, Accumulate::Set, Precision::F32);
        let mut dy = card.alloc::<f32>("dy", m * stride).unwrap();
        (0..m).for_each(|row| put(&mut dy, row * stride + 1, &[row as f32 + 1.0, 10.0]));
        let [w, x] = [card.upload("w", &[1.0, 0.5]).unwrap(), card.upload("x", &[1.0, 10.0, 100.0]).unwrap()];
        let [mut dx, mut dw] = [m * k, n * k].map(|len| card.alloc::<f32>("output", len).unwrap());
        let columns = || Columns { values: dy.view().into(), first: 1, stride };
        let (w, x) = (w.view().into(), x.view().into());
        Dx { m, n, k, alpha, dy: columns(), w, dx: dx.view_mut().into(), accumulate, precision }.run(&card).unwrap();
        Dw { m, n, k, alpha, dy: columns(), x, dw: dw.view_mut(), accumulate, precision }.run(&card).unwrap();
        assert_eq!(dx.download().unwrap(), [6.0, 7.0, 8.0]);
        assert_eq!(dw.download().unwrap(), [321.0, 1110.0]);
        card.assert_silent();
    }
}

/// Leaves out the largest cases, which would take minutes without vector instructions. The bench checks the cases that it times.
#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = case::cases().into_iter().filter(|case| case.flops < 3e8).collect();
    check_all(cases);
}

/// Returns devices with one instruction set, on one, two and three threads.
fn by_threads(isa: Isa) -> [Device; 3] {
    [1, 2, 3].map(|threads| Device::cpu_with(Some(threads), isa).unwrap())
}

/// Returns devices with every instruction set, on one, two and three threads.
fn devices() -> Vec<Device> {
    Isa::available().into_iter().flat_map(by_threads).collect()
}

fn bits(buffer: &Buffer<f32>) -> Vec<u32> {
    buffer.download().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Which of the three products is computed.
#[derive(Clone, Copy)]
enum Layout {
    Forward,
    Dx,
    Dw,
}
use Layout::{Dw as DW, Dx as DX, Forward as FORWARD};

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Adds a product to a matrix of ones and returns the bits of the sum. `left` and `right` are the operands in the order of the
/// formula. `right` is stored as bf16 if it is a weight.
fn product(
    device: &Device,
    layout: Layout,
    precision: Precision,
    [m, n, k]: [usize; 3],
    left: &[f32],
    right: &[f32],
) -> Vec<u32> {
    let (accumulate, alpha) = (Accumulate::Add, 0.75);
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
        FORWARD => Forward { m, n, k, alpha, x: left.into(), w, y: y.into(), accumulate, precision }.run(device),
        DX => Dx { m, n, k, alpha, dy: Columns::all(left, n), w, dx: y.into(), accumulate, precision }.run(device),
        DW => {
            let (dy, x) = (Columns::all(left, n), x.view().into());
            Dw { m, n, k, alpha, dy, x, dw: y, accumulate, precision }.run(device)
        }
    }
    .unwrap();
    bits(&output)
}

#[test]
fn a_row_alone_has_the_bits_that_it_has_among_others() {
    // the last is an adapter's, which is computed in another order of loops
    for [n, k] in [[70, 700], [576, 96], [300, 1100], [16, 576]] {
        for layout in [FORWARD, DX] {
            let (depth, cols) = if let FORWARD = layout { (k, n) } else { (n, k) };
            let m = 61;
            let mut inputs = Inputs::of(&[n, k]);
            let left = inputs.normal(m * depth, 1.0);
            let right = inputs.normal(n * k, 1.0);
            for (isa, precision) in Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|p| (isa, p))) {
                let devices = by_threads(isa);
                let [together, others @ ..] =
                    devices.each_ref().map(|device| product(device, layout, precision, [m, n, k], &left, &right));
                assert!(others.iter().all(|other| *other == together), "threads, in {precision:?} on {}", isa.name());
                let parts = [0..1, 11..12, 12..13, 40..41, 59..60, 60..61, 13..20, 3..19, 5..25, 29..61];
                // the number of threads does not matter, so each part is computed with only one of them
                for (rows, device) in parts.into_iter().zip(devices.iter().cycle()) {
                    let left = &left[rows.start * depth..rows.end * depth];
                    let some = product(device, layout, precision, [rows.len(), n, k], left, &right);
                    let same = some == together[rows.start * cols..rows.end * cols];
                    assert!(same, "rows {rows:?} in {precision:?} on {}", device.describe());
                }
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
            for (isa, precision) in Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|p| (isa, p))) {
                let with = |threads| {
                    let device = Device::cpu_with(Some(threads), isa).unwrap();
                    product(&device, layout, precision, [m, n, k], &left, &right)
                };
                let one = with(1);
                assert_eq!(one, with(2), "[{m}, {n}, {k}] {}", isa.name());
                assert_eq!(one, with(3), "[{m}, {n}, {k}] {}", isa.name());
            }
        }
    }
}

/// A stack of three layers. Each has an update of its own rank, or none if the rank is 0.
#[derive(Clone, Copy)]
struct Stack {
    outputs: [usize; 3],
    ranks: [usize; 3],
    k: usize,
    precision: Precision,
    bias: bool,
    residual: bool,
}

const RANKS: [usize; 3] = [4, 0, 40];

/// Returns the updates of a piece: one if `there`, otherwise none.
fn update<'a>(there: bool, of: impl FnOnce() -> LowRank<'a>) -> Vec<LowRank<'a>> {
    there.then(of).into_iter().collect()
}

/// The operands of a stack, for 300 rows.
struct StackInputs {
    layout: Layout,
    stack: Stack,
    weights: Vec<Vec<half::bf16>>,
    updates: Vec<[Vec<f32>; 2]>,
    biases: Vec<Vec<f32>>,
    left: Vec<f32>,
    added: Vec<f32>,
    /// What the last update reads in the forward direction.
    own: Vec<f32>,
}

impl StackInputs {
    fn new(layout: Layout, stack: Stack) -> StackInputs {
        let Stack { outputs, ranks, k, .. } = stack;
        let mut inputs = Inputs::of(&[outputs[0], k]);
        let n: usize = outputs.iter().sum();
        let [left_cols, cols] = if let FORWARD = layout { [k, n] } else { [n, k] };
        StackInputs {
            layout,
            stack,
            weights: outputs.iter().map(|n| inputs.normal_bf16(n * k, 0.1)).collect(),
            updates: std::iter::zip(outputs, ranks)
                .map(|(n, r)| [r * k, n * r].map(|len| inputs.normal(len, 0.2)))
                .collect(),
            biases: outputs.iter().map(|n| inputs.normal(*n, 1.0)).collect(),
            left: inputs.normal_bf16(300 * left_cols, 1.0).into_iter().map(half::bf16::to_f32).collect(),
            added: inputs.normal(300 * cols, 1.0),
            own: inputs.normal(300 * k, 1.0),
        }
    }
}

/// Computes rows `rows` of a stack. Returns the output, and the `u` of each layer's update.
fn stacked(device: &Device, inputs: &StackInputs, rows: std::ops::Range<usize>) -> Vec<Vec<f32>> {
    let StackInputs { layout, stack: Stack { outputs, ranks, k, precision, bias, residual }, .. } = *inputs;
    let n: usize = outputs.iter().sum();
    let m = rows.len();
    let upload = |values: &[f32]| device.upload("values", values).unwrap();
    let weights: Vec<Buffer<half::bf16>> = inputs.weights.iter().map(|w| device.upload("w", w).unwrap()).collect();
    let updates: Vec<[Buffer<f32>; 2]> =
        inputs.updates.iter().map(|matrices| matrices.each_ref().map(|values| upload(values))).collect();
    let biases: Vec<Buffer<f32>> = inputs.biases.iter().map(|values| upload(values)).collect();
    let [left_cols, cols] = if let FORWARD = layout { [k, n] } else { [n, k] };
    let dtype = FloatDtype::from(precision);
    let left = float(device, dtype, &inputs.left[rows.start * left_cols..rows.end * left_cols]).unwrap();
    let own = float(device, dtype, &inputs.own[rows.start * k..rows.end * k]).unwrap();
    let added = upload(&inputs.added[rows.start * cols..rows.end * cols]);
    let mut u: Vec<Buffer<f32>> = ranks.iter().map(|r| device.alloc("u", m * r).unwrap()).collect();
    let mut pieces: Vec<Piece<'_>> = (weights.iter().zip(&updates).zip(&biases).zip(&mut u).enumerate())
        .map(|(i, (((w, [a, b]), b_row), u))| Piece {
            n: outputs[i],
            w: WeightSlice::Bf16(w.view()),
            bias: bias.then(|| b_row.view()),
            updates: update(ranks[i] > 0, || LowRank {
                rows: 0..m,
                rank: ranks[i],
                scaling: 1.5,
                a: a.view(),
                b: b.view(),
                // the last update reads its own input
                x: (i == 2).then(|| own.view()),
                u: u.view_mut(),
            }),
        })
        .collect();
    let output_dtype = if residual { FloatDtype::F32 } else { dtype };
    let mut output = device.alloc_float("output", output_dtype, m * cols).unwrap();
    let residual = residual.then(|| added.view());
    let pieces_mut = &mut pieces[..];
    match layout {
        FORWARD => {
            let (x, y) = (left.view(), output.view_mut());
            StackForward { m, k, x, pieces: pieces_mut, y, residual, precision }.run(device)
        }
        _ => StackDx { m, k, dy: left.view(), pieces: pieces_mut, dx: output.view_mut(), precision }.run(device),
    }
    .unwrap();
    drop(pieces);
    let mut all = vec![output.download().unwrap()];
    all.extend(u.iter().map(|u| u.download().unwrap()));
    all
}

fn stacks() -> Vec<Stack> {
    let shapes = [([96, 40, 64], 96), ([70, 33, 31], 700), ([320, 96, 130], 100), ([8, 6, 4], 5)];
    let mut stacks = Vec::new();
    for (outputs, k) in shapes {
        for precision in [Precision::F32, Precision::Bf16] {
            for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
                stacks.push(Stack { outputs, ranks: RANKS, k, precision, bias, residual });
            }
        }
    }
    stacks
}

/// Compares every path with the portable one, which computes a stack product by product. The shapes cover tasks of rows, tasks of
/// columns, and a rank of more than one panel.
#[test]
fn a_stack_is_its_layers_one_after_the_other() {
    let portable = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    for (turn, stack) in stacks().into_iter().enumerate() {
        for inputs in [FORWARD, DX].map(|layout| StackInputs::new(layout, stack)) {
            for (i, m) in [1, 40, 300].into_iter().enumerate() {
                // the next test compares numbers of threads; here the number changes from case to case
                let threads = Some(1 + (turn + i) % 3);
                let want = stacked(&portable, &inputs, 0..m);
                for isa in Isa::available() {
                    check_stack(&Device::cpu_with(threads, isa).unwrap(), &inputs, 0..m, &want);
                }
            }
        }
    }
}

/// Compares rows of a stack with those that another device computed.
fn check_stack(device: &Device, inputs: &StackInputs, rows: std::ops::Range<usize>, want: &[Vec<f32>]) {
    let stack = inputs.stack;
    let got = stacked(device, inputs, rows.clone());
    for (what, (got, want)) in got.iter().zip(want).enumerate() {
        let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let error = got.iter().zip(want).fold(0.0f32, |largest, (a, b)| largest.max((a - b).abs()));
        // in bf16 the result of an update's first product is rounded, before or after scaling, and so is the output
        let allowed = if stack.precision == Precision::F32 { 4e-6 } else { 1.0 / 128.0 };
        let Stack { outputs, k, precision, bias, residual, .. } = stack;
        let case = format!(
            "{rows:?}, {outputs:?} of {k} in {precision:?}, bias {bias}, residual {residual}, output {what} on {}",
            device.describe()
        );
        assert!(error <= allowed * largest, "{case}: {error} of {largest}");
        assert!(got.iter().all(|x| x.is_finite()), "{case}");
    }
}

#[test]
fn a_row_of_a_stack_has_the_same_bits_among_others_and_on_any_number_of_threads() {
    for stack in stacks() {
        for layout in [FORWARD, DX] {
            let n: usize = stack.outputs.iter().sum();
            let cols = if let FORWARD = layout { n } else { stack.k };
            let inputs = StackInputs::new(layout, stack);
            for devices in Isa::available().into_iter().map(by_threads) {
                let same = |a: &[f32], b: &[f32]| std::iter::zip(a, b).all(|(a, b)| a.to_bits() == b.to_bits());
                let [all, others @ ..] = devices.each_ref().map(|device| stacked(device, &inputs, 0..200));
                for (other, device) in others.iter().zip(&devices[1..]) {
                    assert!(same(&other.concat(), &all.concat()), "on {}", device.describe());
                }
                let parts = [0..1, 7..12, 3..19, 5..25, 0..32, 60..93];
                for (rows, device) in parts.into_iter().zip(devices.iter().cycle()) {
                    let few = &stacked(device, &inputs, rows.clone())[0];
                    assert!(same(few, &all[0][rows.start * cols..]), "rows {rows:?} on {}", device.describe());
                }
            }
        }
    }
}

/// One call with updates of different rows gives the same bits as one call for each part of the rows.
fn check_updates_of_different_rows(device: &Device) {
    const RANKS: [usize; 2] = [4, 7];
    let [m, n, k] = [80, 33, 50];
    for precision in PRECISIONS {
        let mut inputs = Inputs::of(&[m, n, k]);
        let mut upload = |len, scale| device.upload("values", &inputs.normal(len, scale)).unwrap();
        let (x, dy, w) = (upload(m * k, 1.0), upload(m * n, 1.0), upload(n * k, 0.1));
        let matrices = RANKS.map(|rank| [upload(rank * k, 0.2), upload(n * rank, 0.2)]);
        // computes rows `part`; each update is given by its number and the rows that it applies to
        let run = |layout, part: std::ops::Range<usize>, updates: &[(usize, std::ops::Range<usize>)]| -> Vec<u32> {
            let mut us = RANKS.map(|rank| device.zeros::<f32>("u", m * rank).unwrap());
            let [first, second] = us.each_mut().map(|u| Some(u.view_mut()));
            let mut us_left = [first, second];
            let updates = updates.iter().map(|(i, rows)| LowRank {
                rows: rows.clone(),
                rank: RANKS[*i],
                scaling: 1.5,
                a: matrices[*i][0].view(),
                b: matrices[*i][1].view(),
                x: None,
                u: us_left[*i].take().expect("one use of each").range(0..rows.len() * RANKS[*i]),
            });
            let mut pieces = [Piece { n, w: w.view().into(), bias: None, updates: updates.collect() }];
            let (m, pieces) = (part.len(), &mut pieces[..]);
            let rows = |values: &Buffer<f32>, cols| -> FloatBuffer {
                device.upload("rows", &values.download().unwrap()[part.start * cols..part.end * cols]).unwrap().into()
            };
            let cols = if let FORWARD = layout { n } else { k };
            let mut output = device.zeros::<f32>("output", m * cols).unwrap();
            let y = output.view_mut().into();
            match layout {
                FORWARD => {
                    StackForward { m, k, x: rows(&x, k).view(), pieces, y, residual: None, precision }.run(device)
                }
                _ => StackDx { m, k, dy: rows(&dy, n).view(), pieces, dx: y, precision }.run(device),
            }
            .unwrap();
            bits(&output)
        };
        for layout in [FORWARD, DX] {
            let parts =
                [run(layout, 0..40, &[(0, 0..40)]), run(layout, 40..70, &[(1, 0..30)]), run(layout, 70..80, &[])];
            let whole = run(layout, 0..m, &[(0, 0..40), (1, 40..70)]);
            assert_eq!(whole, parts.concat(), "{precision:?} on {}", device.describe());
        }
    }
}

#[test]
fn updates_of_different_rows_are_calls_of_their_own() {
    devices().iter().for_each(check_updates_of_different_rows);
}

/// An update whose second matrix is zero leaves the bits of the layer as they are: a fresh adapter changes nothing.
fn check_update_of_zeros(device: &Device, stacks: Vec<Stack>) {
    for stack in stacks {
        let without = Stack { ranks: [0; 3], ..stack };
        let with = stacked_with_zeros(device, &stack);
        assert_eq!(with, stacked_with_zeros(device, &without), "on {}", device.describe());
    }
}

#[test]
fn an_update_of_zeros_changes_no_bit() {
    devices().iter().for_each(|device| check_update_of_zeros(device, stacks()));
}

fn stacked_with_zeros(device: &Device, stack: &Stack) -> Vec<u32> {
    let Stack { outputs, ranks, k, precision, .. } = *stack;
    let mut inputs = Inputs::of(&[outputs[0], k]);
    let (m, n) = (70, outputs.iter().sum::<usize>());
    let weights: Vec<Buffer<half::bf16>> =
        outputs.iter().map(|n| device.upload("w", &inputs.normal_bf16(n * k, 0.1)).unwrap()).collect();
    let x = device.upload("x", &inputs.normal(m * k, 1.0)).unwrap();
    let a = device.upload("a", &inputs.normal(40 * k, 1.0)).unwrap();
    let b = device.upload("b", &vec![0.0; 40 * n]).unwrap();
    let mut u: Vec<Buffer<f32>> = ranks.iter().map(|r| device.alloc("u", m * r).unwrap()).collect();
    let mut pieces: Vec<Piece<'_>> = (weights.iter().zip(&mut u).enumerate())
        .map(|(i, (w, u))| {
            let (rank, n) = (ranks[i], outputs[i]);
            let (a, b) = (a.view().range(0..rank * k), b.view().range(0..n * rank));
            let updates =
                update(rank > 0, || LowRank { rows: 0..m, rank, scaling: 2.0, a, b, x: None, u: u.view_mut() });
            Piece { n, w: WeightSlice::Bf16(w.view()), bias: None, updates }
        })
        .collect();
    let mut y = device.alloc_float("y", precision.into(), m * n).unwrap();
    let x = x.view().into();
    StackForward { m, k, x, pieces: &mut pieces, y: y.view_mut(), residual: None, precision }.run(device).unwrap();
    y.download().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Zero times infinity is NaN, so no term may be skipped because one factor is zero.
fn check_nan_and_infinity(device: &Device) {
    let [m, n, k] = [14, 40, 50];
    for precision in PRECISIONS {
        for poison in [f32::NAN, f32::INFINITY] {
            let mut left = vec![0.0; m * k];
            left[3 * k + 7] = poison;
            let y = product(device, FORWARD, precision, [m, n, k], &left, &vec![0.0; n * k]);
            for (at, y) in y.iter().enumerate() {
                let y = f32::from_bits(*y);
                assert_eq!(y.is_nan(), at / n == 3, "{poison} at {at} gives {y} on {}", device.describe());
            }
            let mut right = vec![0.0; n * k];
            right[5 * k + 9] = poison;
            let y = product(device, FORWARD, precision, [m, n, k], &vec![0.0; m * k], &right);
            for (at, y) in y.iter().enumerate() {
                let y = f32::from_bits(*y);
                assert_eq!(y.is_nan(), at % n == 5, "{poison} at {at} gives {y} on {}", device.describe());
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_the_rows_that_they_belong_to() {
    devices().iter().for_each(check_nan_and_infinity);
}

fn check_product_of_no_terms(device: &Device) {
    let ones = |n| vec![1.0f32.to_bits(); n];
    for precision in PRECISIONS {
        assert_eq!(product(device, FORWARD, precision, [2, 3, 0], &[], &[]), ones(6));
        assert_eq!(product(device, DX, precision, [2, 0, 3], &[], &[]), ones(6));
        assert_eq!(product(device, DW, precision, [0, 2, 3], &[], &[]), ones(6));
    }
    let mut y = device.upload("y", &[f32::NAN; 6]).unwrap();
    let x = device.upload::<f32>("x", &[]).unwrap();
    Forward {
        m: 2,
        n: 3,
        k: 0,
        alpha: 1.0,
        x: x.view().into(),
        w: x.view().into(),
        y: y.view_mut().into(),
        accumulate: Accumulate::Set,
        precision: Precision::F32,
    }
    .run(device)
    .unwrap();
    assert_eq!(y.download().unwrap(), [0.0; 6]);
}

#[test]
fn a_product_of_no_terms_is_zero() {
    devices().iter().for_each(check_product_of_no_terms);
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
            x: x.view().into(),
            w: w.view().into(),
            y: twelve.view_mut().into(),
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
