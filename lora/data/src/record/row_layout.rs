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
use super::text::{Form, Text, common_start};
use super::turn::{ASSISTANT, before_last_said, content_of, has_role, is_assistant, is_system, role_of, said_by};
use super::turns::{joined, list, text, turns, turns_in_text, value_in_text};
use crate::row::{RowNumbers, Target};
use crate::source::column_map::{INSTRUCTION, NUMBER_COLUMNS, PREFERRED, PROMPT_NAMES, REJECTED_RESPONSE};

/// Maximum number of keys of an object that an error message names.
const KEYS: usize = 12;
/// Maximum number of characters of each of these keys.
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
    /// The file's name of each answer's column.
    pub answer_columns: Vec<String>,
    pub numbers: RowNumbers,
    /// Our names of the columns that were read.
    pub used: Vec<&'static str>,
}

/// Reads prompt and answers from the columns.
///
/// # Errors
/// [`BadRow`] with the name of the column.
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
    if !columns.has("prompt") {
        return Err(BadRow::UnknownShape { found: columns.some_names() });
    }
    let (prompt, used) = prompt(columns)?;
    Ok(RowContent::new(Shape::Prompt, Some(prompt), (Vec::new(), Vec::new()), None, used))
}

/// Answers, and the file's name of each answer's column.
type Answers = (Vec<Text>, Vec<String>);

impl RowContent {
    fn new(
        shape: Shape,
        prompt: Option<Text>,
        (answers, answer_columns): Answers,
        target: Option<Target>,
        used: Vec<&'static str>,
    ) -> RowContent {
        let (prompt_in_answers, numbers) = (false, RowNumbers::default());
        RowContent { shape, prompt, answers, target, prompt_in_answers, answer_columns, numbers, used }
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
    let (field, input) = columns.take_named("input");
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
    let (mut answers, names) = answers(columns, &["chosen", "rejected"])?;
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
                let found = if columns.has("prompt") { Some(self::prompt(columns)?) } else { None };
                found.map_or((None, Vec::new()), |(prompt, used)| (Some(prompt), used))
            }
        },
    };
    let shape = if prompt.is_some() { Shape::Pair } else { Shape::PairImplicitPrompt };
    used.extend(["chosen", "rejected"]);
    used.extend(NUMBER_COLUMNS);
    let content = RowContent::new(shape, prompt, (answers, names), Some(Target::Pair), used);
    Ok(RowContent { numbers, prompt_in_answers, ..content })
}

/// Reads the turns of `messages`. Also returns the file's name of the column.
fn conversation(columns: &mut Columns<'_>) -> Result<(String, Vec<Value>), BadRow> {
    let (field, value) = columns.take_named("messages");
    let turns = turns(&field, value)?;
    Ok((field, turns))
}

/// Reads the conversation that the two answers continue, in `messages`. If it ends with the chosen answer, that is removed.
/// `None` if there is no conversation, if an answer is a whole conversation itself, or if the answers are texts and the
/// conversation ends with another answer.
fn conversation_before(columns: &mut Columns<'_>, answers: &mut [Text]) -> Result<Option<Vec<Value>>, BadRow> {
    if !columns.has("messages") || answers.iter().any(begins_otherwise) {
        return Ok(None);
    }
    let (field, mut conversation) = conversation(columns)?;
    columns.note("messages");
    let Some(last) = conversation.last().filter(|last| is_assistant(last)) else { return Ok(Some(conversation)) };
    let (is_chosen, turns) = match &answers[0] {
        Text::Turns(chosen) => (conversation.ends_with(chosen), chosen.len()),
        Text::Plain(chosen) => (content_of(last) == Some(chosen.as_str()), 1),
    };
    if is_chosen && turns < conversation.len() {
        conversation.truncate(conversation.len() - turns);
        return Ok(Some(conversation));
    }
    match answers[0].form() {
        Form::Plain => Ok(None),
        Form::Conversational => Err(BadRow::ConversationGoesOn { field, chosen: columns.column("chosen") }),
    }
}

/// Reads `messages` whose last turn is the chosen answer. The rejected answer has its own column.
fn last_turn_chosen(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let (field, mut conversation) = conversation(columns)?;
    let chosen = conversation.pop().filter(is_assistant).filter(|_| !conversation.is_empty());
    let chosen = chosen.ok_or_else(|| BadRow::NoLastAnswer { field: field.clone() })?;
    let (mut answers, mut names) = answers(columns, &["rejected"])?;
    answers[0].make_turn(ASSISTANT);
    answers.insert(0, Text::Turns(vec![chosen]));
    names.insert(0, field);
    let numbers = RowNumbers::take(columns)?;
    let used = [&["messages", "rejected"][..], &NUMBER_COLUMNS].concat();
    let prompt = Some(Text::Turns(conversation));
    let content = RowContent::new(Shape::Pair, prompt, (answers, names), Some(Target::Pair), used);
    Ok(RowContent { numbers, ..content })
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
    let (of_answers, completions) = columns.take_named("completions");
    let (of_rewards, rewards) = columns.take_named("rewards");
    let (completions, rewards) = (list(&of_answers, completions)?, list(&of_rewards, rewards)?);
    if completions.len() != rewards.len() {
        let counts = (completions.len(), rewards.len());
        return Err(BadRow::RewardCount { completions: of_answers, rewards: of_rewards, counts });
    }
    let number = |(i, value): (usize, Value)| {
        let number = value.as_f64().filter(|x| x.is_finite());
        number.ok_or_else(|| wrong_type(format!("{of_rewards}[{i}]"), &value, "a finite number"))
    };
    let names: Vec<String> = (0..completions.len()).map(|i| format!("{of_answers}[{i}]")).collect();
    let answers = texts(&names, completions)?;
    let rewards: Result<Vec<f64>, BadRow> = rewards.into_iter().enumerate().map(number).collect();
    used.extend(["completions", "rewards"]);
    if let Some(other) = answers.iter().position(|answer| answer.form() != answers[0].form()) {
        return Err(BadRow::mixed_forms((&names[0], &answers[0]), (&names[other], &answers[other])));
    }
    let target = Some(Target::Rewards(rewards?));
    Ok(RowContent::new(Shape::Scored, Some(prompt), (answers, names), target, used))
}

/// Reads `{prompt, completion}`, with a label or without.
fn completion(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    prompt_name(columns)?;
    let is_labelled = columns.has("label");
    let shape = if is_labelled { Shape::Labelled } else { Shape::Completion };
    require(columns, shape)?;
    let (prompt, mut used) = prompt(columns)?;
    let answers = answers(columns, &["completion"])?;
    used.extend(["completion", "label"]);
    let target = if is_labelled { Target::Label(label(columns)?) } else { Target::Sequence };
    Ok(RowContent::new(shape, Some(prompt), answers, Some(target), used))
}

/// Reads `messages` with a label for the assistant's last turns.
fn labelled_messages(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let (field, mut conversation) = conversation(columns)?;
    let prompt = before_last_said(&conversation).len();
    if prompt == conversation.len() || !conversation.last().is_some_and(is_assistant) {
        return Err(BadRow::NoLastAnswer { field });
    }
    let answers = (vec![Text::Turns(conversation.split_off(prompt))], vec![field]);
    let target = Some(Target::Label(label(columns)?));
    let prompt = Some(Text::Turns(conversation));
    Ok(RowContent::new(Shape::Labelled, prompt, answers, target, vec!["messages", "label"]))
}

fn messages(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let (field, messages) = conversation(columns)?;
    let (prompt, answers) = (Some(Text::Turns(Vec::new())), (vec![Text::Turns(messages)], vec![field]));
    Ok(RowContent::new(Shape::Messages, prompt, answers, Some(Target::Sequence), vec!["messages"]))
}

fn whole_text(columns: &mut Columns<'_>) -> Result<RowContent, BadRow> {
    let (field, value) = columns.take_named("text");
    let Value::String(text) = value else { return Err(wrong_type(field, &value, "a string")) };
    let (prompt, answers) = (Some(Text::Plain(String::new())), (vec![Text::Plain(text)], vec![field]));
    Ok(RowContent::new(Shape::Text, prompt, answers, Some(Target::Sequence), vec!["text"]))
}

/// Checks that the row has all columns of a shape.
fn require(columns: &Columns<'_>, shape: Shape) -> Result<(), BadRow> {
    match shape.names().find(|name| !columns.has(name)) {
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
        (Some(first), Some(second)) => return Err(BadRow::TwoPrompts { first, second }),
        (Some(name), None) => columns.adopt("prompt", name),
        (None, _) => {}
    }
    Ok(())
}

/// Reads the prompt. After an instruction, `input` is added on a new line. Also returns our names of the columns that were read.
fn prompt(columns: &mut Columns<'_>) -> Result<(Text, Vec<&'static str>), BadRow> {
    let (field, value) = columns.take_named("prompt");
    let mut prompt = texts(std::slice::from_ref(&field), vec![value])?.remove(0);
    let mut used = vec!["prompt"];
    if columns.has("input") && (field == INSTRUCTION || columns.is_mapped("input")) {
        used.push("input");
        let (name, value) = columns.take_named("input");
        match (&mut prompt, value) {
            (_, Value::Null) => {}
            (_, Value::String(input)) if input.is_empty() => {}
            (Text::Plain(prompt), Value::String(input)) => {
                columns.note("input");
                let line_end = if prompt.is_empty() { "" } else { "\n" };
                *prompt += &[line_end, &input].concat();
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
fn answers(columns: &mut Columns<'_>, own: &[&str]) -> Result<Answers, BadRow> {
    let (names, values): (Vec<String>, _) = own.iter().map(|name| columns.take_named(name)).unzip();
    Ok((texts(&names, values)?, names))
}

/// Reads texts or conversations. Strings that hold turns become turns, unless one of the strings holds none.
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

/// Whether an answer begins with a turn of the user or the system: it is then a whole conversation.
fn begins_otherwise(answer: &Text) -> bool {
    answer.turns().first().is_some_and(|turn| matches!(role_of(turn), "user" | "system"))
}

/// Whether the common prefix of a pair of texts contains the text of a column that is named like a prompt.
fn hold_a_question(answers: &[Text], columns: &Columns<'_>) -> bool {
    let [Text::Plain(chosen), Text::Plain(rejected)] = answers else { return false };
    let shared = common_start(chosen, rejected);
    let asked = PROMPT_NAMES.into_iter().filter_map(|name| columns.spare(name)?.as_str());
    let mut asked = asked.map(str::trim).filter(|text| !text.is_empty());
    asked.any(|text| shared.contains(text))
}

/// Reads a label: true or false, 1 or 0, or a string with one of these. The case of the words does not matter.
fn label(columns: &mut Columns<'_>) -> Result<bool, BadRow> {
    let (field, value) = columns.take_named("label");
    let word = value.as_str().map(str::trim).unwrap_or_default();
    let number = value.as_f64().or_else(|| word.parse().ok());
    match value {
        Value::Bool(label) => Ok(label),
        _ if number == Some(1.0) || word.eq_ignore_ascii_case("true") => Ok(true),
        _ if number == Some(0.0) || word.eq_ignore_ascii_case("false") => Ok(false),
        Value::Number(_) | Value::String(_) => Err(BadRow::Label { field, found: value.to_string() }),
        other => Err(wrong_type(field, &other, "true or false, or 1 or 0")),
    }
}

/// Brings prompt and answers of a row to one form. If one side has turns, a text on the other side becomes a turn of the user
/// or of the assistant. `None` if the answers are whole conversations that begin with the prompt: the prompt is then not
/// needed.
///
/// # Errors
/// [`BadRow::MixedForms`] if the answers differ in form, or are whole conversations whose common turns do not contain the
/// prompt.
pub(crate) fn one_form(
    prompt: Text,
    answers: &mut [Text],
    prompt_column: &str,
    answer_columns: &[String],
) -> Result<Option<Text>, BadRow> {
    let differ = |answers: &[Text]| answers.iter().position(|answer| answer.form() != prompt.form());
    let Some(other) = differ(answers) else { return Ok(Some(prompt)) };
    let mixed = BadRow::mixed_forms((prompt_column, &prompt), (&answer_columns[other], &answers[other]));
    if answers.iter().any(|answer| answer.form() != answers[other].form()) {
        return Err(mixed);
    }
    match &prompt {
        Text::Turns(_) => {
            answers.iter_mut().for_each(|answer| answer.make_turn(ASSISTANT));
            Ok(Some(prompt))
        }
        Text::Plain(asked) if answers.iter().any(begins_otherwise) => match is_repeated(asked, answers) {
            true => Ok(None),
            false => Err(mixed),
        },
        Text::Plain(asked) => Ok(Some(Text::Turns(vec![said_by("user", asked)]))),
    }
}

/// Whether all conversations begin with the same turns, and one of these turns says this text, as in UltraFeedback. Those turns
/// are then the prompt, and the text is not needed. TRL 1.16 does the same in `maybe_extract_prompt`.
fn is_repeated(asked: &str, answers: &[Text]) -> bool {
    common_turns(answers).iter().any(|turn| content_of(turn).is_some_and(|content| content.trim() == asked.trim()))
}

/// Returns the turns with which all conversations begin. For a single conversation, these are the turns before the assistant's
/// last turns.
fn common_turns(answers: &[Text]) -> &[Value] {
    match answers {
        [Text::Turns(one)] => match before_last_said(one) {
            all if all.len() == one.len() => &[],
            before => before,
        },
        [Text::Turns(first), rest @ ..] => {
            let common = |other: &Text| first.iter().zip(other.turns()).take_while(|(a, b)| a == b).count();
            &first[..rest.iter().map(common).min().unwrap_or(0)]
        }
        _ => &[],
    }
}

/// Removes the turns with which all conversations begin, and returns them as the prompt of a row that has no other prompt.
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

/// Checks that each answer that is a list of turns has a turn of the assistant.
///
/// # Errors
/// [`BadRow::NotTheAssistant`] with the first roles of the answer.
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

/// Reads the column `system`: a text, parts of one, or one system turn, alone or in a list. A number or a boolean is ignored, or
/// refused if the user names the column.
///
/// # Errors
/// [`BadRow`] if the column holds anything else.
pub(crate) fn system(columns: &mut Columns<'_>, used: &mut Vec<&'static str>) -> Result<Option<String>, BadRow> {
    let (field, value) = columns.take_named("system");
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
