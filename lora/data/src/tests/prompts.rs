//! Tests of reading prompts without answers, for generation.

use std::path::PathBuf;

use serde_json::json;

use super::{encoder, file, written};
use crate::record::bad_row::BadRow;
use crate::set::error::DataError;
use crate::set::prompts::{Prompts, prompts};
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;

/// The error names the first prompt that fails, whatever the threads do. Files beyond the limit are not opened, and prompts beyond
/// it are not encoded.
#[test]
fn prompts_are_taken_as_far_as_they_are_wanted() {
    let rows: Vec<String> = (0..600)
        .map(|i| match i {
            301..=600 => "{".to_owned(),
            i => json!({"prompt": format!("Question {i}?")}).to_string(),
        })
        .collect();
    let (first, second) = (file(&rows[..100]), file(&rows[100..]));
    let paths = [first.path().to_owned(), second.path().to_owned(), PathBuf::from("/no/such/file.jsonl")];
    let encoder = encoder("tiny-llama", 64);
    for _ in 0..20 {
        match prompts(&paths[..2], &encoder, None) {
            Err(DataError::Row { path, line: 202, .. }) => assert_eq!(path, paths[1]),
            other => panic!("{other:?}"),
        }
    }
    let some = Prompts::open(&paths, &encoder, Some(301)).unwrap();
    assert_eq!(some.len(), 301);
    let found = some.get(99..102).unwrap();
    assert_eq!(found.iter().map(|prompt| prompt.row).collect::<Vec<_>>(), [99, 100, 101]);
    let alone = prompts(&paths[1..2], &encoder, Some(1)).unwrap();
    assert_eq!(found[1].ids, alone[0].ids);
    assert!(matches!(Prompts::open(&paths, &encoder, Some(101)).unwrap().get(100..101), Ok(one) if one.len() == 1));
    let empty = file(&[json!({"prompt": ""}).to_string()]);
    let without_bos = super::encoder("tiny-qwen2", 64);
    let error = prompts(&[empty.path().to_owned()], &without_bos, None).unwrap_err();
    assert!(matches!(error, DataError::Row { line: 1, reason: BadRow::EmptyPrompt, .. }), "{error}");
    assert!(matches!(
        prompts(&[written(b"").path().to_owned()], &encoder, None),
        Err(DataError::Source(SourceError::Empty { .. }))
    ));
    // a mapped column that only a later row has is not reported as missing
    let mixed = file(&[json!({"prompt": "p"}).to_string(), json!({"prompt": "p", "t": []}).to_string()]);
    let mapped = encoder.with_reading("tools=t".parse::<ColumnMap>().unwrap().into());
    assert_eq!(prompts(&[mixed.path().to_owned()], &mapped, Some(1)).unwrap().len(), 1);
    // nor is a mapped column that only an unopened file has: the files before it have enough rows
    let plain = file(&[json!({"prompt": "p"}).to_string()]);
    let both = [plain.path().to_owned(), mixed.path().to_owned()];
    assert_eq!(prompts(&both, &mapped, Some(1)).unwrap().len(), 1);
    assert!(matches!(prompts(&both[..1], &mapped, Some(1)), Err(DataError::NoSuchColumn { .. })));
    let missing = mapped.with_reading("tools=u".parse::<ColumnMap>().unwrap().into());
    assert!(matches!(prompts(&[mixed.path().to_owned()], &missing, None), Err(DataError::NoSuchColumn { .. })));
}

#[test]
fn prompts_come_from_any_shape() {
    let rows = [
        json!({"prompt": [{"role": "user", "content": "p"}], "id": "a"}),
        json!({"prompt": "plain", "chosen": " c", "rejected": " r"}),
        json!({"prompt": "plain", "completion": " c", "label": false}),
    ];
    let file = file(&rows);
    let encoder = encoder("tiny-llama", 64);
    let all = prompts(&[file.path().to_owned()], &encoder, None).unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all[0].id, Some(json!("a")));
    assert_eq!(all[1].ids, all[2].ids);
    assert_eq!(prompts(&[file.path().to_owned()], &encoder, Some(2)).unwrap(), all[..2]);
}
