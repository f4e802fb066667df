//! A thread that runs nothing but some tasks of one kind.
//!
//! The node's other threads share their tasks, and so have to wake each other and look for work.
//! For tasks that move a little at each wake, that costs as much as what they do.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;

/// A thread for some tasks, which begins with [`run`](Self::run).
#[derive(Debug)]
pub(super) struct OwnThread(Option<Runtime>);

impl OwnThread {
    pub(super) fn new() -> io::Result<OwnThread> {
        // No signals and no children, for which each wake would look.
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        Ok(OwnThread(Some(runtime)))
    }

    /// Has what `make` makes belong to the thread: the sockets in it are waited for there.
    pub(super) fn owning<T>(&self, make: impl FnOnce() -> T) -> T {
        let _inside = self.0.as_ref().map(Runtime::enter);
        make()
    }

    /// Runs `task`, and what it spawns, on the thread until it has ended. It goes on if this is
    /// dropped before.
    pub(super) async fn run(mut self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(runtime) = self.0.take() else { return };
        #[expect(clippy::disallowed_methods, reason = "it ends with its task")]
        let _ = spawn_blocking(move || runtime.block_on(task)).await;
    }
}

/// A runtime may not be dropped by a task, which it would have wait.
impl Drop for OwnThread {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_belongs_to_it_is_waited_for_there_and_what_it_spawns_runs_there() {
        let own = OwnThread::new().unwrap();
        let (mut ours, mut theirs) = own.owning(UnixStream::pair).unwrap();
        let (tell, told) = oneshot::channel();
        let task = async move {
            let here = thread::current().id();
            let reading = tokio::spawn(async move {
                assert_eq!(ours.read_u8().await.unwrap(), 7);
                thread::current().id()
            });
            theirs.write_u8(7).await.unwrap();
            tell.send((here, reading.await.unwrap())).unwrap();
        };
        own.run(task).await;
        let (one, other) = told.await.unwrap();
        assert_eq!(one, other);
        assert_ne!(one, thread::current().id());
    }

    /// Also one that owns something, where waiting is not allowed.
    #[tokio::test]
    async fn one_that_never_runs_is_dropped() {
        let own = OwnThread::new().unwrap();
        let pair = own.owning(UnixStream::pair).unwrap();
        drop(own);
        drop(pair);
    }
}
