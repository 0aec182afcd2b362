//! Chat templates and tokenizers as people have them: the tokens are those of transformers 5.23, or the model is refused.

use crate::align::{Run, align, committed_goldens, read_json, root, write_lines};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn case(name: &str) -> PathBuf {
    root().join("tests/cases/data").join(name)
}

fn tiny_qwen2() -> PathBuf {
    committed_goldens().join("tiny-qwen2/model")
}

/// A copy of a tiny model, with files of its own.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn copy() -> Model {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(tiny_qwen2()).unwrap() {
            let file = file.unwrap();
            std::fs::write(folder.path().join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
        }
        Model { folder }
    }

    /// With the files of a case over its own.
    fn with_case(name: &str, files: &[&str]) -> Model {
        let model = Model::copy();
        for file in files {
            std::fs::write(model.path().join(file), std::fs::read(case(name).join(file)).unwrap()).unwrap();
        }
        model
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(file);
        let mut value = if path.exists() { read_json(&path) } else { json!({}) };
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }
}

fn inspect(model: &Path, data: &Path, more: &[&str]) -> Run {
    let common =
        ["inspect", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--row", "0", "--json"];
    align(&[&common[..], &["--data-cache", "off"], more].concat())
}

fn with_template(template: &Path, data: &Path, more: &[&str]) -> Run {
    inspect(&tiny_qwen2(), data, &[&["--chat-template", template.to_str().unwrap()], more].concat())
}

/// The tokens of the first row, prompt and first answer, as ids and texts.
fn tokens(run: &Run) -> Vec<(u64, String)> {
    let row = &run.json()["row"][0];
    let list = |value: &Value| value.as_array().unwrap_or_else(|| panic!("{row}")).clone();
    let all = [list(&row["prompt"]), list(&row["answers"][0])].concat();
    all.iter().map(|token| (token[0].as_u64().unwrap(), token[1].as_str().unwrap().to_owned())).collect()
}

/// Their text, by GPT-2's letters for line ends, carriage returns and spaces.
fn text(run: &Run) -> String {
    let spelled: String = tokens(run).into_iter().map(|(_, token)| token).collect();
    spelled.replace('Ċ', "\n").replace('č', "\r").replace('Ġ', " ")
}

fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_template_with_windows_line_ends_is_one_with_line_feeds() {
    let data = case("crlf-template").join("row.jsonl");
    let lf = tokens(&with_template(&case("crlf-template").join("lf.jinja"), &data, &[]).ok());
    assert!(lf.iter().all(|(_, token)| !token.contains('č')), "{lf:?}");
    let crlf = with_template(&case("crlf-template").join("chat_template.jinja"), &data, &[]).ok();
    assert_eq!(tokens(&crlf), lf);
    let model = Model::with_case("crlf-template", &["tokenizer_config.json"]);
    assert_eq!(tokens(&inspect(model.path(), &data, &[]).ok()), lf);

    // beside the model, CR alone, in a list of named templates, in the template for tools
    let source = std::fs::read_to_string(case("crlf-template").join("chat_template.jinja")).unwrap();
    let beside = Model::copy();
    std::fs::write(beside.path().join("chat_template.jinja"), &source).unwrap();
    let cr_alone = Model::copy();
    std::fs::write(cr_alone.path().join("chat_template.jinja"), source.replace('\n', "")).unwrap();
    let list = Model::copy();
    list.edit("tokenizer_config.json", |config| {
        config["chat_template"] =
            json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": source}]);
    });
    for model in [beside, cr_alone, list] {
        assert_eq!(tokens(&inspect(model.path(), &data, &[]).ok()), lf);
    }
    let of_tools = Model::copy();
    std::fs::create_dir(of_tools.path().join("additional_chat_templates")).unwrap();
    std::fs::write(of_tools.path().join("chat_template.jinja"), "not this").unwrap();
    std::fs::write(of_tools.path().join("additional_chat_templates/tool_use.jinja"), &source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut row = crate::align::read_lines(&data).remove(0);
    row["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let with_tools = folder.path().join("tools.jsonl");
    write_lines(&with_tools, &[row]);
    assert_eq!(tokens(&inspect(of_tools.path(), &with_tools, &[]).ok()), lf);
}

/// What is written out as an escape stays, and so do the carriage returns of the data.
#[test]
fn carriage_returns_that_are_meant_stay() {
    let folder = tempfile::tempdir().unwrap();
    let template =
        written(&folder, "t.jinja", "{% for m in messages %}\r\n{{ m.content + '\\r\\n' }}<|im_end|>{% endfor %}\r\n");
    let data = folder.path().join("d.jsonl");
    write_lines(
        &data,
        &[json!({"messages": [
            {"role": "user", "content": "a\r\nb\rc"}, {"role": "assistant", "content": "d"},
        ]})],
    );
    let run = with_template(&template, &data, &["--sft-on", "all"]).ok();
    assert_eq!(text(&run), "a\r\nb\rc\r\n<|im_end|>d\r\n<|im_end|>");
}

#[test]
fn a_namespace_that_a_macro_only_writes_to_is_found() {
    let folder = case("namespace-in-macro");
    let data = folder.join("messages.jsonl");
    let expected = "<|im_start|>user q<|im_end|><|im_start|>assistant a<|im_end|>\
                    <|im_start|>user r<|im_end|><|im_start|>assistant b<|im_end|>";
    let of_macro = with_template(&folder.join("macro.jinja"), &data, &[]).ok();
    assert_eq!(text(&of_macro), expected);
    let generation = with_template(&folder.join("generation.jinja"), &data, &["--sft-on", "assistant"]).ok();
    assert_eq!(text(&generation), expected);
    // each answer with its end: 2 tokens and 2 tokens
    assert_eq!(generation.json()["data"]["scored_tokens"], 4, "{}", generation.stdout);

    // nested macros, call blocks, loops and filter blocks, several namespaces, one as an argument, a block as the value
    for template in [
        "{% set ns = namespace(n='') %}{% macro out(m) %}{% macro see(x) %}{% set ns.n = x.role %}{{ x.content }}{% endmacro %}\
         {{ see(m) }}{% endmacro %}{% for m in messages %}<|im_start|>{{ m.role }} {{ out(m) }}<|im_end|>{% endfor %}",
        "{% set ns = namespace(n='') %}{% macro box() %}<|im_start|>{{ caller() }}<|im_end|>{% endmacro %}\
         {% for m in messages %}{% call box() %}{% for c in ['x'] %}{% set ns.n = c %}{% endfor %}{{ m.role }} {{ m.content }}{% endcall %}{% endfor %}",
        "{% set a = namespace(n='') %}{% set b = namespace(n='') %}{% macro see(m) %}{% set a.n = m.role %}\
         {% filter trim %}{% set b.n %}{{ m.content }}{% endset %}{{ a.n }} {% endfilter %} {% endmacro %}\
         {% for m in messages %}<|im_start|>{{ see(m) }}{{ b.n }}<|im_end|>{% endfor %}",
        "{% set ns = namespace(n='') %}{% macro see(into, m) %}{% set into.n = m.content %}{% endmacro %}\
         {% for m in messages %}<|im_start|>{{ m.role }} {{ see(ns, m) }}{{ ns.n }}<|im_end|>{% endfor %}",
        // set after the macro, as the macro is called later
        "{% macro see(m) %}{% set ns.n = m.content %}{% endmacro %}{% set ns = namespace(n='') %}\
         {% for m in messages %}<|im_start|>{{ m.role }} {{ see(m) }}{{ ns.n }}<|im_end|>{% endfor %}",
        // names that only a filter's arguments or the right side of their own assignment hold
        "{% set from = 'X' %}{% set end = '<|im_end|>' %}{% macro see(m) %}{% filter replace(from, m.content) %}X{% endfilter %}\
         {% set end = '' ~ end %}{{ end }}{% endmacro %}{% for m in messages %}<|im_start|>{{ m.role }} {{ see(m) }}{% endfor %}",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = with_template(&written(&folder, "t.jinja", template), &data, &[]).ok();
        assert_eq!(text(&run), expected, "{template}");
    }
}

#[test]
fn indent_is_that_of_jinja2() {
    let folder = case("indent-filter");
    let data = folder.join("messages.jsonl");
    let run = with_template(&folder.join("indent.jinja"), &data, &[]).ok();
    assert_eq!(text(&run), "<|im_start|>user q<|im_end|><|im_start|>assistant a\n  b\n<|im_end|>");
    for (filter, expected) in [
        ("indent('> ')", "a\n> b\n"),
        ("indent", "a\n    b\n"),
        ("indent(2, true)", "  a\n  b\n"),
        ("indent(width='- ', first=true, blank=true)", "- a\n- b\n- "),
        ("indent(2, blank=true)", "a\n  b\n  "),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("{{% for m in messages %}}{{{{ m.content | {filter} }}}}|{{% endfor %}}");
        let run = with_template(&written(&folder, "t.jinja", &source), &data, &[]).ok();
        assert!(text(&run).ends_with(&format!("|{expected}|")), "{filter}: {:?}", text(&run));
    }
}
