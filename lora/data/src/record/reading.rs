//! How rows are read: what the user says about them because the rows themselves do not.

use std::fmt;

use super::decided::Decided;
use crate::source::column_map::ColumnMap;

/// Maximum number of pairs that one row may make.
pub(crate) const MAX_PAIRS: u64 = 10_000;

/// How rows are read. By default, columns have our names and texts stay texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The files' names for our columns.
    pub columns: ColumnMap,
    /// Where the prompt ends in a pair of texts without a prompt column.
    pub implicit_prompt: ImplicitPrompt,
    /// What a sample decided about how rows are read: given by the run, or set when these rows are opened.
    pub decided: Decided,
    /// What happens to texts.
    pub texts: Texts,
    /// The system text for rows that have neither a system turn nor a column `system`.
    pub system: Option<String>,
    /// Which pairs to make of scored answers, for a loss that reads pairs.
    pub pairs: Option<Pairs>,
}

/// Where the prompt ends in a pair of texts without a prompt column. If the answers are turns, their common turns are the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImplicitPrompt {
    /// After the last turn marker that nearly all pairs share ([`TurnMarker`](super::turn_marker::TurnMarker)). Without such a marker the
    /// rows are refused.
    #[default]
    TurnMarker,
    /// After the longest common prefix, without a space at its end, as in TRL 1.16. It includes letters that both answers happen
    /// to begin with.
    Longest,
}

/// What happens to prompts and answers that are texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Texts {
    /// They are tokenised as they are.
    #[default]
    AsTheyAre,
    /// They become turns of the user and of the assistant, for the chat template.
    AsTurns,
}

/// Which pairs scored answers make. Two answers with the same score make no pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// One pair, of the best and the worst answer. Among equally good or equally bad answers, it has the first.
    BestWorst,
    /// A pair of every two answers with different scores.
    All,
}

/// Writes the value of the flag `--pairs`.
impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pairs::BestWorst => "best-worst",
            Pairs::All => "all",
        })
    }
}

impl Pairs {
    /// Returns the places of the chosen and the rejected answer of each pair, in the order of the answers.
    pub(crate) fn of(self, rewards: &[f64]) -> Vec<[usize; 2]> {
        let places = 0..rewards.len();
        match self {
            Pairs::BestWorst => {
                let first = |is_before: fn(&f64, &f64) -> bool| {
                    let better = |best: usize, other: usize| {
                        if is_before(&rewards[other], &rewards[best]) { other } else { best }
                    };
                    places.clone().reduce(better)
                };
                let pair = first(f64::gt).zip(first(f64::lt)).map(|(best, worst)| [best, worst]);
                pair.into_iter().filter(|[best, worst]| rewards[*best] > rewards[*worst]).collect()
            }
            Pairs::All => {
                let two = places.clone().flat_map(|one| (one + 1..rewards.len()).map(move |other| [one, other]));
                let ordered =
                    two.map(|[one, other]| if rewards[one] < rewards[other] { [other, one] } else { [one, other] });
                ordered.filter(|[chosen, rejected]| rewards[*chosen] > rewards[*rejected]).collect()
            }
        }
    }
}

impl From<ColumnMap> for Reading {
    fn from(columns: ColumnMap) -> Reading {
        Reading { columns, ..Reading::default() }
    }
}

impl Reading {
    /// Returns the settings on which the tokens depend, under the names of the user's flags.
    pub(crate) fn options(&self) -> Vec<(&'static str, String)> {
        vec![
            ("--columns", format!("{:?}", self.columns)),
            ("--implicit-prompt", format!("{:?}", self.implicit_prompt)),
            ("--chat", format!("{:?}", self.texts)),
            ("--system", format!("{:?}", self.system)),
            ("--pairs", format!("{:?}", self.pairs)),
            ("what the rows of a run decided", format!("{:?}", self.decided)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scored_answers_make_pairs_without_ties() {
        let all = |rewards: &[f64]| Pairs::All.of(rewards);
        assert_eq!(all(&[1.0, 3.0, 1.0]), [[1, 0], [1, 2]]);
        assert_eq!(all(&[2.0, 1.0, 3.0]), [[0, 1], [2, 0], [2, 1]]);
        assert!(all(&[1.0, 1.0]).is_empty() && all(&[1.0]).is_empty() && all(&[]).is_empty());
        let best_worst = |rewards: &[f64]| Pairs::BestWorst.of(rewards);
        assert_eq!(best_worst(&[2.0, 3.0, -1.0, 3.0, -1.0]), [[1, 2]]);
        assert_eq!(best_worst(&[-1.0, 5.0]), [[1, 0]]);
        assert!(best_worst(&[0.5, 0.5]).is_empty() && best_worst(&[1.0]).is_empty() && best_worst(&[]).is_empty());
    }
}
