//! A port-forward's server, told things by a client that is none of ours.

use bowline_proto::limits::{CLOSED_CLIENT_GRACE, EARLY_BYTES, OUTBOX_BYTES, PAIR_PATIENCE};
use bowline_proto::passage::Passage;
use bowline_proto::portforward::{Event, Id, OverSpdy};
use bowline_proto::session::Side;
use bowline_proto::spdy::{Connection, Event as Frame, Role, StreamId};
use bowline_proto::tunnel::Wire;
use bowline_proto::{Intermediary, Leg, Machine, Next, Outbox, Time};
use bytes::{Bytes, BytesMut};

const NOW: Time = Time::ZERO;

/// A client of SPDY, as kubectl is, and our server.
struct Pair {
    client: Connection,
    server: OverSpdy,
    asked: Vec<Id>,
    data: Vec<(Id, Bytes)>,
}

fn taken(outbox: &mut Outbox) -> BytesMut {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    outbox.advance(bytes.len());
    BytesMut::from(&bytes[..])
}

impl Pair {
    fn new() -> Pair {
        let server = OverSpdy::new(Side::Server, Wire::plain());
        Pair { client: Connection::new(Role::Client), server, asked: vec![], data: vec![] }
    }

    fn open(&mut self, lane: &str, request: &str) -> StreamId {
        self.client.open(&[("streamtype", lane), ("port", "80"), ("requestid", request)])
    }

    /// What each says goes to the other; gives which streams were reset.
    fn pass(&mut self, now: Time) -> Vec<(StreamId, u32)> {
        self.server.receive(now, taken(self.client.outbox()));
        while let Next::Event(event) = self.server.poll(now) {
            match event {
                Event::Asked(id, 80) => self.asked.push(id),
                Event::Data(id, bytes) => self.data.push((id, bytes)),
                _ => {}
            }
        }
        self.client.receive(taken(self.server.outbox()));
        let mut reset = Vec::new();
        while let Some(frame) = self.client.poll() {
            if let Frame::Reset(stream, code) = frame {
                reset.push((stream, code));
            }
        }
        reset
    }
}

/// As the kubelet, which forgets an id once both streams are there.
#[test]
fn a_request_id_can_be_used_again_once_its_pair_is_complete() {
    let mut pair = Pair::new();
    let mut first = None;
    for number in 1..=3 {
        let error = pair.open("error", "7");
        pair.client.finish(error);
        let data = pair.open("data", "7");
        assert_eq!(pair.pass(NOW), []);
        assert_eq!(pair.asked.len(), number);
        // The first one stays open beside the others.
        match first {
            None => first = Some(data),
            Some(_) => pair.client.reset(data, 5),
        }
    }
    pair.client.send(first.unwrap(), Bytes::from_static(b"still here"));
    assert_eq!(pair.pass(NOW), []);
    assert_eq!(pair.data, [(pair.asked[0], Bytes::from_static(b"still here"))]);
    assert_eq!(pair.server.connections(), 1);
}

#[test]
fn what_comes_too_early_is_bounded_for_the_whole_forward() {
    let mut pair = Pair::new();
    let piece = Bytes::from(vec![7; EARLY_BYTES / 4]);
    let streams: Vec<StreamId> = (0..5).map(|n| pair.open("data", &n.to_string())).collect();
    for stream in &streams {
        pair.client.send(*stream, piece.clone());
    }
    let reset = pair.pass(NOW);
    assert_eq!(reset.iter().map(|reset| reset.0).collect::<Vec<_>>(), streams[4..]);
    // Whatever is complete makes room.
    pair.open("error", "0");
    let late = pair.open("data", "9");
    pair.client.send(late, piece.clone());
    assert_eq!(pair.pass(NOW), []);
    assert_eq!(pair.data, [(pair.asked[0], piece)]);
}

#[test]
fn what_is_reset_at_once_leaves_nothing() {
    let mut pair = Pair::new();
    // Others wait for it, were they kept.
    pair.open("error", "incomplete");
    for number in 0..1000 {
        let request = number.to_string();
        let error = pair.open("error", &request);
        let data = pair.open("data", &request);
        pair.client.reset(data, 5);
        pair.client.reset(error, 5);
        pair.pass(NOW);
    }
    assert_eq!((pair.asked.len(), pair.server.connections()), (1000, 1));
    pair.pass(NOW + PAIR_PATIENCE);
    assert_eq!(pair.server.connections(), 0);
}

/// Without a count of both ends, the client would take words on an error stream for the end of all.
#[test]
fn what_is_refused_is_told_to_its_own_connection_alone() {
    let mut pair = Pair::new();
    let streams = [pair.open("error", "0"), pair.open("data", "0")];
    pair.pass(NOW);
    pair.server.refuse(NOW, pair.asked[0], "too many");
    let reset = pair.pass(NOW);
    assert_eq!(reset.iter().map(|reset| reset.0).collect::<Vec<_>>(), streams);
    assert_eq!(pair.server.connections(), 0);
}

#[test]
fn a_far_side_that_takes_nothing_is_not_waited_for_once_the_near_one_has_ended() {
    let mut passage = Passage::new(Wire::plain());
    passage.receive(NOW, Leg::Near, BytesMut::from(&[7; OUTBOX_BYTES][..]));
    while let Next::Event(_) = passage.poll(NOW) {}
    passage.receive_end(NOW, Leg::Near, false);
    let mut now = NOW;
    let next = |passage: &mut Passage, now: &mut Time| loop {
        match passage.poll(*now) {
            Next::Event(_) => {}
            Next::Idle(Some(until)) => return *now = until,
            other => panic!("{other:?} at {now:?}"),
        }
    };
    // As long as it takes some of it, it is.
    while now < NOW + CLOSED_CLIENT_GRACE * 3 {
        next(&mut passage, &mut now);
        passage.outbox(Leg::Far).advance(1);
    }
    let last = now;
    loop {
        match passage.poll(now) {
            Next::Event(_) => {}
            Next::Idle(Some(until)) => now = until,
            Next::Idle(None) => panic!("it waits for ever"),
            Next::Done => break,
        }
    }
    assert!(now >= last + CLOSED_CLIENT_GRACE && now <= last + CLOSED_CLIENT_GRACE * 2);
}
