//! Compares every row of `tests/data`, in every shape, with what TRL 1.16 makes of it. The goldens in `tests/goldens/rows` were
//! made by `tests/oracles/make_row_goldens.py` (run it again if a golden is stale).

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::goldens;
use super::goldens::{encoder, json as read_json, models};
use crate::deep_stack::with_deep_stack;
use crate::record::bad_row::BadRow;
use crate::record::records::Record;
use crate::row::EncodedRow;
use crate::tokens::encode::{Encoded, Encoder};
use crate::tokens::sft_part::SftPart;

/// The bit that the goldens set in tokens that are scored.
const SCORED: u32 = 1 << 31;

fn pairs() -> Vec<Value> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let rows = [read("pref_train.jsonl"), read("pref_eval.jsonl")].concat();
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes a row of strings from a row of turns, as `plain` of make_row_goldens.py does.
fn plain(row: &Value) -> Value {
    let turn = |turn: &Value| {
        let speaker = match turn["role"].as_str().unwrap() {
            "system" => "",
            "user" => "\n\nHuman: ",
            _ => "\n\nAssistant: ",
        };
        format!("{speaker}{}", turn["content"].as_str().unwrap())
    };
    let prompt: String = row["prompt"].as_array().unwrap().iter().map(turn).collect();
    let answer = |side: &str| format!(" {}", row[side][0]["content"].as_str().unwrap());
    json!({"prompt": prompt + "\n\nAssistant:", "chosen": answer("chosen"), "rejected": answer("rejected")})
}

/// Returns, for each answer, the prompt's tokens and the answer's kept tokens, with the bit [`SCORED`] as in the goldens.
fn words(row: &EncodedRow) -> Vec<u32> {
    let mut words = Vec::new();
    for answer in &row.answers {
        words.extend(&row.prompt);
        let gap = |i: usize| answer.unscored.iter().any(|gap| gap.contains(&i));
        words.extend(answer.kept_ids().iter().enumerate().map(|(i, id)| if gap(i) { *id } else { id | SCORED }));
    }
    words
}

/// Encodes a row. Returns its tokens, or the four characters that `each` of the goldens has for a row that is dropped or that the
/// template refuses.
fn outcome(encoder: &Encoder, as_sequence: bool, row: &Value) -> Result<Vec<u32>, &'static str> {
    let record = Record::parse(0, row.to_string().as_bytes()).unwrap().record;
    let record = if as_sequence { record.as_sequence() } else { record };
    match encoder.encode(&record) {
        Ok((Encoded::Kept(row), _)) => Ok(words(&row)),
        Ok((Encoded::Dropped { .. }, _)) => Err("...."),
        Err(BadRow::Template { .. }) => Err("!!!!"),
        Err(error) => panic!("{error}: {row}"),
    }
}

fn check_case(what: &str, golden: &Value, outcomes: &[Result<Vec<u32>, &'static str>]) {
    let each = golden["each"].as_str().unwrap();
    assert_eq!(each.len(), 4 * outcomes.len(), "{what}: rows");
    for first in golden["first"].as_array().unwrap() {
        let words: Vec<u32> = serde_json::from_value(first["words"].clone()).unwrap();
        let number = first["number"].as_u64().unwrap() as usize;
        assert_eq!(outcomes[number].as_ref(), Ok(&words), "{what}: row {number}");
    }
    let mut all = blake3::Hasher::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        let digits = match outcome {
            Ok(words) => {
                let len = [words.len() as u32];
                let bytes: Vec<u8> = len.iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
                all.update(&bytes);
                blake3::hash(&bytes).to_hex()[..4].to_owned()
            }
            Err(reason) => (*reason).to_owned(),
        };
        assert_eq!(digits, each[4 * number..4 * number + 4], "{what}: row {number}, {outcome:?}");
    }
    assert_eq!(all.finalize().to_hex().as_str(), golden["all"].as_str().unwrap(), "{what}: all rows");
}

fn with_rows() -> Vec<(String, Value, PathBuf)> {
    let golden = |name: &str| goldens(&format!("rows/{name}.json"));
    let has_one = models().into_iter().filter(|(name, ..)| golden(name).exists());
    has_one.map(|(name, _, model)| (name.clone(), read_json(&golden(&name)), model)).collect()
}

#[test]
fn every_shape_of_every_row_is_as_in_trl() {
    let conversational = pairs();
    let strings: Vec<Value> = conversational.iter().map(plain).collect();
    let unpaired = |rows: &[Value]| -> Vec<Value> {
        let one = |row: &Value, side: &str| json!({"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"});
        rows.iter().flat_map(|row| [one(row, "chosen"), one(row, "rejected")]).collect()
    };
    let completions = |rows: &[Value]| -> Vec<Value> {
        rows.iter().map(|row| json!({"prompt": row["prompt"], "completion": row["chosen"]})).collect()
    };
    let scored = |rows: &[Value]| -> Vec<Value> {
        let row = |row: &Value| json!({"prompt": row["prompt"], "completions": [row["chosen"], row["rejected"]], "rewards": [1, 0]});
        rows.iter().map(row).collect()
    };
    let joined = |row: &Value| {
        let turns = |side: &str| row[side].as_array().unwrap().clone();
        let messages = [turns("prompt"), turns("chosen")].concat();
        json!({ "messages": messages })
    };
    let messages: Vec<Value> = conversational.iter().map(joined).collect();
    let joined = |row: &Value| {
        let text = [row["prompt"].as_str().unwrap(), row["chosen"].as_str().unwrap()].concat();
        json!({ "text": text })
    };
    let texts: Vec<Value> = strings.iter().map(joined).collect();

    let mut checked = 0;
    for (name, golden, model) in with_rows() {
        let max_length = golden["max_length"].as_u64().unwrap() as usize;
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("template.jinja");
        std::fs::write(&template, golden["generation_template"].as_str().unwrap()).unwrap();
        let rows_of_embedding = read_json(&model.join("config.json"))["vocab_size"].as_u64().unwrap() as usize;
        let marked = Encoder::from_model(&model, Some(&template), max_length, rows_of_embedding).unwrap();
        let marked = marked.with_sft_on(Some(SftPart::Assistant));
        let plain = encoder(&model, max_length);
        let all = encoder(&model, max_length).with_sft_on(Some(SftPart::All));
        let cases: &[(&str, &Encoder, bool, Vec<Value>)] = &[
            ("pairs_conversational", &plain, false, conversational.clone()),
            ("pairs_plain", &plain, false, strings.clone()),
            // a row with two scored answers is tokenised as a pair of these answers
            ("pairs_conversational", &plain, false, scored(&conversational)),
            ("pairs_plain", &plain, false, scored(&strings)),
            ("labelled_conversational", &plain, false, unpaired(&conversational)),
            ("labelled_plain", &plain, false, unpaired(&strings)),
            ("completion_conversational", &plain, false, completions(&conversational)),
            ("completion_plain", &plain, false, completions(&strings)),
            // a pair that is learned as a sequence is its prompt and its chosen answer
            ("completion_conversational", &plain, true, conversational.clone()),
            ("completion_all", &all, false, completions(&strings)),
            ("messages", &plain, false, messages.clone()),
            ("messages_assistant", &marked, false, messages.clone()),
            ("text", &plain, false, texts.clone()),
        ];
        for (case, encoder, as_sequence, rows) in cases {
            let outcomes: Vec<_> =
                with_deep_stack(|| rows.par_iter().map(|row| outcome(encoder, *as_sequence, row)).collect());
            check_case(&format!("{name}, {case}"), &golden["cases"][case], &outcomes);
            checked += outcomes.len();
        }
    }
    assert!(checked >= 7 * 13 * 360, "{checked} rows");
}

/// Checks rows with tools as a list and as JSON text, variables of the template, ShareGPT's names, and fields that are null.
#[test]
fn what_rows_give_the_template_is_as_in_trl() {
    for (name, golden, model) in with_rows() {
        let encoder = encoder(&model, golden["max_length"].as_u64().unwrap() as usize);
        for item in golden["special"].as_array().unwrap() {
            match outcome(&encoder, false, &item["row"]) {
                Ok(words) => assert_eq!(json!(words), item["words"], "{name}: {}", item["row"]),
                Err("!!!!") => assert_eq!(item["refused"], true, "{name}: {}", item["row"]),
                Err(other) => panic!("{name}: {other}: {}", item["row"]),
            }
        }
    }
}
