//! The chart's pod on a real kubelet: it is ready, serves the cluster that it runs in, and ends by
//! itself.

use std::net::TcpListener;
use std::process::Command;

use bowline_interop::cluster::Cluster;
use bowline_interop::pki::Authority;
use serde_json::{Value, json};

use crate::chart::{NAMESPACE, apply, judged, rendered, with_namespace};
use crate::parts::{bowline, part};

/// Longer than a test waits for its end.
const VALUES: &str = "{replicas: 1, drain: {delaySeconds: 1, seconds: 600},
    image: {repository: localhost/gnu, tag: '1'}}";

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Nothing but the API server runs here: no scheduler, no controller, no admission of service
/// accounts, and no address of the API server's but on loopback. So the pod is made of the
/// Deployment's template, is on the host's network with a port of its own, and has the program from
/// the host.
fn pod(template: &Value, cluster: &Cluster, port: u16) -> Value {
    let mut spec = template["spec"].clone();
    spec["nodeName"] = json!("localhost");
    spec["hostNetwork"] = json!(true);
    assert_eq!(spec["automountServiceAccountToken"], true);
    let account = json!({"name": "account", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": "kube-root-ca.crt"}}]}});
    let program = json!({"name": "program", "hostPath": {"path": bowline(), "type": "File"}});
    spec["volumes"].as_array_mut().unwrap().extend([account, program]);
    let container = &mut spec["containers"][0];
    container["command"] = json!(["/bowline"]);
    container["volumeMounts"].as_array_mut().unwrap().extend([
        json!({"name": "account", "mountPath": ACCOUNT, "readOnly": true}),
        json!({"name": "program", "mountPath": "/bowline", "readOnly": true}),
    ]);
    for arg in container["args"].as_array_mut().unwrap() {
        if arg == "--secure-port=6443" {
            *arg = json!(format!("--secure-port={port}"));
        }
    }
    container["args"].as_array_mut().unwrap().push(json!("--bind-address=127.0.0.1"));
    container["ports"][0]["containerPort"] = json!(port);
    container["ports"][0]["hostPort"] = json!(port);
    container["env"] = json!([
        {"name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1"},
        {"name": "KUBERNETES_SERVICE_PORT", "value": cluster.env("APISERVER_PORT")},
    ]);
    for probe in ["livenessProbe", "readinessProbe"] {
        container[probe]["httpGet"]["host"] = json!("127.0.0.1");
    }
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": "chart-gateway", "namespace": NAMESPACE}})
}

/// What is there before it: its account, its certificate, and what a controller would have made.
fn surroundings(cluster: &Cluster, account: &Value) -> Vec<Value> {
    let pair = Authority::new().unwrap().server().unwrap();
    let ca = std::fs::read_to_string(cluster.path("pki/ca.crt")).unwrap();
    let metadata = |name: &str| json!({"name": name, "namespace": NAMESPACE});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
            "name": account["metadata"]["name"], "namespace": NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": metadata("bowline-gateway-tls"),
            "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("kube-root-ca.crt"),
            "data": {"ca.crt": ca}}),
    ]
}

/// Who uses it, by a token.
const USER: &str = "apiVersion: v1
kind: ServiceAccount
metadata: {name: chart-pod-user, namespace: chart}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: chart-pod-user}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get]}
- {apiGroups: [''], resources: [pods/exec], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: chart-pod-user}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chart-pod-user}
subjects: [{kind: ServiceAccount, name: chart-pod-user, namespace: chart}]
";

#[test]
fn its_pod_is_ready_serves_its_own_cluster_and_ends_by_itself() {
    let cluster = with_namespace();
    apply(&cluster, USER);
    let objects = judged(&cluster, &rendered(VALUES).unwrap());
    let named = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    // A port that is free now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut items = surroundings(&cluster, named("ServiceAccount"));
    items.push(pod(&named("Deployment")["spec"]["template"], &cluster, port));
    apply(&cluster, &json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string());
    let of = ["--namespace", NAMESPACE];
    let wait = ["wait", "--for=condition=Ready", "pod/chart-gateway", "--timeout=60s"];
    cluster.kubectl(&[&wait[..], &of].concat());

    let token = cluster.kubectl(&[&["create", "token", "chart-pod-user"][..], &of].concat());
    let mut exec = Command::new(part("kubectl/1.37/kubectl"));
    exec.args(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--namespace=default"]);
    exec.args(["--server", &format!("https://127.0.0.1:{port}"), "--token", token.trim()]);
    let output = exec.args(["exec", "box", "--", "echo", "one"]).output().unwrap();
    assert_eq!(output.stdout, b"one\n", "{}", String::from_utf8_lossy(&output.stderr));

    // It has nothing to wait for: the kubelet's patience is ten minutes.
    let delete = ["delete", "pod", "chart-gateway", "--timeout=30s"];
    cluster.kubectl(&[&delete[..], &of].concat());
}
