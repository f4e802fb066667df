//! Whether a caller may do something, as the API server says it to the caller itself.

use bowline_io::auth::Attributes;
use bowline_kube::reviews::self_review;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::timeout;

use super::question::{PATIENCE, ask};
use super::{ApiServer, unreachable};
use crate::authz::forbidden;
use crate::callers::Caller;
use crate::status::Refusal;

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
        let path = format!("{}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self.prefix);
        let (headers, review) = (caller.onward.headers.clone(), self_review(attributes));
        let answer = ask(self.pool(caller), Method::POST, path, headers, review.to_string()).await;
        let (status, said) = answer.map_err(|why| no_review(&why))?;
        Ok((status, serde_json::from_slice(&said).unwrap_or_default()))
    }
}

fn no_review(why: &str) -> Refusal {
    let why = bowline_io::text::sanitized(why, bowline_proto::limits::REASON_BYTES);
    unreachable(format!("whether you may do this could not be found out: {why}"))
}
