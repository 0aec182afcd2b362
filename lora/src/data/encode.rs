//! From a record to token ids: one prompt, and for each answer the tokens after it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::records::{Form, Record, RecordTarget, Text};
use super::template::{ChatTemplate, GenerationPrompt};
use super::tokenizer::Tokenizer;
use super::{BadRow, DataError};

/// A row as the model sees it: the prompt once, and the answers that continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedRow {
    /// 0-based number of the record over all files. The two rows made from one pair have the same number.
    pub row: usize,
    /// The row's `id`, echoed in outputs.
    pub id: Option<Value>,
    /// Token ids that all answers share: at least one, and fewer than `max_length`.
    pub prompt: Vec<u32>,
    /// The answers, in the order of the data (chosen, rejected).
    pub answers: Vec<Answer>,
    /// What the data says about the answers.
    pub target: Target,
}

impl EncodedRow {
    /// Tokens of the row's tree: the prompt once, and what is kept of every answer.
    pub fn tree_tokens(&self) -> usize {
        self.prompt.len() + self.answers.iter().map(|a| a.kept).sum::<usize>()
    }
}

/// The tokens of one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// All completion ids, at least one, also those that `max_length` cuts (KTO's mismatched answers start from them).
    pub ids: Vec<u32>,
    /// How many of them, from the start, fit behind the prompt: at least one.
    pub kept: usize,
}

impl Answer {
    /// The ids that are scored.
    pub fn kept_ids(&self) -> &[u32] {
        &self.ids[..self.kept]
    }

    /// Whether `max_length` cut the end off.
    pub fn is_cut(&self) -> bool {
        self.kept < self.ids.len()
    }
}

/// What the data says about the answers of an encoded row.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Two answers: the first is preferred.
    Pair,
    /// One answer: desirable or not.
    Label(bool),
    /// One number an answer, larger is better.
    Rewards(Vec<f64>),
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// It will be used.
    Kept(EncodedRow),
    /// It will not, for this reason.
    Dropped {
        /// 0-based number of the record over all files.
        row: usize,
        /// The row's `id`.
        id: Option<Value>,
        /// Why.
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

/// Why a record is not used. Its text is what `score` prints for the row.
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
    /// An answer would be cut, and a reward model scores whole answers.
    #[error("prompt and answer have {tokens} tokens, max-length {max_length} would cut what is scored by its end")]
    AnswerTooLong {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// The limit on prompt + one answer.
        max_length: usize,
    },
    /// There is no prompt token from which the first answer token could be predicted.
    #[error("the prompt has no token: nothing predicts the first token of the answer")]
    NoPrompt,
    /// The row is bad, and the run was told to skip such rows.
    #[error("{0}")]
    Bad(BadRow),
}

/// What was noticed while a record was encoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// Where prompt + answer does not start with the prompt's tokens: the end of the prompt's tokens that was left out.
    pub boundary: Option<Boundary>,
    /// Answers that are the empty string: EOS alone.
    pub empty_answers: usize,
    /// Answers whose last tokens hold a stop token, before `max_length` cuts.
    pub stopping_answers: usize,
    /// Answers that `max_length` cut.
    pub cut_answers: usize,
    /// Whether the two answers of a pair are the same tokens once they are cut.
    pub same_after_cut: bool,
}

/// A prompt whose last tokens change when an answer follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Boundary {
    /// Tokens of the prompt alone that prompt + answer does not start with.
    pub prompt_ids: Vec<u32>,
    /// As many tokens of prompt + answer there, of the answer that differs first.
    pub full_ids: Vec<u32>,
}

/// Tokens at the end of an answer among which a stop token counts as its end: templates write a newline after it.
const STOP_WITHIN: usize = 3;

/// What becomes of an answer that `max_length` does not leave whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongAnswers {
    /// Its end is cut.
    Cut,
    /// Its row is dropped: for a reward model, whose number is that of the last token.
    Dropped,
}

/// Turns records into token ids, for one model and one `max_length`.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    model_dir: PathBuf,
    max_length: usize,
    long_answers: LongAnswers,
    stop_ids: Vec<u32>,
}

impl Encoder {
    /// Reads tokenizer and chat template of a model directory; `chat_template` overrides the model's own. `max_length` counts
    /// prompt + one answer; `embedding_rows` is the number of token ids that the model has an embedding for.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] and [`DataError::Template`]. A missing template is no error before a conversation needs it.
    pub fn from_model(
        model_dir: &Path,
        chat_template: Option<&Path>,
        max_length: usize,
        embedding_rows: usize,
    ) -> Result<Encoder, DataError> {
        let mut tokenizer = Tokenizer::from_dir(model_dir)?;
        tokenizer.check_vocabulary(embedding_rows)?;
        let template = ChatTemplate::find(chat_template, model_dir, &tokenizer)?;
        let stop_ids = tokenizer.stop_ids(model_dir)?;
        let (model_dir, long_answers) = (model_dir.to_owned(), LongAnswers::Cut);
        Ok(Encoder { tokenizer, template, model_dir, max_length, long_answers, stop_ids })
    }

    /// The same encoder with another rule for long answers. TRL 1.16's `RewardTrainer` drops them too.
    pub fn with_long_answers(self, long_answers: LongAnswers) -> Encoder {
        Encoder { long_answers, ..self }
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, where the model has one or was given one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
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

    /// Token ids of a prompt alone, as for generation.
    ///
    /// # Errors
    /// [`BadRow`] if template or tokenizer refuse it.
    pub fn encode_prompt(&self, prompt: &Text) -> Result<Vec<u32>, BadRow> {
        match prompt {
            Text::Plain(text) => self.plain(text),
            Text::Turns(turns) => self.conversation(turns, &[], GenerationPrompt::Add),
        }
    }

    /// Encodes a record with at least one answer.
    ///
    /// Strings: the prompt alone, and prompt + answer + EOS each as a whole, with the special tokens that the tokenizer adds; EOS is
    /// its text, left out where the answer ends with it already. Conversations: the template with the generation prompt for the
    /// prompt, the template for prompt + answer, nothing added. The prompt is the longest common token prefix of the prompt's
    /// and all full sequences (TRL 1.16 `_prepare_dataset`). `max_length` cuts the end of each answer.
    ///
    /// # Errors
    /// [`BadRow`]: template or tokenizer refuse the row, an answer has no token, a pair's answers are the same tokens.
    pub fn encode(&self, record: &Record) -> Result<(Encoded, Notes), BadRow> {
        let mut notes = Notes::default();
        let alone = self.encode_prompt(&record.prompt)?;
        let mut full = Vec::with_capacity(record.answers.len());
        for answer in &record.answers {
            full.push(match (&record.prompt, answer) {
                (Text::Plain(prompt), Text::Plain(answer)) => {
                    notes.empty_answers += usize::from(answer.is_empty());
                    let eos = self.tokenizer.eos().map_or("", |(text, _)| text);
                    let eos = if answer.ends_with(eos) { "" } else { eos };
                    self.plain(&[prompt, answer, eos].concat())?
                }
                (Text::Turns(prompt), Text::Turns(answer)) => {
                    self.conversation(prompt, answer, GenerationPrompt::Omit)?
                }
                (Text::Plain(_), Text::Turns(_)) | (Text::Turns(_), Text::Plain(_)) => {
                    unreachable!("Record::parse refuses rows of two forms")
                }
            });
        }

        let shared = full.iter().map(|ids| common_prefix(&alone, ids)).min().unwrap_or(alone.len());
        if shared < alone.len() {
            let differs = full.iter().find(|ids| common_prefix(&alone, ids) == shared).expect("shared is one of them");
            let prompt_ids = alone[shared..].to_vec();
            let full_ids = differs[shared..].iter().take(prompt_ids.len()).copied().collect();
            notes.boundary = Some(Boundary { prompt_ids, full_ids });
        }
        if let Some(empty) = full.iter().position(|ids| ids.len() == shared) {
            return Err(BadRow::NoAnswerTokens { field: record.shape.answer_column(empty) });
        }
        if let (RecordTarget::Pair, [chosen, rejected]) = (&record.target, &full[..])
            && chosen == rejected
        {
            return Err(BadRow::SameTokens);
        }
        let dropped = |reason| Encoded::Dropped { row: record.row, id: record.id.clone(), reason };
        if shared == 0 {
            return Ok((dropped(DropReason::NoPrompt), notes));
        }
        if shared >= self.max_length {
            let reason = DropReason::NoRoom { prompt_tokens: shared, max_length: self.max_length };
            return Ok((dropped(reason), notes));
        }
        let longest = full.iter().map(Vec::len).max().unwrap_or(0);
        if self.long_answers == LongAnswers::Dropped && longest > self.max_length {
            return Ok((dropped(DropReason::AnswerTooLong { tokens: longest, max_length: self.max_length }), notes));
        }
        let room = self.max_length - shared;
        let answers: Vec<Answer> = full
            .into_iter()
            .map(|mut ids| {
                ids.drain(..shared);
                Answer { kept: ids.len().min(room), ids }
            })
            .collect();
        for answer in &answers {
            let end = &answer.ids[answer.ids.len().saturating_sub(STOP_WITHIN)..];
            notes.stopping_answers += usize::from(end.iter().any(|id| self.stop_ids.contains(id)));
            notes.cut_answers += usize::from(answer.is_cut());
        }
        notes.same_after_cut = match &answers[..] {
            [chosen, rejected] if record.target == RecordTarget::Pair => chosen.kept_ids() == rejected.kept_ids(),
            _ => false,
        };
        let mut prompt = alone;
        prompt.truncate(shared);
        let target = match &record.target {
            RecordTarget::Pair => Target::Pair,
            RecordTarget::Label(label) => Target::Label(*label),
            RecordTarget::Rewards(rewards) => Target::Rewards(rewards.clone()),
            RecordTarget::Prompt => unreachable!("a prompt alone has no answer to encode: the caller checks the shape"),
        };
        let row = EncodedRow { row: record.row, id: record.id.clone(), prompt, answers, target };
        Ok((Encoded::Kept(row), notes))
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>, BadRow> {
        self.tokenizer.encode_plain(text).map_err(|e| BadRow::Tokenizer { message: e.to_string() })
    }

    fn conversation(
        &self,
        prompt: &[Value],
        answer: &[Value],
        generation_prompt: GenerationPrompt,
    ) -> Result<Vec<u32>, BadRow> {
        let Some(template) = &self.template else {
            return Err(BadRow::Template { message: "the model has none".to_owned() });
        };
        let text = template
            .render(prompt.iter().chain(answer), generation_prompt)
            .map_err(|e| BadRow::Template { message: e.to_string() })?;
        self.tokenizer.encode_rendered(&text).map_err(|e| BadRow::Tokenizer { message: e.to_string() })
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
