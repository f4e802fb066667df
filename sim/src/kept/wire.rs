//! One direction of a connection: bytes come in order, late, in pieces, and as far as they come.

use std::collections::VecDeque;
use std::time::Duration;

use bowline_proto::Outbox;
use bowline_proto::Time;
use bowline_proto::time::earlier;
use bytes::BytesMut;

use super::scenario::Wire;

/// Bytes on their way to one end.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pieces: VecDeque<(Time, BytesMut)>,
    bytes: usize,
    /// Nothing follows what is under way.
    ends: bool,
    /// The receiver was told so.
    pub(super) has_ended: bool,
    /// The sender has said its last word.
    is_stalled_until: Time,
}

/// What comes out of a lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    Bytes(BytesMut),
    End,
}

impl Lane {
    /// Takes what an end has to say, as much as fits; whether that was something.
    pub(super) fn fill(&mut self, now: Time, outbox: &mut Outbox, wire: Wire, most: usize) -> bool {
        let room = wire.held_bytes.saturating_sub(self.bytes).min(wire.piece_bytes).min(most);
        // As with sockets, there is no room until there is much.
        let is_full = room == 0 || (self.bytes > 0 && room < wire.held_bytes / 4 && room < most);
        if self.ends || is_full || outbox.is_empty() {
            return false;
        }
        let bytes: Vec<u8> = outbox.chunks().flatten().copied().take(room).collect();
        outbox.advance(bytes.len());
        self.bytes += bytes.len();
        self.pieces.push_back((now + wire.delay, BytesMut::from(&bytes[..])));
        true
    }

    /// Nothing more is said.
    pub(super) fn end(&mut self) {
        self.ends = true;
    }

    /// It breaks off behind so many of the pieces that are under way.
    pub(super) fn cut(&mut self, pieces: usize) {
        self.pieces.truncate(pieces);
        self.bytes = self.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        self.ends = true;
    }

    /// Nothing more comes out, and nobody is told.
    pub(super) fn lose_all(&mut self) {
        self.cut(0);
        self.has_ended = true;
    }

    pub(super) fn stall(&mut self, now: Time, pause: Duration) {
        self.is_stalled_until = now + pause;
    }

    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// What has arrived, at most so many bytes.
    pub(super) fn take(&mut self, now: Time, most: usize) -> Option<Came> {
        if now < self.is_stalled_until {
            return None;
        }
        let Some((at, bytes)) = self.pieces.front_mut() else {
            let ends = self.ends && !std::mem::replace(&mut self.has_ended, self.ends);
            return ends.then_some(Came::End);
        };
        if *at > now {
            return None;
        }
        let came = bytes.split_to(bytes.len().min(most));
        if bytes.is_empty() {
            self.pieces.pop_front();
        }
        self.bytes -= came.len();
        // A copy, so that it keeps nothing else alive.
        Some(Came::Bytes(BytesMut::from(&came[..])))
    }

    /// When the next thing comes out.
    pub(super) fn deadline(&self, until: Option<Time>) -> Option<Time> {
        let next = match self.pieces.front() {
            Some((at, _)) => Some(*at),
            None => (self.ends && !self.has_ended).then_some(self.is_stalled_until),
        };
        earlier(until, next.map(|at| at.max(self.is_stalled_until)))
    }
}
