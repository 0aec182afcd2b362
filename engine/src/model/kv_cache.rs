//! The cache of keys and values of all tokens that a generation has read so far.

use crate::autograd::{Tape, Var};
use crate::ops;
use align_kernels::attention::{Decode, Geometry};
use align_kernels::{Columns, Device, FloatBuffer, FloatDtype, Indices, Result, rows};

/// Keys and values of every layer for a batch of sequences, each with room for `capacity` tokens.
#[derive(Debug)]
pub struct KvCache {
    capacity: usize,
    /// Keys and values of each layer, `[batch, capacity, num_key_value_heads * head_dim]`.
    layers: Vec<[FloatBuffer; 2]>,
    phase: Phase,
}

/// What the rows of the current pass are, and where their keys and values are stored.
#[derive(Debug)]
enum Phase {
    /// Whole prompts, whose rows attend to each other. Row r is stored at `slots[r]`.
    Prefill { slots: Indices },
    /// One new token per sequence. The token of sequence b is its `lengths[b]`-th and is stored at `slots[b]`.
    Decode { slots: Indices, lengths: Indices },
}

impl KvCache {
    /// Makes an empty cache. `kv_cols` is `num_key_value_heads * head_dim`.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn new(
        device: &Device,
        dtype: FloatDtype,
        layers: usize,
        batch: usize,
        capacity: usize,
        kv_cols: usize,
    ) -> Result<KvCache> {
        let one = || device.alloc_float("kv_cache", dtype, batch * capacity * kv_cols);
        let layers = (0..layers).map(|_| Ok([one()?, one()?])).collect::<Result<_>>()?;
        Ok(KvCache { capacity, layers, phase: Phase::Prefill { slots: device.upload_indices("kv_cache.slots", &[])? } })
    }

    /// Begins a pass over whole sequences, back to back. Each `(b, length)` stands for `length` rows, which belong to sequence
    /// `b` of the cache.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn begin_prefill(
        &mut self,
        device: &Device,
        sequences: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<()> {
        let slots: Vec<u32> = sequences
            .into_iter()
            .flat_map(|(b, length)| (0..length).map(move |position| (b, position)))
            .map(|(b, position)| self.slot(b, position))
            .collect();
        self.phase = Phase::Prefill { slots: device.upload_indices("kv_cache.slots", &slots)? };
        Ok(())
    }

    /// Begins a pass over one new token of each sequence. Sequence `b` has `lengths[b]` tokens, the new one included.
    ///
    /// # Errors
    /// [`align_kernels::KernelError::OutOfMemory`].
    pub fn begin_decode(&mut self, device: &Device, lengths: &[usize]) -> Result<()> {
        let slots: Vec<u32> = lengths.iter().enumerate().map(|(b, &length)| self.slot(b, length - 1)).collect();
        // the cast does not wrap: a length is at most `capacity`, and a cache has fewer than 2^32 rows
        let lengths: Vec<u32> = lengths.iter().map(|&length| length as u32).collect();
        self.phase = Phase::Decode {
            slots: device.upload_indices("kv_cache.slots", &slots)?,
            lengths: device.upload_indices("kv_cache.lengths", &lengths)?,
        };
        Ok(())
    }

    fn slot(&self, sequence: usize, position: usize) -> u32 {
        u32::try_from(sequence * self.capacity + position).expect("a cache has fewer than 2^32 rows")
    }

    /// Stores the keys and values of this pass's rows, then computes attention.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub(crate) fn attention(&mut self, tape: &mut Tape, layer: usize, geometry: Geometry, qkv: &Var) -> Result<Var> {
        let Geometry { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim, .. } = geometry;
        let (q_cols, cols) = (heads * head_dim, kv_heads * head_dim);
        let (Phase::Prefill { slots } | Phase::Decode { slots, .. }) = &self.phase;
        for (cache, first) in self.layers[layer].iter_mut().zip([q_cols, q_cols + cols]) {
            let x = Columns { values: qkv.view(), first, stride: qkv.cols() };
            rows::Scatter { cols, index: slots.view(), x, y: cache.view_mut() }.run(tape.device())?;
        }
        match &self.phase {
            Phase::Prefill { .. } => ops::attention(tape, geometry, qkv),
            Phase::Decode { lengths, .. } => {
                let mut o = tape.alloc_float("decode.o", qkv.rows() * q_cols)?;
                Decode {
                    batch: lengths.len(),
                    geometry,
                    capacity: self.capacity,
                    lengths: lengths.view(),
                    qkv: qkv.view(),
                    k_cache: self.layers[layer][0].view(),
                    v_cache: self.layers[layer][1].view(),
                    o: o.view_mut(),
                }
                .run(tape.device())?;
                Ok(tape.leaf(qkv.rows(), q_cols, 0, o))
            }
        }
    }
}
