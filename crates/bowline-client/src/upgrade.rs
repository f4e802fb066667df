//! A request to an upgraded connection, over the preferred carrier or its fallback.

use std::time::Duration;

use bowline_io::access::{Access, AccessError};
use bowline_io::dial::{DialError, dial};
use bowline_io::http::{HttpError, UpgradeAnswer, head as http_head, lines, upgrade};
use bowline_io::observe::Observer;
use bowline_io::record::Denied;
use bowline_io::stream::Upgraded;
use bowline_io::text::{redacted, sanitized};
use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{Lines, NotUpgraded, Offer};
use bowline_proto::session::Protocol;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use thiserror::Error;
use tokio::time::Instant;

use crate::client::Client;

/// How long a server may take to answer an upgrade. Admission webhooks may take 30 s of it.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// Why a connection was not upgraded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// One of the client's [admissions](crate::Client::admission) has refused the session.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There are no usable credentials.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The server or a proxy before it was not reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server was reached and did not answer in HTTP, or not in time.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server answered with another status than 101.
    #[error("unable to upgrade connection: {0}")]
    Refused(Refused),
    /// The server answered with 101 and headers that do not fit the request.
    #[error("unable to upgrade connection: {0}")]
    NotUpgraded(#[source] NotUpgraded),
    /// The server redirects to this URL. It is not followed, since credentials would go there.
    #[error("the server redirects the stream to {0}, which is not followed")]
    Redirected(String),
    /// A header or the URL is not valid in HTTP.
    #[error("the request cannot be built: {0}")]
    Request(#[from] http::Error),
}

impl UpgradeError {
    /// Whether another carrier may succeed.
    fn falls_back(&self) -> bool {
        match self {
            UpgradeError::Refused(_)
            | UpgradeError::NotUpgraded(_)
            | UpgradeError::Redirected(_) => true,
            // A middlebox may drop a request that it does not know.
            UpgradeError::Http(error) => error.is_cut(),
            _ => false,
        }
    }

    /// Whether other credentials may succeed.
    fn is_unauthorized(&self) -> bool {
        matches!(self, UpgradeError::Refused(Refused { code: 401, .. }))
    }
}

/// A server's refusal of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status code.
    pub code: u16,
    /// The reason of the Status, such as `Forbidden`; empty if there was no Status.
    pub reason: String,
    /// The message of the Status, or else the body's text; sanitized and bounded.
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.message.is_empty() { "empty server response" } else { &self.message })
    }
}

/// An upgraded connection.
pub(crate) struct Switched {
    pub connection: Upgraded,
    /// The protocol that was agreed on.
    pub protocol: &'static Protocol,
    /// The headers of the 101.
    pub headers: HeaderMap,
}

/// A request for an upgrade.
pub(crate) struct UpgradeRequest<'a> {
    pub client: &'a Client,
    pub url: &'a url::Url,
}

impl UpgradeRequest<'_> {
    /// Requests `first`, and `second` if another carrier may succeed. `what` names the fallback to
    /// the observer.
    pub(crate) async fn with_fallback(
        &self,
        first: Option<Offer>,
        second: Offer,
        what: &str,
    ) -> Result<Switched, UpgradeError> {
        let mut may_renew = true;
        if let Some(first) = first {
            match self.with_renewal(&first, true).await {
                Err(error) if error.falls_back() => {
                    self.note(4, &format!("{what}: {error}"));
                    may_renew = !error.is_unauthorized();
                }
                result => return result,
            }
        }
        self.with_renewal(&second, may_renew).await
    }

    /// Requests `offer`, and nothing else.
    pub(crate) async fn alone(&self, offer: &Offer) -> Result<Switched, UpgradeError> {
        self.with_renewal(offer, true).await
    }

    /// Requests `offer`, and once more with renewed credentials after a 401.
    async fn with_renewal(&self, offer: &Offer, may_renew: bool) -> Result<Switched, UpgradeError> {
        let access = self.client.access.access().await?;
        let refused = match self.attempt(offer, &access).await {
            Err(error) if error.is_unauthorized() && may_renew => error,
            result => return result,
        };
        match self.client.access.renew(&access).await {
            Ok(true) => self.attempt(offer, &self.client.access.access().await?).await,
            Ok(false) => Err(refused),
            Err(error) => {
                self.note(0, &format!("refreshing credentials: {error}"));
                Err(refused)
            }
        }
    }

    fn observe(&self, tell: impl FnOnce(&dyn Observer)) {
        if let Some(observer) = &self.client.observer {
            tell(&**observer);
        }
    }

    pub(crate) fn note(&self, level: u8, text: &str) {
        self.observe(|observer| observer.note(level, text));
    }

    async fn attempt(&self, offer: &Offer, access: &Access) -> Result<Switched, UpgradeError> {
        let head = self.head(offer, access)?;
        self.observe(|observer| {
            observer.request(offer.method(), self.url.as_str(), head.headers());
        });
        let begun = Instant::now();
        let stream = dial(&access.endpoint, self.client.connect_timeout).await?;
        let answer = upgrade(stream, head, UPGRADE_PATIENCE).await?;
        let response = match &answer {
            UpgradeAnswer::Switched { head, .. } | UpgradeAnswer::Refused { head, .. } => head,
        };
        self.observe(|observer| {
            let (method, url) = (offer.method(), self.url.as_str());
            observer.response(method, url, response.status, &response.headers, begun.elapsed());
            if let UpgradeAnswer::Refused { body, .. } = &answer {
                observer.body(body);
            }
        });
        match answer {
            UpgradeAnswer::Refused { head, body } => Err(refused(&head, &body)),
            UpgradeAnswer::Switched { head, connection } => {
                let lines = lines(&head.headers);
                let protocol = offer
                    .check(head.status.as_u16(), Lines(&lines))
                    .map_err(UpgradeError::NotUpgraded)?;
                Ok(Switched { connection, protocol, headers: head.headers })
            }
        }
    }

    fn head(&self, offer: &Offer, access: &Access) -> Result<Request<()>, http::Error> {
        let mut head = http_head(offer.method(), self.url, ())?;
        let headers = head.headers_mut();
        for (name, value) in self.client.headers.iter().chain(&access.headers) {
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
}

/// The parts of a Status that a [`Refused`] is made of.
#[derive(serde::Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

fn refused(head: &http::response::Parts, body: &[u8]) -> UpgradeError {
    if head.status.is_redirection() {
        let to = head.headers.get(http::header::LOCATION).and_then(|to| to.to_str().ok());
        return UpgradeError::Redirected(
            sanitized(&redacted(to.unwrap_or("nowhere")), REASON_BYTES).into(),
        );
    }
    let text = String::from_utf8_lossy(body);
    let status = serde_json::from_slice::<Status>(body).ok().filter(|s| !s.message.is_empty());
    let (reason, message) = match status {
        Some(status) => (status.reason, status.message),
        None => (String::new(), text.trim().to_owned()),
    };
    UpgradeError::Refused(Refused {
        code: head.status.as_u16(),
        reason: sanitized(&reason, 64).into(),
        message: sanitized(&message, REASON_BYTES).into(),
    })
}
