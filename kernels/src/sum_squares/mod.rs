//! `Σ x²` in f64, in a fixed order: the parts of a gradient norm.

pub mod case;
mod cpu;
pub mod reference;

use crate::{Device, Result, Slice};

/// See the module.
pub struct SumSquares<'a> {
    pub x: Slice<'a, f32>,
}

impl SumSquares<'_> {
    /// The sum; the bits depend on the content alone. NaN or infinite if an element is.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn run(self, device: &Device) -> Result<f64> {
        let _timed = device.timed("sum_squares");
        match device {
            Device::Cpu(cpu) => Ok(cpu::sum_squares(cpu, self.x.cpu())),
        }
    }
}

#[cfg(test)]
mod tests;
