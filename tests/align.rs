//! Runs the binary, and reads its output and its files.

use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Returns the root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the folder of the goldens that are in the repository.
pub(crate) fn committed_goldens() -> PathBuf {
    root().join("tests/goldens")
}

/// Returns the folder of a golden's model.
pub(crate) fn golden_model(name: &str) -> PathBuf {
    committed_goldens().join(name).join("model")
}

/// Returns the folder with the inputs of a case about data.
pub(crate) fn data_case(name: &str) -> PathBuf {
    root().join("tests/cases/data").join(name)
}

/// Returns the folder with the inputs of a case about models or runs.
pub(crate) fn model_case(name: &str) -> PathBuf {
    root().join("tests/cases/models").join(name)
}

/// A finished run of `align-cli`.
#[derive(Debug)]
pub(crate) struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `align-cli` with the arguments, from the root of the repository. The user's cache folder is empty.
pub(crate) fn align<S: AsRef<OsStr>>(arguments: &[S]) -> Run {
    let caches = tempfile::tempdir().expect("a temporary directory can be made");
    let run = command(arguments).env("XDG_CACHE_HOME", caches.path()).output();
    Run::of(run.expect("the binary was built for this test"))
}

/// Makes the command that runs `align-cli` with the arguments, from the root of the repository. A command that computes gets one
/// thread, unless the arguments give a number: other tests keep the other processors busy. Tests that start the binary themselves
/// run it with its default.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_align-cli"));
    command.args(arguments).current_dir(root());
    let computing = ["train", "eval", "score", "generate", "merge", "estimate"];
    let computes = arguments.first().is_some_and(|first| computing.iter().any(|name| first.as_ref() == *name));
    let is_threads = |argument: &S| argument.as_ref().to_string_lossy().starts_with("--threads");
    if computes && !arguments.iter().any(is_threads) {
        command.args(["--threads", "1"]);
    }
    command
}

impl Run {
    /// Reads exit code and output of a finished process.
    pub(crate) fn of(Output { status, stdout, stderr }: Output) -> Run {
        let text = |bytes| String::from_utf8(bytes).expect("the binary prints UTF-8");
        Run { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Checks that the run succeeded, and returns it.
    pub(crate) fn ok(self) -> Run {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// Checks that the run ended with this exit code and without a panic, and that stderr contains every part.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "the message lacks {part:?}: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Returns the JSON objects on stdout, one on each line.
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// Returns the single JSON value on stdout.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).expect("a JSON value")
    }
}

/// Returns a path as a string, for a command line.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Copies the files of a folder, which has no folders in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Reads the objects of a JSON lines file.
pub(crate) fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Changes a JSON file in place. A missing one starts as an empty object.
pub(crate) fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = if path.exists() { read_json(path) } else { json!({}) };
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Writes objects as JSON lines.
pub(crate) fn write_lines(path: &Path, rows: &[Value]) {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(path, text).unwrap();
}

/// Writes these objects as JSON lines into the file `name` of `folder`. Returns its path.
pub(crate) fn lines_in(folder: &Path, name: &str, rows: &[Value]) -> PathBuf {
    let path = folder.join(name);
    write_lines(&path, rows);
    path
}

/// Makes a turn of a conversation.
pub(crate) fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Reads a number of a golden or an output.
pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Reads a list of numbers.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value} is not a list")).iter().map(number).collect()
}

/// Reads a list of token ids.
pub(crate) fn ids(value: &Value) -> Vec<u64> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is not a list"));
    list.iter().map(|id| id.as_u64().expect("a token id")).collect()
}
