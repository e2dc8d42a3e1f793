//! Answers of reads, lists and batches, which show an account or several records.

use super::BatchFormat;
use super::answer::{Facts, write_manual_tier, write_tier};
use super::json::{self, key};
use crate::ids::Identity;
use crate::outcome::{AccountView, BalanceView, HoldState, HoldView, LotView};
use crate::program::Document;
use crate::time::Millis;

/// The media type of NDJSON, in and out.
pub const NDJSON_MEDIA_TYPE: &str = "application/x-ndjson";

/// Appends a balance, with `lots` when the view has them.
pub fn write_balance(out: &mut Vec<u8>, identity: &Identity, view: &BalanceView, facts: &impl Facts) {
    out.reserve(512);
    let document = facts.document(view.tier.version);
    json::raw(out, "{\"account_id\":");
    json::string(out, identity.id());
    json::raw(out, key!("program"));
    json::string(out, identity.program());
    json::raw(out, key!("status"));
    json::string(out, view.status.name());
    let balances = &view.balances;
    for (name, points) in [
        (key!("total_points"), balances.total),
        (key!("available_points"), balances.available()),
        (key!("pending_points"), balances.pending),
        (key!("held_points"), balances.held),
        (key!("debt_points"), balances.debt),
    ] {
        json::raw(out, name);
        json::integer(out, points);
    }
    write_tier(out, document, view.tier.level);
    json::raw(out, key!("qualifying_spend"));
    json::amount(out, view.qualifying_spend, document.currency.minor_digits);
    json::raw(out, key!("next_expiry"));
    match view.next_expiry {
        Some((points, at)) => {
            json::raw(out, "{\"points\":");
            json::integer(out, points);
            json::raw(out, key!("at"));
            json::instant(out, at);
            out.push(b'}');
        }
        None => json::raw(out, "null"),
    }
    json::raw(out, key!("sequence"));
    json::integer(out, view.sequence);
    json::raw(out, key!("last_updated"));
    json::instant(out, view.last_updated);
    if let Some(lots) = &view.lots {
        json::raw(out, concat!(key!("lots"), "["));
        write_list(out, lots, write_lot);
        out.push(b']');
    }
    out.push(b'}');
}

fn write_list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
}

fn write_lot(out: &mut Vec<u8>, lot: &LotView) {
    json::raw(out, "{\"available\":");
    json::integer(out, lot.available);
    json::raw(out, key!("held"));
    json::integer(out, lot.held);
    json::raw(out, key!("pending"));
    json::boolean(out, lot.activates_at.is_some());
    json::raw(out, key!("activates_at"));
    json::instant_or_null(out, lot.activates_at);
    json::raw(out, key!("expires_at"));
    json::instant_or_null(out, lot.expires_at);
    out.push(b'}');
}

/// Appends the open holds of an account.
pub fn write_holds(out: &mut Vec<u8>, holds: &[HoldView]) {
    json::raw(out, "{\"holds\":[");
    write_list(out, holds, write_hold);
    json::raw(out, "]}");
}

/// Appends one hold. `closed_by` is the transaction that captured or released it.
pub fn write_hold(out: &mut Vec<u8>, hold: &HoldView) {
    let (status, closed_by) = match hold.state {
        HoldState::Open => ("open", None),
        HoldState::Captured(position) => ("captured", Some(position)),
        HoldState::Voided(position) => ("voided", Some(position)),
    };
    json::raw(out, "{\"hold_id\":");
    json::position(out, hold.hold);
    json::raw(out, key!("status"));
    json::string(out, status);
    json::raw(out, key!("points"));
    json::integer(out, hold.points);
    json::raw(out, key!("expires_at"));
    json::instant_or_null(out, hold.expires_at);
    json::raw(out, key!("recorded_at"));
    json::instant(out, hold.recorded_at);
    json::raw(out, key!("closed_by"));
    match closed_by {
        Some(position) => json::position(out, position),
        None => json::raw(out, "null"),
    }
    out.push(b'}');
}

/// Appends an account.
pub fn write_account(out: &mut Vec<u8>, identity: &Identity, view: &AccountView, facts: &impl Facts) {
    json::raw(out, "{\"account_id\":");
    json::string(out, identity.id());
    json::raw(out, key!("program"));
    json::string(out, identity.program());
    json::raw(out, key!("status"));
    json::string(out, view.status.name());
    write_tier(out, facts.document(view.tier.version), view.tier.level);
    json::raw(out, key!("manual_tier"));
    match &view.manual_tier {
        Some((name, floor, until)) => write_manual_tier(out, name, *floor, *until),
        None => json::raw(out, "null"),
    }
    json::raw(out, key!("created_at"));
    json::instant(out, view.created_at);
    json::raw(out, key!("sequence"));
    json::integer(out, view.sequence);
    json::raw(out, concat!(key!("counts"), "{"));
    write_list(out, &view.counts, |out, (kind, count)| {
        json::string(out, kind.name());
        out.push(b':');
        json::integer(out, *count);
    });
    json::raw(out, "}}");
}

/// Appends the answer of a look-up.
pub fn write_lookup(out: &mut Vec<u8>, account_id: &str) {
    json::raw(out, "{\"account_id\":");
    json::string(out, account_id);
    out.push(b'}');
}

/// Appends the aliases of an account, each `kind:value`.
pub fn write_aliases<'a>(out: &mut Vec<u8>, account_id: &str, aliases: impl IntoIterator<Item = &'a str>) {
    json::raw(out, "{\"account_id\":");
    json::string(out, account_id);
    json::raw(out, concat!(key!("aliases"), "["));
    for (index, alias) in aliases.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::string(out, alias);
    }
    json::raw(out, "]}");
}

/// Appends the answer of binding an alias.
pub fn write_alias(out: &mut Vec<u8>, account_id: &str, alias: &str) {
    json::raw(out, "{\"account_id\":");
    json::string(out, account_id);
    json::raw(out, key!("alias"));
    json::string(out, alias);
    out.push(b'}');
}

/// Appends a version of a program: which it is, and the members of its document. `effective_from` is `None`
/// for a version that holds for all times.
pub fn write_program(
    out: &mut Vec<u8>,
    program: &str,
    version: u32,
    effective_from: Option<Millis>,
    document: &Document,
) {
    json::raw(out, "{\"program\":");
    json::string(out, program);
    json::raw(out, key!("version"));
    json::integer(out, version);
    json::raw(out, key!("effective_from"));
    json::instant_or_null(out, effective_from);
    out.push(b',');
    // The document's members stand among these, so its opening brace is left out.
    let canonical = document.to_canonical_json();
    json::raw(out, canonical.strip_prefix('{').unwrap_or(&canonical));
}

/// Appends what comes before the rows of a list of transactions.
pub fn write_transactions_start(out: &mut Vec<u8>) {
    json::raw(out, "{\"transactions\":[");
}

/// Appends what comes after the rows, which are separated by commas. `next` is the cursor of the next row,
/// if there is one.
pub fn write_transactions_end(out: &mut Vec<u8>, total_count: u64, next: Option<&str>) {
    json::raw(out, concat!("]", key!("total_count")));
    json::integer(out, total_count);
    json::raw(out, key!("has_more"));
    json::boolean(out, next.is_some());
    json::raw(out, key!("next"));
    json::string_or_null(out, next);
    out.push(b'}');
}

/// Writes the answer of a batch, item by item in their order.
#[derive(Debug)]
pub struct BatchWriter {
    format: BatchFormat,
    items: usize,
}

impl BatchWriter {
    /// Begins an answer in the format of the request.
    pub fn start(out: &mut Vec<u8>, format: BatchFormat) -> Self {
        if format == BatchFormat::Json {
            json::raw(out, "{\"results\":[");
        }
        Self { format, items: 0 }
    }

    /// Appends one item's result; `body` writes one JSON value.
    pub fn item(&mut self, out: &mut Vec<u8>, status: u16, replayed: bool, body: impl FnOnce(&mut Vec<u8>)) {
        if self.items > 0 && self.format == BatchFormat::Json {
            out.push(b',');
        }
        self.items += 1;
        json::raw(out, "{\"status\":");
        json::integer(out, status);
        json::raw(out, key!("replayed"));
        json::boolean(out, replayed);
        json::raw(out, key!("body"));
        body(out);
        out.push(b'}');
        if self.format == BatchFormat::Ndjson {
            out.push(b'\n');
        }
    }

    /// Ends the answer.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.format == BatchFormat::Json {
            json::raw(out, "]}");
        }
    }
}
