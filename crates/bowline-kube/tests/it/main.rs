//! What a client may be made to hold by a server. One binary for all, with an allocator that
//! counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers and start programs")]

mod memory;
