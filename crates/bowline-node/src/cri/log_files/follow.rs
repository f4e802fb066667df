//! Waiting for more of a log, or for the end of its container.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_io::coalescing::{Coalescing, PAUSE};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep};
use tracing::debug;

use super::IsRunning;
use crate::async_fd::register;
use crate::runtime::BoxFuture;

/// How often the container and its log are looked at if nothing is heard of them, as the kubelet
/// does.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a log is looked at after its container has ended: a runtime writes the last lines
/// beside saying so.
const END_PATIENCE: Duration = Duration::from_millis(100);

/// How many bytes of notices are read at once: some hundred.
const NOTICE_BYTES: usize = 4096;

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The log may have more.
    Look,
    /// The log may have more for the last time.
    LookLast,
}

/// What has happened in the directory of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Something.
    Some,
    /// A file was closed by who wrote it.
    Closed,
}

/// Somebody who waits for more of one log.
pub(super) struct Follow {
    /// Tells of changes; where the system has no more of these, the timer is enough.
    changes: Option<AsyncFd<OwnedFd>>,
    is_running: IsRunning,
    asked: Option<BoxFuture<'static, io::Result<bool>>>,
    timer: Pin<Box<Sleep>>,
    /// Until when a log is left alone that grows all the time, line by line.
    pause: Option<Pin<Box<Sleep>>>,
    coalescing: Coalescing,
    has_ended: bool,
}

/// Begins to watch the directory of a log. This blocks.
pub(super) fn watch(path: &Path) -> io::Result<OwnedFd> {
    let directory = path.parent().unwrap_or(path);
    let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let wanted = WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&changes, directory, wanted)?;
    Ok(changes)
}

impl Follow {
    /// Waits with what [`watch`] gave; if that failed, by looking again and again.
    pub(super) fn new(changes: io::Result<OwnedFd>, is_running: IsRunning) -> Follow {
        let changes = changes.and_then(register);
        let changes = changes.inspect_err(|error| debug!("a log is not watched: {error}")).ok();
        // The container may have ended long ago: it is asked for before any wait.
        let asked = Some(is_running());
        let timer = Box::pin(sleep(CHECK_INTERVAL));
        let coalescing = Coalescing::default();
        Follow { changes, is_running, asked, timer, pause: None, coalescing, has_ended: false }
    }

    /// Polls for the time to look at the log again. An error is the runtime's.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        loop {
            if self.has_ended {
                return self.timer.as_mut().poll(cx).map(|()| Ok(Next::LookLast));
            }
            match self.asked.as_mut().map(|asked| asked.as_mut().poll(cx)) {
                Some(Poll::Ready(Ok(true))) => self.asked = None,
                Some(Poll::Ready(Ok(false))) => {
                    self.asked = None;
                    self.has_ended = true;
                    self.timer.as_mut().reset(Instant::now() + END_PATIENCE);
                    continue;
                }
                Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
                Some(Poll::Pending) | None => {}
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
                return Poll::Ready(Ok(Next::Look));
            }
            let change = self.poll_change(cx);
            let is_time = self.timer.as_mut().poll(cx).is_ready();
            // Who wrote the log has closed it when the container has ended.
            if is_time || change == Poll::Ready(Change::Closed) {
                self.timer.as_mut().reset(Instant::now() + CHECK_INTERVAL);
                self.asked.get_or_insert_with(&self.is_running);
                return Poll::Ready(Ok(Next::Look));
            }
            let _ = ready!(change);
            if !self.coalescing.count_piece(1, u32::MAX) {
                return Poll::Ready(Ok(Next::Look));
            }
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        while let Some(changes) = &self.changes {
            let notices = match ready!(changes.poll_read_ready(cx)) {
                Ok(mut guard) => match take_notices(changes) {
                    Err(Errno::AGAIN) => {
                        guard.clear_ready();
                        continue;
                    }
                    notices => notices.map_err(io::Error::from),
                },
                Err(error) => Err(error),
            };
            match notices {
                Ok(change) => return Poll::Ready(change),
                Err(error) => {
                    debug!("a log is no longer watched: {error}");
                    self.changes = None;
                }
            }
        }
        Poll::Pending
    }
}

/// Takes notices that are there. There may be more: they come as quickly as a log is written.
fn take_notices(changes: &AsyncFd<OwnedFd>) -> Result<Change, Errno> {
    let mut buffer = [MaybeUninit::uninit(); NOTICE_BYTES];
    let mut notices = Reader::new(changes, &mut buffer);
    let mut change = Change::Some;
    loop {
        match notices.next() {
            Ok(notice) if notice.events().contains(ReadFlags::CLOSE_WRITE) => {
                change = Change::Closed;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if notices.is_buffer_empty() {
            return Ok(change);
        }
    }
}
