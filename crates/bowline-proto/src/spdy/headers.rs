//! Header blocks: names and values in the connection's zlib streams.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use zlib_rs::{Inflate, InflateError, InflateFlush, Status};

use super::dictionary::{DICTIONARY, ID};
use super::fault::Fault;
use crate::limits::{SPDY_HEADERS, SPDY_HEADERS_INFLATED_BYTES};

/// The largest stored block of deflate (RFC 1951 §3.2.4).
const STORED_BYTES: usize = 0xffff;

/// The headers of a stream, in the order in which they came, with lower-case names. Several values
/// of one name are joined by NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Returns the value of the header with this name, whatever the name's case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|pair| pair.0.eq_ignore_ascii_case(name));
        found.map(|pair| pair.1.as_str())
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|pair| (pair.0.as_str(), pair.1.as_str()))
    }

    /// Parses an inflated block (SPDY/3.1 §2.6.10), whose counts and lengths may be wrong.
    fn parse(mut bytes: &[u8]) -> Result<Headers, Fault> {
        let mut headers = Headers::default();
        let count = number(&mut bytes)?;
        for _ in 0..count {
            if headers.0.len() == SPDY_HEADERS {
                return Err(Fault::LargeHeaders);
            }
            let (name, value) = (text(&mut bytes)?, text(&mut bytes)?);
            let bad = name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase());
            if bad || headers.0.iter().any(|pair| pair.0 == name) {
                return Err(Fault::Headers);
            }
            headers.0.push((name, value));
        }
        if bytes.is_empty() { Ok(headers) } else { Err(Fault::Headers) }
    }
}

fn number(bytes: &mut &[u8]) -> Result<usize, Fault> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(Fault::Headers)?;
    *bytes = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| Fault::Headers)
}

fn text(bytes: &mut &[u8]) -> Result<String, Fault> {
    let len = number(bytes)?;
    let (text, rest) = bytes.split_at_checked(len).ok_or(Fault::Headers)?;
    *bytes = rest;
    core::str::from_utf8(text).map(Into::into).map_err(|_| Fault::Headers)
}

/// Writes header blocks. They are stored rather than compressed: a compressor would hold 256 KiB
/// for every idle session to save some forty bytes once.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    begun: bool,
}

impl Encoder {
    /// Returns the block of `pairs`, whose names are made lower-case.
    pub(super) fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(pairs.len() as u32).to_be_bytes());
        for (name, value) in pairs {
            plain.extend_from_slice(&(name.len() as u32).to_be_bytes());
            plain.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
            plain.extend_from_slice(&(value.len() as u32).to_be_bytes());
            plain.extend_from_slice(value.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 16);
        if !self.begun {
            self.begun = true;
            // RFC 1950 §2.2: deflate with a 32 KiB window, a preset dictionary, the lowest level.
            block.extend_from_slice(&[0x78, 0x20]);
            block.extend_from_slice(&ID.to_be_bytes());
        }
        for piece in plain.chunks(STORED_BYTES) {
            stored(&mut block, piece);
        }
        // An empty stored block is what a sync flush writes.
        stored(&mut block, &[]);
        block
    }
}

/// Appends a stored block: not final, type 0, the length and its complement (RFC 1951 §3.2.4).
fn stored(block: &mut Vec<u8>, bytes: &[u8]) {
    let len = bytes.len() as u16;
    block.push(0);
    block.extend_from_slice(&len.to_le_bytes());
    block.extend_from_slice(&(!len).to_le_bytes());
    block.extend_from_slice(bytes);
}

/// Reads header blocks: one zlib stream for the whole connection, made when the first block comes.
#[derive(Default)]
pub(super) struct Decoder {
    inflate: Option<Box<Inflate>>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// Decodes the next block. No block of the connection may be left out.
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, Fault> {
        Headers::parse(&self.plain(block)?)
    }

    fn plain(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Fault> {
        let inflate = self.inflate.get_or_insert_with(|| Box::new(Inflate::new(true, 15)));
        let mut plain: Vec<u8> = Vec::new();
        let mut end = 0;
        loop {
            if end == plain.len() {
                if end > SPDY_HEADERS_INFLATED_BYTES {
                    return Err(Fault::LargeHeaders);
                }
                plain.resize((end + 1024).min(SPDY_HEADERS_INFLATED_BYTES + 1), 0);
            }
            let (was_in, was_out) = (inflate.total_in(), inflate.total_out());
            let result = inflate.decompress(block, &mut plain[end..], InflateFlush::SyncFlush);
            let taken = (inflate.total_in() - was_in) as usize;
            let made = (inflate.total_out() - was_out) as usize;
            block = block.get(taken..).unwrap_or_default();
            end += made;
            match result {
                Err(InflateError::NeedDict { dict_id: ID }) => {
                    inflate.set_dictionary(&DICTIONARY).map_err(|_| Fault::Inflate)?;
                }
                Ok(Status::Ok | Status::BufError) if end == plain.len() => {}
                Ok(Status::Ok | Status::BufError) if block.is_empty() => break,
                Ok(Status::Ok) if taken + made > 0 => {}
                _ => return Err(Fault::Inflate),
            }
        }
        plain.truncate(end);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;
    use zlib_rs::{Deflate, DeflateFlush};

    use super::*;

    fn deflate(deflate: &mut Deflate, plain: &[u8]) -> Vec<u8> {
        let mut block = vec![0; plain.len() + 1000];
        let before = deflate.total_out();
        deflate.compress(plain, &mut block, DeflateFlush::SyncFlush).unwrap();
        block.truncate((deflate.total_out() - before) as usize);
        block
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// Captured from moby/spdystream 0.5.1: two blocks of one connection.
    #[test]
    fn blocks_of_gos_compressor() {
        let mut decoder = Decoder::default();
        let first = hex("78 f9 e3 c6 a7 c2 62 60 60 60 04 a7 b3 92 a2 d4 c4 5c 68 51 c2 9a 0a 0a
                         68 00 00 00 00 ff ff");
        assert_eq!(decoder.headers(&first).unwrap().get("streamType"), Some("error"));
        let second = hex("c2 2e 55 5c 92 92 99 07 00 00 00 ff ff");
        assert_eq!(decoder.headers(&second).unwrap().get("streamtype"), Some("stdin"));
    }

    /// Written by C zlib at level 9.
    #[test]
    fn blocks_of_zlib() {
        let mut decoder = Decoder::default();
        let block = hex("78 f9 e3 c6 a7 c2 02 25 3a 48 f9 5b 04 4e ea 16 06 16 06 40 9a b3 08 12
                         5f 99 a0 74 cc 68 00 4e 89 25 45 a9 89 b9 d0 c2 86 35 15 14 15 00 00 00
                         00 ff ff");
        let headers = decoder.headers(&block).unwrap();
        let pairs: Vec<_> = headers.iter().collect();
        assert_eq!(pairs, [("port", "8080"), ("requestid", "0"), ("streamtype", "error")]);
    }

    #[test]
    fn what_is_declared_is_not_believed() {
        for plain in [
            &[0x80, 0, 0, 0][..],
            &[0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, b'a'],
            &[0, 0, 0, 1, 0, 0, 0, 1, b'A', 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0],
        ] {
            assert_eq!(Headers::parse(plain), Err(Fault::Headers), "{plain:?}");
        }
    }

    #[test]
    fn a_bomb_is_bounded() {
        let mut bomb = Deflate::new(9, true, 15);
        bomb.set_dictionary(&DICTIONARY).unwrap();
        let block = deflate(&mut bomb, &vec![0; 10 * 1024 * 1024]);
        assert!(block.len() < 64 * 1024);
        assert_eq!(Decoder::default().headers(&block), Err(Fault::LargeHeaders));
    }

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        prop::collection::vec(("[a-z-]{1,20}", ".{0,300}"), 0..20).prop_map(|mut pairs| {
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            pairs
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(blocks in prop::collection::vec(pairs(), 1..5)) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for pairs in blocks {
                let named: Vec<_> = pairs.iter().map(|pair| (&*pair.0, &*pair.1)).collect();
                let headers = decoder.headers(&encoder.block(&named));
                prop_assert_eq!(headers, Ok(Headers(pairs)));
            }
        }

        #[test]
        fn any_level_of_compression_is_understood(blocks in prop::collection::vec(pairs(), 1..4)) {
            for level in [0, 1, 9] {
                let mut compressor = Deflate::new(level, true, 15);
                compressor.set_dictionary(&DICTIONARY).unwrap();
                let mut decoder = Decoder::default();
                for pairs in &blocks {
                    let named: Vec<_> = pairs.iter().map(|pair| (&*pair.0, &*pair.1)).collect();
                    let mut plain = Encoder { begun: true }.block(&named);
                    plain.truncate(plain.len() - 5);
                    let block = deflate(&mut compressor, &plain[5..]);
                    prop_assert_eq!(decoder.headers(&block), Ok(Headers(pairs.clone())));
                }
            }
        }

        #[test]
        fn garbage_is_a_fault(block: Vec<u8>) {
            let mut headed = hex("78 20 e3 c6 a7 c2");
            headed.extend_from_slice(&block);
            let _ = Decoder::default().headers(&headed);
            let _ = Decoder::default().headers(&block);
        }
    }
}
