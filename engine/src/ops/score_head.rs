//! One number per row: the score of a reward model.

use crate::autograd::{Backward, Grads, Input, Saved, Tape, Var};
use crate::param::Param;
use align_kernels::gemm::{self, Accumulate, Dw, Dx};
use align_kernels::{Columns, FloatBuffer, Indices, Precision, Result};
use std::rc::Rc;

/// Precision of the products with the score head. It is f32 whatever the precision of the pass: a run is judged by its scores,
/// and these products cost almost nothing.
const PRECISION: Precision = Precision::F32;

/// The rows that are scored.
#[derive(Debug, Clone)]
pub struct ScoredRows {
    /// `[n]` rows of the forward pass
    pub rows: Rc<Indices>,
    /// The first `policy` of these rows have a gradient.
    pub policy: usize,
}

/// Computes the scores `hidden_states[i] · head`, `[n, 1]`. Keeps `hidden_states`.
///
/// # Shapes
/// - `hidden_states`: `[n, hidden_size]`, after the final norm
/// - `head`: `[1, hidden_size]`
///
/// # Errors
/// [`align_kernels::KernelError::Shape`] if the head has another width.
pub fn score_head(tape: &mut Tape, hidden_states: &Var, head: &Param) -> Result<Var> {
    let (rows, hidden_size) = (hidden_states.rows(), hidden_states.cols());
    let mut scores = tape.alloc("score_head.scores", rows)?;
    gemm::Forward {
        m: rows,
        n: 1,
        k: hidden_size,
        alpha: 1.0,
        x: hidden_states.view(),
        w: head.read().view().into(),
        y: scores.view_mut().into(),
        accumulate: Accumulate::Set,
        precision: PRECISION,
    }
    .run(tape.device())?;
    let grad_rows = hidden_states.grad_rows();
    tape.push([rows, 1], grad_rows, scores, |tape| {
        Ok(Node { input: hidden_states.input(), hidden_states: tape.keep(hidden_states)?, head: head.clone() })
    })
}

struct Node {
    input: Input,
    hidden_states: Saved,
    head: Param,
}

impl Backward for Node {
    // d_head += Σ_i dy[i] hidden_states[i], d_hidden[i] += dy[i] head
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device().clone();
        let Input { grad_rows: m, cols: k, .. } = self.input;
        let (n, alpha, precision) = (1, 1.0, PRECISION);
        let (dw, accumulate) = grads.param(&self.head)?;
        let x = self.hidden_states.view();
        Dw { m, n, k, alpha, dy: Columns::all(dy.view(), 1), x, dw, accumulate, precision }.run(&device)?;
        let (dx, accumulate) = grads.slot(self.input)?;
        let head = self.head.read();
        let w = head.view().into();
        Dx { m, n, k, alpha, dy: Columns::all(dy.view(), 1), w, dx, accumulate, precision }.run(&device)
    }
}
