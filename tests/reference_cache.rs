//! The reference cache: no number depends on it, and no record that is damaged or of another model is used.

use crate::align::{
    Run, align, command, committed_goldens, copy_folder, edit_json, golden_model, read_lines, turn, write_lines,
};
use crate::watched_run::{self, Notes, is_held};
use align_data::{Dataset, Encoder, OnBadRow, RowKind};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::{Device, Precision};
use align_lora::adapter::{Adapter, LoraConfig};
use align_lora::objective::Objective;
use align_lora::train::{ReferenceCache, TrainOptions, Trainer};
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::Stdio;

/// Rows that the runs train on: two batches of four and one of two.
const ROWS: usize = 10;
/// Number of different answers in the ten pairs that are trained on, and in the four held-out ones. One answer is in two of the
/// ten pairs.
const ANSWERS: [u64; 2] = [19, 8];
/// Maximum number of tokens in a pass: small enough to split a batch of four into several passes.
const MICRO_BATCH_TOKENS: &str = "700";

/// Runs of one loss over the same few rows, in their own folder with its own cache.
struct Runs {
    folder: tempfile::TempDir,
    model: PathBuf,
    loss: &'static str,
}

/// What a run has printed, and what must be the same with and without the cache.
struct Outcome {
    run: Run,
    metrics: Vec<Value>,
    adapter: Vec<u8>,
}

impl Outcome {
    /// Returns how many answers the run has computed and read.
    fn counts(&self) -> [u64; 2] {
        let line = self.run.stderr.lines().rfind(|line| line.contains("reference log-probs in"));
        let line = line.unwrap_or_else(|| panic!("the counts are missing: {}", self.run.stderr));
        let number = |before: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| word.trim_end_matches(',') == before).unwrap();
            words[..at].iter().rev().find_map(|word| word.parse().ok()).unwrap()
        };
        [number("computed"), number("read")]
    }

    fn says(&self, part: &str) -> bool {
        self.run.stderr.contains(part)
    }

    #[track_caller]
    fn is(&self, other: &Outcome) {
        assert_eq!(self.metrics, other.metrics);
        assert!(self.adapter == other.adapter, "the adapters differ");
    }
}

impl Runs {
    fn new(loss: &'static str) -> Runs {
        let folder = tempfile::tempdir().unwrap();
        for file in ["pairs.jsonl", "kto.jsonl"] {
            let text = fs::read_to_string(committed_goldens().join(file)).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            fs::write(folder.path().join(file), lines[..ROWS].join("\n")).unwrap();
            fs::write(folder.path().join(format!("eval-{file}")), lines[ROWS..ROWS + 4].join("\n")).unwrap();
        }
        for prefix in ["", "eval-"] {
            let pairs = read_lines(&folder.path().join(format!("{prefix}pairs.jsonl")));
            write_lines(&folder.path().join(format!("{prefix}scored.jsonl")), &scored(&pairs));
        }
        let model = folder.path().join("tiny-llama");
        copy_folder(&golden_model("tiny-llama"), &model);
        // all layers are alike, and with two of them the test takes half the time
        edit_json(&model.join("config.json"), |config| config["num_hidden_layers"] = 2.into());
        Runs { folder, model, loss }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn data(&self) -> &'static str {
        match self.loss {
            "kto" => "kto.jsonl",
            "exo_rw" => "scored.jsonl",
            _ => "pairs.jsonl",
        }
    }

    fn arguments(&self, name: &str, more: &[&str]) -> Vec<String> {
        let (data, eval, output) =
            (self.file(self.data()), self.file(&format!("eval-{}", self.data())), self.file(name));
        let mut arguments: Vec<String> = [
            "train",
            "--verbose",
            "--model",
            self.model.to_str().unwrap(),
            "--data",
            &data,
            "--eval-data",
            &eval,
            "--loss",
            self.loss,
            "--epochs",
            "2",
            "--batch-size",
            "4",
            "--learning-rate",
            "1e-3",
            "--output",
            &output,
        ]
        .map(str::to_owned)
        .to_vec();
        for (flag, value) in
            [("--max-length", "512"), ("--precision", "f32"), ("--micro-batch-tokens", MICRO_BATCH_TOKENS)]
        {
            if !more.contains(&flag) {
                arguments.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        if !more.contains(&"--reference-cache") {
            arguments.extend(["--reference-cache".to_owned(), self.file("cache")]);
        }
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        arguments
    }

    fn outcome(&self, name: &str, run: Run) -> Outcome {
        let output = self.folder.path().join(name);
        let mut metrics = read_lines(&output.join("metrics.jsonl"));
        for line in &mut metrics {
            line.as_object_mut().unwrap().remove("tokens_per_second");
        }
        Outcome { run, metrics, adapter: fs::read(output.join("adapter_model.safetensors")).unwrap() }
    }

    fn run(&self, name: &str, more: &[&str]) -> Outcome {
        self.outcome(name, align(&self.arguments(name, more)).ok())
    }

    fn off(&self, name: &str, more: &[&str]) -> Outcome {
        self.run(name, &[&["--reference-cache", "off"][..], more].concat())
    }

    /// Returns the only file of the cache.
    fn cache_file(&self) -> PathBuf {
        let [file] = &self.cache_files()[..] else { panic!("one cache file: {:?}", self.cache_files()) };
        file.clone()
    }

    fn cache_files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("cache")).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "logps"))
            .collect()
    }
}

/// Makes rows of scored answers: the answers of a pair, and those of the next pair.
fn scored(pairs: &[Value]) -> Vec<Value> {
    let both = |row: &Value| [row["chosen"].clone(), row["rejected"].clone()];
    let row = |(i, row): (usize, &Value)| {
        let completions = [both(row), both(&pairs[(i + 1) % pairs.len()])].concat();
        serde_json::json!({"prompt": row["prompt"], "completions": completions, "rewards": [1.0, -0.5, 0.25, 0.0]})
    };
    pairs.iter().enumerate().map(row).collect()
}

#[test]
fn no_number_depends_on_the_cache() {
    // in several passes, in one, with dropout
    let common: [(&str, &[&str]); 3] =
        [("split", &[]), ("whole", &["--micro-batch-tokens", "100000"]), ("dropout", &["--lora-dropout", "0.1"])];
    // a row's answers in several passes
    let cut: [(&str, &[&str]); 2] = [
        ("cut", &["--micro-batch-tokens", "150"]),
        ("cut-dropout", &["--micro-batch-tokens", "150", "--lora-dropout", "0.1"]),
    ];
    // rows without statistics, with mismatched answers, with statistics of the whole batch, with more than two answers
    for (loss, variants) in [("dpo", &common[..]), ("kto", &common), ("kto_pair", &common), ("exo_rw", &cut)] {
        let runs = Runs::new(loss);
        for (variant, flags) in variants {
            let name = |what: &str| format!("{what}-{variant}");
            let off = runs.off(&name("off"), flags);
            assert!(!off.says("reference log-probs in"), "{loss}: {}", off.run.stderr);
            let in_memory = runs.run(&name("memory"), &[&["--reference-cache", "memory"][..], flags].concat());
            in_memory.is(&off);
            let [computed, read] = in_memory.counts();
            assert!(computed > 0 && read > 0, "{loss}: {computed} computed, {read} read");
            let folder = runs.file(&name("cache"));
            let with = [&["--reference-cache", &folder][..], flags].concat();
            let cold = runs.run(&name("cold"), &with);
            cold.is(&off);
            assert_eq!(cold.counts(), [computed, read], "{loss}");
            if loss == "dpo" || loss == "kto_pair" {
                // every answer is computed once, also the answers of the evaluation
                assert_eq!(computed, ANSWERS.iter().sum::<u64>(), "{loss}");
            }
            let warm = runs.run(&name("warm"), &with);
            warm.is(&off);
            assert_eq!(warm.counts(), [0, computed + read], "{loss}");
        }
    }
}

#[test]
fn every_family_and_precision_reads_what_it_computed() {
    for model in ["tiny-gemma3", "tiny-phi3", "tiny-qwen3"] {
        for precision in ["f32", "bf16"] {
            let runs = Runs { model: golden_model(model), ..Runs::new("ipo") };
            let off = runs.off("off", &["--precision", precision]);
            runs.run("cold", &["--precision", precision]).is(&off);
            let warm = runs.run("warm", &["--precision", precision]);
            warm.is(&off);
            assert_eq!(warm.counts()[0], 0, "{model} {precision}");
        }
    }
}

#[test]
fn without_a_flag_it_is_the_users_cache() {
    let runs = Runs::new("dpo");
    let caches = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let mut arguments = runs.arguments(name, &[]);
        let flag = arguments.iter().position(|argument| argument == "--reference-cache").unwrap();
        arguments.drain(flag..flag + 2);
        let output = command(&arguments).env("XDG_CACHE_HOME", caches.path()).output().unwrap();
        runs.outcome(name, Run::of(output).ok())
    };
    let cold = run("cold");
    assert!(caches.path().join("align/reference").is_dir());
    let warm = run("warm");
    warm.is(&cold);
    assert_eq!(warm.counts()[0], 0);
    assert!(warm.says(&format!("{} answers", ANSWERS.iter().sum::<u64>())), "{}", warm.run.stderr);
}

#[test]
fn weights_that_change_by_one_byte_are_other_weights() {
    let mut runs = Runs::new("dpo");
    let copy = runs.folder.path().join("model");
    copy_folder(&runs.model, &copy);
    runs.run("cold", &[]);
    // the path does not matter
    runs.model = copy.clone();
    assert_eq!(runs.run("elsewhere", &[]).counts()[0], 0);

    // the file ends with the final norm, which every pass reads
    let weights = copy.join("model-00002-of-00002.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let changed = runs.run("changed", &[]);
    changed.is(&runs.off("changed-off", &[]));
    assert_eq!(changed.counts()[0], ANSWERS.iter().sum::<u64>());
    assert!(changed.says("but for other numbers (the weights)"), "{}", changed.run.stderr);
}

#[test]
fn what_makes_other_numbers_is_named() {
    // all four layers, since the golden adapter is for all of them
    let runs = Runs { model: golden_model("tiny-llama"), ..Runs::new("dpo") };
    runs.run("cold", &[]);
    let adapter = committed_goldens().join("tiny-llama/adapter");
    let adapter = adapter.to_str().unwrap();
    let cases: [(&str, &[&str], &str); 2] = [
        ("precision", &["--precision", "bf16"], "(the precision)"),
        ("adapter", &["--adapter", adapter], "(the reference's adapter)"),
    ];
    for (name, flags, part) in cases {
        let other = runs.run(name, flags);
        other.is(&runs.off(&format!("{name}-off"), flags));
        assert!(other.counts()[0] > 0, "{name}");
        assert!(other.says("but for other numbers") && other.says(part), "{name}: {}", other.run.stderr);
    }
    let same_reference = runs.run("base", &["--adapter", adapter, "--reference", "base"]);
    assert_eq!(same_reference.counts()[0], 0, "the policy's adapter does not matter");
    assert!(!same_reference.says("other numbers"), "{}", same_reference.run.stderr);

    let files = runs.cache_files().len();
    let shorter = ["--max-length", "170", "--allow-drops"];
    let cut = runs.run("cut", &shorter);
    cut.is(&runs.off("cut-off", &shorter));
    let [computed, _] = cut.counts();
    assert!(
        0 < computed && computed < 2 * (ROWS as u64 + 4),
        "other tokens are computed, the rest is read: {computed}"
    );
    assert_eq!(runs.cache_files().len(), files, "in the same file");
}

#[test]
fn damaged_files_are_dropped_and_said() {
    let runs = Runs::new("dpo");
    let cold = runs.run("cold", &[]);
    let all = cold.counts()[0];
    let path = runs.cache_file();
    let sound = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut long = sound.clone();
    long.extend([0xFF; 100]);
    let head = sound.len() / 2;
    let cases: [(&str, Vec<u8>, &str, bool); 7] = [
        ("a number", flipped(head), "damaged or cut short", true),
        ("the last byte", flipped(sound.len() - 1), "damaged or cut short", true),
        ("a tail", sound[..sound.len() - 3].to_vec(), "damaged or cut short", true),
        ("a long end", long, "damaged or cut short", false),
        ("the start", flipped(3), "damaged at its start", true),
        ("the fingerprint", flipped(40), "damaged at its start", true),
        ("a stump", sound[..5].to_vec(), "damaged at its start", true),
    ];
    for (name, bytes, part, computes) in cases {
        fs::write(&path, bytes).unwrap();
        let run = runs.run(&name.replace(' ', "-"), &[]);
        run.is(&cold);
        assert!(run.says(part), "{name}: {}", run.run.stderr);
        let [computed, read] = run.counts();
        assert_eq!(computed > 0, computes, "{name}: {computed} computed");
        assert!(computed <= all && read > 0, "{name}");
        let whole = runs.run(&format!("{}-again", name.replace(' ', "-")), &[]);
        assert_eq!(whole.counts()[0], 0, "{name}: the file is whole again");
        assert!(!whole.says("damaged"), "{name}: {}", whole.run.stderr);
    }
    fs::write(&path, b"").unwrap();
    let empty = runs.run("empty", &[]);
    assert!(!empty.says("damaged"), "nothing was there: {}", empty.run.stderr);
}

#[test]
fn a_file_that_another_run_writes_is_read_only() {
    let runs = Runs::new("dpo");
    let cold = runs.run("cold", &[]);
    let path = runs.cache_file();
    let sound = fs::read(&path).unwrap();
    // as if the other run had written half of the file so far
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    held.lock().unwrap();
    let second = runs.run("second", &[]);
    second.is(&cold);
    assert!(second.says("another run writes"), "{}", second.run.stderr);
    assert!(!second.says("damaged"), "{}", second.run.stderr);
    let [computed, read] = second.counts();
    assert!(0 < computed && computed < cold.counts()[0] && read > cold.counts()[1]);
    assert!(fs::read(&path).unwrap() == sound[..sound.len() / 2], "the file is the other run's");
}

#[test]
fn two_runs_at_once_damage_nothing() {
    let runs = Runs::new("dpo");
    let off = runs.off("off", &[]);
    let names = ["one", "two", "three"];
    let start = |name: &&str| {
        let mut command = command(&runs.arguments(name, &["--threads", "1"]));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = names.iter().map(start).collect();
    for (name, child) in names.iter().zip(children) {
        runs.outcome(name, Run::of(child.wait_with_output().unwrap()).ok()).is(&off);
    }
    let warm = runs.run("warm", &[]);
    warm.is(&off);
    assert_eq!(warm.counts()[0], 0);
    assert!(!warm.says("damaged"), "{}", warm.run.stderr);
}

#[test]
fn a_directory_that_cannot_be_used_ends_the_run_if_it_was_asked_for() {
    let runs = Runs::new("dpo");
    let file = runs.file("a-file");
    File::create(&file).unwrap();
    let run = align(&runs.arguments("refused", &["--reference-cache", &file]));
    run.refused(1, &["--reference-cache", "a-file"]);
    assert!(!runs.folder.path().join("refused").exists(), "before anything is written");

    let mut arguments = runs.arguments("allowed", &[]);
    let flag = arguments.iter().position(|argument| argument == "--reference-cache").unwrap();
    arguments.drain(flag..flag + 2);
    let run = Run::of(command(&arguments).env("XDG_CACHE_HOME", &file).output().unwrap()).ok();
    assert!(run.stderr.contains("warning: ") && run.stderr.contains("this run alone"), "{}", run.stderr);
}

#[test]
fn score_and_eval_read_the_same_cache() {
    // all four layers, since the golden adapter is for all of them
    let runs = Runs { model: golden_model("tiny-llama"), ..Runs::new("dpo") };
    let (model, data, cache) = (runs.model.to_str().unwrap(), runs.file("pairs.jsonl"), runs.file("cache"));
    let adapter = committed_goldens().join("tiny-llama/adapter");
    let adapter = adapter.to_str().unwrap();
    let arguments = |command: &'static str, cache: &str| {
        let common = ["-v", "--model", model, "--adapter", adapter, "--data", &data, "--json", "--precision", "f32"];
        let all = [&[command][..], &common, &["--max-length", "512", "--reference-cache", cache]].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let scores = align(&[&arguments("score", "off")[..], &["--per-token".to_owned()]].concat()).ok();
    assert!(scores.stdout.contains("reference_token_logps"));
    for _ in 0..2 {
        let cached = align(&[&arguments("score", &cache)[..], &["--per-token".to_owned()]].concat()).ok();
        assert!(cached.stdout == scores.stdout, "the same text");
    }
    let known = align(&arguments("eval", &cache)).ok();
    assert!(known.stderr.contains(&format!("{} answers", ANSWERS[0])), "{}", known.stderr);
    assert_eq!(known.stdout, align(&arguments("eval", "off")).ok().stdout);
    // a loss that reads more of each token's distribution finds the same log-probs
    for precision in ["f32", "bf16"] {
        let eval = |loss: &str, cache: &str| {
            let mut all = arguments("eval", cache);
            let at = all.iter().position(|argument| argument == "f32").unwrap();
            all[at] = precision.to_owned();
            all.extend(["--loss", loss].map(str::to_owned));
            align(&all).ok()
        };
        eval("dpo", &cache);
        let weighted = eval("wpo", &cache);
        assert!(weighted.stderr.contains(&format!("{} answers", ANSWERS[0])), "{precision}: {}", weighted.stderr);
        assert_eq!(weighted.stdout, eval("wpo", "off").stdout, "{precision}");
    }
    assert_eq!(runs.run("train", &[]).counts()[0], ANSWERS[1], "the held-out answers alone are new");
}

/// The cache key includes which turns of a conversation are scored. If other turns are scored, the cached answers are neither used
/// nor reported as damaged.
#[test]
fn turns_that_are_not_scored_are_cached_apart() {
    let runs = Runs::new("dpo");
    let talk = |last: &str| {
        let turns = [turn("user", "one"), turn("assistant", "two"), turn("user", "three"), turn("assistant", last)];
        serde_json::json!({"messages": turns})
    };
    write_lines(&runs.folder.path().join("talk.jsonl"), &["four", "five", "six"].map(talk));
    let (model, data, cache) = (runs.model.to_str().unwrap(), runs.file("talk.jsonl"), runs.file("cache"));
    let score = |part: &str, cache: &str| {
        let common = ["score", "-v", "--model", model, "--data", &data, "--json", "--per-token", "--precision", "f32"];
        align(&[&common[..], &["--sft-on", part, "--reference-cache", cache]].concat()).ok()
    };
    for (part, there) in [("assistant", 0), ("assistant", 3), ("all", 3), ("all", 6), ("assistant", 6)] {
        let cached = score(part, &cache);
        assert!(cached.stderr.contains(&format!("{there} answers")), "{part}: {}", cached.stderr);
        for word in ["damaged", "changes while", "not those that"] {
            assert!(!cached.stderr.contains(word), "{part}: {}", cached.stderr);
        }
        assert_eq!(cached.stdout, score(part, "off").stdout, "{part}");
    }
}

/// If the reference's log-probs are cached, the plan has no rows for the reference. Whether the cache is empty or full, the run
/// holds what was planned.
#[test]
fn the_plan_knows_what_is_cached() {
    let dir = golden_model("tiny-llama");
    let cache_folder = tempfile::tempdir().unwrap();
    let run = |epochs: u64| {
        let device = Device::cpu(Some(2)).unwrap();
        device.clone().install(|| {
            let files = WeightFiles::open(&dir, ValueCheck::Finite).unwrap();
            let model = Model::load(&device, ModelConfig::open(&dir).unwrap(), &files).unwrap();
            let encoder = Encoder::from_model(&dir, None, 256, model.config().vocab_size).unwrap();
            let pairs = [committed_goldens().join("pairs.jsonl")];
            let data = Dataset::open(&pairs, encoder, RowKind::Pair, OnBadRow::Error).unwrap();
            let adapter = Adapter::fresh(&model, &LoraConfig::default(), 1).unwrap();
            let options = TrainOptions { epochs, ..watched_run::options() };
            let cache = ReferenceCache::open(cache_folder.path(), &model, &files, None, Precision::F32, 1.0).unwrap();
            let objective = Objective::new("dpo", &[]).unwrap();
            let trainer = Trainer::new(&model, adapter.set().clone(), None, objective, options).unwrap();
            let mut trainer = trainer.with_reference_cache(cache);
            let plan = trainer.plan(&data, None).unwrap();
            let pace = trainer.pace(&plan).unwrap();
            let mut notes = Notes(Vec::new());
            trainer.run(&data, None, &mut notes).unwrap();
            assert!(!notes.are_beyond_plan(), "{:?}", notes.0);
            is_held(&format!("{epochs} epochs"), &plan, &device.memory());
            (plan.peak, plan.reference_rows(), pace)
        })
    };
    let (cold_peak, cold_rows, cold_pace) = run(2);
    assert!(cold_rows > 0);
    let later = cold_pace.later.expect("the second epoch has its own pace");
    assert!(later.operations < 0.85 * cold_pace.first.operations, "{cold_pace:?}");
    let (warm_peak, warm_rows, warm_pace) = run(2);
    assert_eq!((warm_rows, warm_pace.later), (0, None));
    assert!(warm_peak < cold_peak, "{warm_peak} and {cold_peak}");
    assert!((warm_pace.first.operations / later.operations - 1.0).abs() < 1e-9);
}
