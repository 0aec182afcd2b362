//! Decode: one task per sequence and chunk of its cache, all heads at once, so that the cache is read in the order of memory;
//! reading it is what takes the time. The chunks' softmaxes are then merged in their order.

use super::dot;
use crate::attention::{Decode, Geometry};
use crate::cpu::simd::{Simd, Stored, VectorTask};
use crate::cpu::tasks::Disjoint;
use crate::device::Cpu;
use crate::{Device, FloatSlice, Result};
use std::ops::Range;

/// Keys of a chunk: enough to outweigh the merge, few enough that one sequence keeps several threads busy.
const CHUNK: usize = 128;

/// Some visible rows of one sequence's cache.
struct Chunk {
    sequence: usize,
    keys: Range<usize>,
}

pub(in crate::attention) fn decode(device: &Device, cpu: &Cpu, call: Decode<'_>) -> Result<()> {
    let Decode { geometry, capacity, lengths, .. } = call;
    let q = cpu.widened(device, call.qkv)?;
    cpu.in_f32(device, call.o, false, |o| match (call.k_cache, call.v_cache) {
        (FloatSlice::F32(k), FloatSlice::F32(v)) => {
            attend(device, cpu, (geometry, capacity, lengths), &q, k.cpu(), v.cpu(), o)
        }
        (FloatSlice::Bf16(k), FloatSlice::Bf16(v)) => {
            attend(device, cpu, (geometry, capacity, lengths), &q, k.cpu(), v.cpu(), o)
        }
        _ => unreachable!("`run` checked the formats"),
    })
}

fn attend<T: Stored>(
    device: &Device,
    cpu: &Cpu,
    (geometry, capacity, lengths): (Geometry, usize, &[usize]),
    qkv: &[f32],
    k: &[T],
    v: &[T],
    o: &mut [f32],
) -> Result<()> {
    let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim: d, .. } = geometry;
    let o = Disjoint::new(o);

    let mut chunks = Vec::new();
    let mut of_sequence = Vec::with_capacity(lengths.len());
    for (sequence, &length) in lengths.iter().enumerate() {
        let begin = chunks.len();
        let mut at = geometry.first_visible(length - 1);
        while at < length {
            let end = (at + CHUNK).min(length);
            chunks.push(Chunk { sequence, keys: at..end });
            at = end;
        }
        of_sequence.push(begin..chunks.len());
    }

    // of each chunk `[heads, head_dim]` weighted sums, `[heads]` maxima, `[heads]` sums of weights
    let part = heads * (d + 2);
    let mut parts = device.alloc("attention.decode", chunks.len() * part)?;
    {
        let parts = Disjoint::new(parts.view_mut().cpu());
        cpu.for_each_task(device, "attention.decode", chunks.len(), heads * CHUNK, |task, scores| {
            let Chunk { sequence, keys } = &chunks[task];
            let row = kv_heads * d;
            let cached = (sequence * capacity + keys.start) * row..(sequence * capacity + keys.end) * row;
            // SAFETY: each chunk has a part of its own.
            let part = unsafe { parts.slice(task * part..(task + 1) * part) };
            let (o, rest) = part.split_at_mut(heads * d);
            let (max, sum) = rest.split_at_mut(heads);
            let q = &qkv[sequence * geometry.qkv_cols()..][..heads * d];
            let (k, v) = (&k[cached.clone()], &v[cached]);
            cpu.isa().dispatch(Attend { geometry, keys: keys.len(), q, k, v, o, max, sum, scores });
        })?;
    }

    let parts = parts.view().cpu();
    cpu.for_each_task(device, "attention.decode", lengths.len(), 0, |sequence, _| {
        // SAFETY: each sequence is one task.
        let o = unsafe { o.slice(sequence * heads * d..(sequence + 1) * heads * d) };
        let own = &of_sequence[sequence];
        merge(&parts[own.start * part..own.end * part], heads, d, o);
    })
}

/// Adds the parts `[chunk, part]` of one sequence, each scaled to the largest maximum of its head.
fn merge(parts: &[f32], heads: usize, head_dim: usize, o: &mut [f32]) {
    let part = heads * (head_dim + 2);
    o.fill(0.0);
    for (head, o) in o.chunks_exact_mut(head_dim).enumerate() {
        let max_at = heads * head_dim + head;
        let max = parts.chunks_exact(part).fold(f32::NEG_INFINITY, |max, part| max.max(part[max_at]));
        let mut sum = 0.0;
        for part in parts.chunks_exact(part) {
            let factor = (part[max_at] - max).exp();
            sum += factor * part[max_at + heads];
            for (o, &x) in o.iter_mut().zip(&part[head * head_dim..]) {
                *o += factor * x;
            }
        }
        for o in o {
            *o /= sum;
        }
    }
}

/// All query heads of one row against `keys` rows of the cache.
struct Attend<'a, T> {
    geometry: Geometry,
    keys: usize,
    /// `[heads, head_dim]`
    q: &'a [f32],
    /// `[keys, num_key_value_heads * head_dim]`
    k: &'a [T],
    /// As `k`.
    v: &'a [T],
    /// `[heads, head_dim]`: `Σ exp(z - max) v`
    o: &'a mut [f32],
    /// `[heads]`
    max: &'a mut [f32],
    /// `[heads]`: `Σ exp(z - max)`
    sum: &'a mut [f32],
    /// `[heads, CHUNK]`
    scores: &'a mut [f32],
}

impl<T: Stored> VectorTask for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attend { geometry, keys, q, k, v, o, max, sum, scores } = self;
        let (group, d) = (geometry.group(), geometry.head_dim);
        let row = geometry.num_key_value_heads * d;
        for (key, k) in k.chunks_exact(row).enumerate() {
            for (head, q) in q.chunks_exact(d).enumerate() {
                let at = head / group * d;
                // SAFETY: both have `d` elements; the instruction set is S's.
                let u = geometry.scale * unsafe { dot::<S, f32, T>(q, &k[at..at + d]) };
                scores[head * CHUNK + key] = geometry.softcap.map_or(u, |cap| cap * (u / cap).tanh());
            }
        }
        for (head, z) in scores.chunks_exact_mut(CHUNK).enumerate() {
            let z = &mut z[..keys];
            max[head] = z.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
            // SAFETY: every access is within `z`; the instruction set is S's.
            sum[head] = unsafe { exp_in_place::<S>(z, max[head]) };
        }
        o.fill(0.0);
        for (key, v) in v.chunks_exact(row).enumerate() {
            for (head, o) in o.chunks_exact_mut(d).enumerate() {
                let at = head / group * d;
                // SAFETY: both have `d` elements; the instruction set is S's.
                unsafe { add_scaled::<S, T>(o, scores[head * CHUNK + key], &v[at..at + d]) };
            }
        }
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
            let e = S::exp_nonpositive(S::sub(S::load(z.as_ptr().add(at)), top));
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
unsafe fn add_scaled<S: Simd, T: Stored>(o: &mut [f32], by: f32, x: &[T]) {
    // SAFETY: the caller's contract; loads and stores end inside the slices.
    unsafe {
        let by = S::splat(by);
        for at in (0..x.len()).step_by(S::LANES) {
            let lanes = S::LANES.min(x.len() - at);
            let (to, from) = (o.as_mut_ptr().add(at), x.as_ptr().add(at));
            if lanes == S::LANES {
                S::store(to, S::fma(by, T::load::<S>(from), S::load(to)));
            } else {
                S::store_partial(to, S::fma(by, T::load_partial::<S>(from, lanes), S::load_partial(to, lanes)), lanes);
            }
        }
    }
}
