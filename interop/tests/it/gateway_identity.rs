//! Who may what through our gateway in front of a real API server, whatever a request looks like.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bowline_interop::client::Input;
use bowline_interop::cluster::Cluster;

use crate::gateway::{Front, gateway, kubeconfig};
use crate::parts::{KUBECTLS, kubectl, ours};
use crate::who::ask;

/// Kubernetes before 1.35: what comes as WebSocket needs `get` alone.
pub const BEFORE_1_35: (&str, &str) =
    ("APISERVER_FEATURE_GATES", "AuthorizePodWebsocketUpgradeCreatePermission=false");
const GATE_OFF: &str = "--feature-gates=AuthorizePodWebsocketUpgradeCreatePermission=false";
const POD: &str = "/api/v1/namespaces/default/pods/box";

/// The viewer may `get` what leads to kubelets, too, as whoever reads their metrics.
const NODES: &str = r"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: nodes-viewer}
rules:
- {apiGroups: [''], resources: [nodes/proxy, pods/proxy], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: nodes-viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: nodes-viewer}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: viewer}]
";

fn apply(cluster: &Cluster, text: &str) {
    let file = cluster.path("rights.yaml");
    fs::write(&file, text).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

const WEBSOCKET: &str =
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Every way to ask for a stream, and some that are none: method and header lines.
fn transports() -> Vec<(&'static str, String)> {
    let upgrade = |to: &str| format!("Connection: Upgrade\r\nUpgrade: {to}\r\n");
    let offers = |names: &str| {
        let offer = format!("Sec-WebSocket-Protocol: {names}\r\n");
        let offer = if names.is_empty() { String::new() } else { offer };
        upgrade("websocket") + WEBSOCKET + &offer
    };
    let v4 = "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
    let v5 = "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
    let mut all = vec![];
    for names in [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "v5.channel.k8s.io, v5.channel.k8s.io",
        "SPDY/3.1+portforward.k8s.io",
        "",
    ] {
        all.push(("GET", offers(names)));
    }
    let (spdy, websocket) = (upgrade("SPDY/3.1") + v4, offers("v5.channel.k8s.io"));
    for method in ["POST", "GET", "PUT"] {
        all.push((method, spdy.clone()));
        all.push((method, websocket.clone()));
    }
    for to in ["WebSocket", "WEBSOCKET", "websocket, SPDY/3.1", "SPDY/3.1, websocket"] {
        all.push(("GET", upgrade(to) + WEBSOCKET + v5 + v4));
    }
    // Two headers; a connection that would take one away; and none that names it.
    all.push(("GET", upgrade("websocket") + "Upgrade: SPDY/3.1\r\n" + WEBSOCKET + v5 + v4));
    all.push(("GET", upgrade("SPDY/3.1") + "Upgrade: websocket\r\n" + WEBSOCKET + v5 + v4));
    let taken = "Connection: keep-alive, Upgrade, Authorization, Sec-WebSocket-Protocol\r\n";
    all.push(("GET", taken.to_owned() + "Upgrade: websocket\r\n" + WEBSOCKET + v5));
    all.push(("GET", "Upgrade: websocket\r\n".to_owned() + WEBSOCKET + v5));
    // Identities from outside.
    let root = "X-Remote-User: root\r\nX-Remote-Group: system:masters\r\n";
    all.push(("GET", offers("v5.channel.k8s.io") + root));
    all.push(("GET", offers("v5.channel.k8s.io") + "X-Forwarded-User: root\r\n"));
    all.push(("GET", offers("v5.channel.k8s.io") + "X-Original-Method: POST\r\n"));
    all.push(("GET", offers("v5.channel.k8s.io") + "X-HTTP-Method-Override: POST\r\n"));
    all
}

/// Every way to name a stream of the pod's, and some that are none. The command, if it runs, leaves
/// a file.
fn targets() -> Vec<String> {
    let query = "command=touch&command=/tmp/begun&stdout=true&container=box";
    let mut all = vec![
        format!("{POD}/exec?{query}"),
        format!("{POD}/exec?{query}&stdin=True&tty=1"),
        format!("{POD}/exec/?{query}"),
        format!("/{POD}/exec?{query}"),
        format!("{POD}//exec?{query}"),
        format!("{POD}/%65xec?{query}"),
        format!("{POD}%2Fexec?{query}"),
        format!("{POD}/exec;x?{query}"),
        format!("{POD}/./exec?{query}"),
        format!("{POD}/log/../exec?{query}"),
        format!("{POD}/%2e%2e/box/exec?{query}"),
        format!("/clusters/{POD}/exec?{query}"),
        format!("/api/v1/namespaces/default/pods/box%00/exec?{query}"),
        format!("/API/v1/namespaces/default/pods/box/exec?{query}"),
        format!("/api/v1/nodes/localhost/proxy/exec/default/box/box?{query}"),
        format!("/api/v1/nodes/localhost/proxy//exec/default/box/box?{query}"),
        format!("/api/v1/nodes/localhost/proxy/run/default/box/box?cmd=touch%20/tmp/begun"),
        format!("/api/v1/proxy/nodes/localhost/exec/default/box/box?{query}"),
    ];
    for more in ["attach?stdout=true", "portforward", "portforward?ports=8080"] {
        all.push(format!("{POD}/{more}"));
        all.push(format!("{POD}/{}", more.replacen('/', "//", 1)));
    }
    all.push("/api/v1/nodes/localhost/proxy/attach/default/box/box?output=1".to_owned());
    all.push("/api/v1/nodes/localhost/proxy/portForward/default/box?port=8080".to_owned());
    all
}

/// Whoever may `get` but not `create` begins nothing.
fn begins_nothing(cluster: &Cluster, front: &Front, token: &str) {
    let address = front.gateway.address();
    for target in targets() {
        for (method, lines) in transports() {
            let bearer = format!("Authorization: Bearer {token}\r\n{lines}");
            let answer = ask(&address, method, &target, &bearer);
            let refused = answer.code.starts_with('4');
            assert!(refused, "{method} {target} {lines}: {answer:?}");
        }
    }
    let admin = ours(&cluster.admin(), &["box"]);
    let left = admin.run(&[], &["ls", "/tmp/begun"], Input::Nothing);
    assert!(!left.status.success(), "a command has run: {left:?}");
}

#[test]
fn who_may_get_and_not_create_begins_nothing() {
    // The API server itself would let it pass.
    let cluster = Cluster::up(&[BEFORE_1_35]);
    apply(&cluster, NODES);
    let front = Front::of(&cluster, &[]);
    begins_nothing(&cluster, &front, "viewer-token");
    for age in KUBECTLS {
        let config =
            kubeconfig(&cluster, "viewer-through", &front.gateway.address(), "viewer-token");
        let left = kubectl(age, &config, &["box"]).run(&[], &["true"], Input::Nothing);
        assert_eq!(left.status.code(), Some(1), "{age}: {left:?}");
        assert!(left.stderr.contains("cannot create"), "{age}: {left:?}");
    }
    by_subprotocol(&front);
    // The same requests are no nonsense: who may create, begins.
    let exec = &targets()[0];
    for (method, lines) in [&transports()[0], &transports()[8]] {
        let bearer = format!("Authorization: Bearer {}\r\n{lines}", front.token);
        assert_eq!(ask(&front.gateway.address(), method, exec, &bearer).code, "101", "{lines}");
    }
    as_before_1_35(&cluster, &["auto", "websocket", "spdy"]);
    let log = front.gateway.log();
    for secret in ["viewer-token", &front.token] {
        assert!(!log.contains(secret), "a token is in the log");
    }
}

/// A token as a subprotocol is the user's, is not chosen, and is nowhere in the log.
fn by_subprotocol(front: &Front) {
    let encoded = base64url(front.token.as_bytes());
    let lines = |token: &str| {
        format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\n{WEBSOCKET}Sec-WebSocket-Protocol: \
             base64url.bearer.authorization.k8s.io.{token}, v5.channel.k8s.io\r\n"
        )
    };
    let target = format!("{POD}/exec?command=true&stdout=true");
    let address = front.gateway.address();
    let answer = ask(&address, "GET", &target, &lines(&encoded));
    assert_eq!(answer.code, "101", "{answer:?}");
    let head = answer.head.to_lowercase();
    assert!(head.contains("\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n"), "{head}");
    let refused = ask(&address, "GET", &target, &lines(&base64url(b"viewer-token")));
    assert_eq!(refused.code, "403", "{refused:?}");
    let unknown = ask(&address, "GET", &target, &lines(&base64url(b"nobody")));
    assert_eq!(unknown.code, "401", "{unknown:?}");
    assert!(!front.gateway.log().contains(&encoded), "a token is in the log");
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        let letters = (0..=chunk.len()).map(|at| LETTERS[bits >> (18 - 6 * at) & 63]);
        text.extend(letters.map(char::from));
    }
    text
}

/// With the gate off, a GET needs `get` alone, and a POST still needs `create`, whatever the far
/// side speaks: as at an API server without the gate.
pub fn as_before_1_35(cluster: &Cluster, far_sides: &[&str]) {
    let all = transports();
    let asked = |address: &str, target: &str, (method, lines): &(&str, String)| {
        let bearer = format!("Authorization: Bearer viewer-token\r\n{lines}");
        ask(address, method, &format!("{POD}/{target}"), &bearer)
    };
    let exec = "exec?command=true&stdout=true&container=box";
    let (v5, v4, tunnel, post, spdy) = (&all[0], &all[1], &all[6], &all[8], &all[10]);
    let forward = ("GET", spdy.1.replace("v4.channel", "portforward"));
    let of_any_age = [
        (exec, post, "403"),
        (exec, spdy, "101"),
        (exec, v4, "101"),
        ("attach?stdout=true", post, "403"),
        ("attach?stdout=true", v4, "101"),
        ("portforward", post, "403"),
        ("portforward", &forward, "101"),
        ("portforward?ports=80", v4, "101"),
    ];
    // Those that an old API server has not.
    let new =
        [(exec, v5, "101"), ("attach?stdout=true", v5, "101"), ("portforward", tunnel, "101")];
    for (target, transport, expected) in of_any_age {
        let theirs = asked(&cluster.address(), target, transport);
        assert_eq!(theirs.code, expected, "{target} without a gateway: {transport:?}: {theirs:?}");
    }
    for far in far_sides {
        let front = Front::of(cluster, &[GATE_OFF, "--upstream-protocol", far]);
        let address = front.gateway.address();
        for (target, transport, expected) in of_any_age.iter().chain(&new) {
            let ours = asked(&address, target, transport);
            assert_eq!(ours.code, *expected, "{target}, far side {far}: {transport:?}: {ours:?}");
        }
        let config = kubeconfig(cluster, "viewer-through", &address, "viewer-token");
        for client in [kubectl("1.37", &config, &["box"]), ours(&config, &["box"])] {
            let left = client.run(&["-i"], &["cat"], Input::Bytes(b"magic"));
            let (code, said) = (left.status.code(), &*left.stdout);
            assert_eq!((code, said), (Some(0), &b"magic"[..]), "far side {far}: {left:?}");
        }
    }
}

/// A user by certificate: files in PEM, signed by the cluster's own authority.
fn certificate(cluster: &Cluster, subject: &str) -> [PathBuf; 2] {
    let script = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj \"$1\" \
                  -keyout \"$2.key\" -out \"$2.csr\" && printf extendedKeyUsage=clientAuth \
                  >\"$2.ext\" && openssl x509 -req -in \"$2.csr\" -CA \"$3/ca.crt\" -CAkey \
                  \"$3/ca.key\" -set_serial 77 -days 2 -extfile \"$2.ext\" -out \"$2.crt\"";
    let path = cluster.path("jane");
    let mut openssl = Command::new("bash");
    openssl.args(["-c", script, "certificate", subject]).arg(&path).arg(cluster.path("pki"));
    let output = openssl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    [path.with_extension("crt"), path.with_extension("key")]
}

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Who somebody is to the API server, if these headers are sent along: the code, name and groups.
fn who(address: &str, pair: Option<&[PathBuf; 2]>, headers: &[&str]) -> (u64, String, Vec<String>) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--http1.1", "--noproxy", "*", "-w", "\n%{http_code}"]);
    if let Some([certificate, key]) = pair {
        curl.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    for header in headers {
        curl.args(["--header", header]);
    }
    let body = "{\"kind\":\"SelfSubjectReview\",\"apiVersion\":\"authentication.k8s.io/v1\"}";
    curl.args(["--header", "Content-Type: application/json", "--data", body]);
    let output = curl.arg(format!("https://{address}{REVIEW}")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap();
    let review: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let info = &review["status"]["userInfo"];
    let groups = info["groups"].as_array().cloned().unwrap_or_default();
    let groups = groups.iter().map(|group| group.as_str().unwrap().to_owned()).collect();
    (code.parse().unwrap(), info["username"].as_str().unwrap_or_default().to_owned(), groups)
}

const JANE: &str = r"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: jane}
rules:
- {apiGroups: [''], resources: [pods], verbs: [get]}
- {apiGroups: [''], resources: [pods/exec], verbs: [get, create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: jane}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: jane}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]
";

/// The API server believes the gateway's certificate as a front proxy's.
fn front_proxy() -> String {
    [
        "--requestheader-client-ca-file=pki/kubelet-client-ca.crt",
        "--requestheader-allowed-names=kube-apiserver-kubelet-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-uid-headers=X-Remote-Uid",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ]
    .join(" ")
}

/// The gateway's own kubeconfig, with the certificate of a front proxy.
fn proxy_kubeconfig(cluster: &Cluster) -> String {
    let text = fs::read_to_string(cluster.admin()).unwrap();
    let text = text.replace("pki/admin.", "pki/apiserver-kubelet-client.");
    let path = cluster.text("front-proxy.kubeconfig");
    fs::write(&path, text).unwrap();
    path
}

/// Users with certificates are themselves behind the gateway, in either way, and nothing that they
/// send makes them another, or the gateway.
#[test]
fn a_user_by_certificate_stays_that_user() {
    let cluster = Cluster::up(&[("APISERVER_ARGS", &front_proxy())]);
    apply(&cluster, JANE);
    let pair = certificate(&cluster, "/O=team/O=others/CN=jane");
    let ca = cluster.text("pki/ca.crt");
    for (how, kubeconfig_of_gateway) in
        [("impersonate", cluster.admin()), ("request-header", proxy_kubeconfig(&cluster))]
    {
        let upstream = ["--upstream", &kubeconfig_of_gateway, "--client-ca-file", &ca];
        let gateway = gateway(&cluster, &[&upstream[..], &["--client-identity", how]].concat());
        let address = gateway.address();
        stays(how, &address, &pair);
        let [certificate, key] = pair.each_ref().map(|path| path.display().to_string());
        let config = kubeconfig(&cluster, "jane", &address, "");
        let text = fs::read_to_string(&config).unwrap();
        let user = format!("client-certificate: \"{certificate}\", client-key: \"{key}\"");
        fs::write(&config, text.replace("token: \"\"", &user)).unwrap();
        for client in [
            kubectl("1.20", &config, &["box"]),
            kubectl("1.37", &config, &["box"]),
            ours(&config, &["box"]),
        ] {
            let left = client.run(&[], &["sh", "-c", "echo me; exit 5"], Input::Nothing);
            assert_eq!((left.status.code(), &*left.stdout), (Some(5), &b"me\n"[..]), "{left:?}");
        }
        kept(how, &address, &pair);
        let others = ours(&config, &["box"]).with("--as=admin").run(&[], &["true"], Input::Nothing);
        assert_eq!(others.status.code(), Some(1), "{others:?}");
    }
}

fn stays(how: &str, address: &str, pair: &[PathBuf; 2]) {
    for header in [
        "Accept: application/json",
        "Connection: Impersonate-User, Impersonate-Group, X-Remote-User, X-Remote-Group",
        "Connection: close, impersonate-user",
        "Connection: Authorization, Host, Content-Type, Content-Length",
        "X-Remote-User: root",
        "X-Remote-Group: system:masters",
        "X-Remote-Extra-A: b",
        "X-Forwarded-User: root",
        "X-Forwarded-Client-Cert: Subject=\"CN=root,O=system:masters\"",
        "X-SSL-Client-S-DN: CN=root,O=system:masters",
        "Authorization: Bearer wrong",
    ] {
        let (code, name, mut groups) = who(address, Some(pair), &[header]);
        groups.sort();
        assert_eq!((code, &*name), (201, "jane"), "{how}: {header}");
        assert_eq!(groups, ["others", "system:authenticated", "team"], "{how}: {header}");
    }
    for header in ["Impersonate-User: root", "impersonate-user: root", "Impersonate-Group: g"] {
        let (code, name, _) = who(address, Some(pair), &[header]);
        assert!((400..404).contains(&code), "{how}: {header}: {code} {name}");
    }
    // Nobody is nobody, with whatever name.
    for header in ["X-Remote-User: root", "X-Remote-Group: system:masters", "Accept: */*"] {
        let (code, name, _) = who(address, None, &[header]);
        let nobody = code == 401 || code == 403 || name == "system:anonymous";
        assert!(nobody, "{how}: {header}: {code} {name}");
    }
}

/// What comes later on a connection is judged by itself, also behind an upgrade that was refused.
fn kept(how: &str, address: &str, pair: &[PathBuf; 2]) {
    let url = |path: &str| format!("https://{address}{path}");
    let secrets = url("/api/v1/namespaces/kube-system/secrets");
    let refused = url("/api/v1/namespaces/default/pods/nobody/exec?command=id&stdout=true");
    let bearer = "Authorization: Bearer viewer-token";
    let protocol = "Sec-WebSocket-Protocol: v5.channel.k8s.io";
    let mut upgrade = vec!["--header", "Connection: Upgrade", "--header", "Upgrade: websocket"];
    for line in WEBSOCKET.trim_end().split("\r\n").chain([protocol]) {
        upgrade.extend(["--header", line]);
    }
    // Each is a request of its own with its credentials; the last ones have another's, and none.
    let [certificate, key] = pair.each_ref().map(|path| path.to_str().unwrap());
    let by_certificate = ["--cert", certificate, "--key", key];
    let mut with_certificate = [&by_certificate[..], &upgrade, &[&refused]].concat();
    with_certificate.extend(["--next"]);
    with_certificate.extend([&by_certificate[..], &[&secrets]].concat());
    let by_token = ["--header", bearer];
    let pod = url(POD);
    let with_tokens =
        [&by_token[..], &[&pod], &["--next"], &[&secrets], &["--next"], &by_token, &[&secrets]];
    for (words, codes) in [(with_certificate, "404 403"), (with_tokens.concat(), "200 403 403")] {
        let each =
            ["--silent", "--insecure", "--http1.1", "--noproxy", "*", "--output", "/dev/null"];
        let each = [&each[..], &["--write-out", "%{http_code} "]].concat();
        let mut curl = Command::new("curl");
        for (index, request) in words.split(|word| *word == "--next").enumerate() {
            if index > 0 {
                curl.arg("--next");
            }
            curl.args(&each).args(request);
        }
        let output = curl.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.trim(), codes, "{how}");
    }
}
