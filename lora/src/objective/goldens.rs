//! Every registered loss against `tests/goldens/objectives.json`: losses, derivatives, rewards and statistics, extreme inputs
//! included. Another folder with an `objectives.json` is taken from the environment variable `ALIGN_GOLDENS`.

use super::*;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Cases whose name in the goldens is not a name of the loss: the loss follows from their hyper-parameters.
const NAMED_OTHERWISE: [(&str, &str); 1] = [("exo_pair_logeps", "exo_pair")];

/// To the terminal whatever the test's outcome: the test runner keeps what `println!` writes.
fn say(line: std::fmt::Arguments<'_>) {
    // one write, or the runner's own lines come between
    std::io::stderr().write_all(format!("\n{line}\n").as_bytes()).expect("stderr is open");
}

/// The goldens, or `None` (said) if the folder that the user named has none of this kind.
fn load() -> Option<Value> {
    // a relative folder is meant from the root of the repository, and the tests of a crate run in the crate's folder
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

/// Compares within the tolerance of the file: the head is in f64 and so are the goldens.
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

fn objective(name: &str, hyper: &Value) -> Objective {
    let given: Vec<_> = hyper
        .as_object()
        .expect("hyper is an object")
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Bool(on) => KnobValue::Switch(*on),
                number => KnobValue::Number(number.as_f64().expect("a number")),
            };
            (key.as_str(), value)
        })
        .collect();
    Objective::new(name, &given).unwrap_or_else(|e| panic!("{name} with {hyper}: {e}"))
}

/// The rows of a case, and the name of the input that each `policy[i]` came from.
fn rows(inputs: &Value, data: DataKind) -> (Vec<RowLogps>, Vec<&'static str>) {
    let column = |name: &str| numbers(&inputs[name]);
    match data {
        DataKind::Pairs => {
            let policy = [column("policy_chosen_logps"), column("policy_rejected_logps")];
            let reference = [column("ref_chosen_logps"), column("ref_rejected_logps")];
            // a case without lengths is of a loss that does not look at them
            let lens = ["chosen_lens", "rejected_lens"]
                .map(|name| inputs.get(name).map_or(vec![1.0; policy[0].len()], numbers));
            let rows = (0..policy[0].len()).map(|i| RowLogps {
                policy: policy.iter().map(|p| p[i]).collect(),
                reference: reference.iter().map(|r| r[i]).collect(),
                lens: lens.iter().map(|n| n[i] as usize).collect(),
                target: RowTarget::Pair,
                mismatched: None,
            });
            (rows.collect(), vec!["policy_chosen_logps", "policy_rejected_logps"])
        }
        DataKind::Unpaired => {
            let (policy, reference) = (column("policy_logps"), column("ref_logps"));
            let (mismatched_policy, mismatched_reference) = (column("policy_kl_logps"), column("ref_kl_logps"));
            let label = column("label");
            let rows = (0..policy.len()).map(|i| RowLogps {
                policy: vec![policy[i]],
                reference: vec![reference[i]],
                lens: vec![1],
                target: RowTarget::Label(label[i] == 1.0),
                mismatched: Some(Mismatched { policy: mismatched_policy[i], reference: mismatched_reference[i] }),
            });
            (rows.collect(), vec!["policy_logps"])
        }
    }
}

fn check_case(name: &str, case: &Value, tolerance: &Value) {
    let id = case["id"].as_str().expect("a case has an id");
    let number = |key: &str| tolerance[key].as_f64().expect("the file states its tolerance");
    let compare = Comparison { id, rel: number("rel"), abs: number("abs") };

    let objective = objective(name, &case["hyper"]);
    let (rows, inputs) = rows(&case["inputs"], objective.data());
    let statistics = objective.statistics(&rows).unwrap_or_else(|e| panic!("{id}: {e}"));
    let head = objective.head(&rows, &statistics, rows.len()).unwrap_or_else(|e| panic!("{id}: {e}"));

    let outputs = &case["outputs"];
    compare.check("loss", &[head.loss], &[outputs["loss"].as_f64().expect("a loss")]);
    compare.check("per_item_loss", &head.per_item_loss, &numbers(&outputs["per_item_loss"]));
    let answer = |of: &[Vec<f64>], i: usize| -> Vec<f64> { of.iter().map(|row| row[i]).collect() };
    for (i, input) in inputs.iter().enumerate() {
        compare.check(&format!("grad {input}"), &answer(&head.d_policy, i), &numbers(&outputs["grad"][input]));
    }
    for (i, key) in ["rewards_chosen", "rewards_rejected"].iter().enumerate() {
        if let Some(expected) = outputs.get(key) {
            compare.check(key, &answer(&head.rewards, i), &numbers(expected));
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
    let (mut checked, mut skipped) = (Vec::new(), Vec::new());
    for (golden_name, loss) in goldens["losses"].as_object().expect("losses is an object") {
        let name =
            NAMED_OTHERWISE.iter().find(|(golden, _)| golden == golden_name).map_or(golden_name.as_str(), |n| n.1);
        if find(name).is_err() {
            skipped.push(golden_name.as_str());
            continue;
        }
        let cases = loss["cases"].as_array().expect("cases is a list");
        for case in cases {
            check_case(name, case, tolerance);
        }
        checked.push(format!("{golden_name} ({} cases)", cases.len()));
    }
    say(format_args!("objectives checked: {}", checked.join(", ")));
    if !skipped.is_empty() {
        say(format_args!("objectives skipped, not in the registry: {}", skipped.join(", ")));
    }
    assert!(!checked.is_empty(), "no loss of objectives.json is in the registry: nothing was checked");
}

/// The committed file covers the whole registry, presets included, so that a new loss cannot come without goldens.
#[test]
fn every_registered_loss_has_goldens() {
    if std::env::var_os("ALIGN_GOLDENS").is_some() {
        return say(format_args!("coverage of the registry not checked: ALIGN_GOLDENS names other goldens"));
    }
    let goldens = load().expect("the committed goldens exist");
    for spec in LOSSES {
        for name in [spec.name].into_iter().chain(spec.presets.iter().map(|preset| preset.name)) {
            let cases = goldens["losses"][name]["cases"].as_array();
            assert!(
                cases.is_some_and(|cases| !cases.is_empty()),
                "tests/goldens/objectives.json has no case of `{name}`"
            );
        }
        let kind = goldens["losses"][spec.name]["kind"].as_str().expect("a kind");
        assert_eq!(
            kind,
            match spec.data {
                DataKind::Pairs => "pair",
                DataKind::Unpaired => "unpaired",
            }
        );
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
            assert_eq!(numbers(pair), [row as f64, mismatched_row(row, n) as f64]);
        }
        let (policy, reference) = (numbers(&case["policy_kl_logps"]), numbers(&case["ref_kl_logps"]));
        let rows: Vec<_> = policy
            .iter()
            .zip(&reference)
            .map(|(&policy, &reference)| RowLogps {
                policy: Vec::new(), // not known yet when the reference point is computed
                reference: Vec::new(),
                lens: Vec::new(),
                target: RowTarget::Label(true),
                mismatched: Some(Mismatched { policy, reference }),
            })
            .collect();
        let kl = objective.statistics(&rows).unwrap().get("kl");
        Comparison { id: "kto_kl", rel: 1e-9, abs: 1e-12 }.check("z0", &[kl], &[case["z0"].as_f64().unwrap()]);
    }
}
