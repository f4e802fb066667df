//! Peers that say nothing, too little, too late or without end: on a clock that only the tests
//! move.

use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_client::{
    Cause, Client as Server, EndError, Ended, Ends, Error, Loss, Outcome, UpgradeError, run,
};
use bowline_io::access::Access;
use bowline_io::dial::Endpoint;
use bowline_io::http::HttpError;
use bowline_io::stream::Upgraded;
use bowline_proto::session::protocol::{self, Protocol};
use bowline_proto::session::{Channel, Event, Session, Side, Status, Wants};
use bowline_proto::spdy::{self, StreamId};
use bowline_proto::{Machine, Next, Time, limits};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

const CARRIERS: [&Protocol; 2] = [&protocol::WEBSOCKET_V5, &protocol::SPDY_V4];
const OUTPUT: Wants = Wants { stdin: false, stdout: true, stderr: true, tty: false };
/// What the wire holds in each direction.
const WIRE_BYTES: usize = 64 * 1024;
/// A server may take this long to answer an upgrade.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

// ---- the caller's ends ----

/// Takes output once a moment has come, and keeps it.
struct Sink {
    opens: Pin<Box<Sleep>>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.opens.as_mut().poll(cx));
        self.taken.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Ends whose stdout takes nothing for this long, and what it has taken since.
fn ends(stalled: Duration) -> (Ends, Arc<Mutex<Vec<u8>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let stdout = Sink { opens: Box::pin(sleep(stalled)), taken: taken.clone() };
    let mut ends = Ends::default();
    ends.stdout = Box::new(stdout);
    (ends, taken)
}

// ---- the peer ----

/// A server that does what its test says, and only that.
struct Peer {
    stream: DuplexStream,
    session: Session,
    ready: bool,
}

/// A client that runs, as its caller sees it.
struct Client {
    running: JoinHandle<Result<Ended, EndError>>,
    stdout: Arc<Mutex<Vec<u8>>>,
    began: Instant,
}

impl Client {
    fn start(stream: DuplexStream, protocol: &'static Protocol, stalled: Duration) -> Client {
        let (ends, stdout) = ends(stalled);
        let session = Session::new(Side::Client, protocol, OUTPUT, [1; 32]);
        let running = tokio::spawn(run(Upgraded { stream, early: BytesMut::new() }, session, ends));
        Client { running, stdout, began: Instant::now() }
    }

    /// How it ended, and that this took `expected`.
    async fn ended_after(self, expected: Duration) -> Ended {
        let ended = self.running.await.unwrap().unwrap();
        about(self.began, expected);
        ended
    }
}

/// Tokio's timers count in milliseconds.
fn about(began: Instant, expected: Duration) {
    let took = began.elapsed();
    assert!(took >= expected && took < expected + Duration::from_millis(50), "{took:?}");
}

/// A session whose streams are all there, and nothing else.
async fn set_up(protocol: &'static Protocol, stalled: Duration) -> (Peer, Client) {
    let (near, far) = tokio::io::duplex(WIRE_BYTES);
    let client = Client::start(near, protocol, stalled);
    let session = Session::new(Side::Server, protocol, OUTPUT, [2; 32]);
    let mut peer = Peer { stream: far, session, ready: false };
    peer.think();
    while !peer.ready {
        let mut bytes = BytesMut::new();
        assert_ne!(peer.stream.read_buf(&mut bytes).await.unwrap(), 0);
        peer.session.receive(Time::ZERO, bytes);
        peer.think();
    }
    peer.say().await;
    (peer, client)
}

impl Peer {
    fn think(&mut self) {
        while let Next::Event(event) = self.session.poll(Time::ZERO) {
            self.ready |= event == Event::Ready;
        }
    }

    /// Writes what its session has to say.
    async fn say(&mut self) {
        let bytes: Vec<u8> = self.session.outbox().chunks().flatten().copied().collect();
        self.session.outbox().advance(bytes.len());
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn output(&mut self, bytes: Bytes) {
        self.session.send(Channel::Stdout, bytes);
        self.say().await;
    }

    async fn status(&mut self, status: &Status) {
        self.session.status(Time::ZERO, status);
        self.say().await;
    }
}

fn exited(code: u8) -> Status {
    Status::exited(code, "")
}

/// A message of a server, by hand.
fn message(channel: Channel, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() + 1;
    let mut bytes = vec![0x82, 127];
    if len < 126 {
        bytes[1] = len as u8;
    } else if len < 0x1_0000 {
        bytes[1] = 126;
        bytes.extend((len as u16).to_be_bytes());
    } else {
        bytes.extend((len as u64).to_be_bytes());
    }
    bytes.push(channel.number());
    bytes.extend(payload);
    bytes
}

fn cause(ended: Ended) -> Cause {
    match ended {
        Ended::Lost { loss, .. } => loss.cause,
        other => panic!("a loss was taken for {other:?}"),
    }
}

// ---- silence ----

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dead_after_a_ping_and_the_patience() {
    for protocol in CARRIERS {
        // One that takes what we say, as a proxy in between may, and one that is frozen.
        for takes in [true, false] {
            let (mut peer, client) = set_up(protocol, Duration::ZERO).await;
            let mute = tokio::spawn(async move {
                if takes {
                    let _ = tokio::io::copy(&mut peer.stream, &mut tokio::io::sink()).await;
                }
                pending::<()>().await;
                drop(peer);
            });
            let expected = limits::PING_EVERY + limits::SILENCE_PATIENCE;
            assert_eq!(cause(client.ended_after(expected).await), Cause::Silent, "{protocol:?}");
            mute.abort();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_nobody_answers_are_given_up() {
    let (near, far) = tokio::io::duplex(WIRE_BYTES);
    let client = Client::start(near, &protocol::SPDY_V4, Duration::ZERO);
    let ended = client.ended_after(limits::STREAMS_PATIENCE).await;
    assert_eq!(cause(ended), Cause::Streams);
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn output_is_a_sign_of_life_where_no_pong_comes() {
    const GAP: Duration = Duration::from_secs(29);
    for protocol in CARRIERS {
        for goes_silent in [false, true] {
            let (mut peer, client) = set_up(protocol, Duration::ZERO).await;
            let stdout = client.stdout.clone();
            let chatter = tokio::spawn(async move {
                for _ in 0..20 {
                    sleep(GAP).await;
                    peer.output(Bytes::from_static(b"x")).await;
                }
                if !goes_silent {
                    peer.status(&exited(3)).await;
                }
                // Never was a ping of the client's so much as read.
                pending::<()>().await;
                drop(peer);
            });
            if goes_silent {
                let ended = client.ended_after(GAP * 20 + limits::SILENCE_PATIENCE).await;
                let Ended::Lost { loss: Loss { cause, .. }, received_bytes } = ended else {
                    panic!("{protocol:?}: {ended:?}")
                };
                assert_eq!((cause, received_bytes), (Cause::Silent, 20), "{protocol:?}");
            } else {
                let ended = client.ended_after(GAP * 20).await;
                assert_eq!(ended, Ended::Known(Outcome::Exited(3)), "{protocol:?}");
            }
            assert_eq!(*stdout.lock().unwrap(), [b'x'; 20], "{protocol:?}");
            chatter.abort();
        }
    }
}

// ---- a caller that does not read ----

/// A caller that stopped, say with ^S or in a pager, is no reason to lose anything: not the output,
/// not the Status behind it, and the server is not silent while nobody listens.
#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_for_long_loses_nothing() {
    const STALL: Duration = Duration::from_secs(75);
    const BLOCKS: usize = 100;
    // A prime number of bytes, so that a lost or repeated piece of any usual size would be seen.
    let block: Bytes =
        (0..1_000_003_u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    for protocol in CARRIERS {
        let (mut peer, client) = set_up(protocol, STALL).await;
        let stdout = client.stdout.clone();
        let sent = block.clone();
        let sending = tokio::spawn(async move {
            let began = Instant::now();
            for _ in 0..BLOCKS {
                peer.output(sent.clone()).await;
            }
            // The server felt it: not everything went into queues of ours.
            assert!(began.elapsed() >= STALL);
            peer.status(&exited(3)).await;
        });
        let ended = client.ended_after(STALL).await;
        assert_eq!(ended, Ended::Known(Outcome::Exited(3)), "{protocol:?}");
        let stdout = std::mem::take(&mut *stdout.lock().unwrap());
        assert_eq!(stdout.len(), BLOCKS * block.len(), "{protocol:?}");
        assert!(stdout.chunks(block.len()).all(|chunk| chunk == block), "{protocol:?}");
        sending.await.unwrap();
    }
}

/// A Status should come behind all output. Where output comes behind it, the server has a patience
/// to send it in, and this does not run out while it is us who do not read.
#[tokio::test(start_paused = true)]
async fn output_behind_a_status_is_not_cut_off_by_a_caller_that_does_not_read() {
    const STALL: Duration = Duration::from_secs(75);
    let output = vec![b'o'; 5_000_000];

    let (mut peer, client) = set_up(&protocol::WEBSOCKET_V5, STALL).await;
    let stdout = client.stdout.clone();
    let late = [&message(Channel::Stdout, &output)[..], &[0x88, 2, 3, 0xe8]].concat();
    let sending = tokio::spawn(async move {
        peer.stream.write_all(&message(Channel::Error, exited(3).json())).await.unwrap();
        peer.stream.write_all(&late).await.unwrap();
        peer
    });
    assert_eq!(client.ended_after(STALL).await, Ended::Known(Outcome::Exited(3)));
    assert_eq!(stdout.lock().unwrap().len(), output.len(), "over WebSocket");
    sending.await.unwrap();

    let (near, far) = tokio::io::duplex(WIRE_BYTES);
    let client = Client::start(near, &protocol::SPDY_V4, STALL);
    let stdout = client.stdout.clone();
    let sending = tokio::spawn(spdy_status_first(far, output.clone().into()));
    let ended = client.ended_after(STALL + limits::CLOSING_PATIENCE).await;
    assert_eq!(ended, Ended::Known(Outcome::Exited(3)));
    assert_eq!(stdout.lock().unwrap().len(), output.len(), "over SPDY");
    sending.await.unwrap();
}

/// The patience is for a server that says nothing more, not for one that still speaks.
#[tokio::test(start_paused = true)]
async fn output_behind_a_status_is_not_cut_off_while_it_flows() {
    const GAP: Duration = Duration::from_secs(4);

    let (mut peer, client) = set_up(&protocol::WEBSOCKET_V5, Duration::ZERO).await;
    let stdout = client.stdout.clone();
    let sending = tokio::spawn(async move {
        peer.stream.write_all(&message(Channel::Error, exited(3).json())).await.unwrap();
        for _ in 0..10 {
            sleep(GAP).await;
            peer.stream.write_all(&message(Channel::Stdout, b"x")).await.unwrap();
        }
        peer
    });
    let ended = client.ended_after(GAP * 10 + limits::CLOSING_PATIENCE).await;
    assert_eq!(ended, Ended::Known(Outcome::Exited(3)));
    assert_eq!(*stdout.lock().unwrap(), [b'x'; 10], "over WebSocket");
    sending.await.unwrap();

    let (near, far) = tokio::io::duplex(WIRE_BYTES);
    let client = Client::start(near, &protocol::SPDY_V4, Duration::ZERO);
    let stdout = client.stdout.clone();
    let sending = tokio::spawn(async move {
        let mut stream = spdy_status_first(far, Bytes::from_static(b"x")).await;
        for _ in 1..10 {
            sleep(GAP).await;
            // One byte on stream 3.
            stream.write_all(&[0, 0, 0, 3, 0, 0, 0, 1, b'x']).await.unwrap();
        }
        stream
    });
    let ended = client.ended_after(GAP * 9 + limits::CLOSING_PATIENCE).await;
    assert_eq!(ended, Ended::Known(Outcome::Exited(3)));
    assert_eq!(*stdout.lock().unwrap(), [b'x'; 10], "over SPDY");
    sending.await.unwrap();
}

/// A SPDY server that ends the error stream, with its Status, before it sends any output; it does
/// not end that.
async fn spdy_status_first(mut stream: DuplexStream, output: Bytes) -> DuplexStream {
    let mut spdy = spdy::Connection::new(spdy::Role::Server);
    let mut streams: Vec<StreamId> = Vec::new();
    // In the order in which clients open them: error, stdout, stderr.
    while streams.len() < 3 {
        let mut bytes = BytesMut::new();
        stream.read_buf(&mut bytes).await.unwrap();
        spdy.receive(bytes);
        while let Some(event) = spdy.poll() {
            if let spdy::Event::Opened { id, .. } = event {
                spdy.reply(id);
                streams.push(id);
            }
        }
    }
    spdy.send(streams[0], exited(3).json().clone());
    spdy.finish(streams[0]);
    assert_eq!(streams[1].number(), 3);
    spdy.send(streams[1], output);
    let bytes: Vec<u8> = spdy.outbox().chunks().flatten().copied().collect();
    stream.write_all(&bytes).await.unwrap();
    stream
}

// ---- ends that say less than they should ----

#[tokio::test(start_paused = true)]
async fn a_status_without_a_close_is_the_outcome() {
    let (mut peer, client) = set_up(&protocol::WEBSOCKET_V5, Duration::ZERO).await;
    peer.output(Bytes::from_static(b"all of it")).await;
    peer.stream.write_all(&message(Channel::Error, exited(3).json())).await.unwrap();
    let stdout = client.stdout.clone();
    let ended = client.ended_after(limits::CLOSING_PATIENCE).await;
    assert_eq!(ended, Ended::Known(Outcome::Exited(3)));
    assert_eq!(*stdout.lock().unwrap(), b"all of it");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn an_end_without_a_status_is_never_success() {
    let rows: [(&[u8], Cause); 4] = [
        (&[0x88, 2, 3, 0xe8], Cause::NoStatus),
        (&[0x88, 0], Cause::NoStatus),
        (&[0x88, 2, 3, 0xf3], Cause::Closed),
        (&[], Cause::Cut),
    ];
    for (goodbye, expected) in rows {
        let (mut peer, client) = set_up(&protocol::WEBSOCKET_V5, Duration::ZERO).await;
        peer.output(Bytes::from_static(b"partial")).await;
        peer.stream.write_all(goodbye).await.unwrap();
        if goodbye.is_empty() {
            peer.stream.shutdown().await.unwrap();
        }
        let stdout = client.stdout.clone();
        let ended = client.ended_after(Duration::ZERO).await;
        let Ended::Lost { loss, received_bytes } = ended else { panic!("{goodbye:x?}: {ended:?}") };
        assert_eq!((loss.cause, received_bytes), (expected, 7), "{goodbye:x?}");
        assert_eq!(*stdout.lock().unwrap(), b"partial");
        drop(peer);
    }
}

// ---- before the session: exec against a listener ----

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn request(listener: &TcpListener, websocket: bool) -> Server {
    let address = listener.local_addr().unwrap();
    let host = address.ip().to_string();
    let endpoint = Endpoint { host, port: address.port(), tls: None, proxy: None };
    let url = format!("http://{address}").parse().unwrap();
    Server::new(url, Access::fixed(endpoint, vec![]), "default").websocket(websocket)
}

async fn attempt(server: &Server) -> UpgradeError {
    match server.exec("web", ["x"]).ends(ends(Duration::ZERO).0).run().await {
        Ok(ended) => panic!("there was no session: {ended:?}"),
        Err(Error::Upgrade(error)) => error,
        Err(error) => panic!("{error}"),
    }
}

/// A connection whose request was read, and the request.
async fn accept(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "half a request");
    }
    (stream, String::from_utf8(head).unwrap())
}

/// Keeps time still until it is dropped: with real sockets, the clock must not run ahead of the
/// kernel. Tokio moves a paused clock on only while no blocking task runs.
fn hold_time() -> mpsc::Sender<()> {
    let (hold, held) = mpsc::channel();
    tokio::task::spawn_blocking(move || held.recv());
    hold
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_given_up_after_its_patience() {
    for websocket in [true, false] {
        let hold = hold_time();
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let request = request(&listener, websocket);
        let server = tokio::spawn(async move {
            let (stream, _) = accept(&listener).await;
            drop(hold);
            pending::<()>().await;
            drop((stream, listener));
        });
        let began = Instant::now();
        let error = attempt(&request).await;
        about(began, UPGRADE_PATIENCE);
        // There is no second attempt, and no second minute.
        let UpgradeError::Http(HttpError::Timeout(patience)) = error else { panic!("{error:?}") };
        assert_eq!(patience, UPGRADE_PATIENCE);
        server.abort();
    }
}

/// Answers with `head`, then `more` for as long as it is taken; gives how many bytes were.
fn flood(
    listener: TcpListener,
    head: &'static [u8],
    more: Vec<u8>,
) -> JoinHandle<(usize, TcpListener)> {
    tokio::spawn(async move {
        let (mut stream, _) = accept(&listener).await;
        stream.write_all(head).await.unwrap();
        let mut taken = head.len();
        while stream.write_all(&more).await.is_ok() {
            taken += more.len();
        }
        (taken, listener)
    })
}

/// What may lie in the kernel's buffers of a connection that nobody reads any more.
const KERNEL_BYTES: usize = 16 * 1024 * 1024;

#[tokio::test]
async fn a_head_without_end_is_an_error_and_not_read_to_its_end() {
    let rows: [(&[u8], &[u8]); 3] = [
        (b"HTTP/1.1 101 Switching Protocols\r\n", b"X-More: of it\r\n"),
        (b"HTTP/1.1 101 Switching Protocols\r\nX-Long: ", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (b"HTTP/1.1 101 ", b"very good reasons, and more of them: "),
    ];
    for (head, more) in rows {
        for websocket in [true, false] {
            let listener = TcpListener::bind(loopback()).await.unwrap();
            let request = request(&listener, websocket);
            let server = flood(listener, head, more.repeat(1000));
            let error = attempt(&request).await;
            assert!(matches!(error, UpgradeError::Http(HttpError::Malformed(_))), "{error:?}");
            let (taken, listener) = server.await.unwrap();
            assert!(taken < KERNEL_BYTES, "{taken} bytes were taken");
            assert!(is_quiet(listener), "one bad answer is enough");
        }
    }
}

#[tokio::test]
async fn a_refusal_without_end_is_cut_and_shown() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let request = request(&listener, false);
    let server = flood(listener, b"HTTP/1.1 403 Forbidden\r\n\r\n", b"no! ".repeat(10_000));
    let UpgradeError::Refused(refused) = attempt(&request).await else { panic!("it was refused") };
    assert_eq!(refused.code, 403);
    assert!(refused.message.starts_with("no! no! "));
    assert!(refused.message.len() <= limits::REASON_BYTES);
    let (taken, listener) = server.await.unwrap();
    assert!(taken < KERNEL_BYTES, "{taken} bytes were taken");
    assert!(is_quiet(listener));
}

/// Whether nobody has connected that was not accepted.
fn is_quiet(listener: TcpListener) -> bool {
    let listener: StdListener = listener.into_std().unwrap();
    match listener.accept() {
        Ok(_) => false,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// The request carries credentials for the one server that it was made for.
#[tokio::test]
async fn a_redirect_is_an_error_and_not_followed() {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let elsewhere = TcpListener::bind(loopback()).await.unwrap();
    let target = format!("http://{}/exec", elsewhere.local_addr().unwrap());
    let request = request(&listener, true);
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, head) = accept(&listener).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            requests.push(head);
        }
        (requests, listener)
    });
    let error = attempt(&request).await;
    let UpgradeError::Redirected(to) = &error else { panic!("{error:?}") };
    assert_eq!(*to, target);
    // A box that redirects what it does not know may still let SPDY through, to the same server.
    let (requests, listener) = server.await.unwrap();
    assert!(requests[0].contains("\r\nUpgrade: websocket\r\n"), "{}", requests[0]);
    assert!(requests[1].contains("\r\nUpgrade: SPDY/3.1\r\n"), "{}", requests[1]);
    assert!(is_quiet(elsewhere) && is_quiet(listener));
}
