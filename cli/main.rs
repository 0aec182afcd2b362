//! The program `align-cli`: its commands, flags, messages and exit codes. Nothing is computed here.

#![forbid(unsafe_code)]

mod advice;
mod args;
mod chat_template;
mod commands;
mod config_file;
mod data;
mod demo;
mod error;
mod loaded;
mod other_data;
mod reference;
mod reference_cache;
mod rejects;
mod report;
mod run_files;
mod run_folder;
mod run_record;
mod watcher;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Returns an error with better advice than clap's, or with the flag's place in the `--config` file. If there is neither, prints
/// clap's message and exits. The exit code is 0 for help and version, and 2 for errors.
fn refused(mut error: clap::Error, expanded: &config_file::Expanded) -> error::CliError {
    if let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
        && let Some(instead) = args::instead_of(verb)
    {
        return error::CliError::Usage(format!("there is no command `{verb}`; give: {instead}"));
    }
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
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::SuggestedArg)
        && let Some(public) = args::public_name(flag)
    {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(public));
    }
    let is_train = expanded.arguments.get(1).is_some_and(|command| command == "train");
    if is_train && error.kind() == ErrorKind::MissingRequiredArgument {
        let tip = "`align-cli train --demo` needs neither model nor data".into();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error.exit()
}

fn run() -> Result<(), error::CliError> {
    let expanded = config_file::expand(std::env::args_os().collect(), &args::command())?;
    let parse = |expanded: &config_file::Expanded| {
        args::command().try_get_matches_from(&expanded.arguments).map_err(|error| refused(error, expanded))
    };
    let matches = parse(&expanded)?;
    let Some(of_run) = config_file::options_of_run(&expanded.arguments, &matches, &args::command())? else {
        return commands::run(&matches);
    };
    let matches = parse(&of_run.expanded())?;
    if !of_run.words.is_empty() {
        report::say!("{}", of_run.words);
    }
    report::remember_messages();
    let Err(error) = commands::run(&matches) else { return Ok(()) };
    report::skip_remembered_messages();
    let without = other_data::without_what_has_no_meaning(error, &of_run, &matches)?;
    commands::run(&parse(&without)?)
}
