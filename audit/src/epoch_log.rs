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

    /// The hash of the key, which was published before the first request.
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
    /// The receipt states another verdict on the proof than it gets.
    OtherVerdict,
    /// The request is signed and stands not in the list.
    LeftOut,
    /// Two requests have the same counter, and so the same nonce.
    CounterTwice,
    /// Two receipts of one session tell of different exchanges.
    ExchangeTwice,
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
            Self::OtherVerdict => "the receipt states another verdict than the one that the proof gets",
            Self::LeftOut => "the request is signed, and left out of the epoch's log",
            Self::CounterTwice => "another request has the same counter, and so the same nonce",
            Self::ExchangeTwice => "another exchange of the same session is signed as well",
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
    /// Responses that the draw calls to be audited.
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

/// What a request says beside its question: a validator says the same to all miners in an epoch.
#[derive(Debug)]
struct Asked {
    miner: Hotkey,
    counter: u64,
    /// Policy and deadlines, encoded.
    terms: Vec<u8>,
    rate: AuditRate,
}

impl Asked {
    /// The rate, if it spares some responses; all of them are audited of a miner that has not proven itself.
    fn ordinary(&self) -> Option<AuditRate> {
        (self.rate != AuditRate::Always).then_some(self.rate)
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

/// Follows the draws of an epoch, transcript by transcript.
#[derive(Debug)]
pub struct Account<'a> {
    log: &'a EpochLog,
    key: EpochKey,
    tallies: BTreeMap<Hotkey, Tally>,
    /// Sessions, and the exchange that each receipt signs.
    seen: BTreeMap<(Hotkey, u64), (SessionId, [u8; 32])>,
    /// On which terms, in the order of the files.
    asked: Vec<Asked>,
}

impl<'a> Account<'a> {
    /// Begins with the list.
    pub fn new(log: &'a EpochLog) -> Self {
        let tallies = log.requests.iter().map(|(miner, requests)| {
            let number = |ending| long(requests.iter().filter(|listed| listed.ending == ending).count());
            let tally = Tally {
                requests: long(requests.len()),
                silent: number(Ending::Silent),
                refused: number(Ending::Refused),
                faults: number(Ending::Fault),
                dead: number(Ending::Dead),
                missing: number(Ending::Judged),
                ..Tally::default()
            };
            (*miner, tally)
        });
        let (key, tallies) = (EpochKey::new(log.key), tallies.collect());
        Self { log, key, tallies, seen: BTreeMap::new(), asked: Vec::new() }
    }

    /// Follows the draw of one session of this validator and epoch. `verdict` is what the file was judged again with: it
    /// says whether a commitment was one to answer, and whether an audit came to what the receipt states.
    pub fn add(&mut self, file: &TranscriptFile, verdict: Verdict) {
        let request = &file.record.request;
        let (miner, counter, session) = (request.miner, request.counter, request.session_id());
        let tally = self.tallies.entry(miner).or_default();
        let exchange = file.record.exchange_digest();
        match self.seen.insert((miner, counter), (session, exchange)) {
            // The same transcript a second time tells nothing new.
            Some(before) if before == (session, exchange) => return,
            // Counted already; what this one shows stands beside what the other did.
            Some((before, _)) if before == session => {
                tally.shown.push((counter, Shown::ExchangeTwice));
                return;
            }
            Some(_) => tally.shown.push((counter, Shown::CounterTwice)),
            None => {}
        }
        let (terms, rate) =
            ([codec::encode(&request.policy), codec::encode(&request.deadlines)].concat(), request.audit_rate);
        tally.rates.insert(rate);
        self.asked.push(Asked { miner, counter, terms, rate });
        let listed = usize::try_from(counter).ok().and_then(|counter| self.log.requests.get(&miner)?.get(counter));
        match listed {
            Some(Listed { session: Some(listed), ending }) if *listed == session => {
                if *ending == Ending::Judged {
                    tally.missing = tally.missing.saturating_sub(1);
                }
            }
            _ => tally.shown.push((counter, Shown::LeftOut)),
        }
        let nonce = self.key.nonce(request.network.netuid, &miner, counter);
        let committed = request.nonce_commitment;
        if committed.is_some_and(|given| given != nonce_commitment(&nonce, counter, &request.validator, &miner)) {
            tally.shown.push((counter, Shown::PickedNonce));
            return;
        }
        let Exchange::Committed { commitment, reply } = &file.record.exchange else {
            tally.uncommitted = tally.uncommitted.saturating_add(1);
            return;
        };
        // Of what is no commitment nothing can be drawn.
        let Ok(commitment) = codec::decode::<TraceCommitment>(&commitment.bytes) else {
            tally.unaudited = tally.unaudited.saturating_add(1);
            return;
        };
        let owed = committed.is_none() || is_audited(request.audit_rate, &nonce, &commitment.digest());
        // A reply with another nonce than the request's answers nothing.
        let expected = committed.map(|_| nonce);
        // Without its assets a file cannot be judged: it is as good as not there.
        let is_missing = verdict == Verdict::Inconclusive(OwnFault::AssetMissing);
        let is_answered = *reply != Reply::None;
        tally.missing = tally.missing.saturating_add(u64::from(is_missing && (is_answered || owed)));
        let is_wrong = matches!(verdict, Verdict::Rejected(failure) if failure.place.stage == Stage::Commitment);
        let mut is_owed = owed;
        let is_steered = match reply {
            Reply::None => {
                // A commitment that is wrong in itself is answered by its verdict, and by nothing else.
                tally.unaudited = tally.unaudited.saturating_add(u64::from(owed && is_wrong));
                is_owed &= !is_wrong && !is_missing;
                false
            }
            Reply::Settled { nonce } => {
                tally.settled = tally.settled.saturating_add(1);
                // What cannot be judged is not known to be of the miner.
                is_owed |= matches!(verdict, Verdict::Inconclusive(_)) && !is_missing;
                owed || expected != Some(*nonce)
            }
            Reply::Challenged { nonce, .. } => {
                let due = owed && *nonce == expected;
                let (found, stated) = (Conclusion::from(verdict), file.receipt.conclusion);
                let is_conclusive = |conclusion| !matches!(conclusion, Conclusion::Inconclusive(_));
                tally.made = tally.made.saturating_add(u64::from(due && is_conclusive(found) && found == stated));
                if is_conclusive(found) && is_conclusive(stated) && found != stated {
                    tally.shown.push((counter, Shown::OtherVerdict));
                }
                !due
            }
        };
        tally.owed = tally.owed.saturating_add(u64::from(is_owed));
        if is_answered && is_wrong {
            tally.shown.push((counter, Shown::AnsweredWrong));
        }
        if is_steered {
            tally.shown.push((counter, Shown::AgainstTheDraw));
        }
    }

    /// What came of it, by miner.
    pub fn finish(mut self) -> BTreeMap<Hotkey, Tally> {
        // Whatever order the files came in, it comes to the same.
        self.asked.sort_by_key(|asked| (asked.miner, asked.counter));
        let terms = commonest(self.asked.iter().map(|asked| asked.terms.as_slice()));
        let ordinary = commonest(self.asked.iter().filter_map(Asked::ordinary));
        for asked in &self.asked {
            let shown = &mut self.tallies.entry(asked.miner).or_default().shown;
            if terms.is_some_and(|terms| terms != asked.terms) {
                shown.push((asked.counter, Shown::OtherTerms));
            }
            if asked.ordinary().is_some_and(|rate| Some(rate) != ordinary) {
                shown.push((asked.counter, Shown::OtherRate));
            }
        }
        self.tallies
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
