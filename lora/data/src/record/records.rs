//! A row of data as the file has it, before the chat template and the tokenizer.

use serde_json::Value;

use super::bad_row::BadRow;
use super::columns::{Columns, wrong_type};
use super::reading::{ImplicitPrompt, MAX_PAIRS, Pairs, Reading, Texts};
use super::repeated_prompt::{Repetition, cut_repeated_text, cut_repeated_turns, repetition};
use super::row_layout::{self, RowContent};
use super::shape::{RowLayout, Shape};
use super::template_inputs::{TemplateInputs, take_inputs};
use super::text::{Form, Text, common_start, is_blank};
use super::turn::{ASSISTANT, before_last_said, is_assistant};
use crate::row::{RowNumbers, Target};
use crate::source::column_map::Seen;
use crate::source::limits::MAX_ROW_BYTES;

/// One row of a data file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// 0-based number of the record over all files in their order; blank lines are not records.
    pub row: usize,
    /// The row's `id`, echoed in outputs. `None` if the `id` is missing or null.
    pub id: Option<Value>,
    /// The columns that the row had.
    pub shape: Shape,
    /// What the answers reply to. Empty (no turn, no character) for a whole conversation and for a text.
    pub prompt: Text,
    /// Two answers for pairs (chosen, rejected), one for labelled rows and sequences (the whole of `messages` or `text`), one
    /// or more for scored rows, none for a prompt alone.
    pub answers: Vec<Text>,
    /// The file's name of the prompt's column. `None` if there is none.
    pub prompt_column: Option<String>,
    /// The file's name of each answer's column; for scored rows `completions[0]` and so on.
    pub answer_columns: Vec<String>,
    /// What the data says about the answers; `None` for a prompt alone.
    pub target: Option<Target>,
    /// What the chat template gets beside the turns.
    pub inputs: TemplateInputs,
    /// Numbers beside a pair.
    pub numbers: RowNumbers,
}

/// A record, and what else was found in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The record.
    pub record: Record,
    /// The file's names of the columns that were not read.
    pub ignored_columns: Vec<String>,
    /// Whether every answer began with a copy of the prompt or of its last turns, which was cut.
    pub is_prompt_cut: bool,
    /// How an answer still repeats the prompt. `None` if no answer does.
    pub repetition: Option<Repetition>,
    /// Whether both texts of a pair contain the question of another column.
    pub prompt_in_answers: bool,
    /// Whether the prompt of the row is empty. A system text does not count.
    pub is_prompt_blank: bool,
    /// Columns that are read without a map, and that a user may not expect to be read: our names, each with the file's.
    pub by_name: Vec<(&'static str, String)>,
}

impl Record {
    /// Parses the bytes of one line as record number `row`.
    ///
    /// # Errors
    /// [`BadRow`], naming the column as the file does.
    pub fn parse_with(row: usize, line: &[u8], reading: &Reading) -> Result<Parsed, BadRow> {
        Record::parse_seen(row, line, reading, &mut None)
    }

    /// Parses a line as [`Record::parse_with`] does. Also sets `seen` to the entries of the column map for which the row has a
    /// column. `seen` is set as soon as the columns are parsed, even if the row turns out to be bad.
    pub(crate) fn parse_seen(
        row: usize,
        line: &[u8],
        reading: &Reading,
        seen: &mut Option<Seen>,
    ) -> Result<Parsed, BadRow> {
        let line = std::str::from_utf8(line).map_err(|e| BadRow::Utf8 { at: e.valid_up_to() + 1 })?;
        let map = &reading.columns;
        let mut columns = Columns::parse(line, map)?;
        *seen = Some(columns.seen());
        let id = columns.take("id").filter(|id| !id.is_null());
        if let Some(id @ (Value::Array(_) | Value::Object(_))) = &id {
            return Err(wrong_type(columns.column("id"), id, "a string, a number or a boolean"));
        }
        let content = row_layout::read(&mut columns, &reading.decided)?;
        let RowContent { mut shape, mut prompt, mut answers, target, answer_columns, numbers, mut used, .. } = content;
        let system = row_layout::system(&mut columns, &mut used)?.or_else(|| reading.system.clone());
        if let Some(given) = prompt {
            prompt = row_layout::one_form(given, &mut answers, &columns.column("prompt"), &answer_columns)?;
            if prompt.is_none() {
                used.retain(|name| *name != "prompt");
            }
        }
        let is_text = |text: &Text| text.form() == Form::Plain;
        let has_no_prompt = prompt.is_none() || shape == Shape::Text;
        if reading.texts == Texts::AsTurns && has_no_prompt && answers.iter().all(is_text) {
            return Err(BadRow::ChatWithoutPrompt { shape: shape.columns() });
        }
        let mut prompt = match prompt {
            Some(prompt) => prompt,
            None if shape.is_pair() => {
                shape = Shape::PairImplicitPrompt;
                split_common_prefix(&mut answers, &answer_columns, reading)?
            }
            None => row_layout::split_common_turns(&mut answers, &answer_columns)?,
        };
        let is_prompt_cut = cut_repeated_turns(&mut prompt, &mut answers)
            || reading.decided.repeated_prompts == Some(true)
                && shape != Shape::PairImplicitPrompt
                && cut_repeated_text(&mut prompt, &mut answers);
        // look for repetitions before a system text is put before the prompt
        let repetition = repetition(&prompt, &answers);
        let is_prompt_blank = is_blank(&prompt);
        if target == Some(Target::Pair) && answers[0] == answers[1] {
            return Err(BadRow::same_answers(&answer_columns));
        }
        if reading.texts == Texts::AsTurns {
            prompt.make_turn("user");
            answers.iter_mut().for_each(|answer| answer.make_turn(ASSISTANT));
        }
        if shape != Shape::Messages {
            row_layout::check_speakers(&answers, &answer_columns)?;
        }
        let mut is_system_put = false;
        if let Some(system) = system {
            let is_whole = matches!(shape, Shape::Messages | Shape::Text);
            let first = if is_whole { &mut answers[0] } else { &mut prompt };
            let before = first.extent();
            *first = std::mem::replace(first, Text::Plain(String::new())).with_system(&system);
            is_system_put = first.extent() > before;
        }

        used.push("id");
        let mut inputs = TemplateInputs::default();
        if prompt.form() == Form::Conversational {
            inputs = take_inputs(&mut columns)?;
            used.extend(["tools", "chat_template_kwargs"]);
        }
        let prompt_column =
            used.iter().find(|own| matches!(**own, "prompt" | "messages")).map(|own| columns.column(own));
        let ignored_columns = columns.names_except(&used);
        let is_read = |own: &'static str| used.contains(&own) && (own != "system" || is_system_put);
        let by_name = columns.by_name().into_iter().filter(|(own, _)| is_read(own)).collect();
        let record = Record { row, id, shape, prompt, answers, prompt_column, answer_columns, target, inputs, numbers };
        if shape == Shape::Scored && reading.pairs == Some(Pairs::All) {
            record.check_all_pairs()?;
        }
        let prompt_in_answers = content.prompt_in_answers;
        Ok(Parsed { record, ignored_columns, is_prompt_cut, repetition, prompt_in_answers, is_prompt_blank, by_name })
    }

    /// Returns the shape and the form.
    pub fn layout(&self) -> RowLayout {
        RowLayout { shape: self.shape, form: self.prompt.form() }
    }

    /// Returns a number for the prompt. Equal prompts have equal numbers. Two different prompts have the same number with
    /// probability 2^-32. The prompt of a whole conversation is the turns before the assistant's last ones. For a row without a
    /// prompt, such as a text, its first answer takes the place of the prompt.
    pub fn prompt_group(&self) -> u32 {
        let hash_turns =
            |turns: &[Value]| blake3::hash(serde_json::to_string(turns).expect("JSON values print").as_bytes());
        let hash = match (&self.prompt, self.answers.first()) {
            (Text::Plain(text), Some(Text::Plain(answer))) if text.is_empty() => blake3::hash(answer.as_bytes()),
            (Text::Plain(text), _) => blake3::hash(text.as_bytes()),
            (Text::Turns(prompt), Some(Text::Turns(answer))) if prompt.is_empty() => {
                hash_turns(before_last_said(answer))
            }
            (Text::Turns(prompt), _) => hash_turns(prompt),
        };
        let [a, b, c, d, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Returns a pair as two labelled rows, the chosen answer first, and any other record unchanged.
    pub fn unpaired(self) -> Vec<Record> {
        if self.target != Some(Target::Pair) {
            return vec![self];
        }
        let part = |at: usize, label| self.with_answers(&[at], Target::Label(label));
        vec![part(0, true), part(1, false)]
    }

    /// Returns the pair of the answers at these places.
    pub(crate) fn pair_of(&self, places: [usize; 2]) -> Record {
        self.with_answers(&places, Target::Pair)
    }

    /// Refuses a record if `--pairs all` would make more pairs of it, or pairs of more bytes, than are allowed for one row.
    fn check_all_pairs(&self) -> Result<(), BadRow> {
        let answers = self.answers.len() as u64;
        let others = answers.saturating_sub(1);
        let pairs = answers * others / 2;
        // every pair has the prompt; each answer is in one pair with each other answer
        let of_prompt = pairs.saturating_mul(self.prompt.bytes());
        let of_answers: u64 = self.answers.iter().map(Text::bytes).sum();
        let bytes = of_prompt.saturating_add(of_answers.saturating_mul(others));
        match pairs > MAX_PAIRS || bytes > MAX_ROW_BYTES {
            true => Err(BadRow::ManyPairs { answers, pairs, bytes }),
            false => Ok(()),
        }
    }

    /// Returns a record with the same prompt and the answers at these places.
    fn with_answers(&self, places: &[usize], target: Target) -> Record {
        Record {
            row: self.row,
            id: self.id.clone(),
            shape: self.shape,
            prompt: self.prompt.clone(),
            answers: places.iter().map(|&place| self.answers[place].clone()).collect(),
            prompt_column: self.prompt_column.clone(),
            answer_columns: places.iter().map(|&place| self.answer_columns[place].clone()).collect(),
            target: Some(target),
            inputs: self.inputs.clone(),
            numbers: self.numbers,
        }
    }

    /// Returns a pair as the sequence of its prompt and its chosen answer, and any other record unchanged.
    pub fn as_sequence(mut self) -> Record {
        if self.target == Some(Target::Pair) {
            self.answers.truncate(1);
            self.answer_columns.truncate(1);
            self.target = Some(Target::Sequence);
        }
        self
    }

    /// Returns what a model is given to continue: the prompt, or the turns of a whole conversation up to the last one that is not
    /// the assistant's.
    ///
    /// # Errors
    /// [`BadRow::NothingToContinue`] for a text, and for a conversation of the assistant alone.
    pub fn to_continue(&self) -> Result<Text, BadRow> {
        if !matches!(self.shape, Shape::Messages | Shape::Text) {
            return Ok(self.prompt.clone());
        }
        let turns = self.answers.first().map_or(&[][..], Text::turns);
        match turns.iter().rposition(|turn| !is_assistant(turn)) {
            Some(last) => Ok(Text::Turns(turns[..=last].to_vec())),
            None => Err(BadRow::NothingToContinue { shape: self.shape.columns() }),
        }
    }
}

impl BadRow {
    /// Makes the error for a pair with equal answers, with the file's names of their columns.
    pub(crate) fn same_answers(columns: &[String]) -> BadRow {
        BadRow::SameAnswers { chosen: columns[0].clone(), rejected: columns[1].clone() }
    }

    /// Makes the error for two columns of one row that differ in form. Each argument is the name of a column and its text.
    pub(crate) fn mixed_forms((other, first): (&str, &Text), (field, differs): (&str, &Text)) -> BadRow {
        let (prompt, found) = (first.form().describe(), differs.form().describe());
        BadRow::MixedForms { other: other.to_owned(), prompt, field: field.to_owned(), found }
    }
}

/// Removes what the two answers of a pair have in common at the start, and returns it as the prompt.
///
/// [`ImplicitPrompt`] says where the prompt of texts ends. The prompt of turns is the turns with which both answers begin. If one
/// answer is a prefix of the other, all characters or turns of the shorter one count as common, even the last. (TRL's loop ends
/// one step earlier in this case, and leaves the last shared one in the answers.) So an answer may become an empty text. An
/// answer that would become an empty list of turns is an error.
fn split_common_prefix(answers: &mut [Text], columns: &[String], reading: &Reading) -> Result<Text, BadRow> {
    if answers[0] == answers[1] {
        return Err(BadRow::same_answers(columns));
    }
    let name = |answer: usize| columns[answer].clone();
    match answers {
        [Text::Plain(chosen), Text::Plain(rejected)] => {
            let shared = common_start(chosen, rejected);
            let marker = reading.decided.turn_marker.as_ref();
            let end = match reading.implicit_prompt {
                ImplicitPrompt::Longest => Some(shared.strip_suffix(' ').unwrap_or(shared).len()),
                ImplicitPrompt::TurnMarker => marker.and_then(|marker| marker.end_in(shared)),
            };
            let end = end.ok_or_else(|| BadRow::NoTurnMarker {
                chosen: name(0),
                rejected: name(1),
                marker: marker.map(ToString::to_string),
            })?;
            rejected.drain(..end);
            let rest = chosen.split_off(end);
            Ok(Text::Plain(std::mem::replace(chosen, rest)))
        }
        [Text::Turns(_), Text::Turns(_)] => match row_layout::split_common_turns(answers, columns)? {
            Text::Turns(common) if common.is_empty() => {
                Err(BadRow::NoCommonTurn { chosen: name(0), rejected: name(1) })
            }
            prompt => Ok(prompt),
        },
        _ => Err(BadRow::mixed_forms((&columns[0], &answers[0]), (&columns[1], &answers[1]))),
    }
}
