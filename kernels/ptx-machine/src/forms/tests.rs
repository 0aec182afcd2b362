//! Runs every form of the table in a whole kernel, and compares the result with a definition in wider numbers.

use super::*;
use crate::{Launch, Memory, Module, Settings};
use std::cell::Cell;
use std::cmp::Ordering;

thread_local! {
    /// Whether modules that this thread loads use the steps for any x86-64.
    pub(super) static PLAIN: Cell<bool> = const { Cell::new(false) };
}

/// Operands of 32 bits: edges of every type, shift counts, counts of bits, floats of all kinds.
const WORDS: [u32; 32] = [
    0, 1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 40, 63, 64, 255, 0x0000_7fff, 0x0000_8000, 0x0000_ffff, 0x0001_0000,
    0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_0000, 0xffff_8000, 0xffff_ffff, 0xffff_fffe, 0x1234_5678,
    0xdead_beef, 0x0102_0304, 0x8080_8080, 0x7654_3210, 0x3f80_0000,
];

const WIDES: [u64; 32] = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    63,
    64,
    65,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0x8000_0000_0000_0001,
    0xffff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_0000_0000,
    0x0123_4567_89ab_cdef,
    0xfedc_ba98_7654_3210,
    0xdead_beef_0000_0001,
    1000,
    1_000_003,
    0xffff_ffff_ffff_fc18,
    12345,
    0x5555_5555_5555_5555,
    0xaaaa_aaaa_aaaa_aaaa,
    0x3ff0_0000_0000_0000,
];

const FLOATS: [f32; 32] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    3.0,
    1e-3,
    -1e-3,
    0.1,
    -0.7,
    10.0,
    -12.5,
    100.0,
    1e10,
    -1e10,
    3e38,
    -3e38,
    1e-38,
    1e-40,
    -1e-42,
    16_777_217.0,
    0.333_333_34,
    -7.25,
    2_147_483_648.0,
    -2_147_483_904.0,
    4_294_967_296.0,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// What a register holds, read as one type or another.
#[derive(Clone, Copy)]
struct Bits(u64);

impl Bits {
    fn s32(self) -> i128 {
        (self.0 as i32).into()
    }
    fn u32(self) -> i128 {
        (self.0 as u32).into()
    }
    fn s16(self) -> i128 {
        (self.0 as i16).into()
    }
    fn u16(self) -> i128 {
        (self.0 as u16).into()
    }
    fn s64(self) -> i128 {
        (self.0 as i64).into()
    }
    fn u64(self) -> i128 {
        self.0.into()
    }
    fn f32(self) -> f64 {
        f32::from_bits(self.0 as u32).into()
    }
    fn single(self) -> f32 {
        f32::from_bits(self.0 as u32)
    }
    fn f64(self) -> f64 {
        f64::from_bits(self.0)
    }
    /// Returns bit `i` of the lower half, or 0 if `i` is outside it.
    fn bit(self, i: i128) -> u64 {
        if (0..32).contains(&i) { self.0 >> i & 1 } else { 0 }
    }
}

/// The result that an instruction must give, with the type in which it is compared.
enum Want {
    Word(i128),
    /// The lower half of a word. The upper half can hold anything.
    Half(i128),
    Wide(i128),
    /// A number that is rounded to f32 before it is compared.
    Single(f64),
    /// A number, and the relative error that is allowed.
    Near(f64, f64),
    Double(f64),
    Holds(bool),
}

type Definition = fn(Bits, Bits, Bits) -> Want;

fn shifted(value: i128, by: i128, right: bool, width: i128) -> i128 {
    let by = by.min(width);
    if right { value >> by } else { value << by }
}

fn quotient(a: i128, b: i128, remainder: bool) -> i128 {
    match (b, remainder) {
        (0, _) => -1,
        (_, false) => a / b,
        (_, true) => a % b,
    }
}

fn definitions() -> Vec<(&'static str, Definition)> {
    use Want::*;
    vec![
        ("add.s32", |a, b, _| Word(a.s32() + b.s32())),
        ("add.u32", |a, b, _| Word(a.u32() + b.u32())),
        ("add.s16", |a, b, _| Half(a.s16() + b.s16())),
        ("add.u16", |a, b, _| Half(a.u16() + b.u16())),
        ("add.s64", |a, b, _| Wide(a.s64() + b.s64())),
        ("add.u64", |a, b, _| Wide(a.u64() + b.u64())),
        ("sub.s32", |a, b, _| Word(a.s32() - b.s32())),
        ("sub.u32", |a, b, _| Word(a.u32() - b.u32())),
        ("sub.s16", |a, b, _| Half(a.s16() - b.s16())),
        ("sub.u16", |a, b, _| Half(a.u16() - b.u16())),
        ("sub.s64", |a, b, _| Wide(a.s64() - b.s64())),
        ("sub.u64", |a, b, _| Wide(a.u64() - b.u64())),
        ("mul.lo.s32", |a, b, _| Word(a.s32() * b.s32())),
        ("mul.lo.u32", |a, b, _| Word(a.u32() * b.u32())),
        ("mul.lo.s16", |a, b, _| Half(a.s16() * b.s16())),
        ("mul.lo.u16", |a, b, _| Half(a.u16() * b.u16())),
        ("mul.lo.s64", |a, b, _| Wide(a.s64() * b.s64())),
        ("mul.lo.u64", |a, b, _| Wide(a.s64() * b.s64())),
        ("mul.hi.s32", |a, b, _| Word((a.s32() * b.s32()) >> 32)),
        ("mul.hi.u32", |a, b, _| Word((a.u32() * b.u32()) >> 32)),
        ("mul.hi.s64", |a, b, _| Wide((a.s64() * b.s64()) >> 64)),
        ("mul.hi.u64", |a, b, _| Wide(((a.0 as u128 * b.0 as u128) >> 64) as i128)),
        ("mul.wide.s32", |a, b, _| Wide(a.s32() * b.s32())),
        ("mul.wide.u32", |a, b, _| Wide(a.u32() * b.u32())),
        ("mul.wide.s16", |a, b, _| Word(a.s16() * b.s16())),
        ("mul.wide.u16", |a, b, _| Word(a.u16() * b.u16())),
        ("mad.lo.s32", |a, b, c| Word(a.s32() * b.s32() + c.s32())),
        ("mad.lo.u32", |a, b, c| Word(a.u32() * b.u32() + c.u32())),
        ("mad.lo.s16", |a, b, c| Half(a.s16() * b.s16() + c.s16())),
        ("mad.lo.u16", |a, b, c| Half(a.u16() * b.u16() + c.u16())),
        ("mad.lo.s64", |a, b, c| Wide(a.s64().wrapping_mul(b.s64()).wrapping_add(c.s64()))),
        ("mad.lo.u64", |a, b, c| Wide(a.s64().wrapping_mul(b.s64()).wrapping_add(c.s64()))),
        ("mad.hi.u32", |a, b, c| Word(((a.u32() * b.u32()) >> 32) + c.u32())),
        ("mad.wide.s32", |a, b, c| Wide(a.s32() * b.s32() + c.s64())),
        ("mad.wide.u32", |a, b, c| Wide(a.u32() * b.u32() + c.u64())),
        ("div.s32", |a, b, _| Word(quotient(a.s32(), b.s32(), false))),
        ("div.u32", |a, b, _| Word(quotient(a.u32(), b.u32(), false))),
        ("div.s64", |a, b, _| Wide(quotient(a.s64(), b.s64(), false))),
        ("div.u64", |a, b, _| Wide(quotient(a.u64(), b.u64(), false))),
        ("rem.s32", |a, b, _| Word(quotient(a.s32(), b.s32(), true))),
        ("rem.u32", |a, b, _| Word(quotient(a.u32(), b.u32(), true))),
        ("rem.s64", |a, b, _| Wide(quotient(a.s64(), b.s64(), true))),
        ("rem.u64", |a, b, _| Wide(quotient(a.u64(), b.u64(), true))),
        ("min.s32", |a, b, _| Word(a.s32().min(b.s32()))),
        ("min.u32", |a, b, _| Word(a.u32().min(b.u32()))),
        ("min.s64", |a, b, _| Wide(a.s64().min(b.s64()))),
        ("min.u64", |a, b, _| Wide(a.u64().min(b.u64()))),
        ("max.s32", |a, b, _| Word(a.s32().max(b.s32()))),
        ("max.u32", |a, b, _| Word(a.u32().max(b.u32()))),
        ("max.s64", |a, b, _| Wide(a.s64().max(b.s64()))),
        ("max.u64", |a, b, _| Wide(a.u64().max(b.u64()))),
        ("abs.s32", |a, _, _| Word(a.s32().abs())),
        ("abs.s64", |a, _, _| Wide(a.s64().abs())),
        ("neg.s32", |a, _, _| Word(-a.s32())),
        ("neg.s16", |a, _, _| Half(-a.s16())),
        ("neg.s64", |a, _, _| Wide(-a.s64())),
        ("mov.u16", |a, _, _| Half(a.u16())),
        ("mov.b16", |a, _, _| Half(a.u16())),
        ("mov.u32", |a, _, _| Word(a.u32())),
        ("mov.s32", |a, _, _| Word(a.u32())),
        ("mov.b32", |a, _, _| Word(a.u32())),
        ("mov.f32", |a, _, _| Word(a.u32())),
        ("mov.u64", |a, _, _| Wide(a.u64())),
        ("mov.s64", |a, _, _| Wide(a.u64())),
        ("mov.b64", |a, _, _| Wide(a.u64())),
        ("mov.f64", |a, _, _| Wide(a.u64())),
        ("cvta.to.global.u64", |a, _, _| Wide(a.u64())),
        ("cvta.to.shared.u64", |a, _, _| Wide(a.u64())),
        ("and.b32", |a, b, _| Word(a.u32() & b.u32())),
        ("and.b16", |a, b, _| Half(a.u16() & b.u16())),
        ("and.b64", |a, b, _| Wide(a.u64() & b.u64())),
        ("or.b32", |a, b, _| Word(a.u32() | b.u32())),
        ("or.b16", |a, b, _| Half(a.u16() | b.u16())),
        ("or.b64", |a, b, _| Wide(a.u64() | b.u64())),
        ("xor.b32", |a, b, _| Word(a.u32() ^ b.u32())),
        ("xor.b16", |a, b, _| Half(a.u16() ^ b.u16())),
        ("xor.b64", |a, b, _| Wide(a.u64() ^ b.u64())),
        ("not.b32", |a, _, _| Word(-1 - a.u32())),
        ("not.b16", |a, _, _| Half(-1 - a.u16())),
        ("not.b64", |a, _, _| Wide(-1 - a.u64())),
        ("shl.b16", |a, b, _| Half(shifted(a.u16(), b.u32(), false, 16))),
        ("shl.b32", |a, b, _| Word(shifted(a.u32(), b.u32(), false, 32))),
        ("shl.b64", |a, b, _| Wide(shifted(a.s64(), b.u32(), false, 64))),
        ("shr.u16", |a, b, _| Half(shifted(a.u16(), b.u32(), true, 16))),
        ("shr.b16", |a, b, _| Half(shifted(a.u16(), b.u32(), true, 16))),
        ("shr.s16", |a, b, _| Half(shifted(a.s16(), b.u32(), true, 16))),
        ("shr.u32", |a, b, _| Word(shifted(a.u32(), b.u32(), true, 32))),
        ("shr.b32", |a, b, _| Word(shifted(a.u32(), b.u32(), true, 32))),
        ("shr.s32", |a, b, _| Word(shifted(a.s32(), b.u32(), true, 32))),
        ("shr.u64", |a, b, _| Wide(shifted(a.u64(), b.u32(), true, 64))),
        ("shr.b64", |a, b, _| Wide(shifted(a.u64(), b.u32(), true, 64))),
        ("shr.s64", |a, b, _| Wide(shifted(a.s64(), b.u32(), true, 64))),
        ("shf.l.wrap.b32", |a, b, c| Word((b.u32() << 32 | a.u32()) << (c.u32() % 32) >> 32)),
        ("shf.r.wrap.b32", |a, b, c| Word((b.u32() << 32 | a.u32()) >> (c.u32() % 32))),
        ("shf.l.clamp.b32", |a, b, c| Word((b.u32() << 32 | a.u32()) << c.u32().min(32) >> 32)),
        ("shf.r.clamp.b32", |a, b, c| Word((b.u32() << 32 | a.u32()) >> c.u32().min(32))),
        ("brev.b32", |a, _, _| Word((0..32).map(|i| i128::from(a.bit(i)) << (31 - i)).sum())),
        ("clz.b32", |a, _, _| Word((0..32).rev().take_while(|i| a.bit(*i) == 0).count() as i128)),
        ("clz.b64", |a, _, _| Word((0..64).rev().take_while(|i| a.0 >> i & 1 == 0).count() as i128)),
        ("popc.b32", |a, _, _| Word((0..32).map(|i| i128::from(a.bit(i))).sum())),
        ("popc.b64", |a, _, _| Word((0..64).map(|i| i128::from(a.0 >> i & 1)).sum())),
        ("bfe.u32", |a, b, c| {
            let (position, length) = (b.u32() % 256, c.u32() % 256);
            Word((0..32).filter(|i| *i < length).map(|i| i128::from(a.bit(position + i)) << i).sum())
        }),
        ("bfe.s32", |a, b, c| {
            let (position, length) = (b.u32() % 256, c.u32() % 256);
            // the bits beyond the number are its sign
            let bit = |i: i128| if i < 32 { a.bit(i) } else { a.bit(31) };
            let last = if length == 0 { 0 } else { i128::from(bit((position + length - 1).min(31))) };
            Word((0..32).map(|i| if i < length { i128::from(bit(position + i)) << i } else { last << i }).sum())
        }),
        ("bfind.u32", |a, _, _| Word((0..32).rev().find(|i| a.bit(*i) == 1).unwrap_or(-1))),
        ("bfind.shiftamt.u32", |a, _, _| Word((0..32).rev().find(|i| a.bit(*i) == 1).map_or(-1, |i| 31 - i))),
        ("bfi.b32", |a, b, c| Word(inserted(a, b, c, 32))),
        ("bfi.b64", |a, b, c| Wide(inserted(a, b, c, 64))),
        ("cvta.local.u64", |a, _, _| Wide(a.u64())),
        ("cvta.to.local.u64", |a, _, _| Wide(a.u64())),
        ("prmt.b32", |a, b, c| {
            let byte = |i: u32| (b.u32() << 32 | a.u32()) >> (8 * i) & 0xff;
            let one = |i: u32| {
                let selector = (c.0 as u32) >> (4 * i) & 15;
                let byte = byte(selector % 8);
                if selector < 8 { byte } else { byte / 128 * 255 }
            };
            Word((0..4).map(|i| one(i) << (8 * i)).sum())
        }),
        ("add.f32", |a, b, _| Single(a.f32() + b.f32())),
        ("add.rn.f32", |a, b, _| Single(a.f32() + b.f32())),
        ("sub.f32", |a, b, _| Single(a.f32() - b.f32())),
        ("sub.rn.f32", |a, b, _| Single(a.f32() - b.f32())),
        ("mul.f32", |a, b, _| Single(a.f32() * b.f32())),
        ("mul.rn.f32", |a, b, _| Single(a.f32() * b.f32())),
        ("fma.rn.f32", |a, b, c| Single(a.single().mul_add(b.single(), c.single()).into())),
        ("div.rn.f32", |a, b, _| Single(a.f32() / b.f32())),
        ("rcp.rn.f32", |a, _, _| Single(1.0 / a.f32())),
        ("sqrt.rn.f32", |a, _, _| Single(a.f32().sqrt())),
        ("min.f32", |a, b, _| Single(of_two(a.f32(), b.f32(), true))),
        ("max.f32", |a, b, _| Single(of_two(a.f32(), b.f32(), false))),
        ("neg.f32", |a, _, _| Single(-a.f32())),
        ("abs.f32", |a, _, _| Single(a.f32().abs())),
        ("copysign.f32", |a, b, _| Single(b.f32().copysign(a.f32()))),
        ("add.f64", |a, b, _| Double(a.f64() + b.f64())),
        ("add.rn.f64", |a, b, _| Double(a.f64() + b.f64())),
        ("sub.f64", |a, b, _| Double(a.f64() - b.f64())),
        ("sub.rn.f64", |a, b, _| Double(a.f64() - b.f64())),
        ("mul.f64", |a, b, _| Double(a.f64() * b.f64())),
        ("mul.rn.f64", |a, b, _| Double(a.f64() * b.f64())),
        ("fma.rn.f64", |a, b, c| Double(a.f64().mul_add(b.f64(), c.f64()))),
        ("div.rn.f64", |a, b, _| Double(a.f64() / b.f64())),
        ("sqrt.rn.f64", |a, _, _| Double(a.f64().sqrt())),
        ("neg.f64", |a, _, _| Double(-a.f64())),
        ("abs.f64", |a, _, _| Double(a.f64().abs())),
        ("ex2.approx.f32", |a, _, _| Near(a.f32().exp2(), 3e-7)),
        ("ex2.approx.ftz.f32", |a, _, _| Near(a.f32().exp2(), 3e-7)),
        ("lg2.approx.f32", |a, _, _| Near(a.f32().log2(), 3e-7)),
        ("lg2.approx.ftz.f32", |a, _, _| {
            Near(if a.f32().abs() < 1.2e-38 { -f64::INFINITY } else { a.f32().log2() }, 3e-7)
        }),
        ("rcp.approx.f32", |a, _, _| Near(1.0 / a.f32(), 3e-7)),
        ("rcp.approx.ftz.f32", |a, _, _| {
            let flushed = |x: f64| if x.abs() < 1.17e-38 { 0f64.copysign(x) } else { x };
            Near(flushed(1.0 / flushed(a.f32())), 3e-7)
        }),
        ("rsqrt.approx.f32", |a, _, _| Near(1.0 / a.f32().sqrt(), 3e-7)),
        ("rsqrt.approx.ftz.f32", |a, _, _| {
            Near(1.0 / if a.f32().abs() < 1.2e-38 { 0f64.copysign(a.f32()) } else { a.f32() }.sqrt(), 3e-7)
        }),
        ("sqrt.approx.f32", |a, _, _| Near(a.f32().sqrt(), 3e-7)),
        ("tanh.approx.f32", |a, _, _| Near(a.f32().tanh(), 3e-7)),
        ("sin.approx.f32", |a, _, _| Near(a.f32().sin(), 3e-7)),
        ("cos.approx.f32", |a, _, _| Near(a.f32().cos(), 3e-7)),
        ("cvt.u64.u32", |a, _, _| Wide(a.u32())),
        ("cvt.s64.s32", |a, _, _| Wide(a.s32())),
        ("cvt.u64.u16", |a, _, _| Wide(a.u16())),
        ("cvt.s64.s16", |a, _, _| Wide(a.s16())),
        ("cvt.u32.u64", |a, _, _| Word(a.u64())),
        ("cvt.s32.s64", |a, _, _| Word(a.s64())),
        ("cvt.u16.u64", |a, _, _| Half(a.u64())),
        ("cvt.u16.u32", |a, _, _| Half(a.u32())),
        ("cvt.s16.s32", |a, _, _| Half(a.s32())),
        ("cvt.u32.u32", |a, _, _| Word(a.u32())),
        ("cvt.s32.s32", |a, _, _| Word(a.s32())),
        ("cvt.u32.u16", |a, _, _| Word(a.u16())),
        ("cvt.s32.u16", |a, _, _| Word(a.u16())),
        ("cvt.s32.s16", |a, _, _| Word(a.s16())),
        ("cvt.u32.u8", |a, _, _| Word(a.u16() % 256)),
        ("cvt.u16.u8", |a, _, _| Half(a.u16() % 256)),
        ("cvt.s32.s8", |a, _, _| Word((a.0 as i8).into())),
        ("cvt.s16.s8", |a, _, _| Half((a.0 as i8).into())),
        ("cvt.rn.f32.s32", |a, _, _| Single(a.s32() as f64)),
        ("cvt.rn.f32.u32", |a, _, _| Single(a.u32() as f64)),
        ("cvt.rn.f32.u16", |a, _, _| Single(a.u16() as f64)),
        ("cvt.rn.f32.s64", |a, _, _| Single(f64::from(a.s64() as f32))),
        ("cvt.rn.f32.u64", |a, _, _| Single(f64::from(a.u64() as f32))),
        ("cvt.rn.f64.s32", |a, _, _| Double(a.s32() as f64)),
        ("cvt.rn.f64.u32", |a, _, _| Double(a.u32() as f64)),
        ("cvt.rn.f64.s64", |a, _, _| Double(a.s64() as f64)),
        ("cvt.rn.f64.u64", |a, _, _| Double(a.u64() as f64)),
        ("cvt.rzi.s32.f32", |a, _, _| Word(saturated(a.f32().trunc(), i32::MIN.into(), i32::MAX.into()))),
        ("cvt.rzi.u32.f32", |a, _, _| Word(saturated(a.f32().trunc(), 0, u32::MAX.into()))),
        ("cvt.rzi.s64.f32", |a, _, _| {
            Wide(if a.f32().is_nan() { 1 << 63 } else { saturated(a.f32().trunc(), i64::MIN.into(), i64::MAX.into()) })
        }),
        ("cvt.rzi.u64.f32", |a, _, _| {
            Wide(if a.f32().is_nan() { 1 << 63 } else { saturated(a.f32().trunc(), 0, u64::MAX.into()) })
        }),
        ("cvt.rni.s32.f32", |a, _, _| Word(saturated(a.f32().round_ties_even(), i32::MIN.into(), i32::MAX.into()))),
        ("cvt.rmi.s32.f32", |a, _, _| Word(saturated(a.f32().floor(), i32::MIN.into(), i32::MAX.into()))),
        ("cvt.rpi.s32.f32", |a, _, _| Word(saturated(a.f32().ceil(), i32::MIN.into(), i32::MAX.into()))),
        ("cvt.rzi.s32.f64", |a, _, _| {
            Word(if a.f64().is_nan() { 1 << 31 } else { saturated(a.f64().trunc(), i32::MIN.into(), i32::MAX.into()) })
        }),
        ("cvt.rzi.s64.f64", |a, _, _| {
            Wide(if a.f64().is_nan() { 1 << 63 } else { saturated(a.f64().trunc(), i64::MIN.into(), i64::MAX.into()) })
        }),
        ("cvt.f64.f32", |a, _, _| Double(a.f32())),
        ("cvt.rn.f32.f64", |a, _, _| Single(f64::from(a.f64() as f32))),
        ("cvt.rni.f32.f32", |a, _, _| Single(a.f32().round_ties_even())),
        ("cvt.rzi.f32.f32", |a, _, _| Single(a.f32().trunc())),
        ("cvt.rmi.f32.f32", |a, _, _| Single(a.f32().floor())),
        ("cvt.rpi.f32.f32", |a, _, _| Single(a.f32().ceil())),
        ("cvt.sat.f32.f32", |a, _, _| Single(if a.f32() > 0.0 { a.f32().min(1.0) } else { 0.0 })),
        ("cvt.f32.f16", |a, _, _| Single(half::f16::from_bits(a.0 as u16).to_f64())),
        ("cvt.rn.f16.f32", |a, _, _| Half(half::f16::from_f64(a.f32()).to_bits().into())),
        ("cvt.f32.bf16", |a, _, _| Single(half::bf16::from_bits(a.0 as u16).to_f64())),
        ("cvt.rn.bf16.f32", |a, _, _| Half(brain(a).into())),
        ("cvt.rn.bf16x2.f32", |a, b, _| Word(i128::from(brain(a)) << 16 | i128::from(brain(b)))),
        ("cvt.rn.f16x2.f32", |a, b, _| {
            let half = |x: Bits| i128::from(half::f16::from_f64(x.f32()).to_bits());
            Word(half(a) << 16 | half(b))
        }),
        ("pack.b32", |a, b, _| Word(b.u16() << 16 | a.u16())),
        ("pack.b64", |a, b, _| Wide(b.u32() << 32 | a.u32())),
        ("unpack.lo.b32", |a, _, _| Word(a.u32() % (1 << 16))),
        ("unpack.hi.b32", |a, _, _| Word(a.u32() >> 16)),
        ("unpack.lo.b64", |a, _, _| Word(a.u64() % (1 << 32))),
        ("unpack.hi.b64", |a, _, _| Word(a.u64() >> 32)),
        ("and.pred", |a, b, _| Holds(a.bit(0) + b.bit(0) == 2)),
        ("or.pred", |a, b, _| Holds(a.bit(0) + b.bit(0) > 0)),
        ("xor.pred", |a, b, _| Holds(a.bit(0) != b.bit(0))),
        ("not.pred", |a, _, _| Holds(a.bit(0) == 0)),
        ("mov.pred", |a, _, _| Holds(a.bit(0) == 1)),
    ]
}

/// Whether `got` is the sum or product, rounded in the direction that the opcode says: the exact result must be `got`, or be
/// between `got` and the next float, above `got` if the opcode rounds down and below `got` if it rounds up.
fn is_rounded(opcode: &str, got: f32, [a, b, c]: [Bits; 3]) -> bool {
    let exact = |x: f32| -> Ordering {
        let sum: Vec<f64> = match opcode.split('.').next() {
            Some("add") => vec![a.f32(), b.f32(), -f64::from(x)],
            Some("mul") => vec![a.f32() * b.f32(), -f64::from(x)],
            _ => vec![a.f32() * b.f32(), c.f32(), -f64::from(x)],
        };
        sign_of_sum(&sum)
    };
    // `exact(x)` compares the true result with x
    let is_down = exact(got) != Ordering::Less && exact(got.next_up()) == Ordering::Less;
    let is_up = exact(got) != Ordering::Greater && exact(got.next_down()) == Ordering::Greater;
    match opcode.split('.').nth(1) {
        Some("rm") => is_down,
        Some("rp") => is_up,
        _ if exact(0.0) == Ordering::Less => is_up,
        _ => is_down,
    }
}

/// Returns the sign of a sum, without any rounding: the sum is a whole number of units of 2^-400, held as 40 digits of 24 bits.
fn sign_of_sum(terms: &[f64]) -> Ordering {
    let mut sum = [0i64; 40];
    for term in terms {
        let (bits, exponent) = (term.to_bits(), (term.to_bits() >> 52 & 0x7ff) as i32);
        if *term == 0.0 {
            continue;
        }
        let mantissa = bits & ((1 << 52) - 1) | u64::from(exponent > 0) << 52;
        let at = (exponent.max(1) - 1075 + 400) as usize;
        for bit in 0..53 {
            let place = at + bit;
            let digit = ((mantissa >> bit & 1) as i64) << (place % 24);
            sum[place / 24] += if *term < 0.0 { -digit } else { digit };
        }
    }
    for i in 0..39 {
        let carry = sum[i] >> 24;
        sum[i] -= carry << 24;
        sum[i + 1] += carry;
    }
    match sum[39] {
        0 if sum.iter().all(|digit| *digit == 0) => Ordering::Equal,
        x if x < 0 => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// Returns the result that a comparison has according to the PTX manual.
fn holds(comparison: &str, kind: &str, a: Bits, b: Bits) -> bool {
    let order = match kind {
        "s16" => a.s16().partial_cmp(&b.s16()),
        "u16" | "b16" => a.u16().partial_cmp(&b.u16()),
        "s32" => a.s32().partial_cmp(&b.s32()),
        "u32" | "b32" => a.u32().partial_cmp(&b.u32()),
        "s64" => a.s64().partial_cmp(&b.s64()),
        "u64" | "b64" => a.u64().partial_cmp(&b.u64()),
        "f32" => a.f32().partial_cmp(&b.f32()),
        _ => a.f64().partial_cmp(&b.f64()),
    };
    match (comparison, order) {
        ("num", order) => order.is_some(),
        ("nan", order) => order.is_none(),
        ("equ" | "neu" | "ltu" | "leu" | "gtu" | "geu", None) => true,
        (_, None) => false,
        ("eq" | "equ", Some(order)) => order.is_eq(),
        ("ne" | "neu", Some(order)) => order.is_ne(),
        ("lt" | "lo" | "ltu", Some(order)) => order.is_lt(),
        ("le" | "ls" | "leu", Some(order)) => order.is_le(),
        ("gt" | "hi" | "gtu", Some(order)) => order.is_gt(),
        (_, Some(order)) => order.is_ge(),
    }
}

/// Returns the text of a kernel that runs one instruction on operands from memory. Each thread reads three numbers of 64 bits and
/// writes two results of 64 bits.
fn text_of(opcode: &str, form: &Form) -> String {
    let register = |class: &Class, i: usize| match class {
        Class::Predicate => format!("%p{i}"),
        Class::Word => format!("%r{i}"),
        Class::Wide => format!("%rd{i}"),
    };
    let is_comparison = opcode.starts_with("setp");
    // a fourth source is the third one without its lowest byte
    let source = |(i, class)| if i == 3 { "%r5".to_owned() } else { register(class, i + 1) };
    let sources: Vec<String> = form.sources.iter().enumerate().map(source).collect();
    let results: Vec<String> = form.results.iter().enumerate().map(|(i, class)| register(class, i + 6)).collect();
    let halves = |at: &[String]| format!("{{{}, {}}}", at[0], at[1]);
    let instruction = match opcode.split('.').collect::<Vec<_>>().as_slice() {
        ["setp", ..] => format!("{opcode} {}|{}, {}, {}", results[0], results[1], sources[0], sources[1]),
        ["pack", kind] => format!("mov.{kind} {}, {}", results[0], halves(&sources)),
        ["unpack", "lo", kind] => {
            format!("mov.{kind} {}, {}", halves(&[results[0].clone(), "_".to_owned()]), sources[0])
        }
        ["unpack", "hi", kind] => {
            format!("mov.{kind} {}, {}", halves(&["_".to_owned(), results[0].clone()]), sources[0])
        }
        _ => format!("{opcode} {}, {}", results[0], sources.join(", ")),
    };
    let keep = |i: usize, class: &Class| match class {
        Class::Predicate => format!("selp.b64 %rd{i}, 1, 0, %p{i};"),
        Class::Word => format!("cvt.u64.u32 %rd{i}, %r{i};"),
        Class::Wide => String::new(),
    };
    let kept: String = form.results.iter().enumerate().map(|(i, class)| keep(i + 6, class)).collect();
    let second = if is_comparison { "%rd7" } else { "0" };
    format!(
        ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 from, .param .u64 to)
{{
 .reg .pred %p<8>; .reg .b32 %r<16>; .reg .b64 %rd<16>;
 ld.param.u64 %rd8, [from]; ld.param.u64 %rd9, [to];
 mov.u32 %r8, %tid.x;
 mul.wide.u32 %rd10, %r8, 24; add.s64 %rd8, %rd8, %rd10;
 ld.global.u64 %rd1, [%rd8]; ld.global.u64 %rd2, [%rd8+8]; ld.global.u64 %rd3, [%rd8+16];
 cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3; shr.u32 %r5, %r3, 8;
 and.b32 %r4, %r1, 1; setp.eq.s32 %p1, %r4, 1;
 and.b32 %r4, %r2, 1; setp.eq.s32 %p2, %r4, 1;
 and.b32 %r4, %r3, 1; setp.eq.s32 %p3, %r4, 1;
 {instruction};
 {kept}
 mul.wide.u32 %rd10, %r8, 16; add.s64 %rd9, %rd9, %rd10;
 st.global.u64 [%rd9], %rd6; st.global.u64 [%rd9+8], {second};
 ret;
}}"
    )
}

/// Returns the operands of an instruction for 64 threads: numbers of the type that it reads.
fn operands(opcode: &str, form: &Form) -> Vec<[Bits; 3]> {
    let kind = opcode.rsplit('.').next().unwrap_or_default();
    let value = |class: &Class, i: usize| match (kind, class) {
        ("f32", Class::Word) => u64::from(FLOATS[i % 32].to_bits()),
        ("f64", Class::Wide) => f64::from(FLOATS[i % 32]).to_bits(),
        (_, Class::Wide) => WIDES[i % 32],
        _ => u64::from(WORDS[i % 32]),
    };
    (0..64)
        .map(|i| {
            // in the first 32 threads the operands are different entries of the list, in the others sometimes the same one
            let at = if i < 32 { [i, 7 * i + 3, 11 * i + 5] } else { [i, i + i % 3, 5 * i] };
            std::array::from_fn(|operand| {
                form.sources.get(operand).map_or(Bits(0), |class| Bits(value(class, at[operand])))
            })
        })
        .collect()
}

/// Runs the kernel that [`text_of`] writes, in 64 threads. Returns the two results of each thread.
fn run(opcode: &str, form: &Form, operands: &[[Bits; 3]]) -> Vec<[u64; 2]> {
    let memory = Memory::new(1 << 20);
    let module = Module::load(&text_of(opcode, form), &memory).unwrap_or_else(|error| panic!("{opcode}: {error}"));
    let bytes: Vec<u8> = operands.iter().flatten().flat_map(|bits| bits.0.to_le_bytes()).collect();
    let (from, to) = (memory.allocate(bytes.len() as u64).unwrap(), memory.allocate(64 * 16).unwrap());
    memory.write(from, &bytes).unwrap();
    let parameters: Vec<u8> = [from, to].iter().flat_map(|address| address.to_le_bytes()).collect();
    let launch = Launch { grid: [1; 3], block: [64, 1, 1], dynamic_shared: 0, parameters: &parameters };
    let outcome = module.kernels()[0].launch(&memory, &launch, &Settings::checked()).unwrap();
    assert_eq!(outcome.reports, [], "{opcode}");
    let mut results = vec![0; 64 * 16];
    memory.read(to, &mut results).unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    results.chunks(16).map(|pair| [number(&pair[..8]), number(&pair[8..])]).collect()
}

/// Returns what is wrong with a result. `None` if it is right.
fn fault(want: Want, got: u64) -> Option<String> {
    let single = f32::from_bits(got as u32);
    let (is_right, want) = match want {
        Want::Word(x) => (got as u32 == x as u32, format!("{:#x}", x as u32)),
        Want::Half(x) => (got as u16 == x as u16, format!("{:#x}", x as u16)),
        Want::Wide(x) => (got == x as u64, format!("{:#x}", x as u64)),
        Want::Single(x) => {
            let x = x as f32;
            (single.to_bits() == x.to_bits() || single.is_nan() && x.is_nan(), format!("{x:e}"))
        }
        Want::Near(x, part) => {
            let is_near = (f64::from(single) - x).abs() <= part * x.abs().max(f64::from(f32::MIN_POSITIVE));
            let is_same = f64::from(single) == f64::from(x as f32) || single.is_nan() && x.is_nan();
            (is_near || is_same, format!("{x:e}"))
        }
        Want::Double(x) => (got == x.to_bits() || f64::from_bits(got).is_nan() && x.is_nan(), format!("{x:e}")),
        Want::Holds(x) => (got == u64::from(x), x.to_string()),
    };
    (!is_right).then(|| format!("{got:#x} ({single:e}) instead of {want}"))
}

#[test]
fn every_form_is_what_the_manual_says() {
    let definitions: HashMap<&str, Definition> = definitions().into_iter().collect();
    let mut faults = Vec::new();
    for (opcode, form) in &table().forms {
        let operands = operands(opcode, form);
        let results = run(opcode, form, &operands);
        let parts: Vec<&str> = opcode.split('.').collect();
        for (i, ([a, b, c], [got, second])) in operands.iter().zip(&results).enumerate() {
            let found = match parts.as_slice() {
                ["setp", comparison, kind] => {
                    let want = holds(comparison, kind, *a, *b);
                    fault(Want::Holds(want), *got).or(fault(Want::Holds(!want), *second))
                }
                ["selp", ..] => fault(if c.bit(0) == 1 { Want::Wide(a.u64()) } else { Want::Wide(b.u64()) }, *got),
                ["add" | "mul" | "fma", "rz" | "rm" | "rp", _] => {
                    // the check needs finite neighbours, and products of numbers below 1e19 are finite
                    let is_finite = [a, b, c].iter().all(|x| x.f32().abs() < 1e19);
                    let got = f32::from_bits(*got as u32);
                    (is_finite && !is_rounded(opcode, got, [*a, *b, *c])).then(|| format!("{got:e} is rounded wrongly"))
                }
                _ => match definitions.get(opcode.as_str()) {
                    Some(definition) => fault(definition(*a, *b, *c), *got),
                    None => Some("has no definition in this test".to_owned()),
                },
            };
            if let Some(found) = found {
                faults.push(format!("{opcode} of {:#x}, {:#x}, {:#x} (thread {i}): {found}", a.0, b.0, c.0));
                break;
            }
        }
    }
    faults.sort();
    assert!(faults.is_empty(), "{} of {} forms:\n{}", faults.len(), table().forms.len(), faults.join("\n"));
}

/// Both compiled versions of a form give the same bits, except those of NaN.
#[test]
fn both_versions_agree() {
    for (opcode, form) in &table().forms {
        let operands = operands(opcode, form);
        let chosen = run(opcode, form, &operands);
        PLAIN.set(true);
        let plain = run(opcode, form, &operands);
        PLAIN.set(false);
        // the bits of a NaN are up to the compiler
        let is_nan = |x: u64| f32::from_bits(x as u32).is_nan() || f64::from_bits(x).is_nan();
        let same = |(a, b): (&[u64; 2], &[u64; 2])| a == b || is_nan(a[0]) && is_nan(b[0]);
        assert!(chosen.iter().zip(&plain).all(same), "{opcode}: {chosen:x?}\n{plain:x?}");
    }
}

/// Returns `target` with `field` put into it. The lowest byte of `c` is the position, the next one the length.
fn inserted(field: Bits, target: Bits, c: Bits, width: i128) -> i128 {
    let (position, length) = (c.u32() % 256, c.u32() / 256 % 256);
    let bit = |i: i128| match i - position {
        at if (0..length).contains(&at) => field.0 >> at & 1,
        _ => target.0 >> i & 1,
    };
    (0..width).map(|i| i128::from(bit(i)) << i).sum()
}

/// Returns the smaller or the larger of two numbers. -0 is below 0. If one is NaN, returns the other.
fn of_two(a: f64, b: f64, smaller: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if (a.total_cmp(&b) == Ordering::Less) == smaller => a,
        _ => b,
    }
}

fn saturated(x: f64, least: i128, most: i128) -> i128 {
    if x.is_nan() { 0 } else { (x as i128).clamp(least, most) }
}

/// Rounds to bf16, to nearest, ties to even, by adding to the bits.
fn brain(a: Bits) -> u16 {
    let bits = a.0 as u32;
    if f32::from_bits(bits).is_nan() { 0x7fff } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}
