//! Is there an unread column that is called like a prompt, and says what the row does not?

use serde_json::Value;

use super::super::encode::Encoder;
use super::super::records::{Parsed, Shape, Text};
use super::{Finding, Found, prompt_name};

/// Words in the names of columns that are prompts, singular.
const PROMPTS: [&str; 9] =
    ["prompt", "instruction", "question", "query", "input", "system", "conversation", "message", "dialogue"];
/// Words of columns that may be one, if they hold a text of some length.
const PERHAPS: [&str; 6] = ["context", "history", "problem", "user", "human", "post"];
/// Characters of such a text.
const SOME_LENGTH: usize = 20;
/// Words of columns that are about a prompt, or about answers.
const ABOUT: [&str; 49] = [
    "id",
    "uid",
    "uuid",
    "hash",
    "len",
    "length",
    "token",
    "type",
    "kind",
    "count",
    "num",
    "number",
    "source",
    "lang",
    "language",
    "category",
    "index",
    "idx",
    "name",
    "version",
    "score",
    "rating",
    "date",
    "time",
    "timestamp",
    "url",
    "model",
    "label",
    "labelling",
    "labeling",
    "tag",
    "split",
    "topic",
    "domain",
    "difficulty",
    "format",
    "template",
    "answer",
    "response",
    "output",
    "generation",
    "chosen",
    "rejected",
    "critique",
    "judge",
    "evaluation",
    "reward",
    "weight",
    "margin",
];

/// How well the name of a column is one of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    Perhaps,
    Yes,
}

/// Whether a column is called like a prompt.
pub(in super::super) fn is_like_a_prompt(name: &str) -> bool {
    likeness(name).is_some()
}

/// The column that most likely is the prompt.
pub(in super::super) fn candidate(unread: &[String]) -> Option<&str> {
    // `system` is a part of a prompt
    let rank = |name: &&String| likeness(name).map(|likeness| (!is_system(name), likeness));
    let mut best: Option<&String> = None;
    for name in unread.iter().filter(|name| likeness(name).is_some()) {
        if best.is_none_or(|best| rank(&name) > rank(&best)) {
            best = Some(name);
        }
    }
    best.map(String::as_str)
}

fn is_system(name: &str) -> bool {
    words(name).iter().any(|word| word == "system")
}

fn likeness(name: &str) -> Option<Likeness> {
    let words = words(name);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    match () {
        () if has(&ABOUT) => None,
        () if has(&PROMPTS) => Some(Likeness::Yes),
        () if has(&PERHAPS) => Some(Likeness::Perhaps),
        () => None,
    }
}

/// `userInputs`, `user_inputs`, `User-Input`: user, input.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || c.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if c.is_alphanumeric() {
            words.last_mut().expect("there is a word").extend(c.to_lowercase());
        }
    }
    let singular = |word: String| match word.as_str() {
        "queries" => "query".to_owned(),
        "dialog" | "dialogs" => "dialogue".to_owned(),
        "class" => word,
        plural => plural.strip_suffix('s').map_or(plural.to_owned(), str::to_owned),
    };
    words.into_iter().filter(|word| !word.is_empty()).map(singular).collect()
}

/// Looks at the columns that a record has and nothing read.
pub(super) fn look(encoder: &Encoder, parsed: &Parsed, line: &[u8], found: &mut Vec<Found>) {
    let Parsed { record, ignored_columns: unread, .. } = parsed;
    let is_empty = parsed.is_prompt_blank && !matches!(record.shape, Shape::Text | Shape::Messages);
    if unread.is_empty() || !is_empty && !unread.iter().any(|name| is_like_a_prompt(name)) {
        return;
    }
    let Ok(Value::Object(row)) = serde_json::from_slice::<Value>(line) else { return };
    let holds = |name: &&String| row.get(*name).is_some_and(|value| !texts(value).is_empty());
    if is_empty {
        let unread: Vec<String> = unread.iter().filter(holds).cloned().collect();
        if !unread.is_empty() {
            found.push(Found::new(Finding::EmptyPrompt { unread }, prompt_name(encoder, record), ""));
            return;
        }
    }
    let mut own = String::new();
    for text in std::iter::once(&record.prompt).chain(&record.answers) {
        match text {
            Text::Plain(text) => own += text,
            Text::Turns(turns) => turns.iter().flat_map(texts).for_each(|text| own += text),
        }
        own.push('\n');
    }
    for name in unread {
        let Some(likeness) = likeness(name) else { continue };
        let texts = row.get(name).map(texts).unwrap_or_default();
        let length: usize = texts.iter().map(|text| text.chars().count()).sum();
        if likeness == Likeness::Perhaps && length < SOME_LENGTH {
            continue;
        }
        if let Some(missing) = texts.into_iter().find(|text| !own.contains(text)) {
            let read_as = if is_system(name) { "system" } else { "prompt" }.to_owned();
            found.push(Found::new(Finding::UnreadColumn { column: name.clone(), read_as }, name.clone(), missing));
        }
    }
}

/// The texts that a value says: itself, or those of turns, each without blanks around it.
fn texts(value: &Value) -> Vec<&str> {
    let mut all = Vec::new();
    match value {
        Value::String(text) => all.push(text.trim()),
        Value::Array(items) => items.iter().for_each(|item| all.extend(texts(item))),
        Value::Object(fields) => {
            for name in ["content", "value", "text"] {
                if let Some(value) = fields.get(name) {
                    all.extend(texts(value));
                }
            }
        }
        _ => {}
    }
    all.retain(|text| !text.is_empty());
    all
}
