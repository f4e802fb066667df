//! `instructions CASE PIECE MIB`: moves so much through a codec or the relay, in messages or frames
//! of `PIECE` bytes, for a program that counts instructions. Without arguments it names the cases.

#![expect(clippy::disallowed_macros, reason = "a program of its own, without a peer's text")]

use std::process::ExitCode;

use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V4_BASE64, WEBSOCKET_V5};
use bowline_proto::session::{Channel, Event, Protocol, Session, Side, Wants};
use bowline_proto::{Intermediary, Leg, Machine, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};

const MIB: usize = 1 << 20;
const WANTS: Wants = Wants { stdin: true, stdout: true, stderr: false, tty: false };
const NOW: Time = Time::ZERO;

/// What is counted. Up is from client to node.
enum Case {
    /// A session's bytes to events.
    Read(Way, &'static Protocol),
    /// Events to a session's bytes.
    Write(Way, &'static Protocol),
    /// WebSocket on the one side, SPDY on the other.
    Relay(Way),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

impl Way {
    fn channel(self) -> Channel {
        if self == Way::Up { Channel::Stdin } else { Channel::Stdout }
    }
}

const CASES: [(&str, Case); 14] = [
    ("websocket-read-masked", Case::Read(Way::Up, &WEBSOCKET_V5)),
    ("websocket-read", Case::Read(Way::Down, &WEBSOCKET_V5)),
    ("websocket-write-masked", Case::Write(Way::Up, &WEBSOCKET_V5)),
    ("websocket-write", Case::Write(Way::Down, &WEBSOCKET_V5)),
    ("base64-read-masked", Case::Read(Way::Up, &WEBSOCKET_V4_BASE64)),
    ("base64-read", Case::Read(Way::Down, &WEBSOCKET_V4_BASE64)),
    ("base64-write-masked", Case::Write(Way::Up, &WEBSOCKET_V4_BASE64)),
    ("base64-write", Case::Write(Way::Down, &WEBSOCKET_V4_BASE64)),
    ("spdy-read-up", Case::Read(Way::Up, &SPDY_V4)),
    ("spdy-read-down", Case::Read(Way::Down, &SPDY_V4)),
    ("spdy-write-up", Case::Write(Way::Up, &SPDY_V4)),
    ("spdy-write-down", Case::Write(Way::Down, &SPDY_V4)),
    ("relay-up", Case::Relay(Way::Up)),
    ("relay-down", Case::Relay(Way::Down)),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [name, piece, mib] = &words[..] else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|(known, _)| known == name).map(|(_, case)| case);
    let (Some(case), Ok(piece), Ok(mib)) = (case, piece.parse(), mib.parse()) else {
        eprintln!("instructions [CASE PIECE MIB]");
        return ExitCode::FAILURE;
    };
    let moved = match case {
        Case::Read(way, protocol) => read(*way, protocol, piece, mib),
        Case::Write(way, protocol) => write(*way, protocol, piece, mib),
        Case::Relay(way) => relay(*way, piece, mib),
    };
    if moved == mib * MIB {
        return ExitCode::SUCCESS;
    }
    eprintln!("{moved} bytes were moved");
    ExitCode::FAILURE
}

/// A client and a server that have all their channels.
fn pair(protocol: &'static Protocol) -> (Session, Session) {
    let mut client = Session::new(Side::Client, protocol, WANTS, [7; 32]);
    let mut server = Session::new(Side::Server, protocol, WANTS, [8; 32]);
    client.begin(NOW);
    for _ in 0..4 {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    (client, server)
}

fn pass(from: &mut Session, to: &mut Session) {
    data(from);
    to.receive(NOW, taken(from.outbox()));
    data(to);
}

/// Takes all events; gives how many bytes were among them.
fn data(session: &mut Session) -> usize {
    let mut bytes = 0;
    while let Next::Event(event) = session.poll(NOW) {
        if let Event::Data(_, piece) = event {
            bytes += piece.len();
        }
    }
    bytes
}

fn taken(outbox: &mut Outbox) -> BytesMut {
    let bytes = outbox.chunks().fold(BytesMut::new(), |mut all, chunk| {
        all.extend_from_slice(chunk);
        all
    });
    outbox.advance(bytes.len());
    bytes
}

/// What counts: what is prepared outside of this does not.
#[inline(never)]
fn counted(work: impl FnOnce() -> usize) -> usize {
    std::hint::black_box(work())
}

/// A MiB, each piece in a buffer of its own as a read gives it.
fn payload(piece: usize) -> Vec<Bytes> {
    vec![b'x'; MIB].chunks(piece).map(Bytes::copy_from_slice).collect()
}

fn send(session: &mut Session, channel: Channel, pieces: Vec<Bytes>) {
    for piece in pieces {
        session.send(channel, piece);
    }
}

fn inputs(encoded: &[u8], mib: usize) -> Vec<BytesMut> {
    (0..mib).map(|_| BytesMut::from(encoded)).collect()
}

fn read(way: Way, protocol: &'static Protocol, piece: usize, mib: usize) -> usize {
    let (client, server) = pair(protocol);
    let (mut from, mut to) = if way == Way::Up { (client, server) } else { (server, client) };
    send(&mut from, way.channel(), payload(piece));
    let inputs = inputs(&taken(from.outbox()), mib);
    counted(|| {
        let each = inputs.into_iter().map(|input| {
            to.receive(NOW, input);
            data(&mut to)
        });
        each.sum()
    })
}

fn write(way: Way, protocol: &'static Protocol, piece: usize, mib: usize) -> usize {
    let (client, server) = pair(protocol);
    let mut from = if way == Way::Up { client } else { server };
    let payloads: Vec<_> = (0..mib).map(|_| payload(piece)).collect();
    counted(|| {
        let each = payloads.into_iter().map(|payload| {
            send(&mut from, way.channel(), payload);
            // More than the payload: headers are among it.
            drain(from.outbox()).min(MIB)
        });
        each.sum()
    })
}

/// As a socket takes it.
fn drain(outbox: &mut Outbox) -> usize {
    let mut all = 0;
    while !outbox.is_empty() {
        let length = outbox.chunks().take(64).map(<[u8]>::len).sum();
        outbox.advance(length);
        all += length;
    }
    all
}

fn relay(way: Way, piece: usize, mib: usize) -> usize {
    let near = Session::new(Side::Server, &WEBSOCKET_V5, WANTS, [7; 32]);
    let far = Session::new(Side::Client, &SPDY_V4, WANTS, [8; 32]);
    let mut client = Session::new(Side::Client, &WEBSOCKET_V5, WANTS, [9; 32]);
    let mut node = Session::new(Side::Server, &SPDY_V4, WANTS, [10; 32]);
    let mut relay = Relay::new(near, far);
    client.begin(NOW);
    for _ in 0..4 {
        while let Next::Event(_) = relay.poll(NOW) {}
        for (leg, end) in [(Leg::Near, &mut client), (Leg::Far, &mut node)] {
            data(end);
            relay.receive(NOW, leg, taken(end.outbox()));
            while let Next::Event(_) = relay.poll(NOW) {}
            end.receive(NOW, taken(relay.outbox(leg)));
            data(end);
        }
    }
    let (from, leg, to) = match way {
        Way::Up => (&mut client, Leg::Near, Leg::Far),
        Way::Down => (&mut node, Leg::Far, Leg::Near),
    };
    send(from, way.channel(), payload(piece));
    let inputs = inputs(&taken(from.outbox()), mib);
    counted(|| inputs.into_iter().map(|input| passed(&mut relay, leg, to, input).min(MIB)).sum())
}

fn passed(relay: &mut Relay, leg: Leg, to: Leg, input: BytesMut) -> usize {
    relay.receive(NOW, leg, input);
    let mut passed = 0;
    loop {
        while let Next::Event(_) = relay.poll(NOW) {}
        match drain(relay.outbox(to)) {
            0 => return passed,
            length => passed += length,
        }
    }
}
