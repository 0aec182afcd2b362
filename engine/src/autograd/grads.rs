//! Gradients during the backward pass.

use super::value::Input;
use crate::param::{Param, ParamId};
use align_kernels::gemm::Accumulate;
use align_kernels::{Buffer, Device, FloatBuffer, FloatSliceMut, Result, SliceMut, add};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The name of a parameter's gradient in the memory report.
const PARAM_GRADIENT: &str = "adapter.gradient";

/// Gradients of the parameters, summed over all backward passes of an optimiser step.
#[derive(Debug, Default)]
pub struct ParamGrads {
    by_id: BTreeMap<ParamId, Buffer<f32>>,
}

impl ParamGrads {
    /// Makes a gradient of zeros for each of `params`, as if a backward pass had reached them.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn zeros(device: &Device, params: &[Param]) -> Result<ParamGrads> {
        let zeros = |param: &Param| Ok((param.id(), device.zeros(PARAM_GRADIENT, param.len())?));
        Ok(ParamGrads { by_id: params.iter().map(zeros).collect::<Result<_>>()? })
    }

    /// Returns the gradient of a parameter. `None` if no backward pass has reached it.
    pub fn get(&self, id: ParamId) -> Option<&Buffer<f32>> {
        self.by_id.get(&id)
    }

    /// Returns all gradients, each with its parameter.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Buffer<f32>)> {
        self.by_id.iter().map(|(id, buffer)| (*id, buffer))
    }
}

/// Gradients of the values of one tape, and of the parameters that the tape reads.
///
/// If several ops read a value, its gradient is the sum of the gradients that their nodes compute.
pub struct Grads<'a> {
    device: Device,
    by_value: BTreeMap<usize, FloatBuffer>,
    params: &'a mut ParamGrads,
}

impl<'a> Grads<'a> {
    pub(super) fn new(device: Device, params: &'a mut ParamGrads) -> Grads<'a> {
        Grads { device, by_value: BTreeMap::new(), params }
    }

    /// Returns the device that holds the gradients.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds `dx`, `[grad_rows, cols]`, to the gradient of the input. The first `dx` becomes the gradient without a copy.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn give(&mut self, input: Input, dx: impl Into<FloatBuffer>) -> Result<()> {
        let dx = dx.into();
        debug_assert_eq!(dx.dtype(), input.dtype, "a gradient has the format of its value");
        match self.by_value.get_mut(&input.id) {
            Some(sum) => add::Add { len: input.len(), x: dx.view(), y: sum.view_mut() }.run(&self.device),
            None => {
                self.by_value.insert(input.id, dx);
                Ok(())
            }
        }
    }

    /// Returns the gradient of an input, and whether the kernel must set it or add to it.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn slot(&mut self, input: Input) -> Result<(FloatSliceMut<'_>, Accumulate)> {
        Ok(match self.by_value.entry(input.id) {
            Entry::Occupied(entry) => (entry.into_mut().view_mut(), Accumulate::Add),
            Entry::Vacant(entry) => {
                let buffer = self.device.alloc_float("gradient", input.dtype, input.len())?;
                (entry.insert(buffer).view_mut(), Accumulate::Set)
            }
        })
    }

    /// Returns the gradient of an f32 input, for a kernel that always adds. It is zeros if nothing has been added yet.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn sum(&mut self, input: Input) -> Result<SliceMut<'_, f32>> {
        let buffer = match self.by_value.entry(input.id) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.device.zeros::<f32>("gradient", input.len())?.into()),
        };
        Ok(buffer.view_mut().expect_f32())
    }

    /// Returns the gradient of a parameter, and whether the kernel must set it or add to it.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn param(&mut self, param: &Param) -> Result<(SliceMut<'_, f32>, Accumulate)> {
        Ok(match self.params.by_id.entry(param.id()) {
            Entry::Occupied(entry) => (entry.into_mut().view_mut(), Accumulate::Add),
            Entry::Vacant(entry) => {
                let buffer = self.device.alloc(PARAM_GRADIENT, param.len())?;
                (entry.insert(buffer).view_mut(), Accumulate::Set)
            }
        })
    }

    pub(super) fn take(&mut self, id: usize) -> Option<FloatBuffer> {
        self.by_value.remove(&id)
    }

    /// Returns the gradients of the parameters alone, for another tape that runs within the backward pass of this one.
    pub(super) fn params(&mut self) -> &mut ParamGrads {
        self.params
    }
}
