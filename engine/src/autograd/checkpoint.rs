//! Recomputation as a node: a segment of the forward pass is run again when its gradient is asked for.

use super::grads::Grads;
use super::tape::{Backward, Mode, Tape};
use super::value::{Input, Saved, Var};
use crate::pass::Pass;
use align_kernels::{FloatBuffer, Result};
use std::rc::Rc;

/// A piece of the forward pass that can run again: a function of one value and the tape's [`Pass`].
pub type Segment = Rc<dyn Fn(&mut Tape, &Var) -> Result<Var>>;

/// `segment(x)`, of which only the policy rows of `x` are kept. The backward pass runs the segment again on those rows, with
/// the same bits: no row's arithmetic depends on another tree's rows.
///
/// # Errors
/// Those of `segment`.
pub fn checkpoint(tape: &mut Tape, x: &Var, segment: Segment) -> Result<Var> {
    let y = tape.without_recording(|tape| segment(tape, x))?;
    let (shape, grad_rows) = ([y.rows(), y.cols()], y.grad_rows());
    let y = tape.take("checkpoint.y", y)?;
    tape.push(shape, grad_rows, y, |tape| {
        let pass = tape.pass().policy_only();
        Ok(Checkpoint { input: x.input(), x: tape.keep(x)?, pass, segment })
    })
}

struct Checkpoint {
    input: Input,
    x: Saved,
    pass: Rc<Pass>,
    segment: Segment,
}

impl Backward for Checkpoint {
    fn name(&self) -> &'static str {
        "checkpoint"
    }

    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let mut tape = Tape::new(grads.device(), self.pass.clone(), Mode::Record);
        let x = tape.leaf_of_saved(self.input, &self.x);
        let y = (self.segment)(&mut tape, &x)?;
        match tape.backward_of(&y, dy, &[x], grads.params())?.pop().flatten() {
            Some(dx) => grads.give(self.input, dx),
            None => Ok(()),
        }
    }
}
