//! The client's end: one session over as many connections as it takes.

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use bytes::{Bytes, BytesMut};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::arrivals::Arrivals;
use super::link::Link;
use super::replay::{Cursor, Replay};
use super::{Frame, Id, Instance, Leave, Mode, Refused, Resume, Start, Stream, Total, refused};
use crate::limits::{
    KEPT_GREETING, KEPT_REDRAW_WITHIN, KEPT_REPLAY_BYTES, KEPT_RETRY_FIRST, KEPT_RETRY_LAST,
    KEPT_SCREEN_BYTES, REASON_BYTES,
};
use crate::machine::{Machine, Next};
use crate::outbox::Outbox;
use crate::session::{Cause, Loss, Size, Status, Wants};
use crate::time::{Time, earlier};

/// What the client's end tells its owner. Nothing follows after [`Ended`](Self::Ended),
/// [`Refused`](Self::Refused) or [`Lost`](Self::Lost).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Make a connection, and tell of it by [`Client::connected`] or [`Client::failed`].
    Connect,
    /// The session is there.
    Up(Connected),
    /// Bytes of an output; never empty. What was written of them has to be told by
    /// [`Client::took`].
    Data(Stream, Bytes),
    /// Bytes of an output are not there any more.
    Gap(Gap),
    /// What brings any terminal to where the command's is. It belongs between the bytes of stdout
    /// that came before it and those that follow, and counts for none of them. Of no use to what is
    /// no terminal.
    Screen(Bytes),
    /// An output has ended.
    Eof(Stream),
    /// The connection is lost for this reason. Drop it; another one is asked for.
    Down(Loss),
    /// The command has ended, and all of its output has come.
    Ended(Status),
    /// The host refuses.
    Refused(Refused),
    /// How the command ended will not be known.
    Lost(Loss),
}

/// Bytes of an output that are not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which output.
    pub stream: Stream,
    /// How many they are.
    pub bytes: u64,
    /// How many of them have come to nobody.
    pub untaken_bytes: u64,
}

/// How a session is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Whether the command was started by this connection's request.
    pub started: bool,
    /// How long there was none, if there was one before.
    pub away: Option<Duration>,
    /// Where stdout and stderr go on.
    pub outputs: [u64; 2],
    /// Its streams.
    pub wants: Wants,
    /// Whether the end of its input has come already.
    pub stdin_over: bool,
}

/// When connections are made again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// How long without a connection the session is still wanted. A host keeps it no longer.
    pub give_up_after: Duration,
    /// Makes the waits differ between clients.
    pub seed: [u8; 32],
}

/// What is asked for on a new connection.
#[derive(Debug)]
enum Ask {
    /// The start of a command, at the host that was asked before, if one was.
    Start(Start, Option<Instance>),
    Resume(Mode),
}

#[derive(Debug)]
enum Phase {
    /// Without a connection until then.
    Away(Time),
    /// The owner makes one.
    Connecting,
    /// Until the host has answered, at the latest then.
    Greeting(Link, Time),
    Up(Link),
    /// It has said goodbye, and waits for the answer.
    Leaving(Link),
    Over,
}

/// One session as its client has it, from before the first connection to the end.
#[derive(Debug)]
pub struct Client {
    id: Id,
    ask: Ask,
    phase: Phase,
    /// The session has been there.
    was_up: bool,
    /// The host has heard its goodbye.
    has_left: bool,
    /// Which of its clients this is; 0 before it was there.
    turn: u64,
    /// When the session was there last, or was first wanted.
    since: Time,
    give_up_after: Duration,
    /// The wait before the next connection.
    wait: Duration,
    /// Why there was no connection when there was none last.
    why_none: String,
    chance: ChaCha8Rng,
    stdin: Replay,
    sent: Cursor,
    outputs: [Arrivals; 2],
    /// Where the outputs begin is not known before the first connection.
    begins_anywhere: bool,
    /// The command has a terminal.
    has_terminal: bool,
    size: Option<Size>,
    size_sent: bool,
    redraw: Redraw,
    events: VecDeque<Event>,
    empty: Outbox,
}

/// A program that has the whole screen writes it anew when it hears of another size, and only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Redraw {
    None,
    /// It is to do so.
    Wanted,
    /// It was told of a size that is not the true one, which it hears then.
    Until(Time),
}

impl Client {
    /// A command to be started. Its id has to be random, and its instance is of no matter.
    #[must_use]
    pub fn start(now: Time, start: Start, retry: Retry) -> Client {
        let (id, size) = (start.id, start.size);
        let mut client = Client::new(now, id, Ask::Start(start, None), retry);
        client.size = size;
        client
    }

    /// A session to be resumed. `have` is how much of stdout and stderr is there already; `None`
    /// is as much as was acknowledged.
    #[must_use]
    pub fn resume(now: Time, id: Id, mode: Mode, have: Option<[u64; 2]>, retry: Retry) -> Client {
        let mut client = Client::new(now, id, Ask::Resume(mode), retry);
        client.begins_anywhere = have.is_none();
        for (output, have) in client.outputs.iter_mut().zip(have.unwrap_or_default()) {
            output.begin_at(have);
        }
        client
    }

    fn new(now: Time, id: Id, ask: Ask, retry: Retry) -> Client {
        Client {
            id,
            ask,
            phase: Phase::Away(now),
            was_up: false,
            has_left: false,
            turn: 0,
            since: now,
            give_up_after: retry.give_up_after,
            wait: KEPT_RETRY_FIRST,
            why_none: String::new(),
            chance: ChaCha8Rng::from_seed(retry.seed),
            stdin: Replay::new(),
            sent: Cursor::default(),
            outputs: [Arrivals::new(), Arrivals::new()],
            begins_anywhere: false,
            has_terminal: false,
            size: None,
            size_sent: true,
            redraw: Redraw::None,
            events: VecDeque::new(),
            empty: Outbox::new(),
        }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Whether the next connection asks for the session to go on, rather than for its start.
    #[must_use]
    pub fn resumes(&self) -> bool {
        matches!(self.ask, Ask::Resume(_))
    }

    /// Whether the command may have begun: its start was asked for, or the session was there.
    #[must_use]
    pub fn may_have_begun(&self) -> bool {
        self.was_up || !matches!(self.ask, Ask::Start(_, None))
    }

    /// Whether the session has been there.
    #[must_use]
    pub fn was_up(&self) -> bool {
        self.was_up
    }

    /// Says that the connection asked for is there.
    pub fn connected(&mut self, now: Time) {
        if matches!(self.phase, Phase::Connecting) {
            self.phase = Phase::Greeting(Link::new(now, None), now + KEPT_GREETING);
            self.why_none.clear();
        }
    }

    /// Says that there is none, and will not be for now, and why.
    pub fn failed(&mut self, now: Time, why: &str) {
        if matches!(self.phase, Phase::Connecting) {
            self.why_none = why[..why.floor_char_boundary(REASON_BYTES)].to_owned();
            self.wait_for_next(now);
        }
    }

    /// Gives up, because the owner knows that there cannot be one.
    pub fn give_up(&mut self, loss: Loss) {
        self.over(Event::Lost(loss));
    }

    /// Makes a connection at once instead of after the wait.
    pub fn hurry(&mut self, now: Time) {
        if let Phase::Away(next) = &mut self.phase {
            *next = now;
        }
    }

    /// Sends input. None may be given before the session was there for the first time, or while
    /// there is no [room](Self::has_room).
    pub fn send(&mut self, bytes: Bytes) {
        if self.looks() {
            return;
        }
        if self.has_terminal {
            // It may be a terminal's answer. What has asked for it is to come to no other one.
            self.outputs.iter_mut().for_each(Arrivals::hurry);
        }
        self.stdin.push(bytes);
    }

    /// Whether input is taken.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let takes = self.was_up && !self.looks() && !self.stdin.is_over();
        takes && self.stdin.len() < KEPT_REPLAY_BYTES
    }

    /// Ends the input. Who only looks has none.
    pub fn finish(&mut self) {
        if !self.looks() {
            self.stdin.finish();
        }
    }

    /// Sends the terminal's size, now and after each reconnection. That of who only looks is of no
    /// matter.
    pub fn resize(&mut self, size: Size) {
        if !self.looks() {
            (self.size, self.size_sent) = (Some(size), false);
        }
    }

    fn looks(&self) -> bool {
        matches!(self.ask, Ask::Resume(Mode::Look))
    }

    /// Records that so many bytes of an output were written where they belong.
    pub fn took(&mut self, now: Time, stream: Stream, bytes: usize) {
        self.outputs[stream.output()].took(now, bytes as u64);
    }

    /// Says goodbye; no event follows. Without a connection, and before something was asked for on
    /// it, nobody is told.
    ///
    /// The host [answers](Self::has_left). Our half of the connection stays until then: an API
    /// server that passes it on ends both halves with the first one, and the answer would not come.
    pub fn leave(&mut self, how: Leave) {
        self.events.clear();
        match core::mem::replace(&mut self.phase, Phase::Over) {
            // The request goes out with the host's HELLO. Whatever answers it reads what is behind.
            Phase::Up(mut link) | Phase::Greeting(mut link, _) if link.is_greeted() => {
                link.send(&Frame::Leave(how));
                self.phase = Phase::Leaving(link);
            }
            Phase::Up(link) | Phase::Greeting(link, _) | Phase::Leaving(link) => self.close(link),
            Phase::Away(_) | Phase::Connecting | Phase::Over => {}
        }
    }

    /// Whether the host has heard the goodbye.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    fn close(&mut self, mut link: Link) {
        link.outbox.finish();
        self.empty = link.outbox;
    }

    /// Whether there is a session at the other end of a connection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn has_connection(&self) -> bool {
        matches!(self.phase, Phase::Up(_) | Phase::Greeting(..) | Phase::Leaving(_))
    }

    fn over(&mut self, last: Event) {
        match core::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Up(link) | Phase::Greeting(link, _) => self.close(link),
            Phase::Leaving(link) => return self.close(link),
            Phase::Away(_) | Phase::Connecting => {}
            Phase::Over => return,
        }
        self.events.push_back(last);
    }

    /// Half of the wait is certain, half by chance, so that clients of one host do not come at
    /// once.
    fn wait_for_next(&mut self, now: Time) {
        let half = self.wait / 2;
        let chance = f64::from(self.chance.next_u32()) / f64::from(u32::MAX);
        self.phase = Phase::Away(now + half + half.mul_f64(chance));
        self.wait = (self.wait * 2).min(KEPT_RETRY_LAST);
    }

    fn down(&mut self, now: Time, loss: Loss) {
        if self.is_up() {
            self.since = now;
        } else {
            self.why_none = loss.to_string();
        }
        self.wait_for_next(now);
        self.events.push_back(Event::Down(loss));
    }

    fn frame(&mut self, now: Time, frame: Frame) -> Result<(), Loss> {
        let fault = |what: &'static str| Loss::new(Cause::Fault, what);
        match frame {
            Frame::Hello { instance, .. } => self.greeted(instance.ok_or(fault("no instance"))?),
            Frame::State { wants, stdin, stdin_over, outputs, started, turn } => {
                let up = Connected { started, away: None, outputs, wants, stdin_over };
                self.up(now, up, stdin)?;
                self.turn = turn;
            }
            Frame::Refused(refused) => self.refused(now, refused),
            _ if !self.is_up() => return Err(fault("no state")),
            Frame::Data(stream, offset, bytes) if stream.is_output() => {
                let bytes = self.outputs[stream.output()].data(offset, bytes).map_err(fault)?;
                if !bytes.is_empty() {
                    self.events.push_back(Event::Data(stream, bytes));
                }
            }
            Frame::End(stream, at) if stream.is_output() => {
                if self.outputs[stream.output()].end(now, at).map_err(fault)? {
                    self.events.push_back(Event::Eof(stream));
                }
            }
            Frame::Gap { stream, from, to, taken } if stream.is_output() => {
                let bytes = self.outputs[stream.output()].gap(from, to).map_err(fault)?;
                let untaken_bytes = to.saturating_sub(taken.max(from));
                self.events.push_back(Event::Gap(Gap { stream, bytes, untaken_bytes }));
            }
            Frame::Screen { anew, bytes } => {
                if bytes.len() > KEPT_SCREEN_BYTES {
                    return Err(fault("a screen is too large"));
                }
                if anew && !self.looks() {
                    self.redraw = Redraw::Wanted;
                }
                self.events.push_back(Event::Screen(bytes));
            }
            Frame::Ack(Stream::Stdin, at) => {
                self.sent.acknowledge(at).map_err(fault)?;
                self.stdin.forget(at);
            }
            Frame::Outcome { end, totals } => self.outcome(end, totals)?,
            _ => return Err(fault("a frame that a host has no cause for")),
        }
        Ok(())
    }

    /// Asks for the session, once it is known which host this is.
    fn greeted(&mut self, instance: Instance) {
        let Phase::Greeting(link, _) = &mut self.phase else { return };
        let (id, turn) = (self.id, self.turn);
        let resume = |mode, have| Frame::Resume(Resume { id, mode, have, turn });
        let have = (!self.begins_anywhere).then(|| self.outputs.each_ref().map(Arrivals::have));
        let frame = match &mut self.ask {
            Ask::Resume(mode) => resume(*mode, have),
            // It may have been started at the other one.
            Ask::Start(_, Some(asked)) if *asked != instance => resume(Mode::Take, have),
            Ask::Start(start, asked) => {
                *asked = Some(instance);
                start.instance = instance;
                Frame::Start(start.clone())
            }
        };
        link.send(&frame);
    }

    fn up(&mut self, now: Time, up: Connected, stdin: u64) -> Result<(), Loss> {
        let fault = |what: &'static str| Loss::new(Cause::Fault, what);
        if !matches!(self.phase, Phase::Greeting(..)) {
            return Err(fault("a second state"));
        }
        if up.started && self.was_up {
            return Err(fault("the command was started again"));
        }
        self.has_terminal = up.wants.tty;
        let begins_anywhere = core::mem::take(&mut self.begins_anywhere);
        for (ours, theirs) in self.outputs.iter_mut().zip(up.outputs) {
            if begins_anywhere {
                ours.begin_at(theirs);
            } else if ours.have() != theirs {
                return Err(fault("an output goes on elsewhere"));
            }
            ours.reconnected();
        }
        let looks = self.looks();
        if looks {
            // Another client sends it, and may have sent more since.
            (self.stdin, self.sent) = (Replay::new(), Cursor::default());
            self.stdin.begin_at(stdin);
        } else if !self.was_up {
            self.stdin.begin_at(stdin);
        }
        if stdin < self.stdin.start()
            || (up.stdin_over && !self.stdin.is_over() && self.was_up && !looks)
        {
            return Err(fault("input goes on elsewhere"));
        }
        if up.stdin_over {
            self.stdin.finish();
        }
        let have = stdin.saturating_add(u64::from(up.stdin_over));
        self.sent = self.stdin.cursor(have, self.sent.acknowledged()).map_err(fault)?;
        if let Ask::Start(..) = self.ask {
            self.ask = Ask::Resume(Mode::Take);
        }
        let Phase::Greeting(link, _) = core::mem::replace(&mut self.phase, Phase::Over) else {
            return Ok(());
        };
        self.phase = Phase::Up(link);
        let away = self.was_up.then(|| now.since(self.since));
        (self.was_up, self.wait, self.size_sent) = (true, KEPT_RETRY_FIRST, false);
        self.redraw = Redraw::None;
        self.events.push_back(Event::Up(Connected { away, ..up }));
        Ok(())
    }

    fn refused(&mut self, now: Time, refusal: Refused) {
        let comes_again = match refusal.code {
            // Which one it is, the next connection tells. An earlier request may have been carried
            // out by the one that was asked, so no other is asked to start it.
            refused::OTHER_HOST | refused::HOST_ENDS => true,
            // Others look at it, and go again.
            refused::TOO_MANY => self.was_up,
            _ => false,
        };
        if comes_again {
            return self.down(now, Loss::new(Cause::Closed, refusal.text));
        }
        let asked_elsewhere = matches!(self.ask, Ask::Start(_, Some(_)));
        let lost =
            |what: &str| Event::Lost(Loss::new(Cause::Closed, format!("{what}: {}", refusal.text)));
        match refusal.code {
            refused::UNKNOWN if self.was_up => self.over(lost("the session is gone")),
            refused::UNKNOWN if asked_elsewhere => {
                self.over(lost("the host that was asked to start it is gone"));
            }
            refused::TAKEN_OVER => self.over(Event::Refused(refusal)),
            // Nothing is known of what has begun.
            _ if self.was_up => self.over(lost("the session is refused")),
            _ => self.over(Event::Refused(refusal)),
        }
    }

    fn outcome(
        &mut self,
        end: Result<Bytes, alloc::string::String>,
        totals: [Total; 2],
    ) -> Result<(), Loss> {
        if !self.outputs.iter().zip(totals).all(|(output, total)| output.agrees(total)) {
            let loss = Loss::new(Cause::Fault, "the output is not what the host has sent");
            self.over(Event::Lost(loss));
            return Ok(());
        }
        if let Phase::Up(link) = &mut self.phase {
            link.send(&Frame::Received);
        }
        let last = match end.map(Status::parse) {
            Ok(Ok(status)) => Event::Ended(status),
            Ok(Err(bad)) => Event::Lost(Loss::new(Cause::BadStatus, format!("{bad}"))),
            Err(why) => Event::Lost(Loss::new(Cause::Closed, why)),
        };
        self.over(last);
        Ok(())
    }

    /// Queues what can be sent.
    fn flush(&mut self, now: Time) {
        let Phase::Up(link) = &mut self.phase else { return };
        if let Some(size) = self.size
            && !core::mem::replace(&mut self.size_sent, true)
        {
            link.send(&Frame::Resize(size));
        }
        if let Some(size) = self.size.filter(|size| size.height > 0) {
            match self.redraw {
                Redraw::Wanted if link.has_room() => {
                    let height = if size.height > 1 { size.height - 1 } else { 2 };
                    link.send(&Frame::Resize(Size { height, ..size }));
                    self.redraw = Redraw::Until(now + KEPT_REDRAW_WITHIN);
                }
                Redraw::Until(until) if now >= until => {
                    link.send(&Frame::Resize(size));
                    self.redraw = Redraw::None;
                }
                _ => {}
            }
        }
        for (output, stream) in self.outputs.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            if let Some(ack) = output.acknowledge(now, stream) {
                link.send(&ack);
            }
        }
        while link.has_room()
            && let Some(frame) = self.stdin.next(&mut self.sent, Stream::Stdin, link.window())
        {
            link.send(&frame);
        }
    }

    /// Waits for the answer to a goodbye. Any other end of the connection says nothing of it.
    fn read_answer(&mut self) {
        let Phase::Leaving(link) = &mut self.phase else { return };
        let is_over = loop {
            match link.next() {
                Ok(None) => break false,
                Ok(Some(Frame::Left)) => {
                    self.has_left = true;
                    break true;
                }
                Ok(Some(Frame::Refused(_))) | Err(_) => break true,
                Ok(Some(_)) => {}
            }
        };
        if is_over && let Phase::Leaving(link) = core::mem::replace(&mut self.phase, Phase::Over) {
            self.close(link);
        }
    }

    /// Reads what came on the connection. What is wrong with it is its end.
    fn read(&mut self, now: Time) {
        self.read_answer();
        while self.events.is_empty() {
            let (Phase::Up(link) | Phase::Greeting(link, _)) = &mut self.phase else { return };
            let read = link.next();
            match read {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    if let Err(loss) = self.frame(now, frame) {
                        // The same would come again.
                        return self.over(Event::Lost(loss));
                    }
                }
                Err(loss) if loss.cause == Cause::Fault && self.was_up => {
                    return self.over(Event::Lost(loss));
                }
                Err(loss) => return self.down(now, loss),
            }
        }
    }

    /// What is due; the next deadline.
    fn due(&mut self, now: Time) -> Option<Time> {
        let is_given_up = self.is_given_up(now);
        match &mut self.phase {
            Phase::Away(_) | Phase::Connecting if is_given_up => {
                let tried = self.give_up_after.as_secs();
                let mut detail = format!("no connection could be made for {tried} s");
                if !self.why_none.is_empty() {
                    detail = format!("{detail}: {}", self.why_none);
                }
                self.over(Event::Lost(Loss::new(Cause::Cut, detail)));
                None
            }
            Phase::Away(next) if now >= *next => {
                self.phase = Phase::Connecting;
                self.events.push_back(Event::Connect);
                None
            }
            Phase::Away(next) => Some(*next),
            Phase::Connecting => Some(self.since + self.give_up_after),
            Phase::Greeting(_, until) if now >= *until => {
                self.down(now, Loss::new(Cause::Silent, "the host did not answer"));
                None
            }
            Phase::Greeting(_, until) => Some(*until),
            Phase::Up(link) => match link.beat(now) {
                Ok(next) => {
                    let due = self.outputs.iter().filter_map(Arrivals::deadline).min();
                    let redraw = match self.redraw {
                        Redraw::Until(until) => Some(until),
                        _ => None,
                    };
                    earlier(earlier(Some(next), due), redraw)
                }
                Err(loss) => {
                    self.down(now, loss);
                    None
                }
            },
            Phase::Leaving(_) | Phase::Over => None,
        }
    }

    /// As [`receive`](Machine::receive), for bytes that came in something else and have other
    /// owners.
    pub(super) fn receive_shared(&mut self, now: Time, input: Bytes) {
        if let Phase::Up(link) | Phase::Greeting(link, _) | Phase::Leaving(link) = &mut self.phase {
            link.receive(now, input);
        }
    }

    fn is_given_up(&self, now: Time) -> bool {
        now.since(self.since) >= self.give_up_after && now > self.since
    }
}

impl Machine for Client {
    type Event = Event;

    fn receive(&mut self, now: Time, input: BytesMut) {
        self.receive_shared(now, input.freeze());
    }

    fn receive_end(&mut self, _now: Time) {
        if let Phase::Up(link) | Phase::Greeting(link, _) | Phase::Leaving(link) = &mut self.phase {
            link.receive_end();
        }
    }

    fn poll(&mut self, now: Time) -> Next<Event> {
        self.read(now);
        // What is sent now is not due any more.
        self.flush(now);
        let deadline = if self.events.is_empty() { self.due(now) } else { None };
        match self.events.pop_front() {
            Some(event) => Next::Event(event),
            None if matches!(self.phase, Phase::Over) => Next::Done,
            None => Next::Idle(deadline),
        }
    }

    fn outbox(&mut self) -> &mut Outbox {
        match &mut self.phase {
            Phase::Up(link) | Phase::Greeting(link, _) | Phase::Leaving(link) => &mut link.outbox,
            _ => &mut self.empty,
        }
    }

    fn wants_read(&self) -> bool {
        self.has_connection()
    }
}
