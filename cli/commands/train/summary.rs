//! What is printed about a run before it starts: its model, adapter, loss and reference.

use crate::args::{PrecisionChoice, ReferenceChoice, TrainArgs};
use crate::commands::losses::EXPERIMENTAL;
use crate::loaded::LoadedModel;
use crate::report::{self, detail, say};
use align_kernels::Device;
use align_lora::adapter::Adapter;
use align_lora::objective::{Objective, Scores};
use align_lora::train::TrainOptions;

pub(crate) fn summary(args: &TrainArgs, loaded: &LoadedModel, adapter: &Adapter, objective: &Objective) {
    let config = loaded.model.config();
    let trained = report::count(adapter.trainable_parameters() as u64);
    say!(
        "model: {} ({}, {} parameters), {trained} more in an adapter of rank {}",
        loaded.found,
        config.family,
        report::count(config.parameters()),
        adapter.config().rank
    );
    if !loaded.all_zero.is_empty() {
        say!("  warning: matrices of zeros: {}", loaded.all_zero.join(", "));
    }
    say!("loss: {}; reference: {}", report::loss(objective), reference(args, objective));
    if objective.experimental() {
        say!("  {EXPERIMENTAL}");
    }
}

/// Prints details about the run, only with `--verbose`.
pub(crate) fn details(
    args: &TrainArgs,
    loaded: &LoadedModel,
    adapter: &Adapter,
    options: &TrainOptions,
    device: &Device,
) {
    if loaded.unused.vision > 0 {
        detail!("  {} tensors of the vision tower are not used", loaded.unused.vision);
    }
    let precision = match args.device.precision() {
        PrecisionChoice::F32 => "f32",
        PrecisionChoice::Bf16 if device.has_bf16_unit() => "bf16",
        PrecisionChoice::Bf16 => "bf16 (rounded: this processor multiplies f32 faster)",
    };
    detail!("device: {}, products in {precision}", device.describe());
    let layers = adapter.set().iter().count();
    let head = if adapter.set().score_head().is_some() { " and a score head" } else { "" };
    let trained = report::count(adapter.trainable_parameters() as u64);
    detail!(
        "adapter: {} on {layers} linear layers{head}, {trained} trainable parameters",
        report::adapter(adapter.config())
    );
    let answers = options.max_completions.map_or(String::new(), |most| format!(", at most {most} answers of a row"));
    detail!("passes: at most {} tokens{answers}", options.micro_batch_tokens);
}

fn reference(args: &TrainArgs, objective: &Objective) -> String {
    match (&args.reference, &args.model.adapter) {
        _ if objective.scores() == Scores::Reward => "none: a reward model scores each answer by itself".to_owned(),
        _ if !objective.reference() => "none: the loss reads the policy alone".to_owned(),
        (Some(ReferenceChoice::Adapter(dir)), _) => format!("the model with {}", dir.display()),
        (None, Some(dir)) => format!("the starting state, {}", dir.display()),
        (Some(ReferenceChoice::Base), _) | (None, None) => "the model without an adapter".to_owned(),
    }
}
