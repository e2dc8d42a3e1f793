//! Many requests at once, by their owners.

use std::collections::HashMap;
use std::time::Duration;

use meed_engine::worker::CallMany;
use meed_schemas::command::Request;
use meed_schemas::outcome::{Refusal, Reply};

use super::Cluster;
use super::route::{Place, Route};
use crate::forward::Unanswered;
use crate::link;

/// Answers to come from several owners.
pub struct Window {
    count: usize,
    /// What was sent to one owner: the places of its requests.
    parts: Vec<(Vec<usize>, Result<Part, Unanswered>)>,
}

/// What goes to one owner: places, requests, the way there, and the owner's incarnation.
type ToSend = (Vec<usize>, Vec<Request>, Result<Place, Unanswered>, Option<u128>);

enum Part {
    Here(CallMany),
    There(link::Window),
}

impl Window {
    /// Sends requests to their owners. The order of those of one account is kept, so a part whose shard turns out to be
    /// another node's is not sent again: a later window may be under way.
    pub(super) async fn send(cluster: &Cluster, requests: Vec<Request>, bytes: u32, wait: Duration) -> Self {
        let count = requests.len();
        let mut by_shard: HashMap<u16, usize> = HashMap::new();
        let mut parts: Vec<ToSend> = Vec::new();
        for (index, request) in requests.into_iter().enumerate() {
            let shard = cluster.shard(&request.identity);
            let part = match shard.as_ref().ok().and_then(|shard| by_shard.get(shard)) {
                Some(part) => *part,
                None => {
                    let (place, owner) = match shard {
                        Ok(shard) => (Route::new(cluster, shard).next().await, cluster.owner_of(shard)),
                        Err(why) => (Err(why), None),
                    };
                    let same = parts.iter().position(|(_, _, _, other)| owner.is_some() && *other == owner);
                    let part = same.filter(|_| place.is_ok()).unwrap_or(parts.len());
                    if part == parts.len() {
                        let owner = owner.filter(|_| place.is_ok());
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
        let mut sent = Vec::with_capacity(parts.len());
        for (indexes, requests, place, _) in parts {
            let part = match place {
                Ok(Place::Here(local)) => local.send(requests, bytes, wait).await.map(Part::Here),
                Ok(Place::There(link)) => link.send_window(&requests, bytes, wait).await.map(Part::There),
                Err(why) => Err(why),
            };
            sent.push((indexes, part));
        }
        Self { count, parts: sent }
    }

    /// Waits for the answers, in the order of the requests.
    pub async fn answers(self) -> Vec<Result<Reply, Unanswered>> {
        let mut all: Vec<Result<Reply, Unanswered>> = (0..self.count).map(|_| Err(Unanswered::Unknown)).collect();
        for (indexes, part) in self.parts {
            let answers = match part {
                Ok(Part::Here(calls)) => calls.await.into_iter().map(Ok).collect(),
                Ok(Part::There(window)) => window.answers().await,
                Err(why) => indexes.iter().map(|_| Err(why)).collect(),
            };
            for (index, answer) in indexes.into_iter().zip(answers) {
                all[index] = match answer {
                    Ok(Reply::Refused(Refusal::NotOwner { .. })) => Err(Unanswered::NotReady),
                    answer => answer,
                };
            }
        }
        all
    }
}
