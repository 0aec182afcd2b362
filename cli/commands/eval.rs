//! `eval`: loss, rewards and accuracies over a data set.

use super::{print, print_json};
use crate::args::EvalArgs;
use crate::data::{self, DataOptions};
use crate::error::CliError;
use crate::loaded;
use crate::reference::Reference;
use crate::reference_cache;
use crate::report::{self, say};
use crate::run_record::{self, Kept};
use align_data::RowKind;
use align_engine::adapters::Adapters;
use align_lora::objective::{KnobValue, Objective, Scores};
use align_lora::train::{EvalBatches, Scorers, Scoring, evaluate, one_prompt};
use serde_json::{Map, Value};
use std::sync::Arc;

pub fn run(args: &EvalArgs, knobs: &[(&'static str, KnobValue)]) -> Result<(), CliError> {
    let objective = Objective::new(args.loss.as_deref().unwrap_or("dpo"), knobs)?;
    if objective.scores() == Scores::Reward && args.model.adapter.is_none() {
        let name = objective.name();
        return Err(CliError::Usage(format!("--loss {name} is about a reward model: give its --adapter")));
    }
    if !objective.reference() && args.cache.reference_cache.is_some() {
        say!("--reference-cache is not used: loss {} reads no reference", objective.name());
    }
    if !objective.reference() && args.reference.is_some() {
        let name = objective.name();
        return Err(CliError::Usage(format!("--reference: loss {name} reads no reference; leave the flag out")));
    }
    let max_length = loaded::max_length(&args.data);
    let logp_temperature = args.logp.temperature();
    loaded::check_temperature(&args.logp, &objective)?;
    let device = loaded::device(&args.device)?;
    device.clone().install(|| {
        let loaded = loaded::model(&args.model, &device)?;
        let policy = args.model.adapter.as_ref().map(|dir| loaded.adapter_of(&objective, dir)).transpose()?;
        let adapter_dir = args.model.adapter.as_deref();
        let kept = Kept::beside(adapter_dir.zip(policy.as_ref()))?;
        let reference = match (objective.scores(), objective.reference()) {
            (Scores::Reward, _) => Reference::none("a reward model scores each answer by itself"),
            (Scores::LogProbs, false) => Reference::none("the loss reads the policy alone"),
            (Scores::LogProbs, true) => Reference::find(args.reference.as_ref(), adapter_dir, &kept, &loaded)?,
        };
        let history = kept.history(&reference.name, &run_record::describe(&objective, logp_temperature));
        let precision = args.device.precision.into();
        let cache = match objective.reference() {
            true => reference_cache::open(
                args.cache.reference_cache.as_ref(),
                &loaded,
                reference.set.as_deref(),
                precision,
                logp_temperature,
            )?
            .map(Arc::new),
            false => None,
        };
        if let Some(cache) = &cache {
            reference_cache::summary(cache);
        }
        let scoring = Scoring {
            model: &loaded.model,
            adapters: Adapters { policy: policy.map(|adapter| adapter.set().clone()), reference: reference.set },
            scorers: Scorers::of(&objective, &loaded.model),
            precision,
            logp_temperature,
            extras: objective.weighting(),
            cache: cache.clone(),
        };
        if objective.reference_data() {
            say!("evaluations of loss {} leave its term for --reference-data out", objective.name());
        }
        let template = loaded.template(&args.model)?;
        let encoder = loaded.encoder_of(&objective, template.as_deref(), max_length, &args.data)?;
        let encoder = run_record::reading_as(adapter_dir, encoder)?;
        let files = loaded.data_files(&args.data, |demo| match objective.data() {
            RowKind::Scored => demo.scored.clone(),
            RowKind::Pair | RowKind::Labelled | RowKind::Sequence => demo.pairs_eval.clone(),
        })?;
        let options = DataOptions {
            kind: Some(objective.data()),
            on_bad_row: args.data.on_bad_row,
            keep: &args.data.keep,
            demo: args.model.demo,
            drops: args.drops.into(),
        };
        let data = data::data_with_rejects(&files, encoder, &options)?.with_unpaired_order(args.unpaired_order.into());
        report::data("data", data.survey(), &args.data.reading);
        run_record::compare_form(adapter_dir, data.survey().form())?;
        if one_prompt(&objective, &data) {
            let name = objective.name();
            say!("warning: all rows of --data have one prompt: the mismatched answers of loss {name} answer it too");
        }
        let batches = EvalBatches {
            batch_size: args.batch_size as usize,
            max_length: max_length as usize,
            micro_batch_tokens: args.pack.micro_batch_tokens as usize,
            history,
        };
        let metrics = evaluate(&scoring, &objective, &data, &batches, 0, 0.0)?;
        reference_cache::say_notes(cache.as_deref());
        if args.json {
            let mut object: Map<String, Value> =
                metrics.entries().into_iter().map(|(name, value)| (name, value.into())).collect();
            object.insert("loss".into(), objective.name().into());
            object.extend(run_record::knobs(&objective));
            object.insert("reference".into(), reference.name.into());
            object.insert("max_length".into(), max_length.into());
            object.insert("rows".into(), metrics.rows.into());
            object.insert("dropped".into(), data.survey().dropped_rows().into());
            return print_json(&Value::Object(object));
        }
        let mut text =
            format!("loss {}, max-length {max_length}, {}\n", report::loss(&objective), report::rows(metrics.rows));
        for (name, value) in metrics.entries() {
            text += &format!("{name:<26} {value:>12.6}\n");
        }
        print(text.as_bytes())
    })
}
