//! Checks who speaks in the scored part, and who speaks last before it.

use super::super::encode::Encoder;
use super::super::records::{Record, RecordTarget, Shape, Text};
use super::super::sequence::SftPart;
use super::super::turns::{content_of, is_assistant, role_of};
use super::{Finding, Sighting, answer_name, prompt_name};

/// Looks at a record of turns.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    if let Text::Turns(prompt) = &record.prompt
        && let Some(last) = prompt.last().filter(|turn| is_assistant(turn))
    {
        let said = content_of(last).unwrap_or_default();
        found.push(Sighting::new(Finding::AssistantBeforeAnswer, prompt_name(record), said));
    }
    let part = encoder.sft_part(record.shape);
    if part == SftPart::Assistant {
        return;
    }
    for (number, answer) in record.answers.iter().enumerate() {
        let Text::Turns(turns) = answer else { continue };
        let name = answer_name(record, number);
        if record.shape == Shape::Messages {
            if record.target == RecordTarget::Sequence && !turns.iter().any(is_assistant) {
                let said = turns.last().and_then(content_of).unwrap_or_default();
                found.push(Sighting::new(Finding::NoAssistantTurn, name, said));
            }
            continue;
        }
        if let Some(at) = turns.iter().position(|turn| !is_assistant(turn)) {
            let role = role_of(&turns[at]).to_owned();
            let said = content_of(&turns[at]).unwrap_or_default();
            found.push(Sighting::new(Finding::TurnOfOthers { role }, format!("{name}[{at}]"), said));
            return;
        }
    }
}
