//! `Σ x²` of many tensors in f64, in a fixed order: the parts of a gradient norm.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::device::Cost;
use crate::{Device, Result, Slice};

/// Computes `Σ x²` of each of many tensors.
pub struct SumSquares<'a> {
    /// The tensors. Each has a separate sum.
    pub xs: &'a [Slice<'a, f32>],
}

impl SumSquares<'_> {
    /// Returns the sum of each tensor. Its bits depend on the tensor's content alone. A sum is NaN or infinite if an element is.
    ///
    /// # Errors
    /// None on the CPU; on a GPU [`crate::KernelError::OutOfMemory`] and [`crate::KernelError::Driver`].
    pub fn run(self, device: &Device) -> Result<Vec<f64>> {
        let _timed = device.timed("sum_squares");
        match device {
            Device::Cpu(cpu) => Ok(self.xs.iter().map(|x| cpu::sum_squares(cpu, x.cpu())).collect()),
            Device::Cuda(cuda) => cuda::sum_squares(device, cuda, self.xs),
            Device::Count(count) => {
                let scratch = if count.cpu().is_some() { 0 } else { cuda::scratch(self.xs) };
                count.call("sum_squares", Cost { scratch, ..Cost::default() })?;
                Ok(vec![0.0; self.xs.len()])
            }
        }
    }
}

#[cfg(test)]
mod tests;
