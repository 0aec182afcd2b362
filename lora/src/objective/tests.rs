//! What must hold for every registered loss, by walking the registry; and what `--loss` and the knobs refuse.

use super::*;
use crate::data::RowNumbers;
use std::f64::consts::LN_2;

/// Numbers that look random and are the same everywhere: the top bits of a 64-bit congruential generator.
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        low + (high - low) * ((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// Rows for `objective` whose log-ratios are uniform in `[-spread, spread]`.
fn rows(objective: &Objective, n: usize, spread: f64) -> Vec<RowLogps> {
    let mut numbers = Numbers(7);
    let mut row = |i: usize, target: RowTarget| {
        let n_answers = match &target {
            RowTarget::Pair => 2,
            RowTarget::Label(_) | RowTarget::Sft | RowTarget::ReferenceData => 1,
            RowTarget::Rewards(rewards) => rewards.len(),
        };
        let policy: Vec<f64> = (0..n_answers).map(|_| numbers.uniform(-120.0, -20.0)).collect();
        let reference = policy.iter().map(|p| p + numbers.uniform(-spread, spread)).collect();
        let mismatched_policy = numbers.uniform(-120.0, -20.0);
        let mismatched =
            Mismatched { policy: mismatched_policy, reference: mismatched_policy + numbers.uniform(-9.0, 3.0) };
        // the tail of the longer answer alone
        let longer = i % 2;
        let mut tails = Tails { policy: [0.0; 2], reference: [0.0; 2] };
        tails.policy[longer] = numbers.uniform(-15.0, -1.0);
        tails.reference[longer] = tails.policy[longer] + numbers.uniform(-2.0, 2.0);
        RowLogps {
            reference: if objective.reference() { reference } else { Vec::new() },
            lens: (0..n_answers).map(|_| numbers.uniform(1.0, 60.0) as usize).collect(),
            target,
            tails: objective.tails().then_some(tails),
            weight: numbers.uniform(0.0, 2.0),
            policy_weight: numbers.uniform(0.0, 1.0),
            numbers: RowNumbers {
                weight: None,
                margin: Some(numbers.uniform(0.0, 1.0)),
                win_probability: Some([numbers.uniform(0.5, 1.0), numbers.uniform(0.0, 0.5)]),
                beats_probability: Some(numbers.uniform(0.5, 1.0)),
            },
            mismatched: (objective.coupling() == Coupling::MismatchedRows).then_some(mismatched),
            policy,
        }
    };
    let target = |i: usize| match objective.data() {
        DataKind::Pairs => RowTarget::Pair,
        DataKind::Unpaired => RowTarget::Label(!i.is_multiple_of(3)),
        DataKind::KWay => RowTarget::Rewards((0..1 + i % 4).map(|k| (k * 5 % 3) as f64 / 2.0).collect()),
        DataKind::Sft => RowTarget::Sft,
    };
    let mut rows: Vec<RowLogps> = (0..n).map(|i| row(i, target(i))).collect();
    if objective.reference_data() {
        rows.extend((0..2).map(|i| row(i, RowTarget::ReferenceData)));
    }
    rows
}

/// Statistics of a first batch.
fn statistics(objective: &Objective, rows: &[RowLogps]) -> Statistics {
    objective.statistics(rows, &History::default()).unwrap()
}

/// The head over a whole batch.
fn whole(objective: &Objective, rows: &[RowLogps], statistics: &Statistics) -> Result<Head, HeadError> {
    objective.head(rows, statistics, BatchTotals::of_rows(rows))
}

/// A `--loss` with knobs.
type Choice = (&'static str, Vec<(&'static str, KnobValue)>);

/// Every loss with its defaults, and with each of its knobs at another value, which has an effect.
fn choices() -> Vec<Choice> {
    let number = KnobValue::Number;
    let mut all: Vec<Choice> = Vec::new();
    for spec in LOSSES {
        all.push((spec.name, Vec::new()));
        for knob in spec.all_knobs() {
            let others: Vec<KnobValue> = match knob.kind {
                KnobKind::Number { default, range } => {
                    let candidates = [0.3, 0.7, -4.0].into_iter().filter(|&x| range.contains(x) && default != Some(x));
                    candidates.take(1).map(number).collect()
                }
                KnobKind::Switch { default } => vec![KnobValue::Switch(!default)],
                KnobKind::Choice { default, choices } => {
                    choices.iter().filter(|word| **word != default).map(|word| KnobValue::Choice(word)).collect()
                }
            };
            assert!(!others.is_empty(), "{} {}: another value in range", spec.name, knob.key);
            for other in others {
                let mut given = vec![(knob.key, other)];
                if let Some(needs) = knob.needs {
                    let candidates = [number(0.3), KnobValue::Choice("alpha_divergence")];
                    given.push((needs.key, candidates.into_iter().find(|value| (needs.holds)(*value)).unwrap()));
                }
                all.push((spec.name, given));
            }
        }
    }
    all.push(("dpo:0.8,ipo:0.2,exo:1.5", vec![("beta", number(0.3))]));
    all.push(("mpo", Vec::new()));
    all.push(("rpo", vec![("ld_alpha", number(0.4)), ("ld_ref", KnobValue::Switch(false))]));
    // modifiers of one loss, and of a later one
    all.push(("rpo:0.8,ipo:0.2", Vec::new()));
    all.push(("bco_pair:0.2,wpo:0.8", Vec::new()));
    all.push(("simpo:0.5,ld_dpo:0.5", Vec::new()));
    all.push(("f_js:0.5,hinge:0.5", Vec::new()));
    all.push(("dpo:0.5,max_po:2", vec![("eta", number(0.1))]));
    all
}

fn variants() -> Vec<Objective> {
    choices()
        .iter()
        .map(|(text, given)| Objective::new(text, given).unwrap_or_else(|e| panic!("{text}: {e}")))
        .collect()
}

#[test]
fn derivatives_agree_with_central_differences() {
    for (text, mut given) in choices() {
        if text == "alpha_dpo" {
            // its target margin follows the policy without gradient: the goldens have the derivatives with it
            given.retain(|(key, _)| *key != "alpha");
            given.push(("alpha", KnobValue::Number(0.0)));
        }
        let objective = Objective::new(text, &given).unwrap();
        let rows = rows(&objective, 7, 15.0);
        // fixed while the rows move: they carry no gradient (a loss that differentiates them does not read these)
        let statistics = statistics(&objective, &rows);
        let head = whole(&objective, &rows, &statistics).unwrap();
        let check = |analytic: f64, what: std::fmt::Arguments<'_>, mv: &dyn Fn(&mut [RowLogps], f64)| {
            let loss = |by: f64| {
                let mut moved = rows.clone();
                mv(&mut moved, by);
                whole(&objective, &moved, &statistics).unwrap().loss
            };
            let difference = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
            // the error of a central difference falls with h^2: extrapolated to h = 0, it is far below what halving h changes
            let h = 1e-4;
            let (coarse, fine) = (difference(h), difference(h / 2.0));
            let numeric = (4.0 * fine - coarse) / 3.0;
            // rounding: a few ulps of the loss, and of log-probs up to 120, over the step
            let rounding = f64::EPSILON * (32.0 * loss(h).abs() + 480.0 * analytic.abs()) / h;
            let bound = (coarse - fine).abs() + rounding;
            assert!(
                (analytic - numeric).abs() <= bound,
                "{objective:?}: {what}: {analytic:e}, differences {numeric:e}, bound {bound:e}"
            );
        };
        for row in 0..rows.len() {
            for (answer, &analytic) in head.d_policy[row].iter().enumerate() {
                let mv = |rows: &mut [RowLogps], by: f64| rows[row].policy[answer] += by;
                check(analytic, format_args!("row {row} answer {answer}"), &mv);
                if let (Some(d_tails), RowTarget::Pair) = (head.d_tails.get(row), &rows[row].target) {
                    let mv = |rows: &mut [RowLogps], by: f64| {
                        rows[row].tails.as_mut().expect("they are wanted").policy[answer] += by;
                    };
                    check(d_tails[answer], format_args!("row {row} tail of answer {answer}"), &mv);
                }
            }
        }
    }
}

/// Sums of at most `n` numbers and a product with `rows / batch_rows`: a few ulps, of the largest item where they cancel.
fn assert_close(found: f64, expected: f64, largest: f64, what: std::fmt::Arguments<'_>) {
    assert!((found - expected).abs() <= 32.0 * f64::EPSILON * largest, "{what}: {found:e}, expected {expected:e}");
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    for objective in variants().into_iter().filter(|objective| objective.coupling() != Coupling::WholeBatch) {
        let rows = rows(&objective, 11, 15.0);
        let statistics = statistics(&objective, &rows);
        let all = whole(&objective, &rows, &statistics).unwrap();
        let totals = BatchTotals::of_rows(&rows);
        for micro_batch in [1, 2, 3, 4, 10] {
            let heads: Vec<_> = rows
                .chunks(micro_batch)
                .map(|rows_of_one| objective.head(rows_of_one, &statistics, totals).unwrap())
                .collect();
            let largest = all.per_item_loss.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
            let loss = heads.iter().map(|head| head.loss).sum();
            assert_close(
                loss,
                all.loss,
                largest.max(all.loss.abs()),
                format_args!("{objective:?}, loss in micro-batches of {micro_batch}"),
            );
            let joined = |part: fn(&Head) -> &Vec<Vec<f64>>| -> Vec<f64> {
                heads.iter().flat_map(|head| part(head).concat()).collect()
            };
            assert_eq!(joined(|head| &head.rewards), all.rewards.concat(), "{objective:?}");
            // a derivative may be the small rest of terms that cancel: the largest of them bounds their size
            let largest = all.d_policy.concat().into_iter().fold(0.0f64, |m, d| m.max(d.abs()));
            for (d, expected) in joined(|head| &head.d_policy).into_iter().zip(all.d_policy.concat()) {
                assert_close(d, expected, largest, format_args!("{objective:?}, d in micro-batches of {micro_batch}"));
            }
            let items: Vec<f64> = heads.iter().flat_map(|head| head.per_item_loss.clone()).collect();
            assert_eq!(items, all.per_item_loss, "{objective:?}");
        }
    }
}

#[test]
#[should_panic(expected = "coupled over the whole batch")]
fn a_loss_of_the_whole_batch_refuses_a_part_of_it() {
    let objective = Objective::new("kto_pair", &[]).unwrap();
    let rows = rows(&objective, 4, 3.0);
    let statistics = statistics(&objective, &rows);
    let _ = objective.head(&rows[..2], &statistics, BatchTotals::of_rows(&rows));
}

/// Without the statistics of the batch a coupled loss must not silently take 0 for them.
#[test]
#[should_panic(expected = "needs the statistic `kl`")]
fn a_coupled_loss_refuses_to_go_without_statistics() {
    let objective = Objective::new("kto", &[]).unwrap();
    let _ = whole(&objective, &rows(&objective, 4, 3.0), &Statistics::default());
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
        assert_eq!(head.accurate(), 0, "an equal reward is not a correct order");
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
    let warning = exo.saturation_warning(head.saturated, 10).expect("a fifth of the pairs");
    assert!(warning.starts_with("2 of 10 pairs have a reward margin beyond 20 either way"), "{warning}");
    assert_eq!(exo.saturation_warning(2, 100), None);
    let dpo = Objective::new("dpo", &[]).unwrap();
    assert_eq!(whole(&dpo, &rows, &Statistics::default()).unwrap().saturated, 0);
}

#[test]
fn a_number_that_is_not_finite_names_its_row() {
    for objective in variants() {
        let mut rows = rows(&objective, 4, 3.0);
        let statistics = statistics(&objective, &rows);
        rows[2].policy[0] = f64::NAN;
        match whole(&objective, &rows, &statistics) {
            Err(HeadError::NonFinite { row: 2, what: "the policy log-prob" | "the reward", .. }) => {}
            other => panic!("{objective:?}: {other:?}"),
        }
    }
    // finite log-probs whose loss is not
    let ipo = Objective::new("ipo_sum", &[]).unwrap();
    let mut rows = rows(&ipo, 3, 3.0);
    rows[1].policy[1] = -1e200;
    let error = whole(&ipo, &rows, &Statistics::default()).unwrap_err();
    assert_eq!(error, HeadError::NonFinite { row: 1, what: "the loss", value: f64::INFINITY });
}

#[test]
fn kto_refuses_a_batch_of_one() {
    let kto = Objective::new("kto", &[]).unwrap();
    let error = kto.statistics(&rows(&kto, 1, 3.0), &History::default()).unwrap_err();
    assert_eq!(error, HeadError::BatchTooSmall { loss: "kto", rows: 1, needed: 2 });
}

#[test]
fn a_mix_is_the_weighted_sum_of_its_losses() {
    let mix = Objective::new("dpo:0.8,ipo:0.2", &[]).unwrap();
    let rows = rows(&mix, 6, 9.0);
    let head = |objective: &Objective| whole(objective, &rows, &Statistics::default()).unwrap();
    let (dpo, ipo) = (head(&Objective::new("dpo", &[]).unwrap()), head(&Objective::new("ipo", &[]).unwrap()));
    let mixed = head(&mix);
    let weighted = |dpo: f64, ipo: f64| 0.8 * dpo + 0.2 * ipo;
    assert_close(mixed.loss, weighted(dpo.loss, ipo.loss), ipo.loss, format_args!("loss"));
    for i in 0..6 {
        let expected = weighted(dpo.d_policy[i][0], ipo.d_policy[i][0]);
        assert_close(mixed.d_policy[i][0], expected, ipo.d_policy[i][0].abs(), format_args!("row {i}"));
    }
}

/// What modifies a loss modifies it in a mix too, wherever it stands there, and no other.
#[test]
fn a_modifier_stays_with_its_loss() {
    let number = KnobValue::Number;
    type Given<'a> = &'a [(&'a str, KnobValue)];
    type Parts<'a> = [(&'a str, Given<'a>); 2];
    let mixes: [(&str, Given, Parts); 6] = [
        ("ipo:0.5,rpo:0.5", &[], [("ipo", &[]), ("rpo", &[])]),
        ("bco_pair:0.5,wpo:0.5", &[], [("bco_pair", &[]), ("wpo", &[])]),
        ("hinge:0.5,ld_dpo:0.5", &[], [("hinge", &[]), ("ld_dpo", &[])]),
        ("hinge:0.5,f_js:0.5", &[], [("hinge", &[]), ("f_js", &[])]),
        (
            "aipo:0.5,dpo:0.5",
            &[("use_weighting", KnobValue::Switch(true)), ("beta", number(0.2))],
            [("aipo", &[("beta", number(0.2))]), ("wpo", &[("beta", number(0.2))])],
        ),
        (
            "bco_pair:0.5,dpo:0.5",
            &[("sft_weight", number(0.3))],
            [("bco_pair", &[("sft_weight", number(0.3))]), ("dpo", &[("sft_weight", number(0.3))])],
        ),
    ];
    for (mix, given, parts) in mixes {
        let mix = Objective::new(mix, given).unwrap();
        let tails = Objective::new("ld_dpo", &[]).unwrap();
        let rows = rows(&tails, 6, 9.0);
        let head = |objective: &Objective| whole(objective, &rows, &Statistics::default()).unwrap();
        let mixed = head(&mix);
        let parts = parts.map(|(name, given)| head(&Objective::new(name, given).unwrap()));
        let half = |of: &dyn Fn(&Head) -> f64| (of(&parts[0]) + of(&parts[1])) / 2.0;
        assert_close(mixed.loss, half(&|head| head.loss), 1.0, format_args!("{mix:?}"));
        for row in 0..6 {
            for answer in 0..2 {
                let d = half(&|head| head.d_policy[row][answer]);
                assert_close(mixed.d_policy[row][answer], d, 1.0, format_args!("{mix:?}, row {row}"));
                let tail = |head: &Head| head.d_tails.get(row).map_or(0.0, |tails| tails[answer]);
                assert_close(tail(&mixed), half(&tail), 1.0, format_args!("{mix:?}, tail of row {row}"));
            }
        }
    }
}

/// A row of one pair.
fn pair(policy: [f64; 2], reference: &[f64], lens: [usize; 2]) -> RowLogps {
    RowLogps {
        policy: policy.to_vec(),
        reference: reference.to_vec(),
        lens: lens.to_vec(),
        target: RowTarget::Pair,
        tails: None,
        weight: 1.0,
        policy_weight: 1.0,
        numbers: RowNumbers::default(),
        mismatched: None,
    }
}

/// The head of one row.
fn alone(objective: &Objective, row: &RowLogps) -> Head {
    let rows = std::slice::from_ref(row);
    whole(objective, rows, &statistics(objective, rows)).unwrap()
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

/// Inputs at which a plain formula is infinite or no number.
#[test]
fn formulas_hold_at_their_edges() {
    // an answer that is certain has infinite log-odds
    let orpo = Objective::new("orpo", &[]).unwrap();
    let certain = alone(&orpo, &pair([0.0, -30.0], &[], [4, 9]));
    assert!(certain.loss.is_finite() && certain.d_policy.concat().iter().all(|d| d.is_finite()), "{certain:?}");
    // e^5000
    let discopop = Objective::new("discopop", &[]).unwrap();
    let far = alone(&discopop, &pair([-1e5, 0.0], &[0.0, 0.0], [9, 9]));
    assert_close(far.loss, 5000.0, 5000.0, format_args!("discopop of a margin of -5000"));
    // one pair has no deviation
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
    // an answer without tokens has one
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
    let warning = chipo.clipping_warning(1, 2).expect("a half of the pairs");
    assert!(warning.starts_with("1 of 2 pairs are beyond the bound of chipo"), "{warning}");
    assert_eq!(chipo.clipping_warning(0, 2), None);
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
    let (a, b) = (alone(&of_pair, &row), alone(&of_rewards, &RowLogps { target: RowTarget::Rewards(rewards), ..row }));
    assert_close(a.loss, b.loss, 1.0, format_args!("loss"));
    (0..2).for_each(|i| assert_close(a.d_policy[0][i], b.d_policy[0][i], 1.0, format_args!("derivative {i}")));
}

#[test]
fn a_margin_counts_exactly_where_the_registry_says() {
    for spec in LOSSES.iter().filter(|spec| spec.data == DataKind::Pairs) {
        let objective = Objective::new(spec.name, &[]).unwrap();
        let loss = |margin: f64| {
            let mut rows = rows(&objective, 4, 3.0);
            rows.iter_mut().for_each(|row| row.numbers.margin = Some(margin));
            whole(&objective, &rows, &statistics(&objective, &rows)).unwrap().loss
        };
        assert_eq!(loss(0.0) != loss(0.25), spec.margin, "{}", spec.name);
    }
}

#[test]
fn a_weight_scales_any_single_loss() {
    let modified: [Choice; 3] =
        [("rpo", Vec::new()), ("wpo", Vec::new()), ("max_po", vec![("eta", KnobValue::Number(0.5))])];
    for (name, given) in LOSSES.iter().map(|spec| (spec.name, Vec::new())).chain(modified) {
        let [once, thrice] = [1.0, 3.0].map(|weight| {
            let objective = Objective::new(&format!("{name}:{weight}"), &given).unwrap();
            let rows = rows(&objective, 5, 9.0);
            whole(&objective, &rows, &statistics(&objective, &rows)).unwrap()
        });
        let largest = once.per_item_loss.iter().fold(once.loss.abs(), |m, item| m.max(item.abs()));
        assert_close(thrice.loss, 3.0 * once.loss, largest, format_args!("{name}"));
        // a derivative may be the small rest of terms that cancel: the largest of them bounds their size
        let largest = once.d_policy.concat().into_iter().fold(0.0f64, |m, d| m.max(d.abs()));
        for (d3, d1) in thrice.d_policy.concat().into_iter().zip(once.d_policy.concat()) {
            assert_close(d3, 3.0 * d1, largest, format_args!("{name}, derivative"));
        }
        assert_eq!(thrice.rewards, once.rewards);
    }
}

#[test]
fn the_registry_is_consistent() {
    let mut names: Vec<String> = Vec::new();
    for spec in LOSSES {
        let objective = Objective::new(spec.name, &[]).unwrap();
        assert_eq!((objective.data(), objective.name()), (spec.data, spec.name.to_owned()));
        assert_eq!(objective.reference(), spec.reference);
        if spec.reference {
            assert_eq!(spec.knobs[0].key, "beta", "{}", spec.name);
        }
        assert!(spec.source.starts_with("arXiv ") || spec.data == DataKind::Sft, "{}", spec.name);
        assert!(!spec.formula.is_empty() && spec.when.ends_with('.'), "{}", spec.name);
        for name in [spec.name].into_iter().chain(spec.other_names()) {
            let normal = name.to_lowercase().replace('-', "_");
            assert!(!names.contains(&normal), "{name} is the name of two losses");
            names.push(normal);
            assert_eq!(find(&name.to_uppercase()).unwrap().0.name, spec.name);
        }
        for knob in spec.all_knobs() {
            if let KnobKind::Number { default: Some(default), range } = knob.kind {
                assert!(range.contains(default), "{} {}", spec.name, knob.key);
            }
            // the command line has one flag per key, whatever the loss
            let first = knobs().into_iter().find(|(first, _)| first.key == knob.key).unwrap().0;
            assert_eq!((first.flag, first.flag_aliases), (knob.flag, knob.flag_aliases), "{} {}", spec.name, knob.key);
            match (first.kind, knob.kind) {
                (KnobKind::Number { .. }, KnobKind::Number { .. }) => {}
                (KnobKind::Choice { choices, .. }, KnobKind::Choice { choices: others, .. }) => {
                    assert_eq!(choices, others)
                }
                (first, kind) => assert_eq!(first, kind, "{} {}", spec.name, knob.key),
            }
            assert!(knob.replaces.is_none_or(|key| spec.knob(key).is_some()));
        }
        for preset in spec.presets {
            let values = preset.sets.iter().chain(preset.defaults).map(|(key, _)| key);
            let keys = values.chain(preset.requires);
            keys.for_each(|key| assert!(spec.knob(key).is_some(), "{} {key}", preset.name));
        }
    }
    for ambiguous in AMBIGUOUS {
        for (candidate, _) in ambiguous.candidates {
            assert!(
                AMBIGUOUS.iter().all(|other| other.name != *candidate),
                "{candidate} would have to be explained too"
            );
        }
    }
    let mut flags: Vec<&str> = Vec::new();
    for (knob, _) in knobs() {
        for &flag in [knob.flag].iter().chain(knob.flag_aliases) {
            assert!(!flags.contains(&flag), "--{flag} is the flag of two knobs");
            flags.push(flag);
        }
    }
}

#[test]
fn names_and_knobs_of_the_record_make_the_same_objective_again() {
    let number = KnobValue::Number;
    let more = [
        Objective::new("cdpo", &[("label_smoothing", number(0.1))]),
        Objective::new("ipo_sum", &[]),
        Objective::new("Exo-Pref", &[("log-eps", number(-10.0))]),
        // log_eps is exo's alone and turns its label smoothing off, dpo keeps its own
        Objective::new("dpo:0.5,exo:0.5", &[("log_eps", number(-10.0))]),
        // the label smoothing of the two has different defaults
        Objective::new("dpo:0.5,exo:0.5", &[]),
        Objective::new("dpo:0.5", &[]),
        Objective::new("rpo:0.8,ipo:0.2", &[("beta", number(0.3))]),
        Objective::new("wpo:0.8,simpo:0.2", &[]),
    ];
    for objective in variants().into_iter().chain(more.map(Result::unwrap)) {
        let knobs: Vec<_> = objective.knobs().into_iter().map(|(knob, value)| (knob.key, value)).collect();
        let again = Objective::new(&objective.name(), &knobs).unwrap_or_else(|e| panic!("{objective:?}: {e}"));
        assert_eq!(format!("{again:?}"), format!("{objective:?}"));
        let rows = rows(&objective, 5, 9.0);
        let statistics = statistics(&objective, &rows);
        assert_eq!(whole(&again, &rows, &statistics), whole(&objective, &rows, &statistics), "{objective:?}");
    }
}

/// What is refused, and in which words.
#[test]
fn what_does_not_fit_is_refused() {
    let number = KnobValue::Number;
    let on = KnobValue::Switch(true);
    type Given<'a> = &'a [(&'a str, KnobValue)];
    let cases: &[(&str, Given, &str)] = &[
        ("dop", &[], "no loss is called `dop`; did you mean `dpo`? there are LOSSES"),
        ("Sim-PO2", &[], "no loss is called `Sim-PO2`; did you mean `simpo`? there are LOSSES"),
        (
            "mpo:0.5,ipo:0.5",
            &[],
            "--loss mpo:0.5,ipo:0.5: `mpo` is itself the mix dpo:0.8,bco_pair:0.2,sft:1; write out its losses",
        ),
        ("", &[], "no loss is called ``; there are LOSSES"),
        (
            "apo",
            &[],
            "`apo` names several methods: \
             apo_zero (anchored preference optimisation, arXiv 2408.06266, eq. 7); \
             apo_down (anchored preference optimisation, arXiv 2408.06266, eq. 8); \
             accelerated preference optimisation (arXiv 2410.06293, a procedure over iterations of another loss; \
             not in this version)",
        ),
        (
            "ipo",
            &[("label_smoothing", number(0.1))],
            "--label-smoothing does not apply to ipo, whose formula has KNOBS; it belongs to dpo, exo_pair, robust, aot, \
             aot_unpaired, simpo, cpo",
        ),
        ("dpo", &[("gamma", number(0.1))], "--gamma does not apply to dpo, whose formula has KNOBS"),
        ("dpo", &[("beta", number(0.0))], "--beta 0: dpo needs a number above 0"),
        ("dpo", &[("beta", number(f64::INFINITY))], "--beta inf: dpo needs a number above 0"),
        ("dpo", &[("beta", number(f64::NAN))], "--beta NaN: dpo needs a number above 0"),
        (
            "dpo",
            &[("label_smoothing", number(0.5))],
            "--label-smoothing 0.5: dpo needs a number at least 0 and below 0.5",
        ),
        (
            "dpo",
            &[("label_smoothing", number(-0.1))],
            "--label-smoothing -0.1: dpo needs a number at least 0 and below 0.5",
        ),
        (
            "exo",
            &[("label_smoothing", number(0.0))],
            "--label-smoothing 0: exo_pair needs a number above 0 and below 0.5",
        ),
        ("exo", &[("log_eps", number(0.0))], "--log-eps 0: exo_pair needs a number below 0"),
        (
            "exo",
            &[("log_eps", number(-10.0)), ("label_smoothing", number(0.1))],
            "--log-eps replaces --label-smoothing in exo_pair: give one of them",
        ),
        ("kto", &[("desirable_weight", number(0.0))], "--desirable-weight 0: kto needs a number above 0"),
        (
            "kto_pair",
            &[("undesirable_weight", number(-1.0))],
            "--undesirable-weight -1: kto_pair needs a number above 0",
        ),
        (
            "kto",
            &[("kl_grad", on)],
            "--kto-kl-grad does not apply to kto, whose formula has --beta, --desirable-weight, \
             --undesirable-weight; it belongs to kto_pair",
        ),
        ("kto_pair", &[("kl_grad", number(1.0))], "--kto-kl-grad: `1` is not true or false"),
        ("dpo", &[("beta", on)], "--beta: `true` is not a number"),
        (
            "rpo",
            &[("sft_reduction", KnobValue::Choice("mean"))],
            "--sft-reduction mean: there are token_mean, seq_mean, seq_sum",
        ),
        (
            "f_js",
            &[("f_divergence", KnobValue::Choice("reverse_kl"))],
            "`f_js` is dpo with f_divergence = js_divergence, and f_divergence = reverse_kl is given; use `--loss dpo`",
        ),
        (
            "aot",
            &[("use_weighting", on)],
            "--use-weighting does not apply to aot, whose formula has KNOBS; it belongs to WEIGHTED",
        ),
        ("dpo", &[("beta", number(0.1)), ("Beta", number(0.2))], "--beta is given twice"),
        (
            "robust",
            &[("label_smoothing", number(0.5))],
            "--label-smoothing 0.5: robust needs a number at least 0 and below 0.5",
        ),
        (
            "dpo",
            &[("f_alpha", number(0.3))],
            "--f-alpha changes nothing in dpo unless --f-divergence is alpha_divergence",
        ),
        (
            "f_js",
            &[("exp_clamp", number(9.0))],
            "--exp-clamp changes nothing in dpo unless --f-divergence is forward_kl or alpha_divergence",
        ),
        (
            "ipo",
            &[("ld_ref", KnobValue::Switch(false))],
            "--no-ld-ref changes nothing in ipo unless --ld-alpha is below 1",
        ),
        (
            "dpo:0.5,ipo:0.5",
            &[("sft_reduction", KnobValue::Choice("seq_sum"))],
            "--sft-reduction changes nothing in dpo unless --sft-weight is above 0",
        ),
        ("ld_dpo", &[("ld_alpha", number(1.0))], "`ld_dpo` is dpo with a --ld-alpha other than 1: give it one"),
        ("rpo", &[("sft_weight", number(0.0))], "`rpo` is dpo with a --sft-weight other than 0: give it one"),
        (
            "mpo",
            &[("bco_delta", KnobValue::Choice("running"))],
            "--loss mpo: bco_pair cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        ("cdpo", &[], "`cdpo` is dpo with a --label-smoothing other than 0: give it one"),
        (
            "cdpo",
            &[("label_smoothing", number(0.0))],
            "`cdpo` is dpo with a --label-smoothing other than 0: give it one",
        ),
        (
            "ipo_sum",
            &[("length_norm", on)],
            "`ipo_sum` is ipo with length_norm = false, and length_norm = true is given; use `--loss ipo`",
        ),
        (
            "dpo:0.8,kto_pair:0.2",
            &[],
            "--loss dpo:0.8,kto_pair:0.2: kto_pair cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        (
            "dpo:0.8,rm_bt:0.2",
            &[],
            "--loss dpo:0.8,rm_bt:0.2: rm_bt cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        ("dpo:0.8,likelihood:0.2", &[], "no loss is called `likelihood`; there are LOSSES"),
        (
            "dpo:0.8,ipo",
            &[],
            "`ipo` in --loss dpo:0.8,ipo: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
        (
            "dpo:0.8,sigmoid:0.2",
            &[],
            "`sigmoid:0.2` in --loss dpo:0.8,sigmoid:0.2: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, \
             each loss once",
        ),
        (
            "dpo:-1",
            &[],
            "`dpo:-1` in --loss dpo:-1: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
        (
            "dpo:0.5,",
            &[],
            "`` in --loss dpo:0.5,: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
    ];
    let joined = |names: Vec<&str>| names.join(", ");
    let names = joined(names().collect());
    let single = |name: &&str| {
        Objective::new(name, &[])
            .is_ok_and(|objective| matches!(objective.parts[0].loss, loss::Loss::Pair(_) | loss::Loss::Sft(_)))
            && !name.starts_with("rm_")
    };
    let knobs = |text: &str| {
        let flags: Vec<String> = find(text)
            .into_iter()
            .flat_map(|(spec, _)| spec.all_knobs())
            .map(|knob| format!("--{}", knob.flag))
            .collect();
        flags.join(", ")
    };
    let weighted =
        joined(LOSSES.iter().filter(|loss| loss.knob("use_weighting").is_some()).map(|loss| loss.name).collect());
    let mixable = joined(LOSSES.iter().map(|loss| loss.name).filter(single).collect());
    for (text, given, expected) in cases {
        match Objective::new(text, given) {
            Err(error) => {
                let expected = expected
                    .replace("LOSSES", &names)
                    .replace("MIXABLE", &mixable)
                    .replace("KNOBS", &knobs(text))
                    .replace("WEIGHTED", &weighted);
                assert_eq!(error.to_string(), expected)
            }
            Ok(objective) => panic!("`{text}` with {given:?} was accepted as {objective:?}"),
        }
    }
}

/// The rewards of a row order its answers; equal ones make no pair, and a row of equal rewards no loss.
#[test]
fn a_ranking_is_the_mean_over_its_pairs() {
    let row = |policy: &[f64], rewards: &[f64]| RowLogps {
        policy: policy.to_vec(),
        lens: vec![1; policy.len()],
        target: RowTarget::Rewards(rewards.to_vec()),
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
    assert!(rank.undecided_warning(1, 9).unwrap().starts_with("1 of 9 rows have one answer or equal rewards"));
    assert_eq!(rank.undecided_warning(0, 9), None);
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
    assert_eq!(head.accurate(), 0);
}
