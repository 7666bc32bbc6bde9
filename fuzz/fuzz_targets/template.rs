#![no_main]
//! What panics in the libraries that read a template is an error, and not for libFuzzer to end at.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    assay_tamper::targets::template(bytes);
});
