//! Merkle trees over hashed leaves.
//!
//! A tree has a power-of-two number of leaves, the last ones a fixed padding leaf, and is bound to
//! its *count* of real leaves: the root that anyone commits to is the hash of count and top node.
//! Nodes, padding and bound roots are BLAKE3 under different keys, so none passes for another; what
//! a leaf is the hash of, and that this names its kind and place, is the caller's business.
//!
//! Proofs have one form. Leaves are opened at a range, or at strictly increasing indices, below the
//! verifier's own count, and the number of hashes is exactly what the verifier's own walk needs.
//!
//! Trees are built and proofs checked by code of our own, in time linear in the opened leaves and
//! their paths. `rs_merkle`'s multi-proof takes time quadratic in the opened leaves (half a second for
//! 32768 of them, which whoever sends a proof may choose), its builder four times as long as a loop,
//! and on its own it accepts repeated indices, indices past the end, other counts, trailing hashes and
//! inner nodes as leaves. It remains the tests' second opinion.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic, clippy::expect_used)]

use rayon::prelude::*;
use thiserror::Error;

use crate::code::hashing::keyed_hashes;
use crate::domains;

/// A digest.
pub type Hash = [u8; 32];

/// Why an opening does not show its leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MerkleError {
    /// No leaf, a leaf at or past the count, or indices that do not increase.
    #[error("the opened indices are not increasing below the number of leaves")]
    Indices,
    /// Another number of hashes than the indices need.
    #[error("the opening has another number of hashes than it needs")]
    HashCount,
    /// The hashes lead to another root.
    #[error("the opened leaves do not belong to the root")]
    Root,
}

/// The parent of two nodes.
fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut children = [0; 64];
    let (first, second) = children.split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    blake3::keyed_hash(domains::MERKLE_NODE, &children).into()
}

/// The leaf that fills a tree up.
fn padding_leaf() -> Hash {
    blake3::keyed_hash(domains::MERKLE_PADDING, &[]).into()
}

/// The root that a commitment carries: count and top node.
fn bind(count: usize, root: &Hash) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(domains::MERKLE_ROOT);
    hasher.update(&(count as u64).to_le_bytes());
    hasher.update(root);
    hasher.finalize().into()
}

/// The number of levels above the leaves.
fn depth(count: usize) -> u32 {
    count.checked_next_power_of_two().map_or(usize::BITS, usize::ilog2)
}

/// A tree with all its levels.
#[derive(Clone, Debug)]
pub struct MerkleTree {
    count: usize,
    /// From the leaves, padded, to the single root.
    levels: Vec<Vec<Hash>>,
}

impl MerkleTree {
    /// Builds the tree over hashed leaves. Without any it has the padding leaf alone.
    pub fn from_leaf_hashes(mut leaves: Vec<Hash>) -> Self {
        let count = leaves.len();
        leaves.resize(count.next_power_of_two(), padding_leaf());
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            levels.push(parents(level));
        }
        Self { count, levels }
    }

    /// The number of real leaves.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The real leaves, in order.
    pub fn leaves(&self) -> &[Hash] {
        self.levels.first().and_then(|level| level.get(..self.count)).unwrap_or_default()
    }

    /// The top node.
    pub fn root(&self) -> Hash {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_else(padding_leaf)
    }

    /// The count and the top node in one hash: what is committed to.
    pub fn bound_root(&self) -> Hash {
        bind(self.count, &self.root())
    }

    /// The hashes that go with the leaves `start..end`: from the leaves up, on each level the left
    /// neighbour, then the right one, where there is need of it.
    ///
    /// A range that is empty or goes past the count has no opening; the answer is then empty and
    /// does not verify.
    pub fn open_range(&self, start: usize, end: usize) -> Vec<Hash> {
        let needed = range_siblings(self.count, start, end).unwrap_or_default();
        self.nodes(&needed)
    }

    /// The hashes that go with leaves at strictly increasing `indices` below the count: the
    /// siblings that are needed, level by level from the leaves up, from left to right.
    ///
    /// Other indices have no opening; the answer is then empty and does not verify.
    pub fn open_indices(&self, indices: &[usize]) -> Vec<Hash> {
        let needed = index_siblings(self.count, indices).unwrap_or_default();
        self.nodes(&needed)
    }

    fn nodes(&self, places: &[Place]) -> Vec<Hash> {
        places.iter().filter_map(|place| self.levels.get(place.level)?.get(place.index)).copied().collect()
    }
}

/// The next level.
fn parents(level: &[Hash]) -> Vec<Hash> {
    /// Below this many pairs, threads cost more than they save.
    const PARALLEL: usize = 1024;
    let pairs = level.as_chunks::<2>().0;
    let mut above = vec![Hash::default(); pairs.len()];
    let tasks = pairs.par_chunks(PARALLEL).zip(above.par_chunks_mut(PARALLEL));
    tasks.for_each(|(pairs, above)| write_parents(pairs, above));
    above
}

/// The parents of neighbours.
fn write_parents(pairs: &[[Hash; 2]], above: &mut [Hash]) {
    keyed_hashes(domains::MERKLE_NODE, pairs.as_flattened().as_flattened(), 64, above);
}

/// Writes the nodes above neighbouring ones, as many levels up as there is room for: the length of
/// `level` is a power of two times that of `nodes`.
pub(crate) fn reduce(level: &[Hash], nodes: &mut [Hash]) {
    let mut level = level.to_vec();
    while level.len() > nodes.len() {
        let mut above = vec![Hash::default(); level.len() >> 1];
        write_parents(level.as_chunks().0, &mut above);
        level = above;
    }
    nodes.copy_from_slice(&level);
}

/// A tree without its lowest levels, over a power-of-two number of leaves.
///
/// Whoever opens leaves brings all leaves of the subtrees that they are in: see
/// [`Self::open_indices`].
#[derive(Clone, Debug)]
pub struct MerkleTop {
    count: usize,
    dropped: u32,
    /// From the lowest that is kept to the single root.
    levels: Vec<Vec<Hash>>,
}

impl MerkleTop {
    /// The tree over `count` leaves, without its `dropped` lowest levels, from all nodes of any level up to that;
    /// `None` if these numbers do not fit.
    ///
    /// Only the root says whose tree it is: the caller compares it with one that is known.
    pub fn from_nodes(count: usize, dropped: u32, mut nodes: Vec<Hash>) -> Option<Self> {
        let dropped_to = count.checked_shr(dropped).filter(|&width| width > 0)?;
        if !count.is_power_of_two() || !nodes.len().is_power_of_two() || !(dropped_to..=count).contains(&nodes.len()) {
            return None;
        }
        while nodes.len() > dropped_to {
            nodes = parents(&nodes);
        }
        let mut levels = vec![nodes];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            levels.push(parents(level));
        }
        Some(Self { count, dropped, levels })
    }

    /// The number of leaves.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The number of levels that are not kept.
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// The nodes of the lowest level that is kept.
    pub fn nodes(&self) -> &[Hash] {
        self.levels.first().map(Vec::as_slice).unwrap_or_default()
    }

    /// The count and the top node in one hash: what is committed to.
    pub fn bound_root(&self) -> Hash {
        bind(self.count, &self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default())
    }

    /// The hashes that go with the leaves at `indices`: those of [`MerkleTree::open_indices`]. `subtrees` are
    /// the leaves below kept nodes, by index of the node in increasing order, for all nodes that are
    /// above an opened leaf.
    ///
    /// Without those, and for indices that have no opening, the answer does not verify.
    pub fn open_indices(&self, indices: &[usize], subtrees: &[(usize, Vec<Hash>)]) -> Vec<Hash> {
        let needed = index_siblings(self.count, indices).unwrap_or_default();
        let subtrees: Vec<(usize, MerkleTree)> =
            subtrees.iter().map(|(index, leaves)| (*index, MerkleTree::from_leaf_hashes(leaves.clone()))).collect();
        let dropped = self.dropped as usize;
        let node = |place: Place| -> Option<Hash> {
            if let Some(level) = place.level.checked_sub(dropped) {
                return self.levels.get(level)?.get(place.index).copied();
            }
            let height = dropped.checked_sub(place.level)?;
            let subtree = place.index >> height;
            let found = subtrees.binary_search_by_key(&subtree, |(index, _)| *index).ok()?;
            let first = subtree << height;
            subtrees.get(found)?.1.levels.get(place.level)?.get(place.index.checked_sub(first)?).copied()
        };
        needed.into_iter().filter_map(node).collect()
    }
}

/// A node of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    level: usize,
    index: usize,
}

/// The nodes beside the edges of the leaves `start..end`.
fn range_siblings(count: usize, start: usize, end: usize) -> Result<Vec<Place>, MerkleError> {
    if start >= end || end > count {
        return Err(MerkleError::Indices);
    }
    let mut places = Vec::new();
    let (mut first, mut last) = (start, end.saturating_sub(1));
    for level in 0..depth(count) as usize {
        if first & 1 == 1 {
            places.push(Place { level, index: first ^ 1 });
        }
        if last & 1 == 0 {
            places.push(Place { level, index: last ^ 1 });
        }
        first >>= 1;
        last >>= 1;
    }
    Ok(places)
}

/// The siblings of nodes at `indices` and above that are not themselves known.
fn index_siblings(count: usize, indices: &[usize]) -> Result<Vec<Place>, MerkleError> {
    let increasing = indices.iter().zip(indices.iter().skip(1)).all(|(left, right)| left < right);
    if !increasing || indices.last().is_none_or(|&last| last >= count) {
        return Err(MerkleError::Indices);
    }
    let mut places = Vec::new();
    let mut known = indices.to_vec();
    for level in 0..depth(count) as usize {
        let mut above = Vec::with_capacity(known.len());
        let mut rest = known.iter().copied().peekable();
        while let Some(index) = rest.next() {
            // The sibling of a left node, if known, is next in order; a right node whose sibling is
            // known was taken along with it, and no later index equals this one.
            if rest.next_if_eq(&(index | 1)).is_none() {
                places.push(Place { level, index: index ^ 1 });
            }
            above.push(index >> 1);
        }
        known = above;
    }
    Ok(places)
}

/// How many hashes open the leaves `start..end` of `count`; 0 for a range that is empty or goes past
/// the count, which no opening verifies for.
pub fn range_hash_count(count: usize, start: usize, end: usize) -> usize {
    range_siblings(count, start, end).map_or(0, |places| places.len())
}

/// How many hashes open leaves at `indices` of `count`; 0 for indices that are none, do not increase,
/// or reach the count, which no opening verifies for.
pub fn indices_hash_count(count: usize, indices: &[usize]) -> usize {
    index_siblings(count, indices).map_or(0, |places| places.len())
}

/// Checks that `leaves` stand from `start` on in the tree of `count` leaves under `bound_root`. Time
/// is linear in the opened leaves.
///
/// # Errors
/// [`MerkleError`].
pub fn verify_range(
    bound_root: &Hash,
    count: usize,
    start: usize,
    leaves: &[Hash],
    hashes: &[Hash],
) -> Result<(), MerkleError> {
    let end = start.checked_add(leaves.len()).ok_or(MerkleError::Indices)?;
    if range_siblings(count, start, end)?.len() != hashes.len() {
        return Err(MerkleError::HashCount);
    }
    let mut given = hashes.iter();
    let mut level = leaves.to_vec();
    let mut first = start;
    for _ in 0..depth(count) {
        if first & 1 == 1 {
            level.insert(0, *given.next().ok_or(MerkleError::HashCount)?);
        }
        if level.len() & 1 == 1 {
            level.push(*given.next().ok_or(MerkleError::HashCount)?);
        }
        level = parents(&level);
        first >>= 1;
    }
    match level.as_slice() {
        [root] if bind(count, root) == *bound_root => Ok(()),
        _ => Err(MerkleError::Root),
    }
}

/// Checks that `leaves`, by strictly increasing index, stand in the tree of `count` leaves under
/// `bound_root`. Time is linear in the opened leaves and the hashes.
///
/// # Errors
/// [`MerkleError`].
pub fn verify_indices(
    bound_root: &Hash,
    count: usize,
    leaves: &[(usize, Hash)],
    hashes: &[Hash],
) -> Result<(), MerkleError> {
    let indices: Vec<usize> = leaves.iter().map(|(index, _)| *index).collect();
    if index_siblings(count, &indices)?.len() != hashes.len() {
        return Err(MerkleError::HashCount);
    }
    // The walk of `index_siblings`, with the nodes along: each level stays in increasing order.
    let mut given = hashes.iter();
    let mut level = leaves.to_vec();
    for _ in 0..depth(count) {
        let mut above = Vec::with_capacity(level.len());
        let mut rest = level.iter().peekable();
        while let Some((index, node)) = rest.next() {
            let beside = match rest.next_if(|(next, _)| *next == index | 1) {
                Some((_, right)) => right,
                None => given.next().ok_or(MerkleError::HashCount)?,
            };
            let node = if index & 1 == 0 { parent(node, beside) } else { parent(beside, node) };
            above.push((index >> 1, node));
        }
        level = above;
    }
    match level.as_slice() {
        [(_, root)] if bind(count, root) == *bound_root => Ok(()),
        _ => Err(MerkleError::Root),
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests may panic, and compare exact values")]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;
    use rs_merkle::{Hasher, MerkleProof};

    use super::*;

    /// The node rule, for `rs_merkle`.
    #[derive(Clone, Copy, Debug)]
    struct Nodes;

    impl Hasher for Nodes {
        type Hash = Hash;

        fn hash(data: &[u8]) -> Hash {
            // Only trees built by the library hash leaves; ours come hashed.
            blake3::hash(data).into()
        }

        fn concat_and_hash(left: &Hash, right: Option<&Hash>) -> Hash {
            right.map_or(*left, |right| parent(left, right))
        }
    }

    /// The root to which `rs_merkle` finds that an opening leads, given the padded width so that its own
    /// rule for odd levels never applies.
    fn root_by_the_library(count: usize, leaves: &[(usize, Hash)], hashes: &[Hash]) -> Option<Hash> {
        let (indices, leaves): (Vec<usize>, Vec<Hash>) = leaves.iter().copied().unzip();
        let proof = MerkleProof::<Nodes>::new(hashes.to_vec());
        proof.root(&indices, &leaves, count.next_power_of_two()).ok()
    }

    fn leaf(i: usize) -> Hash {
        blake3::hash(&i.to_le_bytes()).into()
    }

    fn tree(count: usize) -> MerkleTree {
        MerkleTree::from_leaf_hashes((0..count).map(leaf).collect())
    }

    fn opened(indices: &[usize]) -> Vec<(usize, Hash)> {
        indices.iter().map(|&i| (i, leaf(i))).collect()
    }

    /// The root, by its definition.
    fn slow_root(leaves: &[Hash]) -> Hash {
        if let [leaf] = leaves {
            return *leaf;
        }
        let (left, right) = leaves.split_at(leaves.len() / 2);
        parent(&slow_root(left), &slow_root(right))
    }

    #[test]
    fn roots_agree_with_the_definition_and_with_the_library() {
        for count in 0..70 {
            let mut leaves: Vec<Hash> = (0..count).map(leaf).collect();
            let tree = MerkleTree::from_leaf_hashes(leaves.clone());
            leaves.resize(count.next_power_of_two(), padding_leaf());
            assert_eq!(tree.root(), slow_root(&leaves));
            assert_eq!(rs_merkle::MerkleTree::<Nodes>::from_leaves(&leaves).root(), Some(tree.root()));
        }
    }

    #[test]
    fn bound_roots_differ_by_count() {
        let padded = |count: usize| {
            let mut leaves: Vec<Hash> = (0..count).map(leaf).collect();
            leaves.resize(8, padding_leaf());
            MerkleTree::from_leaf_hashes(leaves)
        };
        assert_eq!(tree(6).root(), padded(6).root());
        assert_ne!(tree(6).bound_root(), padded(6).bound_root());
    }

    proptest! {
        #[test]
        fn prop_ranges_open(count in 1_usize..300, a in 0_usize..300, b in 0_usize..300) {
            let (start, end) = (a.min(b) % count, (a.max(b) % count).max(a.min(b) % count) + 1);
            let tree = tree(count);
            let leaves: Vec<Hash> = (start..end).map(leaf).collect();
            let hashes = tree.open_range(start, end);
            prop_assert_eq!(hashes.len(), range_hash_count(count, start, end));
            prop_assert_eq!(verify_range(&tree.bound_root(), count, start, &leaves, &hashes), Ok(()));
            let all: Vec<usize> = (start..end).collect();
            let indices = tree.open_indices(&all);
            prop_assert_eq!(verify_indices(&tree.bound_root(), count, &opened(&all), &indices), Ok(()));
        }

        #[test]
        fn prop_indices_open(count in 1_usize..300, chosen in btree_set(0_usize..300, 1..40)) {
            let indices: Vec<usize> = chosen.into_iter().filter(|&index| index < count).collect();
            prop_assume!(!indices.is_empty());
            let tree = tree(count);
            let hashes = tree.open_indices(&indices);
            prop_assert_eq!(hashes.len(), indices_hash_count(count, &indices));
            prop_assert_eq!(verify_indices(&tree.bound_root(), count, &opened(&indices), &hashes), Ok(()));
            prop_assert_eq!(root_by_the_library(count, &opened(&indices), &hashes), Some(tree.root()));
        }

        /// Whatever the leaves and hashes, the walk ends where the library's does.
        #[test]
        fn prop_wrong_openings_lead_where_the_library_says(
            count in 1_usize..300,
            chosen in btree_set(0_usize..300, 1..40),
            salt in any::<u64>(),
        ) {
            let indices: Vec<usize> = chosen.into_iter().filter(|&index| index < count).collect();
            prop_assume!(!indices.is_empty());
            let salted = |i: usize| blake3::hash(&[salt.to_le_bytes(), (i as u64).to_le_bytes()].concat()).into();
            let leaves: Vec<(usize, Hash)> = indices.iter().map(|&i| (i, salted(i))).collect();
            let hashes: Vec<Hash> = (0..indices_hash_count(count, &indices)).map(|i| salted(i + 1000)).collect();
            let root = root_by_the_library(count, &leaves, &hashes).unwrap();
            prop_assert_eq!(verify_indices(&bind(count, &root), count, &leaves, &hashes), Ok(()));
        }

        #[test]
        fn prop_any_change_is_rejected(
            count in 1_usize..100,
            chosen in btree_set(0_usize..100, 1..20),
            place in any::<prop::sample::Index>(),
            bit in 0_usize..256,
        ) {
            let indices: Vec<usize> = chosen.into_iter().filter(|&index| index < count).collect();
            prop_assume!(!indices.is_empty());
            let (tree, mut leaves) = (tree(count), opened(&indices));
            let mut hashes = tree.open_indices(&indices);
            let place = place.index(leaves.len() + hashes.len());
            let hash = match place.checked_sub(leaves.len()) {
                None => &mut leaves[place].1,
                Some(place) => &mut hashes[place],
            };
            hash[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify_indices(&tree.bound_root(), count, &leaves, &hashes), Err(MerkleError::Root));

            let (first, last) = (indices[0], indices[indices.len() - 1] + 1);
            let mut range: Vec<Hash> = (first..last).map(leaf).collect();
            let mut hashes = tree.open_range(first, last);
            let place = place % (range.len() + hashes.len());
            let hash = match place.checked_sub(range.len()) {
                None => &mut range[place],
                Some(place) => &mut hashes[place],
            };
            hash[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify_range(&tree.bound_root(), count, first, &range, &hashes), Err(MerkleError::Root));
        }

        #[test]
        fn prop_verification_of_anything_ends_in_a_verdict(
            count in prop_oneof![0_usize..20, Just(usize::MAX), Just(1 << 63), Just((1 << 63) + 1)],
            indices in proptest::collection::vec(prop_oneof![0_usize..20, Just(usize::MAX)], 0..8),
            hashes in 0_usize..80,
        ) {
            let root = tree(7).bound_root();
            let hashes: Vec<Hash> = (0..hashes).map(leaf).collect();
            prop_assert!(verify_indices(&root, count, &opened(&indices), &hashes).is_err());
            let leaves: Vec<Hash> = indices.iter().copied().map(leaf).collect();
            let start = indices.first().copied().unwrap_or(0);
            let own = start == 0 && count == 7 && leaves == (0..7).map(leaf).collect::<Vec<_>>() && hashes.len() == 1;
            prop_assert!(own || verify_range(&root, count, start, &leaves, &hashes).is_err());
        }
    }

    #[test]
    fn trailing_and_missing_hashes_are_rejected() {
        let tree = tree(13);
        let mut hashes = tree.open_indices(&[2, 9]);
        hashes.push(leaf(0));
        assert_eq!(verify_indices(&tree.bound_root(), 13, &opened(&[2, 9]), &hashes), Err(MerkleError::HashCount));
        hashes.truncate(hashes.len() - 2);
        assert_eq!(verify_indices(&tree.bound_root(), 13, &opened(&[2, 9]), &hashes), Err(MerkleError::HashCount));
        let leaves = [leaf(2), leaf(3)];
        let mut hashes = tree.open_range(2, 4);
        hashes.push(leaf(0));
        assert_eq!(verify_range(&tree.bound_root(), 13, 2, &leaves, &hashes), Err(MerkleError::HashCount));
        hashes.truncate(hashes.len() - 2);
        assert_eq!(verify_range(&tree.bound_root(), 13, 2, &leaves, &hashes), Err(MerkleError::HashCount));
    }

    /// The quadratic walk took eight seconds for these.
    #[test]
    fn a_large_opening_is_verified_in_linear_time() {
        let count = 1 << 18;
        let tree = tree(count);
        let indices: Vec<usize> = (0..count).step_by(2).collect();
        let (hashes, leaves) = (tree.open_indices(&indices), opened(&indices));
        let begin = std::time::Instant::now();
        assert_eq!(verify_indices(&tree.bound_root(), count, &leaves, &hashes), Ok(()));
        assert!(begin.elapsed().as_secs_f64() < 3.0, "{:?}", begin.elapsed());
    }

    #[test]
    fn repeated_and_unsorted_indices_are_rejected() {
        // On its own, the library accepts the content of leaf 3 at a repeated index 2.
        let tree = tree(8);
        let hashes = tree.open_indices(&[2, 3]);
        let root = tree.bound_root();
        for indices in [[2, 2], [3, 3], [3, 2]] {
            let leaves = [(indices[0], leaf(2)), (indices[1], leaf(3))];
            assert_eq!(verify_indices(&root, 8, &leaves, &hashes), Err(MerkleError::Indices));
        }
        let leaves = [(2, leaf(2)), (3, leaf(3)), (3, leaf(3))];
        assert_eq!(verify_indices(&root, 8, &leaves, &hashes), Err(MerkleError::Indices));
    }

    #[test]
    fn indices_past_the_end_are_rejected() {
        // In the library's tree of 6 leaves, leaf 0 verifies at 8, 16, 24.
        let tree = tree(6);
        let hashes = tree.open_indices(&[0]);
        for index in [6, 7, 8, 16, 24, usize::MAX] {
            let verdict = verify_indices(&tree.bound_root(), 6, &[(index, leaf(0))], &hashes);
            assert_eq!(verdict, Err(MerkleError::Indices));
            let verdict = verify_range(&tree.bound_root(), 6, index, &[leaf(0)], &hashes);
            assert_eq!(verdict, Err(MerkleError::Indices));
        }
        // Padding leaves exist, but cannot be opened.
        let hashes: Vec<Hash> = tree.nodes(&index_siblings(8, &[6]).unwrap());
        let verdict = verify_indices(&tree.bound_root(), 6, &[(6, padding_leaf())], &hashes);
        assert_eq!(verdict, Err(MerkleError::Indices));
    }

    #[test]
    fn another_count_is_rejected() {
        let tree = tree(6);
        let hashes = tree.open_indices(&[0]);
        for count in [5, 7, 8] {
            assert_eq!(verify_indices(&tree.bound_root(), count, &[(0, leaf(0))], &hashes), Err(MerkleError::Root));
            let verdict = verify_range(&tree.bound_root(), count, 0, &[leaf(0)], &hashes);
            assert_eq!(verdict, Err(MerkleError::Root));
        }
    }

    #[test]
    fn an_inner_node_is_no_leaf() {
        let tree = tree(8);
        let inner = tree.levels[1][1];
        let hashes = [tree.levels[1][0], tree.levels[2][1]];
        assert_eq!(verify_indices(&tree.bound_root(), 4, &[(1, inner)], &hashes), Err(MerkleError::Root));
        assert_eq!(verify_range(&tree.bound_root(), 4, 1, &[inner], &hashes), Err(MerkleError::Root));
        assert_eq!(verify_indices(&tree.bound_root(), 8, &[(1, inner)], &hashes), Err(MerkleError::HashCount));
    }

    #[test]
    fn empty_openings_are_rejected() {
        let tree = tree(4);
        assert_eq!(verify_indices(&tree.bound_root(), 4, &[], &[]), Err(MerkleError::Indices));
        assert_eq!(verify_range(&tree.bound_root(), 4, 1, &[], &[]), Err(MerkleError::Indices));
        assert_eq!(tree.open_range(2, 2), Vec::<Hash>::new());
        assert_eq!(tree.open_indices(&[4]), Vec::<Hash>::new());
        let empty = MerkleTree::from_leaf_hashes(Vec::new());
        assert_eq!(empty.root(), padding_leaf());
        assert_eq!(verify_indices(&empty.bound_root(), 0, &[(0, padding_leaf())], &[]), Err(MerkleError::Indices));
    }
}
