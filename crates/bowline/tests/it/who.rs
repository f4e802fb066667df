//! Who may what, over sockets: the headers that name a sender, what travels on to a node, and whom
//! a node serves that asks nobody.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_interop::pair::port;
use bowline_interop::pki::Authority;
use bowline_interop::server::{Server, until};
use bowline_io::tls::{self, Identity, Trust};
use rustix::process::{Signal, kill_process};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use super::bowline;
use super::raw::{DEADLINE, Place, rest};

const TOKENS: &str = "t,admin,0,system:masters\n\
                      boss-token,boss,1,\n\
                      warden-token,warden,2,\n\
                      viewer-token,viewer,3,\n";
/// `boss` may act as users, and nobody else; `warden` as service accounts of one namespace.
const POLICIES: [&str; 3] = [
    r#""user":"boss","resource":"users","namespace":"*""#,
    r#""user":"warden","resource":"serviceaccounts","namespace":"ns""#,
    r#""user":"jürgen","resource":"*","namespace":"*""#,
];

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
const POD: &str = "/api/v1/namespaces/default/pods/box";

/// A gateway before a node at a port, which may say that it takes WebSockets.
struct Gateway {
    server: Server,
    _place: tempfile::TempDir,
}

impl Gateway {
    fn before(node: u16, declared: bool) -> Gateway {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let features = if declared { "[ExtendWebSocketsToKubelet]" } else { "[]" };
        let objects = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: box, namespace: default}}\nspec: \
             {{nodeName: node, containers: [{{name: box}}]}}\nstatus: {{phase: Running}}\n---\n\
             apiVersion: v1\nkind: Node\nmetadata: {{name: node}}\nstatus: {{addresses: [{{type: \
             InternalIP, address: 127.0.0.1}}], declaredFeatures: {features}, daemonEndpoints: \
             {{kubeletEndpoint: {{Port: {node}}}}}}}\n"
        );
        let policies: Vec<String> = POLICIES
            .iter()
            .map(|spec| {
                format!(
                    "{{\"apiVersion\":\"abac.authorization.kubernetes.io/v1beta1\",\"kind\":\
                     \"Policy\",\"spec\":{{{spec}}}}}"
                )
            })
            .collect();
        let mut gateway = Command::new(bowline());
        gateway.args(["gateway", "--secure-port", "0", "--bind-address", "127.0.0.1", "-v=6"]);
        gateway.arg("-f").arg(write("objects.yaml", &objects));
        gateway.arg("--token-auth-file").arg(write("tokens.csv", TOKENS));
        let policies = write("policies.jsonl", &policies.join("\n"));
        gateway.arg("--authorization-policy-file").arg(policies);
        Gateway { server: Server::start(&mut gateway), _place: place }
    }

    /// Sends a request and gives all of the answer.
    fn answer(&self, request: &[u8]) -> String {
        let tcp = TcpStream::connect(self.server.address()).unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let config = tls::client(&Trust::Anybody, None).unwrap();
        let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = StreamOwned::new(session, tcp);
        stream.write_all(request).unwrap();
        String::from_utf8_lossy(&rest(stream)).into_owned()
    }

    /// The same with these header lines.
    fn ask(&self, method: &str, target: &str, lines: &[u8]) -> String {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n");
        self.answer(&[head.as_bytes(), lines, b"\r\n"].concat())
    }
}

/// Sends a request and gives its answer. A refusal ends with its body, whether or not the
/// connection stays; all else with the connection.
fn told(place: &Place, request: &str) -> String {
    let mut stream = place.connect();
    stream.write_all(request.as_bytes()).unwrap();
    stream.flush().unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    let mut answer = String::from_utf8(head).unwrap();
    let lower = answer.to_lowercase();
    match lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()) {
        Some(length) => {
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).unwrap();
            answer.push_str(&String::from_utf8_lossy(&body));
        }
        None => answer.push_str(&String::from_utf8_lossy(&rest(stream))),
    }
    answer
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// A Status' message.
fn message(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let status: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    status["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn whoever_gives_up_rights_by_a_header_has_given_them_up() {
    let gateway = Gateway::before(1, false);
    let user: &[u8] = b"Impersonate-User: viewer\r\n";
    let cannot_get = "pods \"box\" is forbidden: User \"viewer\" cannot get resource \"pods\" in \
                      API group \"\" in the namespace \"default\"";
    let details = |what: &str| format!("requested {what} without impersonating a user name");
    let cases: Vec<(Vec<u8>, &str, String)> = vec![
        (user.to_vec(), "403", cannot_get.into()),
        ([user, user].concat(), "400", "header impersonate-user is given more than once".into()),
        ("Impersonate-User: jürgen\r\n".into(), "200", String::new()),
        (
            b"Impersonate-User: j\xfcrgen\r\n".into(),
            "400",
            "header impersonate-user is not UTF-8".into(),
        ),
        (b"Impersonate-User: \r\n".into(), "400", "header impersonate-user is empty".into()),
        (
            b"Impersonate-Group: users\r\n".into(),
            "400",
            details(
                "&user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"users\"}, \
                 Extra:map[string][]string(nil)}",
            ),
        ),
        (
            b"Impersonate-Uid: 7\r\n".into(),
            "400",
            details(
                "&user.DefaultInfo{Name:\"\", UID:\"7\", Groups:[]string(nil), \
                 Extra:map[string][]string(nil)}",
            ),
        ),
        (
            b"Impersonate-Extra-Scopes: all\r\n".into(),
            "400",
            details(
                "&user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string(nil), \
                 Extra:map[string][]string{\"scopes\":[]string{\"all\"}}}",
            ),
        ),
        (
            [user, b"Impersonate-Extra-Scopes: \xff\r\n"].concat(),
            "400",
            "header impersonate-extra-scopes is not UTF-8".into(),
        ),
        (
            [user, b"Impersonate-Groups: system:masters\r\n"].concat(),
            "400",
            "header impersonate-groups is not known".into(),
        ),
        (b"X-Remote-User: viewer\r\n".into(), "200", String::new()),
    ];
    for (lines, expected, words) in &cases {
        let all = [b"Authorization: Bearer t\r\n", &lines[..]].concat();
        let answer = gateway.ask("GET", POD, &all);
        assert_eq!(code(&answer), *expected, "{}: {answer}", lines.escape_ascii());
        assert_eq!(message(&answer), *words, "{}", lines.escape_ascii());
        // A stream is no other thing: refused before it is one.
        if *expected != "200" {
            let stream = [&all, WEBSOCKET.as_bytes()].concat();
            let answer = gateway.ask("GET", &format!("{POD}/exec?command=id&stdout=1"), &stream);
            assert_eq!(code(&answer), *expected, "{}: {answer}", lines.escape_ascii());
        }
    }
    // Not even to learn what the header would have been good for.
    for lines in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic dA==\r\n"] {
        let lines = format!("{lines}Impersonate-Group: users\r\n");
        assert_eq!(code(&gateway.ask("GET", POD, lines.as_bytes())), "401");
    }
    for lines in
        ["Authorization: Bearer t\r\nAuthorization: Bearer t\r\n", "Authorization: Bearer t x\r\n"]
    {
        assert_eq!(code(&gateway.ask("GET", POD, lines.as_bytes())), "401", "{lines}");
    }
}

#[test]
fn only_who_may_ask_learns_that_a_path_is_nothing() {
    let gateway = Gateway::before(1, false);
    let ask = |token: &str, method: &str, path: &str| {
        let lines = format!("Authorization: Bearer {token}\r\n");
        let answer = gateway.ask(method, path, lines.as_bytes());
        (code(&answer).to_owned(), message(&answer))
    };
    let cannot = |verb: &str, path: &str| {
        format!("forbidden: User \"viewer\" cannot {verb} path \"{path}\"")
    };
    for (method, path) in
        [("GET", "/metrics"), ("GET", "/debug/pprof/"), ("GET", "//api/v1"), ("POST", "/apis/x")]
    {
        let refused = ("403".to_owned(), cannot(&method.to_lowercase(), path));
        assert_eq!(ask("viewer-token", method, path), refused, "{path}");
        assert_eq!(ask("t", method, path).0, "404", "{path}");
        assert_eq!(ask("wrong", method, path).0, "401", "{path}");
    }
    // What everybody who is somebody may look for.
    assert_eq!(ask("viewer-token", "GET", "/openapi/v2").0, "404");
    // What is no path is nobody's to allow.
    assert_eq!(ask("viewer-token", "GET", "/%ff").0, "400");
}

#[test]
fn leave_to_act_as_users_is_no_leave_to_act_as_service_accounts() {
    let gateway = Gateway::before(1, false);
    let account = "Impersonate-User: system:serviceaccount:kube-system:admin\r\n";
    let jürgen = "Impersonate-User: jürgen\r\n";
    let forbidden = |user: &str, verb: &str, what: &str, name: &str, scope: &str| {
        format!(
            "{what} \"{name}\" is forbidden: User \"{user}\" cannot {verb} resource \"{what}\" in \
             API group \"\" {scope}"
        )
    };
    let default = "in the namespace \"default\"";
    let on = |mode: &str| format!("impersonate-on:{mode}:get");
    for (token, lines, expected, words) in [
        ("boss", jürgen.to_owned(), "200", String::new()),
        (
            "boss",
            account.into(),
            "403",
            forbidden("boss", &on("serviceaccount"), "pods", "box", default),
        ),
        (
            "warden",
            jürgen.into(),
            "403",
            forbidden("warden", &on("user-info"), "pods", "box", default),
        ),
        (
            "warden",
            format!("{account}Impersonate-Uid: 1\r\n"),
            "403",
            forbidden(
                "warden",
                "impersonate",
                "serviceaccounts",
                "admin",
                "in the namespace \"kube-system\"",
            ),
        ),
        // This one it may act as; who then may nothing.
        (
            "warden",
            "Impersonate-User: system:serviceaccount:ns:a\r\n".into(),
            "403",
            forbidden("system:serviceaccount:ns:a", "get", "pods", "box", default),
        ),
        (
            "boss",
            format!("{jürgen}Impersonate-Group: g\r\n"),
            "403",
            forbidden("boss", &on("user-info"), "pods", "box", default),
        ),
        (
            "boss",
            format!("{jürgen}Impersonate-Uid: 7\r\n"),
            "403",
            forbidden("boss", &on("user-info"), "pods", "box", default),
        ),
        (
            "boss",
            format!("{jürgen}Impersonate-Extra-A: b\r\n"),
            "403",
            forbidden("boss", &on("user-info"), "pods", "box", default),
        ),
    ] {
        let all = format!("Authorization: Bearer {token}-token\r\n{lines}");
        let answer = gateway.ask("GET", POD, all.as_bytes());
        assert_eq!((code(&answer), message(&answer)), (expected, words), "{token}: {lines}");
    }
}

/// A node that tells the head of each request, and refuses it.
fn recorder() -> (u16, Receiver<String>) {
    let pair = Authority::new().unwrap().server().unwrap();
    let identity = Identity { certificate: pair.certificate.into(), key: pair.key.into() };
    let config: Arc<ServerConfig> = tls::server(&identity, None, false).unwrap().config;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = channel();
    thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(
                b"HTTP/1.1 403 Forbidden\r\nX-Accepted-Stream-Protocol-Versions: one\r\n\
                  X-Accepted-Stream-Protocol-Versions: two\r\nContent-Length: 2\r\nConnection: \
                  close\r\n\r\nno",
            );
            stream.conn.send_close_notify();
            let _ = stream.flush();
            if sender.send(String::from_utf8_lossy(&head).into_owned()).is_err() {
                return;
            }
        }
    });
    (port, heads)
}

#[test]
fn nothing_that_names_a_sender_travels_on_or_is_logged() {
    const SECRET: &str = "boss-token";
    let entry = format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(SECRET));
    let protocol = |line: &str| format!("Sec-WebSocket-Protocol: {line}\r\n");
    let bearer = format!(
        "Authorization: Bearer {SECRET}\r\nImpersonate-User: jürgen\r\n\
                          X-Remote-User: root\r\n"
    );
    // In `Authorization` alone, beside it, and on lines that nobody reads.
    let ways = |name: &str| {
        [
            format!("{bearer}{}", protocol(name)),
            format!("{bearer}{}", protocol(&format!("{name},{entry}"))),
            format!("{bearer}{}{}", protocol(name), protocol(&entry)),
            format!("{}{}Impersonate-User: jürgen\r\n", protocol(name), protocol(&entry)),
        ]
    };
    for declared in [false, true] {
        let (node, heads) = recorder();
        let gateway = Gateway::before(node, declared);
        for (target, name) in [
            ("/exec?command=id&stdout=1", "v5.channel.k8s.io"),
            ("/attach?stdout=1", "v4.channel.k8s.io"),
            ("/portforward", "SPDY/3.1+portforward.k8s.io"),
            ("/portforward?ports=80", "v4.channel.k8s.io"),
        ] {
            for lines in ways(name) {
                let lines = format!("{WEBSOCKET}{lines}");
                let answer = gateway.ask("GET", &format!("{POD}{target}"), lines.as_bytes());
                assert_eq!(code(&answer), "403", "{target} {lines}: {answer}");
                let head = heads.recv_timeout(DEADLINE).unwrap();
                let lower = head.to_lowercase();
                for secret in [SECRET, "bearer", "authorization", "impersonate", "x-remote", "rgen"]
                {
                    assert!(!lower.contains(secret), "{secret} in {head} for {lines}");
                }
                // What the node would take, it tells the client whose words it was asked in.
                let passed = answer.matches("X-Accepted-Stream-Protocol-Versions: ").count();
                let as_it_comes = target.contains("ports=") || declared && target == "/portforward";
                assert_eq!(passed, if as_it_comes { 2 } else { 0 }, "{answer}");
            }
        }
        let spdy = format!("{SPDY}X-Stream-Protocol-Version: portforward.k8s.io\r\n{bearer}");
        gateway.ask("POST", &format!("{POD}/portforward"), spdy.as_bytes());
        gateway.ask("GET", &format!("{POD}/log"), bearer.as_bytes());
        for _ in 0..2 {
            let head = heads.recv_timeout(DEADLINE).unwrap().to_lowercase();
            assert!(!head.contains("bearer") && !head.contains("impersonate"), "{head}");
        }
        let log = gateway.server.log();
        assert!(log.contains("by=\"boss\"") && log.contains("user=\"jürgen\""), "{log}");
        assert!(!log.contains(SECRET) && !log.contains(&entry), "{log}");
    }
}

#[test]
fn a_node_that_asks_nobody_serves_programs_of_its_host_alone() {
    let node = Place::node();
    let exec = String::from_utf8(node.websocket("echo+ran", "v4")).unwrap();
    let spdy = String::from_utf8(node.spdy("echo+ran")).unwrap();
    let plain = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let requests = [
        exec,
        spdy,
        String::from_utf8(node.forward(None)).unwrap(),
        String::from_utf8(node.forward(Some("SPDY/3.1+portforward.k8s.io"))).unwrap(),
        String::from_utf8(node.channels(1, "v4.channel.k8s.io")).unwrap(),
        plain("/containerLogs/default/box/box"),
        plain("/healthz"),
        plain("/nothing"),
        plain("/run/default/box/box?cmd=id"),
    ];
    for request in &requests {
        let evil = [
            request.replace("Host: localhost", "Host: evil.example:10250"),
            request.replace("Host: localhost", "Host: localhost\r\nOrigin: https://evil.example"),
            request.replace("Host: localhost", "Host: localhost\r\nOrigin: http://localhost"),
            request.replace("Host: localhost", "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site"),
            request.replace(" /", " http://evil.example/"),
        ];
        for request in evil {
            let answer = told(&node, &request);
            assert_eq!(code(&answer), "403", "{request}: {answer}");
            assert!(!answer.contains("ran"), "{answer}");
        }
    }
    for host in ["127.0.0.1:80", "[::1]", "localhost:10250"] {
        let request = requests[0].replace("Host: localhost", &format!("Host: {host}"));
        let answer = told(&node, &request);
        assert!(answer.contains("ran\n"), "{host}: {answer}");
    }
}

#[test]
fn no_forward_leads_to_the_nodes_own_port() {
    for place in Place::both() {
        let own = match &place {
            Place::Node { server, .. } => port(&server.address()),
            Place::Gateway(pair) => port(&pair.node.address()),
        };
        let answer = place.answer(&place.channels(own, "v4.channel.k8s.io"));
        let text = String::from_utf8_lossy(&answer);
        let why = format!(
            "error forwarding port {own} to pod default/box, uid : port {own} is the \
                           node's own"
        );
        assert!(text.contains(&why), "{}: {text}", place.name());
        place.is_well();
    }
}

#[test]
fn spdy_without_a_protocol_and_with_unknown_ones_is_told_why() {
    for place in Place::both() {
        let own_words = String::from_utf8(place.spdy("echo+ran")).unwrap();
        let attach = own_words.replace("/exec", "/attach");
        let forward = String::from_utf8(place.forward(None)).unwrap();
        for (request, name, accepted) in [
            (own_words, "v4.channel.k8s.io", 4),
            (attach, "v4.channel.k8s.io", 4),
            (forward, "portforward.k8s.io", 1),
        ] {
            let line = format!("X-Stream-Protocol-Version: {name}\r\n");
            let ask = |lines: &str| {
                let request = request.replace(&line, lines);
                told(&place, &request)
            };
            for (lines, cause) in [
                ("", "does not exist in request with"),
                ("X-Stream-Protocol-Version:\r\n", "contains [], but no valid protocols"),
                ("X-Stream-Protocol-Version: ,,\r\n", "contains [,,], but no valid protocols"),
            ] {
                let answer = ask(lines);
                assert_eq!(code(&answer), "400", "{}: {lines} {answer}", place.name());
                assert!(answer.contains(cause), "{}: {answer}", place.name());
            }
            let answer = ask("X-Stream-Protocol-Version: v9.channel.k8s.io\r\n");
            assert_eq!(code(&answer), "403", "{}: {answer}", place.name());
            let lines = answer.matches("\r\nX-Accepted-Stream-Protocol-Versions: ").count();
            assert_eq!(lines, accepted, "{}: {answer}", place.name());
            assert!(answer.contains("client supports [v9.channel.k8s.io]"), "{answer}");
        }
    }
}

#[test]
fn v5_is_taken_wherever_it_is_offered() {
    for place in Place::both() {
        let request = String::from_utf8(place.websocket("true", "v4.channel.k8s.io, v5")).unwrap();
        let answer = told(&place, &request);
        assert!(
            answer.contains("\r\nSec-Websocket-Protocol: v5.channel.k8s.io\r\n"),
            "{}: {answer}",
            place.name()
        );
    }
}

#[test]
fn every_session_and_every_refusal_is_in_the_log() {
    for place in Place::both() {
        place.answer(&place.websocket("exit+3", "v4"));
        place.answer(&place.channels(1, "v4.channel.k8s.io"));
        let forged = "GET /exec/a%0a2026-01-01 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                      Authorization: Bearer secret-token\r\n\r\n";
        place.answer(forged.as_bytes());
        let logs = match &place {
            Place::Node { server, .. } => vec![server],
            Place::Gateway(pair) => vec![&pair.gateway, &pair.node],
        };
        for (index, server) in logs.into_iter().enumerate() {
            let has = |needles: &[&str]| {
                let log = server.log();
                log.lines().any(|line| needles.iter().all(|needle| line.contains(needle)))
            };
            let who: &[&str] = if matches!(place, Place::Gateway(_)) && index == 0 {
                &["peer=127.0.0.1:", "user=\"admin\""]
            } else {
                &["peer=127.0.0.1:"]
            };
            let pod = [who, &["namespace=\"default\"", "pod=\"box\""]].concat();
            for needles in [
                &[
                    "session begins",
                    "verb=\"exec\"",
                    "container=\"box\"",
                    "command=\"sh\"",
                    "words=3",
                    "v4.channel.k8s.io\"",
                ][..],
                &[
                    "session ends",
                    "verb=\"exec\"",
                    "end=\"exit code 3\"",
                    "ms=",
                    "from_client=",
                    "to_client=",
                ],
                &["session begins", "verb=\"portforward\""],
                &["session ends", "verb=\"portforward\"", "end=\"", "from_client=", "to_client="],
            ] {
                let needles = [&pod[..], needles].concat();
                until(&format!("{needles:?} in {}", server.log()), DEADLINE, || has(&needles));
            }
            if index == 0 {
                let needles = ["refused", "peer=127.0.0.1:", "method=\"GET\"", "path=\"/exec/a%0a"];
                until("the refusal is logged", DEADLINE, || has(&needles));
            }
            let log = server.log();
            assert!(!log.contains("exit 3") && !log.contains("secret-token"), "{log}");
        }
    }
}

#[test]
fn who_reads_a_log_when_a_server_ends_did_not_go_away() {
    let place = Place::node();
    let Place::Node { server, .. } = &place else { panic!("it is a node") };
    let mut reader = place.connect();
    let path = "/containerLogs/default/box/box?follow=true";
    write!(reader, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let has = |what: &str, why: &str| {
        server.log().lines().any(|line| line.contains(what) && line.contains(why))
    };
    until("it reads", DEADLINE, || has("session begins", "verb=\"log\""));
    kill_process(server.id(), Signal::TERM).unwrap();
    let end = "end=\"this server shut down\"";
    until("its end is logged", DEADLINE, || has("session ends", end));
}
