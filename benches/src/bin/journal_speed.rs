//! Prints how fast the journal writes and scans in a folder.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use meed_engine::disk::Disk;
use meed_engine::journal::{Journal, JournalOptions, JournalReader, Part, Run, frame};
use meed_schemas::ids::Position;

const USAGE: &str = "\
journal_speed [DIR] [BATCHES]: how fast the journal alone writes, syncs and scans.

  DIR      where; it keeps the journal, which grows with each run; ./journal-speed
  BATCHES  of 256 records of 240 bytes each, 5000
";

const SHARDS: u16 = 16;
const RECORD_BYTES: usize = 240;
const RECORDS: u64 = 256;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let batches = arguments.get(1).map_or(Ok(5_000), |text| text.parse());
    let (false, true, Ok(batches)) = (arguments.iter().any(|a| a.starts_with('-')), arguments.len() <= 2, batches)
    else {
        eprint!("error: unexpected arguments\n\n{USAGE}");
        return ExitCode::from(2);
    };
    let dir = PathBuf::from(arguments.first().map_or("journal-speed", String::as_str));
    match run(&dir, batches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(dir: &Path, batches: u64) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let (mut journal, reader, recovered) = Journal::open(Disk::default(), dir, JournalOptions::new(SHARDS))?;
    println!("open: {} ms, up to batch {}", begun.elapsed().as_millis(), recovered.last_batch);

    let mut last = recovered.last_sequence;
    write(&mut journal, &mut last, batches)?;
    read(&reader, &last)?;
    let begun = Instant::now();
    journal.close()?;
    println!("close: {} ms", begun.elapsed().as_millis());
    Ok(())
}

fn write(journal: &mut Journal, last: &mut [u64], batches: u64) -> Result<(), Box<dyn Error>> {
    let payload = [7; RECORD_BYTES];
    let (mut bytes, mut runs) = (Vec::new(), Vec::new());
    let (mut write_us, mut latencies_us) = (0, Vec::new());
    let mut longest = 0;
    for _ in 0..batches {
        bytes.clear();
        runs.clear();
        for shard in 0..SHARDS {
            let count = RECORDS / u64::from(SHARDS);
            let first_sequence = last[usize::from(shard)] + 1;
            runs.push(Run { shard, first_sequence, count: count as u32 });
        }
        for record in 0..RECORDS {
            let shard = (record % u64::from(SHARDS)) as u16;
            last[usize::from(shard)] += 1;
            let start = frame::begin(&mut bytes, Position::new(shard, last[usize::from(shard)]));
            bytes.extend_from_slice(&payload);
            frame::finish(&mut bytes, start)?;
        }
        let begun = Instant::now();
        journal.write(&[Part { bytes: &bytes, runs: &runs }])?;
        write_us += begun.elapsed().as_micros();
        journal.sync()?;
        let took_us = begun.elapsed().as_micros();
        longest = longest.max(took_us);
        latencies_us.push(took_us);
    }
    let total_us: u128 = latencies_us.iter().sum();
    latencies_us.sort_unstable();
    let at = |percent: usize| latencies_us[(latencies_us.len() - 1) * percent / 100];
    println!(
        "write + sync of {} KiB: {}/s; p50 {} us, p99 {} us, max {longest} us; of it write {} us",
        bytes.len() / 1024,
        u128::from(batches) * 1_000_000 / total_us,
        at(50),
        at(99),
        write_us / u128::from(batches),
    );
    Ok(())
}

fn read(reader: &JournalReader, last: &[u64]) -> Result<(), Box<dyn Error>> {
    for (name, chosen) in [("all", u16::MAX), ("half", SHARDS / 2)] {
        let (begun, mut read_bytes, mut records) = (Instant::now(), 0, 0_u64);
        reader.scan(&[], &|shard| shard < chosen, &mut |_, payload| {
            read_bytes += payload.len() as u64;
            records += 1;
            Ok(())
        })?;
        let took_us = begun.elapsed().as_micros().max(1) as u64;
        println!(
            "scan of {name} shards: {records} records, {} MB of payload/s, {} records/s",
            read_bytes / took_us,
            records * 1_000_000 / took_us,
        );
    }
    let begun = Instant::now();
    let reads = 20_000;
    for read in 0..reads {
        let sequence = 1 + read * 7_919 % last[0];
        if reader.read(Position::new((read % 16) as u16, sequence))?.is_none() {
            return Err("a record is missing".into());
        }
    }
    println!("point reads: {} ns each", begun.elapsed().as_nanos() / u128::from(reads));
    Ok(())
}
