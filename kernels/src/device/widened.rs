//! Operands in f32: for kernels that compute in f32 on operands of f32 or bf16.

use crate::cpu::Cpu;
use crate::{Buffer, Device, FloatSlice, FloatSliceMut, Result};
use std::ops::Deref;

/// The f32 values of an operand: its own, or a widened copy.
pub(crate) enum Widened<'a> {
    Own(&'a [f32]),
    Copy(Buffer<f32>),
}

impl Deref for Widened<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Widened::Own(values) => values,
            Widened::Copy(values) => values.view().cpu(),
        }
    }
}

impl Cpu {
    /// Returns an operand in f32: the operand itself, or a widened copy if it is bf16.
    pub(crate) fn widened<'a>(&self, device: &Device, values: FloatSlice<'a>) -> Result<Widened<'a>> {
        match values {
            FloatSlice::F32(values) => Ok(Widened::Own(values.cpu())),
            FloatSlice::Bf16(values) => {
                let mut copy = device.alloc("widened", values.len())?;
                self.convert(values.cpu(), copy.view_mut().cpu());
                Ok(Widened::Copy(copy))
            }
        }
    }

    /// Runs `work` on an output in f32: the output itself, or, if it is bf16, a buffer that is rounded into the output afterwards.
    /// Set `keeps` if `work` adds to the output: the buffer then starts as a copy of the output.
    pub(crate) fn in_f32<R>(
        &self,
        device: &Device,
        output: FloatSliceMut<'_>,
        keeps: bool,
        work: impl FnOnce(&mut [f32]) -> Result<R>,
    ) -> Result<R> {
        match output {
            FloatSliceMut::F32(output) => work(output.cpu()),
            FloatSliceMut::Bf16(output) => {
                let output = output.cpu();
                let mut wide = device.alloc::<f32>("widened", output.len())?;
                let values = wide.view_mut().cpu();
                if keeps {
                    self.convert(output, values);
                }
                let result = work(values)?;
                self.convert(values, output);
                Ok(result)
            }
        }
    }
}
