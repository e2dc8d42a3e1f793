//! The map of owners, and what a node does about it: pure, with what the cluster says as arguments.
//!
//! Every change of the map names the version that it was made from, so changes have one order, and a plan that was
//! made from an older map takes no effect.

use std::sync::Arc;

/// One life of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is called.
    pub name: Box<str>,
    /// Random, another in each life.
    pub incarnation: u128,
    /// Where other nodes reach it.
    pub address: Box<str>,
}

/// Who owns a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The owner.
    pub member: Arc<Member>,
    /// The epoch that it claimed the shard's journal under; 0 while it has not begun to decide.
    pub epoch: i64,
}

/// Who owns what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerMap {
    /// Grows by one with every change.
    pub version: i64,
    /// Grows with every version of a program that was announced.
    pub programs: i64,
    /// By shard; `None` when nobody has it.
    pub seats: Vec<Option<Seat>>,
}

impl OwnerMap {
    /// Before anything is known.
    pub fn unknown(shards: u16) -> Self {
        Self { version: -1, programs: -1, seats: vec![None; usize::from(shards)] }
    }

    /// The owner of a shard.
    pub fn owner(&self, shard: u16) -> Option<&Arc<Member>> {
        self.seats.get(usize::from(shard))?.as_ref().map(|seat| &seat.member)
    }

    /// Whether this life of a node owns the shard.
    pub fn is_owner(&self, shard: u16, incarnation: u128) -> bool {
        self.owner(shard).is_some_and(|member| member.incarnation == incarnation)
    }

    /// The shards of one life of a node.
    pub fn shards_of(&self, incarnation: u128) -> impl Iterator<Item = u16> {
        (0..self.seats.len() as u16).filter(move |shard| self.is_owner(*shard, incarnation))
    }
}

/// A node whose lease runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNode {
    /// Which.
    pub member: Arc<Member>,
    /// Whether it is to give its shards away and take none.
    pub draining: bool,
}

/// What a node is to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Shards without a living owner, to be taken.
    pub take: Vec<u16>,
    /// A shard to be handed over, and to whom.
    pub give: Option<(u16, Arc<Member>)>,
}

/// What the node with this incarnation is to do, given a map and the nodes that lived when they were read after it.
///
/// Shards are shared evenly by the nodes that do not drain. A node gives one shard at a time, and only to one that has
/// begun all it was given, so that no more than one shard waits on the way. Where all nodes drain, each keeps what it
/// has.
pub fn plan(map: &OwnerMap, live: &[LiveNode], own: u128) -> Plan {
    let lives = |incarnation| live.iter().any(|node| node.member.incarnation == incarnation);
    let mut candidates: Vec<&LiveNode> = live.iter().filter(|node| !node.draining).collect();
    let all_drain = candidates.is_empty();
    if all_drain {
        candidates = live.iter().collect();
    }
    candidates.sort_by(|a, b| (&a.member.name, a.member.incarnation).cmp(&(&b.member.name, b.member.incarnation)));
    let (shards, nodes) = (map.seats.len(), candidates.len().max(1));
    let share = |place: usize| shards / nodes + usize::from(place < shards % nodes);
    let owned = |incarnation| map.shards_of(incarnation).count();
    let place = candidates.iter().position(|node| node.member.incarnation == own);
    let mut found = Plan::default();
    if let Some(place) = place {
        let wanted = share(place).saturating_sub(owned(own));
        // Each begins to look at another place, so that two nodes seldom want the same.
        let begin = place * shards / nodes;
        let free = (begin..shards).chain(0..begin).map(|shard| shard as u16);
        let free = free.filter(|shard| map.owner(*shard).is_none_or(|member| !lives(member.incarnation)));
        found.take = free.take(wanted).collect();
    }
    let keeps = place.map_or(0, share);
    if all_drain || owned(own) <= keeps {
        return found;
    }
    let has_begun_all =
        |incarnation| map.seats.iter().flatten().all(|seat| seat.member.incarnation != incarnation || seat.epoch > 0);
    let needs = candidates.iter().enumerate().filter(|(_, node)| node.member.incarnation != own);
    let needs = needs.map(|(place, node)| (share(place).saturating_sub(owned(node.member.incarnation)), &node.member));
    let neediest = needs
        .filter(|(missing, member)| *missing > 0 && has_begun_all(member.incarnation))
        .max_by_key(|(missing, _)| *missing);
    let mut begun =
        map.shards_of(own).filter(|shard| map.seats[usize::from(*shard)].as_ref().is_some_and(|seat| seat.epoch > 0));
    found.give = neediest.and_then(|(_, member)| Some((begun.next()?, Arc::clone(member))));
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;

    fn member(number: u128) -> Arc<Member> {
        Arc::new(Member { name: format!("n{number}").into(), incarnation: number, address: "a:1".into() })
    }

    fn live(numbers: &[u128]) -> Vec<LiveNode> {
        numbers.iter().map(|n| LiveNode { member: member(*n), draining: false }).collect()
    }

    fn seats(owners: &[u128]) -> OwnerMap {
        let seat = |owner: &u128| (*owner > 0).then(|| Seat { member: member(*owner), epoch: 1 });
        OwnerMap { version: 1, programs: 0, seats: owners.iter().map(seat).collect() }
    }

    #[test]
    fn one_node_takes_all_and_gives_none() {
        let found = plan(&seats(&[0, 0, 0]), &live(&[1]), 1);
        assert_eq!((found.take.len(), found.give), (3, None));
        assert_eq!(plan(&seats(&[1, 1, 1]), &live(&[1]), 1), Plan::default());
    }

    #[test]
    fn a_node_that_joins_is_given_one_shard_after_the_other() {
        let map = seats(&[1, 1, 1, 1]);
        assert_eq!(plan(&map, &live(&[1, 2]), 2), Plan::default(), "a living owner's shards are not taken");
        let (shard, to) = plan(&map, &live(&[1, 2]), 1).give.unwrap();
        assert_eq!(to, member(2));
        let mut map = map;
        map.seats[usize::from(shard)] = Some(Seat { member: member(2), epoch: 0 });
        assert_eq!(plan(&map, &live(&[1, 2]), 1).give, None, "the first has not begun there");
        map.seats[usize::from(shard)] = Some(Seat { member: member(2), epoch: 7 });
        assert!(plan(&map, &live(&[1, 2]), 1).give.is_some());
        assert_eq!(plan(&seats(&[1, 1, 2, 2]), &live(&[1, 2]), 1), Plan::default(), "even");
    }

    #[test]
    fn shards_of_the_dead_are_shared_by_the_living() {
        let map = seats(&[3, 1, 3, 2, 3, 3]);
        let (one, two) = (plan(&map, &live(&[1, 2]), 1), plan(&map, &live(&[1, 2]), 2));
        assert_eq!((one.take.len(), two.take.len()), (2, 2));
        assert!(one.take.iter().all(|shard| !two.take.contains(shard)), "{one:?} {two:?}");
        // An earlier life of the same name is dead too.
        let again = LiveNode { member: Arc::new(Member { incarnation: 33, ..(*member(3)).clone() }), draining: false };
        assert_eq!(plan(&map, &[live(&[1, 2]), vec![again]].concat(), 33).take.len(), 2);
    }

    #[test]
    fn a_node_that_drains_gives_all_unless_there_is_nobody_else() {
        let mut nodes = live(&[1, 2]);
        nodes[0].draining = true;
        assert!(plan(&seats(&[1, 2]), &nodes, 1).give.is_some());
        assert!(plan(&seats(&[0, 2]), &nodes, 1).take.is_empty());
        assert_eq!(plan(&seats(&[0, 2]), &nodes, 2).take, [0]);
        nodes[1].draining = true;
        assert_eq!(plan(&seats(&[1, 2]), &nodes, 1), Plan::default());
        let alone = &nodes[..1];
        assert_eq!(plan(&seats(&[1, 0]), alone, 1).take, [1], "a shard that nobody has is worse");
    }

    /// Nodes that join, die, drain and act on maps that are old, in any order: the compare-and-set of the version
    /// alone keeps them apart.
    #[test]
    fn whatever_the_order_no_living_owner_is_robbed_and_all_ends_even() {
        for seed in 0..300 {
            let mut random = Random(seed);
            let shards = 1 + random.below(24);
            let mut map = seats(&vec![0; shards]);
            let mut alive: Vec<LiveNode> = Vec::new();
            let mut next = 0;
            // By node: the map and the nodes as it last read them.
            let mut views: std::collections::HashMap<u128, (OwnerMap, Vec<LiveNode>)> = Default::default();
            let mut quiet = 0;
            for step in 0..3_000 {
                let is_stormy = step < 400;
                if is_stormy && random.below(20) == 0 || alive.is_empty() {
                    next += 1;
                    alive.extend(live(&[next]));
                }
                if is_stormy && random.below(40) == 0 {
                    let gone = random.below(alive.len());
                    views.remove(&alive.remove(gone).member.incarnation);
                    continue;
                }
                if is_stormy && random.below(40) == 0 {
                    let at = random.below(alive.len());
                    alive[at].draining ^= true;
                }
                let own = alive[random.below(alive.len())].member.incarnation;
                if random.below(3) > 0 || !views.contains_key(&own) {
                    views.insert(own, (map.clone(), alive.clone()));
                    continue;
                }
                let (known, nodes) = views.remove(&own).unwrap();
                let found = plan(&known, &nodes, own);
                let change = match (found.take.first(), found.give) {
                    (Some(shard), _) => Some((*shard, Seat { member: member(own), epoch: 0 })),
                    (None, Some((shard, to))) => Some((shard, Seat { member: to, epoch: 0 })),
                    // A shard that was given begins to decide some time.
                    (None, None) => known.shards_of(own).find_map(|shard| {
                        let seat = known.seats[usize::from(shard)].clone()?;
                        (seat.epoch == 0).then_some((shard, Seat { epoch: 1, ..seat }))
                    }),
                };
                let Some((shard, seat)) = change else {
                    quiet += 1;
                    continue;
                };
                if map.version != known.version {
                    continue;
                }
                quiet = 0;
                if let Some(owner) = map.owner(shard)
                    && alive.iter().any(|node| node.member == *owner)
                {
                    assert_eq!(owner.incarnation, own, "seed {seed}: shard {shard} was taken from a living node");
                }
                map.seats[usize::from(shard)] = Some(seat);
                map.version += 1;
            }
            assert!(quiet > 100, "seed {seed}: it never comes to rest");
            let working: Vec<_> = alive.iter().filter(|node| !node.draining).collect();
            if working.is_empty() {
                continue;
            }
            let counts: Vec<usize> = working.iter().map(|n| map.shards_of(n.member.incarnation).count()).collect();
            assert_eq!(counts.iter().sum::<usize>(), shards, "seed {seed}: {counts:?}");
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "seed {seed}: {counts:?}");
        }
    }
}
