//! Pure policy: what verdicts do to a miner's standing, score and weight.
//!
//! A validator hands every finished response to [`Ledger::record`] and closes each epoch of the
//! chain with [`Ledger::end_epoch`]; what it may do with a miner ([`Ledger::audit_rate`],
//! [`Ledger::organic_allowed`]) and what it sets on chain ([`Ledger::weights`]) follows from those
//! calls and a [`Policy`] alone. There is no clock, no randomness, no I/O and no floating point
//! here, so that the same history gives the same weights on every machine and anybody who holds the
//! history can check them.
//!
//! | standing | audits | organic traffic | weight |
//! |---|---|---|---|
//! | [`Standing::Unproven`] | every response | no | none |
//! | [`Standing::Good`] | at the policy's rate | yes | by score, after an epoch with enough accepted audits |
//! | [`Standing::Probation`] | every response | no | none |
//!
//! Miners are known by hotkey. A uid that changes hands brings nothing to its new holder, and
//! leaving the subnet does not end a probation.
//!
//! # From a verdict to a standing
//!
//! A proven failure takes the score to zero at once and puts the miner on probation, which ends
//! with the last of [`Parameters::clean_epochs`] consecutive clean epochs. A clean epoch has
//! [`Parameters::audits_per_epoch`] accepted audits, no failure, and no silence: whoever is on
//! probation must not choose which requests it answers. An epoch that is not clean sets the count
//! back to zero. Failing again in a later epoch lengthens the term ([`Policy::probation_epochs`]);
//! several failures in one epoch count as one offence, because responses that were under way
//! together cannot have been warned by each other's verdicts.
//!
//! Our own faults cost nothing. When the audits that came out inconclusive would have been enough,
//! the epoch neither counts nor breaks a run, and a good miner keeps the weight it had and the score,
//! of which only its own silence in that epoch takes something. Requests for which the validator had no time are among them, but not those that the miner's
//! own slowness left out: these are not recorded at all, and the epoch is judged by the others.
//!
//! # From measurements to a score
//!
//! Validity is the gate: only an epoch with enough accepted audits has a sample at all. The sample
//! is
//!
//! ```text
//! (w1·throughput + w2·first token + w3·proof bytes + w4·proof latency) · served / (served + unavailable)
//! throughput  = x / (x + h)     x tokens a second, over the epoch's time from requests to last tokens
//! the others  = h / (h + x)     x the epoch's mean
//! ```
//!
//! where each `h` is the policy's own reference, the value that is worth one half. Throughput counts
//! from the request on: whoever holds an answer back to send it at once gains nothing. References are
//! fixed, never the other miners: nobody's score can be pushed down by what others do. The score is
//! the exponential average of the samples and starts from zero, so that a new name is never worth
//! more than an old one. A miner that falls silent in an epoch without enough accepted audits gets
//! a sample of zero; one that only refused, or was not asked, keeps its score but has no weight for
//! the epoch.
//!
//! # From scores to weights
//!
//! See [`Ledger::weights`]: shares proportional to score, and what nobody earned goes to the burn
//! hotkey.
#![forbid(unsafe_code)]

mod encoding;
mod explanation;
mod ledger;
mod millionths;
mod outcome;
mod policy;
mod record;
mod score;
mod tally;
mod weights;

pub use explanation::Explanation;
pub use ledger::{AuditRate, EpochClosed, Ledger, State};
pub use millionths::{AboveOne, Millionths};
pub use outcome::{Outcome, ProofCost, ReasonCode, Serving};
pub use policy::{Criterion, Parameters, Policy, PolicyError};
pub use record::{Judgement, Standing};
pub use tally::Tally;
pub use weights::{WEIGHT_TOTAL, WeightError};
