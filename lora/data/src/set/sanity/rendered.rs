//! Checks that everything in a conversation reaches the text that the chat template renders.
//!
//! Templates trim, escape and rewrite, so searching for the texts is not enough. A part is rendered if the rendered text changes
//! when the part changes. First, all parts get a marker at once. Then each part whose marker is not in the rendered text is tried
//! alone.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Finding, Sighting, TurnPart, answer_name, marks, prompt_name};
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::record::shape::Shape;
use crate::record::template_inputs::TemplateInputs;
use crate::record::text::Text;
use crate::record::turn::{content_of, function, function_mut, is_assistant, role_of};
use crate::tokens::encode::Encoder;
use crate::tokens::sft_part::SftPart;
use crate::tokens::template::{ChatTemplate, GenerationPrompt, MarkedText, REASONING, text_bytes};

/// Maximum number of bytes of a conversation to look at.
const MOST_BYTES: usize = 1 << 20;
/// Maximum number of parts of a conversation to try alone.
const MOST_TRIED: usize = 12;
/// Maximum number of tags in the content of a turn that get a marker after them.
const MOST_TAGS: usize = 4;
/// Content of at least this many bytes gets a marker in its middle.
const LONG: usize = 64;

/// A place in a conversation where a marker can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    turn: usize,
    place: Within,
}

impl Spot {
    /// Whether another place of the same turn is this place or is within it.
    fn holds(self, other: &Spot) -> bool {
        let is_in_content = matches!(other.place, Within::Start | Within::Middle(_) | Within::End);
        self.place == other.place || self.place == Within::Whole && is_in_content
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// The start of `content`. If a tag is there, the place after it, since templates look for tags.
    Start,
    /// After this byte of `content`.
    Middle(usize),
    End,
    /// All of `content`: `whole_contents` puts this in the place of its parts.
    Whole,
    Reasoning,
    Name(Call),
    Arguments(Call),
}

/// One of the calls of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// One of `tool_calls`.
    Tool(usize),
    /// `function_call`, as in OpenAI's older rows.
    Function,
}

/// Makes a word that no conversation is likely to contain and that neither escaping nor trimming changes.
fn marker(number: usize) -> String {
    format!("QzMark{number:05}Qz")
}

/// Returns the numbers of the markers in a text.
fn markers_in(text: &str) -> BTreeSet<usize> {
    let number = |(at, mark): (usize, &str)| text[at + mark.len()..].split_once("Qz")?.0.parse().ok();
    text.match_indices("QzMark").filter_map(number).collect()
}

/// Looks for parts of turns, tools and variables that the chat template leaves out. Does nothing if the record is made of texts.
pub(super) fn look(encoder: &Encoder, record: &Record, found: &mut Vec<Sighting>) {
    let (Some(template), Text::Turns(prompt)) = (encoder.template(), &record.prompt) else { return };
    let mut before: Option<&[Value]> = Some(prompt);
    // a record of a prompt alone is looked at with an empty answer
    let nothing = [Text::Turns(Vec::new())];
    let answers = if record.answers.is_empty() { &nothing[..] } else { &record.answers };
    for (number, answer) in answers.iter().enumerate() {
        let Text::Turns(answer) = answer else { return };
        let conversation = Conversation { template, inputs: &record.inputs, prompt, answer };
        if conversation.bytes() > MOST_BYTES {
            return;
        }
        let Some(text) = conversation.render(&conversation.turns(), &record.inputs) else { return };
        marks::look_at_rendered(encoder, &text, record, number, found);
        let first = before.take().is_some();
        let parts = conversation.parts(record.shape, first);
        let not_rendered = conversation.left_out(&parts, &text, &|turns| conversation.render(turns, &record.inputs));
        let mut note = |part: Spot, finding: &dyn Fn(TurnPart) -> Finding| {
            let (name, turn) = match part.turn.checked_sub(prompt.len()) {
                Some(turn) => (answer_name(record, number), turn),
                None => (prompt_name(record), part.turn),
            };
            let (what, at, excerpt) = conversation.describe(part, &format!("{name}[{turn}]"));
            let new = Sighting::new(finding(what), at, &excerpt);
            if !found.iter().any(|known| known.finding == new.finding) {
                found.push(new);
            }
        };
        for &part in &not_rendered {
            let of_answer = conversation.is_of_answer(record.shape, part.turn);
            note(part, &|part| Finding::NotRendered { of_answer, part });
        }
        if encoder.sft_part(record.shape) == SftPart::Assistant {
            for part in conversation.not_marked(parts, &not_rendered) {
                note(part, &|part| Finding::NotMarked { part });
            }
        }
        if first {
            conversation.look_at_inputs(encoder, &text, found);
        }
    }
}

/// A prompt and one of its answers, with what the template needs to render them.
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
        self.prompt.iter().chain(self.answer).map(text_bytes).sum()
    }

    /// Renders these turns with these inputs. `None` if the template refuses them.
    fn render(&self, turns: &[Value], inputs: &TemplateInputs) -> Option<String> {
        self.template.render_with(turns, GenerationPrompt::Omit, inputs).ok()
    }

    /// Whether the model learns to write a turn.
    fn is_of_answer(&self, shape: Shape, turn: usize) -> bool {
        turn >= self.prompt.len() && (shape != Shape::Messages || is_assistant(self.turn(turn)))
    }

    /// Returns the places to look at in the answer and, if `with_prompt`, in the prompt. Templates usually leave out thoughts before
    /// the user's last turn, so thoughts are looked at only behind it. In a row of `messages` all turns of the assistant are
    /// scored, so there all thoughts are looked at.
    fn parts(&self, shape: Shape, with_prompt: bool) -> Vec<Spot> {
        let count = self.prompt.len() + self.answer.len();
        let is_user = |turn: &usize| role_of(self.turn(*turn)) == "user";
        let answered = (0..count).rev().find(is_user).map_or(0, |last| last + 1);
        let mut parts = Vec::new();
        for number in if with_prompt { 0 } else { self.prompt.len() }..count {
            let turn = self.turn(number);
            let is_scored = number >= answered || shape == Shape::Messages;
            let has_thoughts = is_scored && self.is_of_answer(shape, number);
            let mut put = |place| parts.push(Spot { turn: number, place });
            if let Some(content) = content_of(turn).filter(|text| !text.trim().is_empty()) {
                if has_thoughts || !content.contains("</") && !content.contains("[/") {
                    put(Within::Start);
                }
                if has_thoughts && content.len() >= LONG {
                    middles(content).into_iter().for_each(|at| put(Within::Middle(at)));
                }
                put(Within::End);
            }
            if has_thoughts && reasoning(turn).is_some() {
                put(Within::Reasoning);
            }
            for (call, function) in calls(turn) {
                if function.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
                    put(Within::Name(call));
                }
                if function.get("arguments").is_some_and(|arguments| marked_arguments(arguments, "").is_some()) {
                    put(Within::Arguments(call));
                }
            }
        }
        parts
    }

    /// Returns the assistant's parts that are rendered, but outside the template's `{% generation %}` marks. The list is empty if
    /// the template has no such marks.
    fn not_marked(&self, mut parts: Vec<Spot>, not_rendered: &[Spot]) -> Vec<Spot> {
        let Some(marked) = self.marked(&self.turns()) else { return Vec::new() };
        let is_left_out = |part: &Spot| not_rendered.iter().any(|other| other.turn == part.turn && other.holds(part));
        parts.retain(|part| part.turn >= self.prompt.len() && is_assistant(self.turn(part.turn)) && !is_left_out(part));
        self.left_out(&parts, &marked, &|turns| self.marked(turns))
    }

    /// Returns the text within the `{% generation %}` marks. `None` if the template has none or refuses the conversation.
    fn marked(&self, turns: &[Value]) -> Option<String> {
        let MarkedText { text, spans } = self.template.render_with_spans(turns, self.inputs).ok()??;
        Some(spans.into_iter().map(|span| &text[span]).collect())
    }

    /// Returns the parts that can change without changing the rendered text. `render` renders turns, and `text` is what it makes
    /// of the unchanged turns.
    fn left_out(&self, parts: &[Spot], text: &str, render: &dyn Fn(&[Value]) -> Option<String>) -> Vec<Spot> {
        let mut turns = self.turns();
        // the last part first, so that no marker shifts the place of another in the same content
        for (number, part) in parts.iter().enumerate().rev() {
            put_marker(&mut turns[part.turn], part.place, &marker(number));
        }
        let all = render(&turns);
        let there = all.as_deref().map(markers_in).unwrap_or_default();
        let missing = |number: &usize| !there.contains(number);
        let mut suspects: Vec<Spot> = (0..parts.len()).filter(missing).map(|number| parts[number]).collect();
        // only the first `MOST_TRIED` are tried, so parts of the answer come first
        suspects.sort_by_key(|part| part.turn < self.prompt.len());
        let alone = |part: &Spot| {
            let mut turns = self.turns();
            put_marker(&mut turns[part.turn], part.place, &marker(0));
            // if a template refuses a marker, it does read the part
            render(&turns).is_some_and(|with| with == text)
        };
        let left_out = suspects.into_iter().take(MOST_TRIED).filter(alone).collect();
        whole_contents(parts, left_out)
    }

    /// Returns what a part is, its place, and its text. `turn` is the name of its turn in messages.
    fn describe(&self, part: Spot, turn: &str) -> (TurnPart, String, String) {
        let value = self.turn(part.turn);
        let content = content_of(value).unwrap_or_default();
        let of_call = |call: Call, field: &str| {
            let place = match call {
                Call::Tool(i) => format!("tool_calls[{i}]"),
                Call::Function => "function_call".to_owned(),
            };
            let function = calls(value).find(|(other, _)| *other == call).map(|(_, function)| function);
            (place, function.and_then(|function| function.get(field)))
        };
        let (what, place, text) = match part.place {
            Within::Start => (TurnPart::ContentStart, "content".to_owned(), content.to_owned()),
            Within::Whole => (TurnPart::Content, "content".to_owned(), content.to_owned()),
            Within::Middle(at) => (TurnPart::ContentMiddle, "content".to_owned(), content[at..].to_owned()),
            Within::End => {
                let from = content.char_indices().rev().nth(super::EXCERPT - 1).map_or(0, |(at, _)| at);
                (TurnPart::ContentEnd, "content".to_owned(), content[from..].to_owned())
            }
            Within::Reasoning => {
                let (name, text) = reasoning(value).unwrap_or_default();
                (TurnPart::Reasoning, name.to_owned(), text.to_owned())
            }
            Within::Name(call) => {
                let (place, name) = of_call(call, "name");
                (TurnPart::CallName, place, name.and_then(Value::as_str).unwrap_or_default().to_owned())
            }
            Within::Arguments(call) => {
                let (place, arguments) = of_call(call, "arguments");
                (TurnPart::CallArguments, place, arguments.map(Value::to_string).unwrap_or_default())
            }
        };
        (what, format!("{turn}.{place}"), text)
    }

    /// Looks for tools that change nothing, and for variables that the template does not name.
    fn look_at_inputs(&self, encoder: &Encoder, text: &str, found: &mut Vec<Sighting>) {
        if let Some(tools) = self.inputs.tools.as_ref().filter(|tools| !tools.is_empty()) {
            let without = TemplateInputs { tools: None, ..self.inputs.clone() };
            if self.render(&self.turns(), &without).is_some_and(|without| without == text) {
                let tool = function(&tools[0]).get("name").and_then(Value::as_str).unwrap_or_default();
                let column = encoder.reading().columns.column("tools").to_owned();
                found.push(Sighting::new(Finding::ToolsNotRendered, column, tool));
            }
        }
        for (name, value) in &self.inputs.kwargs {
            if !names(&self.template.source(), name) {
                let at = format!("{}.{name}", encoder.reading().columns.column("chat_template_kwargs"));
                found.push(Sighting::new(Finding::KwargNotRead { name: name.clone() }, at, &value.to_string()));
            }
        }
    }
}

/// Merges the parts of one content into one part if its end was left out and its start was left out, too, or not looked at.
fn whole_contents(looked_at: &[Spot], left_out: Vec<Spot>) -> Vec<Spot> {
    let start = |part: &Spot| Spot { place: Within::Start, ..*part };
    let is_whole = |part: &Spot| {
        part.place == Within::End && (left_out.contains(&start(part)) || !looked_at.contains(&start(part)))
    };
    let is_half = |part: &&Spot| {
        let end = Spot { place: Within::End, ..**part };
        match part.place {
            Within::Start => !left_out.contains(&end),
            Within::Middle(_) => !left_out.contains(&end) && !left_out.contains(&start(part)),
            _ => true,
        }
    };
    let whole = |part: &Spot| if is_whole(part) { Spot { place: Within::Whole, ..*part } } else { *part };
    left_out.iter().filter(is_half).map(whole).collect()
}

/// Returns the calls of a turn, each with its name and arguments.
fn calls(turn: &Value) -> impl Iterator<Item = (Call, &Value)> {
    let of_tools = turn.get("tool_calls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let of_tools = of_tools.iter().enumerate().map(|(i, call)| (Call::Tool(i), function(call)));
    of_tools.chain(turn.get("function_call").map(|call| (Call::Function, call)))
}

/// Returns the byte offsets in a content that get a marker: after each of its first tags, and after the first blank in its second
/// half. A tag without blanks stays whole, since a template may look for it.
fn middles(content: &str) -> Vec<usize> {
    let end = content.trim_end().len();
    let behind = |c: char| move |(at, found): (usize, char)| (found == c).then_some(at + 1).filter(|at| *at < end);
    let mut all: Vec<usize> = content.char_indices().filter_map(behind('>')).take(MOST_TAGS).collect();
    let middle = content.char_indices().filter_map(behind(' ')).find(|at| 2 * at >= content.len());
    all.extend(middle);
    all.sort_unstable();
    all.dedup();
    all
}

/// Returns the name and the text of a turn's thoughts.
fn reasoning(turn: &Value) -> Option<(&'static str, &str)> {
    let thought = |name: &&'static str| Some((*name, turn.get(*name)?.as_str()?));
    REASONING.iter().filter_map(thought).find(|(_, text)| !text.trim().is_empty())
}

/// Puts a marker into a part of a turn.
fn put_marker(turn: &mut Value, place: Within, marker: &str) {
    let Value::Object(fields) = turn else { return };
    match place {
        Within::Start | Within::Middle(_) | Within::End | Within::Whole => {
            let Some(Value::String(content)) = fields.get_mut("content") else { return };
            match place {
                Within::Start => content.insert_str(after_tag(content), marker),
                Within::Middle(at) => content.insert_str(at.min(content.len()), marker),
                _ => content.push_str(marker),
            }
        }
        Within::Reasoning => {
            for name in REASONING {
                if let Some(Value::String(text)) = fields.get_mut(name) {
                    marker.clone_into(text);
                }
            }
        }
        Within::Name(of) | Within::Arguments(of) => {
            let call = match of {
                Call::Tool(i) => fields.get_mut("tool_calls").and_then(|calls| calls.get_mut(i)),
                Call::Function => fields.get_mut("function_call"),
            };
            let Some(Value::Object(function)) = call.map(function_mut) else { return };
            if let Within::Name(_) = place {
                function.insert("name".to_owned(), marker.into());
            } else if let Some(arguments) = function.get_mut("arguments")
                && let Some(marked) = marked_arguments(arguments, marker)
            {
                *arguments = marked;
            }
        }
    }
}

/// Returns the byte offset in a content after the tag at its start, such as `<think>`. 0 if no tag is there.
fn after_tag(content: &str) -> usize {
    let start = content.len() - content.trim_start().len();
    let closing = match content[start..].chars().next() {
        Some('<') => '>',
        Some('[') => ']',
        _ => return 0,
    };
    content[start..].find(closing).map_or(0, |at| start + at + 1)
}

/// Returns the arguments of a call with a marker in them, in the form in which they were given: an object or a string. `None` if
/// there are no arguments.
fn marked_arguments(arguments: &Value, marker: &str) -> Option<Value> {
    match arguments {
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let text = fields.values().position(Value::is_string).unwrap_or(0);
            *fields.values_mut().nth(text)? = marker.into();
            Some(Value::Object(fields))
        }
        Value::String(text) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(fields) => Some(marked_arguments(&Value::Object(fields), marker)?.to_string().into()),
            Err(_) if text.trim().is_empty() => None,
            Err(_) => Some(marker.into()),
        },
        _ => None,
    }
}

impl Encoder {
    /// Refuses an answer if the template renders nothing of it: the answer has only thoughts or calls, and the rendered text is
    /// the same without them. The model would learn to say nothing.
    ///
    /// # Errors
    /// [`BadRow::AnswerNotRendered`].
    pub(crate) fn check_something_is_said(&self, record: &Record, answer: usize) -> Result<(), BadRow> {
        let (Some(template), Text::Turns(prompt), Text::Turns(turns)) =
            (self.template(), &record.prompt, &record.answers[answer])
        else {
            return Ok(());
        };
        let mut held = BTreeSet::new();
        for turn in turns.iter().filter(|turn| is_assistant(turn) || record.shape != Shape::Messages) {
            let content = content_of(turn).unwrap_or_default();
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
            for (call, _) in calls(turn) {
                held.insert(if call == Call::Function { "function_call" } else { "tool_calls" });
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

/// Returns the turn with an empty content, and without its calls and thoughts.
fn emptied(turn: &Value) -> Value {
    let mut turn = turn.clone();
    if let Value::Object(fields) = &mut turn {
        fields.retain(|name, _| {
            !matches!(name.as_str(), "tool_calls" | "function_call") && !REASONING.contains(&name.as_str())
        });
        fields.insert("content".to_owned(), "".into());
    }
    turn
}

/// Whether the source of a template contains a name as a whole word.
fn names(source: &str, name: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_whole =
        |at: usize| !source[..at].ends_with(is_of_word) && !source[at + name.len()..].starts_with(is_of_word);
    source.match_indices(name).any(|(at, _)| is_whole(at))
}
