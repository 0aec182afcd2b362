//! Decode: one task per sequence and key-value head. Each key and value is read from memory once for the query heads that share
//! it; reading them is what takes the time.

use super::heaviest_first;
use crate::attention::{Decode, Geometry};
use crate::cpu::simd::{Simd, VectorTask};
use crate::cpu::tasks::Disjoint;
use crate::device::Cpu;
use crate::{Device, Result};

/// Keys whose scores are computed before their values are read: the scores of a large group stay in cache.
const KEYS: usize = 256;

pub(in crate::attention) fn decode(device: &Device, cpu: &Cpu, call: Decode<'_>) -> Result<()> {
    let Decode { geometry, capacity, lengths, .. } = call;
    let Geometry { num_key_value_heads: kv_heads, head_dim: d, .. } = geometry;
    let (q, k, v) = (call.q.cpu(), call.k_cache.cpu(), call.v_cache.cpu());
    let o = Disjoint::new(call.o.cpu());
    let width = geometry.group() * d;
    let mut jobs: Vec<(usize, usize)> = (0..lengths.len() * kv_heads).map(|n| (n / kv_heads, n % kv_heads)).collect();
    heaviest_first(&mut jobs, |&(sequence, _)| lengths[sequence]);
    cpu.for_each_task(device, "attention.decode", jobs.len(), geometry.group() * KEYS, |task, scores| {
        let (sequence, kv_head) = jobs[task];
        let at = (sequence * kv_heads + kv_head) * width;
        let first = geometry.first_visible(lengths[sequence] - 1);
        let cache = sequence * capacity * kv_heads * d;
        let cached = cache + first * kv_heads * d..cache + lengths[sequence] * kv_heads * d;
        cpu.isa().dispatch(OneRow {
            geometry,
            head_at: kv_head * d,
            keys: lengths[sequence] - first,
            q: &q[at..at + width],
            k: &k[cached.clone()],
            v: &v[cached],
            // SAFETY: each sequence and key-value head is one task.
            o: unsafe { o.slice(at..at + width) },
            scores,
        });
    })
}

/// The query heads of one key-value head against `keys` rows of the cache.
struct OneRow<'a> {
    geometry: Geometry,
    /// Where the head begins in a row of the cache.
    head_at: usize,
    keys: usize,
    /// `[group, head_dim]`
    q: &'a [f32],
    /// `[keys, num_key_value_heads * head_dim]`
    k: &'a [f32],
    /// As `k`.
    v: &'a [f32],
    /// `[group, head_dim]`
    o: &'a mut [f32],
    /// `[group, KEYS]`
    scores: &'a mut [f32],
}

impl VectorTask for OneRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let OneRow { geometry, head_at, keys, q, k, v, o, scores } = self;
        let (group, d) = (geometry.group(), geometry.head_dim);
        let stride = geometry.num_key_value_heads * d;
        o.fill(0.0);
        let mut state = vec![(f32::NEG_INFINITY, 0.0f32); group];
        for begin in (0..keys).step_by(KEYS) {
            let n = KEYS.min(keys - begin);
            for key in 0..n {
                let row = &k[(begin + key) * stride + head_at..][..d];
                for (g, q) in q.chunks_exact(d).enumerate() {
                    // SAFETY: both have `d` elements; the instruction set is S's.
                    let u = geometry.scale * unsafe { dot::<S>(q, row) };
                    scores[g * KEYS + key] = geometry.softcap.map_or(u, |cap| cap * (u / cap).tanh());
                }
            }
            for (g, (max, sum)) in state.iter_mut().enumerate() {
                let z = &mut scores[g * KEYS..][..n];
                let after = z.iter().fold(*max, |max, &x| if x > max { x } else { max });
                let factor = (*max - after).exp();
                *max = after;
                *sum *= factor;
                // SAFETY: every access is within `z`; the instruction set is S's.
                *sum += unsafe { exp_in_place::<S>(z, after) };
                for o in &mut o[g * d..][..d] {
                    *o *= factor;
                }
            }
            for key in 0..n {
                let row = &v[(begin + key) * stride + head_at..][..d];
                for (g, o) in o.chunks_exact_mut(d).enumerate() {
                    // SAFETY: both have `d` elements; the instruction set is S's.
                    unsafe { add_scaled::<S>(o, scores[g * KEYS + key], row) };
                }
            }
        }
        for (o, (_, sum)) in o.chunks_exact_mut(d).zip(state) {
            for o in o {
                *o /= sum;
            }
        }
    }
}

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

/// `z = exp(z - max)`; returns the sum.
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn exp_in_place<S: Simd>(z: &mut [f32], max: f32) -> f32 {
    // SAFETY: the caller's contract; loads and stores end inside `z`.
    unsafe {
        let whole = z.len() / S::LANES * S::LANES;
        let top = S::splat(max);
        let mut sum = S::splat(0.0);
        for at in (0..whole).step_by(S::LANES) {
            let e = S::exp(S::sub(S::load(z.as_ptr().add(at)), top));
            S::store(z.as_mut_ptr().add(at), e);
            sum = S::add(sum, e);
        }
        let mut total = S::reduce_add(sum);
        for z in &mut z[whole..] {
            *z = (*z - max).exp();
            total += *z;
        }
        total
    }
}

/// `o += by * x`
///
/// # Safety
/// As [`Simd`]; the slices are equally long.
#[inline(always)]
unsafe fn add_scaled<S: Simd>(o: &mut [f32], by: f32, x: &[f32]) {
    // SAFETY: the caller's contract; loads and stores end inside the slices.
    unsafe {
        let by = S::splat(by);
        for at in (0..x.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(x.len() - at);
            let (to, from) = (o.as_mut_ptr().add(at), x.as_ptr().add(at));
            if lanes == S::LANES {
                S::store(to, S::fma(by, S::load(from), S::load(to)));
            } else {
                S::store_partial(to, S::fma(by, S::load_partial(from, lanes), S::load_partial(to, lanes)), lanes);
            }
        }
    }
}
