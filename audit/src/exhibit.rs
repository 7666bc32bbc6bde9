//! One cell or decode of an audit by itself, with what shows that it is the miner's.
//!
//! An [`Exhibit`] holds the signed request, the signed commitment, the nonce, the digests of all parts of
//! the proof with the miner's signature over them, and the bytes of three parts: the norms, what is
//! committed, and the claims. From them a third party derives that this cell was asked for and that what
//! the miner signed about it contradicts itself or the model. It needs neither the rest of the proof nor
//! the tokenizer.
//!
//! What it does not show: that the miner's claims on products are true (that is what the openings are
//! for; a miner that is caught here has lost by its own claims), that the prompt is the request's, and
//! anything about the other cells.

use assay_commitments::codec::{self, Canonical, Malformed, Reader, Writer};
use assay_commitments::manifest::{Manifest, Matrix, small_digest};
use assay_commitments::structure::Part;
use assay_commitments::trace::{TraceCommitment, TraceShape};
use assay_commitments::{KvGroup, LayerIndex, Position, TokenId};
use thiserror::Error;

use crate::challenge::{Challenge, Nonce, is_audited};
use crate::domains;
use crate::judge::{Judgement, Report, check_nonce, check_size};
use crate::keys::Signature;
use crate::num::{count, index};
use crate::parts::{Contents, Item, PartDigest, Places, read_list, split};
use crate::products::{CellProducts, head_signs};
use crate::proof::{
    CellWitness, DecodeWitness, MAX_PROOF_BYTES, Shape, read_cell_claims, read_decode_claims, read_norm, read_small,
    read_whole,
};
use crate::relations::{Layer, decode_cell, layer};
use crate::request::Request;
use crate::sealed::{self, Kind, open, seal};
use crate::session::{Answer, Exchange, Reply, SessionRecord, SignedBytes, is_commitment_signed, is_proof_signed};
use crate::sketch::{ClaimValues, Signs, Target};
use crate::statement::{Statement, challenge_of, nonce_fits};
use crate::steps;
use crate::transcript_file::FileError;
use crate::verdict::{Evidence, Failure, Margin, Relation, Verdict, Where};
use crate::verify::{CheckedDecode, RowOpenings, check_cell, check_decode, judge_cell, judge_decode};

const KIND: Kind = Kind { magic: *b"ASSAY\0EX", version: 7, checksum: domains::EXHIBIT_CHECKSUM };

/// Why a session has no exhibit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoExhibit {
    /// It was not rejected.
    #[error("the session is {0}, not rejected: there is nothing to hold against the miner")]
    NotRejected(&'static str),
    /// A third party would have to believe the validator.
    #[error("{0} rests on the validator's word: nothing that the miner signed shows it")]
    Attested(&'static str),
    /// It takes more than one cell.
    #[error("{0} is not in one cell or decode: the transcript itself is the least that shows it")]
    Whole(&'static str),
}

/// One cell or decode of an audit, with what shows that it is the miner's.
#[derive(Clone, Debug, PartialEq)]
pub struct Exhibit {
    manifest: Manifest,
    request: Request,
    request_signature: Signature,
    commitment: SignedBytes,
    nonce: Option<Nonce>,
    /// Of all parts of the proof.
    contents: Vec<PartDigest>,
    /// The miner's, over the contents.
    signature: Signature,
    item: Item,
    /// Norms, what is committed, claims.
    parts: [Vec<u8>; 3],
}

/// What a third party finds in an exhibit.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What is wrong; none if everything shown holds.
    pub failure: Option<Failure>,
    /// The cell or decode that is shown, and nothing else.
    pub challenge: Challenge,
    /// Everything that is compared, as far as it could be followed.
    pub comparisons: Vec<Comparison>,
    /// For a decode: what the sampler had to choose from.
    pub pick: Option<Choice>,
    margins: Vec<Margin>,
}

/// One comparison of a cell or decode.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Where.
    pub place: Where,
    /// What is compared, in a few words.
    pub what: String,
    /// Mean square deviation over the most that is allowed.
    pub ratio: f64,
    /// How.
    pub detail: Detail,
}

/// How something is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// Entry by entry.
    Entries {
        /// What the miner committed to.
        committed: Vec<f64>,
        /// What the reference gives.
        reference: Vec<f64>,
        /// The difference in units of the root mean square that is just allowed.
        deviations: Vec<f64>,
    },
    /// By sums with random signs over all outputs of a product, which the verifier cannot compute.
    Sums {
        /// How many outputs.
        outputs: usize,
        /// What each sum is off by, in units of the root mean square that is just allowed.
        residuals: Vec<f64>,
        /// Outputs proven singly.
        singles: usize,
        /// Whether each of them is within its bound.
        singles_hold: bool,
    },
    /// Bit for bit.
    Exact {
        /// Whether it is the same.
        same: bool,
    },
}

/// What the sampler had to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The token that was served.
    pub served: TokenId,
    /// How many tokens score above it, as far as the sent logits tell.
    pub above: usize,
    /// The served token and the best ones: logit, and what the sampler compares.
    pub candidates: Vec<(TokenId, f64, f64)>,
}

/// Best tokens that are told of.
const BEST: usize = 5;

impl Exhibit {
    /// The least of a rejected session that a third party needs.
    ///
    /// # Errors
    /// [`NoExhibit`].
    pub fn of(record: &SessionRecord, manifest: &Manifest, verdict: &Verdict) -> Result<Self, NoExhibit> {
        let Verdict::Rejected(Failure { reason, place }) = verdict else {
            return Err(NoExhibit::NotRejected(verdict.name()));
        };
        if reason.evidence() == Evidence::Attested {
            return Err(NoExhibit::Attested(reason.slug()));
        }
        let whole = NoExhibit::Whole(reason.slug());
        let position = place.position.ok_or(whole)?;
        let exhibit = match place.layer {
            Some(layer) => Self::of_cell(record, manifest, layer, position),
            None => Self::of_decode(record, manifest, position),
        };
        exhibit.ok_or(whole)
    }

    /// A cell that was asked for, whether or not it holds; `None` if it was not, or no proof is there
    /// that can be taken apart.
    pub fn of_cell(record: &SessionRecord, manifest: &Manifest, layer: LayerIndex, position: Position) -> Option<Self> {
        Self::extract(record, manifest, |challenge| {
            let is_it = |cell: &crate::challenge::Cell| (cell.layer, cell.position) == (layer, position);
            challenge.cells.iter().position(is_it).map(Item::Cell)
        })
    }

    /// A decode that was asked for, as [`Exhibit::of_cell`].
    pub fn of_decode(record: &SessionRecord, manifest: &Manifest, position: Position) -> Option<Self> {
        Self::extract(record, manifest, |challenge| {
            challenge.decodes.iter().position(|decode| *decode == position).map(Item::Decode)
        })
    }

    fn extract(
        record: &SessionRecord,
        manifest: &Manifest,
        item: impl FnOnce(&Challenge) -> Option<Item>,
    ) -> Option<Self> {
        let Exchange::Committed { commitment: signed, reply } = &record.exchange else { return None };
        let Reply::Challenged { nonce, answer: Answer::Proof(proof) } = reply else { return None };
        let commitment: TraceCommitment = codec::decode(&signed.bytes).ok()?;
        let challenge = challenge_of(&record.request, manifest, &commitment, nonce.as_ref())?;
        let item = item(&challenge)?;
        let parts = split(&proof.bytes)?;
        let [norms, committed, claims] = Places { challenge: &challenge }.of(item);
        let part = |place: usize| parts.get(place).map(|part| part.to_vec());
        Some(Self {
            manifest: manifest.clone(),
            request: record.request.clone(),
            request_signature: record.request_signature,
            commitment: signed.clone(),
            nonce: *nonce,
            contents: parts.iter().map(|part| PartDigest::of(part)).collect(),
            signature: proof.signature,
            item,
            parts: [part(norms)?, part(committed)?, part(claims)?],
        })
    }

    /// The model.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The request.
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// Bytes of the miner's that are shown.
    pub fn shown_bytes(&self) -> usize {
        self.parts.iter().map(Vec::len).fold(0, usize::saturating_add)
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        seal(&KIND, |out| {
            out.value(&self.manifest);
            out.value(&self.request);
            out.value(&self.request_signature);
            out.value(&self.commitment);
            out.value(&self.nonce);
            out.list(&self.contents);
            out.value(&self.signature);
            out.value(&self.item);
            self.parts.iter().for_each(|part| out.bytes(part));
        })
    }

    /// Reads a file. What it shows is checked by [`Exhibit::judge`] alone.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let mut from = open(&KIND, bytes)?;
        let exhibit = Self::read(&mut from)?;
        from.finish()?;
        Ok(exhibit)
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            manifest: from.value()?,
            request: from.value()?,
            request_signature: from.value()?,
            commitment: from.value()?,
            nonce: from.value()?,
            contents: read_list(from)?,
            signature: from.value()?,
            item: from.value()?,
            parts: [
                from.bytes(MAX_PROOF_BYTES)?.to_vec(),
                from.bytes(MAX_PROOF_BYTES)?.to_vec(),
                from.bytes(MAX_PROOF_BYTES)?.to_vec(),
            ],
        })
    }

    /// What the bytes of a file are made of, its checksum apart.
    ///
    /// # Errors
    /// [`FileError::Malformed`] for bytes that are no file.
    pub fn structure(bytes: &[u8]) -> Result<Part, FileError> {
        sealed::structure(bytes, Self::read)
    }

    /// Judges what is shown: a rejection of the miner, or no exhibit at all.
    ///
    /// # Errors
    /// [`FileError::Inconsistent`] if anything in it is not signed by whom it should be, was not asked
    /// for, or holds: an innocent miner cannot be shown to be guilty by changing a file.
    pub fn judge(&self) -> Result<Judgement, FileError> {
        let Examination { failure, challenge, margins, .. } = self.examine()?;
        let failure = failure.ok_or(FileError::Inconsistent("everything that it shows holds"))?;
        let report =
            Report { challenge: Some(challenge), margins, proof_bytes: self.shown_bytes(), ..Report::default() };
        Ok(Judgement { verdict: Verdict::Rejected(failure), report })
    }

    /// Checks that everything shown is the miner's and was asked for, and compares it.
    ///
    /// # Errors
    /// [`FileError::Inconsistent`].
    pub fn examine(&self) -> Result<Examination, FileError> {
        let holds = |what, ok: bool| if ok { Ok(()) } else { Err(FileError::Inconsistent(what)) };
        let Self { manifest, request, .. } = self;
        let architecture = &manifest.architecture;
        holds("the request names another manifest", manifest.id() == request.manifest)?;
        holds("the request is not signed by its validator", request.is_signed(&self.request_signature))?;

        let commitment: TraceCommitment = codec::decode(&self.commitment.bytes)?;
        let session = request.session_id();
        let names = (commitment.session, commitment.manifest, commitment.miner, commitment.validator);
        let expected = (session, request.manifest, request.miner, request.validator);
        holds("the commitment is of another session", names == expected)?;
        let signed = is_commitment_signed(&request.miner, &commitment, &self.commitment.signature);
        holds("the commitment is not signed by the miner", signed)?;
        let trees = TraceShape::new(architecture, manifest.profile).tree_count();
        holds("the commitment has another shape", commitment.roots.len() == trees)?;
        let mut tokens = commitment.prompt.iter().chain(&commitment.output);
        holds("a token is unknown", tokens.all(|token| token.get() < architecture.vocab_size))?;

        let nonce = self.nonce.as_ref();
        let due = nonce.is_none_or(|nonce| {
            check_nonce(request, nonce).is_ok() && is_audited(request.audit_rate, nonce, &commitment.digest())
        });
        holds("the nonce is not the request's, or calls for no audit", due && nonce_fits(&request.policy, nonce))?;
        let sized = check_size(request, manifest, &commitment).is_ok();
        holds("the audit is too large", sized)?;
        let asked = challenge_of(request, manifest, &commitment, nonce);
        let asked = asked.ok_or(FileError::Inconsistent("nothing was asked for"))?;
        let positions = commitment.positions().ok_or(FileError::Inconsistent("the commitment has no tokens"))?;

        let places = Places { challenge: &asked };
        holds("the proof has other parts", self.contents.len() == places.total())?;
        let contents = Contents::Parts(self.contents.clone());
        let signed = is_proof_signed(&request.miner, &commitment, &contents, &self.signature);
        holds("the proof is not signed by the miner", signed)?;
        let stated = places.of(self.item).map(|place| self.contents.get(place).copied());
        let shown = self.parts.each_ref().map(|part| Some(PartDigest::of(part)));
        holds("a part is not the one that was signed", stated == shown)?;

        let statement = Statement { request, commitment: &commitment, nonce };
        let (_, seed) = steps::witness(
            steps::start(&statement, manifest),
            self.contents.get(..places.witness()).unwrap_or_default(),
        );
        let shape = Shape { manifest, challenge: &asked, positions, signs: statement.sign_count() };
        let openings = RowOpenings { commitment: &commitment, trace: shape.trace() };
        match self.item {
            Item::Cell(number) => self.cell(&shape, &openings, &seed, number),
            Item::Decode(number) => self.decode_of(&shape, &openings, &statement, &seed, number),
        }
    }

    fn cell(
        &self,
        shape: &Shape<'_>,
        openings: &RowOpenings<'_>,
        seed: &[u8; 32],
        number: usize,
    ) -> Result<Examination, FileError> {
        let [norms, committed, claims] = &self.parts;
        let unasked = FileError::Inconsistent("the cell was not asked for");
        let cell = shape.challenge.cells.get(number).ok_or(unasked)?;
        let small = read_whole(norms, |from| read_small(from, &self.manifest.architecture))?;
        let entry = self.manifest.layers.get(index(cell.layer.get())).ok_or(unasked)?;
        if entry.small != small.digest() {
            return Err(FileError::Inconsistent("the norms are not the manifest's"));
        }
        let witness = read_whole(committed, |from| CellWitness::read(from, shape, cell))?;
        let claims = read_whole(claims, |from| read_cell_claims(from, shape))?;
        let layer = layer(&self.manifest, entry, &small);
        let mut examination = Examination {
            failure: None,
            challenge: Challenge { cells: vec![cell.clone()], decodes: vec![] },
            comparisons: vec![],
            pick: None,
            margins: vec![],
        };
        let checked = match check_cell(shape, openings, cell, &witness, &layer) {
            Ok(checked) => checked,
            Err(failure) => {
                examination.failure = Some(failure);
                return Ok(examination);
            }
        };
        let place = Where::cell(cell.layer, cell.position);
        let exact = checked.elementwise.last().is_some_and(|last| last.holds);
        let products = CellProducts::new(checked.linears, seed, number, shape.signs);
        let judged = judge_cell(cell, &products, &claims, &checked.elementwise);
        (examination.margins, examination.failure) = (judged.margins, judged.failure);
        for ((linear, signs), claims) in products.products.iter().zip(&claims) {
            let what = product_name(linear.matrix).to_owned();
            examination.comparisons.push(sums(place.relation(linear.relation()), what, &linear.target, signs, claims));
        }
        let CellWitness { h, a, o, m, caches, supplied, .. } = &witness;
        let rows = decode_cell(&self.manifest, cell, [h, a, o, m], caches)?;
        let inputs = layer.inputs(&rows);
        let compared = inputs.and_then(|inputs| layer.compared(&inputs, &rows, cell.position, supplied));
        let compared = compared.unwrap_or_default();
        let ratios = checked.elementwise.iter().map(|elementwise| elementwise.ratio);
        let mut heads = Heads::default();
        examination.comparisons.extend(compared.into_iter().zip(ratios).map(|(compared, ratio)| {
            let what = heads.name(&layer, compared.relation, compared.group);
            let unit = layer.theta(compared.relation).sqrt();
            let off = |((committed, reference), tau): ((&f64, &f64), &f64)| (committed - reference) / tau / unit;
            let pairs = compared.committed.iter().zip(&compared.reference).zip(&compared.tau);
            let deviations = pairs.map(off).collect();
            let place = place.relation(compared.relation).group(compared.group);
            let (committed, reference) = (compared.committed.to_vec(), compared.reference);
            Comparison { place, what, ratio, detail: Detail::Entries { committed, reference, deviations } }
        }));
        examination.comparisons.push(Comparison {
            place: place.relation(Relation::C10),
            what: "the residual row that enters the next layer".to_owned(),
            ratio: if exact { 0.0 } else { f64::INFINITY },
            detail: Detail::Exact { same: exact },
        });
        examination.comparisons.sort_by_key(|comparison| comparison.place.relation);
        Ok(examination)
    }

    fn decode_of(
        &self,
        shape: &Shape<'_>,
        openings: &RowOpenings<'_>,
        statement: &Statement<'_>,
        seed: &[u8; 32],
        number: usize,
    ) -> Result<Examination, FileError> {
        let [norm, committed, claims] = &self.parts;
        let unasked = FileError::Inconsistent("the decode was not asked for");
        let position = *shape.challenge.decodes.get(number).ok_or(unasked)?;
        let norm = read_whole(norm, |from| read_norm(from, &self.manifest.architecture))?;
        if self.manifest.head.small != small_digest(&[&norm]) {
            return Err(FileError::Inconsistent("the norm is not the manifest's"));
        }
        let witness = read_whole(committed, |from| DecodeWitness::read(from, shape, position))?;
        let claims = read_whole(claims, |from| read_decode_claims(from, shape))?;
        let mut examination = Examination {
            failure: None,
            challenge: Challenge { cells: vec![], decodes: vec![position] },
            comparisons: vec![],
            pick: None,
            margins: vec![],
        };
        let decode = match check_decode(shape, openings, statement, position, &witness, &norm) {
            Ok(decode) => decode,
            Err(failure) => {
                examination.failure = Some(failure);
                return Ok(examination);
            }
        };
        let signs = head_signs(seed, shape.challenge, &self.manifest, shape.signs);
        let judged = judge_decode(position, &decode, &signs, &claims);
        (examination.margins, examination.failure) = (judged.margins, judged.failure);
        let place = Where::decode(position).relation(Relation::Logits);
        examination.comparisons.push(sums(place, "the logits".to_owned(), &decode.head.target, &signs, &claims));
        examination.pick = Some(choice(&decode));
        Ok(examination)
    }
}

/// Names heads in the order in which they are compared.
#[derive(Default)]
struct Heads {
    before: Option<(KvGroup, u32)>,
}

impl Heads {
    fn name(&mut self, layer: &Layer<'_>, relation: Relation, group: KvGroup) -> String {
        if relation == Relation::C3 {
            return format!("the key of group {group}");
        }
        let first = group.get().saturating_mul(layer.architecture.heads_per_group());
        let head = match self.before {
            Some((of, head)) if of == group => head.saturating_add(1),
            _ => first,
        };
        self.before = Some((group, head));
        format!("the attention of head {head}, group {group}")
    }
}

const fn product_name(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::Q => "the query products of the drawn groups",
        Matrix::K => "the key products",
        Matrix::V => "the values of all groups",
        Matrix::O => "the attention branch",
        Matrix::Gate => "the gate products",
        Matrix::Up => "the up products",
        Matrix::Down => "the MLP branch",
    }
}

fn sums(place: Where, what: String, target: &Target, signs: &Signs, claims: &ClaimValues) -> Comparison {
    let comparison = target.check(signs, claims);
    let detail = Detail::Sums {
        outputs: target.row.len(),
        residuals: target.residuals(signs, claims),
        singles: target.singles.len(),
        singles_hold: comparison.singles_hold,
    };
    Comparison { place, what, ratio: comparison.ratio, detail }
}

fn choice(decode: &CheckedDecode<'_>) -> Choice {
    let scored = decode.scores.scored(&decode.pick);
    let served = decode.pick.token;
    let own = scored.get(index(served.get())).map_or(f64::NEG_INFINITY, |(_, score)| *score);
    let mut order: Vec<(TokenId, f64, f64)> =
        scored.iter().zip(0..).map(|((logit, score), token)| (TokenId::new(token), *logit, *score)).collect();
    order.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let above = order.iter().take_while(|(_, _, score)| *score > own).count();
    let mut candidates: Vec<_> = order.iter().copied().take(BEST).collect();
    if candidates.iter().all(|(token, ..)| *token != served) {
        candidates.extend(order.iter().find(|(token, ..)| *token == served));
    }
    Choice { served, above, candidates }
}

impl Canonical for Item {
    fn write(&self, out: &mut Writer) {
        let (kind, number) = match self {
            Self::Cell(number) => (0, number),
            Self::Decode(number) => (1, number),
        };
        out.u8(kind);
        out.u32(count(*number));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match (from.u8()?, index(from.u32()?)) {
            (0, number) => Ok(Self::Cell(number)),
            (1, number) => Ok(Self::Decode(number)),
            _ => Err(Malformed::NotCanonical),
        }
    }
}
