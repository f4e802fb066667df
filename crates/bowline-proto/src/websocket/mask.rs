//! XOR with a four-byte key (RFC 6455 §5.3), eight bytes at a time.

/// Masks or unmasks `bytes`, the first of which is at `offset` in its frame's payload.
pub(super) fn apply(key: [u8; 4], offset: usize, bytes: &mut [u8]) {
    let phase = offset % 4;
    let rotated = [key[phase], key[(phase + 1) % 4], key[(phase + 2) % 4], key[(phase + 3) % 4]];
    let [a, b, c, d] = rotated;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte ^= rotated[index % 4];
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(key: [u8; 4], offset in 0usize..9, bytes: Vec<u8>) {
            let mut masked = bytes.clone();
            super::apply(key, offset, &mut masked);
            let naive = (offset..).zip(&bytes).map(|(index, byte)| byte ^ key[index % 4]);
            prop_assert_eq!(masked, naive.collect::<Vec<u8>>());
        }
    }
}
