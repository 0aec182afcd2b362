//! Measures the timed cases of the kernels. The tests check the same cases.

use crate::ceiling::Ceiling;
use crate::measure::{Samples, sample, warm_up};
use crate::report::{Rate, Report, Row};
use align_kernels::Device;

/// Measures the cases that `wanted` selects by kernel and shape, then checks the output of one more run. Runs of a case alternate
/// with measurements of the ceilings, so that the machine is in the same state for all of them.
pub(crate) fn run(
    device: &Device,
    rounds: usize,
    wanted: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut ceiling = Ceiling::new(device)?;
    for case in align_kernels::cases() {
        if !case.timed || !wanted(&format!("{} {}", case.kernel, case.shape)) {
            continue;
        }
        let mut prepared = (case.prepare)(device)?;
        // inside the device's thread pool, as in a training step: from outside, each call would be handed over to the pool
        let repeats = device.install(|| warm_up(device, || prepared.run()))?;
        let (mut time, mut flops, mut bytes) = (Samples::default(), Samples::default(), Samples::default());
        for round in 0..rounds {
            flops.push(ceiling.flops(case.precision));
            if round % 5 == 0 {
                bytes.push(ceiling.bytes());
            }
            time.push(device.install(|| sample(device, repeats, || prepared.run()))?);
        }
        prepared.reset()?;
        prepared.run()?;
        if let Some(wrong) = prepared.check().into_iter().find(|comparison| !comparison.holds()) {
            return Err(format!("{} {}: {wrong:?}", case.kernel, case.shape).into());
        }
        let (flops, bytes) = (flops.median(), bytes.median());
        // compares with the ceiling at which the case's work would take longer
        let rate = if case.flops / flops > case.bytes / bytes {
            Rate::Flops { work: case.flops, ceiling: flops }
        } else {
            Rate::Bytes { work: case.bytes, ceiling: bytes }
        };
        report.add(&Row { name: case.kernel.to_string(), shape: case.shape, time, rate });
    }
    Ok(())
}
