//! Whether the runtime is there, for whoever asks, and they may be many.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::runtime::{Refusal, Runtime};

/// How long a runtime may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long its answer counts: nobody who asks is known.
const KEPT: Duration = Duration::from_secs(1);

/// What the runtime said last. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Option<Said>>>);

/// When the runtime said what.
type Said = (Instant, Result<(), Refusal>);

impl Readiness {
    /// Asks the runtime, or says what it said within the last second. Of many who ask, one does.
    pub(super) async fn of(&self, runtime: &dyn Runtime) -> Result<(), Refusal> {
        let mut last = self.0.lock().await;
        if let Some((when, said)) = &*last
            && when.elapsed() < KEPT
        {
            return said.clone();
        }
        let said = timeout(PATIENCE, runtime.ready()).await.unwrap_or_else(|_| {
            let text = format!("the runtime does not answer within {} s", PATIENCE.as_secs());
            Err(Refusal::new(503, text))
        });
        *last = Some((Instant::now(), said.clone()));
        said
    }
}
