//! What becomes of the things that a run tells.

use crate::error::CliError;
use crate::report::Progress;
use crate::run_record::{self, RunRecord};
use align_lora::adapter::Adapter;
use align_lora::train::{EvalMetrics, Observer, StepMetrics, TrainError, TrainState, Trainer};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes metrics, shows progress, keeps the adapter of the last epoch on disk.
pub struct Watcher<'a> {
    metrics: File,
    path: PathBuf,
    pub progress: Progress,
    adapter: &'a Adapter,
    output: &'a Path,
    /// As [`RunRecord::new`] takes them.
    reference: String,
    objective: serde_json::Value,
}

impl<'a> Watcher<'a> {
    /// For a run that writes into the directory `output`.
    ///
    /// # Errors
    /// [`CliError::Runtime`] if `metrics.jsonl` cannot be made there.
    pub fn new(
        output: &'a Path,
        adapter: &'a Adapter,
        trainer: &Trainer<'_>,
        logp_temperature: f32,
        progress: Progress,
    ) -> Result<Watcher<'a>, CliError> {
        let path = output.join("metrics.jsonl");
        let metrics = File::create(&path).map_err(|error| CliError::file(&path, &error))?;
        let reference = run_record::name_of(trainer);
        let objective = run_record::describe(trainer.objective(), logp_temperature);
        Ok(Watcher { metrics, path, progress, adapter, output, reference, objective })
    }

    /// Keeps the adapter, and where the run was when it had it.
    ///
    /// # Errors
    /// [`TrainError::Adapter`], [`TrainError::Write`].
    pub fn keep(&self, state: &TrainState) -> Result<(), TrainError> {
        self.adapter.save(self.output)?;
        let record = RunRecord::new(self.adapter, &self.reference, self.objective.clone(), *state);
        let path = self.output.join(run_record::FILE);
        record.write(self.output).map_err(|error| TrainError::Write { path, source: error.source })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<(), TrainError> {
        let write = |file: &mut File| file.write_all(format!("{line}\n").as_bytes());
        write(&mut self.metrics).map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}

impl Observer for Watcher<'_> {
    fn step(&mut self, metrics: &StepMetrics, total_steps: u64) -> Result<(), TrainError> {
        self.progress.step(metrics, total_steps);
        self.write(&metrics.to_json())
    }

    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError> {
        self.progress.evaluation(metrics);
        self.write(&metrics.to_json())
    }

    fn epoch(&mut self, state: &TrainState) -> Result<(), TrainError> {
        self.keep(state)
    }

    fn note(&mut self, text: String) {
        self.progress.note(&text);
    }
}
