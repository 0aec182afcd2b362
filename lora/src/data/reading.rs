//! How rows are read: what a user says about them that the rows do not say themselves.

use std::fmt;

use super::columns::ColumnMap;
use super::decided::Decided;

/// How rows are read. The default reads them by our names of the columns and as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Under which names the files have our columns.
    pub columns: ColumnMap,
    /// What the prompt is of a pair of texts that has no prompt column.
    pub implicit_prompt: ImplicitPrompt,
    /// What was decided for rows that these are read like: those of a run, or these themselves once they are opened.
    pub decided: Decided,
    /// What becomes of texts.
    pub texts: Texts,
    /// What the system says in rows that have neither a system turn nor a column `system`.
    pub system: Option<String>,
    /// Which pairs scored answers make, for what reads pairs.
    pub pairs: Option<Pairs>,
}

/// What the prompt is of a pair of texts that has no prompt column. Of turns it is the common ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImplicitPrompt {
    /// Up to the last turn marker that nearly all pairs share ([`turn_marker`](super::turn_marker)); refused where there is
    /// none.
    #[default]
    TurnMarker,
    /// The longest common prefix, without a space at its end, as TRL 1.16 has it: letters that both answers begin with are in
    /// it.
    Longest,
}

/// What becomes of a prompt and answers that are texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Texts {
    /// They are tokenised as they are.
    #[default]
    AsTheyAre,
    /// They are turns of the user and of the assistant, for the chat template.
    AsTurns,
}

/// Which pairs a prompt with scored answers makes. Answers with the same score make none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// One of the best and the worst answer, of equals the first.
    BestWorst,
    /// One of every two answers.
    All,
}

/// As it is typed.
impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pairs::BestWorst => "best-worst",
            Pairs::All => "all",
        })
    }
}

impl Pairs {
    /// Places of the chosen and the rejected answer of each pair, in the order of the answers.
    pub(super) fn of(self, rewards: &[f64]) -> Vec<[usize; 2]> {
        let places = 0..rewards.len();
        match self {
            Pairs::BestWorst => {
                let first = |is_before: fn(&f64, &f64) -> bool| {
                    places
                        .clone()
                        .reduce(|best, other| if is_before(&rewards[other], &rewards[best]) { other } else { best })
                };
                let pair = first(f64::gt).zip(first(f64::lt));
                pair.filter(|(best, worst)| rewards[*best] > rewards[*worst])
                    .map(|(best, worst)| [best, worst])
                    .into_iter()
                    .collect()
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
    /// What of it decides tokens, by the flags that a user knows.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
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
