//! What the first rows of a data set decide about how all of them are read, before any is encoded.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::columns;
use super::deep_stack::with_deep_stack;
use super::reader::Rows;
use super::reading::{ImplicitPrompt, Reading, Texts};
use super::records::{Parsed, Record, Shape, Text};
use super::turn_marker::{SHARE, TurnMarker};
use super::{DataError, Encoder};

/// Records that are read for it, the first of the data.
const SAMPLE: usize = 1000;
/// Bytes of them, or one record.
const SAMPLE_BYTES: u64 = 32 << 20;

/// What was decided. The default is what nothing was seen for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// What the prompts end with that pairs of texts without a prompt column share.
    pub turn_marker: Option<TurnMarker>,
    /// Whether the prompts of texts stand again at the start of the answers, where they are cut.
    pub repeated_prompts: bool,
}

/// What one record says.
enum Seen {
    /// What the texts of a pair have in common.
    Shared(String),
    /// A prompt of text, and whether the answers begin with it.
    Prompt { repeated: bool },
}

impl Decided {
    /// Looks at the first rows of some files.
    ///
    /// # Errors
    /// [`DataError::NoTurnMarker`] where pairs of texts share no turn marker, and the user does not insist on what they share;
    /// [`DataError`] of a file that cannot be read.
    pub(super) fn by<'a>(files: impl IntoIterator<Item = &'a Rows>, encoder: &Encoder) -> Result<Decided, DataError> {
        let asked = encoder.reading();
        // the rows' own texts, without what the user puts in front of them
        let reading = Reading {
            implicit_prompt: ImplicitPrompt::Longest,
            decided: Decided::default(),
            texts: Texts::AsTheyAre,
            system: None,
            ..asked.clone()
        };
        let (mut shared, mut prompts, mut repeated) = (Vec::new(), 0, 0);
        let mut mapped: columns::Seen = 0;
        let mut first = None;
        let (mut left, mut bytes) = (SAMPLE, 0);
        for rows in files {
            let mut end = 0;
            while end < rows.len().min(left) && (bytes == 0 || bytes + rows.bytes(end) <= SAMPLE_BYTES) {
                bytes += rows.bytes(end);
                end += 1;
            }
            left -= end;
            let see = |record| -> Result<(Option<Seen>, columns::Seen), DataError> {
                let mut mapped = None;
                let line = rows.read(record)?;
                let parsed = line.and_then(|line| Record::parse_seen(record, &line, &reading, &mut mapped));
                Ok((parsed.ok().and_then(see), mapped.unwrap_or(0)))
            };
            let seen: Result<Vec<_>, DataError> = with_deep_stack(|| (0..end).into_par_iter().map(see).collect());
            for (record, (seen, columns)) in seen?.into_iter().enumerate() {
                mapped |= columns;
                match seen {
                    Some(Seen::Shared(text)) => {
                        first.get_or_insert((rows, record));
                        shared.push(text);
                    }
                    Some(Seen::Prompt { repeated: is_repeated }) => {
                        prompts += 1;
                        repeated += usize::from(is_repeated);
                    }
                    None => {}
                }
            }
            if end < rows.len() {
                break;
            }
        }
        let repeated_prompts = repeated > 0 && 100 * repeated >= SHARE * prompts;
        let wanted =
            first.filter(|_| asked.implicit_prompt == ImplicitPrompt::TurnMarker && asked.texts == Texts::AsTheyAre);
        let Some((rows, record)) = wanted else { return Ok(Decided { turn_marker: None, repeated_prompts }) };
        let prefixes: Vec<&str> = shared.iter().map(String::as_str).collect();
        match TurnMarker::of(&prefixes) {
            Some(marker) => Ok(Decided { turn_marker: Some(marker), repeated_prompts }),
            None => {
                let (path, line) = rows.place(record);
                // a slip in the name of the prompt's column is why there is none
                if let Some((name, column)) = asked.columns.unseen(mapped).filter(|(name, _)| *name == "prompt") {
                    return Err(DataError::NoSuchColumn { name, column: column.to_owned(), paths: vec![path] });
                }
                let parsed = rows.read(record)?.and_then(|bytes| Record::parse_with(record, &bytes, &reading));
                let (unread, names) = parsed
                    .map_or((Vec::new(), Vec::new()), |parsed| (parsed.ignored_columns, parsed.record.answer_columns));
                let column = super::sanity::candidate(&unread).unwrap_or("NAME").to_owned();
                let name = |at: usize, own| names.get(at).cloned().unwrap_or(asked.columns.column(own).to_owned());
                let (chosen, rejected) = (name(0, "chosen"), name(1, "rejected"));
                Err(DataError::NoTurnMarker { path, line, rows: prefixes.len(), chosen, rejected, column })
            }
        }
    }
}

fn see(parsed: Parsed) -> Option<Seen> {
    let Parsed { record, repeats_prompt: repeated, .. } = parsed;
    match (record.shape, record.prompt) {
        (_, Text::Turns(_)) | (Shape::Prompt | Shape::Text | Shape::Messages, _) => None,
        (Shape::PairImplicitPrompt, Text::Plain(prompt)) => Some(Seen::Shared(prompt)),
        (_, Text::Plain(_)) => Some(Seen::Prompt { repeated }),
    }
}
