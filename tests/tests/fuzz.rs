//! The fuzz targets, over their corpora and a few seconds of changes to them. `BLESS=1` writes the valid
//! messages that the corpora begin with.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use assay_audit::epoch_log::{Ending, EpochLog, Listed};
use assay_audit::session::{Refusal, RefusalReason};
use assay_audit::transcript_file::TranscriptFile;
use assay_commitments::codec;
use assay_tamper::Random;
use assay_tamper::subject::exhibits;
use assay_tamper::targets::{ALL, seed};
use rayon::prelude::*;

/// How long each target is run beyond its corpus.
const BEYOND: Duration = Duration::from_secs(2);

/// A chat template with what templates use.
const TEMPLATE: &str = "{%- for message in messages -%}{% if message['role'] == 'system' and loop.first %}[{{ message.content \
                        | trim }}]{% else %}{{ message['role'] ~ ': ' }}{% set said = message.content.split('\n') %}\
                        {{ said[0] | tojson }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target)
}

/// A log with that session and one that nobody answered.
fn log_of(file: &TranscriptFile) -> EpochLog {
    let request = &file.record.request;
    let judged = Listed { session: Some(request.session_id()), ending: Ending::Judged };
    let requests = BTreeMap::from([(request.miner, vec![judged, Listed { session: None, ending: Ending::Dead }])]);
    let (network, validator, epoch) = (request.network, request.validator, request.epoch);
    EpochLog { network, validator, epoch, key: [7; 32], requests }
}

fn valid(target: &str) -> Vec<u8> {
    let file = &seed().session;
    match target {
        "request" => codec::encode(&file.record.request),
        "manifest" => codec::encode(&file.manifest),
        "refusal" => codec::encode(&Refusal { session: file.record.request.session_id(), reason: RefusalReason::Busy }),
        "commitment" => seed().commitment.bytes.clone(),
        "file" => file.encode(),
        "exhibit" => exhibits(file)[0].encode(),
        "epoch_log" => codec::encode(&log_of(file)),
        "proof" => seed().proof.bytes.clone(),
        "tokenizer" => file.tokenizer.clone().expect("the seed carries its tokenizer"),
        "template" => TEMPLATE.as_bytes().to_vec(),
        // An opening of zeros without columns, and changes of a byte, of a part, and of both.
        "opening" => vec![0; 2_000],
        "session" => [vec![0], vec![7; 8], vec![200, 1, 0, 0, 0, 0, 0, 255]].concat(),
        other => panic!("{other} has no valid message"),
    }
}

/// A change that knows nothing of the format.
fn changed(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(4) {
        let place = random.below(bytes.len() + 1);
        match random.below(4) {
            0 if place < bytes.len() => bytes[place] ^= 1 << random.below(8),
            1 if place < bytes.len() => bytes[place] = random.byte(),
            2 => drop(bytes.drain(place..(place + random.below(40)).min(bytes.len()))),
            _ => drop(bytes.splice(place..place, (0..random.below(12)).map(|_| random.byte()).collect::<Vec<_>>())),
        }
    }
    bytes
}

#[test]
fn no_target_finds_anything() {
    for (name, target) in ALL {
        let folder = corpus(name);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("valid"), valid(name)).unwrap();
        }
        let inputs: Vec<Vec<u8>> =
            fs::read_dir(&folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(inputs.contains(&valid(name)), "{name}: the corpus lacks the valid message");
        inputs.par_iter().for_each(|input| target(input));
        let begun = Instant::now();
        let runs = (0..u64::MAX)
            .into_par_iter()
            .take_any_while(|_| begun.elapsed() < BEYOND)
            .map(|number| {
                let mut random = Random::new(number);
                target(&changed(inputs[random.below(inputs.len())].clone(), &mut random));
            })
            .count();
        println!("{name}: {} inputs of the corpus, {runs} beyond", inputs.len());
    }
}
