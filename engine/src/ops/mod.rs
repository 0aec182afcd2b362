//! The ops of a transformer. Each file holds an op's forward pass, the values that this pass saves, and the op's backward pass.

mod add;
mod attention;
mod embed;
mod gate;
mod gather_rows;
mod head_norm;
mod linear;
mod rms_norm;
mod rope;
mod score_head;
#[cfg(test)]
mod tests;
mod token_logps;

pub use add::add;
pub use attention::attention;
pub use embed::embed;
pub use gate::gate;
pub use gather_rows::gather_rows;
pub use head_norm::head_norm;
pub use linear::{Linear, linear};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use score_head::{ScoredRows, score_head};
pub use token_logps::{ScoredTokens, TokenLogps, token_logps};
