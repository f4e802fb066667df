//! Pods, nodes and namespaces to the tables that `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::route::Kind;

/// Makes a `meta.k8s.io/v1` Table of `objects`. Each row has the metadata of its object, or the
/// whole object.
pub(super) fn table(kind: Kind, objects: &[Value], now: Timestamp, whole: bool) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let shown = if whole {
                object.clone()
            } else {
                json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": object["metadata"],
                })
            };
            json!({ "cells": cells(kind, object, now), "object": shown })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": { "resourceVersion": "1" },
        "columnDefinitions": columns(kind),
        "rows": rows,
    })
}

fn columns(kind: Kind) -> Value {
    let wide = ["IP", "Node", "Nominated Node", "Readiness Gates", "Selector"];
    let names: &[&str] = match kind {
        Kind::Pods => {
            &["Name", "Ready", "Status", "Restarts", "Age", wide[0], wide[1], wide[2], wide[3]]
        }
        Kind::Nodes => &["Name", "Status", "Roles", "Age", "Version"],
        Kind::Namespaces => &["Name", "Status", "Age"],
        Kind::Events => &["Last Seen", "Type", "Reason", "Object", "Message"],
        Kind::Services => {
            &["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"]
        }
    };
    names
        .iter()
        .map(|name| {
            json!({
                "name": name,
                "type": "string",
                "format": if *name == "Name" { "name" } else { "" },
                "description": "",
                "priority": u8::from(wide.contains(name)),
            })
        })
        .collect()
}

fn cells(kind: Kind, object: &Value, now: Timestamp) -> Value {
    let name = &object["metadata"]["name"];
    let age = age(object["metadata"]["creationTimestamp"].as_str(), now);
    match kind {
        Kind::Pods => pod_cells(object, name, &age),
        Kind::Nodes => {
            let version = object["status"]["nodeInfo"]["kubeletVersion"].as_str();
            json!([name, node_status(object), "<none>", age, version.unwrap_or("<unknown>")])
        }
        Kind::Namespaces => json!([name, "Active", age]),
        Kind::Events => json!([age, "", "", name, ""]),
        Kind::Services => service_cells(object, name, &age),
    }
}

fn service_cells(service: &Value, name: &Value, age: &str) -> Value {
    let spec = &service["spec"];
    let port = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        format!("{}/{protocol}", port["port"])
    };
    let ports: Vec<String> = spec["ports"].as_array().into_iter().flatten().map(port).collect();
    let selector = spec["selector"].as_object().into_iter().flatten();
    let selector: Vec<String> = selector
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    json!([
        name,
        spec["type"].as_str().unwrap_or("ClusterIP"),
        or_none(spec["clusterIP"].as_str().unwrap_or_default().to_owned()),
        "<none>",
        or_none(ports.join(",")),
        age,
        or_none(selector.join(",")),
    ])
}

fn pod_cells(pod: &Value, name: &Value, age: &str) -> Value {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let statuses = pod["status"]["containerStatuses"].as_array();
    let ready = statuses.into_iter().flatten().filter(|status| status["ready"] == true).count();
    let restarts: i64 = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|status| status["restartCount"].as_i64())
        .sum();
    let or_none = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    json!([
        name,
        format!("{ready}/{}", count(&pod["spec"]["containers"])),
        pod_status(pod),
        restarts.to_string(),
        age,
        or_none(&pod["status"]["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        "<none>",
        "<none>",
    ])
}

/// Returns what a container waits for or ended with, and else the pod's phase, which says less.
fn pod_status(pod: &Value) -> String {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let container_reason = statuses.into_iter().flatten().find_map(|status| {
        let state = &status["state"];
        let reason = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
        reason.map(ToOwned::to_owned)
    });
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
    container_reason.unwrap_or_else(|| phase.to_owned())
}

fn node_status(node: &Value) -> &'static str {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
}

/// Formats an age as kubectl does: `5s`, `3m10s`, `4h`, `2d`.
fn age(created: Option<&str>, now: Timestamp) -> String {
    let created = created.and_then(|text| text.parse::<Timestamp>().ok());
    let Some(created) = created else { return "<unknown>".into() };
    let seconds = now.duration_since(created).as_secs().max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    // The finer unit is left out where it is zero.
    let both = |coarse: String, fine: i64, unit: char| match fine {
        0 => coarse,
        fine => format!("{coarse}{fine}{unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => both(format!("{minutes}m"), seconds % 60, 's'),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => both(format!("{hours}h"), minutes % 60, 'm'),
        28_800..172_800 => format!("{hours}h"),
        _ => format!("{}d", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_kubectls() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (created, expected) in [
            ("2026-01-09T23:58:01Z", "119s"),
            ("2026-01-09T23:57:50Z", "2m10s"),
            ("2026-01-09T23:57:00Z", "3m"),
            ("2026-01-09T22:00:00Z", "120m"),
            ("2026-01-09T20:50:00Z", "3h10m"),
            ("2026-01-09T01:00:00Z", "23h"),
            ("2026-01-01T00:00:00Z", "9d"),
            ("2026-01-11T00:00:00Z", "0s"),
        ] {
            assert_eq!(age(Some(created), now), expected);
        }
        assert_eq!(age(None, now), "<unknown>");
    }

    #[test]
    fn a_pods_row() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        let pod = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-09T23:59:55Z"},
            "spec": {"nodeName": "n", "containers": [{}, {}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"ready": true, "restartCount": 2}, {"ready": false, "restartCount": 1}]},
        });
        let table = table(Kind::Pods, &[pod], now, false);
        let expected =
            json!(["web", "1/2", "Running", "3", "5s", "<none>", "n", "<none>", "<none>"]);
        assert_eq!(table["rows"][0]["cells"], expected);
        assert_eq!(table["columnDefinitions"][5]["priority"], 1);
    }
}
