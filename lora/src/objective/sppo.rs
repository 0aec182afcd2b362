//! Self-play preference optimisation: pulls each answer's log-ratio to its own target.

use super::knobs::{self, Knobs};
use super::loss::Loss;
use super::spec::{Column, LossSpec};

/// The paper's `1 / eta`.
const BETA: knobs::Knob = knobs::beta(0.001);

pub(super) const HARD: LossSpec = LossSpec {
    name: "sppo_hard",
    source: "arXiv 2405.00675, eq. 4.7 with win probabilities of 1 and 0",
    summary: "Pulls the chosen log-ratio to 1 / (2 beta) and the rejected one to -1 / (2 beta)",
    formula: "(a - 1 / (2 beta))^2 + (b + 1 / (2 beta))^2, a and b the log-ratios of chosen and rejected",
    when: "Self-play rounds whose judge gives no probabilities. The loss starts at 1 / (2 beta^2), 500000 at the default beta, \
           twice that of sppo: that is by construction.",
    knobs: &[BETA],
    build: |knobs| sppo(knobs, Targets::Hard),
    ..LossSpec::PAIRS
};

pub(super) const SOFT: LossSpec = LossSpec {
    name: "sppo",
    aliases: &["sppo_soft"],
    columns: &[Column::ProbWinChosen, Column::ProbWinRejected],
    source: "arXiv 2405.00675, eq. 4.7",
    summary: "Pulls each log-ratio to (P - 1/2) / beta, P the answer's probability of winning against the others",
    formula: "((a - (P_chosen - 1/2) / beta)^2 + (b - (P_rejected - 1/2) / beta)^2) / 2",
    when: "Self-play rounds with a preference model that gives probabilities. The loss starts at the mean square of the targets: at \
           the default beta 250000 for probabilities of 1 and 0, 90000 for 0.8 and 0.2. That is by construction.",
    knobs: &[BETA],
    build: |knobs| sppo(knobs, Targets::Soft),
    ..LossSpec::PAIRS
};

pub(super) const SINGLE: LossSpec = LossSpec {
    name: "sppo_single",
    columns: &[Column::ProbChosenBeatsRejected],
    source: "arXiv 2405.00675, the authors' code",
    summary: "As sppo, with the probability that the chosen answer beats the rejected one",
    formula: "((a - (P - 1/2) / beta)^2 + (b + (P - 1/2) / beta)^2) / 2",
    when: "A judge's soft label for each pair, e.g. from a language model asked in both orders. The loss starts at the target's \
           square: at the default beta 250000 for a probability of 1, 90000 for 0.8. That is by construction.",
    knobs: &[BETA],
    build: |knobs| sppo(knobs, Targets::Single),
    ..LossSpec::PAIRS
};

/// `loss = (log-ratio of chosen - its target)^2 + (log-ratio of rejected - its target)^2`, with targets
/// `(probability of winning - 1/2) / beta`. The loss is halved except with hard targets, as in the sources. So the hard loss is
/// twice the soft one at probabilities of 1 and 0.
///
/// Source: arXiv 2405.00675, eq. 4.7, with `log Z` set to 1/2. With the paper's `beta` of 0.001, targets are about 500 nats.
fn sppo(knobs: &Knobs, targets: Targets) -> Loss {
    let beta = knobs.number("beta");
    Loss::of_pair(move |pair| {
        let (wins, factor) = match targets {
            Targets::Hard => ([1.0, 0.0], 1.0),
            Targets::Soft => (pair.prob_win, 0.5),
            Targets::Single => ([pair.prob_beats, 1.0 - pair.prob_beats], 0.5),
        };
        let [target_chosen, target_rejected] = wins.map(|win| (win - 0.5) / beta);
        let (chosen, rejected) = (pair.chosen.log_ratio() - target_chosen, pair.rejected.log_ratio() - target_rejected);
        factor * (chosen.square() + rejected.square())
    })
}

enum Targets {
    Hard,
    Soft,
    Single,
}
