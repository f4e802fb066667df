//! The Huffman code of HPACK (RFC 7541 appendix B).

/// How many bits the code of each symbol has; the last one is the end of a string, which is never
/// sent. Codes of one length are consecutive in the order of their symbols, so that the lengths say
/// all.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, //
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, //
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, //
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, //
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, //
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, //
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, //
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, //
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, //
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, //
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, //
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, //
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, //
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, //
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, //
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, //
    30,
];

const LONGEST: usize = 30;

/// The code by lengths.
struct Code {
    /// The first code of each length, and how many there are.
    first: [u32; LONGEST + 1],
    count: [u16; LONGEST + 1],
    /// Where the symbols of each length begin in `symbols`.
    place: [u16; LONGEST + 1],
    symbols: [u16; 257],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut filled) = (1, 0);
    while length <= LONGEST {
        code.first[length] = (code.first[length - 1] + code.count[length - 1] as u32) << 1;
        code.place[length] = filled as u16;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.symbols[filled] = symbol as u16;
                filled += 1;
                code.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// Decodes one string.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decoder {
    bits: u32,
    length: usize,
}

/// Not a string in this code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadCode;

impl Decoder {
    /// Gives the symbols that end in the next byte.
    pub(super) fn take(&mut self, byte: u8, mut give: impl FnMut(u8)) -> Result<(), BadCode> {
        for at in (0..8).rev() {
            self.bits = self.bits << 1 | u32::from(byte >> at & 1);
            self.length += 1;
            let (Some(first), Some(count)) =
                (CODE.first.get(self.length), CODE.count.get(self.length))
            else {
                return Err(BadCode);
            };
            // Shorter codes are smaller than all prefixes of longer ones.
            let place = self.bits.wrapping_sub(*first);
            if place < u32::from(*count) {
                let symbol = CODE.symbols[usize::from(CODE.place[self.length]) + place as usize];
                give(u8::try_from(symbol).map_err(|_| BadCode)?);
                *self = Decoder::default();
            }
        }
        Ok(())
    }

    /// Whether the string may end here: what is left are less than eight bits, all of them set.
    pub(super) fn may_end(self) -> bool {
        self.length < 8 && self.bits == (1 << self.length) - 1
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let (mut decoder, mut symbols) = (Decoder::default(), Vec::new());
        for byte in bytes {
            decoder.take(*byte, |symbol| symbols.push(symbol)).ok()?;
        }
        decoder.may_end().then_some(symbols)
    }

    #[test]
    fn the_code_uses_all_bits_and_each_symbol_is_decoded() {
        let used: u64 = LENGTHS.iter().map(|length| 1 << (LONGEST - usize::from(*length))).sum();
        assert_eq!(used, 1 << LONGEST);
        // The symbols are in the order of their codes.
        let mut code = 0u64;
        for (place, symbol) in CODE.symbols.iter().enumerate() {
            let length = usize::from(LENGTHS[usize::from(*symbol)]);
            let padding = (1 << (64 - length)) - 1;
            let bits = (code << (64 - LONGEST)) | padding;
            let bytes = &bits.to_be_bytes()[..length.div_ceil(8)];
            let expected = u8::try_from(*symbol).ok().map(|symbol| vec![symbol]);
            assert_eq!(decoded(bytes), expected, "{place}: {symbol}");
            code += 1 << (LONGEST - length);
        }
    }

    /// Some rows of RFC 7541 appendix B, with the padding of a string.
    #[test]
    fn codes_are_those_of_the_rfc() {
        for (bytes, symbol) in [
            (&[0xff, 0xc7][..], 0u8),
            (&[0xff, 0xff, 0xff, 0xf3], b'\n'),
            (&[0xff, 0xfe, 0x1f], b'\\'),
            (&[0xff, 0xff, 0x7b], 0xaa),
            (&[0xff, 0xff, 0xff, 0xef], 249),
            (&[0xff, 0xff, 0xfb, 0xbf], 255),
        ] {
            assert_eq!(decoded(bytes), Some(vec![symbol]), "{bytes:x?}");
        }
    }
}
