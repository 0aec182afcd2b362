//! How rows are read: what a user says about them that the rows do not say themselves.

use super::columns::ColumnMap;

/// How rows are read. The default reads them by our names of the columns and as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Under which names the files have our columns.
    pub columns: ColumnMap,
}

impl From<ColumnMap> for Reading {
    fn from(columns: ColumnMap) -> Reading {
        Reading { columns }
    }
}

impl Reading {
    /// What of it decides tokens, by the flags that a user knows.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        vec![("--columns", format!("{:?}", self.columns))]
    }
}
