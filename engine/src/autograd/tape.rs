//! The tape: values of the forward pass, and the nodes that carry their gradients back.
//!
//! A value is `[rows, cols]` of f32 whose first `grad_rows` rows have a gradient: policy rows come first in every activation, so
//! "what has a gradient" is a prefix slice in every op. An op allocates its output, runs a kernel, and pushes a node that holds
//! what the backward pass needs. What is kept is that prefix alone; rows without a gradient are freed when the forward pass has
//! read them.

use super::grads::{Grads, ParamGrads};
use crate::rows::Pass;
use align_kernels::{Buffer, Device, Precision, Result, Slice};
use std::cell::OnceCell;
use std::rc::Rc;

/// A value of the forward pass. Clones share it; it is freed when the last clone and the last node that kept it are gone.
#[derive(Debug, Clone)]
pub struct Var {
    value: Rc<Value>,
}

#[derive(Debug)]
struct Value {
    input: Input,
    rows: usize,
    buffer: Rc<Buffer<f32>>,
    /// The rows with a gradient, copied once if the others need not stay.
    prefix: OnceCell<Rc<Buffer<f32>>>,
}

/// What a node knows of a value that it read: enough to add to its gradient.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    pub(super) id: usize,
    /// Rows with a gradient.
    pub grad_rows: usize,
    /// Columns.
    pub cols: usize,
}

impl Input {
    /// Elements of the gradient.
    pub fn len(&self) -> usize {
        self.grad_rows * self.cols
    }

    /// Whether no row has a gradient.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Var {
    /// All rows.
    pub fn rows(&self) -> usize {
        self.value.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.value.input.cols
    }

    /// Rows that have a gradient: the first ones.
    pub fn grad_rows(&self) -> usize {
        self.value.input.grad_rows
    }

    /// The content, `[rows, cols]`.
    pub fn view(&self) -> Slice<'_, f32> {
        self.value.buffer.view()
    }

    /// What a node stores to add to this value's gradient.
    pub fn input(&self) -> Input {
        self.value.input
    }
}

/// The rows of a value that the backward pass needs, `[grad_rows, cols]`.
#[derive(Debug, Clone)]
pub struct Saved {
    buffer: Rc<Buffer<f32>>,
    len: usize,
}

impl Saved {
    /// The content.
    pub fn view(&self) -> Slice<'_, f32> {
        self.buffer.view().range(0..self.len)
    }
}

/// One op's part of the backward pass. An op without one does not compile.
pub trait Backward {
    /// The op's name, for reports.
    fn name(&self) -> &'static str;
    /// Adds the gradients of the inputs, given `dy`, `[grad_rows, cols]` of the output.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()>;
}

/// Whether nodes are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The forward pass will be followed by a backward pass.
    Record,
    /// Values only.
    Inference,
}

/// See the module.
pub struct Tape {
    device: Device,
    pass: Rc<Pass>,
    mode: Mode,
    next_id: usize,
    nodes: Vec<(Input, Box<dyn Backward>)>,
}

impl Tape {
    /// An empty tape for the rows of `pass`.
    pub fn new(device: &Device, pass: Rc<Pass>, mode: Mode) -> Tape {
        Tape { device: device.clone(), pass, mode, next_id: 0, nodes: Vec::new() }
    }

    /// The device that values live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Rows, adapters and rope tables of this pass.
    pub fn pass(&self) -> &Rc<Pass> {
        &self.pass
    }

    /// What the matrix products multiply.
    pub fn precision(&self) -> Precision {
        self.pass.precision
    }

    /// Whether nodes are pushed now.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Memory for an op's output or scratch; `name` shows in the memory report.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn alloc(&self, name: &'static str, len: usize) -> Result<Buffer<f32>> {
        self.device.alloc(name, len)
    }

    /// A value that no op made: an input of the tape.
    pub fn leaf(&mut self, rows: usize, cols: usize, grad_rows: usize, buffer: Buffer<f32>) -> Var {
        self.value(rows, cols, grad_rows, Rc::new(buffer))
    }

    /// A leaf over rows that another tape saved; all of them have a gradient.
    pub(super) fn leaf_of_saved(&mut self, input: Input, saved: &Saved) -> Var {
        self.value(input.grad_rows, input.cols, input.grad_rows, saved.buffer.clone())
    }

    fn value(&mut self, rows: usize, cols: usize, grad_rows: usize, buffer: Rc<Buffer<f32>>) -> Var {
        let input = Input { id: self.next_id, grad_rows, cols };
        self.next_id += 1;
        Var { value: Rc::new(Value { input, rows, buffer, prefix: OnceCell::new() }) }
    }

    /// The output of an op, and its node. `node` is called only if there will be a backward pass through it.
    ///
    /// # Errors
    /// Those of `node`.
    pub fn push<N: Backward + 'static>(
        &mut self,
        [rows, cols]: [usize; 2],
        grad_rows: usize,
        y: Buffer<f32>,
        node: impl FnOnce(&mut Tape) -> Result<N>,
    ) -> Result<Var> {
        if self.mode == Mode::Record && grad_rows > 0 {
            let node = node(self)?;
            let y = self.leaf(rows, cols, grad_rows, y);
            self.nodes.push((y.input(), Box::new(node)));
            Ok(y)
        } else {
            Ok(self.leaf(rows, cols, grad_rows, y))
        }
    }

    /// As [`Tape::push`], for an op whose node keeps its own output: `y` is a leaf that the op made.
    ///
    /// # Errors
    /// Those of `node`.
    pub fn push_over<N: Backward + 'static>(
        &mut self,
        y: Var,
        node: impl FnOnce(&mut Tape) -> Result<N>,
    ) -> Result<Var> {
        if self.mode == Mode::Record && y.grad_rows() > 0 {
            let node = node(self)?;
            self.nodes.push((y.input(), Box::new(node)));
        }
        Ok(y)
    }

    /// The rows of a value that have a gradient, kept for the backward pass. Kept once, however many ops ask.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn keep(&self, x: &Var) -> Result<Saved> {
        let value = &*x.value;
        let len = value.input.len();
        if value.input.grad_rows == value.rows {
            return Ok(Saved { buffer: value.buffer.clone(), len });
        }
        if value.prefix.get().is_none() {
            let copy = Rc::new(self.prefix("kept", &value.buffer, len)?);
            value.prefix.set(copy).expect("this thread just saw it empty");
        }
        Ok(Saved { buffer: value.prefix.get().expect("set above").clone(), len })
    }

    /// Keeps the first `len` elements of a buffer that the op made for its own backward pass.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn save(&self, buffer: Buffer<f32>, len: usize) -> Result<Saved> {
        let buffer = if buffer.len() == len { buffer } else { self.prefix(buffer.name(), &buffer, len)? };
        Ok(Saved { buffer: Rc::new(buffer), len })
    }

    /// A copy of the first `len` elements.
    fn prefix(&self, name: &'static str, buffer: &Buffer<f32>, len: usize) -> Result<Buffer<f32>> {
        let mut copy = self.alloc(name, len)?;
        self.device.copy(buffer.view().range(0..len), copy.view_mut());
        Ok(copy)
    }

    /// The buffer of a value that the caller gives up, to be overwritten in place: the value's own if nobody else holds it,
    /// a copy otherwise.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn take(&self, name: &'static str, x: Var) -> Result<Buffer<f32>> {
        let shared = match Rc::try_unwrap(x.value) {
            Ok(value) => value.buffer,
            Err(value) => value.buffer.clone(),
        };
        Rc::try_unwrap(shared).or_else(|shared| self.prefix(name, &shared, shared.len()))
    }

    /// Runs `forward` without pushing nodes.
    ///
    /// # Errors
    /// Those of `forward`.
    pub fn without_recording<R>(&mut self, forward: impl FnOnce(&mut Tape) -> Result<R>) -> Result<R> {
        let mode = std::mem::replace(&mut self.mode, Mode::Inference);
        let result = forward(self);
        self.mode = mode;
        result
    }

    /// Walks the nodes backwards from `y`, whose gradient is `dy`, `[grad_rows, cols]`. Gradients of parameters are added to
    /// `params`. What a node saved is freed as soon as it has been used.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn backward(self, y: &Var, dy: Buffer<f32>, params: &mut ParamGrads) -> Result<()> {
        self.backward_of(y, dy, &[], params).map(|_| ())
    }

    /// As [`Tape::backward`], and gives back the gradient of each of `leaves`, if anything differentiable read it.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn backward_of(
        self,
        y: &Var,
        dy: Buffer<f32>,
        leaves: &[Var],
        params: &mut ParamGrads,
    ) -> Result<Vec<Option<Buffer<f32>>>> {
        let mut grads = Grads::new(self.device.clone(), params);
        grads.give(y.input(), dy)?;
        let mut nodes = self.nodes;
        while let Some((output, node)) = nodes.pop() {
            // a value that nothing differentiable read has no gradient
            if let Some(dy) = grads.take(output.id) {
                node.backward(dy, &mut grads)?;
            }
        }
        Ok(leaves.iter().map(|leaf| grads.take(leaf.input().id)).collect())
    }
}
