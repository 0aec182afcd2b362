//! The flags of `train`.

use super::model::{
    CacheArgs, DataArgs, DeviceArgs, DropArgs, LogpArgs, ModelArgs, MostSteps, PackArgs, ReferenceChoice,
    UnpairedOrderChoice, epochs, most_steps, positive,
};
use super::optimiser::OptimiserArgs;
use align_lora::train::Size;
use clap::Args;
use std::path::PathBuf;

/// Flags of `train`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  align-cli train --demo --loss exo
  align-cli train --model ./SmolLM2-135M-Instruct --data pairs.jsonl --eval-data held.jsonl
  align-cli train --config run.toml --learning-rate 5e-6

The output directory gets
  adapter_model.safetensors, adapter_config.json   after each epoch and at the end, as PEFT writes them
  metrics.jsonl                                    a line for each step and each evaluation
  config.toml                                      every option as it was resolved
  chat_template.jinja                              the chat template of the run
  run_state.json, reference/                       running statistics, and the adapter that it is compared with
  rejects.jsonl                                    with --on-bad-row skip, the rows that are left out
An interrupted run cannot be resumed in this version.")]
pub(crate) struct TrainArgs {
    #[command(flatten, next_help_heading = "Model")]
    pub model: ModelArgs,
    #[command(flatten, next_help_heading = "Data")]
    pub data: DataArgs,
    #[command(flatten, next_help_heading = "Data")]
    pub drops: DropArgs,
    /// Held-out rows, evaluated at the start, after each epoch (or --eval-steps) and at the end
    #[arg(long, value_name = "FILE", num_args = 1.., alias = "eval_dataset", help_heading = "Data")]
    pub eval_data: Vec<PathBuf>,
    /// Hold out this share of --data for evaluation instead, between 0 and 1: by --seed and prompt, no prompt on both sides
    #[arg(long, value_name = "SHARE", conflicts_with = "eval_data", help_heading = "Data")]
    pub eval_fraction: Option<f64>,
    /// Evaluate after this many steps instead of after each epoch
    #[arg(long, value_name = "STEPS", value_parser = positive, help_heading = "Data")]
    pub eval_steps: Option<u64>,
    /// The loss, or a mix like dpo:0.8,ipo:0.2; `align-cli losses` lists them
    #[arg(long, value_name = "NAME", default_value = "dpo", alias = "loss_type", help_heading = "Loss")]
    pub loss: String,
    /// Texts whose likelihood is a term of --loss max_po with --eta above 0, as many a step as rows: {text}, {messages},
    /// {prompt, completion}, or the preferred answers of pairs
    #[arg(long, value_name = "FILE", num_args = 1.., help_heading = "Loss")]
    pub reference_data: Vec<PathBuf>,
    /// With --adapter: compare with its starting state (default), `base`, or another adapter
    #[arg(long, value_name = "base|DIR", help_heading = "Loss")]
    pub reference: Option<ReferenceChoice>,
    #[command(flatten, next_help_heading = "Loss")]
    pub logp: LogpArgs,

    /// Rank of the adapter [default: 16]
    #[arg(long, value_name = "RANK", alias = "lora_r", value_parser = positive, help_heading = "Adapter")]
    pub lora_rank: Option<u64>,
    /// Scale of the adapter: alpha / rank [default: 32]
    #[arg(long, value_name = "ALPHA", help_heading = "Adapter")]
    pub lora_alpha: Option<f64>,
    /// Share of the adapter's inputs that is dropped while training [default: 0, or what --adapter says]
    #[arg(long, value_name = "P", help_heading = "Adapter")]
    pub lora_dropout: Option<f64>,
    /// Which layers: all-linear, names separated by commas, or a regular expression [default: all-linear]
    #[arg(long, value_name = "WHICH", alias = "lora_target_modules", num_args = 1.., help_heading = "Adapter")]
    pub target_modules: Vec<String>,
    /// Scale by alpha / sqrt(rank) instead
    #[arg(long, alias = "use_rslora", help_heading = "Adapter")]
    pub rslora: bool,

    #[command(flatten)]
    pub optimiser: OptimiserArgs,

    /// Passes over the data [default: 1]
    #[arg(long, value_name = "N", alias = "num_train_epochs", value_parser = epochs, help_heading = "Run")]
    pub epochs: Option<u64>,
    /// End earlier, after this many steps; -1 is no limit
    #[arg(long, value_name = "STEPS", value_parser = most_steps, allow_negative_numbers = true, help_heading = "Run")]
    pub max_steps: Option<MostSteps>,
    /// Rows of an optimiser step [default: 8]
    #[arg(long, value_name = "ROWS", alias = "per_device_train_batch_size", value_parser = positive, help_heading = "Run")]
    pub batch_size: Option<u64>,
    /// Take this many of a row's scored answers in a step, others in each epoch; evaluations take all [default: all]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(2..=u64::from(u32::MAX)), help_heading = "Run")]
    pub max_completions: Option<u64>,
    /// TRL's name for a larger batch: multiplies --batch-size (--micro-batch-tokens bounds the memory)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive, help_heading = "Run")]
    pub gradient_accumulation_steps: u64,
    /// Decides the order of rows, the fresh adapter and dropout: the same seed gives the same bits
    #[arg(long, default_value_t = 42, help_heading = "Run")]
    pub seed: u64,
    /// Take the rows in file order
    #[arg(long, help_heading = "Run")]
    pub no_shuffle: bool,
    /// Order of the answers of pairs for a loss of single answers (kto, bco ...), with --no-shuffle and in evaluations
    #[arg(long, value_name = "ORDER", value_enum, default_value = "interleaved", help_heading = "Run")]
    pub unpaired_order: UnpairedOrderChoice,
    /// Print one step in this many; metrics.jsonl has every step
    #[arg(long, value_name = "STEPS", default_value_t = 1, value_parser = positive, help_heading = "Run")]
    pub logging_steps: u64,
    /// Where the adapter and the metrics go [default: a fresh runs/LOSS-N]
    #[arg(long, value_name = "DIR", alias = "output_dir", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// Write into an output directory that is not empty; an earlier run's files there stay until this run has ended
    #[arg(long, alias = "overwrite_output_dir", help_heading = "Run")]
    pub overwrite: bool,
    /// Flags from a TOML file; those of the command line win
    #[arg(long, value_name = "FILE.toml", help_heading = "Run")]
    pub config: Option<PathBuf>,

    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    pub pack: PackArgs,
    /// Limit on memory, such as 8GiB, for activations, scratch, adapter and optimiser, not for the mapped weights. Layers that
    /// do not fit are recomputed, which changes no number [default: 40 % of what is free, on a GPU 95 %]
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Machine")]
    pub memory: Option<Size>,
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Reads an amount of memory. Refuses less than 1 MiB without a unit: the unit was probably forgotten.
fn memory(text: &str) -> Result<Size, String> {
    match text.parse::<Size>() {
        Ok(Size(0..0x10_0000)) if text.parse::<f64>().is_ok() => {
            Err(format!("that is {text} bytes; give a unit: {text}GiB or {text}MiB"))
        }
        size => size.map_err(|fault| fault.to_string()),
    }
}
