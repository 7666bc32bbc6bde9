//! Committing without holding the model in memory.

use assay_audit::commit::{
    Commitment, Committer, ModelWeights, PolynomialWeights, Polynomials, Surroundings, Tensor, manifest,
};
use assay_commitments::codec::encode;
use assay_commitments::manifest::{ArchitectureError, Manifest, Matrix};
use assay_commitments::params::CodeParams;
use assay_commitments::rows::Profile;
use assay_commitments::weights::{self, WeightCommitment};
use assay_llm_runtime::ModelFolder;

use super::memory::Plan;
use crate::outcome::Fault;
use crate::terminal::Progress;
use crate::tree_file::{Partial, Record};

/// A manifest that was computed.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) manifest: Manifest,
    /// Digests of the matrices of the polynomials that were committed to, by polynomial.
    pub(super) matrices: Vec<Vec<[u8; 32]>>,
}

/// Computes the manifest of a folder, within a plan of memory. Where there is a partial tree file, what it
/// has is taken from it and what it lacks is added to it.
pub(super) fn stream(
    folder: &ModelFolder,
    profile: Profile,
    plan: Plan,
    partial: Option<&mut Partial>,
) -> Result<Streamed, Fault> {
    let sizes = polynomial_sizes(folder)?;
    let done: u64 = sizes.iter().take(partial.as_ref().map_or(0, |partial| partial.done())).sum();
    let total = sizes.iter().sum();
    let progress = Progress::of_weights("committing", done);
    let mut committer = Streaming { plan, partial, progress, done, total, matrices: vec![] };
    let surroundings = Surroundings {
        profile,
        tokenizer: &folder.tokenizer,
        chat_template: folder.chat_template.as_ref().map(String::as_bytes),
    };
    let (manifest, _) = manifest(&folder.weights, surroundings, &mut committer)?;
    Ok(Streamed { manifest, matrices: committer.matrices })
}

/// What the commitments to a folder depend on: the folder, and how this version commits.
pub(super) fn fingerprint(folder: &ModelFolder, profile: Profile) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key("assay/commitment-fingerprint/v1");
    hash.update(&folder.fingerprint());
    hash.update(&encode(&profile));
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    if let Ok(polynomials) = Polynomials::new(folder.architecture()) {
        polynomials.codes().into_iter().for_each(|code| {
            hash.update(&encode(code));
        });
    }
    hash.finalize().into()
}

/// How many polynomials a folder's model has.
pub(super) fn count(folder: &ModelFolder) -> Result<usize, Fault> {
    Ok(Polynomials::new(folder.architecture()).map_err(out_of_range)?.count())
}

/// The number of weights of every polynomial.
fn polynomial_sizes(folder: &ModelFolder) -> Result<Vec<u64>, Fault> {
    let architecture = folder.architecture();
    let layer = Matrix::ALL.iter().map(|matrix| architecture.shape(*matrix).weights()).sum();
    let layers = architecture.layers as usize;
    let shards = count(folder)?.saturating_sub(layers);
    let mut left = Tensor::head(architecture).length(architecture) as u64;
    let block = u64::from(architecture.head_block().map_err(out_of_range)?) * u64::from(architecture.hidden);
    let mut sizes = vec![layer; layers];
    for _ in 0..shards {
        sizes.push(left.min(block));
        left -= left.min(block);
    }
    Ok(sizes)
}

fn out_of_range(error: ArchitectureError) -> Fault {
    error.into()
}

/// Commits to polynomials as they are read.
struct Streaming<'a> {
    plan: Plan,
    partial: Option<&'a mut Partial>,
    progress: Progress,
    /// Weights done.
    done: u64,
    total: u64,
    matrices: Vec<Vec<[u8; 32]>>,
}

impl<W: ModelWeights> Committer<W> for Streaming<'_>
where
    Fault: From<W::Error>,
{
    type Error = Fault;

    fn known(&self, number: usize) -> Option<Commitment> {
        self.partial.as_ref()?.commitment(number).cloned()
    }

    fn commit(
        &mut self,
        _: usize,
        polynomial: &PolynomialWeights<'_, W>,
        code: &CodeParams,
    ) -> Result<WeightCommitment, Fault> {
        let (done, total, count) = (self.done, self.total, polynomial.count());
        let progress = &self.progress;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "shown to people"
        )]
        let tell = |share: f64| progress.tell(done + (share * count as f64) as u64, total);
        let tree = weights::commit(polynomial, code, self.plan.symbol_bytes, &tell)?;
        self.done += count;
        if let Some(partial) = &mut self.partial {
            partial.add(Record::new(&tree, polynomial.exponents(), polynomial.digests()))?;
        }
        self.matrices.push(polynomial.digests().to_vec());
        Ok(tree.commitment())
    }
}
