//! Reads a position encoding from the key `rope_parameters` of config.json, or from the keys `rope_theta` and `rope_scaling`.

use super::config::ModelConfig;
use super::config_json::{ConfigJson, SHOWN};
use super::error::ConfigError;
use super::rope::{RopeConfig, RopeScaling};
use crate::json::shorten;

/// The supported values of `rope_type`.
const ROPE_TYPES: [&str; 6] = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];

impl RopeConfig {
    /// Reads the position encoding of a model that has one for all layers, from `rope_parameters`, or from `rope_theta` and
    /// `rope_scaling`. Refuses an encoding that rotates only part of a head.
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

    /// Reads the position encoding of a Phi 3. It may rotate only part of each head. The types `longrope`, `su` and `yarn` all
    /// mean longrope. The original length is 4096 if config.json gives none.
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

    /// Reads an encoding that rotates whole heads from the object `parameters`. Uses `theta` if the object has no `rope_theta`.
    /// `original` is the `original_max_position_embeddings` beside the object in config.json. If it is there, it wins over the
    /// one in the object.
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
                    let expected = "another than dynamic for heads of 2 columns";
                    return Err(parameters.refuse("rope_type", expected, "dynamic"));
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

/// Returns the object that holds the parameters of the rope, and the `rope_theta` to use if the object has none. The object is
/// `rope_scaling`, or `rope_parameters` if `rope_scaling` is absent or empty.
fn flat_parameters(json: &ConfigJson) -> Result<(ConfigJson, f64), ConfigError> {
    let said = |parameters: Option<ConfigJson>| parameters.filter(|parameters| !parameters.is_empty());
    let (key, parameters) = match said(json.nested("rope_scaling")?) {
        Some(parameters) => ("rope_scaling", parameters),
        None => ("rope_parameters", json.nested_or_empty("rope_parameters")?),
    };
    if parameters.has("full_attention") || parameters.has("sliding_attention") {
        return Err(json.refuse(key, "one object for all layers", "one per layer type"));
    }
    Ok((parameters, json.positive_opt("rope_theta")?.unwrap_or(10_000.0)))
}

/// Reads `rope_type`, or its older name `type`. Returns `default` if both are absent.
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

/// Reads `rope_theta`, or uses `default` if the key is absent. Refuses a number that f32 cannot hold as a positive, normal
/// number.
fn check_theta(parameters: &ConfigJson, default: f64) -> Result<f64, ConfigError> {
    let rope_theta = parameters.positive_opt("rope_theta")?.unwrap_or(default);
    match (rope_theta as f32).is_normal() {
        true => Ok(rope_theta),
        false => Err(parameters.refuse("rope_theta", "a number that fits in f32", rope_theta)),
    }
}

fn yarn(
    parameters: &ConfigJson,
    config: &ModelConfig,
    original_max_position_embeddings: usize,
) -> Result<RopeScaling, ConfigError> {
    // A `factor` of `null` means the ratio of the maximum length to the original length. An absent `factor` is an error.
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
        let expected = "or mscale and mscale_all_dim, that give a positive f32";
        return Err(parameters.refuse("attention_factor", expected, attention_factor));
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
    let ratio = config.max_position_embeddings as f64 / original;
    let factor = parameters.positive_opt("factor")?.unwrap_or(ratio);
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
