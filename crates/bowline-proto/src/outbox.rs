//! Turns frames into a queue of slices that a gathered write can send, without copying payloads.
//! Above: the machines that fill it, the driver that empties it. Below: `bytes`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};

/// Payloads up to this size are copied behind their header: one slice costs less than two.
const COPY_AT_MOST_BYTES: usize = 512;
/// Copied frames are sealed into one slice when they reach this size.
const SEAL_AT_BYTES: usize = 16 * 1024;

/// The bytes that wait to be written, in order. A partial write is [`advance`](Self::advance) with
/// less than everything.
#[derive(Debug, Default)]
pub struct Outbox {
    sealed: VecDeque<Piece>,
    /// Headers and small frames that come after everything in `sealed`.
    open: BytesMut,
    len: usize,
    urgent: usize,
    /// Whether the byte written last ended a frame, so that an urgent frame may come next.
    at_boundary: bool,
    ending: bool,
    underway: bool,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    ends_frame: bool,
    urgent: bool,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Outbox {
        Outbox { at_boundary: true, ..Outbox::default() }
    }

    /// Queues one frame: `header`, then `payload`. Nothing is queued once the outbox was finished.
    pub fn frame(&mut self, header: &[u8], payload: Bytes) {
        if self.ending {
            return;
        }
        self.len += header.len() + payload.len();
        self.open.extend_from_slice(header);
        if payload.len() <= COPY_AT_MOST_BYTES {
            self.open.extend_from_slice(&payload);
            if self.open.len() >= SEAL_AT_BYTES {
                self.seal(true);
            }
        } else {
            self.seal(false);
            self.sealed.push_back(Piece { bytes: payload, ends_frame: true, urgent: false });
        }
    }

    /// Queues one frame whose payload is in pieces.
    pub fn frame_of(&mut self, header: &[u8], pieces: impl IntoIterator<Item = Bytes>) {
        if self.ending {
            return;
        }
        self.len += header.len();
        self.open.extend_from_slice(header);
        for piece in pieces {
            self.len += piece.len();
            if piece.len() <= COPY_AT_MOST_BYTES {
                self.open.extend_from_slice(&piece);
            } else {
                self.seal(false);
                self.sealed.push_back(Piece { bytes: piece, ends_frame: false, urgent: false });
            }
        }
        match self.sealed.back_mut() {
            Some(last) if self.open.is_empty() => last.ends_frame = true,
            _ if self.open.len() >= SEAL_AT_BYTES => self.seal(true),
            _ => {}
        }
    }

    /// Takes out what comes first, at most `limit` bytes of it, to be carried in something else.
    pub fn take(&mut self, limit: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut left = limit.min(self.len);
        while left > 0 {
            let piece = match self.sealed.front_mut() {
                Some(piece) => piece.bytes.slice(..left.min(piece.bytes.len())),
                None => Bytes::copy_from_slice(&self.open[..left.min(self.open.len())]),
            };
            left -= piece.len();
            self.advance(piece.len());
            taken.push(piece);
        }
        taken
    }

    /// Queues one small frame at the first frame boundary, before bulk data that waits and behind
    /// urgent frames that do. For heartbeats and their answers.
    pub fn urgent(&mut self, frame: &[u8]) {
        if self.ending {
            return;
        }
        let mut boundary = self.at_boundary;
        let mut place = 0;
        for piece in &self.sealed {
            if boundary && !piece.urgent {
                break;
            }
            boundary = piece.ends_frame;
            place += 1;
        }
        if !boundary {
            self.seal(true);
            place = self.sealed.len();
        }
        let bytes = Bytes::copy_from_slice(frame);
        self.sealed.insert(place, Piece { bytes, ends_frame: true, urgent: true });
        self.len += frame.len();
        self.urgent += 1;
    }

    /// Urgent frames that wait. Whoever answers a peer's frames with them looks here, so that a
    /// peer that asks without reading fills no memory.
    #[must_use]
    pub fn urgent_waiting(&self) -> usize {
        self.urgent
    }

    /// Everything was said: once the queue is empty the driver ends its direction of the socket.
    pub fn finish(&mut self) {
        self.ending = true;
    }

    /// Whether [`finish`](Self::finish) was called: after the last byte, end this direction.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.ending
    }

    /// Says whether bytes that were written are known not to have reached the peer's host.
    pub fn set_underway(&mut self, underway: bool) {
        self.underway = underway;
    }

    /// Whether the peer's host is still to get something: closed now, the connection could lose it.
    #[must_use]
    pub fn is_undelivered(&self) -> bool {
        self.len > 0 || self.underway
    }

    /// Drops what waits: the peer cannot take it any more.
    pub fn discard(&mut self) {
        self.sealed.clear();
        self.open.clear();
        (self.len, self.urgent) = (0, 0);
        self.at_boundary = true;
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The waiting bytes as slices, in order, for a gathered write.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let open = Some(&self.open[..]).filter(|open| !open.is_empty());
        self.sealed.iter().map(|piece| &piece.bytes[..]).chain(open)
    }

    /// Forgets the first `written` bytes: the socket took them.
    pub fn advance(&mut self, mut written: usize) {
        self.len = self.len.saturating_sub(written);
        while written > 0 {
            let Some(piece) = self.sealed.front_mut() else {
                let whole = written >= self.open.len();
                self.open.advance(written.min(self.open.len()));
                self.at_boundary = whole;
                return;
            };
            if written < piece.bytes.len() {
                piece.bytes.advance(written);
                self.at_boundary = false;
                return;
            }
            written -= piece.bytes.len();
            self.at_boundary = piece.ends_frame;
            self.urgent -= usize::from(piece.urgent);
            self.sealed.pop_front();
        }
    }

    fn seal(&mut self, ends_frame: bool) {
        let bytes = self.open.split().freeze();
        if !bytes.is_empty() {
            self.sealed.push_back(Piece { bytes, ends_frame, urgent: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let waiting: Vec<u8> = outbox.chunks().flatten().copied().collect();
            assert_eq!(waiting.len(), outbox.len());
            let n = step.min(waiting.len());
            all.extend_from_slice(&waiting[..n]);
            outbox.advance(n);
        }
        all
    }

    #[test]
    fn an_urgent_frame_waits_for_the_end_of_the_frame_on_the_wire() {
        let mut outbox = Outbox::new();
        outbox.frame(b"H1", Bytes::from(alloc::vec![b'a'; 1000]));
        outbox.frame(b"H2", Bytes::from(alloc::vec![b'b'; 1000]));
        outbox.advance(10);
        outbox.urgent(b"PING");
        let all = drain(&mut outbox, 7);
        assert_eq!(&all[992..996], b"PING");
        assert_eq!(&all[996..998], b"H2");
        assert_eq!(all.len(), 992 + 4 + 1002);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            frames in prop::collection::vec((0usize..20, 0usize..2000), 0..20),
            step in 1usize..3000,
        ) {
            let mut outbox = Outbox::new();
            let mut expected = Vec::new();
            for (index, (header, payload)) in frames.into_iter().enumerate() {
                let header = alloc::vec![index as u8; header];
                let payload = alloc::vec![index as u8 ^ 0xff; payload];
                expected.extend_from_slice(&header);
                expected.extend_from_slice(&payload);
                outbox.frame(&header, Bytes::from(payload));
            }
            prop_assert_eq!(drain(&mut outbox, step), expected);
        }

        #[test]
        fn what_is_taken_out_is_what_would_be_written(
            frames in prop::collection::vec(prop::collection::vec(0usize..2000, 0..4), 0..10),
            limit in 1usize..5000,
        ) {
            let (mut whole, mut pieces) = (Outbox::new(), Outbox::new());
            for (index, lengths) in frames.into_iter().enumerate() {
                let parts: Vec<Bytes> =
                    lengths.iter().map(|n| alloc::vec![index as u8; *n].into()).collect();
                whole.frame(b"<", parts.concat().into());
                pieces.frame_of(b"<", parts);
            }
            prop_assert_eq!(whole.len(), pieces.len());
            let mut carrier = Outbox::new();
            while !pieces.is_empty() {
                let taken = pieces.take(limit);
                prop_assert!(!taken.is_empty());
                carrier.frame_of(b"", taken);
            }
            prop_assert_eq!(drain(&mut whole, 77), drain(&mut carrier, 64));
        }

        #[test]
        fn urgent_frames_never_split_another(
            payloads in prop::collection::vec(1usize..2000, 1..10),
            taken in 0usize..5000,
        ) {
            let mut outbox = Outbox::new();
            for payload in &payloads {
                outbox.frame(b"<", Bytes::from([&alloc::vec![b'.'; *payload][..], b">"].concat()));
            }
            let mut all: Vec<u8> = Vec::new();
            let first: Vec<u8> = outbox.chunks().flatten().copied().take(taken).collect();
            outbox.advance(first.len());
            all.extend(&first);
            outbox.urgent(b"!");
            all.extend(drain(&mut outbox, 64));
            let at = all.iter().position(|b| *b == b'!').unwrap();
            prop_assert!(at == 0 || all[at - 1] == b'>');
            prop_assert!(at + 1 == all.len() || all[at + 1] == b'<');
        }
    }
}
