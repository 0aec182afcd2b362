//! Makes an [`Objective`] from `--loss` and the knobs. Refuses a choice whose parts do not fit together, instead of ignoring a
//! part of it.

use super::divergence::Divergence;
use super::error::ObjectiveError;
use super::knobs::{Knob, KnobKind, KnobValue, Knobs};
use super::loss::{Coupling, Loss, Reduction, SftTerm};
use super::spec::{Column, LossSpec, MixPreset, Preset, Scores};
use super::{AMBIGUOUS, Ambiguous, LOSSES, MIXES};
use align_data::RowKind;
use std::fmt;

/// A loss, or a weighted mix of losses of single pairs, with its knobs set.
pub struct Objective {
    /// At least one part. A mix has several, all of which are uncoupled losses of pairs or the likelihood.
    pub(super) parts: Vec<Part>,
}

/// LD-DPO, arXiv 2409.06411: log-probs of tokens beyond the shorter answer's length count `alpha` times. The paper defines it
/// for the policy. TRL from 0.29 on applies it to the reference too; otherwise the margin of a fresh adapter is not 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LengthDesensitisation {
    pub(super) alpha: f64,
    /// Whether it also applies to the reference.
    pub(super) reference: bool,
}

/// One loss of a mix, with its modifiers.
pub(super) struct Part {
    pub(super) weight: f64,
    pub(super) spec: &'static LossSpec,
    preset: Option<&'static Preset>,
    knobs: Knobs,
    pub(super) loss: Loss,
    pub(super) divergence: Divergence,
    /// The likelihood term of `--sft-weight`.
    pub(super) sft: Option<SftTerm>,
    /// How tokens beyond the shorter answer's length count. `None` if they count like all other tokens.
    pub(super) ld: Option<LengthDesensitisation>,
    /// Whether the policy's own probabilities weigh the pairs.
    pub(super) weighting: bool,
    /// The weight of the likelihood of the reference data.
    eta: f64,
}

impl Part {
    fn new(named: Named, given: &[(&str, KnobValue)]) -> Result<Self, ObjectiveError> {
        let Named { weight, spec, preset } = named;
        let knobs = complete(spec, preset, given)?;
        let number = |key: &str| knobs.has(key).then(|| knobs.number_if_given(key)).flatten();
        let switch = |key: &str| knobs.has(key) && knobs.switch(key);
        let sft = number("sft_weight")
            .filter(|weight| *weight > 0.0)
            .map(|weight| SftTerm { weight, reduction: Reduction::named(knobs.choice("sft_reduction")) });
        let ld = number("ld_alpha")
            .filter(|alpha| *alpha != 1.0)
            .map(|alpha| LengthDesensitisation { alpha, reference: switch("ld_ref") });
        let (eta, weighting) = (number("eta").unwrap_or(0.0), switch("use_weighting"));
        let divergence = if knobs.has("f_divergence") { Divergence::of(&knobs) } else { Divergence::ReverseKl };
        Ok(Part { weight, spec, preset, loss: (spec.build)(&knobs), divergence, sft, ld, weighting, eta, knobs })
    }

    /// Returns the scale of its rewards: `beta`, or 1 for a loss without that knob.
    pub(super) fn beta(&self) -> f64 {
        if self.knobs.has("beta") { self.knobs.number("beta") } else { 1.0 }
    }
}

impl Objective {
    /// Makes the objective that `text` names: a loss by any of its names, or a mix like `dpo:0.8,ipo:0.2`.
    ///
    /// `given` holds the knobs that the user set, by key; in a mix a knob applies to every loss that has it. Names and keys
    /// ignore case and do not distinguish `-` from `_`.
    ///
    /// # Errors
    /// Any [`ObjectiveError`]: an unknown or ambiguous name, a knob that the loss does not have or that is out of range, a mix of
    /// losses that cannot be mixed.
    pub fn new(text: &str, given: &[(&str, KnobValue)]) -> Result<Self, ObjectiveError> {
        let named = parse(text)?;
        check_given(text, &named, given)?;
        let parts = named.into_iter().map(|named| Part::new(named, given)).collect::<Result<Vec<_>, _>>()?;
        // some losses, such as `bco_pair`, can be mixed with their default knobs; another value makes the loss of a row depend on the
        // other rows, and then they cannot
        let uncoupled = |part: &&Part| matches!(part.loss, Loss::Pair(_) | Loss::Sft(_));
        if let ([_, _, ..], Some(coupled)) = (&parts[..], parts.iter().find(|part| !uncoupled(part))) {
            return Err(mix_kind(text, coupled.spec));
        }
        check_effects(&parts, given)?;
        Ok(Self { parts })
    }

    /// Returns the canonical name: that of the loss, or `dpo:0.8,ipo:0.2`. For a single loss, presets are resolved into
    /// knobs. In a mix, where a knob may have several values, the names of presets stay.
    pub fn name(&self) -> String {
        let alone = self.parts.len() == 1;
        let name = |part: &Part| part.preset.filter(|_| !alone).map_or(part.spec.name, |preset| preset.name);
        joined(self.parts.iter().map(|part| (name(part), part.weight)))
    }

    /// Returns the name that the user asked for, presets included, in the canonical form of [`canonical_name`].
    pub fn asked_name(&self) -> String {
        joined(self.parts.iter().map(|part| (part.preset.map_or(part.spec.name, |preset| preset.name), part.weight)))
    }

    /// Returns the kind of rows that it reads. A mix with losses of pairs reads pairs.
    pub fn data(&self) -> RowKind {
        self.parts[0].spec.data
    }

    /// Whether it needs separate sums over the tokens beyond the shorter answer's length.
    pub fn tails(&self) -> bool {
        self.parts.iter().any(|part| part.ld.is_some())
    }

    /// Whether a pair's weight depends on the policy's probabilities of all tokens, see
    /// [`wpo_weight`](super::wpo_weight).
    pub fn weighting(&self) -> bool {
        self.parts.iter().any(|part| part.weighting)
    }

    /// Whether the weights of rows change its gradient.
    pub fn takes_weights(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.loss, Loss::Pair(_)))
    }

    /// Whether it subtracts the rows' margins.
    pub fn takes_margins(&self) -> bool {
        self.parts.iter().any(|part| part.spec.margin)
    }

    /// Returns the columns that its losses require, each with its loss.
    pub fn columns(&self) -> Vec<(&'static str, Column)> {
        let of_part = |part: &Part| part.spec.columns.iter().map(|&column| (part.spec.name, column));
        self.parts.iter().flat_map(of_part).collect()
    }

    /// Whether it needs reference data, see [`RowLogps::target`](super::RowLogps::target).
    pub fn reference_data(&self) -> bool {
        self.eta() > 0.0
    }

    /// The weight of the likelihood of the reference data.
    pub(super) fn eta(&self) -> f64 {
        self.parts.iter().map(|part| part.weight * part.eta).sum()
    }

    /// Whether it needs the reference's log-probabilities.
    pub fn reference(&self) -> bool {
        self.parts.iter().any(|part| part.spec.reference)
    }

    /// Returns which number it reads of each answer. Losses of reward models are never part of a mix.
    pub fn scores(&self) -> Scores {
        self.parts[0].spec.scores
    }

    /// Returns its losses, each with its knobs and their values.
    pub fn losses(&self) -> impl Iterator<Item = (&'static LossSpec, Vec<(&'static Knob, KnobValue)>)> + '_ {
        self.parts.iter().map(|part| {
            let value = |knob: &'static Knob| Some((knob, part.knobs.value(knob.key)?));
            (part.spec, part.spec.all_knobs().filter_map(value).collect())
        })
    }

    /// Whether the formula of one of its losses could not be checked.
    pub fn experimental(&self) -> bool {
        self.parts.iter().any(|part| part.spec.experimental)
    }

    /// Returns what a row's loss depends on besides the row.
    pub fn coupling(&self) -> Coupling {
        self.parts[0].loss.coupling()
    }

    /// Whether a row's loss depends on the other rows of its batch beyond their [`Statistics`](super::Statistics).
    pub fn compares_rows(&self) -> bool {
        self.parts[0].loss.compares_rows()
    }

    /// Returns the loss whose rewards are logged. In a mix, it is the first loss with a reference, or the first loss if none has
    /// one.
    pub(super) fn rewarding(&self) -> &Part {
        self.parts.iter().find(|part| part.spec.reference).unwrap_or(&self.parts[0])
    }

    /// Returns the scale of the logged rewards.
    pub fn beta(&self) -> f64 {
        self.rewarding().beta()
    }

    /// Returns every knob that it accepts, once.
    pub fn all_knobs(&self) -> Vec<&'static Knob> {
        distinct_knobs(self.parts.iter().map(|part| part.spec))
    }

    /// Returns the knobs with their values, defaults included, for the record of a run. With [`Objective::name`] they make the
    /// same objective again. In a mix, a knob that is off in one of the losses or has several defaults is left out.
    pub fn knobs(&self) -> Vec<(&'static Knob, KnobValue)> {
        let value = |knob: &&'static Knob| {
            let has = self.parts.iter().filter(|part| part.spec.knob(knob.key).is_some());
            let mut values = has.map(|part| part.knobs.value(knob.key));
            let first = values.next().flatten();
            first.filter(|_| values.all(|other| other == first))
        };
        self.all_knobs().into_iter().filter_map(|knob| Some((knob, value(&knob)?))).collect()
    }
}

impl fmt::Debug for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objective({}", self.name())?;
        for (knob, value) in self.knobs() {
            write!(f, ", {} = {value}", knob.key)?;
        }
        f.write_str(")")
    }
}

/// Finds the loss with this name, alias or preset.
///
/// # Errors
/// [`ObjectiveError::UnknownLoss`] or [`ObjectiveError::AmbiguousLoss`].
pub fn find(name: &str) -> Result<(&'static LossSpec, Option<&'static Preset>), ObjectiveError> {
    for spec in LOSSES {
        if is_called(name, spec.name, spec.aliases) {
            return Ok((spec, None));
        }
        if let Some(preset) = spec.presets.iter().find(|preset| is_called(name, preset.name, preset.aliases)) {
            return Ok((spec, Some(preset)));
        }
    }
    match AMBIGUOUS.iter().find(|ambiguous| same_name(ambiguous.name, name)) {
        Some(Ambiguous { candidates, .. }) => Err(ObjectiveError::AmbiguousLoss {
            name: name.to_owned(),
            candidates: candidates
                .iter()
                .map(|(candidate, what)| match find(candidate) {
                    Ok(_) => format!("{candidate} ({what})"),
                    Err(_) => format!("{candidate} ({what}; not in this version)"),
                })
                .collect(),
        }),
        None => {
            Err(ObjectiveError::UnknownLoss { name: name.to_owned(), similar: similar(name), known: names().collect() })
        }
    }
}

/// Returns the names of all losses, presets and mixes, without their aliases.
pub fn names() -> impl Iterator<Item = &'static str> {
    let of_loss =
        |spec: &'static LossSpec| [spec.name].into_iter().chain(spec.presets.iter().map(|preset| preset.name));
    LOSSES.iter().flat_map(of_loss).chain(MIXES.iter().map(|mix| mix.name))
}

/// Returns the known name that `text` seems to misspell. `None` if no name is similar.
fn similar(text: &str) -> Option<&'static str> {
    align_data::nearest(
        &text.to_lowercase().replace('-', "_"),
        names().chain(LOSSES.iter().flat_map(LossSpec::other_names)),
    )
}

/// Returns every knob of every loss once, by key, with the losses that have it, for the flags of the command line. If losses
/// differ in help, default or range, the knob is that of the first loss.
pub fn knobs() -> Vec<(&'static Knob, Vec<&'static LossSpec>)> {
    let mut knobs: Vec<(&'static Knob, Vec<&'static LossSpec>)> = Vec::new();
    for spec in LOSSES {
        for knob in spec.all_knobs() {
            match knobs.iter_mut().find(|(known, _)| known.key == knob.key) {
                Some((_, specs)) => specs.push(spec),
                None => knobs.push((knob, vec![spec])),
            }
        }
    }
    knobs
}

/// Returns every knob of these losses, once.
fn distinct_knobs(losses: impl Iterator<Item = &'static LossSpec>) -> Vec<&'static Knob> {
    let mut knobs: Vec<&'static Knob> = Vec::new();
    for knob in losses.flat_map(LossSpec::all_knobs) {
        if knobs.iter().all(|known| known.key != knob.key) {
            knobs.push(knob);
        }
    }
    knobs
}

/// A loss as `--loss` names it, with its weight in a mix.
struct Named {
    weight: f64,
    spec: &'static LossSpec,
    preset: Option<&'static Preset>,
}

/// Returns only the name for a single loss of weight 1. Otherwise returns names with weights, like `dpo:0.8,ipo:0.2`.
fn joined<'a>(parts: impl Iterator<Item = (&'a str, f64)>) -> String {
    match &parts.collect::<Vec<_>>()[..] {
        [(name, 1.0)] => (*name).to_owned(),
        parts => parts.iter().map(|(name, weight)| format!("{name}:{weight}")).collect::<Vec<_>>().join(","),
    }
}

/// Returns the canonical form of what `--loss` names. No knobs are needed for this. Two texts with the same form have the same
/// defaults.
///
/// # Errors
/// [`ObjectiveError`] for a text that names no loss and no mix.
pub fn canonical_name(text: &str) -> Result<String, ObjectiveError> {
    let named = parse(text)?;
    let name = |named: &Named| named.preset.map_or(named.spec.name, |preset| preset.name);
    Ok(joined(named.iter().map(|named| (name(named), named.weight))))
}

/// Returns which rows a loss reads, and which number it reads of each answer. No knobs are needed for this.
///
/// # Errors
/// [`ObjectiveError`] for a text that names no loss and no mix.
pub fn reads(text: &str) -> Result<(RowKind, Scores), ObjectiveError> {
    let named = parse(text)?;
    Ok((named[0].spec.data, named[0].spec.scores))
}

/// Finds the mix with this name.
pub fn mix(name: &str) -> Option<&'static MixPreset> {
    MIXES.iter().find(|mix| is_called(name, mix.name, mix.aliases))
}

fn parse(text: &str) -> Result<Vec<Named>, ObjectiveError> {
    let text = mix(text.trim()).map_or(text, |mix| mix.mix);
    if !text.contains([',', ':']) {
        let (spec, preset) = find(text.trim())?;
        return Ok(vec![Named { weight: 1.0, spec, preset }]);
    }
    let mut named: Vec<Named> = Vec::new();
    for part in text.split(',') {
        let syntax = || ObjectiveError::MixSyntax { text: text.to_owned(), part: part.trim().to_owned() };
        let (name, weight) = part.split_once(':').ok_or_else(syntax)?;
        let weight: f64 = weight.trim().parse().map_err(|_| syntax())?;
        if let Some(MixPreset { name, mix, .. }) = mix(name.trim()) {
            return Err(ObjectiveError::NestedMix { text: text.to_owned(), name, mix });
        }
        let (spec, preset) = find(name.trim())?;
        let twice = named.iter().any(|other| other.spec.name == spec.name);
        if !(weight.is_finite() && weight > 0.0) || twice {
            return Err(syntax());
        }
        named.push(Named { weight, spec, preset });
    }
    if let [_, _, ..] = named[..]
        && let Some(loss) = named.iter().find(|named| !mixes(named.spec))
    {
        return Err(mix_kind(text, loss.spec));
    }
    // the first loss decides the kind of rows and the scale of the rewards
    named.sort_by_key(|named| named.spec.data == RowKind::Sequence);
    Ok(named)
}

fn mix_kind(text: &str, loss: &LossSpec) -> ObjectiveError {
    let mixable = LOSSES.iter().filter(|spec| mixes(spec)).map(|spec| spec.name).collect();
    ObjectiveError::MixKind { text: text.to_owned(), loss: loss.name, mixable }
}

/// Whether the loss with its defaults can be part of a mix: it must be a loss of single pairs that reads log-probs, or the
/// likelihood.
fn mixes(spec: &LossSpec) -> bool {
    let defaults = Knobs { values: spec.all_knobs().map(|knob| (knob.key, knob.default())).collect() };
    spec.scores == Scores::LogProbs && matches!((spec.build)(&defaults), Loss::Pair(_) | Loss::Sft(_))
}

/// Refuses knobs that none of the losses has, and knobs given twice.
fn check_given(text: &str, named: &[Named], given: &[(&str, KnobValue)]) -> Result<(), ObjectiveError> {
    for (i, (key, value)) in given.iter().enumerate() {
        let Some(knob) = named.iter().find_map(|named| knob_of(named.spec, key)) else {
            let (flag, losses) = match knobs().into_iter().find(|(knob, _)| same_name(knob.key, key)) {
                // a switch at its default may be given to a loss without it, since it changes nothing
                Some((Knob { kind: KnobKind::Switch { default }, .. }, _)) if *value == KnobValue::Switch(*default) => {
                    continue;
                }
                Some((knob, specs)) => (knob.flag.to_owned(), specs.iter().map(|spec| spec.name).collect()),
                None => (key.to_string(), Vec::new()),
            };
            let has = distinct_knobs(named.iter().map(|named| named.spec));
            let has = has.into_iter().map(|knob| format!("--{}", knob.flag)).collect();
            return Err(ObjectiveError::UnknownKnob { flag, loss: text.to_owned(), has, losses });
        };
        if given[..i].iter().any(|(earlier, _)| same_name(earlier, key)) {
            return Err(ObjectiveError::KnobTwice { flag: knob.flag });
        }
    }
    Ok(())
}

/// Refuses knobs that change nothing because another knob is missing.
fn check_effects(parts: &[Part], given: &[(&str, KnobValue)]) -> Result<(), ObjectiveError> {
    for (key, value) in given {
        let having = || parts.iter().filter_map(|part| Some((part, knob_of(part.spec, key)?)));
        let idle = |(part, knob): (&Part, &'static Knob)| {
            let needs = knob.needs.filter(|needs| !part.knobs.value(needs.key).is_some_and(needs.holds))?;
            let needed = part.spec.knob(needs.key).expect("a knob needs one of the same loss");
            let (flag, loss, needed, what) = (knob.flag, part.spec.name, needed.flag, needs.what);
            (knob.default() != Some(*value)).then_some(ObjectiveError::KnobIdle { flag, loss, needed, what })
        };
        if let Some(error) = having().next().and_then(idle)
            && having().all(|of_part| idle(of_part).is_some())
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Collects the knobs of one loss: the given ones, those that the preset sets, and the defaults of all others.
fn complete(
    spec: &'static LossSpec,
    preset: Option<&'static Preset>,
    given: &[(&str, KnobValue)],
) -> Result<Knobs, ObjectiveError> {
    let preset = preset.unwrap_or(&Preset::PLAIN);
    let given_to = |knob: &Knob| given.iter().find(|(key, _)| same_name(knob.key, key)).map(|(_, value)| *value);
    let mut values = Vec::new();
    for knob in spec.all_knobs() {
        let of = |values: &[(&str, KnobValue)]| Some(values.iter().find(|(key, _)| *key == knob.key)?.1);
        let (sets, default) = (of(preset.sets), of(preset.defaults).or(knob.default()));
        let value = given_to(knob).or(sets).or(default);
        if let Some(given) = given_to(knob) {
            check_value(spec, knob, given)?;
        }
        if let (Some(sets), Some(value)) = (sets, value)
            && sets != value
        {
            let (preset, loss, key) = (preset.name, spec.name, knob.key);
            return Err(ObjectiveError::PresetConflict { preset, loss, key, sets, value });
        }
        if preset.requires.contains(&knob.key) && value == knob.default() {
            let default = knob.default().map_or("nothing".to_owned(), |value| value.to_string());
            return Err(ObjectiveError::PresetNeeds { preset: preset.name, loss: spec.name, flag: knob.flag, default });
        }
        values.push((knob.key, value));
    }
    for knob in spec.all_knobs() {
        if let (Some(_), Some(replaced)) = (given_to(knob), knob.replaces) {
            let replaced = spec.knob(replaced).expect("`replaces` names a knob of the same loss");
            if given_to(replaced).is_some() {
                return Err(ObjectiveError::KnobConflict { loss: spec.name, flag: knob.flag, replaced: replaced.flag });
            }
            values.iter_mut().filter(|(key, _)| *key == replaced.key).for_each(|(_, value)| *value = None);
        }
    }
    Ok(Knobs { values })
}

fn check_value(spec: &'static LossSpec, knob: &'static Knob, value: KnobValue) -> Result<(), ObjectiveError> {
    let flag = knob.flag;
    Err(match (knob.kind, value) {
        (KnobKind::Number { range, .. }, KnobValue::Number(number)) if range.contains(number) => return Ok(()),
        (KnobKind::Choice { choices, .. }, KnobValue::Choice(word)) if choices.contains(&word) => return Ok(()),
        (KnobKind::Switch { .. }, KnobValue::Switch(_)) => return Ok(()),
        (KnobKind::Number { range, .. }, KnobValue::Number(value)) => {
            ObjectiveError::KnobRange { flag, loss: spec.name, value, range }
        }
        (KnobKind::Number { .. }, _) => ObjectiveError::KnobType { flag, value, wanted: "a number" },
        (KnobKind::Switch { .. }, _) => ObjectiveError::KnobType { flag, value, wanted: "true or false" },
        (KnobKind::Choice { choices, .. }, _) => ObjectiveError::KnobChoice { flag, value, choices },
    })
}

fn knob_of(spec: &'static LossSpec, key: &str) -> Option<&'static Knob> {
    spec.all_knobs().find(|knob| same_name(knob.key, key))
}

/// Whether `text` is a name or one of the aliases.
fn is_called(text: &str, name: &str, aliases: &[&str]) -> bool {
    same_name(name, text) || aliases.iter().any(|alias| same_name(alias, text))
}

/// Whether two names are equal. Ignores case and does not distinguish `-` from `_`.
fn same_name(a: &str, b: &str) -> bool {
    let normal = |c: u8| if c == b'-' { b'_' } else { c.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| normal(a) == normal(b))
}
