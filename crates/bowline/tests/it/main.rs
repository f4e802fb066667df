//! The product from outside: real processes, TLS, ptys. One binary for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers and start programs")]

mod admitted;
mod attach;
mod bad_server;
mod copy;
mod credentials;
mod crowded;
mod ends;
mod examples;
mod gateway_anew;
mod gateway_config;
mod harmless;
mod hostile;
mod hostile_forward;
mod hostile_server;
mod hostile_spdy;
mod kept;
mod kept_answer;
mod kept_client;
mod kept_copy;
mod kept_left;
mod kept_screen;
mod killed;
mod library;
mod port_forward;
mod raw;
mod refusals;
mod requests;
mod sessions;
mod walk;
mod who;

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

/// The children of all of a process's threads.
fn children(id: i32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let lists = threads.map(|thread| {
        std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default()
    });
    lists.flat_map(|list| list.split(' ').flat_map(str::parse).collect::<Vec<_>>()).collect()
}
