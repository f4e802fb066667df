//! A listener to connections, also when descriptors run out.

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::connections::Connections;

/// After a failed accept. What had to go is gone by then.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two lines of the log about it.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// The listener, and a descriptor for the time when there are none.
#[derive(Debug)]
pub(super) struct Accepting {
    listener: TcpListener,
    spare: Option<File>,
    said: Option<Instant>,
}

impl Accepting {
    pub(super) fn new(listener: TcpListener) -> Accepting {
        Accepting { listener, spare: spare(), said: None }
    }

    /// The next connection. Of `connections` one goes if there is no descriptor for it; if none
    /// can, it is told at once by an end, rather than left to wait. Dropped, it has lost none.
    pub(super) async fn accept(&mut self, connections: &Connections) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                // The client was faster than we.
                Some(Errno::CONNABORTED | Errno::INTR) => continue,
                Some(Errno::MFILE | Errno::NFILE) if connections.evict_one() => {}
                Some(Errno::MFILE | Errno::NFILE) => self.turn_away().await,
                _ => {}
            }
            if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                warn!("accept: {error}");
                self.said = Some(Instant::now());
            }
            sleep(PAUSE).await;
            self.spare = self.spare.take().or_else(spare);
        }
    }

    /// Accepts one with the spare descriptor, and ends it.
    async fn turn_away(&mut self) {
        self.spare = None;
        let turned_away = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx)));
        drop(turned_away.await);
        self.spare = spare();
    }
}

/// Something that costs nothing but a descriptor.
fn spare() -> Option<File> {
    let spare: io::Result<File> = File::open("/dev/null");
    spare.ok()
}
