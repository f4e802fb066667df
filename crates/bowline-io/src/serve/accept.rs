//! Accepts connections, also when descriptors run out.

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

/// How long to wait after a failed accept, for descriptors to be closed.
const PAUSE: Duration = Duration::from_millis(10);
/// The time between two lines of the log about failed accepts.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// A listener, and a spare descriptor for the time when there are none.
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

    /// Accepts the next connection. If there is no descriptor for it, one of `connections` is
    /// ended; if none can be, the new one is ended at once rather than left to wait.
    ///
    /// Cancel safe: no connection is lost if the future is dropped.
    pub(super) async fn accept(&mut self, connections: &Connections) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                // The client has gone already.
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

    /// Accepts a connection that has come already.
    pub(super) async fn accept_waiting(&mut self) -> Option<(TcpStream, SocketAddr)> {
        poll_fn(|cx| match self.listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Accepts a connection with the spare descriptor, and ends it.
    async fn turn_away(&mut self) {
        self.spare = None;
        let turned_away = poll_fn(|cx| Poll::Ready(self.listener.poll_accept(cx)));
        drop(turned_away.await);
        self.spare = spare();
    }
}

/// Opens a descriptor that costs nothing else.
fn spare() -> Option<File> {
    let spare: io::Result<File> = File::open("/dev/null");
    spare.ok()
}
