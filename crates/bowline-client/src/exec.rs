//! One remote command: the request, the fallback, the session.
//! Above: the binary. Below: [`session`](crate::session), `bowline_io::{dial, http}`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bowline_io::chance;
use bowline_io::dial::{DialError, Endpoint, dial};
use bowline_io::http::{Answer, HttpError, head as http_head, lines, upgrade};
pub use bowline_io::observe::Observer;
use bowline_io::text::harmless;
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{Lines, NotUpgraded, Offer};
use bowline_proto::session::{Session, Side, Wants};
use http::{HeaderName, HeaderValue, Request};
use thiserror::Error;

use crate::session::{EndError, Ended, Ends, run};

/// How long a server may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to answer the upgrade. Admission webhooks may take 30 s of it.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// A remote command that is asked for.
#[derive(Clone)]
pub struct Exec {
    /// Where to connect.
    pub endpoint: Endpoint,
    /// The whole URL of the subresource, with its query.
    pub url: url::Url,
    /// Credentials, `User-Agent`, impersonation. They go to `endpoint` and nowhere else.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The channels; must be those of the query.
    pub wants: Wants,
    /// Whether WebSocket is tried before SPDY.
    pub websocket: bool,
    /// Is told of requests, responses and decisions.
    pub observer: Option<Arc<dyn Observer>>,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The headers hold credentials.
        f.debug_struct("Exec").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// Why no session came about.
#[derive(Debug, Error)]
pub enum ExecError {
    /// Nothing was reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server was reached and did not speak HTTP to the end.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server answered with something else than the upgrade.
    #[error("unable to upgrade connection: {0}")]
    Refused(Refused),
    /// The server said yes and its words do not fit.
    #[error("unable to upgrade connection: {0}")]
    NotUpgraded(NotUpgraded),
    /// The server wants the stream to go elsewhere, credentials and all.
    #[error("the server redirects the stream to {0}, which is not followed")]
    Redirected(String),
    /// A header or the URL cannot be sent.
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
    /// One of the caller's ends failed.
    #[error(transparent)]
    End(#[from] EndError),
}

/// A refusal, as far as the server explained it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status code.
    pub code: u16,
    /// The Status' reason, such as `Forbidden`; empty if there was no Status.
    pub reason: String,
    /// The Status' message or the body's text; harmless and bounded.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.message.is_empty() { "empty server response" } else { &self.message })
    }
}

/// Runs a command to its end.
///
/// # Errors
/// [`ExecError`] if no session came about, or an end of the caller's failed. How a session ended is
/// the [`Ended`], not an error.
pub async fn exec(request: &Exec, ends: Ends) -> Result<Ended, ExecError> {
    if request.websocket {
        match attempt(request, &Offer::websocket(chance::bytes())).await {
            Ok(session) => return session.run(ends).await,
            Err(error) if error.falls_back() => {
                request.note(4, &format!("RemoteCommand fallback: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    attempt(request, &Offer::spdy()).await?.run(ends).await
}

impl ExecError {
    /// Whether another carrier may do better. No byte of stdin was read before.
    fn falls_back(&self) -> bool {
        match self {
            ExecError::Refused(_) | ExecError::NotUpgraded(_) | ExecError::Redirected(_) => true,
            // A box that drops what it does not know, before any answer.
            ExecError::Http(error) => error.is_cut(),
            _ => false,
        }
    }
}

struct Upgraded {
    connection: bowline_io::stream::Upgraded,
    session: Session,
}

impl Upgraded {
    async fn run(self, ends: Ends) -> Result<Ended, ExecError> {
        let Upgraded { connection, session } = self;
        Ok(run(connection.stream, connection.early, session, ends).await?)
    }
}

async fn attempt(request: &Exec, offer: &Offer) -> Result<Upgraded, ExecError> {
    let head = head(request, offer)?;
    request.observe(|observer| {
        observer.request(offer.method(), request.url.as_str(), head.headers());
    });
    let begun = Instant::now();
    let stream = dial(&request.endpoint, DIAL_PATIENCE).await?;
    let answer = upgrade(stream, head, UPGRADE_PATIENCE).await?;
    let response = match &answer {
        Answer::Switched { head, .. } | Answer::Refused { head, .. } => head,
    };
    request.observe(|observer| {
        let (method, url) = (offer.method(), request.url.as_str());
        observer.response(method, url, response.status, &response.headers, begun.elapsed());
        if let Answer::Refused { body, .. } = &answer {
            observer.body(body);
        }
    });
    match answer {
        Answer::Refused { head, body } => Err(refused(&head, &body)),
        Answer::Switched { head, connection } => {
            let lines = lines(&head.headers);
            let protocol =
                offer.check(head.status.as_u16(), Lines(&lines)).map_err(ExecError::NotUpgraded)?;
            request.note(4, &format!("The subprotocol is {}", protocol.name));
            let session = Session::new(Side::Client, protocol, request.wants, chance::bytes());
            Ok(Upgraded { connection, session })
        }
    }
}

fn head(request: &Exec, offer: &Offer) -> Result<Request<()>, http::Error> {
    let mut head = http_head(offer.method(), &request.url, ())?;
    let headers = head.headers_mut();
    for (name, value) in &request.headers {
        headers.append(name, value.clone());
    }
    for (name, value) in offer.headers() {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    if offer.method() == "POST" {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(head)
}

/// The parts of a Status that a refusal is made of.
#[derive(serde::Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

fn refused(head: &http::response::Parts, body: &[u8]) -> ExecError {
    if head.status.is_redirection() {
        let to = head.headers.get(http::header::LOCATION).and_then(|to| to.to_str().ok());
        return ExecError::Redirected(harmless(to.unwrap_or("nowhere"), REASON_BYTES).into());
    }
    let text = String::from_utf8_lossy(body);
    let status = serde_json::from_slice::<Status>(body).ok().filter(|s| !s.message.is_empty());
    let (reason, message) = match status {
        Some(status) => (status.reason, status.message),
        None => (String::new(), text.trim().to_owned()),
    };
    ExecError::Refused(Refused {
        code: head.status.as_u16(),
        reason: harmless(&reason, 64).into(),
        message: harmless(&message, REASON_BYTES).into(),
    })
}

impl Exec {
    fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.observer {
            tell(&**observer);
        }
    }

    fn note(&self, level: u8, text: &str) {
        self.observe(|observer| observer.note(level, text));
    }
}
