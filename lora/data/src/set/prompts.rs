//! The prompts of some files, for generation.

use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;

use super::error::DataError;
use super::open::refuse_unseen;
use super::sample::Sample;
use super::sanity::{self, Files, OfFile, Sighting};
use super::survey::Survey;
use crate::deep_stack::with_deep_stack;
use crate::progress::Unobserved;
use crate::record::bad_row::BadRow;
use crate::record::decided::Decided;
use crate::record::reading::Reading;
use crate::record::records::Record;
use crate::record::shape::RowLayout;
use crate::record::text::Form;
use crate::source::column_map::Seen;
use crate::source::reader::Rows;
use crate::tokens::encode::Encoder;

/// Number of records that are encoded together.
const WINDOW: usize = 256;

/// The prompt of a record for generation.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt {
    /// 0-based number of the record over all files.
    pub row: usize,
    /// The row's `id`.
    pub id: Option<serde_json::Value>,
    /// Token ids, with the generation prompt if the row is a conversation.
    pub ids: Vec<u32>,
}

/// The prompts of records of any shape. They are encoded on demand.
pub struct Prompts<'a> {
    encoder: &'a Encoder,
    /// How rows are read, including what was decided from the rows themselves.
    reading: Reading,
    rows: Rows,
    records: usize,
    survey: Survey,
}

impl<'a> Prompts<'a> {
    /// Opens only the files that hold the first `limit` records (all files if there is no limit). Checks that each of these
    /// records has a prompt.
    ///
    /// # Errors
    /// [`DataError`] of the first row that cannot be used: generation skips no row.
    pub fn open(paths: &[PathBuf], encoder: &'a Encoder, limit: Option<usize>) -> Result<Prompts<'a>, DataError> {
        let limit = limit.unwrap_or(usize::MAX);
        let rows = Rows::open_first(limit, paths, &encoder.reading().columns, &mut Unobserved)?;
        let reading = Reading { decided: Decided::by(&rows, encoder)?, ..encoder.reading().clone() };
        let is_all = rows.len() <= limit && rows.opened() == paths.len();
        let records = rows.len().min(limit);
        let mut prompts = Prompts { encoder, reading, rows, records, survey: Survey::new(records, 0) };
        let seen;
        (prompts.survey, seen) = prompts.look()?;
        // if not all rows were read, the unread ones may have a column that these lack
        if is_all {
            refuse_unseen(encoder, seen, paths)?;
        }
        Ok(prompts)
    }

    /// Reads all prompts once and looks for faults in some of them. Returns what was found, and the entries of the column map for
    /// which some row has a column.
    fn look(&self) -> Result<(Survey, Seen), DataError> {
        let files: Vec<usize> = self.rows.files().collect();
        let files_read = if files.len() == 1 { Files::One } else { Files::Several };
        let sample = Sample::new(files, sanity::FIRST, sanity::DRAWN);
        let (mut of_file, mut file, mut seen) = (OfFile::new(files_read), 0, 0);
        let mut survey = Survey::new(self.records, 0);
        for start in (0..self.records).step_by(WINDOW) {
            for read in self.examine(start..self.records.min(start + WINDOW), |row| sample.has(row))? {
                let row = read.prompt.row;
                if std::mem::replace(&mut file, sample.file_of(row)) != sample.file_of(row) {
                    of_file.settle(&mut survey.warnings)?;
                }
                if let Some(found) = read.found {
                    survey.looked_at += 1;
                    of_file.count(found, || self.rows.place(row));
                }
                survey.layout.get_or_insert(read.layout);
                survey.count_by_name(read.by_name);
                seen |= read.seen;
            }
        }
        of_file.settle(&mut survey.warnings)?;
        survey.decided = self.reading.decided.clone();
        Ok((survey, seen))
    }

    /// Returns what was found in the rows: columns that were recognised by their names, and what the user may not have
    /// intended.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Returns the number of prompts: at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a prompt")]
    pub fn len(&self) -> usize {
        self.records
    }

    /// Returns the prompts of some records. Panics if a number is at or above [`Prompts::len`].
    ///
    /// # Errors
    /// [`SourceError::Changed`](crate::SourceError::Changed) if a file has changed; [`DataError`] of the first row that cannot
    /// be used.
    pub fn get(&self, records: Range<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
        self.rows.check_unchanged()?;
        Ok(self.examine(records, |_| false)?.into_iter().map(|read| read.prompt).collect())
    }

    /// Reads some records. Looks for faults in those for which `is_looked_at` is true.
    fn examine(
        &self,
        records: Range<usize>,
        is_looked_at: impl Fn(usize) -> bool + Sync,
    ) -> Result<Vec<ReadPrompt>, DataError> {
        let read = |record| self.read(record, is_looked_at(record));
        let outcomes: Vec<Result<_, DataError>> = with_deep_stack(|| records.into_par_iter().map(read).collect());
        // collected in the order of the records, so that the first error does not depend on the threads
        outcomes.into_iter().collect()
    }

    fn read(&self, row: usize, is_looked_at: bool) -> Result<ReadPrompt, DataError> {
        let (encoder, rows) = (self.encoder, &self.rows);
        let mut seen = None;
        let bad = |reason| DataError::of_row(rows, row, reason);
        let line = rows.read(row)?.map_err(|reason| bad(reason.into()))?;
        let parsed = Record::parse_seen(row, &line, &self.reading, &mut seen).map_err(bad)?;
        let (record, layout) = (&parsed.record, parsed.record.layout());
        if layout.form == Form::Conversational && encoder.template().is_none() {
            let (path, line) = rows.place(row);
            return Err(DataError::no_template(encoder, path, line));
        }
        let asked = record.to_continue().map_err(bad)?;
        let ids = encoder.prompt_with(&asked, &record.inputs).map_err(bad)?;
        if ids.is_empty() {
            return Err(bad(BadRow::EmptyPrompt));
        }
        let found = is_looked_at.then(|| sanity::look_at_prompt(encoder, &parsed, &asked, &line));
        let prompt = EncodedPrompt { row, id: record.id.clone(), ids };
        Ok(ReadPrompt { prompt, layout, seen: seen.unwrap_or(0), found, by_name: parsed.by_name })
    }
}

/// The prompt of a record, and what was found in it.
struct ReadPrompt {
    prompt: EncodedPrompt,
    layout: RowLayout,
    seen: Seen,
    /// What a user may not have intended, if the record was looked at.
    found: Option<Vec<Sighting>>,
    by_name: Vec<(&'static str, String)>,
}

/// Returns all prompts of the first `limit` records (of all records if there is no limit) at once.
///
/// # Errors
/// The errors of [`Prompts::open`] and of [`Prompts::get`].
pub fn prompts(paths: &[PathBuf], encoder: &Encoder, limit: Option<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
    let prompts = Prompts::open(paths, encoder, limit)?;
    prompts.get(0..prompts.len())
}
