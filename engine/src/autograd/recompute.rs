//! Recomputation as a node of the tape: a layer runs again when the backward pass reaches it.

use super::grads::Grads;
use super::tape::{Backward, Mode, Tape};
use super::value::{Input, Saved, Var};
use crate::pass::Pass;
use align_kernels::{FloatBuffer, Result};
use std::rc::Rc;

/// A piece of the forward pass that can run more than once: a function of one value and the tape's [`Pass`].
pub type Layer = Rc<dyn Fn(&mut Tape, &Var) -> Result<Var>>;

/// Returns `layer(x)`. Keeps only the rows of `x` with a gradient. The backward pass runs the layer again on those rows and gets
/// the same bits, because their arithmetic does not depend on the other rows.
///
/// # Errors
/// Those of `layer`.
pub fn recompute(tape: &mut Tape, x: &Var, layer: Layer) -> Result<Var> {
    let y = tape.without_recording(|tape| layer(tape, x))?;
    let (shape, grad_rows) = ([y.rows(), y.cols()], y.grad_rows());
    let y = tape.take("recompute.y", y)?;
    tape.push(shape, grad_rows, y, |tape| {
        let pass = tape.pass().policy_only(tape.device())?;
        Ok(RecomputedLayer { input: x.input(), x: tape.keep(x)?, pass, layer })
    })
}

struct RecomputedLayer {
    input: Input,
    x: Saved,
    pass: Rc<Pass>,
    layer: Layer,
}

impl Backward for RecomputedLayer {
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let mut tape = Tape::new(grads.device(), self.pass.clone(), Mode::Record);
        let x = tape.leaf_of_saved(self.input, &self.x);
        let y = (self.layer)(&mut tape, &x)?;
        match tape.backward_of(&y, dy, &[x], grads.params())?.pop().flatten() {
            Some(dx) => grads.give(self.input, dx),
            None => Ok(()),
        }
    }
}
