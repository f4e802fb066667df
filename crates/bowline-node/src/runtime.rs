//! What a kubelet asks of a container runtime, and what that answers with: a session to be driven
//! here, or a server to relay to.
//!
//! A [`Runtime`] finds what a request names and refuses in its own words; nothing has begun then.
//! The client's handshake is judged next, and only if that is good does anything start: a
//! [`Command`] once its client has opened all streams, a connection to one of the [`Ports`] once it
//! is asked for, and an [`Upstream`] when its future is first polled, before the client's 101.
//!
//! What is local is driven by [`session`](crate::session) and [`forward`](crate::forward), which
//! know the command's own type; a runtime behind a pointer costs one virtual call a session.

use std::fmt::{self, Debug, Display, Formatter};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bowline_io::drive::WriteQueue;
use bowline_io::local_sockets::Local;
use bowline_io::record::{End, Traffic};
use bowline_io::stream::Upgraded;
use bowline_proto::portforward::Forward;
use bowline_proto::session::protocol::Carrier;
use bowline_proto::session::{Protocol, Size, Wants};
use bytes::Bytes;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::forward::Slots;
use crate::kept::Job;

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A runtime's answer, when it is there, or its refusal.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

/// What runs the containers of a node.
///
/// [`exec`](Self::exec), [`attach`](Self::attach) and [`port_forward`](Self::port_forward) are
/// asked before the client's handshake is judged, and their answers dropped if that is bad: nothing
/// may have begun by then. Each future may be dropped at any time.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Finds a running container for a command.
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session>;

    /// Finds a running container for a client that attaches to its main process. The client misses
    /// nothing that is written from here on.
    fn attach<'a>(&'a self, target: &'a Target, request: AttachRequest) -> Answer<'a, Attachment>;

    /// Finds a pod for connections to its ports. `ports` are known beforehand where the client
    /// speaks channels, and empty elsewhere.
    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        ports: &'a [u16],
    ) -> Answer<'a, Forwarding>;

    /// Finds a container, running or not, and its log.
    fn logs<'a>(&'a self, target: &'a Target, request: LogRequest) -> Answer<'a, Log>;

    /// Runs a command to its end, without input, and returns what it wrote: stdout, then stderr.
    /// Default: a refusal, for runtimes that only stream.
    ///
    /// That the command fails is a refusal as well.
    fn run<'a>(&'a self, target: &'a Target, command: Vec<String>) -> Answer<'a, Bytes> {
        let _ = (target, command);
        let text = "this node's runtime runs commands in streams only";
        Box::pin(std::future::ready(Err(Refusal::new(501, text))))
    }

    /// Says whether the runtime can be used, for the node's health check. Default: it can.
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Ends what the runtime has started. All sessions have ended by then.
    fn shut_down(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A pod, as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uid that the pod must have, where one is given.
    pub uid: Option<String>,
}

/// A container, as a request names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its pod.
    pub pod: PodTarget,
    /// Its name.
    pub container: String,
}

/// A request for a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExecRequest {
    /// Its words.
    pub command: Vec<String>,
    /// The channels that the client wants.
    pub wants: Wants,
    /// Variables of its environment, names and values. A runtime that cannot set them refuses a
    /// request that has some.
    pub env: Vec<(String, String)>,
}

/// A request to attach to a main process.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttachRequest {
    /// The channels that the client wants.
    pub wants: Wants,
    /// How many lines of the log come first, if the runtime can do that.
    pub replay: Option<usize>,
}

/// A request for a log. Everything else that a client may ask for is done with its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRequest {
    /// Whether the log goes on while the container runs.
    pub follow: bool,
    /// How many of the last lines are wanted, of the wanted source; `None` is all.
    pub tail: Option<u64>,
    /// The output that is wanted; `None` is both. A runtime may give both in any case: records of
    /// the other one are passed over.
    pub source: Option<Source>,
    /// Whether the log of the container's previous run is wanted.
    pub previous: bool,
    /// The time of the oldest line that is wanted. A runtime may give older ones in any case: they
    /// are passed over.
    pub since: Option<SystemTime>,
    /// Whether the client is told the time of each line. If it is not, nor is there a `since`, a
    /// runtime may give lines of different times as one record, with the time of the first.
    pub timestamps: bool,
}

/// Who serves what was asked for.
pub enum Served<L: ?Sized> {
    /// The node does, with this.
    Local(Box<L>),
    /// Another server does, which is asked once the client's handshake is good.
    Upstream(Answer<'static, Upstream>),
}

/// Who serves an exec or an attach. A [`Command`] in a box is a local one.
pub type Session = Served<dyn LocalSession>;

/// Who serves a port-forward. [`Ports`] in a box are local ones.
pub type Forwarding = Served<dyn LocalForward>;

/// Who serves an attach, and what of its request was granted.
#[derive(Debug)]
pub struct Attachment {
    /// Who serves it.
    pub session: Session,
    /// The lines with which it begins, if they were asked for and the runtime gives them. An
    /// upstream says so itself.
    pub replay: Option<usize>,
}

/// A runtime's refusal, or failure, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status code.
    pub code: u16,
    /// What the client is told, as plain text.
    pub text: String,
    /// Header lines that go with it.
    pub headers: Vec<(&'static str, String)>,
    /// What this program's log says; empty if that is `text`.
    pub cause: String,
}

/// The address of a server that streams what was asked for, as container runtimes have one.
pub struct Upstream {
    /// The server's URL. `//HOST:PORT/…`, without a scheme, is plain HTTP.
    pub url: String,
    /// What the runtime is called, for who cannot reach it; nothing where the address says it all.
    pub name: Option<String>,
    /// For `https`: whom this node trusts, and with which certificate it asks.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What the server speaks in exec and attach. Port-forwards are SPDY in any case.
    pub carrier: Carrier,
    /// The channels that the server serves, where they are not those that the client wants: it is
    /// the container that says whether an attach has a terminal.
    pub wants: Option<Wants>,
    /// Called if the session ends without an outcome, so that the runtime can end what still runs;
    /// with how it ended, or with `None` if it did not begin.
    pub on_lost: Option<OnLost>,
}

/// Called once, for a session that ended without an outcome.
pub type OnLost = Box<dyn FnOnce(Option<&End>) + Send>;

/// A command and where it would run. Its `Display` is its name in logs.
pub trait Command: Display {
    /// The running command.
    type Process: Process;

    /// Starts the command, with a terminal of this size where there is one. Where that takes time,
    /// the process is returned before, and says [`Act::NotStarted`] if nothing became of it.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be started; the session fails with its text.
    fn start(&mut self, size: Option<Size>) -> Result<Self::Process, StartError>;

    /// Returns the words of the command; none where it is no command of the client's.
    fn words(&self) -> &[String] {
        &[]
    }

    /// Says how the output is read on after the process has ended.
    fn drain(&self) -> Drain {
        Drain::default()
    }
}

/// A process that runs or is about to, as a session sees it. Dropped, it is hung up.
pub trait Process {
    /// Sets the size of its terminal. The process is polled after that.
    fn resize(&self, size: Size);

    /// Polls for what the process does next. It takes its input from `stdin`; its output is read
    /// only while there is `room`.
    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act>;

    /// Returns whether all output was read to its end.
    fn output_ended(&self) -> bool;

    /// Polls for the end of the process, and returns how it ended.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus>;

    /// Lets go of a process that has ended, at the end of its session: what it left behind lives
    /// on.
    fn release(&mut self) {}
}

/// What a process did.
#[derive(Debug)]
#[non_exhaustive]
pub enum Act {
    /// It wrote to stdout, or to its terminal.
    Stdout(Bytes),
    /// It wrote to stderr.
    Stderr(Bytes),
    /// Nobody can write to its stdout any more.
    StdoutEnded,
    /// Nobody can write to its stderr any more.
    StderrEnded,
    /// It took some input, or refused to take more.
    TookInput,
    /// A part of its output is lost, for this reason. The session fails.
    Broken(String),
    /// It did not start after all. The session fails, and the process is not polled any more.
    NotStarted(StartError),
    /// How it goes on and ends will not be known, for this reason. So the session is lost.
    Lost(String),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// It ended by itself, with this code.
    Exited(u8),
    /// This signal ended it.
    Signaled(u8),
}

impl ExitStatus {
    /// Returns the exit code that shells and runtimes give it: 128 + N for signal N.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code,
            ExitStatus::Signaled(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// How the output of a process that has ended is read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// How long others may hold the other end, once what the process wrote was read; `None`, the
    /// default, is without a limit.
    pub patience: Option<Duration>,
    /// The most bytes that the process itself can have left to read: what comes behind them was
    /// written by others.
    pub held_bytes: usize,
}

/// Why a command did not start, in the words that the client is told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// A pod whose ports can be reached. Its `Display` is its name in logs.
pub trait Ports: Display + Clone + Send + 'static {
    /// A connection to a port.
    type Stream: Local + Send + 'static;

    /// Connects to one of its ports.
    ///
    /// # Errors
    /// The reason in words for the user, if there is no connection.
    fn dial(self, port: u16) -> impl Future<Output = Result<Self::Stream, String>> + Send;
}

/// The longest line that is given whole, in bytes. A longer one is given in parts, as by the
/// runtimes, whose parts have 16 KiB.
pub const LINE_BYTES: usize = 64 * 1024;

/// One of the outputs of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its stdout, or its terminal.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// A container's log, from where it was asked for.
pub struct Log {
    /// The records.
    pub records: Box<dyn LogRecords>,
    /// How many of the first lines are passed over. A `tail` begins with too many where both
    /// outputs have an unfinished line.
    pub skip_lines: u64,
}

/// The records of a log, in their order.
pub trait LogRecords: Send {
    /// Polls for the next record; `None` is the end. An error cuts the answer off, so that nobody
    /// takes it for complete. Each poll may be another task's, or nobody's: the latest waker is the
    /// one to wake.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>>;
}

/// A part of what a container wrote.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The output that it was written to.
    pub source: Source,
    /// When it was written, or read from the container.
    pub time: SystemTime,
    /// One or more lines, or parts of them: what has no line end goes on in the next record of the
    /// same source.
    pub bytes: Bytes,
}

/// An exec or an attach that the node drives. Each [`Command`] is one.
pub trait LocalSession: Send {
    /// Runs it for the client at the other end of `connection`, as [`run`](crate::session::run)
    /// does.
    fn run(
        self: Box<Self>,
        wants: Wants,
        protocol: &'static Protocol,
        connection: Upgraded,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)>;

    /// Makes it a command that its client can leave and come back to. `wants` are the channels that
    /// the client wants.
    fn keep(self: Box<Self>, wants: Wants) -> Job;
}

/// A port-forward that the node drives. All [`Ports`] are one.
pub trait LocalForward: Send {
    /// Runs it for the client at the other end of `connection`, as [`run`](crate::forward::run)
    /// does. Its connections take places in `slots`.
    fn run(
        self: Box<Self>,
        forward: Forward,
        connection: Upgraded,
        slots: Slots,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)>;
}

impl Refusal {
    /// Makes a refusal with this code and text.
    #[must_use]
    pub fn new(code: u16, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into(), ..Refusal::default() }
    }
}

impl Upstream {
    /// Makes the address of a server that speaks SPDY, as those of container runtimes do.
    #[must_use]
    pub fn spdy(url: impl Into<String>) -> Upstream {
        Upstream {
            url: url.into(),
            name: None,
            tls: None,
            carrier: Carrier::Spdy,
            wants: None,
            on_lost: None,
        }
    }
}

impl<L: ?Sized> Debug for Served<L> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Served::Local(_) => "Local",
            Served::Upstream(_) => "Upstream",
        })
    }
}

impl Debug for Upstream {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // The URL is a credential: whoever knows it may use it.
        f.debug_struct("Upstream").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

impl Debug for Log {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("skip_lines", &self.skip_lines).finish_non_exhaustive()
    }
}
