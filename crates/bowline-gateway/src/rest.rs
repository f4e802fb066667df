//! What answers requests that are no streams.

use std::fmt::Debug;

use bowline_io::serve::{Reply, Sessions};
use http::Request;
use hyper::body::Incoming;

use crate::doors::{Answer, Caller};
use crate::route::Route;

/// Answers everything that is no stream of a pod: objects, discovery, and paths that only it may
/// know.
pub trait Rest: Debug + Send + Sync {
    /// Answers a request that its caller may make, whatever its method is. `route` is what its path
    /// was read as, and the path is clean. The headers that say who asks are taken out. An answer
    /// that lasts takes a place in `sessions`; a connection that is upgraded is spawned on them.
    ///
    /// The body never comes: [`serve`](bowline_io::serve) gives the heads of requests, and nothing
    /// behind them until they are answered.
    ///
    /// # Errors
    /// The refusal to answer with, which is logged.
    fn answer<'a>(
        &'a self,
        caller: &'a Caller,
        route: &'a Route,
        request: Request<Incoming>,
        sessions: &'a Sessions,
    ) -> Answer<'a, Reply>;
}
