//! What a runtime knows of a pod to the status that the API shows.

use std::time::SystemTime;

use bowline_node::process::{Container, ProcessRuntime, RunningPod, State};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Puts the status of `pod` into it, if the runtime runs it.
pub fn refresh(runtime: &ProcessRuntime, pod: &mut Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
    if let Some(running) = runtime.pod(&namespace, &name) {
        pod["status"] = status(running);
    }
}

fn status(pod: &RunningPod) -> Value {
    let states: Vec<State> = pod.containers().iter().map(|one| one.state()).collect();
    let running = states.iter().filter(|state| matches!(state, State::Running { .. })).count();
    let clean = |state: &State| matches!(state, State::Exited { code: 0, .. });
    let phase = match running {
        0 if states.iter().all(clean) => "Succeeded",
        0 => "Failed",
        _ => "Running",
    };
    let ready = if running == states.len() { "True" } else { "False" };
    let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status });
    let statuses: Vec<Value> = pod.containers().iter().map(|one| container(one)).collect();
    json!({
        "phase": phase,
        "conditions": [
            condition("Initialized", "True"),
            condition("Ready", ready),
            condition("ContainersReady", ready),
            condition("PodScheduled", "True"),
        ],
        "hostIP": "127.0.0.1",
        "podIP": "127.0.0.1",
        "podIPs": [{ "ip": "127.0.0.1" }],
        "qosClass": "BestEffort",
        "containerStatuses": statuses,
    })
}

fn container(container: &Container) -> Value {
    let running = matches!(container.state(), State::Running { .. });
    let state = match container.state() {
        State::Running { since } => json!({ "running": { "startedAt": time(since) } }),
        State::Exited { code, since, at } => json!({ "terminated": {
            "exitCode": code,
            "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": time(since),
            "finishedAt": time(at),
        }}),
        State::Failed { why, at } => json!({ "terminated": {
            "exitCode": 128,
            "reason": "StartError",
            "message": why,
            "finishedAt": time(at),
        }}),
    };
    json!({
        "name": container.spec.name,
        "ready": running,
        "started": running,
        "restartCount": 0,
        "image": "",
        "imageID": "",
        "state": state,
        "lastState": {},
    })
}

fn time(time: SystemTime) -> String {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
