//! A run that is watched by a test.

use align_lora::train::{EvalMetrics, Observer, StepMetrics, TrainError};

/// Keeps what a run notes.
#[derive(Default)]
pub struct Notes(pub Vec<String>);

impl Observer for Notes {
    fn step(&mut self, _: &StepMetrics, _: u64) -> Result<(), TrainError> {
        Ok(())
    }
    fn evaluation(&mut self, _: &EvalMetrics) -> Result<(), TrainError> {
        Ok(())
    }
    fn epoch(&mut self, _: u64) -> Result<(), TrainError> {
        Ok(())
    }
    fn note(&mut self, text: String) {
        self.0.push(text);
    }
}
