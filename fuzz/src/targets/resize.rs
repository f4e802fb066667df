//! Terminal sizes: however their bytes are cut, the same ones come out last.

use bowline_proto::session::{SIZES_KEPT, Size, Sizes};

use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let whole = Sizes::default().push(bytes);
    let mut sizes = Sizes::default();
    let cut: Vec<Size> = choices.pieces(bytes).iter().flat_map(|piece| sizes.push(piece)).collect();
    assert!(
        whole.len() <= SIZES_KEPT && cut.ends_with(&whole),
        "{whole:?} is not the end of {cut:?}"
    );
}
