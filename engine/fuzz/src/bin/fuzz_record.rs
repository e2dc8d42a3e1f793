//! Runs [`meed_fuzz::record`] under the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meed_fuzz::record(data));
