//! `score`: the log-probs, or the reward, of every answer of every row.

use super::print;
use crate::args::{ModelArgs, ScoreArgs};
use crate::data::{Drops, RowsOf};
use crate::error::CliError;
use crate::loaded::{self, LoadedModel};
use crate::reference::Reference;
use crate::reference_cache;
use crate::report::{self, Pass};
use crate::run_record::{self, Kept};
use align_data::{Answer, Dataset, Encoded, EncodedRow, LongAnswers, Target};
use align_engine::adapters::Adapters;
use align_engine::autograd::Mode;
use align_lora::adapter::Task;
use align_lora::objective::Coupling;
use align_lora::train::{Forward, Piece, ReferenceCache, RowTokens, Scored, Scorers, Scoring, StepPlan};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::Arc;

/// Maximum number of records that are encoded, packed and printed together.
const WINDOW: usize = 256;

pub(super) fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let device = loaded::device(&args.device)?;
    device.clone().install(|| {
        let adapter = args.reward_model.as_ref().or(args.model.adapter.as_ref());
        let model_args = ModelArgs { adapter: adapter.cloned(), ..args.model.clone() };
        let loaded = loaded::model(&model_args, &device)?;
        let (scoring, reference) = scoring(args, &loaded)?;
        let long_answers = if args.reward_model.is_some() { LongAnswers::Dropped } else { LongAnswers::Cut };
        let rows = RowsOf { model: &model_args, data: &args.data, kind: None, drops: Drops::Reported, long_answers };
        let data = rows.open(&loaded, |demo| demo.pairs_eval.clone())?;
        report::data("data", data.survey(), &args.data.reading);
        run_record::compare_form(model_args.adapter.as_deref(), data.survey().form())?;
        print_scores(args, &scoring, &reference, &data)
    })
}

/// Returns the scoring that computes log-probs or rewards, and the name of the reference.
fn scoring<'m>(args: &ScoreArgs, loaded: &'m LoadedModel) -> Result<(Scoring<'m>, String), CliError> {
    let (precision, logp_temperature) = (args.device.precision().into(), args.logp.temperature());
    let scoring = |adapters: Adapters, scorers: Scorers, cache: Option<ReferenceCache>| Scoring {
        model: &loaded.model,
        adapters,
        scorers,
        precision,
        logp_temperature,
        extras: false,
        cache: cache.map(Arc::new),
    };
    if let Some(dir) = &args.reward_model {
        let scorers = Scorers::Reward { pad: loaded.model.config().pad_token_id };
        let adapter = loaded.adapter_for(dir, Some(Task::SequenceClassification))?;
        let adapters = Adapters { policy: Some(adapter.set().clone()), reference: None };
        let reference = Reference::none("a reward model scores each answer by itself");
        return Ok((scoring(adapters, scorers, None), reference.name));
    }
    let dir = args.model.adapter.as_deref();
    let policy = dir.map(|dir| loaded.adapter(dir)).transpose()?;
    let kept = Kept::beside(dir.zip(policy.as_ref()))?;
    let Reference { set, name } = Reference::find(args.reference.as_ref(), dir, &kept, loaded)?;
    let choice = args.cache.reference_cache.as_ref();
    let cache = reference_cache::open(choice, loaded, set.as_deref(), precision, logp_temperature)?;
    cache.iter().for_each(reference_cache::summary);
    let adapters = Adapters { policy: policy.map(|adapter| adapter.set().clone()), reference: set };
    Ok((scoring(adapters, Scorers::PolicyAndReference, cache), name))
}

fn print_scores(args: &ScoreArgs, scoring: &Scoring<'_>, reference: &str, data: &Dataset) -> Result<(), CliError> {
    let window = data.records_at_once(WINDOW);
    let mut pass = Pass::new("scoring");
    for start in (0..data.records()).step_by(window) {
        let end = data.records().min(start + window);
        let scores = score(scoring, data.outcomes(start..end)?, reference, args)?;
        let lines: String = scores.iter().map(|row| if args.json { format!("{row}\n") } else { line(row) }).collect();
        print(lines.as_bytes())?;
        // results on a terminal already show the progress
        if !std::io::stdout().is_terminal() {
            pass.at(end as u64, data.records() as u64, "");
        }
        reference_cache::say_notes(scoring.cache.as_deref());
    }
    Ok(())
}

/// Makes one JSON object for each outcome, in order.
fn score(
    scoring: &Scoring<'_>,
    outcomes: Vec<Encoded>,
    reference: &str,
    args: &ScoreArgs,
) -> Result<Vec<Value>, CliError> {
    let of_outcome = |outcome: &Encoded| match outcome {
        Encoded::Kept(row) => object(row.row, &row.id, reference, "prompt_tokens", row.prompt.len().into()),
        Encoded::Dropped { row, id, reason } => object(*row, id, reference, "dropped", reason.to_string().into()),
    };
    let mut objects: Vec<Value> = outcomes.iter().map(of_outcome).collect();
    let kept = outcomes.into_iter().enumerate().filter_map(|(place, outcome)| match outcome {
        Encoded::Kept(row) => Some((place, row)),
        Encoded::Dropped { .. } => None,
    });
    let (places, rows): (Vec<usize>, Vec<EncodedRow>) = kept.unzip();
    let answers = score_answers(scoring, &rows, args)?;
    for ((place, row), answers) in places.into_iter().zip(&rows).zip(answers) {
        add_answers(&mut objects[place], &row.target, answers, scoring.scorers);
    }
    Ok(objects)
}

/// Makes an object for each answer of each row.
fn score_answers(scoring: &Scoring<'_>, rows: &[EncodedRow], args: &ScoreArgs) -> Result<Vec<Vec<Value>>, CliError> {
    let tokens: Vec<RowTokens> = rows.iter().map(|row| RowTokens::of(row, 0)).collect();
    let plan = StepPlan::of_scoring(&tokens, Coupling::None, args.pack.micro_batch_tokens as usize);
    let mut answers: Vec<Vec<Value>> = rows.iter().map(|row| vec![Value::Null; row.answers.len()]).collect();
    for pass in &plan.passes {
        let forward = scoring.forward(&pass.trees(rows, &[]), Mode::Inference, None, 0)?;
        let mut scored = forward.answers().iter();
        for Piece { row, answers: of_piece } in &pass.pieces {
            for (i, scored) in of_piece.clone().zip(scored.by_ref()) {
                check_finite(&rows[*row], i, scored, &forward)?;
                answers[*row][i] = answer(&rows[*row].answers[i], scored, &forward, args);
            }
        }
    }
    Ok(answers)
}

/// Adds the answers of a row to its object, under the names of their columns.
fn add_answers(object: &mut Value, target: &Target, mut answers: Vec<Value>, scorers: Scorers) {
    match target {
        Target::Pair => {
            for (name, answer) in ["chosen", "rejected"].into_iter().zip(answers) {
                object[name] = answer;
            }
        }
        Target::Label(_) | Target::Sequence => object["completion"] = answers.remove(0),
        Target::Rewards(_) => {
            if let Scorers::Reward { .. } = scorers {
                object["ranking"] = ranking(&answers).into();
            }
            object["completions"] = answers.into();
        }
    }
}

/// Makes the object of a row: its number, its id if it has one, the name of the reference, and the entry `key`.
fn object(row: usize, id: &Option<Value>, reference: &str, key: &str, value: Value) -> Value {
    let mut object = json!({ "row": row });
    if let Some(id) = id {
        object["id"] = id.clone();
    }
    object["reference"] = reference.into();
    object[key] = value;
    object
}

/// Refuses numbers that are not finite: JSON cannot hold them, and a ranking cannot place them.
fn check_finite(row: &EncodedRow, answer: usize, scored: &Scored, forward: &Forward) -> Result<(), CliError> {
    for range in [Some(&scored.policy), scored.reference.as_ref()].into_iter().flatten() {
        if let Some(number) = forward.tokens(range).iter().find(|number| !number.is_finite()) {
            let id = row.id.as_ref().map_or(String::new(), |id| format!(" (id {id})"));
            return Err(CliError::NonFinite(format!(
                "row {}{id} (from 0), answer {answer}: the model gives {number}; look at the row with `inspect`, and at where the weights \
                 of the model and the adapter come from",
                row.row
            )));
        }
    }
    Ok(())
}

fn answer(answer: &Answer, scored: &Scored, forward: &Forward, args: &ScoreArgs) -> Value {
    let Some(reference) = &scored.reference else {
        return json!({ "tokens": answer.kept, "reward": forward.sum(&scored.policy) });
    };
    let mut object = json!({
        "tokens": answer.scored_tokens(),
        "logps": forward.sum(&scored.policy),
        "reference_logps": forward.sum(reference),
    });
    if args.per_token {
        object["token_ids"] = answer.scored_ids().collect();
        object["token_logps"] = json!(forward.tokens(&scored.policy));
        object["reference_token_logps"] = json!(forward.tokens(reference));
    }
    object
}

/// Returns the places of the answers, largest reward first. Among equal rewards the earlier answer comes first.
fn ranking(answers: &[Value]) -> Vec<usize> {
    let reward = |place: usize| answers[place]["reward"].as_f64().unwrap_or(f64::NAN);
    let mut places: Vec<usize> = (0..answers.len()).collect();
    places.sort_by(|&one, &other| reward(other).total_cmp(&reward(one)));
    places
}

/// Formats a row for people, with one line for each answer. A line has the row's number, the name of the answer, the number of
/// its tokens, its log-prob, and the difference from the reference's log-prob. With a reward model, it has the reward instead,
/// and the best of several completions comes first.
fn line(row: &Value) -> String {
    let number = &row["row"];
    if let Some(reason) = row["dropped"].as_str() {
        return format!("{number:>6}  dropped: {reason}\n");
    }
    let one = |name: &str, answer: &Value| {
        if let Some(reward) = answer["reward"].as_f64() {
            return format!("{number:>6}  {name:<12} {:>6} tokens  reward {reward:>+12.4}\n", answer["tokens"]);
        }
        let logps = answer["logps"].as_f64().unwrap_or(f64::NAN);
        let log_ratio = logps - answer["reference_logps"].as_f64().unwrap_or(f64::NAN);
        format!(
            "{number:>6}  {name:<12} {:>6} tokens  logps {logps:>12.4}  log_ratio {log_ratio:>+10.4}\n",
            answer["tokens"]
        )
    };
    let named = ["chosen", "rejected", "completion"];
    let mut text: String = named.iter().filter_map(|name| Some(one(name, row.get(name)?))).collect();
    let completions: Vec<&Value> = row["completions"].as_array().into_iter().flatten().collect();
    let ranking = row["ranking"].as_array().into_iter().flatten().filter_map(Value::as_u64);
    let mut order: Vec<usize> = ranking.map(|place| place as usize).collect();
    if order.is_empty() {
        order.extend(0..completions.len());
    }
    for i in order {
        text += &one(&format!("completion {i}"), completions[i]);
    }
    text
}
