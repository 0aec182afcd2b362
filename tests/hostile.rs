//! Files from outside that are broken or contradict themselves end a command with an exit code and a message that names the file,
//! the line or the tensor. They cause no panic and no half-written file.

use crate::align::{Run, align, committed_goldens, copy_folder, edit_json};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Copies of a model (tiny-llama, or tiny-qwen2 if its weights must be a single file), of an adapter and of rows, to be broken.
struct Sandbox {
    folder: tempfile::TempDir,
}

const GOOD_ROW: &str = r#"{"prompt": "Say hi.", "chosen": " hi", "rejected": " no"}"#;

impl Sandbox {
    fn new(model: &str) -> Sandbox {
        let folder = tempfile::tempdir().unwrap();
        for part in ["model", "adapter"] {
            copy_folder(&committed_goldens().join(model).join(part), &folder.path().join(part));
        }
        std::fs::write(folder.path().join("rows.jsonl"), format!("{GOOD_ROW}\n")).unwrap();
        Sandbox { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Changes a JSON file in place.
    fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        edit_json(&self.path(name), change);
    }

    /// Runs `score` on the rows with the adapter. This command reads every kind of file.
    fn score(&self, more: &[&str]) -> Run {
        let text = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let (model, adapter, rows) = (text("model"), text("adapter"), text("rows.jsonl"));
        let common =
            ["score", "--model", &model, "--adapter", &adapter, "--data", &rows, "--json", "--max-length", "64"];
        align(&[&common[..], more].concat())
    }
}

/// Checks that the run failed with this code and without a panic, and that stderr contains every part.
fn assert_refused(what: &str, run: &Run, code: i32, parts: &[&str]) {
    assert_eq!(run.code, Some(code), "{what}: {}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{what}: the message lacks {part:?}: {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{what}: {}", run.stderr);
}

#[test]
fn the_sandbox_itself_is_sound() {
    for model in ["tiny-llama", "tiny-qwen2"] {
        let run = Sandbox::new(model).score(&[]).ok();
        assert_eq!(run.json_lines().len(), 1);
    }
}

/// Name of a case, a function that breaks something, and parts of the message.
type Case = (&'static str, fn(&Sandbox), &'static [&'static str]);

fn check(model: &str, cases: &[Case]) {
    for (what, break_it, parts) in cases {
        let sandbox = Sandbox::new(model);
        break_it(&sandbox);
        assert_refused(what, &sandbox.score(&[]), 3, parts);
    }
}

/// Makes a safetensors file with this header and `data` bytes of zeros.
fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

const WEIGHTS: &str = "model/model.safetensors";
const INDEX: &str = "model/model.safetensors.index.json";

/// Changes the header of tiny-qwen2's weights in place.
fn change_header(sandbox: &Sandbox, change: fn(&mut Value)) {
    let bytes = std::fs::read(sandbox.path(WEIGHTS)).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    change(&mut header);
    let mut changed = safetensors(&header.to_string(), 0);
    changed.extend_from_slice(&bytes[8 + len..]);
    sandbox.write(WEIGHTS, changed);
}

#[test]
fn broken_weights_are_refused() {
    check(
        "tiny-qwen2",
        &[
            ("empty file", |s| s.write(WEIGHTS, ""), &["model.safetensors", "8 bytes"]),
            (
                "truncated",
                |s| {
                    let bytes = std::fs::read(s.path(WEIGHTS)).unwrap();
                    s.write(WEIGHTS, &bytes[..bytes.len() / 2]);
                },
                &["model.safetensors", "truncated"],
            ),
            ("header of length 0", |s| s.write(WEIGHTS, safetensors("", 8)), &["model.safetensors"]),
            (
                "header of length 2^63",
                |s| s.write(WEIGHTS, (1u64 << 63).to_le_bytes()),
                &["model.safetensors", "claims"],
            ),
            ("header that is no JSON", |s| s.write(WEIGHTS, safetensors("{", 8)), &["model.safetensors", "JSON"]),
            (
                "JSON depth bomb",
                |s| s.write(WEIGHTS, safetensors(&"[".repeat(100_000), 8)),
                &["model.safetensors", "JSON"],
            ),
            (
                "overlapping tensors",
                |s| {
                    change_header(s, |h| {
                        let offsets = h["model.embed_tokens.weight"]["data_offsets"].clone();
                        h["model.layers.0.input_layernorm.weight"]["data_offsets"][0] = offsets[0].clone();
                    })
                },
                &["model.safetensors", "tensor `"],
            ),
            (
                "a shape that lies",
                |s| change_header(s, |h| h["model.norm.weight"]["shape"] = json!([65])),
                &["model.norm.weight"],
            ),
            (
                "a shape that overflows",
                |s| {
                    change_header(s, |h| {
                        h["model.norm.weight"]["shape"] = json!([u64::MAX, 2]);
                    })
                },
                &["model.norm.weight"],
            ),
            (
                "an unknown dtype",
                |s| change_header(s, |h| h["model.norm.weight"]["dtype"] = json!("F7")),
                &["model.norm.weight"],
            ),
            (
                "a dtype that is not supported",
                |s| {
                    change_header(s, |h| {
                        h["model.norm.weight"]["dtype"] = json!("I16");
                    })
                },
                &["model.norm.weight", "I16", "supported"],
            ),
            (
                "a missing tensor",
                |s| {
                    change_header(s, |h| {
                        let tensor = h.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
                        h["other"] = tensor;
                    })
                },
                &["model.norm.weight", "config.json"],
            ),
            (
                "NaN in a weight",
                |s| {
                    let mut bytes = std::fs::read(s.path(WEIGHTS)).unwrap();
                    let end = bytes.len();
                    bytes[end - 2..].copy_from_slice(&0x7fc0u16.to_le_bytes());
                    s.write(WEIGHTS, bytes);
                },
                &["model.safetensors", "NaN", "element"],
            ),
            (
                "another model's config.json",
                |s| s.edit("model/config.json", |c| c["hidden_size"] = json!(128)),
                &["config.json", "tensor `"],
            ),
        ],
    );
}

#[test]
fn broken_indices_are_refused() {
    check(
        "tiny-llama",
        &[
            (
                "a missing shard",
                |s| {
                    std::fs::remove_file(s.path("model/model-00002-of-00002.safetensors")).unwrap();
                },
                &["index.json", "model-00002-of-00002.safetensors", "missing"],
            ),
            (
                "a shard above the directory",
                |s| {
                    s.edit(INDEX, |i| {
                        i["weight_map"]["model.norm.weight"] = json!("../model.safetensors");
                    })
                },
                &["index.json", "model.norm.weight", "../model.safetensors"],
            ),
            (
                "an absolute shard",
                |s| {
                    s.edit(INDEX, |i| {
                        i["weight_map"]["model.norm.weight"] = json!("/etc/passwd");
                    })
                },
                &["index.json", "model.norm.weight"],
            ),
            ("an index that is no JSON", |s| s.write(INDEX, "{"), &["index.json"]),
        ],
    );
}

#[test]
fn broken_configurations_are_refused() {
    const CONFIG: &str = "model/config.json";
    check(
        "tiny-qwen2",
        &[
            ("no config.json", |s| std::fs::remove_file(s.path(CONFIG)).unwrap(), &["config.json"]),
            ("broken JSON", |s| s.write(CONFIG, "{\"model_type\": "), &["config.json"]),
            (
                "unknown architecture",
                |s| {
                    s.edit(CONFIG, |c| {
                        c["model_type"] = json!("mamba");
                        c["architectures"] = json!(["MambaForCausalLM"]);
                    })
                },
                &["config.json", "mamba", "LlamaForCausalLM"],
            ),
            (
                "an unknown rope",
                |s| {
                    s.edit(CONFIG, |c| {
                        c["rope_scaling"] = json!({"rope_type": "spiral", "factor": 2.0});
                    })
                },
                &["config.json", "spiral"],
            ),
            (
                "heads that do not divide",
                |s| s.edit(CONFIG, |c| c["num_attention_heads"] = json!(5)),
                &["num_attention_heads"],
            ),
            (
                "more key-value heads than heads",
                |s| {
                    s.edit(CONFIG, |c| {
                        c["num_key_value_heads"] = json!(8);
                    })
                },
                &["num_key_value_heads"],
            ),
            (
                "a billion layers",
                |s| s.edit(CONFIG, |c| c["num_hidden_layers"] = json!(1_000_000_000)),
                &["num_hidden_layers"],
            ),
            (
                "a size that is text",
                |s| s.edit(CONFIG, |c| c["hidden_size"] = json!("64")),
                &["config.json", "hidden_size"],
            ),
            (
                "a missing size",
                |s| {
                    s.edit(CONFIG, |c| {
                        c.as_object_mut().unwrap().remove("hidden_size");
                    })
                },
                &["config.json", "hidden_size"],
            ),
            (
                "a vocabulary larger than the embedding",
                |s| {
                    s.edit("model/tokenizer.json", |t| {
                        t["model"]["vocab"]["zzzz"] = json!(9999);
                    })
                },
                &["tokenizer.json"],
            ),
            ("no tokenizer", |s| std::fs::remove_file(s.path("model/tokenizer.json")).unwrap(), &["tokenizer.json"]),
            ("a tokenizer that is no JSON", |s| s.write("model/tokenizer.json", "[]"), &["tokenizer.json"]),
        ],
    );
}

const TURNS: &str = r#"{"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "Yes"}], "rejected": [{"role": "assistant", "content": "No"}]}"#;

#[test]
fn broken_templates_are_refused() {
    fn with_template(s: &Sandbox, template: &str) {
        s.write("rows.jsonl", TURNS);
        s.write("model/chat_template.jinja", template);
    }
    check(
        "tiny-qwen2",
        &[
            (
                "no template for a conversation",
                |s| {
                    s.write("rows.jsonl", TURNS);
                    s.edit("model/tokenizer_config.json", |c| {
                        c.as_object_mut().unwrap().remove("chat_template");
                    });
                },
                &["rows.jsonl:1", "--chat-template"],
            ),
            (
                "a template that loops",
                |s| {
                    with_template(
                        s,
                        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
                    );
                },
                &["rows.jsonl:1"],
            ),
            (
                "a template that calls itself",
                |s| {
                    with_template(s, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
                },
                &["rows.jsonl:1"],
            ),
            (
                "a template that prints without end",
                |s| {
                    with_template(s, "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}");
                },
                &["rows.jsonl:1"],
            ),
            (
                "a template that refuses the row",
                |s| {
                    with_template(s, "{{ raise_exception('only cats may speak') }}");
                },
                &["rows.jsonl:1", "only cats may speak"],
            ),
            ("a template that is no template", |s| with_template(s, "{% if %}"), &["chat_template.jinja"]),
        ],
    );
}

/// Bad rows: a name, the line, and part of the message. With `--on-bad-row skip` the good row beside a bad one is kept.
const BAD_ROWS: &[(&str, &[u8], &str)] = &[
    ("invalid UTF-8", b"{\"prompt\": \"\xff\", \"chosen\": \" a\", \"rejected\": \" b\"}", "UTF-8"),
    ("broken JSON", b"{\"prompt\": ", "JSON"),
    ("no object", b"[1, 2]", "object"),
    ("a missing field", b"{\"prompt\": \"a\", \"chosen\": \"b\"}", "rejected"),
    ("a null answer", b"{\"prompt\": \"a\", \"chosen\": null, \"rejected\": \" b\"}", "null"),
    ("equal answers", b"{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" b\"}", "equal"),
    ("an answer that is a number", b"{\"prompt\": \"a\", \"chosen\": 3, \"rejected\": \" b\"}", "chosen"),
    ("a label that is text", b"{\"prompt\": \"a\", \"completion\": \" b\", \"label\": \"true\"}", "label"),
    ("a label that is a number", b"{\"prompt\": \"a\", \"completion\": \" b\", \"label\": 1}", "label"),
    ("another shape", b"{\"prompt\": \"a\", \"completion\": \" b\", \"label\": true}", "the first row"),
    ("unknown columns", b"{\"question\": \"a\", \"answer\": \"b\"}", "shape"),
];

#[test]
fn bad_rows_end_the_run_or_are_counted() {
    for (what, row, part) in BAD_ROWS {
        let sandbox = Sandbox::new("tiny-llama");
        let rows = [GOOD_ROW.as_bytes(), b"\r\n", row, b"\n", GOOD_ROW.as_bytes(), b"\n"].concat();
        sandbox.write("rows.jsonl", rows);
        assert_refused(what, &sandbox.score(&[]), 3, &["rows.jsonl:2", part]);

        let run = sandbox.score(&["--on-bad-row", "skip"]).ok();
        let lines = run.json_lines();
        assert_eq!(lines.len(), 3, "{what}");
        assert!(lines[0].get("chosen").is_some() && lines[2].get("chosen").is_some(), "{what}: the good rows are kept");
        assert!(lines[1]["dropped"].as_str().unwrap().contains(part), "{what}: {}", lines[1]);
        assert!(run.stderr.contains("dropped 1"), "{what}: {}", run.stderr);
    }
}

#[test]
fn a_line_of_a_megabyte_is_a_row_like_any_other() {
    let sandbox = Sandbox::new("tiny-llama");
    let long = "word ".repeat(200_000);
    sandbox.write("rows.jsonl", format!("{GOOD_ROW}\n{}\n", json!({"prompt": "a", "chosen": long, "rejected": " b"})));
    let lines = sandbox.score(&[]).ok().json_lines();
    assert_eq!(lines[1]["prompt_tokens"].as_u64().unwrap() + lines[1]["chosen"]["tokens"].as_u64().unwrap(), 64);
}

#[test]
fn broken_adapters_are_refused() {
    const CONFIG: &str = "adapter/adapter_config.json";
    const TENSORS: &str = "adapter/adapter_model.safetensors";
    check(
        "tiny-llama",
        &[
            ("no config", |s| std::fs::remove_file(s.path(CONFIG)).unwrap(), &["adapter_config.json"]),
            ("no tensors", |s| std::fs::remove_file(s.path(TENSORS)).unwrap(), &["adapter_model.safetensors"]),
            (
                "truncated tensors",
                |s| {
                    let bytes = std::fs::read(s.path(TENSORS)).unwrap();
                    s.write(TENSORS, &bytes[..bytes.len() - 100]);
                },
                &["adapter_model.safetensors"],
            ),
            ("another rank", |s| s.edit(CONFIG, |c| c["r"] = json!(4)), &["adapter_model.safetensors", "rank"]),
            (
                "another model's adapter",
                |s| {
                    std::fs::copy(
                        committed_goldens().join("tiny-qwen3/adapter/adapter_model.safetensors"),
                        s.path(TENSORS),
                    )
                    .unwrap();
                },
                &["adapter_model.safetensors", "another model"],
            ),
            ("alpha 0", |s| s.edit(CONFIG, |c| c["lora_alpha"] = json!(0)), &["adapter_config.json", "lora_alpha"]),
            ("DoRA", |s| s.edit(CONFIG, |c| c["use_dora"] = json!(true)), &["adapter_config.json", "use_dora"]),
            (
                "modules_to_save",
                |s| {
                    s.edit(CONFIG, |c| {
                        c["modules_to_save"] = json!(["lm_head"]);
                    })
                },
                &["adapter_config.json", "modules_to_save"],
            ),
            (
                "lm_head",
                |s| {
                    s.edit(CONFIG, |c| {
                        c["target_modules"] = json!(["q_proj", "lm_head"]);
                    })
                },
                &["adapter_config.json", "lm_head"],
            ),
            (
                "another method",
                |s| s.edit(CONFIG, |c| c["peft_type"] = json!("LOHA")),
                &["adapter_config.json", "LOHA"],
            ),
            (
                "an unknown option",
                |s| s.edit(CONFIG, |c| c["use_magic"] = json!(true)),
                &["adapter_config.json", "use_magic"],
            ),
            ("broken JSON", |s| s.write(CONFIG, "{"), &["adapter_config.json"]),
        ],
    );
}

#[test]
fn a_model_that_is_nowhere_is_a_usage_error() {
    let run = align(&["score", "--model", "./no/such/model", "--data", "rows.jsonl"]);
    assert_refused("no such directory", &run, 2, &["./no/such/model"]);
}

/// `train` and `merge` on a full file system end with exit code 1, and earlier files stay.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_files() {
    use std::os::unix::process::CommandExt;
    let sandbox = Sandbox::new("tiny-llama");
    let text = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let (model, adapter, merged) = (text("model"), text("adapter"), text("merged"));
    let rows = committed_goldens().join("pairs.jsonl");
    let old = std::fs::read(sandbox.path("adapter/adapter_model.safetensors")).unwrap();
    let limited = |arguments: &[&str]| -> Run {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_align-cli"));
        command.args(arguments).env("XDG_CACHE_HOME", sandbox.path("caches"));
        // SAFETY: the closure calls only `setrlimit` and `signal`, which neither allocate nor lock, so they may run between fork
        // and exec.
        unsafe {
            command.pre_exec(|| {
                // a write beyond this many bytes fails with EFBIG instead of raising a signal, much as on a full disk
                let limit = libc::rlimit { rlim_cur: 40_000, rlim_max: 40_000 };
                libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                Ok(())
            });
        }
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let train = [
        "train",
        "--model",
        &model,
        "--data",
        rows.to_str().unwrap(),
        "--max-steps",
        "1",
        "--max-length",
        "64",
        "--allow-drops",
        "--output",
        &adapter,
        "--overwrite",
    ];
    assert_refused("train", &limited(&train), 1, &["adapter_model.safetensors"]);
    let kept = std::fs::read(sandbox.path("adapter/adapter_model.safetensors")).unwrap();
    assert!(kept == old, "the old adapter stays");
    let leftovers = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(sandbox.path(folder)).into_iter().flatten();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|name| name.contains("tmp")).collect()
    };
    assert_eq!(leftovers("adapter"), Vec::<String>::new());

    assert_refused(
        "merge",
        &limited(&["merge", "--model", &model, "--adapter", &adapter, "--output", &merged]),
        1,
        &[],
    );
    assert!(!Path::new(&merged).join("config.json").exists(), "nothing half-written stands under the new name");
    assert_eq!(leftovers("."), Vec::<String>::new());
}

/// If an adapter's product overflows, the run ends at its first step and leaves the files of an earlier run.
#[test]
fn numbers_that_overflow_end_the_run_and_leave_the_old_files() {
    let sandbox = Sandbox::new("tiny-llama");
    let tensors = sandbox.path("adapter/adapter_model.safetensors");
    let mut bytes = std::fs::read(&tensors).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let (values, _) = bytes[header..].as_chunks_mut::<4>();
    values.fill(3e38f32.to_le_bytes());
    std::fs::write(&tensors, &bytes).unwrap();
    let out = sandbox.path("out");
    std::fs::create_dir(&out).unwrap();
    for file in ["adapter_model.safetensors", "config.toml", "metrics.jsonl"] {
        std::fs::write(out.join(file), "of an earlier run").unwrap();
    }
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let run = align(&[
        "train",
        "--model",
        &text(sandbox.path("model")),
        "--adapter",
        &text(sandbox.path("adapter")),
        "--data",
        &text(sandbox.path("rows.jsonl")),
        "--output",
        &text(out.clone()),
        "--overwrite",
    ]);
    assert_refused("overflow", &run, 5, &["row 0", "step 1"]);
    for flags in [&[][..], &["--sample"]] {
        let (model, adapter) = (text(sandbox.path("model")), text(sandbox.path("adapter")));
        let common = ["generate", "--model", &model, "--adapter", &adapter, "--prompt", "Hello"];
        assert_refused("generate", &align(&[&common[..], flags].concat()), 5, &["not finite"]);
    }
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|file| std::fs::read(file).unwrap() == b"of an earlier run"));
}
