//! Looks for marks of turns: those of another model, which are not tokens of this one, and turns of others in the text of an
//! answer.

use std::collections::HashSet;

use super::{Finding, Sighting, answer_name, named_texts, prompt_name};
use crate::record::reading::Texts;
use crate::record::records::Record;
use crate::record::text::Text;
use crate::record::turn::content_of;
use crate::record::turn_marker::turn_of_others;
use crate::tokens::encode::Encoder;

/// Maximum number of bytes of a mark between its brackets.
const LONGEST: usize = 40;
/// Maximum number of bytes of a text to search.
const MOST_BYTES: usize = 1 << 20;
/// Maximum number of marks of a text to report.
const MOST_MARKS: usize = 8;
/// Maximum number of bytes of a text to pass on as an example. The example may be shortened further.
const SHOWN: usize = 256;
/// Brackets of marks: ASCII, and full-width as DeepSeek writes them.
const BRACKETS: [[&str; 2]; 2] = [["<|", "|>"], ["<｜", "｜>"]];
/// Marks with other brackets.
const OTHERS: [&str; 4] = ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"];
/// Marks of Llama 2 and Mistral for the start and the end of a text. In the middle of a text they are HTML.
const START: &str = "<s>";
const END: &str = "</s>";

/// Looks at a record whose prompt and answers are texts.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let Text::Plain(prompt) = &record.prompt else { return };
    look_for_tokens(encoder, prompt, found, |_| prompt_name(record));
    let first = match (prompt.as_str(), record.answers.first()) {
        ("", Some(Text::Plain(whole))) => whole,
        _ => prompt,
    };
    if let Some(token) = second_start(encoder, first) {
        put(Sighting::new(Finding::SecondStart { token }, prompt_name(record), shown(first, 0)), found);
    }
    for (number, answer) in record.answers.iter().enumerate() {
        let Text::Plain(answer) = answer else { continue };
        look_for_tokens(encoder, answer, found, |_| answer_name(record, number));
        if let Some(mark) = turn_of_others(within(prompt), within(answer)) {
            let said = answer.find(mark).map_or("", |at| shown(answer, at));
            let finding = Finding::TextOfOthers { mark: mark.to_owned() };
            put(Sighting::new(finding, answer_name(record, number), said), found);
        }
    }
}

/// Looks for marks of the model within the content of a turn: the chat template writes its own around the content.
pub(super) fn look_at_contents(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    if encoder.reading().texts == Texts::AsTurns {
        return; // the module `texts` looks at these records
    }
    for (name, text) in named_texts(record) {
        for (number, said) in
            text.turns().iter().enumerate().filter_map(|(number, turn)| Some((number, content_of(turn)?)))
        {
            let said = within(said);
            if let Some((at, mark)) = marks(said).find(|(_, mark)| encoder.tokenizer().id(mark).is_some()) {
                let finding = Finding::MarkInContent { mark: mark.to_owned() };
                put(Sighting::new(finding, format!("{name}[{number}].content"), shown(said, at)), found);
            }
        }
    }
}

/// Looks at what the chat template renders of a prompt and the answer with this number.
pub(super) fn look_at_rendered(
    encoder: &Encoder,
    text: &str,
    record: &Record,
    number: usize,
    found: &mut Vec<Sighting>,
) {
    let holds = |side: &Text, mark: &str| side.turns().iter().filter_map(content_of).any(|said| said.contains(mark));
    look_for_tokens(encoder, text, found, |mark| match record.answers.get(number) {
        _ if holds(&record.prompt, mark) => prompt_name(record),
        Some(answer) if holds(answer, mark) => answer_name(record, number),
        _ => "the chat template".to_owned(),
    });
}

/// Looks for marks that are not tokens, in a text that will be tokenised. `place` says where a mark comes from.
fn look_for_tokens(encoder: &Encoder, text: &str, found: &mut Vec<Sighting>, place: impl Fn(&str) -> String) {
    let text = within(text);
    let mut seen = HashSet::new();
    let foreign = marks(text).filter(|(_, mark)| seen.insert(*mark) && !encoder.has_mark(mark));
    for (at, mark) in foreign.take(MOST_MARKS) {
        put(Sighting::new(Finding::MarkIsNoToken { mark: mark.to_owned() }, place(mark), shown(text, at)), found);
    }
}

/// Returns the token that a text begins with, if the tokenizer also puts this token before every text.
fn second_start(encoder: &Encoder, text: &str) -> Option<String> {
    let ids = encoder.plain(shown(text, 0)).ok()?;
    let [first, second, ..] = ids[..] else { return None };
    (first == second && encoder.tokenizer().is_special(first)).then(|| encoder.tokenizer().token(first)).flatten()
}

/// Adds a finding, unless the record has it already.
fn put(new: Sighting, found: &mut Vec<Sighting>) {
    if !found.iter().any(|known| known.finding == new.finding) {
        found.push(new);
    }
}

/// Returns the part of a text that is searched.
fn within(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_BYTES)]
}

/// Returns the part of a text, from `at` on, that an example may show.
fn shown(text: &str, at: usize) -> &str {
    &text[at..text.floor_char_boundary(at + SHOWN)]
}

/// Returns the marks in a text, each with its place.
fn marks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let between = BRACKETS.into_iter().flat_map(move |[open, close]| {
        text.match_indices(open).filter_map(move |(at, _)| {
            let inner = &text[at + open.len()..];
            let name = inner.char_indices().find(|(end, c)| *end >= LONGEST || !is_of_name(*c))?.0;
            let end = at + open.len() + name + close.len();
            (name > 0 && inner[name..].starts_with(close)).then(|| (at, &text[at..end]))
        })
    });
    let others = OTHERS.into_iter().filter_map(move |mark| Some((text.find(mark)?, mark)));
    let start = text.len() - text.trim_start().len();
    let start = text[start..].starts_with(START).then_some((start, START));
    let end = text.trim_end();
    let end = end.ends_with(END).then(|| (end.len() - END.len(), END));
    between.chain(others).chain(start).chain(end)
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '▁'
}
