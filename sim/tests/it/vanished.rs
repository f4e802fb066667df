//! Peers that have gone while nobody can read them: found within their patience, and not before.

use std::time::Duration;

use bowline_io::drive::join;
use bowline_node::{forward, session};
use bowline_proto::limits::{CLOSED_CLIENT_GRACE, FORWARD_CONNECTIONS};
use bowline_proto::portforward::{Forward, OverSpdy, OverWebSocket};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{SPDY, WEBSOCKET};
use bowline_proto::session::{Session, Side};
use bowline_proto::spdy;
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::hostile::{
    Deaf, Hostile, Pod, WANTS, data, message, openings, protocols, said, written,
};

/// A look at a peer, and what else takes a moment.
const SOON: Duration = Duration::from_secs(2);
/// Nobody is waited for that long.
const FOR_EVER: Duration = Duration::from_secs(1000);
const PIECE_BYTES: usize = 16 * 1024;

/// How long it goes on.
async fn lasts(work: impl Future) -> Duration {
    let begun = Instant::now();
    drop(timeout(FOR_EVER, work).await);
    begun.elapsed()
}

/// From when on a client that has ended its direction counts as gone, at the latest when.
fn patience(half_closes: bool) -> (Duration, Duration) {
    let grace = if half_closes { Duration::ZERO } else { CLOSED_CLIENT_GRACE };
    (grace, grace + SOON)
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_process_that_takes_nothing() {
    for protocol in protocols() {
        let again = said(protocol, Side::Client, 0, &[7; PIECE_BYTES]);
        let client = Hostile::gone(openings(protocol)[0].clone(), again);
        let end = CancellationToken::new();
        let lasted = lasts(session::run(Deaf, WANTS, protocol, client, end)).await;
        let (from, to) = patience(protocol.half_closes);
        assert!(lasted >= from && lasted <= to, "{}: {lasted:?}", protocol.name);
    }
}

/// What it may have answered is unread, by our own will.
#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_read_is_not_called_silent() {
    for protocol in protocols() {
        let busy = |side, channel| {
            let opening = openings(protocol)[usize::from(side == Side::Server)].clone();
            Hostile::busy(opening, said(protocol, side, channel, &[7; PIECE_BYTES]))
        };
        let end = CancellationToken::new();
        let client = busy(Side::Client, 0);
        let lasted = lasts(session::run(Deaf, WANTS, protocol, client, end.clone())).await;
        assert_eq!(lasted, FOR_EVER, "a client at a node: {}", protocol.name);
        for (client, node) in [
            (busy(Side::Client, 0), Hostile::says(openings(protocol)[1].clone(), Vec::new(), 0)),
            (Hostile::says(openings(protocol)[0].clone(), Vec::new(), 0), busy(Side::Server, 1)),
        ] {
            let near = Session::new(Side::Server, protocol, WANTS, [0; 32]);
            let far = Session::new(Side::Client, protocol, WANTS, [0; 32]);
            let relay = Relay::new(near, far);
            let lasted = lasts(join(client, node, relay, end.clone(), "")).await;
            assert_eq!(lasted, FOR_EVER, "at a gateway: {}", protocol.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_node_that_takes_nothing() {
    for protocol in protocols() {
        let again = said(protocol, Side::Client, 0, &[7; PIECE_BYTES]);
        let client = Hostile::gone(openings(protocol)[0].clone(), again);
        let node = Hostile::says(openings(SPDY[0])[1].clone(), Vec::new(), 0);
        let near = Session::new(Side::Server, protocol, WANTS, [0; 32]);
        let far = Session::new(Side::Client, SPDY[0], WANTS, [0; 32]);
        let end = CancellationToken::new();
        let lasted = lasts(join(client, node, Relay::new(near, far), end, "")).await;
        let (from, to) = patience(protocol.half_closes);
        // The node's session is then left, with goodbyes that nobody takes.
        let goodbye = Duration::from_secs(10);
        assert!(lasted >= from && lasted <= to + goodbye, "{}: {lasted:?}", protocol.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_forward_whose_node_takes_nothing() {
    for tunnel in [false, true] {
        let again = vec![7; PIECE_BYTES];
        let again = if tunnel { message(Side::Client, false, &again) } else { again };
        let wire = if tunnel { Wire::tunnel(Role::Server, [0; 32]) } else { Wire::plain() };
        let client = Hostile::gone(Vec::new(), again);
        let (splice, end) = (Splice::new(wire), CancellationToken::new());
        let lasted = lasts(join(client, Hostile::deaf(), splice, end, "")).await;
        let (from, to) = patience(false);
        assert!(lasted >= from && lasted <= to, "tunnel {tunnel}: {lasted:?}");
    }
}

/// What it has said is on its way.
#[tokio::test(start_paused = true)]
async fn a_client_whose_node_takes_some_is_heard() {
    let client = Hostile::gone(Vec::new(), vec![7; PIECE_BYTES]);
    let (splice, end) = (Splice::new(Wire::plain()), CancellationToken::new());
    let lasted = lasts(join(client, Hostile::slow(), splice, end, "")).await;
    assert_eq!(lasted, FOR_EVER);
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_forward_whose_ports_take_nothing() {
    // A client that counts would have to wait for leave to say more.
    let mut client = spdy::Connection::new(spdy::Role::Client);
    let names = |kind| [("streamtype", kind), ("port", "80"), ("requestid", "0")];
    let error = client.open(&names("error"));
    client.finish(error);
    client.open(&names("data"));
    let first = written(client.outbox());
    let spdy = || Forward::Spdy(OverSpdy::new(Side::Server, Wire::plain()));
    let channels = || Forward::WebSocket(OverWebSocket::new(WEBSOCKET[0], &[80]));
    let piece = [7; PIECE_BYTES];
    for (forward, first, again, half_closes) in [
        (spdy(), first, data(3, &piece), true),
        (channels(), Vec::new(), said(WEBSOCKET[0], Side::Client, 0, &piece), false),
    ] {
        let client = Hostile::gone(first, again);
        let (most, end) = (FORWARD_CONNECTIONS, CancellationToken::new());
        let lasted = lasts(forward::run(Pod { answers: true }, forward, client, most, end)).await;
        let (from, to) = patience(half_closes);
        assert!(lasted >= from && lasted <= to, "half closes {half_closes}: {lasted:?}");
    }
}
