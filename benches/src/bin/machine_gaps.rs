//! Prints how often, and for how long, the machine takes the processor from a program that never gives it up: on every
//! core a loop that does nothing but read the clock, for `machine_gaps [SECONDS]`, 10 by default. Run alone, what it
//! shows is the kernel's interrupts and, on a virtual machine, what the host takes without saying so. No latency
//! that is measured on the machine can be better.

use std::error::Error;
use std::time::{Duration, Instant};

/// Reading the clock takes far less.
const GAP_MIN: Duration = Duration::from_micros(200);
const SECONDS_MAX: u64 = 3_600;

/// Gaps of at least `GAP_MIN`, as they came.
fn gaps(length: Duration) -> Vec<Duration> {
    let begun = Instant::now();
    let (mut last, mut gaps) = (begun, Vec::new());
    while last - begun < length {
        let now = Instant::now();
        if now - last >= GAP_MIN {
            gaps.push(now - last);
        }
        last = now;
    }
    gaps
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    let length = Duration::from_secs(seconds.clamp(1, SECONDS_MAX));
    let cores = std::thread::available_parallelism()?.get();
    let threads: Vec<_> = (0..cores).map(|_| std::thread::spawn(move || gaps(length))).collect();
    for (core, thread) in threads.into_iter().enumerate() {
        let gaps = thread.join().map_err(|_| "a loop panicked")?;
        let longer_than = |bound_ms| gaps.iter().filter(|gap| gap.as_millis() >= bound_ms).count();
        let (lost, longest) = (gaps.iter().sum::<Duration>(), gaps.iter().max().copied().unwrap_or_default());
        println!(
            "core {core}: in {} s {} ms lost in {} gaps of 0.2 ms and more; {} of 1 ms and more, {} of 3 ms, {} of 10 ms, longest {} us",
            length.as_secs(),
            lost.as_millis(),
            gaps.len(),
            longer_than(1),
            longer_than(3),
            longer_than(10),
            longest.as_micros()
        );
    }
    Ok(())
}
