//! What both ends count: no end is ever ahead of the other by more than the window.

use bowline_proto::limits::WINDOW_BYTES;
use bowline_proto::session::Side;
use bowline_proto::{Machine, Time};
use bytes::Bytes;
use proptest::prelude::*;

use super::{CARRIERS, Carrier, End, Pair, SIDES, other};
use crate::wire::cuts;

const WINDOW: usize = WINDOW_BYTES as usize;

fn ids(side: Side, ids: (super::Id, super::Id)) -> (super::Id, super::Id) {
    if side == Side::Client { ids } else { (ids.1, ids.0) }
}

#[test]
fn nobody_sends_more_than_a_window_ahead_and_what_is_taken_gives_more() {
    for carrier in CARRIERS {
        for side in SIDES {
            let mut pair = Pair::new(carrier, &[100_000]);
            let both = pair.connect(80);
            let (ours, theirs) = ids(side, both);
            let other_one = ids(side, pair.connect(81)).0;
            assert_eq!(pair.end(side).0.room(ours), WINDOW, "{carrier:?} {side:?}");
            pair.end(side).0.send(ours, Bytes::from(vec![7; WINDOW - 1]));
            assert_eq!(pair.end(side).0.room(ours), 1);
            pair.end(side).0.send(ours, Bytes::from_static(b"x"));
            pair.settle();
            assert_eq!(pair.end(side).0.room(ours), 0, "arrived is not taken");
            assert_eq!(pair.end(side).0.room(other_one), WINDOW, "each has a window of its own");
            // What is little is told with what follows.
            pair.end(other(side)).0.taken(theirs, WINDOW / 4 - 1);
            pair.settle();
            assert_eq!((pair.end(side).0.room(ours), pair.end(side).1.room.len()), (0, 0));
            pair.end(other(side)).0.taken(theirs, 1);
            pair.settle();
            assert_eq!(pair.end(side).0.room(ours), WINDOW / 4, "{carrier:?} {side:?}");
            assert_eq!(pair.end(side).1.room, [ours]);
        }
    }
}

#[test]
fn a_window_that_is_full_holds_up_no_end_and_no_reset() {
    for carrier in CARRIERS {
        for resets in [false, true] {
            let mut pair = Pair::new(carrier, &[100_000]);
            let (id, at_server) = pair.connect(80);
            pair.client.send(id, Bytes::from(vec![7; WINDOW]));
            match resets {
                true => pair.client.reset(pair.now, id),
                false => pair.client.finish(pair.now, id),
            }
            pair.settle();
            assert_eq!(pair.at_server.data(at_server).len(), WINDOW);
            let end = if resets { End::Reset } else { End::Eof };
            assert_eq!(pair.at_server.end(at_server), Some(end), "{carrier:?}");
        }
    }
}

/// One end sends as much as it may, in pieces, the other one takes what it likes of what came.
fn counted(carrier: Carrier, side: Side, cuts: &[usize], steps: &[(usize, usize, bool)]) {
    let mut pair = Pair::new(carrier, cuts);
    let both = pair.connect(80);
    let (ours, theirs) = ids(side, both);
    let (mut sent, mut taken) = (0, 0);
    for (send, take, settle) in steps {
        let send = pair.end(side).0.room(ours).min(*send);
        pair.end(side).0.send(ours, Bytes::from(vec![7; send]));
        sent += send;
        assert!(sent - taken <= WINDOW, "{carrier:?} {side:?}");
        if *settle {
            pair.settle();
        }
        let take = (*take).min(pair.end(other(side)).1.data(theirs).len() - taken);
        pair.end(other(side)).0.taken(theirs, take);
        taken += take;
    }
    pair.settle();
    assert_eq!(pair.end(other(side)).1.data(theirs).len(), sent);
    pair.end(other(side)).0.taken(theirs, sent - taken);
    pair.settle();
    let room = pair.end(side).0.room(ours);
    assert!((WINDOW - WINDOW / 4 + 1..=WINDOW).contains(&room), "{carrier:?} {side:?} {room}");
    assert!(pair.at_client.ends.is_empty() && pair.at_server.ends.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn who_keeps_to_the_window_is_never_held_to_have_overrun_it(
        cuts in cuts(),
        steps in prop::collection::vec((0..WINDOW, 0..WINDOW, any::<bool>()), 0..12),
    ) {
        let cuts: Vec<usize> = cuts.iter().map(|cut| cut * 100).collect();
        for carrier in CARRIERS {
            for side in SIDES {
                counted(carrier, side, &cuts, &steps);
            }
        }
    }
}

#[test]
fn who_sends_more_than_its_window_is_closed_with_a_reason() {
    for carrier in CARRIERS {
        for side in SIDES {
            for told in [0, WINDOW / 4] {
                let mut pair = Pair::new(carrier, &[100_000]);
                let both = pair.connect(80);
                let (ours, theirs) = ids(side, both);
                let kept = pair.connect(81);
                pair.end(other(side)).0.taken(theirs, told);
                pair.settle();
                pair.end(side).0.send(ours, Bytes::from(vec![7; WINDOW + told]));
                pair.settle();
                let what = format!("{carrier:?} {side:?} {told}");
                assert_eq!(pair.end(other(side)).1.end(theirs), None, "all that it may: {what}");
                pair.end(side).0.send(ours, Bytes::from_static(b"x"));
                pair.settle();
                assert_eq!(pair.end(other(side)).1.data(theirs).len(), WINDOW + told, "{what}");
                let words = End::Failed("more was sent than the window allows".into());
                match side {
                    Side::Client => {
                        assert_eq!(pair.at_client.ends, [(ours, words)], "{what}");
                        assert_eq!(pair.at_server.ends, [(theirs, End::Reset)], "{what}");
                    }
                    Side::Server => {
                        assert_eq!(pair.at_client.ends, [(theirs, words)], "{what}");
                        assert_eq!(pair.at_server.ends, [(ours, End::Reset)], "{what}");
                    }
                }
                assert_eq!(pair.connections(), (1, 1), "{what}");
                assert_eq!(pair.client.room(kept.0), WINDOW, "{what}");
            }
        }
    }
}

/// Without an answer that counts, as any other server's, nobody is held to a window.
#[test]
fn who_has_nothing_to_count_with_has_room_without_end() {
    let mut client = Carrier::Plain.forward(Side::Client);
    let id = client.connect(Time::ZERO, 80).expect("a connection");
    assert_eq!(client.room(id), 0, "no answer has come");
    let mut server = bowline_proto::spdy::Connection::new(bowline_proto::spdy::Role::Server);
    server.receive(crate::wire::all(client.outbox()));
    while let Some(event) = server.poll() {
        if let bowline_proto::spdy::Event::Opened { id, .. } = event {
            server.reply(id);
        }
    }
    client.receive(Time::ZERO, crate::wire::all(server.outbox()));
    super::Seen::default().poll(&mut client, Time::ZERO);
    assert_eq!(client.room(id), usize::MAX);
    client.taken(id, WINDOW);
    assert!(client.outbox().is_empty(), "Go's library would not know what to do with it");
}
