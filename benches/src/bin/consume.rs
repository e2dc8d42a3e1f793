//! Consumes meed's topics to their ends and says whether the stream is what it promises to be.

use std::process::ExitCode;
use std::time::Instant;

use meed_benches::consumer::{Apart, Nodes, check_topics};
use meed_benches::flags::{self, Flags};
use meed_schemas::event::{BALANCES_TOPIC, EVENTS_TOPIC};

const USAGE: &str = "\
consume: proves that no event is missing, out of order or changed, and rebuilds every balance

  --brokers HOST:PORT,…   brokers (127.0.0.1:19092)
  --events TOPIC          the topic of events (loyalty.account.events.v1)
  --balances TOPIC|off    the compacted topic (loyalty.account.balances.v1)
  --journal FILE          compare with a program's events as `curl …/api/v1/events` wrote them
  --nodes running|stopped what nodes do meanwhile (running). Stopped ones have published everything: the compacted
                          topic must have the newest balance of every account. One that runs may not have flushed it
                          yet, so that is only counted.
";

fn run(mut flags: Flags) -> Result<(), String> {
    let brokers: String = flags.value("brokers", "127.0.0.1:19092".to_owned())?;
    let events: String = flags.value("events", EVENTS_TOPIC.to_owned())?;
    let balances: String = flags.value("balances", BALANCES_TOPIC.to_owned())?;
    let journal: Option<String> = flags.optional("journal")?;
    let nodes = match flags.value("nodes", "running".to_owned())?.as_str() {
        "running" => Nodes::Running,
        "stopped" => Nodes::Stopped,
        other => return Err(format!("--nodes {other}: it is running or stopped")),
    };
    flags.finish()?;
    let balances = Some(balances.as_str()).filter(|topic| *topic != "off");
    let began = Instant::now();
    let (check, apart) = check_topics(&brokers, &events, balances, nodes)?;
    let took = began.elapsed();
    println!(
        "{} events of {} accounts, {} that came again, all the same; no gap; every balance rebuilt; {} messages of \
         balances agree: {} ms",
        check.events,
        check.accounts(),
        check.again,
        check.balance_messages,
        took.as_millis()
    );
    if apart != Apart::default() {
        println!(
            "{} accounts whose newest balance is not flushed yet, {} whose balance is newer than the events read, {} \
             whose newest operation was read in part",
            apart.behind, apart.ahead, apart.unfinished
        );
    }
    if let Some(file) = journal {
        let lines = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let count = check.compare(&lines)?;
        let further = check.events - count;
        println!("{count} events of the journal were consumed with the same bytes, and {further} that are not in it");
    }
    Ok(())
}

fn main() -> ExitCode {
    flags::main(USAGE, run)
}
