//! Tests of what must hold for every registered loss.

mod choices;
mod formulas;
mod goldens;

use super::*;
use align_data::{RowKind, RowNumbers, Target};

/// Pseudo-random numbers that are the same on every machine. They are the top 53 bits of a 64-bit congruential generator.
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
    let mut row = |i: usize, target: Option<Target>| {
        let n_answers = match &target {
            Some(Target::Pair) => 2,
            Some(Target::Label(_) | Target::Sequence) | None => 1,
            Some(Target::Rewards(rewards)) => rewards.len(),
        };
        let policy: Vec<f64> = (0..n_answers).map(|_| numbers.uniform(-120.0, -20.0)).collect();
        let reference = policy.iter().map(|p| p + numbers.uniform(-spread, spread)).collect();
        let mismatched_policy = numbers.uniform(-120.0, -20.0);
        let mismatched =
            Mismatched { policy: mismatched_policy, reference: mismatched_policy + numbers.uniform(-9.0, 3.0) };
        // only one answer, which stands for the longer one, has a tail
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
        RowKind::Pair => Some(Target::Pair),
        RowKind::Labelled => Some(Target::Label(!i.is_multiple_of(3))),
        RowKind::Scored => Some(Target::Rewards((0..1 + i % 4).map(|k| (k * 5 % 3) as f64 / 2.0).collect())),
        RowKind::Sequence => Some(Target::Sequence),
    };
    let mut rows: Vec<RowLogps> = (0..n).map(|i| row(i, target(i))).collect();
    if objective.reference_data() {
        rows.extend((0..2).map(|i| row(i, None)));
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

/// Returns every loss with its defaults and with each of its knobs at another value that has an effect, and some mixes.
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
    // mixes in which only one loss has a modifier: the first loss, or a later one
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
            // its target margin depends on the policy, and the derivatives leave that dependence out; differences would include
            // it, so alpha is 0 here, and the goldens check the derivatives with alpha
            given.retain(|(key, _)| *key != "alpha");
            given.push(("alpha", KnobValue::Number(0.0)));
        }
        let objective = Objective::new(text, &given).unwrap();
        let rows = rows(&objective, 7, 15.0);
        // the statistics stay the same while the rows change, since they carry no gradient; a loss whose shared numbers have a
        // gradient computes them from the rows and does not read the statistics
        let statistics = statistics(&objective, &rows);
        let head = whole(&objective, &rows, &statistics).unwrap();
        let check = |analytic: f64, what: std::fmt::Arguments<'_>, mv: &dyn Fn(&mut [RowLogps], f64)| {
            let loss = |by: f64| {
                let mut moved = rows.clone();
                mv(&mut moved, by);
                whole(&objective, &moved, &statistics).unwrap().loss
            };
            let difference = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
            // the error of a central difference falls with h^2; extrapolation to h = 0 leaves an error far below the change that
            // halving h makes
            let h = 1e-4;
            let (coarse, fine) = (difference(h), difference(h / 2.0));
            let numeric = (4.0 * fine - coarse) / 3.0;
            // rounding error: a few ulps of the loss and of log-probs up to 120, divided by the step h
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
                if let (Some(d_tails), Some(Target::Pair)) = (head.d_tails.get(row), &rows[row].target) {
                    let mv = |rows: &mut [RowLogps], by: f64| {
                        rows[row].tails.as_mut().expect("they are wanted").policy[answer] += by;
                    };
                    check(d_tails[answer], format_args!("row {row} tail of answer {answer}"), &mv);
                }
            }
        }
    }
}

/// Checks that two sums differ by at most 32 f64 epsilons of `largest`, the size of their largest term.
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
            // a derivative may be the small remainder of terms that cancel; the largest derivative bounds their size
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
#[should_panic(expected = "compares the rows of the whole batch")]
fn a_loss_that_compares_rows_refuses_a_part_of_them() {
    let objective = Objective::new("aot", &[]).unwrap();
    let rows = rows(&objective, 4, 3.0);
    let statistics = statistics(&objective, &rows);
    let _ = objective.head(&rows[..2], &statistics, BatchTotals::of_rows(&rows));
}

/// Without the statistics of the batch, a coupled loss must not silently use 0 in their place.
#[test]
#[should_panic(expected = "needs the statistic `kl`")]
fn a_coupled_loss_refuses_to_go_without_statistics() {
    let objective = Objective::new("kto", &[]).unwrap();
    let _ = whole(&objective, &rows(&objective, 4, 3.0), &Statistics::default());
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
    // finite log-probs whose loss is infinite
    let ipo = Objective::new("ipo_sum", &[]).unwrap();
    let mut rows = rows(&ipo, 3, 3.0);
    rows[1].policy[1] = -1e200;
    let error = whole(&ipo, &rows, &Statistics::default()).unwrap_err();
    assert_eq!(error, HeadError::NonFinite { row: 1, what: "the loss", value: f64::INFINITY });
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

/// A modifier of a loss also applies to that loss in a mix, at any place in the mix, and to no other loss.
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

/// A row without numbers.
fn row(target: Option<Target>) -> RowLogps {
    RowLogps {
        policy: Vec::new(),
        reference: Vec::new(),
        lens: Vec::new(),
        target,
        tails: None,
        weight: 1.0,
        policy_weight: 1.0,
        numbers: RowNumbers::default(),
        mismatched: None,
    }
}

/// A row of one pair.
pub(crate) fn pair(policy: [f64; 2], reference: &[f64], lens: [usize; 2]) -> RowLogps {
    RowLogps { policy: policy.to_vec(), reference: reference.to_vec(), lens: lens.to_vec(), ..row(Some(Target::Pair)) }
}

/// The head of one row.
fn alone(objective: &Objective, row: &RowLogps) -> Head {
    let rows = std::slice::from_ref(row);
    whole(objective, rows, &statistics(objective, rows)).unwrap()
}

#[test]
fn a_margin_counts_exactly_where_the_registry_says() {
    for spec in LOSSES.iter().filter(|spec| spec.data == RowKind::Pair) {
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
        // a derivative may be the small remainder of terms that cancel; the largest derivative bounds their size
        let largest = once.d_policy.concat().into_iter().fold(0.0f64, |m, d| m.max(d.abs()));
        for (d3, d1) in thrice.d_policy.concat().into_iter().zip(once.d_policy.concat()) {
            assert_close(d3, 3.0 * d1, largest, format_args!("{name}, derivative"));
        }
        assert_eq!(thrice.rewards, once.rewards);
    }
}
