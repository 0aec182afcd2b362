//! The added tokens of a model directory, with the ids that its files give them.
//!
//! The tokenizers library ignores the ids in `added_tokens` of `tokenizer.json`. It gives a token its id in the vocabulary, or
//! else the next free id. So if one token is missing in the list, all later ones get wrong ids. Here every token gets the id that
//! the files give it, or the files are refused. The lists are those that transformers 5.23 reads. As in transformers,
//! `added_tokens_decoder` decides how a token is matched (`lstrip`, `rstrip`, `normalized`).

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

/// What messages call the files that give a token its id.
pub(crate) const DECODER: &str = "added_tokens_decoder of tokenizer_config.json";
/// The separate file in which older model directories list their added tokens.
pub(crate) const ADDED_TOKENS_JSON: &str = "added_tokens.json";
const TOKENIZER_JSON: &str = "added_tokens of tokenizer.json";
const VOCABULARY: &str = "the vocabulary of tokenizer.json";
const AS_BUILT: &str = "the tokenizer that these files make";

/// An added token with the id that a file gives it.
#[derive(Debug)]
pub(crate) struct Given {
    pub id: u32,
    pub token: AddedToken,
    /// What messages call the file that gives the id.
    pub place: &'static str,
}

/// What to do about files that disagree.
const REMEDY: &str = "Correct the files, or save the tokenizer again with transformers";

/// Why the added tokens cannot have the ids that the files give them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddedTokenFault {
    /// The tokenizers library refuses the file.
    #[error("{0}")]
    Library(String),
    /// A token has two ids.
    #[error(
        "the added token `{token}` has id {} in {}, but id {} in {}: the model would read another token's embedding. {remedy}",
        ids[0], places[0], ids[1], places[1], remedy = REMEDY
    )]
    TwoIds { token: String, ids: [u32; 2], places: [&'static str; 2] },
    /// An id has two tokens.
    #[error(
        "id {id} is the added token `{}` in {}, but `{}` in {}: the model has one embedding for both. {remedy}",
        tokens[0], places[0], tokens[1], places[1], remedy = REMEDY
    )]
    TwoTokens { id: u32, tokens: [String; 2], places: [&'static str; 2] },
}

impl AddedTokenFault {
    pub(crate) fn library(error: impl std::fmt::Display) -> AddedTokenFault {
        AddedTokenFault::Library(error.to_string())
    }
}

/// The library's tokenizer. Its added tokens have the ids that the files give them.
pub(crate) struct Built {
    pub inner: Tokenizer,
    /// Ids of added tokens that `tokenizer.json` lacks.
    pub beside: HashSet<u32>,
}

/// Makes the tokenizer of `tokenizer.json`, with the added tokens of `elsewhere` as well.
pub(crate) fn with_added_tokens(tokenizer_json: &[u8], elsewhere: &[Given]) -> Result<Built, AddedTokenFault> {
    let mut inner = Tokenizer::from_bytes(tokenizer_json).map_err(AddedTokenFault::library)?;
    let listed: ListedTokens = serde_json::from_slice(tokenizer_json).map_err(AddedTokenFault::library)?;
    let listed = listed.added_tokens.into_iter();
    let own: Vec<Given> = listed.map(|ListedToken { id, token }| Given { id, token, place: TOKENIZER_JSON }).collect();
    let given = agreed(own.iter().chain(elsewhere).filter(|given| !given.token.content.is_empty()))?;
    inner.add_tokens(given.iter().map(|given| given.token.clone())).map_err(AddedTokenFault::library)?;
    let differs = |inner: &Tokenizer| {
        given.iter().find(|given| inner.token_to_id(&given.token.content) != Some(given.id)).copied()
    };
    if differs(&inner).is_some() {
        inner = with_ids_in_vocabulary(tokenizer_json, &given)?;
        if let Some(Given { id, token, place }) = differs(&inner) {
            let made = inner.token_to_id(&token.content).unwrap_or(u32::MAX);
            let (token, places) = (token.content.clone(), [*place, AS_BUILT]);
            return Err(AddedTokenFault::TwoIds { token, ids: [*id, made], places });
        }
    }
    let of_file: HashSet<u32> = own.iter().map(|given| given.id).collect();
    let beside = elsewhere.iter().map(|given| given.id).filter(|id| !of_file.contains(id)).collect();
    Ok(Built { inner, beside })
}

/// `added_tokens` of `tokenizer.json`.
#[derive(serde::Deserialize)]
struct ListedTokens {
    #[serde(default)]
    added_tokens: Vec<ListedToken>,
}

#[derive(serde::Deserialize)]
struct ListedToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// Returns one entry for each token, sorted by id. If a token has several entries, the last one decides how it is matched.
fn agreed<'g>(all: impl Iterator<Item = &'g Given>) -> Result<Vec<&'g Given>, AddedTokenFault> {
    let mut by_content: HashMap<&str, &Given> = HashMap::new();
    let mut by_id: HashMap<u32, &Given> = HashMap::new();
    for given in all {
        let content = given.token.content.as_str();
        if let Some(other) = by_content.insert(content, given).filter(|other| other.id != given.id) {
            let (ids, places) = ([other.id, given.id], [other.place, given.place]);
            return Err(AddedTokenFault::TwoIds { token: content.to_owned(), ids, places });
        }
        if let Some(other) = by_id.insert(given.id, given).filter(|other| other.token.content != content) {
            let tokens = [other.token.content.clone(), content.to_owned()];
            return Err(AddedTokenFault::TwoTokens { id: given.id, tokens, places: [other.place, given.place] });
        }
    }
    let mut agreed: Vec<&Given> = by_id.into_values().collect();
    agreed.sort_unstable_by_key(|given| given.id);
    Ok(agreed)
}

/// Makes the tokenizer with the added tokens in its vocabulary as well: the library looks up their ids there. No merge produces
/// them, so nothing else changes.
fn with_ids_in_vocabulary(tokenizer_json: &[u8], given: &[&Given]) -> Result<Tokenizer, AddedTokenFault> {
    let mut file: Value = serde_json::from_slice(tokenizer_json).map_err(AddedTokenFault::library)?;
    if let Some(vocabulary) = file.pointer_mut("/model/vocab").and_then(Value::as_object_mut) {
        let mut tokens: HashMap<u64, String> =
            vocabulary.iter().filter_map(|(token, id)| Some((id.as_u64()?, token.clone()))).collect();
        for Given { id, token, place } in given {
            let content = &token.content;
            match vocabulary.get(content).map(Value::as_u64) {
                Some(Some(other)) if other != u64::from(*id) => {
                    let ids = [*id, u32::try_from(other).unwrap_or(u32::MAX)];
                    return Err(AddedTokenFault::TwoIds { token: content.clone(), ids, places: [*place, VOCABULARY] });
                }
                Some(_) => {}
                None => {
                    if let Some(other) = tokens.insert(u64::from(*id), content.clone()) {
                        let tokens = [content.clone(), other];
                        return Err(AddedTokenFault::TwoTokens { id: *id, tokens, places: [*place, VOCABULARY] });
                    }
                    vocabulary.insert(content.clone(), Value::from(*id));
                }
            }
        }
    }
    file["added_tokens"] = given.iter().map(|given| entry(given)).collect();
    let mut inner = Tokenizer::from_bytes(file.to_string()).map_err(AddedTokenFault::library)?;
    // added again, since this call sets how each one is matched
    inner.add_tokens(given.iter().map(|given| given.token.clone())).map_err(AddedTokenFault::library)?;
    Ok(inner)
}

fn entry(Given { id, token, .. }: &Given) -> Value {
    serde_json::json!({
        "id": id, "content": token.content, "single_word": token.single_word, "lstrip": token.lstrip,
        "rstrip": token.rstrip, "normalized": token.normalized, "special": token.special,
    })
}

/// Reads a token as the files of a tokenizer write it: a string, or an object with `content`. `special` applies if the object
/// does not say whether the token is special.
pub(crate) fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    match value {
        Value::String(content) => Some(AddedToken::from(content.clone(), special)),
        Value::Object(fields) => {
            let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(special);
            Some(
                AddedToken::from(fields.get("content")?.as_str()?, special)
                    .single_word(flag("single_word").unwrap_or(false))
                    .lstrip(flag("lstrip").unwrap_or(false))
                    .rstrip(flag("rstrip").unwrap_or(false))
                    .normalized(flag("normalized").unwrap_or(!special)),
            )
        }
        _ => None,
    }
}

/// Reads `added_tokens_decoder`, an object from ids to tokens. `Err` names the first bad entry.
pub(crate) fn of_decoder(decoder: &Value) -> Result<Vec<Given>, String> {
    let Some(entries) = decoder.as_object() else { return Ok(Vec::new()) };
    let given = entries.iter().map(|(key, value)| {
        let id = key.parse().ok();
        let token = added_token(value, false).filter(|_| value.is_object());
        id.zip(token).map(|(id, token)| Given { id, token, place: DECODER }).ok_or_else(|| {
            format!("added_tokens_decoder: `{key}` is not an id with a token (an object with `content`)")
        })
    });
    given.collect()
}

/// Reads `added_tokens.json`, an object from tokens to ids. `Err` names the first bad entry.
pub(crate) fn of_added_tokens_json(file: &Value, is_special: impl Fn(&str) -> bool) -> Result<Vec<Given>, String> {
    let Some(entries) = file.as_object() else { return Ok(Vec::new()) };
    let given = entries.iter().map(|(content, id)| {
        let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let token = AddedToken::from(content.clone(), is_special(content));
        id.map(|id| Given { id, token, place: ADDED_TOKENS_JSON }).ok_or_else(|| format!("`{content}` has no token id"))
    });
    given.collect()
}
