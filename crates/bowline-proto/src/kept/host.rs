//! The end that has the process: one session, whoever is connected to it, or nobody.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::arrivals::Arrivals;
use super::greeting::Greeting;
use super::link::Link;
use super::replay::{Cursor, Replay};
use super::{Frame, Id, Leave, Mode, Refused, Start, Stream, Total, refused};
use crate::limits::{
    KEPT_LONGEST, KEPT_LOOKERS, KEPT_REPLAY_BYTES, KEPT_SCREEN_BYTES, KEPT_TAIL_BYTES, REASON_BYTES,
};
use crate::machine::Next;
use crate::outbox::Outbox;
use crate::session::{Cause, Loss, Size};
use crate::time::{Time, earlier};

const TAKEN_OVER: &str = "another client has gone on with the session";
/// A terminal that has another size forgets its region. The cursor stays where it is.
const NO_REGION: &[u8] = b"\x1b7\x1b[r\x1b8";
const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What the host's end tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes for the process. What it took of them has to be told by [`Host::took`].
    Stdin(Bytes),
    /// The process gets no more input.
    StdinEnd,
    /// The terminal has this size.
    Resize(Size),
    /// End the process: its client said so, or has been away for too long.
    HangUp,
    /// The connection at this seat is over, for this reason. Its outbox may hold a last word.
    Left(u32, Loss),
}

/// A session, as its host shows it to whoever lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The name of its id.
    pub name: String,
    /// The beginning of its words.
    pub command: String,
    /// Whether the command has ended.
    pub has_ended: bool,
    /// Whether a client is connected.
    pub has_client: bool,
}

impl Entry {
    /// The body of LISTED.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        // Texts and truth values become JSON whatever they are.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// What is left of a session that has ended, for a host that begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// How many clients have had it.
    pub turn: u64,
    /// How many bytes of stdin have come.
    pub stdin: u64,
    /// Whether its end has come.
    pub stdin_over: bool,
    /// What stdout and stderr had.
    pub totals: [Total; 2],
    /// How far whoever had the session had taken each; the end counts as one.
    pub taken: [u64; 2],
    /// A Status as JSON, or why there is none.
    pub end: Result<Bytes, String>,
}

/// How much of a session is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How much of each output is kept for a client that has not acknowledged it.
    pub replay_bytes: usize,
    /// The longest time without a client, however the last one has left, and after the end.
    pub longest: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { replay_bytes: KEPT_REPLAY_BYTES, longest: KEPT_LONGEST }
    }
}

/// One session, from its start until it is forgotten.
#[derive(Debug)]
pub struct Host {
    start: Start,
    replay_bytes: usize,
    longest: Duration,
    stdin: Arrivals,
    outputs: [Replay; 2],
    /// What whoever has the session has acknowledged of each output.
    acknowledged: [u64; 2],
    seats: Vec<Seat>,
    last_seat: u32,
    /// How many clients have had the session; one that comes back counts once.
    turn: u64,
    /// When the connection began on which it was taken last.
    taken: Time,
    /// A Status as JSON, or why there is none.
    end: Option<Result<Bytes, String>>,
    /// Since when the command has ended, or has had no client.
    alone_since: Option<Time>,
    /// The last client has said that the command goes on.
    is_left: bool,
    is_hung_up: bool,
    events: VecDeque<Event>,
}

/// A connected client.
#[derive(Debug)]
struct Seat {
    number: u32,
    mode: Mode,
    link: Link,
    cursors: [Cursor; 2],
    /// Its terminal was brought to where the session's is, which may have had another size.
    is_shown: bool,
    /// Where stdout comes to what was written after the terminal had another size.
    region_ends: Option<u64>,
    has_outcome: bool,
    is_over: bool,
}

impl Host {
    /// A session whose command is about to be started.
    #[must_use]
    pub fn new(now: Time, mut start: Start, bounds: Bounds) -> Host {
        let Bounds { replay_bytes, longest } = bounds;
        start.keep_for = start.keep_for.min(longest.as_secs());
        let stdout = if start.wants.tty {
            Replay::of_terminal(KEPT_TAIL_BYTES.min(replay_bytes))
        } else {
            Replay::new()
        };
        Host {
            start,
            replay_bytes,
            longest,
            stdin: Arrivals::new(),
            outputs: [stdout, Replay::new()],
            acknowledged: [0; 2],
            seats: Vec::new(),
            last_seat: 0,
            turn: 0,
            taken: Time::ZERO,
            end: None,
            alone_since: Some(now),
            is_left: false,
            is_hung_up: false,
            events: VecDeque::new(),
        }
    }

    /// A session that has ended at a host before this one. Of its outputs nothing is kept: a client
    /// that lacks some of them is told how much.
    #[must_use]
    pub fn past(now: Time, start: Start, left: Left) -> Host {
        let Left { turn, stdin, stdin_over, totals: [stdout, stderr], taken, end } = left;
        let bounds = Bounds { replay_bytes: 0, longest: Duration::from_secs(start.keep_for) };
        let mut host = Host::new(now, start, bounds);
        host.turn = turn;
        host.stdin = Arrivals::past(stdin, stdin_over);
        host.outputs = [Replay::past(stdout, taken[0]), Replay::past(stderr, taken[1])];
        host.end = Some(end);
        host
    }

    /// What is to be known of it once nothing else is. `None` before it has ended.
    #[must_use]
    pub fn left(&self) -> Option<Left> {
        let totals = self.outputs.each_ref().map(Replay::total);
        let taken = self.outputs.each_ref().map(Replay::taken);
        let (stdin, stdin_over) = (self.stdin.expected(), self.stdin.is_over());
        let end = self.end.clone()?;
        Some(Left { turn: self.turn, stdin, stdin_over, totals, taken, end })
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.start.id
    }

    /// What was started.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// Whether a request is for this very session and command.
    #[must_use]
    pub fn is_same(&self, other: &Start) -> bool {
        let Start { id, wants, command, env, .. } = &self.start;
        (id, wants, command, env) == (&other.id, &other.wants, &other.command, &other.env)
    }

    /// Takes a connection that asked for this session, and returns the number of its seat. `have`
    /// is as in [`Resume`](super::Resume); `started` says that the command was started for it.
    ///
    /// # Errors
    /// If the client has more than there is, another one has taken the session from it, or as many
    /// look at it as may; it was told so, and its connection is given back.
    pub fn join(
        &mut self,
        mut greeting: Greeting,
        mode: Mode,
        have: Option<[u64; 2]>,
        started: bool,
    ) -> Result<u32, Box<Greeting>> {
        // A host that began anew may know less than its client. A request on a connection from
        // before may have waited in a server that stood still, while its client has come again.
        let is_late = (1..self.turn).contains(&greeting.turn) || greeting.began < self.taken;
        if mode == Mode::Take && is_late {
            greeting.refuse(refused::TAKEN_OVER, TAKEN_OVER);
            return Err(Box::new(greeting));
        }
        if mode == Mode::Look && self.lookers() >= KEPT_LOOKERS {
            greeting.refuse(refused::TOO_MANY, "too many clients look at the session already");
            return Err(Box::new(greeting));
        }
        let mut cursors = [Cursor::default(); 2];
        for (at, replay) in self.outputs.iter().enumerate() {
            // What another one has taken says nothing of what this one has, which it says itself.
            let is_known = mode == Mode::Take || have.is_none();
            let acknowledged = if is_known { self.acknowledged[at] } else { 0 };
            // A client that knows nothing of a stream has to hear of its end.
            let from = have.map_or_else(|| replay.bytes_of(acknowledged), |have| have[at]);
            match replay.cursor(from, acknowledged) {
                Ok(cursor) => cursors[at] = cursor,
                Err(why) => {
                    greeting.refuse(refused::BAD_REQUEST, why);
                    return Err(Box::new(greeting));
                }
            }
        }
        if mode == Mode::Take {
            self.take_over();
            self.stdin.reconnected();
            self.turn = match greeting.turn {
                0 => self.turn.saturating_add(1),
                turn => turn,
            };
            self.taken = greeting.began;
        }
        let mut link = greeting.link;
        let (stdin, stdin_over) = (self.stdin.expected(), self.stdin.is_over());
        let (wants, outputs) = (self.start.wants, cursors.each_ref().map(|cursor| cursor.next()));
        let turn = self.turn;
        link.send(&Frame::State { wants, stdin, stdin_over, outputs, started, turn });
        let (stdout, mut is_shown) = (&self.outputs[0], false);
        // Behind a gap it comes in any case.
        if have.is_none()
            && outputs[0] >= stdout.start()
            && let Some(screen) = stdout.screen()
        {
            link.send(&Frame::Screen { anew: true, bytes: screen.into() });
            is_shown = true;
        }
        self.last_seat += 1;
        let number = self.last_seat;
        let (has_outcome, is_over, region_ends) = (false, false, None);
        self.seats.push(Seat {
            number,
            mode,
            link,
            cursors,
            is_shown,
            region_ends,
            has_outcome,
            is_over,
        });
        if mode == Mode::Take && self.end.is_none() {
            (self.alone_since, self.is_left) = (None, false);
        }
        Ok(number)
    }

    fn lookers(&self) -> usize {
        self.seats.iter().filter(|seat| seat.mode == Mode::Look && !seat.is_over).count()
    }

    /// Whoever has the session is told that another one has it now.
    fn take_over(&mut self) {
        for seat in self.seats.iter_mut().filter(|seat| seat.mode == Mode::Take && !seat.is_over) {
            let refused = Refused { code: refused::TAKEN_OVER, text: TAKEN_OVER.into() };
            seat.link.send(&Frame::Refused(refused));
            self.events.push_back(seat.over(Loss::new(Cause::Closed, TAKEN_OVER)));
        }
    }

    /// Takes bytes of a seat's connection.
    pub fn receive(&mut self, now: Time, seat: u32, input: impl Into<Bytes>) {
        if let Some(seat) = self.seat(seat).filter(|seat| !seat.is_over) {
            seat.link.receive(now, input.into());
        }
    }

    /// Records that a seat's connection gives no more bytes.
    pub fn receive_end(&mut self, seat: u32) {
        if let Some(seat) = self.seat(seat) {
            seat.link.receive_end();
        }
    }

    /// What waits for a seat's connection; `None` once it was [removed](Self::remove).
    pub fn outbox(&mut self, seat: u32) -> Option<&mut Outbox> {
        self.seat(seat).map(|seat| &mut seat.link.outbox)
    }

    /// Forgets a seat whose connection is gone.
    pub fn remove(&mut self, now: Time, seat: u32) {
        let Some(at) = self.seats.iter().position(|known| known.number == seat) else { return };
        let seat = self.seats.remove(at);
        if !seat.is_over && seat.mode == Mode::Take {
            self.alone_since = Some(now);
        }
    }

    /// Ends all connections, because the host ends.
    pub fn shut_down(&mut self, text: &str) {
        for seat in self.seats.iter_mut().filter(|seat| !seat.is_over) {
            let refused = Refused { code: refused::HOST_ENDS, text: text.into() };
            seat.link.send(&Frame::Refused(refused));
            self.events.push_back(seat.over(Loss::new(Cause::Closed, "the host ends")));
        }
    }

    fn seat(&mut self, number: u32) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.number == number)
    }

    /// Whether somebody goes on with the session.
    #[must_use]
    pub fn has_client(&self) -> bool {
        self.seats.iter().any(|seat| seat.mode == Mode::Take && !seat.is_over)
    }

    /// Adds output of the process. Of a terminal that nobody sees, the oldest goes.
    pub fn output(&mut self, stream: Stream, bytes: Bytes) {
        let is_seen = self.has_client();
        let replay = &mut self.outputs[stream.output()];
        replay.push(bytes);
        if self.start.wants.tty && !is_seen {
            replay.keep_last(KEPT_SCREEN_BYTES.min(self.replay_bytes));
        }
    }

    /// Whether output of the process is to be read.
    #[must_use]
    pub fn has_room(&self, stream: Stream) -> bool {
        let is_unseen_terminal = self.start.wants.tty && !self.has_client();
        is_unseen_terminal || self.outputs[stream.output()].len() < self.replay_bytes
    }

    /// Ends an output of the process.
    pub fn finish(&mut self, stream: Stream) {
        self.outputs[stream.output()].finish();
    }

    /// Records that the process took so many bytes of its input, or will never take them.
    pub fn took(&mut self, now: Time, bytes: usize) {
        self.stdin.took(now, bytes as u64);
    }

    /// Records how the command ended: a Status as JSON, or why that is not known. All of its output
    /// was given.
    pub fn ended(&mut self, now: Time, end: Result<Bytes, String>) {
        for output in &mut self.outputs {
            output.finish();
        }
        self.end.get_or_insert(end);
        (self.alone_since, self.is_left) = (Some(now), false);
    }

    /// How many bytes of output are kept.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.outputs.iter().map(Replay::len).sum()
    }

    /// Whether the command has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// What a list shows.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let (has_ended, has_client) = (self.has_ended(), self.has_client());
        let mut command = self.start.command.join(" ");
        command.truncate(command.floor_char_boundary(REASON_BYTES));
        Entry { name: self.id().name(), command, has_ended, has_client }
    }

    /// Returns the next event; done once nobody can want the session any more.
    pub fn poll(&mut self, now: Time) -> Next<Event> {
        let mut deadline = None;
        for at in 0..self.seats.len() {
            if let Err(loss) = self.serve(now, at, &mut deadline) {
                self.lose(now, at, loss);
            }
        }
        if let Some(event) = self.events.pop_front() {
            return Next::Event(event);
        }
        let Some(since) = self.alone_since.filter(|_| !self.has_client()) else {
            return Next::Idle(deadline);
        };
        // The first client is on its way, however short the session is kept.
        let least = u64::from(self.turn == 0 && !self.has_ended());
        let kept = Duration::from_secs(self.start.keep_for.max(least));
        let until = since + if self.is_left { self.longest } else { kept };
        if now < until {
            return Next::Idle(earlier(deadline, Some(until)));
        }
        if self.has_ended() {
            return if self.seats.is_empty() { Next::Done } else { Next::Idle(deadline) };
        }
        if core::mem::replace(&mut self.is_hung_up, true) {
            return Next::Idle(deadline);
        }
        Next::Event(Event::HangUp)
    }

    /// A connection is of no use any more.
    fn lose(&mut self, now: Time, at: usize, loss: Loss) {
        let seat = &mut self.seats[at];
        if loss.cause == Cause::Fault {
            let text = loss.detail.clone();
            seat.link.send(&Frame::Refused(Refused { code: refused::BAD_REQUEST, text }));
        }
        let is_taker = seat.mode == Mode::Take;
        self.events.push_back(seat.over(loss));
        if is_taker {
            self.alone_since = Some(now);
        }
    }

    /// Reads what came at a seat, and queues what can be sent there.
    fn serve(&mut self, now: Time, at: usize, deadline: &mut Option<Time>) -> Result<(), Loss> {
        while self.events.is_empty() && !self.seats[at].is_over {
            let Some(frame) = self.seats[at].link.next()? else { break };
            self.frame(now, at, frame)?;
        }
        let seat = &mut self.seats[at];
        if seat.is_over {
            return Ok(());
        }
        *deadline = earlier(*deadline, Some(seat.link.beat(now)?));
        if seat.mode == Mode::Take {
            if let Some(ack) = self.stdin.acknowledge(now, Stream::Stdin) {
                seat.link.send(&ack);
            }
            *deadline = earlier(*deadline, self.stdin.deadline());
        }
        seat.send(&self.outputs);
        if let Some(end) = &self.end
            && seat.is_sent(&self.outputs)
            && !core::mem::replace(&mut seat.has_outcome, true)
        {
            let totals: [Total; 2] = self.outputs.each_ref().map(Replay::total);
            seat.link.send(&Frame::Outcome { end: end.clone(), totals });
        }
        Ok(())
    }

    /// Somebody who looks has taken an output of a command that was left to run on. Nobody is
    /// awaited to take it, so that the command would wait for ever once all room is taken: half of
    /// it is made free then, of the oldest. What is there stays for others who look.
    fn looked(&mut self, output: usize, at: usize, to: u64) {
        let kept = &mut self.outputs[output];
        kept.take(&self.seats[at].cursors[output]);
        if kept.len() >= self.replay_bytes {
            let half = kept.total().bytes - self.replay_bytes as u64 / 2;
            kept.forget(to.min(half));
            self.acknowledged[output] = self.acknowledged[output].max(kept.start());
        }
    }

    fn frame(&mut self, now: Time, at: usize, frame: Frame) -> Result<(), Loss> {
        let fault = |what: &'static str| Loss::new(Cause::Fault, what);
        let seat = &mut self.seats[at];
        let takes = seat.mode == Mode::Take;
        match frame {
            Frame::Data(Stream::Stdin, offset, bytes) if takes => {
                let bytes = self.stdin.data(offset, bytes).map_err(fault)?;
                if !bytes.is_empty() {
                    self.events.push_back(Event::Stdin(bytes));
                }
            }
            Frame::End(Stream::Stdin, end) if takes => {
                if self.stdin.end(now, end).map_err(fault)? {
                    self.events.push_back(Event::StdinEnd);
                }
            }
            Frame::Resize(size) if takes => {
                seat.region_ends = seat.is_shown.then(|| self.outputs[0].total().bytes);
                self.events.push_back(Event::Resize(size));
            }
            Frame::Ack(stream, to) if stream.is_output() => {
                seat.cursors[stream.output()].acknowledge(to).map_err(fault)?;
                if takes {
                    self.outputs[stream.output()].take(&seat.cursors[stream.output()]);
                    self.acknowledged[stream.output()] =
                        seat.cursors[stream.output()].acknowledged();
                    self.outputs[stream.output()].forget(to);
                } else if self.is_left {
                    self.looked(stream.output(), at, to);
                }
            }
            Frame::Received if seat.has_outcome => {
                self.events.push_back(seat.over(Loss::new(Cause::Closed, "it has the outcome")));
            }
            Frame::Leave(how) => {
                seat.link.send(&Frame::Left);
                self.events.push_back(seat.over(Loss::new(Cause::Closed, "it said goodbye")));
                if takes && self.end.is_none() {
                    (self.alone_since, self.is_left) = (Some(now), how == Leave::Running);
                }
                if takes && how == Leave::HungUp && !core::mem::replace(&mut self.is_hung_up, true)
                {
                    self.events.push_back(Event::HangUp);
                }
            }
            _ => return Err(fault("a frame that is not a client's, or not of this one")),
        }
        Ok(())
    }
}

impl Seat {
    /// Nothing more is said here.
    fn over(&mut self, loss: Loss) -> Event {
        self.link.outbox.finish();
        self.is_over = true;
        Event::Left(self.number, loss)
    }

    /// Queues output, of both streams by turns.
    fn send(&mut self, outputs: &[Replay; 2]) {
        let mut is_more = true;
        while is_more && self.link.has_room() {
            is_more = false;
            for (at, stream) in OUTPUTS.into_iter().enumerate() {
                let cursor = &mut self.cursors[at];
                if at == 0 && self.region_ends.is_some_and(|end| cursor.next() >= end) {
                    // Not within a sequence, or a character.
                    let place = outputs[at].next_sequence(cursor.next());
                    self.region_ends = (place > cursor.next()
                        || place == outputs[at].total().bytes)
                        .then_some(place);
                    if self.region_ends.is_none() {
                        let bytes = Bytes::from_static(NO_REGION);
                        self.link.send(&Frame::Screen { anew: false, bytes });
                    }
                }
                let until = self.region_ends.filter(|_| at == 0).unwrap_or(u64::MAX);
                let window = self.link.window();
                if let Some(frame) = outputs[at].next_up_to(until, cursor, stream, window) {
                    self.link.send(&frame);
                    if let (Frame::Gap { .. }, Some(screen)) = (&frame, outputs[at].screen()) {
                        self.link.send(&Frame::Screen { anew: true, bytes: screen.into() });
                        self.is_shown = true;
                    }
                    is_more = true;
                }
            }
        }
    }

    fn is_sent(&self, outputs: &[Replay; 2]) -> bool {
        self.cursors.iter().zip(outputs).all(|(cursor, output)| output.is_sent(cursor))
    }
}
