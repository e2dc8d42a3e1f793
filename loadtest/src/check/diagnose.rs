//! Names the operations behind a difference.

use std::collections::{HashMap, HashSet};

use crate::check::audit::Row;
use crate::check::{Books, is_of_the_server};
use crate::ledger::{Logged, Seen, digest};
use crate::summary::Violation;

/// Turns a difference into violations. `details` is what the processes did on this and other accounts; without them,
/// for accounts beyond a bound, only the account is named.
pub(super) fn explain(books: &mut Books, account: u32, rows: &[Row], details: &[(usize, Logged)], is_explained: bool) {
    let name = books.account(account);
    let violation = |kind: &str, detail: String, operations: Vec<String>| Violation {
        kind: kind.to_owned(),
        account: name.clone(),
        detail,
        operations,
    };
    let before = books.result.violation_count;
    if is_explained {
        for (kind, detail, operations) in differences(books, account, rows, details) {
            books.violate(violation(kind, detail, operations));
        }
    }
    if books.result.violation_count == before {
        let entry = books.entries.get(&account).copied().unwrap_or_default();
        let expected = format!("{} transactions of {} points were acknowledged", entry.effects, entry.points);
        books.violate(violation("balance", format!("{expected}; its books differ"), Vec::new()));
    }
}

type Difference = (&'static str, String, Vec<String>);

fn differences(books: &Books, account: u32, rows: &[Row], details: &[(usize, Logged)]) -> Vec<Difference> {
    // Digest → key of everything acknowledged; key → how everything else ended.
    let mut acknowledged: HashMap<u64, String> = HashMap::new();
    let mut other: HashMap<String, Seen> = HashMap::new();
    for (worker, logged) in details.iter().filter(|(_, logged)| logged.account == account) {
        let key = books.key(u32::try_from(*worker).unwrap_or(u32::MAX), logged.number);
        match logged.seen {
            Seen::Acknowledged => drop(acknowledged.insert(logged.digest, key)),
            seen => drop(other.insert(key, seen)),
        }
    }
    let extra = books.extra.iter().filter(|(of, _, _)| *of == account);
    acknowledged.extend(extra.map(|(_, key, digest)| (*digest, key.clone())));
    let acknowledged_keys: HashSet<&String> = acknowledged.values().collect();
    let in_rows: HashSet<u64> = rows.iter().map(|row| digest(&row.transaction_id, row.points)).collect();
    let mut found = Vec::new();
    let mut changed_keys = HashSet::new();
    for row in rows.iter().filter(|row| !acknowledged.contains_key(&digest(&row.transaction_id, row.points))) {
        let what = format!("{} {} of {} points", row.kind, row.transaction_id, row.points);
        let key = row.key().unwrap_or_default().to_owned();
        let operations = vec![key.clone(), row.transaction_id.clone()];
        if is_of_the_server(&row.kind, row.reason.as_deref()) {
            continue;
        }
        if acknowledged_keys.contains(&key) {
            let of_key = acknowledged.iter().find(|(_, known)| **known == key).map(|(digest, _)| *digest);
            if of_key.is_some_and(|digest| in_rows.contains(&digest)) {
                found.push(("applied-twice", format!("{what} is a second effect of one request"), operations));
            } else {
                changed_keys.insert(key);
                found.push(("changed", format!("{what} is not what was acknowledged"), operations));
            }
            continue;
        }
        let why = match other.get(&key) {
            Some(Seen::Refused) => "its request was refused",
            Some(_) => "its request had no answer, and asked by its key the server did not say that it was executed",
            None => "nobody asked for it",
        };
        found.push(("not-acknowledged", format!("{what} is in the books, but {why}"), operations));
    }
    for (digest, key) in &acknowledged {
        if !in_rows.contains(digest) && !changed_keys.contains(key) {
            found.push((
                "lost",
                "a transaction was acknowledged and is not in the books".to_owned(),
                vec![key.clone()],
            ));
        }
    }
    found.sort();
    found
}
