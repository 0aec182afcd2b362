//! Sets minijinja up for Hugging Face templates, which expect Jinja2 and Python where minijinja behaves differently.
//!
//! Follows `transformers/utils/chat_template_utils.py` 5.23 (`_cached_compile_jinja_template`) and CPython's `str`, `json` and
//! `repr`; `tests/goldens/templates.json` holds what that code renders.

use std::sync::LazyLock;

use minijinja::formatting::FormatStyle;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::python_text::{
    JsonWriter, Side, arguments, check_format, check_width, invalid, python_digits, python_float, python_method,
    split_lines, strip, text_of, without_none,
};

/// The message that a template passed to `raise_exception`. It is the source of the error that ends the rendering.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Raised(pub String);

/// Returns a Jinja environment like that of transformers. `now` is the second since 1970 that `strftime_now` formats, in local
/// time.
pub(crate) fn environment(now: i64) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the default delimiters are valid"));
    env.set_debug(false); // otherwise, errors would carry all variables of the template
    env.set_formatter(python_formatter);
    env.set_unknown_method_callback(python_method);
    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: &Value| text_of(value));
    env.add_filter("trim", |value: &Value, positional: Rest<Value>, kwargs: Kwargs| {
        let [chars] = without_none(arguments(&positional, &kwargs, ["chars"])?);
        let chars = chars.as_ref().and_then(Value::as_str);
        text_of(value).map(|text| strip(&text, chars, Side::Both).to_owned())
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
    // Python takes the first of equal items
    env.add_filter("max", |state: &State, value: &Value, kwargs: Kwargs| {
        let mut items: Vec<Value> = value.try_iter()?.collect();
        items.reverse();
        minijinja::filters::max(state, Value::from(items), kwargs)
    });
    env.add_test("callable", |value: &Value| value.is_undefined() || value.kind() == ValueKind::Plain);
    // None is not iterable in Python, and strings and dicts are sequences to Jinja2
    let is_sequence = |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
    };
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", move |value: &Value| is_sequence(value) || value.kind() == ValueKind::Iterable);
    env.remove_filter("pprint"); // its time grows with the square of the depth
    env.add_filter("indent", indent);
    env.add_filter("format", |template: &str, args: Rest<Value>| {
        check_format(template)?;
        minijinja::formatting::format(FormatStyle::Printf, template, &args)
    });
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(invalid(message.clone()).with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: &str| strftime(now, format));
    env
}

/// Matches `{% generation %}` and `{% endgeneration %}`. Groups: whitespace control in front, `end`, whitespace control behind.
static GENERATION_TAG: LazyLock<fancy_regex::Regex> =
    LazyLock::new(|| fancy_regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("a valid pattern"));

/// Replaces `{% generation %}` ... `{% endgeneration %}`, which mark the assistant's text for training masks, with a block that
/// renders its body. `with` opens a new scope, as `generation` does in transformers. The whitespace controls stay.
pub(crate) fn strip_generation_tags(source: &str) -> String {
    GENERATION_TAG.replace_all(source, "{%$1 ${2}with $3%}").into_owned()
}

/// The name of [`generation_span`] in templates.
const SPAN: &str = "align_generation_span";

/// Replaces `{% generation %}` ... `{% endgeneration %}` with calls of [`generation_span`], since these tags make a call in
/// transformers, too. `None` for a template without these tags.
pub(crate) fn call_generation_spans(source: &str) -> Option<String> {
    let called = GENERATION_TAG.replace_all(source, |tag: &fancy_regex::Captures<'_>| {
        let group = |i: usize| tag.get(i).map_or("", |group| group.as_str());
        match group(2) {
            "end" => format!("{{%{} endcall {}%}}", group(1), group(3)),
            _ => format!("{{%{} call {SPAN}() {}%}}", group(1), group(3)),
        }
    });
    (called != source).then(|| called.into_owned())
}

/// Adds the function that sources from [`call_generation_spans`] call. It puts `open` and `close` around the content of a call.
pub(crate) fn generation_span(env: &mut Environment<'_>, open: char, close: char) {
    env.add_function(SPAN, move |state: &mut State, kwargs: Kwargs| -> Result<Value, Error> {
        let caller: Value = kwargs.get("caller")?;
        let text = text_of(&caller.call(state, &[])?)?;
        Ok(Value::from(format!("{open}{text}{close}")))
    });
}

/// `indent(width=4, first=False, blank=False)`. If the width is a string, lines are indented by that string. A line end at the end
/// of the text stays.
fn indent(text: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let no_text = || invalid(format!("indent: the value must be a string, not {}", text.kind()));
    let text = text.as_str().ok_or_else(no_text)?;
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

/// `replace(s, old, new, count=None)`.
fn replace(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [old, new, count] = arguments(&positional, &kwargs, ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else { return Err(Error::from(ErrorKind::MissingArgument)) };
    let (text, old, new) = (text_of(value)?, text_of(&old)?, text_of(&new)?);
    let count = match count.filter(|count| !count.is_none()) {
        None => usize::MAX,
        Some(count) => usize::try_from(i64::try_from(count)?).unwrap_or(usize::MAX), // a negative count replaces all
    };
    Ok(Value::from(text.replacen(&old, &new, count)))
}

/// `default(value, default_value='', boolean=False)`.
fn default(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [other, boolean] = arguments(&positional, &kwargs, ["default_value", "boolean"])?;
    let is_missing = value.is_undefined() || (boolean.is_some_and(|v| v.is_true()) && !value.is_true());
    Ok(if is_missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// `length(value)`. An undefined value has length 0.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// `int(value, default=0, base=10)`. A value that is not a number gives the default.
fn int(state: &State, value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let [other, base] = arguments(&positional, &kwargs, ["default", "base"])?;
    let other = other.unwrap_or_else(|| Value::from(0));
    let base = base.map_or(Ok(10), u32::try_from)?;
    if !(2..=36).contains(&base) {
        return Err(invalid(format!("int: base {base}")));
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => {
            minijinja::filters::int(state, value, None, None, Kwargs::from_iter(Vec::<(String, Value)>::new()))
        }
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let whole = python_digits(text).and_then(|digits| {
                let lower = digits.to_lowercase();
                let (sign, digits) = lower.split_at(usize::from(lower.starts_with(['-', '+'])));
                let without_prefix = match base {
                    2 => digits.strip_prefix("0b"),
                    8 => digits.strip_prefix("0o"),
                    16 => digits.strip_prefix("0x"),
                    _ => None,
                };
                let digits = without_prefix.unwrap_or(digits);
                let is_signed_twice = digits.starts_with(['-', '+']);
                i128::from_str_radix(&[sign, digits].concat(), base).ok().filter(|_| !is_signed_twice)
            });
            match (whole, python_float(text)) {
                (Some(whole), _) => Ok(Value::from(whole)),
                (None, Some(x)) if x.is_finite() && x.abs() < 1e38 => Ok(Value::from(x as i128)),
                (None, Some(x)) if x.is_finite() => Err(invalid(format!("int: {x} is too large"))),
                _ => Ok(other),
            }
        }
        ValueKind::Undefined => Err(Error::new(ErrorKind::UndefinedError, "int of an undefined value")),
        _ => Ok(other),
    }
}

/// `float(value, default=0.0)`. A value that is not a number gives the default.
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

/// `escape(s)` of MarkupSafe.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = text_of(value)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::from_safe_string(text.replace('"', "&#34;").replace('\'', "&#39;")))
}

/// Writes `{{ value }}` as Python's `str(value)`.
fn python_formatter(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Number => {
            out.write_str(&text_of(value)?).map_err(|_| Error::from(ErrorKind::WriteFailure))
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: `json.dumps`, without HTML escapes.
fn tojson(value: &Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = without_none(arguments(&positional, &kwargs, names)?);
    let ensure_ascii = ensure_ascii.is_some_and(|v| v.is_true());
    let indent = match indent {
        None => None,
        Some(v) if v.kind() == ValueKind::String => v.as_str().map(str::to_owned),
        Some(v) => Some(" ".repeat(usize::try_from(i64::try_from(v)?.clamp(0, 64)).unwrap_or(0))),
    };
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = separators {
        let both: Vec<String> = separators.try_iter()?.map(|s| s.to_string()).collect();
        let refused = |_| invalid("tojson: separators must be two strings");
        [item, key] = <[String; 2]>::try_from(both).map_err(refused)?;
    }
    let sort_keys = sort_keys.is_some_and(|v| v.is_true());
    let mut writer = JsonWriter { out: String::new(), ensure_ascii, indent, item, key, sort_keys };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

/// Returns `datetime.now().strftime(format)` for a given second, in the local time zone and the C locale.
#[expect(unsafe_code, reason = "the C library has the only strftime that Python's is")]
pub(crate) fn strftime(now: i64, format: &str) -> Result<String, Error> {
    let refuse = |why: &str| invalid(format!("strftime_now: {why}"));
    let c_format = std::ffi::CString::new(format).map_err(|_| refuse("the format holds a NUL"))?;
    if format.is_empty() {
        return Ok(String::new());
    }
    // SAFETY: `tm` is plain data, integers and a pointer, and all-zero bytes are a valid value for each of them.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    let seconds = libc::time_t::from(now);
    // SAFETY: both pointers point to live locals, and localtime_r keeps neither after the call.
    if unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) }.is_null() {
        return Err(refuse("the clock is out of range"));
    }
    // One conversion turns two bytes into at most some tens of bytes; a format with padded widths ("%9999999d") is refused.
    let mut text = vec![0u8; 256 + 64 * format.len()];
    // SAFETY: `text` has text.len() writable bytes, `c_format` ends in NUL, and localtime_r has filled `tm`.
    let written = unsafe { libc::strftime(text.as_mut_ptr().cast(), text.len(), c_format.as_ptr(), &raw const tm) };
    if written == 0 {
        return Err(refuse("the format makes no text, or far too much"));
    }
    text.truncate(written);
    String::from_utf8(text).map_err(|_| refuse("the text is not UTF-8"))
}
