//! Position encoding: which frequencies a model rotates with, for a sequence of a given length.
//!
//! Sources: plain arXiv 2104.09864; linear arXiv 2306.15595; dynamic and yarn arXiv 2309.00071; longrope arXiv 2402.13753;
//! llama3 as published with Llama 3.1.
//!
//! Numerics: models were trained and are evaluated with f32 frequencies, so each step that is f32 in transformers 5.23 is f32
//! here, in the same order; powers are taken in f64 and rounded once. The result differs from torch's in the last bit, where
//! its own power function is off by one.

use super::config::ModelConfig;
use super::config_json::{ConfigJson, SHOWN};
use super::error::ConfigError;
use crate::json::shorten;
use crate::pass::RopeVariant;
use std::f64::consts::PI;

/// One position encoding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Wavelengths grow from `2 pi` to `2 pi rope_theta`.
    pub rope_theta: f64,
    /// Columns of a head that are rotated: even, the first ones.
    pub rotary_dim: usize,
    pub scaling: RopeScaling,
}

/// How frequencies are changed for sequences longer than those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by `factor`.
    Linear { factor: f64 },
    /// A larger `rope_theta` for sequences longer than `max_position_embeddings`.
    Dynamic { factor: f64, max_position_embeddings: usize },
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` times `factor`, those below
    /// `original_max_position_embeddings / high_freq_factor` kept, a blend between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_position_embeddings: usize },
    /// Columns that turn less than `beta_slow` times divided by `factor`, those that turn more than `beta_fast` times kept, a
    /// ramp between, from whole columns if `truncate`; cosine and sine times `attention_factor`.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        original_max_position_embeddings: usize,
    },
    /// A divisor per column, one set for sequences up to `original_max_position_embeddings` and one for longer; cosine and sine
    /// times `attention_factor`.
    LongRope {
        short_factor: Vec<f32>,
        long_factor: Vec<f32>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
}

/// The values of `rope_type`.
const ROPE_TYPES: [&str; 6] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];

impl RopeConfig {
    /// The frequencies for a sequence of `sequence_len` tokens.
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
                original_max_position_embeddings,
            } => {
                let original = original_max_position_embeddings as f64;
                (self.yarn(factor as f32, beta_fast, beta_slow, truncate, original), attention_factor)
            }
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

    /// Whether [`Self::variant`] depends on the sequence's length.
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }

    /// Equal for two lengths exactly if their variants are equal.
    pub fn variant_key(&self, sequence_len: usize) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { max_position_embeddings, .. } => sequence_len.max(max_position_embeddings),
            RopeScaling::LongRope { original_max_position_embeddings, .. } => {
                usize::from(sequence_len > original_max_position_embeddings)
            }
            _ => 0,
        }
    }

    /// `base ^ (2 i / rotary_dim)`
    fn powers(&self, base: f64) -> impl Iterator<Item = f32> {
        let rotary_dim = self.rotary_dim as f32;
        // torch takes the base as f32 too, since the exponents are.
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
            // As at the maximum, where the bracket is 1 up to rounding.
            self.rope_theta * (factor * max / max - (factor - 1.0)).powf(exponent)
        } else {
            // The length is a tensor here, so that the new base is f32.
            let stretch = factor as f32 * sequence_len as f32 / max as f32 - (factor - 1.0) as f32;
            f64::from(self.rope_theta as f32 * f64::from(stretch).powf(exponent) as f32)
        };
        self.powers(base).map(|power| 1.0 / power).collect()
    }

    fn llama3(&self, factor: f32, low_freq_factor: f64, high_freq_factor: f64, original: f64) -> Vec<f32> {
        let low_freq_wavelen = (original / low_freq_factor) as f32;
        let high_freq_wavelen = (original / high_freq_factor) as f32;
        let scale = |freq: f32| {
            // A scalar over a tensor is the reciprocal times the scalar.
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
        // The column that makes `turns` full turns over the original length.
        let column = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.rope_theta.ln());
        let (mut low, mut high) = (column(beta_fast), column(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            // No ramp of width 0.
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

impl RopeConfig {
    /// The encoding of a model that has one for all layers: `rope_parameters`, or `rope_theta` and `rope_scaling`.
    pub(super) fn read(json: &ConfigJson, config: &ModelConfig) -> Result<RopeConfig, ConfigError> {
        let (parameters, theta) = flat_parameters(json)?;
        let original = json.size_opt("original_max_position_embeddings")?;
        let rope = RopeConfig::from_parameters(&parameters, config, theta, original)?;
        let partial = parameters.number_opt("partial_rotary_factor")?.or(json.number_opt("partial_rotary_factor")?);
        if partial.is_some_and(|partial| partial != 1.0) {
            let expected = format!("1 or no such key: {} rotates whole heads", config.family);
            return Err(json.refuse("partial_rotary_factor", expected, "another"));
        }
        Ok(rope)
    }

    /// The encoding of a Phi 3: part of the head, longrope under three names, and the length of the first training beside the
    /// other keys.
    pub(super) fn read_phi3(json: &ConfigJson, config: &ModelConfig) -> Result<RopeConfig, ConfigError> {
        let (parameters, theta) = flat_parameters(json)?;
        let partial = match parameters.positive_opt("partial_rotary_factor")? {
            Some(partial) => partial,
            None => json.positive_opt("partial_rotary_factor")?.unwrap_or(1.0),
        };
        let rotary_dim = (config.head_dim as f64 * partial) as usize;
        if partial > 1.0 || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
            let expected = format!("a part of head_dim ({}) that is an even number of columns", config.head_dim);
            return Err(json.refuse("partial_rotary_factor", expected, partial));
        }
        let original = match json.size_opt("original_max_position_embeddings")? {
            Some(original) => original,
            None => parameters.size_or("original_max_position_embeddings", 4096)?,
        };
        let scaling = match rope_type(&parameters)? {
            "default" => RopeScaling::Default,
            "longrope" | "su" | "yarn" => longrope(&parameters, config, rotary_dim, original)?,
            other => return Err(unknown_type(json, other, &["default", "longrope"])),
        };
        Ok(RopeConfig { rope_theta: check_theta(&parameters, theta)?, rotary_dim, scaling })
    }

    /// An encoding of whole heads from an object of parameters. `theta` is for a missing `rope_theta`; `original`, from beside
    /// the object, wins over the object's own `original_max_position_embeddings`.
    pub(super) fn from_parameters(
        parameters: &ConfigJson,
        config: &ModelConfig,
        theta: f64,
        original: Option<usize>,
    ) -> Result<RopeConfig, ConfigError> {
        let rotary_dim = config.head_dim;
        let rope_theta = check_theta(parameters, theta)?;
        let original_max_position_embeddings = match original {
            Some(original) => original,
            None => parameters.size_or("original_max_position_embeddings", config.max_position_embeddings)?,
        };
        let scaling = match rope_type(parameters)? {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: parameters.positive("factor")? },
            "dynamic" => {
                if rotary_dim <= 2 {
                    return Err(parameters.refuse(
                        "rope_type",
                        "another than dynamic for heads of 2 columns",
                        "dynamic",
                    ));
                }
                let factor = parameters.positive("factor")?;
                RopeScaling::Dynamic { factor, max_position_embeddings: config.max_position_embeddings }
            }
            "llama3" => {
                let low_freq_factor = parameters.positive("low_freq_factor")?;
                let high_freq_factor = parameters.positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("a number above low_freq_factor ({low_freq_factor})");
                    return Err(parameters.refuse("high_freq_factor", expected, high_freq_factor));
                }
                let factor = parameters.positive("factor")?;
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }
            }
            "yarn" => {
                if rope_theta <= 1.0 {
                    return Err(parameters.refuse("rope_theta", "a number above 1 for yarn", rope_theta));
                }
                yarn(parameters, config, original_max_position_embeddings)?
            }
            "longrope" => longrope(parameters, config, rotary_dim, original_max_position_embeddings)?,
            other => return Err(unknown_type(parameters, other, &ROPE_TYPES)),
        };
        Ok(RopeConfig { rope_theta, rotary_dim, scaling })
    }
}

/// The one object of parameters, and the `rope_theta` for one that lacks it. `rope_scaling`, where it says something, wins.
fn flat_parameters(json: &ConfigJson) -> Result<(ConfigJson, f64), ConfigError> {
    let said = |parameters: Option<ConfigJson>| parameters.filter(|parameters| !parameters.is_empty());
    let (key, parameters) = match said(json.nested("rope_scaling")?) {
        Some(parameters) => ("rope_scaling", parameters),
        None => {
            let empty = || ConfigJson::new(json.path(), serde_json::Map::new());
            ("rope_parameters", json.nested("rope_parameters")?.unwrap_or_else(empty))
        }
    };
    if parameters.has("full_attention") || parameters.has("sliding_attention") {
        return Err(json.refuse(key, "one object for all layers", "one per layer type"));
    }
    Ok((parameters, json.positive_opt("rope_theta")?.unwrap_or(10_000.0)))
}

/// `rope_type`, or `type`, its older name.
fn rope_type(parameters: &ConfigJson) -> Result<&str, ConfigError> {
    Ok(match parameters.text_opt("rope_type")? {
        Some(name) => name,
        None => parameters.text_opt("type")?.unwrap_or("default"),
    })
}

fn unknown_type(json: &ConfigJson, found: &str, supported: &[&'static str]) -> ConfigError {
    ConfigError::RopeType {
        path: json.path().to_owned(),
        found: format!("`{}`", shorten(found, SHOWN)),
        supported: supported.to_vec(),
    }
}

/// The base of the powers, which must be an f32 above 0.
fn check_theta(parameters: &ConfigJson, default: f64) -> Result<f64, ConfigError> {
    let rope_theta = parameters.positive_opt("rope_theta")?.unwrap_or(default);
    let as_f32 = rope_theta as f32;
    if as_f32.is_normal() {
        Ok(rope_theta)
    } else {
        Err(parameters.refuse("rope_theta", "a number that fits in f32", rope_theta))
    }
}

fn yarn(
    parameters: &ConfigJson,
    config: &ModelConfig,
    original_max_position_embeddings: usize,
) -> Result<RopeScaling, ConfigError> {
    // null is the ratio of the lengths; an absent key is an error.
    let factor = match parameters.has("factor") && parameters.get("factor").is_none() {
        true => config.max_position_embeddings as f64 / original_max_position_embeddings as f64,
        false => parameters.positive("factor")?,
    };
    let magnitude = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let nonzero = |number: Option<f64>| number.filter(|&number| number != 0.0);
    let mscale = nonzero(parameters.number_opt("mscale")?);
    let mscale_all_dim = nonzero(parameters.number_opt("mscale_all_dim")?);
    let attention_factor = match (parameters.positive_opt("attention_factor")?, mscale, mscale_all_dim) {
        (Some(attention_factor), _, _) => attention_factor,
        (None, Some(mscale), Some(all_dim)) => magnitude(mscale) / magnitude(all_dim),
        (None, _, _) => magnitude(1.0),
    };
    if attention_factor <= 0.0 || !(attention_factor as f32).is_normal() {
        return Err(parameters.refuse(
            "attention_factor",
            "or mscale and mscale_all_dim, that give a positive f32",
            attention_factor,
        ));
    }
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor,
        beta_fast: parameters.positive_opt("beta_fast")?.unwrap_or(32.0),
        beta_slow: parameters.positive_opt("beta_slow")?.unwrap_or(1.0),
        truncate: parameters.flag_or("truncate", true)?,
        original_max_position_embeddings,
    })
}

fn longrope(
    parameters: &ConfigJson,
    config: &ModelConfig,
    rotary_dim: usize,
    original_max_position_embeddings: usize,
) -> Result<RopeScaling, ConfigError> {
    let factors = |key| {
        let factors = parameters.positives(key)?;
        if factors.len() != rotary_dim / 2 {
            let expected = format!("{} numbers, one for each pair of rotated columns", rotary_dim / 2);
            return Err(parameters.refuse(key, expected, factors.len()));
        }
        Ok(factors.into_iter().map(|factor| factor as f32).collect::<Vec<f32>>())
    };
    let original = original_max_position_embeddings as f64;
    let factor = match parameters.positive_opt("factor")? {
        Some(factor) => factor,
        None => config.max_position_embeddings as f64 / original,
    };
    let attention_factor = match parameters.positive_opt("attention_factor")? {
        Some(attention_factor) => attention_factor,
        None if factor <= 1.0 => 1.0,
        None if original_max_position_embeddings < 2 => {
            let expected = "at least 2, or the key attention_factor";
            return Err(parameters.refuse("original_max_position_embeddings", expected, original));
        }
        None => (1.0 + factor.ln() / original.ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope {
        short_factor: factors("short_factor")?,
        long_factor: factors("long_factor")?,
        attention_factor,
        original_max_position_embeddings,
    })
}
