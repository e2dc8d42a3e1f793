//! Bodies out: golden answers of every kind of record and view, byte for byte. A fixture of a record never
//! changes: replays of what was answered years ago are rendered again. `UPDATE_FIXTURES=1` writes those
//! that are missing.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use meed_schemas::command::{RequestId, Status};
use meed_schemas::http::views::{self, BatchWriter};
use meed_schemas::http::{
    BadRequest, BatchFormat, Operation, decode, problem, status_of, write_answer, write_outcome, write_row,
    write_transaction,
};
use meed_schemas::ids::Position;
use meed_schemas::money::Currency;
use meed_schemas::outcome::{
    AccountView, BalanceView, HoldState, HoldView, Limit, LotView, Refusal, ReversedSoFar, TierView,
};
use meed_schemas::record::{Balances, Detail, Record, RecordKind};
use meed_schemas::time::NEVER;

use records::{at, facts, identity, record, records, written};

mod records;

fn refusal_record(request_id: RequestId) -> Record {
    let detail = Detail::Refusal { available_points: -3, requested_points: 50, request_id };
    Record { sequence: 0, ..record(RecordKind::Refusal, 0, &[], detail) }
}

/// Compares with the fixture, and holds the text against JSON without duplicate members.
fn golden(name: &str, text: &str) {
    let body = format!("{{\"points\":1,\"metadata\":{{\"body\":{text}}}}}");
    let currency = Currency::from_code("IDR").unwrap();
    if let Err(BadRequest { field, detail }) = decode(Operation::Earn, body.as_bytes(), Position::default(), currency) {
        panic!("{name}: {field} {detail}: {text}");
    }
    compare(&format!("{name}.json"), &format!("{text}\n"));
}

fn compare(file: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/answers").join(file);
    if !path.exists() && std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let fixture = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(text, fixture, "{file}");
}

#[test]
fn answers_and_rows_of_every_record() {
    let facts = facts();
    let mut kinds: Vec<_> = RecordKind::EFFECTS.to_vec();
    for (name, record) in records() {
        kinds.retain(|kind| *kind != record.kind);
        golden(name, &written(|out| write_answer(out, &record, &facts)));
        golden(&format!("{name}.row"), &written(|out| write_row(out, &record, &facts)));
    }
    assert!(kinds.is_empty(), "no fixture of {kinds:?}");
}

#[test]
fn statuses() {
    let statuses: Vec<_> = records().iter().map(|(name, record)| (*name, status_of(record))).collect();
    let ok: Vec<_> = statuses.iter().filter(|(_, status)| *status == 200).map(|(name, _)| *name).collect();
    assert_eq!(ok, ["void", "void_expired", "void_closed", "tier", "tier_set", "tier_removed", "status"]);
    assert!(statuses.iter().all(|(_, status)| matches!(status, 200 | 201)));
    let (_, program) = records().pop().unwrap();
    assert_eq!(status_of(&Record { program_version: 2, ..program }), 200);
    assert_eq!(status_of(&refusal_record(RequestId::Made(1))), 400);
}

#[test]
fn transactions_are_explained() {
    let facts = facts();
    let reversed = ReversedSoFar { points: 12, amount: 1_000_000 };
    for (name, record) in records() {
        if ["earn", "earn_amount", "earn_pending", "redeem", "reversal_of_redeem", "expire"].contains(&name) {
            let text = written(|out| write_transaction(out, &record, reversed, &facts));
            golden(&format!("{name}.transaction"), &text);
        }
    }
}

#[test]
fn a_remembered_refusal_is_the_fresh_one() {
    let facts = facts();
    let fresh = Refusal::InsufficientPoints { available_points: -3, requested_points: 50 };
    for request_id in [RequestId::Made(0xabc), RequestId::Given("client \"7\"".into())] {
        let first = written(|out| problem::write_refusal(out, &fresh, &request_id, 2));
        assert_eq!(written(|out| write_answer(out, &refusal_record(request_id), &facts)), first);
    }
    golden("outcome_refused", &written(|out| write_outcome(out, &refusal_record(RequestId::Made(7)), &facts)));
    let (_, record) = records().swap_remove(0);
    golden("outcome", &written(|out| write_outcome(out, &record, &facts)));
}

#[test]
fn every_refusal_has_its_problem() {
    let refusals = [
        Refusal::InvalidRequest { field: "ttl_seconds".into(), detail: "must be at most 604800".into() },
        Refusal::UnknownProgram,
        Refusal::UnknownAccount,
        Refusal::KeyReused,
        Refusal::KeyInProgress,
        Refusal::UnknownTransaction,
        Refusal::RecordGone,
        Refusal::UnknownHold,
        Refusal::UnknownOutcome,
        Refusal::AccountClosed,
        Refusal::AccountFrozen,
        Refusal::TooLate { late_days_max: 30 },
        Refusal::InTheFuture,
        Refusal::HoldClosed,
        Refusal::NotReversible,
        Refusal::NothingToReverse,
        Refusal::ExceedsRemaining { remaining_points: Some(5), remaining_amount: None },
        Refusal::ExceedsRemaining { remaining_points: None, remaining_amount: Some(1_990) },
        Refusal::ExceedsHold { held_points: 50 },
        Refusal::InsufficientPoints { available_points: 20, requested_points: 50 },
        Refusal::LimitExceeded { limit: Limit::Lots },
        Refusal::BalanceOverflow,
        Refusal::Overloaded,
        Refusal::Draining,
        Refusal::NotReady,
        Refusal::OutcomeUnknown,
    ];
    let mut lines = String::new();
    for refusal in &refusals {
        let text = written(|out| problem::write_refusal(out, refusal, "r-1", 2));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["status"], problem::refusal_status(refusal));
        assert_eq!(value["type"], format!("/problems/{}", problem::kind_of(refusal).name()));
        assert_eq!(value["instance"], "/requests/r-1");
        assert_eq!(
            problem::kind_of(refusal).retry_after_seconds().is_some(),
            matches!(problem::refusal_status(refusal), 503 | 504) || *refusal == Refusal::KeyInProgress
        );
        lines.push_str(&text);
        lines.push('\n');
    }
    compare("problems.ndjson", &lines);
}

#[test]
fn the_catalogue_is_consistent() {
    for kind in problem::KINDS {
        assert_eq!(problem::Kind::from_name(kind.name()), Some(*kind));
        assert!((400..600).contains(&kind.status()));
        assert!(kind.retry_after_seconds().is_none() || kind.retryable(), "{kind:?}");
        let text = written(|out| problem::write_explanation(out, *kind));
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }
    let error = BadRequest::new("a\"b", "is not a member of this request");
    let text = written(|out| problem::Problem::from(error.clone()).write(out, "r\"1"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["field"], &value["instance"]), (&"a\"b".into(), &"/requests/r\"1".into()));
}

fn balance_view() -> BalanceView {
    BalanceView {
        status: Status::Active,
        balances: Balances { total: 1_250, held: 50, pending: 0, debt: 0 },
        tier: TierView { version: 1, level: 1 },
        qualifying_spend: 600_000_000,
        next_expiry: Some((200, at("2027-01-31T17:00:00Z"))),
        sequence: 17,
        last_updated: at("2026-11-21T01:02:03.004Z"),
        lots: None,
    }
}

#[test]
fn views() {
    let facts = facts();
    golden("balance", &written(|out| views::write_balance(out, &identity(), &balance_view(), &facts)));
    let lots = vec![
        LotView { available: 150, held: 50, activates_at: None, expires_at: at("2027-01-31T17:00:00Z") },
        LotView { available: 5, held: 0, activates_at: Some(at("2026-12-01T00:00:00Z")), expires_at: NEVER },
    ];
    let view = BalanceView { next_expiry: None, lots: Some(lots), status: Status::Closed, ..balance_view() };
    golden("lots", &written(|out| views::write_balance(out, &identity(), &view, &facts)));
    let hold = HoldView {
        hold: Position::new(3, 14),
        points: 50,
        expires_at: Some(at("2026-11-21T01:17:03.004Z")),
        recorded_at: at("2026-11-21T01:02:03.004Z"),
        state: HoldState::Open,
    };
    let voided = HoldView { state: HoldState::Voided(Position::new(3, 16)), expires_at: None, ..hold };
    let captured = HoldView { state: HoldState::Captured(Position::new(3, 17)), ..hold };
    golden("hold_open", &written(|out| views::write_hold(out, &hold)));
    golden("holds", &written(|out| views::write_holds(out, &[hold, voided, captured])));
    golden("holds_none", &written(|out| views::write_holds(out, &[])));
    let mut account = AccountView {
        status: Status::Frozen,
        tier: TierView { version: 1, level: 3 },
        created_at: at("2026-01-01T00:00:00Z"),
        sequence: 5,
        counts: vec![(RecordKind::Earn, 3), (RecordKind::Redeem, 2)],
        manual_tier: Some(("PLATINUM".into(), false, None)),
    };
    golden("account", &written(|out| views::write_account(out, &identity(), &account, &facts)));
    account.manual_tier = None;
    account.counts.clear();
    golden("account_plain", &written(|out| views::write_account(out, &identity(), &account, &facts)));
    golden("lookup", &written(|out| views::write_lookup(out, "m-1")));
    golden("aliases", &written(|out| views::write_aliases(out, "m-1", ["email:a@b", "phone:+62812"])));
    golden("aliases_none", &written(|out| views::write_aliases(out, "m-1", [])));
    golden("alias", &written(|out| views::write_alias(out, "m-1", "card:77\"")));
    golden("program_get", &written(|out| views::write_program(out, "default", 2, Some(0), &facts.0)));
    golden("program_built_in", &written(|out| views::write_program(out, "default", 1, None, &facts.0)));
}

#[test]
fn lists_and_batches() {
    let facts = facts();
    let records = records();
    let list = |rows: usize, next| {
        written(|out| {
            views::write_transactions_start(out);
            for (index, (_, record)) in records[..rows].iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_row(out, record, &facts);
            }
            views::write_transactions_end(out, 7, next);
        })
    };
    golden("transactions", &list(2, Some("opaque-cursor")));
    golden("transactions_none", &list(0, None));
    let batch = |format| {
        written(|out| {
            let mut writer = BatchWriter::start(out, format);
            writer.item(out, 201, true, |out| write_answer(out, &records[0].1, &facts));
            writer.item(out, 409, false, |out| problem::write_refusal(out, &Refusal::AccountFrozen, "r-1", 2));
            writer.end(out);
        })
    };
    golden("batch", &batch(BatchFormat::Json));
    let lines = batch(BatchFormat::Ndjson);
    let parsed: serde_json::Value = serde_json::from_str(&batch(BatchFormat::Json)).unwrap();
    for (line, result) in lines.lines().zip(parsed["results"].as_array().unwrap()) {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap(), *result);
    }
    assert_eq!((lines.lines().count(), lines.ends_with("}\n")), (2, true));
    assert_eq!(written(|out| BatchWriter::start(out, BatchFormat::Json).end(out)), r#"{"results":[]}"#);
    assert_eq!(written(|out| BatchWriter::start(out, BatchFormat::Ndjson).end(out)), "");
}
