//! The instructions that compute lane by lane: a table of every form, by its opcode as PTX writes it. (`pack` and `unpack` are
//! names for a `mov` with an operand of two halves.)
//!
//! A form is a function of one lane, written once. The table holds it as a function of 32 lanes, compiled for any x86-64 and for
//! AVX2 with fused multiply-adds. A module with an opcode that neither this table nor `crate::lower` knows is refused when it is
//! loaded.

mod bits;
#[expect(
    clippy::neg_cmp_op_on_partial_ord,
    clippy::double_comparisons,
    reason = "where one is not a number, the negation is what is meant"
)]
pub(crate) mod compare;
mod convert;
mod float;
mod integer;
mod rounding;

use crate::parse::Class;
use crate::warp::{Cell, Core, LANES, Op};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Runs one instruction in the lanes of a mask.
///
/// # Safety
/// The processor has the instruction set that the function was compiled for.
pub(crate) type Step = unsafe fn(&mut Core<'_>, &Op, u32);

/// An instruction that computes: the classes of its operands, and what runs it.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// In an instruction's operands, the results come before the sources.
    pub results: &'static [Class],
    pub sources: &'static [Class],
    pub steps: Steps,
}

/// A function of 32 lanes, compiled twice.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub plain: Step,
    pub avx2: Step,
}

impl Steps {
    /// Returns the faster of the two versions that this processor can run.
    pub(crate) fn chosen(self) -> Step {
        #[cfg(test)]
        if tests::PLAIN.get() {
            return self.plain;
        }
        if has_avx2() { self.avx2 } else { self.plain }
    }
}

/// Whether this processor has AVX2 and fused multiply-adds. Without them, interpreting takes about ten times longer.
pub fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Returns the form of an opcode. `None` if the opcode is not in the table.
pub(crate) fn form(opcode: &str) -> Option<&'static Form> {
    table().forms.get(opcode)
}

/// Returns the table of all forms.
pub(crate) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table { forms: HashMap::new() };
        integer::add_to(&mut table);
        bits::add_to(&mut table);
        float::add_to(&mut table);
        rounding::add_to(&mut table);
        compare::add_to(&mut table);
        convert::add_to(&mut table);
        table
    })
}

/// Forms by opcode.
pub(crate) struct Table {
    pub forms: HashMap<String, Form>,
}

impl Table {
    fn add(&mut self, opcode: &str, form: Form) {
        let before = self.forms.insert(opcode.to_owned(), form);
        assert!(before.is_none(), "`{opcode}` is in the table twice");
    }
}

/// A function of one operand.
trait Map1 {
    type A: Cell;
    type D: Cell;
    fn at(a: Self::A) -> Self::D;
}

/// A function of two operands.
trait Map2 {
    type A: Cell;
    type B: Cell;
    type D: Cell;
    fn at(a: Self::A, b: Self::B) -> Self::D;
}

/// A function of three operands.
trait Map3 {
    type A: Cell;
    type B: Cell;
    type C: Cell;
    type D: Cell;
    fn at(a: Self::A, b: Self::B, c: Self::C) -> Self::D;
}

#[inline(always)]
fn run1<F: Map1>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = *F::A::of(&core.registers, op.slots[1]);
    let mut d = [F::D::default(); LANES];
    for i in 0..LANES {
        d[i] = F::at(a[i]);
    }
    core.registers.write(op.slots[0], &d, lanes);
}

#[inline(always)]
fn run2<F: Map2>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = *F::A::of(&core.registers, op.slots[1]);
    let b = *F::B::of(&core.registers, op.slots[2]);
    let mut d = [F::D::default(); LANES];
    for i in 0..LANES {
        d[i] = F::at(a[i], b[i]);
    }
    core.registers.write(op.slots[0], &d, lanes);
}

#[inline(always)]
fn run3<F: Map3>(core: &mut Core<'_>, op: &Op, lanes: u32) {
    let a = *F::A::of(&core.registers, op.slots[1]);
    let b = *F::B::of(&core.registers, op.slots[2]);
    let c = *F::C::of(&core.registers, op.slots[3]);
    let mut d = [F::D::default(); LANES];
    for i in 0..LANES {
        d[i] = F::at(a[i], b[i], c[i]);
    }
    core.registers.write(op.slots[0], &d, lanes);
}

/// Declares the two compiled versions of a function over lanes, and the [`Steps`] that hold them.
macro_rules! compiled {
    ($steps:ident, $run:ident, $bound:ident) => {
        fn $steps<F: $bound>() -> Steps {
            fn plain<F: $bound>(core: &mut Core<'_>, op: &Op, lanes: u32) {
                $run::<F>(core, op, lanes);
            }
            #[target_feature(enable = "avx2,fma")]
            fn avx2<F: $bound>(core: &mut Core<'_>, op: &Op, lanes: u32) {
                $run::<F>(core, op, lanes);
            }
            Steps { plain: plain::<F>, avx2: avx2::<F> }
        }
    };
}
use compiled;

compiled!(steps1, run1, Map1);
compiled!(steps2, run2, Map2);
compiled!(steps3, run3, Map3);

/// Adds a form to a table: the opcodes that it is for, then the function of one lane.
macro_rules! map {
    ($table:ident, [$($opcode:literal),+], |$a:ident: $ta:ty| -> $td:ty { $body:expr }) => {{
        struct F;
        impl Map1 for F {
            type A = $ta;
            type D = $td;
            #[inline(always)]
            fn at($a: $ta) -> $td {
                $body
            }
        }
        let classes = (&[<$td as Cell>::CLASS], &[<$ta as Cell>::CLASS]);
        $($table.add($opcode, Form { results: classes.0, sources: classes.1, steps: steps1::<F>() });)+
    }};
    ($table:ident, [$($opcode:literal),+], |$a:ident: $ta:ty, $b:ident: $tb:ty| -> $td:ty { $body:expr }) => {{
        struct F;
        impl Map2 for F {
            type A = $ta;
            type B = $tb;
            type D = $td;
            #[inline(always)]
            fn at($a: $ta, $b: $tb) -> $td {
                $body
            }
        }
        let classes = (&[<$td as Cell>::CLASS], &[<$ta as Cell>::CLASS, <$tb as Cell>::CLASS]);
        $($table.add($opcode, Form { results: classes.0, sources: classes.1, steps: steps2::<F>() });)+
    }};
    (
        $table:ident, [$($opcode:literal),+],
        |$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty| -> $td:ty { $body:expr }
    ) => {{
        struct F;
        impl Map3 for F {
            type A = $ta;
            type B = $tb;
            type C = $tc;
            type D = $td;
            #[inline(always)]
            fn at($a: $ta, $b: $tb, $c: $tc) -> $td {
                $body
            }
        }
        let classes = (&[<$td as Cell>::CLASS], &[<$ta as Cell>::CLASS, <$tb as Cell>::CLASS, <$tc as Cell>::CLASS]);
        $($table.add($opcode, Form { results: classes.0, sources: classes.1, steps: steps3::<F>() });)+
    }};
}
use map;

#[cfg(test)]
mod tests;
