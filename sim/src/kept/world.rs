//! All of it together, step by step, and what happens to it.

use std::time::Duration;

use bowline_proto::kept::{Client, Id, Instance, Mode, Retry, Start, refused};
use bowline_proto::session::{Size, Wants};
use bowline_proto::time::earlier;
use bowline_proto::{Machine, Time};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::host::{Link, OUTBOX_BYTES, Place};
use super::records::Records;
use super::scenario::{Have, Scenario, Turn, When};
use super::user::{Last, Others, User};
use super::wire::Came;
use super::{ID, shows_id};
use crate::promises::Promise;

/// No session here takes longer, in virtual time,
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// or more steps of the world.
const ROUNDS: u64 = 400_000;

/// Somebody who is about to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Time,
    pub(super) mode: Mode,
    pub(super) have: Have,
}

/// All that takes part.
pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) now: Time,
    pub(super) chance: ChaCha8Rng,
    pub(super) records: Records,
    pub(super) places: Vec<Place>,
    pub(super) links: Vec<Option<Link>>,
    pub(super) users: Vec<User>,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) turns: Vec<(When, Turn)>,
    /// No connection can be made until then.
    pub(super) outage: Time,
    starts: u32,
    /// What the process has written, and how it ended.
    others: Others,
    results: u8,
    /// Two clients have started it.
    pub(super) is_twice: bool,
    rounds: u64,
}

/// Plays a scenario to its end.
pub(super) fn play(scenario: &Scenario, keeps_lines: bool) -> Records {
    let mut world = World::new(scenario, keeps_lines);
    while world.records.broken.is_none() && world.round() {}
    if world.records.broken.is_none() {
        world.look_back();
    }
    let steps = world.rounds;
    world.records.note(world.now, format_args!("the end, after {steps} rounds"));
    world.records
}

impl World<'_> {
    fn new(scenario: &Scenario, keeps_lines: bool) -> World<'_> {
        let mut world = World {
            scenario,
            now: Time::ZERO,
            chance: ChaCha8Rng::seed_from_u64(scenario.seed),
            records: Records::new(keeps_lines),
            places: vec![Place::new(Instance([1; 16]))],
            links: Vec::new(),
            users: Vec::new(),
            arrivals: Vec::new(),
            turns: scenario.turns.clone(),
            outage: Time::ZERO,
            starts: 0,
            others: Others { tty: scenario.tty, ..Others::default() },
            results: scenario.results,
            is_twice: false,
            rounds: 0,
        };
        world.start();
        world
    }

    fn retry(&self) -> Retry {
        let give_up_after = Duration::from_secs(self.scenario.keep_for.max(1));
        Retry { give_up_after, seed: [self.users.len() as u8; 32] }
    }

    /// A client with the one start that there is.
    pub(super) fn start(&mut self) {
        let tty = self.scenario.tty;
        let start = Start {
            id: Id(ID),
            instance: Instance([0; 16]),
            wants: Wants { stdin: true, stdout: true, stderr: !tty, tty },
            keep_for: self.scenario.keep_for,
            size: tty.then_some(Size { width: 80, height: 24 }),
            command: vec!["job".into()],
            env: Vec::new(),
        };
        let client = Client::start(self.now, start, self.retry());
        self.add(Mode::Take, client);
    }

    fn add(&mut self, mode: Mode, client: Client) {
        if shows_id(&format!("{client:?}")) {
            self.records.broke(Promise::Secret, "a client shows it".into());
        }
        let number = self.users.len();
        let types = self.scenario.typed[number.min(1)];
        self.users.push(User::new(number, mode, client, types));
    }

    /// Somebody with the id alone.
    pub(super) fn resume(&mut self, mode: Mode, have: Have) {
        let have = match have {
            Have::Written => Some(self.written()),
            Have::Acknowledged => None,
            Have::Nothing => Some([0; 2]),
        };
        self.note(format_args!("user {} comes: {mode:?}, {have:?}", self.users.len()));
        let client = Client::resume(self.now, Id(ID), mode, have, self.retry());
        self.add(mode, client);
        if let Some(user) = self.users.last_mut() {
            user.begin_at(have);
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.records.note(self.now, what);
    }

    /// How much of each output was written by those that had the session.
    fn written(&self) -> [u64; 2] {
        let takers = || self.users.iter().filter(|user| user.takes());
        [0, 1].map(|at| takers().map(|user| user.lanes[at].written()).max().unwrap_or(0))
    }

    /// Something happens, or time goes on; whether there is more.
    fn round(&mut self) -> bool {
        self.rounds += 1;
        if self.rounds > ROUNDS || self.now.since(Time::ZERO) > PATIENCE {
            let how = format!("no end after {} rounds, {:?}", self.rounds, self.now);
            self.records.broke(Promise::FoundInTime, how);
            return false;
        }
        self.happen();
        let some = self.chance.random_range(0..32_u8);
        if self.go_on(some) || self.go_on(u8::MAX) {
            return true;
        }
        self.wait()
    }

    /// Those parts go on whose bits are set; whether anything happened.
    fn go_on(&mut self, parts: u8) -> bool {
        let mut moved = false;
        for part in 0..5 {
            if parts & 1 << part != 0 {
                moved |= match part {
                    0 => self.poll_users(),
                    1 => self.poll_hosts(),
                    2 => self.carry(),
                    3 => self.live(),
                    _ => self.connect(),
                };
            }
        }
        moved
    }

    fn poll_users(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.users.len() {
            self.others.written = self.written();
            self.others.starts = self.starts;
            let (link, user) = (self.users[at].link, &mut self.users[at]);
            if user.last == Some(Last::Gone) {
                continue;
            }
            let was_up = user.was_up;
            moved |= user.poll(self.now, self.others, &mut self.records);
            if user.client.outbox().len() > OUTBOX_BYTES {
                self.records.broke(Promise::Bounded, "a client's outbox".into());
            }
            if user.was_up && !was_up && shows_id(&format!("{:?}", user.client)) {
                self.records.broke(Promise::Secret, "a client that is up shows it".into());
            }
            // It has dropped its connection.
            if let (Some(link), None) = (link, user.link) {
                self.abandon(link);
            }
        }
        moved
    }

    /// A client's end of a connection is dropped.
    pub(super) fn abandon(&mut self, link: usize) {
        if let Some(link) = &mut self.links[link] {
            link.down.lose_all();
            let pieces = self.chance.random_range(0..=link.up.pieces());
            link.up.cut(pieces);
        }
    }

    fn poll_hosts(&mut self) -> bool {
        let mut moved = false;
        for (at, place) in self.places.iter_mut().enumerate().filter(|(_, place)| place.lives) {
            place.deadline = None;
            let had_session = place.session.is_some();
            for link in self.links.iter_mut().flatten().filter(|link| link.host == at) {
                // What is left for the last client is taken before there is another.
                moved |=
                    place.greet(self.now, link, self.scenario, &mut self.starts, &mut self.records);
            }
            moved |= place.poll(self.now, &mut self.links, &self.users, &mut self.records);
            let is_new = !had_session && place.session.is_some();
            if is_new && place.session.as_ref().is_some_and(|session| session.shows_id()) {
                self.records.broke(Promise::Secret, "a host shows it".into());
            }
            for link in self.links.iter().flatten().filter(|link| link.host == at) {
                place.check(link, &mut self.records);
            }
        }
        if self.starts > 1 {
            self.records.broke(Promise::OneStart, format!("{} starts", self.starts));
        }
        moved
    }

    /// Bytes go their way.
    fn carry(&mut self) -> bool {
        let (mut moved, wire) = (false, self.scenario.wire);
        for at in 0..self.links.len() {
            let mut most = || self.chance.random_range(1..=wire.piece_bytes);
            let [up, down, sends, receives] = [most(), most(), most(), most()];
            let rough = self.chance.random_bool(0.3);
            let Some(link) = &mut self.links[at] else { continue };
            let place = &mut self.places[link.host];
            if place.lives {
                if place.receive(self.now, link, up, rough) {
                    // As it has to be after each input.
                    moved = true;
                    let (users, records) = (&self.users, &mut self.records);
                    place.poll(self.now, &mut self.links, users, records);
                }
                if let Some(link) = &mut self.links[at] {
                    moved |= place.send(self.now, link, wire, down);
                }
            }
            let Some(link) = &mut self.links[at] else { continue };
            let user = &mut self.users[link.user];
            let holds = user.link == Some(at);
            if holds && link.up.fill(self.now, user.client.outbox(), wire, sends) {
                moved = true;
                link.breaks_after = match link.breaks_after {
                    0 => 0,
                    1 => {
                        link.down.cut(0);
                        0
                    }
                    more => more - 1,
                };
            }
            match link.down.take(self.now, receives) {
                Some(Came::Bytes(bytes)) if holds => user.client.receive(self.now, bytes),
                Some(Came::End) if holds => user.client.receive_end(self.now),
                Some(_) => {}
                None => {
                    moved |= self.close(at);
                    continue;
                }
            }
            moved = true;
        }
        moved
    }

    /// A client that is done with its connection closes it behind its last words.
    fn close(&mut self, at: usize) -> bool {
        let Some(link) = &mut self.links[at] else { return false };
        let user = &mut self.users[link.user];
        let is_done = user.last.is_some() && user.link == Some(at);
        if is_done && user.client.outbox().is_empty() {
            link.up.end();
            link.down.lose_all();
            user.link = None;
            return true;
        }
        if link.is_over() {
            self.links[at] = None;
        }
        false
    }

    fn live(&mut self) -> bool {
        let mut moved = false;
        for user in &mut self.users {
            let piece = self.chance.random_range(1..20_000);
            moved |= user.live(self.now, piece, self.scenario.reads);
        }
        for place in self.places.iter_mut().filter(|place| place.lives) {
            let Some(session) = &mut place.session else { continue };
            moved |= session.live(self.now, &mut self.chance);
            (self.others.read, self.others.exit) = (session.process.read, session.process.exit);
        }
        moved
    }

    /// Connections are made that were asked for.
    fn connect(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.users.len() {
            let user = &mut self.users[at];
            let due =
                user.connects_at.is_some_and(|asked| self.now >= asked + self.scenario.wire.delay);
            if !due {
                continue;
            }
            (user.connects_at, moved) = (None, true);
            if self.now < self.outage {
                user.client.failed(self.now, "an outage");
                continue;
            }
            let alive: Vec<usize> =
                (0..self.places.len()).filter(|place| self.places[*place].lives).collect();
            let host = alive[self.chance.random_range(0..alive.len())];
            let link = Link::new(self.now, at, host, self.places[host].instance);
            user.client.connected(self.now);
            user.link = Some(self.links.len());
            self.links.push(Some(link));
        }
        moved
    }

    /// Time goes on to whatever is next; whether there is anything.
    fn wait(&mut self) -> bool {
        let mut next = None;
        for user in self.users.iter().filter(|user| user.last != Some(Last::Gone)) {
            next = earlier(next, user.deadline);
            let connects = user.connects_at.map(|asked| asked + self.scenario.wire.delay);
            next = earlier(next, connects);
            next = earlier(next, user.is_reading().then_some(user.pauses_until));
            if user.last.is_none() && user.deadline.is_none() {
                let how = format!("user {} waits without a deadline", user.number);
                self.records.broke(Promise::Awake, how);
            }
        }
        for place in self.places.iter().filter(|place| place.lives) {
            next = earlier(next, place.deadline);
            let process = place.session.as_ref().and_then(|session| session.process.deadline());
            next = earlier(next, process);
        }
        for link in self.links.iter().flatten() {
            next = link.up.deadline(link.down.deadline(next));
        }
        for arrival in &self.arrivals {
            next = earlier(next, Some(arrival.at));
        }
        if self.is_busy() {
            for (when, _) in &self.turns {
                if let When::At(after) = when {
                    next = earlier(next, Some(Time::ZERO + *after));
                }
            }
        }
        match next {
            Some(next) if next > self.now => {
                self.now = next;
                true
            }
            Some(_) => {
                let how = format!("a deadline that is past stays: {next:?}");
                self.records.broke(Promise::Awake, how);
                false
            }
            None => false,
        }
    }

    /// Whether somebody still wants something.
    fn is_busy(&self) -> bool {
        self.users.iter().any(|user| user.last.is_none()) || !self.arrivals.is_empty()
    }

    /// What is due happens.
    fn happen(&mut self) {
        let (now, steps, busy) = (self.now, self.records.steps, self.is_busy());
        let due = |(when, _): &mut (When, Turn)| match when {
            When::Step(step) => steps >= *step,
            When::At(after) => now >= Time::ZERO + *after,
        };
        let turns: Vec<(When, Turn)> = self.turns.extract_if(.., due).collect();
        for (_, turn) in turns.into_iter().filter(|_| busy) {
            self.note(format_args!("{turn:?}"));
            self.turn(turn);
        }
        let arrivals: Vec<Arrival> =
            self.arrivals.extract_if(.., |arrival| now >= arrival.at).collect();
        for Arrival { mode, have, .. } in arrivals {
            self.resume(mode, have);
        }
        // Somebody asks again how it ended.
        let has_ended = self.others.exit.is_some();
        if !busy && has_ended && self.results > 0 && self.arrivals.is_empty() {
            self.results -= 1;
            self.resume(Mode::Take, Have::Acknowledged);
        }
    }

    /// Nothing happens any more: nobody may still want something, and nothing may be held.
    fn look_back(&mut self) {
        if self.is_busy() {
            let how = "somebody waits, and nothing happens".into();
            self.records.broke(Promise::Awake, how);
        }
        if !self.scenario.is_kept() {
            return;
        }
        for user in &self.users {
            // Another one took it.
            let others = || self.users.iter().filter(|other| other.number != user.number);
            let is_beaten = others().any(|other| other.takes() && other.was_up);
            let is_good = match user.last {
                Some(Last::Ended(_) | Last::Gone) => true,
                Some(Last::Refused(refused::TAKEN_OVER)) => is_beaten,
                Some(Last::Refused(refused::UNKNOWN)) => {
                    self.places.iter().any(|place| place.early.contains(&user.number))
                }
                _ => false,
            };
            if !is_good {
                let how = format!("user {} ends with {:?}", user.number, user.last);
                self.records.broke(Promise::Delivered, how);
            }
        }
    }
}
