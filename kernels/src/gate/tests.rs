//! The gate against the reference, its derivative against finite differences, extreme inputs, refused calls.

use super::case::{BackwardShape, ForwardShape};
use super::*;
use crate::FloatBuffer;
use crate::KernelError;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;
use half::bf16;

const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
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
        check_thread_counts(ForwardShape { rows: 101, cols: 997, activation });
        check_thread_counts(BackwardShape { rows: 101, cols: 997, activation });
    }
}

/// Runs forward and backward at one gate value, with `up = dy = 1`. Returns `act`, `act'`, and `act` again, which is `d_up`.
fn at(device: &Device, activation: Activation, gate: f32) -> [f32; 3] {
    let gate_up = device.upload("gate_up", &[gate, 1.0]).unwrap();
    let dy = device.upload("dy", &[1.0f32]).unwrap();
    let mut y = device.alloc::<f32>("y", 1).unwrap();
    let mut dx = device.alloc::<f32>("dx", 2).unwrap();
    let (gate_up, dy) = (gate_up.view().into(), dy.view().into());
    Forward { rows: 1, cols: 1, activation, gate_up, y: y.view_mut().into() }.run(device).unwrap();
    let d_gate_up = dx.view_mut().into();
    Backward { rows: 1, cols: 1, activation, gate_up, dy, d_gate_up }.run(device).unwrap();
    let dx = dx.download().unwrap();
    [y.download().unwrap()[0], dx[0], dx[1]]
}

/// Checks that operands of bf16 are computed in f32, and that each result is rounded once.
fn check_bf16(device: &Device) {
    let (rows, cols) = (5, 45);
    let mut inputs = Inputs::of(&[rows, cols]);
    let (x, dy) = (inputs.normal_bf16(rows * 2 * cols, 3.0), inputs.normal_bf16(rows * cols, 1.0));
    let wide = |values: &[bf16]| -> Vec<f32> { values.iter().map(|x| x.to_f32()).collect() };
    for activation in BOTH {
        let run = |x: &FloatBuffer, dy: &FloatBuffer| {
            let mut y = device.alloc_float("y", x.dtype(), rows * cols).unwrap();
            let mut dx = device.alloc_float("dx", x.dtype(), rows * 2 * cols).unwrap();
            let gate_up = x.view();
            Forward { rows, cols, activation, gate_up, y: y.view_mut() }.run(device).unwrap();
            let d_gate_up = dx.view_mut();
            Backward { rows, cols, activation, gate_up, dy: dy.view(), d_gate_up }.run(device).unwrap();
            [y.download().unwrap(), dx.download().unwrap()].concat()
        };
        let narrow = |values: &[bf16]| FloatBuffer::Bf16(device.upload("narrow", values).unwrap());
        let widened = |values: &[bf16]| FloatBuffer::F32(device.upload("wide", &wide(values)).unwrap());
        let want: Vec<f32> = run(&widened(&x), &widened(&dy)).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        assert_eq!(run(&narrow(&x), &narrow(&dy)), want, "{activation:?} on {}", device.describe());
    }
}

#[test]
fn operands_of_bf16_give_the_result_of_f32_rounded() {
    for isa in Isa::available() {
        check_bf16(&Device::cpu_with(Some(2), isa).unwrap());
    }
}

fn check_extremes(device: &Device) {
    for activation in BOTH {
        let place = format!("{activation:?} on {}", device.describe());
        assert_eq!(at(device, activation, 100.0), [100.0, 1.0, 100.0], "{place}");
        // the sigmoid is at most 2e-35, and a result is at most that times the gate, 100, times the slope of z, 2e3
        for value in at(device, activation, -100.0) {
            assert!(value.abs() < 1e-28, "{place}: {value}");
        }
        assert!(at(device, activation, f32::NAN).iter().all(|x| x.is_nan()), "{place}");
        assert_eq!(at(device, activation, 0.0), [0.0, 0.5, 0.0], "{place}");
    }
}

#[test]
fn large_gates_saturate_and_nan_propagates() {
    for isa in Isa::available() {
        check_extremes(&Device::cpu_with(Some(1), isa).unwrap());
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{Card, check_on_cards, get, on_a_card, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(case::cases());
    }

    #[test]
    fn operands_of_bf16_give_the_result_of_f32_rounded() {
        on_a_card(check_bf16);
    }

    #[test]
    fn large_gates_saturate_and_nan_propagates() {
        on_a_card(check_extremes);
    }

    /// Compares the last 256 columns of the last row with a call for these alone.
    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(1) else { return };
        let mut inputs = Inputs::of(&[256]);
        let [gate, up, dy] = [3.0, 1.0, 1.0].map(|scale| inputs.normal(256, scale));
        for activation in BOTH {
            let run = |rows: usize, cols: usize| {
                let (row, last) = ((rows - 1) * 2 * cols, rows * cols - 256);
                let [mut gate_up, mut d_gate_up] =
                    [(); 2].map(|()| card.alloc::<f32>("gates", 2 * rows * cols).unwrap());
                let [mut y, mut d_y] = [(); 2].map(|()| card.alloc::<f32>("y", rows * cols).unwrap());
                let (gates, ups) = (row + cols - 256, row + 2 * cols - 256);
                put(&mut gate_up, gates, &gate);
                put(&mut gate_up, ups, &up);
                put(&mut d_y, last, &dy);
                let x = gate_up.view().into();
                Forward { rows, cols, activation, gate_up: x, y: y.view_mut().into() }.run(&card).unwrap();
                let (dy, dx) = (d_y.view().into(), d_gate_up.view_mut().into());
                Backward { rows, cols, activation, gate_up: x, dy, d_gate_up: dx }.run(&card).unwrap();
                [get(&y, last..last + 256), get(&d_gate_up, gates..gates + 256), get(&d_gate_up, ups..ups + 256)]
            };
            assert_eq!(run((1 << 16) + 1, 1 << 16), run(1, 256), "{activation:?}");
        }
        card.assert_silent();
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let (two, mut y) = (device.zeros::<f32>("two", 2).unwrap(), device.alloc::<f32>("y", 3).unwrap());
    let (gate_up, y) = (two.view().into(), y.view_mut().into());
    let error = Forward { rows: 1, cols: 3, activation: Activation::Silu, gate_up, y }.run(&device).unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "gate.forward", argument: "gate_up", got: 2, want: 6 });
}
