//! The norm against the reference, its gradient against finite differences, equal bits, refused calls.

use super::case::{BackwardShape, ForwardShape};
use super::*;
use crate::FloatBuffer;
use crate::KernelError;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;
use half::bf16;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    #[test]
    fn heads_are_rows_of_their_own() {
        on_a_card(check_heads);
    }

    #[test]
    fn operands_of_bf16_give_the_result_of_f32_rounded() {
        on_a_card(check_bf16);
    }

    #[test]
    fn a_row_alone_has_the_bits_of_the_row_in_a_batch() {
        on_a_card(check_rows_alone);
    }

    /// Two heads of 40 columns, in the last of three rows that are 2^31 columns long.
    #[test]
    fn rows_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(2) else { return };
        let cols = 40;
        let mut inputs = Inputs::of(&[cols]);
        let [x, dy, weight] = [2, 2, 1].map(|rows| inputs.normal(rows * cols, 1.0));
        let weight = card.upload("weight", &weight).unwrap();
        let run = |rows: usize, groups: Groups| {
            let at = (rows / 2 - 1) * groups.stride + groups.first;
            let [mut on_card, mut d_y, mut y, mut dx] =
                [(); 4].map(|()| card.alloc::<f32>("x", rows / 2 * groups.stride).unwrap());
            put(&mut on_card, at, &x);
            put(&mut d_y, at, &dy);
            let mut rstd = card.alloc("rstd", rows).unwrap();
            let (x, weight, y_view) = (on_card.view().into(), weight.view(), y.view_mut().into());
            Forward { rows, cols, groups, eps: 1e-5, offset: 1.0, x, weight, y: y_view, rstd: rstd.view_mut() }
                .run(&card)
                .unwrap();
            let (rstd, dy, dx_view, accumulate) =
                (rstd.view(), d_y.view().into(), dx.view_mut().into(), Accumulate::Set);
            Backward { rows, cols, groups, offset: 1.0, x, weight, rstd, dy, dx: dx_view, accumulate }
                .run(&card)
                .unwrap();
            [y, dx].map(|of| get(&of, at..at + 2 * cols))
        };
        let vast = run(6, Groups { first: 3, per_row: 2, stride: (1 << 31) + 7 });
        assert_eq!(vast, run(2, Groups { first: 0, per_row: 2, stride: 2 * cols }));
        card.assert_silent();
    }
}

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[test]
fn the_backward_formula_is_the_derivative() {
    let (cols, eps, offset) = (5, 1e-3, 1.0);
    let mut inputs = Inputs::of(&[cols]);
    let mut draw = |n| -> Vec<f64> { inputs.normal(n, 1.0).into_iter().map(f64::from).collect() };
    let (x, weight, dy) = (draw(3 * cols), draw(cols), draw(3 * cols));
    let loss = |x: &[f64]| gradient::dot(&dy, &reference::forward(cols, eps, offset, x, &weight).0);
    let (_, rstd) = reference::forward(cols, eps, offset, &x, &weight);
    let mut dx = vec![0.0; x.len()];
    reference::backward(cols, offset, &x, &weight, &rstd, &dy, &mut dx);
    gradient::assert_same(&dx, &gradient::by_differences(&x, loss));
}

#[test]
fn threads_do_not_change_bits() {
    check_thread_counts(ForwardShape { rows: 201, cols: 577, offset: 1.0 });
    check_thread_counts(BackwardShape { rows: 201, cols: 577, offset: 0.0 });
}

fn check_rows_alone(device: &Device) {
    let (rows, cols) = (67, 577);
    let mut inputs = Inputs::of(&[rows, cols]);
    let (x, weight, dy) = (inputs.normal(rows * cols, 1.0), inputs.normal(cols, 1.0), inputs.normal(rows * cols, 1.0));
    let both = |x: &[f32], dy: &[f32]| -> Vec<u32> {
        let rows = x.len() / cols;
        let (x, weight) = (device.upload("x", x).unwrap(), device.upload("weight", &weight).unwrap());
        let dy = device.upload("dy", dy).unwrap();
        let mut y = device.alloc::<f32>("y", rows * cols).unwrap();
        let mut rstd = device.alloc("rstd", rows).unwrap();
        let mut dx = device.zeros::<f32>("dx", rows * cols).unwrap();
        let (x, weight) = (x.view(), weight.view());
        let (groups, y_view) = (Groups::rows(cols), y.view_mut().into());
        Forward { rows, cols, groups, eps: 1e-5, offset: 0.0, x: x.into(), weight, y: y_view, rstd: rstd.view_mut() }
            .run(device)
            .unwrap();
        let (rstd, dy, x) = (rstd.view(), dy.view().into(), x.into());
        let (dx_view, accumulate) = (dx.view_mut().into(), Accumulate::Add);
        Backward { rows, cols, groups, offset: 0.0, x, weight, rstd, dy, dx: dx_view, accumulate }.run(device).unwrap();
        [y.download().unwrap(), dx.download().unwrap()].concat().into_iter().map(f32::to_bits).collect()
    };
    let batch = both(&x, &dy);
    for r in [0, 1, 33, 66] {
        let row = r * cols..(r + 1) * cols;
        let alone = both(&x[row.clone()], &dy[row.clone()]);
        assert_eq!(alone[..cols], batch[row], "y of row {r} on {}", device.describe());
        assert_eq!(alone[cols..], batch[(rows + r) * cols..][..cols], "dx of row {r} on {}", device.describe());
    }
}

#[test]
fn a_row_alone_has_the_bits_of_the_row_in_a_batch() {
    for isa in Isa::available() {
        check_rows_alone(&Device::cpu_with(Some(2), isa).unwrap());
    }
}

#[test]
fn nan_in_a_row_stays_in_that_row() {
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let x = device.upload("x", &[1.0, f32::NAN, 3.0, 1.0, 2.0, 3.0]).unwrap();
        let weight = device.upload("weight", &[1.0; 3]).unwrap();
        let mut y = device.alloc::<f32>("y", 6).unwrap();
        let mut rstd = device.alloc("rstd", 2).unwrap();
        let (x, weight) = (x.view(), weight.view());
        let (x, groups, y_view) = (x.into(), Groups::rows(3), y.view_mut().into());
        Forward { rows: 2, cols: 3, groups, eps: 0.0, offset: 0.0, x, weight, y: y_view, rstd: rstd.view_mut() }
            .run(&device)
            .unwrap();
        let y = y.download().unwrap();
        assert!(y[..3].iter().all(|y| y.is_nan()) && y[3..].iter().all(|y| y.is_finite()), "{y:?}");
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (six, two, none) =
        (device.zeros("six", 6).unwrap(), device.zeros("two", 2).unwrap(), device.zeros::<f32>("none", 0).unwrap());
    let refused = |x: &crate::Buffer<f32>, weight: &crate::Buffer<f32>, cols| {
        let mut y = device.alloc::<f32>("y", 6).unwrap();
        let mut rstd = device.alloc("rstd", 2).unwrap();
        let (x, weight) = (x.view(), weight.view());
        let (x, groups, y) = (x.into(), Groups::rows(cols), y.view_mut().into());
        Forward { rows: 2, cols, groups, eps: 0.0, offset: 0.0, x, weight, y, rstd: rstd.view_mut() }
            .run(&device)
            .unwrap_err()
    };
    let kernel = "rms_norm.forward";
    assert_eq!(refused(&two, &six, 3), KernelError::Shape { kernel, argument: "x", got: 2, want: 6 });
    assert_eq!(refused(&six, &two, 3), KernelError::Shape { kernel, argument: "weight", got: 2, want: 3 });
    assert_eq!(refused(&none, &none, 0), KernelError::Size { kernel, argument: "cols", got: 0, want: "at least 1" });
}

/// Two heads of three columns, which begin at the second column of rows of eleven, have the same results as separate rows. The
/// other columns keep their values.
fn check_heads(device: &Device) {
    let (rows, cols) = (4, 3);
    let groups = Groups { first: 1, per_row: 2, stride: 11 };
    let mut inputs = Inputs::of(&[rows, cols]);
    let (x, weight, dy) = (inputs.normal(2 * 11, 1.0), inputs.normal(cols, 1.0), inputs.normal(2 * 11, 1.0));
    let upload = |values: &[f32]| device.upload("values", values).unwrap();
    let weight = upload(&weight);
    let run = |groups: Groups, x: &[f32], dy: &[f32], before: &[f32]| {
        let (x, dy, mut y, mut dx) = (upload(x), upload(dy), upload(before), upload(before));
        let mut rstd = device.alloc("rstd", rows).unwrap();
        let (x, weight, y_view) = (x.view().into(), weight.view(), y.view_mut().into());
        Forward { rows, cols, groups, eps: 1e-5, offset: 1.0, x, weight, y: y_view, rstd: rstd.view_mut() }
            .run(device)
            .unwrap();
        let (rstd, dy, dx_view, accumulate) = (rstd.view(), dy.view().into(), dx.view_mut().into(), Accumulate::Set);
        Backward { rows, cols, groups, offset: 1.0, x, weight, rstd, dy, dx: dx_view, accumulate }.run(device).unwrap();
        [y.download().unwrap(), dx.download().unwrap()]
    };
    let heads = |values: &[f32]| -> Vec<f32> { values.chunks(11).flat_map(|row| row[1..7].to_vec()).collect() };
    let want = run(Groups::rows(cols), &heads(&x), &heads(&dy), &[0.0; 12]);
    let got = run(groups, &x, &dy, &[7.0; 22]);
    for (got, want) in got.iter().zip(&want) {
        assert_eq!(heads(got), *want, "{}", device.describe());
        assert!(got.chunks(11).all(|row| row[0] == 7.0 && row[7..] == [7.0; 4]), "{}", device.describe());
    }
}

#[test]
fn heads_are_rows_of_their_own() {
    for isa in Isa::available() {
        check_heads(&Device::cpu_with(Some(1), isa).unwrap());
    }
}

/// bf16 operands are computed in f32, and each result is rounded once.
fn check_bf16(device: &Device) {
    let (rows, cols) = (5, 45);
    let mut inputs = Inputs::of(&[rows, cols]);
    let [x, dy] = [(); 2].map(|()| inputs.normal_bf16(rows * cols, 1.0));
    let weight = inputs.normal(cols, 1.0);
    let wide = |values: &[bf16]| -> Vec<f32> { values.iter().map(|x| x.to_f32()).collect() };
    let weight = device.upload("weight", &weight).unwrap();
    let run = |x: &FloatBuffer, dy: &FloatBuffer| {
        let groups = Groups::rows(cols);
        let mut y = device.alloc_float("y", dy.dtype(), rows * cols).unwrap();
        let mut dx = device.alloc_float("dx", x.dtype(), rows * cols).unwrap();
        let mut rstd = device.alloc("rstd", rows).unwrap();
        let (x, weight, y_view) = (x.view(), weight.view(), y.view_mut());
        Forward { rows, cols, groups, eps: 1e-5, offset: 0.0, x, weight, y: y_view, rstd: rstd.view_mut() }
            .run(device)
            .unwrap();
        let (rstd, dy, dx_view, accumulate) = (rstd.view(), dy.view(), dx.view_mut(), Accumulate::Set);
        Backward { rows, cols, groups, offset: 0.0, x, weight, rstd, dy, dx: dx_view, accumulate }.run(device).unwrap();
        [y.download().unwrap(), dx.download().unwrap()]
    };
    let narrow = |values: &[bf16]| FloatBuffer::Bf16(device.upload("narrow", values).unwrap());
    let widened = |values: &[bf16]| FloatBuffer::F32(device.upload("wide", &wide(values)).unwrap());
    let rounded = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect() };
    let [y, dx] = run(&widened(&x), &widened(&dy));
    assert_eq!(run(&narrow(&x), &narrow(&dy)), [rounded(&y), rounded(&dx)], "{}", device.describe());
    // `x` and `dx` in f32 and `y` and `dy` in bf16, as at the residual stream
    assert_eq!(run(&widened(&x), &narrow(&dy)), [rounded(&y), dx], "{}", device.describe());
}

#[test]
fn operands_of_bf16_give_the_result_of_f32_rounded() {
    for isa in Isa::available() {
        check_bf16(&Device::cpu_with(Some(2), isa).unwrap());
    }
}
