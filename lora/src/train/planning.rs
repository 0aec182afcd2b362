//! Predicts a run before it starts: its steps, its memory and its pace.

use super::budget::{Largest, Plan};
use super::columns;
use super::counted::{Gradients, PassCost};
use super::error::TrainError;
use super::evaluation::{self, Sharing};
use super::forest::{Branch, Forest, Role, Tree};
use super::options::TrainOptions;
use super::pace::{Pace, Probe, Rates, RunPace, Work};
use super::reference_cache::{CachePlace, in_memory};
use super::scoring::Scoring;
use super::size::Size;
use super::step::{Batch, Donors, Passes};
use super::steps::{self, BatchCut, Candidate, Cutting, SingleLast, StepsKnown};
use super::trainer::{Trainer, choose_completions};
use crate::objective::Coupling;
use align_data::{Answer, Dataset, EncodedRow, RowKind, RowNumbers, Shuffle, Target};
use align_engine::autograd::{Mode, ParamGrads, Tape};
use std::time::Instant;

/// If the first probe of a layer takes fewer seconds than this, the layer is timed once more.
const PROBE_SECONDS: f64 = 20.0;

impl Trainer<'_> {
    /// Returns the updates of one epoch over `rows` rows, and how many rows are left over because the last batch is too small.
    pub fn steps_per_epoch(&self, rows: usize) -> (u64, usize) {
        let batch = self.options.batch_size;
        let last = rows % batch;
        if last == 1 && self.objective.coupling() == Coupling::MismatchedRows {
            return ((rows / batch) as u64, 1);
        }
        (rows.div_ceil(batch) as u64, 0)
    }

    /// Returns the updates of the whole run over `rows` rows.
    pub fn total_steps(&self, rows: usize) -> u64 {
        let all = self.steps_per_epoch(rows).0 * self.options.epochs;
        self.options.max_steps.map_or(all, |max| all.min(max))
    }

    /// Returns the updates of the whole run over `rows` rows, or an error if the run is impossible.
    pub(super) fn steps_to_make(&self, rows: usize) -> Result<u64, TrainError> {
        if self.objective.reference_data() && self.reference_texts.is_none() {
            return Err(TrainError::NoReferenceData { loss: self.objective.name() });
        }
        if rows == 1 && self.objective.coupling() == Coupling::MismatchedRows {
            return Err(TrainError::OneRow { loss: self.objective.name() });
        }
        match self.total_steps(rows) {
            0 => Err(TrainError::NoSteps { rows, epochs: self.options.epochs }),
            steps => Ok(steps),
        }
    }

    /// Plans what the run over `train` will hold in memory, evaluations over `eval` included. After this call, each pass keeps as
    /// many layers as fit into the plan, and the run notes a pass that does not fit even with all layers recomputed.
    ///
    /// # Errors
    /// [`TrainError::Memory`] if the run would hold more than it may; [`TrainError::NoSteps`]; [`TrainError::NoReferenceData`];
    /// [`TrainError::OneRow`]; [`TrainError::MissingColumn`]; [`TrainError::Data`].
    pub fn plan(&mut self, train: &Dataset, eval: Option<&Dataset>) -> Result<Plan, TrainError> {
        let plan = self.estimate(train, eval)?;
        if plan.fits {
            self.model.device().reserve("plan", plan.on_device)?;
            return Ok(plan);
        }
        Err(TrainError::Memory {
            needed: Size(plan.limit_needed),
            limit: Size(plan.limit),
            tokens: plan.most_tokens,
            micro_batch_tokens: self.options.micro_batch_tokens,
            max_length: self.options.max_length,
        })
    }

    /// Plans the run as [`Trainer::plan`] does, but the plan need not fit into the memory limit.
    ///
    /// # Errors
    /// As [`Trainer::plan`], except [`TrainError::Memory`].
    pub fn estimate(&mut self, train: &Dataset, eval: Option<&Dataset>) -> Result<Plan, TrainError> {
        self.mismatch = train.mismatch();
        let steps = self.steps_to_make(train.len())?;
        columns::check(&self.objective, train)?;
        if let Some(eval) = eval {
            evaluation::check(&self.objective, eval)?;
        }
        let first_epoch = self.steps_per_epoch(train.len()).0.min(steps);
        let for_cache = self.cache_in_memory(train, eval);
        self.budget.hold_for_cache(for_cache);
        let steps_known = self.steps_known(train, self.options.shuffle, steps, Role::Gradient);
        let mut largest = Largest::default();
        self.add_largest(&mut largest, train, &steps_known, Role::Gradient)?;
        if let Some(data) = eval {
            let batches = data.len().div_ceil(self.options.batch_size) as u64;
            let known = self.steps_known(data, Shuffle::Off, batches, Role::Detached);
            self.add_largest(&mut largest, data, &known, Role::Detached)?;
        }
        let plan = self.budget.plan(largest)?;
        let (mean_tokens, scored_first) = (self.mean_tokens(train, &steps_known), steps_known.scored_first);
        Ok(Plan { steps, first_epoch, mean_tokens, scored_first, ..plan })
    }

    /// Plans a run without data, as [`Trainer::estimate`] does for a run with data. Every step has a full batch of the longest
    /// possible rows. A row has a prompt of one token. A row of a pair has two answers; a labelled row or a sequence has one; a row
    /// of scored answers has `max_completions`, or two if that is not given. A cache of the reference takes no memory in this plan.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn estimate_longest(&mut self) -> Result<Plan, TrainError> {
        let rows = self.longest_rows();
        let passes = self.batch(&rows).passes(Role::Gradient, |trees| self.scoring().forest(trees));
        let scored_first = !passes.without_gradient.is_empty();
        let mut largest = Largest::default();
        largest.add(passes, Gradients::Fresh, 0, self.budget.counted())?;
        let plan = self.budget.plan(largest)?;
        let tokens: usize = rows.iter().map(EncodedRow::tree_tokens).sum();
        let scored_first = if scored_first { 1.0 } else { 0.0 };
        Ok(Plan { steps: 1, first_epoch: 1, mean_tokens: tokens as f64, scored_first, ..plan })
    }

    /// Makes the rows of the largest possible step. Texts of the reference data follow if the objective reads any. Each prompt with
    /// one answer has `max_length` tokens.
    fn longest_rows(&self) -> Vec<EncodedRow> {
        let TrainOptions { batch_size, max_length, max_completions, .. } = self.options;
        let answers = |n: usize| {
            let tokens = max_length.saturating_sub(1).max(1);
            vec![Answer { ids: vec![0; tokens], kept: tokens, unscored: Vec::new() }; n]
        };
        let row = |row: usize, target: Target, n: usize| {
            // the prompts differ, because a mismatched answer comes from a row with another prompt
            let prompt = vec![(row % self.model.config().vocab_size) as u32];
            EncodedRow { row, id: None, prompt, answers: answers(n), target, numbers: RowNumbers::default() }
        };
        let of_data = |i: usize| match self.objective.data() {
            RowKind::Pair => row(i, Target::Pair, 2),
            RowKind::Labelled => row(i, Target::Label(i.is_multiple_of(2)), 1),
            RowKind::Scored => {
                let n = max_completions.unwrap_or(2);
                row(i, Target::Rewards((0..n).map(|reward| reward as f64).collect()), n)
            }
            RowKind::Sequence => row(i, Target::Sequence, 1),
        };
        let texts = if self.objective.reference_data() { batch_size } else { 0 };
        (0..batch_size).map(of_data).chain((0..texts).map(|i| row(i, Target::Sequence, 1))).collect()
    }

    fn steps_known(&self, data: &Dataset, shuffle: Shuffle, steps: u64, role: Role) -> StepsKnown {
        let coupling = self.objective.coupling();
        // in a training step, rows share numbers with their batch
        let sharing = if role == Role::Gradient { Sharing::Batch } else { Sharing::of(&self.objective, data) };
        let single_last = match (coupling, role) {
            (Coupling::MismatchedRows, Role::Gradient) => SingleLast::LeftOut,
            (coupling, _) => sharing.single_last(coupling),
        };
        let cut = BatchCut { batch_size: self.options.batch_size, single_last };
        let cutting = Cutting {
            coupling,
            sharing,
            cuts_rows: self.objective.data() == RowKind::Scored,
            micro_batch_tokens: self.options.micro_batch_tokens,
            chosen: self.options.max_completions.map(|most| (most, self.options.seed)),
            role,
        };
        steps::steps_known(data, shuffle, steps, cut, &cutting)
    }

    /// Adds the passes of the steps that may have the largest pass.
    fn add_largest(
        &self,
        largest: &mut Largest,
        data: &Dataset,
        known: &StepsKnown,
        role: Role,
    ) -> Result<(), TrainError> {
        let mut scoring = self.scoring();
        if !self.is_cached(data, known, role)? {
            scoring.cache = None;
        }
        let texts = match (&self.reference_texts, role) {
            // any text may share a pass with any row, so the plan assumes the longest texts
            (Some(texts), Role::Gradient) => texts.longest(self.options.batch_size)?,
            _ => Vec::new(),
        };
        for step in &known.candidates {
            let mut rows = self.rows(data, step, role)?;
            let texts = &texts[..rows.len().min(texts.len())];
            if let Some(full) = full_pass(&rows, texts, self.options.micro_batch_tokens) {
                let gradients = if full.len() > rows.len() { Gradients::Fresh } else { Gradients::There };
                let passes = self.batch(&full).passes(role, |trees| scoring.forest(trees));
                largest.add(passes, gradients, step.epoch, self.budget.counted())?;
            }
            rows.extend_from_slice(texts);
            let passes = self.passes(data, step, &rows, role, &scoring)?;
            largest.add(passes, Gradients::Fresh, step.epoch, self.budget.counted())?;
        }
        Ok(())
    }

    /// Reads the rows of a step.
    fn rows(&self, data: &Dataset, step: &Candidate, role: Role) -> Result<Vec<EncodedRow>, TrainError> {
        let mut rows = data.rows(&step.rows)?;
        if role == Role::Gradient {
            choose_completions(&self.options, &mut rows, step.epoch);
        }
        Ok(rows)
    }

    /// Lays out the passes of a step. `rows` are its rows, followed by texts of the reference data.
    fn passes(
        &self,
        data: &Dataset,
        step: &Candidate,
        rows: &[EncodedRow],
        role: Role,
        scoring: &Scoring<'_>,
    ) -> Result<Passes, TrainError> {
        let donors = step.donors.as_ref().map(|donors| data.rows(donors)).transpose()?;
        let donors = donors.as_ref().map_or(Donors::Batch(data.mismatch()), |donors| Donors::Rows(donors));
        let is_asked = |branch: &Branch<'_>| {
            // mismatched answers change with each epoch, so the cache may lack them
            self.objective.coupling() == Coupling::MismatchedRows && branch.role == Role::Detached
        };
        let later = |trees: &[Tree<'_>]| {
            let asked: Vec<bool> = trees.iter().flat_map(|tree| &tree.branches).map(is_asked).collect();
            scoring.forest_of(trees, |answer| asked[answer])
        };
        let batch = Batch { donors, ..self.batch(rows) };
        Ok(match step.epoch > 0 && scoring.cache.is_none() && self.remembers() {
            true => batch.passes(role, later),
            false => batch.passes(role, |trees| scoring.forest(trees)),
        })
    }

    /// Whether the run finds the log-probs of the reference in a cache from its second epoch on, except those of mismatched
    /// answers.
    fn remembers(&self) -> bool {
        let has_same_answers = self.options.max_completions.is_none() && !self.objective.reference_data();
        has_same_answers && self.cache_place.is_some() && self.budget.cache_has_room()
    }

    /// Returns the mean number of tokens in the trees of a step.
    fn mean_tokens(&self, train: &Dataset, known: &StepsKnown) -> f64 {
        let of_texts = self
            .reference_texts
            .as_ref()
            .map_or(0.0, |texts| texts.mean_tokens() * self.options.batch_size.min(train.len()) as f64);
        known.mean_tokens + of_texts
    }

    /// Whether the cache seems to have all answers of `data`. Looks up only those of some steps.
    fn is_cached(&self, data: &Dataset, known: &StepsKnown, role: Role) -> Result<bool, TrainError> {
        let scoring = self.scoring();
        let mut found = scoring.cache.as_ref().is_some_and(|cache| cache.found() > 0);
        for step in known.spread.iter().chain(&known.candidates) {
            found = found && {
                let passes = self.passes(data, step, &self.rows(data, step, role)?, role, &scoring)?;
                let mut forests = passes.with_gradient.iter().chain(&passes.without_gradient);
                forests.all(|forest| forest.plan.reference == 0)
            };
        }
        Ok(found)
    }

    /// Limits the memory of the cache to its share. Returns the bytes to reserve for the cache: what all answers of the run need,
    /// but at most that share. 0 if the cache is not in memory.
    fn cache_in_memory(&self, train: &Dataset, eval: Option<&Dataset>) -> u64 {
        let most = self.budget.cache_limit();
        if let Some(cache) = &self.cache {
            cache.limit_memory(most);
        }
        if self.cache_place != Some(CachePlace::Memory) {
            return 0;
        }
        let of = |data: &Dataset, times: u64| {
            let tokens: u64 = (0..data.len()).map(|row| data.lengths(row).answer_tokens() as u64).sum();
            times * in_memory(data.survey().answers as u64, tokens)
        };
        // mismatched answers differ from epoch to epoch
        let (in_training, in_evaluation) = match self.objective.coupling() {
            Coupling::MismatchedRows => (1 + self.options.epochs, 2),
            Coupling::None | Coupling::WholeBatch => (1, 1),
        };
        let all = of(train, in_training) + eval.map_or(0, |eval| of(eval, in_evaluation));
        all.min(most)
    }

    /// Estimates how long the steps of a planned run will take. It times one layer over the rows of the run's largest pass.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn pace(&self, plan: &Plan) -> Result<RunPace, TrainError> {
        let pass = &plan.pass;
        let mut probe = self.probe(pass)?;
        // in the first probe, pages and threads were cold
        if probe.forward + probe.backward < PROBE_SECONDS {
            let warm = self.probe(pass)?;
            probe = Probe { forward: probe.forward.min(warm.forward), backward: probe.backward.min(warm.backward) };
        }
        let recomputed = Work::of(self.cost(pass, 0)?, self.cost(pass, plan.layers)?).recomputed / plan.layers as f64;
        let rates = Rates::new(self.budget.counted().first_layer(pass)?, recomputed, probe);
        self.pace_at(plan, rates)
    }

    /// Estimates how long the steps of a planned run take if matrix products run at `operations_per_second`.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn pace_of(&self, plan: &Plan, operations_per_second: f64) -> Result<RunPace, TrainError> {
        self.pace_at(plan, Rates::even(operations_per_second))
    }

    fn pace_at(&self, plan: &Plan, rates: Rates) -> Result<RunPace, TrainError> {
        let forest = &plan.with_reference;
        let share = plan.mean_tokens / (forest.plan.policy + forest.plan.detached) as f64;
        let known = forest.without_reference();
        // the cost of the passes that come before those with gradients. They may score mismatched answers, which are assumed to be
        // as long as the rows' own answers. Otherwise they score the rows themselves. Then the policy scores each row twice and the
        // reference once; the reference's cost is counted with `forest` below, so it is left out here
        let scored = match self.objective.coupling() {
            Coupling::MismatchedRows => forest,
            Coupling::None | Coupling::WholeBatch => &known,
        };
        let before = plan.scored_first * self.cost(scored, plan.layers)?.forward;
        let pace = |forest: &Forest, layers_kept: usize| -> Result<Pace, TrainError> {
            let work = Work::of(self.cost(forest, layers_kept)?, self.cost(forest, plan.layers)?);
            Ok(Pace::new(Work { forward: work.forward + before, ..work }, rates, share))
        };
        let first = pace(forest, plan.layers_kept)?;
        let all_known = self.remembers() && self.objective.coupling() != Coupling::MismatchedRows;
        let differs = all_known && forest.plan.reference > 0 && plan.first_epoch < plan.steps;
        let later = match differs {
            true => Some(pace(&known, self.layers_kept(&known)?)?),
            false => None,
        };
        Ok(RunPace { first, later, first_epoch: plan.first_epoch, steps: plan.steps })
    }

    /// Returns how many layers a forward pass over the rows of `forest` keeps if it is the only one of its step.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn layers_kept(&self, forest: &Forest) -> Result<usize, TrainError> {
        Ok(self.budget.layers_kept(forest, Gradients::Fresh)?.unwrap_or(0))
    }

    /// Returns the cost of a forward pass over the rows of `forest` that keeps `layers_kept` layers, and of its backward pass
    /// if any row has a gradient.
    ///
    /// # Errors
    /// [`TrainError::Kernel`].
    pub fn cost(&self, forest: &Forest, layers_kept: usize) -> Result<PassCost, TrainError> {
        Ok(self.budget.counted().pass(forest, layers_kept, Gradients::Fresh)?)
    }

    fn probe(&self, forest: &Forest) -> Result<Probe, TrainError> {
        let (device, scoring) = (self.model.device(), self.scoring());
        let ids = device.upload_indices("batch.ids", &forest.ids)?;
        let pass = self.model.pass(forest.plan.clone(), scoring.adapters, None, scoring.precision)?;
        let mut tape = Tape::new(device, pass, Mode::Record);
        let started = Instant::now();
        let y = self.model.first_layer(&mut tape, &ids)?;
        device.synchronize()?;
        let forward = started.elapsed().as_secs_f64();
        let dy = device.zeros::<f32>("gradient", y.input().len())?;
        let started = Instant::now();
        tape.backward(&y, dy, &mut ParamGrads::default())?;
        device.synchronize()?;
        Ok(Probe { forward, backward: started.elapsed().as_secs_f64() })
    }
}

/// Fills one pass from rows and texts that do not all fit into it. A row or text with one answer that does not fit is cut to the
/// room that is left, since another text may have that length. `None` if everything fits into one pass, or if there are no texts.
fn full_pass(rows: &[EncodedRow], texts: &[EncodedRow], micro_batch_tokens: usize) -> Option<Vec<EncodedRow>> {
    let all: usize = rows.iter().chain(texts).map(EncodedRow::tree_tokens).sum();
    if texts.is_empty() || all <= micro_batch_tokens {
        return None;
    }
    let mut room = micro_batch_tokens;
    let mut full = Vec::new();
    for row in rows.iter().chain(texts) {
        let mut row = row.clone();
        if let (true, [text]) = (row.tree_tokens() > room, &mut row.answers[..]) {
            text.kept = room.saturating_sub(row.prompt.len());
            if text.kept == 0 {
                continue;
            }
        }
        if row.tree_tokens() <= room {
            room -= row.tree_tokens();
            full.push(row);
        }
    }
    Some(full)
}
