//! Finds answers that still begin with the prompt.

use serde_json::Value;

use super::{Finding, Sighting, answer_name};
use crate::record::records::Parsed;
use crate::record::repeated_prompt::{RepeatedAs, repeated_turns};
use crate::record::text::Text;
use crate::record::turn::content_of;

/// Looks for an answer that begins with the prompt's text or with turns of the prompt.
pub(super) fn look(parsed: &Parsed, found: &mut Vec<Sighting>) {
    let record = &parsed.record;
    let content = |turn: &Value| content_of(turn).unwrap_or_default().to_owned();
    let beginning = |answer: usize| match &record.answers[answer] {
        Text::Plain(text) => text.clone(),
        Text::Turns(turns) => turns.first().map(content).unwrap_or_default(),
    };
    if let Some(repetition) = parsed.repetition {
        let finding = match repetition.how {
            _ if repetition.is_short => Finding::RepeatedShortPrompt,
            RepeatedAs::Start => Finding::RepeatedPrompt,
            RepeatedAs::BehindMark => Finding::RepeatedBehindLabel,
            RepeatedAs::Content => Finding::RepeatedContent,
        };
        let name = answer_name(record, repetition.answer);
        let at = if repetition.how == RepeatedAs::Content { format!("{name}[0].content") } else { name };
        found.push(Sighting::new(finding, at, &beginning(repetition.answer)));
        return;
    }
    let repeats = |answer: &Text| repeated_turns(record.prompt.turns(), answer.turns()) > 0;
    if let Some(answer) = record.answers.iter().position(repeats) {
        let at = format!("{}[0]", answer_name(record, answer));
        found.push(Sighting::new(Finding::RepeatedTurns, at, &beginning(answer)));
    }
}
