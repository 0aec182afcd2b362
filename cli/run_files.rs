//! The names of a run's files, and which directories a run may write them into.

use crate::error::CliError;
use crate::run_record::read_bounded;
use align_data::{TEMPLATE_FILE, TEMPLATE_FOLDER};
use align_engine::model::REFERENCE;
use align_lora::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use std::io;
use std::path::Path;

/// The file with every option and its resolved value.
pub(crate) const OPTIONS: &str = "config.toml";
/// The file with one line for each step and each evaluation.
pub(crate) const METRICS: &str = "metrics.jsonl";
/// The file with the rows that a run left out. Only runs with `--on-bad-row skip` and without `--rejects` write it.
pub(crate) const REJECTS: &str = "rejects.jsonl";
/// The file with the run's record: hashes and running statistics.
pub(crate) const RECORD: &str = "run_state.json";
/// Files that every run writes once it has an adapter.
pub(crate) const ALWAYS: [&str; 5] = [OPTIONS, METRICS, ADAPTER_WEIGHTS, ADAPTER_CONFIG, RECORD];
/// Files that only some runs have.
pub(crate) const OPTIONAL: [&str; 5] = [
    REJECTS,
    TEMPLATE_FILE,
    "additional_chat_templates/tool_use.jinja",
    "reference/adapter_model.safetensors",
    "reference/adapter_config.json",
];
/// Folders that only some runs have.
pub(crate) const FOLDERS: [&str; 2] = [TEMPLATE_FOLDER, REFERENCE];

/// Refuses an output directory that is not empty. With `overwrite`, refuses only
/// - the folder of a model,
/// - a folder that is not a run's but has a file named like a run's (the two files of an adapter may be replaced),
/// - a folder with a file where a run makes a folder, or with a folder where a run writes a file.
///
/// # Errors
/// [`CliError::Usage`] if the directory is refused or cannot be read.
pub(crate) fn check_output(path: &Path, overwrite: bool) -> Result<(), CliError> {
    let fail = |what: String| Err(CliError::Usage(format!("--output {} {what}", path.display())));
    match std::fs::read_dir(path) {
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CliError::Usage(format!("--output {}: {error}", path.display()))),
    }
    if !overwrite {
        return fail("is not empty; choose another directory, or give --overwrite".to_owned());
    }
    if path.join("config.json").exists() {
        return fail(
            "is the folder of a model (config.json), which --overwrite does not touch; choose another directory"
                .to_owned(),
        );
    }
    let files = ALWAYS.iter().chain(&OPTIONAL);
    if let Some(name) = files.clone().find(|name| path.join(name).is_dir()) {
        return fail(format!("holds a folder `{name}`, where a run writes a file; choose another directory"));
    }
    if let Some(name) = FOLDERS.iter().find(|name| path.join(name).exists() && !path.join(name).is_dir()) {
        return fail(format!("holds a file `{name}`, where a run makes a folder; choose another directory"));
    }
    // an adapter may be replaced, whoever made it
    let is_adapter = |name: &str| [ADAPTER_WEIGHTS, ADAPTER_CONFIG].contains(&name);
    match files.clone().find(|name| !is_adapter(name) && path.join(name).exists()) {
        Some(name) if !is_run(path) => fail(format!(
            "holds `{name}` and is not the folder of a run: --overwrite replaces only runs and adapters; choose another directory"
        )),
        _ => Ok(()),
    }
}

/// Whether `train` has written into a directory: it has the options, metrics and adapter of a run, or at least options with keys
/// that every run writes.
pub(crate) fn is_run(path: &Path) -> bool {
    let keys = ["loss", "learning-rate", "seed"];
    [OPTIONS, METRICS, ADAPTER_WEIGHTS].iter().all(|name| path.join(name).exists())
        || options(path).is_some_and(|options| keys.iter().all(|key| options.contains_key(*key)))
}

/// Reads the options of the run in a folder. `None` if they cannot be read.
pub(crate) fn options(path: &Path) -> Option<toml::Table> {
    String::from_utf8(read_bounded(&path.join(OPTIONS)).ok()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_runs_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |part: &str| match check_output(folder.path(), true) {
            Err(CliError::Usage(text)) => assert!(text.contains(part), "{text}"),
            other => panic!("{other:?} instead of {part}"),
        };
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        check_output(&folder.path().join("new"), false).unwrap();
        check_output(folder.path(), false).unwrap();
        write("notes.txt", "mine");
        check_output(folder.path(), true).unwrap();
        assert!(check_output(folder.path(), false).is_err());
        write("config.toml", "[package]\nname = \"other\"\n");
        refused("`config.toml` and is not the folder of a run");
        write("config.toml", "loss = \"dpo\"\nlearning-rate = 1e-5\nseed = 42\n");
        check_output(folder.path(), true).unwrap();
        write("reference", "a list of books");
        refused("a file `reference`");
        fs::remove_file(folder.path().join("reference")).unwrap();
        fs::create_dir(folder.path().join("metrics.jsonl")).unwrap();
        refused("a folder `metrics.jsonl`");
        fs::remove_dir(folder.path().join("metrics.jsonl")).unwrap();
        write("config.json", "{}");
        refused("the folder of a model");
    }

    #[test]
    fn of_another_programs_folder_the_adapter_alone_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| fs::write(folder.path().join(name), "{}").unwrap();
        [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "README.md"].into_iter().for_each(write);
        check_output(folder.path(), true).unwrap();
        write(TEMPLATE_FILE);
        assert!(
            matches!(check_output(folder.path(), true), Err(CliError::Usage(text)) if text.contains(TEMPLATE_FILE))
        );
    }
}
