//! One connection of a kept session: its frames, its pings, and its silence.

use bytes::Bytes;

use super::{Frame, Instance, Reader};
use crate::limits::{
    KEPT_OUTBOX_BYTES, KEPT_PING_EVERY, KEPT_SILENCE, KEPT_WINDOW_BYTES, REASON_BYTES,
};
use crate::outbox::Outbox;
use crate::session::{Cause, Loss};
use crate::time::Time;

/// The version that is spoken here.
const VERSION: u64 = 1;

/// A connection, of either end.
#[derive(Debug)]
pub(super) struct Link {
    reader: Reader,
    pub(super) outbox: Outbox,
    /// How many bytes of each stream the peer lets us send ahead; none before its HELLO.
    window: Option<u64>,
    heard: Time,
    pinged: Time,
    pings: u64,
    has_ended: bool,
}

impl Link {
    /// A connection right after its upgrade; says hello.
    pub(super) fn new(now: Time, instance: Option<Instance>) -> Link {
        let mut link = Link {
            reader: Reader::default(),
            outbox: Outbox::new(),
            window: None,
            heard: now,
            pinged: now,
            pings: 0,
            has_ended: false,
        };
        link.send(&Frame::Hello { version: VERSION, window: KEPT_WINDOW_BYTES, instance });
        link
    }

    pub(super) fn send(&mut self, frame: &Frame) {
        frame.write(&mut self.outbox);
    }

    pub(super) fn receive(&mut self, now: Time, input: Bytes) {
        self.heard = now;
        self.reader.receive(input);
    }

    pub(super) fn receive_end(&mut self) {
        self.has_ended = true;
    }

    /// Whether bulk data may be queued. Frames are sent in their order, so what the peer waits for
    /// is held up by no more than this.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < KEPT_OUTBOX_BYTES
    }

    /// Whether the peer has said hello.
    pub(super) fn is_greeted(&self) -> bool {
        self.window.is_some()
    }

    /// How much may be sent ahead.
    pub(super) fn window(&self) -> u64 {
        self.window.unwrap_or(0)
    }

    /// The next frame that is the session's matter. The first one is HELLO.
    ///
    /// # Errors
    /// How the connection ended, or what the peer did wrong. It is of no use then.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Loss> {
        loop {
            let fault = |what: &'static str| Loss::new(Cause::Fault, what);
            let Some(frame) = self.reader.frame().map_err(fault)? else {
                let cut = Loss::new(Cause::Cut, "");
                return if self.has_ended { Err(cut) } else { Ok(None) };
            };
            match frame {
                Frame::Hello { .. } if self.window.is_some() => {
                    return Err(fault("a second hello"));
                }
                Frame::Hello { version: 0, .. } => return Err(fault("a version that is none")),
                Frame::Hello { window, .. } => {
                    self.window = Some(window);
                    return Ok(Some(frame));
                }
                _ if self.window.is_none() => return Err(fault("no hello")),
                Frame::Ping(number) => {
                    // One that asks without reading the answers gets none.
                    if self.has_room() {
                        self.send(&Frame::Pong(number));
                    }
                }
                Frame::Pong(_) => {}
                Frame::Refused(mut refused) => {
                    refused.text.truncate(refused.text.floor_char_boundary(REASON_BYTES));
                    return Ok(Some(Frame::Refused(refused)));
                }
                frame => return Ok(Some(frame)),
            }
        }
    }

    /// Pings where that is due; returns when to look again.
    ///
    /// # Errors
    /// If the peer has been silent for too long.
    pub(super) fn beat(&mut self, now: Time) -> Result<Time, Loss> {
        let dead = self.heard + KEPT_SILENCE;
        if now >= dead {
            return Err(Loss::new(Cause::Silent, ""));
        }
        let mut next = self.pinged.max(self.heard) + KEPT_PING_EVERY;
        if now >= next {
            (self.pinged, self.pings) = (now, self.pings + 1);
            self.send(&Frame::Ping(self.pings));
            next = now + KEPT_PING_EVERY;
        }
        Ok(next.min(dead))
    }
}
