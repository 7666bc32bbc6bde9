//! Forgers that know the challenge: what they can still choose, optimised. Supplied products may be nudged within
//! their rounding and roundings in doubt be named; and whatever is nudged draws the signs anew.

use std::borrow::Cow;

use assay_commitments::rows::Profile;
use assay_commitments::{Position, TokenId};

use crate::decode::{Pick, Scores};
use crate::fixed::{FixedRow, Supplied, Width};
use crate::num::{nearest_integer, power_of_two, real, real_count};
use crate::products::HeadProduct;
use crate::reference::{attention, dot, silu};
use crate::rounding::{Rounded, silu_doubt};
use crate::sampling::{Sampling, gumbel_noise};
use crate::sketch::{SIGNS_COMPLETE, SIGNS_WITH_NONCE, Signs, Target};
use crate::tolerance::{Tolerance, channels, deviation, median_magnitude, theta_supplied};
use crate::verdict::Reason;
use crate::verify::{CheckedDecode, judge_decode};

const PROFILE: Profile = Profile::Bf16V1;
const TOLERANCE: Tolerance = Tolerance::of(PROFILE);
/// Exponent of the grid of the products here.
const EXPONENT: i32 = -34;

/// A small repeatable generator of nearly normal numbers.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        real(((z ^ (z >> 31)) >> 12).cast_signed()) * power_of_two(-52)
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn row(&mut self, width: usize, scale: f64) -> Vec<f64> {
        (0..width).map(|_| PROFILE.round_once(scale * self.normal())).collect()
    }
}

/// Integers of so many bits with one scale, as bf16 numbers.
fn quantised(row: &[f64], bits: i32) -> Vec<f64> {
    let scale = row.iter().fold(0.0_f64, |largest, w| largest.max(w.abs())) / (power_of_two(bits - 1) - 1.0);
    row.iter().map(|w| PROFILE.round_once((w / scale).round_ties_even() * scale)).collect()
}

/// Products with one input, by the claimed weights and by others.
struct Products {
    claimed: Vec<f64>,
    other: Vec<f64>,
}

impl Products {
    fn new(random: &mut Random, inputs: usize, outputs: usize, bits: i32) -> Self {
        let x = random.row(inputs, 1.0);
        let scale = 1.0 / real_count(inputs).sqrt();
        let (mut claimed, mut other) = (vec![], vec![]);
        for _ in 0..outputs {
            let weights = random.row(inputs, scale);
            claimed.push(dot(&weights, &x));
            other.push(dot(&quantised(&weights, bits), &x));
        }
        Self { claimed, other }
    }

    /// Where a miner's products lie that is off by a share of what the other weights are off by.
    fn off_by(&self, share: f64) -> Vec<f64> {
        self.claimed.iter().zip(&self.other).map(|(y, other)| y + share * (other - y)).collect()
    }

    fn integers(&self) -> Vec<i64> {
        self.claimed.iter().map(|y| nearest_integer(y * power_of_two(-EXPONENT)).unwrap()).collect()
    }
}

/// A supplied product that may be taken as the number on the far side of the middle between two of bf16, and at what
/// cost.
#[derive(Clone, Copy)]
struct Move {
    place: usize,
    /// What is supplied; `None` where the rounding is in doubt and is only named.
    value: Option<i64>,
    /// What the reference takes in place of the nearest number.
    taken: f64,
    /// The square of how far the product is then off, in steps.
    cost: f64,
}

/// Stands in for no cost.
const FREE: f64 = 1e-9;

/// Every move of a product by at most sixty steps, which is far more than the sketch lets one be off, and every rounding
/// in doubt.
fn moves(products: &[i64], supplied: &Supplied) -> Vec<Move> {
    let unit = power_of_two(EXPONENT);
    let (step, shift) = (supplied.step(), supplied.shift);
    let doubts = Rounded::new(PROFILE, supplied, EXPONENT, Cow::Borrowed(&[])).doubts();
    let mut found = vec![];
    for (place, ((product, value), doubt)) in products.iter().zip(&supplied.values).zip(doubts).enumerate() {
        let taken = |value: i64| PROFILE.round_once(real(value << shift) * unit);
        found.extend(doubt.other().map(|taken| Move { place, value: None, taken, cost: FREE }));
        for direction in [-1, 1] {
            let far = (1..=60).map(|steps| value + direction * steps).find(|far| taken(*far) != taken(*value));
            if let Some(far) = far {
                let off = real((far << shift) - product) / step;
                found.push(Move { place, value: Some(far), taken: taken(far), cost: off * off });
            }
        }
    }
    found
}

/// What the sketch lets the squares of all roundings add up to, in steps.
fn budget(supplied: &Supplied) -> f64 {
    let outputs = supplied.values.len();
    theta_supplied(outputs) * real_count(outputs) * supplied.rounding_variance() / (supplied.step() * supplied.step())
}

fn spent(products: &[i64], supplied: &Supplied) -> f64 {
    let off: Vec<f64> =
        products.iter().zip(supplied.on_product_grid()).map(|(product, value)| real(product - value)).collect();
    dot(&off, &off) / (supplied.step() * supplied.step())
}

fn is_accepted(products: &[i64], supplied: &Supplied) -> bool {
    let target = Target::supplied(supplied);
    // Signs are redrawn until they suit.
    (0..64).any(|seed| {
        let signs = Signs::draw(&[seed; 32], 0, SIGNS_WITH_NONCE, products.len());
        target.check(&signs, &target.claims(&signs, products)).within
    })
}

/// The keys' mean square deviation over the most allowed, honestly supplied or nudged by gain and cost.
fn keys(products: &Products, share: f64, is_nudged: bool) -> f64 {
    let committed: Vec<f64> = products.off_by(share).into_iter().map(|y| PROFILE.round_once(y)).collect();
    let tau = TOLERANCE.of_row(&committed, median_magnitude(&committed));
    let integers = products.integers();
    let mut supplied = Supplied::compress(&integers);
    let nearest: Vec<f64> =
        supplied.on_product_grid().map(|value| PROFILE.round_once(real(value) * power_of_two(EXPONENT))).collect();
    let mut taken = nearest.clone();
    let square = |place: usize, taken: f64| {
        let off = (committed[place] - taken) / tau[place];
        off * off
    };
    let gain = |entry: &Move| square(entry.place, nearest[entry.place]) - square(entry.place, entry.taken);
    let mut room = budget(&supplied) - spent(&integers, &supplied);
    let mut moves = if is_nudged { moves(&integers, &supplied) } else { vec![] };
    moves.retain(|entry| gain(entry) > 0.0);
    moves.sort_by(|a, b| (gain(b) / b.cost).total_cmp(&(gain(a) / a.cost)));
    for entry in moves {
        if entry.cost <= room && taken[entry.place] == nearest[entry.place] {
            room -= entry.cost;
            supplied.values[entry.place] = entry.value.unwrap_or(supplied.values[entry.place]);
            taken[entry.place] = entry.taken;
        }
    }
    assert!(supplied.is_canonical_product() && is_accepted(&integers, &supplied));
    deviation(&committed, &taken, &tau).0 / TOLERANCE.theta_keys
}

/// The largest share at which `ratio` holds.
fn largest(ratio: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 4.0);
    for _ in 0..20 {
        let middle = f64::midpoint(low, high);
        if ratio(middle) <= 1.0 { low = middle } else { high = middle }
    }
    low
}

/// Whether `docs/forgers.md` says this.
fn assert_stated(sentence: &str) {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/forgers.md")).unwrap();
    let words: Vec<&str> = page.split_whitespace().collect();
    assert!(words.join(" ").contains(sentence), "the page should say: {sentence}");
}

/// Weights of 8 and of 4 bits are rejected, nudged or not. Stated is the share of what they are off by that passes, and what
/// nudging leaves there of a row's thresholds: at least so much.
fn assert_hides_little(name: &str, least: f64, ratio: impl Fn(i32, f64, bool) -> f64) {
    let cells = [8, 4].map(|bits| {
        assert!(ratio(bits, 1.0, true) > 1.0);
        let share = largest(|share| ratio(bits, share, false));
        let left = ratio(bits, share, true) / ratio(bits, share, false);
        println!("{name}, {bits} bits: passes up to {share:.4}, and {left:.3} is left there");
        assert!((least..=1.0).contains(&left), "{bits}");
        format!("{share:.3} | {left:.2}")
    });
    assert_stated(&format!("| {name} | {} |", cells.join(" | ")));
}

#[test]
fn nudging_supplied_keys_hides_next_to_nothing() {
    let [eight, four] = [8, 4].map(|bits| Products::new(&mut Random(7), 4096, 1024, bits));
    let ratio = |bits, share, is_nudged| keys(if bits == 8 { &eight } else { &four }, share, is_nudged);
    assert_hides_little("a key row at the width of 8B", 0.99, ratio);
}

/// What a move changes of the rest, in tolerances.
struct Step {
    /// The list whose room it takes up.
    list: usize,
    cost: f64,
    column: Vec<f64>,
}

/// What the squares of `rest` come down to at most if each step is taken as far as suits, in part or whole, within the
/// room of its list. No choice of whole steps leaves less. By the method of Frank and Wolfe (1956), whose gap bounds
/// what is still to gain.
fn least_squares(rest: &[f64], steps: &[Step], room: [f64; 2]) -> f64 {
    const ROUNDS: usize = 60;
    let (mut left, mut bound) = (rest.to_vec(), 0.0_f64);
    for _ in 0..ROUNDS {
        // Towards the choice that would gain most if the rest stayed as it is: by gain and cost until the room is spent.
        let mut towards = vec![0.0; rest.len()];
        let mut room = room;
        let mut gains: Vec<(f64, &Step)> = steps.iter().map(|step| (dot(&left, &step.column), step)).collect();
        gains.retain(|(gain, _)| *gain > 0.0);
        gains.sort_by(|(a, one), (b, other)| (b / other.cost).total_cmp(&(a / one.cost)));
        for (_, Step { list, cost, column }) in gains {
            let part = (room[*list] / cost).min(1.0);
            room[*list] -= part * cost;
            towards.iter_mut().zip(column).for_each(|(sum, change)| *sum += part * change);
        }
        let direction: Vec<f64> =
            towards.iter().zip(rest).zip(&left).map(|((towards, rest), left)| towards - (rest - left)).collect();
        let gain = dot(&left, &direction);
        bound = bound.max(dot(&left, &left) - 2.0 * gain);
        let length = (gain / dot(&direction, &direction)).clamp(0.0, 1.0);
        left.iter_mut().zip(&direction).for_each(|(left, change)| *left -= length * change);
    }
    bound
}

#[test]
fn least_squares_take_what_there_is_room_for() {
    let step = |list, cost, column: [f64; 2]| Step { list, cost, column: column.to_vec() };
    let steps = [step(0, 4.0, [2.0, 0.0]), step(1, FREE, [0.0, 3.0])];
    for (room, left) in [([0.0, 0.0], 10.0), ([0.0, 1.0], 1.0), ([1.0, 1.0], 0.25), ([9.0, 1.0], 0.0)] {
        let bound = least_squares(&[1.0, 3.0], &steps, room);
        assert!((bound - left).abs() < 1e-3, "{room:?}: {bound}");
    }
}

/// The MLP row of a layer whose gate and up projections are of fewer bits, over the most allowed: at least what is left
/// where gate and up are nudged over the middles, and roundings of them and of silu named, so that the reference comes
/// nearest to the committed row.
fn branch(bits: i32, share: f64, is_nudged: bool) -> f64 {
    const FFN: usize = 1024;
    const HIDDEN: usize = 256;
    let mut random = Random(9);
    let [gate, up] = [0, 1].map(|_| Products::new(&mut random, HIDDEN, FFN, bits));
    let active = |gate: f64, up: f64| PROFILE.round_once(PROFILE.round_once(silu(gate)) * up);
    let down: Vec<Vec<f64>> = (0..HIDDEN).map(|_| random.row(FFN, 1.0 / 32.0)).collect();
    let rows = |active: &[f64]| -> Vec<f64> { down.iter().map(|weights| dot(weights, active)).collect() };
    let round = |row: Vec<f64>| -> Vec<f64> { row.into_iter().map(|y| PROFILE.round_once(y)).collect() };
    let [wrong_gate, wrong_up] = [&gate, &up].map(|products| round(products.off_by(share)));
    let wrong: Vec<f64> = wrong_gate.iter().zip(&wrong_up).map(|(gate, up)| active(*gate, *up)).collect();
    let committed = round(rows(&wrong));
    let tau = TOLERANCE.of_row(&committed, median_magnitude(&committed));
    let [gates, ups] = [&gate, &up].map(|products| round(products.claimed.clone()));
    let plain: Vec<f64> = gates.iter().zip(&ups).map(|(gate, up)| active(*gate, *up)).collect();
    let rest: Vec<f64> =
        committed.iter().zip(rows(&plain)).zip(&tau).map(|((committed, y), tau)| (committed - y) / tau).collect();
    if !is_nudged {
        return dot(&rest, &rest) / real_count(HIDDEN) / TOLERANCE.theta_products;
    }
    let (mut steps, mut room) = (vec![], [0.0; 2]);
    let mut push = |list: usize, place: usize, cost: f64, moved: f64| {
        let column = down.iter().zip(&tau).map(|(weights, tau)| weights[place] * (moved - plain[place]) / tau);
        steps.push(Step { list, cost, column: column.collect() });
    };
    for (list, products) in [&gate, &up].into_iter().enumerate() {
        let integers = products.integers();
        let supplied = Supplied::compress(&integers);
        room[list] = budget(&supplied) - spent(&integers, &supplied);
        for Move { place, taken, cost, .. } in moves(&integers, &supplied) {
            let moved = if list == 0 { active(taken, ups[place]) } else { active(gates[place], taken) };
            push(list, place, cost, moved);
        }
    }
    for (place, (gate, up)) in gates.iter().zip(&ups).enumerate() {
        if let Some(other) = silu_doubt(PROFILE, *gate).other() {
            push(0, place, FREE, PROFILE.round_once(other * up));
        }
    }
    least_squares(&rest, &steps, room) / real_count(HIDDEN) / TOLERANCE.theta_products
}

#[test]
fn nudging_gate_and_up_hides_little() {
    assert_hides_little("an MLP row", 0.9, branch);
}

/// The worst head of a group whose query projection is of fewer bits: queries nudged over the middles that bring that
/// head nearest to what was committed, one by one, until none does or the sketch lets no more be off.
fn queries(bits: i32, share: f64, is_nudged: bool) -> f64 {
    const HEAD_DIM: usize = 128;
    let mut random = Random(11);
    let products = Products::new(&mut random, 1024, 4 * HEAD_DIM, bits);
    let [keys, values] = [2.0, 1.0].map(|scale| (0..48).map(|_| random.row(HEAD_DIM, scale)).collect::<Vec<_>>());
    let keys: Vec<&[f64]> = keys.iter().map(Vec::as_slice).collect();
    let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    let round = |row: &[f64]| -> Vec<f64> { row.iter().map(|y| PROFILE.round_once(*y)).collect() };
    let channels = channels(&values);
    let committed: Vec<Vec<f64>> = products
        .off_by(share)
        .chunks(HEAD_DIM)
        .map(|query| round(&attention(&round(query), &keys, &values, &TOLERANCE).output))
        .collect();
    let ratio = |head: usize, query: &[f64]| {
        let attended = attention(query, &keys, &values, &TOLERANCE);
        let tau = TOLERANCE.of_head(&committed[head], &attended, &channels);
        deviation(&committed[head], &attended.output, &tau).0 / TOLERANCE.theta_attention
    };
    let mut taken = round(&products.claimed);
    let of = |taken: &[f64], head: usize| ratio(head, &taken[head * HEAD_DIM..(head + 1) * HEAD_DIM]);
    let mut ratios: Vec<f64> = (0..4).map(|head| of(&taken, head)).collect();
    let worst = |ratios: &[f64]| (0..4).max_by(|a, b| ratios[*a].total_cmp(&ratios[*b])).unwrap();
    if is_nudged {
        let integers = products.integers();
        let supplied = Supplied::compress(&integers);
        let mut room = budget(&supplied) - spent(&integers, &supplied);
        let mut moves = moves(&integers, &supplied);
        loop {
            let head = worst(&ratios);
            moves.retain(|entry| entry.cost <= room);
            let moved = |entry: &Move| {
                let mut taken = taken.clone();
                taken[entry.place] = entry.taken;
                of(&taken, head)
            };
            let tried = moves.iter().filter(|entry| entry.place / HEAD_DIM == head).map(|entry| (*entry, moved(entry)));
            let gain = |(entry, after): &(Move, f64)| (ratios[head] - after) / entry.cost;
            let Some(best) = tried.max_by(|a, b| gain(a).total_cmp(&gain(b))).filter(|best| gain(best) > 0.0) else {
                break;
            };
            let (entry, after) = best;
            room -= entry.cost;
            taken[entry.place] = entry.taken;
            ratios[head] = after;
            moves.retain(|other| other.place != entry.place);
        }
    }
    ratios[worst(&ratios)]
}

#[test]
fn nudging_queries_hides_little() {
    assert_hides_little("the queries of a group", 0.8, queries);
}

/// Sent logits as the verifier judges them, by the signs drawn: each reason, or none where it accepts.
fn judged(exact: &[i64], sent: &Supplied, pick: Pick<'_>) -> Vec<Option<Reason>> {
    let scores = Scores::new(sent, EXPONENT, &pick);
    let singles: Vec<usize> = scores.candidates.clone();
    assert!(sent.is_canonical_logits() && singles.is_sorted());
    let head = HeadProduct { input: FixedRow::new(&[1.0]).unwrap(), target: scores.target() };
    let decode = CheckedDecode { head, scores, pick };
    let of = |seed: u8| {
        let signs = Signs::draw(&[seed; 32], 0, SIGNS_WITH_NONCE, exact.len());
        let claims = decode.head.target.claims(&signs, exact);
        judge_decode(pick.position, &decode, &signs, &claims).failure.map(|failure| failure.reason)
    };
    (0..64).map(of).collect()
}

fn logit_slack(z: f64) -> f64 {
    TOLERANCE.logit_rel * z.abs() + TOLERANCE.logit_abs
}

/// Tokens of a vocabulary.
const VOCABULARY: usize = 4096;

fn on_grid(logits: &[f64]) -> Vec<i64> {
    logits.iter().map(|z| nearest_integer(z * power_of_two(-EXPONENT)).unwrap()).collect()
}

/// Where `rivals` tokens should have been picked rather than the one that was, each of them just beyond tolerance.
struct Rivals {
    exact: Vec<i64>,
    honest: Supplied,
    places: std::ops::Range<usize>,
    pick: Pick<'static>,
}

impl Rivals {
    fn new(rivals: usize, width: Width) -> Self {
        const LEVEL: f64 = 8.0;
        let mut logits = Random(13).row(VOCABULARY, 1.0);
        // As many as are always candidates lie above whatever is hidden.
        logits[..64].fill(LEVEL);
        let beyond = (LEVEL + logit_slack(LEVEL) + TOLERANCE.logit_abs) / (1.0 - TOLERANCE.logit_rel) + 1e-6;
        let places = 100..100 + rivals;
        logits[places.clone()].fill(beyond);
        let exact = on_grid(&logits);
        let (sampling, position, token) = (&Sampling::GREEDY, Position::new(3), TokenId::new(0));
        let pick = Pick { tolerance: TOLERANCE, sampling, position, token };
        Self { honest: Supplied::with_width(&exact, width), exact, places, pick }
    }

    /// Logits with the rivals lowered by so many steps. They are alike, so that the least norm has them lowered alike.
    fn lowered(&self, by: i64) -> Supplied {
        let mut sent = self.honest.clone();
        sent.values[self.places.clone()].iter_mut().for_each(|value| *value -= by);
        sent
    }

    /// The fewest steps that leave no rival a candidate.
    fn hidden(&self) -> i64 {
        let is_hidden = |by: i64| {
            let candidates = Scores::new(&self.lowered(by), EXPONENT, &self.pick).candidates;
            self.places.clone().all(|place| candidates.binary_search(&place).is_err())
        };
        let (mut low, mut high) = (0, self.honest.values[0]);
        while high - low > 1 {
            let middle = i64::midpoint(low, high);
            if is_hidden(middle) { high = middle } else { low = middle }
        }
        high
    }

    /// The most steps that the sketch bears.
    fn borne(&self) -> i64 {
        let room = budget(&self.honest) - spent(&self.exact, &self.honest);
        nearest_integer((room / real_count(self.places.len())).sqrt() - 0.5).unwrap()
    }
}

/// A pick that others beat is not passed off by sending their logits too low: each that is to be no candidate costs
/// sixteen thresholds, and those that are candidates are proven as they are.
#[test]
fn logits_nudged_to_hide_who_should_have_been_picked_are_rejected() {
    for (width, rivals) in Width::ALL.into_iter().flat_map(|width| [1, 2, 4, 8].map(|rivals| (width, rivals))) {
        let case = Rivals::new(rivals, width);
        let judged = |by: i64| judged(&case.exact, &case.lowered(by), case.pick);
        let sent = case.lowered(case.hidden());
        let each = Scores::new(&sent, EXPONENT, &case.pick).target().exact_ratio(&case.exact) / real_count(rivals);
        println!("{width:?}, {rivals} rivals: hidden at {each:.1} thresholds each");
        assert!(each >= 16.0 && (width > Width::Two || each < 17.0));
        assert!(judged(0).iter().all(|reason| *reason == Some(Reason::WrongToken)));
        assert!(judged(case.hidden()).iter().all(|reason| *reason == Some(Reason::Logits)));
        let borne = judged(case.borne());
        assert!(borne.contains(&Some(Reason::Candidate)));
        assert!(borne.iter().all(|reason| matches!(reason, Some(Reason::Candidate | Reason::Logits))));
    }
    assert_stated("that costs 16 thresholds of the sketch for each of them (`logits`)");
}

/// The lowest rank that passes under top-k 100, with logits sent honestly, or with those above it lowered in least squares
/// until it may be allowed. The token wins by its noise.
fn lowest_rank(width: Width, is_nudged: bool) -> usize {
    const ALLOWED: usize = 100;
    let sampling = Sampling { temperature: 1e6, top_k: 100, top_p: 1.0, seed: 3 };
    let position = Position::new(3);
    let noise = gumbel_noise(sampling.seed, position, VOCABULARY);
    let served = (0..VOCABULARY).max_by(|a, b| noise[*a].total_cmp(&noise[*b])).unwrap();
    let token = TokenId::new(u32::try_from(served).unwrap());
    let pick = Pick { tolerance: TOLERANCE, sampling: &sampling, position, token };
    let passes = |rank: &usize| {
        let mut logits = Random(17).row(VOCABULARY, 2.0);
        let mut order: Vec<usize> = (0..VOCABULARY).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        logits.swap(served, order[*rank - 1]);
        let exact = on_grid(&logits);
        let mut sent = Supplied::with_width(&exact, width);
        if is_nudged {
            let step = sent.step() * power_of_two(EXPONENT);
            let candidates = Scores::new(&sent, EXPONENT, &pick).candidates;
            let is_exact = |place: usize| candidates.binary_search(&place).is_ok();
            // By how much a token surely lies above the served one: four times the budget is what one may be off by.
            let excess = |place: usize| {
                let (z, reach) = (real(sent.values[place]) * step, (4.0 * budget(&sent)).sqrt() * step);
                let low = z - logit_slack(z) - if is_exact(place) { 0.0 } else { reach };
                low - logits[served] - logit_slack(logits[served])
            };
            let others = (0..VOCABULARY).filter(|place| *place != served);
            let mut above: Vec<(f64, usize)> = others.map(|place| (excess(place), place)).collect();
            above.retain(|(excess, _)| *excess > 0.0);
            above.sort_by(|a, b| a.0.total_cmp(&b.0));
            // Of the least norm is to lower those that have least to go.
            let many = (above.len() + 1).saturating_sub(ALLOWED);
            for (excess, place) in above.into_iter().filter(|(_, place)| !is_exact(*place)).take(many) {
                sent.values[place] -= nearest_integer(excess / step + 1.0).unwrap();
            }
        }
        judged(&exact, &sent, pick).contains(&None)
    };
    (ALLOWED..=VOCABULARY).take_while(passes).last().unwrap()
}

#[test]
fn logits_nudged_to_allow_more_tokens_gain_a_few_ranks() {
    let ranks = |width| [false, true].map(|is_nudged| lowest_rank(width, is_nudged));
    let [plain, nudged] = ranks(Width::Two);
    assert_eq!(ranks(Width::Three), [100, 100]);
    assert_stated(&format!(
        "one of rank {plain} passes where logits of two bytes are sent, of rank {nudged} where they are nudged too, and of \
         three bytes none beyond 100"
    ));
}

/// How far a head's output is from what the cache gives, in units of the threshold.
fn head_ratio(tolerance: &Tolerance, query: &[f64], [keys, values]: [&[Vec<f64>]; 2], output: &[f64]) -> f64 {
    let [keys, values] = [keys, values].map(|rows| rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let attended = attention(query, &keys, &values, tolerance);
    let tau = tolerance.of_head(output, &attended, &channels(&values));
    deviation(output, &attended.output, &tau).0 / tolerance.theta_attention
}

/// Two rows of a cache, broken where they were committed, that draw all attention and cancel: they give whoever attends
/// to them no room.
#[test]
fn values_that_cancel_hide_no_other_output() {
    const HEAD_DIM: usize = 128;
    for profile in [Profile::Bf16V1, Profile::F32V1] {
        let (tolerance, mut random) = (Tolerance::of(profile), Random(5));
        let mut rows = |scale: f64| (0..200).map(|_| random.row(HEAD_DIM, scale)).collect::<Vec<_>>();
        let ([mut keys, honest], query) = ([rows(1.0), rows(1.0)], rows(1.0).remove(0));
        let other = rows(1.0).remove(0);
        for size in [1e2, 1e4, 1e8] {
            // In all channels alike, and in half of them.
            for opposed in [HEAD_DIM, HEAD_DIM / 2] {
                let mut values = honest.clone();
                for (position, sign) in [(3, 1.0), (4, -1.0)] {
                    keys[position] = query.iter().map(|q| 4.0 * q).collect();
                    values[position][..opposed].fill(sign * size);
                }
                let ratio = head_ratio(&tolerance, &query, [&keys, &values], &other);
                assert!(ratio > 100.0, "{} {size:e} {opposed}: {ratio}", profile.name());
            }
        }
    }
}

/// Nor does a long key to which nobody attends.
#[test]
fn a_key_that_is_not_attended_to_hides_no_other_output() {
    const HEAD_DIM: usize = 128;
    let (tolerance, mut random) = (Tolerance::of(Profile::F32V1), Random(6));
    let mut rows = || (0..200).map(|_| random.row(HEAD_DIM, 1.0)).collect::<Vec<_>>();
    let ([mut keys, values], query) = ([rows(), rows()], rows().remove(0));
    keys[3] = query.iter().map(|q| -1e12 * q).collect();
    let [all_keys, all_values] = [&keys, &values].map(|rows| rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let honest = attention(&query, &all_keys, &all_values, &tolerance).output;
    assert!(head_ratio(&tolerance, &query, [&keys, &values], &honest) < 1e-9);
    let off: Vec<f64> = honest.iter().map(|y| y * 1.01).collect();
    let ratio = head_ratio(&tolerance, &query, [&keys, &values], &off);
    assert!(ratio > 100.0, "{ratio}");
}

/// What honest runtimes do at worst: probabilities of bf16 before the sum that divides them, over caches of any length,
/// of values with and without something in common, and with channels that tower over the rest.
#[test]
fn heads_of_rounded_probabilities_are_within_the_threshold() {
    let mut random = Random(7);
    let mut largest = 0.0_f64;
    for head_dim in [64, 128] {
        for length in [1, 2, 3, 4, 8, 60, 500] {
            for (sharp, common, towering) in
                [(0.1, 0.0, 0), (1.0, 0.0, 0), (4.0, 0.0, 0), (1.0, 1.0, 0), (1.0, 0.0, 2), (4.0, 0.5, 1)]
            {
                for _ in 0..8 {
                    let query = random.row(head_dim, sharp);
                    let keys: Vec<Vec<f64>> = (0..length).map(|_| random.row(head_dim, 1.0)).collect();
                    let shared = random.row(head_dim, common);
                    let values: Vec<Vec<f64>> = (0..length)
                        .map(|_| {
                            let mut row = random.row(head_dim, 1.0);
                            row.iter_mut().zip(&shared).for_each(|(v, shared)| *v += shared);
                            row[..towering].iter_mut().for_each(|v| *v *= 300.0);
                            row.iter().map(|v| PROFILE.round_once(*v)).collect()
                        })
                        .collect();
                    let scale = 1.0 / real_count(head_dim).sqrt();
                    let scores: Vec<f64> = keys.iter().map(|key| dot(&query, key) * scale).collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| libm::exp(score - top)).collect();
                    let total: f64 = weights.iter().sum();
                    let rounded: Vec<f64> = weights.iter().map(|weight| PROFILE.round_once(*weight)).collect();
                    let output: Vec<f64> = (0..head_dim)
                        .map(|j| rounded.iter().zip(&values).map(|(weight, row)| weight * row[j]).sum::<f64>() / total)
                        .map(|y| PROFILE.round_once(y))
                        .collect();
                    let ratio = head_ratio(&TOLERANCE, &query, [&keys, &values], &output);
                    largest = largest.max(ratio);
                    assert!(ratio < 0.4, "{head_dim} {length} {sharp} {common} {towering}: {ratio}");
                }
            }
        }
    }
    println!("the largest: {largest:.3} thresholds");
}

/// The chance, in bits, that a chi-square sum of so many signs stays below `1 / ratio` of its mean: a sketch of an
/// error spread over many outputs.
fn spread_bits(signs: usize, ratio: f64) -> f64 {
    let (a, x) = (real_count(signs) / 2.0, real_count(signs) / ratio / 2.0);
    let (mut sum, mut term, mut k) = (0.0, 1.0 / a, a);
    while term > 1e-18 * sum {
        sum += term;
        k += 1.0;
        term *= x / k;
    }
    (a * libm::log(x) - x - libm::lgamma(a) + libm::log(sum)) / std::f64::consts::LN_2
}

/// The same for an error on two outputs alike, which a sign sees twofold or not at all.
fn paired_bits(signs: usize, ratio: f64) -> f64 {
    let most = real_count(signs) / ratio / 2.0;
    let (mut sum, mut term, mut k) = (0.0, 1.0, 0.0);
    while k <= most {
        sum += term;
        term *= (real_count(signs) - k) / (k + 1.0);
        k += 1.0;
    }
    libm::log2(sum) - real_count(signs)
}

/// The share of draws that let an error of `ratio` times the threshold pass.
fn searched(signs: usize, ratio: f64, entries: usize, tries: u32) -> f64 {
    const OUTPUTS: usize = 64;
    const SHIFT: u32 = 24;
    let supplied = Supplied::forged(SHIFT, (1..=64).map(|j| j * 1_000).collect());
    let target = Target::supplied(&supplied);
    let squares = ratio * budget(&supplied) * supplied.step() * supplied.step();
    // Just inside: the chance of a pair jumps at its bound.
    let each = nearest_integer((squares / real_count(entries)).sqrt()).unwrap() - 1;
    let mut products: Vec<i64> = supplied.on_product_grid().collect();
    products.iter_mut().take(entries).for_each(|product| *product += each);
    let passed = (0..tries).filter(|number| {
        // What is nudged gives another seed.
        let seed = *blake3::hash(&number.to_le_bytes()).as_bytes();
        let drawn = Signs::draw(&seed, 0, signs, OUTPUTS);
        target.check(&drawn, &target.claims(&drawn, &products)).within
    });
    f64::from(u32::try_from(passed.count()).unwrap()) / f64::from(tries)
}

/// Signs redrawn offline pass an error as often as the formula says, on sketches small enough to see it.
#[test]
fn searching_for_signs_pays_as_often_as_the_bound_says() {
    const TRIES: u32 = 1 << 16;
    for (signs, ratio) in [(8, 2.0), (8, 4.0), (16, 2.0), (16, 4.0), (32, 2.0)] {
        for (entries, bits) in [(64, spread_bits(signs, ratio)), (2, paired_bits(signs, ratio))] {
            let (expected, measured) = (libm::exp2(bits), searched(signs, ratio, entries, TRIES));
            println!("{signs} signs, {ratio} thresholds, {entries} outputs: {measured:.5}, {expected:.5} expected");
            let noise = 5.0 * (expected / f64::from(TRIES)).sqrt();
            // Signs are a little tamer than normal numbers.
            assert!(measured <= 1.05 * expected + noise && measured >= 0.75 * expected - noise);
        }
    }
    assert_eq!(searched(SIGNS_WITH_NONCE, 4.0, 64, 1 << 12), 0.0);
}

/// What the documents say of 128 and 256 signs, by the larger of the two chances.
#[test]
fn the_bits_of_a_sketch_are_those_stated() {
    let bits = |signs, ratio| spread_bits(signs, ratio).max(paired_bits(signs, ratio));
    for (ratio, stated) in [(2.0, -21.0), (2.8, -38.0), (3.0, -43.0), (4.0, -61.0), (10.0, -95.0)] {
        println!("{ratio} thresholds: {:.1} bits of 128 signs", bits(SIGNS_WITH_NONCE, ratio));
        assert!(bits(SIGNS_WITH_NONCE, ratio) <= stated, "{ratio}");
    }
    for ratio in [2.0, 2.8, 3.0, 4.0, 10.0] {
        let [with_nonce, complete] = [SIGNS_WITH_NONCE, SIGNS_COMPLETE].map(|signs| bits(signs, ratio));
        let passing = libm::exp2(with_nonce + 40.0);
        let after = match 1.0 - libm::exp(-passing) {
            chance if chance > 0.99 => "certain".to_owned(),
            chance if chance > 0.5 => {
                assert!((chance - 0.75).abs() < 0.05);
                "about 3/4".to_owned()
            }
            _ => format!("2^{:.1}", with_nonce + 40.0),
        };
        assert_stated(&format!("| {ratio} | 2^{with_nonce:.1} | {after} | 2^{complete:.1} |"));
    }
    assert!(bits(SIGNS_COMPLETE, 3.0) <= -84.0 && bits(SIGNS_COMPLETE, 4.0) <= -120.0);
    println!("{:.1}, {:.1} bits of 256 signs", bits(SIGNS_COMPLETE, 3.0), bits(SIGNS_COMPLETE, 4.0));
}
