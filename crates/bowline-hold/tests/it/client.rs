//! A client that has a directory in place of a cluster: its connections are processes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bowline_proto::kept::{
    Client, ClientEvent, Connected, Id, Instance, Leave, Mode, Retry, Start, Stream,
};
use bowline_proto::machine::{Machine, Next};
use bowline_proto::session::{Outcome, Size, Status, Wants};
use bowline_proto::time::Time;
use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

pub const PIPES: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
pub const TERMINAL: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };
/// What no test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of a holder's, which ends with its sessions.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub flags: Vec<&'static str>,
}

impl Place {
    pub fn new(flags: &[&'static str]) -> Place {
        Place { dir: tempfile::tempdir().unwrap(), flags: flags.to_vec() }
    }

    /// The holder's own.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("held")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, word: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bowline-hold"));
        command.arg(word).arg(self.path());
        command
    }

    pub fn connect(&self) -> Command {
        let mut command = self.command("connect");
        command.args(&self.flags).current_dir(self.dir.path());
        command
    }

    /// The processes that hold this directory.
    pub fn holders(&self) -> Vec<i32> {
        let path = self.path();
        let is_ours = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0).skip(1);
            words.next() == Some(b"serve")
                && words.next() == Some(path.as_os_str().as_encoded_bytes())
        };
        let all = fs::read_dir("/proc").unwrap();
        let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(is_ours).collect()
    }

    /// Waits until the holder is gone, by its directory.
    pub fn is_left(&self) -> bool {
        self.changes(|place| !place.path().exists())
    }

    /// Waits until no holder runs, which ends right behind its directory.
    pub fn has_no_holder(&self) -> bool {
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        self.holders().into_iter().all(|holder| {
            let holder = Pid::from_raw(holder).unwrap();
            match pidfd_open(holder, PidfdFlags::empty()) {
                Ok(end) => poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience)) == Ok(1),
                Err(gone) => gone == Errno::SRCH,
            }
        })
    }

    /// Waits until a file is there.
    pub fn appears(&self, name: &str) {
        assert!(self.changes(|place| place.file(name).exists()));
    }

    /// Waits for a change of the directory's names after which something is so.
    fn changes(&self, mut is_so: impl FnMut(&Place) -> bool) -> bool {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let watch = init(CreateFlags::CLOEXEC).unwrap();
        add_watch(&watch, self.dir.path(), WatchFlags::DELETE | WatchFlags::CREATE).unwrap();
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        while !is_so(self) {
            let mut fds = [PollFd::new(&watch, PollFlags::IN)];
            if poll(&mut fds, Some(&patience)).unwrap() == 0 {
                return false;
            }
            rustix::io::read(&watch, &mut [0; 4096]).unwrap();
        }
        true
    }
}

impl Drop for Place {
    /// A test that has failed leaves nothing behind.
    fn drop(&mut self) {
        for holder in self.holders() {
            let holder = Pid::from_raw(holder).unwrap();
            let _ = rustix::process::kill_process(holder, rustix::process::Signal::KILL);
        }
    }
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom(&mut bytes, GetRandomFlags::empty()).unwrap();
    bytes
}

pub fn start(command: &[&str], wants: Wants) -> Start {
    Start {
        id: Id(random()),
        instance: Instance([0; 16]),
        wants,
        keep_for: 600,
        size: None,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
    }
}

struct Connection {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client, and what became of its session.
pub struct Session<'a> {
    place: &'a Place,
    began: Timespec,
    pub client: Client,
    connection: Option<Connection>,
    pub connections: u32,
    /// What is still to be sent, and whether its end is.
    pub typed: Bytes,
    pub ends: bool,
    pub out: BTreeMap<Stream, Vec<u8>>,
    pub ups: Vec<Connected>,
    pub end: Option<ClientEvent>,
}

impl<'a> Session<'a> {
    fn of(place: &'a Place, make: impl FnOnce(Retry) -> Client) -> Session<'a> {
        let retry = Retry { give_up_after: PATIENCE, seed: random() };
        Session {
            place,
            began: clock_gettime(ClockId::Monotonic),
            client: make(retry),
            connection: None,
            connections: 0,
            typed: Bytes::new(),
            ends: false,
            out: BTreeMap::new(),
            ups: Vec::new(),
            end: None,
        }
    }

    pub fn start(place: &'a Place, start: Start) -> Session<'a> {
        Session::of(place, |retry| Client::start(Time::ZERO, start, retry))
    }

    pub fn resume(place: &'a Place, id: Id, mode: Mode, have: Option<[u64; 2]>) -> Session<'a> {
        Session::of(place, |retry| Client::resume(Time::ZERO, id, mode, have, retry))
    }

    pub fn now(&self) -> Time {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = |at: Timespec| at.tv_sec * 1_000_000 + at.tv_nsec / 1000;
        Time::from_micros(u64::try_from(micros(now) - micros(self.began)).unwrap())
    }

    pub fn type_all(mut self, bytes: impl Into<Bytes>) -> Session<'a> {
        (self.typed, self.ends) = (bytes.into(), true);
        self
    }

    pub fn text(&self, stream: Stream) -> String {
        let bytes = self.out.get(&stream).map(Vec::as_slice).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    pub fn got(&self) -> usize {
        self.out.values().map(Vec::len).sum()
    }

    /// Kills the process that carries the connection.
    pub fn cut(&mut self) {
        self.connection = None;
        let now = self.now();
        self.client.receive_end(now);
    }

    pub fn resize(&mut self, width: u16, height: u16) {
        self.client.resize(Size { width, height });
    }

    /// Says goodbye, and waits until the holder has let go.
    pub fn leave(mut self, how: Leave) {
        self.client.leave(how);
        self.flush();
        let mut connection = self.connection.take().unwrap();
        connection.input = None;
        connection.child.wait().unwrap();
    }

    /// Goes on to the end of the session; how the command ended.
    pub fn ended(&mut self) -> Outcome {
        self.until(|_| false);
        match &self.end {
            Some(ClientEvent::Ended(status)) => Status::outcome(status).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Goes on until something is seen, or the session is over.
    pub fn until(&mut self, mut seen: impl FnMut(&mut Session<'a>) -> bool) {
        loop {
            self.poll();
            if seen(self) || self.end.is_some() {
                return;
            }
            self.send();
            // What was taken has to be queued.
            let deadline = self.poll();
            self.flush();
            if self.end.is_some() {
                return;
            }
            self.wait(deadline);
        }
    }

    fn poll(&mut self) -> Option<Time> {
        loop {
            let now = self.now();
            match self.client.poll(now) {
                Next::Idle(deadline) => return deadline,
                Next::Done => return None,
                Next::Event(ClientEvent::Connect) => self.connect(),
                Next::Event(ClientEvent::Up(up)) => self.ups.push(up),
                Next::Event(ClientEvent::Data(stream, bytes)) => {
                    self.out.entry(stream).or_default().extend_from_slice(&bytes);
                    self.client.took(now, stream, bytes.len());
                }
                Next::Event(ClientEvent::Down(_)) => self.connection = None,
                Next::Event(ClientEvent::Eof(_) | ClientEvent::Gap(_) | ClientEvent::Screen(_)) => {
                }
                Next::Event(end) => self.end = Some(end),
            }
        }
    }

    fn connect(&mut self) {
        let mut command = self.place.connect();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        rustix::io::ioctl_fionbio(&input, true).unwrap();
        rustix::io::ioctl_fionbio(&output, true).unwrap();
        self.connection = Some(Connection { child, input: Some(input), output });
        self.connections += 1;
        let now = self.now();
        self.client.connected(now);
    }

    fn send(&mut self) {
        while self.client.has_room() && !self.typed.is_empty() {
            let piece = self.typed.split_to(self.typed.len().min(50_000));
            self.client.send(piece);
        }
        if self.ends && self.typed.is_empty() && self.client.has_room() {
            self.ends = false;
            self.client.finish();
        }
    }

    fn flush(&mut self) {
        let Some(Connection { input: Some(input), .. }) = &mut self.connection else { return };
        let outbox = self.client.outbox();
        while !outbox.is_empty() {
            let chunk = outbox.chunks().next().unwrap_or_default();
            match input.write(chunk) {
                Ok(written) => outbox.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return outbox.discard(),
            }
        }
    }

    fn wait(&mut self, deadline: Option<Time>) {
        let now = self.now();
        let wait = deadline.map_or(PATIENCE, |deadline| deadline.since(now)).min(PATIENCE);
        let nanos = i64::from(wait.subsec_nanos()) + 1000;
        let timeout =
            Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: nanos.min(999_999_999) };
        let is_waiting = !self.client.outbox().is_empty();
        let mut fds = Vec::new();
        if let Some(connection) = &self.connection {
            fds.push(PollFd::from_borrowed_fd(connection.output.as_fd(), PollFlags::IN));
            if let Some(input) = connection.input.as_ref().filter(|_| is_waiting) {
                fds.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::OUT));
            }
        }
        let ready = poll(&mut fds, Some(&timeout)).unwrap();
        assert!(ready > 0 || deadline.is_some(), "nothing happens any more");
        let Some(connection) = &mut self.connection else { return };
        let mut buffer = [0; 65536];
        match connection.output.read(&mut buffer) {
            Ok(0) => self.client.receive_end(now),
            Ok(read) => self.client.receive(now, BytesMut::from(&buffer[..read])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.client.receive_end(now),
        }
    }
}

/// What a file has, or nothing.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
