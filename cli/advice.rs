//! Says what a user can do about an error of the libraries: which flags to give or change. The libraries' messages only state the
//! facts.

use align_data::{BadRow, DataError, RowKind};
use align_engine::model::{ConfigError, FolderHolds};
use align_lora::adapter::{AdapterError, MergeError, Task};
use align_lora::train::TrainError;
use std::fmt::Display;

/// Returns the message of an error, followed by the advice if there is any.
pub(crate) fn with_advice(error: &impl Display, advice: Option<String>) -> String {
    advice.map_or_else(|| error.to_string(), |advice| format!("{error}{advice}"))
}

/// Returns advice about an error of training or evaluation, to append to its message. `None` if there is no advice.
pub(crate) fn of_training(error: &TrainError) -> Option<String> {
    Some(match error {
        TrainError::NonFinite { .. } => ". Lower --learning-rate, or look at these rows with `inspect`".to_owned(),
        TrainError::NonFiniteEvaluation { .. } => ". Look at these rows with `inspect`".to_owned(),
        TrainError::NoCompletions { .. } => ": --max-completions is for the losses that do".to_owned(),
        TrainError::BatchOfOne { .. } => ": --batch-size must be at least 2".to_owned(),
        TrainError::NoReferenceData { .. } => ": give --reference-data, or leave --eta out".to_owned(),
        TrainError::NoSteps { .. } => ": give more data, or more --epochs".to_owned(),
        TrainError::Memory { micro_batch_tokens, max_length, .. } => format!(
            ". Lower --micro-batch-tokens ({micro_batch_tokens} now) or --max-length ({max_length} now) below these, or raise --memory"
        ),
        TrainError::Kernel(_)
        | TrainError::Data(_)
        | TrainError::Adapter(_)
        | TrainError::OneRow { .. }
        | TrainError::NoScoreHead { .. }
        | TrainError::ScoreHead { .. }
        | TrainError::MissingColumn { .. }
        | TrainError::Write { .. } => return None,
    })
}

/// Returns advice about rows that a run cannot use, to append to the message of the error. `None` if there is no advice.
pub(crate) fn of_data(error: &DataError) -> Option<String> {
    let advice = match error {
        // other rows may have the column that this one lacks
        DataError::Row { reason: BadRow::Missing { .. }, .. } => ". Or leave such rows out with --on-bad-row skip",
        DataError::WrongShape { found, .. } => match found.kind()? {
            RowKind::Labelled => "; rows like this one are for --loss kto",
            RowKind::Sequence => "; rows like this one are for --loss sft",
            // several losses read such rows, so there is no single one to name
            RowKind::Pair | RowKind::Scored => return None,
        },
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Returns advice about an adapter that was refused, to append to the message of the error. `None` if there is no advice.
pub(crate) fn of_adapter(error: &AdapterError) -> Option<String> {
    let AdapterError::Task { needed, .. } = error else { return None };
    let advice = match needed {
        Task::CausalLm => "; give it to `score --reward-model`, or to `train` or `eval` with --loss rm_bt or rm_rank",
        Task::SequenceClassification => "; a reward model is trained with `train --loss rm_bt` or rm_rank",
    };
    Some(advice.to_owned())
}

/// Returns advice about a folder that does not hold a model, to append to the message of the error. `None` if there is no advice.
pub(crate) fn of_config(error: &ConfigError) -> Option<String> {
    let ConfigError::NoConfig { holds, .. } = error else { return None };
    let advice = match holds {
        FolderHolds::Adapter { base: Some(_) } => ": give that as --model, and this folder as --adapter",
        FolderHolds::Adapter { base: None } => ": give its base as --model, and this folder as --adapter",
        FolderHolds::Folders { models, .. } if models.is_empty() => {
            ". Give their base as --model, and one of them as --adapter"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Returns advice about an error of `merge`, to append to its message. `None` if there is no advice.
pub(crate) fn of_merge(error: &MergeError) -> Option<String> {
    Some(match error {
        MergeError::NotEmpty { .. } => "; give another --output, or --overwrite to replace it".to_owned(),
        MergeError::NotAFolder { .. } => "; give another --output".to_owned(),
        MergeError::Overlap { .. } => "; give an --output of its own".to_owned(),
        MergeError::Config(_)
        | MergeError::Load(_)
        | MergeError::Adapter(_)
        | MergeError::Kernel(_)
        | MergeError::NonFinite { .. }
        | MergeError::NotRun { .. }
        | MergeError::Io { .. }
        | MergeError::Write { .. } => return None,
    })
}
