//! Whether a caller may do something, as the API server says it to the caller itself.

use std::time::Duration;

use bowline_io::auth::Attributes;
use bowline_io::dial::dial;
use bowline_io::http::request;
use bowline_io::request_target::head;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{ApiServer, unreachable, unreachable_because};
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
        let (status, body) = self.review(caller, &attributes).await?;
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status {
            StatusCode::CREATED | StatusCode::OK if said["status"]["allowed"] == true => Ok(()),
            StatusCode::CREATED | StatusCode::OK => {
                let reason = said["status"]["reason"].as_str().unwrap_or_default();
                Err(forbidden(&caller.user, &attributes, reason))
            }
            StatusCode::UNAUTHORIZED => Err(Refusal::unauthorized("the API server does not know")),
            // Whoever may not even ask is nobody.
            StatusCode::FORBIDDEN => Err(forbidden(&caller.user, &attributes, "")),
            status => Err(unreachable(format!("a review of access was answered with {status}"))),
        }
    }

    async fn review(
        &self,
        caller: &Caller,
        attributes: &Attributes,
    ) -> Result<(StatusCode, bytes::Bytes), Refusal> {
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
        let object = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": spec,
        });
        let (upstream, headers, _) = self.way(&caller.onward).await?;
        let path = format!("{}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.prefix);
        let host = upstream.host();
        let body = bytes::Bytes::from(object.to_string());
        let failed = |error: &dyn std::error::Error| unreachable_because(error);
        let mut question = head("POST", &host, &path, body).map_err(|error| failed(&error))?;
        question.headers_mut().extend(headers);
        let json = HeaderValue::from_static("application/json");
        question.headers_mut().insert(header::CONTENT_TYPE, json.clone());
        question.headers_mut().insert(header::ACCEPT, json);
        let stream = dial(&upstream.endpoint, PATIENCE).await.map_err(|error| failed(&error))?;
        let answer = request(stream, question, BYTES, PATIENCE).await;
        let (head, body) = answer.map_err(|error| failed(&error))?;
        Ok((head.status, body))
    }
}
