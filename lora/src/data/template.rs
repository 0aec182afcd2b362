//! The model's own chat template: found where Hugging Face finds it, rendered as Hugging Face renders it, and never trusted.
//!
//! A template comes with the model from the network. It runs on a budget of instructions ([`ChatTemplate::render`]) and of output
//! bytes, has no access to files or other templates, and can only return text or fail.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::Value;

use super::jinja::{Raised, environment, strip_generation_tags};
use super::tokenizer::Tokenizer;

/// Largest template file that is read, in bytes. The longest in use have 20 KiB.
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;
/// Instructions that a rendering may take, and more for every message: a long template takes some hundred a message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 20_000;
/// Bytes that a rendering may make, and more for every byte of the messages: a template writes each a few times at most.
const OUTPUT_BYTES: usize = 4 << 20;
const OUTPUT_BYTES_PER_INPUT_BYTE: usize = 16;

/// What is wrong with a chat template as a file. Bad input: exit code 3.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is larger than any template.
    #[error("{path}: {bytes} bytes, at most {limit} are read as a chat template", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is not UTF-8.
    #[error("{path}: not valid UTF-8", path = path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
    },
    /// The template does not parse.
    #[error("{origin}: chat template, line {line}: {message}")]
    Syntax {
        /// Where the template came from.
        origin: String,
        /// 1-based line of the template.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// Several named templates, none of them `default`.
    #[error("{origin}: chat_template is none of: a string, a list with a template named `default` (found: {found:?})")]
    NoDefault {
        /// `tokenizer_config.json`.
        origin: String,
        /// The names that are there.
        found: Vec<String>,
    },
}

/// Why a conversation could not be rendered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The template called `raise_exception` with these words.
    #[error("{message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// The template ran out of instructions: it loops.
    #[error("the template did not end within {fuel} instructions (does it loop?)")]
    Endless {
        /// Instructions it had.
        fuel: u64,
    },
    /// The template wrote far more than the conversation can justify.
    #[error("the template wrote more than {limit} bytes")]
    TooMuchOutput {
        /// Bytes it was allowed.
        limit: usize,
    },
    /// The template failed.
    #[error("line {line}: {message}")]
    Failed {
        /// 1-based line of the template.
        line: usize,
        /// What went wrong.
        message: String,
    },
}

/// Whether the text ends with the opening of an assistant's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// For a prompt that an answer follows.
    Add,
    /// For a whole conversation.
    Omit,
}

/// A parsed chat template with the special tokens it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    origin: String,
    special_tokens: Vec<(String, String)>,
}

/// The name of the one template in its environment. It has no extension that would switch HTML escapes on.
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template of a model: `file` if it is given, else `chat_template.jinja` in the model directory, else `chat_template` in
    /// `tokenizer_config.json` (a string, or the one named `default` of a list). `None` if there is none.
    ///
    /// # Errors
    /// [`TemplateError`] for files that cannot be read or do not parse; a broken one is never passed over for the next.
    pub fn find(
        file: Option<&Path>,
        model_dir: &Path,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let beside = model_dir.join("chat_template.jinja");
        let file = file.map(Path::to_owned).or_else(|| beside.exists().then_some(beside));
        if let Some(path) = file {
            let source = read(&path)?;
            return ChatTemplate::new(&source, path.display().to_string(), tokenizer.special_tokens()).map(Some);
        }
        let origin = model_dir.join("tokenizer_config.json").display().to_string();
        let source = match tokenizer.config().get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => source,
            Some(Value::Array(list)) => {
                let name = |entry: &Value| entry.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                let default = list.iter().find(|entry| name(entry) == "default");
                match default.and_then(|entry| entry.get("template")).and_then(Value::as_str) {
                    Some(source) => source,
                    None => return Err(TemplateError::NoDefault { origin, found: list.iter().map(name).collect() }),
                }
            }
            Some(_) => return Err(TemplateError::NoDefault { origin, found: Vec::new() }),
        };
        ChatTemplate::new(source, origin, tokenizer.special_tokens()).map(Some)
    }

    /// Parses a template. `origin` is named in errors; `special_tokens` are visible to it by name (`bos_token`).
    ///
    /// The time that `strftime_now` gives is that of this call, so that all rows of a run, in every epoch, see one date.
    pub fn new(
        source: &str,
        origin: String,
        special_tokens: &[(String, String)],
    ) -> Result<ChatTemplate, TemplateError> {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = since_1970.map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(0));
        ChatTemplate::at_time(source, origin, special_tokens, now)
    }

    /// As [`ChatTemplate::new`], for the second `now` since 1970.
    pub fn at_time(
        source: &str,
        origin: String,
        special_tokens: &[(String, String)],
        now: i64,
    ) -> Result<ChatTemplate, TemplateError> {
        let mut env = environment(now);
        if let Err(e) = env.add_template_owned(NAME, strip_generation_tags(source)) {
            let message = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            return Err(TemplateError::Syntax { origin, line: e.line().unwrap_or(0), message });
        }
        Ok(ChatTemplate { env, origin, special_tokens: special_tokens.to_vec() })
    }

    /// Where the template came from, for the start-up summary and errors.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text of a conversation: `messages` one after another.
    ///
    /// # Errors
    /// [`RenderError`]: the template refused it, failed on it, or did not end within its budget.
    pub fn render<'m>(
        &self,
        messages: impl IntoIterator<Item = &'m Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, RenderError> {
        let messages: Vec<Value> = messages.into_iter().map(with_reasoning_aliases).collect();
        let fuel = FUEL + FUEL_PER_MESSAGE * messages.len() as u64;
        let input: usize = messages.iter().map(text_bytes).sum();
        let limit = OUTPUT_BYTES.saturating_add(OUTPUT_BYTES_PER_INPUT_BYTE.saturating_mul(input));

        let text = |text: &str| minijinja::Value::from(text);
        let mut context: Vec<(minijinja::Value, minijinja::Value)> =
            self.special_tokens.iter().map(|(name, token)| (text(name), text(token))).collect();
        context.push((text("messages"), minijinja::Value::from(Serde(&messages))));
        context.push((text("tools"), minijinja::Value::from(())));
        context.push((text("documents"), minijinja::Value::from(())));
        context
            .push((text("add_generation_prompt"), minijinja::Value::from(generation_prompt == GenerationPrompt::Add)));

        let mut out = CappedText { text: Vec::new(), limit, full: false };
        let mut env = self.env.clone();
        env.set_fuel(Some(fuel));
        let template = env.get_template(NAME).expect("the template was added when it was parsed");
        let rendered = template.render_captured_to(minijinja::Value::from_pairs(context), &mut out).map(drop);
        if out.full {
            return Err(RenderError::TooMuchOutput { limit });
        }
        rendered.map_err(|e| render_error(&e, fuel))?;
        String::from_utf8(out.text)
            .map_err(|_| RenderError::Failed { line: 0, message: "the output is not UTF-8".to_owned() })
    }
}

/// A message as the template sees it. Older names of the reasoning field become the standard one, and `thinking` is filled for
/// the templates that read that (transformers 5.23, `_alias_reasoning_fields`).
fn with_reasoning_aliases(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .filter_map(|name| fields.get(*name))
        .find(|v| !v.is_null());
    let Some(reasoning) = reasoning else { return message.clone() };
    let mut aliased = serde_json::Map::new();
    aliased.insert("thinking".to_owned(), reasoning.clone());
    aliased.extend(fields.clone());
    aliased.insert("reasoning_content".to_owned(), reasoning.clone());
    Value::Object(aliased)
}

/// Bytes of all texts in a value. The parser of rows limits the depth.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        _ => 0,
    }
}

fn render_error(e: &minijinja::Error, fuel: u64) -> RenderError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref::<Raised>() {
            return RenderError::Refused { message: message.clone() };
        }
        if error.downcast_ref::<minijinja::Error>().is_some_and(|e| e.kind() == ErrorKind::OutOfFuel) {
            return RenderError::Endless { fuel };
        }
        cause = error.source();
    }
    let message = e.detail().map_or_else(|| e.kind().to_string(), |detail| format!("{}: {detail}", e.kind()));
    RenderError::Failed { line: e.line().unwrap_or(0), message }
}

/// Takes bytes up to a limit.
struct CappedText {
    text: Vec<u8>,
    limit: usize,
    full: bool,
}

impl std::io::Write for CappedText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > self.limit - self.text.len() {
            self.full = true;
            return Err(std::io::Error::other("output limit"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, TemplateError> {
    let io = |source| TemplateError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_TEMPLATE_BYTES {
        return Err(TemplateError::TooLarge { path: path.to_owned(), bytes, limit: MAX_TEMPLATE_BYTES });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|_| TemplateError::Utf8 { path: path.to_owned() })
}
