//! The protocols of Kubernetes streaming as plain values: bytes, time and commands go in, bytes and
//! events come out. There is no I/O here; `bowline-io` drives these machines, and `bowline-sim`
//! tests them.
//!
//! # The four rules of a machine
//!
//! 1. Input never fails the driver: a peer's fault becomes an event and a close.
//! 2. After every input the driver polls until the machine is idle. Bytes to write are state
//!    ([`Outbox`]), so a partial write is nothing special.
//! 3. Time and randomness are arguments.
//! 4. Memory is bounded by [`limits`]. There is one kind of backpressure: a machine that cannot
//!    take more says so ([`Machine::wants_read`]), the socket stays unread, and TCP holds back the
//!    peer.
//!
//! # Modules, in reading order
//!
//! [`machine`] and [`time`] define what all others use; [`limits`] holds every bound, and [`queue`]
//! is where bytes wait to be written.
//! [`websocket`] and [`spdy`] turn bytes into frames' events; [`session`] turns both into the
//! events of one remote command; [`relay`] joins two sessions. [`portforward`] has the events of
//! many connections over one; [`tunnel`] carries SPDY's bytes in WebSocket messages, and
//! [`splice`] takes them through a gateway. [`kept`] has commands that outlive their connections.
//! [`cri`] stands in front of a container runtime.
//! [`negotiate`] decides from headers which protocol is spoken; [`extension`] has what two Bowlines
//! agree on beyond that.
#![no_std]
#![forbid(unsafe_code)]
#![warn(unnameable_types, unreachable_pub)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod cri;
mod ends;
pub mod extension;
pub mod heartbeat;
pub mod kept;
pub mod limits;
pub mod machine;
pub mod negotiate;
pub mod outbox;
pub mod portforward;
pub mod queue;
pub mod relay;
pub mod session;
pub mod spdy;
pub mod splice;
pub mod time;
pub mod tunnel;
pub mod websocket;

pub use machine::{Intermediary, Leg, Machine, Next};
pub use outbox::Outbox;
pub use queue::Queue;
pub use time::Time;
