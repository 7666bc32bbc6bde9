//! `docs/attacks.md`: every attack, the codes it may be rejected by, and how often it is found.

use std::fmt::Write;
use std::path::PathBuf;

use assay_audit::verdict::Reason;

use crate::attacks;
use crate::chain::WITHOUT_VERDICT;
use crate::rates::Rate;
use crate::table::{Attack, Found};

const TITLES: [&str; 22] = [
    "Another model",
    "Lower precision",
    "Altered weights",
    "Layers skipped or repeated",
    "Attention forged",
    "Drift, accumulated over the layers",
    "Rows of another execution proven",
    "Forged sumchecks",
    "Malformed field elements",
    "Choosing after the nonce",
    "Parts omitted, duplicated, reordered, appended",
    "Downgrades",
    "A witness adapted to the challenge",
    "Spliced sessions",
    "Another prompt",
    "Other tokens",
    "Another sampler",
    "Forged weight openings",
    "A message outside the transcript",
    "Bytes that a parser must not trust",
    "Other names",
    "Availability",
];

const INTRODUCTION: &str = "\
# Attacks

Every known way to cheat, tried against a real validator over loopback gRPC. None is accepted, and each is rejected by one
of the codes stated here ([reasons.md](reasons.md)), at a place that its test states too: the stage that the code belongs to,
for a cell its relation, and layer and position where they follow from what the miner does.

```
cargo test --release --test attacks              # all of them
BLESS=1 cargo test --release --test attacks      # writes this page and its figure anew
```

An entry is the test `attack_NN_name` in `tests/tests/attacks/`; the miners are composed of the kit in
`tests/src/adversary/`, which has a hook at every point where a miner can deviate.

**How often.** *Always*: whatever the nonce draws, often before any proof. For the others one audit under the default
policy (four cells, three decodes, a column in one of four) finds the attack if it draws a relation that the attack breaks. *Expected* is that
probability, computed from the weights for every cell and group and every decode of one answer; 20,000 draws, without their
proofs, agree with it. *Measured* is the share of AUDITS audits of that answer under as many nonces. Of every one of them its own
draw tells what it had to find; the test fails if it found anything else. Audits add up: what one finds in a quarter of cases,
ten find in 94 %.

![Expected and measured detection](figures/detection.svg)
";

/// What a row has besides its attacks.
const NOTES: [(usize, &str); 2] = [
    (6, "A drift of less than half of the tolerance is not found, and moves hardly a pick ([forgers.md](forgers.md))."),
    (
        18,
        "Forgers that make everything anew behind the round, vector, answer or column that they change are unit tests:\n\
         `commitments/src/weights/tests/forgers/`.",
    ),
];

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/attacks.md"))
}

/// What of an attack's line follows from the code alone.
fn stable(attack: &Attack) -> String {
    let name = attack.name["attack_00_".len()..].replace('_', " ");
    let codes: Vec<String> = attack.codes.iter().map(|code: &Reason| format!("`{}`", code.slug())).collect();
    format!("| {name} | {} | {} |", attack.does.trim(), codes.join(", "))
}

/// Writes the page.
pub(crate) fn write(rates: &[Rate], audits: u32) {
    let mut page = INTRODUCTION.replace("AUDITS", &audits.to_string());
    for (number, title) in (1..).zip(TITLES) {
        let _ = write!(page, "\n## {number}. {title}\n\n");
        page.push_str(
            "| attack | what the miner does | rejected by | expected | measured |\n|---|---|---|---:|---:|\n",
        );
        for attack in attacks().into_iter().filter(|attack| attack.row() == number) {
            let rate = rates.iter().find(|rate| rate.attack.name == attack.name);
            let _ = match (attack.found, rate) {
                (Found::Drawn, Some(Rate { expected, measured, .. })) => {
                    writeln!(page, "{} {:.1} % | {:.1} % |", stable(attack), 100.0 * expected, 100.0 * measured)
                }
                _ => writeln!(page, "{} always | always |", stable(attack)),
            };
        }
        for (_, note) in NOTES.iter().filter(|(row, _)| *row == number) {
            let _ = writeln!(page, "\n{note}");
        }
        let others: Vec<_> = WITHOUT_VERDICT.iter().filter(|(row, ..)| *row == number).collect();
        if !others.is_empty() {
            page.push_str("\nWithout a verdict:\n\n");
            for (_, does, outcome) in others {
                let _ = writeln!(page, "- {does}: {outcome}.");
            }
        }
    }
    std::fs::write(path(), page).unwrap();
}

const STALE: &str = "run `BLESS=1 cargo test --release --test attacks` and review the change";

/// Whether the page says how often each attack must be found, to a tenth of a percent.
pub(crate) fn check(rates: &[Rate]) {
    let page = std::fs::read_to_string(path()).unwrap();
    for Rate { attack, expected, .. } in rates {
        let (_, rest) = page.split_once(&stable(attack)).unwrap();
        let stated: f64 = rest.split_once('%').unwrap().0.trim().parse().unwrap();
        assert!((stated - 100.0 * expected).abs() < 0.1, "{}: {expected}; {STALE}", attack.name);
    }
}

#[test]
fn the_page_has_every_attack_and_its_codes() {
    if std::env::var_os("BLESS").is_some() {
        return;
    }
    let page = std::fs::read_to_string(path()).unwrap();
    for attack in attacks() {
        assert!(page.contains(&stable(attack)), "{}: {STALE}", attack.name);
    }
    for (_, note) in NOTES {
        assert!(page.contains(note), "{STALE}: {note}");
    }
    let lines = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack |")).count();
    assert_eq!(lines, attacks().len(), "{STALE}");
}

#[test]
fn every_row_has_an_attack() {
    for row in 1..=TITLES.len() {
        assert!(attacks().iter().any(|attack| attack.row() == row), "{row}");
    }
}
