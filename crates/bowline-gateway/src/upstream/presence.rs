//! Whether an API server is there, as whoever asks for `/readyz` is to know.

use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::ApiServer;
use super::question::ask;

/// How long an answer counts, for all who ask: nobody has to say who they are to ask.
const COUNTS_FOR: Duration = Duration::from_secs(1);
/// How long the API server may take. Probes are hardly more patient.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// When it was found out, and what. Whoever asks the server holds it, and others wait.
    found: Mutex<Option<(Instant, bool)>>,
}

impl Presence {
    async fn is_there(&self, asked: impl Future<Output = bool>) -> bool {
        let mut found = self.found.lock().await;
        if let Some((at, is_there)) = *found
            && at.elapsed() < COUNTS_FOR
        {
            return is_there;
        }
        let is_there = timeout(PATIENCE, asked).await.unwrap_or(false);
        *found = Some((Instant::now(), is_there));
        is_there
    }
}

impl ApiServer {
    /// Whether it answers, and does not say that it is not ready. It is asked without credentials:
    /// one that refuses those is there.
    pub(super) async fn is_there(&self) -> bool {
        let path = format!("{}/readyz", self.prefix);
        let asked = async {
            let pool = &self.questions_pool;
            let answer = ask(pool, Method::GET, path, HeaderMap::new(), String::new());
            answer.await.is_ok_and(|(status, _)| !status.is_server_error())
        };
        self.presence.is_there(asked).await
    }
}
