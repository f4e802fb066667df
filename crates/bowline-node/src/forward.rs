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

/// Connections that one forward makes at a time. On one host each takes microseconds, so that more
/// would only hold descriptors for nothing.
const DIALS: usize = 64;

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

/// Ports whose connections count.
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

/// A connection that counts for as long as it is there.
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
        let most = slots.each();
        Box::pin(run(Counted { ports: *self, slots }, forward, connection, most, end))
    }
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
                Some(ForwardEvent::Requested(id, port)) if driver.connections() > most => {
                    let pod = &dials.pod;
                    let why = format!(
                        "error forwarding port {port} to pod {pod}, uid : {most} connections are \
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
