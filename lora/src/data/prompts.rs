//! The prompts of some files, for generation.

use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;

use super::columns::Seen;
use super::decided::Decided;
use super::deep_stack::with_deep_stack;
use super::pass::refuse_unseen;
use super::reader::Rows;
use super::reading::Reading;
use super::records::{Form, Record};
use super::{BadRow, DataError, Encoder};

/// Records that are encoded together.
const WINDOW: usize = 256;

/// The prompt of a record for generation.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt {
    /// 0-based record over all files.
    pub row: usize,
    /// The row's `id`.
    pub id: Option<serde_json::Value>,
    /// Token ids, with the generation prompt where the row is a conversation.
    pub ids: Vec<u32>,
}

/// The prompts of records of any shape, encoded when they are asked for.
pub struct Prompts<'a> {
    encoder: &'a Encoder,
    /// With what the first rows decide.
    reading: Reading,
    /// A file each, with the number of its first record.
    files: Vec<(usize, Rows)>,
    records: usize,
}

impl<'a> Prompts<'a> {
    /// Opens as many of the files as the first `limit` records (all, without one) stand in, and checks that each of these
    /// records has a prompt.
    ///
    /// # Errors
    /// [`DataError`] of the first row that cannot be used: generation skips none.
    pub fn open(paths: &[PathBuf], encoder: &'a Encoder, limit: Option<usize>) -> Result<Prompts<'a>, DataError> {
        let mut prompts = Prompts { encoder, reading: encoder.reading().clone(), files: Vec::new(), records: 0 };
        let limit = limit.unwrap_or(usize::MAX);
        for path in paths {
            if prompts.records >= limit {
                break;
            }
            match Rows::open(std::slice::from_ref(path), &encoder.reading().columns) {
                Ok(rows) => {
                    let first = prompts.records;
                    prompts.records += rows.len();
                    prompts.files.push((first, rows));
                }
                Err(DataError::Empty { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if prompts.records == 0 {
            return Err(DataError::Empty { paths: paths.to_vec() });
        }
        prompts.reading.decided = Decided::by(prompts.files.iter().map(|(_, rows)| rows), encoder)?;
        let is_all = prompts.records <= limit;
        prompts.records = prompts.records.min(limit);
        let mut seen = 0;
        for start in (0..prompts.records).step_by(WINDOW) {
            for (_, more) in prompts.examine(start..prompts.records.min(start + WINDOW))? {
                seen |= more;
            }
        }
        // a column that the first rows lack may stand in others
        if is_all {
            refuse_unseen(encoder, seen, paths)?;
        }
        Ok(prompts)
    }

    /// How many there are; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a prompt")]
    pub fn len(&self) -> usize {
        self.records
    }

    /// The prompts of some records. A number at or above [`Prompts::len`] panics.
    ///
    /// # Errors
    /// [`DataError::Changed`] if a file is not as it was; [`DataError`] of the first row that cannot be used.
    pub fn get(&self, records: Range<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
        self.files.iter().try_for_each(|(_, rows)| rows.check_unchanged())?;
        Ok(self.examine(records)?.into_iter().map(|(prompt, _)| prompt).collect())
    }

    fn examine(&self, records: Range<usize>) -> Result<Vec<(EncodedPrompt, Seen)>, DataError> {
        let outcomes: Vec<Result<_, DataError>> =
            with_deep_stack(|| records.into_par_iter().map(|record| self.prompt(record)).collect());
        // in their order: which row is the first that fails does not depend on the threads
        outcomes.into_iter().collect()
    }

    fn prompt(&self, row: usize) -> Result<(EncodedPrompt, Seen), DataError> {
        let (first, rows) = &self.files[self.files.partition_point(|(first, _)| *first <= row) - 1];
        let (encoder, in_file) = (self.encoder, row - first);
        let mut seen = None;
        let parsed = rows.read(in_file)?.and_then(|line| Record::parse_seen(row, &line, &self.reading, &mut seen));
        let record = parsed.map_err(|reason| rows.row_error(in_file, reason))?.record;
        if record.kind().form == Form::Conversational && encoder.template().is_none() {
            let (path, line) = rows.place(in_file);
            return Err(encoder.no_template(path, line));
        }
        let ids = encoder.encode_to_continue(&record).map_err(|reason| rows.row_error(in_file, reason))?;
        if ids.is_empty() {
            return Err(rows.row_error(in_file, BadRow::EmptyPrompt));
        }
        Ok((EncodedPrompt { row, id: record.id, ids }, seen.unwrap_or(0)))
    }
}

/// All prompts of the first `limit` records (all, without one) at once.
///
/// # Errors
/// As [`Prompts::open`].
pub fn prompts(paths: &[PathBuf], encoder: &Encoder, limit: Option<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
    let prompts = Prompts::open(paths, encoder, limit)?;
    prompts.get(0..prompts.len())
}
