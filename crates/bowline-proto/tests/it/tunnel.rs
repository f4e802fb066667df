//! A byte stream in WebSocket messages, and bare: what comes, what leaves, and how both end.

use bowline_proto::Outbox;
use bowline_proto::limits::MESSAGE_BYTES;
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::{
    Closed, Config, Connection, Continuation, Event as Frame, Fault, Kind, Role,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::wire::{Cuts, all, cuts, frame, pieces, taken};

const BINARY: u8 = 0x82;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// Taken from a first byte: the message goes on.
const FIN: u8 = 0x80;

const ROLES: [Role; 2] = [Role::Client, Role::Server];

fn tunnel(role: Role) -> Wire {
    Wire::tunnel(role, [7; 32])
}

/// A WebSocket at the other end of a tunnel.
fn peer(role: Role) -> Connection {
    let role = if role == Role::Client { Role::Server } else { Role::Client };
    Connection::new(Config { role, continuation: Continuation::Join }, [8; 32])
}

/// A frame as the peer of `role` writes it.
fn of_peer(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    frame(role == Role::Server, first, payload)
}

/// What came, joined, and how it ended.
fn drain(wire: &mut Wire) -> (Vec<u8>, Option<Closed>) {
    let (mut bytes, mut ended) = (Vec::new(), None);
    while let Some(came) = wire.poll() {
        assert!(ended.is_none(), "{came:?} after the end");
        match came {
            Incoming::Bytes(more) => {
                assert!(!more.is_empty());
                bytes.extend_from_slice(&more);
            }
            Incoming::Closed(closed) => ended = Some(closed),
        }
    }
    (bytes, ended)
}

/// The messages in what a tunnel wrote, and how it closed.
fn messages(role: Role, bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Closed>) {
    let mut peer = peer(role);
    peer.receive(BytesMut::from(bytes));
    let (mut messages, mut message, mut ended) = (Vec::new(), Vec::new(), None);
    while let Some(frame) = peer.poll() {
        match frame {
            Frame::Chunk(chunk) => {
                assert_eq!(chunk.kind, Kind::Binary);
                message.extend_from_slice(&chunk.payload);
                if chunk.last {
                    messages.push(std::mem::take(&mut message));
                }
            }
            Frame::Pong(_) => {}
            Frame::Closed(closed) => ended = Some(closed),
        }
    }
    (messages, ended)
}

fn close_frame(code: u16, reason: &str) -> Option<Closed> {
    Some(Closed::CloseFrame { code: Some(code), reason: reason.into() })
}

/// All that leaves, as a socket takes it: until there is nothing.
fn leaves(wire: &mut Wire, stream: &mut Outbox) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !wire.outbox(stream).is_empty() {
        bytes.extend(taken(wire.outbox(stream), 100_000));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tunnel_carries_a_stream_whole_and_in_order_either_way(
        cuts in cuts(),
        pieces in pieces(),
    ) {
        for role in ROLES {
            let other = if role == Role::Client { Role::Server } else { Role::Client };
            let (mut from, mut to) = (tunnel(role), tunnel(other));
            let (mut stream, mut cuts) = (Outbox::new(), Cuts::new(&cuts));
            for piece in &pieces {
                stream.frame(&[], Bytes::from(piece.clone()));
            }
            stream.finish();
            let mut got = Vec::new();
            let mut ended = None;
            loop {
                let piece = cuts.piece(from.outbox(&mut stream));
                if piece.is_empty() { break; }
                to.receive(piece);
                let (bytes, end) = drain(&mut to);
                got.extend(bytes);
                prop_assert!(ended.is_none());
                ended = end;
            }
            prop_assert_eq!(got, pieces.concat());
            prop_assert_eq!(ended, close_frame(1000, ""));
        }
    }

    /// Go's peers write each field of a frame in a message of its own, some of them empty, and
    /// gorilla's make fragments of what is longer than a buffer.
    #[test]
    fn the_boundaries_of_messages_and_fragments_mean_nothing(
        frames in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..300), any::<bool>(), 0u8..3),
            0..12,
        ),
        cuts in cuts(),
    ) {
        for role in ROLES {
            let (mut input, mut expected, mut inside) = (Vec::new(), Vec::<u8>::new(), false);
            for (payload, last, extra) in &frames {
                let first = if inside { FIN } else { BINARY };
                let first = if *last { first } else { first & !FIN };
                input.extend(of_peer(role, first, payload));
                expected.extend(payload);
                inside = !last;
                match extra {
                    0 => input.extend(of_peer(role, PING, b"?")),
                    1 => input.extend(of_peer(role, PONG, b"!")),
                    _ => {}
                }
            }
            let (mut wire, mut got, mut cuts) = (tunnel(role), Vec::new(), cuts.iter().cycle());
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                wire.receive(BytesMut::from(piece));
                let (bytes, end) = drain(&mut wire);
                prop_assert_eq!(end, None);
                got.extend(bytes);
                rest = later;
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn garbage_ends_a_tunnel_and_nothing_else(garbage: Vec<u8>, size in 1usize..40) {
        for role in ROLES {
            let mut wire = tunnel(role);
            let mut ended = None;
            for piece in garbage.chunks(size) {
                wire.receive(BytesMut::from(piece));
                ended = ended.or(drain(&mut wire).1);
            }
            wire.receive_end();
            prop_assert!(ended.or(drain(&mut wire).1).is_some());
            prop_assert!(wire.unsent() < 64 * 1024);
        }
    }
}

#[test]
fn every_code_of_a_close_is_told_and_answered_with_itself() {
    for role in ROLES {
        for (code, reason) in [(1000, ""), (1001, "away"), (1011, "the node is gone"), (4000, "")] {
            let mut wire = tunnel(role);
            let body = [&u16::to_be_bytes(code)[..], reason.as_bytes()].concat();
            wire.receive(BytesMut::from(&of_peer(role, CLOSE, &body)[..]));
            assert_eq!(drain(&mut wire).1, close_frame(code, reason), "{role:?}");
            let said = leaves(&mut wire, &mut Outbox::new());
            assert_eq!(messages(role, &said), (vec![], close_frame(code, "")), "{role:?}");
        }
        let mut wire = tunnel(role);
        wire.receive(BytesMut::from(&of_peer(role, CLOSE, &[])[..]));
        let closed = Closed::CloseFrame { code: None, reason: String::new() };
        assert_eq!(drain(&mut wire).1, Some(closed.clone()), "{role:?}");
        let said = leaves(&mut wire, &mut Outbox::new());
        assert_eq!(messages(role, &said).1, Some(closed), "{role:?}");
    }
}

#[test]
fn a_close_is_the_end_without_the_end_of_the_connection_and_nothing_counts_behind_it() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let input = [
            of_peer(role, BINARY, b"before"),
            of_peer(role, CLOSE, &[3, 0xe8]),
            of_peer(role, BINARY, b"behind"),
            of_peer(role, TEXT, b"behind"),
        ];
        wire.receive(BytesMut::from(&input.concat()[..]));
        assert_eq!(drain(&mut wire), (b"before".to_vec(), close_frame(1000, "")), "{role:?}");
        wire.receive(BytesMut::from(&input[0][..]));
        wire.receive_end();
        assert_eq!(drain(&mut wire), (vec![], None), "it ends once: {role:?}");
        // Whoever has closed is owed nothing.
        let mut stream = Outbox::new();
        stream.frame(&[], Bytes::from_static(b"too late"));
        let said = leaves(&mut wire, &mut stream);
        assert_eq!(messages(role, &said), (vec![], close_frame(1000, "")), "{role:?}");
        assert!(stream.is_empty(), "what nobody gets is not held: {role:?}");
    }
}

#[test]
fn a_tunnel_that_ends_without_a_close_is_cut() {
    for role in ROLES {
        let whole = [of_peer(role, BINARY, b"data"), of_peer(role, CLOSE, &[3, 0xe8])].concat();
        for keep in 0..whole.len() {
            let mut wire = tunnel(role);
            wire.receive(BytesMut::from(&whole[..keep]));
            wire.receive_end();
            let (bytes, end) = drain(&mut wire);
            assert!(b"data".starts_with(&bytes[..]), "{role:?} {keep}");
            assert_eq!(end, Some(Closed::Cut), "{role:?} {keep}");
        }
    }
}

#[test]
fn text_ends_a_tunnel_with_a_code_that_says_so_behind_what_came_before() {
    for role in ROLES {
        for text in [&b"text"[..], b""] {
            let mut wire = tunnel(role);
            let input = [of_peer(role, BINARY, b"data"), of_peer(role, TEXT, text)];
            wire.receive(BytesMut::from(&input.concat()[..]));
            let fault = Some(Closed::Fault(Fault::TextInTunnel));
            assert_eq!(drain(&mut wire), (b"data".to_vec(), fault), "{role:?}");
            let said = leaves(&mut wire, &mut Outbox::new());
            assert_eq!(messages(role, &said), (vec![], close_frame(1003, "")), "{role:?}");
        }
    }
}

#[test]
fn pings_are_answered_with_their_own_words_in_front_of_what_waits() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mut stream = Outbox::new();
        stream.frame(&[], Bytes::from(vec![7; 200_000]));
        // The socket has taken a part of the first message.
        let mut said = taken(wire.outbox(&mut stream), 10_000).to_vec();
        wire.receive(BytesMut::from(&of_peer(role, PING, b"are you there")[..]));
        assert_eq!(drain(&mut wire), (vec![], None));
        said.extend(leaves(&mut wire, &mut stream));
        let mut peer = peer(role);
        peer.receive(BytesMut::from(&said[..]));
        let mut before = 0;
        let answer = loop {
            match peer.poll().expect("an answer") {
                Frame::Chunk(chunk) => before += chunk.payload.len(),
                Frame::Pong(answer) => break answer,
                Frame::Closed(closed) => panic!("{closed:?}"),
            }
        };
        assert_eq!(&answer[..], b"are you there", "{role:?}");
        assert_eq!(before, MESSAGE_BYTES, "behind the message that was begun: {role:?}");
    }
}

#[test]
fn what_is_urgent_in_the_stream_overtakes_what_is_in_no_message_yet() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mut stream = Outbox::new();
        for _ in 0..100 {
            stream.frame(&[], Bytes::from(vec![7; 50_000]));
        }
        let mut said = taken(wire.outbox(&mut stream), 1000).to_vec();
        stream.urgent(b"PING");
        said.extend(leaves(&mut wire, &mut stream));
        let carried = messages(role, &said).0.concat();
        assert_eq!(carried.len(), 100 * 50_000 + 4);
        let at = carried.windows(4).position(|bytes| bytes == b"PING").expect("it was sent");
        assert!(at % 50_000 == 0 && at <= 350_000, "{role:?}: {at}");
    }
}

#[test]
fn no_message_of_ours_is_longer_than_its_limit_and_none_is_empty() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mut stream = Outbox::new();
        for len in [0, 1, 8, MESSAGE_BYTES, MESSAGE_BYTES + 1, 500_000, 0, 3] {
            stream.frame(b"", Bytes::from(vec![7; len]));
        }
        let said = leaves(&mut wire, &mut stream);
        let lengths: Vec<usize> = messages(role, &said).0.iter().map(Vec::len).collect();
        assert_eq!(lengths.iter().sum::<usize>(), 12 + 2 * MESSAGE_BYTES + 500_001);
        assert!(lengths.iter().all(|len| (1..=MESSAGE_BYTES).contains(len)), "{role:?}");
        assert!(lengths.len() <= 2 + 500_000 / MESSAGE_BYTES + 2, "they are full: {lengths:?}");
    }
}

/// Lengths are only words; what has come is given as it comes.
#[test]
fn a_message_that_declares_to_be_huge_is_given_as_it_comes() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mask: u8 = if role == Role::Server { 0x80 } else { 0 };
        let mut head = vec![BINARY, 127 | mask];
        head.extend((i64::MAX as u64).to_be_bytes());
        head.extend(if role == Role::Server { &[0; 4][..] } else { &[] });
        wire.receive(BytesMut::from(&head[..]));
        assert_eq!(drain(&mut wire), (vec![], None));
        for _ in 0..100 {
            wire.receive(BytesMut::from(&[7; 5000][..]));
            assert_eq!(drain(&mut wire), (vec![7; 5000], None), "{role:?}");
        }
        wire.receive_end();
        assert_eq!(drain(&mut wire).1, Some(Closed::Cut), "{role:?}");
    }
}

#[test]
fn a_stream_that_is_finished_closes_its_tunnel_in_order_behind_the_last_byte() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mut stream = Outbox::new();
        stream.frame(&[], Bytes::from(vec![7; 400_000]));
        stream.finish();
        assert!(!wire.outbox(&mut stream).is_finishing(), "there is more than messages hold");
        let said = leaves(&mut wire, &mut stream);
        let (messages, closed) = messages(role, &said);
        assert_eq!((messages.concat().len(), closed), (400_000, close_frame(1000, "")), "{role:?}");
        assert!(wire.outbox(&mut stream).is_finishing(), "and then TCP's direction: {role:?}");
    }
}

#[test]
fn a_stream_that_fails_closes_its_tunnel_with_the_reason_behind_what_waits() {
    for role in ROLES {
        let mut wire = tunnel(role);
        let mut stream = Outbox::new();
        stream.frame(&[], Bytes::from(vec![7; 400_000]));
        wire.fail(&mut stream, "the node is gone");
        wire.fail(&mut stream, "said once");
        stream.frame(&[], Bytes::from_static(b"nothing follows"));
        let said = leaves(&mut wire, &mut stream);
        let (messages, closed) = messages(role, &said);
        assert_eq!(messages.concat().len(), 400_000, "{role:?}");
        assert_eq!(closed, close_frame(1011, "the node is gone"), "{role:?}");
    }
}

#[test]
fn a_bare_connection_is_its_bytes_and_ends_once_behind_them() {
    let mut wire = Wire::plain();
    for piece in ["some ", "bytes"] {
        wire.receive(BytesMut::from(piece));
    }
    wire.receive_end();
    wire.receive(BytesMut::from("behind the end"));
    assert_eq!(drain(&mut wire), (b"some bytes".to_vec(), Some(Closed::Cut)));
    wire.receive_end();
    assert_eq!((drain(&mut wire), wire.unsent()), ((vec![], None), 0));

    // It has no place for a reason.
    let mut stream = Outbox::new();
    stream.frame(&[], Bytes::from_static(b"last"));
    wire.fail(&mut stream, "the node is gone");
    assert_eq!(&all(wire.outbox(&mut stream))[..], b"last");
    assert!(wire.outbox(&mut stream).is_finishing());
}
