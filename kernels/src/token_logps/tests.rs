//! Compares the fast version with the reference and the reference with finite differences, and checks which results are equal to
//! the bit.

use super::case::cases;
use super::{Backward, Extras, Forward, Head, reference};
use crate::case::{Inputs, check_all, gradient};
use crate::cpu::Isa;
use crate::real::widen;
use crate::{Device, IGNORE, KernelError, Precision, Result};
use half::bf16;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod cuda {
    use super::*;
    use crate::case::card::{check_on_cards, on_a_card};

    #[test]
    fn agrees_with_the_reference() {
        check_on_cards(cases());
    }

    #[test]
    fn an_ignored_row_is_zero() {
        on_a_card(check_ignored_row);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        on_a_card(check_extreme_logits);
    }

    /// The side outputs change no bit of the others either.
    #[test]
    fn a_row_has_the_same_bits_alone_and_in_a_batch() {
        on_a_card(|device| {
            let rows = 6;
            let mut inputs = Inputs::of(&[rows, HIDDEN, VOCAB]);
            let hidden = inputs.normal(rows * HIDDEN, 1.0);
            let lm_head = inputs.normal_bf16(VOCAB * HIDDEN, 0.5);
            let targets: Vec<u32> = (0..rows).map(|_| inputs.below(VOCAB) as u32).collect();
            let d_logps = inputs.normal(rows, 1.0);
            let batch = score(Precision::F32, device, &hidden, &lm_head, &targets, &d_logps, true).unwrap();
            for row in [0, 5] {
                let (one, hidden) = (row..row + 1, &hidden[row * HIDDEN..(row + 1) * HIDDEN]);
                let (target, d_logp) = (&targets[one.clone()], &d_logps[one]);
                let alone = score(Precision::F32, device, hidden, &lm_head, target, d_logp, false).unwrap();
                assert_eq!([&alone[0][..2], &alone[0][5..]], [&batch[row][..2], &batch[row][5..]], "row {row}");
            }
        });
    }
}

/// Leaves out the largest cases, which would take minutes without vector instructions. The bench checks those, since it times
/// them.
#[test]
fn agrees_with_the_reference() {
    let cases: Vec<_> = cases().into_iter().filter(|case| case.flops < 1e9).collect();
    check_all(cases);
}

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];
const HIDDEN: usize = 24;
/// Size of the vocabulary: several blocks, and not a whole number of vectors.
const VOCAB: usize = 4 * 512 + 77;

/// Runs both passes and returns the bits of their outputs: for each row `[logps, lse, extras, d_hidden]`.
fn score(
    precision: Precision,
    device: &Device,
    hidden: &[f32],
    lm_head: &[bf16],
    targets: &[u32],
    d_logps: &[f32],
    with_extras: bool,
) -> Result<Vec<Vec<u32>>> {
    let rows = targets.len();
    let hidden_states = device.upload("test", hidden)?;
    let (lm_head, targets) = (device.upload("test", lm_head)?, device.upload_indices("test", targets)?);
    let d_logps = device.upload("test", d_logps)?;
    let mut outputs = Vec::new();
    for _ in 0..5 {
        outputs.push(device.upload("test", &vec![f32::NAN; rows])?);
    }
    let mut d_hidden = device.upload("test", &vec![f32::NAN; rows * HIDDEN])?;
    let [logps, lse, entropy, target_is_argmax, lse_of_twice] = &mut outputs[..] else {
        unreachable!("five were made")
    };
    let head = Head {
        rows,
        hidden_size: HIDDEN,
        vocab_size: VOCAB,
        hidden_states: hidden_states.view().into(),
        lm_head: crate::WeightSlice::Bf16(lm_head.view()),
        targets: targets.view(),
        final_logit_softcapping: Some(5.0),
        temperature: 0.8,
        precision,
    };
    Forward {
        head,
        logps: logps.view_mut(),
        lse: lse.view_mut(),
        extras: with_extras.then(|| Extras {
            entropy: entropy.view_mut(),
            target_is_argmax: target_is_argmax.view_mut(),
            lse_of_twice: lse_of_twice.view_mut(),
        }),
    }
    .run(device)?;
    Backward { head, lse: lse.view(), d_logps: d_logps.view(), d_hidden: d_hidden.view_mut().into() }.run(device)?;
    let (outputs, d_hidden) =
        (outputs.iter().map(|x| x.download().unwrap()).collect::<Vec<_>>(), d_hidden.download().unwrap());
    let row = |r: usize| outputs.iter().map(move |x| x[r]).chain(d_hidden[r * HIDDEN..(r + 1) * HIDDEN].to_vec());
    Ok((0..rows).map(|r| row(r).map(f32::to_bits).collect()).collect())
}

#[test]
fn a_row_has_the_same_bits_alone_in_a_batch_and_on_any_number_of_threads() {
    let rows = 70;
    let mut inputs = Inputs::of(&[rows, HIDDEN, VOCAB]);
    let hidden = inputs.normal(rows * HIDDEN, 1.0);
    let lm_head = inputs.normal_bf16(VOCAB * HIDDEN, 0.5);
    let targets: Vec<u32> =
        (0..rows).map(|row| if row % 9 == 4 { IGNORE } else { inputs.below(VOCAB) as u32 }).collect();
    let d_logps = inputs.normal(rows, 1.0);
    for (isa, precision) in Isa::available().into_iter().flat_map(|isa| BOTH.map(|precision| (isa, precision))) {
        let device = Device::cpu_with(Some(2), isa).unwrap();
        let batch = score(precision, &device, &hidden, &lm_head, &targets, &d_logps, true).unwrap();
        for threads in [1, 3] {
            let device = Device::cpu_with(Some(threads), isa).unwrap();
            let again = score(precision, &device, &hidden, &lm_head, &targets, &d_logps, true).unwrap();
            assert_eq!(again, batch, "{threads} threads in {precision:?}");
        }
        for row in [0, 1, 4, 37, 69] {
            let one = row..row + 1;
            let hidden = &hidden[row * HIDDEN..(row + 1) * HIDDEN];
            let alone =
                score(precision, &device, hidden, &lm_head, &targets[one.clone()], &d_logps[one], true).unwrap();
            assert_eq!(alone[0], batch[row], "row {row} in {precision:?} on {}", device.describe());
        }
    }
}

/// A loss that reads the side outputs gets the same log-probs and gradients as one that does not.
#[test]
fn side_outputs_change_no_bit_of_the_others() {
    let rows = 40;
    let mut inputs = Inputs::of(&[rows, HIDDEN]);
    let hidden = inputs.normal(rows * HIDDEN, 1.0);
    let lm_head = inputs.normal_bf16(VOCAB * HIDDEN, 0.5);
    let targets: Vec<u32> = (0..rows).map(|_| inputs.below(VOCAB) as u32).collect();
    let d_logps = inputs.normal(rows, 1.0);
    for (isa, precision) in Isa::available().into_iter().flat_map(|isa| BOTH.map(|precision| (isa, precision))) {
        let device = Device::cpu_with(Some(2), isa).unwrap();
        let [with, without] = [true, false].map(|with_extras| {
            let rows = score(precision, &device, &hidden, &lm_head, &targets, &d_logps, with_extras).unwrap();
            rows.into_iter().map(|row| [&row[..2], &row[5..]].concat()).collect::<Vec<_>>()
        });
        assert_eq!(with, without, "{precision:?} on {}", device.describe());
    }
}

/// All outputs of an ignored row are 0 to the bit, even if its hidden states and its `d_logp` are NaN.
fn check_ignored_row(device: &Device) {
    for precision in BOTH {
        let mut inputs = Inputs::of(&[3, HIDDEN]);
        let mut hidden = inputs.normal(3 * HIDDEN, 1.0);
        hidden[HIDDEN..2 * HIDDEN].fill(f32::NAN);
        let lm_head = inputs.normal_bf16(VOCAB * HIDDEN, 0.5);
        let (targets, d_logps) = ([7, IGNORE, 2100], [1.0, f32::NAN, -1.0]);
        let rows = score(precision, device, &hidden, &lm_head, &targets, &d_logps, true).unwrap();
        assert!(rows[1].iter().all(|&bits| bits == 0), "{:?}", rows[1]);
        assert!(rows[0].iter().chain(&rows[2]).all(|&bits| f32::from_bits(bits).is_finite()));
    }
}

#[test]
fn an_ignored_row_is_zero() {
    for isa in Isa::available() {
        check_ignored_row(&Device::cpu_with(Some(2), isa).unwrap());
    }
}

/// With logits of ±10⁴ and no soft-cap, one token has all the probability, and nothing overflows.
fn check_extreme_logits(device: &Device) {
    for precision in BOTH {
        let vocab_size = 1500;
        let hidden_states = device.upload("test", &[100.0f32, 100.0]).unwrap();
        let rows: Vec<f32> = (0..vocab_size).map(|token| if token == 1200 { 100.0 } else { -100.0 }).collect();
        let lm_head = device.upload("test", &rows).unwrap();
        let targets = device.upload_indices("test", &[1200, 3]).unwrap();
        let [mut logps, mut lse, mut entropy, mut target_is_argmax, mut lse_of_twice, mut d_hidden] =
            [(); 6].map(|()| device.upload("test", &[f32::NAN; 2]).unwrap());
        let head = Head {
            rows: 2,
            hidden_size: 1,
            vocab_size,
            hidden_states: hidden_states.view().into(),
            lm_head: lm_head.view().into(),
            targets: targets.view(),
            final_logit_softcapping: None,
            temperature: 1.0,
            precision,
        };
        Forward {
            head,
            logps: logps.view_mut(),
            lse: lse.view_mut(),
            extras: Some(Extras {
                entropy: entropy.view_mut(),
                target_is_argmax: target_is_argmax.view_mut(),
                lse_of_twice: lse_of_twice.view_mut(),
            }),
        }
        .run(device)
        .unwrap();
        assert_eq!(logps.download().unwrap(), [0.0, -2e4]);
        assert_eq!(lse.download().unwrap(), [1e4, 1e4]);
        // 1499 tokens, each 2e4 below the largest and with a probability of at most 1.2e-38
        assert!(entropy.download().unwrap().iter().all(|entropy| (0.0..1e-30).contains(entropy)));
        assert_eq!(target_is_argmax.download().unwrap(), [1.0, 0.0]);
        assert_eq!(lse_of_twice.download().unwrap(), [2e4, 2e4]);
        let d_logps = device.upload("test", &[1.0f32, 1.0]).unwrap();
        Backward { head, lse: lse.view(), d_logps: d_logps.view(), d_hidden: d_hidden.view_mut().into() }
            .run(device)
            .unwrap();
        let gradients = d_hidden.download().unwrap();
        // 1499 tokens have the weight -100 and the probability e^-20000, which f32 cannot hold: here it is at most 1.2e-38
        assert!(gradients[0].abs() < 1e-30, "the target has all the probability: {}", gradients[0]);
        assert_eq!(gradients[1], -200.0, "towards token 3 (-100), away from token 1200 (+100)");
    }
}

#[test]
fn extreme_logits_stay_finite() {
    for isa in Isa::available() {
        check_extreme_logits(&Device::cpu_with(Some(2), isa).unwrap());
    }
}

/// Compares the reference's gradient of `Σ d_logp logp` with finite differences.
#[test]
fn the_references_gradients_are_those_of_differences() {
    let (rows, hidden_size, vocab_size) = (4, 5, 11);
    for (cap, temperature) in [(None, 1.0), (Some(1.3), 1.0), (None, 0.7), (Some(1.3), 0.7)] {
        let logit = reference::Logit { cap, temperature };
        let mut inputs = Inputs::of(&[rows, hidden_size, vocab_size]);
        let hidden = widen::<f64>(&inputs.normal(rows * hidden_size, 1.0));
        let lm_head = widen::<f64>(&inputs.normal(vocab_size * hidden_size, 1.0));
        let targets = [3, IGNORE, 10, 0];
        let d_logps = widen::<f64>(&inputs.normal(rows, 1.0));
        let lse = reference::forward(hidden_size, &hidden, &lm_head, &targets, logit).lse;
        let gradients = reference::backward(hidden_size, &hidden, &lm_head, &targets, logit, &lse, &d_logps);
        let by_differences = gradient::by_differences(&hidden, |hidden| {
            gradient::dot(&d_logps, &reference::forward(hidden_size, hidden, &lm_head, &targets, logit).logps)
        });
        gradient::assert_same(&gradients, &by_differences);
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let device = Device::cpu(Some(1)).unwrap();
    let (hidden, lm_head) = (vec![0.5; 2 * HIDDEN], vec![bf16::ONE; VOCAB * HIDDEN]);
    let error = |hidden: &[f32], lm_head: &[bf16], targets: &[u32], d_logps: &[f32]| {
        score(Precision::F32, &device, hidden, lm_head, targets, d_logps, true).unwrap_err()
    };
    let (kernel, vocab_size) = ("token_logps.forward", VOCAB);
    assert_eq!(
        error(&hidden, &lm_head, &[0, VOCAB as u32], &[1.0; 2]),
        KernelError::TokenId { kernel, row: 1, id: VOCAB as u32, vocab_size }
    );
    assert_eq!(
        error(&hidden[1..], &lm_head, &[0, 1], &[1.0; 2]),
        KernelError::Shape { kernel, argument: "hidden_states", got: 2 * HIDDEN - 1, want: 2 * HIDDEN }
    );
    assert_eq!(
        error(&hidden, &lm_head[HIDDEN..], &[0, 1], &[1.0; 2]),
        KernelError::Shape { kernel, argument: "lm_head", got: (VOCAB - 1) * HIDDEN, want: VOCAB * HIDDEN }
    );
    assert_eq!(
        error(&hidden, &lm_head, &[0, 1], &[1.0]),
        KernelError::Shape { kernel: "token_logps.backward", argument: "d_logps", got: 1, want: 2 }
    );
}
