//! Drops options of a run that make no sense for other data than the run's.

use crate::config_file::{Expanded, OfRun};
use crate::error::CliError;
use crate::report::say;
use align_data::{ColumnMap, any_row_has, data_files};
use clap::ArgMatches;
use std::path::PathBuf;

const COLUMNS: &str = "--columns";
const SFT_ON: &str = "--sft-on";

/// Returns the arguments for a second try if `error` comes from an option of the run that makes no sense for the data.
///
/// # Errors
/// `error`. If an option of the run causes it but cannot be dropped, the message names the option.
pub(crate) fn without_what_has_no_meaning(
    error: CliError,
    of_run: &OfRun,
    matches: &ArgMatches,
) -> Result<Expanded, CliError> {
    let Some((command, matches)) = matches.subcommand() else { return Err(error) };
    let path = of_run.path().display();
    match (error, of_run.value_of(COLUMNS), of_run.value_of(SFT_ON)) {
        (CliError::Columns(text), Some(columns), _) => {
            // only `train` and `estimate` usually get files other than the run's
            if !["train", "estimate"].contains(&command) || has_any(matches, &columns)? {
                let hint = format!("the columns ({columns}) are those of {path}: --columns gives others");
                return Err(CliError::Input(format!("{text}; {hint}")));
            }
            say!("no row has a column of {path} ({columns}): the columns are read by their own names");
            Ok(of_run.expanded_but(COLUMNS))
        }
        (CliError::SftPart { is_sequence, text }, _, Some(part)) => {
            if is_sequence || command == "eval" {
                let hint = format!("{part} is the part of {path}: --sft-on gives another");
                return Err(CliError::Input(format!("{text}; {hint}")));
            }
            say!("sft-on {part} of {path} is not used: these rows are not sequences");
            Ok(of_run.expanded_but(SFT_ON))
        }
        (error, ..) => Err(error),
    }
}

/// Whether any row of the command's data has one of the columns.
fn has_any(matches: &ArgMatches, columns: &str) -> Result<bool, CliError> {
    let map: ColumnMap = columns.parse().map_err(|fault| CliError::Usage(format!("--columns: {fault}")))?;
    let named = ["data", "eval_data"].map(|id| matches.get_many::<PathBuf>(id).into_iter().flatten());
    let named: Vec<PathBuf> = named.into_iter().flatten().cloned().collect();
    Ok(any_row_has(&data_files(&named)?.paths, &map)?)
}
