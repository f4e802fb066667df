//! Upgrades a connection to an upstream: a node behind a gateway, or a container runtime that
//! streams by itself behind a node.

use std::sync::Arc;
use std::time::Duration;

use bowline_proto::limits::REASON_BYTES;
use bowline_proto::negotiate::{Lines, NotUpgraded, Offer};
use bowline_proto::session::Protocol;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use rustls::ClientConfig;
use thiserror::Error;
use url::Position;

use crate::dial::{Demands, DialError, Endpoint, Tls, dial_demanding};
pub use crate::http::Passed;
use crate::http::{HttpError, UpgradeAnswer, explanation, lines, open, open_upgrade, upgrade};
use crate::request_target::head;
use crate::stream::{Stream, Upgraded};
use crate::text::sanitized;
use crate::urls;

/// How long making a connection to an upstream may take.
const DIAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long an upstream may take to answer an upgrade that may have to ask others in that time.
pub const UPGRADE_PATIENCE: Duration = Duration::from_secs(60);

/// An upstream server.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where and how to connect.
    pub endpoint: Endpoint,
    /// What has to be there.
    pub demands: Demands,
    /// The `User-Agent` of the requests.
    pub agent: &'static str,
    /// How long it may take to be connected to, and to answer an upgrade.
    pub patience: Duration,
}

/// The connection to an upstream that took an upgrade.
#[derive(Debug)]
pub struct Switched {
    /// Its 101.
    pub head: Parts,
    /// The connection.
    pub connection: Upgraded,
    /// The protocol that it chose.
    pub protocol: &'static Protocol,
}

/// Why an upstream did not give what it was asked for.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// It could not be connected to.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The request cannot be sent as HTTP.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// It did not answer the request.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It answered with another status.
    #[error(transparent)]
    Refused(#[from] Box<Refused>),
    /// It answered with a 101 that does not fit the request.
    #[error("invalid upgrade response: {0}")]
    NotUpgraded(#[from] NotUpgraded),
}

/// An upstream's answer with another status than 101, or than 200 for a plain request.
#[derive(Debug, Error)]
#[error("the upstream answered {}: {}", head.status, self.text())]
pub struct Refused {
    /// Status and headers.
    pub head: Parts,
    /// The beginning of the body.
    pub body: Bytes,
}

impl Refused {
    /// The explanation in the body, sanitized and bounded; empty if there is none.
    #[must_use]
    pub fn text(&self) -> String {
        sanitized(String::from_utf8_lossy(&self.body).trim(), REASON_BYTES).into_owned()
    }
}

impl Upstream {
    /// Returns the server of a URL, and its path with the query. The scheme is `http` or `https`,
    /// or missing for `http`. `None` for any other URL, or for `https` if `tls` is `None`.
    #[must_use]
    pub fn at(
        url: &str,
        tls: Option<Arc<ClientConfig>>,
        agent: &'static str,
    ) -> Option<(Upstream, String)> {
        // A query may hold a URL of its own.
        let before_query = url.split('?').next().unwrap_or_default();
        let url = match url.strip_prefix("//") {
            Some(rest) => urls::parse(&format!("http://{rest}"))?,
            None if before_query.contains("://") => urls::parse(url)?,
            None => urls::parse(&format!("http://{url}"))?,
        };
        let tls = match url.scheme() {
            "http" => None,
            "https" => Some(Tls { config: tls?, server_name: None }),
            _ => return None,
        };
        let path = url[Position::BeforePath..Position::AfterQuery].to_owned();
        let (endpoint, demands) = (Endpoint::of(&url, tls, None), Demands::default());
        Some((Upstream { endpoint, demands, agent, patience: UPGRADE_PATIENCE }, path))
    }

    /// Connects, and upgrades the connection to what `offer` offers.
    ///
    /// # Errors
    /// [`UpstreamError`] if it cannot be connected to, does not answer with 101, or chooses a
    /// protocol that was not offered.
    pub async fn upgrade(&self, path: &str, offer: &Offer) -> Result<Switched, UpstreamError> {
        let (head, connection) = self.ask(path, offer.method(), &offer.headers()).await?;
        let lines = lines(&head.headers);
        let protocol = offer.check(head.status.as_u16(), Lines(&lines))?;
        Ok(Switched { head, connection, protocol })
    }

    /// Connects, and sends a request for an upgrade with these headers. The caller has to check
    /// whether the 101 fits them.
    ///
    /// # Errors
    /// [`UpstreamError`] if it cannot be connected to or does not answer with 101.
    pub async fn ask(
        &self,
        path: &str,
        method: &str,
        headers: &[(&str, String)],
    ) -> Result<(Parts, Upgraded), UpstreamError> {
        let stream = self.dial().await?;
        switched(stream, self.request(path, method, headers)?, self.patience).await
    }

    /// Connects, and passes on a client's request for an upgrade, whatever it asks for, with its
    /// own headers. The server's 101 is the client's to judge.
    ///
    /// # Errors
    /// [`UpstreamError`] if it cannot be connected to or does not answer with 101.
    pub async fn pass_on(
        &self,
        path: &str,
        method: &str,
        headers: &HeaderMap,
    ) -> Result<(Parts, Upgraded), UpstreamError> {
        let stream = self.dial().await?;
        switched(stream, self.passed_request(path, method, headers)?, self.patience).await
    }

    fn passed_request(
        &self,
        path: &str,
        method: &str,
        headers: &HeaderMap,
    ) -> Result<Request<()>, http::Error> {
        let mut request = self.request(path, method, &[])?;
        let host = request.headers_mut().remove(header::HOST);
        request.headers_mut().clone_from(headers);
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host);
        }
        Ok(request)
    }

    /// Connects, and passes on a client's request for an upgrade as [`Self::pass_on`] does, and
    /// gives whatever is answered: another answer than 101 comes with all of its body.
    ///
    /// # Errors
    /// [`UpstreamError`] if it cannot be connected to or does not answer.
    pub async fn pass_through(
        &self,
        path: &str,
        method: &str,
        headers: &HeaderMap,
    ) -> Result<Passed, UpstreamError> {
        let stream = self.dial().await?;
        let request = self.passed_request(path, method, headers)?;
        Ok(open_upgrade(stream, request, self.patience).await?)
    }

    /// Connects, and sends a plain GET. The answer's body can be read as it comes; `patience` is
    /// for its head.
    ///
    /// # Errors
    /// [`UpstreamError`] if it cannot be connected to or does not answer with 200.
    pub async fn get(
        &self,
        path: &str,
        patience: Duration,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let stream = self.dial().await?;
        let request = self.request(path, "GET", &[])?;
        let answer = open(stream, request, patience).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let (head, body) = answer.into_parts();
        let body = explanation(body).await;
        Err(Box::new(Refused { head, body }).into())
    }

    /// Returns host and port as a `Host` header has them.
    #[must_use]
    pub fn host(&self) -> String {
        let Endpoint { host, port, .. } = &self.endpoint;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    async fn dial(&self) -> Result<Stream, DialError> {
        dial_demanding(&self.endpoint, &self.demands, DIAL_PATIENCE.min(self.patience)).await
    }

    fn request(
        &self,
        path: &str,
        method: &str,
        headers: &[(&str, String)],
    ) -> Result<Request<()>, http::Error> {
        let mut request = head(method, &self.host(), path, ())?;
        let agent = HeaderValue::from_static(self.agent);
        request.headers_mut().insert(header::USER_AGENT, agent);
        for (name, value) in headers {
            let name = HeaderName::try_from(*name)?;
            request.headers_mut().append(name, HeaderValue::try_from(value)?);
        }
        if method == "POST" {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(request)
    }
}

async fn switched(
    stream: Stream,
    request: Request<()>,
    patience: Duration,
) -> Result<(Parts, Upgraded), UpstreamError> {
    match upgrade(stream, request, patience).await? {
        UpgradeAnswer::Refused { head, body } => Err(Box::new(Refused { head, body }).into()),
        UpgradeAnswer::Switched { head, connection } => Ok((head, connection)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_runtimes_are_read() {
        let read = |url: &str| {
            let (upstream, path) = Upstream::at(url, None, "test")?;
            Some((upstream.endpoint.host, upstream.endpoint.port, path))
        };
        let expected = Some(("127.0.0.1".to_owned(), 1234, "/exec/x?a=b".to_owned()));
        for url in ["http://127.0.0.1:1234", "//127.0.0.1:1234", "127.0.0.1:1234"] {
            assert_eq!(read(&format!("{url}/exec/x?a=b")), expected, "{url}");
        }
        let nested = read("127.0.0.1:1234/exec?to=http://x").map(|read| read.2);
        assert_eq!(nested.as_deref(), Some("/exec?to=http://x"));
        assert_eq!(read("http://[::1]/x").map(|read| (read.0, read.1)), Some(("::1".into(), 80)));
        for bad in ["", "/exec/x", "///exec/x", "http:///exec/x", "https://a/x", "unix:///a", " a"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
