//! A small honest server that can be told to be dishonest in one way. It shares no code with the harness.

mod batches;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// In which way it misbehaves. `u64`: with every so-manieth earn; of batches, with every so-manieth batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vice {
    None,
    /// Once, after so many earns, nothing is answered for a while.
    Stall {
        after: u64,
        pause: Duration,
    },
    /// Executes, and closes the connection without an answer.
    DropsAnswers(u64),
    /// Closes the connection and executes nothing.
    DropsRequests(u64),
    /// Executes, and tells other points.
    AnswersWrongly(u64),
    AppliesTwice(u64),
    /// Acknowledges, and executes nothing.
    Loses(u64),
    /// Refuses, and executes all the same.
    RefusesAndApplies(u64),
    /// Keeps the sum and changes the parts: one point goes from one transaction to the next.
    ShiftsPoints(u64),
    /// Every answer takes so long.
    Slow(Duration),
    /// Says that a new request is a replay.
    Replays(u64),
    /// What it answers is no HTTP.
    Babbles(u64),
    /// Its event stream has gaps.
    OmitsEvents(u64),
    /// Answers requests for events with this status.
    RefusesEvents(u16),
    /// Executes, and says nothing until the client has enough of it.
    Silent(u64),
    /// Closes the connection, executes nothing, and later cannot say what became of it.
    HidesOutcomes(u64),
    /// The balance of [`ODD_ACCOUNT`] has no points available.
    BelowFloor,
    /// The balance of that account says that a point of it is held.
    HoldsTooMuch,
    /// The balance of that account has a point more than its transactions.
    ShowsWrongBalance,
    /// A sequence number of that account's history is missing.
    SkipsSequence,
    /// Has no capacity for the first so many questions about balances, histories and events.
    Busy(u64),
    /// Answers questions about balances with this status.
    RefusesBalances(u16),
    /// After so many earns it closes all connections, and nobody listens any more.
    Dies(u64),
    /// Every account has 7 points, until a request for one is refused for a reason of the business: then none is there.
    Forgets,
    /// Executes and gives no answer, and has no capacity whenever that key comes again.
    DropsAndRefuses(u64),
    /// Executes every second batch, and answers all of them as a whole with this status.
    FailsBatches(u16),
    /// Executes batches, and leaves a result out of the answer.
    MiscountsBatches,
    /// Applies twice, and says only once where its event stream stands: a second run cannot begin.
    AppliesTwiceInOneRun(u64),
}

/// The account with which some vices are about: what its id ends with.
pub(crate) const ODD_ACCOUNT: &str = "-7";

#[derive(Clone, Debug)]
struct Transaction {
    id: String,
    points: i64,
    key: String,
    body: Value,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<String, Vec<Transaction>>,
    earns: u64,
    batches: u64,
    streams: u64,
    shifted: i64,
    events: Vec<Value>,
    omits: Option<u64>,
    stalled_until: Option<Instant>,
    programs: Vec<String>,
    questions: u64,
}

/// A running stub. It ends with the test.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Stub {
    pub(crate) fn start(vice: Vice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let omits = if let Vice::OmitsEvents(every) = vice { Some(every) } else { None };
        let state = Arc::new(Mutex::new(State { omits, ..State::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Dropping the listener ends it.
                if matches!(vice, Vice::Dies(after) if shared.lock().unwrap().earns >= after) {
                    return;
                }
                let state = Arc::clone(&shared);
                // A connection ends when its client goes.
                std::thread::spawn(move || serve(stream.ok()?, vice, &state));
            }
        });
        Self { address, state }
    }

    /// Earns that came.
    pub(crate) fn earns(&self) -> u64 {
        self.state.lock().unwrap().earns
    }
}

struct Request {
    line: String,
    key: String,
    program: Option<String>,
    body: Vec<u8>,
}

fn read(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Request> {
    let mut buffer = [0; 8 << 10];
    loop {
        if let Some(end) = unread.windows(4).position(|part| part == b"\r\n\r\n") {
            let head = String::from_utf8(unread[..end].to_vec()).unwrap();
            let header = |name: &str| {
                let found = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
                found.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
            };
            let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
            if unread.len() >= end + 4 + length {
                let body = unread[end + 4..end + 4 + length].to_vec();
                unread.drain(..end + 4 + length);
                let key = header("idempotency-key").unwrap_or_default();
                let program = header("program");
                return Some(Request { line: head.lines().next().unwrap().to_owned(), key, program, body });
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(read) => unread.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Waits; nobody sends on the channel.
pub(crate) fn pause(time: Duration) {
    let (_keep, never) = channel::<()>();
    let _ = never.recv_timeout(time);
}

fn serve(mut stream: TcpStream, vice: Vice, state: &Mutex<State>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut unread = Vec::new();
    loop {
        let request = read(&mut stream, &mut unread)?;
        if matches!(vice, Vice::Dies(after) if state.lock().unwrap().earns >= after) {
            return None;
        }
        let words: Vec<&str> = request.line.split(' ').collect();
        let (path, query) = words[1].split_once('?').unwrap_or((words[1], ""));
        assert!(!query.contains("cursor"), "the stub never gives one");
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let is_known = |program: &String| state.lock().unwrap().programs.contains(program);
        let answer = match (words[0], parts.as_slice()) {
            ("PUT", ["api", "v1", "programs", name]) => {
                state.lock().unwrap().programs.push((*name).to_owned());
                Some((201, json!({}), ""))
            }
            _ if request.program.as_ref().is_some_and(|program| !is_known(program)) => {
                Some((400, json!({"type": "/problems/unknown-program"}), ""))
            }
            ("GET", ["api", "v1", "points", _, "balance" | "transactions"] | ["api", "v1", "events"])
                if is_busy(state, vice) =>
            {
                Some((503, json!({"type": "/problems/overloaded"}), "Retry-After: 0\r\n"))
            }
            ("GET", ["api", "v1", "points", _, "balance"]) if let Vice::RefusesBalances(status) = vice => {
                Some((status, json!({"type": "/problems/not-for-you"}), ""))
            }
            ("GET", ["livez"]) => Some((200, json!({}), "")),
            ("GET", ["api", "v1", "version"]) => Some((200, json!({"version": "stub"}), "")),
            ("GET", ["api", "v1", "events"]) if let Some(status) = refuses_events(state, vice, query) => {
                Some((status, json!({"type": "/problems/no-events-here"}), ""))
            }
            ("GET", ["api", "v1", "events"]) => Some((200, Value::String(events(&state.lock().unwrap(), query)), "")),
            ("POST", ["api", "v1", "points", account, "earn"]) => earn(state, vice, account, &request),
            ("POST", ["api", "v1", "batch"]) => batches::batch(state, vice, &request),
            ("GET", ["api", "v1", "points", account, "balance"]) if vice == Vice::Forgets => {
                let before = [Transaction { id: String::new(), points: 7, key: String::new(), body: Value::Null }];
                let is_before = state.lock().unwrap().earns == 0;
                Some(look(vice, account, if is_before { &before } else { &[] }, &["balance"]))
            }
            ("GET", ["api", "v1", "points", account, rest @ ..]) => {
                let rows = state.lock().unwrap().accounts.get(*account).cloned();
                Some(look(vice, account, &rows.unwrap_or_default(), rest))
            }
            _ => Some((404, json!({"type": "/problems/not-found"}), "")),
        };
        let (status, body, headers) = answer?;
        if headers == "silence" {
            // Ends when the client closes the connection, or misbehaves and sends another request.
            read(&mut stream, &mut unread);
            return None;
        }
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let length = body.len();
        let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let text = if headers == "babble" { "this is no HTTP at all\r\n\r\n".to_owned() } else { text };
        stream.write_all(text.as_bytes()).ok()?;
    }
}

fn is_busy(state: &Mutex<State>, vice: Vice) -> bool {
    let mut state = state.lock().unwrap();
    state.questions += 1;
    matches!(vice, Vice::Busy(first) if state.questions <= first)
}

/// The status with which a question for events is refused.
fn refuses_events(state: &Mutex<State>, vice: Vice, query: &str) -> Option<u16> {
    let mut state = state.lock().unwrap();
    state.streams += u64::from(query.contains("after=now"));
    match vice {
        Vice::RefusesEvents(status) => Some(status),
        Vice::AppliesTwiceInOneRun(_) if state.streams > 1 => Some(403),
        _ => None,
    }
}

/// A page of the stream; the cursor is a number of events.
fn events(state: &State, query: &str) -> String {
    let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let from = parameter("after").unwrap().parse().unwrap_or(state.events.len());
    let limit = parameter("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let page = state.events.iter().skip(from).take(limit);
    let mut text: String = page.clone().map(|event| format!("{event}\n")).collect();
    // The first comes twice: at least once is what is promised.
    text.extend(page.clone().next().map(|event| format!("{event}\n")));
    text + &json!({"cursor": (from + page.count()).to_string()}).to_string()
}

type Reply = (u16, Value, &'static str);

/// `None`: no answer, the connection ends.
fn earn(state: &Mutex<State>, vice: Vice, account: &str, request: &Request) -> Option<Reply> {
    if let Vice::Slow(time) = vice {
        pause(time);
    }
    if vice == Vice::Forgets {
        state.lock().unwrap().earns += 1;
        return Some((400, json!({"type": "/problems/insufficient-points"}), ""));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let points = body["points"].as_i64().unwrap();
    let mut guard = state.lock().unwrap();
    let state = &mut *guard;
    state.earns += 1;
    let number = state.earns;
    if let Vice::Stall { after, pause } = vice
        && number == after
    {
        state.stalled_until = Some(Instant::now() + pause);
    }
    let is_turn = |every: u64| number.is_multiple_of(every);
    let known = state.accounts.get(account).into_iter().flatten().find(|one| one.key == request.key).cloned();
    let reply = match (known, vice) {
        (Some(_), Vice::DropsAndRefuses(_)) => {
            Some((503, json!({"type": "/problems/overloaded"}), "Retry-After: 1\r\n"))
        }
        (Some(known), _) => Some((201, known.body, "Idempotent-Replayed: true\r\n")),
        (None, Vice::DropsRequests(every) | Vice::HidesOutcomes(every)) if is_turn(every) => None,
        (None, Vice::Loses(every)) if is_turn(every) => {
            Some((201, body_of(&format!("t{number}"), account, points, 1, points), ""))
        }
        (None, Vice::ShiftsPoints(every)) if is_turn(every) => {
            // What this one has too few, the next has too many.
            let told = apply(state, account, &request.key, number, points);
            let row = state.accounts.get_mut(account).unwrap().last_mut().unwrap();
            row.points -= 1;
            state.shifted = 1;
            Some((201, told, ""))
        }
        (None, _) => {
            let mut told = apply(state, account, &request.key, number, points);
            if state.shifted > 0 {
                state.accounts.get_mut(account).unwrap().last_mut().unwrap().points += state.shifted;
                state.shifted = 0;
            }
            let mut headers = "";
            match vice {
                Vice::AnswersWrongly(every) if is_turn(every) => told["points"] = json!(points + 1),
                Vice::AppliesTwice(every) | Vice::AppliesTwiceInOneRun(every) if is_turn(every) => {
                    apply(state, account, &request.key, number + 1_000_000, points);
                }
                Vice::Replays(every) if is_turn(every) => headers = "Idempotent-Replayed: true\r\n",
                Vice::Babbles(every) if is_turn(every) => headers = "babble",
                Vice::Silent(every) if is_turn(every) => headers = "silence",
                _ => {}
            }
            match vice {
                Vice::DropsAnswers(every) | Vice::DropsAndRefuses(every) if is_turn(every) => None,
                Vice::RefusesAndApplies(every) if is_turn(every) => {
                    Some((503, json!({"type": "/problems/overloaded"}), "Retry-After: 1\r\n"))
                }
                _ => Some((201, told, headers)),
            }
        }
    };
    let stalled = state.stalled_until.map(|until| until.saturating_duration_since(Instant::now()));
    drop(guard);
    pause(stalled.unwrap_or_default());
    reply
}

fn body_of(id: &str, account: &str, points: i64, sequence: usize, total: i64) -> Value {
    json!({
        "transaction_id": id, "account_id": account, "type": "EARN", "points": points, "new_balance": total,
        "available_points": total, "pending_points": 0, "held_points": 0, "sequence": sequence
    })
}

fn apply(state: &mut State, account: &str, key: &str, number: u64, points: i64) -> Value {
    let rows = state.accounts.entry(account.to_owned()).or_default();
    let total = rows.iter().map(|row| row.points).sum::<i64>() + points;
    let id = format!("t{number}");
    let body = body_of(&id, account, points, rows.len() + 1, total);
    if state.omits.is_none_or(|every| !number.is_multiple_of(every)) {
        let data = json!({"account_id": account, "transaction_id": id, "type": "EARN", "points": points});
        state.events.push(json!({"id": format!("e-{id}"), "data": data}));
    }
    rows.push(Transaction { id, points, key: key.to_owned(), body: body.clone() });
    body
}

fn look(vice: Vice, account: &str, rows: &[Transaction], what: &[&str]) -> Reply {
    let is_odd = |odd: Vice| vice == odd && account.ends_with(ODD_ACCOUNT);
    let total = rows.iter().map(|row| row.points).sum::<i64>() + i64::from(is_odd(Vice::ShowsWrongBalance));
    let held = i64::from(is_odd(Vice::HoldsTooMuch));
    let available = if is_odd(Vice::BelowFloor) { -1 } else { total - held };
    // The newest one has a number too high.
    let sequence = |number: usize| number + usize::from(is_odd(Vice::SkipsSequence) && number == rows.len());
    let unknown = |name: &str| (404, json!({"type": format!("/problems/{name}")}), "");
    match what {
        ["balance"] if rows.is_empty() => unknown("unknown-account"),
        ["balance"] => {
            let body = json!({
                "account_id": account, "total_points": total, "available_points": available, "pending_points": 0,
                "held_points": held, "sequence": sequence(rows.len())
            });
            (200, body, "")
        }
        ["transactions"] => {
            let row = |(index, row): (usize, &Transaction)| {
                json!({
                    "transaction_id": row.id, "type": "EARN", "points": row.points, "sequence": sequence(index + 1),
                    "reference_id": row.key
                })
            };
            let rows: Vec<Value> = rows.iter().enumerate().rev().map(row).collect();
            (200, json!({"transactions": rows, "total_count": rows.len(), "has_more": false, "next": null}), "")
        }
        ["outcomes", _] if matches!(vice, Vice::HidesOutcomes(_)) => {
            (500, json!({"type": "/problems/internal-error"}), "")
        }
        ["outcomes", key] => match rows.iter().find(|row| row.key == *key) {
            Some(row) => (200, json!({"status": 201, "body": row.body}), ""),
            None => unknown("unknown-outcome"),
        },
        _ => unknown("not-found"),
    }
}
