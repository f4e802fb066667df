//! How connections end, and how a forward does: each way, by either end, in order and broken.

use bowline_proto::limits::CLOSING_PATIENCE;
use bowline_proto::session::{Cause, Loss, Side};
use bowline_proto::{Machine, Next, Time};
use bytes::BytesMut;

use super::{CARRIERS, Carrier, End, NOW, Pair, SIDES, Seen, bytes, other};
use crate::wire::{all, frame};

/// The number of a connection as this end has it.
fn at(side: Side, ids: (super::Id, super::Id)) -> super::Id {
    if side == Side::Client { ids.0 } else { ids.1 }
}

fn loss(cause: Cause, detail: &str) -> Option<Loss> {
    Some(Loss { cause, detail: detail.into() })
}

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    for carrier in CARRIERS {
        for side in SIDES {
            let mut pair = Pair::new(carrier, &[5, 1]);
            let ids = pair.connect(80);
            let (ours, theirs) = (at(side, ids), at(other(side), ids));
            let now = pair.now;
            pair.end(side).0.send(ours, bytes("question"));
            pair.end(side).0.finish(now, ours);
            pair.end(side).0.send(ours, bytes("more"));
            assert_eq!(pair.end(side).0.room(ours), 0);
            pair.settle();
            let (forward, seen) = pair.end(other(side));
            assert_eq!((seen.data(theirs), seen.end(theirs)), (&b"question"[..], Some(End::Eof)));
            forward.send(theirs, bytes("answer"));
            pair.settle();
            let (_, seen) = pair.end(side);
            assert_eq!((seen.data(ours), seen.end(ours)), (&b"answer"[..], None), "{side:?}");
            assert_eq!(pair.connections(), (1, 1), "{carrier:?} {side:?}");
            pair.end(other(side)).0.finish(now, theirs);
            pair.settle();
            assert_eq!(pair.end(side).1.end(ours), Some(End::Eof), "{carrier:?} {side:?}");
            assert_eq!(pair.connections(), (0, 0), "{carrier:?} {side:?}");
        }
    }
}

#[test]
fn directions_that_end_at_once_do_so_in_good_order() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[3]);
        let (id, at_server) = pair.connect(80);
        pair.client.send(id, bytes("up"));
        pair.client.finish(pair.now, id);
        pair.server.send(at_server, bytes("down"));
        pair.server.finish(pair.now, at_server);
        pair.settle();
        assert_eq!(pair.at_client.data(id), b"down");
        assert_eq!(pair.at_server.data(at_server), b"up");
        assert_eq!(pair.at_client.ends, [(id, End::Eof)]);
        assert_eq!(pair.at_server.ends, [(at_server, End::Eof)]);
        assert_eq!(pair.connections(), (0, 0));
    }
}

#[test]
fn a_reset_of_either_end_reaches_the_other_and_touches_no_other_connection() {
    for carrier in CARRIERS {
        for side in SIDES {
            for finished in [None, Some(side), Some(other(side))] {
                let mut pair = Pair::new(carrier, &[4, 9]);
                let kept = pair.connect(80);
                let ids = pair.connect(81);
                let now = pair.now;
                if let Some(finished) = finished {
                    pair.end(finished).0.finish(now, at(finished, ids));
                    pair.settle();
                }
                pair.end(side).0.reset(now, at(side, ids));
                pair.settle();
                let what = format!("{carrier:?} {side:?} {finished:?}");
                let there = pair.end(other(side)).1.end(at(other(side), ids));
                assert_eq!(there, Some(End::Reset), "{what}");
                let here = pair.end(side).1.end(at(side, ids));
                assert_ne!(here, Some(End::Reset), "who resets is told nothing: {what}");
                assert_eq!(pair.connections(), (1, 1), "{what}");
                pair.client.send(kept.0, bytes("on"));
                pair.settle();
                assert_eq!(pair.at_server.data(kept.1), b"on", "{what}");
            }
        }
    }
}

#[test]
fn a_connection_that_both_ends_reset_is_gone_and_neither_is_told() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[2]);
        let (id, at_server) = pair.connect(80);
        pair.client.send(id, bytes("never read"));
        pair.client.reset(pair.now, id);
        pair.server.send(at_server, bytes("never read"));
        pair.server.reset(pair.now, at_server);
        pair.settle();
        assert_eq!(pair.connections(), (0, 0));
        assert!(pair.at_client.ends.is_empty() && pair.at_server.ends.is_empty());
        assert!(pair.at_client.data.is_empty() && pair.at_server.data.is_empty());
        pair.connect(81);
    }
}

#[test]
fn a_connection_that_is_reset_before_its_answer_leaves_nothing() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[1]);
        let id = pair.client.connect(NOW, 80).expect("a connection");
        pair.client.reset(NOW, id);
        pair.settle();
        assert_eq!(pair.connections(), (0, 0));
        assert!(pair.at_client.connected.is_empty() && pair.at_client.ends.is_empty());
    }
}

#[test]
fn who_leaves_is_told_nothing_more_and_the_other_end_hears_why_where_there_is_a_place_for_it() {
    for carrier in CARRIERS {
        for side in SIDES {
            for why in ["", "the node shuts down"] {
                let mut pair = Pair::new(carrier, &[6, 2]);
                let ids = pair.connect(80);
                let now = pair.now;
                let theirs = at(other(side), ids);
                pair.end(other(side)).0.send(theirs, bytes("on its way"));
                pair.end(side).0.leave(now, why);
                pair.settle();
                let what = format!("{carrier:?} {side:?} {why:?}");
                let (forward, seen) = pair.end(side);
                assert!(seen.lost.is_none() && seen.ends.is_empty(), "{what}");
                assert!(seen.data.is_empty(), "{what}");
                assert_eq!(forward.connect(now, 80), None, "{what}");
                // The reset of each connection comes first.
                let (forward, seen) = pair.end(other(side));
                assert_eq!(seen.end(theirs), Some(End::Reset), "{what}");
                assert_eq!(seen.lost.as_ref().map(|loss| loss.cause), Some(Cause::Closed));
                assert_eq!(forward.connect(now, 80), None, "{what}");
                assert_eq!(pair.connections(), (0, 0), "{what}");
            }
        }
    }
}

#[test]
fn a_tunnel_tells_why_a_forward_is_left_to_a_peer_that_reads_closes() {
    for side in SIDES {
        let mut forward = Carrier::Tunnel.forward(side);
        forward.leave(NOW, "the node shuts down");
        let bytes = all(forward.outbox());
        let mut peer = Carrier::Tunnel.forward(other(side));
        let mut seen = Seen::default();
        // Only the Close: what SPDY says before it would be the end already.
        let close = bytes.len() - close_bytes(side, "the node shuts down");
        peer.receive(NOW, BytesMut::from(&bytes[close..]));
        seen.poll(&mut peer, NOW);
        assert_eq!(seen.lost, loss(Cause::Closed, "the node shuts down"), "{side:?}");
    }
}

fn close_bytes(side: Side, why: &str) -> usize {
    let mask = if side == Side::Client { 4 } else { 0 };
    2 + mask + 2 + why.len()
}

#[test]
fn a_client_that_leaves_waits_for_nothing_but_its_bytes_and_a_server_for_its_client() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[1000]);
        pair.connect(80);
        pair.client.leave(NOW, "");
        assert!(matches!(pair.client.poll(NOW), Next::Idle(Some(_))), "{carrier:?}");
        pair.settle();
        assert!(pair.at_client.done, "{carrier:?}");

        let mut pair = Pair::new(carrier, &[1000]);
        pair.connect(80);
        pair.server.leave(NOW, "");
        let deadline = NOW + CLOSING_PATIENCE;
        while !all(pair.server.outbox()).is_empty() {
            assert_eq!(pair.server.poll(NOW), Next::Idle(Some(deadline)), "{carrier:?}");
        }
        assert_eq!(pair.server.poll(NOW), Next::Idle(Some(deadline)), "{carrier:?}");
        assert_eq!(pair.server.poll(deadline), Next::Done, "{carrier:?}");

        let mut pair = Pair::new(carrier, &[1000]);
        pair.connect(80);
        pair.server.leave(NOW, "");
        all(pair.server.outbox());
        pair.server.receive_end(NOW);
        assert_eq!(pair.server.poll(NOW), Next::Done, "{carrier:?}");
    }
}

#[test]
fn a_connection_that_breaks_is_no_end_of_what_it_carried() {
    for carrier in CARRIERS {
        for side in SIDES {
            let mut pair = Pair::new(carrier, &[1000]);
            let ids = pair.connect(80);
            let now = pair.now;
            pair.end(other(side)).0.send(at(other(side), ids), bytes("before"));
            pair.settle();
            pair.end(side).0.receive_end(now);
            pair.end(side).0.receive_end(now);
            pair.settle();
            let (forward, seen) = pair.end(side);
            let id = at(side, ids);
            assert_eq!(seen.data(id), b"before", "{carrier:?} {side:?}");
            assert!(seen.ends.is_empty(), "{carrier:?} {side:?}");
            assert_eq!(seen.lost, loss(Cause::Cut, ""), "{carrier:?} {side:?}");
            assert!(seen.done && forward.connections() == 0, "{carrier:?} {side:?}");
        }
    }
}

/// A tunnel as its client has it, with a connection that a Close ends. What SPDY says of the end
/// is not there, or comes behind it.
#[test]
fn a_close_ends_a_forward_by_itself_and_what_its_code_says_is_told() {
    let cases: [(&[u8], &str); 6] = [
        (&[], ""),
        (&[0x03, 0xe8], ""),
        (&[0x03, 0xe9], "code 1001"),
        (&[0x03, 0xf3], "code 1011"),
        (b"\x03\xf3the node is gone", "the node is gone"),
        (b"\x03\xe8all is well", "all is well"),
    ];
    for (body, detail) in cases {
        let mut pair = Pair::new(Carrier::Tunnel, &[1000]);
        let (id, at_server) = pair.connect(80);
        pair.server.send(at_server, bytes("before"));
        pair.settle();
        pair.server.send(at_server, bytes("behind"));
        let behind = all(pair.server.outbox());
        let close = frame(false, 0x88, body);
        pair.client.receive(NOW, BytesMut::from(&[&close[..], &behind].concat()[..]));
        pair.settle();
        assert_eq!(pair.at_client.data(id), b"before", "nothing counts behind a Close");
        assert_eq!(pair.at_client.lost, loss(Cause::Closed, detail));
        // It has answered, and owes nothing more, though TCP has not ended.
        assert!(pair.at_client.ends.is_empty() && pair.at_client.done);
    }
}

#[test]
fn a_tunnel_that_breaks_a_rule_is_a_fault_of_its_peer() {
    let broken: [(Vec<u8>, &str, u16); 4] = [
        (frame(false, 0x81, b"text"), "invalid message type received", 1003),
        (frame(true, 0x82, b"x"), "a frame of a server is masked", 1002),
        (frame(false, 0x80, b"x"), "a continuation without a beginning", 1002),
        (frame(false, 0x88, &[3]), "a close has a body of one byte", 1002),
    ];
    for (input, detail, code) in broken {
        let mut client = Carrier::Tunnel.forward(Side::Client);
        let mut seen = Seen::default();
        client.receive(NOW, BytesMut::from(&input[..]));
        seen.poll(&mut client, NOW);
        assert_eq!(seen.lost, loss(Cause::Fault, detail));
        let said = all(client.outbox());
        let mask = &said[2..6];
        let answered = [said[6] ^ mask[0], said[7] ^ mask[1]];
        assert_eq!((said[0], u16::from_be_bytes(answered)), (0x88, code), "{detail}");
    }
}

#[test]
fn a_fault_in_spdy_ends_a_forward_with_a_goaway_that_says_so() {
    for carrier in CARRIERS {
        for side in SIDES {
            let mut pair = Pair::new(carrier, &[1000]);
            pair.connect(80);
            // A control frame of version 9.
            let fault = [0x80, 9, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
            let fault = match carrier {
                Carrier::Plain => fault.to_vec(),
                Carrier::Tunnel => frame(side == Side::Server, 0x82, &fault),
            };
            let now = pair.now;
            pair.end(side).0.receive(now, BytesMut::from(&fault[..]));
            pair.settle();
            let detail = "control frame of version 9";
            assert_eq!(pair.end(side).1.lost, loss(Cause::Fault, detail), "{carrier:?} {side:?}");
            let told = pair.end(other(side)).1.lost.clone();
            assert_eq!(told, loss(Cause::Closed, "code 1"), "{carrier:?} {side:?}");
        }
    }
}

#[test]
fn who_has_closed_is_done_at_the_end_of_its_patience_whatever_the_other_end_does() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[1000]);
        pair.connect(80);
        pair.client.leave(NOW, "");
        // Nobody takes what it says.
        let early = Time::from_micros(CLOSING_PATIENCE.as_micros() as u64 - 1);
        assert!(matches!(pair.client.poll(early), Next::Idle(Some(_))), "{carrier:?}");
        assert_eq!(pair.client.poll(NOW + CLOSING_PATIENCE), Next::Done, "{carrier:?}");
    }
}
