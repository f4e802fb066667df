//! A runtime's own server to an upgraded connection, or to its refusal.

use std::time::Duration;

use bowline_io::record::End;
use bowline_io::stream::Upgraded;
use bowline_io::text::sanitized;
use bowline_io::upstream::{Refused, Switched, Upstream as Server, UpstreamError};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::Offer;
use http::response::Parts;
use http::{HeaderMap, Method};

use crate::runtime::{OnLost, Refusal, Upstream};

/// How long the runtime's server may take to answer. It has little to ask for: all was asked when
/// it made the URL.
const PATIENCE: Duration = Duration::from_secs(15);
/// The `User-Agent` for the runtime's server.
pub(crate) const AGENT: &str = concat!("bowline-node/", env!("CARGO_PKG_VERSION"));

/// Upgrades a connection to the runtime's server to what `offer` offers. The runtime is told of a
/// loss from when it is asked: something may have begun there, whatever its answer was.
///
/// # Errors
/// The server's refusal, with its code and text, or 500 and why it could not be asked.
pub(crate) async fn upgrade(
    upstream: Upstream,
    offer: Offer,
) -> Result<(Switched, Watch), Refusal> {
    let Asked { server, path, name, watch } = ask(upstream)?;
    match server.upgrade(&path, &offer).await {
        Ok(far) => Ok((far, watch)),
        Err(error) => Err(failed(error, name, watch)),
    }
}

/// The 101 of a runtime's server and its connection, or its other answer.
pub(crate) type Passed = Result<(Parts, Upgraded), Box<Refused>>;

/// Passes a client's request on to the runtime's server, with the client's own headers.
///
/// # Errors
/// 500 and why the server could not be asked.
pub(crate) async fn pass_on(
    upstream: Upstream,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Passed, Watch), Refusal> {
    let Asked { server, path, name, watch } = ask(upstream)?;
    match server.pass_on(&path, method.as_str(), headers).await {
        Ok(switched) => Ok((Ok(switched), watch)),
        Err(UpstreamError::Refused(refused)) => Ok((Err(refused), watch)),
        Err(error) => Err(failed(error, name, watch)),
    }
}

/// A runtime's server that is about to be asked.
struct Asked {
    server: Server,
    path: String,
    /// What the runtime is called.
    name: Option<String>,
    watch: Watch,
}

fn ask(upstream: Upstream) -> Result<Asked, Refusal> {
    let Upstream { url, name, tls, on_lost, .. } = upstream;
    let Some((server, path)) = Server::at(&url, tls, AGENT) else {
        return Err(Refusal::new(500, "the runtime's URL for the stream cannot be used"));
    };
    let server = Server { patience: PATIENCE, ..server };
    Ok(Asked { server, path, name, watch: Watch(on_lost) })
}

fn failed(error: UpstreamError, name: Option<String>, watch: Watch) -> Refusal {
    if is_before_anything(&error) {
        watch.finish_unbegun();
    }
    refusal(error, name)
}

/// Whether nothing can have begun there.
fn is_before_anything(error: &UpstreamError) -> bool {
    use UpstreamError as E;
    matches!(error, E::Dial(_) | E::Refused(_) | E::Request(_))
}

fn refusal(error: UpstreamError, name: Option<String>) -> Refusal {
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
        _ => {
            let name = name.map(|name| name + ": ").unwrap_or_default();
            (500, format!("error dialing backend: {name}{cause}"))
        }
    };
    Refusal { cause, ..Refusal::new(code, text) }
}

/// Tells a runtime that a session was lost: when it is dropped, unless it was finished before.
pub(crate) struct Watch(Option<OnLost>);

impl Watch {
    /// Ends the watch: the runtime is told, unless the session has an outcome, or is over by its
    /// own ends.
    pub(crate) fn finish(mut self, end: &End) {
        let tell = self.0.take().filter(|_| !matches!(end, End::Outcome(_) | End::Over));
        if let Some(tell) = tell {
            tell(Some(end));
        }
    }

    /// Ends the watch: nothing has begun, and nothing is told.
    pub(crate) fn finish_unbegun(mut self) {
        self.0 = None;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(None);
        }
    }
}
