//! Prints each row on stdout as soon as it is measured, and writes all rows to a file on request.

use crate::measure::Samples;
use align_kernels::Device;
use align_kernels::device::MemoryReport;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A measured row: what ran, on which shape, and how fast.
pub(crate) struct Row {
    pub name: String,
    pub shape: String,
    pub time: Samples,
    pub rate: Rate,
}

/// The work of one run, and the ceiling of the machine for it.
pub(crate) enum Rate {
    /// Operations of the run, and the ceiling in operations per second.
    Flops { work: f64, ceiling: f64 },
    /// Bytes that the run moves, and the ceiling in bytes per second.
    Bytes { work: f64, ceiling: f64 },
}

/// The measured rows so far.
pub(crate) struct Report {
    device: String,
    rows: Vec<Value>,
}

impl Report {
    pub(crate) fn new(device: &Device) -> Report {
        Report { device: device.describe(), rows: Vec::new() }
    }

    /// Prints a row and keeps it for the file.
    pub(crate) fn add(&mut self, row: &Row) {
        let seconds = row.time.median();
        let (low, high) = (row.time.quantile(0.1), row.time.quantile(0.9));
        let (work, ceiling, unit) = match row.rate {
            Rate::Flops { work, ceiling } => (work, ceiling, "GFLOP/s"),
            Rate::Bytes { work, ceiling } => (work, ceiling, "GB/s"),
        };
        let rate = work / seconds;
        let share = rate / ceiling;
        println!(
            "{:<22} {:<44} {}  {:>10.1} us ({:.1} .. {:.1})  {:>7.1} {:<7} {:>4.0}% of {:.1}",
            row.name,
            row.shape,
            self.device,
            seconds * 1e6,
            low * 1e6,
            high * 1e6,
            rate / 1e9,
            unit,
            100.0 * share,
            ceiling / 1e9,
        );
        self.rows.push(json!({
            "name": row.name, "shape": row.shape, "device": self.device,
            "median_us": seconds * 1e6, "p10_us": low * 1e6, "p90_us": high * 1e6,
            "rate": rate / 1e9, "ceiling": ceiling / 1e9, "unit": unit, "share": share,
        }));
    }

    /// Prints the speed of a training step.
    pub(crate) fn speed(&mut self, name: &str, pairs: f64, tokens: f64) {
        println!("{:<22} {name:<44} {pairs:.3} pairs/s, {tokens:.1} tokens/s", "train_step");
        self.rows.push(json!({
            "name": "train_step", "shape": name, "device": self.device,
            "pairs_per_second": pairs, "tokens_per_second": tokens,
        }));
    }

    /// Prints the speed of generation, and how long the prompts took.
    pub(crate) fn generation(&mut self, name: &str, tokens: f64, prompts: f64) {
        println!("{:<22} {name:<44} {tokens:.1} tokens/s behind the prompts, which took {prompts:.3} s", "generate");
        self.rows.push(json!({
            "name": "generate", "shape": name, "device": self.device,
            "tokens_per_second": tokens, "prompts_seconds": prompts,
        }));
    }

    /// Prints the share of `all_seconds` that products, attention and log-probs take together. Then prints the share of each
    /// kernel, and of the time between kernels, if it is at least 0.5 %.
    pub(crate) fn kernels(&mut self, of: &str, name: &str, kernels: &BTreeMap<&'static str, f64>, all_seconds: f64) {
        let heavy =
            |kernel: &str| ["gemm.", "attention.", "token_logps."].iter().any(|prefix| kernel.starts_with(prefix));
        let sum: f64 = kernels.iter().filter(|(kernel, _)| heavy(kernel)).map(|(_, seconds)| seconds).sum();
        let share = sum / all_seconds;
        let of = format!("{of}.kernels");
        println!("{of:<22} {name:<44} {:.0}% in products, attention and log-probs", 100.0 * share);
        let mut sorted: Vec<_> = kernels.iter().map(|(kernel, seconds)| (*kernel, seconds / all_seconds)).collect();
        let within = sorted.iter().filter(|(kernel, _)| !kernel.ends_with("beside the step")).map(|(_, share)| share);
        let outside = 1.0 - within.sum::<f64>();
        sorted.push(("between kernels", outside));
        sorted.sort_by(|one, other| other.1.total_cmp(&one.1));
        for (kernel, share) in sorted.iter().take_while(|(_, share)| *share >= 0.005) {
            println!("{:<22} {kernel:<44} {:.1}%", "", 100.0 * share);
        }
        let shares: serde_json::Map<_, _> =
            sorted.into_iter().map(|(of, share)| (of.to_owned(), json!(share))).collect();
        self.rows.push(json!({
            "name": of, "shape": name, "device": self.device, "heavy_share": share, "shares": shares,
        }));
    }

    /// Prints how many times faster a training step is on all threads than on one.
    pub(crate) fn threads(&mut self, name: &str, threads: usize, ratios: &Samples) {
        let (ratio, low, high) = (ratios.median(), ratios.quantile(0.1), ratios.quantile(0.9));
        println!("{:<22} {name:<44} {threads} threads: {ratio:.2} x one ({low:.2} .. {high:.2})", "train_step.threads");
        self.rows.push(json!({
            "name": "train_step.threads", "shape": name, "device": self.device, "threads": threads, "ratio": ratio,
        }));
    }

    /// Prints the peak of the memory in use. Also prints the peak of each name under which memory is allocated, if it is at least
    /// 1 % of the overall peak.
    pub(crate) fn memory(&mut self, name: &str, memory: &MemoryReport) {
        let mut names: Vec<_> = memory.names.iter().map(|(name, used)| (*name, used.peak)).collect();
        names.sort_by_key(|(name, peak)| (std::cmp::Reverse(*peak), *name));
        println!("{:<22} {name:<44} {:.1} MB", "train_step.memory", memory.peak as f64 / 1e6);
        for (of, peak) in names.iter().take_while(|(_, peak)| peak * 100 >= memory.peak) {
            println!("{:<22} {of:<44} {:.1} MB at its own peak", "", *peak as f64 / 1e6);
        }
        let names: serde_json::Map<_, _> = names.into_iter().map(|(of, peak)| (of.to_owned(), json!(peak))).collect();
        self.rows.push(json!({
            "name": "train_step.memory", "shape": name, "device": self.device, "peak_bytes": memory.peak, "names": names,
        }));
    }

    /// Writes all rows to the file `json`, if it is given.
    pub(crate) fn finish(self, json: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(&json!({ "device": self.device, "rows": self.rows }))?;
            std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
