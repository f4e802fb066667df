//! Sockets to machines: TLS, dialling, HTTP upgrades, listeners, and the one read/write loop.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]

pub mod access;
pub mod auth;
pub mod chance;
pub mod clock;
pub mod crowd;
pub mod descriptors;
pub mod dial;
pub mod drive;
pub mod forward;
pub mod http;
pub mod local;
pub mod lookout;
pub mod objects;
pub mod observe;
pub mod pace;
pub mod paced;
pub mod proxy;
pub mod read_ahead;
pub mod record;
pub mod serve;
pub mod shutdown;
pub mod stdio;
pub mod stream;
pub mod target;
pub mod text;
pub mod tls;
pub mod upstream;
pub mod urls;
