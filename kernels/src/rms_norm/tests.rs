//! Against the reference, the gradient by differences, equalities on bits, refusals.

use super::case::{BackwardShape, ForwardShape};
use super::*;
use crate::KernelError;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;

#[test]
fn agrees_with_the_reference() {
    check_all(&case::cases());
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

#[test]
fn a_row_alone_has_the_bits_of_the_row_in_a_batch() {
    let (rows, cols) = (67, 577);
    let mut inputs = Inputs::of(&[rows, cols]);
    let (x, weight, dy) = (inputs.normal(rows * cols, 1.0), inputs.normal(cols, 1.0), inputs.normal(rows * cols, 1.0));
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(2), isa).unwrap();
        let both = |x: &[f32], dy: &[f32]| -> Vec<u32> {
            let rows = x.len() / cols;
            let (x, weight) = (device.upload("x", x).unwrap(), device.upload("weight", &weight).unwrap());
            let dy = device.upload("dy", dy).unwrap();
            let mut y = device.alloc("y", rows * cols).unwrap();
            let mut rstd = device.alloc("rstd", rows).unwrap();
            let mut dx = device.zeros("dx", rows * cols).unwrap();
            let (x, weight) = (x.view(), weight.view());
            Forward { rows, cols, eps: 1e-5, offset: 0.0, x, weight, y: y.view_mut(), rstd: rstd.view_mut() }
                .run(&device)
                .unwrap();
            let (rstd, dy) = (rstd.view(), dy.view());
            Backward { rows, cols, offset: 0.0, x, weight, rstd, dy, dx: dx.view_mut() }.run(&device).unwrap();
            [y.download(), dx.download()].concat().into_iter().map(f32::to_bits).collect()
        };
        let batch = both(&x, &dy);
        for r in [0, 1, 33, 66] {
            let row = r * cols..(r + 1) * cols;
            let alone = both(&x[row.clone()], &dy[row.clone()]);
            assert_eq!(alone[..cols], batch[row], "y of row {r} on {}", isa.name());
            assert_eq!(alone[cols..], batch[(rows + r) * cols..][..cols], "dx of row {r} on {}", isa.name());
        }
    }
}

#[test]
fn nan_in_a_row_stays_in_that_row() {
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let x = device.upload("x", &[1.0, f32::NAN, 3.0, 1.0, 2.0, 3.0]).unwrap();
        let weight = device.upload("weight", &[1.0; 3]).unwrap();
        let mut y = device.alloc("y", 6).unwrap();
        let mut rstd = device.alloc("rstd", 2).unwrap();
        let (x, weight) = (x.view(), weight.view());
        Forward { rows: 2, cols: 3, eps: 0.0, offset: 0.0, x, weight, y: y.view_mut(), rstd: rstd.view_mut() }
            .run(&device)
            .unwrap();
        let y = y.download();
        assert!(y[..3].iter().all(|y| y.is_nan()) && y[3..].iter().all(|y| y.is_finite()), "{y:?}");
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (six, two, none) =
        (device.zeros("six", 6).unwrap(), device.zeros("two", 2).unwrap(), device.zeros::<f32>("none", 0).unwrap());
    let refused = |x: &crate::Buffer<f32>, weight: &crate::Buffer<f32>, cols| {
        let mut y = device.alloc("y", 6).unwrap();
        let mut rstd = device.alloc("rstd", 2).unwrap();
        let (x, weight) = (x.view(), weight.view());
        Forward { rows: 2, cols, eps: 0.0, offset: 0.0, x, weight, y: y.view_mut(), rstd: rstd.view_mut() }
            .run(&device)
            .unwrap_err()
    };
    let kernel = "rms_norm.forward";
    assert_eq!(refused(&two, &six, 3), KernelError::Shape { kernel, argument: "x", got: 2, want: 6 });
    assert_eq!(refused(&six, &two, 3), KernelError::Shape { kernel, argument: "weight", got: 2, want: 3 });
    assert_eq!(refused(&none, &none, 0), KernelError::Shape { kernel, argument: "y", got: 6, want: 0 });
}
