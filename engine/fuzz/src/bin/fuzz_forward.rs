//! Runs [`meed_fuzz::forward`] under the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meed_fuzz::forward(data));
