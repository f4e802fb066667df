//! Randomness of the operating system to the bytes that machines ask for.

/// Fresh bytes from a cryptographic source: seeds of WebSocket masks, handshake keys, tokens.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes[..]);
    bytes
}

/// As many fresh [bytes](bytes()), as text of two hexadecimal digits each: ids, tokens, marks.
#[must_use]
pub fn hex<const N: usize>() -> String {
    bytes::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}
