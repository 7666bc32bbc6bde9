//! How fast weights become coefficients: `cargo run --release --example reading`.
use std::error::Error;
use std::fs;
use std::time::Instant;

use assay_audit::commit::{Committer, ModelWeights, PolynomialWeights, Surroundings, manifest};
use assay_commitments::manifest::ArchitectureError;
use assay_commitments::params::CodeParams;
use assay_commitments::polynomial::Coefficients;
use assay_commitments::rows::Profile;
use assay_commitments::weights::WeightCommitment;
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{CheckpointError, ModelFolder, Numerics};
use rayon::prelude::*;

/// Reads instead of committing.
struct Reader;

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Architecture(#[from] ArchitectureError),
}

impl<W: ModelWeights> Committer<W> for Reader
where
    ReadError: From<W::Error>,
{
    type Error = ReadError;

    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    fn commit(
        &mut self,
        _: usize,
        polynomial: &PolynomialWeights<'_, W>,
        _: &CodeParams,
    ) -> Result<WeightCommitment, ReadError> {
        const PIECE: usize = 1 << 20;
        let size = 1_usize << polynomial.layout().log_size();
        let begin = Instant::now();
        (0..size.div_ceil(PIECE))
            .into_par_iter()
            .try_for_each_init(|| vec![0_i32; PIECE], |piece, number| polynomial.read(number * PIECE, piece))?;
        let seconds = begin.elapsed().as_secs_f64();
        println!("read {:.0} M weights/s", polynomial.count() as f64 / seconds / 1e6);
        Ok(WeightCommitment { root: [0; 32], evaluation: assay_sumcheck::E::default() })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join("assay-reading");
    let numbers = Numbers {
        vocab_size: 4096,
        hidden: 1024,
        layers: 3,
        heads: 16,
        kv_heads: 4,
        head_dim: 64,
        ffn: 2816,
        max_positions: 128,
        tied: false,
    };
    for numbers in [numbers, Numbers { hidden: 576, head_dim: 36, ffn: 1536, ..numbers }] {
        synthetic::write(&numbers, 1, &folder)?;
        let opened = ModelFolder::open(&folder, Numerics::Bf16V1, 8 << 20)?;
        let surroundings = Surroundings { profile: Profile::Bf16V1, tokenizer: b"", chat_template: None };
        let begin = Instant::now();
        manifest(&opened.weights, surroundings, &mut Reader)?;
        println!("all {:.2} s", begin.elapsed().as_secs_f64());
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}
