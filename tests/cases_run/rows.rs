//! Rows are read as the run read its own, unless a flag or the rows themselves say otherwise.

use super::*;

/// A command can switch off what the run has switched on. The line about the run's options shortens long values.
#[test]
fn switches_of_a_run_can_be_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out, model) = (texts(folder.path()), folder.path().join("run"), model());
    let system = "Be brief. ".repeat(30);
    Made { loss: &["dpo"], data: &data, start: None, more: &["--chat", "--system", &system] }.train(&out);
    let tokens = |more: &[&str]| {
        let flags = ["score", "--model", text(&model), "--data", text(&data), "--json"];
        let run = align(&[&flags[..], more].concat()).ok();
        (run.json_lines()[0]["prompt_tokens"].clone(), run.stderr)
    };
    let (of_run, said) = tokens(&["--adapter", text(&out)]);
    assert_eq!(of_run, tokens(&["--chat", "--system", &system]).0);
    assert!(said.contains("chat, system Be brief.") && !said.contains(&system), "{said}");
    let (off, _) = tokens(&["--adapter", text(&out), "--no-chat", "--system", ""]);
    assert!(off == tokens(&[]).0 && off != of_run, "{off} {of_run}");
    let (texts, _) = tokens(&["--adapter", text(&out), "--no-chat"]);
    assert_eq!(texts, tokens(&["--system", &system]).0);
    // a switch of a loss can be turned off too
    let ipo = folder.path().join("ipo");
    Made { loss: &["ipo", "--no-length-norm"], data: &data, start: None, more: &[] }.train(&ipo);
    let loss = |more: &[&str]| on("eval", &ipo, &data, more).ok().json()["eval_loss"].clone();
    assert_eq!(loss(&[]), loss(&["--loss", "ipo", "--no-length-norm"]));
    assert_ne!(loss(&[]), loss(&["--length-norm"]));
    // and so can a switch of an options file
    let config = folder.path().join("options.toml");
    fs::write(&config, "chat = true\n").unwrap();
    let run = |more: &[&str]| {
        let out = folder.path().join(format!("of-file{}", more.len()));
        let flags = ["train", "--config", text(&config), "--model", text(&model), "--data", text(&data)];
        align(&[&flags[..], &["--max-steps", "1", "--output", text(&out)], more].concat()).ok();
        fs::read_to_string(out.join("config.toml")).unwrap().contains("chat = true")
    };
    assert!(run(&[]) && !run(&["--no-chat"]));
}

/// A switch that a flag or a file turned off stays off, even if the starting adapter had it on.
#[test]
fn what_is_off_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let data = texts(folder.path());
    let [first, off, again, by_file] = ["first", "off", "again", "by-file"].map(|name| folder.path().join(name));
    let on = ["--chat", "--system", "Be brief.", "--allow-drops"];
    Made { loss: &["dpo"], data: &data, start: None, more: &on }.train(&first);
    Made { loss: &["dpo"], data: &data, start: Some(&first), more: &["--no-chat", "--system", ""] }.train(&off);
    let options = |run: &Path| fs::read_to_string(run.join("config.toml")).unwrap().parse::<toml::Table>().unwrap();
    let of = options(&off);
    let is_off = |key: &str| of[key] == toml::Value::Boolean(false);
    assert!(is_off("chat") && is_off("implicit-prompt") && is_off("allow-drops"), "{of}");
    assert_eq!((of["system"].as_str(), of["columns"].as_str()), (Some(""), Some("")));
    let run = align(&["train", "--config", text(&off.join("config.toml")), "--output", text(&again)]).ok();
    assert!(!run.stderr.contains("chat"), "{}", run.stderr);
    assert!(weights(&off) == weights(&again));
    let file = folder.path().join("off.toml");
    fs::write(&file, "chat = false\n").unwrap();
    let more = ["--config", text(&file), "--system", ""];
    Made { loss: &["dpo"], data: &data, start: Some(&first), more: &more }.train(&by_file);
    assert!(weights(&off) == weights(&by_file));
}

/// A text given with `--prompt` is a turn if the model has a template, unless `--no-chat` is given.
#[test]
fn a_prompt_that_is_no_turn_is_continued_as_it_is() {
    let model = model();
    let bare = tempfile::tempdir().unwrap();
    let plain = prompt_tokens(&without_template(bare.path()), &[]);
    assert!(prompt_tokens(&model, &[]) > plain);
    assert_eq!(prompt_tokens(&model, &["--no-chat"]), plain);
    let data = texts(bare.path());
    let said = |more: &[&str]| {
        let score = ["score", "--model", text(&model), "--data", text(&data)];
        align(&[&score[..], more].concat()).ok().stderr.contains("--chat makes turns of them")
    };
    assert!(said(&[]) && !said(&["--no-chat"]));
}

/// `--sft-on` of an SFT run applies to sequences, so it is not used for pairs.
#[test]
fn the_part_of_an_sft_run_is_left_out_where_rows_are_no_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let (messages, out) = (model_case("eval-of-a-run").join("messages.jsonl"), folder.path().join("run"));
    let more = ["--sft-on", "assistant", "--max-length", "600", "--allow-drops"];
    Made { loss: &["sft"], data: &messages, start: None, more: &more }.train(&out);
    let pairs = case_pairs();
    let texts = lines_in(folder.path(), "texts.jsonl", &[json!({"prompt": "What floats?", "completion": " Wood."})]);
    let run = on("score", &out, &pairs, &[]).ok();
    assert!(run.stderr.contains("sft-on assistant of") && run.stderr.contains("is not used"), "{}", run.stderr);
    assert_eq!(run.stderr.matches("reference: ").count(), 1, "the second try says nothing again: {}", run.stderr);
    let run = on("eval", &out, &pairs, &["--loss", "dpo", "--allow-drops"]).ok();
    assert!(!run.stderr.contains("sft-on"), "{}", run.stderr);
    let run = on("score", &out, &texts, &[]);
    run.refused(3, &["--sft-on gives another"]);
    on("score", &out, &texts, &["--sft-on", "all"]).ok();
}

/// The `--columns` of a run may not fit other files of the user.
#[test]
fn columns_of_the_run_that_the_data_lacks_are_said_to_be_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (renamed, out) = (renamed_pairs(folder.path()), folder.path().join("run"));
    let columns = ["--columns", "prompt=question,chosen=better,rejected=worse"];
    Made { loss: &["dpo"], data: &renamed, start: None, more: &columns }.train(&out);
    let (model, pairs) = (model(), case_pairs());
    let flags = ["eval", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs)];
    let run = align(&flags);
    run.refused(3, &["prompt=question", "config.toml"]);
    align(&[&flags[..], &["--columns", "prompt=prompt"]].concat()).ok();
    // `train` usually gets files other than the run's, so it ignores columns that they lack
    let on = folder.path().join("on");
    let run = Made { loss: &["ipo"], data: &pairs, start: Some(&out), more: &[] }.train(&on);
    assert!(run.stderr.contains("by their own names"), "{}", run.stderr);
    assert!(fs::read_to_string(on.join("config.toml")).unwrap().contains("columns = \"\""));
    // one row with the run's columns is enough to use them
    let mut rows = read_lines(&renamed);
    rows[2].as_object_mut().unwrap().remove("better");
    let bad = lines_in(folder.path(), "bad.jsonl", &rows);
    let mixed = lines_in(folder.path(), "mixed.jsonl", &[read_lines(&pairs), vec![rows[0].clone()]].concat());
    for (data, part) in [(&bad, "bad.jsonl:3"), (&mixed, "mixed.jsonl:1")] {
        let run = Made { loss: &["ipo"], data, start: Some(&out), more: &[] }.try_to_train(&folder.path().join("none"));
        run.refused(3, &[part, "prompt=question"]);
    }
    let same = folder.path().join("same");
    Made { loss: &["ipo"], data: &renamed, start: Some(&out), more: &[] }.train(&same);
    assert!(fs::read_to_string(same.join("config.toml")).unwrap().contains("prompt=question"));
}

/// Makes pairs of texts without a prompt column, whose prompts end with `mark`.
fn dialogue_texts(mark: &str) -> Vec<Value> {
    let line = |i: usize| {
        let prompt = format!("\n\nHuman: Tell me about place {i}.{mark}");
        json!({"chosen": format!("{prompt} It is a fine place."), "rejected": format!("{prompt} No idea at all.")})
    };
    (0..30).map(line).collect()
}

/// The turn marker of the run does not apply to rows that have another one.
#[test]
fn rows_with_another_turn_marker_than_the_runs_are_read_by_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (of_run, own) = (dialogue_texts("\n\nAssistant:"), dialogue_texts("\n\n### Response:\n"));
    let hh = lines_in(folder.path(), "hh.jsonl", &of_run);
    let other = lines_in(folder.path(), "other.jsonl", &own);
    let mixed = lines_in(folder.path(), "mixed.jsonl", &[own[..15].to_vec(), of_run[..15].to_vec()].concat());
    Made { loss: &["dpo"], data: &hh, start: None, more: &[] }.check(&out);
    let model = model();
    let on = |command: &[&str], data: &Path| {
        align(&[command, &["--model", text(&model), "--adapter", text(&out), "--data", text(data)]].concat())
    };
    let generate = ["generate", "--max-new-tokens", "1"];
    for command in [&["score", "--json"][..], &["eval"], &generate] {
        let said = on(command, &other).ok().stderr;
        let what = "end with \"Assistant:\", but no row looked at has that: these prompts end with \"### Response:";
        assert!(said.contains(what), "{command:?}: {said}");
        assert!(!on(command, &hh).ok().stderr.contains("no row looked at"));
        // score continues after bad rows
        let some = on(command, &mixed);
        assert_eq!(some.code, Some(if command[0] == "score" { 0 } else { 3 }), "{command:?}: {}", some.stderr);
        assert!(some.stderr.contains("mixed.jsonl:1"), "{command:?}: {}", some.stderr);
        assert!(some.stderr.contains("ends the prompts of the run (run_state.json)"), "{command:?}: {}", some.stderr);
    }
    let plain = align(&["score", "--json", "--model", text(&model), "--data", text(&other)]).ok().json_lines();
    let of_adapter = on(&["score", "--json"], &other).ok().json_lines();
    assert_eq!(of_adapter[3]["prompt_tokens"], plain[3]["prompt_tokens"]);
}

/// The demo's rows are read as the run read its own.
#[test]
fn rows_of_the_demo_are_read_as_the_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (run, template) = (folder.path().join("run"), folder.path().join("own.jinja"));
    fs::write(&template, "{% for turn in messages %}{{ turn.content }} {% endfor %}").unwrap();
    let train = ["train", "--demo", "--max-steps", "1", "--system", "Be brief.", "--chat-template", text(&template)];
    align(&[&train[..], &["--output", text(&run)]].concat()).ok();
    for command in [&["inspect"][..], &["generate", "--max-new-tokens", "1"]] {
        let said = align(&[command, &["--demo", "--adapter", text(&run)]].concat()).ok().stderr;
        assert!(
            said.contains("system Be brief.") && said.contains("its chat template") && !said.contains("is gone"),
            "{said}"
        );
    }
}

/// The texts of --reference-data are read like the rows.
#[test]
fn chat_and_system_reach_the_reference_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = texts(folder.path());
    let texts = lines_in(folder.path(), "corpus.jsonl", &[json!({"prompt": "Who are you?", "completion": "A model."})]);
    let tokens = |more: &[&str], name: &str| {
        let more = [&["--eta", "0.5", "--reference-data", text(&texts)][..], more].concat();
        let run = Made { loss: &["max_po"], data: &data, start: None, more: &more }.train(&folder.path().join(name));
        let said = run.stderr.split("reference data: ").nth(1).unwrap().to_owned();
        said.lines().find(|line| line.contains("tokens")).unwrap().to_owned()
    };
    assert_ne!(tokens(&[], "plain"), tokens(&["--chat", "--system", "Be brief."], "chat"));
}
