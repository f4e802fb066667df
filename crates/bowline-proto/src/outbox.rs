//! Turns frames into a queue of slices that a gathered write can send, without copying payloads.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::queue::Queue;

/// The bytes that wait to be written to a socket, in order. After a write, even a partial one, its
/// driver calls [`advance`](Self::advance).
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Queue,
    finishing: bool,
    underway: usize,
}

impl Outbox {
    /// An empty outbox.
    #[must_use]
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Says that what is queued from now on is cut from a new read, of `read` bytes. What still
    /// waits of the read before must not keep alive much more than itself: see
    /// [`Queue::begin_read`].
    pub fn begin_read(&mut self, read: usize) {
        self.queue.begin_read(read);
    }

    /// Queues one frame: `header`, then `payload`. Nothing is queued once the outbox was finished.
    #[inline]
    pub fn frame(&mut self, header: &[u8], payload: Bytes) {
        if !self.finishing {
            self.queue.push(header, payload);
        }
    }

    /// Queues one frame, `header` and then the pieces of its payload.
    pub fn frame_in_pieces(&mut self, header: &[u8], pieces: impl IntoIterator<Item = Bytes>) {
        if !self.finishing {
            self.queue.push_pieces(header, pieces);
        }
    }

    /// Takes out the first bytes, at most `limit` of them, to be carried in another protocol.
    pub fn take(&mut self, limit: usize) -> Vec<Bytes> {
        self.queue.take(limit)
    }

    /// Queues one small frame at the first frame boundary, before bulk data that waits and behind
    /// urgent frames that wait. For pings and their answers.
    pub fn urgent(&mut self, frame: &[u8]) {
        if !self.finishing {
            self.queue.push_urgent(frame);
        }
    }

    /// How many urgent frames wait. Whoever answers a peer's frames with urgent ones has to bound
    /// them by it: a peer may ask without reading the answers.
    #[must_use]
    pub fn urgent_waiting(&self) -> usize {
        self.queue.urgent()
    }

    /// Says that nothing follows: once all is written, the driver ends its direction of the socket.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Whether [`finish`](Self::finish) was called.
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// Sets how many of the written bytes are known not to have reached the peer's host.
    pub fn set_underway(&mut self, underway: usize) {
        self.underway = underway;
    }

    /// How many bytes the peer's host has yet to get, in the outbox or written.
    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.len() + self.underway
    }

    /// Whether the peer's host has yet to get something, which would be lost if the connection were
    /// closed now.
    #[must_use]
    pub fn is_undelivered(&self) -> bool {
        self.undelivered() > 0
    }

    /// Drops what waits, because the peer cannot take it any more.
    pub fn discard(&mut self) {
        self.queue.clear();
    }

    /// How many bytes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The bytes that wait as slices, in order, for a gathered write.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.chunks()
    }

    /// Removes the first `written` bytes, which the socket took.
    pub fn advance(&mut self, written: usize) {
        self.queue.advance(written);
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
                pieces.frame_in_pieces(b"<", parts);
            }
            prop_assert_eq!(whole.len(), pieces.len());
            let mut carrier = Outbox::new();
            while !pieces.is_empty() {
                let taken = pieces.take(limit);
                prop_assert!(!taken.is_empty());
                carrier.frame_in_pieces(b"", taken);
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
