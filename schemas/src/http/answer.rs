//! Answers of operations, history rows and remembered outcomes, rendered from a record and the immutable
//! program version that it names, never from an account's state: so a replay is byte-identical.

use super::json::{self, key};
use super::problem;
use crate::ids::Position;
use crate::outcome::Refusal;
use crate::program::Document;
use crate::record::{AmountAward, Detail, MoveOp, Record, RecordKind, SaleRedemption};
use crate::time::Millis;

/// What rendering needs beside the record. Nothing of it ever changes for a given record.
pub trait Facts {
    /// A version of the program of the record that is rendered.
    fn document(&self, version: u32) -> &Document;

    /// Appends the redemption code of the REDEEM at this position: ASCII letters and digits.
    fn write_redemption_code(&self, redeem: Position, out: &mut Vec<u8>);
}

/// The status with which a record is answered.
pub fn status_of(record: &Record) -> u16 {
    match record.kind {
        RecordKind::Void | RecordKind::Tier | RecordKind::Status => 200,
        // The first version makes the program.
        RecordKind::Program if record.program_version != 1 => 200,
        RecordKind::Refusal => problem::Kind::InsufficientPoints.status(),
        _ => 201,
    }
}

/// Appends the body with which a record is answered: of an effect the answer of its operation, of a
/// remembered refusal the problem, [`problem::MEDIA_TYPE`].
///
/// There is one rendering so far. A change of what it writes for a record that exists is a new value of
/// `record.rendering` with a renderer of its own beside this one.
pub fn write_answer(out: &mut Vec<u8>, record: &Record, facts: &impl Facts) {
    if let Detail::Refusal { available_points, requested_points, request_id } = &record.detail {
        let (available_points, requested_points) = (*available_points, *requested_points);
        let refusal = Refusal::InsufficientPoints { available_points, requested_points };
        return problem::write_refusal(out, &refusal, request_id, 0);
    }
    write_operation(out, record, facts, Shape::Answer);
    out.push(b'}');
}

/// Appends a row of the history: the answer and what was said with the request.
pub fn write_row(out: &mut Vec<u8>, record: &Record, facts: &impl Facts) {
    write_row_open(out, record, facts);
    out.push(b'}');
}

/// Appends what is remembered under a key: status, body and when.
pub fn write_outcome(out: &mut Vec<u8>, record: &Record, facts: &impl Facts) {
    json::raw(out, "{\"status\":");
    json::integer(out, status_of(record));
    json::raw(out, key!("body"));
    write_answer(out, record, facts);
    json::raw(out, key!("recorded_at"));
    json::instant(out, record.recorded_at);
    out.push(b'}');
}

/// Where the members of a record are shown. The two differ in `status`, which is the account's in an
/// answer and the row's in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Answer,
    Row,
}

/// A row without its closing brace.
pub(super) fn write_row_open(out: &mut Vec<u8>, record: &Record, facts: &impl Facts) {
    write_operation(out, record, facts, Shape::Row);
    json::raw(out, key!("balance_after"));
    json::integer(out, record.balances.total);
    json::raw(out, key!("processed_at"));
    json::instant(out, record.recorded_at);
    json::raw(out, concat!(key!("status"), "\"COMPLETED\""));
    let references = record.references.as_deref();
    for (name, text) in [
        (key!("source"), references.and_then(|r| r.source.as_deref())),
        (key!("reference_id"), references.and_then(|r| r.reference_id.as_deref())),
        (key!("description"), references.and_then(|r| r.description.as_deref())),
    ] {
        json::raw(out, name);
        json::string_or_null(out, text);
    }
    json::raw(out, key!("metadata"));
    json::raw(out, references.and_then(|r| r.metadata.as_deref()).unwrap_or("null"));
    if let Some(reward_id) = references.and_then(|r| r.reward_id.as_deref()) {
        json::raw(out, key!("reward_id"));
        json::string(out, reward_id);
    }
    // A VOID has its own `reason`, which says why the hold was released.
    if let Some(reason) = references.and_then(|r| r.reason.as_deref())
        && record.kind != RecordKind::Void
    {
        json::raw(out, key!("reason"));
        json::string(out, reason);
    }
}

fn write_operation(out: &mut Vec<u8>, record: &Record, facts: &impl Facts, shape: Shape) {
    out.reserve(512);
    json::raw(out, "{\"transaction_id\":");
    json::position(out, record.position);
    json::raw(out, key!("account_id"));
    json::string(out, record.identity.id());
    json::raw(out, concat!(key!("type"), "\""));
    json::raw(out, record.kind.name());
    json::raw(out, concat!("\"", key!("points")));
    json::integer(out, record.points);
    let balances = &record.balances;
    json::raw(out, key!("new_balance"));
    json::integer(out, balances.total);
    json::raw(out, key!("available_points"));
    json::integer(out, balances.available());
    json::raw(out, key!("pending_points"));
    json::integer(out, balances.pending);
    json::raw(out, key!("held_points"));
    json::integer(out, balances.held);
    json::raw(out, key!("sequence"));
    json::integer(out, record.sequence);
    write_tier(out, facts.document(record.newest_version), record.tier);
    json::raw(out, key!("occurred_at"));
    json::instant(out, record.occurred_at);
    json::raw(out, key!("recorded_at"));
    json::instant(out, record.recorded_at);
    write_detail(out, record, facts, shape);
    write_till(out, record);
}

/// Appends `tier` and `tier_multiplier`.
pub(crate) fn write_tier(out: &mut Vec<u8>, document: &Document, level: u8) {
    let level = document.tiers.levels.get(level as usize);
    json::raw(out, key!("tier"));
    json::string_or_null(out, level.map(|level| level.name.as_str()));
    json::raw(out, key!("tier_multiplier"));
    match level {
        Some(level) => json::multiplier(out, level.multiplier),
        None => json::raw(out, "null"),
    }
}

fn write_detail(out: &mut Vec<u8>, record: &Record, facts: &impl Facts, shape: Shape) {
    match &record.detail {
        Detail::Earn { expires_at, activates_at, award, redemption } => {
            write_lot(out, *expires_at, *activates_at);
            if let Some(award) = award {
                write_award(out, award, facts.document(record.program_version));
            }
            if let Some(redemption) = redemption {
                write_sale_redemption(out, redemption, facts);
            }
        }
        Detail::Redeem { hold } => {
            write_redemption(out, record.position, facts);
            write_lots(out, record.taken());
            if let Some(hold) = hold {
                json::raw(out, key!("hold_id"));
                json::position(out, *hold);
            }
        }
        Detail::Adjust { expires_at, activates_at } if record.points > 0 => {
            write_lot(out, *expires_at, *activates_at);
        }
        Detail::Adjust { .. } => write_lots(out, record.taken()),
        Detail::Reversal { .. } => write_reversal(out, record, facts),
        Detail::Hold { expires_at } => {
            json::raw(out, key!("hold_id"));
            json::position(out, record.position);
            json::raw(out, key!("hold_points"));
            json::integer(out, moved(record, MoveOp::Hold));
            json::raw(out, key!("expires_at"));
            json::instant_or_null(out, *expires_at);
        }
        Detail::Void { hold, reason } => {
            json::raw(out, key!("hold_id"));
            json::position(out, *hold);
            json::raw(out, key!("reason"));
            json::string(out, reason.name());
            json::raw(out, key!("released_points"));
            json::integer(out, moved(record, MoveOp::Release));
        }
        Detail::Activate { moved_points } => {
            json::raw(out, key!("moved_points"));
            json::integer(out, *moved_points);
        }
        Detail::Tier { .. } => write_tier_change(out, &record.detail),
        Detail::Status { status, previous } => {
            json::raw(out, key!("account_status"));
            json::string(out, status.name());
            json::raw(out, key!("previous_account_status"));
            json::string(out, previous.name());
            write_account_status(out, status.name(), shape);
        }
        Detail::None if record.kind == RecordKind::Open => {
            json::raw(out, concat!(key!("account_status"), "\"active\"", key!("created_at")));
            json::instant(out, record.recorded_at);
            write_account_status(out, "active", shape);
        }
        Detail::Program { .. } => {
            json::raw(out, key!("program"));
            json::string(out, record.identity.program());
            json::raw(out, key!("version"));
            json::integer(out, record.program_version);
        }
        Detail::None | Detail::Refusal { .. } | Detail::Key { .. } => {}
    }
}

fn write_account_status(out: &mut Vec<u8>, status: &str, shape: Shape) {
    if shape == Shape::Answer {
        json::raw(out, key!("status"));
        json::string(out, status);
    }
}

/// Appends when the points of an award activate and expire.
pub(crate) fn write_lot(out: &mut Vec<u8>, expires_at: Millis, activates_at: Option<Millis>) {
    json::raw(out, key!("expires_at"));
    json::instant_or_null(out, expires_at);
    json::raw(out, key!("activates_at"));
    json::instant_or_null(out, activates_at);
}

/// Appends how an award came from an amount; the document is of the version that decided.
pub(crate) fn write_award(out: &mut Vec<u8>, award: &AmountAward, document: &Document) {
    json::raw(out, key!("amount"));
    json::amount(out, award.amount, document.currency.minor_digits);
    json::raw(out, key!("applied_tier"));
    let level = document.tiers.levels.get(award.applied_tier as usize);
    json::string_or_null(out, level.map(|level| level.name.as_str()));
    json::raw(out, key!("applied_multiplier"));
    json::multiplier(out, award.applied_multiplier);
}

fn write_redemption(out: &mut Vec<u8>, redeem: Position, facts: &impl Facts) {
    json::raw(out, key!("redemption_id"));
    json::position(out, redeem);
    json::raw(out, concat!(key!("redemption_code"), "\""));
    facts.write_redemption_code(redeem, out);
    out.push(b'"');
}

fn write_lots(out: &mut Vec<u8>, lots: impl IntoIterator<Item = (Millis, i64)>) {
    json::raw(out, concat!(key!("lots"), "["));
    for (index, (expires_at, points)) in lots.into_iter().enumerate() {
        json::raw(out, if index == 0 { "{\"expires_at\":" } else { ",{\"expires_at\":" });
        json::instant_or_null(out, expires_at);
        json::raw(out, key!("points"));
        json::integer(out, points);
        out.push(b'}');
    }
    out.push(b']');
}

/// The redemption inside a sale, with the members that the REDEEM itself has: its points are negative.
fn write_sale_redemption(out: &mut Vec<u8>, redemption: &SaleRedemption, facts: &impl Facts) {
    json::raw(out, concat!(key!("redemption"), "{\"transaction_id\":"));
    json::position(out, redemption.position);
    write_redemption(out, redemption.position, facts);
    json::raw(out, key!("points"));
    json::integer(out, redemption.points.saturating_neg());
    write_lots(out, redemption.lots.iter().copied());
    out.push(b'}');
}

fn write_reversal(out: &mut Vec<u8>, record: &Record, facts: &impl Facts) {
    write_reversed(out, &record.detail, facts.document(record.program_version));
    match record.detail {
        Detail::Reversal { original_kind: RecordKind::Redeem, .. } => write_lots(out, given_back(record)),
        _ => write_lots(out, record.taken()),
    }
}

/// Appends what a reversal took back, and of what; the document is of the version that decided.
pub(crate) fn write_reversed(out: &mut Vec<u8>, detail: &Detail, document: &Document) {
    let Detail::Reversal {
        original,
        original_kind,
        reversed_points,
        reversed_amount,
        shortfall_points,
        expired_points,
    } = detail
    else {
        return;
    };
    json::raw(out, key!("original_transaction_id"));
    json::position(out, *original);
    json::raw(out, key!("original_type"));
    json::string(out, original_kind.name());
    json::raw(out, key!("reversed_points"));
    json::integer(out, *reversed_points);
    json::raw(out, key!("reversed_amount"));
    match reversed_amount {
        Some(minor) => json::amount(out, *minor, document.currency.minor_digits),
        None => json::raw(out, "null"),
    }
    json::raw(out, key!("shortfall_points"));
    json::integer(out, *shortfall_points);
    json::raw(out, key!("expired_points"));
    json::integer(out, *expired_points);
}

/// What came back to the lots of a redemption, in order.
fn given_back(record: &Record) -> impl Iterator<Item = (Millis, i64)> {
    record.moves.iter().filter(|m| m.op == MoveOp::Grant).map(|m| (m.lot.expires_at, m.points))
}

/// Points that a record moves by one kind of move.
fn moved(record: &Record, op: MoveOp) -> i64 {
    record.moves.iter().filter(|m| m.op == op).fold(0, |sum, m| m.points.saturating_add(sum))
}

/// `updated` stands only where the tier was set or removed by hand.
fn write_tier_change(out: &mut Vec<u8>, detail: &Detail) {
    let Detail::Tier { from, to, manual } = detail else { return };
    json::raw(out, key!("previous_tier"));
    json::string(out, from);
    json::raw(out, key!("resulting_tier"));
    json::string(out, to);
    let Some(manual) = manual else { return };
    json::raw(out, concat!(key!("updated"), "true", key!("manual_tier")));
    match &manual.name {
        Some(name) => write_manual_tier(out, name, manual.floor, manual.until),
        None => json::raw(out, "null"),
    }
}

/// Appends a tier that is set by hand.
pub(crate) fn write_manual_tier(out: &mut Vec<u8>, name: &str, floor: bool, until: Option<Millis>) {
    json::raw(out, "{\"tier\":");
    json::string(out, name);
    json::raw(out, key!("acts_as"));
    json::string(out, if floor { "floor" } else { "ceiling" });
    json::raw(out, key!("until"));
    json::instant_or_null(out, until);
    out.push(b'}');
}

fn write_till(out: &mut Vec<u8>, record: &Record) {
    let Some(references) = record.references.as_deref() else { return };
    let Some(store_id) = references.store_id.as_deref() else { return };
    json::raw(out, key!("store_id"));
    json::string(out, store_id);
    json::raw(out, key!("terminal_id"));
    json::string_or_null(out, references.terminal_id.as_deref());
    json::raw(out, key!("pos_transaction_id"));
    json::string_or_null(out, references.pos_transaction_id.as_deref());
}
