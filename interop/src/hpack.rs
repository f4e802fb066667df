//! Blocks of HTTP/2's headers, where both sides keep no table: what is sent is literal, and what is
//! read may have names of the static table and Huffman's code.

/// The symbols of the code (RFC 7541, appendix B) with their lengths in bits, in the order of their
/// codes: as far as text has them.
const SYMBOLS: [(u32, &str); 9] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
];

/// A block of literals, without a name in any table.
#[must_use]
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn push_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut more) = length.checked_sub(127) else {
        return block.push(u8::try_from(length).unwrap());
    };
    block.push(127);
    while more >= 128 {
        block.push(u8::try_from(more % 128).unwrap() | 128);
        more /= 128;
    }
    block.push(u8::try_from(more).unwrap());
}

/// The headers of a block. A name, or both, of the static table are `#` and their number.
#[must_use]
pub fn headers(block: &[u8]) -> Vec<(String, String)> {
    let mut rest = Rest(block);
    let mut headers = Vec::new();
    while let Some(&first) = rest.0.first() {
        match first {
            128.. => headers.push((format!("#{}", rest.number(7)), String::new())),
            // How large the table is: there is none.
            32..64 => assert_eq!(rest.number(5), 0),
            _ => {
                let index = rest.number(if first >= 64 { 6 } else { 4 });
                let name = if index == 0 { rest.text() } else { format!("#{index}") };
                headers.push((name, rest.text()));
            }
        }
    }
    headers
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().expect("a block is whole");
        self.0 = rest;
        *first
    }

    /// A number with so many bits in its first byte.
    fn number(&mut self, bits: u32) -> usize {
        let most = (1 << bits) - 1;
        let mut number = usize::from(self.byte()) & most;
        if number < most {
            return number;
        }
        for shift in (0..28).step_by(7) {
            let byte = self.byte();
            number += usize::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        number
    }

    fn text(&mut self) -> String {
        let is_coded = self.0.first().is_some_and(|first| *first >= 128);
        let length = self.number(7);
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        if is_coded { decoded(text) } else { String::from_utf8_lossy(text).into_owned() }
    }
}

/// Reads Huffman's code bit by bit. Codes of one length follow each other, and the first of the
/// next length follows the last one.
fn decoded(text: &[u8]) -> String {
    let (mut decoded, mut code, mut length) = (String::new(), 0, 0);
    for bit in text.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        if let Some(symbol) = symbol(code, length) {
            decoded.push(symbol);
            (code, length) = (0, 0);
        }
    }
    assert!(length < 8, "text has a symbol that is not among those known here");
    decoded
}

fn symbol(code: u32, length: u32) -> Option<char> {
    let (mut first, mut before) = (0, 0);
    for (bits, symbols) in SYMBOLS {
        first <<= bits - before;
        before = bits;
        if bits == length {
            return symbols.chars().nth(usize::try_from(code.checked_sub(first)?).ok()?);
        }
        first += u32::try_from(symbols.len()).ok()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_are_written() {
        let long = "x".repeat(300);
        let written = [("a", "b"), (":path", "/unix%2Fsocket"), ("long", &long)];
        let read = headers(&block(&written));
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, written);
    }

    /// RFC 7541, C.4.1 and C.6.1.
    #[test]
    fn the_code_of_the_standard_is_read() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decoded(&coded), "www.example.com");
        let coded = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b,
            0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(decoded(&coded), "Mon, 21 Oct 2013 20:13:21 GMT");
    }
}
