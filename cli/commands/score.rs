//! `score`: log-probs of every answer of every row, or its reward.

use super::print;
use crate::args::{ModelArgs, ScoreArgs};
use crate::data::{self, DataOptions, Drops};
use crate::error::CliError;
use crate::loaded;
use crate::reference::Reference;
use crate::reference_cache;
use crate::report;
use crate::run_record::{self, Kept};
use align_data::{Answer, Encoded, EncodedRow, LongAnswers, Target};
use align_engine::adapters::Adapters;
use align_engine::autograd::Mode;
use align_lora::objective::Coupling;
use align_lora::train::{Forward, Piece, RowTokens, Scored, Scorers, Scoring, StepPlan};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Records that are encoded, packed and printed together.
const WINDOW: usize = 256;

pub fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let device = loaded::device(&args.device)?;
    device.clone().install(|| {
        let adapter = args.reward_model.as_ref().or(args.model.adapter.as_ref());
        let model_args = ModelArgs { adapter: adapter.cloned(), ..args.model.clone() };
        let loaded = loaded::model(&model_args, &device)?;
        let (policy, scorers, long_answers) = match (&args.reward_model, &args.model.adapter) {
            (Some(dir), _) => {
                let pad = loaded.model.config().pad_token_id;
                let head = loaded.reward_model(dir)?;
                (Some(head), Scorers::Reward { pad }, LongAnswers::Dropped)
            }
            (None, Some(dir)) => (Some(loaded.adapter(dir)?), Scorers::PolicyAndReference, LongAnswers::Cut),
            (None, None) => (None, Scorers::PolicyAndReference, LongAnswers::Cut),
        };
        let reference = match scorers {
            Scorers::PolicyAndReference => {
                let dir = args.model.adapter.as_deref();
                Reference::find(args.reference.as_ref(), dir, &Kept::beside(dir.zip(policy.as_ref()))?, &loaded)?
            }
            Scorers::Policy | Scorers::Reward { .. } => Reference::none("a reward model scores each answer by itself"),
        };
        let (precision, logp_temperature) = (args.device.precision.into(), args.logp.temperature());
        let choice = args.cache.reference_cache.as_ref();
        let cache = match scorers {
            Scorers::PolicyAndReference => {
                reference_cache::open(choice, &loaded, reference.set.as_deref(), precision, logp_temperature)?
                    .map(Arc::new)
            }
            Scorers::Policy | Scorers::Reward { .. } => None,
        };
        if let Some(cache) = &cache {
            reference_cache::summary(cache);
        }
        let scoring = Scoring {
            model: &loaded.model,
            adapters: Adapters { policy: policy.map(|adapter| adapter.set().clone()), reference: reference.set },
            scorers,
            precision,
            logp_temperature,
            extras: false,
            cache: cache.clone(),
        };
        let max_length = loaded::max_length(&args.data);
        let template = loaded.template(&model_args)?;
        let encoder = loaded.data_encoder(template.as_deref(), max_length, &args.data)?;
        let encoder = run_record::reading_as(model_args.adapter.as_deref(), encoder.with_long_answers(long_answers))?;
        let files = loaded.data_files(&args.data, |demo| demo.pairs_eval.clone())?;
        let options = DataOptions {
            kind: None,
            on_bad_row: args.data.on_bad_row,
            keep: &args.data.keep,
            demo: args.model.demo,
            drops: Drops::Reported,
        };
        let data = data::data_with_rejects(&files, encoder, &options)?;
        report::data("data", data.survey(), &args.data.reading);
        run_record::compare_form(model_args.adapter.as_deref(), data.survey().form())?;
        let window = data.records_at_once(WINDOW);
        for start in (0..data.records()).step_by(window) {
            let outcomes = data.outcomes(start..data.records().min(start + window))?;
            let scores = score(&scoring, outcomes, &reference.name, args)?;
            let lines: String =
                scores.iter().map(|row| if args.json { format!("{row}\n") } else { line(row) }).collect();
            print(lines.as_bytes())?;
            reference_cache::say_notes(cache.as_deref());
        }
        Ok(())
    })
}

/// One object for each record, in order.
fn score(
    scoring: &Scoring<'_>,
    outcomes: Vec<Encoded>,
    reference: &str,
    args: &ScoreArgs,
) -> Result<Vec<Value>, CliError> {
    let mut objects: Vec<Value> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Encoded::Kept(row) => head(row.row, &row.id, reference),
            Encoded::Dropped { row, id, reason } => {
                let mut object = head(*row, id, reference);
                object.insert("dropped".into(), reason.to_string().into());
                object
            }
        })
        .map(Value::Object)
        .collect();
    let (places, rows): (Vec<usize>, Vec<EncodedRow>) = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(place, outcome)| match outcome {
            Encoded::Kept(row) => Some((place, row)),
            Encoded::Dropped { .. } => None,
        })
        .unzip();
    let tokens: Vec<RowTokens> = rows.iter().map(|row| RowTokens::of(row, 0)).collect();
    let plan = StepPlan::of_scoring(&tokens, Coupling::None, args.pack.micro_batch_tokens as usize);
    let mut answers: Vec<Vec<Value>> = rows.iter().map(|row| vec![Value::Null; row.answers.len()]).collect();
    for pass in &plan.passes {
        let forward = scoring.forward(&pass.trees(&rows, &[]), Mode::Inference, None, 0)?;
        let mut scored = forward.answers().iter();
        for Piece { row, answers: of_piece } in &pass.pieces {
            for (i, scored) in of_piece.clone().zip(scored.by_ref()) {
                check_finite(&rows[*row], i, scored, &forward)?;
                answers[*row][i] = answer(&rows[*row].answers[i], scored, &forward, args);
            }
        }
    }
    for ((place, row), answers) in places.into_iter().zip(rows).zip(answers) {
        let object = objects[place].as_object_mut().expect("made above");
        object.insert("prompt_tokens".into(), row.prompt.len().into());
        match (&row.target, answers) {
            (Target::Pair, answers) => {
                for (name, answer) in ["chosen", "rejected"].into_iter().zip(answers) {
                    object.insert(name.into(), answer);
                }
            }
            (Target::Label(_) | Target::Sequence, mut answers) => {
                object.insert("completion".into(), answers.remove(0));
            }
            (Target::Rewards(_), answers) => {
                if let Scorers::Reward { .. } = scoring.scorers {
                    object.insert("ranking".into(), ranking(&answers).into());
                }
                object.insert("completions".into(), answers.into());
            }
        }
    }
    Ok(objects)
}

fn head(row: usize, id: &Option<Value>, reference: &str) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("row".into(), row.into());
    if let Some(id) = id {
        object.insert("id".into(), id.clone());
    }
    object.insert("reference".into(), reference.into());
    object
}

/// JSON has no number for what is not finite, and no ranking a place.
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

/// Places of the answers, the one with the largest reward first; of equal ones the earlier first.
fn ranking(answers: &[Value]) -> Vec<usize> {
    let reward = |place: usize| answers[place]["reward"].as_f64().unwrap_or(f64::NAN);
    let mut places: Vec<usize> = (0..answers.len()).collect();
    places.sort_by(|&one, &other| reward(other).total_cmp(&reward(one)));
    places
}

/// The same for people: row, answer, tokens, log-prob, its difference from the reference's; or its reward, the
/// answers of a prompt with the best first.
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
