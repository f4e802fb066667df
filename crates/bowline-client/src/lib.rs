//! Kubernetes streaming for programs: remote commands with their true outcome, copies, and
//! connections to a pod's ports, over WebSocket or SPDY.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "kube")] {
//! let client = bowline_client::Client::try_default().await?;
//! let output = client.exec("nginx", ["ls", "-l"]).output().await?;
//! println!("{:?}: {}", output.status, String::from_utf8_lossy(&output.stdout));
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] makes [commands](Client::exec), [attaches](Client::attach) and
//! [port-forwards](Client::port_forward); each is configured by its methods and then run. WebSocket
//! is tried first, SPDY if that is refused.
//!
//! A command's [`Outcome`], exit code included, is reported only if the server sent it. Everything
//! else is [`Error::Lost`] or another error, never success: the command may have ended in any way,
//! or still run.
//!
//! # Features
//!
//! `kube` has `Client::try_default`, and `copy` has the module of that name; both are on by
//! default. A program that only runs commands, with [credentials](access) of its own, needs
//! neither. TLS uses `aws-lc-rs` by default, and *ring* with the feature `ring`; without default
//! features one of the two must be named:
//!
//! ```toml
//! bowline-client = { version = "0.1", default-features = false, features = ["aws-lc-rs"] }
//! ```
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]
#![warn(unnameable_types, unreachable_pub)]

pub mod access;
mod child;
mod client;
mod command;
#[cfg(feature = "copy")]
pub mod copy;
mod error;
pub mod forward;
pub mod kept;
#[cfg(feature = "kube")]
mod kube;
pub mod reconnect;
mod request;
mod session;
mod upgrade;
mod write_fn;

/// Compiles the README's example.
#[cfg(all(doctest, feature = "kube"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use bowline_io::dial::DialError;
pub use bowline_io::http::HttpError;
pub use bowline_io::observe::Observer;
pub use bowline_io::record;
pub use bowline_proto::negotiate::NotUpgraded;
pub use bowline_proto::session::{Cause, Loss, Outcome, Size};
pub use child::{Child, ChildStderr, ChildStdin, ChildStdout};
pub use client::Client;
pub use command::{Output, RemoteCommand};
pub use error::Error;
pub use forward::{ForwardRequest, ForwardedStream, PortForward};
#[cfg(feature = "kube")]
pub use kube::ConfigureError;
pub use session::{EndError, Ended, Ends, run};
pub use upgrade::{Refused, UpgradeError};
