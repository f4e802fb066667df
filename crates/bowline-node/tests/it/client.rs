//! Requests to what came of them: an answer, a session's outcome and output, a forward.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::dial::{Demands, Endpoint};
use bowline_io::drive::{Socket, SocketEvent};
use bowline_io::forward::{ForwardDriver, ForwardEvent};
use bowline_io::random;
use bowline_io::stream::Upgraded;
use bowline_io::upstream::{Switched, UPGRADE_PATIENCE, Upstream, UpstreamError};
use bowline_proto::negotiate::Offer;
use bowline_proto::portforward::{Forward, OverSpdy};
use bowline_proto::session::protocol::{Carrier, FORWARD_TUNNEL};
use bowline_proto::session::{Channel, Event, Outcome, Session, Side, Wants};
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub const CARRIERS: [Carrier; 2] = [Carrier::WebSocket, Carrier::Spdy];
/// Of all requests here: everything but a terminal.
pub const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const CHANNELS: &str = "input=1&output=1&error=1";

/// What came of a session. What it ended with is an outcome, or how it was lost.
#[derive(Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub end: Result<Outcome, String>,
    /// The header that says how many lines come first.
    pub replay: Option<String>,
}

pub fn server(address: SocketAddr) -> Upstream {
    let host = address.ip().to_string();
    let endpoint = Endpoint { host, port: address.port(), tls: None, proxy: None };
    Upstream { endpoint, demands: Demands::default(), agent: "test", patience: UPGRADE_PATIENCE }
}

/// The path of an exec of some words.
pub fn exec(words: &[&str]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(words.iter().map(|word| ("command", word)));
    format!("/exec/ns/p/c?{}&{CHANNELS}", query.finish())
}

/// The path of an attach.
pub fn attach(more: &str) -> String {
    format!("/attach/ns/p/c?{CHANNELS}{more}")
}

fn offer(carrier: Carrier) -> Offer {
    match carrier {
        Carrier::WebSocket => Offer::websocket(random::bytes()),
        Carrier::Spdy => Offer::spdy(),
    }
}

/// Code and text of a refusal.
pub fn refused<T: std::fmt::Debug>(answer: Result<T, UpstreamError>) -> (u16, String) {
    match answer.unwrap_err() {
        UpstreamError::Refused(said) => (said.head.status.as_u16(), said.text()),
        other => panic!("{other}"),
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Result<String, UpstreamError> {
    let answer = server(address).get(path, Duration::from_secs(30)).await?;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

/// Runs a session that is given `stdin` and then its end.
pub async fn run(
    address: SocketAddr,
    path: &str,
    carrier: Carrier,
    stdin: &'static str,
) -> Result<Ended, UpstreamError> {
    let switched = server(address).upgrade(path, &offer(carrier)).await?;
    Ok(session(switched, stdin, true, &CancellationToken::new()).await)
}

/// The same, but its input does not end. `cut` is told at the first output.
pub async fn run_until_output(
    address: SocketAddr,
    path: &str,
    carrier: Carrier,
    stdin: &'static str,
    cut: &CancellationToken,
) -> Result<Ended, UpstreamError> {
    let switched = server(address).upgrade(path, &offer(carrier)).await?;
    Ok(session(switched, stdin, false, cut).await)
}

async fn session(
    switched: Switched,
    stdin: &'static str,
    is_all: bool,
    cut: &CancellationToken,
) -> Ended {
    let replay = switched.head.headers.get("bowline-replay");
    let replay = replay.map(|value| value.to_str().unwrap().to_owned());
    let clock = Clock::start();
    let Upgraded { stream, early } = switched.connection;
    let mut socket = Socket::new(stream, early);
    let mut session = Session::new(Side::Client, switched.protocol, WANTS, random::bytes());
    session.begin(clock.now());
    let mut output = [String::new(), String::new()];
    let mut end = None;
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Ready) => {
                session.send(Channel::Stdin, stdin.into());
                if is_all {
                    session.finish(Channel::Stdin);
                }
            }
            Next::Event(Event::Data(channel, bytes)) => {
                let text = std::str::from_utf8(&bytes).unwrap();
                output[usize::from(channel == Channel::Stderr)].push_str(text);
                cut.cancel();
            }
            Next::Event(Event::Status(status)) => end = Some(Ok(status.outcome().clone())),
            Next::Event(Event::Lost(loss)) => end = Some(Err(loss.to_string())),
            Next::Event(_) => {}
            Next::Done => break,
            Next::Idle(_) => match poll_fn(|cx| socket.poll(cx, session.outbox(), true)).await {
                SocketEvent::Read(bytes) => session.receive(clock.now(), bytes),
                SocketEvent::Ended(_) => session.receive_end(clock.now()),
                SocketEvent::Wrote => {}
            },
        }
    }
    let [stdout, stderr] = output;
    Ended { stdout, stderr, end: end.expect("an end"), replay }
}

/// What a port answers to `said` and its end, through a forward; or why it cannot be reached.
pub async fn through(
    address: SocketAddr,
    path: &str,
    carrier: Carrier,
    port: u16,
    said: &'static str,
) -> Result<String, UpstreamError> {
    let offer = match carrier {
        Carrier::WebSocket => Offer::tunnel(random::bytes()),
        Carrier::Spdy => Offer::forward(),
    };
    let Switched { connection, protocol, .. } = server(address).upgrade(path, &offer).await?;
    let wire = if *protocol == FORWARD_TUNNEL {
        Wire::tunnel(Role::Client, random::bytes())
    } else {
        Wire::plain()
    };
    let mut pump = ForwardDriver::new(Forward::Spdy(OverSpdy::new(Side::Client, wire)), connection);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    pump.connect(port, theirs).unwrap();
    let talk = async {
        ours.write_all(said.as_bytes()).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut answer = String::new();
        match ours.read_to_string(&mut answer).await {
            Ok(_) => answer,
            Err(error) => format!("{answer}{}", error.kind()),
        }
    };
    let happens = async {
        loop {
            match pump.next().await {
                Some(ForwardEvent::Lost(loss)) => break loss.to_string(),
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    Ok(tokio::select! {
        answer = talk => answer,
        lost = happens => lost,
    })
}
