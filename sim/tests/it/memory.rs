//! Peers that send much that is dropped between little that has to wait: no role holds more memory
//! than its bound says, over any carrier.

use std::fmt::Display;
use std::time::Duration;

use bowline_client::Ends;
use bowline_io::drive::join;
use bowline_node::{forward, session};
use bowline_proto::limits::{EARLY_BYTES, FORWARD_CONNECTIONS, SESSION_HELD_BYTES, STATUS_BYTES};
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{SPDY, WEBSOCKET};
use bowline_proto::session::{Protocol, Session, Side, Wants};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, spdy, websocket};
use bowline_sim::memory::{live, peak_of};
use bytes::{Bytes, BytesMut};
use tokio::runtime::Builder;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::hostile::{
    Deaf, Hostile, NOW, Pod, WANTS, data, message, openings, protocols, said, written,
};

const MIB: usize = 1024 * 1024;
/// Three times a session's bound.
const ROUNDS: usize = 3 * SESSION_HELD_BYTES / MIB;
/// Payloads that are kept apart, and such as are gathered.
const PIECES: [usize; 3] = [1, 513, 5000];

/// A MiB that is dropped, and `piece` bytes in each of these channels.
fn round(protocol: &Protocol, side: Side, channels: &[u8], piece: usize) -> Vec<u8> {
    let mut round = said(protocol, side, 9, &vec![0; MIB]);
    for channel in channels {
        round.extend(said(protocol, side, *channel, &vec![7; piece]));
    }
    round
}

/// Runs something until it waits for nothing but time; gives what it held at most.
fn held(work: impl Future) -> usize {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let inside = async { drop(timeout(Duration::from_secs(3), work).await) };
    let ((), held) = peak_of(|| runtime.block_on(inside));
    held
}

fn check(what: impl Display, held: usize, bound: usize) {
    assert!(held <= bound, "{what}: {held} bytes were held, at most {bound} may be");
    println!("{what}: {held} bytes of {bound}");
}

#[test]
fn a_node_whose_process_takes_nothing() {
    for protocol in protocols() {
        for piece in PIECES {
            let first = openings(protocol)[0].clone();
            let client = Hostile::says(first, round(protocol, Side::Client, &[0], piece), ROUNDS);
            let held = held(session::run(Deaf, WANTS, protocol, client, CancellationToken::new()));
            check(format_args!("{} with {piece}", protocol.name), held, SESSION_HELD_BYTES);
        }
    }
}

#[test]
fn a_gateway_whose_node_takes_nothing() {
    let backs = [WEBSOCKET[0], SPDY[0]];
    for (front, back) in protocols().flat_map(|front| backs.map(|back| (front, back))) {
        for piece in PIECES {
            let first = openings(front)[0].clone();
            let client = Hostile::says(first, round(front, Side::Client, &[0], piece), ROUNDS);
            let node = Hostile::says(openings(back)[1].clone(), Vec::new(), 0);
            let near = Session::new(Side::Server, front, WANTS, [0; 32]);
            let far = Session::new(Side::Client, back, WANTS, [0; 32]);
            let held =
                held(join(client, node, Relay::new(near, far), CancellationToken::new(), ""));
            let what = format!("{} to {} with {piece}", front.name, back.name);
            check(what, held, SESSION_HELD_BYTES);
        }
    }
}

#[test]
fn a_gateway_whose_client_takes_nothing() {
    let backs = [WEBSOCKET[0], SPDY[0]];
    for (front, back) in protocols().flat_map(|front| backs.map(|back| (front, back))) {
        for piece in PIECES {
            let client = Hostile::says(openings(front)[0].clone(), Vec::new(), 0);
            let again = round(back, Side::Server, &[1, 2], piece);
            let node = Hostile::says(openings(back)[1].clone(), again, ROUNDS);
            let near = Session::new(Side::Server, front, WANTS, [0; 32]);
            let far = Session::new(Side::Client, back, WANTS, [0; 32]);
            let held =
                held(join(client, node, Relay::new(near, far), CancellationToken::new(), ""));
            let what = format!("{} from {} with {piece}", front.name, back.name);
            check(what, held, SESSION_HELD_BYTES);
        }
    }
}

#[test]
fn a_client_whose_own_ends_take_nothing() {
    for protocol in protocols() {
        for piece in PIECES {
            let again = round(protocol, Side::Server, &[1, 2], piece);
            let server = Hostile::says(openings(protocol)[1].clone(), again, ROUNDS);
            let session = Session::new(Side::Client, protocol, WANTS, [0; 32]);
            let end = || Hostile::deaf().stream;
            let mut ends = Ends::default();
            ends.stdout = Box::new(end());
            ends.stderr = Box::new(end());
            let held = held(bowline_client::run(server, session, ends));
            check(format_args!("{} with {piece}", protocol.name), held, SESSION_HELD_BYTES);
        }
    }
}

/// Bytes of a client of a port-forward, as they are or in the messages of a tunnel.
fn carried(tunnel: bool, bytes: Vec<u8>) -> Vec<u8> {
    if tunnel { message(Side::Client, false, &bytes) } else { bytes }
}

fn served(tunnel: bool, first: Vec<u8>, again: Vec<u8>, answers: bool) -> usize {
    let client = Hostile::says(carried(tunnel, first), carried(tunnel, again), ROUNDS);
    let wire = if tunnel { Wire::tunnel(Role::Server, [0; 32]) } else { Wire::plain() };
    let forward = Forward::Spdy(OverSpdy::new(Side::Server, wire));
    let (most, end) = (FORWARD_CONNECTIONS, CancellationToken::new());
    held(forward::run(Pod { answers }, forward, client, most, end))
}

/// Connections that are open at once.
const CONNECTIONS: usize = 100;

#[test]
fn a_forward_whose_ports_take_nothing() {
    let mut client = OverSpdy::new(Side::Client, Wire::plain());
    for _ in 0..CONNECTIONS {
        client.connect(NOW, 80).unwrap();
    }
    let first = written(client.outbox());
    for (tunnel, answers) in [(false, true), (false, false), (true, true), (true, false)] {
        for piece in PIECES {
            // The data of connection N is stream 4 N + 3.
            let mut again = data(99_999, &vec![0; MIB]);
            for number in 0..CONNECTIONS as u32 {
                again.extend(data(4 * number + 3, &vec![7; piece]));
            }
            let counted = CONNECTIONS * piece * ROUNDS;
            let held = served(tunnel, first.clone(), again, answers);
            let what = format!("tunnel {tunnel}, answered {answers}, with {piece}");
            check(what, held, 2 * counted + SESSION_HELD_BYTES);
        }
    }
}

#[test]
fn a_forward_with_much_for_streams_that_are_no_pair() {
    let mut client = spdy::Connection::new(spdy::Role::Client);
    for number in 0..5000 {
        let number = number.to_string();
        let headers = [("streamtype", "data"), ("port", "80"), ("requestid", &*number)];
        let stream = client.open(&headers);
        client.send(stream, Bytes::from(vec![7; EARLY_BYTES - 1000]));
    }
    let first = written(client.outbox());
    for tunnel in [false, true] {
        let held = served(tunnel, first.clone(), Vec::new(), true);
        check(format_args!("tunnel {tunnel}"), held, SESSION_HELD_BYTES);
    }
}

#[test]
fn a_forward_in_channels_whose_ports_take_nothing() {
    for protocol in WEBSOCKET {
        for piece in PIECES {
            let again = round(protocol, Side::Client, &[0, 2, 4], piece);
            let client = Hostile::says(Vec::new(), again, ROUNDS);
            let forward = Forward::WebSocket(OverWebSocket::new(protocol, &[80, 81, 82]));
            let (most, end) = (FORWARD_CONNECTIONS, CancellationToken::new());
            let held = held(forward::run(Pod { answers: true }, forward, client, most, end));
            check(format_args!("{} with {piece}", protocol.name), held, SESSION_HELD_BYTES);
        }
    }
}

/// In a tunnel nothing but pongs is dropped.
#[test]
fn a_passage_whose_node_takes_nothing() {
    for piece in PIECES {
        let pong = [&[0x8a, 0xfd, 0, 0, 0, 0][..], &[0; 125]].concat();
        let mut again = pong.repeat(MIB / pong.len());
        again.extend(message(Side::Client, false, &vec![7; piece]));
        let client = Hostile::says(Vec::new(), again, ROUNDS);
        let node = Hostile::deaf();
        let splice = Splice::new(Wire::tunnel(Role::Server, [0; 32]));
        let held = held(join(client, node, splice, CancellationToken::new(), ""));
        check(format_args!("with {piece}"), held, SESSION_HELD_BYTES);
    }
}

#[test]
fn a_passage_whose_client_takes_nothing() {
    for piece in PIECES {
        let client = Hostile::deaf();
        let node = Hostile::says(Vec::new(), vec![7; piece], 3 * SESSION_HELD_BYTES / piece);
        let splice = Splice::new(Wire::tunnel(Role::Server, [0; 32]));
        let held = held(join(client, node, splice, CancellationToken::new(), ""));
        check(format_args!("with {piece}"), held, SESSION_HELD_BYTES);
    }
}

#[test]
fn the_beginning_of_a_frame_keeps_nothing_else() {
    const BEGINNING_BYTES: isize = 1024;
    let junk = |bytes: Vec<u8>, begun: &[u8]| BytesMut::from(&[&bytes[..], begun].concat()[..]);
    let config =
        websocket::Config { role: Role::Server, continuation: websocket::Continuation::Join };
    let mut connection = websocket::Connection::new(config, [0; 32]);
    let before = live();
    connection.receive(junk(message(Side::Client, false, &vec![0; MIB]), &[0x82]));
    while connection.poll().is_some() {}
    assert!(live() - before < BEGINNING_BYTES, "{} bytes are kept", live() - before);
    for begun in [&[0x80][..], &[0x80, 3, 0, 1, 0, 0, 1, 0, 0]] {
        let mut connection = spdy::Connection::new(spdy::Role::Server);
        let before = live();
        connection.receive(junk(data(99, &vec![0; MIB]), begun));
        while connection.poll().is_some() {}
        assert!(live() - before < BEGINNING_BYTES, "{} bytes are kept", live() - before);
    }
}

/// A Status and sizes without an end.
#[test]
fn what_is_gathered_is_bounded() {
    for protocol in protocols() {
        let mut client = Session::new(Side::Client, protocol, WANTS, [0; 32]);
        client.begin(NOW);
        client.receive(NOW, BytesMut::from(&openings(protocol)[1][..]));
        let part = said(protocol, Side::Server, 3, &vec![b' '; MIB / 4]);
        let ((), held) = peak_of(|| {
            for _ in 0..40 {
                client.receive(NOW, BytesMut::from(&part[..]));
                while let Next::Event(_) = client.poll(NOW) {}
            }
        });
        check(protocol.name, held, 3 * STATUS_BYTES + MIB);
    }
    let wants = Wants { tty: true, stderr: false, ..WANTS };
    for protocol in WEBSOCKET {
        let mut server = Session::new(Side::Server, protocol, wants, [0; 32]);
        let sizes = said(protocol, Side::Client, 4, &b"{}".repeat(MIB / 2));
        let ((), held) = peak_of(|| {
            server.receive(NOW, BytesMut::from(&sizes[..]));
            while let Next::Event(_) = server.poll(NOW) {}
        });
        check(protocol.name, held, 3 * MIB);
    }
}
