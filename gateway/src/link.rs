//! A front's way to the owner of the accounts: one link per worker, over which requests of all its connections
//! go in batches.
//!
//! A request holds a permit of the front until its answer comes or its deadline passes. When the link breaks,
//! what was sent and can do no harm twice (it has a key, or only reads) is sent again over the next one, in the
//! order in which it came; for the rest the outcome is unknown. What was not yet sent waits for the next link.

mod connect;
mod known;
mod outstanding;
mod pending;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use meed_engine::aliases::PutOutcome;
use meed_engine::clock::SystemTimes;
use meed_engine::permits::{NoPermit, PermitLimits, Permits};
use meed_engine::program::{Program, Programs};
use meed_engine::reader::PageQuery;
use meed_engine::secrets::Secrets;
use meed_engine::slots::Slots;
use meed_schemas::command::Request;
use meed_schemas::forward::encode_request;
use meed_schemas::outcome::Reply;
use meed_schemas::record::Record;
use tokio::sync::Notify;

use crate::config::Settings;
use crate::feed::{Chunk, NoStart, Start, Wanted};
use crate::forward::Unanswered;
use crate::forward::clock::OwnerClock;
use crate::forward::frame::Outgoing;
use crate::forward::handshake::LinkSecret;
use crate::forward::message::{Answer, Body, WINDOW_ITEMS_MAX};
use crate::peer::Peer;
pub use known::Known;
use outstanding::{Content, Outstanding};
use pending::Admission;
pub use pending::{Pending, Window};

/// Bytes of requests that go in one window.
const WINDOW_BYTES: usize = 1 << 20;
/// Bytes that may wait to be written to the owner.
const OUTGOING_BYTES_MAX: usize = 64 << 20;
/// Time between two tries to get permits.
const ADMISSION_POLL: Duration = Duration::from_millis(2);

/// What is to be known of the readiness of the owner.
pub type OnState = Box<dyn Fn(Result<(), String>) + Send + Sync>;

/// What a front's links need to know.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// Commands under way in the front.
    pub commands: i64,
    /// Bytes of them.
    pub bytes: i64,
    /// Time from a request to its answer.
    pub request_deadline_ms: i64,
}

impl LinkLimits {
    /// Those of the settings.
    pub fn of(settings: &Settings) -> Self {
        Self {
            commands: i64::from(settings.admission_commands),
            bytes: i64::try_from(settings.admission_bytes.0).unwrap_or(i64::MAX),
            request_deadline_ms: i64::try_from(settings.request_deadline_ms).unwrap_or(i64::MAX),
        }
    }
}

/// The owner as all workers of a front know it.
pub struct Owner {
    peer: Peer,
    secret: LinkSecret,
    limits: LinkLimits,
    times: SystemTimes,
    permits: Permits,
    known: Arc<Known>,
    /// Whether other owners may be asked instead when a link to this one breaks.
    is_one_of_many: bool,
    states: Mutex<Vec<Result<(), String>>>,
    on_state: OnState,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owner({})", self.peer)
    }
}

impl Owner {
    /// The owner at `peer`, for `workers` links. `on_state` is told whenever readiness changes.
    pub fn new(
        peer: Peer,
        secret: LinkSecret,
        workers: usize,
        limits: LinkLimits,
        known: Arc<Known>,
        is_one_of_many: bool,
        on_state: OnState,
    ) -> Self {
        let permits =
            PermitLimits { commands: limits.commands, bytes: limits.bytes, commands_per_shard: limits.commands };
        Self {
            states: Mutex::new(vec![Err(format!("the owner at {peer} has not answered yet")); workers]),
            peer,
            secret,
            limits,
            times: SystemTimes::start(),
            permits: Permits::new(permits, 0),
            known,
            is_one_of_many,
            on_state,
        }
    }

    fn set_state(&self, link: usize, state: Result<(), String>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states[link] != state {
            states[link] = state;
            self.tell(&states);
        }
    }

    fn tell(&self, states: &[Result<(), String>]) {
        (self.on_state)(states.iter().find(|state| state.is_err()).cloned().unwrap_or(Ok(())));
    }

    /// Tells its readiness once more.
    pub fn tell_state(&self) {
        self.tell(&self.states.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    /// There is no connection.
    Down,
    /// Requests are sent.
    Open,
    /// The owner is stopping.
    Draining,
}

type Arrived = Result<Answer, Unanswered>;

/// A worker's link. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    inner: Rc<Inner>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({}, {:?})", self.inner.index, self.inner.up.get())
    }
}

struct Inner {
    owner: Arc<Owner>,
    index: usize,
    measures: connect::Measures,
    up: Cell<Up>,
    clock: Cell<Option<OwnerClock>>,
    slots: RefCell<Slots<Arrived>>,
    /// By slot.
    outstanding: RefCell<Vec<Option<Outstanding>>>,
    next_order: Cell<u64>,
    /// Deadline, slot and generation, the earliest first.
    deadlines: RefCell<VecDeque<(i64, u32, u32)>>,
    pages: RefCell<HashMap<(u32, u32), Vec<Record>>>,
    outgoing: RefCell<Outgoing>,
    /// The last frame of this connection whose writing has begun.
    sent_frame: Cell<u64>,
    armed: Cell<bool>,
    to_write: Notify,
    cut: Notify,
    silent_ticks: Cell<u32>,
}

impl Link {
    /// The link of worker `index`; [`Link::run`] connects it.
    pub fn new(owner: Arc<Owner>, index: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                owner,
                index,
                measures: connect::Measures::register(),
                up: Cell::new(Up::Down),
                clock: Cell::new(None),
                slots: RefCell::default(),
                outstanding: RefCell::default(),
                next_order: Cell::new(0),
                deadlines: RefCell::default(),
                pages: RefCell::default(),
                outgoing: RefCell::default(),
                sent_frame: Cell::new(0),
                armed: Cell::new(false),
                to_write: Notify::new(),
                cut: Notify::new(),
                silent_ticks: Cell::new(0),
            }),
        }
    }

    /// Whether somebody waits for an answer.
    pub fn is_waited_for(&self) -> bool {
        self.inner.outstanding.borrow().iter().any(Option::is_some)
    }

    /// The programs that the owner has told.
    pub fn programs(&self) -> Arc<Programs> {
        self.inner.owner.known.programs()
    }

    /// The keys that hash and render.
    ///
    /// # Errors
    /// No link has ever stood.
    pub fn secrets(&self) -> Result<&Secrets, Unanswered> {
        self.inner.owner.known.secrets()
    }

    /// Whether a request has a chance at all.
    ///
    /// # Errors
    /// Why it has none.
    pub fn has_room(&self) -> Result<(), Unanswered> {
        match self.inner.up.get() {
            Up::Down => Err(Unanswered::NotReady),
            Up::Draining => Err(Unanswered::NoPermit(NoPermit::Draining)),
            Up::Open if self.inner.outgoing.borrow().len() > OUTGOING_BYTES_MAX => {
                Err(Unanswered::NoPermit(NoPermit::Node))
            }
            Up::Open => self.inner.owner.permits.has_room().map_err(Unanswered::NoPermit),
        }
    }

    /// The program, asked of the owner when it is not known here.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn find_program(&self, name: &str) -> Result<Option<Arc<Program>>, Unanswered> {
        if let Some(program) = self.programs().get(name) {
            return Ok(Some(Arc::clone(program)));
        }
        self.refresh_programs().await?;
        Ok(self.programs().get(name).cloned())
    }

    /// Waits until every version that there is now is known here.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn refresh_programs(&self) -> Result<(), Unanswered> {
        match self.one(Body::programs(), true, Duration::MAX).await? {
            Answer::Programs => Ok(()),
            _ => Err(Unanswered::Unknown),
        }
    }

    /// Sends one request and waits for its answer, at most for `left`.
    ///
    /// # Errors
    /// There is none.
    pub async fn ask(
        &self,
        request: &Request,
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<Reply, Unanswered> {
        let admission = self.admit(1, i64::from(bytes), wait).await?;
        self.submit_one(request, admission, left).await
    }

    /// The same without waiting for a permit: `None` when there is none, and then nothing was sent. Nothing of the
    /// request is kept but its bytes.
    pub fn try_ask(&self, request: &Request, bytes: u32, left: Duration) -> Option<Pending> {
        self.has_room().ok()?;
        let admission = self.try_admit(1, i64::from(bytes)).ok()?;
        Some(self.submit_one(request, admission, left))
    }

    fn submit_one(&self, request: &Request, admission: Admission, left: Duration) -> Pending {
        let mut content = Content::commands();
        content.push(request);
        self.submit(content, admission, left)
    }

    /// Sends requests in windows, each with all its permits or none; in order. The answers come in order from
    /// [`Window::answers`], at most after `left`.
    ///
    /// # Errors
    /// The front has no permits for them.
    pub async fn send_window(
        &self,
        requests: &[Request],
        bytes: u32,
        wait: Duration,
        left: Duration,
    ) -> Result<Window, Unanswered> {
        let bytes_all = i64::from(bytes) * i64::try_from(requests.len()).unwrap_or(i64::MAX);
        let mut admission = self.admit(requests.len(), bytes_all, wait).await?;
        let mut parts = Vec::new();
        let mut content = Content::commands();
        for request in requests {
            content.push(request);
            if content.len() == WINDOW_ITEMS_MAX || content.bytes() >= WINDOW_BYTES {
                let part = std::mem::replace(&mut content, Content::commands());
                let share = admission.split(part.len());
                parts.push(self.submit(part, share, left));
            }
        }
        if content.len() > 0 {
            parts.push(self.submit(content, admission, left));
        }
        Ok(Window::new(parts))
    }

    /// The account of an alias.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn resolve(&self, program: &str, alias: &str, left: Duration) -> Result<Option<String>, Unanswered> {
        match self.one(Body::resolve(program, alias), true, left).await? {
            Answer::Account(account) => Ok(account),
            other => Err(refusal_of(&other)),
        }
    }

    /// Gives an account an alias.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn put_alias(
        &self,
        program: &str,
        alias: &str,
        account: &str,
        left: Duration,
    ) -> Result<PutOutcome, Unanswered> {
        match self.one(Body::put_alias(program, alias, account), false, left).await? {
            Answer::AliasPut(outcome) => Ok(outcome),
            other => Err(refusal_of(&other)),
        }
    }

    /// Takes an alias from an account.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn delete_alias(
        &self,
        program: &str,
        alias: &str,
        account: &str,
        left: Duration,
    ) -> Result<bool, Unanswered> {
        match self.one(Body::delete_alias(program, alias, account), false, left).await? {
            Answer::AliasDeleted(was_there) => Ok(was_there),
            other => Err(refusal_of(&other)),
        }
    }

    /// The aliases of an account.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn aliases(&self, program: &str, account: &str, left: Duration) -> Result<Vec<String>, Unanswered> {
        match self.one(Body::aliases(program, account), true, left).await? {
            Answer::Aliases(aliases) => Ok(aliases),
            other => Err(refusal_of(&other)),
        }
    }

    /// A page of an account's history.
    ///
    /// # Errors
    /// The owner did not answer.
    pub async fn page(&self, query: &PageQuery, left: Duration) -> Result<Vec<Record>, Unanswered> {
        match self.one(Body::page(query), true, left).await? {
            Answer::Page(records) => Ok(records),
            other => Err(refusal_of(&other)),
        }
    }

    /// Where a stream of events begins.
    pub(crate) async fn begin_events(&self, start: &Start) -> Result<Result<Vec<u64>, NoStart>, Unanswered> {
        match self.one(Body::begin_events(start), true, Duration::MAX).await? {
            Answer::EventsBegin(begins) => Ok(begins),
            other => Err(refusal_of(&other)),
        }
    }

    /// The next events.
    pub(crate) async fn next_events(
        &self,
        wanted: &Wanted,
        from: &[u64],
        patience: Duration,
    ) -> Result<Chunk, Unanswered> {
        match self.one(Body::next_events(wanted, from, patience), true, Duration::MAX).await? {
            Answer::Events(chunk) => Ok(chunk),
            other => Err(refusal_of(&other)),
        }
    }

    /// Asks what has one answer, and waits for it at most for `left`. `again`: whether it may be sent twice.
    async fn one(&self, body: Body, again: bool, left: Duration) -> Result<Answer, Unanswered> {
        let admission = self.admit(1, 0, Duration::ZERO).await?;
        self.submit(Content::One { body, again }, admission, left).answer().await
    }

    async fn admit(&self, commands: usize, bytes: i64, wait: Duration) -> Result<Admission, Unanswered> {
        let until = Instant::now() + wait;
        loop {
            self.has_room()?;
            match self.try_admit(commands, bytes) {
                Err(none) if Instant::now() >= until => return Err(Unanswered::NoPermit(none)),
                Err(_) => tokio::time::sleep(ADMISSION_POLL).await,
                Ok(admission) => return Ok(admission),
            }
        }
    }

    fn try_admit(&self, commands: usize, bytes: i64) -> Result<Admission, NoPermit> {
        let commands = i64::try_from(commands).unwrap_or(i64::MAX);
        self.inner.owner.permits.acquire_of_node(commands, bytes)?;
        Ok(Admission::new(Arc::clone(&self.inner.owner), commands, bytes))
    }

    fn submit(&self, content: Content, admission: Admission, left: Duration) -> Pending {
        let inner = &self.inner;
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        let deadline_ms = inner.owner.times.elapsed_ms() + left_ms.min(inner.owner.limits.request_deadline_ms);
        let (slot, generation) = inner.slots.borrow_mut().open(content.len() as u32);
        let mut deadlines = inner.deadlines.borrow_mut();
        // Nearly always the last: only what has waited for its owner has less time than the one before it.
        let behind = deadlines.back().is_none_or(|due| due.0 <= deadline_ms);
        let at = if behind { deadlines.len() } else { deadlines.partition_point(|due| due.0 <= deadline_ms) };
        deadlines.insert(at, (deadline_ms, slot, generation));
        drop(deadlines);
        let order = inner.next_order.get();
        inner.next_order.set(order + 1);
        let mut outstanding = Outstanding::new(generation, order, deadline_ms, Instant::now(), content);
        if inner.up.get() != Up::Down {
            self.send(slot, &mut outstanding);
        }
        let mut places = inner.outstanding.borrow_mut();
        if places.len() <= slot as usize {
            places.resize_with(slot as usize + 1, || None);
        }
        places[slot as usize] = Some(outstanding);
        Pending::new(self.clone(), slot, generation, admission)
    }

    /// Puts what is missing of a question into the next frame.
    fn send(&self, slot: u32, outstanding: &mut Outstanding) {
        let inner = &self.inner;
        let Some(clock) = inner.clock.get() else { return };
        let slots = inner.slots.borrow();
        let generation = outstanding.generation;
        let frame = inner.outgoing.borrow_mut().push(|out| {
            let deadline_ms = clock.owners(outstanding.deadline_ms);
            outstanding.put(out, slot, deadline_ms, |place| slots.is_missing(slot, generation, place));
        });
        outstanding.frame = Some(frame);
        if !inner.armed.replace(true) {
            inner.to_write.notify_one();
        }
    }
}

/// Why an answer is no answer to what was asked.
fn refusal_of(answer: &Answer) -> Unanswered {
    match answer {
        Answer::NoPermit(none) => Unanswered::NoPermit(*none),
        Answer::Overloaded => Unanswered::Overloaded,
        Answer::NotOwner => Unanswered::NotOwner,
        _ => Unanswered::Unknown,
    }
}
