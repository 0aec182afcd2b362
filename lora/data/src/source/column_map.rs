//! The names that a file gives to the columns that are read.

use std::fmt;
use std::str::FromStr;

/// Columns that a shape, the chat template or a loss reads, by our names.
pub(crate) const OWN_COLUMNS: [&str; 19] = [
    "prompt",
    "system",
    "input",
    "chosen",
    "rejected",
    "completion",
    "label",
    "completions",
    "rewards",
    "messages",
    "text",
    "tools",
    "chat_template_kwargs",
    "weight",
    "margin",
    "prob_win_chosen",
    "prob_win_rejected",
    "prob_chosen_beats_rejected",
    "id",
];

/// ShareGPT's name for `messages`.
pub(crate) const CONVERSATIONS: &str = "conversations";

/// Names of the prompt in files without a column `prompt`.
pub(crate) const PROMPT_NAMES: [&str; 3] = [INSTRUCTION, "question", "query"];

/// The name of a prompt that a column `input` may continue.
pub(crate) const INSTRUCTION: &str = "instruction";

/// The name of the rejected answer in files where the last turn of a conversation is the chosen answer.
pub(crate) const REJECTED_RESPONSE: &str = "rejected_response";

/// OpenAI's names for the two answers.
pub(crate) const PREFERRED: [&str; 2] = ["preferred_output", "non_preferred_output"];

/// Whether a column has one of the other names that are read if a row lacks the column with our name.
pub(crate) fn is_other_name(column: &str) -> bool {
    PROMPT_NAMES.contains(&column) || PREFERRED.contains(&column) || column == REJECTED_RESPONSE
}

/// The names that a file gives to our columns: `prompt=question,chosen=a`. Columns that are not named keep our names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnMap {
    /// Our name and the file's. Each name occurs at most once.
    entries: Vec<(&'static str, String)>,
}

/// What is wrong with a column map. This is a mistake on the command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnMapError {
    /// A part of the map has no `=`.
    #[error("`{part}`: expected OURS=THEIRS, as in prompt=question,chosen=a")]
    NoEquals {
        /// The part.
        part: String,
    },
    /// No column of ours has that name.
    #[error("no column is called `{name}` here; a map may name: {}", OWN_COLUMNS.join(", "))]
    Unknown {
        /// The name before `=`.
        name: String,
    },
    /// There is no name after `=`.
    #[error("`{name}=`: the file's column is missing")]
    NoColumn {
        /// The name before `=`.
        name: &'static str,
    },
    /// Two columns of the file are given for one of ours.
    #[error("`{name}` is read from `{first}` or from `{second}`: give one of them")]
    TwoColumns {
        /// Our name.
        name: &'static str,
        /// The file's column that was given first.
        first: String,
        /// The file's column that was given second.
        second: String,
    },
    /// One column of the file is given for two of ours.
    #[error("`{column}` is given for `{first}` and for `{second}`: a column has one meaning")]
    TwoMeanings {
        /// The file's column.
        column: String,
        /// Our name that was given first.
        first: &'static str,
        /// Our name that was given second.
        second: &'static str,
    },
}

impl FromStr for ColumnMap {
    type Err = ColumnMapError;

    /// Parses entries `OURS=THEIRS`, separated by commas. Ignores spaces around names. An empty string gives an empty map.
    fn from_str(text: &str) -> Result<ColumnMap, ColumnMapError> {
        let mut map = ColumnMap::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, column) =
                part.split_once('=').ok_or_else(|| ColumnMapError::NoEquals { part: part.to_owned() })?;
            let (name, column) = (name.trim(), column.trim().to_owned());
            let own = OWN_COLUMNS.into_iter().find(|own| *own == name);
            let name = own.ok_or_else(|| ColumnMapError::Unknown { name: name.to_owned() })?;
            if column.is_empty() {
                return Err(ColumnMapError::NoColumn { name });
            }
            if let Some((_, first)) = map.entries.iter().find(|(known, _)| *known == name) {
                return Err(ColumnMapError::TwoColumns { name, first: first.clone(), second: column });
            }
            if let Some((first, _)) = map.entries.iter().find(|(_, known)| *known == column) {
                return Err(ColumnMapError::TwoMeanings { column, first, second: name });
            }
            map.entries.push((name, column));
        }
        Ok(map)
    }
}

/// Writes the map as a user types it.
impl fmt::Display for ColumnMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<String> = self.iter().map(|(name, column)| format!("{name}={column}")).collect();
        f.write_str(&entries.join(","))
    }
}

impl ColumnMap {
    /// Whether every column has our name.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the entries, our name and the file's, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.entries.iter().map(|(name, column)| (*name, column.as_str()))
    }

    /// Returns the first entry that is not in `seen`: no row has a column for it.
    pub(crate) fn unseen(&self, seen: Seen) -> Option<(&'static str, &str)> {
        self.iter().enumerate().find(|(i, _)| seen & 1 << i == 0).map(|(_, entry)| entry)
    }

    /// Returns the file's name of our column `name`.
    pub fn column<'a>(&'a self, name: &'a str) -> &'a str {
        self.entries.iter().find(|(own, _)| *own == name).map_or(name, |(_, column)| column)
    }

    pub(crate) fn is_mapped(&self, name: &str) -> bool {
        self.entries.iter().any(|(own, _)| *own == name)
    }

    /// Whether the values of a column of the file are kept.
    pub(crate) fn reads(&self, column: &str) -> bool {
        // columns with other names for ours are kept, since each row decides whether it reads them
        self.own(column).is_some() || column == CONVERSATIONS || is_other_name(column)
    }

    /// Returns our name for a column of the file, from the map or because the names are the same. `None` if there is none.
    pub(crate) fn own(&self, column: &str) -> Option<&'static str> {
        if let Some((own, _)) = self.entries.iter().find(|(_, theirs)| theirs == column) {
            return Some(own);
        }
        let own = OWN_COLUMNS.into_iter().find(|own| *own == column)?;
        // if the map reads our column from another one, this one has the same name but another meaning
        (!self.entries.iter().any(|(mapped, _)| *mapped == own)).then_some(own)
    }
}

/// The entries of a [`ColumnMap`] for which a row has a column: bit `i` stands for the `i`-th entry.
pub(crate) type Seen = u32;

/// The columns of numbers beside a pair, by our names.
pub(crate) const NUMBER_COLUMNS: [&str; 5] =
    ["weight", "margin", "prob_win_chosen", "prob_win_rejected", "prob_chosen_beats_rejected"];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Result<ColumnMap, ColumnMapError> {
        text.parse()
    }

    #[test]
    fn a_map_reads_as_it_is_shown() {
        let parsed = map(" prompt = the question ,chosen=a,").unwrap();
        assert_eq!(parsed.to_string(), "prompt=the question,chosen=a");
        assert_eq!(map(&parsed.to_string()), Ok(parsed.clone()));
        assert_eq!((parsed.column("prompt"), parsed.column("rejected")), ("the question", "rejected"));
        assert_eq!(map("text=a=b").unwrap().column("text"), "a=b");
        assert!(map("").unwrap().is_empty());
    }

    #[test]
    fn every_fault_of_a_map_has_its_error() {
        let owned = str::to_owned;
        assert_eq!(map("prompt"), Err(ColumnMapError::NoEquals { part: owned("prompt") }));
        assert_eq!(map("question=prompt"), Err(ColumnMapError::Unknown { name: owned("question") }));
        assert_eq!(map("prompt= "), Err(ColumnMapError::NoColumn { name: "prompt" }));
        let two = ColumnMapError::TwoColumns { name: "prompt", first: owned("a"), second: owned("b") };
        assert_eq!(map("prompt=a,prompt=b"), Err(two));
        let two = ColumnMapError::TwoMeanings { column: owned("a"), first: "chosen", second: "rejected" };
        assert_eq!(map("chosen=a,rejected=a"), Err(two));
        assert!(map("x=y").unwrap_err().to_string().contains("prob_win_chosen"));
    }

    #[test]
    fn what_is_read_goes_by_the_map() {
        let map = map("chosen=a,prompt=chosen").unwrap();
        let read = ["a", "chosen", "rejected", "id", "messages", "conversations", "prompt", "x"];
        assert_eq!(read.map(|column| map.reads(column)), [true, true, true, true, true, true, false, false]);
    }
}
