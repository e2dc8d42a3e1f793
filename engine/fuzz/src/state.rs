use std::path::Path;

use meed_engine::account::{Account, FactKey, Facts, Totals};
use meed_engine::store::snapshot::SnapshotReader;
use meed_schemas::ids::Identity;

/// What the state store and a snapshot hold. The first byte chooses what the rest is taken for.
pub fn state(data: &[u8]) {
    let Some((&kind, bytes)) = data.split_first() else { return };
    match kind % 8 {
        0 => account(&Identity::program_account("default"), bytes),
        1..=3 => account(&Identity::member("default", "m-1"), bytes),
        4 => totals(bytes),
        5 => snapshot(bytes),
        _ => facts(bytes),
    }
}

fn account(identity: &Identity, bytes: &[u8]) {
    let Ok(account) = Account::decode(identity, bytes) else { return };
    let mut again = Vec::new();
    account.encode(&mut again);
    let mut third = Vec::new();
    match Account::decode(identity, &again) {
        Ok(account) => account.encode(&mut third),
        Err(error) => panic!("what was decoded does not come back: {error}"),
    }
    assert_eq!(again, third);
    let _ = account.next_due();
}

fn totals(bytes: &[u8]) {
    let Ok(totals) = Totals::decode(bytes) else { return };
    let mut again = Vec::new();
    totals.encode(&mut again);
    assert_eq!(Totals::decode(&again), Ok(totals));
}

fn snapshot(bytes: &[u8]) {
    let Ok(mut reader) = SnapshotReader::new(bytes, Path::new("snapshot")) else { return };
    let mut last = None;
    while let Ok(Some((identity, _))) = reader.next_account() {
        assert!(last.as_ref() < Some(&identity), "accounts out of order");
        last = Some(identity);
    }
    let _ = reader.finish();
}

fn facts(bytes: &[u8]) {
    let keys = [
        FactKey::Key { hash: 1, business: false },
        FactKey::Reversed(1),
        FactKey::ExpiredLot(1),
        FactKey::ClosedHold(1),
    ];
    for key in keys {
        let _ = Facts::default().add_fact(key, Some(bytes));
    }
}
