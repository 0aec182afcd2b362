//! Tests of damaged files: each fault has its error, and a header is refused if the library would read it differently from the
//! check.

use serde_json::json;

use super::*;
use crate::caught::quietly;
use crate::source::parquet::MAX_NESTING;
use crate::tests::sources::held_by;

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

    // counts of values that do not add up, and pages that end outside their column
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

/// If the footer gives an offset of a dictionary, the walk begins there, even if no dictionary is there.
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

/// The library reads some fields as the type that they should have, whatever type the file gives. If a field occurs twice, it keeps
/// the last value.
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

/// Changes each byte after the magic in turn, to several other values.
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
