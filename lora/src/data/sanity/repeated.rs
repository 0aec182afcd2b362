//! Answers that begin with the prompt: data sets to which a prompt column was added later, and whose answers were left whole.

use serde_json::Value;

use super::super::records::{Parsed, Text};
use super::super::turns::is_assistant;
use super::{Finding, Found, answer_name};

/// Characters of a text from which on an answer does not begin with it by chance.
const FEW: usize = 8;

/// Cuts the prompt's last turns from the start of the answers, where all answers begin with them and say more. Whether it did.
pub(in super::super) fn cut_repeated_turns(prompt: &Text, answers: &mut [Text]) -> bool {
    let Text::Turns(prompt) = prompt else { return false };
    let repeated = |answer: &Text| match answer {
        Text::Turns(turns) => repeated_turns(prompt, turns),
        Text::Plain(_) => 0,
    };
    let turns = answers.iter().map(repeated).min().unwrap_or(0);
    // the same turns in each: the end of the prompt, from one turn on
    if turns == 0 || answers.iter().any(|answer| repeated(answer) != turns) {
        return false;
    }
    for answer in answers {
        if let Text::Turns(answer) = answer {
            answer.drain(..turns);
        }
    }
    true
}

/// How many turns at the start of an answer are the prompt's last ones, if the answer has more.
fn repeated_turns(prompt: &[Value], answer: &[Value]) -> usize {
    let most = prompt.len().min(answer.len().saturating_sub(1));
    let is_repeated = |turns: &usize| {
        let last = &prompt[prompt.len() - turns..];
        last.iter().zip(answer).all(|(one, other)| is_same(one, other)) && !last.iter().all(is_assistant)
    };
    (1..=most).rev().find(is_repeated).unwrap_or(0)
}

/// Whether two turns say the same.
fn is_same(one: &Value, other: &Value) -> bool {
    let content = |turn: &Value| turn.get("content").and_then(Value::as_str).map(str::trim).map(str::to_owned);
    ["role", "tool_calls", "name"].iter().all(|field| one.get(*field) == other.get(*field))
        && content(one) == content(other)
}

/// Cuts a prompt of text from the start of the answers, where all begin with it. Whether it did.
pub(in super::super) fn cut_repeated_text(prompt: &mut Text, answers: &mut [Text]) -> bool {
    let Text::Plain(text) = prompt else { return false };
    let begin = |start: &str| answers.iter().all(|answer| is_longer(answer, start));
    if text.trim().is_empty() || answers.is_empty() {
        return false;
    }
    if !begin(text) {
        if !begin(text.trim_end()) {
            return false;
        }
        text.truncate(text.trim_end().len());
    }
    for answer in answers {
        if let Text::Plain(answer) = answer {
            answer.drain(..text.len());
        }
    }
    true
}

/// Whether a text goes on after `start`.
fn is_longer(text: &Text, start: &str) -> bool {
    matches!(text, Text::Plain(text) if text.len() > start.len() && text.starts_with(start))
}

/// Whether all answers begin with the prompt, a text, and not by chance.
pub(in super::super) fn repeats_the_prompt(prompt: &Text, answers: &[Text]) -> bool {
    let Text::Plain(prompt) = prompt else { return false };
    let prompt = prompt.trim_end();
    let is_text = prompt.trim().chars().count() >= FEW;
    is_text && !answers.is_empty() && answers.iter().all(|answer| is_longer(answer, prompt))
}

/// Looks for answers that still begin with the prompt.
pub(super) fn look(parsed: &Parsed, found: &mut Vec<Found>) {
    let record = &parsed.record;
    let at = |number| answer_name(record, number);
    let content = |turn: &Value| turn.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
    let repeated = match (&record.prompt, record.answers.first()) {
        (_, Some(Text::Plain(answer))) => parsed.repeats_prompt.then(|| (at(0), answer.clone())),
        (_, Some(Text::Turns(turns))) if parsed.repeats_prompt => turns.first().map(|turn| (at(0), content(turn))),
        (Text::Turns(prompt), _) => record.answers.iter().enumerate().find_map(|(number, answer)| match answer {
            Text::Turns(turns) if repeated_turns(prompt, turns) > 0 => {
                Some((format!("{}[0]", at(number)), content(&turns[0])))
            }
            _ => None,
        }),
        (Text::Plain(_), _) => None,
    };
    if let Some((at, text)) = repeated {
        found.push(Found::new(Finding::RepeatedPrompt, at, &text));
    }
}
