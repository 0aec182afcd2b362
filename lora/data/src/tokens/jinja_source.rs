//! Rewrites a template's source if the engine would read it differently from Jinja2.
//!
//! | in the source | Jinja2 | the engine alone |
//! |---|---|---|
//! | CRLF and CR line ends, in text and in string literals | become LF | keeps them |
//! | escapes in string literals: `\a`, `\v`, `\/`, `\U0001f642`, a backslash before a line end | as in Python | differs |
//! | a line end after `{% raw %}` | stays | is dropped, as after every tag |
//! | the default of a macro's argument names an earlier argument | finds it | misses it: refused here |
//! | an outer name that a macro or `call` block uses only in `filter` tags, or only to set a field | finds it | misses it |

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

/// Maximum nesting depth of macros to look into. The parser refuses templates with deeper nesting.
const MAX_NESTING: usize = 100;

/// A construct that cannot be read in the way Jinja2 reads it.
#[derive(Debug, PartialEq)]
pub(crate) struct SourceFault {
    /// 1-based line of the template.
    pub line: usize,
    pub message: String,
}

/// Returns the source with LF at the end of each line. Written escapes (`\r`) stay.
pub(crate) fn with_line_feeds(source: &str) -> Cow<'_, str> {
    if !source.contains('\r') {
        return Cow::Borrowed(source);
    }
    Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Rewrites string literals and raw blocks so that the engine reads them as Jinja2 does.
pub(crate) fn with_strings_of_python(source: &str) -> Result<Cow<'_, str>, SourceFault> {
    let mut edited = Edited::new(source);
    for tag in tags(source) {
        if tag.statement(source) == Some("raw") && source[tag.close..].starts_with("%}\n") {
            edited.replace(tag.close..tag.close, "+");
        }
        for token in tag.tokens {
            let Token::String(place) = token else { continue };
            let mut chars = source[place.clone()].char_indices();
            while let Some((at, c)) = chars.next() {
                if c != '\\' {
                    continue;
                }
                let start = place.start + at;
                let Some((_, escaped)) = chars.next() else { break };
                let end = start + 1 + escaped.len_utf8();
                let fault = |what: String| SourceFault { line: line_of(source, start), message: what };
                match escaped {
                    '\n' => edited.replace(start..end, ""),
                    'a' => edited.replace(start..end, "\\x07"),
                    'v' => edited.replace(start..end, "\\x0b"),
                    '/' => edited.replace(start..end, "\\\\/"),
                    'U' => {
                        let digits = source.get(end..end + 8).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                        let c = digits.and_then(|d| char::from_u32(u32::from_str_radix(d, 16).ok()?));
                        let c =
                            c.ok_or_else(|| fault("\\U in a string needs the 8 hex digits of a character".into()))?;
                        let quoted = matches!(c, '\\' | '\'' | '"');
                        edited.replace(start..end + 8, &if quoted { format!("\\{c}") } else { c.to_string() });
                    }
                    'N' => return Err(fault("\\N{...} in a string is not read: write the character itself".into())),
                    c if !c.is_ascii() => {
                        return Err(fault(format!("a backslash before `{c}` in a string: write the character alone")));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(edited.finish())
}

/// Mentions all names of a macro or a `call` block at its beginning, in a branch that is never taken. The engine gives a macro
/// only the outer values that it sees mentioned, and it misses the target of `{% set ns.x = 1 %}`, the arguments in
/// `{% filter f(x) %}` and `{% set y | f(x) %}`, and the right side of `{% set x = x + 1 %}`.
pub(crate) fn with_names_of_macros(source: &str) -> Result<Cow<'_, str>, SourceFault> {
    struct Open<'s> {
        /// Where the closing delimiter of the opening tag begins.
        close: usize,
        names: BTreeSet<&'s str>,
    }
    let mut open: Vec<Open> = Vec::new();
    let mut mentions: Vec<(usize, String)> = Vec::new();
    for tag in tags(source) {
        let statement = tag.statement(source);
        // the keyword of the statement is not a name
        let names = tag.tokens.iter().skip(usize::from(statement.is_some())).filter_map(|token| match token {
            Token::Name(place) => Some(&source[place.clone()]),
            Token::String(_) => None,
        });
        match statement {
            Some(statement @ ("macro" | "call")) => {
                let names: Vec<&str> = names.collect();
                if let Some(argument) = repeated(&names).filter(|_| statement == "macro") {
                    let message = format!("the default of a macro's argument names the argument `{argument}`");
                    return Err(SourceFault { line: line_of(source, tag.close), message });
                }
                open.push(Open { close: tag.close, names: names.into_iter().collect() });
            }
            Some("endmacro" | "endcall") => {
                let Some(Open { close, names }) = open.pop() else { continue };
                let mentioned: Vec<&str> = names.iter().copied().filter(|name| !is_reserved(name)).collect();
                if !mentioned.is_empty() && open.len() < MAX_NESTING {
                    mentions.push((close, mentioned.join(", ")));
                }
                if let Some(outer) = open.last_mut() {
                    outer.names.extend(names);
                }
            }
            _ => {
                if let Some(innermost) = open.last_mut() {
                    innermost.names.extend(names);
                }
            }
        }
    }
    mentions.sort_unstable();
    let mut edited = Edited::new(source);
    for (close, names) in mentions {
        edited.replace(close..close, &format!("%}}{{% if false %}}{{{{ [{names}] }}}}{{% endif "));
    }
    Ok(edited.finish())
}

/// Returns the first name that occurs twice in the opening tag of a macro, after the macro's own name.
fn repeated<'s>(names: &[&'s str]) -> Option<&'s str> {
    let mut seen = BTreeSet::new();
    names.iter().skip(1).copied().find(|name| !is_reserved(name) && !seen.insert(*name))
}

/// Whether a word is not a variable, or is a function that is found everywhere. `loop` is an exception: it can be an outer
/// variable.
fn is_reserved(name: &str) -> bool {
    const WORDS: [&str; 16] = [
        "and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None", "caller",
        "self", "defined",
    ];
    WORDS.contains(&name) || matches!(name, "recursive" | "raise_exception" | "strftime_now")
}

/// A part of a tag that this module looks at.
enum Token {
    /// An identifier that is not an attribute.
    Name(Range<usize>),
    /// A string literal, without its quotes.
    String(Range<usize>),
}

/// `{{ ... }}` or `{% ... %}`.
struct Tag {
    is_block: bool,
    /// Where its closing delimiter begins, including the whitespace control.
    close: usize,
    tokens: Vec<Token>,
}

impl Tag {
    /// Returns the first word of a block tag.
    fn statement<'s>(&self, source: &'s str) -> Option<&'s str> {
        match self.tokens.first() {
            Some(Token::Name(place)) if self.is_block => Some(&source[place.clone()]),
            _ => None,
        }
    }
}

/// Returns all tags of a source in order, without those in comments and raw blocks and without `endraw`. Stops at an unclosed
/// tag.
fn tags(source: &str) -> Vec<Tag> {
    let bytes = source.as_bytes();
    let mut tags = Vec::new();
    let mut at = 0;
    while let Some(brace) = source[at..].find('{').map(|found| at + found) {
        let is_block = match bytes.get(brace + 1) {
            Some(b'{') => false,
            Some(b'%') => true,
            Some(b'#') => {
                let Some(end) = source[brace + 2..].find("#}") else { break };
                at = brace + 2 + end + 2;
                continue;
            }
            _ => {
                at = brace + 1;
                continue;
            }
        };
        let Some((tag, end)) = tag(source, brace + 2, is_block) else { break };
        at = end;
        if tag.statement(source) == Some("raw") {
            let Some(end) = end_of_raw(source, end) else { break };
            at = end;
        }
        tags.push(tag);
    }
    tags
}

/// Reads the tag whose content begins at `start`. Returns the tag and where it ends.
fn tag(source: &str, start: usize, is_block: bool) -> Option<(Tag, usize)> {
    let bytes = source.as_bytes();
    let end = if is_block { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let (mut at, mut nesting) = (start, 0usize);
    let mut after_dot = false;
    while at < bytes.len() {
        if nesting == 0 && source[at..].starts_with(end) {
            let controlled = at > start && matches!(bytes[at - 1], b'-' | b'+');
            return Some((Tag { is_block, close: at - usize::from(controlled), tokens }, at + 2));
        }
        let c = source[at..].chars().next()?;
        match c {
            '\'' | '"' => {
                let length = string_length(&source[at + 1..], c)?;
                tokens.push(Token::String(at + 1..at + 1 + length));
                at += length + 2;
                after_dot = false;
            }
            c if c.is_alphanumeric() || c == '_' => {
                let rest = &source[at..];
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                if !after_dot && !c.is_numeric() {
                    tokens.push(Token::Name(at..at + length));
                }
                at += length;
                after_dot = false;
            }
            c => {
                match c {
                    '(' | '[' | '{' => nesting += 1,
                    ')' | ']' | '}' => nesting = nesting.saturating_sub(1),
                    _ => {}
                }
                after_dot = c == '.' || (after_dot && c.is_whitespace());
                at += c.len_utf8();
            }
        }
    }
    None
}

/// Returns the length of a string literal in bytes, up to its closing quote.
fn string_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    rest.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// Returns where the next `{% endraw %}` after `from` ends.
fn end_of_raw(source: &str, from: usize) -> Option<usize> {
    source[from..].match_indices("{%").find_map(|(at, _)| {
        let inside = &source[from + at + 2..];
        let word = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
        let close = word.strip_prefix("endraw")?.trim_start();
        let after = close.strip_prefix(['-', '+']).unwrap_or(close).strip_prefix("%}")?;
        Some(source.len() - after.len())
    })
}

fn line_of(source: &str, at: usize) -> usize {
    1 + source[..at].matches('\n').count()
}

/// A copy of the source with replacements, which must come in order from front to back.
struct Edited<'s> {
    source: &'s str,
    text: String,
    /// How far the source has been copied.
    done: usize,
}

impl<'s> Edited<'s> {
    fn new(source: &'s str) -> Edited<'s> {
        Edited { source, text: String::new(), done: 0 }
    }

    fn replace(&mut self, place: Range<usize>, by: &str) {
        self.text.push_str(&self.source[self.done..place.start]);
        self.text.push_str(by);
        self.done = place.end;
    }

    fn finish(mut self) -> Cow<'s, str> {
        if self.done == 0 && self.text.is_empty() {
            return Cow::Borrowed(self.source);
        }
        self.text.push_str(&self.source[self.done..]);
        Cow::Owned(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_line_feeds() {
        assert_eq!(with_line_feeds("a\r\nb\rc\nd\r\n\r\n\\r"), "a\nb\nc\nd\n\n\\r");
        assert!(matches!(with_line_feeds("a\nb"), Cow::Borrowed(_)));
    }

    #[test]
    fn escapes_are_those_of_python() {
        let read = |source| with_strings_of_python(source).map(Cow::into_owned);
        assert_eq!(read(r#"\a {{ '\a\v\/\n\\a' }}"#).unwrap(), r#"\a {{ '\x07\x0b\\/\n\\a' }}"#);
        assert_eq!(read(r#"{{ "\U0001f642\U00000022" ~ '\'\a' }}"#).unwrap(), r#"{{ "🙂\"" ~ '\'\x07' }}"#);
        assert_eq!(read("{{ 'a\\\nb' }}").unwrap(), "{{ 'ab' }}");
        assert_eq!(
            read("{% raw %}\na{% endraw %}{%- raw -%}\n{% endraw %}").unwrap(),
            "{% raw +%}\na{% endraw %}{%- raw -%}\n{% endraw %}"
        );
        assert_eq!(
            read(r#"{# '\a' #}{% raw %}{{ '\a' }}{% endraw %}"#).unwrap(),
            r#"{# '\a' #}{% raw %}{{ '\a' }}{% endraw %}"#
        );
        assert_eq!(read("a\n{{ '\\N{BULLET}' }}").unwrap_err().line, 2);
        assert!(read(r#"{{ '\U0001' }}"#).is_err());
    }

    #[test]
    fn names_in_macros_are_mentioned() {
        let read = |source| with_names_of_macros(source).unwrap().into_owned();
        assert_eq!(
            read("{% macro f(m) -%}\n{% set ns.last = m.role | g('x y') %}{% endmacro %}"),
            "{% macro f(m) %}{% if false %}{{ [f, g, m, ns] }}{% endif -%}\n{% set ns.last = m.role | g('x y') %}{% endmacro %}"
        );
        // functions are not mentioned, so a search for calls of the clock finds only the call
        let clock = "{% macro f() %}{{ strftime_now('%d') }}{% endmacro %}";
        assert_eq!(read(clock).matches("strftime_now").count(), 1);
        let plain = "{% set ns.a = 1 %}{{ {'a': {}} }}{# {% macro f() %} #}{{ '{% macro f() %}' }}";
        assert_eq!(read(plain), plain);
        for broken in ["{% macro f() %}{{ ns", "{% endmacro %}", "{% macro", "{{ 'a", "{# ", "{% raw %}{% macro f() %}"]
        {
            assert_eq!(read(broken), broken);
        }
        let own_default = "\n{% macro f(a, b='a', c=a.x) %}{% endmacro %}";
        assert_eq!(with_names_of_macros(own_default).unwrap_err().line, 2);
    }
}
