//! Computes the loss, its derivatives and the rewards from the per-sequence numbers of a batch.

use super::choice::{LengthDesensitisation, Objective, Part};
use super::error::HeadError;
use super::history::History;
use super::loss::{Answer, BatchLogRatios, Coupling, Label, Loss, Pair, Reduction, SftTerm, Statistics};
use super::spec::Scores;
use super::unlearned::{Unlearned, UnlearnedCounts};
use align_data::{RowKind, RowNumbers, Target};
use align_engine::autograd::scalar::{Scalar, ScalarTape};

/// The per-sequence numbers of one data row: f64 sums of log-probabilities over the tokens of each answer, in nats. For the
/// losses of a reward model ([`Scores::Reward`]) the policy's number is the answer's score instead.
#[derive(Clone, Debug, PartialEq)]
pub struct RowLogps {
    /// The policy's number of each answer. In a pair, the chosen answer comes first.
    pub policy: Vec<f64>,
    /// The reference's number of each answer. Empty if the objective needs no reference.
    pub reference: Vec<f64>,
    /// Number of tokens of each answer.
    pub lens: Vec<usize>,
    /// What the row says about the answers. `None` for a text of the reference data. Such a text is not an item of the objective;
    /// only its likelihood counts.
    pub target: Option<Target>,
    /// The sums over each answer's tokens beyond the shorter one's length, for an objective with [`Objective::tails`].
    pub tails: Option<Tails>,
    /// The factor of the pair's loss.
    pub weight: f64,
    /// The pair's [`wpo_weight`](super::wpo_weight) if the objective has [`Objective::weighting`], otherwise 1.
    pub policy_weight: f64,
    /// Further numbers of the row, such as its margin.
    pub numbers: RowNumbers,
    /// The mismatched answer, for an objective with [`Coupling::MismatchedRows`].
    pub mismatched: Option<Mismatched>,
}

/// For each answer of a pair, the sum over its tokens beyond the shorter answer's length, in nats. The sums of [`RowLogps`]
/// include these.
#[derive(Clone, Debug, PartialEq)]
pub struct Tails {
    /// Under the policy.
    pub policy: [f64; 2],
    /// Under the reference; 0 if the objective needs none.
    pub reference: [f64; 2],
}

/// Totals of the rows of an optimiser batch, known before any log-probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTotals {
    /// Rows that are items of the objective: all except those of the reference data.
    pub rows: usize,
    /// Tokens that a likelihood term counts: those of the chosen answers of pairs, and those of sequences.
    pub sft_tokens: usize,
    /// Tokens of the reference data.
    pub reference_tokens: usize,
}

impl BatchTotals {
    /// Computes the totals of `rows`. Does not read their log-probabilities.
    pub fn of_rows(rows: &[RowLogps]) -> Self {
        let mut totals = BatchTotals::default();
        for RowLogps { target, lens, .. } in rows {
            match target {
                None => totals.reference_tokens += lens[0].max(1),
                Some(Target::Pair | Target::Sequence) => {
                    totals.rows += 1;
                    totals.sft_tokens += lens[0].max(1);
                }
                Some(Target::Label(_) | Target::Rewards(_)) => totals.rows += 1,
            }
        }
        totals
    }
}

/// Summed log-probabilities of another row's answer after this row's prompt, in nats. They carry no gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatched {
    /// Under the policy.
    pub policy: f64,
    /// Under the reference.
    pub reference: f64,
}

/// What the head returns for a set of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The share of these rows in the mean over the optimiser batch. The shares of its micro-batches add up to the objective.
    pub loss: f64,
    /// The loss of each item before the mean: one for each row, or for `kto_pair` two (all chosen, then all rejected). Terms
    /// beside the mean and rows of the reference data are not included.
    pub per_item_loss: Vec<f64>,
    /// Derivative of the batch's objective with respect to each `policy` number of each row. It includes the factor
    /// `1 / batch_rows`.
    pub d_policy: Vec<Vec<f64>>,
    /// What to add to `d_policy` for the tokens beyond the shorter answer's length. Empty unless the objective has
    /// [`Objective::tails`].
    pub d_tails: Vec<[f64; 2]>,
    /// Whether the `policy` numbers of the rows are log-probabilities or rewards.
    pub scores: Scores,
    /// `beta * (policy - reference)` of each answer of each row. Without a reference, the number by which the loss ranks
    /// answers, or nothing. For a reward model, its scores.
    pub rewards: Vec<Vec<f64>>,
    /// Pairs whose margin is so far from 0 that the loss has no gradient, see [`Objective::unlearned`].
    pub saturated: usize,
    /// Pairs whose gradient a bound of the formula removed, for a loss with such a bound.
    pub clipped: Option<usize>,
    /// Rows of scored answers whose rewards make no pair, so that their loss is 0.
    pub undecided: usize,
}

impl Objective {
    /// Computes the numbers that the rows of a coupled loss share, over all rows of the optimiser batch and the run's history.
    ///
    /// With [`Coupling::None`] there are none, and `batch` is not read. With [`Coupling::MismatchedRows`] only `mismatched` is
    /// read, so this can run before the rows themselves. With [`Coupling::WholeBatch`] everything is read.
    ///
    /// # Errors
    /// [`HeadError::NonFinite`]; [`HeadError::BatchTooSmall`] for a batch of one row with mismatched answers, since the
    /// mismatched answer would be the row's own.
    ///
    /// # Panics
    /// If a number that the coupling needs is missing.
    pub fn statistics(&self, batch: &[RowLogps], history: &History) -> Result<Statistics, HeadError> {
        let part = &self.parts[0]; // `Objective::new` refuses a coupled loss in a mix
        match &part.loss {
            Loss::Pair(_) | Loss::KWay(_) | Loss::Sft(_) => Ok(Statistics::default().remembering(*history)),
            Loss::PairBatch(loss) => {
                let tape = ScalarTape::new();
                let leaves = self.on_tape(&tape, batch)?;
                let rows = main_rows(batch);
                Ok(loss.statistics(&self.pairs(part, batch, &leaves, &rows), history))
            }
            Loss::Unpaired(loss) => {
                let mut own = Vec::new();
                let mut mismatched = Vec::new();
                match loss.coupling() {
                    Coupling::None => {}
                    Coupling::WholeBatch => {
                        let tape = ScalarTape::new();
                        let leaves = self.on_tape(&tape, batch)?;
                        own.extend(leaves.iter().map(|leaves| leaves[0].whole().log_ratio().value()));
                    }
                    Coupling::MismatchedRows => {
                        if batch.len() < 2 {
                            let (loss, rows) = (part.spec.name, batch.len());
                            return Err(HeadError::BatchTooSmall { loss, rows, needed: 2 });
                        }
                        for (row, numbers) in batch.iter().enumerate() {
                            let scored = numbers.mismatched;
                            let Mismatched { policy, reference } =
                                scored.expect("the trainer scores a mismatched answer for every row of this loss");
                            finite(row, "the policy log-prob of the mismatched answer", policy)?;
                            finite(row, "the reference log-prob of the mismatched answer", reference)?;
                            mismatched.push(policy - reference);
                        }
                    }
                }
                Ok(loss.statistics(&BatchLogRatios { own: &own, mismatched: &mismatched }, history))
            }
        }
    }

    /// Computes the share of `rows` in the objective of the optimiser batch, whose totals are `batch`.
    ///
    /// `statistics` are those of the whole optimiser batch. If the loss compares rows with each other, `rows` must be that
    /// whole batch; otherwise it may be any part.
    ///
    /// # Errors
    /// [`HeadError::NonFinite`] for numbers that are or become NaN or infinite; [`HeadError::MissingColumn`].
    ///
    /// # Panics
    /// If `rows` is empty or does not fit the objective's data, reference or coupling, which is a mistake of the caller.
    pub fn head(&self, rows: &[RowLogps], statistics: &Statistics, batch: BatchTotals) -> Result<Head, HeadError> {
        let main = main_rows(rows);
        assert!(!rows.is_empty() && main.len() <= batch.rows, "{} rows of a batch of {}", main.len(), batch.rows);
        if self.compares_rows() {
            assert_eq!(main.len(), batch.rows, "{} compares the rows of the whole batch", self.name());
        }
        let tape = ScalarTape::new();
        let leaves = self.on_tape(&tape, rows)?;
        let items = self.items(rows, &leaves, &main, statistics, batch);
        let mut terms = self.likelihood_terms(rows, &leaves, batch);
        terms.extend(self.regularisers(rows, &leaves, &main, batch));
        if !items.is_empty() {
            terms.insert(0, Scalar::mean(&items) * (main.len() as f64 / batch.rows as f64));
        }
        let loss = match terms[..] {
            [] => tape.leaf(0.0),
            [one] => one,
            _ => Scalar::sum(&terms),
        };
        let grads = tape.backward(loss);

        let per_item_loss: Vec<f64> = items.iter().map(|item| item.value()).collect();
        for (item, &value) in per_item_loss.iter().enumerate() {
            finite(main[item % main.len()], "the loss", value)?;
        }
        let d_policy: Vec<Vec<f64>> =
            leaves.iter().map(|row| row.iter().map(|leaf| grads.of(leaf.policy)).collect()).collect();
        let d_of_tail = |leaf: Option<&Leaves<'_>>| leaf?.tail.map(|(tail, _)| grads.of(tail));
        let d_tails: Vec<[f64; 2]> = match self.tails() {
            true => leaves.iter().map(|row| [0, 1].map(|i| d_of_tail(row.get(i)).unwrap_or(0.0))).collect(),
            false => Vec::new(),
        };
        let d_tail = |row: usize| d_tails.get(row).into_iter().flatten();
        for (row, d_policy) in d_policy.iter().enumerate() {
            for &d in d_policy.iter().chain(d_tail(row)) {
                let what = match self.scores() {
                    Scores::LogProbs => "the derivative of the loss by the policy log-prob",
                    Scores::Reward => "the derivative of the loss by the reward",
                };
                finite(row, what, d)?;
            }
        }
        let rewarding = self.rewarding();
        let reward = |leaf: &Leaves<'_>| {
            let answer = leaf.answer(rewarding.ld);
            match (self.scores(), self.reference(), &rewarding.loss) {
                (Scores::Reward, ..) => Some(answer.policy.value()),
                (Scores::LogProbs, true, _) => Some(rewarding.beta() * answer.log_ratio().value()),
                (Scores::LogProbs, false, Loss::Pair(loss)) => loss.reward(&answer),
                (Scores::LogProbs, false, _) => None,
            }
        };
        let rewards = leaves.iter().map(|row| row.iter().filter_map(reward).collect()).collect();
        let (mut saturated, mut clipped) = (0, None);
        // not for a mix, in which a pair also has the gradients of the other losses
        if let [part @ Part { loss: Loss::Pair(loss), .. }] = &self.parts[..] {
            for pair in self.pairs(part, rows, &leaves, &main) {
                let margin = || (part.beta() * pair.log_ratio_margin().value()).abs();
                saturated += usize::from(loss.saturates_beyond().is_some_and(|limit| margin() > limit));
                if let Some(is_clipped) = loss.is_clipped(&pair) {
                    *clipped.get_or_insert(0) += usize::from(is_clipped);
                }
            }
        }
        let says_nothing = |row: &RowLogps| match (&self.parts[0].loss, &row.target) {
            (Loss::KWay(loss), Some(Target::Rewards(rewards))) => loss.is_undecided(rewards),
            _ => false,
        };
        let undecided = rows.iter().filter(|row| says_nothing(row)).count();
        let (loss, scores) = (loss.value(), self.scores());
        Ok(Head { loss, per_item_loss, d_policy, d_tails, scores, rewards, saturated, clipped, undecided })
    }

    /// Returns the kinds of rows that taught a run nothing, with their counts. Pairs are left out if they are too few to matter.
    pub fn unlearned(&self, counts: &UnlearnedCounts) -> Vec<Unlearned> {
        let &UnlearnedCounts { saturated, clipped, undecided, .. } = counts;
        let margin = self.saturates_beyond().filter(|_| counts.is_many(saturated));
        let saturated = margin.map(|margin| Unlearned::Saturated { pairs: saturated, margin });
        let clipped = counts.is_many(clipped).then_some(Unlearned::Clipped { pairs: clipped });
        let undecided = (undecided > 0).then_some(Unlearned::Undecided { rows: undecided });
        [saturated, clipped, undecided].into_iter().flatten().collect()
    }

    fn saturates_beyond(&self) -> Option<f64> {
        match &self.parts[..] {
            [Part { loss: Loss::Pair(loss), .. }] => loss.saturates_beyond(),
            _ => None,
        }
    }

    /// Returns the items of the rows `main`, whose mean is the objective.
    fn items<'t>(
        &self,
        rows: &[RowLogps],
        leaves: &[Vec<Leaves<'t>>],
        main: &[usize],
        statistics: &Statistics,
        batch: BatchTotals,
    ) -> Vec<Scalar<'t>> {
        if main.is_empty() {
            return Vec::new();
        }
        let part = &self.parts[0];
        match &part.loss {
            Loss::PairBatch(loss) => {
                let items = loss.losses(&self.pairs(part, rows, leaves, main), statistics);
                items.into_iter().map(|item| part.weight * item).collect()
            }
            Loss::Unpaired(loss) => {
                let item =
                    |&row: &usize| part.weight * loss.loss(&leaves[row][0].whole(), label(&rows[row]), statistics);
                main.iter().map(item).collect()
            }
            Loss::KWay(loss) => {
                let item = |&row: &usize| {
                    let answers: Vec<_> = leaves[row].iter().map(Leaves::whole).collect();
                    let Some(Target::Rewards(rewards)) = &rows[row].target else {
                        unreachable!("on_tape checked the targets")
                    };
                    part.weight * loss.loss(&answers, rewards)
                };
                main.iter().map(item).collect()
            }
            Loss::Sft(reduction) if self.data() == RowKind::Sequence => {
                let item = |&row: &usize| {
                    let term = SftTerm { weight: part.weight, reduction: *reduction };
                    // scaled so that the mean over the rows is the likelihood term
                    batch.rows as f64 * likelihood(&leaves[row][0].whole(), term, batch)
                };
                main.iter().map(item).collect()
            }
            Loss::Pair(_) | Loss::Sft(_) => {
                let mut items: Vec<Scalar<'t>> = Vec::with_capacity(main.len());
                for part in &self.parts {
                    let Loss::Pair(loss) = &part.loss else { continue };
                    let pairs = self.pairs(part, rows, leaves, main);
                    for (i, (pair, &row)) in pairs.iter().zip(main).enumerate() {
                        let item = part.weight * part.weight_of(&rows[row]) * loss.loss(pair);
                        match items.get_mut(i) {
                            Some(sum) => *sum = *sum + item,
                            None => items.push(item),
                        }
                    }
                }
                items
            }
        }
    }

    /// Returns the terms that losses add to the mean beside their items, for the rows `main`.
    fn regularisers<'t>(
        &self,
        rows: &[RowLogps],
        leaves: &[Vec<Leaves<'t>>],
        main: &[usize],
        batch: BatchTotals,
    ) -> Vec<Scalar<'t>> {
        let mut terms = Vec::new();
        for part in &self.parts {
            let Loss::Pair(loss) = &part.loss else { continue };
            for (pair, &row) in self.pairs(part, rows, leaves, main).iter().zip(main) {
                let weight = part.weight * part.weight_of(&rows[row]) / batch.rows as f64;
                terms.extend(loss.regulariser(pair).map(|term| weight * term));
            }
        }
        terms
    }

    /// Returns the terms that the likelihoods of chosen answers and of the reference data add to the mean, for `rows`.
    fn likelihood_terms<'t>(
        &self,
        rows: &[RowLogps],
        leaves: &[Vec<Leaves<'t>>],
        batch: BatchTotals,
    ) -> Vec<Scalar<'t>> {
        let mut terms = Vec::new();
        for (row, leaves) in rows.iter().zip(leaves) {
            match row.target {
                Some(Target::Pair) => {
                    let chosen = leaves[0].whole();
                    terms.extend(self.sft_terms().map(|term| likelihood(&chosen, term, batch)));
                }
                None => {
                    let weight = self.eta() / batch.reference_tokens.max(1) as f64;
                    terms.push(-weight * leaves[0].policy);
                }
                Some(Target::Label(_) | Target::Rewards(_) | Target::Sequence) => {}
            }
        }
        terms
    }

    /// Returns the likelihood terms: those of the losses themselves, of `sft` in a mix, and of `--sft-weight`.
    fn sft_terms(&self) -> impl Iterator<Item = SftTerm> + '_ {
        let of_part = |part: &Part| {
            let own = match &part.loss {
                Loss::Pair(loss) => loss.sft_term(),
                Loss::Sft(reduction) => Some(SftTerm { weight: 1.0, reduction: *reduction }),
                _ => None,
            };
            let weight = part.weight;
            [own, part.sft].into_iter().flatten().map(move |term| SftTerm { weight: weight * term.weight, ..term })
        };
        self.parts.iter().flat_map(of_part).filter(|term| term.weight > 0.0)
    }

    /// Returns the pairs of the rows `main`. `part` decides how their tails count and how their log-ratios are scored.
    fn pairs<'t>(&self, part: &Part, rows: &[RowLogps], leaves: &[Vec<Leaves<'t>>], main: &[usize]) -> Vec<Pair<'t>> {
        let pair = |&row: &usize| {
            let numbers = &rows[row].numbers;
            Pair {
                chosen: leaves[row][0].answer(part.ld),
                rejected: leaves[row][1].answer(part.ld),
                margin: numbers.margin_or_zero(),
                prob_win: numbers.win_probability.unwrap_or([f64::NAN; 2]),
                prob_beats: numbers.beats_probability.unwrap_or(f64::NAN),
                divergence: part.divergence,
            }
        };
        main.iter().map(pair).collect()
    }

    /// Checks the rows, and returns the answers of every row with the policy's numbers as leaves of `tape`.
    fn on_tape<'t>(&self, tape: &'t ScalarTape, rows: &[RowLogps]) -> Result<Vec<Vec<Leaves<'t>>>, HeadError> {
        let mut all = Vec::with_capacity(rows.len());
        for (row, numbers) in rows.iter().enumerate() {
            let RowLogps { policy, reference, lens, target, tails, .. } = numbers;
            let fits = target.as_ref().map_or(self.reference_data(), |target| target.kind() == self.data());
            let n_answers = match target {
                Some(Target::Pair) => 2,
                Some(Target::Rewards(rewards)) => rewards.len(),
                Some(Target::Label(_) | Target::Sequence) | None => 1,
            };
            assert!(fits && n_answers > 0, "row {row}: {} needs {}, the row is {target:?}", self.name(), self.data());
            assert_eq!([policy.len(), lens.len()], [n_answers; 2], "row {row}: answers, lengths");
            assert_eq!(reference.len(), if self.reference() { n_answers } else { 0 }, "row {row}: reference log-probs");
            if target.is_some() {
                self.check_columns(row, numbers)?;
            }
            let mut of_row = Vec::with_capacity(n_answers);
            for i in 0..n_answers {
                let what = match self.scores() {
                    Scores::LogProbs => "the policy log-prob",
                    Scores::Reward => "the reward",
                };
                finite(row, what, policy[i])?;
                let reference = if self.reference() { reference[i] } else { f64::NAN };
                if self.reference() {
                    finite(row, "the reference log-prob", reference)?;
                }
                let len = lens[i].max(1) as f64;
                let tail = match (self.tails(), target, tails) {
                    (true, Some(Target::Pair), Some(tails)) => Some((tape.leaf(tails.policy[i]), tails.reference[i])),
                    (true, Some(Target::Pair), None) => {
                        panic!("row {row}: the tails of an objective that counts them apart are missing")
                    }
                    _ => None,
                };
                of_row.push(Leaves { policy: tape.leaf(policy[i]), reference, len, tail });
            }
            all.push(of_row);
        }
        Ok(all)
    }

    /// Refuses a row that lacks a column that a loss requires.
    fn check_columns(&self, row: usize, numbers: &RowLogps) -> Result<(), HeadError> {
        for part in &self.parts {
            if let Some(missing) = part.spec.columns.iter().find(|column| !column.is_in(&numbers.numbers)) {
                return Err(HeadError::MissingColumn { row, loss: part.spec.name, column: missing.name() });
            }
        }
        Ok(())
    }
}

/// The numbers of an answer. Those of the policy are leaves of the tape.
struct Leaves<'t> {
    policy: Scalar<'t>,
    reference: f64,
    len: f64,
    /// The parts of `policy` and `reference` that come from tokens beyond the shorter answer's length, if the objective counts them
    /// apart.
    tail: Option<(Scalar<'t>, f64)>,
}

impl<'t> Leaves<'t> {
    /// Returns the answer with all tokens counted alike.
    fn whole(&self) -> Answer<'t> {
        Answer { policy: self.policy, reference: self.reference, len: self.len }
    }

    /// Returns the answer with its tail weighted as `ld` says. `None` counts all tokens alike.
    fn answer(&self, ld: Option<LengthDesensitisation>) -> Answer<'t> {
        let (Some(ld), Some((policy, reference))) = (ld, self.tail) else { return self.whole() };
        let left_out = 1.0 - ld.alpha;
        let of_reference = if ld.reference { left_out * reference } else { 0.0 };
        Answer { policy: self.policy - left_out * policy, reference: self.reference - of_reference, len: self.len }
    }
}

impl Part {
    /// Returns the factor of a pair's loss in this part, without the part's own weight.
    fn weight_of(&self, row: &RowLogps) -> f64 {
        if self.weighting { row.weight * row.policy_weight } else { row.weight }
    }
}

/// Returns the indices of the rows that are items of the objective.
fn main_rows(rows: &[RowLogps]) -> Vec<usize> {
    (0..rows.len()).filter(|&row| rows[row].target.is_some()).collect()
}

/// Returns an answer's share of a likelihood term over the batch.
fn likelihood<'t>(answer: &Answer<'t>, term: SftTerm, batch: BatchTotals) -> Scalar<'t> {
    let divisor = match term.reduction {
        Reduction::TokenMean => batch.sft_tokens as f64,
        Reduction::SeqMean => answer.len * batch.rows as f64,
        Reduction::SeqSum => batch.rows as f64,
    };
    -(term.weight / divisor) * answer.policy
}

fn label(row: &RowLogps) -> Label {
    match row.target {
        Some(Target::Label(true)) => Label::Desirable,
        Some(Target::Label(false)) => Label::Undesirable,
        _ => unreachable!("on_tape checked the targets"),
    }
}

fn finite(row: usize, what: &'static str, value: f64) -> Result<(), HeadError> {
    if value.is_finite() { Ok(()) } else { Err(HeadError::NonFinite { row, what, value }) }
}
