//! Whole sessions under several policies.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::{Challenge, Nonce};
use assay_audit::commit::{ModelWeights, Surroundings, Tensor};
use assay_audit::judge::judge;
use assay_audit::model::{CommitError, CommittedModel};
use assay_audit::policy::{Columns, Policy};
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Request};
use assay_audit::sampling::Sampling;
use assay_audit::sizes::proof_sizes;
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::Verdict;
use assay_commitments::TokenId;
use assay_commitments::manifest::Architecture;
use assay_commitments::params::CodeParams;
use assay_commitments::rows::Profile;
use assay_commitments::trace::{TraceCommitment, TraceRows};
use assay_commitments::weights::{LayerPolynomial, commit};
use assay_llm_runtime::Model;
use assay_llm_runtime::synthetic::{ComputedWeights, Numbers};
use assay_miner::{Backend, HonestBackend, ProveError, ServeError, Served};
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};

use super::Figures;
use super::shape::Shape;
use crate::commands::audit::proof_bytes;
use crate::files::{make_folder, read_transcript, write_atomically};
use crate::local::{LocalError, LocalModel};
use crate::outcome::Fault;
use crate::self_audit::SelfAudit;
use crate::terminal::Progress;

const PROFILE: Profile = Profile::Bf16V1;
const PROMPT: usize = 64;
const OUTPUT: u32 = 32;
/// Judgements of which the best time counts.
const JUDGED: usize = 10;
/// Memory for the symbols of a polynomial that is being committed.
const COMMIT_MEMORY: usize = 1 << 29;
/// From it follow the nonces.
const ENTROPY: [u8; 32] = [3; 32];

/// Draws so many cells, decodes and columns.
const fn policy(cells: u32, decodes: u32, columns: u32) -> Policy {
    Policy::Sampled { cells, decodes, columns: Columns::always(columns), least_budget_ms: 0 }
}

/// The least that an audit can ask for; more cells; more decodes; a column.
const GREEDY: [Policy; 4] = [policy(1, 1, 0), policy(4, 1, 0), USUAL, policy(4, 3, 1)];
/// Asked again of an answer that is drawn, which the sampler has to be replayed for.
const SAMPLED: [Policy; 1] = [USUAL];
/// What the default policy draws in most audits, which have no column.
const USUAL: Policy = policy(4, 3, 0);

/// Serves answers, proves what each policy asks of them and judges it. Transcripts that `keep` holds already are
/// judged alone.
pub(super) fn measure(
    shape: Shape,
    numbers: &Numbers,
    keep: Option<&Path>,
    figures: &mut Figures,
) -> Result<(), Fault> {
    if let Some(folder) = keep {
        make_folder(folder)?;
    }
    let mut model = None;
    let sampled = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    let mut audits = vec![];
    for (name, sampling, policies) in [("greedy", Sampling::GREEDY, &GREEDY[..]), ("sampled", sampled, &SAMPLED[..])] {
        let mut backend = None;
        for (number, &policy) in policies.iter().enumerate() {
            let kept = keep.map(|folder| folder.join(format!("{name}-{number}.assay")));
            let file = match &kept {
                Some(path) if path.exists() => read_transcript(path)?,
                _ => {
                    if model.is_none() {
                        let begin = Instant::now();
                        model = Some(make(shape, numbers)?);
                        figures.set("commit_seconds", begin.elapsed().as_secs_f64());
                    }
                    let Some(model) = &model else { continue };
                    let backend =
                        backend.get_or_insert_with(|| Replayed { backend: model.backend(), served: OnceLock::new() });
                    let file = session(sampling, policy).run(model, backend)?;
                    if let Some(path) = &kept {
                        write_atomically(path, &file.encode())?;
                    }
                    file
                }
            };
            let audit = Audit::measure(file)?;
            if policy == USUAL && sampling == Sampling::GREEDY {
                figures.set("prove_seconds", audit.prove_seconds);
                figures.set("verify_ms", 1e3 * audit.verify_seconds);
                figures.set("proof_bytes", audit.proof_bytes);
            }
            audits.push(audit.row(name));
        }
    }
    figures.set("audits", audits);
    Ok(())
}

/// What an audit costs.
struct Audit {
    file: TranscriptFile,
    cells: usize,
    layers: usize,
    decodes: usize,
    prove_seconds: f64,
    proof_bytes: u64,
    verify_seconds: f64,
    one_core_seconds: f64,
}

impl Audit {
    fn measure(file: TranscriptFile) -> Result<Self, Fault> {
        let assets = file.assets(&|_| None).map_err(|fault| Fault::own(fault.to_string()))?;
        let (verify_seconds, challenge) = best_time(&file, &assets)?;
        let alone = ThreadPoolBuilder::new().num_threads(1).build();
        let alone = alone.map_err(|error| Fault::own(format!("no thread can be started: {error}")))?;
        let (one_core_seconds, _) = alone.install(|| best_time(&file, &assets))?;
        Ok(Self {
            cells: challenge.cells.len(),
            layers: challenge.layers().len(),
            decodes: challenge.decodes.len(),
            prove_seconds: f64::from(file.receipt.measurements.proof_ms) / 1e3,
            proof_bytes: proof_bytes(&file).unwrap_or(0),
            verify_seconds,
            one_core_seconds,
            file,
        })
    }

    fn row(&self, sampling: &str) -> Value {
        let sizes = proof_sizes(&self.file.record, &self.file.manifest).unwrap_or_default();
        json!({
            "sampling": sampling,
            "cells": self.cells,
            "layers": self.layers,
            "decodes": self.decodes,
            "prove_seconds": self.prove_seconds,
            "verify_ms": 1e3 * self.verify_seconds,
            "one_core_ms": 1e3 * self.one_core_seconds,
            "proof_bytes": self.proof_bytes,
            "prefix_bytes": sizes.prefixes,
            "logits_bytes": sizes.logits,
            "opening_bytes": sizes.openings,
        })
    }
}

/// The best time of several judgements, and what was drawn.
fn best_time(file: &TranscriptFile, assets: &ModelAssets) -> Result<(f64, Challenge), Fault> {
    let mut best = f64::INFINITY;
    let mut drawn = None;
    for _ in 0..JUDGED {
        let begin = Instant::now();
        let judgement = judge(&file.record, &file.manifest, assets, &file.embeddings);
        best = best.min(begin.elapsed().as_secs_f64());
        if judgement.verdict != Verdict::Accepted {
            return Err(Fault::own(format!("an honest answer is not accepted: {:?}", judgement.verdict)));
        }
        drawn = judgement.report.challenge;
    }
    let drawn = drawn.ok_or_else(|| Fault::own("nothing was drawn"))?;
    Ok((best, drawn))
}

fn session(sampling: Sampling, policy: Policy) -> SelfAudit {
    SelfAudit {
        prompt: Prompt::Text("a bench ".repeat(PROMPT / 8)),
        sampling,
        max_tokens: OUTPUT,
        stop: vec![],
        policy,
        audit_rate: AuditRate::Always,
        entropy: ENTROPY,
    }
}

/// The model of a shape, committed and ready to run.
fn make(shape: Shape, numbers: &Numbers) -> Result<LocalModel, Fault> {
    let distinct = shape.distinct_layers(numbers);
    let weights = ComputedWeights::new(numbers, 1).repeating(distinct);
    let tokenizer = weights.tokenizer();
    let surroundings = Surroundings { profile: PROFILE, tokenizer: &tokenizer, chat_template: None };
    let tree = &mut |_, _: &[[u8; 32]], polynomial: &LayerPolynomial, code: &CodeParams| {
        let Ok(tree) = commit(polynomial, code, COMMIT_MEMORY, &|_| ());
        tree
    };
    let progress = Progress::new("committing");
    let told = &mut |done, total| progress.tell(done as u64, total as u64);
    let committed = CommittedModel::read(&Readable(&weights), surroundings, tree, told).map_err(LocalError::from)?;
    let few = ComputedWeights::new(&Numbers { layers: distinct, ..*numbers }, 1);
    let model = Model::load(&few, PROFILE)?.with_layers(numbers.layers);
    let assets = ModelAssets::new(&committed.manifest, &tokenizer, None).map_err(LocalError::Assets)?;
    let (model, committed, assets) = (Arc::new(model), Arc::new(committed), Arc::new(assets));
    Ok(LocalModel { tokenizer, chat_template: None, model, committed, assets })
}

/// Computed weights, which are always read, for a reader that may be told of an architecture out of range.
struct Readable<'a>(&'a ComputedWeights);

impl ModelWeights for Readable<'_> {
    type Error = CommitError;

    fn architecture(&self) -> &Architecture {
        self.0.architecture()
    }

    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), CommitError> {
        let read: Result<(), Infallible> = self.0.read(tensor, start, out);
        let Ok(()) = read;
        Ok(())
    }
}

/// Answers every request as it answered the first: the policies are asked of one answer.
struct Replayed {
    backend: HonestBackend,
    served: OnceLock<Served>,
}

impl Backend for Replayed {
    fn serve(
        &self,
        request: &Request,
        on_token: &mut dyn FnMut(TokenId) -> ControlFlow<()>,
    ) -> Result<Served, ServeError> {
        if let Some(served) = self.served.get() {
            return match served.output.iter().try_for_each(|token| on_token(*token)) {
                ControlFlow::Continue(()) => Ok(served.clone()),
                ControlFlow::Break(()) => Err(ServeError::Cancelled),
            };
        }
        let served = self.backend.serve(request, on_token)?;
        Ok(self.served.get_or_init(|| served).clone())
    }

    fn commit(&self, request: &Request, served: &Served) -> TraceCommitment {
        self.backend.commit(request, served)
    }

    fn prove(
        &self,
        request: &Request,
        commitment: &TraceCommitment,
        trace: &dyn TraceRows,
        nonce: Option<&Nonce>,
    ) -> Result<Vec<u8>, ProveError> {
        self.backend.prove(request, commitment, trace, nonce)
    }
}
