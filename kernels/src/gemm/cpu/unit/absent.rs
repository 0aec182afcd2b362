//! There is no unit: see `crate::cpu::unit`.

use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::gemm::{Dw, Dx, Forward, StackDx, StackForward};
use crate::{Device, Precision, Result};

pub(super) fn fitting(_: &Cpu, _: Precision, _: impl IntoIterator<Item = [usize; 2]>) -> Option<Unit> {
    None
}

pub(super) fn forward(unit: Unit, _: Forward<'_>, _: &Cpu) {
    match unit {}
}

pub(super) fn dx(unit: Unit, _: Dx<'_>, _: &Cpu) {
    match unit {}
}

pub(super) fn dw(unit: Unit, _: Dw<'_>, _: &Cpu) {
    match unit {}
}

pub(super) fn stack_forward(unit: Unit, _: StackForward<'_, '_>, _: &Device, _: &Cpu) -> Result<()> {
    match unit {}
}

pub(super) fn stack_dx(unit: Unit, _: StackDx<'_, '_>, _: &Cpu) {
    match unit {}
}

pub(super) fn packed_bytes(unit: Unit, _: usize, _: Precision, _: [usize; 3]) -> usize {
    match unit {}
}
