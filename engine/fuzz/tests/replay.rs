//! The corpus through the targets, without a fuzzer.
#![allow(clippy::unwrap_used)]

use meed_fuzz::{TARGETS, corpus};

/// Most bytes of the whole corpus: it is in every clone.
const CORPUS_BYTES_MAX: usize = 150 * 1024;

#[test]
fn the_corpus_passes() {
    let mut bytes = 0;
    for (name, target) in TARGETS {
        let inputs = corpus::read(name).unwrap();
        assert!(inputs.len() > 10, "{name} has {} inputs", inputs.len());
        for (line, input) in inputs.iter().enumerate() {
            bytes += input.len();
            let passed = std::panic::catch_unwind(|| target(input)).is_ok();
            assert!(passed, "line {} of {name}", line + 1);
        }
        target(&[]);
        println!("{name}: {} inputs", inputs.len());
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes: minimize the corpus");
}
