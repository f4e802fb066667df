//! Decides from header lines which protocol a stream speaks, on either side of the handshake.

mod client;
mod lines;
mod server;

pub use self::client::{NotUpgraded, Offer};
pub use self::lines::{Lines, SPDY, STREAM_PROTOCOL, requested_carrier};
pub use self::server::{
    Accepted, Accepts, Refusal, accept, accept_forward, accept_kept, accepted_protocol_lines,
    asks_for_kept, asks_for_tunnel,
};

#[cfg(test)]
mod tests;
