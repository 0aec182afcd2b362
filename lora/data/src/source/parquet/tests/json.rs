//! Tests of texts with the type JSON, at any depth, and of null fields of structures, which count as missing.

use std::sync::Arc;

use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::source::bad_line::BadLine;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::parquet::fault::ParquetFault;
use crate::source::reader::Rows;
use crate::tests::written;

/// Values of a column, and their levels of definition and repetition.
type Texts<'a> = (&'a [&'a str], &'a [i16], &'a [i16]);

/// Makes a file of one row group with columns of texts.
fn file(schema: &str, columns: &[Texts<'_>], features: Option<&str>) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let entry = |features: &str| vec![KeyValue::new("huggingface".to_owned(), features.to_owned())];
    let properties = WriterProperties::builder().set_key_value_metadata(features.map(entry)).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (values, def, rep) in columns {
        let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(def), Some(rep)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn read(bytes: &[u8]) -> Vec<Result<Value, BadLine>> {
    let file = written(bytes);
    let rows = Rows::open(&[file.path().to_owned()], &ColumnMap::default()).unwrap();
    (0..rows.len()).map(|row| rows.read(row).unwrap().map(|line| serde_json::from_slice(&line).unwrap())).collect()
}

const SCHEMA: &str = "message rows {
    optional binary prompt (JSON);
    optional group chat_template_kwargs { optional binary a (JSON); optional binary b (UTF8); }
    optional group tools (LIST) { repeated group list { optional binary element (JSON); } }
    optional group messages (MAP) { repeated group key_value { required binary key (UTF8); optional binary value (JSON); } }
}";

#[test]
fn json_is_the_value_that_its_text_is_at_any_depth() {
    let columns: [Texts<'_>; 6] = [
        (&[r#" "Hi \"there\"\nyou, \u00e9" "#, "[1,\r\n 2]"], &[1, 1, 0], &[0; 3]),
        (&[r#"{"x": null}"#, "null"], &[2, 2, 0], &[0; 3]),
        (&["text"], &[1, 2, 0], &[0; 3]),
        (&[r#"{"n": 1}"#, "\"{}\""], &[3, 2, 3, 0], &[0, 1, 0, 0]),
        (&["k", "l"], &[2, 2, 0, 1], &[0, 1, 0, 0]),
        (&["[true]"], &[3, 2, 0, 1], &[0, 1, 0, 0]),
    ];
    let rows: Vec<Value> = read(&file(SCHEMA, &columns, None)).into_iter().map(Result::unwrap).collect();
    let expected = [
        // nulls in JSON texts, lists and maps stay; a null field of a structure counts as missing
        json!({"prompt": "Hi \"there\"\nyou, é", "chat_template_kwargs": {"a": {"x": null}},
               "tools": [{"n": 1}, null], "messages": {"k": [true], "l": null}}),
        json!({"prompt": [1, 2], "chat_template_kwargs": {"a": null, "b": "text"}, "tools": ["{}"], "messages": null}),
        json!({"prompt": null, "chat_template_kwargs": null, "tools": null, "messages": {}}),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_structure_of_nulls_is_there_and_empty() {
    let schema = "message rows { optional group tools { optional binary name (UTF8);
        optional group inner { optional binary a (UTF8); optional binary b (JSON); } } }";
    let columns: [Texts<'_>; 3] =
        [(&["n"], &[2, 1, 0, 1], &[0; 4]), (&[], &[2, 1, 0, 2], &[0; 4]), (&["1"], &[2, 1, 0, 3], &[0; 4])];
    let rows: Vec<Value> = read(&file(schema, &columns, None)).into_iter().map(Result::unwrap).collect();
    let expected = [json!({"name": "n", "inner": {}}), json!({}), json!(null), json!({"inner": {"b": 1}})]
        .map(|tools| json!({"tools": tools}));
    assert_eq!(rows, expected);
}

#[test]
fn a_text_that_is_no_json_is_a_bad_row() {
    let schema = "message rows { optional group tools { optional binary prompt (JSON); } }";
    let texts = [r#""fine""#, "", "{'a': 1}", r#"{"a": NaN}"#, r#"{"a": 1, "a": 2}"#, "1 2", "Hi"];
    let rows = read(&file(schema, &[(&texts, &[2; 7], &[0; 7])], None));
    assert_eq!(rows[0].as_ref().unwrap(), &json!({"tools": {"prompt": "fine"}}));
    for (text, row) in texts.iter().zip(&rows).skip(1) {
        let error = row.as_ref().unwrap_err().to_string();
        assert!(error.starts_with("column `tools.prompt`: its text is not valid JSON: "), "{text}: {error}");
    }
}

#[test]
fn features_of_the_datasets_library_make_a_plain_text_json() {
    let schema = "message rows { optional binary prompt (UTF8);
        optional group tools (LIST) { repeated group list { optional group element { optional binary name (UTF8);
            optional binary arguments (UTF8); } } } }";
    let columns: [Texts<'_>; 3] =
        [(&["\"a\""], &[1], &[0]), (&["\"n\""], &[4], &[0]), (&[r#"{"city": "Rome"}"#], &[4], &[0])];
    let features = r#"{"info": {"features": {"prompt": {"_type": "Value", "dtype": "string"}, "tools": {"_type": "List",
        "feature": {"name": {"_type": "Value", "dtype": "string"}, "arguments": {"_type": "Json"}}}}}}"#;
    let with = |features| read(&file(schema, &columns, features)).remove(0).unwrap();
    let tools = |arguments: Value| json!({"prompt": "\"a\"", "tools": [{"name": "\"n\"", "arguments": arguments}]});
    assert_eq!(with(Some(features)), tools(json!({"city": "Rome"})));
    for other in [None, Some("{}"), Some("not json"), Some(&*features.replace("Json", "Value"))] {
        assert_eq!(with(other), tools(json!(r#"{"city": "Rome"}"#)));
    }
    // a list of features that names the type `Json` but cannot be read
    let broken = written(&file(schema, &columns, Some(&features[..features.len() - 3])));
    let error = Rows::open(&[broken.path().to_owned()], &ColumnMap::default()).unwrap_err();
    assert!(matches!(error, SourceError::Parquet { fault: ParquetFault::Damaged { .. }, .. }), "{error}");
}

#[test]
fn encodings_of_values_that_are_not_text_are_named() {
    for (schema, found) in [
        ("message rows { optional binary prompt (BSON); }", "column `prompt` is BSON, which has no form in JSON"),
        (
            "message rows { optional group prompt (VARIANT) { required binary metadata; required binary value; } }",
            "column `prompt` is a Variant, which has no form in JSON",
        ),
    ] {
        let columns: &[Texts<'_>] = if found.contains("BSON") {
            &[(&["x"], &[1], &[0])]
        } else {
            &[(&["x"], &[1], &[0]), (&["x"], &[1], &[0])]
        };
        let file = written(&file(schema, columns, None));
        let error = Rows::open(&[file.path().to_owned()], &ColumnMap::default()).unwrap_err().to_string();
        assert!(error.contains(found), "{error}");
    }
}
