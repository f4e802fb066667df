//! Sessions between two connections that reach a bound.

use std::num::NonZeroU64;
use std::time::Duration;

use bowline_io::clock::Clock;
use bowline_io::drive::{Bounds, Exceeded, Socket, join_within};
use bowline_proto::relay::Relay;
use bowline_proto::session::protocol::{SPDY_V4, WEBSOCKET_V5};
use bowline_proto::session::{Channel, Event, Side, Status};
use bowline_proto::{Machine, Next};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::join::{go_on, leg, wire};

/// A node whose command writes so many bytes, and ends if it is to. How it was lost.
async fn node(stream: TcpStream, bytes: usize, ends: bool) -> String {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, Side::Server, &SPDY_V4);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Ready) => {
                session.send(Channel::Stdout, vec![b'x'; bytes].into());
                if ends {
                    session.finish(Channel::Stdout);
                    session.status(clock.now(), &Status::success());
                }
            }
            Next::Event(Event::Lost(loss)) => return loss.to_string(),
            Next::Event(_) => {}
            Next::Done => return "done".to_owned(),
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

/// A client that only looks: how much came, and what came last.
async fn client(stream: TcpStream) -> (usize, String) {
    let clock = Clock::start();
    let (upgraded, mut session) = leg(stream, Side::Client, &WEBSOCKET_V5);
    let mut socket = Socket::new(upgraded.stream, upgraded.early);
    session.begin(clock.now());
    let mut bytes = 0;
    loop {
        match session.poll(clock.now()) {
            Next::Event(Event::Data(_, came)) => bytes += came.len(),
            Next::Event(Event::Status(status)) => {
                return (bytes, format!("{:?}", status.outcome()));
            }
            Next::Event(Event::Lost(loss)) => return (bytes, loss.to_string()),
            Next::Event(_) => {}
            Next::Done => return (bytes, "done".to_owned()),
            Next::Idle(_) => go_on(&clock, &mut socket, &mut session).await,
        }
    }
}

async fn run(
    bounds: Bounds,
    bytes: usize,
    ends: bool,
) -> ((usize, String), Option<Exceeded>, Duration) {
    let (near_client, near) = wire().await;
    let (far, behind) = wire().await;
    let near = leg(near, Side::Server, &WEBSOCKET_V5);
    let far = leg(far, Side::Client, &SPDY_V4);
    let begun = Instant::now();
    let (near, far, relay) = (near.0, far.0, Relay::new(near.1, far.1));
    let relay = join_within(bounds, near, far, relay, CancellationToken::new(), "");
    let (client, joint, _) = tokio::join!(client(near_client), relay, node(behind, bytes, ends));
    (client, joint.exceeded, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_session_that_reaches_a_bound_is_lost_and_says_which_one() {
    let minute = Duration::from_secs(60);
    for (bounds, exceeded, text) in [
        (
            Bounds { idle: Some(minute), ..Bounds::default() },
            Exceeded::Idle(minute),
            "the session was idle for 60 s",
        ),
        (
            Bounds { silence: Some(minute), ..Bounds::default() },
            Exceeded::Silence(minute),
            "the client sent nothing for 60 s",
        ),
        (
            Bounds { age: Some(minute), ..Bounds::default() },
            Exceeded::Age(minute),
            "the session has reached its age of 60 s",
        ),
    ] {
        let ((bytes, last), said, lasted) = run(bounds, 100, false).await;
        assert_eq!((bytes, said), (100, Some(exceeded)));
        assert!(last.contains(text), "{last}");
        assert!(lasted >= minute && lasted < minute * 2, "{text}: {lasted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_keeps_to_its_bandwidth_and_loses_nothing_by_it() {
    let rate = NonZeroU64::new(1024 * 1024);
    let bounds = Bounds { bytes_per_second: rate, ..Bounds::default() };
    let ((bytes, last), exceeded, lasted) = run(bounds, 8 * 1024 * 1024, true).await;
    assert_eq!((bytes, &*last, exceeded), (8 * 1024 * 1024, "Success", None));
    assert!(lasted >= Duration::from_secs(7) && lasted < Duration::from_secs(10), "{lasted:?}");
}
