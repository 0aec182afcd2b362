//! Measures a training step on a real batch, and the phases of such a step. The step is one of DPO with LoRA of rank 16 on all
//! linear layers. It has four pairs, and is measured in f32 and in bf16.
//!
//! It runs on the small golden model. If `ALIGN_SMOLLM2` names the directory of a larger model, it also runs on that one, with
//! pairs of `tests/data/pref_train.jsonl`. Only operations that the step needs are counted: a value that is computed twice to
//! save memory counts once. So the printed share of the ceiling is the share that useful work reaches.

use crate::ceiling::Ceiling;
use crate::measure::Samples;
use crate::models::{self, BenchModel};
use crate::report::{Rate, Report, Row};
use align_data::{Dataset, EncodedRow, Encoder, OnBadRow, RowKind, Shuffle};
use align_engine::adapters::{AdapterSet, Adapters};
use align_engine::autograd::{Mode, ParamGrads};
use align_engine::model::{Model, ModelConfig};
use align_engine::param::Param;
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::rng::Key;
use align_kernels::{Buffer, Device, Indices, KernelError, Precision, WeightSlice, token_logps};
use align_lora::objective::Objective;
use align_lora::optim::{Optimizer, OptimizerKind, ScheduleKind, Warmup, global_norm};
use align_lora::train::{Branch, Forest, Role, Scorers, Scoring, TrainOptions, Trainer, Tree};
use half::bf16;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAIRS: usize = 4;
const MAX_LENGTH: usize = 512;
const MICRO_BATCH_TOKENS: usize = 4096;
/// Number of batches to choose from. The one of median length is timed.
const BATCHES: usize = 15;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures the steps that `wanted` selects by name.
pub(crate) fn run(
    device: &Device,
    rounds: usize,
    wanted: &(dyn Fn(&str) -> bool + Sync),
    report: &mut Report,
) -> Result<(), Error> {
    for BenchModel { name, dir: model, data } in models::all() {
        if wanted(&format!("train_step {name}")) {
            for precision in [Precision::F32, Precision::Bf16] {
                // a new device, so that the memory report is about this step alone
                let device = Device::cpu(Some(device.threads()))?;
                device.install(|| Step::open(&device, &name, &model, &data, precision)?.measure(rounds, report))?;
            }
        }
        if wanted(&format!("train_step.threads {name}")) && device.threads() > 1 {
            for precision in [Precision::F32, Precision::Bf16] {
                threads(device, &name, &model, &data, precision, rounds, report)?;
            }
        }
    }
    Ok(())
}

/// Times the step on all threads and on one, in turns.
fn threads(
    device: &Device,
    name: &str,
    model: &Path,
    data: &Path,
    precision: Precision,
    rounds: usize,
    report: &mut Report,
) -> Result<(), Error> {
    let devices = [device.clone(), Device::cpu(Some(1))?];
    let steps = devices.each_ref().map(|device| device.install(|| Step::open(device, name, model, data, precision)));
    let [all, one] = steps;
    let steps = [all?, one?];
    let mut trainers = [steps[0].trainer()?, steps[1].trainer()?];
    let mut ratios = Samples::default();
    // the first round warms memory and threads
    for round in 0..=rounds {
        let mut seconds = [0.0; 2];
        for ((step, trainer), seconds) in steps.iter().zip(&mut trainers).zip(&mut seconds) {
            let started = Instant::now();
            step.device.install(|| trainer.step(&step.rows, 1))?;
            step.device.synchronize()?;
            *seconds = started.elapsed().as_secs_f64();
        }
        if round > 0 {
            ratios.push(seconds[1] / seconds[0]);
        }
    }
    report.threads(&steps[0].name, device.threads(), &ratios);
    Ok(())
}

/// A model with an adapter, and a batch.
struct Step {
    name: String,
    device: Device,
    model: Model,
    adapter: Arc<AdapterSet>,
    data: Dataset,
    /// Numbers of the batch's rows in `data`. `rows` are the same rows, encoded.
    batch: Vec<u32>,
    rows: Vec<EncodedRow>,
    precision: Precision,
}

impl Step {
    fn open(device: &Device, name: &str, model_dir: &Path, data: &Path, precision: Precision) -> Result<Step, Error> {
        let files = WeightFiles::open(model_dir, ValueCheck::Finite)?;
        let model = Model::load(device, ModelConfig::open(model_dir)?, &files)?;
        let encoder = Encoder::from_model(model_dir, None, MAX_LENGTH, model.config().vocab_size)?;
        let data = Dataset::open(&[data.to_owned()], encoder, RowKind::Pair, OnBadRow::Skip)?;
        let order = data.order(Shuffle::Off, 0);
        let mut batches: Vec<&[u32]> = order.chunks_exact(PAIRS).take(BATCHES).collect();
        batches.sort_by_key(|batch| batch.iter().map(|&row| data.lengths(row as usize).tree()).sum::<usize>());
        let batch = batches[batches.len() / 2].to_vec();
        let rows = data.rows(&batch)?;
        let adapter = Arc::new(models::adapter(device, &model)?);
        Ok(Step {
            name: format!("{name}, {precision:?}").to_lowercase(),
            device: device.clone(),
            model,
            adapter,
            data,
            batch,
            rows,
            precision,
        })
    }

    /// Measures the whole step and its phases. Prints their times and the memory in use.
    fn measure(&self, rounds: usize, report: &mut Report) -> Result<(), Error> {
        let forest = Forest::new(&self.trees(), Scorers::PolicyAndReference, |_, _| true);
        let mut phases = Phases::new(self, &forest)?;
        let work = phases.operations(&forest)?;
        phases.round()?; // memory and threads are warm from here on
        (phases.kernels, phases.steps_seconds) = (BTreeMap::new(), 0.0);
        let ceiling = Ceiling::new(&self.device)?;
        let (mut flops, mut times) = (Samples::default(), [const { Vec::new() }; PHASES.len()]);
        for _ in 0..rounds {
            flops.push(ceiling.flops(Some(self.precision)));
            for (times, seconds) in times.iter_mut().zip(phases.round()?) {
                times.push(seconds);
            }
        }
        report.kernels("train_step", &self.name, &phases.kernels, phases.steps_seconds);
        let ceiling = flops.median();
        let shape = self.shape(&forest);
        let mut step_seconds = 0.0;
        for ((phase, times), work) in PHASES.into_iter().zip(times).zip(work) {
            let mut time = Samples::default();
            times.into_iter().for_each(|seconds| time.push(seconds));
            if phase == "step" {
                step_seconds = time.median();
            }
            let name = format!("train_step.{phase}");
            report.add(&Row { name, shape: shape.clone(), time, rate: Rate::Flops { work, ceiling } });
        }
        report.speed(&self.name, PAIRS as f64 / step_seconds, self.tokens() as f64 / step_seconds);
        report.memory(&self.name, &self.device.memory());
        Ok(())
    }

    fn trainer(&self) -> Result<Trainer<'_>, Error> {
        let options = TrainOptions {
            learning_rate: 1e-6,
            schedule: ScheduleKind::Constant,
            warmup: Warmup::Steps(0),
            optimizer: OptimizerKind::default(),
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            epochs: 1,
            max_steps: None,
            max_completions: None,
            batch_size: PAIRS,
            micro_batch_tokens: MICRO_BATCH_TOKENS,
            max_length: MAX_LENGTH,
            lora_dropout: 0.0,
            seed: 0,
            shuffle: Shuffle::Off,
            eval_steps: None,
            precision: self.precision,
            logp_temperature: 1.0,
            memory: None,
        };
        Ok(Trainer::new(&self.model, self.adapter.clone(), None, Objective::new("dpo", &[])?, options)?)
    }

    fn shape(&self, forest: &Forest) -> String {
        let plan = &forest.plan;
        format!("{}, {} + {} rows, {} scored", self.name, plan.policy, plan.reference, forest.targets.len())
    }

    /// Returns the number of tokens in the batch's sequences. A prompt counts once for each of its answers.
    fn tokens(&self) -> usize {
        let answers = self.rows.iter().flat_map(|row| row.answers.iter().map(|answer| row.prompt.len() + answer.kept));
        answers.sum()
    }

    fn trees(&self) -> Vec<Tree<'_>> {
        self.rows.iter().map(tree).collect()
    }

    fn scoring(&self) -> Scoring<'_> {
        Scoring {
            model: &self.model,
            adapters: Adapters { policy: Some(self.adapter.clone()), reference: None },
            scorers: Scorers::PolicyAndReference,
            precision: self.precision,
            logp_temperature: 1.0,
            extras: false,
            cache: None,
        }
    }
}

fn tree(row: &EncodedRow) -> Tree<'_> {
    let branches = row.answers.iter().map(|answer| Branch::of(answer, Role::Gradient));
    Tree { prompt: &row.prompt, branches: branches.collect() }
}

/// The timed phases. `step` is a whole step of the trainer. `forward` and `backward` are passes over the model, head included.
/// The head is also timed by itself.
const PHASES: [&str; 6] = ["step", "forward", "backward", "optimiser", "head.forward", "head.backward"];

struct Phases<'s> {
    step: &'s Step,
    trainer: Trainer<'s>,
    optimizer: Optimizer,
    layers_kept: usize,
    head: Head,
    /// Seconds that each kernel took in all steps so far. `steps_seconds` is the time of these steps as a whole.
    kernels: BTreeMap<&'static str, f64>,
    steps_seconds: f64,
}

impl<'s> Phases<'s> {
    fn new(step: &'s Step, forest: &Forest) -> Result<Phases<'s>, Error> {
        let trainer = step.trainer()?;
        let optimizer = Optimizer::new(&step.device, &step.adapter.params(), OptimizerKind::default(), 0.0)?;
        let layers_kept = trainer.layers_kept(forest)?;
        Ok(Phases {
            step,
            trainer,
            optimizer,
            layers_kept,
            head: Head::new(&step.device, &step.model, forest, step.precision)?,
            kernels: BTreeMap::new(),
            steps_seconds: 0.0,
        })
    }

    /// Counts the operations of each phase, in the order of [`PHASES`].
    fn operations(&self, forest: &Forest) -> Result<[f64; PHASES.len()], Error> {
        let passes = self.trainer.cost(forest, self.step.model.config().num_hidden_layers)?;
        let count = self.step.device.count();
        let mut head = Head::new(&Device::Count(count.clone()), &self.step.model, forest, self.step.precision)?;
        head.forward()?;
        let head_forward = count.operations();
        head.backward()?;
        let head_backward = count.operations() - head_forward;
        let parameters: usize = self.step.adapter.params().iter().map(Param::len).sum();
        // AdamW and the sum of squares together take 15 operations per element
        let optimiser = 15.0 * parameters as f64;
        let step = passes.forward + passes.backward + optimiser;
        Ok([step, passes.forward, passes.backward, optimiser, head_forward, head_backward])
    }

    /// Runs each phase once. Returns their seconds, in the order of [`PHASES`].
    fn round(&mut self) -> Result<[f64; PHASES.len()], Error> {
        let before = self.step.device.kernel_times();
        let mut clock = Clock { device: &self.step.device, last: Instant::now() };
        self.trainer.step(&self.step.rows, 1)?;
        let step = clock.lap()?;
        for (kernel, time) in self.step.device.kernel_times() {
            let before = before.get(kernel).map_or(Duration::ZERO, |before| before.total);
            *self.kernels.entry(kernel).or_default() += (time.total - before).as_secs_f64();
        }
        self.steps_seconds += step;
        // in a run, another thread does this while a step is computed
        clock.lap()?;
        self.step.data.rows(&self.step.batch)?;
        *self.kernels.entry("data, beside the step").or_default() += clock.lap()?;

        let trees = self.step.trees();
        let scoring = self.step.scoring();
        let mut grads = ParamGrads::default();
        clock.lap()?;
        let pass = scoring.forward(&trees, Mode::Record, None, self.layers_kept)?;
        let forward = clock.lap()?;
        let derivatives: Vec<_> = pass.answers().iter().map(|answer| (answer.policy.clone(), 0.05)).collect();
        pass.backward(derivatives, &mut grads)?;
        let backward = clock.lap()?;
        global_norm(&self.step.device, &grads)?;
        self.optimizer.step(&self.step.device, &self.step.adapter.params(), &grads, 1e-6, 1.0)?;
        let optimiser = clock.lap()?;
        drop(grads);

        // inside the device's thread pool, as in a step: from outside, each call would be handed over to the pool
        let (device, head) = (self.step.device.clone(), &mut self.head);
        let [head_forward, head_backward] = device.install(|| {
            let mut clock = Clock { device: &device, last: Instant::now() };
            head.forward()?;
            let forward = clock.lap()?;
            head.backward()?;
            Ok::<_, Error>([forward, clock.lap()?])
        })?;
        Ok([step, forward, backward, optimiser, head_forward, head_backward])
    }
}

struct Clock<'a> {
    device: &'a Device,
    last: Instant,
}

impl Clock<'_> {
    /// Returns the seconds since the last lap.
    fn lap(&mut self) -> Result<f64, KernelError> {
        self.device.synchronize()?;
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        Ok(seconds)
    }
}

/// The two kernel calls of the head, forward and backward. They have the row counts of the batch, random hidden states and random
/// bf16 weights.
struct Head {
    device: Device,
    rows: usize,
    policy: usize,
    hidden_size: usize,
    vocab_size: usize,
    hidden_states: Buffer<f32>,
    lm_head: Buffer<bf16>,
    targets: Indices,
    precision: Precision,
    /// logps, lse, d_logps, d_hidden
    outputs: [Buffer<f32>; 4],
}

impl Head {
    fn new(device: &Device, model: &Model, forest: &Forest, precision: Precision) -> Result<Head, KernelError> {
        let (hidden_size, vocab_size) = (model.config().hidden_size, model.config().vocab_size);
        let (rows, policy) = (forest.targets.len(), forest.scored_with_gradient);
        let random = |place: u64, len: usize| {
            let key = Key::new(1, 0, place);
            (0..len as u64).map(move |i| key.unit(i) - 0.5)
        };
        let hidden_states: Vec<f32> = random(0, rows * hidden_size).collect();
        let lm_head: Vec<bf16> = random(1, vocab_size * hidden_size).map(bf16::from_f32).collect();
        Ok(Head {
            rows,
            policy,
            hidden_size,
            vocab_size,
            hidden_states: device.upload("bench.head", &hidden_states)?,
            lm_head: device.upload("bench.head", &lm_head)?,
            targets: device.upload_indices("bench.head", &forest.targets)?,
            precision,
            outputs: [
                device.zeros("bench.head", rows)?,
                device.zeros("bench.head", rows)?,
                device.upload("bench.head", &vec![0.05; policy])?,
                device.zeros("bench.head", policy * hidden_size)?,
            ],
            device: device.clone(),
        })
    }

    fn forward(&mut self) -> Result<(), KernelError> {
        let [logps, lse, _, _] = &mut self.outputs;
        token_logps::Forward {
            head: token_logps::Head {
                rows: self.rows,
                hidden_size: self.hidden_size,
                vocab_size: self.vocab_size,
                hidden_states: self.hidden_states.view().into(),
                lm_head: WeightSlice::Bf16(self.lm_head.view()),
                targets: self.targets.view(),
                final_logit_softcapping: None,
                temperature: 1.0,
                precision: self.precision,
            },
            logps: logps.view_mut(),
            lse: lse.view_mut(),
            extras: None,
        }
        .run(&self.device)
    }

    fn backward(&mut self) -> Result<(), KernelError> {
        let [_, lse, d_logps, d_hidden] = &mut self.outputs;
        token_logps::Backward {
            head: token_logps::Head {
                rows: self.policy,
                hidden_size: self.hidden_size,
                vocab_size: self.vocab_size,
                hidden_states: self.hidden_states.view().range(0..self.policy * self.hidden_size).into(),
                lm_head: WeightSlice::Bf16(self.lm_head.view()),
                targets: self.targets.view().range(0..self.policy),
                final_logit_softcapping: None,
                temperature: 1.0,
                precision: self.precision,
            },
            lse: lse.view().range(0..self.policy),
            d_logps: d_logps.view(),
            d_hidden: d_hidden.view_mut().into(),
        }
        .run(&self.device)
    }
}
