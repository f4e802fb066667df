//! An input's first bytes to choices: which side, where the rest is cut.

use bytes::BytesMut;

/// Choices of an input.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// Which of several forms is meant.
    pub form: u8,
    state: u32,
}

/// Parts an input into choices and bytes.
pub fn choose(data: &[u8]) -> (Choices, &[u8]) {
    let (head, rest) = data.split_at(data.len().min(3));
    let at = |index: usize| head.get(index).copied().unwrap_or_default();
    let state = u32::from(at(1)) << 8 | u32::from(at(2)) | 1 << 16;
    (Choices { form: at(0), state }, rest)
}

impl Choices {
    /// A number below `limit`; xorshift, since only reach matters here.
    pub fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.state as usize % limit.max(1)
    }

    /// The bytes in pieces: often short ones, sometimes all at once.
    pub fn pieces(mut self, mut bytes: &[u8]) -> Vec<BytesMut> {
        let longest = [1, 3, 17, 200, usize::MAX][self.below(5)];
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length = (1 + self.below(longest)).min(bytes.len());
            let (piece, rest) = bytes.split_at(length);
            pieces.push(BytesMut::from(piece));
            bytes = rest;
        }
        pieces
    }
}
