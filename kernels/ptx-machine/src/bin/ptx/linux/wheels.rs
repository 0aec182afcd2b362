//! NVIDIA's compiler and assembler, from their packages on PyPI, kept in the cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A version of a package, and the file in it that the tool needs.
pub(crate) struct Wheel {
    name: &'static str,
    version: &'static str,
    file: &'static str,
}

/// The compiler of CUDA 12.0: its PTX runs on every driver from 525 on.
pub(crate) const NVRTC: Wheel =
    Wheel { name: "nvidia-cuda-nvrtc-cu12", version: "12.0.140", file: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12" };

/// The assembler of CUDA 12.0.
pub(crate) const PTXAS: Wheel =
    Wheel { name: "nvidia-cuda-nvcc-cu12", version: "12.0.140", file: "nvidia/cuda_nvcc/bin/ptxas" };

/// A newer assembler, which knows newer cards.
pub(crate) const NEWER_PTXAS: Wheel = Wheel { version: "12.9.86", ..PTXAS };

impl Wheel {
    /// Returns the path of the file. Fetches the package if the file is not in the cache folder yet.
    ///
    /// # Errors
    /// A message if the package cannot be fetched or does not hold the file.
    pub(crate) fn file(&self) -> Result<PathBuf, String> {
        let folder = cache()?.join(format!("{}-{}", self.name, self.version));
        let file = folder.join(self.file);
        if !file.is_file() {
            self.fetch(&folder)?;
        }
        if file.is_file() { Ok(file) } else { Err(format!("{} is not in {} {}", self.file, self.name, self.version)) }
    }

    fn fetch(&self, folder: &Path) -> Result<(), String> {
        let package = format!("{}=={}", self.name, self.version);
        eprintln!("fetching {package}");
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
        // renamed at the end, so that the folder is complete if it exists
        let partial = folder.with_extension(format!("partial-{}", std::process::id()));
        let status = Command::new("python3").args(pip).arg(&partial).arg(&package).status();
        let status = status.map_err(|error| format!("cannot run python3: {error}; it fetches {package}"))?;
        if !status.success() {
            return Err(format!("pip could not fetch {package} ({status})"));
        }
        match std::fs::rename(&partial, folder) {
            Ok(()) => Ok(()),
            // another run was faster
            Err(_) if folder.join(self.file).is_file() => {
                std::fs::remove_dir_all(&partial).map_err(|error| format!("{}: {error}", partial.display()))
            }
            Err(error) => Err(format!("{}: {error}", folder.display())),
        }
    }
}

fn cache() -> Result<PathBuf, String> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(base) if !base.is_empty() => PathBuf::from(base),
        _ => PathBuf::from(std::env::var_os("HOME").ok_or("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    let folder = base.join("align").join("cuda");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}
