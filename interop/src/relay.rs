//! A server to another address of it, on which connections are cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// How long a write waits before it looks whether the connection was cut by the other direction.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// When and how a connection is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// After so many bytes, both ways together.
    pub after: u64,
    /// By a reset; or else by a plain end of both directions.
    pub resets: bool,
}

/// A relay; its connections end with those that use them.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: String,
    counts: Arc<Counts>,
    pairs: Arc<Mutex<Vec<Weak<Pair>>>>,
}

#[derive(Debug, Default)]
struct Counts {
    cuts: AtomicU64,
    bytes: AtomicU64,
}

impl Relay {
    /// To this server; each new connection asks whether it is to be cut.
    #[must_use]
    pub fn start(server: String, mut cut: impl FnMut() -> Option<Cut> + Send + 'static) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let counts = Arc::new(Counts::default());
        let pairs: Arc<Mutex<Vec<Weak<Pair>>>> = Arc::default();
        let (all, known) = (counts.clone(), pairs.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                // The server may have ended, with the test.
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(&server)) else { return };
                let cut = cut();
                let pair = Arc::new(Pair {
                    near,
                    far,
                    left: AtomicI64::new(cut.map_or(i64::MAX, |cut| cut.after as i64)),
                    resets: AtomicBool::new(cut.is_some_and(|cut| cut.resets)),
                    is_cut: AtomicBool::new(false),
                    counts: all.clone(),
                });
                known.lock().unwrap().push(Arc::downgrade(&pair));
                for is_up in [true, false] {
                    let pair = pair.clone();
                    thread::spawn(move || pair.pass(is_up));
                }
            }
        });
        Relay { address, counts, pairs }
    }

    /// Has those connections that there are cut in this way, however that was meant to be.
    pub fn cut(&self, cut: Cut) {
        for pair in self.pairs.lock().unwrap().iter().filter_map(Weak::upgrade) {
            pair.resets.store(cut.resets, Ordering::Relaxed);
            pair.left.store(cut.after as i64, Ordering::Relaxed);
        }
    }

    /// How many connections were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.counts.cuts.load(Ordering::Relaxed)
    }

    /// How many bytes went through, both ways together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }
}

/// A connection and the one behind it.
struct Pair {
    near: TcpStream,
    far: TcpStream,
    left: AtomicI64,
    resets: AtomicBool,
    is_cut: AtomicBool,
    counts: Arc<Counts>,
}

impl Pair {
    fn pass(&self, is_up: bool) {
        let (mut from, mut to) =
            if is_up { (&self.near, &self.far) } else { (&self.far, &self.near) };
        let _ = to.set_write_timeout(Some(LOOK_EVERY));
        let mut piece = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            if self.is_cut.load(Ordering::Relaxed) {
                return;
            }
            let before = self.left.fetch_sub(length as i64, Ordering::Relaxed);
            let passes = before.clamp(0, length as i64) as usize;
            let mut rest = &piece[..passes];
            while !rest.is_empty() {
                match to.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if self.is_cut.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                    Err(_) => return self.end(),
                }
            }
            self.counts.bytes.fetch_add(passes as u64, Ordering::Relaxed);
            if passes < length {
                return self.cut();
            }
        }
        if !self.is_cut.load(Ordering::Relaxed) {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    fn cut(&self) {
        if !self.is_cut.swap(true, Ordering::Relaxed) {
            self.counts.cuts.fetch_add(1, Ordering::Relaxed);
        }
        if self.resets.load(Ordering::Relaxed) {
            // The last one who lets go of a socket resets it; nobody reads on until then.
            for socket in [&self.near, &self.far] {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                let _ = socket.shutdown(Shutdown::Read);
            }
        } else {
            self.end();
        }
    }

    fn end(&self) {
        for socket in [&self.near, &self.far] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
