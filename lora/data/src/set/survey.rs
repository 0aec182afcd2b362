//! What the walk over all rows found, for the start-up summary: nothing is dropped, cut or moved silently.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::dropped::{DropKind, Dropped};
use super::duplicates::Repeats;
use super::error::DataError;
use super::lengths::Lengths;
use super::sanity::Warning;
use crate::record::decided::Decided;
use crate::record::shape::RowLayout;
use crate::record::text::Form;
use crate::row::{Answer, EncodedRow, RowNumbers, Target};
use crate::tokens::encode::{DropReason, Notes};
use crate::tokens::sft_part::SftPart;
use crate::tokens::spans::SpanSource;
use crate::tokens::tokenizer::Tokenizer;

/// Maximum number of examples of changed prompt ends to keep.
const BOUNDARY_EXAMPLES: usize = 3;
/// Maximum number of names of unread columns to count; a hostile file can have a million.
const COLUMN_NAMES: usize = 32;

/// Counts over all rows of a data set. A row here is what a loss reads: a pair, a labelled row, a prompt with scored answers. A
/// pair that is unpaired counts as two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// Records in the files, usable or not.
    pub records: usize,
    /// Blank lines that were skipped.
    pub blank_lines: usize,
    /// Shape and form of the rows. `None` until a row could be read.
    #[serde(rename = "kind")]
    pub layout: Option<RowLayout>,
    /// What is scored of the rows if they are learned as sequences.
    pub sequences: Option<Sequences>,
    /// Usable rows.
    pub kept: usize,
    /// Rows that are left out, by reason, in the order of their first occurrence.
    pub dropped: Vec<Dropped>,
    /// Answers of the usable rows.
    pub answers: usize,
    /// Answers that `max_length` cuts.
    pub cut_answers: usize,
    /// Pairs whose answers are the same tokens after the cut: they teach nothing.
    pub same_after_cut: usize,
    /// Answers that say nothing, by the rule of [`Notes::empty_answers`].
    pub empty_answers: usize,
    /// Answers that end with a stop token, before cuts. If only few do, the model does not learn to stop.
    pub stopping_answers: usize,
    /// Rows whose last prompt tokens change when an answer follows; the completion starts at the first changed one.
    pub moved_boundaries: usize,
    /// Examples of these prompt ends, from the first such rows.
    pub boundary_examples: Vec<BoundaryExample>,
    /// Names of columns that nothing reads, with the number of records that have them; the first 32 names.
    pub ignored_columns: BTreeMap<String, usize>,
    /// Columns that are read though no flag names them, and that a user may not expect to be read in this way.
    pub by_name: Vec<ByName>,
    /// Tokens of all prompts. The prompt of a row counts once.
    pub prompt_tokens: u64,
    /// Tokens of all answers after cuts.
    pub answer_tokens: u64,
    /// Scored tokens of all answers after cuts. Fewer than `answer_tokens` if sequences have turns that are not scored.
    pub scored_tokens: u64,
    /// How many usable rows have numbers beside the answers, for each kind of number.
    pub numbers: NumberCounts,
    /// How many usable rows have each label.
    pub labels: LabelCounts,
    /// Tokens of the largest tree: a prompt and the kept tokens of its answers.
    pub longest_tree: usize,
    /// How long the rows are before cuts.
    pub lengths: Lengths,
    /// Records with the same bytes as an earlier one.
    pub copies: Repeats,
    /// Other records with the same prompt and answer tokens as an earlier one.
    pub same_tokens: Repeats,
    /// What was decided about how all rows are read.
    pub decided: Decided,
    /// Number of records that were looked at for faults: a sample of the readable ones.
    pub looked_at: usize,
    /// What was found in the records, in the order of each finding's first row.
    pub warnings: Vec<Warning>,
}

/// A column of the files that is read as one of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByName {
    /// Our name.
    pub own: String,
    /// The file's name.
    pub column: String,
    /// Number of records that have the column.
    pub records: usize,
}

/// How sequences are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequences {
    /// Which tokens are scored.
    pub part: SftPart,
    /// How the assistant's tokens are found, if only those are scored.
    pub spans: Option<SpanSource>,
    /// Whether the rows are pairs, and only their chosen answers are read.
    pub chosen_alone: bool,
}

/// How many rows have each label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCounts {
    /// Rows with the label true.
    pub desirable: usize,
    /// Rows with the label false.
    pub undesirable: usize,
}

/// How many rows have each of the [`RowNumbers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberCounts {
    /// Rows with a weight.
    pub weight: usize,
    /// Rows with a margin.
    pub margin: usize,
    /// Rows with win probabilities.
    pub win_probability: usize,
    /// Rows with a probability that the chosen answer beats the rejected one.
    pub beats_probability: usize,
}

/// A prompt whose last tokens change when an answer follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoundaryExample {
    /// 0-based number of the record.
    pub row: usize,
    /// The last tokens of the prompt alone, in the vocabulary's spelling.
    pub alone: Vec<String>,
    /// The tokens in their place when the answer follows.
    pub followed: Vec<String>,
}

impl Survey {
    pub(crate) fn new(records: usize, blank_lines: usize) -> Survey {
        Survey { records, blank_lines, ..Survey::default() }
    }

    /// Returns whether the rows are texts or turns. `None` if no row could be read.
    pub fn form(&self) -> Option<Form> {
        self.layout.map(|layout| layout.form)
    }

    /// Returns the number of rows that are left out, for any reason.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.iter().map(|d| d.rows).sum()
    }

    /// Checks that only few rows are left out. Bad rows that the user asked to skip do not count, nor do answers that make no
    /// pair.
    ///
    /// # Errors
    /// [`DataError::ManyDropped`] if more than a tenth are left out.
    pub fn check_drops(&self) -> Result<(), DataError> {
        let dropped =
            || self.dropped.iter().filter(|dropped| !matches!(dropped.kind, DropKind::Bad | DropKind::NoPair));
        let rows: usize = dropped().map(|dropped| dropped.rows).sum();
        match dropped().max_by_key(|dropped| dropped.rows) {
            Some(most) if 10 * rows > self.kept + rows => {
                Err(DataError::ManyDropped { dropped: rows, rows: self.kept + rows, most: Box::new(most.clone()) })
            }
            _ => Ok(()),
        }
    }

    /// Returns mutable references to all file names in the survey.
    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let repeats =
            [&mut self.copies, &mut self.same_tokens].into_iter().filter_map(|repeats| repeats.first.as_mut());
        let repeats = repeats.flat_map(|first| [&mut first.original.0, &mut first.copy.0]);
        let warnings = self.warnings.iter_mut().map(|warning| &mut warning.path);
        self.dropped.iter_mut().map(|dropped| &mut dropped.path).chain(repeats).chain(warnings)
    }

    pub(crate) fn count_columns(&mut self, names: Vec<String>) {
        for name in names {
            if let Some(count) = self.ignored_columns.get_mut(&name) {
                *count += 1;
            } else if self.ignored_columns.len() < COLUMN_NAMES {
                self.ignored_columns.insert(name, 1);
            }
        }
    }

    pub(crate) fn count_by_name(&mut self, names: Vec<(&'static str, String)>) {
        for (own, column) in names {
            match self.by_name.iter_mut().find(|named| named.own == own && named.column == column) {
                Some(named) => named.records += 1,
                None => self.by_name.push(ByName { own: own.to_owned(), column, records: 1 }),
            }
        }
    }

    pub(crate) fn count_dropped(&mut self, reason: &DropReason, place: impl FnOnce() -> (PathBuf, u64)) {
        if let DropReason::NoRoom { prompt_tokens, .. } = reason {
            self.lengths.prompt.add(*prompt_tokens);
        }
        let label = reason.label();
        if let Some(same) = self.dropped.iter_mut().find(|d| d.label == label) {
            same.rows += 1;
            return;
        }
        let (path, line) = place();
        let (label, first) = (label.to_owned(), reason.to_string());
        self.dropped.push(Dropped { label, kind: reason.kind(), rows: 1, first, path, line });
    }

    pub(crate) fn count_kept(&mut self, row: &RowCounts, notes: &Notes, tokenizer: &Tokenizer, max_length: usize) {
        self.kept += 1;
        self.answers += row.answer_tokens.len();
        self.lengths.add(row.prompt_tokens, &row.answer_tokens, max_length);
        self.cut_answers += notes.cut_answers;
        self.same_after_cut += usize::from(notes.same_after_cut);
        self.empty_answers += notes.empty_answers;
        self.stopping_answers += notes.stopping_answers;
        if let Some(boundary) = &notes.boundary {
            self.moved_boundaries += 1;
            if self.boundary_examples.len() < BOUNDARY_EXAMPLES {
                let spell = |ids: &[u32]| ids.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect();
                let (alone, followed) = (spell(&boundary.prompt_ids), spell(&boundary.full_ids));
                self.boundary_examples.push(BoundaryExample { row: row.row, alone, followed });
            }
        }
        self.prompt_tokens += row.prompt_tokens as u64;
        self.answer_tokens += (row.tree_tokens - row.prompt_tokens) as u64;
        self.scored_tokens += row.scored_tokens as u64;
        let RowNumbers { weight, margin, win_probability, beats_probability } = row.numbers;
        self.numbers.weight += usize::from(weight.is_some());
        self.numbers.margin += usize::from(margin.is_some());
        self.numbers.win_probability += usize::from(win_probability.is_some());
        self.numbers.beats_probability += usize::from(beats_probability.is_some());
        self.labels.desirable += usize::from(row.label == Some(true));
        self.labels.undesirable += usize::from(row.label == Some(false));
        self.longest_tree = self.longest_tree.max(row.tree_tokens);
    }
}

/// What is counted for a kept row.
#[derive(Clone, Debug)]
pub(crate) struct RowCounts {
    pub row: usize,
    /// Tokens of each answer, before cuts.
    pub answer_tokens: Vec<usize>,
    pub prompt_tokens: usize,
    pub tree_tokens: usize,
    pub scored_tokens: usize,
    pub numbers: RowNumbers,
    pub label: Option<bool>,
}

impl RowCounts {
    pub(crate) fn of(row: &EncodedRow) -> RowCounts {
        RowCounts {
            row: row.row,
            answer_tokens: row.answers.iter().map(|answer| answer.ids.len()).collect(),
            prompt_tokens: row.prompt.len(),
            tree_tokens: row.tree_tokens(),
            scored_tokens: row.answers.iter().map(Answer::scored_tokens).sum(),
            numbers: row.numbers,
            label: match row.target {
                Target::Label(label) => Some(label),
                Target::Pair | Target::Rewards(_) | Target::Sequence => None,
            },
        }
    }
}
