//! A gateway's splice between a client's connection and a node's, and what ends it.

mod whole;

use std::time::Duration;

use bowline_proto::limits::{CLOSED_CLIENT_GRACE, CLOSING_PATIENCE, OUTBOX_BYTES, READ_BYTES};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::websocket::{Closed, Role};
use bowline_proto::{Intermediary, Leg, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};

use crate::wire::{all, frame, taken};

const NOW: Time = Time::ZERO;

/// How the near side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Plain,
    Tunnel,
}

const NEARS: [Near; 2] = [Near::Plain, Near::Tunnel];

impl Near {
    fn splice(self) -> Splice {
        Splice::new(match self {
            Near::Plain => Wire::plain(),
            Near::Tunnel => Wire::tunnel(Role::Server, [1; 32]),
        })
    }

    /// Bytes of the client's, as they travel.
    fn carried(self, bytes: &[u8]) -> BytesMut {
        match self {
            Near::Plain => BytesMut::from(bytes),
            Near::Tunnel => BytesMut::from(&frame(true, 0x82, bytes)[..]),
        }
    }

    /// What the client reads out of what came, and how its connection ended.
    fn read(self, bytes: BytesMut) -> (Vec<u8>, Option<Closed>) {
        let mut wire = match self {
            Near::Plain => Wire::plain(),
            Near::Tunnel => Wire::tunnel(Role::Client, [2; 32]),
        };
        wire.receive(bytes);
        let (mut all, mut ended) = (Vec::new(), None);
        while let Some(came) = wire.poll() {
            match came {
                Incoming::Bytes(bytes) => all.extend_from_slice(&bytes),
                Incoming::Closed(closed) => ended = Some(closed),
            }
        }
        (all, ended)
    }

    /// The client ends its side in order.
    fn end(self, splice: &mut Splice, now: Time) {
        match self {
            Near::Plain => splice.receive_end(now, Leg::Near, false),
            Near::Tunnel => {
                let close = frame(true, 0x88, &[3, 0xe8]);
                splice.receive(now, Leg::Near, BytesMut::from(&close[..]));
            }
        }
    }
}

/// Drains `poll`: the ending where it is told now, and what comes last.
fn poll(splice: &mut Splice, now: Time) -> (Option<Leg>, Next<Leg>) {
    let mut ending = None;
    loop {
        match splice.poll(now) {
            Next::Event(leg) => assert!(ending.replace(leg).is_none(), "it is told once"),
            next => return (ending, next),
        }
    }
}

/// All that waits for a side, as its socket takes it.
fn leaves(splice: &mut Splice, now: Time, leg: Leg) -> BytesMut {
    let mut bytes = BytesMut::new();
    while !splice.outbox(leg).is_empty() {
        bytes.unsplit(all(splice.outbox(leg)));
        poll(splice, now);
    }
    bytes
}

fn close_frame(code: u16, reason: &str) -> Option<Closed> {
    Some(Closed::CloseFrame { code: Some(code), reason: reason.into() })
}

#[test]
fn what_ends_the_near_side_ends_the_far_one_behind_what_waits_for_it() {
    for near in NEARS {
        let mut splice = near.splice();
        splice.receive(NOW, Leg::Near, near.carried(b"last words"));
        near.end(&mut splice, NOW);
        let (ending, next) = poll(&mut splice, NOW);
        assert_eq!(ending, Some(Leg::Near), "{near:?}");
        assert_eq!(next, Next::Idle(Some(NOW + CLOSING_PATIENCE)), "{near:?}");
        let far = splice.outbox(Leg::Far);
        assert!(far.is_finishing() && !far.is_empty(), "{near:?}");
        assert_eq!(&leaves(&mut splice, NOW, Leg::Far)[..], b"last words", "{near:?}");
        // The far side ends as an answer, and is not told as the one that did.
        splice.receive_end(NOW, Leg::Far, false);
        poll(&mut splice, NOW);
        leaves(&mut splice, NOW, Leg::Near);
        assert_eq!(poll(&mut splice, NOW), (None, Next::Done), "{near:?}");
        assert!(!splice.is_cut(Leg::Near) && !splice.is_cut(Leg::Far), "{near:?}");
    }
}

#[test]
fn what_ends_the_far_side_ends_the_near_one_behind_what_waits_for_it() {
    for near in NEARS {
        let mut splice = near.splice();
        let words = vec![7; 600_000];
        splice.receive(NOW, Leg::Far, BytesMut::from(&words[..]));
        splice.receive_end(NOW, Leg::Far, false);
        splice.receive_end(NOW, Leg::Far, true);
        let (ending, next) = poll(&mut splice, NOW);
        assert_eq!((ending, next), (Some(Leg::Far), Next::Idle(Some(NOW + CLOSING_PATIENCE))));
        let (bytes, closed) = near.read(leaves(&mut splice, NOW, Leg::Near));
        assert_eq!(bytes.len(), words.len(), "{near:?}");
        let close = if near == Near::Tunnel { close_frame(1000, "") } else { None };
        assert_eq!(closed, close, "{near:?}");
        assert!(splice.outbox(Leg::Near).is_finishing(), "{near:?}");
        near.end(&mut splice, NOW);
        assert_eq!(poll(&mut splice, NOW), (None, Next::Done), "{near:?}");
    }
}

#[test]
fn a_far_side_that_breaks_does_not_close_a_tunnel_as_if_all_were_well() {
    for near in NEARS {
        let mut splice = near.splice();
        splice.receive(NOW, Leg::Far, BytesMut::from(&[7; 600_000][..]));
        splice.receive_end(NOW, Leg::Far, true);
        assert_eq!(poll(&mut splice, NOW).0, Some(Leg::Far));
        let (bytes, closed) = near.read(leaves(&mut splice, NOW, Leg::Near));
        assert_eq!(bytes.len(), 600_000, "what came before is the client's: {near:?}");
        let broken = close_frame(1011, "the connection to the node broke");
        assert_eq!(closed, if near == Near::Tunnel { broken } else { None });
    }
}

#[test]
fn a_tunnel_that_breaks_ends_the_far_side_without_a_word() {
    let faults = [frame(true, 0x81, b"text"), frame(false, 0x82, b"not masked")];
    for fault in faults.iter().map(Some).chain([None]) {
        let mut splice = Near::Tunnel.splice();
        splice.receive(NOW, Leg::Near, Near::Tunnel.carried(b"before"));
        match fault {
            Some(fault) => splice.receive(NOW, Leg::Near, BytesMut::from(&fault[..])),
            None => splice.receive_end(NOW, Leg::Near, true),
        }
        assert_eq!(poll(&mut splice, NOW).0, Some(Leg::Near));
        assert_eq!(&leaves(&mut splice, NOW, Leg::Far)[..], b"before");
        assert!(splice.outbox(Leg::Far).is_finishing());
    }
}

#[test]
fn a_side_that_does_not_answer_an_end_is_waited_for_no_longer_than_its_patience() {
    for near in NEARS {
        for leg in [Leg::Near, Leg::Far] {
            let mut splice = near.splice();
            match leg {
                Leg::Near => near.end(&mut splice, NOW),
                Leg::Far => splice.receive_end(NOW, leg, false),
            }
            let early = Time::from_micros(CLOSING_PATIENCE.as_micros() as u64 - 1);
            for leg in [Leg::Near, Leg::Far] {
                poll(&mut splice, NOW);
                leaves(&mut splice, NOW, leg);
            }
            let waits = Next::Idle(Some(NOW + CLOSING_PATIENCE));
            assert_eq!(poll(&mut splice, early), (None, waits), "{near:?} {leg:?}");
            let done = poll(&mut splice, NOW + CLOSING_PATIENCE);
            assert_eq!(done, (None, Next::Done), "{near:?} {leg:?}");
        }
    }
}

#[test]
fn a_client_that_reads_slowly_gets_all_that_it_is_owed() {
    for near in NEARS {
        let mut splice = near.splice();
        splice.receive(NOW, Leg::Far, BytesMut::from(&[7; 100_000][..]));
        splice.receive_end(NOW, Leg::Far, false);
        let (mut now, mut got) = (NOW, BytesMut::new());
        while got.len() < 100_000 {
            let (_, Next::Idle(Some(until))) = poll(&mut splice, now) else { panic!("{near:?}") };
            now = until;
            got.unsplit(taken(splice.outbox(Leg::Near), 1000));
        }
        assert!(now > NOW + CLOSING_PATIENCE * 90, "{near:?}");
        // What its host has not got yet is owed as well.
        leaves(&mut splice, now, Leg::Near);
        for underway in [100, 100, 1, 1] {
            splice.outbox(Leg::Near).set_underway(underway);
            let (_, Next::Idle(Some(until))) = poll(&mut splice, now) else { panic!("{near:?}") };
            now = until;
        }
        splice.outbox(Leg::Near).set_underway(0);
        assert_eq!(poll(&mut splice, now).1, Next::Done, "{near:?}");
    }
}

#[test]
fn a_far_side_that_takes_nothing_is_not_waited_for_once_the_near_one_has_ended() {
    let mut splice = Splice::new(Wire::plain());
    splice.receive(NOW, Leg::Near, BytesMut::from(&[7; OUTBOX_BYTES][..]));
    while let Next::Event(_) = splice.poll(NOW) {}
    splice.receive_end(NOW, Leg::Near, false);
    let mut now = NOW;
    let next = |splice: &mut Splice, now: &mut Time| match poll(splice, *now).1 {
        Next::Idle(Some(until)) => *now = until,
        other => panic!("{other:?} at {now:?}"),
    };
    // As long as it takes some of it, it is.
    while now < NOW + CLOSED_CLIENT_GRACE * 3 {
        next(&mut splice, &mut now);
        splice.outbox(Leg::Far).advance(1);
    }
    let last = now;
    loop {
        match splice.poll(now) {
            Next::Event(_) => {}
            Next::Idle(Some(until)) => now = until,
            Next::Idle(None) => panic!("it waits for ever"),
            Next::Done => break,
        }
    }
    assert!(now >= last + CLOSED_CLIENT_GRACE && now <= last + CLOSED_CLIENT_GRACE * 2);
    assert!(splice.is_cut(Leg::Far), "it has not got all, and nothing else would say so");
}

#[test]
fn a_side_whose_other_side_takes_nothing_is_not_read() {
    for near in NEARS {
        for leg in [Leg::Near, Leg::Far] {
            let other = if leg == Leg::Near { Leg::Far } else { Leg::Near };
            let mut splice = near.splice();
            let (mut sent, read) = (0, 100_000);
            while splice.wants_read(leg) {
                let bytes = match leg {
                    Leg::Near => near.carried(&vec![7; read]),
                    Leg::Far => BytesMut::from(&vec![7; read][..]),
                };
                splice.receive(NOW, leg, bytes);
                poll(&mut splice, NOW);
                splice.outbox(other);
                sent += read;
                assert!(sent <= OUTBOX_BYTES + read, "{near:?} {leg:?}");
            }
            assert!(sent >= OUTBOX_BYTES, "{near:?} {leg:?}");
            assert!(splice.wants_read(other), "the other way is free: {near:?} {leg:?}");
            taken(splice.outbox(other), 200_000);
            assert!(splice.wants_read(leg), "and there is room again: {near:?} {leg:?}");
        }
    }
}

/// A side that has ended may still say something, and the other one may still take something.
#[test]
fn no_more_is_held_than_an_outbox_and_a_read_also_behind_the_end_of_the_side_it_is_for() {
    for near in NEARS {
        for leg in [Leg::Near, Leg::Far] {
            let other = if leg == Leg::Near { Leg::Far } else { Leg::Near };
            let mut splice = near.splice();
            match other {
                Leg::Near => near.end(&mut splice, NOW),
                Leg::Far => splice.receive_end(NOW, other, false),
            }
            poll(&mut splice, NOW);
            for _ in 0..20 {
                if splice.wants_read(leg) {
                    let read = vec![7; READ_BYTES];
                    let bytes = match leg {
                        Leg::Near => near.carried(&read),
                        Leg::Far => BytesMut::from(&read[..]),
                    };
                    splice.receive(NOW, leg, bytes);
                    poll(&mut splice, NOW);
                }
                let held = splice.outbox(other).len();
                assert!(held <= OUTBOX_BYTES + READ_BYTES + 1000, "{near:?} {leg:?}: {held}");
            }
            // Whoever takes all of it has not got all, and must not take it for that. A tunnel's
            // Close says that its side takes nothing.
            let drops = (near, other) != (Near::Tunnel, Leg::Near);
            leaves(&mut splice, NOW, other);
            assert_eq!(splice.is_cut(other), drops, "{near:?} {leg:?}");
            let late = match leg {
                Leg::Near => near.carried(b"behind what was dropped"),
                Leg::Far => BytesMut::from("behind what was dropped"),
            };
            splice.receive(NOW, leg, late);
            assert!(leaves(&mut splice, NOW, other).is_empty(), "{near:?} {leg:?}");
        }
    }
}

#[test]
fn a_client_that_vanished_leaves_a_far_side_that_is_cut() {
    for near in NEARS {
        let mut splice = near.splice();
        splice.receive(NOW, Leg::Near, near.carried(&[7; 1000]));
        poll(&mut splice, NOW);
        splice.receive(NOW, Leg::Far, BytesMut::from(&[7; 1000][..]));
        assert!(splice.is_cut(Leg::Far), "it has not got all yet");
        assert_eq!(splice.client_grace(), CLOSED_CLIENT_GRACE);
        splice.client_gone(NOW);
        assert_eq!(poll(&mut splice, NOW), (Some(Leg::Near), Next::Done), "{near:?}");
        assert!(splice.is_cut(Leg::Far) && !splice.is_cut(Leg::Near), "{near:?}");
        for leg in [Leg::Near, Leg::Far] {
            assert!(splice.outbox(leg).is_empty(), "nothing is held: {near:?} {leg:?}");
        }
    }
}

#[test]
fn a_far_side_that_got_all_is_not_cut_once_its_host_has_it() {
    let mut splice = Near::Plain.splice();
    splice.receive(NOW, Leg::Near, BytesMut::from(&[7; 1000][..]));
    poll(&mut splice, NOW);
    assert!(splice.is_cut(Leg::Far));
    leaves(&mut splice, NOW, Leg::Far);
    splice.outbox(Leg::Far).set_underway(10);
    assert!(splice.is_cut(Leg::Far));
    splice.outbox(Leg::Far).set_underway(0);
    assert!(!splice.is_cut(Leg::Far));
}

#[test]
fn who_is_told_that_it_is_over_hears_why_behind_what_waits_and_nothing_more_is_taken() {
    for near in NEARS {
        let mut splice = near.splice();
        splice.receive(NOW, Leg::Near, near.carried(b"up"));
        poll(&mut splice, NOW);
        splice.receive(NOW, Leg::Far, BytesMut::from("down"));
        splice.abort(NOW, "the gateway shuts down");
        splice.receive(NOW, Leg::Near, near.carried(b"too late"));
        splice.receive(NOW, Leg::Far, BytesMut::from("too late"));
        assert_eq!(poll(&mut splice, NOW), (None, Next::Idle(Some(NOW + CLOSING_PATIENCE))));
        assert_eq!(&leaves(&mut splice, NOW, Leg::Far)[..], b"up", "{near:?}");
        let (bytes, closed) = near.read(leaves(&mut splice, NOW, Leg::Near));
        let why = close_frame(1011, "the gateway shuts down");
        let why = if near == Near::Tunnel { why } else { None };
        assert_eq!((&bytes[..], closed), (&b"down"[..], why), "{near:?}");
        for leg in [Leg::Near, Leg::Far] {
            assert!(splice.outbox(leg).is_finishing(), "{near:?} {leg:?}");
        }
        let late = NOW + CLOSING_PATIENCE + Duration::from_secs(1);
        assert_eq!(poll(&mut splice, late).1, Next::Done, "{near:?}");
    }
}

#[test]
fn a_tunnels_pings_are_answered_by_the_gateway_and_reach_no_node() {
    let mut splice = Near::Tunnel.splice();
    splice.receive(NOW, Leg::Near, BytesMut::from(&frame(true, 0x89, b"you?")[..]));
    poll(&mut splice, NOW);
    assert!(splice.outbox(Leg::Far).is_empty());
    assert_eq!(&all(splice.outbox(Leg::Near))[..], frame(false, 0x8a, b"you?"));
}

/// Its socket may be closed already, and then takes what waits in vain.
#[test]
fn a_tunnel_that_has_closed_holds_nothing_of_the_far_sides() {
    let mut splice = Near::Tunnel.splice();
    splice.receive(NOW, Leg::Far, BytesMut::from(&[7; 700_000][..]));
    Near::Tunnel.end(&mut splice, NOW);
    poll(&mut splice, NOW);
    // What is in messages already goes before the answer.
    let outbox: &mut Outbox = splice.outbox(Leg::Near);
    assert!(outbox.len() < 1000, "{}", outbox.len());
    splice.receive(NOW, Leg::Far, BytesMut::from(&Bytes::from(vec![7; 700_000])[..]));
    assert!(splice.outbox(Leg::Near).len() < 1000);
}

#[test]
fn a_far_side_in_a_tunnel_gets_messages_and_what_ends_it_ends_the_client() {
    for near in NEARS {
        let mut splice = near.splice().with_far(Wire::tunnel(Role::Client, [3; 32]));
        let mut node = Wire::tunnel(Role::Server, [4; 32]);
        splice.receive(NOW, Leg::Near, near.carried(b"up"));
        poll(&mut splice, NOW);
        node.receive(leaves(&mut splice, NOW, Leg::Far));
        assert_eq!(node.poll(), Some(Incoming::Bytes(Bytes::from("up"))), "{near:?}");
        splice.receive(NOW, Leg::Far, BytesMut::from(&frame(false, 0x82, b"down")[..]));
        assert_eq!(near.read(leaves(&mut splice, NOW, Leg::Near)).0, b"down", "{near:?}");
        near.end(&mut splice, NOW);
        assert_eq!(poll(&mut splice, NOW).0, Some(Leg::Near));
        node.receive(leaves(&mut splice, NOW, Leg::Far));
        let closed = close_frame(1000, "");
        assert_eq!(node.poll(), closed.map(Incoming::Closed), "{near:?}");
        // The answer to its Close, after which nothing more is to come.
        splice.receive(NOW, Leg::Far, BytesMut::from(&frame(false, 0x88, &[3, 0xe8])[..]));
        leaves(&mut splice, NOW, Leg::Near);
        assert_eq!(poll(&mut splice, NOW).1, Next::Done, "{near:?}");

        let mut splice = near.splice().with_far(Wire::tunnel(Role::Client, [3; 32]));
        splice.receive(NOW, Leg::Far, BytesMut::from(&frame(false, 0x82, b"last")[..]));
        splice.receive_end(NOW, Leg::Far, true);
        assert_eq!(poll(&mut splice, NOW).0, Some(Leg::Far), "{near:?}");
        let (bytes, closed) = near.read(leaves(&mut splice, NOW, Leg::Near));
        let broken = close_frame(1011, "the connection to the node broke");
        let broken = if near == Near::Tunnel { broken } else { None };
        assert_eq!((&bytes[..], closed), (&b"last"[..], broken), "{near:?}");
    }
}

/// A node that was killed ends its connections as well, but says so in none of its tunnels.
#[test]
fn a_far_tunnel_that_ends_without_a_close_is_no_good_end() {
    for near in NEARS {
        let mut splice = near.splice().with_far(Wire::tunnel(Role::Client, [3; 32]));
        splice.receive(NOW, Leg::Far, BytesMut::from(&frame(false, 0x82, b"last")[..]));
        splice.receive_end(NOW, Leg::Far, false);
        assert_eq!(poll(&mut splice, NOW).0, Some(Leg::Far), "{near:?}");
        let (bytes, closed) = near.read(leaves(&mut splice, NOW, Leg::Near));
        let broken = close_frame(1011, "the connection to the node broke");
        let broken = if near == Near::Tunnel { broken } else { None };
        assert_eq!((&bytes[..], closed), (&b"last"[..], broken), "{near:?}");
        assert_eq!(splice.is_cut(Leg::Near), near == Near::Plain, "{near:?}");

        // One that has heard that its client goes may do so.
        let mut splice = near.splice().with_far(Wire::tunnel(Role::Client, [3; 32]));
        near.end(&mut splice, NOW);
        poll(&mut splice, NOW);
        leaves(&mut splice, NOW, Leg::Far);
        splice.receive_end(NOW, Leg::Far, false);
        assert!(!splice.is_cut(Leg::Near), "{near:?}");
    }
}

const EVERY: Duration = Duration::from_secs(30);
const PING: [u8; 2] = [0x89, 0];

#[test]
fn a_client_over_websocket_is_pinged_while_it_is_quiet() {
    for near in NEARS {
        let mut splice = near.splice().with_pings(EVERY);
        assert_eq!(poll(&mut splice, NOW), (None, Next::Idle(Some(NOW + EVERY))));
        assert!(leaves(&mut splice, NOW, Leg::Near).is_empty(), "{near:?}");
        let mut now = NOW + EVERY;
        assert_eq!(poll(&mut splice, now), (None, Next::Idle(Some(now + EVERY))));
        assert_eq!(leaves(&mut splice, now, Leg::Near)[..], PING, "{near:?}");
        // What is heard of it, also its answer, puts the next one off.
        now = now + Duration::from_secs(1);
        splice.receive(now, Leg::Near, BytesMut::from(&frame(true, 0x8a, b"")[..]));
        assert_eq!(poll(&mut splice, now), (None, Next::Idle(Some(now + EVERY))));
        assert!(leaves(&mut splice, now, Leg::Near).is_empty(), "{near:?}");
        // Behind its end there is none.
        near.end(&mut splice, now);
        poll(&mut splice, now);
        leaves(&mut splice, now, Leg::Near);
        poll(&mut splice, now + EVERY);
        assert!(leaves(&mut splice, now + EVERY, Leg::Near).is_empty(), "{near:?}");
    }
}

/// Messages that are passed unread stay as they are, wherever they are cut when a ping is due.
#[test]
fn a_ping_goes_between_messages_and_into_none() {
    let messages = [frame(false, 0x02, b"one"), frame(false, 0x80, &[7; 300])].concat();
    for cut in 0..=messages.len() {
        let mut splice = Near::Plain.splice().with_pings(EVERY);
        let (first, second) = messages.split_at(cut);
        let mut came = Vec::new();
        for (piece, now) in [(first, NOW), (second, NOW + EVERY)] {
            splice.receive(now, Leg::Far, BytesMut::from(piece));
            came.extend(leaves(&mut splice, now, Leg::Near));
            poll(&mut splice, now + EVERY);
            came.extend(leaves(&mut splice, now + EVERY, Leg::Near));
        }
        let is_between = [0, 5, messages.len()].contains(&cut);
        let expected = if is_between {
            [first, &PING, second, &PING].concat()
        } else {
            [&messages[..], &PING].concat()
        };
        assert_eq!(came, expected, "{cut}");
    }
}
