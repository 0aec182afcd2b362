//! What a step or an evaluation reports, under TRL's names.

use crate::objective::{Head, RowLogps, Scores};
use align_data::Target;
use serde_json::{Map, Value};

/// One line of `metrics.jsonl` for an optimiser step. Loss and rewards are those before the update.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics {
    /// Number of the step, from 1.
    pub step: u64,
    /// Epochs completed, including the fraction of the current one.
    pub epoch: f64,
    /// The objective's loss over the batch.
    pub loss: f64,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// The learning rate that the schedule gave this step.
    pub learning_rate: f64,
    /// Means over the answers of the batch.
    pub preferences: Preferences,
    /// Tokens so far. A prompt counts once for each of its answers.
    pub num_tokens: u64,
    /// Speed of this step, with tokens counted as in `num_tokens`.
    pub tokens_per_second: f64,
}

/// The result of an evaluation: means over its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalMetrics {
    /// Updates that the adapter has had.
    pub step: u64,
    /// Epochs completed, including the fraction of the current one.
    pub epoch: f64,
    /// Rows evaluated.
    pub rows: u64,
    /// The objective's loss, a mean over all rows.
    pub loss: f64,
    /// Means over the answers of all rows.
    pub preferences: Preferences,
    /// Share of pairs whose chosen answer has the larger mean log-prob per token under the policy.
    pub logps_accuracies: Option<f64>,
}

/// Means over the chosen (desirable) and rejected (undesirable) answers of a set of rows. A field is `None` if there is no such
/// answer, or if the answers lack the number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Preferences {
    /// Reward of chosen answers, as the objective defines it.
    pub rewards_chosen: Option<f64>,
    /// Reward of rejected answers.
    pub rewards_rejected: Option<f64>,
    /// Share of pairs with `rewards_chosen > rewards_rejected`. A row's best and worst scored answers count as a pair.
    pub rewards_accuracies: Option<f64>,
    /// `rewards_chosen - rewards_rejected`
    pub rewards_margins: Option<f64>,
    /// Log-prob of chosen answers under the policy, in nats.
    pub logps_chosen: Option<f64>,
    /// Log-prob of rejected answers under the policy, in nats.
    pub logps_rejected: Option<f64>,
    /// KTO's reference point, in nats.
    pub kl: Option<f64>,
    /// Share of pairs whose gradient a bound of the loss removed.
    pub clipped: Option<f64>,
}

/// Sums over the micro-batches of a step or the batches of an evaluation. [`Preferences`] are made from them.
#[derive(Debug, Clone, Default)]
pub struct PreferenceSums {
    chosen: ClassSums,
    rejected: ClassSums,
    pairs: u64,
    accurate: u64,
    pairs_by_mean_logp: u64,
    kl: f64,
    kl_weight: f64,
    clipped: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct ClassSums {
    /// Answers that have a reward.
    rewarded: u64,
    rewards: f64,
    /// Answers that have a log-prob. Those of a reward model have none.
    with_logp: u64,
    logps: f64,
}

impl ClassSums {
    fn add(&mut self, reward: Option<f64>, logp: Option<f64>) {
        self.rewarded += u64::from(reward.is_some());
        self.rewards += reward.unwrap_or(0.0);
        self.with_logp += u64::from(logp.is_some());
        self.logps += logp.unwrap_or(0.0);
    }

    fn mean_reward(&self) -> Option<f64> {
        (self.rewarded > 0).then(|| self.rewards / self.rewarded as f64)
    }

    fn mean_logp(&self) -> Option<f64> {
        (self.with_logp > 0).then(|| self.logps / self.with_logp as f64)
    }
}

impl PreferenceSums {
    /// Adds rows with the head that was computed from them.
    pub fn add(&mut self, rows: &[RowLogps], head: &Head) {
        if let Some(clipped) = head.clipped {
            *self.clipped.get_or_insert(0) += clipped as u64;
        }
        for (row, rewards) in rows.iter().zip(&head.rewards) {
            let reward = |i: usize| rewards.get(i).copied();
            let logp = |i: usize| (head.scores == Scores::LogProbs).then(|| row.policy[i]);
            match &row.target {
                Some(Target::Pair) => self.add_pair(row, [0, 1], reward, logp),
                Some(Target::Label(true)) => self.chosen.add(reward(0), logp(0)),
                Some(Target::Label(false)) => self.rejected.add(reward(0), logp(0)),
                Some(Target::Rewards(scores)) => {
                    // the best and the worst answer count as a pair; if all scores are equal, there is none
                    let by_score = |a: &usize, b: &usize| scores[*a].total_cmp(&scores[*b]);
                    let (best, worst) = ((0..scores.len()).rev().max_by(by_score), (0..scores.len()).min_by(by_score));
                    if let (Some(best), Some(worst)) = (best, worst)
                        && scores[best] > scores[worst]
                    {
                        self.add_pair(row, [best, worst], reward, logp);
                    }
                }
                Some(Target::Sequence) | None => {}
            }
        }
    }

    /// Adds two answers of a row as a pair. `reward` and `logp` return the numbers of the answer at a place in the row.
    fn add_pair(
        &mut self,
        row: &RowLogps,
        [chosen, rejected]: [usize; 2],
        reward: impl Fn(usize) -> Option<f64>,
        logp: impl Fn(usize) -> Option<f64>,
    ) {
        self.chosen.add(reward(chosen), logp(chosen));
        self.rejected.add(reward(rejected), logp(rejected));
        self.pairs += 1;
        self.accurate += u64::from(reward(chosen) > reward(rejected));
        let mean = |i: usize| row.policy[i] / row.lens[i].max(1) as f64;
        self.pairs_by_mean_logp += u64::from(mean(chosen) > mean(rejected));
    }

    /// Adds KTO's reference point of a batch of `rows` rows.
    pub fn add_kl(&mut self, kl: f64, rows: usize) {
        self.kl += kl * rows as f64;
        self.kl_weight += rows as f64;
    }

    /// Adds the sums of other rows.
    pub fn merge(&mut self, other: PreferenceSums) {
        for (mine, theirs) in [(&mut self.chosen, &other.chosen), (&mut self.rejected, &other.rejected)] {
            mine.rewarded += theirs.rewarded;
            mine.rewards += theirs.rewards;
            mine.with_logp += theirs.with_logp;
            mine.logps += theirs.logps;
        }
        self.pairs += other.pairs;
        self.accurate += other.accurate;
        self.pairs_by_mean_logp += other.pairs_by_mean_logp;
        self.kl += other.kl;
        self.kl_weight += other.kl_weight;
        if let Some(clipped) = other.clipped {
            *self.clipped.get_or_insert(0) += clipped;
        }
    }

    /// Returns the means.
    pub fn means(&self) -> Preferences {
        let (chosen, rejected) = (self.chosen.mean_reward(), self.rejected.mean_reward());
        let rewarded = self.pairs > 0 && self.chosen.rewarded > 0;
        Preferences {
            rewards_chosen: chosen,
            rewards_rejected: rejected,
            rewards_accuracies: rewarded.then(|| self.accurate as f64 / self.pairs as f64),
            rewards_margins: chosen.zip(rejected).map(|(chosen, rejected)| chosen - rejected),
            logps_chosen: self.chosen.mean_logp(),
            logps_rejected: self.rejected.mean_logp(),
            kl: (self.kl_weight > 0.0).then(|| self.kl / self.kl_weight),
            clipped: self.clipped.filter(|_| self.pairs > 0).map(|clipped| clipped as f64 / self.pairs as f64),
        }
    }

    /// Returns the share of pairs whose chosen answer has the larger mean log-prob per token. `None` if there are no pairs with
    /// log-probs.
    pub fn logps_accuracies(&self) -> Option<f64> {
        (self.pairs > 0 && self.chosen.with_logp > 0).then(|| self.pairs_by_mean_logp as f64 / self.pairs as f64)
    }
}

impl Preferences {
    fn entries(&self) -> [(&'static str, Option<f64>); 8] {
        [
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/accuracies", self.rewards_accuracies),
            ("rewards/margins", self.rewards_margins),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
            ("kl", self.kl),
            ("clipped", self.clipped),
        ]
    }
}

impl StepMetrics {
    /// Returns the step's line of `metrics.jsonl`, a JSON object.
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("step".into(), self.step.into());
        let mut put = |name: &str, value: f64| line.insert(name.into(), value.into());
        put("epoch", self.epoch);
        put("loss", self.loss);
        put("grad_norm", self.grad_norm);
        put("learning_rate", self.learning_rate);
        for (name, value) in self.preferences.entries() {
            if let Some(value) = value {
                put(name, value);
            }
        }
        put("tokens_per_second", self.tokens_per_second);
        line.insert("num_tokens".into(), self.num_tokens.into());
        Value::Object(line)
    }
}

impl EvalMetrics {
    /// Returns the line of the evaluation, a JSON object with the keys `step`, `epoch` and those of [`EvalMetrics::entries`].
    pub fn to_json(&self) -> Value {
        let mut line = Map::new();
        line.insert("step".into(), self.step.into());
        line.insert("epoch".into(), self.epoch.into());
        for (name, value) in self.entries() {
            line.insert(name, value.into());
        }
        Value::Object(line)
    }

    /// Returns the `eval_` keys and their values.
    pub fn entries(&self) -> Vec<(String, f64)> {
        let mut entries = vec![("eval_loss".to_owned(), self.loss)];
        let named = self.preferences.entries().into_iter().chain([("logps/accuracies", self.logps_accuracies)]);
        entries.extend(named.filter_map(|(name, value)| Some((format!("eval_{name}"), value?))));
        entries
    }
}
