//! A pod's and a container's names to the runtime's ids, as the kubelet finds them
//! (`kuberuntime_manager.go`, `kubelet_pods.go`).
//!
//! A pod is all sandboxes of one uid. The kubelet also has the pods of the API server, and knows by
//! those whether there is such a pod at all; the node knows the runtime alone, so that a pod exists
//! as long as one of its sandboxes does, or a container that runs. Where a uid is given it is
//! compared: the kubelet passes over it when it runs commands, but not when it forwards ports.

use std::cmp::Reverse;
use std::collections::HashMap;

use thiserror::Error;

use super::client::{ANSWER_PATIENCE, CallError, Client};
use super::messages::{
    CONTAINER_CREATED, CONTAINER_RUNNING, Container, ContainerFilter, ContainerStateValue,
    ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    PodSandbox, PodSandboxMetadata, SANDBOX_READY, Strings,
};
use crate::runtime::{PodTarget, Refusal, Target};

/// The labels by which the kubelet knows what belongs to a pod.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";

/// Why nothing was found.
#[derive(Debug, Error)]
pub(super) enum FindError {
    /// There is no such pod.
    #[error("pod does not exist")]
    NoPod,
    /// The pod of this name has another uid.
    #[error("pod not found")]
    OtherUid,
    /// The pod has nothing that runs.
    #[error("pod not found ({0:?})")]
    NotRunning(String),
    /// The pod has no container of this name that runs.
    #[error("container not found ({0:?})")]
    NoContainer(String),
    /// The pod has no sandbox.
    #[error("failed to find sandboxID for pod {0}")]
    NoSandbox(String),
    /// Of this container there is no log, for this reason.
    #[error("{text}")]
    NoLog {
        /// The HTTP status code.
        code: u16,
        /// The kubelet's words.
        text: String,
    },
    /// The runtime did not say what it has.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<FindError> for Refusal {
    fn from(error: FindError) -> Refusal {
        let code = match &error {
            FindError::NoPod | FindError::OtherUid => 404,
            FindError::NoLog { code, .. } => *code,
            _ => 500,
        };
        match error {
            FindError::Call(error) => error.into(),
            error => Refusal::new(code, error.to_string()),
        }
    }
}

/// Returns the kubelet's full name of a pod.
pub(super) fn full_name(pod: &PodTarget) -> String {
    format!("{}_{}", pod.name, pod.namespace)
}

/// Finds a container that runs, and returns its id.
pub(super) async fn running_container(
    client: &Client,
    target: &Target,
) -> Result<String, FindError> {
    let sandboxes = sandboxes(client).await?;
    let (running, is_known) = match newest_pod(&sandboxes, &target.pod, true) {
        Some(uid) => (containers(client, of_uid(uid), true).await?, true),
        None => {
            let running = without_sandbox(client, &target.pod).await?;
            let is_known = !running.is_empty() || known(&sandboxes, &target.pod)?;
            (running, is_known)
        }
    };
    match newest(running, &target.container).next() {
        Some(found) => Ok(found.id),
        None if is_known => Err(FindError::NoContainer(target.container.clone())),
        None => Err(FindError::NoPod),
    }
}

/// Finds the sandbox whose ports are the pod's, and returns its id. Of a pod that runs it is the
/// newest one, whatever its state is.
pub(super) async fn sandbox(client: &Client, target: &PodTarget) -> Result<String, FindError> {
    let mut sandboxes = sandboxes(client).await?;
    let uid = match newest_pod(&sandboxes, target, true) {
        Some(uid) => uid.to_owned(),
        None => {
            let running = without_sandbox(client, target).await?;
            match running.into_iter().max_by_key(|container| container.created_at) {
                Some(mut container) => container.labels.remove(POD_UID).unwrap_or_default(),
                None if known(&sandboxes, target)? => {
                    return Err(FindError::NotRunning(full_name(target)));
                }
                None => return Err(FindError::NoPod),
            }
        }
    };
    sandboxes.retain(|sandbox| label(&sandbox.labels, POD_UID) == uid);
    newest_first(&mut sandboxes);
    let found = sandboxes.into_iter().next();
    let none = || FindError::NoSandbox(format!("{}({uid})", full_name(target)));
    found.map(|sandbox| sandbox.id).ok_or_else(none)
}

/// Finds the run of a container whose log is meant, and returns its id: the one that runs, else the
/// last one; or `previous`, the last one that has ended.
pub(super) async fn logged_container(
    client: &Client,
    target: &Target,
    previous: bool,
) -> Result<String, FindError> {
    let (pod, name) = (&target.pod.name, &target.container);
    let no_log = |code, text| FindError::NoLog { code, text };
    let sandboxes = sandboxes(client).await?;
    let Some(uid) = newest_pod(&sandboxes, &target.pod, false) else {
        return Err(no_log(404, format!("pod {pod:?} does not exist")));
    };
    let runs = newest(containers(client, of_uid(uid), false).await?, name).collect();
    let lives = newest_pod(&sandboxes, &target.pod, true).is_some();
    run_with_log(runs, previous, lives).map_err(|why| match why {
        NoRun::None => no_log(404, format!("container {name:?} not found in pod {pod:?}")),
        NoRun::NotStarted => no_log(
            400,
            format!("container {name:?} in pod {pod:?} is waiting to start: no logs yet"),
        ),
        NoRun::NoPrevious => {
            no_log(400, format!("previous terminated container {name:?} in pod {pod:?} not found"))
        }
    })
}

/// Why there is no log of a container.
#[derive(Debug, PartialEq, Eq)]
enum NoRun {
    None,
    NotStarted,
    NoPrevious,
}

/// Chooses among the runs of a container, newest first. `lives` says whether the pod will start it
/// again: the kubelet calls a run that has ended the previous one as soon as it waits to do so.
fn run_with_log(runs: Vec<Container>, previous: bool, lives: bool) -> Result<String, NoRun> {
    if runs.is_empty() {
        return Err(NoRun::None);
    }
    let is_current = |run: &Container| run.state == CONTAINER_RUNNING || !lives;
    let passed_over = usize::from(previous && runs.first().is_some_and(is_current));
    let found = runs.into_iter().skip(passed_over).find(|run| run.state != CONTAINER_CREATED);
    let none = if previous { NoRun::NoPrevious } else { NoRun::NotStarted };
    found.map(|run| run.id).ok_or(none)
}

async fn sandboxes(client: &Client) -> Result<Vec<PodSandbox>, CallError> {
    let request = ListPodSandboxRequest {};
    let answer: ListPodSandboxResponse =
        client.call("ListPodSandbox", request, Some(ANSWER_PATIENCE)).await?;
    Ok(answer.items)
}

/// Asks for the containers with these labels; one that is empty is one that is not there, for which
/// no runtime can be asked.
async fn containers(
    client: &Client,
    labels: Vec<(&'static str, &str)>,
    running: bool,
) -> Result<Vec<Container>, CallError> {
    let selector = labels.iter().filter(|(_, value)| !value.is_empty());
    let selector = selector.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let filter = ContainerFilter {
        state: running.then_some(ContainerStateValue { state: CONTAINER_RUNNING }),
        label_selector: selector.collect(),
    };
    let request = ListContainersRequest { filter: Some(filter) };
    let answer: ListContainersResponse =
        client.call("ListContainers", request, Some(ANSWER_PATIENCE)).await?;
    let mut found = answer.containers;
    found.retain(|container| {
        labels.iter().all(|(name, value)| label(&container.labels, name) == *value)
            && (!running || container.state == CONTAINER_RUNNING)
            && !container.id.is_empty()
    });
    Ok(found)
}

/// Finds the containers that run without a sandbox that is ready: the kubelet knows their pod by
/// their labels.
async fn without_sandbox(client: &Client, pod: &PodTarget) -> Result<Vec<Container>, CallError> {
    let mut labels = vec![(POD_NAME, &*pod.name), (POD_NAMESPACE, &*pod.namespace)];
    labels.extend(pod.uid.as_deref().map(|uid| (POD_UID, uid)));
    containers(client, labels, true).await
}

fn of_uid(uid: &str) -> Vec<(&'static str, &str)> {
    vec![(POD_UID, uid)]
}

fn label<'a>(labels: &'a Strings, name: &str) -> &'a str {
    labels.get(name).map_or("", String::as_str)
}

/// Returns the containers of this name, newest first.
fn newest(mut containers: Vec<Container>, name: &str) -> impl Iterator<Item = Container> {
    containers.retain(|one| one.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
    containers.sort_by(|a, b| (Reverse(a.created_at), &a.id).cmp(&(Reverse(b.created_at), &b.id)));
    containers.into_iter()
}

fn newest_first(sandboxes: &mut [PodSandbox]) {
    let attempt = |one: &PodSandbox| one.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    sandboxes.sort_by(|a, b| {
        let key = |one| (Reverse(attempt(one)), Reverse(one.created_at));
        key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
    });
}

fn is_named(metadata: &PodSandboxMetadata, pod: &PodTarget) -> bool {
    metadata.name == pod.name && metadata.namespace == pod.namespace
}

/// Whether a pod has a sandbox, in whatever state.
fn known(sandboxes: &[PodSandbox], pod: &PodTarget) -> Result<bool, FindError> {
    let metadata = sandboxes.iter().filter_map(|sandbox| sandbox.metadata.as_ref());
    let mut uids = metadata.filter(|one| is_named(one, pod)).map(|one| &one.uid).peekable();
    let has_any = uids.peek().is_some();
    match &pod.uid {
        Some(uid) if has_any && !uids.any(|one| one == uid) => Err(FindError::OtherUid),
        _ => Ok(has_any),
    }
}

/// Returns the uid of the pod of this name. Of several (an old one that still ends) it is the one
/// whose oldest sandbox, or oldest one that is ready, is the newest.
fn newest_pod<'a>(sandboxes: &'a [PodSandbox], pod: &PodTarget, ready: bool) -> Option<&'a str> {
    let mut oldest: HashMap<&str, (u32, i64)> = HashMap::new();
    for sandbox in sandboxes.iter().filter(|one| !ready || one.state == SANDBOX_READY) {
        let Some(metadata) = &sandbox.metadata else { continue };
        let PodSandboxMetadata { uid, attempt, .. } = metadata;
        let is_other = pod.uid.as_ref().is_some_and(|wanted| wanted != uid);
        if is_named(metadata, pod) && !is_other && !sandbox.id.is_empty() {
            let this = (*attempt, sandbox.created_at);
            let known = oldest.entry(uid).or_insert(this);
            *known = this.min(*known);
        }
    }
    let newest = oldest.into_iter().max_by_key(|(uid, (_, created_at))| (*created_at, *uid));
    newest.map(|pod| pod.0)
}

#[cfg(test)]
mod tests {
    use super::super::messages::ContainerMetadata;
    use super::*;

    fn sandbox(name: &str, uid: &str, attempt: u32, state: i32, created_at: i64) -> PodSandbox {
        let metadata = PodSandboxMetadata {
            name: name.into(),
            uid: uid.into(),
            namespace: "ns".into(),
            attempt,
        };
        let labels = [(POD_UID.to_owned(), uid.to_owned())].into();
        let id = format!("{uid}-{attempt}");
        PodSandbox { id, metadata: Some(metadata), state, created_at, labels }
    }

    fn pod(uid: Option<&str>) -> PodTarget {
        PodTarget { namespace: "ns".into(), name: "p".into(), uid: uid.map(Into::into) }
    }

    fn run(id: &str, state: i32, created_at: i64) -> Container {
        let metadata = Some(ContainerMetadata { name: "c".into() });
        Container { id: id.into(), metadata, state, created_at, labels: Strings::new() }
    }

    #[test]
    fn the_newest_pod_of_a_name_counts_by_its_oldest_sandbox() {
        let sandboxes = [
            // Its second sandbox is newer than all of the other pod's.
            sandbox("p", "old", 0, 0, 10),
            sandbox("p", "old", 1, 0, 90),
            sandbox("p", "new", 0, 0, 50),
            sandbox("p", "gone", 0, 1, 99),
            sandbox("other", "x", 0, 0, 100),
        ];
        assert_eq!(newest_pod(&sandboxes, &pod(None), true), Some("new"));
        assert_eq!(newest_pod(&sandboxes, &pod(None), false), Some("gone"));
        assert_eq!(newest_pod(&sandboxes, &pod(Some("old")), true), Some("old"));
        assert_eq!(newest_pod(&sandboxes, &pod(Some("gone")), true), None);
        assert_eq!(newest_pod(&sandboxes, &pod(Some("x")), false), None);
        assert!(known(&sandboxes, &pod(Some("gone"))).unwrap());
        assert!(matches!(known(&sandboxes, &pod(Some("x"))), Err(FindError::OtherUid)));
        assert!(!known(&sandboxes[4..], &pod(None)).unwrap());
        assert!(!known(&sandboxes[4..], &pod(Some("x"))).unwrap());
    }

    /// A sandbox that was made again has a higher attempt, whatever the clock said.
    #[test]
    fn the_newest_sandbox_has_the_highest_attempt() {
        let mut sandboxes =
            [sandbox("p", "u", 0, 0, 20), sandbox("p", "u", 2, 1, 5), sandbox("p", "u", 1, 0, 30)];
        newest_first(&mut sandboxes);
        assert_eq!(sandboxes.map(|one| one.id), ["u-2", "u-1", "u-0"]);
    }

    #[test]
    fn a_log_is_of_the_run_that_is_meant() {
        let choose = |runs: &[(&str, i32)], previous, lives| {
            let runs = runs.iter().map(|(id, state)| run(id, *state, 0)).collect();
            run_with_log(runs, previous, lives)
        };
        let (created, running, exited) = (CONTAINER_CREATED, CONTAINER_RUNNING, 2);
        let restarted = [("b", running), ("a", exited)];
        assert_eq!(choose(&restarted, false, true).unwrap(), "b");
        assert_eq!(choose(&restarted, true, true).unwrap(), "a");
        assert_eq!(choose(&restarted[..1], true, true), Err(NoRun::NoPrevious));
        // Between two runs the last one is the previous one as well.
        let waiting = [("b", exited), ("a", exited)];
        assert_eq!(choose(&waiting, false, true).unwrap(), "b");
        assert_eq!(choose(&waiting, true, true).unwrap(), "b");
        // In a pod that has ended it is not.
        assert_eq!(choose(&waiting, true, false).unwrap(), "a");
        assert_eq!(choose(&waiting[..1], true, false), Err(NoRun::NoPrevious));
        assert_eq!(choose(&[("a", created)], false, true), Err(NoRun::NotStarted));
        assert_eq!(choose(&[("b", created), ("a", exited)], false, true).unwrap(), "a");
        assert_eq!(choose(&[("b", created), ("a", exited)], true, true).unwrap(), "a");
        assert_eq!(choose(&[], false, true), Err(NoRun::None));
    }

    #[test]
    fn of_several_runs_the_newest_is_first() {
        let runs = vec![run("b", 1, 1), run("d", 1, 2), run("c", 1, 2), run("a", 1, 0)];
        let found: Vec<_> = newest(runs.clone(), "c").map(|run| run.id).collect();
        assert_eq!(found, ["c", "d", "b", "a"]);
        assert_eq!(newest(runs, "x").count(), 0);
    }
}
