//! What moves bytes between two machines in memory: all that waits, or pieces cut anywhere.

use bowline_proto::Outbox;
use bytes::BytesMut;
use proptest::prelude::*;

/// Moves bytes in pieces of the given sizes, over and over.
#[derive(Clone, Debug)]
pub struct Cuts {
    sizes: Vec<usize>,
    next: usize,
}

impl Cuts {
    pub fn new(sizes: &[usize]) -> Cuts {
        Cuts { sizes: sizes.to_vec(), next: 0 }
    }

    pub fn piece(&mut self, outbox: &mut Outbox) -> BytesMut {
        let size = self.sizes[self.next % self.sizes.len()].max(1);
        self.next += 1;
        taken(outbox, size)
    }
}

pub fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..1500, 1..12)
}

pub fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..6)
}

/// The first bytes that wait, at most `size` of them, as a socket would take them.
pub fn taken(outbox: &mut Outbox, size: usize) -> BytesMut {
    let bytes: Vec<u8> = outbox.chunks().flatten().copied().take(size).collect();
    outbox.advance(bytes.len());
    BytesMut::from(&bytes[..])
}

/// The lines of a vector's file.
pub fn vector(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let byte = |hex: &str| u8::from_str_radix(hex, 16).unwrap();
    lines.map(|line| line.split_whitespace().map(byte).collect()).collect()
}

/// All that waits.
pub fn all(outbox: &mut Outbox) -> BytesMut {
    taken(outbox, usize::MAX)
}

/// A WebSocket frame as a client writes it, with a mask that changes nothing, or as a server does.
pub fn frame(client: bool, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match payload.len() {
        len @ 0..=125 => vec![first, len as u8],
        len @ 126..=0xffff => [&[first, 126], &(len as u16).to_be_bytes()[..]].concat(),
        len => [&[first, 127], &(len as u64).to_be_bytes()[..]].concat(),
    };
    if client {
        bytes[1] |= 0x80;
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}
