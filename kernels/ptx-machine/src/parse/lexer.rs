//! Splits PTX text into tokens.

/// A word, or a sign of one character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    /// Line of the text, from 1.
    pub line: u32,
}

impl Token<'_> {
    /// Whether it is a name, number or directive, not a sign.
    pub(super) fn is_word(&self) -> bool {
        self.text.starts_with(is_of_word)
    }
}

/// Splits the text into words and signs of one character. Leaves out comments, spaces, and strings, which only name source files.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else if is_of_word(first) {
            rest.find(|c| !is_of_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (text, after) = rest.split_at(length);
        if is_of_word(first) || (text.len() == 1 && !first.is_whitespace()) {
            tokens.push(Token { text, line });
        }
        line += text.bytes().filter(|byte| *byte == b'\n').count() as u32;
        rest = after;
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}
