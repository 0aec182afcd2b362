//! Sources of rows, with files from practice: types and nulls of Parquet, CSV, JSON in other layouts, messages for files that are
//! not read, data sets of the local Hugging Face cache. The inputs are in `tests/cases/data`.

use crate::align::{Run, align, command, data_case, golden_model, text};
use serde_json::{Value, json};
use std::path::Path;

/// Runs `inspect --row` with a case's template that prints tools and calls.
fn inspect(data: &Path, row: usize) -> Run {
    let (model, template, row) =
        (golden_model("tiny-qwen2"), data_case("parquet-json-type/tools.jinja"), row.to_string());
    let common =
        ["inspect", "--model", text(&model), "--chat-template", template.to_str().unwrap(), "--data-cache", "off"];
    align(&[&common[..], &["--data", data.to_str().unwrap(), "--row", &row, "--json"]].concat())
}

/// Returns the token ids of a row, prompt and answers.
fn tokens(data: &Path, row: usize) -> Value {
    inspect(data, row).ok().json()["row"].clone()
}

fn score(data: &Path, more: &[&str]) -> Run {
    let model = golden_model("tiny-llama");
    let common = ["score", "--model", text(&model), "--data-cache", "off", "--json", "--data", data.to_str().unwrap()];
    align(&[&common[..], more].concat())
}

#[test]
fn parquet_of_type_json_has_the_tokens_of_jsonl() {
    for name in ["parquet-json-type/mixed", "parquet-json-type/tools", "parquet-null-padding/rows"] {
        let (parquet, jsonl) = (data_case(&format!("{name}.parquet")), data_case(&format!("{name}.jsonl")));
        for row in 0..2 {
            assert_eq!(tokens(&parquet, row), tokens(&jsonl, row), "{name}, row {row}");
        }
    }
}

#[test]
fn nulls_that_a_table_wrote_into_tools_are_left_out_of_jsonl() {
    let (padded, plain) =
        (data_case("parquet-null-padding/through_arrow.jsonl"), data_case("parquet-null-padding/rows.jsonl"));
    for row in 0..2 {
        let (padded, plain) = (tokens(&padded, row), tokens(&plain, row));
        assert_eq!(padded[0]["prompt"], plain[0]["prompt"], "row {row}");
        assert_ne!(padded[0]["answers"], plain[0]["answers"], "null arguments may be meant: they are warned of");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(&padded).unwrap();
    // a null in a nested object is left out, but a null that is a default value stays
    let nested = |of_x: &str, padding: &str| {
        let x = format!(r#"{{"type": "number"{of_x}}}"#);
        let object = format!(r#"{{"type": "object", "properties": {{"x": {x}{padding}}}}}"#);
        let path = folder.path().join("nested.jsonl");
        std::fs::write(&path, text.replace(r#"{"type": "string"}"#, &object)).unwrap();
        tokens(&path, 1)[0]["prompt"].clone()
    };
    let default = r#", "default": null"#;
    assert_eq!(nested(default, r#", "y": null"#), nested(default, ""));
    assert_ne!(nested(default, ""), nested("", ""));
}

#[test]
fn csv_is_read_and_its_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"prompt": "What is a lake?", "chosen": "Still water.", "rejected": "A fish."});
    let jsonl = folder.path().join("rows.jsonl");
    std::fs::write(&jsonl, format!("{row}\n")).unwrap();
    let expected = score(&jsonl, &[]).ok().stdout;
    assert_eq!(score(&data_case("files-that-are-not-jsonl/rows.csv"), &[]).ok().stdout, expected);
    let array = folder.path().join("rows.json");
    for text in [format!("[{row}]"), serde_json::to_string_pretty(&[&row]).unwrap()] {
        std::fs::write(&array, text).unwrap();
        assert_eq!(score(&array, &[]).ok().stdout, expected);
    }
    // other column names, line ends within quotes, a quote that does not close, a row with too few cells
    let csv = folder.path().join("other.csv");
    std::fs::write(&csv, "q,a,b,note\n\"What is\na lake?\",x,y,\n\"one\",\"two\n").unwrap();
    let columns = ["--columns", "prompt=q,chosen=a,rejected=b"];
    score(&csv, &columns).refused(3, &["other.csv:4: a quote opens in the row at this line and does not close"]);
    std::fs::write(&csv, "q,a,b,note\n\"What is\na lake?\",x,y,\n\none,two\n").unwrap();
    score(&csv, &columns).refused(3, &["other.csv:5: the row has 2 cells, the header 4"]);
    let skipped = score(&csv, &[&columns[..], &["--on-bad-row", "skip"]].concat()).ok();
    assert_eq!(skipped.json_lines().len(), 2, "one of them as dropped: {}", skipped.stdout);
}

#[test]
fn what_is_no_rows_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pretty = data_case("files-that-are-not-jsonl/pretty.json");
    score(&pretty, &[]).refused(3, &["pretty.json: is a JSON object over several lines", "jq -c . "]);
    let nan = data_case("files-that-are-not-jsonl/nan.jsonl");
    score(&nan, &[]).refused(3, &["nan.jsonl:1: column `score` is NaN, which is not valid JSON", "null"]);
    let infinite =
        write("infinite.jsonl", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\",\"margin\":-Infinity}\n");
    score(&infinite, &[]).refused(3, &["column `margin` is -Infinity"]);
    let around = write("around.json", "{\"data\": [{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}]}");
    score(&around, &[]).refused(3, &["with its rows under `data`", "jq -c '.[\"data\"][]'"]);
    let columns = write("columns.json", "{\"prompt\": [\"a\"], \"chosen\": [\"b\"], \"rejected\": [\"c\"]}");
    score(&columns, &[]).refused(3, &["is one JSON object of columns", "orient=\"records\""]);
    let broken = write("broken.json", "[{\"prompt\": \"a\"},\n");
    score(&broken, &[]).refused(3, &["broken.json:2: the JSON array does not end"]);
}

#[test]
fn other_notations_of_rows_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str, bytes: &[u8], parts: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        score(&path, &[]).refused(3, parts);
    };
    let utf16: Vec<u8> = "{\"prompt\": \"a\"}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    said("utf16.jsonl", &utf16, &["utf16.jsonl: is text in UTF-16 (save it as UTF-8)"]);
    said("marked.csv", &[&b"\xFF\xFE"[..], &utf16].concat(), &["is text in UTF-16 (save it as UTF-8)"]);
    said("rows.yaml", b"- prompt: a\n  chosen: b\n  rejected: c\n", &["rows.yaml: is YAML", "yaml.safe_load"]);
    let python = b"{'prompt': 'a', 'chosen': 'b', 'rejected': None}\n";
    said("python.jsonl", python, &["python.jsonl:1: the row is a dictionary as Python prints it", "ast.literal_eval"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n";
    said("pointer.jsonl", pointer, &["pointer.jsonl: is a pointer of Git LFS", "git lfs pull"]);
    said("page.jsonl", b"<!DOCTYPE html>\n<html></html>\n", &["page.jsonl: is a page of HTML"]);
    let behind = b"[{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}]\nend of file";
    said("behind.json", behind, &["behind.json:2: the JSON array"]);
    said("cut.csv", b"prompt,chosen,rejected\r\na,b,c\r\na,\"b\r\n", &["cut.csv:3: a quote opens"]);
    said(
        "alone.json",
        b"{\"completions\": [\"a\", \"b\"], \"rewards\": [1, 0]}",
        &["alone.json:1: `prompt` is missing"],
    );
}

#[test]
fn a_configuration_is_toml_and_trl_keys_get_the_words_of_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let config = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        align(&["train", "--demo", "--config", path.to_str().unwrap()])
    };
    let yaml = data_case("files-that-are-not-jsonl/run.yaml");
    let run = align(&["train", "--demo", "--config", yaml.to_str().unwrap()]);
    run.refused(3, &["run.yaml: ", "YAML", "a configuration is TOML, `loss_type = \"sigmoid\"`"]);
    config("run.json", "{\"beta\": 0.1}").refused(3, &["JSON", "a configuration is TOML, `beta = 0.1`"]);
    config("run.yml", "# of a run\n---\nbeta: 0.1\n").refused(3, &["YAML", "a configuration is TOML"]);
    let toml = data_case("files-that-are-not-jsonl/run.toml");
    let run = align(&["train", "--demo", "--config", toml.to_str().unwrap()]);
    run.refused(3, &["run.toml:2: ", "prompts are never cut"]);
    for (key, meant) in [("batch", "batch-size"), ("beta_", "beta"), ("learning_rat", "learning-rate")] {
        config("run.toml", &format!("{key} = 1\n")).refused(3, &["run.toml:1: ", &format!("did you mean `{meant}`?")]);
    }
    for (key, value, words) in [
        ("max_prompt_length", "128", "prompts are never cut"),
        ("bf16", "true", "--precision"),
        ("truncation_mode", "\"keep_end\"", "the end is cut"),
        ("modules_to_save", "\"lm_head\"", "only LoRA matrices are trained"),
        ("use_dora", "true", "DoRA"),
        ("dataset_test_split", "\"test\"", "--eval-data"),
    ] {
        let run = config("run.toml", &format!("loss_type = \"sigmoid\"\n{key} = {value}\n"));
        run.refused(3, &["run.toml:2: ", words]);
        assert!(!run.stderr.contains("did you mean"), "{key}: {}", run.stderr);
        let flag = align(&["train", "--demo", &format!("--{key}"), value.trim_matches('"')]);
        flag.refused(2, &[words]);
        assert!(!flag.stderr.contains("tip:"), "{key}: {}", flag.stderr);
    }
}

/// Makes a cache with the data set `org/pairs` at two revisions.
fn cache() -> tempfile::TempDir {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("hub/datasets--org--pairs");
    let put = |path: &str, text: &str| {
        let path = repository.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let row = |prompt: &str| format!("{}\n", json!({"prompt": prompt, "chosen": " a", "rejected": " b", "id": prompt}));
    put("refs/main", "aaaa");
    put("refs/old", "bbbb");
    put("snapshots/aaaa/data/train-00000-of-00002.jsonl", &row("first"));
    put("snapshots/aaaa/data/train-00001-of-00002.jsonl", &row("second"));
    put("snapshots/aaaa/data/test-00000-of-00001.jsonl", &row("held"));
    put("snapshots/bbbb/data.jsonl", &row("old"));
    cache
}

fn score_cached(cache: &Path, data: &str) -> Run {
    let model = golden_model("tiny-llama");
    let arguments = ["score", "--model", text(&model), "--data-cache", "off", "--json", "--data", data];
    let run = command(&arguments).env_remove("HF_HUB_CACHE").env("HF_HOME", cache).output().unwrap();
    Run::of(run)
}

#[test]
fn a_data_set_of_the_cache_is_named_by_its_id() {
    let cache = cache();
    let ids = |data: &str| -> Vec<Value> {
        score_cached(cache.path(), data).ok().json_lines().iter().map(|row| row["id"].clone()).collect()
    };
    assert_eq!(ids("org/pairs"), ["first", "second"]);
    assert_eq!(ids("org/pairs#test"), ["held"]);
    assert_eq!(ids("org/pairs@old"), ["old"]);
    assert_eq!(ids("org/pairs@bbbb#train"), ["old"]);
    let said = score_cached(cache.path(), "org/pairs").ok().stderr;
    assert!(said.contains("org/pairs (local Hugging Face cache, revision aaaa), split train: 2 files"), "{said}");
    score_cached(cache.path(), "org/pairs#validation")
        .refused(3, &["org/pairs", "no split `validation`", "train, test"]);
    score_cached(cache.path(), "org/none")
        .refused(3, &["org/none", "hf download --repo-type dataset org/none", cache.path().to_str().unwrap()]);
    score_cached(cache.path(), "org/pairs@new")
        .refused(3, &["`new`", "hf download --repo-type dataset --revision new org/pairs"]);
}

#[test]
fn configs_of_a_data_set_are_chosen_by_name() {
    let cache = cache();
    let snapshot = cache.path().join("hub/datasets--org--pairs/snapshots/aaaa");
    let readme = "---\nlicense: mit\nconfigs:\n- config_name: easy\n  data_files:\n  - split: train\n    path: data/train-00000-*\n\
                  - config_name: hard\n  data_files:\n    - split: train\n      path:\n      - data/train-00001-of-00002.jsonl\n      \
                  - data/test-*\n---\n# Pairs\n";
    std::fs::write(snapshot.join("README.md"), readme).unwrap();
    let ids = |data: &str| -> Vec<Value> {
        score_cached(cache.path(), data).ok().json_lines().iter().map(|row| row["id"].clone()).collect()
    };
    score_cached(cache.path(), "org/pairs").refused(3, &["several configs", "easy, hard", "org/pairs:easy"]);
    assert_eq!(ids("org/pairs:easy"), ["first"]);
    assert_eq!(ids("org/pairs:hard#train"), ["second", "held"]);
    score_cached(cache.path(), "org/pairs:none").refused(3, &["no config `none`", "easy, hard"]);
}
