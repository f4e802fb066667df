//! How often and how soon a lost copy is retried, and its end when the caller stops it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::CopyError;
use super::{Options, Watcher};

/// The first and the longest pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs a step of a copy, or fails with [`CopyError::Stopped`] once `stop` is cancelled.
pub(crate) async fn until_stopped<T>(
    stop: &CancellationToken,
    step: impl Future<Output = Result<T, CopyError>>,
) -> Result<T, CopyError> {
    stop.run_until_cancelled(step).await.unwrap_or(Err(CopyError::Stopped))
}

/// Counts retries, and waits between them.
pub(crate) struct Attempts {
    pub made: u64,
    allowed: Option<u64>,
    pause: Duration,
}

impl Attempts {
    pub(crate) fn new(options: &Options) -> Attempts {
        Attempts { made: 0, allowed: options.retries, pause: FIRST_PAUSE }
    }

    /// Repeats a step until its outcome is known. The step must be safe to repeat.
    pub(crate) async fn repeat<T, F>(
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
                Err(error) => self.retry_after(error, watcher, 0, 0).await?,
            }
        }
    }

    /// Waits until the next attempt, or returns the error if it is no loss or no retry is left.
    ///
    /// `progressed` are the bytes that have arrived, and `before` those at the last loss: after an
    /// attempt with progress, the pause is the shortest again.
    pub(crate) async fn retry_after(
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
        self.pause =
            if progressed > before { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}
