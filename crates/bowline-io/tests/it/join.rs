//! Two connections with a relay between them.

use std::future::{pending, poll_fn};
use std::io::Write;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Socket, SocketEvent, join};
use bowline_io::stream::{Stream, Upgraded};
use bowline_proto::relay::{Ending, Relay, Tap};
use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V4};
use bowline_proto::session::{Channel, Event, Outcome, Protocol, Session, Side, Status, Wants};
use bowline_proto::{Leg, Machine, Next, Time, limits};
use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: false };
/// More than the gateway takes for a node that does not read, less than that and what the
/// kernel holds.
const MESSAGES: usize = 80;
const MESSAGE_BYTES: usize = 32 * 1024;

pub async fn wire() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (stream, listener.accept().await.unwrap().0)
}

pub fn leg(stream: TcpStream, side: Side, protocol: &'static Protocol) -> (Upgraded, Session) {
    let upgraded = Upgraded { stream: Stream::plain(stream), early: BytesMut::new() };
    (upgraded, Session::new(side, protocol, WANTS, [7; 32]))
}

/// Writes what waits, or takes what comes.
pub async fn go_on(clock: &Clock, socket: &mut Socket<Stream>, session: &mut Session) {
    match poll_fn(|cx| socket.poll(cx, session.outbox(), true)).await {
        SocketEvent::Read(bytes) => session.receive(clock.now(), bytes),
        SocketEvent::Ended(_) => session.receive_end(clock.now()),
        SocketEvent::Wrote => {}
    }
}

/// All its input, a Close, the end: what fabric8 does over v4. It asks for no answer.
fn upload(stream: TcpStream) -> std::net::TcpStream {
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    // Binary, masked with zeros, a length of 16 bits; then channel 0.
    let mut message = vec![0x82, 0xfe];
    message.extend((MESSAGE_BYTES as u16 + 1).to_be_bytes());
    message.extend([0; 5]);
    message.extend([b'x'; MESSAGE_BYTES]);
    for _ in 0..MESSAGES {
        stream.write_all(&message).unwrap();
    }
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream
}

/// A node that reads nothing more between the first input and `uploaded`; gives how much input
/// came before its end.
async fn node(stream: TcpStream, uploaded: oneshot::Receiver<()>) -> usize {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, Side::Server, &SPDY_V4);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    let (mut input, mut uploaded) = (0, Some(uploaded));
    loop {
        let now = clock.now();
        match session.poll(now) {
            Next::Event(Event::Data(Channel::Stdin, bytes)) => {
                input += bytes.len();
                if let Some(uploaded) = uploaded.take() {
                    uploaded.await.unwrap();
                }
            }
            Next::Event(Event::Eof(Channel::Stdin)) => session.status(now, &Status::success()),
            Next::Event(Event::Lost(loss)) => panic!("{loss} after {input} bytes"),
            Next::Event(_) => {}
            Next::Done => return input,
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

/// A node whose command writes more than all in between takes.
async fn talkative(stream: TcpStream) {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, Side::Server, &SPDY_V4);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Ready) => {
                session.send(Channel::Stdout, vec![b'x'; 32 * 1024 * 1024].into());
            }
            Next::Event(Event::Lost(_)) | Next::Done => return,
            Next::Event(_) => {}
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

/// A client that reads nothing between the first output and `end`. How it was lost.
async fn stalled(stream: TcpStream, end: CancellationToken) -> String {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, Side::Client, &SPDY_V4);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    session.begin(clock.now());
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Lost(loss)) => return loss.to_string(),
            Next::Event(Event::Data(..)) => end.cancelled().await,
            Next::Event(Event::Status(status)) => panic!("{status:?}"),
            Next::Event(_) => {}
            Next::Done => return "done".to_owned(),
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

/// Go's clients take a connection that ends without a word for success.
#[tokio::test(start_paused = true)]
async fn a_client_in_mid_output_is_told_that_the_gateway_ends() {
    let (client, near) = wire().await;
    let (far, behind) = wire().await;
    let near = leg(near, Side::Server, &SPDY_V4);
    let far = leg(far, Side::Client, &SPDY_V4);
    let end = CancellationToken::new();
    let relay =
        join(near.0, far.0, Relay::new(near.1, far.1), end.clone(), "the gateway shuts down");
    // The clock moves once nothing else does: then all is full.
    let ends = async {
        let _ = timeout(Duration::from_secs(1), pending::<()>()).await;
        end.cancel();
    };
    let lost = stalled(client, end.clone());
    let ((ending, _), lost, (), ()) = tokio::join!(relay, lost, talkative(behind), ends);
    assert_eq!(ending, None);
    assert!(lost.contains("the gateway shuts down"), "{lost}");
}

#[tokio::test]
async fn a_client_that_ends_stdin_by_closing_is_heard_to_its_last_word() {
    let (client, near) = wire().await;
    let (far, behind) = wire().await;
    let (done, uploaded) = oneshot::channel();
    let uploading = tokio::task::spawn_blocking(move || {
        let client = upload(client);
        done.send(()).unwrap();
        client
    });
    let near = leg(near, Side::Server, &WEBSOCKET_V4);
    let far = leg(far, Side::Client, &SPDY_V4);
    let relay = Relay::new(near.1, far.1);
    let relay = join(near.0, far.0, relay, CancellationToken::new(), "");
    let ((ending, traffic), input) = tokio::join!(relay, node(behind, uploaded));
    drop(uploading.await.unwrap());
    assert_eq!(input, MESSAGES * MESSAGE_BYTES);
    assert_eq!(ending, Some(Ending::Status(Outcome::Success)));
    assert!(traffic.from_client > input as u64 && traffic.to_client > 0, "{traffic:?}");
}

/// Has room for one event until it is given room for all.
#[derive(Debug)]
struct Recorder {
    seen: Arc<Mutex<Vec<(Leg, Event)>>>,
    full: Option<oneshot::Sender<()>>,
    room: oneshot::Receiver<()>,
}

impl Tap for Recorder {
    fn event(&mut self, _: Time, leg: Leg, event: &Event) {
        self.seen.lock().unwrap().push((leg, event.clone()));
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let has_input =
            self.seen.lock().unwrap().iter().any(|one| matches!(one.1, Event::Data(..)));
        if !has_input || self.room.is_terminated() {
            return Poll::Ready(());
        }
        if let Some(full) = self.full.take() {
            full.send(()).unwrap();
        }
        Pin::new(&mut self.room).poll(cx).map(|_| ())
    }
}

#[tokio::test]
async fn a_tap_without_room_delays_a_session_and_loses_nothing() {
    let (client, near) = wire().await;
    let (far, behind) = wire().await;
    let uploading = tokio::task::spawn_blocking(move || upload(client));
    let (done, uploaded) = oneshot::channel();
    done.send(()).unwrap();
    let near = leg(near, Side::Server, &WEBSOCKET_V4);
    let far = leg(far, Side::Client, &SPDY_V4);
    let seen = Arc::default();
    let (full, is_full) = oneshot::channel();
    let (make_room, room) = oneshot::channel();
    let tap = Recorder { seen: Arc::clone(&seen), full: Some(full), room };
    let relay = Relay::with_tap(near.1, far.1, tap);
    let relay = join(near.0, far.0, relay, CancellationToken::new(), "");
    let bytes = |seen: &Mutex<Vec<(Leg, Event)>>| -> usize {
        let seen = seen.lock().unwrap();
        let sizes = seen.iter().map(|one| match one {
            (Leg::Near, Event::Data(Channel::Stdin, bytes)) => bytes.len(),
            _ => 0,
        });
        sizes.sum()
    };
    let gives_room = async {
        is_full.await.unwrap();
        // All that can be read is at most one read.
        assert!(bytes(&seen) <= 1024 * 1024);
        make_room.send(()).unwrap();
    };
    let ((ending, _), input, ()) = tokio::join!(relay, node(behind, uploaded), gives_room);
    drop(uploading.await.unwrap());
    assert_eq!(input, MESSAGES * MESSAGE_BYTES);
    assert_eq!(ending, Some(Ending::Status(Outcome::Success)));
    assert_eq!(bytes(&seen), input);
    let seen = seen.lock().unwrap();
    let is = |leg: Leg, event: &Event| seen.iter().any(|one| one.0 == leg && one.1 == *event);
    assert!(is(Leg::Near, &Event::Eof(Channel::Stdin)));
    assert!(matches!(seen.last(), Some((Leg::Far, Event::Status(_)))), "{:?}", seen.last());
}

/// Has no room before this.
struct Late(Pin<Box<Sleep>>);

impl Tap for Late {
    fn event(&mut self, _: Time, _: Leg, _: &Event) {}

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is_elapsed() { Poll::Ready(()) } else { self.0.as_mut().poll(cx) }
    }
}

/// A session's end whose loop is given: it asks for nothing, or answers with success.
async fn plays(stream: TcpStream, side: Side) -> String {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, side, &SPDY_V4);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    session.begin(clock.now());
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Ready) if side == Side::Server => {
                session.status(clock.now(), &Status::success());
            }
            Next::Event(Event::Lost(loss)) => return loss.to_string(),
            Next::Event(Event::Status(status)) => return format!("{:?}", status.outcome()),
            Next::Event(_) => {}
            Next::Done => return "done".to_owned(),
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

/// Setting up has a deadline, and is not the tap's to hold up.
#[tokio::test(start_paused = true)]
async fn a_tap_that_has_no_room_at_first_ends_no_session() {
    let (client, near) = wire().await;
    let (far, behind) = wire().await;
    let near = leg(near, Side::Server, &SPDY_V4);
    let far = leg(far, Side::Client, &SPDY_V4);
    let late = Late(Box::pin(sleep(2 * limits::STREAMS_PATIENCE)));
    let relay = Relay::with_tap(near.1, far.1, late);
    let relay = join(near.0, far.0, relay, CancellationToken::new(), "");
    let (client, node) = (plays(client, Side::Client), plays(behind, Side::Server));
    let ((ending, _), told, _) = tokio::join!(relay, client, node);
    assert_eq!(told, "Success");
    assert_eq!(ending, Some(Ending::Status(Outcome::Success)));
}
