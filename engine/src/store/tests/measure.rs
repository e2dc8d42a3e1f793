//! Figures, printed and not asserted: `cargo test -p meed-engine measure -- --nocapture`, better in a release
//! build. `MEED_MEASURE_ACCOUNTS` sets the number of accounts (1,000,000 for the figures in the README).

use std::time::Instant;

use super::*;

const BATCH: u64 = 512;

#[test]
fn measure_checkpoints_and_loads() {
    let accounts: u64 = std::env::var("MEED_MEASURE_ACCOUNTS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("state"), JOURNAL, &StoreOptions::default()).unwrap();
    // A stride that is prime to the number of accounts visits each once, in no order.
    let scattered = |n: u64| n.wrapping_mul(7_919) % accounts;
    let mut longest = std::time::Duration::ZERO;
    for (name, again) in [("new", false), ("changed", true)] {
        let started = Instant::now();
        let mut batches = 0u64;
        for first in (0..accounts).step_by(BATCH as usize) {
            let writes = (first..accounts.min(first + BATCH)).map(|n| {
                let (at, spread) = (scattered(n) as i64, 1_000_000);
                AccountWrite {
                    due_before: again.then_some(at),
                    due: Some(if again { at + spread } else { at }),
                    ..write(member(scattered(n)), &[n as u8; 120])
                }
            });
            let batch = checkpoint(0, first, writes.collect());
            let begun = Instant::now();
            store.checkpoint(&batch).unwrap();
            longest = longest.max(begun.elapsed());
            batches += 1;
        }
        let micros = started.elapsed().as_micros().max(1) as u64;
        println!(
            "{accounts} {name} accounts × 120 bytes: {} checkpoints of {BATCH} a second, {} accounts a second, longest {longest:?}",
            batches * 1_000_000 / micros,
            accounts * 1_000_000 / micros,
        );
    }
    let begun = Instant::now();
    store.sync().unwrap();
    println!("sync {:?}", begun.elapsed());
    let reads = accounts.min(200_000);
    for (name, offset) in [("hit", 0), ("miss", accounts)] {
        let started = Instant::now();
        let mut found = 0u64;
        for n in 0..reads {
            found += u64::from(store.load(0, &member(offset + scattered(n))).unwrap().is_some());
        }
        let micros = started.elapsed().as_micros().max(1) as u64;
        assert_eq!(found, if offset == 0 { reads } else { 0 });
        println!("{} loads a second, {name}", reads * 1_000_000 / micros);
    }
    let begun = Instant::now();
    assert_eq!(store.due(0, Millis::MAX, None, 1000).unwrap().len(), 1000.min(accounts as usize));
    let first = begun.elapsed();
    let begun = Instant::now();
    store.due(0, Millis::MAX, None, 1000).unwrap();
    println!("1,000 due accounts behind {accounts} settled ones: first look {first:?}, next {:?}", begun.elapsed());
    drop(store);
    let begun = Instant::now();
    drop(Store::open(&dir.path().join("state"), JOURNAL, &StoreOptions::default()).unwrap());
    println!("open {:?}", begun.elapsed());
}
