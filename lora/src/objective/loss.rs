//! What a loss file builds on: the types for the numbers of a row on the tape, and the traits that a loss implements.

use super::divergence::Divergence;
use super::history::History;
use align_engine::autograd::scalar::Scalar;

/// One answer to one prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'t> {
    /// Summed log-probability of the answer's tokens under the policy, in nats. For a loss of a reward model, the answer's reward.
    pub policy: Scalar<'t>,
    /// Summed log-probability under the reference, in nats, without a gradient. NaN for a loss without a reference, so that a
    /// formula that reads it by mistake gives NaN.
    pub reference: f64,
    /// Tokens of the answer, at least 1.
    pub len: f64,
}

impl<'t> Answer<'t> {
    /// `policy - reference`, in nats. The reward is `beta` times this.
    pub(crate) fn log_ratio(&self) -> Scalar<'t> {
        self.policy - self.reference
    }

    /// [`Answer::log_ratio`] per token.
    pub(crate) fn mean_log_ratio(&self) -> Scalar<'t> {
        self.log_ratio() / self.len
    }

    /// The policy's log-probability per token.
    pub(crate) fn mean_logp(&self) -> Scalar<'t> {
        self.policy / self.len
    }
}

/// The two answers of a pair, and what its row says about them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair<'t> {
    /// The preferred answer.
    pub chosen: Answer<'t>,
    /// The answer that is not preferred.
    pub rejected: Answer<'t>,
    /// The row's `margin`, which the reward margin must exceed. 0 if the row has none.
    pub margin: f64,
    /// The row's `prob_win_chosen` and `prob_win_rejected`: how often each answer wins against other answers. NaN if the row has
    /// none.
    pub prob_win: [f64; 2],
    /// The row's `prob_chosen_beats_rejected`. NaN if the row has none.
    pub prob_beats: f64,
    /// The f-divergence whose scores replace the log-ratios in [`Pair::log_ratio_margin`].
    pub divergence: Divergence,
}

impl<'t> Pair<'t> {
    /// Log-ratio of the chosen answer minus that of the rejected one, in nats. The reward margin is `beta` times this. With an
    /// f-divergence other than the reverse KL, scores replace the log-ratios.
    pub(crate) fn log_ratio_margin(&self) -> Scalar<'t> {
        let [chosen, rejected] = [self.chosen, self.rejected].map(|answer| self.divergence.score(answer.log_ratio()));
        chosen - rejected
    }

    /// `beta * log_ratio_margin - margin`
    pub(crate) fn reward_margin(&self, beta: f64) -> Scalar<'t> {
        self.beyond_margin(beta * self.log_ratio_margin())
    }

    /// Subtracts the row's margin from `x`.
    pub(crate) fn beyond_margin(&self, x: Scalar<'t>) -> Scalar<'t> {
        if self.margin == 0.0 { x } else { x - self.margin }
    }

    /// The margin of the log-ratios per token. `divergence` has no effect on it.
    pub(crate) fn mean_log_ratio_margin(&self) -> Scalar<'t> {
        self.chosen.mean_log_ratio() - self.rejected.mean_log_ratio()
    }

    /// The policy's log-probability per token of the chosen answer minus that of the rejected one.
    pub(crate) fn mean_logp_margin(&self) -> Scalar<'t> {
        self.chosen.mean_logp() - self.rejected.mean_logp()
    }
}

/// `-(1 - e) ln sigmoid(x) - e ln sigmoid(-x)`: the log-loss of a preference that is labelled the wrong way round with
/// probability `e`.
pub(super) fn smoothed_log_loss<'t>(x: Scalar<'t>, label_smoothing: f64) -> Scalar<'t> {
    (1.0 - label_smoothing) * (-x).softplus() + label_smoothing * x.softplus()
}

/// The label of an unpaired answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// To be made more likely.
    Desirable,
    /// To be made less likely.
    Undesirable,
}

/// The numbers that the rows of a coupled loss share, by name. `kl` is logged.
///
/// They carry no gradient. They are computed over the whole optimiser batch, so the result does not depend on micro-batches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    values: Vec<(&'static str, f64)>,
    /// The history that the run keeps after the step.
    pub(super) history: History,
}

impl Statistics {
    /// Makes statistics from names and values.
    pub fn new(values: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        Self { values: values.into_iter().collect(), history: History::default() }
    }

    /// Sets the history that the run keeps after the step.
    pub fn remembering(self, history: History) -> Self {
        Self { history, ..self }
    }

    /// The history that the run keeps after the step.
    pub fn history(&self) -> History {
        self.history
    }

    /// Returns the value with this name, if there is one.
    pub fn find(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// Returns the value with this name.
    ///
    /// # Panics
    /// If it is missing, because a coupled loss was evaluated without the statistics of its batch.
    pub fn get(&self, name: &str) -> f64 {
        self.find(name).unwrap_or_else(|| panic!("a coupled loss needs the statistic `{name}` of its batch"))
    }
}

/// What a row's loss depends on besides the row itself. This decides which numbers are needed before the first gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coupling {
    /// Nothing: micro-batches are independent.
    None,
    /// The log-probabilities of the batch's mismatched answers, see [`Objective::statistics`](super::Objective::statistics).
    MismatchedRows,
    /// The log-probabilities of all rows. The head needs the whole optimiser batch at once, so a batch of several micro-batches is
    /// first scored without gradient, then run again with gradient, one micro-batch at a time.
    WholeBatch,
}

/// How the log-probabilities of a batch's answers become one number, see [`SftTerm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduction {
    /// The mean over all tokens of the batch.
    TokenMean,
    /// The mean over the answers of each answer's mean over its tokens.
    SeqMean,
    /// The mean over the answers of each answer's sum.
    SeqSum,
}

impl Reduction {
    /// Reads the word of `--sft-reduction`.
    ///
    /// # Panics
    /// If `name` is any other word, which the knob does not accept.
    pub(super) fn named(name: &str) -> Self {
        match name {
            "token_mean" => Reduction::TokenMean,
            "seq_mean" => Reduction::SeqMean,
            "seq_sum" => Reduction::SeqSum,
            other => unreachable!("the knob accepts no `{other}`"),
        }
    }
}

/// A term for supervised fine-tuning on the chosen answers, which is added to a loss: `weight * -ln policy(chosen)`, reduced over
/// the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SftTerm {
    /// Its factor.
    pub weight: f64,
    /// How the answers' log-probabilities become one number.
    pub reduction: Reduction,
}

/// A loss of one pair.
pub(crate) trait PairLoss: Send + Sync {
    /// Returns the loss of `pair`, in nats or in the formula's own unit. The objective is the mean over the batch.
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t>;

    /// Returns a term for `pair` that is part of the mean but not of the logged loss of the item.
    fn regulariser<'t>(&self, _pair: &Pair<'t>) -> Option<Scalar<'t>> {
        None
    }

    /// Returns the likelihood term that the formula adds to the mean. `None` for most losses.
    fn sft_term(&self) -> Option<SftTerm> {
        None
    }

    /// Returns the reward of `answer` that the log shows for a loss without a reference. It is the number that the loss wants
    /// larger for chosen answers than for rejected ones.
    fn reward(&self, _answer: &Answer<'_>) -> Option<f64> {
        None
    }

    /// Returns the absolute value of `beta * log_ratio_margin` beyond which the gradient vanishes on both sides, so that badly
    /// ordered pairs are not learned either. `None` for most losses.
    fn saturates_beyond(&self) -> Option<f64> {
        None
    }

    /// Whether a bound of the formula removes the gradient of `pair`. Such pairs are counted and reported. `None` if the formula
    /// has no such bound.
    fn is_clipped(&self, _pair: &Pair<'_>) -> Option<bool> {
        None
    }
}

/// A loss whose pairs depend on one another.
pub(crate) trait PairBatchLoss: Send + Sync {
    /// Computes the numbers that the batch shares, from its rows and from what the run remembers.
    fn statistics(&self, pairs: &[Pair<'_>], history: &History) -> Statistics;

    /// Whether the loss of a pair depends on other pairs beyond the statistics. If so, evaluations work batch by batch.
    fn compares_pairs(&self) -> bool {
        false
    }

    /// Returns the items whose mean is the objective. Item `i` belongs to pair `i % pairs.len()`; every pair has the same number of
    /// items.
    fn losses<'t>(&self, pairs: &[Pair<'t>], statistics: &Statistics) -> Vec<Scalar<'t>>;
}

/// Log-ratios of the answers of a batch, in nats.
pub(crate) struct BatchLogRatios<'a> {
    /// Log-ratio of each row's own answer. Empty unless the loss has [`Coupling::WholeBatch`].
    pub own: &'a [f64],
    /// Log-ratio of each row's mismatched answer. Empty unless the loss has [`Coupling::MismatchedRows`].
    pub mismatched: &'a [f64],
}

/// A loss of one labelled answer.
pub(crate) trait UnpairedLoss: Send + Sync {
    /// Returns what the loss depends on besides its row.
    fn coupling(&self) -> Coupling;

    /// Computes the numbers that the batch shares, from its rows and from what the run remembers.
    fn statistics(&self, batch: &BatchLogRatios<'_>, history: &History) -> Statistics;

    /// Returns the loss of `answer`. The objective is the mean over the batch.
    fn loss<'t>(&self, answer: &Answer<'t>, label: Label, statistics: &Statistics) -> Scalar<'t>;
}

/// A loss of all answers to one prompt, any number of them.
pub(crate) trait KWayLoss: Send + Sync {
    /// Returns the loss of the answers with their rewards (larger is better). The objective is the mean over the batch's
    /// prompts.
    fn loss<'t>(&self, answers: &[Answer<'t>], rewards: &[f64]) -> Scalar<'t>;

    /// Whether the loss is 0 because it compares pairs of answers and these rewards make no pair. Such rows are counted and
    /// reported.
    fn is_undecided(&self, _rewards: &[f64]) -> bool {
        false
    }
}

/// A loss with its knobs set.
pub(crate) enum Loss {
    /// Pairs, each on its own.
    Pair(Box<dyn PairLoss>),
    /// Pairs, all of a batch together.
    PairBatch(Box<dyn PairBatchLoss>),
    /// Labelled answers.
    Unpaired(Box<dyn UnpairedLoss>),
    /// Scored answers to one prompt.
    KWay(Box<dyn KWayLoss>),
    /// Likelihood. Alone, it is that of the rows' texts; in a mix of losses, that of the chosen answers.
    Sft(Reduction),
}

/// A loss of one pair that is a formula and nothing else.
struct Formula<F>(F);

impl<F: for<'t> Fn(&Pair<'t>) -> Scalar<'t> + Send + Sync> PairLoss for Formula<F> {
    fn loss<'t>(&self, pair: &Pair<'t>) -> Scalar<'t> {
        (self.0)(pair)
    }
}

impl Loss {
    /// Makes a loss of single pairs from its formula.
    pub(super) fn of_pair(formula: impl for<'t> Fn(&Pair<'t>) -> Scalar<'t> + Send + Sync + 'static) -> Loss {
        Loss::Pair(Box::new(Formula(formula)))
    }

    /// Returns what a row's loss depends on besides the row.
    pub(crate) fn coupling(&self) -> Coupling {
        match self {
            Loss::Pair(_) | Loss::KWay(_) | Loss::Sft(_) => Coupling::None,
            Loss::PairBatch(_) => Coupling::WholeBatch,
            Loss::Unpaired(loss) => loss.coupling(),
        }
    }

    /// Whether a row's loss depends on the other rows of its batch beyond their statistics.
    pub(crate) fn compares_rows(&self) -> bool {
        matches!(self, Loss::PairBatch(loss) if loss.compares_pairs())
    }
}
