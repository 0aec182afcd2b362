//! Between bf16 and f32.

use super::{Simd, VectorTask};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::BLOCK;
use half::bf16;

impl Cpu {
    /// `to = from`, which is as long.
    pub(crate) fn widen(&self, from: &[bf16], to: &mut [f32]) {
        let blocks = from.chunks(BLOCK).zip(to.chunks_mut(BLOCK));
        self.for_each_block(blocks, |(from, to)| self.isa().dispatch(Widen { from, to }));
    }

    /// `to = from`, which is as long, rounded to nearest even.
    pub(crate) fn narrow(&self, from: &[f32], to: &mut [bf16]) {
        let blocks = from.chunks(BLOCK).zip(to.chunks_mut(BLOCK));
        self.for_each_block(blocks, |(from, to)| self.isa().dispatch(Narrow { from, to }));
    }
}

/// `to = from`
pub(crate) struct Widen<'a> {
    pub from: &'a [bf16],
    pub to: &'a mut [f32],
}

impl VectorTask for Widen<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.from.len() / S::LANES * S::LANES;
        let (from, to) = (&self.from[..self.from.len()], &mut self.to[..self.from.len()]);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES` is at most the length of both.
            unsafe { S::store(to.as_mut_ptr().add(at), S::load_bf16(from.as_ptr().add(at))) };
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = from.to_f32();
        }
    }
}

/// `to = from`, rounded to nearest even
pub(crate) struct Narrow<'a> {
    pub from: &'a [f32],
    pub to: &'a mut [bf16],
}

impl VectorTask for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.from.len() / S::LANES * S::LANES;
        let (from, to) = (&self.from[..self.from.len()], &mut self.to[..self.from.len()]);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES` is at most the length of both.
            unsafe { S::store_bf16(to.as_mut_ptr().add(at), S::load(from.as_ptr().add(at))) };
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = bf16::from_f32(*from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    #[test]
    fn every_bf16_survives_and_f32_is_rounded_to_nearest_even() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let between: Vec<f32> = (0..70_001u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        for isa in Isa::available() {
            let (mut wide, mut back) = (vec![0.0; all.len()], vec![bf16::ZERO; all.len()]);
            isa.dispatch(Widen { from: &all, to: &mut wide });
            isa.dispatch(Narrow { from: &wide, to: &mut back });
            for (one, other) in all.iter().zip(&back) {
                assert!(one == other || one.is_nan() && other.is_nan(), "{one} became {other} on {}", isa.name());
            }
            let mut rounded = vec![bf16::ZERO; between.len()];
            isa.dispatch(Narrow { from: &between, to: &mut rounded });
            for (x, got) in between.iter().zip(rounded) {
                let want = bf16::from_f32(*x);
                assert!(got == want || got.is_nan() && want.is_nan(), "{x} became {got} on {}", isa.name());
            }
        }
    }
}
