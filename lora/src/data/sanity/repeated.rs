//! Answers that still begin with the prompt.

use serde_json::Value;

use super::super::records::{Parsed, Text};
use super::super::repeated_prompt::{Repetition, repeated_turns};
use super::super::turns::content_of;
use super::{Finding, Sighting, answer_name};

/// Looks at a record.
pub(super) fn look(parsed: &Parsed, found: &mut Vec<Sighting>) {
    let record = &parsed.record;
    let content = |turn: &Value| content_of(turn).unwrap_or_default().to_owned();
    let first = record.answers.first().map_or(String::new(), |answer| match answer {
        Text::Plain(text) => text.clone(),
        Text::Turns(turns) => turns.first().map(content).unwrap_or_default(),
    });
    let at = answer_name(record, 0);
    match (parsed.repetition, &record.prompt) {
        (Some(Repetition::InContent), _) => {
            found.push(Sighting::new(Finding::RepeatedContent, format!("{at}[0].content"), &first));
        }
        (Some(Repetition::AtStart | Repetition::BehindMark), _) => {
            found.push(Sighting::new(Finding::RepeatedPrompt, at, &first));
        }
        (None, Text::Turns(prompt)) => {
            let repeats = record.answers.iter().enumerate().find_map(|(number, answer)| match answer {
                Text::Turns(turns) if repeated_turns(prompt, turns) > 0 => Some((number, content(&turns[0]))),
                _ => None,
            });
            if let Some((number, text)) = repeats {
                let at = format!("{}[0]", answer_name(record, number));
                found.push(Sighting::new(Finding::RepeatedPrompt, at, &text));
            }
        }
        (None, Text::Plain(_)) => {}
    }
}
