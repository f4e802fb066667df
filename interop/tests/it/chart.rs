//! The chart of the gateway: what its values make is taken by a real API server, what cannot work
//! is refused before that, and the program knows every flag. To try other values, add a row.

use std::collections::BTreeSet;
use std::process::Command;

use bowline_interop::cluster::Cluster;
use bowline_interop::parts::root;
use serde_json::Value;

use crate::parts::{bowline, part};

/// Where its objects would be; the namespace itself has to be there for a dry run.
pub const NAMESPACE: &str = "chart";
/// The objects of every gateway.
const ALWAYS: [&str; 6] = [
    "Deployment",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
];
const ROLE: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];

/// Values, and which objects there are besides.
const VALUES: [(&str, &str, &[&str]); 9] = [
    ("the defaults", "{}", &[]),
    (
        "users with a certificate",
        "{clientIdentity: impersonate, clientCA: {configMap: users}, allowImpersonation: true,
          impersonation: {users: [jane], groups: [dev], uids: true, extraKeys: [acme.io/scopes]}}",
        &ROLE,
    ),
    (
        "the same in two namespaces",
        "{clientIdentity: impersonate, clientCA: {configMap: users},
          impersonation: {namespaces: [default, kube-system]}}",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    (
        "clusters before 1.36",
        "{clientIdentity: impersonate, clientCA: {configMap: users},
          impersonation: {mode: legacy, groups: [dev]}}",
        &ROLE,
    ),
    (
        "a front proxy, whose rights are its cluster's matter",
        "{clientIdentity: request-header, clientCA: {configMap: users, key: bundle},
          upstreams: [{kubeconfigSecret: front-proxy}]}",
        &[],
    ),
    (
        "the rights of a kubeconfig's user, for another cluster",
        "{clientIdentity: impersonate, clientCA: {configMap: users},
          upstreams: [{name: old, kubeconfigSecret: old, key: config, context: gateway}],
          rbac: {subjects: [{kind: User, name: gateway, apiGroup: rbac.authorization.k8s.io}]}}",
        &ROLE,
    ),
    (
        "nodes",
        "{backend: nodes, nodes: {clientSecret: kubelet-client, ca: {configMap: kubelets},
          preferredAddressTypes: [InternalIP, Hostname], allowAddresses: [127.0.0.0/8],
          checkNames: false},
          networkPolicy: {apiServer: {cidrs: [10.0.0.1/32, 'fd00::1/128']},
          kubelets: {cidrs: [10.0.0.0/8], ports: [10250, 10260]}}}",
        &ROLE,
    ),
    (
        "all that is off by default",
        "{autoscaling: {enabled: true}, http2Websockets: true, logLevel: 4,
          ingress: {enabled: true, className: nginx, hosts: [gw.example.com], tlsSecretName: gw},
          tls: {certManager: {enabled: true, issuerRef: {name: ca}, dnsNames: [gw.example.com]}},
          limits: {sessionsPerUser: 10, sessionsPerNamespace: 1000, sessionsPerPod: 20,
          bytesPerSecond: 104857600}, sessions: {silenceTimeout: 5m, maxAge: 12h},
          upstreams: [{inCluster: true}, {name: old, kubeconfigSecret: old}],
          service: {type: LoadBalancer, externalTrafficPolicy: Local,
          loadBalancerSourceRanges: [10.0.0.0/8]}, image: {repository: r.example.com/bowline,
          digest: 'sha256:0000000000000000000000000000000000000000000000000000000000000000',
          pullSecrets: [r]}, priorityClassName: system-cluster-critical,
          podAnnotations: {a.example.com/b: c}, podLabels: {a.example.com/d: e},
          nodeSelector: {kubernetes.io/os: linux}, tolerations: [{operator: Exists}]}",
        &["Certificate", "HorizontalPodAutoscaler", "Ingress"],
    ),
    ("little", "{networkPolicy: {enabled: false}, podDisruptionBudget: {enabled: false}}", &[]),
];

/// Values that cannot work, and a part of what is said of them.
const REFUSED: [(&str, &str); 15] = [
    ("{replica: 3}", "additional properties 'replica' not allowed"),
    ("{drain: {seconds: 5m}}", "/drain/seconds"),
    ("{sessions: {maxAge: 12}}", "/sessions/maxAge"),
    ("{upstreamProtocol: http}", "/upstreamProtocol"),
    ("{upstreams: []}", "/upstreams"),
    ("{upstreams: [{name: a}]}", "either inCluster or kubeconfigSecret"),
    ("{upstreams: [{inCluster: true, kubeconfigSecret: a}]}", "either inCluster"),
    ("{upstreams: [{inCluster: true}, {kubeconfigSecret: a}]}", "two have the name \"\""),
    ("{clientIdentity: impersonate}", "wants a CA in clientCA.configMap"),
    ("{allowImpersonation: true}", "clientIdentity=none lets none on"),
    ("{clientIdentity: request-header, clientCA: {configMap: a}}", "a service account has none"),
    (
        "{clientIdentity: impersonate, clientCA: {configMap: a}, impersonation: {mode: legacy}}",
        "impersonation.mode=legacy wants impersonation.groups",
    ),
    (
        "{clientIdentity: impersonate, clientCA: {configMap: a},
          impersonation: {mode: legacy, groups: ['system:masters']}}",
        "may do everything",
    ),
    ("{backend: nodes}", "nodes.clientSecret"),
    (
        "{clientIdentity: impersonate, clientCA: {configMap: a},
          ingress: {enabled: true, hosts: [a]}}",
        "no certificate of a user comes through",
    ),
];

/// What cert-manager would have installed, as far as it matters here.
const CERTIFICATES: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificates.cert-manager.io}
spec:
  group: cert-manager.io
  names: {kind: Certificate, plural: certificates}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn helm(words: &[&str]) -> Command {
    let mut helm = Command::new(part("bin/helm"));
    helm.args(words).arg(root().join("deploy/gateway/chart"));
    helm
}

/// Plain manifests of these values, or what is wrong with them.
pub fn rendered(values: &str) -> Result<String, String> {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("values.yaml");
    std::fs::write(&file, values).unwrap();
    let mut script = Command::new("bash");
    script.arg(root().join("deploy/gateway/render.sh")).args(["--namespace", NAMESPACE]);
    script.arg("--values").arg(file).env("HELM", part("bin/helm"));
    let output = script.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Has the API server judge manifests without keeping them; gives its objects.
pub fn judged(cluster: &Cluster, manifests: &str) -> Vec<Value> {
    let file = cluster.path("chart.yaml");
    std::fs::write(&file, manifests).unwrap();
    let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
    kubectl.arg("--kubeconfig").arg(cluster.admin());
    kubectl.args(["apply", "--dry-run=server", "--validate=strict", "--output=json", "-f"]);
    let output = kubectl.arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // The namespace has been created, not applied, and that is all there is to warn of.
    let warnings = said.lines().filter(|line| !line.contains("last-applied-configuration"));
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&str>::new(), "{manifests}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// Applies objects of which some have no status.
pub fn apply(cluster: &Cluster, objects: &str) {
    let file = cluster.path("applied.yaml");
    std::fs::write(&file, objects).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

/// A cluster that has what a dry run needs: a namespace that warns of pods that ask for too much.
pub fn with_namespace() -> Cluster {
    let cluster = Cluster::shared();
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, \
         labels: {{pod-security.kubernetes.io/warn: restricted}}}}\n"
    ));
    cluster
}

fn kinds(objects: &[Value]) -> BTreeSet<&str> {
    objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_real_api_server_takes_what_its_values_make() {
    let cluster = with_namespace();
    cluster.apply(CERTIFICATES);
    let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
    cluster.kubectl(&[&wait[..], &["crd/certificates.cert-manager.io"]].concat());
    for (name, values, besides) in VALUES {
        let manifests = rendered(values).unwrap_or_else(|said| panic!("{name}: {said}"));
        let objects = judged(&cluster, &manifests);
        let mut expected: BTreeSet<&str> = ALWAYS.into_iter().chain(besides.to_vec()).collect();
        if name == "little" {
            expected.retain(|kind| !matches!(*kind, "NetworkPolicy" | "PodDisruptionBudget"));
        }
        assert_eq!(kinds(&objects), expected, "{name}");
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        ends_in_time(&deployment["spec"]["template"]["spec"]);
    }
    cluster.kubectl(&["delete", "crd", "certificates.cert-manager.io"]);
}

/// The kubelet's patience is that of the flags, and 5 s for the last words.
fn ends_in_time(pod: &Value) {
    let args = pod["containers"][0]["args"].as_array().unwrap();
    let seconds = |flag: &str| -> u64 {
        let arg = args.iter().filter_map(|arg| arg.as_str()?.strip_prefix(flag)).next().unwrap();
        arg.trim_start_matches('=').trim_end_matches('s').parse().unwrap()
    };
    let sum = seconds("--drain-delay") + seconds("--drain=") + 5;
    assert_eq!(pod["terminationGracePeriodSeconds"], sum);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_installed() {
    for (values, expected) in REFUSED {
        let said = rendered(values).expect_err(values);
        assert!(said.contains(expected), "{values}: {said}");
    }
}

#[test]
fn helm_finds_nothing_to_say_of_it() {
    let output = helm(&["lint", "--strict", "--quiet"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Pods of a flag that is not known would never be ready.
#[test]
fn the_program_knows_every_flag_of_the_chart() {
    let help = Command::new(bowline()).args(["gateway", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let known: BTreeSet<&str> =
        help.split_whitespace().filter(|word| word.starts_with("--")).collect();
    let mut asked = BTreeSet::new();
    for (_, values, _) in VALUES {
        let manifests = rendered(values).unwrap();
        let args = manifests.lines().filter_map(|line| line.trim().strip_prefix("- --"));
        asked.extend(args.map(|arg| format!("--{}", arg.split('=').next().unwrap())));
    }
    let unknown: Vec<&String> = asked.iter().filter(|flag| !known.contains(&***flag)).collect();
    assert_eq!(unknown, Vec::<&String>::new());
}
