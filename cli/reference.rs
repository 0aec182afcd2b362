//! Finds the reference that answers are compared with: the base, or an adapter.
//!
//! A run that was trained against an adapter keeps a copy of it in the folder `reference`, so the original may move or be trained
//! further.

use crate::args::ReferenceChoice;
use crate::error::CliError;
use crate::loaded::LoadedModel;
use crate::report::say;
use crate::run_files::{self, RECORD};
use crate::run_record::Kept;
use align_engine::adapters::AdapterSet;
use align_engine::model::REFERENCE;
use align_lora::adapter::{ADAPTER_CONFIG, adapter_hash};
use align_lora::objective::Objective;
use align_lora::train::Trainer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of a reference without an adapter.
const BASE: &str = "base";
/// The name of the reference if answers are compared with nothing.
const NONE: &str = "none";

/// What answers are compared with.
pub(crate) struct Reference {
    pub set: Option<Arc<AdapterSet>>,
    /// `base`, `none`, or the hash of the adapter.
    pub name: String,
}

impl Reference {
    /// Makes the reference that is the model without an adapter.
    pub(crate) fn base() -> Reference {
        Reference { set: None, name: BASE.to_owned() }
    }

    fn of(set: Arc<AdapterSet>) -> Result<Reference, CliError> {
        let name = adapter_hash(&set)?.to_string();
        Ok(Reference { set: Some(set), name })
    }

    /// Returns the reference of a command that compares answers with nothing, and reports that.
    pub(crate) fn none(why: &str) -> Reference {
        say!("reference: none: {why}");
        Reference { set: None, name: NONE.to_owned() }
    }

    /// Returns the reference that the flag names. Without the flag, returns the reference of the run whose adapter is in `run`.
    /// If no such reference is known, returns the base. Reports which one it is.
    ///
    /// # Errors
    /// [`CliError::Input`] if an adapter cannot be read, or if the one that the run was trained against is gone or was changed.
    pub(crate) fn find(
        flag: Option<&ReferenceChoice>,
        run: Option<&Path>,
        kept: &Kept,
        loaded: &LoadedModel,
    ) -> Result<Reference, CliError> {
        let of_run = match (flag, run) {
            (None, Some(dir)) => of_run(dir, kept, loaded)?,
            (Some(_), _) | (None, None) => None,
        };
        let (reference, words) = match (flag, of_run) {
            (Some(ReferenceChoice::Adapter(dir)), _) => {
                (Reference::of(loaded.adapter(dir)?.set().clone())?, format!("the model with {}", dir.display()))
            }
            (_, Some((reference, place))) => {
                (reference, format!("the model with {}, as the adapter's run had it", place.display()))
            }
            (Some(ReferenceChoice::Base) | None, None) => {
                let words = match run {
                    Some(_) => "the model without an adapter",
                    None => "the model itself, so every margin is 0; give --adapter to compare a run with its base",
                };
                (Reference::base(), words.to_owned())
            }
        };
        say!("reference: {words}");
        Ok(reference)
    }
}

/// Finds the adapter that a run was trained against. Returns it with its folder. `None` if the run had no such adapter, or if
/// nothing says which adapter it was.
fn of_run(dir: &Path, kept: &Kept, loaded: &LoadedModel) -> Result<Option<(Reference, PathBuf)>, CliError> {
    let own = dir.join(REFERENCE);
    let is_adapter = |place: &PathBuf| place.join(ADAPTER_CONFIG).exists();
    let record = match kept {
        Kept::Record(record) => record,
        Kept::OfOtherAdapter => return Ok(None),
        Kept::Nothing => {
            let Some(place) = Some(own).filter(is_adapter).or_else(|| named_reference(dir)) else { return Ok(None) };
            say!(
                "warning: {} has no {RECORD} to say what the run's reference was: {} is used as it is now",
                dir.display(),
                place.display()
            );
            return Ok(Some((Reference::of(loaded.adapter(&place)?.set().clone())?, place)));
        }
    };
    if [BASE, NONE].contains(&record.reference()) {
        return Ok(None);
    }
    for place in std::iter::once(own.clone()).chain(named_reference(dir)).filter(is_adapter) {
        let reference = Reference::of(loaded.adapter(&place)?.set().clone())?;
        if reference.name == record.reference() {
            return Ok(Some((reference, place)));
        }
        say!("warning: {} is not the adapter that the run was trained against: another hash", place.display());
    }
    Err(CliError::Input(format!(
        "{}: the adapter that the run was trained against (hash {}) is gone or was changed; give it with --reference DIR, or `base`",
        own.display(),
        record.reference()
    )))
}

/// Returns the folder of the adapter that a run's options name as its reference: `reference`, or else `adapter`, from which the
/// run started. `None` if the loss needs no reference, or if the options name no adapter.
fn named_reference(dir: &Path) -> Option<PathBuf> {
    let table = run_files::options(dir)?;
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str);
    if !Objective::new(value("loss")?, &[]).ok()?.reference() {
        return None;
    }
    value("reference").or_else(|| value("adapter")).filter(|name| *name != BASE).map(|name| dir.join(name))
}

/// Returns the name of a run's reference: see [`Reference::name`].
///
/// # Errors
/// [`CliError::Runtime`] if the device has failed.
pub(crate) fn name_of(trainer: &Trainer<'_>) -> Result<String, CliError> {
    Ok(match (trainer.objective().reference(), trainer.reference()) {
        (false, _) => NONE.to_owned(),
        (true, None) => BASE.to_owned(),
        (true, Some(set)) => adapter_hash(set)?.to_string(),
    })
}
