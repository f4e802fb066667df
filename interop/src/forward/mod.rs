//! The other list: what a port-forward must show, whoever carries it.

pub mod app;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};

use self::app::{App, Place, drain};
use crate::client::{Client, PATIENCE, hex, noise, noise_digest};
use crate::server::until;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    /// Requests at once.
    pub parallel: usize,
    /// Requests one after the other.
    pub sequential: usize,
    /// Bytes each way at the same time.
    pub bulk: u64,
}

/// What a test of every day takes.
pub const SMALL: Amounts = Amounts { parallel: 50, sequential: 200, bulk: 8 << 20 };

/// A point of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// One request.
    Get,
    /// Many at once.
    Parallel,
    /// Many one after the other: nothing grows.
    Sequential,
    /// Five ports at once.
    Ports,
    /// Much data in both directions at once.
    BothWays,
    /// The client ends its direction and gets its answer in full.
    ClientEnds,
    /// The server ends its direction and gets everything that still comes.
    ServerEnds,
    /// A reset in the middle of a download; the next request works.
    Reset,
    /// A port where nobody listens.
    Refused,
}

/// All of them, the one last that kubectl ends with.
pub const POINTS: [Point; 9] = [
    Point::Get,
    Point::Parallel,
    Point::Sequential,
    Point::Ports,
    Point::BothWays,
    Point::ClientEnds,
    Point::ServerEnds,
    Point::Reset,
    Point::Refused,
];

/// A running port-forward. Dropped, it is killed.
#[derive(Debug)]
pub struct Forward {
    child: Child,
    /// The local port of each that was asked for.
    pub ports: Vec<u16>,
    stderr: Arc<Mutex<String>>,
}

impl Forward {
    /// Starts `client` with local ports that the system chooses.
    #[must_use]
    pub fn start(client: &Client, remote: &[u16]) -> Forward {
        let words: Vec<String> = remote.iter().map(|port| format!(":{port}")).collect();
        Forward::start_words(client, &words)
    }

    /// The same with ports as words, each with a local port that the system chooses.
    #[must_use]
    pub fn start_words(client: &Client, words: &[impl AsRef<str>]) -> Forward {
        let mut forward = Forward::spawn(client, words);
        let mut lines = BufReader::new(forward.child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        while forward.ports.len() < words.len() {
            line.clear();
            let read = lines.read_line(&mut line).unwrap_or(0);
            assert!(read > 0, "{}: {}", client.name, forward.stderr());
            if let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                let (local, _) = rest.split_once(" -> ").expect("it says where it goes");
                forward.ports.push(local.parse().expect("a port is a number"));
            }
        }
        // It must never wait for a reader.
        thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        forward
    }

    fn spawn(client: &Client, ports: &[impl AsRef<str>]) -> Forward {
        let mut process = process(client, ports);
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process.spawn().unwrap_or_else(|error| panic!("{process:?}: {error}"));
        let stderr = Arc::new(Mutex::new(String::new()));
        let (kept, mut pipe) = (stderr.clone(), child.stderr.take().expect("stderr is piped"));
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..read]);
                kept.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        Forward { child, ports: Vec::new(), stderr }
    }

    /// What it has said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("nobody panics with it").clone()
    }

    /// Waits until it has said that.
    pub fn says(&self, what: &str) {
        until(&format!("{what:?} in {:?}", self.stderr()), PATIENCE, || {
            self.stderr().contains(what)
        });
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be looked at")
    }

    /// Ends it as a person does.
    pub fn interrupt(mut self) -> ExitStatus {
        let _ = kill_process(self.id(), Signal::INT);
        let mut status = None;
        until("it ends at Ctrl-C", PATIENCE, || {
            status = self.has_ended();
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// A connection to one of its ports.
    #[must_use]
    pub fn connect(&self, index: usize) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.ports[index]));
        let socket = socket.unwrap_or_else(|error| panic!("{error}: {}", self.stderr()));
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes a patience");
        socket
    }

    /// The same, with its first line said.
    #[must_use]
    pub fn ask(&self, index: usize, line: &str) -> TcpStream {
        let mut socket = self.connect(index);
        socket.write_all(format!("{line}\n").as_bytes()).expect("the forward takes a line");
        socket
    }

    /// One request; gives what was answered.
    #[must_use]
    pub fn get(&self, index: usize) -> String {
        let mut socket = self.ask(index, "GET / HTTP/1.1\r\nHost: x\r\n\r");
        let mut text = String::new();
        let read = socket.read_to_string(&mut text);
        assert!(read.is_ok(), "{read:?} after {text:?}: {}", self.stderr());
        text
    }

    /// The same, but closes as soon as the answer is there: containerd's node tells of the end a
    /// second late.
    #[must_use]
    pub fn get_and_close(&self, index: usize) -> String {
        let mut socket = self.ask(index, "GET / HTTP/1.1\r\nHost: x\r\n\r");
        let mut answer = vec![0; OK.len()];
        let read = socket.read_exact(&mut answer);
        assert!(read.is_ok(), "{read:?}: {}", self.stderr());
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Its descriptors and its memory in KiB.
    #[must_use]
    pub fn holds(&self) -> (usize, u64) {
        let id = self.id().as_raw_nonzero();
        let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        (descriptors, rss.unwrap_or(0))
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = kill_process(self.id(), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The process that forwards these ports, not started yet.
#[must_use]
pub fn process(client: &Client, ports: &[impl AsRef<str>]) -> Command {
    let process = client.process(&[], &[]);
    // In place of the dashes and a command.
    let words: Vec<_> = process.get_args().map(ToOwned::to_owned).collect();
    let mut forward = Command::new(process.get_program());
    forward.args(words.iter().filter(|word| *word != "--"));
    forward.args(ports.iter().map(AsRef::as_ref));
    forward.envs(process.get_envs().filter_map(|(name, value)| Some((name, value?))));
    forward
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";

/// Checks all points but the known shortfalls of the parts at hand. `client` is a port-forward to a
/// pod whose ports are this machine's.
pub fn check(client: &Client, amounts: &Amounts, except: &[Point]) {
    check_at(&Place::here(), client, amounts, except);
}

/// The same for a pod whose ports are those of `place`.
pub fn check_at(place: &Place, client: &Client, amounts: &Amounts, except: &[Point]) {
    let except: BTreeSet<_> = except.iter().copied().collect();
    for point in POINTS.into_iter().filter(|point| !except.contains(point)) {
        let begun = std::time::Instant::now();
        one(place, client, amounts, point);
        println!("{}: {point:?}: {:.1} s", client.name, begun.elapsed().as_secs_f64());
    }
}

/// Checks one point.
fn one(place: &Place, client: &Client, amounts: &Amounts, point: Point) {
    let app = App::start_at(place);
    let forward = |apps: &[&App]| {
        Forward::start(client, &apps.iter().map(|app| app.port).collect::<Vec<_>>())
    };
    let name = &client.name;
    match point {
        Point::Get => {
            let forward = forward(&[&app]);
            assert_eq!(forward.get(0), OK, "{name}: {}", forward.stderr());
            let status = forward.interrupt();
            assert_eq!(status.code(), Some(0), "{name}");
        }
        Point::Parallel => {
            let forward = forward(&[&app]);
            thread::scope(|scope| {
                for _ in 0..amounts.parallel {
                    scope.spawn(|| assert_eq!(forward.get(0), OK, "{name}: {}", forward.stderr()));
                }
            });
        }
        Point::Sequential => sequential(name, &forward(&[&app]), amounts.sequential),
        Point::Ports => {
            let apps: Vec<App> = (0..5).map(|_| App::start_at(place)).collect();
            let forward = forward(&apps.iter().collect::<Vec<_>>());
            thread::scope(|scope| {
                for index in 0..apps.len() {
                    let forward = &forward;
                    scope.spawn(move || {
                        let bytes = 1_000_000 + index as u64;
                        let read = drain(&mut forward.ask(index, &format!("send {bytes}")));
                        assert!(read.whole, "{name}: {}", forward.stderr());
                        assert_eq!(read.digest, noise_digest(bytes), "{name}: {read:?}");
                    });
                }
            });
        }
        Point::BothWays => both_ways(name, &forward(&[&app]), &app, amounts.bulk),
        Point::ClientEnds => {
            let forward = forward(&[&app]);
            let mut socket = forward.ask(0, "count");
            noise(3_000_000, |piece| socket.write_all(piece)).expect("it takes all");
            socket.shutdown(Shutdown::Write).expect("a direction ends");
            let mut text = String::new();
            let read = socket.read_to_string(&mut text);
            assert!(read.is_ok(), "{name}: {read:?}, {}", forward.stderr());
            assert_eq!(text, format!("3000000 {}\n", noise_digest(3_000_000)), "{name}");
        }
        Point::ServerEnds => {
            let forward = forward(&[&app]);
            let mut socket = forward.ask(0, "half 1000000");
            let read = drain(&mut socket);
            assert_eq!((read.bytes, read.whole), (1_000_000, true), "{name}");
            noise(1_000_000, |piece| socket.write_all(piece)).expect("it takes all");
            drop(socket);
            let report = app.report();
            assert_eq!((report.bytes, report.whole), (1_000_000, true), "{name}");
            assert_eq!(report.digest, noise_digest(1_000_000), "{name}");
        }
        Point::Reset => {
            let forward = forward(&[&app]);
            // More than fits anywhere, so that the reset comes in the middle.
            let read = drain(&mut forward.ask(0, "reset 40000000"));
            assert!(read.bytes <= 40_000_000, "{name}: {read:?}");
            if name.contains("bowline") {
                assert!(!read.whole, "{name}: a reset looks like a good end: {read:?}");
            }
            assert_eq!(forward.get(0), OK, "{name}: {}", forward.stderr());
        }
        Point::Refused => refused(place, client, &app),
    }
}

fn sequential(name: &str, forward: &Forward, times: usize) {
    let get = |times: usize| {
        for _ in 0..times {
            assert_eq!(forward.get_and_close(0), OK, "{name}: {}", forward.stderr());
        }
    };
    // What the first ones cost, later ones use again.
    get(times / 4);
    let (descriptors, kib) = forward.holds();
    get(times - times / 4);
    let mut after = (0, 0);
    until("no descriptor more than before", Duration::from_secs(5), || {
        after = forward.holds();
        after.0 <= descriptors
    });
    // kubectl collects its garbage when it likes to.
    if name.contains("bowline") {
        assert!(after.1 <= kib + 1024, "{name}: {kib} KiB became {} KiB", after.1);
    }
}

fn both_ways(name: &str, forward: &Forward, app: &App, bytes: u64) {
    let mut socket = forward.ask(0, &format!("both {bytes}"));
    let mut reader = socket.try_clone().expect("a socket can be cloned");
    let expected = noise_digest(bytes);
    let (sent, read) = thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let (mut hash, mut rest) = (Sha256::new(), bytes);
            let mut piece = vec![0; 256 * 1024];
            while rest > 0 {
                let read = reader.read(&mut piece).expect("all of it comes");
                assert!(read > 0, "{rest} bytes are missing");
                hash.update(&piece[..read]);
                rest -= read as u64;
            }
            hex(&hash.finalize())
        });
        let sent = noise(bytes, |piece| socket.write_all(piece));
        let read = reading.join();
        let _ = socket.shutdown(Shutdown::Write);
        (sent, read)
    });
    let read = read.unwrap_or_else(|_| panic!("{name}: {}", forward.stderr()));
    assert!(sent.is_ok(), "{name}: {sent:?}");
    assert_eq!(read, expected, "{name}: down");
    let report = app.report();
    assert_eq!((report.bytes, report.digest), (bytes, expected), "{name}: up");
}

fn refused(place: &Place, client: &Client, app: &App) {
    let name = &client.name;
    let free = place.listen();
    let closed = free.local_addr().expect("a listener has an address").port();
    drop(free);
    let mut forward = Forward::start(client, &[closed, app.port]);
    let read = drain(&mut forward.connect(0));
    assert_eq!(read.bytes, 0, "{name}");
    forward.says("connection refused");
    if name.contains("bowline") {
        assert!(!read.whole, "{name}: the local peer took it for a good end");
        assert_eq!(forward.get(1), OK, "{name}: {}", forward.stderr());
        assert_eq!(forward.has_ended(), None, "{name}: {}", forward.stderr());
        assert_eq!(forward.interrupt().code(), Some(0), "{name}");
    } else if !name.contains("1.20") {
        let mut status = None;
        until("kubectl ends", PATIENCE, || {
            status = forward.has_ended();
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{name}");
    }
}
