//! The answers to all requests that are no streams.

use std::fmt::Debug;

use bowline_io::serve::{Reply, Sessions};
use http::Request;
use hyper::body::Incoming;

use crate::components::{Answer, Caller};
use crate::route::Route;

/// What is known of the way from the client to here. It is one of a request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NearLeg {
    /// Whether the client's connection is in TLS.
    pub is_tls: bool,
    /// What was taken off the front of the client's path.
    pub prefix: String,
}

/// Answers everything that is no stream of a pod: objects, discovery, and paths that the gateway
/// does not know.
pub trait Rest: Debug + Send + Sync {
    /// Whether this is a whole API server, which authorizes its requests itself, and has logs,
    /// health and paths that are not clean as well. Then only streams of pods do not come here.
    fn is_whole(&self) -> bool {
        false
    }

    /// Answers a request that was authorized, whatever its method is. `route` is what its path was
    /// read as, and the path is clean. The headers that say who asks are taken out. A long answer
    /// takes a place in `sessions`; an upgraded connection is spawned on them.
    ///
    /// The body never comes: [`serve`](bowline_io::serve) reads the heads of requests, and nothing
    /// behind them until they are answered.
    ///
    /// # Errors
    /// The refusal to answer with, if the request is refused. It is logged.
    fn answer<'a>(
        &'a self,
        caller: &'a Caller,
        route: &'a Route,
        request: Request<Incoming>,
        sessions: &'a Sessions,
    ) -> Answer<'a, Reply>;
}
