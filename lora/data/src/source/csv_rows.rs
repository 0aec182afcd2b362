//! Turns CSV and TSV into lines of JSON: a row is an object, a cell a value.
//!
//! The first line names the columns. A cell is text, and turns and lists in it are found as in any text of a row. An empty cell
//! is null. A cell of a number column is a number if it can be read as one. A row keeps its line number: blank lines in the
//! output take the place of lines of the file on which no row begins. As with Parquet, a column that nothing reads or looks at
//! keeps its name, but its cells become null.

use std::collections::HashSet;
use std::io::Read;

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use serde_json::Number;

use super::bad_line::BadLine;
use super::column_map::{ColumnMap, NUMBER_COLUMNS};
use super::column_names::is_looked_at;
use super::limits::MAX_ROW_BYTES;
use crate::json_text::key;

/// Bytes that the parser gets after the text, as one more row. If a quote is still open, they become part of the last cell
/// instead. This shows the fault, which the parser does not report.
const END: &[u8] = b"\n\0\n";
/// Maximum number of columns of a file. A sheet in Excel or LibreOffice can have no more.
const MAX_COLUMNS: usize = 16_384;
/// Number of bytes that the parser reads at a time.
const PIECE_BYTES: usize = 1 << 16;

/// Why reading a file stopped.
#[derive(Debug)]
pub(crate) enum CsvStop<E> {
    /// The text cannot be read.
    Read(std::io::Error),
    /// At this 1-based line, the text is no longer CSV.
    Fault { line: u64, message: String },
    /// Writing the lines failed.
    Out(E),
}

/// Passes the lines of the rows to `out` and returns how many lines are blank.
pub(crate) fn rows<R: Read, E>(
    text: R,
    delimiter: u8,
    map: &ColumnMap,
    mut out: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<usize, CsvStop<E>> {
    let text = Bounded { inner: text.chain(END), left: MAX_ROW_BYTES, quotes: Quotes::new(delimiter) };
    // a record ends at `\n` alone, so lines can be counted; `cells` removes the `\r` from the last cell
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .terminator(Terminator::Any(b'\n'))
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(PIECE_BYTES)
        .from_reader(text);
    let (mut record, mut line) = (ByteRecord::new(), Vec::new());
    let (mut blank, mut next) = (0, 1);
    let mut header: Option<Header> = None;
    loop {
        let before = reader.position().line();
        if !read(&mut reader, &mut record, before)? {
            return Ok(blank);
        }
        if record.len() == 1 && record[0] == END[1..2] {
            let line = reader.position().line();
            if !read(&mut reader, &mut record, line)? {
                return Ok(blank);
            }
            let message = "the row is a NUL byte, which no text has; is the file damaged?".to_owned();
            return Err(CsvStop::Fault { line: line.saturating_sub(1).max(before), message });
        }
        // the parser skips blank lines before a record, and a cell may contain line ends
        let inside: usize = record.iter().map(|cell| cell.iter().filter(|&&byte| byte == b'\n').count()).sum();
        let first = reader.position().line().saturating_sub(1 + inside as u64).max(before);
        if record.iter().next_back().is_some_and(|cell| cell.ends_with(END)) {
            let first = reader.position().line().saturating_sub(inside as u64).max(before);
            let message = "a quote opens in the row at this line and does not close".to_owned();
            return Err(CsvStop::Fault { line: first, message });
        }
        blank += (first - before) as usize;
        let is_empty = record.len() == 1 && cells(&record).all(<[u8]>::is_empty);
        if is_empty || header.is_none() && names_delimiter(&record) {
            blank += 1;
            continue;
        }
        line.clear();
        match &header {
            None => header = Some(Header::of(&record, map).map_err(|message| CsvStop::Fault { line: first, message })?),
            Some(header) => {
                while next < first {
                    line.push(b'\n');
                    next += 1;
                }
                let at = line.len();
                if let Err(reason) = header.put(&record, &mut line) {
                    line.truncate(at);
                    reason.put(&mut line);
                }
                line.push(b'\n');
                next += 1;
                out(&line).map_err(CsvStop::Out)?;
            }
        }
    }
}

/// Whether a record is the line `sep=;` by which Excel names the delimiter. It can be skipped, since the delimiter is known
/// already.
fn names_delimiter(record: &ByteRecord) -> bool {
    let first = record.get(0).unwrap_or_default();
    let first = first.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(first);
    record.len() == 2 && first == b"sep=" && cells(record).skip(1).all(<[u8]>::is_empty)
}

fn read<R: Read, E>(reader: &mut Reader<Bounded<R>>, record: &mut ByteRecord, line: u64) -> Result<bool, CsvStop<E>> {
    reader.get_mut().left = MAX_ROW_BYTES;
    let result = reader.read_byte_record(record);
    if let Some(line) = reader.get_ref().quotes.text_behind {
        let message = "text follows the quote that closes a cell, so where cells and rows end is not sure; put a cell that holds a quote \
                       into quotes, and write its own quotes twice"
            .to_owned();
        return Err(CsvStop::Fault { line, message });
    }
    result.map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::FileTooLarge => CsvStop::Fault {
            line,
            message: format!("the row has more than {MAX_ROW_BYTES} bytes, which is the limit; is a quote left open?"),
        },
        csv::ErrorKind::Io(error) => CsvStop::Read(error),
        other => CsvStop::Fault { line, message: format!("{other:?}") },
    })
}

/// Returns the cells of a record, without the `\r` of its line end.
fn cells(record: &ByteRecord) -> impl Iterator<Item = &[u8]> {
    let last = record.len().saturating_sub(1);
    record
        .iter()
        .enumerate()
        .map(move |(i, cell)| if i == last { cell.strip_suffix(b"\r").unwrap_or(cell) } else { cell })
}

/// A text that lets the parser read at most `left` bytes for one row.
struct Bounded<R> {
    inner: R,
    left: u64,
    quotes: Quotes,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(std::io::ErrorKind::FileTooLarge.into()),
        }
        buffer[..n].iter().for_each(|byte| self.quotes.pass(*byte));
        if self.quotes.text_behind.is_some() { Err(std::io::ErrorKind::InvalidData.into()) } else { Ok(n) }
    }
}

/// Follows the quotes of a text. If text follows a closing quote, the parser silently makes it part of the cell. By then, a
/// quote that was meant as a character of the text may have merged two rows into one.
struct Quotes {
    delimiter: u8,
    place: InCell,
    line: u64,
    /// The 1-based line where text follows a closing quote.
    text_behind: Option<u64>,
}

/// The place of the next byte in its cell.
#[derive(Clone, Copy)]
enum InCell {
    Start,
    Plain,
    Quoted,
    /// After a quote within a quoted cell: it closes the cell, or is the first of two.
    Closed,
}

impl Quotes {
    fn new(delimiter: u8) -> Quotes {
        Quotes { delimiter, place: InCell::Start, line: 1, text_behind: None }
    }

    fn pass(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (InCell::Start, b'"') | (InCell::Closed, b'"') => InCell::Quoted,
            (InCell::Quoted, b'"') => InCell::Closed,
            (InCell::Quoted, _) => InCell::Quoted,
            (_, b'\n') => InCell::Start,
            (_, byte) if byte == self.delimiter => InCell::Start,
            (InCell::Closed, b'\r') => InCell::Closed,
            (InCell::Closed, _) => {
                self.text_behind.get_or_insert(self.line);
                InCell::Plain
            }
            // a byte-order mark at the start of a file comes before its first cell
            (InCell::Start, 0xEF | 0xBB | 0xBF) if self.line == 1 => InCell::Start,
            (InCell::Start | InCell::Plain, _) => InCell::Plain,
        };
        self.line += u64::from(byte == b'\n');
    }
}

/// How a cell is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// As null, since nothing reads the cell.
    Unread,
    Text,
    Number,
}

/// The columns: the name of each, its key as JSON has it in front of a value, and how its cells are written.
struct Header(Vec<(String, Vec<u8>, Cell)>);

impl Header {
    fn of(record: &ByteRecord, map: &ColumnMap) -> Result<Header, String> {
        if record.len() > MAX_COLUMNS {
            return Err(format!("the header has {} columns, at most {MAX_COLUMNS} are read", record.len()));
        }
        let mut seen = HashSet::new();
        let mut columns = Vec::with_capacity(record.len());
        for (i, cell) in cells(record).enumerate() {
            let cell = if i == 0 { cell.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(cell) } else { cell };
            let name = std::str::from_utf8(cell)
                .map_err(|_| format!("the name of column {} is not valid UTF-8; save the file as UTF-8", i + 1))?;
            if name.contains('\r') {
                return Err("its lines end with a CR alone, as on old Macs; save the file with LF line ends".to_owned());
            }
            // pandas writes its index column without a name
            let name = if name.trim().is_empty() { format!("Unnamed: {i}") } else { name.trim().to_owned() };
            if !seen.insert(name.clone()) {
                return Err(format!("the header names the column `{name}` twice"));
            }
            let is = |own: &str| map.column(own) == name;
            let kind = match map.reads(&name) || is_looked_at(&name) {
                false => Cell::Unread,
                true if NUMBER_COLUMNS.into_iter().any(is) => Cell::Number,
                true => Cell::Text,
            };
            let key = key(&name);
            columns.push((name, key, kind));
        }
        Ok(Header(columns))
    }

    /// Appends a row as a JSON object.
    fn put(&self, record: &ByteRecord, line: &mut Vec<u8>) -> Result<(), BadLine> {
        if record.len() != self.0.len() {
            return Err(BadLine::Cells { found: record.len(), header: self.0.len() });
        }
        for (i, ((name, key, kind), cell)) in self.0.iter().zip(cells(record)).enumerate() {
            line.push(if i == 0 { b'{' } else { b',' });
            line.extend_from_slice(key);
            if *kind == Cell::Unread || cell.is_empty() {
                line.extend_from_slice(b"null");
                continue;
            }
            let bad = |message: String| BadLine::Value { column: name.clone(), message };
            let text = std::str::from_utf8(cell).map_err(|error| {
                let at = error.valid_up_to() + 1;
                bad(format!("its text is not valid UTF-8, from byte {at} of it on; save the file as UTF-8"))
            })?;
            if text.starts_with(' ') && text.trim_start().starts_with('"') && text.trim_end().ends_with('"') {
                let message = "a blank stands before the quote, which makes the quotes part of the text; remove it";
                return Err(bad(message.to_owned()));
            }
            put_cell(*kind, text, line);
        }
        line.push(b'}');
        Ok(())
    }
}

fn put_cell(kind: Cell, text: &str, line: &mut Vec<u8>) {
    let number = text.trim().parse().ok().filter(|_| kind == Cell::Number).and_then(Number::from_f64);
    match number {
        Some(number) => line.extend_from_slice(number.to_string().as_bytes()),
        None => serde_json::to_writer(line, text).expect("a text prints, and a vector takes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, delimiter: u8) -> Result<(String, usize), String> {
        let mut all = Vec::new();
        let outcome = rows(text.as_bytes(), delimiter, &ColumnMap::default(), |line| {
            all.extend_from_slice(line);
            Ok::<(), ()>(())
        });
        match outcome {
            Ok(blank) => Ok((String::from_utf8(all).unwrap(), blank)),
            Err(CsvStop::Fault { line, message }) => Err(format!("{line}: {message}")),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn cells_are_text_or_null() {
        let text = "\u{FEFF}prompt, chosen ,x\r\n\"a, \"\"b\"\"\",\"[{\"\"role\"\": \"\"user\"\"}]\",1\r\n7,,\r\n[no json],{},";
        let expected = r#"
{"prompt":"a, \"b\"","chosen":"[{\"role\": \"user\"}]","x":null}
{"prompt":"7","chosen":null,"x":null}
{"prompt":"[no json]","chosen":"{}","x":null}
"#;
        assert_eq!(lines(text, b','), Ok((expected.to_owned(), 0)));
        assert_eq!(lines("prompt\tchosen\na,b\tc\n", b'\t').unwrap().0, "\n{\"prompt\":\"a,b\",\"chosen\":\"c\"}\n");
        assert_eq!(lines(",prompt\n0,a\n", b',').unwrap().0, "\n{\"Unnamed: 0\":null,\"prompt\":\"a\"}\n");
    }

    #[test]
    fn numbers_are_what_their_columns_hold() {
        let (found, _) = lines("weight,label,id\n0.5,True,7\n x,yes,\n1e999,0,a\n", b',').unwrap();
        let expected = r#"
{"weight":0.5,"label":"True","id":"7"}
{"weight":" x","label":"yes","id":null}
{"weight":"1e999","label":"0","id":"a"}
"#;
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_keep_their_lines() {
        let text = "\n\nprompt,chosen\n\"a\nb\",c\n\n\nd,\"e\n\n\"\nf,g";
        let expected = "\n\n\n{\"prompt\":\"a\\nb\",\"chosen\":\"c\"}\n\n\n\n{\"prompt\":\"d\",\"chosen\":\"e\\n\\n\"}\n\n\n{\"prompt\":\"f\",\"chosen\":\"g\"}\n";
        assert_eq!(lines(text, b','), Ok((expected.to_owned(), 4)));
    }

    #[test]
    fn a_line_that_names_the_delimiter_is_passed_over() {
        let expected = "\n\n{\"prompt\":\"a\",\"chosen\":\"b\"}\n";
        for text in ["sep=;\r\nprompt;chosen\r\na;b\r\n", "\u{FEFF}sep=;\nprompt;chosen\na;b\n"] {
            assert_eq!(lines(text, b';'), Ok((expected.to_owned(), 1)), "{text}");
        }
    }

    #[test]
    fn what_is_no_csv_is_told_with_its_line() {
        assert_eq!(
            lines("a,b\n1,2\n\n3,\"4\n5,6\n", b','),
            Err("4: a quote opens in the row at this line and does not close".into())
        );
        let old = "1: its lines end with a CR alone, as on old Macs; save the file with LF line ends";
        assert_eq!(lines("prompt,chosen\ra,b\rc,d\r", b','), Err(old.to_owned()));
        let nul = Err("2: the row is a NUL byte, which no text has; is the file damaged?".to_owned());
        assert_eq!(lines("prompt,chosen\n\0\na,b\n", b','), nul);
        assert_eq!(lines("a,a\n", b','), Err("1: the header names the column `a` twice".into()));
        let commas = Err("1: the header has 1000001 columns, at most 16384 are read".to_owned());
        assert_eq!(lines(&(",".repeat(1_000_000) + "\n"), b','), commas);
        let (found, _) = lines("prompt,chosen\na\nb,c,d\n, \"e\"\n", b',').unwrap();
        let faults: Vec<String> =
            found.lines().filter_map(|line| BadLine::read(line.as_bytes())).map(|bad| bad.to_string()).collect();
        assert_eq!(faults.len(), 3, "{found}");
        assert!(
            faults[0].contains("1 cell") && faults[1].contains("3 cells") && faults[2].contains("blank"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_row_without_an_end_is_refused_within_its_limit() {
        let endless = std::io::Read::chain(&b"prompt\n\"a"[..], std::io::repeat(b'x'));
        let outcome = rows(endless, b',', &ColumnMap::default(), |_| Ok::<(), ()>(()));
        assert!(matches!(outcome, Err(CsvStop::Fault { line: 2, message }) if message.contains("quote left open")));
    }
}
