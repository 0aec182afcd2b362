//! Arithmetic of whole numbers. A 16-bit value is in a word whose upper half can hold anything.

use super::{Cell, Form, Map1, Map2, Map3, Table, map, steps1, steps2, steps3};

pub(super) fn add_to(table: &mut Table) {
    sums(table);
    products(table);
    quotients(table);
    map!(table, ["min.s32"], |a: u32, b: u32| -> u32 { (a as i32).min(b as i32) as u32 });
    map!(table, ["min.u32"], |a: u32, b: u32| -> u32 { a.min(b) });
    map!(table, ["min.s64"], |a: u64, b: u64| -> u64 { (a as i64).min(b as i64) as u64 });
    map!(table, ["min.u64"], |a: u64, b: u64| -> u64 { a.min(b) });
    map!(table, ["max.s32"], |a: u32, b: u32| -> u32 { (a as i32).max(b as i32) as u32 });
    map!(table, ["max.u32"], |a: u32, b: u32| -> u32 { a.max(b) });
    map!(table, ["max.s64"], |a: u64, b: u64| -> u64 { (a as i64).max(b as i64) as u64 });
    map!(table, ["max.u64"], |a: u64, b: u64| -> u64 { a.max(b) });
    map!(table, ["abs.s32"], |a: u32| -> u32 { (a as i32).wrapping_abs() as u32 });
    map!(table, ["abs.s64"], |a: u64| -> u64 { (a as i64).wrapping_abs() as u64 });
    map!(table, ["neg.s32", "neg.s16"], |a: u32| -> u32 { a.wrapping_neg() });
    map!(table, ["neg.s64"], |a: u64| -> u64 { a.wrapping_neg() });
}

fn sums(table: &mut Table) {
    map!(table, ["add.s32", "add.u32", "add.s16", "add.u16"], |a: u32, b: u32| -> u32 { a.wrapping_add(b) });
    map!(table, ["add.s64", "add.u64"], |a: u64, b: u64| -> u64 { a.wrapping_add(b) });
    map!(table, ["sub.s32", "sub.u32", "sub.s16", "sub.u16"], |a: u32, b: u32| -> u32 { a.wrapping_sub(b) });
    map!(table, ["sub.s64", "sub.u64"], |a: u64, b: u64| -> u64 { a.wrapping_sub(b) });
}

fn products(table: &mut Table) {
    map!(table, ["mul.lo.s32", "mul.lo.u32", "mul.lo.s16", "mul.lo.u16"], |a: u32, b: u32| -> u32 {
        a.wrapping_mul(b)
    });
    map!(table, ["mul.lo.s64", "mul.lo.u64"], |a: u64, b: u64| -> u64 { a.wrapping_mul(b) });
    map!(table, ["mul.hi.u32"], |a: u32, b: u32| -> u32 { ((u64::from(a) * u64::from(b)) >> 32) as u32 });
    map!(table, ["mul.hi.s32"], |a: u32, b: u32| -> u32 { (signed(a).wrapping_mul(signed(b)) >> 32) as u32 });
    map!(table, ["mul.hi.u64"], |a: u64, b: u64| -> u64 { ((u128::from(a) * u128::from(b)) >> 64) as u64 });
    map!(table, ["mul.hi.s64"], |a: u64, b: u64| -> u64 {
        (i128::from(a as i64).wrapping_mul(i128::from(b as i64)) >> 64) as u64
    });
    map!(table, ["mul.wide.u32"], |a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) });
    map!(table, ["mul.wide.s32"], |a: u32, b: u32| -> u64 { signed(a).wrapping_mul(signed(b)) as u64 });
    map!(table, ["mul.wide.u16"], |a: u32, b: u32| -> u32 { (a & 0xffff).wrapping_mul(b & 0xffff) });
    map!(table, ["mul.wide.s16"], |a: u32, b: u32| -> u32 { short(a).wrapping_mul(short(b)) as u32 });
    map!(table, ["mad.lo.s32", "mad.lo.u32", "mad.lo.s16", "mad.lo.u16"], |a: u32, b: u32, c: u32| -> u32 {
        a.wrapping_mul(b).wrapping_add(c)
    });
    map!(table, ["mad.lo.s64", "mad.lo.u64"], |a: u64, b: u64, c: u64| -> u64 { a.wrapping_mul(b).wrapping_add(c) });
    map!(table, ["mad.hi.u32"], |a: u32, b: u32, c: u32| -> u32 {
        (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
    });
    map!(table, ["mad.wide.u32"], |a: u32, b: u32, c: u64| -> u64 { (u64::from(a) * u64::from(b)).wrapping_add(c) });
    map!(table, ["mad.wide.s32"], |a: u32, b: u32, c: u64| -> u64 {
        (signed(a).wrapping_mul(signed(b)) as u64).wrapping_add(c)
    });
}

/// Adds quotients and remainders. PTX does not define division by zero. Here the result is all ones, which stands out.
fn quotients(table: &mut Table) {
    map!(table, ["div.u32"], |a: u32, b: u32| -> u32 { a.checked_div(b).unwrap_or(u32::MAX) });
    map!(table, ["div.s32"], |a: u32, b: u32| -> u32 {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
    });
    map!(table, ["div.u64"], |a: u64, b: u64| -> u64 { a.checked_div(b).unwrap_or(u64::MAX) });
    map!(table, ["div.s64"], |a: u64, b: u64| -> u64 {
        if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
    });
    map!(table, ["rem.u32"], |a: u32, b: u32| -> u32 { a.checked_rem(b).unwrap_or(u32::MAX) });
    map!(table, ["rem.s32"], |a: u32, b: u32| -> u32 {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_rem(b as i32) as u32 }
    });
    map!(table, ["rem.u64"], |a: u64, b: u64| -> u64 { a.checked_rem(b).unwrap_or(u64::MAX) });
    map!(table, ["rem.s64"], |a: u64, b: u64| -> u64 {
        if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 }
    });
}

#[inline(always)]
fn signed(a: u32) -> i64 {
    i64::from(a as i32)
}

#[inline(always)]
fn short(a: u32) -> i32 {
    i32::from(a as i16)
}
