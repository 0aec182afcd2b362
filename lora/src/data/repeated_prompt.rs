//! Answers that begin with the prompt: data sets to which a prompt column was added later, and whose answers were left whole.

use serde_json::Value;

use super::records::Text;
use super::turn_marker::ends_with_mark;
use super::turns::{content_of, is_assistant, is_system, role_of};

/// Characters of a text from which on another does not hold it by chance.
pub(super) const FEW: usize = 8;
/// Bytes of an answer before the prompt in it that may be the mark of a turn.
const OF_A_MARK: usize = 200;
/// Turns at the end of a prompt that are looked for, if it is not the whole prompt.
const LAST_TURNS: usize = 16;

/// Answers that have the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetition {
    /// How the first of them has it.
    pub how: RepeatedAs,
    /// Which it is.
    pub answer: usize,
    /// Whether all answers of the row have it so.
    pub is_in_all: bool,
    /// Whether the prompt is so short that one row says nothing.
    pub is_short: bool,
}

/// How an answer has the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedAs {
    /// It is a text that begins with it.
    Start,
    /// It is a text that begins with the mark of a turn, and then the prompt.
    BehindMark,
    /// What the assistant says first in it begins with what the user says last.
    Content,
}

/// Cuts turns of the prompt from the start of the answers, where all answers begin with the same ones and say more. Whether it
/// did. A system turn that the answers alone have goes to the prompt.
pub(super) fn cut_repeated_turns(prompt: &mut Text, answers: &mut [Text]) -> bool {
    let Text::Turns(prompt) = prompt else { return false };
    let repeated = |answer: &Text| match answer {
        Text::Turns(turns) => repeated_turns(prompt, turns),
        Text::Plain(_) => 0,
    };
    let turns = answers.first().map_or(0, repeated);
    if turns == 0 || answers.iter().any(|answer| repeated(answer) != turns) {
        return false;
    }
    let first = |answer: &Text| match answer {
        Text::Turns(turns) => turns[0].clone(),
        Text::Plain(_) => Value::Null,
    };
    let systems: Vec<Value> = answers.iter().map(first).filter(is_system).collect();
    let brought = systems.first().filter(|_| !prompt.last().is_some_and(is_system)).cloned();
    if let Some(system) = brought {
        let is_other = |of_prompt: &Value| is_system(of_prompt) && !is_same(of_prompt, &system);
        if systems.len() < answers.len()
            || !systems.iter().all(|other| is_same(other, &system))
            || prompt.iter().any(is_other)
        {
            return false;
        }
        if !prompt.iter().any(is_system) {
            prompt.insert(0, system);
        }
    }
    for answer in answers {
        if let Text::Turns(answer) = answer {
            answer.drain(..turns);
        }
    }
    true
}

/// How many turns at the start of an answer are the prompt's, if the answer has more: the prompt's last ones, or behind a system
/// turn of the answer all of them.
pub(super) fn repeated_turns(prompt: &[Value], answer: &[Value]) -> usize {
    let is_repeated = |asked: &[Value], said: &[Value]| {
        asked.len() < said.len()
            && asked.iter().zip(said).all(|(one, other)| is_same(one, other))
            && !asked.iter().all(is_assistant)
    };
    let most = prompt.len().min(LAST_TURNS);
    let mut counts = [prompt.len()].into_iter().chain((1..=most).rev());
    if let Some(turns) = counts.find(|turns| is_repeated(&prompt[prompt.len() - turns..], answer)) {
        return turns;
    }
    let asked = if prompt.first().is_some_and(is_system) { &prompt[1..] } else { prompt };
    match answer {
        [system, said @ ..] if is_system(system) && is_repeated(asked, said) => 1 + asked.len(),
        _ => 0,
    }
}

/// Whether two turns say the same.
fn is_same(one: &Value, other: &Value) -> bool {
    let content = |turn| content_of(turn).map(str::trim);
    ["role", "tool_calls", "name"].iter().all(|field| one.get(*field) == other.get(*field))
        && content(one) == content(other)
}

/// Cuts a prompt of text from the start of the answers, where all begin with it. Whether it did. Blanks around it may differ.
pub(super) fn cut_repeated_text(prompt: &mut Text, answers: &mut [Text]) -> bool {
    let Text::Plain(text) = prompt else { return false };
    let ends = |start: &str| -> Option<Vec<usize>> { answers.iter().map(|answer| end_of(answer, start)).collect() };
    if text.trim().is_empty() || answers.is_empty() {
        return false;
    }
    let ends = match ends(text.trim_start()) {
        Some(ends) => ends,
        None => {
            let Some(ends) = ends(text.trim()) else { return false };
            text.truncate(text.trim_end().len());
            ends
        }
    };
    for (answer, end) in answers.iter_mut().zip(ends) {
        if let Text::Plain(answer) = answer {
            answer.drain(..end);
        }
    }
    true
}

/// Where a text goes on after `start`, with which it begins behind blanks.
fn end_of(text: &Text, start: &str) -> Option<usize> {
    let Text::Plain(text) = text else { return None };
    let rest = text.trim_start().strip_prefix(start)?;
    (!rest.is_empty()).then(|| text.len() - rest.len())
}

/// Which answers have the prompt, if some do.
pub(super) fn repetition(prompt: &Text, answers: &[Text]) -> Option<Repetition> {
    let asked = match prompt {
        Text::Plain(text) => text.trim(),
        Text::Turns(turns) => turns.last().filter(|turn| role_of(turn) == "user").and_then(content_of)?.trim(),
    };
    if asked.is_empty() {
        return None;
    }
    let is_short = is_short(asked);
    let ways: Vec<Option<RepeatedAs>> = answers.iter().map(|answer| repeated_as(answer, asked)).collect();
    let (answer, how) = ways.iter().enumerate().find_map(|(answer, how)| Some((answer, (*how)?)))?;
    let is_in_all = ways.iter().all(|other| *other == Some(how));
    Some(Repetition { how, answer, is_in_all, is_short })
}

/// Whether an answer may begin with this prompt by chance.
pub(super) fn is_short(asked: &str) -> bool {
    asked.trim().chars().count() < FEW
}

fn repeated_as(answer: &Text, asked: &str) -> Option<RepeatedAs> {
    match answer {
        Text::Plain(_) if end_of(answer, asked).is_some() => Some(RepeatedAs::Start),
        Text::Plain(_) if !is_short(asked) && has_behind_mark(answer, asked) => Some(RepeatedAs::BehindMark),
        Text::Turns(_) if is_content(answer, asked) => Some(RepeatedAs::Content),
        _ => None,
    }
}

fn has_behind_mark(answer: &Text, asked: &str) -> bool {
    let Text::Plain(text) = answer else { return false };
    text.find(asked).is_some_and(|at| {
        at <= OF_A_MARK && at + asked.len() < text.trim_end().len() && ends_with_mark(text[..at].trim_end())
    })
}

/// Whether what the assistant says first is more than `asked`, and begins with it.
fn is_content(answer: &Text, asked: &str) -> bool {
    let Text::Turns(turns) = answer else { return false };
    let said = turns.first().filter(|turn| is_assistant(turn)).and_then(content_of);
    said.and_then(|said| said.trim().strip_prefix(asked)).is_some_and(|rest| !rest.is_empty())
}
