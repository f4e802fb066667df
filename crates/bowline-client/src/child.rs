//! A session that its own task drives: its streams, its outcome, and its end when it is dropped.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bowline_proto::session::{Outcome, Size};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::command::Output;
use crate::error::Error;
use crate::session::{EndError, Ended, Ends, Opened};
use crate::write_fn::WriteFn;

/// The most bytes buffered between a program and its session, in each direction: as in a Linux
/// pipe.
pub(crate) const PIPE_BYTES: usize = 64 * 1024;

/// A running remote command. Dropping it closes the session, in its task, which needs the runtime
/// for that; [`leave`](Self::leave) waits until that is done.
///
/// Its streams are bounded: a command whose output is not read waits, as with a local pipe. Output
/// is discarded once its stream is dropped.
#[derive(Debug)]
#[non_exhaustive]
pub struct Child {
    /// The command's input, if that was to be [piped](crate::RemoteCommand::stdin_piped). Dropped
    /// or shut down, it ends.
    pub stdin: Option<ChildStdin>,
    /// The command's output.
    pub stdout: Option<ChildStdout>,
    /// The command's errors; none with a terminal, or if they were not asked for.
    pub stderr: Option<ChildStderr>,
    resize: Option<watch::Sender<Size>>,
    task: Task,
    max_output: usize,
}

/// The input of a [`Child`].
#[derive(Debug)]
pub struct ChildStdin(DuplexStream);

/// The output of a [`Child`]. It ends when the command's outcome is known, and with an error if the
/// session was lost: what was cut does not look like the end.
#[derive(Debug)]
pub struct ChildStdout(Reader);

/// The errors of a [`Child`], which end as its output does.
#[derive(Debug)]
pub struct ChildStderr(Reader);

impl Child {
    pub(crate) fn new(
        opened: Opened,
        mut ends: Ends,
        stdin: Option<ChildStdin>,
        has_stderr: bool,
        resize: Option<watch::Sender<Size>>,
        max_output: usize,
    ) -> Child {
        let completion = Completion::default();
        let (stdout, output) = pipe(&completion);
        ends.stdout = Box::new(output);
        let stderr = has_stderr.then(|| {
            let (stderr, errors) = pipe(&completion);
            ends.stderr = Box::new(errors);
            ChildStderr(stderr)
        });
        let task = Task::spawn_telling(opened, ends, completion);
        let stdout = Some(ChildStdout(stdout));
        Child { stdin, stdout, stderr, resize, task, max_output }
    }

    /// Tells the command that its terminal has another size. Without a terminal, or with one whose
    /// size follows another's, nothing happens.
    pub fn resize(&self, size: Size) {
        if let Some(resize) = &self.resize {
            resize.send_replace(size);
        }
    }

    /// Ends the command's input and waits for its outcome, which may be asked for again. Output
    /// that does not fit into the pipes must be read, or dropped, meanwhile.
    ///
    /// Cancel safe: nothing is lost by dropping the future.
    ///
    /// # Errors
    /// [`Error::Lost`] if it is not known how the command ended, [`Error::End`] if its input could
    /// not be read.
    pub async fn wait(&mut self) -> Result<Outcome, Error> {
        drop(self.stdin.take());
        self.task.wait().await?.known()
    }

    /// Ends the command's input, keeps what is left of its output, and waits for its outcome.
    ///
    /// # Errors
    /// As [`wait`](Self::wait); after a loss what came is in [`Error::Lost`]. [`Error::End`] if the
    /// output is longer than [`max_output`](crate::RemoteCommand::max_output).
    pub async fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let most = self.max_output;
        let stdout = rest("stdout", self.stdout.take().map(|stdout| stdout.0), most);
        let stderr = rest("stderr", self.stderr.take().map(|stderr| stderr.0), most);
        let (stdout, stderr) = tokio::try_join!(stdout, stderr)?;
        let known = self.wait().await;
        Output::of(known, stdout, stderr)
    }

    /// Leaves the session: the command is hung up on. Waits until the server was told so.
    pub async fn leave(self) {
        let Task { running, stop, .. } = self.task;
        drop(stop);
        let _ = running.await;
    }
}

/// Reads the rest of a stream. Its error is ignored, since the task has a better one.
async fn rest(
    name: &'static str,
    stream: Option<Reader>,
    most: usize,
) -> Result<Vec<u8>, EndError> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let _ = stream.take(limit).read_to_end(&mut bytes).await;
    }
    if bytes.len() > most { Err(EndError::Write(name, too_long(most))) } else { Ok(bytes) }
}

fn too_long(most: usize) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes"))
}

/// A session in a task of its own, which leaves it when this is dropped.
#[derive(Debug)]
pub(crate) struct Task {
    running: JoinHandle<Option<Result<Ended, EndError>>>,
    stop: DropGuard,
    ended: Option<Result<Ended, EndError>>,
}

impl Task {
    pub(crate) fn spawn(opened: Opened, ends: Ends) -> Task {
        Task::spawn_telling(opened, ends, Completion::default())
    }

    /// Spawns the task, which sets `completion` before it drops the session's ends.
    #[expect(clippy::disallowed_methods, reason = "the handle, and what stops it, are the Task's")]
    fn spawn_telling(opened: Opened, ends: Ends, completion: Completion) -> Task {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            let ended = opened.run_until(ends, stopped.cancelled()).await;
            let told = match &ended {
                Some(Ok(Ended::Known(_))) => Ok(()),
                Some(Ok(Ended::Lost { loss, .. })) => Err(loss.to_string()),
                Some(Err(error)) => Err(error.to_string()),
                None => Err(LEFT.to_owned()),
            };
            let _ = completion.set(told);
            ended
        });
        Task { running, stop: stop.drop_guard(), ended: None }
    }

    /// Waits for the session's end. May be called again. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<Ended, EndError> {
        if self.ended.is_none() {
            let ended = (&mut self.running).await.ok().flatten();
            let left = || Err(EndError::Read(io::Error::other(LEFT)));
            self.ended = Some(ended.unwrap_or_else(left));
        }
        match &self.ended {
            Some(Ok(ended)) => Ok(ended.clone()),
            Some(Err(EndError::Write(name, error))) => Err(EndError::Write(name, again(error))),
            Some(Err(EndError::Read(error))) => Err(EndError::Read(again(error))),
            None => Err(EndError::Read(io::Error::other(LEFT))),
        }
    }
}

/// The text of the error when a session was closed, or ended with its runtime.
const LEFT: &str = "the session was left";

/// Copies an error, which is not `Clone`.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// How a session ended: unset while it runs, then an error if its output is not whole.
type Completion = Arc<OnceLock<Result<(), String>>>;

fn pipe(completion: &Completion) -> (Reader, Writer) {
    let (ours, theirs) = duplex(PIPE_BYTES);
    (Reader { pipe: ours, completion: completion.clone() }, Writer(Some(theirs)))
}

/// The program's end of an output pipe.
#[derive(Debug)]
struct Reader {
    pipe: DuplexStream,
    completion: Completion,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let why = match self.completion.get() {
            Some(Ok(())) => return Poll::Ready(Ok(())),
            Some(Err(why)) => why,
            None => LEFT,
        };
        Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, why)))
    }
}

/// The session's end of an output pipe; `None` once the program's end is dropped.
#[derive(Debug)]
struct Writer(Option<DuplexStream>);

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(pipe) = &mut self.0 else { return Poll::Ready(Ok(bytes.len())) };
        match ready!(Pin::new(pipe).poll_write(cx, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.0 = None;
                Poll::Ready(Ok(bytes.len()))
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// Keeps output, up to a bound.
#[derive(Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    /// Returns a writer, which fails after `most` bytes.
    pub(crate) fn writer(&self, most: usize) -> Box<dyn AsyncWrite + Send + Unpin> {
        let kept = self.0.clone();
        Box::new(WriteFn(move |bytes: &[u8]| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if bytes.len() > most - kept.len() {
                return Err(too_long(most));
            }
            kept.extend_from_slice(bytes);
            Ok(())
        }))
    }

    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ChildStdin {
    pub(crate) fn new(pipe: DuplexStream) -> ChildStdin {
        ChildStdin(pipe)
    }
}

impl AsyncWrite for ChildStdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

macro_rules! reads {
    ($($stream:ty),*) => {$(
        impl AsyncRead for $stream {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(cx, buffer)
            }
        }
    )*};
}

reads!(ChildStdout, ChildStderr);
