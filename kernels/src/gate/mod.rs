//! Gated activation of the MLP: `y = act(gate) * up`, `act` SiLU (SwiGLU) or GELU in its tanh form (GeGLU, Gemma).
//! Source: arXiv 2002.05202; GELU tanh: arXiv 1606.08415, sec. 2; the backward is derived in docs/derivations/gate.md.

pub mod case;
mod cpu;
pub mod reference;

use crate::error::check_len;
use crate::{Device, Result, Slice, SliceMut};

/// The function on the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))`
    GeluTanh,
}

/// See the module. All `[len]`.
pub struct Forward<'a> {
    pub len: usize,
    pub activation: Activation,
    pub gate: Slice<'a, f32>,
    pub up: Slice<'a, f32>,
    pub y: SliceMut<'a, f32>,
}

/// `d_gate = dy * up * act'(gate)`, `d_up = dy * act(gate)`. All `[len]`; both are set, not added to.
pub struct Backward<'a> {
    pub len: usize,
    pub activation: Activation,
    pub gate: Slice<'a, f32>,
    pub up: Slice<'a, f32>,
    pub dy: Slice<'a, f32>,
    pub d_gate: SliceMut<'a, f32>,
    pub d_up: SliceMut<'a, f32>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice has another length.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gate.forward";
        check_len(KERNEL, "gate", self.gate.len(), self.len)?;
        check_len(KERNEL, "up", self.up.len(), self.len)?;
        check_len(KERNEL, "y", self.y.len(), self.len)?;
        match device {
            Device::Cpu(cpu) => cpu::forward(cpu, self),
        }
        Ok(())
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gate.backward";
        check_len(KERNEL, "gate", self.gate.len(), self.len)?;
        check_len(KERNEL, "up", self.up.len(), self.len)?;
        check_len(KERNEL, "dy", self.dy.len(), self.len)?;
        check_len(KERNEL, "d_gate", self.d_gate.len(), self.len)?;
        check_len(KERNEL, "d_up", self.d_up.len(), self.len)?;
        match device {
            Device::Cpu(cpu) => cpu::backward(cpu, self),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
