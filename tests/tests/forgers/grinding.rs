//! Choosing among many traces that look alike, before any of them is committed.

use assay_audit::challenge::{Challenge, Nonce, challenge_seed};
use assay_audit::policy::Policy;
use assay_commitments::trace::TreeId;
use assay_commitments::{KvGroup, LayerIndex};
use assay_miner::{Backend, honest_commitment};

use crate::cheats::{real, replaced};
use crate::stored::{Stored, checkpoint, fixed_request};

/// Traces to choose from.
const VARIANTS: usize = 1 << 10;
/// Nonces that the forger tries its traces against; the true one is not among them.
const GUESSES: u64 = 64;
/// Nonces against which its choice is tried.
const NONCES: u64 = 20_000;

fn nonce(number: u64) -> Nonce {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// The digests of commitments to one cheat whose rows differ in a rounding each.
fn digests(stored: &Stored) -> Vec<[u8; 32]> {
    let request = fixed_request(stored);
    let variant = |number: usize| {
        let (mut rows, entry) = (stored.rows(), number % 32);
        // One unit in the last place of a value.
        rows.change(TreeId::Kv(LayerIndex::new(3), KvGroup::new(0)), number / 32, |row| {
            row[32 + entry] = f32::from_bits(row[32 + entry].to_bits() ^ (1 << 16));
        });
        let served = stored.with_rows(rows).serve(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        honest_commitment(&request, &served).digest()
    };
    (0..VARIANTS).map(variant).collect()
}

/// A trace that passes whatever nonces a forger tries passes the true one no oftener than any other does: the draw
/// hangs on the nonce. With the nonce in hand it would nearly always find one that passes.
#[test]
fn choosing_among_traces_gains_nothing_while_the_nonce_is_hidden() {
    let cheat = replaced().into_iter().find(|forger| forger.does.starts_with("1/4 of the cells")).unwrap();
    let broken = cheat.stored.odds();
    let lengths = cheat.stored.lengths();
    let passes = |digest: &[u8; 32], nonce: &Nonce| {
        let seed = challenge_seed(nonce, digest, &Policy::DEFAULT);
        let challenge = Challenge::derive(&seed, &Policy::DEFAULT, &checkpoint().architecture, lengths);
        challenge.cells.iter().all(|cell| !broken.is_broken(cell.layer, cell.position))
    };
    let digests = digests(&cheat.stored);
    assert_eq!(digests.iter().collect::<std::collections::BTreeSet<_>>().len(), VARIANTS);
    let guessed = |digest: &&[u8; 32]| (0..GUESSES).filter(|number| passes(digest, &nonce(*number))).count();
    let chosen = digests.iter().max_by_key(guessed).unwrap();
    let passed = (0..NONCES).filter(|number| passes(chosen, &nonce(GUESSES + number))).count();
    let nonces = real(usize::try_from(NONCES).unwrap());
    let (measured, expected) = (real(passed) / nonces, 1.0 - broken.caught(&Policy::DEFAULT));
    println!(
        "passes {} of {GUESSES} guessed nonces; {measured:.4} of the true ones, {expected:.4} expected",
        guessed(&chosen)
    );
    assert!((measured - expected).abs() < 5.0 * (expected * (1.0 - expected) / nonces).sqrt());
    let known =
        (0..200).filter(|number| digests.iter().any(|digest| passes(digest, &nonce(NONCES * 2 + number)))).count();
    assert_eq!(known, 200, "why the nonce comes after the commitment");
}
