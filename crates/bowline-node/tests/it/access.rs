//! Who may use a node: tokens, leave, and the kubelet's words where there is none.

use std::future::ready;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_io::auth::{
    Answer, Attributes, Authenticator, Authorizer, Credentials, Decision, Unavailable, User,
};
use bowline_io::serve::Sessions;
use bowline_node::kubelet::Access;
use bowline_node::runtime::Runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::Memory;
use crate::node::Node;

/// Knows a token by its user's name. `reader` may get, `writer` may create, nobody else is sure.
#[derive(Debug, Default)]
struct Cluster {
    asked: Mutex<Vec<String>>,
}

impl Authenticator for Cluster {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> Answer<'a, Option<User>> {
        let user = credentials.token.map(|token| User::new(&*token.0, []));
        Box::pin(ready(match user {
            Some(user) if user.name == "away" => Err(Unavailable::new("the server is away")),
            Some(user) if user.name == "unknown" => Ok(None),
            user => Ok(user),
        }))
    }
}

impl Authorizer for Cluster {
    fn authorize<'a>(&'a self, user: &'a User, attributes: &'a Attributes) -> Answer<'a, Decision> {
        let Attributes::Resource(asked) = attributes else { panic!("{attributes:?}") };
        assert_eq!((&*asked.group, &*asked.version, &*asked.namespace), ("", "v1", ""));
        let verb = attributes.verb();
        let line = format!("{} {verb} {} {}", user.name, asked.path(), asked.name);
        self.asked.lock().unwrap().push(line);
        Box::pin(ready(match (&*user.name, verb) {
            ("reader", "get") | ("writer", "get" | "create") => Ok(Decision::Allow),
            ("reader" | "writer", _) => Ok(Decision::NoOpinion { reason: "no rule".into() }),
            ("lost", _) => Err(Unavailable::new("the server is lost")),
            _ => Ok(Decision::Deny { reason: String::new() }),
        }))
    }
}

struct Guarded {
    node: Node,
    cluster: Arc<Cluster>,
    memory: Arc<Memory>,
}

async fn guarded(allow_get_streams: bool) -> Guarded {
    let (cluster, memory) = (Arc::new(Cluster::default()), Arc::new(Memory::default()));
    let access = Access {
        authenticator: cluster.clone(),
        authorizer: cluster.clone(),
        node_name: "n1".into(),
        allow_get_streams,
    };
    let runtime: Arc<dyn Runtime> = memory.clone();
    let node = Node::guarded(runtime, Sessions::default(), Some(access)).await;
    Guarded { node, cluster, memory }
}

impl Guarded {
    /// Code and text of the answer to a request that is not upgraded.
    async fn told(&self, request_line: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.node.address).await.unwrap();
        let request =
            format!("{request_line} HTTP/1.1\r\nHost: node\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.trim_end().to_owned())
    }

    /// The head of the answer to a request for a WebSocket.
    async fn websocket(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(self.node.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             {headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.cluster.asked.lock().unwrap())
    }
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// All paths on which something is done in a container.
const STREAMS: [&str; 5] = [
    "/exec/ns/p/c?command=x&output=1",
    "/exec/ns/p/u/c?command=x&output=1",
    "/attach/ns/p/c?output=1",
    "/attach/ns/p/u/c?output=1",
    "/portForward/ns/p?port=80",
];
const LOG: &str = "/containerLogs/ns/p/c";

#[tokio::test]
async fn nobody_is_let_in_and_learns_nothing() {
    let guarded = guarded(false).await;
    let unauthorized = (401, "Unauthorized".to_owned());
    for path in STREAMS.into_iter().chain([LOG, "/nothing", "/exec//x", "/exec/%ff/b/c"]) {
        for method in ["GET", "POST", "PUT", "HEAD"] {
            for headers in
                ["", &bearer("unknown"), &bearer("away"), "Authorization: Basic eDp5\r\n"]
            {
                let (code, text) = guarded.told(&format!("{method} {path}"), headers).await;
                assert_eq!(code, 401, "{method} {path} {headers}");
                assert!(method == "HEAD" || text == unauthorized.1, "{text}");
            }
        }
        let twice = bearer("writer") + &bearer("writer");
        assert_eq!(guarded.told(&format!("GET {path}"), &twice).await, unauthorized);
    }
    assert_eq!(guarded.asked(), [""; 0]);
    assert_eq!(*guarded.memory.asked.lock().unwrap(), [""; 0]);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(guarded.told(&format!("GET {path}"), "").await, (200, "ok".into()));
    }
}

#[tokio::test]
async fn a_stream_needs_create_whatever_its_method_and_a_log_needs_get() {
    let guarded = guarded(false).await;
    let forbidden = "Forbidden (user=reader, verb=create, resource=nodes, subresource(s)=[proxy])";
    for path in STREAMS {
        for method in ["GET", "POST", "PATCH"] {
            let told = guarded.told(&format!("{method} {path}"), &bearer("reader")).await;
            assert_eq!(told, (403, forbidden.into()), "{method} {path}");
        }
        let answer = guarded.websocket(path, &bearer("reader")).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains(forbidden), "{answer}");
    }
    assert!(guarded.asked().iter().all(|line| line == "reader create nodes/proxy n1"));
    assert_eq!(*guarded.memory.asked.lock().unwrap(), [""; 0], "the runtime was asked for nothing");

    assert_eq!(guarded.told(&format!("GET {LOG}"), &bearer("reader")).await.0, 200);
    assert_eq!(guarded.asked(), ["reader get nodes/proxy n1"]);
    // As in the kubelet, only those who may use the node learn that nothing is there.
    assert_eq!(guarded.told("GET /nothing", &bearer("other")).await.0, 403);
    assert_eq!(guarded.told("GET /nothing", &bearer("reader")).await.0, 404);
    let told = guarded.told("DELETE /nothing", &bearer("reader")).await;
    let forbidden = "Forbidden (user=reader, verb=delete, resource=nodes, subresource(s)=[proxy])";
    assert_eq!(told, (403, forbidden.into()));
}

#[tokio::test]
async fn get_is_enough_where_that_is_wanted() {
    let guarded = guarded(true).await;
    for path in STREAMS {
        let answer = guarded.websocket(path, &bearer("reader")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{path}: {answer}");
        assert_eq!(guarded.asked(), ["reader get nodes/proxy n1"]);
        let (code, text) = guarded.told(&format!("POST {path}"), &bearer("reader")).await;
        assert_eq!((code, text.contains("verb=create")), (403, true), "{text}");
        assert_eq!(guarded.asked(), ["reader create nodes/proxy n1"]);
    }
}

#[tokio::test]
async fn a_browsers_token_is_taken_out_of_its_subprotocols() {
    let guarded = guarded(false).await;
    let entry = |token: &str| {
        format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token))
    };
    let offer =
        |rest: &str, token: &str| format!("Sec-WebSocket-Protocol: {rest}{}\r\n", entry(token));
    for path in STREAMS {
        let answer = guarded.websocket(path, &offer("v4.channel.k8s.io, ", "writer")).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{path}: {answer}");
        let chosen = "\r\nSec-Websocket-Protocol: v4.channel.k8s.io\r\n";
        assert!(answer.contains(chosen) && !answer.contains("base64url"), "{answer}");
        for bad in [offer("v4.channel.k8s.io, ", "unknown"), offer("", "writer")] {
            let answer = guarded.websocket(path, &bad).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
            assert!(!answer.contains("base64url"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_lets_nobody_in() {
    let guarded = guarded(false).await;
    let told = guarded.told(&format!("POST {}", STREAMS[0]), &bearer("lost")).await;
    let text = "Authorization error (user=lost, verb=create, resource=nodes, subresource=proxy)";
    assert_eq!(told, (500, text.into()));
    assert_eq!(*guarded.memory.asked.lock().unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_refused_name_gives_no_orders_to_who_reads_the_refusal() {
    #[derive(Debug)]
    struct Evil;
    impl Authenticator for Evil {
        fn authenticate<'a>(&'a self, _: Credentials<'a>) -> Answer<'a, Option<User>> {
            Box::pin(ready(Ok(Some(User::new("jane\u{1b}]0;x\u{7}\nroot", [])))))
        }
    }
    let cluster = Arc::new(Cluster::default());
    let access = Access {
        authenticator: Arc::new(Evil),
        authorizer: cluster.clone(),
        node_name: "n1".into(),
        allow_get_streams: false,
    };
    let memory = Arc::new(Memory::default());
    let node = Node::guarded(memory.clone(), Sessions::default(), Some(access)).await;
    let guarded = Guarded { node, cluster, memory };
    let expected = "Forbidden (user=jane\u{fffd}]0;x\u{fffd} root, verb=get, resource=nodes, \
                    subresource(s)=[proxy])";
    assert_eq!(guarded.told(&format!("GET {LOG}"), "").await, (403, expected.into()));
}
