//! Describes adapters and losses, and reports what `generate` has done.

use super::say;
use align_lora::adapter::LoraConfig;
use align_lora::objective::Objective;
use std::time::Duration;

/// Describes an adapter in a few words.
pub(crate) fn adapter(config: &LoraConfig) -> String {
    let scale = if config.use_rslora { ", scaled by alpha / sqrt(rank)" } else { "" };
    let dropout = if config.dropout > 0.0 { format!(", dropout {}", config.dropout) } else { String::new() };
    let patterns =
        if config.rank_pattern.is_empty() && config.alpha_pattern.is_empty() { "" } else { ", with patterns" };
    format!("rank {}, alpha {}{scale}{dropout}{patterns}", config.rank, config.alpha)
}

/// Describes a loss, or each loss of a mix, with its knobs and their values. A knob of a modifier is shown only if its value is
/// not the default.
pub(crate) fn loss(objective: &Objective) -> String {
    let losses = objective.losses().map(|(spec, knobs)| {
        let own = |key: &str| spec.knobs.iter().any(|knob| knob.key == key);
        let said = knobs.into_iter().filter(|(knob, value)| knob.default() != Some(*value) || own(knob.key));
        let knobs: Vec<String> = said.map(|(knob, value)| format!("{} {value}", knob.key)).collect();
        (spec.name, knobs.join(", "))
    });
    let losses: Vec<(&str, String)> = losses.collect();
    match &losses[..] {
        [(_, knobs)] if knobs.is_empty() => objective.name(),
        [(_, knobs)] => format!("{} ({knobs})", objective.name()),
        losses => {
            let parts: Vec<String> = losses.iter().map(|(name, knobs)| format!("{name}: {knobs}")).collect();
            format!("{} ({})", objective.name(), parts.join("; "))
        }
    }
}

/// Reports what `generate` has done. `elapsed` is the time that all passes over the model took, including the passes over the
/// prompts. It does not include the time to load the model.
pub(crate) fn generated(n_prompts: u64, new_tokens: u64, elapsed: Duration) {
    let prompts = if n_prompts == 1 { "prompt" } else { "prompts" };
    let tokens = if new_tokens == 1 { "token" } else { "tokens" };
    let elapsed_s = elapsed.as_secs_f64();
    let rate = new_tokens as f64 / elapsed_s;
    say!("{n_prompts} {prompts}, {new_tokens} new {tokens} in {elapsed_s:.2} s: {rate:.1} tokens/s");
}
