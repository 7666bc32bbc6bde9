//! A drift that spends the tolerance of every entry in one direction.

use assay_audit::policy::Policy;
use assay_audit::sampling::{Sampling, sample};
use assay_audit::tolerance::Tolerance;
use assay_commitments::trace::{FinishReason, TreeId};
use assay_commitments::{LayerIndex, Position, TokenId};

use crate::cheats::{plain, real};
use crate::forward::{Left, Picks, Point, straight};
use crate::stored::{OTHER_VERSES, OUTPUT, Stored, VERSE, checkpoint, honest, sampling, tokens};

/// Seeds under which an answer is picked again.
const SEEDS: u64 = 40;

/// What a drift of some size does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drift {
    /// In tolerances of each entry.
    pub(crate) size: f64,
    /// How likely a default audit is to find it.
    pub(crate) caught: f64,
    /// The share of greedy picks that it changes.
    pub(crate) greedy: f64,
    /// The share of sampled picks that it changes.
    pub(crate) sampled: f64,
    /// By how much it raises the logit of the token that it points to.
    pub(crate) raised: f64,
}

/// The token that the drift points to.
const TOWARDS: usize = 500;

fn tolerance(row: &[f64]) -> Vec<f64> {
    let Tolerance { eps_rel, eps_abs, .. } = Tolerance::of(checkpoint().profile);
    let mut magnitudes: Vec<f64> = row.iter().map(|value| value.abs()).collect();
    magnitudes.sort_by(f64::total_cmp);
    let median = magnitudes[(magnitudes.len() - 1) / 2];
    row.iter().map(|value| eps_rel * value.abs() + eps_abs * median).collect()
}

/// Both branches of every layer moved by `size` tolerances of each entry towards a token.
fn drifted(prompt: &[TokenId], picks: Picks<'_>, size: f64) -> Left {
    let hidden = usize::try_from(checkpoint().architecture.hidden).unwrap();
    let towards = &checkpoint().tensors.embeddings[TOWARDS * hidden..][..hidden];
    let norm = &checkpoint().tensors.final_norm;
    let bend = |point: Point, _: usize, row: &mut [f64]| {
        if matches!(point, Point::O(_) | Point::M(_)) {
            let tau = tolerance(row);
            for (((value, tau), towards), norm) in row.iter_mut().zip(tau).zip(towards).zip(norm) {
                *value += size * tau * f64::from(towards * norm).signum();
            }
        }
    };
    honest().run(prompt, picks, &bend)
}

/// What drifts of these sizes do.
pub(crate) fn measure(sizes: &[f64]) -> Vec<Drift> {
    let [moses, shepherd] = OTHER_VERSES;
    let verses = [VERSE, moses, shepherd];
    let greedy = |logits: &[f32]| sample(logits, &Sampling::GREEDY, Position::new(0));
    let honest: Vec<Left> = verses
        .iter()
        .map(|verse| honest().run(&tokens(verse), Picks::Sampled(sampling(1), OUTPUT), &straight))
        .collect();
    let of = |size: f64| {
        let (mut greedy_changed, mut sampled_changed, mut raised) = (0, 0, 0.0);
        for left in &honest {
            let moved = drifted(&left.prompt, Picks::Forced(&left.output), size);
            for (number, (before, after)) in left.logits.iter().zip(&moved.logits).enumerate() {
                greedy_changed += usize::from(greedy(before) != greedy(after));
                raised += f64::from(after[TOWARDS] - before[TOWARDS]);
                let position = Position::new(u32::try_from(left.prompt.len() - 1 + number).unwrap());
                let differs = |seed: &u64| {
                    sample(before, &sampling(*seed), position) != sample(after, &sampling(*seed), position)
                };
                sampled_changed += (0..SEEDS).filter(differs).count();
            }
        }
        let picks = real(verses.len() * OUTPUT);
        let served = drifted(&tokens(VERSE), Picks::Sampled(sampling(1), OUTPUT), size);
        Drift {
            size,
            caught: Stored::new(&served, FinishReason::Length).odds().caught(&Policy::DEFAULT),
            greedy: real(greedy_changed) / picks,
            sampled: real(sampled_changed) / picks / real(usize::try_from(SEEDS).unwrap()),
            raised: raised / picks,
        }
    };
    sizes.iter().map(|size| of(*size)).collect()
}

#[test]
fn a_pass_leaves_rows_that_every_audit_accepts() {
    let left = plain(1);
    let stored = Stored::new(&left, FinishReason::Length);
    let odds = stored.odds();
    assert!(odds.broken() < 1e-6 && odds.broken_picks() == 0.0, "{odds:?}");
    assert_eq!(stored.measured(&odds, Policy::DEFAULT, 4, &[]), 0.0);
    assert_eq!(stored.measured(&odds, Policy::Everything, 1, &[]), 0.0, "every cell of another runtime");
    assert_eq!(left.rows[&TreeId::H(LayerIndex::new(0))].len(), left.prompt.len() + OUTPUT - 1);
}

#[test]
fn a_drift_is_certain_to_be_found_before_it_spends_the_whole_tolerance() {
    let [fiftieth, fifth, most] = measure(&[0.02, 0.2, 1.0])[..] else { unreachable!() };
    println!("{fiftieth:?}\n{fifth:?}\n{most:?}");
    assert!(fiftieth.caught < 1e-3 && fifth.caught < 1e-3, "what tolerance leaves open");
    assert!(most.caught > 0.999);
    assert!(fiftieth.sampled < 0.01 && fifth.sampled < 0.05, "and how little it is worth");
}
