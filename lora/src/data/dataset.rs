//! A data set: what a survey of all rows found, and its rows on demand, in any order, in bounded memory.

use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;

use super::columns::Seen;
use super::deep_stack::with_deep_stack;
use super::encode::{DropReason, Encoded, EncodedRow, Encoder, Notes};
use super::reader::Rows;
use super::records::{Form, Kind, Parsed, Record, Shape};
use super::sequence::SftPart;
use super::spans::SpanSource;
use super::survey::{RowCounts, Sequences, Survey};
use super::{BadRow, DataError, order};

/// Records that the survey holds at a time.
const WINDOW: usize = 1024;
/// Pairs that TRL unpairs at a time: `datasets.map(batched=True)` passes this many rows.
const UNPAIR_BLOCK: usize = 1000;

/// What a run reads the data for, and so which shapes it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Pairs.
    Pairs,
    /// Labelled rows; pairs become two of them.
    Labels,
    /// Scored answers.
    Rewards,
    /// Sequences to learn as they are; of pairs the chosen answers.
    Sequences,
    /// Any row with an answer, as it is.
    Answers,
}

/// What happens to a bad row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadRow {
    /// The first one ends the run.
    Error,
    /// It is left out and counted.
    Skip,
}

/// The order of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// By this seed and the epoch.
    Seeded(u64),
    /// As in the files.
    Off,
}

/// The usable rows of some files: 20 bytes a row here, 8 bytes a record in [`Rows`].
#[derive(Debug)]
pub struct Dataset {
    rows: Rows,
    encoder: Encoder,
    needs: Needs,
    on_bad_row: OnBadRow,
    index: Vec<Entry>,
    survey: Survey,
}

/// One usable row.
#[derive(Clone, Copy, Debug)]
struct Entry {
    record: u32,
    /// Which of the rows made from the record: 0, or 1 for the rejected answer of an unpaired pair.
    part: u32,
    /// [`Record::prompt_group`].
    group: u32,
    prompt_tokens: u32,
    tree_tokens: u32,
}

/// Token counts of one row, known without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLengths {
    /// Tokens of the shared prompt.
    pub prompt: usize,
    /// Tokens of the row's tree: the prompt once, and what is kept of every answer.
    pub tree: usize,
}

impl Dataset {
    /// Surveys all rows: reads, encodes and counts every one, in parallel, a window at a time.
    ///
    /// The first record that can be parsed sets shape and form of the run; records of another kind are bad rows. Labelled rows
    /// made from pairs stand in TRL's order: of each thousand pairs all chosen answers, then all rejected ones.
    ///
    /// # Errors
    /// [`DataError`]; with [`OnBadRow::Error`] that of the first bad row in the order of the files.
    pub fn open(paths: &[PathBuf], encoder: Encoder, needs: Needs, on_bad_row: OnBadRow) -> Result<Dataset, DataError> {
        let rows = Rows::open(paths)?;
        let records = rows.len();
        if records > MAX_RECORDS {
            return Err(DataError::TooManyRows { rows: records, limit: MAX_RECORDS });
        }
        let survey = Survey::new(records, rows.blank_lines());
        let mut dataset = Dataset { rows, encoder, needs, on_bad_row, index: Vec::new(), survey };
        let mut seen: Seen = 0;
        for start in (0..records).step_by(WINDOW) {
            let window = start..records.min(start + WINDOW);
            let examined: Result<Vec<_>, DataError> =
                with_deep_stack(|| window.into_par_iter().map(|r| dataset.examine(r)).collect());
            for examined in examined? {
                seen |= examined.outcome.as_ref().map_or(0, |record| record.seen);
                dataset.admit(examined)?;
            }
        }
        refuse_unseen(&dataset.encoder, seen, paths)?;
        if dataset.index.is_empty() {
            let first = dataset.survey.dropped.swap_remove(0); // every record was dropped, and there is one
            return Err(DataError::NothingLeft {
                rows: records,
                path: first.path,
                line: first.line,
                reason: first.first,
            });
        }
        if dataset.is_unpaired() {
            // stable: within a block the chosen answers in file order, then the rejected ones
            dataset.index.sort_by_key(|entry| (entry.record as usize / UNPAIR_BLOCK, entry.part));
        }
        dataset.index.shrink_to_fit();
        Ok(dataset)
    }

    /// Number of usable rows; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Number of records in the files, usable or not.
    pub fn records(&self) -> usize {
        self.rows.len()
    }

    /// What the survey found.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The encoder of the rows.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Whether the rows are labelled ones made from pairs.
    pub fn is_unpaired(&self) -> bool {
        self.needs == Needs::Labels && self.survey.kind.is_some_and(|kind| kind.shape != Shape::Labelled)
    }

    /// Token counts of usable row `i`.
    pub fn lengths(&self, i: usize) -> RowLengths {
        let entry = self.index[i];
        RowLengths { prompt: entry.prompt_tokens as usize, tree: entry.tree_tokens as usize }
    }

    /// The order of an epoch, as numbers below [`Dataset::len`]: a pure function of the data, the seed and the epoch.
    ///
    /// In shuffled rows that were made from pairs no row follows one of the same prompt, unless one prompt has more than half of
    /// the rows: KTO's mismatched answer is that of the row before.
    pub fn order(&self, shuffle: Shuffle, epoch: u64) -> Vec<u32> {
        match shuffle {
            Shuffle::Off => (0..self.index.len() as u32).collect(), // MAX_RECORDS, twice, fits
            Shuffle::Seeded(seed) => {
                let mut order = order::permutation(self.index.len(), seed, epoch);
                if self.is_unpaired() {
                    order::separate(&mut order, |i| self.index[i as usize].group);
                }
                order
            }
        }
    }

    /// Reads and encodes usable rows, in the order given.
    ///
    /// # Errors
    /// [`DataError::Changed`] if a file is not as it was surveyed; [`DataError::Io`].
    pub fn rows(&self, numbers: &[u32]) -> Result<Vec<EncodedRow>, DataError> {
        self.rows.check_unchanged()?;
        with_deep_stack(|| numbers.par_iter().map(|&i| self.row(self.index[i as usize])).collect())
    }

    fn row(&self, entry: Entry) -> Result<EncodedRow, DataError> {
        let number = entry.record as usize;
        let error = |reason| self.rows.row_error(number, reason);
        let record = self.parse(number)?.map_err(error)?.record;
        // the survey kept it: if it is no longer as it was, neither is the file
        let changed = || DataError::Changed { path: self.rows.place(number).0 };
        let part = self.parts(record).into_iter().nth(entry.part as usize).ok_or_else(changed)?;
        match self.encoder.encode(&part).map_err(error)?.0 {
            Encoded::Kept(row) => Ok(row),
            Encoded::Dropped { .. } => Err(changed()),
        }
    }

    /// What became of the records of a range, dropped ones included, in the order of the files: for commands that report every
    /// record.
    ///
    /// # Errors
    /// As [`Dataset::rows`]. Bad rows come as dropped ones ([`Dataset::open`] has refused them where they are an error).
    pub fn outcomes(&self, records: Range<usize>) -> Result<Vec<Encoded>, DataError> {
        self.rows.check_unchanged()?;
        let outcomes: Result<Vec<Vec<Encoded>>, DataError> =
            with_deep_stack(|| records.into_par_iter().map(|record| self.outcome(record)).collect());
        Ok(outcomes?.into_iter().flatten().collect())
    }

    fn outcome(&self, row: usize) -> Result<Vec<Encoded>, DataError> {
        let bad = |id, reason| Encoded::Dropped { row, id, reason: DropReason::Bad(reason) };
        let record = match self.parse(row)? {
            Ok(parsed) => parsed.record,
            Err(reason) => return Ok(vec![bad(None, reason)]),
        };
        if let Err(reason) = self.check_kind(record.kind()) {
            return Ok(vec![bad(record.id, reason)]);
        }
        let encode = |part: Record| match self.encoder.encode(&part) {
            Ok((encoded, _)) => encoded,
            Err(reason) => bad(part.id, reason),
        };
        Ok(self.parts(record).into_iter().map(encode).collect())
    }

    fn parse(&self, record: usize) -> Result<Result<Parsed, BadRow>, DataError> {
        Ok(self.rows.read(record)?.and_then(|line| self.encoder.parse(record, &line)))
    }

    /// The rows that a record makes in this run.
    fn parts(&self, record: Record) -> Vec<Record> {
        match self.needs {
            Needs::Labels => record.unpaired(),
            Needs::Sequences => vec![record.as_sequence()],
            Needs::Pairs | Needs::Rewards | Needs::Answers => vec![record],
        }
    }

    fn check_kind(&self, found: Kind) -> Result<(), BadRow> {
        match self.survey.kind {
            Some(first) if !first.mixes_with(found) => Err(BadRow::OtherShape { found, first }),
            _ => Ok(()),
        }
    }

    /// The work on one record that needs no other, so that it runs in parallel. What cannot be encoded at all (a prompt alone, a
    /// form that the model has no means for) is left to [`Dataset::admit`], which knows whether it is the first.
    fn examine(&self, record: usize) -> Result<Examined, DataError> {
        let parsed = match self.parse(record)? {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Examined { record, outcome: Err(reason) }),
        };
        let kind = parsed.record.kind();
        let group = parsed.record.prompt_group();
        let parts = match kind.shape != Shape::Prompt && self.encoder.supports(kind.form) {
            true => self.parts(parsed.record),
            false => Vec::new(),
        };
        let encode = |part: Record| {
            self.encoder.encode(&part).map(|(encoded, notes)| match encoded {
                Encoded::Kept(row) => Part::Kept(RowCounts::of(&row), notes),
                Encoded::Dropped { reason, .. } => Part::Dropped(reason),
            })
        };
        let parts = parts.into_iter().map(encode).collect();
        let Parsed { ignored_columns, seen, .. } = parsed;
        let outcome = Ok(ExaminedRecord { kind, group, ignored_columns, seen, parts });
        Ok(Examined { record, outcome })
    }

    /// Counts an examined record and takes its usable rows into the index.
    fn admit(&mut self, examined: Examined) -> Result<(), DataError> {
        let number = examined.record;
        let record = match examined.outcome {
            Ok(record) => record,
            Err(reason) => return self.bad(number, reason),
        };
        self.survey.count_columns(record.ignored_columns);
        if self.survey.kind.is_none() {
            self.check_first(number, record.kind)?;
            self.survey.kind = Some(record.kind);
            self.survey.sequences = self.sequences(record.kind);
        }
        if let Err(reason) = self.check_kind(record.kind) {
            return self.bad(number, reason);
        }
        for (part_number, part) in record.parts.into_iter().enumerate() {
            match part {
                Ok(Part::Kept(row, notes)) => {
                    self.survey.count_kept(&row, &notes, self.encoder.tokenizer());
                    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // a row has at most 64 Mi bytes
                    self.index.push(Entry {
                        record: count(number),
                        part: count(part_number),
                        group: record.group,
                        prompt_tokens: count(row.prompt_tokens),
                        tree_tokens: count(row.tree_tokens),
                    });
                }
                Ok(Part::Dropped(reason)) => self.survey.count_dropped(reason, || self.rows.place(number)),
                Err(reason) => self.bad(number, reason)?,
            }
        }
        Ok(())
    }

    fn bad(&mut self, record: usize, reason: BadRow) -> Result<(), DataError> {
        match self.on_bad_row {
            OnBadRow::Error => Err(self.rows.row_error(record, reason)),
            OnBadRow::Skip => {
                self.survey.count_dropped(DropReason::Bad(reason), || self.rows.place(record));
                Ok(())
            }
        }
    }

    /// What is scored of the rows, if they are learned as sequences in this run.
    fn sequences(&self, kind: Kind) -> Option<Sequences> {
        let scored = match self.needs {
            Needs::Sequences => true,
            Needs::Answers => kind.shape.is_sequence(),
            Needs::Pairs | Needs::Labels | Needs::Rewards => false,
        };
        let part = self.encoder.sft_part(kind.shape);
        let template = self.encoder.template().filter(|_| part == SftPart::Assistant);
        scored.then(|| Sequences { part, spans: template.map(SpanSource::of), chosen_alone: kind.shape.is_pair() })
    }

    /// Whether the run can use rows like its first one.
    fn check_first(&self, record: usize, kind: Kind) -> Result<(), DataError> {
        let usable = match self.needs {
            Needs::Pairs => kind.shape.is_pair(),
            Needs::Labels => kind.shape.is_pair() || kind.shape == Shape::Labelled,
            Needs::Rewards => kind.shape == Shape::Scored,
            Needs::Sequences => kind.shape.is_pair() || kind.shape.is_sequence(),
            Needs::Answers => kind.shape != Shape::Prompt,
        };
        let needs = match self.needs {
            _ if usable => None,
            Needs::Pairs => Some("this loss needs pairs: {prompt, chosen, rejected} or {chosen, rejected}"),
            Needs::Labels => Some("this loss needs labelled rows, {prompt, completion, label}, or pairs"),
            Needs::Rewards => Some("this loss needs scored answers: {prompt, completions, rewards}"),
            Needs::Sequences => Some(
                "this loss needs sequences, {prompt, completion}, {messages} or {text}, or pairs, of which it learns the chosen answers",
            ),
            Needs::Answers => Some("there is no answer in it"),
        };
        let (path, line) = self.rows.place(record);
        if let Some(needs) = needs {
            return Err(DataError::WrongShape { path, line, found: kind.shape.columns(), needs });
        }
        let wrong_part = match (self.encoder.sft_on(), self.sequences(kind)) {
            (Some(_), None) => Some("--sft-on is for sequences: {prompt, completion}, {messages} or {text}"),
            (Some(SftPart::Completion), _) if matches!(kind.shape, Shape::Messages | Shape::Text) => {
                Some("--sft-on completion needs a prompt and a completion")
            }
            (Some(SftPart::Assistant), _) if kind.form == Form::Plain => {
                Some("--sft-on assistant needs conversations, lists of {role, content}")
            }
            _ => None,
        };
        if let Some(needs) = wrong_part {
            return Err(DataError::WrongPart { path, line, found: kind, needs });
        }
        let model = self.encoder.model_dir().to_owned();
        match kind.form {
            form if self.encoder.supports(form) => Ok(()),
            Form::Conversational => Err(DataError::NoTemplate { path, line, model }),
            Form::Plain => Err(DataError::NoEos { path, line, model }),
        }
    }
}

/// Refuses a column map with a column that no row has.
fn refuse_unseen(encoder: &Encoder, seen: Seen, paths: &[PathBuf]) -> Result<(), DataError> {
    match encoder.columns().unseen(seen) {
        None => Ok(()),
        Some((name, column)) => Err(DataError::NoSuchColumn { name, column: column.to_owned(), paths: paths.to_vec() }),
    }
}

/// Most records of a run: twice as many rows, if each is a pair and unpaired, are still numbered in 32 bits.
const MAX_RECORDS: usize = (u32::MAX / 2) as usize;

/// What one record gave.
struct Examined {
    record: usize,
    outcome: Result<ExaminedRecord, BadRow>,
}

struct ExaminedRecord {
    kind: Kind,
    group: u32,
    ignored_columns: Vec<String>,
    seen: Seen,
    parts: Vec<Result<Part, BadRow>>,
}

/// What one row of a record gave.
enum Part {
    Kept(RowCounts, Notes),
    Dropped(DropReason),
}

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

/// The prompts of the first `limit` records (all, without one), whatever the records' shapes; for generation.
///
/// # Errors
/// [`DataError`] of the first row that cannot be used: generation skips none.
pub fn prompts(paths: &[PathBuf], encoder: &Encoder, limit: Option<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
    let rows = Rows::open(paths)?;
    let count = limit.unwrap_or(usize::MAX).min(rows.len());
    let encode = |row: usize| {
        let parsed = rows.read(row)?.and_then(|line| encoder.parse(row, &line));
        let Parsed { record, seen, .. } = parsed.map_err(|reason| rows.row_error(row, reason))?;
        if record.kind().form == Form::Conversational && encoder.template().is_none() {
            let (path, line) = rows.place(row);
            return Err(DataError::NoTemplate { path, line, model: encoder.model_dir().to_owned() });
        }
        let ids = encoder.encode_to_continue(&record).map_err(|reason| rows.row_error(row, reason))?;
        Ok((EncodedPrompt { row, id: record.id, ids }, seen))
    };
    let encoded: Result<Vec<_>, DataError> = with_deep_stack(|| (0..count).into_par_iter().map(encode).collect());
    let (prompts, seen): (Vec<EncodedPrompt>, Vec<Seen>) = encoded?.into_iter().unzip();
    refuse_unseen(encoder, seen.into_iter().fold(0, |all, seen| all | seen), paths)?;
    Ok(prompts)
}
