//! Integers modulo `p = 2^64 - 2^32 + 1`, and polynomials over them modulo `X^3 - 7`.

/// The modulus.
pub(crate) const P: u64 = 18_446_744_069_414_584_321;

/// `c0 + c1 X + c2 X^2`, each coordinate below [`P`].
pub(crate) type E = [u64; 3];

pub(crate) const ZERO: E = [0; 3];
pub(crate) const ONE: E = [1, 0, 0];

/// An index as a number and a number as an index: both have 64 bits.
pub(crate) fn number(index: usize) -> u64 {
    u64::try_from(index).expect("an index has at most 64 bits")
}

pub(crate) fn index(number: u64) -> usize {
    usize::try_from(number).expect("an index has 64 bits")
}

fn reduce(value: u128) -> u64 {
    u64::try_from(value % u128::from(P)).expect("a residue is below p")
}

pub(crate) fn f_from_i64(value: i64) -> u64 {
    u64::try_from(i128::from(value).rem_euclid(i128::from(P))).expect("a residue is below p")
}

pub(crate) fn f_add(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) + u128::from(b))
}

pub(crate) fn f_sub(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) + u128::from(P) - u128::from(b))
}

pub(crate) fn f_mul(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

pub(crate) fn f_pow(a: u64, exponent: u64) -> u64 {
    match exponent {
        0 => 1,
        _ if exponent % 2 == 1 => f_mul(a, f_pow(a, exponent - 1)),
        _ => f_pow(f_mul(a, a), exponent / 2),
    }
}

pub(crate) fn e_from_f(value: u64) -> E {
    [value, 0, 0]
}

pub(crate) fn e_add(a: E, b: E) -> E {
    std::array::from_fn(|i| f_add(a[i], b[i]))
}

pub(crate) fn e_sub(a: E, b: E) -> E {
    std::array::from_fn(|i| f_sub(a[i], b[i]))
}

/// The product of polynomials, with 7 for every `X^3`.
pub(crate) fn e_mul(a: E, b: E) -> E {
    let mut product = ZERO;
    for (i, &x) in a.iter().enumerate() {
        for (j, &y) in b.iter().enumerate() {
            let term = if i + j < 3 { f_mul(x, y) } else { f_mul(7, f_mul(x, y)) };
            product[(i + j) % 3] = f_add(product[(i + j) % 3], term);
        }
    }
    product
}

/// A multiple by an integer modulo [`P`].
pub(crate) fn e_scale(a: E, factor: u64) -> E {
    a.map(|coordinate| f_mul(coordinate, factor))
}

pub(crate) fn e_sum(terms: impl IntoIterator<Item = E>) -> E {
    terms.into_iter().fold(ZERO, e_add)
}

/// `1, x, x^2, ...`, so many of them.
pub(crate) fn powers(x: E, count: usize) -> Vec<E> {
    std::iter::successors(Some(ONE), |&power| Some(e_mul(power, x))).take(count).collect()
}

/// `sum_c coefficients[c] x^c` by Horner's rule.
pub(crate) fn horner(coefficients: &[E], x: E) -> E {
    coefficients.iter().rev().fold(ZERO, |sum, &coefficient| e_add(e_mul(sum, x), coefficient))
}

/// The same at a point of the base field.
pub(crate) fn horner_f(coefficients: &[E], x: u64) -> E {
    coefficients.iter().rev().fold(ZERO, |sum, &coefficient| e_add(e_scale(sum, x), coefficient))
}

/// The values of a multilinear polynomial with its lowest variable set to `r`.
pub(crate) fn fold(values: &[E], r: E) -> Vec<E> {
    values.chunks_exact(2).map(|pair| e_add(pair[0], e_mul(r, e_sub(pair[1], pair[0])))).collect()
}

/// The value at a point, the lowest variable first.
pub(crate) fn fold_all(values: &[E], point: &[E]) -> E {
    assert_eq!(values.len(), 1 << point.len(), "a coordinate for every variable");
    let mut values = values.to_vec();
    for &r in point {
        values = fold(&values, r);
    }
    values[0]
}

/// `prod_j` of `point_j` where bit `j` of `vertex` is set and `1 - point_j` where it is not.
pub(crate) fn eq(point: &[E], vertex: usize) -> E {
    let factor = |(j, &r): (usize, &E)| if vertex >> j & 1 == 1 { r } else { e_sub(ONE, r) };
    point.iter().enumerate().map(factor).fold(ONE, e_mul)
}

pub(crate) fn f_bytes(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(crate) fn e_bytes(values: &[E]) -> Vec<u8> {
    f_bytes(values.as_flattened())
}

/// The next three integers below [`P`] of a stream of 64-bit integers.
pub(crate) fn e_from_stream(mut next: impl FnMut() -> [u8; 8]) -> E {
    let mut drawn = Vec::new();
    while drawn.len() < 3 {
        let word = u64::from_le_bytes(next());
        if word < P {
            drawn.push(word);
        }
    }
    [drawn[0], drawn[1], drawn[2]]
}
