//! Flags that several commands share: model, data, device.

use crate::data::Drops;
use crate::error::CliError;
use align_data::{ColumnMap, ImplicitPrompt, OnBadRow, Pairs, Reading, SftPart, Texts, UnpairedOrder};
use align_kernels::Precision;
use align_kernels::cpu::Isa;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// Implements the conversion of a choice of the command line into the variant of the same name of a library's enum.
macro_rules! named_alike {
    ($choice:ident => $value:ident { $($name:ident),* }) => {
        impl From<$choice> for $value {
            fn from(choice: $choice) -> $value {
                match choice { $($choice::$name => $value::$name),* }
            }
        }
    };
}
pub(super) use named_alike;

/// Which model, with which adapter.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// Model directory, or the name of a model in the local Hugging Face cache
    #[arg(long, value_name = "DIR|ORG/NAME", alias = "model_name_or_path", required_unless_present = "demo")]
    pub model: Option<String>,
    /// PEFT adapter directory
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Use the small model and the data inside this program
    #[arg(long, conflicts_with = "model")]
    pub demo: bool,
    /// Chat template: a file, or a folder that has one [default: that of the adapter's run, else the model's own]
    #[arg(long, value_name = "FILE|DIR", alias = "chat_template_path")]
    pub chat_template: Option<PathBuf>,
}

/// Which rows, cut how.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// Rows: JSONL, a JSON array or CSV, plain or compressed by gzip or zstd, or Parquet; a pattern in quotes ("rows/*.jsonl")
    /// stands for all its files; `ORG/NAME[:CONFIG][@REVISION][#SPLIT]` is a data set of the local Hugging Face cache
    #[arg(long, value_name = "FILE", num_args = 1.., alias = "dataset_name", required_unless_present = "demo")]
    pub data: Vec<PathBuf>,
    /// Limit on the tokens of prompt + one answer; the end is cut
    /// [default: 1024; `score`, `eval` and `inspect` take that of the adapter's run, if it has a config.toml]
    #[arg(long, value_name = "TOKENS", value_parser = positive, verbatim_doc_comment)]
    pub max_length: Option<u64>,
    /// What happens to a bad row
    #[arg(long, value_name = "WHAT", value_enum, default_value = "error")]
    pub on_bad_row: OnBadRowChoice,
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Make pairs of scored answers for a loss of pairs: one of the best and the worst answer, or one of every two. Answers
    /// with the same score make none; --batch-size counts pairs
    #[arg(long, value_name = "WHICH", value_enum)]
    pub pairs: Option<PairsChoice>,
    /// Which tokens of {prompt, completion}, {messages} or {text} are scored [default: the completion; all of {messages} and
    /// {text}]
    #[arg(long, value_name = "PART", value_enum)]
    pub sft_on: Option<SftPartChoice>,
    #[command(flatten)]
    pub keep: KeepArgs,
}

impl DataArgs {
    /// Returns how the rows are read.
    ///
    /// # Errors
    /// The errors of [`ReadingArgs::reading`].
    pub(crate) fn reading(&self) -> Result<Reading, CliError> {
        Ok(Reading { pairs: self.pairs.map(Into::into), ..self.reading.reading()? })
    }
}

/// See [`Pairs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PairsChoice {
    /// One pair of the best and the worst answer; the first of equal ones
    BestWorst,
    /// One pair of every two answers
    All,
}

named_alike!(PairsChoice => Pairs { BestWorst, All });

/// What is kept of the rows beside what they are read for.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeepArgs {
    /// With --on-bad-row skip: write the rows that are left out to this file, with place and reason
    /// [default: none; `train` writes rejects.jsonl into its output directory]
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub rejects: Option<PathBuf>,
    /// Where the tokens of the data are kept for the next start over the same files
    /// [default: align/tokens in the user's cache folder; 16 GiB at most, what was not used for the longest time goes first]
    #[arg(long, value_name = "DIR|off", verbatim_doc_comment)]
    pub data_cache: Option<DataCacheChoice>,
}

/// Where the tokens of the data are kept from one run to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DataCacheChoice {
    Off,
    Folder(PathBuf),
}

impl From<&str> for DataCacheChoice {
    fn from(text: &str) -> DataCacheChoice {
        match text {
            "off" => DataCacheChoice::Off,
            folder => DataCacheChoice::Folder(folder.into()),
        }
    }
}

/// How rows are read.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ReadingArgs {
    /// Columns that have other names in the files, ours first: prompt=question,chosen=a,rejected=b
    #[arg(long, value_name = "OURS=THEIRS,...", num_args = 1..)]
    pub columns: Vec<String>,
    /// If `chosen` and `rejected` are texts without a prompt column, make their whole common start the prompt, as in TRL
    /// [default: up to the last turn marker that nearly all rows share]
    #[arg(long)]
    pub implicit_prompt: bool,
    /// Make turns of prompts and answers that are texts, and render them with the chat template; --no-chat leaves them texts
    /// even if the adapter's run made turns
    #[arg(long)]
    pub chat: bool,
    #[arg(long, overrides_with = "chat", hide = true)]
    pub no_chat: bool,
    /// System text for rows without a system turn and without a column `system`; a prompt that is a text begins with it and a blank line
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
}

impl ReadingArgs {
    /// Returns how rows are read, according to the flags.
    ///
    /// # Errors
    /// [`CliError::Usage`] if `--columns` cannot be parsed.
    pub(crate) fn reading(&self) -> Result<Reading, CliError> {
        let columns = self.columns.join(",").parse::<ColumnMap>();
        let columns = columns.map_err(|fault| CliError::Usage(format!("--columns: {fault}")))?;
        let texts = if self.chat { Texts::AsTurns } else { Texts::AsTheyAre };
        let system = self.system.clone().filter(|text| !text.is_empty());
        let implicit_prompt = if self.implicit_prompt { ImplicitPrompt::Longest } else { ImplicitPrompt::TurnMarker };
        Ok(Reading { columns, texts, system, implicit_prompt, ..Reading::default() })
    }
}

/// Whether a run continues without many of its rows.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct DropArgs {
    /// Continue if more than a tenth of the rows are dropped, for example because their prompts fill --max-length
    #[arg(long)]
    pub allow_drops: bool,
}

impl From<DropArgs> for Drops {
    fn from(args: DropArgs) -> Drops {
        if args.allow_drops { Drops::Reported } else { Drops::Few }
    }
}

/// See [`SftPart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SftPartChoice {
    /// The completion, end token included
    Completion,
    /// The assistant's turns, end tokens included: by the {% generation %} marks of the chat template, else by what it adds
    /// with each of them
    Assistant,
    /// All tokens but the first
    All,
}

named_alike!(SftPartChoice => SftPart { Completion, Assistant, All });

/// At which temperature log-probs are taken.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogpArgs {
    /// Divide the logits of policy and reference by this before log-probs are taken, as a sampler at this temperature does
    /// [default: 1; `score` and `eval` take that of the adapter's run, if it has a config.toml]
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub logp_temperature: Option<f32>,
}

impl LogpArgs {
    /// Returns the temperature. It is 1 if the flag is not given.
    pub(crate) fn temperature(&self) -> f32 {
        self.logp_temperature.unwrap_or(1.0)
    }
}

/// Reads a number from 0.001 to 1000, so that neither it nor its inverse leaves the range of an f32.
fn temperature(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (1e-3..=1e3).contains(&value) => Ok(value),
        _ => Err("expected a number from 0.001 to 1000".to_owned()),
    }
}

/// Reads a whole number from 1 to `u32::MAX`. Accepts `3.0` too: TRL writes its own defaults like that.
pub(super) fn positive(text: &str) -> Result<u64, String> {
    let whole = text.split_once('.').filter(|(_, zeros)| zeros.bytes().all(|digit| digit == b'0'));
    match whole.map_or(text, |(whole, _)| whole).parse::<u64>() {
        Ok(number) if (1..=u64::from(u32::MAX)).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {}", u32::MAX)),
    }
}

/// The largest number of steps of a run. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MostSteps(pub Option<u64>);

/// Reads a number like [`positive`]. -1 means no limit, as in TRL.
pub(super) fn most_steps(text: &str) -> Result<MostSteps, String> {
    match text {
        "-1" => Ok(MostSteps(None)),
        _ => positive(text).map(|steps| MostSteps(Some(steps))).map_err(|fault| format!("{fault}, or -1 for no limit")),
    }
}

/// Reads a number like [`positive`]. The error also names `--max-steps`, for users who gave -1 or a part of an epoch, which TRL
/// allows.
pub(super) fn epochs(text: &str) -> Result<u64, String> {
    positive(text).map_err(|fault| format!("{fault}; give enough epochs, and --max-steps to end within them"))
}

/// See [`OnBadRow`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnBadRowChoice {
    /// The first one ends the run; rows that leave no room for an answer are left out and counted all the same
    Error,
    /// It is left out and counted
    Skip,
}

named_alike!(OnBadRowChoice => OnBadRow { Error, Skip });

/// See [`UnpairedOrder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnpairedOrderChoice {
    /// Chosen and rejected answers alternate, and neighbours have different prompts
    Interleaved,
    /// As in TRL: of each thousand pairs, all chosen answers and then all rejected ones; evaluations compute what rows share
    /// (KTO's reference point, BCO's shift) per batch of --batch-size, not over the whole set
    Trl,
}

named_alike!(UnpairedOrderChoice => UnpairedOrder { Interleaved, Trl });

/// Where it runs, and how exactly.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, cuda (the first GPU) or cuda:N. auto is the processor
    #[arg(long, default_value = "auto", help_heading = "Machine")]
    pub device: DeviceChoice,
    /// Number format of matrix products [default: bf16 where the processor multiplies it faster than f32, else f32; on a GPU f32]
    #[arg(long, value_enum, help_heading = "Machine")]
    precision: Option<PrecisionChoice>,
    /// Threads of the processor [default: all]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Machine")]
    pub threads: Option<u64>,
}

/// How much is computed at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct PackArgs {
    /// Tokens of one forward pass, each prompt counted once
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, value_parser = positive, help_heading = "Machine")]
    pub micro_batch_tokens: u64,
}

impl DeviceArgs {
    /// Returns the number format that the flags name, or the default of the device.
    pub(crate) fn precision(&self) -> PrecisionChoice {
        self.precision.unwrap_or_else(|| match self.device {
            DeviceChoice::Auto | DeviceChoice::Cpu => PrecisionChoice::of_this_machine(),
            DeviceChoice::Cuda(_) => PrecisionChoice::F32,
        })
    }
}

/// Where kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Auto,
    Cpu,
    /// The GPU with this number, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (text, number) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(number)) => Ok(DeviceChoice::Cuda(number)),
            (_, None) => Err("give auto, cpu, cuda, or cuda:N for the GPU of number N".to_owned()),
        }
    }
}

/// See [`Precision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionChoice {
    Bf16,
    F32,
}

impl PrecisionChoice {
    /// Returns the number format that this machine multiplies faster. Returns f32 if `ALIGN_CPU` names an instruction set that
    /// the machine lacks: opening the device reports that.
    fn of_this_machine() -> PrecisionChoice {
        if Isa::chosen().is_ok_and(Isa::has_bf16_unit) { PrecisionChoice::Bf16 } else { PrecisionChoice::F32 }
    }
}

named_alike!(PrecisionChoice => Precision { Bf16, F32 });

/// What answers are compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReferenceChoice {
    /// The model without an adapter.
    Base,
    /// The model with this adapter.
    Adapter(PathBuf),
}

impl From<&str> for ReferenceChoice {
    fn from(text: &str) -> ReferenceChoice {
        match text {
            "base" => ReferenceChoice::Base,
            dir => ReferenceChoice::Adapter(dir.into()),
        }
    }
}

/// Where the log-probs of the reference are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheChoice {
    Off,
    /// In memory, for this process alone.
    Memory,
    Folder(PathBuf),
}

impl From<&str> for CacheChoice {
    fn from(text: &str) -> CacheChoice {
        match text {
            "off" => CacheChoice::Off,
            "memory" => CacheChoice::Memory,
            folder => CacheChoice::Folder(folder.into()),
        }
    }
}

/// The log-probs of the reference, from one pass to the next.
#[derive(Debug, Clone, Args)]
pub(crate) struct CacheArgs {
    /// Where log-probs of the reference are kept, for later epochs and later runs: a directory, `memory` for this run alone, or
    /// `off`, which computes them each time. No number depends on it [default: align/reference in $XDG_CACHE_HOME or ~/.cache;
    /// the demo's in memory]
    #[arg(long, value_name = "DIR|memory|off", help_heading = "Machine")]
    pub reference_cache: Option<CacheChoice>,
}
