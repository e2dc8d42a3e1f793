//! The JSON data of an event, and the value of the compacted topic.

use super::Documents;
use crate::http::json::{self, key};
use crate::http::{write_award, write_lot, write_manual_tier, write_reversed, write_tier};
use crate::ids::{Identity, Position};
use crate::program::Document;
use crate::record::{Balances, Detail, LotKey, ManualTier, Move, Record, RecordKind};
use crate::time::{Millis, NEVER};

/// Appends the data of a record's event: a JSON object without white space. Members that a record does not
/// have are left out.
pub fn write_data(out: &mut Vec<u8>, record: &Record, documents: Documents<'_>) {
    out.reserve(768);
    json::raw(out, "{\"transaction_id\":");
    json::position(out, record.position);
    write_account(out, &record.identity);
    json::raw(out, concat!(key!("type"), "\""));
    json::raw(out, record.kind.name());
    json::raw(out, concat!("\"", key!("sequence")));
    json::integer(out, record.sequence);
    json::raw(out, key!("points"));
    json::integer(out, record.points);
    write_balances(out, &record.balances);
    write_tier(out, documents.newest, record.tier);
    json::raw(out, key!("program_version"));
    json::integer(out, record.program_version);
    json::raw(out, key!("occurred_at"));
    json::instant(out, record.occurred_at);
    json::raw(out, key!("recorded_at"));
    json::instant(out, record.recorded_at);
    write_changes(out, &record.moves);
    write_detail(out, record, documents);
    write_references(out, record);
    out.push(b'}');
}

/// What the compacted topic says of an account: a record's part of it, small enough to keep for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The account's newest effect.
    pub position: Position,
    /// Its account sequence.
    pub sequence: u64,
    /// After the whole operation.
    pub balances: Balances,
    /// Level of the tier after the operation, in `newest_version`.
    pub tier: u8,
    /// Newest version of the program when it was recorded.
    pub newest_version: u32,
    /// When it was recorded.
    pub recorded_at: Millis,
}

impl Balance {
    /// Of an effect.
    pub fn of(record: &Record) -> Self {
        Self {
            position: record.position,
            sequence: record.sequence,
            balances: record.balances,
            tier: record.tier,
            newest_version: record.newest_version,
            recorded_at: record.recorded_at,
        }
    }
}

/// Appends the value of the compacted topic; the document is of the balance's newest version.
pub fn write_balance(out: &mut Vec<u8>, identity: &Identity, balance: &Balance, newest: &Document) {
    out.reserve(384);
    json::raw(out, "{\"transaction_id\":");
    json::position(out, balance.position);
    write_account(out, identity);
    json::raw(out, key!("sequence"));
    json::integer(out, balance.sequence);
    write_balances(out, &balance.balances);
    write_tier(out, newest, balance.tier);
    json::raw(out, key!("recorded_at"));
    json::instant(out, balance.recorded_at);
    out.push(b'}');
}

fn write_account(out: &mut Vec<u8>, identity: &Identity) {
    json::raw(out, key!("program"));
    json::string(out, identity.program());
    json::raw(out, concat!(key!("account_kind"), "\""));
    json::raw(out, identity.kind().name());
    json::raw(out, concat!("\"", key!("account_id")));
    json::string(out, identity.id());
}

fn write_balances(out: &mut Vec<u8>, balances: &Balances) {
    json::raw(out, key!("total_points"));
    json::integer(out, balances.total);
    json::raw(out, key!("available_points"));
    json::integer(out, balances.available());
    json::raw(out, key!("pending_points"));
    json::integer(out, balances.pending);
    json::raw(out, key!("held_points"));
    json::integer(out, balances.held);
    json::raw(out, key!("debt_points"));
    json::integer(out, balances.debt);
}

/// The lots touched, in order.
fn write_changes(out: &mut Vec<u8>, moves: &[Move]) {
    json::raw(out, concat!(key!("lots"), "["));
    for (index, moved) in moves.iter().enumerate() {
        json::raw(out, if index == 0 { "{\"change\":\"" } else { ",{\"change\":\"" });
        json::raw(out, moved.op.name());
        json::raw(out, concat!("\"", key!("points")));
        json::integer(out, moved.points);
        let LotKey { expires_at, activates_at } = moved.lot;
        if expires_at != NEVER {
            json::raw(out, key!("expires_at"));
            json::instant(out, expires_at);
        }
        if let Some(at) = activates_at {
            json::raw(out, key!("activates_at"));
            json::instant(out, at);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn write_detail(out: &mut Vec<u8>, record: &Record, documents: Documents<'_>) {
    match &record.detail {
        Detail::Earn { .. } => write_earn(out, &record.detail, documents.decided),
        Detail::Redeem { hold: Some(hold) } => {
            json::raw(out, key!("hold_id"));
            json::position(out, *hold);
        }
        Detail::Adjust { expires_at, activates_at } if record.points > 0 => write_lot(out, *expires_at, *activates_at),
        Detail::Reversal { .. } => write_reversed(out, &record.detail, documents.decided),
        Detail::Hold { expires_at } => {
            json::raw(out, key!("hold_id"));
            json::position(out, record.position);
            json::raw(out, key!("expires_at"));
            json::instant_or_null(out, *expires_at);
        }
        Detail::Void { hold, reason } => {
            json::raw(out, key!("hold_id"));
            json::position(out, *hold);
            json::raw(out, key!("release_reason"));
            json::string(out, reason.name());
        }
        Detail::Activate { moved_points } => {
            json::raw(out, key!("moved_points"));
            json::integer(out, *moved_points);
        }
        Detail::Tier { from, to, manual } => write_tier_change(out, from, to, manual.as_deref()),
        Detail::Status { status, previous } => {
            json::raw(out, key!("account_status"));
            json::string(out, status.name());
            json::raw(out, key!("previous_account_status"));
            json::string(out, previous.name());
        }
        Detail::None if record.kind == RecordKind::Open => {
            json::raw(out, concat!(key!("account_status"), "\"active\""));
        }
        Detail::Program { document } => {
            json::raw(out, key!("document"));
            json::raw(out, document);
        }
        Detail::None
        | Detail::Redeem { hold: None }
        | Detail::Adjust { .. }
        | Detail::Refusal { .. }
        | Detail::Key { .. } => {}
    }
}

fn write_earn(out: &mut Vec<u8>, detail: &Detail, decided: &Document) {
    let Detail::Earn { expires_at, activates_at, award, redemption } = detail else { return };
    write_lot(out, *expires_at, *activates_at);
    if let Some(award) = award {
        json::raw(out, key!("currency"));
        json::string(out, decided.currency.code());
        write_award(out, award, decided);
    }
    if let Some(redemption) = redemption {
        json::raw(out, key!("redemption_id"));
        json::position(out, redemption.position);
        json::raw(out, key!("redeemed_points"));
        json::integer(out, redemption.points);
    }
}

/// `manual_tier` stands only where the tier was set or removed by hand.
fn write_tier_change(out: &mut Vec<u8>, from: &str, to: &str, manual: Option<&ManualTier>) {
    json::raw(out, key!("previous_tier"));
    json::string(out, from);
    json::raw(out, key!("resulting_tier"));
    json::string(out, to);
    let Some(manual) = manual else { return };
    json::raw(out, key!("manual_tier"));
    match &manual.name {
        Some(name) => write_manual_tier(out, name, manual.floor, manual.until),
        None => json::raw(out, "null"),
    }
}

fn write_references(out: &mut Vec<u8>, record: &Record) {
    let Some(references) = record.references.as_deref() else { return };
    for (name, text) in [
        (key!("source"), &references.source),
        (key!("reference_id"), &references.reference_id),
        (key!("description"), &references.description),
        (key!("reason"), &references.reason),
        (key!("reward_id"), &references.reward_id),
        (key!("store_id"), &references.store_id),
        (key!("terminal_id"), &references.terminal_id),
        (key!("pos_transaction_id"), &references.pos_transaction_id),
    ] {
        if let Some(text) = text {
            json::raw(out, name);
            json::string(out, text);
        }
    }
    if let Some(metadata) = &references.metadata {
        json::raw(out, key!("metadata"));
        json::raw(out, metadata);
    }
}
