//! Many accounts that are due at one instant.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::node::{Node, PATIENCE, metric, verified};

const ACCOUNTS: usize = 20_000;
const BATCH: usize = 5_000;

#[test]
fn everything_due_at_one_instant_expires_soon_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path(), &["--metrics-listen", "127.0.0.1:0", "--checkpoint-interval-ms", "500"]);
    let metrics = node.metrics.clone().unwrap();
    let mut client = node.client();
    let due = SystemTime::now() + Duration::from_secs(6);
    let expires_at = due.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let expires_at = meed_schemas::time::format(expires_at);
    for batch in 0..ACCOUNTS / BATCH {
        let item = |n| {
            format!(
                r#"{{"op":"earn","account":"m-{n}","points":10,"expires_at":"{expires_at}","idempotency_key":"e-{n}"}}"#
            )
        };
        let items: Vec<String> = (batch * BATCH..(batch + 1) * BATCH).map(item).collect();
        let answer = client.post("/api/v1/batch", None, &format!(r#"{{"items":[{}]}}"#, items.join(","))).unwrap();
        assert_eq!(answer.status, 207);
        assert_eq!(answer.body.matches(r#""status":201"#).count(), BATCH);
    }
    println!("{:?} before the instant everything was earned", due.duration_since(SystemTime::now()));
    let (mut latencies, mut expired_after) = (Vec::new(), None);
    let begin = Instant::now();
    while expired_after.is_none() {
        assert!(begin.elapsed() < PATIENCE, "only {} expired", metric(&metrics, "meed_points_expired"));
        for _ in 0..50 {
            let asked = Instant::now();
            client.earn("worker", 1, &format!("w-{}", latencies.len()));
            latencies.push(asked.elapsed());
        }
        if metric(&metrics, "meed_points_expired") >= (10 * ACCOUNTS) as f64 {
            expired_after = SystemTime::now().duration_since(due).ok();
        }
    }
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    println!("all expired after {expired_after:?}; p99 {p99:?}, worst {:?}", latencies.last());
    assert_eq!(client.total("m-77"), 0);
    node.stop();
    assert!(verified(folder.path()).contains("200000 expired"));
}
