//! Formats values as Python does (`str`, `repr`, `json.dumps`) and provides Python's methods of `str`, `list` and `dict`, because
//! chat templates expect them.
//!
//! The reference is CPython: `tests/goldens/templates.json` holds what it renders.

use std::borrow::Cow;
use std::fmt::Write as _;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Maximum nesting depth that `tojson` and `repr` accept.
const MAX_DEPTH: usize = 200;

/// Largest width, in characters, that a template may pad or indent to in one step. Without a limit, one instruction could write
/// gigabytes.
const MAX_WIDTH: usize = 9_999;

/// Returns an `InvalidOperation` error with this message.
pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

pub(crate) fn check_width(width: usize) -> Result<(), Error> {
    if width > MAX_WIDTH { Err(invalid(format!("a width of {width} is more than {MAX_WIDTH}"))) } else { Ok(()) }
}

/// Refuses a format string that contains a number above [`MAX_WIDTH`], which may be a width, or that reads the width from an
/// argument (`%*d`, `{:{}}`).
pub(crate) fn check_format(template: &str) -> Result<(), Error> {
    for digits in template.split(|c: char| !c.is_ascii_digit()) {
        check_width(digits.parse().unwrap_or(if digits.is_empty() { 0 } else { usize::MAX }))?;
    }
    let inner = |open: &str| template.match_indices(open).any(|(at, _)| template[at + 1..].starts_with(['*', '{']));
    if inner("%") || inner(":") {
        return Err(invalid("format: a width from an argument"));
    }
    Ok(())
}

/// Returns Python's `str(value)`.
pub(crate) fn text_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.kind() {
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => {}
        _ => repr(&mut out, value, 0)?,
    }
    Ok(out)
}

/// Writes Python's `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid("the value is nested too deeply to be shown"));
    }
    match value.kind() {
        ValueKind::String => repr_str(out, value.as_str().unwrap_or_default()),
        ValueKind::Number => out.push_str(&number(value)),
        kind @ (ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) => {
            let (open, close) = match kind {
                ValueKind::Map => ('{', '}'),
                _ if value.is_tuple() => ('(', ')'),
                _ => ('[', ']'),
            };
            out.push(open);
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(out, &item, depth + 1)?;
                if kind == ValueKind::Map {
                    out.push_str(": ");
                    repr(out, &value.get_item(&item)?, depth + 1)?;
                }
            }
            if value.is_tuple() && value.len() == Some(1) {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        // None, True, False: minijinja writes these as Python does
        _ => write!(out, "{value}").expect("a String takes everything"),
    }
    Ok(())
}

/// Writes a string literal as Python does: in single quotes, unless the text contains single quotes and no double quotes.
fn repr_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
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

/// Returns Python's `str.isprintable` for one character. Rust's `escape_debug` leaves the same characters unescaped, except for a
/// combining character at the start of a string. So an `a` is put before the character.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~') || (!c.is_ascii() && format!("a{c}").escape_debug().eq(['a', c]))
}

/// Returns a number as Python prints it: `1e+16`, `0.1`, `1.0`.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(x) = f64::try_from(value.clone()) else { return value.to_string() };
    if !x.is_finite() {
        return x.to_string().to_lowercase(); // Rust writes `NaN`, `inf`, `-inf`
    }
    // Rust's Debug prints the shortest text that parses back, and switches to an exponent where Python does; only the exponent's
    // `+` and its padding to two digits are missing
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let exponent: i32 = exponent.parse().expect("Debug of a float ends in a whole exponent");
            format!("{mantissa}e{exponent:+03}")
        }
        None => text,
    }
}

/// Removes the whitespace around a number and single underscores in it, as Python does. `None` if nothing is left, or if Python
/// refuses the underscores.
pub(crate) fn python_digits(text: &str) -> Option<String> {
    let text = strip(text, None, Side::Both);
    let stray = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!stray && !text.is_empty()).then(|| text.replace('_', ""))
}

pub(crate) fn python_float(text: &str) -> Option<f64> {
    python_digits(text)?.parse().ok()
}

/// Writes values as CPython's `json.dumps` does.
pub(crate) struct JsonWriter {
    pub out: String,
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item: String,
    pub key: String,
    pub sort_keys: bool,
}

impl JsonWriter {
    pub(crate) fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("tojson: the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.break_line(i, depth + 1);
                    let text = key.as_str().map(str::to_owned).or_else(|| json_scalar(key));
                    let refused = || format!("tojson: keys must be str, int, float, bool or None, not {}", key.kind());
                    self.string(&text.ok_or_else(|| invalid(refused()))?);
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
                let refused = || invalid(format!("tojson: {other} is not JSON serializable"));
                self.out.push_str(&json_scalar(value).ok_or_else(refused)?);
            }
        }
        Ok(())
    }

    /// Writes the separator, if item `i` is not the first, and begins a new line if there is an indent.
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
        for c in serde_json::to_string(text).expect("a text prints").chars() {
            if !self.ensure_ascii || c <= '~' {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(self.out, "\\u{unit:04x}").expect("a String takes everything");
            }
        }
    }
}

/// Returns Python's None, a boolean or a number as `json.dumps` writes it. Returns `None` for any other value.
fn json_scalar(value: &Value) -> Option<String> {
    Some(match value.kind() {
        ValueKind::None => "null".to_owned(),
        ValueKind::Bool => value.is_true().to_string(),
        // as in `repr`, except for NaN and Infinity
        ValueKind::Number => number(value).replace("nan", "NaN").replace("inf", "Infinity"),
        _ => return None,
    })
}

/// Calls a method of `str`, `list` or `dict`. This module implements the methods that `minijinja_contrib::pycompat` lacks or that
/// differ there from Python's; `pycompat` provides the rest.
pub(crate) fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(outcome) = text_method(text, method, args)?
    {
        return Ok(outcome);
    }
    if method == "index" && value.kind() == ValueKind::Seq {
        let (wanted,): (&Value,) = from_args(args)?;
        let place = value.try_iter()?.position(|item| item == *wanted);
        return place.map(Value::from).ok_or_else(|| invalid(format!("{wanted} is not in list")));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Calls a method of `str`. `None` if this module leaves the method to `pycompat`.
fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let side = match method {
                "strip" => Side::Both,
                "lstrip" => Side::Left,
                _ => Side::Right,
            };
            Value::from(strip(text, chars, side))
        }
        "split" => split(text, args, Side::Left)?,
        "rsplit" => split(text, args, Side::Right)?,
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Value::from(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            Value::from(text.split_once(separator).map_or((text, "", ""), |(before, after)| (before, separator, after)))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            Value::from(
                text.rsplit_once(separator).map_or(("", "", text), |(before, after)| (before, separator, after)),
            )
        }
        "format" => {
            check_format(text)?;
            minijinja::formatting::format(FormatStyle::StrFormat, text, args).map(Value::from)?
        }
        "title" => {
            let () = from_args(args)?;
            let (mut after_cased, mut out) = (false, String::with_capacity(text.len()));
            for c in text.chars() {
                if after_cased {
                    out.extend(c.to_lowercase())
                } else {
                    out.extend(c.to_uppercase())
                }
                after_cased = c.is_lowercase() || c.is_uppercase();
            }
            Value::from(out)
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        _ => return Ok(None),
    }))
}

/// Returns Python's `str.isspace` for one character. Rust's `is_whitespace` does not count the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
    Both,
}

/// Removes whitespace, or the characters in `chars`, as Python's `str.strip`, `lstrip` and `rstrip` do.
pub(crate) fn strip<'t>(text: &'t str, chars: Option<&str>, side: Side) -> &'t str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if side == Side::Right { text } else { text.trim_start_matches(goes) };
    if side == Side::Left { text } else { text.trim_end_matches(goes) }
}

/// Returns the arguments of a filter or a method in the order of `names`, whether given by position or by name. Refuses unknown
/// and duplicate arguments.
pub(crate) fn arguments<const N: usize>(
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

/// Turns every None into a missing argument.
pub(crate) fn without_none<const N: usize>(found: [Option<Value>; N]) -> [Option<Value>; N] {
    found.map(|argument| argument.filter(|value| !value.is_none()))
}

/// `str.split(sep=None, maxsplit=-1)` (from the left) and `str.rsplit`.
fn split(text: &str, args: &[Value], from: Side) -> Result<Value, Error> {
    let (positional, kwargs): (Rest<Value>, Kwargs) = from_args(args)?;
    let [separator, limit] = without_none(arguments(&positional, &kwargs, ["sep", "maxsplit"])?);
    let no_text = || invalid("the separator must be a string");
    let separator = separator.as_ref().map(|value| value.as_str().ok_or_else(no_text)).transpose()?;
    if separator == Some("") {
        return Err(invalid("empty separator"));
    }
    // a negative limit means no limit
    let limit = limit.map(i64::try_from).transpose()?.and_then(|limit| usize::try_from(limit).ok());
    let pieces = limit.map_or(usize::MAX, |n| n.saturating_add(1));
    let mut parts: Vec<&str> = match (separator, from) {
        (Some(separator), Side::Right) => text.rsplitn(pieces, separator).collect(),
        (Some(separator), _) => text.splitn(pieces, separator).collect(),
        (None, _) => {
            // split at runs of whitespace; with a limit, the last piece is the whole remaining text, stripped on the side of the
            // cut
            let near = |text| strip(text, None, from);
            let mut parts = Vec::new();
            let mut rest = near(text);
            while !rest.is_empty() {
                if parts.len() + 1 == pieces {
                    parts.push(rest);
                    break;
                }
                let (part, after) = match from {
                    Side::Right => rest.rsplit_once(is_space).map_or((rest, ""), |(before, part)| (part, before)),
                    _ => rest.split_once(is_space).unwrap_or((rest, "")),
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
pub(crate) fn split_lines(text: &str, keep_ends: bool) -> Vec<String> {
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
