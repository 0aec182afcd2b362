//! Rotary position encoding: the frequencies with which a model rotates queries and keys, for sequences of a given length.
//!
//! Sources: plain arXiv 2104.09864; linear arXiv 2306.15595; dynamic and yarn arXiv 2309.00071; longrope arXiv 2402.13753;
//! llama3 as published with Llama 3.1.
//!
//! Numerics: models were trained and are evaluated with f32 frequencies, so each step that is f32 in transformers 5.23 is f32
//! here, in the same order. Powers are computed in f64 and rounded once. A frequency can differ from torch's in the last bits,
//! because torch's power function can be off by one unit in the last place.

use crate::pass::{RopeTable, RopeVariant};
use align_kernels::{Device, Result};
use std::f64::consts::PI;

/// One position encoding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies. Without scaling, wavelengths grow from `2 pi` at the first columns to almost
    /// `2 pi * rope_theta` at the last ones.
    pub rope_theta: f64,
    /// The number of columns of a head that are rotated. It is even. The rotated columns are the first ones.
    pub rotary_dim: usize,
    /// The change of frequencies for sequences longer than those of the original training.
    pub scaling: RopeScaling,
}

/// How frequencies change for sequences longer than those of the original training.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "a variant's text says what its fields are")]
pub enum RopeScaling {
    /// No change.
    Default,
    /// Divides all frequencies by `factor`.
    Linear { factor: f64 },
    /// Raises `rope_theta` for sequences longer than `max_position_embeddings`. It grows with `factor` and with the length.
    Dynamic { factor: f64, max_position_embeddings: usize },
    /// Multiplies wavelengths above `original_max_position_embeddings / low_freq_factor` by `factor`. Keeps those below
    /// `original_max_position_embeddings / high_freq_factor`. Blends in between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
    /// Divides the frequency of a column that turns fewer than `beta_slow` times over the original length by `factor`. Keeps the
    /// frequency of a column that turns more than `beta_fast` times. Blends in between with a ramp, which begins and ends at
    /// whole columns if `truncate` is true. Multiplies cosine and sine by `attention_factor`.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        original_max_position_embeddings: usize,
    },
    /// Divides the frequency of each column by its entry in `short_factor`, or by its entry in `long_factor` if the sequence is
    /// longer than `original_max_position_embeddings`. Multiplies cosine and sine by `attention_factor`.
    LongRope {
        short_factor: Vec<f32>,
        long_factor: Vec<f32>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
}

impl RopeConfig {
    /// Returns the frequencies for a sequence of `sequence_len` tokens.
    pub fn variant(&self, sequence_len: usize) -> RopeVariant {
        let (inv_freq, scaling) = match &self.scaling {
            RopeScaling::Default => (self.plain(), 1.0),
            RopeScaling::Linear { factor } => {
                (self.plain().into_iter().map(|freq| freq / *factor as f32).collect(), 1.0)
            }
            RopeScaling::Dynamic { factor, max_position_embeddings } => {
                (self.dynamic(*factor, *max_position_embeddings, sequence_len), 1.0)
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let original = original_max_position_embeddings as f64;
                (self.llama3(factor as f32, low_freq_factor, high_freq_factor, original), 1.0)
            }
            &RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                truncate,
                original_max_position_embeddings: original,
            } => (self.yarn(factor as f32, beta_fast, beta_slow, truncate, original as f64), attention_factor),
            RopeScaling::LongRope { short_factor, long_factor, attention_factor, original_max_position_embeddings } => {
                let long = sequence_len > *original_max_position_embeddings;
                let factors = if long { long_factor } else { short_factor };
                let scaled =
                    factors.iter().zip(self.powers(self.rope_theta)).map(|(factor, power)| 1.0 / (factor * power));
                (scaled.collect(), *attention_factor)
            }
        };
        RopeVariant { inv_freq, scaling: scaling as f32 }
    }

    /// Returns a key for [`Self::variant`]. Lengths with the same key have the same variant; lengths with different keys have
    /// different variants, unless the factors happen to make them equal.
    pub fn variant_key(&self, sequence_len: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { max_position_embeddings, .. } => sequence_len.max(max_position_embeddings),
            RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                usize::from(sequence_len > original_max_position_embeddings)
            }
            _ => 0,
        }
    }

    /// Computes the cosines and sines of each row. Row r is at `positions[r]` of a sequence of `lengths[r]` tokens.
    ///
    /// # Errors
    /// [`align_kernels::KernelError`].
    pub fn table(&self, device: &Device, positions: &[u32], lengths: &[usize]) -> Result<RopeTable> {
        let mut variants: Vec<RopeVariant> = Vec::new();
        let mut keys: Vec<usize> = Vec::new();
        let variant_of = lengths
            .iter()
            .map(|&length| {
                let key = self.variant_key(length);
                let index = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    variants.push(self.variant(length));
                    keys.len() - 1
                });
                index as u32
            })
            .collect::<Vec<_>>();
        if variants.is_empty() {
            variants.push(self.variant(0));
        }
        RopeTable::new(device, positions, &variant_of, &variants)
    }

    /// Returns `base ^ (2 i / rotary_dim)` for each `i` below `rotary_dim / 2`.
    fn powers(&self, base: f64) -> impl Iterator<Item = f32> {
        let rotary_dim = self.rotary_dim as f32;
        // torch also uses the base as f32, since the exponents are f32.
        let base = f64::from(base as f32);
        (0..self.rotary_dim).step_by(2).map(move |i| base.powf(f64::from(i as f32 / rotary_dim)) as f32)
    }

    fn plain(&self) -> Vec<f32> {
        self.powers(self.rope_theta).map(|power| 1.0 / power).collect()
    }

    fn dynamic(&self, factor: f64, max_position_embeddings: usize, sequence_len: usize) -> Vec<f32> {
        let dim = self.rotary_dim as f64;
        let exponent = dim / (dim - 2.0);
        let max = max_position_embeddings as f64;
        let base = if sequence_len <= max_position_embeddings {
            // This is the formula for the maximum length. The number that is raised to the power is 1, up to rounding.
            self.rope_theta * (factor * max / max - (factor - 1.0)).powf(exponent)
        } else {
            // In transformers the length is a tensor here, so the new base is f32.
            let stretch = factor as f32 * sequence_len as f32 / max as f32 - (factor - 1.0) as f32;
            f64::from(self.rope_theta as f32 * f64::from(stretch).powf(exponent) as f32)
        };
        self.powers(base).map(|power| 1.0 / power).collect()
    }

    fn llama3(&self, factor: f32, low_freq_factor: f64, high_freq_factor: f64, original: f64) -> Vec<f32> {
        let low_freq_wavelen = (original / low_freq_factor) as f32;
        let high_freq_wavelen = (original / high_freq_factor) as f32;
        let scale = |freq: f32| {
            // torch computes a scalar divided by a tensor as the tensor's reciprocal times the scalar.
            let wavelen = (1.0 / freq) * (2.0 * PI) as f32;
            if wavelen > low_freq_wavelen {
                freq / factor
            } else if wavelen < high_freq_wavelen {
                freq
            } else {
                let turns = (1.0 / wavelen) * original as f32;
                let smooth = (turns - low_freq_factor as f32) / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * freq / factor + smooth * freq
            }
        };
        self.plain().into_iter().map(scale).collect()
    }

    fn yarn(&self, factor: f32, beta_fast: f64, beta_slow: f64, truncate: bool, original: f64) -> Vec<f32> {
        let dim = self.rotary_dim as f64;
        // Returns the index, with a fraction, of the column that makes `turns` full turns over the original length.
        let column = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln());
        let (mut low, mut high) = (column(beta_fast), column(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            // Avoids a ramp of width 0.
            high += 0.001;
        }
        let blend = |(i, power): (usize, f32)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            (1.0 / (factor * power)) * (1.0 - keep) + (1.0 / power) * keep
        };
        self.powers(self.rope_theta).enumerate().map(blend).collect()
    }
}
