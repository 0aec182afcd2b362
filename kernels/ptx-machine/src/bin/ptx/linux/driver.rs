//! Copies the fake driver into a folder, under the names by which programs look for a driver.

use ptx_machine::driver::library;
use std::io;
use std::path::{Path, PathBuf};

/// Copies the fake driver that cargo built beside this program into `folder` as `libcuda.so.1`, with a link `libcuda.so` to it.
///
/// # Errors
/// If there is no fake driver (the message then has the command that builds it), if `folder` is in cargo's target folder, or if
/// `folder` cannot be written.
pub(crate) fn run(folder: &Path) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let profile = program.parent().unwrap_or(Path::new("/"));
    let target = profile.parent().unwrap_or(profile);
    if existing(folder).starts_with(target) {
        let (folder, target) = (folder.display(), target.display());
        return Err(format!("{folder} is in {target}, where cargo's tests would find a driver: give another folder"));
    }
    let library = library().ok_or_else(|| {
        format!("{} has no libptx_driver.so: build it with `{}`", profile.display(), build_command(profile))
    })?;
    let folder = lay_out(&library, folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    println!("LD_LIBRARY_PATH={} in front of a command gives it a card", folder.display());
    Ok(())
}

/// Returns the longest part of a path that exists, with all links resolved.
fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find_map(|part| part.canonicalize().ok()).unwrap_or_default()
}

/// Returns the command that builds the fake driver for the profile with this folder.
fn build_command(profile: &Path) -> String {
    let build = "cargo build -p ptx-driver";
    match profile.file_name().unwrap_or_default().to_string_lossy().as_ref() {
        "debug" => build.to_owned(),
        "release" => format!("{build} --release"),
        other => format!("{build} --profile {other}"),
    }
}

/// Copies the library into a folder as `libcuda.so.1` and makes `libcuda.so` a link to it, so that a program that opens both gets
/// one driver. Renames complete files into place, so that running programs keep the library that they have open. Returns the
/// folder's absolute path.
fn lay_out(library: &Path, folder: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let partial = folder.join(format!("partial-{}", std::process::id()));
    std::fs::copy(library, &partial)?;
    std::fs::rename(&partial, folder.join("libcuda.so.1"))?;
    std::os::unix::fs::symlink("libcuda.so.1", &partial)?;
    std::fs::rename(&partial, folder.join("libcuda.so"))?;
    Ok(folder)
}
