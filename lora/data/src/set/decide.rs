//! Decides from a sample of a data set how all its rows are read, before any row is encoded.
//!
//! A run keeps the decisions: its held-out rows, its evaluations and its scores are read in the same way. Only the turn marker is
//! decided again, and only for files whose sampled rows do not have it.

use rayon::prelude::*;

use super::error::DataError;
use super::sample::Sample;
use super::sanity::{FIRST, SEVERAL};
use crate::deep_stack::with_deep_stack;
use crate::record::bad_row::BadRow;
use crate::record::decided::Decided;
use crate::record::reading::{ImplicitPrompt, Reading, Texts};
use crate::record::records::{Parsed, Record};
use crate::record::repeated_prompt::{RepeatedAs, is_short};
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::record::turn_marker::{SHARE, TurnMarker};
use crate::source::column_map::Seen;
use crate::source::column_names::candidate;
use crate::source::reader::Rows;
use crate::tokens::encode::Encoder;

/// Number of records to draw from the whole data set.
const DRAWN: usize = 1024;
/// Maximum size of the sample in bytes, unless it is a single record.
const SAMPLE_BYTES: u64 = 32 << 20;

/// What one record shows about how to read the data.
enum Evidence {
    /// The common prefix of the texts of a pair, and whether a column of the row holds a question that is in it.
    Shared { text: String, is_in_column: bool },
    /// A prompt that is a text.
    Prompt {
        /// Whether the answers begin with the prompt.
        is_repeated: bool,
        /// Whether the prompt is so short that this may be a coincidence.
        is_short: bool,
        /// Whether the prompt was found by the name of its column.
        is_by_name: bool,
    },
}

/// What the records of a sample show together.
#[derive(Default)]
struct Tally {
    /// Records of pairs whose prompt is only in their texts, with the common prefix of the texts.
    shared: Vec<(usize, String)>,
    /// Records of pairs with a question in a column that is also in both texts, with the common prefix of the texts.
    held: Vec<(usize, String)>,
    prompts: usize,
    /// How many long prompts there are, and how many of them the answers begin with.
    long: Repeated,
    /// How many short prompts there are, and how many of them the answers begin with.
    short: Repeated,
    /// Number of prompts that were found by the name of their column.
    by_name: usize,
}

#[derive(Default)]
struct Repeated {
    prompts: usize,
    repeated: usize,
}

impl Tally {
    fn count(&mut self, evidence: Evidence, record: usize) {
        match evidence {
            Evidence::Shared { text, is_in_column: true } => self.held.push((record, text)),
            Evidence::Shared { text, is_in_column: false } => self.shared.push((record, text)),
            Evidence::Prompt { is_repeated, is_short, is_by_name } => {
                self.prompts += 1;
                let of_length = if is_short { &mut self.short } else { &mut self.long };
                of_length.prompts += 1;
                of_length.repeated += usize::from(is_repeated);
                self.by_name += usize::from(is_by_name);
            }
        }
    }

    /// Whether any row whose prompt is only in its answers has this marker. True if there is no such row.
    fn may_have(&self, marker: &TurnMarker) -> bool {
        self.shared.is_empty() || self.shared.iter().any(|(_, shared)| marker.end_in(shared).is_some())
    }

    /// Whether answers begin with the prompt. Long prompts decide; if there are none, several short ones do.
    fn repeated_prompts(&self) -> Option<bool> {
        match (&self.long, &self.short) {
            (Repeated { prompts: 0, .. }, short) if short.prompts < SEVERAL => (short.prompts > 0).then_some(false),
            (Repeated { prompts: 0, .. }, short) => nearly_all(short.repeated, short.prompts),
            (long, _) => nearly_all(long.repeated, long.prompts),
        }
    }
}

/// Whether `some` is at least [`SHARE`] percent of `all`, and not 0. `None` if `all` is 0.
fn nearly_all(some: usize, all: usize) -> Option<bool> {
    (all > 0).then_some(some > 0 && 100 * some >= SHARE * all)
}

impl Decided {
    /// Looks at a sample of the files and decides what is still undecided. A turn marker that was decided for other rows is
    /// decided again if none of these rows has it.
    ///
    /// # Errors
    /// [`DataError::NoTurnMarker`] if pairs of texts share no turn marker and the user has not asked for the longest common
    /// prefix; [`DataError`] for a file that cannot be read.
    pub(crate) fn by(rows: &Rows, encoder: &Encoder) -> Result<Decided, DataError> {
        let asked = encoder.reading();
        // read the rows' own texts, without the user's system text
        let (columns, pairs) = (asked.columns.clone(), asked.pairs);
        let reading = Reading { columns, pairs, implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
        let chosen = chosen(rows);
        let look = |&record: &usize| -> Result<(Option<Evidence>, Seen), DataError> {
            let mut mapped = None;
            let line = rows.read(record)?.map_err(BadRow::from);
            let parsed = line.and_then(|line| Record::parse_seen(record, &line, &reading, &mut mapped));
            Ok((parsed.ok().and_then(evidence), mapped.unwrap_or(0)))
        };
        let looked_at: Result<Vec<_>, DataError> = with_deep_stack(|| chosen.par_iter().map(look).collect());
        let (mut tally, mut mapped) = (Tally::default(), 0);
        for ((evidence, columns), record) in looked_at?.into_iter().zip(chosen) {
            mapped |= columns;
            if let Some(evidence) = evidence {
                tally.count(evidence, record);
            }
        }
        let given = asked.decided.clone();
        let repeated_prompts = given.repeated_prompts.or_else(|| tally.repeated_prompts());
        let held = tally.held.len();
        let prompts_in_answers = given.prompts_in_answers.or_else(|| nearly_all(held, held + tally.by_name));
        if prompts_in_answers == Some(true) {
            tally.shared.append(&mut tally.held);
        }
        let is_read = asked.implicit_prompt == ImplicitPrompt::TurnMarker && asked.texts == Texts::AsTheyAre;
        // if none of these rows has the marker, it was decided for rows of another kind
        let turn_marker = given.turn_marker.filter(|marker| !is_read || tally.may_have(marker));
        let decided = Decided { turn_marker, repeated_prompts, prompts_in_answers };
        if decided.turn_marker.is_some() || !is_read {
            return Ok(decided);
        }
        let Some(&(record, _)) = tally.shared.first() else { return Ok(decided) };
        let prefixes: Vec<&str> = tally.shared.iter().map(|(_, prefix)| prefix.as_str()).collect();
        let turn_marker = TurnMarker::of(&prefixes);
        // a few rows without a prompt are just bad rows, and decide nothing for the other rows
        let are_few = 100 * prefixes.len() <= (100 - SHARE) * (prefixes.len() + tally.prompts);
        if turn_marker.is_some() || are_few {
            return Ok(Decided { turn_marker, ..decided });
        }
        // the prompt is missing because the map names its column wrongly
        if let Some((name, column)) = asked.columns.unseen(mapped).filter(|(name, _)| *name == "prompt") {
            return Err(DataError::NoSuchColumn { name, column: column.to_owned(), paths: vec![rows.place(record).0] });
        }
        no_turn_marker(rows, record, &reading, prefixes.len())
    }
}

/// Returns the records of the sample. While they have more than [`SAMPLE_BYTES`] bytes, every second one is left out.
fn chosen(rows: &Rows) -> Vec<usize> {
    let sample = Sample::new(rows.files(), FIRST, DRAWN);
    let mut chosen: Vec<usize> = (0..rows.len()).filter(|record| sample.has(*record)).collect();
    while chosen.len() > 1 && chosen.iter().map(|record| rows.bytes(*record)).sum::<u64>() > SAMPLE_BYTES {
        chosen = chosen.into_iter().step_by(2).collect();
    }
    chosen
}

/// Makes the error for pairs of texts without a turn marker. `record` is the first of them.
fn no_turn_marker(rows: &Rows, record: usize, reading: &Reading, found: usize) -> Result<Decided, DataError> {
    let (path, line) = rows.place(record);
    let parsed = rows.read(record)?.map_err(BadRow::from).and_then(|bytes| Record::parse_with(record, &bytes, reading));
    let (unread, names) =
        parsed.map_or((Vec::new(), Vec::new()), |parsed| (parsed.ignored_columns, parsed.record.answer_columns));
    let column = candidate(&unread).unwrap_or("NAME").to_owned();
    let name = |at: usize, own| names.get(at).cloned().unwrap_or(reading.columns.column(own).to_owned());
    let (chosen, rejected) = (name(0, "chosen"), name(1, "rejected"));
    Err(DataError::NoTurnMarker { path, line, rows: found, chosen, rejected, column })
}

fn evidence(parsed: Parsed) -> Option<Evidence> {
    let Parsed { record, repetition, prompt_in_answers: is_in_column, by_name, .. } = parsed;
    match (record.shape, record.prompt) {
        (_, Text::Turns(_)) | (Shape::Prompt | Shape::Text | Shape::Messages, _) => None,
        (Shape::PairImplicitPrompt, Text::Plain(text)) => Some(Evidence::Shared { text, is_in_column }),
        (_, Text::Plain(prompt)) => {
            let is_repeated = repetition.is_some_and(|found| found.how == RepeatedAs::Start && found.is_in_all);
            let is_by_name = by_name.iter().any(|(own, _)| *own == "prompt");
            Some(Evidence::Prompt { is_repeated, is_short: is_short(&prompt), is_by_name })
        }
    }
}
