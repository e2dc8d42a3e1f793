#![allow(clippy::unwrap_used)]

use meed_engine::journal::{JournalOptions, SEGMENT_BYTES_MAX};
use meed_schemas::ids::SHARDS_MAX;

use super::*;

fn file(text: &str) -> Result<Loaded, SettingError> {
    load(Some((Path::new("meed.toml"), text)), [], &[])
}

fn flag(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn later_sources_win_and_are_named() {
    let text = "shards = 32\nworkers = 3\nbody_bytes = \"32KiB\"";
    let environment = [flag("MEED_SHARDS", "64"), flag("MEED_WORKERS", "5"), flag("MEED_PORT", "tcp://1")];
    let loaded = load(Some((Path::new("meed.toml"), text)), environment, &[flag("workers", "7")]).unwrap();
    assert_eq!(loaded.settings.body_bytes, ByteSize(32 << 10));
    assert_eq!(loaded.settings.shards, 64);
    assert_eq!(loaded.settings.workers, 7);
    assert_eq!(loaded.source("data"), Some(Source::Default));
    assert_eq!(loaded.source("body_bytes"), Some(Source::File));
    assert_eq!(loaded.source("shards"), Some(Source::Environment));
    assert_eq!(loaded.source("workers"), Some(Source::Flag));
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let flags =
        [flag("programs", "a.json,b \"c\".json"), flag("metrics_listen", "off"), flag("memory_bytes", "1_000_001")];
    let loaded = load(None, [], &flags).err();
    assert!(loaded.unwrap().0.contains("--memory-bytes must be from 1048576"), "bounds hold");
    let loaded = load(None, [], &flags[..2]).unwrap();
    let again = file(&loaded.show()).unwrap();
    assert_eq!(again.settings, loaded.settings);
    assert_eq!(again.settings.programs.len(), 2);
    assert_eq!(again.settings.metrics_listen, OptionalAddress(None));
    assert!(loaded.show().contains("metrics_listen = \"off\"  # flag"));
}

#[test]
fn properties_of_the_kafka_client_are_in_the_file() {
    let text = "kafka = \"b:1\"\n[kafka_properties]\n\"linger.ms\" = 5\n\"sasl.password\" = \"hush\"\n";
    let loaded = file(text).unwrap();
    assert_eq!(loaded.settings.kafka_properties["linger.ms"], "5");
    let shown = loaded.show();
    assert!(shown.contains("[kafka_properties]\n\"linger.ms\" = \"5\"\n") && !shown.contains("hush"), "{shown}");
    assert_eq!(file(&shown).unwrap().settings.kafka_properties.len(), 2);
    let refused = file("[kafka_properties]\nlinger = [1]").err().unwrap().0;
    assert!(refused.contains("table of plain values"), "{refused}");
}

#[test]
fn messages_name_what_is_wrong() {
    let message = |result: Result<Loaded, SettingError>| result.err().unwrap().0;
    assert!(message(file("shard = 3")).contains("unknown setting `shard`"));
    assert!(message(file("shards = \"many\"")).contains("`shards` must be an integer"));
    assert!(message(file("shards = 1.5")).contains("`shards` must be"));
    assert!(message(file("shards = 5000")).contains("from 1 to 4096"));
    assert!(message(file("shards =")).contains("is not TOML"));
    assert!(message(load(None, [], &[flag("journal", "cql")])).contains("--cql-nodes HOST:PORT"));
    assert!(message(load(None, [], &[flag("cql_nodes", "a:1")])).contains("without --journal cql"));
    assert!(message(load(None, [], &[flag("kafka_events_topic", "")])).contains("must be 1 to 249 letters"));
    assert!(message(load(None, [], &[flag("kafka_balances_topic", "a b")])).contains("not `a b`"));
    assert!(message(load(None, [], &[flag("kafka_balances_topic", EVENTS_TOPIC)])).contains("are both `loyalty"));
    assert!(message(load(None, [], &[flag("journal", "tape")])).contains("must be one of `embedded` `cql`"));
    assert!(message(load(None, [flag("MEED_LISTEN", "nowhere")], &[])).contains("MEED_LISTEN must be HOST:PORT"));
    assert!(message(file("[[credentials]]\nname = \"a\"\ntoken = \"b\"")).contains("token"));
}

#[test]
fn an_open_node_stays_on_loopback() {
    let message = load(None, [], &[flag("listen", "0.0.0.0:8080")]).err().unwrap().0;
    assert!(message.contains("loopback only"), "{message}");
    assert!(load(None, [], &[flag("listen", "[::1]:0"), flag("metrics_listen", "[::1]:0")]).is_ok());
    let message = load(None, [], &[flag("metrics_listen", "0.0.0.0:9464")]).err().unwrap().0;
    assert!(message.contains("--metrics-listen 0.0.0.0:9464 is refused"), "{message}");
    assert!(load(None, [], &[flag("metrics_listen", "off")]).is_ok());
    let with = format!(
        "listen = \"0.0.0.0:0\"\nmetrics_listen = \"0.0.0.0:9464\"\n[[credentials]]\nname = \"till\"\ntoken_sha256 = \"{}\"\nprogram = \"p\"\nroles = [\"operate\"]",
        "ab".repeat(32)
    );
    let loaded = file(&with).unwrap();
    assert!(!loaded.show().contains("abab"), "digests are not shown");
    assert!(loaded.show().contains("redacted"));
}

#[test]
fn credentials_are_bounded() {
    let some = |count: usize| {
        let one = |n| CredentialSetting {
            name: format!("till-{n}"),
            token_sha256: format!("{n:064x}"),
            program: "p".to_owned(),
            roles: vec!["operate".to_owned()],
        };
        check(&Settings { credentials: (0..count).map(one).collect(), ..Settings::default() })
    };
    assert_eq!(some(CREDENTIALS_MAX), Ok(()));
    assert_eq!(some(CREDENTIALS_MAX + 1).unwrap_err().0, "`credentials` may have at most 10000 entries");
}

#[test]
fn segments_are_as_long_as_the_journal_takes_them() {
    let segments = |bytes: u64| load(None, [], &[flag("segment_bytes", &bytes.to_string())]);
    for bytes in [1 << 20, SEGMENT_BYTES_MAX] {
        let loaded = segments(bytes).unwrap();
        let options =
            JournalOptions { segment_bytes: loaded.settings.segment_bytes.0, ..JournalOptions::new(SHARDS_MAX) };
        assert_eq!(options.check().err().map(|error| error.to_string()), None, "{bytes}");
    }
    for bytes in [1 << 19, SEGMENT_BYTES_MAX + 512, 2 * SEGMENT_BYTES_MAX, (1 << 20) + 1] {
        let message = segments(bytes).err().unwrap().0;
        assert!(message.contains("--segment-bytes"), "{message}");
    }
}

#[test]
fn names_are_unique_and_defaults_are_within_their_bounds() {
    for (index, declared) in DECLARED.iter().enumerate() {
        assert!(DECLARED[..index].iter().all(|other| other.name != declared.name), "{}", declared.name);
        let shown = declared.value(&Settings::default());
        let line = format!("{} = {shown}", declared.name);
        assert!(file(&line).is_ok(), "{line}");
    }
}

#[test]
fn a_node_of_a_cluster_may_be_reached_elsewhere_than_it_listens() {
    let cluster = |more: &[(&str, &str)]| {
        let flags = [("journal", "cql"), ("cql_nodes", "a:1"), ("owner_listen", "0.0.0.0:7000")];
        let flags: Vec<_> = flags.iter().chain(more).map(|(name, value)| flag(name, value)).collect();
        load(None, [], &flags)
    };
    assert!(cluster(&[]).err().unwrap().0.contains("--advertise"), "nobody reaches 0.0.0.0");
    let loaded = cluster(&[("advertise", "meed-1:7000")]).unwrap();
    assert_eq!(loaded.settings.advertise, OptionalPeer(Some(Peer::Tcp("meed-1:7000".into()))));
    assert!(cluster(&[("advertise", "unix:a")]).err().unwrap().0.contains("--advertise HOST:PORT"));
    let alone = load(None, [], &[flag("advertise", "meed-1:7000")]);
    assert!(alone.err().unwrap().0.contains("node of a cluster"));
}
