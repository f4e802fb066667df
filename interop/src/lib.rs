//! Sessions from outside: clients and servers as processes, and what every session must show.
//! Above: `tests/it` here and in `bowline`. Below: processes, ptys, `parts/*.sh`.
//!
//! [`client`] is a client program with its kubeconfig and pod; [`list`] is what must hold for each,
//! [`console`] is a terminal to type on; [`server`] starts and stops programs that serve, [`pair`]
//! two of ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is for tests, where a panic is the report"
)]

pub mod client;
pub mod console;
pub mod list;
pub mod pair;
pub mod server;
