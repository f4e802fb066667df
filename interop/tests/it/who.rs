//! Who may what, and what a handshake gets: the same requests to the real API server and to our
//! gateway in front of the same kubelet, and the same answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use bowline_interop::cluster::Cluster;
use bowline_interop::server::Server;
use bowline_io::tls::{self, Trust};
use rustls::{ClientConnection, StreamOwned};

use crate::parts::bowline;

/// Users of both, by token.
const TOKENS: &str = "admin-token,admin,0,system:masters\n\
                      boss-token,boss,1\n\
                      warden-token,warden,2\n\
                      full-token,full,3\n\
                      lurker-token,lurker,4\n";

/// What they may: resource, API group, namespace (`*` for all), user, verb.
const RIGHTS: [(&str, &str, &str, &str, &str); 8] = [
    ("users", "", "*", "boss", "impersonate"),
    ("serviceaccounts", "", "kube-system", "warden", "impersonate"),
    ("users", "", "*", "full", "impersonate"),
    ("groups", "", "*", "full", "impersonate"),
    ("uids", "authentication.k8s.io", "*", "full", "impersonate"),
    ("userextras/scopes", "authentication.k8s.io", "*", "full", "impersonate"),
    ("pods", "", "*", "jürgen", "get"),
    ("pods", "", "*", "system:serviceaccount:kube-system:reader", "get"),
];

const POD: &str = "/api/v1/namespaces/default/pods/box";
const PATIENCE: Duration = Duration::from_secs(20);

fn rbac() -> String {
    let mut objects = Vec::new();
    for (index, (resource, group, namespace, user, verb)) in RIGHTS.iter().enumerate() {
        let (kind, place) = if *namespace == "*" {
            ("ClusterRole", String::new())
        } else {
            ("Role", format!(", namespace: {namespace}"))
        };
        let api = "rbac.authorization.k8s.io";
        objects.push(format!(
            "apiVersion: {api}/v1\nkind: {kind}\nmetadata: {{name: right-{index}{place}}}\nrules: \
             [{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}]\n---\n\
             apiVersion: {api}/v1\nkind: {kind}Binding\nmetadata: {{name: \
             right-{index}{place}}}\nroleRef: {{apiGroup: {api}, kind: {kind}, name: \
             right-{index}}}\nsubjects: [{{apiGroup: {api}, kind: User, name: \"{user}\"}}]\n"
        ));
    }
    objects.join("---\n")
}

fn abac() -> String {
    let line = |(resource, group, namespace, user, verb): &(&str, &str, &str, &str, &str)| {
        let readonly = *verb == "get";
        format!(
            "{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\"Policy\",\
             \"spec\":{{\"user\":\"{user}\",\"resource\":\"{resource}\",\"apiGroup\":\"{group}\",\
             \"namespace\":\"{namespace}\",\"readonly\":{readonly}}}}}\n"
        )
    };
    RIGHTS.iter().map(line).collect()
}

/// A gateway in front of the cluster's kubelet, with the same users and rights.
fn gateway(cluster: &Cluster, tokens: &std::path::Path) -> Server {
    let get = |what: &[&str]| cluster.kubectl(&[&["get", "-o", "json"], what].concat());
    let objects = cluster.path("objects.yaml");
    let (node, pod) = (get(&["node", "localhost"]), get(&["pod", "box"]));
    std::fs::write(&objects, format!("{node}\n---\n{pod}")).unwrap();
    let policies = cluster.path("policies.jsonl");
    std::fs::write(&policies, abac()).unwrap();
    let mut gateway = Command::new(bowline());
    gateway.args(["gateway", "--secure-port", "0", "--bind-address", "127.0.0.1"]);
    gateway.args(["--kubelet-preferred-address-types", "Hostname,InternalIP", "-f"]);
    gateway.arg(&objects).arg("--token-auth-file").arg(tokens);
    gateway.arg("--authorization-policy-file").arg(policies);
    for (flag, file) in [
        ("--client-ca-file", "ca.crt"),
        ("--kubelet-certificate-authority", "ca.crt"),
        ("--kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        ("--kubelet-client-key", "apiserver-kubelet-client.key"),
    ] {
        gateway.arg(flag).arg(cluster.path("pki").join(file));
    }
    Server::start(&mut gateway)
}

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub code: String,
    pub head: String,
    /// A Status' message, or the text.
    pub message: String,
}

/// Sends a request with these header lines. Of a switch of protocols only the head is read.
pub fn ask(address: &str, method: &str, target: &str, lines: &str) -> Answer {
    ask_as(None, address, &format!("{method} {target}"), lines, "")
}

/// The same as the user of a certificate, with a body.
pub fn ask_as(
    user: Option<&tls::Identity>,
    address: &str,
    what: &str,
    lines: &str,
    body: &str,
) -> Answer {
    let mut stream = connect(user, address);
    let request = format!("{what} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let head = head_of(&mut stream);
    let code = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    if !matches!(&*code, "200" | "101") {
        stream.read_exact(&mut body).unwrap();
    } else {
        body.clear();
    }
    let status: Result<serde_json::Value, _> = serde_json::from_slice(&body);
    let message = match &status {
        Ok(status) => status["message"].as_str().unwrap_or_default().to_owned(),
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    Answer { code, head, message }
}

/// Connects as the user of a certificate, or as nobody.
pub fn connect(
    user: Option<&tls::Identity>,
    address: &str,
) -> StreamOwned<ClientConnection, TcpStream> {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = tls::client(&Trust::Anybody, user).unwrap();
    let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    StreamOwned::new(session, tcp)
}

/// Reads the head of an answer and nothing behind it.
pub fn head_of(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn both_say_the_same_of_who_may_what_and_of_handshakes() {
    let place = tempfile::tempdir().unwrap();
    let tokens = place.path().join("tokens.csv");
    std::fs::write(&tokens, TOKENS).unwrap();
    let args = format!("--token-auth-file={}", tokens.display());
    let cluster = Cluster::up(&[("APISERVER_ARGS", &args)]);
    let file = cluster.path("rights.yaml");
    std::fs::write(&file, rbac()).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    let gateway = gateway(&cluster, &tokens);
    let env = std::fs::read_to_string(cluster.path("env")).unwrap();
    let port = env.split("APISERVER_PORT=").nth(1).unwrap().lines().next().unwrap();
    let port = port.trim_matches(['"', '\'']).to_owned();
    let places = [format!("127.0.0.1:{port}"), gateway.address()];
    identities(&places);
    differences(&places);
    handshakes(&places);
}

fn identities(places: &[String; 2]) {
    let user = |name: &str| format!("Impersonate-User: {name}\r\n");
    let account = |name: &str| user(&format!("system:serviceaccount:{name}"));
    let group = |name: &str| format!("Impersonate-Group: {name}\r\n");
    let uid = "Impersonate-Uid: 7\r\n";
    let scopes = "Impersonate-Extra-Scopes: all\r\n";
    let wishes = [
        String::new(),
        user("lurker"),
        user("jürgen"),
        user("nobody <&> \"x\""),
        user("system:anonymous"),
        account("kube-system:reader"),
        account("kube-system:other"),
        account("default:reader"),
        account("default:reader:x"),
        account("Default:reader"),
        user("jürgen") + &group("g"),
        user("nobody") + &group("system:masters"),
        user("jürgen") + uid,
        user("jürgen") + scopes,
        user("jürgen") + "Impersonate-Extra-Other: x\r\n",
        user("jürgen") + &group("g") + uid + scopes,
        account("kube-system:reader") + &group("g"),
        account("kube-system:reader") + uid,
        group("g"),
        group("g") + &group("h"),
        uid.to_owned(),
        scopes.to_owned(),
        "Impersonate-Extra-Acme.example%2fScopes: a\r\n".to_owned(),
        "X-Remote-User: jürgen\r\nX-Remote-Group: system:masters\r\n".to_owned(),
    ];
    for token in ["admin", "boss", "warden", "full", "lurker", "wrong"] {
        for wish in &wishes {
            for (method, target) in [
                ("GET", POD),
                ("GET", "/api/v1/namespaces/kube-system"),
                ("POST", "/api/v1/namespaces/default/pods/box/attach"),
            ] {
                // The real one tells a node's rights of its own, and serves what we have not.
                if target != POD && matches!(token, "admin" | "full") {
                    continue;
                }
                let lines = format!("Authorization: Bearer {token}-token\r\n{wish}");
                let [real, ours] = [0, 1].map(|index| ask(&places[index], method, target, &lines));
                // The real one tells the refusal of the way by which this user succeeded last.
                let words = |answer: &Answer| match answer.message.find(" cannot impersonate") {
                    Some(_) => " cannot impersonate".to_owned(),
                    None => answer.message.clone(),
                };
                let both = [&real, &ours].map(|answer| (answer.code.clone(), words(answer)));
                assert_eq!(both[0], both[1], "{method} {target} as {token} with {wish:?}");
            }
        }
    }
}

/// Where we refuse what the real one passes over: if this fails, it has learned.
fn differences(places: &[String; 2]) {
    let bearer = "Authorization: Bearer admin-token\r\n";
    for (lines, real, ours) in [
        (format!("{bearer}Impersonate-User: lurker\r\nImpersonate-User: jürgen\r\n"), "403", "400"),
        (format!("{bearer}Impersonate-User:\r\n"), "200", "400"),
        (format!("{bearer}Impersonate-Groups: g\r\n"), "200", "400"),
        (format!("{bearer}{bearer}"), "200", "401"),
        ("Authorization: Bearer admin-token x\r\n".to_owned(), "200", "401"),
    ] {
        let codes = [0, 1].map(|index| ask(&places[index], "GET", POD, &lines).code);
        assert_eq!(codes, [real, ours], "{lines:?}");
    }
}

fn handshakes(places: &[String; 2]) {
    let exec = format!("{POD}/exec?command=true&stdout=true&container=box");
    let forward = format!("{POD}/portforward");
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let offers = |names: &[&str]| -> String {
        names.iter().map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).collect()
    };
    let versions = |names: &[&str]| -> String {
        names.iter().map(|name| format!("X-Stream-Protocol-Version: {name}\r\n")).collect()
    };
    let (v4, v5) = ("v4.channel.k8s.io", "v5.channel.k8s.io");
    let mut cases = Vec::new();
    for names in [
        &[v5][..],
        &[v4],
        &["v4.channel.k8s.io, v5.channel.k8s.io"],
        &["x,base64.channel.k8s.io,v5.channel.k8s.io"],
        &["base64.channel.k8s.io, v4.channel.k8s.io"],
        &[v4, v5],
        &["v3.channel.k8s.io"],
    ] {
        cases.push(("GET", &exec, format!("{websocket}{}", offers(names))));
    }
    for names in [&[][..], &[""], &[",,"], &["v9.channel.k8s.io"], &[v5, v4], &["", v4]] {
        cases.push(("POST", &exec, format!("{spdy}{}", versions(names))));
        cases.push(("POST", &forward, format!("{spdy}{}", versions(names))));
    }
    cases.push(("POST", &forward, format!("{spdy}{}", versions(&["portforward.k8s.io"]))));
    for (method, target, lines) in cases {
        let lines = format!("Authorization: Bearer admin-token\r\n{lines}");
        let [real, ours] = [0, 1].map(|index| ask(&places[index], method, target, &lines));
        let shown = |answer: &Answer| {
            let lower = answer.head.to_lowercase();
            let of = |name: &str| {
                let lines = lower.lines().filter(|line| line.starts_with(name));
                lines.map(ToOwned::to_owned).collect::<Vec<_>>()
            };
            let chosen = [of("sec-websocket-protocol:"), of("x-stream-protocol-version:")];
            (answer.code.clone(), chosen.concat(), of("x-accepted-stream-protocol-versions:"))
        };
        assert_eq!(shown(&real), shown(&ours), "{method} {target} {lines}");
        if matches!(&*real.code, "400" | "403") && !real.message.is_empty() {
            // containerd says some of it twice; how many headers a hop adds is its own matter.
            let cause = |answer: &Answer| {
                let text = answer.message.split(" with ").next().unwrap_or_default();
                text.lines().next().unwrap_or_default().to_owned()
            };
            assert_eq!(cause(&real), cause(&ours), "{method} {target} {lines}");
        }
    }
}
