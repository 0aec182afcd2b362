//! The walk over all records that makes a [`Dataset`]: it reads, encodes and counts every record, in parallel, a window at a
//! time.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use align_engine::new_file::NewFileError;
use rayon::prelude::*;

use super::dataset::{Dataset, Sources};
use super::duplicates::{Hashes, hash_of_bytes, hash_of_tokens};
use super::error::DataError;
use super::index::{Entry, Index};
use super::ingredients::{Asked, check_stamps};
use super::options::{OnBadRow, UnpairedOrder};
use super::rejects::{self, Rejects};
use super::sample::Sample;
use super::sanity::{self, Files, OfFile, Sighting};
use super::survey::{RowCounts, Sequences, Survey};
use super::token_cache::{self, Lookup, Slot, TokenCache, Writer};
use crate::deep_stack::with_deep_stack;
use crate::progress::{DataObserver, DataProgress, Stage, Unobserved};
use crate::record::bad_row::BadRow;
use crate::record::decided::Decided;
use crate::record::reading::ImplicitPrompt;
use crate::record::records::Record;
use crate::record::shape::{RowLayout, Shape};
use crate::record::text::Form;
use crate::row::RowKind;
use crate::source::column_map::Seen;
use crate::source::error::SourceError;
use crate::source::limits::MAX_RECORDS;
use crate::source::memory::MemoryRows;
use crate::source::reader::{PlaceCursor, Rows};
use crate::tokens::encode::{DropReason, Encoded, Encoder, Notes};
use crate::tokens::sft_part::SftPart;
use crate::tokens::spans::SpanSource;

/// Maximum number of records that the survey holds at a time.
const WINDOW: usize = 1024;
/// Maximum size in bytes of the records that the survey holds at a time, unless it is a single record.
const WINDOW_BYTES: u64 = 32 << 20;
/// Maximum number of rows that the records may make, since row numbers have 32 bits.
const MAX_ROWS: usize = 2 * MAX_RECORDS;
/// Names that data sets give to the column of an answer.
const LIKE_AN_ANSWER: [&str; 5] = ["output", "response", "answer", "completion", "target"];
/// Number of pairs that TRL unpairs at a time: `datasets.map(batched=True)` passes this many rows.
const UNPAIR_BLOCK: usize = 1000;

/// Options of [`Dataset::open_with`] and [`Dataset::from_memory`].
pub struct Opening<'a> {
    /// The kind of rows to make. `None` leaves every row with an answer as it is.
    pub kind: Option<RowKind>,
    /// What happens to a bad row.
    pub on_bad_row: OnBadRow,
    /// The cache from which tokens are read if they are there, and to which they are written otherwise. `None` for no cache.
    pub cache: Option<&'a TokenCache>,
    /// With [`OnBadRow::Skip`], receives a JSON line for each record that is left out: `{"file", "line", "reason", "row"}`, with
    /// `row` as in the data.
    pub rejects: Option<&'a mut dyn Write>,
    /// Receives progress.
    pub observer: &'a mut dyn DataObserver,
}

/// Makes a data set by a walk over opened rows. Writes the rows' tokens to `slot`.
fn survey(
    paths: &[PathBuf],
    rows: Rows,
    mut encoder: Encoder,
    opening: Opening<'_>,
    slot: Option<&Slot>,
) -> Result<Dataset, DataError> {
    let Opening { kind, on_bad_row, rejects, observer, .. } = opening;
    let records = rows.len();
    let mut survey = Survey::new(records, rows.blank_lines());
    survey.decided = Decided::by(&rows, &encoder)?;
    encoder.decide(survey.decided.clone());
    let files: Vec<usize> = rows.files().collect();
    let of_file = OfFile::new(if files.len() == 1 { Files::One } else { Files::Several });
    let sources = Arc::new(Sources::opened(paths, &encoder.reading().columns, rows));
    let encoder = Arc::new(encoder);
    let (index, unpaired_order) = (Index::default(), UnpairedOrder::default());
    let dataset = Dataset { sources, encoder, kind, index, survey, cached: None, unpaired_order };
    let walk = Walk {
        dataset,
        on_bad_row,
        first_dropped: None,
        sample: Sample::new(files, sanity::FIRST, sanity::DRAWN),
        file: 0,
        of_file,
        hashes: Hashes::default(),
        wanted: rejects,
        last_reject: None,
        place: PlaceCursor::default(),
        cache: None,
    };
    let dataset = walk.run(slot, observer)?;
    note_idle_flags(&dataset, observer);
    Ok(dataset)
}

/// Tells the user which flags about rows have no effect on this data.
fn note_idle_flags(dataset: &Dataset, observer: &mut dyn DataObserver) {
    let (reading, Some(layout)) = (dataset.encoder.reading(), dataset.survey.layout) else { return };
    if reading.implicit_prompt == ImplicitPrompt::Longest && layout.shape != Shape::PairImplicitPrompt {
        let prompt = dataset.survey.by_name.iter().find(|named| named.own == "prompt");
        let column = prompt.map_or(reading.columns.column("prompt"), |named| &named.column);
        let why = match layout.shape {
            Shape::Pair => format!("the rows have their prompt in the column `{column}`, which is read"),
            _ => format!("it is for pairs without a prompt, and the rows are {layout}"),
        };
        observer.note(format!("note: --implicit-prompt has no effect: {why}"));
    }
    if let Some(pairs) = reading.pairs
        && !dataset.makes_pairs(layout)
    {
        observer
            .note(format!("note: --pairs {pairs} has no effect: it is for scored answers, and the rows are {layout}"));
    }
}

/// Returns the entry in a slot of the cache. `None` if there is no entry or if it cannot be used. In the second case, a note
/// says why.
fn look_up(slot: &Slot, observer: &mut dyn DataObserver) -> Option<Box<token_cache::Entry>> {
    let path = slot.path().display();
    let why = match slot.look_up(observer) {
        Lookup::Found(entry) => {
            observer.detail(format!("token cache: the tokens of {} rows are those of {path}", entry.index.len()));
            return Some(entry);
        }
        Lookup::Nothing => return None,
        Lookup::Stale { what } => format!("not for this run: {what} has changed"),
        Lookup::Damaged { why } => format!("damaged: {why}"),
    };
    observer.note(format!("token cache: {path} is {why}; the tokens are made anew"));
    None
}

/// Refuses a column map that names a column which no row has.
pub(crate) fn refuse_unseen(encoder: &Encoder, seen: Seen, paths: &[PathBuf]) -> Result<(), DataError> {
    match encoder.reading().columns.unseen(seen) {
        None => Ok(()),
        Some((name, column)) => Err(DataError::NoSuchColumn { name, column: column.to_owned(), paths: paths.to_vec() }),
    }
}

impl Dataset {
    /// Surveys all rows: reads, encodes and counts every one, in parallel, a window at a time.
    ///
    /// The first record that can be parsed sets shape and form of the run; records that do not fit are bad rows. Labelled rows
    /// made from pairs are numbered as in TRL: of each thousand pairs, all chosen answers come before all rejected ones.
    ///
    /// # Errors
    /// [`DataError`]; with [`OnBadRow::Error`], the error of the first bad row in the order of the files.
    pub fn open(
        paths: &[PathBuf],
        encoder: Encoder,
        kind: impl Into<Option<RowKind>>,
        on_bad_row: OnBadRow,
    ) -> Result<Dataset, DataError> {
        let opening = Opening { kind: kind.into(), on_bad_row, cache: None, rejects: None, observer: &mut Unobserved };
        Dataset::open_with(paths, encoder, opening)
    }

    /// Makes a data set as [`Dataset::open`] does, but uses the tokens of an earlier run if the cache has them, reports progress,
    /// and writes the records that are left out to [`Opening::rejects`].
    ///
    /// # Errors
    /// The errors of [`Dataset::open`]; [`DataError::Rejects`]. A cache that fails is not an error: a note reports it, and the run
    /// goes on without the cache.
    pub fn open_with(paths: &[PathBuf], mut encoder: Encoder, opening: Opening<'_>) -> Result<Dataset, DataError> {
        let Opening { kind, on_bad_row, cache, rejects, observer } = opening;
        let asked = Asked { paths, encoder: &encoder, kind, on_bad_row };
        let slot = cache.map(|cache| cache.slot(asked, observer)).transpose()?;
        if let Some(slot) = &slot
            && let Some(entry) = look_up(slot, observer)
        {
            if let Some(to) = rejects {
                entry.write_rejects(paths, to)?;
            }
            let token_cache::Entry { index, survey, rows, .. } = *entry;
            encoder.decide(survey.decided.clone());
            let sources = Arc::new(Sources::later(paths, &encoder.reading().columns, slot, survey.records));
            let cached = Some(Arc::new(rows));
            let (encoder, unpaired_order) = (Arc::new(encoder), UnpairedOrder::default());
            let dataset = Dataset { sources, encoder, kind, index, survey, cached, unpaired_order };
            note_idle_flags(&dataset, observer);
            return Ok(dataset);
        }
        let rows = Rows::open_observed(paths, &encoder.reading().columns, observer)?;
        if let Some(slot) = &slot {
            // the cached tokens must be those of the files that were stamped
            check_stamps(slot.stamps(), paths)?;
        }
        survey(paths, rows, encoder, Opening { kind, on_bad_row, cache, rejects, observer }, slot.as_ref())
    }

    /// Makes a data set as [`Dataset::open_with`] does, but from rows in memory. They are read, checked and counted like those of
    /// a file. Their tokens are not cached: [`Opening::cache`] has no effect.
    ///
    /// # Errors
    /// The errors of [`Dataset::open_with`].
    pub fn from_memory(rows: MemoryRows, encoder: Encoder, opening: Opening<'_>) -> Result<Dataset, DataError> {
        let paths = [rows.name().to_owned()];
        survey(&paths, Rows::in_memory(rows)?, encoder, opening, None)
    }

    /// Does the part of the work on a record for which no other record is needed, so that it can run in parallel. A record that
    /// cannot be encoded at all (a prompt alone, a form that the model does not support) is left to [`Walk::admit`], which knows
    /// whether it is the first.
    fn examine(&self, record: usize, is_looked_at: bool, keep_tokens: bool) -> Result<Examined, DataError> {
        let line = self.sources.rows()?.read(record)?;
        let bytes = line.as_ref().map_or(0, |line| hash_of_bytes(line));
        let mut seen = None;
        let parsed = line.map_err(BadRow::from).and_then(|line| {
            let parsed = Record::parse_seen(record, &line, self.encoder.reading(), &mut seen)?;
            let found = is_looked_at.then(|| sanity::look(&self.encoder, &parsed, &line));
            Ok((parsed, found))
        });
        let (parsed, mut found) = match parsed {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Examined { record, bytes, seen, outcome: Err(reason) }),
        };
        let cut_prompt = sanity::cut_prompt(&parsed);
        let answer_column = parsed.record.answer_columns.first().cloned().unwrap_or_default();
        let layout = parsed.record.layout();
        let group = parsed.record.prompt_group();
        let encoded: Vec<_> = match layout.shape != Shape::Prompt && self.encoder.supports(layout.form) {
            true => self.encode_parts(parsed.record),
            false => Vec::new(),
        };
        let kept = encoded.iter().filter_map(|part| match part {
            Ok((Encoded::Kept(row), notes)) => Some((row, notes)),
            _ => None,
        });
        let tokens = hash_of_tokens(kept.clone().map(|(row, _)| row));
        let unended = kept.map(|(_, notes)| notes.unended_answers).any(|answers| answers > 0);
        if let Some(found) = found.as_mut().filter(|_| unended) {
            found.push(sanity::no_stop(answer_column));
        }
        let part = |(encoded, notes): (Encoded, Notes)| match encoded {
            Encoded::Kept(row) => Made::Kept {
                counts: RowCounts::of(&row),
                notes,
                tokens: keep_tokens.then(|| token_cache::encode(&row)),
            },
            Encoded::Dropped { reason, .. } => Made::Dropped(reason),
        };
        let parts = encoded.into_iter().map(|encoded| encoded.map(part)).collect();
        let (ignored_columns, by_name) = (parsed.ignored_columns, parsed.by_name);
        let outcome = Ok(ExaminedRecord { layout, group, ignored_columns, by_name, tokens, parts, found, cut_prompt });
        Ok(Examined { record, bytes, seen, outcome })
    }

    /// Returns how rows of this layout are learned as sequences in this run. `None` if they are not sequences.
    fn sequences(&self, layout: RowLayout) -> Option<Sequences> {
        let scored = self.kind.or(layout.shape.kind()) == Some(RowKind::Sequence);
        let part = self.encoder.sft_part(layout.shape);
        let template = self.encoder.template().filter(|_| part == SftPart::Assistant);
        scored.then(|| Sequences { part, spans: template.map(SpanSource::of), chosen_alone: layout.shape.is_pair() })
    }

    /// Checks that the run can use rows with the layout of its first one.
    fn check_first(&self, record: usize, layout: RowLayout, ignored_columns: &[String]) -> Result<(), DataError> {
        let found = layout.shape.kind();
        let usable = match self.kind {
            None => found.is_some(),
            Some(RowKind::Pair) => found == self.kind || self.makes_pairs(layout),
            Some(RowKind::Scored) => found == self.kind,
            Some(RowKind::Labelled | RowKind::Sequence) => found == self.kind || layout.shape.is_pair(),
        };
        let (path, line) = self.sources.rows()?.place(record);
        if !usable {
            let needs = match self.kind {
                Some(RowKind::Pair) if layout.shape == Shape::Scored => {
                    "this loss needs pairs: --pairs best-worst or --pairs all makes them of scored answers"
                }
                Some(RowKind::Pair) => "this loss needs pairs: {prompt, chosen, rejected} or {chosen, rejected}",
                Some(RowKind::Labelled) => "this loss needs labelled rows, {prompt, completion, label}, or pairs",
                Some(RowKind::Scored) => "this loss needs scored answers: {prompt, completions, rewards}",
                Some(RowKind::Sequence) => {
                    "this loss needs sequences ({prompt, completion}, {messages} or {text}) or pairs, whose chosen answers it learns"
                }
                None => "there is no answer in it",
            };
            let hint = answer_hint(ignored_columns, self.kind).filter(|_| layout.shape == Shape::Prompt);
            return Err(DataError::WrongShape { path, line, found: layout.shape, needs, hint });
        }
        let wrong_part = match (self.encoder.sft_on(), self.sequences(layout)) {
            _ if self.kind == Some(RowKind::Scored) && self.encoder.reading().pairs.is_some() => {
                Some("this loss reads the scores of all answers, so --pairs has no effect: leave it out")
            }
            (Some(_), None) => Some("--sft-on is for sequences: {prompt, completion}, {messages} or {text}"),
            (Some(SftPart::Completion), _) if matches!(layout.shape, Shape::Messages | Shape::Text) => {
                Some("--sft-on completion needs a prompt and a completion")
            }
            (Some(SftPart::Assistant), _) if layout.form == Form::Plain => {
                Some("--sft-on assistant needs conversations, lists of {role, content}")
            }
            _ => None,
        };
        if let Some(needs) = wrong_part {
            return Err(DataError::WrongPart { path, line, found: layout, needs });
        }
        match layout.form {
            form if self.encoder.supports(form) => Ok(()),
            Form::Conversational => Err(DataError::no_template(&self.encoder, path, line)),
            Form::Plain => Err(DataError::NoEos { path, line, model: self.encoder.model_dir().to_owned() }),
        }
    }
}

/// Suggests, for a row with only a prompt, which unread columns may be its answer or its two answers.
fn answer_hint(unread: &[String], kind: Option<RowKind>) -> Option<String> {
    let has = |name: &str| unread.iter().any(|column| column == name);
    let two = LIKE_AN_ANSWER.into_iter().flat_map(|stem| {
        [("0", "1"), ("1", "2"), ("a", "b")].map(|(one, other)| (format!("{stem}_{one}"), format!("{stem}_{other}")))
    });
    if let Some((one, other)) = two.into_iter().find(|(one, other)| has(one) && has(other)) {
        let better = "better_response_id";
        return Some(match has(better) && one == "response_0" {
            true => format!(
                "; its answers are `{one}` and `{other}`, and `{better}` says which is preferred, so write them as chosen and rejected \
                 first: jq -c '. + {{chosen: .[\"response_\\(.{better})\"], rejected: .[\"response_\\(1 - .{better})\"]}}' FILE > \
                 pairs.jsonl"
            ),
            false => format!(
                "; `{one}` and `{other}` may be its answers: if one is preferred in all rows, give --columns \
                 chosen={one},rejected={other}, else write them as chosen and rejected first"
            ),
        });
    }
    let answer = LIKE_AN_ANSWER.into_iter().find(|name| has(name))?;
    let own = match kind {
        None | Some(RowKind::Labelled | RowKind::Sequence) => "completion",
        Some(RowKind::Pair | RowKind::Scored) => return None,
    };
    Some(format!("; if its answer is the column `{answer}`, which is not read, give --columns {own}={answer}"))
}

/// The walk over all records.
struct Walk<'a> {
    dataset: Dataset,
    on_bad_row: OnBadRow,
    first_dropped: Option<(usize, DropReason)>,
    /// The records to look at for faults.
    sample: Sample,
    /// The number of the current file.
    file: usize,
    /// What was found in the current file.
    of_file: OfFile,
    hashes: Hashes,
    /// Receives the records that are left out.
    wanted: Option<&'a mut dyn Write>,
    /// The last record that had a row left out. If several of its rows are left out, only the first is reported.
    last_reject: Option<usize>,
    /// The place of the last reject.
    place: PlaceCursor,
    /// Receives the tokens for the cache. If it holds an error, a write has failed, and nothing more is written.
    cache: Option<Result<Entrance, NewFileError>>,
}

/// What the walk writes to the cache.
struct Entrance {
    tokens: Writer,
    /// The rejects, with numbers instead of the names of files.
    rejects: Rejects,
    /// The number of each file.
    numbers: HashMap<PathBuf, usize>,
}

impl Walk<'_> {
    fn run(mut self, slot: Option<&Slot>, observer: &mut dyn DataObserver) -> Result<Dataset, DataError> {
        let records = self.dataset.survey.records;
        let paths = self.dataset.sources.paths.iter().cloned();
        let numbers = paths.enumerate().map(|(number, path)| (path, number)).collect();
        let entrance = |tokens| Entrance { tokens, rejects: Rejects::default(), numbers };
        self.cache = slot.map(|slot| slot.write().map(entrance));
        let mut start = 0;
        let mut seen: Option<Seen> = None;
        while start < records {
            let window = self.window(start)?;
            let (dataset, sample, keep_tokens) = (&self.dataset, &self.sample, self.keeps_tokens());
            let examine = |record| dataset.examine(record, sample.has(record), keep_tokens);
            let examined: Result<Vec<_>, DataError> =
                with_deep_stack(|| window.clone().into_par_iter().map(examine).collect());
            for examined in examined? {
                if let Some(more) = examined.seen {
                    seen = Some(seen.unwrap_or(0) | more);
                }
                self.admit(examined)?;
            }
            start = window.end;
            self.of_file.check_early()?;
            let progress = DataProgress { stage: Stage::Tokenising, done: start as u64, total: records as u64 };
            observer.progress(progress);
        }
        self.of_file.settle(&mut self.dataset.survey.warnings)?;
        let Walk { mut dataset, first_dropped, hashes, cache, .. } = self;
        let sources = dataset.sources.clone();
        let rows = sources.rows()?;
        // if no row is an object, the fault is not in the column map
        if let Some(seen) = seen {
            refuse_unseen(&dataset.encoder, seen, &sources.paths)?;
        }
        if dataset.index.is_empty() {
            let (record, reason) = first_dropped.expect("every record was dropped, and there is one");
            let (path, line) = rows.place(record);
            return Err(DataError::NothingLeft { rows: records, path, line, reason });
        }
        (dataset.survey.copies, dataset.survey.same_tokens) = hashes.repeats(|record| rows.place(record));
        if dataset.is_unpaired() {
            // the sort is stable: in each block, the chosen answers come first, in file order, then the rejected ones
            dataset.index.sort_by_key(|entry| (entry.record as usize / UNPAIR_BLOCK, entry.part));
        }
        dataset.index.shrink_to_fit();
        let (Some(slot), Some(cache)) = (slot, cache) else { return Ok(dataset) };
        // the cached tokens must be those of the files that were stamped
        rows.check_unchanged()?;
        let finish = |mut entrance: Entrance| {
            entrance.tokens.finish(slot, &dataset.index, &dataset.survey, &mut entrance.rejects)
        };
        let path = slot.path().display();
        match cache.and_then(finish) {
            Ok(rows) => {
                observer.detail(format!("token cache: the tokens of {} rows are kept in {path}", dataset.index.len()));
                dataset.cached = Some(Arc::new(rows));
                if dataset.kind.is_some() {
                    // rows come from the cache from now on, so unpacked data need not stay on the disk for the whole run. If
                    // `kind` is `None`, the files stay open: records that are left out are read again for their reasons
                    dataset.sources =
                        Arc::new(Sources::later(&sources.paths, &dataset.encoder.reading().columns, slot, records));
                }
                let removed = slot.make_room();
                if removed > 0 {
                    let what = "of its files, not used for the longest time, are removed";
                    observer.detail(format!("token cache: {removed} {what}"));
                }
            }
            Err(NewFileError { action, source }) => {
                observer.note(format!("token cache: cannot {action}: {source} ({path}); the run goes on without it"));
            }
        }
        Ok(dataset)
    }

    fn keeps_tokens(&self) -> bool {
        matches!(self.cache, Some(Ok(_)))
    }

    /// Returns the records from `start` that are examined together.
    fn window(&self, start: usize) -> Result<Range<usize>, DataError> {
        let rows = self.dataset.sources.rows()?;
        let (mut end, mut bytes) = (start, 0);
        while end < rows.len().min(start + self.dataset.records_at_once(WINDOW)) {
            bytes += rows.bytes(end);
            if bytes > WINDOW_BYTES && end > start {
                break;
            }
            end += 1;
        }
        Ok(start..end)
    }

    /// Counts an examined record and adds its usable rows to the index.
    fn admit(&mut self, examined: Examined) -> Result<(), DataError> {
        let number = examined.record;
        let tokens = examined.outcome.as_ref().ok().and_then(|record| record.tokens);
        self.hashes.push(examined.bytes, tokens);
        let record = match examined.outcome {
            Ok(record) => record,
            Err(reason) => return self.bad(number, reason),
        };
        if self.dataset.survey.layout.is_none() {
            self.dataset.check_first(number, record.layout, &record.ignored_columns)?;
            self.dataset.survey.layout = Some(record.layout);
            self.dataset.survey.sequences = self.dataset.sequences(record.layout);
        }
        self.dataset.survey.count_columns(record.ignored_columns);
        if let Err(reason) = self.dataset.check_layout(record.layout) {
            return self.bad(number, reason);
        }
        self.dataset.survey.count_by_name(record.by_name);
        let Dataset { survey, sources, .. } = &mut self.dataset;
        let rows = sources.rows()?;
        let file = self.sample.file_of(number);
        if std::mem::replace(&mut self.file, file) != file {
            self.of_file.settle(&mut survey.warnings)?;
        }
        if let Some(found) = record.found {
            survey.looked_at += 1;
            self.of_file.count(found, || rows.place(number));
        }
        if let Some(cut) = record.cut_prompt {
            cut.count_in(&mut survey.warnings, || rows.place(number));
        }
        for (part_number, part) in record.parts.into_iter().enumerate() {
            match part {
                Ok(Made::Kept { counts, notes, tokens }) => {
                    let mut cached = 0;
                    if let (Some(Ok(entrance)), Some(tokens)) = (&mut self.cache, tokens) {
                        match entrance.tokens.row(&tokens) {
                            Ok(row) => cached = row,
                            Err(error) => self.cache = Some(Err(error)),
                        }
                    }
                    let Dataset { survey, encoder, index, .. } = &mut self.dataset;
                    if index.len() >= MAX_ROWS {
                        return Err(SourceError::TooManyRows { rows: MAX_ROWS + 1, limit: MAX_ROWS }.into());
                    }
                    survey.count_kept(&counts, &notes, encoder.tokenizer(), encoder.max_length());
                    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
                    let entry = Entry {
                        record: count(number),
                        part: count(part_number),
                        group: record.group,
                        prompt_tokens: count(counts.prompt_tokens),
                        cached,
                        ..Entry::default()
                    };
                    index.push(entry, counts.answer_tokens.iter().map(|&tokens| count(tokens)));
                }
                Ok(Made::Dropped(reason)) => self.dropped(number, reason)?,
                Err(reason) => self.bad(number, reason)?,
            }
        }
        Ok(())
    }

    fn bad(&mut self, record: usize, reason: BadRow) -> Result<(), DataError> {
        // a few rows may lack the turn marker that nearly all have: they are dropped and counted; if they are too many, the run
        // fails later
        let lacks_marker = matches!(reason, BadRow::NoTurnMarker { marker: Some(_), .. });
        if self.on_bad_row == OnBadRow::Error && !lacks_marker {
            return Err(DataError::of_row(self.dataset.sources.rows()?, record, reason));
        }
        self.dropped(record, DropReason::Bad(reason))
    }

    fn dropped(&mut self, record: usize, reason: DropReason) -> Result<(), DataError> {
        let rows = self.dataset.sources.rows()?;
        self.dataset.survey.count_dropped(&reason, || rows.place(record));
        let is_first = self.last_reject.replace(record) != Some(record);
        let is_wanted = self.wanted.is_some() || self.keeps_tokens();
        if self.on_bad_row == OnBadRow::Skip && is_first && is_wanted {
            let (path, line) = rows.place_after(&mut self.place, record);
            let row = rows.read(record)?;
            let (text, row) = (reason.to_string(), row.as_deref().ok());
            if let Some(to) = &mut self.wanted {
                let reject = rejects::line(path.to_string_lossy().into(), line, &text, row);
                to.write_all(reject.as_bytes()).map_err(DataError::Rejects)?;
            }
            if let Some(Ok(Entrance { rejects, numbers, .. })) = &mut self.cache {
                let reject = rejects::line(numbers[&path].into(), line, &text, row);
                if let Err(source) = rejects.write_all(reject.as_bytes()) {
                    self.cache = Some(Err(NewFileError { action: "write its rejects", source }));
                }
            }
        }
        self.first_dropped.get_or_insert((record, reason));
        Ok(())
    }
}

/// What was learned from one record.
struct Examined {
    record: usize,
    /// Hash of the record's bytes.
    bytes: u64,
    /// The entries of the column map for which the record has a column. `None` if its columns cannot be parsed.
    seen: Option<Seen>,
    outcome: Result<ExaminedRecord, BadRow>,
}

struct ExaminedRecord {
    layout: RowLayout,
    group: u32,
    ignored_columns: Vec<String>,
    /// What a user may not have intended, if the record was looked at.
    found: Option<Vec<Sighting>>,
    /// The finding that the prompt was cut from the answers, if it was.
    cut_prompt: Option<Sighting>,
    by_name: Vec<(&'static str, String)>,
    /// Hash of the record's tokens, if it makes a usable row.
    tokens: Option<u64>,
    parts: Vec<Result<Made, BadRow>>,
}

/// What became of one row of a record.
enum Made {
    Kept {
        counts: RowCounts,
        notes: Notes,
        /// The encoded row as bytes, if it is to be cached.
        tokens: Option<Vec<u8>>,
    },
    Dropped(DropReason),
}
