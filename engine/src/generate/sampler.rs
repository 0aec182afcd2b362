//! Chooses a token from logits: repetition penalty, temperature, top-k, top-p, min-p, and a seeded draw.

use align_kernels::rng::Key;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// `None` chooses the token with the largest logit, and among equal ones the smallest id.
    pub random: Option<Random>,
    /// Divides the positive logits of tokens that have occurred, and multiplies their negative ones. A penalty of 1 changes
    /// nothing. Source: arXiv 1909.05858, sec. 4.1.
    pub repetition_penalty: f32,
}

/// Parameters of a random draw. The filters apply in the order of the fields, as in transformers.
#[derive(Debug, Clone, PartialEq)]
pub struct Random {
    /// Divides the logits; > 0.
    pub temperature: f32,
    /// Keeps this many of the largest logits; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens whose probability is at least this fraction of the largest probability; 0 keeps all. Source: arXiv
    /// 2407.01082.
    pub min_p: f32,
    /// Seed of the run. A draw depends on the seed, the sequence and the token's place in it.
    pub seed: u64,
}

impl Sampling {
    /// Greedy decoding.
    pub const GREEDY: Sampling = Sampling { random: None, repetition_penalty: 1.0 };

    /// Chooses new token number `position` of sequence number `sequence`. The choice depends only on the arguments and the
    /// seed.
    ///
    /// `seen` are the tokens of the sequence so far, prompt included. `banned` are tokens that may not come now, such as the
    /// stop tokens before the minimum length.
    pub fn choose(&self, logits: &[f32], seen: &[u32], banned: &[u32], sequence: u64, position: u64) -> u32 {
        let mut logits = logits.to_vec();
        if self.repetition_penalty != 1.0 {
            for &token in seen.iter().collect::<std::collections::BTreeSet<_>>() {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit =
                        if *logit > 0.0 { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
                }
            }
        }
        for &token in banned {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        match &self.random {
            None => argmax(&logits),
            Some(random) => random.draw(&logits, sequence, position),
        }
    }
}

impl Random {
    fn draw(&self, logits: &[f32], sequence: u64, position: u64) -> u32 {
        let mut candidates: Vec<(u32, f32)> =
            logits.iter().enumerate().map(|(id, &logit)| (id as u32, logit)).collect();
        // most likely first; equal ones by id, so that the logits alone decide the order
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if self.top_k > 0 {
            candidates.truncate(self.top_k);
        }
        let largest = f64::from(candidates[0].1);
        // subtract first: at a low temperature `exp(logit / temperature)` would overflow
        let weight = |logit: f32| ((f64::from(logit) - largest) / f64::from(self.temperature)).exp();
        let mut weights: Vec<f64> = candidates.iter().map(|(_, logit)| weight(*logit)).collect();
        if self.top_p < 1.0 {
            let total: f64 = weights.iter().sum();
            let mut sum = 0.0;
            let kept = weights.iter().position(|weight| {
                sum += weight / total;
                sum >= f64::from(self.top_p)
            });
            weights.truncate(kept.map_or(weights.len(), |last| last + 1));
        }
        if self.min_p > 0.0 {
            // the first weight is exactly 1
            let kept = weights.iter().position(|weight| *weight < f64::from(self.min_p)).unwrap_or(weights.len());
            weights.truncate(kept.max(1));
        }
        let total: f64 = weights.iter().sum();
        let mut rest = f64::from(Key::new(self.seed, position, sequence).unit(0)) * total;
        for (candidate, weight) in candidates.iter().zip(&weights) {
            if rest < *weight {
                return candidate.0;
            }
            rest -= weight;
        }
        candidates[weights.len() - 1].0
    }
}

/// Returns the index of the largest value; among equal values the smallest index.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn random(change: impl FnOnce(&mut Random)) -> Sampling {
        let mut random = Random { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };
        change(&mut random);
        Sampling { random: Some(random), repetition_penalty: 1.0 }
    }

    fn drawn(sampling: &Sampling) -> std::collections::BTreeSet<u32> {
        (0..2000).map(|position| sampling.choose(&LOGITS, &[], &[], 0, position)).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equal_logits() {
        assert_eq!(Sampling::GREEDY.choose(&LOGITS, &[], &[], 0, 0), 1);
        assert_eq!(Sampling::GREEDY.choose(&LOGITS, &[], &[1], 0, 0), 3);
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        assert_eq!(drawn(&random(|_| ())).len(), 5);
        assert_eq!(drawn(&random(|r| r.top_k = 2)), [1, 3].into());
        assert_eq!(drawn(&random(|r| r.top_p = 0.5)), [1, 3].into());
        assert_eq!(drawn(&random(|r| r.min_p = 0.3)), [1, 2, 3].into());
        assert_eq!(drawn(&random(|r| r.temperature = 0.01)), [1, 3].into());
        assert_eq!(drawn(&random(|r| r.temperature = 1e-40)), [1, 3].into());
    }

    #[test]
    fn draws_follow_the_distribution() {
        let sampling = random(|_| ());
        let n = 20_000;
        let ones = (0..n).filter(|&position| sampling.choose(&LOGITS, &[], &[], 3, position) == 1).count();
        let total: f64 = LOGITS.iter().map(|&x| f64::from(x).exp()).sum();
        let p = 2f64.exp() / total;
        let five_sigma = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
        assert!((ones as f64 / n as f64 - p).abs() < five_sigma);
    }

    #[test]
    fn the_repetition_penalty_lowers_both_signs() {
        let sampling = Sampling { random: None, repetition_penalty: 3.0 };
        assert_eq!(sampling.choose(&LOGITS, &[1, 3, 1], &[], 0, 0), 2);
        assert_eq!(sampling.choose(&[-1.0, -2.0], &[0], &[], 0, 0), 1);
    }
}
