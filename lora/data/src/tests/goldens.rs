//! Compares token ids with those of TRL 1.16 for every model of `tests/goldens/` (its README has the rules), and rendered chat
//! templates with those of Jinja2 as transformers 5.23 sets it up.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{file, goldens, tiny};
use crate::batch::mismatch::mismatched_answers;
use crate::record::bad_row::BadRow;
use crate::record::reading::{ImplicitPrompt, Reading};
use crate::record::records::Record;
use crate::row::{EncodedRow, RowKind, Target};
use crate::set::dataset::Dataset;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::tokens::encode::{DropReason, Encoded, Encoder};
use crate::tokens::template::{ChatTemplate, GenerationPrompt, RenderError};

const MAX_LENGTH: usize = 256;

pub(super) fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the name, the goldens and the model directory of every model whose tokenizer is present.
pub(super) fn models() -> Vec<(String, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(goldens("")).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("model/tokenizer.json").exists() {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, folder.clone(), folder.join("model")));
        }
    }
    found.sort();
    assert!(found.len() >= 9, "the tiny models are missing from {}", goldens("").display());
    match std::env::var_os("ALIGN_SMOLLM2") {
        Some(dir) => found.push(("smollm2-135m".to_owned(), goldens("smollm2-135m"), dir.into())),
        None => eprintln!("not run: tokens of smollm2-135m (set ALIGN_SMOLLM2 to its model directory)"),
    }
    found
}

pub(super) fn encoder(model: &Path, max_length: usize) -> Encoder {
    let rows = json(&model.join("config.json"))["vocab_size"].as_u64().unwrap() as usize;
    let encoder = Encoder::from_model(model, None, max_length, rows).unwrap();
    encoder.with_reading(Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() })
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("ids expected: {value}"))
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn record(row: &Value) -> Record {
    let reading = Reading { implicit_prompt: ImplicitPrompt::Longest, ..Reading::default() };
    Record::parse_with(0, row.to_string().as_bytes(), &reading).unwrap().record
}

fn kept(encoded: Encoded) -> EncodedRow {
    match encoded {
        Encoded::Kept(row) => row,
        dropped => panic!("expected a kept row: {dropped:?}"),
    }
}

/// Makes a data set from rows, through a file, as in a run.
fn dataset(rows: &[Value], encoder: Encoder, kind: impl Into<Option<RowKind>>) -> Dataset {
    let file = file(rows);
    Dataset::open(&[file.path().to_owned()], encoder, kind, OnBadRow::Error).unwrap()
}

fn pairs(n: usize) -> Vec<Value> {
    let text = std::fs::read_to_string(goldens("pairs.jsonl")).unwrap();
    text.lines().take(n).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Makes a row of strings from a row of turns, as `plain` of make_goldens.py does.
fn plain(row: &Value) -> Value {
    let turn = |m: &Value| match m["role"].as_str().unwrap() {
        "user" => format!("\n\nHuman: {}", m["content"].as_str().unwrap()),
        _ => format!("\n\nAssistant: {}", m["content"].as_str().unwrap()),
    };
    let prompt: String = row["prompt"].as_array().unwrap().iter().map(turn).collect();
    let answer = |key: &str| format!(" {}", row[key][0]["content"].as_str().unwrap());
    serde_json::json!({
        "prompt": prompt + "\n\nAssistant:", "chosen": answer("chosen"), "rejected": answer("rejected"), "id": row["id"],
    })
}

fn check_pairs(name: &str, rows: &[Value], golden: &Path, encoder: Encoder) {
    let items = json(golden)["items"].clone();
    let dataset = dataset(rows, encoder, RowKind::Pair);
    let encoded = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
    assert_eq!(encoded.len(), items.as_array().unwrap().len());
    for (row, item) in encoded.iter().zip(items.as_array().unwrap()) {
        let what = format!("{name}, {}", item["id"]);
        assert_eq!(row.id.as_ref(), Some(&item["id"]), "{what}");
        assert_eq!(row.prompt, ids(&item["prompt_ids"]), "{what}: prompt");
        assert_eq!(row.answers[0].ids, ids(&item["chosen_ids"]), "{what}: chosen");
        assert_eq!(row.answers[1].ids, ids(&item["rejected_ids"]), "{what}: rejected");
        assert_eq!(row.target, Target::Pair);
    }
}

#[test]
fn conversational_tokens_are_those_of_trl() {
    for (name, folder, model) in models() {
        check_pairs(&name, &pairs(8), &folder.join("tokens_conversational.json"), encoder(&model, MAX_LENGTH));
    }
}

#[test]
fn plain_tokens_are_those_of_trl() {
    for (name, folder, model) in models() {
        let rows: Vec<Value> = pairs(8).iter().map(plain).collect();
        check_pairs(&name, &rows, &folder.join("tokens_plain.json"), encoder(&model, MAX_LENGTH));
    }
}

#[test]
fn rendered_conversations_are_those_of_transformers() {
    for (name, folder, model) in models() {
        let encoder = encoder(&model, MAX_LENGTH);
        let template = encoder.template().unwrap();
        let items = json(&folder.join("tokens_conversational.json"))["items"].clone();
        for (row, item) in pairs(8).iter().zip(items.as_array().unwrap()) {
            let turns = |key: &str| row[key].as_array().unwrap().clone();
            let prompt = turns("prompt");
            let text = template.render(&prompt, GenerationPrompt::Add).unwrap();
            assert_eq!(text, item["prompt_text"].as_str().unwrap(), "{name}, {}", item["id"]);
            for (key, golden) in [("chosen", "chosen_text"), ("rejected", "rejected_text")] {
                let text = template.render(prompt.iter().chain(&turns(key)), GenerationPrompt::Omit).unwrap();
                assert_eq!(text, item[golden].as_str().unwrap(), "{name}, {}", item["id"]);
            }
        }
    }
}

/// Checks the rows of `tests/goldens/extra`: system messages, several turns, several messages in an answer, implicit prompts.
#[test]
fn further_conversations_are_those_of_trl() {
    let mut cases = 0;
    for entry in std::fs::read_dir(goldens("extra")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(folder.join("rows.jsonl")) else { continue };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let meta = json(&folder.join("meta.json"));
        let model = tiny(meta["model"].as_str().unwrap());
        let max_length = meta["max_length"].as_u64().unwrap() as usize;
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        check_pairs(&name, &rows, &folder.join("tokens.json"), encoder(&model, max_length));
        cases += 1;
        if folder.join("refused.json").exists() {
            let encoder = encoder(&model, max_length);
            for item in json(&folder.join("refused.json"))["items"].as_array().unwrap() {
                let Err(BadRow::Template { message }) = encoder.encode(&record(&item["row"])) else {
                    panic!("{name}: {item}")
                };
                assert_eq!(format!("TemplateError: {message}"), item["error"].as_str().unwrap(), "{name}");
            }
        }
    }
    assert!(cases >= 14, "{cases} cases in {}", goldens("extra").display());
}

#[test]
fn edge_cases_are_those_of_trl() {
    for (name, folder, model) in models() {
        let golden = json(&folder.join("tokens_edge.json"));
        let encoder = encoder(&model, golden["max_length"].as_u64().unwrap() as usize);
        for item in golden["items"].as_array().unwrap() {
            let what = format!("{name}, {}", item["case"]);
            let encoded = encoder.encode(&record(&item["row"]));
            if let Some(error) = item.get("error") {
                let Err(BadRow::Template { message }) = encoded else { panic!("{what}: {encoded:?}") };
                assert_eq!(format!("TemplateError: {message}"), error.as_str().unwrap(), "{what}");
                continue;
            }
            let (encoded, _) = encoded.unwrap_or_else(|e| panic!("{what}: {e}"));
            if item.get("dropped").is_some() {
                assert!(matches!(encoded, Encoded::Dropped { reason: DropReason::NoRoom { .. }, .. }), "{what}");
                continue;
            }
            let row = kept(encoded);
            assert_eq!(row.prompt, ids(&item["prompt_ids"]), "{what}: prompt");
            let kept_tokens = ids(&item["completion_tokens_kept"]);
            let names = [("chosen_ids", "chosen_input_ids"), ("rejected_ids", "rejected_input_ids")];
            for ((answer, (all, input)), kept) in row.answers.iter().zip(names).zip(kept_tokens) {
                assert_eq!(answer.ids, ids(&item[all]), "{what}: {all}");
                assert_eq!([&row.prompt[..], answer.kept_ids()].concat(), ids(&item[input]), "{what}: {input}");
                assert_eq!(answer.kept, kept as usize, "{what}: tokens kept of {all}");
            }
        }
    }
}

/// Checks the first batch of labelled rows: the ids, and the mismatched answers.
#[test]
fn kto_tokens_are_those_of_trl() {
    for (name, folder, model) in models() {
        let dataset = {
            let encoder = encoder(&model, MAX_LENGTH);
            Dataset::open(&[goldens("kto.jsonl")], encoder, RowKind::Labelled, OnBadRow::Error).unwrap()
        };
        let survey = dataset.survey();
        assert_eq!((survey.kept, survey.dropped_rows()), (160, 0), "{name}");
        let batch = dataset.rows(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let golden = json(&folder.join("kto.json"));
        let donors = dataset.rows(&dataset.donors(&[0, 1, 2, 3, 4, 5, 6, 7])).unwrap();
        let mismatched = mismatched_answers(&batch, &donors, usize::MAX);
        for ((row, item), mismatched) in batch.iter().zip(golden["items"].as_array().unwrap()).zip(mismatched) {
            let what = format!("{name}, {}", item["id"]);
            assert_eq!(row.prompt, ids(&item["prompt_ids"]), "{what}: prompt");
            assert_eq!(row.answers[0].ids, ids(&item["completion_ids"]), "{what}: completion");
            assert_eq!(mismatched, ids(&item["KL_completion_ids"]), "{what}: mismatched");
            assert_eq!(row.target, Target::Label(item["label"].as_bool().unwrap()), "{what}");
        }
    }
}

/// Checks how many tokens of each sequence are left after truncation, against the counts in the goldens of the log-probs.
#[test]
fn truncated_lengths_are_those_of_trl() {
    for (name, folder, model) in models() {
        for (golden, rows) in [
            ("logps_conversational.json", pairs(8)),
            ("logps_plain.json", pairs(8).iter().map(plain).collect::<Vec<_>>()),
        ] {
            let dataset = dataset(&rows, encoder(&model, MAX_LENGTH), RowKind::Pair);
            let encoded = dataset.rows(&dataset.order(Shuffle::Off, 0)).unwrap();
            let items = json(&folder.join(golden))["items"].clone();
            for (i, item) in items.as_array().unwrap().iter().enumerate() {
                let (row, answer) = (&encoded[i / 2], &encoded[i / 2].answers[i % 2]);
                assert_eq!(answer.kept as u64, item["completion_tokens"].as_u64().unwrap(), "{name}, {golden}, {item}");
                let total = (row.prompt.len() + answer.kept) as u64;
                assert_eq!(total, item["total_tokens"].as_u64().unwrap(), "{name}, {golden}, {item}");
            }
        }
    }
}

/// Decoding gives the text back, with the EOS token at its end or without it.
#[test]
fn decoding_gives_the_text_back() {
    use crate::tokens::tokenizer::SpecialTokens::{Keep, Skip};
    for (name, _, model) in models() {
        let encoder = encoder(&model, MAX_LENGTH);
        let (eos, eos_id) = encoder.tokenizer().eos().unwrap();
        for text in [" Yes: naïve café 12345 — да 🙂", " one\n\n two  "] {
            let mut ids = encoder.tokenizer().encode_rendered(text).unwrap();
            ids.push(eos_id);
            assert_eq!(encoder.tokenizer().decode(&ids, Skip).unwrap().trim_start(), text.trim_start(), "{name}");
            let shown = encoder.tokenizer().decode(&ids, Keep).unwrap();
            assert!(shown.ends_with(eos), "{name}: {shown:?}");
        }
    }
}

/// Checks that a template renders as in transformers. If it fails there, it must fail here, with the same message if the template
/// itself raises it.
fn check_rendered(
    template: &str,
    messages: &Value,
    generation_prompt: GenerationPrompt,
    golden: &Value,
) -> Result<(), String> {
    let all = templates();
    let special: Vec<(String, String)> = all["special_tokens"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
        .collect();
    let parsed = ChatTemplate::at_time(template, "golden".to_owned(), &special, all["now"].as_i64().unwrap());
    let rendered = match parsed {
        Ok(parsed) => {
            parsed.render(messages.as_array().unwrap(), generation_prompt).map_err(|e| (e.clone(), e.to_string()))
        }
        Err(e) => Err((RenderError::Failed { line: 0, message: String::new() }, e.to_string())),
    };
    let said = golden.get("error").map(|e| e.as_str().unwrap()).and_then(|e| e.strip_prefix("TemplateError: "));
    match (&rendered, golden.get("text")) {
        (Ok(text), Some(expected)) if text == expected.as_str().unwrap() => Ok(()),
        (Err((RenderError::Refused { message }, _)), None) if Some(message.as_str()) == said => Ok(()),
        (Err((RenderError::Failed { .. }, _)), None) if said.is_none() => Ok(()),
        _ => Err(format!("{rendered:?}\n  expected {golden}")),
    }
}

fn templates() -> &'static Value {
    static ALL: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    ALL.get_or_init(|| json(&goldens("templates.json")))
}

#[test]
fn templates_of_many_models_render_as_in_jinja2() {
    let all = templates();
    let mut failures = Vec::new();
    for item in all["rendered"].as_array().unwrap() {
        let (name, conversation) = (item["template"].as_str().unwrap(), item["conversation"].as_str().unwrap());
        let generation_prompt =
            if item["add_generation_prompt"] == true { GenerationPrompt::Add } else { GenerationPrompt::Omit };
        let template = all["templates"][name].as_str().unwrap();
        if let Err(e) = check_rendered(template, &all["conversations"][conversation], generation_prompt, item) {
            failures.push(format!("{name}, {conversation}: {e}"));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn what_templates_use_of_python_is_as_in_jinja2() {
    let all = templates();
    let mut failures = Vec::new();
    for item in all["snippets"].as_array().unwrap() {
        let template = item["template"].as_str().unwrap();
        if let Err(e) = check_rendered(template, &all["messages"], GenerationPrompt::Add, item) {
            failures.push(format!("{template}: {e}"));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

/// Templates that the engine renders differently from Jinja2. Some compare values that have no order or loop over values that
/// have no items, which transformers refuses. The others use rare names and constructs.
const STAYS_OTHER: [&str; 12] = [
    "{{ 'a' < 1 }}",
    "{{ none < 1 }}",
    "{{ nope < 1 }}",
    "{% for x in none %}{{ x }}{% endfor %}",
    "{{ range(3) }}",
    "{{ range(2) is sequence }}",
    "{{ namespace(a=1) is mapping }}",
    "{{ lipsum is defined }}",
    "{{ cycler is defined }}",
    "{{ joiner is defined }}",
    "{% set _ns = namespace(_a=1) %}{{ _ns._a }}",
    "{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
];

/// Filters, tests, methods, whitespace and scopes render as in Jinja2 or are refused. Only the templates of `STAYS_OTHER` render
/// differently.
#[test]
fn a_template_never_has_another_text_than_in_jinja2() {
    let all = json(&goldens("jinja.json"));
    let messages = all["messages"].as_array().unwrap();
    let (mut other, mut refused) = (Vec::new(), 0);
    for case in all["cases"].as_array().unwrap() {
        let source = case["template"].as_str().unwrap();
        let template = ChatTemplate::at_time(source, "test".to_owned(), &[], 0);
        let rendered = template.ok().and_then(|t| t.render(messages, GenerationPrompt::Omit).ok());
        match (rendered, case["text"].as_str()) {
            (Some(text), expected) if Some(text.as_str()) != expected => other.push(source),
            (None, Some(_)) => refused += 1,
            _ => {}
        }
    }
    other.sort_unstable();
    let mut expected = STAYS_OTHER;
    expected.sort_unstable();
    assert_eq!(other, expected);
    assert!(refused <= 45, "{refused} templates that Jinja2 renders are refused");
}
