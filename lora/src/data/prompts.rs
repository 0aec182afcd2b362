//! The prompts of some files, for generation.

use std::path::PathBuf;

use rayon::prelude::*;

use super::columns::Seen;
use super::deep_stack::with_deep_stack;
use super::pass::refuse_unseen;
use super::reader::Rows;
use super::records::{Form, Parsed};
use super::{DataError, Encoder};

/// The prompt of a record for generation.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt {
    /// 0-based record over all files.
    pub row: usize,
    /// The row's `id`.
    pub id: Option<serde_json::Value>,
    /// Token ids, with the generation prompt where the row is a conversation.
    pub ids: Vec<u32>,
}

/// The prompts of the first `limit` records (all, without one), whatever the records' shapes; for generation.
///
/// # Errors
/// [`DataError`] of the first row that cannot be used: generation skips none.
pub fn prompts(paths: &[PathBuf], encoder: &Encoder, limit: Option<usize>) -> Result<Vec<EncodedPrompt>, DataError> {
    let rows = Rows::open(paths)?;
    let count = limit.unwrap_or(usize::MAX).min(rows.len());
    let encode = |row: usize| {
        let parsed = rows.read(row)?.and_then(|line| encoder.parse(row, &line));
        let Parsed { record, seen, .. } = parsed.map_err(|reason| rows.row_error(row, reason))?;
        if record.kind().form == Form::Conversational && encoder.template().is_none() {
            let (path, line) = rows.place(row);
            return Err(DataError::NoTemplate { path, line, model: encoder.model_dir().to_owned() });
        }
        let ids = encoder.encode_to_continue(&record).map_err(|reason| rows.row_error(row, reason))?;
        Ok((EncodedPrompt { row, id: record.id, ids }, seen))
    };
    let encoded: Result<Vec<_>, DataError> = with_deep_stack(|| (0..count).into_par_iter().map(encode).collect());
    let (prompts, seen): (Vec<EncodedPrompt>, Vec<Seen>) = encoded?.into_iter().unzip();
    refuse_unseen(encoder, seen.into_iter().fold(0, |all, seen| all | seen), paths)?;
    Ok(prompts)
}
