//! Bytes that wait to be written, as slices of what was read, in memory that is a small multiple of
//! them.
//!
//! A slice keeps alive all of the read that it was cut from, which may be a thousand times as
//! large. So whoever feeds a queue from reads says when the next one begins
//! ([`Queue::begin_read`]). What still waits of the read before is then left in place if it is most
//! of that read, and copied if not. What leaves before the next read is never copied. Small pieces
//! are always copied, one behind the other, so that many of them cost no more than few big ones.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::{fmt, mem};

use bytes::{Buf, Bytes, BytesMut};

/// Payloads up to this size are copied behind their header: one slice costs less than two.
const COPY_AT_MOST_BYTES: usize = 512;
/// Copied pieces are sealed into one slice when they reach this size.
const SEAL_AT_BYTES: usize = 16 * 1024;
/// How much room an empty queue keeps.
const ROOM_BYTES: usize = 1024;

/// Returns `bytes` in memory that is at most twice as large. `held` is how much they keep alive
/// now.
#[must_use]
pub fn compacted(bytes: BytesMut, held: usize) -> BytesMut {
    if bytes.len() < held / 2 { BytesMut::from(&bytes[..]) } else { bytes }
}

/// A queue of frames. It knows where they end, so that an urgent one can overtake others.
pub struct Queue {
    sealed: VecDeque<Piece>,
    /// Small pieces that come after everything in `sealed`.
    open: BytesMut,
    len: usize,
    urgent: usize,
    /// Whether the byte taken last ended a frame, so that an urgent frame may come next.
    at_boundary: bool,
    /// How many bytes in `sealed` are slices of the last read.
    fresh: usize,
    /// How many bytes the last read had, all of which its slices keep alive. 0 where nobody calls
    /// [`begin_read`](Self::begin_read): each slice is all of its read then.
    read: usize,
}

impl fmt::Debug for Queue {
    /// Without its bytes: they may be secrets, and many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} bytes)", self.len)
    }
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// How many bytes it keeps alive, if it is not a slice of the last read.
    whole: usize,
    ends_frame: bool,
    urgent: bool,
    /// It is a slice of the last read.
    fresh: bool,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::new()
    }
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Queue {
        Queue {
            sealed: VecDeque::new(),
            open: BytesMut::new(),
            len: 0,
            urgent: 0,
            at_boundary: true,
            fresh: 0,
            read: 0,
        }
    }

    /// Says that what is pushed from now on is cut from a new read, of `read` bytes.
    pub fn begin_read(&mut self, read: usize) {
        if self.fresh > 0 {
            self.settle(self.fresh < self.read - self.read / 4);
        }
        self.read = read;
    }

    /// Copies what waits and could keep alive much more than itself, so that the queue holds at
    /// most twice what waits in it. For an owner of many queues, which share what was read.
    pub fn compact(&mut self) {
        if self.fresh > 0 {
            self.settle(true);
        }
        if let Some(front) = self.sealed.front_mut()
            && front.bytes.len() < front.whole / 2
        {
            front.compact();
        }
    }

    /// Ends the last read: its slices are `copied`, or stay where they are.
    fn settle(&mut self, copied: bool) {
        let mut left = mem::take(&mut self.fresh);
        for piece in self.sealed.iter_mut().rev() {
            if left == 0 {
                break;
            }
            if mem::take(&mut piece.fresh) {
                left = left.saturating_sub(piece.bytes.len());
                if copied {
                    piece.compact();
                }
            }
        }
    }

    /// Queues one frame: `header`, then `payload`.
    #[inline]
    pub fn push(&mut self, header: &[u8], payload: Bytes) {
        self.len += header.len() + payload.len();
        self.open.extend_from_slice(header);
        if payload.len() <= COPY_AT_MOST_BYTES {
            self.open.extend_from_slice(&payload);
            if self.open.len() >= SEAL_AT_BYTES {
                self.seal(true);
            }
        } else {
            self.seal(false);
            self.slice(payload, true);
        }
    }

    /// Queues one frame, `header` and then the pieces of its payload.
    pub fn push_pieces(&mut self, header: &[u8], pieces: impl IntoIterator<Item = Bytes>) {
        self.len += header.len();
        self.open.extend_from_slice(header);
        for piece in pieces {
            self.len += piece.len();
            if piece.len() <= COPY_AT_MOST_BYTES {
                self.open.extend_from_slice(&piece);
            } else {
                self.seal(false);
                self.slice(piece, false);
            }
        }
        match self.sealed.back_mut() {
            Some(last) if self.open.is_empty() => last.ends_frame = true,
            _ if self.open.len() >= SEAL_AT_BYTES => self.seal(true),
            _ => {}
        }
    }

    /// Queues one small frame at the first frame boundary, before what waits and is not urgent, and
    /// behind what is.
    pub fn push_urgent(&mut self, frame: &[u8]) {
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
        let whole = bytes.len();
        self.sealed
            .insert(place, Piece { bytes, whole, ends_frame: true, urgent: true, fresh: false });
        self.len += frame.len();
        self.urgent += 1;
    }

    /// How many urgent frames wait.
    #[must_use]
    pub fn urgent(&self) -> usize {
        self.urgent
    }

    /// Takes out the first bytes, at most `limit` of them. They keep alive no more than what is
    /// taken and what is left.
    pub fn take(&mut self, limit: usize) -> Vec<Bytes> {
        self.begin_read(self.read);
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

    /// Drops what waits.
    pub fn clear(&mut self) {
        *self = Queue::new();
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

    /// The last of the bytes that wait.
    #[must_use]
    pub fn last(&self) -> Option<u8> {
        let sealed = self.sealed.back().and_then(|piece| piece.bytes.last());
        self.open.last().or(sealed).copied()
    }

    /// The waiting bytes as slices, in order, for a gathered write.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let open = Some(&self.open[..]).filter(|open| !open.is_empty());
        self.sealed.iter().map(|piece| &piece.bytes[..]).chain(open)
    }

    /// Forgets the first `taken` bytes.
    pub fn advance(&mut self, mut taken: usize) {
        self.len = self.len.saturating_sub(taken);
        while taken > 0 {
            let Some(piece) = self.sealed.front_mut() else {
                let whole = taken >= self.open.len();
                self.open.advance(taken.min(self.open.len()));
                self.at_boundary = whole;
                if whole && self.open.capacity() > ROOM_BYTES {
                    self.open = BytesMut::new();
                }
                return;
            };
            if taken < piece.bytes.len() {
                piece.bytes.advance(taken);
                self.fresh -= if piece.fresh { taken } else { 0 };
                self.at_boundary = false;
                return;
            }
            taken -= piece.bytes.len();
            self.fresh -= if piece.fresh { piece.bytes.len() } else { 0 };
            self.at_boundary = piece.ends_frame;
            self.urgent -= usize::from(piece.urgent);
            self.sealed.pop_front();
        }
    }

    #[inline]
    fn slice(&mut self, bytes: Bytes, ends_frame: bool) {
        let whole = bytes.len();
        self.fresh += whole;
        self.sealed.push_back(Piece { bytes, whole, ends_frame, urgent: false, fresh: true });
    }

    #[inline]
    fn seal(&mut self, ends_frame: bool) {
        let bytes = self.open.split().freeze();
        if !bytes.is_empty() {
            let whole = bytes.len();
            self.sealed.push_back(Piece { bytes, whole, ends_frame, urgent: false, fresh: false });
        }
    }
}

impl Piece {
    fn compact(&mut self) {
        self.bytes = Bytes::copy_from_slice(&self.bytes);
        self.whole = self.bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const READ: usize = 1024 * 1024;
    const SLICE: usize = 2 * COPY_AT_MOST_BYTES;

    /// Whether the only piece of the queue is a slice of `read` still.
    fn keeps(queue: &Queue, read: &Bytes) -> bool {
        let range = read.as_ptr_range();
        queue.sealed.iter().any(|piece| range.contains(&piece.bytes.as_ptr()))
    }

    #[test]
    fn what_still_waits_of_a_read_is_most_of_it_or_a_copy() {
        for (cut, kept) in [(SLICE, false), (READ / 2, false), (READ - SLICE, true), (READ, true)] {
            let read = Bytes::from(vec![7; READ]);
            let mut queue = Queue::new();
            queue.begin_read(READ);
            queue.push(b"head", read.slice(..cut));
            assert!(keeps(&queue, &read), "what may leave at once was copied");
            queue.begin_read(1);
            assert_eq!(keeps(&queue, &read), kept, "{cut}");
            assert_eq!(queue.len(), 4 + cut);
        }
    }

    #[test]
    fn what_left_in_time_does_not_count() {
        let read = Bytes::from(vec![7; READ]);
        let mut queue = Queue::new();
        queue.begin_read(READ);
        queue.push(&[], read.clone());
        queue.advance(READ - SLICE);
        queue.begin_read(1);
        assert!(!keeps(&queue, &read));
        queue.advance(SLICE);
        assert!(queue.is_empty() && queue.fresh == 0);
    }

    #[test]
    fn one_of_many_queues_keeps_nothing_but_its_own() {
        let read = Bytes::from(vec![7; READ]);
        let mut queue = Queue::new();
        queue.push(&[], read.clone());
        queue.compact();
        assert!(!keeps(&queue, &read));
        queue.advance(READ - SLICE);
        queue.compact();
        assert_eq!(queue.sealed[0].whole, SLICE);
    }

    #[test]
    fn an_empty_queue_keeps_no_room() {
        let mut queue = Queue::new();
        for _ in 0..20 {
            queue.push(&[], Bytes::from(vec![7; COPY_AT_MOST_BYTES]));
        }
        queue.advance(queue.len());
        assert!(queue.open.capacity() <= ROOM_BYTES);
    }
}
