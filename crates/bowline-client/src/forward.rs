//! A pod to a port-forward, and its ports to plain streams.

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
use crate::upgrade::{Switched, UpgradeError, UpgradeRequest};

/// The most bytes buffered between a program and its connection, in each direction.
const PIPE_BYTES: usize = 256 * 1024;
/// The most requests that wait for the forward's task, which is never busy for long.
const MAX_REQUESTS: usize = 64;

/// A port-forward to be opened, made by [`Client::port_forward`].
#[derive(Clone, Debug)]
#[must_use = "nothing is asked for before it is opened"]
pub struct ForwardRequest {
    pub(crate) client: Client,
    pub(crate) pod: String,
    pub(crate) ports: Vec<u16>,
}

impl ForwardRequest {
    /// Names ports that will be connected to. Others can be as well: this is for kubelets before
    /// 1.36, which refuse any WebSocket to a request that names none.
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> ForwardRequest {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Returns the request's URL.
    #[must_use]
    pub fn url(&self) -> Url {
        request::port_forward(&self.client, &self.pod, &self.ports)
    }

    /// Opens the forward: in a WebSocket tunnel first, over SPDY if that is refused. Must be called
    /// in a tokio runtime with I/O and time; a task of its own drives the connection.
    ///
    /// Cancel safe: a future that is dropped leaves no forward.
    ///
    /// # Errors
    /// [`UpgradeError`] if the server cannot be reached or does not upgrade the connection.
    pub async fn open(&self) -> Result<PortForward, UpgradeError> {
        let pending = self.client.admit(self.client.record("portforward", &self.pod))?;
        let url = self.url();
        let upgrade = UpgradeRequest { client: &self.client, url: &url };
        let first = self.client.websocket.then(|| Offer::tunnel(random::bytes()));
        let what = "fallback to secondary dialer from primary dialer err";
        let switched = upgrade.with_fallback(first, Offer::forward(), what).await?;
        let Switched { connection, protocol, .. } = switched;
        upgrade.note(4, "negotiated protocol: portforward.k8s.io");
        let wire = if *protocol == FORWARD_TUNNEL {
            Wire::tunnel(Role::Client, random::bytes())
        } else {
            Wire::plain()
        };
        let running = begin(pending, &connection, protocol);
        Ok(PortForward::drive(connection, wire, Some(running)))
    }
}

/// How the connection of a joined socket ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finish {
    /// The connection failed. The socket's peer was sent a reset.
    Failed(Failure),
    /// The pod ended its direction first, in good order: it is done, or is being deleted.
    ByPod,
}

/// A callback of [`PortForward::join`] for connections that fail, or that the pod ends.
pub type FinishFn = Box<dyn FnMut(Finish) + Send>;

/// One upgraded connection that carries many forwarded ones. Dropping it ends them all.
#[derive(Debug)]
pub struct PortForward {
    requests: mpsc::Sender<ConnectRequest>,
    lost: watch::Receiver<Option<Loss>>,
}

struct ConnectRequest {
    port: u16,
    stream: LocalEnd,
}

/// The local end of a connection.
enum LocalEnd {
    Socket(JoinedSocket),
    Program(DuplexStream, FailureCell),
}

/// A socket that is joined with a port of the pod.
struct JoinedSocket {
    socket: TcpStream,
    on_finish: FinishFn,
    /// Whether the socket's peer has ended its direction.
    has_ended: bool,
}

impl Local for LocalEnd {
    fn abort(self, why: Failure) {
        match self {
            LocalEnd::Socket(JoinedSocket { socket, mut on_finish, .. }) => {
                socket.abort(why.clone());
                on_finish(Finish::Failed(why));
            }
            // Set before the pipe ends, since its reader looks here at the end.
            LocalEnd::Program(_, failure) => drop(failure.set(why)),
        }
    }
}

macro_rules! with_inner {
    ($end:expr, $inner:ident => $body:expr) => {
        match $end {
            LocalEnd::Socket(JoinedSocket { socket: $inner, .. }) => $body,
            LocalEnd::Program($inner, _) => $body,
        }
    };
}

impl AsyncRead for LocalEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = (buffer.filled().len(), buffer.remaining());
        let read = with_inner!(&mut *self, inner => Pin::new(inner).poll_read(cx, buffer));
        if let (LocalEnd::Socket(joined), Poll::Ready(Ok(()))) = (&mut *self, &read) {
            joined.has_ended |= before.1 > 0 && buffer.filled().len() == before.0;
        }
        read
    }
}

impl AsyncWrite for LocalEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_inner!(&mut *self, inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_inner!(&mut *self, inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        with_inner!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_inner!(&mut *self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = with_inner!(&mut *self, inner => Pin::new(inner).poll_shutdown(cx));
        if let (LocalEnd::Socket(joined), Poll::Ready(_)) = (&mut *self, &ended)
            && !joined.has_ended
        {
            (joined.on_finish)(Finish::ByPod);
        }
        ended
    }
}

impl PortForward {
    /// Creates a forward over a connection that was upgraded already. Must be called in a tokio
    /// runtime with I/O and time.
    #[must_use]
    pub fn over<S: Connection + Send + 'static>(connection: Upgraded<S>, wire: Wire) -> Self {
        PortForward::drive(connection, wire, None)
    }

    /// Creates the forward of a session, whose hooks, if it has some, know of its begin.
    fn drive<S: Connection + Send + 'static>(
        connection: Upgraded<S>,
        wire: Wire,
        running: Option<Running>,
    ) -> Self {
        let (requests, receiver) = mpsc::channel(MAX_REQUESTS);
        let (lost, loss) = watch::channel(None);
        let forward = Forward::Spdy(OverSpdy::new(Side::Client, wire));
        let driver = ForwardDriver::new(forward, connection);
        #[expect(clippy::disallowed_methods, reason = "it ends with the forward that is given")]
        tokio::spawn(drive(driver, receiver, lost, running));
        PortForward { requests, lost: loss }
    }

    /// Opens a connection to a port of the pod. Whether the port accepts it shows in its use: if
    /// not, reading fails with the reason.
    ///
    /// Cancel safe: a future that is dropped leaves no connection.
    ///
    /// # Errors
    /// [`Loss`] if the forward is over.
    pub async fn connect(&self, port: u16) -> Result<ForwardedStream, Loss> {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let failure = FailureCell::default();
        let request = ConnectRequest { port, stream: LocalEnd::Program(theirs, failure.clone()) };
        match self.requests.send(request).await {
            Ok(()) => Ok(ForwardedStream { pipe: ours, failure }),
            Err(_) => Err(self.lost().await),
        }
    }

    /// Connects a local socket to a port of the pod. `on_finish` is called if the connection fails,
    /// or the pod ends it.
    ///
    /// # Errors
    /// Returns both arguments if the forward is over.
    pub async fn join(
        &self,
        port: u16,
        socket: TcpStream,
        on_finish: FinishFn,
    ) -> Result<(), (TcpStream, FinishFn)> {
        let joined = JoinedSocket { socket, on_finish, has_ended: false };
        let request = ConnectRequest { port, stream: LocalEnd::Socket(joined) };
        match self.requests.send(request).await {
            Err(mpsc::error::SendError(ConnectRequest {
                stream: LocalEnd::Socket(joined),
                ..
            })) => Err((joined.socket, joined.on_finish)),
            _ => Ok(()),
        }
    }

    /// Ends the forward: closes the connection to the server in order, and resets connections that
    /// are still open. Returns at once if the forward was lost.
    pub async fn close(self) {
        let PortForward { requests, mut lost } = self;
        drop(requests);
        let _ = lost.wait_for(Option::is_some).await;
    }

    /// Waits until the forward is over, and returns why. Cancel safe.
    pub async fn lost(&self) -> Loss {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(loss) => loss.clone().unwrap_or_else(|| Loss::new(Cause::Cut, "")),
            Err(_) => Loss::new(Cause::Cut, ""),
        }
    }
}

/// Drives a forward until it is lost or its [`PortForward`] is dropped, and sends that to `lost`.
/// After a loss, local ends still get the bytes that came before it. Hooks are told first: what a
/// session holds is free when its owner knows of its end.
async fn drive<S: Connection>(
    mut driver: ForwardDriver<S, LocalEnd>,
    mut requests: mpsc::Receiver<ConnectRequest>,
    lost: watch::Sender<Option<Loss>>,
    mut running: Option<Running>,
) {
    let mut is_lost = false;
    let mut end = |end: End, traffic: Traffic| {
        running.take().and_then(|running| running.end(end, Some(traffic.turned())))
    };
    loop {
        tokio::select! {
            biased;
            request = requests.recv(), if !is_lost => match request {
                None => {
                    driver.leave("").await;
                    end(End::Over, driver.traffic());
                    lost.send_replace(Some(Loss::new(Cause::Closed, "by this side")));
                    return;
                }
                Some(ConnectRequest { port, stream }) => {
                    if let Err(stream) = driver.connect(port, stream) {
                        stream.abort(Failure::Lost);
                    }
                }
            },
            event = driver.next() => match event {
                None => break,
                Some(ForwardEvent::Lost(loss)) => {
                    is_lost = true;
                    end(End::Lost(loss.to_string()), driver.traffic());
                    refuse(&mut requests);
                    lost.send_replace(Some(loss));
                }
                Some(_) => {}
            },
        }
    }
    if !is_lost {
        let loss = Loss::new(Cause::Cut, "");
        end(End::Lost(loss.to_string()), driver.traffic());
        refuse(&mut requests);
        lost.send_replace(Some(loss));
    }
}

/// Refuses further requests, and those that wait.
fn refuse(requests: &mut mpsc::Receiver<ConnectRequest>) {
    requests.close();
    while let Ok(request) = requests.try_recv() {
        request.stream.abort(Failure::Lost);
    }
}

type FailureCell = Arc<OnceLock<Failure>>;

/// A forwarded connection. Dropping it closes both directions;
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) ends only the one to the pod.
#[derive(Debug)]
pub struct ForwardedStream {
    pipe: DuplexStream,
    failure: FailureCell,
}

impl ForwardedStream {
    /// Why the connection failed, if it did.
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
