//! Tests of values: numbers, lists and maps in all their forms, and values that have no form in JSON.

use serde_json::json;

use super::*;
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::options::OnBadRow;
use crate::tests::sources::encoder;

fn decimal(name: &'static str, physical: i64, scale: i64, precision: i64) -> Element {
    let converted = Some(DECIMAL);
    Element { converted, decimal: Some((scale, precision)), ..leaf(name, REQUIRED, physical) }
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

/// Booleans are packed bits, the first in the lowest bit. A null takes no bit.
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
    // a repeated group named `array` or `<list>_tuple` is the element; under another name it only wraps the element
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
    // a map, whose keys become texts; and a map without values
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

/// Values without a form in JSON do no harm in a column that nothing reads. In a column that is read, each makes a bad row, which
/// names the column and the reason.
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
        assert_eq!(rows.place(1).1, 2);
        assert_eq!(rows.read(1).unwrap().unwrap_err().to_string(), format!("column `{column}`: {message}"));
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
    let open = |on_bad_row| Dataset::open(&[file.path().to_owned()], encoder(), RowKind::Pair, on_bad_row);
    let error = open(OnBadRow::Error).unwrap_err().to_string();
    assert!(error.ends_with(":2: column `weight`: inf is a number that JSON has no form for"), "{error}");
    let data = open(OnBadRow::Skip).unwrap();
    assert_eq!((data.len(), data.survey().dropped_rows()), (2, 1));
}
