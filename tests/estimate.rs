//! `estimate`: known models from their config.json alone, and agreement with loaded models and with `train`.

use crate::align::{align, committed_goldens, copy_folder, golden_model, number, text};
use align_lora::train::Size;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Models of the goldens, at least one for each family and kind of RoPE. The second name, if any, is an extra golden whose
/// config.json replaces the model's own; the model's weights fit it too.
const MODELS: [(&str, Option<&str>); 11] = [
    ("tiny-llama", None),
    ("tiny-llama31", None),
    ("tiny-mistral", None),
    ("tiny-qwen2", None),
    ("tiny-qwen3", None),
    ("tiny-gemma2", Some("family-gemma")),
    ("tiny-gemma2", None),
    ("tiny-gemma3", None),
    ("tiny-phi3", None),
    ("tiny-phi3", Some("rope-longrope")),
    ("tiny-yarn", None),
];

/// A published model: its config.json, and the numbers of elements that the tests expect.
struct Published {
    config: Value,
    /// Elements of all matrices, the embeddings included.
    matrices: u64,
    /// Elements of an adapter of rank 1 on all linear layers.
    rank_1: u64,
    /// Elements of the linear layers.
    linear: u64,
}

fn published() -> [Published; 4] {
    let llama_2 = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "float16",
        "vocab_size": 32000
    });
    let mistral = json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 4096,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 32000
    });
    let qwen = json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 131072, "max_window_layers": 28, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "sliding_window": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_sliding_window": false,
        "vocab_size": 152064
    });
    let llama_31 = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 128256
    });
    // all parameters as published, less the norms and the biases
    let square = |hidden: u64, kv: u64, inner: u64, layers: u64| {
        let linear = layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * inner);
        let rank_1 = layers * (2 * (hidden + hidden) + 2 * (hidden + kv) + 3 * (hidden + inner));
        (linear, rank_1)
    };
    let of = |config, matrices, (linear, rank_1)| Published { config, matrices, rank_1, linear };
    let norms = 65 * 4096;
    [
        of(llama_2, 6_738_415_616 - norms, square(4096, 4096, 11008, 32)),
        of(mistral, 7_241_732_096 - norms, square(4096, 1024, 14336, 32)),
        of(qwen, 7_615_616_512 - 57 * 3584 - 28 * (3584 + 2 * 512), square(3584, 512, 18944, 28)),
        of(llama_31, 8_030_261_248 - norms, square(4096, 1024, 14336, 32)),
    ]
}

/// Makes a folder with nothing but config.json.
fn config_alone(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn estimate(model: &Path, more: &[&str]) -> Value {
    let estimate = align(&[&["estimate", "--model", text(model), "--json"], more].concat()).ok().json();
    let parts = estimate["parts"].as_object().unwrap().values().map(number).sum::<f64>();
    assert_eq!(parts, number(&estimate["peak_bytes"]), "the parts are the peak: {estimate}");
    estimate
}

#[test]
fn models_of_seven_billion_parameters_are_estimated_from_their_config() {
    const TOKENS: u64 = 512;
    for Published { config, matrices, rank_1, linear } in published() {
        let folder = config_alone(&config);
        let batch = ["--max-length", "512", "--batch-size", "2", "--lora-rank", "16", "--precision", "bf16"];
        let of = |more: &[&str]| estimate(folder.path(), &[&batch[..], more].concat());
        let roomy = of(&["--memory", "100GiB"]);
        assert_eq!(roomy["mapped_bytes"], json!(2 * matrices), "{config}");
        assert_eq!((&roomy["fits"], &roomy["layers"]), (&json!(true), &config["num_hidden_layers"]));
        assert_eq!(roomy["layers_kept"], roomy["layers"]);
        let base = if config["torch_dtype"] == "float16" { "f16" } else { "bf16" };
        assert_eq!((roomy["base"].as_str(), &roomy["seconds_per_step"]), (Some(base), &Value::Null));

        // the adapter and two moments of each of its elements, in f32; sizes of blocks are rounded up
        let state = number(&roomy["parts"]["adapter, optimiser"]);
        let least = (16 * rank_1 * 12) as f64;
        assert!((least..1.01 * least).contains(&state), "{state} of {least}");

        // Two pairs are four sequences, each read by the policy and the reference. A linear layer needs two operations per
        // element and token for the policy's forward pass, two for the reference's, and two for the gradient of its inputs. The
        // head, the adapter and the attention add a little.
        let operations = number(&roomy["operations"]);
        let of_linear = (6 * linear * 4 * TOKENS) as f64;
        assert!((1.03..1.35).contains(&(operations / of_linear)), "{}", operations / of_linear);

        // with less memory, fewer layers are kept and there are more operations, but at most those of one more forward pass of the
        // policy
        let tight = of(&["--memory", "6GiB"]);
        let kept = |estimate: &Value| number(&estimate["layers_kept"]);
        assert!(tight["fits"] == json!(true) && kept(&tight) < kept(&roomy), "{tight}");
        assert!(number(&tight["peak_bytes"]) < 6.0 * f64::from(1 << 30));
        let more = number(&tight["operations"]) - operations;
        assert!((0.0..0.36 * of_linear).contains(&more) && more > 0.0, "{more} of {of_linear}");

        let small = of(&["--memory", "100MiB", "--gflops", "1000"]);
        assert_eq!((&small["fits"], kept(&small)), (&json!(false), 0.0));
        let seconds = number(&small["seconds_per_step"]);
        assert!((seconds * 1e12 / number(&small["operations"]) - 1.0).abs() < 1e-9, "{small}");
    }
}

/// Flags that decide memory: losses for every kind of rows, several passes, dropout, a cache in memory.
const RUNS: [&[&str]; 8] = [
    &["--memory", "64MiB"],
    &["--memory", "64MiB", "--loss", "kto", "--micro-batch-tokens", "200", "--reference-cache", "memory"],
    &["--memory", "64MiB", "--loss", "rm_bt", "--lora-rank", "4"],
    &["--memory", "64MiB", "--loss", "exo_rw", "--max-completions", "3", "--micro-batch-tokens", "100"],
    &["--memory", "64MiB", "--loss", "sft", "--lora-dropout", "0.1", "--precision", "bf16"],
    &["--memory", "64MiB", "--loss", "max_po", "--eta", "0.1", "--target-modules", "q_proj,down_proj"],
    &["--memory", "2MiB", "--loss", "simpo", "--gradient-accumulation-steps", "2"],
    &["--memory", "1MiB"],
];

/// Copies a model's folder without its weights.
fn without_weights(model: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(model, folder.path());
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if text(&path).contains("safetensors") {
            std::fs::remove_file(path).unwrap();
        }
    }
    folder
}

/// Removes the time from an estimate. It is measured only if there are weights.
fn without_time(mut estimate: Value) -> Value {
    estimate["seconds_per_step"].take();
    estimate
}

#[test]
fn config_alone_is_as_good_as_the_weights() {
    for (model, config) in MODELS {
        let whole = tempfile::tempdir().unwrap();
        copy_folder(&golden_model(model), whole.path());
        if let Some(other) = config {
            let config = committed_goldens().join("extra").join(other).join("config.json");
            std::fs::copy(config, whole.path().join("config.json")).unwrap();
        }
        let alone = without_weights(whole.path());
        for run in RUNS {
            let run = [&["--max-length", "48"][..], run].concat();
            let of = |folder: &tempfile::TempDir| without_time(estimate(folder.path(), &run));
            assert_eq!(of(&alone), of(&whole), "{model} {config:?} {run:?}");
        }
    }
}

fn data() -> PathBuf {
    committed_goldens().join("pairs.jsonl")
}

/// Returns the two lines of `train -v` about its plan.
fn planned(run: &[&str], folder: &Path) -> [String; 2] {
    let output = folder.join("run");
    let train = ["train", "-v", "--max-steps", "1", "--overwrite", "--output", text(&output)];
    let stderr = align(&[&train, run].concat()).stderr;
    let lines: Vec<&str> = stderr.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("memory: ")).unwrap_or_else(|| panic!("{stderr}"));
    [lines[at], lines[at + 1]].map(str::to_owned)
}

#[test]
fn train_plans_what_was_estimated() {
    let folder = tempfile::tempdir().unwrap();
    for (model, run) in [
        ("tiny-llama", &["--memory", "64MiB"][..]),
        ("tiny-gemma3", &["--memory", "64MiB", "--loss", "kto", "--micro-batch-tokens", "300"]),
        ("tiny-qwen3", &["--memory", "64MiB", "--epochs", "2", "--reference-cache", "memory", "--lora-rank", "3"]),
        ("tiny-phi3", &["--memory", "20MiB", "--loss", "rm_bt"]),
    ] {
        let model = golden_model(model);
        let data = data();
        let run = [&["--model", text(&model), "--data", text(&data), "--eval-fraction", "0.3"][..], run].concat();
        let estimate = align(&[&["estimate", "--json", "--max-steps", "1"], &run[..]].concat()).ok().json();
        let size = |key: &str| Size(estimate[key].as_u64().unwrap()).to_string();
        let [memory, parts] = planned(&run, folder.path());
        let start = format!(
            "memory: {} planned of {} ({} of {} layers kept in the largest forward pass, {} tokens",
            size("peak_bytes"),
            size("limit_bytes"),
            estimate["layers_kept"],
            estimate["layers"],
            estimate["largest_pass_tokens"]
        );
        assert!(memory.starts_with(&start), "{memory}\n{start}");
        let of_estimate = estimate["parts"].as_object().unwrap().iter();
        let of_estimate: Vec<String> =
            of_estimate.map(|(name, bytes)| format!("{name} {}", Size(bytes.as_u64().unwrap()))).collect();
        assert_eq!(parts.trim(), of_estimate.join(", "));
        assert!(number(&estimate["seconds_per_step"]) > 0.0);
    }
}

/// `estimate` accepts a command line of `train`. It writes nothing, and a run that does not fit is no error.
#[test]
fn estimate_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("run");
    let run =
        ["--demo", "--learning-rate", "1e-4", "--logging-steps", "5", "--memory", "2MB", "--output", text(&output)];
    let estimate = align(&[&["estimate"], &run[..]].concat()).ok();
    assert!(estimate.stdout.contains("does not fit into the 1.9 MiB"), "{}", estimate.stdout);
    assert!(!output.exists());
    align(&[&["train"], &run[..]].concat()).refused(4, &["the run needs"]);
    let config = folder.path().join("run.toml");
    std::fs::write(&config, "demo = true\nmemory = \"8GiB\"\n").unwrap();
    let estimate = align(&["estimate", "--config", text(&config)]).ok();
    assert!(estimate.stdout.contains("fits into the 8.00 GiB"), "{}", estimate.stdout);
}

#[test]
fn what_cannot_be_estimated_is_said() {
    let alone = without_weights(&golden_model("tiny-llama"));
    std::fs::remove_file(alone.path().join("tokenizer.json")).unwrap();
    let model = text(alone.path());
    let data = data();
    align(&["estimate", "--model", model, "--data", text(&data)]).refused(3, &["tokenizer.json"]);
    align(&["estimate", "--model", model, "--gflops", "0"]).refused(2, &["--gflops", "above 0"]);
    align(&["estimate", "--model", model, "--loss", "no_such"]).refused(2, &["no_such"]);
    align(&["estimate", "--model", text(alone.path().parent().unwrap()), "--memory", "x"]).refused(2, &["8GiB"]);
    let empty = tempfile::tempdir().unwrap();
    align(&["estimate", "--model", text(empty.path())]).refused(3, &["config.json"]);
}
