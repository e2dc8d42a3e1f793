//! Many requests at once, by their owners.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use meed_engine::worker::CallMany;
use meed_schemas::command::Request;
use meed_schemas::ids::Identity;
use meed_schemas::outcome::{Refusal, Reply};
use tokio::time::sleep;

use super::Cluster;
use super::route::{PAUSE, Place, Route, Time, in_the_end, is_to_ask_again, of_another};
use crate::forward::Unanswered;
use crate::link;

/// Answers to come from several owners. Whoever turns out not to be the owner, or breaks off, decided nothing, or
/// something under a key; so what it was asked goes to whoever owns it then, as a single request would, and the order
/// of those of one account is kept. That needs all of the window's answers, and no later window of the same caller
/// under way.
pub struct Window {
    cluster: Cluster,
    time: Time,
    bytes: u32,
    wait: Duration,
    requests: Vec<Request>,
    /// By request.
    outcomes: Vec<Outcome>,
    routes: HashMap<u16, Route>,
    /// What was sent to one owner: the places of its requests.
    parts: Vec<(Vec<usize>, Result<Part, Unanswered>)>,
}

/// What became of a request.
enum Outcome {
    /// It has no answer yet; this is to be said if it gets none.
    Open(Unanswered),
    /// It is answered.
    Done(Result<Reply, Unanswered>),
}

/// What goes to one owner: places, requests, the way there, and the owner's incarnation.
type ToSend = (Vec<usize>, Vec<Request>, Result<Place, Unanswered>, Option<u128>);

enum Part {
    Here(CallMany),
    There(link::Window),
}

impl Window {
    /// Sends requests to their owners.
    pub(super) async fn send(
        cluster: &Cluster,
        requests: Vec<Request>,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Self {
        let outcomes = requests.iter().map(|_| Outcome::Open(Unanswered::NotReady)).collect();
        let (cluster, time) = (cluster.clone(), cluster.time(left));
        let (routes, parts, all) = (HashMap::new(), Vec::new(), (0..requests.len()).collect());
        let mut window = Self { cluster, time, bytes, wait, requests, outcomes, routes, parts };
        window.ask(all).await;
        window
    }

    /// Sends these requests, those of one owner together.
    async fn ask(&mut self, indexes: Vec<usize>) {
        let mut by_shard: HashMap<u16, usize> = HashMap::new();
        let mut parts: Vec<ToSend> = Vec::new();
        for index in indexes {
            let request = self.requests[index].clone();
            let shard = self.cluster.shard(&request.identity);
            let part = match shard.as_ref().ok().and_then(|shard| by_shard.get(shard)) {
                Some(part) => *part,
                None => {
                    let (place, owner) = match shard {
                        Ok(shard) => self.place(shard).await,
                        Err(why) => (Err(why), None),
                    };
                    let same = parts.iter().position(|(_, _, _, other)| owner.is_some() && *other == owner);
                    let part = same.unwrap_or(parts.len());
                    if part == parts.len() {
                        parts.push((Vec::new(), Vec::new(), place, owner));
                    }
                    if let Ok(shard) = shard {
                        by_shard.insert(shard, part);
                    }
                    part
                }
            };
            parts[part].0.push(index);
            parts[part].1.push(request);
        }
        let (bytes, wait) = (self.bytes, self.wait);
        for (indexes, requests, place, _) in parts {
            let left = self.time.left();
            let part = match place {
                Ok(Place::Here(local)) => local.send(requests, bytes, wait, left).await.map(Part::Here),
                Ok(Place::There(link)) => {
                    link.send_window(&requests, bytes, wait, left).await.map(Part::There).map_err(of_another)
                }
                Err(why) => Err(why),
            };
            self.parts.push((indexes, part));
        }
    }

    /// The owner of a shard; of nobody, or one that cannot be reached, there is no incarnation.
    async fn place(&mut self, shard: u16) -> (Result<Place, Unanswered>, Option<u128>) {
        let route = self.routes.entry(shard).or_insert_with(|| Route::new(&self.cluster, shard, self.time));
        match route.next().await {
            Some(place) => (Ok(place), route.asked()),
            None => (Err(Unanswered::NotReady), None),
        }
    }

    /// Waits for the answers, in the order of the requests.
    pub async fn answers(mut self) -> Vec<Result<Reply, Unanswered>> {
        loop {
            self.take().await;
            let again = self.open_requests();
            if again.is_empty() {
                break;
            }
            sleep(PAUSE).await;
            self.ask(again).await;
        }
        let done = |outcome| match outcome {
            Outcome::Open(why) => Err(why),
            Outcome::Done(answer) => answer,
        };
        self.outcomes.into_iter().map(done).collect()
    }

    /// Waits for the answers to what was sent last.
    async fn take(&mut self) {
        for (indexes, part) in std::mem::take(&mut self.parts) {
            let answers: Vec<Result<Reply, Unanswered>> = match part {
                Ok(Part::Here(calls)) => calls.await.into_iter().map(Ok).collect(),
                Ok(Part::There(window)) => {
                    window.answers().await.into_iter().map(|answer| answer.map_err(of_another)).collect()
                }
                Err(why) => indexes.iter().map(|_| Err(why)).collect(),
            };
            for (index, answer) in indexes.into_iter().zip(answers) {
                let before = match &self.outcomes[index] {
                    Outcome::Open(before) => *before,
                    Outcome::Done(_) => continue,
                };
                self.outcomes[index] = match answer {
                    Ok(Reply::Refused(Refusal::NotOwner { .. })) => {
                        Outcome::Open(in_the_end(before, Unanswered::NotOwner))
                    }
                    Err(why) if is_to_ask_again(why) => Outcome::Open(in_the_end(before, why)),
                    Ok(Reply::Refused(Refusal::NotReady)) => {
                        Outcome::Done(Err(in_the_end(before, Unanswered::NotReady)))
                    }
                    answer => Outcome::Done(answer.map_err(|why| in_the_end(before, why))),
                };
            }
        }
    }

    /// What has no answer yet and may be asked again: not before a later one of the same account that was decided now.
    fn open_requests(&mut self) -> Vec<usize> {
        if !self.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Open(_))) {
            return Vec::new();
        }
        let mut decided: HashSet<&Identity> = HashSet::new();
        let mut again = Vec::new();
        for (index, request) in self.requests.iter().enumerate().rev() {
            match &self.outcomes[index] {
                Outcome::Open(why) if decided.contains(&request.identity) => {
                    self.outcomes[index] = Outcome::Done(Err(*why));
                }
                Outcome::Open(_) => again.push(index),
                Outcome::Done(Ok(Reply::Executed { replayed: true, .. } | Reply::RefusedBefore { .. })) => {}
                Outcome::Done(_) => drop(decided.insert(&request.identity)),
            }
        }
        again.reverse();
        again
    }
}
