//! Encodes sequences for supervised fine-tuning: decides which tokens are scored, and splits the row into a prompt and an answer.
//!
//! The prompt is everything before the first scored token. It has at least one token, since nothing predicts the first token of a
//! text. The answer runs from the first to the last scored token. It may contain ranges that are read but not scored. Ids and
//! masks are those of TRL 1.16 `SFTTrainer._prepare_dataset`. In TRL, a row of one token or without a scored token adds no loss.
//! Here, a row of one token is dropped, and a row without a scored token is a bad row.

use std::ops::Range;

use super::encode::{DropReason, Encoded, Encoder, Notes};
use super::sft_part::SftPart;
use super::template::GenerationPrompt;
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::record::shape::Shape;
use crate::record::text::Text;
use crate::row::{Answer, EncodedRow, Target};

impl Encoder {
    /// Returns which tokens are scored in sequences of this shape.
    pub fn sft_part(&self, shape: Shape) -> SftPart {
        self.sft_on().unwrap_or(SftPart::default_of(shape))
    }

    /// Encodes a record with [`Target::Sequence`]. Such a record has one answer.
    pub(crate) fn encode_sequence(&self, record: &Record) -> Result<(Encoded, Notes), BadRow> {
        let mut notes = Notes::default();
        let answer = &record.answers[0];
        notes.empty_answers += usize::from(answer.says_nothing());
        let part = self.sft_part(record.shape);
        let (ids, scored) = match (part, &record.prompt, answer) {
            (SftPart::Assistant, Text::Turns(prompt), Text::Turns(answer)) => {
                let turns: Vec<_> = prompt.iter().chain(answer).collect();
                let conversation = self.conversation_by_speaker(&turns, &record.inputs)?;
                let mut scored = conversation.assistant;
                if !prompt.is_empty() {
                    // with a prompt, score only those of the assistant's tokens that belong to the completion
                    let shared = self.split(record, &conversation.ids, &mut notes)?;
                    scored.iter_mut().for_each(|span| span.start = span.start.max(shared));
                    scored.retain(|span| !span.is_empty());
                    if scored.is_empty() {
                        return Err(BadRow::NoAssistantTurn);
                    }
                }
                (conversation.ids, scored)
            }
            (SftPart::All, ..) => {
                let ids = self.whole(record, answer)?;
                let all = 0..ids.len();
                (ids, vec![all])
            }
            // for strings, `Dataset` has refused to score only the assistant's part
            (SftPart::Completion | SftPart::Assistant, ..) => {
                let ids = self.whole(record, answer)?;
                let completion = self.split(record, &ids, &mut notes)?..ids.len();
                (ids, vec![completion])
            }
        };
        if scored.iter().all(Range::is_empty) {
            return Err(BadRow::NoAnswerTokens { field: record.answer_columns[0].clone() });
        }
        Ok((self.laid_out(record, ids, scored, &mut notes), notes))
    }

    /// Returns how many tokens of prompt + answer belong to the prompt.
    fn split(&self, record: &Record, whole: &[u32], notes: &mut Notes) -> Result<usize, BadRow> {
        let alone = self.prompt_ids(record)?;
        let shared = super::encode::common_prefix(&alone, whole);
        notes.note_boundary(&alone, shared, whole);
        Ok(shared)
    }

    /// Splits a whole sequence. The answer runs from the first to the last scored token, with unscored gaps in between. The
    /// prompt is everything before it.
    fn laid_out(
        &self,
        record: &Record,
        mut ids: Vec<u32>,
        mut scored: Vec<Range<usize>>,
        notes: &mut Notes,
    ) -> Encoded {
        let dropped = |reason| Encoded::Dropped { row: record.row, id: record.id.clone(), reason };
        self.note_end(&ids, notes);
        // nothing predicts the first token
        scored.iter_mut().for_each(|span| span.start = span.start.max(1));
        scored.retain(|span| !span.is_empty());
        let (Some(first), Some(last)) = (scored.first(), scored.last()) else {
            return dropped(DropReason::NothingScored);
        };
        let (first, last) = (first.start, last.end);
        if first >= self.max_length() {
            return dropped(DropReason::NoRoom { prompt_tokens: first, max_length: self.max_length() });
        }
        ids.truncate(last);
        let answer_ids = ids.split_off(first);
        let unscored: Vec<Range<usize>> =
            scored.windows(2).map(|pair| pair[0].end - first..pair[1].start - first).collect();
        let room = self.max_length() - first;
        let mut kept = answer_ids.len().min(room);
        if let Some(gap) = unscored.iter().find(|gap| gap.contains(&(kept - 1))) {
            kept = gap.start; // the cut is inside a gap: nothing after the last scored token is needed
        }
        let answer = Answer { ids: answer_ids, kept, unscored };
        notes.cut_answers += usize::from(answer.is_cut());
        let (row, id, numbers) = (record.row, record.id.clone(), record.numbers);
        let (prompt, answers, target) = (ids, vec![answer], Target::Sequence);
        Encoded::Kept(EncodedRow { row, id, prompt, answers, target, numbers })
    }

    /// Returns the tokens of prompt + answer, encoded as one string, which ends with EOS, or as one conversation.
    pub(crate) fn whole(&self, record: &Record, answer: &Text) -> Result<Vec<u32>, BadRow> {
        match (&record.prompt, answer) {
            (Text::Plain(prompt), Text::Plain(answer)) => {
                let eos = self.tokenizer().eos().map_or("", |(text, _)| text);
                let eos = if answer.ends_with(eos) { "" } else { eos };
                self.plain(&[prompt, answer, eos].concat())
            }
            (Text::Turns(prompt), Text::Turns(answer)) => {
                self.conversation(prompt, answer, GenerationPrompt::Omit, &record.inputs)
            }
            (Text::Plain(_), Text::Turns(_)) | (Text::Turns(_), Text::Plain(_)) => {
                unreachable!("Record::parse_with refuses rows of two forms")
            }
        }
    }
}
