//! A host with its one session: who is connected to it, and the process.

use bowline_proto::kept::{
    Asked, Bounds, Greeting, Host, HostEvent, Instance, Mode, Start, Stream, refused,
};
use bowline_proto::limits::{KEPT_OUTBOX_BYTES, KEPT_PIECE_BYTES, REASON_BYTES};
use bowline_proto::session::Status;
use bowline_proto::time::earlier;
use bowline_proto::{Machine, Next, Outbox, Time};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::process::{Process, byte};
use super::records::Records;
use super::scenario::{LONGEST, Scenario, Wire};
use super::shows_id;
use super::user::User;
use super::wire::{Came, Lane};
use crate::promises::Promise;

/// What may wait for a connection at most: bulk data, a piece of it, and what is small.
pub(super) const OUTBOX_BYTES: usize = KEPT_OUTBOX_BYTES + 2 * KEPT_PIECE_BYTES + 4 * REASON_BYTES;

/// A connection between a user's client and a host.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) user: usize,
    pub(super) host: usize,
    pub(super) up: Lane,
    pub(super) down: Lane,
    /// The client gives it up once it has sent so many pieces more; 0 for as long as it holds.
    pub(super) breaks_after: u8,
    seated: Seated,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few")]
enum Seated {
    /// One who has not asked yet, or was refused, and whether that was told.
    Greeting(Greeting, bool),
    /// A seat, and whether the host is done with it.
    Seat(u32, bool),
    Gone,
}

/// A host, and what runs there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) instance: Instance,
    pub(super) lives: bool,
    pub(super) session: Option<Session>,
    pub(super) deadline: Option<Time>,
    /// Users that came before there was a session.
    pub(super) early: Vec<usize>,
}

/// A session at its host.
#[derive(Debug)]
pub(super) struct Session {
    host: Host,
    pub(super) process: Process,
    /// Whose input it takes, and how much it has of each user.
    taker: usize,
    input: Vec<u64>,
}

impl Link {
    pub(super) fn new(now: Time, user: usize, host: usize, instance: Instance) -> Link {
        let seated = Seated::Greeting(Greeting::new(now, instance), false);
        let (up, down) = (Lane::default(), Lane::default());
        Link { user, host, up, down, breaks_after: 0, seated }
    }

    fn seat(&self) -> Option<u32> {
        match self.seated {
            Seated::Seat(seat, _) => Some(seat),
            _ => None,
        }
    }

    /// The host is gone.
    pub(super) fn forsake(&mut self, pieces: usize) {
        self.seated = Seated::Gone;
        self.up.lose_all();
        self.down.cut(pieces);
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.seated, Seated::Gone) && self.down.deadline(None).is_none()
    }
}

impl Place {
    pub(super) fn new(instance: Instance) -> Place {
        Place { instance, lives: true, session: None, deadline: None, early: Vec::new() }
    }

    /// Takes what has come over a connection; whether anything has.
    pub(super) fn receive(&mut self, now: Time, link: &mut Link, most: usize, rough: bool) -> bool {
        let Some(came) = link.up.take(now, most) else { return false };
        match (&mut link.seated, came) {
            (Seated::Gone, _) => {}
            (Seated::Greeting(greeting, _), Came::Bytes(bytes)) => greeting.receive(now, bytes),
            (Seated::Greeting(greeting, _), Came::End) => greeting.receive_end(now),
            (Seated::Seat(seat, _), Came::Bytes(bytes)) => {
                if let Some(session) = &mut self.session {
                    session.host.receive(now, *seat, bytes);
                }
            }
            (Seated::Seat(seat, is_over), Came::End) => {
                if let Some(session) = &mut self.session {
                    if rough || *is_over {
                        session.host.remove(now, *seat);
                        link.forsake(usize::MAX);
                    } else {
                        session.host.receive_end(*seat);
                    }
                }
            }
        }
        true
    }

    /// Gives a connection what the host has to say on it; whether anything.
    pub(super) fn send(&mut self, now: Time, link: &mut Link, wire: Wire, most: usize) -> bool {
        let mut none = Outbox::new();
        let (outbox, is_over) = match &mut link.seated {
            Seated::Greeting(greeting, is_over) => (greeting.outbox(), *is_over),
            Seated::Seat(seat, is_over) => {
                let host = self.session.as_mut().map(|session| &mut session.host);
                (host.and_then(|host| host.outbox(*seat)).unwrap_or(&mut none), *is_over)
            }
            Seated::Gone => return false,
        };
        let moved = link.down.fill(now, outbox, wire, most);
        // Its last word is said.
        if !is_over || !outbox.is_empty() {
            return moved;
        }
        if let (Seated::Seat(seat, _), Some(session)) = (&link.seated, &mut self.session) {
            session.host.remove(now, *seat);
        }
        link.forsake(usize::MAX);
        true
    }

    /// Answers those that have just come; whether there were any.
    pub(super) fn greet(
        &mut self,
        now: Time,
        link: &mut Link,
        scenario: &Scenario,
        starts: &mut u32,
        records: &mut Records,
    ) -> bool {
        let Seated::Greeting(greeting, is_over) = &mut link.seated else { return false };
        if shows_id(&format!("{greeting:?}")) {
            records.broke(Promise::Secret, "one who greets shows it".into());
        }
        let asked = match greeting.poll(now) {
            Next::Event(asked) => asked,
            Next::Idle(until) => {
                self.deadline = earlier(self.deadline, until);
                return false;
            }
            Next::Done => return !std::mem::replace(is_over, true),
        };
        let (mode, have, started) = match &asked {
            Asked::Start(start) if self.session.is_none() => {
                *starts += 1;
                self.session = Some(Session::new(now, start.clone(), scenario));
                (Mode::Take, Some([0; 2]), true)
            }
            Asked::Start(_) => (Mode::Take, Some([0; 2]), false),
            Asked::Resume(resume) => (resume.mode, resume.have, false),
            Asked::List | Asked::Nothing(_) => return true,
        };
        records.note(now, format_args!("host: user {} asks {}", link.user, words(&asked)));
        let Some(session) = &mut self.session else {
            if *starts == 0 {
                self.early.push(link.user);
            }
            greeting.refuse(refused::UNKNOWN, "there is no such session");
            return true;
        };
        let Seated::Greeting(greeting, _) = std::mem::replace(&mut link.seated, Seated::Gone)
        else {
            return true;
        };
        link.seated = match session.host.join(greeting, mode, have, started) {
            Ok(seat) => {
                if mode == Mode::Take {
                    session.taker = link.user;
                }
                Seated::Seat(seat, false)
            }
            Err(greeting) => Seated::Greeting(*greeting, false),
        };
        true
    }

    /// Polls the session; whether something happened.
    pub(super) fn poll(
        &mut self,
        now: Time,
        links: &mut [Option<Link>],
        users: &[User],
        records: &mut Records,
    ) -> bool {
        let Some(session) = &mut self.session else { return false };
        let mut moved = false;
        loop {
            match session.host.poll(now) {
                Next::Idle(deadline) => {
                    self.deadline = earlier(self.deadline, deadline);
                    return moved;
                }
                Next::Done => {
                    records.note(now, format_args!("host: forgets the session"));
                    if session.process.exit.is_none() {
                        let how = "a session with its process is forgotten".into();
                        records.broke(Promise::NothingHeld, how);
                    }
                    self.session = None;
                    return true;
                }
                Next::Event(HostEvent::Left(number, loss)) => {
                    records.note(now, format_args!("host: seat {number} is over: {loss}"));
                    let is_it = |link: &&mut Link| link.seat() == Some(number);
                    if let Some(link) = links.iter_mut().flatten().find(is_it) {
                        link.seated = Seated::Seat(number, true);
                    }
                }
                Next::Event(event) => session.hear(now, event, users, records),
            }
            moved = true;
        }
    }

    /// Checks what waits.
    pub(super) fn check(&mut self, link: &Link, records: &mut Records) {
        let Seated::Seat(seat, _) = link.seated else { return };
        let Some(session) = &mut self.session else { return };
        let waits = session.host.outbox(seat).map_or(0, |outbox| outbox.len());
        if waits > OUTBOX_BYTES {
            records.broke(Promise::Bounded, format!("{waits} bytes wait at seat {seat}"));
        }
    }
}

impl Session {
    fn new(now: Time, start: Start, scenario: &Scenario) -> Session {
        let replay_bytes = scenario.replay_bytes;
        let host = Host::new(now, start, Bounds { replay_bytes, longest: LONGEST });
        Session { host, process: Process::new(scenario), taker: 0, input: Vec::new() }
    }

    fn hear(&mut self, now: Time, event: HostEvent, users: &[User], records: &mut Records) {
        self.input.resize(users.len(), 0);
        match event {
            HostEvent::Stdin(bytes) => {
                let (user, at) = (&users[self.taker], &mut self.input[self.taker]);
                records.note(
                    now,
                    format_args!("process: {} bytes of user {}", bytes.len(), user.number),
                );
                let is_right =
                    (*at..).zip(&bytes).all(|(at, byte_)| *byte_ == byte(user.whose(), at));
                *at += bytes.len() as u64;
                if !is_right || *at > user.typed || self.process.input_over {
                    let how = format!("input is not what user {} has typed, near {at}", self.taker);
                    records.broke(Promise::OnceAndInOrder, how);
                }
                self.process.input += bytes.len();
            }
            HostEvent::StdinEnd => {
                records.note(now, format_args!("process: the end of its input"));
                let (user, at) = (&users[self.taker], self.input[self.taker]);
                if self.process.input_over || !user.finished || at != user.typed {
                    let how = format!("input ends at {at} of {}", user.typed);
                    records.broke(Promise::LanesApart, how);
                }
                self.process.input_over = true;
            }
            HostEvent::HangUp => {
                records.note(now, format_args!("process: hung up"));
                self.process.hang_up();
            }
            HostEvent::Resize(_) | HostEvent::Left(..) => {}
        }
    }

    /// The process goes on, and the host reads what it writes; whether anything happened.
    pub(super) fn live(&mut self, now: Time, chance: &mut ChaCha8Rng) -> bool {
        let mut took = 0;
        let mut moved = self.process.go_on(now, &mut took);
        if self.process.exit.is_some() {
            // Nobody will read the rest.
            took += std::mem::take(&mut self.process.input);
        }
        if took > 0 {
            self.host.took(now, took);
        }
        for (at, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            if self.process.has_output(stream) && self.host.has_room(stream) {
                let most = chance.random_range(1..65_536);
                self.host.output(stream, self.process.output(stream, most));
                moved = true;
            }
            if self.process.is_over(stream) && !std::mem::replace(&mut self.process.told[at], true)
            {
                self.host.finish(stream);
                moved = true;
            }
        }
        if let (Some(code), [true, true]) = (self.process.exit, self.process.told)
            && !self.host.has_ended()
        {
            self.host.ended(now, Ok(Status::exited(code, "exit").json().clone()));
            moved = true;
        }
        moved
    }

    pub(super) fn shows_id(&self) -> bool {
        shows_id(&format!("{:?}", self.host))
    }
}

fn words(asked: &Asked) -> String {
    match asked {
        Asked::Start(_) => "to start".into(),
        Asked::Resume(resume) => format!("to go on: {:?}, {:?}", resume.mode, resume.have),
        asked => format!("{asked:?}"),
    }
}
