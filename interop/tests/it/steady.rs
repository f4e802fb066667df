//! Requests that are no streams, one after another over many connections, of which none may fail:
//! what goes on while gateways end and others begin.
//!
//! Nothing is asked twice here, as most clients would: a connection that ends in place of an answer
//! is a fault.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bowline_interop::client::PATIENCE;
use bowline_interop::server::until;
use bowline_io::tls::{self, Trust};
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use http::Request;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::parts::part;

/// Between the requests of one connection: constant, and not all that the machine has.
const PACE: Duration = Duration::from_millis(10);
const KEPT: usize = 4;
const OVER_HTTP2: usize = 2;
const WATCHES: usize = 4;
/// What has no body, and what must not be sent twice.
const GET: &str = "/api/v1/namespaces/default/pods?limit=5";
const POST: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const REVIEW: &str = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview",
"spec":{"resourceAttributes":{"verb":"get","resource":"pods","namespace":"default"}}}"#;
const WATCHED: &str = "/api/v1/namespaces/default/configmaps";
const LAST: u64 = u64::MAX >> 12;

/// An API server, or what stands before it, and who asks.
#[derive(Clone, Debug)]
pub struct Door {
    pub address: String,
    pub token: String,
    pub kubeconfig: String,
}

/// The kinds of requests.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Kept,
    OverHttp2,
    Watch,
    Kubectl,
}

/// What came of them.
#[derive(Debug, Default)]
struct Found {
    answered: [AtomicU64; 4],
    connections: AtomicU64,
    faults: Mutex<Vec<String>>,
    /// The last change that each watch has shown.
    seen: [AtomicU64; WATCHES],
}

impl Found {
    fn answered(&self, kind: Kind) {
        self.answered[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; 4] {
        self.answered.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn is_faultless(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }
}

/// A constant load, until it [ends](Steady::ends).
pub struct Steady {
    found: Arc<Found>,
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// Begins it at one door; what is watched is changed at the other.
    pub fn begin(through: &Door, direct: &Door) -> Steady {
        let found = Arc::new(Found::default());
        let mut steady = Steady { found, stops: Vec::new(), threads: Vec::new() };
        for _ in 0..KEPT {
            steady.run(through, kept);
        }
        for _ in 0..OVER_HTTP2 {
            steady.run(through, |door, found, stop| {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build().unwrap().block_on(over_http2(door, found, stop))
            });
        }
        steady.run(through, kubectl);
        create_watched(direct);
        for index in 0..WATCHES {
            steady.run(through, move |door, found, _| watch(door, found, index));
        }
        steady.run(direct, change);
        steady.goes_on();
        steady
    }

    fn run(
        &mut self,
        door: &Door,
        load: impl Fn(&Door, &Found, &Receiver<()>) -> Result<(), String> + Send + 'static,
    ) {
        let (door, found, (stop, stopped)) = (door.clone(), self.found.clone(), channel());
        self.stops.push(stop);
        self.threads.push(thread::spawn(move || {
            if let Err(fault) = load(&door, &found, &stopped) {
                found.faults.lock().unwrap().push(fault);
            }
        }));
    }

    /// Waits until each kind was answered a few times more.
    pub fn goes_on(&self) {
        let before = self.found.counts();
        until(&format!("more than {before:?} are answered"), PATIENCE, || {
            let more = self.found.counts();
            !self.found.is_faultless() || more.iter().zip(before).all(|(now, then)| *now > then + 2)
        });
        self.is_faultless();
    }

    fn is_faultless(&self) {
        let faults = self.found.faults.lock().unwrap();
        assert!(faults.is_empty(), "of {:?}: {faults:#?}", self.found.counts());
    }

    /// Ends it: nothing has failed.
    pub fn ends(mut self) {
        self.goes_on();
        self.stops.clear();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        self.is_faultless();
        let counts = self.found.counts();
        let connections = self.found.connections.load(Ordering::Relaxed);
        println!("kept, HTTP/2, watched, kubectl: {counts:?} over {connections} connections");
    }
}

/// Whether the load goes on, after a pause.
fn goes_on(stop: &Receiver<()>) -> bool {
    stop.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout)
}

/// A connection of HTTP/1.1.
struct Kept<'a> {
    door: &'a Door,
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

/// The head of an answer.
#[derive(Debug, Default)]
struct Head {
    code: String,
    length: usize,
    is_chunked: bool,
    closes: bool,
}

impl Kept<'_> {
    fn open<'a>(door: &'a Door, found: &Found) -> Result<Kept<'a>, String> {
        let tcp = TcpStream::connect(&door.address).map_err(|error| format!("dial: {error}"))?;
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = tls::client(&Trust::Anybody, None).unwrap();
        let session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        found.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Kept { door, stream: BufReader::new(StreamOwned::new(session, tcp)) })
    }

    fn ask(&mut self, what: &str, body: &str, media: &str) -> Result<Head, String> {
        let (Door { address, token, .. }, length) = (self.door, body.len());
        let request = format!(
            "{what} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/{media}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        sent.map_err(|error| format!("{what}: not sent: {error}"))?;
        self.head().map_err(|error| format!("{what}: no answer: {error}"))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line)?;
        if read == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(line) }
    }

    fn head(&mut self) -> std::io::Result<Head> {
        let first = self.line()?;
        let code = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut head = Head { code, ..Head::default() };
        loop {
            let line = self.line()?.trim_end().to_lowercase();
            match line.split_once(": ") {
                None => return Ok(head),
                Some(("content-length", length)) => head.length = length.parse().unwrap(),
                Some(("transfer-encoding", "chunked")) => head.is_chunked = true,
                Some(("connection", "close")) => head.closes = true,
                Some(_) => {}
            }
        }
    }

    /// The next piece of a body; `None` at its good end.
    fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(self.line()?.trim_end(), 16).unwrap();
        let mut piece = vec![0; size + 2];
        self.stream.read_exact(&mut piece)?;
        piece.truncate(size);
        Ok((size > 0).then_some(piece))
    }

    fn body(&mut self, head: &Head) -> std::io::Result<Vec<u8>> {
        let mut body = vec![0; head.length];
        self.stream.read_exact(&mut body)?;
        while head.is_chunked
            && let Some(piece) = self.chunk()?
        {
            body.extend(piece);
        }
        Ok(body)
    }

    /// A request that is answered as a whole; gives the answer, and whether the connection ends.
    fn asks(&mut self, what: &str, body: &str, media: &str) -> Result<(Vec<u8>, bool), String> {
        let head = self.ask(what, body, media)?;
        let body = self.body(&head).map_err(|error| format!("{what}: cut: {error}"))?;
        if matches!(&*head.code, "200" | "201") {
            return Ok((body, head.closes));
        }
        Err(format!("{what}: {}: {}", head.code, String::from_utf8_lossy(&body)))
    }
}

fn kept(door: &Door, found: &Found, stop: &Receiver<()>) -> Result<(), String> {
    let mut connection: Option<Kept<'_>> = None;
    for what in [format!("GET {GET}"), format!("POST {POST}")].iter().cycle() {
        if !goes_on(stop) {
            break;
        }
        let mut kept = match connection.take() {
            Some(kept) => kept,
            None => Kept::open(door, found)?,
        };
        let body = if what.starts_with("POST") { REVIEW } else { "" };
        let (_, closes) =
            kept.asks(what, body, "json").map_err(|fault| format!("kept: {fault}"))?;
        found.answered(Kind::Kept);
        connection = (!closes).then_some(kept);
    }
    Ok(())
}

async fn over_http2(door: &Door, found: &Found, stop: &Receiver<()>) -> Result<(), String> {
    let fault = |error: &dyn std::fmt::Display| format!("HTTP/2: {error}");
    let mut connection = http2(door, found).await.map_err(|error| fault(&error))?;
    while goes_on(stop) {
        // It learns here that it is to go elsewhere.
        tokio::task::yield_now().await;
        connection = match connection.ready().await {
            Ok(connection) => connection,
            Err(_) => http2(door, found).await.map_err(|error| fault(&error))?,
        };
        for (method, path, body) in [("GET", GET, ""), ("POST", POST, REVIEW)] {
            let request = Request::builder()
                .method(method)
                .uri(format!("https://localhost{path}"))
                .header("authorization", format!("Bearer {}", door.token))
                .header("content-type", "application/json");
            let request = request.body(()).unwrap();
            let Ok((answer, mut sender)) = connection.send_request(request, body.is_empty()) else {
                break;
            };
            if !body.is_empty() {
                sender.send_data(body.into(), true).map_err(|error| fault(&error))?;
            }
            let answer = match answer.await {
                // It was not begun there, and is asked elsewhere: a client may not have heard of
                // the end when it has asked (RFC 9113, 6.8).
                Err(error) if error.is_go_away() && error.reason() == Some(Reason::NO_ERROR) => {
                    break;
                }
                answer => answer.map_err(|error| fault(&error))?,
            };
            let (status, mut body, mut text) = (answer.status(), answer.into_body(), Vec::new());
            while let Some(piece) = body.data().await {
                let piece = piece.map_err(|error| fault(&error))?;
                body.flow_control().release_capacity(piece.len()).unwrap();
                text.extend_from_slice(&piece);
            }
            if !status.is_success() {
                return Err(format!("HTTP/2: {status}: {}", String::from_utf8_lossy(&text)));
            }
            found.answered(Kind::OverHttp2);
        }
    }
    Ok(())
}

async fn http2(door: &Door, found: &Found) -> std::io::Result<SendRequest<Bytes>> {
    let mut config = Arc::unwrap_or_clone(tls::client(&Trust::Anybody, None).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = tokio::net::TcpStream::connect(&door.address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect("localhost".try_into().unwrap(), tcp).await?;
    found.connections.fetch_add(1, Ordering::Relaxed);
    let (requests, connection) = h2::client::handshake(tls).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(requests)
}

/// A process and a connection for each request.
fn kubectl(door: &Door, found: &Found, stop: &Receiver<()>) -> Result<(), String> {
    while goes_on(stop) {
        let mut kubectl = Command::new(part("kubectl/1.37/kubectl"));
        kubectl.arg("--kubeconfig").arg(&door.kubeconfig).args(["get", "pod", "box"]);
        let output = kubectl.stdin(Stdio::null()).output().unwrap();
        if !output.status.success() {
            return Err(format!("kubectl: {}", String::from_utf8_lossy(&output.stderr)));
        }
        found.answered(Kind::Kubectl);
    }
    Ok(())
}

fn watched(n: u64) -> String {
    let data = format!(r#"{{"n":"{n}"}}"#);
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"steady"}},"data":{data}}}"#
    )
}

fn create_watched(direct: &Door) {
    let mut kept = Kept::open(direct, &Found::default()).unwrap();
    let apply = format!("PATCH {WATCHED}/steady?fieldManager=steady&force=true");
    kept.asks(&apply, &watched(0), "apply-patch+yaml").unwrap();
}

/// Changes what is watched, each time once every watch has shown the change before.
fn change(direct: &Door, found: &Found, stop: &Receiver<()>) -> Result<(), String> {
    let mut kept = Kept::open(direct, found)?;
    let patch = format!("PATCH {WATCHED}/steady");
    for n in 1.. {
        while goes_on(stop)
            && found.seen.iter().any(|seen| seen.load(Ordering::Relaxed) != n - 1)
            && found.is_faultless()
        {}
        let ends = stop.recv_timeout(PACE) != Err(RecvTimeoutError::Timeout);
        let ends = ends || !found.is_faultless();
        kept.asks(&patch, &watched(if ends { LAST } else { n }), "merge-patch+json")?;
        if ends {
            break;
        }
    }
    Ok(())
}

/// Watches, and watches on from where a watch has come to its good end.
fn watch(door: &Door, found: &Found, index: usize) -> Result<(), String> {
    let get = format!("GET {WATCHED}/steady");
    let (object, _) = Kept::open(door, found)?.asks(&get, "", "json")?;
    let (mut n, mut version) = read(&serde_json::from_slice(&object).unwrap());
    found.seen[index].store(n, Ordering::Relaxed);
    loop {
        let which = format!("fieldSelector=metadata.name%3Dsteady&resourceVersion={version}");
        let watch = format!("GET {WATCHED}?watch=true&{which}");
        let mut kept = Kept::open(door, found)?;
        let head = kept.ask(&watch, "", "json")?;
        if head.code != "200" || !head.is_chunked {
            return Err(format!("watch: {head:?}"));
        }
        let mut text = Vec::new();
        while let Some(piece) = kept.chunk().map_err(|error| format!("watch: cut: {error}"))? {
            text.extend(piece);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let event: Value = serde_json::from_slice(&text[..end]).unwrap();
                text.drain(..=end);
                if event["type"] != "MODIFIED" {
                    return Err(format!("watch: {event}"));
                }
                let before = n;
                (n, version) = read(&event["object"]);
                if n == LAST {
                    return Ok(());
                }
                if n != before + 1 {
                    return Err(format!("watch: {n} comes after {before}"));
                }
                found.seen[index].store(n, Ordering::Relaxed);
                found.answered(Kind::Watch);
            }
        }
        if !text.is_empty() {
            return Err(format!("watch: ends with {}", String::from_utf8_lossy(&text)));
        }
    }
}

fn read(object: &Value) -> (u64, String) {
    let n = object["data"]["n"].as_str().unwrap_or_default();
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    (n.parse().unwrap(), version.to_owned())
}
