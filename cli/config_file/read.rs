//! `--config FILE.toml`. The file's keys are the flags' names. They become flags before the command line is parsed, so they have
//! the same defaults, checks and messages as typed flags. Typed flags win.

use crate::args::{find_flag, no_counterpart, opposite};
use crate::error::CliError;
use crate::report::say;
use crate::run_files::RECORD;
use crate::run_record::{template_name, template_of_run};
use align_data::{TemplateSources, is_data_set_id, nearest};
use align_engine::bounded_read::{read_any, read_regular};
use align_lora::objective;
use clap::{Arg, ArgAction, Command};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Largest file that is read, in bytes. Lists of data files may be long.
const MOST_BYTES: u64 = 64 << 20;
/// The value that stands for the run's own copy of the chat template.
pub(super) const OWN_TEMPLATE: &str = ".";
/// Flags whose value is always a path. [`resolve`] decides about the values of other flags. A relative path starts at the file's
/// directory.
const PATHS: [&str; 4] = ["adapter", "output", "chat_template", "rejects"];

/// Flags of the command line, each with the flags of the file that it replaces.
const REPLACED: [(&str, &[&str]); 2] = [("warmup_ratio", &["warmup_steps"]), ("warmup_steps", &["warmup_ratio"])];

/// Flags of the file that are left out if the command line makes a choice that does not read them. Each entry: the flag of the
/// choice, the choice, the flags left out.
const UNREAD: [(&str, &str, &[&str]); 3] = [
    ("optim", "rmsprop", &["adam_beta1", "adam_beta2", "adam_epsilon"]),
    ("optim", "adamw", &["rmsprop_alpha"]),
    ("schedule", "constant", &["warmup_steps", "warmup_ratio"]),
];

/// The arguments of the command line together with those of the file.
pub(crate) struct Expanded {
    pub arguments: Vec<OsString>,
    pub(super) path: PathBuf,
    /// Flags of the file, each with its 1-based line.
    pub(super) lines: Vec<(String, usize)>,
}

impl Expanded {
    /// Returns `FILE:LINE` of a flag that the file gave. `flag` is written as in an error: with or without the name of its
    /// value.
    pub(crate) fn place_of(&self, flag: &str) -> Option<String> {
        let name = flag.split([' ', '=']).next()?;
        let (_, line) = self.lines.iter().find(|(known, _)| known == name)?;
        Some(format!("{}:{line}", self.path.display()))
    }
}

/// Adds the flags in the file of `--config` to the arguments.
///
/// # Errors
/// [`CliError::Input`] for a file that cannot be read, an unknown key or a value of the wrong kind, with its line.
pub(crate) fn expand(arguments: Vec<OsString>, cli: &Command) -> Result<Expanded, CliError> {
    let plain = |arguments| Expanded { arguments, path: PathBuf::new(), lines: Vec::new() };
    let Some(path) = config_path(&arguments) else { return Ok(plain(arguments)) };
    let command = |(at, argument): (usize, &OsString)| Some((at, cli.find_subcommand(argument.to_str()?)?));
    let Some((at, command)) = arguments.iter().enumerate().skip(1).find_map(command) else {
        return Ok(plain(arguments));
    };
    let mut given: HashSet<&str> =
        arguments.iter().filter_map(|a| Some(find_flag(command, flag_name(a)?)?.get_id().as_str())).collect();
    let file = ConfigFile::read(&path, FileOrigin::CommandLine)?;
    let replaced = REPLACED.iter().filter(|(flag, _)| given.contains(flag)).flat_map(|(_, others)| *others);
    let unread = UNREAD.iter().filter(|(flag, choice, _)| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == flag);
        arg.is_some_and(|arg| {
            given_choice(&arguments, arg).as_deref() == Some(*choice) && file.choice(arg).as_deref() != Some(*choice)
        })
    });
    let left_out: Vec<&str> = replaced.chain(unread.flat_map(|(.., others)| *others)).copied().collect();
    given.extend(left_out);
    let from_file = flags_of_file(&file, command, &given)?;
    let lines = from_file.iter().map(|flag| (flag.name.clone(), flag.line)).collect();
    let mut all = arguments;
    all.splice(at + 1..at + 1, from_file.into_iter().map(|flag| flag.argument));
    Ok(Expanded { arguments: all, path, lines })
}

fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let Some(text) = argument.to_str() else { continue };
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(value) = text.strip_prefix("--config=") {
            return Some(value.into());
        }
    }
    None
}

/// Returns the choice that the command line makes with a flag. If the flag is repeated, the last one counts.
fn given_choice(arguments: &[OsString], arg: &Arg) -> Option<String> {
    let names = arg.get_long_and_visible_aliases().unwrap_or_default().into_iter();
    let names: Vec<&str> = names.chain(arg.get_all_aliases().unwrap_or_default()).collect();
    let value = |at: usize| {
        let text = arguments[at].to_str()?.strip_prefix("--")?;
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        let value = value.or_else(|| arguments.get(at + 1)?.to_str());
        names.contains(&name).then_some(value).flatten()
    };
    word_of(arg, (0..arguments.len()).rev().find_map(value)?)
}

/// Returns the name of the choice that `text` spells, which may be an alias.
fn word_of(arg: &Arg, text: &str) -> Option<String> {
    Some(arg.get_possible_values().iter().find(|word| word.matches(text, false))?.get_name().to_owned())
}

fn flag_name(argument: &OsString) -> Option<&str> {
    let flag = argument.to_str()?.strip_prefix("--")?;
    Some(flag.split('=').next().unwrap_or(flag))
}

/// A flag that the file gives.
pub(super) struct FileFlag {
    pub name: String,
    pub argument: OsString,
    pub line: usize,
}

impl FileFlag {
    /// Returns the value of the flag. `None` for a switch.
    pub(super) fn value(&self) -> Option<String> {
        Some(self.argument.to_string_lossy().strip_prefix(&format!("{}=", self.name))?.to_owned())
    }
}

fn flags_of_file(file: &ConfigFile, command: &Command, given: &HashSet<&str>) -> Result<Vec<FileFlag>, CliError> {
    let mut flags = Vec::new();
    for key in file.table.keys() {
        let Some(arg) = find_flag(command, key).filter(|arg| arg.get_id() != "config") else {
            if let Some(instead) = no_counterpart(key) {
                return Err(file.fail(key, format!("there is no `{key}`: {instead}")));
            }
            let flags = command.get_arguments().filter_map(Arg::get_long);
            let similar = nearest(&key.replace('_', "-"), flags);
            let similar = similar.map_or(String::new(), |flag| format!("; did you mean `{flag}`?"));
            return Err(file.fail(key, format!("`{key}` is not a flag of `{}`{similar}", command.get_name())));
        };
        if !given.contains(arg.get_id().as_str()) {
            if arg.get_id() == "chat_template" && file.table[key].as_str() == Some(OWN_TEMPLATE) {
                check_own_template(file, key)?;
            }
            flags.extend(file.flags(key, command, arg)?);
        }
    }
    Ok(flags)
}

/// Warns if the template beside a run's options is no longer that of the run. Fails if the folder has no record of a run.
fn check_own_template(file: &ConfigFile, key: &str) -> Result<(), CliError> {
    let folder = file.path.parent().unwrap_or(Path::new(""));
    let Some(name) = template_of_run(folder)? else {
        return Err(file.fail(
            key,
            format!(
                "`{key} = \"{OWN_TEMPLATE}\"` means the copy that a run keeps beside its options, but this folder has no \
                 {RECORD} of a run; give the path of the template, or --chat-template"
            ),
        ));
    };
    let now = TemplateSources::of_folder(folder)?;
    if template_name(now.as_ref()) != name {
        say!(
            "warning: {}: the chat template beside it is not that of the run; it is used anyway (--chat-template gives another)",
            file.path.display()
        );
    }
    Ok(())
}

/// Who named the file.
pub(super) enum FileOrigin {
    /// The user named it. It may be a pipe.
    CommandLine,
    /// Nobody named it: it was found in the folder of an adapter.
    Run,
}

/// A TOML file whose keys are flags.
pub(super) struct ConfigFile {
    pub path: PathBuf,
    pub table: toml::Table,
    text: String,
}

impl ConfigFile {
    /// Reads and parses the file.
    ///
    /// # Errors
    /// [`CliError::Input`] for a file that cannot be read or is not TOML.
    pub(super) fn read(path: &Path, origin: FileOrigin) -> Result<ConfigFile, CliError> {
        let fail = |what: String| CliError::Input(format!("{}: {what}", path.display()));
        let bytes = match origin {
            FileOrigin::CommandLine => read_any(path, MOST_BYTES),
            FileOrigin::Run => read_regular(path, MOST_BYTES),
        };
        let bytes = bytes.map_err(|error| fail(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| fail("is not UTF-8".to_owned()))?;
        let table = text.parse().map_err(|error: toml::de::Error| {
            let what = other_format(path, &text).unwrap_or_else(|| error.to_string());
            CliError::Input(format!("{}: {what}", path.display()))
        })?;
        Ok(ConfigFile { path: path.to_owned(), table, text })
    }

    /// Returns the choice that the file makes for `arg`, or else the default.
    fn choice(&self, arg: &Arg) -> Option<String> {
        let has_name = |key: &&String| arg.get_long().is_some_and(|long| key.replace('_', "-") == long);
        let by_alias = |key: &&String| arg.get_all_aliases().unwrap_or_default().contains(&key.as_str());
        let key = self.table.keys().find(|key| has_name(key) || by_alias(key));
        match key {
            Some(key) => word_of(arg, self.table[key].as_str()?),
            None => word_of(arg, arg.get_default_values().first()?.to_str()?),
        }
    }

    /// Makes an error about the value of a key, with its line.
    pub(super) fn fail(&self, key: &str, what: String) -> CliError {
        CliError::Input(format!("{}:{}: {what}", self.path.display(), line_of(&self.text, key)))
    }

    /// Returns the flags that give the argument `arg` of `command` the value of `key`: one flag for each value of a list. A
    /// switch that is off becomes the opposite flag, if there is one and the switch is no knob of a loss.
    ///
    /// # Errors
    /// [`CliError::Input`] for a value of the wrong kind, with its line.
    pub(super) fn flags(&self, key: &str, command: &Command, arg: &Arg) -> Result<Vec<FileFlag>, CliError> {
        let value = &self.table[key];
        let line = line_of(&self.text, key);
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let flag = format!("--{}", arg.get_long().expect("only flags are found by name"));
        if let ArgAction::SetTrue = arg.get_action() {
            let switched = |name: String| vec![FileFlag { argument: name.clone().into(), name, line }];
            return match value {
                toml::Value::Boolean(true) => Ok(switched(flag)),
                toml::Value::Boolean(false) => {
                    Ok(opposite_of(command, arg).filter(|_| !is_knob(arg)).map(switched).unwrap_or_default())
                }
                other => Err(self.fail(key, format!("`{key}` is {}, expected true or false", other.type_str()))),
            };
        }
        let values = match value {
            toml::Value::Array(values) => values.iter().collect(),
            single => vec![single],
        };
        let mut flags = Vec::new();
        for value in values {
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                other => {
                    let what = format!("`{key}` is {}, expected text or a number", other.type_str());
                    return Err(self.fail(key, what));
                }
            };
            let mut argument = OsString::from(format!("{flag}="));
            argument.push(resolve(arg.get_id().as_str(), text, folder));
            flags.push(FileFlag { name: flag.clone(), argument, line });
        }
        Ok(flags)
    }
}

/// Whether a flag is a knob of a loss. A run's file also lists switches that are off. If a preset turns such a switch on, it
/// would refuse the flag that turns it off.
fn is_knob(arg: &Arg) -> bool {
    objective::knobs().iter().any(|(knob, _)| arg.get_id() == knob.key)
}

/// Returns the flag that turns a switch off.
fn opposite_of(command: &Command, switch: &Arg) -> Option<String> {
    let id = opposite(switch.get_id().as_str());
    let arg = command.get_arguments().find(|arg| *arg.get_id() == id)?;
    arg.get_long().map(|long| format!("--{long}"))
}

/// Joins a path in the file to the file's directory. Leaves other values as they are.
fn resolve(id: &str, text: String, folder: &Path) -> OsString {
    let inside = folder.join(&text);
    let is_path = match id {
        "model" => inside.is_dir(),
        "data" | "eval_data" | "reference_data" => inside.exists() || !is_data_set_id(&text),
        "reference" => text != "base",
        "reference_cache" => text != "memory" && text != "off",
        "data_cache" => text != "off",
        id => PATHS.contains(&id),
    };
    if is_path { inside.into_os_string() } else { text.into() }
}

/// Returns the 1-based line of a top-level key. Returns 1 if the key is not found.
fn line_of(text: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let name = line.split('=').next().unwrap_or("").trim().trim_matches(['"', '\'']);
        name == key || line.trim().trim_matches(['[', ']']) == key
    };
    text.lines().position(is_key).map_or(1, |line| line + 1)
}

/// Guesses the format of a file that is not TOML, and shows its first entry as TOML.
fn other_format(path: &Path, text: &str) -> Option<String> {
    let is_named = |endings: &[&str]| {
        path.extension().is_some_and(|ending| endings.iter().any(|known| ending.eq_ignore_ascii_case(known)))
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#') && *line != "---");
    let entry = |line: &str| {
        let (key, value) = line.trim_matches(['{', '}', ',', ' ']).split_once(':')?;
        let (key, value) = (key.trim_matches(['"', '\'', ' ']), value.trim().trim_matches(['"', '\'', ',']));
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let is_bare = value.parse::<f64>().is_ok() || matches!(value, "true" | "false");
        let value = if is_bare { value.to_owned() } else { format!("{value:?}") };
        is_key.then(|| format!("{key} = {value}"))
    };
    let found = match text.trim_start().as_bytes() {
        [b'{', ..] => "JSON",
        _ if is_named(&["json"]) => "JSON",
        _ if is_named(&["yaml", "yml"]) || text.trim_start().starts_with("---") => "YAML",
        _ if lines.clone().next().and_then(entry).is_some() => "YAML",
        _ => return None,
    };
    let first = lines.clone().find_map(entry).map_or(String::new(), |entry| format!(", `{entry}` for its first key"));
    Some(format!("seems to be {found}; a configuration is TOML{first}"))
}
