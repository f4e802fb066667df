//! Terminal sizes: however their bytes are cut, the same sizes come out.

use bowline_proto::session::{Size, Sizes};

use crate::cuts::choose;

/// The target.
pub fn target(data: &[u8]) {
    let (choices, bytes) = choose(data);
    let whole = Sizes::default().push(bytes);
    let mut sizes = Sizes::default();
    let cut: Vec<Size> = choices.pieces(bytes).iter().flat_map(|piece| sizes.push(piece)).collect();
    assert_eq!(whole, cut, "cuts make a difference");
}
