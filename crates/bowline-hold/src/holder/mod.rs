//! The holder of a directory: connections and commands, joined by sessions in one loop.
//!
//! All is nonblocking. Each turn of the loop watches what somebody wants to happen, tells each
//! owner what did, and lets it go on until nothing more does.

mod connection;
mod group;
mod process;
mod session;
mod spawn;
mod terminal;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use bowline_proto::kept::{Asked, Greeting, Id, Instance, Mode, refused};
use bowline_proto::machine::{Machine, Next};
use bowline_proto::time::{Time, earlier};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::directory::{Directory, Named};
use crate::error::HoldError;
use crate::handover;
use crate::settings::Settings;
use crate::system;
use crate::watched::{Moved, Watched};
use connection::Connection;
use session::{Outside, Session};

/// How many connections may be there that belong to no session yet.
const GUESTS: usize = 64;
/// How long a connection may take to give its ends, and to take a refusal.
const GUEST_PATIENCE: Duration = Duration::from_secs(30);
/// How long no connection is taken after that has failed: descriptors may have run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How many ids are remembered of sessions that are forgotten: a command whose start is asked for
/// again after that must not run again.
const GONE: usize = 4096;
/// How much is read at once.
const READ_BYTES: usize = 256 * 1024;

/// Is the holder: stdin is its listening socket.
///
/// # Errors
/// If the system refuses what a holder needs.
pub(crate) fn serve(path: &Path, settings: Settings) -> Result<(), HoldError> {
    let directory = Directory::open(path)?;
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let outside = Outside {
        working_dir: std::env::current_dir().unwrap_or_else(|_| "/".into()),
        descriptors: raise_limit(),
        umask,
        settings,
    };
    // It would be `exe`, and a list of processes is to say what it is.
    let _ = rustix::thread::set_name(c"bowline-hold");
    let _ = std::env::set_current_dir("/");
    let exits = system::child_exits().map_err(|error| HoldError::system("signals", error))?;
    let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|error| HoldError::system("stdin", error))?;
    Holder::new(listener, directory.named(), exits, outside)?.run(&directory)
}

/// Raises the limit of descriptors, and returns what it was.
fn raise_limit() -> Rlimit {
    let original = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: original.maximum, maximum: original.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
    original
}

/// A connection that belongs to no session.
#[derive(Debug)]
enum Guest {
    /// It has yet to give its ends, until then.
    Arriving(Watched, Time),
    /// It has yet to say what it wants, or to take its refusal.
    Greeting(Connection, Box<Greeting>, Time),
}

#[derive(Debug)]
struct Holder {
    instance: Instance,
    /// When the clock began.
    began: Timespec,
    listener: Watched,
    /// What had the listener's name in the beginning.
    named: Option<Named>,
    /// Readable once a child has ended.
    exits: Watched,
    outside: Outside,
    guests: Vec<Guest>,
    sessions: Vec<Session>,
    /// The ids of the last that are forgotten.
    gone: VecDeque<Id>,
    /// Until when no connection is taken.
    deaf_until: Option<Time>,
    /// Since when there is nothing.
    empty_since: Option<Time>,
}

impl Holder {
    fn new(
        listener: OwnedFd,
        named: Option<Named>,
        exits: OwnedFd,
        outside: Outside,
    ) -> Result<Holder, HoldError> {
        let mut instance = [0; 16];
        getrandom(&mut instance, GetRandomFlags::empty())
            .map_err(|error| HoldError::system("random numbers", error))?;
        let watched = |fd| Watched::new(fd).map_err(|error| HoldError::system("stdin", error));
        Ok(Holder {
            instance: Instance(instance),
            began: clock_gettime(ClockId::Monotonic),
            listener: watched(listener)?,
            named,
            exits: watched(exits)?,
            outside,
            guests: Vec::new(),
            sessions: Vec::new(),
            gone: VecDeque::new(),
            deaf_until: None,
            empty_since: None,
        })
    }

    fn now(&self) -> Time {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = |at: Timespec| at.tv_sec * 1_000_000 + at.tv_nsec / 1000;
        Time::from_micros(u64::try_from(micros(now) - micros(self.began)).unwrap_or(0))
    }

    fn run(mut self, directory: &Directory) -> Result<(), HoldError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let now = self.now();
            let deadline = self.turn(now, &mut buffer);
            if self.is_at_its_end(now) && self.leaves(directory)? {
                return Ok(());
            }
            self.wait(deadline)?;
        }
    }

    /// Lets all go on; when something is due next.
    fn turn(&mut self, now: Time, buffer: &mut [u8]) -> Option<Time> {
        if self.exits.is_readable() {
            while matches!(self.exits.read(now, buffer), Moved::Bytes(_)) {}
            self.sessions.iter_mut().for_each(Session::look_for_exit);
        }
        if self.listener.is_readable() {
            self.accept(now);
        }
        let mut deadline = self.receive_guests(now, buffer);
        for session in &mut self.sessions {
            deadline = earlier(deadline, session.turn(now, &self.outside, buffer));
        }
        self.forget();
        if self.deaf_until.is_some_and(|until| now >= until) {
            self.deaf_until = None;
        }
        let is_deaf = self.deaf_until.is_some() || self.guests.len() >= GUESTS;
        self.listener.wants = (!is_deaf).then_some(PollFlags::IN);
        self.exits.wants = Some(PollFlags::IN);
        if self.sessions.is_empty() && self.guests.is_empty() {
            let since = *self.empty_since.get_or_insert(now);
            deadline = earlier(deadline, Some(since + self.outside.linger()));
        } else {
            self.empty_since = None;
        }
        earlier(deadline, self.deaf_until)
    }

    /// Forgets sessions that nobody can want any more, but for their ids. Beyond as many as may
    /// run, the oldest of those that have ended goes as soon as nobody is there.
    fn forget(&mut self) {
        let kept = self.sessions.iter().filter(|session| session.is_kept_for_its_end()).count();
        for _ in self.outside.settings.sessions..kept as u64 {
            let kept = self.sessions.iter_mut().filter(|session| session.is_kept_for_its_end());
            if let Some(oldest) = kept.min_by_key(|session| session.ended) {
                oldest.is_dismissed = true;
            }
        }
        let gone = &mut self.gone;
        self.sessions.retain(|session| {
            if session.is_over() {
                gone.push_back(session.id());
            }
            !session.is_over()
        });
        let too_many = gone.len().saturating_sub(GONE);
        gone.drain(..too_many);
    }

    fn is_at_its_end(&self, now: Time) -> bool {
        self.empty_since.is_some_and(|since| now >= since + self.outside.linger())
    }

    /// Removes all traces, unless somebody has come just now.
    fn leaves(&mut self, directory: &Directory) -> Result<bool, HoldError> {
        let lock = directory.lock()?;
        if directory.named().is_some_and(|named| Some(named) != self.named) {
            // Something has removed the name, and another holder has it now: all traces are its
            // own.
            return Ok(true);
        }
        let was_there = directory.hide(&lock);
        // Whoever has found the socket's name before is in its queue, or will see it closed.
        match accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(control) if was_there => {
                directory.show(&lock);
                let now = self.now();
                self.welcome(now, control);
                self.empty_since = None;
                Ok(false)
            }
            _ => {
                directory.remove(lock);
                Ok(true)
            }
        }
    }

    fn accept(&mut self, now: Time) {
        while self.guests.len() < GUESTS {
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(control) => self.welcome(now, control),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    self.deaf_until = Some(now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Takes a connection of this user's, or of root's.
    fn welcome(&mut self, now: Time, control: OwnedFd) {
        let Ok(peer) = rustix::net::sockopt::socket_peercred(&control) else { return };
        if peer.uid != geteuid() && !peer.uid.is_root() {
            return;
        }
        if let Ok(control) = Watched::new(control) {
            self.guests.push(Guest::Arriving(control, now + GUEST_PATIENCE));
        }
    }

    /// Lets those go on that belong to no session; those that want one leave for it.
    fn receive_guests(&mut self, now: Time, buffer: &mut [u8]) -> Option<Time> {
        let mut deadline = None;
        for guest in std::mem::take(&mut self.guests) {
            let Some(guest) = self.receive_guest(now, guest, buffer) else { continue };
            let (Guest::Arriving(_, until) | Guest::Greeting(_, _, until)) = &guest;
            deadline = earlier(deadline, Some(*until));
            self.guests.push(guest);
        }
        deadline
    }

    /// The guest, if it still is one.
    fn receive_guest(&mut self, now: Time, guest: Guest, buffer: &mut [u8]) -> Option<Guest> {
        let (mut connection, mut greeting, until) = match guest {
            Guest::Arriving(_, until) if now >= until => return None,
            Guest::Arriving(mut control, until) => match handover::take(&control).ok()? {
                None => {
                    control.wants = Some(PollFlags::IN);
                    return Some(Guest::Arriving(control, until));
                }
                Some(ends) => {
                    let connection = Connection::new(now, control, ends).ok()?;
                    let greeting = Box::new(Greeting::new(now, self.instance));
                    (connection, greeting, now + GUEST_PATIENCE)
                }
            },
            Guest::Greeting(connection, greeting, until) => (connection, greeting, until),
        };
        connection.read(now, buffer, |input| match input {
            Some(bytes) => greeting.receive(now, bytes),
            None => greeting.receive_end(now),
        });
        loop {
            match greeting.poll(now) {
                Next::Done => return None,
                Next::Idle(deadline) => {
                    if connection.flush(now, greeting.outbox()).is_err() || now >= until {
                        return None;
                    }
                    let until = deadline.unwrap_or(until).min(until);
                    return Some(Guest::Greeting(connection, greeting, until));
                }
                Next::Event(asked) => {
                    (connection, greeting) = self.answer(now, connection, greeting, asked)?;
                }
            }
        }
    }

    /// Does what a guest asks for. It is given back where it has become no session's.
    fn answer(
        &mut self,
        now: Time,
        connection: Connection,
        mut greeting: Box<Greeting>,
        asked: Asked,
    ) -> Option<(Connection, Box<Greeting>)> {
        let id = match &asked {
            Asked::Start(start) => start.id,
            Asked::Resume(resume) => resume.id,
            Asked::List => {
                greeting.list(self.sessions.iter().map(Session::entry).collect::<Vec<_>>());
                return Some((connection, greeting));
            }
            Asked::Nothing(_) => return Some((connection, greeting)),
        };
        let running = self.sessions.iter().filter(|session| session.ended.is_none()).count();
        let is_full = running as u64 >= self.outside.settings.sessions;
        let known = self.sessions.iter_mut().find(|known| known.id() == id);
        let (code, text) = match (asked, known) {
            (Asked::Start(start), Some(known)) if !known.is_same(&start) => {
                (refused::CONFLICT, "another command was started with this id")
            }
            (Asked::Start(_), Some(known)) => {
                known.join(now, connection, *greeting, Mode::Take, Some([0; 2]), false);
                return None;
            }
            // Its answer may be under way; the command must not run again, and has not to wait.
            (Asked::Start(_), None) if self.gone.contains(&id) => {
                (refused::UNKNOWN, "the session is over, and is forgotten")
            }
            (Asked::Start(_), None) if is_full => {
                (refused::TOO_MANY, "there are too many sessions")
            }
            (Asked::Start(start), None) => {
                let mut session = Session::start(now, start, &self.outside);
                session.join(now, connection, *greeting, Mode::Take, Some([0; 2]), true);
                self.sessions.push(session);
                return None;
            }
            (Asked::Resume(resume), Some(known)) => {
                known.join(now, connection, *greeting, resume.mode, resume.have, false);
                return None;
            }
            (_, _) => (refused::UNKNOWN, "there is no such session here"),
        };
        greeting.refuse(code, text);
        Some((connection, greeting))
    }

    /// All descriptors, in an order that is the same until something changes.
    fn watched(&mut self) -> impl Iterator<Item = &mut Watched> {
        let guests = self.guests.iter_mut().flat_map(|guest| match guest {
            Guest::Arriving(control, _) => [Some(control), None, None],
            Guest::Greeting(connection, ..) => connection.watched().map(Some),
        });
        let sessions = self.sessions.iter_mut().flat_map(Session::watched);
        [&mut self.listener, &mut self.exits].into_iter().chain(guests.flatten()).chain(sessions)
    }

    /// Waits until something happens that somebody wants to know.
    fn wait(&mut self, mut deadline: Option<Time>) -> Result<(), HoldError> {
        for one in self.watched() {
            deadline = earlier(deadline, one.pause());
        }
        let timeout = deadline.map(|deadline| {
            let wait = deadline.since(self.now());
            // Never before it is due.
            let nanos = (i64::from(wait.subsec_nanos()) + 1000).min(999_999_999);
            Timespec { tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: nanos }
        });
        let said: Vec<PollFlags> = {
            let all = self.watched().map(|one| &*one);
            let asked = all.filter_map(|one| Some((one.as_fd(), one.asked()?)));
            let mut asked: Vec<_> =
                asked.map(|(fd, wants)| PollFd::from_borrowed_fd(fd, wants)).collect();
            match poll(&mut asked, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => asked.iter().map(PollFd::revents).collect(),
                Err(error) => return Err(HoldError::system("poll", error)),
            }
        };
        let (mut said, now) = (said.into_iter(), self.now());
        for one in self.watched() {
            let was_asked = one.asked().is_some();
            let said = if was_asked { said.next() } else { None };
            one.told(now, said.unwrap_or(PollFlags::empty()));
        }
        Ok(())
    }
}
