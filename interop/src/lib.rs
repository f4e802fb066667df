//! Sessions from outside: clients and servers as processes, and what every session must show.
//!
//! [`client`] is a client program with its kubeconfig and pod; [`list`], [`attach`], [`copy`] and
//! [`forward`] are what must hold for each,
//! [`console`] is a terminal to type on, [`emulated`] one to look at, [`kept_screen`] what a kept
//! session shows on it; [`server`] starts and stops programs that serve, [`pair`]
//! two of ours, [`relay`] cuts connections, [`pki`] makes their certificates; [`parts`] are the
//! real ones, [`cluster`] a whole Kubernetes of them, [`proxies`] what stands before servers,
//! [`grpc`] and [`hpack`] speak to its runtime byte by byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is for tests, where a panic is the report"
)]

pub mod attach;
pub mod client;
pub mod cluster;
pub mod console;
pub mod copy;
pub mod emulated;
pub mod forward;
pub mod grpc;
pub mod hpack;
pub mod kept_screen;
pub mod list;
pub mod pair;
pub mod parts;
pub mod pki;
pub mod proxies;
pub mod relay;
pub mod server;
