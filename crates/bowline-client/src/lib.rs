//! Kubernetes streaming for programs: one remote command over WebSocket or SPDY, with its true
//! outcome. Above: the `bowline` binary, other tools. Below: `bowline-io`, `bowline-proto`.
//!
//! [`exec()`] asks for the upgrade (WebSocket first, SPDY if that is refused) and runs the session
//! between the caller's [`Ends`]. The result is [`Ended::Known`] only if the server said how the
//! command ended; everything else is [`Ended::Lost`] or an error, never success.

mod exec;
mod session;

pub use bowline_proto::session::{Cause, Loss, Outcome, Size, Wants};
pub use exec::{Exec, ExecError, Observer, Refused, exec};
pub use session::{EndError, Ended, Ends, run};
