//! Prints the notes of a run in words.

use super::{detail, say};
use align_lora::objective::Unlearned;
use align_lora::train::{CacheCounts, CountsOf, DataRole, Note};

/// Prints a note of a run. A note that only says that a cache worked is printed only with `--verbose`.
pub(crate) fn note(note: &Note) {
    match note {
        Note::CacheCounts { .. } => detail!("{}", words(note)),
        _ => say!("{}", words(note)),
    }
}

fn words(note: &Note) -> String {
    match note {
        Note::LastRowLeftOut { loss } => {
            format!("the last batch of each epoch would be one row, which loss `{loss}` cannot use: it is left out")
        }
        Note::TermNotEvaluated { loss } => {
            format!("evaluations of loss `{loss}` leave its term for --reference-data out")
        }
        Note::OnePrompt { role, loss } => {
            let data = match role {
                DataRole::Training => "data",
                DataRole::Evaluation => "evaluation data",
            };
            format!("all rows of the {data} have one prompt: the mismatched answers of loss `{loss}` answer it too")
        }
        Note::UnreadColumn { column, rows, loss } => {
            format!("{rows} rows have a `{column}`, which loss `{loss}` does not read")
        }
        Note::BeyondPlan { step } => {
            format!("step {step}: a forward pass holds more than was planned, with all layers recomputed")
        }
        Note::CacheCounts { of, counts: CacheCounts { read, computed } } => {
            let of = match of {
                CountsOf::FirstEpoch => "the first epoch",
                CountsOf::Run => "the run",
            };
            format!("reference log-probs in {of}: {computed} answers computed, {read} read from the cache")
        }
        Note::Cache(note) => note.to_string(),
        Note::Unlearned { unlearned: Unlearned::Saturated { pairs, margin }, rows, loss } => format!(
            "{pairs} of {rows} pairs have a reward margin beyond {margin} either way, where {loss} has no gradient: they are not \
             learned. A smaller --beta brings them back"
        ),
        Note::Unlearned { unlearned: Unlearned::Clipped { pairs }, rows, loss } => format!(
            "{pairs} of {rows} pairs are beyond the bound of {loss}, where it has no gradient: they are not learned. A larger \
             --r-max or a smaller --beta brings them back"
        ),
        Note::Unlearned { unlearned: Unlearned::Undecided { rows: undecided }, rows, loss } => format!(
            "{undecided} of {rows} rows have one answer or equal rewards, of which {loss} makes no pair: nothing is learned from them"
        ),
    }
}
