//! A server that says nothing: when it is dead, and when its silence was asked for.

use std::time::Duration;

use bowline_proto::limits::{CLOSING_PATIENCE, PING_EVERY, SILENCE_PATIENCE};
use bowline_proto::portforward::Forward;
use bowline_proto::session::{Cause, Side};
use bowline_proto::spdy::{Connection, Event as Frame, Role, StreamId};
use bowline_proto::tunnel::{Incoming, Wire};
use bowline_proto::{Machine, Next, Time, websocket};
use bytes::{Bytes, BytesMut};

use super::{CARRIERS, Carrier, NOW, Pair, SIDES, Seen};
use crate::wire::all;

const SECOND: Duration = Duration::from_secs(1);

/// The second in which the client finds its server dead, if it does so in time. What it has to
/// say is taken, and never answered.
fn dies(client: &mut Forward, seen: &mut Seen, now: &mut Time, seconds: u64) -> Option<u64> {
    for second in 1..=seconds {
        *now = *now + SECOND;
        seen.poll(client, *now);
        all(client.outbox());
        if let Some(loss) = &seen.lost {
            assert_eq!(loss.cause, Cause::Silent, "{loss}");
            return Some(second);
        }
    }
    None
}

/// Whether the second is one in which a dead server may be found: asked first, then waited for.
fn in_time(second: Option<u64>) -> bool {
    let patience = SILENCE_PATIENCE.as_secs();
    second.is_some_and(|second| (patience..=patience + PING_EVERY.as_secs() + 1).contains(&second))
}

#[test]
fn answers_keep_a_forward_alive_that_carries_nothing() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[3]);
        let (id, _) = pair.connect(80);
        pair.pass(Duration::from_secs(3600));
        assert!(pair.at_client.lost.is_none() && pair.at_server.lost.is_none(), "{carrier:?}");
        assert!(pair.at_client.end(id).is_none(), "{carrier:?}");
    }
}

#[test]
fn a_silent_server_is_dead_within_its_patience_and_the_client_then_done() {
    for carrier in CARRIERS {
        let (mut client, mut seen, mut now) = (carrier.forward(Side::Client), Seen::default(), NOW);
        assert!(in_time(dies(&mut client, &mut seen, &mut now, 100)), "{carrier:?}");
        assert_eq!(client.connect(now, 80), None);
        seen.poll(&mut client, now + CLOSING_PATIENCE);
        assert!(seen.done, "{carrier:?}");
    }
}

#[test]
fn a_server_never_takes_its_clients_silence_for_death() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[1000]);
        pair.connect(80);
        let later = NOW + Duration::from_secs(24 * 3600);
        assert_eq!(pair.server.poll(later), Next::Idle(None), "{carrier:?}");
        assert!(pair.server.outbox().is_empty(), "it asks for nothing: {carrier:?}");
    }
}

#[test]
fn a_part_of_a_frame_is_a_sign_of_life() {
    let (mut client, mut seen, mut now) =
        (Carrier::Plain.forward(Side::Client), Seen::default(), NOW);
    // The beginning of a long frame on a stream that is not there.
    client.receive(NOW, BytesMut::from(&[0, 0, 0, 99, 0, 1, 0, 0][..]));
    for _ in 0..20 {
        assert_eq!(dies(&mut client, &mut seen, &mut now, SILENCE_PATIENCE.as_secs() - 1), None);
        client.receive(now, BytesMut::from(&[7][..]));
    }
    assert!(in_time(dies(&mut client, &mut seen, &mut now, 100)));
}

#[test]
fn a_server_that_is_not_read_is_not_dead() {
    for carrier in CARRIERS {
        let (mut client, mut seen, mut now) = (carrier.forward(Side::Client), Seen::default(), NOW);
        assert_eq!(dies(&mut client, &mut seen, &mut now, SILENCE_PATIENCE.as_secs() - 5), None);
        client.reading(now, false);
        assert_eq!(dies(&mut client, &mut seen, &mut now, 1000), None, "{carrier:?}");
        client.reading(now, true);
        // What stands between them may take as long to learn that, two minutes at most.
        assert_eq!(dies(&mut client, &mut seen, &mut now, 120), None, "{carrier:?}");
        assert!(in_time(dies(&mut client, &mut seen, &mut now, 100)), "{carrier:?}");
    }
}

/// A server as Go's library speaks, which answers when the test says so.
struct Stock {
    spdy: Connection,
    wire: Wire,
    stream: Option<StreamId>,
}

impl Stock {
    fn new(carrier: Carrier) -> Stock {
        let wire = match carrier {
            Carrier::Plain => Wire::plain(),
            Carrier::Tunnel => Wire::tunnel(websocket::Role::Server, [3; 32]),
        };
        Stock { spdy: Connection::new(Role::Server), wire, stream: None }
    }

    /// Reads all of `input`, and gives what it answers.
    fn read(&mut self, input: BytesMut) -> BytesMut {
        self.wire.receive(input);
        while let Some(Incoming::Bytes(bytes)) = self.wire.poll() {
            self.spdy.receive(bytes);
            while let Some(frame) = self.spdy.poll() {
                if let Frame::Opened { id, .. } = frame {
                    self.spdy.reply(id);
                    self.stream = Some(id);
                }
            }
        }
        all(self.wire.outbox(self.spdy.outbox()))
    }
}

/// A server whose port takes nothing reads nothing more, and so answers nothing.
#[test]
fn a_server_that_has_bulk_data_to_take_before_the_ping_is_not_dead() {
    for carrier in CARRIERS {
        let (mut client, mut seen, mut now) = (carrier.forward(Side::Client), Seen::default(), NOW);
        let mut stock = Stock::new(carrier);
        let id = client.connect(now, 80).expect("a connection");
        let asked = all(client.outbox());
        client.receive(now, stock.read(asked));
        seen.poll(&mut client, now);
        client.send(id, Bytes::from(vec![7; 1 << 20]));
        let mut unread = all(client.outbox());
        for _ in 0..1000 {
            now = now + SECOND;
            seen.poll(&mut client, now);
            unread.unsplit(all(client.outbox()));
        }
        assert!(seen.lost.is_none(), "{carrier:?}");
        // Once it has read all, there is nothing any more that could hold up an answer.
        client.receive(now, stock.read(unread));
        seen.poll(&mut client, now);
        assert!(in_time(dies(&mut client, &mut seen, &mut now, 100)), "{carrier:?}");
    }
}

#[test]
fn a_late_answer_to_an_early_ping_says_nothing_of_what_was_sent_behind_it() {
    // With room for a third ping behind the data, and without.
    for bulk in [100_000, 1 << 20] {
        let (mut client, mut seen, mut now) =
            (Carrier::Plain.forward(Side::Client), Seen::default(), NOW);
        let mut stock = Stock::new(Carrier::Plain);
        let id = client.connect(now, 80).expect("a connection");
        let asked = all(client.outbox());
        client.receive(now, stock.read(asked));
        seen.poll(&mut client, now);
        let mut said = Vec::new();
        for (turn, bytes) in [10, 10, bulk].into_iter().enumerate() {
            if turn == 2 {
                client.receive(now, stock.read(said.remove(0)));
                seen.poll(&mut client, now);
            }
            now = now + PING_EVERY;
            client.send(id, Bytes::from(vec![7; bytes]));
            seen.poll(&mut client, now);
            said.push(all(client.outbox()));
        }
        client.receive(now, stock.read(said.remove(0)));
        assert_eq!(dies(&mut client, &mut seen, &mut now, 200), None, "{bulk}");
    }
}

/// The part of a carrier that is in messages already goes first.
#[test]
fn a_ping_waits_for_little_of_what_waits_to_be_sent() {
    for carrier in CARRIERS {
        let mut pair = Pair::new(carrier, &[100_000]);
        let ids: Vec<_> = (0..8).map(|port| pair.connect(80 + port).0).collect();
        // The socket takes no more than the beginning.
        for id in ids {
            pair.client.send(id, Bytes::from(vec![7; 120_000]));
        }
        let beginning = crate::wire::taken(pair.client.outbox(), 1000);
        pair.at_client.poll(&mut pair.client, NOW + PING_EVERY);
        let mut all_of_it = beginning;
        while !pair.client.outbox().is_empty() {
            all_of_it.unsplit(all(pair.client.outbox()));
        }
        let ping = [0x80, 3, 0, 6, 0, 0, 0, 4];
        let mut wire = match carrier {
            Carrier::Plain => Wire::plain(),
            Carrier::Tunnel => Wire::tunnel(websocket::Role::Server, [3; 32]),
        };
        wire.receive(all_of_it);
        let mut stream = Vec::new();
        while let Some(Incoming::Bytes(bytes)) = wire.poll() {
            stream.extend_from_slice(&bytes);
        }
        let at = stream.windows(ping.len()).position(|bytes| bytes == ping).expect("a ping");
        assert!(stream.len() > 900_000 && at < 400_000, "{carrier:?}: {at}");
    }
}

#[test]
fn pings_of_a_peer_that_reads_nothing_fill_no_memory() {
    for carrier in CARRIERS {
        for side in SIDES {
            let mut pair = Pair::new(carrier, &[1000]);
            pair.connect(80);
            let (forward, seen) = pair.end(side);
            let theirs = if side == Side::Client { 2 } else { 1 };
            let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, theirs];
            let ping = match carrier {
                Carrier::Plain => ping.to_vec(),
                Carrier::Tunnel => {
                    // Those of WebSocket as well.
                    let client = side == Side::Server;
                    let spdy = crate::wire::frame(client, 0x82, &ping);
                    [spdy, crate::wire::frame(client, 0x89, &[7; 125])].concat()
                }
            };
            for _ in 0..10_000 {
                forward.receive(NOW, BytesMut::from(&ping[..]));
                seen.poll(forward, NOW);
                forward.outbox();
            }
            let waiting = forward.unsent();
            assert!(seen.lost.is_none() && waiting < 200_000, "{carrier:?} {side:?} {waiting}");
        }
    }
}
