//! Which linear layers an adapter changes, as PEFT 0.21 decides it, and with which rank and alpha.
//!
//! Source: peft `tuners/tuners_utils.py`, `check_target_module_exists`; `utils/other.py`, `get_pattern_key`. An entry of a
//! list is a module's name or an ending of it after a dot. A string is a regular expression that must match the whole name.
//!
//! Patterns are Python's. They run on `fancy-regex`, which has lookaround and backreferences. It differs from Python only in
//! odd patterns: `[`, `&&`, `--` and `~~` inside a character class mean set operations and need a backslash, and so does a
//! brace that begins no repetition. A pattern that backtracks more than a million steps is refused.
//!
//! One difference from PEFT is intended. If a pattern also matches modules that are not linear layers (norms, whole blocks), PEFT
//! stops with an error, but this program uses the linear layers and ignores the other modules.

use super::config::LoraConfig;
use super::error::ConfigFault;
use align_engine::model::LinearInfo;
use fancy_regex::Regex;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

/// Which modules get an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer except the output embedding.
    AllLinear,
    /// The layers that the names choose.
    Named(ModuleNames),
}

/// A choice of modules by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleNames {
    /// Modules with one of these names, or whose names end in one of them after a dot.
    List(Vec<String>),
    /// Modules whose whole name this expression matches.
    Regex(String),
}

impl FromStr for Targets {
    type Err = ConfigFault;

    /// Reads the form of the command line: `all-linear`, names of `[A-Za-z0-9_.]` separated by commas, or else a regular
    /// expression.
    fn from_str(text: &str) -> Result<Targets, ConfigFault> {
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        if names.iter().all(|name| !name.is_empty() && name.bytes().all(is_name_byte)) {
            return Ok(Targets::Named(ModuleNames::List(names.into_iter().map(str::to_owned).collect())));
        }
        if text.eq_ignore_ascii_case(ALL_LINEAR) {
            return Ok(Targets::AllLinear);
        }
        whole(TARGET_MODULES, text)?;
        Ok(Targets::Named(ModuleNames::Regex(text.to_owned())))
    }
}

impl Targets {
    /// Returns the names in a list of targets that choose none of these layers. Empty if the targets are not a list.
    pub fn unmatched(&self, linears: &[LinearInfo]) -> Vec<&str> {
        let Targets::Named(ModuleNames::List(names)) = self else { return Vec::new() };
        let chosen = |name: &str| {
            linears.iter().any(|linear| {
                linear.name.strip_suffix(name).is_some_and(|start| start.is_empty() || start.ends_with('.'))
            })
        };
        names.iter().map(String::as_str).filter(|name| !chosen(name)).collect()
    }
}

/// Writes the targets in the form that the command line accepts.
impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Targets::AllLinear => f.write_str(ALL_LINEAR),
            Targets::Named(ModuleNames::List(names)) => f.write_str(&names.join(",")),
            Targets::Named(ModuleNames::Regex(pattern)) => f.write_str(pattern),
        }
    }
}

/// The word for [`Targets::AllLinear`]. It may be in upper or lower case.
pub(super) const ALL_LINEAR: &str = "all-linear";
const TARGET_MODULES: &str = "target_modules";

/// The modules of a model to which a configuration can refer.
#[derive(Debug, Clone)]
pub struct Modules<'a> {
    /// The linear layers, by their paths in the Hugging Face model.
    pub linears: Vec<&'a str>,
    /// The part before `layers.` and `embed_tokens` in those paths, e.g. `model.`
    pub prefix: &'a str,
}

impl<'a> Modules<'a> {
    /// Lists the modules of a model with these linear layers; `prefix` is `module_prefix` of the model's configuration.
    pub fn new(linears: &'a [LinearInfo], prefix: &'a str) -> Modules<'a> {
        Modules { linears: linears.iter().map(|linear| linear.name.as_str()).collect(), prefix }
    }
}

/// A linear layer that gets an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Index into [`Modules::linears`].
    pub linear: usize,
    /// Rows of A, columns of B.
    pub rank: usize,
    /// The factor of the update.
    pub scaling: f32,
}

impl LoraConfig {
    /// Returns the linear layers that this configuration chooses, in the model's order.
    ///
    /// # Errors
    /// [`ConfigFault::Pattern`], [`ConfigFault::NothingMatches`], [`ConfigFault::Embedding`].
    pub fn choose(&self, modules: &Modules<'_>) -> Result<Vec<Choice>, ConfigFault> {
        let chosen = self.chosen_modules(modules)?;
        if chosen.is_empty() {
            return Err(self.nothing_matches(modules));
        }
        let names: Vec<&str> = chosen.iter().map(|&linear| modules.linears[linear]).collect();
        let ranks = by_pattern("rank_pattern", &self.rank_pattern, &names, self.rank)?;
        let alphas = by_pattern("alpha_pattern", &self.alpha_pattern, &names, self.alpha)?;
        let facts = chosen.into_iter().zip(ranks.into_iter().zip(alphas));
        Ok(facts.map(|(linear, (rank, alpha))| Choice { linear, rank, scaling: self.scaling(rank, alpha) }).collect())
    }

    /// Returns the rank and scaling that this configuration gives each of these modules, which may be in any part of a model.
    /// `None` for a module that it leaves out.
    ///
    /// # Errors
    /// [`ConfigFault::Pattern`], [`ConfigFault::Embedding`].
    pub(super) fn choose_any(&self, names: &[impl AsRef<str>]) -> Result<Vec<Option<Choice>>, ConfigFault> {
        let modules = Modules { linears: names.iter().map(AsRef::as_ref).collect(), prefix: "" };
        let mut all = vec![None; names.len()];
        if !names.is_empty() && !self.chosen_modules(&modules)?.is_empty() {
            for choice in self.choose(&modules)? {
                all[choice.linear] = Some(choice);
            }
        }
        Ok(all)
    }

    fn chosen_modules(&self, modules: &Modules<'_>) -> Result<Vec<usize>, ConfigFault> {
        let excluded = self.exclude_modules.as_ref().map(|names| Matcher::new("exclude_modules", names)).transpose()?;
        let is_excluded = |name: &str| excluded.as_ref().map_or(Ok(false), |matcher| matcher.matches(name));
        let Targets::Named(names) = &self.target_modules else {
            let excluded = modules.linears.iter().map(|name| is_excluded(name)).collect::<Result<Vec<bool>, _>>()?;
            return Ok((0..excluded.len()).filter(|&linear| !excluded[linear]).collect());
        };
        let targets = Matcher::new(TARGET_MODULES, names)?;
        for module in ["lm_head".to_owned(), format!("{}embed_tokens", modules.prefix)] {
            if targets.matches(&module)? && !is_excluded(&module)? {
                return Err(ConfigFault::Embedding { module });
            }
        }
        let layers = match &self.layers_to_transform {
            // an empty list restricts nothing, as in PEFT
            Some(layers) if !layers.is_empty() => {
                let layers: HashSet<usize> = layers.iter().copied().collect();
                let numbers = self.layer_numbers(&modules.linears)?;
                Some(numbers.into_iter().map(|n| n.is_some_and(|n| layers.contains(&n))).collect::<Vec<bool>>())
            }
            _ => None,
        };
        let mut chosen = Vec::new();
        for (linear, name) in modules.linears.iter().enumerate() {
            if is_excluded(name)? || !targets.matches(name)? {
                continue;
            }
            // a module that the list names in full is chosen in any layer
            if layers.as_ref().is_none_or(|layers| layers[linear]) || targets.names(name) {
                chosen.push(linear);
            }
        }
        Ok(chosen)
    }

    /// Finds the layer's number in each name: the part after `layers_pattern`. Without patterns, it is the first number from the
    /// third part on.
    fn layer_numbers(&self, names: &[&str]) -> Result<Vec<Option<usize>>, ConfigFault> {
        let patterns = self.layers_pattern.as_deref().unwrap_or(&[]);
        if patterns.is_empty() {
            return Ok(names.iter().map(|name| first_number(name)).collect());
        }
        // `Some` for names that a pattern matches; the first such pattern decides
        let mut numbers: Vec<Option<Option<usize>>> = vec![None; names.len()];
        for pattern in patterns {
            let regex = compile("layers_pattern", pattern, &format!(r"\A(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)"))?;
            for (slot, name) in numbers.iter_mut().zip(names).filter(|(slot, _)| slot.is_none()) {
                let captures = regex.captures(name).map_err(|error| fault("layers_pattern", pattern, &error))?;
                *slot = captures.map(|captures| captures.name("idx")?.as_str().parse().ok());
            }
        }
        Ok(numbers.into_iter().map(Option::flatten).collect())
    }

    fn nothing_matches(&self, modules: &Modules<'_>) -> ConfigFault {
        let targets = match &self.target_modules {
            Targets::AllLinear => ALL_LINEAR.to_owned(),
            Targets::Named(ModuleNames::List(names)) => format!("{names:?}"),
            Targets::Named(ModuleNames::Regex(pattern)) => {
                format!("{pattern:?} (a regular expression for whole names)")
            }
        };
        let layers = self.layers_to_transform.as_ref().is_some_and(|layers| !layers.is_empty());
        let hint = match (layers, self.exclude_modules.is_some()) {
            (false, false) => "",
            (false, true) => " that `exclude_modules` leaves",
            (true, false) => " in the layers of `layers_to_transform`",
            (true, true) => " in the layers of `layers_to_transform` that `exclude_modules` leaves",
        };
        ConfigFault::NothingMatches { targets, hint, modules: summary(&modules.linears) }
    }
}

/// The names or the pattern of a configuration, prepared for comparison.
enum Matcher<'a> {
    List(HashSet<&'a str>),
    Regex { key: &'static str, pattern: &'a str, regex: Regex },
}

impl<'a> Matcher<'a> {
    fn new(key: &'static str, names: &'a ModuleNames) -> Result<Matcher<'a>, ConfigFault> {
        Ok(match names {
            ModuleNames::List(names) => Matcher::List(names.iter().map(String::as_str).collect()),
            ModuleNames::Regex(pattern) => Matcher::Regex { key, pattern, regex: whole(key, pattern)? },
        })
    }

    fn matches(&self, name: &str) -> Result<bool, ConfigFault> {
        match self {
            Matcher::List(names) => {
                let endings = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
                Ok(std::iter::once(name).chain(endings).any(|ending| names.contains(ending)))
            }
            Matcher::Regex { key, pattern, regex } => regex.is_match(name).map_err(|error| fault(key, pattern, &error)),
        }
    }

    /// Whether the list has exactly this name.
    fn names(&self, name: &str) -> bool {
        matches!(self, Matcher::List(names) if names.contains(name))
    }
}

/// Returns a value for each name: that of the first pattern that matches the whole name, or all of the name after some dot. If no
/// pattern matches, the value is `default`.
fn by_pattern<T: Copy>(
    key: &'static str,
    patterns: &[(String, T)],
    names: &[&str],
    default: T,
) -> Result<Vec<T>, ConfigFault> {
    let mut values: Vec<Option<T>> = vec![None; names.len()];
    // one expression at a time: a file may hold many, and a compiled one is far larger than its text
    for (pattern, value) in patterns {
        let regex = compile(key, pattern, &format!(r"\A(.*\.)?({pattern})$"))?;
        for (slot, name) in values.iter_mut().zip(names).filter(|(slot, _)| slot.is_none()) {
            if regex.is_match(name).map_err(|error| fault(key, pattern, &error))? {
                *slot = Some(*value);
            }
        }
    }
    Ok(values.into_iter().map(|value| value.unwrap_or(default)).collect())
}

/// Compiles an expression that matches only whole names.
fn whole(key: &'static str, pattern: &str) -> Result<Regex, ConfigFault> {
    compile(key, pattern, &format!(r"\A(?:{pattern})\z"))
}

fn compile(key: &'static str, pattern: &str, expression: &str) -> Result<Regex, ConfigFault> {
    Regex::new(expression).map_err(|error| fault(key, pattern, &error))
}

fn fault(key: &'static str, pattern: &str, error: &fancy_regex::Error) -> ConfigFault {
    // cut, because a file may hold a very long pattern
    let shown = pattern.chars().take(200).collect();
    ConfigFault::Pattern { key, pattern: shown, reason: error.to_string().chars().take(400).collect() }
}

/// Returns the number that `.*?\.[^.]*\.(\d+)\.` captures at the start of `name`.
fn first_number(name: &str) -> Option<usize> {
    let parts: Vec<&str> = name.split('.').collect();
    let inner = parts.get(2..parts.len().saturating_sub(1))?;
    inner.iter().find(|part| is_number(part))?.parse().ok()
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lists the names with `N` for numbers, each once, in the order of their first appearance.
fn summary(names: &[&str]) -> String {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        let parts: Vec<&str> = name.split('.').map(|part| if is_number(part) { "N" } else { part }).collect();
        let name = parts.join(".");
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.join(", ")
}

/// Returns the list that PEFT and other programs read as [`Targets::AllLinear`] on a model with these modules. The list holds the
/// last part of each name. If the model has more than its decoder, the list holds whole names, since other parts of the model may
/// have modules with the same last part.
pub(super) fn spelled_out(modules: &Modules<'_>) -> Vec<String> {
    let last = |name: &&str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let mut names: Vec<String> = match modules.prefix {
        "model." => modules.linears.iter().map(last).collect(),
        _ => modules.linears.iter().map(|name| (*name).to_owned()).collect(),
    };
    names.sort();
    names.dedup();
    names
}
