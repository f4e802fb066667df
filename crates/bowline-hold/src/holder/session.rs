//! One session: its host, its process, and the connections of its clients.

use std::path::PathBuf;
use std::time::Duration;

use bowline_proto::kept::{Bounds, Greeting, Host, HostEvent, Id, Mode, Start, Stream};
use bowline_proto::limits::{KEPT_SEATS, REASON_BYTES};
use bowline_proto::machine::{Machine, Next};
use bowline_proto::session::Status;
use bowline_proto::time::{Time, earlier};
use bytes::Bytes;
use rustix::process::Rlimit;

use super::connection::Connection;
use super::process::{Output, Process};
use crate::settings::Settings;
use crate::watched::Watched;

/// How long a client may take to take its last word.
const LAST_WORD: Duration = Duration::from_secs(5);
const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What all sessions of a holder have in common.
#[derive(Debug)]
pub(super) struct Outside {
    /// Where commands run.
    pub working_dir: PathBuf,
    /// How many descriptors they may have open.
    pub descriptors: Rlimit,
    /// What the files that they make are not: that of the exec which began the holder.
    pub umask: rustix::fs::Mode,
    /// How the holder behaves.
    pub settings: Settings,
}

impl Outside {
    /// How long the holder stays without a session.
    pub(super) fn linger(&self) -> Duration {
        Duration::from_secs(self.settings.linger)
    }
}

/// A session and all that belongs to it.
#[derive(Debug)]
pub(super) struct Session {
    host: Host,
    /// None where it could not be started.
    process: Option<Process>,
    seats: Vec<Seat>,
    /// When the command has ended.
    pub(super) ended: Option<Time>,
    /// It has ended, and goes as soon as nobody is there.
    pub(super) is_dismissed: bool,
    is_done: bool,
}

#[derive(Debug)]
struct Seat {
    number: u32,
    mode: Mode,
    connection: Connection,
    /// It is over, and has until then to take its last word.
    until: Option<Time>,
}

impl Session {
    /// Starts the command. One that cannot be started is a session that has ended at once.
    pub(super) fn start(now: Time, start: Start, outside: &Outside) -> Session {
        let replay_bytes = usize::try_from(outside.settings.replay_bytes).unwrap_or(usize::MAX);
        let started = Process::start(&start, outside);
        let bounds = Bounds { replay_bytes, ..Bounds::default() };
        let mut host = Host::new(now, start, bounds);
        let process = match started {
            Ok(process) => Some(process),
            Err(error) => {
                let why = format!(
                    "error executing command in container: exec failed: unable to start container \
                     process: {error}"
                );
                host.ended(now, Ok(Status::failed(&why).json().clone()));
                None
            }
        };
        let ended = host.has_ended().then_some(now);
        let (seats, is_dismissed, is_done) = (Vec::new(), false, false);
        Session { host, process, seats, ended, is_dismissed, is_done }
    }

    /// Its id.
    pub(super) fn id(&self) -> Id {
        self.host.id()
    }

    /// Whether a request is for this very session and command.
    pub(super) fn is_same(&self, start: &Start) -> bool {
        self.host.is_same(start)
    }

    /// What a list shows.
    pub(super) fn entry(&self) -> Vec<u8> {
        self.host.entry().json()
    }

    /// Whether it is there only for those who ask how it has ended.
    pub(super) fn is_kept_for_its_end(&self) -> bool {
        self.ended.is_some() && !self.is_dismissed
    }

    /// Whether nobody can want it any more, or is to have it.
    pub(super) fn is_over(&self) -> bool {
        let is_done = self.is_done || (self.is_dismissed && self.seats.is_empty());
        is_done && self.process.as_ref().is_none_or(Process::is_reaped)
    }

    /// A client has come.
    pub(super) fn join(
        &mut self,
        now: Time,
        mut connection: Connection,
        greeting: Greeting,
        mode: Mode,
        have: Option<[u64; 2]>,
        started: bool,
    ) {
        match self.host.join(greeting, mode, have, started) {
            Ok(number) => {
                self.make_room(now, mode);
                self.seats.push(Seat { number, mode, connection, until: None });
            }
            Err(mut greeting) => {
                // It was told why; what the pipe does not take at once, it does not need.
                let _ = connection.flush(now, Machine::outbox(&mut *greeting));
            }
        }
    }

    /// Whoever has the session has lost it to one that takes it. Where no seat is free, the oldest
    /// that is over is given up.
    fn make_room(&mut self, now: Time, mode: Mode) {
        if mode == Mode::Take {
            for seat in self.seats.iter_mut().filter(|seat| seat.mode == Mode::Take) {
                seat.until.get_or_insert(now + LAST_WORD);
            }
        }
        if self.seats.len() >= KEPT_SEATS
            && let Some(at) = self.seats.iter().position(|seat| seat.until.is_some())
        {
            self.host.remove(now, self.seats.remove(at).number);
        }
    }

    /// All descriptors.
    pub(super) fn watched(&mut self) -> impl Iterator<Item = &mut Watched> {
        let seats = self.seats.iter_mut().flat_map(|seat| seat.connection.watched());
        seats.chain(self.process.iter_mut().flat_map(Process::watched))
    }

    /// A child has ended, perhaps this one.
    pub(super) fn look_for_exit(&mut self) {
        if let Some(process) = &mut self.process {
            process.look_for_exit();
        }
    }

    /// Goes on until nothing more happens; when something is due next.
    pub(super) fn turn(&mut self, now: Time, outside: &Outside, buffer: &mut [u8]) -> Option<Time> {
        for seat in &mut self.seats {
            let (host, process, number) = (&mut self.host, &mut self.process, seat.number);
            seat.connection.read(now, buffer, |input| match input {
                Some(bytes) => {
                    if let Some(process) = process {
                        process.begin_read(bytes.len());
                    }
                    host.receive(now, number, bytes);
                }
                None => host.receive_end(number),
            });
        }
        self.read_output(now, outside, buffer);
        loop {
            let deadline = self.poll_host(now);
            // What is taken makes room for more, and has to be acknowledged.
            let has_taken = self.write_stdin(now);
            let has_written = self.flush(now);
            if !has_taken && !has_written {
                self.watch();
                let mut deadline =
                    earlier(deadline, self.process.as_mut().and_then(|process| process.due(now)));
                for seat in &self.seats {
                    deadline = earlier(deadline, seat.until);
                }
                return deadline;
            }
        }
    }

    /// Takes what the host says.
    fn poll_host(&mut self, now: Time) -> Option<Time> {
        loop {
            match self.host.poll(now) {
                Next::Idle(deadline) => return deadline,
                Next::Done => {
                    self.is_done = true;
                    return None;
                }
                Next::Event(HostEvent::Left(number, _)) => {
                    let seat = self.seats.iter_mut().find(|seat| seat.number == number);
                    if let Some(seat) = seat {
                        seat.until.get_or_insert(now + LAST_WORD);
                    }
                }
                Next::Event(event) => {
                    let Some(process) = &mut self.process else {
                        if let HostEvent::Stdin(bytes) = event {
                            self.host.took(now, bytes.len());
                        }
                        continue;
                    };
                    match event {
                        HostEvent::Stdin(bytes) => process.give(bytes),
                        HostEvent::StdinEnd => process.give_end(),
                        HostEvent::Resize(size) => process.resize(size),
                        HostEvent::HangUp => process.hang_up(now),
                        HostEvent::Left(..) => {}
                    }
                }
            }
        }
    }

    /// Writes what waits for the process; whether it took something.
    fn write_stdin(&mut self, now: Time) -> bool {
        let taken = self.process.as_mut().map_or(0, |process| process.write(now));
        if taken > 0 {
            self.host.took(now, taken);
        }
        taken > 0
    }

    /// Writes to all clients; whether one of them took something, so that there may be more.
    fn flush(&mut self, now: Time) -> bool {
        let mut is_more = false;
        let host = &mut self.host;
        self.seats.retain_mut(|seat| {
            let Some(outbox) = host.outbox(seat.number) else { return false };
            let waiting = outbox.len();
            let flushed = seat.connection.flush(now, outbox);
            is_more |= outbox.len() < waiting;
            let is_late = seat.until.is_some_and(|until| now >= until);
            if flushed.is_err() || is_late {
                host.remove(now, seat.number);
                is_more = true;
                return false;
            }
            true
        });
        is_more
    }

    fn read_output(&mut self, now: Time, outside: &Outside, buffer: &mut [u8]) {
        let Some(process) = &mut self.process else { return };
        for (at, stream) in OUTPUTS.into_iter().enumerate() {
            if !self.host.has_room(stream) {
                continue;
            }
            match process.read(now, at, buffer) {
                Output::Bytes(read) => {
                    self.host.output(stream, Bytes::copy_from_slice(&buffer[..read]));
                }
                Output::Over => self.host.finish(stream),
                Output::Later => {}
            }
        }
        if self.host.has_ended() {
            return;
        }
        if let Some(conclusion) = process.conclude(now, outside.settings.patience()) {
            let status = self.conclusion(conclusion.code, conclusion.is_cut.then_some(outside));
            self.host.ended(now, Ok(status.json().clone()));
            self.ended = Some(now);
        }
    }

    /// How the command ended. An output that others still hold is said to be cut off; where there
    /// is no stream to say it on, the session fails: nobody shall take what came for all of it.
    fn conclusion(&mut self, code: u8, cut: Option<&Outside>) -> Status {
        let mut words = self.host.start().command.join(" ");
        words.truncate(words.floor_char_boundary(REASON_BYTES));
        let why = format!("error executing command [{words}], exit code {code}");
        let Some(outside) = cut else { return Status::exited(code, &why) };
        let after = match outside.settings.patience() {
            Some(patience) => format!("{patience:?}"),
            None => "SIGKILL".to_owned(),
        };
        let text = format!(
            "the output is cut off: processes that the command left behind still hold it after \
             {after}"
        );
        let wants = self.host.start().wants;
        if wants.tty && wants.stdout {
            self.host.output(Stream::Stdout, format!("\r\n{text}\r\n").into());
        } else if wants.stderr && self.process.as_ref().is_some_and(|process| process.is_open(1)) {
            self.host.output(Stream::Stderr, format!("{text}\n").into());
        } else {
            return Status::failed(&text);
        }
        Status::exited(code, &why)
    }

    /// Says what of the process is wanted.
    fn watch(&mut self) {
        if let Some(process) = &mut self.process {
            process.watch(OUTPUTS.map(|stream| self.host.has_room(stream)));
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_proto::kept::Instance;
    use bowline_proto::limits::KEPT_LONGEST;
    use bowline_proto::session::Wants;
    use rustix::process::{Resource, getrlimit};

    use super::*;

    /// As long as a day, whatever is asked for.
    #[test]
    fn a_result_is_kept_for_no_longer_than_a_holder_allows() {
        let outside = Outside {
            working_dir: "/".into(),
            descriptors: getrlimit(Resource::Nofile),
            umask: rustix::fs::Mode::empty(),
            settings: Settings::default(),
        };
        let start = Start {
            id: Id([1; 16]),
            instance: Instance([2; 16]),
            wants: Wants { stdin: false, stdout: true, stderr: true, tty: false },
            keep_for: u64::MAX,
            size: None,
            command: vec!["/there/is/none".into()],
            env: Vec::new(),
        };
        let (began, mut buffer) = (Time::from_micros(7), [0; 16]);
        let mut session = Session::start(began, start, &outside);
        let over = began + KEPT_LONGEST;
        assert_eq!(session.turn(began, &outside, &mut buffer), Some(over));
        assert!(!session.is_over());
        session.turn(over, &outside, &mut buffer);
        assert!(session.is_over());
    }
}
