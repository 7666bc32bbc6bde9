//! What is held in memory while somebody's bytes are read and judged: in proportion to their number, whatever lengths
//! they state. One test, because the allocator counts for all threads.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::fs;
use std::path::PathBuf;

use assay_audit::prompt::{ChatTemplate, Tokenizer};
use assay_tamper::targets::{ALL, Target};
use peak_alloc::PeakAlloc;
use rayon::ThreadPoolBuilder;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;
/// Lengths that are put where others stand. All are more than follows, and some less than what a bound of ours allows.
const LENGTHS: [u32; 4] = [u32::MAX, 1 << 24, 1 << 20, 1 << 16];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target)
}

/// Most bytes that a target may hold for an input of so many.
fn most(name: &str, bytes: usize) -> usize {
    match name {
        // A text of the most bytes that a template may print, as it grows, and what it is put together from.
        "template" => 64 * MIB,
        // A library's tables and its expressions, which are compiled.
        "tokenizer" => 64 * bytes + 8 * MIB,
        // The changes that a script chooses from are listed.
        "session" => 16 * MIB,
        _ => 16 * bytes + MIB / 4,
    }
}

/// What a target holds for an input at most; fails if that is too much.
fn held(name: &str, target: Target, input: &[u8]) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    target(input);
    let held = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(held <= most(name, input.len()), "{name}: {held} bytes for {} of {input:?}", input.len());
    held
}

fn watch(name: &str, target: Target) {
    let valid = fs::read(corpus(name).join("valid")).unwrap();
    // What is made once is not an input's.
    target(&valid);
    let known = fs::read_dir(corpus(name)).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let of_known = known.map(|input| held(name, target, &input)).max().unwrap_or(0);
    // A proof is checked up to what is wrong in it, every time.
    let lengths = if name == "proof" { &LENGTHS[..1] } else { &LENGTHS };
    let places = 0..valid.len().saturating_sub(3);
    let long = lengths.iter().flat_map(|length| places.clone().map(|place| (length.to_le_bytes(), place)));
    let of_long = long.map(|(length, place)| {
        let mut input = valid.clone();
        input[place..place + 4].copy_from_slice(&length);
        held(name, target, &input)
    });
    println!("{name}: at most {of_known} bytes for what is known, {} for long lengths", of_long.max().unwrap_or(0));
}

/// What is left of tokenizers that are gone: transcripts of a thousand models may be judged one after the other.
fn watch_what_tokenizers_leave_behind() {
    let file =
        fs::read(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/model/tokenizer.json"))).unwrap();
    let words: Vec<String> = (0..10_000).map(|number: u32| format!("{:x}", number.wrapping_mul(0x9e37_79b9))).collect();
    let text = words.join(" ");
    let tokenise = || Tokenizer::from_bytes(&file).unwrap().encode(&text).unwrap().len();
    let tokens = tokenise();
    assert!(tokens > words.len());
    let before = ALLOCATOR.current_usage();
    for _ in 0..16 {
        assert_eq!(tokenise(), tokens);
    }
    let left = ALLOCATOR.current_usage().saturating_sub(before);
    assert!(left <= MIB / 4, "{left} bytes of 16 tokenizers are left");
}

/// What is left of renderings whose namespaces hold themselves, in a list and in what a macro encloses, with a megabyte each;
/// and of those that fail, or over which the engine breaks off.
fn watch_what_templates_leave_behind() {
    let holding = "{% set ns = namespace(s='x' * (messages | length + 1000000)) %}{% set ns.a = [ns] %}\
                   {% macro f() %}{{ ns.s }}{% endmacro %}{% set ns.f = f %}";
    let panic = "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}";
    for (end, text) in [("done", Some("done")), ("{{ raise_exception('no') }}", None), (panic, None)] {
        let template = ChatTemplate::from_bytes([holding, end].concat().as_bytes()).unwrap();
        let render = || template.render(&[]).ok();
        assert_eq!(render().as_deref(), text);
        let before = ALLOCATOR.current_usage();
        for _ in 0..16 {
            assert_eq!(render().as_deref(), text);
        }
        let left = ALLOCATOR.current_usage().saturating_sub(before);
        assert!(left <= MIB / 4, "{left} bytes of 16 renderings are left");
    }
}

#[test]
fn no_input_takes_more_memory_than_its_length_allows() {
    // Threads have room of their own.
    let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        watch_what_tokenizers_leave_behind();
        watch_what_templates_leave_behind();
        ALL.iter().for_each(|(name, target)| watch(name, *target));
    });
}
