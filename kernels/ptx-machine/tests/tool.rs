//! The command `ptx driver`, run from a folder that looks like cargo's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A folder that is deleted at the end. There is one at a time: a program cannot be run while a process that another test just
/// started still has its file open for writing.
struct Folder(PathBuf, #[expect(dead_code)] MutexGuard<'static, ()>);

impl Folder {
    /// Makes `target/release` with a copy of the tool.
    fn new(name: &str) -> Folder {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = std::env::temp_dir().join(format!("ptx-tool-{name}-{}", std::process::id()));
        let folder = Folder(folder, alone);
        std::fs::create_dir_all(folder.profile().join("deps")).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_ptx"), folder.profile().join("ptx")).unwrap();
        folder
    }

    fn profile(&self) -> PathBuf {
        self.0.join("target/release")
    }

    /// Runs `ptx driver TO`. Returns what it prints, or the error of a run that exits with 1.
    fn driver(&self, to: &Path) -> Result<String, String> {
        let run = Command::new(self.profile().join("ptx")).arg("driver").arg(to).current_dir(&self.0).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match run.status.code() {
            Some(0) => Ok(text(&run.stdout)),
            code => Err(format!("{code:?} {}", text(&run.stderr))),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_driver_is_copied_under_both_names() {
    let folder = Folder::new("copy");
    let built = folder.profile().join("deps/libptx_driver.so");
    for content in ["first", "second"] {
        std::fs::write(&built, content).unwrap();
        let printed = folder.driver(Path::new("new/out")).unwrap();
        let out = folder.0.join("new/out").canonicalize().unwrap();
        assert!(printed.starts_with(&format!("LD_LIBRARY_PATH={} ", out.display())), "{printed}");
        std::fs::write(&built, "built again").unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&out).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["libcuda.so", "libcuda.so.1"]);
        assert!(names.iter().all(|name| std::fs::read_to_string(out.join(name)).unwrap() == content));
    }
}

#[test]
fn no_driver_is_laid_out_in_cargos_folder() {
    let folder = Folder::new("target");
    std::fs::write(folder.profile().join("libptx_driver.so"), "built").unwrap();
    std::os::unix::fs::symlink("target", folder.0.join("link")).unwrap();
    for to in ["target", "target/release/deps", "target/new/out", "link/new", "target/../target/out"] {
        let error = folder.driver(Path::new(to)).unwrap_err();
        assert!(error.starts_with(&format!("Some(1) error: {to} is in ")), "{error}");
    }
    assert!(!folder.0.join("target/new").exists());
    assert!(folder.driver(Path::new("target-of-mine")).is_ok());
}

#[test]
fn a_driver_that_is_not_built_is_named_with_its_command() {
    let folder = Folder::new("missing");
    let error = folder.driver(Path::new("out")).unwrap_err();
    assert!(error.starts_with("Some(1) error: "), "{error}");
    let end = "has no libptx_driver.so: build it with `cargo build -p ptx-driver --release`\n";
    assert!(error.ends_with(end), "{error}");
    assert!(!folder.0.join("out").exists());
}
