//! One file a target.

pub mod archive;
pub mod base64;
pub mod channels;
pub mod cri;
pub mod headers;
pub mod kept;
pub mod negotiate;
pub mod pairs;
pub mod relay;
pub mod resize;
pub mod session;
pub mod spdy;
pub mod status;
pub mod tunnel;
pub mod websocket;

use bowline_proto::Outbox;

/// Takes all that an outbox holds.
fn written(outbox: &mut Outbox) -> Vec<u8> {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().collect();
    assert_eq!(bytes.len(), outbox.len(), "an outbox counts wrong");
    outbox.advance(bytes.len());
    assert!(outbox.is_empty());
    bytes
}
