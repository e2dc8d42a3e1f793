//! Turns the CDNOW sample of real purchases into till sales, one JSON line each, for `/api/v1/pos/batch`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use meed_benches::flags::Flags;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "cdnow [--file FILE] [--shuffle SEED] [--limit-items N --out DIR]

  --file FILE      default benches/data/cdnow-sample.txt
  --shuffle SEED   customers in a random order; each one's purchases stay in the order of time
  --limit-items N  at most so many lines a file (1 to 10000); default 10000
  --out DIR        writes DIR/cdnow-01.ndjson and so on instead of standard output";

/// Most items that one batch request takes.
const ITEMS_MAX: usize = 10_000;

/// One purchase, borrowed from the file's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Purchase<'a> {
    line: usize,
    customer: &'a str,
    /// YYYYMMDD.
    date: &'a str,
    dollars: &'a str,
}

impl<'a> Purchase<'a> {
    fn parse(line: usize, text: &'a str) -> Option<Self> {
        let mut columns = text.split_whitespace();
        let (_full, customer, date) = (columns.next()?, columns.next()?, columns.next()?);
        let (_count, dollars) = (columns.next()?, columns.next()?);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, cents) = dollars.split_once('.')?;
        let good = digits(customer) && digits(date) && date.len() == 8 && digits(whole) && digits(cents);
        (good && cents.len() == 2 && columns.next().is_none()).then_some(Self { line, customer, date, dollars })
    }

    /// The sale as a till would send it. Noon in New York is 17:00 or 16:00 UTC; 17:00 is always the same day there.
    fn sale(&self) -> String {
        let Self { line, customer, date, dollars } = self;
        let (year, month, day) = (&date[..4], &date[4..6], &date[6..]);
        format!(
            r#"{{"store_id":"cdnow","transaction_id":"{line}-{customer}","user_identifier":"c-{customer}","amount":"{dollars}","timestamp":"{year}-{month}-{day}T17:00:00Z","currency":"USD"}}"#
        )
    }
}

fn parse(text: &str) -> Result<Vec<Purchase<'_>>, String> {
    let purchase = |(index, line)| {
        Purchase::parse(index + 1, line).ok_or_else(|| format!("line {} is no purchase: {line}", index + 1))
    };
    text.lines().enumerate().map(purchase).collect()
}

/// SplitMix64: a seed gives the same order on every machine.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The file has each customer's purchases together and in the order of time.
fn shuffle_customers<'a>(purchases: &[Purchase<'a>], seed: u64) -> Vec<Purchase<'a>> {
    let mut customers: Vec<_> = purchases.chunk_by(|left, right| left.customer == right.customer).collect();
    let mut state = seed;
    for last in (1..customers.len()).rev() {
        let choices = u64::try_from(last + 1).unwrap_or(u64::MAX);
        let chosen = usize::try_from(next_random(&mut state) % choices).unwrap_or(last);
        customers.swap(last, chosen);
    }
    customers.concat()
}

fn write_files(folder: &Path, purchases: &[Purchase<'_>], limit: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, chunk) in purchases.chunks(limit).enumerate() {
        let lines: String = chunk.iter().map(|purchase| purchase.sale() + "\n").collect();
        let path = folder.join(format!("cdnow-{:02}.ndjson", number + 1));
        std::fs::write(&path, lines)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn write_standard_output(purchases: &[Purchase<'_>]) -> std::io::Result<()> {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    for purchase in purchases {
        writeln!(output, "{}", purchase.sale())?;
    }
    output.flush()
}

fn run() -> Result<(), String> {
    let mut flags = Flags::parse(std::env::args().skip(1), &["help"])?;
    if flags.switch("help") {
        println!("{USAGE}");
        return Ok(());
    }
    let file: PathBuf = flags.value("file", PathBuf::from("benches/data/cdnow-sample.txt"))?;
    let seed: Option<u64> = flags.optional("shuffle")?;
    let limit: Option<usize> = flags.optional("limit-items")?;
    let folder: Option<PathBuf> = flags.optional("out")?;
    flags.finish()?;
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut purchases = parse(&text)?;
    if let Some(seed) = seed {
        purchases = shuffle_customers(&purchases, seed);
    }
    let written = match (folder, limit) {
        (_, Some(limit)) if limit == 0 || limit > ITEMS_MAX => {
            return Err(format!("--limit-items must be 1 to {ITEMS_MAX}"));
        }
        (None, Some(_)) => return Err("--limit-items needs --out".to_owned()),
        (Some(folder), limit) => write_files(&folder, &purchases, limit.unwrap_or(ITEMS_MAX)),
        (None, None) => write_standard_output(&purchases),
    };
    match written {
        // A reader such as `head` that has seen enough is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write: {error}")),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("cdnow: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../data/cdnow-sample.txt");

    #[test]
    fn every_purchase_is_a_sale() {
        let purchases = parse(SAMPLE).unwrap();
        assert_eq!(purchases.len(), 6_919);
        assert_eq!(
            purchases[0].sale(),
            r#"{"store_id":"cdnow","transaction_id":"1-0001","user_identifier":"c-0001","amount":"29.33","timestamp":"1997-01-01T17:00:00Z","currency":"USD"}"#
        );
        let mut customers: Vec<_> = purchases.iter().map(|purchase| purchase.customer).collect();
        customers.dedup();
        assert_eq!(customers.len(), 2_357);
        customers.sort_unstable();
        customers.dedup();
        assert_eq!(customers.len(), 2_357, "a customer's purchases lie together");
        assert!(purchases.windows(2).all(|pair| pair[0].customer != pair[1].customer || pair[0].date <= pair[1].date));
    }

    #[test]
    fn shuffling_keeps_each_customers_order() {
        let purchases = parse(SAMPLE).unwrap();
        let shuffled = shuffle_customers(&purchases, 7);
        assert_ne!(purchases, shuffled);
        assert_eq!(shuffled, shuffle_customers(&purchases, 7));
        assert_ne!(shuffled, shuffle_customers(&purchases, 8));
        let mut restored = shuffled;
        restored.sort_by_key(|purchase| purchase.customer);
        assert_eq!(purchases, restored, "a stable sort by customer gives the file's order back");
    }

    #[test]
    fn a_line_of_another_shape_is_named() {
        assert_eq!(
            parse("00004 0001 19970101 2 29.3"),
            Err("line 1 is no purchase: 00004 0001 19970101 2 29.3".to_owned())
        );
        assert!(parse("00004 0001 19970101 2 29.33 1").is_err());
        assert!(parse("00004 0001 1997 2 29.33").is_err());
    }
}
