//! An API server behind our gateway that is killed and comes again: its sessions are losses that
//! say so, what is new works, and nothing that it said before counts any more.

use std::process::{Child, Command};

use bowline_interop::client::{Client, Input, PATIENCE, left};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::until;
use rustix::process::Signal;

use crate::chart::apply;
use crate::ends::up;
use crate::gateway::Front;
use crate::gateway_identity::BEFORE_1_35;
use crate::parts::{KUBECTLS, kubectl, ours};
use crate::who::ask;

/// Somebody who loses the right to `create` in the meantime, and an object that goes.
const RIGHTS: &str = r"apiVersion: v1
kind: ServiceAccount
metadata: {name: leaver, namespace: default}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: leaves, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: stays, namespace: default}
rules:
- {apiGroups: [''], resources: [pods, pods/exec, configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: leaves, namespace: default}
rules:
- {apiGroups: [''], resources: [pods/exec], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: stays, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: stays}
subjects: [{kind: ServiceAccount, name: leaver, namespace: default}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: leaves, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: leaves}
subjects: [{kind: ServiceAccount, name: leaver, namespace: default}]
";
const EXEC: &str = "/api/v1/namespaces/default/pods/box/exec?command=true&stdout=1";
const OBJECT: &str = "/api/v1/namespaces/default/configmaps/leaves";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

fn clients(kubeconfig: &str) -> Vec<Client> {
    let ours = ours(kubeconfig, &["box"]);
    let kubectls = KUBECTLS.map(|age| kubectl(age, kubeconfig, &["box"]));
    kubectls.into_iter().chain([ours.over_spdy(), ours]).collect()
}

fn is_lost(client: &Client, child: Child) {
    let left = left(child, Input::Nothing, false).unwrap();
    let is_ours = client.name.starts_with("bowline");
    let expected = if is_ours { (255, "outcome is unknown") } else { (1, "error: ") };
    assert_eq!(left.status.code(), Some(expected.0), "{}: {left:?}", client.name);
    for words in [expected.1, "gateway to API server: "] {
        assert!(left.stderr.contains(words), "{}: {left:?}", client.name);
    }
}

/// What the cluster keeps is taken away from below, as nobody else can meanwhile.
fn forget(cluster: &Cluster, key: &str) {
    let mut curl = Command::new("bash");
    curl.arg("-c").arg(
        "curl --silent --fail --noproxy '*' \"http://127.0.0.1:$1/v3/kv/deleterange\" \
         --data \"{\\\"key\\\":\\\"$(printf %s \"$2\" | base64 --wrap=0)\\\"}\"",
    );
    let output = curl.args(["curl", cluster.env("ETCD_PORT"), key]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"deleted\":\"1\""), "{key}: {said} {:?}", output.status);
}

#[test]
fn an_api_server_that_is_killed_takes_its_sessions_and_all_that_it_said_with_it() {
    // Before 1.35 only the gateway asks for the leave to create.
    let cluster = Cluster::up(&[BEFORE_1_35]);
    apply(&cluster, RIGHTS);
    let leaver = cluster.kubectl(&["create", "token", "leaver"]);
    let front = Front::of(&cluster, &[]);
    let address = front.gateway.address();
    let code = |method: &str, target: &str, lines: &str| {
        let lines = format!("Authorization: Bearer {}\r\n{lines}", leaver.trim());
        ask(&address, method, target, &lines).code
    };
    // Of two ways to a stream, and of an object.
    let codes = || {
        let streams = [code("GET", EXEC, WEBSOCKET), code("POST", EXEC, SPDY)];
        [streams, [code("GET", OBJECT, ""), code("GET", "/readyz", "")]].concat()
    };
    assert_eq!(codes(), ["101", "101", "200", "200"]);

    let clients = clients(&front.through);
    let running: Vec<_> = clients
        .iter()
        .flat_map(|client| ["sleep 600", "yes"].map(|script| (client, up(client, script))))
        .collect();
    cluster.signal("kube-apiserver", Signal::KILL);
    for (client, child) in running {
        is_lost(client, child);
    }
    until("it says that nothing is behind it", PATIENCE, || code("GET", "/readyz", "") == "503");
    assert_eq!(codes(), ["503"; 4]);

    forget(&cluster, "/registry/rolebindings/default/leaves");
    forget(&cluster, "/registry/configmaps/default/leaves");
    cluster.restart("kube-apiserver");
    until("it is ready again", PATIENCE, || code("GET", "/readyz", "") == "200");
    assert_eq!(codes(), ["403", "403", "404", "200"]);
    let script = ["sh", "-c", "sha256sum; exit 3"];
    for client in &clients {
        let left = client.run(&["-i"], &script, Input::Bytes(b"magic"));
        assert_eq!((left.status.code(), left.bytes), (Some(3), 68), "{}: {left:?}", client.name);
    }
}
