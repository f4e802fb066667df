//! The protocols from outside, as their drivers see them. One binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]

mod cri;
mod examples;
mod portforward;
mod session;
mod spdy;
mod splice;
mod tunnel;
mod websocket;
mod wire;
mod words;
