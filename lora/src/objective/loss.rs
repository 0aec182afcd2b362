//! What a loss file is written with: the numbers of a row on the tape, and the traits of a formula.

use super::divergence::Divergence;
use super::history::History;
use align_engine::autograd::scalar::Scalar;

/// One answer to one prompt.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'t> {
    /// Summed log-probability of the answer's tokens under the policy, nats; for a loss of a reward model the answer's reward.
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

    /// The policy's log-probability per token.
    pub fn mean_logp(&self) -> Scalar<'t> {
        self.policy / self.len
    }
}

/// The two answers of a pair, and what its row says about them.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'t> {
    /// The preferred answer.
    pub chosen: Answer<'t>,
    /// The other one.
    pub rejected: Answer<'t>,
    /// What the reward margin must exceed: the row's `margin`, else 0.
    pub margin: f64,
    /// The row's `prob_win_chosen` and `prob_win_rejected`: of each answer against other answers. NaN where it has none.
    pub prob_win: [f64; 2],
    /// The row's `prob_chosen_beats_rejected`. NaN where it has none.
    pub prob_beats: f64,
    /// How log-ratios are scored.
    pub divergence: Divergence,
}

impl<'t> Pair<'t> {
    /// Log-ratio of the chosen answer less that of the rejected one, nats: times `beta` it is the reward margin. With an
    /// f-divergence other than the reverse KL, of the scores that it puts in the log-ratios' place.
    pub fn log_ratio_margin(&self) -> Scalar<'t> {
        let [chosen, rejected] = [self.chosen, self.rejected].map(|answer| self.divergence.score(answer.log_ratio()));
        chosen - rejected
    }

    /// `beta * log_ratio_margin - margin`
    pub fn reward_margin(&self, beta: f64) -> Scalar<'t> {
        self.beyond_margin(beta * self.log_ratio_margin())
    }

    /// `x` less the row's margin.
    pub fn beyond_margin(&self, x: Scalar<'t>) -> Scalar<'t> {
        if self.margin == 0.0 { x } else { x - self.margin }
    }

    /// The log-ratio margin with each log-ratio divided by the tokens of its answer.
    pub fn mean_log_ratio_margin(&self) -> Scalar<'t> {
        self.chosen.mean_log_ratio() - self.rejected.mean_log_ratio()
    }

    /// The policy's log-probability per token of the chosen answer less that of the rejected one.
    pub fn mean_logp_margin(&self) -> Scalar<'t> {
        self.chosen.mean_logp() - self.rejected.mean_logp()
    }
}

/// `-(1 - e) ln sigmoid(x) - e ln sigmoid(-x)`: the log-loss of a preference that is labelled the wrong way round with
/// probability `e`.
pub fn smoothed_log_loss<'t>(x: Scalar<'t>, label_smoothing: f64) -> Scalar<'t> {
    (1.0 - label_smoothing) * (-x).softplus() + label_smoothing * x.softplus()
}

/// The label of an unpaired answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// To be made more likely.
    Desirable,
    /// To be made less likely.
    Undesirable,
}

/// The numbers that the rows of a coupled loss share, by name; `kl` is logged.
///
/// They carry no gradient. Computed over the whole optimiser batch, so that the micro-batches do not show in the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    values: Vec<(&'static str, f64)>,
    /// What the run remembers once the step is made.
    pub(super) history: History,
}

impl Statistics {
    /// Statistics of these names and values.
    pub fn new(values: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        Self { values: values.into_iter().collect(), history: History::default() }
    }

    /// The same, with what the run remembers once the step is made.
    pub fn remembering(self, history: History) -> Self {
        Self { history, ..self }
    }

    /// What the run remembers once the step is made.
    pub fn history(&self) -> History {
        self.history
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

/// How the log-probabilities of a batch's answers become one number, see [`SftTerm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum over all tokens of the batch by their number.
    TokenMean,
    /// The mean over the answers of each answer's mean over its tokens.
    SeqMean,
    /// The mean over the answers of each answer's sum.
    SeqSum,
}

impl Reduction {
    /// As `--sft-reduction` names it.
    ///
    /// # Panics
    /// For another word: the knob accepts no other.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "token_mean" => Reduction::TokenMean,
            "seq_mean" => Reduction::SeqMean,
            "seq_sum" => Reduction::SeqSum,
            other => unreachable!("the knob accepts no `{other}`"),
        }
    }
}

/// `weight * -ln policy(chosen)`, reduced over the batch: what supervised fine-tuning on the chosen answers adds to a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SftTerm {
    /// What it counts beside the loss.
    pub weight: f64,
    /// How answers become one number.
    pub reduction: Reduction,
}

/// A loss of one pair.
pub trait PairLoss: Send + Sync {
    /// The loss of `pair`, nats or whatever the formula gives; the objective is the mean over the batch.
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t>;

    /// What the method adds to the loss of `pair` that is no part of its item: the mean has it, the logged loss of the item has
    /// not.
    fn regulariser<'t>(&self, _pair: &Pair<'t>) -> Option<Scalar<'t>> {
        None
    }

    /// The likelihood term that the method adds to the mean.
    fn sft_term(&self) -> Option<SftTerm> {
        None
    }

    /// What the loss wants larger for chosen answers than for rejected ones, for a loss without a reference: its reward in the
    /// log.
    fn reward(&self, _answer: &Answer<'_>) -> Option<f64> {
        None
    }

    /// The size of `beta * log_ratio_margin` beyond which the gradient vanishes on both sides, so that badly ordered pairs
    /// are not learned either; none for most losses.
    fn saturates_beyond(&self) -> Option<f64> {
        None
    }

    /// Whether a bound of the formula takes the gradient of `pair` away, for a loss that has one: such pairs are counted and
    /// reported.
    fn is_clipped(&self, _pair: &Pair<'_>) -> Option<bool> {
        None
    }
}

/// A loss whose pairs depend on one another.
pub trait PairBatchLoss: Send + Sync {
    /// The numbers shared by the batch, after what the run remembers from the steps before.
    fn statistics(&self, pairs: &[Pair<'_>], history: &History) -> Statistics;

    /// Whether the loss of a pair depends on other pairs in more than the statistics. If so, evaluations go by batches.
    fn compares_pairs(&self) -> bool {
        false
    }

    /// The items whose mean is the objective. Item `i` belongs to pair `i % pairs.len()`, and every pair has as many.
    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>>;
}

/// Log-ratios of the answers of a batch, nats.
pub struct BatchLogRatios<'a> {
    /// Of each row's own answer; empty where the loss has [`Coupling::MismatchedRows`].
    pub own: &'a [f64],
    /// Of each row's mismatched answer; empty for another coupling.
    pub mismatched: &'a [f64],
}

/// A loss of one labelled answer.
pub trait UnpairedLoss: Send + Sync {
    /// What it depends on besides its row.
    fn coupling(&self) -> Coupling;

    /// The numbers shared by the batch, after what the run remembers from the steps before.
    fn statistics(&self, batch: &BatchLogRatios<'_>, history: &History) -> Statistics;

    /// The loss of `answer`; the objective is the mean over the batch.
    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, statistics: &Statistics) -> Scalar<'t>;
}

/// A loss of all answers to one prompt, of which there may be any number.
pub trait KWayLoss: Send + Sync {
    /// The loss of the answers with their rewards, larger is better; the objective is the mean over the prompts of the batch.
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t>;

    /// Whether these rewards give no loss, whatever the answers; such rows are counted and reported.
    fn is_undecided(&self, _rewards: &[f64]) -> bool {
        false
    }
}

/// A loss with its knobs set.
pub enum Loss {
    /// Pairs, each on its own.
    Pair(Box<dyn PairLoss>),
    /// Pairs, all of a batch together.
    PairBatch(Box<dyn PairBatchLoss>),
    /// Labelled answers.
    Unpaired(Box<dyn UnpairedLoss>),
    /// Scored answers to one prompt.
    KWay(Box<dyn KWayLoss>),
    /// Texts to be made likely: alone on rows of its own, in a mix on the chosen answers.
    Sft(Reduction),
}

impl Loss {
    /// What its rows depend on.
    pub fn coupling(&self) -> Coupling {
        match self {
            Loss::Pair(_) | Loss::KWay(_) | Loss::Sft(_) => Coupling::None,
            Loss::PairBatch(_) => Coupling::WholeBatch,
            Loss::Unpaired(loss) => loss.coupling(),
        }
    }

    /// Whether a row's loss depends on the other rows of its batch in more than their statistics.
    pub fn compares_rows(&self) -> bool {
        matches!(self, Loss::PairBatch(loss) if loss.compares_pairs())
    }
}
