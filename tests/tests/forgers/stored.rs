//! An answer with its rows, made beforehand, as a backend; and how likely it is to be found out.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock};

use assay_audit::challenge::{Lengths, Nonce};
use assay_audit::measure::Reference;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::prove::prove;
use assay_audit::request::{AuditRate, Request};
use assay_audit::sampling::Sampling;
use assay_audit::verdict::{Reason, Verdict};
use assay_cli::self_audit::SelfAudit;
use assay_commitments::TokenId;
use assay_commitments::trace::{FinishReason, TraceCommitment, TraceRows};
use assay_llm_runtime::{Checkpoint, Session};
use assay_miner::{Backend, ProveError, ServeError, Served};
use assay_tests::adversary::{Forged, Rows};
use assay_tests::odds::{Execution, Odds, Tally};
use assay_tests::{fixture, fixture_checkpoint, in_parallel};

use crate::forward::{Forward, Left};

/// The prompt of all forgers.
pub(crate) const VERSE: &str = "In the beginning God created the heaven and the earth. And the earth was without form";
/// Prompts of which some are asked too.
pub(crate) const OTHER_VERSES: [&str; 2] =
    ["And the LORD spake unto Moses, saying, Speak unto the", "The LORD is my shepherd; I shall not"];
/// Tokens of an answer.
pub(crate) const OUTPUT: usize = 16;

/// How the answer to the verse should be picked.
pub(crate) const fn sampling(seed: u64) -> Sampling {
    Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, seed }
}

/// The fixture's weights.
pub(crate) fn checkpoint() -> &'static Checkpoint {
    static CHECKPOINT: OnceLock<Checkpoint> = OnceLock::new();
    CHECKPOINT.get_or_init(fixture_checkpoint)
}

/// The fixture as the relations take it.
pub(crate) fn reference() -> &'static Reference {
    static REFERENCE: OnceLock<Reference> = OnceLock::new();
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    REFERENCE.get_or_init(|| Reference::new(architecture, tensors, *profile).unwrap())
}

/// The fixture's pass.
pub(crate) fn honest() -> Forward<'static> {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    Forward { architecture, tensors, profile: *profile }
}

/// Text as tokens.
pub(crate) fn tokens(text: &str) -> Vec<TokenId> {
    fixture().assets.tokenizer.encode(text).unwrap()
}

/// An answer that was made before it was asked for.
#[derive(Clone)]
pub(crate) struct Stored {
    prompt: Vec<TokenId>,
    output: Vec<TokenId>,
    finish: FinishReason,
    rows: Arc<Forged>,
}

impl Stored {
    /// What a pass left, as it is committed.
    #[expect(clippy::cast_possible_truncation, reason = "rows hold numbers of their profile")]
    pub(crate) fn new(left: &Left, finish: FinishReason) -> Self {
        let Left { prompt, output, rows: bent, .. } = left;
        let mut session = Session::new(Arc::clone(&fixture().model), true);
        let fed: Vec<TokenId> = prompt.iter().chain(&output[..output.len() - 1]).copied().collect();
        session.prefill(&fed).unwrap();
        let mut rows = Rows::of(&session.into_trace().unwrap().unwrap(), fixture().model.profile());
        for (tree, bent) in bent {
            for (position, bent) in bent.iter().enumerate() {
                rows.change(*tree, position, |row| {
                    row.iter_mut().zip(bent).for_each(|(value, bent)| *value = *bent as f32);
                });
            }
        }
        Self { prompt: prompt.clone(), output: output.clone(), finish, rows: Arc::new(rows.forge()) }
    }

    /// The rows, for other variants of them.
    pub(crate) fn rows(&self) -> Rows {
        Rows::of(self.rows.as_ref(), fixture().model.profile())
    }

    /// The same answer over other rows.
    pub(crate) fn with_rows(&self, rows: Rows) -> Self {
        Self { rows: Arc::new(rows.forge()), ..self.clone() }
    }

    /// Tokens of prompt and output.
    pub(crate) fn lengths(&self) -> Lengths {
        Lengths::new(self.prompt.len(), self.output.len()).unwrap()
    }

    /// Runs `with` on the execution that this pretends to be.
    pub(crate) fn execution<T>(&self, sampling: Sampling, with: impl FnOnce(Execution<'_>) -> T) -> T {
        with(Execution {
            reference: reference(),
            architecture: &checkpoint().architecture,
            profile: checkpoint().profile,
            sampling,
            output: &self.output,
            rows: self.rows.as_ref(),
            lengths: self.lengths(),
        })
    }

    /// What is broken in it.
    pub(crate) fn odds(&self) -> Odds {
        self.execution(sampling(1), |execution| execution.odds())
    }

    /// The share of audits, with proofs, that reject it, each for one of these reasons and for what its own draw
    /// had to find.
    pub(crate) fn measured(&self, odds: &Odds, policy: Policy, audits: u32, reasons: &[Reason]) -> f64 {
        let tally = Mutex::new(Tally::default());
        in_parallel(0..audits, |trial| {
            let file = question(policy, trial).run(&fixture(), self).unwrap();
            let judgement = file.judge(&|_| None);
            if let Verdict::Rejected(failure) = judgement.verdict {
                assert!(reasons.contains(&failure.reason), "{failure:?}, not one of {reasons:?}");
            }
            tally.lock().unwrap().count(odds, &judgement);
        });
        tally.into_inner().unwrap().share()
    }
}

/// What is asked under a policy; only keys, and with them the draws, differ by trial.
pub(crate) fn question(policy: Policy, trial: u32) -> SelfAudit {
    SelfAudit {
        prompt: Prompt::Text(VERSE.to_owned()),
        sampling: sampling(1),
        max_tokens: u32::try_from(OUTPUT).unwrap(),
        stop: vec![],
        policy,
        audit_rate: AuditRate::Always,
        entropy: *blake3::hash(&trial.to_le_bytes()).as_bytes(),
    }
}

/// A request that a stored answer fits.
pub(crate) fn fixed_request(stored: &Stored) -> Request {
    question(Policy::DEFAULT, 0).run(&fixture(), stored).unwrap().record.request
}

impl Backend for Stored {
    fn serve(&self, _: &Request, on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>) -> Result<Served, ServeError> {
        for token in &self.output {
            if on_token(*token).is_break() {
                return Err(ServeError::Cancelled);
            }
        }
        let Self { prompt, output, finish, rows } = self.clone();
        Ok(Served { prompt, output, finish, trace: rows.trace().clone() })
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        _: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        prove(&fixture().committed, request, commitment, self.rows.as_ref(), nonce)
            .map_err(|error| ProveError(error.to_string()))
    }
}
