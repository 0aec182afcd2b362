//! Replaces the products on the unit for architectures without a unit; see `crate::cpu::unit`.

use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::device::Packed;
use crate::gemm::{Dw, Dx, Forward, StackDx, StackForward};
use crate::{Device, Precision, Result};

pub(super) fn fitting(_: &Cpu, _: Precision, _: impl IntoIterator<Item = [usize; 2]>) -> Option<Unit> {
    None
}

pub(super) enum Tiled {}

impl Tiled {
    pub(super) fn run(&self, _: &Cpu) {
        match *self {}
    }

    pub(super) fn packed(self, _: &Cpu) -> Packed {
        match self {}
    }
}

pub(super) fn forward(unit: Unit, _: Forward<'_>) -> Tiled {
    match unit {}
}

pub(super) fn dx(unit: Unit, _: Dx<'_>) -> Tiled {
    match unit {}
}

pub(super) fn dw(unit: Unit, _: Dw<'_>) -> Tiled {
    match unit {}
}

pub(super) fn stack_dx(unit: Unit, _: StackDx<'_, '_>) -> Tiled {
    match unit {}
}

pub(super) fn stack_forward(unit: Unit, _: StackForward<'_, '_>, _: &Device, _: &Cpu) -> Result<()> {
    match unit {}
}

pub(super) fn stack_forward_packed(unit: Unit, _: StackForward<'_, '_>, _: &Cpu) -> Packed {
    match unit {}
}
