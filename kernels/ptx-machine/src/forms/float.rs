//! Arithmetic of floating-point numbers, rounded to nearest, and the functions that a card approximates. The functions are more
//! exact here than on a card, so no tolerance of a kernel may depend on their last bits. A NaN has the bits that the processor
//! gives it.

use super::{Cell, Form, Map1, Map2, Map3, Table, map, steps1, steps2, steps3};

pub(super) fn add_to(table: &mut Table) {
    single(table);
    double(table);
    approximate(table);
}

fn single(table: &mut Table) {
    map!(table, ["add.f32", "add.rn.f32"], |a: u32, b: u32| -> u32 { (f(a) + f(b)).to_bits() });
    map!(table, ["sub.f32", "sub.rn.f32"], |a: u32, b: u32| -> u32 { (f(a) - f(b)).to_bits() });
    map!(table, ["mul.f32", "mul.rn.f32"], |a: u32, b: u32| -> u32 { (f(a) * f(b)).to_bits() });
    map!(table, ["fma.rn.f32"], |a: u32, b: u32, c: u32| -> u32 { f(a).mul_add(f(b), f(c)).to_bits() });
    map!(table, ["div.rn.f32"], |a: u32, b: u32| -> u32 { (f(a) / f(b)).to_bits() });
    map!(table, ["rcp.rn.f32"], |a: u32| -> u32 { (1.0 / f(a)).to_bits() });
    map!(table, ["sqrt.rn.f32"], |a: u32| -> u32 { f(a).sqrt().to_bits() });
    map!(table, ["min.f32"], |a: u32, b: u32| -> u32 { smaller(a, b) });
    map!(table, ["max.f32"], |a: u32, b: u32| -> u32 { smaller(a ^ 1 << 31, b ^ 1 << 31) ^ 1 << 31 });
    map!(table, ["neg.f32"], |a: u32| -> u32 { a ^ 1 << 31 });
    map!(table, ["abs.f32"], |a: u32| -> u32 { a & !(1 << 31) });
    map!(table, ["copysign.f32"], |a: u32, b: u32| -> u32 { b & !(1 << 31) | a & 1 << 31 });
}

fn double(table: &mut Table) {
    map!(table, ["add.f64", "add.rn.f64"], |a: u64, b: u64| -> u64 { (d(a) + d(b)).to_bits() });
    map!(table, ["sub.f64", "sub.rn.f64"], |a: u64, b: u64| -> u64 { (d(a) - d(b)).to_bits() });
    map!(table, ["mul.f64", "mul.rn.f64"], |a: u64, b: u64| -> u64 { (d(a) * d(b)).to_bits() });
    map!(table, ["fma.rn.f64"], |a: u64, b: u64, c: u64| -> u64 { d(a).mul_add(d(b), d(c)).to_bits() });
    map!(table, ["div.rn.f64"], |a: u64, b: u64| -> u64 { (d(a) / d(b)).to_bits() });
    map!(table, ["sqrt.rn.f64"], |a: u64| -> u64 { d(a).sqrt().to_bits() });
    map!(table, ["neg.f64"], |a: u64| -> u64 { a ^ 1 << 63 });
    map!(table, ["abs.f64"], |a: u64| -> u64 { a & !(1 << 63) });
}

fn approximate(table: &mut Table) {
    map!(table, ["ex2.approx.ftz.f32"], |a: u32| -> u32 { flushed(power_of_two(flushed(f(a)))).to_bits() });
    map!(table, ["ex2.approx.f32"], |a: u32| -> u32 { power_of_two(f(a)).to_bits() });
    map!(table, ["lg2.approx.ftz.f32"], |a: u32| -> u32 { flushed(f(a)).log2().to_bits() });
    map!(table, ["lg2.approx.f32"], |a: u32| -> u32 { f(a).log2().to_bits() });
    map!(table, ["rcp.approx.ftz.f32"], |a: u32| -> u32 { flushed(1.0 / flushed(f(a))).to_bits() });
    map!(table, ["rcp.approx.f32"], |a: u32| -> u32 { (1.0 / f(a)).to_bits() });
    map!(table, ["rsqrt.approx.ftz.f32"], |a: u32| -> u32 { (1.0 / flushed(f(a)).sqrt()).to_bits() });
    map!(table, ["rsqrt.approx.f32"], |a: u32| -> u32 { (1.0 / f(a).sqrt()).to_bits() });
    map!(table, ["sqrt.approx.f32"], |a: u32| -> u32 { f(a).sqrt().to_bits() });
    map!(table, ["tanh.approx.f32"], |a: u32| -> u32 { f(a).tanh().to_bits() });
    map!(table, ["sin.approx.f32"], |a: u32| -> u32 { f(a).sin().to_bits() });
    map!(table, ["cos.approx.f32"], |a: u32| -> u32 { f(a).cos().to_bits() });
}

#[inline(always)]
pub(super) fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

#[inline(always)]
pub(super) fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Returns the smaller of two numbers. -0 is below 0. If one is NaN, returns the other.
#[inline(always)]
fn smaller(a: u32, b: u32) -> u32 {
    // equal numbers have the same bits, unless both are zero: the result is then -0 if one of them is
    let equal = if f(a) == f(b) { a | b } else { b };
    if f(a) < f(b) || f(b).is_nan() { a } else { equal }
}

/// Returns a zero of the same sign if `x` is too small to be normal, otherwise `x`.
#[inline(always)]
fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 1 << 31) } else { x }
}

/// Returns `2^x`, to a relative error of 2e-7. There is no branch, so that the compiler can use SIMD over 32 lanes. A polynomial
/// gives the power of the part in [-1/2, 1/2]. Two factors give the power of the whole part, so that the result can be subnormal.
#[inline(always)]
fn power_of_two(x: f32) -> f32 {
    // ln(2)^n / n! for n from 7 down to 0
    const TERMS: [f32; 8] =
        [1.525_273_4e-5, 1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1, 1.0];
    let clamped = x.clamp(-160.0, 130.0);
    let whole = clamped.round_ties_even();
    let part = clamped - whole;
    let mut value = TERMS[0];
    for term in &TERMS[1..] {
        value = value.mul_add(part, *term);
    }
    let exponent = whole as i32;
    let half = exponent >> 1;
    let scaled = value * exponent_bits(half) * exponent_bits(exponent - half);
    // a NaN stays as it is, whatever the compiler makes of the clamp
    if x.is_nan() { x } else { scaled }
}

/// Returns `2^n`, which must be a normal number.
#[inline(always)]
fn exponent_bits(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}
