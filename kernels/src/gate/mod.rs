//! Gated activation of the MLP: `y = act(gate) * up`, where `act` is SiLU (SwiGLU) or GELU in its tanh form (GeGLU, Gemma).
//! Source: arXiv 2002.05202; GELU tanh: arXiv 1606.08415, sec. 2. docs/derivations/gate.md derives the backward pass.

pub(crate) mod case;
mod cpu;
pub(crate) mod cuda;
mod reference;

use crate::error::{check_dtype, check_len, check_size};
use crate::{Device, FloatSlice, FloatSliceMut, Result};

/// The function `act` that is applied to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `0.5 * x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))`
    GeluTanh,
}

/// `y = act(gate) * up`
pub struct Forward<'a> {
    /// Rows of `gate_up` and `y`.
    pub rows: usize,
    /// Columns of the gate, at least 1.
    pub cols: usize,
    /// `act` of the formula.
    pub activation: Activation,
    /// `[rows, 2 * cols]`: in each row the gate, then `up`
    pub gate_up: FloatSlice<'a>,
    /// `[rows, cols]`, like `gate_up`
    pub y: FloatSliceMut<'a>,
}

/// `d_gate = dy * up * act'(gate)` and `d_up = dy * act(gate)`. Both are overwritten, not added to.
pub struct Backward<'a> {
    /// As in [`Forward`].
    pub rows: usize,
    /// As in [`Forward`].
    pub cols: usize,
    /// As in [`Forward`].
    pub activation: Activation,
    /// As in [`Forward`].
    pub gate_up: FloatSlice<'a>,
    /// `[rows, cols]`
    pub dy: FloatSlice<'a>,
    /// `[rows, 2 * cols]`: in each row `d_gate`, then `d_up`
    pub d_gate_up: FloatSliceMut<'a>,
}

impl Forward<'_> {
    /// # Errors
    /// [`crate::KernelError::Shape`] if a slice is not as long as the sizes imply, [`crate::KernelError::Format`] if a slice has
    /// another format than `gate_up`, [`crate::KernelError::Size`] if there are no columns.
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gate.forward";
        let n = self.rows.saturating_mul(self.cols);
        check_len(KERNEL, "gate_up", self.gate_up.len(), n.saturating_mul(2))?;
        check_len(KERNEL, "y", self.y.len(), n)?;
        check_dtype(KERNEL, "y", self.y.dtype(), self.gate_up.dtype())?;
        check_size(KERNEL, "cols", self.cols, self.cols > 0, "at least 1")?;
        device.run(KERNEL, self, cpu::forward, cuda::forward)
    }
}

impl Backward<'_> {
    /// # Errors
    /// As [`Forward::run`].
    pub fn run(self, device: &Device) -> Result<()> {
        const KERNEL: &str = "gate.backward";
        let n = self.rows.saturating_mul(self.cols);
        check_len(KERNEL, "gate_up", self.gate_up.len(), n.saturating_mul(2))?;
        check_len(KERNEL, "dy", self.dy.len(), n)?;
        check_len(KERNEL, "d_gate_up", self.d_gate_up.len(), n.saturating_mul(2))?;
        check_dtype(KERNEL, "dy", self.dy.dtype(), self.gate_up.dtype())?;
        check_dtype(KERNEL, "d_gate_up", self.d_gate_up.dtype(), self.gate_up.dtype())?;
        check_size(KERNEL, "cols", self.cols, self.cols > 0, "at least 1")?;
        device.run(KERNEL, self, cpu::backward, cuda::backward)
    }
}

#[cfg(test)]
mod tests;
