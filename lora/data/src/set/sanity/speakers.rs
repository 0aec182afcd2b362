//! Checks who speaks in the scored part, who speaks last before it, and which names the speakers have.

use serde_json::Value;

use super::{Finding, Sighting, answer_name, named_texts, prompt_name};
use crate::record::records::Record;
use crate::record::shape::Shape;
use crate::record::turn::{content_of, is_assistant, is_known_role, role_of};
use crate::row::Target;
use crate::tokens::encode::Encoder;
use crate::tokens::sft_part::SftPart;

/// Looks for unknown roles, a prompt that ends with the assistant, scored turns of others, and conversations without the
/// assistant.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    look_at_roles(encoder, record, found);
    if let Some(last) = record.prompt.turns().last().filter(|turn| is_assistant(turn)) {
        let said = content_of(last).unwrap_or_default();
        found.push(Sighting::new(Finding::AssistantBeforeAnswer, prompt_name(record), said));
    }
    let part = encoder.sft_part(record.shape);
    if part == SftPart::Assistant {
        return;
    }
    for (number, answer) in record.answers.iter().enumerate() {
        let (name, turns) = (answer_name(record, number), answer.turns());
        if record.shape == Shape::Messages {
            if record.target == Some(Target::Sequence) && !turns.iter().any(is_assistant) {
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

/// Looks for a turn with an unknown role. The template may print any role, but the model was not trained on this one.
pub(super) fn look_at_roles(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let names = |role: &str| {
        let quoted = |quote: char| format!("{quote}{role}{quote}");
        let source = encoder.template().map(|template| template.source()).unwrap_or_default();
        source.contains(&quoted('\'')) || source.contains(&quoted('"'))
    };
    let is_known = |turn: &Value| is_known_role(role_of(turn)) || names(role_of(turn));
    for (name, text) in named_texts(record) {
        let turns = text.turns();
        if let Some(at) = turns.iter().position(|turn| !is_known(turn)) {
            // if the template left this turn out, the unknown role is the likely reason: report only the role
            let place = format!("{name}[{at}].");
            found.retain(|known| {
                !(matches!(known.finding, Finding::NotRendered { .. }) && known.at.starts_with(&place))
            });
            let finding = Finding::UnknownRole { role: role_of(&turns[at]).to_owned() };
            let said = content_of(&turns[at]).unwrap_or_default();
            found.push(Sighting::new(finding, format!("{name}[{at}].role"), said));
            return;
        }
    }
}
