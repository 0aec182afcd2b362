//! What must be equal on a card, bit for bit, and how near its numbers are to the processor's.

use super::{MODELS, on_a_card, short_pairs};
use crate::align::{golden_model, lines_in};
use crate::equalities::{
    adapter, assert_fresh_adapter_is_reference, assert_packed_is_alone, assert_recomputed_is_kept,
    assert_rewards_are_alone, assert_shared_prefix_is_separate, evaluated, gradients, load_on, scoring_of,
};
use crate::golden_rows::with_numbers;
use align_data::{Answer, Dataset, EncodedRow, Encoder, OnBadRow, RowKind, Shuffle, Target};
use align_engine::model::Model;
use align_engine::param::ParamId;
use align_kernels::{Device, Precision};
use align_lora::objective::{KnobValue, LOSSES, MIXES, Objective};
use std::collections::BTreeMap;

/// Returns the short pairs, as rows of this kind. A row of scored answers has the two answers of its pair and another one.
fn rows(model: &Model, name: &str, kind: RowKind) -> Vec<EncodedRow> {
    let folder = tempfile::tempdir().unwrap();
    let read = match kind {
        RowKind::Scored => RowKind::Pair,
        other => other,
    };
    let lines = match kind {
        RowKind::Labelled => short_pairs()
            .iter()
            .enumerate()
            .map(|(i, pair)| {
                let side = if i % 2 == 0 { "chosen" } else { "rejected" };
                serde_json::json!({"prompt": pair["prompt"], "completion": pair[side], "label": i % 2 == 0})
            })
            .collect(),
        _ => short_pairs(),
    };
    let data = lines_in(folder.path(), "rows.jsonl", &lines);
    let encoder = Encoder::from_model(&golden_model(name), None, 48, model.config().vocab_size).unwrap();
    let data = Dataset::open(&[data], encoder, read, OnBadRow::Error).unwrap();
    let mut rows = data.rows(&data.order(Shuffle::Off, 0)).unwrap();
    if kind == RowKind::Scored {
        let others: Vec<Answer> = rows.iter().rev().map(|row| row.answers[0].clone()).collect();
        for (row, other) in rows.iter_mut().zip(others) {
            row.answers.push(other);
            row.target = Target::Rewards(vec![1.0, -0.5, 0.25]);
        }
    }
    rows
}

/// Runs a test on every family, each on a card of its own.
fn on_every_family(test: impl Fn(&str, &Model, &[EncodedRow])) {
    for name in MODELS {
        on_a_card(|device| {
            let model = load_on(device, &golden_model(name));
            test(name, &model, &rows(&model, name, RowKind::Pair)[..2]);
        });
    }
}

#[test]
fn recomputed_is_kept() {
    on_every_family(assert_recomputed_is_kept);
}

#[test]
fn packed_is_alone() {
    on_every_family(assert_packed_is_alone);
}

#[test]
fn shared_prefix_is_separate() {
    on_every_family(assert_shared_prefix_is_separate);
}

#[test]
fn a_fresh_adapter_is_the_reference() {
    on_every_family(assert_fresh_adapter_is_reference);
}

#[test]
fn rewards_in_company_are_rewards_alone() {
    on_every_family(|name, model, rows| assert_rewards_are_alone(name, model, rows, Precision::F32));
}

/// Loss of a batch, its loss without gradients, and the gradient of every tensor of the adapter.
struct Step {
    loss: f64,
    evaluated: f64,
    gradients: BTreeMap<ParamId, Vec<f32>>,
}

/// Computes two rows' loss and gradients on a device. `b` scales the second matrices of the adapter; with 0 it is a fresh one.
fn step(device: &Device, name: &str, objective: &Objective, b: f32) -> Step {
    let model = load_on(device, &golden_model(name));
    let rows = |kind| with_numbers(rows(&model, name, kind)[..2].to_vec());
    let mut batch = rows(objective.data());
    if objective.reference_data() {
        batch.extend(rows(RowKind::Sequence));
    }
    let scoring = scoring_of(objective, &model, &adapter(&model, b));
    let (outcome, gradients) = gradients(&scoring, objective, &batch, 1 << 20, usize::MAX, None);
    Step { loss: outcome.loss, evaluated: evaluated(&scoring, objective, &batch), gradients }
}

/// Returns the length of a vector.
fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Checks a batch on a card against the same batch on the processor: the losses to 1e-5 of their size, and the gradient of a tensor
/// to 1e-4 of its norm, which is what the goldens allow.
fn assert_step_agrees(name: &str, loss: &str, objective: &Objective, b: f32) {
    let card = on_a_card(|device| step(device, name, objective, b));
    let cpu = step(&Device::cpu(Some(1)).unwrap(), name, objective, b);
    let what = format!("{name}, {loss}, b {b}");
    for (card, cpu) in [(card.loss, cpu.loss), (card.evaluated, cpu.evaluated)] {
        assert!((card - cpu).abs() <= 1e-5 * cpu.abs(), "{what}: loss {card} on the card, {cpu} on the processor");
    }
    assert_eq!(card.gradients.len(), cpu.gradients.len(), "{what}");
    let mut moving = 0;
    for (id, cpu) in &cpu.gradients {
        let card = &card.gradients[id];
        assert_eq!(card.len(), cpu.len(), "{what}: {id:?}");
        let (distance, length) = (norm(cpu.iter().zip(card).map(|(a, b)| a - b)), norm(cpu.iter().copied()));
        assert!(distance <= 1e-4 * length, "{what}: {id:?} differs by {distance:e} of {length:e}");
        moving += usize::from(length > 0.0);
    }
    assert!(2 * moving >= cpu.gradients.len(), "{what}: {moving} tensors have a gradient");
}

#[test]
fn every_familys_gradients_are_those_of_the_processor() {
    let objective = Objective::new("dpo", &[]).unwrap();
    for (name, b) in MODELS.into_iter().flat_map(|name| [(name, 0.0), (name, 0.02)]) {
        assert_step_agrees(name, "dpo", &objective, b);
    }
}

#[test]
fn every_losss_gradients_are_those_of_the_processor() {
    let presets = LOSSES.iter().flat_map(|loss| loss.presets).map(|preset| preset.name);
    let names = LOSSES.iter().map(|loss| loss.name).chain(presets).chain(MIXES.iter().map(|mix| mix.name));
    for loss in names {
        let knobs: &[_] = match loss {
            "cdpo" => &[("label_smoothing", KnobValue::Number(0.1))],
            _ => &[],
        };
        assert_step_agrees("tiny-llama", loss, &Objective::new(loss, knobs).unwrap(), 0.0);
    }
}
