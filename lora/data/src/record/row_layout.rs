//! Finds prompt and answers in a row: in columns with our names, or in one of the other layouts of data sets.
//!
//! | columns | prompt | answers |
//! |---|---|---|
//! | `instruction` (with `input`), `question` or `query`, without a `prompt` | that column | as usual |
//! | `messages` or `conversations`, `chosen`, `rejected` | the conversation | the other two columns |
//! | `messages`, `rejected_response` (or `rejected`) | all turns but the last | the last one, and the rejected one |
//! | `messages`, `label` | the turns before the assistant's last ones | the assistant's last turns |
//! | `input` with `messages`, `preferred_output`, `non_preferred_output` | `input.messages` | the other two columns |

use align_engine::json::shorten;
use serde_json::Value;

use super::bad_row::BadRow;
use super::columns::{Columns, wrong_type};
use super::decided::Decided;
use super::shape::Shape;
use super::text::{Form, Text};
use super::turn::{ASSISTANT, before_last_said, content_of, has_role, is_assistant, is_system, role_of, said_by};
use super::turns::{joined, list, text, turns, turns_in_text, value_in_text};
use crate::row::RowNumbers;
use crate::row::Target;
use crate::source::column_map::{INSTRUCTION, NUMBER_COLUMNS, PREFERRED, PROMPT_NAMES, REJECTED_RESPONSE};

/// Keys of an object that a message names, and characters of one.
const KEYS: usize = 12;
const KEY_CHARACTERS: usize = 40;

/// What the columns of a row hold.
#[derive(Debug)]
pub(crate) struct RowContent {
    pub shape: Shape,
    /// `None` if the prompt is what the two answers have in common.
    pub prompt: Option<Text>,
    pub answers: Vec<Text>,
    pub target: Option<Target>,
    /// Whether both texts of a pair contain the question of another column.
    pub prompt_in_answers: bool,
    /// What the file calls the column of each answer.
    pub answer_columns: Vec<String>,
    pub numbers: RowNumbers,
    /// Our names of the columns that were read.
    pub used: Vec<&'static str>,
}

/// Reads prompt and answers from the columns.
///
/// # Errors
/// [`BadRow`], naming the column.
pub(crate) fn read(columns: &mut Columns<'_>, decided: &Decided) -> Result<RowContent, BadRow> {
    adopt_preferred(columns)?;
    columns.drop_nulls();
    let has_answer = columns.has("chosen") || columns.has("rejected");
    if !has_answer && columns.has("messages") {
        columns.adopt("rejected", REJECTED_RESPONSE);
    }
    if columns.has("chosen") || columns.has("rejected") {
        return pair(columns, decided);
    }
    if columns.has("completions") || columns.has("rewards") {
        return scored(columns);
    }
    if columns.has("completion") || columns.has("label") {
        let has_own = columns.has("completion") || columns.has("prompt");
        return if !has_own && columns.has("messages") { labelled_messages(columns) } else { completion(columns) };
    }
    if columns.has("messages") {
        return messages(columns);
    }
    if !columns.has("prompt") && columns.has("text") {
        return whole_text(columns);
    }
    prompt_name(columns)?;
    match columns.has("prompt") {
        true => {
            let (prompt, used) = prompt(columns)?;
            Ok(RowContent::new(Shape::Prompt, Some(prompt), None, used))
        }
        false => Err(BadRow::UnknownShape { found: columns.some_names() }),
    }
}

impl RowContent {
    fn new(shape: Shape, prompt: Option<Text>, target: Option<Target>, used: Vec<&'static str>) -> RowContent {
        let (answers, answer_columns, numbers) = (Vec::new(), Vec::new(), RowNumbers::default());
        RowContent { shape, prompt, answers, target, prompt_in_answers: false, answer_columns, numbers, used }
    }

    fn with_answers(self, answers: Vec<Text>, answer_columns: Vec<String>) -> RowContent {
        RowContent { answers, answer_columns, ..self }
    }
}

/// Reads OpenAI's pairs: two answers, and the conversation in `input`.
fn adopt_preferred(columns: &mut Columns<'_>) -> Result<(), BadRow> {
    let names = ["chosen", "rejected"].into_iter().zip(PREFERRED);
    names.clone().for_each(|(name, column)| columns.adopt(name, column));
    if let Some((name, column)) = names.clone().find(|(name, _)| !columns.has(name))
        && names.clone().any(|(name, column)| columns.column(name) == column)
    {
        columns.call(name, column);
    }
    if columns.column("chosen") != PREFERRED[0] || columns.has("prompt") {
        return Ok(());
    }
    let field = columns.column("input");
    let input = columns.take("input").unwrap_or_default();
    let in_text = input.as_str().and_then(value_in_text);
    let Some(mut input) = Some(in_text.unwrap_or(input)).filter(Value::is_object) else { return Ok(()) };
    let mut take = |name: &str| input.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    if let Some(tools) = take("tools").filter(|_| !columns.has("tools")) {
        columns.set("tools", format!("{field}.tools"), tools);
    }
    match take("messages") {
        Some(messages) => columns.set("prompt", format!("{field}.messages"), messages),
        None => return Err(BadRow::Null { field: format!("{field}.messages") }),
    }
    Ok(())
}

fn pair(columns: &mut Columns<'_>, decided: &Decided) -> Result<RowContent, BadRow> {
    if !columns.has("chosen") && columns.has("messages") {
        return last_turn_chosen(columns);
    }
    let shape = if columns.has("prompt") { Shape::Pair } else { Shape::PairImplicitPrompt };
    require(columns, shape)?;
    let given = if columns.has("prompt") { Some(prompt(columns)?) } else { None };
    let (mut answers, answer_columns) = answers(columns, &["chosen", "rejected"])?;
    let numbers = RowNumbers::take(columns)?;
    let prompt_in_answers = given.is_none() && hold_a_question(&answers, columns);
    let is_prompt_shared = prompt_in_answers && decided.prompts_in_answers != Some(false);
    let (prompt, mut used) = match given {
        Some((prompt, used)) => (Some(prompt), used),
        None => match conversation_before(columns, &mut answers)? {
            Some(prompt) => (Some(Text::Turns(prompt)), vec!["messages"]),
            None if is_prompt_shared || answers.iter().any(begins_otherwise) => (None, Vec::new()),
            None => {
                prompt_name(columns)?;
                match columns.has("prompt") {
                    true => self::prompt(columns).map(|(prompt, used)| (Some(prompt), used))?,
                    false => (None, Vec::new()),
                }
            }
        },
    };
    let shape = if prompt.is_some() { Shape::Pair } else { Shape::PairImplicitPrompt };
    used.extend(["chosen", "rejected"]);
    used.extend(NUMBER_COLUMNS);
    let content = RowContent::new(shape, prompt, Some(Target::Pair), used).with_answers(answers, answer_columns);
    Ok(RowContent { numbers, prompt_in_answers, ..content })
}

/// Reads the conversation before two answers, unless the answers are whole conversations themselves. If it ends with the chosen
/// answer, that is removed.
fn conversation_before(columns: &mut Columns<'_>, answers: &mut [Text]) -> Result<Option<Vec<Value>>, BadRow> {
    if !columns.has("messages") || answers.iter().any(begins_otherwise) {
        return Ok(None);
    }
    let field = columns.column("messages");
    let mut conversation = turns(&field, columns.take("messages").unwrap_or_default())?;
    columns.note("messages");
    let Some(last) = conversation.last().filter(|last| is_assistant(last)) else { return Ok(Some(conversation)) };
    let is_chosen = match &answers[0] {
        Text::Turns(chosen) => conversation.ends_with(chosen) && chosen.len() < conversation.len(),
        Text::Plain(chosen) => content_of(last) == Some(chosen.as_str()) && conversation.len() > 1,
    };
    let of_chosen = if let Text::Turns(chosen) = &answers[0] { chosen.len() } else { 1 };
    if is_chosen {
        conversation.truncate(conversation.len() - of_chosen);
        return Ok(Some(conversation));
    }
    match answers[0].form() {
        Form::Plain => Ok(None),
        Form::Conversational => Err(BadRow::ConversationGoesOn { field, chosen: columns.column("chosen") }),
    }
}

/// Reads `messages` whose last turn is the chosen answer. The rejected one has its own column.
fn last_turn_chosen(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let field = columns.column("messages");
    let mut conversation = turns(&field, columns.take("messages").unwrap_or_default())?;
    let chosen = conversation.pop().filter(is_assistant).filter(|_| !conversation.is_empty());
    let chosen = chosen.ok_or_else(|| BadRow::NoLastAnswer { field: field.clone() })?;
    let (mut answers, mut names) = answers(columns, &["rejected"])?;
    answers.insert(0, Text::Turns(vec![chosen]));
    names.insert(0, field);
    if let Text::Plain(rejected) = &answers[1] {
        answers[1] = Text::Turns(vec![said_by(ASSISTANT, rejected)]);
    }
    let numbers = RowNumbers::take(columns)?;
    let mut used = vec!["messages", "rejected"];
    used.extend(NUMBER_COLUMNS);
    let layout = RowContent::new(Shape::Pair, Some(Text::Turns(conversation)), Some(Target::Pair), used);
    Ok(RowContent { numbers, ..layout.with_answers(answers, names) })
}

fn scored(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    prompt_name(columns)?;
    let answers = columns.peek("completions");
    let in_text = answers.and_then(Value::as_str).and_then(value_in_text);
    if let Some(first @ Value::Object(fields)) = in_text.as_ref().or(answers).and_then(|answers| answers.get(0))
        && !has_role(first)
    {
        let keys: Vec<String> = fields.keys().take(KEYS).map(|key| shorten(key, KEY_CHARACTERS)).collect();
        let field = format!("{}[0]", columns.column("completions"));
        return Err(BadRow::AnswerObject { field, keys: keys.join(", ") });
    }
    require(columns, Shape::Scored)?;
    let (prompt, mut used) = prompt(columns)?;
    let (completions_column, rewards_column) = (columns.column("completions"), columns.column("rewards"));
    let completions = list(&completions_column, columns.take("completions").unwrap_or_default())?;
    let rewards = list(&rewards_column, columns.take("rewards").unwrap_or_default())?;
    if completions.len() != rewards.len() {
        let counts = (completions.len(), rewards.len());
        return Err(BadRow::RewardCount { completions: completions_column, rewards: rewards_column, counts });
    }
    let number = |(i, value): (usize, Value)| match value.as_f64().filter(|x| x.is_finite()) {
        Some(reward) => Ok(reward),
        None => Err(wrong_type(format!("{rewards_column}[{i}]"), &value, "a finite number")),
    };
    let names: Vec<String> = (0..completions.len()).map(|i| format!("{completions_column}[{i}]")).collect();
    let answers = texts(&names, completions)?;
    let rewards: Result<Vec<f64>, BadRow> = rewards.into_iter().enumerate().map(number).collect();
    used.extend(["completions", "rewards"]);
    if let Some(other) = answers.iter().position(|answer| answer.form() != answers[0].form()) {
        return Err(BadRow::MixedForms {
            other: names[0].clone(),
            prompt: answers[0].form().describe(),
            field: names[other].clone(),
            found: answers[other].form().describe(),
        });
    }
    let target = Some(Target::Rewards(rewards?));
    Ok(RowContent::new(Shape::Scored, Some(prompt), target, used).with_answers(answers, names))
}

/// `{prompt, completion}`, with a label or without.
fn completion(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    prompt_name(columns)?;
    let is_labelled = columns.has("label");
    let shape = if is_labelled { Shape::Labelled } else { Shape::Completion };
    require(columns, shape)?;
    let (prompt, mut used) = prompt(columns)?;
    let (answers, names) = answers(columns, &["completion"])?;
    used.push("completion");
    let target = match is_labelled {
        true => {
            used.push("label");
            Target::Label(label(columns)?)
        }
        false => Target::Sequence,
    };
    Ok(RowContent::new(shape, Some(prompt), Some(target), used).with_answers(answers, names))
}

/// Reads `messages` with a label for the assistant's last turns.
fn labelled_messages(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let field = columns.column("messages");
    let mut conversation = turns(&field, columns.take("messages").unwrap_or_default())?;
    let prompt = before_last_said(&conversation).len();
    if prompt == conversation.len() || !conversation.last().is_some_and(is_assistant) {
        return Err(BadRow::NoLastAnswer { field });
    }
    let answer = conversation.split_off(prompt);
    let target = Some(Target::Label(label(columns)?));
    let layout = RowContent::new(Shape::Labelled, Some(Text::Turns(conversation)), target, vec!["messages", "label"]);
    Ok(layout.with_answers(vec![Text::Turns(answer)], vec![field]))
}

fn messages(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let field = columns.column("messages");
    let messages = turns(&field, columns.take("messages").unwrap_or_default())?;
    let prompt = Some(Text::Turns(Vec::new()));
    let layout = RowContent::new(Shape::Messages, prompt, Some(Target::Sequence), vec!["messages"]);
    Ok(layout.with_answers(vec![Text::Turns(messages)], vec![field]))
}

fn whole_text(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let field = columns.column("text");
    match columns.take("text").unwrap_or_default() {
        Value::String(text) => {
            let prompt = Some(Text::Plain(String::new()));
            let layout = RowContent::new(Shape::Text, prompt, Some(Target::Sequence), vec!["text"]);
            Ok(layout.with_answers(vec![Text::Plain(text)], vec![field]))
        }
        other => Err(wrong_type(field, &other, "a string")),
    }
}

/// Checks that the row has the columns of a shape.
fn require(columns: &Columns<'_>, shape: Shape) -> Result<(), BadRow> {
    match shape.names().iter().find(|name| !columns.has(name)) {
        None => Ok(()),
        Some(own) => Err(BadRow::Missing { missing: columns.column(own), own, shape: shape.columns() }),
    }
}

/// Reads the prompt from a column with another name for it, if the row has no prompt yet.
fn prompt_name(columns: &mut Columns<'_>) -> Result<(), BadRow> {
    if columns.has("prompt") || columns.is_mapped("prompt") {
        return Ok(());
    }
    let mut found = PROMPT_NAMES.into_iter().filter(|name| columns.spare(name).is_some());
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(BadRow::TwoPrompts { first, second }),
        (Some(name), None) => {
            columns.adopt("prompt", name);
            Ok(())
        }
        (None, _) => Ok(()),
    }
}

/// Reads the prompt, with `input` on a line of its own after an instruction. Also returns our names of the columns it comes from.
fn prompt(columns: &mut Columns<'_>) -> Result<(Text, Vec<&'static str>), BadRow> {
    let field = columns.column("prompt");
    let value = columns.take("prompt").unwrap_or_default();
    let mut prompt = texts(std::slice::from_ref(&field), vec![value])?.remove(0);
    let mut used = vec!["prompt"];
    if columns.has("input") && (field == INSTRUCTION || columns.is_mapped("input")) {
        used.push("input");
        let (name, value) = (columns.column("input"), columns.take("input").unwrap_or_default());
        match (&mut prompt, value) {
            (_, Value::Null) => {}
            (_, Value::String(input)) if input.is_empty() => {}
            (Text::Plain(prompt), Value::String(input)) => {
                columns.note("input");
                *prompt = [prompt.as_str(), &input]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>()
                    .join("\n");
            }
            (Text::Plain(_), other) => return Err(wrong_type(name, &other, "a string")),
            (Text::Turns(_), other) => {
                return Err(wrong_type(name, &other, "nothing, for the prompt is a list of turns"));
            }
        }
    }
    if field.starts_with("input.") {
        used.push("input");
    }
    Ok((prompt, used))
}

/// Reads the answers from these columns. Also returns the file's names of the columns.
fn answers(columns: &mut Columns<'_>, own: &[&str]) -> Result<(Vec<Text>, Vec<String>), BadRow> {
    let names: Vec<String> = own.iter().map(|name| columns.column(name)).collect();
    let values = own.iter().map(|name| columns.take(name).unwrap_or_default()).collect();
    Ok((texts(&names, values)?, names))
}

/// Reads texts or conversations. Strings that hold turns become turns, unless another value is a plain text.
fn texts(names: &[String], values: Vec<Value>) -> Result<Vec<Text>, BadRow> {
    let in_texts: Vec<Option<Value>> = values.iter().map(|value| value.as_str().and_then(turns_in_text)).collect();
    let is_text = |(value, turns): (&Value, &Option<Value>)| value.is_string() && turns.is_none();
    let as_turns = !values.iter().zip(&in_texts).any(is_text);
    let values = values.into_iter().zip(in_texts);
    let read = |(name, (value, turns)): (&String, (Value, Option<Value>))| {
        text(name, if as_turns { turns.unwrap_or(value) } else { value })
    };
    names.iter().zip(values).map(read).collect()
}

/// Whether an answer begins with a turn of the user or the system. If so, it is a whole conversation.
fn begins_otherwise(answer: &Text) -> bool {
    matches!(answer, Text::Turns(turns) if turns.first().is_some_and(|turn| matches!(role_of(turn), "user" | "system")))
}

/// Whether the common prefix of a pair of texts contains the text of a column that is named like a prompt.
fn hold_a_question(answers: &[Text], columns: &Columns<'_>) -> bool {
    let [Text::Plain(chosen), Text::Plain(rejected)] = answers else { return false };
    let pairs = chosen.chars().zip(rejected.chars());
    let end: usize = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let asked = PROMPT_NAMES.into_iter().filter_map(|name| columns.spare(name)?.as_str());
    let mut asked = asked.map(str::trim).filter(|text| !text.is_empty());
    asked.any(|text| chosen[..end].contains(text))
}

/// Reads a label: true or false, 1 or 0, or the words in upper or lower case.
fn label(columns: &mut Columns<'_>) -> Result<bool, BadRow> {
    let value = columns.take("label").unwrap_or_default();
    let word = value.as_str().map(str::trim).unwrap_or_default();
    let number = value.as_f64().or_else(|| word.parse().ok());
    match value {
        Value::Bool(label) => Ok(label),
        _ if number == Some(1.0) || word.eq_ignore_ascii_case("true") => Ok(true),
        _ if number == Some(0.0) || word.eq_ignore_ascii_case("false") => Ok(false),
        Value::Number(_) | Value::String(_) => {
            Err(BadRow::Label { field: columns.column("label"), found: value.to_string() })
        }
        other => Err(wrong_type(columns.column("label"), &other, "true or false, or 1 or 0")),
    }
}

/// Brings prompt and answers of a row to one form. If one side has turns, a text of the other becomes a turn of the user or of the
/// assistant. `None` if the answers are whole conversations that begin with the prompt, which is then not needed.
///
/// # Errors
/// [`BadRow::MixedForms`] if the answers differ in form, or are whole conversations that ask something else.
pub(crate) fn one_form(
    prompt: Text,
    answers: &mut [Text],
    prompt_column: &str,
    answer_columns: &[String],
) -> Result<Option<Text>, BadRow> {
    let differ = |answers: &[Text]| answers.iter().position(|answer| answer.form() != prompt.form());
    let Some(other) = differ(answers) else { return Ok(Some(prompt)) };
    let mixed = || BadRow::MixedForms {
        other: prompt_column.to_owned(),
        prompt: prompt.form().describe(),
        field: answer_columns[other].clone(),
        found: answers[other].form().describe(),
    };
    if answers.iter().any(|answer| answer.form() != answers[other].form()) {
        return Err(mixed());
    }
    match &prompt {
        Text::Turns(_) => {
            for answer in answers {
                if let Text::Plain(text) = answer {
                    *answer = Text::Turns(vec![said_by(ASSISTANT, text)]);
                }
            }
            Ok(Some(prompt))
        }
        Text::Plain(asked) if answers.iter().any(begins_otherwise) => match is_repeated(asked, answers) {
            true => Ok(None),
            false => Err(mixed()),
        },
        Text::Plain(asked) => Ok(Some(Text::Turns(vec![said_by("user", asked)]))),
    }
}

/// Whether one of the turns with which all conversations begin says this text, as in UltraFeedback. Those turns are then the
/// prompt, and the text is not needed. TRL 1.16 does the same in `maybe_extract_prompt`.
fn is_repeated(asked: &str, answers: &[Text]) -> bool {
    common_turns(answers).iter().any(|turn| content_of(turn).is_some_and(|content| content.trim() == asked.trim()))
}

/// Returns the turns with which all conversations begin. For a single one, these are the turns before the assistant's last ones.
fn common_turns(answers: &[Text]) -> &[Value] {
    match answers {
        [Text::Turns(one)] => match before_last_said(one) {
            all if all.len() == one.len() => &[],
            before => before,
        },
        [Text::Turns(first), rest @ ..] => {
            let common = |other: &Text| match other {
                Text::Turns(other) => first.iter().zip(other).take_while(|(a, b)| a == b).count(),
                Text::Plain(_) => 0,
            };
            &first[..rest.iter().map(common).min().unwrap_or(0)]
        }
        _ => &[],
    }
}

/// Removes the turns with which all conversations begin, and returns them as the prompt of a row that has no other.
///
/// # Errors
/// [`BadRow::NoOwnTurn`] if nothing is left of an answer.
pub(crate) fn split_common_turns(answers: &mut [Text], answer_columns: &[String]) -> Result<Text, BadRow> {
    let common = common_turns(answers).to_vec();
    for (answer, column) in answers.iter_mut().zip(answer_columns) {
        if let Text::Turns(turns) = answer {
            turns.drain(..common.len());
            if turns.is_empty() {
                return Err(BadRow::NoOwnTurn { field: column.clone() });
            }
        }
    }
    Ok(Text::Turns(common))
}

/// Checks that the assistant says something in each answer of turns.
///
/// # Errors
/// [`BadRow::NotTheAssistant`] with the roles that are there.
pub(crate) fn check_speakers(answers: &[Text], answer_columns: &[String]) -> Result<(), BadRow> {
    for (answer, column) in answers.iter().zip(answer_columns) {
        if let Text::Turns(turns) = answer
            && !turns.iter().any(is_assistant)
        {
            let mut roles: Vec<&str> = turns.iter().map(role_of).collect();
            roles.dedup();
            roles.truncate(4);
            return Err(BadRow::NotTheAssistant { field: column.clone(), roles: roles.join("`, `") });
        }
    }
    Ok(())
}

/// Reads the column `system`: a text, parts of one, or one system turn, alone or in a list. A number or a boolean is read only if
/// the user names the column.
///
/// # Errors
/// [`BadRow::Type`].
pub(crate) fn system(columns: &mut Columns<'_>, used: &mut Vec<&'static str>) -> Result<Option<String>, BadRow> {
    let field = columns.column("system");
    let value = columns.take("system").unwrap_or_default();
    if matches!(value, Value::Number(_) | Value::Bool(_)) && !columns.is_mapped("system") {
        return Ok(None);
    }
    used.push("system");
    let turn = value.as_str().and_then(turns_in_text).unwrap_or(value);
    let text = match turn {
        Value::Null => return Ok(None),
        Value::Array(turns) if turns.is_empty() => return Ok(None),
        Value::String(text) => text,
        Value::Array(parts) if !parts.iter().any(has_role) => joined(&field, Value::Array(parts))?,
        Value::Array(_) | Value::Object(_) => match &turns(&field, turn)?[..] {
            [turn] if is_system(turn) => content_of(turn).unwrap_or_default().to_owned(),
            _ => return Err(BadRow::NoSystemTurn { field }),
        },
        other => return Err(wrong_type(field, &other, "a string")),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    columns.note("system");
    Ok(Some(text))
}
