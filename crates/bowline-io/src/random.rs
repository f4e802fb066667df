//! Randomness of the operating system to the bytes that machines ask for.

/// Fresh bytes from a cryptographic source: seeds of WebSocket masks, handshake keys, tokens.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes[..]);
    bytes
}
