//! The element-wise parts of attention: the online softmax over a block of scores, and the gradients of a block of scores.
//!
//! Scores are `[rows, BLOCK]`. If the [`Reach`] is full, every row sees the whole block. Otherwise a row sees the columns of its
//! [`Span`], and the outputs of the other columns in the reach are exactly 0, so that the products that follow may cover whole
//! vectors.

use crate::attention::cpu::blocks::{BLOCK, PAD, Reach, Span};
use crate::cpu::vectors::{Simd, VectorTask};

/// Numbers to add to scores: minus infinity for `PAD` hidden lanes, 0 for `PAD` visible lanes, then minus infinity again for
/// `PAD` hidden lanes. A load at the right place reads the mask of any vector.
const HIDE: [f32; 3 * PAD] = windows(f32::NEG_INFINITY, 0.0);
/// Factors of the weights: 0 for the hidden lanes of [`HIDE`], 1 for the visible ones.
const KEEP: [f32; 3 * PAD] = windows(0.0, 1.0);

const fn windows(hidden: f32, visible: f32) -> [f32; 3 * PAD] {
    let mut table = [hidden; 3 * PAD];
    let mut lane = 0;
    while lane < PAD {
        table[PAD + lane] = visible;
        lane += 1;
    }
    table
}

/// Turns a score into `u = scale * score`, or with a soft-cap into `cap * tanh(u / cap)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scaling {
    pub scale: f32,
    pub softcap: Option<f32>,
}

/// Adds a block of raw scores to the running softmax of its rows, and replaces the scores by `exp(z - max)`.
///
/// For each row: `max' = max(max, max_t z)`, `sum' = sum exp(max - max') + Σ_t exp(z - max')`, `o' = o exp(max - max')`. The
/// caller then adds the product with the values to `o'`. A row that sees nothing of the block keeps its state to the bit.
pub(super) struct OnlineSoftmax<'a> {
    pub scaling: Scaling,
    pub reach: Reach,
    /// One span per row. If `reach` is full, only the number of spans counts.
    pub spans: &'a [Span],
    /// `[rows, BLOCK]`
    pub scores: &'a mut [f32],
    /// `[rows]`
    pub max: &'a mut [f32],
    /// `[rows, PAD]`: lane `l` holds the sum of the columns that are `l` modulo the number of lanes
    pub sum: &'a mut [f32],
    /// `[rows, o_cols]`, `o_cols` a multiple of [`PAD`]
    pub o: &'a mut [f32],
    pub o_cols: usize,
}

impl VectorTask for OnlineSoftmax<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let OnlineSoftmax { scaling, reach, spans, scores, max, sum, o, o_cols } = self;
        let rows = spans.len();
        assert!(reach.end <= BLOCK && reach.end.is_multiple_of(PAD) && reach.first.is_multiple_of(PAD));
        assert!(scores.len() >= rows * BLOCK && max.len() >= rows && sum.len() >= rows * PAD);
        assert!(o.len() >= rows * o_cols && o_cols.is_multiple_of(PAD));
        for (i, &span) in spans.iter().enumerate() {
            // SAFETY: the assertions keep rows and columns inside the slices; the processor has S's instruction set.
            unsafe {
                let z = scores.as_mut_ptr().add(i * BLOCK);
                if !reach.full && span.lo >= span.hi {
                    for at in (reach.first..reach.end).step_by(S::LANES) {
                        S::store(z.add(at), S::splat(0.0));
                    }
                    continue;
                }
                let mut largest = S::splat(f32::NEG_INFINITY);
                for at in (reach.first..reach.end).step_by(S::LANES) {
                    let mut v = scaling.apply::<S>(S::load(z.add(at)));
                    if !reach.full {
                        v = S::add(v, mask::<S>(&HIDE, span, at));
                    }
                    S::store(z.add(at), v);
                    largest = S::max(v, largest);
                }
                let before = max[i];
                let after = S::reduce_max(S::max(largest, S::splat(before)));
                let top = S::splat(after);
                let mut total = S::splat(0.0);
                for at in (reach.first..reach.end).step_by(S::LANES) {
                    let mut p = S::exp_nonpositive(S::sub(S::load(z.add(at)), top));
                    if !reach.full {
                        // `exp_nonpositive` of -inf is 1e-38, not 0
                        p = S::mul(p, mask::<S>(&KEEP, span, at));
                    }
                    S::store(z.add(at), p);
                    total = S::add(total, p);
                }
                let sum = sum.as_mut_ptr().add(i * PAD);
                if after == before {
                    S::store(sum, S::add(S::load(sum), total));
                } else {
                    max[i] = after;
                    let factor = S::exp_nonpositive(S::sub(S::splat(before), top));
                    S::store(sum, S::fma(S::load(sum), factor, total));
                    let o = o.as_mut_ptr().add(i * o_cols);
                    for at in (0..o_cols).step_by(S::LANES) {
                        S::store(o.add(at), S::mul(S::load(o.add(at)), factor));
                    }
                }
            }
        }
    }
}

/// Turns a block of raw scores into `P = exp(z - lse)`, and a block of `d_o·v` into `du = P (d_o·v - delta) dz/du`, both in
/// place.
pub(super) struct ScoreGradients<'a> {
    pub scaling: Scaling,
    pub reach: Reach,
    /// One span per row. If `reach` is full, only the number of spans counts.
    pub spans: &'a [Span],
    /// `[rows, BLOCK]`: raw scores, then `P`
    pub scores: &'a mut [f32],
    /// `[rows, BLOCK]`: `d_o·v`, then `du`
    pub gradients: &'a mut [f32],
    /// `[rows]`
    pub lse: &'a [f32],
    /// `[rows]`: `d_o·o`
    pub delta: &'a [f32],
}

impl VectorTask for ScoreGradients<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ScoreGradients { scaling, reach, spans, scores, gradients, lse, delta } = self;
        let rows = spans.len();
        assert!(reach.end <= BLOCK && reach.end.is_multiple_of(PAD) && reach.first.is_multiple_of(PAD));
        assert!(scores.len() >= rows * BLOCK && gradients.len() >= rows * BLOCK);
        assert!(lse.len() >= rows && delta.len() >= rows);
        for (i, &span) in spans.iter().enumerate() {
            // SAFETY: the assertions keep rows and columns inside the slices; the processor has S's instruction set.
            unsafe {
                let (p, du) = (scores.as_mut_ptr().add(i * BLOCK), gradients.as_mut_ptr().add(i * BLOCK));
                let (lse, delta) = (S::splat(lse[i]), S::splat(delta[i]));
                for at in (0..BLOCK).step_by(S::LANES) {
                    if !reach.full && (at >= span.hi || at + S::LANES <= span.lo || span.lo >= span.hi) {
                        S::store(p.add(at), S::splat(0.0));
                        S::store(du.add(at), S::splat(0.0));
                        continue;
                    }
                    let z = scaling.apply::<S>(S::load(p.add(at)));
                    let weight = if reach.full {
                        S::exp_nonpositive(S::sub(z, lse))
                    } else {
                        // a hidden score may be far above the log-sum-exp, and `exp_nonpositive` of -inf is 1e-38, not 0
                        let below = S::add(S::sub(z, lse), mask::<S>(&HIDE, span, at));
                        S::mul(S::exp_nonpositive(below), mask::<S>(&KEEP, span, at))
                    };
                    let dz = S::mul(weight, S::sub(S::load(du.add(at)), delta));
                    S::store(p.add(at), weight);
                    S::store(du.add(at), S::mul(dz, scaling.slope::<S>(z)));
                }
            }
        }
    }
}

impl Scaling {
    /// Returns `z` for a raw score.
    ///
    /// # Safety
    /// The contract of [`Simd`] applies: the processor has the instruction set of `S`.
    #[inline(always)]
    unsafe fn apply<S: Simd>(self, score: S::V) -> S::V {
        // SAFETY: the processor has S's instruction set, as the caller promises.
        unsafe {
            match self.softcap {
                None => S::mul(score, S::splat(self.scale)),
                Some(cap) => {
                    let u = S::mul(score, S::splat(self.scale));
                    S::mul(S::splat(cap), S::tanh(S::div(u, S::splat(cap))))
                }
            }
        }
    }

    /// Returns `dz / du` at `z`.
    ///
    /// # Safety
    /// The contract of [`Simd`] applies: the processor has the instruction set of `S`.
    #[inline(always)]
    unsafe fn slope<S: Simd>(self, z: S::V) -> S::V {
        // SAFETY: the processor has S's instruction set, as the caller promises.
        unsafe {
            match self.softcap {
                None => S::splat(1.0),
                Some(cap) => {
                    let t = S::div(z, S::splat(cap));
                    S::sub(S::splat(1.0), S::mul(t, t))
                }
            }
        }
    }
}

/// Returns the mask of the vector that begins at column `at`, from `table`. The span must not be empty.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn mask<S: Simd>(table: &[f32; 3 * PAD], span: Span, at: usize) -> S::V {
    // `front` lanes are before the span, and `back` lanes before its end; the vector may be wholly before or after the span
    let front = span.lo.saturating_sub(at).min(S::LANES);
    let back = span.hi.saturating_sub(at).min(S::LANES);
    // SAFETY: both places are within 0..=2 * PAD, and a vector has at most PAD lanes.
    unsafe {
        let after_lo = S::load(table.as_ptr().add(PAD - front));
        if front == 0 || back == S::LANES {
            return if front == 0 { S::load(table.as_ptr().add(2 * PAD - back)) } else { after_lo };
        }
        S::min(after_lo, S::load(table.as_ptr().add(2 * PAD - back)))
    }
}
