//! The tape: values of the forward pass, and the nodes that carry their gradients back.
//!
//! A value is `[rows, cols]`. It is f32, or bf16 if it is computed between matrix products of that precision. Its first
//! `grad_rows` rows have a gradient: policy rows come first in every activation, so in every op the part with a gradient is a
//! prefix. An op allocates its output, runs a kernel, and pushes a node that holds what the backward pass needs. The node keeps
//! only that prefix. Rows without a gradient are freed when the forward pass has read them.

use super::grads::{Grads, ParamGrads};
use super::value::{Input, Recompute, Saved, SavedF32, SavedOrRecomputed, Value, Var};
use crate::pass::Pass;
use align_kernels::{Buffer, Device, FloatBuffer, Precision, Result};
use std::cell::OnceCell;
use std::rc::Rc;

/// One op's part of the backward pass. An op without a backward pass does not compile.
pub trait Backward {
    /// Adds the gradients of the inputs. `dy`, `[grad_rows, cols]`, is the gradient of the output.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()>;
}

/// Whether the tape records nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A backward pass follows.
    Record,
    /// No backward pass follows: only values are computed.
    Inference,
}

/// The record of one forward pass. The comment of this module describes it.
pub struct Tape {
    device: Device,
    pass: Rc<Pass>,
    mode: Mode,
    next_id: usize,
    steps: Vec<Step>,
}

/// A step of the backward pass. The backward pass runs the steps last to first.
enum Step {
    /// Passes the gradient of this output on to the inputs of the op that made it.
    Node(Input, Box<dyn Backward>),
    /// Calls back when the backward pass gets here.
    Notify(Box<dyn FnOnce()>),
}

impl Tape {
    /// Makes an empty tape for the rows of `pass`.
    pub fn new(device: &Device, pass: Rc<Pass>, mode: Mode) -> Tape {
        Tape { device: device.clone(), pass, mode, next_id: 0, steps: Vec::new() }
    }

    /// Returns the device that holds the values.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the rows, adapters and rope tables of this pass.
    pub fn pass(&self) -> &Rc<Pass> {
        &self.pass
    }

    /// Returns the precision of the matrix products.
    pub fn precision(&self) -> Precision {
        self.pass.precision
    }

    /// Whether the tape records nodes now.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Allocates memory for an op's output or scratch. `name` appears in the memory report.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn alloc(&self, name: &'static str, len: usize) -> Result<Buffer<f32>> {
        self.device.alloc(name, len)
    }

    /// Allocates memory like [`Tape::alloc`], but in the number format of values between matrix products.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn alloc_float(&self, name: &'static str, len: usize) -> Result<FloatBuffer> {
        self.device.alloc_float(name, self.precision().into(), len)
    }

    /// Makes a value without a node, such as an input of the tape.
    pub fn leaf(&mut self, rows: usize, cols: usize, grad_rows: usize, buffer: impl Into<FloatBuffer>) -> Var {
        self.value(rows, cols, grad_rows, Rc::new(buffer.into()), None)
    }

    /// Makes a leaf of the rows with a gradient that another tape saved. All rows of the leaf have a gradient.
    pub(super) fn leaf_of_saved(&mut self, input: Input, saved: &Saved) -> Var {
        self.value(input.grad_rows, input.cols, input.grad_rows, saved.buffer.clone(), None)
    }

    fn value(
        &mut self,
        rows: usize,
        cols: usize,
        grad_rows: usize,
        buffer: Rc<FloatBuffer>,
        recompute: Option<Rc<dyn Recompute>>,
    ) -> Var {
        let input = Input { id: self.next_id, grad_rows, cols, dtype: buffer.dtype() };
        self.next_id += 1;
        Var { value: Rc::new(Value { input, rows, buffer, prefix: OnceCell::new(), recompute }) }
    }

    /// Makes a value of an op's output `y`, and adds the op's node. Calls `node` only if the tape records and the output has rows
    /// with a gradient.
    ///
    /// # Errors
    /// Those of `node`.
    pub fn push<N: Backward + 'static>(
        &mut self,
        [rows, cols]: [usize; 2],
        grad_rows: usize,
        y: impl Into<FloatBuffer>,
        node: impl FnOnce(&mut Tape) -> Result<N>,
    ) -> Result<Var> {
        let y = self.leaf(rows, cols, grad_rows, y);
        self.push_over(y, node)
    }

    /// Does the same as [`Tape::push`], for an output that can be recomputed. `node` also returns how to recompute it.
    ///
    /// # Errors
    /// Those of `node`.
    pub fn push_recomputable<N: Backward + 'static>(
        &mut self,
        [rows, cols]: [usize; 2],
        grad_rows: usize,
        y: FloatBuffer,
        node: impl FnOnce(&mut Tape) -> Result<(N, Rc<dyn Recompute>)>,
    ) -> Result<Var> {
        if self.mode == Mode::Record && grad_rows > 0 {
            let (node, recompute) = node(self)?;
            let y = self.value(rows, cols, grad_rows, Rc::new(y), Some(recompute));
            self.steps.push(Step::Node(y.input(), Box::new(node)));
            Ok(y)
        } else {
            Ok(self.leaf(rows, cols, grad_rows, y))
        }
    }

    /// Does the same as [`Tape::push`], for an op whose node keeps the op's own output. `y` is the leaf that the op has made of
    /// that output.
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
            self.steps.push(Step::Node(y.input(), Box::new(node)));
        }
        Ok(y)
    }

    /// Keeps the rows of a value that have a gradient, for the backward pass. Keeps them once, even if several ops ask for them.
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

    /// Keeps a value like [`Tape::keep`], unless it can be recomputed. Of a value that can be recomputed, keeps only how to do
    /// that.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn keep_or_recompute(&self, x: &Var) -> Result<SavedOrRecomputed> {
        match &x.value.recompute {
            Some(recompute) => Ok(SavedOrRecomputed::Recomputed(recompute.clone())),
            None => Ok(SavedOrRecomputed::Saved(self.keep(x)?)),
        }
    }

    /// Keeps the first `len` elements of a buffer that the op made for its own backward pass.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn save(&self, buffer: Buffer<f32>, len: usize) -> Result<SavedF32> {
        if buffer.len() == len {
            return Ok(SavedF32 { buffer, len });
        }
        let mut copy = self.alloc(buffer.name(), len)?;
        self.device.copy(buffer.view().range(0..len), copy.view_mut())?;
        Ok(SavedF32 { buffer: copy, len })
    }

    /// Copies the first `len` elements of a buffer into a new one.
    fn prefix(&self, name: &'static str, buffer: &FloatBuffer, len: usize) -> Result<FloatBuffer> {
        let mut copy = self.device.alloc_float(name, buffer.dtype(), len)?;
        self.device.copy_float(buffer.view().range(0..len), copy.view_mut())?;
        Ok(copy)
    }

    /// Consumes a value and returns its buffer, for the caller to overwrite. Returns a copy if anything else holds the value.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn take(&self, name: &'static str, x: Var) -> Result<FloatBuffer> {
        let shared = match Rc::try_unwrap(x.value) {
            Ok(value) => value.buffer,
            Err(value) => value.buffer.clone(),
        };
        Rc::try_unwrap(shared).or_else(|shared| self.prefix(name, &shared, shared.len()))
    }

    /// Calls `notify` when the backward pass comes back to this point. Never calls it if the tape does not record.
    pub fn on_return(&mut self, notify: impl FnOnce() + 'static) {
        if self.mode == Mode::Record {
            self.steps.push(Step::Notify(Box::new(notify)));
        }
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
    /// `params`. Frees what a node saved as soon as the node has run.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn backward(self, y: &Var, dy: impl Into<FloatBuffer>, params: &mut ParamGrads) -> Result<()> {
        self.backward_of(y, dy, &[], params).map(|_| ())
    }

    /// Does the same as [`Tape::backward`], and returns the gradient of each of `leaves`: `None` if no gradient reached the leaf.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn backward_of(
        self,
        y: &Var,
        dy: impl Into<FloatBuffer>,
        leaves: &[Var],
        params: &mut ParamGrads,
    ) -> Result<Vec<Option<FloatBuffer>>> {
        let mut grads = Grads::new(self.device.clone(), params);
        grads.give(y.input(), dy.into())?;
        let mut steps = self.steps;
        while let Some(step) = steps.pop() {
            match step {
                Step::Notify(notify) => notify(),
                Step::Node(output, node) => {
                    // without a gradient, `y` does not depend on this output
                    if let Some(dy) = grads.take(output.id) {
                        node.backward(dy, &mut grads)?;
                    }
                }
            }
        }
        Ok(leaves.iter().map(|leaf| grads.take(leaf.input().id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::Adapters;
    use crate::rows::{RowPlan, SequenceTree};
    use std::cell::RefCell;

    /// `y = x`
    struct Identity(Input);

    impl Backward for Identity {
        fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
            grads.give(self.0, dy)
        }
    }

    #[test]
    fn the_backward_pass_notifies_on_its_way() {
        let device = Device::cpu(Some(1)).unwrap();
        let trees = vec![SequenceTree { prompt: 0..1, branches: Vec::new() }];
        let plan = RowPlan { policy: 1, detached: 0, reference: 0, trees };
        let pass = Pass::new(&device, plan, Vec::new(), Adapters::default(), None, Precision::F32).unwrap();
        let row = || device.upload("test", &[1.0]).unwrap();
        for (mode, expected) in [(Mode::Record, vec![2, 1, 0]), (Mode::Inference, Vec::new())] {
            let mut tape = Tape::new(&device, pass.clone(), mode);
            let reached = Rc::new(RefCell::new(Vec::new()));
            let mut x = tape.leaf(1, 1, 1, row());
            for layer in 0..3 {
                let input = x.input();
                x = tape.push([1, 1], 1, row(), |_| Ok(Identity(input))).unwrap();
                let reached = reached.clone();
                tape.on_return(move || reached.borrow_mut().push(layer));
            }
            assert!(reached.borrow().is_empty());
            tape.backward(&x, row(), &mut ParamGrads::default()).unwrap();
            assert_eq!(*reached.borrow(), expected);
        }
    }
}
