//! What goes to the client: frames of the runtime's, as they came or with an answer exchanged, as
//! soon as the client's windows take them.

use alloc::collections::VecDeque;
use core::mem;

use bytes::Bytes;

use super::frames::{HEAD_BYTES, Head, Part, Reader, kind};
use super::windows::Windows;
use crate::outbox::Outbox;

/// Frames on their way to the client.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) windows: Windows,
    outbox: Outbox,
    frames: Reader,
    /// What waits for room in the windows.
    queue: VecDeque<Bytes>,
    queued: usize,
    /// A frame of DATA, or what is left of one, that waits for room.
    waiting: Option<Head>,
    /// How many bytes of a payload may go.
    open: usize,
    /// Nothing follows what waits.
    is_finishing: bool,
}

impl Outgoing {
    pub(super) fn new() -> Outgoing {
        Outgoing {
            windows: Windows::new(),
            outbox: Outbox::new(),
            frames: Reader::default(),
            queue: VecDeque::new(),
            queued: 0,
            waiting: None,
            open: 0,
            is_finishing: false,
        }
    }

    /// Says that a read of so many bytes begins.
    pub(super) fn begin_read(&mut self, read: usize) {
        self.outbox.begin_read(read);
    }

    /// Queues bytes of whole frames, or of one in pieces.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() && !self.is_finishing {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
            self.flush();
        }
    }

    /// Says that nothing follows.
    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
        self.flush();
    }

    /// Moves what the windows take.
    pub(super) fn flush(&mut self) {
        while self.step() {}
        if self.is_finishing && !self.is_waiting() {
            self.outbox.frame(self.frames.unfinished(), Bytes::new());
            self.outbox.finish();
        }
    }

    fn step(&mut self) -> bool {
        if self.open == 0
            && let Some(head) = self.waiting
        {
            return self.begin(head);
        }
        let Some(front) = self.queue.front_mut() else { return false };
        let waited = front.len();
        // A payload that goes in two frames is cut here; the reader knows of one.
        let mut piece = match self.open {
            0 => mem::take(front),
            open => front.split_to(open.min(waited)),
        };
        let part = self.frames.next(&mut piece, |head| self.windows.take(head));
        if self.open == 0 {
            // A head takes no more than it needs.
            *front = piece;
        }
        let is_empty = front.is_empty();
        self.queued -= waited - front.len();
        if is_empty {
            self.queue.pop_front();
        }
        match part {
            Some(Part::Passing(frames)) => {
                self.open = self.frames.left();
                self.outbox.frame(&[], frames);
                true
            }
            Some(Part::Head(head)) => {
                self.waiting = Some(head);
                true
            }
            Some(Part::Payload(bytes)) => {
                self.open -= bytes.len().min(self.open);
                self.outbox.frame(&[], bytes);
                true
            }
            None => is_empty && !self.queue.is_empty(),
        }
    }

    /// Begins a frame if the windows take it, or as much of it as they take. Padded frames go
    /// whole; nobody here sends any.
    fn begin(&mut self, head: Head) -> bool {
        let (stream, length) = (head.stream(), head.length());
        let (head, rest) = match self.windows.room(stream) {
            _ if head.kind() != kind::DATA => (head, None),
            room if room >= length => (head, None),
            0 => return false,
            _ if head.is_padded() => return false,
            room => {
                let (head, rest) = head.split(room);
                (head, Some(rest))
            }
        };
        self.windows.spend(head);
        self.outbox.frame(&head.0, Bytes::new());
        self.open = head.length();
        self.waiting = rest;
        true
    }

    /// Whether something waits for room in the windows.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty() || self.open == 0 && self.waiting.is_some()
    }

    /// How many bytes were not written yet.
    pub(super) fn unsent(&self) -> usize {
        let waiting = if self.waiting.is_some() { HEAD_BYTES } else { 0 };
        self.outbox.len() + self.queued + waiting
    }

    /// Whether the client's host has yet to get something that its windows take.
    pub(super) fn is_undelivered(&self) -> bool {
        self.outbox.is_undelivered()
    }

    /// Drops what waits.
    pub(super) fn discard(&mut self) {
        self.queue.clear();
        self.queued = 0;
        self.waiting = None;
        self.outbox.discard();
    }

    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }
}
