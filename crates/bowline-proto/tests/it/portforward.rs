//! Port-forwards: a client and a server of ours joined in memory, with bytes cut anywhere.

mod channels;
mod ends;
mod over_spdy;
mod silence;
mod stock_client;
mod stock_server;
mod windows;

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_proto::portforward::{Event, Forward, Id, OverSpdy};
use bowline_proto::session::{Loss, Side};
use bowline_proto::time::earlier;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, Time};
use bytes::Bytes;

use crate::wire::Cuts;

const NOW: Time = Time::ZERO;

/// What SPDY travels in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Plain,
    Tunnel,
}

const CARRIERS: [Carrier; 2] = [Carrier::Plain, Carrier::Tunnel];

impl Carrier {
    fn forward(self, side: Side) -> Forward {
        let wire = match (self, side) {
            (Carrier::Plain, _) => Wire::plain(),
            (Carrier::Tunnel, Side::Client) => Wire::tunnel(Role::Client, [1; 32]),
            (Carrier::Tunnel, Side::Server) => Wire::tunnel(Role::Server, [2; 32]),
        };
        Forward::Spdy(OverSpdy::new(side, wire))
    }
}

/// How a connection, or its peer's direction, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
    Failed(String),
}

/// What one end saw, with neighbouring data joined.
#[derive(Debug, Default)]
struct Seen {
    asked: Vec<(Id, u16)>,
    connected: Vec<Id>,
    data: BTreeMap<Id, Vec<u8>>,
    ends: Vec<(Id, End)>,
    room: Vec<Id>,
    lost: Option<Loss>,
    done: bool,
}

impl Seen {
    fn take(&mut self, event: Event) {
        assert!(self.lost.is_none() && !self.done, "{event:?} after the end");
        let id = match &event {
            Event::Requested(id, _)
            | Event::Connected(id)
            | Event::Data(id, _)
            | Event::Eof(id) => id,
            Event::Reset(id) | Event::Failed(id, _) | Event::Room(id) => id,
            Event::Lost(loss) => return self.lost = Some(loss.clone()),
        };
        let (id, ended) = (*id, self.end(*id));
        assert!(matches!(ended, None | Some(End::Eof)), "{event:?} of what is gone");
        match event {
            Event::Requested(_, port) => self.asked.push((id, port)),
            Event::Connected(_) => self.connected.push(id),
            Event::Data(_, bytes) => {
                assert!(!bytes.is_empty() && ended.is_none(), "{id:?}");
                self.data.entry(id).or_default().extend_from_slice(&bytes);
            }
            Event::Eof(_) => {
                assert!(ended.is_none(), "{id:?} ended twice");
                self.ends.push((id, End::Eof));
            }
            Event::Reset(_) => self.ends.push((id, End::Reset)),
            Event::Failed(_, words) => self.ends.push((id, End::Failed(words))),
            Event::Room(_) => self.room.push(id),
            Event::Lost(_) => {}
        }
    }

    fn poll(&mut self, forward: &mut impl Machine<Event = Event>, now: Time) -> Option<Time> {
        loop {
            match forward.poll(now) {
                Next::Event(event) => self.take(event),
                Next::Idle(deadline) => return deadline,
                Next::Done => {
                    self.done = true;
                    return None;
                }
            }
        }
    }

    /// The last that was heard of an end of this connection.
    fn end(&self, id: Id) -> Option<End> {
        self.ends.iter().rev().find(|end| end.0 == id).map(|end| end.1.clone())
    }

    fn data(&self, id: Id) -> &[u8] {
        self.data.get(&id).map_or(&[], |data| data)
    }
}

/// A client and a server with a perfect wire between them.
struct Pair {
    now: Time,
    client: Forward,
    server: Forward,
    at_client: Seen,
    at_server: Seen,
    cuts: Cuts,
}

impl Pair {
    fn new(carrier: Carrier, cuts: &[usize]) -> Pair {
        Pair {
            now: NOW,
            client: carrier.forward(Side::Client),
            server: carrier.forward(Side::Server),
            at_client: Seen::default(),
            at_server: Seen::default(),
            cuts: Cuts::new(cuts),
        }
    }

    /// Until no bytes move; gives when one of the two has to be polled again.
    fn settle(&mut self) -> Option<Time> {
        loop {
            let client = self.at_client.poll(&mut self.client, self.now);
            let server = self.at_server.poll(&mut self.server, self.now);
            let up = self.cuts.piece(self.client.outbox());
            let down = self.cuts.piece(self.server.outbox());
            if up.is_empty() && down.is_empty() {
                return earlier(client, server);
            }
            if !up.is_empty() {
                self.server.receive(self.now, up);
            }
            if !down.is_empty() {
                self.client.receive(self.now, down);
            }
        }
    }

    /// One end says what it has to; nothing moves.
    fn settle_only(&mut self, side: Side) {
        let now = self.now;
        let (forward, seen) = self.end(side);
        seen.poll(forward, now);
    }

    /// Lets time go by, with a poll at each deadline on the way.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let next = self.settle().filter(|next| *next < until && *next > self.now);
            if self.now == until {
                return;
            }
            self.now = next.unwrap_or(until);
        }
    }

    /// A connection that both ends know: its number at the client and the one at the server.
    fn connect(&mut self, port: u16) -> (Id, Id) {
        let id = self.client.connect(self.now, port).expect("a connection");
        self.settle();
        assert_eq!(self.at_client.connected.last(), Some(&id));
        let asked = *self.at_server.asked.last().expect("it was asked for");
        assert_eq!(asked.1, port);
        (id, asked.0)
    }

    fn end(&mut self, side: Side) -> (&mut Forward, &mut Seen) {
        match side {
            Side::Client => (&mut self.client, &mut self.at_client),
            Side::Server => (&mut self.server, &mut self.at_server),
        }
    }

    fn connections(&self) -> (usize, usize) {
        (self.client.connections(), self.server.connections())
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}

const SIDES: [Side; 2] = [Side::Client, Side::Server];

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
