//! The client's flow-control windows (RFC 9113 §5.2, §6.9), and what the runtime believes of them.
//!
//! An answer that has become longer takes more of the client's windows than the runtime knows. The
//! difference is a debt: it is taken from what the client grants next, so that both count the same
//! again.

use alloc::collections::BTreeMap;

use super::frames::{Head, kind};

/// A window before anybody speaks of it (RFC 9113 §6.9.2).
const DEFAULT: i64 = 65_535;

/// The windows of a client: that of its connection, and those of the streams that are watched.
#[derive(Debug)]
pub(super) struct Windows {
    connection: Window,
    streams: BTreeMap<u32, Window>,
    /// What a stream has from its beginning; its window counts on top.
    initial: i64,
}

#[derive(Debug, Default)]
struct Window {
    /// How many bytes the client still takes.
    room: i64,
    /// How many more than that the runtime believes.
    debt: u32,
}

impl Window {
    /// Takes what the client grants; returns how much of it the runtime may hear of.
    fn grant(&mut self, increment: u32) -> u32 {
        self.room = self.room.saturating_add(i64::from(increment));
        let paid = self.debt.min(increment);
        self.debt -= paid;
        increment - paid
    }
}

impl Windows {
    pub(super) fn new() -> Windows {
        Windows {
            connection: Window { room: DEFAULT, debt: 0 },
            streams: BTreeMap::new(),
            initial: DEFAULT,
        }
    }

    /// Begins to count for a stream.
    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, Window::default());
    }

    /// Ends counting for a stream.
    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// For how many streams is counted.
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Takes the client's SETTINGS_INITIAL_WINDOW_SIZE, which changes all streams.
    pub(super) fn set_initial(&mut self, initial: u32) {
        self.initial = i64::from(initial);
    }

    /// Takes the client's WINDOW_UPDATE for a stream, or for the connection if that is 0. Returns
    /// how much of it the runtime may hear of.
    pub(super) fn grant(&mut self, stream: u32, increment: u32) -> u32 {
        if stream == 0 {
            return self.connection.grant(increment);
        }
        self.streams.get_mut(&stream).map_or(increment, |window| window.grant(increment))
    }

    /// Whether a stream's window takes so many bytes.
    pub(super) fn has_room(&self, stream: u32, bytes: usize) -> bool {
        self.streams.get(&stream).is_some_and(|window| {
            self.initial.saturating_add(window.room) >= i64::try_from(bytes).unwrap_or(i64::MAX)
        })
    }

    /// Records that the client will get so many bytes more than the runtime has sent.
    pub(super) fn lend(&mut self, stream: u32, bytes: u32) {
        let stream = self.streams.get_mut(&stream);
        for window in stream.into_iter().chain([&mut self.connection]) {
            window.debt = window.debt.saturating_add(bytes);
        }
    }

    /// How many bytes of DATA the client takes now on a stream. There is no bound where the runtime
    /// counts as the client does: it keeps to the windows by itself.
    pub(super) fn room(&self, stream: u32) -> usize {
        let mut room = i64::MAX;
        if self.connection.debt > 0 {
            room = room.min(self.connection.room);
        }
        if let Some(window) = self.streams.get(&stream).filter(|window| window.debt > 0) {
            room = room.min(self.initial.saturating_add(window.room));
        }
        usize::try_from(room.max(0)).unwrap_or(usize::MAX)
    }

    /// Records a frame that goes to the client.
    pub(super) fn spend(&mut self, head: Head) {
        let stream = head.stream();
        if head.kind() == kind::DATA {
            let bytes = i64::try_from(head.length()).unwrap_or(i64::MAX);
            for window in self.streams.get_mut(&stream).into_iter().chain([&mut self.connection]) {
                window.room = window.room.saturating_sub(bytes);
            }
        }
        if head.ends_stream() {
            self.close(stream);
        }
    }

    /// As [`spend`](Self::spend), unless the client does not take all of the frame now.
    pub(super) fn take(&mut self, head: Head) -> bool {
        let takes = head.kind() != kind::DATA || self.room(head.stream()) >= head.length();
        if takes {
            self.spend(head);
        }
        takes
    }
}
