//! Opens the data that the flags name: finds the files, uses the cache of tokens, and handles rows that are left out.

use crate::args::{DataArgs, DataCacheChoice, ModelArgs, OnBadRowChoice};
use crate::demo::DemoPaths;
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::rejects;
use crate::report::{self, DataReport, say};
use crate::run_files::RECORD;
use crate::run_record;
use align_data::{BadRow, DataError, Dataset, Encoder, LongAnswers, Opening, Rejects, RowKind, TokenCache, TurnMarker};
use std::io::Write;
use std::path::PathBuf;

/// Returns the files that names and patterns stand for. Reports the data sets among the names, files that are named twice, and
/// folders that a pattern matches.
///
/// # Errors
/// The errors of [`align_data::data_files`].
pub(crate) fn data_files(names: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let files = align_data::data_files(names)?;
    for set in &files.sets {
        say!("data: {set}");
    }
    for path in &files.repeated {
        say!("data: {} is a file that is named already: its rows count once more", path.display());
    }
    if let Some(first) = files.folders.first() {
        say!(
            "data: {} folders that a pattern matches are passed over, the first: {}",
            files.folders.len(),
            first.display()
        );
    }
    Ok(files.paths)
}

/// How to open the data of a command.
pub(crate) struct DataOptions<'a> {
    pub args: &'a DataArgs,
    pub kind: Option<RowKind>,
    /// Whether `--demo` is given. The demo's files are new each time, so a cache of their tokens would never be used again.
    pub demo: bool,
    pub drops: Drops,
}

/// How many rows may be dropped. Bad rows and rows that make no pair do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drops {
    /// The command fails if more than a tenth of the rows are dropped.
    Few,
    /// Any number of rows may be dropped. The number is only reported.
    Reported,
}

/// Opens data. Rows that are left out go to `rejects`, if it is given. If the data cannot be opened, the rejects so far are
/// written to the file of `--rejects`, because the user will want to look at them.
///
/// # Errors
/// [`CliError`] if the data cannot be opened, or if too many rows are dropped for `options.drops`.
pub(crate) fn data(
    files: &[PathBuf],
    encoder: Encoder,
    options: &DataOptions<'_>,
    mut rejects: Option<&mut Rejects>,
) -> Result<Dataset, CliError> {
    let opened = open(files, encoder, options, rejects.as_deref_mut());
    if let (Err(_), Some(rejects), Some(path)) = (&opened, rejects, &options.args.keep.rejects)
        && rejects.count() > 0
        && let Err(error) = rejects::save(rejects, path)
    {
        say!("rejects: {error}"); // the command ends with the other error: why the data could not be opened
    }
    opened
}

/// The rows of a command that may use the adapter of a run.
pub(crate) struct RowsOf<'a> {
    pub model: &'a ModelArgs,
    pub data: &'a DataArgs,
    /// The kind that every row must have. `None` allows any kind.
    pub kind: Option<RowKind>,
    pub drops: Drops,
    pub long_answers: LongAnswers,
}

impl RowsOf<'_> {
    /// Opens the rows. If the adapter comes from a run, they are read as that run read its rows. `of_demo` chooses the file for
    /// `--demo`.
    ///
    /// # Errors
    /// [`CliError`] if the data cannot be opened, if too many rows are dropped for `self.drops`, if the record of the adapter's
    /// run cannot be read, or if the rejects cannot be written.
    pub(crate) fn open(
        &self,
        loaded: &LoadedModel,
        of_demo: impl Fn(&DemoPaths) -> PathBuf,
    ) -> Result<Dataset, CliError> {
        let files = loaded.data_files(self.data, of_demo)?;
        let template = loaded.template(self.model)?;
        let encoder = loaded.data_encoder(template.as_deref(), loaded::max_length(self.data), self.data)?;
        let encoder = encoder.with_long_answers(self.long_answers);
        let encoder = run_record::reading_as(self.model.adapter.as_deref(), encoder)?;
        check_rejects(self.data)?;
        let options = DataOptions { args: self.data, kind: self.kind, demo: self.model.demo, drops: self.drops };
        let path = self.data.keep.rejects.as_ref();
        let mut rejects = path.map(|_| Rejects::default());
        let data = data(&files, encoder, &options, rejects.as_mut())?;
        if let Some((path, rejects)) = path.zip(rejects.as_mut()) {
            rejects::save(rejects, path)?;
        }
        report::beyond_positions("data", &data, loaded.model.config());
        Ok(data)
    }
}

fn open(
    files: &[PathBuf],
    encoder: Encoder,
    options: &DataOptions<'_>,
    rejects: Option<&mut Rejects>,
) -> Result<Dataset, CliError> {
    let cache = match &options.args.keep.data_cache {
        Some(DataCacheChoice::Off) => None,
        Some(DataCacheChoice::Folder(folder)) => Some(TokenCache::new(folder.clone())),
        None if options.demo => None,
        None => TokenCache::of_user(),
    };
    let mut report = DataReport::default();
    let opening = Opening {
        kind: options.kind,
        on_bad_row: options.args.on_bad_row.into(),
        cache: cache.as_ref(),
        rejects: rejects.map(|rejects| rejects as &mut dyn Write),
        observer: &mut report,
    };
    let marker = encoder.reading().decided.turn_marker.clone();
    let data = Dataset::open_with(files, encoder, opening).map_err(|error| of_other_rows(error, marker.as_ref()))?;
    report::turn_marker_of_run(marker.as_ref(), data.survey());
    if options.drops == Drops::Few {
        data.survey().check_drops()?;
    }
    Ok(data)
}

/// Converts an error about rows. If a row lacks `marker`, the turn marker of the run, the message says where the marker comes
/// from.
pub(crate) fn of_other_rows(error: DataError, marker: Option<&TurnMarker>) -> CliError {
    let is_about_it = matches!(&error, DataError::Row { reason: BadRow::NoTurnMarker { marker: Some(_), .. }, .. });
    match marker {
        Some(_) if is_about_it => CliError::Input(format!(
            "{error}; that mark ends the prompts of the run ({RECORD}), and some of these rows have it"
        )),
        _ => error.into(),
    }
}

/// Checks that the flags can leave rows out if `--rejects` is given.
///
/// # Errors
/// [`CliError::Usage`] if `--rejects` is given but bad rows end the run instead of being left out.
pub(crate) fn check_rejects(args: &DataArgs) -> Result<(), CliError> {
    match (&args.keep.rejects, args.on_bad_row) {
        (Some(_), OnBadRowChoice::Error) => {
            Err(CliError::Usage("--rejects: a bad row ends the run; give --on-bad-row skip".into()))
        }
        _ => Ok(()),
    }
}
