//! Times a piece of work. Each sample repeats the work until the clock is precise enough. All samples are kept, so that their
//! spread can be reported.

use align_kernels::{Device, KernelError};
use std::time::{Duration, Instant};

/// Each sample is meant to last at least this long, so that the precision of the clock does not matter.
const SAMPLE: Duration = Duration::from_millis(2);

/// The values of all samples so far: seconds, rates or ratios.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, seconds: f64) {
        self.0.push(seconds);
    }

    /// Returns the sample at the quantile `share`, which is from 0 to 1. A share of 0 means the smallest sample, 1 the largest.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// Runs `work` until its data and threads are warm. Returns how many times a sample should repeat it.
pub(crate) fn warm_up<E: From<KernelError>>(
    device: &Device,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<usize, E> {
    work()?;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 2 || (start.elapsed() < SAMPLE && runs < 10_000) {
        work()?;
        runs += 1;
    }
    device.synchronize()?;
    let one = start.elapsed().as_secs_f64() / f64::from(runs);
    Ok((SAMPLE.as_secs_f64() / one).ceil().max(1.0) as usize)
}

/// Runs `work` `repeats` times. Returns the mean seconds of one run.
pub(crate) fn sample<E: From<KernelError>>(
    device: &Device,
    repeats: usize,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<f64, E> {
    let start = Instant::now();
    for _ in 0..repeats {
        work()?;
    }
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64() / repeats as f64)
}
