//! Owners and claimants on a simulated cluster that loses answers, before and after it applied what was asked, and
//! applies some things much later.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::journal::cql::chain::Chain;
use crate::random::Random;

type Cluster = Chain<()>;

enum Role {
    Claiming(Claim),
    Owning(Appender),
    Idle,
}

/// One process: what it is about, and what it has asked.
struct Node {
    role: Role,
    asked: Option<Ask>,
    sequence: u64,
    batch: u128,
}

struct Run {
    cluster: Cluster,
    random: Random,
    nodes: Vec<Node>,
    /// Statements that are still under way somewhere: they may be applied at any time.
    late: Vec<(Ask, u64, u128)>,
    /// What was acknowledged.
    acknowledged: BTreeMap<u64, u128>,
    next_batch: u128,
    claims: u32,
    /// Of the last claim that ended.
    epoch: i64,
    trims: bool,
}

impl Run {
    fn new(seed: u64, nodes: usize) -> Self {
        let idle = || Node { role: Role::Idle, asked: None, sequence: 0, batch: 0 };
        Self {
            cluster: Cluster::default(),
            random: Random(seed),
            nodes: (0..nodes).map(|_| idle()).collect(),
            late: Vec::new(),
            acknowledged: BTreeMap::new(),
            next_batch: 1,
            claims: 0,
            epoch: 0,
            trims: seed % 2 == 1,
        }
    }

    fn step(&mut self) {
        if !self.late.is_empty() && self.random.below(8) == 0 {
            let at = self.random.below(self.late.len());
            let (ask, sequence, batch) = self.late.swap_remove(at);
            self.cluster.apply(ask, sequence, Some(&(batch, ())));
        }
        if self.trims && self.random.below(20) == 0 {
            self.cluster.trim();
        }
        let at = self.random.below(self.nodes.len());
        let Some(ask) = self.nodes[at].asked else { return self.begin(at) };
        let (sequence, batch) = (self.nodes[at].sequence, self.nodes[at].batch);
        let answer = match self.random.below(10) {
            0 => Answer::Unknown,
            1 => {
                self.cluster.apply(ask, sequence, Some(&(batch, ())));
                Answer::Unknown
            }
            2 => {
                self.late.push((ask, sequence, batch));
                Answer::Unknown
            }
            _ => self.cluster.apply(ask, sequence, Some(&(batch, ()))),
        };
        self.answered(at, answer);
    }

    fn begin(&mut self, at: usize) {
        let wants_to_claim = self.random.below(30) == 0;
        let node = &mut self.nodes[at];
        match &mut node.role {
            Role::Owning(appender) if !wants_to_claim => {
                node.batch = self.next_batch;
                self.next_batch += 1;
                node.asked = Some(appender.begin(node.batch, 1));
            }
            Role::Owning(_) | Role::Idle | Role::Claiming(_) => {
                let hint = self.cluster.hint();
                let known_epoch = [None, Some(self.epoch), Some(self.epoch - 1)][self.random.below(3)];
                let (claim, ask) = Claim::begin(hint.unwrap_or(1), hint.is_some(), known_epoch);
                (node.role, node.asked) = (Role::Claiming(claim), Some(ask));
            }
        }
    }

    fn answered(&mut self, at: usize, answer: Answer) {
        let node = &mut self.nodes[at];
        let step = match &mut node.role {
            Role::Claiming(claim) => claim.answer(answer),
            Role::Owning(appender) => appender.answer(answer),
            Role::Idle => unreachable!(),
        };
        match step {
            Step::Ask(ask) | Step::Again(ask) => node.asked = Some(ask),
            Step::Missing => {
                let Role::Claiming(claim) = &node.role else { unreachable!() };
                assert_ne!(Some(claim.first), self.cluster.hint(), "the hint names a bucket that is gone");
                (node.role, node.asked) = (Role::Idle, None);
            }
            Step::Damaged(what) => panic!("{what}: {:?}", self.cluster),
            Step::Deposed(_) => (node.role, node.asked) = (Role::Idle, None),
            Step::Done => {
                node.asked = None;
                match &node.role {
                    // A shard that was thought to be new is registered, which is refused when it was not.
                    Role::Claiming(claim) if claim.is_of_new_shard() && self.cluster.hint().is_some() => {
                        node.role = Role::Idle;
                    }
                    // Whoever slept while the chain went on may claim a bucket that was removed, and opened again by one
                    // that slept longer: where the chain begins is looked at after the claim.
                    Role::Claiming(claim)
                        if self.cluster.kept().next().is_some_and(|first| claim.claimed().bucket < first) =>
                    {
                        node.role = Role::Idle;
                    }
                    Role::Claiming(claim) => {
                        let claimed = claim.claimed();
                        self.claims += 1;
                        self.epoch = claimed.epoch;
                        // Only now it reads; nothing that it does not see may ever be acknowledged.
                        let read: BTreeMap<u64, u128> = self.cluster.rows().map(|(n, row)| (n, row.0)).collect();
                        let first = read.keys().next().copied().unwrap_or(u64::MAX);
                        for (sequence, batch) in self.acknowledged.range(first..) {
                            assert_eq!(read.get(sequence), Some(batch), "acknowledged and not there");
                        }
                        node.sequence = read.keys().next_back().map_or(1, |last| last + 1);
                        let last = self.acknowledged.keys().next_back().copied().unwrap_or(0);
                        assert!(node.sequence > last, "a claimant would use a sequence again");
                        node.role = Role::Owning(Appender::new(claimed, 0, 3));
                        self.cluster.advance_hint(claimed.bucket);
                    }
                    Role::Owning(_) => {
                        let before = self.acknowledged.insert(node.sequence, node.batch);
                        assert_eq!(before, None, "two batches of one sequence were acknowledged");
                        node.sequence += 1;
                    }
                    Role::Idle => unreachable!(),
                }
            }
        }
    }
}

#[test]
fn whatever_answers_are_lost_nothing_acknowledged_is_lost_or_doubled() {
    for seed in 1..=120 {
        let result = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed, 3);
            for _ in 0..3_000 {
                run.step();
            }
            (run.acknowledged.len(), run.claims)
        });
        let (acknowledged, claims) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(acknowledged > 100 && claims > 2, "seed {seed}: {acknowledged} appends, {claims} claims");
    }
}

fn append(cluster: &mut Cluster, appender: &mut Appender, sequence: u64, batch: u128) -> Step {
    let mut ask = appender.begin(batch, 1);
    loop {
        match appender.answer(cluster.apply(ask, sequence, Some(&(batch, ())))) {
            Step::Ask(next) => ask = next,
            last => return last,
        }
    }
}

fn claim(cluster: &mut Cluster, hint: i64, exists: bool) -> Claimed {
    let (mut claim, mut ask) = Claim::begin(hint, exists, None);
    loop {
        match claim.answer(cluster.apply(ask, 0, None)) {
            Step::Ask(next) => ask = next,
            Step::Done => return claim.claimed(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_deposed_owner_appends_nothing_even_after_its_bucket_was_cleared_away() {
    let mut cluster = Cluster::default();
    let mut old = Appender::new(claim(&mut cluster, 1, false), 0, 2);
    assert_eq!(append(&mut cluster, &mut old, 1, 11), Step::Done);
    assert_eq!(append(&mut cluster, &mut old, 2, 12), Step::Done);
    // It has sealed its bucket and sleeps before it opens the next.
    assert_eq!(old.begin(13, 1), Ask::Seal { bucket: 1, epoch: 1 });
    cluster.apply(Ask::Seal { bucket: 1, epoch: 1 }, 3, None);
    let Step::Ask(open) = old.answer(Answer::Applied) else { panic!() };
    let mut new = Appender::new(claim(&mut cluster, 1, true), 0, 2);
    assert_eq!(new.bucket(), 2);
    for sequence in 3..20 {
        assert_eq!(append(&mut cluster, &mut new, sequence, 100 + u128::from(sequence)), Step::Done);
    }
    cluster.trim();
    assert!(!cluster.has(2), "the bucket that the sleeper wants to open is gone");
    let answer = cluster.apply(open, 3, None);
    assert_eq!(answer, Answer::Applied, "the sleeper opens it");
    let Step::Ask(check) = old.answer(answer) else { panic!() };
    assert_eq!(old.answer(cluster.apply(check, 3, None)), Step::Deposed(None), "and sees that the chain has gone on");
}

#[test]
fn an_answer_that_was_lost_is_found_again() {
    let mut cluster = Cluster::default();
    let mut owner = Appender::new(claim(&mut cluster, 1, false), 0, 100);
    let ask = owner.begin(7, 10);
    assert_eq!(owner.answer(Answer::Unknown), Step::Again(ask), "before it was applied: asked again");
    assert_eq!(cluster.apply(ask, 1, Some(&(7, ()))), Answer::Applied);
    assert_eq!(owner.answer(Answer::Unknown), Step::Again(ask), "after it was applied: asked again");
    let again = cluster.apply(ask, 1, Some(&(7, ())));
    assert_eq!(again, Answer::Refused { epoch: Some(1), bid: Some(7) });
    assert_eq!(owner.answer(again), Step::Done, "its own batch is there");

    let ask = owner.begin(8, 10);
    cluster.apply(ask, 11, Some(&(8, ())));
    let next = claim(&mut cluster, 1, true);
    assert_eq!(next.epoch, 2);
    let again = cluster.apply(ask, 11, Some(&(8, ())));
    assert_eq!(owner.answer(again), Step::Done, "it was applied before the claim, and the claimant reads it");
    let ask = owner.begin(9, 10);
    assert_eq!(owner.answer(cluster.apply(ask, 21, Some(&(9, ())))), Step::Deposed(Some(2)));
}

#[test]
fn a_claim_says_when_the_bucket_that_it_begins_at_is_gone() {
    let (mut claim, ask) = Claim::begin(4, true, None);
    let answer = Cluster::default().apply(ask, 0, None);
    assert_eq!(claim.answer(answer), Step::Missing);
}

#[test]
fn a_claim_that_knows_the_epoch_before_outbids_it_at_once_or_looks() {
    let mut cluster = Cluster::default();
    let mut owner = Appender::new(claim(&mut cluster, 1, false), 0, 1);
    assert_eq!(append(&mut cluster, &mut owner, 1, 11), Step::Done);
    let (mut next, ask) = Claim::begin(1, true, Some(1));
    assert_eq!(ask, Ask::Raise { bucket: 1, from: 1, to: 2, sealed: false });
    assert_eq!(next.answer(cluster.apply(ask, 0, None)), Step::Done);
    assert_eq!(next.claimed(), Claimed { bucket: 1, epoch: 2 });

    let (mut late, ask) = Claim::begin(1, true, Some(1));
    assert_eq!(late.answer(cluster.apply(ask, 0, None)), Step::Ask(Ask::Read { bucket: 1 }), "it is outbid already");

    // The owner seals while a claimant that has read the bucket as open is about to raise its epoch.
    let mut owner = Appender::new(next.claimed(), 1, 1);
    let (mut claimant, look) = Claim::begin(1, true, None);
    let Step::Ask(raise) = claimant.answer(cluster.apply(look, 0, None)) else { panic!() };
    assert_eq!(append(&mut cluster, &mut owner, 2, 12), Step::Done);
    assert_eq!(owner.bucket(), 2);
    let mut answer = cluster.apply(raise, 0, None);
    assert!(matches!(answer, Answer::Refused { .. }));
    while let Step::Ask(next) = claimant.answer(answer) {
        answer = cluster.apply(next, 0, None);
    }
    assert_eq!(claimant.claimed(), Claimed { bucket: 2, epoch: 4 }, "the one that is open");
}
