//! The gateway from outside, over real sockets, each of its components replaced by the tests' own.
//! One binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers")]

mod access;
mod api_facts;
mod backend;
mod client;
mod components;
mod facts;
mod kept;
mod kubelet;
mod rest;
mod upstream;
mod upstream_streams;
