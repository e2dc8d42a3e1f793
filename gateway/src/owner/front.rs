//! One front's connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use meed_engine::aliases::{Alias, normalize};
use meed_engine::ownership::OwnerMap;
use meed_engine::permits::NoPermit;
use meed_engine::program::Programs;
use meed_engine::worker::Answers;
use meed_schemas::codec::Reader;
use meed_schemas::command::{Command, Request};
use meed_schemas::ids::Identity;
use meed_schemas::outcome::Reply;
use slab::Slab;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::context::Shared;
use crate::feed;
use crate::forward::Unanswered;
use crate::forward::frame::{Incoming, Outgoing};
use crate::forward::message::{
    Answer, Ask, Place, ToOwner, put_answer, put_clock, put_keys, put_map, put_program, put_state, read_to_owner,
};
use crate::forward::socket::Socket;
use crate::reach::Local;

/// Questions of one front that are not yet answered; beyond it nothing is read from it.
const UNDER_WAY_MAX: usize = 32_768;
/// Bytes that a permit counts for a request beside its own.
const REQUEST_BYTES: usize = 512;
/// Time for a front to take an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pace of state and of signs of life.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two frames that only say that the owner is there.
const TICKS_PER_SIGN: u32 = 4;
/// Ticks without a byte after which a front is taken for gone. It says something every second.
const SILENT_TICKS_MAX: u32 = 40;

fn invalid(detail: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.to_string())
}

/// What a front was told of programs.
#[derive(Default)]
struct ToldPrograms {
    /// All that there were when it was last told.
    seen: Option<Arc<Programs>>,
    /// The newest version of each that was told.
    versions: HashMap<String, u32>,
}

/// The connection of a front that has proved itself.
pub(super) struct Front {
    socket: Socket,
    local: Rc<Local>,
    shared: Arc<Shared>,
    answers: Answers,
    /// Where answers go, by the number that the engine knows them by.
    places: RefCell<Slab<Place>>,
    /// Answers that are not the engine's.
    others: RefCell<Vec<(Place, Answer)>>,
    to_write: Notify,
    under_way: Cell<usize>,
    room: Notify,
    /// Those that are not commands; they end with the connection.
    questions: RefCell<JoinSet<()>>,
    told: RefCell<ToldPrograms>,
    told_state: RefCell<Option<(bool, Option<String>)>>,
    /// Version of the map of owners that was told.
    told_map: Cell<i64>,
    silent_ticks: Cell<u32>,
}

impl Front {
    pub(super) fn new(socket: Socket, local: Rc<Local>, shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            answers: local.worker.answers(),
            local,
            shared,
            places: RefCell::default(),
            others: RefCell::default(),
            to_write: Notify::new(),
            under_way: Cell::new(0),
            room: Notify::new(),
            questions: RefCell::default(),
            told: RefCell::default(),
            told_state: RefCell::default(),
            told_map: Cell::new(i64::MIN),
            silent_ticks: Cell::new(0),
        })
    }

    /// Serves it until it goes, breaks the protocol, or is silent for too long.
    pub(super) async fn serve(self: Rc<Self>, sealed_keys: &[u8]) {
        let connected = metrics::gauge!("meed_fronts_connected");
        connected.increment(1.0);
        let ended = tokio::select! {
            ended = self.reads() => ended,
            ended = self.writes(sealed_keys) => ended,
            ended = self.ticks() => ended,
        };
        connected.decrement(1.0);
        // Each of them has this connection's memory.
        self.questions.borrow_mut().abort_all();
        if let Err(error) = ended {
            tracing::warn!(%error, "a front was cut off");
        }
    }

    async fn reads(self: &Rc<Self>) -> io::Result<()> {
        let mut incoming = Incoming::default();
        loop {
            while self.under_way.get() >= UNDER_WAY_MAX {
                self.room.notified().await;
            }
            if self.socket.read(incoming.room()).await? == 0 {
                return Ok(());
            }
            self.silent_ticks.set(0);
            while let Some(frame) = incoming.next()? {
                let mut patience = Duration::from_millis(self.shared.settings.admission_wait_ms);
                let mut r = Reader::new(frame);
                while !r.is_empty() {
                    let length = r.len();
                    let message = read_to_owner(&mut r).map_err(invalid)?;
                    if let ToOwner::Ask { place, deadline_ms, ask } = message {
                        self.ask(place, deadline_ms, ask, length - r.len(), &mut patience).await?;
                    }
                }
            }
        }
    }

    /// Takes a question. `patience` is what is left of the time that a frame may wait for permits.
    async fn ask(
        self: &Rc<Self>,
        place: Place,
        deadline_ms: i64,
        ask: Ask,
        bytes: usize,
        patience: &mut Duration,
    ) -> io::Result<()> {
        let Ask::Commands(items) = ask else {
            self.under_way.set(self.under_way.get() + 1);
            let front = Rc::clone(self);
            let mut questions = self.questions.borrow_mut();
            while questions.try_join_next().is_some() {}
            questions.spawn_local(async move {
                if let Some(answer) = front.answer(ask, deadline_ms).await {
                    front.others.borrow_mut().push((place, answer));
                    front.to_write.notify_one();
                } else {
                    // Its front has given it up.
                    front.ended(1);
                }
            });
            return Ok(());
        };
        // The sweep alone settles, and only PUT of a program writes to one's account.
        if items.iter().any(|(_, request)| matches!(request.command, Command::Settle)) {
            return Err(invalid("a front asked to settle"));
        }
        let count = items.len();
        self.under_way.set(self.under_way.get() + count);
        let (indexes, requests): (Vec<u32>, Vec<Request>) = items.into_iter().unzip();
        let bytes_each = u32::try_from(bytes / count + REQUEST_BYTES).unwrap_or(u32::MAX);
        let admitted = if self.shared.is_draining() {
            Err(NoPermit::Draining)
        } else {
            let began = Instant::now();
            let admitted = self.local.worker.admit(&requests, bytes_each, *patience).await;
            *patience = patience.saturating_sub(began.elapsed());
            admitted
        };
        match admitted {
            Ok(admitted) => {
                let mut places = self.places.borrow_mut();
                let numbered = indexes.into_iter().zip(requests).map(|(index, request)| {
                    let number = places.insert(Place { index, ..place });
                    (u32::try_from(number).unwrap_or(u32::MAX), request)
                });
                self.answers.send(numbered, &admitted, deadline_ms);
            }
            Err(none) => {
                let refused = indexes.into_iter().map(|index| (Place { index, ..place }, Answer::NoPermit(none)));
                self.others.borrow_mut().extend(refused);
                self.to_write.notify_one();
            }
        }
        Ok(())
    }

    /// Answers what is not a command; nothing when its deadline has passed.
    async fn answer(&self, ask: Ask, deadline_ms: i64) -> Option<Answer> {
        let left_ms = deadline_ms.saturating_sub(self.local.worker.node().times.elapsed_ms());
        let left = Duration::from_millis(u64::try_from(left_ms).ok()?);
        if let Some(shard) = shard_of(&ask, self.local.worker.node().shards())
            && !self.local.owns(shard)
        {
            return Some(Answer::NotOwner);
        }
        let answered = match ask {
            Ask::Resolve { program, alias } => {
                let alias = canonical(&alias)?;
                self.local.resolve(&program, &alias, left).await.map(Answer::Account)
            }
            Ask::PutAlias { program, alias, account } => {
                let alias = canonical(&alias)?;
                self.local.put_alias(&program, &alias, &account, left).await.map(Answer::AliasPut)
            }
            Ask::DeleteAlias { program, alias, account } => {
                let alias = canonical(&alias)?;
                self.local.delete_alias(&program, &alias, &account, left).await.map(Answer::AliasDeleted)
            }
            Ask::Aliases { program, account } => {
                self.local.aliases_of(&program, &account, left).await.map(Answer::Aliases)
            }
            Ask::Page(query) => self.local.page(query, left).await.map(Answer::Page),
            Ask::BeginEvents(start) => Ok(Answer::EventsBegin(feed::begin(self.local.worker.node(), &start).await)),
            Ask::NextEvents { wanted, from, patience } => {
                let next = feed::next(self.local.worker.node(), &wanted, from, patience);
                tokio::select! {
                    chunk = next => chunk.map(Answer::Events).ok_or(Unanswered::Overloaded),
                    // A front waits for nothing of an owner that stops.
                    () = self.shared.drained() => Err(Unanswered::Overloaded),
                }
            }
            // What there is to tell stands before every answer.
            Ask::Programs => Ok(Answer::Programs),
            Ask::Commands(_) => return None,
        };
        match answered {
            Ok(answer) => Some(answer),
            Err(Unanswered::Overloaded) => Some(Answer::Overloaded),
            Err(Unanswered::NotOwner) => Some(Answer::NotOwner),
            Err(_) => None,
        }
    }

    async fn writes(&self, sealed_keys: &[u8]) -> io::Result<()> {
        let mut outgoing = Outgoing::default();
        let (mut replies, mut bytes): (Vec<(u32, Reply)>, _) = (Vec::new(), Vec::new());
        self.put_clock(&mut outgoing);
        outgoing.push(|out| put_keys(out, sealed_keys));
        self.tell_programs(&mut outgoing);
        self.tell_map(&mut outgoing);
        self.tell_state(&mut outgoing);
        let mut maps = self.local.worker.node().ownership().map(|ownership| ownership.maps());
        loop {
            bytes.clear();
            outgoing.take(&mut bytes);
            match timeout(WRITE_TIMEOUT, self.socket.write_all(&bytes)).await {
                Ok(written) => written?,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not take its answers")),
            }
            tokio::select! {
                () = self.answers.receive(&mut replies) => {}
                () = self.to_write.notified() => {}
                () = newer_map(&mut maps) => {}
            }
            self.put_clock(&mut outgoing);
            self.tell_programs(&mut outgoing);
            self.tell_map(&mut outgoing);
            self.tell_state(&mut outgoing);
            let mut answered = replies.len();
            for (number, reply) in replies.drain(..) {
                let place = self.places.borrow_mut().try_remove(number as usize);
                if let Some(place) = place {
                    let answer = Answer::Reply(reply);
                    outgoing.push(|out| put_answer(out, place, &answer));
                }
            }
            for (place, answer) in self.others.borrow_mut().drain(..) {
                answered += 1;
                outgoing.push(|out| put_answer(out, place, &answer));
            }
            self.ended(answered);
        }
    }

    /// So many questions are answered, or given up.
    fn ended(&self, count: usize) {
        let before = self.under_way.get();
        self.under_way.set(before - count);
        if before >= UNDER_WAY_MAX {
            self.room.notify_one();
        }
    }

    fn put_clock(&self, outgoing: &mut Outgoing) {
        let now_ms = self.local.worker.node().times.elapsed_ms();
        outgoing.push(|out| put_clock(out, now_ms));
    }

    /// Tells the versions of programs that the front does not know. A record that names a version is decided after
    /// it was published, so this is done after the answers were taken and put before them.
    fn tell_programs(&self, outgoing: &mut Outgoing) {
        let programs = self.local.worker.node().programs();
        let ToldPrograms { seen, versions: told } = &mut *self.told.borrow_mut();
        if seen.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &programs)) {
            return;
        }
        for program in programs.iter() {
            let known = told.get(program.name()).copied().unwrap_or(0);
            for version in program.versions().iter().filter(|version| version.number > known) {
                let document = version.document.to_canonical_json();
                outgoing
                    .push(|out| put_program(out, program.name(), version.number, version.effective_from, &document));
            }
            if program.newest().number > known {
                told.insert(program.name().to_owned(), program.newest().number);
            }
        }
        *seen = Some(programs);
    }

    /// Tells who owns which shard, in a cluster, when that has changed.
    fn tell_map(&self, outgoing: &mut Outgoing) {
        let Some(ownership) = self.local.worker.node().ownership() else { return };
        let map = ownership.map();
        if map.version > self.told_map.replace(map.version) {
            outgoing.push(|out| put_map(out, &map));
        }
    }

    /// What the front has to know of the node's readiness.
    fn state(&self) -> (bool, Option<String>) {
        let failing =
            self.shared.checks().into_iter().find_map(|(name, state)| Some(format!("{name}: {}", state.err()?)));
        (self.shared.is_draining(), failing)
    }

    fn tell_state(&self, outgoing: &mut Outgoing) {
        let mut told = self.told_state.borrow_mut();
        // Looked at by `ticks`, which forgets what was told when that has changed.
        if told.is_none() {
            let (draining, failing) = told.insert(self.state());
            outgoing.push(|out| put_state(out, *draining, failing.as_deref()));
        }
    }

    async fn ticks(&self) -> io::Result<()> {
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0u32;
        loop {
            interval.tick().await;
            count = count.wrapping_add(1);
            self.silent_ticks.set(self.silent_ticks.get() + 1);
            // A front from which nothing is read has not fallen silent.
            if self.silent_ticks.get() > SILENT_TICKS_MAX && self.under_way.get() < UNDER_WAY_MAX {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing"));
            }
            let state = self.state();
            let changed = self.told_state.borrow().as_ref().is_some_and(|told| *told != state);
            if changed {
                self.told_state.replace(None);
            }
            if changed || count.is_multiple_of(TICKS_PER_SIGN) {
                self.to_write.notify_one();
            }
        }
    }
}

/// An alias in its one form; nothing when a front sent none.
fn canonical(text: &str) -> Option<Alias> {
    normalize(text).ok()
}

/// Waits for a map of owners that was not seen; for ever where there is none.
async fn newer_map(maps: &mut Option<watch::Receiver<Arc<OwnerMap>>>) {
    match maps {
        // The node outlives its fronts.
        Some(maps) => drop(maps.changed().await),
        None => std::future::pending().await,
    }
}

/// The shard whose owner alone may answer this.
fn shard_of(ask: &Ask, shards: u16) -> Option<u16> {
    match ask {
        Ask::Page(query) => Some(query.identity.shard(shards)),
        Ask::PutAlias { program, account, .. }
        | Ask::DeleteAlias { program, account, .. }
        | Ask::Aliases { program, account } => Some(Identity::member(program, account).shard(shards)),
        _ => None,
    }
}
