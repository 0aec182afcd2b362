//! Elementwise functions: written for one vector, applied along slices, split over threads.

use super::{Loaded, Simd, Stored, VectorTask};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::BLOCK;

/// A function of `IN` operands with `OUT` results, the same for every element.
pub(crate) trait Pointwise<const IN: usize, const OUT: usize>: Sync {
    /// Whether [`Pointwise::apply`] reads the previous values of its outputs. If not, `y` holds zeros and the outputs' memory
    /// is only written.
    const IN_PLACE: bool;

    /// Computes the outputs from the inputs `x` and the previous outputs `y`. Mark it `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn apply<S: Simd>(&self, x: [S::V; IN], y: [S::V; OUT]) -> [S::V; OUT];
}

/// Applies a function along slices of equal length.
pub(crate) struct Map<'a, F, X, Y, const IN: usize, const OUT: usize> {
    pub f: &'a F,
    pub x: [&'a [X]; IN],
    pub y: [&'a mut [Y]; OUT],
}

impl<F, X, Y, const IN: usize, const OUT: usize> VectorTask for Map<'_, F, X, Y, IN, OUT>
where
    F: Pointwise<IN, OUT>,
    X: Loaded,
    Y: Stored,
{
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Map { f, x, y } = self;
        let n = y[0].len();
        let mut same = true;
        for x in x {
            same &= x.len() == n;
        }
        for y in &y {
            same &= y.len() == n;
        }
        assert!(same, "operands of one function have one length");
        let x = x.map(<[X]>::as_ptr);
        let y = y.map(<[Y]>::as_mut_ptr);
        // SAFETY: every slice has n elements, and `at + lanes <= n`. The outputs are exclusive borrows, so they overlap
        // nothing.
        unsafe {
            let whole = n / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                apply_at::<S, F, X, Y, IN, OUT>(f, x, y, at, S::LANES);
            }
            if whole < n {
                apply_at::<S, F, X, Y, IN, OUT>(f, x, y, whole, n - whole);
            }
        }
    }
}

/// Applies `f` to the `lanes` elements from `at` on.
///
/// # Safety
/// The processor has the instruction set of `S`; the operands hold these elements.
#[inline(always)]
unsafe fn apply_at<S: Simd, F: Pointwise<IN, OUT>, X: Loaded, Y: Stored, const IN: usize, const OUT: usize>(
    f: &F,
    x: [*const X; IN],
    y: [*mut Y; OUT],
    at: usize,
    lanes: usize,
) {
    // SAFETY: the caller guarantees the instruction set of `S`, and that the operands hold these elements.
    unsafe {
        let mut values = [S::splat(0.0); IN];
        for j in 0..IN {
            values[j] = X::load_lanes::<S>(x[j].add(at), lanes);
        }
        let mut previous = [S::splat(0.0); OUT];
        if F::IN_PLACE {
            for j in 0..OUT {
                previous[j] = Y::load_lanes::<S>(y[j].add(at), lanes);
            }
        }
        let results = f.apply::<S>(values, previous);
        for j in 0..OUT {
            Y::store_lanes::<S>(y[j].add(at), results[j], lanes);
        }
    }
}

impl Cpu {
    /// Applies `f` to every element, with all threads. All slices have the same length.
    pub(crate) fn pointwise<F, X, Y, const IN: usize, const OUT: usize>(&self, f: &F, x: [&[X]; IN], y: [&mut [Y]; OUT])
    where
        F: Pointwise<IN, OUT>,
        X: Loaded,
        Y: Stored,
    {
        let blocks = y[0].len().div_ceil(BLOCK);
        let mut x = x.map(|x| x.chunks(BLOCK));
        let mut y = y.map(|y| y.chunks_mut(BLOCK));
        let blocks = (0..blocks).map(|_| {
            let x = x.each_mut().map(|x| x.next().expect("operands have one length"));
            let y = y.each_mut().map(|y| y.next().expect("operands have one length"));
            (x, y)
        });
        self.for_each_block(blocks, |(x, y)| self.isa().dispatch(Map { f, x, y }));
    }
}
