//! Many connections over one: what each of them delivers, and how one is refused.

use bowline_proto::limits::{PAIR_PATIENCE, REASON_BYTES};
use bowline_proto::session::{Cause, Side};
use bowline_proto::{Machine, Time};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{CARRIERS, Carrier, End, Pair, Seen, bytes};
use crate::wire::{all, cuts};

/// One thing that one end does.
#[derive(Clone, Debug)]
enum Act {
    Connect,
    Send { at_client: bool, which: usize, bytes: Vec<u8> },
    Finish { at_client: bool, which: usize },
    Settle,
}

fn act() -> impl Strategy<Value = Act> {
    let kind = || (any::<bool>(), 0usize..6);
    let sent = prop::collection::vec(any::<u8>(), 0..700);
    prop_oneof![
        1 => Just(Act::Connect),
        4 => (kind(), sent).prop_map(|((at_client, which), bytes)| {
            Act::Send { at_client, which, bytes }
        }),
        1 => kind().prop_map(|(at_client, which)| Act::Finish { at_client, which }),
        1 => Just(Act::Settle),
    ]
}

/// What one end of a connection has said.
#[derive(Clone, Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    finished: bool,
}

fn whole_forward(carrier: Carrier, cuts: &[usize], acts: &[Act]) {
    let mut pair = Pair::new(carrier, cuts);
    let (mut ids, mut said) = (Vec::new(), Vec::<[Said; 2]>::new());
    for act in acts {
        let count = ids.len();
        match act {
            Act::Connect => {
                ids.push(pair.connect(1000 + count as u16));
                said.push(Default::default());
            }
            Act::Send { at_client, which, bytes } if count > 0 => {
                let (id, said) = (ids[which % count], &mut said[which % count]);
                let said = &mut said[usize::from(!at_client)];
                let bytes = Bytes::from(bytes.clone());
                if !said.finished {
                    said.bytes.extend_from_slice(&bytes);
                }
                match at_client {
                    true => pair.client.send(id.0, bytes),
                    false => pair.server.send(id.1, bytes),
                }
            }
            Act::Finish { at_client, which } if count > 0 => {
                let (id, said) = (ids[which % count], &mut said[which % count]);
                said[usize::from(!at_client)].finished = true;
                match at_client {
                    true => pair.client.finish(pair.now, id.0),
                    false => pair.server.finish(pair.now, id.1),
                }
            }
            Act::Settle => drop(pair.settle()),
            _ => {}
        }
    }
    pair.settle();
    let mut open = 0;
    for ((at_client, at_server), [client, server]) in ids.into_iter().zip(said) {
        assert_eq!(pair.at_server.data(at_server), client.bytes, "{carrier:?}");
        assert_eq!(pair.at_client.data(at_client), server.bytes, "{carrier:?}");
        let eof = |finished: bool| finished.then_some(End::Eof);
        assert_eq!(pair.at_server.end(at_server), eof(client.finished), "{carrier:?}");
        assert_eq!(pair.at_client.end(at_client), eof(server.finished), "{carrier:?}");
        open += usize::from(!(client.finished && server.finished));
    }
    assert_eq!(pair.connections(), (open, open), "{carrier:?}");
    assert!(pair.at_client.lost.is_none() && pair.at_server.lost.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_connection_delivers_everything_once_and_in_order(
        cuts in cuts(),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        for carrier in CARRIERS {
            whole_forward(carrier, &cuts, &acts);
        }
    }

    #[test]
    fn garbage_ends_a_forward_and_nothing_else(garbage: Vec<u8>, cuts in cuts()) {
        for carrier in CARRIERS {
            for side in super::SIDES {
                let mut forward = carrier.forward(side);
                let mut seen = Seen::default();
                forward.connect(Time::ZERO, 80);
                let mut rest = &garbage[..];
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() { break; }
                    let (piece, later) = rest.split_at((*cut).min(rest.len()));
                    forward.receive(Time::ZERO, BytesMut::from(piece));
                    seen.poll(&mut forward, Time::ZERO);
                    rest = later;
                }
                forward.receive_end(Time::ZERO);
                seen.poll(&mut forward, Time::ZERO);
                prop_assert!(seen.lost.is_some() && seen.ends.is_empty() && seen.data.is_empty());
                prop_assert!(forward.outbox().len() < 64 * 1024);
            }
        }
    }
}

#[test]
fn a_forward_that_is_cut_anywhere_gives_a_beginning_and_no_end_that_was_not_said() {
    for carrier in CARRIERS {
        let mut whole = None;
        for keep in 0.. {
            let mut pair = Pair::new(carrier, &[1000]);
            let (id, at_server) = pair.connect(80);
            pair.server.send(at_server, bytes("an answer of some bytes"));
            pair.server.finish(pair.now, at_server);
            pair.settle_only(Side::Server);
            let waiting = all(pair.server.outbox());
            let keep = waiting.len().min(keep);
            pair.client.receive(pair.now, BytesMut::from(&waiting[..keep]));
            pair.client.receive_end(pair.now);
            pair.at_client.poll(&mut pair.client, pair.now);
            let seen = &pair.at_client;
            assert!(b"an answer of some bytes".starts_with(seen.data(id)), "{carrier:?} {keep}");
            let complete = seen.data(id) == b"an answer of some bytes";
            assert!(seen.end(id).is_none() || complete, "{carrier:?} {keep}");
            assert_eq!(seen.lost.as_ref().map(|loss| loss.cause), Some(Cause::Cut));
            if keep == waiting.len() {
                whole = seen.end(id);
                break;
            }
        }
        assert_eq!(whole, Some(End::Eof), "{carrier:?}");
    }
}

#[test]
fn words_on_the_error_stream_end_their_own_connection_behind_what_came_before() {
    for carrier in CARRIERS {
        for size in [1, 7, 10_000] {
            let mut pair = Pair::new(carrier, &[size]);
            let (first, first_at_server) = pair.connect(80);
            let (second, second_at_server) = pair.connect(81);
            pair.server.send(first_at_server, bytes("half an answer"));
            pair.server.fail(pair.now, first_at_server, "the pod said no");
            pair.server.send(second_at_server, bytes("still here"));
            pair.settle();
            assert_eq!(pair.at_client.data(first), b"half an answer", "{carrier:?}");
            let words = End::Failed("the pod said no".into());
            assert_eq!(pair.at_client.ends, [(first, words)], "{carrier:?}");
            assert_eq!(pair.at_client.data(second), b"still here", "{carrier:?}");
            assert_eq!(pair.connections(), (1, 1), "{carrier:?}");
            assert!(pair.at_server.ends.is_empty(), "{carrier:?}");
        }
    }
}

#[test]
fn words_longer_than_their_bound_are_cut_to_it() {
    let mut pair = Pair::new(Carrier::Plain, &[300]);
    let (id, at_server) = pair.connect(80);
    pair.server.fail(pair.now, at_server, &"no".repeat(REASON_BYTES));
    pair.settle();
    assert_eq!(pair.at_client.end(id), Some(End::Failed("no".repeat(REASON_BYTES / 2))));
}

#[test]
fn a_refusal_between_two_that_count_says_why_to_its_own_connection_alone() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[40]);
        let (first, _) = pair.connect(80);
        let (second, at_server) = pair.connect(81);
        pair.server.refuse(pair.now, at_server, "too many connections");
        pair.settle();
        let words = End::Failed("too many connections".into());
        assert_eq!(pair.at_client.ends, [(second, words)], "{carrier:?}");
        assert!(pair.client.room(first) > 0 && pair.client.room(second) == 0);
        assert_eq!(pair.connections(), (1, 1), "{carrier:?}");
    }
}

#[test]
fn numbers_of_connections_are_never_used_twice() {
    let mut pair = Pair::new(Carrier::Plain, &[1000]);
    for number in 0..20 {
        let (id, at_server) = pair.connect(80);
        assert_eq!((id.number(), at_server.number()), (number, number));
        match number % 3 {
            0 => pair.client.reset(pair.now, id),
            1 => pair.server.fail(pair.now, at_server, "no"),
            _ => {}
        }
        pair.settle();
    }
    assert_eq!(pair.connections(), (6, 6));
}

#[test]
fn only_a_client_asks_for_connections() {
    for carrier in CARRIERS {
        let mut server = carrier.forward(Side::Server);
        assert_eq!(server.connect(Time::ZERO, 80), None);
        assert!(server.outbox().is_empty());
    }
}

#[test]
fn a_connection_that_nobody_answers_fails_within_its_patience() {
    for carrier in CARRIERS {
        let mut client = carrier.forward(Side::Client);
        let mut seen = Seen::default();
        let id = client.connect(Time::ZERO, 80).expect("a connection");
        seen.poll(&mut client, Time::from_micros(PAIR_PATIENCE.as_micros() as u64 - 1));
        assert_eq!((seen.end(id), client.room(id)), (None, 0));
        seen.poll(&mut client, Time::ZERO + PAIR_PATIENCE);
        assert_eq!(seen.end(id), Some(End::Failed("Timeout occurred".into())));
        assert_eq!(client.connections(), 0);
    }
}

#[test]
fn what_is_sent_on_a_connection_that_is_gone_or_unknown_goes_nowhere() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[1000]);
        let (id, at_server) = pair.connect(80);
        pair.client.reset(pair.now, id);
        pair.settle();
        for forward in [&mut pair.client, &mut pair.server] {
            for id in [id, at_server] {
                forward.send(id, bytes("nobody"));
                forward.finish(pair.now, id);
                forward.fail(pair.now, id, "nobody");
                forward.refuse(pair.now, id, "nobody");
                forward.reset(pair.now, id);
                forward.taken(id, 1 << 30);
            }
            assert!(forward.outbox().is_empty(), "{carrier:?}");
        }
    }
}
