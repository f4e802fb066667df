//! Listeners in front of a port-forward, and another forward behind them when one is lost.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bowline_io::local_sockets::Local;
use bowline_proto::session::Loss;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::forward::{Failure, Finish, PortForward, Tell};

/// Before the first new try, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A forward that held for so long was a good one: the next loss begins with the first pause.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// Local connections that wait for a forward; each holds a descriptor.
const WAITING: usize = 1024;
/// Local connections that were accepted and not looked at yet.
const ACCEPTED: usize = 64;
/// After a failed accept, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After a connection has failed, and while the pod is ending, it is looked at no more often than
/// this.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// The same after a connection that the pod has ended in good order. So do many servers after each
/// answer, and so does the system of a pod that is deleted.
const LOOK_AFTER_ENDS_EVERY: Duration = Duration::from_secs(10);

/// Where forwards come from.
pub trait Source: Send + Sync + 'static {
    /// Finds a pod and opens a forward to it.
    ///
    /// # Errors
    /// Why not, in one line.
    fn open(&self) -> impl Future<Output = Result<Reached, String>> + Send;

    /// How the pod is that was reached last.
    fn look(&self) -> impl Future<Output = Health> + Send;
}

/// How a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it was; so is one that nothing can be learned of.
    Well,
    /// It will be gone, and there is no other.
    Ending,
    /// It is gone, or ending and there may be another.
    Gone,
}

/// A forward, the pod that it goes to, and the pod's port for each of the local ones.
#[derive(Debug)]
pub struct Reached {
    /// The forward.
    pub forward: PortForward,
    /// The pod's name.
    pub pod: String,
    /// As many as there are local ports.
    pub ports: Vec<u16>,
}

/// A local port: its number, and a listener for each address.
#[derive(Debug)]
pub struct LocalPort {
    /// The number.
    pub number: u16,
    /// The listeners.
    pub listeners: Vec<TcpListener>,
}

/// How patient listeners are while there is no forward.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The first loss is the end.
    pub exit_on_lost: bool,
    /// How long a local connection waits while there is no forward.
    pub waits: Duration,
}

/// Why a forward is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Its connection was lost.
    Lost(Loss),
    /// The pod that it goes to is gone.
    PodGone,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Lost(loss) => loss.fmt(f),
            End::PodGone => f.write_str("the pod is gone"),
        }
    }
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A local connection came to this port.
    Handling(u16),
    /// A connection from a local to a pod's port did not end as it should. Its local peer was sent
    /// a reset.
    Failed {
        /// The local port.
        local: u16,
        /// The pod's port.
        remote: u16,
        /// How it failed.
        why: Failure,
    },
    /// The forward to this pod was lost.
    Lost {
        /// The pod.
        pod: String,
        /// How the forward ended.
        end: End,
    },
    /// There is no new one yet, for another reason than before.
    StillLost(String),
    /// There is one again, to this pod.
    Restored(String),
    /// A connection to this local port has waited long enough, and was sent a reset.
    GaveUp(u16),
}

/// Forwards what comes to `ports` until `end`, or with the [`End`] of a forward that was to be the
/// last.
pub async fn run<S: Source>(
    source: Arc<S>,
    first: Reached,
    ports: Vec<LocalPort>,
    patience: Patience,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    end: CancellationToken,
) -> Option<End> {
    let (accepted, arrivals) = mpsc::channel(ACCEPTED);
    let mut acceptors = JoinSet::new();
    let numbers = ports.iter().map(|port| port.number).collect();
    for (index, port) in ports.into_iter().enumerate() {
        for listener in port.listeners {
            acceptors.spawn(accept(listener, index, accepted.clone()));
        }
    }
    drop(accepted);
    let reconnecting = Reconnecting {
        source,
        patience,
        tell,
        numbers,
        arrivals,
        waiting: VecDeque::new(),
        pause: FIRST_PAUSE,
        doubts: Arc::default(),
        end,
    };
    reconnecting.run(first).await
}

async fn accept(listener: TcpListener, index: usize, to: mpsc::Sender<(usize, TcpStream)>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let _ = socket.set_nodelay(true);
                if to.send((index, socket)).await.is_err() {
                    return;
                }
            }
            // Of a connection that is gone already, or for want of descriptors.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

struct Reconnecting<S> {
    source: Arc<S>,
    patience: Patience,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    numbers: Vec<u16>,
    arrivals: mpsc::Receiver<(usize, TcpStream)>,
    /// Connections that wait for a forward, each until then.
    waiting: VecDeque<(Instant, usize, TcpStream)>,
    pause: Duration,
    doubts: Arc<Doubts>,
    end: CancellationToken,
}

/// What speaks against the pod being there.
#[derive(Debug, Default)]
struct Doubts {
    /// A connection failed at the pod's side.
    failed: Notify,
    /// The pod has ended a connection.
    ended: Notify,
}

type Look = Pin<Box<dyn Future<Output = Health> + Send>>;

type Attempt = Pin<Box<dyn Future<Output = Result<Reached, String>> + Send>>;

impl<S: Source> Reconnecting<S> {
    async fn run(mut self, first: Reached) -> Option<End> {
        let mut reached = first;
        loop {
            let since = Instant::now();
            for (_, index, socket) in std::mem::take(&mut self.waiting) {
                self.join(&reached, index, socket).await;
            }
            let end = self.up(&reached).await;
            let Reached { forward, pod, .. } = reached;
            forward.close().await;
            let end = end?;
            if self.patience.exit_on_lost {
                return Some(end);
            }
            if since.elapsed() >= GOOD_AFTER {
                self.pause = FIRST_PAUSE;
            }
            (self.tell)(Change::Lost { pod, end });
            reached = self.down().await?;
            (self.tell)(Change::Restored(reached.pod.clone()));
        }
    }

    /// While there is a forward; `None` is the end of all.
    async fn up(&mut self, reached: &Reached) -> Option<End> {
        let (mut last_look, mut next_look): (Option<Instant>, Option<Instant>) = (None, None);
        let mut look: Option<Look> = None;
        let doubts = self.doubts.clone();
        loop {
            let after = |pause| last_look.map_or(Instant::now(), |last| last + pause);
            let earlier = |at: Instant| Some(next_look.map_or(at, |next| next.min(at)));
            tokio::select! {
                () = self.end.cancelled() => return None,
                loss = reached.forward.lost() => return Some(End::Lost(loss)),
                Some((index, socket)) = self.arrivals.recv() => {
                    (self.tell)(Change::Handling(self.number(index)));
                    self.join(reached, index, socket).await;
                }
                () = doubts.failed.notified() => next_look = earlier(after(LOOK_AT_MOST_EVERY)),
                () = doubts.ended.notified() => next_look = earlier(after(LOOK_AFTER_ENDS_EVERY)),
                () = until(next_look), if look.is_none() => {
                    next_look = None;
                    let source = self.source.clone();
                    look = Some(Box::pin(async move { source.look().await }));
                }
                health = looked(&mut look) => {
                    (look, last_look) = (None, Some(Instant::now()));
                    match health {
                        Health::Gone => return Some(End::PodGone),
                        Health::Ending => doubts.failed.notify_one(),
                        Health::Well => {}
                    }
                }
            }
        }
    }

    fn number(&self, index: usize) -> u16 {
        self.numbers.get(index).copied().unwrap_or_default()
    }

    async fn join(&mut self, reached: &Reached, index: usize, socket: TcpStream) {
        // A source that gives fewer ports than there are local ones forwards these nowhere.
        let local = self.number(index);
        let remote = reached.ports.get(index).copied().unwrap_or_default();
        let (tell, doubts) = (self.tell.clone(), self.doubts.clone());
        let told: Tell = Box::new(move |finish| match finish {
            Finish::ByPod => doubts.ended.notify_one(),
            Finish::Failed(why) => {
                if matches!(why, Failure::Refused(_) | Failure::Reset) {
                    doubts.failed.notify_one();
                }
                tell(Change::Failed { local, remote, why });
            }
        });
        if let Err((socket, _)) = reached.forward.join(remote, socket, told).await {
            self.wait(index, socket);
        }
    }

    fn wait(&mut self, index: usize, socket: TcpStream) {
        if self.waiting.len() >= WAITING {
            socket.abort(Failure::Lost);
            (self.tell)(Change::GaveUp(self.number(index)));
            return;
        }
        self.waiting.push_back((Instant::now() + self.patience.waits, index, socket));
    }

    /// While there is none: tries until there is, or the end of all.
    async fn down(&mut self) -> Option<Reached> {
        let mut said = String::new();
        let mut attempt = self.attempt();
        loop {
            let first = self.waiting.front().map(|waiting| waiting.0);
            tokio::select! {
                () = self.end.cancelled() => return None,
                result = &mut attempt => match result {
                    Ok(reached) => return Some(reached),
                    Err(why) => {
                        if why != said {
                            (self.tell)(Change::StillLost(why.clone()));
                            said = why;
                        }
                        attempt = self.attempt();
                    }
                },
                Some((index, socket)) = self.arrivals.recv() => {
                    (self.tell)(Change::Handling(self.number(index)));
                    self.wait(index, socket);
                }
                () = until(first) => {
                    if let Some((_, index, socket)) = self.waiting.pop_front() {
                        socket.abort(Failure::Lost);
                        (self.tell)(Change::GaveUp(self.number(index)));
                    }
                }
            }
        }
    }

    fn attempt(&mut self) -> Attempt {
        let (source, pause) = (self.source.clone(), self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Box::pin(async move {
            sleep(pause).await;
            source.open().await
        })
    }
}

async fn looked(look: &mut Option<Look>) -> Health {
    match look {
        Some(look) => look.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
