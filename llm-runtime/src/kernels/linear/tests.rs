use candle_core::{Device, Tensor};
use half::bf16;

use super::lanes::{Instructions, LANES};
use super::{Weights, product, product_with};
use crate::random::Random;

/// Outputs, inputs and rows: below, at and above the lengths of vectors, tiles, panels and groups.
const SHAPES: [[usize; 3]; 16] = [
    [1, 1, 1],
    [7, 15, 3],
    [67, 16, 70],
    [3, 17, 5],
    [24, 40, 1],
    [7, 208, 1],
    [24, 192, 1],
    [13, 1024, 1],
    [25, 40, 2],
    [6, 48, 4],
    [13, 100, 9],
    [11, 1000, 1],
    [12, 1000, 70],
    [13, 1024, 3],
    [5, 1040, 7],
    [9, 2100, 5],
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    F32,
    Bf16,
    /// With the length of a group.
    Int8(usize),
}

const KINDS: [Kind; 5] = [Kind::F32, Kind::Bf16, Kind::Int8(16), Kind::Int8(64), Kind::Int8(128)];

/// A random matrix as it is run and as plain numbers: a weight, and the scale that it is multiplied by.
struct Sample {
    weights: Weights,
    plain: Vec<f32>,
    scales: Vec<f32>,
    inputs: usize,
    group: usize,
}

impl Sample {
    fn new(kind: Kind, outputs: usize, inputs: usize, random: &mut Random) -> Self {
        let mut normal = |count| -> Vec<f32> { (0..count).map(|_| random.normal()).collect() };
        let plain = normal(outputs * inputs);
        let shape = [outputs, inputs];
        match kind {
            Kind::F32 => {
                let weights = Weights::f32(&plain, shape).unwrap();
                Self { weights, plain, scales: vec![], inputs, group: inputs }
            }
            Kind::Bf16 => {
                let narrow: Vec<bf16> = plain.into_iter().map(bf16::from_f32).collect();
                let weights = Weights::bf16(&narrow, shape).unwrap();
                let plain = narrow.into_iter().map(f32::from).collect();
                Self { weights, plain, scales: vec![], inputs, group: inputs }
            }
            Kind::Int8(group) => {
                let stored: Vec<u8> = (0..outputs * inputs).map(|_| random.word().to_le_bytes()[0]).collect();
                let scales: Vec<f32> =
                    (0..outputs * inputs.div_ceil(group)).map(|_| random.normal().abs() / 100.0).collect();
                let weights = Weights::int8(&stored, &scales, group, shape).unwrap();
                let plain = stored.into_iter().map(|bits| f32::from(bits.cast_signed())).collect();
                Self { weights, plain, scales, inputs, group }
            }
        }
    }

    fn weight(&self, output: usize, input: usize) -> f32 {
        self.plain[output * self.inputs + input]
    }

    fn scale(&self, output: usize, group: usize) -> Option<f32> {
        self.scales.get(output * self.inputs.div_ceil(self.group) + group).copied()
    }

    /// An output in the order that the module states, one operation at a time.
    fn in_order(&self, row: &[f32], output: usize) -> f32 {
        let mut lanes = vec![0.0_f32; LANES];
        for (group, inputs) in (0..self.inputs).collect::<Vec<_>>().chunks(self.group).enumerate() {
            let mut sums = vec![0.0_f32; LANES];
            for input in inputs {
                sums[input % LANES] = row[*input].mul_add(self.weight(output, *input), sums[input % LANES]);
            }
            match self.scale(output, group) {
                Some(scale) => lanes.iter_mut().zip(sums).for_each(|(lane, sum)| *lane = scale.mul_add(sum, *lane)),
                None => lanes = sums,
            }
        }
        while lanes.len() > 1 {
            let upper = lanes.split_off(lanes.len() / 2);
            lanes.iter_mut().zip(upper).for_each(|(lane, upper)| *lane += upper);
        }
        lanes[0]
    }

    /// An output in f64, and the sum of the magnitudes of what it adds.
    fn exact(&self, row: &[f32], output: usize) -> [f64; 2] {
        let term = |(input, x): (usize, &f32)| {
            let scale = self.scale(output, input / self.group).unwrap_or(1.0);
            f64::from(*x) * f64::from(self.weight(output, input)) * f64::from(scale)
        };
        let terms = row.iter().enumerate().map(term);
        [terms.clone().sum(), terms.map(f64::abs).sum()]
    }
}

fn rows(count: usize, inputs: usize, random: &mut Random) -> Vec<Vec<f32>> {
    (0..count).map(|_| (0..inputs).map(|_| random.normal()).collect()).collect()
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn bits(products: &Tensor) -> Vec<Vec<u32>> {
    let products: Vec<Vec<f32>> = products.to_vec2().unwrap();
    products.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

#[test]
fn all_instructions_sum_in_the_order_that_is_stated() {
    let mut random = Random::new(1);
    for [outputs, inputs, count] in SHAPES {
        let rows = rows(count, inputs, &mut random);
        for kind in KINDS {
            let sample = Sample::new(kind, outputs, inputs, &mut random);
            let sums = |row: &Vec<f32>| (0..outputs).map(|output| sample.in_order(row, output).to_bits()).collect();
            let expected: Vec<Vec<u32>> = rows.iter().map(sums).collect();
            for instructions in Instructions::all() {
                let products = product_with(instructions, &tensor(&rows), &sample.weights).unwrap();
                assert_eq!(bits(&products), expected, "{instructions:?} {kind:?} {outputs} {inputs} {count}");
            }
        }
    }
}

#[test]
fn rows_alone_and_on_any_number_of_threads_have_the_bits_of_rows_together() {
    // Large enough to be shared, at one row too; the last has two blocks of rows.
    let mut random = Random::new(2);
    for [outputs, inputs, count] in [[1031, 512, 1], [1031, 512, 9], [100, 1000, 70], [25, 16_400, 21]] {
        let rows = rows(count, inputs, &mut random);
        for kind in KINDS {
            let sample = Sample::new(kind, outputs, inputs, &mut random);
            let on_threads = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                bits(&pool.install(|| product(&tensor(&rows), &sample.weights)).unwrap())
            };
            let together = on_threads(1);
            assert_eq!(on_threads(2), together, "{kind:?}");
            assert_eq!(on_threads(3), together, "{kind:?}");
            for (row, expected) in rows.iter().zip(&together) {
                let alone = product(&tensor(std::slice::from_ref(row)), &sample.weights).unwrap();
                assert_eq!(&bits(&alone)[0], expected, "{kind:?}");
            }
        }
    }
}

#[test]
fn products_are_exact_to_the_rounding_of_f32() {
    let mut random = Random::new(3);
    for [outputs, inputs, count] in SHAPES {
        let rows = rows(count, inputs, &mut random);
        for kind in KINDS {
            let sample = Sample::new(kind, outputs, inputs, &mut random);
            let products: Vec<Vec<f32>> = product(&tensor(&rows), &sample.weights).unwrap().to_vec2().unwrap();
            for (row, products) in rows.iter().zip(products) {
                assert_eq!(products.len(), outputs);
                for (output, product) in products.into_iter().enumerate() {
                    let [exact, magnitude] = sample.exact(row, output);
                    assert!((f64::from(product) - exact).abs() <= 1e-6 * magnitude, "{kind:?} {product} {exact}");
                }
            }
        }
    }
}

#[test]
fn stacked_matrices_give_the_outputs_of_each() {
    let mut random = Random::new(4);
    let row = rows(1, 100, &mut random);
    for kind in KINDS {
        let parts: Vec<Weights> = [3, 1, 8].map(|outputs| Sample::new(kind, outputs, 100, &mut random).weights).into();
        let stacked = Weights::stack(&parts).unwrap();
        assert_eq!([stacked.outputs(), stacked.inputs()], [12, 100]);
        let apart: Vec<u32> =
            parts.iter().flat_map(|part| bits(&product(&tensor(&row), part).unwrap()).concat()).collect();
        assert_eq!(bits(&product(&tensor(&row), &stacked).unwrap()).concat(), apart, "{kind:?}");
    }
}

#[test]
fn no_rows_have_no_products() {
    let weights = Weights::f32(&[1.0; 6], [2, 3]).unwrap();
    let none = Tensor::zeros((0, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(product(&none, &weights).unwrap().dims(), [0, 2]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    assert!(Weights::f32(&[0.0; 5], [2, 3]).is_err());
    assert!(Weights::bf16(&[], [0, 3]).is_err());
    assert!(Weights::int8(&[0; 34], &[1.0; 4], 16, [2, 17]).is_ok());
    assert!(Weights::int8(&[0; 34], &[1.0; 3], 16, [2, 17]).is_err());
    assert!(Weights::int8(&[0; 34], &[1.0; 34], 1, [2, 17]).is_err());
    let weights = Weights::f32(&[0.0; 6], [2, 3]).unwrap();
    assert!(product(&Tensor::zeros((1, 2), candle_core::DType::F32, &Device::Cpu).unwrap(), &weights).is_err());
    assert!(Weights::stack(&[]).is_err());
    let narrow = Weights::bf16(&[bf16::ONE; 6], [2, 3]).unwrap();
    assert!(Weights::stack(&[weights, narrow]).is_err());
    let groups = [16, 32].map(|group| Weights::int8(&[0; 64], &[1.0; 4][..64 / group], group, [1, 64]).unwrap());
    assert!(Weights::stack(&groups).is_err());
}
