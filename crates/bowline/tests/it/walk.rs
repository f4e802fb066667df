//! The walk of one byte in `ARCHITECTURE.md`, held against the code: files, names, bytes, order.

use std::future::poll_fn;
use std::path::{Path, PathBuf};

use bowline_client::Ends;
use bowline_io::drive::{ReadBuffer, WriteQueue};
use bowline_io::stream::{Stream, Upgraded};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V5};
use bowline_proto::session::{Channel, Event, Session, Side, Wants};
use bowline_proto::{Intermediary, Leg, Machine, Next, Outbox, Time, spdy, websocket};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpStream};

const TYPED: &[u8] = b"a";
const HEADING: &str = "## The walk of one byte";
/// How the byte goes from crate to crate. A way back would be a mistake in the code.
const ORDER: [&str; 9] = [
    "bowline",
    "bowline-client",
    "bowline-proto",
    "bowline-io",
    "bowline-proto",
    "bowline-io",
    "bowline-proto",
    "bowline-node",
    "bowline-io",
];
const EXEC: &str = "crates/bowline/src/remote.rs";
const OVER_WEBSOCKET: &str = "crates/bowline-proto/src/session/over_websocket.rs";
const WEBSOCKET: &str = "crates/bowline-proto/src/websocket/connection.rs";
const SPDY: &str = "crates/bowline-proto/src/spdy/connection.rs";

const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };

/// A row of the table.
#[derive(Debug)]
struct Step {
    number: usize,
    file: String,
    name: String,
    /// Where they change; else empty.
    bytes: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn walk() -> Vec<Step> {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.lines().skip_while(|line| *line != HEADING).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let steps: Vec<_> = section.filter_map(step).collect();
    assert!(!steps.is_empty(), "no table below {HEADING:?}");
    steps
}

/// `| 1 | what happens | file | name | bytes |`; other lines are none.
fn step(line: &str) -> Option<Step> {
    let cells = line.strip_prefix('|')?.strip_suffix('|')?;
    let cells: Vec<_> = cells.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
    let number = cells[0].parse().ok()?;
    let [_, _, file, name, bytes] = cells[..] else { panic!("five cells make a step: {line}") };
    Some(Step { number, file: file.into(), name: name.into(), bytes: bytes.into() })
}

#[test]
fn every_step_is_there() {
    for step in walk() {
        let source = std::fs::read_to_string(root().join(&step.file));
        let source = source.unwrap_or_else(|error| panic!("{error}: {step:?}"));
        assert!(defines(&source, &step.name), "it is not defined there: {step:?}");
    }
}

fn defines(source: &str, name: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let code = source.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    code.into_iter().any(|line| {
        ["fn ", "struct ", "enum "].iter().any(|kind| {
            let Some((before, after)) = line.split_once(&format!("{kind}{name}")) else {
                return false;
            };
            !before.ends_with(is_part) && !after.starts_with(is_part)
        })
    })
}

#[test]
fn the_steps_go_down_the_crates() {
    let steps = walk();
    let numbers: Vec<_> = steps.iter().map(|step| step.number).collect();
    assert_eq!(numbers, (1..=steps.len()).collect::<Vec<_>>());
    let mut crates: Vec<_> = steps.iter().map(|step| step.file.split('/').nth(1)).collect();
    crates.dedup();
    assert_eq!(crates, ORDER.map(Some));
}

#[tokio::test]
async fn the_bytes_are_those_of_the_machines() {
    let steps = walk();
    let told: Vec<_> = steps.iter().filter(|step| !step.bytes.is_empty()).collect();
    for seed in [1, 2] {
        let seen = seen(seed).await;
        let files: Vec<_> = told.iter().map(|step| &*step.file).collect();
        assert_eq!(files, seen.iter().map(|seen| seen.0).collect::<Vec<_>>(), "where they change");
        for (step, (_, bytes)) in told.iter().zip(seen) {
            assert!(fits(&step.bytes, &bytes), "the machines say {bytes:02x?}: {step:?}");
        }
    }
}

/// Bytes in hexadecimal; `k0` to `k3` are any, and `61^k1` is 61 masked with the one before.
fn fits(pattern: &str, bytes: &[u8]) -> bool {
    let mut keys = [None; 4];
    let tokens: Vec<_> = pattern.split(' ').collect();
    tokens.len() == bytes.len()
        && tokens.iter().zip(bytes).all(|(token, byte)| match token.split_once('k') {
            Some(("", number)) => keys[number.parse::<usize>().unwrap()].replace(*byte).is_none(),
            Some((plain, number)) => {
                let key: Option<u8> = keys[number.parse::<usize>().unwrap()];
                let plain = u8::from_str_radix(plain.trim_end_matches('^'), 16);
                key.is_some_and(|key| plain == Ok(*byte ^ key))
            }
            None => u8::from_str_radix(token, 16) == Ok(*byte),
        })
}

/// What the machines make of the byte, each time with the file that does it.
async fn seen(seed: u8) -> Vec<(&'static str, Vec<u8>)> {
    let near = near_wire(seed).await;
    let key = &near[2..6];
    let message = near[6..].iter().zip(key).map(|(byte, key)| byte ^ key).collect();
    let (far, stream, at_node) = far_wire(&near);
    assert_eq!(through_a_pipe(&at_node).await, at_node);
    assert_eq!(at_node, stream, "the last change is what the process reads");
    vec![
        (EXEC, TYPED.to_vec()),
        (OVER_WEBSOCKET, message),
        (WEBSOCKET, near.clone()),
        (WEBSOCKET, message_in_pieces(&near)),
        (OVER_WEBSOCKET, data_of(&near)),
        (SPDY, far),
        (SPDY, stream),
    ]
}

/// What the client writes to its socket when the byte is typed, as the gateway reads it.
async fn near_wire(seed: u8) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let connection = Upgraded { stream: Stream::plain(socket), early: BytesMut::new() };
    let (mut keyboard, stdin) = duplex(64);
    let session = Session::new(Side::Client, &WEBSOCKET_V5, WANTS, [seed; 32]);
    let mut ends = Ends::default();
    ends.stdin = Some(Box::new(stdin));
    let client = tokio::spawn(bowline_client::run(connection, session, ends));
    keyboard.write_all(TYPED).await.unwrap();
    let mut buffer = ReadBuffer::default();
    let read = poll_fn(|cx| buffer.poll(cx, &mut server)).await.unwrap();
    client.abort();
    read.to_vec()
}

/// The message in a client's frame.
fn message_in_pieces(wire: &[u8]) -> Vec<u8> {
    let continuation = websocket::Continuation::Join;
    let config = websocket::Config { role: websocket::Role::Server, continuation };
    let mut connection = websocket::Connection::new(config, [0; 32]);
    connection.receive(BytesMut::from(wire));
    let Some(websocket::Event::Chunk(chunk)) = connection.poll() else { panic!("no message") };
    chunk.payload.to_vec()
}

/// What a client's frame says on stdin.
fn data_of(wire: &[u8]) -> Vec<u8> {
    let mut session = Session::new(Side::Server, &WEBSOCKET_V5, WANTS, [0; 32]);
    session.receive(Time::ZERO, BytesMut::from(wire));
    stdin(&mut session)
}

/// Takes all events; gives the bytes on stdin.
fn stdin(session: &mut Session) -> Vec<u8> {
    let mut all = Vec::new();
    while let Next::Event(event) = session.poll(Time::ZERO) {
        match event {
            Event::Data(Channel::Stdin, bytes) => all.extend_from_slice(&bytes),
            event => assert_eq!(event, Event::Ready),
        }
    }
    all
}

/// What the gateway writes to the node for it, which stream data that is, and what the node's
/// session makes of it.
fn far_wire(near: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let front = Session::new(Side::Server, &WEBSOCKET_V5, WANTS, [0; 32]);
    let back = Session::new(Side::Client, &SPDY_V4, WANTS, [0; 32]);
    let mut relay = Relay::new(front, back);
    let mut node = Session::new(Side::Server, &SPDY_V4, WANTS, [0; 32]);
    let mut streams = spdy::Connection::new(spdy::Role::Server);
    // The streams are opened and answered before the gateway reads what the client types.
    pump(&mut relay);
    let opened = take(relay.outbox(Leg::Far));
    streams.receive(BytesMut::from(&opened[..]));
    while let Some(event) = streams.poll() {
        assert!(matches!(event, spdy::Event::Opened { .. }), "{event:?}");
    }
    node.receive(Time::ZERO, BytesMut::from(&opened[..]));
    assert!(!relay.wants_read(Leg::Near) && stdin(&mut node).is_empty());
    let replies = take(node.outbox());
    relay.receive(Time::ZERO, Leg::Far, BytesMut::from(&replies[..]));
    pump(&mut relay);
    assert!(relay.wants_read(Leg::Near));
    relay.receive(Time::ZERO, Leg::Near, BytesMut::from(near));
    pump(&mut relay);
    let far = take(relay.outbox(Leg::Far));
    streams.receive(BytesMut::from(&far[..]));
    let Some(spdy::Event::Data(_, bytes)) = streams.poll() else { panic!("no data") };
    node.receive(Time::ZERO, BytesMut::from(&far[..]));
    (far, bytes.to_vec(), stdin(&mut node))
}

fn pump(relay: &mut Relay) {
    let next = relay.poll(Time::ZERO);
    assert!(matches!(next, Next::Idle(_)), "{next:?}");
}

fn take(outbox: &mut Outbox) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    outbox.advance(bytes.len());
    bytes
}

/// What a process reads of what the node has for it.
async fn through_a_pipe(bytes: &[u8]) -> Vec<u8> {
    let (mut ours, mut theirs) = pipe::pipe().unwrap();
    let mut queue = WriteQueue::default();
    queue.push(bytes.to_vec().into());
    let taken = poll_fn(|cx| queue.poll_into(cx, &mut ours)).await.unwrap();
    drop(ours);
    let mut read = Vec::new();
    theirs.read_to_end(&mut read).await.unwrap();
    assert_eq!(taken, read.len());
    read
}
