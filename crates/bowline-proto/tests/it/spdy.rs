//! A SPDY connection against captured bytes, hostile bytes, and another one, cut anywhere.

mod pair;

use bowline_proto::spdy::{Closed, Connection, Event, Fault, Role, StreamId};
use bowline_proto::{Outbox, limits};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use zlib_rs::{Deflate, DeflateFlush};

use crate::wire::vector;

const GO_CLIENT: &str = include_str!("../vectors/spdystream-client.hex");
const GO_SERVER: &str = include_str!("../vectors/spdystream-server.hex");
const GO_STDIN_FIRST: &str = include_str!("../vectors/spdystream-stdin-first.hex");
const ZLIB_BLOCKS: &str = include_str!("../vectors/zlib-portforward-blocks.hex");

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    frame.extend((u32::from(flags) << 24 | body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame
}

fn numbers(kind: u16, flags: u8, numbers: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    control(kind, flags, &body)
}

fn data(id: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = id.to_be_bytes().to_vec();
    frame.extend((u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame
}

fn plain(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = (pairs.len() as u32).to_be_bytes().to_vec();
    for text in pairs.iter().flat_map(|pair| [pair.0, pair.1]) {
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A peer's compressor. Its later blocks point back into earlier ones, so a block that its reader
/// passes over spoils all that follow.
struct Peer(Deflate);

impl Peer {
    fn new() -> Peer {
        Peer(Deflate::new(9, true, 15))
    }

    fn block(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut block = vec![0; plain.len() + 1000];
        let before = self.0.total_out();
        self.0.compress(plain, &mut block, DeflateFlush::SyncFlush).unwrap();
        block.truncate((self.0.total_out() - before) as usize);
        block
    }

    fn frame(&mut self, kind: u16, flags: u8, id: u32, plain: &[u8]) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        if kind == SYN_STREAM {
            body.extend([0; 6]);
        }
        body.extend(self.block(plain));
        control(kind, flags, &body)
    }

    fn syn(&mut self, id: u32) -> Vec<u8> {
        self.frame(SYN_STREAM, 0, id, &plain(&[("streamtype", "a-rather-long-type")]))
    }
}

/// Everything that waits, taken off.
fn written(outbox: &mut Outbox) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    outbox.advance(bytes.len());
    bytes
}

fn words(event: &Event) -> String {
    match event {
        Event::Opened { id, headers } => {
            let pairs: Vec<_> =
                headers.iter().map(|(name, value)| [name, value].join("=")).collect();
            format!("opened {} {}", id.number(), pairs.join(" "))
        }
        Event::Replied { id, .. } => format!("replied {}", id.number()),
        Event::Window(id, bytes) => format!("window {} {bytes}", id.number()),
        Event::Data(id, bytes) => format!("data {} {}", id.number(), bytes.escape_ascii()),
        Event::Finished(id) => format!("finished {}", id.number()),
        Event::Reset(id, code) => format!("reset {} {code}", id.number()),
        Event::Pong(id) => format!("pong {id}"),
        Event::Closed(Closed::Goaway { status }) => format!("goaway {status}"),
        Event::Closed(Closed::Cut) => "cut".into(),
        Event::Closed(Closed::Fault(fault)) => format!("fault: {fault}"),
    }
}

/// Polls until idle; neighbouring data of a stream is joined.
fn drain(connection: &mut Connection, log: &mut Vec<String>) {
    while let Some(event) = connection.poll() {
        if let (Event::Data(id, bytes), Some(last)) = (&event, log.last_mut()) {
            assert!(!bytes.is_empty());
            if last.starts_with(&format!("data {} ", id.number())) {
                last.push_str(&bytes.escape_ascii().to_string());
                continue;
            }
        }
        log.push(words(&event));
    }
}

fn feed(connection: &mut Connection, bytes: &[u8]) -> Vec<String> {
    let mut log = Vec::new();
    connection.receive(BytesMut::from(bytes));
    drain(connection, &mut log);
    log
}

/// What `bytes` in pieces of these sizes make of a new connection: its events and its answers.
fn run(role: Role, bytes: &[u8], sizes: &[usize]) -> (Vec<String>, Vec<u8>) {
    let (mut connection, mut log, mut rest) = (Connection::new(role), Vec::new(), bytes);
    if role == Role::Client {
        connection.open(&[("streamtype", "error")]);
        connection.open(&[("streamtype", "stdin")]);
        written(connection.outbox());
    }
    for size in sizes.iter().cycle() {
        let (piece, later) = rest.split_at((*size).clamp(1, rest.len().max(1)).min(rest.len()));
        connection.receive(BytesMut::from(piece));
        drain(&mut connection, &mut log);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    connection.receive_end();
    drain(&mut connection, &mut log);
    (log, written(connection.outbox()))
}

fn server() -> (Connection, Peer) {
    (Connection::new(Role::Server), Peer::new())
}

// ---- captured bytes ----

#[test]
fn a_go_client_is_understood_however_its_bytes_are_cut() {
    let bytes = vector(GO_CLIENT).concat();
    for size in 1..=bytes.len() {
        let (log, answers) = run(Role::Server, &bytes, &[size]);
        let expected = [
            "opened 1 streamtype=error",
            "opened 3 streamtype=stdin",
            "data 3 hi\\n",
            "finished 3",
            "reset 1 5",
            "goaway 0",
        ];
        assert_eq!(log, expected, "in pieces of {size}");
        assert_eq!(answers, numbers(PING, 0, &[1]));
    }
    assert_eq!(feed(&mut server().0, &vector(GO_STDIN_FIRST)[0]), ["opened 1 streamtype=stdin"]);
}

#[test]
fn a_go_server_is_understood_however_its_bytes_are_cut() {
    let bytes = vector(GO_SERVER).concat();
    for size in 1..=bytes.len() {
        let (log, answers) = run(Role::Client, &bytes, &[size]);
        let expected = ["replied 1", "replied 3", "pong 1", "reset 1 5", "goaway 0"];
        assert_eq!(log, expected, "in pieces of {size}");
        assert!(answers.is_empty());
    }
}

#[test]
fn blocks_of_c_zlib_are_understood() {
    let (mut server, _) = server();
    let mut log = Vec::new();
    for (block, id) in vector(ZLIB_BLOCKS).into_iter().zip([1_u8, 3]) {
        let body = [&[0, 0, 0, id, 0, 0, 0, 0, 0, 0], &block[..]].concat();
        log.extend(feed(&mut server, &control(SYN_STREAM, 0, &body)));
    }
    let expected = [
        "opened 1 port=8080 requestid=0 streamtype=error",
        "opened 3 port=8080 requestid=0 streamtype=data",
    ];
    assert_eq!(log, expected);
}

/// Cut at any byte, what was complete is given, and the end is never taken for a goodbye.
#[test]
fn a_cut_is_a_cut() {
    let bytes = vector(GO_CLIENT).concat();
    let (whole, _) = run(Role::Server, &bytes, &[bytes.len()]);
    for end in 0..bytes.len() {
        let (mut log, _) = run(Role::Server, &bytes[..end], &[end.max(1)]);
        assert_eq!(log.pop().as_deref(), Some("cut"), "at {end}");
        // A cut inside of the payload gives the part that is there.
        for (seen, expected) in log.iter().zip(&whole) {
            assert!(expected.starts_with(&**seen), "at {end}: {seen}");
        }
    }
}

// ---- what is written ----

#[test]
fn what_a_client_writes_is_on_the_wire_as_documented() {
    let mut client = Connection::new(Role::Client);
    let first = client.open(&[("streamType", "error")]);
    let second = client.open(&[("streamtype", "stdin")]);
    assert_eq!((first.number(), second.number()), (1, 3));
    let bytes = written(client.outbox());
    // Flags, associated stream, priority and slot are 0; the zlib header comes once.
    let header = [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2];
    let plain = plain(&[("streamtype", "error")]);
    let mut body = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    body.extend(header);
    body.extend([0, 27, 0, 228, 255]);
    body.extend(plain);
    body.extend([0, 0, 0, 255, 255]);
    let syn = control(SYN_STREAM, 0, &body);
    assert_eq!(bytes[..syn.len()], syn);
    assert!(!bytes[syn.len()..].windows(6).any(|window| window == header));

    client.send(second, Bytes::from_static(b"hi\n"));
    client.finish(second);
    client.reset(first, 5);
    client.goaway(0);
    let expected = [&vector(GO_CLIENT)[2..4], &vector(GO_CLIENT)[5..]].concat().concat();
    assert_eq!(written(client.outbox()), expected);
    assert!(client.outbox().is_finishing());
}

#[test]
fn a_stream_says_nothing_after_its_end() {
    let (mut server, mut peer) = server();
    feed(&mut server, &[peer.syn(1), peer.syn(3)].concat());
    let [one, three] = ids(&[1, 3]);
    server.reply(one);
    assert!(!written(server.outbox()).is_empty());
    server.reply(one);
    assert!(server.outbox().is_empty(), "a stream is answered once");
    server.finish(one);
    assert_eq!(written(server.outbox()), data(1, FIN, b""));
    server.finish(one);
    server.send(one, Bytes::from_static(b"x"));
    assert!(server.outbox().is_empty());
    server.reset(three, 5);
    assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[3, 5]));
    server.reset(three, 5);
    server.finish(three);
    server.reply(three);
    server.send(three, Bytes::from_static(b"x"));
    assert!(server.outbox().is_empty());
    // Its own half still open, the other one is read to its end; then the stream is gone.
    let late = [data(1, FIN, b"late"), data(1, FIN, b"later"), data(3, FIN, b"dropped")].concat();
    assert_eq!(feed(&mut server, &late), ["data 1 late", "finished 1"]);
    server.reset(one, 5);
    assert!(server.outbox().is_empty());
}

/// Ids as another connection of the client's role gives them.
fn ids<const N: usize>(wanted: &[u32; N]) -> [StreamId; N] {
    let mut client = Connection::new(Role::Client);
    let all: Vec<StreamId> = (0..40).map(|_| client.open(&[])).collect();
    wanted.map(|number| *all.iter().find(|id| id.number() == number).unwrap())
}

#[test]
fn a_client_does_not_reply_to_itself() {
    let mut client = Connection::new(Role::Client);
    let id = client.open(&[]);
    written(client.outbox());
    client.reply(id);
    assert!(client.outbox().is_empty());
}

#[test]
fn a_payload_longer_than_a_frame_can_be_is_split() {
    let mut client = Connection::new(Role::Client);
    let id = client.open(&[]);
    written(client.outbox());
    client.send(id, Bytes::from(vec![7; 0xff_ffff + 3]));
    let bytes = written(client.outbox());
    assert_eq!(bytes[..8], [0, 0, 0, 1, 0, 0xff, 0xff, 0xff]);
    assert_eq!(bytes[8 + 0xff_ffff..], [0, 0, 0, 1, 0, 0, 0, 3, 7, 7, 7]);
}

#[test]
fn a_server_is_silent_until_it_was_spoken_to() {
    let (mut server, _) = server();
    assert_eq!(server.ping(), None);
    assert!(server.outbox().is_empty());
    // Any frame will do.
    feed(&mut server, &numbers(WINDOW_UPDATE, 0, &[0, 1]));
    assert_eq!(server.ping(), Some(2));
    assert_eq!(written(server.outbox()), numbers(PING, 0, &[2]));
    assert_eq!(feed(&mut server, &numbers(PING, 0, &[2])), ["pong 2"]);
    assert!(server.outbox().is_empty(), "an answer is not answered");

    let mut mute = Connection::new(Role::Server);
    mute.goaway(0);
    assert!(mute.outbox().is_empty() && mute.outbox().is_finishing());
}

// ---- what is read ----

#[test]
fn a_large_frame_is_passed_on_as_it_comes() {
    let (mut server, mut peer) = server();
    feed(&mut server, &peer.syn(1));
    assert_eq!(feed(&mut server, &[0, 0, 0, 1, FIN, 0xff, 0xff, 0xff]), [""; 0]);
    let mut left = 0xff_ffff;
    while left > 0 {
        let piece = BytesMut::from(&vec![1; 100_000.min(left)][..]);
        let (start, len) = (piece.as_ptr(), piece.len());
        server.receive(piece);
        let Some(Event::Data(_, bytes)) = server.poll() else { panic!("no data at {left}") };
        // Not a copy.
        assert_eq!((bytes.as_ptr(), bytes.len()), (start, len));
        left -= len;
        if left > 0 {
            assert_eq!(server.poll(), None);
        }
    }
    let mut log = Vec::new();
    drain(&mut server, &mut log);
    assert_eq!(log, ["finished 1"]);
}

#[test]
fn frames_that_nobody_heeds_change_nothing() {
    let (mut server, mut peer) = server();
    let mut bytes = peer.syn(1);
    bytes.extend(control(SETTINGS, 1, &[0; 4]));
    bytes.extend(numbers(SETTINGS, 0, &[2, 4, 100, 7, 0]));
    bytes.extend(numbers(WINDOW_UPDATE, 0, &[1, 0x7fff_ffff]));
    bytes.extend(numbers(WINDOW_UPDATE, 0, &[9, 1]));
    bytes.extend(peer.frame(HEADERS, 0, 1, &plain(&[("a", "b")])));
    bytes.extend(peer.frame(HEADERS, FIN, 5, &plain(&[("a", "b")])));
    bytes.extend(peer.frame(SYN_REPLY, FIN, 1, &plain(&[])));
    bytes.extend(data(9, FIN, b"of a stream that never was"));
    bytes.extend(numbers(RST_STREAM, 0, &[9, 1]));
    bytes.extend(data(1, 0, b"still here"));
    bytes.extend(peer.frame(HEADERS, FIN, 1, &plain(&[])));
    let log = feed(&mut server, &bytes);
    let expected = [
        "opened 1 streamtype=a-rather-long-type",
        // Told, for those who count; of a stream that never was, not even that.
        "window 1 2147483647",
        "data 1 still here",
        "finished 1",
    ];
    assert_eq!(log, expected);
    assert!(server.outbox().is_empty());
}

#[test]
fn a_stream_is_replied_to_once() {
    let mut peer = Peer::new();
    let reply = peer.frame(SYN_REPLY, 0, 1, &plain(&[]));
    let again = peer.frame(SYN_REPLY, FIN, 1, &plain(&[]));
    let ends = peer.frame(SYN_REPLY, FIN, 3, &plain(&[]));
    let (log, answers) = run(Role::Client, &[reply, again, ends].concat(), &[1000]);
    assert_eq!(log, ["replied 1", "replied 3", "finished 3", "cut"]);
    assert!(answers.is_empty());
}

#[test]
fn goaway_is_the_end() {
    let (mut server, mut peer) = server();
    let frames = [peer.syn(1), data(1, 0, b"last"), numbers(GOAWAY, 0, &[0, 2]), data(1, 0, b"x")];
    let log = feed(&mut server, &frames.concat());
    assert_eq!(log[1..], ["data 1 last", "goaway 2"]);
    assert_eq!(feed(&mut server, &data(1, 0, b"y")), [""; 0]);
    server.receive_end();
    assert_eq!(server.poll(), None);
}

#[test]
fn values_keep_their_nul() {
    let (mut server, mut peer) = server();
    let syn = peer.frame(SYN_STREAM, FIN, 1, &plain(&[("a", "1\x002"), ("b", "")]));
    assert_eq!(feed(&mut server, &syn), ["opened 1 a=1\x002 b=", "finished 1"]);
}

// ---- limits and faults ----

#[test]
fn a_bad_id_is_reset_and_its_block_was_read() {
    let (mut server, mut peer) = server();
    assert_eq!(feed(&mut server, &[peer.syn(5), peer.syn(7)].concat()).len(), 2);
    // Of our parity, and below what came before.
    for bad in [2, 3] {
        assert_eq!(feed(&mut server, &peer.syn(bad)), [""; 0]);
        assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[bad, 1]));
    }
    // An id in use: the peer takes the answer for that stream, so both sides forget it.
    assert_eq!(feed(&mut server, &peer.syn(5)), ["reset 5 1"]);
    assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[5, 1]));
    assert_eq!(feed(&mut server, &data(5, 0, b"x")), [""; 0]);
    // The compressor's later blocks are still understood, and gaps are fine.
    assert_eq!(feed(&mut server, &peer.syn(19)), ["opened 19 streamtype=a-rather-long-type"]);
    server.goaway(0);
    assert_eq!(written(server.outbox()), numbers(GOAWAY, 0, &[19, 0]));
}

#[test]
fn streams_are_counted() {
    let (mut server, mut peer) = server();
    let mut next = (1..).step_by(2);
    for id in next.by_ref().take(limits::SPDY_STREAMS) {
        assert_eq!(feed(&mut server, &peer.syn(id)).len(), 1);
    }
    let refused = next.next().unwrap();
    assert_eq!(feed(&mut server, &peer.syn(refused)), [""; 0]);
    assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[refused, 3]));
    // One that ends makes room, but not for an id that was refused.
    let log = feed(&mut server, &[numbers(RST_STREAM, 0, &[1, 5]), peer.syn(refused)].concat());
    assert_eq!(log, ["reset 1 5"]);
    assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[refused, 1]));
    assert_eq!(feed(&mut server, &peer.syn(next.next().unwrap())).len(), 1);
}

#[test]
fn forgotten_headers_refuse_new_streams_unread() {
    let (mut server, mut peer) = server();
    feed(&mut server, &peer.syn(1));
    server.forget_headers();
    let mut bytes = control(SYN_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    bytes.extend(control(HEADERS, 0, &[0, 0, 0, 1, 0xff, 0xff]));
    bytes.extend(data(1, FIN, b"goes on"));
    assert_eq!(feed(&mut server, &bytes), ["data 1 goes on", "finished 1"]);
    assert_eq!(written(server.outbox()), numbers(RST_STREAM, 0, &[3, 3]));
}

#[test]
fn a_peer_that_asks_and_does_not_read_is_not_read() {
    let (mut server, _) = server();
    let pings: Vec<u8> = (0..50_000).flat_map(|n| numbers(PING, 0, &[2 * n + 1])).collect();
    assert_eq!(feed(&mut server, &pings), [""; 0]);
    assert!(server.outbox().len() < 1000, "{} bytes wait", server.outbox().len());
    written(server.outbox());
    // The latest question is answered as soon as there is room.
    assert_eq!(server.poll(), None);
    assert_eq!(written(server.outbox()), numbers(PING, 0, &[99_999]));

    server.forget_headers();
    let mut id = 1;
    while server.has_room() {
        let flood = (0..10_000).flat_map(|_| {
            id += 2;
            control(SYN_STREAM, 0, &[&u32::to_be_bytes(id)[..], &[0; 6]].concat())
        });
        feed(&mut server, &flood.collect::<Vec<u8>>());
        assert!(server.outbox().len() < limits::OUTBOX_WITH_ANSWERS_BYTES + 200_000);
    }
    written(server.outbox());
    assert!(server.has_room());
}

/// A header block of these plain bytes, in the first frame of a client.
fn opening(plain: &[u8]) -> Vec<u8> {
    Peer::new().frame(SYN_STREAM, 0, 1, plain)
}

fn malformed() -> Vec<(Vec<u8>, Fault)> {
    let headers = |plain: &[u8]| (opening(plain), Fault::Headers);
    let mut trailing = plain(&[("a", "b")]);
    trailing.push(0);
    // A finished zlib stream, and bytes behind it.
    let ended = [&[0; 10][..], &[0x78, 0x9c, 3, 0, 0, 0, 0, 1, 9, 9, 9]].concat();
    let with_id = |mut body: Vec<u8>| {
        body[3] = 1;
        control(SYN_STREAM, 0, &body)
    };
    vec![
        (vec![0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], Fault::Version(2)),
        (vec![0xff; 8], Fault::Version(0x7fff)),
        (control(0, 0, &[]), Fault::Type(0)),
        (control(5, 0, &[]), Fault::Type(5)),
        (control(10, 0, &[0; 8]), Fault::Type(10)),
        (control(SYN_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 0, 0]), Fault::Length(SYN_STREAM)),
        (control(SYN_REPLY, 0, &[0; 3]), Fault::Length(SYN_REPLY)),
        (control(HEADERS, 0, &[]), Fault::Length(HEADERS)),
        (control(RST_STREAM, 0, &[1; 7]), Fault::Length(RST_STREAM)),
        (control(RST_STREAM, 0, &[1; 9]), Fault::Length(RST_STREAM)),
        (control(PING, 0, &[1; 5]), Fault::Length(PING)),
        (control(GOAWAY, 0, &[0; 4]), Fault::Length(GOAWAY)),
        (control(WINDOW_UPDATE, 0, &[0; 12]), Fault::Length(WINDOW_UPDATE)),
        (numbers(SETTINGS, 0, &[1]), Fault::Length(SETTINGS)),
        (numbers(SETTINGS, 0, &[0xffff_ffff, 0, 0]), Fault::Length(SETTINGS)),
        (numbers(SETTINGS, 0, &[0, 0, 0]), Fault::Length(SETTINGS)),
        (numbers(PING, 0, &[0]), Fault::Ping),
        (numbers(PING, 1, &[1]), Fault::Ping),
        (numbers(RST_STREAM, 0, &[0, 5]), Fault::Reset),
        (numbers(RST_STREAM, 0, &[1, 0]), Fault::Reset),
        (data(0, 0, b"x"), Fault::StreamZero),
        (Peer::new().syn(0), Fault::StreamZero),
        (Peer::new().frame(SYN_REPLY, 0, 0, &plain(&[])), Fault::StreamZero),
        (Peer::new().frame(HEADERS, FIN, 0, &plain(&[])), Fault::StreamZero),
        (vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], Fault::LongControl(0xff_ffff)),
        (with_id(vec![0xff; 40]), Fault::Inflate),
        (with_id(ended), Fault::Inflate),
        // Another dictionary.
        (with_id([&[0; 10][..], &[0x78, 0x20, 1, 2, 3, 4, 0, 0]].concat()), Fault::Inflate),
        headers(&[]),
        headers(&[0, 0, 0]),
        headers(&trailing),
        headers(&plain(&[("Upper", "x")])),
        headers(&plain(&[("", "x")])),
        headers(&plain(&[("a", "x"), ("a", "y")])),
        headers(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]),
        // What is declared and did not come: headers, a name.
        headers(&0x8000_0000_u32.to_be_bytes()),
        headers(&0xffff_ffff_u32.to_be_bytes()),
        headers(&[0, 0, 0, 1, 0x80, 0, 0, 0, b'a']),
        (opening(&vec![0; 50_000_000]), Fault::LargeHeaders),
        (opening(&plain(&[("a", &"x".repeat(64 * 1024))])), Fault::LargeHeaders),
        (many_headers(), Fault::LargeHeaders),
    ]
}

fn many_headers() -> Vec<u8> {
    let names: Vec<String> = (0..=limits::SPDY_HEADERS).map(|n| n.to_string()).collect();
    opening(&plain(&names.iter().map(|name| (&**name, "")).collect::<Vec<_>>()))
}

/// As the very first frame, too: a server that was spoken to may say what was wrong.
#[test]
fn every_malformed_frame_is_a_fault_with_a_last_word() {
    for (frame, fault) in malformed() {
        for role in [Role::Client, Role::Server] {
            let start = &frame[..frame.len().min(40)];
            let mut connection = Connection::new(role);
            let bytes = [&frame[..], &data(1, 0, b"later")].concat();
            connection.receive(BytesMut::from(&bytes[..]));
            let closed = Event::Closed(Closed::Fault(fault));
            assert_eq!(connection.poll(), Some(closed), "{role:?} {start:x?}");
            assert_eq!(written(connection.outbox()), numbers(GOAWAY, 0, &[0, 1]), "{start:x?}");
            assert!(connection.outbox().is_finishing());
            assert_eq!(feed(&mut connection, &numbers(PING, 0, &[1])), [""; 0]);
            assert!(connection.outbox().is_empty());
        }
    }
}

/// The limit holds to the byte.
#[test]
fn headers_as_large_as_they_may_be_are_taken() {
    let value = "x".repeat(limits::SPDY_HEADERS_INFLATED_BYTES - 4 - 4 - 1 - 4);
    assert_eq!(feed(&mut server().0, &opening(&plain(&[("a", &value)]))).len(), 1);
    let longer = opening(&plain(&[("a", &(value + "x"))]));
    assert_eq!(feed(&mut server().0, &longer), ["fault: a header block is too large"]);
}

fn arbitrary_frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (0u8..24, 0u32..8, 0u8..4, prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::vec(frame, 0..25).prop_map(|frames| {
        let mut peer = Peer::new();
        let bytes = frames.into_iter().map(|(kind, id, flags, payload)| match kind {
            0..=7 => data(id.max(1), flags, &payload),
            8..=11 => peer.frame(SYN_STREAM, flags, id.max(1), &plain(&[("a", "b")])),
            12 | 13 => peer.frame(SYN_REPLY, flags, id.max(1), &plain(&[])),
            14 => peer.frame(HEADERS, flags, id.max(1), &plain(&[("c", "d")])),
            15 | 16 => numbers(RST_STREAM, 0, &[id.max(1), id + 1]),
            17 | 18 => numbers(PING, 0, &[id + 1]),
            19 => numbers(SETTINGS, flags, &[1, id, 3]),
            20 => numbers(WINDOW_UPDATE, 0, &[id, 3]),
            21 => control(u16::from(flags) + 6, 0, &payload),
            22 => numbers(GOAWAY, 0, &[id, id]),
            _ => peer.frame(SYN_STREAM, 0, id, &payload),
        });
        bytes.flatten().collect()
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events_and_answers(
        bytes in arbitrary_frames(),
        sizes in prop::collection::vec(1usize..60, 1..20),
        client: bool,
    ) {
        let role = if client { Role::Client } else { Role::Server };
        prop_assert_eq!(run(role, &bytes, &sizes), run(role, &bytes, &[bytes.len()]));
    }

    #[test]
    fn garbage_ends_a_connection_and_nothing_else(
        garbage in prop::collection::vec(
            prop_oneof![Just(0u8), Just(1), Just(3), Just(0x80), any::<u8>()],
            0..600,
        ),
        sizes in prop::collection::vec(1usize..60, 1..20),
        client: bool,
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let (log, answers) = run(role, &garbage, &sizes);
        let ends = ["cut", "goaway", "fault"];
        prop_assert!(ends.iter().any(|end| log.last().unwrap().starts_with(end)), "{:?}", log);
        prop_assert!(answers.len() <= 2 * garbage.len() + 16);
    }
}
