//! The margins of the fixture model, measured again on part of what the stored figures were measured on: a change
//! that moves honest runs towards a threshold, or a cheat below one, fails here.

use assay_cli::calibration::{Calibration, Cheat, CheatFigures, Plan, Subject, measure};
use assay_commitments::manifest::Matrix;
use assay_commitments::rows::Profile;
use assay_llm_runtime::Checkpoint;
use assay_llm_runtime::quantize::Format;
use assay_tests::fixture_folder;

/// The largest share of a threshold that an honest run may reach.
const MOST: f64 = 0.7;
/// By how much a largest ratio may exceed the stored one. The cells are some of those that were stored, so on the
/// same machine none does at all; what is left is for another platform's elementary functions.
const SLACK: f64 = 1.25;

fn stored(profile: Profile) -> Calibration {
    let path = format!("{}/../fixtures/calibration/fixture-{}.json", env!("CARGO_MANIFEST_DIR"), profile.name());
    serde_json::from_slice(&std::fs::read(path).expect("the figures are stored")).expect("they are a calibration")
}

fn check(profile: Profile) {
    let subject = Subject::load(&fixture_folder(), Some(profile)).expect("the fixture is a model");
    let cheats = vec![
        Cheat::Format(Format::Int8Channel, Matrix::ALL.to_vec()),
        Cheat::Format(Format::Int8Group, vec![Matrix::Q]),
        Cheat::Format(Format::Fp8, vec![Matrix::V]),
        Cheat::Format(Format::PrunedTenth, Matrix::ALL.to_vec()),
        Cheat::Altered(2, Matrix::Up),
        Cheat::SplitProducts(2),
        Cheat::SplitProducts(8),
        Cheat::Int8Cache,
    ];
    let plan = Plan { tokens: 16, prompts: 2, cells: 120, cheats };
    let found = measure(&subject, &plan, &mut |_, _| ()).expect("the fixture runs");
    let stored = stored(profile);
    assert_eq!(found.profile, stored.profile);

    for of in &found.honest {
        let (largest, known) = (of.spread.max, stored.honest(&of.relation).expect("every relation is stored").max);
        assert!(largest <= MOST, "{}: {largest}", of.relation);
        assert!(largest <= SLACK * known, "{}: {largest} where {known} is stored", of.relation);
    }
    for mode in found.modes.iter().skip(1) {
        assert_eq!(mode.new_rows, 0, "{} leaves other bits", mode.mode);
    }
    for cheat in &found.cheats {
        let is_same = |of: &&CheatFigures| of.cheat == cheat.cheat && of.matrices == cheat.matrices;
        let known = stored.cheats.iter().find(is_same).expect("every cheat is stored").largest;
        #[expect(clippy::cast_precision_loss, reason = "a handful of cells")]
        let deviation = (known.rejected * (1.0 - known.rejected) / cheat.cells as f64).sqrt();
        let least = known.rejected - 3.0 * deviation - 0.05;
        assert!(cheat.largest.rejected >= least, "{known:?} is stored: {cheat:?}");
        assert!(cheat.largest.p50 >= 0.5 * known.p50, "{known:?} is stored: {cheat:?}");
    }
}

#[test]
fn margins_under_bf16_1_are_those_stored() {
    check(Profile::Bf16V1);
}

#[test]
fn margins_under_f32_1_are_those_stored() {
    check(Profile::F32V1);
}

/// The fixture's weights are bf16 numbers, and these are not.
#[test]
fn weights_cut_to_bf16_show_under_f32_1() {
    let mut checkpoint = Checkpoint::load(&fixture_folder(), Profile::F32V1).unwrap();
    for (number, weight) in checkpoint.tensors.layers.iter_mut().flat_map(|l| &mut l.matrices).flatten().enumerate() {
        *weight *= if number % 3 == 0 { 1.001 } else { 0.999 };
    }
    let subject = Subject::of(checkpoint).unwrap();
    let all = Cheat::Format(Format::Bf16, Matrix::ALL.to_vec());
    assert!(Cheat::all(&subject.checkpoint).contains(&all));
    let plan = Plan { tokens: 8, prompts: 1, cells: 60, cheats: vec![all] };
    let found = measure(&subject, &plan, &mut |_, _| ()).unwrap();
    let shown = found.cheats[0].largest;
    println!("honest {:.1e}, rounded to bf16 {shown:?}", found.honest_max);
    assert!(found.honest_max < MOST && shown.rejected > 0.99 && shown.p50 > 10.0, "{found:?}");
}
