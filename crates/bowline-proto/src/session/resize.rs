//! Terminal sizes from a stream of JSON objects, however the stream is cut into pieces.

use alloc::format;
use alloc::vec::Vec;

use bytes::Bytes;

use super::channel::Size;
use crate::limits::RESIZE_BYTES;

/// How many of several sizes are kept. Only the last one counts, but a program redraws when another
/// one came before.
pub const SIZES_KEPT: usize = 2;

/// Parses sizes as they come. After the first fault it ignores the rest, as Kubernetes' decoder
/// does, but without wedging the session (trap T9 in docs/protocols/traps.md).
#[derive(Debug, Default)]
pub struct Sizes {
    partial: Vec<u8>,
    broken: bool,
}

impl Sizes {
    /// Takes the next bytes and returns the last [`SIZES_KEPT`] of the sizes that are now complete.
    /// More are not worth their cost: one is passed on in ten times the bytes that it may come in.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Size> {
        let mut sizes: Vec<Size> = Vec::new();
        if self.broken {
            return sizes;
        }
        for &byte in bytes {
            if self.partial.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            self.partial.push(byte);
            if self.partial[0] != b'{' || self.partial.len() > RESIZE_BYTES {
                return self.give_up(sizes);
            }
            // A `}` may end the size, or be part of an inner object or a string.
            if byte == b'}' {
                match parse(&self.partial) {
                    Parsed::Size(size) => {
                        if sizes.len() == SIZES_KEPT {
                            sizes.remove(0);
                        }
                        sizes.push(size);
                    }
                    Parsed::Incomplete => continue,
                    Parsed::Broken => return self.give_up(sizes),
                }
                self.partial.clear();
            }
        }
        sizes
    }

    fn give_up(&mut self, sizes: Vec<Size>) -> Vec<Size> {
        self.broken = true;
        self.partial = Vec::new();
        sizes
    }
}

enum Parsed {
    Size(Size),
    Incomplete,
    Broken,
}

/// Parses one size by Go's rules: keys match without regard to case, unknown keys are ignored, and
/// a missing one is 0.
fn parse(json: &[u8]) -> Parsed {
    let value: serde_json::Value = match serde_json::from_slice(json) {
        Ok(value) => value,
        Err(error) if error.is_eof() => return Parsed::Incomplete,
        Err(_) => return Parsed::Broken,
    };
    let Some(object) = value.as_object() else { return Parsed::Broken };
    let mut size = Size { width: 0, height: 0 };
    for (key, value) in object {
        let field = match key {
            key if key.eq_ignore_ascii_case("width") => &mut size.width,
            key if key.eq_ignore_ascii_case("height") => &mut size.height,
            _ => continue,
        };
        match value.as_u64().map(u16::try_from) {
            Some(Ok(number)) => *field = number,
            _ if value.is_null() => {}
            _ => return Parsed::Broken,
        }
    }
    Parsed::Size(size)
}

/// Returns the JSON of one size, as Kubernetes' encoder writes it.
#[must_use]
pub(super) fn encode(size: Size) -> Bytes {
    format!("{{\"Width\":{},\"Height\":{}}}\n", size.width, size.height).into()
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn size(width: u16, height: u16) -> Size {
        Size { width, height }
    }

    #[test]
    fn braces_in_a_text_without_end_are_not_kept() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"a\":\""), vec![]);
        assert_eq!(sizes.push(&[b'}'; 4 * RESIZE_BYTES]), vec![]);
        assert!(sizes.broken, "{} bytes are kept", sizes.partial.len());
    }

    #[test]
    fn the_forms_that_clients_send() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"Width\":80,\"Height\":24}\n"), [size(80, 24)]);
        assert_eq!(
            sizes.push(b" {\"height\":1,\"width\":2}{\"x\":{\"y\":1}}"),
            [size(2, 1), size(0, 0)]
        );
        assert_eq!(sizes.push(b"{\"Width\":null,\"b\":\"}\","), []);
        assert_eq!(sizes.push(b"\"HEIGHT\":7}"), [size(0, 7)]);
    }

    #[test]
    fn only_the_last_of_many_sizes_are_passed_on() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(&b"{}".repeat(1000)).len(), SIZES_KEPT);
        assert_eq!(sizes.push(b"{}{\"Width\":1}{\"Width\":2}"), [size(1, 0), size(2, 0)]);
    }

    #[test]
    fn a_fault_ends_resizing_and_nothing_else() {
        for bad in [
            "x",
            "[1]",
            "{\"Width\":65536}",
            "{\"Width\":-1}",
            "{\"Width\":\"1\"}",
            "{]}",
            "{\"Width\":1.5}",
        ] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.push(bad.as_bytes()), [], "{bad}");
            assert_eq!(sizes.push(b"{\"Width\":1,\"Height\":1}"), [], "{bad}");
        }
        let mut endless = Sizes::default();
        endless.push(&vec![b'{'; 2 * RESIZE_BYTES]);
        assert!(endless.partial.is_empty());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_sizes(
            pairs in prop::collection::vec((any::<u16>(), any::<u16>()), 0..8),
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let expected: Vec<Size> = pairs.iter().map(|&(w, h)| size(w, h)).collect();
            let last = |sizes: &[Size]| sizes[sizes.len().saturating_sub(SIZES_KEPT)..].to_vec();
            let all: Vec<u8> = expected.iter().flat_map(|size| encode(*size)).collect();
            let (mut sizes, mut got, mut rest) = (Sizes::default(), vec![], &all[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                got.extend(sizes.push(piece));
                rest = later;
            }
            prop_assert_eq!(last(&got), last(&expected));
        }

        #[test]
        fn no_bytes_make_it_panic(text: String) {
            Sizes::default().push(text.as_bytes());
        }
    }
}
