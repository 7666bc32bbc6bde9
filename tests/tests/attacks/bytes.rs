//! Row 20: bytes that a parser must not trust.

use assay_proto::v1::miner_message::Message;
use assay_proto::v1::{MinerMessage, ProofChunk, Signed, Tokens};
use assay_tests::adversary::{Act, Part, Script, as_scripted, message, unreadable};

use crate::table::{Cheat, at_the_answer, at_the_proof, claimed};

/// Where the number of prompt tokens stands in a commitment: behind four names.
const PROMPT_COUNT: usize = 128;

/// Changes the bytes of the commitment behind its signature.
fn committing(change: impl Fn(&mut Signed) + Send + Sync + 'static) -> Script {
    at_the_answer(move |_, mut due| {
        let Some(Message::Commitment(signed)) = &mut due.last_mut().unwrap().message else { panic!("a commitment") };
        change(signed);
        as_scripted(due)
    })
}

/// Sends a message in place of the commitment.
fn in_its_place(sent: fn() -> MinerMessage) -> Cheat {
    Cheat::speaking(at_the_answer(move |_, mut due| {
        *due.last_mut().unwrap() = sent();
        as_scripted(due)
    }))
}

attacks! {
    /// a commitment cut short
    attack_20_commitment_truncated: Always [CommitmentShape] => {
        Cheat::speaking(committing(|signed| signed.body.truncate(signed.body.len() - 1)))
    };
    /// bytes after the commitment
    attack_20_commitment_trailing: Always [CommitmentShape] => Cheat::speaking(committing(|signed| signed.body.push(0)));
    /// a commitment that announces four billion tokens
    attack_20_commitment_length_bomb: Always [CommitmentShape] => Cheat::speaking(committing(|signed| {
        signed.body[PROMPT_COUNT..PROMPT_COUNT + 4].fill(0xff);
    }));
    /// a flipped bit in the session's name
    attack_20_commitment_bit_flipped: Always [WrongSession] => {
        Cheat::speaking(committing(|signed| signed.body[5] ^= 4))
    };
    /// a flipped bit in a root
    attack_20_commitment_root_flipped: Always [CommitmentSignature] => Cheat::speaking(committing(|signed| {
        *signed.body.last_mut().unwrap() ^= 1;
    }));
    /// a signature of another length
    attack_20_short_signature: Always [ProtocolViolation] => {
        Cheat::speaking(committing(|signed| signed.signature.truncate(63)))
    };
    /// a message larger than any commitment
    attack_20_message_too_long: Always [ProtocolViolation] => {
        Cheat::speaking(committing(|signed| signed.body.resize(8 << 20, 0)))
    };
    /// a message of no kind
    attack_20_message_of_no_kind: Always [ProtocolViolation] => in_its_place(|| MinerMessage { message: None });
    /// groups within groups, the one thing in the envelope that nests, thirty thousand deep
    attack_20_deep_nesting: Always [ProtocolViolation] => Cheat::speaking(at_the_answer(|_, mut due| {
        due.pop();
        let mut acts = as_scripted(due);
        // The first byte of a group of an unknown field.
        acts.push(Act::Bytes(vec![0x7b; 30_000]));
        acts
    }));
    /// a trailer that is no base64 in place of the commitment, over which the reader of the stream panics
    attack_20_trailer_in_place_of_the_commitment: Always [ProtocolViolation] => Cheat::speaking(at_the_answer(|_, mut due| {
        due.pop();
        let mut acts = as_scripted(due);
        acts.push(Act::Fail(unreadable()));
        acts
    }));
    /// a trailer that is no base64 in place of the proof, over which the reader of the stream panics
    attack_20_trailer_in_place_of_the_proof: Always [ProtocolViolation] => {
        Cheat::speaking(at_the_proof(|_, _| vec![Act::Fail(unreadable())]))
    };
    /// tokens without a token
    attack_20_no_tokens: Always [ProtocolViolation] => in_its_place(|| message(Message::Tokens(Tokens { ids: vec![] })));
    /// a proof where the commitment belongs
    attack_20_proof_before_the_commitment: Always [ProtocolViolation] => {
        in_its_place(|| message(Message::Proof(ProofChunk { data: vec![1], signature: vec![2; 64] })))
    };
    /// a proof cut short
    attack_20_proof_truncated: Always [ProofShape] => {
        Cheat::of(claimed().proof_bytes(|_, proof| proof.truncate(proof.len() - 1)))
    };
    /// a proof of no bytes
    attack_20_proof_empty: Always [ProofShape] => Cheat::of(claimed().proof_bytes(|_, proof| proof.clear()));
    /// a proof that announces four billion roundings in doubt
    attack_20_proof_length_bomb: Always [ProofShape] => Cheat::of(claimed().proof_bytes(|anatomy, proof| {
        let at = anatomy.of(Part::Flips).start;
        proof[at..at + 4].fill(0xff);
    }));
    /// a proof larger than any proof for its challenge
    attack_20_proof_too_long: Always [ProtocolViolation] => {
        Cheat::of(claimed().proof_bytes(|_, proof| proof.resize(16 << 20, 0)))
    };
    /// pieces of a proof without data
    attack_20_empty_pieces: Always [ProtocolViolation] => Cheat::speaking(at_the_proof(|_, mut due| {
        due.insert(0, message(Message::Proof(ProofChunk { data: vec![], signature: vec![] })));
        as_scripted(due)
    }));
}
