//! Token embedding.

use crate::autograd::{Tape, Var};
use crate::weights::Frozen;
use align_kernels::{Indices, Result, embed};

/// Returns `scale * table[ids]`, `[rows, hidden_size]`. The table is frozen, so the result is a leaf: no gradient flows through
/// it.
///
/// # Errors
/// [`align_kernels::KernelError::TokenId`] for an id outside the table.
pub fn embed(tape: &mut Tape, ids: &Indices, table: &Frozen, scale: f32) -> Result<Var> {
    let [vocab_size, hidden_size] = table.shape();
    let rows = ids.len();
    let mut y = tape.alloc("embed.y", rows * hidden_size)?;
    embed::Forward { rows, hidden_size, vocab_size, ids: ids.view(), table: table.view(), scale, y: y.view_mut() }
        .run(tape.device())?;
    let policy = tape.pass().plan.policy;
    Ok(tape.leaf(rows, hidden_size, policy, y))
}
