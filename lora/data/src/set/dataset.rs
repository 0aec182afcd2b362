//! A data set: what the survey of all rows found, and the rows themselves, which are read on demand, in any order and in bounded
//! memory.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::error::DataError;
use super::index::{Entry, Index};
use super::ingredients::check_stamps;
use super::options::{Shuffle, UnpairedOrder};
use super::split;
use super::survey::Survey;
use super::token_cache::{CachedRows, Slot};
use crate::batch::mismatch::{self, Mismatch};
use crate::batch::order;
use crate::deep_stack::with_deep_stack;
use crate::record::bad_row::BadRow;
use crate::record::reading::Pairs;
use crate::record::records::{Parsed, Record};
use crate::record::shape::{RowLayout, Shape};
use crate::row::{EncodedRow, RowKind, Target};
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::reader::Rows;
use crate::store::stamp::Stamp;
use crate::tokens::encode::{DropReason, Encoded, Encoder, Notes};

/// Maximum number of records to encode at once with [`Pairs::All`], where one record may make thousands of pairs.
const RECORDS_OF_ALL_PAIRS: usize = 16;

/// The usable rows of some files. A row needs 32 bytes of memory, and 4 for each answer. A record needs 8 bytes for its place in
/// the files. If the tokens are cached, a row needs 8 bytes for its place in the cache instead.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub(crate) sources: Arc<Sources>,
    pub(crate) encoder: Arc<Encoder>,
    /// The kind of rows to make. `None` leaves every row with an answer as it is.
    pub(crate) kind: Option<RowKind>,
    pub(crate) index: Index,
    pub(crate) survey: Survey,
    /// The encoded rows, numbered by `Entry::cached`.
    pub(crate) cached: Option<Arc<CachedRows>>,
    pub(crate) unpaired_order: UnpairedOrder,
}

/// The files of a data set. They are opened when a row of them is needed. If all tokens are cached, that may be never.
#[derive(Debug)]
pub(crate) struct Sources {
    pub paths: Vec<PathBuf>,
    columns: ColumnMap,
    rows: OnceLock<Rows>,
    /// Stamps of the files that the cached tokens were made from.
    stamps: Vec<Stamp>,
    records: usize,
}

impl Sources {
    pub(crate) fn opened(paths: &[PathBuf], columns: &ColumnMap, rows: Rows) -> Sources {
        let (paths, columns, records) = (paths.to_vec(), columns.clone(), rows.len());
        Sources { paths, columns, stamps: Vec::new(), records, rows: OnceLock::from(rows) }
    }

    /// Makes the sources of files with `records` records. The files are opened when a row of them is needed.
    pub(crate) fn later(paths: &[PathBuf], columns: &ColumnMap, slot: &Slot, records: usize) -> Sources {
        let (paths, columns) = (paths.to_vec(), columns.clone());
        Sources { paths, columns, stamps: slot.stamps().to_vec(), records, rows: OnceLock::new() }
    }

    /// Whether any file has been opened.
    #[cfg(test)]
    pub(crate) fn are_open(&self) -> bool {
        self.rows.get().is_some()
    }

    /// Returns the rows of the files. The first call opens the files.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the files are not those from which the cached tokens were made; the errors of [`Rows::open`].
    pub(crate) fn rows(&self) -> Result<&Rows, SourceError> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let rows = Rows::open(&self.paths, &self.columns)?;
        check_stamps(&self.stamps, &self.paths)?;
        if rows.len() != self.records {
            return Err(SourceError::Changed { path: self.paths[0].clone() });
        }
        // if another thread has opened the files meanwhile, its rows are used
        Ok(self.rows.get_or_init(|| rows))
    }
}

/// A data set, split into rows to train on and held-out rows.
#[derive(Debug)]
pub struct Split {
    /// The rows to train on.
    pub train: Dataset,
    /// The held-out rows.
    pub held_out: Dataset,
    /// Number of different prompts among the held-out rows.
    pub held_out_prompts: usize,
}

/// Token counts of one row, known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLengths<'a> {
    /// [`EncodedRow::row`].
    pub row: usize,
    /// Tokens of the shared prompt.
    pub prompt: usize,
    /// Tokens of each answer, before `max_length` cuts it.
    pub answers: &'a [u32],
    /// Maximum number of tokens of an answer that fit behind the prompt.
    room: usize,
}

impl RowLengths<'_> {
    /// Returns how many tokens are kept of an answer with `tokens` tokens behind the prompt.
    pub fn kept_of(&self, tokens: u32) -> usize {
        (tokens as usize).min(self.room)
    }

    /// Returns how many tokens are kept of all answers.
    pub fn answer_tokens(&self) -> usize {
        self.answers.iter().map(|&tokens| self.kept_of(tokens)).sum()
    }

    /// Returns the number of tokens in the row's tree: the prompt once, and the kept tokens of every answer.
    pub fn tree(&self) -> usize {
        self.prompt + self.answer_tokens()
    }
}

impl Dataset {
    /// Holds out about `fraction` of the rows. The seed decides which prompts are held out, with all their rows. Each side has at
    /// least one row and keeps the order of the rows. Both sides have the survey of the whole data set.
    ///
    /// # Errors
    /// [`DataError::OnePrompt`] if all rows have the same prompt.
    pub fn split(mut self, fraction: f64, seed: u64) -> Result<Split, DataError> {
        let index = std::mem::take(&mut self.index);
        let groups: Vec<u32> = index.iter().map(|entry| entry.group).collect();
        let is_out = split::held_out(&groups, fraction, seed)?;
        let side = |wanted: bool| index.filtered(|i| is_out[i] == wanted);
        let held_out = Dataset { index: side(true), ..self.clone() };
        let prompts: std::collections::HashSet<u32> = held_out.index.iter().map(|entry| entry.group).collect();
        Ok(Split { train: Dataset { index: side(false), ..self }, held_out, held_out_prompts: prompts.len() })
    }

    /// Returns the data set with another order of the rows that are made from pairs.
    #[must_use]
    pub fn with_unpaired_order(self, unpaired_order: UnpairedOrder) -> Dataset {
        Dataset { unpaired_order, ..self }
    }

    /// Returns the order of the rows that are made from pairs.
    pub fn unpaired_order(&self) -> UnpairedOrder {
        self.unpaired_order
    }

    /// Returns the number of usable rows: at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Returns the number of records in the files, usable or not.
    pub fn records(&self) -> usize {
        self.survey.records
    }

    /// Returns what the survey found.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// Returns the encoder of the rows.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Returns the file and the 1-based line of the record with this number ([`EncodedRow::row`]); in Parquet, the 1-based row.
    /// This call counts the lines before the record, so use it for messages only.
    ///
    /// # Errors
    /// [`SourceError::Io`] if the files cannot be read any more.
    pub fn place(&self, record: usize) -> Result<(PathBuf, u64), DataError> {
        Ok(self.sources.rows()?.place(record))
    }

    /// Returns how many records to encode together: `most`, or fewer if each may make thousands of pairs.
    pub fn records_at_once(&self, most: usize) -> usize {
        if self.encoder.reading().pairs == Some(Pairs::All) { most.min(RECORDS_OF_ALL_PAIRS) } else { most }
    }

    /// Whether the rows are labelled rows made from pairs.
    pub fn is_unpaired(&self) -> bool {
        self.kind == Some(RowKind::Labelled) && self.survey.layout.is_some_and(|layout| layout.shape.is_pair())
    }

    /// Returns the token counts of usable row `i`.
    pub fn lengths(&self, i: usize) -> RowLengths<'_> {
        let Entry { record, prompt_tokens, .. } = self.index[i];
        let (row, prompt) = (record as usize, prompt_tokens as usize);
        let room = self.encoder.max_length().saturating_sub(prompt);
        RowLengths { row, prompt, answers: self.index.answer_tokens(i), room }
    }

    /// Returns the order of an epoch, as numbers below [`Dataset::len`]: a pure function of the data, the seed and the epoch.
    ///
    /// If the rows were made from pairs and are shuffled, no row follows one with the same prompt, unless one prompt has more
    /// than half of the rows. KTO needs this: its mismatched answer is that of the previous row. Without a shuffle,
    /// [`UnpairedOrder`] decides.
    pub fn order(&self, shuffle: Shuffle, epoch: u64) -> Vec<u32> {
        let rows = self.index.len() as u32; // fits: there are at most 2 * MAX_RECORDS rows
        let group = |row: u32| self.index[row as usize].group;
        match shuffle {
            Shuffle::Off if self.is_unpaired() && self.unpaired_order == UnpairedOrder::Interleaved => {
                let (chosen, rejected): (Vec<u32>, Vec<u32>) =
                    (0..rows).partition(|&row| self.index[row as usize].part == 0);
                order::interleave(&chosen, &rejected, group)
            }
            Shuffle::Off => (0..rows).collect(),
            Shuffle::Seeded(seed) => {
                let mut order = order::permutation(self.index.len(), seed, epoch);
                if self.is_unpaired() {
                    order::separate(&mut order, group);
                }
                order
            }
        }
    }

    /// Returns which row's answer follows a row's prompt in a loss with mismatched answers.
    pub fn mismatch(&self) -> Mismatch {
        match self.unpaired_order {
            UnpairedOrder::Interleaved if self.is_unpaired() => Mismatch::OtherPrompt,
            UnpairedOrder::Interleaved | UnpairedOrder::Trl => Mismatch::Previous,
        }
    }

    /// Returns, for each of `rows`, the row whose answer follows its prompt, as [`Dataset::mismatch`] says. The rows form a
    /// circle.
    pub fn donors(&self, rows: &[u32]) -> Vec<u32> {
        let group = |place: usize| self.index[rows[place] as usize].group;
        let donors = mismatch::donors(rows.len(), self.mismatch(), |a, b| group(a) == group(b));
        donors.into_iter().map(|place| rows[place]).collect()
    }

    /// Whether all rows have the same prompt, as far as the index tells without reading them.
    pub fn has_one_prompt(&self) -> bool {
        self.index.iter().all(|entry| entry.group == self.index[0].group)
    }

    /// Reads and encodes usable rows, in the order of `numbers`.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if a file differs from what was surveyed; [`SourceError::Io`]; [`DataError::Cache`].
    pub fn rows(&self, numbers: &[u32]) -> Result<Vec<EncodedRow>, DataError> {
        if let Some(cached) = &self.cached {
            cached.check_unchanged()?;
            return numbers.par_iter().map(|&i| cached.row(self.index[i as usize].cached)).collect();
        }
        self.sources.rows()?.check_unchanged()?;
        with_deep_stack(|| numbers.par_iter().map(|&i| self.row(self.index[i as usize])).collect())
    }

    fn row(&self, entry: Entry) -> Result<EncodedRow, DataError> {
        let number = entry.record as usize;
        let rows = self.sources.rows()?;
        let error = |reason| DataError::of_row(rows, number, reason);
        let record = self.parse(number)?.map_err(error)?.record;
        // the survey kept this row, so if it cannot be kept now, the file has changed
        let changed = || DataError::from(SourceError::Changed { path: rows.place(number).0 });
        let part = self.part(record, entry.part as usize).ok_or_else(changed)?;
        match self.encoder.encode(&part).map_err(error)?.0 {
            Encoded::Kept(row) => Ok(row),
            Encoded::Dropped { .. } => Err(changed()),
        }
    }

    /// Returns what became of the records of a range: the rows that they make, and the dropped ones with their reasons, in the
    /// order of the files. For commands that report every record.
    ///
    /// # Errors
    /// The errors of [`Dataset::rows`]. Bad rows are returned as dropped rows. (If bad rows end a run, [`Dataset::open`] has
    /// failed.)
    pub fn outcomes(&self, records: Range<usize>) -> Result<Vec<Encoded>, DataError> {
        let cached = self.cached.as_deref();
        if let Some(cached) = cached {
            cached.check_unchanged()?;
        }
        let numbers: Vec<Option<u32>> = records.clone().map(|record| self.cached_number(record)).collect();
        if numbers.contains(&None) {
            self.sources.rows()?.check_unchanged()?;
        }
        let outcome = |(record, number): (usize, Option<u32>)| match (cached, number) {
            (Some(cached), Some(number)) => Ok(vec![Encoded::Kept(cached.row(number)?)]),
            _ => self.outcome(record),
        };
        let outcomes: Result<Vec<Vec<Encoded>>, DataError> =
            with_deep_stack(|| records.into_par_iter().zip(numbers).map(outcome).collect());
        Ok(outcomes?.into_iter().flatten().collect())
    }

    /// Returns the number in the token cache of the row that a record makes. `None` if the row is not cached, or if records may
    /// make several rows.
    fn cached_number(&self, record: usize) -> Option<u32> {
        let makes_several = self.is_unpaired() || self.survey.layout.is_some_and(|layout| self.makes_pairs(layout));
        if self.cached.is_none() || makes_several {
            return None;
        }
        // the index is in the order of the files
        let at = self.index.binary_search_by_key(&record, |entry| entry.record as usize).ok()?;
        Some(self.index[at].cached)
    }

    fn outcome(&self, row: usize) -> Result<Vec<Encoded>, DataError> {
        let bad = |id, reason| Encoded::Dropped { row, id, reason: DropReason::Bad(reason) };
        let record = match self.parse(row)? {
            Ok(parsed) => parsed.record,
            Err(reason) => return Ok(vec![bad(None, reason)]),
        };
        if let Err(reason) = self.check_layout(record.layout()) {
            return Ok(vec![bad(record.id, reason)]);
        }
        let id = record.id.clone();
        let encoded = |part: Result<(Encoded, Notes), BadRow>| match part {
            Ok((encoded, _)) => encoded,
            Err(reason) => bad(id.clone(), reason),
        };
        Ok(self.encode_parts(record).into_iter().map(encoded).collect())
    }

    /// Encodes the rows that a record makes in this run. If its scored answers make no pair, the result is one dropped row.
    pub(crate) fn encode_parts(&self, record: Record) -> Vec<Result<(Encoded, Notes), BadRow>> {
        let (row, id, makes_pairs) = (record.row, record.id.clone(), self.makes_pairs(record.layout()));
        let mut parts: Vec<_> = self.parts(record).map(|part| self.encode(&part)).collect();
        if parts.is_empty() && makes_pairs {
            parts.push(Ok((Encoded::Dropped { row, id, reason: DropReason::NoPair }, Notes::default())));
        }
        parts
    }

    fn parse(&self, record: usize) -> Result<Result<Parsed, BadRow>, DataError> {
        Ok(self.sources.rows()?.read(record)?.map_err(BadRow::from).and_then(|line| self.encoder.parse(record, &line)))
    }

    /// Encodes a row. Fails if the chat template leaves out all that an answer says.
    fn encode(&self, row: &Record) -> Result<(Encoded, Notes), BadRow> {
        for answer in 0..row.answers.len() {
            self.encoder.check_something_is_said(row, answer)?;
        }
        self.encoder.encode(row)
    }

    /// Iterates over the rows that a record makes in this run. They are made one at a time, since all pairs of its answers may be
    /// many.
    fn parts(&self, record: Record) -> Box<dyn Iterator<Item = Record>> {
        match self.places_of_pairs(&record) {
            Some(pairs) => Box::new(pairs.into_iter().map(move |places| record.pair_of(places))),
            None => Box::new(self.other_parts(record).into_iter()),
        }
    }

    /// Returns the row with this number among [`Dataset::parts`].
    fn part(&self, record: Record, number: usize) -> Option<Record> {
        match self.places_of_pairs(&record) {
            Some(pairs) => pairs.get(number).map(|&places| record.pair_of(places)),
            None => self.other_parts(record).into_iter().nth(number),
        }
    }

    /// Returns, for each pair that a record's scored answers make, the places of the two answers. `None` if the record is not one
    /// from which this run makes pairs.
    fn places_of_pairs(&self, record: &Record) -> Option<Vec<[usize; 2]>> {
        let pairs = self.encoder.reading().pairs.filter(|_| self.makes_pairs(record.layout()))?;
        let Some(Target::Rewards(rewards)) = &record.target else { return None };
        Some(pairs.of(rewards))
    }

    fn other_parts(&self, record: Record) -> Vec<Record> {
        match self.kind {
            Some(RowKind::Labelled) => record.unpaired(),
            Some(RowKind::Sequence) => vec![record.as_sequence()],
            None | Some(RowKind::Pair | RowKind::Scored) => vec![record],
        }
    }

    /// Whether rows of a layout become pairs in this run.
    pub(crate) fn makes_pairs(&self, layout: RowLayout) -> bool {
        let reads_pairs = matches!(self.kind, None | Some(RowKind::Pair));
        layout.shape == Shape::Scored && reads_pairs && self.encoder.reading().pairs.is_some()
    }

    pub(crate) fn check_layout(&self, found: RowLayout) -> Result<(), BadRow> {
        match self.survey.layout {
            Some(first) if !first.mixes_with(found) => Err(BadRow::OtherShape { found, first }),
            _ => Ok(()),
        }
    }
}
