//! Comparisons: `setp`, which can join the result with another predicate.

use super::float::{d, f};
use super::{Cell, Core, Form, LANES, Op, Steps, Table, compiled};
use crate::parse::Class;

/// A comparison of two numbers of a type.
trait Test {
    type A: Cell;
    fn holds(a: Self::A, b: Self::A) -> bool;
}

/// Compares as `setp.lt.s32 p|q, a, b, c` does: `p` gets the comparison joined with `c`, and `q` its opposite joined with `c`.
#[inline(always)]
fn run<T: Test>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = *T::A::of(&core.registers, op.slots[2]);
    let b = *T::A::of(&core.registers, op.slots[3]);
    let mut holds = [0u32; LANES];
    for i in 0..LANES {
        holds[i] = u32::from(T::holds(a[i], b[i]));
    }
    let bits = holds.iter().enumerate().fold(0, |bits, (i, holds)| bits | holds << i);
    // if the text names no `c`, `c` is a predicate that always holds, joined by "and"
    let other = core.predicate(op, 4);
    let (p, q) = match op.data {
        OR => (bits | other, !bits | other),
        XOR => (bits ^ other, !bits ^ other),
        _ => (bits & other, !bits & other),
    };
    core.registers.write_predicate(op.slots[1], q, lanes);
    core.registers.write_predicate(op.slots[0], p, lanes);
}

compiled!(steps, run, Test);

/// A value of [`Op::data`]: joins a comparison with another predicate by "and".
pub(crate) const AND: u32 = 0;
/// Like [`AND`], but joins by "or".
pub(crate) const OR: u32 = 1;
/// Like [`AND`], but joins by "xor".
pub(crate) const XOR: u32 = 2;

pub(super) fn add_to(table: &mut Table) {
    whole_numbers(table);
    floats(table);
}

/// Adds comparisons to a table. Each line gives the middle of the opcode, and the function of two numbers.
macro_rules! tests {
    ($table:ident, $cell:ty, $kinds:expr, |$x:ident| $convert:expr, { $($name:literal: |$a:ident, $b:ident| $holds:expr;)+ }) => {
        $({
            struct T;
            impl Test for T {
                type A = $cell;
                #[inline(always)]
                fn holds($a: $cell, $b: $cell) -> bool {
                    let convert = |$x: $cell| $convert;
                    let ($a, $b) = (convert($a), convert($b));
                    $holds
                }
            }
            let class = <$cell as Cell>::CLASS;
            let sources: &'static [Class] = match class {
                Class::Wide => &[Class::Wide, Class::Wide, Class::Predicate],
                _ => &[Class::Word, Class::Word, Class::Predicate],
            };
            let form = Form { results: &[Class::Predicate, Class::Predicate], sources, steps: steps::<T>() };
            for kind in $kinds {
                $table.add(&format!("setp.{}.{kind}", $name), form);
            }
        })+
    };
}

fn whole_numbers(table: &mut Table) {
    macro_rules! orders {
        ($cell:ty, $kinds:expr, |$x:ident| $convert:expr) => {
            tests!(table, $cell, $kinds, |$x| $convert, {
                "lt": |a, b| a < b;
                "le": |a, b| a <= b;
                "gt": |a, b| a > b;
                "ge": |a, b| a >= b;
            })
        };
    }
    macro_rules! equalities {
        ($cell:ty, $kinds:expr, |$x:ident| $convert:expr) => {
            tests!(table, $cell, $kinds, |$x| $convert, {
                "eq": |a, b| a == b;
                "ne": |a, b| a != b;
            })
        };
    }
    orders!(u32, ["s16"], |x| x as i16);
    orders!(u32, ["u16"], |x| x as u16);
    orders!(u32, ["s32"], |x| x as i32);
    orders!(u32, ["u32"], |x| x);
    orders!(u64, ["s64"], |x| x as i64);
    orders!(u64, ["u64"], |x| x);
    equalities!(u32, ["s16", "u16", "b16"], |x| x as u16);
    equalities!(u32, ["s32", "u32", "b32"], |x| x);
    equalities!(u64, ["s64", "u64", "b64"], |x| x);
    // unsigned comparisons also have their own names
    tests!(table, u32, ["u32"], |x| x, {
        "lo": |a, b| a < b;
        "ls": |a, b| a <= b;
        "hi": |a, b| a > b;
        "hs": |a, b| a >= b;
    });
}

/// Adds the comparisons of floats. If a number is NaN, the first six are false, and those that end in `u` are true.
fn floats(table: &mut Table) {
    macro_rules! all {
        ($cell:ty, $kinds:expr, |$x:ident| $convert:expr) => {
            tests!(table, $cell, $kinds, |$x| $convert, {
                "eq": |a, b| a == b;
                "ne": |a, b| a < b || a > b;
                "lt": |a, b| a < b;
                "le": |a, b| a <= b;
                "gt": |a, b| a > b;
                "ge": |a, b| a >= b;
                "equ": |a, b| !(a < b || a > b);
                "neu": |a, b| a != b;
                "ltu": |a, b| !(a >= b);
                "leu": |a, b| !(a > b);
                "gtu": |a, b| !(a <= b);
                "geu": |a, b| !(a < b);
                "num": |a, b| !a.is_nan() && !b.is_nan();
                "nan": |a, b| a.is_nan() || b.is_nan();
            })
        };
    }
    all!(u32, ["f32"], |x| f(x));
    all!(u64, ["f64"], |x| d(x));
}
