//! Whether a request is this miner's to answer.
//!
//! What is not shown to come from a validator gets a status and no signature; what does, and asks
//! for more or other than this miner serves, gets a signed refusal.

use assay_audit::keys::Signature;
use assay_audit::policy::Policy;
use assay_audit::request::{Deadlines, Request};
use assay_commitments::codec;
use assay_commitments::manifest::Architecture;
use assay_commitments::{Epoch, Hotkey};
use assay_proto::v1::Signed;
use tonic::Status;

use crate::config::Limits;

/// The request in an envelope, if the validator it names signed it for this miner.
pub(crate) fn read_request(signed: &Signed, miner: &Hotkey) -> Result<Request, Status> {
    let request: Request = codec::decode(&signed.body)
        .map_err(|error| Status::invalid_argument(format!("the request cannot be read: {error}")))?;
    let signature = assay_proto::fields::signature(&signed.signature).map(Signature);
    if request.miner != *miner {
        return Err(Status::invalid_argument(format!("this is miner {miner}, the request is for another")));
    }
    if signature.is_some_and(|signature| request.is_signed(&signature)) {
        Ok(request)
    } else {
        Err(Status::unauthenticated("the request is not signed by the validator it names"))
    }
}

/// Whether what a request asks for lies within the limits; if not, the first thing that does not.
pub(crate) fn check_limits(
    request: &Request,
    limits: &Limits,
    architecture: &Architecture,
    epoch: Epoch,
) -> Result<(), &'static str> {
    let within = |what, ok: bool| if ok { Ok(()) } else { Err(what) };
    // Two views of a chain may differ by a block, and so by an epoch.
    within("epoch", request.epoch.next() >= epoch && request.epoch <= epoch.next())?;
    within("max_tokens", request.max_tokens <= limits.output_tokens)?;
    within("deadlines", deadlines_within(&request.deadlines, limits))?;
    let (cells, decodes) = most_asked(&request.policy, architecture, request.max_tokens);
    let layers = request.policy.max_distinct_layers(architecture.layers);
    within("least budget", least_budget_ms(&request.policy) <= limits.least_budget_ms)?;
    within("distinct layers", layers <= limits.distinct_layers)?;
    within("cells", cells <= limits.cells)?;
    within("decodes", decodes <= limits.decodes)
}

fn deadlines_within(deadlines: &Deadlines, limits: &Limits) -> bool {
    let (least, most) = (limits.least_deadlines.each(), limits.most_deadlines.each());
    deadlines.each().iter().zip(least.iter().zip(&most)).all(|(asked, (least, most))| (least..=most).contains(&asked))
}

/// The most cells and decodes that an audit under the policy can ask for.
fn most_asked(policy: &Policy, architecture: &Architecture, max_tokens: u32) -> (u64, u64) {
    let all = u64::from(architecture.layers).saturating_mul(u64::from(architecture.max_positions));
    let decodes = match *policy {
        Policy::Sampled { decodes, .. } => decodes,
        Policy::Everything => max_tokens,
    };
    (policy.drawn_cells(architecture.layers).unwrap_or(all), u64::from(decodes))
}

/// The least proof time that a policy asks a miner to grant.
pub(crate) const fn least_budget_ms(policy: &Policy) -> u32 {
    match *policy {
        Policy::Sampled { least_budget_ms, .. } => least_budget_ms,
        Policy::Everything => 0,
    }
}

/// Positions that an answer can reach; `None` when the prompt is empty or does not fit the context.
pub(crate) fn most_positions(prompt_tokens: usize, max_tokens: u32, architecture: &Architecture) -> Option<usize> {
    let context = usize::try_from(architecture.max_positions).unwrap_or(usize::MAX);
    let output = usize::try_from(max_tokens).unwrap_or(usize::MAX);
    (1..=context).contains(&prompt_tokens).then(|| prompt_tokens.saturating_add(output).min(context))
}
