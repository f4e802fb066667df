//! What streams go to: a pod's name to what is behind it, and that to a connection.
//!
//! It is found first and dialled later: the client's handshake is judged in between, so that one
//! that is refused costs a node nothing.

use std::fmt::Debug;
use std::future::{Future, ready};
use std::pin::Pin;

use bowline_io::serve::Body;
use bowline_io::stream::Upgraded;
use bowline_proto::session::Protocol;
use bowline_proto::session::protocol::Carrier;
use http::{HeaderMap, Method};

use crate::components::{Answer, Caller};
use crate::kept::not_kept;
use crate::options::{ExecOptions, ForwardOptions, LogOptions, Verb};

/// What a stream is to reach.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod.
    pub pod: &'a str,
    /// The name of the container: empty for the only one, `None` where the whole pod is meant.
    pub container: Option<&'a str>,
    /// The method of the request, by which an API server tells the verb.
    pub method: &'a Method,
    /// The query of the request, as it came.
    pub query: &'a str,
    /// The headers of the request, without those that say who asks.
    pub headers: &'a HeaderMap,
}

/// The far leg of a stream: an upgraded connection to its destination.
#[derive(Debug)]
pub struct FarLeg {
    /// The headers of the destination's 101.
    pub headers: HeaderMap,
    /// The connection.
    pub connection: Upgraded,
}

/// Whether something is ready, once that is found out.
pub type Ready<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Finds what streams go to.
pub trait Backend: Debug + Send + Sync {
    /// Finds out whether destinations can be found now, as far as that can be known without
    /// looking for one.
    fn is_ready(&self) -> Ready<'_> {
        Box::pin(ready(true))
    }

    /// Finds the destination of a stream. Dials nothing, and does nothing that a client could
    /// notice.
    ///
    /// # Errors
    /// The refusal to answer with, if there is no such target or that cannot be found out.
    fn find<'a>(
        &'a self,
        caller: &'a Caller,
        target: Target<'a>,
    ) -> Answer<'a, Box<dyn Destination>>;
}

/// A target that was found. Each method that opens something dials; what the destination refuses is
/// the refusal to answer with, in its own code and words.
pub trait Destination: Send + Sync {
    /// Returns the container that is meant; empty where the whole pod is.
    fn container(&self) -> &str;

    /// Returns what is between this gateway and what it dials, for clients whose session is lost
    /// there.
    fn hop(&self) -> &'static str {
        "gateway to node"
    }

    /// Returns the carriers for a port-forward whose client speaks `near`, best first and at least
    /// one: WebSocket is the tunnel. After a refusal that [falls
    /// back](crate::status::Refusal::falls_back) the next one is tried.
    fn forward_carriers(&self, near: Carrier) -> &'static [Carrier];

    /// Hears which carrier a port-forward came about over.
    fn took(&self, _carrier: Carrier) {}

    /// Opens a remote command, in the protocol that the destination prefers.
    ///
    /// # Errors
    /// The refusal to answer with, if the destination refuses or cannot be reached.
    fn command<'a>(
        &'a self,
        verb: Verb,
        options: &'a ExecOptions,
    ) -> Answer<'a, (FarLeg, &'static Protocol)>;

    /// Opens a port-forward over SPDY, or over SPDY in a tunnel.
    ///
    /// # Errors
    /// The refusal to answer with, if the destination refuses or cannot be reached.
    fn port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
        carrier: Carrier,
    ) -> Answer<'a, (FarLeg, &'static Protocol)>;

    /// Opens a port-forward with the method and the headers of a client's own request. The caller
    /// checks that the answer fits them.
    ///
    /// # Errors
    /// The refusal to answer with, if the destination refuses or cannot be reached.
    fn pass_port_forward<'a>(
        &'a self,
        options: &'a ForwardOptions,
        method: &'a Method,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg>;

    /// Opens a connection of a kept session with the headers of a client's own request. The caller
    /// checks that the answer fits them. Default: refuses, as servers do that do not know it.
    ///
    /// # Errors
    /// The refusal to answer with, if the destination refuses or cannot be reached.
    fn pass_kept<'a>(
        &'a self,
        options: &'a ExecOptions,
        headers: &'a [(&'static str, String)],
    ) -> Answer<'a, FarLeg> {
        let _ = (options, headers);
        Box::pin(async { Err(not_kept("the destination has none")) })
    }

    /// Reads a log as it is written. A body that ends with an error was cut off.
    ///
    /// # Errors
    /// The refusal to answer with, if the destination refuses or cannot be reached.
    fn log<'a>(&'a self, options: &'a LogOptions) -> Answer<'a, Body>;
}
