//! Stands in for `unit/mod.rs` if the build is not for x86-64: [`Unit`] then has no value, so these functions are never called.

use crate::cpu::Cpu;
use crate::cpu::unit::Unit;
use crate::token_logps::{Backward, Forward, Head};
use crate::{Device, Result};

pub(super) fn forward(_: &Device, _: &Cpu, unit: Unit, _: Forward<'_>) -> Result<()> {
    match unit {}
}

pub(super) fn backward(_: &Cpu, unit: Unit, _: Backward<'_>) -> Result<()> {
    match unit {}
}

pub(super) fn forward_scratch(_: &Cpu, unit: Unit, _: &Head<'_>, _: bool) -> usize {
    match unit {}
}

pub(super) fn backward_scratch(_: &Cpu, unit: Unit, _: &Head<'_>) -> usize {
    match unit {}
}
