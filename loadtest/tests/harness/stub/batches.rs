//! Several earns in one request.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::{Reply, Request, State, Vice, apply};

/// `None`: no answer, the connection ends.
pub(super) fn batch(state: &Mutex<State>, vice: Vice, request: &Request) -> Option<Reply> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let items: Vec<(&str, &str, i64)> = body["items"].as_array().unwrap().iter().map(item).collect();
    let overloaded = (503, json!({"type": "/problems/overloaded"}), "Retry-After: 1\r\n");
    let mut guard = state.lock().unwrap();
    let state = &mut *guard;
    state.batches += 1;
    let is_turn = |every: u64| state.batches.is_multiple_of(every);
    let is_known = |(account, key, _): &(&str, &str, i64)| {
        state.accounts.get(*account).into_iter().flatten().any(|one| one.key == *key)
    };
    let failed = |status| Some((status, json!({"type": "/problems/outcome-unknown"}), ""));
    let (applies, reply) = match vice {
        Vice::DropsAndRefuses(_) if items.iter().any(is_known) => (false, Some(Some(overloaded))),
        Vice::DropsAndRefuses(every) if is_turn(every) => (true, Some(None)),
        Vice::RefusesAndApplies(every) if is_turn(every) => (true, Some(Some(overloaded))),
        Vice::FailsBatches(status) => (is_turn(2), Some(failed(status))),
        _ => (true, None),
    };
    let mut results = Vec::new();
    for (account, key, points) in items.into_iter().filter(|_| applies) {
        state.earns += 1;
        let told = apply(state, account, key, state.earns, points);
        results.push(json!({"status": 201, "replayed": false, "body": told}));
    }
    if vice == Vice::MiscountsBatches {
        results.pop();
    }
    reply.unwrap_or_else(|| Some((207, json!({"results": results}), "")))
}

/// Account, key, points.
fn item(item: &Value) -> (&str, &str, i64) {
    let text = |name: &str| item[name].as_str().unwrap();
    (text("account"), text("idempotency_key"), item["points"].as_i64().unwrap())
}
