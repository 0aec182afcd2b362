//! What a sample of the rows decided about how all of them are read.

use serde::{Deserialize, Serialize};

use super::turn_marker::TurnMarker;

/// What was decided. A field is `None` if the sample decided nothing about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// The end of the prompts of pairs of texts that have no prompt column.
    pub turn_marker: Option<TurnMarker>,
    /// Whether answers that are texts begin with a copy of the prompt, which is then cut.
    pub repeated_prompts: Option<bool>,
    /// Whether both texts of a pair contain the question that another column also has. If so, the prompt is the start that the
    /// texts share.
    pub prompts_in_answers: Option<bool>,
}
