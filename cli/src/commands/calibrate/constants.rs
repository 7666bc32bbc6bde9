//! The profile's constants, beside what was measured with them.

use std::fmt::Write;

use assay_audit::tolerance::Tolerance;
use assay_commitments::rows::Profile;

use crate::calibration::{Calibration, theta};

/// A TOML document: the constants in force, and for every threshold what honest runs and the nearest cheat come
/// to and the middle between them, so that an owner sees whether it should move.
pub(super) fn toml(found: &Calibration, profile: Profile) -> String {
    let Tolerance { eps_rel, eps_abs, gross, logit_rel, logit_abs, .. } = Tolerance::of(profile);
    let mut text = format!(
        "# Constants in force, and what was measured with them. Deviations are mean squares, in squared tolerances\n\
         # of eps_rel |y| + eps_abs median |y| for each output y; of logits the largest, in tolerances of\n\
         # logit_rel |z| + logit_abs. C2 and C8 follow from the width of a row and are not calibrated.\n\
         profile = \"{}\"\neps_rel = {eps_rel:?}\neps_abs = {eps_abs:?}\ngross = {gross:?}\n\
         logit_rel = {logit_rel:?}\nlogit_abs = {logit_abs:?}\n",
        found.profile
    );
    for of in &found.honest {
        let Some(theta) = theta(profile, &of.relation) else { continue };
        let honest = of.spread.max;
        let _ = write!(text, "\n[{}]\ntheta = {theta:?}\nhonest_max = {}\n", of.relation, number(honest * theta));
        if let Some((cheat, median)) = found.nearest_cheat(&of.relation) {
            let (name, middle) = (described(&cheat.cheat, &cheat.matrices), (honest * median).sqrt() * theta);
            let _ = write!(
                text,
                "# {name}\nnearest_cheat_median = {}\n# the geometric middle of the two\nsuggested_theta = {}\n",
                number(median * theta),
                number(middle)
            );
        }
    }
    text
}

/// A number with three digits that matter at least.
fn number(value: f64) -> String {
    if value != 0.0 && value < 0.01 { format!("{value:.2e}") } else { format!("{value:.4}") }
}

/// A cheat and the matrix that it is done to, if it is one.
pub(super) fn described(cheat: &str, matrices: &[String]) -> String {
    match matrices {
        [matrix] => format!("{cheat}, {matrix} alone"),
        _ => cheat.to_owned(),
    }
}
