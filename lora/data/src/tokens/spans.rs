//! Finds where the assistant speaks in a conversation: the tokens that `--sft-on assistant` scores.
//!
//! If the template has `{% generation %}` marks, they decide. Otherwise, each turn of the assistant is found by rendering the
//! conversation twice: the turns before it with the generation prompt, and the turns up to and including it. The text that the
//! second rendering adds is the turn's, and includes the end-of-turn token. A token that crosses a border counts as the
//! assistant's. If the rendered turn does not begin with the whole generation prompt (which may open a reasoning block that the
//! turn lacks), the turn starts at the first token that differs.
//!
//! A template may omit the reasoning of a turn once more turns follow, and may end a conversation with a stop token. If it
//! changes earlier turns in any other way, the conversation is refused.

use std::ops::Range;

use serde_json::Value;

use super::encode::{Encoder, common_prefix};
use super::template::{ChatTemplate, GenerationPrompt, MarkedText};
use crate::record::bad_row::BadRow;
use crate::record::template_inputs::TemplateInputs;
use crate::record::turn::is_assistant;

/// Cost of rendering a turn, not counting its text. The unit is the time that one byte of text takes.
const TURN_BYTES: u64 = 256;
/// Maximum number of bytes to render for one conversation. So many bytes take seconds. The conversation is rendered once up to
/// each turn of the assistant, so the work grows with the square of its length.
const MOST_RENDERED: u64 = 1 << 28;
/// Maximum number of bytes in the stop tokens with which a template may end a conversation.
const CLOSING_BYTES: usize = 256;

/// How the assistant's tokens are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SpanSource {
    /// By the `{% generation %}` marks of the chat template.
    GenerationMarks,
    /// By the text that the chat template adds for each turn.
    TurnByTurn,
}

impl SpanSource {
    pub(crate) fn of(template: &ChatTemplate) -> SpanSource {
        if template.marks_generation() { SpanSource::GenerationMarks } else { SpanSource::TurnByTurn }
    }
}

/// A tokenised conversation, and which of its tokens are the assistant's.
pub(crate) struct Conversation {
    pub ids: Vec<u32>,
    /// Ranges of the assistant's tokens: ascending, not empty, not touching.
    pub assistant: Vec<Range<usize>>,
}

impl Encoder {
    /// Returns the tokens of a whole conversation, and which of them are the assistant's.
    pub(crate) fn conversation_by_speaker(
        &self,
        turns: &[&Value],
        inputs: &TemplateInputs,
    ) -> Result<Conversation, BadRow> {
        let template = self.template().expect("conversations are encoded where there is a template");
        let marked = template.render_with_spans(turns.iter().copied(), inputs).map_err(BadRow::of_template)?;
        let (text, spans) = match marked {
            Some(MarkedText { text, spans }) => (text, spans.into_iter().map(SpanBorders::bytes).collect()),
            None => {
                let whole = Whole { encoder: self, template, turns, inputs };
                let text = whole.render(turns.len(), GenerationPrompt::Omit)?;
                let spoken: Vec<usize> = (0..turns.len()).filter(|&turn| is_assistant(turns[turn])).collect();
                let cost = spoken.len() as u64 * (text.len() as u64 + turns.len() as u64 * TURN_BYTES);
                if cost > MOST_RENDERED {
                    return Err(BadRow::TooManyTurns { turns: turns.len(), bytes: text.len() });
                }
                let (ids, places) = self.places(&text)?;
                let place_of = |&turn: &usize| whole.place_of(turn, &text, &ids, &places);
                let spans: Result<Vec<SpanBorders>, BadRow> = spoken.iter().map(place_of).collect();
                (text, spans?)
            }
        };
        let (ids, places) = self.places(&text)?;
        let mut assistant: Vec<Range<usize>> = Vec::new();
        for span in spans {
            let Range { start, end } = span.tokens(&places);
            match assistant.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ if start < end => assistant.push(start..end),
                _ => {}
            }
        }
        if assistant.is_empty() {
            return Err(BadRow::NoAssistantTurn);
        }
        Ok(Conversation { ids, assistant })
    }

    fn places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), BadRow> {
        self.tokenizer().encode_rendered_with_places(text).map_err(BadRow::of_tokenizer)
    }
}

/// A border of a span: a byte of the text, or a token.
#[derive(Clone, Copy)]
enum Border {
    Byte(usize),
    Token(usize),
}

/// Where a span begins and ends.
struct SpanBorders {
    start: Border,
    end: Border,
}

impl SpanBorders {
    fn bytes(span: Range<usize>) -> SpanBorders {
        SpanBorders { start: Border::Byte(span.start), end: Border::Byte(span.end) }
    }

    /// Returns the range of tokens that contain a byte of the span. `places` holds the byte range of each token, in the order of
    /// the text.
    fn tokens(&self, places: &[Range<usize>]) -> Range<usize> {
        let start = match self.start {
            Border::Byte(byte) => places.partition_point(|place| place.end <= byte),
            Border::Token(token) => token,
        };
        let end = match self.end {
            Border::Byte(byte) => places.partition_point(|place| place.start < byte),
            Border::Token(token) => token,
        };
        start..end
    }
}

/// A whole conversation, in which the assistant's turns are found by rendering parts of it.
struct Whole<'a> {
    encoder: &'a Encoder,
    template: &'a ChatTemplate,
    turns: &'a [&'a Value],
    inputs: &'a TemplateInputs,
}

impl Whole<'_> {
    fn render(&self, turns: usize, generation_prompt: GenerationPrompt) -> Result<String, BadRow> {
        self.render_turns(self.turns[..turns].iter().copied(), generation_prompt)
    }

    fn render_turns<'m>(
        &self,
        turns: impl Iterator<Item = &'m Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, BadRow> {
        self.template.render_with(turns, generation_prompt, self.inputs).map_err(BadRow::of_template)
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, BadRow> {
        self.encoder.tokenizer().encode_rendered(text).map_err(BadRow::of_tokenizer)
    }

    /// Finds a turn in `text`, which is the whole conversation. `ids` are the tokens of `text`, and `places` are their byte
    /// ranges.
    fn place_of(&self, turn: usize, text: &str, ids: &[u32], places: &[Range<usize>]) -> Result<SpanBorders, BadRow> {
        let before = match turn {
            // many templates read the first message and fail without it; an empty text is refused below
            0 => self.render(0, GenerationPrompt::Add).unwrap_or_default(),
            _ => self.render(turn, GenerationPrompt::Add)?,
        };
        let is_start = text.starts_with(&before);
        if turn == 0 && (before.is_empty() || !is_start) {
            return Err(BadRow::TurnChanges { turn });
        }
        let start = if is_start {
            Border::Byte(before.len())
        } else {
            // `text` and `before` may differ in the generation prompt, but not in the earlier turns (`others`)
            let others = self.render(turn, GenerationPrompt::Omit)?;
            if !text.starts_with(&others) || !before.starts_with(&others) {
                return Err(BadRow::TurnChanges { turn });
            }
            let after_others = places.partition_point(|place| place.end <= others.len());
            Border::Token(common_prefix(&self.tokens(&before)?, ids).max(after_others))
        };
        let alone = self.render(turn + 1, GenerationPrompt::Omit)?;
        if text.starts_with(&alone) {
            return Ok(SpanBorders { start, end: Border::Byte(alone.len()) });
        }
        // some templates (Phi 3) end a conversation with EOS, and then only EOS differs; tokens are compared only if at most
        // `CLOSING_BYTES` bytes of `alone` are left
        let differs = alone.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        if alone.len() - differs <= CLOSING_BYTES {
            let alone_ids = self.tokens(&alone)?;
            let shared = common_prefix(&alone_ids, ids);
            if alone_ids[shared..].iter().all(|id| self.encoder.stop_ids().contains(id)) {
                return Ok(SpanBorders { start, end: Border::Token(shared) });
            }
        }
        // some templates (Qwen 3) omit a turn's reasoning once other turns follow, so the texts differ before the turn's content
        let end = self.end_by_content(turn, text, &alone)?.ok_or(BadRow::TurnChanges { turn })?;
        Ok(SpanBorders { start, end: Border::Byte(end) })
    }

    /// Finds the byte of `text` where a turn ends, by rendering the turn with other content. The common suffix of both renderings
    /// of the whole conversation is the text after the content. The common suffix of both renderings of the conversation up to
    /// this turn is the text that closes the turn. `None` if this closing text does not follow the content in `text`.
    fn end_by_content(&self, turn: usize, text: &str, alone: &str) -> Result<Option<usize>, BadRow> {
        let Some(fields) = self.turns[turn].as_object() else { return Ok(None) };
        let content = fields.get("content").and_then(Value::as_str).unwrap_or_default();
        let mut fields = fields.clone();
        // the last letter must differ from the content's last letter, or it would count as part of the text after the content
        fields.insert("content".to_owned(), if content.trim_end().ends_with('x') { "y" } else { "x" }.into());
        let other = Value::Object(fields);
        let with_other = |turns: usize| {
            let turns = self.turns[..turns].iter().enumerate().map(|(i, t)| if i == turn { &other } else { *t });
            self.render_turns(turns, GenerationPrompt::Omit)
        };
        let after_content = text.len() - common_suffix(text, &with_other(self.turns.len())?);
        let closing = &alone[alone.len() - common_suffix(alone, &with_other(turn + 1)?)..];
        Ok(text[after_content..].starts_with(closing).then_some(after_content + closing.len()))
    }
}

/// Returns the length in bytes of the longest common suffix of two strings, in whole characters.
fn common_suffix(a: &str, b: &str) -> usize {
    let mut bytes = a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(a.len() - bytes) {
        bytes -= 1;
    }
    bytes
}
