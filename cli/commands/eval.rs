//! `eval`: loss, rewards and accuracies over a data set.

use super::{print, print_json};
use crate::args::EvalArgs;
use crate::data::RowsOf;
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::reference::Reference;
use crate::reference_cache;
use crate::report::{self, Pass, say};
use crate::run_record::{self, Kept};
use align_data::{Dataset, RowKind};
use align_engine::adapters::Adapters;
use align_lora::adapter::Adapter;
use align_lora::objective::{KnobValue, Objective, Scores};
use align_lora::train::{EvalBatches, EvalMetrics, Scorers, Scoring, evaluate, one_prompt};
use serde_json::{Map, Value};
use std::sync::Arc;

pub(super) fn run(args: &EvalArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let objective = Objective::new(args.loss.as_deref().unwrap_or("dpo"), knobs)?;
    if objective.scores() == Scores::Reward && args.model.adapter.is_none() {
        let name = objective.name();
        return Err(CliError::Usage(format!("--loss {name} is about a reward model: give its --adapter")));
    }
    loaded::check_reference(args.reference.as_ref(), &args.cache, &objective)?;
    loaded::check_temperature(&args.logp, &objective)?;
    let device = loaded::device(&args.device)?;
    device.clone().install(|| {
        let loaded = loaded::model(&args.model, &device)?;
        let dir = args.model.adapter.as_deref();
        let policy = dir.map(|dir| loaded.adapter_for(dir, Some(loaded::task_of(&objective)))).transpose()?;
        let kept = Kept::beside(dir.zip(policy.as_ref()))?;
        let reference = reference(args, &objective, &kept, &loaded)?;
        let history = kept.history(&reference.name, &run_record::describe(&objective, args.logp.temperature()));
        let name = reference.name.clone();
        let scoring = scoring(args, &objective, &loaded, policy, reference)?;
        let data = open(args, &objective, &loaded)?;
        let batches = EvalBatches {
            batch_size: args.batch_size as usize,
            max_length: loaded::max_length(&args.data) as usize,
            micro_batch_tokens: args.pack.micro_batch_tokens as usize,
            history,
        };
        let mut pass = Pass::new("evaluating");
        let mut progress = |rows: usize| pass.at(rows as u64, data.len() as u64, "");
        let metrics = evaluate(&scoring, &objective, &data, &batches, 0, 0.0, &mut progress)?;
        drop(pass);
        reference_cache::say_notes(scoring.cache.as_deref());
        match args.json {
            true => print_json(&as_json(args, &objective, &metrics, &name, data.survey().dropped_rows())),
            false => print(as_text(args, &objective, &metrics).as_bytes()),
        }
    })
}

fn reference(args: &EvalArgs, objective: &Objective, kept: &Kept, loaded: &LoadedModel) -> Result<Reference, CliError> {
    match (objective.scores(), objective.reference()) {
        (Scores::Reward, _) => Ok(Reference::none("a reward model scores each answer by itself")),
        (Scores::LogProbs, false) => Ok(Reference::none("the loss reads the policy alone")),
        (Scores::LogProbs, true) => {
            Reference::find(args.reference.as_ref(), args.model.adapter.as_deref(), kept, loaded)
        }
    }
}

fn scoring<'m>(
    args: &EvalArgs,
    objective: &Objective,
    loaded: &'m LoadedModel,
    policy: Option<Adapter>,
    reference: Reference,
) -> Result<Scoring<'m>, CliError> {
    let (precision, logp_temperature) = (args.device.precision().into(), args.logp.temperature());
    let choice = args.cache.reference_cache.as_ref();
    let cache = match objective.reference() {
        true => reference_cache::open(choice, loaded, reference.set.as_deref(), precision, logp_temperature)?,
        false => None,
    };
    cache.iter().for_each(reference_cache::summary);
    Ok(Scoring {
        model: &loaded.model,
        adapters: Adapters { policy: policy.map(|adapter| adapter.set().clone()), reference: reference.set },
        scorers: Scorers::of(objective, &loaded.model),
        precision,
        logp_temperature,
        extras: objective.weighting(),
        cache: cache.map(Arc::new),
    })
}

/// Opens the data and reports what was found.
fn open(args: &EvalArgs, objective: &Objective, loaded: &LoadedModel) -> Result<Dataset, CliError> {
    if objective.reference_data() {
        say!("evaluations of loss {} leave its term for --reference-data out", objective.name());
    }
    let rows = RowsOf {
        model: &args.model,
        data: &args.data,
        kind: Some(objective.data()),
        drops: args.drops.into(),
        long_answers: loaded::long_answers(objective),
    };
    let data = rows.open(loaded, |demo| match objective.data() {
        RowKind::Scored => demo.scored.clone(),
        RowKind::Pair | RowKind::Labelled | RowKind::Sequence => demo.pairs_eval.clone(),
    })?;
    let data = data.with_unpaired_order(args.unpaired_order.into());
    report::data("data", data.survey(), &args.data.reading);
    run_record::compare_form(args.model.adapter.as_deref(), data.survey().form())?;
    if one_prompt(objective, &data) {
        let name = objective.name();
        say!("warning: all rows of --data have one prompt: the mismatched answers of loss {name} answer it too");
    }
    Ok(data)
}

fn as_json(args: &EvalArgs, objective: &Objective, metrics: &EvalMetrics, reference: &str, dropped: usize) -> Value {
    let mut object: Map<String, Value> =
        metrics.entries().into_iter().map(|(name, value)| (name, value.into())).collect();
    object.insert("loss".into(), objective.name().into());
    object.extend(run_record::knobs(objective));
    object.insert("reference".into(), reference.into());
    object.insert("max_length".into(), loaded::max_length(&args.data).into());
    object.insert("rows".into(), metrics.rows.into());
    object.insert("dropped".into(), dropped.into());
    Value::Object(object)
}

fn as_text(args: &EvalArgs, objective: &Objective, metrics: &EvalMetrics) -> String {
    let (loss, max_length) = (report::loss(objective), loaded::max_length(&args.data));
    let mut text = format!("loss {loss}, max-length {max_length}, {}\n", report::rows(metrics.rows));
    for (name, value) in metrics.entries() {
        text += &format!("{name:<26} {value:>12.6}\n");
    }
    text
}
