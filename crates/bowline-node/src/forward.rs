//! One port-forward: joins an upgraded connection with the ports of a pod.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_io::forward::{ForwardDriver, ForwardEvent};
use bowline_io::local_sockets::{Failure, Local};
use bowline_io::record::{End, Traffic};
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::portforward::{Forward, Id};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::runtime::{BoxFuture, LocalForward, Ports};

/// How many connections one forward dials at a time. On one host a dial takes microseconds, so that
/// more of them would hold descriptors for nothing.
const DIALS: usize = 64;

/// How many connections the port-forwards of a node may have: each of them, and all together.
#[derive(Clone, Debug)]
pub struct Slots {
    per_forward: usize,
    all: Arc<Semaphore>,
}

impl Slots {
    /// Allows `per_forward` connections of one forward, and for all forwards together half of the
    /// descriptors that this process may have: the rest is for everything else.
    #[must_use]
    pub fn new(per_forward: usize) -> Slots {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let all = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
        Slots { per_forward, all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))) }
    }

    /// Returns how many connections one forward may have.
    #[must_use]
    pub fn per_forward(&self) -> usize {
        self.per_forward
    }
}

/// Ports whose connections take a place in [`Slots`].
#[derive(Clone, Debug)]
struct Counted<P> {
    ports: P,
    slots: Slots,
}

impl<P: Display> Display for Counted<P> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.ports.fmt(f)
    }
}

impl<P: Ports> Ports for Counted<P> {
    type Stream = CountedStream<P::Stream>;

    async fn dial(self, port: u16) -> Result<CountedStream<P::Stream>, String> {
        let Ok(slot) = self.slots.all.clone().try_acquire_owned() else {
            return Err("this node has no room for another connection".to_owned());
        };
        Ok(CountedStream { stream: self.ports.dial(port).await?, _slot: slot })
    }
}

/// A connection that holds a place in [`Slots`] until it is dropped.
#[derive(Debug)]
struct CountedStream<L> {
    stream: L,
    _slot: OwnedSemaphorePermit,
}

impl<L: Local> Local for CountedStream<L> {
    fn abort(self, why: Failure) {
        self.stream.abort(why);
    }
}

impl<L: Local> AsyncRead for CountedStream<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<L: Local> AsyncWrite for CountedStream<L> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<P: Ports> LocalForward for P {
    fn run(
        self: Box<Self>,
        forward: Forward,
        connection: Upgraded,
        slots: Slots,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)> {
        let limit = slots.per_forward();
        Box::pin(run(Counted { ports: *self, slots }, forward, connection, limit, end))
    }
}

/// Runs a port-forward for the client at the other end of `connection`, with at most `limit`
/// connections at once, until the client has gone or `end` is cancelled. Returns how it ended, and
/// how many bytes were read.
///
/// Dropped before that, it cuts all connections off without a word to the client.
pub async fn run<S: Connection, P: Ports>(
    pod: P,
    forward: Forward,
    connection: Upgraded<S>,
    limit: usize,
    end: CancellationToken,
) -> (End, Traffic) {
    let mut driver: ForwardDriver<S, P::Stream> = ForwardDriver::new(forward, connection);
    let mut dials = Dials::of(pod);
    let mut ended = End::Over;
    loop {
        tokio::select! {
            biased;
            () = end.cancelled() => {
                driver.leave("the node shuts down").await;
                return (End::Shutdown, driver.traffic());
            }
            Some((id, port, dialled)) = dials.next() => match dialled {
                Ok(stream) => driver.attach(id, stream),
                Err(error) => {
                    let pod = &dials.pod;
                    // What kubectl's users know from the kubelet; the uid is empty there, too.
                    let why = format!("error forwarding port {port} to pod {pod}, uid : {error}");
                    info!("{why}");
                    driver.fail(id, &why);
                }
            },
            happening = driver.next() => match happening {
                None => return (ended, driver.traffic()),
                Some(ForwardEvent::Requested(id, port)) if driver.connections() > limit => {
                    let pod = &dials.pod;
                    let why = format!(
                        "error forwarding port {port} to pod {pod}, uid : {limit} connections are \
                         open already"
                    );
                    info!("{why}");
                    driver.refuse(id, &why);
                }
                Some(ForwardEvent::Requested(id, port)) => {
                    debug!("{}: connection {} to port {port}", dials.pod, id.number());
                    dials.ask(id, port);
                }
                Some(ForwardEvent::Reset(id)) => dials.drop(id),
                Some(ForwardEvent::Broken(id, error)) => {
                    debug!("{}: connection {}: {error}", dials.pod, id.number());
                }
                Some(ForwardEvent::Lost(loss)) => {
                    ended = End::ClientGone(loss.to_string());
                    dials.drop_all();
                }
            },
        }
    }
}

/// The connections that are being dialled. One that is given up counts until its task is gone.
struct Dials<P: Ports> {
    pod: P,
    /// Connections that wait for room among the tasks, in the order in which they were asked for.
    waiting: BTreeMap<Id, u16>,
    tasks: JoinSet<(Id, u16, Dialled<P::Stream>)>,
    /// The tasks whose connections were not given up.
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
                (id, port, pod.dial(port).await.map(|stream| Unclaimed(Some(stream))))
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

    /// Waits for the next dial that was not given up; `None` if there is none. Cancel safe.
    async fn next(&mut self) -> Option<(Id, u16, Result<P::Stream, String>)> {
        loop {
            let joined = self.tasks.join_next().await?;
            self.begin();
            // Its task was aborted: it was given up.
            let Ok((id, port, dialled)) = joined else { continue };
            if self.wanted.remove(&id).is_none() {
                continue;
            }
            match dialled {
                Err(error) => return Some((id, port, Err(error))),
                Ok(mut unclaimed) => {
                    if let Some(stream) = unclaimed.0.take() {
                        return Some((id, port, Ok(stream)));
                    }
                }
            }
        }
    }
}

type Dialled<L> = Result<Unclaimed<L>, String>;

/// A connection that nobody has taken yet. Dropped, it is reset: it must not look like one that
/// ended without data.
struct Unclaimed<L: Local>(Option<L>);

impl<L: Local> Drop for Unclaimed<L> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take() {
            stream.abort(Failure::Lost);
        }
    }
}
