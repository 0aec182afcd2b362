//! Reads lists and dictionaries as Python prints them: CSV files and databases often hold the result of `str(value)`.

use serde_json::{Map, Number, Value};

/// Maximum depth of nested values. A text with deeper ones is not read.
const DEPTH: usize = 64;

/// Reads a value that Python printed: lists, tuples, dictionaries with strings for keys, strings, numbers, `True`, `False`,
/// `None`, and NumPy's `array([...], dtype=object)`, whose elements may be on separate lines without commas. `None` if the
/// text is anything else, or if a key occurs twice.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let value = parser.value(DEPTH)?;
    parser.skip_space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips space, then skips `token` if it comes next. Returns whether it did.
    fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        self.skip_space();
        match self.rest.chars().next()? {
            '\'' | '"' => self.string().map(Value::String),
            '{' => self.dictionary(depth),
            '[' => self.items('[', "]", depth),
            '(' => self.items('(', ")", depth),
            '-' | '0'..='9' => self.number(),
            _ => self.word(depth),
        }
    }

    fn word(&mut self, depth: usize) -> Option<Value> {
        for (word, value) in [("None", Value::Null), ("True", true.into()), ("False", false.into())] {
            if self.eat(word) {
                return Some(value);
            }
        }
        if !self.eat("array(") {
            return None;
        }
        let items = self.value(depth)?;
        if self.eat(",") && !(self.eat("dtype=") && self.eat("object")) {
            return None;
        }
        (items.is_array() && self.eat(")")).then_some(items)
    }

    fn items(&mut self, open: char, close: &str, depth: usize) -> Option<Value> {
        self.rest = self.rest.strip_prefix(open)?;
        let mut items = Vec::new();
        loop {
            if self.eat(close) {
                return Some(Value::Array(items));
            }
            items.push(self.value(depth)?);
            // NumPy prints each object on its own line, without a comma between them
            let is_apart = self.eat(",") || self.rest.starts_with('{');
            if !is_apart && !self.rest.starts_with(close) {
                return None;
            }
        }
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.strip_prefix('{')?;
        let mut fields = Map::new();
        loop {
            if self.eat("}") {
                return Some(Value::Object(fields));
            }
            let key = self.string()?;
            let value = self.eat(":").then(|| self.value(depth))??;
            if fields.insert(key, value).is_some() || !self.eat(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let (digits, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        let whole = digits.parse::<i64>().ok().map(Number::from);
        whole.or_else(|| digits.parse::<f64>().ok().and_then(Number::from_f64)).map(Value::Number)
    }

    fn string(&mut self) -> Option<String> {
        self.skip_space();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut text = String::new();
        let mut chars = self.rest[1..].chars();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\n' => return None,
                '\\' => text.push(escaped(&mut chars)?),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }
}

/// Reads the character that a Python escape stands for. The backslash has been read already.
fn escaped(chars: &mut std::str::Chars<'_>) -> Option<char> {
    let digits = match chars.next()? {
        'n' => return Some('\n'),
        'r' => return Some('\r'),
        't' => return Some('\t'),
        quoted @ ('\\' | '\'' | '"') => return Some(quoted),
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => return None,
    };
    let hex = chars.as_str().get(..digits).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    chars.nth(digits - 1);
    char::from_u32(u32::from_str_radix(hex, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_prints_is_read() {
        for (text, expected) in [
            (r#"[{'role': 'user', 'content': "it's"}]"#, json!([{"role": "user", "content": "it's"}])),
            (r"{'a': 'x\'\n\x41\u00e9\U0001f600\\', 'b': None}", json!({"a": "x'\nAé😀\\", "b": null})),
            ("[{'a': 1}\n {'a': -2.5}]", json!([{"a": 1}, {"a": -2.5}])),
            ("array([{'a': True},\n       {'a': False}], dtype=object)", json!([{"a": true}, {"a": false}])),
            ("({'a': ('x',)},)", json!([{"a": ["x"]}])),
            (" [] ", json!([])),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not() {
        for text in [
            "",
            "[",
            "[1] and more",
            "['a' 'b']",
            "[1, 2",
            "{'a' 1}",
            "{1: 2}",
            "{'a': 1, 'a': 2}",
            "['a\nb']",
            "[...]",
            "[nan]",
            r"['\ud83d']",
            r"['\q']",
            r"['\x4']",
            "[{'role': 'user'}, ...]",
            "array(1)",
            "array([1], dtype=int)",
            "[é]",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
