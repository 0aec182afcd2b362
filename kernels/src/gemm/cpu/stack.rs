//! Stacks, cut into runs of rows. In a run, each layer has at most one update, which covers all rows of the run.

use crate::Result;
use crate::cpu::Cpu;
use crate::cpu::threads::blocks::rows_per_block;
use crate::gemm::{LowRank, Piece, StackDx, StackForward};
use std::ops::Range;

/// Calls `compute` with each run of a call.
pub(in crate::gemm) fn forward_runs(
    call: StackForward<'_, '_>,
    mut compute: impl FnMut(StackForward<'_, '_>) -> Result<()>,
) -> Result<()> {
    if is_one_run(call.m, call.pieces) {
        return compute(call);
    }
    let StackForward { m, k, x, pieces, mut y, residual, precision } = call;
    let cols = columns(pieces);
    for rows in runs(m, pieces) {
        let place = rows.start * cols..rows.end * cols;
        compute(StackForward {
            m: rows.len(),
            k,
            x: x.range(rows.start * k..rows.end * k),
            pieces: &mut pieces_of(&rows, k, pieces),
            y: y.reborrow().range(place.clone()),
            residual: residual.map(|residual| residual.range(place)),
            precision,
        })?;
    }
    Ok(())
}

/// Calls `compute` with each run of a call.
pub(in crate::gemm) fn dx_runs(
    call: StackDx<'_, '_>,
    mut compute: impl FnMut(StackDx<'_, '_>) -> Result<()>,
) -> Result<()> {
    if is_one_run(call.m, call.pieces) {
        return compute(call);
    }
    let StackDx { m, k, dy, pieces, mut dx, precision } = call;
    let cols = columns(pieces);
    for rows in runs(m, pieces) {
        compute(StackDx {
            m: rows.len(),
            k,
            dy: dy.range(rows.start * cols..rows.end * cols),
            pieces: &mut pieces_of(&rows, k, pieces),
            dx: dx.reborrow().range(rows.start * k..rows.end * k),
            precision,
        })?;
    }
    Ok(())
}

/// Returns how many columns all layers have together.
pub(super) fn columns(pieces: &[Piece<'_>]) -> usize {
    pieces.iter().map(|piece| piece.n).sum()
}

/// Whether there are rows, and every update covers all of them.
fn is_one_run(m: usize, pieces: &[Piece<'_>]) -> bool {
    m > 0 && pieces.iter().flat_map(|piece| &piece.updates).all(|update| update.rows == (0..m))
}

/// Returns the runs: the rows, cut wherever an update begins or ends.
pub(super) fn runs(m: usize, pieces: &[Piece<'_>]) -> Vec<Range<usize>> {
    let updates = pieces.iter().flat_map(|piece| &piece.updates);
    let mut cuts: Vec<usize> = updates.flat_map(|update| [update.rows.start, update.rows.end]).chain([0, m]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| cut[0]..cut[1]).collect()
}

/// Returns the layers of a stack of depth `k`, each with its update of the run `rows`, if there is one.
fn pieces_of<'a>(rows: &Range<usize>, k: usize, pieces: &'a mut [Piece<'_>]) -> Vec<Piece<'a>> {
    let mut of_run = Vec::with_capacity(pieces.len());
    for Piece { n, w, bias, updates } in pieces {
        let mut own = Vec::new();
        if let Some(update) = updates.iter_mut().find(|update| update.rows.contains(&rows.start)) {
            let LowRank { rank, scaling, a, b, .. } = *update;
            let place = rows.start - update.rows.start..rows.end - update.rows.start;
            own.push(LowRank {
                rows: 0..rows.len(),
                rank,
                scaling,
                a,
                b,
                x: update.x.map(|x| x.range(place.start * k..place.end * k)),
                u: update.u.reborrow().range(place.start * rank..place.end * rank),
            });
        }
        of_run.push(Piece { n: *n, w: *w, bias: *bias, updates: own });
    }
    of_run
}

/// Adds the biases of a stack to `y`, whose rows have the `cols` columns of all layers.
pub(super) fn add_biases(pieces: &[Piece<'_>], cols: usize, y: &mut [f32], cpu: &Cpu) {
    if cols == 0 || pieces.iter().all(|piece| piece.bias.is_none()) {
        return;
    }
    cpu.for_each_block(y.chunks_mut(rows_per_block(cols) * cols), |rows| {
        for row in rows.chunks_exact_mut(cols) {
            let mut row = &mut row[..];
            for piece in pieces {
                let (y, rest) = row.split_at_mut(piece.n);
                if let Some(bias) = piece.bias {
                    y.iter_mut().zip(bias.cpu()).for_each(|(y, bias)| *y += bias);
                }
                row = rest;
            }
        }
    });
}
