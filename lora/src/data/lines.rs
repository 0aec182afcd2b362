//! Where the lines of a text start, found while it passes by in pieces.

/// UTF-8's byte-order mark: accepted and skipped at the start of a file.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Starts of the lines that are not blank: 8 bytes a line.
#[derive(Debug, Default)]
pub(super) struct LineIndex {
    /// Start of every line that is not blank, in bytes.
    pub starts: Vec<u64>,
    /// Lines that are blank.
    pub blank_lines: usize,
    /// Bytes of the text so far.
    pub bytes: u64,
    line_start: u64,
    /// In the line so far.
    has_text: bool,
}

impl LineIndex {
    /// The next piece of the text. A byte-order mark is recognised where the first piece holds it whole.
    pub fn push(&mut self, piece: &[u8]) {
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
                self.end_line();
            }
        }
    }

    /// The text has ended; its last line may have no line end.
    pub fn finish(&mut self) {
        if self.has_text {
            self.end_line();
        }
        self.starts.shrink_to_fit();
    }

    fn end_line(&mut self) {
        match self.has_text {
            true => self.starts.push(self.line_start),
            false => self.blank_lines += 1,
        }
        self.line_start = self.bytes;
        self.has_text = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As `lines` of the standard library has them, however the text is cut. (A byte-order mark comes whole: pieces of files
        /// are longer.)
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a \\n\\r\\t]{0,60}", cuts in prop::collection::vec(1usize..9, 1..20)) {
            let mut index = LineIndex::default();
            let mut rest = text.as_bytes();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                index.push(piece);
                rest = after;
            }
            index.finish();
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
