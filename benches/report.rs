//! Rows on stdout as they are measured, and all of them in a file on request.

use crate::measure::Samples;
use align_kernels::Device;
use align_kernels::device::MemoryReport;
use serde_json::{Value, json};
use std::path::Path;

/// One measured row.
pub struct Row {
    pub name: String,
    pub shape: String,
    pub time: Samples,
    pub rate: Rate,
}

/// What a row does per second, beside what the machine can do.
pub enum Rate {
    /// Operations, and operations per second of the ceiling.
    Flops { work: f64, ceiling: f64 },
    /// Bytes, and bytes per second of the ceiling.
    Bytes { work: f64, ceiling: f64 },
}

/// The rows so far.
pub struct Report {
    device: String,
    rows: Vec<Value>,
}

impl Report {
    pub fn new(device: &Device) -> Report {
        Report { device: device.describe(), rows: Vec::new() }
    }

    /// Prints a row and keeps it for the file.
    pub fn add(&mut self, row: &Row) {
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
    pub fn speed(&mut self, name: &str, pairs: f64, tokens: f64) {
        println!("{:<22} {name:<44} {pairs:.3} pairs/s, {tokens:.1} tokens/s", "train_step");
        self.rows.push(json!({
            "name": "train_step", "shape": name, "device": self.device,
            "pairs_per_second": pairs, "tokens_per_second": tokens,
        }));
    }

    /// Prints the largest bytes that were in use, together and under each name that matters.
    pub fn memory(&mut self, name: &str, memory: &MemoryReport) {
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

    /// Writes the file, if one is wanted.
    pub fn finish(self, json: Option<&Path>) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(&json!({ "device": self.device, "rows": self.rows }))?;
            std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}
