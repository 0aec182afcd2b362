//! Preference objectives: one file per loss or family of losses, and the list of all losses.
//!
//! Every loss is a function of a few numbers per data row: the summed log-probabilities of its answers under the policy and the
//! reference, or for a reward model the score of each answer. So a loss file is the formula of its paper on f64
//! [`Scalar`](align_engine::autograd::scalar::Scalar)s, and [`Objective::head`] computes the derivatives with respect to those
//! numbers. The trainer differentiates the network, a few rows at a time.
//!
//! To add a loss, write `objective/<name>.rs` like its neighbours (the formula, a `SPEC` with its names and knobs), and name it
//! in [`LOSSES`]. Help, `docs/objectives.md`, the `losses` command and the tests read that list.
//!
//! | file | holds |
//! |---|---|
//! | `loss.rs` | the vocabulary of a loss file: answers and pairs on the tape, the traits |
//! | `spec.rs` | an entry of the registry: a loss's names, what it needs, how it is made |
//! | `knobs.rs` | the numbers and switches of a loss: defaults, ranges, flags |
//! | `modifiers.rs` | changes to every loss of some kind: a likelihood term, weights, other counts and divergences |
//! | `choice.rs` | from `--loss` and the knobs to an [`Objective`]; refuses what does not fit |
//! | `divergence.rs` | f-divergences, whose scores replace the log-ratios in a loss of their margin |
//! | `history.rs` | what a run remembers for losses with running statistics |
//! | `weighting.rs` | WPO's weight of a pair |
//! | `head.rs` | from the numbers of a batch to the loss, its derivatives and the rewards |
//! | `unlearned.rs` | rows that teach a loss nothing |
//! | `error.rs` | errors in the choice of an objective and in its numbers |

mod choice;
mod divergence;
mod error;
mod head;
mod history;
mod knobs;
mod loss;
mod modifiers;
mod spec;
mod unlearned;
mod weighting;

mod aipo;
mod alpha_dpo;
mod alphapo;
mod aot;
mod apo;
mod apo_zero_unpaired;
mod bco;
mod bco_pair;
mod chipo;
mod cpo;
mod discopop;
mod dpo;
mod dpop;
mod exo_pair;
mod hinge;
mod ipo;
mod kto;
mod kto_pair;
mod kway;
mod max_po;
mod minor_dpo;
mod nca_pair;
mod orpo;
mod r_dpo;
mod rm_bt;
mod rm_rank;
mod robust;
mod sft;
mod sigmoid_norm;
mod simpo;
mod slic;
mod sppo;

#[cfg(test)]
pub(crate) mod tests;

pub use choice::{Objective, canonical_name, find, knobs, mix, names, reads};
pub use error::{HeadError, ObjectiveError};
pub use head::{BatchTotals, Head, Mismatched, RowLogps, Tails};
pub use history::History;
pub use knobs::{Knob, KnobKind, KnobValue, Needs, Range};
pub use loss::{Coupling, Statistics};
pub use modifiers::{MODIFIERS, Modifier};
pub use spec::{Column, LossSpec, MixPreset, Preset, Scores};
pub use unlearned::{Unlearned, UnlearnedCounts};
pub use weighting::wpo_weight;

/// Every loss, in the order of the lists that users see: losses on pairs and on batches of pairs with a reference, losses on
/// labelled answers, losses on scored answers, losses on pairs without a reference, likelihood, reward models.
pub const LOSSES: &[LossSpec] = &[
    dpo::SPEC,
    exo_pair::SPEC,
    ipo::SPEC,
    hinge::SPEC,
    robust::SPEC,
    sigmoid_norm::SPEC,
    nca_pair::SPEC,
    bco_pair::SPEC,
    sppo::HARD,
    sppo::SOFT,
    sppo::SINGLE,
    apo::ZERO,
    apo::DOWN,
    discopop::SPEC,
    aot::PAIRED,
    aot::UNPAIRED,
    minor_dpo::SPEC,
    dpop::SPEC,
    r_dpo::SPEC,
    alpha_dpo::SPEC,
    aipo::SPEC,
    chipo::SPEC,
    kto_pair::SPEC,
    kto::SPEC,
    bco::SPEC,
    apo_zero_unpaired::SPEC,
    kway::EXO_RW,
    kway::DPO_RW,
    kway::NCA,
    simpo::SPEC,
    cpo::SPEC,
    orpo::SPEC,
    alphapo::SPEC,
    slic::SPEC,
    max_po::SPEC,
    sft::SPEC,
    rm_bt::SPEC,
    rm_rank::SPEC,
];

/// Every named mix.
pub const MIXES: &[MixPreset] = &[MixPreset {
    name: "mpo",
    aliases: &["mixed_po", "dpo+bco_pair+sft"],
    mix: "dpo:0.8,bco_pair:0.2,sft:1",
    source: "arXiv 2411.10442",
    summary: "Mixed preference optimisation; max_po is another method",
}];

/// A name that the literature uses for several methods. It is refused with an explanation, unless a loss has this name.
pub(crate) struct Ambiguous {
    /// The name as typed after `--loss`.
    pub name: &'static str,
    /// What it could mean: the name of a loss if there is one, and an explanation.
    pub candidates: &'static [(&'static str, &'static str)],
}

/// Every ambiguous name. It is looked up only for names that no entry of [`LOSSES`] has.
pub(crate) const AMBIGUOUS: &[Ambiguous] = &[
    Ambiguous {
        name: "apo",
        candidates: &[
            ("apo_zero", "anchored preference optimisation, arXiv 2408.06266, eq. 7"),
            ("apo_down", "anchored preference optimisation, arXiv 2408.06266, eq. 8"),
            ("accelerated preference optimisation", "arXiv 2410.06293, a procedure over iterations of another loss"),
        ],
    },
    Ambiguous {
        name: "rdpo",
        candidates: &[
            ("r_dpo", "length-regularised DPO, arXiv 2403.19159"),
            ("robust", "DPO under label noise, arXiv 2403.00409"),
        ],
    },
];
