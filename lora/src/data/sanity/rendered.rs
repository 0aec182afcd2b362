//! Does what a conversation holds reach the text that the chat template makes of it?
//!
//! Templates trim, escape and rewrite, so texts are not searched for. A part is there if the rendered text changes with it: a
//! marker is put into every part at once, and each one that does not come out is tried alone.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::BadRow;
use super::super::encode::Encoder;
use super::super::records::{Record, Shape, Text};
use super::super::template::{ChatTemplate, GenerationPrompt, TemplateInputs};
use super::super::turns::is_assistant;
use super::{Finding, Found, TurnPart, answer_name, prompt_name};

/// Bytes of a conversation that is looked at.
const MOST_BYTES: usize = 1 << 20;
/// Parts of a conversation that are tried alone.
const MOST_TRIED: usize = 12;
/// The names of a turn's thoughts; a template is given the first that is there under the other names too.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A place in a conversation that a marker can be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    turn: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// After a tag at the start of `content`, if there is one: templates look for it.
    Start,
    End,
    /// Both ends.
    Whole,
    Reasoning,
    Name(usize),
    Arguments(usize),
}

/// A text that no conversation holds, which no escape and no trimming changes.
fn marker(number: usize) -> String {
    format!("QzMark{number:05}Qz")
}

/// Looks at a record of turns.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Found>) {
    let (Some(template), Text::Turns(prompt)) = (encoder.template(), &record.prompt) else { return };
    let mut before: Option<&[Value]> = Some(prompt);
    for (number, answer) in record.answers.iter().enumerate() {
        let Text::Turns(answer) = answer else { return };
        let conversation = Conversation { template, inputs: &record.inputs, prompt, answer };
        if conversation.bytes() > MOST_BYTES {
            return;
        }
        let Some(text) = conversation.render(&conversation.turns(), &record.inputs) else { return };
        let first = before.take().is_some();
        let parts = conversation.parts(record.shape, first);
        for part in whole_contents(&parts, conversation.left_out(&parts, &text)) {
            let of_answer = conversation.is_of_answer(record.shape, part.turn);
            let (name, turn) = match part.turn.checked_sub(prompt.len()) {
                Some(turn) => (answer_name(record, number), turn),
                None => (prompt_name(encoder, record), part.turn),
            };
            let (what, at, excerpt) = conversation.describe(part, &format!("{name}[{turn}]"));
            let new = Found::new(Finding::NotRendered { of_answer, part: what }, at, &excerpt);
            if !found.iter().any(|known| known.finding == new.finding) {
                found.push(new);
            }
        }
        if first {
            conversation.look_at_inputs(encoder, &text, found);
        }
    }
}

/// A prompt and one answer.
struct Conversation<'a> {
    template: &'a ChatTemplate,
    inputs: &'a TemplateInputs,
    prompt: &'a [Value],
    answer: &'a [Value],
}

impl Conversation<'_> {
    fn turns(&self) -> Vec<Value> {
        self.prompt.iter().chain(self.answer).cloned().collect()
    }

    fn turn(&self, number: usize) -> &Value {
        self.prompt.iter().chain(self.answer).nth(number).expect("parts are of turns that there are")
    }

    fn bytes(&self) -> usize {
        self.prompt.iter().chain(self.answer).map(super::super::template::text_bytes).sum()
    }

    /// `None` where the template refuses the conversation.
    fn render(&self, turns: &[Value], inputs: &TemplateInputs) -> Option<String> {
        self.template.render_with(turns, GenerationPrompt::Omit, inputs).ok()
    }

    /// Whether a turn is what the model learns to say.
    fn is_of_answer(&self, shape: Shape, turn: usize) -> bool {
        turn >= self.prompt.len() && (shape != Shape::Messages || is_assistant(self.turn(turn)))
    }

    /// What is looked at: everything of the answer, and of the prompt, if `with_prompt`, all but its thoughts. Those of turns
    /// before the last of the user are not looked at: templates leave them out by design.
    fn parts(&self, shape: Shape, with_prompt: bool) -> Vec<Part> {
        let count = self.prompt.len() + self.answer.len();
        let is_user = |turn: &Value| turn.get("role").and_then(Value::as_str) == Some("user");
        let answered = (0..count).rev().find(|turn| is_user(self.turn(*turn))).map_or(0, |last| last + 1);
        let mut parts = Vec::new();
        for number in if with_prompt { 0 } else { self.prompt.len() }..count {
            let turn = self.turn(number);
            let has_thoughts = number >= answered && self.is_of_answer(shape, number);
            let mut put = |place| parts.push(Part { turn: number, place });
            if let Some(content) = turn.get("content").and_then(Value::as_str).filter(|text| !text.trim().is_empty()) {
                if has_thoughts || !content.contains("</") && !content.contains("[/") {
                    put(Place::Start);
                }
                put(Place::End);
            }
            if has_thoughts && reasoning(turn).is_some() {
                put(Place::Reasoning);
            }
            for (i, call) in calls(turn).iter().enumerate() {
                if function(call).get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
                    put(Place::Name(i));
                }
                if function(call).get("arguments").and_then(marked_arguments).is_some() {
                    put(Place::Arguments(i));
                }
            }
        }
        parts
    }

    /// Those parts without which the text is the same.
    fn left_out(&self, parts: &[Part], text: &str) -> Vec<Part> {
        let mut turns = self.turns();
        for (number, part) in parts.iter().enumerate() {
            put_marker(&mut turns[part.turn], part.place, &marker(number));
        }
        let all = self.render(&turns, self.inputs);
        let missing = |number: &usize| all.as_ref().is_none_or(|all| !all.contains(&marker(*number)));
        let suspects: Vec<Part> = (0..parts.len()).filter(missing).map(|number| parts[number]).collect();
        let alone = |part: &Part| {
            let mut turns = self.turns();
            put_marker(&mut turns[part.turn], part.place, &marker(0));
            // a template that refuses a marker has looked at the part
            self.render(&turns, self.inputs).is_some_and(|with| with == text)
        };
        suspects.into_iter().take(MOST_TRIED).filter(alone).collect()
    }

    /// What a part is, where it stands, and what it holds.
    fn describe(&self, part: Part, turn: &str) -> (TurnPart, String, String) {
        let value = self.turn(part.turn);
        let content = || value.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
        let call = |i: usize| function(&calls(value)[i]).clone();
        match part.place {
            Place::Start => (TurnPart::ContentStart, format!("{turn}.content"), content()),
            Place::Whole => (TurnPart::Content, format!("{turn}.content"), content()),
            Place::End => {
                let text = content();
                let from = text.char_indices().rev().nth(super::EXCERPT - 1).map_or(0, |(at, _)| at);
                (TurnPart::ContentEnd, format!("{turn}.content"), text[from..].to_owned())
            }
            Place::Reasoning => {
                let (name, text) = reasoning(value).unwrap_or_default();
                (TurnPart::Reasoning, format!("{turn}.{name}"), text.to_owned())
            }
            Place::Name(i) => {
                let name = call(i).get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                (TurnPart::CallName, format!("{turn}.tool_calls[{i}]"), name)
            }
            Place::Arguments(i) => {
                let arguments = call(i).get("arguments").map(Value::to_string).unwrap_or_default();
                (TurnPart::CallArguments, format!("{turn}.tool_calls[{i}]"), arguments)
            }
        }
    }

    /// Tools that change nothing, and variables that the template does not name.
    fn look_at_inputs(&self, encoder: &Encoder, text: &str, found: &mut Vec<Found>) {
        if let Some(tools) = self.inputs.tools.as_ref().filter(|tools| !tools.is_empty()) {
            let without = TemplateInputs { tools: None, ..self.inputs.clone() };
            if self.render(&self.turns(), &without).is_some_and(|without| without == text) {
                let tool = function(&tools[0]).get("name").and_then(Value::as_str).unwrap_or_default();
                found.push(Found::new(
                    Finding::ToolsNotRendered,
                    encoder.reading().columns.column("tools").to_owned(),
                    tool,
                ));
            }
        }
        for (name, value) in &self.inputs.kwargs {
            if !self.template.source().contains(name.as_str()) {
                let at = format!("{}.{name}", encoder.reading().columns.column("chat_template_kwargs"));
                found.push(Found::new(Finding::KwargNotRead { name: name.clone() }, at, &value.to_string()));
            }
        }
    }
}

/// Of contents both whose ends are left out, where both were looked at, one part.
fn whole_contents(looked_at: &[Part], left_out: Vec<Part>) -> Vec<Part> {
    let start = |part: &Part| Part { place: Place::Start, ..*part };
    let is_whole = |part: &Part| {
        part.place == Place::End && (left_out.contains(&start(part)) || !looked_at.contains(&start(part)))
    };
    let is_half = |part: &&Part| {
        let end = Part { place: Place::End, ..**part };
        part.place != Place::Start || !left_out.contains(&end)
    };
    let whole = |part: &Part| if is_whole(part) { Part { place: Place::Whole, ..*part } } else { *part };
    left_out.iter().filter(is_half).map(whole).collect()
}

fn calls(turn: &Value) -> &[Value] {
    turn.get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The function of a call or of a tool, which stands in it or is it.
fn function(call: &Value) -> &Value {
    call.get("function").unwrap_or(call)
}

/// The name and the text of a turn's thoughts.
fn reasoning(turn: &Value) -> Option<(&'static str, &str)> {
    let thought = |name: &&'static str| Some((*name, turn.get(*name)?.as_str()?));
    REASONING.iter().filter_map(thought).find(|(_, text)| !text.trim().is_empty())
}

/// Puts a marker into a part of a turn.
fn put_marker(turn: &mut Value, place: Place, marker: &str) {
    let Value::Object(fields) = turn else { return };
    match place {
        Place::Start | Place::End | Place::Whole => {
            let Some(Value::String(content)) = fields.get_mut("content") else { return };
            match place {
                Place::Start => content.insert_str(after_tag(content), marker),
                _ => content.push_str(marker),
            }
        }
        Place::Reasoning => {
            for name in REASONING {
                if let Some(Value::String(text)) = fields.get_mut(name) {
                    marker.clone_into(text);
                }
            }
        }
        Place::Name(i) | Place::Arguments(i) => {
            let call = fields.get_mut("tool_calls").and_then(|calls| calls.get_mut(i));
            let Some(Value::Object(call)) = call else { return };
            let function = match call.get("function") {
                Some(Value::Object(_)) => call.get_mut("function").and_then(Value::as_object_mut),
                _ => Some(call),
            };
            let Some(function) = function else { return };
            match place {
                Place::Name(_) => drop(function.insert("name".to_owned(), marker.into())),
                _ => {
                    if let Some(arguments) = function.get("arguments").and_then(marked_arguments) {
                        function.insert("arguments".to_owned(), fill(arguments, marker));
                    }
                }
            }
        }
    }
}

/// The byte of a content after a tag at its start, as `<think>` is.
fn after_tag(content: &str) -> usize {
    let start = content.len() - content.trim_start().len();
    let closing = match content[start..].chars().next() {
        Some('<') => '>',
        Some('[') => ']',
        _ => return 0,
    };
    content[start..].find(closing).map_or(0, |at| start + at + 1)
}

/// Stands in the arguments where the marker will.
const HOLE: &str = "QzHoleQz";

/// The arguments of a call with a place for a marker, in their own form (an object, or text of one); `None` without any.
fn marked_arguments(arguments: &Value) -> Option<Value> {
    match arguments {
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let text = fields.values_mut().find(|value| value.is_string());
            match text {
                Some(text) => *text = HOLE.into(),
                None => *fields.values_mut().next().expect("there is a field") = HOLE.into(),
            }
            Some(Value::Object(fields))
        }
        Value::String(text) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(fields) => Some(marked_arguments(&Value::Object(fields))?.to_string().into()),
            Err(_) if text.trim().is_empty() => None,
            Err(_) => Some(HOLE.into()),
        },
        _ => None,
    }
}

fn fill(arguments: Value, marker: &str) -> Value {
    match arguments {
        Value::String(text) => text.replace(HOLE, marker).into(),
        Value::Object(fields) => {
            let fill = |(name, value): (String, Value)| match value.as_str() == Some(HOLE) {
                true => (name, marker.into()),
                false => (name, value),
            };
            Value::Object(fields.into_iter().map(fill).collect())
        }
        other => other,
    }
}

impl Encoder {
    /// Refuses an answer of which the template leaves nothing: it holds thoughts or calls alone, and the text is the same
    /// without them. The model would learn to say nothing.
    ///
    /// # Errors
    /// [`BadRow::AnswerNotRendered`].
    pub(in super::super) fn check_something_is_said(&self, record: &Record, answer: usize) -> Result<(), BadRow> {
        let (Some(template), Text::Turns(prompt), Text::Turns(turns)) =
            (self.template(), &record.prompt, &record.answers[answer])
        else {
            return Ok(());
        };
        let mut held = BTreeSet::new();
        for turn in turns.iter().filter(|turn| is_assistant(turn) || record.shape != Shape::Messages) {
            let content = turn.get("content").and_then(Value::as_str).unwrap_or_default();
            let said = content.rsplit_once("</think>").map_or(content, |(_, said)| said);
            if !said.trim().is_empty() {
                return Ok(());
            }
            if !content.trim().is_empty() {
                held.insert("content");
            }
            if let Some((name, _)) = reasoning(turn) {
                held.insert(name);
            }
            if !calls(turn).is_empty() {
                held.insert("tool_calls");
            }
        }
        if held.is_empty() {
            return Ok(());
        }
        let conversation = Conversation { template, inputs: &record.inputs, prompt, answer: turns };
        let emptied: Vec<Value> = turns.iter().map(emptied).collect();
        let without = Conversation { answer: &emptied, ..conversation };
        let with = conversation.render(&conversation.turns(), &record.inputs);
        match with == without.render(&without.turns(), &record.inputs) && with.is_some() {
            true => Err(BadRow::AnswerNotRendered {
                field: record.answer_columns[answer].clone(),
                parts: held.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and "),
            }),
            false => Ok(()),
        }
    }
}

/// A turn that says nothing.
fn emptied(turn: &Value) -> Value {
    let mut turn = turn.clone();
    if let Value::Object(fields) = &mut turn {
        fields.retain(|name, _| name != "tool_calls" && !REASONING.contains(&name.as_str()));
        fields.insert("content".to_owned(), "".into());
    }
    turn
}
