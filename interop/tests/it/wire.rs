//! A wire between two programs, that breaks when a test says so: to connections that end as those
//! of real networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How a wire breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nothing passes any more, and nobody is told.
    Silence,
    /// Both sides are reset.
    Reset,
    /// Both sides see an end in good order.
    End,
}

/// A wire. Dropped, it goes on until both programs have ended.
pub struct Wire {
    /// Where the server is found through it.
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    is_silent: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// One to this server.
    pub fn to(server: &str) -> Wire {
        Wire::with(server, None)
    }

    /// One that cuts whoever says nothing for so long, as boxes do.
    pub fn with(server: &str, idle: Option<Duration>) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner::default());
        let (shared, server) = (inner.clone(), server.to_owned());
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                // A server that is away is an end.
                let Ok(far) = TcpStream::connect(&server) else { continue };
                near.set_read_timeout(idle).unwrap();
                far.set_read_timeout(idle).unwrap();
                let clone = |socket: &TcpStream| socket.try_clone().unwrap();
                shared.sockets.lock().unwrap().extend([clone(&near), clone(&far)]);
                for (from, to) in [(clone(&near), clone(&far)), (far, near)] {
                    let shared = shared.clone();
                    thread::spawn(move || pass(from, to, &shared.is_silent));
                }
            }
        });
        Wire { address, inner }
    }

    /// Bytes pass again, for those that are connected from now on.
    pub fn heals(&self) {
        self.breaks(Break::Reset);
        self.inner.is_silent.store(false, Ordering::Relaxed);
    }

    /// Breaks it for all that are connected through it now.
    pub fn breaks(&self, how: Break) {
        if how == Break::Silence {
            return self.inner.is_silent.store(true, Ordering::Relaxed);
        }
        for socket in self.inner.sockets.lock().unwrap().drain(..) {
            // Of those that have ended already there is nothing left to break.
            let _ = match how {
                Break::Reset => rustix::net::connect_unspec(&socket).map_err(Into::into),
                _ => socket.shutdown(Shutdown::Both),
            };
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_silent: &AtomicBool) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        // The bytes get lost, and the connection stays open.
        if !is_silent.load(Ordering::Relaxed) && to.write_all(&piece[..read]).is_err() {
            return;
        }
    }
    if !is_silent.load(Ordering::Relaxed) {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Write);
    }
}
