//! Whether an API server believes this gateway when it names users in headers. One that does not
//! would take every one of them for the gateway's own user.

use bowline_io::random;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::question::{PATIENCE, ask};
use super::{ApiServer, unreachable};
use crate::callers::Onward;
use crate::status::Refusal;

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
