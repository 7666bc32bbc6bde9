//! Speed of the linear kernel against memory bandwidth and against candle's products:
//! `cargo run --release -p assay-llm-runtime --example linear`.
//!
//! What is compared takes turns within a run, and the best of several rounds counts: other work on the
//! machine only ever adds.

#[expect(dead_code, reason = "of its memory in large pages only a part is needed here")]
#[path = "../src/kernels/linear/mod.rs"]
mod linear;

use std::hint::black_box;
use std::time::Instant;

use assay_llm_runtime::read_bandwidth;
use candle_core::{DType, Device, Result, Tensor};
use half::bf16;

use linear::{Weights, product};

/// Layers of Qwen3-0.6B.
const LAYERS: usize = 28;
/// A layer's matrices, `[outputs, inputs]`: q with k and v, o, gate with up, down.
const LAYER: [&[[usize; 2]]; 4] =
    [&[[2048, 1024], [1024, 1024], [1024, 1024]], &[[1024, 2048]], &[[3072, 1024], [3072, 1024]], &[[1024, 3072]]];
const HEAD: [usize; 2] = [151_936, 1024];

/// Weights of a group with one scale.
const GROUP: usize = 128;

const ROUNDS: usize = 6;

const ROWS: [usize; 8] = [1, 2, 4, 6, 8, 16, 64, 256];
const SHAPES: [[usize; 2]; 4] = [[1024, 1024], [3072, 1024], [1024, 3072], [4096, 4096]];

#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    Bf16,
    Int8,
}

impl Kind {
    const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    fn weights(self, shape: [usize; 2]) -> Result<Weights> {
        let [outputs, inputs] = shape;
        // Values are of no interest, only that they are normal numbers.
        let words = (0..outputs * inputs).map(|index| u8::try_from(index * 31 % 251).unwrap_or(0));
        let scaled = |word: u8| f32::from(word) / 256.0 - 0.5;
        match self {
            Self::F32 => Weights::f32(&words.map(scaled).collect::<Vec<_>>(), shape),
            Self::Bf16 => Weights::bf16(&words.map(|word| bf16::from_f32(scaled(word))).collect::<Vec<_>>(), shape),
            Self::Int8 => {
                let scales = vec![1.0 / 256.0; outputs * inputs.div_ceil(GROUP)];
                Weights::int8(&words.collect::<Vec<_>>(), &scales, GROUP, shape)
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
    fn bytes(self, [outputs, inputs]: [usize; 2]) -> f64 {
        let count = (outputs * inputs) as f64;
        match self {
            Self::F32 => 4.0 * count,
            Self::Bf16 => 2.0 * count,
            Self::Int8 => count * (1.0 + 4.0 / GROUP as f64),
        }
    }
}

fn rows(count: usize, inputs: usize) -> Result<Tensor> {
    Tensor::rand(-1.0_f32, 1.0, (count, inputs), &Device::Cpu)
}

fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begin = Instant::now();
    black_box(work()?);
    Ok(begin.elapsed().as_secs_f64())
}

fn main() -> Result<()> {
    // A product that is called by one of the threads need not wake another to begin.
    rayon::scope(|_| {
        decode()?;
        batches()
    })
}

/// All matrices of a model, one after the other, so that none is in a cache when its turn comes again.
fn decode() -> Result<()> {
    println!("Decode of Qwen3-0.6B's matrices, {} threads", rayon::current_num_threads());
    println!("{:>6} {:>5} {:>10} {:>8} {:>16}", "", "rows", "ms", "GB/s", "of the bandwidth");
    for kind in Kind::ALL {
        let mut matrices = Vec::new();
        for _ in 0..LAYERS {
            for stacked in LAYER {
                let parts = stacked.iter().map(|shape| kind.weights(*shape)).collect::<Result<Vec<_>>>()?;
                matrices.push(Weights::stack(&parts)?);
            }
        }
        matrices.push(kind.weights(HEAD)?);
        let layer: f64 = LAYER.iter().flat_map(|stacked| stacked.iter()).map(|shape| kind.bytes(*shape)).sum();
        let bytes = std::iter::repeat_n(layer, LAYERS).sum::<f64>() + kind.bytes(HEAD);
        let counts = [1, 2, 4, 8];
        let mut bandwidth: f64 = 0.0;
        let mut best = counts.map(|_| vec![f64::INFINITY; matrices.len()]);
        for _ in 0..ROUNDS {
            bandwidth = bandwidth.max(read_bandwidth());
            for (best, count) in best.iter_mut().zip(counts) {
                for (best, weights) in best.iter_mut().zip(&matrices) {
                    let x = rows(count, weights.inputs())?;
                    *best = best.min(seconds(|| product(&x, weights))?);
                }
            }
        }
        let best = best.map(|best| best.iter().sum::<f64>());
        for (best, count) in best.into_iter().zip(counts) {
            let (rate, share) = (bytes / best / 1e9, 100.0 * bytes / best / bandwidth);
            println!("{:>6} {count:>5} {:>10.1} {rate:>8.1} {share:>14.0} %", format!("{kind:?}"), 1e3 * best);
        }
        println!("       reading alone {:>25.1}", bandwidth / 1e9);
    }
    Ok(())
}

/// Single matrices, in cache where they fit.
#[expect(clippy::cast_precision_loss, reason = "sizes below 2^53")]
fn batches() -> Result<()> {
    println!("\nGFLOP/s of single products");
    print!("{:>11} {:>5}", "shape", "rows");
    println!(
        " {:>8} {:>8} {:>8} {:>11} {:>11} {:>18}",
        "f32", "bf16", "int8", "candle f32", "candle bf16", "bf16 / candle f32"
    );
    for [outputs, inputs] in SHAPES {
        let [f32, bf16, int8] = Kind::ALL.map(|kind| kind.weights([outputs, inputs]));
        let (f32, bf16, int8) = (f32?, bf16?, int8?);
        let theirs = rows(outputs, inputs)?;
        let narrow = theirs.to_dtype(DType::BF16)?;
        for count in ROWS {
            let x = rows(count, inputs)?;
            let narrow_x = x.to_dtype(DType::BF16)?;
            let mut best = [f64::INFINITY; 5];
            let rounds = (1 << 30) / (count * outputs * inputs);
            for _ in 0..rounds.clamp(4, 100) {
                let times = [
                    seconds(|| product(&x, &f32))?,
                    seconds(|| product(&x, &bf16))?,
                    seconds(|| product(&x, &int8))?,
                    seconds(|| x.matmul(&theirs.t()?))?,
                    seconds(|| narrow_x.matmul(&narrow.t()?))?,
                ];
                best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
            }
            let [f32, bf16, int8, candle_f32, candle_bf16] =
                best.map(|best| 2.0 * (count * outputs * inputs) as f64 / best / 1e9);
            print!("{:>11} {count:>5} {f32:>8.1} {bf16:>8.1} {int8:>8.1}", format!("{outputs}x{inputs}"));
            println!(" {candle_f32:>11.1} {candle_bf16:>11.1} {:>18.2}", bf16 / candle_f32);
        }
    }
    Ok(())
}
