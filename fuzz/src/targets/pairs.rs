//! A client's and a server's port-forward, joined in memory and cut anywhere: each connection's
//! bytes arrive once and in order, what ends well was whole, and nothing is left at the end.

use std::collections::BTreeMap;

use bowline_proto::portforward::{Event, Id, OverSpdy};
use bowline_proto::session::Side;
use bowline_proto::tunnel::Wire;
use bowline_proto::websocket::Role;
use bowline_proto::{Machine, Next, Time};
use bytes::{Bytes, BytesMut};

use super::written;
use crate::cuts::{Choices, choose};

/// One connection, as the model has it: what each end said, got, and was told.
#[derive(Debug, Default)]
struct Connection {
    /// The numbers that the client and the server have for it.
    ids: [Option<Id>; 2],
    port: u16,
    sent: [Vec<u8>; 2],
    got: [Vec<u8>; 2],
    finished: [bool; 2],
    saw_end: [bool; 2],
    gone: [bool; 2],
}

struct Pair {
    ends: [OverSpdy; 2],
    connections: Vec<Connection>,
    by_id: [BTreeMap<Id, usize>; 2],
    under_way: [Vec<u8>; 2],
    choices: Choices,
}

const NOW: Time = Time::ZERO;

/// The target. Each pair of bytes is what one end does.
pub fn target(data: &[u8]) {
    let (choices, commands) = choose(data);
    let wire = |role| match choices.form & 1 {
        0 => Wire::plain(),
        _ => Wire::tunnel(role, [7; 32]),
    };
    let ends = [
        OverSpdy::new(Side::Client, wire(Role::Client)),
        OverSpdy::new(Side::Server, wire(Role::Server)),
    ];
    let mut pair = Pair {
        ends,
        connections: Vec::new(),
        by_id: [BTreeMap::new(), BTreeMap::new()],
        under_way: [Vec::new(), Vec::new()],
        choices,
    };
    for command in commands.chunks(2) {
        pair.act(command[0], command.get(1).copied().unwrap_or_default());
        let cut = pair.choices.below(200);
        pair.pass(0, cut);
        pair.pass(1, cut);
    }
    pair.settle();
}

impl Pair {
    fn act(&mut self, verb: u8, which: u8) {
        let end = usize::from(verb >> 7);
        if verb & 7 == 0 && end == 0 {
            let port = u16::try_from(self.connections.len()).unwrap_or(u16::MAX).saturating_add(1);
            if let Some(id) = self.ends[0].connect(NOW, port) {
                self.by_id[0].insert(id, self.connections.len());
                let ids = [Some(id), None];
                self.connections.push(Connection { ids, port, ..Connection::default() });
            }
            return;
        }
        let count = self.connections.len();
        if count == 0 {
            return;
        }
        let index = usize::from(which) % count;
        let connection = &mut self.connections[index];
        let Some(id) = connection.ids[end].filter(|_| !connection.gone[end]) else { return };
        match verb & 7 {
            1 => {
                connection.finished[end] = true;
                self.ends[end].finish(NOW, id);
            }
            2 => {
                connection.gone[end] = true;
                self.ends[end].reset(NOW, id);
            }
            3 if end == 1 => {
                connection.gone[end] = true;
                self.ends[1].fail(NOW, id, "no");
            }
            4 => self.ends[end].taken(id, usize::from(which) << 12),
            _ if connection.finished[end] => {}
            _ => {
                let room = self.ends[end].room(id).min(usize::from(verb & 0x78) << 7);
                let at = connection.sent[end].len();
                let bytes: Vec<u8> = (at..at + room).map(|n| (n ^ index) as u8).collect();
                connection.sent[end].extend_from_slice(&bytes);
                self.ends[end].send(id, Bytes::from(bytes));
            }
        }
    }

    /// Lets some of what an end has said through, and takes what comes of it.
    fn pass(&mut self, from: usize, most: usize) {
        let said = written(self.ends[from].outbox());
        self.under_way[from].extend_from_slice(&said);
        let cut = most.min(self.under_way[from].len());
        let piece: Vec<u8> = self.under_way[from].drain(..cut).collect();
        if !piece.is_empty() {
            self.ends[1 - from].receive(NOW, BytesMut::from(&piece[..]));
        }
        self.events(0);
        self.events(1);
    }

    fn events(&mut self, end: usize) {
        while let Next::Event(event) = self.ends[end].poll(NOW) {
            self.event(end, event);
        }
    }

    fn event(&mut self, end: usize, event: Event) {
        let find = |pair: &Pair, id: Id| *pair.by_id[end].get(&id).expect("a known connection");
        match event {
            Event::Requested(id, port) => {
                assert_eq!(end, 1, "a client is asked");
                let index = usize::from(port) - 1;
                assert_eq!(self.connections[index].port, port);
                assert_eq!(self.connections[index].ids[1], None, "asked twice");
                self.connections[index].ids[1] = Some(id);
                self.by_id[1].insert(id, index);
            }
            Event::Connected(id) => assert!(!self.connections[find(self, id)].gone[end]),
            Event::Data(id, bytes) => {
                let index = find(self, id);
                let connection = &mut self.connections[index];
                assert!(!connection.saw_end[end], "data behind the end");
                connection.got[end].extend_from_slice(&bytes);
                let got = connection.got[end].len();
                let sent = &connection.sent[1 - end];
                assert!(got <= sent.len() && connection.got[end] == sent[..got], "wrong bytes");
            }
            Event::Eof(id) => {
                let index = find(self, id);
                let connection = &mut self.connections[index];
                assert!(!connection.saw_end[end], "ended twice");
                connection.saw_end[end] = true;
                assert!(connection.finished[1 - end], "an end that nobody said");
                assert_eq!(connection.got[end], connection.sent[1 - end], "a short end");
            }
            Event::Reset(id) | Event::Failed(id, _) => {
                let index = find(self, id);
                let connection = &mut self.connections[index];
                assert!(connection.gone[1 - end], "a reset that nobody asked for");
                connection.gone[end] = true;
            }
            Event::Room(_) => {}
            Event::Lost(loss) => panic!("lost: {loss}"),
        }
    }

    /// All that is under way arrives; then every connection is as its two ends wanted it.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.pass(0, usize::MAX);
            self.pass(1, usize::MAX);
        }
        let mut open = 0;
        for connection in &self.connections {
            assert!(connection.ids[1].is_some() || connection.gone[0], "never asked for");
            if connection.gone.contains(&true) {
                // Whoever knew of it has been told, unless it had ended for them already.
                continue;
            }
            for end in [0, 1] {
                assert_eq!(connection.got[end], connection.sent[1 - end], "bytes are missing");
                assert_eq!(connection.saw_end[end], connection.finished[1 - end]);
            }
            open += usize::from(!(connection.finished[0] && connection.finished[1]));
        }
        for end in &self.ends {
            assert_eq!(end.connections(), open, "connections are left");
        }
    }
}
