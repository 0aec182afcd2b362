//! Against the reference, the derivative by differences, extreme inputs, refusals.

use super::case::{BackwardShape, ForwardShape};
use super::*;
use crate::KernelError;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;

const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

#[test]
fn agrees_with_the_reference() {
    check_all(&case::cases());
}

#[test]
fn the_backward_formula_is_the_derivative() {
    let mut inputs = Inputs::of(&[40]);
    let mut draw = |scale| -> Vec<f64> { inputs.normal(40, scale).into_iter().map(f64::from).collect() };
    let (gate, up, dy) = (draw(3.0), draw(1.0), draw(1.0));
    for activation in BOTH {
        let (d_gate, d_up) = reference::backward(activation, &gate, &up, &dy);
        let of_gate = |gate: &[f64]| gradient::dot(&dy, &reference::forward(activation, gate, &up));
        let of_up = |up: &[f64]| gradient::dot(&dy, &reference::forward(activation, &gate, up));
        gradient::assert_same(&d_gate, &gradient::by_differences(&gate, of_gate));
        gradient::assert_same(&d_up, &gradient::by_differences(&up, of_up));
    }
}

#[test]
fn threads_do_not_change_bits() {
    for activation in BOTH {
        check_thread_counts(ForwardShape { len: 100_001, activation });
        check_thread_counts(BackwardShape { len: 100_001, activation });
    }
}

/// Forward and backward at one gate value, with `up = dy = 1`: `act`, `act'`, and `act` again as `d_up`.
fn at(device: &Device, activation: Activation, gate: f32) -> [f32; 3] {
    let gate = device.upload("gate", &[gate]).unwrap();
    let one = device.upload("one", &[1.0]).unwrap();
    let [mut y, mut d_gate, mut d_up] = [(); 3].map(|()| device.alloc("out", 1).unwrap());
    let (gate, up, dy) = (gate.view(), one.view(), one.view());
    Forward { len: 1, activation, gate, up, y: y.view_mut() }.run(device).unwrap();
    let (d_gate_out, d_up_out) = (d_gate.view_mut(), d_up.view_mut());
    Backward { len: 1, activation, gate, up, dy, d_gate: d_gate_out, d_up: d_up_out }.run(device).unwrap();
    [y, d_gate, d_up].map(|buffer| buffer.download()[0])
}

#[test]
fn large_gates_saturate_and_nan_propagates() {
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        for activation in BOTH {
            assert_eq!(at(&device, activation, 100.0), [100.0, 1.0, 100.0], "{activation:?} on {}", isa.name());
            // the smallest sigmoid is 2e-35, times the gate and its slope of 4e3
            for value in at(&device, activation, -100.0) {
                assert!(value.abs() < 1e-28, "{activation:?} on {}: {value}", isa.name());
            }
            assert!(at(&device, activation, f32::NAN).iter().all(|x| x.is_nan()), "{activation:?} on {}", isa.name());
            assert_eq!(at(&device, activation, 0.0), [0.0, 0.5, 0.0], "{activation:?} on {}", isa.name());
        }
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (two, three) = (device.zeros("two", 2).unwrap(), device.zeros("three", 3).unwrap());
    let mut y = device.alloc("y", 3).unwrap();
    let error = Forward { len: 3, activation: Activation::Silu, gate: three.view(), up: two.view(), y: y.view_mut() }
        .run(&device)
        .unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "gate.forward", argument: "up", got: 2, want: 3 });
}
