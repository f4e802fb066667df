//! The two ends of a hop: a client that sends or receives, and a node that does the other.
//!
//! Both push as hard as they can, so that what is in between never waits for them alone.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_io::clock::Clock;
use bowline_io::dial::{Endpoint, Tls, dial};
use bowline_io::drive::{Socket, SocketEvent};
use bowline_io::http::{UpgradeAnswer, lines, upgrade};
use bowline_io::random;
use bowline_io::request_target::{head, query};
use bowline_io::serve::{Limits, Peer, Reply, Sessions, body, serve, upgraded};
use bowline_io::stream::Upgraded;
use bowline_proto::negotiate::{self, Accepts, Lines, Offer};
use bowline_proto::portforward::{Event as ForwardEvent, OverSpdy};
use bowline_proto::session::protocol::FORWARD_TUNNEL;
use bowline_proto::session::{Channel, Event, Outcome, Protocol, Session, Side, Status, Wants};
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::{
    Config, Connection as WebSocket, Continuation, Event as Frame, Kind, Role,
};
use bowline_proto::{Machine, Next};
use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::fields::{ByField, Fields};

/// An end fills its queue up to this before it writes.
const QUEUE_BYTES: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Which way bulk data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Node to client.
    Down,
    /// Client to node.
    Up,
}

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub way: Way,
    /// All of it.
    pub bytes: u64,
    /// In pieces of this; each is one message or frame.
    pub piece: usize,
}

impl Job {
    /// As the query of an exec. The client's words and the node's differ only in these names.
    pub fn query(self, stdin: &str, stdout: &str) -> String {
        let Job { way, bytes, piece } = self;
        let (name, command) = match way {
            Way::Down => (stdout, "down"),
            Way::Up => (stdin, "up"),
        };
        format!("container=box&command={command}&command={bytes}&command={piece}&{name}=1")
    }

    fn of_query(query: &str) -> Option<Job> {
        let mut words = query.split('&').filter_map(|pair| pair.strip_prefix("command="));
        let way = if words.next()? == "up" { Way::Up } else { Way::Down };
        Some(Job { way, bytes: words.next()?.parse().ok()?, piece: words.next()?.parse().ok()? })
    }

    fn wants(self) -> Wants {
        let up = self.way == Way::Up;
        Wants { stdin: up, stdout: !up, stderr: false, tty: false }
    }
}

/// Serves as a kubelet whose containers are bottomless.
pub async fn node(listener: TcpListener, tls: Option<bowline_io::tls::Server>) {
    let sessions = Sessions::default();
    let service = move |_: Peer, request| answer(request);
    serve(listener, tls, Limits::default(), sessions, service).await;
}

async fn answer(request: Request<Incoming>) -> Reply {
    if request.uri().path().starts_with("/portForward/") {
        return forwarded(request);
    }
    let lines = lines(request.headers());
    let taken = Accepts { websocket_v5: true };
    let accepted = negotiate::accept(request.method().as_str(), Lines(&lines), taken);
    let (Ok(accepted), Some(job)) = (accepted, Job::of_query(query(&request))) else {
        let mut refusal = Response::new(body(Bytes::new()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return refusal;
    };
    let reply = switched(&accepted);
    let session = Session::new(Side::Server, accepted.protocol, job.wants(), random::bytes());
    tokio::spawn(async move {
        let Ok(connection) = upgraded(request).await else { return };
        // A client that sees too little says so itself.
        let _ = run(connection, session, Side::Server, job).await;
    });
    reply
}

fn switched(accepted: &negotiate::Accepted) -> Reply {
    let mut reply = Response::new(body(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in &accepted.response {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::try_from(value)) {
            reply.headers_mut().append(name, value);
        }
    }
    reply
}

/// The same for a port-forward, over SPDY: what a connection wants is its first line.
fn forwarded(request: Request<Incoming>) -> Reply {
    let accepted = {
        let lines = lines(request.headers());
        negotiate::accept_forward(request.method().as_str(), Lines(&lines))
    };
    let Ok(accepted) = accepted else {
        let mut refusal = Response::new(body(Bytes::new()));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return refusal;
    };
    let reply = switched(&accepted);
    tokio::spawn(async move {
        let Ok(connection) = upgraded(request).await else { return };
        let _ = forward_end(connection, None, None).await;
    });
    reply
}

/// Runs one transfer through a connection of a port-forward. Both ends write as Go's do: what is in
/// between has its work to do.
pub async fn forward_client(target: &Target, job: Job) -> Result<()> {
    let offer = if target.websocket { Offer::tunnel(random::bytes()) } else { Offer::forward() };
    let (connection, protocol) = ask(target, &offer).await?;
    let config = Config { role: Role::Client, continuation: Continuation::Join };
    let tunnel = (*protocol == FORWARD_TUNNEL).then(|| WebSocket::new(config, random::bytes()));
    let received = forward_end(connection, tunnel, Some(job)).await?;
    if received != job.bytes {
        bail!("{received} bytes of {}", job.bytes);
    }
    Ok(())
}

/// Plays one side of a job; gives how much went through. A client has a job, a node is told.
async fn forward_end(
    connection: Upgraded,
    tunnel: Option<WebSocket>,
    mut job: Option<Job>,
) -> Result<u64> {
    let clock = Clock::start();
    let is_client = job.is_some();
    let side = if is_client { Side::Client } else { Side::Server };
    let mut forward = OverSpdy::new(side, Wire::plain());
    let stream = match tunnel {
        None => ByField::new(connection.stream),
        Some(_) => ByField::in_messages(connection.stream),
    };
    let mut socket = Socket::new(stream, connection.early);
    let mut tunnel = tunnel.map(|websocket| (websocket, Fields::default()));
    let (mut id, mut sends, mut left, mut received) = (None, false, 0, 0);
    let mut piece = Bytes::new();
    if is_client {
        forward.connect(clock.now(), 80);
    }
    loop {
        let now = clock.now();
        match forward.poll(now) {
            Next::Event(ForwardEvent::Connected(connected)) => {
                let job = job.context("a client has a job")?;
                let verb = if job.way == Way::Up { "up" } else { "down" };
                let line = format!("{verb} {} {}", job.bytes, job.piece);
                forward.send(connected, line.into());
                (id, sends) = (Some(connected), job.way == Way::Up);
                (left, piece) = (job.bytes, vec![b'x'; job.piece].into());
            }
            Next::Event(ForwardEvent::Data(from, bytes)) if job.is_none() => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let mut words = text.split(' ');
                let up = words.next() == Some("up");
                let mut number = || words.next()?.parse::<u64>().ok();
                let (Some(bytes), Some(size)) = (number(), number()) else { bail!("{text:?}") };
                let (way, size) = (if up { Way::Up } else { Way::Down }, size as usize);
                job = Some(Job { way, bytes, piece: size });
                (id, sends) = (Some(from), !up);
                (left, piece) = (bytes, vec![b'x'; size].into());
            }
            // What was taken is not told: Go's ends do not count.
            Next::Event(ForwardEvent::Data(_, bytes)) => {
                received += bytes.len() as u64;
            }
            Next::Event(ForwardEvent::Eof(from)) => {
                // A sender has the other's end for its receipt.
                let whole = if sends { job.map_or(0, |job| job.bytes) } else { received };
                forward.finish(now, from);
                if is_client {
                    return Ok(whole);
                }
            }
            Next::Event(ForwardEvent::Lost(_)) | Next::Done if !is_client => return Ok(received),
            Next::Event(ForwardEvent::Lost(loss)) => bail!("{loss} after {received} bytes"),
            Next::Event(_) => {}
            Next::Done => bail!("over after {received} bytes"),
            Next::Idle(_) => {
                while let Some(id) = id.filter(|_| sends && left > 0)
                    && forward.unsent() < QUEUE_BYTES
                {
                    let length = left.min(piece.len() as u64);
                    forward.send(id, piece.slice(..length as usize));
                    left -= length;
                    if left == 0 {
                        forward.finish(now, id);
                    }
                }
                let outbox = match &mut tunnel {
                    None => forward.outbox(),
                    Some((websocket, fields)) => {
                        while websocket.unsent() < QUEUE_BYTES && !forward.outbox().is_empty() {
                            for mut piece in forward.outbox().take(QUEUE_BYTES) {
                                while !piece.is_empty() {
                                    let field = piece.split_to(fields.next(&piece));
                                    fields.wrote(&field);
                                    websocket.message(Kind::Binary, &[], field);
                                }
                            }
                        }
                        websocket.outbox()
                    }
                };
                match (poll_fn(|cx| socket.poll(cx, outbox, true)).await, &mut tunnel) {
                    (SocketEvent::Read(bytes), None) => forward.receive(clock.now(), bytes),
                    (SocketEvent::Read(bytes), Some((websocket, _))) => {
                        websocket.receive(bytes);
                        while let Some(Frame::Chunk(chunk)) = websocket.poll() {
                            forward.receive(clock.now(), BytesMut::from(chunk.payload));
                        }
                    }
                    (SocketEvent::Ended(_), _) => forward.receive_end(clock.now()),
                    (SocketEvent::Wrote, _) => {}
                }
            }
        }
    }
}

/// Where a client goes, and in which words it asks.
#[derive(Clone, Debug)]
pub struct Target {
    pub port: u16,
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Path and query.
    pub path: String,
    pub websocket: bool,
}

/// Runs one transfer as a client, to the Status.
pub async fn client(target: &Target, job: Job) -> Result<()> {
    let offer = if target.websocket { Offer::websocket(random::bytes()) } else { Offer::spdy() };
    let (connection, protocol) = ask(target, &offer).await?;
    let session = Session::new(Side::Client, protocol, job.wants(), random::bytes());
    let received = run(connection, session, Side::Client, job).await?;
    if job.way == Way::Down && received != job.bytes {
        bail!("{received} bytes of {}", job.bytes);
    }
    Ok(())
}

async fn ask(target: &Target, offer: &Offer) -> Result<(Upgraded, &'static Protocol)> {
    let tls = target.tls.clone().map(|config| Tls { config, server_name: None });
    let host = "127.0.0.1".to_owned();
    let endpoint = Endpoint { host, port: target.port, tls, proxy: None };
    let stream = dial(&endpoint, PATIENCE).await?;
    let mut request = head(offer.method(), "127.0.0.1", &target.path, ())?;
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer bench"));
    for (name, value) in offer.headers() {
        request.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let UpgradeAnswer::Switched { head, connection } = upgrade(stream, request, PATIENCE).await?
    else {
        bail!("no 101 at {}", target.path);
    };
    let lines = lines(&head.headers);
    let protocol = offer.check(head.status.as_u16(), Lines(&lines))?;
    Ok((connection, protocol))
}

/// Plays one side of a job; gives how much it received.
async fn run(connection: Upgraded, mut session: Session, side: Side, job: Job) -> Result<u64> {
    let clock = Clock::start();
    let mut socket = Socket::new(connection.stream, connection.early);
    let sends = (side == Side::Client) == (job.way == Way::Up);
    let channel = if side == Side::Client { Channel::Stdin } else { Channel::Stdout };
    let piece = Bytes::from(vec![b'x'; job.piece]);
    let (mut left, mut received, mut ready) = (job.bytes, 0, false);
    if side == Side::Client {
        session.begin(clock.now());
    }
    let mut ended = None;
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Ready) => ready = true,
            Next::Event(Event::Data(_, bytes)) => received += bytes.len() as u64,
            Next::Event(Event::Eof(Channel::Stdin)) if received == job.bytes => {
                session.status(clock.now(), &Status::success());
            }
            Next::Event(Event::Eof(Channel::Stdin)) => bail!("{received} bytes came"),
            Next::Event(Event::Status(outcome)) => ended = Some(outcome),
            Next::Event(Event::Lost(loss)) => bail!("{loss} after {received} bytes"),
            Next::Event(_) => {}
            Next::Done if side == Side::Server => return Ok(received),
            Next::Done => match ended.context("no Status")?.outcome() {
                Outcome::Success => return Ok(received),
                other => bail!("{other:?}"),
            },
            Next::Idle(_) => {
                while ready && sends && left > 0 && session.outbox().len() < QUEUE_BYTES {
                    let length = left.min(job.piece as u64);
                    session.send(channel, piece.slice(..length as usize));
                    left -= length;
                    match (left, side) {
                        (0, Side::Client) => session.finish(channel),
                        (0, Side::Server) => session.status(clock.now(), &Status::success()),
                        _ => {}
                    }
                }
                match poll_fn(|cx| socket.poll(cx, session.outbox(), true)).await {
                    SocketEvent::Read(bytes) => session.receive(clock.now(), bytes),
                    SocketEvent::Ended(_) => session.receive_end(clock.now()),
                    SocketEvent::Wrote => {}
                }
            }
        }
    }
}
