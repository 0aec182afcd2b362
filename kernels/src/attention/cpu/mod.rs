//! Attention on the processor, in f32: blocks of keys pass over tiles of query rows, all sums in a fixed order.
//!
//! What a row gets depends on its own sequence alone, to the bit: not on the threads, not on the segments beside it. A branch
//! gets the bits of the same sequence without a shared prefix for `o`, `lse`, `dq` and its own `dk` and `dv`; the `dk` and `dv`
//! of a prompt with several branches are sums over them, and so equal to rounding only.

mod backward;
mod blocks;
mod decode;
mod forward;
mod product;
mod softmax;

pub(super) use backward::backward;
pub(super) use decode::decode;
pub(super) use forward::forward;

use crate::attention::Segment;
use crate::cpu::simd::Simd;
use std::cmp::Reverse;
use std::ops::Range;

/// Rows that no segment covers.
fn uncovered(rows: usize, segments: &[Segment]) -> Vec<Range<usize>> {
    let mut covered: Vec<_> = segments.iter().map(|segment| &segment.rows).filter(|rows| !rows.is_empty()).collect();
    covered.sort_by_key(|rows| rows.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for range in covered {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = range.end;
    }
    if at < rows {
        gaps.push(at..rows);
    }
    gaps
}

/// The dearest first, so that the threads finish together; equal ones in their order.
fn heaviest_first<T>(jobs: &mut [T], cost: impl Fn(&T) -> usize) {
    jobs.sort_by_key(|job| Reverse(cost(job)));
}

/// `a·b`
///
/// # Safety
/// As [`Simd`]; the slices are equally long.
#[inline(always)]
unsafe fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller's contract; loads end inside the slices.
    unsafe {
        let whole = a.len() / S::LANES * S::LANES;
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            sum = S::fma(S::load(a.as_ptr().add(at)), S::load(b.as_ptr().add(at)), sum);
        }
        if whole < a.len() {
            let lanes = a.len() - whole;
            let (a, b) = (a.as_ptr().add(whole), b.as_ptr().add(whole));
            sum = S::fma(S::load_partial(a, lanes), S::load_partial(b, lanes), sum);
        }
        S::reduce_add(sum)
    }
}
