//! Compares the memory that a run plans to hold with what it holds.

use crate::align::{align, committed_goldens, golden_model, lines_in, read_lines};
use crate::goldens::{Golden, Goldens};
use crate::watched_run::{self, Notes, TOLERANCE, is_held};
use align_data::{Dataset, Encoder, OnBadRow, RowKind, Shuffle};
use align_engine::model::{Model, ModelConfig};
use align_engine::weights::{ValueCheck, WeightFiles};
use align_kernels::{Device, Precision};
use align_lora::adapter::{Adapter, LoraConfig, Task};
use align_lora::objective::{KnobValue, LOSSES, Objective, Scores};
use align_lora::train::{CachePlace, Plan, ReferenceCache, Size, TrainOptions, Trainer};
use serde_json::{Value, json};
use std::path::Path;

const MAX_LENGTH: usize = 256;
/// More memory than a run can use.
const ROOMY: u64 = 1 << 36;

fn options() -> TrainOptions {
    TrainOptions { batch_size: 4, max_length: MAX_LENGTH, ..watched_run::options() }
}

/// Runs of one loss over the same rows, each on its own device.
#[derive(Clone, Copy)]
struct Runs<'a> {
    loss: &'a str,
    knobs: &'a [(&'a str, KnobValue)],
    options: &'a TrainOptions,
    data: &'a Dataset,
    eval: Option<&'a Dataset>,
    texts: Option<&'a Dataset>,
    /// Where the runs keep log-probs of the reference, and the folder for a cache file.
    cache: Option<(CachePlace, &'a Path)>,
}

impl<'a> Runs<'a> {
    fn new(loss: &'a str, data: &'a Dataset, options: &'a TrainOptions) -> Runs<'a> {
        Runs { loss, knobs: &[], options, data, eval: None, texts: None, cache: None }
    }

    fn with_trainer<R: Send>(&self, memory: Option<u64>, work: impl FnOnce(Trainer<'_>, &Device) -> R + Send) -> R {
        let device = Device::cpu(Some(2)).unwrap();
        let dir = self.data.encoder().model_dir();
        let files = WeightFiles::open(dir, ValueCheck::Finite).unwrap();
        let model = Model::load(&device, ModelConfig::open(dir).unwrap(), &files).unwrap();
        let objective = Objective::new(self.loss, self.knobs).unwrap();
        let task = match objective.scores() {
            Scores::LogProbs => Task::CausalLm,
            Scores::Reward => Task::SequenceClassification,
        };
        let adapter = Adapter::fresh(&model, &LoraConfig { task, ..LoraConfig::default() }, 1).unwrap();
        let options = TrainOptions { memory, ..self.options.clone() };
        let precision = options.precision;
        device.install(|| {
            let mut trainer = Trainer::new(&model, adapter.set().clone(), None, objective, options).unwrap();
            if let Some(texts) = self.texts {
                trainer = trainer.with_reference_data(texts.clone());
            }
            if let Some((place, folder)) = self.cache {
                let cache = match place {
                    CachePlace::Memory => ReferenceCache::in_memory(&files),
                    CachePlace::File => ReferenceCache::open(folder, &model, &files, None, precision, 1.0),
                };
                trainer = trainer.with_reference_cache(cache.unwrap());
            }
            work(trainer, &device)
        })
    }

    fn plan(&self) -> Plan {
        self.with_trainer(Some(ROOMY), |mut trainer, _| trainer.plan(self.data, self.eval).unwrap())
    }

    /// Plans a run within `limit` bytes, makes it, and checks that it holds what was planned.
    fn plan_that_is_held(&self, limit: u64) -> Plan {
        self.with_trainer(Some(limit), |mut trainer, device| {
            let plan = trainer.plan(self.data, self.eval).unwrap();
            let mut notes = Notes::default();
            trainer.run(self.data, self.eval, &mut notes).unwrap();
            let Runs { loss, options, data, cache, .. } = self;
            let model = data.encoder().model_dir();
            let what = format!("{loss} within {limit} bytes, {model:?}, {options:?}, {cache:?}");
            assert!(!notes.are_beyond_plan() && plan.peak <= limit, "{what}: {:?}", notes.0);
            is_held(&what, &plan, &device.memory());
            plan
        })
    }

    /// Checks plan and run with room to keep all layers, some, and none.
    fn are_held(&self) {
        let all = self.plan_that_is_held(ROOMY);
        assert_eq!(all.layers_kept, all.layers);
        let least = all.limit_needed;
        self.plan_that_is_held((all.peak + all.peak / 10 + least) / 2);
        self.plan_that_is_held(least);
    }
}

/// Opens a file of rows for the model in `dir`.
fn open(dir: &Path, rows: &Path, kind: RowKind) -> Dataset {
    let vocab_size = ModelConfig::open(dir).unwrap().vocab_size;
    let encoder = Encoder::from_model(dir, None, MAX_LENGTH, vocab_size).unwrap();
    Dataset::open(&[rows.to_owned()], encoder, kind, OnBadRow::Error).unwrap()
}

/// Makes rows whose texts repeat a phrase of four tokens as often as `lengths` says. No two rows are alike.
fn rows<N: AsRef<[usize]>>(kind: RowKind, lengths: &[N]) -> Vec<Value> {
    let row = |(i, n): (usize, &N)| {
        let n = n.as_ref();
        let words = |n: usize| format!("{i} ") + &"and so on ".repeat(n);
        match kind {
            RowKind::Pair => json!({"prompt": words(1), "chosen": words(n[0]), "rejected": words(n[1]) + "no"}),
            RowKind::Labelled => json!({"prompt": words(1), "completion": words(n[0]), "label": i % 2 == 0}),
            RowKind::Scored => {
                let rewards: Vec<f64> = (0..n.len()).map(|i| 1.0 - 0.25 * i as f64).collect();
                let completions: Vec<String> =
                    n.iter().zip(&rewards).map(|(&n, by)| format!("{}{by}", words(n))).collect();
                json!({"prompt": words(1), "completions": completions, "rewards": rewards})
            }
            RowKind::Sequence => json!({"text": words(n[0])}),
        }
    };
    lengths.iter().enumerate().map(row).collect()
}

/// Makes rows whose batches of four need different passes if a pass has at most 300 tokens.
fn uneven_rows(kind: RowKind) -> Vec<Value> {
    let lengths: Vec<&[usize]> = match kind {
        // a short batch that fits into one pass holds more than a long one in two
        RowKind::Pair | RowKind::Sequence => {
            let short: [&[usize]; 4] = [&[1, 1], &[1, 1], &[1, 1], &[24, 24]];
            [[&[9, 9][..]; 4], short, short].concat()
        }
        // with mismatched answers the first batch has more tokens, but then it does not fit into one pass, so its gradient passes
        // have no mismatched answers
        RowKind::Labelled => [[&[16][..]; 4], [&[7][..]; 4]].concat(),
        // one batch has a row whose tree does not fit into a pass, so that each answer is a piece; the other batch fills one pass
        RowKind::Scored => [[&[40; 4][..], &[1, 2], &[1, 2], &[1, 2]], [&[7, 7][..]; 4]].concat(),
    };
    rows(kind, &lengths)
}

/// Kinds of losses differ in their rows, in what couples the rows, and in the models that score them. An evaluation may hold more
/// than the steps. A run with a cache may know the reference's log-probs.
#[test]
fn planned_is_held_for_every_kind_of_loss() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, kind: RowKind, rows: &[Value]| {
        open(&golden_model("tiny-llama"), &lines_in(folder.path(), name, rows), kind)
    };
    let mut kinds = Vec::new();
    for loss in LOSSES.iter().map(|loss| loss.name).chain(["wpo"]) {
        let objective = Objective::new(loss, &[]).unwrap();
        let data = objective.data();
        let kind = (data, objective.coupling(), objective.reference(), objective.scores(), objective.weighting());
        if kinds.contains(&kind) {
            continue;
        }
        let uneven = &open(loss, data, &uneven_rows(data));
        let [short, long] = &[1, 30].map(|n| open(&n.to_string(), data, &rows(data, &[[n; 2]; 4])));
        let precision = [Precision::F32, Precision::Bf16][kinds.len() % 2];
        let shuffle = [Shuffle::Off, Shuffle::Seeded(3)][kinds.len() / 2 % 2];
        kinds.push(kind);
        let options = TrainOptions { micro_batch_tokens: 300, precision, shuffle, ..options() };
        let runs = Runs { eval: Some(uneven), ..Runs::new(loss, uneven, &options) };
        runs.are_held();
        let whole = TrainOptions { micro_batch_tokens: 4096, ..options.clone() };
        let of_eval = Runs { options: &whole, data: short, eval: Some(long), ..runs };
        assert!(of_eval.plan().peak > Runs { eval: None, ..of_eval }.plan().peak, "{loss}");
        of_eval.are_held();
        let folder = tempfile::tempdir().unwrap();
        let cache = |place| objective.reference().then_some((place, folder.path()));
        let twice = TrainOptions { epochs: 2, ..whole.clone() };
        Runs { options: &twice, cache: cache(CachePlace::Memory), eval: None, ..runs }.are_held();
        if objective.reference() {
            let with_file = Runs { cache: cache(CachePlace::File), ..runs };
            with_file.plan_that_is_held(ROOMY);
            // the file has all log-probs now
            with_file.are_held();
        }
    }
    // a step also reads texts. With at most 600 tokens in a pass, it needs two passes if it reads the longest texts, otherwise one
    let even = &open("even", RowKind::Pair, &rows(RowKind::Pair, &[[6, 5]; 8]));
    let texts = &open(
        "texts",
        RowKind::Sequence,
        &rows(RowKind::Sequence, &[[22]; 4].into_iter().chain([[24]; 4]).collect::<Vec<_>>()),
    );
    for micro_batch_tokens in [600, 4096] {
        let options = &TrainOptions { micro_batch_tokens, shuffle: Shuffle::Off, ..options() };
        let knobs = &[("eta", KnobValue::Number(0.1))];
        Runs { knobs, eval: Some(even), texts: Some(texts), ..Runs::new("max_po", even, options) }.are_held();
    }
}

/// Each family keeps different things for the backward pass.
#[test]
fn planned_is_held_for_every_family() {
    let folder = tempfile::tempdir().unwrap();
    let losses =
        [("dpo", RowKind::Pair, 0.1, 300), ("kto", RowKind::Labelled, 0.0, 4096), ("rm_bt", RowKind::Pair, 0.1, 4096)];
    for (nth, Golden { model, .. }) in Goldens::tiny().models().iter().enumerate() {
        for (i, precision) in [Precision::F32, Precision::Bf16].into_iter().enumerate() {
            let (loss, kind, lora_dropout, micro_batch_tokens) = losses[(nth + i) % losses.len()];
            // the rows are longer than the models' attention windows
            let data = open(model, &lines_in(folder.path(), "rows", &rows(kind, &[[12, 14]; 4])), kind);
            let options = TrainOptions { lora_dropout, micro_batch_tokens, precision, ..options() };
            Runs { eval: Some(&data), ..Runs::new(loss, &data, &options) }.are_held();
        }
    }
}

/// When the first pass of a step starts, there are no gradients yet; when the second starts, there are. The plan counts both
/// passes, whichever is larger.
#[test]
fn a_batch_is_planned_for_its_largest_row() {
    let folder = tempfile::tempdir().unwrap();
    let planned = |lengths: &[usize]| {
        let rows = rows(RowKind::Pair, &lengths.iter().map(|&n| [n; 2]).collect::<Vec<_>>());
        let data = open(&golden_model("tiny-llama"), &lines_in(folder.path(), "rows", &rows), RowKind::Pair);
        Runs::new("dpo", &data, &TrainOptions { micro_batch_tokens: 300, ..options() }).plan().peak
    };
    let alone = planned(&[50]);
    for other in [50, 48, 45, 40, 2] {
        assert!(planned(&[50, other]) >= alone && planned(&[other, 50]) >= alone, "beside {other}");
    }
}

/// If more rows than a plan lays out are cut to the same length, the plan is still made for the row with the shortest prompt,
/// which needs the most memory.
#[test]
fn a_run_is_planned_for_its_row_with_the_longest_answer() {
    let folder = tempfile::tempdir().unwrap();
    let planned = |prompts: &[usize]| {
        let row = |&n: &usize| json!({"prompt": "so ".repeat(n), "completion": "and so on ".repeat(80), "label": true});
        let rows: Vec<Value> = prompts.iter().map(row).collect();
        let data = open(&golden_model("tiny-llama"), &lines_in(folder.path(), "rows", &rows), RowKind::Labelled);
        Runs::new("apo_zero_unpaired", &data, &TrainOptions { batch_size: 1, ..options() }).plan().peak
    };
    let prompts: Vec<usize> = (1..=20).rev().collect();
    assert_eq!(planned(&prompts), planned(&[1]));
}

/// If a row is cut into pieces, the policy scores it once more, before the passes with gradients. That adds about a quarter to a
/// step with a reference. Each piece also repeats the prompt.
#[test]
fn the_time_counts_rows_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let completions: Vec<String> = (0..4).map(|i| "and so on ".repeat(18 + i)).collect();
    let row = json!({"prompt": "p ", "completions": completions, "rewards": [1, 0, 0.5, 0.25]});
    let data = open(&golden_model("tiny-llama"), &lines_in(folder.path(), "rows", &vec![row; 8]), RowKind::Scored);
    let operations = |micro_batch_tokens: usize| {
        let options = TrainOptions { micro_batch_tokens, batch_size: 1, ..options() };
        Runs::new("exo_rw", &data, &options).with_trainer(None, |mut trainer, _| {
            let plan = trainer.plan(&data, None).unwrap();
            trainer.pace(&plan).unwrap().first.operations
        })
    };
    let ratio = operations(200) / operations(4096);
    assert!((1.15..1.5).contains(&ratio), "{ratio}");
}

/// Reads the size at the beginning of a text and returns it in bytes.
fn size(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    format!("{}{}", words[0], words[1].trim_end_matches([',', ')', ';'])).parse::<Size>().unwrap().0 as f64
}

/// Returns `[planned, packing, peak]` bytes from what `train` prints, and how many layers are kept.
fn printed(stderr: &str) -> ([f64; 3], usize) {
    let behind = |words: &str| stderr.split_once(words).unwrap_or_else(|| panic!("{words} is not in {stderr}")).1;
    let bytes = ["memory: ", "packing ", "peak of computed memory "].map(|words| size(behind(words)));
    (bytes, behind(" planned of ").split_once('(').unwrap().1.split(' ').next().unwrap().parse().unwrap())
}

/// The numbers of a run do not depend on its memory limit, and it holds what it planned.
#[test]
fn memory_changes_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, memory: &[&str]| {
        let output = folder.path().join(name);
        let common = ["train", "-v", "--demo", "--max-steps", "2", "--output", output.to_str().unwrap()];
        let run = align(&[&common[..], memory].concat()).ok();
        let ([planned, packing, peak], kept) = printed(&run.stderr);
        // each of the three sizes is rounded to a tenth of a MiB
        let most = peak * (1.0 + TOLERANCE) + 0.15 * f64::from(1 << 20);
        assert!(peak <= planned && planned - packing <= most, "{name}: {}", run.stderr);
        let adapter = std::fs::read(output.join("adapter_model.safetensors")).unwrap();
        let losses: Vec<_> =
            read_lines(&output.join("metrics.jsonl")).iter().map(|line| line["loss"].clone()).collect();
        (kept, adapter, losses, planned)
    };
    let free = run("free", &[]);
    // the smallest limit under which the run fits depends on the processor; the error message has it
    let refused = align(&["train", "--demo", "--memory", "1MB"]);
    let least = size(refused.stderr.split_once("the run needs ").unwrap().1) as u64;
    // the number in the message is rounded, by less than a tenth of a MiB
    let least = least + (1 << 20) / 10;
    let some = run("some", &["--memory", &((free.3 as u64 + least) / 2).to_string()]);
    let none = run("none", &["--memory", &least.to_string()]);
    assert_eq!([free.0, none.0], [4, 0]);
    assert!((1..4).contains(&some.0), "{} layers", some.0);
    for other in [&some, &none] {
        assert_eq!(other.2, free.2);
        assert!(other.1 == free.1, "the adapters differ");
    }
    let config: toml::Table = std::fs::read_to_string(folder.path().join("none/config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["memory"].as_integer(), Some(least as i64));
    assert!(!std::fs::read_to_string(folder.path().join("free/config.toml")).unwrap().contains("memory"));

    let config = folder.path().join("none/config.toml");
    let again = folder.path().join("again");
    let again = align(&["train", "-v", "--config", config.to_str().unwrap(), "--output", again.to_str().unwrap()]).ok();
    assert!(again.stderr.contains(&format!("planned of {}", Size(least))), "{}", again.stderr);
}

#[test]
fn too_little_memory_is_said_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let run = align(&["train", "--demo", "--memory", "2MB", "--output", output.to_str().unwrap()]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    for part in
        ["the run needs", "may hold 1.9 MiB", "--micro-batch-tokens (4096 now)", "--max-length (1024 now)", "--memory"]
    {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    assert!(!output.exists());
    for wrong in ["lots", "-1GB", "0"] {
        let run = align(&["train", "--demo", &format!("--memory={wrong}")]);
        assert_eq!(run.code, Some(2), "{wrong}: {}", run.stderr);
        assert!(run.stderr.contains("8GiB"), "{}", run.stderr);
    }
}

/// After two steps on the same rows, further steps on them take no new memory from the system.
#[test]
fn a_steady_step_takes_no_new_memory() {
    let data = open(&golden_model("tiny-llama"), &committed_goldens().join("pairs.jsonl"), RowKind::Pair);
    let rows = data.rows(&[0, 1, 2, 3]).unwrap();
    for memory in [None, Some(12 << 20)] {
        for precision in [Precision::F32, Precision::Bf16] {
            let options = TrainOptions { micro_batch_tokens: 300, precision, ..options() };
            Runs::new("dpo", &data, &options).with_trainer(memory, |mut trainer, device| {
                let mut step = || {
                    trainer.step(&rows, 10).unwrap();
                    let report = device.memory();
                    // the threads' packed operands are left out: which task a thread packs for is a matter of chance
                    (report.fresh, report.mapped)
                };
                step();
                let warm = step();
                for _ in 0..4 {
                    assert_eq!(step(), warm, "{precision:?}, {memory:?}");
                }
            });
        }
    }
}
