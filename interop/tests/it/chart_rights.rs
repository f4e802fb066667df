//! What the gateway's chart grants: it suffices, and nothing of it is without use.
//!
//! A role is taken apart into single grants. For each there is a service account that has all
//! others, behind the same gateway under a name of its own. Through it every request is refused
//! that says it needs what is missing, and another one is not. The accounts are their own because
//! an API server remembers for 10 s whom an account could impersonate.

mod grants;
mod nodes;
mod suites;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline_interop::cluster::Cluster;
use bowline_interop::pki::{Authority, Pair};
use bowline_interop::server::{Server, until};
use bowline_io::tls::Identity;
use serde_json::json;

use self::grants::{Grant, account, grants, kubeconfig};
use self::suites::{Request, Suite, constrained, legacy, of_a_namespace, streams};
use crate::chart::{apply, judged, rendered, with_namespace};
use crate::parts::{bowline, part};
use crate::who::{Answer, ask_as};

/// The account that has all of a role.
const WHOLE: &str = "whole";

/// Users of the gateway's own authority, with their groups. What they may, the cluster says.
const USERS: [(&str, &str); 3] = [("jane", "dev"), ("boss", "dev"), ("maker", "makers")];
const RIGHTS: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: chart-users}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [pods/log], verbs: [get]}
- {apiGroups: [''], resources: [pods/exec, pods/attach, pods/portforward], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: chart-users}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chart-users}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: dev}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: joe}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: chart-boss}
rules:
- {apiGroups: [''], resources: [users], resourceNames: [joe], verbs: [impersonate]}
- {apiGroups: [authentication.k8s.io], resources: [uids, userextras/acme.io/scopes],
   verbs: [impersonate]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: chart-boss}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chart-boss}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: boss}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: chart-maker}
rules:
- {apiGroups: [''], resources: [pods/exec, pods/attach, pods/portforward], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: chart-maker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: chart-maker}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: maker}]
";

/// A gateway in front of the cluster, under the name of each account.
fn gateway(place: &Path, kubeconfig: &str, names: &[String], flags: &[&str]) -> Server {
    let file = |name: &str| place.join(name);
    std::fs::write(file("kubeconfig"), kubeconfig).unwrap();
    let mut gateway = Command::new(bowline());
    gateway.args(["gateway", "--secure-port=0", "--bind-address=127.0.0.1"]).args(flags);
    gateway.args(["--client-identity=impersonate", "--client-ca-file"]).arg(file("ca.crt"));
    gateway.arg("--tls-cert-file").arg(file("gw.crt"));
    gateway.arg("--tls-private-key-file").arg(file("gw.key"));
    for name in names {
        let upstream = format!("{name}={}#{name}", file("kubeconfig").display());
        gateway.arg("--upstream").arg(upstream);
    }
    Server::start(&mut gateway)
}

/// The authority of users and of the gateway itself, in files.
fn write_certificates(place: &Path) -> Vec<(&'static str, Identity)> {
    let authority = Authority::new().unwrap();
    std::fs::write(place.join("ca.crt"), &authority.pem).unwrap();
    let write = |name: &str, pair: &Pair| {
        std::fs::write(place.join(format!("{name}.crt")), &pair.certificate).unwrap();
        std::fs::write(place.join(format!("{name}.key")), &pair.key).unwrap();
    };
    write("gw", &authority.server().unwrap());
    let user = |(name, group): (&'static str, &str)| {
        let pair = authority.client_named(name, Some(group)).unwrap();
        write(name, &pair);
        let Pair { certificate, key } = pair;
        (name, Identity { certificate: certificate.into_bytes(), key: key.into_bytes() })
    };
    USERS.map(user).into()
}

/// Makes every request through every account of a suite.
fn try_all(cluster: &Cluster, suite: &Suite) -> (Server, tempfile::TempDir) {
    let manifests = rendered(suite.values).unwrap();
    let grants = grants(&judged(cluster, &manifests));
    for request in &suite.requests {
        for need in &request.needs {
            let known = grants.iter().any(|grant| grant.text == *need);
            assert!(known, "{}: {} needs {need}, which is not granted", suite.name, request.what);
        }
    }
    let mut objects = Vec::new();
    let mut names = Vec::new();
    for left_out in 0..grants.len() {
        let others = grants.iter().enumerate().filter(|(index, _)| *index != left_out);
        let others: Vec<&Grant> = others.map(|(_, grant)| grant).collect();
        names.push(format!("without-{left_out}"));
        objects.extend(account(suite.name, &names[left_out], &others));
    }
    // The last one: once the API server knows it, it knows all.
    names.push(WHOLE.to_owned());
    objects.extend(account(suite.name, WHOLE, &grants.iter().collect::<Vec<_>>()));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    apply(cluster, &list);

    let place = tempfile::tempdir().unwrap();
    let users = write_certificates(place.path());
    let kubeconfig = kubeconfig(cluster, suite.name, &names);
    let gateway = gateway(place.path(), &kubeconfig, &names, suite.flags);
    let address = gateway.address();
    let answered = |name: &str, request: &Request| {
        let (method, target) = request.what.split_once(' ').unwrap();
        let what = format!("{method} /clusters/{name}{target}");
        let user = users.iter().find(|user| user.0 == request.user).map(|user| &user.1);
        ask_as(user, &address, &what, &request.lines, &request.body)
    };
    until("the account with all works", Duration::from_secs(10), || {
        answered(WHOLE, &suite.requests[0]).code != "403"
    });
    let is_served = |answer: &Answer| matches!(&*answer.code, "101" | "200" | "201");
    for request in &suite.requests {
        let answer = answered(WHOLE, request);
        assert!(is_served(&answer), "{}: {} {answer:?}", suite.name, request.what);
    }
    let mut faults = Vec::new();
    for (name, Grant { text: missing, .. }) in names.iter().zip(&grants) {
        // What needs it, and one that does not: the account is there, and nothing else is missing.
        let (needing, others): (Vec<&Request>, Vec<&Request>) =
            suite.requests.iter().partition(|request| request.needs.contains(&&**missing));
        if needing.is_empty() {
            faults.push(format!("{missing}: no request needs it"));
        }
        for request in needing.iter().chain(others.first()) {
            let expects_refusal = request.needs.contains(&&**missing);
            let answer = answered(name, request);
            // A gateway that may not ask the API server for leave says 500.
            let is_refused = matches!(&*answer.code, "403" | "500");
            if is_refused != expects_refusal || is_served(&answer) == expects_refusal {
                let (what, user) = (&request.what, request.user);
                faults.push(format!("{what} by {user} without {missing:?}: {answer:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}:\n{}", suite.name, faults.join("\n"));
    (gateway, place)
}

#[test]
fn each_right_of_constrained_impersonation_is_needed_and_together_they_suffice() {
    let cluster = with_namespace();
    apply(&cluster, RIGHTS);
    let (gateway, place) = try_all(&cluster, &constrained());
    kubectl_gets_through(&cluster, &gateway.address(), place.path());
    gateway.stop();
}

#[test]
fn each_right_for_streams_of_any_kind_is_needed_and_together_they_suffice() {
    let cluster = with_namespace();
    apply(&cluster, RIGHTS);
    let (gateway, _place) = try_all(&cluster, &streams());
    gateway.stop();
}

#[test]
fn each_right_in_a_namespace_is_needed_and_together_they_suffice() {
    let cluster = with_namespace();
    apply(&cluster, RIGHTS);
    let (gateway, _place) = try_all(&cluster, &of_a_namespace());
    gateway.stop();
}

#[test]
fn each_right_of_impersonation_as_before_is_needed_and_together_they_suffice() {
    let cluster = with_namespace();
    apply(&cluster, RIGHTS);
    let (gateway, _place) = try_all(&cluster, &legacy());
    gateway.stop();
}

const TICKS: &str = "apiVersion: v1
kind: Pod
metadata: {name: chart-ticks, namespace: default}
spec:
  nodeName: localhost
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
  - name: ticks
    image: localhost/box:1
    imagePullPolicy: Never
    command: [sh, -c, 'while echo tick; do sleep 0.2; done']
";

/// What people do, as they do it.
fn kubectl_gets_through(cluster: &Cluster, address: &str, place: &Path) {
    cluster.run_pods(TICKS, &["chart-ticks"]);
    let file = |name: &str| place.join(name).display().to_string();
    let config = |user: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://{address}/clusters/{WHOLE}', \
             certificate-authority: '{}'}}}}]\nusers: [{{name: u, user: {{client-certificate: \
             '{}', client-key: '{}'}}}}]\n",
            file("ca.crt"),
            file(&format!("{user}.crt")),
            file(&format!("{user}.key"))
        );
        let path = file(&format!("{user}.kubeconfig"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let kubectl = |user: &str, words: &[&str]| {
        let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
        kubectl.args(["--kubeconfig", &config(user), "--cache-dir", &file("cache")]).args(words);
        kubectl
    };
    for (user, words, expected) in [
        ("jane", &["get", "pods", "--output=name"][..], "pod/box\n"),
        ("jane", &["exec", "box", "--", "echo", "one"], "one\n"),
        ("jane", &["logs", "chart-ticks", "--tail=1"], "tick\n"),
        ("jane", &["auth", "can-i", "create", "pods", "--subresource=exec"], "yes\n"),
        ("boss", &["get", "pod", "box", "--output=name", "--as=joe"], "pod/box\n"),
    ] {
        let output = kubectl(user, words).output().unwrap();
        let (stdout, stderr) = (output.stdout, String::from_utf8_lossy(&output.stderr));
        let stdout = String::from_utf8_lossy(&stdout);
        assert!(
            output.status.success() && stdout.contains(expected),
            "{words:?}: {stdout}{stderr}"
        );
    }
    for (words, expected) in [
        (&["attach", "chart-ticks"][..], "tick\n"),
        (&["port-forward", "pod/box", ":80"], "Forwarding from 127.0.0.1:"),
    ] {
        // Both go on until they are ended.
        let mut kubectl = kubectl("jane", words);
        let mut child = kubectl.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(line.starts_with(expected), "{words:?}: {line:?}");
    }
    cluster.kubectl(&["delete", "pod", "chart-ticks", "--now"]);
}
