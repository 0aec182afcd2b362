//! `align-cli`: commands, flags, what is printed, exit codes. Nothing is computed here.

mod args;
mod commands;
mod config_file;
mod demo;
mod error;
mod loaded;
mod report;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run() -> Result<(), error::CliError> {
    let arguments = config_file::expand(std::env::args_os().collect(), &args::command())?;
    let matches = match args::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        // help and version are results, on stdout with exit code 0; the rest is a usage error
        Err(error) => error.exit(),
    };
    commands::run(&matches)
}
