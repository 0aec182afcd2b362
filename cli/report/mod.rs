//! What people see on stderr: the start-up summary, progress, notes. Results go to stdout elsewhere.

mod adapters;
mod data;
mod model;
mod numbers;
mod training;
mod warnings;

pub use adapters::{other_base, read_adapter, stray_adapter};
pub use data::{DataReport, data, other_form, prompts, turn_marker_of_run};
pub use model::model_notes;
pub use numbers::{count, rate, rows};
pub use training::{Progress, adapter, generated, loss, pace, plan};
pub use warnings::{is_warning, line as warning_line, warnings};

use indicatif::ProgressStyle;

/// A line on stderr, where there is one: a closed or full stderr ends no run.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
pub(crate) use say;

/// A bar with its message, in colour unless `NO_COLOR` is set.
fn bar_style(end: &str) -> ProgressStyle {
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let bar = if colour { "{bar:24.cyan}" } else { "{bar:24}" };
    ProgressStyle::with_template(&format!("{bar} {{pos}}/{{len}}  {{msg}}  {end}")).expect("the template is valid")
}
