//! The CUDA sources of the repository, and the PTX that is made from them.

use std::io;
use std::path::{Path, PathBuf};

/// Returns the folder of the crate `align-kernels`.
fn kernels() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a folder of that crate")
}

/// Returns the folder of the CUDA headers.
pub fn headers_folder() -> PathBuf {
    kernels().join("cuda")
}

/// Returns the folder of the PTX files of the crate `align-kernels`.
pub fn ptx_folder() -> PathBuf {
    headers_folder().join("ptx")
}

/// Returns the folder of the CUDA sources of this crate's tests, and of their PTX.
pub fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda")
}

/// Returns every `.cu` file with the PTX file that is made from it: those in the folders of the kernels, and those of this
/// crate's tests.
///
/// # Errors
/// The system's error if a folder cannot be read.
pub fn sources() -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = with_ending(&tests_folder(), "cu")?;
    for folder in std::fs::read_dir(kernels().join("src"))? {
        let folder = folder?.path();
        if folder.is_dir() {
            found.extend(with_ending(&folder, "cu")?);
        }
    }
    found.sort();
    Ok(found
        .into_iter()
        .map(|source| {
            let ptx = ptx_of(&source);
            (source, ptx)
        })
        .collect())
}

/// Returns the PTX file that belongs to a source.
pub fn ptx_of(source: &Path) -> PathBuf {
    let folder = if source.parent() == Some(&tests_folder()) { tests_folder() } else { ptx_folder() };
    folder.join(source.file_name().unwrap_or_default()).with_extension("ptx")
}

/// Returns the PTX files that exist.
///
/// # Errors
/// The system's error if a folder cannot be read.
pub fn ptx_files() -> io::Result<Vec<PathBuf>> {
    let mut found = with_ending(&tests_folder(), "ptx")?;
    if ptx_folder().is_dir() {
        found.extend(with_ending(&ptx_folder(), "ptx")?);
    }
    found.sort();
    Ok(found)
}

/// Returns the names and contents of the headers, sorted by name.
///
/// # Errors
/// The system's error if the folder or a header cannot be read.
pub fn headers() -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for path in with_ending(&headers_folder(), "cuh")? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        headers.push((name, std::fs::read_to_string(&path)?));
    }
    headers.sort();
    Ok(headers)
}

fn with_ending(folder: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|of| of == ending))
        .collect())
}

/// Returns the first line of a PTX file: a hash of its source and of the headers. It shows without a compiler whether the file is
/// stale.
pub fn stamp(source: &str, headers: &[(String, String)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, content) in headers.iter().map(|(name, content)| (name.as_str(), content.as_str())).chain([("", source)])
    {
        for part in [name, content] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    format!("// made of {}\n", hasher.finalize().to_hex())
}
