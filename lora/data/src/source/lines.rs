//! Finds where the lines of a text start, while the text comes in pieces.

/// UTF-8's byte-order mark. At the start of a file, it is accepted and skipped.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// This many lines are always allowed: their starts take 256 MiB.
const ALLOWED_LINES: u64 = 1 << 25;

/// A size that justifies more lines than [`ALLOWED_LINES`]. The start of each line takes 8 bytes of memory before any row is
/// parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinesOf {
    /// A text of this many bytes. Each row has at least 8: `{"x":""}`.
    Text(u64),
    /// A compressed file of this many bytes. Real rows take tens of bytes when they are compressed.
    Packed(u64),
}

impl LinesOf {
    fn most(self) -> u64 {
        let justified = match self {
            LinesOf::Text(bytes) => bytes / 8,
            LinesOf::Packed(bytes) => bytes,
        };
        justified.max(ALLOWED_LINES)
    }
}

/// The error for a text with too many lines. It holds the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManyLines(pub u64);

/// Starts of the lines that are not blank. Each start takes 8 bytes.
#[derive(Debug)]
pub(crate) struct LineIndex {
    most: u64,
    /// Start of every line that is not blank, in bytes from the start of the text.
    pub starts: Vec<u64>,
    /// Number of blank lines.
    pub blank_lines: usize,
    /// Bytes of the text so far.
    pub bytes: u64,
    line_start: u64,
    /// Whether the current line has text so far.
    has_text: bool,
}

impl LineIndex {
    /// Makes an empty index for at most `most` lines, or for fewer if the size of the file does not justify so many.
    pub(crate) fn new(most: u64, of: LinesOf) -> LineIndex {
        let most = most.min(of.most());
        LineIndex { most, starts: Vec::new(), blank_lines: 0, bytes: 0, line_start: 0, has_text: false }
    }

    /// Adds the next piece of the text. Skips a byte-order mark if the first piece holds all of it.
    ///
    /// # Errors
    /// [`ManyLines`].
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), ManyLines> {
        let mut rest = piece;
        if self.bytes == 0 && rest.starts_with(BOM) {
            rest = &rest[BOM.len()..];
            self.bytes = BOM.len() as u64;
            self.line_start = self.bytes;
        }
        while !rest.is_empty() {
            let newline = rest.iter().position(|&b| b == b'\n');
            let line = &rest[..newline.unwrap_or(rest.len())];
            self.has_text = self.has_text || line.iter().any(|b| !b.is_ascii_whitespace());
            self.bytes += line.len() as u64;
            rest = &rest[line.len()..];
            if newline.is_some() {
                rest = &rest[1..];
                self.bytes += 1;
                self.end_line()?;
            }
        }
        Ok(())
    }

    /// Ends the text. Its last line may have no line end.
    ///
    /// # Errors
    /// [`ManyLines`].
    pub(crate) fn finish(&mut self) -> Result<(), ManyLines> {
        if self.has_text {
            self.end_line()?;
        }
        self.starts.shrink_to_fit();
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), ManyLines> {
        match self.has_text {
            true if self.starts.len() as u64 >= self.most => return Err(ManyLines(self.most)),
            true => self.starts.push(self.line_start),
            false => self.blank_lines += 1,
        }
        self.line_start = self.bytes;
        self.has_text = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_that_nothing_justifies_are_refused() {
        let mut index = LineIndex::new(2, LinesOf::Packed(10));
        assert_eq!(index.push(b"1\n\n\n2\n3"), Ok(()), "blank lines take nothing, and the third has not ended");
        assert_eq!(index.finish(), Err(ManyLines(2)));
        let mut index = LineIndex::new(2, LinesOf::Packed(10));
        assert_eq!(index.push(b"1\n2\n3\n"), Err(ManyLines(2)));
        assert_eq!(LineIndex::new(u64::MAX, LinesOf::Packed(100)).most, ALLOWED_LINES);
        assert_eq!(LineIndex::new(u64::MAX, LinesOf::Packed(1 << 30)).most, 1 << 30);
        assert_eq!(LineIndex::new(u64::MAX, LinesOf::Text(1 << 30)).most, 1 << 27);
    }

    proptest! {
        /// The lines are those of `split_inclusive`, however the text is cut. (The texts have no byte-order mark, since it must be
        /// whole in the first piece.)
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a \\n\\r\\t]{0,60}", cuts in prop::collection::vec(1usize..9, 1..20)) {
            let mut index = LineIndex::new(u64::MAX, LinesOf::Text(0));
            let mut rest = text.as_bytes();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                index.push(piece).unwrap();
                rest = after;
            }
            index.finish().unwrap();
            let mut at = 0;
            let (mut starts, mut blank) = (Vec::new(), 0);
            for line in text.split_inclusive('\n') {
                if !line.trim_ascii().is_empty() {
                    starts.push(at);
                } else if line.ends_with('\n') {
                    blank += 1;
                }
                at += line.len() as u64;
            }
            prop_assert_eq!(index.starts, starts);
            prop_assert_eq!((index.blank_lines, index.bytes), (blank, text.len() as u64));
        }
    }
}
