//! Marks of turns: of another model's template, which are no tokens of this one, and turns of others within the text of an answer.

use super::super::encode::Encoder;
use super::super::records::{Record, Text};
use super::super::turn_marker::turn_of_others;
use super::{Finding, Sighting, answer_name, prompt_name};

/// Bytes between `<|` and `|>`.
const LONGEST: usize = 40;
/// Marks that are written otherwise.
const OTHERS: [&str; 2] = ["<start_of_turn>", "<end_of_turn>"];
/// The end of a text as Llama 2 and Mistral have it. Within a text it is HTML.
const END: &str = "</s>";

/// Looks at a record of texts.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let Text::Plain(prompt) = &record.prompt else { return };
    let answers = record.answers.iter().enumerate().filter_map(|(number, answer)| match answer {
        Text::Plain(answer) => Some((answer_name(record, number), answer)),
        Text::Turns(_) => None,
    });
    look_for_tokens(encoder, prompt, &prompt_name(record), found);
    for (name, answer) in answers {
        look_for_tokens(encoder, answer, &name, found);
        if let Some(mark) = turn_of_others(prompt, answer) {
            let said = answer.find(mark).map_or("", |at| &answer[at..]);
            let new = Sighting::new(Finding::TurnOfOthersInText { mark: mark.to_owned() }, name, said);
            put(new, found);
        }
    }
}

/// Looks for marks that are no tokens in a text that is tokenised.
pub(super) fn look_for_tokens(encoder: &Encoder, text: &str, name: &str, found: &mut Vec<Sighting>) {
    for (at, mark) in marks(text) {
        if encoder.tokenizer().id(mark).is_none() {
            let finding = Finding::MarkIsNoToken { mark: mark.to_owned() };
            put(Sighting::new(finding, name.to_owned(), &text[at..]), found);
        }
    }
}

/// A finding counts once in a record.
fn put(new: Sighting, found: &mut Vec<Sighting>) {
    if !found.iter().any(|known| known.finding == new.finding) {
        found.push(new);
    }
}

/// The marks in a text, each with its place.
fn marks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let between = text.match_indices("<|").filter_map(|(at, open)| {
        let inner = &text[at + open.len()..];
        let end = inner.as_bytes().iter().take(LONGEST).position(|byte| !is_of_name(*byte))?;
        (end > 0 && inner[end..].starts_with("|>")).then(|| (at, &text[at..at + end + 4]))
    });
    let others = OTHERS.iter().filter_map(|mark| Some((text.find(mark)?, *mark)));
    let end = text.trim_end().ends_with(END).then(|| (text.trim_end().len() - END.len(), END));
    between.chain(others).chain(end)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
