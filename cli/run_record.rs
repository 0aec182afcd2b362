//! The record of a run: its state when the adapter beside it was saved. Its hashes tell whether that adapter and the reference
//! have changed since.

use crate::error::CliError;
use crate::report::say;
use crate::run_files::RECORD;
use align_data::{Decided, Encoder, Form, TemplateSources};
use align_engine::bounded_read::read_regular;
use align_engine::new_file::{NewFile, NewFileError};
use align_kernels::KernelError;
use align_lora::adapter::{Adapter, adapter_hash};
use align_lora::objective::{History, KnobValue, Objective};
use serde_json::{Map, Value, json};
use std::io;
use std::path::Path;

/// Largest file of a run that is read, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Reads the bytes of a run's file.
///
/// # Errors
/// The system's error, or an error that says that the file is too large or not a regular file.
pub(crate) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    read_regular(path, MOST_BYTES)
}

/// What the folder of an adapter says about the run that made it.
pub(crate) enum Kept {
    /// There is no record.
    Nothing,
    /// The record is about another adapter than the one in the folder.
    OfOtherAdapter,
    Record(Box<RunRecord>),
}

impl Kept {
    /// Reads the record in the folder of `adapter`. Warns if the record is about another adapter.
    ///
    /// # Errors
    /// [`CliError::Input`] for a file that is damaged.
    pub(crate) fn beside(adapter: Option<(&Path, &Adapter)>) -> Result<Kept, CliError> {
        let Some((dir, adapter)) = adapter else { return Ok(Kept::Nothing) };
        let Some(record) = RunRecord::read(dir)? else { return Ok(Kept::Nothing) };
        if record.adapter == adapter_hash(adapter.set())?.to_string() {
            return Ok(Kept::Record(Box::new(record)));
        }
        say!(
            "warning: {} is about another adapter than the one beside it: its reference and running statistics are not used",
            dir.join(RECORD).display()
        );
        Ok(Kept::OfOtherAdapter)
    }

    /// Returns the running statistics that the run had when the adapter was saved. Returns fresh ones if there is no record, or
    /// if loss, knobs, temperature or reference differ from the run's.
    pub(crate) fn history(&self, reference: &str, objective: &Value) -> History {
        let Kept::Record(record) = self else { return History::default() };
        if record.of_run.objective == *objective && record.of_run.reference == reference {
            return record.history;
        }
        if record.history != History::default() {
            say!(
                "running statistics of the run are not used: they belong to another loss, knob, temperature or reference"
            );
        }
        History::default()
    }
}

/// The part of a record that stays the same through a run.
#[derive(Clone)]
pub(crate) struct OfRun {
    /// See [`Reference::name`](crate::reference::Reference::name).
    pub reference: String,
    /// Loss, knobs and temperature, on which running statistics depend. [`describe`] makes it.
    pub objective: Value,
    /// See [`template_name`]. `None` if the record does not hold it.
    pub chat_template: Option<String>,
    /// How the rows of the run were read.
    pub decided: Decided,
    /// The form of the run's rows. `None` if the run kept no row, or if the record does not hold the form.
    pub form: Option<Form>,
}

/// The record of a run.
pub(crate) struct RunRecord {
    /// Hash of the adapter that was saved.
    adapter: String,
    history: History,
    of_run: OfRun,
}

/// Returns the name that records use for a chat template: a hash of its sources, or `none` if there is no template.
pub(crate) fn template_name(template: Option<&TemplateSources>) -> String {
    template.map_or_else(|| "none".to_owned(), TemplateSources::hash)
}

/// Returns the name that the run in a folder recorded for its chat template. `None` if the folder has no record, or if the record
/// has no such name.
///
/// # Errors
/// [`CliError::Input`] for a record that cannot be read.
pub(crate) fn template_of_run(dir: &Path) -> Result<Option<String>, CliError> {
    Ok(RunRecord::read(dir)?.and_then(|record| record.of_run.chat_template))
}

impl RunRecord {
    /// Makes the record of a run whose adapter is being saved.
    ///
    /// # Errors
    /// [`KernelError::Driver`] if the device has failed.
    pub(crate) fn new(adapter: &Adapter, of_run: &OfRun, history: History) -> Result<RunRecord, KernelError> {
        Ok(RunRecord { adapter: adapter_hash(adapter.set())?.to_string(), history, of_run: of_run.clone() })
    }

    /// Returns the name of the run's reference.
    pub(crate) fn reference(&self) -> &str {
        &self.of_run.reference
    }

    /// Reads the record in the folder of a run. `None` if the folder has no record.
    ///
    /// # Errors
    /// [`CliError::Input`] for a file that is damaged.
    fn read(dir: &Path) -> Result<Option<RunRecord>, CliError> {
        let path = dir.join(RECORD);
        let fail = |what: String| {
            let hint = "the run's record is damaged; restore it, or remove it to go on without it";
            CliError::Input(format!("{}: {what}: {hint}", path.display()))
        };
        let mut value: Value = match read_bounded(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error.to_string())),
        };
        let mut take = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
        let history = serde_json::from_value(take("history")).map_err(|error| fail(format!("`history`: {error}")))?;
        let chat_template = take("chat_template").as_str().map(str::to_owned);
        let decided = match take("decided") {
            Value::Null => Decided::default(),
            decided => serde_json::from_value(decided).map_err(|error| fail(format!("`decided`: {error}")))?,
        };
        let form = serde_json::from_value(take("form")).map_err(|error| fail(format!("`form`: {error}")))?;
        let (adapter, reference, objective) = (take("adapter"), take("reference"), take("objective"));
        match (adapter, reference) {
            (Value::String(adapter), Value::String(reference)) => {
                let of_run = OfRun { reference, objective, chat_template, decided, form };
                Ok(Some(RunRecord { adapter, history, of_run }))
            }
            _ => Err(fail("`adapter` and `reference` must be texts".to_owned())),
        }
    }

    /// Writes the record into the folder of the run.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), NewFileError> {
        let RunRecord { adapter, history, of_run } = self;
        let OfRun { reference, objective, chat_template, decided, form } = of_run;
        let value = json!({
            "adapter": adapter,
            "reference": reference,
            "objective": objective,
            "history": history,
            "chat_template": chat_template,
            "decided": decided,
            "form": form,
        });
        NewFile::whole(&dir.join(RECORD), format!("{value:#}\n").as_bytes())
    }
}

/// Returns an encoder that reads rows as the run in the folder `dir` read its rows. Returns `encoder` unchanged if there is no
/// record.
///
/// # Errors
/// [`CliError::Input`] for a record that cannot be read.
pub(crate) fn reading_as(dir: Option<&Path>, encoder: Encoder) -> Result<Encoder, CliError> {
    let record = dir.map(RunRecord::read).transpose()?.flatten();
    Ok(match record {
        Some(record) => encoder.with_decided(record.of_run.decided),
        None => encoder,
    })
}

/// Reports if rows have another form than the rows of the run in a folder.
///
/// # Errors
/// [`CliError::Input`] for a record that cannot be read.
pub(crate) fn compare_form(dir: Option<&Path>, form: Option<Form>) -> Result<(), CliError> {
    if let Some((of_run, found)) = forms(dir, form)? {
        let [of_run, found] = [of_run, found].map(Form::describe);
        say!(
            "note: these rows are {found}, and the adapter was trained on {of_run}: other tokens stand around the answers"
        );
    }
    Ok(())
}

/// Reports if a typed prompt gets another form than the rows of the run in a folder. Does not report plain text that the user asked
/// for (`no_chat`).
///
/// # Errors
/// The errors of [`compare_form`].
pub(crate) fn compare_form_of_prompt(dir: Option<&Path>, form: Form, no_chat: bool) -> Result<(), CliError> {
    match forms(dir, Some(form))? {
        Some((_, Form::Conversational)) => say!(
            "note: the adapter was trained on texts, and the chat template makes a turn of the prompt; --no-chat continues it as it is"
        ),
        Some((_, Form::Plain)) if !no_chat => say!(
            "note: the adapter was trained on turns, and the prompt is continued as it is, without a chat template (--chat-template FILE \
             gives one)"
        ),
        _ => {}
    }
    Ok(())
}

/// Returns the form of the run's rows and the form `found`, if they differ.
fn forms(dir: Option<&Path>, found: Option<Form>) -> Result<Option<(Form, Form)>, CliError> {
    let record = dir.map(RunRecord::read).transpose()?.flatten();
    Ok(record.and_then(|record| record.of_run.form).zip(found).filter(|(of_run, found)| of_run != found))
}

/// Describes for the run's record what running statistics depend on: loss, knobs and temperature.
pub(crate) fn describe(objective: &Objective, logp_temperature: f32) -> Value {
    json!({"loss": objective.name(), "knobs": knobs(objective), "logp_temperature": logp_temperature})
}

/// Returns the knobs of an objective as JSON.
pub(crate) fn knobs(objective: &Objective) -> Map<String, Value> {
    let value = |value| match value {
        KnobValue::Number(number) => Value::from(number),
        KnobValue::Switch(on) => on.into(),
        KnobValue::Choice(word) => word.into(),
    };
    objective.knobs().into_iter().map(|(knob, of)| (knob.key.into(), value(of))).collect()
}
