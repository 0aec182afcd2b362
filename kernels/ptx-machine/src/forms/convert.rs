//! Conversions. A conversion of a float to a whole number saturates, as Rust's `as` does. NaN becomes 0, but if either type has 64
//! bits, NaN becomes the number with only its highest bit set.

use super::float::{d, f};
use super::{Cell, Form, Map1, Map2, Table, map, steps1, steps2};
use half::{bf16, f16};

pub(super) fn add_to(table: &mut Table) {
    whole_numbers(table);
    to_float(table);
    from_float(table);
    between_floats(table);
}

fn whole_numbers(table: &mut Table) {
    map!(table, ["cvt.u64.u32"], |a: u32| -> u64 { u64::from(a) });
    map!(table, ["cvt.s64.s32"], |a: u32| -> u64 { i64::from(a as i32) as u64 });
    map!(table, ["cvt.u64.u16"], |a: u32| -> u64 { u64::from(a as u16) });
    map!(table, ["cvt.s64.s16"], |a: u32| -> u64 { i64::from(a as i16) as u64 });
    map!(table, ["cvt.u32.u64", "cvt.s32.s64", "cvt.u16.u64"], |a: u64| -> u32 { a as u32 });
    map!(table, ["cvt.u16.u32", "cvt.s16.s32", "cvt.u32.u32", "cvt.s32.s32"], |a: u32| -> u32 { a });
    map!(table, ["cvt.u32.u16", "cvt.s32.u16"], |a: u32| -> u32 { u32::from(a as u16) });
    map!(table, ["cvt.s32.s16"], |a: u32| -> u32 { i32::from(a as i16) as u32 });
    map!(table, ["cvt.u32.u8", "cvt.u16.u8"], |a: u32| -> u32 { u32::from(a as u8) });
    map!(table, ["cvt.s32.s8", "cvt.s16.s8"], |a: u32| -> u32 { i32::from(a as i8) as u32 });
}

fn to_float(table: &mut Table) {
    map!(table, ["cvt.rn.f32.s32"], |a: u32| -> u32 { (a as i32 as f32).to_bits() });
    map!(table, ["cvt.rn.f32.u32"], |a: u32| -> u32 { (a as f32).to_bits() });
    map!(table, ["cvt.rn.f32.u16"], |a: u32| -> u32 { f32::from(a as u16).to_bits() });
    map!(table, ["cvt.rn.f32.s64"], |a: u64| -> u32 { (a as i64 as f32).to_bits() });
    map!(table, ["cvt.rn.f32.u64"], |a: u64| -> u32 { (a as f32).to_bits() });
    map!(table, ["cvt.rn.f64.s32"], |a: u32| -> u64 { f64::from(a as i32).to_bits() });
    map!(table, ["cvt.rn.f64.u32"], |a: u32| -> u64 { f64::from(a).to_bits() });
    map!(table, ["cvt.rn.f64.s64"], |a: u64| -> u64 { (a as i64 as f64).to_bits() });
    map!(table, ["cvt.rn.f64.u64"], |a: u64| -> u64 { (a as f64).to_bits() });
}

fn from_float(table: &mut Table) {
    map!(table, ["cvt.rzi.s32.f32"], |a: u32| -> u32 { f(a) as i32 as u32 });
    map!(table, ["cvt.rzi.u32.f32"], |a: u32| -> u32 { f(a) as u32 });
    map!(table, ["cvt.rzi.s64.f32"], |a: u32| -> u64 { if f(a).is_nan() { 1 << 63 } else { f(a) as i64 as u64 } });
    map!(table, ["cvt.rzi.u64.f32"], |a: u32| -> u64 { if f(a).is_nan() { 1 << 63 } else { f(a) as u64 } });
    map!(table, ["cvt.rni.s32.f32"], |a: u32| -> u32 { f(a).round_ties_even() as i32 as u32 });
    map!(table, ["cvt.rmi.s32.f32"], |a: u32| -> u32 { f(a).floor() as i32 as u32 });
    map!(table, ["cvt.rpi.s32.f32"], |a: u32| -> u32 { f(a).ceil() as i32 as u32 });
    map!(table, ["cvt.rzi.s32.f64"], |a: u64| -> u32 { if d(a).is_nan() { 1 << 31 } else { d(a) as i32 as u32 } });
    map!(table, ["cvt.rzi.s64.f64"], |a: u64| -> u64 { if d(a).is_nan() { 1 << 63 } else { d(a) as i64 as u64 } });
}

fn between_floats(table: &mut Table) {
    map!(table, ["cvt.f64.f32"], |a: u32| -> u64 { f64::from(f(a)).to_bits() });
    map!(table, ["cvt.rn.f32.f64"], |a: u64| -> u32 { (d(a) as f32).to_bits() });
    map!(table, ["cvt.rni.f32.f32"], |a: u32| -> u32 { f(a).round_ties_even().to_bits() });
    map!(table, ["cvt.rzi.f32.f32"], |a: u32| -> u32 { f(a).trunc().to_bits() });
    map!(table, ["cvt.rmi.f32.f32"], |a: u32| -> u32 { f(a).floor().to_bits() });
    map!(table, ["cvt.rpi.f32.f32"], |a: u32| -> u32 { f(a).ceil().to_bits() });
    map!(table, ["cvt.sat.f32.f32"], |a: u32| -> u32 { saturated(f(a)).to_bits() });
    map!(table, ["cvt.f32.f16"], |a: u32| -> u32 { f16::from_bits(a as u16).to_f32().to_bits() });
    map!(table, ["cvt.rn.f16.f32"], |a: u32| -> u32 { u32::from(f16::from_f32(f(a)).to_bits()) });
    map!(table, ["cvt.f32.bf16"], |a: u32| -> u32 { a << 16 });
    map!(table, ["cvt.rn.bf16.f32"], |a: u32| -> u32 { rounded_bf16(a) });
    // the first operand becomes the upper half
    map!(table, ["cvt.rn.bf16x2.f32"], |a: u32, b: u32| -> u32 { rounded_bf16(a) << 16 | rounded_bf16(b) });
    map!(table, ["cvt.rn.f16x2.f32"], |a: u32, b: u32| -> u32 {
        u32::from(f16::from_f32(f(a)).to_bits()) << 16 | u32::from(f16::from_f32(f(b)).to_bits())
    });
}

/// Limits a number to 0..=1. Returns 0 for NaN.
#[inline(always)]
fn saturated(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// Rounds to bf16, to nearest, ties to even. Every NaN becomes the one NaN that a card writes.
#[inline(always)]
fn rounded_bf16(a: u32) -> u32 {
    if f(a).is_nan() { 0x7fff } else { u32::from(bf16::from_f32(f(a)).to_bits()) }
}
