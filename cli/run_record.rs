//! What a run's folder keeps beside the adapter and its options: where the run was when the adapter was kept, and the reference that
//! it was trained against.
//!
//! The reference is the base, or an adapter: then its values lie in the folder `reference`, so that a starting adapter may move or
//! be trained further. The hashes in the record say whether both are still what they were.

use crate::args::ReferenceChoice;
use crate::error::CliError;
use crate::loaded::LoadedModel;
use crate::report::say;
use align_engine::model::adapters::AdapterSet;
use align_engine::new_file::{NewFile, NewFileError};
use align_lora::adapter::{Adapter, adapter_hash};
use align_lora::objective::{History, KnobValue, Objective};
use align_lora::train::{TrainState, Trainer};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of the record.
pub const FILE: &str = "run_state.json";
/// The folder of the reference's adapter, where the reference is not the base.
pub const REFERENCE: &str = "reference";
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

    /// That of the flag, else that of the run whose adapter is in `adapter`, else the base; says which it is.
    ///
    /// # Errors
    /// [`CliError::Input`] for an adapter that cannot be read, or that is not the one that the run was trained against.
    pub fn find(
        flag: Option<&ReferenceChoice>,
        adapter: Option<&Path>,
        loaded: &LoadedModel,
    ) -> Result<Reference, CliError> {
        let (reference, words) = match (flag, adapter) {
            (Some(ReferenceChoice::Adapter(dir)), _) => {
                (Reference::of(loaded.adapter(dir)?.set().clone()), format!("the model with {}", dir.display()))
            }
            (None, Some(dir)) => match of_run(dir, loaded)? {
                Some((reference, place)) => {
                    (reference, format!("the model with {}, as the adapter's run had it", place.display()))
                }
                None => (Reference::base(), "the model without an adapter".to_owned()),
            },
            (Some(ReferenceChoice::Base), _) | (None, None) => {
                (Reference::base(), "the model without an adapter".to_owned())
            }
        };
        say!("reference: {words}");
        Ok(reference)
    }
}

/// The adapter that a run was trained against, and where it was found; `None` if that was the base.
fn of_run(dir: &Path, loaded: &LoadedModel) -> Result<Option<(Reference, PathBuf)>, CliError> {
    let named = named_reference(dir);
    let Some(record) = RunRecord::read(dir)? else {
        let Some(place) = named else { return Ok(None) };
        say!(
            "warning: {} has no {FILE}, which would say what the run's reference was: {} is taken as it is now",
            dir.display(),
            place.display()
        );
        return Ok(Some((Reference::of(loaded.adapter(&place)?.set().clone()), place)));
    };
    if [BASE, NONE].contains(&record.reference.as_str()) {
        return Ok(None);
    }
    let kept = dir.join(REFERENCE);
    let places = std::iter::once(kept.clone()).chain(named).filter(|place| place.join("adapter_config.json").exists());
    for place in places {
        let reference = Reference::of(loaded.adapter(&place)?.set().clone());
        if reference.name == record.reference {
            return Ok(Some((reference, place)));
        }
        say!("warning: {} is not the adapter that the run was trained against: another hash", place.display());
    }
    Err(CliError::Input(format!(
        "{}: the adapter that the run was trained against (hash {}) is gone or was changed; give it with --reference DIR, or `base`",
        kept.display(),
        record.reference
    )))
}

/// The adapter that a run's options name as its reference: that of `reference`, else the one it went on from.
fn named_reference(dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(dir.join("config.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    let value = |key: &str| table.get(key).and_then(toml::Value::as_str);
    if !Objective::new(value("loss")?, &[]).ok()?.reference() {
        return None;
    }
    value("reference").or_else(|| value("adapter")).filter(|name| *name != BASE).map(|name| dir.join(name))
}

/// The record of a run.
pub struct RunRecord {
    /// Hash of the adapter that was kept.
    adapter: String,
    /// [`Reference::name`].
    reference: String,
    /// Loss, knobs and temperature: what running statistics are of.
    objective: Value,
    state: TrainState,
}

impl RunRecord {
    /// That of a run whose adapter is being kept.
    pub fn new(adapter: &Adapter, reference: &str, objective: Value, state: TrainState) -> RunRecord {
        RunRecord {
            adapter: adapter_hash(adapter.set()).to_string(),
            reference: reference.to_owned(),
            objective,
            state,
        }
    }

    /// The record in the folder of a run; `None` if it has none.
    ///
    /// # Errors
    /// [`CliError::Input`] for a file that is no record.
    fn read(dir: &Path) -> Result<Option<RunRecord>, CliError> {
        let path = dir.join(FILE);
        let fail = |what: String| CliError::Input(format!("{}: {what}", path.display()));
        let mut value: Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error.to_string())),
        };
        let mut take = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
        let state = serde_json::from_value(take("state")).map_err(|error| fail(format!("`state`: {error}")))?;
        let (adapter, reference, objective) = (take("adapter"), take("reference"), take("objective"));
        match (adapter, reference) {
            (Value::String(adapter), Value::String(reference)) => {
                Ok(Some(RunRecord { adapter, reference, objective, state }))
            }
            _ => Err(fail("`adapter` and `reference` must be texts: the file is damaged".to_owned())),
        }
    }

    /// Writes it into the folder of the run.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, dir: &Path) -> Result<(), NewFileError> {
        let RunRecord { adapter, reference, objective, state } = self;
        let value = json!({"adapter": adapter, "reference": reference, "objective": objective, "state": state});
        let mut file = NewFile::create(&dir.join(FILE))?;
        file.write(format!("{value:#}\n").as_bytes())?;
        file.finish()
    }
}

/// The running statistics that the run of an adapter had when the adapter was kept. None of them hold for another loss, knob,
/// temperature or reference than the run's.
///
/// # Errors
/// [`CliError::Input`] for a record that is none.
pub fn history(
    dir: Option<&Path>,
    adapter: Option<&Adapter>,
    reference: &str,
    objective: &Value,
) -> Result<History, CliError> {
    let (Some(dir), Some(adapter)) = (dir, adapter) else { return Ok(History::default()) };
    let Some(record) = RunRecord::read(dir)? else { return Ok(History::default()) };
    if record.objective != *objective || record.reference != reference {
        if record.state.history != History::default() {
            say!(
                "the running statistics of {} are not taken: they are of another loss, knob, temperature or reference",
                dir.display()
            );
        }
        return Ok(History::default());
    }
    if record.adapter != adapter_hash(adapter.set()).to_string() {
        let path = dir.join(FILE);
        say!(
            "warning: {} is about another adapter than the one beside it; running statistics are not taken",
            path.display()
        );
        return Ok(History::default());
    }
    Ok(record.state.history)
}

/// What running statistics are of, as a record has it.
pub fn describe(objective: &Objective, logp_temperature: f32) -> Value {
    json!({"loss": objective.name(), "knobs": knobs(objective), "logp_temperature": logp_temperature})
}

/// The knobs of an objective as JSON.
pub fn knobs(objective: &Objective) -> Map<String, Value> {
    let value = |value| match value {
        KnobValue::Number(number) => Value::from(number),
        KnobValue::Switch(on) => on.into(),
        KnobValue::Choice(word) => word.into(),
    };
    objective.knobs().into_iter().map(|(knob, of)| (knob.key.into(), value(of))).collect()
}

/// The name of a run's reference: see [`Reference::name`].
pub fn name_of(trainer: &Trainer<'_>) -> String {
    match (trainer.objective().reference(), trainer.reference()) {
        (false, _) => NONE.to_owned(),
        (true, None) => BASE.to_owned(),
        (true, Some(set)) => adapter_hash(set).to_string(),
    }
}
