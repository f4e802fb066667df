//! The commands of a copy as kept sessions: a lost connection is made again, and nothing is begun
//! again.
//!
//! A command that nobody waits for any more, since the copy was stopped or has failed elsewhere, is
//! hung up by a task of its own, which has none of the copy's ends.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_proto::kept::{Refused, Stream, refused};
use bowline_proto::session::{Cause, Loss};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Sink, Stdin};
use crate::command::RemoteCommand;
use crate::error::Error;
use crate::kept::{Change, Found, Goodbye, KeptEnd};
use crate::session::{Ended, Ends};

/// How the commands of copies are kept. For [`Container::keep`](super::Container::keep) and
/// [`Copy::keep`](super::Copy::keep).
///
/// ```no_run
/// # use bowline_client::copy::{CopyError, Keep};
/// # async fn example(client: bowline_client::Client) -> Result<(), CopyError> {
/// let keep = Keep::new().on_change(|change| println!("{change:?}"));
/// client.copy_from("web", "/data", "data").keep(keep).run().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Keep {
    program: Option<Bytes>,
    keep_for: Duration,
    tell: Arc<dyn Fn(Change) + Send + Sync>,
    goodbyes: TaskTracker,
}

impl Keep {
    /// The default of [`keep_for`](Self::keep_for).
    pub const KEEP_FOR: Duration = Duration::from_secs(300);

    /// Commands are kept by their node, and nobody is told.
    #[must_use]
    pub fn new() -> Keep {
        let (tell, goodbyes) = (Arc::new(|_| {}), TaskTracker::new());
        goodbyes.close();
        Keep { program: None, keep_for: Keep::KEEP_FOR, tell, goodbyes }
    }

    /// Sets the program that is put into containers whose node does not keep sessions; see
    /// [`KeptCommand::program`](crate::kept::KeptCommand::program).
    #[must_use]
    pub fn program(mut self, program: impl Into<Bytes>) -> Keep {
        self.program = Some(program.into());
        self
    }

    /// Sets for how long connections are made again, and how long a command waits for a client that
    /// has vanished; 5 minutes by default. As long a program that was put into a container stays
    /// after the copy.
    #[must_use]
    pub fn keep_for(mut self, keep_for: Duration) -> Keep {
        self.keep_for = keep_for;
        self
    }

    /// Sets who is told of changes.
    #[must_use]
    pub fn on_change(mut self, tell: impl Fn(Change) + Send + Sync + 'static) -> Keep {
        self.tell = Arc::new(tell);
        self
    }

    /// Waits until commands that were left have been hung up, or could not be within some seconds:
    /// before a program ends that has stopped a copy.
    pub async fn settled(&self) {
        self.goodbyes.wait().await;
    }

    /// Runs a command to its end. A gap in an output is a loss, and so is what ends a session that
    /// may have begun.
    pub(super) async fn run(
        &self,
        command: RemoteCommand,
        found: &Found,
        (stdin, stdout, stderr): (Stdin, Sink, Sink),
    ) -> Result<Ended, Error> {
        let lent = LentEnds::of(stdin, stdout, stderr);
        let gap = Arc::new(Mutex::new(None));
        let (seen, at_gap, tell) = (gap.clone(), lent.clone(), self.tell.clone());
        let on_change = move |change| {
            if let Change::Gap(stream, bytes) = change {
                locked(&seen).get_or_insert((stream, bytes));
                // What comes behind it is not taken.
                at_gap.take_back();
            }
            tell(change);
        };
        let kept = command.ends(lent.ends()).keep().keep_for(self.keep_for);
        let kept = kept.found(found.clone()).on_change(on_change);
        let kept = match &self.program {
            Some(program) => kept.program(program.clone()),
            None => kept,
        };
        let left = CancellationToken::new();
        let stop = left.clone();
        let session = kept.run_until(async move {
            stop.cancelled().await;
            Goodbye::HangUp
        });
        let session: Option<Session> = Some(Box::pin(session));
        let goodbyes = self.goodbyes.clone();
        let ended = Waited { session, left, lent, goodbyes }.await;
        let gap = locked(&gap).take();
        judged(ended, gap)
    }
}

impl Default for Keep {
    fn default() -> Keep {
        Keep::new()
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").field("keep_for", &self.keep_for).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a session's end is to a copy.
fn judged(
    ended: Result<Option<KeptEnd>, Error>,
    gap: Option<(Stream, u64)>,
) -> Result<Ended, Error> {
    let lost = |cause, detail: String| {
        Ok(Ended::Lost { loss: Loss::new(cause, detail), received_bytes: 0 })
    };
    if let Some((stream, bytes)) = gap {
        let name = if stream == Stream::Stderr { "stderr" } else { "stdout" };
        return lost(Cause::Fault, format!("{bytes} bytes of {name} are missing"));
    }
    match ended {
        Ok(Some(end)) => Ok(end.ended),
        Ok(None) => lost(Cause::Closed, "the session was left".to_owned()),
        Err(Error::NotKept(Refused { code: refused::UNKNOWN, text })) => lost(Cause::Closed, text),
        Err(Error::Lost { loss, received_bytes, .. }) => Ok(Ended::Lost { loss, received_bytes }),
        Err(error) => Err(error),
    }
}

/// A running session.
type Session = Pin<Box<dyn Future<Output = Result<Option<KeptEnd>, Error>> + Send>>;

/// A session that is hung up by a task of its own once nobody waits for it any more.
struct Waited {
    session: Option<Session>,
    /// Tells the session that it is left.
    left: CancellationToken,
    lent: LentEnds,
    goodbyes: TaskTracker,
}

impl Future for Waited {
    type Output = Result<Option<KeptEnd>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(session) = &mut self.session else { return Poll::Ready(Ok(None)) };
        let ended = ready!(session.as_mut().poll(cx));
        self.session = None;
        Poll::Ready(ended)
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        self.lent.take_back();
        self.left.cancel();
        if let Ok(runtime) = Handle::try_current() {
            self.goodbyes.spawn_on(session, &runtime);
        }
    }
}

/// An end of the copy, until it is taken back.
struct Lent<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Lent<T> {
    fn clone(&self) -> Lent<T> {
        Lent(self.0.clone())
    }
}

impl<T: Unpin> Lent<T> {
    fn new(end: T) -> Lent<T> {
        Lent(Arc::new(Mutex::new(Some(end))))
    }

    fn take_back(&self) {
        let end = locked(&self.0).take();
        drop(end);
    }

    fn with<R>(&self, act: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match &mut *locked(&self.0) {
            Some(end) => act(Pin::new(end)),
            // No end of the input, which the command would take for all of it.
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|end| end.poll_read(cx, buffer))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|end| end.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|end| end.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|end| end.poll_shutdown(cx))
    }
}

/// All ends of one command.
#[derive(Clone)]
struct LentEnds {
    stdin: Option<Lent<Box<dyn AsyncRead + Send + Unpin>>>,
    outputs: [Lent<Sink>; 2],
}

impl LentEnds {
    fn of(stdin: Stdin, stdout: Sink, stderr: Sink) -> LentEnds {
        LentEnds { stdin: stdin.map(Lent::new), outputs: [stdout, stderr].map(Lent::new) }
    }

    fn ends(&self) -> Ends {
        let stdin = self.stdin.clone().map(|stdin| Box::new(stdin) as _);
        let [stdout, stderr] = self.outputs.clone();
        Ends { stdin, stdout: Box::new(stdout), stderr: Box::new(stderr), ..Ends::default() }
    }

    fn take_back(&self) {
        self.stdin.iter().for_each(Lent::take_back);
        self.outputs.iter().for_each(Lent::take_back);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bowline_proto::session::Outcome;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::copy::CopyError;
    use crate::copy::capture::outcome;
    use crate::session::EndError;
    use crate::write_fn::WriteFn;

    fn end(missed_bytes: u64) -> Result<Option<KeptEnd>, Error> {
        let (ended, untaken_bytes) = (Ended::Known(Outcome::Success), missed_bytes);
        Ok(Some(KeptEnd { ended, missed_bytes, untaken_bytes, tty: false }))
    }

    #[test]
    fn a_gap_is_a_loss_whatever_the_command_ended_with() {
        let is_loss = |ended| outcome(ended, 0).is_err_and(|error| error.is_loss());
        assert!(!is_loss(judged(end(0), None)));
        assert!(is_loss(judged(end(5), Some((Stream::Stdout, 5)))));
        // That nobody takes what comes behind it is no failure of the copy's own ends.
        let fault = EndError::Write("stdout", io::ErrorKind::BrokenPipe.into());
        assert!(is_loss(judged(Err(fault.into()), Some((Stream::Stderr, 1)))));
        let fault = EndError::Write("stdout", io::ErrorKind::StorageFull.into());
        assert!(!is_loss(judged(Err(fault.into()), None)));
    }

    #[test]
    fn what_was_never_begun_is_a_refusal_and_what_may_have_been_a_loss() {
        let refused = |code| Err(Error::NotKept(Refused { code, text: "why".to_owned() }));
        let ended = judged(refused(refused::TOO_MANY), None);
        assert!(matches!(outcome(ended, 0), Err(CopyError::Exec(Error::NotKept(_)))));
        let ended = judged(refused(refused::UNKNOWN), None);
        assert!(matches!(outcome(ended, 0), Err(CopyError::Lost { .. })));
        assert!(matches!(outcome(judged(Ok(None), None), 0), Err(CopyError::Lost { .. })));
    }

    /// Above all it is no end of the input.
    #[tokio::test]
    async fn an_end_that_was_taken_back_fails_and_is_gone() {
        let taken = Arc::new(AtomicBool::new(false));
        let tell = taken.clone();
        let stdout: Sink = Box::new(WriteFn(move |_: &[u8]| {
            tell.store(true, Ordering::Relaxed);
            Ok(())
        }));
        let lent = LentEnds::of(Some(Box::new(&b"input"[..])), stdout, Box::new(tokio::io::sink()));
        let mut ends = lent.ends();
        lent.take_back();
        assert_eq!(Arc::strong_count(&taken), 1);
        let mut stdin = ends.stdin.take().unwrap();
        assert!(stdin.read(&mut [0; 8]).await.is_err());
        assert!(ends.stdout.write(b"output").await.is_err() && !taken.load(Ordering::Relaxed));
    }
}
