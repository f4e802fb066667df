//! Whether an API server believes this gateway when it names users in headers. One that does not
//! would take every one of them for the gateway's own user.
//!
//! What it has shown does not hold for long: the server may begin anew with other flags, another
//! one may take its address, and the gateway's certificate may be exchanged.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_io::pool::{PoolError, PoolState};
use bowline_io::random;
use bowline_io::upstream::UpstreamError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::question::{PATIENCE, ask};
use super::{ApiServer, no_credentials, unreachable, unreachable_because};
use crate::callers::Onward;
use crate::status::Refusal;

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// How long it counts that the server believes.
const COUNTS_FOR: Duration = Duration::from_secs(5);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// Whoever asks the server holds it, and others wait.
    found: Mutex<Option<Found>>,
    /// How often something went wrong with the server.
    failures: AtomicU64,
}

#[derive(Debug)]
struct Found {
    asked_at: Instant,
    answered_at: Instant,
    basis: Basis,
    answer: Result<(), Refusal>,
}

/// What an answer is of: it says nothing of a server that may have begun anew since, nor of other
/// credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    pool: PoolState,
    failures: u64,
}

impl Found {
    /// Whether it says to somebody who came then what they would be told.
    fn counts(&self, basis: Basis, came_at: Instant) -> bool {
        match self.answer {
            Ok(()) => self.basis == basis && self.asked_at.elapsed() < COUNTS_FOR,
            // It is for those who have waited for it; others ask again.
            Err(_) => self.answered_at > came_at,
        }
    }
}

impl Belief {
    /// Forgets what the server has shown: it may be another one.
    pub(super) fn forget(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    async fn demand(
        &self,
        pool: impl Future<Output = Result<PoolState, Refusal>>,
        asked: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        let came_at = Instant::now();
        let mut found = self.found.lock().await;
        let basis = Basis { failures: self.failures.load(Ordering::Relaxed), pool: pool.await? };
        if let Some(known) = &*found
            && known.counts(basis, came_at)
        {
            return known.answer.clone();
        }
        let asked_at = Instant::now();
        let answer = asked.await;
        *found =
            Some(Found { asked_at, answered_at: Instant::now(), basis, answer: answer.clone() });
        answer
    }
}

impl ApiServer {
    /// Demands that the API server believes what this gateway says of a caller, if it says that as
    /// a front proxy. It is asked again when that was a while ago, or may have changed.
    ///
    /// # Errors
    /// 401 if it does not, 503 if it cannot be asked.
    pub(super) async fn demand_believed(&self, onward: &Onward) -> Result<(), Refusal> {
        if !onward.headers.contains_key("x-remote-user") {
            return Ok(());
        }
        let pool = async {
            self.own_pool.state().await.map_err(|error| match error {
                PoolError::Access(error) => no_credentials(&error),
                error => unreachable_because(&error),
            })
        };
        let asked = async {
            let asked = timeout(PATIENCE, self.asks_for_somebody()).await;
            match asked.map_err(|_| unknown("it takes too long"))?? {
                true => Ok(()),
                false => Err(Refusal::unauthorized(
                    "the API server does not take this gateway for a front proxy: the kubeconfig \
                     needs a certificate of its --requestheader-client-ca-file",
                )),
            }
        };
        self.belief.demand(pool, asked).await
    }

    /// Notes that a request has no answer.
    pub(super) fn note_no_answer(&self, error: &PoolError) {
        if !matches!(error, PoolError::Access(_) | PoolError::Request(_) | PoolError::Busy) {
            self.belief.forget();
        }
    }

    /// Notes that a stream was not opened. A server that has answered is the one that it was.
    pub(super) fn note_failure(&self, error: &UpstreamError) {
        if matches!(error, UpstreamError::Dial(_) | UpstreamError::Http(_)) {
            self.belief.forget();
        }
    }

    /// Goes there as somebody of a name that nobody has, and returns whether it was taken for them.
    async fn asks_for_somebody(&self) -> Result<bool, Refusal> {
        let name = format!("bowline:nobody-{}", random::hex::<8>());
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "SelfSubjectReview",
        });
        let (status, said) = self.ask_as(&name, Method::POST, REVIEWS, review.to_string()).await?;
        if status.is_success() {
            let said: Value = serde_json::from_slice(&said).unwrap_or_default();
            return Ok(said["status"]["userInfo"]["username"] == *name);
        }
        // Servers before 1.28 have no such review: their refusal has the name.
        let path = format!("/api/v1/namespaces/kube-system/secrets/{}", random::hex::<8>());
        let (status, said) = self.ask_as(&name, Method::GET, &path, String::new()).await?;
        Ok(status == StatusCode::FORBIDDEN && String::from_utf8_lossy(&said).contains(&name))
    }

    async fn ask_as(
        &self,
        name: &str,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), Refusal> {
        let bad = |error: http::Error| unknown(&error.to_string());
        let name = HeaderValue::try_from(name).map_err(|error| bad(error.into()))?;
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-remote-user"), name)]);
        let path = format!("{}{path}", self.prefix);
        ask(&self.own_pool, method, path, headers, body).await.map_err(|why| unknown(&why))
    }
}

fn unknown(why: &str) -> Refusal {
    let why = bowline_io::text::sanitized(why, bowline_proto::limits::REASON_BYTES);
    unreachable(format!("whether the API server believes this gateway is not known: {why}"))
}
