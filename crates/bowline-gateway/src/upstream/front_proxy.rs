//! Whether an API server believes this gateway when it names users in headers. One that does not
//! would take every one of them for the gateway's own user.

use std::time::Duration;

use bowline_io::random;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ApiServer, unreachable};
use crate::callers::Onward;
use crate::status::Refusal;

/// How long the API server may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer.
const BYTES: usize = 64 * 1024;
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

impl ApiServer {
    /// Demands that the API server believes what this gateway says of a caller, if it says that as
    /// a front proxy. It is asked until it has shown so once.
    ///
    /// # Errors
    /// 401 if it does not, 503 if it cannot be asked.
    pub(super) async fn demand_believed(&self, onward: &Onward) -> Result<(), Refusal> {
        if !onward.headers.contains_key("x-remote-user") {
            return Ok(());
        }
        let asked = self.believes.get_or_try_init(async || {
            let asked = timeout(PATIENCE, self.asks_for_somebody()).await;
            match asked.map_err(|_| unknown("it takes too long"))?? {
                true => Ok(()),
                false => Err(Refusal::unauthorized(
                    "the API server does not take this gateway for a front proxy: the kubeconfig \
                     needs a certificate of its --requestheader-client-ca-file",
                )),
            }
        });
        asked.await.map(|_| ())
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
        let failed = |error: &dyn std::error::Error| unknown(&error.to_string());
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let json = HeaderValue::from_static("application/json");
        let request = Request::builder().method(method).uri(format!("{}{path}", self.prefix));
        let request = request.header("x-remote-user", name).header(header::ACCEPT, &json);
        let request = request.header(header::CONTENT_TYPE, json).body(body);
        let request = request.map_err(|error| failed(&error))?;
        let answer = self.own_pool.send(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BYTES).collect().await;
        Ok((status, body.map_err(|error| unknown(&error.to_string()))?.to_bytes()))
    }
}

fn unknown(why: &str) -> Refusal {
    let why = bowline_io::text::sanitized(why, bowline_proto::limits::REASON_BYTES);
    unreachable(format!("whether the API server believes this gateway is not known: {why}"))
}
