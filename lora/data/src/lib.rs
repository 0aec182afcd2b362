//! Preference data: from files to token ids, a window of rows at a time.
//!
//! A row passes through these modules from top to bottom. A module uses those above it; `set` also uses `batch`.
//!
//! | module | from | to |
//! |---|---|---|
//! | `source` | names, patterns and ids of data sets | paths; offsets of rows (8 bytes a row); the bytes of any row, as JSON. Compressed files, JSON arrays, CSV and Parquet are spooled as lines |
//! | `record` | the bytes of a row | [`Record`]: prompt, answers, target, numbers |
//! | `tokens` | a record | [`EncodedRow`]: shared prompt ids and the ids of each answer, through the model's own Jinja template and `tokenizer.json`; which of them are scored |
//! | `set` | files | [`Dataset`]: one walk that counts ([`Survey`]) and warns ([`Warning`]), then rows on demand, in any order; their tokens are kept on the disk |
//! | `batch` | (seed, epoch); the rows of a batch | the order of an epoch; batches encoded while the one before is computed; micro-batches under a token budget; KTO's mismatched answers |
//!
//! Tokenisation follows TRL 1.16 where it is sound (its own outputs are the goldens of the tests). Each difference is counted or
//! reported:
//! - In a pair of texts without a prompt column, the prompt ends with a turn marker ([`TurnMarker`], kept in [`Decided`]). TRL's
//!   prompt is all that the two texts share.
//! - If the answers repeat turns of the prompt, these turns are cut from them.
//! - With [`ImplicitPrompt::Longest`], if one of two texts is a prefix of the other, the prompt is the shorter text, without a
//!   space at its end. TRL leaves the last shared character in the answers.
//! - A prompt without a token or an answer without a token is never scored.
//! - A pair with equal answers is a bad row.
//!
//! Memory: 32 bytes per usable row and 4 per answer; 8 bytes per record, or per usable row if the tokens are cached; 21 more per
//! record while duplicates are counted; text and ids of one window of rows at a time.

#![deny(unsafe_code)]

mod batch;
mod caught;
mod deep_stack;
mod json_text;
mod pieces;
mod progress;
mod record;
mod row;
mod set;
mod source;
mod spelling;
pub mod store;
mod tokens;

#[cfg(test)]
mod tests;

pub use batch::ahead::for_each_ahead;
pub use batch::mismatch::{Mismatch, donors, mismatched_answers};
pub use batch::order::{interleave, permutation, separate};
pub use batch::pack::pack;
pub use progress::{DataObserver, DataProgress, Stage, Unobserved};
pub use record::bad_row::BadRow;
pub use record::column_search::any_row_has;
pub use record::decided::Decided;
pub use record::reading::{ImplicitPrompt, Pairs, Reading, Texts};
pub use record::records::{Parsed, Record};
pub use record::repeated_prompt::{RepeatedAs, Repetition};
pub use record::shape::{RowLayout, Shape};
pub use record::template_inputs::TemplateInputs;
pub use record::text::{Form, Text};
pub use record::turn_marker::TurnMarker;
pub use row::{Answer, EncodedRow, RowKind, RowNumbers, Target};
pub use set::dataset::{Dataset, RowLengths, Split};
pub use set::dropped::{DropKind, Dropped};
pub use set::duplicates::{Repeat, Repeats};
pub use set::error::DataError;
pub use set::lengths::{Histogram, Lengths};
pub use set::open::Opening;
pub use set::options::{OnBadRow, Shuffle, UnpairedOrder};
pub use set::prompts::{EncodedPrompt, Prompts, prompts};
pub use set::rejects::Rejects;
pub use set::sanity::{Finding, Notation, ReadAs, TurnPart, Warning};
pub use set::survey::{BoundaryExample, ByName, LabelCounts, NumberCounts, Sequences, Survey};
pub use set::token_cache::{CACHE_BYTES, TokenCache};
pub use source::bad_line::BadLine;
pub use source::column_map::{ColumnMap, ColumnMapError};
pub use source::error::SourceError;
pub use source::files::{DataFiles, data_files};
pub use source::hub::fault::HubFault;
pub use source::hub::{CachedSet, is_data_set_id};
pub use source::memory::MemoryRows;
pub use source::parquet::fault::ParquetFault;
pub use spelling::nearest;
pub use tokens::encode::{Boundary, DropReason, Encoded, Encoder, EncoderError, LongAnswers, Notes};
pub use tokens::sft_part::SftPart;
pub use tokens::spans::SpanSource;
pub use tokens::template::{ChatTemplate, GenerationPrompt, MarkedText, RenderError};
pub use tokens::template_error::TemplateError;
pub use tokens::template_sources::{ADDITIONAL as TEMPLATE_FOLDER, DEFAULT as TEMPLATE_FILE, TemplateSources};
pub use tokens::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
