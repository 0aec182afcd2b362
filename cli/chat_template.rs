//! Chooses the chat template that a command renders with, and saves a run's own template.

use crate::error::CliError;
use crate::report::say;
use crate::run_files::is_run;
use crate::run_record::{template_name, template_of_run};
use align_data::{TEMPLATE_FILE, TemplateSources};
use std::path::{Path, PathBuf};

/// Returns the path of the chat template to use instead of the model's own. That is the path of `--chat-template`. If the flag is
/// not given and the model has no template, it is the folder of an adapter from another program. Otherwise `None`. Warns if the
/// template of such an adapter differs from the model's, or if the template of a run has changed.
///
/// # Errors
/// [`CliError::Input`] if the record or the template of a run cannot be read, or if the template is gone.
pub(crate) fn instead_of_the_models(
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
            say!("warning: {error}; the folder of --adapter may have its own chat template; the model's is used");
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
                "warning: {} is another chat template than the model's; the model's is used; --chat-template {} uses the adapter's",
                beside.origin,
                adapter.display()
            );
            Ok(None)
        }
    }
}

/// Warns if the current template is not the one that a run recorded as `name`. The current template is the run's own copy if
/// `flag` names the run's folder, or else the model's. Fails if the run's template is gone.
fn check_that_of_run(name: &str, flag: Option<&Path>, run: &Path, model: &Path) -> Result<(), CliError> {
    let now = match flag {
        Some(own) => TemplateSources::of_folder(own)?,
        None => of_model(model),
    };
    if template_name(now.as_ref()) == name {
        return Ok(());
    }
    let run = run.display();
    match (flag, now) {
        (Some(_), Some(now)) => {
            say!("warning: {}: the chat template has changed since the run; the current one is used", now.origin)
        }
        (None, Some(now)) if name == template_name(None) => say!(
            "warning: {}: the run in {run} was made without a chat template; the model has one now, and it is used; \
             --chat-template FILE gives another",
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

/// Returns the template of a model. `None` if the model has no template, or if it cannot be read: plain strings do not need a
/// template, and the first conversation that needs one reports the error.
pub(crate) fn of_model(model: &Path) -> Option<TemplateSources> {
    TemplateSources::of_folder(model).ok().flatten()
}

/// Returns the template at `path`, to be written into a merged model. `None` if the template of the base `model` stays.
///
/// # Errors
/// [`CliError::Input`] for files that cannot be read.
pub(crate) fn of_merged(path: Option<&Path>, model: &Path) -> Result<Option<TemplateSources>, CliError> {
    let Some(path) = path else { return Ok(None) };
    let wanted = TemplateSources::of_path(path)?;
    Ok(Some(wanted).filter(|wanted| !of_model(model).is_some_and(|of_model| of_model.same_texts(wanted))))
}

/// Saves a run's template in the run's folder.
///
/// # Errors
/// [`CliError::Runtime`] if a file cannot be written. Its message names the file.
pub(crate) fn keep(template: Option<&TemplateSources>, folder: &Path) -> Result<(), CliError> {
    let written = template.map_or(Ok(()), |template| template.write_to(folder));
    written.map_err(|(path, error)| CliError::file(&path, &error))
}
