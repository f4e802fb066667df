//! The gateway from outside, over real sockets: each of its doors is opened by something that the
//! tests make up. One binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers")]

mod access;
mod backend;
mod client;
mod doors;
mod facts;
mod kubelet;
mod rest;
