//! The output directory of a run. The files of an earlier run stay there until the new run has ended.

use crate::error::CliError;
use crate::report::say;
use crate::run_files::{FOLDERS, METRICS, OPTIONAL, OPTIONS, REJECTS, check_output, is_run};
use align_lora::adapter::ADAPTER_WEIGHTS;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Prefix of the name of a folder inside the output directory. A run writes into such a folder if the directory is not empty when
/// the run starts.
const STAGED: &str = ".run-";
/// Files that a run writes before it has an adapter. It may also write the `OPTIONAL` ones.
const BEFORE_THE_ADAPTER: [&str; 3] = [OPTIONS, METRICS, REJECTS];

/// Where the user wants a run's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// In this directory. With `overwrite`, the files of an earlier run there are replaced.
    Named { path: PathBuf, overwrite: bool },
    /// In the first of `<runs>/<name>-1`, `-2`, ... that does not exist.
    Fresh { runs: PathBuf, name: String },
}

/// Where a run writes its files. While this value lives, the directory is locked against other runs, unless the file system has
/// no locks.
#[derive(Debug)]
pub(crate) struct RunFolder {
    output: PathBuf,
    /// A folder inside `output`, if `output` was not empty. At the end, its files replace those of `output`.
    staged: Option<PathBuf>,
    /// Whether this run made the directory.
    made: bool,
    finished: bool,
    /// The open directory, locked. `None` if the file system has no locks.
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes the directory if it does not exist, and reserves it for this run.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a directory that is not empty and may not be overwritten, or that another run writes into;
    /// [`CliError::Runtime`] with the path if the file system fails.
    pub(crate) fn create(output: &Output) -> Result<RunFolder, CliError> {
        let (path, overwrite) = match output {
            Output::Named { path, overwrite } => (path.clone(), *overwrite),
            Output::Fresh { runs, name } => return Self::fresh(runs, name),
        };
        let fail = |error| CliError::file(&path, &error);
        let made = match make_with_parents(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => false,
            Err(error) => return Err(fail(error)),
        };
        let lock = lock(&path)?;
        // checked again, because the directory may have changed while the model was loaded
        check_output(&path, overwrite)?;
        let mut staged = None;
        if !made && fs::read_dir(&path).map_err(fail)?.next().is_some() {
            clear_interrupted(&path).map_err(fail)?;
            let folder = tempfile::Builder::new().prefix(STAGED).tempdir_in(&path).map_err(fail)?.keep();
            say!("output: {}; until the run has ended its files are in {}", path.display(), folder.display());
            staged = Some(folder);
        }
        Ok(RunFolder { output: path, staged, made, finished: false, _lock: lock })
    }

    fn fresh(runs: &Path, name: &str) -> Result<RunFolder, CliError> {
        for n in 1u32.. {
            let path = runs.join(format!("{name}-{n}"));
            match make_with_parents(&path) {
                Ok(()) => {
                    let lock = lock(&path)?;
                    return Ok(RunFolder { output: path, staged: None, made: true, finished: false, _lock: lock });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(CliError::file(&path, &error)),
            }
        }
        unreachable!("there are fewer than 2^32 runs")
    }

    /// Returns the directory that the user named, or the fresh one.
    pub(crate) fn output(&self) -> &Path {
        &self.output
    }

    /// Returns the directory that the run writes into.
    pub(crate) fn path(&self) -> &Path {
        self.staged.as_deref().unwrap_or(&self.output)
    }

    /// Ends the run: moves its files into the output directory, each file in one step.
    ///
    /// # Errors
    /// [`CliError::Runtime`] if a file cannot be moved. Files that have not moved yet stay in the folder into which the run wrote
    /// them.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        // even if a move fails, the run has finished: dropping the value must not remove its files
        self.finished = true;
        let Some(staged) = &self.staged else { return Ok(()) };
        replace(staged, &self.output).map_err(|(path, error)| {
            let (path, staged) = (path.display(), staged.display());
            CliError::Runtime(format!("{path}: {error}; the files of the run that have not moved yet are in {staged}"))
        })
    }
}

/// Moves the files of a run over those of an earlier run. Removes optional files of the earlier run that the new run does not
/// have.
fn replace(staged: &Path, output: &Path) -> Result<(), (PathBuf, io::Error)> {
    let left: Vec<&str> = OPTIONAL.into_iter().filter(|name| !staged.join(name).exists()).collect();
    for folder in FOLDERS.into_iter().filter(|folder| staged.join(folder).exists()) {
        let target = output.join(folder);
        fs::create_dir_all(&target).map_err(|error| (target.clone(), error))?;
        move_files(&staged.join(folder), &target)?;
    }
    move_files(staged, output)?;
    for old in left.into_iter().map(|name| output.join(name)) {
        match fs::remove_file(&old) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err((old, error));
            }
            _ => {}
        }
    }
    // removes the folders of the earlier run that are now empty
    FOLDERS.iter().for_each(|folder| drop(fs::remove_dir(output.join(folder))));
    Ok(())
}

/// Removes the files of a run that failed, unless an adapter is among them, so that the user can give the same command again.
impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if self.path().join(ADAPTER_WEIGHTS).exists() {
            say!("the adapter of the last finished epoch: {}", self.path().display());
            return;
        }
        // ignores errors: the user needs to see the error that ended the run, not these
        match &self.staged {
            Some(staged) => drop(fs::remove_dir_all(staged)),
            None => {
                let files = BEFORE_THE_ADAPTER.iter().chain(&OPTIONAL);
                files.for_each(|name| drop(fs::remove_file(self.output.join(name))));
                FOLDERS.iter().for_each(|name| drop(fs::remove_dir(self.output.join(name))));
                if self.made {
                    let _ = fs::remove_dir(&self.output);
                }
            }
        }
    }
}

/// Moves the files of a directory into another, each in one step, and removes the emptied directory.
fn move_files(from: &Path, to: &Path) -> Result<(), (PathBuf, io::Error)> {
    let fail = |error| (from.to_owned(), error);
    for entry in fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let target = to.join(entry.file_name());
        fs::rename(entry.path(), &target).map_err(|error| (target, error))?;
    }
    fs::remove_dir(from).map_err(fail)
}

/// Makes a directory that does not exist yet, and its parents if they are missing. If several runs try to make it, only one
/// succeeds.
fn make_with_parents(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(path)
}

/// Locks a directory against other runs. `None` if it cannot be locked, for example because the file system has no locks.
fn lock(path: &Path) -> Result<Option<File>, CliError> {
    let folder = File::open(path).map_err(|error| CliError::file(path, &error))?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => {
            let message = "is being written by another run; choose another directory";
            Err(CliError::Usage(format!("--output {} {message}", path.display())))
        }
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Removes the folders that interrupted runs left in an output directory. Keeps and reports a folder that holds an adapter. Also
/// keeps a folder without the options of a run.
fn clear_interrupted(output: &Path) -> io::Result<()> {
    for entry in fs::read_dir(output)? {
        let (entry, path) = entry.map(|entry| (entry.file_name(), entry.path()))?;
        if !entry.to_string_lossy().starts_with(STAGED) || !path.is_dir() {
            continue;
        }
        if path.join(ADAPTER_WEIGHTS).exists() {
            say!("an interrupted run left the adapter of its last finished epoch in {}", path.display());
        } else if is_run(&path) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_A_RUN: &str = "loss = \"dpo\"\nlearning-rate = 1e-5\nseed = 42\n";

    fn named(path: &Path, overwrite: bool) -> Output {
        Output::Named { path: path.to_owned(), overwrite }
    }

    #[test]
    fn old_files_stay_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("metrics.jsonl"), "old").unwrap();
        fs::write(file("config.toml"), OF_A_RUN).unwrap();
        fs::write(file("notes.txt"), "mine").unwrap();
        for folder in FOLDERS {
            fs::create_dir(file(folder)).unwrap();
        }
        OPTIONAL.iter().for_each(|name| fs::write(file(name), "old").unwrap());
        let kept = 3 + OPTIONAL.iter().filter(|name| !name.contains('/')).count() + FOLDERS.len();

        let failed = RunFolder::create(&named(folder.path(), true)).unwrap();
        fs::write(failed.path().join("metrics.jsonl"), "new").unwrap();
        drop(failed);
        assert_eq!(fs::read_to_string(file("metrics.jsonl")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), kept, "nothing of the failed run is left");

        let run = RunFolder::create(&named(folder.path(), true)).unwrap();
        fs::write(run.path().join("metrics.jsonl"), "new").unwrap();
        run.finish().unwrap();
        assert_eq!(fs::read_to_string(file("metrics.jsonl")).unwrap(), "new");
        assert_eq!(fs::read_to_string(file("notes.txt")).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// Files that cannot be moved are not lost.
    #[test]
    fn a_run_that_cannot_be_put_in_place_stays_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), OF_A_RUN).unwrap();
        let run = RunFolder::create(&named(folder.path(), true)).unwrap();
        let staged = run.path().to_owned();
        for name in [ADAPTER_WEIGHTS, METRICS, "chat_template.jinja"] {
            fs::write(staged.join(name), "new").unwrap();
        }
        // a folder that got in the way after the run began
        fs::create_dir_all(folder.path().join(METRICS).join("inside")).unwrap();
        let error = run.finish().unwrap_err().to_string();
        assert!(error.contains(METRICS) && error.contains(&staged.display().to_string()), "{error}");
        let is_there = |name: &str| [folder.path(), &staged].iter().any(|place| place.join(name).is_file());
        assert!([ADAPTER_WEIGHTS, METRICS, "chat_template.jinja"].into_iter().all(is_there));
    }

    #[test]
    fn a_new_directory_is_written_directly() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a/b");
        let run = RunFolder::create(&named(&output, false)).unwrap();
        assert_eq!(run.path(), output);
        run.finish().unwrap();
        assert!(output.is_dir());
    }

    #[test]
    fn runs_that_start_together_get_a_folder_each() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::Fresh { runs: folder.path().join("runs"), name: "dpo".to_owned() };
        let runs = [(); 3].map(|()| RunFolder::create(&output).unwrap());
        let paths = [1, 2, 3].map(|n| folder.path().join(format!("runs/dpo-{n}")));
        assert_eq!(runs.each_ref().map(|run| run.path().to_owned()), paths);
    }

    #[test]
    fn a_folder_that_another_run_writes_into_is_refused() {
        for overwrite in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let output = named(folder.path(), overwrite);
            let first = RunFolder::create(&output).unwrap();
            let error = RunFolder::create(&output).unwrap_err();
            assert!(matches!(&error, CliError::Usage(text) if text.contains("another run")), "{error}");
            fs::write(first.path().join(ADAPTER_WEIGHTS), "first").unwrap();
            fs::write(first.path().join(OPTIONS), OF_A_RUN).unwrap();
            first.finish().unwrap();
            let again = RunFolder::create(&output);
            assert_eq!(again.is_ok(), overwrite, "what has come meanwhile is not replaced unasked");
        }
    }

    #[test]
    fn a_run_that_failed_before_its_adapter_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let output = named(&folder.path().join("out"), false);
        for _ in 0..2 {
            let run = RunFolder::create(&output).unwrap();
            BEFORE_THE_ADAPTER.iter().for_each(|name| fs::write(run.path().join(name), "x").unwrap());
            drop(run);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        let run = RunFolder::create(&output).unwrap();
        fs::write(run.path().join("config.toml"), "x").unwrap();
        fs::write(run.path().join(ADAPTER_WEIGHTS), "x").unwrap();
        drop(run);
        assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 2, "an adapter stays, with what made it");
        // the user made this empty directory, so it stays
        let empty = tempfile::tempdir().unwrap();
        drop(RunFolder::create(&named(empty.path(), false)).unwrap());
        assert!(empty.path().is_dir());
    }

    #[test]
    fn what_an_interrupted_run_has_left_goes_unless_it_is_an_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let inside = |name: &str| folder.path().join(name);
        for name in [".run-one", ".run-two"] {
            fs::create_dir(inside(name)).unwrap();
            fs::write(inside(name).join(OPTIONS), OF_A_RUN).unwrap();
        }
        fs::write(inside(".run-two").join(ADAPTER_WEIGHTS), "x").unwrap();
        fs::create_dir(inside(".run-notes")).unwrap();
        fs::write(inside(".run-notes").join("mine.txt"), "x").unwrap();
        RunFolder::create(&named(folder.path(), true)).unwrap().finish().unwrap();
        assert_eq!([".run-one", ".run-two", ".run-notes"].map(|name| inside(name).exists()), [false, true, true]);
    }
}
