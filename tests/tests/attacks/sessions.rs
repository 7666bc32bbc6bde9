//! Rows 10, 12, 14 and 21: who is meant by a message, and when it was chosen.

use std::sync::{Arc, Mutex, OnceLock};

use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::request::{Network, PROTOCOL_VERSION, Request};
use assay_audit::session::{SignedBytes, sign_commitment, sign_proof};
use assay_commitments::codec;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{Epoch, Hotkey, SessionId};
use assay_proto::chunks;
use assay_proto::v1::miner_message::Message;
use assay_proto::v1::{MinerMessage, Signed};
use assay_tests::adversary::{Part, Proving, as_scripted, message};
use assay_tests::arena::{NETWORK, keys};
use sha3::{Digest, Sha3_256};

use crate::table::{Cheat, at_the_answer, at_the_proof, claimed, in_the_first_cell};

const FEWER_CELLS: Policy = Policy::Sampled { cells: 1, decodes: 1, columns: None, least_budget_ms: 60_000 };

/// The commitment in a message.
pub(crate) fn commitment_in(due: &MinerMessage) -> TraceCommitment {
    let Some(Message::Commitment(signed)) = &due.message else { panic!("a commitment is due") };
    codec::decode(&signed.body).unwrap()
}

/// A commitment as a message.
pub(crate) fn commitment_message(signed: SignedBytes) -> MinerMessage {
    message(Message::Commitment(Signed { body: signed.bytes, signature: signed.signature.0.to_vec() }))
}

/// The proof in messages, signed by others or for another commitment.
fn signed_again(keys: &Keypair, commitment: &TraceCommitment, due: Vec<MinerMessage>) -> Vec<MinerMessage> {
    let mut proof = chunks::Assembly::new(usize::MAX);
    for due in due {
        let Some(Message::Proof(chunk)) = due.message else { panic!("a proof is due") };
        proof.push(&chunk.data).unwrap();
    }
    let signed = sign_proof(keys, commitment, proof.finish());
    chunks::proof_messages(&signed.bytes, signed.signature.0).collect()
}

/// The id of the session of a request in that encoding.
fn session_of(request: &[u8]) -> SessionId {
    SessionId::new(Sha3_256::new().chain_update(b"assay/session-id/v1").chain_update(request).finalize().into())
}

/// Commits to the session of a request that says something else.
fn of_another_request(change: impl Fn(&mut Request) + Send + Sync + 'static) -> Cheat {
    Cheat::of(claimed().commitment(move |request, commitment| {
        let mut other = request.clone();
        change(&mut other);
        commitment.session = other.session_id();
    }))
}

/// Lets the miner of the second session choose its commitment knowing that of the first.
fn knowing_the_first(change: impl Fn(&TraceCommitment, &mut TraceCommitment) + Send + Sync + 'static) -> Cheat {
    let first = OnceLock::new();
    let adversary = claimed().commitment(move |_, commitment| match first.get() {
        None => first.set(commitment.clone()).unwrap(),
        Some(first) => change(first, commitment),
    });
    Cheat::of(adversary).in_the_second_session()
}

attacks! {
    /// a second commitment once the first is signed
    attack_10_second_commitment: Always [ProtocolViolation] => Cheat::speaking(at_the_answer(|talk, mut due| {
        let mut second = commitment_in(due.last().unwrap());
        second.roots.swap(1, 2);
        due.push(commitment_message(sign_commitment(talk.keys, &second)));
        as_scripted(due)
    }));
    /// a commitment chosen to suit the nonce, in place of the signed one
    attack_10_commitment_after_the_nonce: Always [C2] at in_the_first_cell => {
        Cheat::of_one_cell(|adversary| {
            adversary.proof(|proving| {
                let mut suited = proving.commitment.clone();
                suited.roots.swap(2, 3);
                Proving { commitment: &suited, ..*proving }.honest()
            })
        })
    };
    /// the commitment of an earlier session again
    attack_10_session_replayed: Always [WrongSession] => knowing_the_first(|first, commitment| {
        *commitment = first.clone();
    });
    /// a session under a policy with fewer cells
    attack_12_other_policy: Always [WrongSession] => of_another_request(|request| request.policy = FEWER_CELLS);
    /// a session that need not be audited
    attack_12_other_rate: Always [WrongSession] => {
        of_another_request(|request| request.audit_rate = assay_audit::request::AuditRate::Below(0))
    };
    /// a session of the version before
    attack_12_older_version: Always [WrongSession] => Cheat::of(claimed().commitment(|request, commitment| {
        let older = (PROTOCOL_VERSION - 1).to_le_bytes();
        let mut bytes = codec::encode(request);
        assert_eq!(session_of(&bytes), request.session_id());
        bytes[..2].copy_from_slice(&older);
        commitment.session = session_of(&bytes);
    }));
    /// a proof of fewer cells than were drawn
    attack_12_fewer_cells: Always [ProofShape] => Cheat::of(claimed().proof(|proving| {
        let request = Request { policy: FEWER_CELLS, ..proving.request.clone() };
        Proving { request: &request, ..*proving }.honest()
    }));
    /// an opening under a code with a query less
    attack_12_fewer_queries: Always [OpeningShape] => {
        Cheat::of(claimed().proof_bytes(|anatomy, proof| {
            let (at, columns) = (anatomy.of(Part::ColumnCount), anatomy.of(Part::Columns));
            let count = u32::from_le_bytes(proof[at.clone()].try_into().unwrap());
            proof[at].copy_from_slice(&(count - 1).to_le_bytes());
            let less = columns.len() / usize::try_from(count).unwrap();
            anatomy.splice(proof, columns.start..columns.start + less, []);
        }))
    };
    /// a model with fewer trees than the manifest's
    attack_12_smaller_dimensions: Always [CommitmentShape] => Cheat::of(claimed().commitment(|_, commitment| {
        commitment.roots.truncate(commitment.roots.len() / 2);
    }));
    /// the proof of an earlier session again
    attack_14_proof_of_another_session: Always [C2] at in_the_first_cell => {
        let first = Mutex::new(None);
        let again = move |proving: &Proving<'_>| {
            let mut first = first.lock().unwrap();
            if first.is_none() {
                *first = Some(proving.honest()?);
            }
            Ok(first.clone().unwrap())
        };
        Cheat::of_one_cell(|adversary| adversary.proof(again)).in_the_second_session()
    };
    /// another miner's commitment relayed
    attack_14_commitment_relayed: Always [WrongSession] => Cheat::speaking(at_the_answer(|_, mut due| {
        let mut commitment = commitment_in(due.last().unwrap());
        commitment.miner = keys(9).hotkey();
        *due.last_mut().unwrap() = commitment_message(sign_commitment(&keys(9), &commitment));
        as_scripted(due)
    }));
    /// the roots of another session under the right names
    attack_14_roots_relayed: Always [WrongEmbeddings] => knowing_the_first(|first, commitment| {
        commitment.roots.clone_from(&first.roots);
    });
    /// a proof signed for another commitment of the session
    attack_14_proof_for_another_commitment: Always [ProofSignature] => Cheat::speaking(at_the_proof(|talk, due| {
        let mut other = talk.commitment.clone();
        other.roots.swap(1, 2);
        as_scripted(signed_again(talk.keys, &other, due))
    }));
    /// a proof for another validator's nonce
    attack_14_another_validators_nonce: Always [ProofShape, SmallTensors, TraceOpening, ProtocolViolation] => {
        Cheat::of(claimed().proof(|proving| Proving { nonce: Some(&[9; 32]), ..*proving }.honest()))
    };
    /// a commitment that names another model
    attack_21_other_manifest: Always [WrongSession] => Cheat::of(claimed().commitment(|_, commitment| {
        commitment.manifest = assay_commitments::ManifestId::new([1; 32]);
    }));
    /// a commitment that names another hotkey
    attack_21_other_hotkey_named: Always [WrongSession] => Cheat::of(claimed().commitment(|_, commitment| {
        commitment.miner = keys(9).hotkey();
    }));
    /// a commitment that another hotkey signed
    attack_21_other_hotkey_commits: Always [CommitmentSignature] => Cheat::speaking(at_the_answer(|_, mut due| {
        let commitment = commitment_in(due.last().unwrap());
        *due.last_mut().unwrap() = commitment_message(sign_commitment(&keys(9), &commitment));
        as_scripted(due)
    }));
    /// a proof that another hotkey signed
    attack_21_other_hotkey_proves: Always [ProofSignature] => Cheat::speaking(at_the_proof(|talk, due| {
        as_scripted(signed_again(&keys(9), talk.commitment, due))
    }));
    /// a session for another validator
    attack_21_other_validator: Always [WrongSession] => Cheat::of(claimed().commitment(|_, commitment| {
        commitment.validator = Hotkey::new([4; 32]);
    }));
    /// a session on another subnet
    attack_21_other_subnet: Always [WrongSession] => {
        of_another_request(|request| request.network = Network { netuid: NETWORK.netuid + 1, ..NETWORK })
    };
    /// a session on another chain
    attack_21_other_chain: Always [WrongSession] => {
        of_another_request(|request| request.network = Network { genesis: [8; 32], ..NETWORK })
    };
    /// a session of an epoch that is over
    attack_21_stale_epoch: Always [WrongSession] => {
        of_another_request(|request| request.epoch = Epoch::new(request.epoch.get() - 1))
    };
}

/// The kit itself breaks nothing: without a hook, the same miner is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn an_adversary_that_never_deviates_is_accepted() {
    let Cheat { adversary, question, .. } = Cheat::of(claimed());
    let arena = assay_tests::arena::Arena::new(adversary.local());
    let script: assay_tests::adversary::Script = Arc::new(|_, due| as_scripted(due));
    let seat = assay_tests::adversary::Seat::start(adversary, keys(1), script).await;
    let verdict = crate::table::verdict(arena.ask(seat.peer(), &question).await);
    assert_eq!(verdict, assay_audit::verdict::Verdict::Accepted);
}
