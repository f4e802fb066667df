//! The client's library from outside, with peers that the tests hold in their hands. One binary
//! for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers and start programs")]

mod authorized;
mod completed;
mod copy;
mod silence;
