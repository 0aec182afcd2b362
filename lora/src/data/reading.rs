//! How rows are read: what a user says about them that the rows do not say themselves.

use super::columns::ColumnMap;
use super::decided::Decided;

/// How rows are read. The default reads them by our names of the columns and as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Under which names the files have our columns.
    pub columns: ColumnMap,
    /// What the prompt is of a pair of texts that has no prompt column.
    pub implicit_prompt: ImplicitPrompt,
    /// What the first rows have decided: nothing, before data is opened.
    pub decided: Decided,
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

impl From<ColumnMap> for Reading {
    fn from(columns: ColumnMap) -> Reading {
        Reading { columns, ..Reading::default() }
    }
}

impl Reading {
    /// What of it decides tokens, by the flags that a user knows.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        vec![("--columns", format!("{:?}", self.columns)), ("--implicit-prompt", format!("{:?}", self.implicit_prompt))]
    }
}
