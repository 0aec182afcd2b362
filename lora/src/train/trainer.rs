//! The training loop: epochs, batches, updates.

use super::budget::Budget;
use super::completions;
use super::counted::Counted;
use super::error::TrainError;
use super::evaluation::{EvalBatches, evaluate, one_prompt};
use super::forest::{Forest, Scorers};
use super::metrics::StepMetrics;
use super::note::{CountsOf, DataRole, Note};
use super::options::{Observer, TrainOptions, TrainState};
use super::reference_cache::{CachePlace, ReferenceCache};
use super::reference_texts::ReferenceTexts;
use super::scoring::Scoring;
use super::step::{Batch, Donors, Outcome, describe};
use crate::objective::{Coupling, Objective, Scores};
use crate::optim::{Optimizer, Schedule, clip_factor, global_norm};
use align_data::{Dataset, EncodedRow, Mismatch, RowKind, for_each_ahead};
use align_engine::adapters::{AdapterSet, Adapters};
use align_engine::autograd::ParamGrads;
use align_engine::model::Model;
use align_engine::param::Param;
use align_engine::pass::Dropout;
use std::ops::ControlFlow;
use std::slice::Chunks;
use std::sync::Arc;
use std::time::Instant;

/// A training run.
pub struct Trainer<'m> {
    pub(super) model: &'m Model,
    pub(super) adapter: Arc<AdapterSet>,
    pub(super) params: Vec<Param>,
    pub(super) reference: Option<Arc<AdapterSet>>,
    pub(super) objective: Objective,
    pub(super) options: TrainOptions,
    pub(super) optimizer: Optimizer,
    pub(super) state: TrainState,
    pub(super) budget: Budget,
    pub(super) cache: Option<Arc<ReferenceCache>>,
    /// Where the run keeps log-probs of the reference, if anywhere.
    pub(super) cache_place: Option<CachePlace>,
    pub(super) reference_texts: Option<ReferenceTexts>,
    /// Which row's answer follows a row's prompt as its mismatched answer. Set from the training data when the run is planned or
    /// starts.
    pub(super) mismatch: Mismatch,
}

/// The data of a run, and how many steps it makes.
struct Course<'a> {
    train: &'a Dataset,
    eval: Option<&'a Dataset>,
    total_steps: u64,
    steps_per_epoch: u64,
    /// Rows at the end of each epoch that make no batch.
    left_over: usize,
}

impl Course<'_> {
    /// Returns how many epochs `steps` steps make, fractions included.
    fn epochs_at(&self, steps: u64) -> f64 {
        steps as f64 / self.steps_per_epoch as f64
    }
}

/// The rows of a step.
struct StepRows {
    /// Rows of the training data. If the objective has a term for reference data, the same number of reference texts follows.
    rows: Vec<EncodedRow>,
    /// How many of `rows` come from the training data.
    of_data: usize,
}

/// Reads the rows of one step after the other.
struct BatchReader<'a> {
    train: &'a Dataset,
    batches: Chunks<'a, u32>,
    options: TrainOptions,
    epoch: u64,
    /// Rows of the training data that the run has read before the next batch.
    rows_before: u64,
    texts: Option<ReferenceTexts>,
}

impl BatchReader<'_> {
    fn next_batch(&mut self) -> Option<Result<StepRows, TrainError>> {
        let numbers = self.batches.next()?;
        Some(self.read(numbers))
    }

    fn read(&mut self, numbers: &[u32]) -> Result<StepRows, TrainError> {
        let mut rows = self.train.rows(numbers)?;
        choose_completions(&self.options, &mut rows, self.epoch);
        if let Some(texts) = &mut self.texts {
            rows.extend(texts.take(self.rows_before, numbers.len())?);
        }
        self.rows_before += numbers.len() as u64;
        Ok(StepRows { rows, of_data: numbers.len() })
    }
}

/// What an update of the adapter reports.
pub struct Update {
    /// Result of the batch, before the update.
    pub outcome: Outcome,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// The learning rate that was used.
    pub learning_rate: f64,
}

impl Update {
    /// Returns the metrics of the update. `state` and `epoch` must be those of the run right after it.
    pub fn metrics(&self, state: &TrainState, epoch: f64, tokens_per_second: f64) -> StepMetrics {
        StepMetrics {
            step: state.step,
            epoch,
            loss: self.outcome.loss,
            grad_norm: self.grad_norm,
            learning_rate: self.learning_rate,
            preferences: self.outcome.preferences.means(),
            num_tokens: state.num_tokens,
            tokens_per_second,
        }
    }
}

impl<'m> Trainer<'m> {
    /// Makes a run that trains `adapter` in place. The reference is the base model with the adapter `reference`, or the bare base
    /// if that is `None`.
    ///
    /// # Errors
    /// [`TrainError::BatchOfOne`] for batches of one row if the loss reads mismatched answers; [`TrainError::NoCompletions`];
    /// [`TrainError::NoScoreHead`] for a reward model's loss without its head, [`TrainError::ScoreHead`] for the reverse;
    /// [`TrainError::Kernel`].
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
        if options.max_completions.is_some() && objective.data() != RowKind::Scored {
            return Err(TrainError::NoCompletions { loss: objective.name() });
        }
        match (objective.scores(), adapter.score_head()) {
            (Scores::Reward, None) => return Err(TrainError::NoScoreHead { loss: objective.name() }),
            (Scores::LogProbs, Some(_)) => return Err(TrainError::ScoreHead { loss: objective.name() }),
            (Scores::Reward, Some(_)) | (Scores::LogProbs, None) => {}
        }
        let params = adapter.params();
        let optimizer = Optimizer::new(model.device(), &params, options.optimizer, options.weight_decay)?;
        let adapters = Adapters { policy: Some(adapter.clone()), reference: reference.clone() };
        let counted = Counted::new(model.device(), model.config().clone(), &adapters, &objective, &options)?;
        let budget = Budget::new(model.device(), counted, model.copied_bytes(), options.memory)?;
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
            cache_place: None,
            reference_texts: None,
            mismatch: Mismatch::Previous,
        })
    }

    /// Makes the run look up the log-probs of the reference in `cache`, which must belong to this model, reference and precision.
    /// No bit of the run's results depends on the cache.
    #[must_use]
    pub fn with_reference_cache(mut self, cache: ReferenceCache) -> Trainer<'m> {
        self = self.with_planned_cache(cache.place());
        self.cache = Some(Arc::new(cache)).filter(|_| self.objective.reference());
        self
    }

    /// Makes the run plan as if it had an empty cache in `place`.
    #[must_use]
    pub fn with_planned_cache(mut self, place: CachePlace) -> Trainer<'m> {
        self.cache_place = Some(place).filter(|_| self.objective.reference());
        self
    }

    /// Makes each step read as many of `texts` as it has rows, if the objective has a term for their likelihood.
    #[must_use]
    pub fn with_reference_data(mut self, texts: Dataset) -> Trainer<'m> {
        let wanted = self.objective.reference_data();
        self.reference_texts = wanted.then(|| ReferenceTexts::new(texts, self.options.shuffle));
        self
    }

    /// Returns the cache in which the run looks up log-probs of the reference. `None` without one, or if the objective reads no
    /// reference.
    pub fn reference_cache(&self) -> Option<&ReferenceCache> {
        self.cache.as_deref()
    }

    /// Returns the objective of the run.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Returns how far the run is.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// Returns the adapter of the reference. `None` if the reference is the bare base.
    pub fn reference(&self) -> Option<&Arc<AdapterSet>> {
        self.reference.as_ref()
    }

    /// Returns the options of the run.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Trains to the last step, and evaluates on `eval` in between.
    ///
    /// # Errors
    /// [`TrainError`]. The adapter keeps the values of the last update.
    pub fn run(
        &mut self,
        train: &Dataset,
        eval: Option<&Dataset>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.mismatch = train.mismatch();
        let total_steps = self.steps_to_make(train.len())?;
        let (steps_per_epoch, left_over) = self.steps_per_epoch(train.len());
        let course = Course { train, eval, total_steps, steps_per_epoch, left_over };
        self.notes_at_start(&course).into_iter().for_each(|note| observer.note(note));
        self.tell_notes_of_cache(observer);
        while self.state.step < total_steps {
            self.train_epoch(&course, observer)?;
            self.end_of_epoch(&course, observer)?;
        }
        self.tell_notes_of_cache(observer);
        self.notes_at_end().into_iter().for_each(|note| observer.note(note));
        Ok(())
    }

    /// Returns how many evaluations [`Trainer::run`] makes in a run over `rows` rows.
    pub fn evaluations(&self, rows: usize) -> u64 {
        let total_steps = self.total_steps(rows);
        let every = self.options.eval_steps.unwrap_or(self.steps_per_epoch(rows).0);
        total_steps.div_ceil(every.max(1))
    }

    /// Trains on the rest of the epoch's rows, or until the run's last step.
    fn train_epoch(&mut self, course: &Course<'_>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let order = course.train.order(self.options.shuffle, self.state.epoch);
        let rows = &order[self.state.cursor as usize..order.len() - course.left_over];
        let mut reader = BatchReader {
            train: course.train,
            batches: rows.chunks(self.options.batch_size),
            options: self.options.clone(),
            epoch: self.state.epoch,
            rows_before: self.state.epoch * course.train.len() as u64 + self.state.cursor,
            texts: self.reference_texts.take(),
        };
        let mut started = Instant::now();
        let run = for_each_ahead(
            || reader.next_batch(),
            |batch: StepRows| {
                let update = self.step(&batch.rows, course.total_steps)?;
                self.finish_step(&batch, &update, started, course, observer)?;
                started = Instant::now();
                Ok(match self.state.step == course.total_steps {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            },
        );
        self.reference_texts = reader.texts;
        run
    }

    /// Counts a step that began at `started`, reports it, and evaluates if that is due.
    fn finish_step(
        &mut self,
        batch: &StepRows,
        update: &Update,
        started: Instant,
        course: &Course<'_>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let tokens = tokens(&batch.rows);
        self.state.cursor += batch.of_data as u64;
        self.state.num_tokens += tokens;
        let speed = tokens as f64 / started.elapsed().as_secs_f64();
        let metrics = update.metrics(&self.state, course.epochs_at(self.state.step), speed);
        let outcome = &update.outcome;
        if self.state.beyond_plan == 0 && outcome.beyond_plan > 0 {
            observer.note(Note::BeyondPlan { step: self.state.step });
        }
        self.state.beyond_plan += outcome.beyond_plan as u64;
        let unlearned = &mut self.state.unlearned;
        unlearned.rows += batch.of_data as u64;
        unlearned.saturated += outcome.saturated as u64;
        unlearned.clipped += outcome.clipped as u64;
        unlearned.undecided += outcome.undecided as u64;
        self.tell_notes_of_cache(observer);
        observer.step(&metrics)?;
        match self.options.eval_steps {
            Some(every) if self.state.step.is_multiple_of(every) => self.evaluate_course(course, observer),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins the next epoch if this one is used up, and evaluates if that is due and not done yet.
    fn end_of_epoch(&mut self, course: &Course<'_>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if self.state.cursor as usize + course.left_over >= course.train.len() {
            self.state.epoch += 1;
            if let (Some(cache), None) = (&self.cache, self.state.counts_of_first_epoch) {
                let counts = cache.counts();
                self.state.counts_of_first_epoch = Some(counts);
                observer.note(Note::CacheCounts { of: CountsOf::FirstEpoch, counts });
            }
            self.state.cursor = 0;
            observer.epoch(&self.state)?;
        }
        let is_due = self.options.eval_steps.is_none() || self.state.step == course.total_steps;
        match is_due && self.state.evaluated_at != Some(self.state.step) {
            true => self.evaluate_course(course, observer),
            false => Ok(()),
        }
    }

    /// Evaluates the run's held-out rows, if it has any.
    fn evaluate_course(&mut self, course: &Course<'_>, observer: &mut dyn Observer) -> Result<(), TrainError> {
        if let Some(eval) = course.eval {
            self.evaluate(eval, course.epochs_at(self.state.step), observer)?;
            self.state.evaluated_at = Some(self.state.step);
        }
        Ok(())
    }

    /// Returns the notes that follow from the objective and the data.
    fn notes_at_start(&self, course: &Course<'_>) -> Vec<Note> {
        let loss = || self.objective.name();
        let mut notes = Vec::new();
        if course.left_over > 0 {
            notes.push(Note::LastRowLeftOut { loss: loss() });
        }
        if self.objective.reference_data() && course.eval.is_some() {
            notes.push(Note::TermNotEvaluated { loss: loss() });
        }
        for (data, role) in [(Some(course.train), DataRole::Training), (course.eval, DataRole::Evaluation)] {
            if data.is_some_and(|data| one_prompt(&self.objective, data)) {
                notes.push(Note::OnePrompt { role, loss: loss() });
            }
        }
        let counts = course.train.survey().numbers;
        let columns = [
            (counts.weight, "weight", self.objective.takes_weights()),
            (counts.margin, "margin", self.objective.takes_margins()),
        ];
        let unread = columns.into_iter().filter(|(rows, _, is_read)| *rows > 0 && !is_read);
        notes.extend(unread.map(|(rows, column, _)| Note::UnreadColumn { column, rows, loss: loss() }));
        notes
    }

    /// Returns the notes about all steps of the run.
    fn notes_at_end(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let counts = self.cache.as_deref().map(ReferenceCache::counts);
        if let Some(counts) = counts.filter(|_| counts != self.state.counts_of_first_epoch) {
            notes.push(Note::CacheCounts { of: CountsOf::Run, counts });
        }
        let unlearned = self.objective.unlearned(&self.state.unlearned).into_iter();
        notes.extend(unlearned.map(|unlearned| Note::Unlearned {
            unlearned,
            rows: self.state.unlearned.rows,
            loss: self.objective.name(),
        }));
        notes
    }

    fn tell_notes_of_cache(&self, observer: &mut dyn Observer) {
        let notes = self.cache.as_deref().map(ReferenceCache::take_notes).unwrap_or_default();
        notes.into_iter().for_each(|note| observer.note(Note::Cache(note)));
    }

    /// Makes one update from a batch. `rows` are its data rows, then texts of the reference data if the objective has a term for
    /// those.
    ///
    /// # Errors
    /// [`TrainError::NonFinite`] before anything is changed; [`TrainError::Kernel`].
    pub fn step(&mut self, rows: &[EncodedRow], total_steps: u64) -> Result<Update, TrainError> {
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
            warmup_steps: self.options.warmup.steps(total_steps),
            total_steps,
        };
        let learning_rate = schedule.at(self.state.step);
        let max_norm = self.options.max_grad_norm;
        let scale = if max_norm > 0.0 { clip_factor(grad_norm, max_norm) } else { 1.0 };
        self.optimizer.step(&device, &self.params, &grads, learning_rate, scale)?;
        self.state.step = step;
        self.state.history = outcome.history;
        Ok(Update { outcome, grad_norm, learning_rate })
    }

    /// Computes loss and gradients of a batch at the current adapter, without an update.
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
        let layers_kept = |forest: &Forest, gradients| self.budget.layers_kept(forest, gradients);
        self.batch(rows).gradients(&scoring, dropout, &layers_kept, grads)
    }

    /// Computes the loss of a batch at the current adapter, without gradients.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn loss(&self, rows: &[EncodedRow]) -> Result<f64, TrainError> {
        let batch = Batch { history: self.state.history.for_evaluation(), ..self.batch(rows) };
        Ok(batch.evaluate(&self.scoring())?.loss)
    }

    /// Evaluates a data set with the current adapter, and tells `observer` loss and rewards.
    ///
    /// # Errors
    /// [`TrainError`].
    pub fn evaluate(&self, eval: &Dataset, epoch: f64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let scoring = self.scoring();
        let batches = EvalBatches {
            batch_size: self.options.batch_size,
            max_length: self.options.max_length,
            micro_batch_tokens: self.options.micro_batch_tokens,
            history: self.state.history,
        };
        let mut progress = |rows: usize| observer.evaluating(rows, eval.len());
        let metrics = evaluate(&scoring, &self.objective, eval, &batches, self.state.step, epoch, &mut progress)?;
        observer.evaluation(&metrics)
    }

    pub(super) fn scoring(&self) -> Scoring<'m> {
        Scoring {
            model: self.model,
            adapters: Adapters { policy: Some(self.adapter.clone()), reference: self.reference.clone() },
            scorers: Scorers::of(&self.objective, self.model),
            precision: self.options.precision,
            logp_temperature: self.options.logp_temperature,
            extras: self.objective.weighting(),
            cache: self.cache.clone(),
        }
    }

    pub(super) fn batch<'a>(&'a self, rows: &'a [EncodedRow]) -> Batch<'a> {
        Batch {
            objective: &self.objective,
            rows,
            max_length: self.options.max_length,
            micro_batch_tokens: self.options.micro_batch_tokens,
            step: self.state.step + 1,
            history: self.state.history,
            donors: Donors::Batch(self.mismatch),
        }
    }
}

/// Keeps only the scored answers of each row that a step of the epoch uses.
pub(super) fn choose_completions(options: &TrainOptions, rows: &mut [EncodedRow], epoch: u64) {
    if let Some(most) = options.max_completions {
        rows.iter_mut().for_each(|row| completions::choose(row, most, options.seed, epoch));
    }
}

/// Counts the tokens of some rows. A row's prompt counts once for each answer.
fn tokens(rows: &[EncodedRow]) -> u64 {
    rows.iter().flat_map(|row| row.answers.iter().map(|answer| (row.prompt.len() + answer.kept) as u64)).sum()
}
