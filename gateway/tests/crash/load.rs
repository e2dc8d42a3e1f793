//! A client with accounts of its own: it knows after every answer what they must hold, asks under keys,
//! and finds out after a crash what became of the request that was under way.

use std::collections::BTreeSet;
use std::sync::mpsc::Sender;

use serde_json::Value;

use crate::node::{Answer, Client, Node};

/// SplitMix64, so that a printed seed repeats the requests.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What a request does when it is executed.
#[derive(Debug, Clone)]
enum Effect {
    Earn(i64),
    Redeem(i64),
    Hold(i64),
    Capture(usize),
    Void(usize),
    Reverse(usize),
}

#[derive(Debug, Clone)]
struct Sent {
    path: String,
    key: String,
    body: String,
    effect: Effect,
}

/// One account that only this client uses.
#[derive(Debug, Default)]
struct Account {
    name: String,
    total: i64,
    held: i64,
    sequence: u64,
    earns: Vec<(String, i64)>,
    holds: Vec<(String, i64)>,
    /// Everything that was answered, with the answer.
    done: Vec<(Sent, u16, String)>,
    /// Ids of all that was executed.
    executed: BTreeSet<String>,
    unknown: Option<Sent>,
}

impl Account {
    fn next(&self, number: u64, random: &mut Random) -> Sent {
        let points = 1 + random.below(100) as i64;
        let base = format!("/api/v1/points/{}", self.name);
        let key = format!("{}-{number}", self.name);
        let sent = |path: String, body: String, effect| Sent { path, key: key.clone(), body, effect };
        match random.below(10) {
            4..=5 if self.sequence > 0 => {
                let body = format!(r#"{{"points":{points}}}"#);
                sent(format!("{base}/redeem"), body, Effect::Redeem(points))
            }
            6 if self.total - self.held >= points => {
                sent(format!("{base}/holds"), format!(r#"{{"points":{points}}}"#), Effect::Hold(points))
            }
            7 if !self.holds.is_empty() => {
                let at = random.below(self.holds.len() as u64) as usize;
                sent(format!("{base}/holds/{}/capture", self.holds[at].0), "{}".into(), Effect::Capture(at))
            }
            8 if !self.holds.is_empty() => {
                let at = random.below(self.holds.len() as u64) as usize;
                sent(format!("{base}/holds/{}/void", self.holds[at].0), "{}".into(), Effect::Void(at))
            }
            9 if !self.earns.is_empty() => {
                let at = random.below(self.earns.len() as u64) as usize;
                sent(format!("{base}/transactions/{}/reverse", self.earns[at].0), "{}".into(), Effect::Reverse(at))
            }
            _ => {
                let body = format!(r#"{{"points":{points},"reference_id":"order-{number}"}}"#);
                sent(format!("{base}/earn"), body, Effect::Earn(points))
            }
        }
    }

    /// Holds an answer against what it must be.
    fn answered(&mut self, sent: Sent, status: u16, body: &str) {
        let json: Value = serde_json::from_str(body).unwrap();
        let available = self.total - self.held;
        if let Effect::Redeem(points) = sent.effect
            && points > available
        {
            assert_eq!((status, json["available_points"].as_i64()), (400, Some(available)), "{sent:?} {body}");
            self.done.push((sent, status, body.to_owned()));
            return;
        }
        let expected = if matches!(sent.effect, Effect::Void(_)) { 200 } else { 201 };
        assert_eq!(status, expected, "{sent:?} {body}");
        let id = json["transaction_id"].as_str().unwrap().to_owned();
        match sent.effect {
            Effect::Earn(points) => {
                self.total += points;
                self.earns.push((id.clone(), points));
            }
            Effect::Redeem(points) => self.total -= points,
            Effect::Hold(points) => {
                self.held += points;
                self.holds.push((id.clone(), points));
            }
            Effect::Capture(at) => {
                let (_, points) = self.holds.swap_remove(at);
                self.held -= points;
                self.total -= points;
            }
            Effect::Void(at) => self.held -= self.holds.swap_remove(at).1,
            Effect::Reverse(at) => {
                let (_, points) = self.earns.swap_remove(at);
                self.total -= points.min(available);
            }
        }
        self.sequence += 1;
        let seen = (json["sequence"].as_u64(), json["new_balance"].as_i64(), json["held_points"].as_i64());
        assert_eq!(seen, (Some(self.sequence), Some(self.total), Some(self.held)), "{sent:?} {body}");
        assert!(self.executed.insert(id), "{body}");
        self.done.push((sent, status, body.to_owned()));
    }

    /// Finds out what became of the request that the crash cut off.
    fn resolve(&mut self, client: &mut Client, random: &mut Random) {
        let Some(sent) = self.unknown.take() else { return };
        let outcome = client.get(&format!("/api/v1/points/{}/outcomes/{}", self.name, sent.key)).unwrap();
        match (outcome.status, random.below(2)) {
            (200, _) => {
                let json = outcome.json();
                let status = json["status"].as_u64().unwrap() as u16;
                let again = client.post(&sent.path, Some(&sent.key), &sent.body).unwrap();
                assert!(again.is_replay() && again.status == status, "{again:?}");
                assert_eq!(again.json(), json["body"]);
                self.answered(sent, status, &again.body);
            }
            (404, 0) => {
                assert!(["unknown-outcome", "unknown-account"].contains(&outcome.problem().as_str()), "{outcome:?}");
                let answer = client.post(&sent.path, Some(&sent.key), &sent.body).unwrap();
                assert!(!answer.is_replay(), "it was not executed, and then it was: {answer:?}");
                self.answered(sent, answer.status, &answer.body);
            }
            (404, _) => {}
            _ => panic!("{outcome:?}"),
        }
    }

    fn check(&self, client: &mut Client, random: &mut Random) {
        let balance = client.get(&format!("/api/v1/points/{}/balance", self.name)).unwrap();
        if self.sequence == 0 {
            assert_eq!(balance.status, 404);
            return;
        }
        let json = balance.json();
        let seen = (json["total_points"].as_i64(), json["held_points"].as_i64(), json["sequence"].as_u64());
        assert_eq!(seen, (Some(self.total), Some(self.held), Some(self.sequence)), "{}: {balance:?}", self.name);
        for _ in 0..3 {
            let (sent, status, body) = &self.done[random.below(self.done.len() as u64) as usize];
            let again = client.post(&sent.path, Some(&sent.key), &sent.body).unwrap();
            assert!(again.is_replay(), "{sent:?} {again:?}");
            assert_eq!((&again.status, &again.body), (status, body), "a replay is byte-identical");
        }
    }

    /// The whole history is what was executed, densely numbered, and nothing else.
    fn check_history(&self, client: &mut Client) {
        // Nothing of it was executed, so there is no such account.
        if self.sequence == 0 {
            return;
        }
        let mut next = self.sequence;
        let mut found = BTreeSet::new();
        let base = format!("/api/v1/points/{}/transactions?limit=500", self.name);
        let mut page = client.get(&base).unwrap().json();
        loop {
            for row in page["transactions"].as_array().unwrap() {
                assert_eq!(row["sequence"].as_u64(), Some(next), "{}", self.name);
                next -= 1;
                found.insert(row["transaction_id"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(cursor) => page = client.get(&format!("{base}&cursor={cursor}")).unwrap().json(),
                None => break,
            }
        }
        assert_eq!(next, 0, "{}", self.name);
        assert_eq!(found, self.executed, "{}", self.name);
    }
}

/// A client: accounts of its own, aliases that move between them, and a part in an account that all share.
pub(crate) struct Load {
    random: Random,
    accounts: Vec<Account>,
    aliases: Vec<Alias>,
    number: u64,
    shared: Shared,
}

/// An alias that only this client gives and takes.
#[derive(Default)]
struct Alias {
    name: String,
    /// Which of the client's accounts has it.
    of: Option<usize>,
    /// Which would have it if the request that is under way is executed.
    unknown: Option<Option<usize>>,
}

impl Alias {
    /// What was answered stands, whatever ended the node: put, it is found; deleted, it is not found again.
    fn check(&mut self, client: &mut Client, accounts: &[Account]) {
        let body = format!(r#"{{"user_identifier":"{}"}}"#, self.name);
        let found = client.post("/api/v1/accounts/lookup", None, &body).unwrap();
        assert!([200, 404].contains(&found.status), "{found:?}");
        let name = (found.status == 200).then(|| found.json()["account_id"].as_str().unwrap().to_owned());
        let is_now = |of: Option<usize>| of.map(|at| accounts[at].name.as_str()) == name.as_deref();
        if let Some(after) = self.unknown.take().filter(|after| is_now(*after)) {
            self.of = after;
        }
        assert!(is_now(self.of), "{} is not with {:?} but {found:?}", self.name, self.of);
    }
}

#[derive(Default)]
struct Shared {
    name: String,
    points: i64,
    unknown: Option<String>,
}

impl Load {
    pub(crate) fn new(client: usize, seed: u64, shared: &str) -> Self {
        let account = |n| Account { name: format!("c{client}-{n}"), ..Account::default() };
        Self {
            random: Random(seed ^ (client as u64) << 32),
            accounts: (0..3).map(account).collect(),
            aliases: (0..4).map(|n| Alias { name: format!("card:C{client}N{n}"), ..Alias::default() }).collect(),
            number: 0,
            shared: Shared { name: shared.to_owned(), ..Shared::default() },
        }
    }

    /// Points that this client has given to the shared account.
    pub(crate) fn shared_points(&self) -> i64 {
        self.shared.points
    }

    /// Sends request after request until the connection breaks; tells of every answer. What is refused for
    /// now (the node is stopping) was not executed.
    pub(crate) fn run(&mut self, node: &str, answered: &Sender<()>) {
        let Ok(mut client) = Client::connect(node) else { return };
        loop {
            self.number += 1;
            // A change of an alias is two syncs of its own, so there are fewer of them.
            if self.random.below(8) == 0 {
                match self.change_alias(&mut client) {
                    Some(true) => {}
                    _ => return,
                }
                let _ = answered.send(());
                continue;
            }
            let index = self.random.below(4) as usize;
            let executed = match self.accounts.get_mut(index) {
                Some(account) => {
                    let sent = account.next(self.number, &mut self.random);
                    account.unknown = Some(sent.clone());
                    match client.post(&sent.path, Some(&sent.key), &sent.body) {
                        Ok(answer) if answer.status == 503 => not_executed(&answer, &mut account.unknown),
                        Ok(answer) => {
                            account.unknown = None;
                            assert!(!answer.is_replay(), "{answer:?}");
                            account.answered(sent, answer.status, &answer.body);
                            true
                        }
                        Err(_) => return,
                    }
                }
                None => {
                    let key = format!("{}-{}", self.accounts[0].name, self.number);
                    match self.shared.earn(&mut client, key) {
                        Some(executed) => executed,
                        None => return,
                    }
                }
            };
            if !executed {
                return;
            }
            // Nobody listens any more when the node is about to go.
            let _ = answered.send(());
        }
    }

    /// Gives an alias to an account, takes it from the one that has it, or gives it to that one again. Whether it was
    /// done; `None` when nobody knows.
    fn change_alias(&mut self, client: &mut Client) -> Option<bool> {
        let at = self.random.below(self.aliases.len() as u64) as usize;
        let to = self.random.below(self.accounts.len() as u64) as usize;
        // There must be such an account.
        if self.accounts[to].sequence == 0 {
            return Some(true);
        }
        let alias = &mut self.aliases[at];
        let (method, of, after, expected) = match alias.of {
            None => ("PUT", to, Some(to), 201),
            Some(of) if of == to => ("PUT", of, Some(of), 200),
            Some(of) => ("DELETE", of, None, 204),
        };
        alias.unknown = Some(after);
        let path = format!("/api/v1/accounts/{}/aliases/{}", self.accounts[of].name, alias.name);
        let answer = client.ask(&format!("{method} {path} HTTP/1.1\r\nHost: m\r\n\r\n")).ok()?;
        match answer.status {
            503 => return Some(not_executed(&answer, &mut alias.unknown)),
            // The store has stopped, and half of it may be done.
            504 => return None,
            _ => {}
        }
        assert_eq!(answer.status, expected, "{method} {path}: {answer:?}");
        (alias.of, alias.unknown) = (after, None);
        Some(true)
    }

    /// After a restart: what was under way is resolved, and everything answered is there.
    pub(crate) fn check(&mut self, node: &Node) {
        let mut client = node.client();
        for account in &mut self.accounts {
            account.resolve(&mut client, &mut self.random);
            account.check(&mut client, &mut self.random);
        }
        for alias in &mut self.aliases {
            alias.check(&mut client, &self.accounts);
        }
        for (at, account) in self.accounts.iter().enumerate().filter(|(_, account)| account.sequence > 0) {
            let having = self.aliases.iter().filter(|alias| alias.of == Some(at)).map(|alias| alias.name.as_str());
            let list = client.get(&format!("/api/v1/accounts/{}/aliases", account.name)).unwrap().json();
            let listed = list["aliases"].as_array().unwrap().iter().map(|alias| alias.as_str().unwrap());
            assert_eq!(listed.collect::<BTreeSet<_>>(), having.collect(), "{}", account.name);
        }
        if let Some(key) = self.shared.unknown.take() {
            let outcome = client.get(&format!("/api/v1/points/{}/outcomes/{key}", self.shared.name)).unwrap();
            assert!([200, 404].contains(&outcome.status), "{outcome:?}");
            self.shared.points += i64::from(outcome.status == 200);
        }
    }

    pub(crate) fn check_history(&self, node: &Node) {
        let mut client = node.client();
        self.accounts.iter().for_each(|account| account.check_history(&mut client));
    }
}

impl Shared {
    /// Whether it was executed; `None` when nobody knows.
    fn earn(&mut self, client: &mut Client, key: String) -> Option<bool> {
        let path = format!("/api/v1/points/{}/earn", self.name);
        self.unknown = Some(key);
        let answer = client.post(&path, self.unknown.as_deref(), r#"{"points":1}"#).ok()?;
        if answer.status == 503 {
            return Some(not_executed(&answer, &mut self.unknown));
        }
        assert_eq!(answer.status, 201, "{answer:?}");
        self.unknown = None;
        self.points += 1;
        Some(true)
    }
}

fn not_executed<T>(answer: &Answer, unknown: &mut Option<T>) -> bool {
    assert!(answer.headers.contains("retry-after: "), "{answer:?}");
    *unknown = None;
    false
}

/// Runs the loads until so many requests were answered, then does something to the node, and waits until
/// the loads have noticed.
pub(crate) fn under_load(node: Node, loads: &mut [Load], answers: usize, then: impl FnOnce(Node)) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let address = node.address.clone();
    std::thread::scope(|scope| {
        for load in loads {
            let (address, sender) = (&address, sender.clone());
            scope.spawn(move || load.run(address, &sender));
        }
        drop(sender);
        for _ in 0..answers {
            if receiver.recv().is_err() {
                break;
            }
        }
        then(node);
    });
}

/// All loads check a node that was started again, and what they share adds up.
pub(crate) fn check_all(node: &Node, loads: &mut [Load], shared: &str) {
    std::thread::scope(|scope| {
        let checks: Vec<_> = loads.iter_mut().map(|load| scope.spawn(|| load.check(node))).collect();
        let failed = checks.into_iter().filter_map(|check| check.join().err()).count();
        assert!(failed == 0, "{failed} clients found something wrong; the node logged {}", node.logged());
    });
    let points: i64 = loads.iter().map(Load::shared_points).sum();
    assert_eq!(node.client().total(shared), points, "{shared}");
}
