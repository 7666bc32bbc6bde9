//! Changed files and changed messages: nothing that was altered is accepted, and nothing panics.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::session::{Answer, Exchange, Reply, sign_commitment, sign_proof};
use assay_audit::transcript_file::{FileError, Receipt, TranscriptFile};
use assay_audit::verdict::{Reason, Verdict};
use assay_commitments::codec;
use assay_commitments::trace::{FinishReason, TraceCommitment};
use assay_commitments::{Hotkey, ManifestId, SessionId, TokenId};
use assay_tests::{Random, fixture, in_parallel, miner_keys, session, smallest};

fn small_file() -> TranscriptFile {
    let model = smallest();
    let mut audit = session("abc", 4, 5);
    audit.policy = Policy::Sampled { cells: 1, decodes: 1, columns: 0, least_budget_ms: 0 };
    let file = audit.run(&model, &model.backend()).unwrap();
    assert_eq!(file.judge(&|_| None).verdict, Verdict::Accepted);
    file
}

/// The file with its checksum made right again.
fn reseal(bytes: &mut [u8]) {
    let body = bytes.len() - 32;
    let checksum = blake3::derive_key("assay/transcript-file/v1", &bytes[..body]);
    bytes[body..].copy_from_slice(&checksum);
}

fn is_accepted(bytes: &[u8]) -> bool {
    TranscriptFile::decode(bytes).is_ok_and(|file| file.judge(&|_| None).verdict == Verdict::Accepted)
}

fn proof_of(file: &mut TranscriptFile) -> &mut Vec<u8> {
    match &mut file.record.exchange {
        Exchange::Committed { reply: Reply::Challenged { answer: Answer::Proof(proof), .. }, .. } => &mut proof.bytes,
        other => panic!("{other:?} holds no proof"),
    }
}

/// The file as a miner would have left it that sends `proof` and signs it.
fn with_proof(file: &TranscriptFile, entropy: [u8; 32], proof: Vec<u8>) -> TranscriptFile {
    let mut file = file.clone();
    let session = file.record.request.session_id();
    if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &mut file.record.exchange {
        *answer = Answer::Proof(sign_proof(&miner_keys(entropy), &session, proof));
    }
    file
}

#[test]
fn no_flipped_byte_of_a_small_file_is_accepted() {
    let bytes = small_file().encode();
    assert!(bytes.len() <= 64 << 10, "{} bytes", bytes.len());
    assert!(is_accepted(&bytes));
    in_parallel(0..bytes.len(), |place| {
        for resealed in [false, true] {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            if resealed && place < bytes.len() - 32 {
                reseal(&mut changed);
            } else {
                assert!(TranscriptFile::decode(&changed).is_err(), "byte {place}");
            }
            assert!(!is_accepted(&changed), "byte {place}, resealed: {resealed}");
        }
    });
}

#[test]
fn no_flipped_byte_of_a_proof_that_the_miner_signed_is_accepted() {
    let mut file = small_file();
    let proof = proof_of(&mut file).clone();
    let entropy = session("abc", 4, 5).entropy;
    in_parallel(0..proof.len(), |place| {
        let mut changed = proof.clone();
        changed[place] ^= 1 << ((place / 3) % 8);
        let verdict = with_proof(&file, entropy, changed).judge(&|_| None).verdict;
        assert!(matches!(verdict, Verdict::Rejected(_)), "byte {place}: {verdict:?}");
    });
}

#[test]
fn random_flips_cuts_and_insertions_in_a_fixture_file_are_not_accepted() {
    let model = fixture();
    let audit = session("And God said, Let there be", 12, 9);
    let mut file = audit.run(&model, &model.backend()).unwrap();
    let bytes = file.encode();
    assert!(is_accepted(&bytes));
    let proof = proof_of(&mut file).clone();
    in_parallel(0..2_000_u64, |trial| {
        let mut random = Random::new(trial);
        // A third of the changes each: to the file, to the file with a right checksum, to the proof that
        // the miner then signs.
        let inner = trial % 3 == 2;
        let mut changed = if inner { proof.clone() } else { bytes.clone() };
        let place = random.below(changed.len());
        match random.below(3) {
            0 => changed[place] ^= 1 << random.below(8),
            1 => {
                let end = (place + 1 + random.below(40)).min(changed.len());
                changed.drain(place..end);
            }
            _ => {
                let extra: Vec<u8> = (0..=random.below(40)).map(|_| random.byte()).collect();
                changed.splice(place..place, extra);
            }
        }
        let accepted = if inner {
            changed != proof && with_proof(&file, audit.entropy, changed).judge(&|_| None).verdict == Verdict::Accepted
        } else {
            if trial % 3 == 1 && changed.len() > 32 {
                reseal(&mut changed);
            }
            changed != bytes && is_accepted(&changed)
        };
        assert!(!accepted, "trial {trial}");
    });
}

#[test]
fn every_prefix_of_a_small_file_is_refused() {
    let bytes = small_file().encode();
    for length in 0..bytes.len() {
        assert!(TranscriptFile::decode(&bytes[..length]).is_err(), "{length}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(TranscriptFile::decode(&longer), Err(FileError::Checksum));
}

/// Every field of a commitment, changed by a miner that signs the change. The pattern has no `..`: a
/// new field does not compile until it is tampered with.
#[test]
fn every_commitment_field_is_bound() {
    let file = small_file();
    let Exchange::Committed { commitment, .. } = &file.record.exchange else { panic!("committed") };
    let honest: TraceCommitment = codec::decode(&commitment.bytes).unwrap();
    let TraceCommitment { session: _, manifest: _, miner: _, validator: _, prompt: _, output: _, finish: _, roots } =
        honest.clone();
    let entropy = session("abc", 4, 5).entropy;
    let judge = |change: &dyn Fn(&mut TraceCommitment)| {
        let mut commitment = honest.clone();
        change(&mut commitment);
        let mut file = file.clone();
        if let Exchange::Committed { commitment: signed, .. } = &mut file.record.exchange {
            *signed = sign_commitment(&miner_keys(entropy), &commitment);
        }
        match file.judge(&|_| None).verdict {
            Verdict::Rejected(failure) => failure.reason,
            other => panic!("{other:?}"),
        }
    };
    let wrong = [1; 32];
    assert_eq!(judge(&|c| c.session = SessionId::new(wrong)), Reason::WrongSession);
    assert_eq!(judge(&|c| c.manifest = ManifestId::new(wrong)), Reason::WrongSession);
    assert_eq!(judge(&|c| c.miner = Hotkey::new(wrong)), Reason::WrongSession);
    assert_eq!(judge(&|c| c.validator = Hotkey::new(wrong)), Reason::WrongSession);
    assert_eq!(judge(&|c| c.prompt.push(TokenId::new(3))), Reason::WrongPrompt);
    assert_eq!(judge(&|c| c.prompt[0] = TokenId::new(9)), Reason::WrongPrompt);
    assert_eq!(judge(&|c| c.prompt.clear()), Reason::CommitmentShape);
    assert_eq!(judge(&|c| c.output[0] = TokenId::new(9)), Reason::StreamMismatch);
    assert_eq!(judge(&|c| c.output.clear()), Reason::CommitmentShape);
    assert_eq!(judge(&|c| c.output[0] = TokenId::new(4_000)), Reason::UnknownToken);
    let other = if honest.finish == FinishReason::Length { FinishReason::StopToken } else { FinishReason::Length };
    assert_eq!(judge(&|c| c.finish = other), Reason::WrongFinish);
    assert_eq!(judge(&|c| c.roots[0] = wrong), Reason::WrongEmbeddings);
    assert_eq!(judge(&|c| c.roots.push(wrong)), Reason::CommitmentShape);
    for tree in 1..roots.len() {
        // Another root gives another challenge and other rows to open: the proof at hand answers neither.
        let reason = judge(&|c| c.roots[tree] = wrong);
        assert!([Reason::TraceOpening, Reason::ProofShape, Reason::C10].contains(&reason), "{tree}: {reason:?}");
    }
}

#[test]
fn a_commitment_or_proof_signed_by_somebody_else_is_rejected() {
    let file = small_file();
    let stranger = Keypair::from_seed([9; 32]).unwrap();
    let mut forged = file.clone();
    if let Exchange::Committed { commitment, .. } = &mut forged.record.exchange {
        *commitment = sign_commitment(&stranger, &codec::decode(&commitment.bytes).unwrap());
    }
    let reason = |file: &TranscriptFile| match file.judge(&|_| None).verdict {
        Verdict::Rejected(failure) => Some(failure.reason),
        Verdict::Accepted | Verdict::Inconclusive(_) => None,
    };
    assert_eq!(reason(&forged), Some(Reason::CommitmentSignature));
    let mut forged = file.clone();
    let proof = proof_of(&mut forged).clone();
    if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = &mut forged.record.exchange {
        *answer = Answer::Proof(sign_proof(&stranger, &file.record.request.session_id(), proof));
    }
    assert_eq!(reason(&forged), Some(Reason::ProofSignature));
}

#[test]
fn a_receipt_or_request_signed_by_somebody_else_is_no_file() {
    let file = small_file();
    let stranger = Keypair::from_seed([9; 32]).unwrap();
    let mut forged = file.clone();
    forged.receipt = Receipt::sign(&stranger, file.receipt.session, Verdict::Accepted, file.receipt.measurements);
    assert!(matches!(TranscriptFile::decode(&forged.encode()), Err(FileError::Inconsistent(_))));
    let mut forged = file;
    forged.record.request_signature = forged.record.request.sign(&stranger);
    assert!(matches!(TranscriptFile::decode(&forged.encode()), Err(FileError::Inconsistent(_))));
}
