//! Parquet: every row as the JSON object that a JSONL file of the same data would hold.
//!
//! The library trusts the sizes in a file and panics on some broken ones. So the footer and all page headers are walked first
//! (`thrift`), every size in them is held against the file, pages of codecs that can expand without bound are unpacked once
//! without keeping the result, and the library runs where a panic becomes an error. Pages that carry a checksum are checked.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ::parquet::basic::{Compression, ConvertedType, LogicalType, Type as Physical};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::DataError;
use super::caught::quietly;
use super::reader::MAX_ROW_BYTES;
use super::spool::Spool;
use super::thrift::{Compact, Event};

/// The last four bytes of a file, and the first.
const MAGIC: &[u8] = b"PAR1";
/// Largest footer, in bytes.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// Columns inside columns.
const MAX_NESTING: usize = 32;
/// Largest header of a page, in bytes: it may hold the smallest and the largest value of the page.
const MAX_HEADER_BYTES: usize = 16 << 20;
/// Largest page, unpacked. Writers end a page at a megabyte, or after one row.
const MAX_PAGE_BYTES: u64 = 4 * MAX_ROW_BYTES;
/// Bytes that snappy or lz4 make of one at most: lz4 255, snappy fewer.
const MOST_EXPANSION: u64 = 256;
/// So many values of lists may stand in a column of a row group, however few bytes they take.
const VALUES_ALLOWED: u64 = 1 << 24;
/// And so many for each of its bytes: lists of equal values take next to none.
const VALUES_PER_BYTE: u64 = 64;

/// What is wrong with a Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetFault {
    /// The end is missing.
    #[error("it does not end as a Parquet file does; is it complete?")]
    Truncated,
    /// The footer is larger than the file or the limit.
    #[error("its footer is said to have {bytes} bytes, of at most {limit}")]
    FooterSize {
        /// What the file says.
        bytes: u64,
        /// The most that there can be.
        limit: u64,
    },
    /// Footer or page header that is not what it should be.
    #[error("its {part} is damaged: {message}")]
    Damaged {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        message: String,
    },
    /// Columns in columns in columns.
    #[error("its columns are nested more than {limit} deep")]
    Nesting {
        /// The limit.
        limit: usize,
    },
    /// A column's data lies outside the file, or its pages do not add up.
    #[error("column `{column}`: {message}")]
    Column {
        /// Path of the column.
        column: String,
        /// What is wrong.
        message: String,
    },
    /// A type of value that JSON has no form for.
    #[error(
        "column `{column}` is {found}, which has no form in JSON; leave the column out or convert it (text is `string`, that is \
         BYTE_ARRAY with the UTF8 annotation)"
    )]
    Type {
        /// Path of the column.
        column: String,
        /// Its type.
        found: String,
    },
    /// The library refuses the file or fails on it.
    #[error("{0}")]
    Library(String),
}

type Outcome<T> = Result<T, ParquetFault>;

/// Writes every row as a line of JSON into the spool.
///
/// # Errors
/// [`DataError::Parquet`]; those of the spool.
pub(super) fn unpack(
    path: &Path,
    file: &File,
    bytes: u64,
    spool: &mut Spool<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), DataError> {
    let broken = |fault| DataError::Parquet { path: path.to_owned(), fault };
    check_footer(file, bytes).map_err(broken)?;
    let library = |error: ::parquet::errors::ParquetError| broken(ParquetFault::Library(error.to_string()));
    let rows = || -> Result<(), DataError> {
        let again = file.try_clone().map_err(|source| DataError::Io { path: path.to_owned(), source })?;
        let reader = SerializedFileReader::new(again).map_err(library)?;
        check_schema(reader.metadata().file_metadata().schema_descr()).map_err(broken)?;
        check_pages(file, bytes, reader.metadata()).map_err(broken)?;
        let total = reader.metadata().file_metadata().num_rows().max(1) as u64;
        let mut line = Vec::new();
        for (number, row) in reader.get_row_iter(None).map_err(library)?.enumerate() {
            line.clear();
            write_row(&mut line, &row.map_err(library)?);
            line.push(b'\n');
            spool.write(&line)?;
            if number % 1024 == 0 {
                progress((number as u128 * u128::from(bytes) / u128::from(total)) as u64);
            }
        }
        Ok(())
    };
    let fails = |words: String| Err(broken(ParquetFault::Library(format!("the parquet library fails on it: {words}"))));
    quietly(rows).unwrap_or_else(fails)
}

/// Walks the footer.
fn check_footer(file: &File, bytes: u64) -> Outcome<()> {
    let damaged = |message: String| ParquetFault::Damaged { part: "footer", message };
    let at = |offset: u64, buffer: &mut [u8]| file.read_exact_at(buffer, offset).map_err(|e| damaged(e.to_string()));
    let tail_at = bytes.checked_sub(8).filter(|at| *at >= MAGIC.len() as u64).ok_or(ParquetFault::Truncated)?;
    let mut tail = [0; 8];
    at(tail_at, &mut tail)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic != MAGIC {
        return Err(ParquetFault::Truncated);
    }
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let limit = MAX_FOOTER_BYTES.min(tail_at - MAGIC.len() as u64);
    if length > limit {
        return Err(ParquetFault::FooterSize { bytes: length, limit });
    }
    let mut footer = vec![0; length as usize];
    at(tail_at - length, &mut footer)?;

    // field 2 is the schema: a list of elements in depth-first order, each with its number of children in field 5
    let mut children = 0i64;
    let mut left: Vec<i64> = Vec::new();
    let mut fault = None;
    let mut on = |path: &[i16], event| match (path, event) {
        ([2, 5], Event::Int(count)) => children = count,
        ([2], Event::End) => {
            while left.last() == Some(&0) {
                left.pop();
            }
            if let Some(siblings) = left.last_mut() {
                *siblings -= 1;
            }
            if children > 0 {
                left.push(children);
            }
            if left.len() > MAX_NESTING {
                fault = Some(ParquetFault::Nesting { limit: MAX_NESTING });
            }
            children = 0;
        }
        _ => {}
    };
    Compact::new(&footer).walk(&mut on).map_err(|error| damaged(error.to_string()))?;
    fault.map_or(Ok(()), Err)
}

/// Whether every column has a form in JSON.
fn check_schema(schema: &SchemaDescriptor) -> Outcome<()> {
    for column in schema.columns() {
        if let Some(found) = no_json(column) {
            return Err(ParquetFault::Type { column: column.path().string(), found });
        }
    }
    Ok(())
}

/// The type of a column, if it has no form in JSON. Dates and times are text.
fn no_json(column: &ColumnDescriptor) -> Option<String> {
    let is_text = matches!(
        (column.converted_type(), column.logical_type_ref()),
        (ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON, _)
    );
    let is_number = matches!(column.converted_type(), ConvertedType::DECIMAL)
        || matches!(column.logical_type_ref(), Some(LogicalType::Float16));
    match column.physical_type() {
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY if !is_text && !is_number => {
            Some(match (column.logical_type_ref(), column.converted_type()) {
                (Some(logical), _) => format!("{} ({logical:?})", column.physical_type()),
                (None, ConvertedType::NONE) => format!("binary ({})", column.physical_type()),
                (None, converted) => format!("{} ({converted})", column.physical_type()),
            })
        }
        _ => None,
    }
}

/// Holds what the footer says about each column, and the header of every page, against the file.
fn check_pages(file: &File, bytes: u64, metadata: &ParquetMetaData) -> Outcome<()> {
    let mut rows = 0i64;
    for group in metadata.row_groups() {
        rows = rows.checked_add(group.num_rows()).filter(|_| group.num_rows() >= 0).unwrap_or(-1);
        for column in group.columns() {
            let fault = |message: String| ParquetFault::Column { column: column.column_path().string(), message };
            check_column(file, bytes, column, group.num_rows()).map_err(fault)?;
        }
    }
    if rows != metadata.file_metadata().num_rows() {
        let message = format!("{} rows, {rows} in its row groups", metadata.file_metadata().num_rows());
        return Err(ParquetFault::Damaged { part: "footer", message });
    }
    Ok(())
}

/// What a page header says.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    kind: i64,
    unpacked: i64,
    packed: i64,
    values: i64,
    /// Bytes of levels in front of the values, which are never packed; in pages of version 2.
    levels: [i64; 2],
    is_packed: bool,
}

/// Kinds of pages.
const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;
const DATA_PAGE_V2: i64 = 3;

fn check_column(file: &File, bytes: u64, column: &ColumnChunkMetaData, rows: i64) -> Result<(), String> {
    let whole = |number: i64| u64::try_from(number).map_err(|_| format!("{number} in its description"));
    let start = column.dictionary_page_offset().unwrap_or(i64::MAX).min(column.data_page_offset());
    let (start, length) = (whole(start)?, whole(column.compressed_size())?);
    let end = start.checked_add(length).filter(|end| *end <= bytes);
    let end =
        end.ok_or_else(|| format!("its data is said to be at {start}, {length} bytes long, in a file of {bytes}"))?;
    let claimed = whole(column.num_values())?;
    let is_list = column.column_descr().max_rep_level() > 0;
    if !is_list && claimed != whole(rows)? {
        return Err(format!("{claimed} values for {rows} rows"));
    }

    let (mut at, mut values, mut unpacked) = (start, 0u64, 0u64);
    while at < end && values < claimed {
        let (header_bytes, page) = page_header(file, at, end)?;
        let data = at + header_bytes;
        let packed = whole(page.packed)?;
        let next = data.checked_add(packed).filter(|next| *next <= end);
        let next =
            next.ok_or_else(|| format!("a page at {at} is said to have {packed} bytes, its column ends at {end}"))?;
        let page_bytes = whole(page.unpacked)?;
        if page_bytes > MAX_PAGE_BYTES {
            return Err(format!(
                "a page at {at} is said to have {page_bytes} bytes unpacked, the limit is {MAX_PAGE_BYTES}"
            ));
        }
        let justified = match column.compression() {
            Compression::UNCOMPRESSED => packed,
            Compression::SNAPPY | Compression::LZ4 | Compression::LZ4_RAW => packed.saturating_mul(MOST_EXPANSION),
            // unpacked below
            _ => MAX_PAGE_BYTES,
        };
        if page_bytes > justified {
            return Err(format!("a page at {at} is said to have {page_bytes} bytes unpacked, from {packed}"));
        }
        let page_values = whole(page.values)?;
        match page.kind {
            DATA_PAGE | DATA_PAGE_V2 => values += page_values,
            // each value has at least a byte
            DICTIONARY_PAGE if page_values > page_bytes => {
                return Err(format!("a dictionary at {at} is said to have {page_values} values in {page_bytes} bytes"));
            }
            _ => {}
        }
        let levels = page.levels.iter().try_fold(0u64, |sum, &n| Some(sum + whole(n).ok()?));
        let levels = levels.filter(|levels| *levels <= packed && *levels <= page_bytes);
        let levels = levels.ok_or_else(|| format!("a page at {at} has more bytes of levels than bytes"))?;
        if page.is_packed {
            check_expansion(file, column.compression(), data + levels..next, page_bytes - levels)
                .map_err(|message| format!("a page at {at}: {message}"))?;
        }
        unpacked += page_bytes;
        at = next;
    }
    if values != claimed {
        return Err(format!("{claimed} values are said to be in its pages, there are {values}"));
    }
    let justified = VALUES_ALLOWED.max(whole(rows)?.saturating_add(unpacked.saturating_mul(VALUES_PER_BYTE)));
    if is_list && values > justified {
        return Err(format!(
            "{values} values in {unpacked} bytes; more than {justified} are not read, write smaller row groups"
        ));
    }
    Ok(())
}

/// Bytes of the header at an offset, and what it says.
fn page_header(file: &File, at: u64, end: u64) -> Result<(u64, Page), String> {
    let mut window = 4096;
    loop {
        let size = usize::try_from(end - at).unwrap_or(usize::MAX).min(window);
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        let mut page = Page { is_packed: true, ..Page::default() };
        let mut compact = Compact::new(&bytes);
        let walked = compact.walk(&mut |path, event| {
            let Event::Int(value) = event else { return };
            match path {
                [1] => page.kind = value,
                [2] => page.unpacked = value,
                [3] => page.packed = value,
                [5 | 7 | 8, 1] => page.values = value,
                [8, 5] => page.levels[0] = value,
                [8, 6] => page.levels[1] = value,
                [8, 7] => page.is_packed = value != 0,
                _ => {}
            }
        });
        match walked {
            Ok(()) => return Ok((compact.position() as u64, page)),
            // a text in it may reach beyond the window
            Err(_) if size == window && window < MAX_HEADER_BYTES => window *= 16,
            Err(fault) => return Err(format!("the page header at {at} is damaged: {fault}")),
        }
    }
}

/// Unpacks a page of a codec whose output its input does not bound, and checks that it has the size that its header says.
fn check_expansion(file: &File, codec: Compression, range: std::ops::Range<u64>, unpacked: u64) -> Result<(), String> {
    let mut packed = vec![0; (range.end - range.start) as usize]; // lies inside the file
    file.read_exact_at(&mut packed, range.start).map_err(|error| error.to_string())?;
    let count = |decoder: &mut dyn Read| {
        std::io::copy(&mut decoder.take(unpacked + 1), &mut std::io::sink()).map_err(|error| error.to_string())
    };
    let found = match codec {
        Compression::GZIP(_) => count(&mut flate2::read::MultiGzDecoder::new(&packed[..]))?,
        Compression::ZSTD(_) => {
            count(&mut zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(|error| error.to_string())?)?
        }
        Compression::BROTLI(_) => count(&mut brotli::Decompressor::new(&packed[..], 4096))?,
        // these are bounded by their input, or by the size that the header says
        _ => return Ok(()),
    };
    match found == unpacked {
        true => Ok(()),
        false => Err(format!("it is said to have {unpacked} bytes unpacked, which is not so")),
    }
}

fn write_row(out: &mut Vec<u8>, row: &Row) {
    out.push(b'{');
    for (i, (name, field)) in row.get_column_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write_field(out, field);
    }
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text prints, and a vector takes it");
}

fn write_field(out: &mut Vec<u8>, field: &Field) {
    let mut shown = |value: &dyn std::fmt::Display| write!(out, "{value}").expect("a vector takes every byte");
    match field {
        Field::Null => shown(&"null"),
        Field::Bool(value) => shown(value),
        Field::Byte(value) => shown(value),
        Field::Short(value) => shown(value),
        Field::Int(value) => shown(value),
        Field::Long(value) => shown(value),
        Field::UByte(value) => shown(value),
        Field::UShort(value) => shown(value),
        Field::UInt(value) => shown(value),
        Field::ULong(value) => shown(value),
        Field::Float16(value) => write_number(out, f64::from(value.to_f32())),
        Field::Float(value) => write_number(out, f64::from(*value)),
        Field::Double(value) => write_number(out, *value),
        // digits with a point, or without one
        Field::Decimal(_) => shown(field),
        Field::Str(text) => write_text(out, text),
        // check_schema has refused the columns that could hold others
        Field::Bytes(bytes) => write_text(out, &String::from_utf8_lossy(bytes.data())),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => write_text(out, &field.to_string()),
        Field::Group(row) => write_row(out, row),
        Field::ListInternal(list) => write_list(out, list.elements()),
        Field::MapInternal(map) => {
            out.push(b'{');
            for (i, (key, value)) in map.entries().iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                match key {
                    Field::Str(name) => write_text(out, name),
                    other => write_text(out, &other.to_string()),
                }
                out.push(b':');
                write_field(out, value);
            }
            out.push(b'}');
        }
    }
}

fn write_list(out: &mut Vec<u8>, elements: &[Field]) {
    out.push(b'[');
    for (i, element) in elements.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_field(out, element);
    }
    out.push(b']');
}

/// As JSON has it. What JSON does not have is written as Python writes it, and is a bad row like in a JSONL file.
fn write_number(out: &mut Vec<u8>, value: f64) {
    let text = match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => serde_json::Number::from_f64(value).expect("it is finite").to_string(),
    };
    out.extend_from_slice(text.as_bytes());
}
