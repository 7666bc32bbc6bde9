//! The judgement: from the record of a session to its verdict.
//!
//! [`judge`] is the one function that everything trusts. The same record, manifest and assets give
//! the same verdict in a validator, in an auditor's command and in a fuzzer.

use assay_commitments::TokenId;
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_commitments::merkle::MerkleTree;
use assay_commitments::trace::{TraceCommitment, TraceShape, TreeId, leaf};
use assay_commitments::{LayerIndex, Position};
use assay_sumcheck::transcript::Event;

use crate::assets::{EmbeddingDigests, ModelAssets};
use crate::challenge::{Challenge, Lengths, Nonce, is_audited, nonce_commitment};
use crate::finish::{FinishRule, most_tokens};
use crate::num::{count, index, long};
use crate::parts::Contents;
use crate::prompt::prompt_tokens;
use crate::request::Request;
use crate::session::{
    Answer, Exchange, Omission, Refusal, Reply, SessionRecord, SignedBytes, is_commitment_signed, is_proof_signed,
};
use crate::statement::{Statement, is_bounded, nonce_fits};
use crate::verdict::{Failure, Margin, OwnFault, Reason, Stage, Verdict};
use crate::verify::verify_proof;

pub use crate::proof::max_proof_bytes;
pub use crate::statement::challenge_of;

/// Up to so many cells, counted as for `MAX_CELLS`, a report lists the challenge even if there is no
/// proof: as much as any draw asks for.
const MAX_REPORTED_CELLS: u64 = 1 << 17;

/// A verdict and the figures behind it. The figures decide nothing.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The figures.
    pub report: Report,
}

/// The figures behind a verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What was asked for; none if that is a long list and no proof came that could answer it.
    pub challenge: Option<Challenge>,
    /// How far each relation was from its threshold, as far as the proof could be followed.
    pub margins: Vec<Margin>,
    /// Bytes of the proof.
    pub proof_bytes: usize,
    /// What a proof that was accepted had absorbed and drawn, in order.
    pub transcript: Vec<Event>,
}

/// Why a judgement ends before it accepts.
pub(crate) enum End {
    Miner(Failure),
    Own(OwnFault),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Miner(failure)
    }
}

impl From<End> for Verdict {
    fn from(end: End) -> Self {
        match end {
            End::Miner(failure) => Self::Rejected(failure),
            End::Own(fault) => Self::Inconclusive(fault),
        }
    }
}

/// Judges a session.
///
/// That manifest and embedding digests are the request's, and that the validator signed the request, is
/// checked here too: a caller who mixes models up gets [`OwnFault::WrongManifest`], and no verdict on
/// anybody. Before anything is expanded its size is known: a challenge is listed only within the bounds
/// on cells and bytes, and beyond a small size only if a proof is there that is long enough to answer it.
pub fn judge(
    record: &SessionRecord,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Judgement {
    let mut report = Report::default();
    let verdict = match conclude(record, manifest, assets, embeddings, &mut report) {
        Ok(()) => Verdict::Accepted,
        Err(end) => end.into(),
    };
    Judgement { verdict, report }
}

fn conclude(
    record: &SessionRecord,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
    report: &mut Report,
) -> Result<(), End> {
    let request = &record.request;
    if manifest.id() != request.manifest || !embeddings.is_of(manifest) {
        return Err(End::Own(OwnFault::WrongManifest));
    }
    if !request.is_signed(&record.request_signature) {
        return Err(End::Own(OwnFault::RequestSignature));
    }
    let (commitment, reply) = match &record.exchange {
        Exchange::Uncommitted(omission) => {
            return Err(omitted(*omission, Reason::CommitmentAbsent, Reason::CommitmentLate).into());
        }
        Exchange::Committed { commitment, reply } => (commitment, reply),
    };
    let commitment = examine(request, &record.streamed, commitment, manifest, assets, embeddings)?;
    match reply {
        Reply::None => Err(End::Own(OwnFault::NeverSettled)),
        Reply::Settled { nonce } => {
            check_nonce(request, nonce)?;
            if is_audited(request.audit_rate, nonce, &commitment.digest()) {
                return Err(End::Own(OwnFault::AuditOmitted));
            }
            Ok(())
        }
        Reply::Challenged { nonce, answer } => {
            if let Some(nonce) = nonce {
                check_nonce(request, nonce)?;
                if !is_audited(request.audit_rate, nonce, &commitment.digest()) {
                    return Err(End::Own(OwnFault::AuditUndue));
                }
            }
            let statement = Statement { request, commitment: &commitment, nonce: nonce.as_ref() };
            if !nonce_fits(&request.policy, nonce.as_ref()) {
                return Err(End::Own(OwnFault::NonceMismatch));
            }
            let lengths = check_size(request, manifest, &commitment)?;
            let cells = Challenge::cell_count_bound(&request.policy, &manifest.architecture, lengths);
            if cells <= MAX_REPORTED_CELLS {
                report.challenge = Some(expand(&statement, manifest)?);
            }
            let proof = read_answer(request, answer)?;
            report.proof_bytes = proof.bytes.len();
            let contents = Contents::of(&proof.bytes);
            if !is_proof_signed(&request.miner, &commitment, &contents, &proof.signature) {
                return Err(Failure::at(Reason::ProofSignature, Stage::Shape).into());
            }
            follow(&statement, manifest, lengths, &proof.bytes, report)
        }
    }
}

/// Judges the bytes of a proof alone: what [`judge`] does last, for a commitment that [`check_commitment`]
/// let pass and a nonce that is the request's.
pub fn check_proof(
    request: &Request,
    commitment: &TraceCommitment,
    nonce: Option<&Nonce>,
    manifest: &Manifest,
    proof: &[u8],
) -> Judgement {
    let mut report = Report { proof_bytes: proof.len(), ..Report::default() };
    let statement = Statement { request, commitment, nonce };
    let followed = check_size(request, manifest, commitment)
        .and_then(|lengths| follow(&statement, manifest, lengths, proof, &mut report));
    Judgement { verdict: followed.map_or_else(End::into, |()| Verdict::Accepted), report }
}

fn expand(statement: &Statement<'_>, manifest: &Manifest) -> Result<Challenge, End> {
    let Statement { request, commitment, nonce } = *statement;
    challenge_of(request, manifest, commitment, nonce).ok_or(End::Own(OwnFault::AuditTooLarge))
}

fn follow(
    statement: &Statement<'_>,
    manifest: &Manifest,
    lengths: Lengths,
    proof: &[u8],
    report: &mut Report,
) -> Result<(), End> {
    // What is expanded from here on is no larger than what was sent.
    if long(proof.len()) < Challenge::least_proof_bytes(&statement.request.policy, manifest, lengths) {
        return Err(Failure::at(Reason::ProofShape, Stage::Shape).into());
    }
    if report.challenge.is_none() {
        report.challenge = Some(expand(statement, manifest)?);
    }
    let challenge = report.challenge.as_ref().ok_or(End::Own(OwnFault::AuditTooLarge))?;
    report.transcript = verify_proof(statement, manifest, challenge, proof, &mut report.margins)?;
    Ok(())
}

/// The lengths of a session whose audit is of a size that can be judged. The bound is on the longest
/// session that the request allows, so that a miner's choice of length has no part in it.
pub(crate) fn check_size(request: &Request, manifest: &Manifest, commitment: &TraceCommitment) -> Result<Lengths, End> {
    let (prompt, output) = (commitment.prompt.len(), commitment.output.len());
    let longest = most_tokens(request.max_tokens, &manifest.architecture, prompt).max(output);
    let lengths = Lengths::new(prompt, output).filter(|_| fits(request, manifest, prompt, longest));
    lengths.ok_or(End::Own(OwnFault::AuditTooLarge))
}

/// Whether an audit of a session of these lengths is of a size that can be judged.
fn fits(request: &Request, manifest: &Manifest, prompt: usize, output: usize) -> bool {
    Lengths::new(prompt, output).is_some_and(|lengths| is_bounded(&request.policy, manifest, lengths))
}

/// The most tokens of an answer to a request, if the longest can be checked and audited in bounded time. It is for
/// whoever asks to know before; no miner's choice has a part in it.
///
/// # Errors
/// [`OwnFault::AuditTooLarge`].
pub fn check_extent(
    request: &Request,
    manifest: &Manifest,
    assets: &ModelAssets,
    prompt_tokens: usize,
) -> Result<usize, OwnFault> {
    let rule = finish_rule(request, manifest, assets, prompt_tokens);
    let most = rule.most_tokens();
    let can_be_checked = rule.is_bounded() && fits(request, manifest, prompt_tokens, most);
    if can_be_checked { Ok(most) } else { Err(OwnFault::AuditTooLarge) }
}

fn finish_rule<'a>(
    request: &'a Request,
    manifest: &'a Manifest,
    assets: &'a ModelAssets,
    prompt_tokens: usize,
) -> FinishRule<'a> {
    FinishRule {
        tokenizer: &assets.tokenizer,
        architecture: &manifest.architecture,
        stop: &request.stop,
        max_tokens: request.max_tokens,
        prompt_tokens,
    }
}

/// The proof in an answer; a refusal of a challenge that is in order is a failure.
fn read_answer<'a>(request: &Request, answer: &'a Answer) -> Result<&'a SignedBytes, End> {
    match answer {
        Answer::Proof(proof) => Ok(proof),
        Answer::Refusal(refusal) => {
            let signed = Refusal::read_signed(refusal, &request.miner, &request.session_id()).is_some();
            let reason = if signed { Reason::UnjustifiedRefusal } else { Reason::RefusalSignature };
            Err(Failure::at(reason, Stage::Stream).into())
        }
        Answer::Omitted(omission) => Err(omitted(*omission, Reason::ProofAbsent, Reason::ProofLate).into()),
    }
}

const fn omitted(omission: Omission, absent: Reason, late: Reason) -> Failure {
    let reason = match omission {
        Omission::Absent => absent,
        Omission::Late => late,
        Omission::Broken => Reason::StreamBroken,
        Omission::Violation => Reason::ProtocolViolation,
    };
    Failure::at(reason, Stage::Stream)
}

pub(crate) fn check_nonce(request: &Request, nonce: &Nonce) -> Result<(), End> {
    let expected = nonce_commitment(nonce, request.counter, &request.validator, &request.miner);
    if request.nonce_commitment == Some(expected) { Ok(()) } else { Err(End::Own(OwnFault::NonceMismatch)) }
}

/// Examines a commitment the moment it arrives, before any nonce is revealed: everything about it that
/// needs no proof. [`judge`] does the same again.
///
/// # Errors
/// The verdict that follows at once.
pub fn check_commitment(
    request: &Request,
    streamed: &[TokenId],
    commitment: &SignedBytes,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Result<TraceCommitment, Verdict> {
    examine(request, streamed, commitment, manifest, assets, embeddings).map_err(Verdict::from)
}

/// The most bytes that a commitment under this manifest can have.
pub fn max_commitment_bytes(manifest: &Manifest) -> usize {
    let architecture = &manifest.architecture;
    let trees = TraceShape::new(architecture, manifest.profile).tree_count();
    let tokens = index(architecture.max_positions).saturating_add(1);
    trees.saturating_mul(32).saturating_add(tokens.saturating_mul(4)).saturating_add(256)
}

fn examine(
    request: &Request,
    streamed: &[TokenId],
    signed: &SignedBytes,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Result<TraceCommitment, End> {
    let failed = |reason| End::Miner(Failure::at(reason, Stage::Commitment));
    let prompt = prompt_tokens(&request.prompt, &assets.tokenizer, assets.template.as_ref())
        .map_err(|_| End::Own(OwnFault::PromptUnusable))?;
    let architecture = &manifest.architecture;
    let known = |token: &TokenId| token.get() < architecture.vocab_size;
    if prompt.is_empty() || prompt.len() >= index(architecture.max_positions) || !prompt.iter().all(known) {
        return Err(End::Own(OwnFault::PromptUnusable));
    }
    check_extent(request, manifest, assets, prompt.len()).map_err(End::Own)?;

    let commitment: TraceCommitment = codec::decode(&signed.bytes).map_err(|_| failed(Reason::CommitmentShape))?;
    let names = (commitment.session, commitment.manifest, commitment.miner, commitment.validator);
    if names != (request.session_id(), request.manifest, request.miner, request.validator) {
        return Err(failed(Reason::WrongSession));
    }
    if !is_commitment_signed(&request.miner, &commitment, &signed.signature) {
        return Err(failed(Reason::CommitmentSignature));
    }
    let trace = TraceShape::new(architecture, manifest.profile);
    let positions = commitment.positions().ok_or(failed(Reason::CommitmentShape))?;
    if commitment.roots.len() != trace.tree_count() {
        return Err(failed(Reason::CommitmentShape));
    }
    if !commitment.prompt.iter().chain(&commitment.output).all(known) {
        return Err(failed(Reason::UnknownToken));
    }
    if commitment.prompt != prompt {
        return Err(failed(Reason::WrongPrompt));
    }
    if commitment.output != streamed {
        return Err(failed(Reason::StreamMismatch));
    }
    if !ends_rightly(request, &commitment, manifest, assets) {
        return Err(failed(Reason::WrongFinish));
    }
    let inputs = commitment.prompt.iter().chain(&commitment.output).take(positions);
    let expected = embedding_root(&commitment, inputs, embeddings)?;
    if commitment.roots.first() != Some(&expected) {
        return Err(failed(Reason::WrongEmbeddings));
    }
    Ok(commitment)
}

/// Whether the answer ends at its last token for the stated reason, and at none before.
fn ends_rightly(request: &Request, commitment: &TraceCommitment, manifest: &Manifest, assets: &ModelAssets) -> bool {
    let rule = finish_rule(request, manifest, assets, commitment.prompt.len());
    let output = commitment.output.as_slice();
    let early = (1..output.len()).any(|length| output.get(..length).is_some_and(|part| rule.finish(part).is_some()));
    !early && rule.finish(output) == Some(commitment.finish)
}

/// The root of the tree of input rows, which the verifier computes itself: the input of every position
/// is exact, without a draw and without a proof.
fn embedding_root<'a>(
    commitment: &TraceCommitment,
    inputs: impl Iterator<Item = &'a TokenId>,
    embeddings: &EmbeddingDigests,
) -> Result<[u8; 32], End> {
    let tree = TreeId::H(LayerIndex::new(0));
    let leaves: Option<Vec<[u8; 32]>> = inputs
        .enumerate()
        .map(|(position, token)| {
            let digest = embeddings.get(*token)?;
            Some(leaf(&commitment.session, tree, Position::new(count(position)), digest))
        })
        .collect();
    let leaves = leaves.ok_or(End::Own(OwnFault::AssetMissing))?;
    Ok(MerkleTree::from_leaf_hashes(leaves).bound_root())
}

#[cfg(test)]
mod tests {
    use assay_commitments::layout::Layout;
    use assay_commitments::manifest::{Architecture, ArchitectureError, HeadEntry, LayerEntry};
    use assay_commitments::params::CodeParams;
    use assay_commitments::rows::Profile;
    use assay_commitments::trace::FinishReason;
    use assay_commitments::weights::WeightCommitment;
    use assay_commitments::{Epoch, Hotkey};

    use super::*;
    use crate::assets::EmbeddingTable;
    use crate::keys::Keypair;
    use crate::policy::{Columns, Policy};
    use crate::prompt::Prompt;
    use crate::prompt::tests::{byte_tokenizer_json, wordy_tokenizer_json};
    use crate::proof::{MAX_PROOF_BYTES, most_proof_bytes};
    use crate::request::{AuditRate, Deadlines, Network};
    use crate::sampling::Sampling;
    use crate::session::{sign_commitment, sign_proof};
    use crate::transcript_file::{FileError, Measurements, Receipt, TranscriptFile};

    /// A model that nobody runs: enough of one for everything up to the proof.
    struct Scene {
        manifest: Manifest,
        assets: ModelAssets,
        table: EmbeddingTable,
        tokenizer: Vec<u8>,
        validator: Keypair,
        miner: Keypair,
    }

    fn scene(layers: u32, max_positions: u32) -> Scene {
        scene_with(layers, max_positions, &byte_tokenizer_json())
    }

    fn scene_with(layers: u32, max_positions: u32, tokenizer: &serde_json::Value) -> Scene {
        let architecture = Architecture {
            vocab_size: 258,
            hidden: 64,
            layers,
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
            ffn: 64,
            max_positions,
            norm_eps: 1e-5,
            inverse_frequencies: vec![0.5; 8],
            tied: true,
            biases: assay_commitments::manifest::Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![TokenId::new(257)],
        };
        let code = |layout: Result<Layout, ArchitectureError>| CodeParams::for_layout(&layout.unwrap());
        let table = EmbeddingTable::new((0..258_u32).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect());
        let tokenizer = tokenizer.to_string().into_bytes();
        let weights = WeightCommitment { root: [1; 32], evaluation: assay_sumcheck::E::default() };
        let entry = LayerEntry { weights, exponents: [0; 7], small: [2; 32] };
        let manifest = Manifest {
            profile: Profile::Bf16V1,
            tokenizer: *blake3::hash(&tokenizer).as_bytes(),
            chat_template: None,
            layer_code: code(architecture.layer_layout()),
            head_code: code(architecture.head_layout()),
            embeddings: table.root(),
            layers: vec![entry; index(layers)],
            head: HeadEntry {
                shards: vec![weights; index(architecture.head_shards().unwrap())],
                exponent: 0,
                small: [4; 32],
            },
            architecture,
        };
        let assets = ModelAssets::new(&manifest, &tokenizer, None).unwrap();
        let keys = |seed| Keypair::from_seed([seed; 32]).unwrap();
        Scene { manifest, assets, table, tokenizer, validator: keys(1), miner: keys(2) }
    }

    impl Scene {
        /// A session that is challenged for everything and answered so.
        fn record(
            &self,
            prompt: &str,
            max_tokens: u32,
            output: usize,
            answer: impl Fn(&TraceCommitment) -> Answer,
        ) -> SessionRecord {
            let request = Request {
                network: Network { genesis: [0; 32], netuid: 1 },
                validator: self.validator.hotkey(),
                miner: self.miner.hotkey(),
                epoch: Epoch::new(0),
                manifest: self.manifest.id(),
                prompt: Prompt::Text(prompt.to_owned()),
                sampling: Sampling::GREEDY,
                max_tokens,
                stop: vec![],
                policy: Policy::Everything,
                audit_rate: AuditRate::Always,
                deadlines: Deadlines::all(1),
                counter: 0,
                nonce_commitment: None,
            };
            let session = request.session_id();
            let prompt = self.assets.tokenizer.encode(prompt).unwrap();
            let mut streamed = vec![TokenId::new(5); output - 1];
            streamed.push(TokenId::new(257));
            let mut commitment = TraceCommitment {
                session,
                manifest: request.manifest,
                miner: request.miner,
                validator: request.validator,
                prompt,
                output: streamed.clone(),
                finish: FinishReason::StopToken,
                roots: vec![[7; 32]; TraceShape::new(&self.manifest.architecture, Profile::Bf16V1).tree_count()],
            };
            let positions = commitment.positions().unwrap();
            let tokens: Vec<TokenId> = commitment.prompt.iter().chain(&streamed).copied().collect();
            let digests = self.table.open(tokens.iter().copied());
            commitment.roots[0] = embedding_root(&commitment, tokens.iter().take(positions), &digests).ok().unwrap();
            let reply = Reply::Challenged { nonce: None, answer: answer(&commitment) };
            SessionRecord {
                request_signature: request.sign(&self.validator),
                request,
                streamed,
                exchange: Exchange::Committed { commitment: sign_commitment(&self.miner, &commitment), reply },
            }
        }

        /// Signs a request that was changed, and the commitment to its session.
        fn redo(&self, record: &mut SessionRecord) {
            record.request_signature = record.request.sign(&self.validator);
            let Exchange::Committed { commitment, .. } = &mut record.exchange else { return };
            let mut read: TraceCommitment = codec::decode(&commitment.bytes).unwrap();
            read.session = record.request.session_id();
            let tokens: Vec<TokenId> = read.prompt.iter().chain(&read.output).copied().collect();
            let positions = read.positions().unwrap();
            let digests = self.table.open(tokens.iter().copied());
            read.roots[0] = embedding_root(&read, tokens.iter().take(positions), &digests).ok().unwrap();
            *commitment = sign_commitment(&self.miner, &read);
        }

        fn judge(&self, record: &SessionRecord) -> Judgement {
            judge(record, &self.manifest, &self.assets, &self.table.open(TranscriptFile::tokens_of(record)))
        }

        fn file(&self, record: SessionRecord) -> TranscriptFile {
            let verdict = self.judge(&record).verdict;
            TranscriptFile {
                manifest: self.manifest.clone(),
                embeddings: self.table.open(TranscriptFile::tokens_of(&record)),
                tokenizer: Some(self.tokenizer.clone()),
                chat_template: None,
                receipt: Receipt::sign(&self.validator, &record, verdict, Measurements::default()),
                record,
            }
        }
    }

    fn absent(_: &TraceCommitment) -> Answer {
        Answer::Omitted(Omission::Absent)
    }

    fn reason(verdict: Verdict) -> Option<Reason> {
        match verdict {
            Verdict::Rejected(failure) => Some(failure.reason),
            _ => None,
        }
    }

    #[test]
    fn a_short_proof_of_everything_is_rejected_before_the_list_is_made() {
        let scene = scene(1024, 1 << 16);
        let short = |commitment: &TraceCommitment| Answer::Proof(sign_proof(&scene.miner, commitment, vec![0; 4096]));
        // 4 * 1024 * 40 cells: within the bound, and no list of them for a proof of 4096 bytes.
        let judgement = scene.judge(&scene.record(&"x".repeat(20), 21, 21, short));
        assert_eq!(reason(judgement.verdict), Some(Reason::ProofShape));
        assert_eq!(judgement.report.challenge, None);
        let judgement = scene.judge(&scene.record(&"x".repeat(20), 21, 21, absent));
        assert_eq!(reason(judgement.verdict), Some(Reason::ProofAbsent));
        assert_eq!(judgement.report.challenge, None);
        // A small one is listed, whatever came.
        let judgement = scene.judge(&scene.record("xyz", 8, 2, absent));
        assert_eq!(reason(judgement.verdict), Some(Reason::ProofAbsent));
        assert_eq!(judgement.report.challenge.unwrap().cells.len(), 4 * 1024);
        let judgement = scene.judge(&scene.record("xyz", 8, 2, short));
        assert_eq!(reason(judgement.verdict), Some(Reason::ProofShape));
    }

    #[test]
    fn an_audit_that_is_too_large_is_the_validators_own_fault_whatever_the_miner_does() {
        let scene = scene(1024, 1 << 16);
        for output in [1, 30] {
            let judgement = scene.judge(&scene.record("xyz", 1 << 16, output, absent));
            assert_eq!(judgement.verdict, Verdict::Inconclusive(OwnFault::AuditTooLarge));
            assert_eq!(judgement.report.challenge, None);
        }
    }

    /// A column of a long context brings the keys and values before every one of its cells.
    #[test]
    fn an_audit_of_too_many_bytes_is_the_validators_own_fault_whatever_the_miner_does() {
        let scene = scene(1024, 1 << 20);
        let judged = |policy, max_tokens| {
            let mut record = scene.record("xyz", max_tokens, 2, absent);
            record.request.policy = policy;
            record.request.nonce_commitment = Some([0; 32]);
            scene.redo(&mut record);
            scene.judge(&record).verdict
        };
        let cells = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 0 };
        // 64 bytes a position and cell, and 1028 cells: 2^31 are reached between the two lengths.
        assert_eq!(judged(Policy::DEFAULT, 1 << 16), Verdict::Inconclusive(OwnFault::AuditTooLarge));
        for (policy, max_tokens) in [(Policy::DEFAULT, 1 << 14), (cells, 1 << 16)] {
            assert_eq!(
                judged(policy, max_tokens),
                Verdict::Inconclusive(OwnFault::NonceMismatch),
                "this one is judged"
            );
        }
    }

    /// Many small heads over one cache: what is sent is little, and what follows from it is much.
    #[test]
    fn an_audit_of_too_much_attention_is_not_judged() {
        let mut manifest = scene(1, 1 << 16).manifest;
        (manifest.architecture.heads, manifest.architecture.kv_heads, manifest.architecture.head_dim) = (1024, 1, 2);
        manifest.architecture.inverse_frequencies.truncate(1);
        manifest.architecture.check().unwrap();
        // A head takes 66 a row, and a cell half of the rows: 2^37 are reached between the two lengths.
        for (prompt, expected) in [(2_000, true), (2_040, false)] {
            let lengths = Lengths::new(prompt, 1).unwrap();
            assert_eq!(is_bounded(&Policy::Everything, &manifest, lengths), expected);
            assert!(most_proof_bytes(&Policy::Everything, &manifest, lengths) < MAX_PROOF_BYTES);
        }
        let wide = Architecture { heads: 32, kv_heads: 8, head_dim: 128, layers: 32, ..manifest.architecture };
        let lengths = Lengths::new(1 << 15, 1 << 10).unwrap();
        assert!(is_bounded(&Policy::DEFAULT, &Manifest { architecture: wide, ..manifest }, lengths));
    }

    #[test]
    fn no_draw_takes_more_bytes_than_were_allowed_for() {
        let manifest = scene(6, 1 << 16).manifest;
        let columns = Policy::Sampled { cells: 9, decodes: 5, columns: Columns::always(2), least_budget_ms: 0 };
        for (policy, (prompt, output)) in [Policy::DEFAULT, columns, Policy::Everything]
            .into_iter()
            .flat_map(|policy| [(1, 1), (3, 2), (100, 60), (1000, 3)].map(|lengths| (policy, lengths)))
        {
            let lengths = Lengths::new(prompt, output).unwrap();
            let most = most_proof_bytes(&policy, &manifest, lengths);
            let bytes = (0..20).map(|seed| {
                let challenge = Challenge::derive(&[seed; 32], &policy, &manifest.architecture, lengths);
                max_proof_bytes(&manifest, &challenge, index(lengths.positions()))
            });
            let largest = bytes.max().unwrap();
            assert!(largest <= most && most / 2 <= largest, "{policy:?} {prompt} {output}: {largest} {most}");
        }
    }

    /// Stop strings are looked for behind every token: what that may take at most is known from the request.
    #[test]
    fn an_answer_whose_end_could_not_be_checked_is_the_validators_own_fault_whatever_the_miner_does() {
        let scene = scene_with(2, 1 << 20, &wordy_tokenizer_json());
        let judged = |stop: &str, output| {
            let mut record = scene.record("xyz", 1 << 14, output, absent);
            record.request.policy = Policy::DEFAULT;
            record.request.nonce_commitment = Some([0; 32]);
            record.request.stop = vec![stop.to_owned()];
            scene.redo(&mut record);
            scene.judge(&record).verdict
        };
        for output in [1, 30] {
            assert_eq!(judged(&"y".repeat(256), output), Verdict::Inconclusive(OwnFault::AuditTooLarge));
        }
        assert_eq!(judged("y", 30), Verdict::Inconclusive(OwnFault::NonceMismatch), "this one is checked");
    }

    /// A miner owes nothing before its first token, and an answer has as many tokens as a file can hold.
    #[test]
    fn a_session_in_which_nothing_was_owed_is_no_file() {
        let scene = scene(2, 64);
        let mut record = scene.record("xyz", 8, 2, absent);
        record.exchange = Exchange::Uncommitted(Omission::Absent);
        let read = |record: &SessionRecord| codec::decode::<SessionRecord>(&codec::encode(record)).is_ok();
        assert!(read(&record));
        record.streamed.clear();
        assert!(!read(&record));
        let mut request = scene.record("xyz", 1 << 20, 2, absent).request;
        let read = |request: &Request| codec::decode::<Request>(&codec::encode(request)).is_ok();
        assert!(read(&request));
        request.max_tokens += 1;
        assert!(!read(&request));
    }

    /// Whether to audit, and under which nonce, is not the validator's to choose.
    #[test]
    fn an_audit_against_the_draw_is_the_validators_own_fault() {
        let scene = scene(2, 64);
        let nonce = [5; 32];
        let judged = |rate, revealed: Nonce, challenged: bool| {
            let mut record = scene.record("xyz", 8, 2, absent);
            record.request.policy = Policy::DEFAULT;
            record.request.audit_rate = rate;
            let (validator, miner) = (record.request.validator, record.request.miner);
            record.request.nonce_commitment = Some(nonce_commitment(&nonce, 0, &validator, &miner));
            scene.redo(&mut record);
            let Exchange::Committed { reply, .. } = &mut record.exchange else { unreachable!() };
            *reply = if challenged {
                Reply::Challenged { nonce: Some(revealed), answer: Answer::Omitted(Omission::Absent) }
            } else {
                Reply::Settled { nonce: revealed }
            };
            scene.judge(&record).verdict
        };
        let own = Verdict::Inconclusive;
        assert_eq!(judged(AuditRate::Below(0), nonce, true), own(OwnFault::AuditUndue));
        assert_eq!(judged(AuditRate::Always, nonce, false), own(OwnFault::AuditOmitted));
        for challenged in [true, false] {
            assert_eq!(judged(AuditRate::Always, [6; 32], challenged), own(OwnFault::NonceMismatch));
        }
        assert_eq!(reason(judged(AuditRate::Always, nonce, true)), Some(Reason::ProofAbsent));
        assert_eq!(judged(AuditRate::Below(0), nonce, false), Verdict::Accepted);
    }

    #[test]
    fn what_the_caller_mixed_up_is_no_verdict_on_the_miner() {
        let scene = scene(2, 64);
        let record = scene.record("xyz", 8, 2, absent);
        assert_eq!(reason(scene.judge(&record).verdict), Some(Reason::ProofAbsent));
        let wrong = Verdict::Inconclusive(OwnFault::WrongManifest);
        let digests = scene.table.open(TranscriptFile::tokens_of(&record));

        let mut other = scene.manifest.clone();
        other.layers[0].small = [9; 32];
        assert_eq!(judge(&record, &other, &scene.assets, &digests).verdict, wrong);
        let table = EmbeddingTable::new(vec![[8; 32]; 258]);
        let digests = table.open(TranscriptFile::tokens_of(&record));
        assert_eq!(judge(&record, &scene.manifest, &scene.assets, &digests).verdict, wrong);
        // Read, but not verified.
        let opened = scene.table.open(TranscriptFile::tokens_of(&record));
        let mut read: EmbeddingDigests = codec::decode(&codec::encode(&opened)).unwrap();
        assert_eq!(judge(&record, &scene.manifest, &scene.assets, &read).verdict, wrong);
        assert_eq!(read.verify(&scene.manifest), Ok(()));
        assert_eq!(read, opened);

        let mut unsigned = record;
        unsigned.request.counter = 1;
        let unsigned = scene.judge(&unsigned).verdict;
        assert_eq!(unsigned, Verdict::Inconclusive(OwnFault::RequestSignature));
    }

    #[test]
    fn a_session_without_a_known_token_makes_a_file_that_is_read_and_judged_alike() {
        let scene = scene(2, 64);
        let mut record = scene.record("xyz", 8, 2, absent);
        record.streamed = vec![TokenId::new(258), TokenId::new(u32::MAX)];
        if let Exchange::Committed { commitment, .. } = &mut record.exchange {
            commitment.bytes.truncate(3);
        }
        let verdict = scene.judge(&record).verdict;
        assert_eq!(reason(verdict), Some(Reason::CommitmentShape));
        let file = scene.file(record);
        let read = TranscriptFile::decode(&file.encode()).unwrap();
        assert_eq!(read, file);
        assert_eq!(read.judge(&|_| None).verdict, verdict);
    }

    #[test]
    fn digests_of_another_table_do_not_make_a_file() {
        let scene = scene(2, 64);
        let file = scene.file(scene.record("xyz", 8, 2, absent));
        assert!(TranscriptFile::decode(&file.encode()).is_ok());
        let tokens = TranscriptFile::tokens_of(&file.record);
        let other = EmbeddingTable::new(vec![[8; 32]; 258]).open(tokens);
        let inconsistent = Err(FileError::Inconsistent("an embedding digest is not the manifest's"));
        assert_eq!(TranscriptFile::decode(&TranscriptFile { embeddings: other, ..file }.encode()), inconsistent);
    }

    #[test]
    fn a_hotkey_that_is_none_signs_nothing() {
        let scene = scene(2, 64);
        let mut record = scene.record("xyz", 8, 2, absent);
        record.request.validator = Hotkey::new([0xff; 32]);
        assert_eq!(scene.judge(&record).verdict, Verdict::Inconclusive(OwnFault::RequestSignature));
    }
}
