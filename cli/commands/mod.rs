//! One file for each command.

mod estimate;
mod eval;
mod generate;
mod inspect;
mod losses;
mod merge;
mod score;
mod train;

pub(crate) use generate::decode;

use crate::args::{self, Cli, Commands};
use crate::error::CliError;
use crate::report;
use clap::{ArgMatches, FromArgMatches};
use std::io::Write;

/// Runs the command that was typed.
///
/// # Errors
/// The error of the command.
pub(crate) fn run(matches: &ArgMatches) -> Result<(), CliError> {
    let cli = Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    if cli.verbose {
        report::be_verbose();
    }
    let knobs = || matches.subcommand().map_or_else(Vec::new, |(_, matches)| args::given_knobs(matches));
    match cli.command {
        Commands::Train(args) => train::run(&args, &knobs()),
        Commands::Estimate(args) => estimate::run(&args, &knobs()),
        Commands::Score(args) => score::run(&args),
        Commands::Eval(args) => eval::run(&args, &knobs()),
        Commands::Generate(args) => generate::run(&args),
        Commands::Merge(args) => merge::run(&args),
        Commands::Inspect(args) => inspect::run(&args),
        Commands::Losses(args) => losses::run(&args),
        Commands::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::command(), "align-cli", &mut script);
            print(&script)
        }
        Commands::Man { command } => {
            let whole = args::command();
            let page_of = match &command {
                None => whole,
                Some(name) => match whole.find_subcommand(name) {
                    Some(found) => {
                        found.clone().name(format!("align-cli-{name}")).bin_name(format!("align-cli {name}"))
                    }
                    None => return Err(CliError::Usage(format!("man: there is no command {name:?}"))),
                },
            };
            let mut page = Vec::new();
            clap_mangen::Man::new(page_of).render(&mut page)?;
            print(&page)
        }
    }
}

/// Writes results to stdout. If the reader has gone away, the command ends without a message.
///
/// # Errors
/// [`CliError::ClosedOutput`] if the reader has gone away, [`CliError::Runtime`] otherwise.
pub(crate) fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes one JSON value as a line of stdout.
fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(format!("{value}\n").as_bytes())
}
