//! Kubernetes streaming for programs: remote commands with their true outcome, and connections to a
//! pod's ports, over WebSocket or SPDY.
//!
//! [`exec()`] asks for the upgrade (WebSocket first, SPDY if that is refused) and runs the session
//! between the caller's [`Ends`]. The result is [`Ended::Known`] only if the server said how the
//! command ended; everything else is [`Ended::Lost`] or an error, never success.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests play peers and processes"))]

pub mod copy;
mod exec;
pub mod forward;
pub mod keep;
mod session;
mod upgrade;

pub use bowline_io::access;
pub use bowline_proto::session::{Cause, Loss, Outcome, Size, Wants};
pub use exec::{Exec, ExecError, Observer, exec};
pub use forward::{ForwardRequest, ForwardedStream, PortForward};
pub use session::{EndError, Ended, Ends, run};
pub use upgrade::{Refused, UpgradeError};
