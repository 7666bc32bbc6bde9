//! Row 19: the right proof of a statement that differs in one field, about the same cell and decode.

use std::sync::Arc;

use assay_audit::model::{CommittedLayer, CommittedModel};
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Network, Request};
use assay_audit::verdict::{Failure, Reason, Relation, Where};
use assay_commitments::manifest::Manifest;
use assay_commitments::trace::{FinishReason, TraceCommitment};
use assay_commitments::{Epoch, Hotkey, LayerIndex, ManifestId, Position, SessionId, TokenId};
use assay_tests::adversary::Proving;
use assay_tests::arena::NETWORK;

use crate::table::{Cheat, caught, in_the_first_cell};

/// The default policy, but for a number that draws nothing.
const OTHER_POLICY: Policy = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 60_001 };

/// Proves to another request.
fn of_request(change: impl Fn(&mut Request) + Send + Sync + 'static) -> Cheat {
    Cheat::of_one_cell(|adversary| {
        adversary.proof(move |proving| {
            let mut request = proving.request.clone();
            change(&mut request);
            Proving { request: &request, ..*proving }.honest()
        })
    })
}

/// Proves what another commitment binds.
fn of_commitment(change: impl Fn(&mut TraceCommitment) + Send + Sync + 'static) -> Cheat {
    Cheat::of_one_cell(|adversary| {
        adversary.proof(move |proving| {
            let mut commitment = proving.commitment.clone();
            change(&mut commitment);
            Proving { commitment: &commitment, ..*proving }.honest()
        })
    })
}

const fn other_finish(finish: FinishReason) -> FinishReason {
    match finish {
        FinishReason::Length => FinishReason::StopToken,
        FinishReason::StopToken | FinishReason::StopString => FinishReason::Length,
    }
}

/// The same weights under another manifest: that of another tokenizer.
fn of_another_tokenizer(model: &CommittedModel) -> CommittedModel {
    let CommittedModel { manifest, layers, head, final_norm, embeddings } = model;
    let layer = |layer: &CommittedLayer| {
        let CommittedLayer { weights, small } = layer;
        CommittedLayer { weights: Arc::clone(weights), small: small.clone() }
    };
    CommittedModel {
        manifest: Manifest { tokenizer: [9; 32], ..manifest.clone() },
        layers: layers.iter().map(layer).collect(),
        head: head.clone(),
        final_norm: final_norm.clone(),
        embeddings: embeddings.clone(),
    }
}

attacks! {
    /// the right proof of another request
    attack_19_other_request: Always [C2] at in_the_first_cell => of_request(|request| request.counter += 1);
    /// the right proof under another policy
    attack_19_other_policy: Always [C2] at in_the_first_cell => of_request(|request| request.policy = OTHER_POLICY);
    /// the right proof of another commitment, that differs in what no row depends on
    attack_19_other_commitment: Always [C2] at in_the_first_cell => {
        of_commitment(|commitment| commitment.finish = other_finish(commitment.finish))
    };
    /// the right proof for another nonce
    attack_19_other_nonce: Always [C2] at in_the_first_cell => Cheat::of_one_cell(|adversary| {
        adversary.proof(|proving| Proving { nonce: Some(&[9; 32]), ..*proving }.honest())
    });
    /// the right proof under another manifest of the same weights
    attack_19_other_manifest: Always [C2] at in_the_first_cell => Cheat::of_one_cell(|adversary| {
        adversary.proof(|proving| Proving { model: &of_another_tokenizer(proving.model), ..*proving }.honest())
    });
}

/// A field and another value of it.
type Field<T> = (&'static str, fn(&mut T));

/// Every field of a request.
const REQUEST: [Field<Request>; 15] = [
    ("genesis", |request| request.network = Network { genesis: [8; 32], ..NETWORK }),
    ("netuid", |request| request.network = Network { netuid: NETWORK.netuid + 1, ..NETWORK }),
    ("validator", |request| request.validator = Hotkey::new([4; 32])),
    ("miner", |request| request.miner = Hotkey::new([4; 32])),
    ("epoch", |request| request.epoch = Epoch::new(request.epoch.get() + 1)),
    ("manifest", |request| request.manifest = ManifestId::new([1; 32])),
    ("prompt", |request| request.prompt = Prompt::Text("B".to_owned())),
    ("sampling", |request| request.sampling.seed ^= 1),
    ("max_tokens", |request| request.max_tokens += 1),
    ("stop", |request| request.stop.push("stop".to_owned())),
    ("policy", |request| request.policy = OTHER_POLICY),
    ("audit_rate", |request| request.audit_rate = AuditRate::Below(u64::MAX)),
    ("deadlines", |request| request.deadlines.proof_ms += 1),
    ("counter", |request| request.counter += 1),
    ("nonce_commitment", |request| request.nonce_commitment = Some([5; 32])),
];

/// Every field of a commitment.
const COMMITMENT: [Field<TraceCommitment>; 8] = [
    ("session", |commitment| commitment.session = SessionId::new([6; 32])),
    ("manifest", |commitment| commitment.manifest = ManifestId::new([1; 32])),
    ("miner", |commitment| commitment.miner = Hotkey::new([4; 32])),
    ("validator", |commitment| commitment.validator = Hotkey::new([4; 32])),
    ("prompt", |commitment| commitment.prompt[0] = TokenId::new(2)),
    ("output", |commitment| commitment.output[0] = TokenId::new((commitment.output[0].get() + 1) % 40)),
    ("finish", |commitment| commitment.finish = other_finish(commitment.finish)),
    ("roots", |commitment| commitment.roots[0] = [3; 32]),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_request_and_commitment_binds_the_proof() {
    let of_requests = REQUEST.map(|(field, change)| (field, of_request(change)));
    // Under a tree of one leaf a proof holds rows and no hashes, so that no path shows the session first.
    let of_commitments = COMMITMENT.map(|(field, change)| (field, of_commitment(change)));
    let place = Where::cell(LayerIndex::new(0), Position::new(0)).relation(Relation::C2);
    for (field, cheat) in of_requests.into_iter().chain(of_commitments) {
        assert_eq!(caught(field, cheat).await, Failure { reason: Reason::C2, place }, "{field}");
    }
}
