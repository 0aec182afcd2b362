//! Where rows come from, on the command line: formats, patterns, held-out rows, rejects, the token cache, what `inspect` says.

use crate::align::{
    Run, align, command, committed_goldens, golden_model, lines_in, read_lines, root, text, write_lines,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn parquet(name: &str) -> PathBuf {
    committed_goldens().join("parquet").join(name)
}

/// Runs a command on the tiny model, without a token cache unless `more` asks for one.
fn run(command: &str, data: &[&Path], more: &[&str]) -> Run {
    let model = golden_model("tiny-llama");
    let data: Vec<&str> = data.iter().map(|path| path.to_str().unwrap()).collect();
    let cache: &[&str] = if more.contains(&"--data-cache") { &[] } else { &["--data-cache", "off"] };
    let drops: &[&str] = if matches!(command, "train" | "eval") { &["--allow-drops"] } else { &[] };
    let common = [command, "--model", text(&model), "--max-length", "96", "--data"];
    align(&[&common[..], &data, cache, drops, more].concat())
}

fn good(i: usize) -> Value {
    json!({"prompt": format!("Question {i}?"), "chosen": " yes", "rejected": " no", "id": i})
}

#[test]
fn scores_do_not_depend_on_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read(parquet("pairs.jsonl")).unwrap();
    // JSON lines with the name of a Parquet file; the content decides the format
    let copy = folder.path().join("copy.parquet");
    std::fs::write(&copy, &text).unwrap();
    let expected = run("score", &[&parquet("pairs.jsonl")], &["--json"]).ok();
    assert_eq!(expected.json_lines().len(), 12);
    for path in [copy, parquet("pairs-snappy.parquet"), parquet("pairs-v2.parquet")] {
        assert_eq!(run("score", &[&path], &["--json"]).ok().stdout, expected.stdout, "{}", path.display());
    }
}

#[test]
fn generate_takes_prompts_from_a_pattern_of_parquet_files() {
    let pattern = parquet("pairs-b*.parquet");
    let arguments = ["--limit", "1", "--max-new-tokens", "2", "--json"];
    let model = golden_model("tiny-llama");
    let data = pattern.to_str().unwrap();
    let run = align(&[&["generate", "--model", text(&model), "--data", data], &arguments[..]].concat()).ok();
    assert_eq!(run.json_lines().len(), 1);
}

#[test]
fn what_names_no_data_is_refused() {
    let folder = parquet("");
    run("score", &[&folder], &[]).refused(3, &["parquet/: is a folder", "*.jsonl"]);
    run("score", &[&folder.join("none*.jsonl")], &[]).refused(3, &["none*.jsonl matches no file"]);
    let binary = parquet("binary.parquet");
    // the picture is read only if --columns gives it a meaning
    run("inspect", &[&binary], &[]).refused(3, &["binary.parquet:1: the row is {prompt}; there is no answer in it"]);
    let as_id = &["--columns", "id=picture"];
    run("inspect", &[&binary], as_id).refused(3, &["binary.parquet: column `picture` is binary"]);
}

#[test]
fn a_pattern_names_all_its_files_and_a_file_twice_is_said() {
    let folder = tempfile::tempdir().unwrap();
    for (name, range) in [("b.jsonl", 0..3), ("a.jsonl", 3..5)] {
        write_lines(&folder.path().join(name), &range.map(good).collect::<Vec<_>>());
    }
    let (pattern, a) = (folder.path().join("*.jsonl"), folder.path().join("a.jsonl"));
    let scored = run("score", &[&pattern, &a], &["--json"]).ok();
    let ids: Vec<Value> = scored.json_lines().iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, [3, 4, 0, 1, 2, 3, 4].map(Value::from), "in the order of the names");
    assert!(scored.stderr.contains("a.jsonl is a file that is named already"), "{}", scored.stderr);
    assert!(scored.stderr.contains("2 rows are copies of an earlier one"), "{}", scored.stderr);
}

#[test]
fn a_share_of_the_rows_is_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = lines_in(folder.path(), "rows.jsonl", &(0..40).map(good).collect::<Vec<_>>());
    let out = folder.path().join("out");
    let train = |more: &[&str]| {
        let common = ["--max-steps", "1", "--overwrite", "--output", out.to_str().unwrap()];
        run("train", &[&data], &[&common[..], more].concat())
    };
    let first = train(&["--eval-fraction", "0.25"]).ok();
    assert!(first.stderr.contains("evaluation data: 10 rows of 10 prompts held out"), "{}", first.stderr);
    assert!(first.stderr.contains("30 rows trained on"), "{}", first.stderr);
    let evaluations = |out: &Path| -> Vec<Value> {
        read_lines(&out.join("metrics.jsonl")).into_iter().filter(|line| line.get("eval_loss").is_some()).collect()
    };
    let found = evaluations(&out);
    assert!(found.len() >= 2, "at the start and at the end");
    // the run's own config.toml repeats the run
    let config: toml::Table = std::fs::read_to_string(out.join("config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["eval-fraction"].as_float(), Some(0.25));
    let again = folder.path().join("again");
    let config = out.join("config.toml");
    align(&["train", "--config", config.to_str().unwrap(), "--output", again.to_str().unwrap()]).ok();
    assert_eq!(evaluations(&again), found);

    let eval = data.to_str().unwrap();
    train(&["--eval-fraction", "0.25", "--eval-data", eval]).refused(2, &["--eval-fraction", "--eval-data"]);
    for share in ["0", "1", "-0.5", "NaN"] {
        train(&["--eval-fraction", share]).refused(2, &["expected a number between 0 and 1"]);
    }
    let rows = [good(1), json!({"prompt": "Question 1?", "chosen": " a", "rejected": " b"})];
    let one = lines_in(folder.path(), "one.jsonl", &rows);
    let same =
        run("train", &[&one], &["--eval-fraction", "0.5", "--output", folder.path().join("x").to_str().unwrap()]);
    same.refused(3, &["all 2 usable rows have the same prompt"]);
}

#[test]
fn rejected_rows_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let same = json!({"prompt": "p", "chosen": "a", "rejected": "a"});
    write_lines(&data, &[good(0), same.clone(), good(1)]);
    let out = folder.path().join("out");
    let train = |more: &[&str]| {
        let common = ["--max-steps", "1", "--overwrite", "--output", out.to_str().unwrap()];
        run("train", &[&data], &[&common[..], more].concat())
    };
    let trained = train(&["--on-bad-row", "skip"]).ok();
    assert!(trained.stderr.contains("rejects: 1 row in "), "{}", trained.stderr);
    let rejects = read_lines(&out.join("rejects.jsonl"));
    assert_eq!(
        rejects,
        [json!({
            "file": data, "line": 2, "reason": "`chosen` and `rejected` are equal", "row": same.to_string(),
        })]
    );

    let file = folder.path().join("rejects.jsonl");
    let to_file = ["--on-bad-row", "skip", "--rejects", file.to_str().unwrap()];
    for command in ["score", "eval", "inspect"] {
        let _ = std::fs::remove_file(&file);
        run(command, &[&data], &to_file).ok();
        assert_eq!(read_lines(&file), rejects, "{command}");
    }
    run("score", &[&data], &["--rejects", file.to_str().unwrap()]).refused(2, &["--on-bad-row skip"]);
    run("score", &[&data], &["--on-bad-row", "skip", "--rejects", "/no/such/folder/x"])
        .refused(1, &["/no/such/folder/x"]);

    // a later run into the same folder rejects no row, so it removes the file
    write_lines(&data, &[good(0), good(1)]);
    train(&[]).ok();
    assert!(!out.join("rejects.jsonl").exists(), "that of the run before is gone");
}

/// If every row is bad, the command fails, but the rejected rows are written for the user to see.
#[test]
fn rejects_are_written_where_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let same = json!({"prompt": "p", "chosen": "a", "rejected": "a"});
    write_lines(&data, &[same.clone(), same]);
    let file = folder.path().join("rejects.jsonl");
    let out = folder.path().join("out");
    for command in ["score", "train"] {
        let mut more = vec!["--on-bad-row", "skip", "--rejects", file.to_str().unwrap()];
        more.extend(["--output", out.to_str().unwrap()].into_iter().filter(|_| command == "train"));
        let found = run(command, &[&data], &more);
        found.refused(3, &["none of 2 rows can be used", "rejects: 2 rows in "]);
        assert_eq!(read_lines(&file).len(), 2, "{command}");
        std::fs::remove_file(&file).unwrap();
    }
    // the message names the bad rows even if they cannot be written; if no row was left out, no file is written
    let nowhere = run("score", &[&data], &["--on-bad-row", "skip", "--rejects", "/no/such/folder/x"]);
    nowhere.refused(3, &["none of 2 rows can be used", "/no/such/folder/x"]);
    let missing = folder.path().join("missing.jsonl");
    run("score", &[&missing], &["--on-bad-row", "skip", "--rejects", file.to_str().unwrap()])
        .refused(3, &["missing.jsonl"]);
    assert!(!file.exists());
}

/// The name of a data file may have bytes that are not UTF-8.
#[test]
fn a_name_that_is_not_utf8_is_a_name() {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join(std::ffi::OsStr::from_bytes(b"r\xFFws.jsonl"));
    let same = json!({"prompt": "p", "chosen": "a", "rejected": "a"});
    write_lines(&data, &[good(0), same, good(0)]);
    let rejects = folder.path().join("rejects.jsonl");
    let (model, cache) = (golden_model("tiny-llama"), folder.path().join("cache"));
    for _ in 0..2 {
        let mut arguments: Vec<std::ffi::OsString> =
            ["inspect", "--model", text(&model), "--json", "--on-bad-row", "skip", "--data"].map(Into::into).to_vec();
        arguments.push(std::ffi::OsString::from_vec(data.as_os_str().as_bytes().to_vec()));
        arguments.extend(["--rejects".into(), rejects.clone().into(), "--data-cache".into(), cache.clone().into()]);
        let facts = align(&arguments).ok().json();
        for path in [&facts["data"]["dropped"][0]["path"], &facts["data"]["copies"]["first"]["path"]] {
            assert!(path.as_str().unwrap().ends_with("r\u{FFFD}ws.jsonl"), "{facts}");
        }
        assert!(read_lines(&rejects)[0]["file"].as_str().unwrap().ends_with("r\u{FFFD}ws.jsonl"));
    }
}

/// If the disk has no room for the token cache, the run goes on without it.
#[test]
fn a_full_disk_ends_the_cache_and_not_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (data, cache) = (folder.path().join("rows.jsonl"), folder.path().join("cache"));
    write_lines(&data, &(0..400).map(good).collect::<Vec<_>>());
    // no file may be longer than four blocks (of 512 bytes, or in some shells of 1024), and a longer write gives an error instead
    // of a signal
    let script = "trap '' XFSZ; ulimit -f 4; exec \"$@\"";
    let model = golden_model("tiny-llama");
    let score = [
        "score",
        "--model",
        text(&model),
        "--json",
        "--reference-cache",
        "off",
        "--data",
        data.to_str().unwrap(),
        "--data-cache",
        cache.to_str().unwrap(),
    ];
    let inside = command(&score);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(inside.get_program()).args(inside.get_args()).current_dir(root());
    let limited = Run::of(shell.output().unwrap()).ok();
    assert!(limited.stderr.contains("the run goes on without it"), "{}", limited.stderr);
    assert_eq!(limited.json_lines().len(), 400);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0, "nothing half-written is left");
}

#[test]
fn a_max_length_that_is_none_is_no_default() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("rows.jsonl"), folder.path().join("out"));
    write_lines(&data, &(0..4).map(good).collect::<Vec<_>>());
    let adapter = out.to_str().unwrap();
    run("train", &[&data], &["--max-steps", "1", "--output", adapter]).ok();
    let (config, model) = (out.join("config.toml"), golden_model("tiny-llama"));
    let options = std::fs::read_to_string(&config).unwrap();
    assert!(options.contains("max-length = 96"), "{options}");
    for (value, found) in [("96.5", "96.5"), ("\"long\"", "\"long\""), ("0", "0"), ("-3", "-3")] {
        std::fs::write(&config, options.replace("max-length = 96", &format!("max-length = {value}"))).unwrap();
        let eval = align(&["eval", "--model", text(&model), "--adapter", adapter, "--data", data.to_str().unwrap()]);
        eval.refused(3, &["config.toml: `max-length` is ", found, "expected a whole number of tokens"]);
    }
}

/// The JSON has everything that the table says.
#[test]
fn inspect_says_as_json_what_it_says_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let long = " 1, 2".repeat(80);
    let rows = [
        good(0).to_string(),
        String::new(),
        json!({"prompt": "Count:", "chosen": format!("{long} a"), "rejected": format!("{long} b")}).to_string(),
        json!({"prompt": "Which one is it? It is ", "chosen": "the answer", "rejected": "the other"}).to_string(),
        "{broken".to_owned(),
    ];
    std::fs::write(&data, rows.join("\n")).unwrap();
    let facts = run("inspect", &[&data], &["--json"]).ok().json();
    let facts = &facts["data"];
    assert_eq!((&facts["blank_lines"], &facts["pairs_same_after_cut"]), (&json!(1), &json!(1)));
    assert_eq!((&facts["prompt_ends_moved"], &facts["prompt_end_examples"][0]["row"]), (&json!(1), &json!(2)));
    assert!(facts["dropped"][0]["first"].as_str().unwrap().starts_with("not valid JSON: "), "{facts}");
    assert_eq!(facts["sequences"], Value::Null);

    let model = golden_model("tiny-llama");
    let talk = folder.path().join("talk.jsonl");
    write_lines(
        &talk,
        &[json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})],
    );
    // flags in TRL's spelling are read too
    let arguments =
        ["inspect", "--model", text(&model), "--data", talk.to_str().unwrap(), "--json", "--data-cache", "off"];
    let more = ["--max_length", "90", "--on_bad_row", "error", "--sft-on", "assistant"];
    let facts = align(&[&arguments[..], &more].concat()).ok().json();
    let sequences = json!({"scored": "assistant", "found_by": "turn by turn", "chosen_alone": false});
    assert_eq!(facts["data"]["sequences"], sequences);
    for flag in [["--rejects", "x"], ["--data-cache", "x"], ["--max-length", "9"], ["--sft-on", "all"]] {
        align(&["inspect", "--model", text(&model), flag[0], flag[1]])
            .refused(2, &[flag[0], "--data, which is missing"]);
    }
    let help = align(&["inspect", "--help"]).ok().stdout;
    assert!(help.contains("What happens to a bad row") && help.contains("[default: skip]"), "{help}");
}

#[test]
fn whole_conversations_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("talk.jsonl");
    let talk = |i: usize| json!({"messages": [{"role": "user", "content": format!("Question {i}?")}, {"role": "assistant", "content": "yes"}]});
    write_lines(&data, &(0..8).map(talk).collect::<Vec<_>>());
    let out = folder.path().join("out");
    let arguments = ["--loss", "sft", "--max-steps", "1", "--eval-fraction", "0.25", "--output", out.to_str().unwrap()];
    let trained = run("train", &[&data], &arguments).ok();
    assert!(trained.stderr.contains("evaluation data: 2 rows of 2 prompts held out"), "{}", trained.stderr);
}

#[test]
fn a_second_start_takes_the_tokens_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let data = parquet("pairs-zstd.parquet");
    let score = |more: &[&str]| run("score", &[&data], &[&["-v", "--json", "--data-cache"], more].concat());
    let first = score(&[cache.to_str().unwrap()]).ok();
    assert!(first.stderr.contains("the tokens of 7 rows are kept in"), "{}", first.stderr);
    let second = score(&[cache.to_str().unwrap()]).ok();
    assert!(second.stderr.contains("the tokens of 7 rows are those of"), "{}", second.stderr);
    let off = score(&["off"]).ok();
    assert!(!off.stderr.contains("token cache"), "{}", off.stderr);
    assert!(first.stdout == second.stdout && first.stdout == off.stdout);

    // training with cached tokens gives the same adapter as training without them
    let train = |name: &str, cache: &str| {
        let out = folder.path().join(name);
        run("train", &[&data], &["--max-steps", "2", "--data-cache", cache, "--output", out.to_str().unwrap()]).ok();
        std::fs::read(out.join("adapter_model.safetensors")).unwrap()
    };
    let plain = train("plain", "off");
    assert_eq!(train("miss", cache.to_str().unwrap()), plain);
    assert_eq!(train("hit", cache.to_str().unwrap()), plain);
}

#[test]
fn inspect_says_what_repeats_and_how_long_rows_are() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let long = json!({"prompt": "Question 0?", "chosen": " yes".repeat(200), "rejected": " no"});
    write_lines(
        &data,
        &[good(0), good(1), good(0), json!({"prompt": "Question 1?", "chosen": " yes", "rejected": " no"}), long],
    );
    let facts = run("inspect", &[&data], &["--json"]).ok().json();
    let facts = &facts["data"];
    assert_eq!(
        facts["copies"],
        json!({
            "rows": 1, "original": {"path": data, "line": 1}, "first": {"path": data, "line": 3},
        })
    );
    assert_eq!(facts["same_tokens"]["rows"], 1);
    assert_eq!(facts["same_tokens"]["first"]["line"], 4);
    let lengths = &facts["lengths"];
    assert_eq!((&lengths["prompt"]["count"], &lengths["total"]["count"]), (&json!(5), &json!(10)));
    assert_eq!((&lengths["beyond_max_length"], &lengths["share_beyond_max_length"]), (&json!(1), &json!(0.1)));
    let classes = lengths["answer"]["classes"].as_array().unwrap();
    assert_eq!(classes.iter().map(|class| class["count"].as_u64().unwrap()).sum::<u64>(), 10);

    let text = run("inspect", &[&data], &[]).ok();
    assert!(text.stdout.contains("beyond --max-length 96: 1 of 10 (10.0 %)"), "{}", text.stdout);
    assert!(text.stdout.contains("tokens of prompt + answer: mean"), "{}", text.stdout);
    assert!(text.stderr.contains("1 row is a copy of an earlier one; the first: "), "{}", text.stderr);
}
