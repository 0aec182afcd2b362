//! The definition of attention: row by row, head by head, one score vector at a time.
//!
//! For a query row `i` of head `h` at position `p`, with `t` over the positions that it sees:
//!
//! ```text
//! forward    u[t] = scale * q[i,h]·k[t]        z[t] = u[t], or cap * tanh(u[t] / cap)
//!            lse  = log Σ_t exp z[t]           P[t] = exp(z[t] - lse)        o[i,h] = Σ_t P[t] v[t]
//! backward   δ    = d_o[i,h]·o[i,h]            dz[t] = P[t] (d_o[i,h]·v[t] - δ)
//!            du[t] = dz[t] (1 - (z[t]/cap)²)   with the soft-cap, else dz[t]
//!            dq[i,h] = scale Σ_t du[t] k[t]    dk[t] += scale du[t] q[i,h]   dv[t] += P[t] d_o[i,h]
//! ```

use super::{Geometry, Segment};
use crate::real::Real;

/// Returns `o`, `[rows, num_attention_heads * head_dim]`, and `lse`, `[rows, num_attention_heads]`. Rows that no segment covers
/// are zero.
pub(crate) fn forward<R: Real>(
    rows: usize,
    geometry: &Geometry,
    segments: &[Segment],
    q: &[R],
    k: &[R],
    v: &[R],
) -> (Vec<R>, Vec<R>) {
    let (heads, d) = (geometry.num_attention_heads, geometry.head_dim);
    let mut o = vec![R::ZERO; rows * heads * d];
    let mut lse = vec![R::ZERO; rows * heads];
    for segment in segments {
        for position in segment.prefix.len()..segment.positions() {
            let i = segment.row_at(position);
            let visible = geometry.first_visible(position)..position + 1;
            for h in 0..heads {
                let kv_at = |t: usize| key_value_at(geometry, segment.row_at(t), h);
                let qi = &q[(i * heads + h) * d..][..d];
                let z: Vec<R> = visible.clone().map(|t| score(geometry, qi, &k[kv_at(t)..][..d])).collect();
                let oi = &mut o[(i * heads + h) * d..][..d];
                lse[i * heads + h] = weighted_sum(&z, |n| &v[kv_at(visible.start + n)..][..d], oi);
            }
        }
    }
    (o, lse)
}

/// The gradients that [`backward`] returns.
pub(crate) struct Gradients<R> {
    /// With respect to `q`, in its shape.
    pub dq: Vec<R>,
    /// With respect to `k`, in its shape.
    pub dk: Vec<R>,
    /// With respect to `v`, in its shape.
    pub dv: Vec<R>,
}

/// Returns the gradients of [`forward`], given its inputs, its outputs and `d_o`.
#[expect(clippy::too_many_arguments, reason = "the slices of the kernel's struct, for any number format")]
pub(crate) fn backward<R: Real>(
    rows: usize,
    geometry: &Geometry,
    segments: &[Segment],
    q: &[R],
    k: &[R],
    v: &[R],
    o: &[R],
    lse: &[R],
    d_o: &[R],
) -> Gradients<R> {
    let (heads, d) = (geometry.num_attention_heads, geometry.head_dim);
    let scale = R::from_f32(geometry.scale);
    let kv_len = rows * geometry.num_key_value_heads * d;
    let (mut dq, mut dk, mut dv) = (vec![R::ZERO; rows * heads * d], vec![R::ZERO; kv_len], vec![R::ZERO; kv_len]);
    for segment in segments {
        for position in segment.prefix.len()..segment.positions() {
            let i = segment.row_at(position);
            for h in 0..heads {
                let at = (i * heads + h) * d;
                let (qi, d_oi) = (&q[at..][..d], &d_o[at..][..d]);
                let delta = dot(d_oi, &o[at..][..d]);
                for t in geometry.first_visible(position)..=position {
                    let kv_at = key_value_at(geometry, segment.row_at(t), h);
                    let z = score(geometry, qi, &k[kv_at..][..d]);
                    let p = (z - lse[i * heads + h]).exp();
                    let dz = p * (dot(d_oi, &v[kv_at..][..d]) - delta);
                    let du = scale * dz * softcap_slope(geometry, z);
                    for c in 0..d {
                        dq[at + c] += du * k[kv_at + c];
                        dk[kv_at + c] += du * qi[c];
                        dv[kv_at + c] += p * d_oi[c];
                    }
                }
            }
        }
    }
    Gradients { dq, dk, dv }
}

/// Returns `o` for one new row of each sequence; see [`super::Decode`].
pub(crate) fn decode<R: Real>(
    geometry: &Geometry,
    capacity: usize,
    lengths: &[usize],
    q: &[R],
    k_cache: &[R],
    v_cache: &[R],
) -> Vec<R> {
    let (heads, d) = (geometry.num_attention_heads, geometry.head_dim);
    let mut o = vec![R::ZERO; lengths.len() * heads * d];
    for (b, &length) in lengths.iter().enumerate() {
        let visible = geometry.first_visible(length - 1)..length;
        for h in 0..heads {
            let kv_at = |t: usize| key_value_at(geometry, b * capacity + t, h);
            let at = (b * heads + h) * d;
            let z: Vec<R> =
                visible.clone().map(|t| score(geometry, &q[at..][..d], &k_cache[kv_at(t)..][..d])).collect();
            weighted_sum(&z, |n| &v_cache[kv_at(visible.start + n)..][..d], &mut o[at..][..d]);
        }
    }
    o
}

/// Returns the index of the first element of the key, or of the value, that query head `h` reads in `row`.
fn key_value_at(geometry: &Geometry, row: usize, h: usize) -> usize {
    (row * geometry.num_key_value_heads + h / geometry.group()) * geometry.head_dim
}

fn dot<R: Real>(a: &[R], b: &[R]) -> R {
    let mut sum = R::ZERO;
    for c in 0..a.len() {
        sum += a[c] * b[c];
    }
    sum
}

/// Returns the score of a query and a key: `z` of the formulas.
fn score<R: Real>(geometry: &Geometry, q: &[R], k: &[R]) -> R {
    let u = R::from_f32(geometry.scale) * dot(q, k);
    match geometry.softcap {
        Some(cap) => R::from_f32(cap) * (u / R::from_f32(cap)).tanh(),
        None => u,
    }
}

/// Returns `dz / du` at `z`.
fn softcap_slope<R: Real>(geometry: &Geometry, z: R) -> R {
    match geometry.softcap {
        Some(cap) => {
            let t = z / R::from_f32(cap);
            R::ONE - t * t
        }
        None => R::ONE,
    }
}

/// Sets `o = Σ_n softmax(z)[n] value(n)`. Returns the log-sum-exp of `z`.
fn weighted_sum<'v, R: Real + 'v>(z: &[R], value: impl Fn(usize) -> &'v [R], o: &mut [R]) -> R {
    let max = z.iter().fold(R::NEG_INFINITY, |max, &x| max.larger(x));
    let mut sum = R::ZERO;
    for &x in z {
        sum += (x - max).exp();
    }
    let lse = max + sum.ln();
    for (n, &x) in z.iter().enumerate() {
        let p = (x - max).exp() / sum;
        for (o, &v) in o.iter_mut().zip(value(n)) {
            *o += p * v;
        }
    }
    lse
}
