//! Compares gradients of the adapters with torch's goldens, and with difference quotients for every loss.

use crate::align::{number, numbers, read_json};
use crate::golden_rows::{golden_rows, with_numbers};
use crate::goldens::{Golden, GoldenLoss, Goldens, compare_losses, may_be_missing};
use align_data::{EncodedRow, Encoder, Mismatch, RowKind, Target};
use align_engine::adapters::{AdapterSet, Adapters};
use align_engine::autograd::ParamGrads;
use align_engine::model::{Model, ModelConfig};
use align_engine::param::{Param, ParamId};
use align_engine::weights::{SafetensorsFile, ValueCheck, WeightFiles};
use align_kernels::case::Inputs;
use align_kernels::{Device, Precision};
use align_lora::adapter::Adapter;
use align_lora::objective::{BatchTotals, History, KnobValue, LOSSES, Objective, RowLogps, Scores};
use align_lora::train::{Batch, Donors, Outcome, Scorers, Scoring};
use serde_json::Value;
use std::sync::Arc;

/// The losses whose gradients are in the goldens.
pub(crate) const WITH_GRADIENT: [&str; 3] = ["sigmoid", "exo_pair", "kto"];

/// A model with its golden adapter on a device, and what is needed to encode the goldens' rows for it.
pub(crate) struct World<'a> {
    golden: &'a Golden<'a>,
    model: Model,
    adapter: Adapter,
    /// The adapter with a score head.
    reward_model: Arc<AdapterSet>,
    /// The `max_length` of the goldens.
    max_length: usize,
}

impl<'g> World<'g> {
    pub(crate) fn open(golden: &'g Golden<'_>, device: &Device) -> World<'g> {
        let files = WeightFiles::open(&golden.model, ValueCheck::Finite).unwrap();
        let model = Model::load(device, ModelConfig::open(&golden.model).unwrap(), &files).unwrap();
        let adapter = Adapter::load(&model, &golden.adapter).unwrap();
        let hidden_size = model.config().hidden_size;
        let head = Inputs::of(&[hidden_size]).normal(hidden_size, 0.05);
        let mut reward_model = AdapterSet::clone(adapter.set());
        let id = ParamId(adapter.params().count());
        reward_model.set_score_head(Param::new(model.device(), id, [1, hidden_size], &head).unwrap());
        World { golden, model, adapter, reward_model: Arc::new(reward_model), max_length: golden.max_length() }
    }

    fn set(&self, objective: &Objective) -> &Arc<AdapterSet> {
        match objective.scores() {
            Scores::LogProbs => self.adapter.set(),
            Scores::Reward => &self.reward_model,
        }
    }

    fn rows(&self, kind: RowKind, n: usize) -> Vec<EncodedRow> {
        let rows = self.model.config().vocab_size;
        let encoder = Encoder::from_model(&self.golden.model, None, self.max_length, rows).unwrap();
        golden_rows(self.golden.file_of_rows("pairs.jsonl").parent().unwrap(), encoder, kind, n)
    }

    /// Returns the rows of the goldens' batch.
    fn batch_rows(&self, kind: RowKind) -> Vec<EncodedRow> {
        self.rows(kind, self.golden.batch_rows())
    }

    fn gradients(&self, objective: &Objective, rows: &[EncodedRow]) -> (Outcome, ParamGrads) {
        self.gradients_after(objective, rows, History::default())
    }

    fn gradients_after(&self, objective: &Objective, rows: &[EncodedRow], history: History) -> (Outcome, ParamGrads) {
        let mut grads = ParamGrads::default();
        let batch = self.batch(objective, rows, history);
        let outcome =
            batch.gradients(&self.scoring(objective), None, &|_, _| Ok(Some(usize::MAX)), &mut grads).unwrap();
        (outcome, grads)
    }

    fn scoring(&self, objective: &Objective) -> Scoring<'_> {
        Scoring {
            model: &self.model,
            adapters: Adapters { policy: Some(self.set(objective).clone()), reference: None },
            scorers: Scorers::of(objective, &self.model),
            precision: Precision::F32,
            logp_temperature: 1.0,
            extras: objective.weighting(),
            cache: None,
        }
    }

    fn batch<'a>(&self, objective: &'a Objective, rows: &'a [EncodedRow], history: History) -> Batch<'a> {
        Batch {
            objective,
            rows,
            max_length: self.max_length,
            micro_batch_tokens: 2048,
            step: 1,
            history,
            donors: Donors::Batch(Mismatch::Previous),
        }
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

impl World<'_> {
    /// Checks the gradients of these losses.
    pub(crate) fn check_gradients(&self, losses: &[&str]) {
        let mut checked = 0;
        for golden in losses {
            let [sampled, whole] =
                ["json", "safetensors"].map(|ending| self.golden.folder.join(format!("grads_{golden}.{ending}")));
            if !sampled.exists() {
                eprintln!("skipped: no {}", sampled.display());
                continue;
            }
            let objective = self.golden.objective(GoldenLoss::find(golden));
            let (outcome, grads) = self.gradients(&objective, &self.batch_rows(objective.data()));
            self.check_sampled(golden, &outcome, &grads, &read_json(&sampled));
            if whole.exists() {
                self.check_tensors(golden, &grads, &SafetensorsFile::open(&whole).unwrap());
            }
            checked += 1;
        }
        assert!(checked > 0 || may_be_missing(), "{}: no gradients were checked", self.golden.name);
    }

    /// Checks every tensor's gradient.
    fn check_tensors(&self, golden: &str, grads: &ParamGrads, want: &SafetensorsFile) {
        let name = &self.golden.name;
        let mut tensors = 0;
        for (key, param) in self.adapter.params() {
            let want = want.to_f32(want.tensor(&key).unwrap_or_else(|| panic!("{key}"))).unwrap();
            let got = grads.get(param.id()).unwrap().download().unwrap();
            let difference: Vec<f32> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
            let relative = norm(&difference) / norm(&want);
            assert!(relative <= 1e-4, "{name} {golden}: {key} differs by {relative:e}");
            tensors += 1;
        }
        assert_eq!(tensors, want.tensors().len(), "{name} {golden}: every tensor of the golden");
    }

    /// Checks the loss, and the norm, the largest value and sampled entries of each gradient.
    fn check_sampled(&self, golden: &str, outcome: &Outcome, grads: &ParamGrads, want: &Value) {
        let name = &self.golden.name;
        let loss = number(&want["loss"]);
        assert!((outcome.loss - loss).abs() <= 1e-4 * loss.abs().max(1.0), "{name} {golden}: {}", outcome.loss);
        let mut squares = 0.0;
        for (key, param) in self.adapter.params() {
            let want = &want["tensors"][&key];
            let got = grads.get(param.id()).unwrap().download().unwrap();
            let l2 = number(&want["l2"]);
            squares += norm(&got).powi(2);
            let largest = got.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
            let place = format!("{name} {golden}: {key}");
            assert!((norm(&got) - l2).abs() <= 1e-4 * l2, "{place}: norm {} golden {l2}", norm(&got));
            let golden_largest = number(&want["max_abs"]);
            // for a single entry, only the error bound of the whole tensor is known: 1e-4 of the norm
            assert!(
                (largest - golden_largest).abs() <= 1e-4 * l2,
                "{place}: largest {largest} golden {golden_largest}"
            );
            for (index, value) in numbers(&want["index"]).iter().zip(numbers(&want["value"])) {
                let got = f64::from(got[*index as usize]);
                assert!((got - value).abs() <= 1e-4 * l2, "{place}[{index}]: {got} golden {value}");
            }
        }
        let global = number(&want["global_l2"]);
        assert!((squares.sqrt() - global).abs() <= 1e-4 * global, "{name} {golden}: {} {global}", squares.sqrt());
    }

    /// Checks all losses of the goldens with the log-probs of one pass. `align-cli eval` makes a pass for each.
    pub(crate) fn check_losses(&self, losses: &Value) {
        // the loss that reads the most of a pass: log-probs of both models, and sums over the tails
        let all = self.golden.objective(GoldenLoss::find("sigmoid ld_alpha=0.5"));
        let rows = self.batch_rows(RowKind::Pair);
        let scored = self.batch(&all, &rows, History::default()).score(&self.scoring(&all)).unwrap();
        let loss_of = |loss: &GoldenLoss| {
            let objective = self.golden.objective(loss);
            let read = |row: &RowLogps| match objective.data() {
                RowKind::Pair => row.clone(),
                // `sft` reads the chosen answer, and no reference
                _ => RowLogps {
                    policy: vec![row.policy[0]],
                    reference: Vec::new(),
                    lens: vec![row.lens[0]],
                    target: Some(Target::Sequence),
                    ..row.clone()
                },
            };
            let read: Vec<RowLogps> = scored.iter().map(read).collect();
            let statistics = objective.statistics(&read, &History::default()).unwrap();
            objective.head(&read, &statistics, BatchTotals::of_rows(&read)).unwrap().loss
        };
        let log_ratios = |row: &RowLogps| [0, 1].map(|answer| row.policy[answer] - row.reference[answer]);
        compare_losses(self.golden, losses, loss_of, &scored.iter().map(log_ratios).collect::<Vec<_>>());
    }
}

/// Checks the gradients of these goldens on the processor.
fn check_gradients(goldens: &Goldens<'_>, threads: Option<usize>) {
    let (models, device) = (goldens.models(), Device::cpu(threads).unwrap());
    assert!(!models.is_empty() || may_be_missing(), "nothing was checked");
    models.iter().for_each(|golden| World::open(golden, &device).check_gradients(&WITH_GRADIENT));
}

#[test]
fn gradients_are_those_of_torch() {
    check_gradients(&Goldens::tiny(), Some(1));
}

#[test]
fn gradients_and_losses_of_the_short_goldens_are_those_of_torch() {
    let goldens = Goldens::short();
    check_gradients(&goldens, Some(1));
    let device = Device::cpu(Some(1)).unwrap();
    goldens.for_each("losses.json", |golden, losses| World::open(golden, &device).check_losses(&losses));
}

#[test]
fn smollm2_has_the_gradients_of_torch() {
    if std::env::var_os("ALIGN_SMOLLM2").is_none() {
        eprintln!("skipped: smollm2-135m, ALIGN_SMOLLM2 does not name its directory");
        return;
    }
    check_gradients(&Goldens::real(), None);
}

/// For every loss, compares the derivative of a whole model's loss along a direction in all parameters with the difference
/// quotient.
///
/// The loss is summed from f32 log-probs of some hundred tokens, each with an error of about 1e-5. With a step that moves the
/// loss by about 1e-2, the quotient is exact to about 1 %.
#[test]
fn every_loss_has_the_gradient_of_its_value() {
    let golden = Golden::committed("tiny-llama");
    let world = World::open(&golden, &Device::cpu(Some(1)).unwrap());
    let modified = ["mpo", "rpo", "ld_dpo", "f_js", "f_alpha"];
    for name in LOSSES.iter().map(|loss| loss.name).chain(modified) {
        let number = KnobValue::Number;
        let knobs: &[_] = match name {
            // at the usual beta, the golden adapter is so far from its reference that these losses are flat, or beyond their
            // bounds
            "hinge" | "exo_rw" | "dpo_rw" | "nca" | "discopop" => &[("beta", number(0.01))],
            "chipo" => &[("beta", number(0.01)), ("chi_alpha", number(0.01))],
            "slic" => &[("delta", number(1000.0))],
            // by default its reference points carry no gradient, so its gradient is intentionally not the derivative of its value
            "kto_pair" => &[("kl_grad", KnobValue::Switch(true))],
            // its target margin carries no gradient either
            "alpha_dpo" => &[("alpha", number(0.0))],
            "max_po" => &[("eta", number(0.1))],
            _ => &[],
        };
        let objective = Objective::new(name, knobs).unwrap();
        let mut rows = with_numbers(world.rows(objective.data(), 4));
        if name == "max_po" {
            // the loss is flat for margins of more than a few nats, so the answers are cut to two tokens
            rows.iter_mut().flat_map(|row| &mut row.answers).for_each(|answer| answer.kept = answer.kept.min(2));
            // the texts of its reference data
            rows.extend(world.rows(RowKind::Sequence, 2));
        }
        // running statistics carry no gradient, so they stay fixed
        let evaluated = |history| world.batch(&objective, &rows, history).evaluate(&world.scoring(&objective)).unwrap();
        let history = evaluated(History::default()).history.for_evaluation();
        let (outcome, grads) = world.gradients_after(&objective, &rows, history);
        assert_eq!(
            outcome.loss.to_bits(),
            evaluated(history).loss.to_bits(),
            "{name}: the evaluation's loss is another"
        );
        let params = world.set(&objective).params();
        let before: Vec<Vec<f32>> = params.iter().map(|param| param.read().download().unwrap()).collect();
        // the direction is the gradient itself: along it the loss moves most
        let gradient: Vec<Vec<f32>> =
            params.iter().map(|param| grads.get(param.id()).unwrap().download().unwrap()).collect();
        let length = gradient.iter().map(|g| norm(g).powi(2)).sum::<f64>().sqrt();
        assert!(length > 0.0, "{}: the loss has a gradient here", name);
        // a loss of thousands has a gradient so large that a step of 1e-2 would be lost in the rounding of the parameters
        let step = 1e-2 * (outcome.loss.abs() / 10.0).max(1.0) / length;
        let shift = |sign: f64| {
            for ((param, before), gradient) in params.iter().zip(&before).zip(&gradient) {
                let scale = sign * step / length;
                let values: Vec<f32> =
                    before.iter().zip(gradient).map(|(b, g)| (f64::from(*b) + scale * f64::from(*g)) as f32).collect();
                *param.write() = world.model.device().upload("adapter", &values).unwrap();
            }
        };
        let [above, below] = [1.0, -1.0].map(|sign| {
            shift(sign);
            evaluated(history).loss
        });
        shift(0.0);
        let quotient = (above - below) / (2.0 * step);
        assert!((quotient - length).abs() <= 0.02 * length, "{}: quotient {quotient}, gradient {length}", name);
    }
}
