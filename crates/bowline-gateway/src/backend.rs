//! What streams go to: a pod's name to what is behind it, and that to a connection.
//!
//! It is found first and dialled later: the client's handshake is judged in between, so that one
//! that is refused costs a node nothing.

use std::fmt::Debug;

use bowline_io::serve::Body;
use bowline_io::stream::Upgraded;
use bowline_proto::session::Protocol;
use http::{HeaderMap, Method};

use crate::doors::{Answer, Caller};
use crate::options::{ExecOptions, ForwardOptions, LogOptions, Verb};

/// What a stream is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The container that was asked for: empty for the only one, `None` where the whole pod is
    /// meant.
    pub container: Option<&'a str>,
}

/// The far leg: a connection that was upgraded there.
#[derive(Debug)]
pub struct Far {
    /// The headers of the 101.
    pub headers: HeaderMap,
    /// The connection.
    pub connection: Upgraded,
}

/// Finds what streams go to.
pub trait Backend: Debug + Send + Sync {
    /// Finds it. Nothing is dialled, and nothing that a client could notice is done.
    ///
    /// # Errors
    /// The refusal to answer with: it is not there, or cannot be found out.
    fn find<'a>(
        &'a self,
        caller: &'a Caller,
        target: Target<'a>,
    ) -> Answer<'a, Box<dyn Destination>>;
}

/// A target that was found. Each of its methods dials; what is refused behind it is the refusal to
/// answer with, in its own code and words.
pub trait Destination: Send + Sync {
    /// The container that is meant; empty where the whole pod is.
    fn container(&self) -> &str;

    /// Whether a port-forward's tunnel may be passed on as it is.
    fn takes_tunnels(&self) -> bool;

    /// Opens a remote command, in the protocol that the backend would rather speak.
    ///
    /// # Errors
    /// What was refused, or why nothing was reached.
    fn command<'a>(
        &'a self,
        verb: Verb,
        options: &'a ExecOptions,
    ) -> Answer<'a, (Far, &'static Protocol)>;

    /// Opens a port-forward over SPDY.
    ///
    /// # Errors
    /// What was refused, or why nothing was reached.
    fn port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
    ) -> Answer<'a, (Far, &'static Protocol)>;

    /// Opens a port-forward in a client's own words. Whether the answer fits them is for the caller
    /// to see.
    ///
    /// # Errors
    /// What was refused, or why nothing was reached.
    fn pass_port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
        method: &'a Method,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, Far>;

    /// Reads a log, as it comes. A body that fails was cut off.
    ///
    /// # Errors
    /// What was refused, or why nothing was reached.
    fn log<'a>(&'a self, options: &'a LogOptions) -> Answer<'a, Body>;
}
