//! What a loss file is written with: the numbers of a row on the tape, the traits, and the `SPEC` that names it.

use super::knobs::{Knob, KnobValue, Knobs};
use align_engine::autograd::scalar::Scalar;
use std::fmt;

/// One answer to one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'t> {
    /// Summed log-probability of the answer's tokens under the policy, nats.
    pub policy: Scalar<'t>,
    /// The same under the reference; no gradient. NaN for a loss that has no reference, so that reading it is seen.
    pub reference: f64,
    /// Tokens of the answer, at least 1.
    pub len: f64,
}

impl<'t> Answer<'t> {
    /// `policy - reference`, nats: times `beta` it is the reward.
    pub fn log_ratio(&self) -> Scalar<'t> {
        self.policy - self.reference
    }

    /// [`Answer::log_ratio`] per token.
    pub fn mean_log_ratio(&self) -> Scalar<'t> {
        self.log_ratio() / self.len
    }
}

/// The two answers of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'t> {
    /// The preferred answer.
    pub chosen: Answer<'t>,
    /// The other one.
    pub rejected: Answer<'t>,
}

impl<'t> Pair<'t> {
    /// Log-ratio of the chosen answer less that of the rejected one, nats: times `beta` it is the reward margin.
    pub fn log_ratio_margin(&self) -> Scalar<'t> {
        self.chosen.log_ratio() - self.rejected.log_ratio()
    }

    /// The same with each log-ratio divided by the tokens of its answer.
    pub fn mean_log_ratio_margin(&self) -> Scalar<'t> {
        self.chosen.mean_log_ratio() - self.rejected.mean_log_ratio()
    }
}

/// The label of an unpaired answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// To be made more likely.
    Desirable,
    /// To be made less likely.
    Undesirable,
}

/// The numbers that the rows of a coupled loss share, by the names under which they are logged (`kl`, ...).
///
/// They carry no gradient. Computed over the whole optimiser batch, so that the micro-batches do not show in the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    values: Vec<(&'static str, f64)>,
}

impl Statistics {
    /// Statistics of these names and values.
    pub fn new(values: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        Self { values: values.into_iter().collect() }
    }

    /// Names and values, for the log.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, f64)> + '_ {
        self.values.iter().copied()
    }

    /// The value of that name.
    ///
    /// # Panics
    /// If it is missing: a coupled loss was evaluated without the statistics of its batch.
    pub fn get(&self, name: &str) -> f64 {
        let found = self.values.iter().find(|(key, _)| *key == name);
        found.unwrap_or_else(|| panic!("a coupled loss needs the statistic `{name}` of its batch")).1
    }
}

/// What a row's loss depends on besides the row itself. It decides which numbers are needed before the first gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coupling {
    /// Nothing: micro-batches are independent.
    None,
    /// The log-probabilities of the batch's mismatched answers, see [`Objective::statistics`](super::Objective::statistics).
    MismatchedRows,
    /// The log-probabilities of all rows: the head takes the whole optimiser batch at once, so a batch of several
    /// micro-batches is first scored without gradient, and `d_policy` then differentiates it one micro-batch at a time.
    WholeBatch,
}

/// A loss of one pair.
pub trait PairLoss: Send + Sync {
    /// The loss of `pair`, nats or whatever the formula gives; the objective is the mean over the batch.
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t>;

    /// The size of `beta * log_ratio_margin` beyond which the gradient vanishes on both sides, so that badly ordered pairs
    /// are not learned either; none for most losses.
    fn saturates_beyond(&self) -> Option<f64> {
        None
    }
}

/// A loss whose pairs depend on one another.
pub trait PairBatchLoss: Send + Sync {
    /// The numbers shared by the batch.
    fn statistics(&self, pairs: &[Pair<'_>]) -> Statistics;

    /// The items whose mean is the objective. Item `i` belongs to pair `i % pairs.len()`, and every pair has as many.
    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>>;
}

/// A loss of one labelled answer, with a reference point from the batch's mismatched answers.
pub trait UnpairedLoss: Send + Sync {
    /// The numbers shared by the batch, from `policy - reference` (nats) of every mismatched answer.
    fn statistics(&self, mismatched_log_ratios: &[f64]) -> Statistics;

    /// The loss of `answer`; the objective is the mean over the batch.
    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, statistics: &Statistics) -> Scalar<'t>;
}

/// A loss with its knobs set.
pub enum Loss {
    /// Pairs, each on its own.
    Pair(Box<dyn PairLoss>),
    /// Pairs, all of a batch together.
    PairBatch(Box<dyn PairBatchLoss>),
    /// Labelled answers.
    Unpaired(Box<dyn UnpairedLoss>),
}

impl Loss {
    /// What its rows depend on.
    pub fn coupling(&self) -> Coupling {
        match self {
            Loss::Pair(_) => Coupling::None,
            Loss::PairBatch(_) => Coupling::WholeBatch,
            Loss::Unpaired(_) => Coupling::MismatchedRows,
        }
    }

    /// What its rows are.
    pub fn data(&self) -> DataKind {
        match self {
            Loss::Pair(_) | Loss::PairBatch(_) => DataKind::Pairs,
            Loss::Unpaired(_) => DataKind::Unpaired,
        }
    }
}

/// The shape of a data row that a loss needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataKind {
    /// A prompt with a chosen and a rejected answer.
    Pairs,
    /// A prompt with one answer and its label. Pairs can be taken apart into these.
    Unpaired,
}

impl DataKind {
    /// The word in `losses --json`.
    pub fn name(self) -> &'static str {
        match self {
            DataKind::Pairs => "pairs",
            DataKind::Unpaired => "unpaired",
        }
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of the registry: how a loss is called, what it needs, and how it is made.
pub struct LossSpec {
    /// Its name, `snake_case`.
    pub name: &'static str,
    /// Other names of exactly this loss.
    pub aliases: &'static [&'static str],
    /// Names of this loss with some of its knobs decided.
    pub presets: &'static [Preset],
    /// The rows it eats.
    pub data: DataKind,
    /// Whether it compares the policy with a reference model.
    pub reference: bool,
    /// Where the formula comes from.
    pub source: &'static str,
    /// What it does, in one line of help.
    pub summary: &'static str,
    /// Its numbers and switches; `beta` first.
    pub knobs: &'static [Knob],
    /// Makes it; the knobs are complete and in range.
    pub(crate) build: fn(&Knobs) -> Loss,
}

impl LossSpec {
    /// Every name other than the first that `--loss` takes for it, presets included.
    pub fn other_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.aliases.iter().copied().chain(self.presets.iter().map(|preset| preset.name))
    }

    /// Its knob of that key.
    pub fn knob(&self, key: &str) -> Option<&'static Knob> {
        self.knobs.iter().find(|knob| knob.key == key)
    }
}

impl fmt::Debug for LossSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LossSpec({})", self.name)
    }
}

/// A second name of a loss that also says something about its knobs.
pub struct Preset {
    /// As typed after `--loss`.
    pub name: &'static str,
    /// Knobs that the name sets.
    pub sets: &'static [(&'static str, KnobValue)],
    /// Knobs that must be given, with another value than their default: without them the name would be wrong.
    pub requires: &'static [&'static str],
}
