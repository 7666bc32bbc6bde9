//! The bodies of the fuzz targets: each takes any bytes, and panics if it finds something.

use std::sync::OnceLock;

use assay_audit::epoch_log::EpochLog;
use assay_audit::exhibit::Exhibit;
use assay_audit::prompt::{self, ChatTemplate, Tokenizer};
use assay_audit::request::Request;
use assay_audit::session::Refusal;
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::Verdict;
use assay_commitments::codec::{self, Canonical, Reader, Writer};
use assay_commitments::manifest::Manifest;
use assay_commitments::params::CodeParams;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::weights::Opening;

use crate::mutation::{Mutation, Tamperer};
use crate::subject::{
    EPOCH_LOG, EXHIBIT, Message, Subject, TRANSCRIPT, exhibits, miner_keys, sealed, verdict_on_exhibit,
};

/// A target.
pub type Target = fn(&[u8]);

/// All of them by name, as in the folder of the corpora.
pub const ALL: [(&str, Target); 12] = [
    ("request", request),
    ("manifest", manifest),
    ("refusal", refusal),
    ("commitment", commitment),
    ("opening", opening),
    ("file", file),
    ("exhibit", exhibit),
    ("epoch_log", epoch_log),
    ("proof", proof),
    ("session", session),
    ("tokenizer", tokenizer),
    ("template", template),
];

/// The session that targets start from: accepted, of a model of the least size.
pub fn seed() -> &'static Subject {
    static SEED: OnceLock<Subject> = OnceLock::new();
    let read = || {
        let bytes = include_bytes!("../../fixtures/golden/v1/accepted.assay");
        Subject::new(TranscriptFile::decode(bytes).unwrap(), miner_keys(*blake3::hash(&5_u64.to_le_bytes()).as_bytes()))
    };
    SEED.get_or_init(read)
}

/// An exhibit of its first cell.
pub fn seed_exhibit() -> &'static Message {
    static EXHIBIT: OnceLock<Message> = OnceLock::new();
    EXHIBIT.get_or_init(|| Message::of_exhibit(&exhibits(&seed().session)[0]))
}

/// What decodes has one encoding.
fn one_encoding<T: Canonical>(bytes: &[u8]) {
    if let Ok(value) = codec::decode::<T>(bytes) {
        assert_eq!(codec::encode(&value), bytes);
    }
}

/// Requests.
pub fn request(bytes: &[u8]) {
    one_encoding::<Request>(bytes);
}

/// Manifests.
pub fn manifest(bytes: &[u8]) {
    one_encoding::<Manifest>(bytes);
}

/// Refusals.
pub fn refusal(bytes: &[u8]) {
    one_encoding::<Refusal>(bytes);
}

/// Trace commitments, as bytes and as what the seed's miner signs.
pub fn commitment(bytes: &[u8]) {
    one_encoding::<TraceCommitment>(bytes);
    if bytes != seed().commitment.bytes {
        assert!(matches!(seed().verdict_on_commitment(bytes), Verdict::Rejected(_)));
    }
}

/// Weight openings for a code of several levels, and for one that works for its positions.
pub fn opening(bytes: &[u8]) {
    use assay_commitments::params::Level;
    let level = |fold_log, rate_log, queries, grinding| Level { fold_log, rate_log, queries, grinding };
    for (levels, polynomials) in
        [(vec![level(2, 1, 4, 0), level(1, 2, 3, 5), level(2, 3, 2, 0)], 3), (vec![level(3, 2, 6, 8)], 1)]
    {
        let code = CodeParams { log_size: 8, levels };
        let mut from = Reader::new(bytes);
        let Ok(opening) = Opening::read(&mut from, &code, polynomials) else { continue };
        let length = bytes.len() - from.remaining();
        assert!(length <= code.max_opening_bytes(polynomials));
        let mut out = Writer::new();
        opening.write(&mut out);
        assert_eq!(out.finish(), bytes[..length]);
    }
}

fn resealed(checksum: &str, bytes: &[u8]) -> Vec<u8> {
    sealed(checksum, bytes.get(..bytes.len().saturating_sub(32)).unwrap_or_default())
}

/// Transcript files, damaged and with a right checksum.
pub fn file(bytes: &[u8]) {
    let whole = [seed().file.bytes.as_slice(), &[0; 32]].concat();
    for bytes in [bytes, &resealed(TRANSCRIPT, bytes)] {
        if let Ok(file) = TranscriptFile::decode(bytes) {
            assert_eq!(file.encode(), bytes);
            let accepted = file.judge(&|_| None).verdict == Verdict::Accepted;
            assert!(!accepted || bytes[..bytes.len() - 32] == whole[..whole.len() - 32]);
        }
    }
}

/// Exhibits, damaged and with a right checksum: none shows the seed's miner, who is honest, to be guilty.
pub fn exhibit(bytes: &[u8]) {
    for bytes in [bytes, &resealed(EXHIBIT, bytes)] {
        if let Ok(exhibit) = Exhibit::decode(bytes) {
            assert_eq!(exhibit.encode(), bytes);
            assert!(exhibit.judge().is_err());
        }
    }
}

/// Epoch logs, before they are signed and as files.
pub fn epoch_log(bytes: &[u8]) {
    one_encoding::<EpochLog>(bytes);
    if let Ok(log) = EpochLog::decode_signed(&resealed(EPOCH_LOG, bytes)) {
        assert_eq!(codec::encode(&log), bytes[10..bytes.len() - 96]);
    }
}

/// Proofs for the seed's challenge.
pub fn proof(bytes: &[u8]) {
    let accepted = seed().verdict_on_proof(bytes) == Verdict::Accepted;
    assert_eq!(accepted, bytes == seed().proof.bytes);
}

/// Tokenizers as a transcript brings them along: one that is read gives a text the same tokens twice, and tokens the
/// same text.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_bytes(bytes) else { return };
    for text in ["In the beginning", "a\u{20ac}\n\u{1f600} 1e9<|end|>", ""] {
        let Ok(tokens) = tokenizer.encode(text) else { continue };
        assert_eq!(tokenizer.encode(text).as_ref(), Ok(&tokens));
        assert_eq!(tokenizer.decode(&tokens), tokenizer.decode(&tokens));
    }
}

/// Chat templates likewise: one that is read gives a chat the same text twice.
pub fn template(bytes: &[u8]) {
    let Ok(template) = ChatTemplate::from_bytes(bytes) else { return };
    let said = |role: &str| prompt::Message { role: role.to_owned(), content: "Let there be {{ light }}".to_owned() };
    let chat = [said("system"), said("user"), said("assistant"), said("user")];
    assert_eq!(template.render(&chat), template.render(&chat));
}

/// The seed with changes: the bytes are a script. One byte says what of it is changed; then each change
/// takes eight: the part, the rule, or a place and its new byte.
pub fn session(bytes: &[u8]) {
    let Some((&which, mut script)) = bytes.split_first() else { return };
    let seed = seed();
    let message: &Message = match which % 4 {
        0 => &seed.proof,
        1 => &seed.commitment,
        2 => &seed.record,
        _ => seed_exhibit(),
    };
    let own = (message.bytes.as_slice(), &message.structure);
    let tamperer = Tamperer::new(own, own);
    let mut mutation: Option<Mutation> = None;
    while let Some((step, rest)) = script.split_first_chunk::<8>() {
        script = rest;
        let [a, b, c, d, e, f, rule, value] = *step;
        let number = |bytes: [u8; 4]| usize::try_from(u32::from_le_bytes(bytes)).unwrap();
        let next = if rule == 0 {
            Mutation::byte(number([a, b, c, d]) % message.bytes.len(), value)
        } else {
            let changes = tamperer.of_part(number([a, b, c, d]) % tamperer.parts());
            changes[number([e, f, value, 0]) % changes.len()].clone()
        };
        // One that touches those before is left out.
        mutation = match mutation {
            None => Some(next),
            Some(before) => Some(before.clone().and(next).unwrap_or(before)),
        };
    }
    let Some(changed) = mutation.and_then(|mutation| mutation.apply(&message.bytes)) else { return };
    match which % 4 {
        0 => assert!(matches!(seed.verdict_on_proof(&changed), Verdict::Rejected(_))),
        1 => assert!(matches!(seed.verdict_on_commitment(&changed), Verdict::Rejected(_))),
        2 => assert_ne!(seed.verdict_on_record(&changed), Ok(Verdict::Accepted)),
        _ => assert!(verdict_on_exhibit(&changed).is_err()),
    }
}
