//! Numbers that must be equal: bit for bit if all sums run in the same order, otherwise within the rounding of the sums whose order
//! differs.

use crate::align::{align, committed_goldens, golden_model, read_lines};
use crate::golden_rows::{golden_rows, with_numbers};
use align_data::{EncodedRow, Encoder, Mismatch, RowKind};
use align_engine::adapters::{AdapterSet, Adapters, LowRank};
use align_engine::autograd::{Mode, ParamGrads};
use align_engine::model::{Model, ModelConfig};
use align_engine::param::{Param, ParamId};
use align_engine::pass::Dropout;
use align_engine::weights::{Dtype, SafetensorsWriter, TensorSpec, ValueCheck, WeightFiles};
use align_kernels::case::Inputs;
use align_kernels::{Device, Precision};
use align_lora::objective::{History, KnobValue, LOSSES, Objective, Scores};
use align_lora::train::{Batch, Branch, Donors, Forest, Outcome, Role, Scorers, Scoring, Tree};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const MAX_LENGTH: usize = 256;
const DROPOUT: Dropout = Dropout { p: 0.3, seed: 1, step: 2 };

/// Families in which the equalities could break differently: plain, window and q/k norm, soft-caps, fused with longrope.
const MODELS: [&str; 4] = ["tiny-llama", "tiny-gemma3", "tiny-gemma2", "tiny-phi3"];

fn load(dir: &Path) -> Model {
    load_with(dir, 1)
}

fn load_with(dir: &Path, threads: usize) -> Model {
    load_on(&Device::cpu(Some(threads)).unwrap(), dir)
}

/// Loads a model to a device.
pub(crate) fn load_on(device: &Device, dir: &Path) -> Model {
    let files = WeightFiles::open(dir, ValueCheck::Finite).unwrap();
    Model::load(device, ModelConfig::open(dir).unwrap(), &files).unwrap()
}

/// Makes an adapter of rank 4 on every linear layer. `b` scales its B matrices; with 0 it is a fresh adapter.
pub(crate) fn adapter(model: &Model, b: f32) -> Arc<AdapterSet> {
    let mut set = AdapterSet::new(model.linears().len());
    for linear in model.linears() {
        let param = |id: usize, shape: [usize; 2], scale: f32| {
            let values = Inputs::of(&[linear.id.0, id]).normal(shape[0] * shape[1], scale);
            Param::new(model.device(), ParamId(2 * linear.id.0 + id), shape, &values).unwrap()
        };
        let a = 1.0 / (linear.in_features as f32).sqrt();
        let lora_a = param(0, [4, linear.in_features], a);
        set.insert(linear.id, LowRank { lora_a, lora_b: param(1, [linear.out_features, 4], b), scaling: 2.0 });
    }
    Arc::new(set)
}

/// Copies `adapter` and adds the score head of a reward model.
fn with_head(model: &Model, adapter: &AdapterSet) -> Arc<AdapterSet> {
    let hidden_size = model.config().hidden_size;
    let values = Inputs::of(&[hidden_size]).normal(hidden_size, 0.05);
    let id = ParamId(2 * model.linears().len());
    let mut set = adapter.clone();
    set.set_score_head(Param::new(model.device(), id, [1, hidden_size], &values).unwrap());
    Arc::new(set)
}

/// Makes the scoring that an objective needs. For the loss of a reward model, the adapter gets a score head.
pub(crate) fn scoring_of<'m>(objective: &Objective, model: &'m Model, adapter: &Arc<AdapterSet>) -> Scoring<'m> {
    let policy = match objective.scores() {
        Scores::LogProbs => adapter.clone(),
        Scores::Reward => with_head(model, adapter),
    };
    let adapters = Adapters { policy: Some(policy), reference: None };
    let scorers = Scorers::of(objective, model);
    Scoring { adapters, scorers, extras: objective.weighting(), ..scoring(model, adapter) }
}

/// Returns the first rows of the goldens' data, of the kind that a loss reads.
fn rows(model: &Model, dir: &Path, kind: RowKind, n: usize) -> Vec<EncodedRow> {
    rows_of(model, dir, kind, n, MAX_LENGTH)
}

/// Returns the same rows as [`rows`], but cut to `max_length` tokens.
fn rows_of(model: &Model, dir: &Path, kind: RowKind, n: usize, max_length: usize) -> Vec<EncodedRow> {
    let encoder = Encoder::from_model(dir, None, max_length, model.config().vocab_size).unwrap();
    golden_rows(&committed_goldens(), encoder, kind, n)
}

fn scoring<'m>(model: &'m Model, adapter: &Arc<AdapterSet>) -> Scoring<'m> {
    Scoring {
        model,
        adapters: Adapters { policy: Some(adapter.clone()), reference: None },
        scorers: Scorers::PolicyAndReference,
        precision: Precision::F32,
        logp_temperature: 1.0,
        extras: false,
        cache: None,
    }
}

fn tree(row: &EncodedRow) -> Tree<'_> {
    let branches = row.answers.iter().map(|answer| Branch::of(answer, Role::Gradient)).collect();
    Tree { prompt: &row.prompt, branches }
}

/// Returns the bits of the log-probs of every answer's tokens, policy first, then reference.
fn bits(scoring: &Scoring<'_>, trees: &[Tree<'_>]) -> Vec<[Vec<u32>; 2]> {
    let forward = scoring.forward(trees, Mode::Inference, None, 0).unwrap();
    let of = |range: &std::ops::Range<usize>| forward.tokens(range).iter().map(|logp| logp.to_bits()).collect();
    forward.answers().iter().map(|scored| [of(&scored.policy), of(scored.reference.as_ref().unwrap())]).collect()
}

/// Computes loss and gradients of a batch, the gradients by parameter.
pub(crate) fn gradients(
    scoring: &Scoring<'_>,
    objective: &Objective,
    rows: &[EncodedRow],
    micro_batch_tokens: usize,
    layers_kept: usize,
    dropout: Option<Dropout>,
) -> (Outcome, BTreeMap<ParamId, Vec<f32>>) {
    let batch = batch(objective, rows, micro_batch_tokens);
    let mut grads = ParamGrads::default();
    let outcome = batch.gradients(scoring, dropout, &|_, _| Ok(Some(layers_kept)), &mut grads).unwrap();
    (outcome, grads.iter().map(|(id, grad)| (id, grad.download().unwrap())).collect())
}

/// Returns the loss of a batch without gradients.
pub(crate) fn evaluated(scoring: &Scoring<'_>, objective: &Objective, rows: &[EncodedRow]) -> f64 {
    batch(objective, rows, 1 << 20).evaluate(scoring).unwrap().loss
}

fn batch<'a>(objective: &'a Objective, rows: &'a [EncodedRow], micro_batch_tokens: usize) -> Batch<'a> {
    Batch {
        objective,
        rows,
        max_length: MAX_LENGTH,
        micro_batch_tokens,
        step: 1,
        history: History::default(),
        donors: Donors::Batch(Mismatch::Previous),
    }
}

fn to_bits(grads: &BTreeMap<ParamId, Vec<f32>>) -> Vec<u32> {
    grads.values().flatten().map(|x| x.to_bits()).collect()
}

#[test]
fn recomputed_is_kept() {
    for name in MODELS {
        let model = load_with(&golden_model(name), 2);
        let rows = rows(&model, &golden_model(name), RowKind::Pair, 3);
        assert_recomputed_is_kept(name, &model, &rows);
    }
}

/// Checks that loss and gradients of these pairs do not depend on how many layers are kept for the backward pass.
pub(crate) fn assert_recomputed_is_kept(name: &str, model: &Model, rows: &[EncodedRow]) {
    let scoring = scoring(model, &adapter(model, 0.02));
    let objective = Objective::new("exo_pair", &[]).unwrap();
    for dropout in [None, Some(DROPOUT)] {
        let (kept_loss, kept) = gradients(&scoring, &objective, rows, 1 << 20, usize::MAX, dropout);
        for layers_kept in [0, 1, 3] {
            let (loss, grads) = gradients(&scoring, &objective, rows, 1 << 20, layers_kept, dropout);
            assert_eq!(loss.loss.to_bits(), kept_loss.loss.to_bits(), "{name}, {layers_kept} layers kept");
            assert_eq!(to_bits(&grads), to_bits(&kept), "{name}, {layers_kept} layers kept");
        }
    }
}

/// Reading weights ahead changes no number, whether layers are kept or recomputed.
#[test]
fn read_ahead_changes_no_bit() {
    let dir = golden_model("tiny-llama");
    let objective = Objective::new("exo_pair", &[]).unwrap();
    let run = |free_bytes: u64| {
        let files = WeightFiles::open(&dir, ValueCheck::Finite).unwrap();
        let device = Device::cpu(Some(1)).unwrap();
        let model = Model::load_beside(&device, ModelConfig::open(&dir).unwrap(), &files, free_bytes).unwrap();
        let (adapter, rows) = (adapter(&model, 0.02), rows(&model, &dir, RowKind::Pair, 3));
        let scoring = scoring(&model, &adapter);
        [0, 2, usize::MAX].map(|kept| to_bits(&gradients(&scoring, &objective, &rows, 1 << 20, kept, None).1))
    };
    assert_eq!(run(0), run(u64::MAX));
}

#[test]
fn packed_is_alone() {
    for name in MODELS {
        let model = load_with(&golden_model(name), 2);
        assert_packed_is_alone(name, &model, &rows(&model, &golden_model(name), RowKind::Pair, 5));
    }
}

/// Checks that the log-probs of a pair do not depend on the other pairs of its pass.
pub(crate) fn assert_packed_is_alone(name: &str, model: &Model, rows: &[EncodedRow]) {
    let scoring = scoring(model, &adapter(model, 0.02));
    let trees: Vec<Tree<'_>> = rows.iter().map(tree).collect();
    let packed = bits(&scoring, &trees);
    for (i, tree) in trees.iter().enumerate() {
        let alone = bits(&scoring, std::slice::from_ref(tree));
        assert_eq!(packed[2 * i..2 * i + 2], alone, "{name}: row {i}");
    }
}

#[test]
fn shared_prefix_is_separate() {
    for name in MODELS {
        let model = load_with(&golden_model(name), 2);
        assert_shared_prefix_is_separate(name, &model, &rows(&model, &golden_model(name), RowKind::Pair, 4));
    }
}

/// Checks that the log-probs of an answer do not depend on whether another answer shares its prompt.
pub(crate) fn assert_shared_prefix_is_separate(name: &str, model: &Model, rows: &[EncodedRow]) {
    let scoring = scoring(model, &adapter(model, 0.02));
    for (i, row) in rows.iter().enumerate() {
        let shared = tree(row);
        let apart: Vec<Tree<'_>> =
            shared.branches.iter().map(|&branch| Tree { prompt: &row.prompt, branches: vec![branch] }).collect();
        assert_eq!(bits(&scoring, std::slice::from_ref(&shared)), bits(&scoring, &apart), "{name}: row {i}");
    }
}

#[test]
fn rewards_in_company_are_rewards_alone() {
    for name in MODELS {
        let model = load(&golden_model(name));
        let rows = rows(&model, &golden_model(name), RowKind::Pair, 4);
        for precision in [Precision::F32, Precision::Bf16] {
            assert_rewards_are_alone(name, &model, &rows, precision);
        }
    }
}

/// Checks that an answer's reward depends neither on the rest of the pass nor on whether its prompt is shared, and that kept layers
/// change no bit of the gradient.
pub(crate) fn assert_rewards_are_alone(name: &str, model: &Model, rows: &[EncodedRow], precision: Precision) {
    let objective = Objective::new("rm_bt", &[]).unwrap();
    let scoring = Scoring { precision, ..scoring_of(&objective, model, &adapter(model, 0.02)) };
    let rewards = |trees: &[Tree<'_>]| -> Vec<u64> {
        let forward = scoring.forward(trees, Mode::Inference, None, 0).unwrap();
        forward.answers().iter().map(|scored| forward.sum(&scored.policy).to_bits()).collect()
    };
    let packed = rewards(&rows.iter().map(tree).collect::<Vec<_>>());
    let branches = |row| tree(row).branches.into_iter();
    let alone =
        rows.iter().flat_map(|row| branches(row).map(|branch| Tree { prompt: &row.prompt, branches: vec![branch] }));
    assert_eq!(packed, alone.flat_map(|tree| rewards(&[tree])).collect::<Vec<u64>>(), "{name}, {precision:?}");
    let grads = |kept| to_bits(&gradients(&scoring, &objective, rows, 1 << 20, kept, Some(DROPOUT)).1);
    assert_eq!(grads(0), grads(usize::MAX), "{name}, {precision:?}");
}

/// Micro-batches change the order of one sum: that of the adapters' gradients over rows. Its terms are f32 products of n rows,
/// so the two orders differ by at most about sqrt(n) * 2^-24 of the terms' size: 1e-4 of the norm leaves room for cancellation.
/// A dropout mask belongs to its token, also in KTO's mismatched answers, so dropout does not change this.
#[test]
fn a_batch_is_its_micro_batches() {
    let dir = golden_model("tiny-llama");
    let model = load(&dir);
    let adapter = adapter(&model, 0.02);
    let texts = [("eta", KnobValue::Number(0.5))];
    let mixed = ["mpo", "rpo", "wpo", "ld_dpo"];
    let losses = LOSSES.iter().map(|loss| loss.name).chain(mixed).map(|name| (name, &[][..]));
    let losses = losses.chain([("max_po", &texts[..])]);
    // 96 tokens leave at least a few tokens of every answer
    let rows = |kind, n| rows_of(&model, &dir, kind, n, 96);
    for (name, knobs, dropout) in losses.flat_map(|(name, knobs)| [(name, knobs, None), (name, knobs, Some(DROPOUT))]) {
        let objective = Objective::new(name, knobs).unwrap();
        let mut batch = with_numbers(rows(objective.data(), 6));
        if objective.reference_data() {
            batch.extend(rows(RowKind::Sequence, 4));
        }
        let scoring = scoring_of(&objective, &model, &adapter);
        let (whole, want) = gradients(&scoring, &objective, &batch, 1 << 20, usize::MAX, dropout);
        assert_eq!(whole.micro_batches, 1);
        for budget in [1, 300] {
            let (parts, got) = gradients(&scoring, &objective, &batch, budget, usize::MAX, dropout);
            assert!(parts.micro_batches > 1, "{}: a budget of {budget} splits the batch", name);
            let error = (parts.loss - whole.loss).abs();
            assert!(error <= 1e-12 * whole.loss.abs().max(1.0), "{}: loss {} and {}", name, parts.loss, whole.loss);
            same_report(name, &parts, &whole);
            for (id, want) in &want {
                let norm = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let pairs = got[id].iter().zip(want);
                let distance = pairs.map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>().sqrt();
                assert!(distance <= 1e-4 * norm, "{}: {id:?} differs by {distance:e} of {norm:e}", name);
            }
        }
    }
}

/// Compares everything that a step reports. Counts must be equal; means may differ by the order of their f64 sums.
fn same_report(name: &str, parts: &Outcome, whole: &Outcome) {
    let counts = |outcome: &Outcome| [outcome.saturated, outcome.clipped, outcome.undecided];
    assert_eq!(counts(parts), counts(whole), "{name}");
    let means = |outcome: &Outcome| {
        let means = outcome.preferences.means();
        [
            means.rewards_chosen,
            means.rewards_rejected,
            means.rewards_accuracies,
            means.rewards_margins,
            means.logps_chosen,
            means.logps_rejected,
            means.kl,
            outcome.preferences.logps_accuracies(),
        ]
    };
    for (part, whole) in means(parts).into_iter().zip(means(whole)) {
        assert_eq!(part.is_some(), whole.is_some(), "{name}");
        let (part, whole) = (part.unwrap_or(0.0), whole.unwrap_or(0.0));
        assert!((part - whole).abs() <= 1e-12 * whole.abs().max(1.0), "{name}: {part} and {whole}");
    }
}

/// If all answers are scored before the first backward pass, the following passes have no reference rows, and their gradients
/// equal those of passes with reference rows.
#[test]
fn what_the_reference_has_said_is_not_computed_again() {
    let dir = golden_model("tiny-llama");
    let model = load(&dir);
    let adapter = adapter(&model, 0.02);
    for (name, budget) in [("kto_pair", 300), ("aot_pair", 300), ("exo_rw", 1)] {
        let objective = Objective::new(name, &[]).unwrap();
        let rows = rows(&model, &dir, objective.data(), 6);
        let scoring = scoring_of(&objective, &model, &adapter);
        let batch = batch(&objective, &rows, budget);
        let reference_rows = std::cell::RefCell::new(Vec::new());
        let mut grads = ParamGrads::default();
        let kept = |forest: &Forest, _| {
            reference_rows.borrow_mut().push(forest.plan.reference);
            Ok(Some(usize::MAX))
        };
        batch.gradients(&scoring, None, &kept, &mut grads).unwrap();
        let reference_rows = reference_rows.into_inner();
        assert!(reference_rows.len() > 1, "{name}: the budget splits the batch");
        assert!(reference_rows.iter().all(|rows| *rows == 0), "{name}: {reference_rows:?}");

        let trees: Vec<Tree<'_>> = rows.iter().map(tree).collect();
        let [with, without] = [Scorers::PolicyAndReference, Scorers::Policy].map(|scorers| {
            let scoring = Scoring { scorers, ..scoring.clone() };
            let forward = scoring.forward(&trees, Mode::Record, None, usize::MAX).unwrap();
            let ranges: Vec<_> = forward.answers().iter().map(|scored| scored.policy.clone()).collect();
            let derivatives = ranges.into_iter().enumerate().map(|(i, range)| (range, 0.1 * i as f64 - 0.3));
            let mut grads = ParamGrads::default();
            forward.backward(derivatives, &mut grads).unwrap();
            grads.iter().map(|(id, grad)| (id, grad.download().unwrap())).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(to_bits(&with), to_bits(&without), "{name}");
    }
}

#[test]
fn a_fresh_adapter_is_the_reference() {
    for name in MODELS {
        let model = load(&golden_model(name));
        assert_fresh_adapter_is_reference(name, &model, &rows(&model, &golden_model(name), RowKind::Pair, 4));
    }
}

/// Checks that the loss of `dpo` is exactly log 2 if the policy has a fresh adapter.
pub(crate) fn assert_fresh_adapter_is_reference(name: &str, model: &Model, rows: &[EncodedRow]) {
    let objective = Objective::new("dpo", &[]).unwrap();
    let (outcome, _) = gradients(&scoring(model, &adapter(model, 0.0)), &objective, rows, 1 << 20, 0, None);
    let means = outcome.preferences.means();
    assert_eq!(outcome.loss, std::f64::consts::LN_2, "{name}");
    assert_eq!((means.rewards_margins, means.rewards_accuracies), (Some(0.0), Some(0.0)), "{name}");
}

#[test]
fn one_thread_is_two() {
    for name in MODELS {
        let dir = golden_model(name);
        let run = |threads: usize| {
            let model = load_with(&dir, threads);
            let adapter = adapter(&model, 0.02);
            let rows = rows(&model, &dir, RowKind::Pair, 3);
            let objective = Objective::new("ipo", &[]).unwrap();
            let (outcome, grads) = gradients(&scoring(&model, &adapter), &objective, &rows, 1 << 20, 2, None);
            (outcome.loss.to_bits(), to_bits(&grads))
        };
        let one = run(1);
        assert!(one == run(2), "{name}: two threads");
        assert!(one == run(3), "{name}: three threads");
    }
}

/// Returns the metrics without `tokens_per_second`, the only column that depends on time.
fn metrics(output: &Path) -> Vec<serde_json::Value> {
    let mut lines = read_lines(&output.join("metrics.jsonl"));
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("tokens_per_second");
    }
    lines
}

#[test]
fn same_seed_twice_gives_the_same_bits_and_another_seed_others() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (golden_model("tiny-qwen3"), committed_goldens().join("kto.jsonl"));
    let train = |name: &str, seed: &str, threads: &str| {
        let output = folder.path().join(name);
        let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
        let arguments = [
            "train",
            "--model",
            model,
            "--data",
            data,
            "--loss",
            "kto",
            "--max-length",
            "128",
            "--allow-drops",
            "--max-steps",
            "4",
            "--lora-dropout",
            "0.1",
            "--learning-rate",
            "1e-3",
            "--seed",
            seed,
            "--threads",
            threads,
            "--output",
            output.to_str().unwrap(),
        ];
        align(&arguments).ok();
        (std::fs::read(output.join("adapter_model.safetensors")).unwrap(), metrics(&output))
    };
    let first = train("first", "7", "1");
    assert!(first == train("again", "7", "2"), "the same seed, on another number of threads");
    assert!(first.0 != train("other", "8", "1").0, "another seed");
}

/// Writes the tensors of a model directory in `n` shards.
fn reshard(from: &Path, to: &Path, n: usize) {
    let files = WeightFiles::open(from, ValueCheck::Skip).unwrap();
    let tensors: Vec<_> = files.tensors().collect();
    let mut weight_map = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(n)).enumerate() {
        let file =
            if n == 1 { "model.safetensors".into() } else { format!("model-{:05}-of-{n:05}.safetensors", i + 1) };
        let specs: Vec<TensorSpec> = part
            .iter()
            .map(|(t, _)| TensorSpec { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone() })
            .collect();
        let mut writer = SafetensorsWriter::create(&to.join(&file), &BTreeMap::new(), &specs).unwrap();
        for (tensor, shard) in part {
            writer.write(&tensor.name, shard.data(tensor)).unwrap();
            weight_map.insert(tensor.name.clone(), file.clone().into());
        }
        writer.finish().unwrap();
    }
    if n > 1 {
        let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
        std::fs::write(to.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

/// If the weights of the final norm are halved, every logit is halved, to the last bit.
#[test]
fn log_probs_at_a_temperature_of_two_are_those_of_half_the_logits() {
    let from = golden_model("tiny-llama");
    let (whole, half) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    widen(&from, whole.path(), |_, x| x);
    widen(&from, half.path(), |name, x| if name == "model.norm.weight" { x / 2.0 } else { x });
    let score = |dir: &Path, logp_temperature: f32| {
        let model = load(dir);
        let (adapter, rows) = (adapter(&model, 0.02), rows(&model, &from, RowKind::Pair, 3));
        let objective = Objective::new("wpo", &[]).unwrap();
        [Precision::F32, Precision::Bf16].map(|precision| {
            let scoring = Scoring { precision, logp_temperature, ..scoring_of(&objective, &model, &adapter) };
            let (outcome, grads) = gradients(&scoring, &objective, &rows, 1 << 20, 0, None);
            (bits(&scoring, &rows.iter().map(tree).collect::<Vec<_>>()), outcome.loss.to_bits(), to_bits(&grads))
        })
    };
    assert!(score(whole.path(), 2.0) == score(half.path(), 1.0));
    assert!(score(whole.path(), 2.0) != score(whole.path(), 1.0));
}

#[test]
fn three_shards_are_one_file() {
    let from = golden_model("tiny-qwen3");
    let scored = |n: usize| {
        let folder = tempfile::tempdir().unwrap();
        reshard(&from, folder.path(), n);
        let model = load(folder.path());
        let (adapter, rows) = (adapter(&model, 0.02), rows(&model, folder.path(), RowKind::Pair, 2));
        bits(&scoring(&model, &adapter), &rows.iter().map(tree).collect::<Vec<_>>())
    };
    assert_eq!(scored(1), scored(3));
}

/// Copies a model directory with its weights in f32. `change` gets a tensor's name and an old value and returns the new value.
fn widen(from: &Path, to: &Path, change: impl Fn(&str, f32) -> f32) {
    reshard(from, to, 1);
    let files = WeightFiles::open(from, ValueCheck::Skip).unwrap();
    let tensors: Vec<_> = files.tensors().collect();
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(t, _)| TensorSpec { name: t.name.clone(), dtype: Dtype::F32, shape: t.shape.clone() })
        .collect();
    let mut writer = SafetensorsWriter::create(&to.join("model.safetensors"), &BTreeMap::new(), &specs).unwrap();
    for (tensor, shard) in tensors {
        let changed = shard.to_f32(tensor).unwrap().into_iter().map(|x| change(&tensor.name, x));
        let bytes: Vec<u8> = changed.flat_map(f32::to_le_bytes).collect();
        writer.write(&tensor.name, &bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Returns the log-probs of all scored tokens of the goldens' pairs, from `score`.
fn token_logps(model: &Path, adapter: Option<&Path>) -> Vec<f64> {
    let rows = committed_goldens().join("pairs.jsonl");
    let (model, rows) = (model.to_str().unwrap(), rows.to_str().unwrap());
    let common = [
        "score", "--precision", "f32", "--model", model, "--data", rows, "--json", "--per-token", "--max-length", "128",
    ];
    let adapter = adapter.map_or(Vec::new(), |dir| vec!["--adapter", dir.to_str().unwrap()]);
    let run = align(&[&common[..], &adapter].concat()).ok();
    let logps = |row: &serde_json::Value| -> Vec<f64> {
        let sides = ["chosen", "rejected"].into_iter().filter_map(|side| row.get(side));
        sides.flat_map(|side| crate::align::numbers(&side["token_logps"])).collect()
    };
    run.json_lines().iter().flat_map(logps).collect()
}

/// Merged into f32 weights, the model is base + adapter within the noise of f32. Merged into bf16 weights, it has the same sums
/// rounded once, bit for bit. So a bf16 merge differs from base + adapter only by the rounding of W.
#[test]
fn merged_is_adapted() {
    for name in ["tiny-llama", "tiny-phi3", "tiny-gemma3"] {
        let folder = tempfile::tempdir().unwrap();
        let at = |part: &str| folder.path().join(part);
        let adapter = committed_goldens().join(name).join("adapter");
        std::fs::create_dir(at("wide")).unwrap();
        widen(&golden_model(name), &at("wide"), |_, x| x);
        for (base, merged) in [(golden_model(name), at("merged")), (at("wide"), at("wide-merged"))] {
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            let (base, adapter, merged) = (text(&base), text(&adapter), text(&merged));
            align(&["merge", "--model", &base, "--adapter", &adapter, "--output", &merged]).ok();
        }
        let adapted = token_logps(&at("wide"), Some(&adapter));
        let merged = token_logps(&at("wide-merged"), None);
        let largest = adapted.iter().zip(&merged).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        // the noise of these models in f32 is 1e-4 a token (the goldens' tolerance), so two computations differ by at most twice
        // that
        assert!(largest <= 2e-4, "{name}: merged and adapted differ by {largest} nats");
        let effect = adapted.iter().zip(token_logps(&at("wide"), None)).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(effect > 0.1, "{name}: the adapter changes log-probs by {effect} nats at most");

        let open = |dir: &Path| WeightFiles::open(dir, ValueCheck::Skip).unwrap();
        let (rounded, exact) = (open(&at("merged")), open(&at("wide-merged")));
        let exact: BTreeMap<&str, Vec<f32>> =
            exact.tensors().map(|(t, shard)| (t.name.as_str(), shard.to_f32(t).unwrap())).collect();
        for (tensor, shard) in rounded.tensors() {
            assert_eq!(tensor.dtype, Dtype::BF16, "{name}: {}", tensor.name);
            let want: Vec<f32> =
                exact[tensor.name.as_str()].iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
            assert!(shard.to_f32(tensor).unwrap() == want, "{name}: {} is not the sum rounded once", tensor.name);
        }
    }
}
