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

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a runtime is asked for, or its refusal.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

/// What runs the containers of a node.
///
/// The answers of the first three are asked for before the client's handshake is judged, and
/// dropped if that is bad: nothing may have begun by then. Each future may be dropped at any time.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Finds a running container in which a command shall run.
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session>;

    /// Finds a running container whose main process a client shall see. The client misses nothing
    /// from here on.
    fn attach<'a>(&'a self, target: &'a Target, request: AttachRequest) -> Answer<'a, Attachment>;

    /// Finds a pod to whose ports connections shall be made. `ports` are known beforehand where the
    /// client speaks channels, and empty elsewhere.
    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        ports: &'a [u16],
    ) -> Answer<'a, Forwarding>;

    /// Finds a container, running or not, and what it has written.
    fn logs<'a>(&'a self, target: &'a Target, request: LogRequest) -> Answer<'a, Log>;

    /// Whether it can be used, for who asks after this node's health.
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Ends what it has started. All sessions have ended by then.
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
    /// The uid that it must have, where one is given.
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

/// A command that shall run.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// Its words.
    pub command: Vec<String>,
    /// The channels that the client wants.
    pub wants: Wants,
}

/// A client that shall see a main process.
#[derive(Clone, Copy, Debug)]
pub struct AttachRequest {
    /// The channels that the client wants.
    pub wants: Wants,
    /// So many lines of the log come first, if the runtime has such a thing.
    pub replay: Option<usize>,
}

/// What is wanted of a log. Everything else that a client may ask for is done with its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Go on while the container runs.
    pub follow: bool,
    /// Only so many lines of what there is, of the wanted source.
    pub tail: Option<u64>,
    /// Only one of the outputs. A runtime may give both; the other one's records are passed over.
    pub source: Option<Source>,
    /// Of the run before this one.
    pub previous: bool,
}

/// Who serves what was asked for.
pub enum Served<L: ?Sized> {
    /// It is here, to be driven.
    Local(Box<L>),
    /// It is behind another server, which is asked once the client's handshake is good.
    Upstream(Answer<'static, Upstream>),
}

/// Who serves an exec or an attach. A [`Command`] in a box is a local one.
pub type Session = Served<dyn LocalSession>;

/// Who serves a port-forward. [`Ports`] in a box are local ones.
pub type Forwarding = Served<dyn LocalForward>;

/// Who serves an attach, and what was heard of its request.
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
    /// For the log, where the text does not say it.
    pub cause: String,
}

/// A server that streams what was asked for, as container runtimes have one.
pub struct Upstream {
    /// Where it is. `//HOST:PORT/…`, without a scheme, is plain HTTP.
    pub url: String,
    /// Whom this node trusts there and who it is, for `https`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// What it speaks in exec and attach. Port-forwards are SPDY in any case.
    pub carrier: Carrier,
    /// Called if the session ends without an outcome: what runs there would run on.
    pub on_lost: Option<Box<dyn FnOnce() + Send>>,
}

/// A command and where it would run. It shows itself as a log names it.
pub trait Command: Display {
    /// What it is once it runs.
    type Process: Process;

    /// Starts it, with a terminal of this size where there is one.
    ///
    /// # Errors
    /// [`StartError`].
    fn start(&mut self, size: Option<Size>) -> Result<Self::Process, StartError>;

    /// Its words; none where it is no command of the client's.
    fn words(&self) -> &[String] {
        &[]
    }

    /// How its output is read on after it has ended.
    fn drain(&self) -> Drain {
        Drain::default()
    }
}

/// What a session needs of a process. Dropped, it is hung up.
pub trait Process {
    /// Tells its terminal the size.
    fn resize(&self, size: Size);

    /// What it does next. It takes its input from `stdin`; its output is read only while `room`.
    fn poll(&mut self, cx: &mut Context<'_>, stdin: &mut WriteQueue, room: bool) -> Poll<Act>;

    /// Whether all output was read to its end.
    fn is_silent(&self) -> bool;

    /// How it ended, once it has.
    fn poll_exit(&mut self, cx: &mut Context<'_>) -> Poll<ExitStatus>;

    /// It has ended, and so has the session: what it left behind lives on.
    fn leave(&mut self) {}
}

/// What a process did.
#[derive(Debug)]
pub enum Act {
    /// It wrote to its output.
    Out(Bytes),
    /// It wrote to its errors.
    Err(Bytes),
    /// Nobody can write to its output any more.
    OutEnded,
    /// Nobody can write to its errors any more.
    ErrEnded,
    /// It took some input, or refused any more.
    Took,
    /// Its output cannot be had as it was, and why.
    Broken(String),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Signaled(u8),
}

impl ExitStatus {
    /// The code that shells and runtimes give it.
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
    /// How long something else may hold the other end, once what the process wrote was read; `None`
    /// is as long as that does.
    pub patience: Option<Duration>,
    /// The most that the process itself can have left to read. What comes behind that was written
    /// by others.
    pub held_bytes: usize,
}

/// Why a command did not start, in the words that the client is told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct StartError(pub String);

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

/// A longer line is given in parts, as the runtimes do (theirs have 16 KiB).
pub const LINE_BYTES: usize = 64 * 1024;

/// Which of its outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its output, or its terminal.
    Out,
    /// Its errors.
    Err,
}

/// A container's log, from where it was asked for.
pub struct Log {
    /// What is in it.
    pub records: Box<dyn LogRecords>,
    /// So many of the first lines that come to their end do not count: both outputs have a line
    /// that is not at its end, and fewer are wanted.
    pub skip_lines: u64,
}

/// The records of a log, in their order.
pub trait LogRecords: Send {
    /// The next of them; `None` is the end. An error cuts the answer off, so that nobody takes it
    /// for complete.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>>;
}

/// A part of what a container wrote.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// What it was written to.
    pub source: Source,
    /// When it was written, or read.
    pub time: SystemTime,
    /// One or more lines, or parts of them: what has no line end goes on in the next record of the
    /// same source.
    pub bytes: Bytes,
}

/// An exec or an attach to be driven. Each [`Command`] is one.
pub trait LocalSession: Send {
    /// Runs it for the client at the other end of `connection`, as [`run`](crate::session::run).
    fn run(
        self: Box<Self>,
        wants: Wants,
        protocol: &'static Protocol,
        connection: Upgraded,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)>;
}

/// A port-forward to be driven. All [`Ports`] are one.
pub trait LocalForward: Send {
    /// Runs it for the client at the other end of `connection`, as [`run`](crate::forward::run).
    /// Its connections count in `slots`.
    fn run(
        self: Box<Self>,
        forward: Forward,
        connection: Upgraded,
        slots: Slots,
        end: CancellationToken,
    ) -> BoxFuture<'static, (End, Traffic)>;
}

impl Refusal {
    /// With this code and text.
    pub fn new(code: u16, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into(), ..Refusal::default() }
    }
}

impl Upstream {
    /// A server that speaks SPDY, as those of container runtimes do.
    pub fn spdy(url: impl Into<String>) -> Upstream {
        Upstream { url: url.into(), tls: None, carrier: Carrier::Spdy, on_lost: None }
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
        // Who knows the URL may use it.
        f.debug_struct("Upstream").field("carrier", &self.carrier).finish_non_exhaustive()
    }
}

impl Debug for Log {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("skip_lines", &self.skip_lines).finish_non_exhaustive()
    }
}
