//! Files and trees between this side and containers: `tar` over remote commands, and the truth
//! about how that ended.
//!
//! A copy is complete if the archive's end was seen *and* the remote command has succeeded *and*
//! both sides have the same names, kinds and sizes. Until then all of it is in a directory of its
//! own beside the target; the target's name is given at the end. What was lost is tried again, as
//! often as the caller wants, and goes on where it was.

mod between;
mod compare;
mod down;
mod listing;
mod pace;
mod place;
mod scripts;
mod up;
mod whole;

use std::collections::BTreeMap;
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
use tokio_util::sync::CancellationToken;

pub use self::between::between;
pub use self::down::down;
use self::listing::{Listing, listing};
use self::scripts::{LIST, RESOLVE, SUMS, script};
pub use self::up::up;
use crate::exec::ExecError;
use crate::session::{EndError, Ended};

/// The longest output of a container's tool that is kept: a listing of some million files.
const CAPTURE_BYTES: usize = 256 * 1024 * 1024;
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
        /// What the system said.
        error: io::Error,
    },
    /// A remote command did not come about, or an end of it failed.
    #[error(transparent)]
    Exec(ExecError),
    /// A remote command has failed, and how. All that could be copied was, if `published`.
    #[error("the command in the container ended with {outcome:?}")]
    Remote {
        /// How the command ended.
        outcome: Outcome,
        /// What it said, if the watcher was not told.
        complaint: String,
        /// Whether the rest has its name.
        published: bool,
    },
    /// A remote command's end is not known.
    #[error("{loss} after {bytes} bytes")]
    Lost {
        /// How the session was lost.
        loss: Loss,
        /// Bytes that had come, or gone.
        bytes: u64,
        /// How often it was tried again.
        retries: u64,
    },
    /// The same, of the command that gives the target its name: it may have it.
    #[error("{loss}, and it is not known whether the target has its name")]
    Unknown {
        /// How the session was lost.
        loss: Loss,
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
    /// A file in the container was cut short, or has changed here, and stays there.
    #[error("a file in the container is not whole, and {0}; nothing has the target's name")]
    NotWhole(String),
    /// Single files are not there, or not as they should be; the rest was copied.
    #[error("{} not copied", files_were(*.0))]
    Incomplete(u64),
    /// The caller wanted its end.
    #[error("interrupted")]
    Stopped,
    /// Sums differ.
    #[error("sha256 of {} differs", named_or_all(.0))]
    Unequal(String),
    /// What is there is not what was sent.
    #[error("{what}{}; nothing has the target's name", and_more(*.others))]
    Differs {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// The same, and the target has its name: that was lost, or it was written into.
    #[error("{what}{}: the target is not complete", and_more(*.others))]
    Damaged {
        /// The first difference, with its name.
        what: String,
        /// How many more there are.
        others: u64,
    },
    /// Files were changed in the container while they were copied. Of one that has grown, its
    /// beginning was copied, as it is there; others were not.
    #[error("{}", changed(*.files, *.published))]
    Changed {
        /// The number of files.
        files: u64,
        /// Whether the rest has its name.
        published: bool,
    },
    /// The source is a symbolic link, and the container cannot say to what.
    #[error("{0:?} is a symbolic link that cannot be followed in the container{1}")]
    Link(String, String),
}

fn files_were(count: u64) -> String {
    if count == 1 { "1 file was".to_owned() } else { format!("{count} files were") }
}

fn named_or_all(name: &str) -> String {
    if name.is_empty() { "the file".to_owned() } else { format!("{name:?}") }
}

fn changed(files: u64, published: bool) -> String {
    match published {
        true => format!("{} changed during the copy; the rest was copied", files_were(files)),
        false => "the file changed while it was copied; nothing has the target's name".to_owned(),
    }
}

fn and_more(count: u64) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

impl CopyError {
    /// Whether the target has its name all the same.
    fn is_of_a_copy_that_is_there(&self) -> bool {
        matches!(
            self,
            CopyError::Remote { published: true, .. }
                | CopyError::Incomplete(_)
                | CopyError::Damaged { .. }
                | CopyError::Changed { published: true, .. }
        )
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

/// A step of a copy, until its caller wants the end.
async fn unless<T>(
    stop: &CancellationToken,
    step: impl Future<Output = Result<T, CopyError>>,
) -> Result<T, CopyError> {
    stop.run_until_cancelled(step).await.unwrap_or(Err(CopyError::Stopped))
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

/// What a tool printed that can say how far it got, whatever was lost on the way: what has come is
/// kept, and the rest asked for. `Err` in it is why there is nothing to know.
async fn paged(
    remote: &impl Remote,
    text: &str,
    [dir, root, more]: [&str; 3],
    mark: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Result<Vec<u8>, String>, CopyError> {
    let is_marked = text == LIST;
    let mut kept: Vec<u8> = Vec::new();
    let mut before = 0;
    loop {
        let whole = match is_marked {
            true => listing::records(&kept, mark),
            false => kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        };
        kept.truncate(whole);
        let from = (kept.len() + 1).to_string();
        let mut arguments = vec![dir, root, mark, &from];
        arguments.extend(Some(more).filter(|more| !more.is_empty()));
        let (out, stdout) = keep(CAPTURE_BYTES - kept.len());
        let (complaint, stderr) = keep(COMPLAINT_BYTES);
        let ended = remote.run(script(text, &arguments), None, stdout, stderr).await;
        let came = std::mem::take(&mut *out.lock());
        if is_marked && !kept.is_empty() && !listing::is_record(&came, mark) {
            // Something has changed in front of it.
            kept.clear();
            continue;
        }
        kept.extend_from_slice(&came);
        let complaint = crate::copy::text(&complaint.lock());
        let error = match outcome(ended, 0) {
            Ok(Outcome::Success) if kept.len() >= CAPTURE_BYTES => {
                return Ok(Err(format!("more than {CAPTURE_BYTES} bytes of names")));
            }
            Ok(Outcome::Success) if listing::end(&kept, mark).is_some() => return Ok(Ok(kept)),
            // It was cut short, and nobody has said so.
            Ok(Outcome::Success) => CopyError::Cut { retries: 0 },
            Ok(Outcome::Failed { message, .. }) => return Ok(Err(message)),
            Ok(Outcome::Exited(code)) => {
                return Ok(Err(match complaint.is_empty() {
                    true => format!("exit code {code}"),
                    false => complaint,
                }));
            }
            Err(CopyError::NoTar) => {
                let what = if is_marked { "no sh" } else { "no sha256sum, or no sh" };
                return Ok(Err(format!("the container has {what}")));
            }
            Err(error) => error,
        };
        let progressed = kept.len() as u64;
        attempts.again(error, watcher, before, progressed).await?;
        before = progressed;
    }
}

/// What is below a root in a directory; in a place, once it has come into the directory of this
/// number. `Err` in it is why the container cannot say.
async fn listed(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    number: Option<u64>,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Result<Listing, String>, CopyError> {
    let mark = scripts::mark();
    let number = number.map_or(String::new(), |number| number.to_string());
    let text = paged(remote, LIST, [dir, root, &number], &mark, attempts, watcher).await?;
    Ok(text.and_then(|text| listing(&text, root, &mark).ok_or_else(|| "it is cut".to_owned())))
}

/// Sums of all files below a root in a directory, by their paths.
async fn summed(
    remote: &impl Remote,
    dir: &str,
    root: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<Option<BTreeMap<Vec<u8>, String>>, CopyError> {
    let mark = scripts::mark();
    Ok(match paged(remote, SUMS, [dir, root, ""], &mark, attempts, watcher).await? {
        Ok(text) => Some(listing::sums(&text, root)),
        Err(why) => {
            watcher.note(&format!("not verified: {why}"));
            None
        }
    })
}

/// The path that a symbolic link in a container leads to.
async fn resolved(
    remote: &impl Remote,
    source: &str,
    attempts: &mut Attempts,
    watcher: &Arc<dyn Watcher>,
) -> Result<String, CopyError> {
    let path = scripts::guarded(source.trim_end_matches('/'));
    let words = script(RESOLVE, &[&path]);
    let said = attempts.of(watcher, || said(remote, words.clone(), None, COMPLAINT_BYTES)).await?;
    let fail = |why: String| CopyError::Link(source.to_owned(), why);
    let Said { outcome, out, complaint } = said;
    if outcome != Outcome::Success {
        let why = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        return Err(fail(why));
    }
    let out = out.strip_suffix(b"\n").unwrap_or(&out);
    match std::str::from_utf8(out) {
        Ok(path) if path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(fail(String::new())),
    }
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
