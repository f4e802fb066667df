//! Bytes that may have to be sent again: kept from what is acknowledged on, and read by one cursor
//! for each peer.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};

use super::escape::ESC;
use super::screen::Screen;
use super::sum::Sum;
use super::{Frame, Stream, Total};
use crate::limits::KEPT_PIECE_BYTES;

/// A piece costs as much as so many bytes; with more pieces than that they become one.
const PIECE_COSTS_BYTES: usize = 512;
/// As many pieces as do no harm.
const FEW_PIECES: usize = 64;

/// What one stream has sent and was not acknowledged, and what it will send.
#[derive(Debug)]
pub(super) struct Replay {
    /// Pieces with their offsets, in order and without holes.
    pieces: VecDeque<(u64, Bytes)>,
    start: u64,
    end: u64,
    is_over: bool,
    sum: Sum,
    /// How far whoever had the session has taken the stream; the end counts as one.
    taken: u64,
    /// What is not kept any more of a terminal's output.
    screen: Option<Box<Screen>>,
}

/// How far one peer is with a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The offset that is sent next; one behind the stream's end once that was sent.
    next: u64,
    /// What the peer has taken.
    acknowledged: u64,
    /// Where the last gap ended.
    gap_end: u64,
    /// Where the peer's window begins: at what it has taken, and as much later as gaps have been
    /// long since. A gap is none of what it lets be sent ahead, and makes no room for more.
    window_start: u64,
}

impl Replay {
    pub(super) fn new() -> Replay {
        Replay {
            pieces: VecDeque::new(),
            start: 0,
            end: 0,
            is_over: false,
            sum: Sum::new(),
            taken: 0,
            screen: None,
        }
    }

    /// The output of a terminal. Of what is not kept any more, so many bytes are held for whoever
    /// has not seen it.
    pub(super) fn of_terminal(tail_bytes: usize) -> Replay {
        Replay { screen: Some(Box::new(Screen::new(tail_bytes))), ..Replay::new() }
    }

    /// A stream that is over, of which nothing is kept.
    pub(super) fn past(total: Total, taken: u64) -> Replay {
        let Total { bytes, sum } = total;
        let sum = Sum::Known(sum);
        Replay { start: bytes, end: bytes, is_over: true, sum, taken, ..Replay::new() }
    }

    /// Adds bytes to the stream. They must not keep alive much more than themselves.
    pub(super) fn push(&mut self, bytes: Bytes) {
        debug_assert!(!self.is_over, "the stream has ended");
        if bytes.is_empty() || self.is_over {
            return;
        }
        self.sum.add(&bytes);
        let at = self.end;
        self.end += bytes.len() as u64;
        self.pieces.push_back((at, bytes));
        if self.pieces.len() > FEW_PIECES + self.len() / PIECE_COSTS_BYTES {
            self.join();
        }
    }

    /// Many small pieces become one.
    fn join(&mut self) {
        let mut joined = BytesMut::with_capacity(self.len());
        self.pieces.drain(..).for_each(|(_, bytes)| joined.extend_from_slice(&bytes));
        self.pieces.push_back((self.start, joined.freeze()));
    }

    /// Begins behind bytes that others have sent. Nothing was pushed yet.
    pub(super) fn begin_at(&mut self, offset: u64) {
        (self.start, self.end) = (offset, offset);
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self) {
        self.is_over = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// How many bytes are kept.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.end - self.start).unwrap_or(usize::MAX)
    }

    /// The offset of the first byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// What brings a terminal to where the bytes before [`start`](Self::start) have brought it. For
    /// the output of a terminal, if there are any.
    pub(super) fn screen(&self) -> Option<Vec<u8>> {
        self.screen.as_ref().filter(|_| self.start > 0).map(|screen| screen.bytes())
    }

    pub(super) fn total(&self) -> Total {
        Total { bytes: self.end, sum: self.sum.value() }
    }

    /// What can be sent or acknowledged at most: the end of an ended stream counts as one.
    fn last(&self) -> u64 {
        self.end.saturating_add(u64::from(self.is_over))
    }

    /// How many bytes there are below an offset, which may count the end as one.
    pub(super) fn bytes_of(&self, offset: u64) -> u64 {
        offset.min(self.end)
    }

    /// Forgets what is below an offset.
    pub(super) fn forget(&mut self, below: u64) {
        let below = below.clamp(self.start, self.end);
        while let Some((at, bytes)) = self.pieces.front_mut() {
            let behind = *at + bytes.len() as u64;
            let cut = usize::try_from(below.saturating_sub(*at)).unwrap_or(usize::MAX);
            let cut = cut.min(bytes.len());
            if let Some(screen) = &mut self.screen {
                screen.feed(&bytes[..cut]);
            }
            if behind > below {
                bytes.advance(cut);
                *at += cut as u64;
                break;
            }
            self.pieces.pop_front();
        }
        self.start = below;
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    /// Forgets the oldest bytes, so that at most so many are kept.
    pub(super) fn keep_last(&mut self, bytes: usize) {
        self.forget(self.end.saturating_sub(bytes as u64));
    }

    /// How far whoever had the session has taken the stream.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Records how far whoever has the session has taken it now. Behind a gap that came to nobody
    /// nothing counts.
    pub(super) fn take(&mut self, cursor: &Cursor) {
        if cursor.gap_end <= self.taken {
            self.taken = self.taken.max(cursor.acknowledged);
        }
    }

    /// Where the next sequence of a terminal begins from an offset on, or might begin behind the
    /// end.
    pub(super) fn next_sequence(&self, from: u64) -> u64 {
        let behind = self.pieces.partition_point(|(at, _)| *at <= from);
        let pieces = self.pieces.range(behind.saturating_sub(1)..);
        let mut places = pieces.filter_map(|(at, bytes)| {
            let skip = usize::try_from(from.saturating_sub(*at)).ok()?;
            let place = bytes.get(skip..)?.iter().position(|byte| *byte == ESC)?;
            Some(at + (skip + place) as u64)
        });
        places.next().unwrap_or(self.end)
    }

    /// A cursor for a peer that has everything below an offset, and has acknowledged less of it.
    ///
    /// # Errors
    /// If that is more than there is.
    pub(super) fn cursor(&self, have: u64, acknowledged: u64) -> Result<Cursor, &'static str> {
        if have > self.last() {
            return Err("the peer has more of a stream than there was");
        }
        let acknowledged = acknowledged.min(have);
        Ok(Cursor { next: have, acknowledged, gap_end: 0, window_start: acknowledged })
    }

    /// The next frame for a peer that lets so many bytes be sent ahead, up to an offset.
    pub(super) fn next_up_to(
        &self,
        until: u64,
        cursor: &mut Cursor,
        stream: Stream,
        window: u64,
    ) -> Option<Frame> {
        let until = until.max(cursor.next).saturating_sub(cursor.window_start);
        self.next(cursor, stream, window.min(until))
    }

    /// The next frame for a peer that lets so many bytes be sent ahead.
    pub(super) fn next(&self, cursor: &mut Cursor, stream: Stream, window: u64) -> Option<Frame> {
        let allowed = cursor.window_start.saturating_add(window).saturating_sub(cursor.next);
        if cursor.next < self.start {
            if allowed == 0 {
                // Else one gap after another would be all that such a peer gets.
                return None;
            }
            let (from, to, taken) = (cursor.next, self.start, self.taken.min(self.end));
            let gap = Frame::Gap { stream, from, to, taken };
            (cursor.next, cursor.gap_end) = (to, to);
            cursor.window_start += to - from;
            return Some(gap);
        }
        if cursor.next >= self.end {
            let ends = self.is_over && cursor.next == self.end;
            cursor.next += u64::from(ends);
            return ends.then_some(Frame::End(stream, self.end));
        }
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).min(KEPT_PIECE_BYTES);
        if allowed == 0 {
            return None;
        }
        let behind = self.pieces.partition_point(|(at, _)| *at <= cursor.next);
        let (at, bytes) = self.pieces.get(behind.checked_sub(1)?)?;
        let skip = usize::try_from(cursor.next - at).ok()?;
        let bytes = bytes.slice(skip..bytes.len().min(skip.saturating_add(allowed)));
        let offset = cursor.next;
        cursor.next += bytes.len() as u64;
        Some(Frame::Data(stream, offset, bytes))
    }

    /// Whether a peer was sent everything, the end included.
    pub(super) fn is_sent(&self, cursor: &Cursor) -> bool {
        self.is_over && cursor.next > self.end
    }
}

impl Cursor {
    /// Records an acknowledgement.
    ///
    /// # Errors
    /// If more is acknowledged than was sent.
    pub(super) fn acknowledge(&mut self, at: u64) -> Result<(), &'static str> {
        if at > self.next {
            return Err("the peer acknowledges what was not sent");
        }
        self.acknowledged = self.acknowledged.max(at);
        self.window_start = self.window_start.max(at);
        Ok(())
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The offset that is sent next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn read(replay: &Replay, cursor: &mut Cursor, window: u64) -> (Vec<u8>, bool) {
        let (mut all, mut ended) = (Vec::new(), false);
        while let Some(frame) = replay.next(cursor, Stream::Stdout, window) {
            match frame {
                Frame::Data(_, _, bytes) => all.extend_from_slice(&bytes),
                Frame::End(..) => ended = true,
                other => panic!("{other:?}"),
            }
        }
        (all, ended)
    }

    fn gap(from: u64, to: u64, taken: u64) -> Frame {
        Frame::Gap { stream: Stream::Stdout, from, to, taken }
    }

    #[test]
    fn what_is_behind_a_gap_that_came_to_nobody_is_not_taken() {
        let total = Total { bytes: 500, sum: 0 };
        let mut replay = Replay::past(total, 100);
        for have in [0, 100] {
            let mut cursor = replay.cursor(have, 0).unwrap();
            let next = replay.next(&mut cursor, Stream::Stdout, 1000);
            assert_eq!(next, Some(gap(have, 500, 100)));
            assert_eq!(
                replay.next(&mut cursor, Stream::Stdout, 1000),
                Some(Frame::End(Stream::Stdout, 500))
            );
            cursor.acknowledge(501).unwrap();
            replay.take(&cursor);
            assert_eq!(replay.taken(), 100);
        }
        let mut cursor = replay.cursor(500, 0).unwrap();
        assert_eq!(
            replay.next(&mut cursor, Stream::Stdout, 1000),
            Some(Frame::End(Stream::Stdout, 500))
        );
        cursor.acknowledge(501).unwrap();
        replay.take(&cursor);
        assert_eq!(replay.taken(), 501, "it had the rest");
    }

    /// One that reads, and takes nothing, gets no more than its window of an output that goes on.
    #[test]
    fn a_gap_makes_no_room() {
        let (mut replay, window) = (Replay::new(), 100);
        let mut cursor = replay.cursor(0, 0).unwrap();
        let (mut bytes, mut gaps) = (0, 0);
        for _ in 0..1000 {
            replay.push(Bytes::from_static(&[0; 30]));
            replay.keep_last(20);
            while let Some(frame) = replay.next(&mut cursor, Stream::Stdout, window) {
                match frame {
                    Frame::Data(_, _, data) => bytes += data.len() as u64,
                    Frame::Gap { .. } => gaps += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!((bytes, gaps), (window, 5));
        // What it has taken then makes as much room again.
        cursor.acknowledge(cursor.next()).unwrap();
        assert_eq!(replay.next(&mut cursor, Stream::Stdout, window), Some(gap(150, 29_980, 0)));
        assert_eq!(read(&replay, &mut cursor, window).0.len(), 20);
    }

    #[test]
    fn what_was_forgotten_is_a_gap() {
        let mut replay = Replay::new();
        replay.push(Bytes::from_static(b"0123456789"));
        replay.keep_last(4);
        let mut cursor = replay.cursor(2, 2).unwrap();
        let next = replay.next(&mut cursor, Stream::Stdout, 1);
        assert_eq!(next, Some(gap(2, 6, 0)));
        assert_eq!(cursor.acknowledged(), 2, "a gap that was sent is not one that was heard of");
        assert_eq!(read(&replay, &mut cursor, 100), (b"6789".to_vec(), false));
        assert!(replay.cursor(11, 11).is_err());
        replay.finish();
        assert!(replay.cursor(11, 11).is_ok());
        assert!(cursor.acknowledge(11).is_err());
        assert_eq!(read(&replay, &mut cursor, 100), (Vec::new(), true));
        cursor.acknowledge(11).unwrap();
    }

    #[test]
    fn single_bytes_cost_no_more_than_large_pieces() {
        let mut replay = Replay::new();
        for byte in 0..100_000_u32 {
            replay.push(Bytes::copy_from_slice(&[byte as u8]));
        }
        assert!(replay.pieces.len() <= FEW_PIECES + replay.len() / PIECE_COSTS_BYTES);
    }

    proptest! {
        #[test]
        fn each_byte_is_sent_once_and_again_from_where_the_peer_is(
            pieces in prop::collection::vec(1_usize..3000, 1..40),
            window in 1_u64..5000,
            back in 0_u64..4000,
        ) {
            let mut replay = Replay::new();
            let all: Vec<u8> = (0..pieces.iter().sum::<usize>()).map(|n| n as u8).collect();
            let mut rest = &all[..];
            for length in pieces {
                let (piece, behind) = rest.split_at(length);
                replay.push(Bytes::copy_from_slice(piece));
                rest = behind;
            }
            replay.finish();
            let (mut cursor, mut got) = (replay.cursor(0, 0).unwrap(), Vec::new());
            loop {
                let (bytes, ended) = read(&replay, &mut cursor, window);
                prop_assert!(bytes.len() as u64 <= window);
                got.extend_from_slice(&bytes);
                cursor.acknowledge(got.len() as u64 + u64::from(ended)).unwrap();
                if ended {
                    break;
                }
                let again = (got.len() as u64).saturating_sub(back);
                let kept = again.saturating_sub(100);
                replay.forget(kept);
                let mut second = replay.cursor(again, again).unwrap();
                let (bytes, _) = read(&replay, &mut second, back);
                let from = again as usize;
                prop_assert_eq!(&bytes[..], &all[from..(from + back as usize).min(all.len())]);
            }
            prop_assert!(replay.is_sent(&cursor));
            prop_assert_eq!(got, all);
        }
    }
}
