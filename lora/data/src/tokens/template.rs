//! The model's own chat template: found where Hugging Face finds it, rendered as Hugging Face renders it, and never trusted.
//!
//! A template comes with the model from the network. It has no access to files or other templates. It has a budget of
//! instructions and of output bytes, and a stack deep enough for that budget, so it returns text or fails. Two known attacks get
//! past this, since the engine has no budget for them. A template that doubles a string in a loop can ask for more memory than
//! there is. A template that prints an object which contains itself overflows any stack. Both end the process.

use std::ops::Range;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Variable};
use serde_json::Value;

use super::jinja::{Raised, call_generation_spans, environment, generation_span, strip_generation_tags};
use super::jinja_source::{SourceFault, with_line_feeds, with_names_of_macros, with_strings_of_python};
use super::template_error::TemplateError;
use super::template_sources::{MAX_TEMPLATE_BYTES, TOOL_USE, TemplateSources};
use super::tokenizer::Tokenizer;
use crate::deep_stack::with_deep_stack;
use crate::record::template_inputs::TemplateInputs;

/// Maximum number of instructions in a rendering: this many, and `FUEL_PER_MESSAGE` more for each message and each tool. A long
/// template executes some hundreds of instructions for a message.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 20_000;
/// Maximum number of bytes that a rendering may write: this many, and `OUTPUT_BYTES_PER_INPUT_BYTE` more for each byte of text in
/// the messages, tools and variables. A template writes each byte of its input a few times at most.
const OUTPUT_BYTES: usize = 4 << 20;
const OUTPUT_BYTES_PER_INPUT_BYTE: usize = 16;

/// Why a conversation could not be rendered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The template called `raise_exception` with this message.
    #[error("{message}")]
    Refused {
        /// The template's message.
        message: String,
    },
    /// The template ran out of instructions, so it probably loops.
    #[error("the template did not end within {fuel} instructions (does it loop?)")]
    Endless {
        /// The number of instructions that it was allowed.
        fuel: u64,
    },
    /// The template wrote far more than the conversation can justify.
    #[error("the template wrote more than {limit} bytes")]
    TooMuchOutput {
        /// Maximum number of bytes.
        limit: usize,
    },
    /// The template failed.
    #[error("line {line}: {message}")]
    Failed {
        /// 1-based line of the template, or 0 if the line is not known.
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

/// A rendered conversation, and where the assistant speaks in it.
#[derive(Clone, Debug, PartialEq)]
pub struct MarkedText {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` in which the assistant speaks, ascending.
    pub spans: Vec<Range<usize>>,
}

/// A parsed chat template with the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    sources: TemplateSources,
    special_tokens: Vec<(String, String)>,
    /// Whether there is a separate template for conversations with tools.
    has_tool_use: bool,
    /// Whether every template marks what the assistant says with `{% generation %}`.
    marks_generation: bool,
    /// Time that `strftime_now` formats, in seconds since 1970.
    now: i64,
}

/// The name of the template in its environment. It has no file extension, since some extensions switch HTML escapes on.
const NAME: &str = "chat_template";
/// Suffix of a template's name. The template with this suffix calls functions in place of the `{% generation %}` marks.
const WITH_SPANS: &str = " with spans";

impl ChatTemplate {
    /// Loads the template from `path`, a file or a folder, if `path` is given. Otherwise loads the model's own template from
    /// where Hugging Face finds it ([`TemplateSources::of_folder`]). `None` if the model has none.
    ///
    /// # Errors
    /// [`TemplateError`] for files that cannot be read or parsed. A broken file is never skipped in favour of the next.
    pub fn find(
        path: Option<&Path>,
        model_dir: &Path,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let sources = match path {
            Some(path) => Some(TemplateSources::of_path(path)?),
            None => TemplateSources::of_folder_with(model_dir, tokenizer.config())?,
        };
        sources.map(|sources| ChatTemplate::parse(sources, tokenizer.special_tokens(), now())).transpose()
    }

    /// Parses one template. `strftime_now` formats `now`, in seconds since 1970.
    #[cfg(test)]
    pub(crate) fn at_time(
        source: &str,
        origin: String,
        special_tokens: &[(String, String)],
        now: i64,
    ) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::parse(TemplateSources { default: source.to_owned(), tool_use: None, origin }, special_tokens, now)
    }

    /// Parses templates. They can read `special_tokens` by name (`bos_token`). `strftime_now` formats `now`, in seconds since
    /// 1970, so that all rows of a run get the same date in every epoch.
    fn parse(
        sources: TemplateSources,
        special_tokens: &[(String, String)],
        now: i64,
    ) -> Result<ChatTemplate, TemplateError> {
        let TemplateSources { default, tool_use, origin } = sources.clone();
        let mut env = environment(now);
        let mut marks_generation = true;
        let has_tool_use = tool_use.is_some();
        for (name, source) in [(NAME, Some(default)), (TOOL_USE, tool_use)] {
            let Some(source) = source else { continue };
            if source.len() > MAX_TEMPLATE_BYTES {
                return Err(TemplateError::TooLarge { origin, limit: MAX_TEMPLATE_BYTES });
            }
            let source = with_line_feeds(&source);
            let syntax =
                |SourceFault { line, message }| TemplateError::Syntax { origin: origin.clone(), line, message };
            let source = with_strings_of_python(&source).map_err(syntax)?;
            let with_spans = call_generation_spans(&source);
            marks_generation &= with_spans.is_some();
            let plain = (name.to_owned(), strip_generation_tags(&source));
            let with_spans = with_spans.map(|source| (format!("{name}{WITH_SPANS}"), source));
            for (name, source) in [plain].into_iter().chain(with_spans) {
                let source = with_names_of_macros(&source).map_err(syntax)?.into_owned();
                if let Err(e) = with_deep_stack(|| env.add_template_owned(name, source)) {
                    let message = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
                    return Err(TemplateError::Syntax { origin, line: e.line().unwrap_or(0), message });
                }
            }
        }
        Ok(ChatTemplate { env, sources, special_tokens: special_tokens.to_vec(), has_tool_use, marks_generation, now })
    }

    /// Where the template came from, for the start-up summary and for errors.
    pub fn origin(&self) -> &str {
        &self.sources.origin
    }

    /// Returns the sources of the templates, unchanged.
    pub fn sources(&self) -> &TemplateSources {
        &self.sources
    }

    /// Whether every template marks what the assistant says with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// Returns the sources of all templates as they were parsed, joined by NUL. They include the template for tools, and the
    /// templates in which calls replace the marks.
    pub(crate) fn source(&self) -> String {
        let names = [NAME, TOOL_USE].into_iter().flat_map(|name| [name.to_owned(), format!("{name}{WITH_SPANS}")]);
        let source = |name: String| self.env.get_template(&name).map_or(String::new(), |t| t.source().to_owned());
        names.map(source).collect::<Vec<_>>().join("\0")
    }

    /// Time that `strftime_now` formats, in seconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    /// Renders a conversation as [`ChatTemplate::render_with`] does, without tools and variables.
    #[cfg(test)]
    pub(crate) fn render<'m>(
        &self,
        messages: impl IntoIterator<Item = &'m Value>,
        generation_prompt: GenerationPrompt,
    ) -> Result<String, RenderError> {
        self.render_with(messages, generation_prompt, &TemplateInputs::default())
    }

    /// Renders a conversation (its `messages` in order) with its tools and further variables.
    ///
    /// # Errors
    /// [`RenderError`] if the template refused the conversation, failed on it, or did not end within its budget.
    pub fn render_with<'m>(
        &self,
        messages: impl IntoIterator<Item = &'m Value>,
        generation_prompt: GenerationPrompt,
        inputs: &TemplateInputs,
    ) -> Result<String, RenderError> {
        let messages: Vec<Value> = messages.into_iter().map(with_reasoning_aliases).collect();
        self.run(self.env.clone(), self.name_for(inputs), &messages, generation_prompt, inputs)
    }

    /// Returns the text of a whole conversation and the parts inside the `{% generation %}` marks. `None` unless every template
    /// has such marks.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::render_with`], and [`RenderError::Failed`] if the text cannot be marked or the marks change it.
    pub fn render_with_spans<'m>(
        &self,
        messages: impl IntoIterator<Item = &'m Value>,
        inputs: &TemplateInputs,
    ) -> Result<Option<MarkedText>, RenderError> {
        if !self.marks_generation {
            return Ok(None);
        }
        let messages: Vec<Value> = messages.into_iter().map(with_reasoning_aliases).collect();
        let name = self.name_for(inputs);
        let text = self.run(self.env.clone(), name, &messages, GenerationPrompt::Omit, inputs)?;
        // a second rendering puts a character before and another after each span: noncharacters of Unicode that the text does not
        // contain
        let unused = ('\u{fdd0}'..='\u{fdee}').step_by(2).find(|open| !text.contains([*open, after(*open)]));
        let failed = |message: &str| RenderError::Failed { line: 0, message: message.to_owned() };
        let open = unused.ok_or_else(|| failed("the text holds every character that could mark a span"))?;
        let mut env = self.env.clone();
        generation_span(&mut env, open, after(open));
        let marked = self.run(env, &format!("{name}{WITH_SPANS}"), &messages, GenerationPrompt::Omit, inputs)?;

        let (mut spans, mut begun, mut at) = (Vec::new(), None, 0);
        for c in marked.chars() {
            match c {
                c if c == open => begun = begun.or(Some(at)),
                c if c == after(open) => spans.extend(begun.take().map(|start| start..at)),
                c => at += c.len_utf8(),
            }
        }
        let unmarked: String = marked.chars().filter(|c| ![open, after(open)].contains(c)).collect();
        if unmarked != text {
            return Err(failed("what stands inside {% generation %} changes with the marks around it"));
        }
        Ok(Some(MarkedText { text, spans }))
    }

    fn name_for(&self, inputs: &TemplateInputs) -> &'static str {
        if self.has_tool_use && inputs.tools.is_some() { TOOL_USE } else { NAME }
    }

    fn run(
        &self,
        mut env: Environment<'static>,
        name: &str,
        messages: &[Value],
        generation_prompt: GenerationPrompt,
        inputs: &TemplateInputs,
    ) -> Result<String, RenderError> {
        let tools = inputs.tools.as_deref().unwrap_or_default();
        let fuel = FUEL + FUEL_PER_MESSAGE * (messages.len() + tools.len()) as u64;
        let input: usize = messages.iter().chain(tools).chain(inputs.kwargs.values()).map(text_bytes).sum();
        let limit = OUTPUT_BYTES.saturating_add(OUTPUT_BYTES_PER_INPUT_BYTE.saturating_mul(input));

        let mut context: Vec<(&str, Variable)> =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Variable::from(token.as_str()))).collect();
        context.extend([
            ("messages", Variable::from(Serde(messages))),
            ("tools", Variable::from(Serde(&inputs.tools))),
            ("documents", Variable::from(())),
            ("add_generation_prompt", Variable::from(generation_prompt == GenerationPrompt::Add)),
        ]);
        // if a name has two values, the later one counts
        context.extend(inputs.kwargs.iter().map(|(name, value)| (name.as_str(), Variable::from(Serde(value)))));

        env.set_fuel(Some(fuel));
        with_deep_stack(|| {
            let mut out = CappedText { text: Vec::new(), limit, full: false };
            let template = env.get_template(name).expect("the template was added when it was parsed");
            let rendered = template.render_captured_to(Variable::from_pairs(context), &mut out).map(drop);
            if out.full {
                return Err(RenderError::TooMuchOutput { limit });
            }
            rendered.map_err(|e| render_error(&e, fuel))?;
            String::from_utf8(out.text)
                .map_err(|_| RenderError::Failed { line: 0, message: "the output is not UTF-8".to_owned() })
        })
    }
}

/// Returns the next character. Panics if the next code point is not a character.
fn after(c: char) -> char {
    char::from_u32(c as u32 + 1).expect("the characters that mark spans have a next one")
}

/// Returns the current second since 1970.
fn now() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(0, |elapsed| i64::try_from(elapsed.as_secs()).unwrap_or(0))
}

/// Fields that may hold a turn's reasoning. The template gets the first one that is not null as `reasoning_content`, and also as
/// `thinking` if the turn has no such field.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Returns a message as the template sees it. Older names of the reasoning field become the standard one, and `thinking` is set
/// for templates that read it (transformers 5.23, `_alias_reasoning_fields`).
fn with_reasoning_aliases(message: &Value) -> Value {
    let Value::Object(fields) = message else { return message.clone() };
    let reasoning = REASONING.iter().filter_map(|name| fields.get(*name)).find(|v| !v.is_null());
    let Some(reasoning) = reasoning else { return message.clone() };
    let mut aliased = serde_json::Map::new();
    aliased.insert("thinking".to_owned(), reasoning.clone());
    aliased.extend(fields.clone());
    aliased.insert("reasoning_content".to_owned(), reasoning.clone());
    Value::Object(aliased)
}

/// Returns the total bytes of all strings in a value, including keys. It recurses; the row parser limits the depth.
pub(crate) fn text_bytes(value: &Value) -> usize {
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

/// A writer that fails if the text would exceed `limit` bytes.
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::at_time(source, "test".to_owned(), &[], 0)
    }

    fn render(source: &str) -> Result<String, RenderError> {
        let parsed = template(source).unwrap_or_else(|e| panic!("{source:.80}: {e}"));
        parsed.render(&[json!({"role": "user", "content": "hi"})], GenerationPrompt::Add)
    }

    /// Templates nested as deeply as their size allows are parsed or refused; the stack does not overflow.
    #[test]
    fn deeply_nested_templates_parse_or_are_refused() {
        for source in [
            format!("{{{{ {}1 }}}}", "-".repeat(130_000)),
            format!("{{{{ {}1 }}}}", "not ".repeat(32_000)),
            format!("{{{{ {}1 }}}}", "1+".repeat(64_000)),
            format!("{{{{ 'x'{} }}}}", "|list".repeat(25_000)),
        ] {
            render(&source).unwrap_or_else(|e| panic!("{source:.40}: {e}"));
        }
        let nested = format!("{}{}", "{% if 1 %}".repeat(5_000), "{% endif %}".repeat(5_000));
        assert!(matches!(template(&nested), Err(TemplateError::Syntax { .. })));
        let huge = "x".repeat(MAX_TEMPLATE_BYTES + 1);
        assert!(matches!(template(&huge), Err(TemplateError::TooLarge { .. })));
    }

    #[test]
    fn templates_that_loop_end() {
        let nested = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
        assert_eq!(render(nested), Err(RenderError::Endless { fuel: FUEL + FUEL_PER_MESSAGE }));
        let macros = "{% macro f(n) %}{% for i in range(90000) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}";
        assert!(matches!(render(macros), Err(RenderError::Endless { .. } | RenderError::Failed { .. })));
        for recursion in [
            "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
            "{% include 'chat_template' %}",
            "{% extends 'chat_template' %}",
            "{% import 'chat_template' as again %}",
            "{% for i in range(1000000000) %}{% endfor %}",
        ] {
            assert!(matches!(render(recursion), Err(RenderError::Failed { .. })), "{recursion}");
        }
    }

    #[test]
    fn templates_that_write_without_end_are_stopped() {
        let text = format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "x".repeat(1000));
        assert!(matches!(render(&text), Err(RenderError::TooMuchOutput { .. })));
        for wide in [
            "{{ '{:999999999}'.format(1) }}",
            "{{ '%999999999d' | format(1) }}",
            "{{ 'x' | indent(999999999, true) }}",
            "{{ 'x' | indent(width=999999999, first=true) }}",
            "{{ '%*d' | format(999999999, 1) }}",
            "{{ '{:{}}'.format(1, 999999999) }}",
        ] {
            assert!(matches!(render(wide), Err(RenderError::Failed { .. })), "{wide}");
        }
    }

    /// Deeply nested values can be freed, compared and joined. Printing one is refused. The stack does not overflow.
    #[test]
    fn deeply_nested_values_do_no_harm() {
        let nest = "{% set ns = namespace(x=[], y=[]) %}{% for i in range(50000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}";
        assert_eq!(render(nest).as_deref(), Ok(""));
        assert_eq!(render(&format!("{nest}{{{{ ns.x == ns.y }}}}")).as_deref(), Ok("True"));
        assert_eq!(render(&format!("{nest}{{{{ (ns.x ~ '') | length }}}}")).as_deref(), Ok("100002"));
        for shown in ["{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x | string }}"] {
            assert!(matches!(render(&format!("{nest}{shown}")), Err(RenderError::Failed { .. })), "{shown}");
        }
    }

    #[test]
    fn failures_name_the_line_and_refusals_the_words() {
        assert_eq!(
            render("a\n\n{{ raise_exception('no such role') }}"),
            Err(RenderError::Refused { message: "no such role".to_owned() })
        );
        assert!(matches!(render("a\n\n{{ messages[0].a.b }}"), Err(RenderError::Failed { line: 3, .. })));
        assert!(matches!(template("a\n{% if %}"), Err(TemplateError::Syntax { line: 2, .. })));
    }

    /// Cached tokens are used again only if [`ChatTemplate::source`] is unchanged, so it must differ if any template differs.
    #[test]
    fn the_source_is_that_of_all_templates() {
        let source = |default: &str, tool_use: Option<&str>| {
            let tool_use = tool_use.map(str::to_owned);
            let sources = TemplateSources { default: default.to_owned(), tool_use, origin: "test".to_owned() };
            ChatTemplate::parse(sources, &[], 0).unwrap().source()
        };
        let marked = "{% generation %}a{% endgeneration %}";
        let all = [
            source("a", None),
            source("a", Some("b")),
            source("a", Some("c")),
            source(marked, None),
            source(&strip_generation_tags(marked), None),
        ];
        let different: std::collections::HashSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
    }

    /// The first template that exists is used, even if it is broken: the given file, then chat_template.jinja, then
    /// tokenizer_config.json.
    #[test]
    fn templates_are_found_in_the_documented_places() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny-llama/model/tokenizer.json");
        fs::copy(tiny, model.join("tokenizer.json")).unwrap();
        let find = |file: Option<&Path>| ChatTemplate::find(file, model, &Tokenizer::from_dir(model).unwrap());
        let said = |file: Option<&Path>| find(file).unwrap().unwrap().render(&[], GenerationPrompt::Omit).unwrap();
        let config = |value: Value| {
            fs::write(model.join("tokenizer_config.json"), json!({"chat_template": value}).to_string()).unwrap();
        };

        assert!(find(None).unwrap().is_none());
        config(Value::Null);
        assert!(find(None).unwrap().is_none());
        config(json!("from the config"));
        assert_eq!(said(None), "from the config");
        config(json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "the default"}]));
        assert_eq!(said(None), "the default");
        config(json!([{"name": "tool_use", "template": "tools"}]));
        assert!(matches!(find(None), Err(TemplateError::NoDefault { found, .. }) if found == ["tool_use"]));
        config(json!(3));
        assert!(matches!(find(None), Err(TemplateError::NoDefault { .. })));
        fs::write(model.join("chat_template.jinja"), "from the file beside").unwrap();
        assert_eq!(said(None), "from the file beside");
        let given = model.join("given.jinja");
        assert!(matches!(find(Some(&given)), Err(TemplateError::Io { path, .. }) if path == given));
        fs::write(&given, "as given").unwrap();
        assert_eq!(said(Some(&given)), "as given");
        fs::write(&given, b"\xff").unwrap();
        assert!(matches!(find(Some(&given)), Err(TemplateError::Utf8 { .. })));
        fs::write(&given, "{% endfor %}").unwrap();
        assert!(matches!(find(Some(&given)), Err(TemplateError::Syntax { .. })));
        fs::write(&given, vec![b'x'; MAX_TEMPLATE_BYTES + 1]).unwrap();
        assert!(matches!(find(Some(&given)), Err(TemplateError::TooLarge { .. })));
    }
}
