//! The flags of the optimiser and of its learning rate, checked together.

use super::model::named_alike;
use crate::error::CliError;
use align_lora::optim::{AdamNumbers, OptimizerKind, RmsProp, ScheduleKind, Warmup};
use clap::{Args, ValueEnum};

/// How a gradient becomes a step.
#[derive(Debug, Clone, Args)]
pub(crate) struct OptimiserArgs {
    /// Largest learning rate [default: 1e-5; with --demo 7e-4]
    #[arg(long, value_name = "RATE", help_heading = "Optimiser")]
    pub learning_rate: Option<f64>,
    /// How the learning rate changes over the run
    #[arg(long, value_enum, default_value = "linear", alias = "lr_scheduler_type", help_heading = "Optimiser")]
    pub schedule: ScheduleChoice,
    /// Steps in which the learning rate grows from 0 [default: 0]
    #[arg(long, value_name = "STEPS", conflicts_with = "warmup_ratio", help_heading = "Optimiser")]
    pub warmup_steps: Option<u64>,
    /// Warm-up steps as a share of the run's steps, from 0 to 1, rounded up
    #[arg(long, value_name = "SHARE", help_heading = "Optimiser")]
    pub warmup_ratio: Option<f64>,
    /// The optimiser
    #[arg(long, value_enum, default_value = "adamw", help_heading = "Optimiser")]
    pub optim: OptimChoice,
    /// Decay of adamw's mean of the gradient [default: 0.9]
    #[arg(long, value_name = "BETA", help_heading = "Optimiser")]
    pub adam_beta1: Option<f64>,
    /// Decay of adamw's mean of the squared gradient [default: 0.999]
    #[arg(long, value_name = "BETA", help_heading = "Optimiser")]
    pub adam_beta2: Option<f64>,
    /// Number that adamw adds to the root of that mean [default: 1e-8]
    #[arg(long, value_name = "EPSILON", help_heading = "Optimiser")]
    pub adam_epsilon: Option<f64>,
    /// Decay of rmsprop's mean of the squared gradient [default: 0.99]
    #[arg(long, value_name = "ALPHA", help_heading = "Optimiser")]
    pub rmsprop_alpha: Option<f64>,
    /// Weight decay of the adapter: decoupled with adamw, a part of the gradient with rmsprop
    #[arg(long, value_name = "DECAY", default_value_t = 0.0, help_heading = "Optimiser")]
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; 0 never does
    #[arg(long, value_name = "NORM", default_value_t = 1.0, help_heading = "Optimiser")]
    pub max_grad_norm: f64,
}

impl OptimiserArgs {
    /// Returns the warm-up that the flags name.
    ///
    /// # Errors
    /// [`CliError::Usage`] if the ratio is not from 0 to 1, or if the schedule is `constant` and the warm-up is not 0.
    pub(crate) fn warmup(&self) -> Result<Warmup, CliError> {
        let (flag, warmup, none) = match (self.warmup_steps, self.warmup_ratio) {
            (_, Some(ratio)) if !(0.0..=1.0).contains(&ratio) => {
                return Err(CliError::Usage(format!("--warmup-ratio {ratio}: expected a number from 0 to 1")));
            }
            (_, Some(ratio)) => ("--warmup-ratio", Warmup::Ratio(ratio), ratio == 0.0),
            (steps, None) => ("--warmup-steps", Warmup::Steps(steps.unwrap_or(0)), steps.unwrap_or(0) == 0),
        };
        match self.schedule {
            ScheduleChoice::Constant if !none => Err(CliError::Usage(format!(
                "{flag}: --schedule constant has no warm-up; give --schedule constant_with_warmup, or leave {flag} out"
            ))),
            _ => Ok(warmup),
        }
    }

    /// Returns the optimiser that the flags name.
    ///
    /// # Errors
    /// [`CliError::Usage`] for a flag of another optimiser, or for a number out of its range.
    pub(crate) fn optimizer(&self) -> Result<OptimizerKind, CliError> {
        let unused = |flags: &[(&str, bool)]| match flags.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                let optim = if self.optim == OptimChoice::AdamW { "adamw" } else { "rmsprop" };
                Err(CliError::Usage(format!("--{flag}: --optim {optim} does not read it; leave the flag out")))
            }
            None => Ok(()),
        };
        let decay = |name: &str, value: f64| match (0.0..1.0).contains(&value) {
            true => Ok(value),
            false => Err(CliError::Usage(format!("--{name} {value}: expected a number from 0, below 1"))),
        };
        match self.optim {
            OptimChoice::AdamW => {
                unused(&[("rmsprop-alpha", self.rmsprop_alpha.is_some())])?;
                let torch = AdamNumbers::default();
                let eps = self.adam_epsilon.unwrap_or(torch.eps);
                // with 0, the update of a parameter that has had no gradient yet would be 0 / 0
                if !(eps >= f64::from(f32::MIN_POSITIVE) && eps <= 1.0) {
                    return Err(CliError::Usage(format!("--adam-epsilon {eps}: expected a number above 0, at most 1")));
                }
                Ok(OptimizerKind::AdamW(AdamNumbers {
                    beta1: decay("adam-beta1", self.adam_beta1.unwrap_or(torch.beta1))?,
                    beta2: decay("adam-beta2", self.adam_beta2.unwrap_or(torch.beta2))?,
                    eps,
                }))
            }
            OptimChoice::RmsProp => {
                unused(&[
                    ("adam-beta1", self.adam_beta1.is_some()),
                    ("adam-beta2", self.adam_beta2.is_some()),
                    ("adam-epsilon", self.adam_epsilon.is_some()),
                ])?;
                Ok(OptimizerKind::RmsProp {
                    alpha: decay("rmsprop-alpha", self.rmsprop_alpha.unwrap_or(RmsProp::ALPHA))?,
                })
            }
        }
    }
}

/// See [`ScheduleKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScheduleChoice {
    Linear,
    Cosine,
    /// Without a warm-up
    Constant,
    #[value(name = "constant_with_warmup", alias = "constant-with-warmup")]
    ConstantWithWarmup,
}

named_alike!(ScheduleChoice => ScheduleKind { Linear, Cosine, Constant, ConstantWithWarmup });

/// See [`OptimizerKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimChoice {
    #[value(name = "adamw", aliases = ["adamw_torch", "adamw-torch", "adamw_torch_fused", "adamw-torch-fused"])]
    AdamW,
    /// As in torch, neither centred nor with momentum
    #[value(name = "rmsprop")]
    RmsProp,
}
