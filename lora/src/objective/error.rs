//! Errors of choosing an objective, and of computing a loss.

use super::knobs::{KnobValue, Range};

/// A `--loss` or a knob that makes no objective: a mistake on the command line or in the configuration file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// No loss has this name.
    #[error(
        "no loss is called `{name}`; {}there are {}",
        .similar.map_or(String::new(), |similar| format!("did you mean `{similar}`? ")), .known.join(", ")
    )]
    UnknownLoss {
        /// The name as given.
        name: String,
        /// The most similar name of a loss.
        similar: Option<&'static str>,
        /// The name of every loss.
        known: Vec<&'static str>,
    },
    /// Several methods have this name.
    #[error("`{name}` names several methods: {}", .candidates.join("; "))]
    AmbiguousLoss {
        /// The name as given.
        name: String,
        /// The methods that the name could mean, each with a short description and a remark if this version lacks it.
        candidates: Vec<String>,
    },
    /// The chosen loss has no such knob.
    #[error(
        "--{flag} does not apply to {loss}, whose formula has {}{}", list_or(.has, "no such number"),
        if .losses.is_empty() { String::new() } else { format!("; it belongs to {}", .losses.join(", ")) }
    )]
    UnknownKnob {
        /// The flag. If no loss has it, the key as given.
        flag: String,
        /// The loss, or the losses of a mix.
        loss: String,
        /// The flags that the loss does have.
        has: Vec<String>,
        /// The losses that have this knob.
        losses: Vec<&'static str>,
    },
    /// A number out of range.
    #[error("--{flag} {value}: {loss} needs a number {range}")]
    KnobRange {
        /// The flag.
        flag: &'static str,
        /// The loss.
        loss: &'static str,
        /// The number as given.
        value: f64,
        /// The accepted numbers.
        range: Range,
    },
    /// A value of the wrong type, such as a number for a switch.
    #[error("--{flag}: `{value}` is not {wanted}")]
    KnobType {
        /// The flag.
        flag: &'static str,
        /// The value as given.
        value: KnobValue,
        /// What the value should be.
        wanted: &'static str,
    },
    /// A word that is not one of the accepted words.
    #[error("--{flag} {value}: there are {}", .choices.join(", "))]
    KnobChoice {
        /// The flag.
        flag: &'static str,
        /// The value as given.
        value: KnobValue,
        /// The accepted words.
        choices: &'static [&'static str],
    },
    /// Two knobs that exclude each other.
    #[error("--{flag} replaces --{replaced} in {loss}: give one of them")]
    KnobConflict {
        /// The loss.
        loss: &'static str,
        /// The flag that replaces the other one.
        flag: &'static str,
        /// The flag that is replaced.
        replaced: &'static str,
    },
    /// A knob that changes nothing with the other knobs as given.
    #[error("--{flag} changes nothing in {loss} unless --{needed} is {what}")]
    KnobIdle {
        /// The flag.
        flag: &'static str,
        /// The loss.
        loss: &'static str,
        /// The flag that gives it an effect.
        needed: &'static str,
        /// The value that `needed` must have, in words.
        what: &'static str,
    },
    /// One knob given twice.
    #[error("--{flag} is given twice")]
    KnobTwice {
        /// The flag.
        flag: &'static str,
    },
    /// The name of the loss and the knob contradict each other.
    #[error("`{preset}` is {loss} with {key} = {sets}, and {key} = {value} is given; use `{loss}`")]
    PresetConflict {
        /// The name as given.
        preset: &'static str,
        /// The loss it stands for.
        loss: &'static str,
        /// The knob.
        key: &'static str,
        /// The value to which the name sets the knob.
        sets: KnobValue,
        /// The value that was given.
        value: KnobValue,
    },
    /// The name of the loss needs a knob that was not given, or that was set to its default.
    #[error("`{preset}` is {loss} with a --{flag} other than {default}: give it one")]
    PresetNeeds {
        /// The name as given.
        preset: &'static str,
        /// The loss it stands for.
        loss: &'static str,
        /// The missing flag.
        flag: &'static str,
        /// The default, with which the name would be wrong.
        default: String,
    },
    /// A mix that is not `NAME:WEIGHT,NAME:WEIGHT`.
    #[error(
        "`{part}` in the mix {text}: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once"
    )]
    MixSyntax {
        /// The whole value of `--loss`.
        text: String,
        /// The part that is wrong.
        part: String,
    },
    /// A mix in a mix.
    #[error("{text}: `{name}` is itself the mix {mix}; write out its losses")]
    NestedMix {
        /// The whole value of `--loss`.
        text: String,
        /// The mix.
        name: &'static str,
        /// The losses and weights that it stands for.
        mix: &'static str,
    },
    /// A loss that cannot be mixed.
    #[error("{text}: {loss} cannot be part of a mix, only losses of single pairs can: {}", .mixable.join(", "))]
    MixKind {
        /// The whole value of `--loss`.
        text: String,
        /// The loss.
        loss: &'static str,
        /// The losses that can be part of a mix.
        mixable: Vec<&'static str>,
    },
}

fn list_or(items: &[String], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(", ") }
}

/// Why a loss cannot be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// A log-probability, loss or derivative that is NaN or infinite.
    #[error("{what} is {value}")]
    NonFinite {
        /// Index into the rows given to the call.
        row: usize,
        /// Which number it is, in words.
        what: &'static str,
        /// NaN or an infinity.
        value: f64,
    },
    /// A row without a column that the loss reads.
    #[error("{loss} needs the column `{column}`, which the row does not have")]
    MissingColumn {
        /// Index into the rows given to the call.
        row: usize,
        /// The loss.
        loss: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A batch too small for a coupled loss.
    #[error("{loss} compares each answer with those of other rows: a batch of {rows} is too small, it needs {needed}")]
    BatchTooSmall {
        /// The loss.
        loss: &'static str,
        /// Rows in the batch.
        rows: usize,
        /// The smallest number of rows that the loss accepts.
        needed: usize,
    },
}
