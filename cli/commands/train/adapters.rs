//! The two adapters of a run: the one that is trained, and the one of the reference.

use crate::args::{ReferenceChoice, TrainArgs};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::report::say;
use align_engine::adapters::AdapterSet;
use align_lora::adapter::{Adapter, LoraConfig};
use align_lora::objective::Objective;
use std::path::Path;
use std::sync::Arc;

/// What the policy is compared with.
pub(crate) struct RunReference {
    /// `None` if the reference is the model without an adapter, or if the objective needs no reference.
    pub set: Option<Arc<AdapterSet>>,
    /// The adapter of `--reference`.
    other: Option<Adapter>,
}

impl RunReference {
    /// Finds the reference that the flags name. By default it is the policy at the start of the run.
    ///
    /// # Errors
    /// [`CliError`] if the adapter of `--reference` cannot be read, or if there is no memory for the copy of the policy.
    pub(crate) fn new(
        args: &TrainArgs,
        loaded: &LoadedModel,
        objective: &Objective,
        policy: &Adapter,
    ) -> Result<RunReference, CliError> {
        Ok(match (&args.reference, &args.model.adapter) {
            (Some(ReferenceChoice::Adapter(dir)), _) => {
                let other = loaded.adapter(dir)?;
                RunReference { set: Some(other.set().clone()), other: Some(other) }
            }
            // training continues an adapter, so the reference is that adapter as it is now
            (None, Some(_)) if objective.reference() => RunReference { set: Some(policy.snapshot()?), other: None },
            (Some(ReferenceChoice::Base), _) | (None, _) => RunReference { set: None, other: None },
        })
    }

    /// Saves a copy of the reference's adapter, if it has one. Call it while `policy` is still as it was at the start.
    ///
    /// # Errors
    /// [`CliError`] if the adapter cannot be written.
    pub(crate) fn keep(&self, policy: &Adapter, folder: &Path) -> Result<(), CliError> {
        match &self.set {
            Some(_) => Ok(self.other.as_ref().unwrap_or(policy).save(folder)?),
            None => Ok(()),
        }
    }
}

/// Returns the adapter to train: that of `--adapter`, or a fresh one.
///
/// # Errors
/// [`CliError`] if a flag about a fresh adapter is given beside `--adapter`, or if the adapter cannot be read or made.
pub(crate) fn policy(
    args: &TrainArgs,
    loaded: &LoadedModel,
    objective: &Objective,
    seed: u64,
) -> Result<Adapter, CliError> {
    if let Some(dir) = &args.model.adapter {
        let shape = [
            (args.lora_rank.is_some(), "--lora-rank"),
            (args.lora_alpha.is_some(), "--lora-alpha"),
            (!args.target_modules.is_empty(), "--target-modules"),
            (args.rslora, "--rslora"),
        ];
        if let Some((_, flag)) = shape.into_iter().find(|(given, _)| *given) {
            return Err(CliError::Usage(format!(
                "{flag} describes a fresh adapter; that of --adapter keeps its own shape"
            )));
        }
        let mut adapter = loaded.adapter_for(dir, Some(loaded::task_of(objective)))?;
        if let Some(dropout) = args.lora_dropout {
            adapter.set_dropout(dropout)?;
        }
        return Ok(adapter);
    }
    fresh(args, loaded, objective, seed)
}

fn fresh(args: &TrainArgs, loaded: &LoadedModel, objective: &Objective, seed: u64) -> Result<Adapter, CliError> {
    let defaults = LoraConfig::default();
    let text = args.target_modules.join(",");
    let targets = match args.target_modules.is_empty() {
        false => text.parse().map_err(|fault| CliError::Usage(format!("--target-modules {text}: {fault}")))?,
        true => defaults.target_modules.clone(),
    };
    for name in targets.unmatched(loaded.model.linears()) {
        say!("warning: --target-modules {name}: no layer of the model has that name");
    }
    let config = LoraConfig {
        task: loaded::task_of(objective),
        rank: args.lora_rank.map_or(defaults.rank, |rank| rank as usize),
        alpha: args.lora_alpha.unwrap_or(defaults.alpha),
        dropout: args.lora_dropout.unwrap_or(defaults.dropout),
        target_modules: targets,
        use_rslora: args.rslora,
        base_model_name_or_path: Some(loaded.base_name.clone()),
        ..defaults
    };
    Ok(Adapter::fresh(&loaded.model, &config, seed)?)
}
