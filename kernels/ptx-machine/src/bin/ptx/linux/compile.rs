//! Compiles CUDA sources to PTX.

use super::nvrtc::Nvrtc;
use super::wheels;
use ptx_machine::sources;
use std::path::{Path, PathBuf};

/// Compiles `files`, or all sources if `files` is empty. Writes the PTX into the folder `out`, or to the usual places if `out` is
/// `None`. If `check` is true, writes nothing and compares with the PTX that is there.
///
/// # Errors
/// The compiler's log, the files that differ or have no source, or the error of a file or of loading the compiler.
pub(crate) fn run(files: &[PathBuf], nvrtc: Option<PathBuf>, out: Option<PathBuf>, check: bool) -> Result<(), String> {
    let library = match nvrtc.or_else(|| std::env::var_os("ALIGN_NVRTC").map(PathBuf::from)) {
        Some(library) => library,
        None => wheels::NVRTC.file()?,
    };
    let nvrtc = Nvrtc::load(&library)?;
    let headers = sources::headers().map_err(|error| format!("{}: {error}", sources::headers_folder().display()))?;
    let all = sources::sources().map_err(|error| error.to_string())?;
    let is_all = files.is_empty();
    let files: Vec<(PathBuf, PathBuf)> = match is_all {
        true => all,
        false => files.iter().map(|file| (file.clone(), sources::ptx_of(&absolute(file)))).collect(),
    };
    let mut made = Vec::new();
    let mut different = Vec::new();
    for (file, to) in files {
        let source = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ptx = sources::stamp(&source, &headers) + &nvrtc.compile(&name, &source, &headers)?;
        let to = match &out {
            Some(out) => out.join(to.file_name().unwrap_or_default()),
            None => to,
        };
        let is_same = std::fs::read_to_string(&to).is_ok_and(|before| before == ptx);
        if !check && !is_same {
            write(&to, &ptx)?;
            println!("{}", to.display());
        } else if !is_same {
            different.push(to.display().to_string());
        }
        made.push(to);
    }
    if is_all && out.is_none() {
        let there = sources::ptx_files().map_err(|error| error.to_string())?;
        let strangers = there.into_iter().filter(|path| !made.contains(path));
        different.extend(strangers.map(|path| format!("{} (no source: delete it)", path.display())));
    }
    if different.is_empty() {
        return Ok(());
    }
    let how = "cargo run -q -p ptx-machine --bin ptx";
    Err(format!("not what the sources give: {}; make them with `{how}`", different.join(", ")))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn write(to: &Path, ptx: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", to.display());
    std::fs::create_dir_all(to.parent().unwrap_or(Path::new("."))).map_err(failed)?;
    std::fs::write(to, ptx).map_err(failed)
}
