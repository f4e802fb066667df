//! One remote command, or an attach: the request, the fallback, the session.

use std::sync::Arc;

use bowline_io::access::Source;
use bowline_io::chance;
pub use bowline_io::observe::Observer;
use bowline_proto::extension::REPLAY;
use bowline_proto::negotiate::Offer;
use bowline_proto::session::{Session, Side, Wants};
use http::{HeaderName, HeaderValue};
use thiserror::Error;

use crate::session::{EndError, Ended, Ends, run};
use crate::upgrade::{Asking, Switched, UpgradeError};

/// A remote command that is asked for, or an attach: the URL says which.
#[derive(Clone)]
pub struct Exec {
    /// Where to connect and as whom, asked for each connection.
    pub access: Arc<dyn Source>,
    /// The whole URL of the subresource, with its query.
    pub url: url::Url,
    /// `User-Agent` and what else is not of `access`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The channels; must be those of the query.
    pub wants: Wants,
    /// Whether WebSocket is tried before SPDY.
    pub websocket: bool,
    /// The URL asks for lines of the log before the live output. Servers that do not know that pass
    /// over it, so the answer must say that it was heard.
    pub replay: bool,
    /// Is told of requests, responses and decisions.
    pub observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers hold credentials.
        f.debug_struct("Exec").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Why there is no outcome.
#[derive(Debug, Error)]
pub enum ExecError {
    /// No session came about.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The server does not give the lines of the log that were asked for.
    #[error("the server cannot replay: it is not Bowline's")]
    NoReplay,
    /// One of the caller's ends failed.
    #[error(transparent)]
    End(#[from] EndError),
}

/// Runs a command to its end.
///
/// # Errors
/// [`ExecError`] if no session came about, or an end of the caller's failed. How a session ended is
/// the [`Ended`], not an error.
pub async fn exec(request: &Exec, ends: Ends) -> Result<Ended, ExecError> {
    let asking = Asking {
        access: &*request.access,
        url: &request.url,
        headers: &request.headers,
        observer: request.observer.as_deref(),
    };
    // No byte of stdin is read before one of the two has its 101.
    let first = request.websocket.then(|| Offer::websocket(chance::bytes()));
    let upgraded = asking.either(first, Offer::spdy(), "RemoteCommand fallback").await;
    let Switched { connection, protocol, headers } = upgraded?;
    if request.replay && !headers.contains_key(REPLAY.answered) {
        return Err(ExecError::NoReplay);
    }
    asking.note(4, &format!("The subprotocol is {}", protocol.name));
    let session = Session::new(Side::Client, protocol, request.wants, chance::bytes());
    Ok(run(connection, session, ends).await?)
}
