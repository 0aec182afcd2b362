//! `align-cli`: commands, flags, what is printed, exit codes. Nothing is computed here.

mod args;
mod commands;
mod config_file;
mod data;
mod demo;
mod error;
mod loaded;
mod reference_cache;
mod rejects;
mod report;
mod run_folder;
mod watcher;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Help and version are results, on stdout with exit code 0; the rest is a usage error, or one of the file that has the value.
fn refused(error: clap::Error, expanded: &config_file::Expanded) -> error::CliError {
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) {
        if let Some(place) = expanded.place_of(flag) {
            let what = error.render().to_string();
            let what = what.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return error::CliError::Input(format!("{place}: {what}"));
        }
        if let (ErrorKind::UnknownArgument, Some(instead)) = (error.kind(), args::no_counterpart(flag)) {
            return error::CliError::Usage(format!("there is no {flag}: {instead}"));
        }
    }
    error.exit()
}

fn run() -> Result<(), error::CliError> {
    let expanded = config_file::expand(std::env::args_os().collect(), &args::command())?;
    let matches = match args::command().try_get_matches_from(&expanded.arguments) {
        Ok(matches) => matches,
        Err(error) => return Err(refused(error, &expanded)),
    };
    commands::run(&matches)
}
