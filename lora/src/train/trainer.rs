//! The training loop: epochs, batches, updates.

use super::budget::Budget;
use super::completions;
use super::counted::Counted;
use super::error::TrainError;
use super::evaluation::{EvalBatches, evaluate, one_prompt};
use super::forest::{Forest, Scorers};
use super::metrics::{EvalMetrics, StepMetrics};
use super::options::{Observer, TrainOptions, TrainState};
use super::reference_cache::{CacheCounts, ReferenceCache};
use super::reference_texts::ReferenceTexts;
use super::scoring::Scoring;
use super::step::{Batch, Donors, Outcome, describe};
use crate::objective::{Coupling, Objective, Scores};
use crate::optim::{Optimizer, Schedule, clip_factor, global_norm};
use align_data::{Dataset, EncodedRow, Mismatch, NumberCounts, RowKind, for_each_ahead};
use align_engine::adapters::{AdapterSet, Adapters};
use align_engine::autograd::ParamGrads;
use align_engine::model::Model;
use align_engine::param::Param;
use align_engine::pass::Dropout;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// A run.
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
    pub(super) reference_texts: Option<ReferenceTexts>,
    /// The mismatch of the training data, once it is known.
    pub(super) mismatch: Mismatch,
}

impl<'m> Trainer<'m> {
    /// A run that trains `adapter` in place; the reference is the base with `reference`, or the bare base.
    ///
    /// # Errors
    /// [`TrainError::BatchOfOne`] for a loss that compares rows with a batch of one; [`TrainError::NoCompletions`];
    /// [`TrainError::NoScoreHead`] for a reward model's
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
        let budget = Budget::new(model.device(), counted, model.copied_bytes(), options.memory);
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
            mismatch: Mismatch::Previous,
        })
    }

    /// Has the log-probs of the reference looked up in `cache`, which is that of this model, reference and precision. No bit of
    /// the run depends on it.
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

    /// Returns how far the run is.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// Returns the adapter of its reference. `None` if that is the bare base, or if the objective reads no reference.
    pub fn reference(&self) -> Option<&Arc<AdapterSet>> {
        self.reference.as_ref()
    }

    /// How it trains.
    pub fn options(&self) -> &TrainOptions {
        &self.options
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
        self.mismatch = train.mismatch();
        let (steps_per_epoch, left_over) = self.steps_per_epoch(train.len());
        let total_steps = self.steps_to_make(train.len())?;
        if left_over > 0 {
            observer.note(format!(
                "the last batch of each epoch would be one row, which loss `{}` cannot use: it is left out",
                self.objective.name()
            ));
        }
        if self.objective.reference_data() && eval.is_some() {
            observer.note(format!(
                "evaluations of loss `{}` leave its term for --reference-data out",
                self.objective.name()
            ));
        }
        for (data, name) in [(Some(train), "data"), (eval, "evaluation data")] {
            if data.is_some_and(|data| one_prompt(&self.objective, data)) {
                observer.note(format!(
                    "all rows of the {name} have one prompt: the mismatched answers of loss `{}` answer it too",
                    self.objective.name()
                ));
            }
        }
        self.unread_columns(train.survey().numbers).into_iter().for_each(|note| observer.note(note));
        let (mut rows_seen, mut saturated, mut clipped, mut undecided, mut beyond_plan) = (0, 0, 0, 0, 0);
        let mut evaluated_at = None;
        // of the first epoch, once it has ended
        let mut counted = None;
        notes_of(self.cache.as_deref(), observer);
        while self.state.step < total_steps {
            let order = train.order(self.options.shuffle, self.state.epoch);
            let rows = &order[self.state.cursor as usize..order.len() - left_over];
            let mut started = Instant::now();
            let mut batches = rows.chunks(self.options.batch_size);
            let (options, epoch) = (self.options.clone(), self.state.epoch);
            let mut texts = self.reference_texts.take();
            let mut before = epoch * train.len() as u64 + self.state.cursor;
            // what a step takes, read while the one before is computed; and how many of it are rows of the data
            let next = || {
                let numbers = batches.next()?;
                let mut read = || {
                    let mut batch = train.rows(numbers)?;
                    choose_completions(&options, &mut batch, epoch);
                    if let Some(texts) = &mut texts {
                        batch.extend(texts.take(before, numbers.len())?);
                    }
                    before += numbers.len() as u64;
                    Ok((batch, numbers.len()))
                };
                Some(read())
            };
            let run = for_each_ahead(next, |(batch, rows)| {
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
            });
            self.reference_texts = texts;
            run?;
            if self.state.cursor as usize + left_over >= train.len() {
                self.state.epoch += 1;
                if let (Some(cache), None) = (&self.cache, counted) {
                    counted = Some(cache.counts());
                    observer.note(count_of("the first epoch", cache.counts()));
                }
                self.state.cursor = 0;
                observer.epoch(&self.state)?;
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
        if let Some(cache) = self.cache.as_deref().filter(|cache| Some(cache.counts()) != counted) {
            observer.note(count_of("the run", cache.counts()));
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

    /// One update from the rows of a batch, texts of the reference data behind them where the objective has a term for them.
    /// `epoch`, tokens and speed of the metrics are the caller's.
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
            warmup_steps: self.options.warmup.steps(total_steps),
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
        let layers_kept = |forest: &Forest, gradients| self.budget.layers_kept(forest, gradients);
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

/// Leaves of each row's scored answers as many as a step of the epoch takes.
pub(super) fn choose_completions(options: &TrainOptions, rows: &mut [EncodedRow], epoch: u64) {
    if let Some(most) = options.max_completions {
        rows.iter_mut().for_each(|row| completions::choose(row, most, options.seed, epoch));
    }
}

/// Passes on what the cache has to say.
fn notes_of(cache: Option<&ReferenceCache>, observer: &mut dyn Observer) {
    for note in cache.map(ReferenceCache::take_notes).unwrap_or_default() {
        observer.note(note.to_string());
    }
}

fn count_of(part: &str, counts: CacheCounts) -> String {
    let CacheCounts { read, computed } = counts;
    format!("reference log-probs in {part}: {computed} answers computed, {read} read from the cache")
}

/// Tokens of the sequences of some rows, the prompt counted once for each answer.
fn tokens(rows: &[EncodedRow]) -> u64 {
    rows.iter().flat_map(|row| row.answers.iter().map(|answer| (row.prompt.len() + answer.kept) as u64)).sum()
}
