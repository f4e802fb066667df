//! Kept sessions through a gateway: passed on unread, to whom the facts name, and refused as there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bowline_gateway::gates::Gates;
use bowline_gateway::server::Gateway;
use bowline_io::record::{Admission, Denied, Hook, Record};
use bowline_io::serve::{Limits, Sessions, serve};
use bowline_proto::relay::Tap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::{WEBSOCKET, code, upgrade};
use crate::components::start;
use crate::facts::{before, path};
use crate::kubelet::{self, Kubelet};

const KEPT: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: v1.session.bowline\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Accept: KEY\r\n\
     Sec-WebSocket-Protocol: v1.session.bowline\r\n\r\n";
const UNKNOWN: &str = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn what_is_spoken_in_one_is_passed_on_as_it_comes() {
    let mut kubelet = Kubelet::start(SWITCHED, b"hello").await;
    let gateway = start(before(&kubelet)).await;
    // To a node that takes no other WebSocket as well.
    for pod in ["new", "old"] {
        let target = path(pod, "exec?command=%40bowline&command=resume&stdout=true&stdin=true");
        let (head, mut stream) = upgrade(gateway, "GET", &target, KEPT).await;
        assert_eq!(code(&head), 101, "{head}");
        let name = "sec-websocket-protocol: v1.session.bowline\r\n";
        assert!(head.to_ascii_lowercase().contains(name), "{head}");
        let asked = kubelet.line().await;
        let expected = format!("GET /exec/ns/{pod}/c?command=%40bowline&command=resume&");
        assert!(asked.starts_with(&expected), "{asked}");
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
        stream.write_all(b"\x00no frame of anything").await.unwrap();
        let mut again = [0; 21];
        stream.read_exact(&mut again).await.unwrap();
        assert_eq!(&again, b"\x00no frame of anything");
    }
}

#[tokio::test]
async fn a_node_that_knows_none_refuses_for_itself() {
    let kubelet = Kubelet::start(UNKNOWN, b"").await;
    let gateway = start(before(&kubelet)).await;
    let target = path("new", "exec?command=x&stdout=true");
    let (head, _) = upgrade(gateway, "GET", &target, KEPT).await;
    assert_eq!(code(&head), 403);
    assert!(head.to_ascii_lowercase().contains("content-length: 0\r\n"), "{head}");
    // Nobody else is asked with it.
    let (head, _) = upgrade(gateway, "GET", &path("new", "attach?stdout=true"), KEPT).await;
    assert_eq!(code(&head), 403);
}

/// Wants to see what is said in sessions.
#[derive(Debug)]
struct Looks;

impl Admission for Looks {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        Ok(Box::new(Looks))
    }
}

impl Hook for Looks {
    fn tap(&mut self) -> Option<Box<dyn Tap + Send>> {
        Some(Box::new(()))
    }
}

async fn admitting(kubelet: &Kubelet, admission: Arc<dyn Admission>) -> SocketAddr {
    let sessions = Sessions::default().with(admission);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gateway = Gateway::new(before(kubelet), Gates::default(), sessions.clone());
    let service = move |peer, request| gateway.clone().answer(peer, request);
    tokio::spawn(serve(listener, None, Limits::default(), sessions, service));
    address
}

#[tokio::test]
async fn nobody_gets_around_those_who_look() {
    let kubelet = Kubelet::start(SWITCHED, b"").await;
    let address = admitting(&kubelet, Arc::new(Looks)).await;
    let target = path("new", "exec?command=x&stdout=true");
    let (head, _) = upgrade(address, "GET", &target, KEPT).await;
    assert_eq!(code(&head), 403, "{head}");
}

/// Writes down the words of commands.
#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<Vec<Vec<String>>>>);

impl Admission for Words {
    fn admit(&self, _: &Record) -> Result<Box<dyn Hook>, Denied> {
        Ok(Box::new(self.clone()))
    }
}

impl Hook for Words {
    fn begun(&mut self, record: &Record) {
        self.0.lock().unwrap().push(record.command.clone());
    }
}

#[tokio::test]
async fn no_record_has_the_id_of_a_session() {
    let id = "00112233445566778899aabbccddeeff";
    let question = format!("exec?command=%40bowline&command=resume&command={id}&stdout=true");
    for (answer, headers) in [(SWITCHED, KEPT), (kubelet::WEBSOCKET, WEBSOCKET)] {
        let words = Words::default();
        let kubelet = Kubelet::start(answer, b"").await;
        let address = admitting(&kubelet, Arc::new(words.clone())).await;
        for target in [&question, "exec?command=echo&command=b&command=c&stdout=true"] {
            let (head, _) = upgrade(address, "GET", &path("new", target), headers).await;
            assert_eq!(code(&head), 101, "{head}");
        }
        let expected = [&["@bowline", "resume"][..], &["echo", "b", "c"]];
        assert_eq!(*words.0.lock().unwrap(), expected);
    }
}
