//! Finds answers that begin with the prompt. A data set has such answers if somebody added a prompt column but did not cut the
//! prompt from the answers.

use serde_json::Value;

use super::text::{FEW, Text};
use super::turn::{content_of, is_assistant, is_system, role_of};
use super::turn_marker::ends_with_mark;

/// Maximum number of bytes before the prompt in an answer. These bytes must end with a turn marker.
const OF_A_MARK: usize = 200;
/// Maximum number of turns at the end of a prompt to look for in an answer that does not repeat the whole prompt.
const LAST_TURNS: usize = 16;

/// Answers that repeat the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repetition {
    /// How the first such answer repeats the prompt.
    pub how: RepeatedAs,
    /// The 0-based number of that answer.
    pub answer: usize,
    /// Whether all answers of the row repeat the prompt in this way.
    pub is_in_all: bool,
    /// Whether the prompt is so short that a single row proves nothing.
    pub is_short: bool,
}

/// How an answer repeats the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepeatedAs {
    /// The answer is a text that begins with the prompt.
    Start,
    /// The answer is a text that begins with a turn marker and then the prompt.
    BehindMark,
    /// The assistant's first turn begins with the user's last one.
    Content,
}

/// Cuts turns of the prompt from the start of the answers if all answers begin with the same turns of the prompt and go on after
/// them. A system turn that only the answers have moves to the prompt. Returns whether anything was cut.
pub(crate) fn cut_repeated_turns(prompt: &mut Text, answers: &mut [Text]) -> bool {
    let Text::Turns(prompt) = prompt else { return false };
    let repeated = |answer: &Text| repeated_turns(prompt, answer.turns());
    let turns = answers.first().map_or(0, repeated);
    if turns == 0 || answers.iter().any(|answer| repeated(answer) != turns) {
        return false;
    }
    let first = |answer: &Text| answer.turns().first().filter(|turn| is_system(turn)).cloned();
    let systems: Vec<Value> = answers.iter().filter_map(first).collect();
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

/// Counts the turns at the start of an answer that repeat the whole prompt or its last turns. An answer may also put a system
/// turn before them: then the rest must repeat the whole prompt without its own system turn, and the system turn counts too. 0
/// if the answer does not go on after these turns.
pub(crate) fn repeated_turns(prompt: &[Value], answer: &[Value]) -> usize {
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

/// Whether two turns have the same role, name, tool calls and content. Blanks around the content do not matter.
fn is_same(one: &Value, other: &Value) -> bool {
    let content = |turn| content_of(turn).map(str::trim);
    ["role", "tool_calls", "name"].iter().all(|field| one.get(*field) == other.get(*field))
        && content(one) == content(other)
}

/// Cuts the text of the prompt from the start of the answers if all begin with it. Blanks around the prompt may differ. Returns
/// whether anything was cut.
pub(crate) fn cut_repeated_text(prompt: &mut Text, answers: &mut [Text]) -> bool {
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

/// Returns the byte at which `text` goes on after `start`. Blanks before `start` are skipped. `None` if `text` does not begin
/// with `start`, or ends with it.
fn end_of(text: &Text, start: &str) -> Option<usize> {
    let Text::Plain(text) = text else { return None };
    let rest = text.trim_start().strip_prefix(start)?;
    (!rest.is_empty()).then(|| text.len() - rest.len())
}

/// Returns how the answers repeat the prompt. `None` if no answer does.
pub(crate) fn repetition(prompt: &Text, answers: &[Text]) -> Option<Repetition> {
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

/// Whether the prompt is so short that an answer may begin with it by coincidence.
pub(crate) fn is_short(asked: &str) -> bool {
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

/// Whether the assistant's first turn begins with `asked` and goes on.
fn is_content(answer: &Text, asked: &str) -> bool {
    let said = answer.turns().first().filter(|turn| is_assistant(turn)).and_then(content_of);
    said.and_then(|said| said.trim().strip_prefix(asked)).is_some_and(|rest| !rest.is_empty())
}
