//! What a run will be, before it starts: its steps, its memory, its pace.

use super::error::TrainError;
use super::evaluation::single_last_of_evaluation;
use super::forest::{Branch, Forest, Role};
use super::memory::{self, BatchCut, Largest, Plan, SingleLast, TooLittle};
use super::reference_cache::{SequenceKey, in_memory};
use super::scoring::{Scoring, key};
use super::time::{Pace, Probe, Rates, RunPace, Work};
use super::trainer::Trainer;
use crate::data::{Dataset, EncodedRow, Shuffle};
use crate::objective::Coupling;
use align_engine::autograd::{Mode, ParamGrads, Tape};
use align_engine::model::Gradients;
use std::time::Instant;

/// Parts of the limit on memory of which the cached log-probs of the reference may take one, where no file takes them.
const CACHE_SHARE: u64 = 16;
/// Rows whose answers are looked up before the plan says that all are cached.
const ROWS_LOOKED_UP: usize = 64;
/// A probe of the machine that takes less is made again.
const PROBE_SECONDS: f64 = 20.0;

impl Trainer<'_> {
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
        self.options.max_steps.map_or(all, |max| all.min(max))
    }

    /// The same, where the run can be made.
    pub(super) fn steps_to_make(&self, rows: usize) -> Result<u64, TrainError> {
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
        let keys_of = |row: &EncodedRow| -> Vec<SequenceKey> {
            row.answers.iter().map(|answer| key(&row.prompt, &Branch::of(answer, Role::Detached))).collect()
        };
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
}
