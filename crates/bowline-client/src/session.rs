//! One running session: moves bytes between the machine's channels and the caller's ends.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bowline_io::drive::{self, Driver, Step, WriteQueue};
use bowline_io::record::{self, End, Traffic};
use bowline_io::stream::{Connection, Upgraded};
use bowline_proto::queue::compacted;
use bowline_proto::session::{Channel, Event, Loss, Outcome, Session, Size};
use bowline_proto::{Machine, limits};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, sink};
use tokio::sync::watch;

use crate::error::Error;

/// The most bytes of input that are gathered for one write to the socket.
const GATHERED_BYTES: usize = 512 * 1024;
/// The most bytes of output that wait for the caller's ends. Beyond it the socket is not read.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// The caller's ends of a session. By default there is no input, and output is discarded.
#[non_exhaustive]
pub struct Ends {
    /// Input for the command; its end becomes the end of the command's stdin. Not read before the
    /// session is up.
    pub stdin: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes the command's output.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// Takes the command's errors.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    /// The terminal's size, now and when it changes.
    pub sizes: Option<watch::Receiver<Size>>,
    /// Whether another size is sent before the first one, so that a program redraws a screen that
    /// it has drawn for another terminal. `false` by default.
    pub redraws: bool,
}

impl Ends {
    /// Polls for the next input; none is its end, and where there is no input nothing ever comes.
    /// `message_bytes` is one message's worth: the session masks it in place and never copies it.
    pub(crate) fn poll_stdin(
        &mut self,
        cx: &mut Context<'_>,
        message_bytes: usize,
    ) -> Poll<Result<BytesMut, EndError>> {
        let Some(stdin) = &mut self.stdin else { return Poll::Pending };
        let mut bytes = BytesMut::with_capacity(message_bytes);
        let mut limited = bytes::BufMut::limit(&mut bytes, message_bytes);
        match tokio_util::io::poll_read_buf(Pin::new(stdin), cx, &mut limited) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(compacted(bytes, message_bytes))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(EndError::Read(error))),
        }
    }

    /// Waits until all output is where it belongs.
    pub(crate) async fn flush(&mut self) -> Result<(), EndError> {
        let failed = |name| move |error| EndError::Write(name, error);
        self.stdout.flush().await.map_err(failed("stdout"))?;
        self.stderr.flush().await.map_err(failed("stderr"))
    }
}

impl Default for Ends {
    fn default() -> Ends {
        let (stdout, stderr) = (Box::new(sink()), Box::new(sink()));
        Ends { stdin: None, stdout, stderr, sizes: None, redraws: false }
    }
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// How a session ended. Only [`Outcome::Success`] is success.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The server said how the command ended, and all of its output was written.
    Known(Outcome),
    /// The session ended without a Status. The command may have ended in any way, or still run.
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// How many bytes of output came before, and were written.
        received_bytes: u64,
    },
}

impl Ended {
    /// How the command ended, where that is known.
    ///
    /// # Errors
    /// [`Error::Lost`] where it is not.
    pub fn known(self) -> Result<Outcome, Error> {
        match self {
            Ended::Known(outcome) => Ok(outcome),
            Ended::Lost { loss, received_bytes } => {
                let (stdout, stderr) = (Vec::new(), Vec::new());
                Err(Error::Lost { loss, received_bytes, stdout, stderr })
            }
        }
    }
}

/// One of the caller's ends failed, so the session was closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// Output could not be written.
    #[error("write {0}: {1}")]
    Write(&'static str, #[source] io::Error),
    /// Input could not be read.
    #[error("read stdin: {0}")]
    Read(#[source] io::Error),
}

/// Runs an upgraded session to its end.
///
/// # Errors
/// [`EndError`] if one of `ends` fails. The session is then left, so that its command is ended.
pub async fn run<S: Connection>(
    connection: Upgraded<S>,
    session: Session,
    ends: Ends,
) -> Result<Ended, EndError> {
    settled(Running::new(ends).session_until(connection, session, pending()).await.0)
}

/// A session whose upgrade was answered, and whose hooks were told that it begins.
pub(crate) struct Opened {
    pub connection: Upgraded,
    pub session: Session,
    pub running: record::Running,
}

impl Opened {
    /// Runs it to its end, or leaves it once `stop` resolves: then nothing is known.
    pub(crate) async fn run_until(
        self,
        ends: Ends,
        stop: impl Future<Output = ()>,
    ) -> Option<Result<Ended, EndError>> {
        let Opened { connection, session, running } = self;
        let (result, traffic) = Running::new(ends).session_until(connection, session, stop).await;
        running.end(told(result.as_ref()), Some(traffic));
        result
    }

    /// Runs it to its end.
    pub(crate) async fn run(self, ends: Ends) -> Result<Ended, EndError> {
        settled(self.run_until(ends, pending()).await)
    }
}

/// Nobody can stop a session that runs to its end.
fn settled(result: Option<Result<Ended, EndError>>) -> Result<Ended, EndError> {
    result.unwrap_or_else(|| Err(EndError::Read(io::ErrorKind::Interrupted.into())))
}

/// What a session's hooks are told of its end.
pub(crate) fn told(result: Option<&Result<Ended, EndError>>) -> End {
    match result {
        Some(Ok(Ended::Known(outcome))) => End::Outcome(outcome.clone()),
        Some(Ok(Ended::Lost { loss, .. })) => End::Lost(loss.to_string()),
        Some(Err(error)) => End::ClientGone(error.to_string()),
        None => End::ClientGone("it was left".to_owned()),
    }
}

/// Answers a close, or closes a session that goes on.
async fn leave<S: Connection>(driver: &mut Driver<S, Session>) {
    let now = driver.now();
    driver.machine().leave(now);
    driver.flush_now().await;
}

/// The caller's ends of a session, and how far it is.
struct Running {
    ends: Ends,
    stdout: WriteQueue,
    stderr: WriteQueue,
    stdin: Stdin,
    next_size: Option<NextSize>,
    received_bytes: u64,
    ended: Option<Ended>,
}

/// Resolves at the next change, and gives the receiver back.
pub(crate) type NextSize =
    Pin<Box<dyn Future<Output = Option<(Size, watch::Receiver<Size>)>> + Send>>;

pub(crate) fn next_size(mut sizes: watch::Receiver<Size>) -> NextSize {
    Box::pin(async move {
        sizes.changed().await.ok()?;
        let size = *sizes.borrow_and_update();
        Some((size, sizes))
    })
}

/// Polls for the next size, until there will be no more.
pub(crate) fn poll_size(next: &mut Option<NextSize>, cx: &mut Context<'_>) -> Poll<Size> {
    let Some(waiting) = next else { return Poll::Pending };
    let Some((size, sizes)) = std::task::ready!(waiting.as_mut().poll(cx)) else {
        *next = None;
        return Poll::Pending;
    };
    *next = Some(next_size(sizes));
    Poll::Ready(size)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// The session is not up yet: nothing may be read, so that a fallback loses nothing.
    Waiting,
    Open,
    Ended,
}

/// What the caller's ends have done.
enum Act {
    Input(BytesMut),
    Size(Size),
    Wrote,
}

impl Running {
    fn new(ends: Ends) -> Running {
        Running {
            ends,
            stdout: WriteQueue::default(),
            stderr: WriteQueue::default(),
            stdin: Stdin::Waiting,
            next_size: None,
            received_bytes: 0,
            ended: None,
        }
    }

    /// Runs a session to its end, or leaves it once `stop` resolves: then nothing is known. Returns
    /// the bytes that were moved as well.
    async fn session_until<S: Connection>(
        &mut self,
        connection: Upgraded<S>,
        session: Session,
        stop: impl Future<Output = ()>,
    ) -> (Option<Result<Ended, EndError>>, Traffic) {
        let mut driver = Driver::new(connection, session);
        let result = tokio::select! {
            result = self.run(&mut driver) => Some(result),
            () = stop => None,
        };
        leave(&mut driver).await;
        (result, Traffic { from_client: driver.sent(), to_client: driver.received() })
    }

    async fn run<S: Connection>(
        &mut self,
        driver: &mut Driver<S, Session>,
    ) -> Result<Ended, EndError> {
        let now = driver.now();
        driver.machine().begin(now);
        loop {
            if self.stdout.is_empty()
                && self.stderr.is_empty()
                && let Some(ended) = self.ended.take()
            {
                self.ends.flush().await?;
                return Ok(ended);
            }
            let step = driver.next(self).await;
            let session = driver.machine();
            match step {
                Step::Event(event) => self.event(session, event),
                Step::Act(act) => match act? {
                    Act::Input(bytes) if bytes.is_empty() => {
                        self.stdin = Stdin::Ended;
                        session.finish(Channel::Stdin);
                    }
                    Act::Input(bytes) => session.send(Channel::Stdin, bytes.freeze()),
                    Act::Size(size) => session.resize(size),
                    Act::Wrote => {}
                },
                Step::Deadline | Step::Gone | Step::Done => {}
            }
        }
    }

    fn event(&mut self, session: &mut Session, event: Event) {
        match event {
            Event::Ready => {
                self.stdin = if self.ends.stdin.is_some() { Stdin::Open } else { Stdin::Ended };
                if let Some(mut sizes) = self.ends.sizes.take() {
                    let size = *sizes.borrow_and_update();
                    if self.ends.redraws {
                        let (width, height) = (size.width, size.height);
                        let (width, height) = (width.saturating_add(1), height.saturating_add(1));
                        session.resize(Size { width, height });
                    }
                    session.resize(size);
                    self.next_size = Some(next_size(sizes));
                }
            }
            Event::Data(Channel::Stderr, bytes) => {
                self.received_bytes += bytes.len() as u64;
                self.stderr.push(bytes);
            }
            Event::Data(_, bytes) => {
                self.received_bytes += bytes.len() as u64;
                self.stdout.push(bytes);
            }
            Event::Eof(_) | Event::Resize(_) => {}
            Event::Status(status) => {
                self.ended = Some(Ended::Known(status.outcome().clone()));
            }
            Event::Lost(loss) => {
                let received_bytes = self.received_bytes;
                self.ended = Some(Ended::Lost { loss, received_bytes });
            }
        }
    }

    fn poll_size(&mut self, cx: &mut Context<'_>) -> Poll<Size> {
        if self.ended.is_some() { Poll::Pending } else { poll_size(&mut self.next_size, cx) }
    }

    fn poll_stdin(
        &mut self,
        cx: &mut Context<'_>,
        waiting: usize,
    ) -> Poll<Result<BytesMut, EndError>> {
        if self.stdin != Stdin::Open || self.ended.is_some() || waiting >= limits::OUTBOX_BYTES {
            return Poll::Pending;
        }
        self.ends.poll_stdin(cx, limits::MESSAGE_BYTES)
    }
}

type Acted = Result<Act, EndError>;

fn input(read: Result<BytesMut, EndError>) -> (Acted, usize) {
    let bytes = read.as_ref().map_or(0, BytesMut::len);
    (read.map(Act::Input), bytes)
}

/// A server that goes away while its output waits for the caller has sent all that it will, so
/// nothing looks for that.
impl drive::Ends<Session> for Running {
    type Act = Acted;

    fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<(Acted, usize)> {
        // Output first: it makes the room that reading waits for.
        for (name, queue, sink) in [
            ("stdout", &mut self.stdout, &mut self.ends.stdout),
            ("stderr", &mut self.stderr, &mut self.ends.stderr),
        ] {
            if let Poll::Ready(written) = queue.poll_into(cx, sink) {
                let wrote = written.map(|_| Act::Wrote);
                return Poll::Ready((wrote.map_err(|error| EndError::Write(name, error)), 0));
            }
        }
        // Some messages in one write cost less than one in each.
        let waiting = session.outbox().len();
        if waiting >= GATHERED_BYTES {
            return Poll::Pending;
        }
        // What was typed in a size comes behind it.
        if let Poll::Ready(size) = self.poll_size(cx) {
            return Poll::Ready((Ok(Act::Size(size)), 0));
        }
        self.poll_stdin(cx, waiting).map(input)
    }

    fn poll_last(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<(Acted, usize)> {
        if let Poll::Ready(size) = self.poll_size(cx) {
            return Poll::Ready((Ok(Act::Size(size)), 0));
        }
        let waiting = session.outbox().len();
        if waiting < GATHERED_BYTES {
            return Poll::Pending;
        }
        self.poll_stdin(cx, waiting).map(input)
    }

    fn has_room(&self) -> bool {
        self.stdout.len() + self.stderr.len() < OUTPUT_BYTES && self.ended.is_none()
    }

    fn came(&mut self, bytes: usize) {
        self.stdout.begin_read(bytes);
        self.stderr.begin_read(bytes);
    }
}
