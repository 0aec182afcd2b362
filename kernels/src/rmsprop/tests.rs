//! The update against the reference and against torch, equal bits, refused calls.

use super::*;
use crate::KernelError;
use crate::case::operands::check_thread_counts;
use crate::case::{Inputs, check_all};
use crate::cpu::Isa;

#[test]
fn agrees_with_the_reference() {
    check_all(case::cases());
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{BEYOND, Card, VAST, check_on_cards, get, put};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(super::case::cases());
    }

    /// Tests gradients that are 0, subnormal, small and large.
    #[test]
    fn updates_are_those_of_the_processor_bit_for_bit() {
        let card = Card::checked();
        let host = Device::cpu(Some(1)).unwrap();
        for (len, alpha, weight_decay) in [(1001, 0.99, 0.01), (257, 0.3, 0.0), (1, 0.99, 0.1)] {
            let mut inputs = Inputs::of(&[len]);
            let mut grad = inputs.normal(len, 0.1);
            for (i, g) in grad.iter_mut().enumerate().step_by(3) {
                *g *= [0.0, 1e-40, 1e-22, 1e10][i / 3 % 4];
            }
            let p = inputs.normal(len, 1.0);
            let v: Vec<f32> = grad.iter().map(|x| 0.3 * x * x).collect();
            let on = |device: &Device| {
                let [mut param, mut square_avg] = [&p, &v].map(|x| device.upload("state", x).unwrap());
                let grad = device.upload("grad", &grad).unwrap();
                let numbers = Numbers { learning_rate: 2e-4, alpha, eps: 1e-8, weight_decay, grad_scale: 0.3 };
                let tensor = Tensor { param: param.view_mut(), grad: grad.view(), square_avg: square_avg.view_mut() };
                Update { numbers, tensors: vec![tensor] }.run(device).unwrap();
                [param, square_avg].map(|x| x.download().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            assert!(on(&card) == on(&host), "[{len}] alpha {alpha} decay {weight_decay}");
        }
        card.assert_silent();
    }

    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let mut inputs = Inputs::of(&[VAST]);
        let of_each: Vec<Vec<f32>> =
            (0..3).map(|_| inputs.normal(1000, 0.1).iter().map(|x| x.abs()).collect()).collect();
        let update = |device: &Device, len: usize, at: usize| {
            let buffers = of_each.iter().map(|values| {
                let mut buffer = device.alloc::<f32>("state", len).unwrap();
                put(&mut buffer, at, values);
                buffer
            });
            let [grad, mut param, mut square_avg] = <[_; 3]>::try_from(buffers.collect::<Vec<_>>()).unwrap();
            let numbers = Numbers { learning_rate: 2e-4, alpha: 0.9, eps: 1e-8, weight_decay: 0.01, grad_scale: 0.3 };
            let tensor = Tensor { param: param.view_mut(), grad: grad.view(), square_avg: square_avg.view_mut() };
            Update { numbers, tensors: vec![tensor] }.run(device).unwrap();
            [param, square_avg].map(|of| get(&of, at..at + 1000))
        };
        assert_eq!(update(&card, VAST, BEYOND.start), update(&Device::cpu(Some(1)).unwrap(), 1000, 0));
        card.assert_silent();
    }
}

#[test]
fn threads_do_not_change_bits() {
    check_thread_counts(case::Shape { len: 100_001, alpha: 0.99, weight_decay: 0.1 });
}

/// No operations of the kernel are fused or reordered, so there is no tolerance.
#[test]
fn has_the_bits_of_the_reference_in_f32() {
    let mut inputs = Inputs::of(&[999]);
    let (p, grad) = (inputs.normal(999, 1.0), inputs.normal(999, 0.1));
    let v: Vec<f32> = grad.iter().map(|x| 0.3 * x * x).collect();
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let [mut param, mut square_avg] = [&p, &v].map(|x| device.upload("state", x).unwrap());
        let on_device = device.upload("grad", &grad).unwrap();
        let call = Update {
            numbers: Numbers { learning_rate: 2e-4, alpha: 0.99, eps: 1e-8, weight_decay: 0.01, grad_scale: 0.3 },
            tensors: vec![Tensor {
                param: param.view_mut(),
                grad: on_device.view(),
                square_avg: square_avg.view_mut(),
            }],
        };
        let factors = call.numbers.factors();
        call.run(&device).unwrap();
        let (mut p, mut v) = (p.clone(), v.clone());
        reference::step(factors, &mut p, &grad, &mut v);
        assert_eq!([param.download().unwrap(), square_avg.download().unwrap()], [p, v], "{}", isa.name());
    }
}

/// Three steps of torch 2.15.0, made by
///
/// ```text
/// python3 - <<'END'
/// import torch
/// p = torch.nn.Parameter(torch.tensor([0.5, -1.25, 3.0, 0.001, -2.0]))
/// o = torch.optim.RMSprop([p], lr=3e-3, weight_decay=0.01, foreach=False)
/// for g in [[0.1, -0.2, 1e-6, 5.0, 0.0], [-0.05, 0.3, 2e-6, -4.0, 0.0], [0.2, 0.1, -1e-6, 3.0, 1e-3]]:
///     p.grad = torch.tensor(g)
///     o.step()
/// for t in (p.data, o.state[p]['square_avg']):
///     print([float(f'{v:.9g}') for v in t.tolist()])
/// END
/// ```
///
/// torch may fuse products and sums, depending on how it was compiled. That is one rounding more or less in each of three steps,
/// which is within 4 units in the last place of the mean and of the parameter. An update is at most ten times lr = 3e-3, however
/// small the parameter, so a small parameter has the tolerance of a parameter of 3e-2.
#[test]
fn three_steps_are_those_of_torch() {
    const GRADS: [[f32; 5]; 3] =
        [[0.1, -0.2, 1e-6, 5.0, 0.0], [-0.05, 0.3, 2e-6, -4.0, 0.0], [0.2, 0.1, -1e-6, 3.0, 1e-3]];
    const PARAM: [f32; 5] = [0.455_683_3, -1.251_354_6, 2.931_574, -0.023_012_72, -1.932_306_3];
    const SQUARE_AVG: [f32; 5] = [0.000_547_881_4, 0.001_339_246_4, 2.625_042_2e-5, 0.493_442_8, 1.118_09e-5];
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let mut param = device.upload("param", &[0.5, -1.25, 3.0, 0.001, -2.0]).unwrap();
        let mut square_avg = device.zeros("moment", 5).unwrap();
        for grad in &GRADS {
            let grad = device.upload("grad", grad).unwrap();
            Update {
                numbers: Numbers { learning_rate: 3e-3, alpha: 0.99, eps: 1e-8, weight_decay: 0.01, grad_scale: 1.0 },
                tensors: vec![Tensor { param: param.view_mut(), grad: grad.view(), square_avg: square_avg.view_mut() }],
            }
            .run(&device)
            .unwrap();
        }
        let within = |got: f32, torch: f32, size: f32| {
            assert!((got - torch).abs() <= 4.0 * f32::EPSILON * size, "{}: {got}, torch {torch}", isa.name());
        };
        for (got, torch) in param.download().unwrap().into_iter().zip(PARAM) {
            within(got, torch, torch.abs().max(3e-2));
        }
        for (got, torch) in square_avg.download().unwrap().into_iter().zip(SQUARE_AVG) {
            within(got, torch, torch);
        }
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let mut param = device.zeros("state", 3).unwrap();
    let mut square_avg = device.zeros("state", 2).unwrap();
    let grad = device.zeros("grad", 3).unwrap();
    let error = Update {
        numbers: Numbers { learning_rate: 1e-3, alpha: 0.99, eps: 1e-8, weight_decay: 0.0, grad_scale: 1.0 },
        tensors: vec![Tensor { param: param.view_mut(), grad: grad.view(), square_avg: square_avg.view_mut() }],
    }
    .run(&device)
    .unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "rmsprop", argument: "square_avg", got: 2, want: 3 });
}
