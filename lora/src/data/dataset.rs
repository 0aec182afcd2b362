//! A data set: what a survey of all rows found, and its rows on demand, in any order, in bounded memory.

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use align_engine::new_file::NewFileError;
use rayon::prelude::*;

use super::columns::{ColumnMap, Seen};
use super::deep_stack::with_deep_stack;
use super::duplicates::{Hashes, hash_of_bytes, hash_of_tokens};
use super::encode::{DropReason, Encoded, EncodedRow, Encoder, Notes};
use super::progress::{DataObserver, DataProgress, Stage, Unobserved};
use super::reader::{PlaceCursor, Rows};
use super::records::{Form, Kind, Parsed, Record, Shape};
use super::rejects::Rejects;
use super::sequence::SftPart;
use super::spans::SpanSource;
use super::survey::{RowCounts, Sequences, Survey};
use super::token_cache::{self, CachedRows, Lookup, Slot, TokenCache, Writer};
use super::{BadRow, DataError, order, split};

/// Records that the survey holds at a time.
const WINDOW: usize = 1024;
/// Bytes of records that the survey holds at a time, or one record.
const WINDOW_BYTES: u64 = 32 << 20;
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

/// How a data set is opened.
pub struct Opening<'a> {
    /// What it is read for.
    pub needs: Needs,
    /// What happens to a bad row.
    pub on_bad_row: OnBadRow,
    /// Where its tokens are kept for the next start, and taken from.
    pub cache: Option<&'a TokenCache>,
    /// Takes a JSON line for each record that is left out: `{"file", "line", "reason", "row"}`, `row` as it stands in the data.
    pub rejects: Option<&'a mut dyn Write>,
    /// Is told how it goes.
    pub observer: &'a mut dyn DataObserver,
}

/// The usable rows of some files: 24 bytes a row here, 8 bytes a record in [`Rows`], or 8 bytes a row where the tokens are cached.
#[derive(Debug)]
pub struct Dataset {
    sources: Arc<Sources>,
    encoder: Arc<Encoder>,
    needs: Needs,
    index: Vec<Entry>,
    survey: Survey,
    /// The encoded rows, by [`Entry::cached`].
    cached: Option<Arc<CachedRows>>,
}

/// The files, read when a row of them is needed: where all tokens are cached that may be never.
#[derive(Debug)]
struct Sources {
    paths: Vec<PathBuf>,
    columns: ColumnMap,
    rows: OnceLock<Rows>,
}

impl Sources {
    fn rows(&self) -> Result<&Rows, DataError> {
        if self.rows.get().is_none() {
            let rows = Rows::open(&self.paths, &self.columns)?;
            // another thread may have been faster: then its are taken
            let _ = self.rows.set(rows);
        }
        Ok(self.rows.get().expect("set above"))
    }
}

/// The two sides of a data set.
#[derive(Debug)]
pub struct Split {
    /// What is trained on.
    pub train: Dataset,
    /// What is held out.
    pub held_out: Dataset,
    /// Different prompts among the held-out rows.
    pub held_out_prompts: usize,
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
    /// Number of the row in the token cache, where there is one.
    cached: u32,
}

impl Entry {
    const BYTES: usize = 24;

    fn to_bytes(self) -> [u8; Entry::BYTES] {
        let mut bytes = [0; Entry::BYTES];
        let fields = [self.record, self.part, self.group, self.prompt_tokens, self.tree_tokens, self.cached]
            .map(u32::to_le_bytes);
        bytes.chunks_exact_mut(4).zip(fields).for_each(|(to, field)| to.copy_from_slice(&field));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Entry {
        let field = |i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
        let [record, part, group, prompt_tokens, tree_tokens, cached] = [0, 1, 2, 3, 4, 5].map(field);
        Entry { record, part, group, prompt_tokens, tree_tokens, cached }
    }
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
        let opening = Opening { needs, on_bad_row, cache: None, rejects: None, observer: &mut Unobserved };
        Dataset::open_with(paths, encoder, opening)
    }

    /// As [`Dataset::open`], with the tokens of an earlier run where the cache has them, telling how it goes, and writing down what is
    /// left out.
    ///
    /// # Errors
    /// As [`Dataset::open`]; [`DataError::Rejects`]. A cache that fails is no error: it is said, and the run goes on without it.
    pub fn open_with(paths: &[PathBuf], encoder: Encoder, opening: Opening<'_>) -> Result<Dataset, DataError> {
        let Opening { needs, on_bad_row, cache, mut rejects, observer } = opening;
        let mut write = |piece: &[u8]| match &mut rejects {
            Some(to) => to.write_all(piece).map_err(DataError::Rejects),
            None => Ok(()),
        };
        let slot = cache.map(|cache| cache.slot(paths, &encoder, needs, on_bad_row)).transpose()?;
        if let Some((index, entry)) = slot.as_ref().and_then(|slot| look_up(slot, observer)) {
            entry.copy_rejects(&mut write)?;
            let token_cache::Entry { survey, rows, .. } = *entry;
            let (paths, columns) = (paths.to_vec(), encoder.columns().clone());
            let sources = Arc::new(Sources { paths, columns, rows: OnceLock::new() });
            let cached = Some(Arc::new(rows));
            return Ok(Dataset { sources, encoder: Arc::new(encoder), needs, index, survey, cached });
        }
        let rows = Rows::open_observed(paths, encoder.columns(), observer)?;
        let records = rows.len();
        if records > MAX_RECORDS {
            return Err(DataError::TooManyRows { rows: records, limit: MAX_RECORDS });
        }
        let survey = Survey::new(records, rows.blank_lines());
        let (paths, columns) = (paths.to_vec(), encoder.columns().clone());
        let sources = Arc::new(Sources { paths, columns, rows: OnceLock::from(rows) });
        let encoder = Arc::new(encoder);
        let dataset = Dataset { sources, encoder, needs, index: Vec::new(), survey, cached: None };
        let pass = Pass {
            dataset,
            on_bad_row,
            first_dropped: None,
            hashes: Hashes::default(),
            rejects: Rejects::new(),
            place: PlaceCursor::default(),
            writer: None,
            failed: None,
        };
        pass.run(slot.as_ref(), observer, &mut write)
    }

    /// Holds out about `fraction` of the rows, by seed and prompt: no prompt stands on both sides, at least one row on each. Both
    /// sides keep the order of the files, and both surveys are that of the whole.
    ///
    /// # Errors
    /// [`DataError::OnePrompt`].
    pub fn split(self, fraction: f64, seed: u64) -> Result<Split, DataError> {
        let groups: Vec<u32> = self.index.iter().map(|entry| entry.group).collect();
        let is_out = split::held_out(&groups, fraction, seed)?;
        let side = |wanted: bool| -> Vec<Entry> {
            self.index.iter().zip(&is_out).filter(|(_, out)| **out == wanted).map(|(entry, _)| *entry).collect()
        };
        let (train, held_out) = (side(false), side(true));
        let prompts: std::collections::HashSet<u32> = held_out.iter().map(|entry| entry.group).collect();
        let held_out = Dataset {
            sources: self.sources.clone(),
            encoder: self.encoder.clone(),
            needs: self.needs,
            index: held_out,
            survey: self.survey.clone(),
            cached: self.cached.clone(),
        };
        Ok(Split { train: Dataset { index: train, ..self }, held_out, held_out_prompts: prompts.len() })
    }

    /// Number of usable rows; at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always a row")]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Number of records in the files, usable or not.
    pub fn records(&self) -> usize {
        self.survey.records
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
        let error = |reason| rows.row_error(number, reason);
        let record = self.parse(number)?.map_err(error)?.record;
        // the survey kept it: if it is no longer as it was, neither is the file
        let changed = || DataError::Changed { path: rows.place(number).0 };
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
        self.sources.rows()?.check_unchanged()?;
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
        Ok(self.sources.rows()?.read(record)?.and_then(|line| self.encoder.parse(record, &line)))
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
    fn examine(&self, record: usize, keep_tokens: bool) -> Result<Examined, DataError> {
        let line = self.sources.rows()?.read(record)?;
        let bytes = line.as_ref().map_or(0, |line| hash_of_bytes(line));
        let parsed = match line.and_then(|line| self.encoder.parse(record, &line)) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Examined { record, bytes, outcome: Err(reason) }),
        };
        let kind = parsed.record.kind();
        let group = parsed.record.prompt_group();
        let parts = match kind.shape != Shape::Prompt && self.encoder.supports(kind.form) {
            true => self.parts(parsed.record),
            false => Vec::new(),
        };
        let encoded: Vec<_> = parts.into_iter().map(|part| self.encoder.encode(&part)).collect();
        let kept = encoded.iter().filter_map(|part| match part {
            Ok((Encoded::Kept(row), _)) => Some(row),
            _ => None,
        });
        let tokens = hash_of_tokens(kept);
        let part = |(encoded, notes): (Encoded, Notes)| match encoded {
            Encoded::Kept(row) => Part::Kept {
                counts: RowCounts::of(&row),
                notes,
                tokens: keep_tokens.then(|| token_cache::encode(&row)),
            },
            Encoded::Dropped { reason, .. } => Part::Dropped(reason),
        };
        let parts = encoded.into_iter().map(|encoded| encoded.map(part)).collect();
        let Parsed { ignored_columns, seen, .. } = parsed;
        let outcome = Ok(ExaminedRecord { kind, group, ignored_columns, seen, tokens, parts });
        Ok(Examined { record, bytes, outcome })
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
        let (path, line) = self.sources.rows()?.place(record);
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

/// The index and the entry in a slot of the cache; `None` where it has to be made. Says why, if there was one.
fn look_up(slot: &Slot, observer: &mut dyn DataObserver) -> Option<(Vec<Entry>, Box<token_cache::Entry>)> {
    let why = match slot.look_up(observer) {
        Lookup::Found(entry) => match index_of(&entry) {
            Some(index) => {
                let rows = index.len();
                observer.note(format!("token cache: the tokens of {rows} rows are those of {}", slot.path().display()));
                return Some((index, entry));
            }
            None => "damaged: its index names rows that it has not".to_owned(),
        },
        Lookup::Nothing => return None,
        Lookup::Stale { what } => format!("not for this run: {what} has changed"),
        Lookup::Damaged { why } => format!("damaged: {why}"),
    };
    observer.note(format!("token cache: {} is {why}; the tokens are made anew", slot.path().display()));
    None
}

fn index_of(entry: &token_cache::Entry) -> Option<Vec<Entry>> {
    if entry.index.is_empty() || !entry.index.len().is_multiple_of(Entry::BYTES) {
        return None;
    }
    let index: Vec<Entry> = entry.index.chunks_exact(Entry::BYTES).map(Entry::from_bytes).collect();
    let is_there =
        |row: &Entry| (row.cached as usize) < entry.rows.len() && (row.record as usize) < entry.survey.records;
    index.iter().all(is_there).then_some(index)
}

/// One pass over all records.
struct Pass {
    dataset: Dataset,
    on_bad_row: OnBadRow,
    first_dropped: Option<(usize, DropReason)>,
    hashes: Hashes,
    rejects: Rejects,
    /// Of the reject before.
    place: PlaceCursor,
    /// Takes the tokens on their way to the cache.
    writer: Option<Writer>,
    /// Why there is no writer any more.
    failed: Option<NewFileError>,
}

impl Pass {
    fn run(
        mut self,
        slot: Option<&Slot>,
        observer: &mut dyn DataObserver,
        write_rejects: &mut dyn FnMut(&[u8]) -> Result<(), DataError>,
    ) -> Result<Dataset, DataError> {
        let records = self.dataset.survey.records;
        if let Some(slot) = slot {
            self.keep(slot.write(), |pass, writer| pass.writer = Some(writer));
        }
        let mut start = 0;
        let mut seen: Seen = 0;
        while start < records {
            let window = self.window(start)?;
            let (dataset, keep_tokens) = (&self.dataset, self.writer.is_some());
            let examined: Result<Vec<_>, DataError> = with_deep_stack(|| {
                window.clone().into_par_iter().map(|record| dataset.examine(record, keep_tokens)).collect()
            });
            for examined in examined? {
                seen |= examined.outcome.as_ref().map_or(0, |record| record.seen);
                self.admit(examined)?;
            }
            start = window.end;
            let progress = DataProgress { stage: Stage::Tokenising, done: start as u64, total: records as u64 };
            observer.progress(progress);
        }
        self.rejects.copy_to(write_rejects)?;
        let Pass { mut dataset, first_dropped, hashes, mut rejects, writer, failed, .. } = self;
        let sources = dataset.sources.clone();
        let rows = sources.rows()?;
        refuse_unseen(&dataset.encoder, seen, &sources.paths)?;
        if dataset.index.is_empty() {
            let (record, reason) = first_dropped.expect("every record was dropped, and there is one");
            let (path, line) = rows.place(record);
            return Err(DataError::NothingLeft { rows: records, path, line, reason });
        }
        (dataset.survey.copies, dataset.survey.same_tokens) = hashes.repeats(|record| rows.place(record));
        if dataset.is_unpaired() {
            // stable: within a block the chosen answers in file order, then the rejected ones
            dataset.index.sort_by_key(|entry| (entry.record as usize / UNPAIR_BLOCK, entry.part));
        }
        dataset.index.shrink_to_fit();
        let Some(slot) = slot else { return Ok(dataset) };
        // what is kept is of the files that were looked at before
        rows.check_unchanged()?;
        let index: Vec<u8> = dataset.index.iter().flat_map(|entry| entry.to_bytes()).collect();
        let written = match (writer, failed) {
            (Some(writer), _) => writer.finish(slot, &index, &dataset.survey, &mut rejects),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("a writer goes with an error"),
        };
        let path = slot.path().display();
        match written {
            Ok(rows) => {
                observer.note(format!("token cache: the tokens of {} rows are kept in {path}", dataset.index.len()));
                dataset.cached = Some(Arc::new(rows));
                let removed = slot.make_room();
                if removed > 0 {
                    observer.note(format!(
                        "token cache: {removed} of its files, not used for the longest time, are removed"
                    ));
                }
            }
            Err(NewFileError { action, source }) => {
                observer.note(format!("token cache: cannot {action}: {source} ({path}); the run goes on without it"));
            }
        }
        Ok(dataset)
    }

    /// What the cache gave, or the end of the cache for this run.
    fn keep<T>(&mut self, outcome: Result<T, NewFileError>, take: impl FnOnce(&mut Pass, T)) {
        match outcome {
            Ok(value) => take(self, value),
            Err(error) => {
                self.writer = None;
                self.failed = Some(error);
            }
        }
    }

    /// The records from `start` that are examined together.
    fn window(&self, start: usize) -> Result<Range<usize>, DataError> {
        let rows = self.dataset.sources.rows()?;
        let (mut end, mut bytes) = (start, 0);
        while end < rows.len().min(start + WINDOW) {
            bytes += rows.bytes(end);
            if bytes > WINDOW_BYTES && end > start {
                break;
            }
            end += 1;
        }
        Ok(start..end)
    }

    /// Counts an examined record and takes its usable rows into the index.
    fn admit(&mut self, examined: Examined) -> Result<(), DataError> {
        let number = examined.record;
        let tokens = examined.outcome.as_ref().ok().and_then(|record| record.tokens);
        self.hashes.push(examined.bytes, tokens);
        let record = match examined.outcome {
            Ok(record) => record,
            Err(reason) => return self.bad(number, reason),
        };
        self.dataset.survey.count_columns(record.ignored_columns);
        if self.dataset.survey.kind.is_none() {
            self.dataset.check_first(number, record.kind)?;
            self.dataset.survey.kind = Some(record.kind);
            self.dataset.survey.sequences = self.dataset.sequences(record.kind);
        }
        if let Err(reason) = self.dataset.check_kind(record.kind) {
            return self.bad(number, reason);
        }
        for (part_number, part) in record.parts.into_iter().enumerate() {
            match part {
                Ok(Part::Kept { counts, notes, tokens }) => {
                    let mut cached = 0;
                    if let (Some(writer), Some(tokens)) = (&mut self.writer, tokens) {
                        let row = writer.row(&tokens);
                        self.keep(row, |_, row| cached = row);
                    }
                    let Dataset { survey, encoder, index, .. } = &mut self.dataset;
                    survey.count_kept(&counts, &notes, encoder.tokenizer(), encoder.max_length());
                    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX); // a row has at most 64 Mi bytes
                    index.push(Entry {
                        record: count(number),
                        part: count(part_number),
                        group: record.group,
                        prompt_tokens: count(counts.prompt_tokens),
                        tree_tokens: count(counts.tree_tokens),
                        cached,
                    });
                }
                Ok(Part::Dropped(reason)) => self.dropped(number, reason)?,
                Err(reason) => self.bad(number, reason)?,
            }
        }
        Ok(())
    }

    fn bad(&mut self, record: usize, reason: BadRow) -> Result<(), DataError> {
        match self.on_bad_row {
            OnBadRow::Error => Err(self.dataset.sources.rows()?.row_error(record, reason)),
            OnBadRow::Skip => self.dropped(record, DropReason::Bad(reason)),
        }
    }

    fn dropped(&mut self, record: usize, reason: DropReason) -> Result<(), DataError> {
        let rows = self.dataset.sources.rows()?;
        self.dataset.survey.count_dropped(&reason, || rows.place(record));
        if self.on_bad_row == OnBadRow::Skip {
            let (path, line) = rows.place_after(&mut self.place, record);
            let row = rows.read(record)?;
            self.rejects.add(record, (&path, line), &reason.to_string(), row.as_deref().ok())?;
        }
        self.first_dropped.get_or_insert((record, reason));
        Ok(())
    }
}

/// What one record gave.
struct Examined {
    record: usize,
    /// Of its bytes.
    bytes: u64,
    outcome: Result<ExaminedRecord, BadRow>,
}

struct ExaminedRecord {
    kind: Kind,
    group: u32,
    ignored_columns: Vec<String>,
    seen: Seen,
    /// Hash of its tokens, if it has any.
    tokens: Option<u64>,
    parts: Vec<Result<Part, BadRow>>,
}

/// What one row of a record gave.
enum Part {
    Kept {
        counts: RowCounts,
        notes: Notes,
        /// For the cache, where there is one.
        tokens: Option<Vec<u8>>,
    },
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
    let rows = Rows::open(paths, encoder.columns())?;
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
