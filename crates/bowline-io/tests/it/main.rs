//! TLS and HTTP over real sockets, with servers that are good and servers that are not. One binary
//! for all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, helpers included, a panic is the report"
)]
#![allow(clippy::disallowed_methods, reason = "tests play peers and start programs")]

mod admissions;
mod bounds;
mod certificates;
mod changes;
mod demands;
mod expiry;
mod informational;
mod join;
mod pool;
mod pool_faults;
mod pool_server;
mod proxies;
mod refused_clients;
