//! One tile of the output in registers: `tile[i, j] = Σ_p left[i, p] * right[p, j]`, p in order, one fused product at a time.
//!
//! AVX-512: 12 rows x 2 vectors in 24 of 32 registers; each loaded vector is used 12 times and each broadcast twice. AVX2: 6 x 2
//! in 12 of 16. Fewer rows at the lower edge take a smaller tile with the same arithmetic per element.

use crate::cpu::simd::Simd;

/// Vectors in a full tile's row.
pub(super) const TILE_VECTORS: usize = 2;

/// How the left operand's rows of a tile lie.
#[derive(Clone, Copy)]
pub(super) enum LeftTile {
    /// Row after row, this many elements apart.
    Rows { at: *const f32, stride: usize },
    /// `[depth, tile rows]`, packed.
    Columns { at: *const f32 },
}

/// What happens to a tile's sums.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub(super) output: *mut f32,
    pub(super) output_stride: usize,
    /// The sums of the depth blocks so far: read unless `first`, written unless `last`.
    pub(super) partial: *mut f32,
    pub(super) partial_stride: usize,
    /// Columns of the output in this panel, at most the panel's vectors hold.
    pub(super) cols: usize,
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) alpha: f32,
    /// Whether the output is added to.
    pub(super) add: bool,
}

/// Rows of the next tile where `rows` are left.
#[inline(always)]
pub(super) fn tile_rows<S: Simd>(rows: usize) -> usize {
    match rows {
        12.. if S::REGISTERS >= 32 => 12,
        8.. if S::REGISTERS >= 32 => 8,
        6.. if S::REGISTERS == 16 => 6,
        4.. if S::REGISTERS >= 16 => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Multiplies `rows` rows (a value of [`tile_rows`]) by a packed panel `[depth, NV * LANES]` and stores them.
///
/// # Safety
/// As [`Simd`]; `left` holds `rows` rows of `depth` elements, `right` the panel, and `store` points at `rows` rows of
/// `store.cols` elements.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, const NV: usize>(
    rows: usize,
    left: LeftTile,
    right: *const f32,
    depth: usize,
    store: Store,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match rows {
            12 if S::REGISTERS >= 32 => tile::<S, 12, NV>(left, right, depth, store),
            8 if S::REGISTERS >= 32 => tile::<S, 8, NV>(left, right, depth, store),
            6 if S::REGISTERS == 16 => tile::<S, 6, NV>(left, right, depth, store),
            4 if S::REGISTERS >= 16 => tile::<S, 4, NV>(left, right, depth, store),
            2 => tile::<S, 2, NV>(left, right, depth, store),
            _ => tile::<S, 1, NV>(left, right, depth, store),
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    left: LeftTile,
    right: *const f32,
    depth: usize,
    store: Store,
) {
    // SAFETY: the caller's contract: all indices are below the sizes it names.
    unsafe {
        let sums = match left {
            LeftTile::Rows { at, stride } => sums::<S, MR, NV>(at, stride, 1, right, depth),
            LeftTile::Columns { at } => sums::<S, MR, NV>(at, 1, MR, right, depth),
        };
        if store.cols == NV * S::LANES {
            put::<S, MR, NV>(sums, [S::LANES; NV], store);
        } else {
            put::<S, MR, NV>(
                sums,
                std::array::from_fn(|j| store.cols.saturating_sub(j * S::LANES).min(S::LANES)),
                store,
            );
        }
    }
}

/// The left operand's element of row `i` and depth `p` is `left[i * row_step + p * depth_step]`.
#[inline(always)]
unsafe fn sums<S: Simd, const MR: usize, const NV: usize>(
    left: *const f32,
    row_step: usize,
    depth_step: usize,
    right: *const f32,
    depth: usize,
) -> [[S::V; NV]; MR] {
    // SAFETY: the caller's contract.
    let mut sums = [[unsafe { S::splat(0.0) }; NV]; MR];
    let (mut left, mut right) = (left, right);
    for _ in 0..depth {
        // SAFETY: the caller's contract.
        unsafe {
            let mut columns = [S::splat(0.0); NV];
            for j in 0..NV {
                columns[j] = S::load(right.wrapping_add(j * S::LANES));
            }
            for i in 0..MR {
                let x = S::splat(*left.wrapping_add(i * row_step));
                for j in 0..NV {
                    sums[i][j] = S::fma(x, columns[j], sums[i][j]);
                }
            }
        }
        left = left.wrapping_add(depth_step);
        right = right.wrapping_add(NV * S::LANES);
    }
    sums
}

#[inline(always)]
unsafe fn put<S: Simd, const MR: usize, const NV: usize>(sums: [[S::V; NV]; MR], lanes: [usize; NV], store: Store) {
    // SAFETY: the caller's contract; `lanes` end at `store.cols`.
    unsafe {
        let alpha = S::splat(store.alpha);
        for i in 0..MR {
            for j in 0..NV {
                let partial = store.partial.add(i * store.partial_stride + j * S::LANES);
                let output = store.output.add(i * store.output_stride + j * S::LANES);
                let mut sum = sums[i][j];
                if !store.first {
                    sum = S::add(load_lanes::<S>(partial, lanes[j]), sum);
                }
                if !store.last {
                    store_lanes::<S>(partial, sum, lanes[j]);
                } else if store.add {
                    store_lanes::<S>(output, S::fma(alpha, sum, load_lanes::<S>(output, lanes[j])), lanes[j]);
                } else {
                    store_lanes::<S>(output, S::mul(alpha, sum), lanes[j]);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn load_lanes<S: Simd>(from: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller's contract.
    unsafe { if lanes == S::LANES { S::load(from) } else { S::load_partial(from, lanes) } }
}

#[inline(always)]
unsafe fn store_lanes<S: Simd>(to: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: the caller's contract.
    unsafe { if lanes == S::LANES { S::store(to, v) } else { S::store_partial(to, v, lanes) } }
}
