//! Records of a data folder as JSON lines, for people and scripts, in the words of the HTTP contract. Reads only; keys
//! are shown as hashes.

use std::io::Write;
use std::path::Path;

use meed_schemas::command::References;
use meed_schemas::ids::{AccountKind, Identity, Position};
use meed_schemas::record::{Detail, Record};
use meed_schemas::time::{self, NEVER};
use serde_json::{Map, Value, json};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::folder::FolderIdentity;
use crate::journal::JournalReader;

/// Which records are shown.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only those of this member's account, as (program, account).
    pub account: Option<(String, String)>,
    /// Only those whose account sequence (with an account) or shard sequence is at least this.
    pub from: u64,
    /// At most so many; 0 = all.
    pub limit: u64,
}

/// Why the output ended early.
enum Ended {
    Enough,
    Fault(Error),
}

/// Writes the selected records of the folder of a node that does not run, in journal order.
///
/// # Errors
/// The folder cannot be read, or is damaged.
pub fn inspect(data: &Path, selection: &Selection, out: &mut impl Write) -> Result<u64> {
    let disk = Disk::default();
    FolderIdentity::read(&disk, data)?;
    let _lock = disk.lock_to_read(data)?;
    let (reader, _) = JournalReader::open(disk, &data.join("journal"))?;
    let identities: Vec<Identity> = selection
        .account
        .iter()
        .flat_map(|(program, account)| {
            [AccountKind::Member, AccountKind::Program].map(|kind| Identity::new(program, kind, account))
        })
        .collect();
    let mut shown = 0;
    let mut ended = None;
    let scanned = reader.scan_batches(1, &mut |batch| {
        for view in batch.records() {
            let record = view.decode()?;
            let sequence = if identities.is_empty() { record.position.sequence() } else { record.sequence };
            if sequence < selection.from || !(identities.is_empty() || identities.contains(&record.identity)) {
                continue;
            }
            let mut line = describe(&record);
            line.insert("batch".into(), json!(batch.header.sequence));
            let written =
                serde_json::to_writer(&mut *out, &line).map_err(Into::into).and_then(|()| out.write_all(b"\n"));
            if let Err(source) = written {
                let error = Error::io("write to", "standard output", source);
                // Ends the scan; a reader that went away is no fault.
                ended = Some(Ended::Fault(error));
                return Err(Error::Stopped(String::new()));
            }
            shown += 1;
            if shown == selection.limit {
                ended = Some(Ended::Enough);
                return Err(Error::Stopped(String::new()));
            }
        }
        Ok(())
    });
    match ended {
        Some(Ended::Enough) => Ok(shown),
        Some(Ended::Fault(Error::Io { source, .. })) if source.kind() == std::io::ErrorKind::BrokenPipe => Ok(shown),
        Some(Ended::Fault(error)) => Err(error),
        None => scanned.map(|()| shown),
    }
}

fn instant(at: i64) -> Value {
    if at == NEVER { Value::Null } else { json!(time::format(at)) }
}

fn describe(record: &Record) -> Map<String, Value> {
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| {
        line.insert(name.into(), value);
    };
    put("position", json!(record.position.to_string()));
    put("type", json!(record.kind.name()));
    put("program", json!(record.identity.program()));
    put("kind", json!(record.identity.kind().name()));
    put("account", json!(record.identity.id()));
    put("sequence", json!(record.sequence));
    put("previous", json!(record.previous));
    put("recorded_at", instant(record.recorded_at));
    put("occurred_at", instant(record.occurred_at));
    put("program_version", json!(record.program_version));
    put("points", json!(record.points));
    put("total_points", json!(record.balances.total));
    put("held_points", json!(record.balances.held));
    put("pending_points", json!(record.balances.pending));
    put("debt_points", json!(record.balances.debt));
    put("tier_level", json!(record.tier));
    let moves: Vec<Value> = record
        .moves
        .iter()
        .map(|m| {
            json!({
                "move": m.op.name(),
                "points": m.points,
                "expires_at": instant(m.lot.expires_at),
                "activates_at": m.lot.activates_at.map(time::format),
            })
        })
        .collect();
    put("moves", json!(moves));
    if let Some(spend) = record.spend {
        put("spend", json!({"month": spend.month, "amount_minor": spend.amount}));
    }
    let keys: Vec<Value> =
        record.keys.iter().map(|k| json!({"business": k.business, "hash": format!("{:032x}", k.hash)})).collect();
    put("keys", json!(keys));
    if let Some(references) = &record.references {
        put("references", Value::Object(members_of(references)));
    }
    match &record.detail {
        Detail::None => {}
        Detail::Program { document } => put("document", serde_json::from_str(document).unwrap_or(Value::Null)),
        detail => put("detail", detail_of(detail)),
    }
    line
}

/// The references that there are, by the names of the HTTP contract.
fn members_of(references: &References) -> Map<String, Value> {
    let r = references;
    let texts = [
        ("source", &r.source),
        ("reference_id", &r.reference_id),
        ("description", &r.description),
        ("reason", &r.reason),
        ("reward_id", &r.reward_id),
        ("store_id", &r.store_id),
        ("terminal_id", &r.terminal_id),
        ("pos_transaction_id", &r.pos_transaction_id),
        ("traceparent", &r.traceparent),
    ];
    let given = texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_deref()?))));
    let metadata = r.metadata.as_deref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    given.chain(metadata.map(|metadata| ("metadata".to_owned(), metadata))).collect()
}

/// What only one kind of record has. Money is in minor units, multipliers are in ten-thousandths.
fn detail_of(detail: &Detail) -> Value {
    let place = |position: &Position| position.to_string();
    let optional = |at: &Option<i64>| at.map_or(Value::Null, instant);
    match detail {
        // There is nothing of the first, and a document is a member of its own.
        Detail::None | Detail::Program { .. } => Value::Null,
        Detail::Earn { expires_at, activates_at, award, redemption } => json!({
            "expires_at": instant(*expires_at),
            "activates_at": optional(activates_at),
            "award": award.map(|award| json!({
                "amount_minor": award.amount,
                "tier_level": award.applied_tier,
                "multiplier_ten_thousandths": award.applied_multiplier,
            })),
            "redemption": redemption.as_ref().map(|redemption| json!({
                "position": place(&redemption.position),
                "points": redemption.points,
                "lots": redemption.lots.iter().map(|(expires_at, points)| {
                    json!({"expires_at": instant(*expires_at), "points": points})
                }).collect::<Vec<_>>(),
            })),
        }),
        Detail::Redeem { hold } => json!({"hold": hold.as_ref().map(place)}),
        Detail::Adjust { expires_at, activates_at } => {
            json!({"expires_at": instant(*expires_at), "activates_at": optional(activates_at)})
        }
        Detail::Reversal {
            original,
            original_kind,
            reversed_points,
            reversed_amount,
            shortfall_points,
            expired_points,
        } => {
            json!({
                "original": place(original),
                "original_type": original_kind.name(),
                "reversed_points": reversed_points,
                "reversed_amount_minor": reversed_amount,
                "shortfall_points": shortfall_points,
                "expired_points": expired_points,
            })
        }
        Detail::Hold { expires_at } => json!({"expires_at": optional(expires_at)}),
        Detail::Void { hold, reason } => json!({"hold": place(hold), "reason": reason.name()}),
        Detail::Activate { moved_points } => json!({"moved_points": moved_points}),
        Detail::Tier { from, to, manual } => json!({
            "from": from,
            "to": to,
            "manual": manual.as_ref().map(|manual| {
                json!({"name": manual.name, "floor": manual.floor, "until": optional(&manual.until)})
            }),
        }),
        Detail::Status { status, previous } => json!({"status": status.name(), "previous": previous.name()}),
        Detail::Refusal { available_points, requested_points, request_id } => json!({
            "available_points": available_points,
            "requested_points": requested_points,
            "request_id": request_id.to_string(),
        }),
        Detail::Key { target } => json!({"target": place(target)}),
    }
}
