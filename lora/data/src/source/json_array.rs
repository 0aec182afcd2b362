//! Turns one JSON array into lines, one for each element, while the text comes in pieces. The elements themselves are not
//! parsed.
//!
//! Line ends within an element become blanks. An element keeps its line number: blank lines in the output take the place of lines
//! of the array on which no element begins. If several elements begin on one line, each after the first gets the next line
//! number.

/// Maximum depth of nested brackets. The parser of a row goes no deeper.
const MAX_DEPTH: usize = 128;

/// What is wrong with an array, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ArrayFault {
    pub line: u64,
    pub message: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InArray {
    /// Before the bracket that opens the array.
    Start,
    /// Before an element. An array may end before its first element.
    Before { first: bool },
    /// In an element.
    Element,
    /// After the bracket that closes the array.
    End,
}

/// Writes an array as lines.
#[derive(Debug)]
pub(crate) struct ArrayLines {
    place: InArray,
    /// The closing brackets that the element still needs.
    open: Vec<u8>,
    in_string: bool,
    is_escaped: bool,
    /// 1-based line of the array that is being read.
    line: u64,
    /// 1-based line to write next.
    next: u64,
}

impl ArrayLines {
    pub(crate) fn new() -> ArrayLines {
        ArrayLines { place: InArray::Start, open: Vec::new(), in_string: false, is_escaped: false, line: 1, next: 1 }
    }

    /// Appends the lines of the next piece of the text to `out`. Skips a byte-order mark at the start of the first piece.
    pub(crate) fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), ArrayFault> {
        let piece = match self.place {
            InArray::Start => piece.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(piece),
            _ => piece,
        };
        for &byte in piece {
            self.line += u64::from(byte == b'\n');
            match self.place {
                InArray::Element => self.element(byte, out)?,
                _ if byte.is_ascii_whitespace() => {}
                InArray::Start => self.place = InArray::Before { first: true },
                InArray::Before { first: true } if byte == b']' => self.place = InArray::End,
                InArray::Before { .. } if matches!(byte, b',' | b']') => {
                    return Err(self.fault("has a comma with no element beside it"));
                }
                InArray::Before { .. } => {
                    self.place = InArray::Element;
                    while self.next < self.line {
                        out.push(b'\n');
                        self.next += 1;
                    }
                    self.element(byte, out)?;
                }
                InArray::End => return Err(self.fault("has ended, and more follows")),
            }
        }
        Ok(())
    }

    fn element(&mut self, byte: u8, out: &mut Vec<u8>) -> Result<(), ArrayFault> {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            // JSON allows no line end in a string. It is replaced with another byte that JSON refuses there, so the row stays bad
            // but is on one line
            out.push(if byte == b'\n' { b'\x0B' } else { byte });
            return Ok(());
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' if self.open.len() == MAX_DEPTH => return Err(self.fault("is nested too deeply")),
            b'{' => self.open.push(b'}'),
            b'[' => self.open.push(b']'),
            b',' | b']' if self.open.is_empty() => {
                out.push(b'\n');
                self.next += 1;
                self.place = if byte == b',' { InArray::Before { first: false } } else { InArray::End };
                return Ok(());
            }
            b'}' | b']' if self.open.pop() != Some(byte) => return Err(self.fault("has brackets that do not match")),
            _ => {}
        }
        out.push(if byte == b'\n' { b' ' } else { byte });
        Ok(())
    }

    /// Checks that the array is complete at the end of the text.
    pub(crate) fn finish(&self) -> Result<(), ArrayFault> {
        match self.place {
            InArray::End => Ok(()),
            _ => Err(self.fault("does not end; is the file complete?")),
        }
    }

    fn fault(&self, message: &'static str) -> ArrayFault {
        ArrayFault { line: self.line, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn lines(text: &str, piece: usize) -> Result<String, ArrayFault> {
        let (mut array, mut out) = (ArrayLines::new(), Vec::new());
        for piece in text.as_bytes().chunks(piece) {
            array.push(piece, &mut out)?;
        }
        array.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn an_element_is_a_line_and_keeps_its_own() {
        assert_eq!(lines("[{\"a\": 1},{\"b\": \"],[\"}]", 100).unwrap(), "{\"a\": 1}\n{\"b\": \"],[\"}\n");
        let pretty = "[\n  {\n    \"a\": \"x\\\"\"\n  },\n  {\n    \"b\": [1,\n 2]\n  }\n]\n";
        assert_eq!(lines(pretty, 100).unwrap(), "\n{     \"a\": \"x\\\"\"   }\n\n\n{     \"b\": [1,  2]   } \n");
        assert_eq!(lines(" [ ] ", 100).unwrap(), "");
        assert_eq!(lines("\u{FEFF}[1 , null]", 100).unwrap(), "1 \nnull\n");
        assert_eq!(lines("[\"a\nb\"]", 100).unwrap(), "\"a\u{B}b\"\n");
    }

    #[test]
    fn what_is_no_array_is_told_with_its_line() {
        for (text, line, message) in [
            ("[1,\n2", 2, "does not end; is the file complete?"),
            ("[", 1, "does not end; is the file complete?"),
            ("[1]\n\n[2]", 3, "has ended, and more follows"),
            ("[1,\n]", 2, "has a comma with no element beside it"),
            ("[,1]", 1, "has a comma with no element beside it"),
            ("[{\"a\": 1]}]", 1, "has brackets that do not match"),
            ("[}]", 1, "has brackets that do not match"),
        ] {
            assert_eq!(lines(text, 100), Err(ArrayFault { line, message }), "{text}");
        }
        assert_eq!(lines(&"[".repeat(1000), 100).unwrap_err().message, "is nested too deeply");
    }

    proptest! {
        #[test]
        fn any_array_is_its_elements_however_it_is_cut(
            texts in prop::collection::vec("[a-z\\[\\]{},\"\\\\\n é]{0,12}", 0..6), pretty: bool, piece in 1usize..9
        ) {
            let rows: Vec<Value> = texts.iter().map(|text| serde_json::json!({"t": text, "n": [[text], {}]})).collect();
            let text = if pretty { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) }.unwrap();
            let found = lines(&text, piece).unwrap();
            let found: Vec<Value> = found.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect();
            prop_assert_eq!(found, rows);
        }
    }
}
