//! The knobs of a loss: the numbers and switches in its formula, with their defaults, ranges and flags.

use std::fmt;
use std::ops::{Bound, RangeBounds};

/// One number or switch of a loss, as its `SPEC` declares it.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// Its name in code and in the goldens, `snake_case`.
    pub key: &'static str,
    /// The flag of the command line without the dashes; a switch's flag turns its default round.
    pub flag: &'static str,
    /// Other flags with the same meaning.
    pub flag_aliases: &'static [&'static str],
    /// What it does, in one line of help.
    pub help: &'static str,
    /// What it holds.
    pub kind: KnobKind,
    /// The knob that has no value when this one is given; giving both is refused.
    pub replaces: Option<&'static str>,
}

/// What a knob holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KnobKind {
    /// A finite number; without a default it is off unless given.
    Number {
        /// Its value when not given.
        default: Option<f64>,
        /// What is accepted.
        range: Range,
    },
    /// On or off.
    Switch {
        /// Its value when not given.
        default: bool,
    },
}

/// The value of a knob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KnobValue {
    /// For [`KnobKind::Number`].
    Number(f64),
    /// For [`KnobKind::Switch`].
    Switch(bool),
}

impl Knob {
    /// The value when it is not given.
    pub fn default(&self) -> Option<KnobValue> {
        match self.kind {
            KnobKind::Number { default, .. } => default.map(KnobValue::Number),
            KnobKind::Switch { default } => Some(KnobValue::Switch(default)),
        }
    }
}

impl fmt::Display for KnobValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KnobValue::Number(number) => number.fmt(f),
            KnobValue::Switch(on) => on.fmt(f),
        }
    }
}

/// An interval of numbers. NaN and the infinities are in none.
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

    /// `low <= x < high`.
    pub const fn half_open(low: f64, high: f64) -> Self {
        Self { low: Bound::Included(low), high: Bound::Excluded(high) }
    }

    /// `low < x < high`.
    pub const fn open(low: f64, high: f64) -> Self {
        Self { low: Bound::Excluded(low), high: Bound::Excluded(high) }
    }

    /// Whether `x` is finite and inside.
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
pub struct Knobs {
    /// One per knob of the loss, in the order of its `SPEC`; a knob that is off has none.
    pub(super) values: Vec<(&'static str, Option<KnobValue>)>,
}

impl Knobs {
    /// The value of a number that has a default.
    ///
    /// # Panics
    /// If the loss's `SPEC` declares no such number: a mistake in the loss file.
    pub fn number(&self, key: &str) -> f64 {
        self.number_if_given(key).unwrap_or_else(|| panic!("the number `{key}` has no value"))
    }

    /// The value of a number without default, or of one that another knob replaces.
    ///
    /// # Panics
    /// As [`Knobs::number`].
    pub fn number_if_given(&self, key: &str) -> Option<f64> {
        match self.value(key)? {
            KnobValue::Number(number) => Some(number),
            KnobValue::Switch(_) => panic!("the knob `{key}` is a switch"),
        }
    }

    /// The value of a switch.
    ///
    /// # Panics
    /// As [`Knobs::number`].
    pub fn switch(&self, key: &str) -> bool {
        match self.value(key) {
            Some(KnobValue::Switch(on)) => on,
            other => panic!("the knob `{key}` is {other:?}, not a switch"),
        }
    }

    /// The value of any knob; none if it is off.
    ///
    /// # Panics
    /// As [`Knobs::number`].
    pub fn value(&self, key: &str) -> Option<KnobValue> {
        let found = self.values.iter().find(|(name, _)| *name == key);
        found.unwrap_or_else(|| panic!("the loss declares no knob `{key}`")).1
    }
}

/// The strength of the pull towards the reference, of almost every loss.
pub const BETA: Knob = Knob {
    key: "beta",
    flag: "beta",
    flag_aliases: &[],
    help: "Scale of the reward, beta * (policy - reference) log-prob: larger stays closer to the reference",
    kind: KnobKind::Number { default: Some(0.1), range: Range::POSITIVE },
    replaces: None,
};

/// Weight of the desirable answers of the KTO losses.
pub const DESIRABLE_WEIGHT: Knob = Knob {
    key: "desirable_weight",
    flag: "desirable-weight",
    flag_aliases: &[],
    help: "Weight of desirable (chosen) answers; its sum over the answers is best 1 to 4/3 times the undesirable one",
    kind: KnobKind::Number { default: Some(1.0), range: Range::POSITIVE },
    replaces: None,
};

/// Weight of the undesirable answers of the KTO losses.
pub const UNDESIRABLE_WEIGHT: Knob = Knob {
    key: "undesirable_weight",
    flag: "undesirable-weight",
    flag_aliases: &[],
    help: "Weight of undesirable (rejected) answers",
    kind: KnobKind::Number { default: Some(1.0), range: Range::POSITIVE },
    replaces: None,
};
