//! What listens at a pod's port: a server of few words that does what its clients ask for.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sha2::{Digest, Sha256};
use socket2::SockRef;

use crate::client::{PATIENCE, hex, noise};

/// What was read from a connection until its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read1 {
    /// How many bytes.
    pub bytes: u64,
    /// Of these bytes.
    pub digest: String,
    /// The peer ended its direction in good order.
    pub whole: bool,
}

/// A loopback address, and whose.
#[derive(Clone, Debug)]
pub struct Place {
    /// This machine's, if it is no other's.
    namespace: Option<Arc<File>>,
    address: IpAddr,
}

impl Place {
    /// This machine's.
    #[must_use]
    pub fn here() -> Place {
        Place { namespace: None, address: Ipv4Addr::LOCALHOST.into() }
    }

    /// That of a network namespace, of which this is a file.
    #[must_use]
    pub fn inside(namespace: &Path) -> Place {
        let file = File::open(namespace).unwrap_or_else(|error| panic!("{namespace:?}: {error}"));
        Place { namespace: Some(Arc::new(file)), ..Place::here() }
    }

    /// The same place at another address.
    #[must_use]
    pub fn at(&self, address: impl Into<IpAddr>) -> Place {
        Place { address: address.into(), ..self.clone() }
    }

    /// Whether there is such an address.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.try_listen().is_ok()
    }

    /// Listens there, at a port that the system chooses.
    #[must_use]
    pub fn listen(&self) -> TcpListener {
        self.try_listen().expect("loopback has a free port")
    }

    fn try_listen(&self) -> std::io::Result<TcpListener> {
        let place = self.clone();
        // A thread of its own stays in a namespace, and ends; a socket belongs to the one in which
        // it was made.
        let listening = thread::spawn(move || {
            if let Some(namespace) = place.namespace {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).expect("root may enter");
            }
            TcpListener::bind((place.address, 0))
        });
        listening.join().expect("nothing panics there")
    }
}

/// A server on loopback. Each connection says in its first line what it wants:
///
/// - `GET / …`: an answer in HTTP, and the end;
/// - `count`: how many bytes come until the end, and their digest, in one line, and the end;
/// - `send N`: so much noise, and the end;
/// - `half N`: so much noise, the end of this direction, and a report of what still comes;
/// - `both N`: so much noise, while as much as comes is read and reported;
/// - `reset N`: so much noise, and a reset;
/// - `echo`: everything that comes;
/// - `endless`: noise until the connection ends;
/// - `deaf`: nothing is read or said until the app ends.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub port: u16,
    reports: Mutex<Receiver<Read1>>,
    open: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    listener: TcpListener,
}

impl App {
    /// Starts one on this machine.
    #[must_use]
    pub fn start() -> App {
        App::start_at(&Place::here())
    }

    /// Starts one there.
    #[must_use]
    pub fn start_at(place: &Place) -> App {
        let listener = place.listen();
        let accepting = listener.try_clone().expect("a listener can be cloned");
        let port = listener.local_addr().expect("a listener has an address").port();
        let (report, reports) = channel();
        let (open, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (opened, ends) = (open.clone(), ended.clone());
        thread::spawn(move || {
            for socket in accepting.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                let (report, open, ends) = (report.clone(), opened.clone(), ends.clone());
                open.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    serve(socket, &report, &ends);
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        App { port, reports: Mutex::new(reports), open, ended, listener }
    }

    /// The next report.
    #[must_use]
    pub fn report(&self) -> Read1 {
        let reports = self.reports.lock().expect("nobody panics with it");
        reports.recv_timeout(PATIENCE).expect("the app reports")
    }

    /// How many connections it has.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It waits for a connection, perhaps where none can be made from here.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }
}

fn serve(mut socket: TcpStream, report: &Sender<Read1>, ended: &AtomicBool) {
    let mut reader = BufReader::new(socket.try_clone().expect("a socket can be cloned"));
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let (verb, amount) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let amount = || amount.parse().expect("an amount of bytes");
    // Whether the client still wants it is its affair.
    let _ = match verb {
        "GET" => http(&mut reader, &mut socket),
        "count" => {
            let read = drain(&mut reader);
            socket.write_all(format!("{} {}\n", read.bytes, read.digest).as_bytes())
        }
        "send" => noise(amount(), |piece| socket.write_all(piece)),
        "half" => {
            let sent = noise(amount(), |piece| socket.write_all(piece))
                .and_then(|()| socket.shutdown(Shutdown::Write));
            let read = drain(&mut reader);
            // A reset may come before there is anything to read: it is reported all the same.
            let _ = report.send(Read1 { whole: read.whole && sent.is_ok(), ..read });
            sent
        }
        "both" => {
            let report = report.clone();
            let reading = thread::spawn(move || report.send(drain(&mut reader)));
            let sent = noise(amount(), |piece| socket.write_all(piece));
            // containerd takes the end of one direction for the end of both, a second later.
            let _ = reading.join();
            sent
        }
        "reset" => noise(amount(), |piece| socket.write_all(piece))
            .and_then(|()| SockRef::from(&socket).set_linger(Some(Duration::ZERO))),
        "echo" => std::io::copy(&mut reader, &mut socket).map(|_| ()),
        "endless" => loop {
            if let Err(error) = noise(1 << 20, |piece| socket.write_all(piece)) {
                break Err(error);
            }
        },
        "deaf" => {
            while !ended.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(20));
            }
            Ok(())
        }
        other => panic!("the app does not know {other:?}"),
    };
}

fn http(reader: &mut BufReader<TcpStream>, socket: &mut TcpStream) -> std::io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
}

/// Reads until the end, in good order or not.
pub fn drain(reader: &mut impl Read) -> Read1 {
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Read1 { bytes, digest: hex(&hash.finalize()), whole: true },
            Err(_) => return Read1 { bytes, digest: hex(&hash.finalize()), whole: false },
            Ok(read) => {
                hash.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}
