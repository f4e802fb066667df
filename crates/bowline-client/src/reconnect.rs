//! Local listeners to port-forwards, with a new forward when one is lost.

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

use crate::forward::{Failure, Finish, FinishFn, PortForward};

/// The first and the longest pause before an attempt to reconnect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After a forward that lasted this long, the pauses begin with the first one again.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// The most local connections that wait for a forward; each holds a descriptor.
const MAX_WAITING: usize = 1024;
/// The most local connections that were accepted and not handled yet.
const MAX_ACCEPTED: usize = 64;
/// The pause after a failed accept, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The pause between checks of the pod's health while connections fail, or while it is terminating.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// The pause between checks of the pod's health while the pod ends connections in good order. Many
/// servers do so after each response, but so does the system of a pod that is deleted.
const ENDS_CHECK_PAUSE: Duration = Duration::from_secs(10);

/// Opens forwards to a pod, and checks the pod's health.
pub trait Connector: Send + Sync + 'static {
    /// Finds a pod and opens a forward to it.
    ///
    /// # Errors
    /// Returns one line of text if no pod is found, or no forward can be opened to it.
    fn open(&self) -> impl Future<Output = Result<PodForward, String>> + Send;

    /// Checks the pod of the last forward.
    fn health(&self) -> impl Future<Output = Health> + Send;
}

/// The health of a pod that is forwarded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// The pod is as it was, or its state is not known.
    Healthy,
    /// The pod is terminating, and there is no other.
    Ending,
    /// The pod is gone, or terminating while there may be another.
    Gone,
}

/// A forward to a pod.
#[derive(Debug)]
pub struct PodForward {
    /// The forward.
    pub forward: PortForward,
    /// The pod's name.
    pub pod: String,
    /// The pod's port for each of the local ports, in their order.
    pub ports: Vec<u16>,
}

/// A local port, with a listener for each address.
#[derive(Debug)]
pub struct LocalPort {
    /// The port's number.
    pub number: u16,
    /// The port's listeners.
    pub listeners: Vec<TcpListener>,
}

/// What to do while there is no forward.
#[derive(Clone, Copy, Debug)]
pub struct ReconnectOptions {
    /// Whether the first loss ends the listeners, instead of a new forward.
    pub exit_on_lost: bool,
    /// How long a local connection waits for a new forward before it is reset.
    pub max_wait: Duration,
}

/// Why a forward was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostReason {
    /// The forward's connection was lost.
    Lost(Loss),
    /// The forward's pod is gone.
    PodGone,
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostReason::Lost(loss) => loss.fmt(f),
            LostReason::PodGone => f.write_str("the pod is gone"),
        }
    }
}

/// A change to report to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A local connection was accepted at this port.
    Handling(u16),
    /// A connection to a pod's port failed. Its local peer was sent a reset.
    Failed {
        /// The local port.
        local: u16,
        /// The pod's port.
        remote: u16,
        /// How the connection failed.
        why: Failure,
    },
    /// The forward to this pod was lost.
    Lost {
        /// The pod's name.
        pod: String,
        /// Why the forward was lost.
        reason: LostReason,
    },
    /// There is no new forward yet, for another reason than at the attempt before.
    StillLost(String),
    /// There is a new forward, to this pod.
    Restored(String),
    /// A connection to this local port has waited too long for a forward, and was sent a reset.
    GaveUp(u16),
}

/// Forwards connections to `ports`, over `first` and the forwards that `connector` opens after it.
/// Returns `None` once `end` is cancelled, and the reason of the first loss if that is to end it.
pub async fn run<S: Connector>(
    connector: Arc<S>,
    first: PodForward,
    ports: Vec<LocalPort>,
    options: ReconnectOptions,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    end: CancellationToken,
) -> Option<LostReason> {
    let (accepted, arrivals) = mpsc::channel(MAX_ACCEPTED);
    let mut acceptors = JoinSet::new();
    let numbers = ports.iter().map(|port| port.number).collect();
    for (index, port) in ports.into_iter().enumerate() {
        for listener in port.listeners {
            acceptors.spawn(accept(listener, index, accepted.clone()));
        }
    }
    drop(accepted);
    let reconnector = Reconnector {
        connector,
        options,
        tell,
        numbers,
        arrivals,
        waiting: VecDeque::new(),
        pause: FIRST_PAUSE,
        triggers: Arc::default(),
        end,
    };
    reconnector.run(first).await
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
            // The connection is gone already. Other errors are mostly a lack of descriptors.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

struct Reconnector<S> {
    connector: Arc<S>,
    options: ReconnectOptions,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    numbers: Vec<u16>,
    arrivals: mpsc::Receiver<(usize, TcpStream)>,
    /// Connections that wait for a forward, each with its deadline and the index of its port.
    waiting: VecDeque<(Instant, usize, TcpStream)>,
    pause: Duration,
    triggers: Arc<HealthTriggers>,
    end: CancellationToken,
}

/// What makes a check of the pod's health due.
#[derive(Debug, Default)]
struct HealthTriggers {
    /// A connection failed at the pod's side.
    failed: Notify,
    /// The pod has ended a connection.
    ended: Notify,
}

type Check = Pin<Box<dyn Future<Output = Health> + Send>>;

type Attempt = Pin<Box<dyn Future<Output = Result<PodForward, String>> + Send>>;

impl<S: Connector> Reconnector<S> {
    async fn run(mut self, first: PodForward) -> Option<LostReason> {
        let mut current = first;
        loop {
            let since = Instant::now();
            for (_, index, socket) in std::mem::take(&mut self.waiting) {
                self.join(&current, index, socket).await;
            }
            let end = self.forwarding(&current).await;
            let PodForward { forward, pod, .. } = current;
            forward.close().await;
            let end = end?;
            if self.options.exit_on_lost {
                return Some(end);
            }
            if since.elapsed() >= GOOD_AFTER {
                self.pause = FIRST_PAUSE;
            }
            (self.tell)(Change::Lost { pod, reason: end });
            current = self.reconnecting().await?;
            (self.tell)(Change::Restored(current.pod.clone()));
        }
    }

    /// Forwards connections until the forward is lost; `None` once `end` is cancelled.
    async fn forwarding(&mut self, current: &PodForward) -> Option<LostReason> {
        let (mut last_check, mut next_check): (Option<Instant>, Option<Instant>) = (None, None);
        let mut check: Option<Check> = None;
        let triggers = self.triggers.clone();
        loop {
            let after = |pause| last_check.map_or(Instant::now(), |last| last + pause);
            let earlier = |at: Instant| Some(next_check.map_or(at, |next| next.min(at)));
            tokio::select! {
                () = self.end.cancelled() => return None,
                loss = current.forward.lost() => return Some(LostReason::Lost(loss)),
                Some((index, socket)) = self.arrivals.recv() => {
                    (self.tell)(Change::Handling(self.number(index)));
                    self.join(current, index, socket).await;
                }
                () = triggers.failed.notified() => next_check = earlier(after(CHECK_PAUSE)),
                () = triggers.ended.notified() => next_check = earlier(after(ENDS_CHECK_PAUSE)),
                () = until(next_check), if check.is_none() => {
                    next_check = None;
                    let connector = self.connector.clone();
                    check = Some(Box::pin(async move { connector.health().await }));
                }
                health = checked(&mut check) => {
                    (check, last_check) = (None, Some(Instant::now()));
                    match health {
                        Health::Gone => return Some(LostReason::PodGone),
                        Health::Ending => triggers.failed.notify_one(),
                        Health::Healthy => {}
                    }
                }
            }
        }
    }

    fn number(&self, index: usize) -> u16 {
        self.numbers.get(index).copied().unwrap_or_default()
    }

    async fn join(&mut self, current: &PodForward, index: usize, socket: TcpStream) {
        // Local ports without one of the pod's are forwarded to port 0, which fails.
        let local = self.number(index);
        let remote = current.ports.get(index).copied().unwrap_or_default();
        let (tell, triggers) = (self.tell.clone(), self.triggers.clone());
        let on_finish: FinishFn = Box::new(move |finish| match finish {
            Finish::ByPod => triggers.ended.notify_one(),
            Finish::Failed(why) => {
                if matches!(why, Failure::Refused(_) | Failure::Reset) {
                    triggers.failed.notify_one();
                }
                tell(Change::Failed { local, remote, why });
            }
        });
        if let Err((socket, _)) = current.forward.join(remote, socket, on_finish).await {
            self.wait(index, socket);
        }
    }

    fn wait(&mut self, index: usize, socket: TcpStream) {
        if self.waiting.len() >= MAX_WAITING {
            socket.abort(Failure::Lost);
            (self.tell)(Change::GaveUp(self.number(index)));
            return;
        }
        self.waiting.push_back((Instant::now() + self.options.max_wait, index, socket));
    }

    /// Keeps local connections waiting until there is a new forward; `None` once `end` is
    /// cancelled.
    async fn reconnecting(&mut self) -> Option<PodForward> {
        let mut said = String::new();
        let mut attempt = self.attempt();
        loop {
            let first = self.waiting.front().map(|waiting| waiting.0);
            tokio::select! {
                () = self.end.cancelled() => return None,
                result = &mut attempt => match result {
                    Ok(current) => return Some(current),
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
        let (connector, pause) = (self.connector.clone(), self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Box::pin(async move {
            sleep(pause).await;
            connector.open().await
        })
    }
}

async fn checked(check: &mut Option<Check>) -> Health {
    match check {
        Some(check) => check.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
