//! Makes and checks the PTX that ships, without a GPU.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod linux;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes the PTX of the .cu files, or checks it
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compile: Compile,
}

#[derive(Subcommand)]
enum Command {
    /// Assemble the PTX for every architecture and write the table of registers
    Registers {
        /// Fail on more registers than the table has, on a spill or a stack frame, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Copy the fake driver to a folder as `libcuda`, so that a program run by hand finds a card on a machine without one
    Driver {
        /// Where it goes: outside `target`, which cargo puts on the library path
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(clap::Args)]
struct Compile {
    /// Sources to compile [default: all]
    #[arg(value_name = "FILE.cu")]
    files: Vec<PathBuf>,
    /// The compiler [default: $ALIGN_NVRTC, else the pinned one, from PyPI into the cache folder]
    #[arg(long, value_name = "LIB")]
    nvrtc: Option<PathBuf>,
    /// Where the PTX goes [default: kernels/cuda/ptx, and beside the source for the machine's tests]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compare byte for byte with what is there, and write nothing
    #[arg(long)]
    check: bool,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> ExitCode {
    let Arguments { command, compile } = Arguments::parse();
    let done = match command {
        None => linux::compile::run(&compile.files, compile.nvrtc, compile.out, compile.check),
        Some(Command::Registers { check }) => linux::assemble::run(check),
        Some(Command::Driver { folder }) => linux::driver::run(&folder),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> ExitCode {
    let Arguments { command: _, compile: _ } = Arguments::parse();
    eprintln!("error: this tool runs on Linux on x86-64: NVIDIA's compiler comes from packages for it");
    ExitCode::FAILURE
}
