//! What an answer means for the request that it belongs to.

use serde::Deserialize;

use crate::answer::{self, Answer, BatchAnswer, Effect};
use crate::traffic::{Operation, Planned, account_name};

/// Refusals that belong to the business: the request was understood and the answer is no.
const BUSINESS: &[&str] = &[
    "insufficient-points",
    "exceeds-remaining",
    "exceeds-hold",
    "hold-closed",
    "nothing-to-reverse",
    "account-frozen",
    "account-closed",
    "unknown-account",
];

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement<'a> {
    /// Executed. A read has no effect.
    Acknowledged(Option<Effect<'a>>),
    /// One judgement per item.
    Batch(Vec<Judgement<'a>>),
    /// Not executed; for a reason of the business, or for want of capacity or by mistake.
    Refused { kind: Refusal, problem: &'a str, status: u16 },
    /// Whether it was executed must be asked for.
    Unknown(String),
    /// The answer cannot be right; whether it was executed must be asked for.
    Wrong(String),
}

/// Why nothing was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Business,
    Overloaded,
    RateLimited,
    Other,
}

/// What the answer's judge must know beside the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) account_prefix: &'a str,
    pub(super) floor: i64,
    pub(super) batch_items: u32,
    /// False for servers that answer anything: then the status is all that counts.
    pub(super) reads_bodies: bool,
}

/// Judges an answer to the first attempt, or to a later one, which may be a replay.
pub(super) fn judge<'a>(planned: &Planned, answer: &'a Answer<'_>, is_first: bool, rules: Rules<'_>) -> Judgement<'a> {
    if !rules.reads_bodies && answer.status < 400 {
        return Judgement::Acknowledged(None);
    }
    if planned.operation == Operation::Batch && answer.status == 207 {
        return judge_batch(planned, &answer.body, is_first, rules);
    }
    // No success of one operation tells what became of several.
    if planned.operation == Operation::Batch && answer.status < 400 {
        return Judgement::Wrong(format!("status {} where 207 is success", answer.status));
    }
    judge_one(planned, planned.account, answer.status, &answer.body, is_first && answer.replayed, rules)
}

fn judge_one<'a>(
    planned: &Planned,
    account: u32,
    status: u16,
    body: &'a [u8],
    is_surprising_replay: bool,
    rules: Rules<'_>,
) -> Judgement<'a> {
    let expected = if planned.operation == Operation::Batch { 201 } else { planned.operation.status() };
    if status == expected {
        if is_surprising_replay {
            return Judgement::Wrong("a replayed answer to a key that was never sent before".to_owned());
        }
        return match planned.operation {
            Operation::Balance => judge_balance(body, account, rules),
            _ => judge_effect(planned, body, account, rules),
        };
    }
    let problem = answer::problem(body).unwrap_or("no-problem-document");
    match status {
        500 | 502 | 504 => Judgement::Unknown(format!("{status} {problem}")),
        409 if problem == "key-in-progress" => Judgement::Unknown(format!("{status} {problem}")),
        503 => Judgement::Refused { kind: Refusal::Overloaded, problem, status },
        429 => Judgement::Refused { kind: Refusal::RateLimited, problem, status },
        400..500 if BUSINESS.contains(&problem) => Judgement::Refused { kind: Refusal::Business, problem, status },
        400..600 => Judgement::Refused { kind: Refusal::Other, problem, status },
        _ => Judgement::Wrong(format!("status {status} where {expected} is success")),
    }
}

fn format_account(prefix: &str, account: u32) -> String {
    let mut name = Vec::with_capacity(prefix.len() + 10);
    account_name(&mut name, prefix, account);
    String::from_utf8(name).unwrap_or_default()
}

/// Whether `text` is what [`format_account`] makes.
fn is_account(text: &str, prefix: &str, account: u32) -> bool {
    text.strip_prefix(prefix) == Some(itoa::Buffer::new().format(account))
}

fn judge_effect<'a>(planned: &Planned, body: &'a [u8], account: u32, rules: Rules<'_>) -> Judgement<'a> {
    let scanned = match planned.operation {
        Operation::EarnPoints | Operation::Batch => Effect::scan(body),
        _ => None,
    };
    let Some(effect) = scanned.or_else(|| Effect::parse(body)) else {
        return Judgement::Wrong("success without the members of a transaction".to_owned());
    };
    if planned.operation == Operation::Void && effect.reason == Some("expired") {
        // The hold had run into its time-out: this request did nothing.
        return Judgement::Refused { kind: Refusal::Business, problem: "hold-expired", status: 200 };
    }
    if !is_account(effect.account_id, rules.account_prefix, account) || !planned.is_answered_by(&effect) {
        let account = format_account(rules.account_prefix, account);
        let asked = format!("{} of {} points on {account}", planned.operation.name(), planned.points);
        let Effect { kind, points, account_id, .. } = effect;
        return Judgement::Wrong(format!("{asked} was answered by {kind} of {points} points on {account_id}"));
    }
    let floor = rules.floor;
    if effect.available_points < floor && effect.points < 0 && planned.operation != Operation::Reverse {
        let available = effect.available_points;
        return Judgement::Wrong(format!("{available} available points, below the floor {floor}"));
    }
    Judgement::Acknowledged(Some(effect))
}

#[derive(Deserialize)]
struct Balance<'a> {
    account_id: &'a str,
    available_points: i64,
}

fn judge_balance<'a>(body: &'a [u8], account: u32, rules: Rules<'_>) -> Judgement<'a> {
    let floor = rules.floor;
    match serde_json::from_slice::<Balance<'_>>(body) {
        Ok(balance) if !is_account(balance.account_id, rules.account_prefix, account) => {
            let account = format_account(rules.account_prefix, account);
            Judgement::Wrong(format!("the balance of {account} is that of {}", balance.account_id))
        }
        Ok(balance) if balance.available_points < floor => {
            Judgement::Wrong(format!("{} available points, below the floor {floor}", balance.available_points))
        }
        Ok(_) => Judgement::Acknowledged(None),
        Err(_) => Judgement::Wrong("a balance without its members".to_owned()),
    }
}

fn judge_batch<'a>(planned: &Planned, body: &'a [u8], is_first: bool, rules: Rules<'_>) -> Judgement<'a> {
    let results = match serde_json::from_slice::<BatchAnswer<'_>>(body) {
        Ok(BatchAnswer { results }) if results.len() == rules.batch_items as usize => results,
        Ok(BatchAnswer { results }) => {
            return Judgement::Wrong(format!("{} results for {} items", results.len(), rules.batch_items));
        }
        Err(_) => return Judgement::Wrong("a batch answer without `results`".to_owned()),
    };
    let judged = (planned.account..).zip(&results).map(|(account, item)| {
        let body = item.body.get().as_bytes();
        judge_one(planned, account, item.status, body, is_first && item.replayed, rules)
    });
    Judgement::Batch(judged.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules<'static> = Rules { account_prefix: "p-", floor: 0, batch_items: 2, reads_bodies: true };

    fn planned(operation: Operation) -> Planned {
        Planned { operation, account: 3, number: 0, points: 5, amount_minor: 0, at_ms: 0, about: None }
    }

    fn answer(status: u16, body: &str) -> Answer<'_> {
        Answer {
            status,
            body: body.as_bytes().into(),
            closes: false,
            replayed: false,
            retry_after_seconds: None,
            length: 0,
        }
    }

    fn effect(kind: &str, account: &str, points: i64, available: i64) -> String {
        format!(
            r#"{{"transaction_id":"t","account_id":"{account}","type":"{kind}","points":{points},"available_points":{available}}}"#
        )
    }

    #[test]
    fn only_what_was_asked_for_is_acknowledged() {
        let is_good = |operation, text: &str| {
            let answer = answer(operation_status(operation), text);
            matches!(judge(&planned(operation), &answer, true, RULES), Judgement::Acknowledged(_))
        };
        fn operation_status(operation: Operation) -> u16 {
            operation.status()
        }
        assert!(is_good(Operation::EarnPoints, &effect("EARN", "p-3", 5, 5)));
        assert!(!is_good(Operation::EarnPoints, &effect("EARN", "p-3", 6, 6)), "other points");
        assert!(!is_good(Operation::EarnPoints, &effect("EARN", "p-33", 5, 5)), "another account");
        assert!(!is_good(Operation::EarnPoints, &effect("REDEEM", "p-3", 5, 5)), "another kind");
        assert!(!is_good(Operation::EarnPoints, "{}"), "nothing");
        assert!(is_good(Operation::Redeem, &effect("REDEEM", "p-3", -5, 0)));
        assert!(!is_good(Operation::Redeem, &effect("REDEEM", "p-3", -5, -1)), "below the floor");
        assert!(!is_good(Operation::Redeem, &effect("REDEEM", "p-3", 5, 5)), "the wrong way");
        assert!(is_good(Operation::Balance, r#"{"account_id":"p-3","available_points":0}"#));
        assert!(!is_good(Operation::Balance, r#"{"account_id":"p-3","available_points":-1}"#));
        let mut replayed = answer(201, "");
        let text = effect("EARN", "p-3", 5, 5);
        replayed.body = text.as_bytes().into();
        replayed.replayed = true;
        assert!(matches!(judge(&planned(Operation::EarnPoints), &replayed, true, RULES), Judgement::Wrong(_)));
        assert!(matches!(judge(&planned(Operation::EarnPoints), &replayed, false, RULES), Judgement::Acknowledged(_)));
    }

    #[test]
    fn refusals_are_told_apart_from_unknown_outcomes() {
        let kind = |status, problem: &str| {
            let text = format!(r#"{{"type":"/problems/{problem}"}}"#);
            let answer = answer(status, &text);
            match judge(&planned(Operation::Redeem), &answer, true, RULES) {
                Judgement::Refused { kind, .. } => Ok(kind),
                Judgement::Unknown(_) => Err("unknown"),
                _ => Err("other"),
            }
        };
        assert_eq!(kind(400, "insufficient-points"), Ok(Refusal::Business));
        assert_eq!(kind(400, "invalid-request"), Ok(Refusal::Other));
        assert_eq!(kind(503, "overloaded"), Ok(Refusal::Overloaded));
        assert_eq!(kind(429, "rate-limited"), Ok(Refusal::RateLimited));
        assert_eq!(kind(504, "outcome-unknown"), Err("unknown"));
        assert_eq!(kind(409, "key-in-progress"), Err("unknown"));
        assert_eq!(kind(200, "x"), Err("other"), "a success with the wrong status");
    }

    #[test]
    fn every_item_of_a_batch_is_judged() {
        let good = effect("EARN", "p-3", 5, 5);
        let wrong = effect("EARN", "p-3", 5, 5);
        let text = format!(r#"{{"results":[{{"status":201,"body":{good}}},{{"status":201,"body":{wrong}}}]}}"#);
        let answer = answer(207, &text);
        let Judgement::Batch(items) = judge(&planned(Operation::Batch), &answer, true, RULES) else { panic!() };
        assert!(matches!(items[0], Judgement::Acknowledged(_)));
        assert!(matches!(items[1], Judgement::Wrong(_)), "the second item was for p-4");
        let alone = self::answer(201, &good);
        assert!(matches!(judge(&planned(Operation::Batch), &alone, true, RULES), Judgement::Wrong(_)), "of one item");
        let short = self::answer(207, r#"{"results":[]}"#);
        assert!(matches!(judge(&planned(Operation::Batch), &short, true, RULES), Judgement::Wrong(_)));
    }
}
