//! Compares every registered loss with `tests/goldens/objectives.json`: losses, derivatives, rewards and statistics, also for
//! extreme inputs. The environment variable `ALIGN_GOLDENS` may name another folder with an `objectives.json`.

use super::*;
use align_data::{RowKind, Target};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Returns the `--loss` of a case. It is the name in the goldens, except for two names that `--loss` writes differently.
fn loss_text(golden_name: &str, hyper: &Value) -> String {
    match golden_name {
        "exo_pair_logeps" => "exo_pair".to_owned(),
        "mpo" => {
            let weights = numbers(&hyper["weights"]);
            format!("dpo:{},bco_pair:{},sft:{}", weights[0], weights[1], weights[2])
        }
        name => name.to_owned(),
    }
}

/// Writes a line to the terminal, whether or not the test passes. The test runner captures what `println!` writes.
fn say(line: std::fmt::Arguments<'_>) {
    // a single write, so that the test runner's own lines do not come between
    std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).expect("stderr is open");
}

/// Returns the goldens. `None`, with a message, if the folder in `ALIGN_GOLDENS` has no `objectives.json`.
fn load() -> Option<Value> {
    // a relative folder is relative to the root of the repository, but the tests of a crate run in the crate's folder
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("ALIGN_GOLDENS").map(PathBuf::from);
    let path = root.join(named.clone().unwrap_or("tests/goldens".into())).join("objectives.json");
    if named.is_some() && !path.exists() {
        say(format_args!("objectives not checked: there is no {}", path.display()));
        return None;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is not a list"));
    list.iter().map(|v| v.as_f64().unwrap_or_else(|| panic!("{v} is not a number"))).collect()
}

/// Compares numbers within the relative and absolute tolerances of a golden file. The numbers of both sides are f64.
struct Comparison<'a> {
    id: &'a str,
    rel: f64,
    abs: f64,
}

impl Comparison<'_> {
    fn check(&self, what: &str, found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{}: {what}", self.id);
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= self.abs + self.rel * expected.abs(),
                "{}: {what}[{i}] is {found:e}, the golden {expected:e}",
                self.id
            );
        }
    }
}

fn objective(golden_name: &str, hyper: &Value, inputs: &Value) -> Objective {
    let text = loss_text(golden_name, hyper);
    let mut given = Vec::new();
    for (key, value) in hyper.as_object().expect("hyper is an object") {
        let value = match value {
            Value::Bool(on) => KnobValue::Switch(*on),
            Value::String(word) => {
                let (knob, _) = knobs().into_iter().find(|(knob, _)| knob.key == key).expect("a knob of that name");
                knob.kind.choice(word).unwrap_or_else(|| panic!("{key} {word}"))
            }
            Value::Array(_) => continue, // the weights of a mix, which `loss_text` has read
            number => KnobValue::Number(number.as_f64().expect("a number")),
        };
        given.push((key.as_str(), value));
    }
    if golden_name == "bco_pair" && inputs.get("delta").is_some() {
        given.push(("bco_delta", KnobValue::Choice("running")));
    }
    Objective::new(&text, &given).unwrap_or_else(|e| panic!("{text} with {hyper}: {e}"))
}

/// The rows of a case.
fn rows(inputs: &Value, objective: &Objective) -> Vec<RowLogps> {
    let column = |name: &str| inputs.get(name).filter(|value| value.is_array()).map(numbers);
    let both = |names: [&str; 2]| column(names[0]).zip(column(names[1]));
    match objective.data() {
        RowKind::Pair if objective.scores() == Scores::Reward => {
            let (chosen, rejected) = both(["reward_chosen", "reward_rejected"]).expect("pairs");
            let margin = column("margin").expect("margins");
            let pair = |i: usize| RowLogps {
                policy: vec![chosen[i], rejected[i]],
                lens: vec![1, 1],
                numbers: RowNumbers { margin: Some(margin[i]), ..RowNumbers::default() },
                ..row(Some(Target::Pair))
            };
            (0..chosen.len()).map(pair).collect()
        }
        RowKind::Pair => {
            let (chosen, rejected) = both(["policy_chosen_logps", "policy_rejected_logps"]).expect("pairs");
            let n = chosen.len();
            let reference = both(["ref_chosen_logps", "ref_rejected_logps"]).filter(|_| objective.reference());
            let tails = both(["policy_chosen_tail_logps", "policy_rejected_tail_logps"]).map(|policy| {
                (policy, both(["ref_chosen_tail_logps", "ref_rejected_tail_logps"]).expect("tails of the reference"))
            });
            // a case without lengths belongs to a loss that does not read them
            let lens = both(["chosen_lens", "rejected_lens"]).unwrap_or((vec![1.0; n], vec![1.0; n]));
            let wins = both(["prob_win_chosen", "prob_win_rejected"]);
            let beats = column("prob_chosen_beats_rejected");
            let weights = column("pair_weight");
            let pair = |i: usize| {
                let at = |(one, other): &(Vec<f64>, Vec<f64>)| [one[i], other[i]];
                let mut row = RowLogps {
                    policy: vec![chosen[i], rejected[i]],
                    reference: reference.as_ref().map_or(Vec::new(), |pair| at(pair).to_vec()),
                    lens: at(&lens).map(|len| len as usize).to_vec(),
                    weight: weights.as_ref().filter(|_| !objective.weighting()).map_or(1.0, |weights| weights[i]),
                    policy_weight: weights.as_ref().filter(|_| objective.weighting()).map_or(1.0, |weights| weights[i]),
                    numbers: RowNumbers {
                        win_probability: wins.as_ref().map(at),
                        beats_probability: beats.as_ref().map(|beats| beats[i]),
                        ..RowNumbers::default()
                    },
                    ..row(Some(Target::Pair))
                };
                if let Some((policy, of_reference)) = &tails {
                    // the sums in the goldens leave the tails out, but those of `RowLogps` include them
                    let tails = Tails { policy: at(policy), reference: at(of_reference) };
                    for answer in 0..2 {
                        row.policy[answer] += tails.policy[answer];
                        row.reference[answer] += tails.reference[answer];
                    }
                    row.tails = Some(tails);
                }
                row
            };
            let mut rows: Vec<RowLogps> = (0..n).map(pair).collect();
            if let (Some((logps, lens)), true) = (both(["ref_data_logps", "ref_data_lens"]), objective.reference_data())
            {
                rows.extend(logps.iter().zip(&lens).map(|(logp, len)| RowLogps {
                    policy: vec![*logp],
                    lens: vec![*len as usize],
                    ..row(None)
                }));
            }
            rows
        }
        RowKind::Labelled => {
            let (policy, reference) = both(["policy_logps", "ref_logps"]).expect("answers");
            let mismatched = both(["policy_kl_logps", "ref_kl_logps"]);
            let label = column("label").expect("labels");
            let answer = |i: usize| RowLogps {
                policy: vec![policy[i]],
                reference: vec![reference[i]],
                lens: vec![1],
                mismatched: mismatched
                    .as_ref()
                    .map(|(policy, reference)| Mismatched { policy: policy[i], reference: reference[i] }),
                ..row(Some(Target::Label(label[i] == 1.0)))
            };
            (0..policy.len()).map(answer).collect()
        }
        RowKind::Scored => {
            let nested = |name: &str| -> Vec<Vec<f64>> {
                inputs[name].as_array().expect("a list of lists").iter().map(numbers).collect()
            };
            if objective.scores() == Scores::Reward {
                // the answers are listed best first; any falling rewards give the same ranking
                let ranked = |policy: Vec<f64>| RowLogps {
                    lens: vec![1; policy.len()],
                    target: Some(Target::Rewards((0..policy.len()).map(|rank| -(rank as f64)).collect())),
                    policy,
                    ..row(Some(Target::Pair))
                };
                return nested("reward_ranked").into_iter().map(ranked).collect();
            }
            let all = nested("policy_logps").into_iter().zip(nested("ref_logps")).zip(nested("rewards"));
            all.map(|((policy, reference), rewards)| RowLogps {
                lens: vec![1; policy.len()],
                policy,
                reference,
                ..row(Some(Target::Rewards(rewards)))
            })
            .collect()
        }
        RowKind::Sequence => unreachable!("likelihood has no goldens: it is in those of the mixes"),
    }
}

/// Returns the statistics among the inputs of a case. If it has none, computes them from the rows.
fn statistics(objective: &Objective, inputs: &Value, rows: &[RowLogps]) -> Statistics {
    let given =
        ["delta", "gap_mean", "gap_std"].map(|name| inputs.get(name).and_then(Value::as_f64).map(|x| (name, x)));
    match given.iter().any(Option::is_some) {
        true => Statistics::new(given.into_iter().flatten()),
        // a shift that is not given is 0
        false if objective.name() == "bco" => Statistics::new([("delta", 0.0)]),
        false => objective.statistics(rows, &History::default()).unwrap_or_else(|e| panic!("{objective:?}: {e}")),
    }
}

fn check_case(name: &str, case: &Value, tolerance: &Value) {
    let id = case["id"].as_str().expect("a case has an id");
    let number = |key: &str| tolerance[key].as_f64().expect("the file states its tolerance");
    let compare = Comparison { id, rel: number("rel"), abs: number("abs") };

    let inputs = &case["inputs"];
    let objective = objective(name, &case["hyper"], inputs);
    let rows = rows(inputs, &objective);
    let statistics = statistics(&objective, inputs, &rows);
    let head = objective.head(&rows, &statistics, BatchTotals::of_rows(&rows)).unwrap_or_else(|e| panic!("{id}: {e}"));

    let outputs = &case["outputs"];
    compare.check("loss", &[head.loss], &[outputs["loss"].as_f64().expect("a loss")]);
    compare.check("per_item_loss", &head.per_item_loss, &numbers(&outputs["per_item_loss"]));
    let of = |wanted: &dyn Fn(&Option<Target>) -> bool| -> Vec<usize> {
        (0..rows.len()).filter(|&i| wanted(&rows[i].target)).collect()
    };
    let main = of(&|target| target.is_some());
    for (input, expected) in outputs["grad"].as_object().expect("grad is an object") {
        let what = format!("grad {input}");
        let answer = usize::from(input.contains("rejected"));
        let found: Vec<f64> = match input.as_str() {
            "policy_chosen_tail_logps" | "policy_rejected_tail_logps" => {
                main.iter().map(|&i| head.d_policy[i][answer] + head.d_tails[i][answer]).collect()
            }
            "ref_data_logps" if !objective.reference_data() => vec![0.0; numbers(expected).len()],
            "ref_data_logps" => of(&|target| target.is_none()).iter().map(|&i| head.d_policy[i][0]).collect(),
            "policy_logps" | "reward_ranked" if objective.data() == RowKind::Scored => {
                for (i, expected) in expected.as_array().expect("a list of lists").iter().enumerate() {
                    compare.check(&what, &head.d_policy[i], &numbers(expected));
                }
                continue;
            }
            "policy_logps" | "policy_chosen_logps" | "policy_rejected_logps" | "reward_chosen" | "reward_rejected" => {
                main.iter().map(|&i| head.d_policy[i][answer]).collect()
            }
            other => panic!("{id}: unknown gradient {other}"),
        };
        compare.check(&what, &found, &numbers(expected));
    }
    for (i, key) in ["rewards_chosen", "rewards_rejected"].iter().enumerate() {
        if let Some(expected) = outputs.get(key) {
            let found: Vec<f64> = main.iter().map(|&row| head.rewards[row][i]).collect();
            compare.check(key, &found, &numbers(expected));
        }
    }
    if let Some(extra) = outputs.get("extra") {
        for (key, expected) in extra.as_object().expect("extra is an object") {
            assert_eq!(key, "z0", "{id}: unknown extra output");
            compare.check(key, &[statistics.get("kl")], &[expected.as_f64().expect("a number")]);
        }
    }
}

#[test]
fn losses_agree_with_the_goldens() {
    let Some(goldens) = load() else { return };
    let tolerance = &goldens["tolerance"]["float64_head"];
    let mut checked = Vec::new();
    for (golden_name, loss) in goldens["losses"].as_object().expect("losses is an object") {
        let cases = loss["cases"].as_array().expect("cases is a list");
        assert!(!cases.is_empty(), "objectives.json has no case of `{golden_name}`");
        for case in cases {
            let text = loss_text(golden_name, &case["hyper"]);
            let name = text.split([':', ',']).next().expect("a first name");
            assert!(find(name).is_ok(), "objectives.json has a loss `{golden_name}`, the registry has not");
            for key in
                case["hyper"].as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "weights")
            {
                let flag = key.replace('_', "-");
                let no_flag = format!("no-{flag}");
                let is_flag = |knob: &Knob| {
                    [knob.flag].iter().chain(knob.flag_aliases).any(|known| *known == flag || *known == no_flag)
                };
                assert!(knobs().iter().any(|(knob, _)| is_flag(knob)), "{golden_name}: there is no flag --{flag}");
            }
            check_case(golden_name, case, tolerance);
        }
        for alias in loss["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // other aliases are phrases, such as "dpo with label_smoothing > 0"
            if !alias.contains(' ') {
                let known = find(alias).is_ok() || mix(alias).is_some();
                assert!(known, "{alias}, another name of {golden_name} in objectives.json, is none in the registry");
            }
        }
        checked.push(format!("{golden_name} ({} cases)", cases.len()));
    }
    say(format_args!("objectives checked: {}", checked.join(", ")));
    assert!(!checked.is_empty(), "objectives.json has no loss: nothing was checked");
}

/// The committed file covers every registered loss and preset except likelihood losses, so a new loss cannot be added without
/// goldens.
#[test]
fn every_registered_loss_has_goldens() {
    if std::env::var_os("ALIGN_GOLDENS").is_some() {
        return say(format_args!("coverage of the registry not checked: ALIGN_GOLDENS names other goldens"));
    }
    let goldens = load().expect("the committed goldens exist");
    for spec in LOSSES.iter().filter(|spec| spec.data != RowKind::Sequence) {
        for name in [spec.name].into_iter().chain(spec.presets.iter().map(|preset| preset.name)) {
            let cases = goldens["losses"][name]["cases"].as_array();
            // a preset may be listed as an alias of its loss instead
            let also = goldens["losses"][spec.name]["aliases"].as_array();
            assert!(
                cases.is_some_and(|cases| !cases.is_empty()) || also.is_some_and(|names| names.contains(&name.into())),
                "tests/goldens/objectives.json has no case of `{name}`"
            );
        }
        let kind = goldens["losses"][spec.name]["kind"].as_str().expect("a kind");
        assert_eq!(
            kind,
            match spec.data {
                RowKind::Pair if spec.scores == Scores::Reward => "reward_pair",
                RowKind::Scored if spec.scores == Scores::Reward => "reward_kway",
                RowKind::Pair if spec.reference => "pair",
                RowKind::Pair => "pair_reference_free",
                RowKind::Labelled => "unpaired",
                RowKind::Scored => "kway",
                RowKind::Sequence => unreachable!("left out above"),
            }
        );
    }
    for mix in MIXES {
        assert!(goldens["losses"][mix.name]["cases"].is_array(), "no case of `{}`", mix.name);
    }
}

/// Returns the cases of the goldens for the procedure `name`. `None`, with a message, if the file has none.
fn procedure<'g>(goldens: &'g Value, name: &str) -> Option<&'g Vec<Value>> {
    let cases = goldens["procedures"].get(name);
    if cases.is_none() {
        say(format_args!("procedure {name} not checked: it is not in the file"));
    }
    cases.map(|cases| cases.as_array().expect("a list"))
}

const EXACT: Comparison<'static> = Comparison { id: "procedure", rel: 1e-9, abs: 1e-12 };

/// Pairs whose log-ratios per token differ by the given gaps.
fn pairs_with_gaps(gaps: &[f64]) -> Vec<RowLogps> {
    let pair = |gap: &f64| RowLogps {
        policy: vec![*gap, 0.0],
        reference: vec![0.0, 0.0],
        lens: vec![1, 1],
        ..row(Some(Target::Pair))
    };
    gaps.iter().map(pair).collect()
}

#[test]
fn the_running_statistics_of_alpha_dpo_agree_with_the_goldens() {
    let Some(goldens) = load() else { return };
    for case in procedure(&goldens, "alpha_dpo_stats").into_iter().flatten() {
        for (stats, prefix) in [("corrected", "corrected"), ("authors", "authors")] {
            let objective = Objective::new("alpha_dpo", &[("alpha_dpo_stats", KnobValue::Choice(stats))]).unwrap();
            let mut history = History::default();
            let batches =
                case["gaps"].as_array().expect("batches").iter().zip(case["steps"].as_array().expect("steps"));
            for (gaps, step) in batches {
                let statistics = objective.statistics(&pairs_with_gaps(&numbers(gaps)), &history).unwrap();
                for (name, key) in [("gap_mean", "mean"), ("gap_std", "std")] {
                    let expected = step[format!("{prefix}_{key}")].as_f64().expect("a number");
                    EXACT.check(key, &[statistics.get(name)], &[expected]);
                }
                history = statistics.history();
            }
            let of_evaluation = objective.statistics(&pairs_with_gaps(&[9.0, 1.0]), &history.for_evaluation()).unwrap();
            assert_eq!(of_evaluation.history().gaps, history.gaps, "an evaluation moves nothing");
        }
    }
}

#[test]
fn the_running_shift_of_bco_agrees_with_the_goldens() {
    let Some(goldens) = load() else { return };
    for case in procedure(&goldens, "bco_running_delta").into_iter().flatten() {
        let bco = Objective::new("bco", &[("beta", KnobValue::Number(1.0))]).unwrap();
        let mut history = History::default();
        let batches = case["batches_of_beta_times_logratio"].as_array().expect("batches");
        for (rewards, after) in batches.iter().zip(case["after_each_batch"].as_array().expect("a list")) {
            let answer = |reward: &f64| RowLogps {
                policy: vec![*reward],
                reference: vec![0.0],
                lens: vec![1],
                ..row(Some(Target::Label(true)))
            };
            let rows: Vec<_> = numbers(rewards).iter().map(answer).collect();
            let statistics = bco.statistics(&rows, &history).unwrap();
            EXACT.check("delta", &[statistics.get("delta")], &[after["delta_items"].as_f64().expect("a number")]);
            history = statistics.history();
        }
    }
}

#[test]
fn the_weights_of_wpo_agree_with_the_goldens() {
    let Some(goldens) = load() else { return };
    for case in procedure(&goldens, "wpo_weights").into_iter().flatten() {
        let lists =
            |key: &str| -> Vec<Vec<f64>> { case[key].as_array().expect("a list").iter().map(numbers).collect() };
        let logits = case["logits"].as_array().expect("a list of answers");
        let mut aligned = Vec::new();
        for ((tokens, labels), mask) in logits.iter().zip(lists("labels")).zip(lists("mask")) {
            let tokens: Vec<Vec<f64>> = tokens.as_array().expect("a list of tokens").iter().map(numbers).collect();
            let of_token = |(logits, label): (&Vec<f64>, &f64)| {
                let lse = |scale: f64| logits.iter().map(|z| (scale * z).exp()).sum::<f64>().ln();
                (logits[*label as usize] - lse(1.0)) - (lse(2.0) - 2.0 * lse(1.0))
            };
            let scored = tokens.iter().zip(&labels).zip(mask).filter(|(_, mask)| *mask == 1.0);
            aligned.push(scored.map(|(token, _)| of_token(token)).collect::<Vec<f64>>());
        }
        let (chosen, rejected) = aligned.split_at(aligned.len() / 2);
        let weights: Vec<f64> = chosen.iter().zip(rejected).map(|(one, other)| wpo_weight([one, other])).collect();
        EXACT.check("pair_weight", &weights, &numbers(&case["pair_weight"]));
    }
}

#[test]
fn the_split_of_ld_dpo_agrees_with_the_goldens() {
    let Some(goldens) = load() else { return };
    for case in procedure(&goldens, "ld_split").into_iter().flatten() {
        let (chosen, rejected) = (numbers(&case["chosen_token_logps"]), numbers(&case["rejected_token_logps"]));
        let shared = case["shared_len"].as_u64().expect("a length") as usize;
        assert_eq!(shared, chosen.len().min(rejected.len()));
        let sum = |logps: &[f64]| logps.iter().sum::<f64>();
        let row = RowLogps {
            policy: vec![sum(&chosen), sum(&rejected)],
            reference: vec![0.0, 0.0],
            lens: vec![chosen.len(), rejected.len()],
            tails: Some(Tails { policy: [sum(&chosen[shared..]), sum(&rejected[shared..])], reference: [0.0; 2] }),
            ..row(Some(Target::Pair))
        };
        let alpha = case["ld_alpha"].as_f64().expect("a number");
        let given = [("ld_alpha", KnobValue::Number(alpha)), ("beta", KnobValue::Number(1.0))];
        let objective = Objective::new("dpo", &given).unwrap();
        let head =
            objective.head(&[row], &Statistics::default(), BatchTotals { rows: 1, ..Default::default() }).unwrap();
        // the reference's sums are 0 and beta is 1, so a reward is the policy's sum, in which the tail counts less
        let expected = ["chosen", "rejected"].map(|key| case[key].as_f64().expect("a number"));
        EXACT.check("sums", &head.rewards[0], &expected);
    }
}

#[test]
fn the_kto_reference_point_agrees_with_the_goldens() {
    let Some(goldens) = load() else { return };
    let Some(procedures) = goldens["procedures"].get("kto_kl") else {
        return say(format_args!("procedure kto_kl not checked: it is not in the file"));
    };
    let objective = Objective::new("kto", &[]).unwrap();
    for case in procedures.as_array().expect("kto_kl is a list") {
        let n = case["batch"].as_u64().expect("a batch size") as usize;
        for (row, pair) in case["kl_pairs_prompt_completion"].as_array().expect("a list").iter().enumerate() {
            // the mismatched answer comes from the row before; that of the first row comes from the last row
            assert_eq!(numbers(pair), [row as f64, ((row + n - 1) % n) as f64]);
        }
        let (policy, reference) = (numbers(&case["policy_kl_logps"]), numbers(&case["ref_kl_logps"]));
        let rows: Vec<_> = policy
            .iter()
            .zip(&reference)
            // the row's own numbers are not known yet when the reference point is computed
            .map(|(&policy, &reference)| RowLogps {
                mismatched: Some(Mismatched { policy, reference }),
                ..row(Some(Target::Label(true)))
            })
            .collect();
        let kl = objective.statistics(&rows, &History::default()).unwrap().get("kl");
        EXACT.check("z0", &[kl], &[case["z0"].as_f64().unwrap()]);
    }
}
