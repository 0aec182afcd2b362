//! Defines the command line: its commands and flags. TRL's and PEFT's names of flags are hidden aliases.

mod commands;
mod model;
mod optimiser;
mod train;
mod verbs;

pub(crate) use commands::{EstimateArgs, EvalArgs, GenerateArgs, InspectArgs, LossesArgs, MergeArgs, ScoreArgs};
pub(crate) use model::{
    CacheArgs, CacheChoice, DataArgs, DataCacheChoice, DeviceArgs, DeviceChoice, LogpArgs, ModelArgs, OnBadRowChoice,
    PrecisionChoice, ReadingArgs, ReferenceChoice,
};
pub(crate) use train::TrainArgs;
pub(crate) use verbs::instead_of;

use crate::report::WIDEST;
use align_lora::objective::{self, Knob, KnobKind, KnobValue};
use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser, Subcommand};
use std::any::TypeId;
use std::collections::BTreeSet;

/// Preference fine-tuning of language models with LoRA: one binary, one forward pass per pair.
#[derive(Debug, Parser)]
#[command(name = "align-cli", version, max_term_width = WIDEST, arg_required_else_help = true)]
#[command(after_help = "Try it: align-cli train --demo --loss exo")]
pub(crate) struct Cli {
    /// Print more of what the command finds out
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Commands,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Commands {
    /// Train a LoRA adapter on preferences
    Train(Box<TrainArgs>),
    /// Say what a run would take: memory, layers kept, time
    Estimate(Box<EstimateArgs>),
    /// Print the log-probs of every answer under the policy and the reference
    Score(ScoreArgs),
    /// Loss, rewards and accuracies over a data set
    Eval(EvalArgs),
    /// Continue prompts; a chat on a terminal
    Generate(GenerateArgs),
    /// Write a model directory with the adapter merged into its weights
    Merge(MergeArgs),
    /// Say what a model, an adapter or a data file is, and what would be trained
    Inspect(InspectArgs),
    /// List the losses
    Losses(LossesArgs),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, of the whole or of a command
    Man {
        /// The command [default: the whole]
        command: Option<String>,
    },
}

/// Flags of TRL and PEFT that have no counterpart, and what to do instead.
const NO_COUNTERPART: &[(&[&str], &str)] = &[
    (
        &["bf16", "fp16", "dtype", "torch_dtype", "tf32"],
        "weights stay in the number format of their files; --precision sets the format of matrix products",
    ),
    (&["gradient_checkpointing"], "recomputation is automatic; leave it out"),
    (&["use_peft"], "every run trains a LoRA adapter; leave it out"),
    (&["max_prompt_length"], "prompts are never cut; --max-length limits prompt + answer"),
    (&["max_completion_length"], "--max-length limits prompt + answer"),
    (&["report_to", "logging_dir"], "metrics.jsonl in the output directory has every step; leave it out"),
    (&["eval_strategy"], "give --eval-steps; without it an evaluation follows each epoch"),
    (&["save_strategy", "save_steps"], "the adapter is saved after each epoch and at the end; leave it out"),
    (
        &["completion_only_loss"],
        "give --sft-on completion, which is the default of {prompt, completion}, or --sft-on all",
    ),
    (&["assistant_only_loss"], "give --sft-on assistant"),
    (&["dataset_text_field"], "give --columns text=NAME"),
    (
        &["attn_implementation"],
        "there is one attention kernel, which shares prompts and never stores scores; leave it out",
    ),
    (&["precompute_ref_log_probs"], "the reference's log-probs are cached automatically; --reference-cache says where"),
    (&["ref_model_name_or_path"], "the reference is the model without the adapter; --reference names another adapter"),
    (&["sync_ref_model"], "the reference stays what it is; go on from an adapter with --adapter in a next run"),
    (&["reference_free"], "take a loss without a reference: simpo, cpo, orpo ..."),
    (&["rpo_alpha"], "give --sft-weight, or --loss rpo"),
    (&["loss_weights"], "give a mix: --loss dpo:0.8,sft:0.2"),
    (&["lr"], "give --learning-rate"),
    (&["packing", "group_by_length"], "rows share forward passes as they fit into --micro-batch-tokens; leave it out"),
    (&["padding_free"], "there is no padding; leave it out"),
    (&["run_name"], "give --output"),
    (&["logging_first_step"], "the first step is logged; leave it out"),
    (&["remove_unused_columns"], "columns that are not read are passed over; leave it out"),
    (&["dataset_num_proc"], "--threads says how many cores work; leave it out"),
    (&["dataset_train_split"], "give the files of the split to --data"),
    (&["push_to_hub", "hub_model_id"], "the output directory is what PEFT would upload; leave it out"),
    (&["resume_from_checkpoint"], "a run cannot be resumed in this version; --adapter goes on from an adapter"),
    (&["load_in_4bit", "load_in_8bit"], "quantised base weights are not in this version; leave it out"),
    (&["truncation_mode"], "the end is cut, of the answer alone; --max-length says where"),
    (&["max_seq_length"], "give --max-length"),
    (&["modules_to_save", "bias"], "only LoRA matrices are trained; leave it out"),
    (&["use_dora"], "DoRA is not in this version; leave it out, or scale by alpha / sqrt(rank) with --rslora"),
    (&["init_lora_weights"], "B begins at zero and A at random, which is PEFT's default; leave it out"),
    (&["task_type", "lora_task_type"], "it is CAUSAL_LM; leave it out"),
    (&["dataset_test_split"], "give the files of the split to --eval-data, or org/name#test"),
    (&["dataset_config", "dataset_config_name"], "give org/name:CONFIG to --data"),
    (&["dataset_streaming"], "rows are read from their files as they are needed; leave it out"),
    (&["model_revision"], "give the directory of its snapshot to --model"),
    (&["trust_remote_code"], "no code of a model is run; leave it out"),
    (
        &["per_device_eval_batch_size"],
        "evaluations use --batch-size, since means over tokens (sft, --sft-weight) and losses that compare rows (aot) depend \
         on it; leave it out",
    ),
    (&["eval_on_start"], "evaluation data is evaluated at the start; leave it out"),
    (&["save_total_limit"], "the adapter is saved over the one before; leave it out"),
    (&["load_best_model_at_end"], "the adapter of the end is kept; leave it out"),
    (&["disable_dropout"], "only --lora-dropout drops anything; leave it out"),
    (&["use_liger_kernel"], "logits are never stored; leave it out"),
    (&["use_cpu", "no_cuda"], "give --device cpu"),
    (&["logging_strategy"], "give --logging-steps"),
    (&["do_train"], "it is the command `train`; leave it out"),
    (&["do_eval"], "it is the command `eval`; leave it out"),
];

/// Returns what to do instead of a flag of TRL or PEFT. `None` if [`NO_COUNTERPART`] lacks the flag.
pub(crate) fn no_counterpart(flag: &str) -> Option<&'static str> {
    let name = flag.trim_start_matches('-').split('=').next()?.replace('-', "_");
    NO_COUNTERPART.iter().find(|(known, _)| known.contains(&name.as_str())).map(|(_, instead)| *instead)
}

/// Finds the flag with this name or alias. Does not distinguish `_` from `-`.
pub(crate) fn find_flag<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    let same = |flag: &str| flag.replace('_', "-") == name.replace('_', "-");
    command.get_arguments().find(|arg| {
        let names = arg.get_long_and_visible_aliases().unwrap_or_default();
        let hidden = arg.get_all_aliases().unwrap_or_default();
        names.into_iter().chain(hidden).any(same)
    })
}

/// Returns the name under which help shows a flag. `flag` may be an alias.
pub(crate) fn public_name(flag: &str) -> Option<String> {
    let cli = command();
    let arg = cli.get_subcommands().find_map(|command| find_flag(command, flag.trim_start_matches('-')))?;
    Some(format!("--{}", arg.get_long()?))
}

/// Switches that a command takes over from an adapter's run, and that need a flag to turn them off again. `chat` is not among
/// them, because its opposite `--no-chat` is declared like any other flag.
const SWITCHES: [&str; 2] = ["implicit_prompt", "allow_drops"];

/// Returns the id of the flag that turns `switch` off again, for example after a config file or an adapter's run turned it on.
pub(crate) fn opposite(switch: &str) -> String {
    format!("no_{switch}")
}

/// Makes the flag that turns off the switch with this id and name. If the command line has both flags, the later one counts.
fn opposite_flag(switch: &'static str, name: &str) -> Arg {
    let long = name.strip_prefix("no-").map_or_else(|| format!("no-{name}"), str::to_owned);
    let arg = Arg::new(opposite(switch)).long(long);
    arg.action(ArgAction::SetTrue).overrides_with(switch).hide(true)
}

/// Adds to a command the opposite of each of its [`SWITCHES`].
fn with_opposites(command: Command) -> Command {
    let is_there = |name: &&str| command.get_arguments().any(|arg| arg.get_id() == *name);
    let switches: Vec<&str> = SWITCHES.into_iter().filter(is_there).collect();
    command.args(switches.into_iter().map(|name| opposite_flag(name, &name.replace('_', "-"))))
}

/// Lets a flag be typed with `_` in place of `-` and the reverse, because TRL and PEFT write their names with `_`. A flag with a
/// number also accepts a negative one, so that the error is about the number and not about an unknown flag. A negative number
/// with an exponent needs a `=` before it, as in `--beta=-1e-5`.
fn as_typed(arg: Arg) -> Arg {
    let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    let names: Vec<&str> = names.collect();
    let spelt: Vec<String> = names.iter().flat_map(|name| [name.replace('-', "_"), name.replace('_', "-")]).collect();
    let others: BTreeSet<String> = spelt.into_iter().filter(|name| !names.contains(&name.as_str())).collect();
    let numbers = [TypeId::of::<f64>(), TypeId::of::<f32>(), TypeId::of::<u64>(), TypeId::of::<u32>()];
    let is_number = numbers.iter().any(|number| arg.get_value_parser().type_id() == *number);
    let arg = arg.aliases(others);
    if is_number { arg.allow_negative_numbers(true) } else { arg }
}

/// Commands that accept the knobs of the losses.
const WITH_KNOBS: [&str; 3] = ["train", "estimate", "eval"];

/// Flags of `train` that a first run may need: `-h` shows these. `--help` shows all.
const FIRST_RUN: [&str; 22] = [
    "model", "adapter", "demo", "data", "eval_data", "eval_fraction", "max_length", "loss", "beta", "lora_rank",
    "lora_alpha", "target_modules", "learning_rate", "schedule", "epochs", "max_steps", "batch_size", "seed", "output",
    "overwrite", "config", "memory",
];

/// Flags of `estimate` that `-h` shows: mostly those that decide memory and time.
const OF_ESTIMATE: [&str; 18] = [
    "model", "adapter", "demo", "data", "max_length", "loss", "lora_rank", "target_modules", "lora_dropout", "optim",
    "batch_size", "max_completions", "micro_batch_tokens", "precision", "memory", "config", "gflops", "json",
];

/// Builds the whole command line. The commands in [`WITH_KNOBS`] get the knobs of all losses as flags.
pub(crate) fn command() -> Command {
    let experimental: Vec<&str> =
        objective::LOSSES.iter().filter(|loss| loss.experimental).map(|loss| loss.name).collect();
    let experimental = format!("experimental: {}", experimental.join(", "));
    let loss = |arg: Arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help}; {experimental}"))
    };
    let cli = Cli::command()
        .mut_subcommand("inspect", inspect)
        .mut_subcommand("estimate", estimate)
        .mut_subcommands(with_opposites);
    let cli = WITH_KNOBS.iter().fold(cli, |cli, name| {
        let knobs = objective::knobs().into_iter().map(knob_flag);
        let switches = objective::knobs().into_iter().filter(|(knob, _)| matches!(knob.kind, KnobKind::Switch { .. }));
        let opposites = switches.map(|(knob, _)| opposite_flag(knob.key, knob.flag));
        cli.mut_subcommand(name, |command| command.mut_arg("loss", loss).args(knobs).args(opposites))
    });
    let cli = cli.mut_subcommand("train", |train| short_help(train, &FIRST_RUN));
    let cli = cli.mut_subcommand("estimate", |estimate| short_help(estimate, &OF_ESTIMATE));
    cli.mut_subcommands(|command| command.mut_args(as_typed))
}

/// Hides each flag whose id is not in `shown` from `-h`. `--help` still shows all flags.
fn short_help(command: Command, shown: &[&str]) -> Command {
    command.mut_args(|arg| {
        let is_short = shown.contains(&arg.get_id().as_str());
        arg.hide_short_help(!is_short)
    })
}

/// Makes `--data` optional for `estimate`.
fn estimate(command: Command) -> Command {
    command.mut_arg("data", |data| data.required_unless_present(Resettable::Reset))
}

/// Makes `--data` optional for `inspect`, and `--model` too if there is an `--adapter`. Bad rows are skipped by default.
fn inspect(command: Command) -> Command {
    let command = command.mut_arg("model", |model| model.required_unless_present("adapter"));
    let command = command.mut_arg("data", |data| {
        let help =
            "Files to survey, a pattern in quotes, or a data set of the local Hugging Face cache, as --data of `train`";
        data.required_unless_present(Resettable::Reset).help(help)
    });
    command.mut_arg("on_bad_row", |choice| choice.default_value("skip"))
}

/// If more losses than this have a knob, the knob's help names only the first of them.
const NAMED: usize = 8;

/// Describes what a knob's flag does, with the losses that have the knob and their defaults.
fn knob_help(knob: &Knob, losses: &[&'static objective::LossSpec]) -> String {
    let own = |loss: &objective::LossSpec| loss.knob(knob.key).expect("these losses have the knob");
    let default = |loss: &objective::LossSpec| match own(loss).default() {
        Some(default @ (KnobValue::Number(_) | KnobValue::Choice(_))) => format!(" default {default}"),
        Some(KnobValue::Switch(_)) | None => String::new(),
    };
    let users = |losses: &[&'static objective::LossSpec]| {
        let alike = losses.chunk_by(|a, b| default(a) == default(b));
        let named =
            |losses: &[&objective::LossSpec]| losses.iter().map(|loss| loss.name).collect::<Vec<_>>().join(", ");
        alike.map(|losses| named(losses) + &default(losses[0])).collect::<Vec<_>>().join(", ")
    };
    if losses.len() > NAMED {
        return format!("{} ({}; {} more losses, see `losses NAME`)", knob.help, users(&losses[..1]), losses.len() - 1);
    }
    let others = losses.iter().filter(|loss| own(loss).help != knob.help);
    let others = others.map(|loss| format!("; {}: {}", loss.name, own(loss).help));
    format!("{} ({}){}", knob.help, users(losses), others.collect::<String>())
}

fn knob_flag((knob, losses): (&'static Knob, Vec<&'static objective::LossSpec>)) -> Arg {
    let arg = Arg::new(knob.key)
        .long(knob.flag)
        .aliases(knob.flag_aliases)
        .help(knob.help)
        .long_help(knob_help(knob, &losses))
        .help_heading("Knobs of the losses")
        .hide_short_help(true);
    match knob.kind {
        KnobKind::Number { .. } => arg.value_name("NUMBER").value_parser(clap::value_parser!(f64)),
        KnobKind::Switch { .. } => arg.action(ArgAction::SetTrue),
        KnobKind::Choice { choices, .. } => arg.value_name("WORD").value_parser(words(choices)),
    }
}

/// Makes the parser of a flag whose value is one of these words. A word may also be typed with `-` for `_`.
fn words(choices: &'static [&'static str]) -> clap::builder::PossibleValuesParser {
    let word = |choice: &&'static str| clap::builder::PossibleValue::new(choice).alias(choice.replace('_', "-"));
    clap::builder::PossibleValuesParser::new(choices.iter().map(word))
}

/// Returns the knobs that the command line gives, each with its key and value.
pub(crate) fn given_knobs(matches: &ArgMatches) -> Vec<(&'static str, KnobValue)> {
    let given = |knob: &'static Knob| match knob.kind {
        KnobKind::Number { .. } => matches.get_one::<f64>(knob.key).map(|&number| KnobValue::Number(number)),
        KnobKind::Switch { default } => match (matches.get_flag(knob.key), matches.get_flag(&opposite(knob.key))) {
            (true, _) => Some(KnobValue::Switch(!default)),
            (false, true) => Some(KnobValue::Switch(default)),
            (false, false) => None,
        },
        KnobKind::Choice { .. } => knob.kind.choice(matches.get_one::<String>(knob.key)?),
    };
    objective::knobs().into_iter().filter_map(|(knob, _)| Some((knob.key, given(knob)?))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn numbers_are_read_as_trl_and_people_write_them() {
        let refused = |flags: [&str; 2]| {
            let words = [&["align-cli", "train", "--demo"][..], &flags].concat();
            super::command().try_get_matches_from(words).err().map(|error| error.to_string())
        };
        for fine in [["--max_steps", "-1"], ["--num_train_epochs", "3.0"], ["--memory", "1MB"], ["--memory", "2000000"]]
        {
            assert_eq!(refused(fine), None, "{fine:?}");
        }
        for (flags, advice) in [
            (["--max_steps", "-2"], "from 1 to"),
            (["--num_train_epochs", "-1"], "--max-steps"),
            (["--num_train_epochs", "0.5"], "--max-steps"),
            (["--memory", "10"], "10GiB"),
        ] {
            assert!(refused(flags).is_some_and(|words| words.contains(advice)), "{flags:?}");
        }
    }

    #[test]
    fn a_flag_has_one_public_name() {
        for (name, public) in [("--max_steps", "--max-steps"), ("--num-train-epochs", "--epochs"), ("--loss", "--loss")]
        {
            assert_eq!(super::public_name(name).as_deref(), Some(public));
        }
    }

    #[test]
    fn the_help_of_memory_says_the_share_that_is_taken() {
        let mut help = super::command().find_subcommand("train").unwrap().clone();
        let share = format!("{:.0} % of what is free", 100.0 * align_lora::train::SHARE);
        assert!(help.render_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ").contains(&share));
    }

    #[test]
    fn the_short_help_of_train_has_the_flags_of_a_first_run() {
        let cli = super::command();
        let flags = cli.find_subcommand("train").unwrap().get_arguments();
        let shown = flags.filter(|arg| !arg.is_hide_short_help_set() && !arg.is_hide_set());
        let mut shown: Vec<&str> = shown.map(|arg| arg.get_id().as_str()).collect();
        let mut first_run = super::FIRST_RUN.to_vec();
        shown.sort_unstable();
        first_run.sort_unstable();
        assert_eq!(shown, first_run);
    }
}
