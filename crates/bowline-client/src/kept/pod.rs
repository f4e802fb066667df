//! A session's pod, where a program in it keeps the session: a container that has ended may begin
//! again, with other sessions in it, or never.

use std::time::Duration;

use bowline_io::dial::dial;
use bowline_io::http::{head, request};
use bowline_io::text::sanitized;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;

use crate::client::Client;
use crate::request::pod_url;

/// The longest pod that is read: etcd takes no object over 1.5 MiB.
const POD_BYTES: usize = 4 << 20;
/// How long the server may take to tell.
const PATIENCE: Duration = Duration::from_secs(10);

/// What counts of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pod {
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    restart_policy: String,
    containers: Vec<Container>,
}

/// One that has rules of its own may begin again whatever the pod's are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    restart_policy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    reason: String,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    terminated: Option<serde::de::IgnoredAny>,
}

/// Why a container of this pod will not run again. Nothing is said where that is not certain, or
/// where the server does not tell.
pub(super) async fn over(client: &Client, pod: &str, container: Option<&str>) -> Option<String> {
    let access = client.access.access().await.ok()?;
    let mut question = head("GET", &pod_url(client, pod), Bytes::new()).ok()?;
    for (name, value) in client.headers.iter().chain(&access.headers) {
        question.headers_mut().append(name, value.clone());
    }
    let stream = dial(&access.endpoint, client.connect_timeout).await.ok()?;
    let (head, body) = request(stream, question, POD_BYTES, PATIENCE).await.ok()?;
    let pod = (head.status == StatusCode::OK).then(|| serde_json::from_slice(&body).ok())??;
    why(&pod, container)
}

fn why(pod: &Pod, container: Option<&str>) -> Option<String> {
    let Pod { spec, status } = pod;
    if let phase @ ("Succeeded" | "Failed") = &*status.phase {
        let reason = sanitized(&status.reason, 64);
        let because = if reason.is_empty() { String::new() } else { format!(", {reason}") };
        return Some(format!("its pod has completed: {phase}{because}"));
    }
    let name = container?;
    let is_ended = status
        .container_statuses
        .iter()
        .any(|status| status.name == name && status.state.terminated.is_some());
    let has_rules =
        spec.containers.iter().any(|one| one.name == name && one.restart_policy.is_some());
    let is_over = is_ended && spec.restart_policy == "Never" && !has_rules;
    is_over.then(|| "its container has ended, and does not begin again".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Option<String> {
        why(&serde_json::from_str(json).unwrap(), Some("box"))
    }

    fn ended(policy: &str, own: &str) -> Option<String> {
        of(&format!(
            r#"{{"spec":{{"restartPolicy":"{policy}","containers":[{{"name":"box"{own}}}]}},
                "status":{{"phase":"Running","containerStatuses":[
                {{"name":"other","state":{{"running":{{}}}}}},
                {{"name":"box","state":{{"terminated":{{"exitCode":137}}}}}}]}}}}"#
        ))
    }

    #[test]
    fn a_pod_that_has_completed_has_no_container_that_begins_again() {
        let evicted = of(r#"{"status":{"phase":"Failed","reason":"Evicted"}}"#);
        assert_eq!(evicted.as_deref(), Some("its pod has completed: Failed, Evicted"));
        let done = of(r#"{"status":{"phase":"Succeeded"}}"#);
        assert_eq!(done.as_deref(), Some("its pod has completed: Succeeded"));
        for phase in ["Running", "Pending", "Unknown", ""] {
            assert_eq!(of(&format!(r#"{{"status":{{"phase":"{phase}"}}}}"#)), None);
        }
    }

    #[test]
    fn a_container_that_has_ended_begins_again_unless_nothing_does_in_its_pod() {
        assert!(ended("Never", "").is_some());
        assert_eq!(ended("Never", r#","restartPolicy":"Always""#), None);
        for policy in ["Always", "OnFailure", ""] {
            assert_eq!(ended(policy, ""), None);
        }
    }
}
