//! Verdicts: what an audit concludes, about whom, and where.
//!
//! A [`Reason`] is the miner's, an [`OwnFault`] the validator's; nothing turns one into the other.
//! Codes are append-only.

use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use assay_commitments::{KvGroup, LayerIndex, Position};

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $text:literal])* $variant:ident = $code:literal $slug:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum $name {
            $($(#[doc = $text])* $variant = $code,)*
        }

        impl $name {
            /// All of them, by code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable code.
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The stable short name.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// What happened, in a sentence without its full stop.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($text),*).trim_ascii(),)* }
            }

            /// The one with that code.
            pub fn from_code(code: u16) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.code() == code)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.describe())
            }
        }

        impl std::error::Error for $name {}

        impl Canonical for $name {
            fn write(&self, out: &mut Writer) {
                out.u16(self.code());
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                Self::from_code(from.u16()?).ok_or(Malformed::NotCanonical)
            }
        }
    };
}

coded! {
    /// Why a response is rejected: always something that the miner did or failed to do.
    Reason {
        /// The proof's bytes are not what the challenge calls for
        ProofShape = 101 "proof_shape",
        /// A committed row holds a value that has no canonical form
        RowNotCanonical = 102 "row_not_canonical",
        /// The commitment's bytes are no canonical commitment
        CommitmentShape = 103 "commitment_shape",
        /// A supplied product is not in its canonical fixed-point form
        SuppliedNotCanonical = 104 "supplied_not_canonical",
        /// The commitment is not signed by the miner
        CommitmentSignature = 111 "commitment_signature",
        /// The proof is not signed by the miner
        ProofSignature = 112 "proof_signature",
        /// The refusal is not signed by the miner, or is malformed
        RefusalSignature = 113 "refusal_signature",
        /// The commitment names another session, model, miner or validator
        WrongSession = 201 "wrong_session",
        /// The committed prompt is not the request's
        WrongPrompt = 202 "wrong_prompt",
        /// The committed answer is not the one that was streamed
        StreamMismatch = 203 "stream_mismatch",
        /// The answer does not end where and why it says
        WrongFinish = 204 "wrong_finish",
        /// A token lies outside the vocabulary
        UnknownToken = 205 "unknown_token",
        /// The committed input rows are not the embeddings of the tokens
        WrongEmbeddings = 206 "wrong_embeddings",
        /// A row does not open against the trace commitment
        TraceOpening = 207 "trace_opening",
        /// The norm weights are not the registered ones
        SmallTensors = 208 "small_tensors",
        /// The query and key products that were sent deviate from the registered weights
        C2 = 302 "c2_query_key_products",
        /// The committed keys deviate from the rotated key products
        C3 = 303 "c3_keys",
        /// The committed values deviate from the registered weights
        C4 = 304 "c4_values",
        /// The committed attention output deviates from the replayed attention
        C5 = 305 "c5_attention",
        /// The committed attention branch deviates from the registered weights
        C6 = 306 "c6_attention_branch",
        /// The sum after the attention branch is no finite number
        C7 = 307 "c7_residual",
        /// The gate and up products deviate from the registered weights
        C8 = 308 "c8_gate_up_products",
        /// The committed MLP branch deviates from the registered weights
        C9 = 309 "c9_mlp_branch",
        /// The residual stream is not the exact sum of its branches
        C10 = 310 "c10_residual_stream",
        /// The logits deviate from the registered weights
        Logits = 401 "logits",
        /// Too many tokens are near the top to be proven singly
        TooManyCandidates = 402 "too_many_candidates",
        /// The logit of a candidate is not the one that was sent
        Candidate = 403 "candidate",
        /// The token lies outside top-k or top-p
        TokenNotAllowed = 404 "token_not_allowed",
        /// The canonical sampler picks another token
        WrongToken = 405 "wrong_token",
        /// The sumcheck does not end in the committed weights
        Sumcheck = 501 "sumcheck",
        /// The last vector of a weight opening does not agree with a committed column
        ColumnFold = 502 "column_fold",
        /// A column of a weight opening does not open against its root
        ColumnPath = 503 "column_path",
        /// The weight opening has another shape than the code calls for
        OpeningShape = 504 "opening_shape",
        /// A weight opening does not show the work that its queries cost
        Grinding = 506 "grinding",
        /// No commitment came
        CommitmentAbsent = 601 "commitment_absent",
        /// The commitment came after its deadline
        CommitmentLate = 602 "commitment_late",
        /// No proof came
        ProofAbsent = 603 "proof_absent",
        /// The proof came after its deadline
        ProofLate = 604 "proof_late",
        /// The miner refused a challenge that was in order
        UnjustifiedRefusal = 605 "unjustified_refusal",
        /// The token stream broke off
        StreamBroken = 606 "stream_broken",
        /// The stream carried a message that the protocol does not allow there
        ProtocolViolation = 607 "protocol_violation",
    }
}

coded! {
    /// Why a session says nothing about the miner: always something of the validator's own.
    OwnFault {
        /// The tokenizer or chat template that the manifest names is not there
        AssetMissing = 901 "asset_missing",
        /// The prompt cannot be turned into tokens
        PromptUnusable = 902 "prompt_unusable",
        /// The nonce is not the one that the request commits to
        NonceMismatch = 903 "nonce_mismatch",
        /// A response was challenged that the draw leaves alone
        AuditUndue = 904 "audit_undue",
        /// A response was settled that the draw calls to be audited
        AuditOmitted = 905 "audit_omitted",
        /// The commitment was answered neither by a settlement nor by a challenge
        NeverSettled = 906 "never_settled",
        /// The validator stopped after revealing the nonce
        Interrupted = 907 "interrupted",
        /// The validator could not keep its records
        Storage = 908 "storage",
        /// The validator's own network or chain connection failed
        Connection = 909 "connection",
        /// The manifest or the embedding digests are not those of the model that the request names
        WrongManifest = 911 "wrong_manifest",
        /// The request is not signed by the validator that it names
        RequestSignature = 912 "request_signature",
        /// The policy asks of so long a session for more than one audit may hold
        AuditTooLarge = 913 "audit_too_large",
        /// The validator's process stood still while it waited for the miner
        Stalled = 914 "stalled",
        /// The manifest, a hotkey or the epoch key does not stand on the chain that the request names
        NotOnChain = 915 "not_on_chain",
    }
}

impl OwnFault {
    /// What an operator does about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::AssetMissing => "put the file under its digest into the folder of assets",
            Self::PromptUnusable => {
                "ask what the model's tokenizer and chat template can take; replace this build if it cannot read them"
            }
            Self::NonceMismatch => "look for a second validator with this hotkey, or a nonce journal that was copied",
            Self::AuditUndue | Self::AuditOmitted => "replace this build: it does not follow its own draw",
            Self::NeverSettled => "lower the number of sessions held side by side, or raise the settle deadline",
            Self::Interrupted => "find out why the validator stopped; the session's counter is not used again",
            Self::Storage => "make room on the disk and the paths writable, then restart",
            Self::Connection => "check the network of this machine and the chain's endpoint",
            Self::WrongManifest => "fetch the model again under the id that stands on chain",
            Self::RequestSignature => "check which hotkey signs requests",
            Self::AuditTooLarge => "ask for fewer cells or columns, shorter prompts or shorter answers",
            Self::Stalled => "give the machine fewer sessions or more cores, and do not suspend it",
            Self::NotOnChain => {
                "compare the request with the chain it names: its validator asked for what was not there"
            }
        }
    }
}

/// On what a rejection rests, for somebody who reads it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Evidence {
    /// Bytes that carry the miner's valid signature: anybody can check them, and nobody but the miner
    /// can have made them.
    Proven,
    /// The validator's word: about its clock, about what reached it, or about bytes that nobody signed.
    /// A validator could have made all of it by itself.
    Attested,
}

impl Evidence {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Attested => "attested",
        }
    }
}

impl Reason {
    /// On what a rejection for this reason rests.
    pub const fn evidence(self) -> Evidence {
        match self {
            // A commitment is decoded before its signature can be checked, and its names are compared
            // before that too; tokens stream unsigned; a missing or invalid signature shows nothing of
            // whose bytes they are; of what did not come, or late, there is only the validator's clock. A
            // refusal is signed, but does not say which nonce it was given: a wrong one may have been sent.
            Self::CommitmentShape
            | Self::CommitmentSignature
            | Self::ProofSignature
            | Self::RefusalSignature
            | Self::WrongSession
            | Self::StreamMismatch
            | Self::CommitmentAbsent
            | Self::CommitmentLate
            | Self::ProofAbsent
            | Self::ProofLate
            | Self::StreamBroken
            | Self::UnjustifiedRefusal
            | Self::ProtocolViolation => Evidence::Attested,
            // Found in a commitment or proof whose signature was checked before.
            Self::ProofShape
            | Self::RowNotCanonical
            | Self::SuppliedNotCanonical
            | Self::WrongPrompt
            | Self::WrongFinish
            | Self::UnknownToken
            | Self::WrongEmbeddings
            | Self::TraceOpening
            | Self::SmallTensors
            | Self::C2
            | Self::C3
            | Self::C4
            | Self::C5
            | Self::C6
            | Self::C7
            | Self::C8
            | Self::C9
            | Self::C10
            | Self::Logits
            | Self::TooManyCandidates
            | Self::Candidate
            | Self::TokenNotAllowed
            | Self::WrongToken
            | Self::Sumcheck
            | Self::ColumnFold
            | Self::ColumnPath
            | Self::OpeningShape
            | Self::Grinding => Evidence::Proven,
        }
    }
}

/// The part of an audit in which something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The stream of messages.
    Stream,
    /// The trace commitment against the request.
    Commitment,
    /// The shape of the proof.
    Shape,
    /// A row against the trace commitment.
    Trace,
    /// A relation of a cell.
    Cell,
    /// A decode.
    Decode,
    /// The opening of a layer's weights.
    Opening,
}

impl Stage {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Commitment => "commitment",
            Self::Shape => "shape",
            Self::Trace => "trace",
            Self::Cell => "cell",
            Self::Decode => "decode",
            Self::Opening => "opening",
        }
    }
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Where {
    /// The part of the audit.
    pub stage: Stage,
    /// The relation, for cells.
    pub relation: Option<Relation>,
    /// The layer; none for lm_head.
    pub layer: Option<LayerIndex>,
    /// The position.
    pub position: Option<Position>,
    /// The group of heads.
    pub group: Option<KvGroup>,
}

impl Where {
    /// A place that the stage alone names.
    pub const fn stage(stage: Stage) -> Self {
        Self { stage, relation: None, layer: None, position: None, group: None }
    }

    /// A cell.
    pub const fn cell(layer: LayerIndex, position: Position) -> Self {
        Self { layer: Some(layer), position: Some(position), ..Self::stage(Stage::Cell) }
    }

    /// A decode.
    pub const fn decode(position: Position) -> Self {
        Self { position: Some(position), ..Self::stage(Stage::Decode) }
    }

    /// The opening of a layer.
    pub const fn opening(layer: Option<LayerIndex>) -> Self {
        Self { layer, ..Self::stage(Stage::Opening) }
    }

    /// The same place in another stage.
    #[must_use]
    pub const fn at(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// The relation at this place.
    #[must_use]
    pub const fn relation(self, relation: Relation) -> Self {
        Self { relation: Some(relation), ..self }
    }

    /// The group at this place.
    #[must_use]
    pub const fn group(self, group: KvGroup) -> Self {
        Self { group: Some(group), ..self }
    }
}

/// A relation between committed rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// Query and key products.
    C2,
    /// Keys.
    C3,
    /// Values.
    C4,
    /// Attention.
    C5,
    /// Attention branch.
    C6,
    /// Residual stream between the branches.
    C7,
    /// Gate and up products.
    C8,
    /// MLP branch.
    C9,
    /// Residual stream after the layer.
    C10,
    /// Logits.
    Logits,
}

impl Relation {
    /// All of them, in order.
    pub const ALL: [Self; 10] =
        [Self::C2, Self::C3, Self::C4, Self::C5, Self::C6, Self::C7, Self::C8, Self::C9, Self::C10, Self::Logits];

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::C2 => "C2",
            Self::C3 => "C3",
            Self::C4 => "C4",
            Self::C5 => "C5",
            Self::C6 => "C6",
            Self::C7 => "C7",
            Self::C8 => "C8",
            Self::C9 => "C9",
            Self::C10 => "C10",
            Self::Logits => "logits",
        }
    }

    /// The reason for a rejection under it.
    pub const fn reason(self) -> Reason {
        match self {
            Self::C2 => Reason::C2,
            Self::C3 => Reason::C3,
            Self::C4 => Reason::C4,
            Self::C5 => Reason::C5,
            Self::C6 => Reason::C6,
            Self::C7 => Reason::C7,
            Self::C8 => Reason::C8,
            Self::C9 => Reason::C9,
            Self::C10 => Reason::C10,
            Self::Logits => Reason::Logits,
        }
    }
}

/// A miner's failure, and where it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// What it is.
    pub reason: Reason,
    /// Where it shows.
    pub place: Where,
}

impl Failure {
    pub(crate) const fn new(reason: Reason, place: Where) -> Self {
        Self { reason, place }
    }

    pub(crate) const fn at(reason: Reason, stage: Stage) -> Self {
        Self { reason, place: Where::stage(stage) }
    }
}

/// What an audit concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Everything that was asked for holds.
    Accepted,
    /// The miner failed.
    Rejected(Failure),
    /// The validator failed; nothing is said about the miner.
    Inconclusive(OwnFault),
}

impl Verdict {
    /// `accepted`, `rejected` or `inconclusive`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected(_) => "rejected",
            Self::Inconclusive(_) => "inconclusive",
        }
    }
}

impl From<Failure> for Verdict {
    fn from(failure: Failure) -> Self {
        Self::Rejected(failure)
    }
}

/// How far a relation was from its threshold: 1 is the threshold itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// Where.
    pub place: Where,
    /// Mean square deviation in units of tolerance, over the most that is allowed.
    pub ratio: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_slugs_are_unique_and_sentences_are_there() {
        let mut seen = std::collections::BTreeSet::new();
        let all = Reason::ALL.iter().map(|r| (r.code(), r.slug(), r.describe()));
        for (code, slug, text) in all.chain(OwnFault::ALL.iter().map(|f| (f.code(), f.slug(), f.describe()))) {
            assert!(seen.insert(code.to_string()) && seen.insert(slug.to_owned()), "{slug}");
            assert!(text.len() > 10 && !text.ends_with('.'), "{slug}");
        }
        assert_eq!(Reason::from_code(310), Some(Reason::C10));
        assert_eq!(Reason::from_code(901), None);
    }

    /// `docs/reasons.md` is written from the enums: `BLESS=1` writes it anew.
    #[test]
    fn the_documented_reasons_are_these() {
        let row = |f: &OwnFault| format!("| {} | `{}` | {} | {} |\n", f.code(), f.slug(), f.describe(), f.remedy());
        let reason =
            |r: &Reason| format!("| {} | `{}` | {} | {} |\n", r.code(), r.slug(), r.evidence().name(), r.describe());
        let mut page = String::from(
            "# Reason codes\n\nCodes and slugs are stable: scripts may rely on them. This page is written from \
             `audit/src/verdict.rs`.\n\n## Rejected: the miner's\n\n\
             *Proven* reasons are found in bytes that carry the miner's valid signature: anybody with the \
             transcript can check them, and no validator can have made them up. *Attested* reasons rest on the \
             validator's word, about its clock, about what reached it, or about bytes that nobody signed: they \
             count in that validator's own scores, and are no evidence to others.\n\n\
             | code | slug | evidence | meaning |\n|---|---|---|---|\n",
        );
        page.extend(Reason::ALL.iter().map(reason));
        page.push_str("\n## Inconclusive: the validator's own\n\n| code | slug | meaning | what its operator does |\n|---|---|---|---|\n");
        page.extend(OwnFault::ALL.iter().map(row));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reasons.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page, "run the tests with BLESS=1 and review the change");
    }
}
