//! Tests of single losses at points where their value is known, and at the edges of their formulas.

use super::*;
use crate::objective::{Unlearned, UnlearnedCounts};
use align_data::Target;
use std::f64::consts::LN_2;

/// Returns the number of pairs whose chosen answer has a strictly larger reward than the rejected answer.
fn accurate(head: &Head) -> usize {
    head.rewards.iter().filter(|rewards| matches!(rewards[..], [chosen, rejected] if chosen > rejected)).count()
}

#[test]
fn dpo_of_a_fresh_adapter_is_exactly_ln_2() {
    let objective = Objective::new("dpo", &[]).unwrap();
    for n in 1..=64 {
        let mut rows = rows(&objective, n, 15.0);
        for row in &mut rows {
            row.reference = row.policy.clone();
            row.numbers = RowNumbers::default();
            row.weight = 1.0;
        }
        let head = whole(&objective, &rows, &Statistics::default()).unwrap();
        assert_eq!(head.loss.to_bits(), LN_2.to_bits(), "{n} rows");
        assert!(head.per_item_loss.iter().all(|loss| loss.to_bits() == LN_2.to_bits()));
        assert!(head.rewards.concat().iter().all(|&reward| reward == 0.0));
        assert_eq!(accurate(&head), 0, "an equal reward is not a correct order");
        for d in &head.d_policy {
            let expected = objective.beta() / 2.0 / n as f64;
            assert_close(d[0], -expected, expected, format_args!("d chosen"));
            assert_eq!(d[0], -d[1]);
        }
    }
}

#[test]
fn exo_with_the_authors_targets_is_lowest_at_a_margin_of_ten() {
    let objective =
        Objective::new("exo", &[("log_eps", KnobValue::Number(-10.0)), ("beta", KnobValue::Number(0.5))]).unwrap();
    let head = alone(&objective, &pair([-30.0, -60.0], &[-45.0, -55.0], [9, 9]));
    assert_close(head.loss, -(-10f64).exp().ln_1p(), 1.0, format_args!("the minimum, -ln(1 + e^-10)"));
    assert_close(head.d_policy[0][0], 0.0, 1.0, format_args!("the derivative at the minimum"));
}

#[test]
fn pairs_without_gradient_are_counted_and_reported() {
    let exo = Objective::new("exo", &[]).unwrap();
    let mut rows = rows(&exo, 10, 15.0);
    rows[3].policy[0] += 500.0;
    rows[4].policy[0] -= 500.0;
    let head = whole(&exo, &rows, &Statistics::default()).unwrap();
    assert_eq!(head.saturated, 2);
    let of = |rows| exo.unlearned(&UnlearnedCounts { rows, saturated: 2, ..UnlearnedCounts::default() });
    assert_eq!(of(10), [Unlearned::Saturated { pairs: 2, margin: 20.0 }], "a fifth of the pairs");
    assert_eq!(of(100), []);
    let dpo = Objective::new("dpo", &[]).unwrap();
    assert_eq!(whole(&dpo, &rows, &Statistics::default()).unwrap().saturated, 0);
}

#[test]
fn kto_refuses_a_batch_of_one() {
    let kto = Objective::new("kto", &[]).unwrap();
    let error = kto.statistics(&rows(&kto, 1, 3.0), &History::default()).unwrap_err();
    assert_eq!(error, HeadError::BatchTooSmall { loss: "kto", rows: 1, needed: 2 });
}

#[test]
fn a_target_margin_by_beta_is_one_of_the_scaled_margin() {
    let row = pair([-12.0, -60.0], &[], [8, 30]);
    let h: f64 = -12.0 / 8.0 + 60.0 / 30.0;
    let softplus = |x: f64| x.exp().ln_1p();
    let simpo = Objective::new("simpo", &[("beta", KnobValue::Number(3.0))]).unwrap();
    assert_close(alone(&simpo, &row).loss, softplus(-(3.0 * h - 0.5 * 3.0)), 1.0, format_args!("simpo"));
    let of_ratio = Objective::new("alphapo", &[("beta", KnobValue::Number(4.0))]).unwrap();
    let ratio = match find("alphapo").unwrap().0.knob("gamma_beta_ratio").unwrap().default() {
        Some(KnobValue::Number(ratio)) => ratio,
        other => panic!("{other:?}"),
    };
    let knobs = [("beta", KnobValue::Number(4.0)), ("simpo_gamma", KnobValue::Number(4.0 * ratio))];
    let given = Objective::new("alphapo", &knobs).unwrap();
    assert_eq!(alone(&of_ratio, &row), alone(&given, &row), "alphapo");
}

#[test]
fn a_weight_by_the_policy_is_at_most_one() {
    assert_eq!(wpo_weight([&[0.5, 0.1], &[0.7]]), 1.0);
    assert_close(wpo_weight([&[-0.1, -0.3], &[-0.3]]), (-0.5f64).exp(), 1.0, format_args!("two means"));
}

/// At these inputs, a plain formula would be infinite or NaN.
#[test]
fn formulas_hold_at_their_edges() {
    // an answer that is certain has infinite log-odds
    let orpo = Objective::new("orpo", &[]).unwrap();
    let certain = alone(&orpo, &pair([0.0, -30.0], &[], [4, 9]));
    assert!(certain.loss.is_finite() && certain.d_policy.concat().iter().all(|d| d.is_finite()), "{certain:?}");
    // the margin is -5000, so the plain formula has e^5000
    let discopop = Objective::new("discopop", &[]).unwrap();
    let far = alone(&discopop, &pair([-1e5, 0.0], &[0.0, 0.0], [9, 9]));
    assert_close(far.loss, 5000.0, 5000.0, format_args!("discopop of a margin of -5000"));
    // a batch of one pair has no deviation, so alpha has no effect
    let alpha_dpo = Objective::new("alpha_dpo", &[]).unwrap();
    let one = alone(&alpha_dpo, &pair([-20.0, -30.0], &[-22.0, -21.0], [9, 9]));
    assert_eq!(
        one,
        alone(
            &Objective::new("alpha_dpo", &[("alpha", KnobValue::Number(0.0))]).unwrap(),
            &pair([-20.0, -30.0], &[-22.0, -21.0], [9, 9])
        )
    );
    assert!(one.loss.is_finite());
    // an answer without tokens counts as one token
    for name in ["simpo", "ipo", "alphapo", "rpo"] {
        let objective = Objective::new(name, &[]).unwrap();
        let reference: &[f64] = if objective.reference() { &[-9.0, -7.0] } else { &[] };
        let row = |lens| pair([-5.0, -8.0], reference, lens);
        assert_eq!(alone(&objective, &row([0, 3])), alone(&objective, &row([1, 3])), "{name}");
    }
}

#[test]
fn pairs_beyond_a_bound_are_counted_and_reported() {
    let chipo = Objective::new("chipo", &[("r_max", KnobValue::Number(1.0))]).unwrap();
    let [near, far] = [-1.0, -60.0].map(|policy| pair([policy, -1.0], &[-2.0, -1.5], [9, 9]));
    let head = whole(&chipo, &[near, far.clone()], &Statistics::default()).unwrap();
    assert_eq!((head.clipped, &head.d_policy[1][..]), (Some(1), &[0.0, 0.0][..]));
    assert!(head.d_policy[0][0] < 0.0);
    let of = |clipped| chipo.unlearned(&UnlearnedCounts { rows: 2, clipped, ..UnlearnedCounts::default() });
    assert_eq!(of(1), [Unlearned::Clipped { pairs: 1 }], "a half of the pairs");
    assert_eq!(of(0), []);
    let mix = Objective::new("chipo:0.5,dpo:0.5", &[("r_max", KnobValue::Number(1.0))]).unwrap();
    assert_eq!(alone(&mix, &far).clipped, None, "the other loss has a gradient");
}

#[test]
fn exo_of_rewards_with_the_targets_of_a_pair_is_exo_of_the_pair() {
    let e: f64 = 0.05;
    let given = [("beta", KnobValue::Number(0.3))];
    let of_pair = Objective::new("exo_pair", &[given[0], ("label_smoothing", KnobValue::Number(e))]).unwrap();
    let of_rewards = Objective::new("exo_rw", &[given[0], ("beta_r", KnobValue::Number(2.0))]).unwrap();
    let row = pair([-30.0, -44.0], &[-33.0, -41.0], [9, 9]);
    let rewards = vec![2.0 * (1.0 - e).ln(), 2.0 * e.ln()];
    let (a, b) =
        (alone(&of_pair, &row), alone(&of_rewards, &RowLogps { target: Some(Target::Rewards(rewards)), ..row }));
    assert_close(a.loss, b.loss, 1.0, format_args!("loss"));
    (0..2).for_each(|i| assert_close(a.d_policy[0][i], b.d_policy[0][i], 1.0, format_args!("derivative {i}")));
}

/// The rewards of a row order its answers. Equal rewards make no pair, and a row with only equal rewards has a loss of 0.
#[test]
fn a_ranking_is_the_mean_over_its_pairs() {
    let row = |policy: &[f64], rewards: &[f64]| RowLogps {
        policy: policy.to_vec(),
        lens: vec![1; policy.len()],
        target: Some(Target::Rewards(rewards.to_vec())),
        ..pair([0.0; 2], &[], [1; 2])
    };
    let (rank, bt) = (Objective::new("instructgpt", &[]).unwrap(), Objective::new("reward", &[]).unwrap());
    let of_pair = |chosen: f64, rejected: f64| alone(&bt, &pair([chosen, rejected], &[], [1; 2])).loss;
    let ties = alone(&rank, &row(&[0.5, -1.5, 2.0], &[3.0, 1.0, 3.0]));
    assert_close(ties.loss, (of_pair(0.5, -1.5) + of_pair(2.0, -1.5)) / 2.0, 1.0, format_args!("two pairs of three"));
    assert_eq!(ties.rewards, [[0.5, -1.5, 2.0]]);
    let equal = alone(&rank, &row(&[0.5, -1.5], &[2.0, 2.0]));
    assert_eq!((equal.loss, &equal.d_policy[..]), (0.0, &[vec![0.0, 0.0]][..]));
    assert_eq!((ties.undecided, equal.undecided), (0, 1));
    let of = |undecided| rank.unlearned(&UnlearnedCounts { rows: 9, undecided, ..UnlearnedCounts::default() });
    assert_eq!(of(1), [Unlearned::Undecided { rows: 1 }]);
    assert_eq!(of(0), []);
}

/// A fresh head gives every answer the same reward.
#[test]
fn a_fresh_reward_model_has_a_loss_of_exactly_ln_2() {
    let bt = Objective::new("rm_bt", &[]).unwrap();
    let mut rows = rows(&bt, 5, 9.0);
    for row in &mut rows {
        row.policy.fill(0.0);
        row.weight = 1.0;
        row.numbers = RowNumbers::default();
    }
    let head = whole(&bt, &rows, &Statistics::default()).unwrap();
    assert_eq!(head.loss.to_bits(), LN_2.to_bits());
    assert_eq!(accurate(&head), 0);
}
