//! `losses`: the registry.

use super::{print, print_json};
use crate::args::LossesArgs;
use crate::error::CliError;
use align_lora::objective::LOSSES;
use serde_json::json;

pub fn run(args: &LossesArgs) -> Result<(), CliError> {
    if args.json {
        let list = LOSSES.iter().map(|loss| {
            json!({
                "name": loss.name,
                "aliases": loss.other_names().collect::<Vec<_>>(),
                "data": loss.data.name(),
                "reference": loss.reference,
                "source": loss.source,
                "knobs": loss.knobs.iter().map(|knob| json!({"flag": format!("--{}", knob.flag), "help": knob.help})).collect::<Vec<_>>(),
            })
        });
        return print_json(&list.collect());
    }
    let mut text = String::new();
    for loss in LOSSES {
        let aliases = loss.other_names().collect::<Vec<_>>().join(", ");
        text += &format!("{:<10} {}\n", loss.name, loss.summary);
        text += &format!("{:<10} data: {}; source: {}", "", loss.data.name(), loss.source);
        if !aliases.is_empty() {
            text += &format!("; also: {aliases}");
        }
        let knobs: Vec<_> = loss.knobs.iter().map(|knob| format!("--{}", knob.flag)).collect();
        text += &format!("\n{:<10} knobs: {}\n", "", knobs.join(" "));
    }
    print(text.as_bytes())
}
