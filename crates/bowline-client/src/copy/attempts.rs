//! How often, and how soon, what was lost is tried again, and when its caller wants the end.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::CopyError;
use super::{Options, Watcher};

/// Between two attempts, at first and at most.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(5);

/// A step of a copy, until its caller wants the end.
pub async fn unless<T>(
    stop: &CancellationToken,
    step: impl Future<Output = Result<T, CopyError>>,
) -> Result<T, CopyError> {
    stop.run_until_cancelled(step).await.unwrap_or(Err(CopyError::Stopped))
}

/// Tries again after losses, as often as it may.
pub struct Attempts {
    pub made: u64,
    allowed: Option<u64>,
    pause: Duration,
}

impl Attempts {
    pub fn new(options: &Options) -> Attempts {
        Attempts { made: 0, allowed: options.retries, pause: SOON }
    }

    /// Does a step that may be done again, until it was followed to its end.
    pub async fn of<T, F>(
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
    pub async fn again(
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
