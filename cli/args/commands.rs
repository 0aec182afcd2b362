//! The flags of the commands other than `train`.

use super::model::{
    CacheArgs, DataArgs, DeviceArgs, DropArgs, LogpArgs, ModelArgs, PackArgs, ReadingArgs, ReferenceChoice,
    UnpairedOrderChoice, positive,
};
use super::train::TrainArgs;
use clap::Args;
use std::path::PathBuf;

/// Flags of `score`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  align-cli score --model M --adapter runs/exo_pair-1 --data pairs.jsonl --json > scores.jsonl
  align-cli score --model M --reward-model runs/rm_bt-1 --data answers.jsonl --json")]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Give rewards instead of log-probs: the adapter of a reward model, which `train --loss rm_bt` or PEFT wrote. Rows with an
    /// answer longer than --max-length are dropped
    #[arg(long, value_name = "DIR", conflicts_with_all = ["adapter", "reference", "per_token", "logp_temperature"])]
    pub reward_model: Option<PathBuf>,
    /// Compare with the bare model, or with an adapter [default: what the adapter's run was trained against, else `base`]
    #[arg(long, value_name = "base|DIR")]
    pub reference: Option<ReferenceChoice>,
    #[command(flatten)]
    pub logp: LogpArgs,
    /// One JSON object for each row on stdout
    #[arg(long)]
    pub json: bool,
    /// Add token ids and the log-prob of every token
    #[arg(long, requires = "json")]
    pub per_token: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub pack: PackArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Flags of `estimate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  align-cli estimate --model ./Llama-2-7b-hf --max-length 1024 --memory 24GiB
  align-cli estimate --model ./Llama-2-7b-hf --data pairs.jsonl --loss exo --lora-rank 64 --json

The flags are those of `train`: put `estimate` in its place. A folder with config.json alone is enough for --model.")]
pub(crate) struct EstimateArgs {
    #[command(flatten)]
    pub run: TrainArgs,
    /// Speed of the machine in GFLOP/s, for the time of a step [default: measured, if the model has weights and the plan fits]
    #[arg(long, value_name = "RATE", value_parser = speed, help_heading = "Estimate")]
    pub gflops: Option<f64>,
    /// One JSON object on stdout
    #[arg(long, help_heading = "Estimate")]
    pub json: bool,
}

/// Reads a number above 0, at most 1e12.
fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1e12 => Ok(value),
        _ => Err("expected a number above 0, at most 1e12".to_owned()),
    }
}

/// Flags of `eval`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub drops: DropArgs,
    /// The loss [default: that of the adapter's run, else dpo]
    #[arg(long, value_name = "NAME", alias = "loss_type")]
    pub loss: Option<String>,
    /// Compare with the bare model, or with an adapter [default: what the adapter's run was trained against, else `base`]
    #[arg(long, value_name = "base|DIR")]
    pub reference: Option<ReferenceChoice>,
    #[command(flatten)]
    pub logp: LogpArgs,
    /// Rows of a batch: losses that compare rows (aot) compare these, and means over tokens (sft, --sft-weight) are taken over
    /// these; with --unpaired-order trl they share KTO's reference point. Other numbers do not depend on it
    #[arg(long, value_name = "ROWS", default_value_t = 8, alias = "per_device_eval_batch_size", value_parser = positive)]
    pub batch_size: u64,
    /// Order of the answers of pairs for a loss of single answers (kto, bco ...)
    #[arg(long, value_name = "ORDER", value_enum, default_value = "interleaved")]
    pub unpaired_order: UnpairedOrderChoice,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub pack: PackArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Flags of `generate`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  align-cli generate --model M --adapter runs/exo_pair-1 --prompt 'Write a haiku about rain.'
  align-cli generate --model M --data pairs.jsonl --limit 3 --json
  echo 'Write a haiku about rain.' | align-cli generate --model M
  align-cli generate --model M                       a chat, on a terminal")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the user says: a turn of a conversation where the model has a chat template, plain text otherwise
    #[arg(long, value_name = "TEXT", conflicts_with = "data")]
    pub prompt: Option<String>,
    /// Take the prompts from files, a pattern in quotes, or a data set of the local Hugging Face cache, as with --data of `train`
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub data: Vec<PathBuf>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Only the first rows of --data
    #[arg(long, value_name = "ROWS", value_parser = positive, conflicts_with = "prompt")]
    pub limit: Option<u64>,
    /// Stop after this many new tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 256, value_parser = positive)]
    pub max_new_tokens: u64,
    /// Do not stop before this many new tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub min_new_tokens: u64,
    /// Draw tokens instead of taking the most likely one
    #[arg(long, alias = "do_sample", help_heading = "Sampling")]
    pub sample: bool,
    /// Above 1 flattens the distribution, below 1 sharpens it
    #[arg(long, value_name = "T", default_value_t = 1.0, requires = "sample", help_heading = "Sampling")]
    pub temperature: f32,
    /// Draw among this many of the most likely tokens; 0: all
    #[arg(long, value_name = "K", default_value_t = 0, requires = "sample", help_heading = "Sampling")]
    pub top_k: u64,
    /// Draw among the most likely tokens that together have this probability
    #[arg(long, value_name = "P", default_value_t = 1.0, requires = "sample", help_heading = "Sampling")]
    pub top_p: f32,
    /// Draw among tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, requires = "sample", help_heading = "Sampling")]
    pub min_p: f32,
    /// Above 1: tokens that occurred already become less likely
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, help_heading = "Sampling")]
    pub repetition_penalty: f32,
    /// Another seed draws other tokens
    #[arg(long, default_value_t = 42, requires = "sample", help_heading = "Sampling")]
    pub seed: u64,
    /// Prompts that are continued together
    #[arg(long, value_name = "ROWS", default_value_t = 8, value_parser = positive)]
    pub batch_size: u64,
    /// One JSON object for each prompt on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Flags of `merge`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MergeArgs {
    /// Model directory, or the name of a model in the local Hugging Face cache
    #[arg(long, value_name = "DIR|ORG/NAME", alias = "model_name_or_path", required_unless_present = "demo")]
    pub model: Option<String>,
    /// Use the small model inside this program
    #[arg(long, conflicts_with = "model")]
    pub demo: bool,
    /// PEFT adapter directory
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Chat template of the new model: a file, or a folder that has one [default: that of the adapter's run, else the base's]
    #[arg(long, value_name = "FILE|DIR", alias = "chat_template_path")]
    pub chat_template: Option<PathBuf>,
    /// New model directory
    #[arg(long, value_name = "DIR", alias = "output_dir")]
    pub output: PathBuf,
    /// Replace an output directory that is not empty
    #[arg(long)]
    pub overwrite: bool,
    /// Threads of the processor [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub threads: Option<u64>,
}

/// Flags of `inspect`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    /// Show the tokens of this row of the data, from 0
    #[arg(long, value_name = "N")]
    pub row: Option<u64>,
    /// Which layers training would adapt
    #[arg(long, value_name = "WHICH", conflicts_with = "adapter")]
    pub target_modules: Option<String>,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Flags of `losses`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LossesArgs {
    /// One loss: its formula, source, knobs and when to use it [default: the list of all]
    #[arg(value_name = "NAME", conflicts_with_all = ["json", "markdown"])]
    pub name: Option<String>,
    /// A JSON list on stdout
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// The document docs/objectives.md on stdout: formulas, sources, knobs, when to use which
    #[arg(long)]
    pub markdown: bool,
}
