//! Arbitrary bytes to what a machine makes of them, held against a model or against itself.
//!
//! A target panics where something is wrong; it may not where bytes merely are. The first bytes of
//! an input choose sides and cuts, so that the fuzzer can find these as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a panic is how a target reports"
)]

mod cuts;
mod targets;

/// A target's name, and what to call.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 15] = [
    ("archive", targets::archive::target),
    ("base64", targets::base64::target),
    ("channels", targets::channels::target),
    ("cri", targets::cri::target),
    ("headers", targets::headers::target),
    ("kept", targets::kept::target),
    ("negotiate", targets::negotiate::target),
    ("pairs", targets::pairs::target),
    ("relay", targets::relay::target),
    ("resize", targets::resize::target),
    ("session", targets::session::target),
    ("spdy", targets::spdy::target),
    ("status", targets::status::target),
    ("tunnel", targets::tunnel::target),
    ("websocket", targets::websocket::target),
];
