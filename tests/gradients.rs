//! Compares gradients of the adapters with torch's goldens, and with difference quotients for every loss.

use crate::align::{committed_goldens, number, numbers, read_json, root};
use crate::golden_rows::{golden_rows, with_numbers};
use align_data::{EncodedRow, Encoder, Mismatch, RowKind};
use align_engine::adapters::{AdapterSet, Adapters};
use align_engine::autograd::ParamGrads;
use align_engine::model::{Model, ModelConfig};
use align_engine::param::{Param, ParamId};
use align_engine::weights::{SafetensorsFile, ValueCheck, WeightFiles};
use align_kernels::case::Inputs;
use align_kernels::{Device, Precision};
use align_lora::adapter::Adapter;
use align_lora::objective::{History, KnobValue, LOSSES, Objective, Scores};
use align_lora::train::{Batch, Donors, Outcome, Scorers, Scoring};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROWS: usize = 8;

/// A model with its golden adapter, and what is needed to encode the goldens' rows for it.
struct World {
    name: String,
    folder: PathBuf,
    model: Model,
    adapter: Adapter,
    /// The adapter with a score head.
    reward_model: Arc<AdapterSet>,
    encoder: PathBuf,
    /// The `max_length` of the goldens.
    max_length: usize,
}

impl World {
    /// Opens a golden's folder. The model computes on `threads` threads, or on all.
    fn open(folder: &Path, model_dir: &Path, threads: Option<usize>) -> World {
        let device = Device::cpu(threads).unwrap();
        let files = WeightFiles::open(model_dir, ValueCheck::Finite).unwrap();
        let model = Model::load(&device, ModelConfig::open(model_dir).unwrap(), &files).unwrap();
        let adapter = Adapter::load(&model, &folder.join("adapter")).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let hidden_size = model.config().hidden_size;
        let head = Inputs::of(&[hidden_size]).normal(hidden_size, 0.05);
        let mut reward_model = AdapterSet::clone(adapter.set());
        let id = ParamId(adapter.params().count());
        reward_model.set_score_head(Param::new(model.device(), id, [1, hidden_size], &head).unwrap());
        let max_length = read_json(&folder.join("meta.json"))["max_length"].as_u64().unwrap() as usize;
        let (folder, encoder) = (folder.to_owned(), model_dir.to_owned());
        World { name, folder, model, adapter, reward_model: Arc::new(reward_model), encoder, max_length }
    }

    fn set(&self, objective: &Objective) -> &Arc<AdapterSet> {
        match objective.scores() {
            Scores::LogProbs => self.adapter.set(),
            Scores::Reward => &self.reward_model,
        }
    }

    fn rows(&self, kind: RowKind, n: usize) -> Vec<EncodedRow> {
        let rows = self.model.config().vocab_size;
        let encoder = Encoder::from_model(&self.encoder, None, self.max_length, rows).unwrap();
        let root = self.folder.parent().unwrap();
        let committed = committed_goldens();
        golden_rows(if root.join("pairs.jsonl").exists() { root } else { &committed }, encoder, kind, n)
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

fn goldens_root() -> PathBuf {
    std::env::var_os("ALIGN_GOLDENS").map_or_else(committed_goldens, |folder| root().join(folder))
}

fn tiny_worlds() -> Vec<World> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(goldens_root())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model/config.json").exists() && path.join("adapter").exists())
        .collect();
    folders.sort();
    assert!(!folders.is_empty() || std::env::var_os("ALIGN_GOLDENS").is_some());
    folders.iter().map(|folder| World::open(folder, &folder.join("model"), Some(1))).collect()
}

/// Returns the loss of a golden, with the knobs of the folder's `meta.json`.
fn objective(world: &World, golden: &str) -> Objective {
    let meta = read_json(&world.folder.join("meta.json"));
    let mut knobs = vec![("beta", KnobValue::Number(number(&meta["beta"])))];
    let own: &[(&str, &str)] = match golden {
        "exo_pair" => &[("label_smoothing", "exo_pair_label_smoothing")],
        "kto" => &[("desirable_weight", "kto_desirable_weight"), ("undesirable_weight", "kto_undesirable_weight")],
        _ => &[],
    };
    knobs.extend(own.iter().map(|(knob, key)| (*knob, KnobValue::Number(number(&meta[key])))));
    Objective::new(golden, &knobs).unwrap()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_tensor_has_the_gradient_of_torch() {
    for world in tiny_worlds() {
        for golden in ["sigmoid", "exo_pair"] {
            let path = world.folder.join(format!("grads_{golden}.safetensors"));
            if !path.exists() {
                eprintln!("skipped: {} has no grads_{golden}.safetensors", world.name);
                continue;
            }
            let file = SafetensorsFile::open(&path).unwrap();
            let (_, grads) = world.gradients(&objective(&world, golden), &world.rows(RowKind::Pair, ROWS));
            let mut tensors = 0;
            for (key, param) in world.adapter.params() {
                let want = file.to_f32(file.tensor(&key).unwrap_or_else(|| panic!("{key}"))).unwrap();
                let got = grads.get(param.id()).unwrap().download().unwrap();
                let difference: Vec<f32> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
                let relative = norm(&difference) / norm(&want);
                assert!(relative <= 1e-4, "{} {golden}: {key} differs by {relative:e}", world.name);
                tensors += 1;
            }
            assert_eq!(tensors, file.tensors().len(), "{} {golden}: every tensor of the golden", world.name);
        }
    }
}

/// Checks norms, largest values and sampled entries, for goldens without whole tensors.
fn check_sampled(world: &World, golden: &str, kind: RowKind) {
    let path = world.folder.join(format!("grads_{golden}.json"));
    if !path.exists() {
        eprintln!("skipped: {} has no grads_{golden}.json", world.name);
        return;
    }
    let want = read_json(&path);
    let (outcome, grads) = world.gradients(&objective(world, golden), &world.rows(kind, ROWS));
    let loss = number(&want["loss"]);
    assert!((outcome.loss - loss).abs() <= 1e-4 * loss.abs().max(1.0), "{} {golden}: {}", world.name, outcome.loss);
    let mut squares = 0.0;
    for (key, param) in world.adapter.params() {
        let want = &want["tensors"][&key];
        let got = grads.get(param.id()).unwrap().download().unwrap();
        let l2 = number(&want["l2"]);
        squares += norm(&got).powi(2);
        let largest = got.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
        let place = format!("{} {golden}: {key}", world.name);
        assert!((norm(&got) - l2).abs() <= 1e-4 * l2, "{place}: norm {} golden {l2}", norm(&got));
        let golden_largest = number(&want["max_abs"]);
        // for a single entry, only the error bound of the whole tensor is known: 1e-4 of the norm
        assert!((largest - golden_largest).abs() <= 1e-4 * l2, "{place}: largest {largest} golden {golden_largest}");
        for (index, value) in numbers(&want["index"]).iter().zip(numbers(&want["value"])) {
            let got = f64::from(got[*index as usize]);
            assert!((got - value).abs() <= 1e-4 * l2, "{place}[{index}]: {got} golden {value}");
        }
    }
    let global = number(&want["global_l2"]);
    assert!((squares.sqrt() - global).abs() <= 1e-4 * global, "{} {golden}: {} {global}", world.name, squares.sqrt());
}

#[test]
fn sampled_gradients_are_those_of_torch() {
    for world in tiny_worlds() {
        check_sampled(&world, "sigmoid", RowKind::Pair);
        check_sampled(&world, "exo_pair", RowKind::Pair);
        check_sampled(&world, "kto", RowKind::Labelled);
    }
}

#[test]
fn smollm2_has_the_gradients_of_torch() {
    let Some(dir) = std::env::var_os("ALIGN_SMOLLM2") else {
        eprintln!("skipped: smollm2-135m, ALIGN_SMOLLM2 does not name its directory");
        return;
    };
    let world = World::open(&goldens_root().join("smollm2-135m"), Path::new(&dir), None);
    check_sampled(&world, "sigmoid", RowKind::Pair);
    check_sampled(&world, "exo_pair", RowKind::Pair);
    check_sampled(&world, "kto", RowKind::Labelled);
}

/// For every loss, compares the derivative of a whole model's loss along a direction in all parameters with the difference
/// quotient.
///
/// The loss is summed from f32 log-probs of some hundred tokens, each with an error of about 1e-5. With a step that moves the
/// loss by about 1e-2, the quotient is exact to about 1 %.
#[test]
fn every_loss_has_the_gradient_of_its_value() {
    let folder = committed_goldens().join("tiny-llama");
    let world = World::open(&folder, &folder.join("model"), Some(1));
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
