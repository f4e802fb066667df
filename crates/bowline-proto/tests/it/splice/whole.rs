//! A forward through a gateway: a client of ours, the splice and a server of ours, with bytes cut
//! anywhere.

use bowline_proto::portforward::{Event, Forward, Id, OverSpdy};
use bowline_proto::session::{Cause, Loss, Side};
use bowline_proto::splice::Splice;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Intermediary, Leg, Machine, Next};
use bytes::Bytes;
use proptest::prelude::*;

use super::{NEARS, NOW, Near};
use crate::wire::{Cuts, cuts, pieces};

/// The three of them, with what the two ends saw.
struct Way {
    client: Forward,
    splice: Splice,
    server: Forward,
    at_client: Vec<Event>,
    at_server: Vec<Event>,
    ending: Option<Leg>,
    cuts: Cuts,
}

impl Way {
    fn new(near: Near, cuts: &[usize]) -> Way {
        let wire = match near {
            Near::Plain => Wire::plain(),
            Near::Tunnel => Wire::tunnel(Role::Client, [3; 32]),
        };
        Way {
            client: Forward::Spdy(OverSpdy::new(Side::Client, wire)),
            splice: near.splice(),
            server: Forward::Spdy(OverSpdy::new(Side::Server, Wire::plain())),
            at_client: vec![],
            at_server: vec![],
            ending: None,
            cuts: Cuts::new(cuts),
        }
    }

    /// Until no bytes move.
    fn settle(&mut self) {
        loop {
            for (forward, seen) in
                [(&mut self.client, &mut self.at_client), (&mut self.server, &mut self.at_server)]
            {
                while let Next::Event(event) = forward.poll(NOW) {
                    seen.push(event);
                }
            }
            while let Next::Event(ending) = self.splice.poll(NOW) {
                assert!(self.ending.replace(ending).is_none());
            }
            let up = self.cuts.piece(self.client.outbox());
            let up_far = self.cuts.piece(self.splice.outbox(Leg::Far));
            let down = self.cuts.piece(self.server.outbox());
            let down_near = self.cuts.piece(self.splice.outbox(Leg::Near));
            let all = [&up, &up_far, &down, &down_near];
            if all.iter().all(|bytes| bytes.is_empty()) {
                return;
            }
            // No read is empty.
            if !up.is_empty() {
                self.splice.receive(NOW, Leg::Near, up);
            }
            if !down.is_empty() {
                self.splice.receive(NOW, Leg::Far, down);
            }
            if !up_far.is_empty() {
                self.server.receive(NOW, up_far);
            }
            if !down_near.is_empty() {
                self.client.receive(NOW, down_near);
            }
        }
    }

    fn connect(&mut self) -> (Id, Id) {
        let id = self.client.connect(NOW, 80).expect("a connection");
        self.settle();
        assert_eq!(self.at_client.drain(..).collect::<Vec<_>>(), [Event::Connected(id)]);
        match self.at_server.drain(..).next() {
            Some(Event::Requested(at_server, 80)) => (id, at_server),
            other => panic!("{other:?}"),
        }
    }
}

/// The bytes of all data, and what is not data.
fn sorted(seen: &[Event]) -> (Vec<u8>, Vec<&Event>) {
    let data = seen.iter().filter_map(|event| match event {
        Event::Data(_, bytes) => Some(&bytes[..]),
        _ => None,
    });
    let rest = seen.iter().filter(|event| !matches!(event, Event::Data(..) | Event::Room(_)));
    (data.collect::<Vec<_>>().concat(), rest.collect())
}

fn lost(cause: Cause, detail: &str) -> Event {
    Event::Lost(Loss { cause, detail: detail.into() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_splice_delivers_everything_once_and_in_order_with_its_ends(
        cuts in cuts(),
        up in pieces(),
        down in pieces(),
    ) {
        for near in NEARS {
            let mut way = Way::new(near, &cuts);
            let (id, at_server) = way.connect();
            for piece in &up {
                way.client.send(id, Bytes::from(piece.clone()));
            }
            way.client.finish(NOW, id);
            for piece in &down {
                way.server.send(at_server, Bytes::from(piece.clone()));
            }
            way.server.finish(NOW, at_server);
            way.settle();
            let (at_server, at_client) = (Event::Eof(at_server), Event::Eof(id));
            prop_assert_eq!(sorted(&way.at_server), (up.concat(), vec![&at_server]));
            prop_assert_eq!(sorted(&way.at_client), (down.concat(), vec![&at_client]));
            prop_assert_eq!((way.client.connections(), way.server.connections()), (0, 0));
            prop_assert_eq!(way.ending, None);
        }
    }
}

#[test]
fn two_ends_agree_on_windows_through_a_splice() {
    for near in NEARS {
        let mut way = Way::new(near, &[100_000]);
        let (id, at_server) = way.connect();
        let window = way.client.room(id);
        assert_eq!(window, bowline_proto::limits::WINDOW_BYTES as usize, "{near:?}");
        way.client.send(id, Bytes::from(vec![7; window]));
        way.settle();
        assert_eq!(way.client.room(id), 0);
        way.server.taken(at_server, window);
        way.settle();
        assert_eq!(way.client.room(id), window, "{near:?}");
    }
}

#[test]
fn a_client_that_leaves_ends_the_servers_side_in_order() {
    for near in NEARS {
        let mut way = Way::new(near, &[9]);
        let (_, at_server) = way.connect();
        way.client.leave(NOW, "");
        way.settle();
        let expected = [Event::Reset(at_server), lost(Cause::Closed, "")];
        assert_eq!(way.at_server, expected, "{near:?}");
        assert!(way.client.outbox().is_finishing());
        // A tunnel's Close is an end of its own; a bare connection's is TCP's.
        assert_eq!(way.ending, (near == Near::Tunnel).then_some(Leg::Near));
        way.splice.receive_end(NOW, Leg::Near, false);
        way.settle();
        assert_eq!(way.ending, Some(Leg::Near), "{near:?}");
        assert!(way.splice.outbox(Leg::Far).is_finishing(), "{near:?}");
    }
}

#[test]
fn a_node_that_is_lost_is_no_good_end_at_the_client() {
    for near in NEARS {
        for broken in [false, true] {
            let mut way = Way::new(near, &[9]);
            let (id, at_server) = way.connect();
            way.server.send(at_server, Bytes::from_static(b"half"));
            way.settle();
            way.splice.receive_end(NOW, Leg::Far, broken);
            way.settle();
            if near == Near::Plain {
                // Its direction of the client's socket ends, or the socket is reset.
                assert_eq!(way.splice.outbox(Leg::Near).is_finishing(), !broken);
                assert_eq!(way.splice.is_cut(Leg::Near), broken);
                way.client.receive_end(NOW);
                way.settle();
            }
            let loss = match (near, broken) {
                (Near::Plain, _) => lost(Cause::Cut, ""),
                (Near::Tunnel, false) => lost(Cause::Closed, ""),
                (Near::Tunnel, true) => lost(Cause::Closed, "the connection to the node broke"),
            };
            let half = Event::Data(id, Bytes::from_static(b"half"));
            assert_eq!(sorted(&way.at_client).1, [&loss], "{near:?} {broken}");
            assert_eq!(sorted(&way.at_client).0, sorted(&[half]).0, "{near:?} {broken}");
        }
    }
}
