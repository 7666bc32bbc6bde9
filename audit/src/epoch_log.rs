//! What a validator owes after an epoch: the key behind its nonces, and the list of its requests.
//!
//! The digest of the list is published together with the key, so that no request can be left out or
//! added afterwards: whoever was asked holds the validator's signature over a counter, which is in the
//! list, or shows that it is missing. With the list, the key and the transcripts an [`Account`] follows
//! every draw: which responses were to be audited, and which were; and whether all were asked on the same terms.

use std::collections::{BTreeMap, BTreeSet};

use assay_commitments::codec::{self, Canonical, Malformed, Reader, Writer};
use assay_commitments::structure::Part;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{Epoch, Hotkey, SessionId};
use sha3::{Digest, Sha3_256};

use crate::challenge::{EpochKey, is_audited, nonce_commitment};
use crate::domains;
use crate::keys::{Keypair, Signature, is_signed};
use crate::num::long;
use crate::request::{AuditRate, Network};
use crate::sealed::{self, Kind, open, seal};
use crate::session::{Exchange, Reply, SessionRecord};
use crate::transcript_file::{Conclusion, FileError, TranscriptFile};
use crate::verdict::{OwnFault, Stage, Verdict};

const KIND: Kind = Kind { magic: *b"ASSAY\0EP", version: 3, checksum: domains::EPOCH_LOG_CHECKSUM };
/// Most miners of a list.
const MAX_MINERS: usize = 1 << 16;
/// Most requests to a miner in an epoch.
pub const MAX_REQUESTS: usize = 1 << 20;
/// Most requests of all miners together.
const MAX_LISTED: usize = 1 << 23;
/// Most bytes of a log, a bound to be set before one is read: seven million requests that were sent.
pub const MAX_LOG_BYTES: usize = 1 << 28;

/// How a request ended, as the validator states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Tokens came: there is a transcript.
    Judged,
    /// Nothing came before the first token.
    Silent,
    /// The miner refused it.
    Refused,
    /// The validator failed.
    Fault,
    /// The validator stopped in the middle.
    Dead,
}

impl Canonical for Ending {
    fn write(&self, out: &mut Writer) {
        out.u8(match self {
            Self::Judged => 0,
            Self::Silent => 1,
            Self::Refused => 2,
            Self::Fault => 3,
            Self::Dead => 4,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::Judged),
            1 => Ok(Self::Silent),
            2 => Ok(Self::Refused),
            3 => Ok(Self::Fault),
            4 => Ok(Self::Dead),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// A request in the list; its counter is its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its session; none if nothing was sent under the counter.
    pub session: Option<SessionId>,
    /// How it ended.
    pub ending: Ending,
}

impl Canonical for Listed {
    fn write(&self, out: &mut Writer) {
        out.value(&self.session.map(|session| *session.as_bytes()));
        out.value(&self.ending);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let session: Option<[u8; 32]> = from.value()?;
        Ok(Self { session: session.map(SessionId::new), ending: from.value()? })
    }
}

/// The requests of one validator in one epoch, with the key behind their nonces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochLog {
    /// The chain and subnet.
    pub network: Network,
    /// Who asked.
    pub validator: Hotkey,
    /// The epoch.
    pub epoch: Epoch,
    /// The key.
    pub key: [u8; 32],
    /// By miner, and by counter from 0 without gaps.
    pub requests: BTreeMap<Hotkey, Vec<Listed>>,
}

impl EpochLog {
    /// What is published with the key.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha3_256::new();
        hash.update(domains::EPOCH_LOG);
        hash.update(codec::encode(self));
        hash.finalize().into()
    }

    /// The hash of the key, which an honest validator publishes before its first request.
    pub fn key_hash(&self) -> [u8; 32] {
        EpochKey::new(self.key).hash()
    }

    /// Whether a session is of this validator and epoch.
    pub fn is_of(&self, record: &SessionRecord) -> bool {
        let request = &record.request;
        (request.network, request.validator, request.epoch) == (self.network, self.validator, self.epoch)
    }

    /// The bytes of the file, signed by its validator.
    pub fn encode_signed(&self, keys: &Keypair) -> Vec<u8> {
        let signature = keys.sign(domains::EPOCH_LOG, &self.digest());
        seal(&KIND, |out| {
            out.value(self);
            out.value(&signature);
        })
    }

    /// Reads a file that its validator signed.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn decode_signed(bytes: &[u8]) -> Result<Self, FileError> {
        let mut from = open(&KIND, bytes)?;
        let (log, signature) = Self::read_signed(&mut from)?;
        from.finish()?;
        if !is_signed(&log.validator, domains::EPOCH_LOG, &log.digest(), &signature) {
            return Err(FileError::Inconsistent("the log is not signed by its validator"));
        }
        Ok(log)
    }

    fn read_signed(from: &mut Reader<'_>) -> Result<(Self, Signature), Malformed> {
        Ok((from.value()?, from.value()?))
    }

    /// What the bytes of a file are made of, its checksum apart.
    ///
    /// # Errors
    /// [`FileError::Malformed`] for bytes that are no file.
    pub fn structure(bytes: &[u8]) -> Result<Part, FileError> {
        sealed::structure(bytes, Self::read_signed)
    }
}

impl Canonical for EpochLog {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.network.genesis);
        out.u16(self.network.netuid);
        out.raw(self.validator.as_bytes());
        out.u64(self.epoch.get());
        out.raw(&self.key);
        out.length(self.requests.len());
        for (miner, requests) in &self.requests {
            out.raw(miner.as_bytes());
            out.list(requests);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let network = Network { genesis: from.array()?, netuid: from.u16()? };
        let (validator, epoch) = (Hotkey::new(from.array()?), Epoch::new(from.u64()?));
        let key = from.array()?;
        let miners = from.length(MAX_MINERS)?;
        let (mut last, mut left) = (None, MAX_LISTED);
        let requests = from.each(0..miners, |from, _| {
            let miner = Hotkey::new(from.array()?);
            // Ascending, so that a list has one spelling.
            if last.is_some_and(|last| last >= miner) {
                return Err(Malformed::NotCanonical);
            }
            last = Some(miner);
            let requests: Vec<Listed> = from.list(MAX_REQUESTS.min(left))?;
            left = left.saturating_sub(requests.len());
            Ok((miner, requests))
        })?;
        Ok(Self { network, validator, epoch, key, requests })
    }
}

/// What transcripts show of their validator, all of it by its own signatures: it signed the request, and with the receipt
/// what came and what it replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The nonce is not the key's: it was picked.
    PickedNonce,
    /// The draw calls for an audit and the response was settled, or the other way round.
    AgainstTheDraw,
    /// A commitment that is wrong in itself, as one that its miner did not sign, was answered as if it were not.
    AnsweredWrong,
    /// The receipt states another verdict than the transcript gets, by the rules of whoever judges it again.
    OtherVerdict,
    /// The request is signed and stands not in the list.
    LeftOut,
    /// The log states that nothing came, or a refusal, and tokens came.
    ListedOtherwise,
    /// Two requests have the same counter, and so the same nonce.
    CounterTwice,
    /// Two receipts of one session tell of different exchanges.
    ExchangeTwice,
    /// Two receipts of one exchange state different verdicts.
    VerdictTwice,
    /// Policy or deadlines are not those of the epoch's other requests.
    OtherTerms,
    /// The audit rate is neither that of the epoch's other requests nor every response.
    OtherRate,
}

impl Shown {
    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::PickedNonce => "the nonce is not the epoch key's: it was picked",
            Self::AgainstTheDraw => "the reply is not the one that the draw calls for",
            Self::AnsweredWrong => "a commitment was answered that the miner did not sign, or that is wrong in itself",
            Self::OtherVerdict => "the receipt states another verdict than the one that the transcript gets here",
            Self::LeftOut => "the request is signed, and left out of the epoch's log",
            Self::ListedOtherwise => "the log states silence or a refusal, and the receipt that tokens came",
            Self::CounterTwice => "another request has the same counter, and so the same nonce",
            Self::ExchangeTwice => "another exchange of the same session is signed as well",
            Self::VerdictTwice => "another receipt of the same exchange states another verdict",
            Self::OtherTerms => "policy or deadlines are not the commonest of the epoch's requests",
            Self::OtherRate => "the audit rate is neither every response nor the commonest rate below that",
        }
    }
}

/// What came of the requests to one miner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Counters in the log.
    pub requests: u64,
    /// Met with silence, as the validator states it.
    pub silent: u64,
    /// Refused, as the validator states it.
    pub refused: u64,
    /// Ended by a fault of the validator's.
    pub faults: u64,
    /// Counters without a session's end.
    pub dead: u64,
    /// Transcripts that the log calls for and that are not there.
    pub missing: u64,
    /// Responses that the draw calls to be audited, and settled ones that cannot be judged.
    pub owed: u64,
    /// Of those, how many were, and came to the verdict that the receipt states.
    pub made: u64,
    /// Responses that the draw calls to be audited and whose commitment, wrong in itself, was not answered, and those
    /// whose commitment cannot be read, so that nothing is drawn. They are not owed.
    pub unaudited: u64,
    /// Responses without a commitment, as the validator states it.
    pub uncommitted: u64,
    /// Responses that were settled.
    pub settled: u64,
    /// The audit rates of its requests.
    pub rates: BTreeSet<AuditRate>,
    /// What is shown of the validator, with the counter.
    pub shown: Vec<(u64, Shown)>,
}

/// What came of a request, as the validator signed it, held against the draw.
#[derive(Debug)]
enum Came {
    /// The nonce is not the key's, so there is no draw.
    Picked,
    /// No commitment.
    Uncommitted,
    /// A commitment of which nothing can be drawn.
    Unreadable { is_answered: bool },
    /// A commitment that was not answered.
    Unanswered { is_owed: bool },
    /// No audit; `is_due` if that is what the draw calls for.
    Settled { is_owed: bool, is_due: bool },
    /// An audit; `is_due` if that is what the draw calls for.
    Challenged { is_owed: bool, is_due: bool },
}

/// How much is known of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judged {
    /// Without its assets a file cannot be judged.
    Not,
    Inconclusively,
    Conclusively,
}

/// A transcript, as far as it says something of its validator.
#[derive(Debug)]
struct Followed {
    session: SessionId,
    /// The exchange, as its receipt signs it.
    exchange: [u8; 32],
    /// The verdict that the receipt states.
    stated: Conclusion,
    /// The verdict that it gets.
    found: Verdict,
    /// Policy and deadlines, encoded: a validator says the same to all miners in an epoch.
    terms: Vec<u8>,
    rate: AuditRate,
    came: Came,
}

impl Followed {
    /// The rate, if it spares some responses; all of them are audited of a miner that has not proven itself.
    fn ordinary(&self) -> Option<AuditRate> {
        (self.rate != AuditRate::Always).then_some(self.rate)
    }

    /// Whether another one is of the same exchange with the same verdict: a copy, what no signature covers aside.
    fn is_copy_of(&self, other: &Self) -> bool {
        (self.session, self.exchange, self.stated) == (other.session, other.exchange, other.stated)
    }

    const fn judged(&self) -> Judged {
        match self.found {
            Verdict::Accepted | Verdict::Rejected(_) => Judged::Conclusively,
            Verdict::Inconclusive(OwnFault::AssetMissing) => Judged::Not,
            Verdict::Inconclusive(_) => Judged::Inconclusively,
        }
    }

    /// Whether its commitment is wrong in itself: one that is answered by its verdict, and by nothing else.
    fn is_wrong(&self) -> bool {
        matches!(self.found, Verdict::Rejected(failure) if failure.place.stage == Stage::Commitment)
    }

    /// Whether the receipt states another verdict than it gets, neither of them one of what whoever judges lacks or is bound by.
    fn is_misstated(&self) -> bool {
        let found = Conclusion::from(self.found);
        let depends_on_the_judge = |conclusion| {
            let faults = [OwnFault::AssetMissing, OwnFault::PromptUnusable, OwnFault::AuditTooLarge];
            faults.map(Conclusion::Inconclusive).contains(&conclusion)
        };
        found != self.stated && !depends_on_the_judge(found) && !depends_on_the_judge(self.stated)
    }

    /// What it shows by itself.
    fn shown(&self) -> impl Iterator<Item = Shown> {
        let is_wrong_answered = match self.came {
            Came::Unreadable { is_answered } => is_answered,
            Came::Settled { .. } | Came::Challenged { .. } => self.is_wrong(),
            Came::Picked | Came::Uncommitted | Came::Unanswered { .. } => false,
        };
        let is_steered =
            matches!(self.came, Came::Settled { is_due: false, .. } | Came::Challenged { is_due: false, .. });
        [
            (matches!(self.came, Came::Picked), Shown::PickedNonce),
            (is_steered, Shown::AgainstTheDraw),
            (is_wrong_answered, Shown::AnsweredWrong),
            (self.is_misstated(), Shown::OtherVerdict),
        ]
        .into_iter()
        .filter_map(|(is_shown, shown)| is_shown.then_some(shown))
    }

    /// Counts it.
    fn count(&self, tally: &mut Tally) {
        let is_missing = self.judged() == Judged::Not;
        let count = |number: &mut u64, by: bool| *number = number.saturating_add(by.into());
        // Without a draw there is nothing to count.
        count(&mut tally.missing, is_missing && !matches!(self.came, Came::Picked));
        match self.came {
            Came::Picked => {}
            Came::Uncommitted => count(&mut tally.uncommitted, true),
            Came::Unreadable { .. } => count(&mut tally.unaudited, true),
            Came::Unanswered { is_owed } => {
                count(&mut tally.unaudited, is_owed && self.is_wrong());
                count(&mut tally.owed, is_owed && !is_missing && !self.is_wrong());
            }
            Came::Settled { is_owed, .. } => {
                count(&mut tally.settled, true);
                // What cannot be judged is not known to be of the miner.
                count(&mut tally.owed, is_owed || self.judged() == Judged::Inconclusively);
            }
            Came::Challenged { is_owed, is_due } => {
                count(&mut tally.owed, is_owed);
                count(
                    &mut tally.made,
                    is_due && self.judged() == Judged::Conclusively && Conclusion::from(self.found) == self.stated,
                );
            }
        }
    }
}

/// The value that there is most of; of several, the one that comes first.
fn commonest<T: Ord>(values: impl Iterator<Item = T> + Clone) -> Option<T> {
    let mut counts = BTreeMap::<T, u64>::new();
    for value in values.clone() {
        let count = counts.entry(value).or_default();
        *count = count.saturating_add(1);
    }
    let most = counts.values().max()?;
    values.into_iter().find(|value| counts.get(value) == Some(most))
}

/// Follows the draws of an epoch, transcript by transcript. Whatever order they come in, it comes to the same.
#[derive(Debug)]
pub struct Account<'a> {
    log: &'a EpochLog,
    key: EpochKey,
    followed: BTreeMap<(Hotkey, u64), Vec<Followed>>,
}

impl<'a> Account<'a> {
    /// Begins with the list.
    pub fn new(log: &'a EpochLog) -> Self {
        Self { log, key: EpochKey::new(log.key), followed: BTreeMap::new() }
    }

    /// Follows the draw of one session of this validator and epoch. `found` is what the file was judged again with: it
    /// says whether a commitment was one to answer, and whether an audit came to what the receipt states.
    pub fn add(&mut self, file: &TranscriptFile, found: Verdict) {
        let request = &file.record.request;
        let followed = Followed {
            session: request.session_id(),
            exchange: file.record.exchange_digest(),
            stated: file.receipt.conclusion,
            found,
            terms: [codec::encode(&request.policy), codec::encode(&request.deadlines)].concat(),
            rate: request.audit_rate,
            came: self.came(&file.record),
        };
        let beside = self.followed.entry((request.miner, request.counter)).or_default();
        // Of copies, the one that can be judged counts, wherever it lies.
        match beside.iter_mut().find(|known| known.is_copy_of(&followed)) {
            Some(known) if known.judged() >= followed.judged() => {}
            Some(known) => *known = followed,
            None => beside.push(followed),
        }
    }

    fn came(&self, record: &SessionRecord) -> Came {
        let request = &record.request;
        let nonce = self.key.nonce(request.network.netuid, &request.miner, request.counter);
        let committed = request.nonce_commitment;
        let expected = nonce_commitment(&nonce, request.counter, &request.validator, &request.miner);
        if committed.is_some_and(|given| given != expected) {
            return Came::Picked;
        }
        let Exchange::Committed { commitment, reply } = &record.exchange else { return Came::Uncommitted };
        // Of what is no commitment nothing can be drawn.
        let Ok(commitment) = codec::decode::<TraceCommitment>(&commitment.bytes) else {
            return Came::Unreadable { is_answered: *reply != Reply::None };
        };
        let is_owed = committed.is_none() || is_audited(request.audit_rate, &nonce, &commitment.digest());
        // A reply with another nonce than the request's answers nothing.
        let expected = committed.map(|_| nonce);
        match reply {
            Reply::None => Came::Unanswered { is_owed },
            Reply::Settled { nonce } => Came::Settled { is_owed, is_due: !is_owed && expected == Some(*nonce) },
            Reply::Challenged { nonce, .. } => Came::Challenged { is_owed, is_due: is_owed && *nonce == expected },
        }
    }

    /// What came of it, by miner.
    pub fn finish(mut self) -> BTreeMap<Hotkey, Tally> {
        let mut tallies: BTreeMap<Hotkey, Tally> =
            self.log.requests.iter().map(|(miner, requests)| (*miner, listed(requests))).collect();
        for ((miner, counter), beside) in &mut self.followed {
            let tally = tallies.entry(*miner).or_default();
            let place = usize::try_from(*counter).ok();
            let listed = place.and_then(|place| self.log.requests.get(miner)?.get(place)).copied();
            let is_listed = |session| listed.is_some_and(|listed| listed.session == Some(session));
            // The one that is listed counts; what the others show stands beside it.
            beside.sort_by_key(|one| (!is_listed(one.session), one.session, one.exchange, codec::encode(&one.stated)));
            let mut before: Option<&Followed> = None;
            for one in &*beside {
                tally.rates.insert(one.rate);
                match before {
                    None => {
                        if is_listed(one.session) && listed.is_some_and(|listed| listed.ending == Ending::Judged) {
                            tally.missing = tally.missing.saturating_sub(1);
                        }
                        one.count(tally);
                    }
                    Some(before) if before.session != one.session => tally.shown.push((*counter, Shown::CounterTwice)),
                    Some(before) if before.exchange != one.exchange => {
                        tally.shown.push((*counter, Shown::ExchangeTwice));
                    }
                    Some(_) => tally.shown.push((*counter, Shown::VerdictTwice)),
                }
                match listed.filter(|_| is_listed(one.session)).map(|listed| listed.ending) {
                    None => tally.shown.push((*counter, Shown::LeftOut)),
                    Some(Ending::Silent | Ending::Refused) => tally.shown.push((*counter, Shown::ListedOtherwise)),
                    // Its transcript may have been kept before a fault or a crash.
                    Some(Ending::Judged | Ending::Fault | Ending::Dead) => {}
                }
                tally.shown.extend(one.shown().map(|shown| (*counter, shown)));
                before = Some(one);
            }
        }
        let all = || self.followed.iter().flat_map(|(of, beside)| beside.iter().map(move |one| (of, one)));
        let terms = commonest(all().map(|(_, one)| one.terms.as_slice()));
        let ordinary = commonest(all().filter_map(|(_, one)| one.ordinary()));
        for ((miner, counter), one) in all() {
            let shown = &mut tallies.entry(*miner).or_default().shown;
            if terms.is_some_and(|terms| terms != one.terms) {
                shown.push((*counter, Shown::OtherTerms));
            }
            if one.ordinary().is_some_and(|rate| Some(rate) != ordinary) {
                shown.push((*counter, Shown::OtherRate));
            }
        }
        tallies
    }
}

/// What the list alone says of a miner's requests: those that were judged are missing until their transcripts come.
fn listed(requests: &[Listed]) -> Tally {
    let number = |ending| long(requests.iter().filter(|listed| listed.ending == ending).count());
    Tally {
        requests: long(requests.len()),
        silent: number(Ending::Silent),
        refused: number(Ending::Refused),
        faults: number(Ending::Fault),
        dead: number(Ending::Dead),
        missing: number(Ending::Judged),
        ..Tally::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that were not sent have two bytes each in a file, and many more in memory.
    #[test]
    fn a_log_of_too_many_requests_is_not_read() {
        let log = |miners: u8| {
            let (network, nobody) = (Network { genesis: [0; 32], netuid: 1 }, Hotkey::new([0; 32]));
            let key = [0; 32];
            let none = EpochLog { network, validator: nobody, epoch: Epoch::new(0), key, requests: BTreeMap::new() };
            let (mut out, mut no_miners) = (Writer::new(), Writer::new());
            no_miners.length(0);
            out.raw(codec::encode(&none).strip_suffix(&no_miners.finish()[..]).unwrap());
            out.length(miners.into());
            for miner in 0..miners {
                out.raw(&[miner; 32]);
                out.length(MAX_REQUESTS);
                let dead = codec::encode(&Listed { session: None, ending: Ending::Dead });
                out.raw(&dead.repeat(MAX_REQUESTS));
            }
            codec::decode::<EpochLog>(&out.finish()).map(|log| log.requests.len())
        };
        assert_eq!(log(1), Ok(1));
        assert!(log(9).is_err());
    }
}
