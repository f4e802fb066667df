//! Sockets to machines: TLS, dialling, HTTP upgrades, listeners, and the one read/write loop.
//!
//! Published because `bowline-client` and `bowline-node` are built on it; not meant to be used by
//! itself.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]
#![warn(unnameable_types, unreachable_pub)]

pub mod access;
pub mod addresses;
#[cfg(feature = "server")]
pub mod auth;
pub mod clock;
pub mod coalesced;
pub mod coalescing;
#[cfg(feature = "server")]
pub mod descriptors;
pub mod dial;
pub mod drive;
pub mod forward;
pub mod http;
pub mod liveness;
#[cfg(feature = "server")]
pub mod local;
pub mod local_sockets;
#[cfg(feature = "manifests")]
pub mod objects;
pub mod observe;
#[cfg(feature = "pool")]
pub mod pool;
pub mod proxy;
pub mod random;
pub mod read_ahead;
pub mod record;
pub mod request_target;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod shutdown;
pub mod stdio;
pub mod stream;
pub mod text;
pub mod tls;
#[cfg(feature = "server")]
pub mod upstream;
pub mod urls;

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("TLS needs somebody who does its arithmetic: the feature `aws-lc-rs`, or `ring`");
