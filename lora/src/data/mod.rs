//! Preference data: from JSONL files to token ids, a window of rows at a time.
//!
//! The flow, one file each:
//!
//! | step | file | from | to |
//! |---|---|---|---|
//! | 1 | [`reader`] | a path | offsets of its rows (8 bytes a row); the bytes of any row |
//! | 2 | [`records`] | the bytes of a row | [`Record`]: prompt, answers, target |
//! | 3 | [`template`] | messages | text, through the model's own Jinja template ([`jinja`]: Python's side of it) |
//! | 4 | [`tokenizer`] | text | token ids, through the model's `tokenizer.json` |
//! | 5 | [`encode`] | a record | [`EncodedRow`]: shared prompt ids and the ids of each answer |
//! | 6 | [`dataset`] | files | [`Dataset`]: one pass that counts ([`survey`]), then rows on demand, in any order |
//! | 7 | [`order`] | (seed, epoch) | the order of an epoch |
//! | 8 | [`for_each_batch`] | the order | the rows of each optimiser batch, encoded while the one before is computed |
//! | 9 | [`mod@pack`], [`mismatch`] | the rows of an optimiser batch | micro-batches under a token budget; KTO's mismatched answers |
//!
//! Tokenisation follows TRL 1.16 where it is sound (its own outputs are the goldens of the tests). The differences, each counted
//! or said: a prefix of the other answer is a whole prompt (TRL moves the last shared character into the answers), a prompt
//! without a token or an answer without a token is never scored, and answers that are the same are a bad row.
//!
//! Memory: 8 bytes a record and 20 a usable row; text and ids of one window of rows at a time.

mod ahead;
pub mod dataset;
mod deep_stack;
pub mod encode;
pub mod error;
pub mod jinja;
pub mod mismatch;
pub mod order;
pub mod pack;
pub mod reader;
pub mod records;
pub mod survey;
pub mod template;
pub mod tokenizer;

#[cfg(test)]
mod dataset_tests;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod row_tests;

pub use ahead::for_each_batch;
pub use dataset::{Dataset, EncodedPrompt, Needs, OnBadRow, RowLengths, Shuffle, prompts};
pub use encode::{Answer, DropReason, Encoded, EncodedRow, Encoder, LongAnswers, Target};
pub use error::{BadRow, DataError};
pub use mismatch::mismatched_answers;
pub use order::{permutation, separate};
pub use pack::pack;
pub use records::{Form, Kind, Record, Shape};
pub use survey::Survey;
pub use template::{ChatTemplate, GenerationPrompt, RenderError, TemplateError};
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
