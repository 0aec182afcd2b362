//! The training loop: epochs, batches, updates, evaluations.

use super::error::TrainError;
use super::forest::{Forest, Role, Scorers, Tree};
use super::memory::{self, BatchCut, Budget, Largest, Plan, SingleLast, TooLittle};
use super::metrics::{EvalMetrics, PreferenceSums, StepMetrics};
use super::reference_cache::{CacheCounts, ReferenceCache, SequenceKey, in_memory};
use super::reference_texts::ReferenceTexts;
use super::scoring::Scoring;
use super::step::{Batch, Outcome, describe};
use super::time::{Pace, Probe, Rates, RunPace, Work};
use crate::data::{Dataset, EncodedRow, NumberCounts, Shuffle, for_each_batch};
use crate::objective::{Coupling, History, Objective, Scores};
use crate::optim::{AdamW, Optimizer, Schedule, ScheduleKind, clip_factor, global_norm};
use align_engine::autograd::param::Param;
use align_engine::autograd::{Mode, ParamGrads, Tape};
use align_engine::model::adapters::{AdapterSet, Adapters};
use align_engine::model::{Gradients, Model};
use align_engine::rows::Dropout;
use align_kernels::Precision;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// How a run trains. The objective has its own knobs.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub learning_rate: f64,
    pub schedule: ScheduleKind,
    pub warmup_steps: u64,
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; 0 or infinite: never.
    pub max_grad_norm: f64,
    pub epochs: u64,
    /// Ends the run earlier than its epochs.
    pub max_steps: Option<u64>,
    /// Data rows of an optimiser step.
    pub batch_size: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// Limit on prompt + one answer.
    pub max_length: usize,
    /// Share of the adapters' inputs that is dropped while training.
    pub lora_dropout: f32,
    pub seed: u64,
    pub shuffle: Shuffle,
    /// Evaluate after so many steps; `None`: after each epoch.
    pub eval_steps: Option<u64>,
    pub precision: Precision,
    /// Bytes that the run may hold beside the mapped weights; `None`: [`memory::SHARE`] of what is free. It decides how many layers
    /// keep their activations and how many are recomputed: no bit of the result depends on it.
    pub memory: Option<u64>,
}

/// Where a run is: all that changes besides the adapter and the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct TrainState {
    /// Updates made.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Rows of the current epoch's order that have been used.
    pub cursor: u64,
    /// Tokens so far, the prompt counted once for each answer.
    pub num_tokens: u64,
    /// What the objective remembers.
    pub history: History,
}

/// What a run tells while it goes on. The crate prints nothing itself.
pub trait Observer {
    /// A step has ended.
    ///
    /// # Errors
    /// Any error stops the run, e.g. of writing the metrics.
    fn step(&mut self, metrics: &StepMetrics, total_steps: u64) -> Result<(), TrainError>;
    /// An evaluation has ended.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError>;
    /// An epoch has ended: a moment to keep the adapter.
    ///
    /// # Errors
    /// As [`Observer::step`].
    fn epoch(&mut self, epoch: u64) -> Result<(), TrainError>;
    /// Something that the user should know, once.
    fn note(&mut self, text: String);
}

/// Parts of the limit on memory of which the cached log-probs of the reference may take one, where no file takes them.
const CACHE_SHARE: u64 = 16;
/// Rows whose answers are looked up before the plan says that all are cached.
const ROWS_LOOKED_UP: usize = 64;
/// A probe of the machine that takes less is made again.
const PROBE_SECONDS: f64 = 20.0;

/// A run.
pub struct Trainer<'m> {
    model: &'m Model,
    adapter: Arc<AdapterSet>,
    params: Vec<Param>,
    reference: Option<Arc<AdapterSet>>,
    objective: Objective,
    options: TrainOptions,
    optimizer: Optimizer,
    state: TrainState,
    budget: Budget<'m>,
    cache: Option<Arc<ReferenceCache>>,
    reference_texts: Option<ReferenceTexts>,
}

impl<'m> Trainer<'m> {
    /// A run that trains `adapter` in place; the reference is the base with `reference`, or the bare base.
    ///
    /// # Errors
    /// [`TrainError::BatchOfOne`] for a loss that compares rows with a batch of one; [`TrainError::NoScoreHead`] for a reward model's
    /// loss without its head, [`TrainError::ScoreHead`] for the reverse; [`TrainError::Kernel`].
    pub fn new(
        model: &'m Model,
        adapter: Arc<AdapterSet>,
        reference: Option<Arc<AdapterSet>>,
        objective: Objective,
        options: TrainOptions,
    ) -> Result<Trainer<'m>, TrainError> {
        if objective.coupling() == Coupling::MismatchedRows && options.batch_size == 1 {
            return Err(TrainError::BatchOfOne { loss: objective.name() });
        }
        match (objective.scores(), adapter.score_head()) {
            (Scores::Reward, None) => return Err(TrainError::NoScoreHead { loss: objective.name() }),
            (Scores::LogProbs, Some(_)) => return Err(TrainError::ScoreHead { loss: objective.name() }),
            (Scores::Reward, Some(_)) | (Scores::LogProbs, None) => {}
        }
        let params = adapter.params();
        let optimizer = Optimizer::AdamW(AdamW::new(model.device(), &params, options.weight_decay)?);
        let adapters = Adapters { policy: Some(adapter.clone()), reference: reference.clone() };
        let dropout = options.lora_dropout > 0.0;
        let budget = Budget::new(model, &adapters, options.precision, dropout, options.memory);
        let state = TrainState::default();
        Ok(Trainer {
            model,
            adapter,
            params,
            reference,
            objective,
            options,
            optimizer,
            state,
            budget,
            cache: None,
            reference_texts: None,
        })
    }

    /// Has the log-probs of the reference looked up in `cache`, which is that of this model, reference and precision. No bit of the
    /// run depends on it.
    #[must_use]
    pub fn with_reference_cache(mut self, cache: ReferenceCache) -> Trainer<'m> {
        self.cache = Some(Arc::new(cache)).filter(|_| self.objective.reference());
        self
    }

    /// Has each step take as many texts of `texts` as it has rows, for an objective with a term for their likelihood.
    #[must_use]
    pub fn with_reference_data(mut self, texts: Dataset) -> Trainer<'m> {
        let wanted = self.objective.reference_data();
        self.reference_texts = wanted.then(|| ReferenceTexts::new(texts, self.options.shuffle));
        self
    }

    /// Where it looks log-probs of the reference up.
    pub fn reference_cache(&self) -> Option<&ReferenceCache> {
        self.cache.as_deref()
    }

    /// What it trains with.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// How it trains.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Where the run is.
    pub fn state(&self) -> TrainState {
        self.state
    }

    /// Updates that one epoch over `rows` rows makes, and the rows of a last batch too small to train on.
    pub fn steps_per_epoch(&self, rows: usize) -> (u64, usize) {
        let batch = self.options.batch_size;
        let last = rows % batch;
        if last == 1 && self.objective.coupling() == Coupling::MismatchedRows {
            return ((rows / batch) as u64, 1);
        }
        (rows.div_ceil(batch) as u64, 0)
    }

    /// Updates of the whole run over `rows` rows.
    pub fn total_steps(&self, rows: usize) -> u64 {
        let all = self.steps_per_epoch(rows).0 * self.options.epochs;
        self.options.max_steps.map_or(all, |max| if self.options.epochs == 0 { max } else { all.min(max) })
    }

    /// The same, where the run can be made.
    fn steps_to_make(&self, rows: usize) -> Result<u64, TrainError> {
        if self.objective.reference_data() && self.reference_texts.is_none() {
            return Err(TrainError::NoReferenceData { loss: self.objective.name() });
        }
        match self.total_steps(rows) {
            0 => Err(TrainError::NoSteps { rows, epochs: self.options.epochs }),
            steps => Ok(steps),
        }
    }

    /// What the run over `train` will hold in memory, evaluations over `eval` included. From then on each pass keeps as many layers as
    /// fit into that; the run notes those that do not fit with none.
    ///
    /// # Errors
    /// [`TrainError::Memory`] if it is more than it may; [`TrainError::NoSteps`]; [`TrainError::NoReferenceData`]; [`TrainError::Data`].
    pub fn plan(&mut self, train: &Dataset, eval: Option<&Dataset>) -> Result<Plan, TrainError> {
        let options = &self.options;
        let steps = self.steps_to_make(train.len())?;
        let mismatched = (self.objective.coupling() == Coupling::MismatchedRows).then_some(options.max_length);
        let largest = |data: &Dataset, shuffle: Shuffle, steps: u64, role: Role| -> Result<Largest, TrainError> {
            let data_is_cached = self.is_cached(data)?;
            let batch_size = options.batch_size;
            let single_last = match (self.objective.coupling(), role) {
                (Coupling::MismatchedRows, Role::Gradient) => SingleLast::LeftOut,
                (coupling, _) => single_last_of_evaluation(coupling),
            };
            let cut = BatchCut { batch_size, single_last };
            let (numbers, mut mean_tokens) =
                memory::largest_batch(data, shuffle, steps, cut, mismatched, options.micro_batch_tokens);
            let mut rows = data.rows(&numbers)?;
            if let (Some(texts), Role::Gradient) = (&self.reference_texts, role) {
                // which of them meet these rows is not looked up
                rows.extend(texts.longest(numbers.len())?);
                mean_tokens += texts.mean_tokens() * batch_size.min(data.len()) as f64;
            }
            let cache = self.cache.clone().filter(|_| data_is_cached);
            let scoring = Scoring { cache, ..self.scoring() };
            let (pass, alone) = self.batch(&rows).largest_pass(role, &scoring);
            Ok(Largest { pass, alone, mean_tokens })
        };
        let first_epoch = self.steps_per_epoch(train.len()).0.min(steps);
        let for_cache = self.cache_in_memory(train, eval);
        let train = largest(train, options.shuffle, steps, Role::Gradient)?;
        let eval = match eval {
            Some(data) => {
                let batches = data.len().div_ceil(options.batch_size) as u64;
                Some(largest(data, Shuffle::Off, batches, Role::Detached)?)
            }
            None => None,
        };
        self.budget.hold_for_cache(for_cache);
        let plan =
            self.budget.plan(train, eval.as_ref()).map_err(|TooLittle { needed, limit, rows }| TrainError::Memory {
                needed,
                limit,
                rows,
                micro_batch_tokens: self.options.micro_batch_tokens,
                max_length: self.options.max_length,
            })?;
        Ok(Plan { steps, first_epoch, ..plan })
    }

    /// Whether the cache has the answers of `data`, going by some of its rows.
    fn is_cached(&self, data: &Dataset) -> Result<bool, TrainError> {
        let Some(cache) = self.cache.as_ref().filter(|cache| cache.found() > 0) else { return Ok(false) };
        if self.objective.coupling() == Coupling::MismatchedRows {
            // which answers meet which prompts depends on the order
            return Ok(false);
        }
        let mut numbers: Vec<u32> = (0..ROWS_LOOKED_UP).map(|i| (i * data.len() / ROWS_LOOKED_UP) as u32).collect();
        numbers.dedup();
        let rows = data.rows(&numbers)?;
        let key = |row: &EncodedRow, ids: &[u32]| SequenceKey::new(&row.prompt, ids);
        let keys_of =
            |row: &EncodedRow| row.answers.iter().map(|answer| key(row, answer.kept_ids())).collect::<Vec<_>>();
        let keys: Vec<SequenceKey> = rows.iter().flat_map(keys_of).collect();
        Ok(!cache.holds(&keys).contains(&false))
    }

    /// Bytes that the cache takes of the memory: all that the run can put there, or what it may.
    fn cache_in_memory(&self, train: &Dataset, eval: Option<&Dataset>) -> u64 {
        let Some(cache) = &self.cache else { return 0 };
        let most = self.budget.limit() / CACHE_SHARE;
        cache.limit_memory(most);
        let of = |data: &Dataset, times: u64| {
            let answer_tokens = |row: usize| (data.lengths(row).tree - data.lengths(row).prompt) as u64;
            let tokens: u64 = (0..data.len()).map(answer_tokens).sum();
            times * in_memory(data.survey().answers as u64, tokens)
        };
        // mismatched answers are others in each epoch
        let (in_training, in_evaluation) = match self.objective.coupling() {
            Coupling::MismatchedRows => (1 + self.options.epochs, 2),
            Coupling::None | Coupling::WholeBatch => (1, 1),
        };
        let all = of(train, in_training) + eval.map_or(0, |eval| of(eval, in_evaluation));
        if cache.adds_to_memory() { all.min(most) } else { 0 }
    }

    /// How long the steps of a planned run will take, from one layer's passes over the rows of its largest one.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn pace(&self, plan: &Plan) -> Result<RunPace, TrainError> {
        let forest = &plan.pass;
        let mut probe = self.probe(forest)?;
        // pages and threads were cold
        if probe.forward + probe.backward < PROBE_SECONDS {
            let warm = self.probe(forest)?;
            probe = Probe { forward: probe.forward.min(warm.forward), backward: probe.backward.min(warm.backward) };
        }
        let work = |forest: &Forest| Work::of(self.model, self.budget.parameters(), forest);
        let share = plan.mean_tokens / (forest.plan.policy + forest.plan.detached) as f64;
        let rates = Rates::new(&work(forest), probe, plan.layers);
        let pace = |forest: &Forest, again: &Forest, layers_kept: usize| {
            let mut all = work(forest);
            if self.objective.coupling() != Coupling::None && !plan.alone {
                // a pass for the statistics of the whole step; where it covers the mismatched answers alone, less than this
                let again = work(again);
                all.forward += again.forward;
                all.head_forward += again.head_forward;
            }
            Pace::new(&all, rates, plan.layers - layers_kept, plan.layers, share)
        };
        let known = forest.without_reference();
        // what the pass for the statistics has computed, the other one finds
        let again = match (&self.cache, self.objective.coupling()) {
            (Some(_), Coupling::WholeBatch) => &known,
            _ => forest,
        };
        let first = pace(forest, again, plan.layers_kept);
        let all_known = self.cache.is_some() && self.objective.coupling() != Coupling::MismatchedRows;
        let later = (all_known && forest.plan.reference > 0 && plan.first_epoch < plan.steps)
            .then(|| pace(&known, &known, self.layers_kept(&known)));
        Ok(RunPace { first, later, first_epoch: plan.first_epoch, steps: plan.steps })
    }

    fn probe(&self, forest: &Forest) -> Result<Probe, TrainError> {
        let (device, scoring) = (self.model.device(), self.scoring());
        let ids = device.upload("batch.ids", &forest.ids)?;
        let pass = self.model.pass(forest.plan.clone(), scoring.adapters, None, scoring.precision)?;
        let mut tape = Tape::new(device, pass, Mode::Record);
        let started = Instant::now();
        let y = self.model.first_layer(&mut tape, &ids)?;
        let forward = started.elapsed().as_secs_f64();
        let dy = device.zeros::<f32>("gradient", y.input().len())?;
        let started = Instant::now();
        tape.backward(&y, dy, &mut ParamGrads::default())?;
        Ok(Probe { forward, backward: started.elapsed().as_secs_f64() })
    }

    /// How many layers a forward pass over the rows of `forest` keeps.
    pub fn layers_kept(&self, forest: &Forest) -> usize {
        self.budget.layers_kept(forest, Gradients::Fresh).unwrap_or(0)
    }

    /// Trains to the end.
    ///
    /// # Errors
    /// [`TrainError`]. The adapter keeps the values of the last update.
    pub fn run(
        &mut self,
        train: &Dataset,
        eval: Option<&Dataset>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let (steps_per_epoch, left_over) = self.steps_per_epoch(train.len());
        let total_steps = self.steps_to_make(train.len())?;
        if left_over > 0 {
            observer.note(format!(
                "the last batch of each epoch would be one row, which loss `{}` cannot use: it is left out",
                self.objective.name()
            ));
        }
        self.unread_columns(train.survey().numbers).into_iter().for_each(|note| observer.note(note));
        let (mut rows_seen, mut saturated, mut clipped, mut undecided, mut beyond_plan) = (0, 0, 0, 0, 0);
        let mut evaluated_at = None;
        let (mut first_epoch, mut counted_at) = (Some(()), CacheCounts::default());
        notes_of(self.cache.as_deref(), observer);
        while self.state.step < total_steps {
            let order = train.order(self.options.shuffle, self.state.epoch);
            let rows = &order[self.state.cursor as usize..order.len() - left_over];
            let mut started = Instant::now();
            for_each_batch(train, rows.chunks(self.options.batch_size), |mut batch| {
                let rows = batch.len();
                if let Some(texts) = &mut self.reference_texts {
                    let before = self.state.epoch * train.len() as u64 + self.state.cursor;
                    batch.extend(texts.take(before, rows)?);
                }
                let (outcome, mut metrics) = self.step(&batch, total_steps)?;
                self.state.cursor += rows as u64;
                metrics.epoch = self.state.step as f64 / steps_per_epoch as f64;
                let tokens = tokens(&batch);
                self.state.num_tokens += tokens;
                metrics.num_tokens = self.state.num_tokens;
                metrics.tokens_per_second = tokens as f64 / started.elapsed().as_secs_f64();
                rows_seen += rows;
                saturated += outcome.saturated;
                clipped += outcome.clipped;
                undecided += outcome.undecided;
                if beyond_plan == 0 && outcome.beyond_plan > 0 {
                    observer.note(format!(
                        "step {}: a forward pass holds more than was planned, with all layers recomputed",
                        metrics.step
                    ));
                }
                beyond_plan += outcome.beyond_plan;
                notes_of(self.cache.as_deref(), observer);
                observer.step(&metrics, total_steps)?;
                let due = self.options.eval_steps.is_some_and(|every| self.state.step.is_multiple_of(every));
                if let (true, Some(eval)) = (due, eval) {
                    observer.evaluation(&self.evaluate(eval, metrics.epoch)?)?;
                    evaluated_at = Some(self.state.step);
                }
                started = Instant::now();
                Ok::<_, TrainError>(match self.state.step == total_steps {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            })?;
            if self.state.cursor as usize + left_over >= train.len() {
                self.state.epoch += 1;
                if let Some(cache) = self.cache.as_deref().filter(|_| first_epoch.take().is_some()) {
                    counted_at = cache.counts();
                    observer.note(counted("the first epoch", counted_at));
                }
                self.state.cursor = 0;
                observer.epoch(self.state.epoch)?;
            }
            let end_of_run = self.state.step == total_steps;
            let due = self.options.eval_steps.is_none() || end_of_run;
            if let (true, Some(eval)) = (due && evaluated_at != Some(self.state.step), eval) {
                let epoch = self.state.step as f64 / steps_per_epoch as f64;
                observer.evaluation(&self.evaluate(eval, epoch)?)?;
                evaluated_at = Some(self.state.step);
            }
        }
        notes_of(self.cache.as_deref(), observer);
        if let Some(cache) = self.cache.as_deref().filter(|cache| cache.counts() != counted_at) {
            observer.note(counted("the run", cache.counts()));
        }
        let warnings = [
            self.objective.saturation_warning(saturated, rows_seen),
            self.objective.clipping_warning(clipped, rows_seen),
            self.objective.undecided_warning(undecided, rows_seen),
        ];
        warnings.into_iter().flatten().for_each(|warning| observer.note(warning));
        Ok(())
    }

    /// What is said of columns that the objective does not read.
    fn unread_columns(&self, counts: NumberCounts) -> Vec<String> {
        let objective = &self.objective;
        let columns = [
            (counts.weight, "weight", objective.takes_weights()),
            (counts.margin, "margin", objective.takes_margins()),
        ];
        let unread = columns.into_iter().filter(|(rows, _, read)| *rows > 0 && !read);
        unread
            .map(|(rows, column, _)| {
                format!("{rows} rows have a `{column}`, which loss `{}` does not read", objective.name())
            })
            .collect()
    }

    /// One update from the rows of a batch, texts of the reference data behind them where the objective has a term for them. `epoch`, tokens and speed of the metrics are the caller's.
    ///
    /// # Errors
    /// [`TrainError::NonFinite`] before anything is changed; [`TrainError::Kernel`].
    pub fn step(&mut self, rows: &[EncodedRow], total_steps: u64) -> Result<(Outcome, StepMetrics), TrainError> {
        let device = self.model.device().clone();
        let step = self.state.step + 1;
        let mut grads = ParamGrads::default();
        let outcome = self.gradients(rows, &mut grads)?;
        let grad_norm = global_norm(&device, &grads)?;
        if !grad_norm.is_finite() || !outcome.loss.is_finite() {
            let rows = rows.iter().map(describe).collect::<Vec<_>>().join(", ");
            let what = if grad_norm.is_finite() { "the loss" } else { "the gradient" };
            return Err(TrainError::NonFinite { step, what: what.to_owned(), rows });
        }
        let schedule = Schedule {
            kind: self.options.schedule,
            learning_rate: self.options.learning_rate,
            warmup_steps: self.options.warmup_steps,
            total_steps,
        };
        let learning_rate = schedule.at(self.state.step);
        let max_norm = self.options.max_grad_norm;
        let scale = if max_norm > 0.0 { clip_factor(grad_norm, max_norm) } else { 1.0 };
        self.optimizer.step(&device, &self.params, &grads, learning_rate, scale)?;
        self.state.step = step;
        self.state.history = outcome.history;
        let metrics = StepMetrics {
            step,
            epoch: 0.0,
            loss: outcome.loss,
            grad_norm,
            learning_rate,
            preferences: outcome.preferences.means(),
            num_tokens: self.state.num_tokens,
            tokens_per_second: 0.0,
        };
        Ok((outcome, metrics))
    }

    /// Loss and gradients of a batch at the current adapter, without an update.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn gradients(&self, rows: &[EncodedRow], grads: &mut ParamGrads) -> Result<Outcome, TrainError> {
        let options = &self.options;
        let dropout = (options.lora_dropout > 0.0).then_some(Dropout {
            p: options.lora_dropout,
            seed: options.seed,
            step: self.state.step,
        });
        let scoring = self.scoring();
        let layers_kept = |trees: &[Tree<'_>], gradients| self.budget.layers_kept(&scoring.forest(trees), gradients);
        self.batch(rows).gradients(&scoring, dropout, &layers_kept, grads)
    }

    /// The loss of a batch at the current adapter, without gradients.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn loss(&self, rows: &[EncodedRow]) -> Result<f64, TrainError> {
        let batch = Batch { history: self.state.history.for_evaluation(), ..self.batch(rows) };
        Ok(batch.evaluate(&self.scoring())?.loss)
    }

    /// Loss and rewards over a data set, at the current adapter.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn evaluate(&self, eval: &Dataset, epoch: f64) -> Result<EvalMetrics, TrainError> {
        let scoring = self.scoring();
        let batches = EvalBatches {
            batch_size: self.options.batch_size,
            max_length: self.options.max_length,
            micro_batch_tokens: self.options.micro_batch_tokens,
            history: self.state.history,
        };
        evaluate(&scoring, &self.objective, eval, &batches, self.state.step, epoch)
    }

    fn scoring(&self) -> Scoring<'m> {
        Scoring {
            model: self.model,
            adapters: Adapters { policy: Some(self.adapter.clone()), reference: self.reference.clone() },
            scorers: Scorers::of(&self.objective, self.model),
            precision: self.options.precision,
            extras: self.objective.weighting(),
            cache: self.cache.clone(),
        }
    }

    fn batch<'a>(&'a self, rows: &'a [EncodedRow]) -> Batch<'a> {
        Batch {
            objective: &self.objective,
            rows,
            max_length: self.options.max_length,
            micro_batch_tokens: self.options.micro_batch_tokens,
            step: self.state.step + 1,
            history: self.state.history,
        }
    }
}

/// Passes on what the cache has to say.
fn notes_of(cache: Option<&ReferenceCache>, observer: &mut dyn Observer) {
    for note in cache.map(ReferenceCache::take_notes).unwrap_or_default() {
        observer.note(note.to_string());
    }
}

fn counted(part: &str, counts: CacheCounts) -> String {
    let CacheCounts { read, computed } = counts;
    format!("reference log-probs in {part}: {computed} answers computed, {read} read from the cache")
}

/// How an evaluation cuts its rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvalBatches {
    /// Rows that share statistics in a loss that has any.
    pub batch_size: usize,
    /// Limit on prompt + one answer.
    pub max_length: usize,
    /// Tokens of the trees of one forward pass.
    pub micro_batch_tokens: usize,
    /// What the run remembers; nothing, where there is none.
    pub history: History,
}

/// Means over the rows of a data set, in the order of its files, in batches of the same size as those of training: a loss whose
/// rows share statistics takes them per batch.
///
/// # Errors
/// [`TrainError`].
pub fn evaluate(
    scoring: &Scoring<'_>,
    objective: &Objective,
    data: &Dataset,
    batches: &EvalBatches,
    step: u64,
    epoch: f64,
) -> Result<EvalMetrics, TrainError> {
    let order = data.order(Shuffle::Off, 0);
    let single_last = single_last_of_evaluation(objective.coupling());
    let cut = BatchCut { batch_size: batches.batch_size, single_last };
    let mut sums = PreferenceSums::default();
    let (mut loss, mut rows_seen) = (0.0, 0);
    for chunk in cut.batches(&order) {
        let rows = data.rows(chunk)?;
        let batch = Batch {
            objective,
            rows: &rows,
            max_length: batches.max_length,
            micro_batch_tokens: batches.micro_batch_tokens,
            step,
            history: batches.history.for_evaluation(),
        };
        let outcome = batch.evaluate(scoring)?;
        loss += outcome.loss * rows.len() as f64;
        rows_seen += rows.len() as u64;
        sums.merge(outcome.preferences);
    }
    Ok(EvalMetrics {
        step,
        epoch,
        rows: rows_seen,
        loss: loss / rows_seen as f64,
        preferences: sums.means(),
        logps_accuracies: sums.logps_accuracies(),
    })
}

/// A single last row has no other row to be compared with.
fn single_last_of_evaluation(coupling: Coupling) -> SingleLast {
    match coupling {
        Coupling::MismatchedRows => SingleLast::Joined,
        Coupling::None | Coupling::WholeBatch => SingleLast::Kept,
    }
}

/// Tokens of the sequences of some rows, the prompt counted once for each answer.
fn tokens(rows: &[EncodedRow]) -> u64 {
    rows.iter().flat_map(|row| row.answers.iter().map(|answer| (row.prompt.len() + answer.kept) as u64)).sum()
}
