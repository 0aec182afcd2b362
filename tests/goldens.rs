//! Compares the binary with TRL, PEFT and torch in `--precision f32`: tokens, log-probs, losses, trajectories, generation.
//!
//! The numbers are those of `tests/goldens/` (see the README there), or of the folder in the variable `ALIGN_GOLDENS`, which may
//! have any part of the same layout. The tests of the real model run if `ALIGN_SMOLLM2` names its directory
//! (`tests/oracles/make_smollm2.py` makes it). Otherwise they report by name that it is missing.

use crate::align::{Run, align, committed_goldens, ids, lines_in, number, numbers, read_json, read_lines};
use align_lora::objective::{KnobValue, Objective};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Tolerance of the log-prob of an answer, in nats.
const SUM: f64 = 1e-3;
/// Tolerance of the log-prob of one token, in nats.
const TOKEN: f64 = 1e-4;
/// The goldens of one batch use so many rows, or all if the file has fewer.
const BATCH_ROWS: usize = 8;

/// A loss of the goldens. All but `sft` also have the beta of `meta.json`.
pub(crate) struct GoldenLoss {
    /// Its name in the goldens.
    name: &'static str,
    /// Its name in `align-cli`.
    loss: &'static str,
    /// Its knobs.
    knobs: &'static [(&'static str, Knob)],
    /// Further flags of a run.
    flags: &'static [&'static str],
}

/// Where the number of a knob stands.
enum Knob {
    /// Under this key of the folder's `meta.json`.
    Meta(&'static str),
    /// Here.
    Is(f64),
}

impl GoldenLoss {
    const fn named(name: &'static str) -> GoldenLoss {
        GoldenLoss::new(name, name, &[])
    }

    const fn new(name: &'static str, loss: &'static str, knobs: &'static [(&'static str, Knob)]) -> GoldenLoss {
        GoldenLoss { name, loss, knobs, flags: &[] }
    }

    /// Finds a loss by its name in the goldens.
    pub(crate) fn find(name: &str) -> &'static GoldenLoss {
        let mut losses = LOSSES.iter().chain([&KTO]);
        losses.find(|loss| loss.name == name).unwrap_or_else(|| panic!("no flags for loss `{name}`"))
    }
}

/// The losses of pairs.
static LOSSES: [GoldenLoss; 20] = [
    GoldenLoss::new("sigmoid", "dpo", &[]),
    GoldenLoss {
        flags: &["--reference-cache", "off"],
        ..GoldenLoss::new("sigmoid without precomputed reference", "dpo", &[])
    },
    GoldenLoss::new("exo_pair", "exo_pair", &[("label_smoothing", Knob::Meta("exo_pair_label_smoothing"))]),
    GoldenLoss::named("ipo"),
    GoldenLoss::named("hinge"),
    GoldenLoss::named("sppo_hard"),
    GoldenLoss::new("robust", "robust", &[("label_smoothing", Knob::Meta("robust_label_smoothing"))]),
    GoldenLoss::named("nca_pair"),
    GoldenLoss::named("bco_pair"),
    GoldenLoss::named("aot"),
    GoldenLoss::named("aot_unpaired"),
    GoldenLoss::named("apo_zero"),
    GoldenLoss::named("apo_down"),
    GoldenLoss::new("discopop", "discopop", &[("discopop_tau", Knob::Meta("discopop_tau"))]),
    GoldenLoss::named("sigmoid_norm"),
    GoldenLoss::named("sft"),
    GoldenLoss::new("sigmoid f_divergence=forward_kl", "f_forward_kl", &[]),
    GoldenLoss::new("sigmoid f_divergence=js_divergence", "f_js", &[]),
    GoldenLoss::new("sigmoid f_divergence=alpha_divergence coef=0.5", "f_alpha", &[("f_alpha", Knob::Is(0.5))]),
    GoldenLoss::new("sigmoid ld_alpha=0.5", "ld_dpo", &[("ld_alpha", Knob::Is(0.5))]),
];

/// KTO, which reads labelled rows. The rows are in TRL's order and are evaluated batch by batch, as in TRL.
static KTO: GoldenLoss = GoldenLoss {
    name: "kto",
    loss: "kto",
    knobs: &[
        ("desirable_weight", Knob::Meta("kto_desirable_weight")),
        ("undesirable_weight", Knob::Meta("kto_undesirable_weight")),
    ],
    flags: &["--unpaired-order", "trl"],
};

/// The losses whose trajectories are in the goldens.
pub(crate) const WITH_TRAJECTORY: [&str; 4] = ["sigmoid", "exo_pair", "ipo", "kto"];

/// The losses of some list that are checked on a model.
pub(crate) type Chosen = fn(&Golden<'_>, &'static [&'static str]) -> &'static [&'static str];

/// A part of the goldens, and how `align-cli` is run to check it.
#[derive(Clone, Copy)]
pub(crate) struct Goldens<'a> {
    pub(crate) part: Part,
    /// Runs `align-cli` with these arguments, on some device.
    pub(crate) run: &'a dyn Fn(&[&str]) -> Run,
}

/// A part of a folder of goldens.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// The goldens of the tiny models, of up to 256 tokens.
    Tiny,
    /// The goldens of the tiny models, of up to 64 tokens.
    Short,
    /// The goldens of the real model.
    Real,
}

impl Part {
    /// Returns its folder in a folder of goldens: rows, and a folder for each model.
    fn of(self, goldens: &Path) -> PathBuf {
        match self {
            Part::Tiny | Part::Real => goldens.to_owned(),
            Part::Short => goldens.join("short"),
        }
    }

    fn has(self, name: &str) -> bool {
        is_real(name) == (self == Part::Real)
    }

    /// Returns the forms in which its pairs are given.
    fn forms(self) -> &'static [Form] {
        match self {
            Part::Tiny | Part::Real => &[Form::Conversational, Form::Plain],
            Part::Short => &[Form::Plain],
        }
    }
}

/// The form of a pair.
#[derive(Clone, Copy)]
enum Form {
    Conversational,
    Plain,
}

impl Form {
    /// Returns the name of the file with these numbers of pairs in this form.
    fn file(self, numbers: &str) -> String {
        let form = match self {
            Form::Conversational => "conversational",
            Form::Plain => "plain",
        };
        format!("{numbers}_{form}.json")
    }

    fn of(self, row: &Value) -> Value {
        match self {
            Form::Conversational => row.clone(),
            Form::Plain => plain(row),
        }
    }
}

/// A model with its goldens.
pub(crate) struct Golden<'a> {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) adapter: PathBuf,
    /// Its place among the models of its part.
    pub(crate) nth: usize,
    part: Part,
    run: &'a dyn Fn(&[&str]) -> Run,
}

fn goldens_root() -> PathBuf {
    match std::env::var_os("ALIGN_GOLDENS") {
        Some(folder) => crate::align::root().join(folder),
        None => committed_goldens(),
    }
}

/// Whether a part of the goldens may be missing: the folder in `ALIGN_GOLDENS` has any part.
pub(crate) fn may_be_missing() -> bool {
    std::env::var_os("ALIGN_GOLDENS").is_some()
}

fn is_real(name: &str) -> bool {
    name.starts_with("smollm2")
}

fn on_the_processor(arguments: &[&str]) -> Run {
    align(arguments)
}

impl Goldens<'static> {
    /// Returns the goldens of the tiny models, of up to 256 tokens.
    pub(crate) fn tiny() -> Self {
        Goldens { part: Part::Tiny, run: &on_the_processor }
    }

    /// Returns the goldens of the tiny models, of up to 64 tokens.
    pub(crate) fn short() -> Self {
        Goldens { part: Part::Short, run: &on_the_processor }
    }

    /// Returns the goldens of the real model.
    pub(crate) fn real() -> Self {
        Goldens { part: Part::Real, run: &on_the_processor }
    }
}

impl<'a> Goldens<'a> {
    /// Returns the models that have such goldens. A model without its directory is left out, with a line that names it: the real
    /// one is not in the repository.
    pub(crate) fn models(&self) -> Vec<Golden<'a>> {
        let (root, folder) = (goldens_root(), self.part.of(&goldens_root()));
        if !folder.is_dir() && may_be_missing() {
            return Vec::new();
        }
        let mut names: Vec<String> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| self.part.has(name) && folder.join(name).join("meta.json").exists() && name != "extra")
            .collect();
        names.sort();
        let golden = |(nth, name): (usize, String)| {
            let model = match std::env::var_os("ALIGN_SMOLLM2") {
                Some(dir) if name == "smollm2-135m" => PathBuf::from(dir),
                _ => root.join(&name).join("model"),
            };
            if !model.is_dir() {
                eprintln!("skipped: {name}, no model directory (ALIGN_SMOLLM2 names that of smollm2-135m)");
                return None;
            }
            let (adapter, folder) = (root.join(&name).join("adapter"), folder.join(&name));
            Some(Golden { name, folder, model, adapter, nth, part: self.part, run: self.run })
        };
        names.into_iter().enumerate().filter_map(golden).collect()
    }

    /// Calls `check` for each model whose goldens have `file`. Fails if there is none, unless `ALIGN_GOLDENS` is set.
    pub(crate) fn for_each(&self, file: &str, check: impl Fn(&Golden<'a>, Value)) {
        let mut checked = 0;
        for golden in self.models() {
            let path = golden.folder.join(file);
            if path.exists() {
                check(&golden, read_json(&path));
                checked += 1;
            } else {
                eprintln!("skipped: {} has no {file}", golden.folder.display());
            }
        }
        assert!(checked > 0 || may_be_missing(), "{file}: nothing was checked");
    }
}

impl Golden<'static> {
    /// Returns the goldens of a tiny model in the repository, whatever `ALIGN_GOLDENS` says.
    pub(crate) fn committed(name: &str) -> Self {
        let folder = committed_goldens().join(name);
        let (model, adapter) = (folder.join("model"), folder.join("adapter"));
        Golden { name: name.to_owned(), folder, model, adapter, nth: 0, part: Part::Tiny, run: &on_the_processor }
    }
}

impl Golden<'_> {
    /// Returns the settings with which the numbers were made.
    fn meta(&self) -> Value {
        read_json(&self.folder.join("meta.json"))
    }

    pub(crate) fn max_length(&self) -> usize {
        self.meta()["max_length"].as_u64().unwrap() as usize
    }

    /// Returns a file of rows: that of the goldens' own folder, or else that of the repository.
    pub(crate) fn file_of_rows(&self, file: &str) -> PathBuf {
        let own = self.folder.with_file_name(file);
        if own.exists() { own } else { self.part.of(&committed_goldens()).join(file) }
    }

    fn rows(&self, file: &str) -> Vec<Value> {
        read_lines(&self.file_of_rows(file))
    }

    fn pairs(&self) -> Vec<Value> {
        self.rows("pairs.jsonl")
    }

    /// Returns the number of rows in the goldens of one batch.
    pub(crate) fn batch_rows(&self) -> usize {
        self.pairs().len().min(BATCH_ROWS)
    }

    /// Returns the knobs of a loss.
    fn knobs(&self, loss: &GoldenLoss) -> Vec<(&'static str, f64)> {
        let meta = self.meta();
        let beta = (loss.loss != "sft").then_some(("beta", Knob::Meta("beta")));
        let value = |knob: &Knob| match knob {
            Knob::Meta(key) => number(&meta[key]),
            Knob::Is(value) => *value,
        };
        beta.iter().chain(loss.knobs).map(|(name, knob)| (*name, value(knob))).collect()
    }

    /// Returns the flags of a loss.
    fn flags(&self, loss: &GoldenLoss) -> Vec<String> {
        let knobs = self.knobs(loss).into_iter();
        let knobs = knobs.flat_map(|(name, value)| [format!("--{}", name.replace('_', "-")), value.to_string()]);
        ["--loss", loss.loss].iter().chain(loss.flags).map(|flag| (*flag).to_owned()).chain(knobs).collect()
    }

    pub(crate) fn objective(&self, loss: &GoldenLoss) -> Objective {
        let knobs: Vec<_> =
            self.knobs(loss).into_iter().map(|(name, value)| (name, KnobValue::Number(value))).collect();
        Objective::new(loss.loss, &knobs).unwrap()
    }

    fn items<'a>(&self, golden: &'a Value) -> &'a Vec<Value> {
        golden["items"].as_array().unwrap_or_else(|| panic!("{}: no items", self.name))
    }

    /// Returns the number of threads to use. The real model gets all threads, because its few runs take longest. A tiny model gets
    /// one, because other tests run at the same time.
    fn threads(&self) -> String {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.part == Part::Real { all() } else { 1 }.to_string()
    }

    /// Runs `align-cli COMMAND` on this model.
    fn run_base<S: AsRef<str>>(&self, command: &str, more: &[S]) -> Run {
        let model = self.model.to_str().unwrap();
        let threads = self.threads();
        let common = [command, "--model", model, "--precision", "f32", "--threads", &threads];
        (self.run)(&common.into_iter().chain(more.iter().map(AsRef::as_ref)).collect::<Vec<_>>())
    }

    /// Runs `align-cli COMMAND` on this model and its adapter.
    fn run<S: AsRef<str>>(&self, command: &str, more: &[S]) -> Run {
        let adapter = ["--adapter", self.adapter.to_str().unwrap()].into_iter();
        self.run_base(command, &adapter.chain(more.iter().map(AsRef::as_ref)).collect::<Vec<_>>())
    }

    /// Runs `eval` on rows with the flags of a loss.
    fn eval(&self, path: &str, mut flags: Vec<String>) -> Value {
        let max_length = self.max_length().to_string();
        flags.extend(["--data", path, "--json", "--max-length", &max_length].map(str::to_owned));
        self.run("eval", &flags).ok().json()
    }

    /// Writes rows to a file. Returns the file and its folder.
    fn data(&self, rows: &[Value]) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = lines_in(folder.path(), "rows.jsonl", rows);
        let path = path.to_str().unwrap().to_owned();
        (folder, path)
    }

    /// Returns the tokens of every row, from `inspect --row`.
    fn tokens(&self, rows: &[Value], max_length: usize) -> Vec<Value> {
        let (_folder, path) = self.data(rows);
        let (model, max_length) = (self.model.to_str().unwrap(), max_length.to_string());
        let dump = |row: usize| {
            let place = row.to_string();
            let arguments =
                ["inspect", "--model", model, "--data", &path, "--row", &place, "--max-length", &max_length, "--json"];
            align(&[&arguments[..], prompt_rule(&rows[row])].concat()).ok().json()["row"][0].clone()
        };
        (0..rows.len()).map(dump).collect()
    }
}

/// Returns the flag with which two texts without a prompt column get the prompt that TRL gives them: their longest common prefix.
fn prompt_rule(row: &Value) -> &'static [&'static str] {
    let is_guess = row.get("prompt").is_none() && row["chosen"].is_string();
    if is_guess { &["--implicit-prompt"] } else { &[] }
}

/// Returns a pair of conversations as strings, as the goldens' maker writes them. A pair of strings stays.
fn plain(row: &Value) -> Value {
    if row["prompt"].is_string() {
        return row.clone();
    }
    let mut prompt = String::new();
    for turn in row["prompt"].as_array().unwrap() {
        let speaker = if turn["role"] == "user" { "Human" } else { "Assistant" };
        prompt += &format!("\n\n{speaker}: {}", turn["content"].as_str().unwrap());
    }
    prompt += "\n\nAssistant:";
    let answer = |name: &str| format!(" {}", row[name][0]["content"].as_str().unwrap());
    json!({"prompt": prompt, "chosen": answer("chosen"), "rejected": answer("rejected")})
}

/// Returns the ids of a token dump `[[id, text], ...]`.
fn dumped(tokens: &Value) -> Vec<u64> {
    tokens.as_array().expect("a list of tokens").iter().map(|token| token[0].as_u64().unwrap()).collect()
}

/// Returns the ids of a dumped row: the prompt, and prompt + answer for each answer.
fn sequences(row: &Value) -> (Vec<u64>, Vec<Vec<u64>>) {
    let prompt = dumped(&row["prompt"]);
    let full = |answer: &Value| [prompt.clone(), dumped(answer)].concat();
    (prompt.clone(), row["answers"].as_array().unwrap().iter().map(full).collect())
}

fn check_tokens(goldens: &Goldens<'_>) {
    for form in goldens.part.forms() {
        let file = form.file("tokens");
        goldens.for_each(&file, |golden, tokens| {
            let items = golden.items(&tokens);
            let rows: Vec<Value> = golden.pairs()[..items.len()].iter().map(|row| form.of(row)).collect();
            for (got, want) in golden.tokens(&rows, 1 << 20).iter().zip(items) {
                let (prompt, answers) = sequences(got);
                let place = format!("{} {file} {}", golden.name, want["id"]);
                let (want_chosen, want_rejected) = (ids(&want["chosen_ids"]), ids(&want["rejected_ids"]));
                assert_eq!(prompt, ids(&want["prompt_ids"]), "{place}: prompt");
                assert_eq!(answers[0][prompt.len()..], want_chosen, "{place}: chosen");
                assert_eq!(answers[1][prompt.len()..], want_rejected, "{place}: rejected");
            }
        });
    }
}

/// The folder in `ALIGN_GOLDENS` may hold any part of the goldens, but it must hold something.
#[test]
fn there_is_something_to_check() {
    let root = goldens_root();
    let models = Goldens::tiny().models().len() + Goldens::real().models().len();
    assert!(models > 0 || root.join("objectives.json").exists(), "{}: no goldens", root.display());
}

#[test]
fn tokens_are_those_of_trl() {
    check_tokens(&Goldens::tiny());
}

fn check_edge_tokens(goldens: &Goldens<'_>) {
    goldens.for_each("tokens_edge.json", |golden, tokens| {
        let max_length = tokens["max_length"].as_u64().unwrap() as usize;
        for item in golden.items(&tokens) {
            let place = format!("{}, {}", golden.name, item["case"]);
            let rows = std::slice::from_ref(&item["row"]);
            if item.get("error").is_some() || item.get("dropped").is_some() {
                let (_folder, path) = golden.data(rows);
                let max_length = max_length.to_string();
                let flags = ["--data", &path, "--json", "--max-length", &max_length];
                let run = golden.run("score", &[&flags, prompt_rule(&rows[0])].concat());
                // the only row is refused or dropped, and a file without usable rows is a bad input file
                assert_eq!(run.code, Some(3), "{place}: {}", run.stderr);
                if let Some(error) = item["error"].as_str() {
                    let reason = error.split(": ").last().unwrap();
                    assert!(run.stderr.contains(reason), "{place}: {}", run.stderr);
                }
                continue;
            }
            let got = &golden.tokens(rows, max_length)[0];
            let (prompt, answers) = sequences(got);
            let kept: Vec<u64> = answers.iter().map(|answer| (answer.len() - prompt.len()) as u64).collect();
            assert_eq!(prompt, ids(&item["prompt_ids"]), "{place}: prompt");
            assert_eq!(answers[0], ids(&item["chosen_input_ids"]), "{place}: chosen");
            assert_eq!(answers[1], ids(&item["rejected_input_ids"]), "{place}: rejected");
            assert_eq!(kept, ids(&item["completion_tokens_kept"]), "{place}: kept");
        }
    });
}

#[test]
fn edge_cases_of_tokens_are_those_of_trl() {
    check_edge_tokens(&Goldens::tiny());
}

/// Compares one answer of `score --per-token` with a golden's item.
fn check_answer(place: &str, got: &Value, want: &Value) {
    assert_eq!(got["tokens"], want["completion_tokens"], "{place}");
    for (ours, theirs) in [("logps", "policy"), ("reference_logps", "reference")] {
        let (got, want) = (number(&got[ours]), number(&want[theirs]));
        assert!((got - want).abs() <= SUM, "{place}: {ours} {got}, golden {want}");
    }
    for (ours, theirs) in [("token_logps", "policy_per_token"), ("reference_token_logps", "reference_per_token")] {
        for (i, (got, want)) in numbers(&got[ours]).iter().zip(numbers(&want[theirs])).enumerate() {
            assert!((got - want).abs() <= TOKEN, "{place}: {ours}[{i}] {got}, golden {want}");
        }
        assert_eq!(numbers(&got[ours]).len(), numbers(&want[theirs]).len(), "{place}");
    }
}

pub(crate) fn check_logps(goldens: &Goldens<'_>) {
    for form in goldens.part.forms() {
        let file = form.file("logps");
        goldens.for_each(&file, |golden, logps| {
            let items = golden.items(&logps);
            let rows: Vec<Value> = golden.pairs()[..items.len() / 2].iter().map(|row| form.of(row)).collect();
            let (_folder, path) = golden.data(&rows);
            let max_length = golden.max_length().to_string();
            let flags = ["--data", &path, "--json", "--per-token", "--max-length", &max_length];
            let run = golden.run("score", &flags).ok();
            let scores = run.json_lines();
            assert_eq!(scores.len(), rows.len());
            for (i, want) in items.iter().enumerate() {
                let side = want["side"].as_str().unwrap();
                let place = format!("{} {file} {} {side}", golden.name, want["id"]);
                let got = &scores[i / 2];
                check_answer(&place, &got[side], want);
                let total = got["prompt_tokens"].as_u64().unwrap() + got[side]["tokens"].as_u64().unwrap();
                assert_eq!(total, want["total_tokens"].as_u64().unwrap(), "{place}");
            }
        });
    }
}

#[test]
fn logps_are_those_of_torch() {
    check_logps(&Goldens::tiny());
}

/// Compares losses and rewards of a batch with those in `losses.json`. `loss_of` computes a loss; `log_ratios` are those of the
/// two answers of each pair.
pub(crate) fn compare_losses(
    golden: &Golden<'_>,
    losses: &Value,
    loss_of: impl Fn(&GoldenLoss) -> f64,
    log_ratios: &[[f64; 2]],
) {
    let beta = number(&golden.meta()["beta"]);
    for (name, want) in losses["loss"].as_object().unwrap() {
        let (got, want) = (loss_of(GoldenLoss::find(name)), number(want));
        // the loss moves by at most beta per nat of a log-ratio (ipo by 2 |h - 1/(2 beta)| / tokens, at most 10 per nat of a
        // mean), so an error of 1e-3 nats moves it by 1e-4 at a beta of 0.1. Two divergences are exponentials of a log-ratio:
        // their loss moves by its own size per nat
        let exponential = name.contains("forward_kl") || name.contains("alpha_divergence");
        let room = if exponential { 2.0 * SUM } else { 1e-4 * (beta / 0.1).max(1.0) };
        assert!((got - want).abs() <= room * want.abs().max(1.0), "{} {name}: {got}, golden {want}", golden.name);
    }
    for (side, key) in ["rewards_chosen", "rewards_rejected"].into_iter().enumerate() {
        let want = numbers(&losses[key]);
        assert_eq!(log_ratios.len(), want.len(), "{} {key}", golden.name);
        for (row, (log_ratios, want)) in log_ratios.iter().zip(want).enumerate() {
            let got = beta * log_ratios[side];
            assert!((got - want).abs() <= beta * 2.0 * SUM, "{} {key}[{row}]: {got}, {want}", golden.name);
        }
    }
}

fn check_losses(goldens: &Goldens<'_>) {
    goldens.for_each("losses.json", |golden, losses| {
        let (folder, path) = golden.data(&golden.pairs()[..golden.batch_rows()]);
        let cache = folder.path().join("cache");
        let loss_of = |loss: &GoldenLoss| {
            let mut flags = golden.flags(loss);
            // all losses score the same rows, so the reference is computed once
            if flags.iter().all(|flag| flag != "--reference-cache") {
                flags.extend(["--reference-cache".to_owned(), cache.to_str().unwrap().to_owned()]);
            }
            number(&golden.eval(&path, flags)["eval_loss"])
        };
        let max_length = golden.max_length().to_string();
        let run = golden.run("score", &["--data", &path, "--json", "--max-length", &max_length]).ok();
        let log_ratio = |answer: &Value| number(&answer["logps"]) - number(&answer["reference_logps"]);
        let log_ratios: Vec<[f64; 2]> =
            run.json_lines().iter().map(|row| ["chosen", "rejected"].map(|side| log_ratio(&row[side]))).collect();
        compare_losses(golden, &losses, loss_of, &log_ratios);
    });
}

#[test]
fn losses_are_those_of_trl() {
    check_losses(&Goldens::tiny());
}

pub(crate) fn check_kto(goldens: &Goldens<'_>) {
    goldens.for_each("kto.json", |golden, kto| {
        let items = golden.items(&kto);
        let (_folder, path) = golden.data(&golden.rows("kto.jsonl")[..items.len()]);
        // the golden is one batch
        let mut flags = golden.flags(&KTO);
        flags.extend(["--batch-size".to_owned(), items.len().to_string()]);
        let eval = golden.eval(&path, flags);
        for (ours, theirs) in [("eval_loss", "loss"), ("eval_kl", "kl")] {
            let (got, want) = (number(&eval[ours]), number(&kto[theirs]));
            assert!((got - want).abs() <= SUM, "{} {theirs}: {got}, golden {want}", golden.name);
        }
        let max_length = golden.max_length().to_string();
        let run = golden.run("score", &["--data", &path, "--json", "--max-length", &max_length]).ok();
        let scores = run.json_lines();
        assert_eq!(scores.len(), items.len(), "{}", golden.name);
        for (score, want) in scores.iter().zip(items) {
            for (ours, theirs) in [("logps", "policy"), ("reference_logps", "reference")] {
                let (got, want) = (number(&score["completion"][ours]), number(&want[theirs]));
                assert!((got - want).abs() <= SUM, "{} {theirs}: {got}, golden {want}", golden.name);
            }
        }
    });
}

#[test]
fn kto_is_that_of_trl() {
    check_kto(&Goldens::tiny());
}

/// Returns the largest difference between `a` and `b` at the same step, relative to `b`.
fn largest_relative(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs() / b.abs()))
}

fn check_trajectory(golden: &Golden<'_>, name: &str, cache: &Path, want: &Value) {
    let meta = golden.meta();
    let of = &meta["trajectory"];
    let kto = name == "kto";
    let data = golden.file_of_rows(if kto { "kto.jsonl" } else { "pairs.jsonl" });
    let batch = if kto { &of["kto_batch_examples"] } else { &of["batch_pairs"] }.to_string();
    let output = tempfile::tempdir().unwrap();
    let text = |key: &str| of[key].to_string();
    let (lr, decay, steps, eps) = (text("lr"), text("weight_decay"), text("steps"), text("eps"));
    let [beta1, beta2] = [0, 1].map(|i| of["betas"][i].to_string());
    let (schedule, max_norm, max_length) =
        (of["schedule"].as_str().unwrap(), text("max_grad_norm"), golden.max_length().to_string());
    let common = [
        "--reference",
        "base",
        "--reference-cache",
        cache.to_str().unwrap(),
        "--data",
        data.to_str().unwrap(),
        "--max-length",
        &max_length,
        "--no-shuffle",
        "--schedule",
        schedule,
        "--max-grad-norm",
        &max_norm,
        "--adam-beta1",
        &beta1,
        "--adam-beta2",
        &beta2,
        "--adam-epsilon",
        &eps,
        "--learning-rate",
        &lr,
        "--weight-decay",
        &decay,
        "--batch-size",
        &batch,
        "--max-steps",
        &steps,
        "--output",
        output.path().to_str().unwrap(),
    ];
    let common = common.map(str::to_owned);
    golden.run("train", &[golden.flags(GoldenLoss::find(name)), common.to_vec()].concat()).ok();
    let lines: Vec<Value> = read_lines(&output.path().join("metrics.jsonl"))
        .into_iter()
        .filter(|line| line.get("loss").is_some())
        .collect();
    let column = |key: &str| -> Vec<f64> { lines.iter().map(|line| number(&line[key])).collect() };

    // 30 times the largest relative change that another attention kernel makes in the goldens' own run
    let tolerance = match (want.get("loss_other_kernel"), want.get("grad_norm_other_kernel")) {
        (Some(loss), Some(grad_norm)) => {
            let change = largest_relative(&numbers(loss), &numbers(&want["loss"]))
                .max(largest_relative(&numbers(grad_norm), &numbers(&want["grad_norm"])));
            (30.0 * change).max(3e-5)
        }
        _ => 2e-3,
    };
    for key in ["loss", "grad_norm"] {
        let (got, want) = (column(key), numbers(&want[key]));
        assert_eq!(got.len(), want.len(), "{} {name}", golden.name);
        let worst = largest_relative(&got, &want);
        assert!(worst <= tolerance, "{} {name}: {key} differs by {worst:e}, allowed {tolerance:e}", golden.name);
    }
    for key in ["rewards/chosen", "rewards/rejected", "rewards/margins", "kl"] {
        let Some(want) = want.get(key).and_then(Value::as_array) else { continue };
        for (step, (line, want)) in lines.iter().zip(want).enumerate() {
            let Some(want) = want.as_f64() else { continue };
            let got = number(&line[key]);
            // a reward is beta times a log-ratio, so its noise is beta times that of a log-ratio. The error is relative to the
            // reward, but at least to a reward of 10 nats, which is 1 at the committed beta
            let least = if key == "kl" { 1.0 } else { 10.0 * number(&meta["beta"]) };
            let error = (got - want).abs() / want.abs().max(least);
            // the reference point is a mean of differences of summed log-probs, so its tolerance is at least their noise, 1e-3
            // nats
            let allowed = if key == "kl" { tolerance.max(SUM) } else { tolerance };
            assert!(error <= allowed, "{} {name} step {step}: {key} {got}, golden {want}", golden.name);
        }
    }
    let adapter = golden.folder.join(format!("final_adapter_{name}.safetensors"));
    if adapter.exists() {
        check_final_adapter(golden, &adapter, output.path(), tolerance);
    }
}

/// Checks that every tensor of the trained adapter differs from the golden by at most `tolerance` of its norm, or 2e-3 of it if
/// that is more.
fn check_final_adapter(golden: &Golden<'_>, want: &Path, output: &Path, tolerance: f64) {
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (got, want) = (read(&output.join("adapter_model.safetensors")), read(want));
    let (got, want) =
        (safetensors::SafeTensors::deserialize(&got).unwrap(), safetensors::SafeTensors::deserialize(&want).unwrap());
    for (name, want) in want.tensors() {
        let got = got.tensor(&name).unwrap_or_else(|e| panic!("{}: {name}: {e}", golden.name));
        let floats = |bytes: &[u8]| -> Vec<f64> {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
        };
        let (got, want) = (floats(got.data()), floats(want.data()));
        let distance = got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f64>().sqrt();
        let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt();
        assert!(distance <= tolerance.max(2e-3) * norm, "{}: {name} differs by {:e}", golden.name, distance / norm);
    }
}

/// Returns all losses of the list.
pub(crate) fn all(_: &Golden<'_>, losses: &'static [&'static str]) -> &'static [&'static str] {
    losses
}

pub(crate) fn check_trajectories(goldens: &Goldens<'_>, chosen: Chosen) {
    // the first loss of pairs computes the reference's log-probs, and the other losses of pairs read them
    let cache = tempfile::tempdir().unwrap();
    for name in WITH_TRAJECTORY {
        goldens.for_each(&format!("trajectory_{name}.json"), |golden, want| {
            if chosen(golden, &WITH_TRAJECTORY).contains(&name) {
                check_trajectory(golden, name, cache.path(), &want);
            }
        });
    }
}

#[test]
fn trajectories_are_those_of_trl() {
    check_trajectories(&Goldens::tiny(), all);
}

pub(crate) fn check_generation(goldens: &Goldens<'_>) {
    goldens.for_each("generate.json", |golden, want| {
        let items = golden.items(&want);
        let (_folder, path) = golden.data(&golden.pairs()[..items.len()]);
        let common = ["--data", &path, "--max-new-tokens", "32", "--json"];
        for which in ["policy", "base"] {
            let run = match which {
                "policy" => golden.run("generate", &common),
                _ => golden.run_base("generate", &common),
            };
            for (got, want) in run.ok().json_lines().iter().zip(items) {
                let gap = number(&want[format!("{which}_min_top2_gap")]);
                // a smaller gap between the two best logits is within the noise of f32
                if gap > 1e-3 {
                    assert_eq!(ids(&got["tokens"]), ids(&want[which]), "{} {which} {}", golden.name, want["id"]);
                } else {
                    eprintln!("skipped: {} {which} {}, gap {gap:e}", golden.name, want["id"]);
                }
            }
        }
    });
}

#[test]
fn greedy_generation_is_that_of_transformers() {
    check_generation(&Goldens::tiny());
}

/// The goldens that are checked on a card too.
#[test]
fn short_goldens_agree() {
    let goldens = Goldens::short();
    check_logps(&goldens);
    check_losses(&goldens);
    check_kto(&goldens);
    check_trajectories(&goldens, all);
}

#[test]
fn smollm2_agrees_with_its_goldens() {
    if std::env::var_os("ALIGN_SMOLLM2").is_none() {
        eprintln!("skipped: smollm2-135m, ALIGN_SMOLLM2 does not name its directory");
        return;
    }
    let goldens = Goldens::real();
    check_tokens(&goldens);
    check_edge_tokens(&goldens);
    check_logps(&goldens);
    check_losses(&goldens);
    check_kto(&goldens);
    check_generation(&goldens);
    check_trajectories(&goldens, all);
}
