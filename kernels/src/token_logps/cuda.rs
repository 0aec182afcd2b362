//! CUDA version. The matrix product computes a block of logits, whose rows are then processed side by side.

use super::{Backward, Forward, Head};
use crate::arena::taken_on_card;
use crate::cuda::{Cuda, Entry, Grid, Module, Ptr, PtrMut};
use crate::device::Cost;
use crate::gemm::{self, Accumulate};
use crate::{Buffer, Columns, Device, FloatDtype, Result, SliceMut};
use std::ops::Range;

/// Maximum numbers of tokens and of rows in a block. The logits of a full block have 16 MiB.
const BLOCK: [usize; 2] = [4096, 1024];

#[repr(C)]
#[derive(Clone, Copy)]
struct Logit {
    cap: f32,
    temperature: f32,
}

#[repr(C)]
struct AddArgs {
    running: PtrMut<f32>,
    u: Ptr<f32>,
    targets: Ptr<u32>,
    rows: u64,
    cols: u32,
    first: u32,
    of: Logit,
    is_first: u32,
}

#[repr(C)]
struct FinishArgs {
    logps: PtrMut<f32>,
    lse: PtrMut<f32>,
    entropy: PtrMut<f32>,
    target_is_argmax: PtrMut<f32>,
    lse_of_twice: PtrMut<f32>,
    running: Ptr<f32>,
    targets: Ptr<u32>,
    rows: u64,
}

#[repr(C)]
struct GradientArgs {
    u: PtrMut<f32>,
    lse: Ptr<f32>,
    d_logps: Ptr<f32>,
    targets: Ptr<u32>,
    rows: u64,
    cols: u32,
    first: u32,
    of: Logit,
}

const ADD: Entry<AddArgs> = Entry::new(Module::TokenLogps, c"token_logps_add", 128);
const FINISH: Entry<FinishArgs> = Entry::new(Module::TokenLogps, c"token_logps_finish", 128);
const GRADIENTS: Entry<GradientArgs> = Entry::new(Module::TokenLogps, c"token_logps_gradients", 128);

#[cfg(test)]
pub(crate) fn entries() -> Vec<crate::cuda::AnyEntry> {
    vec![ADD.any(), FINISH.any(), GRADIENTS.any()]
}

/// Number of floats in the running state of a row.
const RUNNING: usize = 5;

pub(super) fn forward(device: &Device, cuda: &Cuda, call: Forward<'_>) -> Result<()> {
    let Forward { head, logps, lse, extras } = call;
    let mut u = device.alloc("token_logps.block", block_len(&head))?;
    let mut running = device.alloc::<f32>("token_logps.running", head.rows * RUNNING)?;
    for [rows, tokens] in blocks(&head) {
        multiply(device, &head, [&rows, &tokens], &mut u)?;
        let args = AddArgs {
            running: running.view_mut().range(rows.start * RUNNING..rows.end * RUNNING).cuda(),
            u: u.view().cuda(),
            targets: head.targets.range(rows.clone()).values().cuda(),
            rows: rows.len() as u64,
            cols: tokens.len() as u32,
            first: tokens.start as u32,
            of: logit(&head),
            is_first: u32::from(tokens.start == 0),
        };
        cuda.launch(&ADD, Grid::rows(rows.len()), args)?;
    }
    let (running, targets) = (running.view().cuda(), head.targets.values().cuda());
    let nothing = || PtrMut::new(0);
    let [entropy, target_is_argmax, lse_of_twice] = match extras {
        Some(extras) => [extras.entropy.cuda(), extras.target_is_argmax.cuda(), extras.lse_of_twice.cuda()],
        None => [nothing(), nothing(), nothing()],
    };
    let (logps, lse, rows) = (logps.cuda(), lse.cuda(), head.rows as u64);
    let args = FinishArgs { logps, lse, entropy, target_is_argmax, lse_of_twice, running, targets, rows };
    cuda.launch(&FINISH, Grid::elements(head.rows, 128), args)
}

pub(super) fn backward(device: &Device, cuda: &Cuda, call: Backward<'_>) -> Result<()> {
    let Backward { head, lse, d_logps, d_hidden } = call;
    match d_hidden.dtype() {
        FloatDtype::F32 => gradients(device, cuda, &head, [lse, d_logps], d_hidden.expect_f32()),
        FloatDtype::Bf16 => {
            // the blocks of the vocabulary are added in f32
            let mut wide = device.alloc::<f32>("token_logps.d_hidden", d_hidden.len())?;
            gradients(device, cuda, &head, [lse, d_logps], wide.view_mut())?;
            device.copy_float(wide.view().into(), d_hidden)?;
            Ok(())
        }
    }
}

/// Returns the memory that [`forward`] needs while it runs.
pub(super) fn forward_cost(head: &Head<'_>) -> Cost {
    let scratch = [block_len(head), head.rows * RUNNING].map(bytes_of).iter().sum();
    Cost { scratch, ..Cost::default() }
}

/// Returns the memory that [`backward`] needs while it runs.
pub(super) fn backward_cost(head: &Head<'_>, d_hidden: FloatDtype) -> Cost {
    let wide = match d_hidden {
        FloatDtype::F32 => 0,
        FloatDtype::Bf16 => bytes_of(head.hidden_states.len()),
    };
    Cost { scratch: bytes_of(block_len(head)) + wide, ..Cost::default() }
}

/// Returns the bytes that an allocation of `len` floats takes on the card.
fn bytes_of(len: usize) -> usize {
    taken_on_card(len * size_of::<f32>())
}

fn gradients(
    device: &Device,
    cuda: &Cuda,
    head: &Head<'_>,
    [lse, d_logps]: [crate::Slice<'_, f32>; 2],
    mut d_hidden: SliceMut<'_, f32>,
) -> Result<()> {
    let k = head.hidden_size;
    let mut u = device.alloc("token_logps.block", block_len(head))?;
    for [rows, tokens] in blocks(head) {
        multiply(device, head, [&rows, &tokens], &mut u)?;
        let (m, n) = (rows.len(), tokens.len());
        let args = GradientArgs {
            u: u.view_mut().cuda(),
            lse: lse.range(rows.clone()).cuda(),
            d_logps: d_logps.range(rows.clone()).cuda(),
            targets: head.targets.range(rows.clone()).values().cuda(),
            rows: m as u64,
            cols: n as u32,
            first: tokens.start as u32,
            of: logit(head),
        };
        cuda.launch(&GRADIENTS, Grid::rows(m.div_ceil(4)), args)?;
        gemm::Dx {
            m,
            n,
            k,
            alpha: 1.0,
            dy: Columns::all(u.view().range(0..m * n), n),
            w: head.lm_head.range(tokens.start * k..tokens.end * k),
            dx: d_hidden.reborrow().range(rows.start * k..rows.end * k).into(),
            accumulate: if tokens.start == 0 { Accumulate::Set } else { Accumulate::Add },
            precision: head.precision,
        }
        .run(device)?;
    }
    Ok(())
}

/// Multiplies some rows of the hidden states by the weights of some tokens. Sets the beginning of `u`, `[rows, tokens]`.
fn multiply(device: &Device, head: &Head<'_>, [rows, tokens]: [&Range<usize>; 2], u: &mut Buffer<f32>) -> Result<()> {
    let (m, n, k) = (rows.len(), tokens.len(), head.hidden_size);
    gemm::Forward {
        m,
        n,
        k,
        alpha: 1.0,
        x: head.hidden_states.range(rows.start * k..rows.end * k),
        w: head.lm_head.range(tokens.start * k..tokens.end * k),
        y: u.view_mut().range(0..m * n).into(),
        accumulate: Accumulate::Set,
        precision: head.precision,
    }
    .run(device)
}

/// Returns the rows and tokens of each block, with the rows in the outer loop.
fn blocks(head: &Head<'_>) -> impl Iterator<Item = [Range<usize>; 2]> + use<> {
    let (all_rows, vocab_size, [tokens, rows]) = (head.rows, head.vocab_size, BLOCK);
    (0..all_rows).step_by(rows).flat_map(move |row| {
        (0..vocab_size)
            .step_by(tokens)
            .map(move |token| [row..all_rows.min(row + rows), token..vocab_size.min(token + tokens)])
    })
}

fn block_len(head: &Head<'_>) -> usize {
    head.rows.min(BLOCK[1]) * head.vocab_size.min(BLOCK[0])
}

fn logit(head: &Head<'_>) -> Logit {
    Logit { cap: head.final_logit_softcapping.unwrap_or(0.0), temperature: head.temperature }
}
