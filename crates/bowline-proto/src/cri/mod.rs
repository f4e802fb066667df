//! A face in front of a container runtime: passes the frames of one HTTP/2 connection as they are,
//! and exchanges the URL in the answers to Exec, Attach and PortForward.
//!
//! Nothing is decoded to be encoded again. Every frame goes on as it came, cut as it came, but for
//! DATA with such an answer, which is held until its message is whole. Header blocks are only read.
//! So whatever a client and a runtime have to say to each other, known here or not, is theirs:
//! methods, fields, metadata, deadlines, cancellations, trailers, flow control.
//!
//! What cannot be read is passed, and its answer keeps the runtime's URL ([`Kept`] says why): a
//! client is then where it would be without the face. See docs/protocols/cri.md, 10.1 to 10.3.

mod answers;
mod frames;
mod headers;
mod held;
mod huffman;
mod messages;
mod method;
mod outgoing;
mod requests;
mod windows;

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use self::answers::Answers;
use self::held::Calls;
use self::outgoing::Outgoing;
use self::requests::Requests;
use crate::ends::{Ends, Waiting};
use crate::limits::OUTBOX_BYTES;
use crate::machine::{Intermediary, Leg, Next};
use crate::outbox::Outbox;
use crate::session::Wants;
use crate::time::Time;

/// Which side ended first.
pub type Ending = Leg;

/// What a client of the runtime has asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A command in a container, with these channels.
    Exec(Wants),
    /// A container's main process, with these channels.
    Attach(Wants),
    /// Ports of a sandbox.
    PortForward {
        /// Those that the request names, which may be none.
        ports: Vec<u16>,
    },
}

/// A call that the runtime has answered with a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked for.
    pub asked: Asked,
    /// The container's id, or the sandbox's, as the client wrote it.
    pub id: String,
    /// The words of an exec's command. `None` if there are more than are kept, if one of them is no
    /// text, or if the request has fields of later versions, which a command may depend on.
    pub command: Option<Vec<String>>,
}

/// Gives other URLs for those of the runtime.
pub trait Exchange {
    /// Returns the URL that the client gets instead; `None` leaves the runtime's. One that is as
    /// long as the runtime's changes no frame's length. A longer one is possible, a shorter one is
    /// not. If it cannot be used, [`kept`](Self::kept) is called before anything else.
    fn exchange(&mut self, call: Call, url: &str) -> Option<String>;

    /// Says that the runtime's URL was left in an answer, or in all that follow, and why.
    fn kept(&mut self, _why: Kept) {}
}

/// Why an answer keeps the runtime's URL though nobody has chosen so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// The request or the answer is compressed.
    Compressed,
    /// The request or the answer is not what its method has, or has come in part only.
    Unreadable,
    /// The answer is longer than any URL, or the new one would be.
    TooLong,
    /// More calls are open at once than are watched, or more bytes of answers than are held.
    TooMany,
    /// The client's window for the call does not take a longer answer.
    NoWindow,
    /// The new URL is shorter than the runtime's.
    Shorter,
    /// The client's headers cannot be read any more, for the rest of its connection.
    Headers,
}

/// A client's connection and one to the runtime as one machine with two sockets.
#[derive(Debug)]
pub struct Face<X> {
    exchange: X,
    requests: Requests,
    answers: Answers,
    calls: Calls,
    to_near: Outgoing,
    to_far: Outbox,
    ends: Ends,
}

impl<X: Exchange> Face<X> {
    /// Joins a client of a runtime and the runtime, both at the beginning of their connection.
    #[must_use]
    pub fn new(exchange: X) -> Face<X> {
        Face {
            exchange,
            requests: Requests::default(),
            answers: Answers::default(),
            calls: Calls::default(),
            to_near: Outgoing::new(),
            to_far: Outbox::new(),
            ends: Ends::default(),
        }
    }

    fn unsent(&self, leg: Leg) -> usize {
        match leg {
            Leg::Near => self.to_near.unsent(),
            Leg::Far => self.to_far.len(),
        }
    }

    fn keeps(&mut self, leg: Leg) -> bool {
        let unsent = self.unsent(leg);
        self.ends.keeps(leg, unsent)
    }
}

impl<X: Exchange> Intermediary for Face<X> {
    type Ending = Ending;

    fn receive(&mut self, _now: Time, leg: Leg, input: BytesMut) {
        match leg {
            Leg::Near if self.ends.has_ended(Leg::Near) || !self.keeps(Leg::Far) => {}
            Leg::Near => {
                self.to_far.begin_read(input.len());
                self.client_said(input.freeze());
            }
            Leg::Far if self.ends.has_ended(Leg::Far) || !self.keeps(Leg::Near) => {}
            Leg::Far => {
                self.to_near.begin_read(input.len());
                self.runtime_said(input.freeze());
            }
        }
    }

    fn receive_end(&mut self, now: Time, leg: Leg, _broken: bool) {
        if self.ends.has_ended(leg) {
            return;
        }
        self.ends.end(now, leg);
        match leg {
            Leg::Near => {
                let rest = self.requests.unfinished();
                self.to_far.frame(&rest, Bytes::new());
                self.to_far.finish();
            }
            Leg::Far => {
                self.runtime_ended();
                self.to_near.finish();
            }
        }
    }

    fn poll(&mut self, now: Time) -> Next<Ending> {
        let waiting = Waiting {
            near_undelivered: self.to_near.is_undelivered(),
            far_undelivered: self.to_far.undelivered(),
            flushed: self.unsent(Leg::Near) == 0 && self.unsent(Leg::Far) == 0,
        };
        self.ends.poll(now, waiting)
    }

    fn outbox(&mut self, leg: Leg) -> &mut Outbox {
        match leg {
            Leg::Near => self.to_near.outbox(),
            Leg::Far => &mut self.to_far,
        }
    }

    /// The runtime is not read while the client's windows have no room for what it has sent.
    fn wants_read(&mut self, leg: Leg) -> bool {
        match leg {
            Leg::Near => self.ends.has_ended(Leg::Far) || self.to_far.len() < OUTBOX_BYTES,
            Leg::Far if self.ends.has_ended(Leg::Near) => true,
            Leg::Far => !self.to_near.is_waiting() && self.to_near.unsent() < OUTBOX_BYTES,
        }
    }

    /// A client whose windows were closed to the last got less than everything.
    fn is_cut(&self, leg: Leg) -> bool {
        self.ends.is_cut(leg)
            || match leg {
                Leg::Near => self.to_near.is_waiting(),
                Leg::Far => self.to_far.is_undelivered(),
            }
    }

    fn client_grace(&self) -> Duration {
        Ends::GRACE
    }

    /// What waits for either side is dropped: the client has gone, and the runtime takes nothing.
    fn client_gone(&mut self, now: Time) {
        self.ends.client_gone(now);
        self.to_near.discard();
        self.to_far.discard();
    }

    /// Both sides are ended without a word: to a client that is a runtime that is not there.
    fn abort(&mut self, now: Time, _why: &str) {
        self.to_near.finish();
        self.to_far.finish();
        self.ends.abort(now);
    }
}
