//! One tile of the output in registers: `tile[i, j] = Σ_p left[i, p] * right[p, j]`, p in order, one multiply-add at a time.
//!
//! AVX-512: 12 rows x 2 vectors in 24 of 32 registers; each loaded vector is used 12 times and each broadcast twice. AVX2: 6 x
//! 2 in 12 of 16. NEON has as many registers as AVX-512, a quarter as wide, and uses the same tile: 14 loads to 24 multiply-adds,
//! on cores that start about as many loads as multiply-adds. The last rows, if they are fewer, use a smaller tile with the same
//! arithmetic per element.

use crate::cpu::vectors::{Loaded, Simd, Stored, VectorTask};

/// Vectors in a full tile's row.
pub(super) const TILE_VECTORS: usize = 2;
/// Elements of a cache line: the depth that one line of a left row holds.
const LINE: usize = 16;

/// Some rows of the left operand, as many as the tile is high.
#[derive(Clone, Copy)]
pub(super) enum LeftTile {
    /// `stride` elements from row to row; the depth is contiguous.
    Rows { at: *const f32, stride: usize },
    /// `stride` elements from one depth to the next; the rows are contiguous.
    Columns { at: *const f32, stride: usize },
}

/// A panel of the right operand: vectors of a row are contiguous, `stride` elements from one depth to the next.
#[derive(Clone, Copy)]
pub(super) struct RightPanel {
    pub(super) at: *const f32,
    pub(super) stride: usize,
}

/// Where and how a tile's sums are stored.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub(super) output: *mut f32,
    pub(super) output_stride: usize,
    /// The sums of the depth blocks so far: read unless `first`, written unless `last`.
    pub(super) partial: *mut f32,
    pub(super) partial_stride: usize,
    /// Columns of the output in this panel, at most as many as the panel's vectors hold.
    pub(super) cols: usize,
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) alpha: f32,
    /// Whether the product is added to the output or replaces it.
    pub(super) add: bool,
}

/// Returns the rows of the next tile if `rows` rows are left.
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

/// Multiplies `rows` rows (a value of [`tile_rows`]) by a panel over `depth` and stores the sums.
///
/// # Safety
/// As [`Simd`]; `left` holds `rows` rows of `depth` elements; `right` holds `depth` rows of `store.cols` elements rounded up to
/// whole vectors; `store` points at `rows` rows of `store.cols` elements.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(rows: usize, left: LeftTile, right: RightPanel, depth: usize, store: Store) {
    // SAFETY: the caller guarantees the instruction set of `S` and the sizes of the operands.
    unsafe {
        match left {
            LeftTile::Rows { at, stride } => run_width::<S, _>(rows, LeftRows { at, stride }, right, depth, store),
            LeftTile::Columns { at, stride } => {
                run_width::<S, _>(rows, LeftColumns { at, stride }, right, depth, store)
            }
        }
    }
}

#[inline(always)]
unsafe fn run_width<S: Simd, L: LeftOperand>(rows: usize, left: L, right: RightPanel, depth: usize, store: Store) {
    // SAFETY: `run` passes on its own operands, so its contract covers them.
    unsafe {
        if store.cols > S::LANES {
            run_height::<S, _, TILE_VECTORS>(rows, left, right, depth, store);
        } else {
            run_height::<S, _, 1>(rows, left, right, depth, store);
        }
    }
}

#[inline(always)]
unsafe fn run_height<S: Simd, L: LeftOperand, const NV: usize>(
    rows: usize,
    left: L,
    right: RightPanel,
    depth: usize,
    store: Store,
) {
    // SAFETY: `run` passes on its own operands, so its contract covers them.
    unsafe {
        match rows {
            12 if S::REGISTERS >= 32 => S::apart(Tile::<L, 12, NV> { left, right, depth, store }),
            8 if S::REGISTERS >= 32 => S::apart(Tile::<L, 8, NV> { left, right, depth, store }),
            6 if S::REGISTERS == 16 => S::apart(Tile::<L, 6, NV> { left, right, depth, store }),
            4 if S::REGISTERS >= 16 => S::apart(Tile::<L, 4, NV> { left, right, depth, store }),
            2 => S::apart(Tile::<L, 2, NV> { left, right, depth, store }),
            _ => S::apart(Tile::<L, 1, NV> { left, right, depth, store }),
        }
    }
}

/// A [`LeftTile`] whose form is known at compile time.
trait LeftOperand: Copy {
    /// Whether to prefetch the right operand's next depth block. It follows this block in memory if the panel is read in place.
    const RIGHT_IN_PLACE: bool;
    /// Element of row `i` at the current depth.
    ///
    /// # Safety
    /// Row `i` has an element at this depth.
    unsafe fn element(self, i: usize) -> f32;
    /// Moves on to the next depth.
    fn advance(self) -> Self;
    /// Prefetches what the next tile reads. This tile is `height` rows high.
    ///
    /// # Safety
    /// The processor has the instruction set of `S`.
    unsafe fn prefetch_next<S: Simd>(self, height: usize);
}

#[derive(Clone, Copy)]
struct LeftRows {
    at: *const f32,
    stride: usize,
}

impl LeftOperand for LeftRows {
    const RIGHT_IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn element(self, i: usize) -> f32 {
        // SAFETY: row `i` has an element at this depth, by the contract of `LeftOperand::element`.
        unsafe { *self.at.wrapping_add(i.wrapping_mul(self.stride)) }
    }
    #[inline(always)]
    fn advance(self) -> LeftRows {
        LeftRows { at: self.at.wrapping_add(1), ..self }
    }
    #[inline(always)]
    unsafe fn prefetch_next<S: Simd>(self, height: usize) {
        // Prefetches the rows of the next tile at this depth, only into the second-level cache, because the panel fills the
        // first-level cache.
        let mut next = self.at.wrapping_add(height.wrapping_mul(self.stride));
        for _ in 0..height {
            // SAFETY: the processor has the instruction set of S, and a prefetch needs no valid address.
            unsafe { S::prefetch_far(next) };
            next = next.wrapping_add(self.stride);
        }
    }
}

#[derive(Clone, Copy)]
struct LeftColumns {
    at: *const f32,
    stride: usize,
}

impl LeftOperand for LeftColumns {
    const RIGHT_IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn element(self, i: usize) -> f32 {
        // SAFETY: row `i` has an element at this depth, by the contract of `LeftOperand::element`.
        unsafe { *self.at.wrapping_add(i) }
    }
    #[inline(always)]
    fn advance(self) -> LeftColumns {
        LeftColumns { at: self.at.wrapping_add(self.stride), ..self }
    }
    #[inline(always)]
    unsafe fn prefetch_next<S: Simd>(self, _: usize) {}
}

struct Tile<L, const MR: usize, const NV: usize> {
    left: L,
    right: RightPanel,
    depth: usize,
    store: Store,
}

impl<L: LeftOperand, const MR: usize, const NV: usize> VectorTask for Tile<L, MR, NV> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Tile { left, right, depth, store } = self;
        // SAFETY: the tile holds the operands of the function `run`, so that function's contract covers them.
        unsafe {
            prefetch_output::<S, MR, NV>(store);
            let sums = sums::<S, L, MR, NV>(left, right, depth);
            if store.cols == NV * S::LANES {
                put::<S, MR, NV>(sums, [S::LANES; NV], store);
            } else {
                let lanes = std::array::from_fn(|j| store.cols.saturating_sub(j * S::LANES).min(S::LANES));
                put::<S, MR, NV>(sums, lanes, store);
            }
        }
    }
}

#[inline(always)]
unsafe fn sums<S: Simd, L: LeftOperand, const MR: usize, const NV: usize>(
    mut left: L,
    right: RightPanel,
    depth: usize,
) -> [[S::V; NV]; MR] {
    // SAFETY: `left` and `right` hold `depth` steps, and the two loops make `depth` steps in all.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        let mut at = right.at;
        let next_block = depth.wrapping_mul(right.stride);
        let (mut lines, rest) = (depth / LINE, depth % LINE);
        while lines > 0 {
            left.prefetch_next::<S>(MR);
            for _ in 0..LINE {
                step::<S, L, MR, NV>(left, at, next_block, &mut sums);
                (left, at) = (left.advance(), at.wrapping_add(right.stride));
            }
            lines -= 1;
        }
        for _ in 0..rest {
            step::<S, L, MR, NV>(left, at, next_block, &mut sums);
            (left, at) = (left.advance(), at.wrapping_add(right.stride));
        }
        sums
    }
}

#[inline(always)]
unsafe fn step<S: Simd, L: LeftOperand, const MR: usize, const NV: usize>(
    left: L,
    right: *const f32,
    next_block: usize,
    sums: &mut [[S::V; NV]; MR],
) {
    // SAFETY: at each depth `left` has `MR` elements and `right` has `NV` whole vectors, by the contract of `run`.
    unsafe {
        let mut columns = [S::splat(0.0); NV];
        for j in 0..NV {
            let at = right.wrapping_add(j * S::LANES);
            if L::RIGHT_IN_PLACE {
                S::prefetch_far(at.wrapping_add(next_block));
            }
            columns[j] = S::load(at);
        }
        for i in 0..MR {
            let x = S::splat(left.element(i));
            for j in 0..NV {
                sums[i][j] = S::fma(x, columns[j], sums[i][j]);
            }
        }
    }
}

/// Prefetches the lines of the output, or of the partial sums, while the sums are computed. A store to a line that is not in the
/// cache would hold up the next tiles.
#[inline(always)]
unsafe fn prefetch_output<S: Simd, const MR: usize, const NV: usize>(store: Store) {
    let (mut row, stride) = if store.first && store.last {
        (store.output, store.output_stride)
    } else {
        (store.partial, store.partial_stride)
    };
    for _ in 0..MR {
        for j in 0..NV {
            // SAFETY: the processor has the instruction set of S, and a prefetch needs no valid address.
            unsafe { S::prefetch(row.wrapping_add(j * S::LANES)) };
        }
        row = row.wrapping_add(stride);
    }
}

#[inline(always)]
unsafe fn put<S: Simd, const MR: usize, const NV: usize>(sums: [[S::V; NV]; MR], lanes: [usize; NV], store: Store) {
    // SAFETY: the partial sums and the output hold `MR` rows of `store.cols` elements, and the lanes end inside these columns.
    unsafe {
        let alpha = S::splat(store.alpha);
        let (mut partial_row, mut output_row) = (store.partial, store.output);
        for i in 0..MR {
            for j in 0..NV {
                let partial = partial_row.wrapping_add(j * S::LANES);
                let output = output_row.wrapping_add(j * S::LANES);
                let mut sum = sums[i][j];
                if !store.first {
                    sum = S::add(f32::load_lanes::<S>(partial, lanes[j]), sum);
                }
                if !store.last {
                    f32::store_lanes::<S>(partial, sum, lanes[j]);
                } else if store.add {
                    f32::store_lanes::<S>(output, S::fma(alpha, sum, f32::load_lanes::<S>(output, lanes[j])), lanes[j]);
                } else {
                    f32::store_lanes::<S>(output, S::mul(alpha, sum), lanes[j]);
                }
            }
            partial_row = partial_row.wrapping_add(store.partial_stride);
            output_row = output_row.wrapping_add(store.output_stride);
        }
    }
}
