//! Comparisons with the reference and with torch, equal bits, and refusals.

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

    /// Tests both ends of the lerp, and gradients that are 0, subnormal, tiny and large.
    #[test]
    fn updates_are_those_of_the_processor_bit_for_bit() {
        let card = Card::checked();
        let host = Device::cpu(Some(1)).unwrap();
        for (len, beta1, step) in [(1001, 0.9, 12), (257, 0.3, 1), (1, 0.9, 100_000)] {
            let mut inputs = Inputs::of(&[len]);
            let mut grad = inputs.normal(len, 0.1);
            for (i, g) in grad.iter_mut().enumerate().step_by(3) {
                *g *= [0.0, 1e-40, 1e-22, 1e10][i / 3 % 4];
            }
            let (p, m) = (inputs.normal(len, 1.0), inputs.normal(len, 0.1));
            // some are 0, some about as large as the squares that are added to them, some larger: then the rounding of either term
            // of the sum shows
            let v: Vec<f32> =
                grad.iter().enumerate().map(|(i, x)| [0.0, 1e-4, 0.3, 1e-4, 0.3][i % 5] * x * x).collect();
            let on = |device: &Device| {
                let [mut param, mut exp_avg, mut exp_avg_sq] = [&p, &m, &v].map(|x| device.upload("state", x).unwrap());
                let grad = device.upload("grad", &grad).unwrap();
                let numbers = Numbers {
                    learning_rate: 2e-4,
                    beta1,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.01,
                    step,
                    grad_scale: 0.3,
                };
                let tensor = Tensor {
                    param: param.view_mut(),
                    grad: grad.view(),
                    exp_avg: exp_avg.view_mut(),
                    exp_avg_sq: exp_avg_sq.view_mut(),
                };
                Update { numbers, tensors: vec![tensor] }.run(device).unwrap();
                [param, exp_avg, exp_avg_sq]
                    .map(|x| x.download().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            assert!(on(&card) == on(&host), "[{len}] beta1 {beta1} step {step}");
        }
        card.assert_silent();
    }

    #[test]
    fn elements_beyond_32_bits_have_places_of_their_own() {
        let Some(card) = Card::vast(4) else { return };
        let mut inputs = Inputs::of(&[VAST]);
        let of_each: Vec<Vec<f32>> =
            (0..4).map(|_| inputs.normal(1000, 0.1).iter().map(|x| x.abs()).collect()).collect();
        let update = |device: &Device, len: usize, at: usize| {
            let buffers = of_each.iter().map(|values| {
                let mut buffer = device.alloc::<f32>("state", len).unwrap();
                put(&mut buffer, at, values);
                buffer
            });
            let [grad, mut param, mut exp_avg, mut exp_avg_sq] =
                <[_; 4]>::try_from(buffers.collect::<Vec<_>>()).unwrap();
            let numbers = Numbers {
                learning_rate: 2e-4,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                step: 3,
                grad_scale: 0.3,
            };
            let tensor = Tensor {
                param: param.view_mut(),
                grad: grad.view(),
                exp_avg: exp_avg.view_mut(),
                exp_avg_sq: exp_avg_sq.view_mut(),
            };
            Update { numbers, tensors: vec![tensor] }.run(device).unwrap();
            [param, exp_avg, exp_avg_sq].map(|of| get(&of, at..at + 1000))
        };
        assert_eq!(update(&card, VAST, BEYOND.start), update(&Device::cpu(Some(1)).unwrap(), 1000, 0));
        card.assert_silent();
    }
}

#[test]
fn threads_do_not_change_bits() {
    check_thread_counts(case::Shape { len: 100_001, step: 7, beta1: 0.9 });
}

/// Nothing in the kernel is fused or reordered, so there is no tolerance.
#[test]
fn has_the_bits_of_the_reference_in_f32() {
    let mut inputs = Inputs::of(&[999]);
    let (p, grad, m) = (inputs.normal(999, 1.0), inputs.normal(999, 0.1), inputs.normal(999, 0.1));
    let v: Vec<f32> = grad.iter().map(|x| 0.3 * x * x).collect();
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let [mut param, mut exp_avg, mut exp_avg_sq] = [&p, &m, &v].map(|x| device.upload("state", x).unwrap());
        let on_device = device.upload("grad", &grad).unwrap();
        let call = Update {
            numbers: Numbers {
                learning_rate: 2e-4,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                step: 12,
                grad_scale: 0.3,
            },
            tensors: vec![Tensor {
                param: param.view_mut(),
                grad: on_device.view(),
                exp_avg: exp_avg.view_mut(),
                exp_avg_sq: exp_avg_sq.view_mut(),
            }],
        };
        let factors = call.numbers.factors();
        call.run(&device).unwrap();
        let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
        reference::step(factors, &mut p, &grad, &mut m, &mut v);
        assert_eq!(
            [param.download().unwrap(), exp_avg.download().unwrap(), exp_avg_sq.download().unwrap()],
            [p, m, v],
            "{}",
            isa.name()
        );
    }
}

/// Compares with three steps of torch 2.15.0. The numbers are made by
///
/// ```text
/// python3 - <<'END'
/// import torch
/// p = torch.nn.Parameter(torch.tensor([0.5, -1.25, 3.0, 0.001, -2.0]))
/// o = torch.optim.AdamW([p], lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, foreach=False, fused=False)
/// for g in [[0.1, -0.2, 1e-6, 5.0, 0.0], [-0.05, 0.3, 2e-6, -4.0, 0.0], [0.2, 0.1, -1e-6, 3.0, 1e-3]]:
///     p.grad = torch.tensor(g)
///     o.step()
/// for t in (p.data, o.state[p]['exp_avg'], o.state[p]['exp_avg_sq']):
///     print([float(f'{v:.9g}') for v in t.tolist()])
/// END
/// ```
///
/// The order of operations is torch's, but in torch the compiler fused some products and sums. That is one rounding more or less
/// in each of three steps: at most 4 units in the last place of the moments, and likewise of the parameters.
#[test]
fn three_steps_are_those_of_torch() {
    const GRADS: [[f32; 5]; 3] =
        [[0.1, -0.2, 1e-6, 5.0, 0.0], [-0.05, 0.3, 2e-6, -4.0, 0.0], [0.2, 0.1, -1e-6, 3.0, 1e-3]];
    const TORCH: [[f32; 5]; 3] = [
        [0.494_181_9, -1.248_696_8, 2.992_631_7, -0.003_109_935_4, -2.001_736_4],
        [0.0236, 0.020_800_002, 1.61e-7, 0.345, 1.000_000_05e-4],
        [5.247_751_3e-5, 0.000_139_830_05, 5.994_001_6e-15, 0.049_934_03, 1.000_000_2e-9],
    ];
    for isa in Isa::available() {
        let device = Device::cpu_with(Some(1), isa).unwrap();
        let mut param = device.upload("param", &[0.5, -1.25, 3.0, 0.001, -2.0]).unwrap();
        let [mut exp_avg, mut exp_avg_sq] = [(); 2].map(|()| device.zeros("moment", 5).unwrap());
        for (step, grad) in (1..).zip(&GRADS) {
            let grad = device.upload("grad", grad).unwrap();
            Update {
                numbers: Numbers {
                    learning_rate: 3e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.01,
                    step,
                    grad_scale: 1.0,
                },
                tensors: vec![Tensor {
                    param: param.view_mut(),
                    grad: grad.view(),
                    exp_avg: exp_avg.view_mut(),
                    exp_avg_sq: exp_avg_sq.view_mut(),
                }],
            }
            .run(&device)
            .unwrap();
        }
        let got = [param.download().unwrap(), exp_avg.download().unwrap(), exp_avg_sq.download().unwrap()];
        for (got, torch) in got.iter().zip(&TORCH) {
            for (&got, &torch) in got.iter().zip(torch) {
                // an update is about lr = 3e-3, whatever the parameter: a small parameter has the rounding errors of its updates
                let ulps = 4.0 * f32::EPSILON * torch.abs().max(if torch < 0.0 { 3e-3 } else { 0.0 });
                assert!((got - torch).abs() <= ulps, "{}: {got}, torch {torch}", isa.name());
            }
        }
    }
}

#[test]
fn wrong_lengths_are_refused_by_name() {
    let device = Device::cpu_with(Some(1), Isa::Portable).unwrap();
    let [mut param, mut exp_avg] = [(); 2].map(|()| device.zeros("state", 3).unwrap());
    let mut exp_avg_sq = device.zeros("state", 2).unwrap();
    let grad = device.zeros("grad", 3).unwrap();
    let error = Update {
        numbers: Numbers {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: 1,
            grad_scale: 1.0,
        },
        tensors: vec![Tensor {
            param: param.view_mut(),
            grad: grad.view(),
            exp_avg: exp_avg.view_mut(),
            exp_avg_sq: exp_avg_sq.view_mut(),
        }],
    }
    .run(&device)
    .unwrap_err();
    assert_eq!(error, KernelError::Shape { kernel: "adamw", argument: "exp_avg_sq", got: 2, want: 3 });
}
