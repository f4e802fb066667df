//! One port-forward: the request, the fallback, and connections as plain streams.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bowline_io::forward::{ForwardDriver, ForwardEvent};
pub use bowline_io::local_sockets::Failure;
use bowline_io::local_sockets::Local;
use bowline_io::random;
use bowline_io::record::{End, Running, Traffic};
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::negotiate::Offer;
use bowline_proto::portforward::{Forward, OverSpdy};
use bowline_proto::session::protocol::FORWARD_TUNNEL;
use bowline_proto::session::{Cause, Loss, Side};
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use url::Url;

use crate::client::{Client, begin};
use crate::request;
use crate::upgrade::{Asking, Switched, UpgradeError};

/// Between a program and its connection, in each direction.
const PIPE_BYTES: usize = 256 * 1024;
/// Connections that wait for the forward's task. It is never busy for long.
const ASKED: usize = 64;

/// A port-forward that is to be made, by [`Client::port_forward`].
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before it is opened"]
pub struct ForwardRequest {
    pub(crate) client: Client,
    pub(crate) pod: String,
}

impl ForwardRequest {
    /// What is asked for.
    #[must_use]
    pub fn url(&self) -> Url {
        request::port_forward(&self.client, &self.pod)
    }

    /// Asks for the forward: in a tunnel first, over SPDY if that is refused. Must be called in a
    /// tokio runtime with I/O and time; a task of its own drives the connection.
    ///
    /// Cancel safe: a future that is dropped leaves no forward.
    ///
    /// # Errors
    /// [`UpgradeError`] if no forward came about.
    pub async fn open(&self) -> Result<PortForward, UpgradeError> {
        let pending = self.client.admit(self.client.record("portforward", &self.pod))?;
        let url = self.url();
        let asking = Asking { client: &self.client, url: &url };
        let first = self.client.websocket.then(|| Offer::tunnel(random::bytes()));
        let what = "fallback to secondary dialer from primary dialer err";
        let switched = asking.either(first, Offer::forward(), what).await?;
        let Switched { connection, protocol, .. } = switched;
        asking.note(4, "negotiated protocol: portforward.k8s.io");
        let wire = if *protocol == FORWARD_TUNNEL {
            Wire::tunnel(Role::Client, random::bytes())
        } else {
            Wire::plain()
        };
        let running = begin(pending, &connection, protocol);
        Ok(PortForward::drive(connection, wire, Some(running)))
    }
}

/// What is told of a socket's connection at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// It did not end as it should. The socket's peer was sent a reset.
    Failed(Failure),
    /// The pod ended its direction first, in good order: nothing was wrong, or the pod has gone.
    ByPod,
}

/// Is told how a connection ended, if that was not as it should be, or by the pod.
pub type Tell = Box<dyn FnMut(Finish) + Send>;

/// One upgraded connection with many forwarded ones in it. Dropped, it ends them all.
#[derive(Debug)]
pub struct PortForward {
    asked: mpsc::Sender<Asked>,
    lost: watch::Receiver<Option<Loss>>,
}

struct Asked {
    port: u16,
    stream: Near,
}

/// The local end of a connection.
enum Near {
    Socket(Joined),
    Program(DuplexStream, FailureCell),
}

/// A socket that is joined with a port of the pod.
struct Joined {
    socket: TcpStream,
    tell: Tell,
    /// Its own peer has ended its direction.
    has_ended: bool,
}

impl Local for Near {
    fn abort(self, why: Failure) {
        match self {
            Near::Socket(Joined { socket, mut tell, .. }) => {
                socket.abort(why.clone());
                tell(Finish::Failed(why));
            }
            // Said before the pipe ends: whoever reads its end looks here.
            Near::Program(_, failure) => drop(failure.set(why)),
        }
    }
}

macro_rules! each {
    ($near:expr, $inner:ident => $body:expr) => {
        match $near {
            Near::Socket(Joined { socket: $inner, .. }) => $body,
            Near::Program($inner, _) => $body,
        }
    };
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = (buffer.filled().len(), buffer.remaining());
        let read = each!(&mut *self, inner => Pin::new(inner).poll_read(cx, buffer));
        if let (Near::Socket(joined), Poll::Ready(Ok(()))) = (&mut *self, &read) {
            joined.has_ended |= before.1 > 0 && buffer.filled().len() == before.0;
        }
        read
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(&mut *self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut *self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = each!(&mut *self, inner => Pin::new(inner).poll_shutdown(cx));
        if let (Near::Socket(joined), Poll::Ready(_)) = (&mut *self, &ended)
            && !joined.has_ended
        {
            (joined.tell)(Finish::ByPod);
        }
        ended
    }
}

impl PortForward {
    /// The forward over a connection that was upgraded already.
    #[must_use]
    pub fn over<S: Connection + Send + 'static>(connection: Upgraded<S>, wire: Wire) -> Self {
        PortForward::drive(connection, wire, None)
    }

    /// The forward of a session whose hooks, where it has some, were told that it begins.
    fn drive<S: Connection + Send + 'static>(
        connection: Upgraded<S>,
        wire: Wire,
        running: Option<Running>,
    ) -> Self {
        let (asked, asks) = mpsc::channel(ASKED);
        let (lost, loss) = watch::channel(None);
        let forward = Forward::Spdy(OverSpdy::new(Side::Client, wire));
        let driver = ForwardDriver::new(forward, connection);
        #[expect(clippy::disallowed_methods, reason = "it ends with the forward that is given")]
        tokio::spawn(async move {
            let (end, traffic) = drive(driver, asks, lost).await;
            running.and_then(|running| running.end(end, Some(traffic)))
        });
        PortForward { asked, lost: loss }
    }

    /// A connection to a port of the pod. Whether the port takes it is seen when it is used: if
    /// not, reading gives an error that says why.
    ///
    /// Cancel safe: a future that is dropped leaves no connection.
    ///
    /// # Errors
    /// [`Loss`] if the forward is over.
    pub async fn connect(&self, port: u16) -> Result<ForwardedStream, Loss> {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let failure = FailureCell::default();
        let asked = Asked { port, stream: Near::Program(theirs, failure.clone()) };
        match self.asked.send(asked).await {
            Ok(()) => Ok(ForwardedStream { pipe: ours, failure }),
            Err(_) => Err(self.lost().await),
        }
    }

    /// Joins a socket with a port of the pod. `tell` is called if that does not end as it should,
    /// or is ended by the pod.
    ///
    /// # Errors
    /// Both, if the forward is over.
    pub async fn join(
        &self,
        port: u16,
        socket: TcpStream,
        tell: Tell,
    ) -> Result<(), (TcpStream, Tell)> {
        let joined = Joined { socket, tell, has_ended: false };
        let asked = Asked { port, stream: Near::Socket(joined) };
        match self.asked.send(asked).await {
            Err(mpsc::error::SendError(Asked { stream: Near::Socket(joined), .. })) => {
                Err((joined.socket, joined.tell))
            }
            _ => Ok(()),
        }
    }

    /// Ends it: tells the server, and the peers of connections that are not at their end. One that
    /// was lost has nobody left to tell.
    pub async fn close(self) {
        let PortForward { asked, mut lost } = self;
        drop(asked);
        let _ = lost.wait_for(Option::is_some).await;
    }

    /// Resolves once the forward is over, with why.
    pub async fn lost(&self) -> Loss {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(loss) => loss.clone().unwrap_or_else(|| Loss::new(Cause::Cut, "")),
            Err(_) => Loss::new(Cause::Cut, ""),
        }
    }
}

/// Runs a forward until it is lost, or until nobody can ask for more; says so in `lost`. After a
/// loss, local ends that have yet to take what came before it are still served. Gives how it ended,
/// and the bytes that were moved.
async fn drive<S: Connection>(
    mut driver: ForwardDriver<S, Near>,
    mut asks: mpsc::Receiver<Asked>,
    lost: watch::Sender<Option<Loss>>,
) -> (End, Traffic) {
    let mut end = None;
    loop {
        tokio::select! {
            biased;
            asked = asks.recv(), if end.is_none() => match asked {
                None => {
                    driver.leave("").await;
                    lost.send_replace(Some(Loss::new(Cause::Closed, "by this side")));
                    return (End::Over, driver.traffic().turned());
                }
                Some(Asked { port, stream }) => {
                    if let Err(stream) = driver.connect(port, stream) {
                        stream.abort(Failure::Lost);
                    }
                }
            },
            happening = driver.next() => match happening {
                None => break,
                Some(ForwardEvent::Lost(loss)) => {
                    end = Some(End::Lost(loss.to_string()));
                    refuse(&mut asks);
                    lost.send_replace(Some(loss));
                }
                Some(_) => {}
            },
        }
    }
    let end = end.unwrap_or_else(|| {
        let loss = Loss::new(Cause::Cut, "");
        let end = End::Lost(loss.to_string());
        refuse(&mut asks);
        lost.send_replace(Some(loss));
        end
    });
    (end, driver.traffic().turned())
}

/// Takes no more, and gives up what was not looked at.
fn refuse(asks: &mut mpsc::Receiver<Asked>) {
    asks.close();
    while let Ok(asked) = asks.try_recv() {
        asked.stream.abort(Failure::Lost);
    }
}

type FailureCell = Arc<OnceLock<Failure>>;

/// A forwarded connection. Dropped, it is closed; [`shutdown`](tokio::io::AsyncWriteExt::shutdown)
/// ends only what this side says.
#[derive(Debug)]
pub struct ForwardedStream {
    pipe: DuplexStream,
    failure: FailureCell,
}

impl ForwardedStream {
    /// Why it ended, if that was not as it should be.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    fn broken(&self) -> Option<io::Error> {
        let failure = self.failure.get()?;
        Some(io::Error::new(io::ErrorKind::ConnectionReset, failure.to_string()))
    }
}

impl AsyncRead for ForwardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buffer))?;
        if buffer.filled().len() == before
            && buffer.remaining() > 0
            && let Some(error) = self.broken()
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ForwardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, bytes));
        Poll::Ready(written.map_err(|error| self.broken().unwrap_or(error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
