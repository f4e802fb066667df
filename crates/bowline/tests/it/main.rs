//! The product from outside: real processes, TLS, ptys. One binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]

mod bad_server;
mod credentials;
mod ends;
mod hostile;
mod killed;
mod library;
mod refusals;
mod sessions;
mod walk;

use std::path::Path;

use bowline_interop::client::Client;
use bowline_interop::server::Server;

/// The program under test.
fn bowline() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bowline"))
}

/// It as a client of a cluster that `dev` is.
fn client(dev: &Server) -> Client {
    Client::new("bowline", bowline(), &dev.kubeconfig(), &["nginx"])
}
