//! Every attack that is known, against a real validator over loopback gRPC: none is accepted, and each is
//! rejected by a code and at a place out of its own stated set.
//!
//! An attack is an entry of a table ([`table`]) and a test at once. Attacks whose discovery depends on the draw
//! are asked thoroughly here, and [`rates`] measures how often the default policy finds them.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

#[macro_use]
mod table;

mod answers;
mod availability;
mod bytes;
mod chain;
mod figure;
mod honest;
mod page;
mod proofs;
mod rates;
mod rows;
mod sessions;
mod weights;

use table::Attack;

/// All attacks that end in a verdict, by row.
fn attacks() -> Vec<&'static Attack> {
    let modules = [
        weights::ATTACKS,
        rows::ATTACKS,
        proofs::ATTACKS,
        sessions::ATTACKS,
        answers::ATTACKS,
        bytes::ATTACKS,
        availability::ATTACKS,
    ];
    let mut all: Vec<&Attack> = modules.into_iter().flatten().collect();
    all.sort_by_key(|attack| attack.row());
    all
}
