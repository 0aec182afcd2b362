//! The output directory of a run: what an earlier run left there stays until the new one has ended.

use crate::error::CliError;
use crate::report::say;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows that a run left out. A run that leaves none out has no such file.
pub const REJECTS: &str = "rejects.jsonl";

/// Where a run writes its files.
pub struct RunFolder {
    output: PathBuf,
    /// A folder inside `output`, where that held something before: its files replace those of `output` at the end.
    staged: Option<PathBuf>,
}

impl RunFolder {
    /// Makes the directory if need be.
    ///
    /// # Errors
    /// [`CliError::Runtime`] with the path.
    pub fn create(output: &Path) -> Result<RunFolder, CliError> {
        let fail = |error| CliError::file(output, &error);
        fs::create_dir_all(output).map_err(fail)?;
        let holds_something = fs::read_dir(output).map_err(fail)?.next().is_some();
        let staged = match holds_something {
            true => Some(tempfile::Builder::new().prefix(".run-").tempdir_in(output).map_err(fail)?.keep()),
            false => None,
        };
        Ok(RunFolder { output: output.to_owned(), staged })
    }

    /// The directory that the run writes into.
    pub fn path(&self) -> &Path {
        self.staged.as_deref().unwrap_or(&self.output)
    }

    /// The run has ended: its files take their names in the output directory, each in one step.
    ///
    /// # Errors
    /// [`CliError::Runtime`] with the path; what has not moved yet stays where it is.
    pub fn finish(mut self) -> Result<(), CliError> {
        if let Some(staged) = &self.staged {
            let fail = |error| CliError::file(staged, &error);
            let has_rejects = staged.join(REJECTS).exists();
            for entry in fs::read_dir(staged).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let target = self.output.join(entry.file_name());
                fs::rename(entry.path(), &target).map_err(|error| CliError::file(&target, &error))?;
            }
            fs::remove_dir(staged).map_err(fail)?;
            if !has_rejects {
                let old = self.output.join(REJECTS);
                match fs::remove_file(&old) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(CliError::file(&old, &error));
                    }
                    _ => {}
                }
            }
        }
        self.staged = None;
        Ok(())
    }
}

/// A run that failed takes its files along, unless an adapter is among them.
impl Drop for RunFolder {
    fn drop(&mut self) {
        let Some(staged) = &self.staged else { return };
        match staged.join("adapter_model.safetensors").exists() {
            true => say!("the adapter of the last finished epoch: {}", staged.display()),
            // best effort: an error has been reported already
            false => drop(fs::remove_dir_all(staged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_files_stay_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("metrics.jsonl"), "old").unwrap();
        fs::write(file("notes.txt"), "mine").unwrap();
        fs::write(file(REJECTS), "old").unwrap();

        let failed = RunFolder::create(folder.path()).unwrap();
        fs::write(failed.path().join("metrics.jsonl"), "new").unwrap();
        drop(failed);
        assert_eq!(fs::read_to_string(file("metrics.jsonl")).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing of the failed run is left");

        let run = RunFolder::create(folder.path()).unwrap();
        fs::write(run.path().join("metrics.jsonl"), "new").unwrap();
        run.finish().unwrap();
        assert_eq!(fs::read_to_string(file("metrics.jsonl")).unwrap(), "new");
        assert_eq!(fs::read_to_string(file("notes.txt")).unwrap(), "mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_directory_is_written_directly() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("a/b");
        let run = RunFolder::create(&output).unwrap();
        assert_eq!(run.path(), output);
        run.finish().unwrap();
        assert!(output.is_dir());
    }
}
