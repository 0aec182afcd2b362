//! The model's tokenizer: `tokenizer.json`, and the added and special tokens that `tokenizer_config.json` names.
//!
//! The tokenizer itself is the `tokenizers` library, the code that Hugging Face's fast tokenizers run. Only its
//! regular-expression engine differs, so tests compare the ids of every golden model one by one. This module adds the rules of
//! transformers 5.23 for a model directory. The special tokens of the configuration are matched in text as whole tokens. Added
//! tokens get the ids that the files give them (`added_tokens`). Truncation and padding are off, even if a file asks for them.
//! BOS and EOS are added only if the post-processor of `tokenizer.json` says so (`add_bos_token` is not read if a
//! `tokenizer.json` exists).

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use align_engine::bounded_read::read_regular;
use serde_json::Value;
use tokenizers::{AddedToken, Encoding};

use super::added_tokens::{self, ADDED_TOKENS_JSON, AddedTokenFault, Built, Given, added_token, with_added_tokens};
use crate::caught::quietly;

/// Largest `tokenizer.json` to read, in bytes. The largest in use (262144 tokens, Gemma 3) has 33 MiB.
const MAX_TOKENIZER_BYTES: u64 = 512 << 20;
/// Largest `tokenizer_config.json` or `special_tokens_map.json` to read, in bytes.
pub(crate) const MAX_CONFIG_BYTES: u64 = 64 << 20;

/// Maximum number of special tokens without an id that a configuration may have. Every text is searched for each of them.
const MAX_UNKNOWN: usize = 1024;

/// What is wrong with a tokenizer. Each of these errors is bad input (exit code 3).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is no `tokenizer.json`.
    #[error(
        "{path}: not found; a model directory needs the tokenizer.json of its fast tokenizer (a SentencePiece tokenizer.model alone \
         is not read: save the tokenizer with transformers first)"
    )]
    Missing {
        /// Its expected path.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is larger than the limit.
    #[error("{path}: {bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is not valid, or a text cannot be encoded or decoded with it.
    #[error("{path}: {message}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong, or the part of the text that has no id.
        message: String,
    },
    /// The vocabulary has ids for which the model has no embedding.
    #[error(
        "{path}: token `{token}` has id {id}, but the model has {rows} embedding rows; tokenizer and weights are from different \
         models"
    )]
    Vocabulary {
        /// `tokenizer.json`.
        path: PathBuf,
        /// The token with the largest id.
        token: String,
        /// That id.
        id: u32,
        /// Rows of the model's embedding.
        rows: usize,
    },
}

/// A model's tokenizer with its named special tokens.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    special_tokens: Vec<(String, String)>,
    /// Special tokens of the configuration that have no id: a description for messages, and the token's text.
    unknown: Vec<(String, String)>,
    /// Ids of added tokens that `tokenizer.json` lacks.
    beside: HashSet<u32>,
    config: Value,
    /// The files that were read, with the hash of the bytes that were parsed.
    files: Vec<(PathBuf, blake3::Hash)>,
    /// Ids from here on have no embedding row; `u32::MAX` before [`Tokenizer::check_vocabulary`].
    first_unusable_id: u32,
}

/// Whether special tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As their text, `<|im_end|>`.
    Keep,
    /// Not at all.
    Skip,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory, and `tokenizer_config.json` and `special_tokens_map.json` if they exist.
    ///
    /// # Errors
    /// [`TokenizerError`] for a missing, oversized or broken file.
    pub fn from_dir(model_dir: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = model_dir.join("tokenizer.json");
        let Some(bytes) = read_if_present(&path, MAX_TOKENIZER_BYTES)? else {
            return Err(TokenizerError::Missing { path });
        };
        let mut files = vec![(path.clone(), blake3::hash(&bytes))];

        let broken = |name: &str| {
            let path = model_dir.join(name);
            move |message| TokenizerError::Broken { path, message }
        };
        let config = read_json_of(model_dir, "tokenizer_config.json", &mut files)?.unwrap_or_default();
        let mut named = named_tokens(&config);
        let mut listed = listed_tokens(&config);
        let elsewhere = match config.get("added_tokens_decoder") {
            Some(decoder) => added_tokens::of_decoder(decoder).map_err(broken("tokenizer_config.json"))?,
            None => {
                // without `added_tokens_decoder`, the directory has an older form: only then does transformers read these files,
                // and they override the configuration
                if let Some(map) = read_json_of(model_dir, "special_tokens_map.json", &mut files)? {
                    let of_map = named_tokens(&map);
                    let names: HashSet<&String> = of_map.iter().map(|(name, _)| name).collect();
                    named.retain(|(name, _)| !names.contains(name));
                    named.extend(of_map.iter().cloned());
                    listed.extend(listed_tokens(&map));
                }
                let tokens = named.iter().chain(&listed);
                let contents: HashSet<&str> = tokens.map(|(_, token)| token.content.as_str()).collect();
                let special = |content: &str| contents.contains(content);
                let added = read_json_of(model_dir, ADDED_TOKENS_JSON, &mut files)?.unwrap_or_default();
                added_tokens::of_added_tokens_json(&added, special).map_err(broken(ADDED_TOKENS_JSON))?
            }
        };

        let Built { inner, beside } = load(&path, &bytes, &elsewhere, &[&named[..], &listed].concat())?;
        let special_tokens: Vec<(String, String)> = named.into_iter().map(|(name, t)| (name, t.content)).collect();
        let is_unknown = |token: &str| !token.is_empty() && inner.token_to_id(token).is_none();
        let listed = listed.into_iter().map(|(name, token)| (format!("one of the {name}"), token.content));
        let named = special_tokens.iter().map(|(name, token)| (format!("the {name}"), token.clone()));
        let unknown: Vec<(String, String)> = named.chain(listed).filter(|(_, token)| is_unknown(token)).collect();
        if unknown.len() > MAX_UNKNOWN {
            let (count, (_, first)) = (unknown.len(), &unknown[0]);
            let message = format!(
                "has no id for {count} of the special tokens that tokenizer_config.json and special_tokens_map.json name, the first \
                  `{first}`; are all files from one model?"
            );
            return Err(TokenizerError::Broken { path, message });
        }
        Ok(Tokenizer { inner, path, special_tokens, unknown, beside, config, files, first_unusable_id: u32::MAX })
    }

    /// Checks that every id has a row of the model's embedding.
    ///
    /// Some tokens may lack a row: special tokens that the configuration does not name, such as Gemma 3 1B's
    /// `<image_soft_token>`, and tokens that `tokenizer.json` does not list, except EOS. A text that contains one is refused when
    /// it is encoded.
    ///
    /// # Errors
    /// [`TokenizerError::Vocabulary`] names the largest id that has no row.
    pub fn check_vocabulary(&mut self, embedding_rows: usize) -> Result<(), TokenizerError> {
        let added = self.inner.get_added_tokens_decoder();
        let named: HashSet<&str> = self.special_tokens.iter().map(|(_, token)| token.as_str()).collect();
        let eos = self.eos().map(|(_, id)| id);
        let spare = |id: u32| {
            let of_config = self.beside.contains(&id) && eos != Some(id);
            of_config || added.get(&id).is_some_and(|token| token.special && !named.contains(token.content.as_str()))
        };
        let beyond = |id: u32| usize::try_from(id).is_ok_and(|id| id >= embedding_rows);
        let vocabulary = self.inner.get_vocab(true);
        let worst = vocabulary.into_iter().filter(|&(_, id)| beyond(id) && !spare(id)).max_by_key(|&(_, id)| id);
        if let Some((token, id)) = worst {
            return Err(TokenizerError::Vocabulary { path: self.path.clone(), token, id, rows: embedding_rows });
        }
        self.first_unusable_id = u32::try_from(embedding_rows).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Returns the first id without an embedding row; `u32::MAX` before [`Tokenizer::check_vocabulary`].
    pub(crate) fn first_unusable_id(&self) -> u32 {
        self.first_unusable_id
    }

    /// Returns the added tokens without an embedding row, by id; empty before [`Tokenizer::check_vocabulary`].
    #[cfg(test)]
    pub(crate) fn unusable_tokens(&self) -> Vec<(u32, String)> {
        let added = self.inner.get_added_tokens_decoder();
        let mut beyond: Vec<(u32, String)> =
            added.into_iter().filter(|(id, _)| *id >= self.first_unusable_id).map(|(id, t)| (id, t.content)).collect();
        beyond.sort_unstable();
        beyond
    }

    /// Returns the token ids of a plain text, with the special tokens that the tokenizer adds to a text (such as BOS).
    ///
    /// # Errors
    /// [`TokenizerError::Broken`] if the library fails, or if the text contains a special token of the configuration that has no
    /// id (it would be cut into pieces), or a token without an embedding row.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(text, true)
    }

    /// Returns the token ids of a text that a chat template has rendered. Adds no special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_plain`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(text, false)
    }

    /// Encodes as [`Tokenizer::encode_rendered`] does, and also returns each token's byte range in the text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_plain`].
    pub fn encode_rendered_with_places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), TokenizerError> {
        let encoded = self.encoding(text, |text| self.inner.encode(text, false))?;
        let places = encoded.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoded.get_ids().to_vec(), places))
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoded = self.encoding(text, |text| self.inner.encode_fast(text, add_special_tokens))?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Encodes a text. Refuses a text with a token that has no id or no embedding.
    fn encoding(
        &self,
        text: &str,
        encode: impl FnOnce(&str) -> tokenizers::Result<Encoding>,
    ) -> Result<Encoding, TokenizerError> {
        if let Some((name, token)) = self.unknown.iter().find(|(_, token)| text.contains(token.as_str())) {
            return Err(self.failed(format!(
                "the text holds `{token}`, {name} of tokenizer_config.json or special_tokens_map.json, which has no id here: \
                 it would be cut into pieces"
            )));
        }
        let encoded = self.library(|| encode(text))?;
        let rows = self.first_unusable_id;
        if let Some(&id) = encoded.get_ids().iter().find(|&&id| id >= rows) {
            let token = self.inner.id_to_token(id).unwrap_or_default();
            return Err(self.failed(format!(
                "the text holds `{token}` (id {id}), for which the model has no embedding (it has {rows} rows)"
            )));
        }
        Ok(encoded)
    }

    /// Returns the text of token ids.
    ///
    /// # Errors
    /// [`TokenizerError::Broken`].
    pub fn decode(&self, ids: &[u32], special_tokens: SpecialTokens) -> Result<String, TokenizerError> {
        self.library(|| self.inner.decode(ids, special_tokens == SpecialTokens::Skip))
    }

    /// Calls the tokenizers library and turns its panics into errors. A panic leaves the tokenizer intact, since encoding and
    /// decoding only read it.
    fn library<T>(&self, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
        let outcome = quietly(|| run().map_err(|error| error.to_string()));
        outcome.unwrap_or_else(|words| Err(library_fails(&words))).map_err(|message| self.failed(message))
    }

    fn failed(&self, message: String) -> TokenizerError {
        TokenizerError::Broken { path: self.path.clone(), message }
    }

    /// Returns the vocabulary's own spelling of a token (`Ġthe`), for token dumps.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether an id belongs to a special token.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// Returns the id of a token, given in the vocabulary's own spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Special tokens by name (`eos_token`, `bos_token`, ...), in the order of the configuration.
    pub fn special_tokens(&self) -> &[(String, String)] {
        &self.special_tokens
    }

    /// The text of a named special token.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.iter().find(|(known, _)| known == name).map(|(_, token)| token.as_str())
    }

    /// Returns the text and id of the token that ends an answer. `None` if the configuration names no `eos_token` or if that
    /// token has no id.
    pub fn eos(&self) -> Option<(&str, u32)> {
        let eos = self.special_token("eos_token")?;
        Some((eos, self.inner.token_to_id(eos)?))
    }

    /// Returns the ids that end an answer, ascending: EOS, and every `eos_token_id` (a number or a list) of the model
    /// directory's `generation_config.json`.
    pub fn stop_ids(&self, model_dir: &Path) -> Result<Vec<u32>, TokenizerError> {
        let path = model_dir.join("generation_config.json");
        let generation = read_json_of(model_dir, "generation_config.json", &mut Vec::new())?.unwrap_or_default();
        let mut ids: Vec<u32> = self.eos().map(|(_, id)| id).into_iter().collect();
        let listed = match generation.get("eos_token_id") {
            None | Some(Value::Null) => &[][..],
            Some(Value::Array(list)) => list,
            Some(one) => std::slice::from_ref(one),
        };
        // some files write a negative id to mean none
        for value in listed.iter().filter(|value| value.as_i64().is_none_or(|id| id >= 0)) {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            let message = || format!("eos_token_id: {value} is no token id");
            ids.push(id.ok_or_else(|| TokenizerError::Broken { path: path.clone(), message: message() })?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Returns `tokenizer_config.json` unchanged. Null if there is none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The files that the tokenizer was made from, each with the hash of the bytes that were parsed: a file may have changed
    /// since.
    pub(crate) fn files(&self) -> &[(PathBuf, blake3::Hash)] {
        &self.files
    }

    /// Returns the path of `tokenizer.json`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the library's tokenizer without truncation and padding. It matches the added tokens of all files, and `special_tokens`,
/// as whole tokens.
fn load(
    path: &Path,
    tokenizer_json: &[u8],
    elsewhere: &[Given],
    special_tokens: &[(String, AddedToken)],
) -> Result<Built, TokenizerError> {
    let load = || -> Result<Built, AddedTokenFault> {
        let Built { mut inner, beside } = with_added_tokens(tokenizer_json, elsewhere)?;
        let added = inner.get_added_tokens_decoder();
        let added: HashSet<&str> = added.values().map(|token| token.content.as_str()).collect();
        let is_added = |token: &AddedToken| added.contains(token.content.as_str());
        let tokens = special_tokens.iter().map(|(_, token)| token);
        let unmatched: Vec<AddedToken> =
            tokens.filter(|t| inner.token_to_id(&t.content).is_some() && !is_added(t)).cloned().collect();
        inner.add_special_tokens(unmatched).map_err(AddedTokenFault::library)?;
        inner.with_truncation(None).map_err(AddedTokenFault::library)?;
        inner.with_padding(None);
        Ok(Built { inner, beside })
    };
    let message = match quietly(load) {
        Ok(Ok(built)) => return Ok(built),
        Ok(Err(fault)) => fault.to_string(),
        Err(words) => library_fails(&words),
    };
    Err(TokenizerError::Broken { path: path.to_owned(), message })
}

/// Returns the special tokens that a configuration names: every `*_token` that is a string or an object with `content`, and the
/// entries of `extra_special_tokens` if that is an object (this is how transformers 5.23 collects `special_tokens_map`).
fn named_tokens(config: &Value) -> Vec<(String, AddedToken)> {
    let empty = serde_json::Map::new();
    let top = config.as_object().unwrap_or(&empty);
    let extra = config.get("extra_special_tokens").and_then(Value::as_object).unwrap_or(&empty);
    let named = top.iter().filter(|(name, _)| name.ends_with("_token")).chain(extra);
    named.filter_map(|(name, value)| Some((name.clone(), special_token(value)?))).collect()
}

/// Returns the special tokens that a configuration lists without names of their own, each with the name of its list.
fn listed_tokens(config: &Value) -> Vec<(String, AddedToken)> {
    let lists = ["additional_special_tokens", "extra_special_tokens"];
    let entries = lists.into_iter().flat_map(|name| {
        let list = config.get(name).and_then(Value::as_array).into_iter().flatten();
        list.map(move |value| (name, value))
    });
    entries.filter_map(|(name, value)| Some((name.to_owned(), special_token(value)?))).collect()
}

fn special_token(value: &Value) -> Option<AddedToken> {
    let token = added_token(value, true)?;
    // transformers adds tokens from these places as special, whatever their objects say
    Some(AddedToken { special: true, ..token })
}

fn library_fails(words: &str) -> String {
    format!("the tokenizers library fails on it: {words}")
}

/// Returns the bytes of a file. `None` if it does not exist.
fn read_if_present(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io(e)),
        Ok(meta) if meta.len() > limit => {
            Err(TokenizerError::TooLarge { path: path.to_owned(), bytes: meta.len(), limit })
        }
        Ok(_) => read_regular(path, limit).map(Some).map_err(io),
    }
}

/// Reads a JSON file of a model directory, and adds it to `files` if it exists.
fn read_json_of(
    model_dir: &Path,
    name: &str,
    files: &mut Vec<(PathBuf, blake3::Hash)>,
) -> Result<Option<Value>, TokenizerError> {
    let path = model_dir.join(name);
    let Some(bytes) = read_if_present(&path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    files.push((path.clone(), blake3::hash(&bytes)));
    let message = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) if value.is_object() => return Ok(Some(value)),
        Ok(_) => "must be a JSON object".to_owned(),
        Err(error) => format!("not valid JSON: {error}"),
    };
    Err(TokenizerError::Broken { path, message })
}
