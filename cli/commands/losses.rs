//! `losses`: prints the registry of losses, as a list, as JSON or as `docs/objectives.md`.

use super::{print, print_json};
use crate::args::LossesArgs;
use crate::error::CliError;
use align_data::RowKind;
use align_lora::objective::{self, Knob, KnobKind, LOSSES, LossSpec, MIXES, MODIFIERS, MixPreset, Scores};
use serde_json::{Value, json};
use std::fmt::Write;

pub(super) fn run(args: &LossesArgs) -> Result<(), CliError> {
    if let Some(name) = &args.name {
        let text = match objective::mix(name) {
            Some(mix) => format!("\n{}\n", mix_words(mix)),
            None => section(objective::find(name)?.0) + "\n",
        };
        return print(text.trim_start().as_bytes());
    }
    if args.json {
        return print_json(&LOSSES.iter().map(as_json).chain(MIXES.iter().map(mix_as_json)).collect());
    }
    print(if args.markdown { markdown() } else { list() }.as_bytes())
}

fn as_json(loss: &LossSpec) -> Value {
    json!({
        "name": loss.name,
        "aliases": loss.other_names().collect::<Vec<_>>(),
        "data": loss.data_name(),
        "reference": loss.reference,
        "source": loss.source,
        "experimental": loss.experimental,
        "columns": columns(loss),
        "formula": loss.formula,
        "when": loss.when,
        "knobs": loss.all_knobs().map(|knob| json!({"flag": format!("--{}", knob.flag), "help": knob.help})).collect::<Vec<_>>(),
    })
}

fn mix_as_json(mix: &MixPreset) -> Value {
    json!({
        "name": mix.name,
        "aliases": mix.aliases,
        "data": RowKind::Pair.name(),
        "reference": true,
        "source": mix.source,
        "mix": mix.mix,
    })
}

/// What is printed about a loss if its [`LossSpec::experimental`] is true.
pub(super) const EXPERIMENTAL: &str =
    "experimental: its formula could not be checked against the paper or its authors' code";

fn list() -> String {
    let mut text = String::new();
    for loss in LOSSES {
        let aliases = loss.other_names().collect::<Vec<_>>().join(", ");
        let mark = if loss.experimental { " (experimental)" } else { "" };
        let knobs: Vec<_> = loss.all_knobs().map(|knob| format!("--{}", knob.flag)).collect();
        let mut line = |name: &str, what: String| writeln!(text, "{name:<18} {what}").expect("a string takes text");
        line(loss.name, format!("{}{mark}", loss.summary));
        let also = if aliases.is_empty() { String::new() } else { format!("; also: {aliases}") };
        let rows = match loss.scores {
            Scores::LogProbs => String::new(),
            Scores::Reward => format!(" of {}", loss.data.name()),
        };
        line("", format!("data: {}{rows}; source: {}{also}", loss.data_name(), loss.source));
        if !loss.columns.is_empty() {
            line("", format!("columns: {}", columns(loss).join(", ")));
        }
        if !knobs.is_empty() {
            line("", format!("knobs: {}", knobs.join(" ")));
        }
    }
    for mix in MIXES {
        let also = mix.aliases.join(", ");
        writeln!(text, "{:<18} {}", mix.name, mix.summary).expect("as above");
        writeln!(text, "{:<18} the mix {}; source: {}; also: {also}", "", mix.mix, mix.source).expect("as above");
    }
    text
}

/// Returns the title of the section about a kind of rows, and its first sentence.
fn heading(data: RowKind, scores: Scores) -> (&'static str, &'static str) {
    if scores == Scores::Reward {
        return (
            "Reward models",
            "A score head beside the adapter, trained on the rows of pairs (`rm_bt`) or of scored answers (`rm_rank`).",
        );
    }
    match data {
        RowKind::Pair => ("Pairs", "Rows `{prompt, chosen, rejected}` or `{chosen, rejected}`."),
        RowKind::Labelled => {
            ("Labelled answers", "Rows `{prompt, completion, label}`; pairs are taken apart into these.")
        }
        RowKind::Scored => ("Scored answers", "Rows `{prompt, completions, rewards}`, with any number of answers."),
        RowKind::Sequence => ("Texts", "Rows `{prompt, completion}`, `{messages}` or `{text}`."),
    }
}

fn markdown() -> String {
    let mut text = String::from(
        "# Objectives\n\n\
         Every loss that `--loss` takes, made by `align-cli losses --markdown`. `policy` and `reference` are summed log-probabilities of an \
         answer's tokens, in nats; `log_ratio = policy - reference`; `log_ratio_margin` is that of the chosen answer less that of the \
         rejected one, `margin` what a row has in that column, else 0. The log-loss of `x` is `-(1 - e) ln sigmoid(x) - e ln sigmoid(-x)`, \
         `e` being `--label-smoothing`. The objective is the mean over the rows of an optimiser step, whatever the micro-batches.\n\n\
         Losses of single pairs can be mixed, `--loss dpo:0.8,ipo:0.2`, with `sft` for the likelihood of the chosen answers; a knob applies \
         to each loss of the mix that has it. A column `weight` multiplies the loss of a single pair.\n",
    );
    let mut say = |line: String| {
        text += &line;
        text.push('\n');
    };
    let of_log_probs = [RowKind::Pair, RowKind::Labelled, RowKind::Scored, RowKind::Sequence];
    let sections = of_log_probs.chunks(1).map(|data| (data, Scores::LogProbs));
    for (data, scores) in sections.chain([(&of_log_probs[..], Scores::Reward)]) {
        let (title, rows) = heading(data[0], scores);
        say(format!("\n## {title}\n\n{rows}"));
        for loss in LOSSES.iter().filter(|loss| loss.scores == scores && data.contains(&loss.data)) {
            say(section(loss));
        }
    }
    say("\n## Modifiers\n\nWhat changes any loss that lists it; with the defaults, nothing.".to_owned());
    for modifier in MODIFIERS {
        say(format!("\n### {}\n\n    {}\n", modifier.title, modifier.formula));
        say(format!("- **Source**: {}", modifier.source));
        say(knobs(modifier.knobs));
    }
    say("\n## Mixes with a name\n".to_owned());
    MIXES.iter().for_each(|mix| say(mix_words(mix)));
    text
}

/// Writes the section of the document about a loss.
fn section(loss: &LossSpec) -> String {
    let mut lines = Vec::new();
    let mut say = |line: String| lines.push(line);
    say(format!("\n### `{}`\n\n{}.", loss.name, loss.summary));
    if loss.experimental {
        say(format!("\n*{}.*", upper_first(EXPERIMENTAL)));
    }
    say(format!("\n    {}\n", loss.formula));
    say(format!("- **When**: {}", loss.when));
    say(format!("- **Source**: {}", loss.source));
    say(format!("- **Reference model**: {}", if loss.reference { "yes" } else { "no" }));
    if !loss.columns.is_empty() {
        say(format!("- **Columns of a row**: {}", code(&columns(loss))));
    }
    if !loss.aliases.is_empty() {
        say(format!("- **Also called**: {}", code(loss.aliases)));
    }
    for preset in loss.presets {
        say(format!("- **Under the name** {}", preset_words(loss, preset)));
    }
    if !loss.modifiers.is_empty() {
        let titles: Vec<String> = loss.modifiers.iter().map(|modifier| modifier.title.to_lowercase()).collect();
        say(format!("- **[Modifiers](#modifiers)**: {}", titles.join(", ")));
    }
    if !loss.knobs.is_empty() {
        say(knobs(loss.knobs));
    }
    lines.join("\n")
}

/// Writes a table of knobs.
fn knobs(knobs: &[Knob]) -> String {
    let mut text = String::from("\n| knob | default | |\n|---|---|---|");
    for knob in knobs {
        let also: Vec<String> = knob.flag_aliases.iter().map(|flag| format!(", `--{flag}`")).collect();
        let range = match knob.kind {
            KnobKind::Number { range, .. } => range.to_string(),
            KnobKind::Switch { .. } | KnobKind::Choice { .. } => String::new(),
        };
        let range = if range.is_empty() { range } else { format!(" ({range})") };
        text += &format!("\n| `--{}`{} | {} | {}{range} |", knob.flag, also.concat(), default(knob), knob.help);
    }
    text
}

/// Writes the entry of a mix that has a name.
fn mix_words(mix: &MixPreset) -> String {
    let names: Vec<&str> = std::iter::once(mix.name).chain(mix.aliases.iter().copied()).collect();
    format!("- {}: `{}`. {}. Source: {}", code(&names), mix.mix, mix.summary, mix.source)
}

/// Writes a preset's names, the values it sets, and its source.
fn preset_words(loss: &LossSpec, preset: &align_lora::objective::Preset) -> String {
    let names: Vec<&str> = std::iter::once(preset.name).chain(preset.aliases.iter().copied()).collect();
    let flag = |key: &str| loss.knob(key).expect("a preset's knobs are the loss's").flag;
    let decided = preset.sets.iter().map(|(key, value)| format!("`{key} = {value}`"));
    let defaults = preset.defaults.iter().map(|(key, value)| format!("`--{} {value}` unless given", flag(key)));
    let has_default = |key: &&str| preset.defaults.iter().any(|(known, _)| known == key);
    let required = preset.requires.iter().filter(|key| !has_default(key));
    let required = required.map(|key| format!("`--{}` must be given", flag(key)));
    let words: Vec<String> = decided.chain(defaults).chain(required).collect();
    let source = preset.source.map_or(String::new(), |source| format!(" ({source})"));
    format!("{}: {}{source}", code(&names), words.join(", "))
}

/// Returns the names of the columns that a loss reads.
fn columns(loss: &LossSpec) -> Vec<&'static str> {
    loss.columns.iter().map(|column| column.name()).collect()
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn default(knob: &Knob) -> String {
    match (knob.kind, knob.default()) {
        (KnobKind::Switch { .. }, _) => "off".to_owned(),
        (_, Some(value)) => value.to_string(),
        (_, None) => "none".to_owned(),
    }
}

fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
