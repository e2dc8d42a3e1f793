//! What a node does about the map of owners and the other nodes: as [`crate::cluster`] does.

use std::sync::Arc;

use super::super::AGAIN_MS;
use super::{Node, Role, WATCH_MS};
use crate::ownership::{LiveNode, Member, Seat, plan};
use crate::shard::Input;
use crate::torture::nodes::keyspace::{Answered, NodeRow, Statement};
use crate::torture::nodes::message::Task;

/// What was asked for, and not answered.
#[derive(Debug)]
pub(super) enum Manager {
    Idle,
    Map,
    Nodes { asked_ms: i64 },
    Burying { rest: Vec<NodeRow>, dead: NodeRow },
    Seating { shard: u16, seat: Seat },
}

impl Node {
    fn look_again(&mut self) {
        self.manager = Manager::Idle;
        self.wake(Task::Manager, AGAIN_MS);
    }

    pub(super) fn manager_answered(&mut self, answered: Answered) -> Result<(), String> {
        let boot_ms = self.now.boot_ms;
        match (std::mem::replace(&mut self.manager, Manager::Idle), answered) {
            (Manager::Map, Answered::Map(map)) => {
                self.map = map;
                self.ownership.learn(self.map.clone());
                self.manager = Manager::Nodes { asked_ms: boot_ms };
                self.ask(Task::Manager, Statement::Nodes);
            }
            (Manager::Nodes { asked_ms }, Answered::Nodes(rows)) => self.nodes(rows, asked_ms, boot_ms)?,
            (Manager::Burying { rest, dead }, Answered::Changed(true)) => {
                self.live.retain(|node| node.member != dead.member);
                self.bury_next(rest)?;
            }
            (Manager::Burying { rest, .. }, _) => self.bury_next(rest)?,
            (Manager::Seating { shard, seat }, Answered::Changed(true)) => {
                let stays = seat.member == self.own && self.giving.take_if(|(given, _)| *given == shard).is_some();
                self.map.version += 1;
                self.map.seats[usize::from(shard)] = Some(seat);
                self.ownership.learn(self.map.clone());
                if stays {
                    self.resume(shard)?;
                }
                self.act()?;
            }
            _ => self.look_again(),
        }
        Ok(())
    }

    fn nodes(&mut self, rows: Vec<NodeRow>, asked_ms: i64, came_ms: i64) -> Result<(), String> {
        self.live.clear();
        self.watcher.look(asked_ms, came_ms);
        let mut dead = Vec::new();
        for row in rows {
            let is_own = row.member.incarnation == self.own.incarnation;
            if !is_own && self.watcher.is_dead(&row.member.name, row.lease) {
                dead.push(row.clone());
            }
            self.live.push(LiveNode { member: row.member, draining: row.draining });
        }
        self.bury_next(dead)
    }

    fn bury_next(&mut self, mut rest: Vec<NodeRow>) -> Result<(), String> {
        match rest.pop() {
            None => return self.act(),
            Some(dead) => {
                self.ask(Task::Manager, Statement::Bury { name: dead.member.name.clone(), lease: dead.lease });
                self.manager = Manager::Burying { rest, dead };
            }
        }
        Ok(())
    }

    fn seat(&mut self, shard: u16, seat: Seat) {
        let version = self.map.version;
        self.ask(Task::Manager, Statement::Seat { version, shard, seat: Some(seat.clone()) });
        self.manager = Manager::Seating { shard, seat };
    }

    /// Does the next thing that the map and the living nodes ask for.
    fn act(&mut self) -> Result<(), String> {
        let own = self.own.incarnation;
        if let Some(shard) = self.follow_map() {
            self.stop(format!("another node owns shard {shard}"));
            return Ok(());
        }
        if let Some((shard, to)) = self.giving.clone() {
            return self.give(shard, to);
        }
        let begun = self.roles.iter().enumerate().find_map(|(shard, role)| match role {
            Role::Owning(owner) => {
                let seat = self.map.seats[shard].as_ref().filter(|seat| seat.epoch != owner.epoch())?;
                Some((shard as u16, Seat { epoch: owner.epoch(), ..seat.clone() }))
            }
            _ => None,
        });
        if let Some((shard, seat)) = begun {
            self.seat(shard, seat);
            return Ok(());
        }
        let next = plan(&self.map, &self.live, own);
        if let Some(shard) = next.take.first() {
            self.seat(*shard, Seat { member: Arc::clone(&self.own), epoch: 0 });
            return Ok(());
        }
        if let Some((shard, to)) = next.give
            && matches!(self.roles[usize::from(shard)], Role::Owning(_))
        {
            // Checkpointed while it still decides.
            self.turn(shard, Input::CheckpointAll)?;
            self.giving = Some((shard, to));
        }
        self.wake(Task::Manager, WATCH_MS);
        Ok(())
    }

    /// Takes a shard that is to go a step further.
    fn give(&mut self, shard: u16, to: Arc<Member>) -> Result<(), String> {
        let is_alive = self.live.iter().any(|node| node.member == to && !node.draining);
        let Role::Owning(owner) = &self.roles[usize::from(shard)] else {
            self.wake(Task::Manager, AGAIN_MS);
            return Ok(());
        };
        let (is_going, is_quiet, epoch) = (owner.is_going(), owner.is_quiet(), owner.epoch());
        match (is_alive, is_going && is_quiet) {
            // What asked for the change may still be under way: one more of the map makes it void.
            (false, _) => self.seat(shard, Seat { member: Arc::clone(&self.own), epoch }),
            (true, true) => self.seat(shard, Seat { member: to, epoch: 0 }),
            (true, false) => {
                self.drain(shard)?;
                self.wake(Task::Manager, AGAIN_MS);
            }
        }
        Ok(())
    }

    /// Begins what the map gives to this node and drops what it gave away; a shard that it lost otherwise.
    fn follow_map(&mut self) -> Option<u16> {
        for shard in 0..self.roles.len() as u16 {
            let is_own = self.map.is_owner(shard, self.own.incarnation);
            let is_given = self.giving.as_ref().is_some_and(|(given, _)| *given == shard);
            match &self.roles[usize::from(shard)] {
                Role::Elsewhere if is_own => self.take(shard),
                Role::Owning(owner) if !is_own && is_given && owner.is_going() => {
                    self.release_shard(shard);
                    self.giving = None;
                }
                Role::Coming(_) | Role::Owning(_) if !is_own => return Some(shard),
                _ => {}
            }
        }
        None
    }
}
