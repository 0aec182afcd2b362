//! Encodes a record as token ids: one prompt, and for each answer the tokens after the prompt.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sft_part::SftPart;
use super::template::{ChatTemplate, GenerationPrompt, RenderError};
use super::template_error::TemplateError;
use super::template_sources::TemplateSources;
use super::tokenizer::{Tokenizer, TokenizerError};
use crate::record::bad_row::BadRow;
use crate::record::decided::Decided;
use crate::record::reading::Reading;
use crate::record::records::{Parsed, Record};
use crate::record::template_inputs::TemplateInputs;
use crate::record::text::{Form, Text};
use crate::row::{Answer, EncodedRow, Target};

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// It will be used.
    Kept(EncodedRow),
    /// It will not be used, for this reason.
    Dropped {
        /// 0-based number of the record over all files.
        row: usize,
        /// The row's `id`.
        id: Option<Value>,
        /// The reason.
        reason: DropReason,
    },
}

impl Encoded {
    /// 0-based number of the record over all files.
    pub fn row(&self) -> usize {
        match self {
            Encoded::Kept(row) => row.row,
            Encoded::Dropped { row, .. } => *row,
        }
    }
}

/// Why a record is not used. `score` prints the message for the row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DropReason {
    /// The prompt alone reaches `max_length`: no answer token would be left.
    #[error("the prompt has {prompt_tokens} tokens, max-length {max_length} leaves no room for an answer")]
    NoRoom {
        /// Tokens of the shared prompt.
        prompt_tokens: usize,
        /// The limit on prompt + one answer.
        max_length: usize,
    },
    /// An answer would be cut, but a reward model scores whole answers.
    #[error("prompt and answer have {tokens} tokens, max-length {max_length} would cut what is scored by its end")]
    AnswerTooLong {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// The limit on prompt + one answer.
        max_length: usize,
    },
    /// There is no prompt token from which the first answer token could be predicted.
    #[error(
        "no token of the prompt stands before the answers (it is empty, or its end and an answer's beginning are one token): nothing \
         predicts an answer's first token"
    )]
    NoPrompt,
    /// All scored answers have the same score.
    #[error("no two answers differ in their score, so --pairs makes no pair of them")]
    NoPair,
    /// A sequence of one token.
    #[error("the row is one token, and nothing predicts it: there is nothing to score")]
    NothingScored,
    /// The row is bad, and the user asked to skip bad rows.
    #[error("{0}")]
    Bad(BadRow),
}

/// What was noticed while a record was encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// The last tokens of the prompt that were left out, if prompt + answer does not start with all of the prompt's tokens.
    pub boundary: Option<Boundary>,
    /// Answers that say nothing: blank texts, or turns of the assistant with blank content and nothing else.
    pub empty_answers: usize,
    /// Answers whose last tokens hold a stop token, before `max_length` cuts.
    pub stopping_answers: usize,
    /// Answers whose last tokens include neither a stop token nor another special token.
    pub unended_answers: usize,
    /// Answers that `max_length` cut.
    pub cut_answers: usize,
    /// Whether the two answers of a pair have the same tokens after the cut.
    pub same_after_cut: bool,
}

impl Notes {
    /// Compares `full`, the tokens of prompt + answer, with `alone`, the tokens of the prompt alone. Notes if `full` starts with
    /// only the first `shared` tokens of `alone`.
    pub(crate) fn note_boundary(&mut self, alone: &[u32], shared: usize, full: &[u32]) {
        if shared < alone.len() {
            let prompt_ids = alone[shared..].to_vec();
            let full_ids = full[shared..].iter().take(prompt_ids.len()).copied().collect();
            self.boundary = Some(Boundary { prompt_ids, full_ids });
        }
    }
}

/// A prompt whose last tokens change when an answer follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Boundary {
    /// Tokens of the prompt alone that are missing at the start of prompt + answer.
    pub prompt_ids: Vec<u32>,
    /// The tokens at that place in prompt + answer, at most as many as in `prompt_ids`. If there are several answers, these are
    /// the tokens of the one that shares the fewest tokens with the prompt.
    pub full_ids: Vec<u32>,
}

/// If a stop token is among this many last tokens of an answer, it counts as the end: templates write a newline after it.
const STOP_WITHIN: usize = 3;

/// What happens to an answer that `max_length` would cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongAnswers {
    /// Its end is cut.
    Cut,
    /// Its row is dropped. This is for a reward model, which gives its score at the last token.
    Dropped,
}

/// Why a model's encoder cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// The model's tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Turns rows into token ids, for one model, one `max_length`, and one reading of the rows.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// The model's own template, even if another one is used.
    own_template: Option<TemplateSources>,
    /// Why the model's own template cannot be used.
    template_fault: Option<TemplateError>,
    model_dir: PathBuf,
    max_length: usize,
    long_answers: LongAnswers,
    stop_ids: Vec<u32>,
    reading: Reading,
    sft_on: Option<SftPart>,
}

impl Encoder {
    /// Reads the tokenizer and the chat template of a model directory. `chat_template` overrides the model's own. `max_length`
    /// counts prompt + one answer. `embedding_rows` is the number of token ids for which the model has an embedding.
    ///
    /// # Errors
    /// [`EncoderError::Tokenizer`]; [`EncoderError::Template`] if the given `chat_template` cannot be used. A missing or broken
    /// template of the model is an error only once a conversation needs it.
    pub fn from_model(
        model_dir: &Path,
        chat_template: Option<&Path>,
        max_length: usize,
        embedding_rows: usize,
    ) -> Result<Encoder, EncoderError> {
        let mut tokenizer = Tokenizer::from_dir(model_dir)?;
        tokenizer.check_vocabulary(embedding_rows)?;
        let (template, template_fault) = match ChatTemplate::find(chat_template, model_dir, &tokenizer) {
            Ok(template) => (template, None),
            Err(fault) if chat_template.is_none() => (None, Some(fault)),
            Err(fault) => return Err(fault.into()),
        };
        let own_template = TemplateSources::of_folder_with(model_dir, tokenizer.config()).ok().flatten();
        let stop_ids = tokenizer.stop_ids(model_dir)?;
        let (model_dir, reading, long_answers) = (model_dir.to_owned(), Reading::default(), LongAnswers::Cut);
        Ok(Encoder {
            tokenizer,
            template,
            own_template,
            template_fault,
            model_dir,
            max_length,
            long_answers,
            stop_ids,
            reading,
            sft_on: None,
        })
    }

    /// Whether the model knows a mark of turns: as a token, or as text that its own template writes.
    pub(crate) fn has_mark(&self, mark: &str) -> bool {
        let writes = |sources: &TemplateSources| {
            sources.default.contains(mark) || sources.tool_use.as_ref().is_some_and(|source| source.contains(mark))
        };
        self.tokenizer.id(mark).is_some() || self.own_template.as_ref().is_some_and(writes)
    }

    /// Returns the encoder with another rule for long answers. TRL 1.16's `RewardTrainer` drops their rows.
    pub fn with_long_answers(self, long_answers: LongAnswers) -> Encoder {
        Encoder { long_answers, ..self }
    }

    /// Returns what happens to long answers.
    pub fn long_answers(&self) -> LongAnswers {
        self.long_answers
    }

    /// Returns the encoder with another way to read rows.
    pub fn with_reading(self, reading: Reading) -> Encoder {
        Encoder { reading, ..self }
    }

    /// Returns the encoder that scores this part of sequences. If `None`, the part is [`SftPart::default_of`] the rows' shape.
    pub fn with_sft_on(self, sft_on: Option<SftPart>) -> Encoder {
        Encoder { sft_on, ..self }
    }

    /// How rows are read.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Returns the encoder with decisions on how to read rows. They were made from other rows.
    pub fn with_decided(mut self, decided: Decided) -> Encoder {
        self.decide(decided);
        self
    }

    /// Sets the decisions on how to read rows. They were made from the data.
    pub(crate) fn decide(&mut self, decided: Decided) {
        self.reading.decided = decided;
    }

    /// The part of sequences that was asked for.
    pub fn sft_on(&self) -> Option<SftPart> {
        self.sft_on
    }

    /// Parses the bytes of one line as record number `row`.
    ///
    /// # Errors
    /// [`BadRow`].
    pub fn parse(&self, row: usize, line: &[u8]) -> Result<Parsed, BadRow> {
        Record::parse_with(row, line, &self.reading)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the chat template, if the model has one or the user gave one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Returns why the model's own chat template cannot be used. `None` if it can be used, or if there is none.
    pub fn template_fault(&self) -> Option<&TemplateError> {
        self.template_fault.as_ref()
    }

    /// The model directory.
    pub fn model_dir(&self) -> &Path {
        &self.model_dir
    }

    /// The limit on the tokens of prompt + one answer.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Ids that end an answer: the tokenizer's EOS and every `eos_token_id` of `generation_config.json`, ascending.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Whether records of this form can be encoded at all: conversations need a template, strings an EOS token.
    pub fn supports(&self, form: Form) -> bool {
        match form {
            Form::Plain => self.tokenizer.eos().is_some(),
            Form::Conversational => self.template.is_some(),
        }
    }

    /// Returns the token ids of a prompt alone, as for generation.
    ///
    /// # Errors
    /// [`BadRow`] if the template or the tokenizer refuses the prompt.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>, BadRow> {
        self.prompt_with(prompt, &TemplateInputs::default())
    }

    pub(crate) fn prompt_ids(&self, record: &Record) -> Result<Vec<u32>, BadRow> {
        self.prompt_with(&record.prompt, &record.inputs)
    }

    pub(crate) fn prompt_with(&self, prompt: &Text, inputs: &TemplateInputs) -> Result<Vec<u32>, BadRow> {
        match prompt {
            Text::Plain(text) => self.plain(text),
            Text::Turns(turns) => self.conversation(turns, &[], GenerationPrompt::Add, inputs),
        }
    }

    /// Encodes a record.
    ///
    /// Strings: the prompt alone is tokenised, and prompt + answer + EOS as a whole, each with the special tokens that the
    /// tokenizer adds. EOS is added as text, unless the answer ends with it already. Conversations: the template renders the
    /// prompt with the generation prompt, and prompt + answer without it; nothing is added. The prompt is the longest common
    /// token prefix of the prompt's tokens and of all full sequences (TRL 1.16 `_prepare_dataset`). `max_length` cuts the end
    /// of each answer. [`SftPart`] decides what is scored of a sequence, and what counts as its prompt.
    ///
    /// # Errors
    /// [`BadRow`] if the template or the tokenizer refuses the row, if it has no answer, if an answer has no token, or if a
    /// pair's answers have the same tokens.
    pub fn encode(&self, record: &Record) -> Result<(Encoded, Notes), BadRow> {
        let target = match &record.target {
            None => return Err(BadRow::NoAnswer),
            Some(Target::Sequence) => return self.encode_sequence(record),
            Some(target) => target.clone(),
        };
        let mut notes = Notes::default();
        let alone = self.prompt_ids(record)?;
        let mut full = Vec::with_capacity(record.answers.len());
        for answer in &record.answers {
            notes.empty_answers += usize::from(answer.says_nothing());
            full.push(self.whole(record, answer)?);
        }

        let shared = full.iter().map(|ids| common_prefix(&alone, ids)).min().unwrap_or(alone.len());
        if let Some(differs) = full.iter().find(|ids| common_prefix(&alone, ids) == shared) {
            notes.note_boundary(&alone, shared, differs);
        }
        if let Some(empty) = full.iter().position(|ids| ids.len() == shared) {
            return Err(BadRow::NoAnswerTokens { field: record.answer_columns[empty].clone() });
        }
        if let (Target::Pair, [chosen, rejected]) = (&target, &full[..])
            && chosen == rejected
        {
            let columns = &record.answer_columns;
            return Err(match record.answers[0] == record.answers[1] {
                true => BadRow::same_answers(columns),
                false => BadRow::SameTokens { chosen: columns[0].clone(), rejected: columns[1].clone() },
            });
        }
        let max_length = self.max_length;
        let longest = full.iter().map(Vec::len).max().unwrap_or(0);
        let left_out = match self.long_answers {
            _ if shared == 0 => Some(DropReason::NoPrompt),
            _ if shared >= max_length => Some(DropReason::NoRoom { prompt_tokens: shared, max_length }),
            LongAnswers::Dropped if longest > max_length => {
                Some(DropReason::AnswerTooLong { tokens: longest, max_length })
            }
            LongAnswers::Dropped | LongAnswers::Cut => None,
        };
        if let Some(reason) = left_out {
            return Ok((Encoded::Dropped { row: record.row, id: record.id.clone(), reason }, notes));
        }
        let room = max_length - shared;
        let answers: Vec<Answer> = full
            .into_iter()
            .map(|mut ids| {
                ids.drain(..shared);
                Answer { kept: ids.len().min(room), ids, unscored: Vec::new() }
            })
            .collect();
        for answer in &answers {
            self.note_end(&answer.ids, &mut notes);
            notes.cut_answers += usize::from(answer.is_cut());
        }
        notes.same_after_cut = target == Target::Pair && answers[0].kept_ids() == answers[1].kept_ids();
        let mut prompt = alone;
        prompt.truncate(shared);
        let (row, id, numbers) = (record.row, record.id.clone(), record.numbers);
        Ok((Encoded::Kept(EncodedRow { row, id, prompt, answers, target, numbers }), notes))
    }

    /// Notes whether the end of an answer contains a stop token or another special token.
    pub(crate) fn note_end(&self, ids: &[u32], notes: &mut Notes) {
        let mut end = ids[ids.len().saturating_sub(STOP_WITHIN)..].iter();
        match end.clone().any(|id| self.stop_ids.contains(id)) {
            true => notes.stopping_answers += 1,
            false => notes.unended_answers += usize::from(!end.any(|id| self.tokenizer.is_special(*id))),
        }
    }

    pub(crate) fn plain(&self, text: &str) -> Result<Vec<u32>, BadRow> {
        self.tokenizer.encode_plain(text).map_err(BadRow::of_tokenizer)
    }

    pub(crate) fn conversation(
        &self,
        prompt: &[Value],
        answer: &[Value],
        generation_prompt: GenerationPrompt,
        inputs: &TemplateInputs,
    ) -> Result<Vec<u32>, BadRow> {
        let Some(template) = &self.template else {
            return Err(BadRow::Template { message: "the model has none".to_owned() });
        };
        let text = template.render_with(prompt.iter().chain(answer), generation_prompt, inputs);
        self.tokenizer.encode_rendered(&text.map_err(BadRow::of_template)?).map_err(BadRow::of_tokenizer)
    }
}

impl BadRow {
    pub(crate) fn of_template(error: RenderError) -> BadRow {
        BadRow::Template { message: error.to_string() }
    }

    pub(crate) fn of_tokenizer(error: TokenizerError) -> BadRow {
        BadRow::Tokenizer { message: error.to_string() }
    }
}

pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
