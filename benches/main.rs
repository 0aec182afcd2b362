//! `cargo bench [-- FILTER...] [--json FILE]` measures every kernel case of a real model's size, a training step and a
//! generated token, as shares of what the machine can do.
//!
//! `cargo bench -- write-7b DIR` writes a model of the size of Llama 2 7B to measure runs on. `cargo bench -- write-rows FILE`
//! writes a million rows of data.
//!
//! Each figure is a median with its spread, printed beside a ceiling of the machine. The ceiling of arithmetic is the rate of
//! products on the matrix unit or of fused multiply-adds in registers. The ceiling of memory is the rate of a copy. Measurements
//! of the figure and of its ceiling alternate: on a shared machine both drop together, so their ratio says more than the time.

mod ceiling;
mod generate;
mod kernels;
mod large_model;
mod measure;
mod models;
mod report;
mod rows;
mod train_step;

use align_kernels::Device;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    mode: Option<Mode>,
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
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

/// Other things that this program does.
#[derive(Subcommand)]
enum Mode {
    /// Write a model of random weights, of the size of Llama 2 7B: 13.5 GB.
    #[command(name = "write-7b")]
    Write7b { dir: PathBuf },
    /// Write a JSONL file of meaningless preference rows, about 1.1 GB for a million.
    #[command(name = "write-rows")]
    WriteRows {
        file: PathBuf,
        #[arg(long, default_value_t = 1_000_000)]
        rows: u64,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let device = Device::cpu(options.threads)?;
    match options.mode {
        Some(Mode::Write7b { dir }) => return large_model::write(&dir, device.threads()),
        Some(Mode::WriteRows { file, rows }) => return rows::write(&file, rows),
        None => {}
    }
    let wanted =
        |name: &str| options.filters.is_empty() || options.filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut report = report::Report::new(&device);
    kernels::run(&device, options.rounds, &wanted, &mut report)?;
    train_step::run(&device, options.rounds, &wanted, &mut report).map_err(|error| error.to_string())?;
    generate::run(&device, options.rounds, &wanted, &mut report).map_err(|error| error.to_string())?;
    report.finish(options.json.as_deref())
}
