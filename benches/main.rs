//! `cargo bench [-- FILTER...] [--json FILE]`: every kernel case of a real model's size and a training step, as a share of what the
//! machine can do.
//!
//! A figure here is a median with its spread, beside a ceiling measured in turn with it: fused multiply-adds in registers for
//! arithmetic, a copy for memory. On a shared machine both sink together, so the share says more than the time.

mod ceiling;
mod kernels;
mod measure;
mod report;
mod train_step;

use align_kernels::Device;
use clap::Parser;
use std::path::PathBuf;

#[derive(Parser)]
struct Options {
    /// Only rows whose kernel and shape contain one of these.
    filters: Vec<String>,
    /// Also write the rows to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads (default: as many as this process may use).
    #[arg(long)]
    threads: Option<usize>,
    /// Timed rounds of each row.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let device = Device::cpu(options.threads)?;
    let wanted =
        |name: &str| options.filters.is_empty() || options.filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut report = report::Report::new(&device);
    kernels::run(&device, options.rounds, &wanted, &mut report)?;
    train_step::run(&device, options.rounds, &wanted, &mut report).map_err(|error| error.to_string())?;
    report.finish(options.json.as_deref())
}
