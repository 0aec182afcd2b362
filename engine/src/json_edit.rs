//! Removes a key from a JSON text and keeps the other members byte for byte. Parsing and rewriting the text would round numbers
//! that need more than 64 bits.

use serde::de::{Deserialize, IgnoredAny};
use std::ops::Range;

/// Returns the text of an object without its members called `key`. `None` if it has no such members, or if the text is not an
/// object.
pub fn without_key(text: &[u8], key: &str) -> Option<Vec<u8>> {
    let members = members(text)?;
    let (named, others): (Vec<_>, Vec<_>) = members.iter().partition(|member| member.key == key);
    if named.is_empty() {
        return None;
    }
    let (first, last) = (members.first()?.place.start, members.last()?.place.end);
    let mut out = text[..first].to_vec();
    for (i, member) in others.iter().enumerate() {
        // uses the separator between the first two members everywhere
        let between = if i == 0 { &[][..] } else { &text[members[0].place.end..members[1].place.start] };
        out.extend_from_slice(between);
        out.extend_from_slice(&text[member.place.clone()]);
    }
    out.extend_from_slice(&text[last..]);
    Some(out)
}

/// A member of an object. Its place reaches from the key to the end of the value.
struct Member {
    key: String,
    place: Range<usize>,
}

/// Returns the members of the object in the text. `None` if the text does not begin with an object.
fn members(text: &[u8]) -> Option<Vec<Member>> {
    let mut at = after(text, 0, b'{')?;
    let mut members = Vec::new();
    if after(text, at, b'}').is_some() {
        return Some(members);
    }
    loop {
        let start = skip_space(text, at);
        let (key, end) = value::<String>(text, start)?;
        let (_, end) = value::<IgnoredAny>(text, after(text, end, b':')?)?;
        members.push(Member { key, place: start..end });
        match after(text, end, b',') {
            Some(next) => at = next,
            None => return after(text, end, b'}').map(|_| members),
        }
    }
}

/// Returns the value that begins at `at`, and where it ends. `None` if there is no value of type `T`.
fn value<'t, T: Deserialize<'t>>(text: &'t [u8], at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_slice(text.get(at..)?).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

fn skip_space(text: &[u8], at: usize) -> usize {
    at + text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Returns the place after `byte` if it is the next byte from `at` on that is not white space.
fn after(text: &[u8], at: usize, byte: u8) -> Option<usize> {
    let at = skip_space(text, at);
    (text.get(at) == Some(&byte)).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_bytes_stay() {
        for (text, left) in [
            (
                r#"{"a": 1e40, "gone": [1, {"gone": 2}], "max": 1000000000000000019884624838656}"#,
                Some(r#"{"a": 1e40, "max": 1000000000000000019884624838656}"#),
            ),
            (
                "{\n  \"gone\": \"x\\\"}\",\n  \"a\": -0.0,\n  \"b\": {\"gone\": 1}\n}\n",
                Some("{\n  \"a\": -0.0,\n  \"b\": {\"gone\": 1}\n}\n"),
            ),
            ("{\n  \"a\": 1,\n  \"gone\": null\n}", Some("{\n  \"a\": 1\n}")),
            (r#"{"gone": 1, "gone": 2}"#, Some("{}")),
            (r#"{"g\u006fne": true,"b":1}"#, Some(r#"{"b":1}"#)),
            (r#"{"a": {"gone": 1}}"#, None),
            ("{}", None),
            ("[]", None),
            (r#"{"gone": 1"#, None),
        ] {
            let found = without_key(text.as_bytes(), "gone").map(|text| String::from_utf8(text).unwrap());
            assert_eq!(found.as_deref(), left, "{text}");
        }
    }
}
