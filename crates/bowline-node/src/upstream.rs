//! A runtime's own server to an upgraded connection, or to its refusal.

use bowline_io::text::sanitized;
use bowline_io::upstream::{Switched, Upstream as Server, UpstreamError};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::Offer;

use crate::runtime::{Refusal, Upstream};

/// The `User-Agent` for the runtime's server.
const AGENT: &str = concat!("bowline-node/", env!("CARGO_PKG_VERSION"));

/// Upgrades a connection to the runtime's server to what `offer` offers. The runtime is told of a
/// loss from when it is asked: something may have begun there, whatever its answer was.
///
/// # Errors
/// The server's refusal, with its code and text, or 500 and why it could not be asked.
pub(crate) async fn upgrade(
    upstream: Upstream,
    offer: Offer,
) -> Result<(Switched, OnLost), Refusal> {
    let Upstream { url, tls, on_lost, .. } = upstream;
    let at = Server::at(&url, tls, AGENT);
    let Some((server, path)) = at else {
        return Err(Refusal::new(500, "the runtime's URL for the stream cannot be used"));
    };
    let on_lost = OnLost(on_lost);
    match server.upgrade(&path, &offer).await {
        Ok(far) => Ok((far, on_lost)),
        Err(error) => {
            on_lost.finish(is_before_anything(&error));
            Err(refusal(error))
        }
    }
}

/// Whether nothing can have begun there.
fn is_before_anything(error: &UpstreamError) -> bool {
    use UpstreamError::{Dial, Refused, Request};
    matches!(error, Dial(_) | Refused(_) | Request(_))
}

fn refusal(error: UpstreamError) -> Refusal {
    let cause = sanitized(&error.to_string(), REASON_BYTES).into_owned();
    let (code, text) = match &error {
        UpstreamError::Refused(said) => {
            let (status, text) = (said.head.status, said.text());
            let is_failure = status.is_client_error() || status.is_server_error();
            match status.as_u16() {
                code if is_failure && text.is_empty() => (code, status.to_string()),
                code if is_failure => (code, text),
                // Redirects among them: a stream goes nowhere else.
                code => (500, format!("invalid upgrade response: status code {code}")),
            }
        }
        UpstreamError::NotUpgraded(_) => (500, cause.clone()),
        _ => (500, format!("error dialing backend: {cause}")),
    };
    Refusal { cause, ..Refusal::new(code, text) }
}

/// Tells a runtime that a session was lost: when it is dropped, unless an outcome was seen before.
pub(crate) struct OnLost(Option<Box<dyn FnOnce() + Send>>);

impl OnLost {
    /// Ends the watch for a loss: nothing is told if `is_settled`, because the session has an
    /// outcome, or did not begin.
    pub(crate) fn finish(mut self, is_settled: bool) {
        if is_settled {
            self.0 = None;
        }
    }
}

impl Drop for OnLost {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell();
        }
    }
}
