//! Python's side of a chat template: what Hugging Face templates expect of Jinja2 and find different in minijinja.
//!
//! Follows `transformers/utils/chat_template_utils.py` 5.23 (`_cached_compile_jinja_template`) and CPython's `str`, `json` and
//! `repr`; `tests/goldens/templates.json` holds what that code renders.

use std::fmt::Write as _;
use std::sync::LazyLock;

use minijinja::formatting::FormatStyle;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State};

/// Deepest nesting that `tojson` and `repr` follow.
const MAX_DEPTH: usize = 200;

/// What a template said through `raise_exception`; the source of the error that ends the rendering.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

/// Jinja as Hugging Face sets it up. `now` is the second since 1970 that `strftime_now` formats, in local time.
pub fn environment(now: i64) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_debug(false); // or errors would carry all variables of the template
    env.set_formatter(python_formatter);
    env.set_unknown_method_callback(python_method);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| text_of(value));
    env.add_filter("trim", |value: &Value, positional: Rest<Value>, kwargs: Kwargs| {
        let [chars] = arguments(&positional, &kwargs, ["chars"])?;
        let chars = chars.as_ref().filter(|chars| !chars.is_none());
        text_of(value).map(|text| strip(&text, chars.and_then(Value::as_str), Side::Both).to_owned())
    });
    env.add_filter("replace", replace);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("items", |value: &Value| match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        _ => minijinja::filters::items(value),
    });
    // of equal items Python takes the first
    env.add_filter("max", |state: &State, value: &Value, kwargs: Kwargs| {
        let mut items: Vec<Value> = value.try_iter()?.collect();
        items.reverse();
        minijinja::filters::max(state, Value::from(items), kwargs)
    });
    env.add_test("callable", |value: &Value| value.is_undefined() || value.kind() == ValueKind::Plain);
    // None is not iterable in Python, and strings and dicts are sequences to Jinja2
    env.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
        )
    });
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    });
    env.remove_filter("pprint"); // takes the square of the depth in time
    env.add_filter("indent", indent);
    env.add_filter("format", |template: &str, args: Rest<Value>| {
        check_format(template)?;
        minijinja::formatting::format(FormatStyle::Printf, template, &args)
    });
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: &str| strftime(now, format));
    env
}

/// `{% generation %}` and `{% endgeneration %}`: the whitespace control in front, `end`, the one behind.
static GENERATION_TAG: LazyLock<fancy_regex::Regex> =
    LazyLock::new(|| fancy_regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern"));

/// Replaces `{% generation %}` ... `{% endgeneration %}`, which mark the assistant's text for training masks, by a block that
/// renders its body. `with` opens a scope of its own, as the original does; the whitespace controls stay.
pub fn strip_generation_tags(source: &str) -> String {
    GENERATION_TAG.replace_all(source, "{%$1 ${2}with $3%}").into_owned()
}

/// What [`generation_span`] is called in templates.
const SPAN: &str = "align_generation_span";

/// Replaces `{% generation %}` ... `{% endgeneration %}` by calls of [`generation_span`], as the original is a call; `None` for
/// a template without them.
pub fn call_generation_spans(source: &str) -> Option<String> {
    let called = GENERATION_TAG.replace_all(source, |tag: &fancy_regex::Captures<'_>| {
        let group = |i: usize| tag.get(i).map_or("", |group| group.as_str());
        match group(2) {
            "end" => format!("{{%{} endcall {}%}}", group(1), group(3)),
            _ => format!("{{%{} call {SPAN}() {}%}}", group(1), group(3)),
        }
    });
    (called != source).then(|| called.into_owned())
}

/// Puts `open` and `close` around what stands inside the calls of [`call_generation_spans`].
pub fn generation_span(env: &mut Environment<'_>, open: char, close: char) {
    env.add_function(SPAN, move |state: &mut State, kwargs: Kwargs| -> Result<Value, Error> {
        let caller: Value = kwargs.get("caller")?;
        let text = text_of(&caller.call(state, &[])?)?;
        Ok(Value::from(format!("{open}{text}{close}")))
    });
}

/// Widest padding that a template may ask for in one step. One instruction could otherwise make gigabytes.
const MAX_WIDTH: usize = 9_999;

fn check_width(width: usize) -> Result<(), Error> {
    if width > MAX_WIDTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("a width of {width} is more than {MAX_WIDTH}")));
    }
    Ok(())
}

/// `indent(width=4, first=False, blank=False)`: the width may be a text, and a line end at the end stays.
fn indent(text: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let text = text.as_str().ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("indent: the value must be a string, not {}", text.kind()))
    })?;
    let [width, first, blank] = arguments(&positional, &kwargs, ["width", "first", "blank"])?;
    let indention = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = usize::try_from(i64::try_from(width.clone())?).unwrap_or(0);
                check_width(width)?;
                " ".repeat(width)
            }
        },
    };
    let mut out = if first.is_some_and(|v| v.is_true()) { indention.clone() } else { String::new() };
    let blank = blank.is_some_and(|v| v.is_true());
    for (i, line) in split_lines(&format!("{text}\n"), false).iter().enumerate() {
        if i > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

/// The arguments of a filter by place or by name. Refuses others, and one that is given twice.
fn arguments<const N: usize>(
    positional: &[Value],
    kwargs: &Kwargs,
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    if positional.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut found = [const { None }; N];
    for (i, name) in names.into_iter().enumerate() {
        let named: Option<Value> = kwargs.get(name)?;
        if named.is_some() && i < positional.len() {
            return Err(Error::new(ErrorKind::TooManyArguments, format!("duplicate argument `{name}`")));
        }
        found[i] = named.or_else(|| positional.get(i).cloned());
    }
    kwargs.assert_all_used()?;
    Ok(found)
}

/// `replace(s, old, new, count=None)`.
fn replace(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [old, new, count] = arguments(&positional, &kwargs, ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else { return Err(Error::from(ErrorKind::MissingArgument)) };
    let (text, old, new) = (text_of(value)?, text_of(&old)?, text_of(&new)?);
    let count = match count.filter(|count| !count.is_none()) {
        None => usize::MAX,
        Some(count) => usize::try_from(i64::try_from(count)?).unwrap_or(usize::MAX), // negative: all
    };
    Ok(Value::from(text.replacen(&old, &new, count)))
}

/// `default(value, default_value='', boolean=False)`.
fn default(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [other, boolean] = arguments(&positional, &kwargs, ["default_value", "boolean"])?;
    let is_missing = value.is_undefined() || (boolean.is_some_and(|v| v.is_true()) && !value.is_true());
    Ok(if is_missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// `length(value)`: 0 of what is undefined.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// `int(value, default=0, base=10)`: a text that is no number is the default.
fn int(state: &State, value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [other, base] = arguments(&positional, &kwargs, ["default", "base"])?;
    let other = other.unwrap_or_else(|| Value::from(0));
    let base = base.map_or(Ok(10), u32::try_from)?;
    if !(2..=36).contains(&base) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("int: base {base}")));
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => {
            let none: Option<Value> = None;
            minijinja::filters::int(state, value, none, None, Kwargs::from_iter(Vec::<(String, Value)>::new()))
        }
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let whole = python_digits(text).and_then(|digits| {
                let (sign, digits) = match digits.strip_prefix(['-', '+']) {
                    Some(rest) if digits.starts_with('-') => ("-", rest.to_owned()),
                    Some(rest) => ("", rest.to_owned()),
                    None => ("", digits),
                };
                let lower = digits.to_lowercase();
                let prefix = match base {
                    2 => "0b",
                    8 => "0o",
                    16 => "0x",
                    _ => "",
                };
                let digits = lower.strip_prefix(prefix).unwrap_or(&lower);
                if digits.starts_with(['-', '+']) {
                    return None;
                }
                i128::from_str_radix(&format!("{sign}{digits}"), base).ok()
            });
            match (whole, python_float(text)) {
                (Some(whole), _) => Ok(Value::from(whole)),
                (None, Some(x)) if x.is_finite() && x.abs() < 1e38 => Ok(Value::from(x as i128)),
                (None, Some(x)) if x.is_finite() => {
                    Err(Error::new(ErrorKind::InvalidOperation, format!("int: {x} is too large")))
                }
                _ => Ok(other),
            }
        }
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "int of an undefined value")),
        _ => Ok(other),
    }
}

/// `float(value, default=0.0)`: what is no number is the default.
fn float(state: &State, value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [other] = arguments(&positional, &kwargs, ["default"])?;
    let other = other.unwrap_or_else(|| Value::from(0.0));
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => {
            minijinja::filters::float(state, value, None, Kwargs::from_iter(Vec::<(String, Value)>::new()))
        }
        ValueKind::String => Ok(python_float(value.as_str().unwrap_or_default()).map_or(other, Value::from)),
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "float of an undefined value")),
        _ => Ok(other),
    }
}

/// A number as a text of Python's has it, without the space around it and single underscores in it; `None` if it is none.
fn python_digits(text: &str) -> Option<String> {
    let text = strip(text, None, Side::Both);
    let stray = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!stray && !text.is_empty()).then(|| text.replace('_', ""))
}

fn python_float(text: &str) -> Option<f64> {
    python_digits(text)?.parse().ok()
}

/// `escape(s)` of MarkupSafe.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let mut out = String::new();
    for c in text_of(value)?.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from_safe_string(out))
}

/// Refuses a format string that asks for a great width, or takes one from its arguments (`%*d`, `{:{}}`).
fn check_format(template: &str) -> Result<(), Error> {
    for digits in template.split(|c: char| !c.is_ascii_digit()) {
        check_width(digits.parse().unwrap_or(if digits.is_empty() { 0 } else { usize::MAX }))?;
    }
    let inner = |open: &str| template.match_indices(open).any(|(at, _)| template[at + 1..].starts_with(['*', '{']));
    if inner("%") || inner(":") {
        return Err(Error::new(ErrorKind::InvalidOperation, "format: a width from an argument"));
    }
    Ok(())
}

/// Output of `{{ value }}`: Python's `str(value)`.
fn python_formatter(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Number => {
            out.write_str(&text_of(value)?).map_err(|_| Error::from(ErrorKind::WriteFailure))
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Python's `str(value)`.
fn text_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => {}
        _ => repr(&mut out, value, 0)?,
    }
    Ok(out)
}

/// Python's `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply to be shown"));
    }
    match value.kind() {
        ValueKind::String => repr_str(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(out, &key, depth + 1)?;
                out.push_str(": ");
                repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (i, item) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(out, &item, depth + 1)?;
            }
            if value.is_tuple() && value.len() == Some(1) {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        // None, True, False: minijinja writes them as Python does
        _ => write!(out, "{value}").expect("a String takes everything"),
    }
    Ok(())
}

/// A string literal as Python writes it: single quotes unless only those occur in it.
fn repr_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let written = match c as u32 {
                    code @ ..0x100 => write!(out, "\\x{code:02x}"),
                    code @ ..0x10000 => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
                written.expect("a String takes everything");
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable` of one character: Rust's `escape_debug` leaves the same ones as they are, combining ones only behind
/// another character.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && format!("a{c}").escape_debug().eq(['a', c]))
}

/// A number as Python writes it: `1e+16`, `0.1`, `1.0`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) if x.is_nan() => "nan".to_owned(),
        Ok(x) if x.is_infinite() => if x > 0.0 { "inf" } else { "-inf" }.to_owned(),
        Ok(x) => {
            // Rust's Debug is the shortest text that reads back, with Python's thresholds but without `+` and padding
            let text = format!("{x:?}");
            match text.split_once('e') {
                Some((mantissa, exponent)) => {
                    let exponent: i32 = exponent.parse().expect("Debug of a float ends in a whole exponent");
                    format!("{mantissa}e{exponent:+03}")
                }
                None => text,
            }
        }
        Err(_) => value.to_string(),
    }
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: `json.dumps`, without HTML escapes.
fn tojson(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    if positional.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| positional.get(place).cloned()).filter(|v| !v.is_none()))
    };
    let ensure_ascii = argument(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(v) if v.kind() == ValueKind::String => v.as_str().map(str::to_owned),
        Some(v) => Some(" ".repeat(usize::try_from(i64::try_from(v)?.clamp(0, 64)).unwrap_or(0))),
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = argument(2, "separators")? {
        let both: Vec<String> = separators.try_iter()?.map(|s| s.to_string()).collect();
        let [for_items, for_keys] = <[String; 2]>::try_from(both)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"))?;
        (item, key) = (for_items, for_keys);
    }
    let sort_keys = argument(3, "sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let mut writer = JsonWriter { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// Writes values as CPython's `json.dumps`.
struct JsonWriter {
    out: String,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

impl JsonWriter {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.break_line(i, depth + 1);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                        ValueKind::Number => self.string(&json_number(key)),
                        ValueKind::Bool => self.string(if key.is_true() { "true" } else { "false" }),
                        ValueKind::None => self.string("null"),
                        other => {
                            let message = format!("tojson: keys must be str, int, float, bool or None, not {other}");
                            return Err(Error::new(ErrorKind::InvalidOperation, message));
                        }
                    }
                    self.out.push_str(&self.key);
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.end(keys.is_empty(), depth, '}');
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut empty = true;
                for (i, item) in value.try_iter()?.enumerate() {
                    empty = false;
                    self.break_line(i, depth + 1);
                    self.value(&item, depth + 1)?;
                }
                self.end(empty, depth, ']');
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {other} is not JSON serializable"),
                ));
            }
        }
        Ok(())
    }

    /// What stands before item `i`.
    fn break_line(&mut self, i: usize, depth: usize) {
        if i > 0 {
            self.out.push_str(&self.item);
        }
        self.new_line(depth);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn end(&mut self, empty: bool, depth: usize, close: char) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(close);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\x08' => self.out.push_str("\\b"),
                '\x0c' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.out, "\\u{unit:04x}").expect("a String takes everything");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number as `json.dumps` writes it: `repr`, and `NaN` and `Infinity`.
fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        finite => finite.to_owned(),
    }
}

/// Methods of `str`, `list` and `dict` that templates use: those where Python and minijinja's collection differ or which that
/// lacks, then that collection.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        match method {
            "strip" | "lstrip" | "rstrip" => {
                let (chars,): (Option<&str>,) = from_args(args)?;
                let side = match method {
                    "strip" => Side::Both,
                    "lstrip" => Side::Left,
                    _ => Side::Right,
                };
                return Ok(Value::from(strip(text, chars, side)));
            }
            "split" | "rsplit" => {
                let (separator, limit) = split_arguments(args)?;
                return split(
                    text,
                    separator.as_deref(),
                    limit,
                    if method == "split" { Side::Left } else { Side::Right },
                );
            }
            "splitlines" => {
                let (keep_ends,): (Option<bool>,) = from_args(args)?;
                return Ok(Value::from(split_lines(text, keep_ends.unwrap_or(false))));
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                let parts =
                    if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
                return Ok(Value::from(match (parts, method) {
                    (Some((before, after)), _) => (before, separator, after),
                    (None, "partition") => (text, "", ""),
                    (None, _) => ("", "", text),
                }));
            }
            "format" => {
                check_format(text)?;
                return minijinja::formatting::format(FormatStyle::StrFormat, text, args).map(Value::from);
            }
            "title" => {
                let () = from_args(args)?;
                let mut after_cased = false;
                let mut out = String::with_capacity(text.len());
                for c in text.chars() {
                    if after_cased {
                        out.extend(c.to_lowercase())
                    } else {
                        out.extend(c.to_uppercase())
                    }
                    after_cased = c.is_lowercase() || c.is_uppercase();
                }
                return Ok(Value::from(out));
            }
            "isspace" => return Ok(Value::from(!text.is_empty() && text.chars().all(is_space))),
            _ => {}
        }
    } else if method == "index" && value.kind() == ValueKind::Seq {
        let (wanted,): (&Value,) = from_args(args)?;
        let place = value.try_iter()?.position(|item| item == *wanted);
        return place
            .map(Value::from)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list")));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// `str.isspace` of one character. Rust's White_Space lacks the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Both,
}

/// `str.strip`, `lstrip`, `rstrip`: whitespace, or any of `chars`.
fn strip<'t>(text: &'t str, chars: Option<&str>, side: Side) -> &'t str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if side == Side::Right { text } else { text.trim_start_matches(goes) };
    if side == Side::Left { text } else { text.trim_end_matches(goes) }
}

/// `(sep=None, maxsplit=-1)`, by place or by name.
fn split_arguments(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    if positional.len() > 2 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| positional.get(place).cloned()).filter(|v| !v.is_none()))
    };
    let separator = match argument(0, "sep")? {
        None => None,
        Some(v) => match v.as_str() {
            Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
            Some(text) => Some(text.to_owned()),
            None => return Err(Error::new(ErrorKind::InvalidOperation, "the separator must be a string")),
        },
    };
    let limit = match argument(1, "maxsplit")? {
        None => None,
        Some(v) => usize::try_from(i64::try_from(v)?).ok(), // negative: no limit
    };
    kwargs.assert_all_used()?;
    Ok((separator, limit))
}

/// `str.split` (from the left) and `str.rsplit`.
fn split(text: &str, separator: Option<&str>, limit: Option<usize>, from: Side) -> Result<Value, Error> {
    let pieces = limit.map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from) {
        (Some(separator), Side::Right) => text.rsplitn(pieces, separator).collect(),
        (Some(separator), _) => text.splitn(pieces, separator).collect(),
        (None, _) => {
            // at runs of whitespace; the last of limited pieces keeps all the rest but the whitespace that divides it
            let near = |text| strip(text, None, from);
            let mut parts = Vec::new();
            let mut rest = near(text);
            while !rest.is_empty() {
                if parts.len() + 1 == pieces {
                    parts.push(rest);
                    break;
                }
                let (part, after) = if from == Side::Right {
                    let space = rest.char_indices().rfind(|&(_, c)| is_space(c));
                    let cut = space.map_or(0, |(at, c)| at + c.len_utf8());
                    (&rest[cut..], &rest[..cut])
                } else {
                    rest.split_at(rest.find(is_space).unwrap_or(rest.len()))
                };
                parts.push(part);
                rest = near(after);
            }
            parts
        }
    };
    if from == Side::Right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// `str.splitlines`.
fn split_lines(text: &str, keep_ends: bool) -> Vec<String> {
    let is_break =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(rest[..if keep_ends { end } else { at }].to_owned());
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

/// `datetime.now().strftime(format)` for a given second, in the zone of the machine and the C locale.
pub(super) fn strftime(now: i64, format: &str) -> Result<String, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {why}"));
    let c_format = std::ffi::CString::new(format).map_err(|_| refuse("the format holds a NUL"))?;
    if format.is_empty() {
        return Ok(String::new());
    }
    // SAFETY: tm is plain data of integers and a pointer, for which zero is a value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    let seconds = libc::time_t::from(now);
    // SAFETY: both pointers are to live locals; localtime_r keeps neither.
    if unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null() {
        return Err(refuse("the clock is out of range"));
    }
    // One conversion makes at most some tens of bytes of two; a format that asks for padded widths ("%9999999d") is refused.
    let mut text = vec![0u8; 256 + 64 * format.len()];
    // SAFETY: `text` has text.len() writable bytes, c_format ends in NUL, tm was filled by localtime_r.
    let written = unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), c_format.as_ptr(), &raw const tm) };
    if written == 0 {
        return Err(refuse("the format makes no text, or far too much"));
    }
    text.truncate(written);
    String::from_utf8(text).map_err(|_| refuse("the text is not UTF-8"))
}
