//! Cases: the shapes of each kernel are declared once, for the tests and for the benches.
//!
//! A [`Case`] makes random inputs for one shape on one device. Its [`Prepared`] form runs the kernel, which a bench times, and
//! compares the output with the plain reference in f64, which tests and benches ask for. So every kernel that is timed is also
//! checked.

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
pub(crate) mod card;
#[cfg(test)]
pub(crate) mod gradient;
pub(crate) mod operands;

use crate::device::{WeightBuffer, WeightDtype};
use crate::{Device, FloatBuffer, FloatDtype, Precision, Result};
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// A kernel at one shape.
pub struct Case {
    /// Kernel and direction, e.g. `rms_norm.forward`.
    pub kernel: &'static str,
    /// Sizes and formats, e.g. `[2048, 576] f32`.
    pub shape: String,
    /// Floating-point operations of one run.
    pub flops: f64,
    /// Bytes that one run must read and write at least.
    pub bytes: f64,
    /// The precision of the kernel's products with weights. `None` if it has no such products. A bench needs it to know the peak
    /// rate, because a machine may have a special unit for some precisions.
    pub precision: Option<Precision>,
    /// Whether the shape is one of a real model and is timed. Small odd shapes are for the tests alone.
    pub timed: bool,
    /// Makes the inputs on a device.
    pub prepare: Prepare,
}

/// The inputs of a case, or what the reference computes from them. They are made on first use and shared by all devices.
pub(crate) type Fixed<T> = Arc<OnceLock<T>>;

/// Makes the inputs of a case on a device.
pub type Prepare = Box<dyn Fn(&Device) -> Result<Box<dyn Prepared>> + Send + Sync>;

/// A kernel with its inputs in place. `Send`, so that it can run inside the device's pool.
pub trait Prepared: Send {
    /// Restores what a run both reads and overwrites, e.g. a sum that it adds to. A bench does not time this.
    fn reset(&mut self) -> Result<()> {
        Ok(())
    }
    /// Runs the kernel once. Every run after a [`Prepared::reset`] gives the same output.
    fn run(&mut self) -> Result<()>;
    /// Compares the output of the last run with the reference.
    fn check(&self) -> Vec<Comparison>;
}

/// How far an output is from the reference in f64, and how far it may be.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The output's name.
    pub output: &'static str,
    /// Largest absolute difference from the reference in f64.
    pub error: f64,
    /// Largest difference that is allowed.
    pub bound: f64,
}

impl Comparison {
    /// Compares `got` with `exact`. The bound is twice the error of `naive`, the reference in f32, plus half a unit in the last
    /// place of the largest value.
    pub fn with_naive(output: &'static str, got: &[f32], exact: &[f64], naive: &[f32]) -> Comparison {
        let largest = exact.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let bound = 2.0 * max_error(naive, exact) + 0.5 * f64::from(f32::EPSILON) * largest;
        Comparison { output, error: max_error(got, exact), bound }
    }

    /// Compares `got` with `exact`, with a bound that the caller derives.
    pub fn with_bound(output: &'static str, got: &[f32], exact: &[f64], bound: f64) -> Comparison {
        Comparison { output, error: max_error(got, exact), bound }
    }

    /// Returns a message that begins with `place` and says how far the output is from the reference.
    #[cfg(test)]
    fn failure(&self, place: &str) -> String {
        format!("{place}: {} is {:.3e} away, {:.3e} is allowed", self.output, self.error, self.bound)
    }

    /// Whether the error is at most the bound. `false` if the error is NaN.
    pub fn holds(&self) -> bool {
        self.error <= self.bound
    }
}

/// Runs every case with every instruction set that this machine has and compares the outputs with the references.
///
/// # Panics
/// If an output is too far from its reference, a call returns an error, or the memory of a run disagrees with what was counted for
/// it. The message lists all failures. Also panics if nothing was compared, because such a test must not pass.
#[cfg(test)]
pub(crate) fn check_all(cases: Vec<Case>) {
    let mut compared = 0;
    let mut failures = Vec::new();
    for case in cases {
        for isa in crate::cpu::Isa::available() {
            // a new device, so that its threads do not hold any packed operands yet
            let device = Device::cpu_with(Some(2), isa).expect("two threads can be started");
            if isa.is_emulated() && case.flops > MOST_EMULATED {
                println!("{} {}: too large for the emulated {}", case.kernel, case.shape, isa.name());
                continue;
            }
            let place = format!("{} {} on {}", case.kernel, case.shape, device.describe());
            // in the device's pool, because the device's report counts only what its own threads hold
            let comparisons = device.install(|| {
                let mut prepared = (case.prepare)(&device)?;
                prepared.reset()?;
                prepared.run()?;
                let fault = counted(&case, &device)?.map(|fault| format!("{place}: {fault}"));
                Ok::<_, crate::KernelError>((fault, prepared.check()))
            });
            match comparisons {
                Err(error) => failures.push(format!("{place}: {error}")),
                Ok((fault, comparisons)) => {
                    failures.extend(fault);
                    compared += comparisons.len();
                    failures.extend(comparisons.iter().filter(|c| !c.holds()).map(|c| c.failure(&place)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {compared} outputs differ:\n{}", failures.len(), failures.join("\n"));
    assert!(compared > 0, "no case was checked");
}

/// Compares the memory that a single run of a case took on a device with what a [`Device::Count`] counts for it. Returns a message
/// if they disagree, otherwise `None`.
///
/// # Errors
/// The error of the case on the counting device.
#[cfg(test)]
fn counted(case: &Case, device: &Device) -> Result<Option<String>> {
    // memory plans do not count generation
    if case.kernel == "attention.decode" {
        return Ok(None);
    }
    let count = device.count();
    let mut prepared = (case.prepare)(&Device::Count(count.clone()))?;
    prepared.reset()?;
    prepared.run()?;
    let held = device.memory();
    let (blocks, packed) = (held.blocks_peak, held.packed.peak);
    let planned = [count.peak(), count.packed().bytes(device.threads())];
    // the count of `packed` is an upper bound: it also covers calls with fewer rows, which may keep more, and it assumes that every
    // thread has run a task
    let is_counted = blocks == planned[0] && packed <= planned[1];
    Ok((!is_counted).then(|| format!("takes {blocks} bytes and packs {packed}, {planned:?} are counted")))
}

/// Largest number of operations of a case that is run on an emulated unit. Such a case takes about a tenth of a second.
#[cfg(test)]
const MOST_EMULATED: f64 = 3e7;

/// Returns the largest absolute difference; infinity if a difference is NaN or the lengths differ.
pub(crate) fn max_error(got: &[f32], exact: &[f64]) -> f64 {
    if got.len() != exact.len() {
        return f64::INFINITY;
    }
    got.iter().zip(exact).fold(0.0, |worst, (&g, &e)| {
        let error = (f64::from(g) - e).abs();
        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
    })
}

/// Reproducible inputs: a small counter-based generator seeded by the shape.
#[derive(Debug, Clone)]
pub struct Inputs {
    seed: u64,
    drawn: u64,
}

impl Inputs {
    /// Makes inputs that depend on the sizes alone.
    pub fn of(sizes: &[usize]) -> Inputs {
        let seed = sizes.iter().fold(0x9e37_79b9_7f4a_7c15, |h: u64, &n| mix(h ^ n as u64));
        Inputs { seed, drawn: 0 }
    }

    /// Draws a number, uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.drawn += 1;
        let word = mix(self.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // no division and no conversion of an unsigned number: tests spend much of their time here
        (word >> 11) as i64 as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Draws a whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f64) as usize).min(n - 1)
    }

    /// Draws `n` roughly normal values with mean 0 and standard deviation `scale` (each from the sum of four uniform numbers).
    pub fn normal(&mut self, n: usize, scale: f32) -> Vec<f32> {
        let one = || ((self.unit() + self.unit() + self.unit() + self.unit() - 2.0) * 3f64.sqrt()) as f32 * scale;
        std::iter::repeat_with(one).take(n).collect()
    }

    /// As [`Inputs::normal`], rounded to bf16.
    pub fn normal_bf16(&mut self, n: usize, scale: f32) -> Vec<bf16> {
        self.normal(n, scale).into_iter().map(bf16::from_f32).collect()
    }
}

/// Uploads weights, rounded to a format. [`WeightBuffer::download`] returns the rounded values, which a kernel reads.
pub(crate) fn weights(device: &Device, dtype: WeightDtype, values: &[f32]) -> Result<WeightBuffer> {
    Ok(match dtype {
        WeightDtype::F32 => WeightBuffer::F32(device.upload("case", values)?),
        WeightDtype::F16 => {
            let values: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
            WeightBuffer::F16(device.upload("case", &values)?)
        }
        WeightDtype::Bf16 => {
            let values: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            WeightBuffer::Bf16(device.upload("case", &values)?)
        }
    })
}

/// Uploads values, rounded to a format. [`FloatBuffer::download`] returns the rounded values, which a kernel reads.
pub(crate) fn float(device: &Device, dtype: FloatDtype, values: &[f32]) -> Result<FloatBuffer> {
    Ok(match dtype {
        FloatDtype::F32 => device.upload("case", values)?.into(),
        FloatDtype::Bf16 => {
            let values: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            device.upload("case", &values)?.into()
        }
    })
}

/// Returns an upper bound of half a bf16 unit in the last place of the largest value: bf16 has eight significant bits.
pub(crate) fn half_ulp_of_bf16(exact: &[f64]) -> f64 {
    exact.iter().fold(0.0f64, |largest, x| largest.max(x.abs())) / 256.0
}

/// Which pass of a kernel a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Yields shapes, each with whether it is timed: first the `timed` shapes of real models, then the `odd` ones for the tests
/// alone.
pub(crate) fn shapes<S>(
    timed: impl IntoIterator<Item = S>,
    odd: impl IntoIterator<Item = S>,
) -> impl Iterator<Item = (S, bool)> {
    timed.into_iter().map(|shape| (shape, true)).chain(odd.into_iter().map(|shape| (shape, false)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
