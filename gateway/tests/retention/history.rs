//! A data folder whose journal begins years ago, made with the parts of the engine and a clock of its own.

use std::path::Path;
use std::sync::Arc;

use meed_engine::account::Totals;
use meed_engine::commit::Lane;
use meed_engine::disk::Disk;
use meed_engine::folder::FolderIdentity;
use meed_engine::journal::{Journal, JournalOptions};
use meed_engine::program::{Program, Programs};
use meed_engine::secrets::Secrets;
use meed_engine::shard::{Envelope, Held, Input, Output, Shard, ShardLimits, ShardStart, World};
use meed_schemas::command::{Basis, Command, Earn, Keys, Request, RequestId};
use meed_schemas::ids::Identity;
use meed_schemas::program::Document;
use meed_schemas::time::Millis;

/// Points that do not expire, so that only the segments are old.
const DOCUMENT: &str = r#"{"name":"old","time_zone":"UTC","currency":"USD",
    "earning":{"points":1,"per_amount":"1.00"},"expiry":"none","late_days_max":null}"#;
pub(crate) const SHARDS: u16 = 4;
/// Far below what the binary lets anybody set, so that little history fills several.
const SEGMENT_BYTES: u64 = 16 * 1024;

/// Earns of 5 points by the accounts `m-0`, `m-1`, …, one after the other, each with the key `k-<number>`.
pub(crate) struct History {
    pub(crate) program: String,
    pub(crate) accounts: u64,
    pub(crate) earns: u64,
}

impl History {
    fn requests(&self, secrets: &Secrets) -> Vec<Request> {
        let document = Document::parse(DOCUMENT.as_bytes()).unwrap();
        let command = Command::PutProgram { document: document.to_canonical_json().into() };
        let mut requests = vec![request(Identity::program_account(&self.program), command, Keys::default(), secrets)];
        for number in 0..self.earns {
            let basis = Basis::Points(5);
            let earn = Earn { basis, occurred_at: None, expires_at: None, activates_at: None };
            let idempotency = Some(secrets.hash_key(0, format!("k-{number}").as_bytes()));
            let account = Identity::member(&self.program, &format!("m-{}", number % self.accounts));
            let command = Command::Earn { earn, references: None };
            requests.push(request(account, command, Keys { idempotency, business: None }, secrets));
        }
        requests
    }

    /// Writes the folder; the first record is of `from`, each other one a second later.
    pub(crate) fn write(&self, data: &Path, from: Millis) {
        let disk = Disk::default();
        disk.create_dir(data).unwrap();
        let folder = FolderIdentity::open_or_create(&disk, data, Some(SHARDS)).unwrap();
        let secrets = Secrets::create(data, folder.journal_id).unwrap();
        let options = JournalOptions {
            segment_bytes: SEGMENT_BYTES,
            new_journal_id: Some(folder.journal_id),
            ..JournalOptions::new(SHARDS)
        };
        let (mut journal, ..) = Journal::open(disk, &data.join("journal"), options).unwrap();
        let mut shards: Vec<Shard> = (0..SHARDS).map(|id| Shard::new(begin(id), limits())).collect();
        let program = Program::create(&self.program, from, Document::parse(DOCUMENT.as_bytes()).unwrap()).unwrap();
        let programs = Arc::new(Programs::default().with(program));
        let mut lane = Lane::<Held>::new(vec![0; usize::from(SHARDS)], usize::MAX);
        for (number, request) in (0..).zip(self.requests(&secrets)) {
            let shard = usize::from(request.identity.shard(SHARDS));
            let now = from + number * 1_000;
            let world = World {
                now,
                settle_until: Millis::MAX,
                elapsed_ms: 0,
                may_decide: true,
                programs: Arc::clone(&programs),
            };
            let envelope = Envelope { request, to: None, deadline_ms: i64::MAX, bytes: 1 };
            shards[shard].handle(Input::Command(envelope), &world, &mut lane, &mut Output::default()).unwrap();
            let (batch, buffer) = lane.submit().unwrap();
            journal.write(&[buffer.part()]).unwrap();
            journal.sync().unwrap();
            lane.complete(batch, buffer);
        }
        journal.close().unwrap();
    }
}

fn request(identity: Identity, command: Command, keys: Keys, secrets: &Secrets) -> Request {
    let mut canonical = Vec::new();
    command.write_canonical(&mut canonical);
    let fingerprint = secrets.fingerprint(&canonical);
    Request { identity, command, keys, fingerprint, request_id: RequestId::Made(1), traceparent: None }
}

fn limits() -> ShardLimits {
    ShardLimits {
        resident_bytes: usize::MAX,
        filter_bytes: 1 << 10,
        checkpoint_records: u64::MAX,
        checkpoint_interval_ms: i64::MAX / 2,
        checkpoint_rows: 512,
        checkpoint_step: 128,
        pack_after_ms: i64::MAX / 2,
        settled_per_tick: 64,
        unbounded_loads_per_tick: 16,
    }
}

fn begin(id: u16) -> ShardStart {
    ShardStart {
        id,
        last_sequence: 0,
        last_recorded_at: 0,
        totals: Totals::default(),
        accounts: 0,
        replayed: Vec::new(),
        no_spilled_keys: true,
        seed: 1,
    }
}
