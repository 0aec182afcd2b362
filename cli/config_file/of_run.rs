//! The options of a run, for a command that uses its adapter. Options that decide tokens or numbers come from the run's
//! `config.toml`, unless the command line gives them. The file is read as `--config` would read it.

use super::read::{ConfigFile, Expanded, FileFlag, FileOrigin};
use crate::args::{find_flag, opposite};
use crate::error::CliError;
use crate::report::say;
use crate::run_files::{OPTIONS, is_run};
use align_data::{RowKind, TEMPLATE_FILE};
use align_engine::json::shorten;
use align_lora::adapter::{ADAPTER_CONFIG, LoraConfig};
use align_lora::objective::{self, Scores};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Maximum number of characters of a value in the line that reports it.
const LONGEST: usize = 60;
/// Options that decide how a prompt becomes tokens.
const PROMPTS: &[&str] = &["chat-template", "chat", "system"];
/// Options that decide how a row becomes tokens.
const ROWS: &[&str] = &["columns", "implicit-prompt", "max-length"];
/// Options that decide which tokens are scored.
const SCORED: &[&str] = &["sft-on"];
/// Options that decide which pairs are made from scored answers.
const PAIRS: &[&str] = &["pairs"];
/// Other options that decide log-probs.
const LOG_PROBS: &[&str] = &["precision", "logp-temperature"];
/// Other options that decide an evaluation.
const EVALUATION: &[&str] = &["batch-size", "micro-batch-tokens", "unpaired-order", "on-bad-row", "allow-drops"];

/// Returns the options that a command takes over from a run. `eval` also takes the loss and its knobs. A key of the run's file is
/// ignored if it is not a flag of the command in this version. Commands without an entry take nothing.
fn takes(command: &str, matches: &ArgMatches) -> &'static [&'static [&'static str]] {
    match command {
        // `logp-temperature` is left out: a reward is not a log-prob
        "eval" if scores_rewards(matches) => &[PROMPTS, ROWS, &["precision"], EVALUATION],
        "eval" => &[PROMPTS, ROWS, LOG_PROBS, EVALUATION],
        "score" if is_given(matches, "reward_model") => &[PROMPTS, ROWS, SCORED, &["precision"]],
        "score" => &[PROMPTS, ROWS, SCORED, LOG_PROBS],
        "inspect" if has_data(matches) => &[PROMPTS, ROWS, SCORED, PAIRS],
        // the new run may have another loss and other rows: `options_of_run` adds `SCORED` only if the loss is the same
        "train" | "estimate" => &[PROMPTS, ROWS],
        "generate" if has_data(matches) => &[PROMPTS, &["columns", "implicit-prompt"]],
        "generate" => &[PROMPTS],
        "merge" => &[&["chat-template"]],
        _ => &[],
    }
}

/// Whether the command has rows to read.
fn has_data(matches: &ArgMatches) -> bool {
    is_given(matches, "data") || is_given(matches, "demo")
}

/// Whether the command line names a loss of a reward model.
fn scores_rewards(matches: &ArgMatches) -> bool {
    let loss = matches.get_one::<String>("loss").and_then(|loss| objective::reads(loss).ok());
    loss.is_some_and(|(_, scores)| scores == Scores::Reward)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).unwrap_or(false) && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// What a command takes from the run whose adapter it uses.
pub(crate) struct OfRun {
    /// The arguments of the command line, split after the command's name.
    arguments: [Vec<OsString>; 2],
    flags: Vec<FileFlag>,
    path: PathBuf,
    /// A line about what was taken. Empty if there is nothing to report.
    pub words: String,
}

impl OfRun {
    /// Returns the arguments of the command line together with the flags taken from the run.
    pub(crate) fn expanded(&self) -> Expanded {
        self.expanded_but("")
    }

    /// Returns the run's value of a flag. `None` if the run does not give the flag, or if the flag is a switch.
    pub(crate) fn value_of(&self, flag: &str) -> Option<String> {
        let of_run = self.flags.iter().find(|of_run| of_run.name == flag)?;
        of_run.value()
    }

    /// Returns the path of the run's `config.toml`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the arguments like [`OfRun::expanded`], but leaves out the run's flag `flag`.
    pub(crate) fn expanded_but(&self, flag: &str) -> Expanded {
        let [before, behind] = &self.arguments;
        let flags = || self.flags.iter().filter(|of_run| of_run.name != flag);
        let arguments = before.iter().chain(flags().map(|flag| &flag.argument)).chain(behind);
        let lines = flags().map(|flag| (flag.name.clone(), flag.line)).collect();
        Expanded { arguments: arguments.cloned().collect(), path: self.path.clone(), lines }
    }
}

/// Returns the options of the run whose adapter the command uses. `None` if the command takes no options over, uses no adapter,
/// or uses an adapter that no run made.
///
/// # Errors
/// [`CliError::Input`] if the `config.toml` cannot be read or has a value of the wrong kind. For `eval` also if the rank or alpha
/// in it differs from `adapter_config.json`: the file then belongs to another adapter.
pub(crate) fn options_of_run(
    arguments: &[OsString],
    matches: &ArgMatches,
    cli: &Command,
) -> Result<Option<OfRun>, CliError> {
    let Some((name, matches)) = matches.subcommand() else { return Ok(None) };
    let command = cli.find_subcommand(name).expect("it was parsed as one of these");
    let takes = takes(name, matches);
    let Some(dir) = adapter_of(matches).filter(|_| !takes.is_empty()) else { return Ok(None) };
    let path = dir.join(OPTIONS);
    if !is_run(dir) {
        return Ok(None);
    }
    let file = ConfigFile::read(&path, FileOrigin::Run)?;
    check(&file, dir, name)?;
    let mut keys: Vec<&str> = takes.concat();
    if name == "eval" {
        keys.extend(loss_keys(matches, &file.table));
        keys.extend(keys_for_rows_of(matches, &file.table));
    }
    let mut taken = Taken { command, matches, flags: Vec::new(), words: Vec::new() };
    for key in file.table.keys().filter(|key| keys.contains(&key.as_str()) && *key != "chat-template") {
        taken.add(&file, key)?;
    }
    if ["train", "estimate"].contains(&name) && same_loss(matches, &file.table) {
        SCORED.iter().filter(|key| file.table.contains_key(**key)).try_for_each(|key| taken.add(&file, key))?;
    }
    if keys.contains(&"chat-template") {
        taken.add_template(&file, dir)?;
    }
    let Taken { flags, words, .. } = taken;
    let at = arguments.iter().skip(1).position(|argument| argument.to_str() == Some(name)).expect("it was parsed");
    let (before, behind) = arguments.split_at(at + 2);
    let words = if words.is_empty() { String::new() } else { format!("from {}: {}", dir.display(), words.join(", ")) };
    Ok(Some(OfRun { arguments: [before.to_vec(), behind.to_vec()], flags, path, words }))
}

/// Returns the directory of `--reward-model` or `--adapter`. `None` if neither flag is given.
fn adapter_of(matches: &ArgMatches) -> Option<&Path> {
    let dir = |id| matches.try_get_one::<PathBuf>(id).ok().flatten().map(PathBuf::as_path);
    dir("reward_model").or_else(|| dir("adapter"))
}

struct Taken<'a> {
    command: &'a Command,
    matches: &'a ArgMatches,
    flags: Vec<FileFlag>,
    words: Vec<String>,
}

impl Taken<'_> {
    fn add(&mut self, file: &ConfigFile, key: &str) -> Result<(), CliError> {
        let decided = |id: &str| is_given(self.matches, id) || is_given(self.matches, &opposite(id));
        let Some(arg) = find_flag(self.command, key).filter(|arg| !decided(arg.get_id().as_str())) else {
            return Ok(());
        };
        if is_nothing(&file.table[key]) {
            return Ok(());
        }
        let flags = file.flags(key, self.command, arg)?;
        for flag in &flags {
            let value = flag.value().unwrap_or_default();
            let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            if default != [value.as_str()] {
                self.words.push(format!("{key} {}", shorten(&value, LONGEST)).trim_end().to_owned());
            }
        }
        self.flags.extend(flags);
        Ok(())
    }

    /// Adds the flag that names the run's own copy of its chat template. If the run has no copy, adds the run's option
    /// `chat-template`.
    fn add_template(&mut self, file: &ConfigFile, dir: &Path) -> Result<(), CliError> {
        if !dir.join(TEMPLATE_FILE).exists() {
            return if file.table.contains_key("chat-template") { self.add(file, "chat-template") } else { Ok(()) };
        }
        if find_flag(self.command, "chat-template").is_some() && !is_given(self.matches, "chat_template") {
            let mut argument = OsString::from("--chat-template=");
            argument.push(dir);
            self.flags.push(FileFlag { name: "--chat-template".to_owned(), argument, line: 1 });
            self.words.push("its chat template".to_owned());
        }
        Ok(())
    }
}

/// Whether a value means the same as leaving the option out.
fn is_nothing(value: &toml::Value) -> bool {
    matches!(value, toml::Value::Boolean(false)) || value.as_str() == Some("")
}

/// Whether the command names exactly the run's loss. A preset counts as another loss, since its numbers differ from those of
/// the loss it is based on.
fn same_loss(matches: &ArgMatches, run: &toml::Table) -> bool {
    let name = |loss: &str| objective::canonical_name(loss).ok();
    let of_run = run.get("loss").and_then(toml::Value::as_str).and_then(name);
    of_run.is_some() && matches.get_one::<String>("loss").and_then(|loss| name(loss)) == of_run
}

/// Returns the keys of a run's loss and knobs that the command line does not decide. If the command line names another loss
/// than the run's, it decides all of them.
fn loss_keys(matches: &ArgMatches, run: &toml::Table) -> Vec<&'static str> {
    if is_given(matches, "loss") && !same_loss(matches, run) {
        return Vec::new();
    }
    let all: HashMap<&str, _> = objective::knobs().into_iter().map(|(knob, _)| (knob.key, knob)).collect();
    let decided = |key: &str| {
        let replaces = |by: &str, what: &str| all.get(by).is_some_and(|by| by.replaces == Some(what));
        let decides = |given: &str| given == key || replaces(given, key) || replaces(key, given);
        all.keys().any(|given| is_given(matches, given) && decides(given))
    };
    let knobs = all.values().filter(|knob| !decided(knob.key)).map(|knob| knob.flag);
    knobs.chain(["loss"]).collect()
}

/// Returns the options that depend on which kind of rows the loss reads. The loss is the one that the command line names, or else
/// the run's.
fn keys_for_rows_of(matches: &ArgMatches, run: &toml::Table) -> &'static [&'static str] {
    let given = matches.get_one::<String>("loss").filter(|_| is_given(matches, "loss"));
    let loss = given.map(String::as_str).or_else(|| run.get("loss")?.as_str());
    match loss.and_then(|loss| objective::reads(loss).ok()) {
        Some((RowKind::Sequence, _)) => SCORED,
        Some((RowKind::Pair, _)) => PAIRS,
        Some((RowKind::Labelled | RowKind::Scored, _)) | None => &[],
    }
}

/// Checks that the file has the rank and alpha of the adapter beside it. If they differ, `eval` fails and other commands warn.
/// Also refuses a `max-length` that is not a valid number of tokens.
fn check(file: &ConfigFile, dir: &Path, command: &str) -> Result<(), CliError> {
    let fail = |what: String| CliError::Input(format!("{}: {what}", file.path.display()));
    let config = LoraConfig::read(&dir.join(ADAPTER_CONFIG))?;
    let number =
        |key: &str| file.table.get(key).and_then(|value| value.as_float().or(value.as_integer().map(|n| n as f64)));
    for (key, adapter) in [("lora-rank", config.rank as f64), ("lora-alpha", config.alpha)] {
        if let Some(run) = number(key).filter(|run| *run != adapter) {
            let what = format!("`{key}` is {run}, but adapter_config.json beside it says {adapter}");
            // the result is compared with the run's own evaluations, so the adapter must be the run's
            if command == "eval" {
                return Err(fail(format!(
                    "{what}: the adapter is not as the run left it, or the files are from different runs; restore it, or move \
                     {OPTIONS} away to give the options yourself"
                )));
            }
            say!(
                "warning: {}: {what}: the adapter is not as the run left it; it is used anyway, with the run's options",
                file.path.display()
            );
        }
    }
    let whole =
        |value: &toml::Value| value.as_integer().is_some_and(|tokens| (1..=i64::from(u32::MAX)).contains(&tokens));
    if let Some(found) = file.table.get("max-length").filter(|value| !whole(value)) {
        return Err(fail(format!("`max-length` is {found}, expected a whole number of tokens from 1")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key must be a flag of `eval`, and `train` must write it into `config.toml`.
    #[test]
    fn options_of_runs_are_flags_and_are_written() {
        let cli = crate::args::command();
        let writer = include_str!("write.rs");
        for key in [PROMPTS, ROWS, SCORED, PAIRS, LOG_PROBS, EVALUATION].concat() {
            assert!(cli.find_subcommand("eval").and_then(|eval| find_flag(eval, key)).is_some(), "{key}");
            assert!(writer.contains(&format!("put(\"{key}\",")), "{key}");
        }
    }
}
