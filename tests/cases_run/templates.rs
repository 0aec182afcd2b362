//! The chat template of a run: the one that it was trained with is kept, and later commands render with it.

use super::*;
use crate::align::{number, read_json};

/// Trains on the case's pairs with `template`, into `out`.
fn train_with_template(model: &Path, out: &Path, template: &Path, more: &[&str]) -> Run {
    let pairs = case_pairs();
    let flags = [
        "train",
        "--model",
        text(model),
        "--data",
        text(&pairs),
        "--eval-data",
        text(&pairs),
        "--chat-template",
        text(template),
        "--max-steps",
        "2",
        "--batch-size",
        "2",
        "--learning-rate",
        "1e-3",
        "--max-length",
        "300",
        "--allow-drops",
        "--precision",
        "f32",
        "--output",
        text(out),
    ];
    align(&[&flags[..], more].concat()).ok()
}

#[test]
fn a_run_renders_with_its_template_ever_after() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("template.jinja");
    fs::copy(case_template(), &template).unwrap();
    let (model, out, pairs) = (model(), folder.path().join("run"), case_pairs());
    train_with_template(&model, &out, &template, &[]);
    let kept = fs::read(out.join("chat_template.jinja")).unwrap();
    assert!(kept == fs::read(&template).unwrap());
    let loss = number(&evaluation(&out)["eval_loss"]);
    assert!((loss - 0.0053).abs() < 5e-5, "{loss}");
    // the template's file is removed, then written with other content
    for change in ["moved", "changed"] {
        match change {
            "moved" => fs::remove_file(&template).unwrap(),
            _ => fs::write(&template, "{{ messages[0].content }}").unwrap(),
        }
        let eval = on("eval", &out, &pairs, &[]).ok();
        same_evaluation(&eval.json(), &evaluation(&out), change);
        assert!(eval.stderr.contains("its chat template"), "{}", eval.stderr);
        assert_eq!(prompt_tokens(&model, &["--adapter", text(&out)]), 15);
        let by_flag = ["--chat-template", text(&case_template())].map(str::to_owned);
        let by_flag: Vec<&str> = by_flag.iter().map(String::as_str).collect();
        let score = |more: &[&str]| on("score", &out, &pairs, more).ok().stdout;
        assert!(score(&[]) == score(&by_flag));
    }
    let own = fs::write(folder.path().join("own.jinja"), "{{ messages[0].content }}");
    own.unwrap();
    let own = folder.path().join("own.jinja");
    assert!(prompt_tokens(&model, &["--adapter", text(&out), "--chat-template", text(&own)]) < 15, "a flag wins");

    let merged = folder.path().join("merged");
    align(&["merge", "--model", text(&model), "--adapter", text(&out), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), 15);
    assert!(fs::read(merged.join("chat_template.jinja")).unwrap() == kept);
    let config = read_json(&merged.join("tokenizer_config.json"));
    assert!(config.get("chat_template").is_none());

    // the run's options repeat the run, although the template file that they named has other content now
    let again = folder.path().join("again");
    align(&["train", "--config", text(&out.join("config.toml")), "--output", text(&again)]).ok();
    assert!(weights(&again) == weights(&out));

    // a run that starts from this run's adapter keeps the template too
    let on = folder.path().join("on");
    let flags = ["train", "--model", text(&model), "--adapter", text(&out), "--data", text(&pairs), "--max-steps", "1"];
    let run = align(&[&flags[..], &["--output", text(&on), "--precision", "f32"]].concat()).ok();
    assert!(run.stderr.contains("its chat template") && run.stderr.contains("max-length 300"), "{}", run.stderr);
    assert!(fs::read(on.join("chat_template.jinja")).unwrap() == kept);
}

/// If the base has no template, that of the run is used.
#[test]
fn a_base_without_a_template_has_that_of_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template(folder.path());
    let (out, pairs, chat) = (folder.path().join("run"), case_pairs(), folder.path().join("chat"));
    train_with_template(&model, &out, &case_template(), &["--loss", "rm_bt"]);
    let score = ["score", "--model", text(&model), "--reward-model", text(&out), "--data", text(&pairs), "--json"];
    assert_eq!(align(&score).ok().json_lines().len(), read_lines(&pairs).len());
    train_with_template(&model, &chat, &case_template(), &[]);
    assert_eq!(prompt_tokens(&model, &["--adapter", text(&chat)]), 15);
    let merged = folder.path().join("merged");
    align(&["merge", "--model", text(&model), "--adapter", text(&chat), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), 15);
}

/// A template that was added or changed since the run is reported. If it is gone, the command asks for it.
#[test]
fn templates_that_are_not_those_of_the_run_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let bare = without_template(folder.path());
    let with = model();
    let texts = texts(folder.path());
    let train = |model: &Path, out: &Path, more: &[&str]| {
        let flags =
            ["train", "--model", text(model), "--data", text(&texts), "--max-steps", "1", "--output", text(out)];
        align(&[&flags[..], more].concat()).ok()
    };
    let on = |model: &Path, run: &Path, more: &[&str]| {
        let flags = ["generate", "--model", text(model), "--adapter", text(run), "--prompt", "Hi", "--json"];
        align(&[&flags[..], &["--max-new-tokens", "1"], more].concat())
    };
    let plain = folder.path().join("plain");
    train(&bare, &plain, &[]);
    let gained = on(&with, &plain, &[]).ok();
    assert!(gained.stderr.contains("was made without a chat template"), "{}", gained.stderr);
    assert!(!on(&bare, &plain, &[]).ok().stderr.contains("chat template"));

    let chat = folder.path().join("chat");
    train(&with, &chat, &["--chat", "--system", "Be brief."]);
    assert!(!on(&with, &chat, &[]).ok().stderr.contains("warning: "));
    let own = chat.join("chat_template.jinja");
    let source = fs::read_to_string(&own).unwrap();
    fs::write(&own, format!("{source} ")).unwrap();
    let edited = on(&with, &chat, &[]).ok();
    assert!(edited.stderr.contains("the chat template has changed since the run"), "{}", edited.stderr);
    fs::remove_file(&own).unwrap();
    assert!(!on(&with, &chat, &[]).ok().stderr.contains("warning: "), "the model's is the same");
    let by_flag = folder.path().join("by-flag");
    train(&with, &by_flag, &["--chat-template", text(&with)]);
    fs::remove_file(by_flag.join("chat_template.jinja")).unwrap();
    let gone = on(&bare, &by_flag, &[]);
    gone.refused(3, &["is gone; give it with --chat-template"]);
    let gone = on(&bare, &chat, &[]);
    gone.refused(3, &["is gone; give it with --chat-template"]);
    on(&bare, &chat, &["--chat-template", text(&with)]).ok();
    // a merged model cannot hold the system text
    let merged = folder.path().join("merged");
    let run = align(&["merge", "--model", text(&with), "--adapter", text(&chat), "--output", text(&merged)]).ok();
    assert!(run.stderr.contains("give it with --system (Be brief.)"), "{}", run.stderr);
    let merged = folder.path().join("merged-plain");
    let run = align(&["merge", "--model", text(&bare), "--adapter", text(&plain), "--output", text(&merged)]).ok();
    assert!(!run.stderr.contains("system text"), "{}", run.stderr);
}

/// Other programs save the tokenizer and the template beside the adapter.
#[test]
fn a_template_beside_the_adapter_of_another_program_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train_with_template(&model(), &out, &case_template(), &[]);
    for name in ["config.toml", "metrics.jsonl"] {
        fs::remove_file(out.join(name)).unwrap();
    }
    let bare = without_template(folder.path());
    let generate = |model: &Path, more: &[&str]| {
        let flags = ["generate", "--model", text(model), "--adapter", text(&out), "--prompt", "Hi there", "--json"];
        let run = align(&[&flags[..], &["--max-new-tokens", "1"], more].concat()).ok();
        (run.json()["prompt_tokens"].as_u64().unwrap(), run.stderr)
    };
    let (tokens, said) = generate(&model(), &[]);
    assert!(tokens == 19 && said.contains("warning: ") && said.contains("another chat template"), "{said}");
    let (tokens, said) = generate(&model(), &["--chat-template", text(&out)]);
    assert!(tokens == 15 && !said.contains("warning: "), "{said}");
    let (tokens, said) = generate(&bare, &[]);
    assert!(tokens == 15 && said.contains("the model has none"), "{said}");
    // the template in tokenizer_config.json, where older programs write it
    let source = fs::read_to_string(out.join("chat_template.jinja")).unwrap();
    fs::remove_file(out.join("chat_template.jinja")).unwrap();
    fs::write(out.join("tokenizer_config.json"), json!({"chat_template": source}).to_string()).unwrap();
    assert_eq!(generate(&bare, &[]).0, 15);
    assert_eq!(generate(&model(), &["--chat-template", text(&out)]).0, 15);
    // the model's own template is not reported
    fs::copy(model().join("tokenizer_config.json"), out.join("tokenizer_config.json")).unwrap();
    let (tokens, said) = generate(&model(), &[]);
    assert!(tokens == 19 && !said.contains("template"), "{said}");
}

/// A run keeps the template for conversations with tools too.
#[test]
fn templates_for_tools_are_kept_and_merged_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template(folder.path());
    let config = model.join("tokenizer_config.json");
    let plain = fs::read_to_string(case_template()).unwrap();
    let tools = format!("{{{{ 'With ' ~ tools[0].function.name ~ '. ' }}}}{plain}");
    let templates = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": tools}]);
    edit_json(&config, |object| object["chat_template"] = templates);
    let tool = json!({"type": "function", "function": {"name": "look_up", "parameters": {}}});
    let mut rows = read_lines(&case_pairs());
    rows[0]["tools"] = json!([tool]);
    let data = lines_in(folder.path(), "tools.jsonl", &rows);
    let (out, merged) = (folder.path().join("run"), folder.path().join("merged"));
    let flags = ["train", "--model", text(&model), "--data", text(&data), "--max-steps", "1", "--max-length", "300"];
    align(&[&flags[..], &["--precision", "f32", "--output", text(&out)]].concat()).ok();
    let prompt_tokens = |model: &Path, more: &[&str]| {
        let flags = ["score", "--model", text(model), "--data", text(&data), "--max-length", "300", "--json"];
        let run = align(&[&flags[..], more].concat()).ok();
        run.json_lines().iter().map(|row| row["prompt_tokens"].clone()).collect::<Vec<_>>()
    };
    let of_model = prompt_tokens(&model, &[]);
    edit_json(&config, |object| object["chat_template"] = "{% for m in messages %}{{ m.content }} {% endfor %}".into());
    assert!(prompt_tokens(&model, &[]) != of_model);
    assert_eq!(prompt_tokens(&model, &["--adapter", text(&out)]), of_model);
    align(&["merge", "--model", text(&model), "--adapter", text(&out), "--output", text(&merged)]).ok();
    assert_eq!(prompt_tokens(&merged, &[]), of_model);
}

/// In saved options, `chat-template = "."` means the folder in which they were saved.
#[test]
fn options_without_their_run_do_not_name_a_template() {
    let folder = tempfile::tempdir().unwrap();
    let (run, model) = (folder.path().join("run"), model());
    train_with_template(&model, &run, &case_template(), &[]);
    let copied = folder.path().join("copied.toml");
    fs::copy(run.join("config.toml"), &copied).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let again = |config: &Path, out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        align(&[&["train", "--config", text(config), "--output", text(&out)][..], more].concat())
    };
    let refused = again(&copied, "refused", &[]);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    let what = "`chat-template = \".\"` means the copy that a run keeps";
    assert!(refused.stderr.contains("copied.toml:") && refused.stderr.contains(what), "{}", refused.stderr);
    let template = run.join("chat_template.jinja");
    again(&copied, "by-flag", &["--chat-template", text(&template)]).ok();
    assert!(!again(&run.join("config.toml"), "same", &[]).ok().stderr.contains("warning: "));
    fs::write(&template, format!("{} ", fs::read_to_string(&template).unwrap())).unwrap();
    let edited = again(&run.join("config.toml"), "edited", &[]).ok();
    assert!(edited.stderr.contains("the chat template beside it is not that of the run"), "{}", edited.stderr);
}

/// Rows of texts need no template, so a broken one disturbs neither the run nor later commands.
#[test]
fn a_model_whose_template_cannot_be_read_serves_texts() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_template(folder.path());
    let unreadable = json!([{"name": "rag", "template": "{{ messages }}"}]);
    edit_json(&model.join("tokenizer_config.json"), |config| config["chat_template"] = unreadable);
    let (data, run, merged) = (texts(folder.path()), folder.path().join("run"), folder.path().join("merged"));
    let [of_model, of_data] = [["--model", text(&model)], ["--data", text(&data)]];
    let train = ["train", "--max-steps", "1", "--output", text(&run)];
    align(&[&train[..], &of_model, &of_data].concat()).ok();
    let of_run = ["--adapter", text(&run)];
    for command in [&["eval"][..], &["score"], &["generate", "--max-new-tokens", "1"], &["inspect"]] {
        let said = align(&[command, &of_model, &of_data, &of_run].concat()).ok().stderr;
        assert!(!said.contains("chat template"), "{command:?}: {said}");
    }
    align(&[&["merge", "--output", text(&merged)][..], &of_model, &of_run].concat()).ok();
}
