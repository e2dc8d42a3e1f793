//! Runs [`meed_fuzz::journal`] under the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meed_fuzz::journal(data));
