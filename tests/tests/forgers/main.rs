//! White-box forgers: miners that know everything, save what they can and choose where to deviate. Each is
//! measured: what it saves, and how often an audit finds it, under the default policy and with columns drawn.
//!
//! `BLESS=1` measures longer and writes `docs/forgers.md` and its figure.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

mod cheats;
mod cost;
mod drift;
mod figure;
mod forward;
mod grinding;
mod page;
mod precision;
mod steered;
mod stored;

use assay_audit::policy::{Columns, Policy};
use assay_audit::verdict::Reason;

use cheats::{Forger, Saves};
use drift::Drift;
use precision::Elsewhere;
use stored::checkpoint;

/// The default policy, but with so many columns in every audit.
const fn with_columns(columns: u32) -> Policy {
    Policy::Sampled { cells: 4, decodes: 3, columns: Columns::always(columns), least_budget_ms: 60_000 }
}

/// What forgers are measured under.
const POLICIES: [Policy; 4] = [with_columns(0), Policy::DEFAULT, with_columns(1), with_columns(2)];

fn is_blessing() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// What is known of a forger.
struct Found {
    curve: &'static str,
    does: String,
    saves: Saves,
    share: f64,
    /// Why it is rejected.
    reasons: &'static [Reason],
    /// The share of audits that must find it under each of [`POLICIES`].
    expected: [f64; 4],
    /// The share of default audits that did, and of audits with two columns.
    measured: [f64; 2],
}

/// Everything that was found out.
struct Results {
    found: Vec<Found>,
    elsewhere: Vec<Elsewhere>,
    drifts: Vec<Drift>,
    /// Free stops, and picks.
    stops: (usize, usize),
}

/// How far a measured share may lie from the expected one: four deviations, and one audit.
fn bound(expected: f64, audits: u32) -> f64 {
    let audits = f64::from(audits);
    4.0 * (expected * (1.0 - expected) / audits).sqrt() + 1.0 / audits
}

fn measure(forger: &Forger) -> Found {
    let (audits, with_two) = if is_blessing() { (60, 20) } else { (10, 4) };
    let odds = forger.stored.odds();
    POLICIES.iter().for_each(|policy| odds.check_draws(policy, &checkpoint().architecture));
    let expected = POLICIES.map(|policy| odds.caught(&policy));
    let measured = [(1, audits), (3, with_two)].map(|(number, audits): (usize, u32)| {
        let (policy, expected) = (POLICIES[number], expected[number]);
        let measured = forger.stored.measured(&odds, policy, audits, forger.reasons);
        let is_near = (measured - expected).abs() <= bound(expected, audits);
        assert!(is_near, "{}, {policy:?}: {measured} where {expected} is expected", forger.does);
        measured
    });
    let Forger { curve, does, saves, share, reasons, .. } = forger;
    println!("{does:<90} saves {share:.3} of {saves:?}, found {expected:.3?}, measured {measured:.2?}");
    Found { curve, does: does.clone(), saves: *saves, share: *share, reasons, expected, measured }
}

/// Audits find a forger where their own draw says, by a stated reason, and as often as what it breaks says: by strata
/// for cells left out, with certainty for a cut under two columns and for weights or caches of eight bits. The page tells
/// which cheats are cheap.
#[test]
fn forgers_are_found_as_often_as_the_relations_they_break_say() {
    let frontier = precision::frontier();
    let families = [
        cheats::replaced(),
        cheats::cuts(),
        cheats::answers(),
        steered::steered(),
        precision::mixes(),
        precision::searched(&frontier),
        cheats::caches(),
    ];
    let found: Vec<Found> = families.iter().flatten().map(measure).collect();
    let of = |curve: &'static str| found.iter().filter(move |found| found.curve == curve);
    for (parts, found) in [32, 16, 8, 4, 2, 1].into_iter().zip(of("cells left out in the prompt")) {
        let share = cheats::real(100_usize.div_ceil(parts)) / 100.0;
        assert!((found.expected[0] - (1.0 - (1.0 - share).powi(2))).abs() < 1e-6, "{}", found.does);
    }
    for (parts, found) in [32, 16, 8, 4, 2, 1].into_iter().zip(of("cells left out in the answer")) {
        let share = cheats::real(56_usize.div_ceil(parts)) / 60.0;
        assert!((found.expected[0] - share).abs() < 1e-6, "{}", found.does);
    }
    let whole = of("stored prompt").next_back().unwrap();
    assert!(whole.expected[2] > 0.5 && whole.expected[3] > 0.999, "a column covers every cut of the prompt");
    for (curve, least) in [("replay", 0.7), ("small writer", 0.9), ("early stop", 0.99), ("quantised cache", 0.99)] {
        assert!(of(curve).all(|found| found.expected[0] > least), "{curve}");
    }
    // As often as a cell of the last layer is drawn, with its group; forged rows hide nothing.
    let steered: Vec<f64> = of(steered::STEERED).map(|found| found.expected[0]).collect();
    let [all, one_group, behind_rows] = steered[..] else { panic!("{steered:?}") };
    assert!(all > 0.2 && behind_rows >= all && one_group < all && one_group > 0.4 * all, "{steered:?}");
    assert!(of("fewer bits everywhere").filter(|found| found.share > 0.45).all(|found| found.expected[0] > 0.999));
    for curve in ["fewer bits everywhere", "8 bits in some layers", "4 bits in some layers", "8 bits in one matrix"] {
        for plain in of(curve).filter(|plain| plain.expected[1] < precision::SURE) {
            let is_worse = frontier.iter().any(|mix| mix.share > plain.share && mix.caught <= plain.expected[1]);
            assert!(is_worse, "{} is no worse than what a search finds", plain.does);
        }
    }
    let drifts = drift::measure(&[0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0]);
    for drift in &drifts {
        println!("{drift:?}");
    }
    let results = Results { found, elsewhere: precision::elsewhere(&frontier), drifts, stops: cheats::free_stops(200) };
    if is_blessing() {
        page::write(&results, &cost::on_the_fixture());
        figure::write(&results);
    } else {
        page::check(&results);
        figure::check(&results);
    }
}
