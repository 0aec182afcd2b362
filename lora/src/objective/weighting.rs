//! WPO: weighs pairs by how likely the policy finds their answers.

/// Returns `min(1, e^(m_chosen + m_rejected))`. `m`, in nats, is the mean over an answer's tokens of `ln p(token) - ln Σ p^2`.
/// `aligned_logps` holds these differences, one for each token of the chosen answer and of the rejected answer. The weight is 1
/// if the policy finds the answers on average at least as likely as what it would write itself. It has no gradient.
///
/// Source: arXiv 2406.11827, eq. 2, and the authors' code. TRL has no `min(1, ...)`.
pub fn wpo_weight(aligned_logps: [&[f64]; 2]) -> f64 {
    let means = aligned_logps.map(|tokens| tokens.iter().sum::<f64>() / tokens.len().max(1) as f64);
    means.iter().sum::<f64>().exp().min(1.0)
}
