//! Files that the library's writer makes, in every version of pages and every encoding of texts. The rows that are read are those
//! that were written.

use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding};
use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
use ::parquet::file::properties::{WriterProperties, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::source::column_map::ColumnMap;
use crate::source::reader::Rows;
use crate::tests::written;

const SCHEMA: &str = "message rows {
    optional group messages (LIST) { repeated group list { optional group element {
        required binary role (UTF8);
        optional binary content (UTF8);
    } } }
    optional double margin;
}";

/// Makes conversations, some of them null or empty. Some of their turns are null or have no content.
fn rows(n: usize) -> Vec<Value> {
    let turn = |i: usize, t: usize| match (i + 3 * t) % 11 {
        0 => Value::Null,
        1 => json!({"role": "user"}),
        k => {
            let role = if t.is_multiple_of(2) { "user" } else { "assistant" };
            json!({"role": role, "content": format!("The same words, {}", "and more ".repeat(k * t))})
        }
    };
    let messages = |i: usize| match i % 7 {
        0 => Value::Null,
        1 => json!([]),
        _ => (0..i % 5 + 1).map(|t| turn(i, t)).collect(),
    };
    let margin = |i: usize| if i.is_multiple_of(3) { Value::Null } else { json!(i as f64 / 8.0) };
    (0..n).map(|i| json!({"messages": messages(i), "margin": margin(i)})).collect()
}

/// Returns the values of a field of the turns, the levels of definition and the levels of repetition. `max_def` is the field's
/// largest level of definition.
fn turns(rows: &[Value], field: &str, max_def: i16) -> (Vec<ByteArray>, Vec<i16>, Vec<i16>) {
    let (mut values, mut def, mut rep) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let Some(turns) = row["messages"].as_array().filter(|turns| !turns.is_empty()) else {
            def.push(i16::from(!row["messages"].is_null()));
            rep.push(0);
            continue;
        };
        for (t, turn) in turns.iter().enumerate() {
            rep.push(i16::from(t > 0));
            match &turn[field] {
                Value::String(text) => {
                    values.push(text.as_str().into());
                    def.push(max_def);
                }
                _ if turn.is_null() => def.push(2),
                _ => def.push(3),
            }
        }
    }
    (values, def, rep)
}

fn file(rows: &[Value], properties: WriterProperties) -> Vec<u8> {
    file_of(SCHEMA, rows, properties)
}

/// Makes a file of these rows under a schema with the same types as `SCHEMA`.
fn file_of(schema: &str, rows: &[Value], properties: WriterProperties) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for rows in rows.chunks(90) {
        let mut group = writer.next_row_group().unwrap();
        for (field, max_def) in [("role", 3), ("content", 4)] {
            let (values, def, rep) = turns(rows, field, max_def);
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&def), Some(&rep)).unwrap();
            column.close().unwrap();
        }
        let values: Vec<f64> = rows.iter().filter_map(|row| row["margin"].as_f64()).collect();
        let def: Vec<i16> = rows.iter().map(|row| i16::from(!row["margin"].is_null())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&values, Some(&def), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

#[test]
fn what_was_written_is_read() {
    let expected = rows(200);
    let encodings =
        [None, Some(Encoding::PLAIN), Some(Encoding::DELTA_LENGTH_BYTE_ARRAY), Some(Encoding::DELTA_BYTE_ARRAY)];
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for encoding in encodings {
            for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())] {
                // batches of one, so that pages end at the row limit
                let mut properties = WriterProperties::builder()
                    .set_writer_version(version)
                    .set_compression(codec)
                    .set_data_page_row_count_limit(7)
                    .set_write_batch_size(1)
                    .set_dictionary_enabled(encoding.is_none());
                if let Some(encoding) = encoding {
                    properties = properties
                        .set_column_encoding("messages.list.element.role".into(), encoding)
                        .set_column_encoding("messages.list.element.content".into(), encoding);
                }
                let file = written(&file(&expected, properties.build()));
                let rows = Rows::open(&[file.path().to_owned()], &ColumnMap::default()).unwrap();
                assert_eq!(rows.len(), expected.len());
                for (i, expected) in expected.iter().enumerate() {
                    let row: Value = serde_json::from_slice(&rows.read(i).unwrap().unwrap()).unwrap();
                    assert_eq!(&row, expected, "row {i}, {version:?}, {encoding:?}, {codec}");
                }
            }
        }
    }
}

/// A column of turns with an unknown name is read only if the name is like a prompt's: the check of a sample of rows looks at
/// such columns.
#[test]
fn columns_of_turns_that_are_called_like_a_prompt_are_read() {
    let given = rows(20);
    for (name, is_read) in [("earlier_dialogue", true), ("notes", false)] {
        let schema = SCHEMA.replace("messages", name);
        let file = written(&file_of(&schema, &given, WriterProperties::builder().build()));
        let rows = Rows::open(&[file.path().to_owned()], &ColumnMap::default()).unwrap();
        for (i, given) in given.iter().enumerate() {
            let row: Value = serde_json::from_slice(&rows.read(i).unwrap().unwrap()).unwrap();
            let expected = if is_read { &given["messages"] } else { &Value::Null };
            assert_eq!(&row[name], expected, "row {i} of {name}");
        }
    }
}
