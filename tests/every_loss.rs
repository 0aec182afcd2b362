//! Every loss trains: twenty steps on the first two layers of the demo's model and its data of the matching kind.

use crate::align::{read_lines, root, write_lines};
use crate::watched_run;
use align_data::{Dataset, EncodedRow, Encoder, OnBadRow, RowKind, Shuffle};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::Device;
use align_lora::adapter::{Adapter, LoraConfig, Task};
use align_lora::objective::{KnobValue, LOSSES, MIXES, Objective, Scores};
use align_lora::train::{TrainOptions, Trainer};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const STEPS: u64 = 20;
const BATCH: usize = 4;
const MAX_LENGTH: usize = 128;

/// Returns a file of the demo's rows of this kind, with the columns that some losses read.
fn data(folder: &Path, kind: RowKind) -> PathBuf {
    let demo = root().join("cli/demo/data");
    match kind {
        RowKind::Pair => {
            let mut rows = read_lines(&demo.join("pairs_train.jsonl"));
            for (i, row) in rows.iter_mut().enumerate() {
                let certain = 0.75 + 0.05 * (i % 5) as f64;
                row["prob_win_chosen"] = json!(certain);
                row["prob_win_rejected"] = json!(1.0 - certain);
                row["prob_chosen_beats_rejected"] = json!(certain);
            }
            let path = folder.join("pairs.jsonl");
            write_lines(&path, &rows);
            path
        }
        RowKind::Labelled => demo.join("labelled.jsonl"),
        RowKind::Scored => demo.join("scored.jsonl"),
        // a pair is read as a sequence: its chosen answer after its prompt
        RowKind::Sequence => demo.join("pairs_train.jsonl"),
    }
}

#[test]
fn every_loss_trains() {
    let folder = tempfile::tempdir().unwrap();
    let dir = root().join("cli/demo/model");
    let device = Device::cpu(Some(1)).unwrap();
    let files = WeightFiles::open(&dir, ValueCheck::Finite).unwrap();
    // all layers are alike, and with two of them the test takes half the time
    let mut config = ModelConfig::open(&dir).unwrap();
    config.num_hidden_layers = 2;
    config.layers.truncate(2);
    let model = Model::load(&device, config, &files).unwrap();

    // the run repeats the same few rows, so the loss on them must fall
    let few = |kind: RowKind| {
        let encoder = Encoder::from_model(&dir, None, MAX_LENGTH, model.config().vocab_size).unwrap();
        let data = Dataset::open(&[data(folder.path(), kind)], encoder, kind, OnBadRow::Error).unwrap();
        data.rows(&data.order(Shuffle::Seeded(3), 0)[..2 * BATCH]).unwrap()
    };
    let mut rows: HashMap<RowKind, Vec<EncodedRow>> = HashMap::new();

    let number = KnobValue::Number;
    let presets = LOSSES.iter().flat_map(|loss| loss.presets).map(|preset| preset.name);
    let names = LOSSES.iter().map(|loss| loss.name).chain(presets).chain(MIXES.iter().map(|mix| mix.name));
    for name in names {
        let knobs: &[_] = match name {
            "cdpo" => &[("label_smoothing", number(0.1))],
            _ => &[],
        };
        let objective = Objective::new(name, knobs).unwrap();
        let kind = objective.data();
        train(name, objective, &model, rows.entry(kind).or_insert_with(|| few(kind)));
    }
}

fn train(name: &str, objective: Objective, model: &Model, rows: &[EncodedRow]) {
    let task = match objective.scores() {
        Scores::LogProbs => Task::CausalLm,
        Scores::Reward => Task::SequenceClassification,
    };
    let adapter = Adapter::fresh(model, &LoraConfig { rank: 4, task, ..LoraConfig::default() }, 5).unwrap();
    let options = TrainOptions {
        learning_rate: 1e-3,
        max_steps: Some(STEPS),
        batch_size: BATCH,
        micro_batch_tokens: 1 << 20,
        max_length: MAX_LENGTH,
        seed: 0,
        shuffle: Shuffle::Off,
        ..watched_run::options()
    };
    let values = || -> Vec<(String, Vec<f32>)> {
        adapter.params().map(|(name, param)| (name.to_string(), param.read().download().unwrap())).collect()
    };
    let before = values();
    let mut trainer = Trainer::new(model, adapter.set().clone(), None, objective, options).unwrap();
    let loss = |trainer: &Trainer<'_>| -> f64 {
        let batches = rows.chunks(BATCH).map(|batch| trainer.loss(batch).unwrap());
        batches.sum()
    };
    let first = loss(&trainer);
    for step in 0..STEPS as usize {
        let batch = &rows[step % 2 * BATCH..][..BATCH];
        let update = trainer.step(batch, STEPS).unwrap_or_else(|e| panic!("{name}, step {step}: {e}"));
        let line = update.metrics(trainer.state(), 0.0, 0.0).to_json();
        let finite = |value: &Value| value.as_f64().is_some_and(f64::is_finite);
        assert!(line.as_object().unwrap().values().all(finite), "{name}, step {step}: {line}");
    }
    let last = loss(&trainer);
    assert!(last < first, "{name}: the loss on the training rows was {first}, and is {last}");
    for ((tensor, before), (_, after)) in before.iter().zip(values()) {
        assert!(*before != after, "{name}: {tensor} has not changed");
        assert!(after.iter().all(|x| x.is_finite()), "{name}: {tensor}");
    }
}
