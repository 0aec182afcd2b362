//! Formats numbers for people.

use std::time::Duration;

/// Formats a duration as `1:02:03`, `4:05` or `6 s`.
pub(super) fn seconds(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

/// Formats a learning rate as `7e-4`, or as `0`.
pub(super) fn rate(learning_rate: f64) -> String {
    if learning_rate == 0.0 { "0".into() } else { format!("{learning_rate:e}") }
}

/// Formats a number of rows as `1 row` or `3 rows`.
pub(crate) fn rows(n: u64) -> String {
    format!("{n} {}", if n == 1 { "row" } else { "rows" })
}

/// Formats a number of records as `1 record` or `3 records`.
pub(super) fn records(n: u64) -> String {
    format!("{n} {}", if n == 1 { "record" } else { "records" })
}

/// Formats a count as `1.23 billion`, `12.3 million`, `45.6 thousand` or `7890`.
pub(crate) fn count(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} thousand", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} million", n as f64 / 1e6),
        _ => format!("{:.2} billion", n as f64 / 1e9),
    }
}
