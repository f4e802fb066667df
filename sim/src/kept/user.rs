//! A client with who uses it: what it types, what it has got, and what of that it has written.

use std::collections::VecDeque;

use bowline_proto::kept::{Client, ClientEvent, Connected, Mode, Stream};
use bowline_proto::session::{Outcome, Status};
use bowline_proto::{Machine, Next, Time};

use super::process::{byte, bytes, lane, whose};
use super::records::Records;
use crate::promises::Promise;

/// How somebody's part in it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Ended(Status),
    Refused(u64),
    Lost,
    /// Killed, or left.
    Gone,
}

/// One output as a user has it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Where the next byte belongs.
    pub(super) at: u64,
    /// Bytes that wait to be written, and where each of them begin.
    waiting: VecDeque<(u64, u64)>,
    pub(super) is_over: bool,
}

impl Seen {
    /// Writes some of what waits; how much.
    fn write(&mut self, most: usize) -> usize {
        let Some((from, length)) = self.waiting.front_mut() else { return 0 };
        let wrote = (*length).min(most as u64);
        (*from, *length) = (*from + wrote, *length - wrote);
        if *length == 0 {
            self.waiting.pop_front();
        }
        usize::try_from(wrote).unwrap_or(0)
    }

    /// Up to where it was written.
    pub(super) fn written(&self) -> u64 {
        self.waiting.front().map_or(self.at, |(from, _)| *from)
    }
}

/// What has to be known of the others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Others {
    /// How much the process has written of each output.
    pub(super) read: [u64; 2],
    /// How much of each output was written by anybody who had the session.
    pub(super) written: [u64; 2],
    pub(super) tty: bool,
    pub(super) starts: u32,
    pub(super) exit: Option<u8>,
}

/// A client and its user.
#[derive(Debug)]
pub(super) struct User {
    pub(super) number: usize,
    pub(super) mode: Mode,
    pub(super) client: Client,
    pub(super) lanes: [Seen; 2],
    /// Where it said that it begins.
    pub(super) have: Option<[u64; 2]>,
    pub(super) was_up: bool,
    /// How much it types, has typed, and whether that was all.
    types: u64,
    pub(super) typed: u64,
    pub(super) finished: bool,
    pub(super) pauses_until: Time,
    /// What it has read since its last pause.
    read: usize,
    /// It makes a connection until then.
    pub(super) connects_at: Option<Time>,
    pub(super) link: Option<usize>,
    pub(super) last: Option<Last>,
    pub(super) deadline: Option<Time>,
}

impl User {
    pub(super) fn new(number: usize, mode: Mode, client: Client, types: usize) -> User {
        User {
            number,
            mode,
            client,
            lanes: [Seen::default(), Seen::default()],
            have: Some([0; 2]),
            was_up: false,
            types: types as u64,
            typed: 0,
            finished: false,
            pauses_until: Time::ZERO,
            read: 0,
            connects_at: None,
            link: None,
            last: None,
            deadline: None,
        }
    }

    /// It begins behind these bytes, which it has from others.
    pub(super) fn begin_at(&mut self, have: Option<[u64; 2]>) {
        self.have = have;
        for (seen, have) in self.lanes.iter_mut().zip(have.unwrap_or_default()) {
            seen.at = have;
        }
    }

    pub(super) fn takes(&self) -> bool {
        self.mode == Mode::Take
    }

    /// Polls the client; whether something happened.
    pub(super) fn poll(&mut self, now: Time, others: Others, records: &mut Records) -> bool {
        let mut moved = false;
        loop {
            let event = match self.client.poll(now) {
                Next::Idle(deadline) => {
                    self.deadline = deadline;
                    return moved;
                }
                Next::Done => {
                    self.deadline = None;
                    return moved;
                }
                Next::Event(event) => event,
            };
            moved = true;
            if self.last.is_some() {
                records.broke(Promise::TrueOutcome, format!("behind the last event: {event:?}"));
                return true;
            }
            records.note(now, format_args!("user {}: {}", self.number, brief(&event)));
            self.hear(now, event, others, records);
        }
    }

    fn hear(&mut self, now: Time, event: ClientEvent, others: Others, records: &mut Records) {
        match event {
            ClientEvent::Connect => self.connects_at = Some(now),
            ClientEvent::Up(up) => self.up(up, others, records),
            ClientEvent::Data(stream, bytes) => self.data(stream, &bytes, others, records),
            ClientEvent::Gap(gap) => self.gap(gap.stream, gap.bytes, others, records),
            ClientEvent::Screen(_) if others.tty => {}
            ClientEvent::Screen(_) => {
                records.broke(Promise::OnceAndInOrder, "a screen without a terminal".into());
            }
            ClientEvent::Eof(stream) => {
                let seen = &mut self.lanes[lane(stream)];
                seen.is_over = true;
                if seen.at != others.read[lane(stream)] {
                    let how = format!("the end of {stream:?} at {}, of {:?}", seen.at, others.read);
                    records.broke(Promise::OnceAndInOrder, how);
                }
            }
            ClientEvent::Down(_) => self.link = None,
            ClientEvent::Ended(status) => {
                self.ended(&status, others, records);
                self.last = Some(Last::Ended(status));
            }
            ClientEvent::Refused(refused) => self.last = Some(Last::Refused(refused.code)),
            ClientEvent::Lost(_) => self.last = Some(Last::Lost),
        }
    }

    fn up(&mut self, up: Connected, others: Others, records: &mut Records) {
        if up.started && (others.starts != 1 || self.was_up) {
            records.broke(Promise::OneStart, format!("{up:?}, {} starts", others.starts));
        }
        for (at, seen) in self.lanes.iter_mut().enumerate() {
            let begins = up.outputs[at];
            if self.was_up || self.have.is_some() {
                if begins != seen.at + u64::from(seen.is_over) {
                    let how = format!("goes on at {begins}, behind {}", seen.at);
                    records.broke(Promise::OnceAndInOrder, how);
                }
                continue;
            }
            // What was acknowledged is there.
            if begins > others.written[at] {
                let how = format!("begins at {begins}, written were {:?}", others.written);
                records.broke(Promise::OnceAndInOrder, how);
            }
            seen.at = begins;
        }
        self.was_up = true;
    }

    /// Without a terminal, only what was acknowledged is forgotten: by whoever had the session
    /// before, so that it is missed at the beginning alone, or by whoever has it.
    fn gap(&mut self, stream: Stream, bytes: u64, others: Others, records: &mut Records) {
        let (at, seen) = (lane(stream), &mut self.lanes[lane(stream)]);
        let is_first = self.have.is_some_and(|have| have[at] == seen.at);
        seen.at += bytes;
        let is_had = seen.at <= others.written[at] && (is_first || self.mode == Mode::Look);
        if !others.tty && !is_had {
            let how = format!("a gap up to {} of {stream:?}, which nobody has", seen.at);
            records.broke(Promise::OnceAndInOrder, how);
        }
    }

    fn data(&mut self, stream: Stream, data: &[u8], others: Others, records: &mut Records) {
        let seen = &mut self.lanes[lane(stream)];
        let is_right =
            (seen.at..).zip(data).all(|(offset, byte_)| *byte_ == byte(whose(stream), offset));
        if !is_right || data.is_empty() || seen.is_over {
            let how = format!("what came at {} of {stream:?} belongs elsewhere", seen.at);
            records.broke(Promise::OnceAndInOrder, how);
        }
        seen.waiting.push_back((seen.at, data.len() as u64));
        seen.at += data.len() as u64;
        if seen.at > others.read[lane(stream)] {
            records.broke(Promise::OnceAndInOrder, format!("{stream:?} has more than there was"));
        }
    }

    fn ended(&self, status: &Status, others: Others, records: &mut Records) {
        let is_true = match (others.exit, status.outcome()) {
            (Some(0), Outcome::Success) => true,
            (Some(code), Outcome::Exited(said)) => code == *said,
            _ => false,
        };
        if !is_true {
            let how = format!("{:?} is said, {:?} it was", status.outcome(), others.exit);
            records.broke(Promise::TrueOutcome, how);
        }
        if !self.lanes.iter().zip(others.read).all(|(seen, read)| seen.is_over && seen.at == read) {
            let how = format!("ended with {:?} of {:?}", self.lanes, others.read);
            records.broke(Promise::TrueOutcome, how);
        }
    }

    /// Types and reads; whether anything.
    pub(super) fn live(
        &mut self,
        now: Time,
        piece: usize,
        reads: (usize, std::time::Duration),
    ) -> bool {
        if self.last.as_ref().is_some_and(|last| *last == Last::Gone) {
            return false;
        }
        let mut moved = self.type_some(piece);
        if now < self.pauses_until {
            return moved;
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            let wrote = self.lanes[lane(stream)].write(reads.0 - self.read);
            if wrote > 0 {
                self.client.took(now, stream, wrote);
                (self.read, moved) = (self.read + wrote, true);
            }
            if self.read == reads.0 {
                (self.read, self.pauses_until) = (0, now + reads.1);
                break;
            }
        }
        moved
    }

    fn type_some(&mut self, piece: usize) -> bool {
        if !self.takes() || !self.client.has_room() || self.finished || self.last.is_some() {
            return false;
        }
        let more = usize::try_from(self.types - self.typed).unwrap_or(0).min(piece);
        if more > 0 {
            self.client.send(bytes(self.whose(), self.typed, more));
            self.typed += more as u64;
        } else {
            self.client.finish();
            self.finished = true;
        }
        true
    }

    /// Whether something waits to be written.
    pub(super) fn is_reading(&self) -> bool {
        self.lanes.iter().any(|seen| !seen.waiting.is_empty())
    }

    /// Its input as one of [`byte`].
    pub(super) fn whose(&self) -> u64 {
        self.number as u64 + 3
    }
}

/// An event without its bytes.
fn brief(event: &ClientEvent) -> String {
    match event {
        ClientEvent::Data(stream, bytes) => format!("{} bytes of {stream:?}", bytes.len()),
        event => format!("{event:?}"),
    }
}
