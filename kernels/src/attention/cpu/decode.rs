//! Decode: one task per sequence and chunk of its cache, for all heads at once, so that up to [`HEADS`] heads share one read of
//! each number of the cache. Keys are transposed, and a vector of keys is multiplied by one number of each head's query at a
//! time. The sums over the values stay in registers. The softmaxes of the chunks are then merged in order.

use crate::attention::{Decode, Geometry};
use crate::cpu::Cpu;
use crate::cpu::threads::tasks::Disjoint;
use crate::cpu::vectors::{Loaded, MOST_LANES, Simd, VectorTask, largest};
use crate::{Device, FloatSlice, Result};
use std::ops::Range;

/// Keys of a chunk: enough to outweigh the merge, few enough that one sequence keeps several threads busy.
const CHUNK: usize = 128;

/// Query heads whose sums are in registers at once. Of 32 registers, the sums of 4 heads take 16, the values 4, and a weight one.
const HEADS: usize = 4;
/// The prefetch is this many keys ahead of the scoring, so that keys arrive while the keys before them are scored.
const AHEAD: usize = 2 * MOST_LANES;

/// Some visible rows of one sequence's cache.
struct Chunk {
    sequence: usize,
    keys: Range<usize>,
}

pub(in crate::attention) fn decode(device: &Device, cpu: &Cpu, call: Decode<'_>) -> Result<()> {
    let Decode { geometry, capacity, lengths, .. } = call;
    let lengths = lengths.cpu();
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

fn attend<T: Loaded>(
    device: &Device,
    cpu: &Cpu,
    (geometry, capacity, lengths): (Geometry, usize, &[u32]),
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
        let length = length as usize;
        let begin = chunks.len();
        let mut at = geometry.first_visible(length - 1);
        while at < length {
            let end = (at + CHUNK).min(length);
            chunks.push(Chunk { sequence, keys: at..end });
            at = end;
        }
        of_sequence.push(begin..chunks.len());
    }

    // for each chunk: `[heads, head_dim]` weighted sums, `[heads]` maxima, `[heads]` sums of weights
    let part = heads * (d + 2);
    let mut parts = device.alloc("attention.decode", chunks.len() * part)?;
    {
        let parts = Disjoint::new(parts.view_mut().cpu());
        let scratch = heads * CHUNK + MOST_LANES * d;
        cpu.for_each_task("attention.decode", chunks.len(), scratch, |task, scratch| {
            let (scores, columns) = scratch.split_at_mut(heads * CHUNK);
            let Chunk { sequence, keys } = &chunks[task];
            let row = kv_heads * d;
            let cached = (sequence * capacity + keys.start) * row..(sequence * capacity + keys.end) * row;
            // SAFETY: `task` is handed out once, so nobody else borrows these `part` floats.
            let part = unsafe { parts.slice(task * part..(task + 1) * part) };
            let (o, rest) = part.split_at_mut(heads * d);
            let (max, sum) = rest.split_at_mut(heads);
            let q = &qkv[sequence * geometry.qkv_cols()..][..heads * d];
            let (k, v) = (&k[cached.clone()], &v[cached]);
            cpu.isa().dispatch(Attend { geometry, keys: keys.len(), q, k, v, o, max, sum, scores, columns });
        })?;
    }

    let parts = parts.view().cpu();
    cpu.for_each_task("attention.decode", lengths.len(), 0, |sequence, _| {
        // SAFETY: `sequence` is handed out once, so nobody else borrows these rows of `o`.
        let o = unsafe { o.slice(sequence * heads * d..(sequence + 1) * heads * d) };
        let own = &of_sequence[sequence];
        merge(&parts[own.start * part..own.end * part], heads, d, o);
    })
}

/// Merges the parts `[chunk, part]` of one sequence: scales each part to its head's largest maximum, adds them, and divides by
/// the sum of the weights.
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

/// Scores and weighted values of all query heads of one sequence, over `keys` rows of its cache.
struct Attend<'a, T> {
    geometry: Geometry,
    keys: usize,
    /// `[heads, head_dim]`
    q: &'a [f32],
    /// `[keys, num_key_value_heads * head_dim]`
    k: &'a [T],
    /// `[keys, num_key_value_heads * head_dim]`
    v: &'a [T],
    /// `[heads, head_dim]`: `Σ exp(z - max) v`
    o: &'a mut [f32],
    /// `[heads]`
    max: &'a mut [f32],
    /// `[heads]`: `Σ exp(z - max)`
    sum: &'a mut [f32],
    /// `[heads, CHUNK]`
    scores: &'a mut [f32],
    /// `[head_dim, LANES]`: some keys of a head, transposed
    columns: &'a mut [f32],
}

impl<T: Loaded> VectorTask for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Attend { geometry, keys, q, k, v, o, max, sum, scores, columns } = self;
        let (group, d) = (geometry.group(), geometry.head_dim);
        let row = geometry.num_key_value_heads * d;
        for first in (0..keys).step_by(S::LANES) {
            let last = (keys - first).min(S::LANES) - 1;
            // the values are read after all keys, and have arrived by then
            // SAFETY: the processor has S's instruction set.
            unsafe {
                let ahead = (first + AHEAD).min(keys) * row..(first + AHEAD + S::LANES).min(keys) * row;
                prefetch::<S, T>(&k[ahead]);
                prefetch::<S, T>(&v[first * row..(first + last + 1) * row]);
            }
            for kv_head in 0..geometry.num_key_value_heads {
                let k = &k[first * row + kv_head * d..(first + last) * row + (kv_head + 1) * d];
                // SAFETY: `k` holds the head's `d` numbers in `last + 1` rows, `row` apart, and `columns` holds `d` times LANES
                // floats; the processor has S's instruction set.
                unsafe { transpose::<S, T>(k, [last + 1, d], row, columns) };
                for (head, heads) in groups(kv_head, group) {
                    let (q, z) = (&q[head * d..(head + heads) * d], &mut scores[head * CHUNK + first..]);
                    // SAFETY: `q` and `columns` have the shapes that `score` needs. `z` has room for LANES scores of each head,
                    // because LANES divides CHUNK. The processor has S's instruction set.
                    unsafe {
                        match heads {
                            1 => score::<S, 1>(q, columns, geometry.scale, z),
                            2 => score::<S, 2>(q, columns, geometry.scale, z),
                            3 => score::<S, 3>(q, columns, geometry.scale, z),
                            HEADS => score::<S, HEADS>(q, columns, geometry.scale, z),
                            _ => unreachable!("a group is at most {HEADS} heads"),
                        }
                    }
                }
            }
        }
        for (head, z) in scores.chunks_exact_mut(CHUNK).enumerate() {
            let z = &mut z[..keys];
            if let Some(cap) = geometry.softcap {
                z.iter_mut().for_each(|u| *u = cap * (*u / cap).tanh());
            }
            // SAFETY: every access is within `z`; the processor has S's instruction set.
            unsafe {
                max[head] = largest::<S>(z);
                sum[head] = exp_in_place::<S>(z, max[head]);
            }
        }
        for kv_head in 0..geometry.num_key_value_heads {
            let v = &v[kv_head * d..];
            for (head, heads) in groups(kv_head, group) {
                let weights = &scores[head * CHUNK..(head + heads) * CHUNK];
                let o = &mut o[head * d..(head + heads) * d];
                // SAFETY: `v` begins with `d` numbers of the head in each of `keys` rows, `o` and `weights` hold the heads; the
                // processor has S's instruction set.
                unsafe {
                    match heads {
                        1 => add_values::<S, T, 1>(weights, keys, v, row, o),
                        2 => add_values::<S, T, 2>(weights, keys, v, row, o),
                        3 => add_values::<S, T, 3>(weights, keys, v, row, o),
                        HEADS => add_values::<S, T, HEADS>(weights, keys, v, row, o),
                        _ => unreachable!("a group is at most {HEADS} heads"),
                    }
                }
            }
        }
    }
}

/// Cuts the query heads of a key-value head into groups of at most [`HEADS`]. Yields the first head of each group and the number
/// of its heads.
fn groups(kv_head: usize, heads: usize) -> impl Iterator<Item = (usize, usize)> {
    let end = (kv_head + 1) * heads;
    (kv_head * heads..end).step_by(HEADS).map(move |head| (head, (end - head).min(HEADS)))
}

/// Prefetches all of `values` into the second-level cache.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn prefetch<S: Simd, T>(values: &[T]) {
    for at in (0..values.len()).step_by(64 / size_of::<T>()) {
        // SAFETY: a prefetch needs no valid address, and `at` is below the length; the processor has S's instruction set.
        unsafe { S::prefetch_far(values.as_ptr().add(at)) };
    }
}

/// Transposes `[rows, d]`, with rows `stride` apart, to `[d, LANES]` in f32; the lanes beyond the rows repeat the last row.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`. `from` holds the rows, at least one, and `to`
/// holds `d` times LANES floats.
#[inline(always)]
unsafe fn transpose<S: Simd, T: Loaded>(from: &[T], [rows, d]: [usize; 2], stride: usize, to: &mut [f32]) {
    let step = T::TRANSPOSED * S::LANES;
    let whole = d / step * step;
    for at in (0..whole).step_by(step) {
        // SAFETY: the caller promises that `from` holds the rows, that `to` holds `d` times LANES floats, and that the processor
        // has S's instruction set; `at + step` is at most `d`.
        unsafe {
            let to = to.as_mut_ptr().add(at * S::LANES);
            T::transpose::<S>(from.as_ptr().add(at), stride, rows - 1, to, S::LANES);
        }
    }
    for at in whole..d {
        for lane in 0..S::LANES {
            to[at * S::LANES + lane] = from[lane.min(rows - 1) * stride + at].wide();
        }
    }
}

/// Scores the keys in the lanes for `H` heads. The scores of each head begin CHUNK floats after those of the head before in `z`.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`. `q` is `[H, d]`, `columns` `[d, LANES]`, and
/// `z` holds LANES floats for each head.
#[inline(always)]
unsafe fn score<S: Simd, const H: usize>(q: &[f32], columns: &[f32], scale: f32, z: &mut [f32]) {
    let d = q.len() / H;
    // SAFETY: `at` is below `d` and `head` below `H`, so every access is inside the slices that the caller promises; the
    // processor has S's instruction set.
    unsafe {
        let mut sums = [S::splat(0.0); H];
        for at in 0..d {
            let keys = S::load(columns.as_ptr().add(at * S::LANES));
            for (head, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(*q.get_unchecked(head * d + at)), keys, *sum);
            }
        }
        for (head, sum) in sums.into_iter().enumerate() {
            S::store(z.as_mut_ptr().add(head * CHUNK), S::mul(S::splat(scale), sum));
        }
    }
}

/// `o[H, d] = Σ_key weights[H, key] v[key, d]`
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`. `weights` is `[H, CHUNK]`, `keys` at most
/// CHUNK, and `v` holds `d` numbers in each of `keys` rows, `row` apart.
#[inline(always)]
unsafe fn add_values<S: Simd, T: Loaded, const H: usize>(
    weights: &[f32],
    keys: usize,
    v: &[T],
    row: usize,
    o: &mut [f32],
) {
    let d = o.len() / H;
    let mut at = 0;
    // SAFETY: every piece ends inside `d`; the caller promises the instruction set and the sizes of the slices.
    unsafe {
        while S::REGISTERS > 16 && at + 4 * S::LANES <= d {
            add_piece::<S, T, H, 4>(weights, keys, v, row, o, at, S::LANES);
            at += 4 * S::LANES;
        }
        while at + 2 * S::LANES <= d {
            add_piece::<S, T, H, 2>(weights, keys, v, row, o, at, S::LANES);
            at += 2 * S::LANES;
        }
        while at < d {
            add_piece::<S, T, H, 1>(weights, keys, v, row, o, at, S::LANES.min(d - at));
            at += S::LANES;
        }
    }
}

/// Sums `W` vectors of each head from column `at` on, each of `lanes` lanes: fewer than LANES only if `W` is 1.
///
/// # Safety
/// The contract of [`add_values`] applies, and the piece ends inside `d`.
#[inline(always)]
unsafe fn add_piece<S: Simd, T: Loaded, const H: usize, const W: usize>(
    weights: &[f32],
    keys: usize,
    v: &[T],
    row: usize,
    o: &mut [f32],
    at: usize,
    lanes: usize,
) {
    let d = o.len() / H;
    // SAFETY: the caller promises that the piece ends inside `d`, that `v` has `keys` rows, and that the processor has S's
    // instruction set; `key` is below `keys` and `head` below `H`.
    unsafe {
        let mut sums = [[S::splat(0.0); W]; H];
        for key in 0..keys {
            let from = v.as_ptr().add(key * row + at);
            let mut values = [S::splat(0.0); W];
            for (i, value) in values.iter_mut().enumerate() {
                *value = T::load_lanes::<S>(from.add(i * S::LANES), lanes);
            }
            for (head, sums) in sums.iter_mut().enumerate() {
                let weight = S::splat(*weights.get_unchecked(head * CHUNK + key));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = S::fma(weight, value, *sum);
                }
            }
        }
        for (head, sums) in sums.into_iter().enumerate() {
            for (i, sum) in sums.into_iter().enumerate() {
                S::store_partial(o.as_mut_ptr().add(head * d + at + i * S::LANES), sum, lanes);
            }
        }
    }
}

/// Sets `z = exp(z - max)` and returns the sum of the new `z`.
///
/// # Safety
/// The contract of [`Simd`] applies: the processor has the instruction set of `S`.
#[inline(always)]
unsafe fn exp_in_place<S: Simd>(z: &mut [f32], max: f32) -> f32 {
    // SAFETY: loads and stores end inside `z`; the processor has S's instruction set.
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
