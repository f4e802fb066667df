//! The URLs of the socket in front of a runtime's: misused, as at the runtime itself, and used by
//! crictl.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;

use bowline_interop::client::{Input, PATIENCE, left_within};
use bowline_interop::grpc::Connection;
use bowline_interop::server::until;

use crate::cri_face::{Pod, RESOURCE_EXHAUSTED, SOON, alone, both, method, streams};

/// How many URLs of streams may wait to be used, here and in containerd.
const WAITING: usize = 1000;

/// An answer of a streaming server's: its status and its text.
type Refused = (u16, String);

/// What a request for a stream says over SPDY, of whatever kind it is.
const SPDY: &str = "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                    X-Stream-Protocol-Version: portforward.k8s.io\r\n";
/// The same over WebSocket.
const WEBSOCKET: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                         Sec-WebSocket-Protocol: v5.channel.k8s.io, \
                         SPDY/3.1+portforward.k8s.io\r\n";

/// Begins a stream, as a kubelet does over SPDY.
pub fn begin(url: &str) -> Refused {
    begin_by("POST", url, SPDY)
}

/// Begins a stream, as newer clients do: over WebSocket v5, or as a tunnel.
pub fn begin_websocket(url: &str) -> Refused {
    begin_by("GET", url, WEBSOCKET)
}

fn begin_by(method: &str, url: &str, lines: &str) -> Refused {
    let (_, rest) = url.split_once("://").unwrap();
    let (address, path) = rest.split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n{lines}\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(socket);
    let (mut status, mut line, mut length) = (0, String::new(), 0);
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "{url}: no whole answer");
        if status == 0 {
            status = line.split(' ').nth(1).unwrap().parse().unwrap();
        }
        if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = rest.trim().parse().unwrap();
        }
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).unwrap();
    (status, String::from_utf8(text).unwrap())
}

#[test]
fn a_misused_url_is_refused_as_by_the_runtime() {
    let cluster = alone();
    let pod = Pod::run(&cluster, "misused", &["sleep", "2147483647"]);
    let ours = streams(&cluster);
    let [straight, through] = both(&cluster).map(|endpoint| {
        let mut connection = Connection::open(&endpoint, "localhost");
        let mut url = |name: &str, message: &[u8]| connection.call(&method(name), message).url();
        let exec = url("Exec", &pod.exec());
        assert_eq!(exec.starts_with(&ours), endpoint.ends_with("face.sock"), "{exec}");
        let mut answers = vec![begin(&exec).0.to_string()];
        let mut refused = |url: &str| {
            let (status, text) = begin(url);
            answers.push(format!("{status} {text}"));
        };
        refused(&exec);
        let (base, _) = exec.rsplit_once('/').unwrap();
        refused(&format!("{base}/AAAAAAAA"));
        // Of another kind: then it is used all the same.
        for (asked, name, message) in [
            ("exec", "Exec", pod.exec()),
            ("attach", "Attach", pod.attach()),
            ("portforward", "PortForward", pod.forward()),
        ] {
            for other in ["exec", "attach", "portforward"].iter().filter(|kind| **kind != asked) {
                let url = url(name, &message);
                refused(&url.replace(&format!("/{asked}/"), &format!("/{other}/")));
                refused(&url);
            }
        }
        answers
    });
    println!("{through:#?}");
    assert_eq!(straight, through);
    assert_eq!(through[0], "101");
    assert!(through[1..].iter().all(|answer| answer == "404 404 page not found\n"));
}

#[test]
fn the_thousand_and_first_url_is_the_runtimes_to_refuse() {
    let cluster = alone();
    let pod = Pod::run(&cluster, "many", &["sleep", "2147483647"]);
    let [straight, through] = both(&cluster);
    let mut connection = Connection::open(&through, "localhost");
    let ours = streams(&cluster);
    let mut first = None;
    for number in 0..WAITING {
        let url = connection.call(&method("Exec"), &pod.exec()).url();
        assert!(url.starts_with(&ours), "{number}: {url}");
        first.get_or_insert(url);
    }
    let refused = connection.call(&method("Exec"), &pod.exec()).status().unwrap();
    println!("{refused:?}");
    assert!(refused.1.ends_with("maximum number of in-flight requests exceeded"), "{refused:?}");
    let mut alone = Connection::open(&straight, "localhost");
    assert_eq!(alone.call(&method("Exec"), &pod.exec()).status().unwrap(), refused);
    assert_eq!(refused.0, RESOURCE_EXHAUSTED);
    // One is used, and there is room for one.
    assert_eq!(begin(&first.unwrap()).0, 101);
    let mut url = None;
    until("the runtime has room again", SOON, || {
        let answer = connection.call(&method("Exec"), &pod.exec());
        let has_room = answer.status().unwrap().0 == "0";
        url = has_room.then(|| answer.url());
        has_room
    });
    assert!(url.unwrap().starts_with(&ours));
}

/// crictl's own clients over both of its transports.
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

#[test]
fn crictl_streams_over_both_transports() {
    let cluster = alone();
    let served = "mkdir /w; echo served > /w/x; httpd -p 8080 -h /w; while read -r what; do \
                  echo \"heard $what\"; done";
    let pod = Pod::run(&cluster, "served", &["sh", "-c", served]);
    let [_, face] = both(&cluster);
    let crictl = |words: &[&str]| {
        let mut crictl = cluster.crictl(&face);
        crictl.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        crictl.spawn().unwrap()
    };
    for transport in TRANSPORTS {
        let script = "echo out; echo err >&2; exit 7";
        let exec = crictl(&["exec", "-r", transport, &pod.container, "sh", "-c", script]);
        let left = left_within(PATIENCE, exec, Input::Nothing, true).unwrap();
        assert_eq!(left.stdout, b"out\n", "{transport}: {left:?}");
        assert!(left.stderr.starts_with("err\n"), "{transport}: {left:?}");
        // crictl has one code for all that fails.
        assert_ne!(left.status.code(), Some(0), "{transport}: {left:?}");
        let exec = crictl(&["exec", "-i", "-r", transport, &pod.container, "wc", "-c"]);
        let left = left_within(PATIENCE, exec, Input::Noise(3_000_000), true).unwrap();
        assert_eq!(left.stdout, b"3000000\n", "{transport}: {left:?}");
        assert!(left.status.success(), "{transport}: {left:?}");

        let mut attach = crictl(&["attach", "-i", "-r", transport, &pod.container]);
        let mut stdin = attach.stdin.take().unwrap();
        let mut lines = BufReader::new(attach.stdout.take().unwrap()).lines();
        stdin.write_all(format!("{transport}\n").as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), format!("heard {transport}"));
        end(attach);

        let mut forward = crictl(&["port-forward", "-r", transport, &pod.sandbox, ":8080"]);
        let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let rest = line.split("127.0.0.1:").nth(1).unwrap_or_else(|| panic!("{line}"));
        let port: u16 = rest.split(' ').next().unwrap().parse().unwrap();
        thread::spawn(move || lines.for_each(drop));
        for _ in 0..3 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(b"GET /x HTTP/1.0\r\n\r\n").unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).unwrap();
            assert!(text.ends_with("served\n"), "{transport}: {text}");
        }
        end(forward);
    }
    // Each of them was ours: the log names what it came as.
    let log = fs::read_to_string(cluster.path("log/face.log")).unwrap();
    for near in ["near=\"WebSocket v5.channel.k8s.io\"", "near=\"SPDY"] {
        assert!(log.contains(near), "no {near} in the log");
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    child.wait().unwrap();
}
