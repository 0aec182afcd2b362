//! Measures greedy generation of a batch with an adapter. One pass reads the prompts. Each later pass reads one token of each
//! sequence. A later pass reads all weights once, so its ceiling is the speed of a memory copy.

use crate::ceiling::Ceiling;
use crate::measure::Samples;
use crate::models::{self, BenchModel, RANK};
use crate::report::{Rate, Report, Row};
use align_engine::adapters::AdapterSet;
use align_engine::generate::{Request, Sampling, generate};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::rng::Key;
use align_kernels::{Device, FloatDtype, Precision, WeightSlice};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of sequences in the batch.
const BATCH: usize = 8;
/// Number of tokens in each prompt.
const PROMPT: usize = 96;
/// Number of new tokens of each sequence after its first new token.
const NEW: usize = 64;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures the batches that `wanted` selects by name.
pub(crate) fn run(
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
    let files = WeightFiles::open(dir, ValueCheck::Finite)?;
    let model = Model::load(device, ModelConfig::open(dir)?, &files)?;
    let adapter = Arc::new(models::adapter(device, &model)?);
    let bytes = bytes_read(&model, precision);
    let batch = Batch { device, model, adapter, precision };
    batch.run()?; // memory and threads are warm from here on
    let mut ceiling = Ceiling::new(device)?;
    let (mut prompts, mut tokens, mut copies) = (Samples::default(), Samples::default(), Samples::default());
    let mut kernels: BTreeMap<&'static str, f64> = BTreeMap::new();
    let mut tokens_seconds = 0.0;
    for _ in 0..rounds {
        copies.push(ceiling.bytes());
        let run = batch.run()?;
        prompts.push(run.prompts_seconds);
        tokens.push(run.tokens_seconds / NEW as f64);
        tokens_seconds += run.tokens_seconds;
        for (kernel, seconds) in run.kernels {
            *kernels.entry(kernel).or_default() += seconds;
        }
    }
    let name = format!("{name}, {precision:?}").to_lowercase();
    report.kernels("generate", &name, &kernels, tokens_seconds);
    let shape = format!("{name}, {BATCH} sequences");
    report.generation(&shape, BATCH as f64 / tokens.median(), prompts.median());
    let rate = Rate::Bytes { work: bytes as f64, ceiling: copies.median() };
    report.add(&Row { name: "generate.token".to_owned(), shape, time: tokens, rate });
    Ok(())
}

/// Returns the bytes that a pass over one token of each sequence reads: weights, adapter, and the keys and values that are cached
/// halfway through the generation. Assumes that the head has the number format of the layers. An embedding that is separate from
/// the head is not counted, because the pass reads only its rows for the tokens.
fn bytes_read(model: &Model, precision: Precision) -> usize {
    let config = model.config();
    let (mut weights, mut numbers, mut adapter) = (0, 0, 0);
    for linear in model.linears() {
        let (bytes, len) = match model.linear_weight(linear.id).view() {
            WeightSlice::F32(values) => (size_of::<f32>(), values.len()),
            WeightSlice::F16(values) => (size_of::<half::f16>(), values.len()),
            WeightSlice::Bf16(values) => (size_of::<half::bf16>(), values.len()),
        };
        (weights, numbers) = (weights + bytes * len, numbers + len);
        adapter += RANK * (linear.in_features + linear.out_features) * size_of::<f32>();
    }
    let head = config.vocab_size * config.hidden_size * weights / numbers;
    let cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
    let cache = BATCH * (PROMPT + NEW / 2) * cached * FloatDtype::from(precision).bytes();
    weights + head + adapter + cache
}

/// Prompts of random tokens, and the model that continues them.
struct Batch<'a> {
    device: &'a Device,
    model: Model,
    adapter: Arc<AdapterSet>,
    precision: Precision,
}

/// How long a batch took.
struct Run {
    /// Seconds until each sequence has its first new token.
    prompts_seconds: f64,
    /// Seconds from the first new tokens to the end.
    tokens_seconds: f64,
    /// Seconds of each kernel, after the first new tokens.
    kernels: BTreeMap<&'static str, f64>,
}

impl Batch<'_> {
    /// Continues the prompts by `1 + NEW` tokens.
    fn run(&self) -> Result<Run, Error> {
        let vocab_size = self.model.config().vocab_size as f32;
        let prompt = |sequence: usize| {
            let key = Key::new(0, 0, sequence as u64);
            (0..PROMPT).map(|at| (key.unit(at as u64) * vocab_size) as u32).collect()
        };
        let prompts: Vec<Vec<u32>> = (0..BATCH).map(prompt).collect();
        let request = Request {
            max_new_tokens: 1 + NEW,
            min_new_tokens: 1 + NEW,
            stop: Vec::new(),
            sampling: Sampling::GREEDY,
            precision: self.precision,
            first_sequence: 0,
        };
        let started = Instant::now();
        let mut first = None;
        generate(&self.model, Some(&self.adapter), &prompts, &request, |_, _| {
            first.get_or_insert_with(|| (Instant::now(), self.device.kernel_times()));
            true
        })?;
        let ended = Instant::now();
        let (first, before) = first.expect("a batch has tokens");
        let kernels = self.device.kernel_times().into_iter().map(|(kernel, time)| {
            let before = before.get(kernel).map_or(Duration::ZERO, |before| before.total);
            (kernel, (time.total - before).as_secs_f64())
        });
        Ok(Run {
            prompts_seconds: (first - started).as_secs_f64(),
            tokens_seconds: (ended - first).as_secs_f64(),
            kernels: kernels.collect(),
        })
    }
}
