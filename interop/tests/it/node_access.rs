//! Who may use our node, as a real API server says.

use std::process::Command;

use bowline_interop::client::{Client, Input, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::{Server, until};

use crate::parts::{bowline, kubectl, ours};
use crate::real::{POD, declare};
use crate::who::{Answer, ask};

/// Service accounts, and what they may do with `nodes/proxy`; the last one may read metrics alone.
const ACCOUNTS: [(&str, &str, &str); 4] = [
    ("reader", "nodes/proxy", "get"),
    ("writer", "nodes/proxy", "create"),
    ("both", "nodes/proxy", "get, create"),
    ("other", "nodes/metrics", "get"),
];

const STREAMS: [&str; 3] = [
    "/exec/default/box/box?command=echo&command=ran&output=1",
    "/attach/default/box/box?output=1",
    "/portForward/default/box?port=1",
];
const RUN: &str = "/run/default/box/box?cmd=echo+ran";
const LOG: &str = "/containerLogs/default/box/box";

/// Every way to ask for an exec or an attach, and whether our node speaks it: a method, what the
/// upgrade is to, and its name.
const SESSIONS: [(&str, &str, &str, bool); 13] = [
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: v4.base64.channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: base64.channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "", true),
    ("POST", WEBSOCKET, "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n", false),
    ("GET", SPDY, "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n", true),
    ("POST", SPDY, "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n", true),
    ("POST", SPDY, "X-Stream-Protocol-Version: channel.k8s.io\r\n", true),
    ("POST", SPDY, "", false),
    ("GET", "", "", false),
    ("POST", "", "", false),
];

/// The same of a port-forward.
const FORWARDS: [(&str, &str, &str, bool); 7] = [
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n", true),
    ("GET", WEBSOCKET, "Sec-WebSocket-Protocol: v4.base64.channel.k8s.io\r\n", true),
    ("GET", SPDY, "X-Stream-Protocol-Version: portforward.k8s.io\r\n", true),
    ("POST", SPDY, "X-Stream-Protocol-Version: portforward.k8s.io\r\n", true),
    ("GET", "", "", false),
    ("POST", "", "", false),
];

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";

fn accounts(cluster: &Cluster) {
    let mut objects = Vec::new();
    for (name, resource, verbs) in ACCOUNTS {
        let api = "rbac.authorization.k8s.io";
        objects.push(format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: default}}\n\
             ---\napiVersion: {api}/v1\nkind: ClusterRole\nmetadata: {{name: {name}}}\nrules: \
             [{{apiGroups: [\"\"], resources: [{resource}], verbs: [{verbs}]}}]\n---\n\
             apiVersion: {api}/v1\nkind: ClusterRoleBinding\nmetadata: {{name: {name}}}\nroleRef: \
             {{apiGroup: {api}, kind: ClusterRole, name: {name}}}\nsubjects: [{{kind: \
             ServiceAccount, name: {name}, namespace: default}}]\n"
        ));
    }
    let file = cluster.path("accounts.yaml");
    std::fs::write(&file, objects.join("---\n")).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

/// Our node, which asks the cluster's API server.
fn node(cluster: &Cluster, flags: &[&str]) -> Server {
    let kubeconfig = cluster.text("node.kubeconfig");
    node_by(Command::new(bowline()), &kubeconfig, cluster, flags)
}

/// The same, by these words and with this kubeconfig.
fn node_by(mut node: Command, kubeconfig: &str, cluster: &Cluster, flags: &[&str]) -> Server {
    let manifest = cluster.path("pod.yaml");
    std::fs::write(&manifest, POD).unwrap();
    node.args(["node", "--port", "0", "--address", "127.0.0.1", "-v=2", "-f"]).arg(&manifest);
    node.arg("--client-ca-file").arg(cluster.path("pki/kubelet-client-ca.crt"));
    node.arg("--tls-cert-file").arg(cluster.path("pki/kubelet.crt"));
    node.arg("--tls-private-key-file").arg(cluster.path("pki/kubelet.key"));
    node.args(["--kubeconfig", kubeconfig]);
    node.args(["--hostname-override", "Localhost"]).args(flags);
    Server::start(&mut node)
}

struct Place {
    cluster: Cluster,
    node: Server,
}

impl Place {
    fn told(&self, token: &str, method: &str, path: &str, lines: &str) -> Answer {
        let lines = format!("Authorization: Bearer {token}\r\n{lines}");
        ask(&self.node.address(), method, path, &lines)
    }

    fn websocket(&self, token: &str, path: &str) -> Answer {
        let lines = format!("{WEBSOCKET}Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n");
        self.told(token, "GET", path, &lines)
    }

    fn spdy(&self, token: &str, path: &str) -> Answer {
        let name =
            if path.starts_with("/port") { "portforward.k8s.io" } else { "v4.channel.k8s.io" };
        let lines = format!("{SPDY}X-Stream-Protocol-Version: {name}\r\n");
        self.told(token, "POST", path, &lines)
    }

    /// Asks for each stream in every way, and gives what was asked for,
    /// whether our node speaks it, and the answer.
    fn every_way(&self, token: &str) -> Vec<(String, bool, Answer)> {
        let ways = |path: &str| match path.starts_with("/port") {
            true => FORWARDS.to_vec(),
            false => SESSIONS.to_vec(),
        };
        let all =
            STREAMS.iter().flat_map(|path| ways(path).into_iter().map(move |way| (path, way)));
        let answered = all.map(|(path, (method, upgrade, name, speaks))| {
            let answer = self.told(token, method, path, &format!("{upgrade}{name}"));
            (format!("{method} {path} {upgrade}{name}"), speaks, answer)
        });
        answered.collect()
    }

    fn token(&self, account: &str) -> String {
        self.cluster.kubectl(&["create", "token", account]).trim().to_owned()
    }
}

fn forbidden(account: &str, verb: &str) -> String {
    format!(
        "Forbidden (user=system:serviceaccount:default:{account}, verb={verb}, resource=nodes, \
         subresource(s)=[proxy])"
    )
}

#[test]
fn our_node_asks_the_real_api_server_who_may() {
    let cluster = Cluster::up(&[("NO_KUBELET", "1")]);
    accounts(&cluster);
    let node = node(&cluster, &[]);
    declare(&cluster, &node, true);
    let place = Place { cluster, node };
    strangers(&place);
    create_is_wanted_for_every_stream(&place);
    through_the_api_server(&place);
    let Place { cluster, node: strict } = place;
    let lenient = self::node(&cluster, &["--allow-get-streams"]);
    until("it warns", PATIENCE, || lenient.log().contains("--allow-get-streams"));
    let place = Place { cluster, node: lenient };
    get_is_enough_where_that_is_wanted(&place);
    for server in [&strict, &place.node] {
        assert!(!server.log().contains("eyJ"), "a token is in the log: {}", server.log());
    }
}

/// What a pod sees of its service account, in mounts of the program's own.
const AS_A_POD: &str = "mount -t tmpfs none /var/run && mkdir -p /var/run/secrets/kubernetes.io && \
                        ln -s \"$0\" /var/run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";

/// The manifest's account may ask what its node asks.
#[test]
fn our_node_asks_as_the_service_account_of_its_pod() {
    let cluster = Cluster::up(&[("NO_KUBELET", "1")]);
    accounts(&cluster);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/node/daemonset.yaml");
    cluster.kubectl(&["apply", "-f", manifest]);
    let account = cluster.path("account");
    std::fs::create_dir(&account).unwrap();
    let token = cluster.kubectl(&["create", "token", "bowline-node", "--namespace=bowline"]);
    std::fs::write(account.join("token"), token.trim()).unwrap();
    std::fs::copy(cluster.path("pki/ca.crt"), account.join("ca.crt")).unwrap();
    let mut words = Command::new("unshare");
    words.args(["--mount", "sh", "-c", AS_A_POD]).arg(&account).arg(bowline());
    let (host, port) = ("127.0.0.1", cluster.env("APISERVER_PORT"));
    words.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    let node = node_by(words, "in-cluster", &cluster, &[]);
    let place = Place { cluster, node };
    strangers(&place);
    create_is_wanted_for_every_stream(&place);
}

fn strangers(place: &Place) {
    let forged = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyb290In0.c2ln";
    for path in STREAMS.into_iter().chain([LOG, "/nothing"]) {
        for token in [forged, "x"] {
            for answer in [
                place.websocket(token, path),
                place.spdy(token, path),
                place.told(token, "GET", path, ""),
            ] {
                assert_eq!((&*answer.code, &*answer.message), ("401", "Unauthorized"), "{path}");
            }
        }
        let answer = ask(&place.node.address(), "GET", path, "");
        assert_eq!((&*answer.code, &*answer.message), ("401", "Unauthorized"), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&place.node.address(), "GET", path, "").code, "200", "{path}");
    }
}

fn create_is_wanted_for_every_stream(place: &Place) {
    let [reader, writer, both, other] = ACCOUNTS.map(|account| place.token(account.0));
    for path in STREAMS {
        for token in [&writer, &both] {
            assert_eq!(place.websocket(token, path).code, "101", "{path}");
            assert_eq!(place.spdy(token, path).code, "101", "{path}");
        }
    }
    for (name, token) in [("reader", &reader), ("other", &other)] {
        let text = forbidden(name, "create");
        for (what, _, answer) in place.every_way(token) {
            assert_eq!((&*answer.code, &*answer.message), ("403", &*text), "{name}: {what}");
        }
        for method in ["GET", "POST"] {
            let answer = place.told(token, method, RUN, "");
            assert_eq!((&*answer.code, &*answer.message), ("403", &*text), "{name}: {method}");
        }
    }
    // What is refused above is not refused for itself.
    for (what, speaks, answer) in place.every_way(&writer) {
        assert_eq!(answer.code == "101", speaks, "{what}: {answer:?}");
        assert_ne!(answer.code, "403", "{what}: {answer:?}");
    }
    // The runtime of processes runs nothing to its end.
    assert_eq!(place.told(&writer, "POST", RUN, "").code, "501");
    assert_eq!(place.told(&writer, "GET", RUN, "").code, "405");
    let log = |token| place.told(token, "GET", LOG, "");
    assert_eq!(log(&reader).code, "200");
    assert_eq!(log(&both).code, "200");
    assert_eq!(log(&writer).message, forbidden("writer", "get"));
    assert_eq!(log(&other).message, forbidden("other", "get"));
}

fn get_is_enough_where_that_is_wanted(place: &Place) {
    let [reader, writer, _, other] = ACCOUNTS.map(|account| place.token(account.0));
    for path in STREAMS {
        assert_eq!(place.websocket(&reader, path).code, "101", "{path}");
        assert_eq!(place.spdy(&reader, path).message, forbidden("reader", "create"), "{path}");
        assert_eq!(place.websocket(&writer, path).message, forbidden("writer", "get"), "{path}");
        assert_eq!(place.spdy(&writer, path).code, "101", "{path}");
        assert_eq!(place.websocket(&other, path).message, forbidden("other", "get"), "{path}");
    }
    // The method alone says which of the two is wanted.
    for (what, speaks, answer) in place.every_way(&reader) {
        let expected = if what.starts_with("POST") { "403" } else { "101" };
        assert_eq!(answer.code == expected, speaks || expected == "403", "{what}: {answer:?}");
    }
    assert_eq!(place.told(&reader, "POST", RUN, "").message, forbidden("reader", "create"));
    assert_eq!(place.told(&reader, "GET", RUN, "").code, "405");
}

/// The API server has a certificate of its own, and is one of those that may everything.
fn through_the_api_server(place: &Place) {
    let admin = place.cluster.admin();
    let clients = [
        kubectl("1.20", &admin, &["box"]),
        kubectl("1.37", &admin, &["box"]),
        ours(&admin, &["box"]),
        ours(&admin, &["box"]).over_spdy(),
    ];
    let ran = |client: &Client| {
        let left = client.run(&[], &["echo", "ran"], Input::Nothing);
        assert!(left.status.success(), "{}: {}", client.name, left.stderr);
        assert_eq!(left.stdout, b"ran\n", "{}", client.name);
    };
    clients.iter().for_each(ran);
}
