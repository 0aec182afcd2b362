//! Chat templates and tokenizers from practice: the tokens are those of transformers 5.23, or the model is refused.

use crate::align::{Run, align, copy_folder, data_case, edit_json, golden_model, lines_in, read_json, write_lines};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A copy of tiny-qwen2 whose files a test changes.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn copy() -> Model {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&golden_model("tiny-qwen2"), folder.path());
        Model { folder }
    }

    /// Makes a copy in which `files` are replaced by the files of a case.
    fn with_case(name: &str, files: &[&str]) -> Model {
        let model = Model::copy();
        for file in files {
            std::fs::write(model.path().join(file), std::fs::read(data_case(name).join(file)).unwrap()).unwrap();
        }
        model
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        edit_json(&self.path().join(file), change);
    }
}

fn inspect(model: &Path, data: &Path, more: &[&str]) -> Run {
    let common =
        ["inspect", "--model", model.to_str().unwrap(), "--data", data.to_str().unwrap(), "--row", "0", "--json"];
    align(&[&common[..], &["--data-cache", "off"], more].concat())
}

fn with_template(template: &Path, data: &Path, more: &[&str]) -> Run {
    inspect(&golden_model("tiny-qwen2"), data, &[&["--chat-template", template.to_str().unwrap()], more].concat())
}

/// Returns the ids and texts of the tokens of the first row: those of its prompt and of its first answer.
fn tokens(run: &Run) -> Vec<(u64, String)> {
    let row = &run.json()["row"][0];
    let list = |value: &Value| value.as_array().unwrap_or_else(|| panic!("{row}")).clone();
    let all = [list(&row["prompt"]), list(&row["answers"][0])].concat();
    all.iter().map(|token| (token[0].as_u64().unwrap(), token[1].as_str().unwrap().to_owned())).collect()
}

/// Returns the text of these tokens. GPT-2's letters for line ends, carriage returns and spaces become these characters again.
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
    let data = data_case("crlf-template").join("row.jsonl");
    let lf = tokens(&with_template(&data_case("crlf-template").join("lf.jinja"), &data, &[]).ok());
    assert!(lf.iter().all(|(_, token)| !token.contains('č')), "{lf:?}");
    let crlf = with_template(&data_case("crlf-template").join("chat_template.jinja"), &data, &[]).ok();
    assert_eq!(tokens(&crlf), lf);
    let model = Model::with_case("crlf-template", &["tokenizer_config.json"]);
    assert_eq!(tokens(&inspect(model.path(), &data, &[]).ok()), lf);

    // the template in a file beside the model, with CR alone, in a list of named templates, in the template for tools
    let source = std::fs::read_to_string(data_case("crlf-template").join("chat_template.jinja")).unwrap();
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
    let with_tools = lines_in(folder.path(), "tools.jsonl", &[row]);
    assert_eq!(tokens(&inspect(of_tools.path(), &with_tools, &[]).ok()), lf);
}

/// Escapes that are written in the template stay, and so do the carriage returns of the data.
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
    let folder = data_case("namespace-in-macro");
    let data = folder.join("messages.jsonl");
    let expected = "<|im_start|>user q<|im_end|><|im_start|>assistant a<|im_end|>\
                    <|im_start|>user r<|im_end|><|im_start|>assistant b<|im_end|>";
    let of_macro = with_template(&folder.join("macro.jinja"), &data, &[]).ok();
    assert_eq!(text(&of_macro), expected);
    let generation = with_template(&folder.join("generation.jinja"), &data, &["--sft-on", "assistant"]).ok();
    assert_eq!(text(&generation), expected);
    // two answers of 2 tokens each, `<|im_end|>` included
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
        // the namespace is set after the macro, which is called later
        "{% macro see(m) %}{% set ns.n = m.content %}{% endmacro %}{% set ns = namespace(n='') %}\
         {% for m in messages %}<|im_start|>{{ m.role }} {{ see(m) }}{{ ns.n }}<|im_end|>{% endfor %}",
        // names that occur only in a filter's arguments or on the right side of their own assignment
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
    let folder = data_case("indent-filter");
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

/// Returns the entry of an added token, as in tokenizer.json and tokenizer_config.json.
fn added(content: &str) -> Value {
    json!({"content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true})
}

fn ids(run: &Run) -> Vec<u64> {
    tokens(run).into_iter().map(|(id, _)| id).collect()
}

const START: u64 = 510;
const END: u64 = 511;

/// Returns the token ids that the unchanged tiny model gives the row in `data`.
fn as_they_came(data: &Path) -> Vec<u64> {
    let whole = ids(&inspect(&golden_model("tiny-qwen2"), data, &[]).ok());
    assert_eq!(whole.iter().filter(|id| **id == START).count(), 3);
    whole
}

#[test]
fn added_tokens_have_the_ids_of_their_files() {
    let data = data_case("added-token-ids").join("row.jsonl");
    let expected = as_they_came(&data);
    let cut = || Model::with_case("added-token-ids", &["tokenizer.json"]);
    assert_eq!(ids(&inspect(cut().path(), &data, &[]).ok()), expected);

    // the older form of the list; a list in reverse order; then an id that no file gives
    let older = cut();
    older.edit("tokenizer_config.json", |config| _ = config.as_object_mut().unwrap().remove("added_tokens_decoder"));
    older.edit("added_tokens.json", |list| *list = json!({"<|im_start|>": START, "<|im_end|>": END}));
    let turned = Model::copy();
    turned.edit("tokenizer.json", |file| file["added_tokens"].as_array_mut().unwrap().reverse());
    for model in [&older, &turned] {
        assert_eq!(ids(&inspect(model.path(), &data, &[]).ok()), expected);
    }
    std::fs::remove_file(older.path().join("added_tokens.json")).unwrap();
    let gap = ids(&inspect(older.path(), &data, &[]).ok());
    assert!(gap.contains(&END) && !gap.contains(&START), "{gap:?}");
}

#[test]
fn added_tokens_whose_ids_contradict_are_refused() {
    let data = data_case("added-token-ids").join("row.jsonl");
    let refused = |words: &[&str], change: &dyn Fn(&Model)| {
        let model = Model::copy();
        change(&model);
        let run = inspect(model.path(), &data, &[]);
        assert_eq!(run.code, Some(3), "{}", run.stderr);
        for word in words {
            assert!(run.stderr.contains(word), "{word}: {}", run.stderr);
        }
    };
    refused(
        &["`<|im_start|>`", "id 510 in added_tokens of tokenizer.json", "id 512 in added_tokens_decoder"],
        &|model| {
            model.edit("tokenizer_config.json", |config| {
                let decoder = config["added_tokens_decoder"].as_object_mut().unwrap();
                decoder.remove("510");
                decoder.insert("512".to_owned(), added("<|im_start|>"));
            });
        },
    );
    refused(&["id 511", "`<|im_end|>`", "`<|dup|>`"], &|model| {
        model.edit("tokenizer.json", |file| {
            let mut dup = added("<|dup|>");
            dup["id"] = json!(END);
            file["added_tokens"].as_array_mut().unwrap().push(dup);
        });
    });
    refused(&["`ke`", "id 512", "id 300 in the vocabulary"], &|model| {
        model.edit("tokenizer.json", |file| {
            let mut in_vocabulary = added("ke");
            in_vocabulary["id"] = json!(512);
            file["added_tokens"].as_array_mut().unwrap().push(in_vocabulary);
        });
    });
    refused(&["id 300", "`<|x|>`", "`ke`"], &|model| {
        model.edit("tokenizer_config.json", |config| config["added_tokens_decoder"]["300"] = added("<|x|>"));
    });
    refused(&["added_tokens_decoder: `x` is not an id"], &|model| {
        model.edit("tokenizer_config.json", |config| config["added_tokens_decoder"]["x"] = added("<|x|>"));
    });
}

/// `added_tokens_decoder` decides whether the space after a token becomes part of the token. In transformers 5.23 it does with
/// `rstrip`, so token 510 is followed by `user`.
#[test]
fn the_decoder_of_added_tokens_says_how_they_are_matched() {
    let folder = tempfile::tempdir().unwrap();
    let template =
        written(&folder, "t.jinja", "{% for m in messages %}<|im_start|>  \n{{ m.content }}<|im_end|>{% endfor %}");
    let data = data_case("added-token-ids").join("row.jsonl");
    let model = Model::copy();
    let run = || inspect(model.path(), &data, &["--chat-template", template.to_str().unwrap()]).ok();
    assert!(text(&run()).starts_with("<|im_start|>  \nq"), "{}", text(&run()));
    model.edit("tokenizer_config.json", |config| config["added_tokens_decoder"]["510"]["rstrip"] = json!(true));
    assert!(text(&run()).starts_with("<|im_start|>q<|im_end|>"), "{}", text(&run()));
}

#[test]
fn listed_special_tokens_are_whole() {
    let data = data_case("listed-special-tokens").join("row.jsonl");
    let expected = as_they_came(&data);
    let case_model = || Model::with_case("listed-special-tokens", &["tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(ids(&inspect(case_model().path(), &data, &[]).ok()), expected);

    type Change = fn(&Model);
    let changes: [Change; 6] = [
        |model| model.edit("tokenizer_config.json", |c| c["extra_special_tokens"] = json!(["<|im_start|>"])),
        |model| model.edit("tokenizer_config.json", |c| c["extra_special_tokens"] = json!({"start": "<|im_start|>"})),
        |model| {
            model.edit("tokenizer_config.json", |c| c["additional_special_tokens"] = json!([added("<|im_start|>")]))
        },
        |model| {
            model.edit("tokenizer_config.json", |c| {
                c["additional_special_tokens"] = json!([{"content": "<|im_start|>"}])
            })
        },
        |model| model.edit("tokenizer_config.json", |c| c["added_tokens_decoder"]["510"] = added("<|im_start|>")),
        |model| {
            model.edit("tokenizer_config.json", |c| _ = c.as_object_mut().unwrap().remove("added_tokens_decoder"));
            model.edit("special_tokens_map.json", |map| map["additional_special_tokens"] = json!(["<|im_start|>"]));
        },
    ];
    for (i, change) in changes.iter().enumerate() {
        let model = case_model();
        model.edit("tokenizer_config.json", |c| _ = c.as_object_mut().unwrap().remove("additional_special_tokens"));
        assert_ne!(ids(&inspect(model.path(), &data, &[]).ok()), expected, "{i}: nothing names it");
        change(&model);
        assert_eq!(ids(&inspect(model.path(), &data, &[]).ok()), expected, "{i}");
    }
}

/// transformers makes up an id for a token that the vocabulary lacks; the model has no embedding for it.
#[test]
fn a_listed_token_without_an_id_refuses_the_rows_that_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let template = written(&folder, "t.jinja", "{% for m in messages %}<|novel|>{{ m.content }}<|im_end|>{% endfor %}");
    let data = data_case("added-token-ids").join("row.jsonl");
    let lists = [
        json!({"additional_special_tokens": ["<|novel|>"]}),
        json!({"extra_special_tokens": [{"content": "<|novel|>"}]}),
    ];
    for list in lists {
        let model = Model::copy();
        model.edit("tokenizer_config.json", |config| {
            config.as_object_mut().unwrap().extend(list.as_object().unwrap().clone())
        });
        assert_eq!(ids(&inspect(model.path(), &data, &[]).ok()), as_they_came(&data));
        let run = inspect(model.path(), &data, &["--chat-template", template.to_str().unwrap()]);
        run.refused(3, &["`<|novel|>`", "_special_tokens"]);
    }
    // a token with an id beyond the embedding
    let model = Model::copy();
    model.edit("tokenizer_config.json", |config| config["added_tokens_decoder"]["512"] = added("<|novel|>"));
    assert_eq!(ids(&inspect(model.path(), &data, &[]).ok()), as_they_came(&data));
    let run = inspect(model.path(), &data, &["--chat-template", template.to_str().unwrap()]);
    run.refused(3, &["`<|novel|>` (id 512)"]);
}

/// An unreadable template is a fault if rows have turns, but not if they are texts.
#[test]
fn a_template_is_a_fault_only_where_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let texts = lines_in(folder.path(), "texts.jsonl", &[json!({"prompt": "q", "chosen": " a", "rejected": " b"})]);
    let turns = data_case("added-token-ids").join("row.jsonl");
    let source = read_json(&golden_model("tiny-qwen2").join("tokenizer_config.json"))["chat_template"].clone();
    for broken in [json!({"rag": source}), json!(3), json!([{"name": "rag", "template": source}]), json!("{% if %}")] {
        let model = Model::copy();
        model.edit("tokenizer_config.json", |config| config["chat_template"] = broken.clone());
        inspect(model.path(), &texts, &[]).ok();
        let run = inspect(model.path(), &turns, &[]);
        assert_eq!(run.code, Some(3), "{broken}: {}", run.stderr);
        for words in ["row.jsonl:1", "tokenizer_config.json", "--chat-template"] {
            assert!(run.stderr.contains(words), "{broken}: {}", run.stderr);
        }
        let run =
            align(&["generate", "--model", model.path().to_str().unwrap(), "--prompt", "q", "--max-new-tokens", "1"]);
        assert_eq!(run.code, Some(3), "{broken}: {}", run.stderr);
    }
    // transformers also reads an object of templates by name
    let model = Model::copy();
    model.edit("tokenizer_config.json", |config| config["chat_template"] = json!({"rag": "x", "default": source}));
    assert_eq!(ids(&inspect(model.path(), &turns, &[]).ok()), as_they_came(&turns));
}
