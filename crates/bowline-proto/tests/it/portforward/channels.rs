//! The server of numbered channels, told things by a client that is a bare WebSocket.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bowline_proto::limits::CLOSING_PATIENCE;
use bowline_proto::portforward::over_websocket::PORTS;
use bowline_proto::portforward::{Forward, Id, OverWebSocket};
use bowline_proto::session::protocol::{Encoding, FORWARD_CHANNELS, Protocol, WEBSOCKET_V5};
use bowline_proto::session::{Cause, Loss};
use bowline_proto::websocket::{
    Closed, Config, Connection, Continuation, Event as Frame, Kind, Role,
};
use bowline_proto::{Machine, Next, Time};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{End, NOW, Seen, bytes};
use crate::wire::{Cuts, all, cuts, frame, pieces};

/// A client that reads numbered channels, and our server.
struct Pair {
    now: Time,
    protocol: &'static Protocol,
    client: Connection,
    server: Forward,
    seen: Seen,
    /// What came on each channel, message by message, and how it ended.
    messages: Vec<(u8, Vec<u8>)>,
    message: Vec<u8>,
    closed: Option<Closed>,
    cuts: Cuts,
}

impl Pair {
    fn new(protocol: &'static Protocol, ports: &[u16]) -> Pair {
        let config = Config { role: Role::Client, continuation: Continuation::Join };
        Pair {
            now: NOW,
            protocol,
            client: Connection::new(config, [5; 32]),
            server: Forward::WebSocket(OverWebSocket::new(protocol, ports)),
            seen: Seen::default(),
            messages: vec![],
            message: vec![],
            closed: None,
            cuts: Cuts::new(&[1, 9, 40_000]),
        }
    }

    /// With its announcements taken off.
    fn begun(protocol: &'static Protocol, ports: &[u16]) -> Pair {
        let mut pair = Pair::new(protocol, ports);
        pair.settle();
        assert_eq!(pair.messages.len(), 2 * ports.len());
        pair.messages.clear();
        pair
    }

    fn say(&mut self, channel: u8, payload: &[u8]) {
        match self.protocol.encoding {
            Encoding::Binary => {
                let payload = Bytes::copy_from_slice(payload);
                self.client.message(Kind::Binary, &[channel], payload);
            }
            Encoding::Base64 => {
                let text = STANDARD.encode(payload);
                self.client.message(Kind::Text, &[b'0' + channel], text.into());
            }
        }
    }

    fn settle(&mut self) -> Option<Time> {
        loop {
            let deadline = self.seen.poll(&mut self.server, self.now);
            let up = self.cuts.piece(self.client.outbox());
            let down = self.cuts.piece(self.server.outbox());
            if up.is_empty() && down.is_empty() {
                return deadline;
            }
            if !up.is_empty() {
                self.server.receive(self.now, up);
            }
            self.client.receive(down);
            self.hear();
        }
    }

    fn hear(&mut self) {
        while let Some(frame) = self.client.poll() {
            match frame {
                Frame::Chunk(chunk) => {
                    let text = self.protocol.encoding == Encoding::Base64;
                    assert_eq!(chunk.kind == Kind::Text, text);
                    self.message.extend_from_slice(&chunk.payload);
                    if chunk.last {
                        let whole = std::mem::take(&mut self.message);
                        let message = match self.protocol.encoding {
                            Encoding::Binary => (whole[0], whole[1..].to_vec()),
                            Encoding::Base64 => {
                                (whole[0] - b'0', STANDARD.decode(&whole[1..]).unwrap())
                            }
                        };
                        self.messages.push(message);
                    }
                }
                Frame::Pong(_) => {}
                Frame::Closed(closed) => self.closed = Some(closed),
            }
        }
    }

    fn id(&self, index: usize) -> Id {
        self.seen.asked[index].0
    }

    fn came(&self, channel: u8) -> Vec<u8> {
        let of = self.messages.iter().filter(|message| message.0 == channel);
        of.flat_map(|message| message.1.clone()).collect()
    }

    fn ends(&self) -> Vec<Option<End>> {
        self.seen.asked.iter().map(|asked| self.seen.end(asked.0)).collect()
    }
}

fn goodbye(code: u16, reason: &str) -> Option<Closed> {
    Some(Closed::CloseFrame { code: Some(code), reason: reason.into() })
}

fn loss(cause: Cause, detail: &str) -> Option<Loss> {
    Some(Loss { cause, detail: detail.into() })
}

#[test]
fn every_channel_begins_with_its_port_in_order_and_little_endian() {
    for protocol in FORWARD_CHANNELS {
        let mut pair = Pair::new(protocol, &[8080, 1, 65535, 8080]);
        pair.settle();
        let ports = [[0x90, 0x1f], [1, 0], [0xff, 0xff], [0x90, 0x1f]];
        let each = |channel: usize| (channel as u8, ports[channel / 2].to_vec());
        assert_eq!(pair.messages, (0..8).map(each).collect::<Vec<_>>(), "{protocol:?}");
        let asked: Vec<u16> = pair.seen.asked.iter().map(|asked| asked.1).collect();
        assert_eq!(asked, [8080, 1, 65535, 8080], "{protocol:?}");
        assert_eq!(pair.server.connections(), 4);
    }
}

#[test]
fn there_are_no_more_ports_than_numbers_of_channels() {
    let ports: Vec<u16> = (1..=200).collect();
    let mut pair = Pair::new(FORWARD_CHANNELS[0], &ports);
    pair.settle();
    assert_eq!((pair.seen.asked.len(), pair.server.connections()), (PORTS, PORTS));
    assert_eq!(pair.messages.last(), Some(&(253, vec![127, 0])));
    pair.say(252, b"last");
    pair.settle();
    assert_eq!(pair.seen.data(pair.id(126)), b"last");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_port_delivers_everything_once_and_in_order(
        cuts in cuts(),
        up in pieces(),
        down in pieces(),
    ) {
        for protocol in FORWARD_CHANNELS {
            let mut pair = Pair::begun(protocol, &[80, 81, 82]);
            pair.cuts = Cuts::new(&cuts);
            let mut expected: [[Vec<u8>; 2]; 3] = Default::default();
            for (turn, piece) in up.iter().enumerate() {
                pair.say(2 * (turn % 3) as u8, piece);
                expected[turn % 3][0].extend(piece);
            }
            for (turn, piece) in down.iter().enumerate() {
                let id = pair.id(turn % 3);
                pair.server.send(id, Bytes::from(piece.clone()));
                expected[turn % 3][1].extend(piece);
            }
            pair.settle();
            for (index, [up, down]) in expected.iter().enumerate() {
                prop_assert_eq!(pair.seen.data(pair.id(index)), &up[..]);
                prop_assert_eq!(&pair.came(2 * index as u8), down);
            }
            prop_assert!(pair.seen.lost.is_none() && pair.seen.ends.is_empty());
        }
    }

    #[test]
    fn garbage_ends_a_forward_in_channels_and_nothing_else(garbage: Vec<u8>, size in 1usize..40) {
        for protocol in FORWARD_CHANNELS {
            let mut server = OverWebSocket::new(protocol, &[80]);
            let mut seen = Seen::default();
            for piece in garbage.chunks(size) {
                server.receive(NOW, BytesMut::from(piece));
                seen.poll(&mut server, NOW);
            }
            server.receive_end(NOW);
            seen.poll(&mut server, NOW);
            prop_assert!(seen.lost.is_some() && seen.asked.len() == 1);
            prop_assert!(server.outbox().len() < 64 * 1024);
        }
    }
}

#[test]
fn what_belongs_to_no_port_is_passed_over() {
    for protocol in FORWARD_CHANNELS {
        let mut pair = Pair::begun(protocol, &[80]);
        // The error channel, channels that are not there, and messages without bytes.
        for channel in [1, 2, 3, 10, 61] {
            pair.say(channel, b"nobody");
        }
        pair.say(0, b"");
        let kind = match protocol.encoding {
            Encoding::Binary => Kind::Binary,
            Encoding::Base64 => Kind::Text,
        };
        pair.client.message(kind, &[], Bytes::new());
        pair.client.ping(b"x");
        pair.say(0, b"somebody");
        pair.settle();
        assert_eq!(pair.seen.data.len(), 1, "{protocol:?}");
        assert_eq!(pair.seen.data(pair.id(0)), b"somebody", "{protocol:?}");
        assert!(pair.seen.ends.is_empty() && pair.seen.lost.is_none(), "{protocol:?}");
    }
}

/// A message of a port may come in fragments, with its number alone in the first one.
#[test]
fn a_message_in_fragments_is_one_message() {
    let mut pair = Pair::begun(FORWARD_CHANNELS[0], &[80, 81]);
    let parts: [(u8, &[u8]); 5] =
        [(0x02, b""), (0x00, b"\x02"), (0x00, b"\x00ab"), (0x89, b"ping"), (0x80, b"c")];
    for (first, payload) in parts {
        let bytes = frame(true, first, payload);
        for byte in bytes {
            pair.server.receive(NOW, BytesMut::from(&[byte][..]));
            pair.seen.poll(&mut pair.server, NOW);
        }
    }
    assert_eq!((pair.seen.data.len(), pair.seen.data(pair.id(1))), (1, &b"\0abc"[..]));
}

#[test]
fn a_failure_is_words_on_the_error_channel_of_its_port_and_the_others_go_on() {
    for protocol in FORWARD_CHANNELS {
        for refuses in [false, true] {
            let mut pair = Pair::begun(protocol, &[80, 81]);
            let (first, second) = (pair.id(0), pair.id(1));
            pair.server.send(first, bytes("some"));
            match refuses {
                true => pair.server.refuse(NOW, first, "connection refused"),
                false => pair.server.fail(NOW, first, "connection refused"),
            }
            pair.server.fail(NOW, first, "told once");
            pair.server.send(first, bytes("nothing follows"));
            pair.server.send(second, bytes("still here"));
            pair.say(0, b"nobody reads this");
            pair.say(2, b"somebody");
            pair.settle();
            let expected = [(0, &b"some"[..]), (1, b"connection refused"), (2, b"still here")];
            let expected = expected.map(|message| (message.0, message.1.to_vec()));
            assert_eq!(pair.messages, expected, "{protocol:?}");
            assert_eq!((pair.seen.data.len(), pair.seen.data(second)), (1, &b"somebody"[..]));
            assert_eq!((pair.server.connections(), &pair.closed), (1, &None), "{protocol:?}");
            assert_eq!((pair.server.room(first), pair.server.room(second)), (0, usize::MAX));
        }
    }
}

#[test]
fn a_reset_is_told_in_words_for_there_is_no_other_way() {
    let mut pair = Pair::begun(FORWARD_CHANNELS[0], &[80]);
    let id = pair.id(0);
    pair.server.reset(NOW, id);
    pair.settle();
    assert_eq!(pair.messages, [(1, b"the connection was reset".to_vec())]);
    assert_eq!(pair.closed, goodbye(1000, ""), "no port is left");
}

#[test]
fn the_server_closes_once_every_port_has_ended_behind_the_last_byte() {
    for protocol in FORWARD_CHANNELS {
        let mut pair = Pair::begun(protocol, &[80, 81]);
        let (first, second) = (pair.id(0), pair.id(1));
        pair.server.send(first, bytes("one"));
        pair.server.finish(NOW, first);
        pair.settle();
        assert_eq!(pair.closed, None, "{protocol:?}");
        // One direction of a port cannot end alone, so that it is still heard.
        pair.say(0, b"more");
        pair.server.send(second, bytes("two"));
        pair.server.finish(NOW, second);
        pair.settle();
        assert_eq!((pair.came(0), pair.came(2)), (b"one".to_vec(), b"two".to_vec()));
        assert_eq!(pair.seen.data(first), b"more");
        assert_eq!(pair.closed, goodbye(1000, ""), "{protocol:?}");
        // The client's Close is its end of every port; a good end is no loss.
        assert_eq!(pair.ends(), [Some(End::Eof), Some(End::Eof)], "{protocol:?}");
        assert!(pair.seen.lost.is_none() && pair.seen.done, "{protocol:?}");
    }
}

#[test]
fn one_direction_ends_alone_where_the_protocol_has_a_word_for_it() {
    for protocol in FORWARD_CHANNELS.into_iter().filter(|row| row.encoding == Encoding::Binary) {
        let mut pair = Pair::begun(protocol, &[80, 81]);
        pair.say(2, b"question");
        // Of an error channel, of a channel that is not there, of none, and of the second port.
        for signal in [&[1][..], &[8], &[], &[2], &[2]] {
            pair.say(255, signal);
        }
        pair.say(2, b"behind its end");
        pair.settle();
        let ended = protocol.half_closes.then_some(End::Eof);
        assert_eq!(pair.ends(), [None, ended.clone()], "{protocol:?}");
        let rest: &[u8] = if ended.is_some() { b"" } else { b"behind its end" };
        assert_eq!(pair.seen.data(pair.id(1)), [b"question", rest].concat(), "{protocol:?}");
        let second = pair.id(1);
        pair.server.send(second, bytes("answer"));
        pair.settle();
        assert_eq!(pair.came(2), b"answer", "{protocol:?}");
    }
    assert!(WEBSOCKET_V5.half_closes);
}

#[test]
fn a_clients_close_ends_every_port_and_no_other_code_says_that_all_is_there() {
    let cases = [(1000, ""), (1001, ""), (1002, "code 1002"), (1011, "code 1011")];
    for protocol in FORWARD_CHANNELS {
        for (code, detail) in cases {
            let mut pair = Pair::begun(protocol, &[80, 81]);
            pair.say(0, b"last");
            pair.client.close(code, "");
            pair.settle();
            assert_eq!(pair.seen.data(pair.id(0)), b"last");
            let end = detail.is_empty().then_some(End::Eof);
            assert_eq!(pair.ends(), [end.clone(), end], "{protocol:?} {code}");
            assert_eq!(pair.seen.lost, loss(Cause::Closed, detail), "{protocol:?} {code}");
            assert_eq!(pair.closed, goodbye(code, ""), "{protocol:?} {code}");
            assert!(pair.seen.done, "{protocol:?} {code}");
        }
    }
}

#[test]
fn a_connection_that_breaks_ends_no_port() {
    for protocol in FORWARD_CHANNELS {
        let mut pair = Pair::begun(protocol, &[80]);
        pair.say(0, b"before");
        pair.settle();
        pair.server.receive_end(NOW);
        pair.settle();
        assert_eq!((pair.seen.data(pair.id(0)), pair.ends()), (&b"before"[..], vec![None]));
        assert_eq!(pair.seen.lost, loss(Cause::Cut, ""), "{protocol:?}");
        assert!(pair.seen.done, "{protocol:?}");
    }
}

#[test]
fn text_that_is_not_base64_ends_the_forward_with_a_reason() {
    let mut pair = Pair::begun(FORWARD_CHANNELS[1], &[80]);
    assert_eq!(pair.protocol.encoding, Encoding::Base64);
    pair.client.message(Kind::Text, b"0", bytes("!!!!"));
    pair.settle();
    assert_eq!(pair.seen.lost, loss(Cause::Fault, "a message is not base64"));
    assert_eq!(pair.closed, goodbye(1007, "a message is not base64"));
    assert!(pair.seen.data.is_empty() && pair.seen.ends.is_empty());
}

#[test]
fn who_leaves_says_why_and_is_told_nothing_more() {
    for protocol in FORWARD_CHANNELS {
        let mut pair = Pair::begun(protocol, &[80]);
        pair.say(0, b"on its way");
        pair.server.leave(NOW, "the node shuts down");
        let id = pair.id(0);
        assert_eq!(pair.server.room(id), 0);
        pair.server.send(id, bytes("too late"));
        pair.server.fail(NOW, id, "too late");
        pair.settle();
        assert!(pair.messages.is_empty(), "{protocol:?}");
        assert_eq!(pair.closed, goodbye(1011, "the node shuts down"), "{protocol:?}");
    }
}

#[test]
fn a_client_that_does_not_answer_a_close_is_waited_for_no_longer_than_its_patience() {
    let mut pair = Pair::begun(FORWARD_CHANNELS[0], &[80]);
    let id = pair.id(0);
    pair.server.send(id, Bytes::from(vec![7; 100_000]));
    pair.server.finish(NOW, id);
    // What waits is what it is owed, and is not cut off.
    for minute in 0..100 {
        let now = NOW + Duration::from_secs(60 * minute);
        assert!(matches!(pair.server.poll(now), Next::Idle(Some(_))), "{minute}");
        crate::wire::taken(pair.server.outbox(), 500);
    }
    let now = NOW + Duration::from_secs(60 * 100);
    pair.server.poll(now);
    all(pair.server.outbox());
    let Next::Idle(Some(deadline)) = pair.server.poll(now) else { panic!("it waits") };
    assert!(deadline.since(now) <= CLOSING_PATIENCE);
    assert_eq!(pair.server.poll(deadline), Next::Done);
}

#[test]
fn nobody_asks_for_connections_in_channels() {
    let mut pair = Pair::begun(FORWARD_CHANNELS[0], &[80]);
    assert_eq!(pair.server.connect(NOW, 80), None);
    assert!(pair.server.outbox().is_empty() && pair.server.wants_read());
}
