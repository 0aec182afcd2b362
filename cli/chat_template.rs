//! Which chat template a command renders with, and where a run keeps its own.

use crate::error::CliError;
use crate::report::say;
use crate::run_files::is_run;
use crate::run_record::{template_name, template_of_run};
use align_lora::data::{DataError, TEMPLATE_FILE, TemplateSources};
use std::path::{Path, PathBuf};

/// What to give an encoder instead of the model's own template: what `--chat-template` names, a run's template included. The folder
/// of another program's adapter may have one too: it is taken if the model has none, and is said in any case.
///
/// # Errors
/// [`CliError::Input`] for a record or a template of a run that cannot be read.
pub fn instead_of_the_models(
    flag: Option<&Path>,
    adapter: Option<&Path>,
    model: &Path,
) -> Result<Option<PathBuf>, CliError> {
    let Some(adapter) = adapter.filter(|adapter| flag.is_none_or(|flag| flag == *adapter)) else {
        return Ok(flag.map(Path::to_owned));
    };
    let is_run = is_run(adapter);
    if is_run && let Some(name) = template_of_run(adapter)? {
        check_that_of_run(&name, flag, adapter, model)?;
    }
    if flag.is_some() || is_run {
        return Ok(flag.map(Path::to_owned));
    }
    let beside = match TemplateSources::of_folder(adapter) {
        Ok(Some(beside)) => beside,
        Ok(None) => return Ok(None),
        Err(error) => {
            say!("warning: {error}; the folder of --adapter may have a chat template of its own, the model's is used");
            return Ok(None);
        }
    };
    match of_model(model) {
        None => {
            say!("chat template: that of the adapter's folder, {}; the model has none that can be read", beside.origin);
            Ok(Some(adapter.to_owned()))
        }
        Some(of_model) if of_model.same_texts(&beside) => Ok(None),
        Some(_) => {
            say!(
                "warning: {} is another chat template than the model's; the model's is used, --chat-template {} takes the adapter's",
                beside.origin,
                adapter.display()
            );
            Ok(None)
        }
    }
}

/// Compares what a run called its template with what there is now: its own copy, which `flag` names, or else the model's.
fn check_that_of_run(name: &str, flag: Option<&Path>, run: &Path, model: &Path) -> Result<(), CliError> {
    let now = match flag {
        Some(own) => TemplateSources::of_folder(own).map_err(DataError::from)?,
        None => of_model(model),
    };
    if template_name(now.as_ref()) == name {
        return Ok(());
    }
    let run = run.display();
    match (flag, now) {
        (Some(_), Some(now)) => {
            say!("warning: {}: the chat template was changed since the run; it is used as it is now", now.origin)
        }
        (None, Some(now)) if name == template_name(None) => say!(
            "warning: {}: the run in {run} was made without a chat template, and the model has one now, which is used; --chat-template \
             FILE gives another",
            now.origin
        ),
        _ => {
            return Err(CliError::Input(format!(
                "{run}: the chat template of the run ({TEMPLATE_FILE}) is gone; give it with --chat-template"
            )));
        }
    }
    Ok(())
}

/// The template of a model, as far as it can be read: texts do not need it, and what does says what is wrong with it.
pub fn of_model(model: &Path) -> Option<TemplateSources> {
    TemplateSources::of_folder(model).ok().flatten()
}

/// What a merged model gets instead of the base's template, if it differs.
///
/// # Errors
/// [`CliError::Input`] for files that cannot be read.
pub fn of_merged(path: Option<&Path>, model: &Path) -> Result<Option<TemplateSources>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let wanted = TemplateSources::of_path(path).map_err(DataError::from)?;
    Ok(Some(wanted).filter(|wanted| !of_model(model).is_some_and(|of_model| of_model.same_texts(wanted))))
}

/// Keeps a run's template in its folder.
///
/// # Errors
/// [`CliError::Runtime`] with the path.
pub fn keep(template: Option<&TemplateSources>, folder: &Path) -> Result<(), CliError> {
    let written = template.map_or(Ok(()), |template| template.write_to(folder));
    written.map_err(|(path, error)| CliError::file(&path, &error))
}
