//! The `SPEC` of a loss file: its names, what it needs, and how it is made.

use super::knobs::{self, Knob, KnobValue, Knobs};
use super::loss::Loss;
use super::modifiers::{self, Modifier};
use align_data::{RowKind, RowNumbers};
use std::fmt;

/// Which number of an answer a loss reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// The summed log-probability of its tokens.
    LogProbs,
    /// The score of a head on its last token, for losses of reward models.
    Reward,
}

/// A column of the data whose number a loss reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Probability that the chosen answer wins against other answers.
    ProbWinChosen,
    /// Probability that the rejected answer wins against other answers.
    ProbWinRejected,
    /// Probability that the chosen answer beats the rejected one.
    ProbChosenBeatsRejected,
}

impl Column {
    /// Returns its name in the data.
    pub fn name(self) -> &'static str {
        match self {
            Column::ProbWinChosen => "prob_win_chosen",
            Column::ProbWinRejected => "prob_win_rejected",
            Column::ProbChosenBeatsRejected => "prob_chosen_beats_rejected",
        }
    }

    /// Whether a row has a number in this column.
    pub fn is_in(self, numbers: &RowNumbers) -> bool {
        match self {
            Column::ProbWinChosen | Column::ProbWinRejected => numbers.win_probability.is_some(),
            Column::ProbChosenBeatsRejected => numbers.beats_probability.is_some(),
        }
    }
}

/// One entry of the registry: a loss's names, what it needs, and how it is made.
pub struct LossSpec {
    /// Its name, `snake_case`.
    pub name: &'static str,
    /// Other names of exactly this loss.
    pub aliases: &'static [&'static str],
    /// Names for this loss with some of its knobs set.
    pub presets: &'static [Preset],
    /// The kind of rows that it reads.
    pub data: RowKind,
    /// Columns that it requires besides prompt, answers and rewards.
    pub columns: &'static [Column],
    /// Whether it subtracts a row's `margin`.
    pub margin: bool,
    /// Whether it compares the policy with a reference model.
    pub reference: bool,
    /// Which number of an answer it reads.
    pub scores: Scores,
    /// Whether its formula could not be checked against the paper or its authors' code.
    pub experimental: bool,
    /// Where the formula comes from.
    pub source: &'static str,
    /// What it does, in one line of help.
    pub summary: &'static str,
    /// The formula of one item, in the words of `docs/objectives.md`.
    pub formula: &'static str,
    /// When to use it, in one sentence.
    pub when: &'static str,
    /// Its own numbers and switches.
    pub knobs: &'static [Knob],
    /// The modifiers that apply to it.
    pub modifiers: &'static [&'static Modifier],
    /// Makes the loss from complete knobs in range.
    pub(crate) build: fn(&Knobs) -> Loss,
}

impl LossSpec {
    /// Defaults for losses of single pairs with a reference.
    pub(super) const PAIRS: LossSpec = LossSpec {
        name: "",
        aliases: &[],
        presets: &[],
        data: RowKind::Pair,
        columns: &[],
        margin: false,
        reference: true,
        scores: Scores::LogProbs,
        experimental: false,
        source: "",
        summary: "",
        formula: "",
        when: "",
        knobs: &[knobs::BETA],
        modifiers: modifiers::OF_PAIRS,
        build: |_| unreachable!("an entry of the registry has a way to make it"),
    };
    /// Defaults for losses that read only the log-ratio margin of a pair.
    pub(super) const MARGINS: LossSpec = LossSpec { modifiers: modifiers::OF_MARGINS, ..LossSpec::PAIRS };
    /// Defaults for losses that need all pairs of a batch together.
    pub(super) const PAIR_BATCHES: LossSpec = LossSpec { modifiers: modifiers::OF_PAIR_BATCHES, ..LossSpec::PAIRS };
    /// Defaults for losses of single pairs without a reference.
    pub(super) const PAIRS_ALONE: LossSpec =
        LossSpec { reference: false, modifiers: modifiers::OF_PAIRS_ALONE, ..LossSpec::PAIRS };
    /// Defaults for losses of labelled answers.
    pub(super) const UNPAIRED: LossSpec = LossSpec { data: RowKind::Labelled, modifiers: &[], ..LossSpec::PAIRS };
    /// Defaults for losses of scored answers.
    pub(super) const KWAY: LossSpec = LossSpec { data: RowKind::Scored, modifiers: &[], ..LossSpec::PAIRS };

    /// Returns the word for its rows in `losses --json`: that of [`LossSpec::data`], or `reward` for a loss of a reward model.
    pub fn data_name(&self) -> &'static str {
        match self.scores {
            Scores::LogProbs => self.data.name(),
            Scores::Reward => "reward",
        }
    }

    /// Returns every other name that `--loss` accepts for it, presets included.
    pub fn other_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        let of_preset = |preset: &'static Preset| [preset.name].into_iter().chain(preset.aliases.iter().copied());
        self.aliases.iter().copied().chain(self.presets.iter().flat_map(of_preset))
    }

    /// Returns its own knobs and those of its modifiers.
    pub fn all_knobs(&self) -> impl Iterator<Item = &'static Knob> + use<> {
        self.knobs.iter().chain(self.modifiers.iter().flat_map(|modifier| modifier.knobs))
    }

    /// Returns its knob with this key.
    pub fn knob(&self, key: &str) -> Option<&'static Knob> {
        self.all_knobs().find(|knob| knob.key == key)
    }
}

impl fmt::Debug for LossSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LossSpec({})", self.name)
    }
}

/// Another name of a loss, which also sets some of the loss's knobs, changes their defaults, or requires them.
pub struct Preset {
    /// The name as typed after `--loss`.
    pub name: &'static str,
    /// Other names of the preset.
    pub aliases: &'static [&'static str],
    /// Knobs that the name sets.
    pub sets: &'static [(&'static str, KnobValue)],
    /// Knobs that have another default under this name.
    pub defaults: &'static [(&'static str, KnobValue)],
    /// Knobs that must be given, with a value other than their default. Without them the name would be wrong.
    pub requires: &'static [&'static str],
    /// Where it comes from, if not from the loss's source.
    pub source: Option<&'static str>,
}

impl Preset {
    /// A name that changes nothing.
    pub(super) const PLAIN: Preset =
        Preset { name: "", aliases: &[], sets: &[], defaults: &[], requires: &[], source: None };
}

/// A name for a mix of losses.
pub struct MixPreset {
    /// The name as typed after `--loss`.
    pub name: &'static str,
    /// Other names of the mix.
    pub aliases: &'static [&'static str],
    /// The losses and their weights, as typed after `--loss`.
    pub mix: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// The method in a few words.
    pub summary: &'static str,
}
