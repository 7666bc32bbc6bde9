//! What a smaller model wrote, passed off by the whole one: the heads of its last layer put out what makes each of these
//! tokens the pick, and everything else follows from that.

use std::cell::RefCell;
use std::ops::Range;

use assay_audit::sampling::sample;
use assay_audit::verdict::Reason;
use assay_commitments::manifest::Matrix;
use assay_commitments::trace::TreeId;
use assay_commitments::{LayerIndex, Position, TokenId};

use crate::cheats::{Forger, LAYERS, Saves, answered, written};
use crate::forward::{Picks, Point, straight};
use crate::stored::{VERSE, checkpoint, honest, sampling, tokens};

/// The name of the curve.
pub(crate) const STEERED: &str = "small writer, steered";
/// The layer whose heads are bent.
const LAST: u32 = LAYERS - 1;
/// Positions of the prompt at which rows of the cache are forged.
const FORGED: Range<usize> = 3..5;

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap()
}

/// The attention output `a`, bent in the elements `bent` as far as it takes for `token` to be picked; `h` enters the layer.
fn towards(token: TokenId, position: usize, [h, a]: [&[f64]; 2], bent: Range<usize>) -> Vec<f64> {
    let pass = honest();
    let at = Position::new(u32::try_from(position).unwrap());
    let is_picked = |a: &[f64]| {
        let h = pass.after_attention(LAST, position, [h, a], &straight, &mut |_, _| ());
        sample(&pass.logits(&h), &sampling(1), at) == token
    };
    // The gradient of the token's logit, as if nothing stood between the branch and lm_head.
    let head = &pass.tensors.head()[size(token.get()) * h.len()..][..h.len()];
    let output = &pass.tensors.layers[size(LAST)].matrices[Matrix::O.index()];
    let mut gradient = vec![0.0; a.len()];
    for ((weights, head), norm) in output.chunks(a.len()).zip(head).zip(&pass.tensors.final_norm) {
        for j in bent.clone() {
            gradient[j] += f64::from(weights[j]) * f64::from(*head) * f64::from(*norm);
        }
    }
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit = length(a) / length(&gradient);
    let moved = |by: f64| -> Vec<f64> {
        let moved = a.iter().zip(&gradient).map(|(a, gradient)| a + by * unit * gradient);
        moved.map(|a| pass.profile.round_once(a)).collect()
    };
    if is_picked(a) {
        return a.to_vec();
    }
    let mut by = 0.5;
    while !is_picked(&moved(by)) {
        by *= 1.25;
        assert!(by < 1e6, "{token:?} is never picked");
    }
    // Clear of what the sampler's tolerance would leave open.
    moved(1.25 * by)
}

/// For each group a key that draws the attention of all its heads, from what they ask for behind the forged rows.
fn sought(written: &[TokenId]) -> Vec<Vec<f64>> {
    let architecture = &checkpoint().architecture;
    let head_dim = size(architecture.head_dim);
    let left = honest().run(&tokens(VERSE), Picks::Forced(written), &straight);
    let streams = left.rows[&TreeId::H(LayerIndex::new(LAST))].iter().enumerate().skip(FORGED.end);
    let mut sought = vec![vec![0.0; head_dim]; size(architecture.kv_heads)];
    for (position, h) in streams {
        let queries = honest().queries(LAST, position, h);
        for (number, query) in queries.chunks(head_dim).enumerate() {
            let key = &mut sought[number / size(architecture.heads / architecture.kv_heads)];
            key.iter_mut().zip(query).for_each(|(key, query)| *key += query);
        }
    }
    sought
}

fn forger(does: &str, written: &[TokenId], bent: &Range<usize>, is_hidden: bool) -> Forger {
    let (prompt, sought) = (tokens(VERSE), sought(written));
    let (stream, cached) = (RefCell::new(vec![]), RefCell::new(vec![]));
    let bend = |point: Point, position: usize, row: &mut [f64]| match point {
        Point::Stream(LAST) => *stream.borrow_mut() = row.to_vec(),
        Point::A(LAST) if position + 1 >= prompt.len() => {
            let token = written[position + 1 - prompt.len()];
            let steered = towards(token, position, [&stream.borrow(), row], bent.clone());
            row.copy_from_slice(&steered);
        }
        // Committed are equal keys and opposed values; what is attended to is what was there.
        Point::Cache(LAST, group) if is_hidden && FORGED.contains(&position) => {
            *cached.borrow_mut() = row.to_vec();
            let (key, value) = row.split_at_mut(row.len() / 2);
            key.copy_from_slice(&sought[size(group)]);
            value.fill(if position == FORGED.start { 2048.0 } else { -2048.0 });
        }
        Point::Seen(LAST, _) if is_hidden && FORGED.contains(&position) => row.copy_from_slice(&cached.borrow()),
        _ => {}
    };
    let left = honest().run(&prompt, Picks::Forced(written), &bend);
    let reasons: &[Reason] =
        if is_hidden { &[Reason::C3, Reason::C4, Reason::C5, Reason::ProofAbsent] } else { &[Reason::C5] };
    Forger { curve: STEERED, does: does.to_owned(), saves: Saves::Work, share: 0.0, reasons, stored: answered(&left) }
}

/// By all heads, by those of one group, and by all behind forged rows that would widen the tolerance of every head that
/// attends to them.
pub(crate) fn steered() -> Vec<Forger> {
    let written = &written();
    let architecture = &checkpoint().architecture;
    let width = size(architecture.heads * architecture.head_dim);
    let group = width / size(architecture.kv_heads);
    vec![
        forger("all heads of the last layer bent towards each token of a smaller model", written, &(0..width), false),
        forger("the heads of one of two groups, likewise", written, &(0..group), false),
        forger("all heads, behind two forged rows of their caches that cancel", written, &(0..width), true),
    ]
}
