//! Conversions between bf16 and f32.

use super::{Loaded, Simd, Stored, VectorTask};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::BLOCK;

impl Cpu {
    /// Copies `from` to `to`, which must have the same length. Rounds to nearest even if `to` has fewer bits.
    pub(crate) fn convert<A: Loaded, B: Stored>(&self, from: &[A], to: &mut [B]) {
        let blocks = from.chunks(BLOCK).zip(to.chunks_mut(BLOCK));
        self.for_each_block(blocks, |(from, to)| self.isa().dispatch(Convert { from, to }));
    }
}

/// As [`Cpu::convert`], on this thread.
pub(crate) struct Convert<'a, A, B> {
    pub from: &'a [A],
    pub to: &'a mut [B],
}

impl<A: Loaded, B: Stored> VectorTask for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.from.len() / S::LANES * S::LANES;
        let (from, to) = (&self.from[..self.from.len()], &mut self.to[..self.from.len()]);
        for at in (0..whole).step_by(S::LANES) {
            // SAFETY: `at + LANES` is at most the length of `from` and of `to`.
            unsafe { B::store::<S>(to.as_mut_ptr().add(at), A::load::<S>(from.as_ptr().add(at))) };
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = B::narrow(from.wide());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;
    use half::bf16;

    #[test]
    fn every_bf16_survives_and_f32_is_rounded_to_nearest_even() {
        let all: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let between: Vec<f32> = (0..70_001u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        for isa in Isa::available() {
            let (mut wide, mut back) = (vec![0.0; all.len()], vec![bf16::ZERO; all.len()]);
            isa.dispatch(Convert { from: &all, to: &mut wide });
            isa.dispatch(Convert { from: &wide, to: &mut back });
            for (one, other) in all.iter().zip(&back) {
                assert!(one == other || one.is_nan() && other.is_nan(), "{one} became {other} on {}", isa.name());
            }
            let mut rounded = vec![bf16::ZERO; between.len()];
            isa.dispatch(Convert { from: &between, to: &mut rounded });
            for (x, got) in between.iter().zip(rounded) {
                let want = bf16::from_f32(*x);
                assert!(got == want || got.is_nan() && want.is_nan(), "{x} became {got} on {}", isa.name());
            }
        }
    }
}
