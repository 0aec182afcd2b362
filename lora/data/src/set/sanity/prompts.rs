//! Finds prompts that ask nothing: empty ones, and letters that two answers happen to share.

use serde_json::Value;

use super::columns::texts;
use super::{Finding, Sighting, prompt_name};
use crate::record::reading::ImplicitPrompt;
use crate::record::records::Parsed;
use crate::record::repeated_prompt::is_short;
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::source::column_names::candidate;
use crate::tokens::encode::Encoder;

/// Looks for an empty prompt, and for a guessed prompt that is only the few letters with which both answers begin. `line` is the
/// record's bytes.
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8], found: &mut Vec<Sighting>) {
    let record = &parsed.record;
    if matches!(record.shape, Shape::Text | Shape::Messages) {
        return;
    }
    let name = prompt_name(record);
    if parsed.is_prompt_blank {
        let unread = unread_texts(&parsed.ignored_columns, line);
        found.push(match unread.is_empty() {
            true => Sighting::new(Finding::BlankPrompt, name, &said(&record.prompt)),
            false => {
                let column = candidate(&unread).map(str::to_owned);
                Sighting::new(Finding::EmptyPrompt { column }, name, &unread.join(", "))
            }
        });
        return;
    }
    let is_guessed =
        record.shape == Shape::PairImplicitPrompt && encoder.reading().implicit_prompt == ImplicitPrompt::Longest;
    if let Text::Plain(prompt) = &record.prompt
        && is_guessed
        && is_short(prompt)
    {
        found.push(Sighting::new(Finding::FewSharedLetters, name, prompt));
    }
}

/// Returns the names of unread columns that hold a text.
fn unread_texts(unread: &[String], line: &[u8]) -> Vec<String> {
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    let holds = |name: &&String| row.get(*name).is_some_and(|value| !texts(value).is_empty());
    unread.iter().filter(holds).cloned().collect()
}

/// Returns the text of an empty prompt: blanks, and the system text if there is one.
fn said(prompt: &Text) -> String {
    match prompt {
        Text::Plain(text) => text.clone(),
        Text::Turns(turns) => turns.iter().flat_map(texts).collect::<Vec<_>>().join(" "),
    }
}
