//! Files and trees between this side and containers: `tar` over remote commands, and the truth
//! about how that ended.
//! Above: `bowline cp`, other tools. Below: [`exec`](fn@crate::exec), `bowline-archive`.
//!
//! A copy is complete if the archive's end was seen *and* the remote command has succeeded. Until
//! then all of it is in a directory of its own beside the target; the target's name is given at the
//! end. What was lost is tried again, as often as the caller wants, and goes on where it was.

mod between;
mod down;
mod listing;
mod scripts;
mod up;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_archive::Trouble;
use bowline_archive::admit::Limits;
use bowline_archive::unpack::UnpackError;
use bowline_proto::session::{Loss, Outcome};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::between::between;
pub use self::down::down;
use self::listing::{Listing, listing};
use self::scripts::{LIST, script};
pub use self::up::up;
use crate::exec::ExecError;
use crate::session::{EndError, Ended};

/// The longest output of a container's tool that is kept: a listing of some million files.
const CAPTURE_BYTES: usize = 512 * 1024 * 1024;
/// Of its errors.
const COMPLAINT_BYTES: usize = 4096;
/// Between two attempts, at first and at most.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(5);

/// Input for a remote command.
pub type Stdin = Option<Box<dyn AsyncRead + Send + Unpin>>;
/// Where its output goes.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A container in which commands can be run.
pub trait Remote {
    /// Runs a command between these ends.
    fn run(
        &self,
        words: Vec<String>,
        stdin: Stdin,
        stdout: Sink,
        stderr: Sink,
    ) -> impl Future<Output = Result<Ended, ExecError>>;
}

/// How a copy is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Modes and times come along.
    pub preserve: bool,
    /// How often a lost copy is tried again; `None` is without an end.
    pub retries: Option<u64>,
    /// Sums of both sides are compared at the end.
    pub verify: bool,
    /// Symbolic links that stay in the tree are made.
    pub symlinks: bool,
    /// How much may come out of a container.
    pub limits: Limits,
}

/// Is told how a copy goes.
pub trait Watcher: Send + Sync {
    /// So many bytes of files will be copied, where that is known.
    fn total(&self, bytes: Option<u64>);
    /// This file is copied now.
    fn file(&self, name: &[u8]);
    /// So many bytes of files were copied since.
    fn bytes(&self, count: u64);
    /// Bytes that were counted come again: it is at so many now.
    fn position(&self, bytes: u64);
    /// An entry is not what it should be.
    fn trouble(&self, trouble: &Trouble);
    /// What the container's tar complains of.
    fn complaint(&self, text: &[u8]);
    /// A copy goes on after a loss: at so many bytes, for this time.
    fn resumes(&self, bytes: u64, retry: u64, why: &str);
    /// Something else that a person wants to know.
    fn note(&self, text: &str);
}

/// Why a copy is not complete. Nothing has the target's name then that it did not have before,
/// unless it says otherwise.
#[derive(Debug, Error)]
pub enum CopyError {
    /// This side's source.
    #[error("{} doesn't exist in local filesystem", .0.display())]
    NoSource(PathBuf),
    /// Something on this side.
    #[error("{}: {error}", path.display())]
    Local {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A remote command did not come about, or an end of it failed.
    #[error(transparent)]
    Exec(ExecError),
    /// A remote command has failed, and how. All that could be copied was, if `published`.
    #[error("the command in the container ended with {outcome:?}")]
    Remote {
        /// How.
        outcome: Outcome,
        /// What it said, if the watcher was not told.
        complaint: String,
        /// Whether the rest has its name.
        published: bool,
    },
    /// A remote command's end is not known.
    #[error("{loss} after {bytes} bytes")]
    Lost {
        /// Why.
        loss: Loss,
        /// Bytes that had come, or gone.
        bytes: u64,
        /// How often it was tried again.
        retries: u64,
    },
    /// The command succeeded, and its archive was cut short.
    #[error("unexpected EOF")]
    Cut {
        /// How often it was tried again.
        retries: u64,
    },
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// There is no tar in the container.
    #[error("there is no tar in the container")]
    NoTar,
    /// What was asked for is not there, or nothing that can be copied.
    #[error("nothing was copied")]
    Nothing,
    /// A request cannot carry a source's name to a directory in a container.
    #[error("{0:?} is not UTF-8: give the target a name of its own")]
    Unnameable(OsString),
    /// A file on a directory.
    #[error("open {0}: is a directory")]
    IsDirectory(String),
    /// A file was cut short in the container, and stays there.
    #[error("a file was cut short, and {0}; nothing has the target's name")]
    CutShort(String),
    /// Single files are not there, or not as they should be; the rest was copied.
    #[error("{0} files were not copied")]
    Incomplete(u64),
    /// The caller wanted its end.
    #[error("interrupted")]
    Stopped,
    /// Sums differ.
    #[error("sha256 of {0:?} differs")]
    Unequal(String),
}

impl CopyError {
    /// Whether the target has its name all the same.
    fn is_of_a_copy_that_is_there(&self) -> bool {
        matches!(self, CopyError::Remote { published: true, .. } | CopyError::Incomplete(_))
    }

    /// Whether trying again may help.
    fn is_loss(&self) -> bool {
        use crate::upgrade::UpgradeError;
        match self {
            CopyError::Lost { .. } | CopyError::Cut { .. } => true,
            CopyError::Exec(ExecError::Upgrade(error)) => {
                matches!(error, UpgradeError::Dial(_) | UpgradeError::Http(_))
            }
            _ => false,
        }
    }
}

/// Something that one end of a session and the copy both use, one after the other.
pub(crate) struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(self.0.clone())
    }
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        Shared(Arc::new(Mutex::new(value)))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Output that is given to a function as it comes.
pub(crate) struct Each<F>(pub F);

impl<F: FnMut(&[u8]) -> io::Result<()> + Unpin> AsyncWrite for Each<F> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready((self.get_mut().0)(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Keeps the beginning of output.
fn keep(most: usize) -> (Shared<Vec<u8>>, Sink) {
    let kept = Shared::new(Vec::new());
    let keeper = kept.clone();
    let sink = Each(move |bytes: &[u8]| {
        let mut kept = keeper.lock();
        let room = most.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    });
    (kept, Box::new(sink))
}

/// Passes what a container's tar complains of on, a line at a time.
fn complaints(watcher: &Arc<dyn Watcher>) -> Sink {
    Box::new(Each(Complaints { watcher: watcher.clone(), line: Vec::new() }.taking()))
}

struct Complaints {
    watcher: Arc<dyn Watcher>,
    line: Vec<u8>,
}

impl Complaints {
    fn taking(mut self) -> impl FnMut(&[u8]) -> io::Result<()> {
        move |bytes| {
            for byte in bytes {
                if *byte == b'\n' || self.line.len() >= COMPLAINT_BYTES {
                    self.say();
                }
                if *byte != b'\n' {
                    self.line.push(*byte);
                }
            }
            Ok(())
        }
    }

    fn say(&mut self) {
        if !self.line.is_empty() {
            self.watcher.complaint(&self.line);
            self.line.clear();
        }
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        self.say();
    }
}

fn text(kept: &[u8]) -> String {
    String::from_utf8_lossy(kept).trim().to_owned()
}

/// The failure of a command whose complaints were passed on.
fn failed(outcome: Outcome, published: bool) -> CopyError {
    CopyError::Remote { outcome, complaint: String::new(), published }
}

/// How a remote command ended that was followed to its end.
fn outcome(result: Result<Ended, ExecError>, bytes: u64) -> Result<Outcome, CopyError> {
    match result {
        Ok(Ended::Known(outcome)) if is_missing_program(&outcome) => Err(CopyError::NoTar),
        Ok(Ended::Known(outcome)) => Ok(outcome),
        Ok(Ended::Lost { loss, .. }) => Err(CopyError::Lost { loss, bytes, retries: 0 }),
        Err(error) => Err(CopyError::Exec(error)),
    }
}

/// A runtime that cannot find a program says so in words; a shell by 127.
fn is_missing_program(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Exited(code) => *code == 127,
        Outcome::Failed { message, .. } => {
            message.contains("executable file not found")
                || message.contains("no such file or directory")
        }
        Outcome::Success => false,
    }
}

/// How a command that is followed to its end has ended, and what it said.
struct Said {
    outcome: Outcome,
    /// The beginning of its output.
    out: Vec<u8>,
    complaint: String,
}

impl Said {
    /// Its output, if it has succeeded.
    fn success(self) -> Result<Vec<u8>, CopyError> {
        match self.outcome {
            Outcome::Success => Ok(self.out),
            outcome => {
                Err(CopyError::Remote { outcome, complaint: self.complaint, published: false })
            }
        }
    }
}

/// Runs a command and keeps what it says: of its output, at most so much.
async fn said(
    remote: &impl Remote,
    words: Vec<String>,
    stdin: Stdin,
    most: usize,
) -> Result<Said, CopyError> {
    let (out, stdout) = keep(most);
    let (complaint, stderr) = keep(COMPLAINT_BYTES);
    let outcome = outcome(remote.run(words, stdin, stdout, stderr).await, 0)?;
    let out = std::mem::take(&mut *out.lock());
    Ok(Said { outcome, out, complaint: text(&complaint.lock()) })
}

/// What a tool prints, if it succeeds; `None` if it fails in whatever way but a loss, or says more
/// than is kept.
async fn printed(
    remote: &impl Remote,
    words: Vec<String>,
    stdin: Stdin,
) -> Result<Option<Vec<u8>>, CopyError> {
    match said(remote, words, stdin, CAPTURE_BYTES).await {
        Ok(Said { outcome: Outcome::Success, out, .. }) => {
            Ok(Some(out).filter(|out| out.len() < CAPTURE_BYTES))
        }
        Ok(_) | Err(CopyError::NoTar) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is below a root in a directory; `None` where the container has no means to say.
async fn listed(remote: &impl Remote, dir: &str, root: &str) -> Result<Option<Listing>, CopyError> {
    let mark = scripts::mark();
    let text = printed(remote, script(LIST, &[dir, root, &mark]), None).await?;
    Ok(text.map(|text| listing(&text, root, &mark)))
}

/// Tries again after losses, as often as it may.
struct Attempts {
    made: u64,
    allowed: Option<u64>,
    pause: Duration,
}

impl Attempts {
    fn new(options: &Options) -> Attempts {
        Attempts { made: 0, allowed: options.retries, pause: SOON }
    }

    /// Does a step that may be done again, until it was followed to its end.
    async fn of<T, F>(
        &mut self,
        watcher: &Arc<dyn Watcher>,
        mut step: impl FnMut() -> F,
    ) -> Result<T, CopyError>
    where
        F: Future<Output = Result<T, CopyError>>,
    {
        loop {
            match step().await {
                Ok(done) => return Ok(done),
                Err(error) => self.again(error, watcher, 0, 0).await?,
            }
        }
    }

    /// Waits for the next attempt, or gives the error back.
    ///
    /// `progressed` are bytes that are safe by now, and `before` those at the last loss: an attempt
    /// that got something done is followed by another one at once.
    async fn again(
        &mut self,
        error: CopyError,
        watcher: &Arc<dyn Watcher>,
        before: u64,
        progressed: u64,
    ) -> Result<(), CopyError> {
        let retries = self.made;
        if !error.is_loss() || self.allowed.is_some_and(|allowed| retries >= allowed) {
            return Err(match error {
                CopyError::Lost { loss, bytes, .. } => CopyError::Lost { loss, bytes, retries },
                CopyError::Cut { .. } => CopyError::Cut { retries },
                error => error,
            });
        }
        self.made += 1;
        watcher.resumes(progressed, self.made, &error.to_string());
        self.pause = if progressed > before { SOON } else { (self.pause * 2).min(LATE) };
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

/// The error of a session whose own end said why it cannot go on.
fn own_end(error: ExecError, fault: Option<UnpackError>) -> CopyError {
    match (error, fault) {
        (ExecError::End(EndError::Write(..)), Some(fault)) => CopyError::Unpack(fault),
        (error, _) => CopyError::Exec(error),
    }
}
