//! From a record to token ids: chat template, tokenizer, and which tokens are scored.

pub(crate) mod added_tokens;
pub(crate) mod encode;
pub(crate) mod jinja;
pub(crate) mod jinja_source;
pub(crate) mod python_text;
pub(crate) mod sequence;
pub(crate) mod sft_part;
pub(crate) mod spans;
pub(crate) mod template;
pub(crate) mod template_error;
pub(crate) mod template_sources;
pub(crate) mod tokenizer;
