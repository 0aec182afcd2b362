//! Errors of loading a chat template.

use std::path::PathBuf;

/// Why a chat template cannot be loaded. Each of these errors is bad input (exit code 3).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A template is larger than the limit.
    #[error("{origin}: the chat template has more than {limit} bytes, the limit")]
    TooLarge {
        /// Where the template came from.
        origin: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The user named a folder that has no template.
    #[error(
        "{folder}: no chat template there (neither chat_template.jinja nor chat_template in tokenizer_config.json)"
    )]
    NoneIn {
        /// The folder.
        folder: PathBuf,
    },
    /// A `tokenizer_config.json` is not JSON.
    #[error("{path}: not valid JSON: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        message: String,
    },
    /// A file is not UTF-8.
    #[error("{path}: not valid UTF-8")]
    Utf8 {
        /// The file.
        path: PathBuf,
    },
    /// The template does not parse.
    #[error("{origin}: chat template, line {line}: {message}")]
    Syntax {
        /// Where the template came from.
        origin: String,
        /// 1-based line of the template, or 0 if the line is not known.
        line: usize,
        /// The parser's message.
        message: String,
    },
    /// `chat_template` is not a string, and holds no template named `default`.
    #[error(
        "{origin}: chat_template is none of: a string, a list or an object with a template named `default` (found: {found:?})"
    )]
    NoDefault {
        /// `tokenizer_config.json`.
        origin: String,
        /// The names of the templates that it holds.
        found: Vec<String>,
    },
}
