//! A runtime that streams by itself: everything is relayed to another kubelet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_io::objects;
use bowline_io::record::{Admission, Denied, Hook, Record};
use bowline_io::serve::Sessions;
use bowline_node::process::{ProcessRuntime, Settings, manifest};
use bowline_node::runtime::{
    Answer, AttachRequest, Attachment, ExecRequest, Forwarding, Log, LogRequest, OnLost, PodTarget,
    Refusal, Runtime, Served, Session, Target, Upstream,
};
use bowline_proto::relay::Tap;
use bowline_proto::session::protocol::Carrier;
use bowline_proto::session::{Event, Outcome};
use bowline_proto::{Leg, Time};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::client::{CARRIERS, attach, exec, get, refused, run, run_until_output, server, through};
use crate::memory::Memory;
use crate::node::Node;

/// Answers with URLs of another server.
#[derive(Debug)]
struct Relaying {
    /// What they begin with.
    base: String,
    carrier: Carrier,
    /// Why there are none.
    refusal: Option<Refusal>,
    /// How many were asked for.
    asked: Arc<AtomicUsize>,
    /// Told of each session that was lost.
    lost: Arc<Semaphore>,
}

impl Relaying {
    fn to(base: impl Into<String>) -> Relaying {
        let (asked, lost) = (Arc::default(), Arc::new(Semaphore::new(0)));
        Relaying { base: base.into(), carrier: Carrier::Spdy, refusal: None, asked, lost }
    }

    /// In front of another node, whose URLs have no scheme.
    fn before(node: SocketAddr) -> Relaying {
        Relaying::to(format!("//{node}"))
    }

    fn upstream<L: ?Sized>(&self, path: &str) -> Served<L> {
        let (url, carrier) = (format!("{}{path}", self.base), self.carrier);
        let (asked, lost, refusal) = (self.asked.clone(), self.lost.clone(), self.refusal.clone());
        Served::Upstream(Box::pin(async move {
            asked.fetch_add(1, Ordering::SeqCst);
            let on_lost: OnLost = Box::new(move |_| lost.add_permits(1));
            let (name, on_lost) = (Some("the runtime".to_owned()), Some(on_lost));
            let upstream = Upstream { name, carrier, on_lost, ..Upstream::spdy(url) };
            refusal.map_or(Ok(upstream), Err)
        }))
    }
}

impl Runtime for Relaying {
    fn exec<'a>(&'a self, target: &'a Target, request: ExecRequest) -> Answer<'a, Session> {
        let words: Vec<_> = request.command.iter().map(String::as_str).collect();
        let path = exec(&words).replace("/c?", &format!("/{}?", target.container));
        let session = self.upstream(&path);
        Box::pin(async move { Ok(session) })
    }

    fn attach<'a>(&'a self, _: &'a Target, request: AttachRequest) -> Answer<'a, Attachment> {
        let replay = request.replay.map(|lines| format!("&replay={lines}"));
        let session = self.upstream(&attach(&replay.unwrap_or_default()));
        Box::pin(async move { Ok(Attachment { session, replay: None }) })
    }

    fn port_forward<'a>(
        &'a self,
        target: &'a PodTarget,
        ports: &'a [u16],
    ) -> Answer<'a, Forwarding> {
        let ports: String = ports.iter().map(|port| format!("&port={port}")).collect();
        let forwarding = self.upstream(&format!("/portForward/ns/{}?{ports}", target.name));
        Box::pin(async move { Ok(forwarding) })
    }

    fn logs<'a>(&'a self, _: &'a Target, _: LogRequest) -> Answer<'a, Log> {
        Box::pin(async { Err(Refusal::new(501, "no logs")) })
    }
}

/// What is in front of a node, until it is cut.
async fn wire(to: SocketAddr, cut: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        cut.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await
    });
    address
}

/// A server that gives one answer.
async fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    address
}

async fn memory() -> Node {
    Node::start(Arc::new(Memory::default())).await
}

#[tokio::test]
async fn commands_and_attaches_pass_over_each_pair_of_carriers() {
    let behind = memory().await;
    for far in CARRIERS {
        let node =
            Node::start(Arc::new(Relaying { carrier: far, ..Relaying::before(behind.address) }));
        let node = node.await;
        for near in CARRIERS {
            let ended = run(node.address, &exec(&["exit", "7"]), near, "hello").await.unwrap();
            let said = (&*ended.stdout, &*ended.stderr, ended.end);
            assert_eq!(said, ("hello", "over", Ok(Outcome::Exited(7))), "{near:?}, {far:?}");
            let ended = run(node.address, &attach("&replay=1"), near, "!").await.unwrap();
            assert_eq!((&*ended.stdout, ended.replay), ("three\n!", Some("1".into())));
            let ended = run(node.address, &attach(""), near, "!").await.unwrap();
            assert_eq!((&*ended.stdout, ended.replay), ("!", None));
        }
    }
}

#[tokio::test]
async fn processes_can_be_behind_it() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\n\
               spec: {containers: [{name: c}]}\n";
    let objects = objects::parse(pod, "p.yaml".as_ref()).unwrap();
    let pod = manifest::pod(&objects[0]).unwrap();
    let processes = Arc::new(ProcessRuntime::start(vec![pod], Settings::default()));
    let behind = Node::start(processes.clone()).await;
    let node = Node::start(Arc::new(Relaying::before(behind.address))).await;
    for carrier in CARRIERS {
        for address in [behind.address, node.address] {
            let words = exec(&["sh", "-c", "cat; echo x >&2; exit 3"]);
            let ended = run(address, &words, carrier, "hello").await.unwrap();
            let said = (&*ended.stdout, &*ended.stderr, ended.end);
            assert_eq!(said, ("hello", "x\n", Ok(Outcome::Exited(3))));
        }
    }
    node.stop().await;
    behind.stop().await;
    processes.shut_down().await;
}

#[tokio::test]
async fn a_forward_passes_in_both_carriers() {
    let behind = memory().await;
    let node = Node::start(Arc::new(Relaying::before(behind.address))).await;
    for carrier in CARRIERS {
        let answer = through(node.address, "/portForward/ns/p", carrier, 80, "abc").await.unwrap();
        assert_eq!(answer, "cba", "{carrier:?}");
        let answer = through(node.address, "/portForward/ns/p", carrier, 81, "abc").await.unwrap();
        assert_eq!(answer, "connection reset", "{carrier:?}");
    }
}

/// The servers of runtimes speak them, by the older name.
#[tokio::test]
async fn channels_pass_as_they_are() {
    let behind = memory().await;
    let node = Node::start(Arc::new(Relaying::before(behind.address))).await;
    for (offered, chosen) in [
        (Some("v4.channel.k8s.io"), Some("v4.channel.k8s.io")),
        (Some("v5.channel.k8s.io"), Some("v5.channel.k8s.io")),
        (None, None),
    ] {
        let mut channels = vec![
            ("Connection", "Upgrade".to_owned()),
            ("Upgrade", "websocket".to_owned()),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==".to_owned()),
            ("Sec-WebSocket-Version", "13".to_owned()),
        ];
        channels.extend(offered.map(|name| ("Sec-WebSocket-Protocol", name.to_owned())));
        let answer = server(node.address).ask("/portForward/ns/p?port=80", "GET", &channels).await;
        let (head, mut connection) = answer.unwrap();
        let named = head.headers.get("Sec-WebSocket-Protocol").map(|name| name.to_str().unwrap());
        assert_eq!(named, chosen);
        // Each channel begins with the port, which comes from the runtime's server.
        let mut first = connection.early.to_vec();
        while first.len() < 10 {
            assert!(connection.stream.read_buf(&mut first).await.unwrap() > 0, "{first:x?}");
        }
        assert_eq!(first[..10], [0x82, 3, 0, 80, 0, 0x82, 3, 1, 80, 0]);
    }
}

#[tokio::test]
async fn a_refusal_of_the_upstream_is_the_answer() {
    let behind = memory().await;
    let node = Node::start(Arc::new(Relaying::before(behind.address))).await;
    for carrier in CARRIERS {
        let answer = run(node.address, "/exec/ns/p/x?command=a&output=1", carrier, "").await;
        assert_eq!(refused(answer), (409, "memory has no container x".into()));
        let answer = through(node.address, "/portForward/ns/x", carrier, 80, "").await;
        assert_eq!(refused(answer), (404, "memory has no pod x".into()));
    }
}

#[tokio::test]
async fn a_runtime_that_gives_no_url_refuses() {
    let refusal = Refusal::new(504, "context deadline exceeded");
    let relaying = Relaying { refusal: Some(refusal), ..Relaying::to("") };
    let node = Node::start(Arc::new(relaying)).await;
    let answer = run(node.address, &exec(&["a"]), Carrier::Spdy, "").await;
    assert_eq!(refused(answer), (504, "context deadline exceeded".into()));
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_a_failure() {
    let unusable = "the runtime's URL for the stream cannot be used";
    let silent = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n";
    let empty = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    let other = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: x\r\n\r\n";
    for (base, code, expected) in [
        (String::new(), 500, unusable),
        ("https://127.0.0.1:1".into(), 500, unusable),
        ("unix:///run/x".into(), 500, unusable),
        (format!("http://{silent}"), 500, "error dialing backend: the runtime: dial tcp"),
        (format!("http://{}", answering(moved).await), 500, "invalid upgrade response: status"),
        (format!("http://{}", answering(empty).await), 403, "403 Forbidden"),
        (format!("{}", answering(other).await), 500, "invalid upgrade response: invalid protocol"),
    ] {
        let node = Node::start(Arc::new(Relaying::to(&base))).await;
        let answer = run(node.address, &exec(&["a"]), Carrier::Spdy, "").await;
        let (found, text) = refused(answer);
        assert_eq!(found, code, "{base}: {text}");
        assert!(text.starts_with(expected), "{base}: {text}");
    }
}

#[tokio::test]
async fn a_runtime_whose_server_is_stuck_is_named() {
    let stuck = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", stuck.local_addr().unwrap());
    let node = Node::start(Arc::new(Relaying::to(&base))).await;
    let asked = async {
        let (socket, _) = stuck.accept().await.unwrap();
        socket.readable().await.unwrap();
        tokio::time::pause();
        socket
    };
    let path = exec(&["a"]);
    let (answer, _socket) = tokio::join!(run(node.address, &path, Carrier::Spdy, ""), asked);
    let (code, text) = refused(answer);
    let expected = "error dialing backend: the runtime: no answer within 15 s";
    assert_eq!((code, text.trim()), (500, expected));
}

#[tokio::test]
async fn nobody_is_asked_for_a_client_whose_handshake_is_bad() {
    let relaying = Relaying::to("");
    let asked = relaying.asked.clone();
    let node = Node::start(Arc::new(relaying)).await;
    assert_eq!(refused(get(node.address, &exec(&["a"])).await).0, 500);
    assert_eq!(refused(get(node.address, &attach("")).await).0, 500);
    assert_eq!(refused(get(node.address, "/portForward/ns/p").await).0, 500);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_upstream_that_is_cut_is_a_loss() {
    let behind = memory().await;
    for far in CARRIERS {
        for near in CARRIERS {
            let cut = CancellationToken::new();
            let wire = wire(behind.address, cut.clone()).await;
            let relaying = Relaying { carrier: far, ..Relaying::before(wire) };
            let lost = relaying.lost.clone();
            let node = Node::start(Arc::new(relaying)).await;
            let words = exec(&["x"]);
            let ended = run_until_output(node.address, &words, near, "hello", &cut).await.unwrap();
            let loss = ended.end.unwrap_err();
            assert!(loss.contains("node to runtime: "), "{near:?}, {far:?}: {loss}");
            assert_eq!(ended.stdout, "hello");
            lost.acquire().await.unwrap().forget();
        }
    }
}

/// What runs there would run on: a runtime hears of clients that went away, and of no others.
#[tokio::test]
async fn a_runtime_hears_of_a_client_that_went_away() {
    let behind = memory().await;
    let relaying = Relaying::before(behind.address);
    let lost = relaying.lost.clone();
    let node = Node::start(Arc::new(relaying)).await;
    run(node.address, &exec(&["x"]), Carrier::Spdy, "").await.unwrap();
    assert_eq!(lost.available_permits(), 0, "a session with an outcome is none that was lost");
    let gone = CancellationToken::new();
    let words = exec(&["x"]);
    let client = run_until_output(node.address, &words, Carrier::Spdy, "hello", &gone);
    tokio::select! {
        biased;
        ended = client => panic!("{ended:?}"),
        () = gone.cancelled() => {}
    }
    lost.acquire().await.unwrap().forget();
}

/// Sees what passes.
#[derive(Debug, Default)]
struct Recorder(Arc<AtomicUsize>);

impl Admission for Recorder {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        Ok(Box::new(Recorder(self.0.clone())))
    }
}

impl Hook for Recorder {
    fn tap(&mut self) -> Option<Box<dyn Tap + Send>> {
        Some(Box::new(Recorder(self.0.clone())))
    }
}

impl Tap for Recorder {
    fn event(&mut self, _: Time, _: Leg, event: &Event) {
        if let Event::Data(_, bytes) = event {
            self.0.fetch_add(bytes.len(), Ordering::SeqCst);
        }
    }
}

#[tokio::test]
async fn what_is_relayed_can_be_recorded() {
    let behind = memory().await;
    let recorder = Arc::new(Recorder::default());
    let sessions = Sessions::default().with(recorder.clone());
    let node = Node::with(Arc::new(Relaying::before(behind.address)), sessions).await;
    run(node.address, &exec(&["x"]), Carrier::Spdy, "hello").await.unwrap();
    let passed = "hello".len() + "hello".len() + "over".len();
    assert_eq!(recorder.0.load(Ordering::SeqCst), passed);
}

#[tokio::test]
async fn who_is_relayed_is_told_that_the_node_ends() {
    let behind = memory().await;
    for carrier in CARRIERS {
        let node = Node::start(Arc::new(Relaying::before(behind.address))).await;
        let end = node.sessions.end.clone();
        let words = exec(&["x"]);
        let ended = run_until_output(node.address, &words, carrier, "hello", &end).await.unwrap();
        let loss = ended.end.unwrap_err();
        assert!(loss.contains("the node shuts down"), "{carrier:?}: {loss}");
        node.stop().await;
    }
}
