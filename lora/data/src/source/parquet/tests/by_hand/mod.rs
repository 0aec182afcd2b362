//! Parquet files that no writer makes, built byte by byte. The reader reads them, refuses them or finds bad rows in them, and
//! allocates no more memory than their size justifies.

mod damage;
mod memory;
mod values;

use std::path::PathBuf;

use serde_json::Value;

use crate::source::bad_line::BadLine;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::parquet::fault::ParquetFault;
use crate::source::reader::Rows;
use crate::tests::written;

const BOOLEAN: i64 = 0;
const INT32: i64 = 1;
const INT64: i64 = 2;
const DOUBLE: i64 = 5;
const BYTE_ARRAY: i64 = 6;

const REQUIRED: i64 = 0;
const OPTIONAL: i64 = 1;
const REPEATED: i64 = 2;

const UTF8: i64 = 0;
const MAP: i64 = 1;
const LIST: i64 = 3;
const DECIMAL: i64 = 5;
const DATE: i64 = 6;
const TIME_MILLIS: i64 = 7;

const PLAIN: i64 = 0;
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;
const RLE_DICTIONARY: i64 = 8;

const NONE: i64 = 0;
const SNAPPY: i64 = 1;
const GZIP: i64 = 2;
const LZO: i64 = 3;
const BROTLI: i64 = 4;
const ZSTD: i64 = 6;

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;

/// Writes Thrift's compact protocol.
struct Out {
    bytes: Vec<u8>,
    last: Vec<i16>,
}

impl Out {
    fn new() -> Out {
        Out { bytes: Vec::new(), last: vec![0] }
    }

    fn head(mut self, id: i16, kind: u8) -> Out {
        let last = self.last.last_mut().unwrap();
        self.bytes.push(((id - *last) as u8) << 4 | kind);
        *last = id;
        self
    }

    fn varint(mut self, mut value: u64) -> Out {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
        self
    }

    fn zigzag(self, value: i64) -> Out {
        self.varint(((value << 1) ^ (value >> 63)) as u64)
    }

    fn int(self, id: i16, value: i64) -> Out {
        self.head(id, 5).zigzag(value)
    }

    fn long(self, id: i16, value: i64) -> Out {
        self.head(id, 6).zigzag(value)
    }

    fn raw_text(self, text: &str) -> Out {
        let mut out = self.varint(text.len() as u64);
        out.bytes.extend_from_slice(text.as_bytes());
        out
    }

    fn text(self, id: i16, text: &str) -> Out {
        self.head(id, 8).raw_text(text)
    }

    fn list(self, id: i16, kind: u8, n: usize) -> Out {
        let mut out = self.head(id, 9);
        out.bytes.push(0xF0 | kind);
        out.varint(n as u64)
    }

    fn open(self, id: i16) -> Out {
        self.head(id, 12).element()
    }

    fn element(mut self) -> Out {
        self.last.push(0);
        self
    }

    fn close(mut self) -> Out {
        self.last.pop();
        self.bytes.push(0);
        self
    }
}

/// An element of the schema.
#[derive(Clone, Copy, Default)]
struct Element {
    name: &'static str,
    physical: Option<i64>,
    repetition: i64,
    children: i64,
    converted: Option<i64>,
    /// Digits after the point, and digits in all.
    decimal: Option<(i64, i64)>,
}

fn leaf(name: &'static str, repetition: i64, physical: i64) -> Element {
    Element { name, physical: Some(physical), repetition, ..Element::default() }
}

fn text(name: &'static str, repetition: i64) -> Element {
    Element { converted: Some(UTF8), ..leaf(name, repetition, BYTE_ARRAY) }
}

fn group(name: &'static str, repetition: i64, converted: Option<i64>, children: i64) -> Element {
    Element { name, repetition, converted, children, ..Element::default() }
}

/// The pages of a column, and what the footer says about them.
struct Chunk {
    path: &'static str,
    physical: i64,
    codec: i64,
    values: i64,
    pages: Vec<Vec<u8>>,
    has_dictionary: bool,
    /// The dictionary's offset according to the footer, if it is not the right one.
    dictionary_at: Option<i64>,
}

fn chunk(path: &'static str, physical: i64, values: i64, pages: Vec<Vec<u8>>) -> Chunk {
    Chunk { path, physical, codec: NONE, values, pages, has_dictionary: false, dictionary_at: None }
}

/// Makes a page: a header, and `data`. According to the header, `data` unpacks to `unpacked` bytes.
fn page(kind: i64, encoding: i64, values: i64, unpacked: usize, data: &[u8]) -> Vec<u8> {
    let header = Out::new().int(1, kind).int(2, unpacked as i64).int(3, data.len() as i64);
    let header = match kind {
        DICTIONARY => header.open(7).int(1, values).int(2, PLAIN).close(),
        _ => header.open(5).int(1, values).int(2, encoding).int(3, 3).int(4, 3).close(),
    };
    [header.close().bytes, data.to_vec()].concat()
}

fn plain_page(values: i64, data: &[u8]) -> Vec<u8> {
    page(DATA, PLAIN, values, data.len(), data)
}

/// Returns texts in the encoding PLAIN, each after its length.
fn texts(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect()
}

/// Returns runs of levels, each level in one byte. The length of all runs in bytes comes first.
fn levels(runs: &[(u64, u8)]) -> Vec<u8> {
    let runs = runs.iter().fold(Out::new(), |out, &(n, level)| {
        let mut out = out.varint(n << 1);
        out.bytes.push(level);
        out
    });
    [&(runs.bytes.len() as u32).to_le_bytes()[..], &runs.bytes].concat()
}

fn footer(schema: &[Element], rows: i64, group_rows: i64, chunks: &[Chunk]) -> Vec<u8> {
    let mut out = Out::new().int(1, 1).list(2, 12, schema.len() + 1);
    let top_level = {
        let (mut n, mut i) = (0, 0);
        fn skip(schema: &[Element], i: usize) -> usize {
            (0..schema[i].children).fold(i + 1, |at, _| skip(schema, at))
        }
        while i < schema.len() {
            i = skip(schema, i);
            n += 1;
        }
        n
    };
    out = out.element().text(4, "schema").int(5, top_level).close();
    for element in schema {
        out = out.element();
        if let Some(physical) = element.physical {
            out = out.int(1, physical);
        }
        out = out.int(3, element.repetition).text(4, element.name);
        if element.children > 0 {
            out = out.int(5, element.children);
        }
        if let Some(converted) = element.converted {
            out = out.int(6, converted);
        }
        if let Some((scale, precision)) = element.decimal {
            out = out.int(7, scale).int(8, precision);
        }
        out = out.close();
    }
    out = out.long(3, rows).list(4, 12, 1).element().list(1, 12, chunks.len());
    let mut at = 4;
    for chunk in chunks {
        let bytes = chunk.pages.iter().map(Vec::len).sum::<usize>() as i64;
        let data_at = at + if chunk.has_dictionary { chunk.pages[0].len() as i64 } else { 0 };
        let path: Vec<&str> = chunk.path.split('.').collect();
        out = out.element().long(2, at).open(3).int(1, chunk.physical).list(2, 5, 1).zigzag(PLAIN);
        out = path.iter().fold(out.list(3, 8, path.len()), |out, part| out.raw_text(part));
        out = out.int(4, chunk.codec).long(5, chunk.values).long(6, bytes).long(7, bytes).long(9, data_at);
        if let Some(at) = chunk.dictionary_at.or(chunk.has_dictionary.then_some(at)) {
            out = out.long(11, at);
        }
        out = out.close().close();
        at += bytes;
    }
    out.long(2, 0).long(3, group_rows).close().close().bytes
}

fn with_footer(chunks: &[Chunk], footer: &[u8]) -> Vec<u8> {
    let pages: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.pages.concat()).collect();
    [b"PAR1", &pages[..], footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

/// Makes a whole file of one row group.
fn file(schema: &[Element], rows: i64, chunks: &[Chunk]) -> Vec<u8> {
    with_footer(chunks, &footer(schema, rows, rows, chunks))
}

fn open_with(bytes: &[u8], map: &str) -> Result<Rows, SourceError> {
    let path: PathBuf = written(bytes).into_temp_path().keep().unwrap();
    let rows = Rows::open(std::slice::from_ref(&path), &map.parse::<ColumnMap>().unwrap());
    std::fs::remove_file(path).unwrap();
    rows
}

fn open(bytes: &[u8]) -> Result<Rows, SourceError> {
    open_with(bytes, "")
}

fn fault(bytes: &[u8]) -> ParquetFault {
    match open(bytes) {
        Err(SourceError::Parquet { fault, .. }) => fault,
        other => panic!("{:?}", other.map(|rows| rows.len())),
    }
}

#[track_caller]
fn assert_column_fault(bytes: &[u8], expected_column: &str, words: &str) {
    match fault(bytes) {
        ParquetFault::Column { column, message } => {
            assert!(column == expected_column && message.contains(words), "{column}: {message}");
        }
        other => panic!("{other}"),
    }
}

fn row(rows: &Rows, row: usize) -> Value {
    serde_json::from_slice(&rows.read(row).unwrap().unwrap()).unwrap()
}

fn bad(rows: &Rows, row: usize) -> (String, String) {
    match rows.read(row).unwrap().unwrap_err() {
        BadLine::Value { column, message } => (column, message),
        other => panic!("{other}"),
    }
}

const MIB: usize = 1 << 20;

/// Makes a file with a column `completions` of lists of texts. Every text is the one entry of the column's dictionary.
fn list_of_one_text(entry: &[u8], rows: i64, runs: &[(u64, u8)]) -> Vec<u8> {
    let schema =
        [group("completions", OPTIONAL, Some(LIST), 1), group("list", REPEATED, None, 1), text("element", OPTIONAL)];
    let values = runs.iter().map(|(n, _)| n).sum::<u64>();
    let mut data = [levels(runs), levels(&[(values, 3)])].concat();
    data.extend(Out { bytes: vec![1], last: vec![] }.varint(values << 1).bytes);
    data.push(0);
    let dictionary = texts(&[entry]);
    let pages = vec![
        page(DICTIONARY, PLAIN, 1, dictionary.len(), &dictionary),
        page(DATA, RLE_DICTIONARY, values as i64, data.len(), &data),
    ];
    let chunk = Chunk { has_dictionary: true, ..chunk("completions.list.element", BYTE_ARRAY, values as i64, pages) };
    file(&schema, rows, &[chunk])
}
