//! Attention over prefix trees.

use crate::autograd::{Backward, Grads, Input, Saved, SavedF32, Tape, Var};
use crate::pass::Pass;
use align_kernels::attention::{self, Geometry};
use align_kernels::{FloatBuffer, Result};
use std::rc::Rc;

/// Computes attention, `[rows, heads * head_dim]`. Each row attends to its prompt and its own branch. `qkv` holds the queries,
/// keys and values of a row side by side. Keeps `qkv` and the output for the backward pass, and saves the log-sum-exp of each
/// head of each row. Attention scores are never stored.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn attention(tape: &mut Tape, geometry: Geometry, qkv: &Var) -> Result<Var> {
    let (rows, heads) = (qkv.rows(), geometry.num_attention_heads);
    let cols = heads * geometry.head_dim;
    let mut o = tape.alloc_float("attention.o", rows * cols)?;
    let mut lse = tape.alloc("attention.lse", rows * heads)?;
    attention::Forward { geometry, layout: &tape.pass().layout, qkv: qkv.view(), o: o.view_mut(), lse: lse.view_mut() }
        .run(tape.device())?;
    let grad_rows = qkv.grad_rows();
    let o = tape.leaf(rows, cols, grad_rows, o);
    // the node keeps the op's output, which is the next projection's input; if that projection keeps it too, they share a buffer
    tape.push_over(o.clone(), |tape| {
        Ok(Attention {
            geometry,
            pass: tape.pass().policy_only(tape.device())?,
            input: qkv.input(),
            qkv: tape.keep(qkv)?,
            o: tape.keep(&o)?,
            lse: tape.save(lse, grad_rows * heads)?,
        })
    })
}

struct Attention {
    geometry: Geometry,
    pass: Rc<Pass>,
    input: Input,
    qkv: Saved,
    o: Saved,
    lse: SavedF32,
}

impl Backward for Attention {
    // without a soft-cap, with p = exp(s - lse) and ds = p∘(d_o·vᵀ - rowsum(d_o∘o)):
    // dq = scale ds·k, dk = scale dsᵀ·q, dv = pᵀ·d_o
    fn backward(&self, dy: FloatBuffer, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device();
        let mut dqkv = device.alloc_float("attention.dqkv", self.input.dtype, self.input.len())?;
        attention::Backward {
            geometry: self.geometry,
            layout: &self.pass.layout,
            qkv: self.qkv.view(),
            o: self.o.view(),
            lse: self.lse.view(),
            d_o: dy.view(),
            dqkv: dqkv.view_mut(),
        }
        .run(device)?;
        grads.give(self.input, dqkv)
    }
}
