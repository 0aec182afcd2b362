//! Fast version: splits the rows over the threads in blocks. A row is read once for its sum, and again, from the cache, for its
//! output.

use super::{Backward, Forward, Groups};
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::cpu::vectors::{Simd, Stored, VectorTask};
use crate::gemm::Accumulate;
use crate::{FloatSlice, FloatSliceMut};

pub(super) fn forward(cpu: &Cpu, call: Forward<'_>) {
    let Forward { rows: _, cols, groups, eps, offset, x, weight, y, rstd } = call;
    let (call, rstd) = (ForwardCall { cols, groups, eps, offset, weight: weight.cpu() }, rstd.cpu());
    match (x, y) {
        (FloatSlice::F32(x), FloatSliceMut::F32(y)) => call.run(cpu, x.cpu(), y.cpu(), rstd),
        (FloatSlice::F32(x), FloatSliceMut::Bf16(y)) => call.run(cpu, x.cpu(), y.cpu(), rstd),
        (FloatSlice::Bf16(x), FloatSliceMut::Bf16(y)) => call.run(cpu, x.cpu(), y.cpu(), rstd),
        (FloatSlice::Bf16(_), FloatSliceMut::F32(_)) => unreachable!("`run` checked the formats"),
    }
}

/// The part of a call that does not depend on the formats.
struct ForwardCall<'a> {
    cols: usize,
    groups: Groups,
    eps: f32,
    offset: f32,
    weight: &'a [f32],
}

impl ForwardCall<'_> {
    fn run<X: Stored, Y: Stored>(&self, cpu: &Cpu, x: &[X], y: &mut [Y], rstd: &mut [f32]) {
        let Groups { per_row, stride, .. } = self.groups;
        let block = rows_per_block(stride);
        let blocks = x.chunks(block * stride).zip(y.chunks_mut(block * stride)).zip(rstd.chunks_mut(block * per_row));
        cpu.for_each_block(blocks, |((x, y), rstd)| cpu.isa().dispatch(ForwardRows { call: self, x, y, rstd }));
    }
}

pub(super) fn backward(cpu: &Cpu, call: Backward<'_>) {
    let Backward { rows: _, cols, groups, offset, x, weight, rstd, dy, dx, accumulate } = call;
    let (call, rstd) = (BackwardCall { cols, groups, offset, weight: weight.cpu(), accumulate }, rstd.cpu());
    match (x, dy, dx) {
        (FloatSlice::F32(x), FloatSlice::F32(dy), FloatSliceMut::F32(dx)) => {
            call.run(cpu, x.cpu(), rstd, dy.cpu(), dx.cpu())
        }
        (FloatSlice::F32(x), FloatSlice::Bf16(dy), FloatSliceMut::F32(dx)) => {
            call.run(cpu, x.cpu(), rstd, dy.cpu(), dx.cpu())
        }
        (FloatSlice::Bf16(x), FloatSlice::Bf16(dy), FloatSliceMut::Bf16(dx)) => {
            call.run(cpu, x.cpu(), rstd, dy.cpu(), dx.cpu());
        }
        _ => unreachable!("`run` checked the formats"),
    }
}

/// The part of a call that does not depend on the formats.
struct BackwardCall<'a> {
    cols: usize,
    groups: Groups,
    offset: f32,
    weight: &'a [f32],
    accumulate: Accumulate,
}

impl BackwardCall<'_> {
    fn run<X: Stored, Y: Stored>(&self, cpu: &Cpu, x: &[X], rstd: &[f32], dy: &[Y], dx: &mut [X]) {
        let Groups { per_row, stride, .. } = self.groups;
        let block = rows_per_block(stride);
        let blocks = (x.chunks(block * stride).zip(dy.chunks(block * stride)))
            .zip(dx.chunks_mut(block * stride))
            .zip(rstd.chunks(block * per_row));
        cpu.for_each_block(blocks, |(((x, dy), dx), rstd)| {
            cpu.isa().dispatch(BackwardRows { call: self, x, rstd, dy, dx });
        });
    }
}

struct ForwardRows<'a, X, Y> {
    call: &'a ForwardCall<'a>,
    x: &'a [X],
    y: &'a mut [Y],
    rstd: &'a mut [f32],
}

impl<X: Stored, Y: Stored> VectorTask for ForwardRows<'_, X, Y> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ForwardRows { call, x, y, rstd } = self;
        let &ForwardCall { cols, groups: Groups { first, per_row, stride }, eps, offset, weight } = call;
        for (group, rstd) in rstd.iter_mut().enumerate() {
            let at = group / per_row * stride + first + group % per_row * cols;
            let (x, y) = (&x[at..at + cols], &mut y[at..at + cols]);
            // SAFETY: `dispatch` runs this only on a processor with the instruction set; all slices have `cols` elements, and
            // every access ends inside them: it is a whole vector, or what remains.
            unsafe {
                let mean =
                    (WeightedDot::<_, _, SUM_OF_SQUARES> { offset: 0.0, weight, a: x, b: x }).run::<S>() / cols as f32;
                *rstd = 1.0 / (mean + eps).sqrt();
                let scaled = |x, weight| S::mul(S::mul(x, S::splat(*rstd)), S::add(S::splat(offset), weight));
                let mut at = 0;
                while at + S::LANES <= cols {
                    let v = scaled(X::load::<S>(x.as_ptr().add(at)), S::load(weight.as_ptr().add(at)));
                    Y::store::<S>(y.as_mut_ptr().add(at), v);
                    at += S::LANES;
                }
                if at < cols {
                    let n = cols - at;
                    let x = X::load_partial::<S>(x.as_ptr().add(at), n);
                    let v = scaled(x, S::load_partial(weight.as_ptr().add(at), n));
                    Y::store_partial::<S>(y.as_mut_ptr().add(at), v, n);
                }
            }
        }
    }
}

struct BackwardRows<'a, X, Y> {
    call: &'a BackwardCall<'a>,
    x: &'a [X],
    rstd: &'a [f32],
    dy: &'a [Y],
    dx: &'a mut [X],
}

impl<X: Stored, Y: Stored> VectorTask for BackwardRows<'_, X, Y> {
    type Output = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let BackwardRows { call, x, rstd, dy, dx } = self;
        let &BackwardCall { cols, groups: Groups { first, per_row, stride }, offset, weight, accumulate } = call;
        for (group, &rstd) in rstd.iter().enumerate() {
            let at = group / per_row * stride + first + group % per_row * cols;
            let (x, dy, dx) = (&x[at..at + cols], &dy[at..at + cols], &mut dx[at..at + cols]);
            // SAFETY: `dispatch` runs this only on a processor with the instruction set; all slices have `cols` elements, and
            // every access ends inside them: it is a whole vector, or what remains.
            unsafe {
                let dot = (WeightedDot::<_, _, WEIGHTED> { offset, weight, a: dy, b: x }).run::<S>();
                let along_x = S::splat(rstd * rstd * (dot / cols as f32));
                let of_row = [along_x, S::splat(offset), S::splat(rstd)];
                let mut at = 0;
                while at + S::LANES <= cols {
                    let to = dx.as_mut_ptr().add(at);
                    let (x, dy) = (X::load::<S>(x.as_ptr().add(at)), Y::load::<S>(dy.as_ptr().add(at)));
                    let v =
                        gradient::<S>([x, S::load(weight.as_ptr().add(at)), dy, X::load::<S>(to)], of_row, accumulate);
                    X::store::<S>(to, v);
                    at += S::LANES;
                }
                if at < cols {
                    let n = cols - at;
                    let to = dx.as_mut_ptr().add(at);
                    let x = X::load_partial::<S>(x.as_ptr().add(at), n);
                    let dy = Y::load_partial::<S>(dy.as_ptr().add(at), n);
                    let weight = S::load_partial(weight.as_ptr().add(at), n);
                    let v = gradient::<S>([x, weight, dy, X::load_partial::<S>(to, n)], of_row, accumulate);
                    X::store_partial::<S>(to, v, n);
                }
            }
        }
    }
}

/// Computes one vector of `dx`, which held `before`. It is a function because a closure that the compiler does not inline is
/// compiled without the instruction set.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn gradient<S: Simd>(
    [x, weight, dy, before]: [S::V; 4],
    [along_x, offset, rstd]: [S::V; 3],
    accumulate: Accumulate,
) -> S::V {
    // SAFETY: the caller guarantees the instruction set of `S`.
    unsafe {
        let weighted = S::mul(S::add(offset, weight), dy);
        let v = S::mul(rstd, S::sub(weighted, S::mul(x, along_x)));
        match accumulate {
            Accumulate::Set => v,
            Accumulate::Add => S::add(before, v),
        }
    }
}

/// With this, [`WeightedDot`] computes `Σ a·b`.
const SUM_OF_SQUARES: bool = false;
/// With this, [`WeightedDot`] computes `Σ (offset + weight)·a·b`.
const WEIGHTED: bool = true;

/// A sum over one row: four running vectors, which are added in pairs at the end. On one instruction set, the order depends on the
/// row's length alone.
struct WeightedDot<'a, A, B, const USE_WEIGHT: bool> {
    offset: f32,
    weight: &'a [f32],
    a: &'a [A],
    b: &'a [B],
}

impl<A: Stored, B: Stored, const USE_WEIGHT: bool> VectorTask for WeightedDot<'_, A, B, USE_WEIGHT> {
    type Output = f32;
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let WeightedDot { offset, weight, a, b } = self;
        let n = a.len();
        assert!(weight.len() == n && b.len() == n, "operands of one row have one length");
        // SAFETY: the slices have n elements and the reads end at or before n.
        unsafe {
            let offset = S::splat(offset);
            let mut sums = [S::splat(0.0); 4];
            let mut at = 0;
            while at + 4 * S::LANES <= n {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let at = at + j * S::LANES;
                    let mut a = A::load::<S>(a.as_ptr().add(at));
                    if USE_WEIGHT {
                        a = S::mul(a, S::add(offset, S::load(weight.as_ptr().add(at))));
                    }
                    *sum = S::fma(a, B::load::<S>(b.as_ptr().add(at)), *sum);
                }
                at += 4 * S::LANES;
            }
            while at < n {
                let lanes = S::LANES.min(n - at);
                let mut a = A::load_partial::<S>(a.as_ptr().add(at), lanes);
                if USE_WEIGHT {
                    a = S::mul(a, S::add(offset, S::load_partial(weight.as_ptr().add(at), lanes)));
                }
                sums[0] = S::fma(a, B::load_partial::<S>(b.as_ptr().add(at), lanes), sums[0]);
                at += lanes;
            }
            S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
        }
    }
}
