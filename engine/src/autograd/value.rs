//! Values of the forward pass, and what nodes keep of them.

use align_kernels::{Buffer, Device, FloatBuffer, FloatDtype, FloatSlice, Result, Slice};
use std::cell::OnceCell;
use std::rc::Rc;

/// A value of the forward pass. Clones share the value. It is freed when the last clone and the last node that kept it are gone.
#[derive(Debug, Clone)]
pub struct Var {
    pub(super) value: Rc<Value>,
}

#[derive(Debug)]
pub(super) struct Value {
    pub(super) input: Input,
    pub(super) rows: usize,
    pub(super) buffer: Rc<FloatBuffer>,
    /// A copy of only the rows with a gradient, which nodes keep instead of all rows. It is made when a node first asks for it.
    pub(super) prefix: OnceCell<Rc<FloatBuffer>>,
    /// How to recompute the rows with a gradient, from values that nodes keep anyway. `None` if nodes must keep the rows
    /// themselves.
    pub(super) recompute: Option<Rc<dyn Recompute>>,
}

/// Recomputes, to the same bits, the rows of a value that have a gradient. It is meant for values that are cheap to compute and
/// large to keep.
pub trait Recompute: std::fmt::Debug {
    /// Returns the rows, `[grad_rows, cols]`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    fn recompute(&self, device: &Device) -> Result<FloatBuffer>;
}

/// What a node keeps about a value that it read, so that it can add to the value's gradient.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub(super) id: usize,
    /// Number of rows with a gradient.
    pub grad_rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Format of the value, and of its gradient.
    pub dtype: FloatDtype,
}

impl Input {
    /// Returns the number of elements of the gradient.
    pub fn len(&self) -> usize {
        self.grad_rows * self.cols
    }

    /// Whether no row has a gradient.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Var {
    /// Returns the total number of rows.
    pub fn rows(&self) -> usize {
        self.value.rows
    }

    /// Returns the number of columns.
    pub fn cols(&self) -> usize {
        self.value.input.cols
    }

    /// Returns the number of rows that have a gradient. They are the first ones.
    pub fn grad_rows(&self) -> usize {
        self.value.input.grad_rows
    }

    /// Returns the elements of all rows, `[rows, cols]`.
    pub fn view(&self) -> FloatSlice<'_> {
        self.value.buffer.view()
    }

    /// Returns what a node needs to add to this value's gradient.
    pub fn input(&self) -> Input {
        self.value.input
    }
}

/// The rows of a value that the backward pass needs, `[grad_rows, cols]`.
#[derive(Debug, Clone)]
pub struct Saved {
    pub(super) buffer: Rc<FloatBuffer>,
    pub(super) len: usize,
}

impl Saved {
    /// Returns the rows, `[grad_rows, cols]`.
    pub fn view(&self) -> FloatSlice<'_> {
        self.buffer.view().range(0..self.len)
    }
}

/// The rows of a value that the backward pass needs, either kept or recomputed later.
#[derive(Debug, Clone)]
pub enum SavedOrRecomputed {
    /// Kept since the forward pass.
    Saved(Saved),
    /// Recomputed when the backward pass asks for them.
    Recomputed(Rc<dyn Recompute>),
}

impl SavedOrRecomputed {
    /// Returns the rows, and recomputes them if they were not kept.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn get(&self, device: &Device) -> Result<Saved> {
        match self {
            SavedOrRecomputed::Saved(saved) => Ok(saved.clone()),
            SavedOrRecomputed::Recomputed(value) => {
                let buffer = value.recompute(device)?;
                Ok(Saved { len: buffer.len(), buffer: Rc::new(buffer) })
            }
        }
    }
}

/// Numbers that an op made for its own backward pass. They are f32 in every precision.
#[derive(Debug)]
pub struct SavedF32 {
    pub(super) buffer: Buffer<f32>,
    pub(super) len: usize,
}

impl SavedF32 {
    /// Returns the numbers.
    pub fn view(&self) -> Slice<'_, f32> {
        self.buffer.view().range(0..self.len)
    }
}
