//! Parses PEM as Go's `encoding/pem` does: text around blocks is ignored, as are broken blocks, and
//! line ends may be any.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

/// Base64 as Go decodes it, which ignores the bits that are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A block, from its BEGIN to its END.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The label, such as `CERTIFICATE`.
    pub label: String,
    /// Whether there are lines `name: value` above the data, as in old encrypted keys.
    pub has_headers: bool,
    /// The decoded data.
    pub der: Vec<u8>,
}

/// Returns all blocks, in order.
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let mut blocks = Vec::new();
    // The block that has begun, which another BEGIN replaces.
    let mut begun: Option<(&str, Vec<&[u8]>)> = None;
    for line in text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end) {
        if let Some(label) = marked(line, "-----BEGIN ") {
            begun = Some((label, Vec::new()));
        } else if let Some(end) = marked(line, "-----END ") {
            if let Some((label, lines)) = begun.take().filter(|(label, _)| *label == end) {
                blocks.extend(block(label, &lines));
            }
        } else if let Some((_, lines)) = &mut begun {
            lines.push(line);
        }
    }
    blocks
}

fn marked<'a>(line: &'a [u8], mark: &str) -> Option<&'a str> {
    let label = line.strip_prefix(mark.as_bytes())?.strip_suffix(b"-----")?;
    str::from_utf8(label).ok()
}

fn block(label: &str, lines: &[&[u8]]) -> Option<Block> {
    let headers = lines.iter().take_while(|line| line.contains(&b':')).count();
    let data: Vec<u8> =
        lines[headers..].concat().into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = BASE64.decode(data).ok()?;
    Some(Block { label: label.to_owned(), has_headers: headers > 0, der })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(String, Vec<u8>)> {
        blocks(text.as_bytes()).into_iter().map(|block| (block.label, block.der)).collect()
    }

    #[test]
    fn what_is_around_a_block_does_not_matter() {
        let block = "-----BEGIN A-----\nYWJj\n-----END A-----";
        let expected = vec![("A".to_owned(), b"abc".to_vec())];
        for text in [
            block.to_owned(),
            format!("Bag Attributes\n    friendlyName: x\n{block}\nand more"),
            block.replace('\n', "\r\n"),
            block.replace("YWJj", "YW\n\n  Jj\t"),
            // One that does not end, one that is broken, one whose end is another's.
            format!("-----BEGIN A-----\nYW\n{block}"),
            format!("-----BEGIN A-----\n!!\n-----END A-----\n{block}"),
            format!("-----BEGIN A-----\nYWJj\n-----END B-----\n{block}"),
        ] {
            assert_eq!(read(&text), expected, "{text:?}");
        }
        assert_eq!(read(&format!("x{block}")), []);
        assert_eq!(read(&format!("{block}\n{block}")).len(), 2);
    }

    #[test]
    fn headers_are_seen() {
        let text =
            "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nYWJj\n-----END A-----";
        let found = blocks(text.as_bytes());
        assert!(found.len() == 1 && found[0].has_headers && found[0].der == b"abc");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(der: Vec<u8>, around in "[ -,a-z\n]{0,40}") {
            let text = format!(
                "{around}\n-----BEGIN X Y-----\n{}\n-----END X Y-----\n{around}",
                BASE64.encode(&der)
            );
            prop_assert_eq!(read(&text), vec![("X Y".to_owned(), der)]);
        }

        #[test]
        fn nothing_makes_it_fail(text: Vec<u8>) {
            let _ = blocks(&text);
        }
    }
}
