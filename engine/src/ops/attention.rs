//! Attention over prefix trees.

use crate::autograd::{Backward, Grads, Input, Saved, Tape, Var};
use crate::rows::Pass;
use align_kernels::attention::{self, Geometry};
use align_kernels::{Buffer, Result};
use std::rc::Rc;

/// Each row attends to its prompt and its own branch. Keeps `q`, `k`, `v` and the output, saves the log-sum-exp of every row
/// and head: no score is stored.
///
/// # Errors
/// [`align_kernels::KernelError`].
pub fn attention(tape: &mut Tape, geometry: Geometry, q: &Var, k: &Var, v: &Var) -> Result<Var> {
    let rows = q.rows();
    let mut o = tape.alloc("attention.o", rows * q.cols())?;
    let mut lse = tape.alloc("attention.lse", rows * geometry.num_attention_heads)?;
    attention::Forward {
        rows,
        geometry,
        segments: &tape.pass().segments,
        q: q.view(),
        k: k.view(),
        v: v.view(),
        o: o.view_mut(),
        lse: lse.view_mut(),
    }
    .run(tape.device())?;
    let grad_rows = q.grad_rows();
    let o = tape.leaf(rows, q.cols(), grad_rows, o);
    // the node keeps its own output: the same memory serves the projection that reads it
    tape.push_over(o.clone(), |tape| {
        Ok(Attention {
            geometry,
            pass: tape.pass().policy_only(),
            inputs: [q.input(), k.input(), v.input()],
            q: tape.keep(q)?,
            k: tape.keep(k)?,
            v: tape.keep(v)?,
            o: tape.keep(&o)?,
            lse: tape.save(lse, grad_rows * geometry.num_attention_heads)?,
        })
    })
}

struct Attention {
    geometry: Geometry,
    pass: Rc<Pass>,
    inputs: [Input; 3],
    q: Saved,
    k: Saved,
    v: Saved,
    o: Saved,
    lse: Saved,
}

impl Backward for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    // with p = exp(s - lse), ds = p∘(d_o·vᵀ - rowsum(d_o∘o)): dq = scale ds·k, dk = scale dsᵀ·q, dv = pᵀ·d_o
    fn backward(&self, dy: Buffer<f32>, grads: &mut Grads<'_>) -> Result<()> {
        let device = grads.device();
        let [q, k, v] = self.inputs;
        let mut dq = device.alloc("attention.dq", q.len())?;
        let mut dk = device.alloc("attention.dk", k.len())?;
        let mut dv = device.alloc("attention.dv", v.len())?;
        attention::Backward {
            rows: q.grad_rows,
            geometry: self.geometry,
            segments: &self.pass.segments,
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            o: self.o.view(),
            lse: self.lse.view(),
            d_o: dy.view(),
            dq: dq.view_mut(),
            dk: dk.view_mut(),
            dv: dv.view_mut(),
        }
        .run(device)?;
        grads.give(q, dq)?;
        grads.give(k, dk)?;
        grads.give(v, dv)
    }
}
