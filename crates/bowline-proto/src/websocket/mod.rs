//! WebSocket (RFC 6455): frames in, parts of messages out. No message is buffered whole.

mod connection;
mod fault;
mod frame;
mod mask;
mod passing;
mod utf8;

use alloc::string::String;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub use connection::{Chunk, Closed, Config, Connection, Continuation, Event, Kind, Role};
pub use fault::Fault;
pub(crate) use passing::Passing;

/// What is appended to a key before it is hashed (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_of_the_rfc() {
        let accept = super::accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
