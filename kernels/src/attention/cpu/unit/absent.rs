//! For architectures without the unit: a `Unit` cannot exist there, so nothing here is ever called. See `crate::cpu::unit`.

use super::vectors::backward::Known;
use crate::attention::{Geometry, Layout};
use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::{Device, Result};
use half::bf16;

pub(super) fn forward_scratch(_: &Cpu, unit: Unit, _: &Geometry, _: &Layout) -> usize {
    match unit {}
}

pub(super) fn backward_scratch(_: &Cpu, unit: Unit, _: &Geometry, _: &Layout) -> usize {
    match unit {}
}

pub(super) fn forward(
    _: &Device,
    _: &Cpu,
    unit: Unit,
    _: (Geometry, &Layout),
    _: &[bf16],
    _: &mut [bf16],
    _: &mut [f32],
) -> Result<()> {
    match unit {}
}

pub(super) fn backward(
    _: &Device,
    _: &Cpu,
    unit: Unit,
    _: (Geometry, &Layout),
    _: Known<'_, bf16>,
    _: &mut [bf16],
) -> Result<()> {
    match unit {}
}
