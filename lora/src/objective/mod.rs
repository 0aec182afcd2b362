//! Preference objectives: one file per loss, and the one list of them.
//!
//! Every loss is a function of a few numbers per data row: the summed log-probabilities of its answers under the policy and
//! the reference. So a loss file is the formula of its paper on f64 [`Scalar`](align_engine::autograd::scalar::Scalar)s, and
//! [`Objective::head`] gives the derivatives by those sums; the network is differentiated elsewhere, a few rows at a time.
//!
//! To add a loss: write `objective/<name>.rs` like its neighbours (the formula, a `SPEC` with its names and knobs), and name
//! it in [`LOSSES`]. Help text, documentation, the `losses` command and the tests read that list.
//!
//! | file | holds |
//! |---|---|
//! | `loss.rs` | what a loss file is written with: answers and pairs on the tape, the traits, `LossSpec` |
//! | `knobs.rs` | the numbers and switches of a loss: defaults, ranges, flags |
//! | `choice.rs` | from `--loss` and the knobs to an [`Objective`], with everything that can be refused |
//! | `head.rs` | from the numbers of a batch to the loss, its derivatives and the rewards |

mod choice;
mod error;
mod head;
mod knobs;
mod loss;

mod dpo;
mod exo_pair;
mod hinge;
mod ipo;
mod kto;
mod kto_pair;
mod nca_pair;

#[cfg(test)]
mod goldens;
#[cfg(test)]
mod tests;

pub use choice::{Objective, find, knobs};
pub use error::{HeadError, ObjectiveError};
pub use head::{Head, Mismatched, RowLogps, RowTarget, mismatched_row};
pub use knobs::{Knob, KnobKind, KnobValue, Range};
pub use loss::{Coupling, DataKind, LossSpec, Preset, Statistics};

/// Every loss, in the order in which they are listed to the user.
pub const LOSSES: &[LossSpec] =
    &[dpo::SPEC, exo_pair::SPEC, ipo::SPEC, hinge::SPEC, nca_pair::SPEC, kto::SPEC, kto_pair::SPEC];

/// A name that the literature uses for several methods, so that it is refused with an explanation unless a loss claims it.
pub(crate) struct Ambiguous {
    /// As typed after `--loss`.
    pub name: &'static str,
    /// What it could mean: the name of a loss where it is one, and what that is.
    pub candidates: &'static [(&'static str, &'static str)],
}

/// See [`Ambiguous`]; consulted only for names that no entry of [`LOSSES`] has.
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
        name: "mpo",
        candidates: &[
            ("mixed preference optimisation", "arXiv 2411.10442, a mix of dpo, bco_pair and sft"),
            ("max_po", "maximum preference optimisation, arXiv 2312.16430"),
        ],
    },
    Ambiguous {
        name: "rpo",
        candidates: &[
            ("regularised preference optimisation", "arXiv 2405.16436, dpo with an SFT term"),
            ("iterative reasoning preference optimisation", "arXiv 2404.19733, iterations of dpo with an SFT term"),
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
