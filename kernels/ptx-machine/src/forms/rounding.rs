//! Sums and products of f32 that are rounded down, up or towards zero. Functions of CUDA's mathematical library use them to take
//! numbers apart. (If two numbers cancel, their sum is +0 here. On a card, it is -0 if the sum is rounded down.)

use super::float::f;
use super::{Cell, Form, Map2, Map3, Table, map, steps2, steps3};

pub(super) fn add_to(table: &mut Table) {
    map!(table, ["add.rz.f32"], |a: u32, b: u32| -> u32 { towards_zero(sum(f(a).into(), f(b).into())).to_bits() });
    map!(table, ["add.rm.f32"], |a: u32, b: u32| -> u32 { down(sum(f(a).into(), f(b).into())).to_bits() });
    map!(table, ["add.rp.f32"], |a: u32, b: u32| -> u32 { up(sum(f(a).into(), f(b).into())).to_bits() });
    map!(table, ["mul.rz.f32"], |a: u32, b: u32| -> u32 { towards_zero(product(f(a), f(b))).to_bits() });
    map!(table, ["mul.rm.f32"], |a: u32, b: u32| -> u32 { down(product(f(a), f(b))).to_bits() });
    map!(table, ["mul.rp.f32"], |a: u32, b: u32| -> u32 { up(product(f(a), f(b))).to_bits() });
    map!(table, ["fma.rz.f32"], |a: u32, b: u32, c: u32| -> u32 { towards_zero(fused(f(a), f(b), f(c))).to_bits() });
    map!(table, ["fma.rm.f32"], |a: u32, b: u32, c: u32| -> u32 { down(fused(f(a), f(b), f(c))).to_bits() });
    map!(table, ["fma.rp.f32"], |a: u32, b: u32, c: u32| -> u32 { up(fused(f(a), f(b), f(c))).to_bits() });
}

/// A number as the sum of two floats. The second is at most half a unit in the last place of the first.
type Exact = (f64, f64);

/// Returns `a + b` without rounding, by Knuth's two-sum.
#[inline(always)]
fn sum(a: f64, b: f64) -> Exact {
    let value = a + b;
    let of_b = value - a;
    (value, (a - (value - of_b)) + (b - of_b))
}

/// Returns `a · b` without rounding: it has at most 48 bits, which f64 holds.
#[inline(always)]
fn product(a: f32, b: f32) -> Exact {
    (f64::from(a) * f64::from(b), 0.0)
}

/// Returns `a · b + c` without rounding.
#[inline(always)]
fn fused(a: f32, b: f32, c: f32) -> Exact {
    sum(f64::from(a) * f64::from(b), c.into())
}

/// Returns the largest f32 that is not above the number.
#[inline(always)]
fn down((value, rest): Exact) -> f32 {
    let near = value as f32;
    let back = f64::from(near);
    if back > value || (back == value && rest < 0.0) { near.next_down() } else { near }
}

/// Returns the smallest f32 that is not below the number.
#[inline(always)]
fn up((value, rest): Exact) -> f32 {
    -down((-value, -rest))
}

#[inline(always)]
fn towards_zero(exact: Exact) -> f32 {
    if exact.0 < 0.0 { up(exact) } else { down(exact) }
}
