//! Clients that mean harm, or cannot do better: a refusal or a close with a reason, in time and at
//! little cost; the process gets nothing that was not meant for it, and others do not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use bowline_interop::client::Input;
use bowline_interop::server::Server;

use super::{bowline, client};

/// More than any answer takes: servers wait 10 s for a head, and 30 for streams.
const DEADLINE: Duration = Duration::from_secs(45);
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: box, namespace: default}\nspec: \
                   {containers: [{name: box}]}\n";

struct Node {
    server: Server,
    _pod: tempfile::NamedTempFile,
}

impl Node {
    /// A node that can be spoken to without TLS: what it protects from is no client's bytes.
    fn start() -> Node {
        let mut pod = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        pod.write_all(POD.as_bytes()).unwrap();
        let mut node = Command::new(bowline());
        node.args(["node", "--runtime", "process", "--plain-http", "--port", "0", "-f"]);
        Node { server: Server::start(node.arg(pod.path())), _pod: pod }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends bytes and gives all that comes until the node closes.
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The node may close before it has read all of it.
        let _ = stream.write_all(bytes);
        rest(stream)
    }

    fn memory_mib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.server.id().as_raw_nonzero());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }

    /// It still serves everybody else, and has not swollen.
    fn is_well(&self) {
        let out = String::from_utf8_lossy(&self.answer(&exec("echo+fine", "v4"))).into_owned();
        assert!(out.contains("fine\n"), "{out:?}");
        assert!(self.memory_mib() < 96, "{} MiB", self.memory_mib());
    }
}

/// All that comes until the peer closes or resets.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return all,
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("no close within {DEADLINE:?}: {error}: {all:?}"),
        }
    }
}

/// A request for a WebSocket with `cat` behind it, or another command.
fn exec(command: &str, protocol: &str) -> Vec<u8> {
    let query = format!("command=sh&command=-c&command={command}&input=1&output=1&error=1");
    format!(
        "GET /exec/default/box/box?{query} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}.channel.k8s.io\r\n\r\n"
    )
    .into_bytes()
}

/// A client's frame, with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | 126];
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A frame in its shortest form, as the protocol wants it.
fn short(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn frames_that_are_wrong_close_the_session_with_a_reason() {
    let node = Node::start();
    let mut oversized = vec![0x89, 0x80 | 126];
    oversized.extend([0, 200, 0, 0, 0, 0]);
    let huge = [&[0x82, 0xff, 0x80][..], &[0; 11]].concat();
    let cases: [(&str, Vec<u8>, u16); 8] = [
        ("without a mask", vec![0x82, 1, 0], 1002),
        ("a reserved bit", short(0xc2, b"\0x"), 1002),
        ("an unknown opcode", short(0x83, b"x"), 1002),
        ("a ping that is too long", oversized, 1002),
        ("a length of 64 bits with the top one", huge, 1002),
        ("a length that is longer than it needs to be", frame(0x82, b"\0x"), 1002),
        ("a continuation of nothing", short(0x80, b"x"), 1002),
        ("a channel's end in two bytes", short(0x82, &[255, 0, 0]), 1008),
    ];
    for (what, bytes, code) in cases {
        let all = node.answer(&[exec("cat", "v5"), bytes].concat());
        let close =
            all.windows(4).rposition(|word| word[0] == 0x88 && word[2..4] == code.to_be_bytes());
        assert!(close.is_some(), "{what}: {:?}", String::from_utf8_lossy(&all));
    }
    node.is_well();
}

#[test]
fn what_is_not_meant_for_the_process_does_not_reach_it() {
    let node = Node::start();
    // Unknown channels, the server's own ones, and a second end; then real input and its end.
    let mut bytes = exec("cat", "v5");
    for payload in
        [&b"\x09evil"[..], b"\x01evil", b"\x03evil", b"\x00good", b"\xff\x00", b"\x00evil"]
    {
        bytes.extend(short(0x82, payload));
    }
    let all = String::from_utf8_lossy(&node.answer(&bytes)).into_owned();
    assert!(all.contains("\u{1}good"), "{all:?}");
    assert!(!all.contains("evil"), "{all:?}");
    assert!(all.contains("\"Success\""), "{all:?}");
    node.is_well();
}

#[test]
fn base64_that_is_none_closes_the_session() {
    let node = Node::start();
    let bytes = [exec("cat", "base64"), short(0x81, b"0!!!!")].concat();
    let all = node.answer(&bytes);
    assert!(String::from_utf8_lossy(&all).contains("not base64"), "{all:?}");
    node.is_well();
}

#[test]
fn requests_that_are_wrong_are_refused() {
    let node = Node::start();
    let text = String::from_utf8(exec("cat", "v5")).unwrap();
    let spdy = "POST /exec/default/box/box?command=cat&input=1&output=1 HTTP/1.1\r\nHost: node\r\n\
                Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
                X-Stream-Protocol-Version: v9.channel.k8s.io\r\n\r\n";
    for (request, code) in [
        (text.replace("Version: 13", "Version: 12"), 400),
        (text.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"), 400),
        (text.replace("v5.channel", "v9.channel"), 403),
        (text.replace("&output=1&error=1", "").replace("input=1", "x=1"), 400),
        (text.replace("/box/box", "/nope/box"), 404),
        // The kubelet's own code for it.
        (text.replace("Connection: Upgrade", "Connection: close"), 500),
        (spdy.to_owned(), 403),
        ("GARBAGE\r\n\r\n".to_owned(), 400),
    ] {
        let mut stream = node.connect();
        stream.write_all(request.as_bytes()).unwrap();
        // The connection stays open for another request: the first piece has the answer's head.
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        let all = String::from_utf8_lossy(&piece[..read]).into_owned();
        assert!(all.starts_with(&format!("HTTP/1.1 {code} ")), "{code}: {request}\n{all:?}");
    }
    node.is_well();
}

#[test]
fn heads_without_end_and_clients_without_haste_are_let_go() {
    let node = Node::start();
    let started = b"GET /exec/default/box/box HTTP/1.1\r\n";
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = node.connect();
            let _ = stream.write_all(started);
            while stream.write_all(b"X-More: and more and more\r\n").is_ok() {}
        });
        // Half a head, and then nothing; and nothing at all.
        scope.spawn(|| node.answer(started));
        scope.spawn(|| node.answer(b""));
        // SPDY without streams.
        scope.spawn(|| {
            let request = b"POST /exec/default/box/box?command=cat&input=1&output=1 HTTP/1.1\r\n\
                            Host: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                            X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
            let all = node.answer(request);
            assert!(all.starts_with(b"HTTP/1.1 101 "), "{all:?}");
        });
    });
    node.is_well();
}

#[test]
fn a_spdy_bomb_does_not_swell_a_node() {
    let node = Node::start();
    let mut request = b"POST /exec/default/box/box?command=cat&input=1&output=1 HTTP/1.1\r\n\
                        Host: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                        X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        .to_vec();
    let mut bomb = super::ends::bomb();
    // A client's streams have odd numbers.
    bomb[11] = 1;
    request.extend(bomb);
    let all = node.answer(&request);
    assert!(all.starts_with(b"HTTP/1.1 101 "), "{all:?}");
    node.is_well();
}

#[test]
fn a_session_beside_hostile_ones_does_not_notice() {
    let dev = Server::dev(bowline(), &[]);
    let address = dev.address();
    let left = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let mut stream = TcpStream::connect(&address).unwrap();
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    let _ = stream.write_all(&[0x16, 3, 1, 0xff, 0xff, 0, 0, 0, 1, 2, 3, 0xff]);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = rest(stream);
                }
            });
        }
        client(&dev).hashed(&["-i"], &["cat"], Input::Noise(5_000_000))
    });
    assert_eq!((left.bytes, left.status.code()), (5_000_000, Some(0)), "{left:?}");
}
