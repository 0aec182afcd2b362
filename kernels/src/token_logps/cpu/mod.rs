//! Log-probs of targets on the processor, on vectors or on the unit that multiplies bf16. The matrix product computes the logits
//! of a block of the vocabulary, and one pass of the online softmax then adds the block to the results.
//!
//! A row goes through the columns of a block in the same order, whatever other rows there are. So the bits of a row do not depend
//! on the other rows or on the number of threads.

#[cfg_attr(not(target_arch = "x86_64"), path = "unit/absent.rs")]
mod unit;
mod vectors;

use super::{Backward, Extras, Forward, Head};
use crate::Precision;
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::cpu::vectors::Simd;
use crate::device::Cost;
use crate::{Device, Result, SliceMut};

pub(super) fn forward(device: &Device, cpu: &Cpu, call: Forward<'_>) -> Result<()> {
    match unit(cpu, call.head.precision) {
        Some(unit) => unit::forward(device, cpu, unit, call),
        None => vectors::forward(device, cpu, call),
    }
}

pub(super) fn backward(device: &Device, cpu: &Cpu, call: Backward<'_>) -> Result<()> {
    match unit(cpu, call.head.precision) {
        Some(unit) => unit::backward(cpu, unit, call),
        None => vectors::backward(device, cpu, call),
    }
}

/// Returns the unit that multiplies bf16, if there is one and the products are of bf16.
fn unit(cpu: &Cpu, precision: Precision) -> Option<Unit> {
    cpu.isa().unit().filter(|_| precision == Precision::Bf16)
}

/// Returns the cost of [`forward`], with or without extras.
pub(super) fn forward_cost(cpu: &Cpu, head: &Head<'_>, with_extras: bool) -> Cost {
    match unit(cpu, head.precision) {
        Some(unit) => Cost { scratch: unit::forward_scratch(cpu, unit, head, with_extras), ..Cost::default() },
        None => vectors::forward_cost(cpu, head),
    }
}

/// Returns the cost of [`backward`].
pub(super) fn backward_cost(cpu: &Cpu, head: &Head<'_>) -> Cost {
    match unit(cpu, head.precision) {
        Some(unit) => Cost { scratch: unit::backward_scratch(cpu, unit, head), ..Cost::default() },
        None => vectors::backward_cost(cpu, head),
    }
}

/// The online softmax of one row over the blocks of the vocabulary seen so far.
#[derive(Debug, Clone, Copy)]
struct Running {
    max: f32,
    /// `Σ e`, `e = exp(z - max)`
    sum: f32,
    /// `Σ e (z - max)`, for the entropy
    weighted: f32,
    /// `Σ e²`, for the log-sum-exp of twice the logits
    sum_of_squares: f32,
    /// The target's logit, once its block has been seen
    target: f32,
}

impl Running {
    const EMPTY: Running =
        Running { max: f32::NEG_INFINITY, sum: 0.0, weighted: 0.0, sum_of_squares: 0.0, target: f32::NAN };

    /// Adds the sums of a block, which are relative to the block's own maximum. Leaves `target` as it is.
    fn add(&mut self, block: Running) {
        if self.max == f32::NEG_INFINITY {
            *self = Running { target: self.target, ..block };
            return;
        }
        let max = if block.max > self.max { block.max } else { self.max };
        let (before, after) = (self.rescaled(max), block.rescaled(max));
        self.max = max;
        self.sum = before.sum + after.sum;
        self.weighted = before.weighted + after.weighted;
        self.sum_of_squares = before.sum_of_squares + after.sum_of_squares;
    }

    /// Returns the sums relative to `max`, which is at least `self.max`.
    fn rescaled(&self, max: f32) -> Running {
        let by = self.max - max;
        let factor = by.exp();
        Running {
            max,
            sum: self.sum * factor,
            // with a factor of 0 the sums no longer count; the product would be NaN if `by` is infinite
            weighted: if factor == 0.0 { 0.0 } else { factor * (self.weighted + by * self.sum) },
            sum_of_squares: self.sum_of_squares * factor * factor,
            target: self.target,
        }
    }
}

/// The softmax of one row over the whole vocabulary.
struct Total {
    max: f32,
    sum: f64,
    weighted: f64,
    sum_of_squares: f64,
    target: f32,
}

impl From<&Running> for Total {
    fn from(all: &Running) -> Total {
        let &Running { max, sum, weighted, sum_of_squares, target } = all;
        let [sum, weighted, sum_of_squares] = [sum, weighted, sum_of_squares].map(f64::from);
        Total { max, sum, weighted, sum_of_squares, target }
    }
}

/// Turns products into logits: `z = cap * tanh(u / cap) / temperature`, or `u / temperature`.
#[derive(Debug, Clone, Copy)]
struct Logit {
    cap: Option<f32>,
    temperature: f32,
}

impl Logit {
    fn new(head: &Head<'_>) -> Logit {
        Logit { cap: head.final_logit_softcapping, temperature: head.temperature }
    }

    fn is_product(self) -> bool {
        self.cap.is_none() && self.temperature == 1.0
    }

    /// # Safety
    /// The processor has the instruction set of `S`.
    #[inline(always)]
    unsafe fn of<S: Simd>(self, u: S::V) -> S::V {
        // SAFETY: the caller guarantees the instruction set of `S`.
        unsafe {
            let capped = match self.cap {
                Some(cap) => S::mul(S::tanh(S::div(u, S::splat(cap))), S::splat(cap)),
                None => u,
            };
            if self.temperature == 1.0 { capped } else { S::div(capped, S::splat(self.temperature)) }
        }
    }

    /// Returns `dz/du` at the logit `z`.
    fn slope(self, z: f32) -> f32 {
        let t = self.cap.map_or(0.0, |cap| z * self.temperature / cap);
        (1.0 - t * t) / self.temperature
    }
}

/// The outputs of [`Forward`], set a row at a time.
struct Outputs<'a> {
    logps: &'a mut [f32],
    lse: &'a mut [f32],
    /// The entropy, whether the target's logit is the largest, and the log-sum-exp of twice the logits
    extras: Option<[&'a mut [f32]; 3]>,
}

impl<'a> Outputs<'a> {
    fn new(logps: SliceMut<'a, f32>, lse: SliceMut<'a, f32>, extras: Option<Extras<'a>>) -> Outputs<'a> {
        let extras =
            extras.map(|extras| [extras.entropy, extras.target_is_argmax, extras.lse_of_twice].map(SliceMut::cpu));
        Outputs { logps: logps.cpu(), lse: lse.cpu(), extras }
    }

    /// Sets the outputs of a row. All are 0 if the row is not scored.
    fn set(&mut self, row: usize, scored: bool, total: &Total) {
        let value = |x: f64| if scored { x as f32 } else { 0.0 };
        let (max, log_sum) = (f64::from(total.max), total.sum.ln());
        self.lse[row] = value(max + log_sum);
        self.logps[row] = value(f64::from(total.target) - max - log_sum);
        if let Some([entropy, argmax, lse_of_twice]) = &mut self.extras {
            // rounding can push the entropy of a one-hot row below 0
            entropy[row] = value((log_sum - total.weighted / total.sum).max(0.0));
            argmax[row] = value(if total.target < total.max { 0.0 } else { 1.0 });
            lse_of_twice[row] = value(2.0 * max + total.sum_of_squares.ln());
        }
    }
}
