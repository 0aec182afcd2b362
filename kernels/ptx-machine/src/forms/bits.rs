//! Instructions on bits: logic, shifts, fields, permutations, moves. In PTX, a `shl` or `shr` by the width or more results in 0, or
//! in copies of the sign bit if the type is signed.

use super::{Cell, Core, Form, LANES, Map1, Map2, Map3, Op, Steps, Table, compiled, map, steps1, steps2, steps3};
use crate::parse::Class;

pub(super) fn add_to(table: &mut Table) {
    moves(table);
    logic(table);
    shifts(table);
    fields(table);
    predicates(table);
}

fn moves(table: &mut Table) {
    map!(table, ["mov.u16", "mov.b16", "mov.u32", "mov.s32", "mov.b32", "mov.f32"], |a: u32| -> u32 { a });
    // each kind of memory has its own addresses, and no access uses generic ones, so these conversions only copy
    map!(
        table,
        [
            "mov.u64", "mov.s64", "mov.b64", "mov.f64", "cvta.to.global.u64", "cvta.to.shared.u64", "cvta.local.u64",
            "cvta.to.local.u64"
        ],
        |a: u64| -> u64 { a }
    );
    // two halves, written `{%r1, %r2}`
    map!(table, ["pack.b32"], |a: u32, b: u32| -> u32 { a & 0xffff | b << 16 });
    map!(table, ["pack.b64"], |a: u32, b: u32| -> u64 { u64::from(a) | u64::from(b) << 32 });
    map!(table, ["unpack.lo.b32"], |a: u32| -> u32 { a & 0xffff });
    map!(table, ["unpack.hi.b32"], |a: u32| -> u32 { a >> 16 });
    map!(table, ["unpack.lo.b64"], |a: u64| -> u32 { a as u32 });
    map!(table, ["unpack.hi.b64"], |a: u64| -> u32 { (a >> 32) as u32 });
}

fn logic(table: &mut Table) {
    map!(table, ["and.b32", "and.b16"], |a: u32, b: u32| -> u32 { a & b });
    map!(table, ["and.b64"], |a: u64, b: u64| -> u64 { a & b });
    map!(table, ["or.b32", "or.b16"], |a: u32, b: u32| -> u32 { a | b });
    map!(table, ["or.b64"], |a: u64, b: u64| -> u64 { a | b });
    map!(table, ["xor.b32", "xor.b16"], |a: u32, b: u32| -> u32 { a ^ b });
    map!(table, ["xor.b64"], |a: u64, b: u64| -> u64 { a ^ b });
    map!(table, ["not.b32", "not.b16"], |a: u32| -> u32 { !a });
    map!(table, ["not.b64"], |a: u64| -> u64 { !a });
}

fn shifts(table: &mut Table) {
    map!(table, ["shl.b16"], |a: u32, b: u32| -> u32 { if b < 16 { a << (b & 31) } else { 0 } });
    map!(table, ["shl.b32"], |a: u32, b: u32| -> u32 { if b < 32 { a << (b & 31) } else { 0 } });
    map!(table, ["shl.b64"], |a: u64, b: u32| -> u64 { if b < 64 { a << (b & 63) } else { 0 } });
    map!(table, ["shr.u16", "shr.b16"], |a: u32, b: u32| -> u32 { if b < 16 { (a & 0xffff) >> (b & 31) } else { 0 } });
    map!(table, ["shr.u32", "shr.b32"], |a: u32, b: u32| -> u32 { if b < 32 { a >> (b & 31) } else { 0 } });
    map!(table, ["shr.u64", "shr.b64"], |a: u64, b: u32| -> u64 { if b < 64 { a >> (b & 63) } else { 0 } });
    map!(table, ["shr.s16"], |a: u32, b: u32| -> u32 { (i32::from(a as i16) >> b.min(15)) as u32 });
    map!(table, ["shr.s32"], |a: u32, b: u32| -> u32 { (a as i32 >> b.min(31)) as u32 });
    map!(table, ["shr.s64"], |a: u64, b: u32| -> u64 { (a as i64 >> b.min(63)) as u64 });
    map!(table, ["shf.l.wrap.b32"], |a: u32, b: u32, c: u32| -> u32 { (pair(a, b) << (c & 31) >> 32) as u32 });
    map!(table, ["shf.r.wrap.b32"], |a: u32, b: u32, c: u32| -> u32 { (pair(a, b) >> (c & 31)) as u32 });
    map!(table, ["shf.l.clamp.b32"], |a: u32, b: u32, c: u32| -> u32 { (pair(a, b) << c.min(32) >> 32) as u32 });
    map!(table, ["shf.r.clamp.b32"], |a: u32, b: u32, c: u32| -> u32 { (pair(a, b) >> c.min(32)) as u32 });
}

fn fields(table: &mut Table) {
    map!(table, ["brev.b32"], |a: u32| -> u32 { a.reverse_bits() });
    map!(table, ["clz.b32"], |a: u32| -> u32 { a.leading_zeros() });
    map!(table, ["clz.b64"], |a: u64| -> u32 { a.leading_zeros() });
    map!(table, ["popc.b32"], |a: u32| -> u32 { a.count_ones() });
    map!(table, ["popc.b64"], |a: u64| -> u32 { a.count_ones() });
    map!(table, ["bfe.u32"], |a: u32, b: u32, c: u32| -> u32 { (below(c) & u64::from(a) >> (b & 255).min(63)) as u32 });
    map!(table, ["bfe.s32"], |a: u32, b: u32, c: u32| -> u32 { signed_field(a as i32, b & 255, c & 255) });
    map!(table, ["bfind.u32"], |a: u32| -> u32 { 31u32.wrapping_sub(a.leading_zeros()) });
    map!(table, ["bfind.shiftamt.u32"], |a: u32| -> u32 { if a == 0 { u32::MAX } else { a.leading_zeros() } });
    let word: &[Class] = &[Class::Word, Class::Word, Class::Word, Class::Word];
    table.add("bfi.b32", Form { results: &[Class::Word], sources: word, steps: insert_steps::<u32>() });
    let wide: &[Class] = &[Class::Wide, Class::Wide, Class::Word, Class::Word];
    table.add("bfi.b64", Form { results: &[Class::Wide], sources: wide, steps: insert_steps::<u64>() });
    map!(table, ["prmt.b32"], |a: u32, b: u32, c: u32| -> u32 {
        permuted(pair(a, b), c)
            | permuted(pair(a, b), c >> 4) << 8
            | permuted(pair(a, b), c >> 8) << 16
            | permuted(pair(a, b), c >> 12) << 24
    });
}

/// Returns the field of `length` bits of `a` from `position` on. The higher bits of the result repeat the field's highest bit.
#[inline(always)]
fn signed_field(a: i32, position: u32, length: u32) -> u32 {
    let from = i64::from(a) >> position.min(63);
    if length >= 32 {
        return from as u32;
    }
    // if the field ends beyond the number, the field's highest bit is the sign of the number
    let last = (position + length).saturating_sub(1).min(31);
    let sign = if length == 0 { 0 } else { i64::from(a >> last & 1) };
    let below = (1i64 << length) - 1;
    (from & below | -sign & !below) as u32
}

/// `bfi d, field, target, position, length`
#[inline(always)]
fn insert<C: Field>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let field = *C::of(&core.registers, op.slots[1]);
    let target = *C::of(&core.registers, op.slots[2]);
    let [position, length] = [3, 4].map(|i| *u32::of(&core.registers, op.slots[i]));
    let mut d = [C::default(); LANES];
    for i in 0..LANES {
        d[i] = field[i].inserted(target[i], position[i] & 255, length[i] & 255);
    }
    core.registers.write(op.slots[0], &d, lanes);
}

compiled!(insert_steps, insert, Field);

/// A number into which a field of bits can be put.
trait Field: Cell {
    fn inserted(self, target: Self, position: u32, length: u32) -> Self;
}

impl Field for u32 {
    #[inline(always)]
    fn inserted(self, target: u32, position: u32, length: u32) -> u32 {
        u64::from(self).inserted(target.into(), position, length) as u32
    }
}

impl Field for u64 {
    #[inline(always)]
    fn inserted(self, target: u64, position: u32, length: u32) -> u64 {
        let ones = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
        let shifted = |bits: u64| if position >= 64 { 0 } else { bits << position };
        target & !shifted(ones) | shifted(self & ones)
    }
}

/// Returns two words as one number, with `low` in the lower half.
#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Returns a number whose lowest bits are ones. The lowest byte of `length` says how many, up to 32.
#[inline(always)]
fn below(length: u32) -> u64 {
    (1 << (length & 255).min(32)) - 1
}

/// Returns the byte of `bytes` that the lowest three bits of `selector` name. If the fourth bit is 1, returns the sign of that
/// byte in all eight bits instead.
#[inline(always)]
fn permuted(bytes: u64, selector: u32) -> u32 {
    let byte = (bytes >> (8 * (selector & 7))) as u8;
    let sign = (byte as i8 >> 7) as u8;
    u32::from(if selector & 8 == 0 { byte } else { sign })
}

/// Adds the logic of predicates, and the choice between two numbers by a predicate.
fn predicates(table: &mut Table) {
    let two: (&[Class], &[Class]) = (&[Class::Predicate], &[Class::Predicate, Class::Predicate]);
    table.add("and.pred", Form { results: two.0, sources: two.1, steps: logic_steps::<And>() });
    table.add("or.pred", Form { results: two.0, sources: two.1, steps: logic_steps::<Or>() });
    table.add("xor.pred", Form { results: two.0, sources: two.1, steps: logic_steps::<Xor>() });
    let one: (&[Class], &[Class]) = (&[Class::Predicate], &[Class::Predicate]);
    let steps = Steps { plain: not, avx2: not };
    table.add("not.pred", Form { results: one.0, sources: one.1, steps });
    let steps = Steps { plain: same, avx2: same };
    table.add("mov.pred", Form { results: one.0, sources: one.1, steps });
    for opcode in ["selp.b16", "selp.u16", "selp.s16", "selp.b32", "selp.u32", "selp.s32", "selp.f32"] {
        let sources = &[Class::Word, Class::Word, Class::Predicate];
        table.add(opcode, Form { results: &[Class::Word], sources, steps: select_steps::<u32>() });
    }
    for opcode in ["selp.b64", "selp.u64", "selp.s64", "selp.f64"] {
        let sources = &[Class::Wide, Class::Wide, Class::Predicate];
        table.add(opcode, Form { results: &[Class::Wide], sources, steps: select_steps::<u64>() });
    }
}

/// A function of two predicates, each as a mask of the lanes in which it holds.
trait Logic {
    fn of(a: u32, b: u32) -> u32;
}

struct And;
struct Or;
struct Xor;

impl Logic for And {
    fn of(a: u32, b: u32) -> u32 {
        a & b
    }
}

impl Logic for Or {
    fn of(a: u32, b: u32) -> u32 {
        a | b
    }
}

impl Logic for Xor {
    fn of(a: u32, b: u32) -> u32 {
        a ^ b
    }
}

fn logic_steps<L: Logic>() -> Steps {
    fn run<L: Logic>(core: &mut Core<'_>, op: &Op, lanes: u32) {
        let [a, b] = [1, 2].map(|i| core.predicate(op, i));
        core.registers.write_predicate(op.slots[0], L::of(a, b), lanes);
    }
    Steps { plain: run::<L>, avx2: run::<L> }
}

fn not(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = core.predicate(op, 1);
    core.registers.write_predicate(op.slots[0], !a, lanes);
}

fn same(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = core.predicate(op, 1);
    core.registers.write_predicate(op.slots[0], a, lanes);
}

#[inline(always)]
fn select<C: Cell>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = *C::of(&core.registers, op.slots[1]);
    let b = *C::of(&core.registers, op.slots[2]);
    let chosen = core.predicate(op, 3);
    let mut d = [C::default(); LANES];
    for i in 0..LANES {
        d[i] = if chosen >> i & 1 == 1 { a[i] } else { b[i] };
    }
    core.registers.write(op.slots[0], &d, lanes);
}

compiled!(select_steps, select, Cell);
