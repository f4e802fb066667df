//! One running session: moves bytes between the machine's channels and the caller's ends.
//! Above: [`exec`](mod@crate::exec). Below: `bowline_io::drive`, `bowline_proto::session`.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bowline_io::clock::Clock;
use bowline_io::drive::{Alarm, Inflow, Moment, Socket};
use bowline_proto::limits;
use bowline_proto::queue::tight;
use bowline_proto::session::{Channel, Event, Loss, Outcome, Session, Size};
use bowline_proto::{Machine, Next};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Input is read up to this before it is sent.
const GATHERED_BYTES: usize = 512 * 1024;
/// Output that waits for the caller's ends. Past it the server is not read.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// Where a session's bytes come from and go to.
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
    /// Tells another size before the first one, so that a program which has drawn its screen for
    /// somebody else draws it again.
    pub redraws: bool,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends").field("stdin", &self.stdin.is_some()).finish_non_exhaustive()
    }
}

/// How a session ended. Only [`Outcome::Success`] is success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server said how the command ended, and all of its output was written.
    Known(Outcome),
    /// The session ended without a Status. The command may have ended in any way, or still run.
    Lost {
        /// Why.
        loss: Loss,
        /// How many bytes of output came before, and were written.
        received_bytes: u64,
    },
}

/// The caller's own end failed: the session was given up.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Output could not be written.
    #[error("write {0}: {1}")]
    Write(&'static str, io::Error),
    /// Input could not be read.
    #[error("read stdin: {0}")]
    Read(io::Error),
}

/// Runs an upgraded session to its end.
///
/// # Errors
/// [`EndError`] if one of `ends` fails. The session is then left, so that its command is ended.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    early: BytesMut,
    session: Session,
    ends: Ends,
) -> Result<Ended, EndError> {
    let mut running = Running {
        clock: Clock::start(),
        socket: Socket::new(stream, early),
        session,
        ends,
        stdout: Inflow::default(),
        stderr: Inflow::default(),
        stdin: Stdin::Waiting,
        next_size: None,
        received_bytes: 0,
        ended: None,
    };
    let result = running.run().await;
    running.say_goodbye().await;
    result
}

struct Running<S> {
    clock: Clock,
    socket: Socket<S>,
    session: Session,
    ends: Ends,
    stdout: Inflow,
    stderr: Inflow,
    stdin: Stdin,
    next_size: Option<NextSize>,
    received_bytes: u64,
    ended: Option<Ended>,
}

/// Resolves at the next change, and gives the receiver back.
type NextSize = Pin<Box<dyn Future<Output = Option<(Size, watch::Receiver<Size>)>> + Send>>;

fn next_size(mut sizes: watch::Receiver<Size>) -> NextSize {
    Box::pin(async move {
        sizes.changed().await.ok()?;
        let size = *sizes.borrow_and_update();
        Some((size, sizes))
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stdin {
    /// The session is not up yet: nothing may be read, so that a fallback loses nothing.
    Waiting,
    Open,
    Ended,
}

/// What woke the loop.
enum Wake {
    Socket(Moment),
    Input(BytesMut),
    Size(Size),
    Wrote,
    Deadline,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Running<S> {
    async fn run(&mut self) -> Result<Ended, EndError> {
        let mut alarm = Alarm::default();
        self.session.begin(self.clock.now());
        loop {
            let deadline = self.drain();
            if self.stdout.is_empty()
                && self.stderr.is_empty()
                && let Some(ended) = self.ended.take()
            {
                self.flush().await?;
                return Ok(ended);
            }
            alarm.set(&self.clock, deadline);
            let wake = poll_fn(|cx| self.poll(cx, &mut alarm)).await?;
            let now = self.clock.now();
            match wake {
                Wake::Socket(Moment::Read(bytes)) => {
                    self.stdout.round(bytes.len());
                    self.stderr.round(bytes.len());
                    self.session.receive(now, bytes);
                }
                Wake::Socket(Moment::Ended(_)) => self.session.receive_end(now),
                Wake::Socket(Moment::Wrote) | Wake::Wrote | Wake::Deadline => {}
                Wake::Input(bytes) if bytes.is_empty() => {
                    self.stdin = Stdin::Ended;
                    self.session.finish(Channel::Stdin);
                }
                Wake::Input(bytes) => self.session.send(Channel::Stdin, bytes.freeze()),
                Wake::Size(size) => self.session.resize(size),
            }
        }
    }

    /// Takes the machine's events until it is idle; gives its deadline.
    fn drain(&mut self) -> Option<bowline_proto::Time> {
        let now = self.clock.now();
        loop {
            match self.session.poll(now) {
                Next::Event(event) => self.event(event),
                Next::Idle(deadline) => return deadline.filter(|_| self.ended.is_none()),
                Next::Done => return None,
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready => {
                self.stdin = if self.ends.stdin.is_some() { Stdin::Open } else { Stdin::Ended };
                if let Some(mut sizes) = self.ends.sizes.take() {
                    let size = *sizes.borrow_and_update();
                    if self.ends.redraws {
                        let (width, height) = (size.width, size.height);
                        let (width, height) = (width.saturating_add(1), height.saturating_add(1));
                        self.session.resize(Size { width, height });
                    }
                    self.session.resize(size);
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

    fn poll(&mut self, cx: &mut Context<'_>, alarm: &mut Alarm) -> Poll<Result<Wake, EndError>> {
        // Output first: it makes the room that reading waits for.
        for (name, inflow, sink) in [
            ("stdout", &mut self.stdout, &mut self.ends.stdout),
            ("stderr", &mut self.stderr, &mut self.ends.stderr),
        ] {
            if let Poll::Ready(written) = inflow.poll_into(cx, sink) {
                let wake = written.map(|_| Wake::Wrote);
                return Poll::Ready(wake.map_err(|error| EndError::Write(name, error)));
            }
        }
        let room = self.stdout.len() + self.stderr.len() < OUTPUT_BYTES && self.ended.is_none();
        self.session.reading(self.clock.now(), room);
        let reads = room && self.session.wants_read();
        if self.ended.is_none() {
            // Some messages in one write cost less than one in each.
            let gathers = self.session.outbox().len() < GATHERED_BYTES;
            if gathers && let Poll::Ready(input) = self.poll_stdin(cx) {
                return Poll::Ready(input.map(Wake::Input));
            }
            if let Poll::Ready(moment) = self.socket.poll(cx, self.session.outbox(), reads) {
                return Poll::Ready(Ok(Wake::Socket(moment)));
            }
            if let Poll::Ready(size) = self.poll_size(cx) {
                return Poll::Ready(Ok(Wake::Size(size)));
            }
            if !gathers && let Poll::Ready(input) = self.poll_stdin(cx) {
                return Poll::Ready(input.map(Wake::Input));
            }
        }
        alarm.poll(cx).map(|()| Ok(Wake::Deadline))
    }

    fn poll_stdin(&mut self, cx: &mut Context<'_>) -> Poll<Result<BytesMut, EndError>> {
        let open = self.stdin == Stdin::Open;
        if !open || self.session.outbox().len() >= limits::OUTBOX_BYTES {
            return Poll::Pending;
        }
        let Some(stdin) = &mut self.ends.stdin else { return Poll::Pending };
        // One message's worth: the session masks it in place and never copies it.
        let mut bytes = BytesMut::with_capacity(limits::MESSAGE_BYTES);
        let mut limited = bytes::BufMut::limit(&mut bytes, limits::MESSAGE_BYTES);
        match tokio_util::io::poll_read_buf(Pin::new(stdin), cx, &mut limited) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(tight(bytes, limits::MESSAGE_BYTES))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(EndError::Read(error))),
        }
    }

    fn poll_size(&mut self, cx: &mut Context<'_>) -> Poll<Size> {
        let Some(next) = &mut self.next_size else { return Poll::Pending };
        let Some((size, sizes)) = std::task::ready!(next.as_mut().poll(cx)) else {
            self.next_size = None;
            return Poll::Pending;
        };
        self.next_size = Some(next_size(sizes));
        Poll::Ready(size)
    }

    async fn flush(&mut self) -> Result<(), EndError> {
        use tokio::io::AsyncWriteExt;
        let failed = |name| move |error| EndError::Write(name, error);
        self.ends.stdout.flush().await.map_err(failed("stdout"))?;
        self.ends.stderr.flush().await.map_err(failed("stderr"))
    }

    /// Answers a close, or walks away from a session that goes on, as far as that needs no waiting.
    async fn say_goodbye(&mut self) {
        self.session.leave(self.clock.now());
        poll_fn(|cx| {
            let _ = self.socket.poll(cx, self.session.outbox(), false);
            Poll::Ready(())
        })
        .await;
    }
}
