//! Records of every kind in each of their shapes, for golden tests.

use meed_schemas::command::{References, Status};
use meed_schemas::http::Facts;
use meed_schemas::ids::{Identity, Position};
use meed_schemas::program::{BUILT_IN_DOCUMENT, Document};
use meed_schemas::record::{
    AmountAward, Balances, Detail, LotKey, ManualTier, Move, MoveOp, RENDERING, Record, RecordKind, SaleRedemption,
    Spend, VoidReason,
};
use meed_schemas::time::{self, Millis, NEVER};

pub(crate) struct Program(pub(crate) Document);

impl Facts for Program {
    fn document(&self, _version: u32) -> &Document {
        &self.0
    }

    fn write_redemption_code(&self, redeem: Position, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("CODE{:06}", redeem.sequence()).as_bytes());
    }
}

pub(crate) fn facts() -> Program {
    Program(Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap())
}

pub(crate) fn at(text: &str) -> Millis {
    time::parse(text).unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity::member("default", "m-1")
}

pub(crate) fn record(kind: RecordKind, points: i64, moves: &[Move], detail: Detail) -> Record {
    Record {
        kind,
        rendering: RENDERING,
        position: Position::new(3, 17),
        identity: identity(),
        sequence: 5,
        previous: 12,
        previous_of_kind: 0,
        recorded_at: at("2026-11-21T01:02:03.004Z"),
        occurred_at: at("2026-11-20T10:00:00Z"),
        program_version: 1,
        newest_version: 1,
        points,
        balances: Balances { total: 1_350, held: 50, pending: 7, debt: 0 },
        tier: 1,
        moves: moves.into(),
        spend: None,
        keys: Default::default(),
        fingerprint: 0,
        references: None,
        detail,
        extensions: Vec::new(),
    }
}

fn in_lot(op: MoveOp, points: i64, expires_at: Millis) -> Move {
    Move { op, lot: LotKey::live(expires_at), points }
}

fn till() -> References {
    References {
        store_id: Some("s-1".into()),
        terminal_id: Some("4".into()),
        pos_transaction_id: Some("t 1".into()),
        ..References::default()
    }
}

fn with(mut record: Record, references: References) -> Record {
    record.references = Some(Box::new(references));
    record
}

/// A record and the name of its fixture.
pub(crate) type Named = (&'static str, Record);

fn year_end() -> Millis {
    at("2026-12-31T17:00:00Z")
}

/// Every kind of record in each of its shapes.
pub(crate) fn records() -> Vec<Named> {
    [earns(), spends(), reversals(), holds(), accounts()].into_iter().flatten().collect()
}

fn earns() -> Vec<Named> {
    let detail =
        |award, activates_at, redemption| Detail::Earn { expires_at: year_end(), activates_at, award, redemption };
    let award = AmountAward { amount: 19_999_900, applied_tier: 1, applied_multiplier: 12_500 };
    let said = References {
        source: Some("PURCHASE".into()),
        reference_id: Some("order \"7\"\\é".into()),
        description: Some("two\nlines\u{1}".into()),
        metadata: Some(r#"{"a":[1,{"b":null}]}"#.into()),
        ..References::default()
    };
    let granted = [in_lot(MoveOp::Grant, 249, year_end()), in_lot(MoveOp::PayDebt, 9, year_end())];
    let mut from_amount = record(RecordKind::Earn, 249, &granted, detail(Some(award), None, None));
    from_amount.spend = Some(Spend { month: 2026 * 12 + 10, amount: 19_999_900 });
    let pending = pending_lot();
    let never = Detail::Earn { expires_at: NEVER, activates_at: pending.activates_at, award: None, redemption: None };
    let redemption =
        SaleRedemption { position: Position::new(3, 16), points: 40, lots: vec![(year_end(), 30), (NEVER, 10)] };
    let redeeming = Record { detail: detail(Some(award), None, Some(Box::new(redemption))), ..from_amount.clone() };
    let plain = record(RecordKind::Earn, 100, &[in_lot(MoveOp::Grant, 100, year_end())], detail(None, None, None));
    vec![
        ("earn", with(plain, said)),
        ("earn_amount", from_amount.clone()),
        ("earn_pending", record(RecordKind::Earn, 5, &[Move { op: MoveOp::Grant, lot: pending, points: 5 }], never)),
        ("sale", with(from_amount, till())),
        ("sale_redeeming", with(redeeming, References { terminal_id: None, ..till() })),
    ]
}

fn pending_lot() -> LotKey {
    LotKey { expires_at: NEVER, activates_at: Some(at("2026-12-01T00:00:00Z")) }
}

fn taken() -> [Move; 2] {
    [in_lot(MoveOp::Burn, 30, year_end()), in_lot(MoveOp::Burn, 20, NEVER)]
}

fn spends() -> Vec<Named> {
    let adjust = |expires_at| Detail::Adjust { expires_at, activates_at: None };
    let reward = References { reward_id: Some("mug".into()), ..References::default() };
    let captured = [in_lot(MoveOp::Capture, 30, year_end()), in_lot(MoveOp::Release, 20, NEVER)];
    let goodwill = References { reason: Some("goodwill".into()), ..References::default() };
    let up = record(RecordKind::Adjust, 5, &[in_lot(MoveOp::Grant, 5, year_end())], adjust(year_end()));
    vec![
        ("redeem", with(record(RecordKind::Redeem, -50, &taken(), Detail::Redeem { hold: None }), reward)),
        ("capture", record(RecordKind::Redeem, -30, &captured, Detail::Redeem { hold: Some(Position::new(3, 14)) })),
        ("adjust_up", with(up, goodwill)),
        ("adjust_down", record(RecordKind::Adjust, -50, &taken(), adjust(NEVER))),
        ("expire", record(RecordKind::Expire, -30, &[in_lot(MoveOp::Expire, 30, year_end())], Detail::None)),
    ]
}

fn reversals() -> Vec<Named> {
    let detail = |original_kind, reversed_amount, shortfall_points, expired_points| Detail::Reversal {
        original: Position::new(3, 9),
        original_kind,
        reversed_points: 80,
        reversed_amount,
        shortfall_points,
        expired_points,
    };
    let of_earn = |amount, shortfall, expired| {
        record(RecordKind::Reversal, -50, &taken(), detail(RecordKind::Earn, Some(amount), shortfall, expired))
    };
    let back = [in_lot(MoveOp::Grant, 20, NEVER), in_lot(MoveOp::Grant, 30, year_end())];
    let of_redeem = record(RecordKind::Reversal, 50, &back, detail(RecordKind::Redeem, None, 0, 30));
    vec![
        ("reversal_of_earn", of_earn(5_000_000, 3, 2)),
        ("reversal_of_redeem", of_redeem),
        ("pos_return", with(of_earn(1, 0, 0), till())),
    ]
}

fn holds() -> Vec<Named> {
    let hold = Position::new(3, 14);
    let released = [in_lot(MoveOp::Release, 50, year_end())];
    let void = |moves: &[Move], reason| record(RecordKind::Void, 0, moves, Detail::Void { hold, reason });
    let said = References { reason: Some("not shown twice".into()), ..References::default() };
    let pinned = [in_lot(MoveOp::Hold, 50, year_end())];
    vec![
        ("hold", record(RecordKind::Hold, 0, &pinned, Detail::Hold { expires_at: Some(year_end()) })),
        ("void", with(void(&released, VoidReason::Requested), said)),
        ("void_expired", void(&released, VoidReason::Expired)),
        ("void_closed", void(&[], VoidReason::Closed)),
    ]
}

fn accounts() -> Vec<Named> {
    let activated = [Move { op: MoveOp::Activate, lot: pending_lot(), points: 5 }];
    let tier =
        |manual| record(RecordKind::Tier, 0, &[], Detail::Tier { from: "BRONZE".into(), to: "SILVER".into(), manual });
    let manual =
        |name: Option<&str>, until| Some(Box::new(ManualTier { name: name.map(Into::into), floor: true, until }));
    let stolen = References { reason: Some("stolen card".into()), ..References::default() };
    let frozen = Detail::Status { status: Status::Frozen, previous: Status::Active };
    let document = facts().0.to_canonical_json().into_boxed_str();
    let program = Record {
        identity: Identity::program_account("default"),
        balances: Balances::default(),
        ..record(RecordKind::Program, 0, &[], Detail::Program { document })
    };
    vec![
        ("activate", record(RecordKind::Activate, 0, &activated, Detail::Activate { moved_points: 5 })),
        ("tier", tier(None)),
        ("tier_set", tier(manual(Some("SILVER"), Some(year_end())))),
        ("tier_removed", tier(manual(None, None))),
        ("open", record(RecordKind::Open, 0, &[], Detail::None)),
        ("status", with(record(RecordKind::Status, 0, &[], frozen), stolen)),
        ("program", program),
    ]
}

pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}
