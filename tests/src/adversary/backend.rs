//! A backend that deviates where it is told to.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use assay_audit::challenge::Nonce;
use assay_audit::judge::challenge_of;
use assay_audit::model::CommittedModel;
use assay_audit::prove::{Kept, prove, prove_again};
use assay_audit::request::Request;
use assay_audit::sizes::proof_structure;
use assay_cli::local::LocalModel;
use assay_commitments::rows::Profile;
use assay_commitments::trace::{FinishReason, Trace, TraceCommitment, TraceRows, TraceShape};
use assay_commitments::{SessionId, TokenId};
use assay_llm_runtime::{Engine, EngineLimits, Model, RunError, Session};
use assay_miner::{Backend, HonestBackend, ProveError, ServeError, Served, honest_commitment};

use crate::adversary::anatomy::Anatomy;
use crate::adversary::rows::{Forged, Rows};

/// An answer before its rows are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The prompt as tokens.
    pub prompt: Vec<TokenId>,
    /// The output tokens.
    pub output: Vec<TokenId>,
    /// Why it ends.
    pub finish: FinishReason,
}

/// What a proof is made of. Whoever changes a part proves something else.
#[derive(Clone, Copy)]
pub struct Proving<'a> {
    /// The committed weights.
    pub model: &'a CommittedModel,
    /// The request.
    pub request: &'a Request,
    /// The commitment.
    pub commitment: &'a TraceCommitment,
    /// The rows.
    pub trace: &'a dyn TraceRows,
    /// The nonce.
    pub nonce: Option<&'a Nonce>,
}

impl fmt::Debug for Proving<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proving").field("session", &self.commitment.session).finish_non_exhaustive()
    }
}

impl Proving<'_> {
    /// The proof that an honest prover makes of these parts.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn honest(&self) -> Result<Vec<u8>, ProveError> {
        prove(self.model, self.request, self.commitment, self.trace, self.nonce)
            .map_err(|error| ProveError(error.to_string()))
    }

    /// A proof that keeps a part of `proof`, and of which the rest is made for what is then drawn.
    ///
    /// # Errors
    /// [`ProveError`].
    pub fn again(&self, kept: Kept, proof: &[u8]) -> Result<Vec<u8>, ProveError> {
        prove_again(self.model, self.request, self.commitment, self.nonce, proof, kept)
            .map_err(|error| ProveError(error.to_string()))
    }

    /// Where the parts of such a proof lie.
    pub fn anatomy(&self, proof: &[u8]) -> Anatomy {
        let Self { model, request, commitment, nonce, .. } = self;
        let challenge = challenge_of(request, &model.manifest, commitment, *nonce).expect("there is a challenge");
        let structure = proof_structure(request, commitment, *nonce, &model.manifest, proof);
        Anatomy::new(&structure.expect("an honest proof"), &challenge)
    }
}

type Change<T> = Box<dyn Fn(&Request, &mut T) + Send + Sync>;
type Prove = Box<dyn Fn(&Proving<'_>) -> Result<Vec<u8>, ProveError> + Send + Sync>;

fn honestly(proving: &Proving<'_>) -> Result<Vec<u8>, ProveError> {
    proving.honest()
}

/// A backend around the honest one that is honest wherever it is not told otherwise.
pub struct Adversary {
    local: Arc<LocalModel>,
    honest: HonestBackend,
    /// Picks the tokens.
    writer: HonestBackend,
    /// Leaves the rows; `None` for those that were left in writing.
    runner: Option<Arc<Model>>,
    /// The profile of the rows that are left in writing.
    computed: Profile,
    asked: Change<Request>,
    written: Option<Change<Answer>>,
    rows: Option<Change<Rows>>,
    commitment: Change<TraceCommitment>,
    proof: Prove,
    forged: Mutex<HashMap<SessionId, Arc<Forged>>>,
}

impl fmt::Debug for Adversary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adversary").field("manifest", &self.local.committed.manifest.id()).finish_non_exhaustive()
    }
}

impl Adversary {
    /// One that never deviates.
    pub fn new(local: &Arc<LocalModel>) -> Self {
        let honest = local.backend();
        Self {
            local: Arc::clone(local),
            writer: honest.clone(),
            honest,
            runner: None,
            computed: local.model.profile(),
            asked: Box::new(|_, _| ()),
            written: None,
            rows: None,
            commitment: Box::new(|_, _| ()),
            proof: Box::new(honestly),
            forged: Mutex::default(),
        }
    }

    /// The model that it claims to serve.
    pub const fn local(&self) -> &Arc<LocalModel> {
        &self.local
    }

    /// Serves this model in place of the claimed one. Rows of another profile are written as the claimed one's.
    #[must_use]
    pub fn model(mut self, model: Model) -> Self {
        self.computed = model.profile();
        self.writer.engine = Arc::new(Engine::start(Arc::new(model), EngineLimits::default()));
        self
    }

    /// Lets this model pick the tokens, and leaves the rows of the claimed one over them.
    #[must_use]
    pub fn writer(self, model: Model) -> Self {
        let runner = Some(Arc::clone(&self.local.model));
        Self { runner, ..self.model(model) }
    }

    /// Asks the model something else than the request.
    #[must_use]
    pub fn asked(mut self, change: impl Fn(&Request, &mut Request) + Send + Sync + 'static) -> Self {
        self.asked = Box::new(change);
        self
    }

    /// Changes the answer; the claimed model's rows over the changed tokens are the trace.
    #[must_use]
    pub fn written(mut self, change: impl Fn(&Request, &mut Answer) + Send + Sync + 'static) -> Self {
        self.written = Some(Box::new(change));
        self
    }

    /// Changes the rows before they are committed.
    #[must_use]
    pub fn rows(mut self, change: impl Fn(&Request, &mut Rows) + Send + Sync + 'static) -> Self {
        self.rows = Some(Box::new(change));
        self
    }

    /// Changes the commitment before it is signed.
    #[must_use]
    pub fn commitment(mut self, change: impl Fn(&Request, &mut TraceCommitment) + Send + Sync + 'static) -> Self {
        self.commitment = Box::new(change);
        self
    }

    /// Makes another proof.
    #[must_use]
    pub fn proof(
        mut self,
        prove: impl Fn(&Proving<'_>) -> Result<Vec<u8>, ProveError> + Send + Sync + 'static,
    ) -> Self {
        self.proof = Box::new(prove);
        self
    }

    /// Changes the bytes of the honest proof.
    #[must_use]
    pub fn proof_bytes(self, change: impl Fn(&Anatomy, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        self.proof(move |proving| {
            let mut proof = proving.honest()?;
            change(&proving.anatomy(&proof), &mut proof);
            Ok(proof)
        })
    }

    /// Changes bytes of the honest proof that it keeps, and makes what follows them for what is then drawn.
    #[must_use]
    pub fn chosen(self, kept: Kept, change: impl Fn(&Anatomy, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        self.proof(move |proving| {
            let mut proof = proving.honest()?;
            change(&proving.anatomy(&proof), &mut proof);
            proving.again(kept, &proof)
        })
    }

    /// The forged rows of a session, if it forges rows.
    pub fn forged(&self, session: &SessionId) -> Option<Arc<Forged>> {
        self.forged.lock().unwrap_or_else(PoisonError::into_inner).get(session).cloned()
    }

    /// The rows that `model` leaves over an answer.
    fn trace_over(model: &Arc<Model>, answer: &Answer) -> Result<Trace, RunError> {
        let mut session = Session::new(Arc::clone(model), true);
        let fed_back = answer.output.len().saturating_sub(1);
        let tokens: Vec<TokenId> = answer.prompt.iter().chain(&answer.output[..fed_back]).copied().collect();
        session.prefill(&tokens)?;
        Ok(session.into_trace()?.expect("rows are captured"))
    }
}

impl Backend for Adversary {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        let mut asked = request.clone();
        (self.asked)(request, &mut asked);
        let Served { prompt, output, finish, mut trace } =
            self.writer.serve(&asked, &mut |_| ControlFlow::Continue(()))?;
        let mut answer = Answer { prompt, output, finish };
        let mut runner = self.runner.as_ref();
        if let Some(change) = &self.written {
            change(request, &mut answer);
            runner = runner.or(Some(&self.local.model));
        }
        let claimed = self.local.model.profile();
        let mut computed = self.computed;
        if let Some(model) = runner {
            trace = Self::trace_over(model, &answer).map_err(|error| ServeError::Failed(error.to_string()))?;
            computed = model.profile();
        }
        if self.rows.is_some() || computed != claimed {
            let mut rows = Rows::of(&trace, computed);
            if computed != claimed {
                rows = rows.written_in(claimed, TraceShape::new(self.local.model.architecture(), claimed));
            }
            if let Some(change) = &self.rows {
                change(request, &mut rows);
            }
            let forged = Arc::new(rows.forge());
            trace = forged.trace().clone();
            self.forged.lock().unwrap_or_else(PoisonError::into_inner).insert(request.session_id(), forged);
        }
        for token in &answer.output {
            if on_token(*token).is_break() {
                return Err(ServeError::Cancelled);
            }
        }
        let Answer { prompt, output, finish } = answer;
        Ok(Served { prompt, output, finish, trace })
    }

    fn commit(&self, request: &Request, served: &Served) -> TraceCommitment {
        let mut commitment = honest_commitment(request, served);
        (self.commitment)(request, &mut commitment);
        commitment
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        let forged = self.forged(&request.session_id());
        let trace = forged.as_deref().map_or(trace, |forged| forged as &dyn TraceRows);
        (self.proof)(&Proving { model: &self.honest.committed, request, commitment, trace, nonce })
    }
}

/// An honest miner but for how it serves.
pub struct Serving<F> {
    honest: HonestBackend,
    serve: F,
}

/// Takes the tokens of an answer, as they are picked.
type OnToken<'a> = &'a mut dyn FnMut(TokenId) -> ControlFlow<()>;

impl<F> Serving<F>
where
    F: Fn(&HonestBackend, &Request, OnToken<'_>) -> Result<Served, ServeError> + Send + Sync + 'static,
{
    /// Serves as `serve` does, which may let the honest miner do it.
    pub const fn new(honest: HonestBackend, serve: F) -> Self {
        Self { honest, serve }
    }
}

impl<F> std::fmt::Debug for Serving<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl<F> Backend for Serving<F>
where
    F: Fn(&HonestBackend, &Request, OnToken<'_>) -> Result<Served, ServeError> + Send + Sync + 'static,
{
    fn serve(&self, request: &Request, on_token: OnToken<'_>) -> Result<Served, ServeError> {
        (self.serve)(&self.honest, request, on_token)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        self.honest.prove(request, commitment, trace, nonce)
    }
}
