//! A container's log: the API server's request to the kubelet's, and the answer passed on as it
//! comes.

use std::io;
use std::time::Duration;

use bowline_io::record::Pending;
use bowline_io::serve::{Reply, Sessions};
use form_urlencoded::Serializer;
use http::{HeaderValue, Response, header};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::far::Nodes;
use crate::options::container_in;
use crate::status::Refusal;

/// What a kubelet itself allows for one answer.
const PATIENCE: Duration = Duration::from_secs(4 * 60 * 60);

/// What the API server hands on to the kubelet, in the order of Go's encoder.
const PARAMETERS: [&str; 8] = [
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
];

/// Answers a request for a log. The answer ends as the node's does: one that is cut off is cut off.
///
/// # Errors
/// The refusal to answer with.
pub async fn answer(
    nodes: &Nodes,
    sessions: &Sessions,
    session: Pending,
    query: &str,
) -> Result<Reply, Refusal> {
    let (namespace, name) = (&session.record.namespace, &session.record.pod);
    let pod = nodes.pod(namespace, name)?;
    let path = kubelet_path(namespace, name, &pod, query)?;
    let target = nodes.node_of(&pod)?;
    let place = sessions.lasting().map_err(Refusal::too_many_requests)?;
    let answer = nodes.get(&target, &path, PATIENCE).await?;
    let body = answer.into_body().map_err(io::Error::other).boxed_unsync();
    let mut reply = Response::new(session.begin().body(body, place, sessions.end.clone()));
    let plain = HeaderValue::from_static("text/plain");
    reply.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(reply)
}

fn kubelet_path(namespace: &str, name: &str, pod: &Value, query: &str) -> Result<String, Refusal> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let first = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| &*pair.1);
    let container = container_in(pod, first("container").unwrap_or_default())?;
    let mut query = Serializer::new(String::new());
    for name in PARAMETERS {
        if let Some(value) = first(name) {
            query.append_pair(name, value);
        }
    }
    Ok(format!("/containerLogs/{namespace}/{name}/{container}?{}", query.finish()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_kubelet_knows_goes_on() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let path = |query| kubelet_path("ns", "p", &pod, query);
        assert_eq!(
            path("tailLines=5&follow=true&container=c&pretty=1").unwrap(),
            "/containerLogs/ns/p/c?follow=true&tailLines=5"
        );
        let refusal = path("container=x").unwrap_err();
        assert_eq!(refusal.message, "container x is not valid for pod p");
    }
}
