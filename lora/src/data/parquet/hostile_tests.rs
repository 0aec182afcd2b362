//! Parquet files that no writer makes, built byte by byte: refused, or bad row by row, within the memory that they justify.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::caught::quietly;
use super::super::columns::ColumnMap;
use super::super::reader::Rows;
use super::super::tests::sources::{encoder, gzip, held_by, written, zstd};
use super::super::{BadRow, DataError, Dataset, Needs, OnBadRow};
use super::{MAX_NESTING, ParquetFault};

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

/// Thrift's compact protocol, written.
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
    /// Digits after the point, and digits.
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

fn decimal(name: &'static str, physical: i64, scale: i64, precision: i64) -> Element {
    let converted = Some(DECIMAL);
    Element { converted, decimal: Some((scale, precision)), ..leaf(name, REQUIRED, physical) }
}

/// The values of a column, as they stand in the file.
struct Chunk {
    path: &'static str,
    physical: i64,
    codec: i64,
    values: i64,
    pages: Vec<Vec<u8>>,
    has_dictionary: bool,
    /// Said in place of where it is.
    dictionary_at: Option<i64>,
}

fn chunk(path: &'static str, physical: i64, values: i64, pages: Vec<Vec<u8>>) -> Chunk {
    Chunk { path, physical, codec: NONE, values, pages, has_dictionary: false, dictionary_at: None }
}

/// A page of `unpacked` bytes of which `data` is what stands in the file.
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

/// Texts as PLAIN has them.
fn texts(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect()
}

/// Runs of a level below 256, with the length in front.
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

/// A whole file of one row group.
fn file(schema: &[Element], rows: i64, chunks: &[Chunk]) -> Vec<u8> {
    with_footer(chunks, &footer(schema, rows, rows, chunks))
}

fn open_with(bytes: &[u8], map: &str) -> Result<Rows, DataError> {
    let path: PathBuf = written(bytes).into_temp_path().keep().unwrap();
    let rows = Rows::open(std::slice::from_ref(&path), &map.parse::<ColumnMap>().unwrap());
    std::fs::remove_file(path).unwrap();
    rows
}

fn open(bytes: &[u8]) -> Result<Rows, DataError> {
    open_with(bytes, "")
}

fn fault(bytes: &[u8]) -> ParquetFault {
    match open(bytes) {
        Err(DataError::Parquet { fault, .. }) => fault,
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
        BadRow::Value { column, message } => (column, message),
        other => panic!("{other}"),
    }
}

const MIB: usize = 1 << 20;

/// `completions`, a list of texts, of one entry in its dictionary.
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

#[test]
fn a_row_that_refers_to_a_large_text_over_and_over_is_bad() {
    let bytes = list_of_one_text(&vec![b'x'; MIB], 2, &[(1, 0), (99_999, 1), (1, 0)]);
    let (rows, held) = held_by(|| open(&bytes).unwrap());
    assert!(held < 256 * MIB, "{held} bytes");
    let (column, message) = bad(&rows, 0);
    assert_eq!(
        (column.as_str(), message.as_str()),
        ("completions", "with it the row has more than 67108864 bytes, which is the limit")
    );
    assert_eq!(row(&rows, 1), json!({"completions": ["x".repeat(MIB)]}));
}

/// Bad rows are short lines, but each takes as long as the longest good one.
#[test]
fn rows_that_are_too_long_count_as_what_they_took() {
    let runs: Vec<(u64, u8)> = (0..17).flat_map(|_| [(1, 0), (99, 1)]).collect();
    let error = open(&list_of_one_text(&vec![b'x'; MIB], 17, &runs)).unwrap_err();
    assert!(matches!(error, DataError::Expansion { .. }), "{error}");
}

#[test]
fn a_row_of_endless_lists_is_refused() {
    let (fault, held) = held_by(|| fault(&list_of_one_text(b"x", 1, &[(1, 0), ((1 << 31) - 2, 1)])));
    assert!(held < 8 * MIB, "{held} bytes");
    let message = fault.to_string();
    assert!(message.contains("completions.list.element") && message.contains("more than 2097152 values"), "{message}");
}

#[test]
fn pages_are_held_one_at_a_time() {
    let packed = zstd(&texts(&[&vec![b'a'; MIB]]));
    let pages = vec![page(DATA, PLAIN, 1, MIB + 4, &packed); 64];
    let chunk = Chunk { codec: ZSTD, ..chunk("text", BYTE_ARRAY, 64, pages) };
    let bytes = file(&[text("text", REQUIRED)], 64, &[chunk]);
    let (rows, held) = held_by(|| open(&bytes).unwrap());
    assert!(held < 16 * MIB, "{held} bytes");
    assert_eq!(rows.len(), 64);
    assert_eq!(row(&rows, 63)["text"].as_str().unwrap().len(), MIB);
}

#[test]
fn a_dictionary_of_nothing_is_counted_as_what_it_becomes() {
    let entries = 1 << 24;
    let packed = zstd(&vec![0; 4 * entries]);
    let pages = vec![
        page(DICTIONARY, PLAIN, entries as i64, 4 * entries, &packed),
        page(DATA, RLE_DICTIONARY, 1, 3, &zstd(&[1, 2, 0])),
    ];
    let chunk = Chunk { codec: ZSTD, has_dictionary: true, ..chunk("text", BYTE_ARRAY, 1, pages) };
    let bytes = file(&[text("text", REQUIRED)], 1, &[chunk]);
    let (fault, held) = held_by(|| fault(&bytes));
    assert!(held < 8 * MIB, "{held} bytes");
    assert!(matches!(fault, ParquetFault::Memory { bytes, limit } if bytes > limit), "{fault}");
    assert!(fault.to_string().contains("smaller pages"), "{fault}");
}

#[test]
fn columns_share_what_may_be_held() {
    // a mebibyte of snappy may become 200; it is not unpacked to find that three of them are too many
    let schema = ["prompt", "chosen", "rejected"].map(|name| text(name, REQUIRED));
    let chunks = schema.map(|element| {
        let pages = vec![page(DATA, PLAIN, 1, 200 * MIB, &vec![0; MIB])];
        Chunk { codec: SNAPPY, ..chunk(element.name, BYTE_ARRAY, 1, pages) }
    });
    let (fault, held) = held_by(|| fault(&file(&schema, 1, &chunks)));
    assert_eq!(fault, ParquetFault::Memory { bytes: 600 << 20, limit: 512 << 20 });
    assert!(held < 16 * MIB, "{held} bytes");
}

#[test]
fn sizes_that_a_codec_cannot_make_are_refused() {
    let of = |codec: i64, unpacked: usize, data: &[u8]| {
        let chunk = Chunk { codec, ..chunk("text", BYTE_ARRAY, 1, vec![page(DATA, PLAIN, 1, unpacked, data)]) };
        file(&[text("text", REQUIRED)], 1, &[chunk])
    };
    let data = texts(&[b"some words"]);
    assert_eq!(row(&open(&of(GZIP, data.len(), &gzip(&data))).unwrap(), 0), json!({"text": "some words"}));
    assert_column_fault(&of(NONE, 15, &data), "text", "is said to have 15 bytes unpacked, from 14");
    assert_column_fault(&of(SNAPPY, 14 * 256 + 1, &data), "text", "is said to have 3585 bytes unpacked, from 14");
    assert_column_fault(&of(ZSTD, (256 << 20) + 1, &data), "text", "the limit is 268435456");
    let mut brotli_data = Vec::new();
    brotli::BrotliCompress(&mut &data[..], &mut brotli_data, &Default::default()).unwrap();
    for (codec, packed) in [(GZIP, gzip(&data)), (ZSTD, zstd(&data)), (BROTLI, brotli_data)] {
        assert!(open(&of(codec, data.len(), &packed)).is_ok(), "codec {codec}");
        for said in [data.len() - 1, data.len() + 1] {
            assert_column_fault(&of(codec, said, &packed), "text", "bytes unpacked, which is not so");
        }
        assert!(matches!(fault(&of(codec, data.len(), b"no stream")), ParquetFault::Column { .. }), "codec {codec}");
    }
    assert!(matches!(fault(&of(LZO, data.len(), &data)), ParquetFault::Library(_)));
}

/// The library reads on while there are bytes, and unpacks whatever is there.
#[test]
fn pages_after_the_last_value_are_looked_at_too() {
    let data = texts(&[b"x"]);
    let bomb = gzip(&vec![0; 64 * MIB]);
    let pages = vec![page(DATA, PLAIN, 1, data.len(), &gzip(&data)), page(DATA, PLAIN, 0, 10, &bomb)];
    let bytes = file(&[text("text", REQUIRED)], 1, &[Chunk { codec: GZIP, ..chunk("text", BYTE_ARRAY, 1, pages) }]);
    let (_, held) = held_by(|| assert_column_fault(&bytes, "text", "said to have 10 bytes unpacked, which is not so"));
    assert!(held < 8 * MIB, "{held} bytes");
}

/// And it begins at the dictionary where one is said to be, even behind the data.
#[test]
fn the_walk_begins_where_the_library_does() {
    let data = texts(&[b"x"]);
    let of = |dictionary_at: i64| {
        let pages = vec![plain_page(1, &data)];
        let chunk = Chunk { dictionary_at: Some(dictionary_at), ..chunk("text", BYTE_ARRAY, 1, pages) };
        file(&[text("text", REQUIRED)], 1, &[chunk])
    };
    assert_eq!(row(&open(&of(4)).unwrap(), 0), json!({"text": "x"}));
    assert_column_fault(&of(i64::MAX - 1), "text", "its data is said to be at 9223372036854775806");
    assert_column_fault(&of(-1), "text", "-1 in its description");
    assert!(matches!(fault(&of(9)), ParquetFault::Column { .. }));
}

/// The library takes some fields for what they should be, whatever type is said to stand there, and the last of two.
#[test]
fn a_header_that_two_readers_read_differently_is_refused() {
    let data = texts(&[b"x"]);
    let of = |header: Out| {
        let pages = vec![[header.close().bytes, data.clone()].concat()];
        file(&[text("text", REQUIRED)], 1, &[chunk("text", BYTE_ARRAY, 1, pages)])
    };
    let size = data.len() as i64;
    let end = |out: Out| out.open(5).int(1, 1).int(2, PLAIN).int(3, 3).int(4, 3).close();
    assert!(open(&of(end(Out::new().int(1, DATA).int(2, size).int(3, size)))).is_ok());
    let headers = [
        end(Out::new().int(1, DATA).head(2, 1).int(3, size)),
        end(Out::new().int(1, DATA).long(2, size).int(3, size)),
        end(Out::new().int(1, DATA).int(2, size).int(2, size).int(3, size)),
        end(Out::new().int(1, DATA).int(2, size).int(3, size | 1 << 32)),
        end(end(Out::new().int(1, DATA).int(2, size).int(3, size))),
    ];
    for header in headers {
        assert_column_fault(&of(header), "text", "damaged: a field is not what it should be");
    }
}

#[test]
fn lengths_that_are_not_there_are_not_allocated() {
    let of = |encoding: i64, data: &[u8]| {
        let pages = vec![page(DATA, encoding, 1, data.len(), data)];
        file(&[text("text", REQUIRED)], 1, &[chunk("text", BYTE_ARRAY, 1, pages)])
    };
    // blocks of 128 in 4 parts, 2^40 lengths
    let many = Out::new().varint(128).varint(4).varint(1 << 40).varint(0).bytes;
    let one = Out::new().varint(128).varint(4).varint(1).varint(2).bytes;
    assert_eq!(row(&open(&of(DELTA_LENGTH_BYTE_ARRAY, &[&one[..], b"x"].concat())).unwrap(), 0), json!({"text": "x"}));
    for bytes in [
        of(DELTA_LENGTH_BYTE_ARRAY, &many),
        of(DELTA_BYTE_ARRAY, &many),
        of(DELTA_BYTE_ARRAY, &[&one[..], &many].concat()),
    ] {
        let (_, held) = held_by(|| assert_column_fault(&bytes, "text", "1099511627776 texts, of at most 1"));
        assert!(held < 8 * MIB, "{held} bytes");
    }
}

/// Lengths as differences, packed in blocks of 128: parts of 32 that are all alike take nothing, others 12 bits each.
fn packed_lengths(lengths: &[i64]) -> Vec<u8> {
    let mut out = Out::new().varint(128).varint(4).varint(lengths.len() as u64).zigzag(lengths[0]);
    let differences: Vec<i64> = lengths.windows(2).map(|two| two[1] - two[0]).collect();
    for block in differences.chunks(128) {
        let least = *block.iter().min().unwrap();
        out = out.zigzag(least);
        let parts: Vec<&[i64]> = block.chunks(32).collect();
        let width = |part: &&[i64]| if part.iter().all(|value| *value == least) { 0 } else { 12 };
        out.bytes.extend((0..4).map(|i| parts.get(i).map_or(0, width)));
        for part in parts.iter().filter(|part| width(part) > 0) {
            let mut packed = [0u8; 48];
            for bit in (0..32 * 12).filter(|bit| (part.get(bit / 12).unwrap_or(&least) - least) >> (bit % 12) & 1 == 1)
            {
                packed[bit / 8] |= 1 << (bit % 8);
            }
            out.bytes.extend(packed);
        }
    }
    out.bytes
}

/// Each value may repeat the one before: few bytes that become many.
#[test]
fn texts_that_repeat_each_other_are_bounded() {
    let of = |values: usize| {
        let schema = [text("completions", REPEATED)];
        // all begin with the first, and have nothing of their own
        let (mut prefixes, mut suffixes) = (vec![2048; values], vec![0; values]);
        (prefixes[0], suffixes[0]) = (0, 2048);
        let mut data = [levels(&[(1, 0), (values as u64 - 1, 1)]), levels(&[(values as u64, 1)])].concat();
        data.extend([packed_lengths(&prefixes), packed_lengths(&suffixes), vec![b'x'; 2048]].concat());
        let pages = vec![page(DATA, DELTA_BYTE_ARRAY, values as i64, data.len(), &data)];
        file(&schema, 1, &[chunk("completions", BYTE_ARRAY, values as i64, pages)])
    };
    assert_eq!(row(&open(&of(300)).unwrap(), 0), json!({"completions": vec!["x".repeat(2048); 300]}));
    let bytes = of(1 << 20);
    let (_, held) = held_by(|| assert_column_fault(&bytes, "completions", "1048576 values of a row may repeat"));
    assert!(held < 8 * MIB, "{held} bytes");
}

#[test]
fn every_fault_has_its_error() {
    let data = texts(&[b"x"]);
    let schema = [text("text", REQUIRED)];
    let chunks = || [chunk("text", BYTE_ARRAY, 1, vec![plain_page(1, &data)])];
    assert_eq!(row(&open(&file(&schema, 1, &chunks())).unwrap(), 0), json!({"text": "x"}));

    let footer_size = [b"PAR1....".as_slice(), &[0xFF; 4], b"PAR1"].concat();
    assert_eq!(fault(&footer_size), ParquetFault::FooterSize { bytes: u64::from(u32::MAX), limit: 4 });
    assert_eq!(fault(b"PAR1 and no end"), ParquetFault::Truncated);
    assert_eq!(fault(b"PAR1"), ParquetFault::Truncated);
    let damaged = fault(&with_footer(&[], &[0x1D; 20]));
    assert!(matches!(damaged, ParquetFault::Damaged { part: "footer", .. }), "{damaged}");
    let rows = fault(&with_footer(&chunks(), &footer(&schema, 2, 1, &chunks())));
    assert_eq!(rows.to_string(), "its footer is damaged: 2 rows, 1 in its row groups");
    for rows in [-1, 2] {
        let bytes = with_footer(&chunks(), &footer(&schema, rows, rows, &chunks()));
        assert!(matches!(fault(&bytes), ParquetFault::Column { .. } | ParquetFault::Damaged { .. }));
    }

    let nested = |depth: usize| {
        let mut schema = vec![group("text", REQUIRED, None, 1); depth];
        schema.push(text("text", REQUIRED));
        let path: &'static str = Box::leak(vec!["text"; depth + 1].join(".").into_boxed_str());
        file(&schema, 1, &[chunk(path, BYTE_ARRAY, 1, vec![plain_page(1, &data)])])
    };
    assert_eq!(fault(&nested(MAX_NESTING + 1)), ParquetFault::Nesting { limit: MAX_NESTING });
    assert!(open(&nested(MAX_NESTING - 2)).is_ok());

    // values that do not add up, data that lies outside
    assert_column_fault(&file(&schema, 1, &[chunk("text", BYTE_ARRAY, 1, vec![])]), "text", "there are 0");
    let twice = vec![plain_page(1, &data), plain_page(1, &data)];
    assert_column_fault(&file(&schema, 1, &[chunk("text", BYTE_ARRAY, 1, twice)]), "text", "there are 2");
    assert_column_fault(&file(&schema, 1, &[chunk("text", BYTE_ARRAY, 3, vec![])]), "text", "3 values for 1 rows");
    let mut long = plain_page(1, &data);
    long.pop();
    assert_column_fault(&file(&schema, 1, &[chunk("text", BYTE_ARRAY, 1, vec![long])]), "text", "its column ends at");
    for (rows, words) in [(1, "it has more rows than its row group"), (3, "it ends before its rows do")] {
        let bytes = list_of_one_text(b"x", rows, &[(1, 0), (3, 1), (1, 0)]);
        assert_column_fault(&bytes, "completions.list.element", words);
    }
    let dictionary = vec![page(DICTIONARY, PLAIN, 6, 5, &data), plain_page(1, &data)];
    let dictionary = Chunk { has_dictionary: true, ..chunk("text", BYTE_ARRAY, 1, dictionary) };
    assert_column_fault(&file(&schema, 1, &[dictionary]), "text", "6 values in 5 bytes");
}

#[test]
fn decimals_are_numbers_of_json() {
    let schema = [
        decimal("id", INT32, 0, 9),
        decimal("weight", INT64, 0, 18),
        decimal("margin", BYTE_ARRAY, 0, 40),
        decimal("label", INT32, 2, 9),
    ];
    let chunks = |bytes: &[u8]| {
        [
            chunk("id", INT32, 1, vec![plain_page(1, &(-123i32).to_le_bytes())]),
            chunk("weight", INT64, 1, vec![plain_page(1, &0i64.to_le_bytes())]),
            chunk("margin", BYTE_ARRAY, 1, vec![plain_page(1, &texts(&[bytes]))]),
            chunk("label", INT32, 1, vec![plain_page(1, &(-5i32).to_le_bytes())]),
        ]
    };
    let rows = open(&file(&schema, 1, &chunks(&[1, 0]))).unwrap();
    assert_eq!(row(&rows, 0), json!({"id": -123, "weight": 0, "margin": 256, "label": -0.05}));
    let rows = open(&file(&schema, 1, &chunks(&[1; 33]))).unwrap();
    assert_eq!(bad(&rows, 0), ("margin".into(), "a number of 33 bytes, the limit is 32".into()));
    for scale in [77, i64::from(i32::MAX)] {
        let schema = [decimal("margin", BYTE_ARRAY, scale, i64::from(i32::MAX))];
        let bytes = file(&schema, 1, &[chunk("margin", BYTE_ARRAY, 1, vec![plain_page(1, &texts(&[&[1]]))])]);
        assert_eq!(
            fault(&bytes),
            ParquetFault::Scale { column: "margin".into(), scale: scale as i32, limit: 76 },
            "{scale}"
        );
    }
}

/// What nothing reads may be what it likes; what something reads is a bad row that says which column and why.
#[test]
fn values_are_bad_where_they_are_read() {
    let schema = [
        text("text", REQUIRED),
        text("note", REQUIRED),
        Element { converted: Some(DATE), ..leaf("day", REQUIRED, INT32) },
        Element { converted: Some(TIME_MILLIS), ..leaf("clock", REQUIRED, INT32) },
        leaf("score", REQUIRED, DOUBLE),
        leaf("picture", REQUIRED, BYTE_ARRAY),
    ];
    let ints = |values: [i32; 2]| plain_page(2, &values.map(i32::to_le_bytes).concat());
    let chunks = [
        chunk("text", BYTE_ARRAY, 2, vec![plain_page(2, &texts(&[b"a", b"b"]))]),
        chunk("note", BYTE_ARRAY, 2, vec![plain_page(2, &texts(&[b"fine", b"caf\xE9"]))]),
        chunk("day", INT32, 2, vec![ints([19782, i32::MAX])]),
        chunk("clock", INT32, 2, vec![ints([1, -1])]),
        chunk("score", DOUBLE, 2, vec![plain_page(2, &[0.5, f64::NAN].map(f64::to_le_bytes).concat())]),
        chunk("picture", BYTE_ARRAY, 2, vec![plain_page(2, &texts(&[b"\xFF\xD8", b"\xFF"]))]),
    ];
    let bytes = file(&schema, 2, &chunks);
    let rows = open(&bytes).unwrap();
    for (i, expected) in ["a", "b"].iter().enumerate() {
        let expected =
            json!({"text": expected, "note": null, "day": null, "clock": null, "score": null, "picture": null});
        assert_eq!(row(&rows, i), expected);
    }
    for (column, first, message) in [
        ("note", json!("fine"), "its text is not valid UTF-8, from byte 4 of it on"),
        ("day", json!("2024-02-29"), "the date or time 2147483647 is outside of the calendar"),
        ("clock", json!("00:00:00.001"), "-1 milliseconds after midnight are no time of a day"),
        ("score", json!(0.5), "NaN is a number that JSON has no form for"),
    ] {
        let rows = open_with(&bytes, &format!("id={column}")).unwrap();
        assert_eq!(row(&rows, 0)[column], first);
        assert_eq!(bad(&rows, 1), (column.to_owned(), message.to_owned()));
        let error = rows.row_error(1, rows.read(1).unwrap().unwrap_err()).to_string();
        assert!(error.contains(&format!(":2: column `{column}`: {message}")), "{error}");
    }
    let error = open_with(&bytes, "id=picture").unwrap_err().to_string();
    assert!(error.contains("column `picture` is binary (BYTE_ARRAY)"), "{error}");
}

#[test]
fn bad_values_are_skipped_where_bad_rows_are() {
    let names = ["prompt", "chosen", "rejected"];
    let mut schema = names.map(|name| text(name, REQUIRED)).to_vec();
    schema.push(leaf("weight", REQUIRED, DOUBLE));
    let mut chunks: Vec<Chunk> = names
        .iter()
        .map(|name| {
            let texts = texts(&[0, 1, 2].map(|i| format!("{name} {i}").into_bytes()).each_ref().map(Vec::as_slice));
            chunk(name, BYTE_ARRAY, 3, vec![plain_page(3, &texts)])
        })
        .collect();
    let weights = [1.0, f64::INFINITY, 0.5].map(f64::to_le_bytes).concat();
    chunks.push(chunk("weight", DOUBLE, 3, vec![plain_page(3, &weights)]));
    let file = written(&file(&schema, 3, &chunks));
    let open = |on_bad_row| Dataset::open(&[file.path().to_owned()], encoder(), Needs::Pairs, on_bad_row);
    let error = open(OnBadRow::Error).unwrap_err().to_string();
    assert!(error.ends_with(":2: column `weight`: inf is a number that JSON has no form for"), "{error}");
    let data = open(OnBadRow::Skip).unwrap();
    assert_eq!((data.len(), data.survey().dropped_rows()), (2, 1));
}

#[test]
fn lists_and_maps_are_read_in_all_their_forms() {
    let numbers = |runs: &[(u64, u8)], values: &[i32]| {
        let data = [levels(runs), levels(&[(values.len() as u64, 1)])].concat();
        let data = [data, values.iter().flat_map(|value| value.to_le_bytes()).collect()].concat();
        plain_page(values.len() as i64, &data)
    };
    let runs = [(1, 0), (1, 1), (1, 0)];
    let rows = |schema: &[Element], chunks: &[Chunk]| {
        let rows = open(&file(schema, 2, chunks)).unwrap();
        [row(&rows, 0), row(&rows, 1)]
    };
    // a field that is repeated, without a list around it; and a list of two levels
    let page = numbers(&runs, &[1, 2, 3]);
    let bare = rows(&[leaf("rewards", REPEATED, INT32)], &[chunk("rewards", INT32, 3, vec![page.clone()])]);
    assert_eq!(bare, [json!({"rewards": [1, 2]}), json!({"rewards": [3]})]);
    let two = [group("rewards", REQUIRED, Some(LIST), 1), leaf("element", REPEATED, INT32)];
    assert_eq!(rows(&two, &[chunk("rewards.element", INT32, 3, vec![page.clone()])]), bare);
    // a group that is the element by its name, and one that is not
    for (name, element) in [("array", json!({"x": 3})), ("rewards_tuple", json!({"x": 3})), ("list", json!(3))] {
        let schema =
            [group("rewards", REQUIRED, Some(LIST), 1), group(name, REPEATED, None, 1), leaf("x", REQUIRED, INT32)];
        let path: &'static str = Box::leak(format!("rewards.{name}.x").into_boxed_str());
        assert_eq!(
            rows(&schema, &[chunk(path, INT32, 3, vec![page.clone()])])[1],
            json!({"rewards": [element]}),
            "{name}"
        );
    }
    // a map, whose keys are made texts; one without values
    let map = [
        group("chat_template_kwargs", REQUIRED, Some(MAP), 1),
        group("key_value", REPEATED, None, 2),
        leaf("key", REQUIRED, INT32),
        leaf("value", REQUIRED, INT32),
    ];
    let path =
        |leaf: &str| -> &'static str { Box::leak(format!("chat_template_kwargs.key_value.{leaf}").into_boxed_str()) };
    let values = [
        chunk(path("key"), INT32, 3, vec![page.clone()]),
        chunk(path("value"), INT32, 3, vec![numbers(&runs, &[7, 8, 9])]),
    ];
    let expected = [json!({"chat_template_kwargs": {"1": 7, "2": 8}}), json!({"chat_template_kwargs": {"3": 9}})];
    assert_eq!(rows(&map, &values), expected);
    let keys = [map[0], Element { children: 1, ..map[1] }, map[2]];
    assert_eq!(
        rows(&keys, &values[..1]),
        [json!({"chat_template_kwargs": [1, 2]}), json!({"chat_template_kwargs": [3]})]
    );
}

#[test]
fn columns_of_a_list_that_do_not_fit_are_refused() {
    let schema = [
        group("messages", REQUIRED, Some(LIST), 1),
        group("list", REPEATED, None, 2),
        text("role", REQUIRED),
        text("content", REQUIRED),
    ];
    let turns = |n: usize| {
        let runs = [(1, 0), (n as u64 - 1, 1)];
        let data = [levels(&runs[..if n > 1 { 2 } else { 1 }]), levels(&[(n as u64, 1)])].concat();
        plain_page(n as i64, &[data, texts(&vec![&b"user"[..]; n])].concat())
    };
    let of = |roles: usize, contents: usize| {
        let chunks = [
            chunk("messages.list.role", BYTE_ARRAY, roles as i64, vec![turns(roles)]),
            chunk("messages.list.content", BYTE_ARRAY, contents as i64, vec![turns(contents)]),
        ];
        file(&schema, 1, &chunks)
    };
    let turn = json!({"role": "user", "content": "user"});
    assert_eq!(row(&open(&of(2, 2)).unwrap(), 0), json!({"messages": [turn, turn]}));
    for (roles, contents) in [(1, 2), (2, 1), (3, 2)] {
        assert_column_fault(&of(roles, contents), "messages.list.content", "lists are not as long");
    }
}

/// A whole file, every byte of it changed in turn.
#[test]
fn no_byte_of_a_header_or_footer_is_trusted() {
    let sound = list_of_one_text(b"some words", 2, &[(1, 0), (3, 1), (1, 0)]);
    assert!(open(&sound).is_ok());
    for at in 4..sound.len() {
        for value in [0, 0x15, 0x7F, 0xFF, sound[at] ^ 1, sound[at] ^ 0x80] {
            let mut bytes = sound.clone();
            bytes[at] = value;
            let (outcome, held) = held_by(|| quietly(|| open(&bytes).map(|rows| rows.len())));
            assert!(outcome.is_ok(), "byte {at} = {value}: a panic");
            assert!(held < 16 * MIB, "byte {at} = {value}: {held} bytes");
        }
    }
}

/// A boolean that is not 0 or 1 in the file is still one in JSON.
#[test]
fn booleans_are_packed_bits() {
    let bytes = file(
        &[leaf("label", OPTIONAL, BOOLEAN)],
        3,
        &[chunk("label", BOOLEAN, 3, vec![plain_page(3, &[levels(&[(1, 1), (1, 0), (1, 1)]), vec![0b01]].concat())])],
    );
    let rows = open(&bytes).unwrap();
    assert_eq!([0, 1, 2].map(|i| row(&rows, i)["label"].clone()), [json!(true), Value::Null, json!(false)]);
}
