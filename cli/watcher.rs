//! Handles the events of a run.

use crate::error::CliError;
use crate::report::{self, Progress};
use crate::run_files::{METRICS, RECORD};
use crate::run_record::{OfRun, RunRecord};
use align_lora::adapter::Adapter;
use align_lora::train::{EvalMetrics, Note, Observer, StepMetrics, TrainError, TrainState};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes metrics and shows progress. At the end of each epoch, saves the adapter and the run record over those of the previous
/// epoch.
pub(crate) struct Watcher<'a> {
    metrics: File,
    path: PathBuf,
    pub progress: Progress,
    adapter: &'a Adapter,
    output: &'a Path,
    of_run: OfRun,
}

impl<'a> Watcher<'a> {
    /// Makes the watcher of a run that writes into the directory `output`.
    ///
    /// # Errors
    /// [`CliError::Runtime`] if `metrics.jsonl` cannot be made there.
    pub(crate) fn new(
        output: &'a Path,
        adapter: &'a Adapter,
        of_run: OfRun,
        progress: Progress,
    ) -> Result<Watcher<'a>, CliError> {
        let path = output.join(METRICS);
        let metrics = File::create(&path).map_err(|error| CliError::file(&path, &error))?;
        Ok(Watcher { metrics, path, progress, adapter, output, of_run })
    }

    /// Saves the adapter and the state of the run.
    ///
    /// # Errors
    /// [`TrainError::Adapter`] or [`TrainError::Write`] if a file cannot be written.
    pub(crate) fn keep(&self, state: &TrainState) -> Result<(), TrainError> {
        // the record first: if the device has failed, nothing is written
        let record = RunRecord::new(self.adapter, &self.of_run, state.history)?;
        self.adapter.save(self.output)?;
        let path = self.output.join(RECORD);
        record.write(self.output).map_err(|error| TrainError::Write { path, source: error.source })
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<(), TrainError> {
        let write = |file: &mut File| file.write_all(format!("{line}\n").as_bytes());
        write(&mut self.metrics).map_err(|source| TrainError::Write { path: self.path.clone(), source })
    }
}

impl Observer for Watcher<'_> {
    fn step(&mut self, metrics: &StepMetrics) -> Result<(), TrainError> {
        self.progress.step(metrics);
        self.write(&metrics.to_json())
    }

    fn evaluating(&mut self, rows: usize, all: usize) {
        self.progress.evaluating(rows, all);
    }

    fn evaluation(&mut self, metrics: &EvalMetrics) -> Result<(), TrainError> {
        self.progress.evaluation(metrics);
        self.write(&metrics.to_json())
    }

    fn epoch(&mut self, state: &TrainState) -> Result<(), TrainError> {
        self.keep(state)
    }

    fn note(&mut self, note: Note) {
        report::note(&note);
    }
}
