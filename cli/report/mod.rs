//! What people see on stderr: the start-up summary, progress, notes. Other modules write the results to stdout.

mod adapters;
mod data;
mod model;
mod notes;
mod numbers;
mod pass;
mod plan;
mod progress;
mod terminal;
mod time_left;
mod warnings;
mod words;

pub(crate) use adapters::{other_base, read_adapter, stray_adapter};
pub(crate) use data::{DataReport, beyond_positions, data, other_form, prompts, turn_marker_of_run};
pub(crate) use model::model_notes;
pub(crate) use notes::note;
pub(crate) use numbers::{count, rows};
pub(crate) use pass::Pass;
pub(crate) use plan::{PlannedTime, plan, step_operations, step_time};
pub(crate) use progress::Progress;
pub(crate) use terminal::{WIDEST, be_verbose, is_verbose, remember_messages, say_line, skip_remembered_messages};
pub(crate) use warnings::{is_warning, line as warning_line, warnings};
pub(crate) use words::{adapter, generated, loss};

/// Prints a message on stderr.
macro_rules! say {
    ($($words:tt)*) => { $crate::report::say_line(&format!($($words)*)) };
}
pub(crate) use say;

/// Prints a message on stderr, only with `--verbose`.
macro_rules! detail {
    ($($words:tt)*) => {
        if $crate::report::is_verbose() {
            $crate::report::say_line(&format!($($words)*));
        }
    };
}
pub(crate) use detail;
