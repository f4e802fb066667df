//! Whether the program runs and its runtime is there, for whoever asks, and they may be many.

use std::sync::Arc;
use std::time::Duration;

use bowline_io::request_target::Parts;
use bowline_io::serve::Reply;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::answers::text;
use crate::runtime::{Refusal, Runtime};

/// How long a runtime may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long its answer counts: nobody who asks is known.
const KEPT: Duration = Duration::from_secs(1);

/// What is asked without a name and without a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Whether the program runs.
    Healthz,
    /// Whether its runtime is there.
    Readyz,
}

impl Question {
    /// Reads `/healthz`, as the kubelet has it also `/healthz/ping`, and `/readyz`.
    pub(crate) fn read(path: &Parts<'_>) -> Option<Question> {
        let Parts { names, ends_with_slash: false } = path else { return None };
        let [first, rest @ ..] = &**names else { return None };
        match (&**first, rest) {
            ("healthz", []) => Some(Question::Healthz),
            ("healthz", [one]) if one == "ping" => Some(Question::Healthz),
            ("readyz", []) => Some(Question::Readyz),
            _ => None,
        }
    }

    /// Its path, for logs.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Question::Healthz => "/healthz",
            Question::Readyz => "/readyz",
        }
    }
}

/// A runtime, and what it said last. Clones share that.
#[derive(Clone, Debug)]
pub struct Readiness {
    runtime: Arc<dyn Runtime>,
    last: Arc<Mutex<Option<Said>>>,
}

/// When the runtime said what.
type Said = (Instant, Result<(), Refusal>);

impl Readiness {
    /// Makes that of a runtime which was asked for nothing yet.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>) -> Readiness {
        Readiness { runtime, last: Arc::default() }
    }

    /// Answers a question.
    ///
    /// # Errors
    /// 503 and why the runtime is not ready, where that was asked.
    pub(crate) async fn answer(&self, question: Question) -> Result<Reply, Refusal> {
        if question == Question::Readyz {
            self.ask().await?;
        }
        Ok(text(200, "ok"))
    }

    /// Asks the runtime, or says what it said within the last second. Of many who ask, one does.
    async fn ask(&self) -> Result<(), Refusal> {
        let mut last = self.last.lock().await;
        if let Some((when, said)) = &*last
            && when.elapsed() < KEPT
        {
            return said.clone();
        }
        let said = timeout(PATIENCE, self.runtime.ready()).await.unwrap_or_else(|_| {
            let text = format!("the runtime does not answer within {} s", PATIENCE.as_secs());
            Err(Refusal::new(503, text))
        });
        *last = Some((Instant::now(), said.clone()));
        said
    }
}
