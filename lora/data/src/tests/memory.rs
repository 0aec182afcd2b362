//! Rows from memory give the same data set as the same rows in a file.

use serde_json::{Value, json};

use super::{encoder, file};
use crate::progress::Unobserved;
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::open::Opening;
use crate::set::options::{OnBadRow, Shuffle};
use crate::source::error::SourceError;
use crate::source::memory::MemoryRows;

fn opening<'a>(kind: Option<RowKind>, on_bad_row: OnBadRow, observer: &'a mut Unobserved) -> Opening<'a> {
    Opening { kind, on_bad_row, cache: None, rejects: None, observer }
}

/// Opens the same rows twice: from a file, and from memory under the file's name.
fn both(rows: &[Value], kind: Option<RowKind>, on_bad_row: OnBadRow) -> [Result<Dataset, DataError>; 2] {
    let file = file(rows);
    let mut memory = MemoryRows::new(file.path());
    rows.iter().for_each(|row| memory.push(row.as_object().unwrap()));
    let encoder = || encoder("tiny-qwen2", 64);
    let of_file = Dataset::open_with(&[file.path().to_owned()], encoder(), opening(kind, on_bad_row, &mut Unobserved));
    [of_file, Dataset::from_memory(memory, encoder(), opening(kind, on_bad_row, &mut Unobserved))]
}

#[test]
fn a_data_set_from_memory_is_that_of_a_file() {
    let turn = |role: &str, text: String| json!({"role": role, "content": text});
    let pair = |i: usize| json!({"prompt": format!("Question {i}?\n"), "chosen": format!(" good {i}"), "rejected": " bad", "id": i});
    let talk = |i: usize| json!({"messages": [turn("user", format!("é {i}")), turn("assistant", "yes".to_owned())]});
    let scored =
        |i: usize| json!({"prompt": "p", "completions": [format!(" a{i}"), " b"], "rewards": [0.1 * i as f64, 1e-300]});
    type Row<'a> = &'a dyn Fn(usize) -> Value;
    let cases: [(Row<'_>, Option<RowKind>); 5] = [
        (&pair, Some(RowKind::Pair)),
        (&pair, Some(RowKind::Labelled)),
        (&talk, Some(RowKind::Sequence)),
        (&scored, Some(RowKind::Scored)),
        (&pair, None),
    ];
    for (row, kind) in cases {
        let mut rows: Vec<Value> = (0..30).map(row).collect();
        rows.insert(7, json!({"prompt": 1, "chosen": []})); // left out and counted
        let [of_file, from_memory] = both(&rows, kind, OnBadRow::Skip).map(Result::unwrap);
        assert_eq!(from_memory.survey(), of_file.survey(), "{kind:?}");
        let order = of_file.order(Shuffle::Seeded(5), 1);
        assert_eq!(from_memory.order(Shuffle::Seeded(5), 1), order, "{kind:?}");
        assert_eq!(from_memory.rows(&order).unwrap(), of_file.rows(&order).unwrap(), "{kind:?}");
        let lengths = |data: &Dataset| (0..data.len()).map(|i| data.lengths(i).tree()).collect::<Vec<_>>();
        assert_eq!(lengths(&from_memory), lengths(&of_file));
        assert_eq!(from_memory.outcomes(0..31).unwrap(), of_file.outcomes(0..31).unwrap(), "{kind:?}");
        let [of_file, from_memory] = both(&rows, kind, OnBadRow::Error).map(|data| data.unwrap_err().to_string());
        assert_eq!(from_memory, of_file, "{kind:?}");
    }
}

#[test]
fn a_fault_names_the_list_and_the_row() {
    let mut rows = MemoryRows::new("round 3");
    let open = |rows: &MemoryRows| {
        let mut unobserved = Unobserved;
        let opening = opening(Some(RowKind::Pair), OnBadRow::Error, &mut unobserved);
        Dataset::from_memory(rows.clone(), encoder("tiny-llama", 64), opening).unwrap_err()
    };
    assert!(matches!(open(&rows), DataError::Source(SourceError::Empty { .. })));
    rows.push(json!({"prompt": "p", "chosen": " a", "rejected": " b"}).as_object().unwrap());
    rows.push(json!({"prompt": "p", "chosen": " a"}).as_object().unwrap());
    assert!(open(&rows).to_string().starts_with("round 3:2: `rejected` is missing"), "{}", open(&rows));
}
