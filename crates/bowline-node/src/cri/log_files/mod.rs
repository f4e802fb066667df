//! Logs of CRI containers, read from the files that their runtime writes.
//!
//! What a kubelet does with these files is the model (`k8s.io/cri-client/pkg/logs`): a tail is
//! looked for in the newest file only, and a line in another form is passed over, unless all that
//! is read at first is. What is done otherwise:
//!
//! - The parts of a line count as one line, and both outputs' lines stay whole.
//! - Who follows a log loses nothing at a rotation, or is told so.
//! - An answer that does not follow ends where the log ended when it was asked for.

mod file;
mod follow;
mod format;
#[cfg(test)]
mod properties;
mod rotation;
mod tail;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::Instant;

use self::file::LogFile;
use self::follow::{Follow, Next, watch};
use self::format::Form;
use self::rotation::{Batch, Rotated};
use self::tail::{Search, Tail};
use crate::runtime::{BoxFuture, Log, LogRecord, LogRecords, LogRequest, Refusal};

/// Asks whether the container runs. One that is gone does not; an error cuts the log off. It is
/// asked at most about once a second, and the answer may be waited for by any task.
pub(super) type IsRunning = Box<dyn Fn() -> BoxFuture<'static, io::Result<bool>> + Send>;

/// Why there is no log, in the kubelet's words.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// Nothing is at the path.
    #[error(
        "failed to try resolving symlinks in path {path:?}: lstat {}: no such file or directory",
        path.display()
    )]
    Missing { path: PathBuf },
    /// The file cannot be opened.
    #[error("failed to open log file {path:?}: {why}")]
    File { path: PathBuf, why: io::Error },
    /// Its last lines cannot be found.
    #[error("failed to find the last lines of log file {path:?}: {why}")]
    Tail { path: PathBuf, why: io::Error },
    /// It cannot be read, or is none of a CRI container.
    #[error("failed to read log file {path:?}: {why}")]
    Read { path: PathBuf, why: io::Error },
    /// This program ends.
    #[error("the log is not read: {0}")]
    Ended(JoinError),
}

impl From<OpenError> for Refusal {
    /// To the kubelet, whatever is wrong with a log is wrong with the request.
    fn from(error: OpenError) -> Refusal {
        let code = if matches!(error, OpenError::Ended(_)) { 503 } else { 400 };
        Refusal::new(code, error.to_string())
    }
}

/// Opens the log file at `path`, for what is wanted of it. `is_running` is asked only for who
/// follows it.
///
/// `request.since` is not looked at: whoever makes lines of the records passes over older ones.
///
/// Dropped, it opens nothing.
///
/// # Errors
/// [`OpenError`], for which the answer is a refusal.
pub(super) async fn open(
    path: &Path,
    request: LogRequest,
    is_running: IsRunning,
) -> Result<Log, OpenError> {
    open_watched(path, request, is_running, watch).await
}

async fn open_watched(
    path: &Path,
    request: LogRequest,
    is_running: IsRunning,
    watch: impl FnOnce(&Path) -> io::Result<OwnedFd> + Send + 'static,
) -> Result<Log, OpenError> {
    let path = path.to_owned();
    let (path, mut file, length) = blocking(move || find(&path)).await?;
    let mut tail = Tail::default();
    if let Some(lines) = request.tail {
        (file, tail) = find_tail(&path, file, Search::new(length, lines, request.source)).await?;
    }
    file.seek(tail.offset);
    let now = Instant::now();
    let until = (!request.follow).then_some(length);
    let keeps_times = request.timestamps || request.since.is_some();
    let form = Form { source: request.source, keeps_times };
    let (files, batch, changes) = blocking(move || {
        let changes = request.follow.then(|| watch(&path));
        let failed = |why| OpenError::Read { path: path.clone(), why };
        let mut files = Rotated::new(path.clone(), file, until, form, now);
        let batch = files.next(now).map_err(failed)?;
        Ok((Box::new(files), batch, changes))
    })
    .await?;
    let follow = changes.map(|changes| Follow::new(changes, is_running));
    let mut records =
        Records { ready: Vec::new().into_iter(), work: Work::Over, follow, is_last: false };
    records.took(files, batch);
    Ok(Log { records: Box::new(records), skip_lines: tail.skip_lines })
}

/// Finds the file that is at the path now, and its length.
fn find(path: &Path) -> Result<(PathBuf, LogFile, u64), OpenError> {
    let found = path.canonicalize().map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => OpenError::Missing { path: path.to_owned() },
        _ => OpenError::File { path: path.to_owned(), why },
    })?;
    let file = LogFile::open(&found).and_then(|file| Ok((file.file().metadata()?.len(), file)));
    match file {
        Ok((length, file)) => Ok((found, file, length)),
        Err(why) => Err(OpenError::File { path: found, why }),
    }
}

/// Looks for a tail in steps, so that nobody goes on who is not waited for.
async fn find_tail(
    path: &Path,
    mut file: LogFile,
    mut search: Search,
) -> Result<(LogFile, Tail), OpenError> {
    loop {
        let path = path.to_owned();
        let found;
        (file, search, found) = blocking(move || {
            let found = search.step(file.file());
            let found = found.map_err(|why| OpenError::Tail { path, why })?;
            Ok((file, search, found))
        })
        .await?;
        if let Some(tail) = found {
            return Ok((file, tail));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it is waited for")]
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    spawn_blocking(work).await.unwrap_or_else(|why| Err(OpenError::Ended(why)))
}

/// The records of one answer.
struct Records {
    /// What was read.
    ready: std::vec::IntoIter<LogRecord>,
    work: Work,
    /// Waits for more, if the log is followed.
    follow: Option<Follow>,
    /// The container has ended: the next end of the log is the last.
    is_last: bool,
}

/// What is done meanwhile.
enum Work {
    /// The next block is read, on a thread that may block.
    Reads(JoinHandle<(Box<Rotated>, io::Result<Batch>)>),
    /// All was read that is there.
    AtEnd(Box<Rotated>),
    /// There is nothing more to come.
    Over,
}

impl Records {
    /// Takes what was read, and begins to read the next block beside it.
    fn took(&mut self, files: Box<Rotated>, batch: Batch) {
        match batch {
            Batch::Records(records) => {
                self.ready = records.into_iter();
                self.work = Work::Reads(read(files));
            }
            Batch::AtEnd => {
                // Who waits keeps no memory for what was read.
                self.ready = Vec::new().into_iter();
                if self.follow.is_some() && !self.is_last {
                    self.work = Work::AtEnd(files);
                } else {
                    (self.work, self.follow) = (Work::Over, None);
                }
            }
        }
    }
}

impl LogRecords for Records {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<LogRecord>>> {
        loop {
            if let Some(record) = self.ready.next() {
                return Poll::Ready(Some(Ok(record)));
            }
            match std::mem::replace(&mut self.work, Work::Over) {
                Work::Reads(mut reading) => {
                    let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) else {
                        self.work = Work::Reads(reading);
                        return Poll::Pending;
                    };
                    let (files, batch) = read.map_err(io::Error::other)?;
                    self.took(files, batch?);
                }
                Work::AtEnd(files) => {
                    let next = self.follow.as_mut().map(|follow| follow.poll_next(cx));
                    match next {
                        Some(Poll::Pending) => {
                            self.work = Work::AtEnd(files);
                            return Poll::Pending;
                        }
                        Some(Poll::Ready(next)) => {
                            self.is_last = next? == Next::LookLast;
                            self.work = Work::Reads(read(files));
                        }
                        None => {}
                    }
                }
                Work::Over => return Poll::Ready(None),
            }
        }
    }
}

/// Begins to read the next block. The thread has an end: a block's.
#[expect(clippy::disallowed_methods, reason = "it is waited for, or ends with its block")]
fn read(mut files: Box<Rotated>) -> JoinHandle<(Box<Rotated>, io::Result<Batch>)> {
    let now = Instant::now();
    spawn_blocking(move || {
        let batch = files.next(now);
        (files, batch)
    })
}
