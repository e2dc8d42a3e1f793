//! The life of a link: connect, prove, send what is missing, read and write until it breaks, begin again.

use std::io;
use std::time::Duration;

use meed_engine::secrets::{FRONT_BYTES, Secrets};
use meed_schemas::codec::Reader;
use metrics::{Counter, Gauge, Histogram};
use tokio::task::yield_now;
use tokio::time::{interval, sleep, timeout};

use super::{Link, Outgoing, Outstanding, Up};
use crate::error::Error;
use crate::forward::Unanswered;
use crate::forward::clock::OwnerClock;
use crate::forward::frame::Incoming;
use crate::forward::handshake;
use crate::forward::message::{Answer, Place, ToFront, put_keep_alive, read_to_front};
use crate::forward::socket::Socket;

/// Time to connect and to prove the secret.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between tries to connect: the first, doubled up to the last.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Deadlines that may be those of answered questions, beside twice the most questions that were ever open at once.
const DEADLINES_KEPT: usize = 1_024;
/// Pace of deadlines and signs of life.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between two signs of life.
const TICKS_PER_KEEP_ALIVE: u32 = 20;
/// Ticks without a byte after which the link is taken for broken. The owner says something every second.
const SILENT_TICKS_MAX: u32 = 100;
/// How often the writer lets others run first, so that its frame grows.
const YIELDS_BEFORE_WRITE: usize = 2;

fn invalid(detail: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail.to_string())
}

/// Measures of the links of a front.
pub(super) struct Measures {
    connects: Counter,
    frames: Counter,
    frame_requests: Histogram,
    round_trip: Histogram,
    resent: Counter,
    lost: Counter,
    in_flight: Gauge,
}

impl Measures {
    pub(super) fn register() -> Self {
        metrics::describe_counter!("meed_forward_connects_total", "Links to the owner that were made.");
        metrics::describe_counter!("meed_forward_frames_total", "Frames sent to the owner.");
        metrics::describe_histogram!("meed_forward_frame_records", "Requests of one frame.");
        metrics::describe_histogram!(
            "meed_forward_round_trip_seconds",
            "Time from a request to its answer by the owner."
        );
        metrics::describe_counter!("meed_forward_resent_total", "Requests sent again after a link broke.");
        metrics::describe_counter!("meed_forward_lost_total", "Requests whose outcome a broken link made unknown.");
        metrics::describe_gauge!("meed_forward_in_flight", "Requests that wait for the owner.");
        Self {
            connects: metrics::counter!("meed_forward_connects_total"),
            frames: metrics::counter!("meed_forward_frames_total"),
            frame_requests: metrics::histogram!("meed_forward_frame_records"),
            round_trip: metrics::histogram!("meed_forward_round_trip_seconds"),
            resent: metrics::counter!("meed_forward_resent_total"),
            lost: metrics::counter!("meed_forward_lost_total"),
            in_flight: metrics::gauge!("meed_forward_in_flight"),
        }
    }
}

impl Link {
    /// Keeps the link up for as long as it is polled. `first` is told when it stands for the first time, or that it
    /// never will.
    pub async fn run(self, mut first: Option<impl FnOnce(Result<(), Error>)>) {
        let mut pause = RETRY_MIN;
        let mut said = None;
        let stay_connected = async {
            loop {
                let error = match self.connect().await {
                    Ok((socket, incoming)) => {
                        tracing::info!(owner = %self.inner.owner.peer, link = self.inner.index, "the link to the owner stands");
                        self.inner.measures.connects.increment(1);
                        (pause, said) = (RETRY_MIN, None);
                        if let Some(first) = first.take() {
                            first(Ok(()));
                        }
                        let error = self.serve(&socket, incoming).await;
                        self.break_off();
                        Error::Link(error)
                    }
                    Err(error) if error.is_mismatch() && first.is_some() => {
                        if let Some(first) = first.take() {
                            first(Err(error));
                        }
                        return;
                    }
                    Err(error) => error,
                };
                let text = error.to_string();
                let state = format!("the owner at {} cannot be reached: {text}", self.inner.owner.peer);
                if said.as_ref() != Some(&text) {
                    tracing::warn!(link = self.inner.index, "{state}");
                    said = Some(text);
                }
                self.inner.owner.set_state(self.inner.index, Err(state));
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        };
        tokio::select! {
            () = self.ticks() => {}
            () = stay_connected => {}
        }
    }

    async fn connect(&self) -> Result<(Socket, Incoming), Error> {
        // A try that failed may have learned the clock of an owner that is no more.
        self.inner.clock.set(None);
        let late = |_| Error::Link(io::ErrorKind::TimedOut.into());
        timeout(CONNECT_TIMEOUT, async {
            let owner = &self.inner.owner;
            let socket = Socket::connect(&owner.peer).await?;
            let nonces = handshake::as_front(&socket, &owner.secret).await?;
            let mut incoming = Incoming::default();
            loop {
                while let Some(frame) = incoming.next()? {
                    let mut r = Reader::new(frame);
                    while !r.is_empty() {
                        match read_to_front(&mut r).map_err(invalid)? {
                            ToFront::Keys(sealed) => {
                                let keys = owner.secret.open(&nonces, &sealed);
                                self.adopt_keys(keys.ok_or_else(|| invalid("keys that cannot be opened"))?)?;
                            }
                            state @ ToFront::State { .. } => {
                                // The last of what is told first.
                                self.take(state)?;
                                self.resume();
                                return Ok((socket, incoming));
                            }
                            other => self.take(other)?,
                        }
                    }
                }
                if socket.read(incoming.room()).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        })
        .await
        .map_err(late)?
    }

    fn adopt_keys(&self, keys: Vec<u8>) -> Result<(), Error> {
        let keys: [u8; FRONT_BYTES] = keys.try_into().map_err(|_| invalid("keys of another length"))?;
        let keys = Secrets::of_owner(&keys);
        let known = &self.inner.owner.known;
        if *known.secrets.get_or_init(|| keys.clone()) != keys {
            // Keys of requests are hashed already with those of the first.
            return Err(Error::OtherOwner);
        }
        Ok(())
    }

    /// Sends what waits for an answer.
    fn resume(&self) {
        let inner = &self.inner;
        let mut places = inner.outstanding.borrow_mut();
        let mut waiting: Vec<(u32, &mut Outstanding)> = Vec::new();
        for (slot, place) in places.iter_mut().enumerate() {
            waiting.extend(place.as_mut().map(|outstanding| (slot as u32, outstanding)));
        }
        waiting.sort_unstable_by_key(|(_, outstanding)| outstanding.order);
        for (slot, outstanding) in waiting {
            let missing = {
                let slots = inner.slots.borrow();
                (0..outstanding.content.len() as u32)
                    .filter(|i| slots.is_missing(slot, outstanding.generation, *i))
                    .count()
            };
            if missing > 0 {
                if outstanding.was_sent {
                    inner.measures.resent.increment(missing as u64);
                }
                self.send(slot, outstanding);
            }
        }
    }

    /// Reads and writes until the link breaks.
    async fn serve(&self, socket: &Socket, incoming: Incoming) -> io::Error {
        self.inner.silent_ticks.set(0);
        let ended = tokio::select! {
            ended = self.reads(socket, incoming) => ended,
            ended = self.writes(socket) => ended,
            () = self.inner.cut.notified() => Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing")),
        };
        match ended {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                io::Error::new(error.kind(), "it closed the link")
            }
            Err(error) => error,
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
        }
    }

    async fn reads(&self, socket: &Socket, mut incoming: Incoming) -> io::Result<()> {
        loop {
            while let Some(frame) = incoming.next()? {
                let mut r = Reader::new(frame);
                let mut measured = false;
                while !r.is_empty() {
                    let message = read_to_front(&mut r).map_err(invalid)?;
                    if let ToFront::Answer(place, _) = &message
                        && !measured
                    {
                        measured = true;
                        self.measure(*place);
                    }
                    self.take(message)?;
                }
            }
            if socket.read(incoming.room()).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.inner.silent_ticks.set(0);
        }
    }

    async fn writes(&self, socket: &Socket) -> io::Result<()> {
        let inner = &self.inner;
        let mut bytes = Vec::new();
        loop {
            inner.to_write.notified().await;
            for _ in 0..YIELDS_BEFORE_WRITE {
                yield_now().await;
            }
            inner.armed.set(false);
            loop {
                bytes.clear();
                let (frame, requests) = inner.outgoing.borrow_mut().take(&mut bytes);
                if bytes.is_empty() {
                    break;
                }
                inner.sent_frame.set(frame);
                inner.measures.frames.increment(1);
                inner.measures.frame_requests.record(f64::from(requests));
                socket.write_all(&bytes).await?;
            }
        }
    }

    /// Takes a message of the owner.
    fn take(&self, message: ToFront) -> io::Result<()> {
        let inner = &self.inner;
        match message {
            ToFront::Clock(owner_ms) => {
                let now_ms = inner.owner.times.elapsed_ms();
                let mut clock = inner.clock.get().unwrap_or(OwnerClock::new(owner_ms, now_ms));
                clock.learn(owner_ms, now_ms);
                inner.clock.set(Some(clock));
            }
            ToFront::State { draining, failing } => {
                inner.up.set(if draining { Up::Draining } else { Up::Open });
                let state = failing.map_or(Ok(()), |failing| Err(format!("the owner is not ready: {failing}")));
                inner.owner.set_state(inner.index, state);
            }
            ToFront::Keys(_) => return Err(invalid("keys in the middle")),
            ToFront::Program { name, number, effective_from, document } => {
                inner.owner.known.adopt_program(&name, number, effective_from, &document).map_err(invalid)?;
            }
            ToFront::Map(map) => inner.owner.known.ownership.told(map),
            ToFront::PageRecord(place, record) => {
                if inner.slots.borrow().is_missing(place.slot, place.generation, place.index) {
                    let mut pages = inner.pages.borrow_mut();
                    pages.entry((place.slot, place.generation)).or_default().push(*record);
                }
            }
            ToFront::Answer(place, Answer::Page(_)) => {
                let records = inner.pages.borrow_mut().remove(&(place.slot, place.generation));
                self.fill(place, Ok(Answer::Page(records.unwrap_or_default())));
            }
            ToFront::Answer(place, answer) => self.fill(place, Ok(answer)),
        }
        Ok(())
    }

    /// Measures one answer of each frame.
    fn measure(&self, place: Place) {
        let places = self.inner.outstanding.borrow();
        let asked = places.get(place.slot as usize).and_then(Option::as_ref);
        if let Some(asked) = asked.filter(|asked| asked.generation == place.generation) {
            self.inner.measures.round_trip.record(asked.asked_at.elapsed());
        }
    }

    fn fill(&self, place: Place, arrived: super::Arrived) {
        self.inner.slots.borrow_mut().fill(place.slot, place.generation, place.index, arrived);
    }

    /// The link has broken: what was sent and must not be sent twice is lost.
    fn break_off(&self) {
        let inner = &self.inner;
        inner.up.set(Up::Down);
        inner.clock.set(None);
        inner.armed.set(false);
        inner.pages.borrow_mut().clear();
        inner.outgoing.replace(Outgoing::default());
        let sent_frame = inner.sent_frame.replace(0);
        for (slot, place) in inner.outstanding.borrow_mut().iter_mut().enumerate() {
            let Some(outstanding) = place else { continue };
            outstanding.was_sent = outstanding.is_sent(sent_frame);
            outstanding.frame = None;
            let was_sent = outstanding.was_sent;
            if !was_sent && !inner.owner.is_one_of_many {
                continue;
            }
            for index in 0..outstanding.content.len() as u32 {
                let place = Place { slot: slot as u32, generation: outstanding.generation, index };
                let missing = inner.slots.borrow().is_missing(place.slot, place.generation, index);
                if missing && was_sent && !outstanding.content.again(index) {
                    inner.measures.lost.increment(1);
                    self.fill(place, Err(Unanswered::Unknown));
                } else if missing && inner.owner.is_one_of_many {
                    self.fill(place, Err(Unanswered::Broken { was_sent }));
                }
            }
        }
    }

    /// Deadlines, signs of life, and the end of a link that is silent.
    async fn ticks(&self) {
        let inner = &self.inner;
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut count = 0u32;
        loop {
            interval.tick().await;
            count = count.wrapping_add(1);
            self.give_up_late();
            self.forget_answered();
            if inner.index == 0 {
                #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
                inner.measures.in_flight.set(inner.owner.permits.under_way() as f64);
            }
            if inner.up.get() == Up::Down {
                continue;
            }
            inner.silent_ticks.set(inner.silent_ticks.get() + 1);
            let idle = inner.up.get() == Up::Draining && inner.outstanding.borrow().iter().all(Option::is_none);
            if inner.silent_ticks.get() > SILENT_TICKS_MAX || idle {
                inner.cut.notify_one();
            } else if count.is_multiple_of(TICKS_PER_KEEP_ALIVE) {
                inner.outgoing.borrow_mut().push(put_keep_alive);
                inner.to_write.notify_one();
            }
        }
    }

    /// Deadlines of questions that have their answers leave before they have passed, when they are most of all: they
    /// would be as many as are asked in the longest time that a question has.
    fn forget_answered(&self) {
        let places = self.inner.outstanding.borrow();
        let mut deadlines = self.inner.deadlines.borrow_mut();
        if deadlines.len() > 2 * places.len() + DEADLINES_KEPT {
            deadlines.retain(|(_, slot, generation)| {
                places[*slot as usize].as_ref().is_some_and(|outstanding| outstanding.generation == *generation)
            });
        }
    }

    fn give_up_late(&self) {
        let inner = &self.inner;
        let now_ms = inner.owner.times.elapsed_ms();
        loop {
            let due = inner.deadlines.borrow_mut().pop_front_if(|due| due.0 < now_ms);
            let Some((_, slot, generation)) = due else { return };
            let (sent, answers) = {
                let places = inner.outstanding.borrow();
                let waits = places[slot as usize].as_ref().filter(|o| o.generation == generation);
                let Some(outstanding) = waits else { continue };
                (outstanding.is_sent(inner.sent_frame.get()), outstanding.content.len() as u32)
            };
            let mut slots = inner.slots.borrow_mut();
            if sent {
                slots.give_up(slot, generation);
            } else {
                // Nobody has seen it, and nobody will decide it after its deadline.
                for index in 0..answers {
                    slots.fill(slot, generation, index, Err(Unanswered::NotReady));
                }
            }
        }
    }
}
