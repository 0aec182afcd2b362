//! Greedy generation of a batch with an adapter: the pass over the prompts, and a token of each sequence, which reads all weights
//! once and is held against what a copy of memory reaches.

use crate::ceiling::Ceiling;
use crate::measure::Samples;
use crate::models::{self, BenchModel, RANK};
use crate::report::{Rate, Report, Row};
use align_engine::generate::{Request, Sampling, generate};
use align_engine::model::adapters::AdapterSet;
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{Checkpoint, ValueCheck};
use align_kernels::rng::Key;
use align_kernels::{Device, Precision};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sequences of the batch.
const BATCH: usize = 8;
/// Tokens of each prompt.
const PROMPT: usize = 96;
/// New tokens of each sequence behind the first.
const NEW: usize = 64;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures the batches whose name is `wanted`.
pub fn run(
    device: &Device,
    rounds: usize,
    wanted: &(dyn Fn(&str) -> bool + Sync),
    report: &mut Report,
) -> Result<(), Error> {
    for model in models::all() {
        for precision in [Precision::F32, Precision::Bf16] {
            if wanted(&format!("generate {}", model.name)) {
                let device = Device::cpu(Some(device.threads()))?;
                device.install(|| measure(&device, &model, precision, rounds, report))?;
            }
        }
    }
    Ok(())
}

fn measure(
    device: &Device,
    BenchModel { name, dir, .. }: &BenchModel,
    precision: Precision,
    rounds: usize,
    report: &mut Report,
) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(dir, ValueCheck::Finite)?;
    let model = Model::load(device, ModelConfig::open(dir)?, &checkpoint)?;
    let adapter = Arc::new(models::adapter(device, &model)?);
    let bytes = bytes_read(&model);
    let batch = Batch { device, model, adapter, precision };
    batch.seconds(NEW)?; // memory and threads are warm from here on
    let mut ceiling = Ceiling::new(device)?;
    let (mut prompts, mut tokens, mut copies) = (Samples::default(), Samples::default(), Samples::default());
    let mut kernels: BTreeMap<&'static str, f64> = BTreeMap::new();
    let mut all = 0.0;
    for _ in 0..rounds {
        copies.push(ceiling.bytes());
        let (first, kernels_of_first) = batch.seconds(0)?;
        let (whole, kernels_of_whole) = batch.seconds(NEW)?;
        prompts.push(first);
        tokens.push((whole - first) / NEW as f64);
        all += whole - first;
        for (kernel, seconds) in kernels_of_whole {
            let before = kernels_of_first.get(kernel).copied().unwrap_or_default();
            *kernels.entry(kernel).or_default() += seconds - before;
        }
    }
    let name = format!("{name}, {precision:?}").to_lowercase();
    report.kernels("generate", &name, &kernels, all);
    let shape = format!("{name}, {BATCH} sequences");
    report.generation(&shape, BATCH as f64 / tokens.median(), prompts.median());
    let rate = Rate::Bytes { work: bytes as f64, ceiling: copies.median() };
    report.add(&Row { name: "generate.token".to_owned(), shape, time: tokens, rate });
    Ok(())
}

/// Bytes of weights and adapter that a token reads. An embedding that is not the head's is looked up, not read whole.
fn bytes_read(model: &Model) -> usize {
    let config = model.config();
    let layers = model.linears().iter().map(|linear| {
        let adapter = RANK * (linear.in_features + linear.out_features) * size_of::<f32>();
        adapter + bytes(model.linear_weight(linear.id).view())
    });
    let head = config.vocab_size * config.hidden_size * size_of::<half::bf16>();
    layers.sum::<usize>() + head
}

fn bytes(weight: align_kernels::WeightSlice<'_>) -> usize {
    match weight {
        align_kernels::WeightSlice::F32(values) => values.len() * size_of::<f32>(),
        align_kernels::WeightSlice::F16(values) => values.len() * size_of::<half::f16>(),
        align_kernels::WeightSlice::Bf16(values) => values.len() * size_of::<half::bf16>(),
    }
}

/// Prompts of random tokens, and what continues them.
struct Batch<'a> {
    device: &'a Device,
    model: Model,
    adapter: Arc<AdapterSet>,
    precision: Precision,
}

impl Batch<'_> {
    /// Seconds until each sequence has one token and `more`, and those of each kernel.
    fn seconds(&self, more: usize) -> Result<(f64, BTreeMap<&'static str, f64>), Error> {
        let vocab_size = self.model.config().vocab_size as f32;
        let prompt = |sequence: usize| {
            let key = Key::new(0, 0, sequence as u64);
            (0..PROMPT).map(|at| (key.unit(at as u64) * vocab_size) as u32).collect()
        };
        let prompts: Vec<Vec<u32>> = (0..BATCH).map(prompt).collect();
        let request = Request {
            max_new_tokens: 1 + more,
            min_new_tokens: 1 + more,
            stop: Vec::new(),
            sampling: Sampling::GREEDY,
            precision: self.precision,
            first_sequence: 0,
        };
        let before = self.device.kernel_times();
        let started = Instant::now();
        generate(&self.model, Some(&self.adapter), &prompts, &request, |_, _| true)?;
        let seconds = started.elapsed().as_secs_f64();
        let kernels = self.device.kernel_times().into_iter().map(|(kernel, time)| {
            let before = before.get(kernel).map_or(Duration::ZERO, |before| before.total);
            (kernel, (time.total - before).as_secs_f64())
        });
        Ok((seconds, kernels.collect()))
    }
}
