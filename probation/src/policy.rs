//! The numbers a subnet agrees on, checked once.

use serde::{Deserialize, Serialize};

use crate::millionths::Millionths;

/// Everything a policy decides, as it stands in a configuration file. [`Policy`] is the checked
/// form.
///
/// Validators of one subnet should run the same numbers: consensus on chain clips whoever scores
/// differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// Consecutive clean epochs that end a first probation.
    pub clean_epochs: u32,
    /// Accepted audits without which an epoch gives no weight and is not clean. The validator has
    /// to send enough requests that an honest miner reaches this number at the audit rate in force.
    pub audits_per_epoch: u32,
    /// By what factor each further epoch with a proven failure lengthens a probation.
    pub lengthening: u32,
    /// The longest probation, in clean epochs.
    pub longest_probation: u32,
    /// The share of the newest sample in the smoothed score; the rest is the score so far.
    pub smoothing: Millionths,
    /// How many miners of score one fill the subnet. While the scores add up to less, the rest of
    /// the weight burns.
    pub capacity: u32,
    /// Tokens a second, from the request to the last token.
    pub throughput: Criterion,
    /// Milliseconds to the first token.
    pub first_token: Criterion,
    /// Bytes of a proof.
    pub proof_bytes: Criterion,
    /// Milliseconds from challenge to proof.
    pub proof_latency: Criterion,
}

/// One thing that is measured: how much it matters, and what is worth one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Its share of the sample. The four shares add up to one.
    pub weight: Millionths,
    /// The measurement that earns one half, in the criterion's own unit.
    pub half_at: u32,
}

impl Default for Parameters {
    /// A probation of 3 clean epochs of 3 audits that doubles up to 24 (29 hours at a tempo of 360
    /// blocks of 12 s). The references are round numbers to start from: a subnet measures its own
    /// model and sets what should be worth one half there.
    fn default() -> Self {
        let criterion = |weight, half_at| Criterion { weight: Millionths::saturating(weight), half_at };
        Self {
            clean_epochs: 3,
            audits_per_epoch: 3,
            lengthening: 2,
            longest_probation: 24,
            smoothing: Millionths::saturating(300_000),
            capacity: 1,
            throughput: criterion(500_000, 50),
            first_token: criterion(200_000, 500),
            proof_bytes: criterion(100_000, 2 << 20),
            proof_latency: criterion(200_000, 2_000),
        }
    }
}

/// Why parameters make no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A probation of no epochs would be none.
    #[error("clean_epochs is 0: a proven failure would have no consequence; use at least 1")]
    NoCleanEpochs,
    /// An epoch without audits proves nothing.
    #[error("audits_per_epoch is 0: weight would be given without a proof; use at least 1")]
    NoAudits,
    /// A factor below one would shorten probations, or end them.
    #[error("lengthening is 0: a second failure would cost less than the first; use at least 1")]
    NoLengthening,
    /// The cap is below the first probation.
    #[error("longest_probation is {longest}, less than clean_epochs, which is {first}")]
    CapBelowFirst {
        /// The cap.
        longest: u32,
        /// The first probation.
        first: u32,
    },
    /// No sample would ever enter the score.
    #[error("smoothing is 0: no score would ever rise; use more than 0 and at most 1000000 millionths")]
    NoSmoothing,
    /// The criteria do not add up to a whole.
    #[error("the weights of the four criteria add up to {0} millionths, not to 1000000")]
    CriteriaNotWhole(u64),
    /// A reference of zero would make every measurement worth nothing, or everything.
    #[error("half_at of {0} is 0; use the measurement that should be worth one half")]
    NoReference(&'static str),
}

/// Checked [`Parameters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parameters", into = "Parameters")]
pub struct Policy(Parameters);

impl Policy {
    /// The numbers behind it.
    pub const fn parameters(&self) -> &Parameters {
        &self.0
    }

    /// Consecutive clean epochs that end a probation after the given number of offences:
    /// `min(longest_probation, clean_epochs · lengthening^(offences - 1))`.
    pub fn probation_epochs(&self, offences: u32) -> u32 {
        let growth = self.0.lengthening.saturating_pow(offences.saturating_sub(1));
        self.0.clean_epochs.saturating_mul(growth).min(self.0.longest_probation)
    }
}

impl TryFrom<Parameters> for Policy {
    type Error = PolicyError;

    fn try_from(p: Parameters) -> Result<Self, PolicyError> {
        if p.clean_epochs == 0 {
            return Err(PolicyError::NoCleanEpochs);
        }
        if p.audits_per_epoch == 0 {
            return Err(PolicyError::NoAudits);
        }
        if p.lengthening == 0 {
            return Err(PolicyError::NoLengthening);
        }
        if p.longest_probation < p.clean_epochs {
            return Err(PolicyError::CapBelowFirst { longest: p.longest_probation, first: p.clean_epochs });
        }
        if p.smoothing == Millionths::ZERO {
            return Err(PolicyError::NoSmoothing);
        }
        check_criteria(&p)?;
        Ok(Self(p))
    }
}

impl From<Policy> for Parameters {
    fn from(policy: Policy) -> Self {
        policy.0
    }
}

fn check_criteria(p: &Parameters) -> Result<(), PolicyError> {
    let named = [
        ("throughput", p.throughput),
        ("first_token", p.first_token),
        ("proof_bytes", p.proof_bytes),
        ("proof_latency", p.proof_latency),
    ];
    if let Some((name, _)) = named.iter().find(|(_, criterion)| criterion.half_at == 0) {
        return Err(PolicyError::NoReference(name));
    }
    let whole = named.iter().map(|(_, criterion)| u64::from(criterion.weight.get())).sum();
    if whole == u64::from(Millionths::ONE.get()) { Ok(()) } else { Err(PolicyError::CriteriaNotWhole(whole)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Parameters)) -> Result<Policy, PolicyError> {
        let mut parameters = Parameters::default();
        change(&mut parameters);
        Policy::try_from(parameters)
    }

    #[test]
    fn the_defaults_are_a_policy() {
        assert_eq!(check(|_| ()), Ok(Policy::default()));
    }

    #[test]
    fn probation_doubles_with_every_offence_up_to_the_cap() {
        let terms: Vec<u32> = (1..7).map(|offences| Policy::default().probation_epochs(offences)).collect();
        assert_eq!(terms, [3, 6, 12, 24, 24, 24]);
        assert_eq!(Policy::default().probation_epochs(u32::MAX), 24);
    }

    #[test]
    fn parameters_that_would_switch_a_rule_off_are_refused() {
        assert_eq!(check(|p| p.clean_epochs = 0), Err(PolicyError::NoCleanEpochs));
        assert_eq!(check(|p| p.audits_per_epoch = 0), Err(PolicyError::NoAudits));
        assert_eq!(check(|p| p.lengthening = 0), Err(PolicyError::NoLengthening));
        assert_eq!(check(|p| p.smoothing = Millionths::ZERO), Err(PolicyError::NoSmoothing));
        let capped = check(|p| p.longest_probation = 2);
        assert_eq!(capped, Err(PolicyError::CapBelowFirst { longest: 2, first: 3 }));
    }

    #[test]
    fn criteria_must_add_up_and_have_references() {
        let uneven = check(|p| p.throughput.weight = Millionths::ONE);
        assert_eq!(uneven, Err(PolicyError::CriteriaNotWhole(1_500_000)));
        let unset = check(|p| p.proof_latency.half_at = 0);
        assert_eq!(unset, Err(PolicyError::NoReference("proof_latency")));
    }

    #[test]
    fn a_policy_read_from_a_file_is_checked_too() {
        assert!(serde_json::from_str::<Policy>(r#"{"audits_per_epoch":5}"#).is_ok());
        assert!(serde_json::from_str::<Policy>(r#"{"audits_per_epoch":0}"#).is_err());
        assert!(serde_json::from_str::<Policy>(r#"{"audits":5}"#).is_err());
    }
}
