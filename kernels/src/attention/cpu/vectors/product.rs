//! The matrix product on blocks that are in cache: all arithmetic of attention except the softmax.

use crate::attention::cpu::blocks::PAD;
use crate::cpu::vectors::{Simd, VectorTask};

/// `c[i, j] (+)= Σ_t a[i, t] b[t, j]`, `t` in ascending order: the bits of an element depend on nothing but its row of `a`, its
/// column of `b` and what `c` held. Terms with `a = 0` do not change an element, so they may be left out.
pub(super) struct Product<'a> {
    /// `[rows, cols]`, and the number of elements from one row to the next
    pub c: (&'a mut [f32], usize),
    /// `a`, and `[row, step]`: `a[i, t]` is element `i * row + t * step`, so `a` may be row-major or transposed
    pub a: (&'a [f32], [usize; 2]),
    /// `[steps, cols]`, and the number of elements from one row to the next
    pub b: (&'a [f32], usize),
    /// Rows, columns and steps; the columns are a multiple of [`PAD`].
    pub sizes: [usize; 3],
    /// Whether the sums start from `c` instead of 0.
    pub add: bool,
}

impl VectorTask for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Product { c: (c, c_stride), a: (a, [a_row, a_step]), b: (b, b_stride), sizes, add } = self;
        let [rows, cols, steps] = sizes;
        if rows == 0 || cols == 0 {
            return;
        }
        assert!(cols.is_multiple_of(PAD), "blocks are padded");
        assert!((rows - 1) * c_stride + cols <= c.len(), "c holds its rows");
        if steps > 0 {
            assert!((rows - 1) * a_row + (steps - 1) * a_step < a.len(), "a holds its rows");
            assert!((steps - 1) * b_stride + cols <= b.len(), "b holds its rows");
        }
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        let at = Operands { c, c_stride, a, a_row, a_step, b, b_stride, rows, steps, add };
        // 6 x 4 vectors are 24 sums: with 4 vectors of `b` and one of `a` they fit in 32 registers; 6 x 2 fit in 16
        let widest = if S::REGISTERS >= 32 { 4 } else { 2 };
        let mut col = 0;
        while col < cols {
            let vectors = ((cols - col) / S::LANES).min(widest);
            // SAFETY: the assertions above cover every index that the panels compute; the processor has S's instruction set.
            let done = unsafe {
                match vectors {
                    4 => at.panel::<S, 4>(col),
                    2 | 3 => at.panel::<S, 2>(col),
                    _ => at.panel::<S, 1>(col),
                }
            };
            col += done * S::LANES;
        }
    }
}

/// A [`Product`] whose lengths were checked.
#[derive(Clone, Copy)]
struct Operands {
    c: *mut f32,
    c_stride: usize,
    a: *const f32,
    a_row: usize,
    a_step: usize,
    b: *const f32,
    b_stride: usize,
    rows: usize,
    steps: usize,
    add: bool,
}

impl Operands {
    /// Computes `N` vectors of columns from `col` on, for all rows. Returns `N`.
    ///
    /// # Safety
    /// The contract of [`Simd`] applies: the processor has the instruction set of `S`. The columns are inside the operands.
    #[inline(always)]
    unsafe fn panel<S: Simd, const N: usize>(self, col: usize) -> usize {
        let mut row = 0;
        while row < self.rows {
            // SAFETY: `row + M <= rows`, and the caller promises that the columns are inside.
            row += unsafe {
                match self.rows - row {
                    1 => self.tile::<S, 1, N>(row, col),
                    2 | 3 => self.tile::<S, 2, N>(row, col),
                    4 | 5 => self.tile::<S, 4, N>(row, col),
                    _ => self.tile::<S, 6, N>(row, col),
                }
            };
        }
        N
    }

    /// Computes `M` rows by `N` vectors, with the sums in registers. Returns `M`.
    ///
    /// # Safety
    /// The contract of [`Simd`] applies: the processor has the instruction set of `S`. The rows and the columns are inside the
    /// operands.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "indices as in the formula, unrolled by the compiler")]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(self, row: usize, col: usize) -> usize {
        let mut a = self.a.wrapping_add(row * self.a_row);
        let mut b = self.b.wrapping_add(col);
        // SAFETY: `run` checked that the last row, step and column are inside the operands. `a` and `b` advance with
        // `wrapping_add` because they point past the end after the last step.
        unsafe {
            let c = self.c.add(row * self.c_stride + col);
            let mut sums = [[S::splat(0.0); N]; M];
            if self.add {
                for i in 0..M {
                    for j in 0..N {
                        sums[i][j] = S::load(c.add(i * self.c_stride + j * S::LANES));
                    }
                }
            }
            for _ in 0..self.steps {
                let mut vectors = [S::splat(0.0); N];
                for j in 0..N {
                    vectors[j] = S::load(b.add(j * S::LANES));
                }
                for i in 0..M {
                    let factor = S::splat(*a.add(i * self.a_row));
                    for j in 0..N {
                        sums[i][j] = S::fma(factor, vectors[j], sums[i][j]);
                    }
                }
                a = a.wrapping_add(self.a_step);
                b = b.wrapping_add(self.b_stride);
            }
            for i in 0..M {
                for j in 0..N {
                    S::store(c.add(i * self.c_stride + j * S::LANES), sums[i][j]);
                }
            }
        }
        M
    }
}
