//! The crate from outside: runtimes of the tests behind a real kubelet, with real clients. One
//! binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "in a test, helpers included, a panic is the report; tests play peers"
)]

mod access;
mod client;
mod containerd;
mod cri;
mod cri_server;
mod kept;
mod local;
mod memory;
mod node;
mod relayed;
mod shim;
mod streaming;
