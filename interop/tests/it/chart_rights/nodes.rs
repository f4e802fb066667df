//! What the gateway's chart grants for nodes. Nodes are followed by list and watch, without which
//! a gateway is not ready; until it follows them it gets the one that it needs. So here a row may
//! lack two grants, and each account has a gateway of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bowline_interop::cluster::Cluster;
use bowline_interop::server::{Server, until};
use serde_json::json;

use super::grants::{Grant, account, grants, kubeconfig};
use super::suites::{POD, WEBSOCKET};
use crate::chart::{NAMESPACE, apply, judged, rendered, with_namespace};
use crate::parts::bowline;
use crate::who::ask;

const SUITE: &str = "nodes";
const VALUES: &str = "{backend: nodes, nodes: {clientSecret: kubelet-client}}";
const GET: &str = "get nodes";
const LIST: &str = "list nodes";
const WATCH: &str = "watch nodes";

/// Which grants are missing, whether the gateway is ready, and whether it serves a stream.
const ROWS: [(&[&str], bool, bool); 8] = [
    (&[], true, true),
    (&["get pods"], true, false),
    (&[GET], true, true),
    (&[LIST], false, true),
    (&[WATCH], false, true),
    (&[GET, LIST], false, false),
    (&["create tokenreviews.authentication.k8s.io"], true, false),
    (&["create subjectaccessreviews.authorization.k8s.io"], true, false),
];

/// Who may exec; a token of theirs is what they come with.
const USER: &str = "apiVersion: v1
kind: ServiceAccount
metadata: {name: nodes-user, namespace: chart}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-user}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chart-users}
subjects: [{kind: ServiceAccount, name: nodes-user, namespace: chart}]
";

#[test]
fn each_right_for_nodes_is_needed_and_together_they_suffice() {
    let cluster = with_namespace();
    apply(&cluster, &format!("{}---\n{USER}", super::RIGHTS));
    let grants = grants(&judged(&cluster, &rendered(VALUES).unwrap()));
    for Grant { text, .. } in &grants {
        assert!(ROWS.iter().any(|row| row.0.contains(&&**text)), "{text}: no row lacks it");
    }
    let mut objects = Vec::new();
    let names: Vec<String> = (0..ROWS.len()).map(|index| format!("row-{index}")).collect();
    for (name, (missing, ..)) in names.iter().zip(ROWS) {
        let has = |grant: &&Grant| !missing.contains(&&*grant.text);
        objects.extend(account(SUITE, name, &grants.iter().filter(has).collect::<Vec<_>>()));
    }
    apply(&cluster, &json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string());
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("kubeconfig");
    std::fs::write(&file, kubeconfig(&cluster, SUITE, &names)).unwrap();
    let token = cluster.kubectl(&["create", "token", "nodes-user", "--namespace", NAMESPACE]);

    let gateways: Vec<Server> = names.iter().map(|name| gateway(&cluster, &file, name)).collect();
    let is_ready = |gateway: &Server| ask(&gateway.address(), "GET", "/readyz", "").code == "200";
    for (gateway, (missing, ready, _)) in gateways.iter().zip(ROWS) {
        if ready {
            let what = format!("ready without {missing:?}");
            until(&what, Duration::from_secs(20), || is_ready(gateway));
        }
    }
    let lines = format!("Authorization: Bearer {}\r\n{WEBSOCKET}", token.trim());
    for (gateway, (missing, ready, serves)) in gateways.into_iter().zip(ROWS) {
        assert_eq!(is_ready(&gateway), ready, "without {missing:?}: {}", gateway.log());
        let exec = format!("{POD}/exec?command=true&stdout=true");
        let answer = ask(&gateway.address(), "GET", &exec, &lines);
        let is_refused = matches!(&*answer.code, "401" | "403" | "500");
        assert_eq!(answer.code == "101", serves, "without {missing:?}: {answer:?}");
        assert_eq!(is_refused, !serves, "without {missing:?}: {answer:?}");
        gateway.stop();
    }
}

/// A gateway in front of the cluster's one node, which says that it is on loopback.
fn gateway(cluster: &Cluster, kubeconfig: &Path, context: &str) -> Server {
    let mut gateway = Command::new(bowline());
    gateway.args(["gateway", "--secure-port=0", "--bind-address=127.0.0.1", "--backend=nodes"]);
    gateway.arg(format!("--upstream={}#{context}", kubeconfig.display()));
    gateway.args(["--kubelet-preferred-address-types=Hostname"]);
    gateway.args(["--allow-node-addresses=127.0.0.0/8"]);
    for (flag, file) in [
        ("--kubelet-certificate-authority", "ca.crt"),
        ("--kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        ("--kubelet-client-key", "apiserver-kubelet-client.key"),
    ] {
        gateway.arg(flag).arg(cluster.path("pki").join(file));
    }
    Server::start(&mut gateway)
}
