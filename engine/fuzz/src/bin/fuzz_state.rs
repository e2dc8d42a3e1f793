//! Runs [`meed_fuzz::state`] under the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meed_fuzz::state(data));
