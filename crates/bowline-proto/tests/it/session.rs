//! Every carrier of a session, client and server joined in memory with bytes cut anywhere.

use std::collections::VecDeque;
use std::time::Duration;

use bowline_proto::portforward::{Event as ForwardEvent, OverWebSocket};
use bowline_proto::relay::{Ending, Relay};
use bowline_proto::session::protocol::{self, Protocol};
use bowline_proto::session::{
    Cause, Channel, Event, Loss, Outcome, Session, Side, Size, Status, Wants,
};
use bowline_proto::{Intermediary, Leg, Machine, Next, Time, limits};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use crate::wire::{Cuts, all, cuts, pieces};

const ALL: [&Protocol; 10] = [
    &protocol::WEBSOCKET_V5,
    &protocol::WEBSOCKET_V4,
    &protocol::WEBSOCKET_V4_BASE64,
    &protocol::WEBSOCKET_V1,
    &protocol::WEBSOCKET_V1_BASE64,
    &protocol::WEBSOCKET_UNNAMED,
    &protocol::SPDY_V4,
    &protocol::SPDY_V3,
    &protocol::SPDY_V2,
    &protocol::SPDY_V1,
];
const EVERYTHING: Wants = Wants { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };

/// What one end saw, with neighbouring data joined.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    ready: bool,
    data: [Vec<u8>; 5],
    eof: Vec<Channel>,
    sizes: Vec<Size>,
    end: Option<Result<Outcome, Loss>>,
    done: bool,
}

impl Seen {
    fn take(&mut self, event: Event) {
        assert!(self.end.is_none(), "{event:?} after the end");
        match event {
            Event::Ready => {
                assert!(!self.ready);
                self.ready = true;
            }
            Event::Data(channel, bytes) => {
                assert!(!bytes.is_empty() && !self.eof.contains(&channel), "{channel:?}");
                self.data[channel as usize].extend_from_slice(&bytes);
            }
            Event::Eof(channel) => {
                assert!(!self.eof.contains(&channel));
                self.eof.push(channel);
            }
            Event::Resize(size) => self.sizes.push(size),
            Event::Status(status) => self.end = Some(Ok(status.outcome().clone())),
            Event::Lost(loss) => self.end = Some(Err(loss)),
        }
    }

    fn poll(&mut self, session: &mut Session, now: Time) -> Option<Time> {
        loop {
            match session.poll(now) {
                Next::Event(event) => self.take(event),
                Next::Idle(deadline) => return deadline,
                Next::Done => {
                    self.done = true;
                    return None;
                }
            }
        }
    }
}

/// A client and a server with a perfect wire between them.
struct Pair {
    now: Time,
    client: Session,
    server: Session,
    at_client: Seen,
    at_server: Seen,
    cuts: Cuts,
}

impl Pair {
    fn new(protocol: &'static Protocol, wants: Wants, cuts: &[usize]) -> Pair {
        let mut client = Session::new(Side::Client, protocol, wants, [1; 32]);
        client.begin(Time::ZERO);
        Pair {
            now: Time::ZERO,
            client,
            server: Session::new(Side::Server, protocol, wants, [2; 32]),
            at_client: Seen::default(),
            at_server: Seen::default(),
            cuts: Cuts::new(cuts),
        }
    }

    /// Until no bytes move.
    fn settle(&mut self) {
        loop {
            self.at_client.poll(&mut self.client, self.now);
            self.at_server.poll(&mut self.server, self.now);
            let up = self.cuts.piece(self.client.outbox());
            let down = self.cuts.piece(self.server.outbox());
            if up.is_empty() && down.is_empty() {
                break;
            }
            if !up.is_empty() {
                self.server.receive(self.now, up);
            }
            if !down.is_empty() {
                self.client.receive(self.now, down);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle();
    }
}

fn exited(code: u8) -> Status {
    Status::exited(code, &format!("command terminated with exit code {code}"))
}

/// A whole session over `protocol`: what was sent arrived, in order, and then the outcome.
fn whole_session(
    protocol: &'static Protocol,
    cuts: &[usize],
    stdin: &[Vec<u8>],
    output: &[(bool, Vec<u8>)],
    code: u8,
) {
    let mut pair = Pair::new(protocol, EVERYTHING, cuts);
    pair.settle();
    assert!(pair.at_client.ready && pair.at_server.ready, "{protocol:?}");
    for bytes in stdin {
        pair.client.send(Channel::Stdin, Bytes::from(bytes.clone()));
    }
    pair.client.finish(Channel::Stdin);
    pair.settle();
    assert_eq!(pair.at_server.data[0], stdin.concat(), "{protocol:?}");
    let ended = pair.at_server.eof.contains(&Channel::Stdin);
    assert_eq!(ended, protocol.half_closes, "{protocol:?}");
    for (errors, bytes) in output {
        let channel = if *errors { Channel::Stderr } else { Channel::Stdout };
        pair.server.send(channel, Bytes::from(bytes.clone()));
    }
    let now = pair.now;
    pair.server.status(now, &exited(code));
    pair.settle();
    let of = |errors: bool| -> Vec<u8> {
        output.iter().filter(|piece| piece.0 == errors).flat_map(|piece| piece.1.clone()).collect()
    };
    assert_eq!(pair.at_client.data[1], of(false), "{protocol:?}");
    assert_eq!(pair.at_client.data[2], of(true), "{protocol:?}");
    let outcome = pair.at_client.end.clone().expect("an end").expect("an outcome");
    match (protocol.json_status, code) {
        (_, 0) => assert_eq!(outcome, Outcome::Success),
        (true, code) => assert_eq!(outcome, Outcome::Exited(code)),
        (false, _) => assert!(matches!(outcome, Outcome::Failed { .. })),
    }
    assert_eq!(pair.at_client.eof.len(), 2, "{protocol:?}");
    pair.client.receive_end(now);
    pair.server.receive_end(now);
    pair.pass(limits::CLOSING_PATIENCE);
    assert!(pair.at_client.done && pair.at_server.done, "{protocol:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_carrier_delivers_everything_once_and_in_order(
        cuts in cuts(),
        stdin in pieces(),
        output in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..700)),
            0..6,
        ),
        code: u8,
    ) {
        for protocol in ALL {
            whole_session(protocol, &cuts, &stdin, &output, code);
        }
    }

    #[test]
    fn bytes_cut_anywhere_never_give_success_without_a_status(
        cuts in cuts(),
        output in pieces(),
        keep in 0usize..3000,
    ) {
        for protocol in ALL {
            let mut pair = Pair::new(protocol, EVERYTHING, &cuts);
            pair.settle();
            for bytes in &output {
                pair.server.send(Channel::Stdout, Bytes::from(bytes.clone()));
            }
            let now = pair.now;
            pair.server.status(now, &Status::success());
            let all: Vec<u8> = pair.server.outbox().chunks().flatten().copied().collect();
            let keep = keep.min(all.len());
            pair.client.receive(now, BytesMut::from(&all[..keep]));
            pair.client.receive_end(now);
            pair.at_client.poll(&mut pair.client, now);
            let sent = output.concat();
            let got = &pair.at_client.data[1];
            prop_assert!(sent.starts_with(got));
            match pair.at_client.end.as_ref().expect("an end") {
                Ok(Outcome::Success) => prop_assert_eq!(got, &sent),
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(_) => prop_assert!(keep < all.len() || !protocol.json_status),
            }
        }
    }

    #[test]
    fn garbage_ends_a_session_and_nothing_else(garbage: Vec<u8>, cuts in cuts()) {
        for protocol in ALL {
            for side in [Side::Client, Side::Server] {
                let mut session = Session::new(side, protocol, EVERYTHING, [3; 32]);
                session.begin(Time::ZERO);
                let mut seen = Seen::default();
                let mut rest = &garbage[..];
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() { break; }
                    let (piece, later) = rest.split_at((*cut).min(rest.len()));
                    session.receive(Time::ZERO, BytesMut::from(piece));
                    seen.poll(&mut session, Time::ZERO);
                    rest = later;
                }
                session.receive_end(Time::ZERO);
                seen.poll(&mut session, Time::ZERO);
                prop_assert!(!matches!(seen.end, Some(Ok(Outcome::Success))));
                prop_assert!(session.outbox().len() < 64 * 1024);
            }
        }
    }
}

#[test]
fn sizes_travel_where_there_is_a_terminal() {
    for protocol in ALL {
        let mut pair = Pair::new(protocol, TERMINAL, &[3, 1, 50]);
        pair.settle();
        let size = Size { width: 100, height: 40 };
        pair.client.resize(size);
        pair.client.send(Channel::Stdin, Bytes::from_static(b"x"));
        pair.settle();
        let expected: &[Size] = if protocol.resizes { &[size] } else { &[] };
        assert_eq!(pair.at_server.sizes, expected, "{protocol:?}");
        assert_eq!(pair.at_server.data[0], b"x");
    }
}

#[test]
fn a_server_that_lost_its_process_gives_no_outcome() {
    for protocol in ALL {
        let mut pair = Pair::new(protocol, EVERYTHING, &[1000]);
        pair.settle();
        pair.server.send(Channel::Stdout, Bytes::from_static(b"partial"));
        pair.server.lose(pair.now, "the node is gone");
        pair.settle();
        pair.client.receive_end(pair.now);
        pair.settle();
        let end = pair.at_client.end.clone().expect("an end");
        if protocol.json_status {
            let loss = end.expect_err("no outcome");
            assert_eq!(loss.cause, Cause::Closed, "{protocol:?}");
            assert!(loss.detail.contains("the node is gone"), "{protocol:?}: {loss}");
        } else {
            assert_ne!(end, Ok(Outcome::Success), "{protocol:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_or_vanishes_is_noticed() {
    for protocol in ALL {
        let mut pair = Pair::new(protocol, Wants { stdin: false, ..EVERYTHING }, &[1000]);
        pair.settle();
        pair.client.leave(pair.now);
        pair.settle();
        assert!(matches!(pair.at_server.end, Some(Err(_))), "{protocol:?}");

        let mut pair = Pair::new(protocol, EVERYTHING, &[1000]);
        pair.settle();
        pair.server.receive_end(pair.now);
        pair.settle();
        let loss = pair.at_server.end.clone().expect("an end").expect_err("a loss");
        assert_eq!(loss.cause, Cause::Cut, "{protocol:?}");
        assert!(pair.at_server.eof.is_empty(), "a cut is no end of input: {protocol:?}");
    }
}

/// In protocols without a half-close a client ends its upload by closing
/// (docs/protocols/in-practice.md, 9.7).
#[test]
fn a_close_ends_stdin_first_where_nothing_else_can() {
    let mut pair = Pair::new(&protocol::WEBSOCKET_V4, EVERYTHING, &[1000]);
    pair.settle();
    pair.client.send(Channel::Stdin, Bytes::from_static(b"upload"));
    pair.client.leave(pair.now);
    pair.settle();
    pair.server.receive_end(pair.now);
    pair.pass(limits::CLOSED_CLIENT_GRACE - Duration::from_secs(1));
    assert_eq!(pair.at_server.data[0], b"upload");
    assert_eq!(pair.at_server.eof, [Channel::Stdin]);
    assert_eq!(pair.at_server.end, None);
    pair.pass(Duration::from_secs(1));
    assert!(matches!(pair.at_server.end, Some(Err(_))));
}

#[test]
fn a_silent_server_is_dead_within_the_patience_and_a_paused_client_is_not_fooled() {
    for protocol in [&protocol::WEBSOCKET_V5, &protocol::SPDY_V4] {
        let mut pair = Pair::new(protocol, EVERYTHING, &[1000]);
        pair.settle();
        for _ in 0..20 {
            pair.pass(Duration::from_secs(5));
        }
        assert_eq!(pair.at_client.end, None, "answers keep it alive: {protocol:?}");

        let mut silent = Pair::new(protocol, EVERYTHING, &[1000]);
        silent.settle();
        let (mut now, mut paused) = (silent.now, true);
        silent.client.reading(now, false);
        for second in 0..300 {
            now = now + Duration::from_secs(1);
            if second == 100 {
                assert_eq!(silent.at_client.end, None, "{protocol:?}");
                paused = false;
                silent.client.reading(now, true);
            }
            silent.at_client.poll(&mut silent.client, now);
            if silent.at_client.end.is_some() {
                break;
            }
        }
        assert!(!paused);
        let loss = silent.at_client.end.expect("an end").expect_err("a loss");
        assert_eq!(loss.cause, Cause::Silent, "{protocol:?}");
    }
}

/// A server that is slow to answer may read nothing more by the time it has.
#[test]
fn a_late_answer_to_a_ping_says_nothing_of_what_was_sent_behind_it() {
    for protocol in [&protocol::WEBSOCKET_V5, &protocol::SPDY_V4] {
        let mut pair = Pair::new(protocol, EVERYTHING, &[1000]);
        pair.settle();
        let pinged = |pair: &mut Pair, bytes: usize| {
            pair.client.send(Channel::Stdin, Bytes::from(vec![7; bytes]));
            pair.now = pair.now + limits::PING_EVERY;
            pair.at_client.poll(&mut pair.client, pair.now);
            all(pair.client.outbox())
        };
        let read = |pair: &mut Pair, bytes: BytesMut| {
            pair.server.receive(pair.now, bytes);
            pair.at_server.poll(&mut pair.server, pair.now);
            let answer = all(pair.server.outbox());
            assert!(!answer.is_empty(), "{protocol:?}");
            pair.client.receive(pair.now, answer);
            pair.at_client.poll(&mut pair.client, pair.now);
        };
        let (first, second) = (pinged(&mut pair, 10), pinged(&mut pair, 10));
        read(&mut pair, first);
        let third = pinged(&mut pair, 100_000);
        read(&mut pair, second);
        for _ in 0..200 {
            pair.now = pair.now + Duration::from_secs(1);
            pair.at_client.poll(&mut pair.client, pair.now);
            pair.client.outbox().discard();
        }
        assert_eq!(pair.at_client.end, None, "the bulk may not be read yet: {protocol:?}");
        read(&mut pair, third);
        for _ in 0..200 {
            pair.now = pair.now + Duration::from_secs(1);
            pair.at_client.poll(&mut pair.client, pair.now);
            if pair.at_client.end.is_some() {
                break;
            }
        }
        let loss = pair.at_client.end.expect("an end").expect_err("a loss");
        assert_eq!(loss.cause, Cause::Silent, "{protocol:?}");
    }
}

#[test]
fn a_status_without_a_close_still_ends_the_session() {
    let mut pair = Pair::new(&protocol::WEBSOCKET_V5, EVERYTHING, &[1000]);
    pair.settle();
    pair.server.send(Channel::Stdout, Bytes::from_static(b"out"));
    pair.settle();
    let status = exited(7);
    let mut message = vec![0x82, 0x7e];
    message.extend_from_slice(&(status.json().len() as u16 + 1).to_be_bytes());
    message.push(3);
    message.extend_from_slice(status.json());
    pair.client.receive(pair.now, BytesMut::from(&message[..]));
    pair.settle();
    assert_eq!(pair.at_client.end, None);
    pair.pass(limits::CLOSING_PATIENCE);
    assert_eq!(pair.at_client.end, Some(Ok(Outcome::Exited(7))));
}

#[test]
fn a_close_without_a_status_is_not_success() {
    let mut client = Session::new(Side::Client, &protocol::WEBSOCKET_V5, EVERYTHING, [0; 32]);
    let mut seen = Seen::default();
    client.receive(Time::ZERO, BytesMut::from(&[0x82, 1, 1, 0x88, 2, 3, 0xe8][..]));
    seen.poll(&mut client, Time::ZERO);
    let loss = seen.end.expect("an end").expect_err("a loss");
    assert_eq!(loss.cause, Cause::NoStatus);
}

#[test]
fn an_incomplete_set_of_spdy_streams_ends_within_its_patience() {
    let few = Wants { stdin: false, stdout: true, stderr: false, tty: false };
    let mut client = Session::new(Side::Client, &protocol::SPDY_V4, few, [0; 32]);
    client.begin(Time::ZERO);
    let mut server = Session::new(Side::Server, &protocol::SPDY_V4, EVERYTHING, [0; 32]);
    let mut seen = Seen::default();
    let bytes: Vec<u8> = client.outbox().chunks().flatten().copied().collect();
    server.receive(Time::ZERO, BytesMut::from(&bytes[..]));
    let deadline = seen.poll(&mut server, Time::ZERO).expect("a deadline");
    assert_eq!(deadline.since(Time::ZERO), limits::STREAMS_PATIENCE);
    seen.poll(&mut server, deadline);
    assert!(!seen.ready);
    assert_eq!(seen.end.expect("an end").expect_err("a loss").cause, Cause::Streams);
}

/// A client, a relay and a server; every front with every back that a node may speak.
fn relayed(front: &'static Protocol, back: &'static Protocol, cuts: &[usize], stdin: &[u8]) {
    let mut client = Session::new(Side::Client, front, EVERYTHING, [1; 32]);
    client.begin(Time::ZERO);
    let near = Session::new(Side::Server, front, EVERYTHING, [2; 32]);
    let far = Session::new(Side::Client, back, EVERYTHING, [3; 32]);
    let mut server = Session::new(Side::Server, back, EVERYTHING, [4; 32]);
    let mut relay = Relay::new(near, far);
    let (mut at_client, mut at_server) = (Seen::default(), Seen::default());
    let (mut ending, mut cuts, now) = (None, Cuts::new(cuts), Time::ZERO);
    let mut todo = VecDeque::from([0, 1]);
    loop {
        at_client.poll(&mut client, now);
        at_server.poll(&mut server, now);
        if let Next::Event(end) = relay.poll(now) {
            assert!(ending.replace(end).is_none());
        }
        let mut moved = false;
        let bytes = cuts.piece(client.outbox());
        if !bytes.is_empty() {
            moved = true;
            relay.receive(now, Leg::Near, bytes);
        }
        let bytes = cuts.piece(relay.outbox(Leg::Far));
        if !bytes.is_empty() {
            moved = true;
            server.receive(now, bytes);
        }
        let bytes = cuts.piece(server.outbox());
        if !bytes.is_empty() {
            moved = true;
            relay.receive(now, Leg::Far, bytes);
        }
        let bytes = cuts.piece(relay.outbox(Leg::Near));
        if !bytes.is_empty() {
            moved = true;
            client.receive(now, bytes);
        }
        if moved {
            continue;
        }
        match todo.pop_front() {
            Some(0) => {
                client.send(Channel::Stdin, Bytes::copy_from_slice(stdin));
                client.finish(Channel::Stdin);
            }
            Some(_) => {
                assert_eq!(at_server.data[0], stdin, "{front:?} to {back:?}");
                server.send(Channel::Stdout, Bytes::copy_from_slice(stdin));
                server.send(Channel::Stderr, Bytes::from_static(b"err"));
                server.status(now, &exited(42));
            }
            None => break,
        }
    }
    assert_eq!(at_client.data[1], stdin, "{front:?} to {back:?}");
    assert_eq!(at_client.data[2], b"err");
    assert_eq!(ending, Some(Ending::Status(Outcome::Exited(42))));
    match at_client.end {
        Some(Ok(Outcome::Exited(42))) => assert!(front.json_status),
        Some(Ok(Outcome::Failed { .. })) => assert!(!front.json_status),
        other => panic!("{front:?} to {back:?}: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_front_reaches_any_back(
        cuts in cuts(),
        stdin in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        for front in ALL {
            for back in [&protocol::WEBSOCKET_V5, &protocol::WEBSOCKET_V4, &protocol::SPDY_V4] {
                relayed(front, back, &cuts, &stdin);
            }
        }
    }
}

#[test]
fn a_relay_says_which_leg_was_lost() {
    for front in [&protocol::WEBSOCKET_V5, &protocol::SPDY_V4] {
        let mut pair = Pair::new(front, EVERYTHING, &[1000]);
        let near = Session::new(Side::Server, front, EVERYTHING, [2; 32]);
        let far = Session::new(Side::Client, &protocol::SPDY_V4, EVERYTHING, [3; 32]);
        let mut relay = Relay::new(near, far);
        let now = pair.now;
        for round in 0..8 {
            if round == 4 {
                relay.receive_end(now, Leg::Far, false);
                assert!(matches!(relay.poll(now), Next::Event(Ending::Lost(_))));
            }
            let up: Vec<u8> = pair.client.outbox().chunks().flatten().copied().collect();
            pair.client.outbox().advance(up.len());
            relay.receive(now, Leg::Near, BytesMut::from(&up[..]));
            relay.poll(now);
            let down: Vec<u8> = relay.outbox(Leg::Near).chunks().flatten().copied().collect();
            relay.outbox(Leg::Near).advance(down.len());
            pair.client.receive(now, BytesMut::from(&down[..]));
            pair.at_client.poll(&mut pair.client, now);
        }
        let loss = pair.at_client.end.expect("an end").expect_err("a loss");
        assert!(loss.to_string().contains("gateway to node"), "{loss}");
    }
}

/// A command that starts before its client has opened all streams could end before, too, and its
/// output would have nowhere to go.
#[test]
fn a_command_does_not_start_before_its_client_is_there() {
    for back in [&protocol::SPDY_V4, &protocol::WEBSOCKET_V5] {
        let near = Session::new(Side::Server, &protocol::SPDY_V4, EVERYTHING, [2; 32]);
        let far = Session::new(Side::Client, back, EVERYTHING, [3; 32]);
        let mut relay = Relay::new(near, far);
        let mut client = Session::new(Side::Client, &protocol::SPDY_V4, EVERYTHING, [1; 32]);
        client.begin(Time::ZERO);
        let streams: Vec<u8> = client.outbox().chunks().flatten().copied().collect();
        for (index, byte) in streams.iter().enumerate() {
            relay.poll(Time::ZERO);
            assert!(relay.outbox(Leg::Far).is_empty(), "{back:?} byte {index}");
            assert!(!relay.wants_read(Leg::Far), "{back:?} byte {index}");
            relay.receive(Time::ZERO, Leg::Near, BytesMut::from(&[*byte][..]));
        }
        relay.poll(Time::ZERO);
        assert!(relay.wants_read(Leg::Far), "{back:?}");
        let begun = !relay.outbox(Leg::Far).is_empty();
        assert_eq!(begun, back.carrier == protocol::Carrier::Spdy);
    }
}

/// The lengths of the data messages in what leaves over a WebSocket.
fn message_lengths(outbox: &mut bowline_proto::Outbox) -> Vec<usize> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    outbox.advance(bytes.len());
    let (mut rest, mut lengths) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        assert!(matches!(rest[0], 0x81 | 0x82), "a whole message of text or bytes");
        let mask = if rest[1] & 0x80 == 0 { 0 } else { 4 };
        let (length, head) = match rest[1] & 0x7f {
            126 => (u16::from_be_bytes([rest[2], rest[3]]).into(), 4),
            127 => (u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize, 10),
            short => (short.into(), 2),
        };
        lengths.push(length);
        rest = &rest[head + mask + length..];
    }
    lengths
}

#[test]
fn no_message_is_longer_than_its_limit_as_it_travels() {
    let bulk = || Bytes::from(vec![b'x'; 5 * limits::MESSAGE_BYTES + 7]);
    let most = |row: &Protocol| match row.encoding {
        // Its channel's byte comes on top, as kubectl has it.
        protocol::Encoding::Binary => limits::MESSAGE_BYTES + 1,
        protocol::Encoding::Base64 => limits::MESSAGE_BYTES,
    };
    let websockets = ALL.into_iter().filter(|row| row.carrier == protocol::Carrier::WebSocket);
    for row in websockets {
        let mut server = Session::new(Side::Server, row, EVERYTHING, [2; 32]);
        server.send(Channel::Stdout, bulk());
        let mut client = Session::new(Side::Client, row, EVERYTHING, [1; 32]);
        client.send(Channel::Stdin, bulk());
        for end in [&mut server, &mut client] {
            let lengths = message_lengths(end.outbox());
            let longest = lengths.iter().max().unwrap();
            let close = most(row) - 4..=most(row);
            assert!(lengths.len() > 5 && close.contains(longest), "{row:?}: {lengths:?}");
        }
    }
    for row in protocol::FORWARD_CHANNELS {
        let mut forward = OverWebSocket::new(row, &[80]);
        let Next::Event(ForwardEvent::Requested(id, 80)) = forward.poll(Time::ZERO) else {
            panic!()
        };
        forward.send(id, bulk());
        let lengths = message_lengths(forward.outbox());
        assert!(lengths.len() > 5, "{row:?}");
        assert!(lengths.iter().all(|length| *length <= most(row)), "{row:?}: {lengths:?}");
    }
}
