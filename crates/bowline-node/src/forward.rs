//! One port-forward: joins an upgraded connection with the ports of a pod.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::crowd::{Failure, Local};
use bowline_io::forward::{Happening, Pump};
use bowline_io::local;
use bowline_io::record::{End, Traffic};
use bowline_io::stream::{Connection, Upgraded};
use bowline_io::text::of_system;
use bowline_proto::portforward::{Forward, Id};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// How long a port may take to accept a connection. It is on this host.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that one forward makes at a time. Each takes microseconds on this host, so that
/// more would only hold descriptors for nothing.
const DIALS: usize = 64;

/// A pod whose ports can be reached. It shows itself as a log names it.
pub trait Ports: Display + Clone + Send + 'static {
    /// What a connection is.
    type Stream: Local + Send + 'static;

    /// Connects to one of its ports.
    ///
    /// # Errors
    /// Why not, in words for the user.
    fn dial(self, port: u16) -> impl Future<Output = Result<Self::Stream, String>> + Send;
}

/// What the port-forwards of a node may hold.
#[derive(Clone, Debug)]
pub struct Slots {
    each: usize,
    all: Arc<Semaphore>,
}

impl Slots {
    /// At most `each` connections of one forward, and all of them together half of the descriptors
    /// that this process may have: the rest is for everything else.
    #[must_use]
    pub fn new(each: usize) -> Slots {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        Slots { each, all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))) }
    }

    /// How many connections one forward may have.
    #[must_use]
    pub fn each(&self) -> usize {
        self.each
    }
}

/// A pod of this host: its ports are the host's own.
#[derive(Clone, Debug)]
pub struct HostPod {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Where its connections count.
    pub slots: Slots,
}

impl Display for HostPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// A connection to a port of this host.
#[derive(Debug)]
pub struct HostStream {
    tcp: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Local for HostStream {
    fn abort(self, why: Failure) {
        self.tcp.abort(why);
    }
}

impl AsyncRead for HostStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for HostStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Ports for HostPod {
    type Stream = HostStream;

    async fn dial(self, port: u16) -> Result<HostStream, String> {
        let Ok(slot) = self.slots.all.clone().try_acquire_owned() else {
            return Err("this node has no room for another connection".to_owned());
        };
        Ok(HostStream { tcp: reach(&self.name, port).await?, _slot: slot })
    }
}

/// IPv4 first, as containerd, and with its words. Whoever may only reach a pod's ports must not
/// reach the node itself, which could believe what comes from its own host.
async fn reach(pod: &str, port: u16) -> Result<TcpStream, String> {
    if local::is_own(port) {
        return Err(format!("port {port} is the node's own"));
    }
    let four = match connect((Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        Err(error) => of_system(&error),
    };
    let six = match connect((Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(stream) => return Ok(stream),
        Err(error) => of_system(&error),
    };
    Err(format!(
        "failed to connect to localhost:{port} inside namespace {pod:?}, IPv4: dial tcp4 \
         127.0.0.1:{port}: connect: {four} IPv6 dial tcp6 [::1]:{port}: connect: {six} "
    ))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout");
    let stream = timeout(DIAL_PATIENCE, TcpStream::connect(address)).await.map_err(late)??;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Runs a port-forward for the client at the other end of `connection`, with at most `most`
/// connections at once, until it has gone or `end`. Gives how it ended, and how many bytes it read.
pub async fn run<S: Connection, P: Ports>(
    pod: P,
    forward: Forward,
    connection: Upgraded<S>,
    most: usize,
    end: CancellationToken,
) -> (End, Traffic) {
    let mut pump: Pump<S, P::Stream> = Pump::new(forward, connection);
    let mut dials = Dials::of(pod);
    let mut ended = End::Over;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => {
                pump.leave("the node shuts down").await;
                return (End::Shutdown, pump.traffic());
            }
            Some((id, port, dialled)) = dials.next() => match dialled {
                Ok(stream) => pump.attach(id, stream),
                Err(error) => {
                    let pod = &dials.pod;
                    // What kubectl's users know from the kubelet; the uid is empty there, too.
                    let why = format!("error forwarding port {port} to pod {pod}, uid : {error}");
                    info!("{why}");
                    pump.fail(id, &why);
                }
            },
            happening = pump.next() => match happening {
                None => return (ended, pump.traffic()),
                Some(Happening::Asked(id, port)) if pump.connections() > most => {
                    let pod = &dials.pod;
                    let why = format!(
                        "error forwarding port {port} to pod {pod}, uid : {most} connections are \
                         open already"
                    );
                    info!("{why}");
                    pump.refuse(id, &why);
                }
                Some(Happening::Asked(id, port)) => {
                    debug!("{}: connection {} to port {port}", dials.pod, id.number());
                    dials.ask(id, port);
                }
                Some(Happening::Reset(id)) => dials.drop(id),
                Some(Happening::Broken(id, error)) => {
                    debug!("{}: connection {}: {error}", dials.pod, id.number());
                }
                Some(Happening::Lost(loss)) => {
                    ended = End::ClientGone(loss.to_string());
                    dials.drop_all();
                }
            },
        }
    }
}

/// Connections that are being made. One that is given up is dropped, and counts until it is gone.
struct Dials<P: Ports> {
    pod: P,
    /// Until there is room for them, in the order in which they were asked for.
    waiting: BTreeMap<Id, u16>,
    tasks: JoinSet<(Id, u16, Dialled<P::Stream>)>,
    /// Those that were not given up.
    wanted: BTreeMap<Id, AbortHandle>,
}

impl<P: Ports> Dials<P> {
    fn of(pod: P) -> Dials<P> {
        Dials { pod, waiting: BTreeMap::new(), tasks: JoinSet::new(), wanted: BTreeMap::new() }
    }

    fn ask(&mut self, id: Id, port: u16) {
        self.waiting.insert(id, port);
        self.begin();
    }

    fn begin(&mut self) {
        while self.tasks.len() < DIALS
            && let Some((id, port)) = self.waiting.pop_first()
        {
            let pod = self.pod.clone();
            let task = self.tasks.spawn(async move {
                (id, port, pod.dial(port).await.map(|stream| Fresh(Some(stream))))
            });
            self.wanted.insert(id, task);
        }
    }

    fn drop(&mut self, id: Id) {
        self.waiting.remove(&id);
        if let Some(task) = self.wanted.remove(&id) {
            task.abort();
        }
    }

    fn drop_all(&mut self) {
        self.waiting.clear();
        self.wanted.clear();
        self.tasks.abort_all();
    }

    /// The next that is wanted. `None` where none is being made. Nothing is lost if it is dropped
    /// before.
    async fn next(&mut self) -> Option<(Id, u16, Result<P::Stream, String>)> {
        loop {
            let joined = self.tasks.join_next().await?;
            self.begin();
            // One that was given up has gone.
            let Ok((id, port, dialled)) = joined else { continue };
            if self.wanted.remove(&id).is_none() {
                continue;
            }
            match dialled {
                Err(error) => return Some((id, port, Err(error))),
                Ok(mut fresh) => {
                    if let Some(stream) = fresh.0.take() {
                        return Some((id, port, Ok(stream)));
                    }
                }
            }
        }
    }
}

type Dialled<L> = Result<Fresh<L>, String>;

/// A connection that nobody has taken yet. Given up, it must not look like one that had nothing to
/// say.
struct Fresh<L: Local>(Option<L>);

impl<L: Local> Drop for Fresh<L> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.abort(Failure::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_port_is_worded_as_by_containerd() {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let pod = HostPod { name: "ns/p".into(), slots: Slots::new(1) };
        let refused = pod.dial(port).await.unwrap_err();
        let expected = format!(
            "failed to connect to localhost:{port} inside namespace \"ns/p\", IPv4: dial tcp4 \
             127.0.0.1:{port}: connect: connection refused IPv6 dial tcp6 [::1]:{port}: connect: "
        );
        assert!(refused.starts_with(&expected), "{refused}");
    }

    #[tokio::test]
    async fn a_port_that_this_process_serves_is_not_forwarded_to() {
        for (address, host) in
            [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1")]
        {
            // Where this host has IPv6 at all.
            let bound = tokio::net::TcpListener::bind((address, 0)).await;
            let Ok(listener) = bound else { continue };
            let port = listener.local_addr().unwrap().port();
            let sessions = bowline_io::serve::Sessions::default();
            let service = |_, _| async { http::Response::new(bowline_io::serve::body("")) };
            let serving = bowline_io::serve::serve(
                listener,
                None,
                Default::default(),
                sessions.clone(),
                service,
            );
            let asking = async {
                // Whoever may is let in: it is served by now.
                let connected = TcpStream::connect((host, port)).await;
                let dialled =
                    HostPod { name: "ns/p".into(), slots: Slots::new(1) }.dial(port).await;
                sessions.end.cancel();
                (connected.is_ok(), dialled)
            };
            let ((), (connected, dialled)) = tokio::join!(serving, asking);
            assert!(connected, "{address}");
            assert_eq!(dialled.unwrap_err(), format!("port {port} is the node's own"));
        }
    }
}
