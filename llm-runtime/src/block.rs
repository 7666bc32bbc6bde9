//! A decoder layer.

use assay_commitments::LayerIndex;
use assay_commitments::manifest::{Matrix, Small};
use assay_commitments::rows::Profile;
use assay_commitments::trace::TreeId;
use candle_core::{Device, Result, Tensor};

use crate::capture::Recorder;
use crate::error::RunError;
use crate::kernels::{
    Add, AddBias, Attention, GatedSilu, Int8Heads, NormHeads, RmsNorm, Rotate, Round, Span, Weights, product,
    split_product,
};
use crate::model::{Loader, Run};

/// Weights of a layer. Matrices that share an input are stacked to one: fewer, larger products.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    input_norm: Tensor,
    post_norm: Tensor,
    /// `[q | k | v, hidden]`.
    qkv: Stack,
    /// Of the products with `qkv`.
    qkv_bias: Option<Tensor>,
    /// Weights of the norms of query heads and of key heads, `[2, head_dim]`.
    head_norms: Option<Tensor>,
    /// `[hidden, q]`.
    output: Stack,
    output_bias: Option<Tensor>,
    /// `[gate | up, hidden]`.
    gate_up: Stack,
    /// `[hidden, ffn]`.
    down: Stack,
}

/// Matrices with a common input, side by side; several only where they are quantised differently.
#[derive(Clone, Debug)]
struct Stack(Vec<Weights>);

impl Stack {
    fn new(matrices: &[Weights]) -> Result<Self> {
        let kind = |matrix: &Weights| match matrix {
            Weights::F32(_) => (0, 0),
            Weights::Bf16(_) => (1, 0),
            Weights::Int8 { group, .. } => (2, *group),
        };
        let alike = matrices.chunk_by(|a, b| kind(a) == kind(b));
        alike.map(Weights::stack).collect::<Result<_>>().map(Self)
    }

    fn on(&self, device: &Device) -> Result<Self> {
        self.0.iter().map(|matrix| matrix.on(device)).collect::<Result<_>>().map(Self)
    }

    /// In `split` slices of the inputs, if at all.
    fn product(&self, x: &Tensor, split: Option<usize>) -> Result<Tensor> {
        let product = |x: &Tensor, matrix: &Weights| {
            split.map_or_else(|| product(x, matrix), |parts| split_product(x, matrix, parts))
        };
        match self.0.as_slice() {
            [matrix] => product(x, matrix),
            several => Tensor::cat(&several.iter().map(|matrix| product(x, matrix)).collect::<Result<Vec<_>>>()?, 1),
        }
    }
}

/// What all layers of a pass share.
pub(crate) struct Pass<'a> {
    pub(crate) runs: &'a [Run<'a>],
    pub(crate) recorder: Option<&'a Recorder<'a>>,
    pub(crate) split: Option<usize>,
    pub(crate) int8_cache: bool,
    pub(crate) norm: RmsNorm,
    pub(crate) head_norm: NormHeads,
    pub(crate) rotate: Rotate,
    pub(crate) attention: Attention,
    pub(crate) mlp: GatedSilu,
    /// Cosines and sines of the positions of all rows, `[n, head_dim]`.
    pub(crate) angles: Tensor,
}

impl Pass<'_> {
    fn profile(&self) -> Profile {
        self.norm.profile
    }

    pub(crate) fn record(&self, tree: TreeId, rows: &Tensor) {
        if let Some(recorder) = self.recorder {
            recorder.rows(tree, rows);
        }
    }

    /// A product with its bias, rounded.
    fn linear(&self, x: &Tensor, weights: &Stack, bias: Option<&Tensor>) -> Result<Tensor> {
        let products = weights.product(x, self.split)?;
        let products = match bias {
            Some(bias) => AddBias.run(products, bias)?,
            None => products,
        };
        Round(self.profile()).run(products)
    }
}

impl Block {
    /// Reads the layer with this number.
    pub(crate) fn load<L: Loader>(loader: &L, layer: usize) -> std::result::Result<Self, RunError> {
        let matrix = |matrix: Matrix| loader.matrix(layer, matrix);
        let small = |small: Small| loader.small(layer, small);
        let joined = |parts: &[Small]| -> std::result::Result<Option<Tensor>, RunError> {
            let parts: Vec<Tensor> = parts.iter().map(|part| small(*part)).collect::<std::result::Result<_, _>>()?;
            let whole = Tensor::cat(&parts, 0)?;
            Ok((whole.elem_count() > 0).then_some(whole))
        };
        Ok(Self {
            input_norm: small(Small::InputNorm)?,
            post_norm: small(Small::PostNorm)?,
            qkv: Stack::new(&[matrix(Matrix::Q)?, matrix(Matrix::K)?, matrix(Matrix::V)?])?,
            qkv_bias: joined(&[Small::QueryBias, Small::KeyBias, Small::ValueBias])?,
            head_norms: joined(&[Small::QueryNorm, Small::KeyNorm])?,
            output: Stack::new(&[matrix(Matrix::O)?])?,
            output_bias: joined(&[Small::OutputBias])?,
            gate_up: Stack::new(&[matrix(Matrix::Gate)?, matrix(Matrix::Up)?])?,
            down: Stack::new(&[matrix(Matrix::Down)?])?,
        })
    }

    /// The same layer on a device.
    pub(crate) fn on(&self, device: &Device) -> Result<Self> {
        let tensor = |tensor: &Tensor| tensor.to_device(device);
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(|tensor| tensor.to_device(device)).transpose();
        Ok(Self {
            input_norm: tensor(&self.input_norm)?,
            post_norm: tensor(&self.post_norm)?,
            qkv: self.qkv.on(device)?,
            qkv_bias: optional(&self.qkv_bias)?,
            head_norms: optional(&self.head_norms)?,
            output: self.output.on(device)?,
            output_bias: optional(&self.output_bias)?,
            gate_up: self.gate_up.on(device)?,
            down: self.down.on(device)?,
        })
    }

    /// Runs all rows `[n, hidden]` of a pass through the layer: the stream that enters it to the stream
    /// that leaves it. Attention is each sequence's own.
    pub(crate) fn forward(&self, layer: LayerIndex, stream: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let number = layer.get() as usize;
        pass.record(TreeId::H(layer), stream);

        let normed = pass.norm.run(stream, &self.input_norm)?;
        let mut products = pass.linear(&normed, &self.qkv, self.qkv_bias.as_ref())?;
        if let Some(weights) = &self.head_norms {
            products = pass.head_norm.run(products, weights)?;
        }
        let mut products = pass.rotate.run(products, &pass.angles)?;
        if let Some(recorder) = pass.recorder {
            recorder.products(layer, &products);
        }
        if pass.int8_cache {
            let Attention { heads, head_dim, .. } = pass.attention;
            products = Int8Heads { first: heads, head_dim }.run(&products)?;
        }
        let mut spans = Vec::with_capacity(pass.runs.len());
        let mut first = 0;
        for run in pass.runs {
            let rows = first..first + run.tokens.len();
            first = rows.end;
            run.cache.store(number, &products, rows.clone(), run.start)?;
            spans.push(Span { rows, start: run.start, blocks: run.cache.blocks() });
        }
        let attended = pass.attention.run(&products, number, &spans)?;
        pass.record(TreeId::A(layer), &attended);
        let branch = pass.linear(&attended, &self.output, self.output_bias.as_ref())?;
        pass.record(TreeId::O(layer), &branch);
        let middle = Add(pass.profile()).run(stream, &branch)?;

        let normed = pass.norm.run(&middle, &self.post_norm)?;
        let active = pass.mlp.run(&self.gate_up.product(&normed, pass.split)?)?;
        let branch = pass.linear(&active, &self.down, None)?;
        pass.record(TreeId::M(layer), &branch);
        Add(pass.profile()).run(&middle, &branch)
    }
}
