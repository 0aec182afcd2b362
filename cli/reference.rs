//! What answers are compared with: the base, or an adapter.
//!
//! A run that was trained against an adapter keeps its values in the folder `reference`, so that a starting adapter may move or be
//! trained further.

use crate::args::ReferenceChoice;
use crate::error::CliError;
use crate::loaded::LoadedModel;
use crate::report::say;
use crate::run_files::{self, RECORD};
use crate::run_record::Kept;
use align_engine::model::REFERENCE;
use align_engine::model::adapters::AdapterSet;
use align_lora::adapter::{ADAPTER_CONFIG, adapter_hash};
use align_lora::objective::Objective;
use align_lora::train::Trainer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a reference without an adapter is called.
const BASE: &str = "base";
/// How it is called where nothing is compared.
const NONE: &str = "none";

/// What answers are compared with.
pub struct Reference {
    pub set: Option<Arc<AdapterSet>>,
    /// `base`, `none`, or the hash of the adapter.
    pub name: String,
}

impl Reference {
    /// The model without an adapter.
    pub fn base() -> Reference {
        Reference { set: None, name: BASE.to_owned() }
    }

    fn of(set: Arc<AdapterSet>) -> Reference {
        let name = adapter_hash(&set).to_string();
        Reference { set: Some(set), name }
    }

    /// For what compares nothing; says so.
    pub fn none(why: &str) -> Reference {
        say!("reference: none: {why}");
        Reference { set: None, name: NONE.to_owned() }
    }

    /// That of the flag, else that of the run whose adapter is in `run`, else the base; says which it is.
    ///
    /// # Errors
    /// [`CliError::Input`] for an adapter that cannot be read, or that is not the one that the run was trained against.
    pub fn find(
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
                (Reference::of(loaded.adapter(dir)?.set().clone()), format!("the model with {}", dir.display()))
            }
            (_, Some((reference, place))) => {
                (reference, format!("the model with {}, as the adapter's run had it", place.display()))
            }
            (Some(ReferenceChoice::Base) | None, None) => {
                (Reference::base(), "the model without an adapter".to_owned())
            }
        };
        say!("reference: {words}");
        Ok(reference)
    }
}

/// The adapter that a run was trained against, and where it was found; `None` if that was the base, or if nobody knows.
fn of_run(dir: &Path, kept: &Kept, loaded: &LoadedModel) -> Result<Option<(Reference, PathBuf)>, CliError> {
    let own = dir.join(REFERENCE);
    let is_adapter = |place: &PathBuf| place.join(ADAPTER_CONFIG).exists();
    let record = match kept {
        Kept::Record(record) => record,
        Kept::OfOtherAdapter => return Ok(None),
        Kept::Nothing => {
            let Some(place) = Some(own).filter(is_adapter).or_else(|| named_reference(dir)) else { return Ok(None) };
            say!(
                "warning: {} has no {RECORD}, which would say what the run's reference was: {} is taken as it is now",
                dir.display(),
                place.display()
            );
            return Ok(Some((Reference::of(loaded.adapter(&place)?.set().clone()), place)));
        }
    };
    if [BASE, NONE].contains(&record.reference()) {
        return Ok(None);
    }
    for place in std::iter::once(own.clone()).chain(named_reference(dir)).filter(is_adapter) {
        let reference = Reference::of(loaded.adapter(&place)?.set().clone());
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

/// The adapter that a run's options name as its reference: that of `reference`, else the one it went on from.
fn named_reference(dir: &Path) -> Option<PathBuf> {
    let table = run_files::options(dir)?;
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str);
    if !Objective::new(value("loss")?, &[]).ok()?.reference() {
        return None;
    }
    value("reference").or_else(|| value("adapter")).filter(|name| *name != BASE).map(|name| dir.join(name))
}

/// The name of a run's reference: see [`Reference::name`].
pub fn name_of(trainer: &Trainer<'_>) -> String {
    match (trainer.objective().reference(), trainer.reference()) {
        (false, _) => NONE.to_owned(),
        (true, None) => BASE.to_owned(),
        (true, Some(set)) => adapter_hash(set).to_string(),
    }
}
