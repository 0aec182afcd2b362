//! Judges one file by the findings in its records.
//!
//! Each file is judged by itself: if all of the second file is wrong, a large and correct first file does not hide that.

use std::mem::discriminant;
use std::path::PathBuf;

use super::{Finding, Sighting, TurnPart, Warning};
use crate::set::error::DataError;

/// Maximum number of different findings of one kind to keep, for example in different columns. A hostile file could have a
/// different one in every row.
const OF_A_KIND: usize = 32;
/// Number of records to look at before a file is judged. A file with fewer is judged at its end.
const TO_JUDGE: usize = 256;
/// Minimum number of rows that count as evidence if a single row may be a coincidence. Also the minimum number of wrong rows of a
/// file that end a run, if there are several files.
pub(crate) const SEVERAL: usize = 4;

/// Whether the data has one file or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// The data has one file.
    One,
    /// The data has several files.
    Several,
}

/// What was found in the records of a file so far.
#[derive(Debug)]
pub(crate) struct OfFile {
    files: Files,
    pub looked_at: usize,
    warnings: Vec<Warning>,
}

impl OfFile {
    pub(crate) fn new(files: Files) -> OfFile {
        OfFile { files, looked_at: 0, warnings: Vec::new() }
    }

    /// Counts what was found in a record at `place`.
    pub(crate) fn count(&mut self, found: Vec<Sighting>, place: impl Fn() -> (PathBuf, u64)) {
        self.looked_at += 1;
        for found in found {
            found.count_in(&mut self.warnings, &place);
        }
    }

    fn has_most(&self, warning: &Warning) -> bool {
        2 * warning.rows >= self.looked_at
    }

    /// Whether enough rows have a finding to warn about it.
    fn is_worth_a_word(&self, warning: &Warning) -> bool {
        match warning.finding {
            Finding::Serialised { turns: false, .. }
            | Finding::MarksInTurn
            | Finding::NoTemplateApplied
            | Finding::NoStop => self.has_most(warning),
            Finding::RepeatedShortPrompt => self.has_most(warning) && warning.rows >= SEVERAL,
            // a few texts may be about turns, and a few answers may repeat the question; in a twentieth of a file or more, this
            // is no coincidence
            Finding::Serialised { turns: true, .. }
            | Finding::TextOfOthers { .. }
            | Finding::MarkIsNoToken { .. }
            | Finding::MarkInContent { .. }
            | Finding::LowerScoreChosen { .. }
            | Finding::RepeatedPrompt
            | Finding::RepeatedBehindLabel
            | Finding::RepeatedContent => 20 * warning.rows >= self.looked_at,
            // a column with the same value in all rows says nothing against the pairs; of a column with several values, only the
            // second one is reported
            Finding::UnreadVerdict { ref column, ref value } => {
                let mut values = self.warnings.iter().filter_map(|other| match &other.finding {
                    Finding::UnreadVerdict { column: of, value } if of == column => Some(value),
                    _ => None,
                });
                values.nth(1) == Some(value)
            }
            _ => true,
        }
    }

    /// Does what [`OfFile::check`] does if at least [`TO_JUDGE`] records of the file were looked at.
    ///
    /// # Errors
    /// The errors of [`OfFile::check`].
    pub(crate) fn check_early(&self) -> Result<(), DataError> {
        if self.looked_at >= TO_JUDGE { self.check() } else { Ok(()) }
    }

    /// Refuses a file with a fault that nobody can intend.
    ///
    /// # Errors
    /// [`DataError::TurnsInText`] if a column holds turns as text in at least half of the rows; [`DataError::EmptyPrompts`] if at
    /// least half of the rows have an empty prompt and a column with a name like a prompt's is not read;
    /// [`DataError::NothingRendered`] if the template leaves out the content of an answer in at least half of the rows.
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let are_enough = |warning: &&Warning| self.files == Files::One || warning.rows >= SEVERAL;
        for warning in self.warnings.iter().filter(|warning| self.has_most(warning)).filter(are_enough) {
            let Warning { finding, rows, at, path, line, .. } = warning;
            let (path, line, rows, of) = (path.clone(), *line, *rows, self.looked_at);
            return Err(match finding {
                Finding::EmptyPrompt { column: Some(column) } => {
                    DataError::EmptyPrompts { path, line, rows, of, column: column.clone() }
                }
                Finding::NotRendered { of_answer: true, part: TurnPart::Content } => {
                    DataError::NothingRendered { path, line, rows, of, at: at.clone() }
                }
                Finding::Serialised { column, notation, turns: true } => {
                    let (column, notation) = (column.clone(), notation.name());
                    DataError::TurnsInText { path, line, rows, of, column, notation }
                }
                _ => continue,
            });
        }
        Ok(())
    }

    /// Ends the file: adds its findings to the warnings of all files, and begins the next one.
    ///
    /// # Errors
    /// The errors of [`OfFile::check`].
    pub(crate) fn settle(&mut self, all: &mut Vec<Warning>) -> Result<(), DataError> {
        self.check()?;
        let of_file = std::mem::replace(self, OfFile::new(self.files));
        for warning in of_file.warnings.iter().filter(|warning| of_file.is_worth_a_word(warning)) {
            warning.clone().add_to(all);
        }
        Ok(())
    }
}

impl Sighting {
    /// Counts this finding in `warnings`.
    pub(crate) fn count_in(self, warnings: &mut Vec<Warning>, place: impl FnOnce() -> (PathBuf, u64)) {
        let Sighting { finding, at, excerpt } = self;
        if let Some(same) = warnings.iter_mut().find(|warning| warning.finding == finding) {
            same.rows += 1;
        } else if has_room(warnings, &finding) {
            let (path, line) = place();
            warnings.push(Warning { finding, rows: 1, at, excerpt, path, line });
        }
    }
}

impl Warning {
    fn add_to(self, warnings: &mut Vec<Warning>) {
        if let Some(same) = warnings.iter_mut().find(|warning| warning.finding == self.finding) {
            same.rows += self.rows;
        } else if has_room(warnings, &self.finding) {
            warnings.push(self);
        }
    }
}

fn has_room(warnings: &[Warning], finding: &Finding) -> bool {
    let is_of_kind = |warning: &&Warning| discriminant(&warning.finding) == discriminant(finding);
    warnings.iter().filter(is_of_kind).count() < OF_A_KIND
}
