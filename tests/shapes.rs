//! Rows in the shapes of data sets get the right token ids: those of TRL and the models' own chat templates for the same rows,
//! rewritten by hand (`tests/oracles/make_shape_goldens.py`).

use crate::align::{align, committed_goldens, golden_model, ids, read_json, read_lines};
use serde_json::Value;

/// Returns the ids of a list of `[id, token]`.
fn of_inspect(tokens: &Value) -> Vec<u64> {
    tokens.as_array().unwrap().iter().map(|token| token[0].as_u64().unwrap()).collect()
}

#[test]
fn shapes_of_data_sets_have_the_tokens_of_the_same_rows_by_hand() {
    let folder = committed_goldens().join("shapes");
    let expected = read_json(&folder.join("expected.json"));
    let files = expected.as_object().unwrap();
    assert!(files.len() >= 10);
    for (name, expected) in files {
        let data = folder.join(name).with_extension("jsonl");
        let flags: Vec<&str> =
            expected["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect();
        for (model, rows) in expected["ids"].as_object().unwrap() {
            let dir = golden_model(model);
            let mut found: Vec<Value> = Vec::new();
            for row in 0..read_lines(&data).len() {
                let row = row.to_string();
                let common = ["inspect", "--model", dir.to_str().unwrap(), "--data", data.to_str().unwrap(), "--json"];
                let run = align(&[&common[..], &["--row", &row, "--data-cache", "off"], &flags].concat()).ok();
                found.extend(run.json()["row"].as_array().unwrap().clone());
            }
            let rows = rows.as_array().unwrap();
            assert_eq!(found.len(), rows.len(), "{name}, {model}");
            for (found, expected) in found.iter().zip(rows) {
                assert_eq!(of_inspect(&found["prompt"]), ids(&expected["prompt"]), "{name}, {model}");
                let answers: Vec<_> = found["answers"].as_array().unwrap().iter().map(of_inspect).collect();
                let expected: Vec<_> = expected["answers"].as_array().unwrap().iter().map(ids).collect();
                assert_eq!(answers, expected, "{name}, {model}");
            }
        }
    }
}
