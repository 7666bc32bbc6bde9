//! `docs/forgers.md`.

use std::fmt::Write;
use std::path::PathBuf;

use crate::cheats::Saves;
use crate::cost::{Cost, of_8b};
use crate::drift::Drift;
use crate::precision::{Elsewhere, SEARCHED};
use crate::{Found, Results};

const INTRODUCTION: &str = "\
# Forgers

Miners that know everything, choose where to deviate, and save what they can. [attacks.md](attacks.md) asks whether a way to
cheat loses; this page asks how much a cheat saves before it is likely to lose.

```
cargo test --release --test forgers              # a few audits of each
BLESS=1 cargo test --release --test forgers      # longer; writes this page and its figure anew
cargo test --release --lib forgers               # what may be chosen once the challenge is known
```

*Saves* is a share of the multiply-adds of the honest answer (prompt and output, lm_head counted), of the bytes of all
weights, or of the bytes of the cache. *Found* is the share of audits that must find the cheat, computed from the weights
for every cell, group and decode of one answer (25 prompt tokens, 16 output tokens, 4 layers): without columns, under the
default policy (in one audit of four a column, over the prompt or over the answer as often), with one in every audit, and with
two, one over each. *Measured* is the share of 60 audits under the default policy, and of 20 with two columns, proofs and all. Of every
one of them its own draw tells what it had to find: the test fails if it finds anything else, or by another reason than *by* says.

![What forgers save](figures/forgers.svg)

In short:

- Lower precision pays little: 8 bits anywhere are found as often as their cells are drawn. Mixes of 10 to 14 bits are hardly worse
  than bf16 itself: the best that a search finds save a fifth of the weights' bytes where one audit in seven finds them, and a
  quarter where two in three do. No rounded cache passes.
- Leaving out cells saves less than it risks: a fifth of the work, three audits in four.
- **Stored rows behind one layer are the cheap cheat**, the cheaper the deeper the model (below). Columns find them, and for
  them the default policy draws one in an audit of four.
- **A smaller model's answer passes for the whole one's where the heads of one layer are bent towards it.** That saves no work,
  but all decoding: the whole model reads what is written already. Of the cells of that layer over the answer, only those show it
  that are drawn with a group whose heads are bent. Where the prompt is long, they need not be bent: rows of its cache are forged,
  a key for each query behind the answer and for its value what the heads are to put out, and only the cells of these rows show it.
- A drift, a stop too early, nudged products or logits and a choice among traces gain next to nothing.
";

const SEARCH: &str = "
A search goes down from full precision, and from one to three layers of 4 bits. It takes a bit at a time, from the matrix where the
chance to be found grows least for the bytes saved, and nothing that it comes by saves more and is found no more often than these. It
knows the answer that it is measured on. A miner loads its weights before it is asked; the same mixes, and bits that are the same
everywhere, under the default policy in that answer and in two others:

| weights | saves | in this answer | in another | in a third |
|---|---:|---:|---:|---:|
";

const COLUMNS: &str = "
## What a deep model changes

A cut breaks one layer's cells, so uniform cells find it less often the deeper the model, and heads that are bent, one group of
that layer's. By the same formula, for 32 layers, a prompt of 1000 tokens and 200 output tokens:

| forger | saves | found, no column | default | one column | two columns | eight cells | default audits until 90 % |
|---|---:|---:|---:|---:|---:|---:|---:|
";

const COSTS: &str = "
**What columns cost.** Measured on the fixture (best times of 12 rounds by turns; 4 layers, so that four cells already
touch most of them), and by formula for the cells of an audit in the shape of Llama-3 8B at position 500, largest openings counted:

| | proof bytes | to prove | to judge | cells and openings at 8B |
|---|---:|---:|---:|---:|
";

const ADVICE: &str = "
A column touches every layer, so a miner proves 32 of them and not four, and the proof grows several times. Where every audit
had one, most of a validator's bytes would go to one cheat; where none has one, it takes 37 audits to find, nine times in ten, a
miner with the rows of a prompt or an answer that it stored. In one audit of four it takes 12, for three times the bytes of cells
on the mean and 28 layers more to prove in a quarter of the audits. What to do where that is not enough:

- **Traffic whose reward is worth a replay** wants two columns in every audit (`columns = 2`, `columns_one_in = 1`): one falls
  into the prompt and one into the answer, so that the stored rows of either are found at once.
- **A cut of few positions is found as often by many audits as by large ones.** A column finds a cut of `k` of `P` positions
  with `k / P`, and as many uniform cells as it has find it nearly as often. Its worth is that a cut of all positions is certain.
- **Prompts that nobody has stored.** A cut pays only where the rows behind it are there already. Fresh questions, sampled
  under fresh seeds, leave a miner with a prompt that differs in most tokens: the line that a column finds with certainty.
- **Heads of one group, bent in one layer,** are found only by a cell of that layer that draws the group. Were all eight groups of
  a column's cells replayed, each column would find them, which is eight times as often; but then 32 cells at position 500 of
  an 8B shape carry 66 MB of keys and values in place of 8. One group it stays: `columns = 2` in every audit finds them nearly
  six times as often as the default, for eight times as many columns.
- **A stored prompt that differs in one token** is found least of all, under any policy that samples: it breaks one cell of
  `layers x positions`. The answer is then the registered model's answer to that other prompt. Where that must not be, every
  cell has to be asked for.

## A drift that spends the tolerance

Both branches of every layer are moved by so many tolerances of each entry towards one token. Picks are compared over three
answers of 16 tokens, sampled ones under 40 seeds each.

| tolerances | found, default | greedy picks changed | sampled picks changed | the token's logit raised by |
|---:|---:|---:|---:|---:|
";

const CHOICES: &str = "
## What may be chosen

**Before committing.** 2^10 commitments to one cheat, each with one value in the last place off, tried against 64 guessed nonces; the
one that passes most of them passes 20,000 true ones as often as the odds of a single audit say, within five deviations
(`choosing_among_traces_gains_nothing_while_the_nonce_is_hidden`). With the nonce in hand one of the 2^10 always passes:
that is what the commitment to the nonce is for.

**Supplied products.** `audit::forgers` takes keys, queries, gates and ups over the middles between two bf16 numbers, as far as the
sketch lets roundings be off, and names roundings in doubt: keys and queries by gain and cost, gates and ups in least squares, by a
bound below which no choice comes. Of what int8 and int4 weights are off by, such a share passes honestly, and nudging leaves so much
of the row's deviation there:

| | int8 | left | int4 | left |
|---|---:|---:|---:|---:|
| a key row at the width of 8B | 0.212 | 1.00 | 0.012 | 0.99 |
| the queries of a group | 0.079 | 0.97 | 0.003 | 0.89 |
| an MLP row | 0.094 | 0.97 | 0.005 | 0.95 |

A supplied product has at least 14 bits, so that few of them lie near enough to a middle.

**Logits.** Tokens that should have been picked can be sent so low that they are no candidates, but that costs 16 thresholds of the
sketch for each of them (`logits`). As low as the sketch bears, they are candidates still, and off by more than half a rounding
(`candidate`). Under top-k or top-p a token passes that may be allowed as far as the sent logits tell. Of 4096 tokens, under top-k 100,
one of rank 103 passes where logits of two bytes are sent, of rank 108 where they are nudged too, and of three bytes none beyond 100.

**Signs.** Whatever is nudged draws the signs of all sketches anew, offline. Measured with 8 to 32 signs and 2^16 tries, an error passes as
often as the larger of two chances says: a chi-square sum (an error spread over many outputs), or a binomial one (on two
outputs alike). Extrapolated by these formulas, not measured, to 128 and 256 signs:

| error, in thresholds | a try, 128 signs | after 2^40 tries | a try, 256 signs |
|---:|---:|---:|---:|
| 2 | 2^-21.2 | certain | 2^-39.5 |
| 2.8 | 2^-39.4 | about 3/4 | 2^-75.6 |
| 3 | 2^-43.6 | 2^-3.6 | 2^-84.0 |
| 4 | 2^-61.4 | 2^-21.4 | 2^-120.4 |
| 10 | 2^-95.6 | 2^-55.6 | 2^-189.1 |

So a miner with the time for 2^40 tries before its proof is due may be off by 2.8 thresholds in **one** product of an audit, and
with 2^21 tries by two. Each further product multiplies the tries; a cheat that shows in every cell has twelve such products in
four cells, and 8 bits in a single value, output, gate, up or down projection are off by more than five thresholds in half of the
cells ([calibration.md](calibration.md)). Keys and attention are compared one by one, without signs.
";

fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.001 { format!("{:.3} %", 100.0 * share) } else { format!("{:.1} %", 100.0 * share) }
}

const fn of(saves: Saves) -> &'static str {
    match saves {
        Saves::Work => "work",
        Saves::Weights => "weights",
        Saves::Cache => "cache",
    }
}

/// A cut through a deep model: how likely a cell of its layer shows it, at a position of prompt and answer and at the last.
struct Cut {
    does: &'static str,
    prompt: f64,
    answer: f64,
    last: f64,
    saves: f64,
}

const LAYERS: f64 = 32.0;
/// Groups of heads, of which a cell is drawn with one.
const GROUPS: f64 = 8.0;
const PROMPT: f64 = 1000.0;
/// Positions of the answer that were fed back.
const ANSWER: f64 = 199.0;

impl Cut {
    /// How likely an audit shows nothing that draws cells so many times by four, and columns with this chance.
    fn missed(&self, rounds: i32, columns: usize, drawn: f64) -> f64 {
        let cell = |share: f64| 1.0 - share / LAYERS;
        let cells = cell(self.prompt).powi(2) * cell(self.answer) * cell(self.last);
        let (prompt, answer) = (1.0 - self.prompt, 1.0 - self.answer);
        let columns = [1.0, f64::midpoint(prompt, answer), prompt * answer][columns];
        cells.powi(rounds) * (1.0 - drawn * (1.0 - columns))
    }

    /// Audits until it is found nine times in ten.
    fn audits(&self, columns: usize, drawn: f64) -> f64 {
        (libm::log(0.1) / libm::log(self.missed(1, columns, drawn))).ceil()
    }

    fn line(&self) -> String {
        let found = |rounds, columns| percent(1.0 - self.missed(rounds, columns, 1.0));
        let audits = self.audits(1, 0.25);
        let (none, one, two, eight) = (found(1, 0), found(1, 1), found(1, 2), found(2, 0));
        let (saves, default) = (percent(self.saves), percent(1.0 - self.missed(1, 1, 0.25)));
        format!("| {} | {saves} | {none} | {default} | {one} | {two} | {eight} | {audits:.0} |", self.does)
    }
}

fn cuts() -> [Cut; 8] {
    let all = PROMPT + ANSWER;
    let stored = |does, count: f64| Cut { does, prompt: count / PROMPT, answer: 0.0, last: 0.0, saves: PROMPT / all };
    [
        stored("a stored prompt with one token other", 1.0),
        stored("a stored prompt with five tokens other", 5.0),
        stored("another stored prompt", PROMPT),
        Cut {
            does: "an earlier answer's rows, tokens picked anew",
            prompt: 0.0,
            answer: 1.0,
            last: 1.0,
            saves: ANSWER / all,
        },
        Cut { does: "another question's rows, and its answer's", prompt: 1.0, answer: 1.0, last: 1.0, saves: 1.0 },
        Cut {
            does: "the same, the last position honest",
            prompt: 1.0,
            answer: 1.0 - 1.0 / ANSWER,
            last: 0.0,
            saves: 1.0,
        },
        Cut {
            does: "a smaller model's answer, the heads of one of eight groups bent towards it",
            prompt: 0.0,
            answer: 1.0 / GROUPS,
            last: 1.0 / GROUPS,
            saves: 0.0,
        },
        Cut {
            does: "the same by forged rows of the cache, one for each of 200 tokens, in a prompt of 8000",
            prompt: 200.0 / 8000.0,
            answer: 0.0,
            last: 0.0,
            saves: 0.0,
        },
    ]
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/forgers.md"))
}

/// A forger's line, without what was measured.
fn computed(found: &Found) -> String {
    let Found { does, saves, share, reasons, expected, .. } = found;
    let by: Vec<&str> = reasons.iter().map(|reason| reason.slug()).collect();
    let [none, default, one, two] = expected.map(percent);
    let (share, of, by) = (percent(*share), of(*saves), by.join(", "));
    format!("| {does} | {share} of {of} | {by} | {none} | {default} | {one} | {two} |")
}

fn elsewhere_line(Elsewhere { does, share, caught }: &Elsewhere) -> String {
    let [here, one, other] = caught.map(percent);
    format!("| {does} | {} | {here} | {one} | {other} |", percent(*share))
}

fn drift_line(Drift { size, caught, greedy, sampled, raised }: &Drift) -> String {
    let [caught, greedy, sampled] = [caught, greedy, sampled].map(|share| percent(*share));
    format!("| {size} | {caught} | {greedy} | {sampled} | {raised:.3} |")
}

fn stops_line((free, picks): (usize, usize)) -> String {
    format!(
        "**Free stops.** Of {picks} picks of 200 seeds, {free} could have been a stop token that the tolerance of logits \
         lets pass although the sampler picked another."
    )
}

/// What cells and openings cost at 8B, with so many columns.
fn megabytes(columns: usize) -> String {
    format!("{:.2} MB", of_8b(columns, 500) / 1e6)
}

const COLUMN_COUNTS: [&str; 3] = ["no column", "one column", "two columns"];

/// Writes the page.
pub(crate) fn write(results: &Results, costs: &[Cost; 3]) {
    let Results { found, elsewhere, drifts, stops } = results;
    let mut page = INTRODUCTION.to_owned();
    for of_curve in found.chunk_by(|a, b| a.curve == b.curve) {
        let curve = of_curve[0].curve;
        let mut title = curve.to_owned();
        title[..1].make_ascii_uppercase();
        let _ = write!(
            page,
            "\n## {title}\n\n| forger | saves | by | found, no column | default | one column | two columns | \
             measured, default | two columns |\n|---|---:|---|---:|---:|---:|---:|---:|---:|\n"
        );
        for entry in of_curve {
            let [seen, with_two] = entry.measured.map(percent);
            let _ = writeln!(page, "{} {seen} | {with_two} |", computed(entry));
        }
        if curve == SEARCHED {
            page.push_str(SEARCH);
            for mix in elsewhere {
                let _ = writeln!(page, "{}", elsewhere_line(mix));
            }
        }
    }
    let _ = writeln!(page, "\n{}", stops_line(*stops));
    page.push_str(COLUMNS);
    for cut in cuts() {
        let _ = writeln!(page, "{}", cut.line());
    }
    page.push_str(COSTS);
    for (columns, Cost { bytes, prove, verify }) in costs.iter().enumerate() {
        let (name, at_8b) = (COLUMN_COUNTS[columns], megabytes(columns));
        let _ = writeln!(page, "| {name} | {bytes:.0} | {prove} ms | {verify:.1} ms | {at_8b} |");
    }
    page.push_str(ADVICE);
    for drift in drifts {
        let _ = writeln!(page, "{}", drift_line(drift));
    }
    page.push_str(CHOICES);
    std::fs::write(path(), page).unwrap();
}

const STALE: &str = "run `BLESS=1 cargo test --release --test forgers` and review the change";

/// Whether the page says what was computed, to the last digit shown: forgers, weights and odds are the same on every
/// machine.
pub(crate) fn check(Results { found, elsewhere, drifts, stops }: &Results) {
    let page = std::fs::read_to_string(path()).unwrap();
    let computed = found.iter().map(computed);
    let others = elsewhere.iter().map(elsewhere_line).chain(drifts.iter().map(drift_line));
    for line in computed.chain(others).chain([stops_line(*stops)]) {
        assert!(page.lines().any(|on_page| on_page.starts_with(&line)), "{STALE}: {line}");
    }
    let columns = |line: &str| line.matches(" | ").count();
    let count = |of: usize| page.lines().filter(|line| line.starts_with("| ") && columns(line) == of).count();
    let of_forgers = found.chunk_by(|a, b| a.curve == b.curve).count() + found.len();
    assert_eq!(count(8), of_forgers, "{STALE}");
}

/// Whoever changes a sentence or a formula writes the page anew.
#[test]
fn the_page_has_these_sentences() {
    if crate::is_blessing() {
        return;
    }
    let page = std::fs::read_to_string(path()).unwrap();
    let cuts = cuts().map(|cut| cut.line());
    let sentences = [INTRODUCTION, SEARCH, COLUMNS, COSTS, ADVICE, CHOICES];
    for part in sentences.into_iter().chain(cuts.iter().map(String::as_str)) {
        assert!(page.contains(part), "{STALE}: {part}");
    }
    for (columns, name) in COLUMN_COUNTS.iter().enumerate() {
        let is_here = |line: &str| line.starts_with(&format!("| {name} |")) && line.contains(&megabytes(columns));
        assert!(page.lines().any(is_here), "{STALE}: {name}");
    }
}

/// What the advice says of audits, bytes and layers.
#[test]
fn the_advice_counts_right() {
    let [_, _, prompt, answer, ..] = cuts();
    for cut in [prompt, answer] {
        assert_eq!((cut.audits(0, 0.0), cut.audits(1, 0.25)), (37.0, 12.0));
    }
    let [none, one] = [0, 1].map(|columns| of_8b(columns, 500));
    assert_eq!(((0.75 * none + 0.25 * one) / none).round(), 3.0);
}
