//! Preference data: from files to token ids, a window of rows at a time.
//!
//! The flow, one file each:
//!
//! | step | file | from | to |
//! |---|---|---|---|
//! | 0 | [`files`], [`hub`] | names, patterns and ids of data sets | paths |
//! | 1 | [`reader`] | a path | offsets of its rows (8 bytes a row); the bytes of any row, as JSON. Compressed files, JSON arrays, CSV and [`mod@parquet`] are spooled as lines |
//! | 2 | [`reading`], [`columns`], `row_layout`, [`records`] | the bytes of a row | [`Record`]: prompt, answers, target, [`numbers`] |
//! | 3 | [`template`] | messages | text, through the model's own Jinja template ([`jinja`], `jinja_source`: Python's side of it) |
//! | 4 | [`tokenizer`] | text | token ids, through the model's `tokenizer.json` |
//! | 5 | [`encode`] | a record | [`EncodedRow`]: shared prompt ids and the ids of each answer; [`sequence`], [`spans`]: which are scored |
//! | 6 | [`dataset`] | files | [`Dataset`]: one `pass` that counts ([`survey`], [`duplicates`], [`lengths`]), then rows on demand, in any order |
//! | | [`sanity`] | a sample of the records | what a user may not have meant: warnings of the survey |
//! | | [`mod@token_cache`] | the pass | the tokens on the disk, for the rows on demand and for the next start |
//! | 7 | [`order`] | (seed, epoch) | the order of an epoch |
//! | 8 | [`for_each_batch`] | the order | the rows of each optimiser batch, encoded while the one before is computed |
//! | 9 | [`mod@pack`], [`mismatch`] | the rows of an optimiser batch | micro-batches under a token budget; KTO's mismatched answers |
//!
//! Tokenisation follows TRL 1.16 where it is sound (its own outputs are the goldens of the tests). Each difference is counted or
//! reported:
//! - The prompt of two texts ends with a turn marker ([`turn_marker`]; [`decided`] finds it). TRL takes all that they share.
//! - Turns of the prompt that the answers repeat are cut.
//! - If one answer is a prefix of the other, all of it is the prompt. TRL moves the last shared character into the answers.
//! - A prompt without a token or an answer without a token is never scored.
//! - Equal answers are a bad row.
//!
//! Memory: 8 bytes a record and 24 a usable row (32 bytes a usable row where the tokens are cached), 21 more a record while
//! duplicates are counted; text and ids of one window of rows at a time.

mod added_tokens;
mod ahead;
mod bad_line;
pub mod bad_row;
mod caught;
mod column_names;
mod column_search;
pub mod columns;
mod csv_rows;
pub mod dataset;
pub mod decided;
mod deep_stack;
pub mod duplicates;
pub mod encode;
pub mod error;
pub mod files;
mod format;
pub mod hub;
mod index;
mod ingredients;
pub mod jinja;
mod jinja_source;
mod json_array;
mod json_text;
mod layout;
pub mod lengths;
mod lines;
pub mod mismatch;
pub mod numbers;
pub mod order;
pub mod pack;
pub mod parquet;
mod pass;
pub mod progress;
pub mod prompts;
mod python_literal;
mod python_text;
pub mod reader;
pub mod reading;
pub mod records;
mod rejects;
pub mod repeated_prompt;
mod row_layout;
mod sample;
pub mod sanity;
pub mod sequence;
pub mod spans;
mod split;
mod spool;
pub mod survey;
pub mod template;
mod template_sources;
mod thrift;
pub mod token_cache;
pub mod tokenizer;
mod tool_schemas;
pub mod turn_marker;
mod turns;

#[cfg(test)]
mod tests;

pub use ahead::{for_each_ahead, for_each_batch};
pub use bad_row::BadRow;
pub use column_search::any_row_has;
pub use columns::{ColumnMap, ColumnMapError};
pub use dataset::{Dataset, Needs, OnBadRow, Opening, RowLengths, Shuffle, Split, UnpairedOrder};
pub use decided::Decided;
pub use duplicates::{Repeat, Repeats};
pub use encode::{Answer, DropReason, Encoded, EncodedRow, Encoder, LongAnswers, Target};
pub use error::DataError;
pub use files::{DataFiles, data_files};
pub use hub::{CachedSet, HubFault, is_data_set_id};
pub use lengths::{Histogram, Lengths};
pub use mismatch::{Mismatch, donors, mismatched_answers};
pub use numbers::RowNumbers;
pub use order::{interleave, permutation, separate};
pub use pack::pack;
pub use parquet::ParquetFault;
pub use progress::{DataObserver, DataProgress, Stage, Unobserved};
pub use prompts::{EncodedPrompt, Prompts, prompts};
pub use reading::{ImplicitPrompt, Pairs, Reading, Texts};
pub use records::{Form, Kind, Record, Shape};
pub use rejects::Rejects;
pub use sanity::{Finding, Notation, ReadAs, TurnPart, Warning};
pub use sequence::SftPart;
pub use spans::SpanSource;
pub use survey::{ByName, DropKind, LabelCounts, NumberCounts, Sequences, Survey};
pub use template::{ChatTemplate, GenerationPrompt, MarkedText, RenderError, TemplateError, TemplateInputs};
pub use template_sources::{ADDITIONAL as TEMPLATE_FOLDER, DEFAULT as TEMPLATE_FILE, TemplateSources};
pub use token_cache::{CACHE_BYTES, TokenCache};
pub use tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
