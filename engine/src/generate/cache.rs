//! Keys and values of the tokens so far.

use crate::autograd::{Tape, Var};
use crate::ops;
use align_kernels::attention::{Decode, Geometry};
use align_kernels::{Buffer, Device, Result, rows};

/// Keys and values of every layer for a batch of sequences, each with room for `capacity` tokens.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    /// Per layer `[batch, capacity, num_key_value_heads * head_dim]`.
    layers: Vec<[Buffer<f32>; 2]>,
    phase: Phase,
}

/// What the rows of the current pass are.
#[derive(Debug)]
enum Phase {
    /// Whole prompts, which attend to each other; row r is stored at `slots[r]`.
    Prefill { slots: Buffer<u32> },
    /// One new token of each sequence, stored at `slots[b]`, the `lengths[b]`-th of its sequence.
    Decode { slots: Buffer<u32>, lengths: Vec<usize> },
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(device: &Device, layers: usize, batch: usize, capacity: usize, kv_cols: usize) -> Result<KvCache> {
        let one = || device.alloc("kv_cache", batch * capacity * kv_cols);
        let layers = (0..layers).map(|_| Ok([one()?, one()?])).collect::<Result<_>>()?;
        Ok(KvCache { capacity, layers, phase: Phase::Prefill { slots: device.alloc("kv_cache.slots", 0)? } })
    }

    /// The next pass holds prompts, back to back: sequence `b` has `lengths[b]` rows.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn begin_prefill(&mut self, device: &Device, lengths: &[usize]) -> Result<()> {
        let slots: Vec<u32> = lengths
            .iter()
            .enumerate()
            .flat_map(|(b, &length)| (0..length).map(move |position| (b, position)))
            .map(|(b, position)| self.slot(b, position))
            .collect();
        self.phase = Phase::Prefill { slots: device.upload("kv_cache.slots", &slots)? };
        Ok(())
    }

    /// The next pass holds one new token for each of `sequences`, which then have `lengths` tokens.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn begin_decode(&mut self, device: &Device, lengths: &[usize]) -> Result<()> {
        let slots: Vec<u32> = lengths.iter().enumerate().map(|(b, &length)| self.slot(b, length - 1)).collect();
        self.phase = Phase::Decode { slots: device.upload("kv_cache.slots", &slots)?, lengths: lengths.to_vec() };
        Ok(())
    }

    fn slot(&self, sequence: usize, position: usize) -> u32 {
        u32::try_from(sequence * self.capacity + position).expect("a cache has fewer than 2^32 rows")
    }

    /// Stores keys and values of this pass's rows, then attends.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub(crate) fn attention(
        &mut self,
        tape: &mut Tape,
        layer: usize,
        geometry: Geometry,
        q: &Var,
        k: &Var,
        v: &Var,
    ) -> Result<Var> {
        let cols = k.cols();
        let (Phase::Prefill { slots } | Phase::Decode { slots, .. }) = &self.phase;
        for (cache, new) in self.layers[layer].iter_mut().zip([k, v]) {
            rows::Scatter { cols, index: slots.view(), x: new.view(), y: cache.view_mut() }.run(tape.device())?;
        }
        match &self.phase {
            Phase::Prefill { .. } => ops::attention(tape, geometry, q, k, v),
            Phase::Decode { lengths, .. } => {
                let mut o = tape.alloc("decode.o", q.rows() * q.cols())?;
                Decode {
                    batch: lengths.len(),
                    geometry,
                    capacity: self.capacity,
                    lengths,
                    q: q.view(),
                    k_cache: self.layers[layer][0].view(),
                    v_cache: self.layers[layer][1].view(),
                    o: o.view_mut(),
                }
                .run(tape.device())?;
                Ok(tape.leaf(q.rows(), q.cols(), 0, o))
            }
        }
    }
}
