//! Whether a caller may do something, as the API server says it to the caller itself.

use std::time::Duration;

use bowline_io::auth::Attributes;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{ApiServer, unreachable};
use crate::authz::forbidden;
use crate::callers::Caller;
use crate::status::Refusal;

/// How long the API server may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer.
const BYTES: usize = 64 * 1024;

impl ApiServer {
    /// Demands that the caller may do what `attributes` say, by a SelfSubjectAccessReview.
    ///
    /// # Errors
    /// 403 if not, 401 for nobody, 503 if the API server cannot be asked.
    pub(crate) async fn demand(
        &self,
        caller: &Caller,
        attributes: Attributes,
    ) -> Result<(), Refusal> {
        let review = timeout(PATIENCE, self.review(caller, &attributes)).await;
        let (status, said) = review.map_err(|_| no_review("it takes too long"))??;
        match status {
            StatusCode::CREATED | StatusCode::OK if said["status"]["allowed"] == true => Ok(()),
            StatusCode::CREATED | StatusCode::OK => {
                let reason = said["status"]["reason"].as_str().unwrap_or_default();
                Err(forbidden(&caller.user, &attributes, reason))
            }
            StatusCode::UNAUTHORIZED => {
                Err(Refusal::unauthorized("the API server does not know the credentials"))
            }
            // Whoever may not even ask may nothing.
            StatusCode::FORBIDDEN => Err(forbidden(&caller.user, &attributes, "")),
            status => Err(no_review(&format!("the API server answered {status}"))),
        }
    }

    async fn review(
        &self,
        caller: &Caller,
        attributes: &Attributes,
    ) -> Result<(StatusCode, Value), Refusal> {
        self.demand_believed(&caller.onward).await?;
        let body = Full::new(Bytes::from(review_of(attributes).to_string()));
        let path = format!("{}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.prefix);
        let request = Request::post(path).body(body.map_err(|never| match never {}).boxed_unsync());
        let mut request = request.map_err(|error| no_review(&error.to_string()))?;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        request.headers_mut().insert(header::ACCEPT, json);
        for (name, value) in &caller.onward.headers {
            request.headers_mut().append(name, value.clone());
        }
        let answer = self.pool(caller).send(request).await;
        let answer = answer.map_err(|error| no_review(&error.to_string()))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), BYTES).collect().await;
        let body = body.map_err(|error| no_review(&error.to_string()))?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }
}

fn review_of(attributes: &Attributes) -> Value {
    let spec = match attributes {
        Attributes::Resource(asked) => json!({"resourceAttributes": {
            "namespace": asked.namespace,
            "verb": asked.verb,
            "group": asked.group,
            "version": asked.version,
            "resource": asked.resource,
            "subresource": asked.subresource,
            "name": asked.name,
        }}),
        Attributes::NonResource { verb, path } => {
            json!({"nonResourceAttributes": {"path": path, "verb": verb}})
        }
    };
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": spec,
    })
}

fn no_review(why: &str) -> Refusal {
    let why = bowline_io::text::sanitized(why, bowline_proto::limits::REASON_BYTES);
    unreachable(format!("whether you may do this could not be found out: {why}"))
}
