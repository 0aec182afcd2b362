//! Reads Parquet files: every row becomes the JSON object that a JSONL file of the same data would hold.
//!
//! A string of the type JSON becomes the value that it encodes. A null field of a structure counts as a missing field.
//!
//! Only the columns that a run can read are looked at. Every other column is null in the object. The parquet library trusts the
//! sizes in a file and panics on some broken ones. So the footer (`thrift`) and the page headers of the columns to read (`pages`)
//! are walked first, and every size in them is compared with the file. Pages of codecs that can expand without bound are unpacked
//! once to count their bytes. A panic of the library becomes an error. The library decodes the columns one row at a time, and
//! `rows` makes objects of their values. If pages carry a checksum, it is checked.

pub(crate) mod fault;
mod features;
mod pages;
mod rows;
mod thrift;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use ::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::schema::types::{ColumnDescPtr, ColumnDescriptor, SchemaDescriptor, Type as Schema};

use self::fault::{Outcome, ParquetFault};
use self::features::{Feature, features};
use self::pages::{HELD_BYTES, Held, ROW_VALUES, Watched, check_column};
use self::rows::{Column, Line, Node, Place, Stop, is_text};
use self::thrift::{Compact, Event};
use super::bad_line::BadLine;
use super::column_map::ColumnMap;
use super::column_names::is_looked_at;
use super::error::SourceError;
use super::limits::MAX_ROW_BYTES;
use super::spool::Spool;
use crate::caught::quietly;
use crate::json_text::key;

/// The first four bytes of a file, and the last four.
const MAGIC: &[u8] = b"PAR1";
/// Largest footer, in bytes.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// Maximum depth of nested columns.
const MAX_NESTING: usize = 32;
/// Maximum number of digits after the point of a decimal. No reader has a number type with more.
const MAX_SCALE: i32 = 76;

/// Writes every row into the spool as a line of JSON. Columns that nothing reads under `map` are null.
///
/// # Errors
/// [`SourceError::Parquet`]; errors of the spool.
pub(crate) fn unpack(
    path: &Path,
    file: &File,
    bytes: u64,
    map: &ColumnMap,
    spool: &mut Spool<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), SourceError> {
    let broken = |fault| SourceError::Parquet { path: path.to_owned(), fault };
    check_footer(file, bytes).map_err(broken)?;
    let library = |error: ::parquet::errors::ParquetError| broken(ParquetFault::Library(error.to_string()));
    let rows = || -> Result<(), SourceError> {
        let again = file.try_clone().map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
        let reader = SerializedFileReader::new(again).map_err(library)?;
        let metadata = reader.metadata();
        let features = features(metadata.file_metadata()).map_err(broken)?;
        let schema = metadata.file_metadata().schema_descr();
        let fields = Fields::of(schema, Feature::of(features.as_ref()), map).map_err(broken)?;
        check_rows(metadata).map_err(broken)?;
        let total = metadata.file_metadata().num_rows().max(1) as u64;
        let (mut line, mut number) = (Line::default(), 0u64);
        for (i, group) in metadata.row_groups().iter().enumerate() {
            let held = check_pages(file, bytes, group, &fields.leaves).map_err(broken)?;
            let pages = reader.get_row_group(i).map_err(library)?;
            let share = HELD_BYTES / fields.leaves.len().max(1) as u64;
            let mut columns = Vec::with_capacity(fields.leaves.len());
            for ((leaf, descr), held) in fields.leaves.iter().zip(held) {
                let watched = Watched {
                    pages: pages.get_column_page_reader(*leaf).map_err(library)?,
                    max_def_level: descr.max_def_level(),
                    max_rep_level: descr.max_rep_level(),
                    most_values: ROW_VALUES / fields.leaves.len() as u64,
                    // a row may begin in one page and end in the next, so two pages of the column's largest size must fit
                    most_bytes: share.max(2 * held.page),
                    open_values: 0,
                    open_bytes: 0,
                };
                columns.push(Column::new(descr.clone(), Box::new(watched)));
            }
            for _ in 0..group.num_rows() {
                line.bytes.clear();
                let passed_over = write_row(&fields, &mut columns, &mut line).map_err(broken)?;
                spool.pass_over(passed_over)?;
                line.bytes.push(b'\n');
                spool.write(&line.bytes)?;
                if number % 1024 == 0 {
                    progress((u128::from(number) * u128::from(bytes) / u128::from(total)) as u64);
                }
                number += 1;
            }
            columns.iter_mut().try_for_each(Column::check_ended).map_err(broken)?;
        }
        Ok(())
    };
    let fails = |words: String| Err(broken(ParquetFault::Library(format!("the parquet library fails on it: {words}"))));
    quietly(rows).unwrap_or_else(fails)
}

/// Writes the next row of the columns as a line. If the row is bad, the line says why, and the result is how many bytes of the row
/// were discarded. Returns 0 for a good row.
fn write_row(fields: &Fields, columns: &mut [Column], line: &mut Line) -> Result<u64, ParquetFault> {
    columns.iter_mut().try_for_each(Column::load)?;
    let mut last = 0;
    let mut write_fields = || -> Result<(), Stop> {
        line.put(b"{")?;
        for (i, (key, node)) in fields.fields.iter().enumerate() {
            last = i;
            line.put(if i > 0 { b"," } else { b"" })?;
            line.put(key)?;
            match node {
                Some(node) => rows::write(node, columns, line)?,
                None => line.put(b"null")?,
            }
        }
        line.put(b"}")
    };
    let (column, message) = match write_fields() {
        Ok(()) => return columns.iter().try_for_each(Column::check_taken).map(|()| 0),
        Err(Stop::Broken(fault)) => return Err(fault),
        Err(Stop::Bad { column, message }) => (column, message),
        Err(Stop::TooLong) => {
            let name = fields.names.get(last).cloned().unwrap_or_default();
            (name, format!("with it the row has more than {MAX_ROW_BYTES} bytes, which is the limit"))
        }
    };
    let passed_over = line.bytes.len() as u64;
    line.bytes.clear();
    BadLine::Value { column, message }.put(&mut line.bytes);
    Ok(passed_over)
}

/// The top-level columns of a file, and how to make values of the columns that are read.
struct Fields {
    names: Vec<String>,
    /// `"name":`, and the node of the column if it is read.
    fields: Vec<(Vec<u8>, Option<Node>)>,
    /// The leaf columns that are read: their numbers in the file, and their descriptions.
    leaves: Vec<(usize, ColumnDescPtr)>,
}

impl Fields {
    fn of(schema: &SchemaDescriptor, row: Feature<'_>, map: &ColumnMap) -> Result<Fields, ParquetFault> {
        let mut all = Fields { names: Vec::new(), fields: Vec::new(), leaves: Vec::new() };
        let mut leaves = (0..schema.num_columns()).peekable();
        for (number, field) in schema.root_schema().get_fields().iter().enumerate() {
            let (first, is_read) = (all.leaves.len(), reads(map, field));
            if is_read {
                check_variants(field)?;
            }
            while let Some(leaf) = leaves.next_if(|leaf| schema.get_column_root_idx(*leaf) == number) {
                if is_read {
                    check_type(&schema.column(leaf))?;
                    all.leaves.push((leaf, schema.column(leaf)));
                }
            }
            let place = Place { first, ..Place::default() };
            let node = if is_read { Some(Node::of(field, row.field(field.name()), place)?.0) } else { None };
            all.names.push(field.name().to_owned());
            all.fields.push((key(field.name()), node));
        }
        Ok(all)
    }
}

/// Whether a column is read: a run reads it under `map`, or the check of a sample of rows looks at it and all its values are
/// strings. A column that only the check looks at may have numbers that are NaN, and those must not make a row bad.
fn reads(map: &ColumnMap, field: &Schema) -> bool {
    map.reads(field.name()) || is_looked_at(field.name()) && holds_texts(field)
}

/// Whether all values in a column are strings, including those within its lists and structures.
fn holds_texts(field: &Schema) -> bool {
    if !field.is_primitive() {
        return field.get_fields().iter().all(|field| holds_texts(field));
    }
    let info = field.get_basic_info();
    // older writers set only the older annotation, the converted type
    info.logical_type_ref() == Some(&LogicalType::String) || info.converted_type() == ConvertedType::UTF8
}

/// Checks the size of the footer, walks it, and checks how deeply the columns are nested.
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

/// Refuses a Variant, whose columns hold a special binary encoding. The recursion is bounded: [`check_footer`] refuses columns that
/// are nested deeper than [`MAX_NESTING`].
fn check_variants(field: &Schema) -> Outcome<()> {
    if let Some(LogicalType::Variant(_)) = field.get_basic_info().logical_type_ref() {
        return Err(ParquetFault::Type { column: field.name().to_owned(), found: "a Variant".to_owned() });
    }
    let inner = if field.is_primitive() { &[][..] } else { field.get_fields() };
    inner.iter().try_for_each(|field| check_variants(field))
}

/// Checks that the values of a column have a form in JSON.
fn check_type(column: &ColumnDescPtr) -> Outcome<()> {
    let path = || column.path().string();
    if let Some(found) = no_json(column) {
        return Err(ParquetFault::Type { column: path(), found });
    }
    let (scale, limit) = (column.type_scale(), MAX_SCALE);
    match column.converted_type() == ConvertedType::DECIMAL && !(0..=limit).contains(&scale) {
        true => Err(ParquetFault::Scale { column: path(), scale, limit }),
        false => Ok(()),
    }
}

/// Returns the type of a column if it has no form in JSON. Dates and times become text.
fn no_json(column: &ColumnDescriptor) -> Option<String> {
    let is_number = matches!(column.converted_type(), ConvertedType::DECIMAL)
        || matches!(column.logical_type_ref(), Some(LogicalType::Float16));
    match column.physical_type() {
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY if !is_text(column) && !is_number => {
            Some(match (column.logical_type_ref(), column.converted_type()) {
                (_, ConvertedType::BSON) => "BSON".to_owned(),
                (Some(logical), _) => format!("{} ({logical:?})", column.physical_type()),
                (None, ConvertedType::NONE) => format!("binary ({})", column.physical_type()),
                (None, converted) => format!("{} ({converted})", column.physical_type()),
            })
        }
        _ => None,
    }
}

/// Checks that the row groups have as many rows as the footer says.
fn check_rows(metadata: &ParquetMetaData) -> Outcome<()> {
    let mut rows = 0i64;
    for group in metadata.row_groups() {
        rows = rows.checked_add(group.num_rows()).filter(|_| group.num_rows() >= 0).unwrap_or(-1);
    }
    if rows != metadata.file_metadata().num_rows() {
        let message = format!("{} rows, {rows} in its row groups", metadata.file_metadata().num_rows());
        return Err(ParquetFault::Damaged { part: "footer", message });
    }
    Ok(())
}

/// Checks the columns that are read: compares what the footer and every page header say about them with the file. Returns how
/// much memory each column needs.
fn check_pages(
    file: &File,
    bytes: u64,
    group: &RowGroupMetaData,
    leaves: &[(usize, ColumnDescPtr)],
) -> Outcome<Vec<Held>> {
    let mut all = Vec::with_capacity(leaves.len());
    for (leaf, descr) in leaves {
        let fault = |message: String| ParquetFault::Column { column: descr.path().string(), message };
        let column = group.columns().get(*leaf).ok_or_else(|| fault("a row group has not got it".into()))?;
        all.push(check_column(file, bytes, column, group.num_rows()).map_err(fault)?);
    }
    let needed = all.iter().map(|held| held.dictionary.saturating_add(held.page)).fold(0, u64::saturating_add);
    if needed <= HELD_BYTES { Ok(all) } else { Err(ParquetFault::Memory { bytes: needed, limit: HELD_BYTES }) }
}
