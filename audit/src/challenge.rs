//! Challenges: nonces that nobody can choose, the decision to audit, and the list of what is asked.
//!
//! Both sides derive the list from the same seed; a verifier walks its own.

use std::collections::BTreeSet;

use assay_commitments::manifest::{Architecture, Manifest};
use assay_commitments::trace::{TraceShape, TreeId};
use assay_commitments::weights::MAX_OPENED_CLAIMS;
use assay_commitments::{Hotkey, KvGroup, LayerIndex, Position};
use sha3::digest::{ExtendableOutput, Update, XofReader};
use sha3::{Digest, Sha3_256, Shake256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::domains;
use crate::num::long;
use crate::policy::Policy;
use crate::request::AuditRate;

/// A nonce: 32 bytes that a miner cannot know when it commits.
pub type Nonce = [u8; 32];

/// The key from which a validator draws the nonces of one epoch. Its hash is published with the
/// epoch, the key itself once no proof of the epoch is due any more.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EpochKey([u8; 32]);

impl std::fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EpochKey(secret)")
    }
}

impl EpochKey {
    /// Wraps 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the reveal.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hash that is published.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha3_256::new();
        Digest::update(&mut hash, domains::EPOCH_KEY);
        Digest::update(&mut hash, self.0);
        hash.finalize().into()
    }

    /// The nonce for a miner and a counter value that is used once.
    pub fn nonce(&self, netuid: u16, miner: &Hotkey, counter: u64) -> Nonce {
        let mut hash = Shake256::default();
        hash.update(domains::NONCE);
        hash.update(&self.0);
        hash.update(&netuid.to_le_bytes());
        hash.update(miner.as_bytes());
        hash.update(&counter.to_le_bytes());
        let mut nonce = [0; 32];
        hash.finalize_xof().read(&mut nonce);
        nonce
    }
}

/// What a request says of its nonce.
pub fn nonce_commitment(nonce: &Nonce, counter: u64, validator: &Hotkey, miner: &Hotkey) -> [u8; 32] {
    let mut hash = Sha3_256::new();
    Digest::update(&mut hash, domains::NONCE_COMMITMENT);
    Digest::update(&mut hash, nonce);
    Digest::update(&mut hash, counter.to_le_bytes());
    Digest::update(&mut hash, validator.as_bytes());
    Digest::update(&mut hash, miner.as_bytes());
    hash.finalize().into()
}

/// Whether a response is audited: not the validator's choice, and nothing a miner can steer.
pub fn is_audited(rate: AuditRate, nonce: &Nonce, commitment_digest: &[u8; 32]) -> bool {
    match rate {
        AuditRate::Always => true,
        AuditRate::Below(rate) => {
            let mut hash = Shake256::default();
            hash.update(domains::AUDIT);
            hash.update(nonce);
            hash.update(commitment_digest);
            let mut draw = [0; 8];
            hash.finalize_xof().read(&mut draw);
            u64::from_le_bytes(draw) < rate
        }
    }
}

/// The seed of all draws of an audit.
pub fn challenge_seed(nonce: &Nonce, commitment_digest: &[u8; 32], policy: &Policy) -> [u8; 32] {
    let mut hash = Sha3_256::new();
    Digest::update(&mut hash, domains::CHALLENGE);
    Digest::update(&mut hash, nonce);
    Digest::update(&mut hash, commitment_digest);
    Digest::update(&mut hash, policy.digest());
    hash.finalize().into()
}

/// A cell that is asked for: a layer at a position, with the groups whose attention is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The layer.
    pub layer: LayerIndex,
    /// The position.
    pub position: Position,
    /// The groups, ascending.
    pub groups: Vec<KvGroup>,
}

impl Cell {
    /// The outputs of the query projection that the attention of the cell's groups takes, ascending.
    pub(crate) fn query_outputs(&self, architecture: &Architecture) -> impl Iterator<Item = usize> {
        let groups = (0..architecture.kv_heads).map(KvGroup::new).filter(|group| self.groups.contains(group));
        groups.flat_map(|group| architecture.query_outputs(group))
    }
}

/// The lengths of a session that a challenge depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    prompt: u32,
    output: u32,
}

impl Lengths {
    /// Prompt and output tokens; `None` unless there is one of each and the positions can be counted.
    pub fn new(prompt: usize, output: usize) -> Option<Self> {
        let prompt = u32::try_from(prompt).ok().filter(|&prompt| prompt > 0)?;
        let output = u32::try_from(output).ok().filter(|&output| output > 0)?;
        prompt.checked_add(output)?;
        Some(Self { prompt, output })
    }

    /// Positions: the prompt and every output token that was fed back.
    pub const fn positions(&self) -> u32 {
        self.prompt.saturating_add(self.output).saturating_sub(1)
    }

    /// The position whose row gives the first output token.
    pub const fn first_decode(&self) -> u32 {
        self.prompt.saturating_sub(1)
    }

    /// The last position.
    pub const fn last(&self) -> u32 {
        self.positions().saturating_sub(1)
    }
}

/// Most cells that an audit may ask for, a cell of a complete proof counted once for each of its groups.
/// The list of that many takes 20 MiB at most. The largest draw, 4096 cells and 64 columns of 1024
/// layers, is 69632 cells.
pub const MAX_CELLS: u64 = 1 << 18;

/// One opening shows the seven claims of every cell.
const _: () = assert!(7 * (1 << MAX_CELLS.ilog2()) <= MAX_OPENED_CLAIMS);

/// What is asked for, in the order in which a proof answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Cells.
    pub cells: Vec<Cell>,
    /// Positions whose next token is checked.
    pub decodes: Vec<Position>,
}

impl Challenge {
    /// The most cells, counted as for [`MAX_CELLS`], that a policy asks for in a session of these
    /// lengths; repeats are not known before they are drawn. Arithmetic alone: nothing is expanded.
    pub fn cell_count_bound(policy: &Policy, architecture: &Architecture, lengths: Lengths) -> u64 {
        policy.drawn_cells(architecture.layers).unwrap_or_else(|| {
            let cells = u64::from(architecture.layers).saturating_mul(u64::from(lengths.positions()));
            cells.saturating_mul(u64::from(architecture.kv_heads))
        })
    }

    /// The most rows of keys and values that its cells attend to together, those of each group counted by themselves.
    pub(crate) fn attended_bound(policy: &Policy, architecture: &Architecture, lengths: Lengths) -> u64 {
        let attended =
            |position: u32| u64::from(position.saturating_sub(architecture.first_attended(position))).saturating_add(1);
        if let Some(cells) = policy.drawn_cells(architecture.layers) {
            return attended(lengths.last()).saturating_mul(cells);
        }
        let rows = (0..lengths.positions()).map(attended).fold(0, u64::saturating_add);
        rows.saturating_mul(architecture.layers.into()).saturating_mul(architecture.kv_heads.into())
    }

    /// Fewer bytes than any proof for this policy can have: of a complete proof, the committed rows of
    /// every cell without the prefixes of its caches. A draw may repeat itself down to one cell, and
    /// always has one.
    pub fn least_proof_bytes(policy: &Policy, manifest: &Manifest, lengths: Lengths) -> u64 {
        let architecture = &manifest.architecture;
        let cells = match policy {
            Policy::Sampled { .. } => 1,
            Policy::Everything => u64::from(architecture.layers).saturating_mul(u64::from(lengths.positions())),
        };
        let rows = TraceShape::new(architecture, manifest.profile);
        let layer = LayerIndex::new(0);
        let bytes = |tree| long(rows.row_bytes(tree));
        let caches = bytes(TreeId::Kv(layer, KvGroup::new(0))).saturating_mul(u64::from(architecture.kv_heads));
        let stream = bytes(TreeId::H(layer)).saturating_mul(3);
        cells.saturating_mul(stream.saturating_add(bytes(TreeId::A(layer))).saturating_add(caches))
    }

    /// Draws by strata: of every four cells two over the prompt, one over the answer (its positions
    /// that were fed back; over the prompt when there are none), one at the last position; columns, if
    /// this is an audit that has them, by turns over the prompt and over the answer, beginning with
    /// either as often; the last decode and others uniform. Draws are independent; repeats are dropped.
    pub fn derive(seed: &[u8; 32], policy: &Policy, architecture: &Architecture, lengths: Lengths) -> Self {
        let Policy::Sampled { cells, decodes, columns, .. } = *policy else {
            return Self::everything(architecture, lengths);
        };
        let mut draws = Draws::new(seed);
        let mut list = CellList::default();
        let group = |draws: &mut Draws| vec![KvGroup::new(draws.below(architecture.kv_heads))];
        let of_prompt = |draws: &mut Draws| draws.below(lengths.prompt);
        let of_answer = |draws: &mut Draws| match lengths.output.saturating_sub(1) {
            0 => of_prompt(draws),
            fed_back => lengths.prompt.saturating_add(draws.below(fed_back)),
        };
        for number in 0..cells {
            let position = match number % 4 {
                2 => of_answer(&mut draws),
                3 => lengths.last(),
                _ => of_prompt(&mut draws),
            };
            let layer = draws.below(architecture.layers);
            let groups = group(&mut draws);
            list.push(layer, position, groups);
        }
        let drawn = columns.filter(|columns| draws.below(columns.one_in.get()) == 0);
        let count = drawn.map_or(0, |columns| columns.count.get());
        let turn = if count > 0 { draws.below(2) } else { 0 };
        for number in 0..count {
            let is_prompt = number.wrapping_add(turn) % 2 == 0;
            let position = if is_prompt { of_prompt(&mut draws) } else { of_answer(&mut draws) };
            for layer in 0..architecture.layers {
                let groups = group(&mut draws);
                list.push(layer, position, groups);
            }
        }
        let mut positions = vec![Position::new(lengths.last())];
        for _ in 1..decodes {
            let position = lengths.first_decode().saturating_add(draws.below(lengths.output));
            let position = Position::new(position.min(lengths.last()));
            if !positions.contains(&position) {
                positions.push(position);
            }
        }
        Self { cells: list.cells, decodes: positions }
    }

    /// Every cell with all its groups and every decode: a complete proof.
    pub fn everything(architecture: &Architecture, lengths: Lengths) -> Self {
        let groups: Vec<KvGroup> = (0..architecture.kv_heads).map(KvGroup::new).collect();
        let cells = (0..architecture.layers)
            .flat_map(|layer| (0..lengths.positions()).map(move |position| (layer, position)))
            .map(|(layer, position)| Cell {
                layer: LayerIndex::new(layer),
                position: Position::new(position),
                groups: groups.clone(),
            })
            .collect();
        let decodes = (lengths.first_decode()..lengths.positions()).map(Position::new).collect();
        Self { cells, decodes }
    }

    /// The distinct layers that the cells touch, ascending.
    pub fn layers(&self) -> Vec<LayerIndex> {
        let layers: BTreeSet<LayerIndex> = self.cells.iter().map(|cell| cell.layer).collect();
        layers.into_iter().collect()
    }
}

#[derive(Default)]
struct CellList {
    cells: Vec<Cell>,
    seen: BTreeSet<(u32, u32)>,
}

impl CellList {
    fn push(&mut self, layer: u32, position: u32, groups: Vec<KvGroup>) {
        if self.seen.insert((layer, position)) {
            let (layer, position) = (LayerIndex::new(layer), Position::new(position));
            self.cells.push(Cell { layer, position, groups });
        }
    }
}

/// Uniform draws from a seed, by rejection.
struct Draws {
    reader: <Shake256 as ExtendableOutput>::Reader,
}

impl Draws {
    fn new(seed: &[u8; 32]) -> Self {
        let mut hash = Shake256::default();
        hash.update(domains::DRAW);
        hash.update(seed);
        Self { reader: hash.finalize_xof() }
    }

    /// Uniform in `0 .. bound`; 0 for a bound of 0.
    fn below(&mut self, bound: u32) -> u32 {
        // The largest multiple of the bound that fits: words from there on are drawn again.
        let Some(excess) = u32::MAX.checked_rem(bound) else { return 0 };
        let limit = u32::MAX.saturating_sub(excess);
        loop {
            let mut word = [0; 4];
            self.reader.read(&mut word);
            let word = u32::from_le_bytes(word);
            if word < limit {
                return word.checked_rem(bound).unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::index;
    use crate::policy::Columns;

    fn architecture() -> Architecture {
        Architecture {
            vocab_size: 100,
            hidden: 8,
            layers: 5,
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            ffn: 16,
            max_positions: 64,
            norm_eps: 1e-5,
            inverse_frequencies: vec![1.0, 0.5],
            tied: true,
            biases: assay_commitments::manifest::Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![],
        }
    }

    fn derive(seed: u8, policy: Policy, prompt: usize, output: usize) -> Challenge {
        Challenge::derive(&[seed; 32], &policy, &architecture(), Lengths::new(prompt, output).unwrap())
    }

    #[test]
    fn strata_are_kept() {
        let policy = Policy::Sampled { cells: 4, decodes: 3, columns: None, least_budget_ms: 0 };
        for seed in 0..200 {
            let challenge = derive(seed, policy, 10, 6);
            assert!(challenge.cells.iter().any(|cell| cell.position == Position::new(14)));
            assert!(challenge.cells[0].position < Position::new(10));
            assert!(challenge.cells.iter().all(|cell| cell.layer.get() < 5 && cell.groups[0].get() < 2));
            assert_eq!(challenge.decodes[0], Position::new(14));
            assert!(challenge.decodes.iter().all(|position| (9..15).contains(&position.get())));
        }
    }

    #[test]
    fn an_answer_of_one_token_has_no_generated_part() {
        let policy = Policy::Sampled { cells: 8, decodes: 5, columns: Columns::always(2), least_budget_ms: 0 };
        for seed in 0..100 {
            let challenge = derive(seed, policy, 1, 1);
            assert!(challenge.cells.iter().all(|cell| cell.position == Position::new(0)));
            assert_eq!(challenge.decodes, [Position::new(0)]);
        }
    }

    #[test]
    fn a_column_holds_every_layer() {
        let policy = Policy::Sampled { cells: 1, decodes: 1, columns: Columns::always(2), least_budget_ms: 0 };
        let challenge = derive(3, policy, 10, 6);
        assert_eq!(challenge.layers().len(), 5);
    }

    /// Rows can be stored of a prompt and of an answer: neither may be out of a column's reach.
    #[test]
    fn columns_fall_into_prompt_and_answer_alike() {
        let drawn = |count, output, seed: u32| {
            let policy = Policy::Sampled { cells: 1, decodes: 1, columns: Columns::always(count), least_budget_ms: 0 };
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&seed.to_le_bytes());
            let challenge = Challenge::derive(&bytes, &policy, &architecture(), Lengths::new(10, output).unwrap());
            let of_layer_0 = challenge.cells[1..].iter().filter(|cell| cell.layer == LayerIndex::new(0));
            of_layer_0.map(|cell| cell.position.get()).collect::<Vec<u32>>()
        };
        let mut at = [0_u32; 15];
        for seed in 0..4_000 {
            // The uniform cell may have taken the column's.
            drawn(1, 6, seed).into_iter().for_each(|position| at[index(position)] += 1);
            let pair = drawn(2, 6, seed);
            assert!(pair.len() < 2 || (pair[0] < 10) != (pair[1] < 10), "one of each: {pair:?}");
            assert!(drawn(2, 1, seed).iter().all(|position| *position < 10), "there is only the prompt");
        }
        let (prompt, answer) = (at[..10].iter().sum::<u32>(), at[10..].iter().sum::<u32>());
        assert!((1_800..2_160).contains(&prompt) && (1_840..2_160).contains(&answer), "{at:?}");
        assert!(at.iter().all(|hits| *hits > 100), "{at:?}");
    }

    #[test]
    fn columns_are_drawn_in_one_audit_of_so_many() {
        let with = |columns| Policy::Sampled { cells: 1, decodes: 1, columns, least_budget_ms: 0 };
        let nonzero = |number| std::num::NonZeroU32::new(number).unwrap();
        let rare = with(Some(Columns { count: nonzero(2), one_in: nonzero(4) }));
        let mut drawn = 0;
        for number in 0..4_000_u32 {
            let mut seed = [0; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let derive = |policy| Challenge::derive(&seed, &policy, &architecture(), Lengths::new(10, 6).unwrap());
            let challenge = derive(rare);
            let has_columns = challenge.layers().len() == 5;
            drawn += u32::from(has_columns);
            if has_columns {
                assert_eq!(
                    challenge,
                    derive(with(Columns::always(2))),
                    "the same columns as where they are always drawn"
                );
            } else {
                assert_eq!(challenge.cells, derive(with(None)).cells);
            }
        }
        // Five deviations about a quarter.
        assert!((863..1_137).contains(&drawn), "{drawn}");
    }

    #[test]
    fn everything_is_every_cell_and_decode() {
        let challenge = derive(0, Policy::Everything, 3, 4);
        assert_eq!(challenge.cells.len(), 5 * 6);
        assert_eq!(challenge.decodes.len(), 4);
        assert!(challenge.cells.iter().all(|cell| cell.groups.len() == 2));
    }

    #[test]
    fn the_bound_holds_and_is_exact_for_everything() {
        let lengths = Lengths::new(3, 4).unwrap();
        let bound = |policy: &Policy| Challenge::cell_count_bound(policy, &architecture(), lengths);
        let counted = |challenge: &Challenge| challenge.cells.iter().map(|cell| cell.groups.len() as u64).sum::<u64>();
        assert_eq!(bound(&Policy::Everything), counted(&derive(0, Policy::Everything, 3, 4)));
        let policy = Policy::Sampled { cells: 7, decodes: 2, columns: Columns::always(3), least_budget_ms: 0 };
        assert_eq!(bound(&policy), 7 + 3 * 5);
        assert!((0..50).all(|seed| counted(&derive(seed, policy, 3, 4)) <= bound(&policy)));
    }

    #[test]
    fn the_largest_draw_is_within_the_bound_and_the_largest_complete_proof_is_not() {
        let largest = Architecture { layers: 1024, max_positions: 1 << 20, ..architecture() };
        let lengths = Lengths::new(1, 1 << 20).unwrap();
        let (draws, columns) = (crate::policy::MAX_DRAWS, crate::policy::MAX_COLUMNS);
        let policy =
            Policy::Sampled { cells: draws, decodes: draws, columns: Columns::always(columns), least_budget_ms: 0 };
        assert!(Challenge::cell_count_bound(&policy, &largest, lengths) <= MAX_CELLS);
        assert!(Challenge::cell_count_bound(&Policy::Everything, &largest, lengths) > MAX_CELLS);
    }

    #[test]
    fn draws_are_uniform() {
        let mut draws = Draws::new(&[9; 32]);
        let mut hits = [0_u32; 7];
        for _ in 0..70_000 {
            hits[draws.below(7) as usize] += 1;
        }
        assert!(hits.iter().all(|&hit| (9_600..10_400).contains(&hit)), "{hits:?}");
    }

    #[test]
    fn the_audit_rate_is_met() {
        let audited = (0..2_000_u64)
            .filter(|number| {
                let nonce = EpochKey::new([7; 32]).nonce(1, &Hotkey::new([1; 32]), *number);
                is_audited(AuditRate::Below(u64::MAX / 4), &nonce, &[0; 32])
            })
            .count();
        assert!((420..580).contains(&audited), "{audited}");
    }
}
