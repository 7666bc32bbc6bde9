//! Forgers that know the challenge: what they can still choose, optimised. Supplied products may be nudged within
//! their rounding and roundings in doubt be named; and whatever is nudged draws the signs anew.

use std::borrow::Cow;

use assay_commitments::rows::Profile;

use crate::fixed::Supplied;
use crate::num::{nearest_integer, power_of_two, real, real_count};
use crate::reference::{attention, dot, silu};
use crate::rounding::Rounded;
use crate::sketch::{SIGNS_COMPLETE, SIGNS_WITH_NONCE, Signs, Target};
use crate::tolerance::{Tolerance, channels, deviation, median_magnitude, theta_supplied};

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

/// A supplied product that may be moved over a middle between two bf16 numbers, and at what cost.
#[derive(Clone, Copy)]
struct Move {
    place: usize,
    /// The value on the far side of the middle.
    value: i64,
    /// What the reference takes in place of the nearest number.
    taken: f64,
    /// The square of how far the product is then off, in steps.
    cost: f64,
}

/// Every move of a product by at most sixty steps, which is far more than the sketch lets one be off.
fn moves(products: &[i64], supplied: &Supplied) -> Vec<Move> {
    let unit = power_of_two(EXPONENT);
    let (step, shift) = (supplied.step(), supplied.shift);
    let mut found = vec![];
    for (place, (product, value)) in products.iter().zip(&supplied.values).enumerate() {
        let taken = |value: i64| PROFILE.round_once(real(value << shift) * unit);
        for direction in [-1, 1] {
            let far = (1..=60).map(|steps| value + direction * steps).find(|far| taken(*far) != taken(*value));
            if let Some(far) = far {
                let off = real((far << shift) - product) / step;
                found.push(Move { place, value: far, taken: taken(far), cost: off * off });
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

/// The keys' mean square deviation over the most allowed, honestly supplied and nudged as well as can be.
fn keys(products: &Products, share: f64) -> (f64, f64) {
    let committed: Vec<f64> = products.off_by(share).into_iter().map(|y| PROFILE.round_once(y)).collect();
    let tau = TOLERANCE.of_row(&committed, median_magnitude(&committed));
    let integers = products.integers();
    let mut supplied = Supplied::compress(&integers);
    let doubts = Rounded::new(PROFILE, &supplied, EXPONENT, Cow::Borrowed(&[])).doubts();
    let mut taken: Vec<f64> = doubts.iter().map(|doubt| doubt.nearest()).collect();
    let plain = deviation(&committed, &taken, &tau).0;
    let square = |place: usize, taken: f64| {
        let off = (committed[place] - taken) / tau[place];
        off * off
    };
    let gain = |entry: &Move| square(entry.place, doubts[entry.place].nearest()) - square(entry.place, entry.taken);
    // Roundings in doubt can be named at no cost, 64 of them.
    let mut named: Vec<(usize, f64)> =
        doubts.iter().enumerate().filter_map(|(place, doubt)| Some((place, doubt.other()?))).collect();
    let worth = |(place, other): &(usize, f64)| square(*place, doubts[*place].nearest()) - square(*place, *other);
    named.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
    for (place, other) in named.into_iter().filter(|entry| worth(entry) > 0.0).take(64) {
        taken[place] = other;
    }
    let mut room = budget(&supplied) - spent(&integers, &supplied);
    let mut moves = moves(&integers, &supplied);
    moves.retain(|entry| gain(entry) > 0.0 && taken[entry.place] == doubts[entry.place].nearest());
    moves.sort_by(|a, b| (gain(b) / b.cost).total_cmp(&(gain(a) / a.cost)));
    for entry in moves {
        if entry.cost <= room {
            room -= entry.cost;
            supplied.values[entry.place] = entry.value;
            taken[entry.place] = entry.taken;
        }
    }
    assert!(supplied.is_canonical_product() && is_accepted(&integers, &supplied));
    (plain / TOLERANCE.theta_keys, deviation(&committed, &taken, &tau).0 / TOLERANCE.theta_keys)
}

/// The largest share at which `ratio` holds.
fn largest(ratio: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 4.0);
    for _ in 0..12 {
        let middle = f64::midpoint(low, high);
        if ratio(middle) <= 1.0 { low = middle } else { high = middle }
    }
    low
}

/// At the width of an 8B model: all that may be nudged once the challenge is known takes keys of int8 or int4 weights
/// no farther than a twentieth beyond what passes by itself, which is a fraction of what those weights are off by.
#[test]
fn nudging_supplied_keys_hides_next_to_nothing() {
    for (bits, most) in [(8, 0.7), (4, 0.05)] {
        let products = Products::new(&mut Random(7), 4096, 1024, bits);
        let (all, nudged_all) = keys(&products, 1.0);
        let plain = largest(|share| keys(&products, share).0);
        let nudged = largest(|share| keys(&products, share).1);
        println!("int{bits}: all of it {all:.2}, nudged {nudged_all:.2}; passes up to {plain:.4}, nudged {nudged:.4}");
        assert!(nudged_all > 1.0 && nudged < most && nudged <= 1.05 * plain, "{bits}");
    }
}

/// The MLP row of a layer whose down projection, or gate and up, are of fewer bits: gate and up nudged over the
/// middles that bring the reference nearest to the committed row, by matching pursuit.
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
    let mut rest: Vec<f64> =
        committed.iter().zip(rows(&plain)).zip(&tau).map(|((committed, y), tau)| (committed - y) / tau).collect();
    if is_nudged {
        let mut taken = std::collections::BTreeSet::new();
        for (products, is_gate) in [(&gate, true), (&up, false)] {
            let integers = products.integers();
            let supplied = Supplied::compress(&integers);
            let mut room = budget(&supplied) - spent(&integers, &supplied);
            let column = |entry: &Move| -> Vec<f64> {
                let j = entry.place;
                let moved = if is_gate { active(entry.taken, ups[j]) } else { active(gates[j], entry.taken) };
                down.iter().zip(&tau).map(|(weights, tau)| weights[j] * (moved - plain[j]) / tau).collect()
            };
            let mut moves: Vec<(Move, Vec<f64>)> =
                moves(&integers, &supplied).into_iter().map(|entry| (entry, column(&entry))).collect();
            loop {
                let gain = |column: &[f64]| 2.0 * dot(&rest, column) - dot(column, column);
                moves.retain(|(entry, column)| {
                    entry.cost <= room && gain(column) > 0.0 && !taken.contains(&entry.place)
                });
                let best = moves.iter().max_by(|a, b| (gain(&a.1) / a.0.cost).total_cmp(&(gain(&b.1) / b.0.cost)));
                let Some((entry, column)) = best else { break };
                rest.iter_mut().zip(column).for_each(|(rest, moved)| *rest -= moved);
                room -= entry.cost;
                taken.insert(entry.place);
            }
        }
    }
    dot(&rest, &rest) / real_count(HIDDEN) / TOLERANCE.theta_products
}

#[test]
fn nudging_gate_and_up_hides_little() {
    for (bits, most) in [(8, 0.7), (4, 0.05)] {
        let all = branch(bits, 1.0, true);
        let plain = largest(|share| branch(bits, share, false));
        let nudged = largest(|share| branch(bits, share, true));
        println!("int{bits}: all of it, nudged {all:.2}; passes up to {plain:.4}, nudged {nudged:.4}");
        assert!(all > 1.0 && nudged < most && nudged <= 1.25 * plain, "{bits}");
    }
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
        let tau = TOLERANCE.of_head(&committed[head], &attended.moved, &channels);
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
    for (bits, most) in [(8, 0.9), (4, 0.1)] {
        let all = queries(bits, 1.0, true);
        let plain = largest(|share| queries(bits, share, false));
        let nudged = largest(|share| queries(bits, share, true));
        println!("int{bits}: all of it, nudged {all:.2}; passes up to {plain:.4}, nudged {nudged:.4}");
        assert!(all > 1.0 && nudged < most && nudged <= 1.25 * plain, "{bits}");
    }
}

/// How far a head's output is from what the cache gives, in units of the threshold.
fn head_ratio(tolerance: &Tolerance, query: &[f64], [keys, values]: [&[Vec<f64>]; 2], output: &[f64]) -> f64 {
    let [keys, values] = [keys, values].map(|rows| rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let attended = attention(query, &keys, &values, tolerance);
    let tau = tolerance.of_head(output, &attended.moved, &channels(&values));
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
        let ([mut keys, mut values], query) = ([rows(1.0), rows(1.0)], rows(1.0).remove(0));
        let other = rows(1.0).remove(0);
        for size in [1e2, 1e4, 1e8] {
            // In all channels alike, and in half of them.
            for opposed in [HEAD_DIM, HEAD_DIM / 2] {
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
                    assert!(ratio < 1.0, "{head_dim} {length} {sharp} {common} {towering}: {ratio}");
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
    assert!(bits(SIGNS_COMPLETE, 3.0) <= -84.0 && bits(SIGNS_COMPLETE, 4.0) <= -120.0);
    println!("{:.1}, {:.1} bits of 256 signs", bits(SIGNS_COMPLETE, 3.0), bits(SIGNS_COMPLETE, 4.0));
}
