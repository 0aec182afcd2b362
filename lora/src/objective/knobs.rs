//! The knobs of a loss: the numbers and switches in its formula, with their defaults, ranges and flags.

use std::fmt;
use std::ops::{Bound, RangeBounds};

/// One number or switch of a loss, as its `SPEC` declares it.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name in code and in the goldens, `snake_case`.
    pub key: &'static str,
    /// The flag of the command line without the dashes. The flag of a switch inverts its default.
    pub flag: &'static str,
    /// Other flags with the same meaning.
    pub flag_aliases: &'static [&'static str],
    /// What it does, in one line of help.
    pub help: &'static str,
    /// The kind of its value, with the default and the accepted values.
    pub kind: KnobKind,
    /// The knob that this one replaces. Giving both is refused.
    pub replaces: Option<&'static str>,
    /// The condition under which this knob has an effect.
    pub needs: Option<Needs>,
}

/// When a knob has an effect.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// The key of the other knob, on whose value the effect depends.
    pub key: &'static str,
    /// Returns whether this knob has an effect if the other knob has this value.
    pub holds: fn(KnobValue) -> bool,
    /// The values of the other knob for which `holds` returns true, as the error message names them.
    pub what: &'static str,
}

/// The kind of value that a knob holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KnobKind {
    /// A finite number. Without a default it is off unless given.
    Number {
        /// Its value if not given.
        default: Option<f64>,
        /// The accepted values.
        range: Range,
    },
    /// On or off.
    Switch {
        /// Its value if not given.
        default: bool,
    },
    /// One word of a list.
    Choice {
        /// Its value if not given.
        default: &'static str,
        /// The accepted values.
        choices: &'static [&'static str],
    },
}

/// The value of a knob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KnobValue {
    /// For [`KnobKind::Number`].
    Number(f64),
    /// For [`KnobKind::Switch`].
    Switch(bool),
    /// For [`KnobKind::Choice`].
    Choice(&'static str),
}

impl KnobKind {
    /// Returns the value for `word`, in which `-` counts as `_`. `None` if the knob does not accept this word.
    pub fn choice(&self, word: &str) -> Option<KnobValue> {
        let KnobKind::Choice { choices, .. } = self else { return None };
        choices.iter().find(|choice| **choice == word.replace('-', "_")).map(|choice| KnobValue::Choice(choice))
    }
}

impl Knob {
    /// Makes a knob for a number with a default.
    pub const fn number(key: &'static str, flag: &'static str, help: &'static str, default: f64, range: Range) -> Knob {
        Knob::new(key, flag, help, KnobKind::Number { default: Some(default), range })
    }

    /// Makes a knob for a switch. Its flag inverts the default.
    pub const fn switch(key: &'static str, flag: &'static str, help: &'static str, default: bool) -> Knob {
        Knob::new(key, flag, help, KnobKind::Switch { default })
    }

    const fn new(key: &'static str, flag: &'static str, help: &'static str, kind: KnobKind) -> Knob {
        Knob { key, flag, flag_aliases: &[], help, kind, replaces: None, needs: None }
    }

    /// Makes a knob for a number that is off unless given. If it is given, it replaces the knob `replaced`.
    pub const fn instead_of(
        replaced: &'static str,
        key: &'static str,
        flag: &'static str,
        help: &'static str,
        range: Range,
    ) -> Knob {
        let replaces = Some(replaced);
        Knob { replaces, ..Knob::new(key, flag, help, KnobKind::Number { default: None, range }) }
    }

    /// Makes a knob for one word of a list.
    pub const fn choice(
        key: &'static str,
        flag: &'static str,
        help: &'static str,
        default: &'static str,
        choices: &'static [&'static str],
    ) -> Knob {
        Knob::new(key, flag, help, KnobKind::Choice { default, choices })
    }

    /// Returns its default value. `None` for a number that is off unless given.
    pub fn default(&self) -> Option<KnobValue> {
        match self.kind {
            KnobKind::Number { default, .. } => default.map(KnobValue::Number),
            KnobKind::Switch { default } => Some(KnobValue::Switch(default)),
            KnobKind::Choice { default, .. } => Some(KnobValue::Choice(default)),
        }
    }
}

impl fmt::Display for KnobValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KnobValue::Number(number) => number.fmt(f),
            KnobValue::Switch(on) => on.fmt(f),
            KnobValue::Choice(word) => word.fmt(f),
        }
    }
}

/// An interval of finite numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    low: Bound<f64>,
    high: Bound<f64>,
}

impl Range {
    /// `x > 0`.
    pub const POSITIVE: Self = Self { low: Bound::Excluded(0.0), high: Bound::Unbounded };

    /// `x < 0`.
    pub const NEGATIVE: Self = Self { low: Bound::Unbounded, high: Bound::Excluded(0.0) };

    /// `x >= 0`.
    pub const NOT_NEGATIVE: Self = Self { low: Bound::Included(0.0), high: Bound::Unbounded };

    /// `low <= x <= high`.
    pub const fn closed(low: f64, high: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Included(high) }
    }

    /// `low <= x < high`.
    pub const fn half_open(low: f64, high: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Excluded(high) }
    }

    /// `low < x < high`.
    pub const fn open(low: f64, high: f64) -> Self {
        Self { low: Bound::Excluded(low), high: Bound::Excluded(high) }
    }

    /// Whether `x` is finite and in the interval.
    pub fn contains(&self, x: f64) -> bool {
        x.is_finite() && (self.low, self.high).contains(&x)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.low {
            Bound::Unbounded => {}
            Bound::Included(low) => write!(f, "at least {low}")?,
            Bound::Excluded(low) => write!(f, "above {low}")?,
        }
        if self.low != Bound::Unbounded && self.high != Bound::Unbounded {
            f.write_str(" and ")?;
        }
        match self.high {
            Bound::Unbounded => Ok(()),
            Bound::Included(high) => write!(f, "at most {high}"),
            Bound::Excluded(high) => write!(f, "below {high}"),
        }
    }
}

/// The values of one loss's knobs, complete and in range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Knobs {
    /// One value per knob of the loss, in the order of its `SPEC`. `None` for a knob that is off.
    pub(super) values: Vec<(&'static str, Option<KnobValue>)>,
}

impl Knobs {
    /// Returns the value of a number with a default.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such number, which is a mistake in the loss file, or if the number is off.
    pub(crate) fn number(&self, key: &str) -> f64 {
        self.number_if_given(key).unwrap_or_else(|| panic!("the number `{key}` has no value"))
    }

    /// Returns the values of several numbers with defaults, in the order of `keys`.
    ///
    /// # Panics
    /// If [`Knobs::number`] panics for one of the keys.
    pub(crate) fn numbers<const N: usize>(&self, keys: [&str; N]) -> [f64; N] {
        keys.map(|key| self.number(key))
    }

    /// Returns the value of a number. `None` if it has no default and is not given, or if another knob replaces it.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such number, which is a mistake in the loss file.
    pub(crate) fn number_if_given(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            KnobValue::Number(number) => Some(number),
            other => panic!("the knob `{key}` is {other:?}, not a number"),
        }
    }

    /// Returns the value of a switch.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such switch, which is a mistake in the loss file.
    pub(crate) fn switch(&self, key: &str) -> bool {
        match self.value(key) {
            Some(KnobValue::Switch(on)) => on,
            other => panic!("the knob `{key}` is {other:?}, not a switch"),
        }
    }

    /// Returns the word of a choice.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such choice, which is a mistake in the loss file.
    pub(crate) fn choice(&self, key: &str) -> &'static str {
        match self.value(key) {
            Some(KnobValue::Choice(word)) => word,
            other => panic!("the knob `{key}` is {other:?}, not a choice"),
        }
    }

    /// Whether the loss declares the knob.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.iter().any(|(name, _)| *name == key)
    }

    /// Returns the value of any knob. `None` if it is off.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such knob, which is a mistake in the loss file.
    pub(crate) fn value(&self, key: &str) -> Option<KnobValue> {
        let found = self.values.iter().find(|(name, _)| *name == key);
        found.unwrap_or_else(|| panic!("the loss declares no knob `{key}`")).1
    }
}

/// The strength of the pull towards the reference. Almost every loss has this knob.
pub(super) const BETA: Knob =
    Knob::number("beta", "beta", "Scale of the reward: larger stays closer to the reference", 0.1, Range::POSITIVE);

/// [`BETA`] with another default.
pub(super) const fn beta(default: f64) -> Knob {
    Knob { kind: KnobKind::Number { default: Some(default), range: Range::POSITIVE }, ..BETA }
}

/// [`BETA`] with another default, for a loss in which it scales the margin of the policy's log-probs.
pub(super) const fn beta_of_policy(default: f64) -> Knob {
    Knob { help: "Scale of the margin of the policy's log-probs", ..beta(default) }
}

/// Label smoothing, for losses that are a log-loss of a preference.
pub(super) const LABEL_SMOOTHING: Knob = Knob::number(
    "label_smoothing",
    "label-smoothing",
    "Share of pairs taken to be labelled the wrong way round",
    0.0,
    Range::half_open(0.0, 0.5),
);

/// Weight of the desirable answers of the KTO losses.
pub(super) const DESIRABLE_WEIGHT: Knob = Knob::number(
    "desirable_weight",
    "desirable-weight",
    "Weight of desirable (chosen) answers; weight times count should be 1 to 4/3 of that of undesirable ones",
    1.0,
    Range::POSITIVE,
);

/// Weight of the undesirable answers of the KTO losses.
pub(super) const UNDESIRABLE_WEIGHT: Knob = Knob::number(
    "undesirable_weight",
    "undesirable-weight",
    "Weight of undesirable (rejected) answers",
    1.0,
    Range::POSITIVE,
);

/// How the likelihoods of chosen answers become one number.
pub(super) const SFT_REDUCTION: Knob = Knob::choice(
    "sft_reduction",
    "sft-reduction",
    "Likelihood of the chosen answers as token_mean (over all tokens of the batch), seq_mean (of each answer's mean) or seq_sum (of \
     each answer's sum)",
    "token_mean",
    &["token_mean", "seq_mean", "seq_sum"],
);
