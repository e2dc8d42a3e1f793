#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};

use meed_schemas::ids::Identity;
use meed_schemas::program::{BUILT_IN_DOCUMENT, BUILT_IN_NAME, Document};

use super::super::balances::ACCOUNTS_MAX;
use super::super::mark::TopicMark;
use super::*;
use crate::commit::Lane;
use crate::disk::Disk;
use crate::journal::{Journal, JournalOptions, Prepare};
use crate::program::Program;
use crate::test_record::earn;

/// Confirms events at once, and balances when it is told to.
#[derive(Default)]
struct Broker {
    events: RefCell<Vec<usize>>,
    balances: Cell<usize>,
    confirms_balances: Cell<bool>,
}

impl Topics for Broker {
    fn send_event(&self, position: Position, _: Millis, _: &Attributes, _: &[u8]) -> Sent {
        self.events.borrow_mut().push(position.to_u64() as usize);
        Sent::Taken
    }

    fn send_balance(&self, _: u16, _: Millis, _: &[u8], _: &[u8]) -> Sent {
        self.balances.set(self.balances.get() + 1);
        Sent::Taken
    }

    fn take_confirmed(&self, into: &mut Vec<usize>) {
        into.clear();
        into.append(&mut self.events.borrow_mut());
    }

    fn take_confirmed_balances(&self) -> (usize, usize) {
        if self.confirms_balances.get() { (self.balances.take(), 0) } else { (0, 0) }
    }
}

#[test]
fn balances_go_on_where_more_accounts_wait_for_a_flush_than_may() {
    let last_sequence = 2 * ACCOUNTS_MAX as u64 + 1_000;
    let folder = tempfile::tempdir().unwrap();
    let options = JournalOptions { prepare: Prepare::Steps, new_journal_id: Some(7), ..JournalOptions::new(1) };
    let (mut journal, reader, _) = Journal::open(Disk::default(), folder.path(), options).unwrap();
    let mut lane: Lane<()> = Lane::new(vec![0], usize::MAX);
    for sequence in 1..=last_sequence {
        let account = Identity::member(BUILT_IN_NAME, &format!("a-{sequence}"));
        lane.append(&earn(Position::new(0, sequence), account)).unwrap();
        if sequence % 10_000 == 0 || sequence == last_sequence {
            let (batch, buffer) = lane.submit().unwrap();
            journal.write(&[buffer.part()]).unwrap();
            lane.complete(batch, buffer);
        }
    }
    journal.sync().unwrap();
    let journal = Records::Embedded(reader);
    let document = Document::parse(BUILT_IN_DOCUMENT.as_bytes()).unwrap();
    let programs = Arc::new(Programs::default().with(Program::create(BUILT_IN_NAME, 0, document).unwrap()));
    let topic = |name: &str| TopicMark { name: name.into(), partitions: 1, published: vec![0] };
    let (broker, mut flow) =
        (Broker::default(), Flow::new(&Mark { events: topic("events"), balances: topic("balances") }));
    let turn = |flow: &mut Flow| {
        flow.confirm(&broker);
        flow.turn(&broker, &journal, &|| Arc::clone(&programs), true, &|| true).unwrap();
    };
    // A flush is under way, none of which is confirmed, and as many accounts wait for the next.
    while flow.has_room() {
        turn(&mut flow);
    }
    assert!(flow.balances.as_ref().is_some_and(Balances::is_flushing));
    assert!(!flow.has_read(&[last_sequence]));
    broker.confirms_balances.set(true);
    for _ in 0..1_000 {
        turn(&mut flow);
        if flow.has_read(&[last_sequence]) && flow.is_through() {
            return;
        }
    }
    panic!("it stands still at {:?} of {last_sequence}", flow.from);
}
